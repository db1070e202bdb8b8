"""A member whose sealed boxes hold nothing costs the others one attempt, and no budget."""

import logging
from collections.abc import Callable

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.secagg.messages import NONSENSE, SEAL, Complaint
from cotune.secagg.organization import Organization
from cotune.secagg.refused import require
from cotune.secagg.transcript import examine
from cotune.secagg.wire import peek
from cotune.server import disputes
from cotune.server.run import ATTEMPTS
from cotune.verify.kept import kept_rounds

DOGWOOD = 3


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """spoil({sender: recipients}): what a sender seals for them is signed as ever and does not open."""
    seal = Organization._seal

    def use(spoiled: dict[int, set[int]], sealed_nonsense: bool = False) -> None:
        def bad(self, view, peer, shares):
            if peer not in spoiled.get(self._state.index, ()):
                return seal(self, view, peer, shares)
            if sealed_nonsense:
                return seal(self, view, peer, (2**521 - 1, 0))  # not in the field
            box = seal(self, view, peer, shares)
            return box[:-1] + bytes([box[-1] ^ 1])

        monkeypatch.setattr(Organization, "_seal", bad)

    return use


def sent(federation) -> dict[int, list[np.ndarray]]:
    """Each member's pending contribution when the server asks for its upload."""
    seen: dict[int, list[np.ndarray]] = {}

    def before(kind, member, message):
        if kind == "query.upload":
            seen.setdefault(member, []).append(federation.homes[member].pending().contribution)
        return message

    federation.grid.before = before
    return seen


@pytest.mark.parametrize(
    ("recipients", "sealed_nonsense", "reason"),
    [({0}, False, SEAL), ({0, 1, 2}, False, SEAL), ({0, 1, 2}, True, NONSENSE)],
)
def test_bad_boxes_cost_an_attempt_and_nobodys_budget_twice(
    found: Callable,
    spoil: Callable,
    caplog: pytest.LogCaptureFixture,
    recipients: set[int],
    sealed_nonsense: bool,
    reason: int,
) -> None:
    federation = found(rounds=2)
    spoil({DOGWOOD: recipients}, sealed_nonsense)
    contributions = sent(federation)
    logging.getLogger("cotune.server").propagate = True
    with caplog.at_level(logging.WARNING, logger="cotune.server"):
        run = federation.run()
    for number in (0, 1):
        assert run.load(number).survivors == ("alder", "birch", "cedar")
        failed = next(noted for noted in run.attempts(number) if noted.complaints)
        filed = [Complaint.decode(peek(bytes.fromhex(message))[0]) for message in failed.complaints]
        assert {(found.index, found.accused, found.reason) for found in filed} == {
            (i, DOGWOOD, reason) for i in recipients
        }
        assert [noted.attempt for noted in run.attempts(number) if noted.signing] == [1]
    # In each round: once with everybody, once without the accused, and the same noised vector both times.
    assert [len(contributions[i]) for i in range(4)] == [4, 4, 4, 2]
    assert all(np.array_equal(contributions[i][0], contributions[i][1]) for i in range(3))
    assert [len(federation.charges(i)) for i in range(4)] == [2] * 4
    assert run.load(1).measured.trained == dict.fromkeys(("alder", "birch", "cedar", "dogwood"), 2)
    assert "left out: dogwood" in caplog.text
    assert {event.left_out for event in federation.events} == {(), ("dogwood",)}
    log = federation.homes[0].log.read_text()
    assert "complained of dogwood" in log
    assert all(home.round_secrets() is None for home in federation.homes[:3])
    assert kept_rounds(run.path) == [0, 1]
    assert all(one.verified for one in examine(run.records(-1), federation.charter.roster()))


def test_a_restarted_server_still_knows_whom_to_leave_out(found: Callable, spoil: Callable) -> None:
    federation = found(rounds=1)
    spoil({DOGWOOD: {0, 1, 2}})
    asked: list[int] = []

    def before(kind, member, message):
        asked.append(member)
        if kind == "train.round" and asked.count(0) > 4:  # hello, plan, adverts, inbox: then the next plan
            raise KeyboardInterrupt
        return message

    federation.grid.before = before
    with pytest.raises(KeyboardInterrupt):
        federation.run()
    federation.grid.sent.clear()
    federation.grid.before = lambda kind, member, message: message
    assert federation.run().load(0).survivors == ("alder", "birch", "cedar")
    assert ("train.round", DOGWOOD) not in federation.grid.sent


