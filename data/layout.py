"""How a chat template lays turns out, found by marks in the place of their texts, once for each sequence of roles.

A text can stand in a template's own words by chance, as "a" in "assistant"; a mark cannot. So it shows what a template
leaves out, whether it asks for parts in place of texts, and what it writes around an answer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .records import Message
from .rendering import TemplateError, render


@dataclass(frozen=True)
class Layout:
    """What a template does with turns of certain roles.

    Attributes:
        in_parts: whether it takes a content as a list of parts, and loses one that is plain text.
        lost: the role of the first turn that it leaves out; empty: none.
        opening, closing: its own text before and behind the answer, where that is the last turn; from the end of the
            prompt on, and to the end.
    """

    in_parts: bool = False
    lost: str = ""
    opening: str = ""
    closing: str = ""


def layout(template: str, names: Mapping[str, object], roles: Sequence[str], prompt_only: bool) -> Layout:
    """How turns of these roles are laid out; arguments as those of `rendering.render`.

    Raises:
        TemplateLimit, OSError: as `rendering.render`.

    Edge cases: of a template that refuses such turns nothing is known; who renders them hears why.
    """
    return _layout(template, json.dumps(dict(names), sort_keys=True), tuple(roles), prompt_only)


@lru_cache(maxsize=512)
def _layout(template: str, names: str, roles: tuple[str, ...], prompt_only: bool) -> Layout:
    # Letters of both cases, so that a template that changes them shows too.
    turns = [Message(role, f"QzMark{number}x") for number, role in enumerate(roles)]
    left_out = ""
    for in_parts in (False, True):
        try:
            text = render(template, json.loads(names), turns, prompt_only, in_parts)
            lost = next((turn.role for turn in turns if turn.content not in text), "")
            if not lost:
                prompt = "" if prompt_only else render(template, json.loads(names), turns[:-1], True, in_parts)
        except TemplateError:
            continue
        if lost:
            left_out = left_out or lost
            continue
        if prompt_only or not text.startswith(prompt):
            return Layout(in_parts)
        opening, _, closing = text[len(prompt) :].partition(turns[-1].content)
        return Layout(in_parts, "", opening, closing)
    return Layout(lost=left_out)
