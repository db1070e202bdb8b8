"""A ledger under two trust models: every account composes what its adversary sees, in whatever order charters come."""

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from cotune.errors import UserError
from cotune.privacy import ledger as ledgers
from cotune.privacy.accounting import epsilon
from cotune.privacy.accounts import OverBudget, plain_unit
from cotune.privacy.adversaries import Event, account_unit, limited, require_plain, reserve, reserve_alone
from cotune.privacy.charges import Charge
from cotune.privacy.holdings import Holdings
from cotune.privacy.ledger import Ledger
from cotune.privacy.skellam import grid_for
from cotune.privacy.skellam_account import Segment, skellam_epsilon
from cotune.privacy.terms import PrivacyTerms

DELTA, RATE = 1e-5, 0.1
ALONE = PrivacyTerms(True, "patient", 8.0, DELTA, 1.0, 1.0, RATE, 4, 10.0, 0.1)
SHARED = replace(ALONE, trust="honest_majority", organizations=10, colluders=1, dropouts=1)
THREE = replace(SHARED, colluders=3)
WITH_ONE = "patient | server + 1 other"
DATA = Holdings.of([b"d" * 16])


def event(round: int, attempt: int = 0, data: Holdings = DATA) -> Event:
    return Event(data, "c" * 64, "r1", round, attempt)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def spent(ledger: Ledger, unit: str) -> float:
    return ledger.spent(DATA, unit, DELTA)


def test_without_trust_there_is_one_account_and_one_charge(ledger: Ledger) -> None:
    reserve(ledger, ALONE, event(0), 2, 8.0)
    (row,) = ledger.charges()
    assert (row.unit, row.noise_multiplier, row.steps, row.budget_epsilon) == ("patient", 1.0, 2, 8.0)


def test_a_round_with_shared_noise_is_charged_against_both_adversaries(ledger: Ledger) -> None:
    for number in range(3):
        reserve(ledger, SHARED, event(number), 1, 8.0)
    own = SHARED.own_multiplier
    assert spent(ledger, WITH_ONE) == epsilon([(1.0, RATE, 3)], DELTA)
    assert spent(ledger, "patient") == epsilon([(own, RATE, 3)], DELTA)
    accounts = {account.unit: account for account in ledger.statement()}
    assert {unit: limited(account) for unit, account in accounts.items()} == {WITH_ONE: True, "patient": False}
    assert accounts[WITH_ONE].budget_epsilon == 8.0
    # The epsilon against all others is far above the budget that was agreed on for an honest majority.
    assert accounts["patient"].spent_epsilon > 8.0 > accounts[WITH_ONE].spent_epsilon


def test_noise_on_integers_is_charged_as_such(ledger: Ledger) -> None:
    """Alone, shared, and in one account with Gaussian rounds: what is reported is the bound for all of it."""
    grid = grid_for(ALONE.sensitivity, 5_003)
    integers = {"mechanism": "skellam", "grid_step": grid.step, "dimension": grid.dimension}
    alone, shared = replace(ALONE, **integers), replace(SHARED, **integers, noise_multiplier=4.0)
    reserve(ledger, ALONE, event(0), 1, 8.0)
    reserve(ledger, alone, event(1), 2, 8.0)
    expected = [(1.0, RATE, 1), Segment(grid, 1.0, RATE, 2)]
    assert spent(ledger, "patient") == epsilon(expected, DELTA) == skellam_epsilon(expected[1:], DELTA, expected[:1])
    (account,) = ledger.statement()
    assert account.method == "rdp"
    # With shared noise the other account takes both in, on their own grid and off it.
    reserve(ledger, shared, event(2), 1, 8.0)
    expected.append(Segment(grid, 4.0, RATE, 1))
    assert spent(ledger, WITH_ONE) == epsilon(expected, DELTA)
    assert spent(ledger, "patient") == epsilon([*expected[:2], Segment(grid, shared.own_multiplier, RATE, 1)], DELTA)
    # The same attempt on another grid is another mechanism.
    with pytest.raises(UserError, match="other terms"):
        reserve(ledger, replace(alone, grid_step=grid.step / 2), event(1), 2, 8.0)
    assert Ledger(ledger.path).charges()[1].segment == Segment(grid, 1.0, RATE, 2)


def test_asking_twice_charges_once(ledger: Ledger) -> None:
    reserve(ledger, SHARED, event(0), 1, 8.0)
    reserve(ledger, SHARED, event(0), 1, 8.0)
    assert len(ledger.charges()) == 2
    reserve(ledger, SHARED, event(0, attempt=1), 1, 8.0)
    assert len(ledger.charges()) == 4


