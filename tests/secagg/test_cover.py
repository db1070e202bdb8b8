"""Whom the next attempt leaves out after disputes: the fewest, one honest member for each liar, in bounded time."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import combinations

import pytest
from cotune.secagg import cover
from cotune.secagg.blame import left_out
from cotune.secagg.cover import Disputes
from cotune.secagg.messages import NONSENSE, SEAL, Complaint
from cotune.secagg.plan import least_threshold
from hypothesis import example, given, settings
from hypothesis import strategies as st

# Whom the next attempt leaves out


Pairs = set[tuple[int, int]]


def complaints_of(accusations: Iterable[tuple[int, int]]) -> list[Complaint]:
    return [Complaint(b"c" * 32, accuser, accused, SEAL) for accuser, accused in sorted(accusations)]


def spare(n: int) -> int:
    """How many may be missing from a round: n - t."""
    return n - least_threshold(n)


def may_lie(n: int) -> int:
    """How many may collude with the coordinator: 2t - n - 1."""
    return 2 * least_threshold(n) - n - 1


@st.composite
def disputes(draw: st.DrawFn, most: Callable[[int], int] = spare) -> tuple[int, set[int], list[Complaint]]:
    """n, liars, at most `most` of n, and complaints: honest ones only about liars, the liars' about anybody."""
    n = draw(st.integers(4, 12))
    liars = draw(st.sets(st.integers(0, n - 1), max_size=most(n)))
    honest = sorted(set(range(n)) - liars)
    accusations = set()
    if liars:
        accusations |= draw(st.sets(st.tuples(st.sampled_from(honest), st.sampled_from(sorted(liars)))))
        accusations |= draw(st.sets(st.tuples(st.sampled_from(sorted(liars)), st.integers(0, n - 1))))
    reasons = st.sampled_from((SEAL, NONSENSE))
    return n, liars, [Complaint(b"c" * 32, i, j, draw(reasons)) for i, j in sorted(accusations) if i != j]


def plot(seed: int, n: int, liars: int, accuses: float, each_other: float) -> Pairs:
    """Liars 0, 1, ... who accuse each honest member and each other with two probabilities."""
    draw = random.Random(seed)
    pairs = ((liar, accused) for liar in range(liars) for accused in range(n) if liar != accused)
    return {pair for pair in pairs if draw.random() < (each_other if pair[1] < liars else accuses)}


@st.composite
def plots(draw: st.DrawFn, most: Callable[[int], int] = spare) -> tuple[int, set[int], list[Complaint]]:
    """`disputes` among more members, and as many as make a search necessary."""
    n = draw(st.integers(12, 40))
    chances = st.sampled_from((0.0, 0.05, 0.1, 0.2, 0.5))
    accusations = plot(draw(st.integers(0, 1 << 32)), n, most(n), draw(chances), draw(chances))
    return n, set(range(most(n))), complaints_of(accusations)


@settings(max_examples=150, deadline=None)
@given(disputes() | plots())
@example((7, {0, 4}, complaints_of({(0, 1), (0, 3), (4, 1), (4, 2)})))
def test_no_dispute_is_left_and_at_most_one_honest_goes_with_each_liar(
    case: tuple[int, set[int], list[Complaint]],
) -> None:
    n, liars, complaints = case
    out = set(left_out(complaints, n, least_threshold(n)))
    assert not any({each.index, each.accused} <= set(range(n)) - out for each in complaints)
    assert len(out - liars) <= len(liars)
    if not complaints:
        assert not out


@settings(max_examples=150, deadline=None)
@given(disputes() | plots())
def test_with_no_more_liars_than_may_be_missing_enough_stay(case: tuple[int, set[int], list[Complaint]]) -> None:
    """So liars alone cannot make every attempt at a round fail by complaints."""
    n, liars, complaints = case
    out = left_out(complaints, n, least_threshold(n))
    assert len(out) <= len(liars)
    assert n - len(out) >= least_threshold(n)


def test_no_threshold_lets_more_be_missing_than_may_lie() -> None:
    for n in range(3, 201):
        for threshold in range(least_threshold(n), n + 1):
            assert n - threshold <= 2 * threshold - n - 1


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(2, 12), st.sampled_from((0.05, 0.1, 0.15, 0.2, 0.4)), st.integers(1, 8))
@example(701, 12, 0.15, 1)  # where the last two that may leave are counted wrong by one, this finds too many
@example(21509, 12, 0.15, 1)  # and this where too many disputes are thought to need a member each
def test_nobody_leaves_who_need_not(seed: int, n: int, chance: float, groups: int) -> None:
    """Whoever accuses whom: as few leave as in the smallest of all sets with which every dispute goes.

    In groups of n that have no dispute with each other, so that there are many ways to leave out one too many.
    """
    apart = [shifted(plot(seed + group, n, n, 0.0, chance), group * n) for group in range(groups)]
    accusations = set[tuple[int, int]]().union(*apart)
    out = left_out(complaints_of(accusations), groups * n, least_threshold(groups * n))
    assert ends(out, accusations)
    assert len(out) == sum(map(size_of_smallest, apart))


def shifted(accusations: Pairs, by: int) -> Pairs:
    return {(accuser + by, accused + by) for accuser, accused in accusations}


