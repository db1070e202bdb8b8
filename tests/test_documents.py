"""What people and machines read at the root agrees with what is there: links, targets, verbs, pins."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import cotune
import pytest
from cotune.cli.app import app
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

ROOT = Path(cotune.__file__).parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist(document: Path) -> None:
    verbs = set(get_command(app).commands)  # type: ignore[attr-defined]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    text = document.read_text(encoding="utf-8")
    for line in re.findall(r"^    (.*)$", text, flags=re.MULTILINE) + re.findall(r"`([^`\n]+)`", text):
        if found := re.match(r"(?:\.venv/bin/)?cotune ([a-z]+)", line):
            assert found[1] in verbs, line
        if found := re.match(r"make ([a-z-]+)", line):
            assert found[1] in targets, line


def test_constraints_pin_every_declared_dependency_exactly() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}
    for name, requirement in pins.items():
        assert [part.operator for part in requirement.specifier] == ["=="], name
        assert "+" not in str(requirement.specifier), f"{name}: a local version exists on one index only"
    assert len(pins) == len(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    for line in declared:
        wanted = Requirement(line)
        pinned = pins[canonicalize_name(wanted.name)]
        version = next(iter(pinned.specifier)).version
        assert wanted.specifier.contains(version), f"{line}, pinned to {version}"


def test_ci_runs_exactly_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    commands = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert commands == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make test"]


def test_license_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "How to apply the Apache License" in text


def test_make_starts_over_only_when_told() -> None:
    def planned(*words: str) -> str:
        return subprocess.run(
            ["make", "-n", "demo", *words], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout

    assert "simulation.existing=fresh" not in planned()
    assert "simulation.existing=fresh" not in planned("FRESH=0")
    assert "cotune demo simulation.existing=fresh rounds=2" in planned("FRESH=1", "ARGS=rounds=2")


def test_make_refuses_a_setting_that_it_would_ignore() -> None:
    done = subprocess.run(["make", "-n", "demo", "rounds=2"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "cotune demo" in done.stdout) == (2, False)
    assert "rounds: not a setting of this Makefile: write make demo ARGS='key=value ...'" in done.stderr


def test_installed_version_is_the_declared_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == cotune.__version__
    assert sys.version_info >= (3, 11)
