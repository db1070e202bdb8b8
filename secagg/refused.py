"""The one way this room says no."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn


class Refused(Exception):  # noqa: N818 - a refusal is an answer of the protocol, not an error of the program
    """The protocol says no; nothing was signed, revealed or changed.

    Args:
        code: short and stable, e.g. "plan.threshold". The only part that may travel to the other side.
        text: one line for the people at this side.
        member: index of the organization whose message it is about, where there is one.
        part: the part of a round record in which it was found, where it was found in one.
        piece: the piece of a vector that it is about, where it is about one.
    """

    def __init__(
        self, code: str, text: str, member: int | None = None, part: str = "", piece: int | None = None
    ) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.member = member
        self.part = part
        self.piece = piece

    def __reduce__(self) -> tuple[type["Refused"], tuple[str, str, int | None, str, int | None]]:
        """Keep the parts across processes (the default would pass the joined line as `code`)."""
        return Refused, (self.code, self.text, self.member, self.part, self.piece)


def refuse(code: str, text: str, member: int | None = None) -> NoReturn:
    """Raise `Refused`."""
    raise Refused(code, text, member)


def require(held: bool, code: str, text: str, member: int | None = None) -> None:
    """Raise `Refused` unless `held`."""
    if not held:
        refuse(code, text, member)


@contextmanager
def about(piece: int) -> Iterator[None]:
    """Say which piece of a vector a refusal is about."""
    try:
        yield
    except Refused as no:
        no.piece = piece
        raise
