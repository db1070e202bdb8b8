"""What the members of a simulated consortium declare, and how the pooled home keeps their units apart."""

import io
import json
import threading
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from cotune.data.files import read
from cotune.data.units import group, holdings
from cotune.errors import UserError
from cotune.simulations.arms import Simulation
from cotune.simulations.consortium import found
from cotune.simulations.corpus import COLUMNS, load_corpus
from cotune.simulations.workspace import open_workspace
from rich.console import Console


def consortium_of(place: Any, run: Path, *words: str) -> Any:
    settings = place.settings(run, *words)
    return found(settings, open_workspace(settings), load_corpus(settings))


def test_a_declared_number_stands_in_for_the_exact_one(place: Any, tmp_path: Path) -> None:
    charter = consortium_of(place, tmp_path / "run", "data.units_per_organization=20").charter
    assert {member.nominal_units for member in charter.members} == {20}
    assert charter.privacy.delta == pytest.approx(1 / 200)
    with pytest.raises(UserError, match=r"holds 16 units: declare a round number .*units_per_organization=20"):
        consortium_of(place, tmp_path / "other", "data.units_per_organization=15")


def test_units_of_one_name_stay_two_in_the_pooled_home(place: Any, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b", "c"):
        lines = [json.loads(line) for line in place.files[0].read_text().splitlines()]
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    consortium_of(place, tmp_path / "run", f"data.files=[{','.join(map(str, files))}]")
    pooled = [json.loads(line) for line in (tmp_path / "run" / "pooled" / "records.jsonl").read_text().splitlines()]
    assert len({row["unit"] for row in pooled}) == 3 * 16


def test_a_person_under_several_spellings_is_declared_trained_and_charged_as_one(
    place: Any, tmp_path: Path, rows: Any
) -> None:
    """The same in the charter's numbers, in a node's own units and ledger, and in the pooled home."""
    lines = [json.loads(line) for line in place.files[1].read_text().splitlines()]
    for number, line in enumerate(lines):
        name = f"M\u00fcller {line['unit']}"
        line["unit"] = (name, unicodedata.normalize("NFD", name), name.upper(), f"{name}\u200b", f"{name}\ufeff")[
            number % 5
        ]
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = consortium_of(place, tmp_path / "run", f"data.files=[{own},{place.files[1]},{place.files[2]}]")
    assert [member.nominal_units for member in made.charter.members] == [16, 16, 16]
    read_again = [
        read(home / "records.jsonl", "instruction", COLUMNS)
        for home in (made.homes["own"], tmp_path / "run" / "pooled")
    ]
    assert [len(group(records).ids) for records in read_again] == [16, 3 * 16]
    assert len(holdings(read_again[0], "person").of_kind(1)) == 16 * 16
    assert group(read_again[0]).respelled == 16


def test_ids_in_several_spellings_are_said_once_and_not_shown(place: Any, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    own.write_text(place.files[1].read_text().replace("south/3", "South/3", 1))
    files = f"data.files=[{place.files[0]},{own},{place.files[2]}]"
    settings, shown = place.settings(tmp_path / "run", files), Console(file=io.StringIO(), width=200)
    Simulation(settings, open_workspace(settings), shown, threading.Event())
    said = [line for line in shown.file.getvalue().splitlines() if "spelled" in line]  # type: ignore[attr-defined]
    assert said == [
        "note: own: 1 unit id is spelled in more than one way in these records; "
        "the spellings of an id are taken as one unit"
    ]
