"""What follows from a charter alone, computed alike by the server and by every member: strategy, encoding, hashes.

Both ends derive it from what was signed. A message can only repeat it, and a member refuses one that does not.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..adapter.schema import AdapterSchema
from ..charter.charter import Charter
from ..errors import UserError
from ..privacy.noise_shares import ONE_STEP, fitting_sigmas, fitting_units, require_fine
from ..privacy.terms import METRICS, PrivacyTerms
from ..secagg.encoding import MAX_LANE_BITS, Encoding
from ..secagg.limits import NormLimits
from . import own
from .base import MOST_SAMPLES, Strategy, metrics_reach
from .dp_fedsgd import DPFedSGD
from .fedavg import FedAvg
from .ffa import FFALoRA
from .rolora import RoLoRA

RULES: Final[Mapping[str, type[Any]]] = {
    f"{rule.__module__}.{rule.__name__}": rule for rule in (DPFedSGD, FedAvg, FFALoRA, RoLoRA)
}
"""The product's own strategies, by what a charter calls them."""
Bounds = tuple[tuple[int, float], ...]
# Beside adapter and metrics: the fraction of coordinates that the encoding cut, known only after the noise.
EXTRA = 1


def class_of(target: str, code: str | None) -> type[Any]:
    """The class that a charter's target names: the product's own, or an installed one of the digest `code`.

    Raises:
        UserError: there is none here.
    """
    if code is not None:
        return own.class_of(target, code)
    if target not in RULES:
        raise UserError(f"charter: strategy {target!r} is not one", f"choose one of {', '.join(sorted(RULES))}")
    return RULES[target]


def made(target: str, code: str | None, settings: Mapping[str, Any]) -> Strategy:
    """The strategy of a class with these settings.

    Raises:
        UserError: as `class_of`, or the settings do not fit it.
    """
    rule = class_of(target, code)
    try:
        strategy: Strategy = rule(**settings)
    except Exception as problem:
        said = str(problem).splitlines() or [type(problem).__name__]
        raise UserError(f"strategy {target!r}: {said[0]}", "correct its settings") from None
    if type(strategy.steps_per_round) is not int or strategy.steps_per_round < 1:
        raise UserError(f"strategy {target!r}: steps_per_round is {strategy.steps_per_round!r}", "let it be 1 or more")
    return strategy


def load_code(charter: Charter, file: Path) -> None:
    """Install the charter's own code of a strategy, if it has some, for `strategy_of`; nothing else is ever run.

    Args:
        file: where it lies; the caller has seen to it that this digest may run here.

    Raises:
        UserError: there is none, or it is another file.
    """
    if charter.strategy.code is None:
        return
    code = own.read_code(file)
    if code.digest != charter.strategy.code:
        raise UserError(f"{file} is not the charter's strategy", "get it from who drafted the charter")
    own.install(code)


def strategy_of(charter: Charter) -> Strategy:
    """The strategy that the charter names.

    Raises:
        UserError: it is not installed here, its settings do not fit, the adapter has no part that it trains, or the
            charter's terms ask for more than it does.
    """
    terms = charter.strategy
    try:
        rule = made(terms.target, terms.code, terms.settings)
    except UserError as problem:
        raise UserError(f"charter: {problem.what.removeprefix('charter: ')}", problem.mend) from None
    _require_one_gradient(charter, rule)
    schema = schema_of(charter)
    for turn in range(rule.turns):
        rule.trained(schema, turn)
    return rule


def require_fitting(charter: Charter) -> None:
    """Refuse to sign what no node would act under. Code of one's own, which is not loaded here, is left to the node.

    Raises:
        UserError: as `strategy_of`.
    """
    if charter.strategy.code is None:
        strategy_of(charter)


def _require_one_gradient(charter: Charter, rule: Strategy) -> None:
    """Shared noise, noise on integers and personal steps are for rules that send one noised gradient as it is."""
    name = charter.strategy.rule
    if rule.one_noised_gradient:
        if rule.steps_per_round != 1:
            raise UserError(f"charter: {name} sends one noised gradient, yet takes {rule.steps_per_round}", "mend it")
        return
    if charter.privacy.shares is not None:
        raise UserError(
            f"charter: privacy.trust=honest_majority with {name}: {ONE_STEP}",
            "use DPFedSGD, or set privacy.trust=nobody",
        )
    if charter.privacy.grid is not None:
        raise UserError(
            f"charter: privacy.mechanism=skellam with {name}: what local steps make of the noised integers is not on "
            "their grid",
            "use DPFedSGD, or set privacy.mechanism=gaussian",
        )
    if charter.personal_steps:
        raise UserError(
            f"charter: personal_steps={charter.personal_steps} with {name}: its rounds are several steps each",
            "use DPFedSGD, or set personal_steps=0",
        )


