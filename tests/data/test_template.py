"""Tokens of prompt and answer: where the answer begins, where it ends, and what is refused."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cotune.data.records import PLAIN, Message, Record
from cotune.data.template import around, encode, encode_all, encode_prompt
from cotune.errors import UserError
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

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


IM = "<|im_end|>"
TURNS = (Message("system", "a"), Message("user", "a"), Message("assistant", "s"), Message("user", "e"))


@pytest.mark.parametrize(
    ("template", "role"),
    [
        ("{% for m in messages if m.role != 'system' %}{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}", "system"),
        ("{% for m in messages if m.role != 'user' %}{{ m.role }}:{{ m.content }}<|im_end|>{% endfor %}", "user"),
        ("{% for m in messages if m.role != 'assistant' %}{{ m.role }}:{{ m.content }}{% endfor %}", "assistant"),
        ("{% for m in messages %}{{ m.role }}:{{ m.content | lower }}<|im_end|>{% endfor %}", "system"),
        ("{% for m in messages[-2:] %}assistant user:{{ m.content }}<|im_end|>{% endfor %}", "system"),
        ("system user assistant{% for m in messages %}{{ m.content.text }}{% endfor %}", "system"),
        ("{% for m in messages %}{% for p in m.content if p.type == 'image' %}image{% endfor %}{% endfor %}", "system"),
    ],
)
def test_a_short_text_that_stands_in_a_templates_own_words_is_missed_too(
    byte_tokenizer: Make, template: str, role: str
) -> None:
    with pytest.raises(UserError, match=f"leaves out or changes the {role}'s message"):
        encode(Record(TURNS, "a", "u"), byte_tokenizer(template), 4096)


@pytest.mark.parametrize("of", ["m.content", "(m.content if m.content is string else '')"])
def test_a_template_that_asks_for_parts_gets_them(byte_tokenizer: Make, of: str) -> None:
    """As those of models for text and images: some raise at a plain text, some leave it out."""
    turn = "{{ '<|im_start|>' + m['role'] + '\\n' }}"
    part = "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}<|im_end|>\n"
    prompt = "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    strict = "{% if m.content is string %}{{ raise_exception('parts') }}{% endif %}" if of == "m.content" else ""
    tokenizer = byte_tokenizer("{% for m in messages %}" + turn + strict + part + prompt)
    example, expected = encode(RECORD, tokenizer, 400), encode(RECORD, byte_tokenizer(), 400)
    assert tokenizer.decode(example.tokens) == tokenizer.decode(expected.tokens)


def test_thoughts_of_earlier_answers_may_be_cut_but_not_those_that_are_taught(byte_tokenizer: Make) -> None:
    cut = "{% for m in messages %}{{ m.role }}:{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
    tokenizer = byte_tokenizer(cut + "{% if add_generation_prompt %}assistant:{% endif %}")
    thought = "<think>\nlong\n</think>\n\nyes"
    turns = (Message("user", "a"), Message("assistant", thought), Message("user", "b"))
    example = encode(Record(turns, "no", "u"), tokenizer, 400)
    assert "long" not in tokenizer.decode(example.tokens)
    with pytest.raises(UserError, match="leaves out or changes the assistant's message"):
        encode(Record(turns[:1], thought, "u"), tokenizer, 400)
    kept = "{% for m in messages %}{{ m.role }}:{{ m.content | replace('\\n', '') }}<|im_end|>{% endfor %}"
    tokenizer = byte_tokenizer(kept + "{% if add_generation_prompt %}assistant:{% endif %}")
    example = encode(Record(turns[:1], thought, "u"), tokenizer, 400)
    assert tokenizer.decode(example.tokens[example.answer_start :]) == "<think>long</think>yes" + IM


@pytest.mark.parametrize(
    ("opening", "closing", "taught"),
    [
        ("", "<|im_end|>\n<|im_end|>", "{}<|im_end|>"),
        ("<think>\n\n</think>\n\n", "<|im_end|>\n", "<think>\n\n</think>\n\n{}<|im_end|>"),
        ("<|im_start|>final<|im_start|>", "<|im_end|>", "<|im_start|>final<|im_start|>{}<|im_end|>"),
        ("", " (over)<|im_end|>and more", "{} (over)<|im_end|>"),
        ("Sure: ", "\n", "Sure: {}\n<|im_end|>"),
    ],
)
@pytest.mark.parametrize("answer", ["yes", "final", "think", "<think>\n\n</think>\n\nno"])
def test_an_answer_ends_at_the_first_special_token_behind_it(
    byte_tokenizer: Make, opening: str, closing: str, taught: str, answer: str
) -> None:
    tokenizer = byte_tokenizer(
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}"
        f"{{{{ {opening!r} + m.content + {closing!r} }}}}"
        "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    record = Record((Message("user", "a"),), answer, "u")
    example = encode(record, tokenizer, 400)
    assert tokenizer.decode(example.tokens[example.answer_start :]) == taught.format(answer)
    visible = opening.replace("<|im_start|>", "").strip()
    assert around(record, tokenizer) == (visible, closing.split("<|")[0].strip())


def _joining() -> Any:
    """A tokenizer with tokens for several letters, also for line breaks and what follows."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    texts = ["assistant\n\n", "\n\nno", "\nyes", "answer: no", ":no", "s: yes"] * 20
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=IM, additional_special_tokens=["<|im_start|>", IM])


@pytest.mark.parametrize("between", ["\n\n", "\n", ":", ": "])
@given(question=WORDS, answer=st.one_of(WORDS, st.sampled_from(["no", "yes", "\n\nno"])))
def test_prompt_and_answer_are_cut_where_the_text_is(between: str, question: str, answer: str) -> None:
    tokenizer = _joining()
    tokenizer.chat_template = (
        f"{{% for m in messages %}}<|im_start|>{{{{ m.role + {between!r} + m.content }}}}<|im_end|>{{% endfor %}}"
        f"{{% if add_generation_prompt %}}<|im_start|>{{{{ 'assistant' + {between!r} }}}}{{% endif %}}"
    )
    record = Record((Message("user", question),), answer, "u")
    example = encode(record, tokenizer, 4096)
    assert np.array_equal(example.tokens[: example.answer_start], encode_prompt(record, tokenizer, 4096))
    assert tokenizer.decode(example.tokens[: example.answer_start]).endswith("assistant" + between)
    assert tokenizer.decode(example.tokens[example.answer_start :]) == answer + IM
    plain = Record((Message(PLAIN, question),), answer, "u")
    assert tokenizer.decode(encode(plain, tokenizer, 4096).tokens) == question + answer + IM


def test_a_tokenizer_that_writes_a_blank_of_its_own_before_an_answer_is_refused() -> None:
    tokenizer = _joining()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}assistant\n{% endif %}"
    )
    with pytest.raises(UserError, match="does not cut between prompt and answer"):
        encode(Record((Message("user", "a"),), "yes", "u"), tokenizer, 400)


def test_a_completion_goes_on_as_its_whole_text_is_cut(byte_tokenizer: Make) -> None:
    """Some tokenizers put a blank before every text: the answer has none that was not written."""
    tokenizer = byte_tokenizer(chat_template=None)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    example = encode(Record((Message(PLAIN, "2+2="),), "4", "u"), tokenizer, 100)
    assert tokenizer.decode(example.tokens[example.answer_start :]) == "4" + IM


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
