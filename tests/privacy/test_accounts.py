"""Data sets that share a record or a unit's id are charged as one: no unit spends more than its account says."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from cotune.data.records import Message, Record
from cotune.data.units import holdings
from cotune.privacy import accounts
from cotune.privacy.accounting import Accounted
from cotune.privacy.accounts import Kin, OverBudget, plain_unit
from cotune.privacy.adversaries import Event, account_unit, reserve
from cotune.privacy.charges import Due
from cotune.privacy.history import Segment
from cotune.privacy.holdings import Holdings
from cotune.privacy.ledger import Ledger
from cotune.privacy.terms import PrivacyTerms
from hypothesis import given, settings
from hypothesis import strategies as st

TERMS: dict[str, Any] = {
    "unit": "patient",
    "charter": "c" * 64,
    "attempt": 0,
    "sigma": 1.0,
    "sample_rate": 0.25,
    "steps": 1,
    "delta": 1e-5,
    "budget_epsilon": 8.0,
}
ALONE = PrivacyTerms(True, "patient", 8.0, 1e-5, 1.0, 1.0, 0.25, 4, 10.0, 0.1)
SHARED = replace(ALONE, trust="honest_majority", organizations=10, colluders=1, dropouts=1)
THREE = replace(SHARED, colluders=3)


def linear(history: Sequence[Segment], delta: float) -> float:
    """A stand-in for accounting that a person can check: less noise costs more, and so does a tiny delta."""
    return sum(steps / sigma**2 for sigma, _, steps in history) + (1.0 if history and delta < 1e-6 else 0.0)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "epsilon", linear)
    monkeypatch.setattr(accounts, "accounted", lambda *given: Accounted(linear(*given), "prv", linear(*given)))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def texts(*numbers: int, ids: str | None = None) -> Holdings:
    """A data set of records by their numbers, each its own unit, or grouped by the given ids."""
    names = ids or "-" * len(numbers)
    rows = [
        Record((Message("user", f"text {number}"),), "yes", name) for number, name in zip(numbers, names, strict=True)
    ]
    return holdings(rows, None if ids is None else "patient")


def charge(ledger: Ledger, data: Holdings, round: int, **changed: Any) -> float:
    terms = TERMS | changed
    due = Due(terms.pop("unit"), terms.pop("sigma"), terms.pop("budget_epsilon"))
    return ledger.reserve([due], data=data, run=f"run {round}", round=round, **terms)[0].spent_epsilon


def spent(ledger: Ledger, data: Holdings) -> float:
    return ledger.spent(data, "patient", 1e-5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (texts(1, 2, 3), texts(3, 4)),
        (texts(1, 2), texts(1, 2, 3)),
        (texts(1, 2, ids="ab"), texts(3, 4, ids="bc")),
        (texts(1, 2, ids="ab"), texts(2, 3)),
        (texts(1, 2, ids="ab"), texts(1, 2, ids="cd")),
    ],
    ids=["one record", "a record more", "one patient, other texts", "one record, without ids", "other ids, same texts"],
)
def test_kin_share_one_budget(ledger: Ledger, old: Holdings, new: Holdings) -> None:
    assert old.name != new.name
    assert [charge(ledger, old, 0, steps=4), charge(ledger, new, 1, steps=3)] == [4.0, 7.0]
    assert spent(ledger, old) == spent(ledger, new) == 7.0
    for data in (old, new):
        with pytest.raises(OverBudget) as caught:
            charge(ledger, data, 2, steps=2)
        assert "7.000 spent by 2 charges of 2 runs on 2 data sets that share records" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert charge(ledger, new, 2) == 8.0
    for account, other in zip(ledger.statement(), (new, old), strict=True):
        assert (account.spent_epsilon, account.left_epsilon, account.steps, account.charges) == (8.0, 0.0, 8, 3)
        assert account.kin == (Kin(other.name, old.shared(new)),)
        assert [row.round for row in account.composed] == [0, 1, 2]


@pytest.mark.parametrize(
    ("old", "new"),
    [(texts(1, 2), texts(3, 4)), (texts(1, 2, ids="ab"), texts(3, 4, ids="cd"))],
    ids=["rows", "patients"],
)
def test_strangers_do_not(ledger: Ledger, old: Holdings, new: Holdings) -> None:
    assert [charge(ledger, old, 0, steps=8), charge(ledger, new, 1, steps=8)] == [8.0, 8.0]
    assert [account.kin for account in ledger.statement()] == [(), ()]
    with pytest.raises(OverBudget) as caught:
        charge(ledger, old, 2)
    assert "data sets" not in str(caught.value)
    assert "real ids" not in str(caught.value)


def test_a_refusal_says_what_is_shared_with_which_data_sets_and_the_way_out(ledger: Ledger) -> None:
    """Three by name, in the order of their first charges, and no text of anybody."""
    old = [texts(1, 2, 3), texts(3, 4, ids="ab"), texts(9, ids="a"), texts(2, 10), texts(3, 11)]
    for number, data in enumerate(old):
        charge(ledger, data, number, budget_epsilon=50.0)
    with pytest.raises(OverBudget) as caught:
        charge(ledger, texts(1, 2, 3, 4, ids="aaac"), 9, steps=4)
    named = zip(("3 records", "2 records and 1 id", "1 id"), old, strict=False)
    listed = ", ".join(f"{shared} with {data.name[:12]}" for shared, data in named)
    assert f"on 6 data sets that share records or units ({listed}, and 2 more), 9" in str(caught.value)
    assert "nobody's (a boilerplate text, row numbers as ids), drop those rows or use real ids" in caught.value.mend
    assert "text 1" not in str(caught.value)
    charge(ledger, texts(20, 21), 10, steps=8)
    with pytest.raises(OverBudget, match=rf"units \(1 record with {texts(20, 21).name[:12]}\), 9"):
        charge(ledger, texts(21, 22), 11)


def test_data_that_were_charged_before_and_shared_are_no_strangers(ledger: Ledger) -> None:
    first, kin, other = texts(1, 2), texts(2, 3), texts(4)
    assert ledger.strangers(first) == 0
    charge(ledger, first, 0)
    assert [ledger.strangers(data) for data in (first, kin, other)] == [0, 0, 1]
    charge(ledger, other, 1)
    assert [ledger.strangers(data) for data in (first, kin, other, texts(5))] == [0, 0, 0, 2]


@pytest.mark.parametrize("answer", ["yes.", "no"])
def test_answers_that_are_recoded_get_no_new_budget(ledger: Ledger, answer: str) -> None:
    rows = [Record((Message("user", f"text {number}"),), "yes", "-") for number in range(3)]
    charge(ledger, holdings(rows, None), 0, steps=8)
    with pytest.raises(OverBudget):
        charge(ledger, holdings([replace(row, answer=answer) for row in rows], None), 1)


def test_other_units_of_kin_are_other_accounts(ledger: Ledger) -> None:
    charge(ledger, texts(1), 0, steps=8)
    assert charge(ledger, texts(1, 2), 1, unit="visit", steps=8) == 8.0
    assert [len(account.kin) for account in ledger.statement()] == [1, 1]


def test_a_refusal_counts_the_data_that_were_never_charged_too(ledger: Ledger) -> None:
    charge(ledger, texts(1, 2), 0, steps=8)
    with pytest.raises(OverBudget, match=r"8\.000 spent by 1 charges of 1 runs on 2 data sets that share records"):
        charge(ledger, texts(2, 3), 1)
    assert len(ledger.statement()) == 1
    assert spent(ledger, texts(2, 3)) == 8.0


def test_an_older_and_smaller_budget_holds_for_newer_data(ledger: Ledger) -> None:
    charge(ledger, texts(1, 2), 0, budget_epsilon=3.0, delta=1e-7)
    # The smaller delta holds as well: one more, by the stand-in.
    assert charge(ledger, texts(2, 3), 1, budget_epsilon=50.0, delta=1e-4) == 3.0
    with pytest.raises(OverBudget, match="0 left of 3 at delta 1e-07"):
        charge(ledger, texts(2, 3), 2, budget_epsilon=50.0, delta=1e-4)


def test_kinship_is_not_handed_on(ledger: Ledger) -> None:
    """First, middle, last: the middle one's account holds all, and theirs nothing of each other."""
    first, middle, last = texts(1, 2), texts(2, 3), texts(3, 4)
    assert [charge(ledger, data, number, steps=3) for number, data in enumerate((first, middle, last))] == [3, 6, 6]
    assert [spent(ledger, data) for data in (first, middle, last)] == [6.0, 9.0, 6.0]
    # No record is in all three. The middle one's line is a bound for each of its records, and over its budget.
    assert [account.left_epsilon for account in ledger.statement()] == [2.0, 0.0, 2.0]
    with pytest.raises(OverBudget):
        charge(ledger, middle, 3)
    assert charge(ledger, last, 4, steps=2) == 8.0


