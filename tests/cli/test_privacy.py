"""`cotune privacy`: what a budget buys, and what a ledger holds, for people and for programs."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cotune.cli import privacy
from cotune.cli.app import main
from cotune.errors import UserError
from cotune.privacy.accounting import epsilon
from cotune.privacy.adversaries import Event, reserve
from cotune.privacy.anchor import anchor_of
from cotune.privacy.charges import Due
from cotune.privacy.holdings import Holdings
from cotune.privacy.ledger import Ledger
from cotune.privacy.skellam import grid_for
from cotune.privacy.skellam_account import Segment
from cotune.privacy.terms import PrivacyTerms

Say = Callable[..., str]
DATA = Holdings.of([b"d" * 16])
TERMS: dict[str, Any] = {
    "charter": "c0ffee" * 10 + "abcd",
    "attempt": 0,
    "sample_rate": 0.25,
    "steps": 1,
    "delta": 8e-5,
}


def charge(folder: Path, unit: str, run: str, round: int, sigma: float = 0.854, **event: Any) -> None:
    """One charge to the ledger of a node's folder."""
    ledger = Ledger(folder / "ledger.sqlite")
    ledger.reserve([Due(unit, sigma, 8.0)], **({"data": DATA, "run": run, "round": round} | TERMS | event))


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """What a verb prints."""

    def call(verb: Callable[..., None], *given: object, **options: object) -> str:
        capsys.readouterr()
        verb(*given, **options)
        return capsys.readouterr().out

    return call


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A node's folder: three rounds of one run and a second attempt, then another unit of the same data."""
    for number, attempt in ((0, 0), (1, 0), (1, 1), (2, 0)):
        charge(tmp_path, "patient", "5f" * 16, number, attempt=attempt)
    charge(tmp_path, "visit", "60" * 16, 0, sigma=2.0)
    return tmp_path


def test_show_is_the_same_from_a_home_and_from_its_file(home: Path, say: Say) -> None:
    shown = say(privacy.show, home)
    assert say(privacy.show, home / "ledger.sqlite") == shown
    assert Ledger(home / "ledger.sqlite").verify() in shown


def test_show_says_against_whom_shared_noise_is_charged(tmp_path: Path, say: Say) -> None:
    terms = PrivacyTerms(True, "patient", 8.0, 8e-5, 1.2, 1.0, 0.25, 4, 10.0, 0.1, "honest_majority", 10, 3, 1)
    reserve(Ledger(tmp_path / "ledger.sqlite"), terms, Event(DATA, "c" * 64, "5f" * 16, 0, 0), 1, 8.0)
    lines = say(privacy.show, tmp_path).splitlines()
    assert "patient | server + 3 other" in lines[1]
    assert " 8 " in lines[1]
    # The epsilon against all others, and no budget for it.
    assert lines[2].split()[1:4] == ["patient", "8e-05", "none"]
    assert float(lines[2].split()[4]) > float(lines[1].split()[-5])
    assert not any("several units" in line for line in lines)
    assert any("no budget was set against everybody" in line for line in lines)


def test_show_says_what_is_spent_and_how(home: Path, say: Say) -> None:
    shown = say(privacy.show, home)
    lines = shown.splitlines()
    spent = epsilon([(0.854, 0.25, 4)], 8e-5)
    patient = lines[1].split()
    assert patient[:4] == [DATA.name[:12], "patient", "8e-05", "8"]
    # Never less than was spent, never more than is left.
    assert spent <= float(patient[4]) <= spent + 0.001
    assert 8 - spent - 0.001 <= float(patient[5]) <= 8 - spent
    assert patient[6:] == ["prv", "4", "4"]
    assert "charged under several units" in shown
    charges = [line.split() for line in lines if line.startswith("20") and "5f5f5f5f5f5f" in line]
    assert [row[3] for row in charges] == ["1", "2", "2.2", "3"]
    assert all(row[1] == "c0ffeec0ffee" for row in charges)
    after = [epsilon([(0.854, 0.25, steps)], 8e-5) for steps in (1, 2, 3, 4)]
    assert [float(row[-1]) for row in charges] == pytest.approx(after, abs=0.001)
    # Fifteen steps of this noise fit into epsilon 8 (test_accounting.py).
    assert "11 more steps fit at noise 0.854 and rate 0.25" in shown


