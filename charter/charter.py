"""The charter: what every member and the coordinator sign, and from which every setting of a run follows.

What is signed are the canonical bytes: JSON of all fields in UTF-8 with sorted keys and the shortest decimal form of
every float. Two charters with the same bytes are the same charter, whatever their YAML looked like.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    Field,
    model_validator,
)

from .. import atomic
from ..errors import UserError
from ..privacy.adversaries import require_plain
from ..privacy.terms import largest_delta
from ..secagg.plan import least_threshold
from ..secagg.roster import MIN_MEMBERS, Roster
from ..secagg.suites import SUITES, Suite
from ..spelling import plain
from . import documents
from .documents import Document, IdentityKey, Moment, Name, parse_moment
from .mechanism import check_grid
from .messages import MAX_RECORDS
from .sharing import check_sharing
from .terms import Count, ModelTerms, Privacy, SecAggTerms, StrategyTerms, Whole

COORDINATOR = "coordinator"

_MOST_MEMBERS = 200


class Member(Document):
    """An organization: its name, public identity key (hex) and the number of units by which its sum is weighed."""

    name: Name
    public_key: IdentityKey
    nominal_units: Count


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
