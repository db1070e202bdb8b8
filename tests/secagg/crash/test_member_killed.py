"""The same with the node itself: ledger, journal, pending contribution and secrets fall together or not at all."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.charter import charter as charters
from cotune.charter import policy as policies
from cotune.charter import signatures, signing
from cotune.charter.charter import Charter, Member
from cotune.charter.columns import Columns
from cotune.charter.policy import Policy
from cotune.charter.terms import ModelTerms, SecAggTerms, StrategyTerms
from cotune.enrollment import node_settings as nodes
from cotune.enrollment.node_settings import NodeSettings
from cotune.errors import UserError
from cotune.privacy.ledger import Ledger
from cotune.privacy.terms import PrivacyTerms
from cotune.secagg.admission import Expected
from cotune.secagg.plan import Plan
from cotune.secagg.record import genesis
from cotune.secagg.refused import Refused
from cotune.strategies.derived import encoding_of, schema_of, strategy_of
from cotune.strategies.model import first, model_hash
from cotune.training.source import LocalModel

NAMES = ("alder", "birch", "cedar", "dogwood")
RUN = b"r" * 16
TENSORS = tuple((f"base_model.model.layer.lora_{side}.weight", (1, 2)) for side in "AB")
HEX = "0" * 64
# A whole node takes five times as long as an organization alone; what falls together falls in its first phase.
REST = [(phase, full) for phase in range(5) for full in (False, True) if phase or full]


@dataclass
class Consortium:
    """Four members under a tiny charter; what `conftest.Table` needs to play three of them."""

    folder: Path
    charter: Charter = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.keys = [signing.new_key(self.folder / name) for name in NAMES]
        self.coordinator_key = signing.new_key(self.folder / "coordinator")
        self.charter = _charter(self.keys, self.coordinator_key)
        self.roster = self.charter.roster()
        self.strategy, self.schema = strategy_of(self.charter), schema_of(self.charter)
        self.model = first(self.charter, self.strategy)
        size = encoding_of(self.charter, self.strategy, self.schema, 0).dimension
        self.vectors = np.random.default_rng(1).uniform(-0.5, 0.5, (4, size))

    def plan(self, **changes: Any) -> Plan:
        charter = self.charter
        plan = Plan(
            run=RUN,
            round=0,
            attempt=0,
            roster_hash=self.roster.hash,
            cohort=self.roster.indices,
            threshold=3,
            min_survivors=3,
            model_hash=model_hash(charter, self.model),
            schema_hash=charter.schema_hash(),
            dp_hash=charter.dp_hash(),
            encoding=encoding_of(charter, self.strategy, self.schema, 0),
            deadline=int(time.time()) + 600,
            prev_head=genesis(RUN, self.roster),
        )
        return replace(plan, suite=self.roster.suite, **changes)

    def expected(self, **changes: Any) -> Expected:
        plan = self.plan()
        return Expected(
            run=RUN,
            last=(-1, -1),
            model_hash=changes.get("model_hash", plan.model_hash),
            schema_hash=plan.schema_hash,
            dp_hash=plan.dp_hash,
            dimension=plan.encoding.dimension,
            encoding=plan.encoding,
            prev_head=changes["prev_head"],
            now=int(time.time()),
            latest=int(time.time()) + 2_000,
        )

    def furnish(self, home: Path) -> None:
        """Everything that member 0 needs."""
        (home / "identity.key").write_bytes((self.folder / NAMES[0]).read_bytes())
        (home / "identity.key").chmod(0o600)
        charters.save(self.charter, home / "charter.yaml")
        signed = {name: signing.sign_charter(self.charter, key) for name, key in zip(NAMES, self.keys, strict=True)}
        signed[charters.COORDINATOR] = signing.sign_charter(self.charter, self.coordinator_key)
        signatures.save(signed, home / "signatures.json")
        policy = {"form": "instruction", "columns": Columns(), "max_epsilon": 8.0, "models": "any"}
        more = {"min_members": 3, "unit": "patient", "allow_without_privacy": False}
        policies.save(Policy(data=home / "none", **policy, **more), home / "policy.yaml")
        absent = dict.fromkeys(("revision", "gguf_file", "package", "sha256"))
        model = LocalModel(name="none", device="cpu", dtype="float32", **absent)
        options = {"cache": home, "cache_features": False, "physical_batch_tokens": 1, "threads": 1}
        nodes.save(NodeSettings(name=NAMES[0], model=model, **options), home / "node.yaml")


def _charter(keys: list[Any], coordinator: Any) -> Charter:
    named = zip(NAMES, keys, strict=True)
    lists = [[name, list(shape)] for name, shape in TENSORS]
    sgd = {"server_optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0, "beta2": 0.9, "stability": 1e-8}
    model = {"name": "none", "base_digest": HEX, "tokenizer_digest": HEX, "rank": 1, "alpha": 1.0, "targets": ("x",)}
    terms = {"unit": "patient", "epsilon": 8.0, "delta": 1e-3, "noise_multiplier": 4.0, "max_grad_norm": 1.0}
    return Charter(
        federation="forest",
        epoch=0,
        members=tuple(Member(name=name, public_key=signing.public_hex(key), nominal_units=12) for name, key in named),
        coordinator=signing.public_hex(coordinator),
        model=ModelTerms(
            **model,
            rslora=False,
            top_layers=0,
            context_length=8,
            schema=TENSORS,
            schema_digest=hashlib.sha256(json.dumps(lists, separators=(",", ":")).encode()).hexdigest(),
            initial_seed=1,
        ),
        strategy=StrategyTerms(target="cotune.strategies.dp_fedsgd.DPFedSGD", settings={**sgd, "averaging": 0.0}),
        rounds=3,
        privacy=PrivacyTerms(
            **terms, enabled=True, sample_rate=0.5, records_per_unit=1, loss_cap=5.0, metrics_weight=0.1
        ),
        secagg=SecAggTerms(
            suite="classic",
            lane_bits=21,
            range_sigmas=6.0,
            threshold=3,
            min_survivors=3,
            deadline_seconds=30.0,
            audit_rounds=1,
            check_fraction=0.1,
            check_probability=0.99,
        ),
        not_before="2020-01-01T00:00:00Z",
        not_after="2099-01-01T00:00:00Z",
    )


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return Consortium(tmp_path_factory.mktemp("members") / "keys")


@pytest.fixture
def member_lives(
    consortium: Consortium, table: Any, ends: Any, on_a_disk: Callable[..., Any], tmp_path: Path
) -> Callable[..., Any]:
    """member_lives(phase, full=False, every=False): as `lives`, of the node itself."""

    def build(phase: int, full: bool = False, every: bool = False) -> Any:
        life = {
            "roster": consortium.roster,
            "model": consortium.model,
            "refusals": (Refused, UserError),
        }
        machine = on_a_disk("member_process.py", tmp_path / "machine", life)
        consortium.furnish(machine.home)
        machine.disk.settle()
        return ends(machine, table(consortium, consortium.plan()), phase, full, every)

    return build


def charges(machine: Any) -> list[Any]:
    file = machine.home / "ledger.sqlite"
    return [] if not file.exists() or not file.stat().st_size else Ledger(file).charges()


def check_budget(machine: Any) -> None:
    """One charge for an attempt, and no more contributions on their way than charges."""
    found = charges(machine)
    assert len({(charge.run, charge.round, charge.attempt) for charge in found}) == len(found)
    if machine.left.bodies:
        assert found, "a message left before anything was charged"
    assert len(machine.sent) <= len(found), "two contributions for one charge"


@pytest.mark.parametrize(
    ("phase", "full"),
    [(0, False), *(pytest.param(phase, full, marks=pytest.mark.slow) for phase, full in REST)],
)
def test_a_repeated_message_costs_nothing_more(member_lives: Any, phase: int, full: bool) -> None:
    for machine, server, reply in member_lives(phase, full, every=phase == 0 and not full):
        failed = reply is None or isinstance(reply, Exception)
        assert reply is None or not failed or (isinstance(reply, UserError) and len(str(reply).splitlines()) == 1)
        again = machine.call(phase, server.message())
        server.finish(machine, again if failed else reply)
        check_budget(machine)
        assert len(charges(machine)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("phase", range(5))
def test_another_attempt_sends_what_was_charged(
    member_lives: Any, table: Any, consortium: Consortium, phase: int
) -> None:
    for machine, _, _ in member_lives(phase):
        kept = (machine.home / "pending.npz").exists()
        retry = table(consortium, consortium.plan(attempt=1))
        retry.finish(machine, machine.call(0, retry.message()))
        check_budget(machine)
        # A contribution that was not on disk yet is lost with its charge; its attempt can still be asked for again.
        assert len(charges(machine)) <= 1 + (not kept)
        machine.replay()
        check_budget(machine)


@pytest.mark.slow
@pytest.mark.parametrize("phase", range(5))
def test_another_model_and_old_files_after_the_restart(
    member_lives: Any, table: Any, consortium: Consortium, phase: int
) -> None:
    moved = replace(consortium.model, adapter=consortium.model.adapter + np.float32(1))
    for machine, server, reply in member_lives(phase):
        uploaded = machine.uploaded
        bent = consortium.plan(model_hash=model_hash(consortium.charter, moved))
        for attempt in (0, 1):
            other = table(consortium, replace(bent, attempt=attempt))
            other.facts = replace(other.facts, model_hash=bent.model_hash)
            machine.know(model=moved)
            answer = machine.call(0, other.message())
            machine.know(model=consortium.model)
            other.finish(machine, answer)
            check_budget(machine)
        view = server.other()
        for step in (view, server):
            machine.call(phase, step.message())
        if phase:
            machine.uploaded = uploaded
            server.finish(machine, reply)
        machine.replay()
        machine.power_cut()
        machine.replay()
        check_budget(machine)
