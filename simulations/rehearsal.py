"""A federation's rounds without the protocol: every organization's own steps and noise, their sum, the server's step.

What differs from a run is that nobody masks, encodes or audits anything, so that numbers are not rounded to the lanes.
Each organization samples its own units, takes its own private steps and adds its own noise, so that rules with several
steps at home are trained as they are, and noise that is shared is what every organization's share adds up to.
"""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..adapter.part import Part
from ..adapter.schema import initial
from ..privacy.mechanism import noised
from ..privacy.sampling import Randomness, SystemRandomness, poisson_sample
from ..privacy.terms import METRICS, PrivacyTerms, decode_metrics
from ..server.exchange import Interrupted
from ..strategies.base import Adapter, Strategy, split
from ..strategies.paid import contribute
from ..training.trainer import Trainer


class AtHome:
    """One organization's units of a trainer that holds everybody's: what a strategy drives at home.

    Attributes:
        releases: how many noised sums it has given away. schema: names and shapes of what is trained.
    """

    def __init__(self, trainer: Trainer, units: Sequence[int]) -> None:
        """
        Args:
            units: positions in the trainer's units.
        """
        self.releases = 0
        self.schema = trainer.schema
        self._trainer, self._units = trainer, units

    def private_sum(
        self, adapter: NDArray[np.float32], terms: PrivacyTerms, randomness: Randomness, part: Part | None = None
    ) -> NDArray[np.float64]:
        """As `Trainer.private_sum`, of these units alone."""
        self.releases += 1
        sample = [self._units[int(place)] for place in poisson_sample(len(self._units), terms.sample_rate, randomness)]
        total = self._trainer.clipped_sum(adapter, sample, terms, randomness, part)
        return noised(total, terms) if terms.enabled else total


def at_home(trainer: Trainer, rows: Mapping[str, int]) -> dict[str, AtHome]:
    """Every organization's units, by its name.

    Args:
        trainer: of the records of all, one organization after the other; no two share a unit.
        rows: how many each has, in that order.
    """
    ends = np.cumsum(list(rows.values()))
    owners = np.searchsorted(ends, [unit[0] for unit in trainer.units.rows], side="right")
    return {
        name: AtHome(trainer, np.flatnonzero(owners == number).tolist()) for number, name in enumerate(rows)
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rehearsed:
    """What came out.

    Attributes:
        adapter: float32 [d], as it would be released.
        finite: whether it is, and the model gave numbers with it wherever it was scored; else training stopped there.
        curve: (round, what `score` gave).
        sent: coordinates that one organization sent in all rounds, without metrics.
        releases: noised sums that an organization gave away, the most of any.
        clipped: share of the units' gradients that were clipped, as the noised metrics have it; None: lost in noise.
    """

    adapter: Adapter
    finite: bool
    curve: tuple[tuple[int, float], ...]
    sent: int
    releases: int
    clipped: float | None


def rehearse(
    strategy: Strategy,
    homes: Mapping[str, AtHome],
    agreed: PrivacyTerms,
    units: Mapping[str, int],
    rounds: int,
    seed: int,
    after_round: Callable[[], None],
    stop: threading.Event,
    score: Callable[[Adapter], float | None] | None = None,
    every: int = 1,
) -> Rehearsed:
    """Train as a federation does whose members all stay.

    Args:
        homes: every organization's, of one trainer. agreed: the terms. units: that each organization declares.
        seed: of the first adapter. after_round: called after each round.
        score: called with the released adapter after every `every`-th round and after the last one; None ends it.

    Raises:
        Interrupted: `stop` was set.
    """
    schema = next(iter(homes.values())).schema
    adapter, state = initial(schema, seed), strategy.start(schema.dimension)
    before = {name: home.releases for name, home in homes.items()}
    batches = {name: agreed.sample_rate * units[name] for name in homes}
    curve: list[tuple[int, float]] = []
    sent, finite, metrics, randomness = 0, True, np.zeros(len(METRICS)), SystemRandomness()
    for number in range(1, rounds + 1):
        if stop.is_set():
            raise Interrupted
        part = strategy.trained(schema, number - 1)
        total = np.zeros(part.size)
        for name, home in homes.items():
            gradient, measured = split(contribute(home, strategy, adapter, part, agreed, batches[name], randomness))
            total, metrics = total + gradient, metrics + measured
        with np.errstate(over="ignore", invalid="ignore"):
            adapter, state = strategy.apply(adapter, state, part, total, sum(batches.values()), len(homes))
        sent += part.size
        after_round()
        finite = bool(np.isfinite(adapter).all())
        if finite and score is not None and (number % every == 0 or number == rounds):
            value = score(strategy.published(adapter, state))
            finite = value is not None
            curve += [] if value is None else [(number, value)]
        if not finite:
            break
    last = strategy.published(adapter, state)
    finite = finite and bool(np.isfinite(last).all())
    releases = max(home.releases - before[name] for name, home in homes.items())
    clipped = decode_metrics(metrics, agreed)["clipped"]
    return Rehearsed(last, finite, tuple(curve), sent, releases, clipped if math.isfinite(clipped) else None)
