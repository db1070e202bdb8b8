"""What shared noise asks of a charter: each term at its limit is accepted, beyond it refused with the reason."""

import pytest
from cotune.charter.sharing import check_sharing
from cotune.errors import UserError
from cotune.privacy.noise_shares import NoiseShares

RULE = "cotune.strategies.dp_fedsgd.DPFedSGD"
SHARES = NoiseShares(7, 2, 1)


def test_terms_at_their_limits() -> None:
    check_sharing(SHARES, 7, RULE, threshold=5, min_survivors=6)
    check_sharing(SHARES, 7, RULE, threshold=6, min_survivors=7)
    # A larger threshold hides single contributions from a larger coalition.
    check_sharing(NoiseShares(7, 4, 1), 7, RULE, threshold=6, min_survivors=6)


@pytest.mark.parametrize(
    ("shares", "members", "rule", "threshold", "survivors", "reason"),
    [
        (SHARES, 7, RULE, 5, 5, "too little noise"),
        (NoiseShares(7, 2, 0), 7, RULE, 5, 6, "too little noise"),
        (SHARES, 8, RULE, 5, 6, "has 8 members"),
        (NoiseShares(7, 3, 1), 7, RULE, 5, 6, "single contributions"),
        (SHARES, 7, "cotune.strategies.fedavg.FedAvg", 5, 6, "several local steps"),
    ],
)
def test_terms_beyond_them(
    shares: NoiseShares, members: int, rule: str, threshold: int, survivors: int, reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        check_sharing(shares, members, rule, threshold, survivors)
    assert "\n" not in str(caught.value)
