"""Several organizations or seeds as one."""

from dataclasses import replace

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.evaluation.classification import classify
from cotune.evaluation.neutral import Forgetting
from cotune.simulations.reporting import report as reports
from cotune.simulations.reporting import report_file
from cotune.simulations.reporting.merging import alone_mean, alone_worst, merge
from cotune.simulations.reporting.report import NOT_RUN, Arm, Arms, Curves, Report

RIGHT = np.array([0, 1])


def one_seed(seed: int, federated: float, *, pooled: Arm = NOT_RUN, epsilon: float = 7.0, rank: int = 8) -> Report:
    return Report(
        experiment="hospitals",
        seeds=(seed,),
        arms=Arms(federated=reports.measured(federated, {"a": federated, "b": federated / 2}), pooled=pooled),
        alone={"a": reports.measured(federated / 2, {"a": 0.5, "b": 0.1}, own="a")},
        privacy=reports.private("row", 1e-5, {"a": epsilon, "b": 6.0}),
        wire=reports.wire(10, 4, 200),
        wall_seconds=10.0,
        wall_seconds_by_phase={"load": float(seed)},
        test_rows=100,
        generation_rows=0,
        curves=Curves(federated=((1, federated),)),
        config={"seed": seed, "model": {"rank": rank}, "data": {"seed": seed}},
        versions={},
        rounds=0,
    )


def test_means_spread_and_seeds() -> None:
    merged = merge([one_seed(1, 0.4), one_seed(2, 0.6), one_seed(5, 0.5)], varying=("seed",))
    arm = merged.arms.federated
    assert merged.seeds == (1, 2, 5)
    assert arm.accuracy == pytest.approx(0.5)
    assert arm.seeds == (0.4, 0.6, 0.5)
    assert arm.spread == (0.4, 0.6)
    assert arm.worst_organization == pytest.approx(0.25)
    assert arm.by_organization == pytest.approx({"a": 0.5, "b": 0.25})
    assert merged.alone["a"].accuracy == pytest.approx(0.25)
    assert merged.wall_seconds == 30.0
    assert merged.wall_seconds_by_phase == {"load": 8.0}
    assert merged.wire == reports.wire(10, 12, 600)


def test_classes_and_neutral_text_are_means() -> None:
    reports_ = [
        replace(
            one_seed(seed, 0.4),
            arms=Arms(federated=reports.measured(0.4, {}, classification=classify(np.eye(2)[[0, right]], RIGHT, "ab"))),
            forgetting=Forgetting(3.0, 3.0 + right, 90),
        )
        for seed, right in ((1, 0), (2, 1))
    ]
    merged = merge(reports_, varying=("seed",))
    found = merged.arms.federated.classification
    assert found is not None
    assert found.confusion == ((2, 0), (1, 1))
    assert found.macro_f1 == pytest.approx((1 + 1 / 3) / 2)
    assert merged.forgetting == Forgetting(3.0, 3.5, 90)
    assert alone_mean({"a": reports_[0].arms.federated, "b": reports_[1].arms.federated}).classification == found
    assert merge([one_seed(1, 0.4)], varying=()).forgetting is None


def test_an_arm_that_no_seed_ran_stays_not_run() -> None:
    assert merge([one_seed(1, 0.4), one_seed(2, 0.6)], varying=("seed",)).arms.pooled == NOT_RUN


def test_an_arm_of_some_seeds_keeps_only_those() -> None:
    first = one_seed(1, 0.4, pooled=reports.measured(0.9, {"a": 0.9}))
    merged = merge([first, one_seed(2, 0.6)], varying=("seed",))
    assert merged.arms.pooled.seeds == (0.9,)
    assert merged.arms.pooled.spread is None


def test_epsilon_is_the_largest_of_any_seed() -> None:
    merged = merge([one_seed(1, 0.4, epsilon=6.5), one_seed(2, 0.4, epsilon=7.5)], varying=("seed",))
    assert merged.privacy.epsilon_max == 7.5
    assert merged.privacy.by_organization == {"a": 7.5, "b": 6.0}


def test_a_merged_report_is_a_valid_report() -> None:
    merged = merge([one_seed(1, 0.4), one_seed(2, 0.6)], varying=("seed",))
    assert report_file._REPORT.validate_json(report_file.to_json(merged)) == merged


def test_merging_one_report_changes_nothing_but_keeps_no_spread() -> None:
    assert merge([one_seed(1, 0.4)], varying=("seed",)) == one_seed(1, 0.4)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (one_seed(1, 0.6), "same seed"),
        (one_seed(2, 0.6, rank=4), "model.rank"),
        (replace(one_seed(2, 0.6), experiment="law_firms"), "law_firms"),
        (replace(one_seed(2, 0.6), test_rows=99), "different"),
        (replace(one_seed(2, 0.6), wire=reports.wire(11, 4, 200)), "sizes"),
    ],
)
def test_what_is_not_alike_is_refused(other: Report, words: str) -> None:
    with pytest.raises(UserError, match=words):
        merge([one_seed(1, 0.4), other], varying=("seed",))


def test_nothing_to_merge() -> None:
    with pytest.raises(UserError, match="no report"):
        merge([], varying=())


def test_alone_mean_and_worst() -> None:
    alone = {
        "a": reports.measured(0.2, {"a": 0.4, "b": 0.1}, own="a", exact_match=0.5),
        "b": reports.measured(0.4, {"a": 0.2, "b": 0.6}, own="b"),
        "c": NOT_RUN,
    }
    mean = alone_mean(alone)
    assert mean.accuracy == pytest.approx(0.3)
    assert mean.worst_organization == pytest.approx(0.15)
    assert mean.own_organization == pytest.approx(0.5)
    assert mean.exact_match is None  # a mean over fewer organizations would not be one over all
    assert alone_worst(alone) == alone["a"]
    assert alone_mean({}) == alone_worst({}) == NOT_RUN
