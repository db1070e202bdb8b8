"""Who spoiled a sum: where it cannot be read, one piece of it is opened, and with it everybody's part in that piece.

The masks that are left on an upload after P4 are those between survivors. Each survivor signs the words of these key
streams for the piece, and for nothing else. Everybody's piece is then bare by its own words: what an honest member sent
is the encoding of a vector within its limits, what a member that spoiled the sum sent is not, unless it also lies about
a stream. Then it contradicts the other side of that stream.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import keys, masking, merkle
from .control import CONTROL_WORDS
from .encoding import Encoding
from .limits import NormLimits, check_piece
from .masking import WORD, WORD_BYTES
from .merkle import HASH, PIECE_WORDS
from .pieces import Piece, check_bare, length_of, read_piece, under, write_piece
from .plan import Plan
from .recovery import check_secrets
from .refused import Refused, require
from .suites import suite_of
from .views import Cohort
from .wire import Reader, Writer

Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Opening:
    """P6, from the coordinator, the same to every survivor: what shows that piece `number` of the sum is no sum.

    Attributes:
        statement: what the survivors signed; it binds the roots of their uploads, in order.
        self_secrets, mask_secrets: as in a round's record. pieces: of the survivors' uploads, in order.
    """

    statement: bytes
    number: int
    roots: tuple[bytes, ...]
    self_secrets: tuple[bytes, ...]
    mask_secrets: tuple[bytes, ...]
    pieces: tuple[Piece, ...]

    def encode(self) -> bytes:
        """Canonical body."""
        writer = Writer().fixed(self.statement, HASH).uint(self.number, 4).uint(len(self.roots), 2)
        for root in self.roots:
            writer.fixed(root, HASH)
        writer.blobs(self.self_secrets).blobs(self.mask_secrets).uint(len(self.pieces), 2)
        for piece in self.pieces:
            write_piece(writer, piece)
        return bytes(writer)

    @classmethod
    def decode(cls, body: bytes) -> "Opening":
        """Strict parse."""
        reader = Reader(body)
        statement, number = reader.fixed(HASH), reader.uint(4)
        roots = tuple(reader.fixed(HASH) for _ in range(reader.count()))
        self_secrets, mask_secrets = reader.blobs(), reader.blobs()
        pieces = tuple(read_piece(reader) for _ in range(reader.count()))
        reader.end()
        return cls(statement, number, roots, self_secrets, mask_secrets, pieces)


@dataclass(frozen=True)
class Opened:
    """P6 -> server: the key streams that a survivor shares with each other one, little-endian, for one piece."""

    statement: bytes
    index: int
    number: int
    streams: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Canonical body."""
        return bytes(Writer().fixed(self.statement, HASH).uint(self.index, 2).uint(self.number, 4).blobs(self.streams))

    @classmethod
    def decode(cls, body: bytes) -> "Opened":
        """Strict parse."""
        reader = Reader(body)
        opened = cls(reader.fixed(HASH), reader.uint(2), reader.uint(4), reader.blobs())
        reader.end()
        return opened


@dataclass(frozen=True)
class Spoiled:
    """A round whose sum cannot be read, as everybody who signed its survivors knows it."""

    plan: Plan
    cohort: Cohort
    sharers: tuple[int, ...]
    survivors: tuple[int, ...]
    ctx2: bytes
    statement: bytes

    @property
    def dropped(self) -> tuple[int, ...]:
        """U2 without U3."""
        return tuple(index for index in self.sharers if index not in self.survivors)

    @property
    def size(self) -> int:
        """Words of a vector, control block included."""
        return CONTROL_WORDS + self.plan.encoding.words

    def others(self, index: int) -> tuple[int, ...]:
        """U3 without one."""
        return tuple(member for member in self.survivors if member != index)


def stream_words(seed: bytes, number: int, size: int) -> bytes:
    """The key stream of a seed for one piece, little-endian, as it is given away."""
    words = np.zeros(length_of(number, size), dtype=WORD)
    masking.apply_within(words, [(seed, 1)], number * PIECE_WORDS)
    return words.tobytes()


def check_opening(opening: Opening, spoiled: Spoiled, limits: NormLimits | None) -> dict[int, Words]:
    """Whether there is a reason to open this piece: without it nobody gives away a word.

    A coordinator alone cannot make one. The statement binds the view, the survivors and their roots; the secrets are
    held against the adverts; so what is added up here is the sum of what the survivors signed without its masks, and
    among honest members that is a sum. What a dropped member of the hybrid suite had agreed upon is not proved by its
    mk alone, so there nothing is opened.

    Args:
        limits: of the norms; None where a sum has none.

    Returns:
        The piece of each survivor's upload, freed of all masks but those between survivors.

    Raises:
        Refused: "open.statement", "open.dropped", "record.secrets", "record.commitment", "record.mask_key";
            "open.piece" naming the organization whose piece is not the one that it signed; "open.sound" where the piece
            is a sum.
    """
    plan, survivors = spoiled.plan, spoiled.survivors
    signed = keys.survivors_statement(spoiled.ctx2, survivors, opening.roots)
    same = opening.statement == signed == spoiled.statement
    require(same, "open.statement", "an opening of other uploads than those that were signed")
    proved = not (spoiled.dropped and suite_of(plan.suite).kem_bytes)
    require(proved, "open.dropped", "in this suite nothing is opened after a dropout")
    secrets = (opening.self_secrets, opening.mask_secrets, survivors, spoiled.dropped)
    selves, masks = check_secrets(*secrets, spoiled.cohort, plan)
    require(len(opening.pieces) == len(survivors), "open.piece", "not one piece of each survivor")
    there = opening.number < merkle.pieces(spoiled.size)
    require(there, "open.piece", "a piece that the vector does not have")
    uncovered, total = {}, np.zeros(length_of(opening.number, spoiled.size), dtype=WORD)
    for index, root, piece in zip(survivors, opening.roots, opening.pieces, strict=True):
        held = under(root, piece, opening.number, spoiled.size, spoiled.ctx2, index)
        require(held, "open.piece", "a piece is not the one that its organization signed", index)
        words = piece.words.copy()
        streams = [(keys.self_seed(selves[index], spoiled.ctx2, index), -1)]
        streams += [_pair(spoiled, mk, dropped, index) for dropped, mk in masks.items()]
        masking.apply_within(words, streams, opening.number * PIECE_WORDS)
        uncovered[index] = words
        np.add(total, words, out=total)
    spoils = not _possible(total, opening.number, plan.encoding, survivors, limits)
    require(spoils, "open.sound", "there is nothing wrong with this piece of the sum")
    return uncovered


