"""report.json: written and read."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from ...atomic import write_text
from ...errors import UserError
from .report import SCHEMA_VERSION, Report

LARGEST_REPORT: Final = 16 * 2**20


_REPORT: Final = TypeAdapter(Report)


def to_json(report: Report) -> str:
    """The report as JSON text. Raises pydantic.ValidationError where a number is out of range or not finite."""
    plain = asdict(report)
    checked = _REPORT.validate_python(plain)
    return json.dumps(asdict(checked), indent=2, allow_nan=False) + "\n"


def write(report: Report, path: Path) -> None:
    """Write `report` to `path` in one atomic step; a report that does not validate leaves the old file as it was."""
    write_text(path, to_json(report))


def read(path: Path) -> Report:
    """Read and check a report.

    Raises:
        UserError: the file is missing, too large, not JSON, of another schema version or not a report.
    """
    try:
        if path.stat().st_size > LARGEST_REPORT:
            raise UserError(f"{path}: larger than {LARGEST_REPORT} bytes", "give a report.json written by cotune")
        return _REPORT.validate_json(path.read_bytes())
    except OSError as problem:
        raise UserError(f"{path}: {problem.strerror}", "give the path of a report.json") from None
    except ValidationError as problem:
        first = problem.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise UserError(
            f"{path}: {place}: {first['msg']}", f"write it again with cotune (report schema {SCHEMA_VERSION})"
        ) from None
