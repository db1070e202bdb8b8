"""What private training refuses before it starts: one line each, with the name of what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from cotune.errors import UserError
from cotune.training.adapter import LoraSettings, attach, schema_of
from cotune.training.base import BaseModel
from cotune.training.flat_buffer import FlatBuffer
from cotune.training.hooks import HookGradients
from cotune.training.refusals import refuse, refuse_under_hooks
from cotune.training.trainer import Trainer
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from torch import nn

Q = {"target_modules": ["q_proj"]}


def refused(check: Callable[[], object], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        check()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({**Q, "use_dora": True}, "^DoRA cannot be trained .* also under ghost clipping: switch DoRA off"),
        ({"target_modules": ["embed_tokens"]}, r"^LoRA on embeddings \(.*embed_tokens"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, r"^LoRA on embeddings \(.*embed_tokens"),
        ({**Q, "modules_to_save": ["lm_head"]}, r"^full training of lm_head \(modules_to_save\) .* tied weights"),
        ({**Q, "modules_to_save": ["embed_tokens", "lm_head"]}, "^full training of embed_tokens, lm_head"),
        ({**Q, "bias": "all"}, "^training of .*bias cannot"),
        ({**Q, "lora_bias": True}, "^training of the bias .*lora_B.bias"),
        ({**Q, "trainable_token_indices": [3]}, "^training of single tokens' embeddings"),
        ({"target_modules": [], "target_parameters": ["q_proj.weight"]}, r"^LoRA on parameters \(q_proj.weight\)"),
        ({**Q, "lora_dropout": 0.1}, r"^active dropout \(.*q_proj.lora_dropout"),
    ],
)
@pytest.mark.parametrize("tied", [False, True])
def test_adapters(tiny: Any, options: dict[str, Any], match: str, tied: bool) -> None:
    base = tiny.model("gpt_neox" if options.get("bias") else "llama", tie_word_embeddings=tied)
    if options.get("bias"):
        options = {**options, "target_modules": ["query_key_value"]}
    model = get_peft_model(base, LoraConfig(r=2, task_type="CAUSAL_LM", **options)).eval()
    if options.get("lora_dropout"):
        model.train()
    refused(lambda: refuse(model), match)


def test_parameters_that_peft_adds_by_itself_come_as_a_set(tiny: Any) -> None:
    """It does so for fused experts, e.g. of DeepSeek, whose names are among the targets."""
    model = get_peft_model(tiny.model("llama"), LoraConfig(r=2, task_type="CAUSAL_LM", **Q)).eval()
    model.peft_config["default"].target_parameters = {"up_proj", "down_proj"}
    refused(lambda: refuse(model), r"^LoRA on parameters \(down_proj\)")


@pytest.mark.parametrize("way", [FlatBuffer, HookGradients])
def test_both_ways_ask(tiny: Any, way: Any) -> None:
    good = get_peft_model(tiny.model("llama"), LoraConfig(r=2, task_type="CAUSAL_LM", **Q)).eval()
    schema = schema_of(good)
    bad = get_peft_model(tiny.model("llama"), LoraConfig(r=2, task_type="CAUSAL_LM", use_dora=True, **Q)).eval()
    refused(lambda: way(bad, schema), "^DoRA")


def test_full_fine_tuning(make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    for tied, match in ((False, "^training of .*weight cannot"), (True, "^training of .*, tied to .*lm_head.weight")):
        model = attach(make_base(tie_word_embeddings=tied), lora)
        refuse(model)
        model.base_model.model.model.embed_tokens.weight.requires_grad_(True)
        refused(lambda model=model: refuse(model), match)  # type: ignore[misc]


def test_another_method(tiny: Any) -> None:
    options = {"target_modules": ["k_proj"], "feedforward_modules": []}
    model = get_peft_model(tiny.model("llama"), IA3Config(task_type="CAUSAL_LM", **options)).eval()
    refused(lambda: refuse(model), "^PEFT method IA3")


def test_a_variant_of_lora(make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    class Crooked:
        """What PEFT hangs into a layer whose forward pass is not plain LoRA's."""

    model = attach(make_base(), lora)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    layer.lora_variant["default"] = Crooked()
    refused(lambda: refuse(model), "^LoRA variant Crooked")


def test_dropout_and_batch_norm(make_base: Callable[..., BaseModel], lora: LoraSettings) -> None:
    model = attach(make_base("gpt2"), lora)
    refuse(model)
    model.train()
    refused(lambda: refuse(model), "^active dropout")
    model.eval()
    model.base_model.model.extra = nn.BatchNorm1d(4).requires_grad_(False)
    refused(lambda: refuse(model), r"^batch normalization \(.*extra\)")


def test_checkpointing_that_is_not_reentrant_under_hooks(
    make_base: Callable[..., BaseModel], lora: LoraSettings
) -> None:
    def checkpointed(reentrant: bool) -> PeftModel:
        model = attach(make_base(), lora)
        model.base_model.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        return model

    refused(lambda: HookGradients(model := checkpointed(False), schema_of(model)), "checkpointing that is not reentr")
    refuse_under_hooks(checkpointed(True))


def test_a_model_that_is_not_causal_is_refused_by_its_family(tiny: Any, lora: LoraSettings) -> None:
    """Without a mask, BERT attends to padding, so a row's gradient would depend on its neighbors."""
    base = BaseModel(tiny.model("bert"), tiny.tokenizer(), "digest", "tokens", "bert")
    with torch.no_grad(), pytest.raises(UserError, match="model family 'bert'") as caught:
        Trainer(base, lora, tiny.rows(3), tiny.units([1, 1, 1]), 60, None)
    assert "\n" not in str(caught.value)
