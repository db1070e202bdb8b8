"""A join request: what an organization tells whoever drafts the charter, signed with the key that it will sign with.

The signature shows that who asks holds the key; whose key it is, people find out by reading its fingerprint aloud.
"""

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field

from .. import atomic
from ..charter import documents
from ..charter.charter import Member
from ..charter.documents import Document, IdentityKey, Name
from ..charter.refusal import Refusal
from ..charter.signing import public_hex
from ..charter.terms import Count
from ..secagg.identity import Identity, verify

_DOMAIN = b"cotune/enrollment/v1/join\0"


class JoinRequest(Document):
    """One organization's wish to be a member.

    Attributes:
        federation: which it wants to join. name: what it is called there.
        public_key: hex. nominal_units: how many privacy units it declares, a round number that holds all of its own.
        signature: hex, over all of these.
    """

    federation: Name
    name: Name
    public_key: IdentityKey
    nominal_units: Count
    signature: Annotated[str, Field(pattern=r"^([0-9a-f]{128}|[0-9a-f]{6746})$")]


def request(key: Identity, federation: str, name: str, nominal_units: int) -> JoinRequest:
    """A signed request. Raises pydantic.ValidationError where a name is none."""
    said = {"federation": federation, "name": name, "public_key": public_hex(key), "nominal_units": nominal_units}
    return JoinRequest.model_validate({**said, "signature": key.sign(_signed(said)).hex()})


def member_of(asked: JoinRequest, federation: str) -> Member:
    """The charter's entry for who asked.

    Raises:
        Refusal: "join.federation" where it asked to join another, "join.signature" where the key signed something else.
    """
    if asked.federation != federation:
        raise Refusal("join.federation", f"{asked.name} asks to join {asked.federation}", "ask for a new request")
    said = asked.model_dump(exclude={"signature"})
    if not verify(bytes.fromhex(asked.public_key), bytes.fromhex(asked.signature), _signed(said)):
        raise Refusal("join.signature", f"the request of {asked.name} is not signed by its key", "ask for a new one")
    return Member(name=asked.name, public_key=asked.public_key, nominal_units=asked.nominal_units)


def load(path: Path) -> JoinRequest:
    """Read a request. Raises UserError in one line."""
    return documents.read(path, JoinRequest)


def save(asked: JoinRequest, path: Path) -> None:
    """Write a request as YAML, atomically."""
    atomic.write_text(path, documents.dump(asked))


def _signed(said: dict[str, object]) -> bytes:
    return _DOMAIN + json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
