"""A corpus of the user's own files: names, labels, units; and records written so that a node reads the same."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import regex
from cotune.charter.columns import Columns
from cotune.data.files import read
from cotune.data.units import group, holdings
from cotune.errors import UserError
from cotune.simulations.corpus import COLUMNS, MOST_LABELS, load_corpus, notes, organization_name, write_records
from cotune.spelling import plain_id
from hypothesis import given
from hypothesis import strategies as st


def _append(path: Path, source: Path, *lines: dict[str, str]) -> Path:
    path.write_text(source.read_text() + "".join(json.dumps(line) + "\n" for line in lines))
    return path


def _load(place: Any, tmp_path: Path, *words: str) -> Any:
    return load_corpus(place.settings(tmp_path / "run", *words))


def test_one_organization_a_file(place: Any, tmp_path: Path) -> None:
    corpus = _load(place, tmp_path)
    assert list(corpus.organizations) == ["north-ward", "south", "west"]
    assert [len(records) for records in corpus.organizations.values()] == [32, 32, 32]
    assert len(group(corpus.organizations["south"]).ids) == 16
    assert corpus.labels == ("blue", "green", "red")
    assert len(corpus.test) == 24


def test_columns_that_nothing_reads_are_named_once(place: Any, tmp_path: Path) -> None:
    """As alpaca's "input", without which every prompt is the bare instruction."""
    assert notes(place.settings(tmp_path / "run")) == []
    row = {"prompt": "word1", "answer": "red", "unit": "n", "input": "x", "a\x1b[1m": "y"}
    north = _append(tmp_path / "north.jsonl", place.files[0], row)
    test = _append(tmp_path / "test.jsonl", place.test, {**row, "unit": "t", "prompt": "word2", "lang": "de"})
    files = f"data.files=[{north},{place.files[1]},{place.files[2]}]"
    (said,) = notes(place.settings(tmp_path / "run", files, f"data.test_file={test}"))
    assert said.startswith("nothing reads the columns input, a?[1m, lang of your files")


def test_of_conversations_all_answers_are_learned_and_the_last_is_tested(place: Any, tmp_path: Path) -> None:
    for name in ("north", "south", "west", "test"):
        rows = []
        for number in range(4):
            words = [f"{name}{number}", "red", f"word{number}", ("red", "blue")[number % 2]]
            roles = ("user", "assistant") * 2
            turns = [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)]
            rows.append({"messages": turns, "unit": f"{name}{number // 2}"})
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = ",".join(f"{tmp_path}/{name}.jsonl" for name in ("north", "south", "west"))
    words = ("data.form=messages", f"data.files=[{files}]", f"data.test_file={tmp_path}/test.jsonl")
    last, every = _load(place, tmp_path, *words), _load(place, tmp_path, *words, "data.turns=all")
    assert [len(records) for records in last.organizations.values()] == [4, 4, 4]
    assert [len(records) for records in every.organizations.values()] == [8, 8, 8]
    assert [len(group(records).ids) for records in every.organizations.values()] == [2, 2, 2]
    assert every.test == last.test
    write_records(every.organizations["north"], tmp_path / "home.jsonl")
    back = read(
        tmp_path / "home.jsonl", "instruction", Columns(prompt="prompt", answer="answer", unit="unit", label="label")
    )
    assert back == every.organizations["north"]


def test_test_rows_and_rows_as_units(place: Any, tmp_path: Path) -> None:
    corpus = _load(place, tmp_path, "data.test_rows=5", "data.rows_are_units=true")
    assert len(corpus.test) == 5
    assert len(group(corpus.organizations["south"]).ids) == 32


def test_a_label_that_nobody_trains_on(place: Any, tmp_path: Path) -> None:
    test = _append(tmp_path / "t.jsonl", place.test, {"prompt": "word1", "answer": "mauve", "unit": "new"})
    with pytest.raises(UserError, match=r"t\.jsonl, row 25: the label 'mauve'"):
        _load(place, tmp_path, f"data.test_file={test}")


def test_a_unit_on_both_sides(place: Any, tmp_path: Path) -> None:
    test = _append(tmp_path / "t.jsonl", place.test, {"prompt": "word1", "answer": "red", "unit": "south/3"})
    with pytest.raises(UserError, match="1 units are also in south's file"):
        _load(place, tmp_path, f"data.test_file={test}")


