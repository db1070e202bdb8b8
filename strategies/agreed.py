"""What follows from a charter alone, computed alike by the server and by every member: strategy, encoding, hashes.

Both ends derive it from what was signed. A message can only repeat it, and a member refuses one that does not.
"""

import hashlib

import numpy as np
from hydra.utils import instantiate

from ..charter import charter as charters
from ..charter.charter import Charter
from ..errors import UserError
from ..privacy.terms import METRICS
from ..secagg.encoding import Encoding
from ..training.schema import AdapterSchema
from .base import Adapter, Strategy, metrics_reach

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
    return rule


def schema_of(charter: Charter) -> AdapterSchema:
    """The adapter's schema, as signed."""
    return AdapterSchema.from_lists(charter.model.adapter_schema)


def nominal_batch(charter: Charter, name: str) -> float:
    """A member's public expected batch, in units: sample_rate times its declared number of units."""
    units = next(member.nominal_units for member in charter.members if member.name == name)
    return charter.privacy.sample_rate * units


def encoding_of(charter: Charter, strategy: Strategy, schema: AdapterSchema, round_number: int) -> Encoding:
    """The integer encoding of a round: adapter, metrics and the saturated fraction, each with its public bound."""
    largest = max(nominal_batch(charter, member.name) for member in charter.members)
    sigmas = charter.secagg.range_sigmas
    terms = charter.privacy
    return Encoding(
        segments=(
            (strategy.dimension(schema, round_number), strategy.reach(terms, largest, sigmas)),
            (len(METRICS), metrics_reach(terms, largest, sigmas, strategy.steps_per_round)),
            (EXTRA, 1.0),
        ),
        parties=len(charter.members),
        lane_bits=charter.secagg.lane_bits,
    )


def model_hash(charter: Charter, adapter: Adapter) -> bytes:
    """32 bytes for everything that a contribution is computed from: base, tokenizer and the round's adapter."""
    content = np.ascontiguousarray(adapter, dtype="<f4").tobytes()
    model = charter.model
    return charters.model_hash(model.base_digest, model.tokenizer_digest, hashlib.sha256(content).hexdigest())
