"""Whole rounds: the sum, dropouts in every phase, restarts between every phase."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cotune.secagg.collecting import Step
from cotune.secagg.coordinator import Coordinator
from cotune.secagg.encoding import Encoding
from cotune.secagg.organization import Organization
from cotune.secagg.plan import least_survivors
from cotune.secagg.record import genesis, verify
from cotune.secagg.refused import Refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Build = Callable[..., Any]
quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def rounds(draw: st.DrawFn) -> tuple[int, Encoding, dict[int, int]]:
    n = draw(st.integers(3, 8))
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    segments = tuple((length, draw(st.sampled_from([0.01, 1.0, 37.5]))) for length in lengths)
    spare = n - least_survivors(n)
    who = draw(st.lists(st.integers(0, n - 1), max_size=spare, unique=True))
    gone = {i: draw(st.integers(0, 4)) for i in who}
    return n, Encoding(segments, n, draw(st.sampled_from([16, 21, 32]))), gone


@quick
@given(rounds(), st.integers(0, 2**32 - 1), st.booleans())
def test_sum_is_the_sum_of_survivors(
    federation_of: Build, terms: tuple[int, Encoding, dict[int, int]], seed: int, reload: bool
) -> None:
    n, encoding, gone = terms
    fed = federation_of(n, encoding)
    clips = np.concatenate([np.full(length, clip) for length, clip in encoding.segments])
    fed.vectors = np.random.default_rng(seed).uniform(-1, 1, (n, encoding.dimension)) * clips
    outcome = fed.play(gone, reload)
    survivors = tuple(i for i in range(n) if gone.get(i, 9) > 2)
    assert outcome.survivors == survivors
    error = np.abs(outcome.values - fed.vectors[list(survivors)].sum(axis=0))
    assert (error < len(survivors) * clips / encoding.levels * (1 + 1e-9)).all()
    verified = verify(outcome.record, fed.roster, fed.plan().run, genesis(fed.plan().run, fed.roster))
    assert verified.head == outcome.head
    assert verified.survivors == survivors


def test_exact_on_the_grid(federation: Build) -> None:
    fed = federation(4, 50)
    step = 1.0 / fed.encoding.levels
    fed.vectors = np.random.default_rng(0).integers(-fed.encoding.levels, fed.encoding.levels + 1, (4, 50)) * step
    # A grid point is rounded to itself (up to a chance of 2^-32), so the sum is exact up to float64.
    assert np.allclose(fed.play().values, fed.vectors.sum(axis=0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("phase", range(5))
def test_too_many_dropouts_abort(federation: Build, phase: int) -> None:
    fed = federation(4)
    with pytest.raises(Refused) as no:
        fed.play({0: phase, 2: phase})
    assert no.value.code == "round.too_few"


@pytest.mark.parametrize("phase", range(5))
def test_one_dropout_of_four_does_not_cost_the_round(federation: Build, phase: int) -> None:
    assert federation(4).play({1: phase}).survivors == ((0, 2, 3) if phase < 3 else (0, 1, 2, 3))


def test_ten_organizations_lose_three_in_three_phases(federation: Build) -> None:
    assert federation(10).play({0: 0, 4: 1, 9: 2}).survivors == (1, 2, 3, 5, 6, 7, 8)


def test_dump_is_refused_with_another_identity(federation: Build) -> None:
    fed = federation(3)
    fed.advertise()
    dump = fed.organizations[0].dump()
    with pytest.raises(Refused) as no:
        Organization.load(dump, fed.roster, fed.keys[1], fed.journals[1])
    assert no.value.code == "state.identity"


def test_secrets_leave_the_state_as_soon_as_they_can(federation: Build) -> None:
    fed = federation(3)
    fed.share()
    organization = fed.organizations[0]
    secrets = organization._state.secrets
    assert all(secret in organization.dump() for secret in secrets)
    organization.mask(fed.inboxes[0], fed.vectors[0])
    assert not any(secret in organization.dump() for secret in secrets)


def test_peer_shares_are_forgotten_after_the_reveal(federation: Build) -> None:
    fed = federation(3)
    quorum = fed.survive()
    organization = fed.organizations[0]
    assert organization._state.held
    organization.unmask(quorum)
    assert not fed.reload(0)._state.held
    with pytest.raises(Refused) as no:
        organization.unmask(quorum)
    assert no.value.code == "phase"


def test_a_second_round_extends_the_first(federation: Build) -> None:
    fed = federation(3)
    first = fed.play()
    plan = fed.plan(round=2, prev_head=first.head)
    fed.coordinator = Coordinator(fed.roster, plan, fed.coordinator_key)
    with pytest.raises(Refused) as no:
        fed.begin(0)
    assert no.value.code == "plan.head"
    organizations = [fed.begin(i, prev_head=first.head, last=(1, 0)) for i in range(3)]
    assert all(fed.coordinator.add_advert(i, o.advert) for i, o in enumerate(organizations))


def test_steps_out_of_order_are_refused(federation: Build) -> None:
    fed = federation(3)
    bundle = fed.advertise()
    organization = fed.organizations[0]
    for call in (organization.survive, organization.unmask):
        with pytest.raises(Refused) as no:
            call(bundle)
        assert no.value.code == "phase"
    with pytest.raises(Refused) as early:
        fed.coordinator.close_uploads()
    assert early.value.code == "round.order"
    assert fed.coordinator.step is Step.SHARES
