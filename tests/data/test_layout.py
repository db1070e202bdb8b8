"""What a chat template does with turns of certain roles, whatever their texts."""

import pytest
from cotune.data import layout as layouts
from cotune.data.layout import Layout, layout
from cotune.data.rendering import TemplateLimit

NAMES = {"eos_token": "</s>"}
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think></think>{% endif %}{{ m.content }}"
    "{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_what_a_template_writes_around_an_answer() -> None:
    turns = ("system", "user", "assistant")
    assert layout(CHAT, NAMES, turns, False) == Layout(opening="<think></think>", closing="</s>\n")
    assert layout(CHAT, NAMES, turns[:2], True) == Layout()
    assert layout(CHAT.replace("<assistant>", "<other>"), NAMES, turns, False) == Layout()  # another prompt


def test_parts_and_what_is_lost() -> None:
    parts = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    assert layout(parts, NAMES, ("user",), True) == Layout(in_parts=True)
    last = "{{ messages[-1].content }}"
    assert layout(last, NAMES, ("user",), True) == Layout()
    assert layout(last, NAMES, ("system", "user"), True) == Layout(lost="system")
    assert layout(last + "{{ messages[0].content | title }}", NAMES, ("system", "user"), True) == Layout(lost="system")


def test_of_a_template_that_refuses_nothing_is_known() -> None:
    refusing = "{{ raise_exception('no system') if messages[0].role == 'system' }}{{ messages[0].content }}"
    assert layout(refusing, NAMES, ("system",), True) == Layout()
    with pytest.raises(TemplateLimit):
        layout("{{ 'a' * 10**10 }}", NAMES, ("user",), True)


def test_each_sequence_of_roles_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = layout(CHAT + " ", NAMES, ("user", "assistant"), False)
    monkeypatch.setattr(layouts, "render", None)
    assert layout(CHAT + " ", dict(NAMES), ["user", "assistant"], False) == first
