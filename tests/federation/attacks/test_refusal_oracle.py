"""Adapters that make one record's gradient the only one, or arithmetic fail: nothing but the noised numbers tells.

The attack that such refusals once let through: a map of rank one in the last layer, orthogonal to one hidden state of a
guessed record and so large that the last norm overflows at every other one. All other gradients are then exactly zero,
and a member that refuses where its gradient is zero says whether it holds the record, without any noise.

No coordinator can choose an adapter any more; here the provenance is bypassed, so that only what happens after the
charge is left to protect the record.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cotune.attacks.bound import best_bound
from cotune.charter.messages import BODY, REFUSED, VECTOR
from cotune.charter.refusal import Refusal
from cotune.client import contribution, contributor, following
from cotune.privacy.accounting import epsilon
from cotune.privacy.sampling import SeededRandomness
from cotune.server import run as server_run
from cotune.strategies.derived import strategy_of
from cotune.strategies.model import first
from cotune.training.trainer import Trainer
from numpy.typing import NDArray
from scipy.stats import kstest

WITH, WITHOUT = 0, 1
TARGET = {"prompt": "word44 word45", "answer": "word46", "unit": "target"}
# The bounds hold with this confidence: a test that fails by chance fails once in a million runs.
CONFIDENCE = 1 - 1e-6
PROBES = 24
Adapter = NDArray[np.float32]


def last_down(trainer: Trainer) -> str:
    """The path of the map of the last layer that leaves the feed-forward part."""
    return next(name for name in reversed(trainer.schema.modules) if name.endswith(("down_proj", "c_proj")))


def entering(trainer: Trainer, module: str, row: int) -> NDArray[np.float64]:
    """What enters a map where a row's first answer token is predicted, at the adapter of zeros."""
    caught: list[torch.Tensor] = []
    found = next(m for name, m in trainer.model.named_modules() if name.endswith(module) and hasattr(m, "lora_A"))
    handle = found.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    trainer.loss(np.zeros(trainer.schema.dimension, np.float32), [row])
    handle.remove()
    states = caught[-1][0]
    # The last layer may run at the answers alone: then they come first.
    at = trainer.examples[row].answer_start - 1 if len(states) > 16 else 0
    return states[at].double().numpy()


def orthogonal(trainer: Trainer, scale: float) -> Adapter:
    """The attack's adapter against the last row of the trainer's records.

    Two coordinates of the map, one scaled to the very number that the other gives for that row, go the same ways with
    opposite signs. All other factors are powers of two, so their sum is zero to the bit in whatever order, and fused or
    not, a processor multiplies and adds.
    """
    module = last_down(trainer)
    one, other, factor = equal_products(entering(trainer, module, len(trainer.examples) - 1).astype(np.float32))
    power = np.float32(2.0 ** round(np.log2(scale) / 2))
    adapter = np.zeros(trainer.schema.dimension, np.float32)
    for name, matrix in trainer.schema.split(adapter).items():
        if f".{module}.lora_A" in name:
            matrix[0, one], matrix[1, other] = power, power * factor
        elif f".{module}.lora_B" in name:
            signs = np.sign(np.random.default_rng(0).standard_normal(len(matrix)))
            matrix[:, 0], matrix[:, 1] = power * signs, -power * signs
    return adapter


def equal_products(state: NDArray[np.float32]) -> tuple[int, int, np.float32]:
    """Two coordinates and a factor: the second one times the factor is the first one, once rounded."""
    largest = np.argsort(-np.abs(state))[:12]
    for one, other in itertools.permutations(largest.tolist(), 2):
        factor = np.float32(state[one] / state[other])
        for near in (factor, np.nextafter(factor, np.float32(np.inf)), np.nextafter(factor, np.float32(-np.inf))):
            if np.float32(near * state[other]) == state[one]:
                return one, other, near
    raise AssertionError("no two coordinates")


def biting(hostile: Any) -> Adapter | None:
    """The attack's adapter at a scale where it works: nothing of the others, the whole clip norm of the record."""
    for scale in 10.0 ** np.arange(24, 33):
        adapter = orthogonal(hostile.trainer(WITH), scale)
        inside, outside = (hostile.clipped_sum(world, adapter)[:-3] for world in (WITH, WITHOUT))
        if not outside.any() and np.linalg.norm(inside) > 0.9:
            return adapter
    return None


