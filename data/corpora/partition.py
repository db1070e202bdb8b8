"""Dealing one corpus to several organizations, each with a dominant theme, and holding out a test set.

A corpus is a list of `Bundle`: rows that must stay together (one document, one code, one row) with a theme (an ICD
chapter, a license family) and a kin: bundles of one kin are never on both sides of the train/test split.
"""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...errors import UserError
from ..records import Record


@dataclass(frozen=True)
class Partition:
    """How a corpus is dealt.

    Args:
        organizations: how many, at least 1.
        rows_per_organization: rows each organization gets; 0 means as many as the corpus allows, the same for all.
        dominance: share in [0, 1] of an organization's rows that come from its own themes.
        test_rows: size of the held-out set, spread evenly over the groups of themes.
        seed: of every choice made here.
    """

    organizations: int
    rows_per_organization: int
    dominance: float
    test_rows: int
    seed: int

    def __post_init__(self) -> None:
        if self.organizations < 1 or self.rows_per_organization < 0 or self.test_rows < 1:
            raise UserError(
                f"cannot deal {self.rows_per_organization} rows to each of {self.organizations} organizations "
                f"with {self.test_rows} test rows",
                "ask for at least one organization, one test row and no negative number of rows",
            )
        if not 0.0 <= self.dominance <= 1.0:
            raise UserError(f"dominance {self.dominance} is not a share", "give a number between 0 and 1")


@dataclass(frozen=True)
class Bundle:
    """Rows that stay together.

    Attributes:
        rows: at least one.
        theme: what organizations differ in: an ICD chapter, a license family.
        kin: what the split must not cut: a code, a document family.
    """

    rows: tuple[Record, ...]
    theme: str
    kin: str


def theme_groups(bundles: Iterable[Bundle], count: int) -> list[tuple[str, ...]]:
    """At most `count` groups of themes of nearly equal size: largest theme first, into the smallest group so far."""
    sizes: Counter[str] = Counter()
    for bundle in bundles:
        sizes[bundle.theme] += len(bundle.rows)
    groups: list[list[str]] = [[] for _ in range(min(count, len(sizes)))]
    filled = [0] * len(groups)
    for theme, size in sorted(sizes.items(), key=lambda item: (-item[1], item[0])):
        smallest = filled.index(min(filled))
        groups[smallest].append(theme)
        filled[smallest] += size
    return [tuple(group) for group in groups]


