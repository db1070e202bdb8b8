"""A contribution between its charge and its sum, and how it lies on disk."""

import io
import json
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np


@dataclass(frozen=True)
class Pending:
    """A contribution that was trained and noised and not yet summed.

    Attributes:
        run, round: where it belongs. attempt: the one that it was charged for; later ones send it again.
        model_hash: of base, tokenizer and adapter that it was computed from, hex.
        charter: `Charter.schema_hash` of the charter that it was made and charged under, hex.
        contribution: float64 [dimension + metrics].
    """

    run: str
    round: int
    attempt: int
    model_hash: str
    charter: str
    contribution: np.ndarray = field(repr=False)

    def encoded(self) -> bytes:
        """NPZ, without pickles."""
        about = {name: getattr(self, name) for name in ("run", "round", "attempt", "model_hash", "charter")}
        content = io.BytesIO()
        np.savez(content, about=np.array(json.dumps(about)), contribution=self.contribution)
        return content.getvalue()

    @classmethod
    def read(cls, file: BinaryIO) -> "Pending":
        """The inverse. Raises ValueError, TypeError, KeyError, EOFError or BadZipFile where it is another file."""
        with np.load(file, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            return cls(**about, contribution=arrays["contribution"])