def test_the_budget_is_held_for_the_adversary_that_was_agreed_on(ledger: Ledger) -> None:
    budget = epsilon([(1.0, RATE, 3)], DELTA)
    for number in range(3):
        reserve(ledger, SHARED, event(number), 1, budget)
    with pytest.raises(OverBudget):
        reserve(ledger, SHARED, event(3), 1, budget)
    assert len(ledger.charges()) == 6


def test_rounds_without_trust_count_for_every_adversary(ledger: Ledger) -> None:
    reserve(ledger, replace(ALONE, noise_multiplier=9.0), event(0), 1, 50.0)
    reserve(ledger, replace(SHARED, noise_multiplier=9.0), event(1), 1, 50.0)
    reserve(ledger, replace(ALONE, noise_multiplier=9.0), event(2), 1, 50.0)
    own = replace(SHARED, noise_multiplier=9.0).own_multiplier
    assert spent(ledger, "patient") == epsilon([(9.0, RATE, 2), (own, RATE, 1)], DELTA)
    assert spent(ledger, WITH_ONE) == epsilon([(9.0, RATE, 3)], DELTA)
    reserve(ledger, replace(SHARED, noise_multiplier=9.0), event(3), 1, 50.0)
    assert spent(ledger, WITH_ONE) == epsilon([(9.0, RATE, 4)], DELTA)


def test_a_budget_promised_against_everybody_stays_promised(ledger: Ledger) -> None:
    """In both orders: a share of the noise is too little against everybody, whatever is opted into later."""
    reserve(ledger, ALONE, event(0), 1, 3.0)
    with pytest.raises(OverBudget):
        reserve(ledger, replace(SHARED, organizations=200), event(1), 1, 3.0)


def test_after_shared_noise_a_round_without_trust_is_refused_where_the_shares_were_too_small(ledger: Ledger) -> None:
    reserve(ledger, replace(SHARED, organizations=200), event(0), 1, 3.0)
    with pytest.raises(OverBudget):
        reserve(ledger, ALONE, event(1), 1, 3.0)


def test_another_number_of_colluders_is_another_adversary(ledger: Ledger) -> None:
    reserve(ledger, SHARED, event(0), 1, 50.0)
    reserve(ledger, THREE, event(1), 1, 50.0)
    three = "patient | server + 3 others"
    # What was shared against one colluder counts with the own share alone: upward.
    assert spent(ledger, three) == epsilon([(SHARED.own_multiplier, RATE, 1), (1.0, RATE, 1)], DELTA)


def test_rounds_on_kin_data_sets_count_for_every_adversary(ledger: Ledger) -> None:
    """In each order: before, between and after the rounds with shared noise."""
    grown, other = Holdings.of([b"d" * 16, b"e" * 16]), Holdings.of([b"f" * 16])
    quiet, shared = replace(ALONE, noise_multiplier=9.0), replace(SHARED, noise_multiplier=9.0)
    reserve(ledger, quiet, event(0), 1, 50.0)
    reserve(ledger, shared, event(0, data=grown), 1, 50.0)
    reserve(ledger, quiet, event(1, data=grown), 1, 50.0)
    reserve(ledger, shared, event(2), 1, 50.0)
    reserve(ledger, quiet, event(3, data=other), 1, 50.0)
    own = shared.own_multiplier
    for data in (DATA, grown):
        assert ledger.spent(data, WITH_ONE, DELTA) == epsilon([(9.0, RATE, 4)], DELTA)
        assert ledger.spent(data, "patient", DELTA) == epsilon([(9.0, RATE, 2), (own, RATE, 2)], DELTA)
    assert ledger.spent(other, "patient", DELTA) == epsilon([(9.0, RATE, 1)], DELTA)
    # Two accounts of each of the kin, one of the stranger.
    assert len(ledger.statement()) == 5


@pytest.mark.parametrize("data", [DATA, Holdings.of([b"d" * 16, b"e" * 16])], ids=["the same data", "kin"])
def test_a_budget_promised_against_a_majority_holds_for_rounds_without_trust(ledger: Ledger, data: Holdings) -> None:
    shared, quiet = replace(SHARED, noise_multiplier=9.0), replace(ALONE, noise_multiplier=9.0)
    budget = epsilon([(9.0, RATE, 2)], DELTA)
    reserve(ledger, shared, event(0), 1, budget)
    reserve(ledger, quiet, event(1, data=data), 1, 50.0)
    with pytest.raises(OverBudget, match="budget against the server with 1 other: "):
        reserve(ledger, quiet, event(2, data=data), 1, 50.0)
    assert ledger.spent(data, WITH_ONE, DELTA) == budget


