"""What shared noise and noise on integers ask of a charter: terms at their limits pass, beyond them they say why."""

import pytest
from cotune.charter.mechanism import check_grid
from cotune.charter.sharing import check_sharing
from cotune.errors import UserError
from cotune.privacy.noise_shares import NoiseShares
from cotune.privacy.skellam import grid_for

SHARES = NoiseShares(7, 2, 1)


def test_terms_at_their_limits() -> None:
    check_sharing(SHARES, 7, threshold=5, min_survivors=6)
    check_sharing(SHARES, 7, threshold=6, min_survivors=7)
    # A larger threshold hides single contributions from a larger coalition.
    check_sharing(NoiseShares(7, 4, 1), 7, threshold=6, min_survivors=6)


@pytest.mark.parametrize(
    ("shares", "members", "threshold", "survivors", "reason"),
    [
        (SHARES, 7, 5, 5, "too little noise"),
        (NoiseShares(7, 2, 0), 7, 5, 6, "too little noise"),
        (SHARES, 8, 5, 6, "has 8 members"),
        (NoiseShares(7, 3, 1), 7, 5, 6, "single contributions"),
    ],
)
def test_terms_beyond_them(shares: NoiseShares, members: int, threshold: int, survivors: int, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        check_sharing(shares, members, threshold, survivors)
    assert "\n" not in str(caught.value)


def test_a_grid_for_all_that_is_sent() -> None:
    check_grid(grid_for(1.0, 103), 100)


@pytest.mark.parametrize(
    ("dimension", "reason"),
    [
        (101, "privacy.dimension is 103, the adapter and its metrics have 104"),
        (99, "have 102"),
    ],
)
def test_a_grid_for_anything_else(dimension: int, reason: str) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        check_grid(grid_for(1.0, 103), dimension)
    assert "\n" not in str(caught.value)
