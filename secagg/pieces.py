"""One piece of a vector: its place under a signed root, and whether it can be part of a sum."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import merkle
from .control import CONTROL_WORDS, check_control
from .encoding import Encoding
from .masking import WORD, WORD_BYTES
from .merkle import HASH, PIECE_WORDS
from .refused import require
from .wire import Reader, Writer


@dataclass(frozen=True)
class Piece:
    """One piece of a vector and its path to the signed root: uint64 [at most PIECE_WORDS], 32 bytes a step."""

    words: NDArray[np.uint64]
    path: tuple[bytes, ...]


def piece_of(words: NDArray[np.uint64], number: int, context: bytes, index: int) -> Piece:
    """Cut piece `number` out of a whole vector, with its proof.

    Args:
        words: uint64 [w]. context: ctx2. index: whose upload it is, or `merkle.SUM` for the bare sum.
    """
    leaves = merkle.piece_leaves(words, context, index)
    return Piece(words[number * PIECE_WORDS :][:PIECE_WORDS], merkle.path(leaves, number))


def length_of(number: int, size: int) -> int:
    """How many of a vector's `size` words are in piece `number`."""
    return min(PIECE_WORDS, size - number * PIECE_WORDS)


def under(root: bytes, piece: Piece, number: int, size: int, context: bytes, index: int) -> bool:
    """Whether a piece lies under a signed root.

    Args:
        size: words of the whole vector. context, index: as for `piece_of`.
    """
    words = piece.words
    if words.shape != (length_of(number, size),) or words.dtype != WORD or not words.flags.c_contiguous:
        return False
    leaf = merkle.piece_leaf(words, context, index, number)
    top = merkle.climb(leaf, number, merkle.pieces(size), piece.path)
    return top is not None and merkle.bound(size, top) == root


def check_bare(words: NDArray[np.uint64], number: int, encoding: Encoding, contributions: int) -> None:
    """Refuse a piece without masks that no sum of encoded vectors can hold.

    Args:
        words: uint64 [at most PIECE_WORDS], piece `number`. contributions: how many vectors are in the sum; 1 for the
            upload of one organization.

    Raises:
        Refused: "sum.control", "sum.range".
    """
    if not number:
        check_control(words[:CONTROL_WORDS], contributions)
    start = max(CONTROL_WORDS, number * PIECE_WORDS)
    encoding.check_range(words[start - number * PIECE_WORDS :], start - CONTROL_WORDS, contributions)


def write_piece(writer: Writer, piece: Piece) -> Writer:
    """Words and path."""
    writer.blob(piece.words.tobytes()).uint(len(piece.path), 2)
    for sibling in piece.path:
        writer.fixed(sibling, HASH)
    return writer


def read_piece(reader: Reader) -> Piece:
    """Strict parse of `write_piece`; whether the piece has the right length shows under its root."""
    raw = reader.blob()
    require(len(raw) % WORD_BYTES == 0, "wire.piece", "a piece of a vector that is no whole number of words")
    return Piece(np.frombuffer(raw, dtype=WORD), tuple(reader.fixed(HASH) for _ in range(reader.count())))
