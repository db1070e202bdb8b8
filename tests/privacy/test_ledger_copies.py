"""A copy of a data set is the same account: under another name, in another order, in another format."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune.charter.columns import Columns
from cotune.data.files import read
from cotune.data.units import holdings
from cotune.privacy import accounts
from cotune.privacy.accounts import OverBudget
from cotune.privacy.charges import Due
from cotune.privacy.ledger import Ledger

ROWS = [{"q": f'Grüße {number}\n"zwei", drei', "a": f"é {number}", "who": f"p{number // 3}"} for number in range(12)]
COLUMNS = Columns(prompt="q", answer="a", unit="who", messages=None, system=None, label=None)
TERMS: dict[str, Any] = {
    "round": 0,
    "attempt": 0,
    "sample_rate": 0.25,
    "steps": 1,
    "delta": 1e-5,
}
DUES = [Due("patient", 1.0, 4.0)]


def as_jsonl(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
    return path


def as_parquet(path: Path, rows: list[dict[str, str]]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize(
    ("name", "write"), [("b.jsonl", as_jsonl), ("a.csv", as_csv), ("a.tsv", as_csv), ("a.parquet", as_parquet)]
)
def test_copies_share_one_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, write: Callable[..., Path]
) -> None:
    """Over runs and charters as well: the account is the data's."""
    monkeypatch.setattr(accounts, "epsilon", lambda history, delta: float(sum(steps for *_, steps in history)))
    shuffled = ROWS[:]
    random.Random(1).shuffle(shuffled)
    files = [as_jsonl(tmp_path / "a.jsonl", ROWS), write(tmp_path / name, shuffled)]
    ledger = Ledger(tmp_path / "ledger.sqlite")
    for number in range(4):
        data = holdings(read(files[number % 2], "instruction", COLUMNS), "patient")
        ledger.reserve(DUES, data=data, charter=f"charter {number // 2}", run=f"run {number}", **TERMS)
    for file in files:
        data = holdings(read(file, "instruction", COLUMNS), "patient")
        with pytest.raises(OverBudget, match=r"4\.000 spent by 4 charges of 4 runs, 5"):
            ledger.reserve(DUES, data=data, charter="another", run="one more", **TERMS)
    assert len({row.data_set for row in ledger.charges()}) == 1
