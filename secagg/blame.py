"""Who broke the protocol: proofs that anybody can check, and disputes that only their two parties can.

Two signed messages of one kind under one context, with different contents, prove that their signer equivocated. A box
that does not open is a dispute: its recipient says so with its signature, but the key that would show it is the
recipient's, and revealing that key would open the shares of everybody else. So a dispute convicts nobody; it decides
whom the next attempt leaves out.
"""

from collections.abc import Callable, Collection, Iterable

from .cover import Disputes
from .merkle import HASH
from .messages import Advert, Complaint, Indexed, Reveal, Rooted, open_member
from .opening import Opened, Verdict
from .plan import Plan
from .record import RoundRecord
from .refused import require
from .roster import Roster
from .wire import MAX_INDEX, unseal

COORDINATOR = -1
_MEMBER_KINDS: dict[str, Callable[[bytes], Indexed]] = {
    "advert": Advert.decode,
    "shares": Rooted.decode,
    "upload": Rooted.decode,
    "survive": Rooted.decode,
    "reveal": Reveal.decode,
    "opened": Opened.decode,
}
_BUNDLES = ("adverts", "survivors", "quorum", "opening")


def equivocation(kind: str, one: bytes, other: bytes, roster: Roster) -> int:
    """Prove that two envelopes of a kind contradict each other.

    Args:
        kind: "advert", "shares", "upload", "survive", "reveal" or "opened" of a member; "plan", "adverts", "survivors",
            "quorum", "opening" or "record" of the coordinator.
        one: a signed envelope.
        other: another one.

    Returns:
        The index of the member who signed both, or COORDINATOR.

    Raises:
        Refused: "blame.none" where the two do not contradict each other; "wire.*" where one is not what it claims.
    """
    if kind in _MEMBER_KINDS:
        signers = [_member(kind, envelope, roster) for envelope in (one, other)]
        require(signers[0] == signers[1], "blame.none", "messages of two organizations do not contradict each other")
        bodies = [unseal(kind, envelope, roster.members[signers[0]]) for envelope in (one, other)]
        slots = [body[:HASH] for body in bodies]
    else:
        signers = [COORDINATOR, COORDINATOR]
        bodies = [unseal(kind, envelope, roster.coordinator) for envelope in (one, other)]
        slots = [_slot(kind, body, roster) for body in bodies]
    require(slots[0] == slots[1] and bodies[0] != bodies[1], "blame.none", "the two messages do not contradict")
    return signers[0]


def _member(kind: str, envelope: bytes, roster: Roster) -> int:
    return open_member(kind, envelope, _MEMBER_KINDS[kind], roster).index


def _slot(kind: str, body: bytes, roster: Roster) -> bytes:
    """What a coordinator may say only once about: an attempt, a context, or the round after a head."""
    if kind in _BUNDLES:
        return body[:HASH]
    plan = Plan.decode(body) if kind == "plan" else Plan.open(RoundRecord.decode(body).plan, roster)
    if kind == "plan":
        return plan.run + plan.round.to_bytes(4, "big") + plan.attempt.to_bytes(4, "big")
    return plan.run + plan.prev_head


def left_out(
    complaints: Iterable[Complaint], n: int, threshold: int, withheld: Collection[int] = ()
) -> tuple[int, ...]:
    """Whom the next attempt leaves out: as few as it takes so that no dispute is between two that are in it.

    Every dispute has a liar on one side, so all disputes go with the liars, and the fewest with whom they go are never
    more than the liars. Whoever has disputes with more members than these is one of them. Of two that have no other
    dispute the accused goes; but who complained and withheld something later, and would count for two, goes itself.

    Args:
        complaints: of a round. n: of all members. threshold: t.
        withheld: members that complained in a round, and did not answer to the end of a later attempt at it.

    Guarantees:
        At most one honest member is left out for each liar, however many lie: it leaves in the place of a liar that
        stays. And with at most n - threshold liars at least threshold members stay, as a round needs.

        Liars can make the fewest hard to find. Where `cover.MAX_NODES` steps do not suffice, the first still holds with
        at most 2 threshold - n - 1 liars (no plan has a larger n - threshold), but up to twice as many leave as must.

    Returns:
        Indices, ascending.
    """
    pairs = [(complaint.index, complaint.accused) for complaint in complaints]
    # Who accuses whom decides between two that have no other dispute, and nothing else.
    turned = [(b, a) if a in withheld and b not in withheld else (a, b) for a, b in pairs]
    return Disputes(turned).settle(max(0, 2 * threshold - n - 1))


def spoilers(verdicts: Iterable[Verdict]) -> tuple[int, ...]:
    """Whom to do without after pieces of a run's spoiled sums were opened.

    The convicted, and the fewest with whom all disputes go that have none of the convicted: every dispute has a liar on
    one side. So at most one honest member is left out for each liar, over the whole run: a liar that brings one after
    the other into dispute soon has disputes with more members than it takes.

    Where an opening found neither, one of those who were silent spoiled the sum, or somebody lied about the stream that
    it shares with one of them; then the silent are left out. Some of them may be honest.

    Args:
        verdicts: of all openings of the run so far.

    Returns:
        Indices, ascending.
    """
    every = list(verdicts)
    convicted = {index for verdict in every for index in verdict.convicted}
    open_ = [pair for verdict in every for pair in verdict.disputes if not convicted & set(pair)]
    silent = {index for verdict in every if not (verdict.convicted or verdict.disputes) for index in verdict.silent}
    return tuple(sorted(convicted | silent | set(Disputes(open_).settle(MAX_INDEX))))