UNIVERSE = 5
DATA = st.sets(st.integers(0, UNIVERSE - 1), min_size=1).map(sorted).map(tuple)
RELEASES = st.lists(
    st.tuples(
        DATA,
        st.booleans(),
        st.sampled_from([ALONE, ALONE, SHARED, THREE]),
        st.sampled_from([1.0, 2.0]),
        st.integers(1, 2),
        st.sampled_from([2.0, 5.0, 20.0]),
        st.sampled_from([1e-4, 1e-7]),
    ),
    max_size=7,
)
Release = tuple[Holdings, PrivacyTerms, int, float]


def held(data: tuple[int, ...], grouped: bool) -> Holdings:
    """Records as they are, or with other texts in each data set and the same people."""
    return texts(*data) if not grouped else texts(*(90 + sum(data) + number for number in data), ids=named(data))


def named(data: Iterable[int]) -> str:
    return "".join("abcde"[number] for number in data)


def truth(releases: Sequence[Release], adversary: str) -> tuple[float, float]:
    """What an adversary sees of one digest: the epsilon that is spent on it, and the smallest that was promised."""
    history: list[Segment] = []
    deltas, promised = [1.0], [float("inf")]
    for _, terms, steps, budget in releases:
        against = account_unit(terms)
        history.append((terms.noise_multiplier if against == adversary else terms.own_multiplier, 0.25, steps))
        if against in (adversary, plain_unit(adversary)):
            promised.append(budget)
        deltas.append(terms.delta)
    return linear(history, min(deltas)), min(promised)


