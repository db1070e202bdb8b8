"""Text that the base model writes by itself, in the place of public text: what a user might say next.

Behind the task's public turns (system message, examples) the model is given the beginning of a user's turn, and goes on
by chance. No text of anybody is needed, and nothing private has a part in it.
"""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from transformers import DynamicCache

from ..data.records import Message, Record
from ..data.template import encode_prompt
from ..errors import UserError
from ..spelling import is_blank, plain
from ..training.base import BaseModel

TEMPERATURE: Final = 1.0
_AT_ONCE: Final = 32
_MOST_TRIES: Final = 4


@torch.no_grad()
def written(
    base: BaseModel,
    preamble: Sequence[Message],
    count: int,
    most_tokens: int,
    context_length: int,
    seed: int,
    fits: Callable[[str], bool] = lambda text: True,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Different texts, each as a user's turn behind the preamble.

    Args:
        base: without an adapter, or with one that is zero.
        preamble: public turns; none where the task has none.
        count: how many texts. most_tokens: of one.
        context_length: of a prompt.
        seed: on one machine the same texts; on another one last digits may choose other words.
        fits: whether a text can be used.
        progress: called with (texts, in all).

    Raises:
        UserError: the model writes too few different texts.
    """
    prefix, ends = _opened(base, preamble, context_length)
    draw = torch.Generator().manual_seed(seed)
    texts: dict[str, str] = {}
    for _ in range(_MOST_TRIES * -(-count // _AT_ONCE)):
        for tokens in _sampled(base, prefix, ends, most_tokens, draw):
            text = str(base.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
            if not is_blank(text) and fits(text):
                texts.setdefault(plain(text), text)
        if progress is not None:
            progress(min(len(texts), count), count)
        if len(texts) >= count:
            return list(texts.values())[:count]
    raise UserError(
        f"{base.name} writes {len(texts)} different texts by itself, {count} were asked for",
        "give public text (data.public_file), or a basis at random (model.basis.source=random)",
    )


def _opened(base: BaseModel, preamble: Sequence[Message], context_length: int) -> tuple[list[int], set[int]]:
    """Tokens up to where a user's text begins, and those that end it."""
    words = [word for word in sorted(base.tokenizer.get_vocab()) if word.isascii() and word.isalnum()]
    one, other = (
        encode_prompt(
            Record((*preamble, Message("user", word)), "-", unit="public"), base.tokenizer, context_length
        ).tolist()
        for word in (words[0], words[-1])
    )
    before, behind = _common(one, other), _common(one[::-1], other[::-1])
    if not behind:
        raise UserError(f"the chat template of {base.name} does not end a user's turn", "give public text")
    ends = {one[len(one) - behind], base.tokenizer.eos_token_id}
    return one[:before], {int(end) for end in ends if end is not None}


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))


def _sampled(
    base: BaseModel, prefix: Sequence[int], ends: set[int], most: int, draw: torch.Generator
) -> list[list[int]]:
    """Some continuations, each up to its end."""
    model, cache = base.model, DynamicCache()
    inputs = torch.tensor([list(prefix)], device=model.device)
    logits = model(input_ids=inputs, past_key_values=cache, use_cache=True).logits[:, -1]
    cache.batch_repeat_interleave(_AT_ONCE)
    logits = logits.expand(_AT_ONCE, -1)
    found: list[list[int]] = [[] for _ in range(_AT_ONCE)]
    open_ones = set(range(_AT_ONCE))
    for _ in range(most):
        chances = (logits.float().cpu() / TEMPERATURE).softmax(-1)
        chosen = torch.multinomial(chances, 1, generator=draw)
        for row in sorted(open_ones):
            token = int(chosen[row])
            if token in ends:
                open_ones.discard(row)
            else:
                found[row].append(token)
        if not open_ones:
            break
        logits = model(input_ids=chosen.to(model.device), past_key_values=cache, use_cache=True).logits[:, -1]
    # One that did not come to its end would teach where texts are cut.
    return [tokens for row, tokens in enumerate(found) if row not in open_ones]
