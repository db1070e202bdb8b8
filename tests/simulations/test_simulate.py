"""A whole run through Ray with a tiny model: what stands in its folder, that it ends, continues and starts over."""

import json
import math
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from cotune.charter.signatures import load_signed
from cotune.cli import app as command
from cotune.conf.compose import compose
from cotune.digest import file_digest
from cotune.errors import UserError
from cotune.privacy.ledger import Ledger
from cotune.release.loading import open_release
from cotune.simulations import simulate
from cotune.simulations.arms import Simulation
from cotune.simulations.consortium import found
from cotune.simulations.corpus import load_corpus
from cotune.simulations.reporting.report import Report
from cotune.simulations.reporting.report_file import read
from cotune.simulations.workspace import open_workspace
from peft import PeftModel
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.slow

MEMBERS = ("north-ward", "south", "west")
EVERY_ARM = "simulation.arms=[base,alone,federated,pooled]"
CACHED = ("model.top_layers=1", "model.cache_features=true", "model.lora.rank=32")


@pytest.fixture(scope="module")
def finished(place: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    """Every arm but TF-IDF, over cached features."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    return run_dir, simulate.run(place.settings(run_dir, EVERY_ARM, *CACHED))


def test_the_report_is_whole(finished: tuple[Path, Report]) -> None:
    run_dir, report = finished
    assert read(run_dir / "report.json") == report
    raw = json.loads((run_dir / "report.json").read_text())
    for name in ("base", "alone_mean", "alone_worst", "federated", "pooled"):
        assert 0 <= raw["arms"][name]["accuracy"] <= 1
        assert raw["arms"][name]["seeds"] == [raw["arms"][name]["accuracy"]]
        assert math.isfinite(raw["arms"][name]["nll"])
    assert (raw["arms"]["tfidf"]["accuracy"], raw["arms"]["tfidf"]["seeds"]) == (None, [])
    assert tuple(sorted(raw["alone"])) == MEMBERS
    assert raw["arms"]["alone_worst"]["accuracy"] == min(arm["accuracy"] for arm in raw["alone"].values())
    assert (raw["test_rows"], raw["generation_rows"], raw["seeds"]) == (24, 24, [1])
    assert [point[0] for point in raw["curves"]["federated"]] == [1, 2]
    assert raw["wall_seconds"] == pytest.approx(sum(raw["wall_seconds_by_phase"].values()))


def test_privacy_is_what_was_planned(finished: tuple[Path, Report]) -> None:
    _, report = finished
    assert report.privacy.enabled
    assert tuple(sorted(report.privacy.by_organization)) == MEMBERS
    assert report.privacy.epsilon_max is not None
    assert 4 < report.privacy.epsilon_max <= 8
    assert report.privacy.delta == pytest.approx(1 / 160)


@pytest.mark.parametrize("name", MEMBERS)
def test_every_home_booked_its_steps(finished: tuple[Path, Report], name: str) -> None:
    run_dir, report = finished
    ledger = Ledger(run_dir / "nodes" / name / "ledger.sqlite")
    ledger.verify()
    (account,) = ledger.statement()
    assert (account.steps, account.charges) == (2, 2)
    assert account.spent_epsilon <= account.budget_epsilon == 8.0
    assert account.spent_epsilon == pytest.approx(report.privacy.by_organization[name])


def test_bytes_on_the_wire(finished: tuple[Path, Report]) -> None:
    """16-bit lanes, four in a word of 64: two bytes a parameter, and the key exchange beside them."""
    wire = finished[1].wire
    assert wire is not None
    assert wire.contributions == 6
    packed = 64 / math.floor(64 / 16) / 8
    assert packed <= wire.bytes_per_parameter <= 1.15 * packed
    assert wire.plain_fp32_ratio == pytest.approx(wire.bytes_per_parameter / 4)


def test_the_picture_is_a_png(finished: tuple[Path, Report]) -> None:
    assert (finished[0] / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_peft_loads_the_release(finished: tuple[Path, Report], place: Any) -> None:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place.model), finished[0] / "release")
    grown = [value for name, value in model.named_parameters() if "lora_B" in name]
    assert grown
    assert any(value.abs().sum() > 0 for value in grown)


def test_the_release_answers(finished: tuple[Path, Report], place: Any, capsys: pytest.CaptureFixture[str]) -> None:
    release = finished[0] / "release"
    chat = open_release(release, place.root / "cache", "cpu", "float32", 4)
    assert len(chat.answer("word3 word4")) == 2
    with pytest.raises(SystemExit) as ended:
        command.main(["chat", str(release), "model.device=cpu", "chat.new_tokens=4", "--prompt", "word3 word4"])
    printed = capsys.readouterr()
    assert not ended.value.code
    assert "base" in printed.out
    assert "tuned" in printed.out


def test_the_release_carries_what_everybody_signed(finished: tuple[Path, Report]) -> None:
    release = finished[0] / "release"
    charter = load_signed(release / "charter.yaml", release / "signatures.json")
    assert tuple(member.name for member in charter.members) == MEMBERS
    forged = release.parent / "forged.yaml"
    forged.write_text((release / "charter.yaml").read_text().replace("rounds: 2", "rounds: 3"))
    with pytest.raises(UserError):
        load_signed(forged, release / "signatures.json")


def test_secrets_stay_where_they_are(finished: tuple[Path, Report], place: Any) -> None:
    """Neither key nor record is in the log, the report, the release or anything of the server's; homes are private."""
    run_dir, _ = finished
    keys = [*run_dir.glob("nodes/*/identity.key"), run_dir / "server" / "coordinator.key"]
    secrets = [line for key in keys for line in key.read_text().splitlines() if "-----" not in line]
    prompts = [json.loads(line)["prompt"] for file in place.files for line in file.read_text().splitlines()]
    secrets += [prompt for prompt in prompts if prompt.count(" ") > 1]
    assert len(secrets) > 40
    shown = [run_dir / "run.log", run_dir / "report.json", *run_dir.glob("release/*"), *run_dir.glob("server/run/**/*")]
    shown += [*run_dir.glob("arms/*.json"), run_dir / "server" / "transcript.bin"]
    for file in filter(Path.is_file, shown):
        content = file.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in content], file
    for home in [*run_dir.glob("nodes/*"), run_dir / "pooled"]:
        assert home.stat().st_mode & 0o077 == 0
        for file in ("identity.key", "records.jsonl", "ledger.sqlite"):
            assert not (home / file).exists() or (home / file).stat().st_mode & 0o077 == 0
        assert not (home / "round.bin").exists()
        assert not (home / "pending.npz").exists()


