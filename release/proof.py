"""A release is loaded as its readers will load it, by plain PEFT, and answers as the model that was trained.

What cotune trains and what PEFT makes of two files are different programs: one names layers, scales and lays out
matrices as the other expects, or the release is another model without an error.
"""

import warnings
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import nn

from ..adapter.peft_files import LoraSettings
from ..errors import UserError, first_line
from ..training.adapter import attach, detach, set_flat, untouched
from ..training.base import BaseModel

_ROWS, _LENGTH = 6, 8  # no model here has fewer positions
_OF_THE_ADAPTER: Final = 0.002
"""What may be lost of what the adapter moves logits by."""

_ALIKE: Final = 0.75
"""Share of the positions that must hold: where experts are chosen, rounding may choose others at a few."""

_ROUNDING: Final = {torch.float32: 1e-4, torch.bfloat16: 5e-3}
"""What rounding may move logits by, relative to their length: products are taken in another order."""


def require_same_model(folder: Path, base: BaseModel, lora: LoraSettings, adapter: NDArray[np.float32]) -> None:
    """Load the release in `folder` by PEFT, and compare its logits on random tokens with those of what was trained.

    Args:
        folder: with the files that PEFT reads.
        base: the base model; it carries no adapter afterwards.
        lora: of what was trained, in its own form. adapter: float32 [d].

    Raises:
        UserError: PEFT cannot load it, or makes another model of it.
    """
    model = attach(base, lora)
    set_flat(model, untouched(model))
    bare = _logits(model, base)
    set_flat(model, adapter)
    trained = _logits(model, base)
    detach(base)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PEFT warns of shows in the logits, or does not matter
            loaded = PeftModel.from_pretrained(base.model, folder)
    except Exception as error:  # whatever it raises, nobody could load this release
        raise _refused(f"PEFT cannot load it ({first_line(error)})") from error
    found = _logits(loaded.eval(), base)
    loaded.unload()
    moved, lost = (trained - bare).norm(dim=-1), (found - trained).norm(dim=-1)
    alike = lost <= _OF_THE_ADAPTER * moved + _ROUNDING[base.model.dtype] * trained.norm(dim=-1)
    if not alike.double().mean() >= _ALIKE:
        raise _refused(
            f"loaded by PEFT its logits differ by {float(lost.mean()):.3g}, where the adapter moves them by "
            f"{float(moved.mean()):.3g}"
        )


def _logits(model: nn.Module, base: BaseModel) -> torch.Tensor:
    words = int(base.model.get_input_embeddings().weight.shape[0])
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, words, (_ROWS, _LENGTH)))
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=tokens.to(base.model.device)).logits
    return found.double()


def _refused(what: str) -> UserError:
    return UserError(
        f"the release is not the model that was trained: {what}",
        "install the versions of peft and transformers in constraints.txt, or name model.lora.targets one by one",
    )