def test_who_complains_of_everybody_is_left_out_itself(found: Callable, spoil: Callable) -> None:
    """A false complaint costs the accused the round; a second one, of another member, costs its author the round."""
    federation = found(rounds=1)
    # That boxes for dogwood are bad is what its false complaints say.
    spoil({0: {DOGWOOD}, 1: {DOGWOOD}})
    run = federation.run()
    assert run.load(0).survivors == ("alder", "birch", "cedar")
    assert [noted.attempt for noted in run.attempts(0) if noted.signing] == [2]
    assert [len(federation.charges(i)) for i in range(4)] == [1] * 4


def test_attempts_that_a_dispute_ended_do_not_end_the_run(found: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    federation, settled, left = found(rounds=1), disputes.require_settled, iter(range(ATTEMPTS + 1))

    def disputed(*given):
        require(next(left, None) is None, disputes.DISPUTED, "made up")
        settled(*given)

    monkeypatch.setattr(disputes, "require_settled", disputed)
    run = federation.run()
    assert len(run.load(0).survivors) == 4
    assert [noted.attempt for noted in run.attempts(0) if noted.signing] == [ATTEMPTS + 1]


def test_where_too_few_would_be_left_the_dispute_is_named(found: Callable, spoil: Callable) -> None:
    federation = found(rounds=1)
    spoil({2: {0, 1, DOGWOOD}, DOGWOOD: {0, 1, 2}})
    with pytest.raises(
        UserError, match=r"3 attempts failed \(.*alder says that what cedar sealed for it does not open"
    ):
        federation.run()
    assert [len(federation.charges(i)) for i in range(4)] == [1] * 4


@pytest.mark.parametrize(
    ("silent_at", "recorded"),
    [("query.shares", [0, 1, 2]), ("query.upload", [0, 1, 2]), ("query.survivors", [1, 2]), ("query.reveal", [1, 2])],
)
def test_who_complains_without_cause_and_falls_silent_counts_for_two_only_once(
    found: Callable, monkeypatch: pytest.MonkeyPatch, silent_at: str, recorded: list[int]
) -> None:
    """Dogwood's word leaves alder out of the next attempt, which needs dogwood, and does not get it."""
    federation, mask = found(rounds=3), Organization.mask

    def lie(self, inbox, vector, workers=1, **options):
        require(self._state.index != DOGWOOD or self._plan.attempt > 0, "share.seal", "a lie", 0)
        return mask(self, inbox, vector, workers, **options)

    def before(kind, member, message):
        run = federation.directory()
        return None if (kind, member) == (silent_at, DOGWOOD) and run.complaints(len(run.committed())) else message

    monkeypatch.setattr(Organization, "mask", lie)
    federation.grid.before = before
    run = federation.run()
    assert run.recorded() == recorded
    for number in recorded[-2:]:
        assert run.load(number).survivors == ("alder", "birch", "cedar")
    failed = [noted for noted in run.attempts() if noted.trained is not None]
    assert [noted.withheld for noted in failed if noted.refused != disputes.DISPUTED] == [(DOGWOOD,)]
    assert [len(federation.charges(member)) for member in range(4)] == [3, 3, 3, 3]


def lose_shares_once(federation, *members: int) -> Callable:
    """The replies of some members to the first attempt's `query.shares` are lost: it fails, and nobody complains."""
    lost: set[int] = set()

    def before(kind, member, message):
        if kind == "query.shares" and member in set(members) - lost:
            lost.add(member)
            return None
        return message

    return before


def test_an_outage_before_any_complaint_counts_against_nobody(found: Callable, spoil: Callable) -> None:
    """Alder was silent once. When it says the truth about dogwood's box later, dogwood goes all the same."""
    federation = found(rounds=2)
    federation.grid.before = lose_shares_once(federation, 0, 1)
    spoil({DOGWOOD: {0}})
    run = federation.run()
    assert [noted.withheld for noted in run.attempts() if noted.withheld] == []
    assert [run.load(number).survivors for number in run.committed()] == [("alder", "birch", "cedar")] * 2


def test_an_outage_before_does_not_help_who_complains_and_falls_silent(
    found: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation, mask = found(rounds=3), Organization.mask
    outage = lose_shares_once(federation, 0, 1)

    def lie(self, inbox, vector, workers=1, **options):
        require(self._state.index != DOGWOOD or len(self._plan.cohort) < 4 or silent(), "share.seal", "a lie", 0)
        return mask(self, inbox, vector, workers, **options)

    def silent() -> bool:
        run = federation.directory()
        return bool(run.complaints(len(run.committed())))

    def before(kind, member, message):
        if (kind, member) == ("query.survivors", DOGWOOD) and silent():
            return None
        return outage(kind, member, message)

    monkeypatch.setattr(Organization, "mask", lie)
    federation.grid.before = before
    run = federation.run()
    assert run.committed() == [0, 1, 2]
    assert run.recorded() == [1, 2]
    assert {index for noted in run.attempts() for index in noted.withheld} == {DOGWOOD}
