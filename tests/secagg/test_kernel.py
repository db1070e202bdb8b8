"""The compiled loops give OpenSSL's bytes, touch nothing else, refuse what they cannot do, and can be left out."""

import hashlib
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cotune.secagg import kernel, masking, merkle
from hypothesis import given
from hypothesis import strategies as st

SEED = bytes(range(100, 132))
masks = pytest.mark.skipif(not (kernel._kernel and kernel._kernel.MASKS), reason="no VAES with AVX-512")
hashes = pytest.mark.skipif(not (kernel._kernel and kernel._kernel.HASHES), reason="no SHA extensions")


def test_the_module_is_built() -> None:
    """The README asks for a C compiler; without this test a failing build would only be slower."""
    mend = "install a C compiler and Python's headers, then touch secagg/kernel.c && make install-dev"
    assert kernel._kernel is not None, f"secagg/kernel.c was not built: {mend}"
    if sysconfig.get_platform() != "linux-x86_64":
        return
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n")[0].split()
    for has, needs in (("MASKS", {"aes", "vaes", "avx512f", "avx512bw"}), ("HASHES", {"sha_ni", "ssse3", "sse4_1"})):
        assert getattr(kernel._kernel, has) == (needs <= set(flags))


@masks
@given(
    seed=st.binary(min_size=32, max_size=32),
    chunk=st.integers(0, 2**64 - 1),
    size=st.integers(0, 700),
    offset=st.integers(0, 9),
    sign=st.sampled_from([1, -1]),
)
def test_a_stream_is_that_of_openssl(seed: bytes, chunk: int, size: int, offset: int, sign: int) -> None:
    before = np.frombuffer(hashlib.shake_128(seed).digest(8 * (size + 20)), dtype="<u8")
    words = before.copy()
    kernel._kernel.add_stream(words[offset : offset + size], seed, chunk, sign)
    stream = np.frombuffer(kernel.key_stream(seed, chunk, 8 * size), dtype="<u8")
    expected = before.copy()
    expected[offset : offset + size] += stream if sign > 0 else -stream
    assert np.array_equal(words, expected)


@masks
def test_a_long_stream_counts_beyond_a_byte_and_two() -> None:
    size = 2 * 70_000
    words = np.zeros(size, dtype="<u8")
    kernel._kernel.add_stream(words, SEED, 5, 1)
    assert words.tobytes() == kernel.key_stream(SEED, 5, 8 * size)


@masks
def test_threads_do_not_meet() -> None:
    def masked(number: int) -> bytes:
        words = np.zeros(50_000, dtype="<u8")
        kernel._kernel.add_stream(words, bytes([number]) * 32, number, 1)
        return words.tobytes()

    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(masked, range(16))):
            assert found == kernel.key_stream(bytes([number]) * 32, number, 400_000)


@masks
@pytest.mark.parametrize(
    ("words", "seed", "chunk", "sign", "error"),
    [
        (np.zeros(4, "<u8"), bytes(31), 0, 1, ValueError),
        (np.zeros(4, "<u8"), bytes(33), 0, 1, ValueError),
        (np.zeros(4, "<u8"), SEED, 0, 0, ValueError),
        (np.zeros(4, "<u8"), SEED, 0, 2, ValueError),
        (np.zeros(9, np.uint8), SEED, 0, 1, ValueError),
        (np.zeros(4, "<u8"), SEED, -1, 1, OverflowError),
        (np.zeros(4, "<u8"), SEED, 2**64, 1, OverflowError),
        (np.zeros(4, "<u8"), SEED, 0.5, 1, TypeError),
        (np.zeros(4, "<u8")[::2], SEED, 0, 1, TypeError),
        (bytes(32), SEED, 0, 1, TypeError),
        ("words", SEED, 0, 1, TypeError),
        (np.zeros(4, "<u8"), "seed", 0, 1, TypeError),
    ],
)
def test_a_stream_that_cannot_be_is_refused(words: Any, seed: Any, chunk: Any, sign: int, error: Any) -> None:
    before = bytes(words) if not isinstance(words, str) else b""
    with pytest.raises(error):
        kernel._kernel.add_stream(words, seed, chunk, sign)
    assert isinstance(words, str) or bytes(words) == before


