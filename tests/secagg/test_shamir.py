"""Any threshold of shares rebuilds, fewer say nothing."""

import pytest
from cotune.secagg import shamir
from hypothesis import given, settings
from hypothesis import strategies as st


@settings(max_examples=50, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.data())
def test_any_threshold_of_shares_rebuilds(secret: bytes, n: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, n))
    points = data.draw(st.lists(st.integers(1, 200), min_size=n, max_size=n, unique=True))
    shares = dict(zip(points, shamir.split(secret, threshold, points), strict=True))
    chosen = data.draw(st.permutations(points))[: data.draw(st.integers(threshold, n))]
    value = shamir.combine([shares[x] for x in chosen], shamir.weights(chosen))
    assert shamir.as_secret(value) == secret


def test_one_share_too_few_fits_every_secret() -> None:
    """With t - 1 shares each candidate secret is explained by exactly one value of the missing share."""
    points = [1, 2, 3]
    shares = shamir.split(b"\x07" * 32, 3, points)
    weights = shamir.weights(points)
    for candidate in (0, 1, 2**255):
        missing = (candidate - shamir.combine(shares[:2], weights[:2])) * pow(weights[2], -1, shamir.PRIME)
        assert shamir.combine([*shares[:2], missing % shamir.PRIME], weights) == candidate


def test_known_answer() -> None:
    """f(x) = 1234 + 166 x + 94 x^2, the example of Shamir's method that everybody uses."""
    points = [2, 4, 5]
    assert shamir.combine([1942, 3402, 4414], shamir.weights(points)) == 1234


def test_a_wrong_share_gives_another_secret() -> None:
    shares = shamir.split(b"\x01" * 32, 2, [1, 2])
    assert shamir.as_secret(shamir.combine([shares[0] ^ 1, shares[1]], shamir.weights([1, 2]))) != b"\x01" * 32


def test_shares_fill_the_field() -> None:
    """Shares of a small secret are as large as any: about 521 bits."""
    sizes = [share.bit_length() for _ in range(50) for share in shamir.split(bytes(32), 2, [1, 2, 3])]
    assert max(sizes) > 518


@pytest.mark.parametrize(
    ("secret", "threshold", "points"),
    [(bytes(65), 1, [1]), (b"", 2, [1]), (b"", 0, [1]), (b"", 1, [0]), (b"", 1, [1, 1])],
)
def test_impossible_splits(secret: bytes, threshold: int, points: list[int]) -> None:
    with pytest.raises(ValueError, match=r"threshold|secret"):
        shamir.split(secret, threshold, points)


def test_wide_values_are_no_secret() -> None:
    assert shamir.as_secret(2**256) is None
    assert shamir.as_secret(2**256 - 1) == b"\xff" * 32
