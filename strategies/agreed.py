"""What follows from a charter alone, computed alike by the server and by every member: strategy, encoding, hashes.

Both ends derive it from what was signed. A message can only repeat it, and a member refuses one that does not.
"""

import hashlib

import numpy as np
from hydra.utils import instantiate

from ..charter import charter as charters
from ..charter.charter import Charter
from ..errors import UserError
from ..privacy.noise_shares import ONE_STEP, fitting_sigmas, require_fine
from ..privacy.terms import METRICS
from ..secagg.encoding import MAX_LANE_BITS, Encoding
from ..training.schema import AdapterSchema
from .base import MOST_SAMPLES, Adapter, Strategy, metrics_reach

# Beside adapter and metrics: the fraction of coordinates that the encoding cut, known only after the noise.
EXTRA = 1


def strategy_of(charter: Charter) -> Strategy:
    """The strategy that the charter names.

    Raises:
        UserError: it is not installed here, or its settings do not fit. The charter's own form admits no class outside
            `cotune.strategies`.
    """
    target = charter.strategy.target
    try:
        rule: Strategy = instantiate({"_target_": target, **charter.strategy.settings})
    except Exception as problem:
        raise UserError(
            f"charter: strategy {target!r}: {str(problem).splitlines()[0]}", "correct its settings"
        ) from None
    if charter.privacy.shares is not None and rule.steps_per_round > 1:
        raise UserError(f"charter: privacy.trust=honest_majority: {ONE_STEP}", "set privacy.trust=nobody")
    return rule


def schema_of(charter: Charter) -> AdapterSchema:
    """The adapter's schema, as signed."""
    return AdapterSchema.from_lists(charter.model.adapter_schema)


def nominal_batch(charter: Charter, name: str) -> float:
    """A member's public expected batch, in units: sample_rate times its declared number of units."""
    units = next(member.nominal_units for member in charter.members if member.name == name)
    return charter.privacy.sample_rate * units


def encoding_of(charter: Charter, strategy: Strategy, schema: AdapterSchema, round_number: int) -> Encoding:
    """The integer encoding of a round: adapter, metrics and the saturated fraction, each with its public bound.

    Where the noise is shared, the bounds hold for every number of the whole run, so that nothing is ever cut.

    Raises:
        UserError: the lanes are too narrow for shared noise.
    """
    terms, dimension = charter.privacy, strategy.dimension(schema, round_number)
    largest = max(nominal_batch(charter, member.name) for member in charter.members)
    sigmas = charter.secagg.range_sigmas
    if terms.shares is not None:
        sigmas = max(sigmas, fitting_sigmas((dimension + len(METRICS)) * MOST_SAMPLES, terms.epsilon))
    bounds = (
        (dimension, strategy.reach(terms, largest, sigmas)),
        (len(METRICS), metrics_reach(terms, largest, sigmas, strategy.steps_per_round)),
        (EXTRA, 1.0),
    )
    encoding = Encoding(bounds, len(charter.members), charter.secagg.lane_bits)
    if terms.shares is not None:
        require_fine(
            terms.noise_std,
            lambda bits: float(max(Encoding(bounds, encoding.parties, bits).steps()[:-1])),
            encoding.lane_bits,
            MAX_LANE_BITS,
        )
    return encoding


def model_hash(charter: Charter, adapter: Adapter) -> bytes:
    """32 bytes for everything that a contribution is computed from: base, tokenizer and the round's adapter."""
    content = np.ascontiguousarray(adapter, dtype="<f4").tobytes()
    model = charter.model
    return charters.model_hash(model.base_digest, model.tokenizer_digest, hashlib.sha256(content).hexdigest())
