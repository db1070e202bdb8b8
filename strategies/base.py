"""The interface of a strategy: what an organization sends, and how the sum becomes the next adapter.

A strategy sees vectors and sums. On the organization's side it drives the trainer and returns one contribution; on the
server's side it turns the sum of the survivors' contributions into the next adapter. Nothing between the two ends needs
an individual contribution, which is why secure aggregation can open the sum only.

A round may train a part of the adapter only (FFA-LoRA, RoLoRA): `trained(schema, round)` says which, and gradients are
clipped, noised and sent over this part alone. A core (`adapter/forms.py`) is the whole adapter vector.
Rules that need the individual factors B_i and A_i (FLoRA, FedEx-LoRA) do not fit, on purpose.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..adapter.part import Part
from ..adapter.schema import AdapterSchema
from ..privacy.noise_shares import fitting_units
from ..privacy.sampling import Randomness
from ..privacy.terms import METRICS, PrivacyTerms

# More samples than all members of a run ever draw.
MOST_SAMPLES = 1e9
Vector = NDArray[np.float64]
Adapter = NDArray[np.float32]


class PrivateTrainer(Protocol):
    """The part of `training.Trainer` that a strategy drives."""

    def private_sum(
        self, adapter: Adapter, terms: PrivacyTerms, randomness: Randomness, part: Part | None = None
    ) -> Vector:
        """One Poisson sample's clipped, noised gradient sum and metrics, float64 [k + len(METRICS)].

        Args:
            part: what of the adapter is trained, k coordinates; None: all of it.
        """


@dataclass(frozen=True)
class ServerState:
    """What a server optimizer remembers between rounds.

    Attributes:
        steps: rounds applied so far to each of the parts that the strategy trains by turns; mostly one number.
        moments: named float64 [d] arrays, e.g. "momentum", "second".
    """

    steps: tuple[int, ...]
    moments: dict[str, Vector]


class Strategy(Protocol):
    """One rule of federated training.

    A class of one's own fits where it has all of these; `strategies.own` says how a charter names it. What the product
    asks of a rule is asked of its properties here, never of its name.
    """

    @property
    def one_noised_gradient(self) -> bool:
        """Whether a contribution is what one private step gave, bit by bit, and nothing that was made of it.

        Shared noise, noise on integers and personal steps ask for it. It is checked wherever a contribution is made.
        """

    @property
    def steps_per_round(self) -> int:
        """Private steps that one round spends; what the accountant composes."""

    @property
    def turns(self) -> int:
        """How many parts of the adapter are trained by turns: `trained` repeats itself after so many rounds."""

    def trained(self, schema: AdapterSchema, round_number: int) -> Part:
        """What of the adapter is trained in this round, and sent.

        Raises:
            UserError: the adapter has no such part.
        """

    def reach(self, terms: PrivacyTerms, nominal_batch: float, sigmas: float) -> float:
        """The public bound on one coordinate of a contribution: the clip of the integer encoding.

        A coordinate beyond it is cut and counted, so the bound trades rare cuts against the encoding's resolution.

        Args:
            terms: the charter's privacy terms.
            nominal_batch: a member's sample_rate * nominal_units, in units.
            sigmas: how many standard deviations of the noise must fit.
        """

    def norms(self, terms: PrivacyTerms, units: float, nominal_batch: float) -> tuple[float, float]:
        """What an honest contribution's adapter part is bounded by in the L2 norm: a number, and noise.

        Args:
            terms: the charter's privacy terms. units: the most that one step of this organization samples.
            nominal_batch: its public sample_rate * nominal_units.

        Returns:
            (base, spread): on any k coordinates the norm is at most base plus spread times that of k standard normals,
            or surely at most base plus spread times sqrt(k).
        """

    def local(
        self,
        trainer: PrivateTrainer,
        adapter: Adapter,
        part: Part,
        terms: PrivacyTerms,
        nominal_batch: float,
        randomness: Randomness,
    ) -> Vector:
        """The organization's contribution, float64 [part.size + len(METRICS)], already noised.

        Args:
            trainer: holds the organization's examples.
            adapter: the round's adapter, float32 [d].
            part: what `trained` says of the round.
            terms: the charter's privacy terms.
            nominal_batch: this organization's own public sample_rate * nominal_units.
            randomness: source of the Poisson sample.
        """

    def start(self, dimension: int) -> ServerState:
        """The server's state before the first round."""

    def published(self, adapter: Adapter, state: ServerState) -> Adapter:
        """The adapter that is evaluated and released after a round; the next round trains from the other one."""

    def apply(
        self, adapter: Adapter, state: ServerState, part: Part, total: Vector, nominal_batch: float, survivors: int
    ) -> tuple[Adapter, ServerState]:
        """The next adapter; coordinates outside of the part stay as they are, and so does what is remembered of them.

        Args:
            adapter: the round's adapter, float32 [d].
            state: the state that the last round left.
            part: what `trained` says of the round.
            total: the sum of the survivors' contributions, float64 [part.size], without the metrics.
            nominal_batch: the sum of the survivors' public nominal batches, in units.
            survivors: how many contributions the sum holds.
        """


def step_reach(terms: PrivacyTerms, nominal_batch: float, sigmas: float) -> float:
    """A bound on one coordinate of one private step's sum that is exceeded rarely.

    `sigmas` standard deviations of the noise, and C * sqrt(B) for the signal: B clipped gradients of norm C that point
    the same way and spread over as few as B coordinates reach no further. Where the noise is shared nothing may be cut,
    so every unit of the largest sample counts with C.
    """
    signal = sqrt(max(1.0, nominal_batch)) if terms.shares is None else most_units(terms, nominal_batch)
    return sigmas * terms.noise_std + terms.max_grad_norm * signal


def metrics_reach(terms: PrivacyTerms, nominal_batch: float, sigmas: float, steps: int) -> float:
    """The same for one metric: every unit of a large Poisson sample counts metrics_weight * C, once a step."""
    units = nominal_batch + sigmas * sqrt(nominal_batch) + 1.0
    if terms.shares is not None:
        units = most_units(terms, nominal_batch)
    return steps * (sigmas * terms.noise_std + terms.metrics_weight * terms.max_grad_norm * units)


def most_units(terms: PrivacyTerms, nominal_batch: float) -> float:
    """How many units no sample of a run with shared noise exceeds, but for a chance that no delta notices."""
    return fitting_units(nominal_batch, MOST_SAMPLES, terms.epsilon)


def split(contribution: Vector) -> tuple[Vector, Vector]:
    """The adapter part and the metrics part of a contribution or of a sum."""
    return contribution[: -len(METRICS)], contribution[-len(METRICS) :]
