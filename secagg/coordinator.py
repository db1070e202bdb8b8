"""The server's side of one attempt at one round: it sees signatures, sealed shares, masked words and, last, a sum.

A message that does not hold is left out and noted; the round goes on without its sender. Too few messages end the
attempt with `Refused("round.too_few")` when a phase is closed. Uploads are added to one running sum as they arrive.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import keys, masking, merkle
from .collecting import Collector, Rejection, Step
from .control import CONTROL_WORDS, check_control
from .identity import Identity, raw_public
from .limits import NormLimits, check_norms, check_values
from .masking import WORD
from .merkle import HASH
from .messages import OFFER, Advert, Complaint, Inbound, Reveal, Rooted, Shares, encode_inbox, encode_list, open_member
from .opening import Opened, Opening, Spoiled, Verdict, check_opened, check_opening, first_fault, judge
from .pieces import Piece
from .plan import Plan
from .record import RoundRecord, next_head
from .recovery import agreements, rebuild_secrets, remaining_streams
from .refused import Refused, refuse, require
from .roster import Roster
from .suites import suite_of
from .views import Cohort, Survivors, box_leaves, read_adverts, read_survivors, share_root, split_box
from .wire import seal


@dataclass(frozen=True)
class RoundSum:
    """What a round comes to.

    Attributes:
        values: float64 [dimension], the sum over the survivors, in the unit of the vectors.
        survivors: U3.
        record: the signed RECORD message for every organization.
        head: the new head of the transcript.
        words: the bare sum, uint64 [8 + encoding.words], control block first: what `result` of the record hashes.
    """

    values: NDArray[np.float64]
    survivors: tuple[int, ...]
    record: bytes
    head: bytes
    words: NDArray[np.uint64]


class Coordinator(Collector):
    """The state machine: add, close, add, close, ..., result.

    Args:
        roster: of the charter. plan: of this attempt. key: the identity that the roster names as the coordinator's.
        limits: of the norms in a sum; None where it has none.

    The `index` of each add is the sender as the transport knows it; it must be the one that signed. Every add returns
    whether the message counts; `rejections` says why one did not.

    Raises:
        Refused: "plan.*" where no organization would accept the plan; "coordinator.key".
    """

    def __init__(self, roster: Roster, plan: Plan, key: Identity, limits: NormLimits | None = None) -> None:
        plan.check(roster)
        require(
            raw_public(key) == roster.coordinator, "coordinator.key", "the key is not the coordinator's of the roster"
        )
        super().__init__(roster, plan)
        self._key, self._limits = key, limits
        self._suite = suite_of(plan.suite)
        self._shares: dict[int, Shares] = {}
        self._paths: dict[int, list[tuple[bytes, ...]]] = {}
        self._offers: dict[tuple[int, int], bytes] = {}
        self._committed: dict[tuple[int, int], bytes] = {}
        self._root_envelopes: dict[int, bytes] = {}
        self._share_roots: dict[int, Rooted] = {}
        self._reveals: dict[int, Reveal] = {}
        self._public: set[bytes] = set()
        self._sum = np.zeros(CONTROL_WORDS + plan.encoding.words, dtype=WORD)
        self._cohort: Cohort
        self._survivors: Survivors
        self._ctx2 = b""
        self._opening: Opening
        self._uncovered: dict[int, NDArray[np.uint64]] = {}
        self._opened: dict[int, Opened] = {}
        self.complaints: dict[int, Complaint] = {}
        self.plan_message = plan.sign(key)

    @property
    def context(self) -> bytes:
        """ctx2, once the shares are closed: what binds the roots of the uploads to the round."""
        return self._ctx2

    def add_advert(self, index: int, message: bytes) -> bool:
        """P0 answer of one organization."""
        return self._take(Step.ADVERTS, index, message, lambda: self._check_advert(index, message))

    def _check_advert(self, index: int, message: bytes) -> None:
        advert = open_member("advert", message, Advert.decode, self._roster)
        require(advert.index == index, "message.index", "signed by another organization than the sender")
        require(advert.ctx0 == self._plan.ctx0, "adverts.context", "an advert of another round")
        public = {advert.mask_key, advert.channel_key}
        require(len(public) == 2 and not public & self._public, "adverts.duplicate", "a key that is already in use")
        for key in public:
            self._suite.check_public(key)
        self._public |= public

    def close_adverts(self) -> bytes:
        """End P0. Returns the bundle for every member of `present(ADVERTS)`."""
        envelopes = self._closed(Step.ADVERTS)
        self._cohort = read_adverts(envelopes, self._plan, self._roster)
        return seal("adverts", encode_list(self._plan.ctx0, envelopes), self._key)

    def add_shares(self, index: int, message: bytes) -> bool:
        """P1 answer of one organization."""
        return self._take(Step.SHARES, index, message, lambda: self._check_shares(index, message))

    def _check_shares(self, index: int, message: bytes) -> None:
        shares = Shares.decode(message)
        root = self._rooted("shares", index, shares.root, self._cohort.ctx1)
        require(index in self._cohort.members, "shares.stranger", "shares without an advert")
        others = self._cohort.others(index)
        whole = len(shares.boxes) == len(others) and all(len(box) == self._suite.box_bytes for box in shares.boxes)
        require(whole, "shares.size", "not one box of the right size for each other organization")
        leaves = box_leaves(self._cohort.ctx1, index, others, shares.boxes)
        signed = share_root(self._cohort.ctx1, index, merkle.top(leaves)) == root.root
        require(signed, "shares.root", "the boxes are not those that were signed")
        self._shares[index], self._share_roots[index], self._paths[index] = shares, root, merkle.paths(leaves)

    def close_shares(self) -> dict[int, bytes]:
        """End P1. Returns for each member of U2 its own bundle."""
        self._closed(Step.SHARES)
        members = self.present(Step.SHARES)
        self._ctx2 = keys.context2(self._cohort.ctx1, members, [self._share_roots[i].root for i in members])
        inboxes = {member: self._inbox(member, members) for member in members}
        self._root_envelopes = {member: self._shares[member].root for member in members}
        for sender in members:
            for to, box in zip(self._cohort.others(sender), self._shares[sender].boxes, strict=True):
                _, self._offers[sender, to], self._committed[sender, to] = split_box(box, self._suite)
        self._shares, self._paths = {}, {}
        return inboxes

    def _inbox(self, recipient: int, senders: tuple[int, ...]) -> bytes:
        parts = []
        for sender in senders:
            shares = self._shares[sender]
            if sender == recipient:
                parts.append(Inbound(shares.root, (), b""))
            else:
                position = self._cohort.others(sender).index(recipient)
                parts.append(Inbound(shares.root, self._paths[sender][position], shares.boxes[position]))
        return seal("inbox", encode_inbox(self._cohort.ctx1, tuple(parts)), self._key)

    def add_upload(self, index: int, header: bytes, words: NDArray[np.uint64]) -> bool:
        """P2 answer of one organization: its signed header and masked words, uint64 [8 + encoding.words].

        The words are added to the running sum and not kept.
        """
        return self._take(Step.UPLOADS, index, header, lambda: self._check_upload(index, header, words))

    def _check_upload(self, index: int, header: bytes, words: NDArray[np.uint64]) -> None:
        rooted = self._rooted("upload", index, header, self._ctx2)
        require(index in self._share_roots, "survivors.stranger", "an upload without shares")
        shaped = words.dtype == WORD and words.shape == self._sum.shape and words.flags.c_contiguous
        require(shaped, "upload.shape", "masked words of the wrong type or length")
        same = merkle.root(words, self._ctx2, index) == rooted.root
        require(same, "upload.root", "the masked words are not those that were signed")
        np.add(self._sum, words, out=self._sum)

    def add_complaint(self, index: int, message: bytes) -> bool:
        """P2 answer of an organization that cannot use a box: it does not upload, and `blame` says what follows."""
        try:
            require(self._step is Step.UPLOADS, "message.late", f"collecting {self._step.name}, not UPLOADS")
            complaint = open_member("complaint", message, Complaint.decode, self._roster)
            require(complaint.index == index, "message.index", "signed by another organization than the sender")
            require(complaint.ctx1 == self._cohort.ctx1, "message.context", "a complaint of another round or view")
            offered = complaint.reason != OFFER or bool(self._suite.kem_bytes)
            require(offered, "complaint.reason", "a complaint about an offer in a suite without offers")
            known = {index, complaint.accused} <= set(self._share_roots) and index != complaint.accused
            require(known, "complaint.stranger", "a complaint by or about an organization without shares")
        except Refused as no:
            self.rejections.append(Rejection(index, Step.UPLOADS, no.code))
            return False
        self.complaints[index] = complaint
        return True

    def close_uploads(self) -> bytes:
        """End P2: whoever is not in now is dropped. Returns the bundle for every survivor."""
        envelopes = self._closed(Step.UPLOADS)
        sharers = tuple(sorted(self._share_roots))
        self._survivors = read_survivors(envelopes, self._ctx2, sharers, self._plan, self._roster)
        return seal("survivors", encode_list(self._ctx2, envelopes), self._key)

    def add_survival(self, index: int, message: bytes) -> bool:
        """P3 answer of one survivor."""
        return self._take(Step.SURVIVALS, index, message, lambda: self._check_survival(index, message))

    def _check_survival(self, index: int, message: bytes) -> None:
        rooted = self._rooted("survive", index, message, self._ctx2)
        require(rooted.root == self._survivors.statement, "quorum.statement", "a signature on other survivors")
        require(index in self._survivors.members, "quorum.stranger", "a signature from outside the survivors")

    def close_survival(self) -> bytes:
        """End P3. Returns the bundle for every survivor."""
        envelopes = self._closed(Step.SURVIVALS)
        return seal("quorum", encode_list(self._ctx2, envelopes), self._key)

    def add_reveal(self, index: int, message: bytes) -> bool:
        """P4 answer of one survivor."""
        return self._take(Step.REVEALS, index, message, lambda: self._check_reveal(index, message))

    def _check_reveal(self, index: int, message: bytes) -> None:
        reveal = open_member("reveal", message, Reveal.decode, self._roster)
        require(reveal.index == index, "message.index", "signed by another organization than the sender")
        require(reveal.statement == self._survivors.statement, "reveal.statement", "shares for other survivors")
        require(index in self._survivors.members, "reveal.stranger", "shares from outside the survivors")
        owners = tuple(tuple(owner for owner, _ in part) for part in (reveal.self_shares, reveal.mask_shares))
        require(owners == (self._survivors.members, self._dropped), "reveal.owners", "not one share for each of U2")
        for owner, value in reveal.self_shares:
            self._check_share("b", owner, index, value)
        for owner, value in reveal.mask_shares:
            self._check_share("mk", owner, index, value)
        self._reveals[index] = reveal

    def _check_share(self, of: str, owner: int, holder: int, value: int) -> None:
        """A share that its owner did not commit to convicts its holder, who did not complain; its own is committed to
        by nobody.
        """
        if owner != holder:
            committed = self._committed[owner, holder]
            half = committed[:HASH] if of == "b" else committed[HASH:]
            same = keys.share_commitment(self._cohort.ctx1, owner, holder, of, value) == half
            require(same, "reveal.share", f"not the share that organization {owner} committed to", holder)

    @property
    def _dropped(self) -> tuple[int, ...]:
        return tuple(sorted(set(self._share_roots) - set(self._survivors.members)))

    def result(self) -> RoundSum:
        """End P4: rebuild the secrets, take the masks off, check, decode, write the record.

        Raises:
            Refused: "round.too_few", "unmask.secret"; "sum.control", "sum.range" and "sum.norm" where somebody spoiled
                the sum: `fault` and what follows it may find out who.
        """
        plan, survivors = self._plan, self._survivors
        self_secrets, mask_secrets, agreed, total = self._bare()
        control, words = total[:CONTROL_WORDS], total[CONTROL_WORDS:]
        check_control(control, len(survivors.members))
        values = plan.encoding.decode(words, len(survivors.members))
        if self._limits is not None:
            check_values(plan.encoding, values, survivors.members, self._limits)
        result = merkle.root(total, self._ctx2, merkle.SUM)
        head = next_head(plan.prev_head, self._ctx2, survivors.members, survivors.roots, result)
        record = RoundRecord(
            plan=self.plan_message,
            adverts=self._cohort.envelopes,
            share_roots=tuple(self._root_envelopes[i] for i in self.present(Step.SHARES)),
            headers=survivors.envelopes,
            signatures=self._envelopes(Step.SURVIVALS),
            self_secrets=tuple(self_secrets.values()),
            mask_secrets=tuple(mask_secrets.values()),
            agreements=tuple(agreed.values()),
            control=tuple(int(word) for word in control),
            result=result,
            head=head,
        )
        self._step = Step.DONE
        return RoundSum(values, survivors.members, record.sign(self._key), head, total)

    def _bare(self) -> tuple[dict[int, bytes], dict[int, bytes], dict[int, bytes], NDArray[np.uint64]]:
        """b of the survivors, mk of the dropped, what those had agreed upon, and the sum without its masks."""
        self._enough(Step.REVEALS)
        self_secrets, mask_secrets = rebuild_secrets(self._reveals, self._cohort, self._plan)
        agreed = agreements(mask_secrets, self._survivors.members, self._cohort, self._offers, self._suite)
        total = self._sum.copy()  # the masked sum stays whole, so that more shares may be added after a refusal
        streams = remaining_streams(self_secrets, mask_secrets, agreed, self._cohort, self._ctx2, self._suite)
        masking.apply(total, streams)
        return self_secrets, mask_secrets, agreed, total

    def fault(self) -> int:
        """The piece to open after `result` refused a sum: the first one whose control block or lanes are none, else
        the one most beyond the limit of its norm.

        Raises:
            Refused: "open.sound" where there is nothing wrong with the sum; else as `result`.
        """
        return self._fault(self._bare()[3])

    def _fault(self, total: NDArray[np.uint64]) -> int:
        encoding, members = self._plan.encoding, self._survivors.members
        number = first_fault(encoding, total, members)
        if number is not None:
            return number
        try:
            if self._limits is not None:
                check_norms(encoding, total, members, self._limits)
        except Refused as no:
            return no.piece or 0
        refuse("open.sound", "there is nothing wrong with the sum")

    def opening_request(self, piece_of: Callable[[int, int], Piece]) -> bytes:
        """P6, for every survivor: what shows that the piece at fault is no sum. From here on answers are collected.

        Args:
            piece_of: (survivor, number) -> that piece of its upload, with its path; uploads are kept by the caller.

        Raises:
            Refused: as `fault` and `check_opening`: "open.dropped" in suite hybrid after a dropout, "open.piece" where
                a piece is not what its owner signed.
        """
        self_secrets, mask_secrets, _, total = self._bare()
        number, survivors = self._fault(total), self._survivors
        secrets = (tuple(self_secrets.values()), tuple(mask_secrets.values()))
        pieces = tuple(piece_of(index, number) for index in survivors.members)
        opening = Opening(survivors.statement, number, survivors.roots, *secrets, pieces)
        self._uncovered = check_opening(opening, self._spoiled, self._limits)
        self._opening, self._step = opening, Step.OPENINGS
        return seal("opening", opening.encode(), self._key)

    @property
    def _spoiled(self) -> Spoiled:
        view = (self._cohort, self.present(Step.SHARES), self._survivors.members, self._ctx2)
        return Spoiled(self._plan, *view, self._survivors.statement)

    def add_opened(self, index: int, message: bytes) -> bool:
        """P6 answer of one survivor."""
        return self._take(Step.OPENINGS, index, message, lambda: self._check_opened(index, message))

    def _check_opened(self, index: int, message: bytes) -> None:
        opened = open_member("opened", message, Opened.decode, self._roster)
        require(opened.index == index, "message.index", "signed by another organization than the sender")
        check_opened(opened, self._spoiled, self._opening)
        self._opened[index] = opened

    def verdict(self) -> Verdict:
        """End P6: what the answers say about who spoiled the sum, see `judge`; more may still be added.

        Raises:
            Refused: "round.order" before `opening_request`.
        """
        require(self._step is Step.OPENINGS, "round.order", "no piece is being opened")
        return judge(self._spoiled, self._opening, self._uncovered, self._opened, self._limits)
