"""A node's log is private, its own, and holds the reason that the other side does not get."""

import logging
from pathlib import Path

import pytest
from cotune.client.node_log import keep_log
from cotune.errors import UserError


def test_each_nodes_lines_go_to_its_own_private_file(tmp_path: Path) -> None:
    log = logging.getLogger("cotune.client")
    files = [tmp_path / "one.log", tmp_path / "two.log"]
    for number, file in enumerate([*files, files[0]]):
        keep_log(file)
        keep_log(file)
        log.warning("line %d", number)
    assert [file.read_text().count("line") for file in files] == [2, 1]
    assert "line 1" in files[1].read_text()
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in files)


def test_a_log_that_others_see_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"link\.log: not a plain file"):
        keep_log(tmp_path / "link.log")
    (tmp_path / "open.log").touch(0o600)
    (tmp_path / "open.log").chmod(0o644)
    with pytest.raises(UserError, match="chmod 600"):
        keep_log(tmp_path / "open.log")
    with pytest.raises(UserError, match="No such file"):
        keep_log(tmp_path / "none" / "node.log")
