"""report.json: round trips, refuses what is out of range, and never shows an arm that was not run as a number."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from cotune.errors import UserError
from cotune.simulations.reporting import report as reports
from cotune.simulations.reporting import report_file
from cotune.simulations.reporting.report import NOT_RUN, Arm, Arms, Curves, Privacy, Report
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

RATES = st.floats(0, 1, allow_nan=False)


def make_report(seed: int = 1, federated: float = 0.5, **changes: object) -> Report:
    groups = {"north": federated + 0.1, "south": federated - 0.1}
    made = Report(
        experiment="hospitals",
        seeds=(seed,),
        arms=Arms(
            base=reports.measured(0.2, {"north": 0.1, "south": 0.3}, exact_match=0.0),
            federated=reports.measured(federated, groups, exact_match=0.25, nll=1.5),
        ),
        alone={
            "north": reports.measured(0.3, {"north": 0.6, "south": 0.05}, own="north"),
            "south": reports.measured(0.4, {"north": 0.1, "south": 0.7}, own="south"),
        },
        privacy=reports.private("one patient", 1e-5, {"north": 7.5, "south": 6.25}),
        wire=reports.wire(parameters=1000, contributions=20, bytes_up=60_000),
        wall_seconds=100.0,
        wall_seconds_by_phase={"federated": 80.0, "load": 20.0},
        test_rows=400,
        generation_rows=16,
        curves=Curves(federated=((0, 0.2), (1, federated)), loss=((1, 2.5),), epsilon=((1, 7.5),)),
        config={"seed": seed, "model": {"rank": 8}},
        versions=reports.versions(),
        rounds=0,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_round_trip(tmp_path: Path) -> None:
    written = make_report()
    report_file.write(written, tmp_path / "report.json")
    assert report_file.read(tmp_path / "report.json") == written


@given(accuracy=RATES, groups=st.dictionaries(st.text(max_size=8), RATES, max_size=4), nll=st.none() | st.floats(0, 9))
def test_any_measured_arm_round_trips(accuracy: float, groups: dict[str, float], nll: float | None) -> None:
    arm = reports.measured(accuracy, groups, nll=nll)
    text = report_file.to_json(make_report(arms=Arms(federated=arm)))
    assert report_file._REPORT.validate_json(text).arms.federated == arm


def test_documented_keys(tmp_path: Path) -> None:
    report_file.write(make_report(), tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    names = ("base", "alone_mean", "alone_worst", "federated", "personal_mean", "pooled", "public", "probe", "tfidf")
    for arm in names:
        assert {"accuracy", "seeds", "worst_organization", "exact_match", "spread"} <= set(found["arms"][arm])
    assert found["arms"]["federated"]["accuracy"] == 0.5
    assert found["arms"]["federated"]["seeds"] == [0.5]
    assert found["privacy"]["epsilon_max"] == 7.5
    assert {"delta", "unit", "adjacency", "by_organization"} <= set(found["privacy"])
    assert found["wire"]["bytes_per_parameter"] == 3.0
    assert found["wire"]["plain_fp32_ratio"] == 0.75
    assert found["wall_seconds"] == 100.0
    assert found["schema_version"] == 2


def test_an_arm_that_was_not_run_has_no_number_in_the_file() -> None:
    found = json.loads(report_file.to_json(make_report()))["arms"]["pooled"]
    assert all(value in (None, [], {}) for value in found.values())
    assert not any(isinstance(value, int | float) for value in found.values())


@pytest.mark.parametrize(
    "fields",
    [
        {"accuracy": 0.0},
        {"seeds": (0.5,)},
        {"worst_organization": 0.0},
        {"exact_match": 0.0},
        {"by_organization": {"north": 0.0}},
    ],
)
def test_numbers_without_a_run_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="arm"):
        Arm(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.1])
def test_writing_checks_ranges_and_leaves_the_old_file(tmp_path: Path, value: float) -> None:
    path = tmp_path / "report.json"
    report_file.write(make_report(), path)
    before = path.read_bytes()
    with pytest.raises(ValidationError):
        report_file.write(make_report(arms=Arms(base=reports.measured(value, {}))), path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_curves_hold_finite_numbers_only(value: float) -> None:
    with pytest.raises(ValidationError):
        report_file.to_json(make_report(curves=Curves(loss=((1, value),))))
    assert reports.finite_points([(1, value), (2, None), (3, 0.5)]) == ((3, 0.5),)


def test_worst_and_own_organization() -> None:
    groups = {"north": 0.6, "south": 0.2, "west": 0.1}
    shared = reports.measured(0.3, groups)
    assert shared.worst_organization == 0.1
    assert shared.own_organization == pytest.approx(0.3)
    assert reports.measured(0.3, groups, own="north").own_organization == 0.6
    assert reports.measured(0.3, groups, own="east").own_organization is None


def test_privacy_must_be_consistent() -> None:
    assert reports.private("patient", 1e-5, {"a": 1.0, "b": 3.0}).epsilon_max == 3.0
    assert reports.not_private("patient").epsilon_max is None
    with pytest.raises(ValueError, match="largest"):
        Privacy(True, 1.0, 1e-5, "patient", reports.ADJACENCY, {"a": 2.0})
    with pytest.raises(ValueError, match="without privacy"):
        Privacy(False, 0.0, None, "patient", reports.ADJACENCY)


def _edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"schema_version": 1}, "schema_version"),
        ({"extra": 1}, "extra"),
        ({"wall_seconds": -1}, "wall_seconds"),
        ({"arms": {"base": {"accuracy": 2.0, "seeds": [2.0]}}}, "arms.base.accuracy"),
        ({"arms": {"base": {"accuracy": 0.5, "seeds": []}}}, "arms.base"),
    ],
)
def test_reading_names_the_place_in_one_line(tmp_path: Path, changes: dict[str, object], word: str) -> None:
    path = tmp_path / "report.json"
    report_file.write(make_report(), path)
    _edit(path, **changes)
    with pytest.raises(UserError) as caught:
        report_file.read(path)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reading_a_missing_or_broken_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        report_file.read(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text('{"experiment": ')
    with pytest.raises(UserError, match=r"broken\.json"):
        report_file.read(tmp_path / "broken.json")


def test_wire_refuses_nothing_sent() -> None:
    with pytest.raises(ValueError, match="at least one"):
        reports.wire(10, 0, 0)


def test_not_run_is_the_default_of_every_arm() -> None:
    assert Arms() == Arms(*[NOT_RUN] * len(fields(Arms)))
    assert not NOT_RUN.ran
