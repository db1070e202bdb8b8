"""A member's own look at a sum that it was told: some pieces, chosen by itself, recomputed from everybody's uploads.

The coordinator hands out the whole bare sum, and of the pieces that the member asks for every survivor's masked words
with their paths. `check_sum` holds the sum against the record, `check_pieces` the pieces against the sum. What was
altered in a fraction of the pieces is found with the probability that `pieces_for` was asked for; who alters cannot
know which pieces will be asked for, since `choose` depends on a secret of the member.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import comb, floor

import numpy as np
from numpy.typing import NDArray

from . import merkle
from .audit import audit_piece
from .control import CONTROL_WORDS
from .masking import WORD
from .merkle import HASH, PIECE_WORDS
from .pieces import Piece, check_bare, length_of
from .record import Verified
from .refused import about, require
from .wire import digest

_DRAW_BYTES = 16


def pieces_for(fraction: float, probability: float, pieces: int) -> int:
    """How many pieces, drawn without replacement, find an alteration with at least this probability.

    The alteration touches at least `fraction` of the coordinates, in as few pieces as that takes: a piece holds at most
    PIECE_WORDS words, and all but the first, which begins with the control words, and the last hold so many. The number
    is exact (hypergeometric distribution, in integers); both floats are read as the decimals that they print as.

    Args:
        fraction: in (0, 1].
        probability: in (0, 1].
        pieces: of the vector, at least 1.

    Returns:
        From 1 to `pieces`; all of them where fewer do not suffice.
    """
    spared = Fraction(CONTROL_WORDS, PIECE_WORDS)
    altered = min(pieces, max(1, floor(Fraction(str(fraction)) * (pieces - 1 - spared)) + 1))
    missed = 1 - Fraction(str(probability))
    least, most = 1, pieces
    while least < most:
        count = (least + most) // 2
        if _misses(pieces, altered, count) <= missed:
            most = count
        else:
            least = count + 1
    return least


def _misses(pieces: int, altered: int, drawn: int) -> Fraction:
    """The chance that none of the drawn pieces is an altered one; the same when the two change places."""
    few, many = sorted((altered, drawn))
    return Fraction(comb(pieces - many, few), comb(pieces, few))


def choose(secret: bytes, head: bytes, pieces: int, count: int) -> tuple[int, ...]:
    """A member's choice of pieces: nobody else can foresee it, and for one sum it is always the same.

    Whoever does not like the choice gains nothing by asking again. A record can be signed in several ways, with other
    members of the quorum, so the choice does not follow from its bytes but from the head, which fixes the sum and which
    a member follows only once.

    Args:
        secret: 32 bytes of the member's own, for this purpose alone. head: of the transcript, with this sum in it.
        count: at most `pieces`.

    Returns:
        `count` different numbers below `pieces`, ascending. Each set is as likely as any other, up to 2^-100.
    """
    key = hmac.digest(secret, digest("spot-check", head), "sha256")
    chosen: set[int] = set()
    for turn, top in enumerate(range(pieces - count, pieces)):  # R. Floyd's sampling: one draw for each piece
        draw = int.from_bytes(hmac.digest(key, turn.to_bytes(8, "big"), "sha256")[:_DRAW_BYTES], "big") % (top + 1)
        chosen.add(top if draw in chosen else draw)
    return tuple(sorted(chosen))


def encode_pieces(
    numbers: Sequence[int], uploads: Mapping[int, tuple[NDArray[np.uint64], Sequence[tuple[bytes, ...]]]]
) -> tuple[bytes, NDArray[np.uint64]]:
    """What the coordinator hands out for some pieces; `decode_pieces` reads it.

    Args:
        numbers: of pieces, ascending. uploads: of every survivor, by index, its whole masked upload, uint64 [w], and
            `merkle.paths` of its pieces.

    Returns:
        The paths, and the words of every piece in one array, uint64: by piece, then by survivor. Paths meet, and each
        hash is there once; where a hash stands follows from the numbers alone.
    """
    ordered = sorted(uploads.items())
    parts = [words[number * PIECE_WORDS :][:PIECE_WORDS] for number in numbers for _, (words, _) in ordered]
    siblings: list[bytes] = []
    for _, (words, paths) in ordered:
        seen: set[tuple[int, int]] = set()
        for number in numbers:
            for place, sibling in zip(_places(number, merkle.pieces(len(words))), paths[number], strict=True):
                if place not in seen:
                    seen.add(place)
                    siblings.append(sibling)
    return b"".join(siblings), np.concatenate(parts) if parts else np.zeros(0, dtype=WORD)


def decode_pieces(
    body: bytes, words: NDArray[np.uint64], verified: Verified, numbers: Sequence[int]
) -> list[dict[int, Piece]]:
    """Strict inverse of `encode_pieces`, for the pieces that were asked for; nothing is checked against a root yet.

    Args:
        verified: the round's record. numbers: ascending, each a piece of the vector.

    Returns:
        For each number the piece of every survivor, by index.

    Raises:
        Refused: "audit.pieces" where paths or words are not exactly as many as the numbers make them.
    """
    size = CONTROL_WORDS + verified.plan.encoding.words
    count = merkle.pieces(size)
    places = {place for number in numbers for place in _places(number, count)}
    right = len(body) == len(verified.survivors) * len(places) * HASH
    require(right, "audit.pieces", "the paths of the pieces are not as many as were asked for")
    lengths = [length_of(number, size) for number in numbers]
    right = words.dtype == WORD and words.shape == (len(verified.survivors) * sum(lengths),)
    require(right, "audit.pieces", "the words of the pieces are not as many as were asked for")
    paths = [_read_paths(body, turn * len(places), numbers, count) for turn in range(len(verified.survivors))]
    words, at = np.ascontiguousarray(words), 0
    found: list[dict[int, Piece]] = []
    for position, length in enumerate(lengths):
        found.append({})
        for turn, index in enumerate(verified.survivors):
            found[-1][index] = Piece(words[at : at + length], paths[turn][position])
            at += length
    return found


def _read_paths(body: bytes, first: int, numbers: Sequence[int], count: int) -> list[tuple[bytes, ...]]:
    """The paths of one survivor, whose hashes begin with hash number `first`."""
    seen: dict[tuple[int, int], bytes] = {}
    paths = []
    for number in numbers:
        for place in _places(number, count):
            at = (first + len(seen)) * HASH
            seen.setdefault(place, body[at : at + HASH])
        paths.append(tuple(seen[place] for place in _places(number, count)))
    return paths


def _places(number: int, count: int) -> Iterator[tuple[int, int]]:
    """(height, position) of each hash on the path of leaf `number` of `count`, from below."""
    height = 0
    while count > 1:
        if number ^ 1 < count:
            yield height, number ^ 1
        number, count, height = number // 2, (count + 1) // 2, height + 1


def check_sum(verified: Verified, total: NDArray[np.uint64]) -> None:
    """Whether these words are the sum whose hash is in the record, and can be a sum at all.

    Args:
        total: the bare sum as it was handed out, uint64 [8 + encoding.words].

    Raises:
        Refused: "audit.sum"; "sum.control" and "sum.range" with the piece, where the coordinator signed the hash of
            something that no honest sum can be: `evidence` shows it to others.
    """
    encoding = verified.plan.encoding
    words = total.dtype == WORD and total.flags.c_contiguous  # how many there are is in the root
    require(words, "audit.sum", "the sum that was handed out is of a wrong type")
    same = merkle.root(total, verified.ctx2, merkle.SUM) == verified.record.result
    require(same, "audit.sum", "the sum that was handed out is not the one whose hash is in the record")
    for number in range(merkle.pieces(len(total))):
        with about(number):
            check_bare(total[number * PIECE_WORDS :][:PIECE_WORDS], number, encoding, len(verified.survivors))


def check_pieces(
    verified: Verified, numbers: Sequence[int], uploads: Sequence[Mapping[int, Piece]], total: NDArray[np.uint64]
) -> None:
    """Recompute some pieces of a sum.

    Args:
        verified: as for `decode_pieces`.
        numbers: as for `decode_pieces`.
        uploads: what `decode_pieces` returned.
        total: as for `check_sum`, which held.

    Raises:
        Refused: as `audit.audit_piece`, with the piece.
    """
    paths = merkle.paths(merkle.piece_leaves(total, verified.ctx2, merkle.SUM))
    for number, pieces in zip(numbers, uploads, strict=True):
        with about(number):
            result = Piece(total[number * PIECE_WORDS :][:PIECE_WORDS], paths[number])
            audit_piece(verified, number, pieces, result)
