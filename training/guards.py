"""Did it really train: a step that spends budget but changes nothing is a known failure (opacus#820, peft#3409)."""

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .base import BaseModel


class NotFiniteError(UserError):
    """A vector holds NaN or an infinity."""


class NotMovedError(UserError):
    """Training changed nothing, though it was meant to."""


class WrongModelError(UserError):
    """The base model or the tokenizer is not the one that was agreed on."""


def check_finite(vector: NDArray[np.floating], what: str) -> None:
    """Refuse a vector with NaN or infinities.

    Raises:
        NotFiniteError: naming `what`.
    """
    if not np.isfinite(vector).all():
        raise NotFiniteError(f"{what} holds numbers that are not finite", "lower the learning rate")


def check_moved(before: NDArray[np.floating], after: NDArray[np.floating], what: str) -> None:
    """Refuse a result that equals what it started from.

    Raises:
        NotMovedError: naming `what`.
    """
    if np.array_equal(before, after):
        raise NotMovedError(f"{what} did not change", "check that its LoRA targets are used by the model")


def check_digests(base: BaseModel, base_digest: str, tokenizer_digest: str) -> None:
    """Refuse a model or tokenizer other than the agreed one.

    Raises:
        WrongModelError: naming which of both differs.
    """
    for what, found, agreed in (
        ("base model", base.digest, base_digest),
        ("tokenizer", base.tokenizer_digest, tokenizer_digest),
    ):
        if found != agreed:
            raise WrongModelError(
                f"the {what} {base.name} has the digest {found[:16]}..., the charter says {agreed[:16]}...",
                "load the model that the charter names",
            )
