"""The sum of a node's own contributions: which are in it, and what damaged bytes are."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cotune.client import sent
from cotune.client.sent import Sent, found, with_round
from hypothesis import given
from hypothesis import strategies as st

DIGEST, RUN, SIZE = "ab" * 32, "cd" * 16, 5


@pytest.fixture(autouse=True)
def charter(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Of ten rounds and five numbers."""
    monkeypatch.setattr(sent, "schema_of", lambda _charter: SimpleNamespace(dimension=SIZE))
    return SimpleNamespace(rounds=10, digest=lambda: DIGEST)


def contribution(number: int) -> np.ndarray:
    """With metrics behind it."""
    return np.append(np.full(SIZE, 10.0**number), [7.0, 7.0, 7.0])


def test_the_later_half_is_summed_and_a_round_counts_once(charter: Any) -> None:
    kept = None
    for number in (0, 4, 5, 7, 7, 9):
        kept = with_round(kept, charter, RUN, number, contribution(number)) or kept
    assert kept is not None
    got = Sent.decode(kept, charter)
    assert (got.charter, got.run, got.rounds) == (DIGEST, RUN, (5, 7, 9))
    assert np.array_equal(got.total, np.full(SIZE, 1e5 + 1e7 + 1e9))
    assert got.encode() == kept


def test_another_run_or_charter_begins_anew(charter: Any) -> None:
    kept = with_round(None, charter, RUN, 6, contribution(0))
    other = with_round(kept, charter, "ef" * 16, 8, contribution(1))
    assert other is not None
    assert Sent.decode(other, charter).rounds == (8,)
    assert found(kept, charter, "ef" * 16).rounds == ()
    amended: Any = SimpleNamespace(rounds=10, digest=lambda: "12" * 32)
    assert found(kept, amended, RUN).rounds == ()


@given(data=st.data())
def test_damaged_bytes_are_nothing(data: st.DataObject) -> None:
    amended: Any = SimpleNamespace(rounds=10, digest=lambda: DIGEST)
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(sent, "schema_of", lambda _charter: SimpleNamespace(dimension=SIZE))
        kept = with_round(None, amended, RUN, 6, contribution(0))
        assert kept is not None
        cut = data.draw(st.integers(0, len(kept) - 1))
        assert found(kept[:cut], amended, RUN).rounds == ()
        assert found(kept + b"0", amended, RUN).rounds == ()
        place, value = data.draw(st.integers(0, len(kept) - 1)), data.draw(st.integers(0, 255))
        changed = found(kept[:place] + bytes([value]) + kept[place + 1 :], amended, RUN)
        assert np.isfinite(changed.total).all()
        assert len(changed.total) == SIZE


def test_numbers_that_are_not_finite_are_nothing(charter: Any) -> None:
    bad = Sent(DIGEST, RUN, (6,), np.array([1.0, np.nan, 0.0, 0.0, 0.0])).encode()
    assert found(bad, charter, RUN).rounds == ()