@pytest.mark.parametrize("spelling", ["red ", "re\u200bd", "\uff52ed"])
def test_two_spellings_of_a_label_are_refused_in_training_and_one_in_the_test_set(
    place: Any, tmp_path: Path, spelling: str
) -> None:
    row = {"prompt": "word7 word7 word7 word7 word7 word7 word7", "answer": spelling, "unit": "new"}
    file = _append(tmp_path / "more.jsonl", place.files[1], row)
    with pytest.raises(UserError) as caught:
        _load(place, tmp_path, f"data.files=[{place.files[0]},{file},{place.files[2]}]")
    assert "'red'" in str(caught.value)
    assert ascii(spelling) in str(caught.value)
    corpus = _load(place, tmp_path, f"data.test_file={_append(tmp_path / 't.jsonl', place.test, row)}")
    assert (len(corpus.labels), len(corpus.test), corpus.test[-1].answer) == (3, 25, spelling)


@pytest.mark.parametrize("unit", ["south/3", "South/3", "south\u200b/\uff13 "])
def test_a_unit_on_both_sides_is_found_in_every_spelling(place: Any, tmp_path: Path, unit: str) -> None:
    test = _append(tmp_path / "t.jsonl", place.test, {"prompt": "word1", "answer": "red", "unit": unit})
    with pytest.raises(UserError, match="1 units are also in south's file"):
        _load(place, tmp_path, f"data.test_file={test}")


@pytest.mark.parametrize("mark", ["", "\u200b", "  ", "\ufe0f"], ids=ascii)
@pytest.mark.parametrize("words", [("data.columns.unit=null",), ("data.rows_are_units=true",), ()])
def test_a_test_row_copied_from_training_is_found_in_every_spelling(
    place: Any, tmp_path: Path, mark: str, words: tuple[str, ...]
) -> None:
    """Whatever its answer and its unit are."""
    copied = json.loads(place.files[1].read_text().splitlines()[4])
    row = {"prompt": copied["prompt"] + mark, "answer": "red", "unit": "new"}
    test = _append(tmp_path / "t.jsonl", place.test, row)
    with pytest.raises(UserError, match=r"1 prompts are also in south's file \(the first is that of row 25\)"):
        _load(place, tmp_path, f"data.test_file={test}", *words)


def test_rows_that_are_units_need_no_ids(place: Any, tmp_path: Path) -> None:
    bare = []
    for file in (*place.files, place.test):
        bare.append(tmp_path / file.name)
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        bare[-1].write_text(
            "".join(json.dumps(line | {"unit": None}).replace(', "unit": null', "") + "\n" for line in lines)
        )
    words = f"data.files=[{','.join(map(str, bare[:3]))}]", f"data.test_file={bare[3]}"
    with pytest.raises(UserError, match=r"line 1 column unit: missing .*data\.columns\.unit"):
        _load(place, tmp_path, *words)
    corpus = _load(place, tmp_path, *words, "data.rows_are_units=true")
    assert [len(group(records).ids) for records in corpus.organizations.values()] == [32, 32, 32]


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("North_Ward", "north-ward"),
        ("K\u00f6ln", "koln"),
        ("Ko\u0308ln", "koln"),
        ("Stra\u00dfe 1", "strasse-1"),
        ("\u5317\u4eac", "xn--1lq90i"),
        ("\u200b", ""),
        ("---", ""),
    ],
)
def test_names_of_organizations(stem: str, name: str) -> None:
    assert organization_name(stem) == name


@given(st.text(max_size=40), st.text(max_size=40))
def test_every_name_is_one_of_a_charter_and_names_in_other_scripts_stay_apart(one: str, other: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]{0,64}", organization_name(one))
    letters = [regex.sub(r"[^\p{Han}\p{Arabic}]", "", text)[:8] for text in (one, other)]
    if all(letters) and plain_id(letters[0]) != plain_id(letters[1]):
        assert organization_name(letters[0]) != organization_name(letters[1])


def test_the_same_file_under_two_names_is_one(place: Any, tmp_path: Path) -> None:
    link = tmp_path / "link.jsonl"
    link.symlink_to(place.files[1])
    dotted = place.files[1].parent / "." / ".." / place.files[1].parent.name / place.files[1].name
    for again in (link, dotted):
        with pytest.raises(UserError, match="twice"):
            place.settings(tmp_path / "run", f"data.files=[{place.files[0]},{place.files[1]},{again}]")
        with pytest.raises(UserError, match="also an organization's file"):
            place.settings(tmp_path / "run", f"data.test_file={again}")


@pytest.mark.parametrize("name", ["North-Ward.jsonl", "...jsonl", "coordinator.jsonl"])
def test_a_name_that_is_no_name_of_its_own(place: Any, tmp_path: Path, name: str) -> None:
    other = tmp_path / name
    other.write_text(place.files[1].read_text())
    with pytest.raises(UserError, match=r"name each file differently|name"):
        _load(place, tmp_path, f"data.files=[{place.files[0]},{other},{place.files[2]}]")


