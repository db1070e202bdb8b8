"""What it costs that a unit's gradient follows from the unit alone: tiles of fixed shapes over batches of neighbors.

The step of the product passes rows through the model in tiles whose shape follows from each row (`training/tiles.py`).
The other one, kept here as it was, packs units of similar length into physical batches that are padded to their longest
row and holds nothing but rows in them; a unit's neighbors then change its last bits, which an adversary can blow up.
Both run over the same rows at the same adapter, in turns, in one process. The model has the shape of SmolLM2-135M and
random weights. Reported are CPU seconds (medians) and the median of the ratios of neighboring steps.

    python benchmarks/fixed_shapes.py [--quick] [--json] [--repetitions N] [--threads N]
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cotune.data.template import Example
from cotune.data.units import Units
from cotune.privacy.clipping import clip
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import PrivacyTerms, encode_metrics
from cotune.training.adapter import LoraSettings, initial, set_flat
from cotune.training.base import BaseModel
from cotune.training.features import Features
from cotune.training.forward import FullForward, TopForward
from cotune.training.layers import decoder_layers, head_logits
from cotune.training.tiles import Shape
from cotune.training.trainer import Trainer
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 49152
TERMS = PrivacyTerms(True, "unit", 8.0, 1e-5, 1.0, 1.0, 1.0, 4, 10.0, 0.1)
SMOLLM2 = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}


@dataclass(frozen=True)
class Case:
    """One line of the table.

    Attributes:
        name: of the line. units: how many. top: layers trained over cached states, 0 for all without.
        layers: of the model. tokens: the most in a physical batch. demo: rows as the demo's; else 128 tokens, 32 of
            them the answer, one row a unit.
    """

    name: str
    units: int
    top: int
    layers: int
    tokens: int
    demo: bool


CASES = (
    Case("demo's rows, cached top 1 layer", 200, 1, 30, 4096, True),
    Case("8 x 128, all layers", 8, 0, 30, 8 * 129, False),
    Case("32 x 128, all layers", 32, 0, 30, 32 * 129, False),
)


def trainer_of(case: Case, folder: Path) -> Trainer:
    """Random weights and rows; the layers below the cached ones are left out, since no step runs them."""
    torch.manual_seed(0)
    layers = case.top + 1 if case.top else case.layers
    config = LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, num_hidden_layers=layers, **SMOLLM2)
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    base = BaseModel(model, None, "random", "none", "random weights")  # type: ignore[arg-type]
    rows, units = data(case)
    lora = LoraSettings(8, 16.0, ("all-linear",), False, case.top)
    return Trainer(base, lora, rows, units, case.tokens, folder if case.top else None)


def data(case: Case) -> tuple[list[Example], Units]:
    """The demo's rows have 110 to 143 tokens and answers of 2, now and then 3; most units have one, some 2 to 4."""
    generator = np.random.default_rng(0)
    rows, owned = [], []
    for unit in range(case.units):
        count = int(generator.choice([1, 2, 3, 4], p=[0.6, 0.19, 0.08, 0.13])) if case.demo else 1
        owned.append(tuple(range(len(rows), len(rows) + count)))
        for _ in range(count):
            length = int(np.clip(generator.normal(118, 5), 110, 143)) if case.demo else 129
            answer = int(generator.choice([2, 3], p=[0.87, 0.13])) if case.demo else 32
            tokens = generator.integers(3, VOCABULARY, length, dtype=np.int32)
            rows.append(Example(tokens, length - answer, str(unit), ""))
    return rows, Units(tuple(map(str, range(case.units))), tuple(owned))


