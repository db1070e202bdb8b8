"""Several runs of a charter, several histories of a run: no head is forgotten, no more runs than allowed are begun."""

import json
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cotune.charter import policy as policies
from cotune.charter.refusal import Refusal
from cotune.client import participation
from cotune.client.chains import Chain
from cotune.errors import UserError
from cotune.secagg.organization import Organization
from cotune.secagg.plan import Plan
from cotune.secagg.record import RoundRecord, genesis, next_head, verify
from cotune.secagg.refused import Refused
from cotune.secagg.wire import peek

RUN, OTHER, THIRD = b"r" * 16, b"o" * 16, b"t" * 16


def allow_runs(federation: Any, number: int) -> None:
    for home in federation.homes:
        policies.save(policies.load(home.policy).model_copy(update={"max_runs": number}), home.policy)


def fork(federation: Any, record: bytes, previous: bytes) -> bytes:
    """Another end of the same round, signed by the coordinator: a false result under the members' own signatures."""
    run = Plan.open(RoundRecord.decode(peek(record)[0]).plan, federation.charter.roster()).run
    true, result = verify(record, federation.charter.roster(), run, previous), b"x" * 32
    head = next_head(previous, true.ctx2, true.survivors, tuple(true.roots.values()), result)
    return replace(true.record, result=result, head=head).sign(federation.key)


def test_another_run_does_not_make_a_node_take_a_history_again(found: Callable, caplog: Any) -> None:
    federation = found(rounds=2, enabled=False)
    allow_runs(federation, 2)
    run = federation.run()
    home, records = federation.homes[0], run.records(-1)
    chain = home.chain()
    start = genesis(run.run_id, federation.charter.roster())
    federation.begin(OTHER)
    assert home.chain().run == OTHER.hex()
    with pytest.raises(Refusal, match="do not end at the head held here"):
        federation.told(run, (fork(federation, records[0], start),))
    assert home.chain(run.run_id.hex()) == chain
    assert "it may be a fork" in caplog.text
    with pytest.raises(Refused, match=r"plan\.replay"):
        federation.begin(run.run_id)
    federation.told(run, records)
    assert home.chain(run.run_id.hex()) == chain
    assert home.chain(OTHER.hex()).head == genesis(OTHER, federation.charter.roster()).hex()


def test_a_forked_record_is_told_once_and_an_old_one_is_not(found: Callable, caplog: Any) -> None:
    federation = found(rounds=2, enabled=False)
    run = federation.run()
    home, records = federation.homes[0], run.records(-1)
    caplog.set_level(logging.WARNING, "cotune.client")
    caplog.clear()
    for old in (records, records[1:]):
        federation.told(run, old)
    assert not caplog.records
    chain = home.chain()
    forked = fork(federation, records[1], bytes.fromhex(chain.seen[0]))
    for shown in ((forked,), (*records, forked)):
        caplog.clear()
        with suppress(Refusal):
            federation.told(run, shown)
        assert [message.levelname for message in caplog.records] == ["WARNING"]
        assert "from round 2 on" in caplog.text
    assert home.chain() == chain


def test_a_member_that_comes_late_takes_the_run_up_from_its_records(found: Callable) -> None:
    federation = found(rounds=2)
    run = federation.run()
    home = federation.homes[0]
    for file in ("chains.json", "model.bin", "journal", "ledger.sqlite", "ledger.sqlite.head"):
        (home.path / file).unlink()
    federation.told(run, run.records(-1))
    assert home.chain().head == run.last().head
    assert home.model()[48:] == run.last().model.encode()


def test_a_run_that_is_one_too_many_is_not_taken_up_from_its_records(found: Callable) -> None:
    federation = found(rounds=1)
    run = federation.run()
    home = federation.homes[0]
    home.set_chain(Chain(THIRD.hex(), "cd" * 32, charter=federation.charter.digest()))
    kept = json.loads((home.path / "chains.json").read_text())
    (home.path / "chains.json").write_text(json.dumps(kept[1:]))
    home.journal.write_bytes(b"")
    with pytest.raises(Refusal) as no:
        federation.told(run, run.records(-1))
    assert no.value.code == "policy.runs"
    assert list(home.chains()) == [THIRD.hex()]


def test_runs_of_a_charter_are_bounded_by_the_policy(found: Callable) -> None:
    federation = found(rounds=4)
    home = federation.homes[0]
    home.journal.touch(0o600)
    home.set_chain(Chain(THIRD.hex(), "cd" * 32, charter="ef" * 32))  # of an earlier charter
    federation.begin(RUN)
    before = (home.chains(), home.pending().contribution.tobytes(), home.round_secrets())
    with pytest.raises(Refusal) as no:
        federation.begin(OTHER)
    assert no.value.code == "policy.runs"
    assert len(federation.charges(0)) == 1
    assert (home.chains(), home.pending().contribution.tobytes(), home.round_secrets()) == before
    federation.begin(RUN, attempt=1)
    allow_runs(federation, 2)
    federation.begin(OTHER)
    with pytest.raises(Refusal, match="the policy allows 2"):
        federation.begin(b"u" * 16)
    assert len(federation.charges(0)) == 2


