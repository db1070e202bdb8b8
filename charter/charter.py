"""The charter: what every member and the coordinator sign, and from which every setting of a run follows.

What is signed are the canonical bytes: JSON of all fields in UTF-8 with sorted keys and the shortest decimal form of
every float. Two charters with the same bytes are the same charter, whatever their YAML looked like.
"""

import hashlib
import json
import math
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetPydanticSchema,
    PlainSerializer,
    create_model,
    model_validator,
)

from .. import atomic
from ..errors import UserError
from ..privacy.adversaries import require_plain
from ..privacy.terms import PrivacyTerms, largest_delta
from ..secagg.plan import least_threshold
from ..secagg.roster import MIN_MEMBERS, Roster
from ..secagg.suites import SUITES, Suite
from ..spelling import plain
from . import documents
from .documents import Document, Hex32, IdentityKey, Line, Moment, Name, parse_moment
from .mechanism import check_grid
from .messages import MAX_RECORDS
from .sharing import check_sharing

Whole = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, lt=2**32)]
Positive = Annotated[float, Field(gt=0, lt=1e12)]
# A word: what is shown before it is signed holds no terminal codes, and nothing that Hydra would interpolate.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{0,200}$")]
Scalar = bool | Annotated[int, Field(ge=-(2**53), le=2**53)] | float | Word
Shape = Annotated[tuple[Count, ...], Field(strict=False, min_length=1, max_length=4)]
Tensor = Annotated[tuple[Line, Shape], Field(strict=False)]
_PublicFile = Annotated[tuple[Line, Hex32], Field(strict=False)]

COORDINATOR = "coordinator"

_MOST_MEMBERS = 200
_MOST_TENSORS = 20_000
_MOST_SETTINGS = 64


def _few(value: object, most: int) -> object:
    if isinstance(value, dict) and len(value) > most:
        raise ValueError(f"{len(value)} entries, at most {most} are allowed")
    return value


class Member(Document):
    """An organization: its name, public identity key (hex) and the number of units by which its sum is weighed."""

    name: Name
    public_key: IdentityKey
    nominal_units: Count


class BasisTerms(Document):
    """The frozen directions of an adapter form: their digest, and what they were made of.

    `source`: "public" text, text that the base model has "self_written", "random" or the "weights"; `files`: (name,
    SHA-256) of public files, for whoever wants to make it again. `start`: "public", an adapter trained on public rows
    with their right answers is part of it; or "zero", training begins at the base model.
    """

    digest: Hex32
    source: Literal["public", "self_written", "random", "weights"]
    whitening: Annotated[float, Field(ge=0, le=0.5)]
    spared: Annotated[float, Field(ge=0, le=0.5)]
    start: Literal["zero", "public"]
    vocabulary: Whole
    files: Annotated[tuple[_PublicFile, ...], Field(strict=False, max_length=64)] = ()


class ModelTerms(Document):
    """The base model by its digests, the adapter by its settings and its schema.

    `adapter_schema` stands under the key `schema`: (name, shape) of every trained tensor in the order of the flat
    vector; `schema_digest` is the SHA-256 of its JSON. The first adapter follows from the schema and `initial_seed`.
    """

    name: Line
    base_digest: Hex32
    tokenizer_digest: Hex32
    rank: Count
    alpha: Positive
    targets: Annotated[tuple[Line, ...], Field(strict=False, min_length=1, max_length=64)]
    rslora: bool
    form: Literal["lora", "ffa", "core"] = "lora"
    basis: BasisTerms | None = None
    top_layers: Whole
    context_length: Count
    adapter_schema: Annotated[
        tuple[Tensor, ...], Field(strict=False, min_length=1, max_length=_MOST_TENSORS, fail_fast=True)
    ] = Field(alias="schema")
    schema_digest: Hex32
    initial_seed: Annotated[int, Field(ge=0, lt=2**63)]

    @property
    def dimension(self) -> int:
        """Coordinates of the adapter."""
        return sum(math.prod(shape) for _, shape in self.adapter_schema)

    @model_validator(mode="after")
    def _check_digest(self) -> Self:
        lists = [[name, list(shape)] for name, shape in self.adapter_schema]
        found = hashlib.sha256(json.dumps(lists, separators=(",", ":")).encode()).hexdigest()
        if found != self.schema_digest:
            raise UserError("model.schema_digest is not that of model.schema", "draft the charter again")
        if (self.basis is None) != (self.form == "lora"):
            raise UserError(f"model.form {self.form} and model.basis do not fit", "draft the charter again")
        return self


