"""A consortium of four around a tiny random model, on the grid of `grid.py`."""

import importlib.util
import json
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import Any

import pytest
import torch
from cotune.charter import charter as charters
from cotune.charter import policy as policies
from cotune.charter import signatures, signing
from cotune.charter.charter import Charter, Member
from cotune.charter.columns import Columns
from cotune.charter.policy import Policy
from cotune.charter.terms import ModelTerms, SecAggTerms, StrategyTerms
from cotune.client import participation
from cotune.client.home import NodeHome
from cotune.client.records import Follower
from cotune.enrollment import node_settings as nodes
from cotune.enrollment.node_settings import NodeSettings
from cotune.privacy.accounting import calibrate
from cotune.privacy.ledger import Ledger
from cotune.privacy.terms import PrivacyTerms
from cotune.secagg.plan import Plan
from cotune.secagg.record import genesis
from cotune.secagg.suites import CLASSIC, Suite
from cotune.server import exchange, roll_call
from cotune.server import run as server_run
from cotune.server.exchange import Exchange
from cotune.server.rounds import Attempt
from cotune.server.run_directory import RunDirectory
from cotune.strategies.derived import strategy_of
from cotune.strategies.model import first
from cotune.training.adapter import LoraSettings, attach
from cotune.training.adapter import schema_of as adapter_schema
from cotune.training.base import BaseModel, load_base
from cotune.training.source import LocalModel, ModelSource
from cotune.verify.kept import SUM, kept_words
from flwr.app import Message
from flwr.supercore.task_identity import TaskIdentity
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

NAMES = ("alder", "birch", "cedar", "dogwood")
UNITS = 12
DELTA = 1.0e-3
KINDS = (
    "query.hello",
    "train.round",
    "query.shares",
    "query.upload",
    "query.survivors",
    "query.reveal",
    "query.record",
    "query.pieces",
)


@cache
def sigma(rounds: int) -> float:
    return calibrate(8.0, DELTA, 0.5, rounds)


def _grid() -> ModuleType:
    """The module beside this one; pytest imports each file by itself."""
    spec = importlib.util.spec_from_file_location("federation_grid", Path(__file__).with_name("grid.py"))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


grid = _grid()


@dataclass
class Federation:
    """Homes, keys, charter, grid and run folder; `run` is the server."""

    charter: Charter
    key: Any
    homes: list[NodeHome]
    grid: Any
    folder: Path
    events: list[Any] = field(default_factory=list)
    replies: list[tuple[str, Any]] = field(default_factory=list)
    stop: Event = field(default_factory=threading.Event)

    def run(self) -> RunDirectory:
        directory = self.directory()
        watched = Exchange(self.grid, self.stop, lambda kind, reply: self.replies.append((kind, reply)))
        server_run.Run(self.charter, self.key, directory, watched, self.events.append).finish()
        return directory

    def directory(self) -> RunDirectory:
        return RunDirectory(self.folder, self.charter.digest())

    def lose(self, kind: str, *members: int, times: int = 1_000) -> None:
        """The replies of some members to one kind of message never arrive, so many times each."""
        left = dict.fromkeys(members, times)

        def before(found: str, member: int, message: Message) -> Message | None:
            if found == kind and left.get(member, 0) > 0:
                left[member] -= 1
                return None
            return message

        self.grid.before = before

    def begin(self, run: bytes, member: int = 0, **changes: Any) -> Plan:
        """A member joins round 0 of a run by itself; what it is asked to do can be changed."""
        attempt = Attempt(self.charter, self.key, None, {}, (), lambda phase, members: None)  # type: ignore[arg-type]
        head, strategy = genesis(run, self.charter.roster()), strategy_of(self.charter)
        plan = replace(attempt.plan(strategy, first(self.charter, strategy), run, 0, 0, head), **changes)
        with self.homes[member].locked():
            participation.Member(self.homes[member]).begin(plan.sign(self.key))
        return plan

    def told(self, run: RunDirectory, records: tuple[bytes, ...], member: int = 0) -> bytes:
        """What a member answers to records of a run and the sum of the last of them."""
        number = run.recorded()[-1]
        before = run.load(number - 1).model.encode() if number else b""
        with self.homes[member].locked():
            return Follower(self.homes[member]).record(records, kept_words(run.path, number, SUM), before)

    def agree(self, charter: Charter) -> None:
        """Everybody signs another charter in the place of the present one, and installs it."""
        keys = {name: signing.load_key(home.identity) for name, home in zip(NAMES, self.homes, strict=True)}
        signed = {name: signing.sign_charter(charter, key) for name, key in keys.items()}
        signed[charters.COORDINATOR] = signing.sign_charter(charter, self.key)
        for home in self.homes:
            charters.save(charter, home.charter)
            signatures.save(signed, home.signatures)
        self.charter = charter

    def charges(self, member: int) -> list[Any]:
        home = self.homes[member]
        return Ledger(home.ledger).charges() if home.ledger.exists() else []

    def refusals(self, kind: str = "train.round") -> list[str]:
        return [reply.refused for found, reply in self.replies if found == kind and reply.refused]


