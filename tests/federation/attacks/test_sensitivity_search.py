"""A search for an adapter at which one unit moves a member's sum by more than was agreed, or moves others' parts.

The sums come from the trainers that two members work with, one of which holds the unit and one of which does not: other
tiles, other groups, another process of construction. The search climbs: whatever comes nearest is changed further.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from cotune.adapter.schema import AdapterSchema
from cotune.privacy.sampling import SeededRandomness
from cotune.training import clipped
from cotune.training.company import adapters
from numpy.typing import NDArray

WITH, WITHOUT = 0, 1
Adapter = NDArray[np.float32]
# Up to where float32 overflows in a product of two matrices, and beyond.
SCALES = (1e-30, 1e-6, 1e-2, 0.3, 3.0, 30.0, 1e4, 1e8, 1e13, 1e19, 1e30)
LONG = {
    "prompt": " ".join(f"word{3 + number % 40}" for number in range(40)),
    "answer": "word46 word5",
    "unit": "target",
}


@dataclass(frozen=True)
class Moved:
    """What one unit does at an adapter.

    Attributes:
        whole: the L2 norm of its change of the sum, over the agreed sensitivity.
        gradient: of its change of the gradient, over the clip norm.
        others: by how much anybody else's part changes in the L2 norm; and whether the member without the unit adds
            other numbers for the very same units.
    """

    whole: float
    gradient: float
    others: float


def moved(hostile: Any, adapter: Adapter) -> Moved:
    """Three sums at an adapter."""
    terms = hostile.federation.charter.privacy
    inside, outside = hostile.trainer(WITH), hostile.trainer(WITHOUT)
    count = len(outside.units.ids)

    def total(trainer: Any, units: Any) -> NDArray[np.float64]:
        return trainer.clipped_sum(adapter, units, terms, SeededRandomness(0))

    everything, without = total(inside, range(count + 1)), total(outside, range(count))
    alone = total(inside, [count])
    assert np.isfinite(everything).all()
    change = everything - without
    others = float(np.linalg.norm(everything - alone - without))
    ratio = float(np.linalg.norm(change)) / terms.sensitivity
    return Moved(ratio, float(np.linalg.norm(change[:-3])) / terms.max_grad_norm, others)


def begun(schema: AdapterSchema, generator: np.random.Generator) -> Iterator[Adapter]:
    """Where the search begins: the adapters of the check at start, ordinary ones, and extreme ones."""
    yield from adapters(schema)
    for scale in SCALES:
        yield (scale * generator.standard_normal(schema.dimension)).astype(np.float32)


def changed(adapter: Adapter, schema: AdapterSchema, generator: np.random.Generator) -> Adapter:
    """A neighbor: a few of its matrices are scaled, replaced, made of rank one, moved a little or set to zero."""
    new = adapter.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for matrix in schema.split(new).values():
            way = generator.integers(12)
            if way == 0:
                matrix *= np.float32(10.0 ** generator.normal(0, 3))
            elif way == 1:
                matrix[...] = generator.choice(SCALES) * generator.standard_normal(matrix.shape)
            elif way == 2:
                matrix[...] = matrix[:1]
            elif way == 3:
                matrix[...] = 0.0
            elif way == 4:
                matrix += np.float32(np.abs(matrix).max()) * generator.standard_normal(matrix.shape).astype(np.float32)
            elif way == 5:
                matrix[generator.integers(len(matrix))] *= np.float32(-1)
    return np.nan_to_num(new, nan=0.0, posinf=3e38, neginf=-3e38)


def climb(hostile: Any, steps: int, seed: int) -> Moved:
    """The farthest that a search over so many adapters gets, in each respect."""
    generator = np.random.default_rng(seed)
    schema = hostile.trainer(WITH).schema
    pool = [(moved(hostile, adapter), adapter) for adapter in begun(schema, generator)]
    for _ in range(steps):
        # What to climb changes from step to step; ties are broken towards the newest.
        goal = generator.choice(["whole", "gradient", "others"])
        pool.sort(key=lambda one: getattr(one[0], goal), reverse=True)
        _, parent = pool[min(int(generator.exponential(2.0)), len(pool) - 1)]
        adapter = changed(parent, schema, generator)
        pool.insert(0, (moved(hostile, adapter), adapter))
    found = [one for one, _ in pool]
    return Moved(*(max(getattr(one, name) for one in found) for name in ("whole", "gradient", "others")))


KINDS = [(f, d, c) for f in ("llama", "qwen3", "gpt2") for d in ("float32", "bfloat16") for c in (False, True)]
FAST = [("llama", "float32", False), ("gpt2", "bfloat16", True)]


@pytest.mark.parametrize(
    ("forest", "steps"),
    [*((kind, 15) for kind in FAST), *(pytest.param(kind, 30, marks=pytest.mark.slow) for kind in KINDS)],
    indirect=["forest"],
)
@pytest.mark.parametrize("target", [None, LONG], ids=["short", "long"])
def test_no_adapter_makes_a_unit_count_for_more(
    worlds: Callable[..., Any], steps: int, target: dict[str, str] | None
) -> None:
    hostile = worlds(2, context=64, **({} if target is None else {"target": target}))
    found = climb(hostile, steps, seed=steps)
    assert found.others == 0.0
    assert found.gradient <= 1.0
    assert found.whole <= 1.0
    # The search does press against the bound: what is left of it is the slack for what float32 may lose.
    assert found.gradient > 0.9999


def test_the_search_finds_a_clip_norm_that_is_a_thousandth_too_large(
    worlds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clipped, "NORM_SLACK", -1e-3)
    found = climb(worlds(2), 5, seed=1)
    assert found.gradient > 1.0
    assert found.others == 0.0


def test_the_search_finds_parts_that_depend_on_company(
    worlds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the sum is added up in float32 one after the other, as it once was."""
    hostile = worlds(2)
    original = type(hostile.trainer(WITH))._unit_gradients

    def relative(self: Any, units: Any) -> Any:
        gradients, losses = original(self, units)
        return gradients * (1 + 1e-7 * len(units)), losses

    monkeypatch.setattr(type(hostile.trainer(WITH)), "_unit_gradients", relative)
    assert climb(hostile, 5, seed=1).others > 0.0