def test_a_budget_promised_against_one_other_holds_for_shares_against_three(ledger: Ledger) -> None:
    own = replace(THREE, noise_multiplier=9.0).own_multiplier
    reserve(
        ledger, replace(SHARED, noise_multiplier=9.0), event(0), 1, epsilon([(9.0, RATE, 1), (own, RATE, 1)], DELTA)
    )
    reserve(ledger, replace(THREE, noise_multiplier=9.0), event(1), 1, 50.0)
    with pytest.raises(OverBudget):
        reserve(ledger, replace(THREE, noise_multiplier=9.0), event(2), 1, 50.0)


def test_a_round_that_one_account_refuses_is_charged_to_none(ledger: Ledger) -> None:
    """However often a coordinator asks: what an honest majority was promised is left for other rounds."""
    reserve(ledger, replace(ALONE, noise_multiplier=9.0), event(0), 1, 3.0)
    before = ledger.charges()
    for attempt in range(5):
        with pytest.raises(OverBudget) as caught:
            reserve(ledger, replace(SHARED, organizations=200), event(1, attempt), 1, 8.0)
        assert "budget: " in str(caught.value)
    assert ledger.charges() == before
    assert spent(ledger, WITH_ONE) == epsilon([(9.0, RATE, 1)], DELTA)


def test_both_charges_of_a_round_are_in_one_transaction(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve(ledger, SHARED, event(0), 1, 8.0)
    insert, calls = ledgers.insert, []

    def killed(database: sqlite3.Connection, charge: Charge) -> None:
        calls.append(charge.unit)
        if charge.unit == "patient":
            raise KeyboardInterrupt
        insert(database, charge)

    with monkeypatch.context() as patch:
        patch.setattr(ledgers, "insert", killed)
        with pytest.raises(KeyboardInterrupt):
            reserve(ledger, SHARED, event(1), 1, 8.0)
    assert calls == [WITH_ONE, "patient"]
    assert len(ledger.charges()) == 2
    reserve(ledger, SHARED, event(1), 1, 8.0)
    assert spent(ledger, WITH_ONE) == epsilon([(1.0, RATE, 2)], DELTA)
    assert spent(ledger, "patient") == epsilon([(SHARED.own_multiplier, RATE, 2)], DELTA)


def test_no_unit_can_pass_for_anothers_account() -> None:
    assert account_unit(SHARED) == WITH_ONE
    assert (plain_unit(WITH_ONE), plain_unit("patient")) == ("patient", "patient")
    require_plain("patient (adult)")
    for name in (WITH_ONE, WITH_ONE.replace("|", "\uff5c")):
        with pytest.raises(UserError):
            require_plain(name)


@pytest.mark.parametrize("name", ["Patient", "pat\u200bient", "patient\u00a0", "\uff50atient"])
def test_another_spelling_of_the_unit_opens_no_other_account(ledger: Ledger, name: str) -> None:
    reserve(ledger, ALONE, event(0), 2, 8.0)
    reserve(ledger, replace(ALONE, unit=name), event(1), 2, 8.0)
    assert [account.unit for account in ledger.statement()] == ["patient"]
    with pytest.raises(OverBudget):  # what was promised against everybody stays promised
        reserve(ledger, replace(SHARED, unit=name), event(2), 1, 8.0)
    assert account_unit(replace(SHARED, unit=name)) == WITH_ONE


@pytest.mark.parametrize("terms", [ALONE, SHARED], ids=["nobody", "honest_majority"])
def test_steps_taken_alone_carry_all_of_the_noise_in_every_account(terms: PrivacyTerms, ledger: Ledger) -> None:
    reserve(ledger, terms, event(0), 1, 8.0)
    reserve_alone(ledger, terms, event(1), 1, 8.0)
    last = [row for row in ledger.charges() if row.round == 1]
    assert {row.unit for row in last} == {row.unit for row in ledger.charges() if row.round == 0}
    assert {row.noise_multiplier for row in last} == {terms.noise_multiplier}
    assert spent(ledger, account_unit(terms)) == epsilon([(1.0, RATE, 2)], DELTA)
    assert spent(ledger, "patient") == epsilon([(terms.own_multiplier, RATE, 1), (1.0, RATE, 1)], DELTA)
