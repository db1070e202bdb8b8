"""What a home's files say about each other; through whole rounds: `tests/federation/test_files_put_back.py`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.client.chains import Chain
from cotune.client.consistency import belongs, may_have_left, require_whole
from cotune.client.home import NodeHome
from cotune.client.pending import Pending
from cotune.errors import UserError
from cotune.secagg.encoding import Encoding
from cotune.secagg.journal import FileJournal
from cotune.secagg.plan import Plan

RUN = b"r" * 16
PLAN = Plan(
    RUN, 2, 1, b"o" * 32, (0, 1, 2), 3, 3, b"m" * 32, b"s" * 32, b"d" * 32, Encoding(((9, 1.0),), 3, 16), 9, RUN * 2
)
PENDING = Pending(RUN.hex(), 2, 1, (b"m" * 32).hex(), (b"s" * 32).hex(), np.zeros(9))


@pytest.fixture
def home(tmp_path: Path) -> NodeHome:
    return NodeHome.create(tmp_path / "home")


@pytest.fixture
def journal(home: NodeHome) -> FileJournal:
    return FileJournal(home.journal)


def test_a_new_home_and_a_run_that_was_only_begun_are_whole(home: NodeHome, journal: FileJournal) -> None:
    require_whole(home, journal)
    home.set_chain(Chain(RUN.hex(), "ab"))
    require_whole(home, journal)


def test_the_journal_may_be_ahead_and_never_behind(home: NodeHome, journal: FileJournal) -> None:
    journal.record(RUN, 2, 1, "advert", b"a" * 32)
    for place in ((-1, -1), (1, 7), (2, 0), (2, 1)):
        home.set_chain(Chain(RUN.hex(), "ab", *place))
        require_whole(home, journal)
    for place in ((2, 2), (3, 0)):
        home.set_chain(Chain(RUN.hex(), "ab", *place))
        with pytest.raises(UserError, match=rf"journal: round {place[0] + 1} attempt {place[1] + 1} of run 7272"):
            require_whole(home, journal)


def test_every_run_that_was_signed_in_has_a_chain(home: NodeHome, journal: FileJournal) -> None:
    home.set_chain(Chain((b"x" * 16).hex(), "ab"))
    journal.record(RUN, 0, 0, "advert", b"a" * 32)
    with pytest.raises(UserError, match=r"chains.json: run 727272727272, in which this node signed, is not in it"):
        require_whole(home, journal)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"attempt": 0}, True),
        ({"run": "ab" * 16}, False),
        ({"round": 1}, False),
        ({"model_hash": "ab" * 32}, False),
        ({"charter": "ab" * 32}, False),
    ],
)
def test_a_contribution_belongs_to_run_round_model_and_charter(change: dict[str, Any], expected: bool) -> None:
    assert belongs(replace(PENDING, **change), PLAN) is expected


def test_what_an_upload_was_signed_for_may_have_left(journal: FileJournal) -> None:
    journal.record(RUN, 2, 0, "upload", b"a" * 32)
    journal.record(RUN, 3, 5, "upload", b"a" * 32)
    assert not may_have_left(PENDING, journal)
    journal.record(RUN, 2, 4, "complaint", b"a" * 32)
    assert not may_have_left(PENDING, journal)
    journal.record(RUN, 2, 3, "upload", b"a" * 32)
    assert may_have_left(PENDING, journal)


def test_chains_alone_that_came_back_from_the_round_before_are_noticed(home: NodeHome, journal: FileJournal) -> None:
    home.set_chain(Chain(RUN.hex(), "ab"))
    for number, kind in enumerate(("advert", "shares", "upload", "survive", "reveal")):
        require_whole(home, journal)  # killed before it answered: a line more, in as many attempts
        journal.record(RUN, 2, number if kind == "advert" else 0, kind, b"a" * 32)
    with pytest.raises(UserError, match=r"chains.json: it is older than the round journal beside it"):
        require_whole(home, journal)
    home.set_chain(Chain(RUN.hex(), "ab", 2, 0, signed=journal.size()))
    require_whole(home, journal)
