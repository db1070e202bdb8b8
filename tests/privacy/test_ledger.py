"""The ledger: durable, append-only, within the budget, by whoever and however often it is asked."""

import pickle
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cotune.errors import UserError
from cotune.privacy import accounting, accounts
from cotune.privacy.accounting import Accounted
from cotune.privacy.accounts import OverBudget
from cotune.privacy.charges import Charge, Due
from cotune.privacy.history import Segment
from cotune.privacy.holdings import Holdings
from cotune.privacy.ledger import Ledger, LedgerBroken
from hypothesis import given, settings
from hypothesis import strategies as st

TERMS: dict[str, Any] = {
    "data": Holdings.of([b"d" * 16]),
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


def charge_one(ledger: Ledger, *, unit: str, sigma: float, budget_epsilon: float, **event: Any) -> Charge:
    (charge,) = ledger.reserve([Due(unit, sigma, budget_epsilon)], **event)
    return charge


def linear(history: Sequence[Segment], delta: float) -> float:
    """A stand-in for accounting that a person can check: one for each step, one more for a tiny delta."""
    return float(sum(steps for _, _, steps in history)) + (1.0 if delta < 1e-6 else 0.0)


def make_plain(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(accounts, "epsilon", linear)
    patch.setattr(accounts, "accounted", lambda *given: Accounted(linear(*given), "prv", linear(*given)))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    make_plain(monkeypatch)


@pytest.fixture
def ledger(tmp_path: Path, plain: None) -> Ledger:
    return Ledger(tmp_path / "ledger.sqlite")


def test_a_reservation_is_on_disk_and_in_the_statement(ledger: Ledger) -> None:
    for number in range(3):
        charge_one(ledger, round=number, **TERMS)
    again = Ledger(ledger.path)
    assert [row.round for row in again.charges()] == [0, 1, 2]
    assert again.charges()[-1].spent_epsilon == 3.0
    assert again.spent(TERMS["data"], "patient", 1e-5) == 3.0
    assert again.spent(TERMS["data"], "visit", 1e-5) == 0.0
    (account,) = again.statement()
    assert (account.spent_epsilon, account.left_epsilon, account.steps, account.charges) == (3.0, 5.0, 3, 3)
    assert again.verify() == again.charges()[-1].digest


def test_the_file_is_private(ledger: Ledger) -> None:
    assert stat.S_IMODE(ledger.path.stat().st_mode) == 0o600
    ledger.path.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        Ledger(ledger.path)


@pytest.mark.parametrize("suffix", ["", "-journal", ".head"])
def test_no_link_is_taken_for_a_part_of_the_ledger(ledger: Ledger, suffix: str) -> None:
    """SQLite would follow it, and take what it leads to for its own journal."""
    charge_one(ledger, round=1, **TERMS)
    file = ledger.path.with_name(ledger.path.name + suffix)
    elsewhere = ledger.path.with_name("elsewhere")
    if file.exists():
        file.rename(elsewhere)
    else:
        elsewhere.write_bytes(b"")
    file.symlink_to(elsewhere)
    for use in (ledger.charges, lambda: Ledger(ledger.path), lambda: charge_one(ledger, round=2, **TERMS)):
        with pytest.raises(UserError, match="not a plain file"):
            use()


def test_a_repeated_reservation_costs_once_and_must_be_the_same(ledger: Ledger) -> None:
    first = charge_one(ledger, round=1, **TERMS)
    assert charge_one(ledger, round=1, **TERMS) == first
    assert len(ledger.charges()) == 1
    for changed in ({"sigma": 0.9}, {"steps": 2}, {"delta": 1e-4}, {"sample_rate": 0.5}, {"budget_epsilon": 9.0}):
        with pytest.raises(UserError, match="other terms"):
            charge_one(ledger, round=1, **(TERMS | changed))
    for other in ({"attempt": 1}, {"run": "r2"}, {"charter": "e" * 64}):
        charge_one(ledger, round=1, **(TERMS | other))
    assert len(ledger.charges()) == 4


def test_over_budget_is_refused_with_what_is_left_and_charges_nothing(ledger: Ledger) -> None:
    charge_one(ledger, round=0, **(TERMS | {"steps": 6}))
    head = ledger.verify()
    with pytest.raises(OverBudget) as caught:
        charge_one(ledger, round=1, **(TERMS | {"steps": 3}))
    for part in ("6.000 spent by 1 charges of 1 runs", "9.000 with", "2.000 left of 8", "cotune privacy show"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ledger.verify() == head
    charge_one(ledger, round=1, **(TERMS | {"steps": 2}))


def test_the_smallest_budget_and_the_smallest_delta_hold(ledger: Ledger) -> None:
    charge_one(ledger, round=0, **(TERMS | {"budget_epsilon": 2.0}))
    with pytest.raises(OverBudget):
        charge_one(ledger, round=1, **(TERMS | {"steps": 2, "budget_epsilon": 100.0}))
    other = TERMS | {"data": Holdings.of([b"other" * 4]), "budget_epsilon": 3.0}
    charge_one(ledger, round=0, **(other | {"delta": 1e-7}))
    with pytest.raises(OverBudget):
        charge_one(ledger, round=1, **(other | {"steps": 2, "delta": 1e-4}))
    charge_one(ledger, round=1, **other)


@settings(max_examples=30, deadline=None)
@given(
    asked=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["patient", "visit"]), st.integers(1, 4), st.integers(2, 9)),
        max_size=12,
    )
)
def test_no_sequence_of_requests_passes_any_budget(
    tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[str, str, int, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        make_plain(patch)
        ledger = Ledger(tmp_path_factory.mktemp("ledger") / "ledger.sqlite")
        held: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for number, (data_set, unit, steps, budget) in enumerate(asked):
            account = held.setdefault((data_set, unit), [])
            total = sum(taken for taken, _ in account) + steps
            fits = total <= min([budget, *(limit for _, limit in account)])
            data = Holdings.of([data_set.encode() * 16])
            terms = TERMS | {"data": data, "unit": unit, "steps": steps, "budget_epsilon": float(budget)}
            try:
                charge_one(ledger, round=number, **terms)
            except OverBudget:
                assert not fits
            else:
                assert fits
                account.append((steps, budget))
        for line in ledger.statement():
            assert line.spent_epsilon <= line.budget_epsilon


def test_reserves_exactly_the_calibrated_run(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    terms = TERMS | {"sigma": accounting.calibrate(3.0, 1e-5, 1.0, 3), "budget_epsilon": 3.0, "sample_rate": 1.0}
    for number in range(3):
        charge = charge_one(ledger, round=number, **terms)
    assert charge.spent_epsilon == ledger.spent(TERMS["data"], "patient", 1e-5) <= 3.0
    with pytest.raises(OverBudget):
        charge_one(ledger, round=3, **terms)


MANY, SERVER = Due("patient", 0.5, 6.0), Due("patient | server + 1 other", 1.0, 8.0)
EVENT = {key: value for key, value in TERMS.items() if key not in ("unit", "sigma", "budget_epsilon")}


@pytest.mark.parametrize("dues", [(SERVER, MANY), (MANY, SERVER)], ids=["the server first", "all others first"])
def test_an_event_is_charged_to_all_of_its_accounts_or_to_none(ledger: Ledger, dues: tuple[Due, ...]) -> None:
    """Whichever has no room, and in whatever order they are asked."""
    first = ledger.reserve(dues, round=0, **(EVENT | {"steps": 4}))
    assert [(row.sequence, row.unit, row.spent_epsilon) for row in first] == [
        (number, due.unit, 4.0) for number, due in enumerate(dues, 1)
    ]
    head, other = ledger.verify(), Holdings.of([b"other" * 4])
    for _ in range(3):
        with pytest.raises(OverBudget, match=r"2\.000 left of 6"):
            ledger.reserve(dues, round=1, **(EVENT | {"steps": 3}))
        with pytest.raises(OverBudget, match="against the server with 1 other"):
            ledger.reserve([Due(SERVER.unit, 1.0, 2.0), MANY], round=0, **(EVENT | {"data": other, "steps": 3}))
    assert (ledger.verify(), Ledger(ledger.path).charges()) == (head, list(first))
    # Nor is a data set known that was charged with nothing.
    with closing(sqlite3.connect(ledger.path)) as database:
        assert database.execute("SELECT count(*) FROM contents").fetchone() == (1,)
    ledger.reserve(dues, round=1, **(EVENT | {"steps": 2}))
    assert [ledger.spent(EVENT["data"], due.unit, 1e-5) for due in dues] == [6.0, 6.0]


def test_a_repeated_event_is_the_same_whole(ledger: Ledger) -> None:
    both = ledger.reserve([SERVER, MANY], round=0, **EVENT)
    assert ledger.reserve([SERVER, MANY], round=0, **EVENT) == ledger.reserve([MANY, SERVER], round=0, **EVENT) == both
    for dues in ([SERVER], [MANY], [SERVER, MANY, Due("visit", 1.0, 8.0)], [Due("visit", 1.0, 8.0)]):
        with pytest.raises(UserError, match="other terms"):
            ledger.reserve(dues, round=0, **EVENT)
    assert ledger.charges() == list(both)


@pytest.mark.parametrize("dues", [[], [MANY, MANY], [MANY, Due("patient", 1.0, 8.0)]])
def test_nothing_and_two_for_one_account_are_refused(ledger: Ledger, dues: list[Due]) -> None:
    with pytest.raises(ValueError, match="nothing, or twice"):
        ledger.reserve(dues, round=0, **EVENT)


@pytest.mark.parametrize("changed", [{"steps": 0}, {"sigma": 0.0}, {"sigma": float("nan")}])
def test_what_no_mechanism_has_is_refused(ledger: Ledger, changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="reserve"):
        charge_one(ledger, round=0, **(TERMS | changed))


def raw(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()


@pytest.mark.parametrize("table", ["charges", "contents"])
@pytest.mark.parametrize("verb", ["UPDATE {} SET data_set = 'x'", "DELETE FROM {}"])
def test_the_tables_are_append_only(ledger: Ledger, verb: str, table: str) -> None:
    charge_one(ledger, round=0, **TERMS)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        raw(ledger.path, verb.format(table))
    assert len(ledger.charges()) == 1


COLUMNS = [
    ("data_set", "'x'"),
    ("unit", "'x'"),
    ("charter", "'x'"),
    ("run", "'x'"),
    ("round", "99"),
    ("attempt", "99"),
    ("noise_multiplier", "99.0"),
    ("sample_rate", "0.001"),
    ("steps", "99"),
    ("delta", "0.1"),
    ("budget_epsilon", "99.0"),
    ("spent_epsilon", "0.0"),
    ("reserved_at", "'x'"),
    ("previous", "'x'"),
    ("digest", "'x'"),
]


@pytest.mark.parametrize(("column", "value"), COLUMNS)
def test_a_changed_cell_is_found(ledger: Ledger, column: str, value: str) -> None:
    for number in range(3):
        charge_one(ledger, round=number, **TERMS)
    raw(ledger.path, "DROP TRIGGER charges_never_updated", f"UPDATE charges SET {column} = {value} WHERE sequence = 2")
    with pytest.raises(LedgerBroken, match="row 2"):
        ledger.verify()
    with pytest.raises(LedgerBroken):
        charge_one(ledger, round=3, **TERMS)


def test_a_removed_or_renumbered_row_is_found(ledger: Ledger) -> None:
    for number in range(4):
        charge_one(ledger, round=number, **TERMS)
    raw(ledger.path, "DROP TRIGGER charges_never_deleted", "DELETE FROM charges WHERE sequence = 2")
    with pytest.raises(LedgerBroken, match="row 2"):
        ledger.verify()
    raw(
        ledger.path,
        "DROP TRIGGER charges_never_updated",
        "UPDATE charges SET sequence = sequence - 1 WHERE sequence > 2",
    )
    with pytest.raises(LedgerBroken, match="row 2"):
        ledger.verify()


def test_a_file_that_is_no_ledger_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database at all, but long enough to look at" * 10)
    path.chmod(0o600)
    with pytest.raises(LedgerBroken, match="not a database") as caught:
        Ledger(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="folder"):
        Ledger(tmp_path / "none" / "ledger.sqlite")


WORKER = """
import sys
from pathlib import Path
from cotune.privacy import accounts
from cotune.privacy.charges import Due
from cotune.privacy.holdings import Holdings
from cotune.privacy.ledger import Ledger
accounts.epsilon = lambda history, delta: float(sum(steps for _, _, steps in history))
ledger = Ledger(Path(sys.argv[1]))
data = Holdings.of(letter.encode() * 16 for letter in sys.argv[5])
for number in range(int(sys.argv[3])):
    try:
        ledger.reserve([Due("u", 1.0, float(sys.argv[4]))], data=data, charter="c", run=sys.argv[2], round=number,
                       attempt=0, sample_rate=0.5, steps=1, delta=1e-5)
    except accounts.OverBudget:
        break
    print(number, flush=True)
"""


def worker(path: Path, run: str, count: int, budget: float, records: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", WORKER, str(path), run, str(count), str(budget), records]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("lines", [1, 4, 9])
def test_kill_9_loses_nothing_that_was_returned(tmp_path: Path, plain: None, lines: int) -> None:
    path = tmp_path / "ledger.sqlite"
    process = worker(path, "r", 100_000, 1e9, "d")
    assert process.stdout is not None
    seen = [int(process.stdout.readline()) for _ in range(lines)]
    process.send_signal(signal.SIGKILL)
    seen += [int(line) for line in process.stdout.read().splitlines()]
    process.wait()
    assert process.returncode == -signal.SIGKILL
    rounds = [row.round for row in Ledger(path).charges()]
    assert rounds == list(range(len(rounds)))
    # At most the one that was committed and not yet printed.
    assert len(rounds) - len(seen) in (0, 1)
    charge_one(Ledger(path), round=0, **TERMS)


@pytest.mark.parametrize("records", [("a", "a"), ("ab", "bc")], ids=["one data set", "kin"])
def test_two_processes_share_one_budget(tmp_path: Path, plain: None, records: tuple[str, str]) -> None:
    path = tmp_path / "ledger.sqlite"
    Ledger(path)
    processes = [worker(path, run, 1000, 25.0, held) for run, held in zip("ab", records, strict=True)]
    printed = [len(process.communicate()[0].splitlines()) for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum(printed) == 25
    assert len(Ledger(path).charges()) == 25
    Ledger(path).verify()


def test_verdicts_survive_a_process_border(ledger: Ledger) -> None:
    charge_one(ledger, round=0, **(TERMS | {"steps": 8}))
    with pytest.raises(OverBudget) as caught:
        charge_one(ledger, round=1, **TERMS)
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, OverBudget)
    assert str(again) == str(caught.value)