@masks
def test_a_stream_that_could_overflow_its_counter_is_refused() -> None:
    with pytest.raises(ValueError, match="add_stream"):
        kernel._kernel.add_stream(np.zeros(2**26 + 1, "<u8"), SEED, 0, 1)  # memory that is never touched


@masks
@hashes
def test_no_call_keeps_its_buffers() -> None:
    """A bytearray cannot grow while somebody holds its memory."""
    words, seed, short, head, body = bytearray(16), bytearray(32), bytearray(31), bytearray(43), bytearray(100)
    kernel._kernel.add_stream(words, seed, 0, 1)
    kernel._kernel.hash_pair(head, body, head, body)
    for refused in (
        lambda: kernel._kernel.add_stream(words, short, 0, 1),
        lambda: kernel._kernel.add_stream(words, seed, -1, 1),
        lambda: kernel._kernel.add_stream(words, seed, 0, "1"),
        lambda: kernel._kernel.hash_pair(head, body, body, head),
        lambda: kernel._kernel.hash_pair(head, body, head, "body"),
    ):
        with pytest.raises((ValueError, OverflowError, TypeError)):
            refused()
    for buffer in (words, seed, short, head, body):
        buffer.append(0)


@hashes
@given(head=st.integers(0, 63), size=st.integers(0, 400), filler=st.binary(min_size=8, max_size=8))
def test_two_hashes_are_those_of_hashlib(head: int, size: int, filler: bytes) -> None:
    raw = hashlib.shake_128(filler).digest(2 * (head + size))
    parts = [raw[:head], raw[head : head + size], raw[head + size : 2 * head + size], raw[2 * head + size :]]
    if head + size < 64:
        with pytest.raises(ValueError, match="heads"):
            kernel._kernel.hash_pair(*parts)
        return
    expected = tuple(hashlib.sha256(parts[k] + parts[k + 1]).digest() for k in (0, 2))
    assert kernel._kernel.hash_pair(*parts) == expected


@hashes
@pytest.mark.parametrize("sizes", [(43, 100, 42, 100), (43, 100, 43, 101), (64, 100, 64, 100), (1, 62, 1, 62)])
def test_hashes_that_cannot_be_are_refused(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="heads"):
        kernel._kernel.hash_pair(*map(bytes, sizes))


def right_at_first(words: Any, seed: bytes, chunk: int, sign: int) -> None:
    right(words[:500], seed, chunk, sign)


def right(words: Any, seed: bytes, chunk: int, sign: int) -> None:
    stream = np.frombuffer(kernel.key_stream(seed, chunk, words.nbytes), dtype="<u8")
    words += stream if sign > 0 else -stream


def wrong_sign(words: Any, seed: bytes, chunk: int, sign: int) -> None:
    right(words, seed, chunk, 1)


def counts_from_one(words: Any, seed: bytes, chunk: int, sign: int) -> None:
    right(words, seed, chunk + 1, sign)


def writes_beyond(words: Any, seed: bytes, chunk: int, sign: int) -> None:
    right(words.base[: len(words) + 1], seed, chunk, sign)


