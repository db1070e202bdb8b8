"""Whether a round was run on a charter's terms: each of them alone decides."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from cotune.charter.conformity import conforms
from cotune.secagg.encoding import Encoding
from cotune.secagg.plan import Plan

CHARTER: Any = SimpleNamespace(
    rounds=3,
    secagg=SimpleNamespace(threshold=3, min_survivors=4),
    dp_hash=lambda: b"d" * 32,
    schema_hash=lambda: b"s" * 32,
)
PLAN = Plan(
    run=b"r" * 16,
    round=2,
    attempt=1,
    roster_hash=b"o" * 32,
    cohort=(0, 1, 2, 3),
    threshold=3,
    min_survivors=4,
    model_hash=b"m" * 32,
    schema_hash=b"s" * 32,
    dp_hash=b"d" * 32,
    encoding=Encoding(((10, 1.0),), 4, 16),
    deadline=2_000,
    prev_head=b"h" * 32,
)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"attempt": 7, "deadline": 9, "model_hash": b"n" * 32}, True),
        ({"schema_hash": b"d" * 32}, False),
        ({"dp_hash": b"s" * 32}, False),
        ({"threshold": 4}, False),
        ({"min_survivors": 3}, False),
        ({"round": 3}, False),
    ],
)
def test_each_term_alone_decides(changes: dict[str, Any], expected: bool) -> None:
    assert conforms(CHARTER, replace(PLAN, **changes)) is expected
