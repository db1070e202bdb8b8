"""A file's digest is SHA-256 over its bytes, whatever its size, and nothing else computes one."""

import hashlib
import re
from pathlib import Path

import cotune
import pytest
from cotune.digest import file_digest


@pytest.mark.parametrize("size", [0, 1, 2**18 - 1, 2**18, 3 * 2**18 + 5])
def test_over_all_bytes(tmp_path: Path, size: int) -> None:
    content = (b"cotune" * (size // 6 + 1))[:size]
    (tmp_path / "file").write_bytes(content)
    assert file_digest(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        file_digest(tmp_path / "file")


def test_there_is_one() -> None:
    root = Path(cotune.__file__).parent
    other = re.compile(r"hashlib[. ].*file_digest|sha256\([^()]*\.read_bytes\(\)")
    rooms = [path.parent for path in root.glob("*/__init__.py")]
    assert [path for room in rooms for path in room.rglob("*.py") if other.search(path.read_text())] == []
    assert other.search((root / "digest.py").read_text())
