"""Organizations, a lying server with the genuine coordinator key, and the ledger of all that left the honest ones.

A `Branch` is one course that the server tries to drive an attempt along: who is shown which messages in which phase. A
branch may be forked before any phase. A fork starts from the dumps of that time, so the organizations in it are
restarts from old states; only their journals know better.
"""

import os
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cotune.secagg import merkle
from cotune.secagg.admission import Expected
from cotune.secagg.coordinator import Coordinator, RoundSum
from cotune.secagg.encoding import Encoding
from cotune.secagg.identity import Identity, new_identity, raw_public
from cotune.secagg.journal import ONCE, FileJournal
from cotune.secagg.messages import Advert, Inbound, Reveal, Rooted, Shares, decode_list, encode_inbox, encode_list
from cotune.secagg.opening import Opened, Opening
from cotune.secagg.organization import Organization
from cotune.secagg.pieces import piece_of
from cotune.secagg.plan import Plan, least_survivors
from cotune.secagg.record import genesis, verify
from cotune.secagg.refused import Refused, refuse
from cotune.secagg.roster import Roster
from cotune.secagg.state import State
from cotune.secagg.suites import SUITES
from cotune.secagg.views import box_leaves
from cotune.secagg.wire import peek, seal
from numpy.typing import NDArray

RUNS = (b"first run.......", b"second run......")
DIMENSION = 7
ADVERTS, SHARES, UPLOADS, SURVIVALS, REVEALS, DONE = range(6)
COMPLAINED = ("share.seal", "share.range", "share.offer")
KINDS = ("plan", "adverts", "inbox", "survivors", "quorum")


