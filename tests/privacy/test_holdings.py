"""What a data set holds names it; what the ledger says that it holds cannot be changed unseen."""

import hashlib
import sqlite3
import tracemalloc
from collections.abc import Callable
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from cotune.privacy import accounts, holdings
from cotune.privacy.charges import Due
from cotune.privacy.holdings import Holdings, Shared, shared_by_pairs
from cotune.privacy.ledger import Ledger, LedgerBroken
from hypothesis import given
from hypothesis import strategies as st

TERMS: dict[str, Any] = {
    "charter": "c" * 64,
    "run": "r1",
    "attempt": 0,
    "sample_rate": 0.25,
    "steps": 1,
    "delta": 1e-5,
}
DUES = [Due("patient", 1.0, 8.0)]
FIRST, SECOND = Holdings.of([b"a" * 16, b"b" * 16]), Holdings.of([b"b" * 16, b"c" * 16])
STRANGER = Holdings.of([b"z" * 16])
DIGESTS = st.sets(st.binary(min_size=1, max_size=1).map(lambda one: one * 32), min_size=1, max_size=6)


@given(DIGESTS, DIGESTS)
def test_the_name_is_that_of_the_set(one: set[bytes], other: set[bytes]) -> None:
    left, right = Holdings.of([*one, *one]), Holdings.of(sorted(other, reverse=True))
    assert (left.name == right.name) == (left == right) == (one == other)
    assert left.shared(right) == right.shared(left) == Shared(len(one & other), 0)
    assert left.is_kin(right) == bool(one & other)
    assert left.is_kin(left)
    assert left.shared(left) == Shared(len(one), 0)


def test_a_digest_counts_as_what_it_is_of() -> None:
    """The same digest of a prompt, of an id and of a whole record: three contents, and kin only by the first two."""
    same, own = [b"a" * 16], [b"o" * 16]
    data = [
        Holdings.of(same),
        Holdings.of(own, ids=same),
        Holdings.of(own, answered=same),
        Holdings.of([b"p" * 16], same),
    ]
    assert len({one.name for one in data}) == 4
    assert shared_by_pairs(data) == {(1, 2): Shared(1, 0), (1, 3): Shared(0, 1)}
    assert [data[0].is_kin(other) for other in data] == [True, False, False, False]
    assert not Holdings.of(own, answered=same).is_kin(Holdings.of([b"p" * 16], answered=same))


HELD = st.builds(Holdings.of, DIGESTS, st.one_of(st.just(set()), DIGESTS), st.one_of(st.just(set()), DIGESTS))


@given(held=st.lists(HELD, max_size=6), cells=st.sampled_from([1, 7, 2**22]))
def test_one_pass_counts_what_each_pair_counts(held: list[Holdings], cells: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holdings, "_CELLS", cells)
        found = shared_by_pairs(held)
    for one, other in combinations(range(len(held)), 2):
        assert ((one, other) in found) == held[one].is_kin(held[other])
        assert found.get((one, other), Shared(0, 0)) == held[one].shared(held[other]) == held[other].shared(held[one])
    assert len(found) == sum(one.is_kin(other) for one, other in combinations(held, 2))


def test_many_versions_of_a_large_data_set_take_one_pass() -> None:
    """Pair by pair this took half a minute and a gigabyte for a hundred thousand records."""
    digests = [hashlib.sha256(number.to_bytes(4)).digest() for number in range(12_000)]
    held = [Holdings.of(digests[100 * version :][:9_000]) for version in range(31)]
    tracemalloc.start()
    found = shared_by_pairs(held)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(found[one, other] == Shared(9_000 - 100 * (other - one), 0) for one, other in found)
    assert len(found) == 31 * 30 // 2
    # 16 bytes a digest, and a few numbers beside it; sets of them take more than 100.
    assert most < 80 * 31 * 9_000 + 40 * 2**20


@pytest.mark.parametrize(
    ("shared", "said"),
    [
        (Shared(1, 0), "1 record"),
        (Shared(2, 1), "2 records and 1 id"),
        (Shared(0, 3), "3 ids"),
        (Shared(0, 0), "nothing"),
    ],
)
def test_what_is_shared_in_words(shared: Shared, said: str) -> None:
    assert str(shared) == said


@pytest.mark.parametrize(
    "digests", [([],), ([], [b"a" * 16]), ([b"short"],), ([b"a" * 32, b""],), ([b"a" * 16], [b"short"])]
)
def test_nobodys_data_and_half_digests_are_refused(digests: tuple[list[bytes], ...]) -> None:
    with pytest.raises(ValueError, match="at least"):
        Holdings.of(*digests)


def test_digests_stay_out_of_logs() -> None:
    assert "a" * 16 not in repr(FIRST)


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """Two data sets, the first with two charges."""
    monkeypatch.setattr(accounts, "epsilon", lambda history, delta: float(len(history)))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for number, data in enumerate((FIRST, SECOND, FIRST)):
        ledger.reserve(DUES, data=data, round=number, **TERMS)
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
        lambda found: found.reserve(DUES, data=STRANGER, round=9, **TERMS),
        lambda found: found.reserve(DUES, data=FIRST, round=0, **TERMS),
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
