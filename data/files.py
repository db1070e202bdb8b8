"""An organization's file of records -> `Record`: three forms, columns named by the user, one privacy unit a row."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Final, get_args

from ..charter.columns import Columns, Form, Turns
from ..errors import UserError
from ..spelling import is_blank, plain, printable
from .records import PLAIN, ROLES, Message, Record
from .tables import NamedTwiceError, Row, named_once, rows


def read(path: Path, form: str, columns: Columns, turns: Turns = "last") -> list[Record]:
    """Read a file of records.

    Args:
        path: JSONL, CSV, TSV or Parquet (see `tables.rows`).
        form: "instruction" (a prompt and its answer, made into a chat), "messages" (a chat that ends with the answer)
            or "completion" (plain text and how it goes on, without a chat template).
        columns: which column holds what.
        turns: of the assistant's turns in a conversation, which are to be learned: the last one, or all that answer a
            user's turn. Each of these is a record of its own, with the turns before it as its prompt.

    Returns:
        The records in the order of the file, at least one; those of one row are of one unit. A prompt may also be a
        list of messages, and the column of the prompt is then read as such.

    Raises:
        UserError: naming file, line and column: anything wrong with the file, a missing column, an empty prompt, answer
            or unit id, a conversation that does not end with an assistant's turn, no record at all.
    """
    if form not in get_args(Form):
        raise UserError(f"unknown form {form!r}", f"use one of {', '.join(get_args(Form))}")
    parse: Callable[[_Cells, Columns], tuple[tuple[Message, ...], str]]
    parse = {"instruction": _instruction, "messages": _messages, "completion": _completion}[form]
    records = []
    for where, row in rows(path, _used(form, columns)):
        cells = _Cells(where, row)
        prompt, answer = parse(cells, columns)
        # The path tells rows of several files apart when they are pooled.
        unit = f"{path}: {where}" if columns.unit is None else cells.identifier(columns.unit)
        if turns == "all":
            records += [Record(asked, said, unit) for asked, said in _answers(prompt)]
        records.append(Record(prompt, answer, unit, cells.optional(columns.label)))
    if not records:
        raise UserError(f"{path}: no record in it", "write at least one record")
    return records


def unused(path: Path, form: str, columns: Columns) -> tuple[str, ...]:
    """Columns of a file that `read` passes over, in the order of the file; of messages also keys, as "messages.weight".

    The first thousand rows are looked at.

    Raises:
        UserError: as `tables.rows`.
    """
    used = _used(form, columns)
    known, found = set(map(plain, used)), dict[str, None]()
    for _, row in islice(rows(path, used), _LOOKED_AT):
        for name, value in row.items():
            if plain(name) not in known:
                found |= {name: None} if plain(name) else {}
            elif isinstance(value, list):
                turns = (turn for turn in value if isinstance(turn, dict))
                further = (key for turn in turns for key in turn if key not in ("role", "content") and turn[key])
                found |= {f"{name}.{key}": None for key in further}
    return tuple(found)


def in_line(names: Sequence[str]) -> str:
    """The first of some columns' names for a person, in one line: a name may hold terminal codes and line breaks."""
    shown = ", ".join(name[:40] for name in names[:12]) + (", ..." if len(names) > 12 else "")
    return printable(shown)


def _used(form: str, columns: Columns) -> tuple[str, ...]:
    """The columns that a form is read from."""
    of = {
        "instruction": (columns.prompt, columns.answer, columns.system),
        "messages": (columns.messages, columns.system),
        "completion": (columns.prompt, columns.answer),
    }[form]
    return tuple(name for name in (*of, columns.unit, columns.label) if name is not None)


_LOOKED_AT: Final = 1000