def test_show_for_programs_has_every_number_in_full(home: Path, say: Say) -> None:
    shown = json.loads(say(privacy.show, home, as_json=True))
    ledger = Ledger(home / "ledger.sqlite")
    assert shown["head"] == ledger.verify()
    patient, visit = shown["accounts"]
    assert (patient["unit"], visit["unit"]) == ("patient", "visit")
    assert patient["spent_epsilon"] == ledger.spent(DATA, "patient", 8e-5)
    assert patient["left_epsilon"] == 8.0 - patient["spent_epsilon"]
    assert patient["rdp_epsilon"] >= patient["spent_epsilon"]
    assert [row["round"] for row in patient["charges"]] == [0, 1, 1, 2]
    assert patient["charges"][0]["charter"] == TERMS["charter"]
    assert len(visit["charges"]) == 1


@pytest.fixture
def kin(home: Path) -> Holdings:
    """A data set with a record more, charged with one round in the same home."""
    data = Holdings.of([b"d" * 16, b"e" * 16])
    charge(home, "patient", "61" * 16, 0, data=data)
    return data


def test_show_says_whose_charges_count_too(home: Path, kin: Holdings, say: Say) -> None:
    charge(home, "patient", "62" * 16, 0, data=Holdings.of([b"f" * 16]))
    lines = say(privacy.show, home).splitlines()
    accounts = {tuple(line.split()[:2]): line.split() for line in lines[1:5]}
    for name in (DATA.name, kin.name):
        # Five steps in either account, and each charge printed once, in its own.
        assert accounts[(name[:12], "patient")][-2:] == ["5", "5"]
    assert accounts[(Holdings.of([b"f" * 16]).name[:12], "patient")][-2:] == ["1", "1"]
    assert [line for line in lines if line.endswith(f"count here too: 1 record with {kin.name[:12]}")]
    assert [line for line in lines if line.endswith(f"count here too: 1 record with {DATA.name[:12]}")]
    assert sum("616161616161" in line for line in lines) == 1
    assert sum("several units" in line for line in lines) == 2
    assert sum("10 more steps fit at noise 0.854 and rate 0.25" in line for line in lines) == 2
    shown = json.loads(say(privacy.show, home, as_json=True))["accounts"]
    assert [account["kin"] for account in shown if account["unit"] == "patient"] == [
        [{"data_set": kin.name, "shared": {"records": 1, "ids": 0}}],
        [{"data_set": DATA.name, "shared": {"records": 1, "ids": 0}}],
        [],
    ]
    assert [(account["composed"], len(account["charges"])) for account in shown] == [(5, 4), (1, 1), (5, 1), (1, 1)]


def test_show_names_kin_under_another_unit_where_releases_add_up_and_not_where_they_count(
    tmp_path: Path, say: Say
) -> None:
    other = Holdings.of([b"d" * 16, b"e" * 16])
    charge(tmp_path, "patient", "5f" * 16, 0)
    charge(tmp_path, "visit", "60" * 16, 0, data=other)
    lines = say(privacy.show, tmp_path).splitlines()
    assert not any("count here too" in line for line in lines)
    for one, two in ((DATA, other), (other, DATA)):
        (found,) = [line for line in lines if line.startswith(f"data set {one.name[:12]} and {two.name[:12]}, which")]
        assert found.endswith("are charged under several units: what was released adds up")
    # A third under the first one's unit counts in its account alone.
    third = Holdings.of([b"d" * 16, b"x" * 16])
    charge(tmp_path, "patient", "61" * 16, 0, data=third)
    lines = say(privacy.show, tmp_path).splitlines()
    assert sorted(line.rpartition(": ")[2] for line in lines if "count here too" in line) == sorted(
        f"1 record with {name[:12]}" for name in (third.name, DATA.name)
    )
    assert sum("several units" in line for line in lines) == 3


