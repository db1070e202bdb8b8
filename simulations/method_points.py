"""One method at one budget on one deal: trained without the protocol, judged, and its releases counted."""

import hashlib
import json
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..atomic import write_text
from ..conf.methods import Comparison, Method, Tried
from ..conf.schema import Settings
from ..errors import UserError
from ..evaluation.labels import LabelScores
from ..evaluation.not_finite import NotFiniteError
from ..privacy.accounting import epsilon as spent
from ..strategies.base import Adapter
from .bench import Bench
from .progress import Advance
from .tuning import digest_of


@dataclass(frozen=True)
class Place:
    """Which cell of the study a point is of; "experiment=..." and so on as they are typed, `seed` the rows as well."""

    method: str
    tried: str
    rate: float
    experiment: str
    epsilon: str
    seed: str


@dataclass(frozen=True)
class MethodPoint:
    """What one training gave on the common test rows of its deal.

    Attributes:
        place: of the study. digest: of its settings and of the tokens of the loss.
        trust: whose noise counts, see `privacy.noise_shares`.
        dimension: trained coordinates. sent: of an organization in all rounds, without metrics.
        charged: private steps that the noise is calibrated to. releases: noised sums that an organization gave away.
        noise_multiplier: calibrated. spent: epsilon of the releases at delta.
        accuracy: by label, in [0, 1]. exact: share of answers that greedy decoding writes word for word.
        worst: accuracy on the rows of the organization that is served worst. seconds: wall time.
    """

    place: Place
    digest: str
    trust: str
    dimension: int
    sent: int
    rounds: int
    charged: int
    releases: int
    noise_multiplier: float
    spent: float
    delta: float
    accuracy: float
    exact: float
    worst: float
    seconds: float

    @property
    def score(self) -> float:
        """What rates are chosen by: the mean of both, since too high a rate breaks the ends of answers first."""
        return (self.accuracy + self.exact) / 2

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "MethodPoint":
        """The inverse."""
        return cls(**{**fields, "place": Place(**fields["place"])})


class Points:
    """Points of a study, each computed once and kept in its folder."""

    def __init__(self, study: Comparison, folder: Path, advance: Advance, stop: threading.Event) -> None:
        self._study, self._folder = study, folder
        self._advance, self._stop = advance, stop
        self._bench = Bench(folder)
        (folder / "points").mkdir(exist_ok=True)

    def of(
        self, method: Method, tried: Tried, rate: float, experiment: str, epsilon: str, seed: str | None
    ) -> MethodPoint:
        """Found or computed; no seed: on the rows of the choice.

        Raises:
            Interrupted: the person stopped it. UserError: as `Bench.open`.
        """
        settings = self._study.settings(method, tried, rate, experiment, epsilon, seed)
        if settings.data.task == "text":
            raise UserError("methods are compared by labels, and data.task=text has none", "choose another experiment")
        reference, largest = self._study.loss, self._study.epsilons[0]
        loss = self._study.settings(reference, reference.tried[0], 1.0, experiment, largest, seed)
        digest = hashlib.sha256((digest_of(settings) + digest_of(loss)).encode()).hexdigest()[:16]
        kept = self._folder / "points" / f"{digest}.json"
        place = Place(method.name, tried.name, rate, experiment, epsilon, seed or " ".join(self._study.chosen_on))
        if kept.exists():
            self._advance(settings.rounds, f"{method.name}, known")
            return MethodPoint.from_dict(json.loads(kept.read_text()))
        point = self._computed(self._bench.open(settings, self._advance, loss), place, digest)
        write_text(kept, json.dumps(point.to_dict(), indent=1, allow_nan=False) + "\n")
        return point

    def _computed(self, settings: Settings, place: Place, digest: str) -> MethodPoint:
        started, bench = time.monotonic(), self._bench
        agreed = bench.agreed(settings)
        note = f"{place.experiment.partition('=')[2]}, {place.method}, epsilon {agreed.epsilon:g}, {place.seed}"
        found = bench.rehearsed(settings, agreed, lambda: self._advance(1, note), self._stop)
        charged = settings.rounds * settings.strategy.steps_per_round
        if found.releases > charged or (found.finite and found.releases < charged):
            raise UserError(f"{place.method}: {found.releases} sums released, {charged} charged", "report this")
        scores = self._scores(found.adapter) if found.finite else None
        return MethodPoint(
            place=place,
            digest=digest,
            trust=agreed.trust,
            dimension=bench.trainer.schema.dimension,
            sent=found.sent,
            rounds=settings.rounds,
            charged=charged,
            releases=found.releases,
            noise_multiplier=agreed.noise_multiplier,
            spent=spent([agreed.segment(found.releases)], agreed.delta),
            delta=agreed.delta,
            accuracy=scores.accuracy if scores else 0.0,
            exact=bench.judge.exact(found.adapter, range(len(bench.corpus.test))) if scores else 0.0,
            worst=_worst(scores),
            seconds=time.monotonic() - started,
        )

    def _scores(self, adapter: Adapter) -> LabelScores | None:
        """None where a rate was so high that the model gives no numbers."""
        try:
            return self._bench.evaluator.score(adapter)
        except NotFiniteError:
            return None


def _worst(scores: LabelScores | None) -> float:
    worst = None if scores is None else scores.worst_group
    return 0.0 if worst is None else worst[1]
