"""What privacy costs a training step: a private step over the same LoRA step without privacy.

Both steps set the adapter, run the same forward pass over the same rows and end with one flat vector. The private one
makes a gradient for each row, clips, sums and adds noise; the other one sums gradients by autograd. They take turns in
one process, in changing order. The model of the CPU's part has the shape of SmolLM2-135M and random weights: time does
not depend on their values. Every row is one privacy unit, its last 32 tokens are the answer. Reported are CPU seconds
(medians) and the median of the ratios of neighboring steps.

The GPU's part runs where CUDA is at hand: bfloat16, a model of the 1B class with random weights, wall seconds, and the
ratio of the peaks of memory.

    python benchmarks/dp_step.py [--quick] [--hooks] [--cached] [--json]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cotune.data.template import Example
from cotune.data.units import Units
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import PrivacyTerms
from cotune.training.adapter import LoraSettings, initial, parameters_of, set_flat
from cotune.training.base import BaseModel
from cotune.training.tiles import tiles
from cotune.training.trainer import Trainer
from transformers import LlamaConfig, LlamaForCausalLM

ANSWER = 32
TARGETS = {"q,v": ("q_proj", "v_proj"), "all-linear": ("all-linear",)}
TERMS = PrivacyTerms(True, "row", 8.0, 1e-5, 1.0, 1.0, 1.0, 1, 10.0, 0.1)
SMALL = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}
LARGE = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}


@dataclass(frozen=True)
class Case:
    """One line of the table; `top` is how many of the layers are trained over cached states, 0 for all without."""

    device: str
    batch: int
    tokens: int
    targets: str
    hooks: bool
    top: int
    quick: bool

    @property
    def path(self) -> str:
        """How gradients are made."""
        return ("hooks" if self.hooks else "flat buffer") + (f", cached top {self.top}" if self.top else "")


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """The table's lines."""
    sizes = (8,) if arguments.quick else (8, 32)
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for hooks in (False, True) if arguments.hooks else (False,):
            for top in (0, 4) if arguments.cached else (0,):
                for batch in sizes:
                    for targets in TARGETS:
                        yield Case(device, batch, 128, targets, hooks, top, arguments.quick)


def base_model(case: Case) -> BaseModel:
    """Random weights in the shape of SmolLM2-135M, or of Llama 3.2 1B on a GPU; six layers of it for a quick look."""
    torch.manual_seed(0)
    shape = dict(LARGE if case.device == "cuda" else SMALL)
    if case.quick:
        shape["num_hidden_layers"] = 6
    model = LlamaForCausalLM(LlamaConfig(vocab_size=49152, tie_word_embeddings=True, **shape))
    model = model.eval().requires_grad_(False).to(case.device, torch.bfloat16 if case.device == "cuda" else None)
    return BaseModel(model, None, "random", "none", "random weights")  # type: ignore[arg-type]


def trainer_of(case: Case, folder: Path) -> Trainer:
    """A trainer over random rows of one length."""
    generator = np.random.default_rng(0)
    tokens = [generator.integers(3, 49152, case.tokens + 1, dtype=np.int32) for _ in range(case.batch)]
    rows = [Example(row, case.tokens + 1 - ANSWER, str(number), "") for number, row in enumerate(tokens)]
    units = Units(tuple(row.unit for row in rows), tuple((row,) for row in range(case.batch)))
    lora = LoraSettings(8, 16.0, TARGETS[case.targets], False, case.top)
    features = folder if case.top else None
    return Trainer(base_model(case), lora, rows, units, case.batch * (case.tokens + 1), features, hooks=case.hooks)


def plain_step(trainer: Trainer, adapter: np.ndarray) -> np.ndarray:
    """The same rows without privacy: one summed gradient by autograd, as a flat vector."""
    set_flat(trainer.model, adapter)
    rows = [[row] for row in range(len(trainer.examples))]
    # The same tiles as the private step's, but for what fills them: every row has one shape here.
    losses = [
        trainer._losses([row for _, row in tile], shape)[: len(tile)] for shape, tile in tiles(rows, trainer._shapes)
    ]
    gradients = torch.autograd.grad(torch.cat(losses).sum(), list(parameters_of(trainer.model).values()))
    flat: np.ndarray = torch.cat([gradient.reshape(-1) for gradient in gradients]).cpu().numpy()
    return flat


def measure(case: Case, repetitions: int) -> dict[str, Any]:
    """Both steps in turns, after one of each to warm up."""
    cuda = case.device == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(case, Path(folder))
        adapter = initial(trainer.schema, 1)
        steps: list[tuple[str, Callable[[], object]]] = [
            ("private", lambda: trainer.private_sum(adapter, TERMS, SeededRandomness(0))),
            ("plain", lambda: plain_step(trainer, adapter)),
        ]
        spent: dict[str, list[float]] = {"private": [], "plain": []}
        peaks = {"private": 0, "plain": 0}
        for repetition in range(repetitions + 1):
            for name, step in steps if repetition % 2 else steps[::-1]:
                if cuda:
                    torch.cuda.synchronize()
                    torch.cuda.reset_peak_memory_stats()
                start = clock()
                step()  # ends with a copy to the CPU, so nothing is left in flight
                if repetition:
                    spent[name].append(clock() - start)
                peaks[name] = max(peaks[name], torch.cuda.max_memory_allocated() if cuda else 0)
    ratios = [one / other for one, other in zip(spent["private"], spent["plain"], strict=True)]
    found = {"batch": case.batch, "tokens": case.tokens, "targets": case.targets, "path": case.path}
    found |= {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    found |= {f"{name}_s": statistics.median(seconds) for name, seconds in spent.items()}
    found |= {"device": case.device, "parameters": trainer.schema.dimension, "repetitions": repetitions}
    return found | ({"peak_memory_ratio": peaks["private"] / peaks["plain"]} if cuda else {})


def show(found: dict[str, Any]) -> None:
    """One line of the table."""
    memory = f"{found['peak_memory_ratio']:>8.2f}" if "peak_memory_ratio" in found else ""
    print(
        f"{found['device']:6}{found['path']:26}{found['batch']:>4} x{found['tokens']:<5}{found['targets']:12}"
        f"{found['private_s']:>10.3f}{found['plain_s']:>10.3f}{found['ratio']:>8.3f}"
        f"{found['ratio_min']:>8.3f}{found['ratio_max']:>8.3f}{memory}"
    )
    sys.stdout.flush()


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="6 layers, batch 8, three repetitions")
    parser.add_argument("--hooks", action="store_true", help="Opacus' hooks as well")
    parser.add_argument("--cached", action="store_true", help="the last 4 layers over cached hidden states as well")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    parser.add_argument("--repetitions", type=int, default=None)
    arguments = parser.parse_args()
    repetitions = arguments.repetitions or (3 if arguments.quick else 7)
    torch.set_num_threads(1)
    if not torch.cuda.is_available():
        print("no CUDA here: the GPU's part is skipped", file=sys.stderr)
    if not arguments.json:
        print(f"{'':6}{'path':26}{'batch':>11} {'targets':12}{'private s':>9}{'plain s':>10}{'ratio':>8}  min and max")
    results = []
    for case in cases(arguments):
        results.append(measure(case, repetitions))
        if not arguments.json:
            show(results[-1])
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
