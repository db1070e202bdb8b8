"""A consortium on one machine: homes, keys, policies, and a charter that everybody signed, as in the field.

Each organization gets a home of its own under `nodes/`, with its own key and its own records. The simulation plays all
their parts, once, here; afterwards client and server code see nothing but those folders.
"""

import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import torch

from ..adapter.basis import Basis, load_basis
from ..adapter.schema import AdapterSchema
from ..charter import charter as charters
from ..charter import policy as policies
from ..charter import signatures, signing
from ..charter.charter import Charter, Member, ModelTerms, SecAggTerms, StrategyTerms
from ..charter.policy import Policy
from ..client import settings as nodes
from ..client.home import Home
from ..client.settings import NodeModel, NodeSettings, Package
from ..client.workbench import source_of
from ..conf.rates import settled, strategy_options
from ..conf.schema import Settings
from ..conf.terms import terms
from ..data.corpora.partition import Corpus
from ..data.records import Record
from ..data.template import encode_all
from ..data.units import group
from ..errors import UserError
from ..secagg.suites import CLASSIC, HYBRID
from ..strategies.agreed import encoding_of, strategy_of
from ..training.adapter import LoraSettings, attach, schema_of
from ..training.base import BaseModel, ModelSource, load_base, require_context
from .bases import basis_source, basis_terms, lora_settings, made_basis
from .corpus import COLUMNS, write_records
from .starting import started
from .workspace import Workspace

POOLED = "pooled"
_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_LIFETIME = timedelta(days=365)


@dataclass(frozen=True)
class Consortium:
    """What the arms need.

    Attributes:
        charter: signed by everybody.
        homes: name -> home, in the charter's order.
        base: loaded in this process, with the adapter attached.
        lora, schema: what is trained.
    """

    charter: Charter
    homes: dict[str, Path]
    base: BaseModel
    lora: LoraSettings
    schema: AdapterSchema


def node_model(settings: Settings) -> NodeModel:
    """Every organization's copy of the base model: on one machine, the same one."""
    model = settings.model
    package = None if model.package is None else Package(**model.package.model_dump())
    return NodeModel(
        name=model.name,
        revision=model.revision,
        gguf_file=model.gguf_file,
        package=package,
        sha256=model.sha256,
        device=model.device,
        dtype=model.dtype,
    )


def in_folder(source: ModelSource) -> bool:
    """Whether a model is a folder on this machine, so that its name is a path."""
    return source.package is None and Path(source.name).expanduser().is_dir()


def public_name(source: ModelSource) -> str:
    """What a charter and a release call a model: of a path only the last part, which tells nothing of this machine."""
    if not in_folder(source):
        return source.name
    return Path(source.name).expanduser().absolute().name or "model"


def load(settings: Settings, space: Workspace, corpus: Corpus) -> tuple[BaseModel, LoraSettings, AdapterSchema]:
    """The base model in this process, with the adapter attached; its basis is made once and kept.

    Raises:
        UserError: the model cannot be loaded, or no basis be made: see `made_basis`.
    """
    torch.set_num_threads(settings.simulation.workers * settings.simulation.threads_per_worker)
    base = load_base(source_of(node_model(settings)), settings.cache, settings.model.device, settings.model.dtype)
    require_context(base, settings.model.context_length)
    lora = lora_settings(settings)
    if lora.form != "lora":
        if not space.begun:
            agreed_basis(settings, base, lora, corpus).save(space.basis)
        lora = replace(lora, basis=load_basis(space.basis))
    return base, lora, schema_of(attach(base, lora))


def agreed_basis(settings: Settings, base: BaseModel, lora: LoraSettings, corpus: Corpus) -> Basis:
    """The basis that the settings describe, with a start if they ask for one; the base carries no adapter afterwards.

    Raises:
        UserError: as `made_basis` and `started`.
    """
    basis = made_basis(settings, base, lora, corpus)
    if settings.model.basis.start != "public":
        return basis
    units = list(declared_units(settings, corpus).values())
    return started(settings, base, replace(lora, basis=basis), corpus, terms(settings, max(units), 1), units)