class Memory:
    """The journal's rules without a disk; `lax` names kinds that it forgets (for tests of the tests)."""

    def __init__(self, lax: frozenset[str] = frozenset()) -> None:
        self.entries: dict[tuple[bytes, int, str, int], bytes] = {}
        self.lax = lax

    def record(self, run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> None:
        key = (run, round, kind, -1 if kind in ONCE else attempt)
        if self.entries.setdefault(key, statement) != statement and kind not in self.lax:
            refuse("journal.conflict", kind)

    def survived(self, run: bytes, round: int) -> bool:
        return (run, round, "survive", -1) in self.entries

    def last(self, run: bytes) -> tuple[int, int]:
        return max(((key[1], key[3]) for key in self.entries if key[0] == run and key[3] >= 0), default=(-1, -1))


class NoMemory(Memory):
    """What a colluding organization remembers."""

    def record(self, run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> None:
        """Nothing."""


@cache
def people(n: int, suite: int) -> tuple[tuple[Identity, ...], Identity, Roster]:
    """Identities and the roster: the same for all examples, since making them is slow."""
    members = tuple(new_identity(SUITES[suite]) for _ in range(n))
    coordinator = new_identity(SUITES[suite])
    roster = Roster("hostile", 1, tuple(raw_public(key) for key in members), raw_public(coordinator), suite)
    return members, coordinator, roster


@dataclass
class Branch:
    """One course of one attempt. Messages by sender; dumps by (organization, phase before which they were taken)."""

    plan: Plan
    plan_message: bytes
    phase: int = ADVERTS
    adverts: dict[int, bytes] = field(default_factory=dict)
    shares: dict[int, bytes] = field(default_factory=dict)
    uploads: dict[int, tuple[bytes, NDArray[np.uint64]]] = field(default_factory=dict)
    survivals: dict[int, bytes] = field(default_factory=dict)
    reveals: dict[int, bytes] = field(default_factory=dict)
    dumps: dict[tuple[int, int], bytes] = field(default_factory=dict)
    closed: dict[int, bytes] = field(default_factory=dict)

    def collected(self, phase: int) -> dict[int, bytes]:
        """What came in during a phase, by sender."""
        uploads = {i: header for i, (header, _) in self.uploads.items()} if phase == UPLOADS else {}
        return (self.adverts, self.shares, uploads, self.survivals, self.reveals)[phase]

    def fork(self, phase: int) -> "Branch":
        """The same course up to a phase."""
        kept = {name: dict(getattr(self, name)) for name in ("adverts", "shares", "uploads", "survivals", "reveals")}
        for late in list(kept)[phase:]:
            kept[late] = {}
        dumps = {key: dump for key, dump in self.dumps.items() if key[1] <= phase}
        return Branch(self.plan, self.plan_message, phase, **kept, dumps=dumps)  # type: ignore[arg-type]


@dataclass
class Ledger:
    """All that left honest organizations, and what must hold of it whatever the server does.

    Attributes:
        held: (ctx0, owner, secret) -> points whose share the server has; secret is "b" or "mk".
        uploads: (ctx2, owner) -> roots. statements, openings: (owner, run, round) -> what was signed.
        survivors: statement -> (ctx0, U3). signers: statement -> who signed it, honest ones.
        truth: upload header -> the vector of integers under it. thresholds: of plans, by ctx0.
        unseen: invariants that are not looked at (for tests of the tests).
    """

    held: dict[tuple[bytes, int, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    uploads: dict[tuple[bytes, int], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    statements: dict[tuple[int, bytes, int], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    openings: dict[tuple[int, bytes, int], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    survivors: dict[bytes, tuple[bytes, tuple[int, ...]]] = field(default_factory=dict)
    signers: dict[bytes, set[int]] = field(default_factory=lambda: defaultdict(set))
    truth: dict[bytes, NDArray[np.int64]] = field(default_factory=dict)
    thresholds: dict[bytes, int] = field(default_factory=dict)
    unseen: frozenset[str] = frozenset()

    def check(self, honest: frozenset[int], n: int) -> None:
        """The invariants; AssertionError names the one that does not hold."""
        both, signed = self._opened(honest, n)
        assert not both, "both secrets of one organization"
        assert signed, "a secret that no quorum opened"
        once: tuple[tuple[str, dict[Any, set[bytes]]], ...] = (
            ("two uploads under one mask", self.uploads),
            ("two statements about survivors", self.statements),
            ("two pieces opened in one round", self.openings),
        )
        for what, said in once:
            assert what in self.unseen or all(len(different) == 1 for different in said.values()), what

    def _opened(self, honest: frozenset[int], n: int) -> tuple[bool, bool]:
        """Whether both secrets of an organization are obtainable; whether a quorum signed for every one that is."""
        opened = {key for key, points in self.held.items() if len(points) >= self.thresholds[key[0]]}
        both = any((ctx0, owner, "mk") in opened for ctx0, owner, secret in opened if secret == "b")
        return both, all(self._agreed(*key, honest, n) for key in opened)

    def _agreed(self, ctx0: bytes, owner: int, secret: str, honest: frozenset[int], n: int) -> bool:
        """Whether a threshold may have signed that this secret is to be opened; colluders sign anything."""
        for statement, (context, survivors) in self.survivors.items():
            signed = len(self.signers[statement] & honest) + n - len(honest)
            if context == ctx0 and signed >= self.thresholds[ctx0] and (owner in survivors) == (secret == "b"):
                return True
        return False


class World:
    """n organizations, some of which collude with the server."""

    def __init__(
        self, n: int, suite: int, colluders: frozenset[int], folder: Path | None, lax: frozenset[str] = frozenset()
    ) -> None:
        self.n, self.suite, self.colluders = n, SUITES[suite], colluders
        self.honest = frozenset(range(n)) - colluders
        self.identities, self.coordinator_key, self.roster = people(n, suite)
        self.journals = [NoMemory() if i in colluders else self._journal(folder, i, lax) for i in range(n)]
        # One step is one: integers are then encoded without rounding, so that sums can be compared exactly.
        self.encoding = Encoding(((DIMENSION, float(Encoding(((1, 1.0),), n, 12).levels)),), n, 12)
        self.heads = {(run, i): genesis(run, self.roster) for run in RUNS for i in range(n)}
        self.ledger, self.branches, self.bundles = Ledger(), [], []  # type: ignore[var-annotated]
        self.generator = np.random.default_rng(n)
        self.opened: list[RoundSum] = []
        self.refusals: set[str] = set()
        self.numbers: dict[bytes, tuple[int, int]] = {}

    @staticmethod
    def _journal(folder: Path | None, index: int, lax: frozenset[str]) -> Memory | FileJournal:
        return Memory(lax) if folder is None else FileJournal(folder / f"journal-{index}-{os.urandom(4).hex()}")

    # The server's side: composing what is shown to whom.

    def start(self, run: bytes, threshold: int, same: bool, deadline: int) -> Branch:
        """A new plan: the next attempt or round, or a second plan for the attempt that was last."""
        round_, attempt = self.numbers.get(run, (1, -1))
        attempt += not same or attempt < 0
        if any(i in self.honest and self.journals[i].survived(run, round_) for i in range(self.n)) and not same:
            round_, attempt = round_ + 1, 0
        self.numbers[run] = (round_, attempt)
        hashes = (b"m" * 32, b"s" * 32, b"d" * 32)
        head = self.heads[run, min(self.honest)]
        least = max(threshold, least_survivors(self.n))
        terms = (self.roster.hash, self.roster.indices, threshold, least, *hashes, self.encoding, deadline, head)
        plan = Plan(run, round_, attempt, *terms, self.suite.id)
        branch = Branch(plan, plan.sign(self.coordinator_key))
        self.ledger.thresholds[plan.ctx0] = plan.threshold
        self.branches.append(branch)
        self.bundles.append(("plan", branch.plan_message))
        return branch

    def bundle(self, branch: Branch, phase: int, recipient: int, shown: frozenset[int]) -> bytes:
        """What opens a phase for a recipient when only messages of `shown` are passed on."""
        if phase == ADVERTS:
            return branch.plan_message
        last = {i: message for i, message in branch.collected(phase - 1).items() if i in shown}
        messages = tuple(message for _, message in sorted(last.items()))
        if phase == UPLOADS:
            body = self._inbox(branch, recipient, last)
        else:
            context = branch.plan.ctx0 if phase == SHARES else self._context(messages)
            body = encode_list(context, messages)
        message = seal(KINDS[phase], body, self.coordinator_key)
        self.bundles.append((KINDS[phase], message))
        return message

    @staticmethod
    def _context(messages: tuple[bytes, ...]) -> bytes:
        return Rooted.decode(peek(messages[0])[0]).context if messages else bytes(32)

    def _inbox(self, branch: Branch, recipient: int, last: dict[int, bytes]) -> bytes:
        roots = {i: Rooted.decode(peek(Shares.decode(message).root)[0]) for i, message in last.items()}
        ctx1 = next((root.context for root in roots.values()), bytes(32))
        parts = []
        for sender, message in sorted(last.items()):
            shares = Shares.decode(message)
            others = [i for i in sorted(branch.adverts) if i != sender]
            if sender == recipient or recipient not in others or len(others) != len(shares.boxes):
                parts.append(Inbound(shares.root, (), b""))
            else:
                position = others.index(recipient)
                leaves = box_leaves(roots[sender].context, sender, others, shares.boxes)
                parts.append(Inbound(shares.root, merkle.path(leaves, position), shares.boxes[position]))
        return encode_inbox(ctx1, tuple(parts))

    # The organizations' side: what they answer, written into the ledger.

    def begin(self, index: int, plan_message: bytes, forgetful: bool = False) -> Organization | None:
        """P0 of one organization, whose driver may have lost what it knew of earlier attempts."""
        plan = Plan.decode(peek(plan_message)[0])
        last = (-1, -1) if forgetful else self.journals[index].last(plan.run)
        facts = (b"m" * 32, b"s" * 32, b"d" * 32, DIMENSION, self.encoding, self.heads[plan.run, index], 1_000, 3_000)
        expected = Expected(plan.run, last, *facts)
        journal = self.journals[index]
        try:
            return Organization.begin(self.roster, index, self.identities[index], plan_message, expected, journal)
        except Refused as no:
            self.refusals.add(no.code)
            return None

    def answer(self, index: int, dump: bytes, kind: str, bundle: bytes) -> tuple[object, bytes] | None:
        """Deliver a bundle to the organization restarted from a dump: its reply and its new dump, None if refused."""
        organization = Organization.load(dump, self.roster, self.identities[index], self.journals[index])
        vector = self.generator.integers(-3, 4, DIMENSION)
        try:
            if kind == "adverts":
                reply: object = organization.share(bundle)
            elif kind == "inbox":
                reply = organization.mask(bundle, vector.astype(np.float64), keep_seeds=True)
            elif kind == "survivors":
                reply = organization.survive(bundle)
            else:
                reply = organization.unmask(bundle)
        except Refused as no:
            assert organization.dump() == dump, "a refusal changed the state"
            self.refusals.add(no.code)
            return self._complaint(organization, no) if no.code in COMPLAINED else None
        self._note(index, State.decode(organization.dump()), kind, bundle, reply, vector)
        return reply, organization.dump()

    def _complaint(self, organization: Organization, no: Refused) -> None:
        try:
            organization.complain(no)
            assert not State.decode(organization.dump()).held
        except Refused as again:
            self.refusals.add(again.code)

    def _note(
        self, index: int, state: State, kind: str, bundle: bytes, reply: object, vector: NDArray[np.int64]
    ) -> None:
        """Write what just left an organization into the ledger."""
        plan, ledger = Plan.decode(peek(state.plan)[0]), self.ledger
        if kind == "inbox":
            ledger.truth[reply[0]] = vector  # type: ignore[index]
        if kind == "survivors":
            headers = [Rooted.decode(peek(header)[0]) for header in decode_list(peek(bundle)[0])[1]]
            ledger.survivors[state.statement] = (plan.ctx0, tuple(header.index for header in headers))
        if index in self.colluders:
            return
        if kind == "adverts":
            shown = {Advert.decode(peek(advert)[0]).index for advert in state.adverts}
            for secret in ("b", "mk"):
                ledger.held[plan.ctx0, index, secret] |= shown & self.colluders
        elif kind == "inbox":
            ledger.uploads[state.ctx2, index].add(Rooted.decode(peek(state.header)[0]).root)
        elif kind == "survivors":
            ledger.statements[index, plan.run, plan.round].add(state.statement)
            ledger.signers[state.statement].add(index)
        else:
            revealed = Reveal.decode(peek(reply)[0])  # type: ignore[arg-type]
            for secret, part in (("b", revealed.self_shares), ("mk", revealed.mask_shares)):
                for owner, _ in part:
                    ledger.held[plan.ctx0, owner, secret].add(index)

    def advance(self, branch: Branch, absent: frozenset[int], hidden: dict[int, frozenset[int]]) -> None:
        """One phase: everybody who is not absent is shown the branch's messages, but for those hidden from it."""
        phase = branch.phase
        everyone = frozenset(range(self.n))
        for index in sorted(everyone - absent):
            shown = everyone - hidden.get(index, frozenset())
            message = self.bundle(branch, phase, index, shown)
            if phase == ADVERTS:
                if organization := self.begin(index, message, forgetful=index in hidden):
                    branch.adverts[index], branch.dumps[index, SHARES] = organization.advert, organization.dump()
            elif (dump := branch.dumps.get((index, phase))) and (
                got := self.answer(index, dump, KINDS[phase], message)
            ):
                self._collect(branch, phase, index, got[0])
                branch.dumps[index, phase + 1] = got[1]
        branch.phase += 1

    @staticmethod
    def _collect(branch: Branch, phase: int, index: int, reply: object) -> None:
        target = (branch.adverts, branch.shares, branch.uploads, branch.survivals, branch.reveals)[phase]
        target[index] = reply  # type: ignore[index]

    # Opening.

    def open(self, branch: Branch) -> RoundSum | None:
        """What an honest coordinator makes of the branch's messages: the exact sum, or nothing."""
        try:
            outcome = self._collected(branch).result()
        except Refused as no:
            self.refusals.add(no.code)
            return None
        headers = [branch.uploads[i][0] for i in outcome.survivors]
        assert all(header in self.ledger.truth for header in headers), "a sum over what nobody sent"
        total = sum(self.ledger.truth[header] for header in headers)
        assert np.array_equal(outcome.values, total), "the result is not the sum of the signed survivors"
        self.opened.append(outcome)
        return outcome

    def _collected(self, branch: Branch) -> Coordinator:
        """An honest coordinator that was sent the branch's messages."""
        server = Coordinator(self.roster, branch.plan, self.coordinator_key)
        _ = [server.add_advert(i, message) for i, message in branch.adverts.items()]
        server.close_adverts()
        _ = [server.add_shares(i, message) for i, message in branch.shares.items()]
        server.close_shares()
        _ = [server.add_upload(i, *message) for i, message in branch.uploads.items()]
        server.close_uploads()
        _ = [server.add_survival(i, message) for i, message in branch.survivals.items()]
        server.close_survival()
        _ = [server.add_reveal(i, message) for i, message in branch.reveals.items()]
        return server

    def ask_opening(self, branch: Branch, shown: Branch, number: int) -> None:
        """Ask everybody who is at the end of a branch to open a piece, by what another branch's messages show."""
        try:
            server = self._collected(shown)
            selves, masks, _, _ = server._bare()
        except Refused as no:
            self.refusals.add(no.code)
            return
        survivors = server._survivors
        pieces = tuple(piece_of(shown.uploads[i][1], 0, server._ctx2, i) for i in survivors.members)
        secrets = (tuple(selves.values()), tuple(masks.values()))
        body = Opening(survivors.statement, number, survivors.roots, *secrets, pieces).encode()
        for index in range(self.n):
            if dump := branch.dumps.get((index, DONE)):
                self._open(index, dump, seal("opening", body, self.coordinator_key))

    def _open(self, index: int, dump: bytes, message: bytes) -> None:
        organization = Organization.load(dump, self.roster, self.identities[index], self.journals[index])
        try:
            opened = Opened.decode(peek(organization.open(message))[0])
        except Refused as no:
            assert organization.dump() == dump, "a refusal changed the state"
            self.refusals.add(no.code)
            return
        if index in self.colluders:
            return
        state = State.decode(dump)
        plan = Plan.decode(peek(state.plan)[0])
        self.ledger.openings[index, plan.run, plan.round].add(opened.encode())
        assert set(state.survivors) & self.colluders, "a piece was opened among honest organizations"
        assert not State.decode(organization.dump()).seeds, "seeds outlive an opening"

    def publish(self, branch: Branch, outcome: RoundSum, absent: frozenset[int]) -> None:
        """P5: hand the record to organizations, who extend their chains."""
        for index in set(range(self.n)) - absent:
            try:
                verified = verify(outcome.record, self.roster, branch.plan.run, self.heads[branch.plan.run, index])
                self.heads[branch.plan.run, index] = verified.head
            except Refused as no:
                self.refusals.add(no.code)
