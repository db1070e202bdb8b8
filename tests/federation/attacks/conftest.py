"""A coordinator that drives single members by hand, and writes down all that it sees of them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cotune.adapter.schema import AdapterSchema
from cotune.charter.messages import BODY, NAME, REFUSED, VECTOR
from cotune.client import participation
from cotune.client.following import Following
from cotune.enrollment import node_settings as nodes
from cotune.privacy.accounting import calibrate
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import PrivacyTerms
from cotune.secagg.record import genesis
from cotune.server.exchange import Outgoing, _message
from cotune.server.rounds import Attempt
from cotune.strategies.derived import strategy_of
from cotune.strategies.model import Model, first, model_hash
from cotune.training.base import BaseModel, load_base
from cotune.training.source import ModelSource
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM

TARGET = {"prompt": "word44 word45", "answer": "word46", "unit": "target"}
_SMALL: dict[str, Any] = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _SMALL,
    "qwen3": {**_SMALL, "head_dim": 8},
    "gpt2": {"vocab_size": 48, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "n_inner": 24},
}


@dataclass
class Wood:
    """A `Forest` of another kind of model."""

    folder: Path
    base: BaseModel
    cached: bool = False
    benches: dict[tuple[str, ...], Any] = field(default_factory=dict)


@pytest.fixture(scope="session")
def forest(request: pytest.FixtureRequest, forest: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """By `indirect`: a base model of another (family, dtype, whether the last layer alone is trained)."""
    family, dtype, cached = getattr(request, "param", ("llama", "float32", False))
    if (family, dtype, cached) == ("llama", "float32", False):
        return Wood(forest.folder, forest.base, False, forest.benches)
    folder = tmp_path_factory.mktemp(f"{family}-{dtype}")
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, bos_token_id=1, eos_token_id=2, **_FAMILIES[family])
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    forest.base.tokenizer.save_pretrained(folder)
    return Wood(folder, load_base(ModelSource(name=str(folder)), folder, "cpu", dtype), cached)


def last_layer(charter: Any) -> Any:
    """The same charter where the last layer alone is trained."""
    whole = AdapterSchema.from_lists(charter.model.adapter_schema)
    last = [at for at, name in enumerate(whole.names) if f".{max(whole.layers)}." in name]
    schema = AdapterSchema(tuple(whole.names[at] for at in last), tuple(whole.shapes[at] for at in last))
    shapes = tuple((name, tuple(shape)) for name, shape in zip(schema.names, schema.shapes, strict=True))
    changed = {"top_layers": 1, "adapter_schema": shapes, "schema_digest": schema.digest}
    return charter.model_copy(update={"model": charter.model.model_copy(update=changed)})


@dataclass(frozen=True)
class Seen:
    """All that a coordinator sees of a reply but the numbers in it."""

    kind: str
    parts: tuple[str, ...]
    refused: str
    name: str
    bytes: int
    words: tuple[int, ...]


@dataclass
class Hostile:
    """A coordinator that may be as it likes towards single members."""

    federation: Any
    seen: list[Seen] = field(default_factory=list)
    runs: Iterator[int] = field(default_factory=lambda: iter(range(10_000)))

    def send(self, kind: str, content: Outgoing | bytes, member: int) -> Any:
        """A message to a member through the real client app; its whole reply."""
        content = content if isinstance(content, Outgoing) else Outgoing(content)
        message = _message(kind, 101 + member, content, "0", 60.0)
        message.metadata.__dict__["_message_id"] = f"message {kind}"
        reply = self.federation.grid.deliver(message, member).content
        fields, array = reply[BODY], reply.get(VECTOR)
        words = () if array is None else (len(array[VECTOR].data), *array[VECTOR].shape)
        self.seen.append(Seen(kind, tuple(reply), fields[REFUSED], fields[NAME], len(fields[BODY]), words))
        return reply

    def refused(self, kind: str, content: Outgoing | bytes, member: int) -> str:
        """The code of a refusal, empty where there is none."""
        return self.send(kind, content, member)[BODY][REFUSED]

    def plan(self, run: bytes, model: Model | None = None, **changes: Any) -> Any:
        """A plan for round 0 of a run."""
        charter = self.federation.charter
        attempt = Attempt(charter, self.federation.key, None, {}, (), lambda phase, members: None)  # type: ignore[arg-type]
        strategy, head = strategy_of(charter), genesis(run, charter.roster())
        start = first(charter, strategy) if model is None else model
        return replace(attempt.plan(strategy, start, run, 0, 0, head), **changes)

    def offer(self, plan: Any, member: int) -> Seen:
        """A plan to a member."""
        self.send("train.round", plan.sign(self.federation.key), member)
        return self.seen[-1]

    def probe(self, model: Model, member: int) -> tuple[Seen, NDArray[np.float64]]:
        """One charged step of a member at a model: what is seen, and the noised vector as if it had been opened."""
        plan = self.plan(next(self.runs).to_bytes(16, "big"), model)
        seen = self.offer(plan, member)
        pending = self.federation.homes[member].pending()
        if seen.refused or pending is None or pending.run != plan.run.hex():
            return seen, np.full(plan.encoding.dimension, np.nan)
        return seen, pending.contribution

    def trust_me(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        """Bypass the provenance on purpose: members take this model for the one that they computed."""
        monkeypatch.setattr(Following, "require_model", lambda following, chain: model)

    def crafted(self, adapter: NDArray[np.float32]) -> Model:
        """A model with an adapter of the coordinator's choice."""
        charter = self.federation.charter
        start = first(charter, strategy_of(charter))
        model = replace(start, adapter=adapter)
        assert model_hash(charter, model) != model_hash(charter, start)
        return model

    def trainer(self, member: int) -> Any:
        """The trainer that a member works with."""
        return participation.Member(self.federation.homes[member])._workbench().trainer

    def clipped_sum(self, member: int, adapter: NDArray[np.float32]) -> NDArray[np.float64]:
        """What a member adds its noise to where every unit is sampled."""
        trainer = self.trainer(member)
        units = range(len(trainer.units.ids))
        return trainer.clipped_sum(adapter, units, self.federation.charter.privacy, SeededRandomness(0))


