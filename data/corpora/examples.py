"""The turns that stand before every prompt of a corpus: a system message and a few public examples."""

from collections.abc import Sequence

from ..records import Message


def opening(system: str, examples: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """A system message, then a user's and an assistant's turn for each example."""
    turns = [Message("system", system)]
    for question, answer in examples:
        turns += [Message("user", question), Message("assistant", answer)]
    return tuple(turns)
