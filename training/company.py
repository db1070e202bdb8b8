"""Is a row's gradient a function of that row? Asked of the machine at hand, before any budget is spent.

Nothing in IEEE arithmetic promises that the rows of a tile are computed alike, whatever stands beside them: it is a
habit of the libraries, which `tiles` gives every chance to. Whoever picks the adapter would pick one at which the
difference matters, so the question is asked at adapters of that kind.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from .schema import AdapterSchema

_SPREAD: Final = 12.0
_HUGE: Final = 1e4  # squared by the two matrices of a map


def adapters(schema: AdapterSchema) -> Iterator[NDArray[np.float32]]:
    """Adapters float32 [d] at which roundings show: ordinary, spread wide, and huge of rank one in one map."""
    generator = np.random.default_rng(0)
    for spread in (0.02, _SPREAD):
        yield (spread * generator.standard_normal(schema.dimension)).astype(np.float32)
    modules = list(dict.fromkeys(name.rsplit(".lora_", 1)[0] for name in schema.names))
    attention = next((name for part in ("k_proj", "q_proj", "attn") for name in modules if part in name), modules[0])
    for module in dict.fromkeys((attention, modules[-1])):
        huge = np.zeros(schema.dimension, dtype=np.float32)
        for name, matrix in schema.split(huge).items():
            if name.rsplit(".lora_", 1)[0] == module:
                line = matrix[0] if ".lora_A" in name else matrix[:, 0]
                line[:] = _HUGE * generator.standard_normal(len(line))
        yield huge


def in_company(means: Callable[[Sequence[int]], tuple[torch.Tensor, torch.Tensor]], rows: Sequence[int]) -> bool:
    """Whether the first row has the same bits alone and among others, in the first, the last and a middle place.

    Args:
        means: rows, each a unit, to their gradients float32 [U, d] and losses [U].
        rows: of one shape, one more than its tile holds.
    """
    one, *others = rows
    places = len(others)
    middle = places // 2
    company = [one, *others[: middle - 1], one, *others[middle : places - 2], one]

    def bits(units: Sequence[int]) -> list[torch.Tensor]:
        mine = [place for place, unit in enumerate(units) if unit == one]
        return [found[mine].clone() for found in means(units)]

    alone = bits([one])
    among = (bits(company), bits([others[-1], one]))
    return all(_equal(found, expected) for each in among for found, expected in zip(each, alone, strict=True))


def _equal(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """A NaN equals every NaN: such a row is dropped."""
    return bool(((found == expected) | (found.isnan() & expected.isnan())).all())
