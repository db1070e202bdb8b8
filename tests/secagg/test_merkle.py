"""Paths lead to the root of a recursive reference, and to nothing else."""

import hashlib
from functools import cache

import numpy as np
import pytest
from cotune.secagg import merkle
from cotune.secagg.merkle import PIECE_WORDS
from cotune.secagg.pieces import piece_of

pytestmark = pytest.mark.usefixtures("loops")

MOST = 70
LEAVES = tuple(hashlib.sha256(bytes([number])).digest() for number in range(MOST))


def node(leaves: tuple[bytes, ...]) -> bytes:
    """RFC 6962, section 2.1: split at the largest power of two below the number of leaves."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + node(leaves[:half]) + node(leaves[half:])).digest()


def proof(leaves: tuple[bytes, ...], number: int) -> tuple[bytes, ...]:
    """RFC 6962, section 2.1.1."""
    if len(leaves) == 1:
        return ()
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if number < half:
        return (*proof(leaves[:half], number), node(leaves[half:]))
    return (*proof(leaves[half:], number - half), node(leaves[:half]))


reference = cache(node)


@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_every_leaf_climbs_to_the_root(count: int) -> None:
    leaves = LEAVES[:count]
    root = reference(leaves)
    assert merkle.top(leaves) == root
    for number in range(count):
        path = merkle.path(leaves, number)
        assert path == proof(leaves, number)
        assert merkle.climb(leaves[number], number, count, path) == root


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13, 33, 70])
def test_nothing_else_climbs_to_the_root(count: int) -> None:
    leaves = LEAVES[:count]
    root = reference(leaves)
    for number in range(count):
        path, leaf = merkle.path(leaves, number), leaves[number]
        assert merkle.climb(leaf, number, count, (*path, bytes(32))) is None
        assert merkle.climb(bytes(32), number, count, path) != root
        for step in range(len(path)):
            assert merkle.climb(leaf, number, count, path[:step] + path[step + 1 :]) is None
            for wrong in (bytes(32), leaf):
                assert merkle.climb(leaf, number, count, (*path[:step], wrong, *path[step + 1 :])) != root
        for other in set(range(count)) - {number}:
            assert merkle.climb(leaf, other, count, path) != root


def test_the_number_of_leaves_is_signed_with_the_root() -> None:
    """A path alone does not fix it: leaf 0 of 3 and of 4 have paths of one length. The bound length does."""
    path = merkle.path(LEAVES[:4], 0)
    assert merkle.climb(LEAVES[0], 0, 3, path) == merkle.climb(LEAVES[0], 0, 4, path)
    assert merkle.bound(3, bytes(32)) != merkle.bound(4, bytes(32))


@pytest.mark.parametrize(
    "words", [1, PIECE_WORDS - 1, PIECE_WORDS, PIECE_WORDS + 1, 3 * PIECE_WORDS, 4 * PIECE_WORDS + 7]
)
def test_pieces_of_a_vector_climb_to_its_root(words: int) -> None:
    vector = np.arange(words, dtype="<u8")
    count, root = merkle.pieces(words), merkle.root(vector, b"c" * 32, 3)
    pieces = []
    for number in range(count):
        piece = piece_of(vector, number, b"c" * 32, 3)
        leaf = merkle.piece_leaf(piece.words, b"c" * 32, 3, number)
        top = merkle.climb(leaf, number, count, piece.path)
        assert top is not None
        assert merkle.bound(words, top) == root
        pieces.append(piece.words)
    assert np.array_equal(np.concatenate(pieces), vector)


def test_a_leaf_is_of_one_round_one_member_and_one_place() -> None:
    words = np.arange(5, dtype="<u8")
    leaf = merkle.piece_leaf(words, b"c" * 32, 1, 0)
    assert leaf == hashlib.sha256(b"\x00" + b"c" * 32 + b"\x00\x01" + bytes(8) + words.tobytes()).digest()
    others = [(b"d" * 32, 1, 0), (b"c" * 32, 2, 0), (b"c" * 32, merkle.SUM, 0), (b"c" * 32, 1, 1)]
    assert leaf not in [merkle.piece_leaf(words, *other) for other in others]


def test_a_node_is_no_leaf() -> None:
    """The two labels: an inner node of one tree cannot pass for a piece of another."""
    pair = np.frombuffer(LEAVES[0] + LEAVES[1], dtype="<u8")
    assert merkle.piece_leaf(pair, bytes(32), 0, 0) != merkle.top(LEAVES[:2])


@pytest.mark.parametrize("words", [1, PIECE_WORDS, 2 * PIECE_WORDS, 3 * PIECE_WORDS, 4 * PIECE_WORDS + 7])
def test_leaves_of_a_vector_are_those_of_its_pieces(words: int) -> None:
    vector = np.arange(words, dtype="<u8")
    leaves = merkle.piece_leaves(vector, b"c" * 32, 7)
    assert len(leaves) == merkle.pieces(words)
    for number, leaf in enumerate(leaves):
        piece = vector[number * PIECE_WORDS :][:PIECE_WORDS]
        assert leaf == merkle.piece_leaf(piece, b"c" * 32, 7, number)
