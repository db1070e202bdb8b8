"""`cotune privacy audit` and `cotune privacy invert`: what canaries prove, and what an update gives away."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..attacks.audits import Audit
    from ..attacks.exposure import Exposed

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="The terms, e.g. privacy.epsilon=1 privacy.sample_rate=0.05."),
]
Json = Annotated[bool, typer.Option("--json", help="For programs: one JSON object, every number in full.")]

# For delta, where the configuration does not say how many units there are.
_UNITS = 1000
_AUDITS = "{:<26} {:>8} {:>6} {:>12} {:>17} {:>8} {:>7}  {}"
_EXPOSED = "{:<48} {:>7} {:>10} {:>7}  {}"


def audit(
    overrides: Overrides = None,
    canaries: Annotated[int, typer.Option("--canaries", metavar="M", help="Gradient canaries.")] = 4000,
    texts: Annotated[int, typer.Option("--texts", metavar="M", help="Text canaries; 0 leaves them out.")] = 200,
    confidence: Annotated[float, typer.Option("--confidence", metavar="P", help="Of each bound.")] = 0.95,
    as_json: Json = False,
) -> None:
    """Audit the configured privacy terms on a tiny random model: a lower bound on epsilon, beside the claim.

    The private step is this installation's own. Exit code 1: what was seen contradicts the claim.
    """
    from ..conf.compose import compose

    settings = compose(overrides or [])
    from ..attacks import audits

    show: Callable[[str], None] = (lambda line: None) if as_json else typer.echo
    show(_AUDITS.format("audit", "canaries", "steps", "right", "epsilon at least", "claimed", "excess", "").rstrip())
    results = []
    for one in audits.audit(settings, canaries, texts, confidence):
        results.append(one)
        show(_audit_line(one))
    show(f"epsilon at least: with confidence {confidence:g} each, at delta {results[0].delta:.3g}")
    show("excess: standard deviations by which canaries show through more than the claimed noise lets them; 6 alarms")
    if as_json:
        typer.echo(json.dumps({"audits": [asdict(one) for one in results]}, indent=2))
    if any(one.alarm for one in results):
        raise typer.Exit(1)


def invert(
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option("--trials", metavar="N", help="How often everything is attacked.")] = 20,
    seed: Annotated[int, typer.Option("--seed", help="Of records and adapters.")] = 0,
    as_json: Json = False,
) -> None:
    """Recover a record's tokens from an organization's update: the plain one, sums, noised and masked ones."""
    from ..conf.compose import compose

    settings = compose(overrides or [])
    if not settings.privacy.enabled:
        raise UserError("privacy.enabled=false has no noise to compare with", "choose privacy=dp")
    if trials < 1:
        raise UserError(f"--trials is {trials}", "give a positive number")
    from ..attacks.exposure import exposure
    from ..attacks.subject import LARGEST_RANK, coordinates
    from ..conf.terms import terms

    units = settings.data.units_per_organization or _UNITS
    agreed = terms(settings, units, coordinates(LARGEST_RANK)).alone
    lines = exposure(agreed, trials, seed)
    if as_json:
        found = {"noise_multiplier": agreed.noise_multiplier, "trials": trials, "seen": [asdict(one) for one in lines]}
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(_EXPOSED.format("what the attacker sees", "records", "recovered", "chance", "by"))
    for one in lines:
        typer.echo(_exposed_line(one))
    typer.echo(f"noise multiplier {agreed.noise_multiplier:.3f}, clip norm {agreed.max_grad_norm:g}, {trials} trials")


def _audit_line(one: "Audit") -> str:
    claimed = "none" if one.claimed is None else f"{one.claimed:.3f}"
    beyond = "-" if one.excess is None else f"{one.excess:.1f}"
    right = f"{one.right} of {one.guesses}"
    alarm = "ALARM" if one.alarm else ""
    bound = f"{one.at_least:.2f}"
    return _AUDITS.format(one.audit, one.canaries, one.steps, right, bound, claimed, beyond, alarm).rstrip()


def _exposed_line(one: "Exposed") -> str:
    return _EXPOSED.format(one.seen, one.records, f"{one.recovered:.1%}", f"{one.chance:.1%}", one.attack)
