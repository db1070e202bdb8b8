"""`cotune transcript`: check a run from the charter's keys alone, and recompute its sums from the kept uploads.

Rounds and attempts count from 1, as in a run's progress; the folders of a run directory count from 0. Nothing here
writes, and nothing needs a secret key. Exit code 1: something does not hold; 2: it could not be checked.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from .evidence import evidence

if TYPE_CHECKING:
    from ..charter.charter import Charter
    from ..secagg.record import Verified
    from ..verify.findings import Finding
    from ..verify.forks import AtHome, Seen
    from ..verify.transcripts import CheckedRun
    from ..verify.uploads import AuditedPiece

app = typer.Typer(help="Check a run's transcript, and audit its sums.", no_args_is_help=True)
app.command()(evidence)
CharterFile = Annotated[Path, typer.Option("--charter", metavar="FILE", help="The charter that you trust, YAML.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")]
DOES_NOT_HOLD = 1
_HEAD_SHOWN = 12
_RANDOM_PIECES = 100
_HOLDS, _FAILS = "holds", "does not hold"
_COLUMNS = ("round", "attempt", "advertised", "shared", "survived", "dropped", "head", "verdict")
_AUDIT_COLUMNS = ("piece", "words", "verdict", "to blame")
_AUDIT_KEYS = ("piece", "words", "verdict", "to_blame")


@app.command()
def verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A transcript, or a coordinator's run directory.")],
    charter: CharterFile,
    home: Annotated[
        Path | None, typer.Option("--home", metavar="HOME", help="Also compare with what this node has seen.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check every round of a run: signatures, quorum, revealed secrets, and the chain of heads."""
    from ..charter.charter import load
    from ..verify.forks import compare
    from ..verify.transcripts import check

    agreed = load(charter)
    checked = check(file, agreed)
    at_home = None if home is None else compare(_seen(home, agreed), checked.verified)
    finding = checked.finding
    if finding is None and at_home is not None and not at_home.holds:
        finding = at_home.finding()
    if as_json:
        typer.echo(json.dumps(_verified_document(checked, at_home, finding), indent=2))
    else:
        _show([_COLUMNS, *_rows(checked)])
        if at_home is not None and at_home.holds:
            typer.echo(f"{home}: {at_home.text}")
        typer.echo(f"{_FAILS}: {finding.line}" if finding else f"{_HOLDS}: {_summary(checked)}")
    if finding is not None:
        raise typer.Exit(DOES_NOT_HOLD)


