"""Honest federations over bytes, which tests then bend."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from cotune.secagg import kernel, merkle
from cotune.secagg.admission import Expected
from cotune.secagg.collecting import Step
from cotune.secagg.coordinator import Coordinator, RoundSum
from cotune.secagg.encoding import Encoding
from cotune.secagg.identity import Identity, new_identity, raw_public
from cotune.secagg.journal import ONCE
from cotune.secagg.limits import NormLimits
from cotune.secagg.messages import Rooted
from cotune.secagg.organization import Organization
from cotune.secagg.pieces import Piece, piece_of
from cotune.secagg.plan import Plan, least_survivors, least_threshold
from cotune.secagg.record import genesis
from cotune.secagg.refused import Refused, refuse
from cotune.secagg.roster import Roster
from cotune.secagg.suites import CLASSIC, SUITES, Suite
from cotune.secagg.wire import seal
from numpy.typing import NDArray

RUN = bytes(range(16))


@pytest.fixture(params=["compiled", "openssl"])
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test runs twice: with the compiled loops, where this processor has them, and with OpenSSL alone."""
    if request.param == "openssl":
        monkeypatch.setattr(kernel, "add_stream", None)
        monkeypatch.setattr(kernel, "hash_pair", None)
    elif kernel.add_stream is None or kernel.hash_pair is None:
        pytest.skip("this processor lacks the instructions, or the compiled loops are off")
    return str(request.param)


