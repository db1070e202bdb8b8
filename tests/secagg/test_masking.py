"""The key stream's known answers, chunks at their own offset, masks that cancel and look uniform."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cotune.secagg import masking
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

pytestmark = pytest.mark.usefixtures("loops")

# NIST SP 800-38A, F.5.5 CTR-AES256.Encrypt.
NIST_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
NIST_COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
NIST_PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
NIST_CIPHER = bytes.fromhex(
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)
# McGrew and Viega, "The Galois/Counter Mode of Operation", test case 14: zero key, zero nonce, one zero block.
GCM_CIPHER = bytes.fromhex("cea7403d4d606b6e074ec5d3baf39d18")


def counter_mode(seed: bytes, chunk: int, size: int) -> bytes:
    """Reference: plain AES-256-CTR from the counter block (chunk, 2)."""
    counter = chunk.to_bytes(12, "big") + (2).to_bytes(4, "big")
    return Cipher(AES(seed), CTR(counter)).encryptor().update(bytes(size))


def test_the_cipher_is_that_of_nist() -> None:
    assert Cipher(AES(NIST_KEY), CTR(NIST_COUNTER)).encryptor().update(NIST_PLAIN) == NIST_CIPHER


def test_known_answer_of_the_mask_itself() -> None:
    words = np.zeros(2, dtype="<u8")
    masking.apply(words, [(bytes(32), 1)])
    assert words.tobytes() == GCM_CIPHER


@pytest.mark.parametrize("first_chunk", [0, 1, 2**33])
def test_a_mask_is_counter_mode_chunk_by_chunk(first_chunk: int) -> None:
    words = np.zeros(2 * masking.CHUNK_WORDS + 77, dtype="<u8")
    masking.apply(words, [(NIST_KEY, 1)], first_chunk * masking.CHUNK_WORDS)
    size = masking.CHUNK_WORDS * masking.WORD_BYTES
    streams = [counter_mode(NIST_KEY, first_chunk + k, size) for k in range(3)]
    assert words.tobytes() == b"".join(streams)[: words.nbytes]


def test_the_tag_of_a_short_chunk_is_not_part_of_a_mask() -> None:
    buffer = masking.scratch()
    stream = masking.KeyStream(NIST_KEY)
    for chunk, size in enumerate((16, 8, 1000)):
        stream.fill(buffer, size)
        assert bytes(buffer[:size]) == counter_mode(NIST_KEY, chunk, size)


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_a_chunk_starts_at_its_own_nonce(chunks: int) -> None:
    start = chunks * masking.CHUNK_WORDS
    whole = np.zeros(3 * masking.CHUNK_WORDS + 77, dtype="<u8")
    streams = [(b"k" * 32, 1), (b"l" * 32, -1)]
    masking.apply(whole, streams)
    part = np.zeros(len(whole) - start, dtype="<u8")
    masking.apply(part, streams, start)
    assert np.array_equal(part, whole[start:])


@pytest.mark.usefixtures("loops")
@pytest.mark.parametrize("start", [0, 2048, 15 * 2048, masking.CHUNK_WORDS, masking.CHUNK_WORDS + 7])
def test_a_part_of_a_chunk_is_masked_as_the_whole(start: int) -> None:
    streams = [(b"k" * 32, 1), (b"l" * 32, -1)]
    whole = np.arange(2 * masking.CHUNK_WORDS, dtype="<u8")
    part = whole[start : start + 2048].copy()
    masking.apply(whole, streams)
    masking.apply_within(part, streams, start)
    assert np.array_equal(part, whole[start : start + 2048])


@pytest.mark.parametrize("first_word", [1, 2, masking.CHUNK_WORDS - 2])
def test_a_stream_starts_at_a_chunk(first_word: int) -> None:
    with pytest.raises(ValueError, match="chunk"):
        masking.apply(np.zeros(2, dtype="<u8"), [(bytes(32), 1)], first_word)


@pytest.mark.parametrize("size", [0, 1, masking.CHUNK_WORDS, 5 * masking.CHUNK_WORDS + 3])
def test_workers_change_nothing(size: int) -> None:
    streams = [(b"k" * 32, 1), (b"l" * 32, -1)]
    alone = np.arange(size, dtype="<u8")
    masking.apply(alone, streams, 2 * masking.CHUNK_WORDS)
    for workers in (2, 3, 9):
        words = np.arange(size, dtype="<u8")
        masking.apply(words, streams, 2 * masking.CHUNK_WORDS, workers)
        assert np.array_equal(words, alone)


def test_opposite_signs_cancel() -> None:
    words = np.arange(100_000, dtype="<u8")
    masking.apply(words, [(b"a" * 32, 1), (b"b" * 32, -1)])
    masking.apply(words, [(b"b" * 32, 1), (b"a" * 32, -1)])
    assert np.array_equal(words, np.arange(100_000))
    assert masking.pair_sign(1, 2) == -masking.pair_sign(2, 1) == 1


def test_an_upload_looks_uniform(federation: Callable[..., Any]) -> None:
    """Bytes of the masked words of an all-zero and of a constant vector: chi-square and bits."""
    fed = federation(3, 150_000)
    inboxes = fed.share()
    for index, value in ((0, 0.0), (1, 0.99)):
        _, words = fed.organizations[index].mask(inboxes[index], np.full(150_000, value))
        counts = np.bincount(words.view(np.uint8), minlength=256)
        expected = words.nbytes / 256
        chi_square = float(((counts - expected) ** 2 / expected).sum())
        assert 130 < chi_square < 430  # 255 degrees of freedom; the tails beyond are 5e-12 and 4e-11
        bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 64).mean(axis=0)
        assert np.abs(bits - 0.5).max() < 7 * 0.5 / np.sqrt(len(words))
        assert len(np.unique(words)) == len(words)