def size_of_smallest(accusations: Pairs) -> int:
    """By brute force: of any dispute one side leaves or the other."""
    if not accusations:
        return 0
    return 1 + min(size_of_smallest({pair for pair in accusations if side not in pair}) for side in min(accusations))


def ends(out: Iterable[int], accusations: Pairs) -> bool:
    """Whether no dispute is between two that stay."""
    return not any(set(out).isdisjoint(pair) for pair in accusations)


@pytest.mark.parametrize(("one", "other"), [(0, 2), (2, 0)])
def test_of_two_with_no_other_dispute_the_accused_goes(one: int, other: int) -> None:
    """Also where a knot of other disputes makes a search necessary, and where the search is cut off."""
    for others in (set[tuple[int, int]](), {(4, 5), (5, 6), (6, 7), (7, 4), (4, 6)}):
        for nodes in (cover.MAX_NODES, 0):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cover, "MAX_NODES", nodes)
                out = left_out(complaints_of({(one, other), *others}), 10, 7)
            assert {one, other} & set(out) == {other}


def test_one_liar_accuses_everybody_and_leaves_alone() -> None:
    for n in range(4, 30):
        lies = [Complaint(b"c" * 32, 1, accused, SEAL) for accused in range(n) if accused != 1]
        assert left_out(lies, n, least_threshold(n)) == (1,)


def test_who_is_accused_by_more_than_can_lie_is_out_whatever_it_says() -> None:
    n = 10
    accusers = range(1, n - least_threshold(n) + 2)
    complaints = [Complaint(b"c" * 32, i, 0, SEAL) for i in accusers]
    complaints += [Complaint(b"c" * 32, 0, i, SEAL) for i in range(1, n)]
    assert left_out(complaints, n, least_threshold(n)) == (0,)


# What liars can make the search cost


@pytest.mark.parametrize("each_other", [0.0, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("accuses", [0.0, 0.01, 0.03, 0.1, 0.5, 1.0])
def test_of_200_members_a_third_cannot_exhaust_the_search_by_complaints_at_random(
    accuses: float, each_other: float
) -> None:
    accusations = plot(0, 200, spare(200), accuses, each_other)
    quarrel = Disputes(accusations)
    out = quarrel.settle(may_lie(200))
    assert ends(out, accusations)
    assert len(out) <= spare(200)
    assert quarrel.nodes < 1_000
    assert out == left_out(complaints_of(accusations), 200, least_threshold(200))


def test_quarrels_apart_are_searched_one_by_one() -> None:
    """22 groups of four members, no dispute between groups: the cost is their sum."""
    accusations = {(4 * group + i, 4 * group + j) for group in range(22) for i, j in combinations(range(4), 2)}
    quarrel = Disputes(accusations)
    assert len(quarrel.settle(may_lie(200))) == 3 * 22 <= spare(200)
    assert quarrel.nodes < 200


def test_everybody_accuses_everybody() -> None:
    quarrel = Disputes(combinations(range(200), 2))
    assert len(quarrel.settle(may_lie(200))) == 199
    assert quarrel.nodes <= 200


def rings(n: int) -> Pairs:
    """Four disputes for each of n members: what takes the longest search."""
    draw = random.Random(1)
    orders = [draw.sample(range(n), n) for _ in range(2)]
    return {pair for order in orders for pair in zip(order, order[1:] + order[:1], strict=True)}


def test_the_search_gives_up_early_what_cannot_be_better() -> None:
    quarrel = Disputes(rings(60))
    quarrel.settle(may_lie(200))
    assert quarrel.nodes < 400


def test_disputes_that_share_no_member_are_no_more_than_need_a_liar_each() -> None:
    """Two accuse six: however the disputes are paired, two pairs share no member."""
    quarrel = Disputes((liar, accused) for liar in range(2) for accused in range(2, 8))
    assert quarrel._matched(quarrel._all).bit_count() == 4


def test_the_search_stops_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 members would take more."""
    monkeypatch.setattr(cover, "MAX_NODES", 100)
    quarrel, accusations = Disputes(rings(100)), rings(100)
    out = quarrel.settle(may_lie(200))
    assert quarrel.nodes == 100
    assert ends(out, accusations)
    assert len(out) < 80


@settings(max_examples=150, deadline=None)
@given(disputes(most=may_lie) | plots(most=may_lie))
def test_without_the_search_at_most_one_honest_goes_with_each_liar(
    case: tuple[int, set[int], list[Complaint]],
) -> None:
    """And who is accused by more than may lie goes, and at most twice as many as must."""
    n, liars, complaints = case
    accusations = {(each.index, each.accused) for each in complaints}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cover, "MAX_NODES", 0)
        out = set(left_out(complaints, n, least_threshold(n)))
    assert ends(out, accusations)
    assert len(out - liars) <= len(liars)
    assert {accused for accused, by in Counter(pair[1] for pair in accusations).items() if by > may_lie(n)} <= out
    assert len(out) <= 2 * len(left_out(complaints, n, least_threshold(n)))


def test_without_the_search_more_may_leave_than_must(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the test above would be about the search."""
    accusations = plot(0, 200, spare(200), 0.0, 0.1)
    fewest = Disputes(accusations).settle(may_lie(200))
    monkeypatch.setattr(cover, "MAX_NODES", 0)
    assert len(Disputes(accusations).settle(may_lie(200))) > len(fewest)
