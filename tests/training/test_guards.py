"""A step that spends budget must have trained, and on the agreed model."""

from collections.abc import Callable

import numpy as np
import pytest
from cotune.training.base import BaseModel
from cotune.training.guards import (
    NotFiniteError,
    NotMovedError,
    WrongModelError,
    check_digests,
    check_finite,
    check_moved,
)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite(bad: float) -> None:
    vector = np.zeros(5)
    check_finite(vector, "the update")
    vector[3] = bad
    with pytest.raises(NotFiniteError, match="the update holds"):
        check_finite(vector, "the update")


def test_not_moved() -> None:
    before = np.ones(4, dtype=np.float32)
    after = before.copy()
    with pytest.raises(NotMovedError, match="the adapter did not change"):
        check_moved(before, after, "the adapter")
    after[2] = np.nextafter(after[2], np.float32(2))
    check_moved(before, after, "the adapter")


def test_digests(make_base: Callable[..., BaseModel]) -> None:
    base = make_base()
    check_digests(base, base.digest, base.tokenizer_digest)
    with pytest.raises(WrongModelError, match="base model"):
        check_digests(base, "0" * 64, base.tokenizer_digest)
    with pytest.raises(WrongModelError, match="tokenizer"):
        check_digests(base, base.digest, "0" * 64)
