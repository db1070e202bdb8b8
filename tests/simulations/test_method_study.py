"""`cotune study strategies` on a tiny model: every method is charged for what it releases, once, and goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune.conf.methods import Comparison, comparison
from cotune.simulations import method_study
from cotune.simulations.method_points import MethodPoint, Place, Points
from cotune.simulations.rehearsal import AtHome
from cotune.simulations.reporting.method_tables import tables

pytestmark = pytest.mark.slow


@pytest.fixture
def planned(place: Any, rows: Callable[..., Path], tmp_path: Path) -> Any:
    public, validation = rows(tmp_path / "public.jsonl", 40, 7), rows(tmp_path / "validation.jsonl", 12, 8)

    def made(*more: str) -> Comparison:
        dropped = ("strategy.learning_rate", "privacy.sample_rate", "rounds", "simulation.evaluate_every")
        words = [word for word in place.words(tmp_path / "unused") if word.split("=")[0] not in dropped]
        return comparison(
            [
                *words,
                "rounds=2",
                "simulation.workers=1",
                "seed=1",
                "privacy.epsilon=8",
                f"data.public_file={public}",
                f"data.validation_file={validation}",
                *more,
            ]
        )

    return made


def test_every_method_is_charged_for_its_releases(
    planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the search cut short; the count is taken where noise is added."""
    monkeypatch.setattr(method_study, "search", lambda start, score: (score(start), start)[1])
    calls = 0
    plain = AtHome.private_sum

    def counting(self: AtHome, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return plain(self, *arguments)

    monkeypatch.setattr(AtHome, "private_sum", counting)
    folder = tmp_path / "study"
    method_study.run(planned(), folder)
    found = json.loads((folder / "strategies.json").read_text())
    results = [MethodPoint.from_dict(fields) for fields in found["results"]]
    assert [point.place.method for point in results] == list(found["methods"])
    assert len(results) == 8
    for point in results:
        steps = 4 if point.place.method == "fedit" else 2
        assert point.charged == point.releases == steps
        assert point.spent == pytest.approx(8, rel=0.01)
        assert point.spent <= 8
    assert calls == sum(3 * MethodPoint.from_dict(one).releases for one in (*found["results"], *found["searched"]))
    rolora, ffa, dp = (next(p for p in results if p.place.method == name) for name in ("rolora", "ffa", "dp_fedsgd"))
    assert rolora.sent == dp.sent / 2
    assert ffa.sent < dp.sent
    assert (folder / "strategies.png").read_bytes().startswith(b"\x89PNG")
    assert "## Published rules under one account" in (folder / "section.md").read_text()
    assert "FedSVD-like" in capsys.readouterr().out

    monkeypatch.setattr(Points, "_computed", None)
    method_study.run(planned(), folder)
    again = json.loads((folder / "strategies.json").read_text())
    assert again == found


def test_rates_are_chosen_on_other_rows_and_start_from_the_last_epsilon(
    planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best rates are 1 under sgd and worse under adam, 16 times lower at the smaller epsilon."""
    asked: list[tuple[str | None, str, str, float]] = []

    def of(
        _self: Points, method: Any, tried: Any, rate: float, experiment: str, epsilon: str, seed: str | None
    ) -> MethodPoint:
        asked.append((seed, epsilon, tried.name, rate))
        best = 1.0 if epsilon == "privacy.epsilon=8" else 1 / 16
        good = (0.9 if tried.name == "sgd" else 0.5) - 0.01 * abs(rate - best) / (rate + best)
        return point(Place(method.name, tried.name, rate, experiment, epsilon, seed or ""), good)

    monkeypatch.setattr(Points, "of", of)
    method_study.run(planned("method=dp_fedsgd", "privacy.epsilon=8,1", "seed=1,2"), tmp_path / "study")
    reported = [one for one in asked if one[0] is not None]
    assert reported == [
        (f"seed={seed}", f"privacy.epsilon={epsilon}", "sgd", rate)
        for seed in (1, 2)
        for epsilon, rate in ((8, 1.0), (1, 1 / 16))
    ]
    assert {name for _, epsilon, name, _ in asked if epsilon == "privacy.epsilon=1"} == {"sgd"}


def test_with_shared_noise_what_has_no_account_is_left_out(
    planned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method_study, "search", lambda start, score: (score(start), start)[1])
    study = planned("method=fedit,ffa", "privacy.trust=honest_majority", "privacy.dropouts=0")
    method_study.run(study, tmp_path / "study")
    text = (tmp_path / "study" / "table.md").read_text()
    assert "left out: privacy.trust=honest_majority with strategy=fedavg" in text
    assert "shared noise" in text
    found = json.loads((tmp_path / "study" / "strategies.json").read_text())
    assert {fields["trust"] for fields in found["results"]} == {"honest_majority"}


def test_tables_have_means_spreads_and_gaps(planned: Any) -> None:
    study = planned("method=core,ffa", "privacy.epsilon=8,1", "seed=1,2")
    places = [Place("core", "sgd", 1.0, "experiment=custom", "privacy.epsilon=8", f"seed={seed}") for seed in (1, 2)]
    text = tables(study, [point(places[0], 0.5), point(places[1], 0.6)], {})
    assert "### custom, seeds 1, 2" in text
    assert "| 20 | 250 | 55.0 (50.0-60.0), exact 55.0 |  |" in text
    assert "FFA" not in text


def point(place: Place, accuracy: float) -> MethodPoint:
    return MethodPoint(
        place=place,
        digest="0",
        trust="nobody",
        dimension=5000,
        sent=5000,
        rounds=20,
        charged=20,
        releases=20,
        noise_multiplier=1.0,
        spent=8.0,
        delta=1e-5,
        accuracy=accuracy,
        exact=accuracy,
        worst=accuracy,
        seconds=1.0,
    )
