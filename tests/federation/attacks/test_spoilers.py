"""Members that spoil sums, and coordinators that pretend somebody did."""

import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.charter.messages import BODY
from cotune.errors import UserError
from cotune.secagg import coordinator as coordinators
from cotune.secagg import masking, merkle
from cotune.secagg.coordinator import Coordinator, Step
from cotune.secagg.masking import WORD
from cotune.secagg.messages import Rooted
from cotune.secagg.opening import Opened, Opening
from cotune.secagg.organization import Organization
from cotune.secagg.refused import Refused
from cotune.secagg.suites import CLASSIC, HYBRID, Suite
from cotune.secagg.wire import peek, seal
from cotune.server import burned
from cotune.server import run as server_run
from cotune.server.rounds import Attempt
from numpy.typing import NDArray

Words = NDArray[np.uint64]
When = Callable[[int], bool]
DOGWOOD, CEDAR, ALDER = 3, 2, 0


def garbage(words: Words) -> None:
    words[:] = np.random.default_rng(1).integers(0, 2**64, words.shape, dtype=np.uint64)


def control(words: Words) -> None:
    words[2] += np.uint64(1)


def spare_bit(words: Words) -> None:
    words[-1] ^= np.uint64(1 << 63)


def huge(words: Words) -> None:
    """Nothing that is done to masked words: see `spoil`."""


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[Words], None], when: dict[int, When]) -> None:
    """Some members sign and send something else than they should in the rounds that they choose."""
    mask = Organization.mask

    def use(self: Organization, inbox: bytes, vector: Any, workers: int = 1, *, keep_seeds: bool = False) -> Any:
        index, number = self._state.index, self._plan.round
        spoils = index in when and when[index](number)
        if spoils and change is huge:
            vector = np.full_like(vector, 1e9)  # as far as the lanes go, in every coordinate
        header, words = mask(self, inbox, vector, workers, keep_seeds=keep_seeds)
        if spoils and change is not huge:
            change(words)
            context = self._state.ctx2
            header = seal("upload", Rooted(context, index, merkle.root(words, context, index)).encode(), self._identity)
            self._state.header = header
        return header, words

    monkeypatch.setattr(Organization, "mask", use)


def always(number: int) -> bool:
    return True


def every_second(number: int) -> bool:
    return number % 2 == 1


def spent(federation: Any) -> list[int]:
    return [len(federation.charges(member)) for member in range(4)]


def burned_rounds(run: Any) -> list[int]:
    return sorted({*run.committed()} - {*run.recorded()})