class StrategyTerms(Document):
    """The strategy's class and its settings.

    `target`: one of the product's own, "cotune.strategies.dp_fedsgd.DPFedSGD"; or the name alone of a class of one's
    own, in the file whose SHA-256 is `code`. A node runs such a file only where its policy lists the digest.
    """

    target: Annotated[str, Field(pattern=r"^(cotune\.strategies\.[a-z0-9_]{1,64}\.)?[A-Z][A-Za-z0-9]{0,63}$")]
    code: Hex32 | None = None
    settings: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")], Scalar],
        Field(max_length=_MOST_SETTINGS),
        # Before each of them is looked at: errors about thousands take seconds.
        BeforeValidator(lambda value: _few(value, _MOST_SETTINGS)),
    ]

    @property
    def rule(self) -> str:
        """The name of the class alone."""
        return self.target.rsplit(".", 1)[-1]

    @model_validator(mode="after")
    def _check_code(self) -> Self:
        if ("." in self.target) != (self.code is None):
            raise UserError(
                f"strategy.target {self.target} and strategy.code do not fit",
                "give the digest of a class of your own, and none of the product's",
            )
        return self


class SecAggTerms(Document):
    """Secure aggregation: lane width, the shares that open a secret, the fewest survivors, seconds for an exchange.

    `suite`: "classic" or "hybrid" (with post-quantum keys); `range_sigmas`: how many standard deviations of the noise
    the encoding's range holds; `audit_rounds`: for how many of the last rounds the coordinator keeps the masked
    uploads, so that members can recompute the sums; `check_fraction`, `check_probability`: after each round every
    member recomputes so many pieces of the sum that it finds, with this probability, a sum that is false in this
    fraction of its coordinates.
    """

    suite: Literal["classic", "hybrid"]
    lane_bits: Annotated[int, Field(ge=8, le=32)]
    range_sigmas: Positive
    threshold: Count
    min_survivors: Count
    deadline_seconds: Positive
    audit_rounds: Annotated[int, Field(ge=1, le=1_000)]
    check_fraction: Annotated[float, Field(gt=0, le=0.25)]
    check_probability: Annotated[float, Field(ge=0.5, le=1)]


def _privacy_fields() -> type[Document]:
    """The fields of `PrivacyTerms` as a document holds them: exact types, no others, whole numbers bounded."""
    types = get_type_hints(PrivacyTerms) | {
        field.name: Annotated[int, Field(ge=0, lt=2**41)] if field.name == "dimension" else Whole
        for field in fields(PrivacyTerms)
        if field.type is int
    }
    given: dict[str, Any] = {
        field.name: (types[field.name], ... if field.default is MISSING else field.default)
        for field in fields(PrivacyTerms)
    }
    return create_model("_PrivacyFields", __base__=Document, **given)


_CHECKED: Any = Annotated[
    _privacy_fields(),
    BeforeValidator(lambda value: asdict(value) if isinstance(value, PrivacyTerms) else value),
    AfterValidator(lambda document: PrivacyTerms(**document.model_dump())),
    PlainSerializer(asdict),
]
Privacy = Annotated[PrivacyTerms, GetPydanticSchema(lambda _, handler: handler.generate_schema(_CHECKED))]


class Charter(Document):
    """What the members signed.

    Raises:
        UserError: the terms contradict each other or the rules of secure aggregation and privacy; at construction.
        pydantic.ValidationError: a field of the wrong type or range. `load` turns it into a `UserError`.
    """

    # 200 members with keys of suite "hybrid" and 20,000 tensors with long names are 2.8 MB, and with
    # shapes of four numbers 140,000 nodes.
    most_bytes: ClassVar[int] = 3_000_000
    most_nodes: ClassVar[int] = 150_000

    version: Literal[1] = 1
    federation: Name
    epoch: Whole
    members: Annotated[tuple[Member, ...], Field(strict=False, max_length=_MOST_MEMBERS, fail_fast=True)]
    coordinator: IdentityKey
    model: ModelTerms
    strategy: StrategyTerms
    # A node that was away gets all records in one message.
    rounds: Annotated[int, Field(ge=1, le=MAX_RECORDS)]
    # Private steps that a member may take at home after the last round; the noise is calibrated to them too.
    personal_steps: Annotated[int, Field(ge=0, le=MAX_RECORDS)] = 0
    privacy: Privacy
    secagg: SecAggTerms
    not_before: Moment
    not_after: Moment

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_members(self)
        _check_secagg(self.secagg, len(self.members))
        _check_privacy(self)
        if self.privacy.shares is not None:
            agreed = self.secagg
            check_sharing(
                self.privacy.shares,
                len(self.members),
                agreed.threshold,
                agreed.min_survivors,
            )
        if self.privacy.grid is not None:
            check_grid(self.privacy.grid, self.model.dimension)
        if not parse_moment(self.not_before) < parse_moment(self.not_after):
            raise UserError(f"not_before {self.not_before} is not before not_after", "order the two dates")
        return self

    def canonical_bytes(self) -> bytes:
        """What is signed."""
        return _canonical(self.model_dump(mode="json", by_alias=True))

    def digest(self) -> str:
        """Hex SHA-256 of the canonical bytes."""
        return hashlib.sha256(self.canonical_bytes()).hexdigest()

    def roster(self) -> Roster:
        """The roster of secure aggregation: the members in the order of the charter."""
        members = tuple(bytes.fromhex(member.public_key) for member in self.members)
        suite = _suite(self.secagg)
        return Roster(self.federation, self.epoch, members, bytes.fromhex(self.coordinator), suite.id)

    def index_of(self, name: str) -> int:
        """The roster's index of a member. Raises KeyError where it is none."""
        for index, member in enumerate(self.members):
            if member.name == name:
                return index
        raise KeyError(name)

    def dp_hash(self) -> bytes:
        """32 bytes that stand for the privacy terms in every round's plan."""
        return hashlib.sha256(
            b"cotune/charter/v1/privacy" + _canonical(self.model_dump(mode="json")["privacy"])
        ).digest()

    def schema_hash(self) -> bytes:
        """32 bytes that stand for the adapter's schema in every round's plan, and for all else that was signed.

        So a transcript holds under one charter only.
        """
        return hashlib.sha256(b"cotune/charter/v1/schema" + bytes.fromhex(self.digest())).digest()