def found(settings: Settings, space: Workspace, corpus: Corpus) -> Consortium:
    """Set the consortium up, or find the one that an interrupted run has set up.

    Raises:
        UserError: the model cannot be loaded, or the terms contradict each other.
    """
    settings = filled_in(settings, corpus)
    base, lora, schema = load(settings, space, corpus)
    homes = {name: space.nodes / name for name in corpus.organizations}
    if not space.begun:
        _require_fit(settings, corpus, base)
        for folder in (space.nodes, space.server, space.pooled):
            shutil.rmtree(folder, ignore_errors=True)
        space.nodes.mkdir()
        _set_up(settings, space, corpus, base, lora, schema)
    charter = signatures.load_signed(space.server / "charter.yaml", space.server / "signatures.json")
    return Consortium(charter, homes, base, lora, schema)


def _require_fit(settings: Settings, corpus: Corpus, base: BaseModel) -> None:
    """Every record and test row makes tokens that fit into the context; said here, before any arm has run.

    Raises:
        UserError: one does not; it names whose.
    """
    parts = {**corpus.organizations, "the test set": corpus.test}
    for name, records in parts.items():
        try:
            encode_all(records, base.tokenizer, settings.model.context_length)
        except UserError as error:
            raise UserError(f"{name}, {error.what}", error.mend) from None


def _set_up(
    settings: Settings, space: Workspace, corpus: Corpus, base: BaseModel, lora: LoraSettings, schema: AdapterSchema
) -> None:
    space.server.mkdir(mode=0o700)
    suite = HYBRID if settings.secagg.suite == HYBRID.name else CLASSIC
    coordinator = signing.new_key(space.server / "coordinator.key", suite)
    created = {name: Home.create(space.nodes / name) for name in corpus.organizations}
    keys = {name: signing.new_key(home.identity, suite) for name, home in created.items()}
    units = declared_units(settings, corpus)
    members = tuple(
        Member(name=name, public_key=signing.public_hex(key), nominal_units=units[name]) for name, key in keys.items()
    )
    charter = draft(settings, members, signing.public_hex(coordinator), base, lora, schema)
    # Lanes that are too narrow for the noise are said before anything is trained.
    encoding_of(charter, strategy_of(charter), schema, 0)
    signed = {name: signing.sign_charter(charter, key) for name, key in keys.items()}
    signed[charters.COORDINATOR] = signing.sign_charter(charter, coordinator)
    for name, home in created.items():
        _furnish(settings, home, name, corpus.organizations[name], charter, signed, lora.basis)
    _furnish(settings, Home.create(space.pooled), POOLED, everything(corpus), charter, signed, lora.basis)
    charters.save(charter, space.server / "charter.yaml")
    # Last, since its presence says that everything before it is there.
    signatures.save(signed, space.server / "signatures.json")


def filled_in(settings: Settings, corpus: Corpus) -> Settings:
    """The settings with nothing of model and basis left open, see `rates.settled`.

    Whether the answers of a user's public file are right is for the user to say, and who makes the basis of no public
    text does not want to begin at some.
    """
    answered = bool(corpus.answered) and settings.data.corpus != "files" and basis_source(settings) == "public"
    return settled(settings, list(declared_units(settings, corpus).values()), answered)


def declared_units(settings: Settings, corpus: Corpus) -> dict[str, int]:
    """What each organization declares, which is public: a round number in place of the exact one.

    Raises:
        UserError: one holds more.
    """
    held = {name: len(group(records).ids) for name, records in corpus.organizations.items()}
    declared, most = settings.data.units_per_organization, max(held.values())
    if declared and most > declared:
        raise UserError(
            f"data.units_per_organization={declared}, but an organization holds {most} units",
            f"declare a round number that holds them, e.g. data.units_per_organization={_round_up(most)}",
        )
    return {name: declared or count for name, count in held.items()}


def everything(corpus: Corpus) -> list[Record]:
    """All organizations' records in one place; two of them may call units of theirs by the same name."""
    return [
        replace(record, unit=f"{name}/{record.unit}")
        for name, records in corpus.organizations.items()
        for record in records
    ]


