"""An organization's own policy: what it allows whatever the charter says. The stricter of the two holds."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from .. import atomic
from ..spelling import plain_id
from . import documents
from .charter import Charter
from .columns import Columns, Form, Turns
from .documents import Document, Hex32, Line, parse_moment
from .refusal import Refusal


class Policy(Document):
    """`policy.yaml`.

    Attributes:
        data: the organization's records; never part of a charter.
        form, columns, turns: how they are read.
        max_epsilon: the largest budget of a charter it joins; 0 where it joins none with privacy.
        models: digests of the base models that it trains, or "any".
        min_members: the smallest federation it joins.
        unit: the privacy unit that its records are grouped by.
        allow_without_privacy: whether it joins a charter that disables differential privacy.
        allow_honest_majority: whether it joins a charter whose noise is shared, so that its budget is held against the
            coordinator and the charter's number of colluders only; denied unless it says so.
        allow_start: whether it joins a charter whose adapter begins as one that was trained on public rows. Nobody here
            can tell it from one that was trained on anything else; denied unless it says so.
        strategies: digests of files of strategies that are not the product's own and that it runs; somebody here has
            read each of them. None by default.
        max_spoiled_rounds: how many contributions to a run may be charged and come to nothing, whoever spoiled them; it
            makes no further one then.
        max_runs: how many runs of one charter it takes part in. A run that is continued keeps its id and counts once.
    """

    data: Annotated[Path, Field(strict=False)]
    form: Form
    columns: Columns
    turns: Turns = "last"
    max_epsilon: Annotated[float, Field(ge=0)]
    models: Literal["any"] | Annotated[tuple[Hex32, ...], Field(strict=False, max_length=1_000)]
    min_members: Annotated[int, Field(ge=3)]
    unit: Line
    allow_without_privacy: bool
    allow_honest_majority: bool = False
    allow_start: bool = False
    strategies: Annotated[tuple[Hex32, ...], Field(strict=False, max_length=100)] = ()
    max_runs: Annotated[int, Field(ge=1, le=1_000)] = 1
    max_spoiled_rounds: Annotated[int, Field(ge=1, le=10_000)] = 2


def load(path: Path) -> Policy:
    """Read a policy from YAML. Raises UserError in one line."""
    return documents.read(path, Policy)


def save(policy: Policy, path: Path) -> None:
    """Write a policy as YAML, atomically."""
    atomic.write_text(path, documents.dump(policy))


def check(charter: Charter, policy: Policy, name: str, public_key: str, now: datetime) -> None:
    """Refuse to act under a charter that this organization must not or does not want to act under.

    Nothing of its data has a part in this, so it comes before they are read; `check_units` comes after.

    Args:
        name: of this node.
        public_key: its own, as hex.
        now: the present, with a time zone.

    Raises:
        Refusal: the first of `refusals`.
    """
    for refusal in refusals(charter, policy, name, public_key, now):
        raise refusal


def check_code(charter: Charter, policy: Policy) -> None:
    """Refuse, "policy.strategy", to run a strategy that is neither the product's own nor one that the policy lists.

    Part of `check`, and to be asked by itself before such code is loaded.
    """
    for refusal in _code(charter, policy):
        raise refusal


def check_units(charter: Charter, name: str, n_units: int) -> None:
    """Refuse to train on data that the charter does not cover.

    Args:
        name: of this node. n_units: how many units its data really holds.

    Raises:
        Refusal: they hold none, or more than the charter declares.
    """
    for refusal in unit_refusals(charter, name, n_units):
        raise refusal


def refusals(charter: Charter, policy: Policy, name: str, public_key: str, now: datetime) -> Iterator[Refusal]:
    """Every reason against acting under a charter, the gravest first; none where it is fine. Arguments as `check`."""
    yield from _identity(charter, name, public_key)
    yield from _code(charter, policy)
    yield from _dates(charter, now)
    yield from _privacy(charter, policy)
    if policy.models != "any" and charter.model.base_digest not in policy.models:
        yield Refusal(
            "policy.model",
            f"the base model {charter.model.name} ({charter.model.base_digest}) is not in the policy",
            "add its digest to models in policy.yaml if you trust it",
        )
    basis = charter.model.basis
    if basis is not None and basis.start != "zero" and not policy.allow_start:
        yield Refusal(
            "policy.start",
            "the charter's adapter begins as one that was trained on public rows, under the digest of the basis",
            "ask for model.basis.start=zero, or set allow_start if you trust who made the basis",
        )
    if len(charter.members) < policy.min_members:
        yield Refusal(
            "policy.members",
            f"the charter has {len(charter.members)} members, the policy asks for {policy.min_members}",
            "wait for a larger federation or lower min_members",
        )


def check_runs(policy: Policy, seen: int) -> None:
    """Refuse a new run, "policy.runs", where the node has seen as many of this charter as the policy allows."""
    if seen >= policy.max_runs:
        raise Refusal(
            "policy.runs",
            f"this node has seen {seen} of the charter's runs, the policy allows {policy.max_runs}",
            "continue that run, or raise max_runs in policy.yaml",
        )


def _identity(charter: Charter, name: str, public_key: str) -> Iterator[Refusal]:
    keys = {member.name: member.public_key for member in charter.members}
    if name not in keys:
        yield Refusal("charter.member", f"{name} is not a member", "check this node's name and the charter")
    elif keys[name] != public_key:
        yield Refusal("charter.key", f"the charter holds another key for {name}", "sign a charter with this node's key")


def _code(charter: Charter, policy: Policy) -> Iterator[Refusal]:
    """An organization runs only code that it installed or read."""
    asked = charter.strategy.code
    if asked is None or asked in policy.strategies:
        return
    allowed = ", ".join(f"{digest[:16]}..." for digest in policy.strategies) or "the product's own strategies only"
    yield Refusal(
        "policy.strategy",
        f"the charter asks for the strategy {charter.strategy.target} of the file {asked}, the policy allows {allowed}",
        "read the file, and add its digest to strategies in policy.yaml if you trust it",
    )


def _dates(charter: Charter, now: datetime) -> Iterator[Refusal]:
    if now < parse_moment(charter.not_before):
        yield Refusal("charter.early", f"the charter begins at {charter.not_before}", "wait or check this clock")
    if now >= parse_moment(charter.not_after):
        yield Refusal("charter.late", f"the charter ended at {charter.not_after}", "agree on a new charter")


def _privacy(charter: Charter, policy: Policy) -> Iterator[Refusal]:
    terms = charter.privacy
    if plain_id(terms.unit) != plain_id(policy.unit):
        yield Refusal(
            "policy.unit",
            f"the charter protects each {terms.unit}, the records are grouped by {policy.unit}",
            "group the records by the charter's unit",
        )
    if not terms.enabled:
        if not policy.allow_without_privacy:
            yield Refusal(
                "policy.privacy",
                "the charter disables differential privacy",
                "ask for it, or set allow_without_privacy for data that is public",
            )
        return
    if terms.epsilon > policy.max_epsilon:
        yield Refusal(
            "policy.epsilon",
            f"the charter asks for epsilon {terms.epsilon:g}, the policy allows {policy.max_epsilon:g}",
            "agree on a smaller epsilon",
        )
    yield from _trust(charter, policy)


def _trust(charter: Charter, policy: Policy) -> Iterator[Refusal]:
    """Shared noise is for those who opted in."""
    if charter.privacy.shares is not None and not policy.allow_honest_majority:
        yield Refusal(
            "policy.trust",
            "the charter shares the noise among organizations, so its epsilon holds for an honest majority only",
            "ask for privacy.trust=nobody, or set allow_honest_majority after reading the charter's three epsilons",
        )


def unit_refusals(charter: Charter, name: str, n_units: int) -> Iterator[Refusal]:
    """What a sum may hold at most, delta, and the range of shared noise follow from the declared units."""
    if n_units < 1:
        yield Refusal("policy.empty", "the data holds no unit", "check data and columns in policy.yaml")
    declared = next((member.nominal_units for member in charter.members if member.name == name), n_units)
    if n_units > declared:
        yield Refusal(
            "charter.units",
            f"the data holds {n_units} units, the charter declares {declared}",
            "declare nominal_units that cover the data",
        )
