"""What this node has sent to a run, summed up: a personal adapter is made of it that costs no epsilon.

Each contribution carries all of the node's noise (privacy.trust=nobody) and is charged, so whatever is computed from
them is post-processing. They are noised before they are kept.
"""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ..charter.charter import Charter
from ..secagg.plan import RUN_BYTES
from ..strategies.base import Vector
from ..strategies.derived import schema_of

_DIGEST_BYTES, _ROUND_BYTES, _FLOAT_BYTES = 32, 4, 8
_HEAD: Final = _DIGEST_BYTES + RUN_BYTES + _ROUND_BYTES


@dataclass(frozen=True, eq=False)
class Sent:
    """The noised gradients that a node has contributed to the later rounds of a run.

    Attributes:
        charter, run: where they belong, hex. rounds: which are in it, ascending.
        total: float64 [d], their sum without metrics.
    """

    charter: str
    run: str
    rounds: tuple[int, ...]
    total: Vector = field(repr=False)

    def encode(self) -> bytes:
        """Digest, run, number of rounds, the rounds, then little-endian float64."""
        rounds = b"".join(number.to_bytes(_ROUND_BYTES, "big") for number in (len(self.rounds), *self.rounds))
        return bytes.fromhex(self.charter + self.run) + rounds + np.ascontiguousarray(self.total, dtype="<f8").tobytes()

    @classmethod
    def decode(cls, content: bytes, charter: Charter) -> "Sent":
        """The inverse.

        Raises:
            ValueError: the bytes are not of this charter, or damaged.
        """
        digest, run = content[:_DIGEST_BYTES].hex(), content[_DIGEST_BYTES : _DIGEST_BYTES + RUN_BYTES].hex()
        if digest != charter.digest():
            raise ValueError("of another charter")
        count = int.from_bytes(content[_HEAD - _ROUND_BYTES : _HEAD], "big")
        start, dimension = _HEAD + count * _ROUND_BYTES, schema_of(charter).dimension
        if len(content) != start + dimension * _FLOAT_BYTES:
            raise ValueError(f"{len(content)} bytes")
        rounds = tuple(
            int.from_bytes(content[at : at + _ROUND_BYTES], "big") for at in range(_HEAD, start, _ROUND_BYTES)
        )
        total = np.frombuffer(content, "<f8", dimension, start).astype(np.float64)
        if not np.isfinite(total).all():
            raise ValueError("numbers that are not finite")
        return cls(digest, run, rounds, total)


def with_round(kept: bytes | None, charter: Charter, run: str, number: int, contribution: Vector) -> bytes | None:
    """What is kept once another contribution is made.

    Of a run's first half nothing is: its gradients were taken far from where the run ends. Of a round that is trained
    again the first contribution counts, whichever entered the sum: either is a step along this node's own gradient.

    Args:
        kept: what was, of any run. number: of the round, from 0. contribution: float64 [d, and more behind it].

    Returns:
        None: it stays as it is.
    """
    if number < charter.rounds // 2:
        return None
    before = found(kept, charter, run)
    if number in before.rounds:
        return None
    total = before.total + contribution[: len(before.total)]
    return Sent(before.charter, run, tuple(sorted((*before.rounds, number))), total).encode()


def found(kept: bytes | None, charter: Charter, run: str) -> Sent:
    """What was kept of a run; nothing where the file is of another one, or damaged: it only costs personal accuracy."""
    with suppress(ValueError):
        sent = Sent.decode(kept or b"", charter)
        if sent.run == run:
            return sent
    return Sent(charter.digest(), run, (), np.zeros(schema_of(charter).dimension))
