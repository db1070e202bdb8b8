"""What runs around the code agrees with it: continuous integration, hooks, forms, the pages' generator."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import cotune
import pytest
import yaml

ROOT = Path(cotune.__file__).parent
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
FORMS = sorted(path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")
PARSED = [ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff", WORKFLOW, *(ROOT / ".github").rglob("*.yml")]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "api" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", PARSED, ids=lambda path: path.name)
def test_yaml_parses(path: Path) -> None:
    assert isinstance(read(path), dict)


def test_the_workflow_runs_what_everybody_runs() -> None:
    """The command of .ci/run and of the README, but for where torch comes from, which the README offers too."""
    command = (ROOT / ".ci" / "run").read_text().splitlines()[-1]
    job = read(WORKFLOW)["jobs"]["test"]
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert len(runs) == 1
    run, _, setting = runs[0].rpartition(" ")
    readme = (ROOT / "README.md").read_text()
    assert run == command == "make test"
    assert re.search(rf"^    {command}\b", readme, flags=re.MULTILINE)
    assert setting.startswith("TORCH_INDEX=")
    assert setting in readme
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]


def test_workflows_may_only_read_and_take_actions_by_commit() -> None:
    workflow = read(WORKFLOW)
    assert workflow["permissions"] == {"contents": "read"}
    used = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in used)


def test_hooks_need_no_network_and_call_what_make_lint_calls() -> None:
    repos = read(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    entries = {hook["id"]: hook["entry"] for hook in repos[0]["hooks"]}
    assert {hook["language"] for hook in repos[0]["hooks"]} == {"system", "pygrep"}
    assert entries["types"] == "make types"
    assert entries["ruff-check"].startswith(".venv/bin/ruff check")
    assert entries["ruff-format"].startswith(".venv/bin/ruff format")


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_forms_are_what_github_takes(path: Path) -> None:
    form = read(path)
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)


def test_security_reports_are_sent_elsewhere() -> None:
    config = read(ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml")
    assert config["blank_issues_enabled"] is False
    assert any("SECURITY.md" in link["about"] for link in config["contact_links"])


def test_the_citation_is_of_this_version() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["version"] == cotune.__version__


def test_every_public_module_stands_on_one_page(pages: ModuleType) -> None:
    shown = [name for text in pages.pages().values() for name in re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)]
    there = {
        ".".join(("cotune", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
        for room in ROOT.glob("*/__init__.py")
        for path in room.parent.rglob("*.py")
        if path.name == "__init__.py" or not path.name.startswith("_")
    }
    above = {f"cotune.{path.stem}" for path in ROOT.glob("*.py") if path.stem != "__init__"}
    assert set(shown) == there | above | {"cotune"}
    assert len(shown) == len(set(shown))


@pytest.mark.parametrize(
    ("link", "page", "moved"),
    [
        ("docs/limits.md", "index.md", "limits.md"),
        ("README.md", "CONTRIBUTING.md", "index.md"),
        ("../README.md", "results.md", "index.md"),
        ("../SECURITY.md", "limits.md", "SECURITY.md"),
        ("limits.md", "audits.md", "limits.md"),
        ("../architecture.md", "api/index.md", "../architecture.md"),
        ("https://opacus.ai", "index.md", "https://opacus.ai"),
    ],
)
def test_links_of_the_repository_hold_in_the_pages(pages: ModuleType, link: str, page: str, moved: str) -> None:
    assert pages._moved(link, page) == moved


def test_every_document_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    listed = set(re.findall(r"([\w/-]+\.md)$", text, flags=re.MULTILINE))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} <= listed
