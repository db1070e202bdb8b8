"""YAML documents that people write and organizations exchange: bounded, strict, with one-line errors.

A document that two parsers could read differently must not be signed, so duplicate keys, anchors and aliases are
refused (`strict_yaml`), and types are exact: a quoted number is not a number.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, cast

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ..errors import UserError
from . import strict_yaml

_MOMENT = "%Y-%m-%dT%H:%M:%SZ"


class Document(BaseModel):
    """A frozen value with exactly the declared fields.

    Attributes:
        most_bytes, most_nodes: bounds of its YAML: 1,000 digests of base models in a policy, and no more.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=(), populate_by_name=True
    )
    most_bytes: ClassVar[int] = 150_000
    most_nodes: ClassVar[int] = 5_000


def parse_moment(text: str) -> datetime:
    """The moment that a `Moment` names, with its time zone UTC."""
    return datetime.strptime(text, _MOMENT).replace(tzinfo=UTC)


def _utc(value: object) -> str:
    """A document holds UTC to the second, as text; YAML reads an unquoted one as a `datetime`."""
    if not isinstance(value, datetime):
        return parse_moment(str(value)).strftime(_MOMENT)
    if value.utcoffset() is None or value.microsecond:
        raise ValueError("not a whole second in UTC")
    try:
        return value.astimezone(UTC).strftime(_MOMENT)
    except OverflowError:
        raise ValueError("before the year 1 or after 9999") from None


# Control characters, line and paragraph separators, and what turns the direction of writing; the same in every version
# of Python, since members must not differ in what they take for a charter.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def _plain(text: str) -> str:
    """What is read before it is signed must show what it is."""
    if _CONTROL.search(text):
        raise ValueError("it holds a control character")
    return text


Name = Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$")]
Line = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_plain)]
Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# The public identity key of a suite, see `secagg.identity`: 32 bytes, or 32 + 1952.
IdentityKey = Annotated[str, Field(pattern=r"^([0-9a-f]{64}|[0-9a-f]{3968})$")]
Moment = Annotated[str, BeforeValidator(_utc)]

AnyDocument = TypeVar("AnyDocument", bound=Document)


def read(path: Path, kind: type[AnyDocument]) -> AnyDocument:
    """Read a YAML file as a document of a kind.

    Raises:
        UserError: it cannot be read, is longer than the kind's bound, is not such YAML, or a
            field is missing, unknown or wrong.
    """
    return parse(content(path, kind), kind, str(path))


def content(path: Path, kind: type[Document]) -> bytes:
    """The bytes of a file, one more than the kind's bound at most. Raises UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(kind.most_bytes + 1)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "give the path of a file that you may read") from error


def parse(content: bytes, kind: type[AnyDocument], source: str) -> AnyDocument:
    """The document in `content`; `source` names it in errors. Raises as `read`.

    Equal bytes give the same object: a node reads its three files at every message. That is safe since the key is the
    content itself, a document is frozen, and nothing but its bytes makes it what it is.
    """
    return cast("AnyDocument", _parse(content, kind, source))


@lru_cache(maxsize=128)
def _parse(content: bytes, kind: type[Document], source: str) -> Document:
    if len(content) > kind.most_bytes:
        raise UserError(f"{source}: longer than {kind.most_bytes} bytes", "is this the right file?")
    try:
        fields = strict_yaml.load(content.decode(), kind.most_nodes)
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: not UTF-8", "save it as UTF-8 text") from error
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{source}: not valid YAML, {_one_line(error)}", "correct the syntax") from error
    if not isinstance(fields, dict):
        raise UserError(f"{source}: not a mapping of fields", "write `field: value` lines")
    return validate(fields, kind, source)


def validate(fields: dict[str, Any], kind: type[AnyDocument], source: str) -> AnyDocument:
    """The document with these fields, or one line about the first that is wrong."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the document"
        raise UserError(f"{source}: {field}: {_fault(first)}", _mend(first)) from error


def dump(document: Document) -> str:
    """The YAML text of a document: ASCII, so that no editor changes what was signed."""
    fields = document.model_dump(mode="json", by_alias=True)
    return yaml.safe_dump(fields, sort_keys=False, default_flow_style=None, width=120)


def _one_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}: {getattr(error, 'problem', None)}"
    return " ".join(str(error).split())[:200]


def _fault(error: Any) -> str:
    if error["type"] == "missing":
        return "missing"
    if error["type"] == "extra_forbidden":
        return "unknown field"
    shown = repr(error["input"])
    return f"{error['msg']}, found {shown if len(shown) <= 80 else shown[:77] + '...'}"


def _mend(error: Any) -> str:
    if error["type"] == "missing":
        return "add this field"
    if error["type"] == "extra_forbidden":
        return "remove it or correct its spelling"
    if error["type"] in {"float_type", "int_type"} and isinstance(error["input"], str):
        return "write a number without quotes; YAML needs 1.0e-5 for 1e-5"
    return "correct this field"