def forgets_the_tail(words: Any, seed: bytes, chunk: int, sign: int) -> None:
    right(words[: len(words) // 8 * 8], seed, chunk, sign)


def test_known_answers_find_a_wrong_stream() -> None:
    assert kernel.masks_right(right)
    for wrong in (wrong_sign, counts_from_one, writes_beyond, right_at_first, forgets_the_tail):
        assert not kernel.masks_right(wrong), wrong


def test_known_answers_find_a_wrong_hash() -> None:
    def both(head: bytes, body: Any, other: bytes, second: Any) -> tuple[bytes, bytes]:
        return hashlib.sha256(head + body.tobytes()).digest(), hashlib.sha256(other + second.tobytes()).digest()

    assert kernel.hashes_right(both)
    assert not kernel.hashes_right(lambda *parts: both(*parts)[::-1])
    assert not kernel.hashes_right(lambda head, body, other, second: both(head, body, head, body))
    assert not kernel.hashes_right(lambda head, body, other, second: both(head, body[: len(body) - 1], other, second))
    assert not kernel.hashes_right(lambda head, body, other, second: both(head, body[:2000], other, second[:2000]))


def raises(*words: Any) -> Any:
    raise AttributeError


@pytest.mark.parametrize(
    ("masks", "hashes", "version", "said"),
    [
        (wrong_sign, None, kernel.VERSION, "known answers"),
        (raises, None, kernel.VERSION, "known answers"),
        (None, raises, kernel.VERSION, "known answers"),
        (right, None, kernel.VERSION + 1, "another version"),
        (right, None, None, "another version"),
    ],
)
def test_loops_that_fail_their_known_answers_are_not_used(
    masks: Any, hashes: Any, version: int | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = SimpleNamespace(MASKS=bool(masks), HASHES=bool(hashes), add_stream=masks, hash_pair=hashes)
    if version is not None:
        built.VERSION = version
    monkeypatch.setattr(kernel, "_kernel", built)
    monkeypatch.delenv(kernel.SWITCH, raising=False)
    with pytest.warns(UserWarning, match=said):
        assert kernel._load() == (None, None)


def test_known_answers_are_of_the_shape_that_is_used() -> None:
    assert kernel.CHUNK_WORDS == masking.CHUNK_WORDS
    assert len(merkle._leaf_head(bytes(32), merkle.SUM, 2**63)) == kernel.LEAF_HEAD


@pytest.mark.parametrize("value", ["off", "0", "OFF", ""])
def test_the_switch_leaves_the_loops_out(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernel.SWITCH, value)
    assert kernel._load() == (None, None)


def test_without_the_module_everything_still_works() -> None:
    """A process in which the extension cannot be imported masks and hashes as this one does."""
    hidden = "import sys; sys.modules['cotune.secagg._kernel'] = None\n"
    script = (
        "import numpy as np\n"
        "from cotune.secagg import kernel, masking, merkle\n"
        "words = np.arange(100_000, dtype='<u8')\n"
        "masking.apply(words, [(b'k' * 32, 1), (b'l' * 32, -1)])\n"
        "print(kernel.described(), merkle.root(words, bytes(32), 3).hex())"
    )
    without, usual = (
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
        for text in (hidden + script, script)
    )
    assert without.startswith("masks by OpenSSL, hashes by OpenSSL ")
    assert without.split()[-1] == usual.split()[-1]


def test_members_need_not_choose_alike(federation: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One organization and the coordinator without the loops, the others with them: the sum is exact."""
    fed = federation(4, 70_000)
    inboxes = fed.share()
    loops = (kernel.add_stream, kernel.hash_pair)
    for index in range(4):
        for name, loop in zip(("add_stream", "hash_pair"), loops, strict=True):
            monkeypatch.setattr(kernel, name, None if index == 1 else loop)
        upload = fed.organizations[index].mask(inboxes[index], fed.vectors[index])
        for name in ("add_stream", "hash_pair"):
            monkeypatch.setattr(kernel, name, None)
        assert fed.coordinator.add_upload(index, *upload)
    bundle = fed.coordinator.close_uploads()
    for index in range(4):
        assert fed.coordinator.add_survival(index, fed.organizations[index].survive(bundle))
    quorum = fed.coordinator.close_survival()
    for index in range(4):
        assert fed.coordinator.add_reveal(index, fed.organizations[index].unmask(quorum))
    values = fed.coordinator.result().values
    assert np.abs(values - fed.vectors.sum(axis=0)).max() <= 4 / fed.encoding.levels
