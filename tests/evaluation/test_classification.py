"""Label scores beyond accuracy, against counting by hand."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from cotune.evaluation.classification import (
    BINS,
    calibration_error,
    classify,
    mean_of_classifications,
    read_classification,
)
from hypothesis import given
from hypothesis import strategies as st

LABELS = ("red", "green", "blue")


@given(
    rows=st.lists(
        st.tuples(st.lists(st.floats(-20, 0), min_size=3, max_size=3, unique=True), st.integers(0, 2)), min_size=1
    )
)
def test_against_counting(rows: list[tuple[list[float], int]]) -> None:
    scores, right = np.array([row for row, _ in rows]), np.array([answer for _, answer in rows])
    found = classify(scores, right, LABELS)
    written = [max(range(3), key=lambda label, row=row: row[label]) for row, _ in rows]
    pairs = list(zip(right.tolist(), written, strict=True))
    f1s = []
    for place, label in enumerate(LABELS):
        one = found.by_class[label]
        both, wanted, given_ = pairs.count((place, place)), right.tolist().count(place), written.count(place)
        assert one.rows == wanted
        assert one.recall == pytest.approx(both / wanted if wanted else 0)
        assert one.precision == pytest.approx(both / given_ if given_ else 0)
        assert one.f1 == pytest.approx(2 * both / (wanted + given_) if wanted + given_ else 0)
        f1s += [one.f1] if wanted else []
        assert found.confusion[place] == tuple(pairs.count((place, other)) for other in range(3))
    assert found.macro_f1 == pytest.approx(sum(f1s) / len(f1s))
    accuracy = sum(one == other for one, other in pairs) / len(pairs)
    assert found.interval[0] - 1e-12 <= accuracy <= found.interval[1] + 1e-12


def test_the_interval_is_wilsons() -> None:
    """Against the closed form."""
    scores, right = np.zeros((400, 3)), np.zeros(400, dtype=np.int64)
    scores[:272, 0] = scores[272:, 1] = 1.0
    share, n, z = 272 / 400, 400, 1.959963984540054
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    assert classify(scores, right, LABELS).interval == pytest.approx((middle - half, middle + half))


def test_calibration_error() -> None:
    """Of one bin: |accuracy - confidence|; sure and right: 0; sure and wrong: 1."""
    said = np.tile([0.61, 0.39], (10, 1))
    assert calibration_error(said, np.arange(10) < 4) == pytest.approx(0.21)
    sure = np.tile([1.0, 0.0], (4, 1))
    assert calibration_error(sure, np.ones(4, dtype=bool)) == 0.0
    assert calibration_error(sure, np.zeros(4, dtype=bool)) == 1.0


@given(st.lists(st.tuples(st.floats(0.5, 1.0), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_against_a_loop(rows: list[tuple[float, bool]]) -> None:
    total = 0.0
    for number in range(BINS):
        inside = [(sure, hit) for sure, hit in rows if min(int(sure * BINS), BINS - 1) == number]
        if inside:
            gap = sum(hit for _, hit in inside) / len(inside) - sum(sure for sure, _ in inside) / len(inside)
            total += len(inside) / len(rows) * abs(gap)
    probabilities = np.array([[sure, 1 - sure] for sure, _ in rows])
    assert calibration_error(probabilities, np.array([hit for _, hit in rows])) == pytest.approx(total, abs=1e-12)


def test_a_result_comes_back_from_json() -> None:
    found = classify(np.log(np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])), np.array([0, 1]), LABELS)
    assert read_classification(json.loads(json.dumps(asdict(found)))) == found
    assert read_classification(None) is None


def test_means_over_seeds() -> None:
    one = classify(np.eye(3), np.array([0, 1, 2]), LABELS)
    other = classify(np.eye(3), np.array([0, 0, 0]), LABELS)
    both = mean_of_classifications([one, other])
    assert both is not None
    assert both.macro_f1 == pytest.approx((1 + 0.5) / 2)
    assert both.by_class["red"].rows == 4
    assert np.sum(both.confusion) == 6
    assert mean_of_classifications([one, None]) is None
    renamed = replace(other, by_class={name.upper(): found for name, found in other.by_class.items()})
    assert mean_of_classifications([one, renamed]) is None
    assert mean_of_classifications([]) is None


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="2 labels"):
        classify(np.zeros((3, 3)), np.zeros(3, dtype=np.int64), LABELS[:2])
    with pytest.raises(ValueError, match="0 rows"):
        classify(np.zeros((0, 3)), np.zeros(0, dtype=np.int64), LABELS)
