"""What an adapter takes from the rest of the language: how likely neutral text is before and after.

`neutral.txt` holds openings of works in the public domain: Lincoln's Gettysburg Address (1863), Carroll's Alice's
Adventures in Wonderland (1865), Darwin's On the Origin of Species (1859), Austen's Pride and Prejudice (1813) and
Melville's Moby-Dick (1851), with plain quotation marks. Every base model has read them, so the level says little; what
counts is the difference. Text of one kind and one language is a spot check, not a proof that nothing was forgotten.
"""

from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from pydantic import ConfigDict, Field

from ..training.adapter import set_flat, untouched
from ..training.base import BaseModel
from ..training.forward import FullForward

_WINDOW: Final = 256
"""Tokens that are read at once, each window by itself."""


@dataclass(frozen=True)
class Forgetting:
    """Mean negative log likelihood of neutral text.

    Attributes:
        base, tuned: nats a token, of the base model and with the adapter.
        tokens: that were predicted.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    base: Annotated[float, Field(ge=0.0)]
    tuned: Annotated[float, Field(ge=0.0)]
    tokens: Annotated[int, Field(ge=1)]


def neutral_text() -> str:
    """About a thousand words of English prose."""
    return files(__package__).joinpath("neutral.txt").read_text(encoding="utf-8")


def forgetting(base: BaseModel, model: PeftModel, adapter: NDArray[np.float32]) -> Forgetting:
    """Read the neutral text with the base model and with an adapter.

    Args:
        base: that `model` is attached to. adapter: float32 [d]; it stays set.
    """
    windows = _windows(base)
    set_flat(model, untouched(model))
    before = _nll(base, windows)
    set_flat(model, adapter)
    tokens = sum(len(window) - 1 for window in windows)
    return Forgetting(before / tokens, _nll(base, windows) / tokens, tokens)


def _windows(base: BaseModel) -> list[torch.Tensor]:
    """Token ids [T], at least two in each: a window's first token is read and not predicted."""
    limit = getattr(base.model.config, "max_position_embeddings", None) or _WINDOW
    ids = torch.tensor(base.tokenizer(neutral_text(), add_special_tokens=False)["input_ids"])
    return [window for window in torch.split(ids, min(_WINDOW, int(limit))) if len(window) > 1]


@torch.no_grad()
def _nll(base: BaseModel, windows: list[torch.Tensor]) -> float:
    """Summed over predicted tokens, in nats."""
    forward, total = FullForward(base.model), 0.0
    for window in windows:
        ids = window.to(base.model.device)
        logs = forward.head(forward(ids[None])[0, :-1]).float().log_softmax(dim=-1)
        total -= float(logs.gather(1, ids[1:, None]).double().sum())
    return total
