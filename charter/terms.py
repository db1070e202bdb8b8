"""What a charter is made of: model and adapter, strategy, secure aggregation, privacy, each with its own rules."""

import hashlib
import json
import math
from dataclasses import MISSING, asdict, fields
from typing import Annotated, Any, Literal, Self, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetPydanticSchema,
    PlainSerializer,
    create_model,
    model_validator,
)

from ..errors import UserError
from ..privacy.terms import PrivacyTerms
from .documents import Document, Hex32, Line

Whole = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, lt=2**32)]
Positive = Annotated[float, Field(gt=0, lt=1e12)]
# A word: what is shown before it is signed holds no terminal codes, and nothing that Hydra would interpolate.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]{0,200}$")]
Scalar = bool | Annotated[int, Field(ge=-(2**53), le=2**53)] | float | Word
Shape = Annotated[tuple[Count, ...], Field(strict=False, min_length=1, max_length=4)]
Tensor = Annotated[tuple[Line, Shape], Field(strict=False)]
_PublicFile = Annotated[tuple[Line, Hex32], Field(strict=False)]
_MOST_TENSORS = 20_000
_MOST_SETTINGS = 64


def _few(value: object, most: int) -> object:
    if isinstance(value, dict) and len(value) > most:
        raise ValueError(f"{len(value)} entries, at most {most} are allowed")
    return value


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

    @property
    def described(self) -> str:
        """The class for people: one of one's own may have the name of one of the product's."""
        return self.rule if self.code is None else f"{self.rule} (code of its own, {self.code[:16]})"

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
