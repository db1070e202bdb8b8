"""A node's no: one line for the person at this side, a short code for the other."""

from ..errors import UserError


class Refusal(UserError):  # noqa: N818 - an answer, not a fault
    """An organization refuses to act under a charter.

    Args:
        code: short and stable, e.g. "policy.epsilon". The only part that may travel to the other side.
        what: as in `UserError`; it may name local settings and stays here.
        mend: as `what`.
    """

    def __init__(self, code: str, what: str, mend: str) -> None:
        super().__init__(what, mend)
        self.code = code

    def __reduce__(self) -> tuple[type["Refusal"], tuple[str, str, str]]:
        """Keep the parts across processes; the default would pass the joined line alone."""
        return Refusal, (self.code, self.what, self.mend)