def attack(hostile: Any, adapter: Adapter, probes: int) -> tuple[NDArray[np.bool_], dict[str, NDArray[np.float64]]]:
    """Ask, by a fair coin each time, a member that holds the record or one that does not: coins, and guessers' scores.

    One guesser looks at everything but the noised numbers, the other at these as if each had been opened: at their part
    along what the record changes, which is the likelihood ratio.
    """
    coins = np.random.default_rng(1).random(probes) < 0.5
    seen, sent = zip(
        *(hostile.probe(hostile.crafted(adapter), WITH if coin else WITHOUT) for coin in coins), strict=True
    )
    change = hostile.clipped_sum(WITH, adapter) - hostile.clipped_sum(WITHOUT, adapter)
    kinds = sorted({repr(one) for one in seen})
    scores = {
        "answered": np.array([not one.refused for one in seen], float),
        "looks": np.array([kinds.index(repr(one)) for one in seen], float),
        "numbers": np.array([vector[: len(change)] @ change for vector in sent]),
    }
    require_noise(hostile, adapter, coins, sent)
    return coins, scores


def require_noise(hostile: Any, adapter: Adapter, coins: NDArray[np.bool_], sent: Any) -> None:
    """What was sent is the clipped sum of that world with the agreed noise on every coordinate, and nothing else."""
    sums = {world: hostile.clipped_sum(world, adapter) for world in (WITH, WITHOUT)}
    rest = [vector[:-1] - sums[WITH if coin else WITHOUT] for coin, vector in zip(coins, sent, strict=True)]
    rest = [one for one in rest if np.isfinite(one).all()]
    assert kstest(np.concatenate(rest), "norm", args=(0.0, hostile.federation.charter.privacy.noise_std)).pvalue > 1e-9


def claimed(hostile: Any) -> float:
    """The epsilon of one probe."""
    terms = hostile.federation.charter.privacy
    return epsilon([(terms.noise_multiplier, terms.sample_rate, 1)], terms.delta)


KINDS = [
    (family, dtype, cached)
    for family in ("llama", "qwen3", "gpt2")
    for dtype in ("float32", "bfloat16")
    for cached in (False, True)
]
FAST = [("llama", "float32", False), ("qwen3", "bfloat16", True), ("gpt2", "float32", True)]


