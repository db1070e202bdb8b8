"""Foreign .npy bytes give the array that was written, or a ValueError; nothing else, whatever they hold."""

import io
import tracemalloc

import numpy as np
import pytest
from cotune.charter.messages import NONCE_BYTES, hello_statement, read_vector
from hypothesis import given
from hypothesis import strategies as st


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def with_header(text: str, body: bytes = b"") -> bytes:
    header = text.encode("latin1")
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + body


@given(st.lists(st.integers(0, 2**64 - 1), max_size=40))
def test_what_numpy_writes_is_read(values: list[int]) -> None:
    array = np.array(values, dtype="<u8")
    np.testing.assert_array_equal(read_vector(saved(array), "<u8", 40), array)
    single = np.array(values, dtype="<f4")
    np.testing.assert_array_equal(read_vector(saved(single), "<f4", 40), single)


@given(st.binary(max_size=300))
def test_random_bytes_are_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="vector"):
        read_vector(content, "<f4", 10)
    with pytest.raises(ValueError, match="vector"):
        read_vector(b"\x93NUMPY\x01\x00" + content, "<f4", 10)


@given(st.text(max_size=200), st.binary(max_size=64))
def test_random_headers_are_a_value_error(text: str, body: bytes) -> None:
    with pytest.raises(ValueError, match="vector"):
        read_vector(with_header(text.encode("utf-8", "replace").decode("latin1"), body), "<f4", 10)


@given(st.integers(0, 127), st.integers(0, 255))
def test_one_changed_byte_never_crashes(at: int, value: int) -> None:
    content = bytearray(saved(np.arange(4, dtype="<f4")))
    content[at] = value
    try:
        found = read_vector(bytes(content), "<f4", 4)
    except ValueError:
        return
    np.testing.assert_array_equal(found, np.arange(4))


@pytest.mark.parametrize("nest", ["-" * 9_000 + "1", "(" * 9_000, "[" * 190 + "]" * 190, "{'a':" * 2_000])
def test_a_header_that_would_exhaust_a_parser_is_a_value_error(nest: str) -> None:
    with pytest.raises(ValueError, match="vector"):
        read_vector(with_header(nest + "\n"), "<f4", 10)
    with pytest.raises(ValueError, match="vector"):
        read_vector(with_header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({nest},), }}\n"), "<f4", 10)


def test_a_header_that_lies_allocates_nothing() -> None:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }\n"
    tracemalloc.start()
    with pytest.raises(ValueError, match="length"):
        read_vector(with_header(header, bytes(64)), "<f4", 10**12)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), dtype="<f4"),
        np.zeros((), dtype="<f4"),
        np.zeros(4, dtype="<f8"),
        np.zeros(4, dtype=">f4"),
        np.zeros(4, dtype="<i4"),
        np.zeros(11, dtype="<f4"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="vector"):
        read_vector(saved(array), "<f4", 10)


def test_pickles_are_refused() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="vector"):
        read_vector(stream.getvalue(), "<f4", 10)


def test_the_hello_statement_names_charter_and_nonce() -> None:
    one, other = "ab" * 32, "cd" * 32
    nonces = [bytes([value]) * NONCE_BYTES for value in (1, 2)]
    assert len({hello_statement(digest, nonce) for digest in (one, other) for nonce in nonces}) == 4
    with pytest.raises(ValueError, match="nonce"):
        hello_statement(one, b"short")
