"""Merkle trees (as in RFC 6962: leaves and nodes hash under different labels, an odd node moves up unchanged).

Two uses: the root that an organization signs over all its sealed boxes, of which each recipient sees its own and a
path; and the root over the pieces of a vector, so that later any one piece can be proved and recomputed.

A piece is smaller than a masking chunk: it is what one party hands to another when something has to be looked at.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from . import kernel

HASH = 32
PIECE_WORDS = 2048  # 16 KiB; a masking chunk is a whole number of pieces
# The index under which the bare sum is hashed: no organization has it.
SUM = 0xFFFF


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def _above(level: Sequence[bytes]) -> list[bytes]:
    joined = [_node(left, right) for left, right in zip(level[::2], level[1::2], strict=False)]
    return joined + list(level[len(joined) * 2 :])


def top(leaves: Sequence[bytes]) -> bytes:
    """The root over at least one leaf of 32 bytes."""
    level = list(leaves)
    while len(level) > 1:
        level = _above(level)
    return level[0]


def paths(leaves: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """For each leaf the siblings from it to the root, at most log2 of the number of leaves, rounded up."""
    level, siblings = list(leaves), [list[bytes]() for _ in leaves]
    height = 0
    while len(level) > 1:
        for number, found in enumerate(siblings):
            at = number >> height ^ 1
            if at < len(level):
                found.append(level[at])
        level, height = _above(level), height + 1
    return [tuple(found) for found in siblings]


def path(leaves: Sequence[bytes], number: int) -> tuple[bytes, ...]:
    """`paths` of one leaf."""
    level, siblings = list(leaves), []
    while len(level) > 1:
        siblings += level[number ^ 1 : (number ^ 1) + 1]
        level, number = _above(level), number // 2
    return tuple(siblings)


def climb(leaf: bytes, number: int, count: int, siblings: Sequence[bytes]) -> bytes | None:
    """The root over `count` leaves that a path leads to, None where the path has a wrong length.

    Args:
        leaf: leaf `number`, 32 bytes.
    """
    rest = list(reversed(siblings))
    while count > 1:
        if number ^ 1 < count:
            if not rest:
                return None
            sibling = rest.pop()
            leaf = _node(sibling, leaf) if number % 2 else _node(leaf, sibling)
        number, count = number // 2, (count + 1) // 2
    return None if rest else leaf


def pieces(words: int) -> int:
    """How many pieces of PIECE_WORDS words a vector has; the last may be shorter."""
    return -(-words // PIECE_WORDS)


def piece_leaf(piece: NDArray[np.uint64], context: bytes, index: int, number: int) -> bytes:
    """The leaf of one piece: little-endian uint64, contiguous."""
    state = hashlib.sha256(_leaf_head(context, index, number))
    state.update(piece.data)
    return state.digest()


def _leaf_head(context: bytes, index: int, number: int) -> bytes:
    return _leaf_start(context, index) + number.to_bytes(8, "big")


def _leaf_start(context: bytes, index: int) -> bytes:
    return b"\x00" + context + index.to_bytes(2, "big")


def piece_leaves(words: NDArray[np.uint64], context: bytes, index: int) -> list[bytes]:
    """The leaves of a whole vector.

    Args:
        words: little-endian uint64 [w], contiguous, w >= 1.
        context: 32 bytes that bind the leaves to the round (ctx2).
        index: whose upload it is, or SUM.
    """
    parts = [words[start : start + PIECE_WORDS] for start in range(0, len(words), PIECE_WORDS)]
    leaves: list[bytes] = []
    if kernel.hash_pair is not None:
        start = _leaf_start(context, index)
        for i in range(0, len(words) // PIECE_WORDS - 1, 2):  # two whole pieces at a time
            heads = (start + i.to_bytes(8, "big"), start + (i + 1).to_bytes(8, "big"))
            leaves += kernel.hash_pair(heads[0], parts[i], heads[1], parts[i + 1])
    return leaves + [piece_leaf(parts[i], context, index, i) for i in range(len(leaves), len(parts))]


def bound(words: int, root: bytes) -> bytes:
    """The signed root: the tree's top and the length of the vector."""
    return hashlib.sha256(b"\x02" + words.to_bytes(8, "big") + root).digest()


def root(words: NDArray[np.uint64], context: bytes, index: int) -> bytes:
    """The signed root over a vector, 32 bytes. Arguments as for `piece_leaves`."""
    return bound(len(words), top(piece_leaves(words, context, index)))
