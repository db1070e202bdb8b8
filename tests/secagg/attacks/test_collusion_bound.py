"""Colluders: how many organizations may help the coordinator before it reads another one's vector.

Attacker: a coordinator with its genuine key and c members that sign whatever they are asked to. It shows half of the
honest members one list of survivors and half of them another, without the victim: each half opens one of the victim's
two secrets, beside the shares that the colluders hold. Gain with c + 1 colluders: the victim's vector, shown below.
Stopped with c, where 2t > n + c: two lists cannot both be signed by t members (`quorum.too_few`), and each honest
member answers to one of them (`journal.conflict`, see test_both_secrets.py). The bound is exact, and the documented
table holds it.
Source: Bonawitz et al. 2017, section 6.2 (double masking against an active server, the condition on t).
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.secagg.messages import Reveal, Rooted, encode_list
from cotune.secagg.plan import least_survivors, least_threshold
from cotune.secagg.refused import Refused
from cotune.secagg.views import read_survivors
from cotune.secagg.wire import peek, seal

Build = Callable[..., Any]
VICTIM = 0
DOCUMENT = Path(__file__).parents[3] / "docs" / "secure-aggregation.md"
_ROW = re.compile(r"^\| (\d+) \| (\d+) \| (\d+) \| (\d+)\b.*\|$", re.MULTILINE)
TABLE = {int(n): (int(t), int(lost), int(c)) for n, t, lost, c in _ROW.findall(DOCUMENT.read_text())}


class Split:
    """The last c organizations collude; the honest ones are shown two lists of survivors.

    Attributes:
        revealed: what the honest members that accepted a list's quorum revealed, for the list with and without the
            victim; refused: the codes of those who did not.
    """

    def __init__(self, fed: Any, hostile: Build, colluders: int) -> None:
        self.fed, self.server = fed, hostile(fed)
        self.colluders = range(fed.n - colluders, fed.n)
        self.honest = range(fed.n - colluders)
        inboxes = fed.share()
        self.headers, self.words = [], []
        for i in range(fed.n):
            header, words = fed.organizations[i].mask(inboxes[i], fed.vectors[i])
            assert fed.coordinator.add_upload(i, header, words)
            self.headers.append(header)
            self.words.append(words)
        self.held = {i: fed.organizations[i]._state.held for i in self.colluders}
        self.revealed: list[dict[int, Reveal]] = []
        self.refused: list[str] = []

    def show(self, first: int) -> None:
        """The list with everybody to so many honest members, the victim among them, the other list to the others."""
        self._open(range(self.fed.n), self.honest[:first])
        self._open(range(1, self.fed.n), self.honest[first:])

    def _open(self, survivors: range, shown: range) -> None:
        fed, context = self.fed, self.fed.organizations[VICTIM].context
        headers = tuple(self.headers[i] for i in survivors)
        bundle = self.server.bundle("survivors", context, *headers)
        view = read_survivors(headers, context, fed.roster.indices, fed.plan(), fed.roster)
        signed = {i: fed.organizations[i].survive(bundle) for i in shown}
        signed |= {i: seal("survive", Rooted(context, i, view.statement).encode(), fed.keys[i]) for i in self.colluders}
        quorum = seal("quorum", encode_list(context, tuple(signed[i] for i in sorted(signed))), fed.coordinator_key)
        answers = {}
        for i in shown:
            try:
                answers[i] = Reveal.decode(peek(fed.organizations[i].unmask(quorum))[0])
            except Refused as no:
                self.refused.append(no.code)
        self.revealed.append(answers)

    def shares(self) -> tuple[dict[int, int], dict[int, int]]:
        """Of the victim's b and of its mask secret, by holder: what was revealed and what the colluders hold."""
        first, second = self.revealed
        selves = {i: dict(reveal.self_shares)[VICTIM] for i, reveal in first.items()}
        masks = {i: dict(reveal.mask_shares)[VICTIM] for i, reveal in second.items()}
        return (
            selves | {i: held[VICTIM][0] for i, held in self.held.items()},
            masks | {i: held[VICTIM][1] for i, held in self.held.items()},
        )


def test_the_table_follows_from_the_thresholds() -> None:
    assert {3, 4, 7, 10} <= set(TABLE)
    for n, (t, lost, c) in TABLE.items():
        assert t == least_threshold(n)
        assert lost == n - max(t, least_survivors(n))
        assert c == 2 * t - n - 1
        assert c < t


@pytest.mark.parametrize("n", [4, 7, 10])
def test_one_more_than_the_table_says_reads_the_victim(federation: Build, hostile: Build, n: int) -> None:
    t, _, c = TABLE[n]
    split = Split(federation(n), hostile, c + 1)
    split.show(t - (c + 1))
    assert not split.refused
    b, mk = (split.server.secret(shares) for shares in split.shares())
    stolen = split.server.steal(VICTIM, split.words[VICTIM], b, mk)
    assert np.allclose(stolen, split.fed.vectors[VICTIM], atol=1e-3)


EVEN = [(n, first) for n in (4, 7, 10) for first in (n - TABLE[n][0], TABLE[n][0] - TABLE[n][2])]


@pytest.mark.parametrize(("n", "first"), EVEN)
def test_as_many_as_the_table_says_open_one_secret_at_most(
    federation: Build, hostile: Build, n: int, first: int
) -> None:
    """Each list needs t - c of the n - c honest members, and in the two most even splits one of them has fewer."""
    t, _, c = TABLE[n]
    split = Split(federation(n), hostile, c)
    split.show(first)
    assert set(split.refused) == {"quorum.too_few"}
    assert min(len(shares) for shares in split.shares()) < t
