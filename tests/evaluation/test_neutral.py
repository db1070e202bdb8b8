"""Neutral text: windows cover it, and its likelihood is that of plain passes at either adapter."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cotune.evaluation.neutral import forgetting, neutral_text
from cotune.training.adapter import LoraSettings, attach, schema_of


def test_against_plain_passes(make_small_base: Callable[[str], Any], top_lora: LoraSettings) -> None:
    base = make_small_base("llama")
    # Its tokenizer knows none of these words: some of its own in their place.
    words = [f"w{place % 40}" for place in range(300)]
    encode = base.tokenizer

    class Words:
        def __call__(self, _text: str, **options: Any) -> Any:
            return encode(" ".join(words), **options)

    object.__setattr__(base, "tokenizer", Words())
    model = attach(base, top_lora)
    adapter = np.random.default_rng(3).standard_normal(schema_of(model).dimension).astype(np.float32)
    found = forgetting(base, model, adapter)

    def plain() -> float:
        ids = torch.tensor(encode(" ".join(words), add_special_tokens=False)["input_ids"])
        total = 0.0
        for start in range(0, 300, 128):  # the positions that this model has
            window = ids[start : start + 128][None]
            with torch.no_grad():
                logs = base.model(input_ids=window).logits.log_softmax(-1)
            total -= float(sum(logs[0, place, window[0, place + 1]] for place in range(window.shape[1] - 1)))
        return total / found.tokens

    assert found.tokens == 297
    assert found.tuned == pytest.approx(plain(), rel=1e-5)
    assert found.tuned != pytest.approx(found.base, rel=1e-3)
    assert forgetting(base, model, np.zeros_like(adapter)).tuned == pytest.approx(found.base, rel=1e-6)
    assert found.base == pytest.approx(plain(), rel=1e-5)


def test_the_text_is_prose() -> None:
    text = neutral_text()
    assert 800 < len(text.split()) < 1500
    assert text.isascii()
