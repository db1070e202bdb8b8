"""What so many rounds under the terms of a run have cost: epsilon by member, and who could learn how much."""

from collections.abc import Iterable, Mapping

from .accounting import epsilon
from .noise_shares import Exposures, exposures
from .terms import PrivacyTerms


def epsilons(terms: PrivacyTerms, steps: int, trained: Mapping[str, int]) -> dict[str, float]:
    """What each member has spent after training in so many rounds; empty where privacy is disabled.

    With shared noise it is the epsilon against the coordinator and the charter's colluders; `exposure` has the others.

    Args:
        steps: of one round. trained: rounds by member.
    """
    if not terms.enabled:
        return {}
    by_rounds = {rounds: epsilon([terms.segment(rounds * steps)], terms.delta) for rounds in set(trained.values())}
    return {name: by_rounds[rounds] for name, rounds in trained.items()}


def exposure(terms: PrivacyTerms, steps: int, trained: Iterable[int]) -> Exposures | None:
    """The three epsilons of the member that trained most often; None where the noise is not shared.

    Args:
        steps: of one round. trained: rounds of each member.
    """
    if terms.shares is None:
        return None
    most = steps * max(trained, default=0)
    return exposures(terms.shares, terms.noise_multiplier, terms.sample_rate, most, terms.delta, terms.grid)