def hold_out(
    bundles: Sequence[Bundle], groups: Sequence[tuple[str, ...]], partition: Partition, rows_per_kin: int
) -> tuple[list[Bundle], list[tuple[int, Record]]]:
    """Split by kin into training bundles and test rows.

    Args:
        bundles: the whole corpus.
        groups: groups of themes; each gets an equal share of the test rows.
        partition: `test_rows` and `seed` are read.
        rows_per_kin: at most so many test rows of one kin, so that no family fills the test set; its other rows are
            unused.

    Returns:
        The training bundles, and the test rows each with the index of its group.

    Raises:
        UserError: where a group has too few kins.
    """
    if not bundles:
        raise UserError("the corpus is empty", "fetch its package again")
    by_kin = _by_kin(bundles)
    # A big family costs the training set much and gives the test set little, so kins above the median size stay in
    # training.
    sizes = {kin: sum(len(bundle.rows) for bundle in members) for kin, members in by_kin.items()}
    limit = max(2 * rows_per_kin, sorted(sizes.values())[len(sizes) // 2])
    small = {kin: by_kin[kin] for kin, size in sizes.items() if size <= limit}
    test, held, missing = _drawn(small, groups, partition, rows_per_kin, "hold out")
    if any(missing):
        raise UserError(
            f"the corpus has no {partition.test_rows} test rows spread over {len(groups)} organizations",
            f"ask for at most {max(0, partition.test_rows // len(groups) - max(missing)) * len(groups)} test rows",
        )
    return [bundle for bundle in bundles if bundle.kin not in held], test


def spare(
    bundles: Sequence[Bundle], groups: Sequence[tuple[str, ...]], partition: Partition, rows_per_kin: int
) -> list[tuple[int, Record]]:
    """Validation rows, drawn as test rows are, from what was neither dealt nor held out.

    Args:
        bundles: of these; whoever calls sees to it that nothing of them is trained on or tested.

    Returns:
        `partition.test_rows` rows, or fewer, each with the index of its group.
    """
    return _drawn(_by_kin(bundles), groups, partition, rows_per_kin, "validation")[0]


def _by_kin(bundles: Sequence[Bundle]) -> dict[str, list[Bundle]]:
    by_kin: dict[str, list[Bundle]] = defaultdict(list)
    for bundle in bundles:
        by_kin[bundle.kin].append(bundle)
    return by_kin


def _drawn(
    by_kin: Mapping[str, Sequence[Bundle]],
    groups: Sequence[tuple[str, ...]],
    partition: Partition,
    rows_per_kin: int,
    purpose: str,
) -> tuple[list[tuple[int, Record]], set[str], list[int]]:
    """Rows with the indices of their groups, the kins they are of, and how many rows are missing of each group."""
    source = _random(partition.seed, purpose)
    group_of = {theme: index for index, group in enumerate(groups) for theme in group}
    wanted = [
        partition.test_rows // len(groups) + (index < partition.test_rows % len(groups)) for index in range(len(groups))
    ]
    candidates = sorted(by_kin)
    source.shuffle(candidates)
    drawn: list[tuple[int, Record]] = []
    held: set[str] = set()
    for kin in candidates:
        found = [(group_of[bundle.theme], row) for bundle in by_kin[kin] for row in bundle.rows]
        source.shuffle(found)
        chosen = []
        for group, row in found[:rows_per_kin]:
            if wanted[group]:
                wanted[group] -= 1
                chosen.append((group, row))
        if chosen:
            held.add(kin)
            drawn.extend(chosen)
    return drawn, held, wanted


def public_bundles(
    bundles: Sequence[Bundle], groups: Sequence[tuple[str, ...]], count: int, seed: int
) -> tuple[list[Bundle], list[Bundle]]:
    """Choose bundles that anybody may read, as many of each group of themes; and the rest, in its order."""
    source = _random(seed, "public")
    piles = [[bundle for bundle in bundles if bundle.theme in group] for group in groups]
    for pile in piles:
        source.shuffle(pile)
    chosen = [bundle for pile in piles for bundle in pile[: count // len(piles)]]
    taken = set(map(id, chosen))
    return chosen, [bundle for bundle in bundles if id(bundle) not in taken]


def deal(
    bundles: Sequence[Bundle], groups: Sequence[tuple[str, ...]], names: Sequence[str], partition: Partition
) -> dict[str, list[Record]]:
    """Deal training bundles so that each organization has `dominance` of its rows from its own group of themes.

    Bundles are dealt whole and never twice. Organizations beyond the number of groups share a group.

    Raises:
        UserError: where the corpus is too small, naming the largest possible number of rows.
    """
    asked = partition.rows_per_organization
    if asked:
        dealt = _try_deal(bundles, groups, names, partition, asked)
        if dealt is not None:
            return dealt
    most, dealt = _largest_deal(bundles, groups, names, partition)
    if asked or dealt is None:
        raise UserError(
            f"the corpus has no {asked or 1} rows for each of {len(names)} organizations "
            f"at dominance {partition.dominance}",
            f"ask for at most {most} rows each, or for fewer organizations or test rows",
        )
    return dealt


def _largest_deal(
    bundles: Sequence[Bundle], groups: Sequence[tuple[str, ...]], names: Sequence[str], partition: Partition
) -> tuple[int, dict[str, list[Record]] | None]:
    """The largest equal number of rows each, by bisection, and how they are dealt; (0, None) where there is none."""
    low, best = 0, None
    high = sum(len(bundle.rows) for bundle in bundles) // len(names)
    while low < high:
        middle = (low + high + 1) // 2
        tried = _try_deal(bundles, groups, names, partition, middle)
        if tried is None:
            high = middle - 1
        else:
            low, best = middle, tried
    return low, best


def _try_deal(
    bundles: Sequence[Bundle], groups: Sequence[tuple[str, ...]], names: Sequence[str], partition: Partition, rows: int
) -> dict[str, list[Record]] | None:
    source = _random(partition.seed, "deal")
    group_of = {theme: index for index, group in enumerate(groups) for theme in group}
    stock: list[list[Bundle]] = [[] for _ in groups]
    for bundle in bundles:
        stock[group_of[bundle.theme]].append(bundle)
    for pile in stock:
        source.shuffle(pile)
    dealt: dict[str, list[Record]] = {name: [] for name in names}
    own = round(rows * partition.dominance)
    for index, name in enumerate(names):
        if not _take(stock[index % len(groups)], own, dealt[name]):
            return None
    for index, name in enumerate(names):
        home = index % len(groups)
        pool = [bundle for other, pile in enumerate(stock) for bundle in pile if other != home]
        source.shuffle(pool)
        if not _take(pool, rows, dealt[name]):
            return None
        kept = set(map(id, pool))
        stock = [pile if other == home else [b for b in pile if id(b) in kept] for other, pile in enumerate(stock)]
    for records in dealt.values():
        source.shuffle(records)
    return dealt


def _take(pile: list[Bundle], until: int, into: list[Record]) -> bool:
    """Move bundles from the end of `pile` until `into` has `until` rows; the last one is cut to fit."""
    while len(into) < until:
        if not pile:
            return False
        into.extend(pile.pop().rows[: until - len(into)])
    return True


def tag(test: Iterable[tuple[int, Record]], names: Sequence[str]) -> list[Record]:
    """Test rows with `group` set to the first organization whose own themes they belong to."""
    return [replace(row, group=names[group]) for group, row in test]


def _random(seed: int, purpose: str) -> random.Random:
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return random.Random(digest)  # noqa: S311  (choosing rows of a public corpus, no secret)
