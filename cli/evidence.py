"""`cotune transcript evidence`: whether a file proves that a coordinator signed a false sum.

The charter is all that is needed beside the file. Exit code 1: it proves nothing; 2: it could not be checked.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UserError

_PROVES_NOTHING = 1


def evidence(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Evidence that a member's node wrote.")],
    charter: Annotated[Path, typer.Option("--charter", metavar="FILE", help="The charter that you trust, YAML.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a line.")] = False,
) -> None:
    """Check evidence that the coordinator signed a sum that is not the sum of what the members signed."""
    from ..charter.charter import load
    from ..secagg.evidence import Evidence, false_sum
    from ..secagg.refused import Refused

    agreed, raw = load(charter), _content(file)
    about: dict[str, object] = {}
    try:
        verified = false_sum(raw, agreed.roster())
        plan, number = verified.plan, Evidence.decode(raw).number
        about = {"run": plan.run.hex(), "round": plan.round + 1, "attempt": plan.attempt + 1, "piece": number}
        what = f"round {plan.round + 1} of run {plan.run.hex()}: the coordinator signed a sum"
        said = f"proved: {what} that is false in piece {number}"
    except Refused as no:
        if no.code == "evidence.format":
            raise UserError(f"{file}: {no.text}", "give a file that a member's node wrote as evidence") from None
        about = {"code": no.code, "part": no.part}
        said = f"not proved: {f'{no.part}: ' if no.part else ''}{no.text} ({no.code})"
    proved = "round" in about
    typer.echo(json.dumps({"proved": proved, **about}, indent=2) if as_json else said)
    if not proved:
        raise typer.Exit(_PROVES_NOTHING)


def _content(file: Path) -> bytes:
    """The file, if it is not larger than evidence can be."""
    from ..secagg.evidence import MAX_EVIDENCE

    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_EVIDENCE + 1)
    except OSError as problem:
        raise UserError(f"{file}: {problem.strerror}", "give the path of evidence that you may read") from None
    if len(raw) > MAX_EVIDENCE:
        raise UserError(f"{file}: larger than evidence can be", "give a file that a member's node wrote as evidence")
    return raw
