"""The mutation check finds every check, leaves out what it says, and its report is about the code as it is."""

import ast
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cotune.secagg.refused import Refused
from cotune.secagg.roster import Roster

sys.path.insert(0, str(Path(__file__).parent))

import mutants
from forked import children
from mutants import FOLDER, WHOLE, Mutant, applied, find, find_all

EVERY = find_all()
REPORT = FOLDER.parent / "docs" / "secagg-mutations.md"


def lacking(source: str, folder: Path) -> list[str]:
    path = folder / "planted.py"
    path.write_text(source)
    return [mutant.lacks for mutant in find(path)]


def test_each_call_that_refuses_is_left_out_once() -> None:
    calls = [
        (path.stem, line)
        for path in FOLDER.glob("*.py")
        if path.stem != "refused"
        for line, text in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\b(?:require|refuse)\($|\b(?:require|refuse)\([^)]", text) and "def " not in text
    ]
    whole = [(m.module, m.lines.start) for m in EVERY if m.lacks == WHOLE and not m.code.startswith(("None", "return"))]
    assert len(calls) > 100
    assert set(calls) <= set(whole)
    assert len(whole) == len(set(whole))


def test_each_mutant_fits_the_code_that_runs() -> None:
    for mutant in EVERY:
        with applied(mutant):
            pass


@pytest.mark.parametrize(
    ("body", "lacks"),
    [
        ("require(a and b, 'x.y', '')", [WHOLE, "a", "b"]),
        ("require(a or b, 'x.y', '')", [WHOLE]),
        ("require(not (a or b), 'x.y', '')", [WHOLE, "a", "b"]),
        ("require(1 <= a < b, 'x.y', '')", [WHOLE, "1 <= a", "a < b"]),
        ("fine = a and b\n    require(fine, 'x.y', '')", ["a", "b", WHOLE]),
        ("require(all(x and y for x in a), 'x.y', '')", [WHOLE, "x", "y"]),
        ("require(a == (1, 2), 'x.y', '')", [WHOLE, "a == (1, 2), place 0", "a == (1, 2), place 1"]),
        ("if a or b:\n        refuse('x.y', '')", ["a", "b", WHOLE]),
        ("if a and b:\n        raise ValueError('no')", [WHOLE]),
        ("if a:\n        return False\n    return True", [WHOLE]),
        ("return b if a else None", [WHOLE]),
    ],
)
def test_what_of_a_condition_is_left_out(tmp_path: Path, body: str, lacks: list[str]) -> None:
    assert sorted(lacking(f"def f(a, b):\n    {body}\n", tmp_path)) == sorted(lacks)


def only(code: str, lacks: str) -> Mutant:
    [found] = [mutant for mutant in EVERY if (mutant.code, mutant.lacks) == (code, lacks)]
    return found


def test_a_mutant_lacks_its_check_and_no_other_and_only_while_it_is_applied() -> None:
    roster = Roster("f", 1, (b"a" * 32, b"b" * 32, b"c" * 32), b"d" * 32)
    with applied(only("roster.too_few", WHOLE)):
        replace(roster, members=roster.members[:2])
        with pytest.raises(Refused, match=r"roster\.duplicate"):
            replace(roster, members=roster.members[:1] * 2)
    with applied(only("roster.name", "0 <= self.epoch")):
        replace(roster, epoch=-1)
        with pytest.raises(Refused, match=r"roster\.name"):
            replace(roster, epoch=2**32)
    for changes in ({"members": roster.members[:2]}, {"epoch": -1}):
        with pytest.raises(Refused):
            replace(roster, **changes)  # type: ignore[arg-type]


def endless() -> None:
    while True:
        pass


def test_a_child_that_ends_or_never_ends_has_no_result(tmp_path: Path) -> None:
    tasks = [lambda: 7, lambda: os._exit(3), endless, lambda: [][0], os.getppid]
    results = [result for result, _ in children(tasks, 2, tmp_path, 1)]
    assert results == [7, None, None, None, os.getpid()]
    assert not list(tmp_path.iterdir())


def test_the_report_names_every_check_and_nothing_is_alive() -> None:
    report = REPORT.read_text()
    assert "## Alive" not in report
    for mutant in EVERY:
        row = f"`{mutant.module}.{mutant.function}`"
        assert row in report, f"run make mutation: {mutant.name}"
        assert f"`{mutant.code}`" in report, f"run make mutation: {mutant.name}"


def test_names_that_stand_for_reasons_are_unique() -> None:
    table = ast.parse((Path(__file__).parent / "mutation.py").read_text())
    [assigned] = [
        node.value
        for node in table.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "EQUIVALENT"
    ]
    names = [mutant.name for mutant in EVERY]
    assert all(names.count(name) == 1 for name in ast.literal_eval(assigned))  # type: ignore[arg-type]
    assert mutants.FOLDER.is_dir()
