"""What `cotune study strategies` compares, as `strategies.yaml` lists it, and the settings of each of its points."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from ..errors import UserError
from .compose import FOLDER, compose, listed
from .schema import Settings

_CHOICE, _SHARED = "method", "privacy.trust=honest_majority"


@dataclass(frozen=True)
class Tried:
    """One way to train a method: its settings, the key of its rate, and where the search for the rate begins."""

    settings: tuple[str, ...]
    key: str
    start: float

    @property
    def name(self) -> str:
        """For tables: the values of its settings."""
        return " ".join(word.partition("=")[2] for word in self.settings)


@dataclass(frozen=True)
class Method:
    """A published rule as it can be trained privately.

    Attributes:
        name, title, paper: of it. charged: what a run is charged for, in words.
        note: in what it differs from the published rule, or from the other methods; empty: in nothing.
        settings: that make it. tried: what is tried of it; the better one on the deal of the choice is kept.
    """

    name: str
    title: str
    paper: str
    charged: str
    note: str
    settings: tuple[str, ...]
    tried: tuple[Tried, ...]


@dataclass(frozen=True)
class Comparison:
    """The whole study.

    Attributes:
        methods: to be compared. loss: whose basis names the tokens of everybody's training loss.
        common: settings of all methods. given: what a person set, which wins over all others.
        cells: for each of them every experiment; epsilons: the largest first; seeds: of the deals whose
            test rows are reported.
        chosen_on: the rows of the choice.
    """

    methods: tuple[Method, ...]
    loss: Method
    common: tuple[str, ...]
    given: tuple[str, ...]
    experiments: tuple[str, ...]
    epsilons: tuple[str, ...]
    seeds: tuple[str, ...]
    chosen_on: tuple[str, ...]

    def settings(
        self, method: Method, tried: Tried, rate: float, experiment: str, epsilon: str, seed: str | None = None
    ) -> Settings:
        """Of one point; no seed: on the rows of the choice.

        Raises:
            UserError: they cannot be combined.
        """
        own = [*method.settings, *tried.settings, f"{tried.key}={rate:g}"]
        rows = self.chosen_on if seed is None else (seed, "simulation.judge=test")
        return compose(_later_wins([*self.common, *own, *self.given, experiment, epsilon, *rows]))


def comparison(overrides: Sequence[str]) -> Comparison:
    """The study of `strategies.yaml`, changed by what a person gave: `method=core,ffa`, or settings of every point.

    Raises:
        UserError: an unknown method, or settings that cannot be read or combined.
    """
    plan = yaml.safe_load((FOLDER / "strategies.yaml").read_text(encoding="utf-8"))
    every = {name: _method(name, fields) for name, fields in plan["methods"].items()}
    given = {_key(word): word for word in overrides}
    wanted = given.pop(_CHOICE, f"{_CHOICE}={','.join(every)}").partition("=")[2].split(",")
    swept = {_key(word): listed(given.pop(_key(word), word)) for word in plan["sweep"]}
    study = Comparison(
        methods=tuple(every[_known(name, every)] for name in wanted),
        loss=every[plan["loss_of"]],
        common=tuple(plan["settings"]),
        given=tuple(given.values()),
        experiments=tuple(swept["experiment"]),
        epsilons=tuple(sorted(swept["privacy.epsilon"], key=_number, reverse=True)),
        seeds=tuple(swept["seed"]),
        chosen_on=tuple(plan["chosen_on"]),
    )
    own = {"simulation.judge", *(tried.key for method in every.values() for tried in method.tried)} & set(given)
    if own:
        raise UserError(f"{min(own)} is what the study sets for each method", "leave it out")
    for experiment in study.experiments:
        study.settings(study.loss, study.loss.tried[0], 1.0, experiment, study.epsilons[0])
    for method in study.methods:
        for tried in () if refusal(study, method) else method.tried:
            study.settings(method, tried, tried.start, study.experiments[0], study.epsilons[0])
    return study


def refusal(study: Comparison, method: Method) -> str:
    """Why a method has no account where the noise is shared; empty: it has, or the noise is not shared.

    Raises:
        UserError: it cannot be composed at all.
    """
    if _SHARED not in study.given:
        return ""
    point = (method, method.tried[0], method.tried[0].start, study.experiments[0], study.epsilons[0])
    replace(study, given=tuple(word for word in study.given if word != _SHARED)).settings(*point)
    try:
        study.settings(*point)
    except UserError as error:
        return error.what
    return ""


def _method(name: str, fields: dict[str, Any]) -> Method:
    tried = tuple(Tried(tuple(one["settings"]), one["key"], float(one["start"])) for one in fields["tried"])
    words = (fields["title"], fields["paper"], fields["charged"], fields.get("note", "").strip())
    return Method(name, *words, tuple(fields["settings"]), tried)


def _known(name: str, every: dict[str, Method]) -> str:
    if name in every:
        return name
    near = difflib.get_close_matches(name, every, 1)
    mend = f"did you mean {near[0]}?" if near else f"choose from {', '.join(every)}"
    raise UserError(f"there is no method {name!r}", mend)


def _later_wins(words: Sequence[str]) -> list[str]:
    return list({_key(word): word for word in words}.values())


def _key(word: str) -> str:
    return word.partition("=")[0]


def _number(word: str) -> float:
    try:
        return float(word.partition("=")[2])
    except ValueError:
        raise UserError(f"{word} is not a number", "set privacy.epsilon, e.g. privacy.epsilon=8,3") from None
