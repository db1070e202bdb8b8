"""A node whose ledger and head file were both put back remembers its rounds by its journal and chain, and stops."""

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
from cotune.client import home as homes
from cotune.enrollment import home as enrolled
from cotune.privacy.anchor import anchor_of
from cotune.privacy.ledger import Ledger, LedgerBroken


@pytest.mark.parametrize("remembered", ["chain and journal", "journal"])
def test_a_ledger_put_back_with_its_head_is_found_by_the_rounds_it_lacks(found: Callable, remembered: str) -> None:
    federation = found(rounds=2)
    home, plans = federation.homes[0], []

    def before(kind, member, message):
        if kind == "train.round" and member == 0:
            plans.append(kind)
            if len(plans) == 2:
                for file in (home.ledger, anchor_of(home.ledger)):
                    file.unlink()
                if remembered == "journal":
                    home.set_chain(replace(home.chain(), round=-1, attempt=-1))
        return message

    federation.grid.before = before
    run = federation.run()
    # The first round was joined; in the second the node refuses and the others go on without it.
    assert run.load(0).survivors == ("alder", "birch", "cedar", "dogwood")
    assert run.load(1).survivors == ("birch", "cedar", "dogwood")
    assert Ledger(home.ledger).charges() == []
    assert "no charge for round 1" in home.log.read_text()
    assert len(federation.charges(1)) == 2


def test_an_older_database_alone_stops_the_node(found: Callable) -> None:
    federation = found(rounds=2)
    home, plans = federation.homes[0], []

    def before(kind, member, message):
        if kind == "train.round" and member == 0:
            plans.append(kind)
            if len(plans) == 2:
                shutil.copy(home.path / "old", home.ledger)
        return message

    Ledger(home.ledger)
    shutil.copy(home.ledger, home.path / "old")
    federation.grid.before = before
    run = federation.run()
    assert run.load(1).survivors == ("birch", "cedar", "dogwood")
    assert "rolled back: 1 of its 1 charges" in home.log.read_text()
    with pytest.raises(LedgerBroken):
        Ledger(home.ledger).charges()


def test_every_file_of_a_home_is_in_its_description(found: Callable) -> None:
    """What must be in a backup, or must not be, is decided by that list."""
    federation = found(rounds=1)
    seen: set[str] = set()

    def after(kind, member, message):
        seen.update(file.name for file in federation.homes[0].path.iterdir())
        return message

    federation.grid.after = after
    federation.run()
    described = (*str(enrolled.__doc__).splitlines()[2:], *str(homes.__doc__).splitlines()[2:])
    listed = {line.split(" ")[0].rstrip("/") for line in described}
    assert {"pending.npz", "round.bin", "chains.json", "journal"} <= seen
    assert seen - {"records.jsonl"} <= listed  # the records are where its policy says
