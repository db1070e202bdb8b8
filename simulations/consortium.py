"""A consortium on one machine: homes, keys, policies, and a charter that everybody signed, as in the field.

Each organization gets a home of its own under `nodes/`, with its own key and its own records. The simulation plays all
their parts, once, here; afterwards client and server code see nothing but those folders.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from ..adapter.basis import Basis, load_basis
from ..adapter.schema import AdapterSchema
from ..atomic import write_bytes
from ..charter import charter as charters
from ..charter import signatures, signing
from ..charter.charter import COORDINATOR, Charter
from ..charter.policy import Policy
from ..conf.rates import settled, strategy_options, strategy_terms
from ..conf.schema import Settings
from ..conf.strategy_settings import OwnSettings
from ..conf.terms import secagg_terms, terms
from ..data.corpora.corpus import Corpus
from ..data.records import Record
from ..data.template import encode_all
from ..data.units import group
from ..enrollment import requests
from ..enrollment.drafting import Decided, drafted, model_terms, signed
from ..enrollment.home import Home
from ..enrollment.node_settings import NodeSettings
from ..enrollment.requests import JoinRequest
from ..errors import UserError
from ..privacy.accounting import rounded, rounded_delta
from ..privacy.spending import exposure
from ..secagg.suites import CLASSIC, HYBRID
from ..strategies.derived import load_code, strategy_of
from ..training.adapter import LoraSettings, attach, schema_of
from ..training.base import BaseModel, load_base, require_context
from ..training.source import public_name
from .bases import basis_source, basis_terms, lora_settings, made_basis
from .corpus import COLUMNS, write_records
from .starting import started
from .workspace import Workspace

POOLED = "pooled"


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


def load(settings: Settings, space: Workspace, corpus: Corpus) -> tuple[BaseModel, LoraSettings, AdapterSchema]:
    """The base model in this process, with the adapter attached; its basis is made once and kept.

    Raises:
        UserError: the model cannot be loaded, or no basis be made: see `made_basis`.
    """
    torch.set_num_threads(settings.simulation.workers * settings.simulation.threads_per_worker)
    base = load_base(settings.model, settings.cache, settings.model.device, settings.model.dtype)
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
    _require_same_code(settings, charter)
    load_code(charter, space.strategy)
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
    homes = {name: Home.create(space.nodes / name) for name in corpus.organizations}
    keys = {name: signing.new_key(home.identity, suite) for name, home in homes.items()}
    units, name = declared_units(settings, corpus), federation_name(settings)
    asked = [requests.request(key, name, member, units[member]) for member, key in keys.items()]
    now = datetime.now(UTC)
    charter = drafted(_decided(settings, signing.public_hex(coordinator), asked, base, lora, schema), asked, now)
    signatures_of_all = {COORDINATOR: signing.sign_charter(charter, coordinator)}
    records = corpus.organizations | {POOLED: everything(corpus)}
    for place in (*homes.values(), Home.create(space.pooled)):
        own = place.path.name
        policy = _policy(settings, place.path / "records.jsonl", charter)
        write_records(records[own], policy.data)
        place.set_up(policy, _node(settings, own))
        if own in keys:
            signatures_of_all[own] = signed(charter, policy, own, keys[own], now)
    code = _code(settings, charter)
    for place in (*homes.values(), Home(space.pooled)):
        place.take_up(charter, signatures_of_all, lora.basis, code)
    if code is not None:
        write_bytes(space.strategy, code)
    charters.save(charter, space.server / "charter.yaml")
    # Last, since its presence says that everything before it is there.
    signatures.save(signatures_of_all, space.server / "signatures.json")


def _code(settings: Settings, charter: Charter) -> bytes | None:
    """The file of a strategy that is not the product's own."""
    if not isinstance(settings.strategy, OwnSettings):
        return None
    _, code = settings.strategy.read()
    if code.digest != charter.strategy.code:
        raise UserError(f"{code.file} changed while the consortium was set up", "start again")
    return code.content


def _require_same_code(settings: Settings, charter: Charter) -> None:
    """A run goes on with the strategy that it was begun with.

    Raises:
        UserError: the file has changed since.
    """
    if isinstance(settings.strategy, OwnSettings) and settings.strategy.read()[1].digest != charter.strategy.code:
        raise UserError(
            f"{settings.strategy.code} has changed since this run began",
            "put the file back, set simulation.existing=fresh to start over, or another run_dir",
        )


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


def _policy(settings: Settings, data: Path, charter: Charter) -> Policy:
    """What a cautious organization would allow: this model, this budget, this unit, nothing else."""
    return Policy(
        data=data,
        form="completion" if settings.data.form == "completion" else "instruction",
        columns=COLUMNS,
        max_epsilon=charter.privacy.epsilon,
        models=(charter.model.base_digest,),
        min_members=3,
        unit=settings.privacy.unit,
        allow_without_privacy=not settings.privacy.enabled,
        allow_honest_majority=settings.privacy.trust == "honest_majority",
        strategies=() if charter.strategy.code is None else (charter.strategy.code,),
        allow_start=charter.model.basis is not None and charter.model.basis.start != "zero",
    )


def _node(settings: Settings, name: str) -> NodeSettings:
    return NodeSettings(
        name=name,
        model=settings.model.local,
        cache=settings.cache,
        cache_features=settings.model.cache_features,
        physical_batch_tokens=settings.simulation.physical_batch_tokens,
        threads=settings.simulation.threads_per_worker,
    )


def federation_name(settings: Settings) -> str:
    """As a charter writes it."""
    return settings.name.lower().replace("_", "-").replace(".", "-")


def _decided(
    settings: Settings,
    coordinator: str,
    asked: Sequence[JoinRequest],
    base: BaseModel,
    lora: LoraSettings,
    schema: AdapterSchema,
) -> Decided:
    """What the configuration says of the charter."""
    units = [each.nominal_units for each in asked]
    agreed = terms(settings, max(units), schema.dimension)
    basis = None if lora.basis is None else basis_terms(settings, lora.basis)
    name, context = public_name(settings.model), settings.model.context_length
    return Decided(
        federation=federation_name(settings),
        coordinator=coordinator,
        model=model_terms(base, name, lora, schema, basis, context, settings.seed),
        strategy=strategy_terms(settings, strategy_options(settings, agreed, units, lora.moved)),
        rounds=settings.rounds,
        personal_steps=settings.personal_steps,
        privacy=agreed,
        secagg=secagg_terms(settings, len(units)),
    )


def promised(charter: Charter) -> str:
    """What the charter promises, before anything is spent."""
    terms = charter.privacy
    if not terms.enabled:
        return "no differential privacy"
    bound = f"delta {rounded_delta(terms.delta)} for each {terms.unit}, noise multiplier {terms.noise_multiplier:.3f}"
    shared = exposure(terms, strategy_of(charter).steps_per_round, [charter.rounds])
    if terms.shares is None or shared is None:
        return f"epsilon {rounded(terms.epsilon)} at {bound}"
    return f"{bound}, and the noise is shared: {'; '.join(shared.lines(terms.shares))}"
