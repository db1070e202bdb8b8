"""Special tokens of a tokenizer: their ids, and whether somebody's text would become one.

A record is what people wrote. If it holds "<|im_end|>", a tokenizer makes of it the very token that ends a turn, and
whoever wrote the record writes turns of his own. Such a record is refused. Tokens that a tokenizer adds without calling
them special ("<think>") may stand in a text: models are taught with them.
"""

import re
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary


@dataclass(frozen=True)
class SpecialTokens:
    """What a tokenizer calls special.

    Attributes:
        ids: all of them, but not the one for what is unknown, which plain text also gives.
        pattern: their texts. normalized: whether a text can also become one by the tokenizer's normalization.
    """

    ids: frozenset[int]
    pattern: re.Pattern[str]
    normalized: bool

    def found(self, text: str, tokenizer: Any) -> str | None:
        """The first special token that `text` would become; None where it stays text."""
        if match := self.pattern.search(text):
            return match[0]
        if not self.normalized:
            return None
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return next((str(tokenizer.convert_ids_to_tokens(int(one))) for one in ids if int(one) in self.ids), None)


_known: WeakKeyDictionary[Any, SpecialTokens] = WeakKeyDictionary()


def special_tokens(tokenizer: Any) -> SpecialTokens:
    """The special tokens of a Hugging Face tokenizer: those that it names, and those flagged in its vocabulary."""
    if tokenizer not in _known:
        flagged = {int(one): token for one, token in tokenizer.added_tokens_decoder.items() if token.special}
        named = dict(zip(map(int, tokenizer.all_special_ids), tokenizer.all_special_tokens, strict=True))
        texts = {token.content for token in flagged.values()} | set(named.values())
        longest_first = sorted(filter(None, texts), key=lambda text: (-len(text), text))
        ids = {*flagged, *named}
        if tokenizer.unk_token_id != tokenizer.eos_token_id:
            ids.discard(tokenizer.unk_token_id)
        _known[tokenizer] = SpecialTokens(
            frozenset(ids),
            re.compile("|".join(map(re.escape, longest_first)) or "(?!)"),
            any(token.normalized for token in flagged.values()),
        )
    return _known[tokenizer]
