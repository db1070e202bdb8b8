"""What a charter must agree on for its noise to be shared among the members, or to be made of integers."""

from ..errors import UserError
from ..privacy.noise_shares import ONE_STEP, NoiseShares, most_colluders
from ..privacy.skellam import Grid
from ..privacy.terms import METRICS

_ONE_GRADIENT = "DPFedSGD"


def check_sharing(shares: NoiseShares, members: int, target: str, threshold: int, min_survivors: int) -> None:
    """Everybody shares the noise, no sum with too little of it is opened, and no single contribution is.

    Args:
        shares: as the charter's privacy terms hold them. members: how many sign the charter.
        target: the strategy's class. threshold, min_survivors: of its secure aggregation.

    Raises:
        UserError: the first that does not hold.
    """
    if (rule := _rule(target)) != _ONE_GRADIENT:
        raise UserError(
            f"privacy.trust=honest_majority with {rule}: {ONE_STEP}", "use DPFedSGD, or set privacy.trust=nobody"
        )
    if shares.organizations != members:
        raise UserError(
            f"privacy.organizations is {shares.organizations}, the charter has {members} members",
            f"set it to {members}",
        )
    if min_survivors < shares.survivors:
        raise UserError(
            f"secagg.min_survivors is {min_survivors}: a sum of fewer than {shares.survivors} contributions carries "
            f"too little noise for {shares.dropouts} dropouts",
            f"set it to {shares.survivors} or more",
        )
    most = most_colluders(members, threshold)
    if shares.colluders > most:
        raise UserError(
            f"privacy.colluders is {shares.colluders}: more than {most} of {members} and the coordinator can open "
            "single contributions",
            f"set it to at most {most}",
        )


def check_grid(grid: Grid, dimension: int, target: str) -> None:
    """What is noised on the grid is what is sent, and all of it is accounted for.

    Args:
        grid: as the charter's privacy terms hold it. dimension: coordinates of the adapter. target: as above.

    Raises:
        UserError: the first that does not hold.
    """
    if (rule := _rule(target)) != _ONE_GRADIENT:
        raise UserError(
            f"privacy.mechanism=skellam with {rule}: what local steps make of the noised integers is not on their grid",
            "use DPFedSGD, or set privacy.mechanism=gaussian",
        )
    if grid.dimension != dimension + len(METRICS):
        raise UserError(
            f"privacy.dimension is {grid.dimension}, the adapter and its metrics have {dimension + len(METRICS)}",
            "draft the charter again",
        )


def _rule(target: str) -> str:
    return target.rsplit(".", 1)[-1]
