"""One organization in one attempt at one round: P0 to P4 as five calls, each of which may run in its own process.

The caller stores `dump()` (0600) after each call and before it sends the reply. Everything that is signed goes to the
journal first, so an old dump cannot be made to sign a second, different message of the same kind.
"""

import numpy as np
from numpy.typing import NDArray

from . import keys, masking, merkle, shamir
from .admission import Expected, admit
from .control import BLOCK, CONTROL_WORDS
from .identity import Identity, raw_public
from .journal import OPENED, SURVIVE, Journal
from .limits import NormLimits
from .messages import NONSENSE, OFFER, SEAL, Advert, Complaint, Rooted, Shares
from .opening import Opened, Opening, Spoiled, check_opening, stream_words
from .plan import Plan
from .refused import Refused, require
from .roster import Roster
from .state import Phase, State
from .suites import suite_of
from .views import (
    Cohort,
    Inbox,
    box_leaves,
    open_adverts,
    open_inbox,
    open_quorum,
    open_survivors,
    read_adverts,
    reveal,
    share_root,
)
from .wire import Writer, digest, seal, unseal

_REASONS = {"share.seal": SEAL, "share.range": NONSENSE, "share.offer": OFFER}


class Organization:
    """The state machine. Build it by `begin` or `load`.

    Guarantees: an individual vector leaves only under masks that at least `threshold` organizations would have to undo;
    at most one statement about survivors is signed in a round, whatever the attempt; shares of both secrets of one
    organization are never revealed. A call that raises `Refused` signs nothing and leaves the state as it was.
    """

    def __init__(self, roster: Roster, identity: Identity, journal: Journal, state: State, plan: Plan) -> None:
        self._roster, self._identity, self._journal = roster, identity, journal
        self._state, self._plan, self._suite = state, plan, suite_of(plan.suite)
        require(state.index < roster.n, "state.index", "this organization is not in the roster")
        own = raw_public(identity) == roster.members[state.index]
        require(own, "state.identity", "the identity key is not the one in the roster")

    @classmethod
    def begin(
        cls,
        roster: Roster,
        index: int,
        identity: Identity,
        plan_message: bytes,
        expected: Expected,
        journal: Journal,
    ) -> "Organization":
        """P0: check the plan against what is known here and draw the round's secrets.

        Call it after training: from here on a dropout hurts the others.

        Args:
            roster: pinned by the charter. index: one's own. identity: the key that the roster names.
            plan_message: the coordinator's PLAN. expected: see `Expected`. journal: see `Journal`.

        Raises:
            Refused: see `admit`; "journal.conflict" where this attempt was begun before.
        """
        plan = admit(plan_message, roster, expected, journal)
        b, mk, ck = (keys.new_secret() for _ in range(3))
        suite = suite_of(plan.suite)
        public = (suite.public_half(mk), suite.public_half(ck))
        body = Advert(plan.ctx0, index, *public, keys.commitment(plan.ctx0, index, b)).encode()
        organization = cls(
            roster, identity, journal, State(Phase.ADVERTISED, index, plan_message, b"", (b, mk, ck)), plan
        )
        organization._state.advert = organization._sign("advert", body)
        return organization

    @property
    def advert(self) -> bytes:
        """The ADVERT message."""
        return self._state.advert

    @property
    def phase(self) -> Phase:
        """How far this attempt went."""
        return self._state.phase

    @property
    def saturated(self) -> int:
        """Coordinates of the own vector that were cut to their bound. For the people here; never sent."""
        return self._state.saturated

    @property
    def context(self) -> bytes:
        """ctx2, after `mask`: the round record must have the same."""
        return self._state.ctx2

    def share(self, adverts_bundle: bytes) -> bytes:
        """P1: check all adverts, then share b and mk among U1.

        Returns:
            The SHARES message: a signed root over the boxes, and the boxes.

        Raises:
            Refused: "phase", "wire.*", "keys.*", "adverts.*".
        """
        state = self._at(Phase.ADVERTISED)
        view = open_adverts(adverts_bundle, self._plan, self._roster)
        require(state.advert in view.envelopes, "adverts.own", "the own advert is missing or altered")
        shares, others = self._split(view), view.others(state.index)
        offers = [self._offer(view, peer) for peer in others]
        boxes = tuple(
            self._seal(view, peer, shares[peer])
            + carried
            + keys.share_commitments(view.ctx1, state.index, peer, shares[peer])
            for peer, (_, carried) in zip(others, offers, strict=True)
        )
        leaves = box_leaves(view.ctx1, state.index, others, boxes)
        root = share_root(view.ctx1, state.index, merkle.top(leaves))
        envelope = self._sign("shares", Rooted(view.ctx1, state.index, root).encode())
        state.adverts, state.own_root = view.envelopes, envelope
        state.offered = tuple(secret for secret, _ in offers)
        state.held = {state.index: shares[state.index]}
        state.phase = Phase.SHARED
        return Shares(envelope, boxes).encode()

    def mask(
        self, inbox: bytes, vector: NDArray[np.floating], workers: int = 1, *, keep_seeds: bool = False
    ) -> tuple[bytes, NDArray[np.uint64]]:
        """P2: check and open every share, encode the vector, mask it.

        Args:
            inbox: this organization's bundle.
            vector: float64 or float32 [dimension]. workers: threads; the words do not depend on it.
            keep_seeds: whether a piece of this vector may be opened later, see `open`: never where the noise on it is
                shared with others, since then its piece alone has too little.

        Returns:
            The signed header, and the masked words, little-endian uint64 [8 + encoding.words]: uniform to anyone who
            lacks a threshold of shares. The own secrets are forgotten, but for the seeds that are to be kept.

        Raises:
            Refused: "phase", "wire.*", "shares.*", "vector.*"; "share.seal", "share.range" and "share.offer" name the
                sender of a box that is of no use: answer with `complain`.
        """
        state = self._at(Phase.SHARED)
        view = read_adverts(state.adverts, self._plan, self._roster)
        secret = state.secrets[2]
        box = open_inbox(inbox, view, self._plan, self._roster, state.index, secret, state.own_root)
        words = np.empty(CONTROL_WORDS + self._plan.encoding.words, dtype=masking.WORD)
        words[:CONTROL_WORDS] = BLOCK
        # Callers guarantee a finite vector: whether this call is refused must not depend on what is in it.
        saturated = self._plan.encoding.encode(vector, words[CONTROL_WORDS:], workers)
        streams = self._streams(view, box)
        masking.apply(words, streams, workers=workers)
        root = merkle.root(words, box.ctx2, state.index)
        header = self._sign("upload", Rooted(box.ctx2, state.index, root).encode())
        state.held |= box.shares
        state.ctx2, state.sharers, state.header, state.saturated = box.ctx2, box.members, header, saturated
        state.secrets, state.offered = (), ()
        state.seeds = tuple(seed for seed, _ in streams[1:]) if keep_seeds else ()
        state.phase = Phase.MASKED
        return header, words

    def complain(self, refusal: Refused) -> bytes:
        """P2, where `mask` found a box that its sender signed and that holds no shares: say so instead of uploading.

        Returns:
            The COMPLAINT message. This attempt is over here; every secret of it is forgotten.
        """
        state = self._at(Phase.SHARED)
        if refusal.code not in _REASONS or refusal.member is None:
            raise ValueError(f"{refusal.code} is no ground for a complaint")
        view = read_adverts(state.adverts, self._plan, self._roster)
        body = Complaint(view.ctx1, state.index, refusal.member, _REASONS[refusal.code]).encode()
        message = self._sign("complaint", body)
        state.secrets, state.offered, state.held = (), (), {}
        state.phase = Phase.DONE
        return message

    def survive(self, survivors_bundle: bytes) -> bytes:
        """P3: check U3 and sign it, once in this round.

        Returns:
            The SURV message.

        Raises:
            Refused: "phase", "wire.*", "survivors.*"; "journal.conflict" where other survivors were signed.
        """
        state = self._at(Phase.MASKED)
        view = open_survivors(survivors_bundle, state.ctx2, state.sharers, self._plan, self._roster)
        require(state.header in view.envelopes, "survivors.own", "the own upload is missing or altered")
        message = self._sign(SURVIVE, Rooted(state.ctx2, state.index, view.statement).encode())
        state.survivors, state.statement = view.members, view.statement
        peers = [peer for peer in state.sharers if peer != state.index]
        state.seeds = tuple(seed for peer, seed in zip(peers, state.seeds, strict=False) if peer in view.members)
        state.phase = Phase.SURVIVED
        return message

    def unmask(self, quorum_bundle: bytes) -> bytes:
        """P4: check that a threshold signed the very same survivors; reveal one share of one secret for each of U2.

        Returns:
            The REVEAL message. Every secret of the round is forgotten, but for the seeds that are kept.

        Raises:
            Refused: "phase", "wire.*", "quorum.*".
        """
        state = self._at(Phase.SURVIVED)
        open_quorum(quorum_bundle, state.ctx2, state.statement, state.survivors, self._plan, self._roster)
        body = reveal(state).encode()
        message = self._sign("reveal", body)
        state.held = {}
        state.phase = Phase.DONE
        return message

    def open(self, message: bytes, limits: NormLimits | None = None) -> bytes:
        """P6, where P4 gave no sum: open one piece of the own upload so that whoever spoiled the sum can be named.

        It gives away the key streams of the pair masks on this piece, and no seed. With those of all the others the
        coordinator reads this piece of everybody's vector, noise included: see docs/secure-aggregation.md.

        Args:
            message: the coordinator's OPENING. limits: of the norms, as the coordinator applies them.

        Returns:
            The OPENED message. The seeds are forgotten.

        Raises:
            Refused: "phase", "wire.*"; "open.never" where no seeds were kept, or not any more; see `check_opening`;
                "journal.conflict" where another piece was opened in this round.
        """
        state = self._at(Phase.DONE)
        require(bool(state.seeds), "open.never", "no piece of this upload is opened")
        opening = Opening.decode(unseal("opening", message, self._roster.coordinator))
        cohort = read_adverts(state.adverts, self._plan, self._roster)
        view = (cohort, state.sharers, state.survivors, state.ctx2, state.statement)
        spoiled = Spoiled(self._plan, *view)
        check_opening(opening, spoiled, limits)
        streams = tuple(stream_words(seed, opening.number, spoiled.size) for seed in state.seeds)
        answer = self._sign(OPENED, Opened(state.statement, state.index, opening.number, streams).encode())
        state.seeds = ()
        return answer

    def forget(self) -> None:
        """No piece will be opened: the round has a record, or another one begins."""
        self._state.seeds = ()

    def dump(self) -> bytes:
        """The whole state with its secrets, for a file that only this organization can read (mode 0600)."""
        return self._state.encode()

    @classmethod
    def load(cls, dump: bytes, roster: Roster, identity: Identity, journal: Journal) -> "Organization":
        """Continue from `dump`; Refused where the bytes are no dump, or of another roster or identity."""
        state = State.decode(dump)
        return cls(roster, identity, journal, state, Plan.open(state.plan, roster))

    def _split(self, view: Cohort) -> dict[int, tuple[int, int]]:
        """Shares of (b, mk) for every member of U1; the point of organization i is i + 1."""
        b, mk, _ = self._state.secrets
        points = [peer + 1 for peer in view.members]
        of_b, of_mk = (shamir.split(secret, self._plan.threshold, points) for secret in (b, mk))
        return dict(zip(view.members, zip(of_b, of_mk, strict=True), strict=True))

    def _seal(self, view: Cohort, peer: int, shares: tuple[int, int]) -> bytes:
        plain = bytes(Writer().uint(shares[0], shamir.SHARE_BYTES).uint(shares[1], shamir.SHARE_BYTES))
        public, own = view.adverts[peer].channel_key, self._state.index
        return keys.seal_share(self._suite, self._state.secrets[2], public, view.ctx1, own, peer, plain)

    def _offer(self, view: Cohort, peer: int) -> tuple[bytes, bytes]:
        """A secret for the pair with `peer`, and what carries it."""
        public, own = view.adverts[peer].mask_key, self._state.index
        return keys.offer(self._suite, self._state.secrets[1], public, view.ctx1, own, peer)

    def _streams(self, view: Cohort, box: Inbox) -> list[tuple[bytes, int]]:
        """The own mask and one for each peer in U2: (seed, sign)."""
        b, mk, _ = self._state.secrets
        own = self._state.index
        streams = [(keys.self_seed(b, box.ctx2, own), 1)]
        offered = dict(zip(view.others(own), self._state.offered, strict=True))
        for peer, carried in box.offers.items():
            accepted = keys.accept(self._suite, mk, view.ctx1, peer, own, carried)
            agreed = keys.agreement(own, peer, offered[peer], accepted)
            seed = keys.pair_seed(self._suite, mk, view.adverts[peer].mask_key, box.ctx2, own, peer, agreed)
            streams.append((seed, masking.pair_sign(own, peer)))
        return streams

    def _at(self, phase: Phase) -> State:
        here = self._state.phase
        require(here is phase, "phase", f"this call follows {phase.name}, but the last step was {here.name}")
        return self._state

    def _sign(self, kind: str, body: bytes) -> bytes:
        """Journal first, then sign."""
        plan = self._plan
        self._journal.record(plan.run, plan.round, plan.attempt, kind, digest(kind, body))
        return seal(kind, body, self._identity)
