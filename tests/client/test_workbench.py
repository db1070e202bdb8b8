"""What a node's log says while its workbench is made."""

import logging

import pytest
from cotune.client.workbench import SECONDS_BETWEEN_LINES, logged


def test_hidden_states_are_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    progress = logged(lambda: now)
    with caplog.at_level(logging.INFO, "cotune.client"):
        for done in range(100):
            now += SECONDS_BETWEEN_LINES / 10
            progress("hidden states", done, 200)
            progress("units", 1, 1)
    assert [record.getMessage() for record in caplog.records][:2] == [
        "hidden states of the frozen layers: 4% (once for this data)",
        "hidden states of the frozen layers: 9% (once for this data)",
    ]
    assert len(caplog.records) == 10
