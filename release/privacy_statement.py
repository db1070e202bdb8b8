"""What a release promises about the people in its training data, and what it does not."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from ..privacy.accounting import rounded, rounded_delta
from ..privacy.noise_shares import Exposures
from ..privacy.spending import exposure
from ..privacy.terms import PrivacyTerms

ADJACENCY: Final = "add or remove all records of one unit"

COVERS: Final = (
    "the server, every other organization, any coalition of them, and everybody who receives the adapter",
    "every vector that an organization sent in the run: gradients or updates, losses, counts of units",
    "a server that is not honest: each organization adds its noise at home, and secure aggregation comes on top",
)
SHARED_COVERS: Final = (
    "the coordinator together with up to the stated number of organizations, and everybody who receives the adapter",
    "every sum that was opened in the run: gradients, losses, counts of units",
)
SHARED_DOES_NOT_COVER: Final = (
    "a coordinator with more organizations than stated: each further one takes its share of the noise away, down to "
    "the last epsilon above",
    "a break of secure aggregation: what an organization sends carries its own share only",
    "organizations that add less noise than agreed: nobody can check another's noise",
)
DOES_NOT_COVER: Final = (
    "a unit whose records lie at m organizations: its epsilon is the sum of theirs",
    "a person whose records carry several unit ids: count the ids",
    "secrets that many units share, such as a sentence that stands in every letter",
    "what the base model knew before this run",
    "choices made by looking at private data outside the run: settings, prompts, labels, which run to publish",
    "facts that the charter makes public: who takes part, nominal numbers of units, sampling rates, rounds",
    "other runs on the same data: their epsilons compose; a node's ledger holds the sum of what was run from its home",
    "how long computation took and when messages were sent",
)


@dataclass(frozen=True)
class PrivacyFacts:
    """Attributes:
    terms: the terms that the members signed.
    epsilon: of what each organization may have sent in the whole run, at `terms.delta`; empty without privacy. Its
        own ledger may hold more, see `spent.rounds_spent`.
    steps: noised steps of each organization; empty without privacy.
    """

    terms: PrivacyTerms
    epsilon: Mapping[str, float]
    steps: Mapping[str, int]

    def __post_init__(self) -> None:
        if self.terms.enabled and not self.epsilon:
            raise ValueError("a private run states the epsilon of each organization")
        if not self.terms.enabled and self.epsilon:
            raise ValueError("a run without privacy has no epsilon")

    @property
    def exposures(self) -> Exposures | None:
        """With shared noise: the three epsilons of the organization that spent most."""
        return exposure(self.terms, 1, self.steps.values())

    @property
    def covers(self) -> tuple[str, ...]:
        """What the promise is about."""
        return COVERS if self.terms.shares is None else SHARED_COVERS

    @property
    def does_not_cover(self) -> tuple[str, ...]:
        """What it is not about."""
        return DOES_NOT_COVER if self.terms.shares is None else (*SHARED_DOES_NOT_COVER, *DOES_NOT_COVER)

    @property
    def epsilon_max(self) -> float | None:
        """The largest epsilon of an organization; None without privacy."""
        return max(self.epsilon.values(), default=None)


def statement_sentence(facts: PrivacyFacts) -> str:
    """The promise in one sentence (ISRL-DP, Lowy and Razaviyayn 2021), with epsilon, delta, unit and adjacency."""
    largest = facts.epsilon_max
    if not facts.terms.enabled or largest is None:
        return "This adapter was trained without differential privacy: it makes no promise about the training data."
    if facts.terms.shares is not None and facts.exposures is not None:
        lines = "; ".join(facts.exposures.lines(facts.terms.shares))
        return (
            f"For every organization, adding or removing all records of one unit ({facts.terms.unit}) changes what "
            f"others see by at most, at delta {rounded_delta(facts.terms.delta)}: {lines}. The noise is shared among "
            "the organizations: this relies on secure aggregation and on an honest majority."
        )
    return (
        f"For every organization, adding or removing all records of one unit ({facts.terms.unit}) changes what "
        "the server, any coalition of other organizations and everybody who receives this adapter see by at most "
        f"(epsilon, delta) = ({rounded(largest)}, {rounded_delta(facts.terms.delta)}), "
        "and this does not rely on secure aggregation."
    )


def statement_json(facts: PrivacyFacts) -> dict[str, Any]:
    """The statement for programs; `epsilon_max`, `delta` and `adjacency` are None without privacy."""
    private = facts.terms.enabled
    return {
        "statement_version": 1,
        "enabled": private,
        "sentence": statement_sentence(facts),
        "epsilon_max": facts.epsilon_max,
        "delta": facts.terms.delta if private else None,
        "unit": facts.terms.unit,
        "adjacency": ADJACENCY if private else None,
        "by_organization": dict(facts.epsilon),
        "steps": dict(facts.steps),
        "terms": asdict(facts.terms),
        "trust": facts.terms.trust,
        "exposures": None if facts.exposures is None else asdict(facts.exposures),
        "covers": list(facts.covers) if private else [],
        "does_not_cover": list(facts.does_not_cover),
    }


def statement_markdown(facts: PrivacyFacts) -> str:
    """The statement for people."""
    lines = ["# Privacy statement", "", statement_sentence(facts), ""]
    if not facts.terms.enabled:
        return "\n".join(lines)
    terms = facts.terms
    lines += ["| organization | epsilon | delta | noised steps |", "|---|---:|---:|---:|"]
    delta = rounded_delta(terms.delta)
    lines += [
        f"| {_cell(name)} | {rounded(facts.epsilon[name])} | {delta} | {facts.steps.get(name, 0)} |"
        for name in sorted(facts.epsilon)
    ]
    lines += [
        "",
        *_exposure_lines(facts),
        f"Mechanism: {'Gaussian' if terms.grid is None else 'Skellam'} noise of {terms.own_multiplier:.4g} times "
        f"{terms.sensitivity:.4g} (the L2 sensitivity) {_rounding(terms)}on the sum of unit gradients clipped to "
        f"{terms.max_grad_norm:.4g} and three metrics; each unit takes part in a step with probability "
        f"{terms.sample_rate:.4g}, independently of the others, with at most {terms.records_per_unit} of its records.",
        "",
        "## It covers",
        "",
        *(f"- {text}" for text in facts.covers),
        "",
        "## It does not cover",
        "",
        *(f"- {text}" for text in facts.does_not_cover),
        "",
    ]
    return "\n".join(lines)


def _rounding(terms: PrivacyTerms) -> str:
    if terms.grid is None:
        return ""
    return f"in whole steps of {terms.grid_step:.4g}, to which the sum is rounded at random, "


def _exposure_lines(facts: PrivacyFacts) -> list[str]:
    shares, found = facts.terms.shares, facts.exposures
    if shares is None or found is None:
        return []
    head = f"The noise is shared: each organization adds its part of {facts.terms.noise_multiplier:.4g} times."
    return [
        f"{head} For who spent most:",
        "",
        *(f"- {line}" for line in found.lines(shares)),
        "",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
