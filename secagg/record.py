"""P5: the record of a round and the chain of heads that every organization extends by itself."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from . import keys
from .control import CONTROL_WORDS, check_control
from .masking import WORD, WORD_BYTES
from .messages import HASH
from .plan import Plan
from .refused import require
from .roster import Roster
from .views import Cohort, check_quorum, read_adverts, read_share_roots, read_survivors
from .wire import Reader, Writer, digest, seal, unseal


def genesis(run: bytes, roster: Roster) -> bytes:
    """The head before the first round."""
    return digest("genesis", run, roster.hash)


def result_hash(ctx2: bytes, words: NDArray[np.uint64]) -> bytes:
    """Hash of the unmasked sum, uint64 little-endian [encoding.words], without the control block."""
    return digest("result", ctx2, words.astype(WORD, copy=False).data.cast("B"))


def next_head(
    previous: bytes, ctx2: bytes, survivors: tuple[int, ...], roots: tuple[bytes, ...], result: bytes
) -> bytes:
    """head_r = H(head_{r-1}, ctx2, U3, H(roots), result hash)."""
    return digest("head", previous, ctx2, bytes(Writer().indices(survivors)), digest("roots", *roots), result)


@dataclass(frozen=True)
class RoundRecord:
    """Every signed message of a round that ended well, and what was revealed.

    Attributes:
        plan: PLAN message. adverts, share_roots, headers, signatures: envelopes of U1, U2, U3 and the quorum, in order.
        self_secrets: b of U3 in order. mask_secrets: mk of U2 without U3 in order.
        control: the eight summed control words, big-endian. result: `result_hash`. head: `next_head`.
    """

    plan: bytes
    adverts: tuple[bytes, ...]
    share_roots: tuple[bytes, ...]
    headers: tuple[bytes, ...]
    signatures: tuple[bytes, ...]
    self_secrets: tuple[bytes, ...]
    mask_secrets: tuple[bytes, ...]
    control: tuple[int, ...]
    result: bytes
    head: bytes

    def sign(self, coordinator_key: Ed25519PrivateKey) -> bytes:
        """The RECORD message."""
        writer = Writer().blob(self.plan)
        for envelopes in (self.adverts, self.share_roots, self.headers, self.signatures):
            writer.blobs(envelopes)
        writer.blobs(self.self_secrets).blobs(self.mask_secrets)
        for word in self.control:
            writer.uint(word, WORD_BYTES)
        return seal("record", bytes(writer.fixed(self.result, HASH).fixed(self.head, HASH)), coordinator_key)

    @classmethod
    def decode(cls, body: bytes) -> "RoundRecord":
        """Strict parse; Refused("wire.*")."""
        reader = Reader(body)
        plan = reader.blob()
        adverts, roots, headers, signatures, selves, masks = (reader.blobs() for _ in range(6))
        control = tuple(reader.uint(WORD_BYTES) for _ in range(CONTROL_WORDS))
        result, head = reader.fixed(HASH), reader.fixed(HASH)
        reader.end()
        return cls(plan, adverts, roots, headers, signatures, selves, masks, control, result, head)


@dataclass(frozen=True)
class Verified:
    """A record that holds.

    Attributes:
        cohort: U1. sharers: U2. survivors: U3. ctx2: the context of the masks.
        self_secrets, mask_secrets: what was rebuilt, by owner.
    """

    record: RoundRecord
    plan: Plan
    cohort: Cohort
    sharers: tuple[int, ...]
    survivors: tuple[int, ...]
    ctx2: bytes
    self_secrets: Mapping[int, bytes]
    mask_secrets: Mapping[int, bytes]

    @property
    def head(self) -> bytes:
        """The new head of the transcript."""
        return self.record.head


def verify(message: bytes, roster: Roster, run: bytes, prev_head: bytes) -> Verified:
    """Check a RECORD message without trusting its sender.

    Signatures, contexts, quorum, commitments, control words and head are checked here; that `result` is the hash of the
    sum needs the sum or the masked uploads.

    Args:
        message: the record. roster: pinned. run: 16 bytes. prev_head: the head that the round must extend.

    Raises:
        Refused: "record.*" or the code of the phase that does not hold.
    """
    record = RoundRecord.decode(unseal("record", message, roster.coordinator))
    plan = Plan.open(record.plan, roster)
    require(plan.run == run, "record.run", "the record of another run")
    require(plan.prev_head == prev_head, "record.fork", "the record extends another transcript")
    cohort = read_adverts(record.adverts, plan, roster)
    roots = read_share_roots(record.share_roots, cohort, plan, roster)
    sharers = tuple(root.index for root in roots)
    ctx2 = keys.context2(cohort.ctx1, sharers, [root.root for root in roots])
    survivors = read_survivors(record.headers, ctx2, sharers, plan, roster)
    check_quorum(record.signatures, ctx2, survivors.statement, survivors.members, plan, roster)
    dropped = tuple(index for index in sharers if index not in survivors.members)
    opened = _check_secrets(record, cohort, survivors.members, dropped, plan.ctx0)
    check_control(np.array(record.control, dtype=WORD), len(survivors.members))
    head = next_head(prev_head, ctx2, survivors.members, survivors.roots, record.result)
    require(head == record.head, "record.head", "the head does not follow from the record")
    return Verified(record, plan, cohort, sharers, survivors.members, ctx2, *opened)


def _check_secrets(
    record: RoundRecord, cohort: Cohort, survivors: tuple[int, ...], dropped: tuple[int, ...], ctx0: bytes
) -> tuple[dict[int, bytes], dict[int, bytes]]:
    counted = (len(record.self_secrets), len(record.mask_secrets)) == (len(survivors), len(dropped))
    sized = all(len(secret) == keys.SECRET_BYTES for secret in (*record.self_secrets, *record.mask_secrets))
    require(counted and sized, "record.secrets", "the record reveals too few or too many secrets")
    selves = dict(zip(survivors, record.self_secrets, strict=True))
    masks = dict(zip(dropped, record.mask_secrets, strict=True))
    committed = all(keys.commitment(ctx0, i, b) == cohort.adverts[i].commitment for i, b in selves.items())
    matched = all(keys.public_half(mk) == cohort.adverts[i].mask_key for i, mk in masks.items())
    require(committed and matched, "record.secrets", "a revealed secret is not the one its owner committed to")
    return selves, masks
