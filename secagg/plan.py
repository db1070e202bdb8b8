"""P0: what a round is to be, and the rules that every plan must keep whoever wrote it."""

from dataclasses import dataclass

from .encoding import MAX_SEGMENTS, Encoding
from .identity import Identity
from .keys import context0
from .refused import refuse, require
from .roster import MIN_MEMBERS, TOO_FEW, Roster
from .suites import CLASSIC, suite_of
from .wire import Reader, Writer, seal, unseal

RUN_BYTES = 16
HASH_BYTES = 32


def least_threshold(n: int) -> int:
    """floor(2n/3) + 1: two quorums for different survivors would share more than a third of the organizations."""
    return 2 * n // 3 + 1


def least_survivors(n: int) -> int:
    """max(3, t): a sum of fewer than three is never opened."""
    return max(MIN_MEMBERS, least_threshold(n))


@dataclass(frozen=True)
class Plan:
    """The terms of one attempt at one round.

    Attributes:
        run: 16 bytes that name the run. round, attempt: counters below 2^32; together they only increase.
        roster_hash: `Roster.hash`. cohort: U0, indices.
        threshold: t, shares that rebuild a secret. min_survivors: fewest contributions in a sum that is opened.
        model_hash, schema_hash, dp_hash: 32 bytes each: model bytes, the charter, privacy terms.
        encoding: segments, n, lanes. deadline: Unix seconds (UTC) after which nobody begins.
        prev_head: head of the transcript that this round extends, 32 bytes. suite: id in `suites`.
    """

    run: bytes
    round: int
    attempt: int
    roster_hash: bytes
    cohort: tuple[int, ...]
    threshold: int
    min_survivors: int
    model_hash: bytes
    schema_hash: bytes
    dp_hash: bytes
    encoding: Encoding
    deadline: int
    prev_head: bytes
    suite: int = CLASSIC.id

    def encode(self) -> bytes:
        """The canonical body of the PLAN message."""
        writer = Writer().uint(self.suite, 2).fixed(self.run, RUN_BYTES).uint(self.round, 4).uint(self.attempt, 4)
        writer.fixed(self.roster_hash, HASH_BYTES).indices(self.cohort)
        writer.uint(self.threshold, 2).uint(self.min_survivors, 2)
        for value in (self.model_hash, self.schema_hash, self.dp_hash):
            writer.fixed(value, HASH_BYTES)
        encoding = self.encoding
        writer.uint(encoding.dimension, 8).uint(encoding.parties, 2)
        writer.uint(encoding.lane_bits, 1).uint(encoding.lanes, 1).uint(encoding.levels, 8)
        writer.uint(len(encoding.segments), 4)
        for length, clip in encoding.segments:
            writer.uint(length, 4).real(clip)
        return bytes(writer.uint(self.deadline, 8).fixed(self.prev_head, HASH_BYTES))

    @classmethod
    def decode(cls, body: bytes) -> "Plan":
        """Parse a body; Refused("wire.*", "encoding.*", "plan.suite" or "plan.overflow")."""
        reader = Reader(body)
        suite = reader.uint(2)
        suite_of(suite)
        run, round_, attempt = reader.fixed(RUN_BYTES), reader.uint(4), reader.uint(4)
        roster_hash, cohort = reader.fixed(HASH_BYTES), reader.indices()
        threshold, min_survivors = reader.uint(2), reader.uint(2)
        model_hash, schema_hash, dp_hash = (reader.fixed(HASH_BYTES) for _ in range(3))
        encoding = _read_encoding(reader)
        deadline, prev_head = reader.uint(8), reader.fixed(HASH_BYTES)
        reader.end()
        terms = (threshold, min_survivors, model_hash, schema_hash, dp_hash, encoding, deadline, prev_head, suite)
        return cls(run, round_, attempt, roster_hash, cohort, *terms)

    @property
    def ctx0(self) -> bytes:
        """H(plan)."""
        return context0(self.encode())

    def sign(self, coordinator_key: Identity) -> bytes:
        """The PLAN message."""
        return seal("plan", self.encode(), coordinator_key)

    @classmethod
    def open(cls, message: bytes, roster: Roster) -> "Plan":
        """Parse a PLAN message and check the coordinator's signature and `check`."""
        plan = cls.decode(unseal("plan", message, roster.coordinator))
        plan.check(roster)
        return plan

    def check(self, roster: Roster) -> None:
        """The rules between a plan and the pinned roster; Refused("plan.*")."""
        n = roster.n
        require(self.suite == roster.suite, "plan.suite", "the plan is for another suite than the roster's")
        require(self.roster_hash == roster.hash, "plan.roster", "the plan is for another roster than the pinned one")
        require(self.cohort == roster.indices, "plan.cohort", "the plan leaves out members of the roster")
        require(len(self.cohort) >= MIN_MEMBERS, "plan.too_few", TOO_FEW)
        least = least_threshold(n)
        require(least <= self.threshold <= n, "plan.threshold", f"the threshold must be from {least} to {n}")
        least = max(MIN_MEMBERS, self.threshold)
        bounded = least <= self.min_survivors <= n
        require(bounded, "plan.min_survivors", f"min_survivors must be from {least} to {n}")
        require(self.encoding.parties >= n, "plan.overflow", "the lanes are made for fewer organizations")


def _read_encoding(reader: Reader) -> Encoding:
    dimension, parties = reader.uint(8), reader.uint(2)
    lane_bits, lanes, levels = reader.uint(1), reader.uint(1), reader.uint(8)
    count = reader.uint(4)
    if count > MAX_SEGMENTS:
        refuse("encoding.segments", "too many segments")
    encoding = Encoding(tuple((reader.uint(4), reader.real()) for _ in range(count)), parties, lane_bits)
    require(encoding.dimension == dimension, "plan.dimension", "the segments do not add up to the dimension")
    # K and L follow from b and n; a plan that says otherwise would overflow a lane or misread it.
    fits = (lanes, levels) == (encoding.lanes, encoding.levels)
    require(fits, "plan.overflow", "lanes or levels do not follow from lane width and parties")
    return encoding
