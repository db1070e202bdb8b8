"""What a coordinator leaves behind is what `cotune transcript` can check, for any member and from its own home."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cotune.cli.app import main
from cotune.secagg.suites import CLASSIC, HYBRID, Suite
from cotune.secagg.transcript import encode
from cotune.server.run_directory import RunDirectory
from cotune.verify.kept import kept_rounds


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["transcript", *map(str, words)])
    shown = capsys.readouterr()
    return int(ended.value.code or 0), (shown.out + shown.err).splitlines()[-1]


@pytest.mark.parametrize("suite", [CLASSIC, HYBRID])
def test_a_run_with_a_dropout_verifies_and_audits(
    found: Callable, suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    federation = found(rounds=3, suite=suite)
    federation.lose("query.upload", 1, times=1)
    run = federation.run()
    assert kept_rounds(run.path) == [1, 2]
    transcript = tmp_path / "transcript.bin"
    transcript.write_bytes(encode(run.records(-1)))
    for home in federation.homes:
        code, line = said(capsys, "verify", transcript, "--charter", home.charter, "--home", home.path)
        assert (code, line[:15]) == (0, "holds: 3 rounds")
    for number in (2, 3):
        code, line = said(capsys, "audit", run.path, "--charter", home.charter, "--round", number, "--all")
        assert (code, line[:5]) == (0, "holds")
    assert said(capsys, "audit", run.path, "--charter", home.charter, "--round", 1)[0] == 2
    shutil.copy(run.path / "uploads" / "0002" / "1.words", run.path / "uploads" / "0002" / "0.words")
    code, line = said(capsys, "audit", run.path, "--charter", home.charter)
    assert code == 1
    assert "the upload kept for alder is not the one that alder signed" in line


def test_a_server_killed_before_the_commit_keeps_no_uploads_of_a_burned_round(
    found: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = found(rounds=2)

    def killed(self: RunDirectory, done: object) -> None:
        assert kept_rounds(self.path) == [0]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            federation.run()
    run = federation.run()
    assert run.committed() == [0, 1]
    assert run.recorded() == [1]
    assert kept_rounds(run.path) == [1]