@pytest.mark.parametrize(
    ("forest", "probes"),
    [*((kind, PROBES) for kind in FAST), *(pytest.param(kind, 32, marks=pytest.mark.slow) for kind in KINDS)],
    indirect=["forest"],
)
def test_no_probe_tells_more_than_the_noise_lets_it(
    worlds: Callable[..., Any], forest: Any, probes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = worlds(probes)
    adapter = biting(hostile)
    assert adapter is not None
    hostile.trust_me(hostile.crafted(adapter), monkeypatch)
    coins, scores = attack(hostile, adapter, probes)
    assert len(set(hostile.seen)) == 1
    assert hostile.seen[0].refused == ""
    found = best_bound(scores, coins, hostile.federation.charter.privacy.delta, CONFIDENCE)
    assert found.epsilon <= claimed(hostile)
    assert len(hostile.federation.charges(WITH)) == coins.sum()


def test_the_statistic_finds_a_member_that_refuses_without_a_gradient(
    worlds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: as members once did. The same guessers refute the claim."""
    hostile = worlds(PROBES)
    train = contribution.train

    def refusing(trainer: Any, strategy: Any, adapter: Adapter, part: Any, terms: Any, *others: Any) -> Any:
        units = range(len(trainer.units.ids))
        if not trainer.clipped_sum(adapter, units, terms, SeededRandomness(0))[:-3].any():
            raise Refusal("round.unmoved", "training changed nothing", "check the LoRA targets")
        return train(trainer, strategy, adapter, part, terms, *others)

    monkeypatch.setattr(contributor, "train", refusing)
    adapter = biting(hostile)
    assert adapter is not None
    hostile.trust_me(hostile.crafted(adapter), monkeypatch)
    coins, scores = attack(hostile, adapter, PROBES)
    assert {one.refused for one in hostile.seen} == {"", "round.unmoved"}
    del scores["numbers"]  # there are none where it refused
    found = best_bound(scores, coins, hostile.federation.charter.privacy.delta, 0.95)
    assert found.epsilon > claimed(hostile)


def adapters(dimension: int) -> dict[str, Adapter]:
    """Adapters at which arithmetic goes wrong in one way or another."""
    normal = np.random.default_rng(2).standard_normal(dimension)
    return {
        "nothing moves": np.zeros(dimension, np.float32),
        "products overflow": (1e20 * normal).astype(np.float32),
        "losses are infinite": (1e12 * np.sign(normal)).astype(np.float32),
        "the largest": np.full(dimension, 3e38, np.float32),
        "infinite": np.full(dimension, np.inf, np.float32),
        "not a number": np.full(dimension, np.nan, np.float32),
        "one is not": np.where(np.arange(dimension) == 5, np.nan, normal).astype(np.float32),
    }


@pytest.mark.parametrize("forest", FAST[::2], indirect=True)
def test_where_arithmetic_fails_the_answer_is_the_same(
    worlds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = worlds(16)
    made = adapters(hostile.trainer(WITH).schema.dimension)
    for adapter in made.values():
        model = hostile.crafted(adapter)
        hostile.trust_me(model, monkeypatch)
        for world in (WITH, WITHOUT):
            _, sent = hostile.probe(model, world)
            assert np.isfinite(sent).all()
    assert len(set(hostile.seen)) == 1
    assert len(hostile.seen) == 2 * len(made)


LONG = {"prompt": " ".join(f"word{3 + number % 40}" for number in range(45)), "answer": "word46", "unit": "target"}


@pytest.mark.parametrize(
    ("target", "how"),
    [
        (TARGET, None),
        (LONG, None),
        (TARGET, RuntimeError("word44 word45")),
        (LONG, MemoryError()),
        *(pytest.param(target, OSError(28, "word44"), marks=pytest.mark.slow) for target in (TARGET, LONG)),
    ],
    ids=repr,
)
def test_a_unit_that_fails_is_not_seen(
    worlds: Callable[..., Any], target: dict[str, str], how: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a tile of its own or among others; nothing of another unit is lost."""
    hostile = worlds(4, target=target, context=64)
    trainer = hostile.trainer(WITH)
    row = len(trainer.examples) - 1
    places = {(trainer._shapes[number].positions) for number in range(row)}
    assert (trainer._shapes[row].positions in places) == (target is TARGET)
    compute = Trainer._row_gradients

    def failing(self: Trainer, rows: Any, shape: Any) -> Any:
        if how is not None and self is trainer and row in rows:
            raise how
        return compute(self, rows, shape)

    monkeypatch.setattr(Trainer, "_row_gradients", failing)
    adapter = first_adapter(hostile)
    inside, outside = (hostile.clipped_sum(world, adapter) for world in (WITH, WITHOUT))
    # It counts as a unit, as clipped and with the largest loss; its gradient is nothing.
    assert np.array_equal(inside[:-3], outside[:-3]) == (how is not None)
    for world in (WITH, WITHOUT, WITH, WITHOUT):
        seen = hostile.offer(hostile.plan(next(hostile.runs).to_bytes(16, "big")), world)
        assert seen.refused == ""
    assert len(set(hostile.seen)) == 1


def first_adapter(hostile: Any) -> Adapter:
    return np.array(first(hostile.federation.charter, strategy_of(hostile.federation.charter)).adapter)


@pytest.mark.parametrize("place", ["clipped_sum", "_rows_of", "_set"])
def test_a_step_that_fails_is_not_seen(worlds: Callable[..., Any], place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that is too little for this world's records alone, outside of what is caught unit by unit."""
    hostile = worlds(4)
    trainer, original = hostile.trainer(WITH), getattr(Trainer, place)

    def failing(self: Trainer, *arguments: Any) -> Any:
        if self is trainer:
            raise MemoryError
        return original(self, *arguments)

    monkeypatch.setattr(Trainer, place, failing)
    for world in (WITH, WITHOUT, WITH, WITHOUT):
        hostile.offer(hostile.plan(next(hostile.runs).to_bytes(16, "big")), world)
    assert len(set(hostile.seen)) == 1
    assert hostile.seen[0].refused == ""


def test_in_a_whole_round_both_worlds_say_the_same(worlds: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every message of a round at the crafted adapter: as many, of the same kinds and sizes."""
    hostile = worlds(2)
    adapter = biting(hostile)
    assert adapter is not None
    model = hostile.crafted(adapter)
    for module in (following, server_run):
        monkeypatch.setattr(module, "first", lambda charter, strategy: model)
    run = hostile.federation.run()
    assert len(run.load(0).survivors) == 4
    said: dict[int, list[Any]] = {WITH: [], WITHOUT: []}
    for kind, member, message in hostile.federation.grid.carried:
        if member in said:
            fields, array = message.content[BODY], message.content.get(VECTOR)
            words = None if array is None else len(array[VECTOR].data)
            said[member].append((kind, tuple(message.content), fields[REFUSED], len(fields[BODY]), words))
    assert said[WITH] == said[WITHOUT]
    assert len(said[WITH]) >= 8
