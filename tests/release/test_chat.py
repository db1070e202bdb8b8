"""Base and tuned answers of a release, side by side."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cotune.errors import UserError
from cotune.privacy.terms import PrivacyTerms
from cotune.release import loading
from cotune.release.chat import show, talk
from cotune.release.facts import ReleaseFacts
from cotune.release.folder import write_release
from cotune.release.loading import LoadedRelease, open_release
from cotune.release.privacy_statement import PrivacyFacts
from cotune.training.adapter import LoraSettings, attach, schema_of
from cotune.training.base import BaseModel
from cotune.training.source import ModelSource
from rich.console import Console

MakeBase = Callable[[str], BaseModel]
OPEN = PrivacyTerms(False, "row", 0.0, 0.0, 0.0, 1.0, 0.5, 1, 10.0, 0.1)
SOURCE = ModelSource(name="tiny-llama")


@pytest.fixture
def release(tmp_path: Path, make_small_base: MakeBase, top_lora: LoraSettings) -> Path:
    base = make_small_base("llama")
    schema = schema_of(attach(base, top_lora))
    facts = ReleaseFacts(
        federation="tiny",
        members=("a", "b", "c"),
        base_name=base.name,
        base_licence="Apache-2.0",
        base_source=SOURCE,
        base_digest=base.digest,
        tokenizer_digest=base.tokenizer_digest,
        lora=top_lora,
        trained="",
        schema=schema,
        adapter=np.random.default_rng(1).normal(0, 1.0, schema.dimension).astype(np.float32),
        context_length=40,
        strategy="DPFedSGD",
        rounds=1,
        planned_rounds=1,
        charter_digest="ef" * 32,
        transcript_head="",
        transcript=None,
        privacy=PrivacyFacts(OPEN, {}, {}),
        data_cards={},
        form="instruction",
        preamble=(("system", "w1 w2"),),
        hidden_turns=False,
        example_prompt="w3 w4",
    )
    write_release(facts, tmp_path / "release")
    return tmp_path / "release"


def loader(base: BaseModel) -> Callable[[ModelSource, Path, str, str], BaseModel]:
    def load(source: ModelSource, cache: Path, device: str, dtype: str) -> BaseModel:
        assert source == SOURCE
        return base

    return load


@pytest.fixture
def chat(release: Path, tmp_path: Path, make_small_base: MakeBase) -> LoadedRelease:
    return open_release(release, tmp_path, "cpu", "float32", 6, load=loader(make_small_base("llama")))


def test_base_and_tuned_answers_are_those_of_their_models(
    chat: LoadedRelease, release: Path, tmp_path: Path, make_small_base: MakeBase
) -> None:
    base, tuned = chat.answer("w5 w6 w7")
    untouched = make_small_base("llama")
    fresh = LoadedRelease(
        attach(untouched, LoraSettings(2, 4.0, ("all-linear",), False, 1)), untouched.tokenizer, chat.config, 6
    )
    assert fresh.answer("w5 w6 w7") == (base, base)  # a fresh adapter does nothing
    assert tuned != base


def test_one_answer_does_not_change_the_next(chat: LoadedRelease) -> None:
    assert chat.answer("w5") == chat.answer("w5")


def test_the_system_prompt_of_training_stands_before_the_question(chat: LoadedRelease) -> None:
    tokens, _ = chat._encode("w9")
    words = chat.tokenizer.decode(tokens).split()
    assert words[:3] == ["system", "w1", "w2"]
    assert words[-1] == "assistant"
    assert "w9" in words


def test_what_the_template_writes_before_every_answer_is_not_shown(
    chat: LoadedRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as an empty block of thoughts: the tuned model was taught it."""
    answer = "{% if message['role'] == 'assistant' %}w8 w8 {% endif %}{{ message['content'] }}"
    chat.tokenizer.chat_template = chat.tokenizer.chat_template.replace("{{ message['content'] }}", answer)
    written = iter(["w8 w8 yes", "w8 no"])
    monkeypatch.setattr(loading, "greedy_answers", lambda *_, **__: [next(written)])
    assert chat.answer("w5") == ("w8 no", "yes")


def test_bad_prompts_are_one_line(chat: LoadedRelease) -> None:
    with pytest.raises(UserError, match="empty"):
        chat.answer("  ")
    with pytest.raises(UserError, match="do not fit"):
        chat.answer("w1 " * 100)


@pytest.mark.parametrize("field", ["digest", "tokenizer_digest"])
def test_another_base_or_tokenizer_is_refused(
    release: Path, tmp_path: Path, make_small_base: MakeBase, field: str
) -> None:
    base = make_small_base("llama")
    object.__setattr__(base, field, "00" * 32)
    with pytest.raises(UserError, match=r"pins the (base model|tokenizer)") as caught:
        open_release(release, tmp_path, "cpu", "float32", 6, load=loader(base))
    assert "\n" not in str(caught.value)


def test_a_wrong_folder_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    def never(*_: object) -> BaseModel:
        raise AssertionError("the model was loaded")

    with pytest.raises(UserError, match="no release here"):
        open_release(tmp_path, tmp_path, "cpu", "float32", 6, load=never)


def test_an_adapter_of_another_shape_is_refused(release: Path, tmp_path: Path, make_small_base: MakeBase) -> None:
    base = make_small_base("gpt2")
    with pytest.raises(UserError):
        open_release(release, tmp_path, "cpu", "float32", 6, load=loader(base))


def test_panels_side_by_side() -> None:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    show(console, "what [is] it?", ("one [answer]", ""))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "what [is] it?" in text
    titles = next(line for line in text.splitlines() if "base" in line)
    assert "tuned" in titles
    assert "one [answer]" in text
    assert "(nothing)" in text


def test_no_terminal_code_of_a_model_or_a_mistake_is_printed(
    chat: LoadedRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    show(console, "w1", ("\x1b[2Jone\nline", "\u202etwo"))
    prompts = iter(["w1", "exit"])

    def wrong(self: LoadedRelease, prompt: str) -> tuple[str, str]:
        raise UserError("a column \x1b]0;title\x07", "rename it")

    monkeypatch.setattr(LoadedRelease, "answer", wrong)
    talk(chat, console, lambda: next(prompts))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert "?[2Jone" in text
    assert "a column ?]0;title?: rename it" in text


@pytest.mark.parametrize("end", [EOFError, KeyboardInterrupt, None])
def test_the_loop_answers_survives_bad_prompts_and_ends(chat: LoadedRelease, end: type[BaseException] | None) -> None:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    prompts = iter(["w5 w6", "", "w1 " * 100, "w7"])

    def read() -> str:
        for prompt in prompts:
            return prompt
        if end is None:
            return "exit"
        raise end

    talk(chat, console, read)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("tuned") >= 3  # greeting and two answers
    assert "do not fit" in text
    assert "w3 w4" in text
