"""What is said where a model gives scores that are no numbers: an adapter that was trained at too high a rate."""

import math

from ..errors import UserError


class NotFiniteError(UserError):
    """A model's scores with an adapter are not finite."""


def require_finite(total: float) -> None:
    """Refuse scores that are no numbers.

    Args:
        total: their sum.

    Raises:
        NotFiniteError: it is not finite.
    """
    if not math.isfinite(total):
        raise NotFiniteError("the model gives scores that are not finite", "use an adapter of an earlier round")
