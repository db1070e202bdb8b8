"""Whom to do without: disputes that only their two parties can settle, and who spoiled a sum.

A box that does not open is a dispute: its recipient says so with its signature, but the key that would show it is the
recipient's, and revealing that key would open the shares of everybody else. So a dispute convicts nobody; it decides
whom the next attempt leaves out.
"""

from collections.abc import Collection, Iterable

from .cover import Disputes
from .messages import Complaint
from .opening import Verdict
from .wire import MAX_INDEX


def left_out(
    complaints: Iterable[Complaint], n: int, threshold: int, withheld: Collection[int] = ()
) -> tuple[int, ...]:
    """Whom the next attempt leaves out: as few as it takes so that no dispute is between two that are in it.

    Every dispute has a liar on one side, so all disputes go with the liars, and the fewest with whom they go are never
    more than the liars. Whoever has disputes with more members than these is one of them. Of two that have no other
    dispute the accused goes; but who complained and withheld something later, and would count for two, goes itself.

    Args:
        complaints: of a round. n: of all members. threshold: t.
        withheld: members that complained in a round, and did not answer to the end of a later attempt at it.

    Guarantees:
        At most one honest member is left out for each liar, however many lie: it leaves in the place of a liar that
        stays. And with at most n - threshold liars at least threshold members stay, as a round needs.

        Liars can make the fewest hard to find. Where `cover.MAX_NODES` steps do not suffice, the first still holds with
        at most 2 threshold - n - 1 liars (no plan has a larger n - threshold), but up to twice as many leave as must.

    Returns:
        Indices, ascending.
    """
    pairs = [(complaint.index, complaint.accused) for complaint in complaints]
    # Who accuses whom decides between two that have no other dispute, and nothing else.
    turned = [(b, a) if a in withheld and b not in withheld else (a, b) for a, b in pairs]
    return Disputes(turned).settle(max(0, 2 * threshold - n - 1))


def spoilers(verdicts: Iterable[Verdict]) -> tuple[int, ...]:
    """Whom to do without after pieces of a run's spoiled sums were opened.

    The convicted, and the fewest with whom all disputes go that have none of the convicted: every dispute has a liar on
    one side. So at most one honest member is left out for each liar, over the whole run: a liar that brings one after
    the other into dispute soon has disputes with more members than it takes.

    Where an opening found neither, one of those who were silent spoiled the sum, or somebody lied about the stream that
    it shares with one of them; then the silent are left out. Some of them may be honest.

    Args:
        verdicts: of all openings of the run so far.

    Returns:
        Indices, ascending.
    """
    every = list(verdicts)
    convicted = {index for verdict in every for index in verdict.convicted}
    open_ = [pair for verdict in every for pair in verdict.disputes if not convicted & set(pair)]
    silent = {index for verdict in every if not (verdict.convicted or verdict.disputes) for index in verdict.silent}
    return tuple(sorted(convicted | silent | set(Disputes(open_).settle(MAX_INDEX))))
