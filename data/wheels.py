"""Unpacking a wheel as foreign bytes: nothing outside the folder, no links, no bombs."""

import shutil
import stat
import zipfile
from pathlib import Path, PurePosixPath

from ..errors import UserError

MAX_FILES = 100_000
MAX_BYTES = 16 * 1024**3
"""Of all files together, unpacked."""


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack a wheel into a new folder.

    Args:
        wheel: a zip archive.
        folder: must not exist.

    Raises:
        UserError: no zip archive, a damaged one, or one with a name that leaves the folder, a link, or too much inside.
        OSError: the disk is full or the folder cannot be written.

    Edge cases: after an error the folder may hold part of the files: unpack beside and rename.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = archive.infolist()
            if len(members) > MAX_FILES or sum(member.file_size for member in members) > MAX_BYTES:
                raise UserError(f"{wheel.name}: more than a wheel may hold", _MEND)
            places = [(member, _place(wheel, member)) for member in members if not member.is_dir()]
            if len({place for _, place in places}) < len(places):
                raise UserError(f"{wheel.name}: one file name twice", _MEND)
            folder.mkdir()
            for member, place in places:
                target = folder / place
                target.parent.mkdir(parents=True, exist_ok=True)
                # zipfile reads no more than the declared size and checks the CRC, so the sum above is a true bound.
                with archive.open(member) as source, target.open("xb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{wheel.name}: a damaged archive ({error})", _MEND) from None


_MEND = "do not use it; fetch the package from an index you trust"


def _place(wheel: Path, member: zipfile.ZipInfo) -> PurePosixPath:
    """The member's path inside the folder."""
    name = member.filename
    path = PurePosixPath(name)
    strange = "\\" in name or ":" in name or "\0" in name or ".." in path.parts or path.is_absolute() or not path.parts
    kind = stat.S_IFMT(member.external_attr >> 16)
    if strange or kind not in (0, stat.S_IFREG):
        raise UserError(f"{wheel.name}: holds the unsafe name {name[:60]!r}", _MEND)
    return path
