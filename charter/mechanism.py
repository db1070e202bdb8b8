"""What a charter must agree on for its noise to be made of integers."""

from ..errors import UserError
from ..privacy.skellam import Grid
from ..privacy.terms import METRICS


def check_grid(grid: Grid, dimension: int) -> None:
    """What is noised on the grid is what is sent, and all of it is accounted for.

    Args:
        grid: as the charter's privacy terms hold it. dimension: coordinates of the adapter.

    Raises:
        UserError: the first that does not hold.
    """
    if grid.dimension != dimension + len(METRICS):
        raise UserError(
            f"privacy.dimension is {grid.dimension}, the adapter and its metrics have {dimension + len(METRICS)}",
            "draft the charter again",
        )
