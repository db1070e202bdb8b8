"""What a charter must agree on for its noise to be shared among the members."""

from ..errors import UserError
from ..privacy.noise_shares import NoiseShares, most_colluders


def check_sharing(shares: NoiseShares, members: int, threshold: int, min_survivors: int) -> None:
    """Everybody shares the noise, no sum with too little of it is opened, and no single contribution is.

    Args:
        shares: as the charter's privacy terms hold them. members: how many sign the charter.
        threshold: of its secure aggregation. min_survivors: the same.

    Raises:
        UserError: the first that does not hold.
    """
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