def model_hash(base_digest: str, tokenizer_digest: str, adapter_digest: str) -> bytes:
    """32 bytes that stand for all weights of a round in its plan: base, tokenizer and the current adapter.

    Args:
        base_digest: hex SHA-256.
        tokenizer_digest: hex SHA-256.
        adapter_digest: hex SHA-256 of the adapter's float32 bytes.
    """
    parts = [bytes.fromhex(digest) for digest in (base_digest, tokenizer_digest, adapter_digest)]
    if any(len(part) != 32 for part in parts):
        raise ValueError("a digest is not 32 bytes")
    return hashlib.sha256(b"cotune/charter/v1/model" + b"".join(parts)).digest()


def load(path: Path) -> Charter:
    """Read a charter from YAML. Raises UserError in one line."""
    return documents.read(path, Charter)


def save(charter: Charter, path: Path) -> None:
    """Write a charter as YAML, atomically; `load` gives an equal charter."""
    atomic.write_text(path, documents.dump(charter))


def _canonical(fields: object) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _check_members(charter: Charter) -> None:
    if len(charter.members) < MIN_MEMBERS:
        raise UserError(
            f"the charter has {len(charter.members)} members: with two, each learns the other's update by subtracting "
            "its own from the sum",
            "add members until there are three or more",
        )
    names = [member.name for member in charter.members]
    keys = [*(member.public_key for member in charter.members), charter.coordinator]
    if len(set(names)) != len(names) or COORDINATOR in names:
        raise UserError(f"members: a name stands twice or is {COORDINATOR!r}", "give every member a name of its own")
    if len(set(keys)) != len(keys):
        raise UserError("members: a public key stands twice", "give every member and the coordinator a key of its own")
    suite = _suite(charter.secagg)
    named = [(member.name, member.public_key) for member in charter.members] + [(COORDINATOR, charter.coordinator)]
    for name, key in named:
        if len(key) != 2 * suite.identity_bytes:
            raise UserError(
                f"the key of {name} is not one of suite {suite.name}",
                f"make it by `cotune keys new --suite {suite.name}`, or change secagg.suite",
            )


def _suite(terms: SecAggTerms) -> Suite:
    return next(suite for suite in SUITES.values() if suite.name == terms.suite)


def _check_secagg(terms: SecAggTerms, n: int) -> None:
    least = least_threshold(n)
    if not least <= terms.threshold <= n:
        raise UserError(
            f"secagg.threshold is {terms.threshold} for {n} members: fewer than {least} lets two quorums disagree",
            f"set it from {least} to {n}",
        )
    if not max(MIN_MEMBERS, terms.threshold) <= terms.min_survivors <= n:
        raise UserError(
            f"secagg.min_survivors is {terms.min_survivors}", f"set it from {max(MIN_MEMBERS, terms.threshold)} to {n}"
        )


def _check_privacy(charter: Charter) -> None:
    terms = charter.privacy
    if not 0 < len(terms.unit) <= 64 or plain(terms.unit) != terms.unit:
        raise UserError(
            "privacy.unit is not a plain word", "name what one unit is in at most 64 plain characters, e.g. patient"
        )
    require_plain(terms.unit)
    most = largest_delta(max(member.nominal_units for member in charter.members))
    if terms.enabled and terms.delta > most:
        raise UserError(f"privacy.delta is {terms.delta}", f"set it to at most 1 / (10 units) = {most:.3g}")