@dataclass(frozen=True)
class _Cells:
    """One row, whose cells are asked for by column."""

    where: str
    row: Row

    def text(self, column: str) -> str:
        """A cell that must hold text in which something is to be seen."""
        value = self._value(column)
        if not isinstance(value, str):
            raise self.error(column, "not text", "write a string")
        self._unicode(column, value)
        if is_blank(value):
            raise self.error(column, "empty", "fill it in or drop the record")
        return value

    def optional(self, column: str | None) -> str:
        """A cell that may be empty; "" where there is no such column set."""
        if column is None:
            return ""
        value = self._value(column)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.error(column, "not text", "write a string")
        return self._unicode(column, str(value))

    def identifier(self, column: str) -> str:
        """A unit's id: text in which something is to be seen, or a whole number."""
        value = self._value(column, "name it in data.columns.unit, or set that to null: each row is then a unit")
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # what a table with an empty cell makes of a column of whole numbers
        name = "" if isinstance(value, bool) or not isinstance(value, str | int) else str(value)
        if is_blank(self._unicode(column, name)):
            raise self.error(column, "no unit id", "give each record the id of its privacy unit")
        return name

    def turns(self, column: str) -> tuple[Message, ...]:
        """A list of messages, or the same as JSON text."""
        value = self._value(column)
        if isinstance(value, str):
            try:
                value = json.loads(value, object_pairs_hook=named_once)
            except NamedTwiceError as error:
                raise self.error(column, f"{error.args[0][:40]!a} stands twice in one message", "keep one") from None
            except (ValueError, RecursionError):
                raise self.error(column, "not a JSON list of messages", _MESSAGES) from None
        if not isinstance(value, list) or not value:
            raise self.error(column, "not a list of messages", _MESSAGES)
        return tuple(self._turn(column, number, turn) for number, turn in enumerate(value, 1))

    def _turn(self, column: str, number: int, turn: object) -> Message:
        if not isinstance(turn, dict):
            raise self.error(column, f"message {number} is not an object", _MESSAGES)
        if missing := [key for key in ("role", "content") if key not in turn]:
            keys = ", ".join(sorted(str(key)[:20] for key in turn)[:6])
            what = f"message {number} has the keys {keys or 'of nothing'}, and no {' and no '.join(missing)}"
            raise self.error(column, what, _MESSAGES)
        role, content = turn["role"], turn["content"]
        if turn.get("tool_calls") or turn.get("function_call"):
            raise self.error(column, f"message {number} calls a tool, and only text is learned", "drop the record")
        if isinstance(content, list | dict):  # nobody says what stands between two parts
            raise self.error(column, f"message {number} has its content in parts", "write it as one text")
        if role not in ROLES:
            raise self.error(column, f"message {number} has the role {str(role)[:20]!r}", f"use {', '.join(ROLES)}")
        if not isinstance(content, str) or is_blank(self._unicode(column, content)):
            raise self.error(column, f"message {number} has no text", "fill it in or drop the record")
        return Message(role, content)

    def _unicode(self, column: str, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON can spell half of a surrogate pair, which no tokenizer takes
            raise self.error(column, "holds half a surrogate pair", "write the whole character") from None
        return value

    def _value(self, column: str, mend: str = "name the column in data.columns") -> object:
        if column in self.row:
            return self.row[column]
        same = [name for name in self.row if plain(name) == plain(column)]
        if not same:
            known = ", ".join(sorted(str(name)[:30] for name in self.row)[:8])
            raise self.error(column, f"missing among {known or 'no columns'}", mend)
        if len(same) > 1:
            raise self.error(column, "stands there in two spellings", "name it in data.columns as one of them is")
        return self.row[same[0]]

    def error(self, column: str, what: str, mend: str) -> UserError:
        return UserError(f"{self.where} column {column}: {what}", mend)


_MESSAGES: Final = 'write a list of {"role": ..., "content": ...}'


def _required(column: str | None, name: str) -> str:
    if column is None:
        raise UserError(f"this form needs the column data.columns.{name}", "name it")
    return column


def _instruction(cells: _Cells, columns: Columns) -> tuple[tuple[Message, ...], str]:
    column = _required(columns.prompt, "prompt")
    if isinstance(cells.row.get(column), list):
        prompt = cells.turns(column)
        if prompt[-1].role != "user":
            raise cells.error(column, "does not end with a user's turn", "end the prompt with what is to be answered")
    else:
        prompt = (Message("user", cells.text(column)),)
    return _with_system(cells, columns, prompt), cells.text(_required(columns.answer, "answer"))


def _messages(cells: _Cells, columns: Columns) -> tuple[tuple[Message, ...], str]:
    column = _required(columns.messages, "messages")
    turns = cells.turns(column)
    if turns[-1].role != "assistant":
        raise cells.error(column, "does not end with an assistant's turn", "end it with the answer to learn")
    if len(turns) < 2:
        raise cells.error(column, "has nothing before the answer", "begin with a user's turn")
    return _with_system(cells, columns, turns[:-1]), turns[-1].content


def _answers(prompt: tuple[Message, ...]) -> list[tuple[tuple[Message, ...], str]]:
    """The assistant's turns in a prompt that answer a user's, each with what stands before it."""
    pairs = enumerate(pairwise(prompt), 1)
    return [
        (prompt[:place], turn.content)
        for place, (before, turn) in pairs
        if (before.role, turn.role) == ("user", "assistant")
    ]


def _completion(cells: _Cells, columns: Columns) -> tuple[tuple[Message, ...], str]:
    prompt = cells.text(_required(columns.prompt, "prompt"))
    return (Message(PLAIN, prompt),), cells.text(_required(columns.answer, "answer"))


def _with_system(cells: _Cells, columns: Columns, turns: tuple[Message, ...]) -> tuple[Message, ...]:
    system = cells.optional(columns.system)
    if is_blank(system) or turns[0].role == "system":
        return turns
    return (Message("system", system), *turns)
