"""What a round costs by adapter form: upload bytes, and CPU seconds of an organization's private step.

Plain LoRA on all maps of the last layer, FFA and a core on the last down_proj, over the demo's kind of rows, everything
below the trained maps cached. The model has the shape of SmolLM2-135M's last two layers and random weights: time does
not depend on their values, and the layers below run once for a data set. Steps take turns in one process; reported are
medians, and ratios to plain LoRA in the same turn. Bytes are those of one masked upload among four members.

    python benchmarks/forms.py [--quick] [--json] [--repetitions N] [--threads N]
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cotune.adapter.basis import Basis
from cotune.adapter.schema import initial
from cotune.data.template import Example
from cotune.data.units import Units
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import METRICS, PrivacyTerms
from cotune.secagg.encoding import Encoding
from cotune.training.adapter import LoraSettings
from cotune.training.base import BaseModel
from cotune.training.textless import random_basis
from cotune.training.trainer import Trainer
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 49152
TERMS = PrivacyTerms(True, "unit", 8.0, 1e-5, 1.0, 1.0, 1.0, 4, 10.0, 0.1)
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
LABELS, ANSWER_TOKENS, LOSS_TOKENS = 21, 24, 2048


@dataclass(frozen=True)
class Case:
    """One line: its name, the settings, and how many tokens the loss is taken over (0: all)."""

    name: str
    lora: LoraSettings
    tokens: int


DOWN = ("down_proj",)
CASES = (
    Case("lora, rank 8, all maps", LoraSettings(8, 16.0, ("all-linear",), False, 1), 0),
    Case("ffa, rank 64", LoraSettings(64, 64.0, DOWN, False, 1, "ffa"), 0),
    Case("core, 24 x 128, all tokens", LoraSettings(128, 128.0, DOWN, False, 1, "core"), 0),
    Case("core, 24 x 128, 2048 tokens", LoraSettings(128, 128.0, DOWN, False, 1, "core"), LOSS_TOKENS),
)


def trainer_of(case: Case, units: int, folder: Path) -> Trainer:
    """Random weights, rows of the demo's lengths, directions by chance."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, num_hidden_layers=2, **SMOLLM2)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    base = BaseModel(model, None, "random", "none", "random weights")  # type: ignore[arg-type]
    lora = case.lora
    if lora.form != "lora":
        basis = random_basis(base, lora, ANSWER_TOKENS, 1)
        lora = replace(lora, basis=Basis(basis.modules, np.arange(case.tokens, dtype=np.int32)))
    generator = np.random.default_rng(0)
    rows, owned = [], []
    for unit in range(units):
        count = int(generator.choice([1, 2, 3, 4], p=[0.6, 0.19, 0.08, 0.13]))
        owned.append(tuple(range(len(rows), len(rows) + count)))
        for _ in range(count):
            length = int(np.clip(generator.normal(118, 5), 110, 143))
            tokens = generator.integers(3, VOCABULARY, length, dtype=np.int32)
            tokens[-2:] = generator.integers(3, LABELS, 2)
            rows.append(Example(tokens, length - 2, str(unit), ""))
    return Trainer(base, lora, rows, Units(tuple(map(str, range(units))), tuple(owned)), 4096, folder)


def upload_bytes(dimension: int) -> int:
    """Of the packed lanes: numbers, metrics and the fraction that was cut."""
    return Encoding(((dimension + len(METRICS) + 1, 1.0),), 4, 16).words * 8


def measure(units: int, repetitions: int) -> list[dict[str, Any]]:
    """All forms in turns, after one step of each to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        trainers = [trainer_of(case, units, Path(folder) / str(number)) for number, case in enumerate(CASES)]
        spent: list[list[float]] = [[] for _ in CASES]
        for repetition in range(repetitions + 1):
            for number, trainer in enumerate(trainers):
                adapter = initial(trainer.schema, 1)
                start = time.process_time()
                trainer.clipped_sum(adapter, range(units), TERMS, SeededRandomness(0))
                if repetition:
                    spent[number].append(time.process_time() - start)
    lines = []
    for case, trainer, seconds in zip(CASES, trainers, spent, strict=True):
        ratios = [mine / plain for mine, plain in zip(seconds, spent[0], strict=True)]
        lines.append(
            {
                "form": case.name,
                "rows": len(trainer.examples),
                "parameters": trainer.schema.dimension,
                "upload_bytes": upload_bytes(trainer.schema.dimension),
                "step_cpu_s": statistics.median(seconds),
                "ratio": statistics.median(ratios),
                "ratio_min": min(ratios),
                "ratio_max": max(ratios),
            }
        )
    return lines


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 units, one repetition")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = measure(30 if arguments.quick else 200, 1 if arguments.quick else arguments.repetitions)
    if arguments.json:
        print(json.dumps(lines, indent=1))
        return
    print(f"{'form':30}{'parameters':>11}{'upload kB':>11}{'step s':>9}{'of lora':>9}  min and max")
    for line in lines:
        print(
            f"{line['form']:30}{line['parameters']:>11,}{line['upload_bytes'] / 1000:>11.1f}{line['step_cpu_s']:>9.2f}"
            f"{line['ratio']:>9.3f}  {line['ratio_min']:.3f} {line['ratio_max']:.3f}"
        )


if __name__ == "__main__":
    main()
