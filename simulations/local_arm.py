"""An arm without a federation: one data set, the same strategy, noise and rounds, a federation of one.

"Alone" is an organization with its own records, "pooled" is all records in one place. Both spend the same epsilon as
the federation, so that what differs between the arms is who learns from whom.
"""

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..adapter.schema import initial
from ..atomic import write_bytes
from ..charter import policy as policies
from ..charter import signatures
from ..charter.charter import Charter
from ..client.home import NodeHome
from ..client.workbench import Progress, Workbench, prepare
from ..enrollment import node_settings as nodes
from ..privacy.sampling import SystemRandomness
from ..privacy.terms import decode_metrics
from ..strategies.alone import alone
from ..strategies.base import Adapter, Strategy, split
from ..strategies.derived import load_code, nominal_batch, strategy_of
from ..strategies.paid import contribute
from ..strategies.server_side import ServerSide
from ..training.base import BaseModel
from ..training.guards import check_finite, check_moved

_BENCHES: dict[str, Workbench] = {}


@dataclass(frozen=True)
class LocalTask:
    """What a worker process needs to train one arm; paths and numbers only.

    Attributes:
        home: whose records, policy, node settings and charter are used.
        out: folder for the adapters at the evaluated rounds.
        rounds: to be trained. evaluate_every: rounds between two kept adapters; the last is always kept.
        private: under the charter's terms; else the same without noise, for comparison.
        rate: of the server's optimizer, where it is not the charter's; only without privacy.
    """

    home: Path
    out: Path
    rounds: int
    evaluate_every: int
    private: bool = True
    rate: float | None = None

    def kept(self, number: int) -> Path:
        """Where the adapter after round `number`, from 1, is kept; that of the last round says that all are."""
        return self.out / f"{number:04d}.npy"

    @property
    def trained(self) -> bool:
        """Whether nothing is left to do."""
        return self.kept(self.rounds).exists()


def bench_of(path: Path, progress: Progress, base: BaseModel | None = None) -> Workbench:
    """The workbench of a home, kept for the life of this process with the first `progress` that it was asked for.

    Args:
        base: the model where it is loaded already; such a bench is not kept.
    """
    key = str(path)
    if base is not None:
        return _bench(path, progress, base)
    if key not in _BENCHES:
        _BENCHES[key] = _bench(path, progress, None)
    return _BENCHES[key]


def _bench(path: Path, progress: Progress, base: BaseModel | None) -> Workbench:
    home = NodeHome(path)
    charter = signatures.load_signed(home.charter, home.signatures)
    settings, policy = nodes.load(home.settings), policies.load(home.policy)
    return prepare(charter, settings, policy, home.cache, home.basis, progress, base)


def train(
    task: LocalTask, tell: Callable[[int, float], None], progress: Progress, base: BaseModel | None = None
) -> list[int]:
    """Train an arm from the first adapter to its last round.

    Args:
        task: which.
        tell: called after each round with its number, from 1, and its noised loss.
        progress: called with (what, done, of) after each physical batch; what it raises ends the training.
        base: the model, where it is loaded already.

    Returns:
        The rounds, from 1, whose adapters are in `task.out` as NUMBER.npy.

    Raises:
        UserError: the data or the model is not usable, or training did not move the adapter.
    """
    home = NodeHome(task.home)
    charter = signatures.load_signed(home.charter, home.signatures)
    load_code(charter, home.strategy)
    bench = bench_of(task.home, progress, base)
    schema = bench.trainer.schema
    batch = _batch(charter, task.home.name)
    strategy = alone(charter, batch, bench.moved) if task.private else _open(charter, task.rate)
    terms = charter.privacy.alone if task.private else charter.privacy.without_noise
    adapter, state = initial(schema, charter.model.initial_seed), strategy.start(schema.dimension)
    # What an interrupted training left belongs to other noise.
    shutil.rmtree(task.out, ignore_errors=True)
    task.out.mkdir(parents=True)
    kept = []
    for number in range(1, task.rounds + 1):
        part = strategy.trained(schema, number - 1)
        contribution = contribute(bench.trainer, strategy, adapter, part, terms, batch, SystemRandomness())
        check_finite(contribution, f"the contribution of {task.home.name}")
        total, metrics = split(contribution)
        moved, state = strategy.apply(adapter, state, part, total, batch, 1)
        check_moved(adapter, moved, f"the adapter of {task.home.name}")
        adapter = moved
        tell(number, decode_metrics(metrics, terms)["loss"])
        if number % task.evaluate_every == 0 or number == task.rounds:
            keep(strategy.published(adapter, state), task.kept(number))
            kept.append(number)
    return kept


def _open(charter: Charter, rate: float | None) -> Strategy:
    """The charter's strategy, at another rate if one is given: without noise nothing has to be balanced against it."""
    strategy = strategy_of(charter)
    if rate is None:
        return strategy
    assert isinstance(strategy, ServerSide)
    return replace(strategy, learning_rate=rate)


def _batch(charter: Charter, name: str) -> float:
    """The public expected batch: of the member, or where it is no member, of all together."""
    members = [member.name for member in charter.members]
    return sum(nominal_batch(charter, member) for member in ([name] if name in members else members))


def keep(adapter: Adapter, path: Path) -> None:
    """Write an adapter as NPY, atomically; 0600, since it may have been trained without noise."""
    content = io.BytesIO()
    np.save(content, adapter)
    write_bytes(path, content.getvalue(), 0o600)