def _pair(spoiled: Spoiled, mk: bytes, dropped: int, survivor: int) -> tuple[bytes, int]:
    """What takes the mask with a dropped member off a survivor's upload: (seed, sign)."""
    suite, public = suite_of(spoiled.plan.suite), spoiled.cohort.adverts[survivor].mask_key
    seed = keys.pair_seed(suite, mk, public, spoiled.ctx2, dropped, survivor, b"")
    return seed, -masking.pair_sign(survivor, dropped)


def _possible(
    words: Words, number: int, encoding: Encoding, members: tuple[int, ...], limits: NormLimits | None
) -> bool:
    """Whether honest members can have made a bare piece of the sum of their vectors."""
    try:
        check_bare(words, number, encoding, len(members))
        if limits is not None:
            check_piece(encoding, words, number, members, limits)
    except Refused:
        return False
    return True


def first_fault(encoding: Encoding, total: Words, survivors: tuple[int, ...]) -> int | None:
    """The first piece of a bare sum whose control block or lanes no honest members can have made.

    Args:
        total: uint64 [8 + encoding.words].
    """
    for number in range(merkle.pieces(len(total))):
        if not _possible(total[number * PIECE_WORDS :][:PIECE_WORDS], number, encoding, survivors, None):
            return number
    return None


@dataclass(frozen=True)
class Verdict:
    """Whose part in an opened piece does not hold.

    Attributes:
        convicted: whose piece, freed of its masks by its own signed words, is none that an honest member sends.
        disputes: (i, j) with i < j where the two signed different words of the stream that they share: one of them
            lies, and the seed that would tell is not given away.
        silent: who did not open the piece.
    """

    convicted: tuple[int, ...]
    disputes: tuple[tuple[int, int], ...]
    silent: tuple[int, ...]


def judge(
    spoiled: Spoiled,
    opening: Opening,
    uncovered: Mapping[int, Words],
    opened: Mapping[int, Opened],
    limits: NormLimits | None,
) -> Verdict:
    """What the opened streams say.

    Nobody is convicted by the words of another. An honest member's own words are the streams that it masked with, so
    its piece comes out as it encoded it: no honest member is convicted (but for noise beyond `limits.TAIL`), whatever
    the others say and whoever is silent. Two honest members give the same words for the stream between them, so each
    dispute has a liar. And if everybody opened, nobody is convicted and there is no dispute, then the streams cancel in
    the sum of pieces that are all possible, and the sum is possible, as `check_opening` found that it is not: so
    something is always found, unless somebody is silent.

    Args:
        uncovered: what `check_opening` returned. opened: by index; checked by `check_opened`.
    """
    said = {index: dict(zip(spoiled.others(index), message.streams, strict=True)) for index, message in opened.items()}
    convicted = []
    for index, streams in said.items():
        words = uncovered[index].copy()
        for peer, raw in streams.items():
            (np.subtract if masking.pair_sign(index, peer) > 0 else np.add)(words, np.frombuffer(raw, WORD), out=words)
        if not _possible(words, opening.number, spoiled.plan.encoding, (index,), limits):
            convicted.append(index)
    pairs = ((one, other) for one in sorted(said) for other in sorted(said) if one < other)
    disputes = tuple((one, other) for one, other in pairs if said[one][other] != said[other][one])
    silent = tuple(index for index in spoiled.survivors if index not in said)
    return Verdict(tuple(sorted(convicted)), disputes, silent)


def check_opened(opened: Opened, spoiled: Spoiled, opening: Opening) -> None:
    """Refuse an answer to another opening, or one that does not hold what was asked for.

    Raises:
        Refused: "opened.statement", "opened.stranger", "opened.streams".
    """
    same = (opened.statement, opened.number) == (opening.statement, opening.number)
    require(same, "opened.statement", "an answer to another opening")
    require(opened.index in spoiled.survivors, "opened.stranger", "streams of an organization that did not survive")
    size = length_of(opening.number, spoiled.size) * WORD_BYTES
    whole = [len(raw) for raw in opened.streams] == [size] * len(spoiled.others(opened.index))
    require(whole, "opened.streams", "not one stream of the piece for each other survivor")
