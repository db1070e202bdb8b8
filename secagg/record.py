"""P5: the record of a round and the chain of heads that every organization extends by itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import keys
from .control import CONTROL_WORDS, check_control
from .identity import Identity
from .masking import WORD, WORD_BYTES
from .merkle import HASH
from .plan import Plan
from .recovery import check_secrets, remaining_streams
from .refused import Refused, require
from .roster import Roster
from .suites import suite_of
from .views import Cohort, check_quorum, read_adverts, read_share_roots, read_survivors
from .wire import Reader, Writer, digest, seal, unseal


def genesis(run: bytes, roster: Roster) -> bytes:
    """The head before the first round."""
    return digest("genesis", run, roster.hash)


def next_head(
    previous: bytes, ctx2: bytes, survivors: tuple[int, ...], roots: tuple[bytes, ...], result: bytes
) -> bytes:
    """head_r = H(head_{r-1}, ctx2, U3, H(roots), result)."""
    return digest("head", previous, ctx2, bytes(Writer().indices(survivors)), digest("roots", *roots), result)


@dataclass(frozen=True)
class RoundRecord:
    """Every signed message of a round that ended well, and what was revealed.

    Attributes:
        plan: PLAN message. adverts, share_roots, headers, signatures: envelopes of U1, U2, U3 and the quorum, in order.
        self_secrets: b of U3 in order. mask_secrets: mk of U2 without U3 in order.
        agreements: what each of those had agreed upon with U3 beyond X25519 (empty in suite 1).
        control: the eight summed control words, big-endian. head: `next_head`.
        result: Merkle root over the bare sum, control block included, in the pieces of the uploads.
    """

    plan: bytes
    adverts: tuple[bytes, ...]
    share_roots: tuple[bytes, ...]
    headers: tuple[bytes, ...]
    signatures: tuple[bytes, ...]
    self_secrets: tuple[bytes, ...]
    mask_secrets: tuple[bytes, ...]
    agreements: tuple[bytes, ...]
    control: tuple[int, ...]
    result: bytes
    head: bytes

    def sign(self, coordinator_key: Identity) -> bytes:
        """The RECORD message."""
        writer = Writer().blob(self.plan)
        for envelopes in (self.adverts, self.share_roots, self.headers, self.signatures):
            writer.blobs(envelopes)
        writer.blobs(self.self_secrets).blobs(self.mask_secrets).blobs(self.agreements)
        for word in self.control:
            writer.uint(word, WORD_BYTES)
        return seal("record", bytes(writer.fixed(self.result, HASH).fixed(self.head, HASH)), coordinator_key)

    @classmethod
    def decode(cls, body: bytes) -> "RoundRecord":
        """Strict parse; Refused("wire.*")."""
        reader = Reader(body)
        plan = reader.blob()
        adverts, roots, headers, signatures, selves, masks, agreed = (reader.blobs() for _ in range(7))
        control = tuple(reader.uint(WORD_BYTES) for _ in range(CONTROL_WORDS))
        result, head = reader.fixed(HASH), reader.fixed(HASH)
        reader.end()
        return cls(plan, adverts, roots, headers, signatures, selves, masks, agreed, control, result, head)


@dataclass(frozen=True)
class Verified:
    """A record that holds.

    Attributes:
        cohort: U1. sharers: U2. survivors: U3. roots: of their uploads. ctx2: the context of the masks.
        self_secrets, mask_secrets, agreed: what was rebuilt, by owner.
    """

    record: RoundRecord
    plan: Plan
    cohort: Cohort
    sharers: tuple[int, ...]
    survivors: tuple[int, ...]
    roots: Mapping[int, bytes]
    ctx2: bytes
    self_secrets: Mapping[int, bytes]
    mask_secrets: Mapping[int, bytes]
    agreed: Mapping[int, bytes]

    @property
    def head(self) -> bytes:
        """The new head of the transcript."""
        return self.record.head

    @cached_property
    def streams(self) -> list[tuple[bytes, int]]:
        """The masks that the revealed secrets take off the sum of the uploads: see `remaining_streams`."""
        secrets = (self.self_secrets, self.mask_secrets, self.agreed)
        return remaining_streams(*secrets, self.cohort, self.ctx2, suite_of(self.plan.suite))


@contextmanager
def _part(name: str) -> Iterator[None]:
    """Say in which part of the record a refusal arose."""
    try:
        yield
    except Refused as no:
        no.part = name
        raise


def verify(message: bytes, roster: Roster, run: bytes, prev_head: bytes) -> Verified:
    """Check a RECORD message without trusting its sender.

    Signatures, contexts, quorum, commitments, control words and head are checked here; that `result` is the hash of the
    sum needs the masked uploads, see `audit`.

    Args:
        message: the record. roster: pinned. run: 16 bytes. prev_head: the head that the round must extend.

    Raises:
        Refused: "record.*" or the code of the phase that does not hold, with the part of the record.
    """
    with _part("record"):
        record = RoundRecord.decode(unseal("record", message, roster.coordinator))
    with _part("plan"):
        plan = Plan.open(record.plan, roster)
        require(plan.run == run, "record.run", "the record of another run")
        require(plan.prev_head == prev_head, "record.fork", "the record extends another transcript")
    with _part("adverts"):
        cohort = read_adverts(record.adverts, plan, roster)
    with _part("share roots"):
        roots = read_share_roots(record.share_roots, cohort, plan, roster)
    sharers = tuple(root.index for root in roots)
    ctx2 = keys.context2(cohort.ctx1, sharers, [root.root for root in roots])
    with _part("upload headers"):
        survivors = read_survivors(record.headers, ctx2, sharers, plan, roster)
    with _part("survivors' signatures"):
        check_quorum(record.signatures, ctx2, survivors.statement, survivors.members, plan, roster)
    with _part("revealed secrets"):
        opened = _check_secrets(record, cohort, survivors.members, sharers, plan)
    with _part("control words"):
        check_control(np.array(record.control, dtype=WORD), len(survivors.members))
    with _part("head"):
        head = next_head(prev_head, ctx2, survivors.members, survivors.roots, record.result)
        require(head == record.head, "record.head", "the head does not follow from the record")
    signed_roots = dict(zip(survivors.members, survivors.roots, strict=True))
    return Verified(record, plan, cohort, sharers, survivors.members, signed_roots, ctx2, *opened)


def _check_secrets(
    record: RoundRecord, cohort: Cohort, survivors: tuple[int, ...], sharers: tuple[int, ...], plan: Plan
) -> tuple[dict[int, bytes], dict[int, bytes], dict[int, bytes]]:
    dropped = tuple(index for index in sharers if index not in survivors)
    selves, masks = check_secrets(record.self_secrets, record.mask_secrets, survivors, dropped, cohort, plan)
    pairs = 2 * suite_of(plan.suite).kem_bytes * len(survivors)
    whole = [len(agreed) for agreed in record.agreements] == [pairs] * len(dropped)
    require(whole, "record.secrets", "the record reveals too few or too many agreements")
    return selves, masks, dict(zip(dropped, record.agreements, strict=True))
