"""Label scores against a slow reference: one label, one row, one plain forward pass at a time."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from cotune.data.records import Message, Record
from cotune.data.template import encode
from cotune.errors import UserError
from cotune.evaluation.labels import Evaluator
from cotune.training.adapter import LoraSettings, attach, schema_of, set_flat
from cotune.training.base import BaseModel
from cotune.training.layers import decoder_layers
from numpy.typing import NDArray

MakeBase = Callable[[str], BaseModel]
MakeRows = Callable[..., list[Record]]
DISTINCT = ("yes", "no", "heart attack")
ALIKE = ("heart", "heart attack", "heart failure", "heart attack attack", "lung failure", "no")


def random_adapter(base: BaseModel, lora: LoraSettings, seed: int = 1) -> NDArray[np.float32]:
    size = schema_of(attach(base, lora)).dimension
    return np.random.default_rng(seed).normal(0, 0.3, size).astype(np.float32)


def reference(base: BaseModel, records: list[Record], labels: tuple[str, ...], first_only: bool) -> NDArray[np.float64]:
    """The whole model, adapter as set, one sequence at a time."""
    found = np.zeros((len(records), len(labels)))
    for row, record in enumerate(records):
        for column, label in enumerate(labels):
            example = encode(replace(record, answer=label), base.tokenizer, 128)
            tokens = torch.from_numpy(example.tokens.astype(np.int64))[None]
            with torch.no_grad():
                logs = base.model(input_ids=tokens).logits[0].float().log_softmax(-1)
            stop = example.answer_start + 1 if first_only else len(example.tokens)
            for place in range(example.answer_start, stop):
                found[row, column] += float(logs[place - 1, tokens[0, place]])
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("labels", [DISTINCT, ALIKE])
@pytest.mark.parametrize("cached", [False, True])
def test_likelihoods_equal_the_slow_reference(
    make_small_base: MakeBase,
    make_rows: MakeRows,
    top_lora: LoraSettings,
    family: str,
    labels: tuple[str, ...],
    cached: bool,
) -> None:
    base = make_small_base(family)
    rows = make_rows(9, labels)
    adapter = random_adapter(base, top_lora)
    evaluator = Evaluator(base, top_lora, rows, labels, context_length=128, batch_tokens=64, cached=cached)
    found = evaluator.score(adapter)
    set_flat(attach(base, top_lora), adapter)
    expected = reference(base, rows, labels, first_only=labels == DISTINCT)
    np.testing.assert_allclose(found.log_likelihoods, expected, atol=2e-4)
    assert found.predictions == tuple(labels[place] for place in expected.argmax(axis=1))


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
@pytest.mark.parametrize("labels", [DISTINCT, ALIKE])
@pytest.mark.parametrize("opening", [(), ("w1 w2 w3 w4 w5", "w6")])
def test_behind_the_last_attention_answers_alone_are_kept(
    make_small_base: MakeBase, make_rows: MakeRows, family: str, labels: tuple[str, ...], opening: tuple[str, ...]
) -> None:
    base, lora = make_small_base(family), LoraSettings(2, 4, ("down_proj",), False, 1)
    turns = tuple(Message(role, text) for role, text in zip(("system", "user"), opening, strict=False))
    rows = [replace(row, prompt=turns + row.prompt) for row in make_rows(9, labels)]
    adapter = random_adapter(base, lora)
    evaluator = Evaluator(base, lora, rows, labels, context_length=128, batch_tokens=256, cached=True)
    found = evaluator.score(adapter)
    nodes = len(evaluator._tree.tokens)
    assert {batch.inputs.shape[1] for batch in evaluator._batches} == {1 + nodes}
    set_flat(attach(base, lora), adapter)
    expected = reference(base, rows, labels, first_only=labels == DISTINCT)
    np.testing.assert_allclose(found.log_likelihoods, expected, atol=2e-4)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("labels", [DISTINCT, ALIKE])
def test_what_all_prompts_begin_with_runs_once(
    make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings, family: str, labels: tuple[str, ...]
) -> None:
    base = make_small_base(family)
    opening = (Message("system", "w1 w2 w3"), Message("user", "w4"), Message("assistant", labels[0]))
    rows = [replace(row, prompt=opening + row.prompt) for row in make_rows(9, labels)]
    widths: list[int] = []
    layer = decoder_layers(base.model)[0]
    handle = layer.register_forward_pre_hook(lambda _module, args: widths.append(args[0].shape[1]))
    evaluator = Evaluator(base, top_lora, rows, labels, context_length=128, batch_tokens=64, cached=True)
    handle.remove()
    shared = evaluator._batches[0].inputs.shape[1] - widths[-len(evaluator._batches)]
    assert shared >= 12  # template words and </s> included
    adapter = random_adapter(base, top_lora)
    found = evaluator.score(adapter).log_likelihoods
    set_flat(attach(base, top_lora), adapter)
    expected = reference(base, rows, labels, first_only=labels == DISTINCT)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_no_adapter_is_the_base_model(make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings) -> None:
    rows = make_rows(6, ALIKE)
    expected = reference(make_small_base("llama"), rows, ALIKE, first_only=False)
    base = make_small_base("llama")
    evaluator = Evaluator(base, top_lora, rows, ALIKE, 128, 64, cached=True)
    tuned = evaluator.score(random_adapter(base, top_lora)).log_likelihoods
    np.testing.assert_allclose(evaluator.score(None).log_likelihoods, expected, atol=2e-4)
    assert np.abs(tuned - expected).max() > 1e-2  # the adapter does something


def test_results_do_not_depend_on_batches(
    make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings
) -> None:
    base = make_small_base("llama")
    rows = make_rows(12, ALIKE)
    adapter = random_adapter(base, top_lora)
    one, many = (Evaluator(base, top_lora, rows, ALIKE, 128, size, cached=True) for size in (1, 4096))
    assert len(one._batches) == 12
    assert len(many._batches) == 1
    np.testing.assert_allclose(one.score(adapter).log_likelihoods, many.score(adapter).log_likelihoods, atol=1e-4)


def test_many_adapters_run_the_frozen_layers_once(
    make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings
) -> None:
    base = make_small_base("llama")
    evaluator = Evaluator(base, top_lora, make_rows(5, DISTINCT), DISTINCT, 128, 4096, cached=True)
    calls = []
    base.model.model.layers[0].register_forward_hook(lambda *_: calls.append("frozen"))
    base.model.model.layers[2].register_forward_hook(lambda *_: calls.append("top"))
    for seed in (1, 2, 3):
        evaluator.score(random_adapter(base, top_lora, seed))
    assert calls == ["top"] * 3


def test_accuracy_groups_and_nll(make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings) -> None:
    base = make_small_base("llama")
    rows = [replace(row, group="" if number == 0 else row.group) for number, row in enumerate(make_rows(30, ALIKE))]
    found = Evaluator(base, top_lora, rows, ALIKE, 128, 256, cached=True).score(random_adapter(base, top_lora))
    hits = [guess == row.answer for guess, row in zip(found.predictions, rows, strict=True)]
    assert found.accuracy == pytest.approx(sum(hits) / 30)
    assert 0 < sum(hits) < 30
    for group in ("north", "south"):
        mine = [hit for hit, row in zip(hits, rows, strict=True) if row.group == group]
        assert found.by_group[group] == pytest.approx(sum(mine) / len(mine))
    assert set(found.by_group) == {"north", "south"}
    assert found.worst_group == min(found.by_group.items(), key=lambda item: item[1])
    right = [ALIKE.index(row.answer) for row in rows]
    probabilities = torch.from_numpy(found.log_likelihoods).softmax(1).numpy()
    assert found.nll == pytest.approx(-np.log(probabilities[np.arange(30), right]).mean())


def test_a_base_that_answers_right_scores_one(make_small_base: MakeBase, top_lora: LoraSettings) -> None:
    base = make_small_base("llama")
    rows = [Record((Message("user", f"w{n}"),), "yes", unit="u") for n in range(4)]
    scores = Evaluator(base, top_lora, rows, ("yes", "no"), 128, 64, cached=False).score(None)
    answers = [replace(row, answer=guess) for row, guess in zip(rows, scores.predictions, strict=True)]
    again = Evaluator(base, top_lora, answers, ("yes", "no"), 128, 64, cached=False).score(None)
    assert again.accuracy == 1.0
    respelled = [replace(row, answer=f"\u200b{row.answer} ") for row in answers]
    assert Evaluator(base, top_lora, respelled, ("yes", "no"), 128, 64, cached=False).score(None).accuracy == 1.0
    assert again.worst_group is None
    assert again.by_group == {}


def test_bad_test_sets_are_refused_in_one_line(
    make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings
) -> None:
    base = make_small_base("llama")
    rows = make_rows(3, DISTINCT)

    def build(records: list[Record], labels: tuple[str, ...], length: int = 128) -> Evaluator:
        return Evaluator(base, top_lora, records, labels, length, 64, cached=False)

    with pytest.raises(UserError, match="empty"):
        build([], DISTINCT)
    with pytest.raises(UserError, match="test row 2: the answer 'unheard'"):
        build([rows[0], replace(rows[1], answer="unheard")], DISTINCT)
    with pytest.raises(UserError, match="at least two"):
        build([replace(rows[0], answer="yes")], ("yes",))
    with pytest.raises(UserError, match=r"the labels: 'yes' and 'yes ' are one label in two spellings"):
        build([replace(rows[0], answer="yes")], ("yes", "no", "yes "))
    long = replace(rows[0], prompt=(Message("user", "w1 " * 60),))
    with pytest.raises(UserError, match=r"test row 2: .* tokens do not fit"):
        build([rows[0], long], DISTINCT, length=40)


def test_scores_that_are_not_finite_are_refused(
    make_small_base: MakeBase, make_rows: MakeRows, top_lora: LoraSettings
) -> None:
    base = make_small_base("llama")
    evaluator = Evaluator(base, top_lora, make_rows(3, DISTINCT), DISTINCT, 128, 64, cached=True)
    adapter = random_adapter(base, top_lora)
    adapter[:] = np.nan
    with pytest.raises(UserError, match="not finite"):
        evaluator.score(adapter)
