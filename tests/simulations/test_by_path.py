"""Corpora and metrics of one's own, by path."""

from pathlib import Path

import cotune
import pytest
from cotune.data.corpora.partition import Partition
from cotune.errors import UserError
from cotune.simulations.by_path import measures, own_corpus

EXAMPLE = Path(cotune.__file__).parent / "docs" / "tutorials" / "ward_reports.py"
PARTITION = Partition(organizations=3, rows_per_organization=20, dominance=0.8, test_rows=12, seed=4)


def test_the_example_deals() -> None:
    corpus = own_corpus(f"{EXAMPLE}:build", PARTITION, "labels")
    assert sorted(corpus.organizations) == ["ward-0", "ward-1", "ward-2"]
    assert {len(rows) for rows in corpus.organizations.values()} == {20}
    again = own_corpus(f"{EXAMPLE}:build", PARTITION, "labels")
    assert again.organizations == corpus.organizations


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("def build(partition): return 3\n", "gives a int"),
        ("def build(partition): raise KeyError('no')\n", "KeyError: 'no'"),
        ("def build(): pass\n", "TypeError"),
        ("build = 3\n", "has no function build"),
        ("raise RuntimeError('a\\nb')\n", "RuntimeError: a b"),
        ("from cotune.data.corpora.corpus import Corpus, Shown\n"
         "def build(partition): return Corpus({}, [], (), Shown(''))\n", "deals to 0 organizations"),
    ],
)  # fmt: skip
def test_a_builder_that_cannot_be_one(code: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(UserError, match=reason) as caught:
        own_corpus(f"{tmp_path}/mine.py:build", PARTITION, "labels")
    assert "\n" not in str(caught.value)


def test_labels_are_those_of_the_task() -> None:
    with pytest.raises(UserError, match="gives 3 labels with"):
        own_corpus(f"{EXAMPLE}:build", PARTITION, "text")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        own_corpus(f"{tmp_path}/none.py:build", PARTITION, "labels")


def test_metrics(tmp_path: Path) -> None:
    place = f"{EXAMPLE}:balanced_accuracy"
    assert measures([place], ["a", "a", "a", "b"], ["a", "a", "b", "b"]) == {"balanced_accuracy": pytest.approx(5 / 6)}
    for body, reason in (
        ("return float('nan')", "gives nan"),
        ("return 'x'", "ValueError"),
        ("return given[9]", "Index"),
    ):
        (tmp_path / "m.py").write_text(f"def mine(right, given):\n    {body}\n")
        with pytest.raises(UserError, match=reason):
            measures([f"{tmp_path}/m.py:mine"], ["a"], ["a"])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["data=own"], "data.code is not set"),
        (["data=own", "data.code=mine.py"], "names no class"),
        (["data.code=mine.py:build"], "would be ignored"),
        (["data=own", "data.code=mine.py:build", "data.files=[a,b,c]"], "would be ignored"),
        (["simulation.metrics=[a.py:f,b.py:f]"], "two functions of one name"),
        (["simulation.metrics=[f]"], "names no class"),
    ],
)
def test_settings_that_cannot_work(words: list[str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        cotune.compose(*words)