def test_answers_that_are_no_labels(place: Any, tmp_path: Path) -> None:
    free = [{"prompt": "word1", "answer": f"text {number}", "unit": f"f/{number}"} for number in range(MOST_LABELS)]
    file = _append(tmp_path / "free.jsonl", place.files[0], *free)
    files = f"data.files=[{file},{place.files[1]},{place.files[2]}]"
    with pytest.raises(UserError, match=r"515 different answers; data.task=labels"):
        _load(place, tmp_path, files)
    corpus = _load(place, tmp_path, files, "data.task=text")
    assert (corpus.labels, len(corpus.test), corpus.shown.test_rows) == ((), 24, False)
    assert _load(place, tmp_path, files, "data.task=text", "data.public_test=true").shown.test_rows


def test_free_text_of_the_test_set_need_not_be_known_but_its_prompts_must_be_new(place: Any, tmp_path: Path) -> None:
    test = _append(tmp_path / "t.jsonl", place.test, {"prompt": "word1", "answer": "mauve sky", "unit": "new"})
    assert _load(place, tmp_path, f"data.test_file={test}", "data.task=text").test[-1].answer == "mauve sky"
    known = json.loads(place.files[1].read_text().splitlines()[0])["prompt"]
    copied = _append(tmp_path / "c.jsonl", place.test, {"prompt": known, "answer": "other words", "unit": "new"})
    with pytest.raises(UserError, match=r"1 prompts are also in south's file"):
        _load(place, tmp_path, f"data.test_file={copied}", "data.task=text")


def test_public_free_text_keeps_its_answers(place: Any, tmp_path: Path, rows: Any) -> None:
    file = rows(tmp_path / "public.jsonl", 6, 77)
    own = [json.loads(line)["answer"] for line in file.read_text().splitlines()]
    corpus = _load(place, tmp_path, f"data.public_file={file}", "data.task=text")
    assert [record.answer for record in corpus.public] == own


def test_what_is_written_is_read_back(place: Any, tmp_path: Path, rows: Callable[..., Path]) -> None:
    """A node's holdings and units, the ledger's key and the clipping's, are those of the user's file."""
    records = _load(place, tmp_path).organizations["south"]
    write_records(records, tmp_path / "records.jsonl")
    again = read(tmp_path / "records.jsonl", "instruction", COLUMNS)
    assert again == records
    own = read(place.files[1], "instruction", _columns())
    assert holdings(again, "patient") == holdings(own, "patient")
    assert (tmp_path / "records.jsonl").stat().st_mode & 0o077 == 0


def _columns() -> Columns:
    return Columns(prompt="prompt", answer="answer", unit="unit", messages=None, system=None, label=None)


@pytest.mark.parametrize("form", ["instruction", "completion"])
def test_records_come_back_from_a_home_as_they_were(form: str, tmp_path: Path) -> None:
    source = tmp_path / "source.jsonl"
    source.write_text('{"prompt": "a cough", "answer": "lung", "unit": "p1"}\n')
    columns = Columns(prompt="prompt", answer="answer", unit="unit", messages=None, system=None, label=None)
    records = read(source, form, columns)
    write_records(records, tmp_path / "home.jsonl")
    assert read(tmp_path / "home.jsonl", form, COLUMNS) == records
    assert (tmp_path / "home.jsonl").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("whose", ["north-ward", "the test set"])
def test_public_text_is_nobodys(whose: str, place: Any, tmp_path: Path) -> None:
    """What a basis is made of is not noised."""
    file = place.files[0] if whose == "north-ward" else place.test
    with pytest.raises(UserError, match=rf"data\.public_file: \d+ prompts are also in {whose}'s file .*row 1\)"):
        _load(place, tmp_path, f"data.public_file={file}")


def test_another_text_of_a_records_unit_is_not_public(place: Any, tmp_path: Path) -> None:
    """The guarantee is about all records of a unit, and a start is trained on them without noise."""
    first = json.loads(place.files[0].read_text().splitlines()[0])
    (tmp_path / "public.jsonl").write_text(json.dumps(first | {"prompt": "word1 word1 word1 word2"}) + "\n")
    with pytest.raises(UserError, match=r"data\.public_file: 1 units are also in north-ward's file"):
        _load(place, tmp_path, f"data.public_file={tmp_path / 'public.jsonl'}")


def test_labels_go_round_the_public_rows(place: Any, tmp_path: Path, rows: Any) -> None:
    corpus = _load(place, tmp_path, f"data.public_file={rows(tmp_path / 'public.jsonl', 6, 77)}")
    assert [record.answer for record in corpus.public[:4]] == [*corpus.labels, corpus.labels[0]]
    assert len(corpus.public) == 12