class Neighbors:
    """A clipped sum over physical batches that are padded to their longest row, as it was."""

    def __init__(self, trainer: Trainer, tokens: int) -> None:
        self.trainer = trainer
        self.tokens = tokens
        self.model: Any = trainer.base.model
        self.states: Features | None = trainer._losses._states  # type: ignore[assignment]
        self.forward = FullForward(self.model)
        layer = min(trainer.schema.layers)
        self.top = TopForward(self.model, layer) if self.states is not None else None

    def __call__(self, adapter: np.ndarray) -> np.ndarray:
        """The sum, float64 [d + 3]."""
        trainer = self.trainer
        set_flat(trainer.model, adapter)
        total = np.zeros(trainer.schema.dimension + 3)
        for units in self.batches():
            rows = [row for unit in units for row in trainer.units.rows[unit]]
            sizes = torch.tensor([len(trainer.units.rows[unit]) for unit in units])
            owners = torch.repeat_interleave(torch.arange(len(units)), sizes)
            gradients, losses = trainer._way.gradients.of(lambda rows=rows: self.losses(rows))  # type: ignore[misc]
            if len(rows) > len(units):
                means = torch.zeros(len(units), gradients.shape[1]).index_add_(0, owners, gradients)
                gradients = means / sizes[:, None]
                losses = torch.zeros(len(units)).index_add_(0, owners, losses) / sizes
            clipping = clip(torch.linalg.vector_norm(gradients, dim=1).numpy(), TERMS.max_grad_norm)
            total[:-3] += (torch.from_numpy(clipping.coefficients).float() @ gradients).numpy()
            total[-3:] += encode_metrics(losses.double().numpy(), clipping.clipped, TERMS).sum(axis=0)
        return total

    def batches(self) -> list[list[int]]:
        """Units of similar length, longest first."""
        rows = self.trainer.units.rows
        longest = [max(len(self.trainer.examples[row].tokens) for row in unit) for unit in rows]
        batches: list[list[int]] = []
        held = 0
        for unit in sorted(range(len(rows)), key=lambda unit: (-longest[unit], unit)):
            held += len(rows[unit])
            if not batches or held * longest[batches[-1][0]] > self.tokens:
                batches.append([])
                held = len(rows[unit])
            batches[-1].append(unit)
        return batches

    def losses(self, rows: Sequence[int]) -> torch.Tensor:
        """[B]; only the answers' tokens pass through the head."""
        examples = [self.trainer.examples[row] for row in rows]
        counts = np.array([len(one.tokens) - one.answer_start for one in examples])
        shape = Shape(max(len(one.tokens) for one in examples) - 1, int(counts.max()), len(rows))
        owner = torch.from_numpy(np.repeat(np.arange(len(rows)), counts))
        places = [np.arange(one.answer_start - 1, len(one.tokens) - 1) for one in examples]
        position = torch.from_numpy(np.concatenate(places))
        targets = np.concatenate([one.tokens[one.answer_start :] for one in examples]).astype(np.int64)
        with self.narrow(owner, position, counts, shape):
            if self.top is not None and self.states is not None:
                hidden = self.top(self.states.tile(rows, shape, torch.device("cpu")))
            else:
                inputs = torch.zeros(len(rows), shape.positions, dtype=torch.int64)
                for place, one in enumerate(examples):
                    inputs[place, : len(one.tokens) - 1] = torch.from_numpy(one.tokens[:-1].astype(np.int64))
                hidden = self.forward(inputs)
        logits = head_logits(self.model, hidden[owner, position]).float()
        found = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets), reduction="none")
        return torch.zeros(len(rows)).index_add(0, owner, found) / torch.from_numpy(counts)

    @contextmanager
    def narrow(self, owner: torch.Tensor, position: torch.Tensor, counts: np.ndarray, shape: Shape) -> Iterator[None]:
        """The last layer's MLP at the answers only, and no other part of it."""
        place = torch.from_numpy(np.concatenate([np.arange(count) for count in counts]))
        gathered = torch.zeros(shape.rows, shape.slots, dtype=torch.int64)
        gathered[owner, place] = position

        def before(_module: Any, args: Any) -> Any:
            return (args[0].gather(1, gathered[:, :, None].expand(-1, -1, args[0].shape[2])), *args[1:])

        def after(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
            wide = output.new_zeros(shape.rows, shape.positions, output.shape[2])
            return wide.index_put((owner, position), output[owner, place])

        mlp: Any = decoder_layers(self.model)[-1].mlp
        handles = [mlp.register_forward_pre_hook(before), mlp.register_forward_hook(after)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def measure(case: Case, repetitions: int) -> dict[str, Any]:
    """Both steps in turns, after one of each to warm up."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        trainer = trainer_of(case, Path(folder))
        began = time.process_time() - start
        adapter, everybody = initial(trainer.schema, 1), range(case.units)
        neighbors = Neighbors(trainer, case.tokens)
        steps = {
            "fixed": lambda: trainer.clipped_sum(adapter, everybody, TERMS, SeededRandomness(0)),
            "neighbors": lambda: neighbors(adapter),
        }
        spent: dict[str, list[float]] = {name: [] for name in steps}
        sums = {}
        for repetition in range(repetitions + 1):
            for name in steps if repetition % 2 else reversed(steps):
                start = time.process_time()
                sums[name] = steps[name]()
                if repetition:
                    spent[name].append(time.process_time() - start)
    difference = np.linalg.norm(sums["fixed"] - sums["neighbors"]) / np.linalg.norm(sums["fixed"])
    if not difference < 1e-3:
        raise SystemExit(f"the two steps differ by {difference:.1e}")
    ratios = [one / other for one, other in zip(spent["fixed"], spent["neighbors"], strict=True)]
    found = {"case": case.name, "units": case.units, "rows": len(trainer.examples), "way": trainer.way}
    found |= {f"{name}_s": statistics.median(seconds) for name, seconds in spent.items()}
    found |= {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    return found | {"start_s": began, "difference": float(difference), "repetitions": repetitions}


def main() -> None:
    """Run the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two layers, two repetitions")
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    parser.add_argument("--repetitions", type=int, default=None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.json:
        print(f"{'':34}{'rows':>6}{'fixed s':>10}{'neighbors s':>13}{'ratio':>8}  min and max, start s")
    results = []
    for case in CASES:
        if arguments.only not in case.name:
            continue
        if arguments.quick:
            case = Case(case.name, case.units // 4, case.top, 2, case.tokens, case.demo)
        results.append(measure(case, arguments.repetitions or (2 if arguments.quick else 7)))
        if not arguments.json:
            one = results[-1]
            print(
                f"{one['case']:34}{one['rows']:>6}{one['fixed_s']:>10.3f}{one['neighbors_s']:>13.3f}{one['ratio']:>8.3f}"
                f"{one['ratio_min']:>8.3f}{one['ratio_max']:>8.3f}{one['start_s']:>8.1f}"
            )
            sys.stdout.flush()
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
