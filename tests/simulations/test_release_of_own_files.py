"""Nothing of users' own files, and no path, stands in any file of their release; and chat asks as was trained."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.adapter import peft_files
from cotune.conf.schema import Settings
from cotune.errors import UserError
from cotune.release.loading import open_release
from cotune.release.reading import read_config
from cotune.server.measured import Measured
from cotune.server.run_directory import Committed, RunDirectory
from cotune.simulations.assemble import assemble, write_outcome
from cotune.simulations.consortium import found
from cotune.simulations.corpus import load_corpus
from cotune.simulations.workspace import open_workspace
from cotune.strategies.derived import strategy_of

CANARY = "zanzibar"
FORMS = ("instruction", "messages", "completion")


def record(form: str, name: str, number: int, system: bool) -> dict[str, object]:
    """One row, with the canary in each of its texts, and in columns that nobody reads."""
    draw = random.Random(f"{name}{number}")
    prompt = f"{CANARY}-text word{draw.randrange(60)} word{draw.randrange(60)} {name}{number}"
    answer = f"{CANARY}-{('red', 'blue')[number % 2]}"
    row: dict[str, object] = {"unit": f"{CANARY}-{name}-{number}", f"{CANARY}-column": f"{CANARY}-cell"}
    if form != "messages":
        return row | {"prompt": prompt, "answer": answer} | ({"told": f"{CANARY}-system"} if system else {})
    turns = [("user", f"{CANARY}-first"), ("assistant", f"{CANARY}-second"), ("user", prompt), ("assistant", answer)]
    if system:
        turns.insert(0, ("system", f"{CANARY}-system"))
    return row | {"messages": [{"role": role, "content": content} for role, content in turns]}


def own_files(place: Any, folder: Path, form: str, system: bool, *more: str) -> Settings:
    """The settings of a run on three files and one test row, in folders that are named for their owner."""
    home = folder / f"{CANARY}-home"
    home.mkdir()
    model = shutil.copytree(place.model, home / "model")
    for name, count in (("north", 6), ("south", 6), ("west", 6), (f"{CANARY}-test", 1)):
        lines = (json.dumps(record(form, name, number, system)) for number in range(count))
        (home / f"{name}.jsonl").write_text("\n".join(lines))
    files = ",".join(str(home / f"{name}.jsonl") for name in ("north", "south", "west"))
    told = ["data.columns.system=told"] if system and form == "instruction" else []
    return place.settings(
        home / "run",
        f"model.name={model}",
        f"cache={home / 'cache'}",
        f"data.files=[{files}]",
        f"data.test_file={home / f'{CANARY}-test.jsonl'}",
        f"data.form={form}",
        *told,
        *more,
    )


def released(settings: Settings) -> Path:
    """The release of one round that moved the adapter, without the processes of a whole run."""
    space, corpus = open_workspace(settings), load_corpus(settings)
    consortium = found(settings, space, corpus)
    state = strategy_of(consortium.charter).start(consortium.schema.dimension)
    adapter = np.random.default_rng(1).normal(0, 1, consortium.schema.dimension).astype(np.float32)
    members = ("north", "south", "west")
    trained = dict.fromkeys(members, 1)
    measured = Measured(loss=1.0, bytes_up=10, contributions=3, trained=trained)
    done = Committed(0, adapter, state, "ab" * 32, members, measured, b"record")
    RunDirectory(space.rounds, consortium.charter.digest()).commit(done)
    write_outcome(assemble(settings, space, consortium, corpus, {}), settings, space, consortium, corpus)
    return space.release


@pytest.mark.parametrize("system", [False, True], ids=["plain", "system"])
@pytest.mark.parametrize("form", FORMS)
def test_no_file_of_a_release_holds_anything_of_users_files(
    place: Any, tmp_path: Path, form: str, system: bool
) -> None:
    """With one test row, whatever all test rows have in common is its own text."""
    release = released(own_files(place, tmp_path, form, system))
    for file in release.iterdir():
        assert CANARY.encode() not in file.read_bytes().lower(), file.name
    assert b"north" in (release / "README.md").read_bytes()
    config = read_config(release)
    assert config.form == form
    assert (config.preamble, config.example_prompt, config.base.source) == ((), "", None)
    assert config.hidden_turns is (form == "messages" or (system and form == "instruction"))


def test_a_release_that_peft_reads_as_another_model_is_not_written(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are taken apart between cotune and PEFT, here by another scale."""
    real = peft_files._configuration

    def doubled(*given: Any) -> dict[str, Any]:
        found = real(*given)
        return found | {"lora_alpha": 2 * found["lora_alpha"]}

    monkeypatch.setattr(peft_files, "_configuration", doubled)
    settings = own_files(place, tmp_path, "instruction", False)
    with pytest.raises(UserError, match="the release is not the model that was trained: loaded by PEFT its logits"):
        released(settings)
    assert not (settings.run_dir / "release").exists()
    assert not (settings.run_dir / "report.json").exists()


def test_a_system_message_is_shown_where_the_configuration_spells_it_out(place: Any, tmp_path: Path) -> None:
    message = f"{CANARY}-system"
    release = released(own_files(place, tmp_path, "instruction", True, f"data.public_system={message}"))
    config = read_config(release)
    assert (config.preamble, config.hidden_turns) == ((("system", message),), False)
    named = {file.name for file in release.iterdir() if CANARY.encode() in file.read_bytes()}
    assert named == {"cotune.json", "README.md"}
    assert (release / "cotune.json").read_text().count(CANARY) == 1


def test_a_system_message_that_is_not_the_records_is_refused(place: Any, tmp_path: Path) -> None:
    settings = own_files(place, tmp_path, "instruction", True, "data.public_system=other")
    with pytest.raises(UserError, match=r"data\.public_system is not what record 1 of north begins with"):
        load_corpus(settings)


Ask = Callable[[Path], list[str]]


@pytest.fixture
def asked(place: Any) -> Ask:
    """The words that chat sends for a prompt, special tokens among them."""

    def ask(release: Path) -> list[str]:
        chat = open_release(release, place.root / "cache", "cpu", "float32", 4)
        return str(chat.tokenizer.decode(chat._encode("word3 word4")[0])).split()

    return ask


@pytest.mark.parametrize("form", FORMS)
def test_chat_asks_as_was_trained_from_the_runs_own_folder(place: Any, tmp_path: Path, asked: Ask, form: str) -> None:
    words = asked(released(own_files(place, tmp_path, form, False)))
    if form == "completion":
        assert words == ["word3", "word4"]
    else:
        assert words == ["<user>", "word3", "word4", "</s>", "<assistant>"]


def test_a_completion_model_without_a_template_can_be_asked(
    place: Any, tmp_path: Path, asked: Ask, model_without_template: Path
) -> None:
    release = released(own_files(place, tmp_path, "completion", False, f"model.name={model_without_template}"))
    assert asked(release) == ["word3", "word4"]


def test_a_release_that_was_carried_away_asks_for_the_base(place: Any, tmp_path: Path, asked: Ask) -> None:
    release = released(own_files(place, tmp_path, "instruction", False))
    carried = tmp_path / "elsewhere" / "release"
    shutil.copytree(release, carried)
    with pytest.raises(UserError, match=r"model=local model\.name=FOLDER"):
        asked(carried)
    assert b"model=local model.name=FOLDER" in (carried / "README.md").read_bytes()