def give(federation: Any, member: int, rows: list[dict[str, str]]) -> None:
    """Other records for a member."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (federation.homes[member].path / "records.jsonl").write_text(text)


def rows_of(federation: Any, member: int) -> list[dict[str, str]]:
    return [json.loads(line) for line in (federation.homes[member].path / "records.jsonl").read_text().splitlines()]


WITH, WITHOUT = 0, 1


@pytest.fixture
def hostile_to() -> Callable[..., Hostile]:
    """hostile_to(federation): its coordinator, driven by hand."""
    return Hostile


@pytest.fixture
def worlds(found: Callable[..., Any], forest: Any) -> Callable[..., Hostile]:
    """worlds(probes, epsilon=2.0, target=TARGET, context=32): member 0 holds one unit more than member 1."""

    def build(probes: int, epsilon: float = 2.0, target: dict[str, str] = TARGET, context: int = 32) -> Hostile:
        def change(charter: Any) -> Any:
            multiplier = calibrate(epsilon, charter.privacy.delta, 1.0, probes)
            fields = {"epsilon": epsilon, "noise_multiplier": multiplier, "sample_rate": 1.0}
            terms: PrivacyTerms = replace(charter.privacy, **fields)
            # One more than the larger world holds: what is declared tells nothing.
            members = tuple(one.model_copy(update={"nominal_units": one.nominal_units + 2}) for one in charter.members)
            model = charter.model.model_copy(update={"context_length": context})
            updates = {"privacy": terms, "members": members, "model": model}
            changed = type(charter).model_validate(dict(charter) | updates)
            return last_layer(changed) if forest.cached else changed

        federation = found(rounds=probes, change=change)
        rows = rows_of(federation, WITHOUT)
        give(federation, WITH, [*rows, target])
        dtype = str(forest.base.model.dtype).split(".")[-1]
        for home in federation.homes:
            policy = participation.policies.load(home.policy)
            participation.policies.save(policy.model_copy(update={"max_runs": 1000}), home.policy)
            settings = nodes.load(home.settings)
            model = settings.model.model_copy(update={"dtype": dtype})
            nodes.save(settings.model_copy(update={"model": model, "cache_features": forest.cached}), home.settings)
        return Hostile(federation)

    return build
