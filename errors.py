"""The one exception that a person is meant to read.

Every refusal of cotune that a user can mend is a `UserError`: one line that says what is wrong, where, and how to mend
it. The command line prints that line without a traceback and exits with 2. Anything else is a bug and keeps its
traceback.
"""


class UserError(Exception):
    """A mistake that the user can mend.

    Args:
        what: what is wrong and where, without a full stop, e.g. "notes.jsonl line 7: not a JSON object".
        mend: how to mend it, an imperative, e.g. "write one JSON object on each line".
    """

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(f"{what}: {mend}")
        self.what = what
        self.mend = mend

    def __reduce__(self) -> "tuple[type[UserError], tuple[str, ...]]":
        """Keep both parts across processes; the default would pass the joined line alone."""
        return type(self), (self.what, self.mend)


def first_line(error: BaseException, most: int = 160) -> str:
    """What a library's exception says, in one line of at most `most` characters; its type where it says nothing."""
    words = next((" ".join(line.split()) for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return words if len(words) <= most else f"{words[: most - 3]}..."
