"""Who has spent how much of its budget, as far as the coordinator can tell: it counts rounds, and errs upward."""

from collections.abc import Iterable, Mapping, Sequence

from ..privacy.accounting import epsilon
from ..privacy.terms import PrivacyTerms
from .run_directory import Attempt


def charged(noted: Sequence[Attempt], trained: Iterable[int], members: int) -> set[int]:
    """Who spent a round's budget: whoever trained in the attempt that succeeded or in one that failed.

    An attempt that a killed server left without a note of its end counts for everybody.

    Args:
        noted: of the round, at least one. trained: indices, in the attempt that succeeded. members: how many.
    """
    ended = {attempt.attempt: attempt.trained for attempt in noted if attempt.trained is not None}
    earlier = {attempt.attempt for attempt in noted} - {max(attempt.attempt for attempt in noted)}
    everybody = tuple(range(members))
    return set(trained).union(*(ended.get(attempt, everybody) for attempt in earlier))


def epsilons(terms: PrivacyTerms, steps: int, trained: Mapping[str, int]) -> dict[str, float]:
    """What each member has spent after training in so many rounds; empty where privacy is disabled.

    Args:
        steps: of one round. trained: rounds by member.
    """
    if not terms.enabled:
        return {}
    by_rounds = {
        rounds: epsilon([(terms.noise_multiplier, terms.sample_rate, rounds * steps)], terms.delta)
        for rounds in set(trained.values())
    }
    return {name: by_rounds[rounds] for name, rounds in trained.items()}
