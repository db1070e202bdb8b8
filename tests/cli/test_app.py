"""The command as a person meets it: quick help, one-line errors, exit codes, and nothing heavy imported for either."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer
from cotune import __version__
from cotune.cli import app as command
from cotune.cli import runs
from cotune.errors import UserError
from cotune.offline import OFFLINE, go_offline
from cotune.secagg import kernel

Ran = tuple[int, str, str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    for name in OFFLINE:
        # So that what `main` sets is undone after the test.
        monkeypatch.setenv(name, "kept")

    def call(*words: str) -> Ran:
        with pytest.raises(SystemExit) as ended:
            command.main(list(words))
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return call


def test_version(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("version") == (0, f"cotune {__version__}\n{kernel.described()}\n", "")
    monkeypatch.setattr(kernel, "add_stream", print)
    monkeypatch.setattr(kernel, "hash_pair", None)
    assert run("version")[1].endswith("\nmasks by the compiled loop, hashes by OpenSSL\n")


def test_help_names_every_verb(run: Callable[..., Ran]) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for verb in ("demo", "simulate", "study", "chat", "privacy", "keys", "charter", "version"):
        assert verb in out


@pytest.mark.parametrize("words", [(), ("charter",)])
def test_without_a_verb_the_help_is_shown(run: Callable[..., Ran], words: tuple[str, ...]) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert "\nCommands:\n" in err
    assert not err.startswith("error")


def test_user_error_is_one_line_and_exit_code_2(run: Callable[..., Ran]) -> None:
    code, out, err = run("simulate", "privacy.epsilom=3")
    assert (code, out) == (2, "")
    assert err == "error: unknown key privacy.epsilom: did you mean privacy.epsilon?\n"


@pytest.mark.parametrize(("typed", "meant"), [("simulat", "'simulate'"), ("chart", "'chat', 'charter'")])
def test_a_misspelt_verb_is_suggested_once(typed: str, meant: str, run: Callable[..., Ran]) -> None:
    assert run(typed)[2] == f"error: No such command '{typed}'. Did you mean {meant}?: see cotune --help\n"


def test_a_missing_argument_points_to_the_help_of_its_verb(run: Callable[..., Ran]) -> None:
    assert run("chat")[2] == "error: Missing argument 'DIR': see cotune chat --help\n"


@pytest.mark.parametrize("words", [("nonsense",), ("simulate", "--nonsense"), ("chat",), ("keys", "old")])
def test_wrong_usage_is_one_line_and_exit_code_2(run: Callable[..., Ran], words: tuple[str, ...]) -> None:
    code, _, err = run(*words)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_debug_shows_the_traceback() -> None:
    for words in (["--debug", "simulate", "no.key=1"], ["simulate", "no.key=1", "--debug"]):
        with pytest.raises(UserError, match=r"no\.key"):
            command.main(words)


def test_interrupt_is_one_line_and_130(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*words: object, **options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "app", interrupted)
    assert run("version") == (130, "", "stopped\n")


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = typer.Typer(pretty_exceptions_enable=False)

    @broken.command()
    def fails() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(command, "app", broken)
    with pytest.raises(ZeroDivisionError):
        command.main([])


def test_an_error_of_several_lines_becomes_one(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*words: object, **options: object) -> int:
        raise UserError("first\nsecond", "mend\nit")

    monkeypatch.setattr(command, "app", fails)
    assert run("version") == (2, "", "error: first second: mend it\n")


def test_demo_is_the_hospitals_unless_another_experiment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _record_runs(monkeypatch)
    runs.demo(["rounds=2"])
    runs.demo(["experiment=law_firms"])
    assert [(settings.data.corpus, settings.rounds == 2) for settings in seen] == [("icd10", True), ("clauses", False)]


def test_simulate_runs_one_or_with_m_each(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _record_runs(monkeypatch)
    runs.simulate(["seed=5"], multirun=False)
    runs.simulate(["seed=1,2,3"], multirun=True)
    assert [settings.seed for settings in seen] == [5, 1, 2, 3]
    with pytest.raises(UserError, match="add -m"):
        runs.simulate(["seed=1,2"], multirun=False)


def test_nothing_runs_where_one_point_of_a_sweep_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _record_runs(monkeypatch)
    with pytest.raises(UserError):
        runs.simulate(["privacy.epsilon=8,0"], multirun=True)
    assert seen == []


def test_offline_keeps_what_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OFFLINE:
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    go_offline()
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.parametrize("words", [["--help"], ["version"], ["privacy", "--help"], ["simulate", "seed=x"]])
def test_quick_verbs_import_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom cotune.cli.app import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'flwr', 'ray', 'transformers', 'peft', 'opacus', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_help_is_quick() -> None:
    """Under a second of processor time; elapsed time would measure what else the machine does."""
    code = "import resource, subprocess, sys\n" + (
        "subprocess.run([sys.executable, '-c', 'from cotune.cli.app import main; main([\"--help\"])'],"
        " stdout=subprocess.DEVNULL, check=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\nprint(used.ru_utime + used.ru_stime)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout) < 1.0


def _record_runs(monkeypatch: pytest.MonkeyPatch) -> list:
    """Replace the simulations room by one that only remembers what it was asked to run."""
    import types

    seen: list = []
    fake = types.ModuleType("cotune.simulations.simulate")
    fake.run = seen.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cotune.simulations.simulate", fake)
    monkeypatch.setattr("cotune.simulations.simulate", fake, raising=False)
    return seen


def test_ctrl_c_inside_a_verb_is_one_line_and_130(run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    """Typer answers it first; what a person sees must be the same."""

    def interrupted(settings: object) -> None:
        raise KeyboardInterrupt

    _record_runs(monkeypatch)
    monkeypatch.setattr(sys.modules["cotune.simulations.simulate"], "run", interrupted)
    assert run("simulate") == (130, "", "stopped\n")
