"""Free text in reports: arms, means over seeds, the table, the picture, and examples that stay in their cells."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from cotune.data.records import PLAIN, Message, Record
from cotune.simulations.reporting import curves, report_file
from cotune.simulations.reporting import report as reports
from cotune.simulations.reporting.merging import alone_mean, merge
from cotune.simulations.reporting.report import Arm, Arms, Curves, Report
from cotune.simulations.reporting.tables import result_table, study_table_markdown
from cotune.simulations.reporting.text_results import TextExample, TextResult, examples, markdown, mean_text, read_text
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console


def arm(chrf: float | None, perplexity: float | None = 8.0, exact: float = 0.1) -> Arm:
    text = TextResult(perplexity, chrf, None if chrf is None else chrf + 0.1, () if chrf is None else (chrf,))
    return reports.measured(exact, {"a": exact, "b": exact}, nll=2.0, text=text)


def make(seed: int = 1, federated: float = 0.4, **changes: object) -> Report:
    made = Report(
        experiment="plain-words",
        seeds=(seed,),
        arms=Arms(
            base=arm(0.2, 40.0),
            federated=arm(federated),
            pooled_without_privacy=arm(0.5, 4.0),
            tfidf=arm(0.3, None),
        ),
        alone={"a": arm(0.25), "b": arm(0.35)},
        privacy=reports.private("term", 1e-5, {"a": 8.0}),
        wire=None,
        wall_seconds=1.0,
        wall_seconds_by_phase={},
        test_rows=400,
        generation_rows=100,
        curves=Curves(federated=((10, 9.0), (20, 8.0))),
        config={"data": {"task": "text"}},
        versions={},
        rounds=0,
        examples=(TextExample("Myopia", "Near sight", "Eye", "Near"),),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def printed(report: Report) -> str:
    console = Console(width=160, file=io.StringIO(), color_system=None)
    console.print(result_table(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_round_trip(tmp_path: Path) -> None:
    report_file.write(make(), tmp_path / "report.json")
    assert report_file.read(tmp_path / "report.json") == make()
    raw = json.loads((tmp_path / "report.json").read_text())
    assert raw["arms"]["federated"]["text"] == {"perplexity": 8.0, "chrf": 0.4, "rouge_l": 0.5, "chrf_seeds": [0.4]}
    assert raw["examples"][0]["reference"] == "Near sight"
    for bad in (1.5, -0.1):
        with pytest.raises(ValidationError):
            report_file.to_json(make(federated=bad))
    with pytest.raises(ValueError, match="no numbers"):
        Arm(text=TextResult(2.0))


def test_the_table_has_the_columns_of_text() -> None:
    text = printed(make())
    for word in ("perplexity", "chrF", "ROUGE-L", "exact answers"):
        assert word in text
    assert "accuracy" not in text
    line = next(line for line in text.splitlines() if "federation" in line)
    assert re.findall(r"\d+\.\d+", line) == ["8.00", "40.0", "50.0", "10.0"]
    near = next(line for line in text.splitlines() if "nearest training term" in line)
    assert re.findall(r"\d+\.\d+", near) == ["30.0", "40.0", "10.0"]
    pooled = next(line for line in text.splitlines() if "pooled (forbidden)" in line)
    assert "not run" in pooled
    assert not re.search(r"\d", pooled)
    assert "greedy answers to 100 of them" in text
    assert "the federation comes 67% in chrF and 67% in ROUGE-L." in text
    assert "chrF and ROUGE-L: not measured" in printed(make(generation_rows=0))


def test_no_share_of_a_way_that_is_not_there() -> None:
    arms = make().arms
    for other in (
        replace(arms, pooled_without_privacy=reports.NOT_RUN),
        replace(arms, pooled_without_privacy=arm(0.1)),
        replace(arms, base=arm(None)),
    ):
        assert "Of the way" not in printed(make(arms=other))


def test_seeds_merge_to_means_and_spreads() -> None:
    merged = merge([make(1, 0.3), make(2, 0.5)], ("seed",))
    assert merged.arms.federated.text == TextResult(8.0, 0.4, pytest.approx(0.5), (0.3, 0.5))
    assert "40.0 (30.0-50.0)" in study_table_markdown([merged])
    some = merge([make(1, 0.3), make(2, arms=replace(make().arms, federated=reports.NOT_RUN))], ("seed",))
    assert "30.0 [1 of 2 seeds]" in study_table_markdown([some])
    assert alone_mean(make().alone).text == TextResult(8.0, pytest.approx(0.3), pytest.approx(0.4), (0.3,))


def test_a_mean_over_fewer_is_none() -> None:
    whole = TextResult(4.0, 0.2, 0.3, (0.2,))
    assert mean_text([whole, None]) is None
    assert mean_text([]) is None
    assert mean_text([whole, TextResult(8.0)]) == TextResult(6.0, None, None, (0.2,))


def test_what_an_arms_file_holds() -> None:
    assert read_text(None) is None
    assert read_text({"perplexity": 0.9999999}) == TextResult(1.0)
    assert read_text({"perplexity": None, "chrf": 0.5, "rouge_l": 0.25}) == TextResult(None, 0.5, 0.25, (0.5,))


def test_the_picture_shows_perplexity() -> None:
    pytest.importorskip("matplotlib")
    axes, bought = curves.blank_figure(11, 4).subplots(1, 2)
    curves._accuracy(axes, make(arms=replace(make().arms, alone_mean=arm(0.3))))
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert set(lines) == {"federation", "base model", "all data pooled, without privacy", "alone, mean"}
    assert lines["federation"] == [9.0, 8.0]
    assert lines["base model"] == [40.0, 40.0]
    assert "perplexity" in axes.get_ylabel()
    curves._bought(bought, make(curves=replace(make().curves, epsilon=((10, 5.0), (20, 8.0)))))
    spent = {line.get_label(): list(line.get_ydata()) for line in bought.get_lines()}
    assert spent == {"federation": [9.0, 8.0], "base model": [40.0, 40.0]}
    assert bought.get_title() == "Perplexity against epsilon"


def _row(text: str, answer: str) -> Record:
    return Record((Message("system", "s"), Message("user", text)), answer, "u")


def test_examples_are_spread_and_side_by_side() -> None:
    rows = [_row(f"q{number}", f"a{number}") for number in range(10)]
    base = [f"b{number}" for number in range(10)]
    found = examples(rows, base, None, 3)
    assert [(one.prompt, one.reference, one.base, one.federated) for one in found] == [
        (f"q{number}", f"a{number}", f"b{number}", None) for number in (0, 3, 6)
    ]
    assert examples(rows, base, None, 0) == ()
    assert len(examples(rows, None, base, 99)) == 10
    plain = Record((Message(PLAIN, "goes on"),), "so", "u")
    assert examples([plain], None, None, 1)[0].prompt == "goes on"


@given(st.text(max_size=40))
def test_whatever_a_model_writes_stays_in_its_cell(said: str) -> None:
    page = markdown("x", [TextExample(said, said, None, said)])
    row = page.split("|---|---|---|---|\n")[1]
    assert row.count("\n") == 1
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 5
    assert not re.search(r"(?<!\\)(?:\\\\)*[<\[]", row)
    assert "not run" in row
