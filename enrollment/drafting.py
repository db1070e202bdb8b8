"""Drafting a charter from what was decided and from who asked to join, and signing it where one's policy agrees."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from ..adapter.schema import AdapterSchema
from ..charter import policy as policies
from ..charter import signing
from ..charter.charter import Charter
from ..charter.policy import Policy
from ..charter.terms import BasisTerms, ModelTerms, SecAggTerms, StrategyTerms
from ..privacy.terms import PrivacyTerms
from ..secagg.identity import Identity
from ..strategies.derived import encoding_of, require_fitting, schema_of, strategy_of
from ..training.adapter import LoraSettings
from ..training.base import BaseModel
from .requests import JoinRequest, member_of

_FORMAT: Final = "%Y-%m-%dT%H:%M:%SZ"
LIFETIME: Final = timedelta(days=365)
# Clocks differ: a charter that begins now would be refused by one that is behind.
_BEFORE: Final = timedelta(minutes=5)


@dataclass(frozen=True)
class Decided:
    """All that a charter says beside who its members are.

    Attributes:
        federation: its name, as in the requests. epoch: 0 for the first charter.
        coordinator: public key, hex. The others: as `Charter` has them.
    """

    federation: str
    coordinator: str
    model: ModelTerms
    strategy: StrategyTerms
    rounds: int
    personal_steps: int
    privacy: PrivacyTerms
    secagg: SecAggTerms
    epoch: int = 0


def model_terms(
    base: BaseModel,
    name: str,
    lora: LoraSettings,
    schema: AdapterSchema,
    basis: BasisTerms | None,
    context_length: int,
    initial_seed: int,
) -> ModelTerms:
    """What a charter says of model and adapter.

    Args:
        base: loaded. name: what it is called there. lora, schema: of the adapter. basis: what its frozen directions
            were made of. initial_seed: that the first adapter follows from.
    """
    return ModelTerms(
        name=name,
        base_digest=base.digest,
        tokenizer_digest=base.tokenizer_digest,
        rank=lora.rank,
        alpha=float(lora.alpha),
        targets=lora.targets,
        rslora=lora.rslora,
        form=lora.form,
        basis=basis,
        top_layers=lora.top_layers,
        context_length=context_length,
        schema=tuple((tensor, tuple(shape)) for tensor, shape in zip(schema.names, schema.shapes, strict=True)),
        schema_digest=schema.digest,
        initial_seed=initial_seed,
    )


def drafted(decided: Decided, asked: Iterable[JoinRequest], now: datetime) -> Charter:
    """The charter, not signed yet.

    Args:
        asked: by the members, in the order that the charter names them in. now: the present, with a time zone.

    Raises:
        Refusal: a request is not of this federation or not of its key. UserError: the terms contradict each other, or
            the lanes of secure aggregation are too narrow for the noise.
    """
    charter = Charter(
        federation=decided.federation,
        epoch=decided.epoch,
        members=tuple(member_of(each, decided.federation) for each in asked),
        coordinator=decided.coordinator,
        model=decided.model,
        strategy=decided.strategy,
        rounds=decided.rounds,
        personal_steps=decided.personal_steps,
        privacy=decided.privacy,
        secagg=decided.secagg,
        not_before=_moment(now - _BEFORE),
        not_after=_moment(now + LIFETIME),
    )
    encoding_of(charter, strategy_of(charter), schema_of(charter), 0)
    return charter


def signed(charter: Charter, policy: Policy, name: str, key: Identity, now: datetime) -> bytes:
    """An organization's signature, where its policy agrees.

    Args:
        name: of the member. key: its own. now: the present, with a time zone.

    Raises:
        Refusal: it is not a member under this key, or does not want to act under this charter.
        UserError: no node would, since the strategy does not fit the terms.
    """
    require_fitting(charter)
    policies.check(charter, policy, name, signing.public_hex(key), now)
    return signing.sign_charter(charter, key)


def _moment(when: datetime) -> str:
    return when.astimezone(UTC).strftime(_FORMAT)
