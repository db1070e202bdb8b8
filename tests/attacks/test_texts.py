"""Text canaries: what training without noise remembers, noise hides."""

import numpy as np
import pytest
from cotune.attacks.audits import audit, audit_texts
from cotune.attacks.texts import memorized
from cotune.conf.compose import compose
from cotune.errors import UserError
from cotune.privacy.accounting import calibrate
from cotune.privacy.terms import PrivacyTerms
from cotune.strategies.dp_fedsgd import DPFedSGD

ROUNDS = 20
TERMS = PrivacyTerms(True, "row", 1.0, 1e-5, calibrate(1.0, 1e-5, 0.5, ROUNDS), 1.0, 0.5, 4, 10.0, 0.1)
FREE = TERMS.without_noise
ADAM = DPFedSGD("adam", 0.01, 0.9, 0.99, 1e-8, 0.0)


def test_training_without_noise_is_seen_through() -> None:
    """The control: without it, a bound of zero under noise would say nothing about the noise.

    38 right of 50 are enough; all 50 are, but for one run in many.
    """
    found = audit_texts(TERMS, ADAM, 100, ROUNDS, 0.95, control=True)
    assert found.audit == "text canaries, no privacy"
    assert found.claimed is None
    assert found.at_least > 0.3
    assert not found.alarm


def test_private_training_stays_below_its_claim() -> None:
    """At this confidence a sound mechanism fails once in a million runs."""
    found = audit_texts(TERMS, ADAM, 100, ROUNDS, 1 - 1e-6)
    assert found.audit == "text canaries"
    assert found.claimed == pytest.approx(1.0, abs=0.01)
    assert found.at_least <= 1.0
    assert not found.alarm


def test_every_round_is_reported_and_coins_follow_the_seed() -> None:
    done: list[int] = []
    one = memorized(FREE, ADAM, 30, 3, np.random.default_rng(7), done.append)
    other = memorized(FREE, ADAM, 30, 1, np.random.default_rng(7))
    assert done == [1, 2, 3]
    assert one[0].tolist() == other[0].tolist()
    assert one[1].shape == (30,)
    assert np.isfinite(one[1]).all()


def test_what_cannot_be_audited_is_refused() -> None:
    with pytest.raises(UserError, match="claims nothing"):
        next(audit(compose(["privacy=none"]), 100, 0, 0.95))
    with pytest.raises(UserError, match="own noise"):
        next(audit(compose(["privacy.trust=honest_majority"]), 100, 0, 0.95))
    for numbers in ((10, 0, 0.95), (100, 5, 0.95), (100, 0, 1.0)):
        with pytest.raises(UserError):
            next(audit(compose([]), *numbers))
