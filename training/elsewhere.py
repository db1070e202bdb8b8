"""What a map's inputs are where nobody asks for the task's answers: directions that an adapter should leave alone.

An adapter that looks along a direction in which the inputs of other text are long moves the answers' tokens there too,
and takes from the language what it was not asked to change. `prose.txt` holds passages in the public domain (Jefferson
1776, Dickens 1859, Doyle 1891, Genesis in the King James version, Shelley 1818, Cervantes 1605, Proust 1913, Caesar,
Goethe 1782) and plain text of our own: prose, dialogue, lists, code, figures. `evaluation/neutral.txt`, by which the
damage is measured, shares no work with it.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from .base import BaseModel
from .public_rows import watched
from .tiles import Row

_WINDOW: Final = 256
"""Tokens of prose that are read at once."""
_PROMPTS: Final = 32
"""Public rows whose prompts are read."""


def prose() -> str:
    """Some thousand words."""
    return files(__package__).joinpath("prose.txt").read_text(encoding="utf-8")


@torch.no_grad()
def elsewhere(base: BaseModel, maps: Mapping[str, nn.Module], rows: Sequence[Row]) -> dict[str, NDArray[np.float64]]:
    """Directions of every map's inputs on prose and within prompts, float64 [n, in] of norm 1.

    The first position of a text is left out: models store there what they attend to when nothing else matters, in
    activations that no other position has.

    Args:
        base: without an adapter. maps: by path. rows: public ones; the first of them are read up to their answers.
    """
    seen: dict[str, list[torch.Tensor]] = {path: [] for path in maps}
    for tokens in _texts(base, rows):
        with watched(maps) as (entered, _):
            base.model(input_ids=tokens[None].to(base.model.device), use_cache=False)
        for path in maps:
            seen[path].append(entered[path][0, 1:].double().cpu())
    found = {path: torch.cat(parts).numpy() for path, parts in seen.items()}
    return {path: _of_norm_1(inputs) for path, inputs in found.items()}


def _of_norm_1(inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows without any length are left out."""
    lengths = np.linalg.norm(inputs, axis=1, keepdims=True)
    there = lengths[:, 0] > 0
    found: NDArray[np.float64] = inputs[there] / lengths[there]
    return found


def _texts(base: BaseModel, rows: Sequence[Row]) -> list[torch.Tensor]:
    """Token ids [T], each of two or more."""
    limit = getattr(base.model.config, "max_position_embeddings", None) or _WINDOW
    ids = torch.tensor(base.tokenizer(prose(), add_special_tokens=False)["input_ids"], dtype=torch.int64)
    texts = list(torch.split(ids, min(_WINDOW, int(limit))))
    texts += [torch.from_numpy(row.tokens[: row.answer_start - 1].astype(np.int64)) for row in rows[:_PROMPTS]]
    return [text for text in texts if len(text) > 1]
