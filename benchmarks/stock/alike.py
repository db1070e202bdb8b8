"""The rows that all arms share, and cotune's settings for as many passes, of the same LoRA or of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from cotune.conf.compose import compose
from cotune.conf.schema import Settings
from cotune.data.corpora.corpus import Corpus
from cotune.simulations.consortium import filled_in

from .flowertune import Recipe

STOCK_TARGETS = ("q_proj", "v_proj")


@dataclass(frozen=True)
class Plan:
    """What all arms share."""

    corpus: Corpus
    words: tuple[str, ...]
    recipe: Recipe
    folder: Path
    seed: int

    @property
    def rows(self) -> int:
        """Of all organizations."""
        return sum(map(len, self.corpus.organizations.values()))

    @property
    def of_one(self) -> int:
        """Of the largest organization."""
        return max(map(len, self.corpus.organizations.values()))

    def settings(self, *words: str, like: tuple[str, ...] = ()) -> Settings:
        """cotune's, settled for this corpus: an arm's words, then the person's own, then what must be as in an arm."""
        made = compose([*words, *self.words, *like])
        return filled_in(made, self.corpus)


def shortened(corpus: Corpus, examples: int, tests: int, seed: int) -> Corpus:
    """A random choice of so many rows, the same from each organization, and of test rows; 0: all."""
    rng = np.random.default_rng(seed)

    def some(records: Sequence[Any], count: int) -> list[Any]:
        chosen = rng.permutation(len(records))[: count or len(records)]
        return [records[place] for place in sorted(chosen)]

    each = math.ceil(examples / len(corpus.organizations))
    own = {name: some(records, each) for name, records in corpus.organizations.items()}
    return replace(corpus, organizations=own, test=some(corpus.test, tests))


def stock_settings(plan: Plan, rate: float) -> Settings:
    """cotune's for the LoRA, the steps and the rate of the stock loop."""
    recipe = plan.recipe
    rounds = recipe.rounds(plan.of_one)
    steps = min(recipe.local_steps, math.ceil(plan.of_one / recipe.batch))
    like = (
        "recipe=lora",
        "privacy=none",
        "strategy=fedavg",
        "strategy.local_optimizer=adamw",
        f"strategy.local_learning_rate={rate!r}",
        f"strategy.local_steps={steps}",
        f"rounds={rounds}",
        f"privacy.sample_rate={1 / (rounds * steps)!r}",
        f"model.lora.rank={recipe.rank}",
        f"model.lora.alpha={recipe.alpha}",
        f"model.lora.targets=[{','.join(recipe.targets or STOCK_TARGETS)}]",
        f"model.top_layers={recipe.top_layers}",
        "model.cache_features=false",
    )
    return plan.settings(like=like)


def last_layer_settings(plan: Plan) -> Settings:
    """cotune's own plain LoRA and rate. One epoch needs no cache: no row passes twice."""
    alike = stock_settings(plan, plan.recipe.rate)
    return plan.settings(
        "recipe=lora",
        "privacy=none",
        "strategy=fedavg",
        "strategy.local_optimizer=adamw",
        f"strategy.local_steps={alike.strategy.steps_per_round}",
        f"rounds={alike.rounds}",
        f"privacy.sample_rate={alike.privacy.sample_rate!r}",
        "model.cache_features=false",
    )
