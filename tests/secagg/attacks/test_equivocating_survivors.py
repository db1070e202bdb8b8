"""Equivocation: two halves of a cohort are led to sign different survivors.

Attacker: a coordinator with its genuine key and some colluding organizations, who sign anything and give away every
share they hold. Aim: b of the victim from those for whom it survived, its mask secret from those for whom it dropped
out. Both together open its vector. Stopped by t = floor(2n/3) + 1: two quorums need 2t <= n + colluders, because an
honest organization signs one statement in a round (`journal.conflict`).
Limit, shown below: with 2t - n colluders or more the attack works. For n = 4 these are two, for n = 10 four.
Source: Bonawitz et al. 2017, theorem 6.5 and section 6.2.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from cotune.secagg.messages import Reveal, Rooted
from cotune.secagg.plan import least_threshold
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]
VICTIM = 0


class TwoViews:
    """n = 4, t = 3. The victim is told that all survived, organization 1 that the victim dropped out; 3 colludes, and
    2 as well or it believes what the victim believes."""

    def __init__(self, fed: Any, hostile: Build, colluders: tuple[int, ...]) -> None:
        self.fed, self.server, self.colluders = fed, hostile(fed), colluders
        inboxes = fed.share()
        self.uploads = {i: fed.organizations[i].mask(inboxes[i], fed.vectors[i]) for i in range(4)}
        self.held = {i: dict(fed.organizations[i]._state.held) for i in colluders}
        assert all(fed.coordinator.add_upload(i, *upload) for i, upload in self.uploads.items())
        everybody = fed.coordinator.close_uploads()
        self.bundles = (everybody, self.server.without("survivors", everybody, VICTIM))

    def given(self, view: int, honest: tuple[int, ...]) -> list[Reveal]:
        """What honest organizations reveal in one view, with the colluders' signatures as far as they go."""
        signed = {i: self.fed.organizations[i].survive(self.bundles[view]) for i in honest}
        statement = Rooted.decode(peek(next(iter(signed.values())))[0])
        for i in self.colluders:
            signed[i] = seal("survive", Rooted(statement.context, i, statement.root).encode(), self.fed.keys[i])
        quorum = self.server.bundle("quorum", statement.context, *(message for _, message in sorted(signed.items())))
        return [Reveal.decode(peek(self.fed.organizations[i].unmask(quorum))[0]) for i in honest]


def test_two_of_four_and_the_server_read_a_third(federation: Build, hostile: Build) -> None:
    """The limit. What they gain: the vector of an honest organization."""
    views = TwoViews(federation(4), hostile, colluders=(2, 3))
    of_b = {i: held[VICTIM][0] for i, held in views.held.items()}
    of_mk = {i: held[VICTIM][1] for i, held in views.held.items()}
    (first,), (second,) = views.given(0, honest=(VICTIM,)), views.given(1, honest=(1,))
    of_b[VICTIM], of_mk[1] = dict(first.self_shares)[VICTIM], dict(second.mask_shares)[VICTIM]
    b, mk = views.server.secret(of_b), views.server.secret(of_mk)
    stolen = views.server.steal(VICTIM, views.uploads[VICTIM][1], b, mk)
    assert np.allclose(stolen, views.fed.vectors[VICTIM], atol=1e-4)


def test_one_of_four_does_not(federation: Build, hostile: Build, refusal: Build) -> None:
    """Views of two and one honest organizations: the larger one is a quorum, the smaller one is refused."""
    views = TwoViews(federation(4), hostile, colluders=(3,))
    views.given(0, honest=(VICTIM, 2))
    assert refusal(views.given, 1, (1,)) == "quorum.too_few"
    views = TwoViews(federation(4), hostile, colluders=(3,))
    views.given(1, honest=(1, 2))
    assert refusal(views.given, 0, (VICTIM,)) == "quorum.too_few"


def test_an_honest_organization_does_not_sign_both(federation: Build, hostile: Build, refusal: Build) -> None:
    """Asked again from an old dump; without the journal it signs the second view too."""
    for remembers in (True, False):
        fed = federation(4)
        bundle = fed.upload()
        other = hostile(fed).without("survivors", bundle, 3)
        dump = fed.organizations[1].dump()
        signed = fed.organizations[1].survive(bundle)
        if not remembers:
            fed.journals[1] = type(fed.journals[1])()
            assert fed.reload(1, dump).survive(other) != signed
        else:
            assert refusal(fed.reload(1, dump).survive, other) == "journal.conflict"
            assert Rooted.decode(peek(fed.reload(1, dump).survive(bundle))[0]) == Rooted.decode(peek(signed)[0])


def test_the_other_statement_is_not_counted(federation: Build) -> None:
    fed = federation(4)
    bundle = fed.upload()
    own = Rooted.decode(peek(fed.organizations[1].survive(bundle))[0])
    other = seal("survive", Rooted(own.context, 1, b"x" * 32).encode(), fed.keys[1])
    assert not fed.coordinator.add_survival(1, other)
    assert fed.coordinator.rejections[-1].code == "quorum.statement"


def test_two_quorums_share_an_honest_organization() -> None:
    """Below a third of colluders: 2t > n + colluders, for every size."""
    assert all(2 * least_threshold(n) > n + (n - 1) // 3 for n in range(3, 201))
