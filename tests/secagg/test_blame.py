"""Whom the next attempt leaves out: as few as end every dispute, and no honest member but one for each liar."""

from cotune.secagg.blame import left_out
from cotune.secagg.messages import SEAL, Complaint
from cotune.secagg.plan import least_threshold
from hypothesis import given, settings
from hypothesis import strategies as st


def complaints(disputes: set[tuple[int, int]]) -> list[Complaint]:
    return [Complaint(bytes(32), accuser, accused, SEAL) for accuser, accused in sorted(disputes)]


@st.composite
def quarrels(draw: st.DrawFn) -> tuple[int, set[tuple[int, int]], set[int]]:
    """n, disputes and the liars: at most n - t members who accuse anybody and whom honest ones accuse or not."""
    n = draw(st.integers(3, 12))
    liars = draw(st.sets(st.integers(0, n - 1), max_size=n - least_threshold(n)))
    pairs = [(a, b) for a in range(n) for b in range(n) if a != b and (a in liars or b in liars)]
    return n, draw(st.sets(st.sampled_from(pairs))) if pairs else set(), liars


anything = st.integers(3, 12).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.sets(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)).filter(lambda pair: pair[0] != pair[1])),
    )
)


@settings(max_examples=150, deadline=None)
@given(anything)
def test_no_dispute_is_left_inside_and_no_bystander_is_left_out(quarrel: tuple[int, set[tuple[int, int]]]) -> None:
    n, disputes = quarrel
    out = left_out(complaints(disputes), n, least_threshold(n))
    assert list(out) == sorted(set(out))
    assert all(out_of in {member for pair in disputes for member in pair} for out_of in out)
    assert all(set(out) & set(pair) for pair in disputes)


@settings(max_examples=200, deadline=None)
@given(quarrels())
def test_one_liar_costs_one_member_at_most_and_who_is_accused_by_many_goes(
    quarrel: tuple[int, set[tuple[int, int]], set[int]],
) -> None:
    """What holds with at most n - t liars, when honest members never accuse each other: one liar costs one member at
    most; and whoever more members accuse than there can be liars is a liar and goes."""
    n, disputes, liars = quarrel
    out = set(left_out(complaints(disputes), n, least_threshold(n)))
    if len(liars) <= 1:
        assert len(out) <= 1
    mostly = {b for b in range(n) if sum(1 for a, accused in disputes if accused == b) > n - least_threshold(n)}
    assert mostly <= out
    assert mostly <= liars


def test_more_accusers_than_there_can_be_liars_leave_out_the_accused() -> None:
    """n = 7, t = 5: three accusers of organization 6 are enough, whatever it says of them."""
    disputes = {(0, 6), (1, 6), (2, 6), (6, 0), (6, 1), (6, 3), (6, 4)}
    assert left_out(complaints(disputes), 7, 5) == (6,)


def test_one_word_against_another_leaves_out_the_accused() -> None:
    assert left_out(complaints({(0, 1)}), 4, 3) == (1,)
    assert left_out(complaints({(1, 0)}), 4, 3) == (0,)
    assert left_out(complaints({(0, 1), (1, 0)}), 4, 3) == (0,)


def test_the_word_of_a_member_that_withheld_something_counts_against_it() -> None:
    """Only where it stands against another word: what is left out never grows."""
    assert left_out(complaints({(3, 0)}), 4, 3, withheld=(3,)) == (3,)
    assert left_out(complaints({(3, 0)}), 4, 3, withheld=(1, 2)) == (0,)
    assert left_out(complaints({(3, 0)}), 4, 3, withheld=(0, 3)) == (0,)
    assert left_out(complaints({(0, 3), (3, 0)}), 4, 3, withheld=(3,)) == (3,)
    # Six members that a liar's boxes were of no use to do not go because they fell silent once.
    many = {(accuser, 6) for accuser in range(6)}
    assert left_out(complaints(many), 7, 5, withheld=range(6)) == (6,)


def test_one_liar_may_push_out_one_honest_member_and_not_two() -> None:
    """What does not hold: with one liar of four, an honest member can be the one that goes. With two accusations the
    liar stands in most disputes and goes itself."""
    assert left_out(complaints({(3, 0)}), 4, 3) == (0,)
    assert left_out(complaints({(3, 0), (3, 1)}), 4, 3) == (3,)


def test_two_liars_may_push_out_an_honest_member_each() -> None:
    """n = 7, t = 5. Each liar accuses another member, so no liar stands in more disputes than its victim."""
    assert left_out(complaints({(5, 0), (6, 1)}), 7, 5) == (0, 1)


def test_without_a_complaint_nobody_is_left_out() -> None:
    assert left_out([], 4, 3) == ()
