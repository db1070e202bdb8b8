"""A chat template renders as in transformers, and one that would take a machine down ends within seconds."""

import multiprocessing
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from cotune.data import rendering, sandbox
from cotune.data.records import Message, Record
from cotune.data.rendering import TemplateError, TemplateLimit, render
from cotune.data.template import encode
from cotune.errors import UserError
from hypothesis import given, settings
from hypothesis import strategies as st

TURNS = (Message("system", "Be brief."), Message("user", " What is\n2 + 2? "), Message("assistant", "4"))
TURNS += (Message("user", "Sure? é <b>"), Message("assistant", "Yes."))
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}

# In the manner of the families that people train.
LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
        {{- message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""
QWEN = """{%- if tools %}{{- tools | tojson }}{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "assistant" and '</think>' in message.content %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
    {%- else %}{%- set content = message.content %}{%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""
GEMMA = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' -%}{%- set loop_messages = messages[1:] -%}
{%- else -%}{%- set first_user_prefix = "" -%}{%- set loop_messages = messages -%}{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}{{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}{{ item['text'] | trim }}{%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{'<start_of_turn>model\\n'}}{%- endif -%}"""
MISTRAL = """{%- set user_messages = messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and messages[0]["role"] == "system" %}
            {{- "[INST] " + messages[0]["content"] + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- elif message["role"] == "assistant" %}{{- " " + message["content"]|trim + eos_token}}{%- endif %}
{%- endfor %}"""
SMOL = """{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\nYou are SmolLM<|im_end|>\n' }}{% endif %}
{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
OTHERS = """{%- macro turn(m) %}{{ m.role | upper }}:{{ m.content | tojson(indent=1) }}{% endmacro -%}
{% set d = dict(a=1) %}{{ dict.fromkeys(['x']) }}{{ d.items() | list }}
{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ turn(m) }}
{% generation %}{{ m.content }}{% endgeneration %}{% if loop.index > 2 %}{% break %}{% endif %}{% endfor %}
{{ '%s-%s' | format('a', 1) }}{{ range(3) | join(',') }}{{ 'a' * 3 ~ documents ~ tools }}{{ undefined_name }}"""
ORDINARY = {"llama": LLAMA, "qwen": QWEN, "gemma": GEMMA, "mistral": MISTRAL, "smol": SMOL, "others": OTHERS}

Make = Callable[..., Any]
QUICK = {"doubling", "product", "center", "join", "long text", "nested compile"}


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("prompt_only", [True, False])
@pytest.mark.parametrize("first", [0, 1])
def test_ordinary_templates_render_as_in_transformers(
    byte_tokenizer: Make, name: str, prompt_only: bool, first: int
) -> None:
    tokenizer = byte_tokenizer(ORDINARY[name])
    tokenizer.bos_token = "<s>"
    turns = TURNS[first:-1] if prompt_only else TURNS[first:]
    plain = [{"role": turn.role, "content": turn.content} for turn in turns]
    expected = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=prompt_only)
    expected = expected.replace(datetime.now().strftime("%d %b %Y"), "26 Jul 2024")  # one day for all
    assert render(tokenizer.get_chat_template(), tokenizer.special_tokens_map, turns, prompt_only) == expected
    assert turns[-1].content.strip() in expected or name == "others"


@settings(max_examples=50)
@given(texts=st.lists(st.text(), min_size=1, max_size=4))
def test_any_text_comes_back_as_it_was(texts: list[str]) -> None:
    template = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    turns = [Message("user", text) for text in texts]
    assert render(template, NAMES, turns, False) == "".join(f"[{text}]" for text in texts)


HOSTILE = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "silent loops": "{% for a in range(99999) if false %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    + "{% for a in range(9999) %}{% for b in range(99999) %}{% set c = a * b %}{% endfor %}{% endfor %}",
    "long product": "{% for a in 'x' * 999999999 %}{% endfor %}",
    "doubling": "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by plus": "{% set n = namespace(x='ab') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursive loop": "{% for a in [[1]] recursive %}{{ loop([[1], [1]]) if loop.depth < 60 }}{% endfor %}",
    "product": "{{ 'a' * 10**10 }}",
    "list product": "{{ ([0] * 10**9) | length }}",
    "power": "{{ 10 ** (10 ** 9) }}",
    "digits": "{{ (7 ** 9999999) % 10 }}{{ 3 ** 99999999 }}",
    "center": "{{ 'a' | center(10**9) }}",
    "center method": "{{ 'a'.center(10**10) }}",
    "indent": "{{ ('a\n' * 10**6) | indent(10**6) }}",
    "format": "{{ '%1000000000d' | format(1) }}",
    "format method": "{{ '{:1000000000}'.format(1) }}",
    "percent": "{{ '%*d' % (2000000000, 1) }}",
    "batch": "{{ range(99999) | batch(1, 'x') | list | length }}{{ [1] | batch(10**10, 'x') | list | length }}",
    "slice": "{{ [1] | slice(10**9) | list | length }}",
    "wordwrap": "{% for i in range(99999) %}{{ ('a ' * 10**6) | wordwrap(1) | length }}{% endfor %}",
    "join": "{{ range(99999) | join('x' * 10**6) }}",
    "replace": "{{ ('a' * 10**6) | replace('a', 'b' * 10**6) }}",
    "urlize": "{% for i in range(99999) %}{{ ('www.a.b ' * 10**5) | urlize | length }}{% endfor %}",
    "json": "{{ {'a': {'b': [1] * 10**6}} | tojson(indent=10**5) }}",
    "sum": "{{ ([[0] * 10**4] * 10**5) | sum(start=[]) | length }}",
    "long text": "{% for a in range(99999) %}{{ 'a' * 100 }}{% endfor %}",
    "compile": "{{ " + "-" * 50_000 + "1 }}" + "{{ 'a' * 10**11 }}",
    "nested compile": "{% if 1 %}" * 3_000 + "{% endif %}" * 3_000 + "{{ 10 ** (10 ** 9) }}",
    "lorem": "{% for i in range(99999) %}{{ lipsum(9999) | length }}{% endfor %}",
    "cycler": "{% set c = cycler('a') %}{% for a in range(99999) %}{% for b in range(99999) %}{% set d = c.next() %}"
    + "{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in HOSTILE]
)
def test_a_hostile_template_ends(name: str) -> None:
    begun = time.monotonic()
    with pytest.raises((TemplateLimit, TemplateError)):
        render(HOSTILE[name], NAMES, TURNS, True)
    assert time.monotonic() - begun < 30  # 3 s on a quiet machine


def test_a_hostile_template_is_one_line_that_names_the_model(byte_tokenizer: Make) -> None:
    tokenizer = byte_tokenizer(HOSTILE["nested loops"])
    tokenizer.name_or_path = "their/model"
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"the chat template of their/model needs more than 2 s.*: use another model"):
        encode(Record((Message("user", "a"),), "b", "u"), tokenizer, 100)
    assert time.monotonic() - begun < 30  # 3 s on a quiet machine


@pytest.mark.slow
def test_a_template_that_is_slow_for_every_text_ends_too() -> None:
    """Each text is within the limit, all of them are not."""
    slow = "{% for a in range(600) %}{% for b in range(1000) %}{% endfor %}{% endfor %}"
    render(slow, NAMES, TURNS, True)
    with pytest.raises(TemplateLimit):
        deque((render(slow, NAMES, TURNS, True) for _ in range(2_000)), maxlen=0)


def test_what_it_raises_is_said_and_the_process_goes_on() -> None:
    template = "{{ raise_exception('no\nsystem') if messages[0].role == 'system' }}x"
    for _ in range(2):
        with pytest.raises(TemplateError, match="TemplateError: no system"):
            render(template, NAMES, TURNS, True)
        assert render(template, NAMES, TURNS[1:], True) == "x"
    for broken in ("{% for %}", "{{ ''.__class__.__mro__ }}", "{{ namespace(_x=1) }}", "{{ messages.append(1) }}"):
        with pytest.raises(TemplateError):
            render(broken, NAMES, TURNS, True)


def test_texts_of_two_threads_are_not_mixed() -> None:
    template, wrong = "{{ messages[0].content }}", []

    def ask(own: str) -> None:
        for number in range(100):
            said = f"{own}{number}"
            wrong.extend([said] if render(template, NAMES, [Message("user", said)], True) != said else [])

    threads = [threading.Thread(target=ask, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _ask(own: str, count: int) -> None:
    for number in range(count):
        said = f"{own}{number}"
        assert render("{{ messages[0].content }}", NAMES, [Message("user", said)], True) == said


def test_a_forked_process_has_a_process_of_its_own() -> None:
    _ask("before", 1)
    child = multiprocessing.get_context("fork").Process(target=_ask, args=("child", 200))
    child.start()
    _ask("parent", 200)
    child.join(60)
    assert child.exitcode == 0
    _ask("after", 1)


def test_an_interrupted_answer_is_not_taken_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    template = "{{ messages[0].content }}"
    with monkeypatch.context() as patch:

        def interrupted(*given: Any) -> bytes:
            raise KeyboardInterrupt

        patch.setattr(rendering, "_read_line", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render(template, NAMES, [Message("user", "first")], True)
    assert render(template, NAMES, [Message("user", "second")], True) == "second"


def test_processes_are_few_and_end() -> None:
    for number in range(10):
        render(f"{number}", NAMES, TURNS, True)
    processes = [process._process for process in rendering._processes.values()]
    assert len(processes) <= 4
    rendering._end_all()
    assert all(process.returncode is not None for process in processes)
    assert render("x", NAMES, TURNS, True) == "x"


def test_the_process_leaves_memory_for_ordinary_texts() -> None:
    long = "word " * 500_000
    assert sandbox.most_characters([{"role": "user", "content": long}]) > 8 * len(long)
    assert render("{{ messages[0].content | trim }}", NAMES, [Message("user", long)], True) == long.strip()
