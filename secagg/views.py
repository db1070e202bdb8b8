"""What one phase's messages say once every one of them was checked: shared by organizations, coordinator and auditors.

Each function refuses the whole bundle for one bad message: an honest coordinator passes on only what it checked itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from . import keys, merkle
from .messages import Advert, Reveal, Rooted, decode_inbox, decode_list, open_member, read_share
from .plan import Plan
from .refused import Refused, refuse, require
from .roster import Roster
from .state import State
from .suites import COMMITMENTS_BYTES, Suite, suite_of
from .wire import Reader, digest, unseal


@dataclass(frozen=True)
class Cohort:
    """U1: who advertised, and ctx1."""

    members: tuple[int, ...]
    envelopes: tuple[bytes, ...]
    adverts: dict[int, Advert]
    ctx1: bytes

    def others(self, index: int) -> tuple[int, ...]:
        """U1 without one."""
        return tuple(member for member in self.members if member != index)


@dataclass(frozen=True)
class Inbox:
    """U2 as one recipient sees it: ctx2, and by sender the opened shares (of b, of mk) and the offers, not its own."""

    members: tuple[int, ...]
    ctx2: bytes
    shares: dict[int, tuple[int, int]]
    offers: dict[int, bytes]


@dataclass(frozen=True)
class Survivors:
    """U3: whose masked uploads are in the sum, and the statement to sign."""

    members: tuple[int, ...]
    envelopes: tuple[bytes, ...]
    roots: tuple[bytes, ...]
    statement: bytes


def leaf(ctx1: bytes, sender: int, recipient: int, box: bytes) -> bytes:
    """The leaf of one box."""
    return digest("leaf", ctx1, sender.to_bytes(2, "big"), recipient.to_bytes(2, "big"), box)


def box_leaves(ctx1: bytes, sender: int, recipients: Sequence[int], boxes: Sequence[bytes]) -> list[bytes]:
    """The leaves of all boxes of one sender, in the order of U1 without the sender."""
    return [leaf(ctx1, sender, to, box) for to, box in zip(recipients, boxes, strict=True)]


def share_root(ctx1: bytes, sender: int, top: bytes) -> bytes:
    """The root that the sender signs: the top of the tree over `box_leaves`."""
    return digest("share-root", ctx1, sender.to_bytes(2, "big"), top)


def _ordered(indices: Sequence[int], code: str) -> tuple[int, ...]:
    require(all(a < b for a, b in pairwise(indices)), code, "a member twice, or out of order")
    return tuple(indices)


def read_adverts(envelopes: tuple[bytes, ...], plan: Plan, roster: Roster) -> Cohort:
    """U1 from signed adverts; Refused("wire.*", "adverts.*")."""
    ctx0, suite = plan.ctx0, suite_of(plan.suite)
    adverts = [open_member("advert", envelope, Advert.decode, roster) for envelope in envelopes]
    for advert in adverts:
        require(advert.ctx0 == ctx0, "adverts.context", "an advert of another round", advert.index)
        sized = len(advert.mask_key) == len(advert.channel_key) == suite.public_bytes
        require(sized, "adverts.key", "an advert with keys of another suite", advert.index)
    members = _ordered([advert.index for advert in adverts], "adverts.order")
    public = [key for advert in adverts for key in (advert.mask_key, advert.channel_key)]
    require(len(set(public)) == len(public), "adverts.duplicate", "two adverts with the same key")
    enough = len(members) >= plan.threshold
    require(enough, "adverts.too_few", f"{len(members)} adverts, but the threshold is {plan.threshold}")
    return Cohort(members, envelopes, dict(zip(members, adverts, strict=True)), keys.context1(ctx0, envelopes))


def open_adverts(bundle: bytes, plan: Plan, roster: Roster) -> Cohort:
    """The bundle of P1."""
    context, envelopes = decode_list(unseal("adverts", bundle, roster.coordinator))
    require(context == plan.ctx0, "adverts.context", "the adverts of another round")
    return read_adverts(envelopes, plan, roster)


def read_share_roots(envelopes: Sequence[bytes], cohort: Cohort, plan: Plan, roster: Roster) -> tuple[Rooted, ...]:
    """U2 from signed share roots; Refused("wire.*", "shares.*")."""
    roots = tuple(open_member("shares", envelope, Rooted.decode, roster) for envelope in envelopes)
    for root in roots:
        require(root.context == cohort.ctx1, "shares.context", "shares of another round or view", root.index)
    members = _ordered([root.index for root in roots], "shares.order")
    require(set(members) <= set(cohort.members), "shares.stranger", "shares of an organization without an advert")
    enough = len(members) >= plan.threshold
    require(enough, "shares.too_few", f"{len(members)} sets of shares, but the threshold is {plan.threshold}")
    return roots


def open_inbox(
    bundle: bytes, cohort: Cohort, plan: Plan, roster: Roster, index: int, channel_secret: bytes, own_root: bytes
) -> Inbox:
    """The bundle of P2 for `index`; a sender whose box does not match or open is named."""
    context, parts = decode_inbox(unseal("inbox", bundle, roster.coordinator))
    require(context == cohort.ctx1, "shares.context", "the shares of another round or view")
    roots = read_share_roots([part.root for part in parts], cohort, plan, roster)
    require(own_root in [part.root for part in parts], "shares.own", "the own shares are missing or altered")
    suite, shares, offers = suite_of(plan.suite), {}, {}
    for root, part in zip(roots, parts, strict=True):
        if root.index == index:
            require(not part.path and not part.box, "shares.own", "a box to oneself")
        else:
            check_box(cohort, root, index, part.path, part.box, suite)
            sealed, offers[root.index], committed = split_box(part.box, suite)
            public = cohort.adverts[root.index].channel_key
            plain = keys.open_share(suite, channel_secret, public, cohort.ctx1, root.index, index, sealed)
            shares[root.index] = _two_shares(plain, root.index)
            same = keys.share_commitments(cohort.ctx1, root.index, index, shares[root.index]) == committed
            require(same, "share.range", f"organization {root.index} committed to other shares", root.index)
    members = tuple(root.index for root in roots)
    ctx2 = keys.context2(cohort.ctx1, members, [root.root for root in roots])
    return Inbox(members, ctx2, shares, offers)


def split_box(box: bytes, suite: Suite) -> tuple[bytes, bytes, bytes]:
    """The sealed shares, the offer and the commitments to the shares of a box of the right size."""
    return box[: suite.sealed_bytes], box[suite.sealed_bytes : -COMMITMENTS_BYTES], box[-COMMITMENTS_BYTES:]


def check_box(cohort: Cohort, root: Rooted, recipient: int, path: Sequence[bytes], box: bytes, suite: Suite) -> None:
    """Refuse a box that is not the one that its sender signed."""
    sender, others = root.index, cohort.others(root.index)
    require(len(box) == suite.box_bytes, "shares.size", f"a box of organization {sender} of a wrong size", sender)
    top = merkle.climb(leaf(cohort.ctx1, sender, recipient, box), others.index(recipient), len(others), path)
    same = top is not None and share_root(cohort.ctx1, sender, top) == root.root
    require(same, "shares.leaf", f"the box of organization {sender} is not the one that it signed", sender)


def _two_shares(plain: bytes, sender: int) -> tuple[int, int]:
    try:
        reader = Reader(plain)
        pair = (read_share(reader), read_share(reader))
        reader.end()
    except Refused:
        refuse("share.range", f"organization {sender} sealed something that is not two shares", sender)
    return pair


def read_survivors(
    envelopes: tuple[bytes, ...], ctx2: bytes, sharers: tuple[int, ...], plan: Plan, roster: Roster
) -> Survivors:
    """U3 from signed upload headers; Refused("wire.*", "survivors.*")."""
    headers = [open_member("upload", envelope, Rooted.decode, roster) for envelope in envelopes]
    for header in headers:
        require(header.context == ctx2, "survivors.context", "an upload of another round or view", header.index)
    members = _ordered([header.index for header in headers], "survivors.order")
    require(set(members) <= set(sharers), "survivors.stranger", "an upload of an organization without shares")
    enough = len(members) >= plan.min_survivors
    require(enough, "survivors.too_few", f"{len(members)} uploads, but the plan asks for {plan.min_survivors}")
    roots = tuple(header.root for header in headers)
    return Survivors(members, envelopes, roots, keys.survivors_statement(ctx2, members, roots))


def open_survivors(bundle: bytes, ctx2: bytes, sharers: tuple[int, ...], plan: Plan, roster: Roster) -> Survivors:
    """The bundle of P3."""
    context, envelopes = decode_list(unseal("survivors", bundle, roster.coordinator))
    require(context == ctx2, "survivors.context", "the survivors of another round or view")
    return read_survivors(envelopes, ctx2, sharers, plan, roster)


def check_quorum(
    envelopes: tuple[bytes, ...], ctx2: bytes, statement: bytes, survivors: tuple[int, ...], plan: Plan, roster: Roster
) -> None:
    """At least t distinct survivors signed this statement; Refused("wire.*", "quorum.*")."""
    signed = [open_member("survive", envelope, Rooted.decode, roster) for envelope in envelopes]
    for message in signed:
        same = message.context == ctx2 and message.root == statement
        require(same, "quorum.statement", "a signature on other survivors", message.index)
    members = _ordered([message.index for message in signed], "quorum.order")
    require(set(members) <= set(survivors), "quorum.stranger", "a signature of an organization outside the survivors")
    enough = len(members) >= plan.threshold
    require(enough, "quorum.too_few", f"{len(members)} signatures, but the threshold is {plan.threshold}")


def open_quorum(
    bundle: bytes, ctx2: bytes, statement: bytes, survivors: tuple[int, ...], plan: Plan, roster: Roster
) -> None:
    """The bundle of P4."""
    context, envelopes = decode_list(unseal("quorum", bundle, roster.coordinator))
    require(context == ctx2, "quorum.context", "the signatures of another round or view")
    check_quorum(envelopes, ctx2, statement, survivors, plan, roster)


def reveal(state: State) -> Reveal:
    """Shares of b of the survivors and of mk of the others in U2: one secret for each organization, never both."""
    dropped = [owner for owner in state.sharers if owner not in state.survivors]
    return Reveal(
        state.statement,
        state.index,
        tuple((owner, state.held[owner][0]) for owner in state.survivors),
        tuple((owner, state.held[owner][1]) for owner in dropped),
    )
