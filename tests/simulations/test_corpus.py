"""A corpus of the user's own files: names, labels, units; and records written so that a node reads the same."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune.data.files import Columns, read
from cotune.data.units import group, holdings
from cotune.errors import UserError
from cotune.simulations.corpus import COLUMNS, MOST_LABELS, load_corpus, write_records


def _append(path: Path, source: Path, *lines: dict[str, str]) -> Path:
    path.write_text(source.read_text() + "".join(json.dumps(line) + "\n" for line in lines))
    return path


def _load(place: Any, tmp_path: Path, *words: str) -> Any:
    return load_corpus(place.settings(tmp_path / "run", *words))


def test_one_organization_a_file(place: Any, tmp_path: Path) -> None:
    corpus = _load(place, tmp_path)
    assert list(corpus.organizations) == ["north-ward", "south", "west"]
    assert [len(records) for records in corpus.organizations.values()] == [32, 32, 32]
    assert len(group(corpus.organizations["south"]).ids) == 16
    assert corpus.labels == ("blue", "green", "red")
    assert len(corpus.test) == 24


def test_test_rows_and_rows_as_units(place: Any, tmp_path: Path) -> None:
    corpus = _load(place, tmp_path, "data.test_rows=5", "data.rows_are_units=true")
    assert len(corpus.test) == 5
    assert len(group(corpus.organizations["south"]).ids) == 32


def test_a_label_that_nobody_trains_on(place: Any, tmp_path: Path) -> None:
    test = _append(tmp_path / "t.jsonl", place.test, {"prompt": "word1", "answer": "mauve", "unit": "new"})
    with pytest.raises(UserError, match=r"t\.jsonl, row 25: the label 'mauve'"):
        _load(place, tmp_path, f"data.test_file={test}")


def test_a_unit_on_both_sides(place: Any, tmp_path: Path) -> None:
    test = _append(tmp_path / "t.jsonl", place.test, {"prompt": "word1", "answer": "red", "unit": "south/3"})
    with pytest.raises(UserError, match="1 units are also in south's file"):
        _load(place, tmp_path, f"data.test_file={test}")


@pytest.mark.parametrize("name", ["North-Ward.jsonl", "...jsonl", "coordinator.jsonl"])
def test_a_name_that_is_no_name_of_its_own(place: Any, tmp_path: Path, name: str) -> None:
    other = tmp_path / name
    other.write_text(place.files[1].read_text())
    with pytest.raises(UserError, match=r"name each file differently|name"):
        _load(place, tmp_path, f"data.files=[{place.files[0]},{other},{place.files[2]}]")


def test_answers_that_are_no_labels(place: Any, tmp_path: Path) -> None:
    free = [{"prompt": "word1", "answer": f"text {number}", "unit": f"f/{number}"} for number in range(MOST_LABELS)]
    file = _append(tmp_path / "free.jsonl", place.files[0], *free)
    with pytest.raises(UserError, match="515 different answers"):
        _load(place, tmp_path, f"data.files=[{file},{place.files[1]},{place.files[2]}]")


def test_what_is_written_is_read_back(place: Any, tmp_path: Path, rows: Callable[..., Path]) -> None:
    """A node's holdings and units, the ledger's key and the clipping's, are those of the user's file."""
    records = _load(place, tmp_path).organizations["south"]
    write_records(records, tmp_path / "records.jsonl")
    again = read(tmp_path / "records.jsonl", "instruction", Columns(**{**COLUMNS.model_dump()}))
    assert again == records
    own = read(place.files[1], "instruction", _columns())
    assert holdings(again, "patient") == holdings(own, "patient")
    assert (tmp_path / "records.jsonl").stat().st_mode & 0o077 == 0


def _columns() -> Columns:
    return Columns(prompt="prompt", answer="answer", unit="unit", messages=None, system=None, label=None)


@pytest.mark.parametrize("form", ["instruction", "completion"])
def test_records_come_back_from_a_home_as_they_were(form: str, tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    source.write_text('{"prompt": "a cough", "answer": "lung", "unit": "p1"}\n')
    columns = Columns(prompt="prompt", answer="answer", unit="unit", messages=None, system=None, label=None)
    records = read(source, form, columns)
    write_records(records, tmp_path / "home.jsonl")
    assert read(tmp_path / "home.jsonl", form, Columns(**COLUMNS.model_dump())) == records
    assert (tmp_path / "home.jsonl").stat().st_mode & 0o777 == 0o600
