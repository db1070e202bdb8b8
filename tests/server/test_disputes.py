"""Every complaint that the protocol knows can be said in words, and attempts that disputes end come to an end."""

import random
from types import SimpleNamespace
from typing import Any

import pytest
from cotune.secagg import messages
from cotune.secagg.identity import new_identity
from cotune.secagg.messages import OFFER, SEAL, Complaint
from cotune.secagg.refused import Refused
from cotune.secagg.suites import CLASSIC
from cotune.secagg.wire import seal
from cotune.server.disputes import DISPUTED, describe, left_out, require_settled

NAMES = ("alder", "birch", "cedar", "dogwood", "elm", "fir", "ginkgo")
KEY = new_identity(CLASSIC)


def charter(members: int, threshold: int) -> Any:
    terms = SimpleNamespace(threshold=threshold, min_survivors=threshold)
    return SimpleNamespace(members=[SimpleNamespace(name=name) for name in NAMES[:members]], secagg=terms)


def complaint(author: int, accused: int, reason: int = SEAL) -> bytes:
    return seal("complaint", Complaint(bytes(32), author, accused, reason).encode(), KEY)


def test_every_reason_has_words_of_its_own() -> None:
    said = [describe(charter(4, 3), [complaint(0, 2, reason)]) for reason in messages._REASONS]
    assert len(set(said)) == len(messages._REASONS) >= 3
    assert all(line.startswith("alder says that what cedar sealed for it ") for line in said)
    assert not any("is of no use" in line for line in said)
    assert "another secret than it committed to" in describe(charter(4, 3), [complaint(0, 2, OFFER)])


def test_a_dispute_ends_an_attempt_where_another_may_do_better() -> None:
    agreed, everybody = charter(4, 3), (0, 1, 2, 3)
    require_settled(agreed, [], everybody, (0, 1))  # too few uploads are no dispute
    for uploaded in ((3,), (), (1, 2, 3)):
        with pytest.raises(Refused) as no:
            require_settled(agreed, [complaint(0, 3)], everybody, uploaded)
        assert no.value.code == DISPUTED
    require_settled(agreed, [complaint(0, 3)], everybody, (0, 1, 2))
    require_settled(agreed, [complaint(0, 3)], (0, 1, 2), (0, 1))  # that dispute is settled: dogwood is out
    require_settled(agreed, [complaint(0, 3), complaint(1, 2)], everybody, (2, 3))  # too few would be left


def test_who_complained_and_withheld_something_goes_itself() -> None:
    agreed, filed, others = charter(5, 3), [complaint(3, 0)], (0, 1, 2, 4)
    assert left_out(agreed, filed, range(5)) == (0,)
    assert left_out(agreed, filed, range(5), withheld={3}) == (3,)
    require_settled(agreed, filed, others, others, withheld={3})
    with pytest.raises(Refused):
        require_settled(agreed, filed, others, others)


@pytest.mark.parametrize(("members", "threshold"), [(4, 3), (5, 4), (7, 5)])
def test_whatever_liars_complain_of_the_disputes_come_to_an_end(members: int, threshold: int) -> None:
    """Each attempt that a dispute ends shows a pair that no attempt before it showed."""
    agreed, most = charter(members, threshold), 0
    for trial in range(200):
        draw = random.Random(trial)
        liars = draw.sample(range(members), members - threshold)
        filed: dict[tuple[int, int], bytes] = {}
        for attempt in range(members * members):
            present = set(range(members)) - set(left_out(agreed, filed.values(), range(members)))
            new = {(liar, draw.choice(sorted(present - {liar}))) for liar in liars if liar in present}
            new |= {(b, a) for a, b in new if draw.random() < 0.5}  # or the others complain of what it sealed
            uploaded = {i for i in present - {author for author, _ in new} if i not in liars or draw.random() < 0.5}
            known = len(filed)
            filed |= {pair: complaint(*pair) for pair in new}
            try:
                require_settled(agreed, filed.values(), tuple(present), uploaded)
            except Refused:
                assert len(filed) > known
            else:
                most = max(most, attempt)
                break
        else:
            raise AssertionError("the disputes never ended")
    assert 1 <= most <= 2 * members
