"""Rounds with shared noise: no share is in two sums, too few survivors open nothing, only who opted in takes part."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cotune.charter import policy as policies
from cotune.charter.charter import Charter
from cotune.errors import UserError
from cotune.privacy.adversaries import account_unit
from cotune.strategies.derived import encoding_of, schema_of, strategy_of


def twice_the_noise(charter: Charter) -> Charter:
    """The budget has room for a second attempt."""
    terms = replace(charter.privacy, noise_multiplier=2 * charter.privacy.noise_multiplier)
    return Charter.model_validate(dict(charter) | {"privacy": terms})


def test_a_share_is_never_in_two_sums(found: Callable) -> None:
    """The first attempt ends after the uploads: what was in them is gone, and the second trains anew and is charged."""
    federation = found(rounds=1, shared=True, change=twice_the_noise)
    sent: list[tuple[int, np.ndarray]] = []
    lost: set[int] = set()

    def before(kind, member, message):
        home = federation.homes[member]
        if kind == "query.upload":
            sent.append((member, home.pending().contribution))
        return message

    def after(kind, member, reply):
        if kind == "query.upload":
            assert federation.homes[member].pending() is None
            if member in (1, 2) and member not in lost:
                lost.add(member)
                return None
        return reply

    federation.grid.before, federation.grid.after = before, after
    run = federation.run()
    assert run.committed() == [0]
    by_member = {member: [vector for who, vector in sent if who == member] for member in range(4)}
    for member, vectors in by_member.items():
        assert len(vectors) == 2
        assert not np.array_equal(*vectors)
        # Each attempt is charged to both accounts.
        units = [charge.unit for charge in federation.charges(member)]
        assert units.count("patient") == units.count(account_unit(federation.charter.privacy)) == 2
    assert run.load(0).measured.trained == dict.fromkeys((one.name for one in federation.charter.members), 2)


def test_too_few_survivors_open_nothing(found: Callable) -> None:
    federation = found(rounds=1, shared=True, change=twice_the_noise)
    federation.lose("query.upload", 0, 1)
    with pytest.raises(UserError):
        federation.run()
    assert not any(kind == "query.reveal" for kind, _ in federation.replies)


def test_only_who_opted_in_takes_part(found: Callable) -> None:
    federation = found(rounds=1, shared=True, change=twice_the_noise)
    home = federation.homes[0]
    policies.save(policies.load(home.policy).model_copy(update={"allow_honest_majority": False}), home.policy)
    run = federation.run()
    assert run.load(0).survivors == ("birch", "cedar", "dogwood")
    assert set(federation.refusals()) == {"policy.trust"}
    assert federation.charges(0) == []


def test_nothing_is_cut_and_narrow_lanes_are_refused(found: Callable) -> None:
    charter = found(shared=True, change=twice_the_noise).charter
    schema = schema_of(charter)
    encoding = encoding_of(charter, strategy_of(charter), schema, 0)
    clips = [clip for _, clip in encoding.segments]
    # Every unit of a member with the whole clip norm along one coordinate, and twelve deviations of noise.
    assert clips[0] >= 12 * charter.privacy.noise_std + 12 * charter.privacy.max_grad_norm
    assert encoding.steps()[:-1].max() * 3 <= charter.privacy.noise_std
    narrow = charter.model_copy(update={"secagg": charter.secagg.model_copy(update={"lane_bits": 8})})
    with pytest.raises(UserError, match=r"set secagg.lane_bits=\d+ or more"):
        encoding_of(narrow, strategy_of(narrow), schema, 0)
