"""What a charter must agree on for its noise to be made of integers."""

from ..errors import UserError
from ..privacy.skellam import Grid
from ..privacy.terms import METRICS
from .rules import ONE_GRADIENT


def check_grid(grid: Grid, dimension: int, rule: str) -> None:
    """What is noised on the grid is what is sent, and all of it is accounted for.

    Args:
        grid: as the charter's privacy terms hold it. dimension: coordinates of the adapter. rule: the strategy's class.

    Raises:
        UserError: the first that does not hold.
    """
    if rule not in ONE_GRADIENT:
        raise UserError(
            f"privacy.mechanism=skellam with {rule}: what local steps make of the noised integers is not on their grid",
            "use DPFedSGD, or set privacy.mechanism=gaussian",
        )
    if grid.dimension != dimension + len(METRICS):
        raise UserError(
            f"privacy.dimension is {grid.dimension}, the adapter and its metrics have {dimension + len(METRICS)}",
            "draft the charter again",
        )
