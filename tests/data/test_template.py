"""Tokens of prompt and answer: where the answer begins, where it ends, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cotune.data.records import PLAIN, Message, Record
from cotune.data.template import encode, encode_all, encode_prompt
from cotune.errors import UserError
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, normalizers

Make = Callable[..., Any]
RECORD = Record((Message("system", "Field?"), Message("user", "Cholera")), "infection", "u", "infection")
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<|>\0"), min_size=1, max_size=20)


def test_the_loss_covers_the_answer_and_its_end(byte_tokenizer: Make) -> None:
    tokenizer = byte_tokenizer()
    example = encode(RECORD, tokenizer, 200)
    assert tokenizer.decode(example.tokens[example.answer_start :]) == "infection<|im_end|>"
    assert example.tokens.dtype == np.int32
    assert (example.unit, example.label) == ("u", "infection")


@given(turns=st.lists(WORDS, min_size=1, max_size=5), answer=WORDS)
def test_the_prompt_is_a_prefix_whatever_the_text(byte_tokenizer: Make, turns: list[str], answer: str) -> None:
    tokenizer = byte_tokenizer()
    prompt = tuple(Message("assistant" if n % 2 else "user", text) for n, text in enumerate(turns))
    record = Record(prompt, answer, "u")
    example = encode(record, tokenizer, 4096)
    assert np.array_equal(example.tokens[: example.answer_start], encode_prompt(record, tokenizer, 4096))
    assert tokenizer.decode(example.tokens[example.answer_start :]) == answer + "<|im_end|>"


def test_a_completion_is_plain_text_with_an_end(byte_tokenizer: Make) -> None:
    tokenizer = byte_tokenizer(chat_template=None)
    example = encode(Record((Message(PLAIN, "2 + 2 ="),), " 4", "u"), tokenizer, 100)
    assert tokenizer.decode(example.tokens) == "2 + 2 = 4<|im_end|>"
    assert tokenizer.decode(example.tokens[: example.answer_start]) == "2 + 2 ="


def test_a_model_without_template_is_refused(byte_tokenizer: Make) -> None:
    with pytest.raises(UserError, match=r"no chat template: .*completion"):
        encode(RECORD, byte_tokenizer(chat_template=None), 200)


def test_a_template_without_end_of_turn_gets_one(byte_tokenizer: Make) -> None:
    bare = "{% for m in messages %}{{ m['role'][0] + ':' + m['content'] + '\n' }}{% endfor %}"
    bare += "{% if add_generation_prompt %}a:{% endif %}"
    tokenizer = byte_tokenizer(bare)
    example = encode(RECORD, tokenizer, 200)
    assert tokenizer.decode(example.tokens[example.answer_start :]) == "infection\n<|im_end|>"
    with pytest.raises(UserError, match="no end-of-text token"):
        encode(RECORD, byte_tokenizer(bare, eos_token=None), 200)


def test_a_template_that_rewrites_its_prompt_is_refused(byte_tokenizer: Make) -> None:
    rewriting = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    with pytest.raises(UserError, match="does not continue its own prompt"):
        encode(RECORD, byte_tokenizer(rewriting), 200)


def test_a_template_that_leaves_out_a_message_is_refused(byte_tokenizer: Make) -> None:
    silent = "{% for m in messages if m.role != 'system' %}{{ m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(UserError, match="leaves out or changes the system's message"):
        encode(RECORD, byte_tokenizer(silent), 200)
    parts = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}<|im_end|>{% endfor %}"
    with pytest.raises(UserError, match="leaves out or changes the user's message"):
        encode(Record((Message("user", "Cholera"),), "infection", "u"), byte_tokenizer(parts), 200)


@pytest.mark.parametrize("special", ["<|im_end|>", "<|im_start|>", "<flagged>"])
@given(before=WORDS, after=WORDS)
def test_what_people_wrote_is_never_a_control_token(
    byte_tokenizer: Make, special: str, before: str, after: str
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken("<flagged>", special=True, normalized=False)])
    text = before + special + after
    for record in (
        Record((Message("system", text), Message("user", "a")), "b", "u"),
        Record((Message("user", text),), "b", "u"),
        Record((Message("user", "a"), Message("assistant", text), Message("user", "a")), "b", "u"),
        Record((Message("user", "a"),), text, "u"),
        Record((Message(PLAIN, text),), "b", "u"),
        Record((Message(PLAIN, "a"),), text, "u"),
    ):
        with pytest.raises(UserError, match="a special token of"):
            encode(record, tokenizer, 4096)
    with pytest.raises(UserError, match="record 2: the text holds '"):
        encode_all([RECORD, Record((Message("user", text),), "b", "u")], tokenizer, 4096)


def test_a_text_that_normalization_makes_special_is_refused(byte_tokenizer: Make) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.add_tokens([AddedToken("<stop>", special=True, normalized=True)])
    record = Record((Message("user", "now <STOP> please"),), "b", "u")
    assert tokenizer.convert_tokens_to_ids("<stop>") in tokenizer(record.prompt[0].content)["input_ids"]
    with pytest.raises(UserError, match="holds '<stop>', a special token"):
        encode(record, tokenizer, 200)
    encode(Record((Message("user", "now STOP please"),), "b", "u"), tokenizer, 200)


def test_an_end_of_turn_that_is_only_flagged_ends_the_answer(byte_tokenizer: Make) -> None:
    tokenizer = byte_tokenizer(
        "{% for m in messages %}{{ m.role }}:{{ m.content }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    tokenizer.add_tokens([AddedToken("<end_of_turn>", special=True, normalized=False)])
    example = encode(RECORD, tokenizer, 200)
    assert tokenizer.decode(example.tokens[example.answer_start :]) == "infection<end_of_turn>"


def test_a_template_that_refuses_the_roles_is_one_line(byte_tokenizer: Make) -> None:
    strict = "{{ raise_exception('System role\nnot supported') }}"
    with pytest.raises(UserError, match=r"refuses this conversation .*System role not supported"):
        encode(RECORD, byte_tokenizer(strict), 200)


def test_the_context_bounds_prompt_and_answer(byte_tokenizer: Make) -> None:
    tokenizer = byte_tokenizer()
    length = len(encode(RECORD, tokenizer, 200).tokens)
    assert len(encode(RECORD, tokenizer, length).tokens) == length
    with pytest.raises(UserError, match=f"{length} tokens do not fit into the context of {length - 1}"):
        encode(RECORD, tokenizer, length - 1)
    with pytest.raises(UserError, match="record 2: "):
        encode_all([Record(RECORD.prompt, "a", "u"), RECORD], tokenizer, length - 1)
    with pytest.raises(UserError, match="do not fit"):
        encode_prompt(RECORD, tokenizer, 10)
