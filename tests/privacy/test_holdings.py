"""What a data set holds names it; what the ledger says that it holds cannot be changed unseen."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cotune.privacy import accounts
from cotune.privacy.holdings import Holdings
from cotune.privacy.ledger import Ledger, LedgerBroken
from hypothesis import given
from hypothesis import strategies as st

TERMS: dict[str, Any] = {
    "unit": "patient",
    "charter": "c" * 64,
    "run": "r1",
    "attempt": 0,
    "sigma": 1.0,
    "sample_rate": 0.25,
    "steps": 1,
    "delta": 1e-5,
    "budget_epsilon": 8.0,
}
FIRST, SECOND = Holdings.of([b"a" * 16, b"b" * 16]), Holdings.of([b"b" * 16, b"c" * 16])
STRANGER = Holdings.of([b"z" * 16])
DIGESTS = st.sets(st.binary(min_size=1, max_size=1).map(lambda one: one * 32), min_size=1, max_size=6)


@given(DIGESTS, DIGESTS)
def test_the_name_is_that_of_the_set(one: set[bytes], other: set[bytes]) -> None:
    left, right = Holdings.of([*one, *one]), Holdings.of(sorted(other, reverse=True))
    assert (left.name == right.name) == (left == right) == (one == other)
    assert left.shared(right) == right.shared(left) == len(one & other)
    assert left.is_kin(right) == bool(one & other)
    assert left.is_kin(left)
    assert left.shared(left) == len(one)


@pytest.mark.parametrize("digests", [[], [b"short"], [b"a" * 32, b""]])
def test_nobodys_data_and_half_digests_are_refused(digests: list[bytes]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Holdings.of(digests)


def test_digests_stay_out_of_logs() -> None:
    assert "a" * 16 not in repr(FIRST)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Two data sets, the first with two charges."""
    monkeypatch.setattr(accounts, "epsilon", lambda history, delta: float(len(history)))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for number, data in enumerate((FIRST, SECOND, FIRST)):
        ledger.reserve(data=data, round=number, **TERMS)
    return ledger


def test_contents_are_stored_once_for_a_data_set(ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger.path)) as database:
        stored = dict(database.execute("SELECT data_set, digests FROM contents"))
    assert stored == {data.name: data.packed for data in (FIRST, SECOND)}
    ledger.verify()


CHANGE, REMOVE, ADD = "UPDATE contents SET", "DELETE FROM contents", "INSERT INTO contents VALUES"
ALTERED, LOST = "holds was altered", "has lost what data set"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (f"{REMOVE} WHERE data_set = '{FIRST.name}'", LOST),
        (REMOVE, LOST),
        (f"{ADD} ('{STRANGER.name}', x'{STRANGER.packed.hex()}')", ALTERED),
        (f"{CHANGE} digests = x'{STRANGER.packed.hex()}' WHERE data_set = '{FIRST.name}'", ALTERED),
        (f"{CHANGE} digests = substr(digests, 17) WHERE data_set = '{FIRST.name}'", ALTERED),
        (f"{CHANGE} digests = CAST(substr(digests, 17) || substr(digests, 1, 16) AS BLOB)", ALTERED),
        (f"{CHANGE} digests = CAST(digests || x'{STRANGER.packed.hex()}' AS BLOB)", ALTERED),
        (f"{CHANGE} digests = (SELECT digests FROM contents other WHERE other.rowid <> contents.rowid)", ALTERED),
        (f"{CHANGE} data_set = '{STRANGER.name}' WHERE data_set = '{FIRST.name}'", ALTERED),
        (
            f"{CHANGE} data_set = '{STRANGER.name}', digests = x'{STRANGER.packed.hex()}' "
            f"WHERE data_set = '{FIRST.name}'",
            ALTERED,
        ),
        ("DROP TABLE contents", LOST),
    ],
    ids=[
        "one row less",
        "no rows",
        "one row more",
        "other digests",
        "a digest less",
        "another order",
        "a digest more",
        "swapped",
        "another name",
        "another data set",
        "no table",
    ],
)
def test_other_contents_are_found(ledger: Ledger, change: str, said: str) -> None:
    with closing(sqlite3.connect(ledger.path)) as database:
        for verb in ("update", "delete"):
            database.execute(f"DROP TRIGGER contents_never_{verb}d")
        database.execute(change)
        database.commit()
    uses: tuple[Callable[[Ledger], object], ...] = (
        Ledger.charges,
        Ledger.statement,
        Ledger.verify,
        lambda found: found.spent(FIRST, "patient", 1e-5),
        lambda found: found.reserve(data=STRANGER, round=9, **TERMS),
        lambda found: found.reserve(data=FIRST, round=0, **TERMS),
        lambda found: found.require_charged("r1", [0]),
    )
    for use in uses:
        with pytest.raises(LedgerBroken, match=said) as caught:
            use(Ledger(ledger.path))
        assert "do not start anew" in caught.value.mend
        assert "\n" not in str(caught.value)


def test_contents_of_another_type_are_found(ledger: Ledger) -> None:
    with closing(sqlite3.connect(ledger.path)) as database:
        database.execute("DROP TABLE contents")
        database.execute("CREATE TABLE contents (data_set, digests)")
        database.executemany("INSERT INTO contents VALUES (?, ?)", [(FIRST.name, "text"), (SECOND.name, 7)])
        database.commit()
    with pytest.raises(LedgerBroken):
        Ledger(ledger.path).charges()
