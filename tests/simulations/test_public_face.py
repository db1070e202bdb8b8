"""A researcher's run from Python: a strategy of one's own by its path, events, the release, the transcript."""

import json
from pathlib import Path
from typing import Any

import cotune
import pytest
from cotune.charter import charter as charters
from cotune.charter import policy as policies
from cotune.errors import UserError
from cotune.strategies import own

pytestmark = pytest.mark.slow
EXAMPLE = Path(cotune.__file__).parent / "docs" / "tutorials" / "sign_sgd.py"


def words(place: Any, run_dir: Path, file: Path) -> list[str]:
    given = ["strategy=own", f"strategy.code={file}:SignSGD", "strategy.settings={learning_rate: 0.02}"]
    return [word for word in place.words(run_dir, *given) if not word.startswith("strategy.learning_rate")]


def test_a_run_from_python(place: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, run_dir, events = tmp_path / "mine.py", tmp_path / "run", []
    file.write_text(EXAMPLE.read_text())
    settings = cotune.compose(*words(place, run_dir, file))
    report = cotune.simulate(settings, progress=False, watch=events.append)
    assert capsys.readouterr().out == ""
    assert report.arms.federated.accuracy is not None
    assert {event.round for event in events} == {1, 2}
    charter = charters.load(run_dir / "server" / "charter.yaml")
    assert (charter.strategy.target, charter.strategy.code) == ("SignSGD", own.read_code(EXAMPLE).digest)
    for home in (run_dir / "nodes").iterdir():
        assert policies.load(home / "policy.yaml").strategies == (charter.strategy.code,)
        assert (home / "strategy.py").read_bytes() == EXAMPLE.read_bytes()
    checked = cotune.verify_transcript(run_dir / "release" / "transcript.bin", run_dir / "server" / "charter.yaml")
    assert checked.finding is None
    assert len(checked.verified) == 2
    loaded = cotune.load_release(run_dir / "release", device="cpu", dtype="float32")
    assert len(loaded.answer("word3 word4")) == 2
    assert "SignSGD" in (run_dir / "release" / "README.md").read_text()
    # A finished run stays what it is; one that would go on does not change its strategy on the way.
    assert cotune.simulate(settings, progress=False) == report
    file.write_text(EXAMPLE.read_text().replace("0.95", "0.9"))
    (run_dir / "report.json").unlink()
    with pytest.raises(UserError, match="has changed since this run began"):
        cotune.simulate(settings, progress=False)
    assert json.loads((run_dir / "settings.json").read_text())["strategy"]["code"] == f"{file}:SignSGD"