def test_plan_takes_the_charges_of_kin_in(home: Path, kin: Holdings, say: Say) -> None:
    given = [
        "privacy.epsilon=20",
        "privacy.delta=1.2e-4",
        "privacy.sample_rate=0.25",
        "data.units_per_organization=800",
    ]
    account = {"home": home, "unit": "patient", "data_set": kin.name}
    (found,) = options(say(privacy.plan, given, sigma=[0.854], as_json=True, **account))
    assert found["rounds"] == 10
    assert found["epsilon_before"] == epsilon([(0.854, 0.25, 5)], 8e-5)


def test_show_of_an_empty_ledger(tmp_path: Path, say: Say) -> None:
    Ledger(tmp_path / "ledger.sqlite")
    assert len(say(privacy.show, tmp_path).splitlines()) == 3


def test_a_units_name_cannot_bring_terminal_codes(tmp_path: Path, say: Say) -> None:
    charge(tmp_path, "\x1b[2Jpatient", "r", 0)
    assert "\x1b" not in say(privacy.show, tmp_path)


def test_no_ledger_is_one_line_and_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no ledger"):
        privacy.show(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_run_is_answered_with_one_of_its_nodes(home: Path, tmp_path: Path) -> None:
    node = tmp_path / "run" / "nodes" / "alder"
    node.mkdir(parents=True)
    (node / "ledger.sqlite").write_bytes((home / "ledger.sqlite").read_bytes())
    with pytest.raises(UserError, match=r"such as .*nodes/alder"):
        privacy.show(tmp_path / "run")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    (fresh / "policy.yaml").touch()
    with pytest.raises(UserError, match="nothing was spent from here"):
        privacy.show(fresh)


def test_a_ledger_that_was_put_back_is_one_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(home / "ledger.sqlite", home / "old")
    charge(home, "visit", "61", 0)
    shutil.copy(home / "old", home / "ledger.sqlite")
    with pytest.raises(SystemExit) as ended:
        main(["privacy", "show", str(home)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
    anchor_of(home / "ledger.sqlite").unlink()
    with pytest.raises(UserError, match="head file"):
        privacy.show(home)


def options(printed: str) -> list[dict[str, Any]]:
    return list(json.loads(printed)["options"])


def test_plan_offers_noise_for_rounds_within_the_budget(say: Say) -> None:
    given = ["privacy.epsilon=3", "privacy.delta=1e-5", "privacy.sample_rate=0.1", "rounds=8"]
    found = options(say(privacy.plan, [*given, "data.units_per_organization=500"], as_json=True))
    assert [one["rounds"] for one in found] == [2, 4, 8, 16, 32]
    noises = [one["noise_multiplier"] for one in found]
    assert noises == sorted(noises)
    for one in found:
        reached = epsilon([(one["noise_multiplier"], 0.1, one["steps"])], 1e-5)
        assert one["epsilon_reached"] == reached <= 3.0 <= one["epsilon_rdp"] + 1.0
        assert one["noise_per_unit"] == pytest.approx(one["noise_multiplier"] / 50)


def test_plan_has_room_for_personal_steps(say: Say) -> None:
    given = ["privacy.epsilon=3", "privacy.delta=1e-5", "privacy.sample_rate=0.1", "data.units_per_organization=500"]
    found = options(say(privacy.plan, [*given, "rounds=8", "personal_steps=3"], as_json=True))
    assert [(one["rounds"], one["steps"]) for one in found] == [(n, n + 3) for n in (2, 4, 8, 16, 32)]
    without = options(say(privacy.plan, [*given, "rounds=11"], sigma=[found[2]["noise_multiplier"]], as_json=True))
    with_three = options(
        say(privacy.plan, [*given, "personal_steps=3"], sigma=[found[2]["noise_multiplier"]], as_json=True)
    )
    assert [one["rounds"] for one in (*without, *with_three)] == [11, 8]


def test_plan_offers_rounds_for_a_noise(say: Say) -> None:
    given = ["privacy.epsilon=8", "privacy.delta=8e-5", "data.units_per_organization=800"]
    found = options(say(privacy.plan, given, sigma=[0.854, 0.1], batch=200.0, as_json=True))
    assert [one["rounds"] for one in found] == [15, 0]
    assert found[0]["sample_rate"] == 0.25
    assert found[0]["expected_batch"] == 200.0
    assert found[1]["epsilon_reached"] == 0.0


def test_plan_by_default_protects_at_a_tenth_of_one_over_the_units(say: Say) -> None:
    found = options(say(privacy.plan, ["data.units_per_organization=400"], sigma=[5.0], as_json=True))
    assert found[0]["delta"] == 1 / 4000


def test_plan_keeps_the_budget_in_every_line_of_a_sweep(say: Say) -> None:
    lines = say(privacy.plan, ["privacy.epsilon=3,8"], multirun=True).splitlines()
    rows = [line.split() for line in lines[1:3]]
    assert [float(row[0]) for row in rows] == [3, 8]
    assert all(float(row[8]) <= float(row[0]) < float(row[9]) for row in rows)
    assert float(rows[0][7]) > float(rows[1][7])


def test_plan_with_noise_on_integers_asks_for_their_number(say: Say) -> None:
    given = ["privacy.epsilon=3", "privacy.delta=1e-5", "privacy.sample_rate=0.1", "rounds=8"]
    given.append("privacy.max_grad_norm=1")
    (plain, *_) = options(say(privacy.plan, given, sigma=[1.0], as_json=True))
    (found, *_) = options(say(privacy.plan, [*given, "privacy.mechanism=skellam"], parameters=50_000, as_json=True))
    grid = grid_for(math.sqrt(1.03), 50_003)
    assert found["method"] == "rdp"
    assert (
        found["epsilon_reached"] == epsilon([Segment(grid, found["noise_multiplier"], 0.1, found["steps"])], 1e-5) <= 3
    )
    for wrong in (None, 0):
        with pytest.raises(UserError, match="--parameters"):
            say(privacy.plan, [*given, "privacy.mechanism=skellam"], parameters=wrong)
    # Gaussian noise does not ask.
    assert plain == options(say(privacy.plan, given, sigma=[1.0], parameters=50_000, as_json=True))[0]


def test_plan_goes_on_from_a_ledger(home: Path, say: Say) -> None:
    given = ["privacy.epsilon=20", "privacy.delta=1.2e-4", "privacy.sample_rate=0.25"]
    units = "data.units_per_organization=800"
    found = options(say(privacy.plan, [*given, units], sigma=[0.854], home=home, unit="patient", as_json=True))
    # The ledger's budget of 8 and its delta hold, and four of the fifteen rounds are gone.
    assert (found[0]["epsilon"], found[0]["delta"], found[0]["rounds"]) == (8.0, 8e-5, 11)
    assert found[0]["epsilon_before"] == epsilon([(0.854, 0.25, 4)], 8e-5)
    assert found[0]["epsilon_reached"] == epsilon([(0.854, 0.25, 15)], 8e-5)
    assert "is spent already" in say(
        privacy.plan, [*given, units], sigma=[2.0], home=home, data_set=DATA.name[:2], unit="visit"
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["privacy=none"], "no budget"),
        (["data=files", "data.files=[a,b,c]", "data.test_file=t"], "number of units"),
        (["--sigma", "0"], "--sigma is 0"),
        (["--sigma", "nan"], "--sigma is nan"),
        (["--batch", "-1"], "--batch is -1"),
        (["--batch", "1e9"], "more than"),
        (["--unit", "patient"], "--home"),
        (["privacy.epsilon=-1"], "privacy.epsilon"),
        (["--home", "/nowhere"], "no ledger"),
        (["--sigma", "many"], "many"),
    ],
)
def test_bad_input_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["privacy", "plan", *words])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert said in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_ledger_with_several_accounts_asks_which(home: Path) -> None:
    with pytest.raises(UserError, match=r"patient.*visit"):
        privacy.plan([], home=home)
    with pytest.raises(UserError, match="--unit"):
        privacy.plan([], home=home, data_set="no such")