class MemoryJournal:
    """The journal's rules without a disk."""

    def __init__(self) -> None:
        self.entries: dict[tuple[object, ...], bytes] = {}

    def record(self, run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> None:
        key = (run, round, kind, 0 if kind in ONCE else attempt)
        if self.entries.setdefault(key, statement) != statement:
            refuse("journal.conflict", kind)

    def survived(self, run: bytes, round: int) -> bool:
        return (run, round, "survive", 0) in self.entries


@dataclass
class Federation:
    """n organizations, their keys and an honest plan; `play` runs one round."""

    n: int
    encoding: Encoding
    suite: Suite = CLASSIC
    keys: list[Identity] = field(init=False)
    coordinator_key: Identity = field(init=False)
    roster: Roster = field(init=False)
    journals: list[MemoryJournal] = field(init=False)
    coordinator: Coordinator = field(init=False)
    organizations: dict[int, Organization] = field(init=False)
    vectors: NDArray[np.float64] = field(init=False)
    inboxes: dict[int, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.keys = [new_identity(self.suite) for _ in range(self.n)]
        self.coordinator_key = new_identity(self.suite)
        members = tuple(raw_public(key) for key in self.keys)
        self.roster = Roster("test", 1, members, raw_public(self.coordinator_key), self.suite.id)
        self.journals = [MemoryJournal() for _ in range(self.n)]
        self.vectors = np.random.default_rng(self.n).uniform(-1, 1, (self.n, self.encoding.dimension))
        self.coordinator = Coordinator(self.roster, self.plan(), self.coordinator_key)

    def plan(self, **changes: object) -> Plan:
        plan = Plan(
            run=RUN,
            round=1,
            attempt=0,
            roster_hash=self.roster.hash,
            cohort=self.roster.indices,
            threshold=least_threshold(self.n),
            min_survivors=least_survivors(self.n),
            model_hash=b"m" * 32,
            schema_hash=b"s" * 32,
            dp_hash=b"d" * 32,
            encoding=self.encoding,
            deadline=2_000,
            prev_head=genesis(RUN, self.roster),
            suite=self.suite.id,
        )
        return replace(plan, **changes)  # type: ignore[arg-type]

    def expected(self, **changes: object) -> Expected:
        facts = Expected(
            run=RUN,
            last=(-1, -1),
            model_hash=b"m" * 32,
            schema_hash=b"s" * 32,
            dp_hash=b"d" * 32,
            dimension=self.encoding.dimension,
            encoding=self.encoding,
            prev_head=genesis(RUN, self.roster),
            now=1_000,
            latest=3_000,
        )
        return replace(facts, **changes)  # type: ignore[arg-type]

    def begin(self, index: int, message: bytes | None = None, **changes: object) -> Organization:
        plan = self.coordinator.plan_message if message is None else message
        expected = self.expected(**changes)
        return Organization.begin(self.roster, index, self.keys[index], plan, expected, self.journals[index])

    def reload(self, index: int, dump: bytes | None = None) -> Organization:
        state = self.organizations[index].dump() if dump is None else dump
        return Organization.load(state, self.roster, self.keys[index], self.journals[index])

    def advertise(self, absent: frozenset[int] = frozenset()) -> bytes:
        self.organizations = {i: self.begin(i) for i in range(self.n) if i not in absent}
        for i, organization in self.organizations.items():
            assert self.coordinator.add_advert(i, organization.advert)
        return self.coordinator.close_adverts()

    def share(self, absent: frozenset[int] = frozenset(), gone: frozenset[int] = frozenset()) -> dict[int, bytes]:
        bundle = self.advertise(gone)
        for i in self.present() - absent:
            assert self.coordinator.add_shares(i, self.organizations[i].share(bundle))
        self.inboxes = self.coordinator.close_shares()
        return self.inboxes

    def upload(self, absent: frozenset[int] = frozenset()) -> bytes:
        inboxes = self.share()
        for i in self.present() - absent:
            assert self.coordinator.add_upload(i, *self.organizations[i].mask(inboxes[i], self.vectors[i]))
        return self.coordinator.close_uploads()

    def survive(self, absent: frozenset[int] = frozenset()) -> bytes:
        bundle = self.upload(absent)
        for i in self.coordinator.present(Step.UPLOADS):
            assert self.coordinator.add_survival(i, self.organizations[i].survive(bundle))
        return self.coordinator.close_survival()

    def present(self) -> set[int]:
        return set(self.organizations)

    def play(self, gone: dict[int, int] | None = None, reload: bool = False) -> RoundSum:
        """One round; `gone` maps an index to the phase (0 to 4) from which it does not answer."""
        gone, server = gone or {}, self.coordinator

        def here(phase: int, step: Step | None = None) -> list[int]:
            if reload and phase > 0:
                self.organizations = {i: self.reload(i) for i in self.organizations}
            among = range(self.n) if step is None else server.present(step)
            return [i for i in among if gone.get(i, 9) > phase]

        self.organizations = {i: self.begin(i) for i in here(0)}
        for i, organization in self.organizations.items():
            assert server.add_advert(i, organization.advert)
        adverts = server.close_adverts()
        for i in here(1, Step.ADVERTS):
            assert server.add_shares(i, self.organizations[i].share(adverts))
        inboxes = server.close_shares()
        for i in here(2, Step.SHARES):
            assert server.add_upload(i, *self.organizations[i].mask(inboxes[i], self.vectors[i]))
        survivors = server.close_uploads()
        for i in here(3, Step.UPLOADS):
            assert server.add_survival(i, self.organizations[i].survive(survivors))
        quorum = server.close_survival()
        for i in here(4, Step.UPLOADS):
            if i in server.present(Step.SURVIVALS):
                assert server.add_reveal(i, self.organizations[i].unmask(quorum))
        return server.result()


Change = Callable[[NDArray[np.uint64]], object]


class SpoiledRound:
    """A round up to its reveals in which some organizations sign and send other masked words than they should.

    Args:
        changes: index -> what it does to its masked words. gone: who does not upload.
        kept: who keeps its seeds.
    """

    def __init__(
        self,
        fed: Federation,
        changes: dict[int, Change],
        limits: NormLimits | None = None,
        gone: frozenset[int] = frozenset(),
        kept: frozenset[int] = frozenset(range(200)),
    ) -> None:
        self.fed, self.limits = fed, limits
        fed.coordinator = self.server = Coordinator(fed.roster, fed.plan(), fed.coordinator_key, limits)
        inboxes, self.uploads = fed.share(), {}
        for i in sorted(fed.present() - gone):
            header, words = fed.organizations[i].mask(inboxes[i], fed.vectors[i], keep_seeds=i in kept)
            if i in changes:
                words = words.copy()
                changes[i](words)
                header = self.signed(i, words)
                fed.organizations[i]._state.header = header
            self.uploads[i] = words
            assert self.server.add_upload(i, header, words)
        bundle = self.server.close_uploads()
        self.survivors = self.server.present(Step.UPLOADS)
        assert all(self.server.add_survival(i, fed.organizations[i].survive(bundle)) for i in self.survivors)
        self.quorum = self.server.close_survival()
        self.before = {i: fed.organizations[i].dump() for i in self.survivors}
        assert all(self.server.add_reveal(i, fed.organizations[i].unmask(self.quorum)) for i in self.survivors)
        self.dumps = {i: fed.organizations[i].dump() for i in self.survivors}

    @property
    def ctx2(self) -> bytes:
        return self.fed.organizations[0].context

    def signed(self, index: int, words: NDArray[np.uint64]) -> bytes:
        ctx2 = self.fed.organizations[index].context
        return seal("upload", Rooted(ctx2, index, merkle.root(words, ctx2, index)).encode(), self.fed.keys[index])

    def piece_of(self, index: int, number: int) -> Piece:
        return piece_of(self.uploads[index], number, self.ctx2, index)

    def member(self, index: int) -> Organization:
        """As it is after P4, whatever it did since; its journal knows better."""
        return self.fed.reload(index, self.dumps[index])


@pytest.fixture(scope="session")
def spoiled() -> type[SpoiledRound]:
    """spoiled(federation, changes): see `SpoiledRound`."""
    return SpoiledRound


@pytest.fixture(scope="session", params=SUITES.values(), ids=lambda suite: suite.name)
def suite(request: pytest.FixtureRequest) -> Suite:
    """Whatever asks for a federation runs over both suites.

    No folder below may have a `suite` of its own: pytest would then hand on a federation of the other one.
    """
    chosen: Suite = request.param
    return chosen


@pytest.fixture(scope="session")
def federation(suite: Suite) -> Callable[..., Federation]:
    """federation(n, dimension=10, clip=1.0, lane_bits=21)."""

    def build(n: int, dimension: int = 10, clip: float = 1.0, lane_bits: int = 21) -> Federation:
        return Federation(n, Encoding(((dimension, clip),), n, lane_bits), suite)

    return build


@pytest.fixture(scope="session")
def federation_of(suite: Suite) -> Callable[[int, Encoding], Federation]:
    """A federation with an encoding of one's own."""
    return lambda n, encoding: Federation(n, encoding, suite)


@pytest.fixture(scope="session")
def refusal_of() -> Callable[..., Refused]:
    """refusal_of(call, *arguments): how the call is refused."""

    def refused(call: Callable[..., object], *arguments: object, **named: object) -> Refused:
        with pytest.raises(Refused) as no:
            call(*arguments, **named)
        return no.value

    return refused
