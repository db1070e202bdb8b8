"""After its charge a member sends a noised vector, whatever happens in training."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
from cotune.adapter.part import Part
from cotune.charter.refusal import Refusal
from cotune.client.contribution import AtLeast, train
from cotune.privacy.terms import METRICS, PrivacyTerms
from cotune.strategies.dp_fedsgd import DPFedSGD
from cotune.strategies.fedavg import FedAvg

TERMS = PrivacyTerms(True, "row", 8.0, 1e-4, 0.9, 1.0, 0.5, 1, 5.0, 0.1)
DIMENSION = 400
SGD = DPFedSGD("sgd", 0.5, 0.9, 0.99, 1e-8, 0.0)
AVERAGE = FedAvg("sgd", 1.0, 0.0, 0.99, 1e-3, 0.0, 3, 0.2, "sgd", 0.9, 0.999, 1e-8, 0.0, 0.0)
ALL = Part(((0, DIMENSION),))
SOME = Part(((10, 60), (90, 300)))


@dataclass
class Encoding:
    segments: tuple[tuple[int, float], ...] = ((DIMENSION, 4.0), (len(METRICS), 4.0), (1, 1.0))


@dataclass
class Round:
    round: int = 2
    encoding: Encoding = field(default_factory=Encoding)


@dataclass
class Broken:
    """A trainer that fails in a way of its own."""

    how: Any

    def private_sum(
        self, adapter: np.ndarray, terms: PrivacyTerms, randomness: object, part: Part | None = None
    ) -> np.ndarray:
        if isinstance(self.how, np.ndarray):
            return self.how
        raise self.how


ADAPTER = np.zeros(DIMENSION, np.float32)
WAYS = [
    RuntimeError("record of Jane Doe"),
    MemoryError(),
    ValueError("x"),
    AssertionError(),
    np.full(DIMENSION + 3, np.nan),
    np.zeros(7),
]


@pytest.mark.parametrize("rule", [SGD, AVERAGE], ids=["one gradient", "local steps"])
@pytest.mark.parametrize("how", WAYS, ids=lambda how: type(how).__name__)
def test_noise_alone_is_sent_where_training_fails(how: Any, rule: Any) -> None:
    sent = train(Broken(how), rule, ADAPTER, ALL, TERMS, 20.0, Round())  # type: ignore[arg-type]
    scale = 1.0 if rule is SGD else 0.2 * np.sqrt(3) / 20.0
    assert sent.shape == (DIMENSION + len(METRICS) + 1,)
    spread = sent[:DIMENSION].std() / (TERMS.noise_std * scale)
    assert 0.8 < spread < 1.2  # chance of a miss below 1e-7
    assert 0.0 <= sent[-1] < 0.2


def test_noise_alone_has_the_size_of_the_part() -> None:
    encoding = Encoding(((SOME.size, 4.0), (len(METRICS), 4.0), (1, 1.0)))
    sent = train(Broken(MemoryError()), SGD, ADAPTER, SOME, TERMS, 20.0, Round(encoding=encoding))  # type: ignore[arg-type]
    assert sent.shape == (SOME.size + len(METRICS) + 1,)
    assert sent[:-1].all()


def test_what_training_gives_is_sent_as_it_is() -> None:
    good = np.arange(DIMENSION + 3, dtype=np.float64)
    sent = train(Broken(good), SGD, ADAPTER, ALL, TERMS, 20.0, Round())  # type: ignore[arg-type]
    np.testing.assert_array_equal(sent[:-1], good)
    assert sent[-1] == pytest.approx(np.mean(good > 4))


@dataclass(frozen=True)
class Greedy(DPFedSGD):
    """Asks for a step more than its round is charged for, with records or without."""

    def local(self, trainer: Any, adapter: Any, part: Any, terms: Any, nominal_batch: float, randomness: Any) -> Any:
        first = trainer.private_sum(adapter, terms, randomness, part)
        return first + trainer.private_sum(adapter, terms, randomness, part)


@dataclass(frozen=True)
class Scaling(DPFedSGD):
    """Says that it sends a gradient as it was noised, and sends twice of it."""

    def local(self, trainer: Any, adapter: Any, part: Any, terms: Any, nominal_batch: float, randomness: Any) -> Any:
        return 2 * trainer.private_sum(adapter, terms, randomness, part)


@dataclass(frozen=True)
class Misshapen(DPFedSGD):
    """Gives too few numbers, whatever it is given."""

    def local(self, trainer: Any, adapter: Any, part: Any, terms: Any, nominal_batch: float, randomness: Any) -> Any:
        return np.zeros(3)


@dataclass(frozen=True)
class NoNumbers(DPFedSGD):
    """Divides by nothing, and says that it sends more than one gradient."""

    one_noised_gradient: ClassVar[bool] = False

    def local(self, trainer: Any, adapter: Any, part: Any, terms: Any, nominal_batch: float, randomness: Any) -> Any:
        return trainer.private_sum(adapter, terms, randomness, part) * np.nan


@pytest.mark.parametrize("rule", [Greedy, Scaling, Misshapen, NoNumbers])
def test_a_strategy_that_does_not_keep_to_what_was_paid_sends_noise_alone(rule: Any) -> None:
    good = np.full(DIMENSION + 3, 1e6)
    sent = train(Broken(good), rule(**asdict(SGD)), ADAPTER, ALL, TERMS, 20.0, Round())  # type: ignore[arg-type]
    spread = sent[:DIMENSION].std() / TERMS.noise_std
    assert 0.8 < spread < 1.2
    assert np.abs(sent).max() < 1e3


def test_the_end_of_the_process_is_not_held_up() -> None:
    with pytest.raises(KeyboardInterrupt):
        train(Broken(KeyboardInterrupt()), SGD, ADAPTER, ALL, TERMS, 20.0, Round())  # type: ignore[arg-type]


def test_without_privacy_a_failure_is_one() -> None:
    terms = TERMS.without_noise
    with pytest.raises(RuntimeError):
        train(Broken(RuntimeError()), SGD, ADAPTER, ALL, terms, 20.0, Round())  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="training changed nothing"):
        train(Broken(np.zeros(DIMENSION + 3)), SGD, ADAPTER, ALL, terms, 20.0, Round())  # type: ignore[arg-type]


def test_a_step_takes_at_least_so_long_whatever_happens_in_it() -> None:
    started = time.monotonic()
    with AtLeast(0.2):
        pass
    assert time.monotonic() - started >= 0.2
    started = time.monotonic()
    with pytest.raises(KeyError), AtLeast(0.2):
        raise KeyError
    assert time.monotonic() - started >= 0.2