def schema_of(charter: Charter) -> AdapterSchema:
    """The adapter's schema, as signed."""
    return AdapterSchema.from_lists(charter.model.adapter_schema)


def nominal_batch(charter: Charter, name: str) -> float:
    """A member's public expected batch, in units: sample_rate times its declared number of units."""
    units = next(member.nominal_units for member in charter.members if member.name == name)
    return charter.privacy.sample_rate * units


def encoding_of(charter: Charter, strategy: Strategy, schema: AdapterSchema, round_number: int) -> Encoding:
    """The integer encoding of a round: adapter, metrics and the saturated fraction, each with its public bound.

    Where the noise is shared, the bounds hold for every number of the whole run, so that nothing is ever cut. Where it
    is noise on integers, the steps of the encoding are those of the grid: what is accounted for is sent as it is.

    Raises:
        UserError: the lanes are too narrow for shared noise, or for noise on integers.
    """
    terms, dimension = charter.privacy, strategy.trained(schema, round_number).size
    batches = [nominal_batch(charter, member.name) for member in charter.members]
    sigmas = charter.secagg.range_sigmas
    if terms.shares is not None:
        std = math.inf if terms.grid is None else terms.noise_std / terms.grid_step
        # For all coordinates, also where a round trains fewer: lanes that are wide enough for one are so for all.
        sigmas = max(sigmas, fitting_sigmas((schema.dimension + len(METRICS)) * MOST_SAMPLES, terms.epsilon, std))
    bounds: Bounds = (
        (dimension, max(strategy.reach(terms, batch, sigmas) for batch in batches)),
        (len(METRICS), metrics_reach(terms, max(batches), sigmas, strategy.steps_per_round)),
        (EXTRA, 1.0),
    )
    parties, lane_bits = len(charter.members), charter.secagg.lane_bits
    if terms.grid is not None:
        bounds = (*_on_grid(bounds[:-1], terms.grid_step, parties, lane_bits), bounds[-1])
    encoding = Encoding(bounds, parties, lane_bits)
    if terms.shares is not None and terms.grid is None:
        require_fine(
            terms.noise_std,
            lambda bits: float(max(Encoding(bounds, encoding.parties, bits).steps()[:-1])),
            encoding.lane_bits,
            MAX_LANE_BITS,
        )
    return encoding


def _on_grid(bounds: Bounds, step: float, parties: int, lane_bits: int) -> Bounds:
    """The bounds raised to all that the lanes hold in steps of the grid; UserError where that is less."""
    # Random rounding to the grid moves a number by less than a step.
    levels = max(bound for _, bound in bounds) / step + 1
    room = {bits: Encoding(bounds, parties, bits).levels for bits in range(lane_bits, MAX_LANE_BITS + 1)}
    if room[lane_bits] < levels:
        enough = [bits for bits, most in room.items() if most >= levels]
        raise UserError(
            f"secagg.lane_bits={lane_bits}: noise on integers needs {math.ceil(levels)} steps on either side, "
            f"these lanes hold {room[lane_bits]}",
            f"set secagg.lane_bits={enough[0]}" if enough else "lower the batch, or set privacy.mechanism=gaussian",
        )
    return tuple((length, room[lane_bits] * step) for length, _ in bounds)


def limits_of(charter: Charter, strategy: Strategy, schema: AdapterSchema, round_number: int) -> NormLimits:
    """What honest members can send in a round at most, in the L2 norm of the adapter's coordinates.

    A sum beyond it was spoiled by somebody; the largest step that a round can take follows.
    """
    terms, bases, spreads = charter.privacy, [], []
    for member in charter.members:
        batch = nominal_batch(charter, member.name)
        base, spread = strategy.norms(terms, _most_sampled(terms, member.nominal_units), batch)
        bases.append(base)
        spreads.append(spread)
    return NormLimits(tuple(bases), max(spreads), strategy.trained(schema, round_number).size)


def _most_sampled(terms: PrivacyTerms, units: int) -> float:
    """How many of so many units no sample of a run exceeds, but for a chance that nobody meets."""
    if terms.sample_rate == 1.0:
        return float(units)
    return min(float(units), fitting_units(terms.sample_rate * units, MOST_SAMPLES, terms.epsilon))
