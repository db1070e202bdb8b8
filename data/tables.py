"""Rows of JSONL, CSV, TSV and Parquet files, whatever they mean: bounded, strict, and every mistake with its line."""

import csv
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import UserError, first_line
from ..spelling import plain

MAX_LINE_BYTES = 4 * 1024 * 1024
"""No line of a file of records is longer; it bounds the memory that a broken or foreign file can take."""

_BATCH_ROWS = 1024
Row = Mapping[str, object]


def rows(path: Path, columns: Collection[str] | None = None) -> Iterator[tuple[str, Row]]:
    """Each row of a file with where it stands, e.g. "notes.jsonl line 7".

    Args:
        path: .jsonl or .ndjson (one object a line), .csv or .tsv (a header line), .parquet (needs pyarrow).
        columns: which are asked for, however they are spelled; None is all. Of a Parquet file no other is read, since
            there are types that Python has no value for: their cells stand as None.

    Raises:
        UserError: no such file, another ending, not UTF-8, a line too long or broken; `pyarrow` is missing.

    Edge cases: a byte order mark and empty lines are skipped; a CSV field may hold line breaks.
    """
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".tsv": _csv, ".parquet": None}
    ending = path.suffix.casefold()
    if ending not in readers:
        raise UserError(f"{path}: {path.suffix or 'no ending'} is no format of records", f"use {', '.join(readers)}")
    if not path.is_file():
        raise UserError(f"{path}: no such file", "correct the path")
    reader = readers[ending]
    try:
        yield from _parquet(path, columns) if reader is None else reader(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})", "make the file readable") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, line with its line break), decoded strictly."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path.name} line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise UserError(f"{where}: longer than {MAX_LINE_BYTES} bytes", "split the record")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{where}: not UTF-8 at byte {error.start + 1}", "save the file as UTF-8") from None
            if "\0" in text:
                raise UserError(f"{where}: holds a NUL byte", "save the file as plain UTF-8 text")
            yield number, text


class NamedTwiceError(Exception):
    """A JSON object has two values of one name; Python would take the last."""


def named_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object whose names all differ; NamedTwiceError else. For `object_pairs_hook`."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise NamedTwiceError(next(name for name in found if sum(name == other for other, _ in pairs) > 1))
    return found


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path.name} line {number}"
        try:
            row = json.loads(line, object_pairs_hook=named_once)
        except NamedTwiceError as error:
            raise UserError(f"{where}: {error.args[0][:40]!a} stands twice in one object", "keep one of them") from None
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: broken JSON at column {error.colno} ({error.msg})", "write one JSON object on each line"
            ) from None
        except (RecursionError, ValueError):  # nested too deep, or a number with thousands of digits
            raise UserError(f"{where}: JSON beyond all bounds", "write one flat JSON object on each line") from None
        if not isinstance(row, dict):
            raise UserError(f"{where}: not a JSON object", "write one JSON object on each line")
        yield where, row


def _csv(path: Path) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    delimiter = "\t" if path.suffix.casefold() == ".tsv" else ","
    reader = csv.reader((line for _, line in _lines(path)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        where = f"{path.name} line {reader.line_num + 1}"  # a row's first line; quoted fields may run over several
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise UserError(f"{where}: broken CSV ({error})", "quote fields that hold commas or quotes") from None
        if fields is None:
            return
        if not fields:
            continue
        if header is None:
            header = _header(where, fields, delimiter)
            continue
        _require_quotes(where, fields, delimiter, len(header))
        if len(fields) != len(header):
            raise UserError(
                f"{where}: {len(fields)} fields under {len(header)} columns", "quote fields that hold commas"
            )
        yield where, dict(zip(header, fields, strict=True))


def _header(where: str, fields: Sequence[str], delimiter: str) -> list[str]:
    """The names of a CSV file's columns."""
    header = [name.strip() for name in fields]
    if len(header) == 1 and (used := next((mark for mark in ";\t|" if mark in header[0]), None)):
        raise UserError(f"{where}: columns separated by {used!r}", f"separate them by {delimiter!r}")
    _require_quotes(where, fields, delimiter, len(fields))
    nameless = [str(number) for number, name in enumerate(header, 1) if not plain(name)]
    if len(nameless) > 1:  # a spreadsheet's columns that were emptied but not deleted
        raise UserError(f"{where}: columns {', '.join(nameless[:5])} have no name", "name them, or delete them")
    if len(set(map(plain, header))) < len(header):
        raise UserError(f"{where}: two columns of one name", "give each column its own name")
    return header


def _require_quotes(where: str, fields: Sequence[str], delimiter: str, columns: int) -> None:
    """Quotes enclose a field, or stand inside it: behind a blank they would become part of the text."""
    # Where there are too many fields, such a quote may have been meant to hold two of them together.
    late = r'\s+".*"\s*' if len(fields) == columns else r'\s+".*'
    found = next((number for number, field in enumerate(fields, 1) if re.fullmatch(late, field, re.DOTALL)), None)
    if found is not None:
        raise UserError(
            f"{where}: a blank before the quoted field {found}", f"write no blanks between {delimiter!r} and a quote"
        )


def _parquet(path: Path, columns: Collection[str] | None) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"{path}: Parquet needs pyarrow", "install cotune[parquet], or save as JSONL or CSV") from None
    asked = None if columns is None else set(map(plain, columns))
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if len(set(map(plain, names))) < len(names):
                raise UserError(f"{path}: two columns of one name", "give each column its own name")
            read = [name for name in names if asked is None or plain(name) in asked]
            number = 0
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=read):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path.name} row {number}", {**dict.fromkeys(names), **row}
    except (pyarrow.ArrowException, ValueError, OverflowError, KeyError) as error:  # of years, zones and letters, too
        raise UserError(f"{path}: broken Parquet ({first_line(error, 100)})", "write the file again") from None
