"""Both secrets of one organization: b hides it as a survivor, the mask secret as a dropout; together they hide nothing.

Attacker: a coordinator with its genuine key that asks twice: once with the victim among the survivors, once without.
Gain without the checks: the victim's vector, shown below. Stopped by `reveal`, which gives one secret of each
organization (`share.both`), by the journal, which keeps the answers to one statement in a round, whatever the attempt
(`journal.conflict`, `plan.burned`), and by the phase, which answers once.
Source: Bonawitz et al. 2017, section 4 (double masking).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from cotune.secagg.coordinator import Coordinator
from cotune.secagg.messages import Reveal, encode_list
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]
VICTIM = 3


def answers(fed: Any, dumps: dict[int, bytes], bundle: bytes, quorum_of: tuple[int, ...]) -> dict[int, Reveal]:
    """What organizations that were restarted from their dumps after P2 reveal for one list of survivors."""
    again = {i: fed.reload(i, dumps[i]) for i in quorum_of}
    signed = tuple(organization.survive(bundle) for organization in again.values())
    context = again[quorum_of[0]].context
    quorum = seal("quorum", encode_list(context, signed), fed.coordinator_key)
    return {i: Reveal.decode(peek(organization.unmask(quorum))[0]) for i, organization in again.items()}


def twice(fed: Any, hostile: Build) -> tuple[Any, dict[int, bytes], bytes, bytes]:
    """Uploads of all four, dumps after P2, the bundle with and without the victim."""
    inboxes = fed.share()
    words = {}
    for i in range(4):
        header, words[i] = fed.organizations[i].mask(inboxes[i], fed.vectors[i])
        assert fed.coordinator.add_upload(i, header, words[i])
    everybody = fed.coordinator.close_uploads()
    dumps = {i: fed.organizations[i].dump() for i in range(4)}
    return words, dumps, everybody, hostile(fed).without("survivors", everybody, VICTIM)


def test_without_a_journal_a_restart_gives_both(federation: Build, hostile: Build, forgetful: Build) -> None:
    fed = federation(4)
    forgetful(fed)
    words, dumps, everybody, fewer = twice(fed, hostile)
    first = answers(fed, dumps, everybody, (0, 1, 2))
    second = answers(fed, dumps, fewer, (0, 1, 2))
    b = hostile(fed).secret({i: dict(reveal.self_shares)[VICTIM] for i, reveal in first.items()})
    mk = hostile(fed).secret({i: dict(reveal.mask_shares)[VICTIM] for i, reveal in second.items()})
    assert np.allclose(hostile(fed).steal(VICTIM, words[VICTIM], b, mk), fed.vectors[VICTIM], atol=1e-4)


def test_with_the_journal_the_second_list_is_refused(federation: Build, hostile: Build, refusal: Build) -> None:
    fed = federation(4)
    _, dumps, everybody, fewer = twice(fed, hostile)
    assert answers(fed, dumps, everybody, (0, 1, 2))
    for i in (0, 1, 2):
        assert refusal(fed.reload(i, dumps[i]).survive, fewer) == "journal.conflict"
    assert answers(fed, dumps, everybody, (0, 1, 2))  # the same answer again is no harm


def test_a_reveal_is_given_once(federation: Build, refusal: Build) -> None:
    fed = federation(4)
    quorum = fed.survive()
    fed.organizations[0].unmask(quorum)
    assert refusal(fed.organizations[0].unmask, quorum) == "phase"
    assert not fed.organizations[0]._state.held


def test_an_altered_dump_reveals_no_second_list(federation: Build, hostile: Build, refusal: Build) -> None:
    """Survivors exchanged in the dump between P3 and P4: the reveal that was signed before is in the journal."""
    fed = federation(4)
    quorum = fed.survive()
    dump = fed.organizations[0].dump()
    fed.organizations[0].unmask(quorum)
    twisted = fed.reload(0, dump)
    twisted._state.survivors = (0, 1, 2)
    assert refusal(twisted.unmask, quorum) == "quorum.stranger"
    assert refusal(twisted.unmask, hostile(fed).without("quorum", quorum, 3)) == "journal.conflict"


def test_both_in_one_message(federation: Build, refusal: Build) -> None:
    both = Reveal(b"s" * 32, 0, ((1, 5), (2, 6)), ((2, 7), (3, 8)))
    assert refusal(Reveal.decode, both.encode()) == "share.both"
    fed = federation(4)
    fed.survive(frozenset({VICTIM}))
    asked = Reveal(fed.organizations[0]._state.statement, 0, ((0, 1), (1, 2), (2, 3), (3, 4)), ())
    assert not fed.coordinator.add_reveal(0, seal("reveal", asked.encode(), fed.keys[0]))
    assert fed.coordinator.rejections[-1].code == "reveal.owners"


def test_over_two_attempts(federation: Build, refusal: Build) -> None:
    """Attempt 0 is left open after P2, attempt 1 runs beside it: whichever is signed first burns the other."""
    fed = federation(3)
    first_bundle = fed.upload()
    first = fed.organizations
    fed.coordinator = Coordinator(fed.roster, fed.plan(attempt=1), fed.coordinator_key)
    known = fed.expected
    fed.expected = lambda **facts: known(**{"last": (1, 0)} | facts)
    second_bundle = fed.upload()
    for i in range(3):
        first[i].survive(first_bundle)
        assert refusal(fed.organizations[i].survive, second_bundle) == "journal.conflict"
    plan = fed.plan(attempt=2).sign(fed.coordinator_key)
    assert refusal(fed.begin, 0, plan) == "plan.burned"


def test_over_two_attempts_keys_are_fresh(federation: Build) -> None:
    """So a mask secret rebuilt in one attempt is no use in another."""
    fed = federation(3)
    fed.advertise()
    secrets = [fed.organizations[i]._state.secrets for i in range(3)]
    fed.coordinator = Coordinator(fed.roster, fed.plan(attempt=1), fed.coordinator_key)
    fed.advertise()
    secrets += [fed.organizations[i]._state.secrets for i in range(3)]
    assert len({part for each in secrets for part in each}) == 18
