"""Likelihoods of free text against plain passes of the whole model, and greedy answers against generation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cotune.adapter.basis import Basis
from cotune.data.records import Record
from cotune.data.template import encode_all
from cotune.data.units import group
from cotune.errors import UserError
from cotune.evaluation.generate import answers_of, exact_match
from cotune.evaluation.texts import TextScores, answer_sizes, by_group, text_scores
from cotune.training.adapter import LoraSettings, attach, schema_of, set_flat
from cotune.training.base import BaseModel
from cotune.training.textless import random_basis
from cotune.training.trainer import Trainer

MakeBase = Callable[[str], BaseModel]
MakeRows = Callable[..., list[Record]]
ANSWERS = ("yes", "w1 w2 w3", "heart w4", "w5 w5 w5 w5 w5 w6")


def trainer(base: BaseModel, lora: LoraSettings, rows: list[Record], tokens: int, folder: Path | None) -> Trainer:
    examples = encode_all(rows, base.tokenizer, 128)
    return Trainer(base, lora, examples, group(examples), tokens, folder)


def slow_nll(base: BaseModel, records: list[Record]) -> float:
    """Over all answer tokens, one row at a time through the model as it stands."""
    total = count = 0.0
    for example in encode_all(records, base.tokenizer, 128):
        tokens = torch.from_numpy(example.tokens.astype(np.int64))[None]
        with torch.no_grad():
            logs = base.model(input_ids=tokens).logits[0].log_softmax(-1)
        for place in range(example.answer_start, tokens.shape[1]):
            total -= float(logs[place - 1, tokens[0, place]])
            count += 1
    return total / count


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_scores_are_those_of_plain_passes(
    make_small_base: MakeBase,
    make_rows: MakeRows,
    top_lora: LoraSettings,
    tmp_path: Path,
    family: str,
    cached: bool,
    batch_tokens: int,
) -> None:
    base, rows = make_small_base(family), make_rows(9, ANSWERS)
    expected = slow_nll(base, rows)
    judge = trainer(base, top_lora, rows, batch_tokens, tmp_path if cached else None)
    assert max(answer_sizes(judge)) == 7
    untouched = text_scores(judge, rows, None)
    assert untouched.nll == pytest.approx(expected, rel=1e-4)
    assert untouched.perplexity == pytest.approx(np.exp(expected), rel=1e-3)
    model = attach(base, top_lora)
    adapter = np.random.default_rng(2).normal(0, 0.3, schema_of(model).dimension).astype(np.float32)
    tuned = text_scores(judge, rows, adapter)
    set_flat(model, adapter)
    assert tuned.nll == pytest.approx(slow_nll(base, rows), rel=1e-4)
    assert abs(tuned.nll - untouched.nll) > 1e-3
    assert text_scores(judge, rows, None) == untouched


def test_exact_answers_are_those_of_generation(
    make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings, tmp_path: Path
) -> None:
    base, rows = make_small_base("llama"), make_rows(6, ANSWERS)
    with torch.no_grad():
        base.model.get_output_embeddings().weight[2] *= 4.0  # the end of the turn, so that answers come to it
    model = attach(base, top_lora)
    adapter = np.random.default_rng(2).normal(0, 0.5, schema_of(model).dimension).astype(np.float32)
    set_flat(model, adapter)
    short, said = (answers_of(model, base.tokenizer, rows, 128, most, 4096) for most in (12, 24))
    mixed = [replace(row, answer=answer) if answer and answer == other else row
             for row, answer, other in zip(rows, said, short, strict=True)]  # fmt: skip
    found = text_scores(trainer(base, top_lora, mixed, 4096, tmp_path), mixed, adapter)
    assert 0 < found.exact < 1
    assert found.exact == pytest.approx(exact_match(model, base.tokenizer, mixed, 128, 24, 4096))
    assert found.by_group == by_group(
        [one.answer == other for one, other in zip(mixed, said, strict=True)], [row.group for row in mixed]
    )


def test_a_model_without_an_adapter_answers_too(make_small_base: MakeBase, make_rows: MakeRows) -> None:
    base, rows = make_small_base("llama"), make_rows(3, ANSWERS)
    before = answers_of(base.model, base.tokenizer, rows, 128, 6, 4096)
    model = attach(base, LoraSettings(rank=2, alpha=2.0, targets=("q_proj",), rslora=False, top_layers=1))
    set_flat(model, np.zeros(schema_of(model).dimension, dtype=np.float32))
    assert answers_of(model, base.tokenizer, rows, 128, 6, 4096) == before
    with pytest.raises(UserError, match="no rows to generate"):
        answers_of(base.model, base.tokenizer, [], 128, 6, 4096)


def test_the_loss_of_an_agreed_vocabulary_takes_no_part(
    make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings, tmp_path: Path
) -> None:
    """Training may be over some tokens; likelihoods are over all, whatever an answer holds."""
    rows = make_rows(5, ANSWERS)
    lora = replace(top_lora, form="ffa", targets=("down_proj",), rank=2)
    found = []
    for tokens in ([], [2, 6, 7]):
        base = make_small_base("llama")
        given = random_basis(base, lora, 0, 1)
        basis = Basis(given.modules, np.array(tokens, dtype=np.int32))
        judge = trainer(base, replace(lora, basis=basis), rows, 4096, tmp_path)
        found.append(text_scores(judge, rows, None))
        assert found[-1].nll == pytest.approx(slow_nll(base, rows), rel=1e-4)
    assert found[0] == found[1]


def test_what_cannot_be_scored(make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings) -> None:
    rows = make_rows(2, ANSWERS)
    judge = trainer(make_small_base("llama"), top_lora, rows, 64, None)
    with pytest.raises(UserError, match="not finite"):
        text_scores(judge, rows, np.full(judge.schema.dimension, np.nan, dtype=np.float32))


def test_perplexity_stays_a_number() -> None:
    assert TextScores(0.0, 1.0, {}).perplexity == 1.0
    assert np.isfinite(TextScores(1e6, 0.0, {}).perplexity)