@app.command()
def audit(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A coordinator's run directory, or a copy.")],
    charter: CharterFile,
    round_: Annotated[int | None, typer.Option("--round", min=1, help="Default: the last that has a record.")] = None,
    pieces: Annotated[str | None, typer.Option("--pieces", metavar="0,3,...", help="Piece 0 and these.")] = None,
    some: Annotated[
        int | None,
        typer.Option("--random", metavar="K", min=1, help=f"Piece 0, K by lot; default {_RANDOM_PIECES}."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every piece.")] = False,
    as_json: AsJson = False,
) -> None:
    """Recompute pieces of a round's sum from the masked uploads that the coordinator keeps."""
    from ..charter.charter import load
    from ..verify.transcripts import check
    from ..verify.uploads import audited, pieces_of

    if sum((pieces is not None, some is not None, every)) > 1:
        raise UserError("--pieces, --random and --all exclude each other", "choose one of them")
    agreed = load(charter)
    checked = check(run_dir, agreed)
    number = _asked_round(run_dir, checked, round_)
    record = next((found for found in checked.verified if found.plan.round == number), None)
    total = pieces_of(record) if record else 0
    found, wrong = audited(run_dir, checked, record, _chosen(total, pieces, some, every)) if record else ([], [])
    rows = [_audited_row(agreed, one) for one in found]
    wrong += [checked.finding.line] if checked.finding else []
    if as_json:
        parts = [dict(zip(_AUDIT_KEYS, row, strict=True)) for row in rows]
        document = {"holds": not wrong, "round": number + 1, "of_pieces": total, "pieces": parts, "faults": wrong}
        typer.echo(json.dumps(document, indent=2))
    else:
        _show([_AUDIT_COLUMNS, *rows])
        said = f"round {number + 1}, {len(rows)} of {total} pieces are the sum of the uploads that the members signed"
        typer.echo(f"{_FAILS}: {wrong[0]}" if wrong else f"{_HOLDS}: {said}")
    if wrong:
        raise typer.Exit(DOES_NOT_HOLD)


def _audited_row(charter: "Charter", one: "AuditedPiece") -> tuple[str, ...]:
    from ..verify.findings import NOBODY, audit_blame

    if one.fault is None:
        return str(one.number), str(one.words), _HOLDS, NOBODY
    return str(one.number), str(one.words), _FAILS, audit_blame(charter, one.fault)


def _seen(path: Path, charter: "Charter") -> "Seen":
    """What the node of a home has seen of the charter's runs.

    Raises:
        UserError: the home cannot be read, or is of another charter.
    """
    from ..charter.charter import load
    from ..client.home import NodeHome
    from ..enrollment.node_settings import load as load_settings
    from ..verify.forks import Seen

    home = NodeHome(path)
    if load(home.charter).digest() != charter.digest():
        raise UserError(f"{path}: this node signed another charter", "give the charter that it signed")
    runs = {run: (chain.round, chain.head) for run, chain in home.chains().items()}
    return Seen(path, charter.index_of(load_settings(home.settings).name), runs, home.journal)


def _rows(checked: "CheckedRun") -> Iterator[tuple[str, ...]]:
    """One row a record."""
    for one in checked.rounds:
        names = (str(one.round + 1), str(one.attempt + 1)) if one.round >= 0 else ("?", "?")
        if one.verified is None:
            yield (*names, "-", "-", "-", "-", "-", f"{_FAILS}: {one.fault.code if one.fault else ''}")
            continue
        found = one.verified
        counts = tuple(str(len(members)) for members in (found.cohort.members, found.sharers, found.survivors))
        yield (*names, *counts, ", ".join(_dropped(checked, found)) or "-", found.head.hex()[:_HEAD_SHOWN], _HOLDS)


def _dropped(checked: "CheckedRun", found: "Verified") -> list[str]:
    """Who is not in the sum."""
    return checked.names([index for index in range(len(checked.charter.members)) if index not in found.survivors])


def _summary(checked: "CheckedRun") -> str:
    """What was checked, in one line."""
    last = checked.verified[-1]
    count = f"{len(checked.rounds)} round{'s' if len(checked.rounds) > 1 else ''}"
    return f"{count} of run {last.plan.run.hex()} under charter {checked.charter.digest()[:16]}, head {last.head.hex()}"


def _verified_document(checked: "CheckedRun", at_home: "AtHome | None", finding: "Finding | None") -> dict[str, object]:
    """The same for programs."""
    from ..verify.findings import fault_finding

    rounds: list[dict[str, object]] = []
    for position, one in enumerate(checked.rounds):
        about: dict[str, object] = {"round": one.round + 1, "attempt": one.attempt + 1, "holds": one.fault is None}
        if one.verified is not None:
            found = one.verified
            about |= {
                "advertised": checked.names(found.cohort.members),
                "shared": checked.names(found.sharers),
                "survived": checked.names(found.survivors),
                "dropped": _dropped(checked, found),
                "head": found.head.hex(),
            }
        elif one.fault is not None:
            about["fault"] = asdict(fault_finding(checked.charter, position, one.round, one.fault))
        rounds.append(about)
    return {
        "holds": finding is None,
        "federation": checked.charter.federation,
        "charter": checked.charter.digest(),
        "run": checked.verified[0].plan.run.hex() if checked.verified else None,
        "rounds": rounds,
        "home": None if at_home is None else asdict(at_home),
        "fault": None if finding is None else asdict(finding),
    }


def _asked_round(run_dir: Path, checked: "CheckedRun", asked: int | None) -> int:
    """The round to audit, from 0: the last that has a record, unless one is asked for."""
    if not run_dir.is_dir():
        raise UserError(f"{run_dir}: a transcript holds no uploads", "give the coordinator's run directory, or a copy")
    known = [one.round for one in checked.rounds if one.round >= 0]
    if asked is not None and asked - 1 not in known:
        raise UserError(f"round {asked}: it has no record", "audit one that `cotune transcript verify` shows")
    if asked is not None:
        return asked - 1
    return known[-1] if known else -1


def _chosen(total: int, pieces: str | None, some: int | None, every: bool) -> list[int]:
    """The pieces to recompute, of `total`: piece 0, which holds the control words, and those asked for."""
    if every:
        return list(range(total))
    if pieces is None:
        others = range(1, total)
        return [0, *sorted(random.SystemRandom().sample(others, min(some or _RANDOM_PIECES, len(others))))]
    words = pieces.split(",")
    if not all(word.isascii() and word.isdigit() and len(word) < 10 for word in words):
        raise UserError(f"--pieces {pieces[:40]}: not a list of numbers", "write them as 0,3,17")
    numbers = sorted({int(word) for word in words})
    if numbers[-1] >= total:
        raise UserError(f"piece {numbers[-1]}: the round has {total}", f"choose from 0 to {total - 1}")
    return sorted({0, *numbers})


def _show(rows: Sequence[tuple[str, ...]]) -> None:
    """Print columns, two spaces between."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
