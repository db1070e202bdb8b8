"""`cotune charter`: read a charter, sign it, and check that everybody signed the same one.

Signatures stand beside the charter in `signatures.json`, the coordinator's under the name "coordinator".
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..charter.charter import Charter
    from ..charter.terms import ModelTerms

SIGNATURES = "signatures.json"

File = Annotated[Path, typer.Argument(metavar="FILE", help="The charter, YAML.")]
Beside = Annotated[
    Path | None, typer.Option("--signatures", metavar="FILE", help=f"Default: {SIGNATURES} beside the charter.")
]

app = typer.Typer(help="What the members sign: show it, sign it, verify it.", no_args_is_help=True)


@app.command()
def show(file: File) -> None:
    """What a charter binds you to, in words, and its digest."""
    from ..charter.charter import load
    from ..strategies.derived import require_fitting

    charter = load(file)
    require_fitting(charter)
    for line in _lines(charter):
        typer.echo(line)


@app.command()
def sign(
    file: File,
    key: Annotated[Path, typer.Option("--key", metavar="PATH", help="Your private key (cotune keys new).")],
    signatures: Beside = None,
) -> None:
    """Add your signature. Read `cotune charter show` first: what you sign is what your node will do."""
    from ..charter import signatures as collected
    from ..charter.charter import load
    from ..charter.signing import load_key, public_hex, sign_charter
    from ..strategies.derived import require_fitting

    charter, own = load(file), load_key(key)
    require_fitting(charter)
    name = _signer(charter, public_hex(own))
    path = signatures or file.parent / SIGNATURES
    collected.save(collected.load(path) | {name: sign_charter(charter, own)}, path)
    typer.echo(f"{name} signed {charter.digest()} in {path}")


@app.command()
def verify(file: File, signatures: Beside = None) -> None:
    """Check that every member and the coordinator signed this very charter."""
    from ..charter.signatures import load_signed
    from ..strategies.derived import require_fitting

    charter = load_signed(file, signatures or file.parent / SIGNATURES)
    require_fitting(charter)
    typer.echo(f"signed by all {len(charter.members)} members and the coordinator: {charter.digest()}")


def _signer(charter: "Charter", public: str) -> str:
    from ..charter.charter import COORDINATOR

    names = {member.public_key: member.name for member in charter.members} | {charter.coordinator: COORDINATOR}
    if public not in names:
        raise UserError(f"the charter names nobody with the public key {public}", "have it put into the charter")
    return names[public]


_FORMS = {
    "lora": "LoRA",
    "ffa": "LoRA with A given (ffa)",
    "core": "a core between given directions",
}


def _layers(top: int) -> str:
    return "all layers" if top == 0 else "the last layer" if top == 1 else f"the last {top} layers"


def _basis_lines(model: "ModelTerms") -> list[str]:
    basis = model.basis
    if basis is None:
        return []
    over = f"the loss is taken over {basis.vocabulary} tokens" if basis.vocabulary else "the loss is over all tokens"
    made = f"{basis.source}, whitening {basis.whitening:g}, spared {basis.spared:g}, start {basis.start}"
    files = [f"made of      {name} {digest[:16]}..." for name, digest in basis.files]
    return [f"basis        {made}, {basis.digest[:16]}...; {over}", *files]


def _lines(charter: "Charter") -> list[str]:
    from ..charter.signing import fingerprint

    privacy, model, secagg = charter.privacy, charter.model, charter.secagg
    grid = "" if privacy.grid is None else f" in steps of {privacy.grid_step:.4g}"
    bound = (
        f"epsilon {privacy.epsilon:g}, delta {privacy.delta:.6g} for each {privacy.unit}, noise multiplier "
        f"{privacy.noise_multiplier:g} ({privacy.mechanism}{grid}), sample rate {privacy.sample_rate:g}, at most "
        f"{privacy.records_per_unit} records of a unit in a step, clipped to {privacy.max_grad_norm:g}"
        if privacy.enabled
        else "none: what leaves is clipped and not noised"
    )
    settings = ", ".join(f"{key}={value}" for key, value in sorted(charter.strategy.settings.items()))
    return [
        f"federation   {charter.federation}, epoch {charter.epoch}, {charter.not_before} to {charter.not_after}",
        f"model        {model.name}, base {model.base_digest[:16]}..., tokenizer {model.tokenizer_digest[:16]}...",
        f"adapter      {_FORMS[model.form]}, rank {model.rank}, alpha {model.alpha:g} on {', '.join(model.targets)}, "
        f"{_layers(model.top_layers)}: {model.dimension} trained parameters",
        *_basis_lines(model),
        f"strategy     {charter.strategy.rule}: {settings}",
        *_code_lines(charter),
        f"rounds       {charter.rounds}, then {_personal(charter.personal_steps)}",
        f"privacy      {bound}",
        *(f"             {line}" for line in _exposure_lines(charter)),
        f"sums         {secagg.threshold} shares open a secret, at least {secagg.min_survivors} survivors, "
        f"uploads kept for audits: {secagg.audit_rounds} rounds",
        f"each member's checks of a sum find {secagg.check_fraction:.0%} of false coordinates with probability "
        f"{secagg.check_probability:g}",
        *(
            f"member       {member.name}, {member.nominal_units} units, key {fingerprint(member.public_key)}"
            for member in charter.members
        ),
        f"coordinator  key {fingerprint(charter.coordinator)}",
        f"digest       {charter.digest()}",
    ]


def _code_lines(charter: "Charter") -> list[str]:
    digest, privacy = charter.strategy.code, charter.privacy
    if digest is None:
        return []
    lines = [f"             code of its own, to be read before it is allowed: {digest}"]
    if privacy.shares is not None or privacy.grid is not None or charter.personal_steps:
        lines.append("             what follows holds if it sends one noised gradient a round; the node checks that")
    return lines


def _personal(steps: int) -> str:
    return f"{steps} personal steps at home within the same epsilon" if steps else "no personal steps"


def _exposure_lines(charter: "Charter") -> list[str]:
    """With shared noise: the three epsilons of the whole planned run, and what they rest on."""
    from ..privacy.noise_shares import exposures

    terms = charter.privacy
    if terms.shares is None:
        return []
    # Shared noise means one step a round.
    found = exposures(terms.shares, terms.noise_multiplier, terms.sample_rate, charter.rounds, terms.delta, terms.grid)
    head = "the noise is shared (honest majority): each organization adds"
    sizes = f"{head} {terms.own_multiplier:.4g}, the honest sum carries {terms.noise_multiplier:g}"
    return [sizes, *found.lines(terms.shares)]
