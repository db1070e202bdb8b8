"""Who has spent how much of its budget, as far as the coordinator can tell: it counts rounds, and errs upward."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ..charter.charter import Charter
from .run_directory import Attempt, RunDirectory


def may_have_sent(noted: Iterable[Attempt]) -> set[int]:
    """Numbers of the attempts at a round that may have sent a vector: all but those that ended before the uploads.

    Args:
        noted: of the round.
    """
    unsent = {attempt.attempt for attempt in noted if attempt.trained is not None and not attempt.sent}
    return {attempt.attempt for attempt in noted} - unsent


def charged(
    noted: Sequence[Attempt], trained: Iterable[int] | None, members: int, shared_noise: bool = False
) -> Mapping[int, int]:
    """How often each member spent a round's budget, by training in the attempt that succeeded or in one that failed.

    An attempt that a killed server left without a note of its end counts for everybody. A member sends what it trained
    once in every further attempt, unless the noise is shared: then each attempt that may have sent it is a release of
    its own, and the next trains anew.

    Args:
        noted: of the round; at least one where `trained` is given. trained: indices, in the last attempt, which
            succeeded; None: all failed.
        members: how many.
        shared_noise: whether the charter's noise is shared.
    """
    ended = {attempt.attempt: set(attempt.trained) for attempt in noted if attempt.trained is not None}
    failed, sent = {attempt.attempt for attempt in noted}, may_have_sent(noted)
    if trained is not None:
        failed.remove(max(failed))
    everybody = set(range(members))
    times, once = Counter(set(trained or ())), set(trained or ())
    for number in failed:
        here = ended.get(number, everybody)
        once |= here
        times.update(here if number in sent else ())
    return {index: max(times[index], 1) if shared_noise else 1 for index in once}


def rounds_spent(charter: Charter, folder: RunDirectory) -> dict[str, int]:
    """Rounds whose budget each member has spent in a run: those committed, and attempts at one that never was.

    A run ends with such attempts where too few members have budget left. The ledger of a member whose node was killed
    while it trained may hold more: it was charged for a vector that nobody saw.
    """
    last = folder.last()
    spent: dict[str, int] = {} if last is None else dict(last.measured.trained)
    noted = folder.attempts(0 if last is None else last.number + 1)
    names = [member.name for member in charter.members]
    for index, times in charged(noted, None, len(names), charter.privacy.shares is not None).items():
        spent[names[index]] = spent.get(names[index], 0) + times
    return spent