@settings(max_examples=40, deadline=None)
@given(asked=RELEASES)
def test_no_record_and_no_person_spends_more_than_any_account_says(
    tmp_path_factory: pytest.TempPathFactory, asked: list[Any]
) -> None:
    """Whatever is charged in whatever order, under both trust models, for each of them apart."""
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite")
    released: list[Release] = []
    for number, (numbers, grouped, terms, sigma, steps, budget, delta) in enumerate(asked):
        data = held(numbers, grouped)
        terms = replace(terms, noise_multiplier=sigma, delta=delta)
        before = ledger.charges()
        try:
            reserve(ledger, terms, Event(data, "c" * 64, f"r{number}", number, 0), steps, budget)
        except OverBudget:
            assert ledger.charges() == before
            continue
        released.append((data, terms, steps, budget))
    reported = {(account.data_set, account.unit): account for account in ledger.statement()}
    for digest in {digest for data, *_ in released for digest in data.telling}:
        holders = [release for release in released if digest in release[0].telling]
        for adversary in {"patient", *(account_unit(terms) for _, terms, *_ in holders)}:
            spent, promised = truth(holders, adversary)
            assert spent <= promised
            for data, *_ in holders:
                account = reported.get((data.name, adversary))
                assert account is None or spent <= account.spent_epsilon
                assert spent <= ledger.spent(data, adversary, min(terms.delta for _, terms, *_ in holders))


def test_the_order_of_charters_changes_no_account(tmp_path: Path) -> None:
    events = [(texts(1, 2), ALONE), (texts(2, 3), SHARED), (texts(3, 4), THREE), (texts(2, 4), ALONE)]
    found = set()
    for attempt, order in enumerate(permutations(enumerate(events))):
        ledger = Ledger(tmp_path / f"{attempt}.sqlite")
        for number, (data, terms) in order:
            reserve(ledger, terms, Event(data, "c" * 64, "r", number, 0), 1, 1e5)
        lines = [(line.data_set, line.unit, line.charges, f"{line.spent_epsilon:.6f}") for line in ledger.statement()]
        found.add(frozenset(lines))
    assert len(found) == 1
