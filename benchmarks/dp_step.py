"""What privacy costs a training step: a private step over the same LoRA step without privacy.

Both steps see the same rows and run the same forward pass on the same model, in one process, in turns. The private one
makes a gradient for each row by Opacus' hooks, clips, sums and adds noise; the other one sums gradients by autograd.
The model has the shape of SmolLM2-135M and random weights: time does not depend on their values. Every row is one
privacy unit. Batch 32 x 128 through all 30 layers takes about 8 GB of memory. Reported are CPU seconds, medians over
repetitions, and the median of the ratios of neighboring steps.

    python benchmarks/dp_step.py [--quick] [--json]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cotune.data.template import Example
from cotune.data.units import Units
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import PrivacyTerms
from cotune.training.adapter import LoraSettings, initial, parameters_of
from cotune.training.base import BaseModel
from cotune.training.trainer import Trainer
from transformers import LlamaConfig, LlamaForCausalLM

TARGETS = {"q,v": ("q_proj", "v_proj"), "all-linear": ("all-linear",)}
TERMS = PrivacyTerms(True, "row", 8.0, 1e-5, 1.0, 1.0, 1.0, 1, 10.0, 0.1)


def model(layers: int) -> LlamaForCausalLM:
    """SmolLM2-135M with random weights and this many of its 30 layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def rows(batch: int, tokens: int, answer: int) -> list[Example]:
    """Random rows of one length: its last `answer` tokens are the answer."""
    generator = np.random.default_rng(0)
    made = (generator.integers(3, 49152, tokens + 1, dtype=np.int32) for _ in range(batch))
    return [Example(row, tokens + 1 - answer, str(number), "") for number, row in enumerate(made)]


def plain_step(trainer: Trainer) -> None:
    """The same rows without privacy: one summed gradient by autograd."""
    losses = trainer._row_losses(range(len(trainer.examples)))
    torch.autograd.grad(losses.sum(), list(parameters_of(trainer.model).values()))


def measure(case: dict[str, Any], layers: int, top: int, repetitions: int) -> dict[str, Any]:
    """One line of the table: both steps in turns, after one of each to warm up."""
    batch, tokens = case["batch"], case["tokens"]
    examples = rows(batch, tokens, case["answer"])
    lora = LoraSettings(8, 16.0, TARGETS[case["targets"]], False, top)
    base = BaseModel(model(layers), None, "random", "none", "SmolLM2-135M's shape")  # type: ignore[arg-type]
    units = Units(tuple(example.unit for example in examples), tuple((row,) for row in range(batch)))
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(base, lora, examples, units, batch * (tokens + 1), Path(folder) if top else None)
        adapter = initial(trainer.schema, 1)
        steps: dict[str, Callable[[], object]] = {
            "private": lambda: trainer.private_sum(adapter, TERMS, SeededRandomness(0)),
            "plain": lambda: plain_step(trainer),
        }
        spent: dict[str, list[float]] = {"private": [], "plain": []}
        for repetition in range(repetitions + 1):
            for name, step in steps.items():
                start = time.process_time()
                step()
                if repetition:
                    spent[name].append(time.process_time() - start)
    ratios = [one / other for one, other in zip(spent["private"], spent["plain"], strict=True)]
    return {
        **case,
        "parameters": trainer.schema.dimension,
        "private_cpu_s": statistics.median(spent["private"]),
        "plain_cpu_s": statistics.median(spent["plain"]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "repetitions": repetitions,
    }


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="6 of 30 layers, batch 8, two repetitions")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--repetitions", type=int, default=None)
    arguments = parser.parse_args()
    layers, repetitions = (6, 2) if arguments.quick else (30, 3)
    repetitions = arguments.repetitions or repetitions
    torch.set_num_threads(1)
    shapes = [(8, 128, 32)] if arguments.quick else [(8, 128, 32), (32, 128, 32)]
    cached = [(64, 32, 2)] if arguments.quick else [(8, 128, 32), (32, 128, 32), (64, 32, 2)]
    cases = [("hooks, full model", 0, shape) for shape in shapes] + [
        ("hooks, cached top 4", 4, shape) for shape in cached
    ]
    results = []
    if not arguments.json:
        print(f"{'path':22}{'batch':>10}{'answer':>8}  {'targets':12}{'private s':>10}{'plain s':>10}{'ratio':>8}")
    for path, top, (batch, tokens, answer) in cases:
        for targets in TARGETS:
            case = {"path": path, "batch": batch, "tokens": tokens, "answer": answer, "targets": targets}
            found = measure(case, layers, top, repetitions)
            results.append(found)
            if not arguments.json:
                print(
                    f"{path:22}{batch:>6} x{tokens:<4}{answer:>6}  {targets:12}{found['private_cpu_s']:>10.2f}"
                    f"{found['plain_cpu_s']:>10.2f}{found['ratio']:>8.2f}"
                )
                sys.stdout.flush()
    if arguments.json:
        print(json.dumps({"layers": layers, "torch": torch.__version__, "results": results}))


if __name__ == "__main__":
    main()