def _round_up(count: int) -> int:
    """Two digits, the next number above."""
    step: int = 10 ** max(1, len(str(count)) - 2)
    return (count // step + 1) * step


def _furnish(
    settings: Settings,
    home: Home,
    name: str,
    records: list[Record],
    charter: Charter,
    signed: dict[str, bytes],
    basis: Basis | None,
) -> None:
    """Records, policy, settings, the signed charter and what it names, in one home."""
    data = home.path / "records.jsonl"
    write_records(records, data)
    policies.save(_policy(settings, data, charter), home.policy)
    nodes.save(_node(settings, name), home.settings)
    if basis is not None:
        basis.save(home.basis)
    charters.save(charter, home.charter)
    signatures.save(signed, home.signatures)


def _policy(settings: Settings, data: Path, charter: Charter) -> Policy:
    """What a cautious organization would allow: this model, this budget, this unit, nothing else."""
    return Policy(
        data=data,
        form="completion" if settings.data.form == "completion" else "instruction",
        columns=COLUMNS,
        max_epsilon=settings.privacy.epsilon or 1.0,
        models=(charter.model.base_digest,),
        min_members=3,
        unit=settings.privacy.unit,
        allow_without_privacy=not settings.privacy.enabled,
        allow_honest_majority=settings.privacy.trust == "honest_majority",
        allow_start=charter.model.basis is not None and charter.model.basis.start != "zero",
    )


def _node(settings: Settings, name: str) -> NodeSettings:
    return NodeSettings(
        name=name,
        model=node_model(settings),
        cache=settings.cache,
        cache_features=settings.model.cache_features,
        physical_batch_tokens=settings.simulation.physical_batch_tokens,
        threads=settings.simulation.threads_per_worker,
    )


def draft(
    settings: Settings,
    members: tuple[Member, ...],
    coordinator: str,
    base: BaseModel,
    lora: LoraSettings,
    schema: AdapterSchema,
) -> Charter:
    """The charter that the configuration describes, not signed yet."""
    now = datetime.now(UTC)
    form, n = settings.model.lora, len(members)
    agreed = terms(settings, max(member.nominal_units for member in members), schema.dimension)
    return Charter(
        federation=settings.name.lower().replace("_", "-").replace(".", "-"),
        epoch=0,
        members=members,
        coordinator=coordinator,
        model=ModelTerms(
            name=public_name(source_of(node_model(settings))),
            base_digest=base.digest,
            tokenizer_digest=base.tokenizer_digest,
            rank=lora.rank,
            alpha=float(lora.alpha),
            targets=form.targets,
            rslora=form.rslora,
            form=form.form,
            basis=None if lora.basis is None else basis_terms(settings, lora.basis),
            top_layers=settings.model.top_layers,
            context_length=settings.model.context_length,
            schema=tuple((name, tuple(shape)) for name, shape in zip(schema.names, schema.shapes, strict=True)),
            schema_digest=schema.digest,
            initial_seed=settings.seed,
        ),
        strategy=StrategyTerms(
            target=settings.strategy.target,
            settings=strategy_options(
                settings,
                agreed,
                [member.nominal_units for member in members],
                lora.moved,
            ),
        ),
        rounds=settings.rounds,
        personal_steps=settings.personal_steps,
        privacy=agreed,
        secagg=SecAggTerms(
            lane_bits=settings.secagg.lane_bits,
            suite=settings.secagg.suite,
            range_sigmas=settings.secagg.range_sigmas,
            threshold=settings.secagg.threshold_for(n),
            min_survivors=settings.min_survivors_for(n),
            deadline_seconds=settings.secagg.deadline_seconds,
            audit_rounds=settings.secagg.audit_rounds,
            check_fraction=settings.secagg.check_fraction,
            check_probability=settings.secagg.check_probability,
        ),
        not_before=(now - timedelta(minutes=5)).strftime(_FORMAT),
        not_after=(now + _LIFETIME).strftime(_FORMAT),
    )