def test_a_second_run_of_the_charter_is_refused(found: Callable) -> None:
    federation = found(rounds=1)
    federation.run()
    federation.folder = federation.folder.with_name("again")
    with pytest.raises(UserError, match="too few members agree"):
        federation.run()
    assert set(federation.refusals()) == {"policy.runs"}


def test_a_second_run_of_the_charter_is_over_budget(found: Callable) -> None:
    federation = found(rounds=2)
    allow_runs(federation, 2)
    federation.run()
    spent = [charge.digest for charge in federation.charges(0)]
    federation.folder = federation.folder.with_name("again")
    with pytest.raises(UserError, match="too few members agree"):
        federation.run()
    assert set(federation.refusals()) == {"ledger.budget"}
    assert [charge.digest for charge in federation.charges(0)] == spent
    assert federation.homes[0].pending() is None


def rewrite(federation: Any, edit: Callable[[int, dict[str, str]], None]) -> None:
    """Change each row of each organization's file, and start a run anew."""
    for home in federation.homes:
        rows = [json.loads(line) for line in (home.path / "records.jsonl").read_text().splitlines()]
        for number, row in enumerate(rows):
            edit(number, row)
        (home.path / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    participation._BENCHES.clear()
    federation.folder = federation.folder.with_name("again")


def name_columns(federation: Any, **columns: str) -> None:
    for home in federation.homes:
        policy = policies.load(home.policy)
        columns = {"prompt": "prompt", "answer": "answer"} | columns
        policies.save(policy.model_copy(update={"columns": policies.Columns(**columns)}), home.policy)


def one_row_left(number: int, row: dict[str, str]) -> None:
    row["prompt"] += " word8" * (number > 0)


def one_patient_left(number: int, row: dict[str, str]) -> None:
    row["prompt"] += " word8"
    row["unit"] = row["unit"] if number == 4 else f"new{number}"


def recoded(number: int, row: dict[str, str]) -> None:
    row["answer"] += "."


@pytest.mark.parametrize("edit", [one_row_left, one_patient_left, recoded])
def test_a_second_run_on_edited_records_is_over_budget(found: Callable, edit: Callable) -> None:
    """One row left as it was, or no row and one patient, or no answer: still the budget of the run before."""
    federation = found(rounds=2)
    allow_runs(federation, 2)
    name_columns(federation, **({"unit": "unit"} if edit is one_patient_left else {}))
    federation.run()
    spent = [charge.digest for charge in federation.charges(0)]
    rewrite(federation, edit)
    with pytest.raises(UserError, match="too few members agree"):
        federation.run()
    assert set(federation.refusals()) == {"ledger.budget"}
    assert [charge.digest for charge in federation.charges(0)] == spent
    assert "on 2 data sets that share records" in federation.homes[0].log.read_text()


def test_a_data_set_that_shares_nothing_is_said_once_in_the_nodes_own_log(found: Callable) -> None:
    federation = found(rounds=2)
    allow_runs(federation, 2)
    name_columns(federation)
    federation.run()
    first, log = federation.charges(0)[0].data_set, federation.homes[0].log
    assert "account of its own" not in log.read_text()
    rewrite(federation, lambda number, row: row.update(prompt=f"word8 {row['prompt']}"))
    federation.run()
    second = federation.charges(0)[-1].data_set
    assert second != first
    (line,) = [line for line in log.read_text().splitlines() if "account of its own" in line]
    assert f"data set {second[:12]} shares no record or unit id with the 1 data sets charged before" in line
    assert "word8" not in log.read_text()


def test_a_forked_transcript_is_refused_and_the_others_go_on(found: Callable) -> None:
    federation = found(rounds=2)

    def after(kind: str, member: int, message: Any) -> Any:
        if kind == "query.reveal" and member == 1 and federation.homes[1].chain().round == 0:
            chain = federation.homes[1].chain()
            federation.homes[1].set_chain(replace(chain, head="ab" * 32))
        return message

    federation.grid.after = after
    run = federation.run()
    assert run.load(1).survivors == ("alder", "cedar", "dogwood")
    # After its own round and with the record of the next: from a history that it does not hold it goes nowhere.
    assert federation.refusals("query.record") == ["record.head"] * 3
    assert federation.homes[1].log.read_text().count("it may be a fork") == 3


def test_an_attempt_that_was_charged_is_not_trained_a_second_time(found: Callable, monkeypatch: Any) -> None:
    """Killed after the contribution was written and before anything was signed: it must find no second one."""
    federation = found(rounds=4)
    home = federation.homes[0]

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Organization, "begin", killed)
        with pytest.raises(KeyboardInterrupt):
            federation.begin(RUN)
    first = home.pending()
    home.set_pending(replace(first, model_hash="ab" * 32))
    with pytest.raises(Refusal) as no:
        federation.begin(RUN)
    assert no.value.code == "round.pending"
    assert len(federation.charges(0)) == 1
    home.set_pending(first)
    federation.begin(RUN)
    np.testing.assert_array_equal(home.pending().contribution, first.contribution)
    assert len(federation.charges(0)) == 1
    assert "contribution" not in repr(home.pending())
