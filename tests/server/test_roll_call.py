"""Nodes that say nothing at the roll call are named in the log."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from cotune.server import roll_call


def test_a_silent_node_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    charter: Any = SimpleNamespace(
        digest=lambda: "ab" * 32, members=[SimpleNamespace(name=name, public_key="00" * 32) for name in "ab"]
    )
    exchange: Any = SimpleNamespace(nodes=lambda: (17, 18), run=lambda *given, **named: {18})
    logging.getLogger("cotune.server").propagate = True
    with caplog.at_level(logging.WARNING, logger="cotune.server"):
        assert roll_call.call(charter, exchange, {}, 0.0) == {}
    assert [record.getMessage() for record in caplog.records] == ["roll call: node 17 did not answer within 60 seconds"]