@dataclass
class Forest:
    """What every federation of a session shares: a base model in a folder, and trainers over the same records."""

    folder: Path
    base: BaseModel
    benches: dict[tuple[str, ...], Any] = field(default_factory=dict)


def _tokenizer() -> PreTrainedTokenizerFast:
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"word{number}": number for number in range(3, 48)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}assistant {% endif %}"
    )
    return tokenizer


@pytest.fixture(scope="session")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Forest:
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(1)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=48,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    base = load_base(ModelSource(name=str(folder)), folder, "cpu", "float32")
    return Forest(folder, base)


def _terms(enabled: bool, rounds: int) -> PrivacyTerms:
    return PrivacyTerms(
        enabled=enabled,
        unit="patient",
        epsilon=8.0 if enabled else 0.0,
        delta=DELTA if enabled else 0.0,
        noise_multiplier=sigma(rounds) if enabled else 0.0,
        max_grad_norm=1.0,
        # Without privacy every unit is in every sample, so that a round can be repeated exactly.
        sample_rate=0.5 if enabled else 1.0,
        records_per_unit=1,
        loss_cap=5.0,
        metrics_weight=0.1,
    )


def _charter(
    forest: Forest, members: tuple[Member, ...], coordinator: str, rounds: int, enabled: bool, suite: str
) -> Charter:
    lora = LoraSettings(2, 4.0, ("all-linear",), False, 0)
    schema = adapter_schema(attach(forest.base, lora))
    return Charter(
        federation="forest",
        epoch=0,
        members=members,
        coordinator=coordinator,
        model=ModelTerms(
            name="tiny",
            base_digest=forest.base.digest,
            tokenizer_digest=forest.base.tokenizer_digest,
            rank=2,
            alpha=4.0,
            targets=("all-linear",),
            rslora=False,
            top_layers=0,
            context_length=32,
            schema=tuple((name, tuple(shape)) for name, shape in zip(schema.names, schema.shapes, strict=True)),
            schema_digest=schema.digest,
            initial_seed=5,
        ),
        strategy=StrategyTerms(
            target="cotune.strategies.dp_fedsgd.DPFedSGD",
            settings={
                "server_optimizer": "sgd",
                "learning_rate": 0.1,
                "momentum": 0.5,
                "beta2": 0.9,
                "stability": 1e-8,
                "averaging": 0.5,
            },
        ),
        rounds=rounds,
        privacy=_terms(enabled, rounds),
        secagg=SecAggTerms(
            suite=suite,
            lane_bits=21,
            range_sigmas=6.0,
            threshold=3,
            min_survivors=3,
            deadline_seconds=600.0,
            audit_rounds=2,
            check_fraction=0.1,
            check_probability=0.99,
        ),
        not_before="2020-01-01T00:00:00Z",
        not_after="2099-01-01T00:00:00Z",
    )


