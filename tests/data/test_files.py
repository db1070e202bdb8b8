"""Reading records: three forms, three formats, and one line for every mistake."""

import builtins
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from cotune.charter.columns import Columns
from cotune.data import tables
from cotune.data.files import in_line, read, unused
from cotune.data.records import PLAIN, Message
from cotune.errors import UserError
from cotune.spelling import plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

COLUMNS = Columns(prompt="q", answer="a", unit="who", messages="turns", system=None, label=None)
ROW = {"q": "Cholera", "a": "infection", "who": "p1"}
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(lambda text: bool(plain(text)))
ROWS = st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=5)


def write(folder: Path, *rows: object, name: str = "notes.jsonl") -> Path:
    path = folder / name
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(rows=ROWS)
def test_jsonl_csv_and_parquet_say_the_same(tmp_path: Path, rows: list[tuple[str, str, str]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names = ("q", "a", "who")
    whole = [dict(zip(names, row, strict=True)) for row in rows]
    (tmp_path / "r.jsonl").write_text("\n".join(json.dumps(row) for row in whole), encoding="utf-8")
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([names, *rows])
    (tmp_path / "r.csv").write_bytes(buffer.getvalue().encode())
    parquet.write_table(pyarrow.Table.from_pylist(whole), tmp_path / "r.parquet")
    expected = [((Message("user", prompt),), answer, unit) for prompt, answer, unit in rows]
    for ending in ("jsonl", "csv", "parquet"):
        records = read(tmp_path / f"r.{ending}", "instruction", COLUMNS)
        assert [(record.prompt, record.answer, record.unit) for record in records] == expected, ending


def test_forms(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    path = write(tmp_path, {**ROW, "turns": turns, "s": "Be brief.", "y": "x"})
    columns = COLUMNS.model_copy(update={"system": "s", "label": "y"})
    (record,) = read(path, "instruction", columns)
    assert record.prompt == (Message("system", "Be brief."), Message("user", "Cholera"))
    assert (record.answer, record.unit, record.label) == ("infection", "p1", "x")
    (record,) = read(path, "messages", columns)
    assert record.prompt == (Message("system", "Be brief."), Message("user", "Hi"))
    assert record.answer == "Hello"
    (record,) = read(path, "completion", columns)
    assert record.prompt == (Message(PLAIN, "Cholera"),)
    with pytest.raises(UserError, match="unknown form 'chat'"):
        read(path, "chat", columns)


def test_a_prompt_may_be_a_list_of_messages(tmp_path: Path) -> None:
    prompt = [{"role": "system", "content": "Field?"}, {"role": "user", "content": "Cholera"}]
    (record,) = read(write(tmp_path, {**ROW, "q": prompt}), "instruction", COLUMNS)
    assert record.prompt == (Message("system", "Field?"), Message("user", "Cholera"))
    with pytest.raises(UserError, match="column q: does not end with a user's turn"):
        read(write(tmp_path, {**ROW, "q": prompt[:1]}), "instruction", COLUMNS)


def test_rows_without_unit_column_are_units_even_when_files_are_pooled(tmp_path: Path) -> None:
    columns = COLUMNS.model_copy(update={"unit": None})
    (tmp_path / "other").mkdir()
    pooled = read(write(tmp_path, ROW, ROW), "instruction", columns)
    pooled += read(write(tmp_path / "other", ROW), "instruction", columns)
    assert len({record.unit for record in pooled}) == 3


def test_numbers_are_units_too(tmp_path: Path) -> None:
    (record,) = read(write(tmp_path, {**ROW, "who": 17}), "instruction", COLUMNS)
    assert record.unit == "17"
    (record,) = read(write(tmp_path, {**ROW, "who": 17.0}), "instruction", COLUMNS)
    assert record.unit == "17"


def test_a_column_is_found_however_its_name_is_spelled(tmp_path: Path) -> None:
    columns = COLUMNS.model_copy(update={"prompt": "Gr\u00f6\u00dfe ", "unit": "who"})
    row = {"Gro\u0308\u00dfe": "tall", "a": "yes", "who\u200b": "p1"}
    (record,) = read(write(tmp_path, row), "instruction", columns)
    assert (record.prompt[0].content, record.unit) == ("tall", "p1")
    both = write(tmp_path, {**ROW, "q ": "x", "q\u200b": "y"}, name="both.jsonl")
    assert read(both, "instruction", COLUMNS)[0].prompt[0].content == "Cholera"
    with pytest.raises(UserError, match=r"both\.jsonl line 1 column q\s+: stands there in two spellings"):
        read(both, "instruction", COLUMNS.model_copy(update={"prompt": "q  "}))
    (tmp_path / "twice.csv").write_text("q,a,who,who\u00a0\nx,y,1,2\n")
    with pytest.raises(UserError, match="two columns of one name"):
        read(tmp_path / "twice.csv", "instruction", COLUMNS)


MISTAKES: list[tuple[Any, str, str]] = [
    ("{broken", "instruction", r"notes.jsonl line 2: broken JSON at column 2"),
    ("[1]", "instruction", r"line 2: not a JSON object"),
    ('{"q": "x", "a": "y", "who": "p1", "who": "p2"}', "instruction", r"line 2: 'who' stands twice in one object"),
    ("[" * 200_000, "instruction", r"line 2: JSON beyond all bounds"),
    ({**ROW, "a": "  "}, "instruction", r"line 2 column a: empty"),
    ({**ROW, "a": None}, "instruction", r"line 2 column a: not text"),
    ({**ROW, "a": 3}, "instruction", r"line 2 column a: not text"),
    ({"q": "x", "who": "1"}, "instruction", r"line 2 column a: missing among q, who"),
    ({**ROW, "who": ""}, "instruction", r"line 2 column who: no unit id"),
    ({**ROW, "who": None}, "completion", r"line 2 column who: no unit id"),
    ({**ROW, "who": "\u200b\u3164\u2800 \x1b"}, "instruction", r"notes.jsonl line 2 column who: no unit id"),
    ({**ROW, "who": 17.5}, "instruction", r"line 2 column who: no unit id"),
    ({"q": "x", "a": "y"}, "instruction", r"line 2 column who: missing among a, q: .*data\.columns\.unit.* null"),
    ({**ROW, "q": "\ufe0f\u034f"}, "completion", r"line 2 column q: empty"),
    ({**ROW, "a": "\u2800"}, "completion", r"line 2 column a: empty"),
    ({**ROW, "who": True}, "completion", r"line 2 column who: no unit id"),
    ('{"q": "\\ud800", "a": "b", "who": "c"}', "instruction", r"line 2 column q: holds half a surrogate pair"),
    ("a\0b", "instruction", r"line 2: holds a NUL byte"),
    ({**ROW, "turns": []}, "messages", r"line 2 column turns: not a list"),
    ({**ROW, "turns": "{"}, "messages", r"line 2 column turns: not a JSON list"),
    ({**ROW, "turns": [{"role": "user", "content": "x"}]}, "messages", r"turns: does not end with an assistant's turn"),
    ({**ROW, "turns": [{"role": "assistant", "content": "x"}]}, "messages", r"turns: has nothing before the answer"),
    ({**ROW, "turns": [{"role": "tool", "content": "x"}]}, "messages", r"message 1 has the role 'tool'"),
    ({**ROW, "turns": [{"role": "user", "content": " "}]}, "messages", r"message 1 has no text"),
    ({**ROW, "turns": ["x"]}, "messages", r"message 1 is not an object"),
    (
        {**ROW, "turns": [{"from": "human", "value": "x"}]},
        "messages",
        r'message 1 has the keys from, value, and no role and no content: write a list of \{"role"',
    ),
    ({**ROW, "turns": [{"role": "user", "text": "x"}]}, "messages", r"has the keys role, text, and no content: write"),
    ({**ROW, "turns": [{}]}, "messages", r"message 1 has the keys of nothing, and no role"),
    (
        {**ROW, "turns": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        "messages",
        r"message 1 has its content in parts: write it as one text",
    ),
    (
        {**ROW, "turns": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
        "messages",
        r"message 1 calls a tool, and only text is learned: drop the record",
    ),
    (
        {**ROW, "turns": [{"role": "assistant", "content": "x", "function_call": {"name": "f"}}]},
        "messages",
        r"message 1 calls a tool",
    ),
]


@pytest.mark.parametrize(("row", "form", "said"), MISTAKES)
def test_every_mistake_is_one_line_that_says_where(tmp_path: Path, row: object, form: str, said: str) -> None:
    good = {**ROW, "turns": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    with pytest.raises(UserError, match=said) as caught:
        read(write(tmp_path, good, row), form, COLUMNS)
    assert "\n" not in str(caught.value)
    assert caught.value.mend


def test_files_that_are_no_files_of_records(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "absent.jsonl", "instruction", COLUMNS)
    with pytest.raises(UserError, match="no format of records"):
        read(tmp_path / "notes.docx", "instruction", COLUMNS)
    with pytest.raises(UserError, match="no record in it"):
        read(write(tmp_path, "", "  "), "instruction", COLUMNS)
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(json.dumps(ROW).encode() + b"\n" + '{"q": "für"}'.encode("latin-1"))
    with pytest.raises(UserError, match="line 2: not UTF-8 at byte 9"):
        read(latin, "instruction", COLUMNS)
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match="broken Parquet"):
        read(broken, "instruction", COLUMNS)
    with pytest.raises(UserError, match=r"needs the column data.columns.messages"):
        read(write(tmp_path, ROW), "messages", COLUMNS.model_copy(update={"messages": None}))


def test_lines_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, ROW, {**ROW, "q": "x" * 500})
    assert len(read(path, "instruction", COLUMNS)) == 2
    monkeypatch.setattr(tables, "MAX_LINE_BYTES", 400)
    with pytest.raises(UserError, match="line 2: longer than 400 bytes"):
        read(path, "instruction", COLUMNS)
    csv_path = tmp_path / "open.csv"  # a quote that never closes must not collect the rest of the file
    csv_path.write_text('q,a,who\nx,y,1\n"x,y,2\n' + "z\n" * 300)
    with pytest.raises(UserError, match=r"open.csv line 3: broken CSV"):
        read(csv_path, "instruction", COLUMNS)


def test_csv_mistakes(tmp_path: Path) -> None:
    def said(content: str) -> str:
        path = tmp_path / "notes.csv"
        path.write_text(content)
        with pytest.raises(UserError) as caught:
            read(path, "instruction", COLUMNS)
        return str(caught.value)

    assert "line 3: 4 fields under 3 columns" in said("q,a,who\nx,y,1\nx,y,z,2\n")
    assert "two columns of one name" in said("q,a,a\nx,y,1\n")
    assert "line 1: columns 4, 5 have no name: name them, or delete them" in said("q,a,who,,\u200b\nx,y,1,,\n")
    late = "a blank before the quoted field 2: write no blanks between ',' and a quote"
    assert f"notes.csv line 1: {late}" in said('"q", "a","who"\nx,y,1\n')
    assert f"line 2: {late}" in said('q,a,who\n"x", "y, y",1\n')
    assert f"line 3: {late}" in said('q,a,who\nx,y,1\n"x",\t"y" ,1\n')
    assert "notes.csv line 1: columns separated by ';': separate them by ','" in said("q;a;who\nx;y;1\n")
    assert "line 4 column a: empty" in said('q,a,who\n"x\nx",y,1\nx,,2\n')
    assert "no record in it" in said("q,a,who\n")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_bytes(b"\xef\xbb\xbfq,a,who\r\nx,y,1\r\n")
    assert read(path, "instruction", COLUMNS)[0].answer == "y"


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    path = tmp_path / "r.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"install cotune\[parquet\]"):
        read(path, "instruction", COLUMNS)


def test_parquet_with_two_columns_of_one_name(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for other in ("who", "who\u200b"):
        columns = [pyarrow.array([text]) for text in ("x", "y", "p1", "p2")]
        parquet.write_table(pyarrow.Table.from_arrays(columns, ["q", "a", "who", other]), tmp_path / "r.parquet")
        with pytest.raises(UserError, match="two columns of one name"):
            read(tmp_path / "r.parquet", "instruction", COLUMNS)


def test_quotes_inside_a_field_and_an_index_without_a_name_are_fine(tmp_path: Path) -> None:
    """As pandas writes an index; a quote that does not enclose a field is text."""
    path = tmp_path / "notes.csv"
    path.write_text(',q,a,who\n0, he said "x" twice,"a ""y""",1\n')
    (record,) = read(path, "instruction", COLUMNS)
    assert (record.prompt[0].content, record.answer) == (' he said "x" twice', 'a "y"')
    assert unused(path, "instruction", COLUMNS) == ()


def _unreadable() -> dict[str, Any]:
    """Columns that pyarrow reads and makes no Python value of."""
    pyarrow = pytest.importorskip("pyarrow")
    broken = pyarrow.Array.from_buffers(
        pyarrow.string(), 1, [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xff")]
    )
    return {
        "far": pyarrow.array([2**60], pyarrow.timestamp("ms")),
        "day": pyarrow.array([2**31 - 1], pyarrow.int32()).cast(pyarrow.date32()),
        "zone": pyarrow.array([0], pyarrow.timestamp("us", "Nowhere/Land")),
        "broken": broken,
    }


@pytest.mark.parametrize("name", ["far", "day", "zone", "broken"])
def test_parquet_columns_that_nobody_asks_for_are_not_read(tmp_path: Path, name: str) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path, values = tmp_path / "r.parquet", _unreadable()[name]
    columns = [pyarrow.array([text]) for text in ("x", "y", "p1")]
    parquet.write_table(pyarrow.Table.from_arrays([*columns, values], ["q", "a\u200b", "who", name]), path)
    (record,) = read(path, "instruction", COLUMNS)
    assert (record.prompt[0].content, record.answer, record.unit) == ("x", "y", "p1")
    assert unused(path, "instruction", COLUMNS) == (name,)
    with pytest.raises(UserError, match=rf"column gone: missing among a.*{name}"):
        read(path, "instruction", COLUMNS.model_copy(update={"prompt": "gone"}))
    with pytest.raises(UserError, match=r"r\.parquet: broken Parquet \(") as caught:
        read(path, "instruction", COLUMNS.model_copy(update={"unit": name}))
    assert "\n" not in str(caught.value)


def test_parquet_without_any_column_that_is_asked_for(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"text": ["x"]}), tmp_path / "r.parquet")
    with pytest.raises(UserError, match="column q: missing among text"):
        read(tmp_path / "r.parquet", "instruction", COLUMNS)


def test_what_is_passed_over_is_named(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi", "weight": 0, "name": None}]
    turns += [{"role": "assistant", "content": "Hello", "weight": 1, "thinking": "Hm"}]
    path = write(tmp_path, {**ROW, "input": "x", "turns": turns}, {**ROW, "Q ": "y", "lang": "de", "turns": turns})
    assert unused(path, "instruction", COLUMNS) == ("input", "turns", "Q ", "lang")
    assert unused(path, "instruction", COLUMNS.model_copy(update={"system": "input", "label": "lang"})) == (
        "turns",
        "Q ",
    )
    assert unused(path, "messages", COLUMNS) == ("q", "a", "input", "turns.weight", "turns.thinking", "Q ", "lang")


def _talk(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def test_one_answer_of_a_conversation_is_learned_or_each(tmp_path: Path) -> None:
    long = _talk(
        ("assistant", "Hello"),
        ("user", "fever"),
        ("assistant", "since when?"),
        ("assistant", "well?"),
        ("user", "today"),
        ("assistant", "rest"),
    )
    path = write(tmp_path, {"turns": long, "s": "Be brief.", "y": "x"}, {"turns": long[1:3], "y": "z"})
    columns = Columns(messages="turns", label="y")
    told = columns.model_copy(update={"system": "s"})
    last = read(path, "messages", columns)
    assert [(len(record.prompt), record.answer, record.label) for record in last] == [
        (5, "rest", "x"),
        (1, "since when?", "z"),
    ]
    every = read(path, "messages", columns, "all")
    assert [record.answer for record in every] == ["since when?", "rest", "since when?"]
    assert [record.label for record in every] == ["", "x", "z"]
    assert every[0].prompt == (Message("assistant", "Hello"), Message("user", "fever"))
    assert every[1:] == last
    assert every[0].unit == every[1].unit != every[2].unit  # also where each row is a unit
    path = write(tmp_path, {"turns": long, "s": "Be brief."})
    assert [record.prompt[0] for record in read(path, "messages", told.model_copy(update={"label": None}), "all")] == [
        Message("system", "Be brief.")
    ] * 2


def test_forms_with_one_answer_have_nothing_more_to_learn(tmp_path: Path) -> None:
    path = write(tmp_path, ROW, ROW)
    for form in ("instruction", "completion"):
        assert read(path, form, COLUMNS, "all") == read(path, form, COLUMNS)


def test_names_of_columns_are_shown_in_one_line() -> None:
    assert in_line(["a", "b\n\x1b[1m", "ü" * 60]) == f"a, b??[1m, {'ü' * 40}"
    assert in_line([str(number) for number in range(13)]).endswith("10, 11, ...")
