"""The table at the end of a run."""

import io
import re
from dataclasses import replace

import numpy as np
from cotune.evaluation.classification import classify
from cotune.evaluation.neutral import Forgetting
from cotune.simulations.reporting import report as reports
from cotune.simulations.reporting.merging import merge
from cotune.simulations.reporting.report import NOT_RUN, Arm, Arms, Curves, Privacy, Report, Wire
from cotune.simulations.reporting.tables import privacy_sentence, result_table, study_table_markdown
from rich.console import Console


def make(
    seed: int = 1,
    pooled: Arm = NOT_RUN,
    privacy: Privacy | None = None,
    wire: Wire | None = None,
    name: str = "north | [bold]east[/]",
) -> Report:
    return Report(
        experiment="hospitals",
        seeds=(seed,),
        arms=Arms(
            base=reports.measured(0.123, {"a": 0.1}),
            federated=reports.measured(0.4 + seed / 100, {"a": 0.3}, exact_match=0.25),
            pooled=pooled,
        ),
        alone={name: reports.measured(0.2, {"a": 0.15})},
        privacy=privacy or reports.private("one patient", 1e-5, {"a": 7.996}),
        wire=wire,
        wall_seconds=90.0,
        wall_seconds_by_phase={"federated": 60.0},
        test_rows=400,
        generation_rows=8,
        curves=Curves(),
        config={},
        versions={},
        rounds=0,
    )


def printed(report: Report) -> str:
    console = Console(width=160, file=io.StringIO(), color_system=None)
    console.print(result_table(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row_of(text: str, name: str) -> str:
    return next(line for line in text.splitlines() if name in line)


def test_the_arms_and_their_numbers_stand_in_the_table() -> None:
    text = printed(make())
    assert "12.3%" in row_of(text, "base model")
    assert "41.0%" in row_of(text, "federation")
    assert "25.0%" in row_of(text, "federation")
    assert "20.0%" in row_of(text, "north | [bold]east[/] alone")


def test_not_run_is_said_and_shows_no_number() -> None:
    text = printed(make())
    for name in ("alone, mean", "pooled (forbidden)", "TF-IDF"):
        line = row_of(text, name)
        assert "not run" in line
        assert not re.search(r"\d", line)
    assert "not run" not in row_of(printed(make(pooled=reports.measured(0.0, {}))), "pooled (forbidden)")


def test_epsilon_delta_unit_and_traffic_are_said() -> None:
    text = printed(make(wire=reports.wire(1000, 10, 30_000)))
    assert "epsilon <= 7.996" in text
    assert "1.0e-05" in text
    assert "one patient" in text
    assert "0.75 times plain fp32" in text
    assert "no federation was run" in printed(make())
    assert "Privacy: off" in printed(make(privacy=reports.not_private("row")))
    assert "shared" not in text
    shared = reports.private(
        "one patient", 1e-5, {"a": 3.0}, ("epsilon 3.000 against some", "epsilon 44.000 against all")
    )
    said = privacy_sentence(make(privacy=shared))
    assert "The noise is shared: epsilon 3.000 against some; epsilon 44.000 against all." in said


def test_what_is_beyond_accuracy_is_said() -> None:
    sure = classify(np.log(np.array([[0.9, 0.1], [0.9, 0.1]])), np.array([0, 1]), ("a", "b"))
    arms = Arms(federated=reports.measured(0.5, {}, classification=sure), probe=reports.measured(0.55, {}))
    text = printed(replace(make(), arms=arms, forgetting=Forgetting(3.0, 3.25, 90)))
    assert "33.3%" in row_of(text, "federation ")
    assert re.search(r"Federation: 50.0%, 95% interval 9.5-90.5 \(Wilson, over 400 test rows\)", text)
    assert "expected calibration error 40.0%" in text
    assert "linear probe under the same privacy is 5.0 points ahead of the federation" in text
    assert "3.000 nats a token with the base model, 3.250 with the federation's adapter (90 tokens)" in text
    other = printed(make())
    for word in ("interval", "The linear probe", "nats a token"):
        assert word not in other
    judged = replace(make(), config={"simulation": {"judge": "validation"}})
    assert "400 validation rows" in printed(judged)
    assert "400 validation rows" in study_table_markdown([judged])


def test_without_a_trained_arm_no_epsilon_is_said() -> None:
    report = replace(make(), alone={}, arms=Arms(base=reports.measured(0.1, {}), tfidf=reports.measured(0.7, {})))
    assert "epsilon" not in printed(report)
    assert "no budget was spent" in printed(report)
    for arms in (Arms(pooled=reports.measured(0.1, {})), Arms(federated=reports.measured(0.1, {}))):
        assert "epsilon <= 7.996" in printed(replace(report, arms=arms))


def test_markdown_has_spreads_and_one_shape() -> None:
    first = make(1, pooled=reports.measured(0.6, {}))
    text = study_table_markdown([merge([first, make(3)], varying=()), make(2)])
    assert "42.0% (41.0-43.0)" in text
    assert "60.0% [1 of 2 seeds]" in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert text.count("**hospitals**") == 2


def test_an_early_end_is_said() -> None:
    planned = replace(make(wire=reports.wire(1000, 10, 30_000)), config={"rounds": 5}, rounds=5)
    early = replace(planned, rounds=3)
    assert "ended early, after 3 of 5 rounds." in printed(early)
    for other in (planned, replace(make(), config={"rounds": 5})):
        assert "early" not in printed(other)
    both = merge([replace(early, seeds=(7,)), planned], varying=())
    assert both.rounds == 3
    assert "3 of 5 rounds, at the seed that came least far." in study_table_markdown([both])
    assert merge([make()], varying=()).rounds == 0