def _shared(charter: Charter) -> Charter:
    """Noise that the members add together, at most one of them colluding and one dropping out."""
    terms = replace(charter.privacy, trust="honest_majority", organizations=4, colluders=1, dropouts=1)
    secagg = charter.secagg.model_copy(update={"lane_bits": 24})
    return Charter.model_validate(dict(charter) | {"privacy": terms, "secagg": secagg})


def _records(member: int) -> str:
    rows = [
        {"prompt": f"word{3 + (7 * member + row) % 40}", "answer": f"word{3 + row % 5} word9", "unit": f"u{row}"}
        for row in range(UNITS)
    ]
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def furnish(forest: Forest, home: NodeHome, member: int, charter: Charter, signed: dict[str, bytes]) -> None:
    """Everything a node needs, in its home."""
    data = home.path / "records.jsonl"
    data.write_text(_records(member))
    columns = Columns(prompt="prompt", answer="answer", unit="unit")
    policies.save(
        Policy(
            data=data,
            form="instruction",
            columns=columns,
            max_epsilon=8.0,
            models=(forest.base.digest,),
            min_members=3,
            unit="patient",
            allow_without_privacy=not charter.privacy.enabled,
            allow_honest_majority=charter.privacy.shares is not None,
        ),
        home.policy,
    )
    model = LocalModel(
        name=str(forest.folder),
        revision=None,
        gguf_file=None,
        package=None,
        sha256=None,
        device="cpu",
        dtype="float32",
    )
    nodes.save(
        NodeSettings(
            name=NAMES[member],
            model=model,
            cache=home.path,
            cache_features=False,
            physical_batch_tokens=4096,
            threads=1,
        ),
        home.settings,
    )
    charters.save(charter, home.charter)
    signatures.save(signed, home.signatures)


@pytest.fixture
def found(forest: Forest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Federation]:
    """found(rounds=2, enabled=True, shared=False, change=lambda charter: charter): a federation of four."""
    clock = grid.FastClock()
    monkeypatch.setattr(exchange, "time", clock)
    monkeypatch.setattr(roll_call, "time", clock)
    monkeypatch.setattr(roll_call, "HELLO_SECONDS", 1.0)
    monkeypatch.setattr(roll_call, "AGAIN_SECONDS", 0.0)
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    _share_benches(forest, monkeypatch)

    def build(
        rounds: int = 2,
        enabled: bool = True,
        shared: bool = False,
        change: Callable[[Charter], Charter] = lambda charter: charter,
        suite: Suite = CLASSIC,
    ) -> Federation:
        homes = [NodeHome.create(tmp_path / name) for name in NAMES]
        keys = [signing.new_key(home.identity, suite) for home in homes]
        coordinator = signing.new_key(tmp_path / "coordinator.key", suite)
        members = tuple(
            Member(name=name, public_key=signing.public_hex(key), nominal_units=UNITS)
            for name, key in zip(NAMES, keys, strict=True)
        )
        drafted = _charter(forest, members, signing.public_hex(coordinator), rounds, enabled, suite.name)
        charter = change(_shared(drafted) if shared else drafted)
        signed = {name: signing.sign_charter(charter, key) for name, key in zip(NAMES, keys, strict=True)}
        signed[charters.COORDINATOR] = signing.sign_charter(charter, coordinator)
        for member, home in enumerate(homes):
            furnish(forest, home, member, charter, signed)
        made = grid.FakeGrid([home.path for home in homes])
        return Federation(charter, coordinator, homes, made, tmp_path / "run")

    return build


def _share_benches(forest: Forest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real `prepare`, once a session for the same member and model: it takes most of a test's time."""
    prepare = participation.prepare

    def shared(charter: Charter, settings: NodeSettings, policy: Policy, features: Path, *rest: Any) -> Any:
        key = (policy.data.read_text(), policy.columns.model_dump_json(), charter.model.model_dump_json())
        if key not in forest.benches:
            forest.benches[key] = prepare(charter, settings, policy, features, *rest)
        return forest.benches[key]

    monkeypatch.setattr(participation, "prepare", shared)
    monkeypatch.setattr(participation, "_BENCHES", {})
