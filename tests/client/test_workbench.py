"""What a node's workbench is made of, and what its log says meanwhile."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cotune.adapter.basis import Basis, Directions
from cotune.charter import policy as policies
from cotune.client.workbench import SECONDS_BETWEEN_LINES, WrongModelError, logged, lora_of, records_of


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


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("signed", ["zero", "public"])
def test_a_start_is_what_was_signed(started: bool, signed: str, tmp_path: Path) -> None:
    """A start is a finished adapter: under `start: zero` nobody trains and releases one unawares."""
    first = np.ones((2, 4), dtype=np.float32)
    given = Directions(np.ones((4, 8), dtype=np.float32), None, first if started else None)
    basis = Basis({"model.layers.0.mlp.down_proj": given})
    basis.save(tmp_path / "basis.safetensors")
    terms = SimpleNamespace(digest=basis.digest, vocabulary=0, start=signed)
    model = SimpleNamespace(
        basis=terms, rank=4, alpha=4.0, targets=("down_proj",), rslora=False, top_layers=1, form="ffa"
    )
    charter: Any = SimpleNamespace(model=model)
    if started == (signed == "public"):
        assert lora_of(charter, tmp_path / "basis.safetensors").basis is not None
        return
    with pytest.raises(WrongModelError, match=f"the charter says start {signed}"):
        lora_of(charter, tmp_path / "basis.safetensors")


def test_records_are_read_as_the_policy_says(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    turns = [{"role": role, "content": role[0]} for role in ("user", "assistant") * 2]
    data = tmp_path / "records.jsonl"
    data.write_text(json.dumps({"messages": turns, "who": "p1", "ward": "north"}) + "\n")
    data.chmod(0o600)
    columns = policies.Columns(messages="messages", unit="who")
    policy = policies.Policy(
        data=data,
        form="messages",
        columns=columns,
        max_epsilon=1.0,
        models="any",
        min_members=3,
        unit="patient",
        allow_without_privacy=False,
    )
    with caplog.at_level(logging.INFO, "cotune.client"):
        assert [len(record.prompt) for record in records_of(policy)] == [3]
    assert caplog.messages == ["nothing reads the columns ward of the records"]
    every = records_of(policy.model_copy(update={"turns": "all"}))
    assert [(len(record.prompt), record.unit) for record in every] == [(1, "p1"), (3, "p1")]
