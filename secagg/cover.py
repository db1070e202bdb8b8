"""The fewest members with whom every dispute goes: a minimum vertex cover of the graph of disputes.

The search is exact, and it is bounded, since those who write the complaints choose the graph. A set of members is an
int here, with bit i for member i: a set operation is then one instruction for each 64 members.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

# Branchings of the exact search: some seconds. docs/secure-aggregation.md says what they suffice for.
MAX_NODES = 20_000


class Disputes:
    """A graph of disputes, and the search for whom to leave out.

    Attributes:
        nodes: branchings so far, at most MAX_NODES.
    """

    def __init__(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Args: pairs: (accuser, accused)."""
        self._pairs = frozenset(pairs)
        self._others: defaultdict[int, int] = defaultdict(int)
        for one, other in self._pairs:
            self._others[one] |= 1 << other
            self._others[other] |= 1 << one
        self._all = sum(1 << member for member in self._others)
        self._spent = False
        self.nodes = 0

    def settle(self, liars: int) -> tuple[int, ...]:
        """Whom to leave out so that no dispute is between two that stay; see `blame.left_out`.

        Args:
            liars: how many may lie. It counts only where the exact search does not come to its end.

        Returns:
            Indices, ascending.
        """
        fewest = self._fewest(self._all, self._all.bit_count())
        return tuple(_members(self._without_search(liars) if self._spent else fewest))

    def _fewest(self, among: int, most: int) -> int:
        """A smallest set that meets all disputes among some, where `most` members suffice; else any that meets them."""
        taken, among = self._without_choice(among, most)
        room = most - taken.bit_count()
        if not among or room < self._matched(among).bit_count() // 2:
            return taken | among
        if self.nodes >= MAX_NODES:
            self._spent = True
            return taken | among
        self.nodes += 1
        busiest = max(_members(among), key=lambda member: (self._degree(member, among), -member))
        part = self._connected(busiest, among)
        if part == among:
            return taken | self._in_or_not(busiest, among, room)
        # Apart, two parts cost the sum of their nodes; together they would cost the product.
        rest = self._fewest(among & ~part, room)
        return taken | rest | self._fewest(part, room - rest.bit_count())

    def _in_or_not(self, member: int, among: int, most: int) -> int:
        """`_fewest` by cases: a member leaves, or all it has a dispute with do."""
        one, others = 1 << member, self._others[member] & among
        leaves = one | self._fewest(among & ~one, most - 1)
        better = min(most, leaves.bit_count() - 1)
        stays = others | self._fewest(among & ~one & ~others, better - others.bit_count())
        return min(leaves, stays, key=int.bit_count)

    def _without_choice(self, among: int, most: int) -> tuple[int, int]:
        """Who leaves without a search, and who of the others still stands in disputes.

        Where at most `most` leave in all, a member with more disputes than may still leave is one of them: if it
        stayed, all the others would leave. And whoever has one dispute may as well stay while the other leaves.
        """
        taken, before = 0, -1
        while among != before:
            before = among
            for member in _members(before):
                degree, leaves = self._degree(member, among), 0
                if degree == 1:
                    leaves = self._other_or_accused(member, among)
                elif degree and degree > most - taken.bit_count():
                    leaves = 1 << member
                taken |= leaves
                among &= ~leaves if degree else ~(1 << member)
        return taken, among

    def _other_or_accused(self, member: int, among: int) -> int:
        """Whom the only dispute of a member makes leave: the other, but of two with no other dispute the accused."""
        leaves = self._others[member] & among
        other = leaves.bit_length() - 1
        if self._degree(other, among) == 1:
            leaves = 1 << min(pair[1] for pair in ((member, other), (other, member)) if pair in self._pairs)
        return leaves

    def _without_search(self, liars: int) -> int:
        """At most one honest member for each liar, though perhaps more members than must leave.

        Who has disputes with more members than may lie, lies. Of the disputes that are left, some that share no member
        are taken: each has a liar of its own, so both its sides leave. Then some of them stay after all, where all
        they have a dispute with leave.
        """
        taken, among = self._without_choice(self._all, liars)
        both = self._matched(among)
        for member in sorted(_members(both), key=lambda member: (self._degree(member, among), member)):
            if not self._others[member] & among & ~both:
                both &= ~(1 << member)
        return taken | both

    def _matched(self, among: int) -> int:
        """Both sides of disputes that share no member, as many as are found by taking those of the fewest first."""
        rank = {member: (self._degree(member, among), member) for member in _members(among)}
        free = among
        for member in sorted(rank, key=rank.__getitem__):
            others = self._others[member] & free
            if free >> member & 1 and others:
                free &= ~(1 << member | 1 << min(_members(others), key=rank.__getitem__))
        return among & ~free

    def _connected(self, member: int, among: int) -> int:
        """Who hangs together with a member through disputes among some."""
        part = new = 1 << member
        while new:
            reached = 0
            for one in _members(new):
                reached |= self._others[one]
            new = reached & among & ~part
            part |= new
        return part

    def _degree(self, member: int, among: int) -> int:
        """With how many of some a member, if it is one of them, stands in disputes."""
        return (self._others[member] & among).bit_count() if among >> member & 1 else 0


def _members(some: int) -> Iterator[int]:
    """The indices in a set, ascending."""
    while some:
        lowest = some & -some
        yield lowest.bit_length() - 1
        some ^= lowest