@pytest.mark.parametrize(
    ("change", "pattern", "suite"),
    [
        (garbage, always, CLASSIC),
        (huge, every_second, CLASSIC),
        (control, every_second, HYBRID),
        pytest.param(spare_bit, always, CLASSIC, marks=pytest.mark.slow),
        pytest.param(huge, always, HYBRID, marks=pytest.mark.slow),
    ],
)
def test_a_spoiler_is_named_and_the_others_finish(
    found: Callable[..., Any], change: Any, pattern: When, suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(rounds=3, suite=suite)
    spoil(monkeypatch, change, {DOGWOOD: pattern})
    run = federation.run()
    first = next(number for number in range(3) if pattern(number))
    assert burned_rounds(run) == [first]
    assert all(run.load(number).survivors == ("alder", "birch", "cedar") for number in range(first + 1, 3))
    assert [noted.convicted for noted in run.attempts(first) if noted.refused] == [(DOGWOOD,)]
    assert spent(federation) == [3, 3, 3, first + 1]
    assert ("query.open", DOGWOOD) in federation.grid.sent
    said = next(event for event in federation.events if event.round > first + 1).left_out
    assert said == ("dogwood",)


@pytest.mark.parametrize(
    "when",
    [{CEDAR: always, DOGWOOD: always}, {DOGWOOD: always, CEDAR: lambda number: number == 1}],
    ids=["at once", "one after the other"],
)
def test_two_spoilers_of_four_end_the_run(
    found: Callable[..., Any], when: dict[int, When], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(rounds=6)
    spoil(monkeypatch, garbage, when)
    with pytest.raises(UserError, match=r"too few others are left|2 rounds of this run were spoiled"):
        federation.run()
    for _ in range(2):  # started again it goes no further
        with suppress(UserError):
            federation.run()
    run = federation.directory()
    assert burned.proven(run.attempts()) == {CEDAR, DOGWOOD}
    assert len(burned_rounds(run)) <= 2
    assert max(spent(federation)[:2]) <= 2


def lie_when_opened(monkeypatch: pytest.MonkeyPatch, spoiler: int, peer: int, change: Callable[[Words], None]) -> None:
    """The spoiler gives a stream with which its own piece comes out clean; only the other side can contradict."""
    open_ = Organization.open

    def use(self: Organization, message: bytes, limits: Any = None) -> bytes:
        answer = open_(self, message, limits)
        if self._state.index != spoiler:
            return answer
        opened = Opened.decode(peek(answer)[0])
        others = [member for member in self._state.survivors if member != spoiler]
        about = peer if peer in others else others[0]
        streams = list(opened.streams)
        words = np.frombuffer(streams[others.index(about)], WORD).copy()
        change(words) if masking.pair_sign(spoiler, about) > 0 else undo(words, change)
        streams[others.index(about)] = words.tobytes()
        return seal("opened", replace(opened, streams=tuple(streams)).encode(), self._identity)

    monkeypatch.setattr(Organization, "open", use)


def undo(words: Words, change: Callable[[Words], None]) -> None:
    """The change the other way round: of what is added, the negative."""
    changed = np.zeros_like(words)
    change(changed)
    words -= changed


def add_one(words: Words) -> None:
    words[2] += np.uint64(1)


@pytest.mark.parametrize(
    ("spoiler", "peer"),
    [(DOGWOOD, ALDER), (ALDER, DOGWOOD)],
)
def test_a_spoiler_that_lies_about_a_stream_spoils_two_rounds_at_most(
    found: Callable[..., Any], spoiler: int, peer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in a dispute; perhaps the other one leaves first, but no liar stays beside two that it contradicts."""
    federation = found(rounds=3)
    spoil(monkeypatch, add_one, {spoiler: always})
    lie_when_opened(monkeypatch, spoiler, peer, add_one)
    with suppress(UserError):
        federation.run()
    run = federation.directory()
    (first,) = (noted for noted in run.attempts(0) if noted.refused)
    assert first.convicted == ()
    (parted,) = burned.left_out(run.attempts(0))
    assert parted in {spoiler, peer}
    if spoiler == DOGWOOD:
        assert parted == spoiler
        assert burned_rounds(run) == [0]
        assert spent(federation) == [3, 3, 3, 1]
    else:  # the honest one left first: the second dispute is with another
        assert parted == peer
        assert burned_rounds(run) == [0, 1]
        assert spent(federation) == [2, 2, 2, 1]
    assert burned.proven(run.attempts()) == set()
    assert spoiler in burned.left_out(run.attempts())


def test_what_spoiled_a_round_is_written_down(
    found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In the notes by its own code, in the log by name."""
    federation = found(rounds=2)
    logging.getLogger("cotune.server").propagate = True
    spoil(monkeypatch, spare_bit, {DOGWOOD: always})
    run = federation.run()
    assert [noted.refused for noted in run.attempts(0) if noted.refused] == ["sum.range"]
    assert "convicted by what was opened of piece 0: dogwood" in caplog.text


def test_a_spoiler_that_does_not_open_is_left_out(found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    federation = found(rounds=3)
    spoil(monkeypatch, garbage, {DOGWOOD: always})
    federation.lose("query.open", DOGWOOD)
    run = federation.run()
    assert burned_rounds(run) == [0]
    assert [noted.convicted for noted in run.attempts(0) if noted.refused] == [()]
    assert (burned.proven(run.attempts(0)), burned.left_out(run.attempts(0))) == (set(), {DOGWOOD})
    assert spent(federation) == [3, 3, 3, 1]


def test_who_opens_is_never_convicted_by_others(found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that sums up honestly and is accused by a false stream: it stays, or leaves for one round's spoiler."""
    federation = found(rounds=3)
    spoil(monkeypatch, garbage, {DOGWOOD: always})
    lie_when_opened(monkeypatch, DOGWOOD, ALDER, add_one)
    run = federation.run()
    assert [noted.convicted for noted in run.attempts(0) if noted.refused] == [(DOGWOOD,)]
    assert burned.proven(run.attempts()) == {DOGWOOD}
    assert all(run.load(number).survivors == ("alder", "birch", "cedar") for number in (1, 2))


def ask_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that has a piece opened whether anything is wrong with it or not, whoever shares the noise."""

    def uncovered(opening: Any, spoiled: Any, limits: Any) -> dict[int, Words]:
        return {index: piece.words for index, piece in zip(spoiled.survivors, opening.pieces, strict=True)}

    monkeypatch.setattr(coordinators, "check_opening", uncovered)
    monkeypatch.setattr(Coordinator, "_fault", lambda self, total: 0)
    find = Attempt._find_culprits

    def anyway(self: Attempt, *arguments: Any) -> None:
        charter = self._charter
        self._charter = charter.model_copy(update={"privacy": charter.privacy.alone})
        find(self, *arguments)
        self._charter = charter

    def never(self: Coordinator) -> None:
        raise Refused("sum.norm", "made up")

    monkeypatch.setattr(Attempt, "_find_culprits", anyway)
    monkeypatch.setattr(Coordinator, "result", never)


@pytest.mark.parametrize(("shared", "code"), [(False, "open.sound"), (True, "open.never")])
def test_no_piece_of_a_sum_is_opened_without_a_reason(
    found: Callable[..., Any], shared: bool, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(rounds=1, shared=shared)
    ask_to_open(monkeypatch)
    with pytest.raises(UserError):
        federation.run()
    assert federation.refusals("query.open") == [code] * 4
    for home in federation.homes:
        assert b" opened " not in home.journal.read_bytes()


def test_with_shared_noise_no_piece_is_opened_even_with_a_reason(
    found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(rounds=1, shared=True)
    spoil(monkeypatch, garbage, {DOGWOOD: always})
    ask_to_open(monkeypatch)
    with pytest.raises(UserError):
        federation.run()
    assert federation.refusals("query.open") == ["open.never"] * 4


def test_with_shared_noise_a_spoiler_ends_the_run_unnamed(
    found: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it costs that nothing is opened; the honest are charged for two attempts at most."""
    federation = found(rounds=4, shared=True)
    spoil(monkeypatch, garbage, {DOGWOOD: always})
    with pytest.raises(UserError, match="no member is named"):
        federation.run()
    assert ("query.open", ALDER) not in federation.grid.sent
    rounds = {(charge.round, charge.attempt) for charge in federation.charges(ALDER)}
    assert len(rounds) == 2


def test_with_shared_noise_attempts_count(found: Callable[..., Any], hostile_to: Callable[..., Any]) -> None:
    """Each whose words have left is trained and charged anew, so a coordinator that fails attempts gets no third."""
    federation = found(rounds=9, shared=True)
    hostile, codes = hostile_to(federation), []
    for attempt in range(4):
        codes.append(hostile.offer(hostile.plan(b"r" * 16, attempt=attempt), ALDER).refused)
        federation.homes[ALDER].set_pending(None)  # as its upload would
    assert codes == ["", "", "plan.spoiled", "plan.spoiled"]
    assert {charge.attempt for charge in federation.charges(ALDER)} == {0, 1}


def test_what_was_charged_counts_though_the_process_ended_before_it_joined(
    found: Callable[..., Any], hostile_to: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(rounds=9)
    hostile = hostile_to(federation)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    for number in range(4):
        plan = hostile.plan(b"r" * 16, round=number)
        with suppress(KeyboardInterrupt), monkeypatch.context() as patched:
            patched.setattr(Organization, "begin", killed)
            hostile.offer(plan, ALDER)
        hostile.offer(plan, ALDER)
    assert len({charge.round for charge in federation.charges(ALDER)}) == 2


def test_one_piece_of_a_round_is_opened_and_no_second(
    found: Callable[..., Any], hostile_to: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where the round's secrets come back from a backup: the journal remembers."""
    for name, module in list(sys.modules.items()):
        if name.startswith("cotune.") and hasattr(module, "PIECE_WORDS"):
            monkeypatch.setattr(module, "PIECE_WORDS", 16)
    federation = found(rounds=1)
    hostile, home = hostile_to(federation), federation.homes[ALDER]
    spoil(monkeypatch, garbage, {DOGWOOD: always})
    requested, requests = Coordinator.opening_request, []

    def both(self: Coordinator, piece_of: Any) -> bytes:
        with monkeypatch.context() as patched:
            patched.setattr(Coordinator, "_fault", lambda self, total: 1)
            requests.append(requested(self, piece_of))
        self._step = Step.REVEALS
        return requested(self, piece_of)

    monkeypatch.setattr(Coordinator, "opening_request", both)
    kept: list[bytes] = []

    def before(kind: str, member: int, message: Any) -> Any:
        if (kind, member) == ("query.open", ALDER):
            kept.extend((home.round_secrets(), message.content[BODY][BODY]))
        return message

    def after(kind: str, member: int, message: Any) -> Any:
        if (kind, member) == ("query.open", ALDER):
            secrets, same = kept
            assert message.content[BODY]["refused"] == ""
            assert [hostile.refused("query.open", opening, ALDER) for opening in (*requests, same)] == [
                "open.never"
            ] * 2
            home.set_round_secrets(secrets)
            assert hostile.refused("query.open", requests[0], ALDER) == "journal.conflict"
            home.set_round_secrets(secrets)
            assert hostile.refused("query.open", same, ALDER) == ""  # the same words once more
        return message

    federation.grid.before, federation.grid.after = before, after
    with pytest.raises(UserError, match="nothing to release"):
        federation.run()
    assert len(kept) == 2
    assert home.journal.read_bytes().count(b" opened ") == 1


def test_an_opening_for_one_member_alone_is_refused(
    found: Callable[..., Any], hostile_to: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A coordinator that makes a bad piece itself: other words, other secrets, other roots than those signed."""
    federation = found(rounds=1)
    hostile, codes = hostile_to(federation), []
    requested = Coordinator.opening_request

    def forged(self: Coordinator, piece_of: Any) -> bytes:
        good = Opening.decode(peek(requested(self, piece_of))[0])
        words = good.pieces[1].words.copy()
        words[2] += np.uint64(1)
        pieces = list(good.pieces)
        pieces[1] = replace(pieces[1], words=words)
        swapped = (good.self_secrets[1], good.self_secrets[0], *good.self_secrets[2:])
        bent = (
            replace(good, pieces=tuple(pieces)),
            replace(good, self_secrets=swapped),
            replace(good, roots=good.roots[::-1]),
            replace(good, statement=bytes(32)),
            replace(good, number=7),
            replace(good, pieces=good.pieces[:-1]),
        )
        codes.extend(hostile.refused("query.open", seal("opening", one.encode(), self._key), ALDER) for one in bent)
        return seal("opening", good.encode(), self._key)

    ask_to_open(monkeypatch)
    monkeypatch.setattr(Coordinator, "opening_request", forged)
    with pytest.raises(UserError):
        federation.run()
    assert codes[0] == "open.piece"
    assert codes[1] == "record.commitment"
    assert codes[2:4] == ["open.statement"] * 2
    assert codes[4:] == ["open.piece"] * 2
    assert federation.refusals("query.open") == ["open.sound"] * 4


@pytest.mark.parametrize("bad", [(0, 1), (0, 2), pytest.param((1, 3), marks=pytest.mark.slow)], ids=str)
def test_a_coordinator_that_spoils_rounds_itself_gets_no_third(
    found: Callable[..., Any], bad: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the survivors sign, learns the sum, and says that there is none; in whatever pattern."""
    federation = found(rounds=8)
    result = Coordinator.result

    def hidden(self: Coordinator) -> Any:
        if self._plan.round in bad:
            raise Refused("unmask.secret", "made up")
        return result(self)

    monkeypatch.setattr(Coordinator, "result", hidden)
    monkeypatch.setattr(server_run.burned, "stop_if_spoiled", lambda charter, folder: None)
    with suppress(UserError):
        federation.run()
    assert set(federation.refusals()) == {"plan.spoiled"}
    assert len(federation.refusals()) == 4
    assert spent(federation) == [bad[1] + 1] * 4
    assert federation.directory().recorded() == [number for number in range(bad[1]) if number not in bad]
