"""The one way this room says no."""

from typing import NoReturn


class Refused(Exception):  # noqa: N818 - a refusal is an answer of the protocol, not an error of the program
    """The protocol says no; nothing was signed, revealed or changed.

    Args:
        code: short and stable, e.g. "plan.threshold". The only part that may travel to the other side.
        text: one line for the people at this side.
        culprit: index of the organization whose own signed message proves the fault, where there is one.
    """

    def __init__(self, code: str, text: str, culprit: int | None = None) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text
        self.culprit = culprit

    def __reduce__(self) -> tuple[type["Refused"], tuple[str, str, int | None]]:
        """Keep the three parts across processes (the default would pass the joined line as `code`)."""
        return Refused, (self.code, self.text, self.culprit)


def refuse(code: str, text: str, culprit: int | None = None) -> NoReturn:
    """Raise `Refused`."""
    raise Refused(code, text, culprit)


def require(held: bool, code: str, text: str, culprit: int | None = None) -> None:
    """Raise `Refused` unless `held`."""
    if not held:
        refuse(code, text, culprit)
