"""Dealing: dominance, disjointness, kin never on both sides, and sizes that are possible."""

from collections import Counter

import pytest
from cotune.data.corpora.partition import Bundle, Partition, deal, hold_out, spare, tag, theme_groups
from cotune.data.records import Message, Record
from cotune.errors import UserError
from hypothesis import assume, given, settings
from hypothesis import strategies as st


def corpus(sizes: dict[str, int], rows: int = 1) -> list[Bundle]:
    """Bundles of `rows` rows; two bundles a kin."""
    return [
        Bundle(
            tuple(
                Record((Message("user", f"{theme} {number} {row}"),), theme, f"{theme}-{number}", theme)
                for row in range(rows)
            ),
            theme,
            f"{theme}-kin-{number // 2}",
        )
        for theme, size in sizes.items()
        for number in range(size)
    ]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.dictionaries(st.sampled_from("abcdefg"), st.integers(20, 60), min_size=2),
    organizations=st.integers(1, 5),
    dominance=st.sampled_from([0.0, 0.5, 0.8, 1.0]),
    seed=st.integers(0, 5),
)
def test_dealing(sizes: dict[str, int], organizations: int, dominance: float, seed: int) -> None:
    assume(organizations > 1 or dominance == 1.0)  # one organization has no other themes to take from
    bundles = corpus(sizes)
    partition = Partition(organizations, 0, dominance, 10, seed)
    groups = theme_groups(bundles, organizations)
    assert sorted(theme for group in groups for theme in group) == sorted(sizes)
    names = [f"org-{number}" for number in range(organizations)]
    training, held = hold_out(bundles, groups, partition, 2)
    dealt = deal(training, groups, names, partition)
    test = tag(held, names)

    everything = [row for rows in dealt.values() for row in rows] + test
    assert len({row.prompt for row in everything}) == len(everything)  # nothing twice
    kin = {row: bundle.kin for bundle in bundles for row in bundle.rows}
    trained = {kin[row] for rows in dealt.values() for row in rows}
    assert not trained & {kin[row] for _, row in held}
    per_group = Counter(row.group for row in test)
    assert len(test) == 10
    assert max(per_group.values()) - min(per_group.values()) <= 1

    (size,) = {len(rows) for rows in dealt.values()}
    for index, rows in enumerate(dealt.values()):
        own = sum(row.label in groups[index % len(groups)] for row in rows)
        assert own == round(size * dominance)
    assert deal(training, groups, names, partition) == dealt  # deterministic


def test_bundles_stay_whole_but_for_the_last() -> None:
    bundles = corpus({"a": 20, "b": 20}, rows=3)
    groups = theme_groups(bundles, 2)
    dealt = deal(bundles, groups, ["x", "y"], Partition(2, 20, 0.5, 4, 0))
    homes = [{row.unit for row in rows} for rows in dealt.values()]
    assert not homes[0] & homes[1]
    for rows in dealt.values():
        assert sorted(Counter(row.unit for row in rows).values())[-6:] == [3] * 6
        assert len(rows) == 20


def test_what_the_corpus_cannot_give_is_refused_with_what_it_can() -> None:
    bundles = corpus({"a": 20, "b": 20})
    groups = theme_groups(bundles, 2)
    with pytest.raises(UserError, match="ask for at most 20 rows each"):
        deal(bundles, groups, ["x", "y"], Partition(2, 21, 1.0, 4, 0))
    assert len(deal(bundles, groups, ["x", "y"], Partition(2, 20, 1.0, 4, 0))["x"]) == 20
    with pytest.raises(UserError, match="ask for at most 40 test rows"):
        hold_out(bundles, groups, Partition(2, 1, 1.0, 42, 0), 2)
    for wrong in ((0, 1, 0.5, 1), (1, -1, 0.5, 1), (1, 1, 0.5, 0), (1, 1, 1.5, 1), (1, 1, float("nan"), 1)):
        with pytest.raises(UserError):
            Partition(*wrong, seed=0)


def test_the_seed_decides() -> None:
    bundles = corpus({"a": 40, "b": 40})
    groups = theme_groups(bundles, 2)
    dealt = [deal(bundles, groups, ["x", "y"], Partition(2, 20, 0.8, 4, seed)) for seed in (0, 1)]
    assert dealt[0] != dealt[1]


def test_a_big_kin_stays_in_training() -> None:
    small = corpus({"a": 20})
    big = [Bundle(bundle.rows, "a", "big") for bundle in corpus({"big": 30})]
    training, held = hold_out([*small, *big], [("a",)], Partition(1, 1, 1.0, 10, 0), 2)
    assert sum(bundle.kin == "big" for bundle in training) == 30
    assert len(held) == 10


def test_spare_rows_are_drawn_as_far_as_they_go() -> None:
    bundles = corpus({"a": 6, "b": 40})
    groups = theme_groups(bundles, 2)
    found = spare(bundles, groups, Partition(2, 0, 0.8, 20, 3), 1)
    assert Counter(groups[group][0] for group, _ in found) == {"a": 3, "b": 10}  # two bundles a kin, one row of each
    assert len({row.prompt for _, row in found}) == 13
    assert all(row.label == groups[group][0] for group, row in found)
    assert spare(bundles, groups, Partition(2, 0, 0.8, 20, 3), 1) == found
    assert spare(bundles, groups, Partition(2, 0, 0.8, 20, 4), 1) != found
    assert spare([], groups, Partition(2, 0, 0.8, 20, 3), 1) == []