def test_again_says_that_it_is_finished(
    finished: tuple[Path, Report], place: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, report = finished
    before = _digests(run_dir)
    # How it is computed, and fewer arms, make no other run of it.
    again = simulate.run(place.settings(run_dir, "simulation.arms=[base]", "simulation.workers=1", *CACHED))
    assert again == report
    assert "is finished" in capsys.readouterr().out
    assert {path for path, value in _digests(run_dir).items() if before.get(path) != value} <= {"settings.json"}


def test_another_setting_is_refused_in_one_line(finished: tuple[Path, Report], place: Any) -> None:
    run_dir, _ = finished
    before = _digests(run_dir)
    for words in (["rounds=3"], ["privacy.epsilon=4.0"], ["seed=2"], ["model.lora.alpha=8"]):
        with pytest.raises(UserError, match=words[0].split("=")[0]):
            simulate.run(place.settings(run_dir, EVERY_ARM, *CACHED, *words))
    with pytest.raises(UserError, match="holds a run already"):
        simulate.run(place.settings(run_dir, EVERY_ARM, *CACHED, "simulation.existing=refuse"))
    assert _digests(run_dir) == before


def test_fedavg_then_another_arm_then_fresh_without_privacy(
    place: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One folder: several local steps; an arm asked for later is added; `fresh` starts over with other terms."""
    run_dir = tmp_path / "run"
    fedavg = place.words(run_dir, "strategy=fedavg", "strategy.local_steps=2")
    words = [word for word in fedavg if not word.startswith(("strategy.learning_rate", "simulation.arms"))]
    words.append("privacy.unit='patient [/] [adult]'")
    report = simulate.run(compose([*words, "simulation.arms=[federated]"]))
    assert (report.arms.federated.ran, report.arms.base.ran, report.arms.alone_mean.ran) == (True, False, False)
    assert json.loads((run_dir / "report.json").read_text())["arms"]["base"]["accuracy"] is None
    (account,) = Ledger(run_dir / "nodes" / "south" / "ledger.sqlite").statement()
    assert (account.steps, account.charges) == (4, 2)
    assert account.spent_epsilon <= 8.0
    said = " ".join(capsys.readouterr().out.split())
    assert "epsilon 8.000 at delta 6.3e-03 for each patient [/] [adult], noise multiplier" in said
    assert "unit: patient [/] [adult];" in said
    assert "delta 6.3e-03 is large, since nobody declares more than 16 units" in said
    before = _digests(run_dir / "server" / "run")

    more = simulate.run(compose([*words, "simulation.arms=[base,federated]"]))
    assert more.arms.base.ran
    assert more.arms.federated == report.arms.federated
    assert _digests(run_dir / "server" / "run") == before

    charter = (run_dir / "server" / "charter.yaml").read_text()
    capsys.readouterr()
    plain = simulate.run(place.settings(run_dir, "privacy=none", "simulation.existing=fresh"))
    assert "is large" not in capsys.readouterr().out
    assert (run_dir / "server" / "charter.yaml").read_text() != charter
    assert not plain.privacy.enabled
    assert plain.privacy.epsilon_max is None
    assert plain.privacy.delta is None
    assert plain.arms.federated.ran
    assert (run_dir / "release" / "privacy_statement.json").exists()
    assert not (run_dir / "nodes" / "south" / "ledger.sqlite").exists()


def test_ctrl_c_stops_where_it_continues(place: Any, tmp_path: Path) -> None:
    """SIGINT to the whole process group, as a terminal sends it, behind the first committed round."""
    run_dir, mark = tmp_path / "run", uuid.uuid4().hex
    words = place.words(run_dir, "simulation.arms=[federated]", "rounds=8")
    code = "from cotune.cli.app import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "simulate", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "COTUNE_TEST_MARK": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    rounds = run_dir / "server" / "run" / "rounds"
    _until(lambda: (rounds / "0000").exists() or process.poll() is not None, 150)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "stopped\n"), out
    assert not (run_dir / "report.json").exists()
    committed = sorted(folder.name for folder in rounds.iterdir() if folder.name.isdigit())
    assert committed[0] == "0000"
    assert len(committed) < 8
    _until(lambda: not _marked(mark), 20)
    assert _marked(mark) == []

    before = {name: _digests(rounds / name) for name in committed}
    report = simulate.run(compose(words))
    assert {name: _digests(rounds / name) for name in committed} == before
    assert report.arms.federated.ran
    assert len(list(rounds.iterdir())) == 8
    for name in MEMBERS:
        ledger = Ledger(run_dir / "nodes" / name / "ledger.sqlite")
        ledger.verify()
        (account,) = ledger.statement()
        # The attempt that was cut off sends the same noised vector again, or is the round that was burned.
        assert account.steps == 8
        assert account.spent_epsilon <= 8.0
        assert account.spent_epsilon == pytest.approx(report.privacy.by_organization[name])


def test_a_refusal_of_the_members_is_one_line(place: Any, tmp_path: Path) -> None:
    """Raised on the server's thread, below Flower; it must come up as what it is."""
    run_dir = tmp_path / "run"
    settings = place.settings(run_dir, "simulation.arms=[federated]")
    space = open_workspace(settings)
    found(settings, space, load_corpus(settings))
    for name in MEMBERS[:2]:
        policy = run_dir / "nodes" / name / "policy.yaml"
        policy.write_text(policy.read_text().replace("max_epsilon: 8.0", "max_epsilon: 1.0"))
    with pytest.raises(UserError, match=r"too few members agree .*policy\.epsilon"):
        simulate.run(settings)
    assert not (run_dir / "nodes" / "south" / "ledger.sqlite").exists()


def _digests(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _until(done: Any, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.1)


def _marked(mark: str) -> list[str]:
    """Command lines of living processes that inherited our mark."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120])
        except OSError:
            continue
    return found


def test_ctrl_c_in_the_last_moment_ends_a_study_too(
    place: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is finished, and who called it learns that the person wants no other."""

    def finish(self: Any) -> None:
        self._stop.set()

    monkeypatch.setattr(Simulation, "__init__", lambda self, *given: vars(self).update(_stop=given[3]))
    monkeypatch.setattr(Simulation, "finish", finish)
    with pytest.raises(KeyboardInterrupt):
        simulate.run(place.settings(tmp_path / "run"))
