"""Who else can reach a file: plain, owned by this user or root, never a link, closed to others; checked where it opens.

A node's home is 0700, so nobody but its owner (and root) changes anything between a check and a use. What is checked
here is what a copy, a backup, another program or a careless command left behind.
"""

import os
import stat
from pathlib import Path

from .errors import UserError

PRIVATE = 0o077
"""Permission bits that a secret must not have: nobody else reads or writes it."""
READABLE = 0o022
"""Permission bits that what is no secret must not have: nobody else writes it."""

_MOST_LINKS = 40
_WRITERS = 0o022


def require_file(path: Path, closed: int = PRIVATE) -> bool:
    """Check a file that something else opens; False where there is none.

    Args:
        path: the file. closed: permission bits that it must not have, `PRIVATE` or `READABLE`.

    Raises:
        UserError: a link or no plain file, owned by somebody else, or open to others.
    """
    return _require(path, closed, folder=False)


def require_folder(path: Path, closed: int = PRIVATE) -> bool:
    """As `require_file`, for a folder."""
    return _require(path, closed, folder=True)


def open_file(path: Path, flags: int, closed: int = PRIVATE) -> int:
    """A descriptor of a checked file. A new one (`os.O_CREAT`) is 0600.

    Raises:
        UserError: as `require_file`. OSError: it cannot be opened.
    """
    # A pipe in the file's place would hold up an open that may wait.
    flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError:
        if path.is_symlink():
            raise _not_plain(path, folder=False) from None
        raise
    try:
        _check(path, os.fstat(descriptor), closed, folder=False)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_file(path: Path, most: int, closed: int = PRIVATE) -> bytes:
    """The content of a checked file, cut behind `most` bytes. Raises as `open_file`."""
    with os.fdopen(open_file(path, os.O_RDONLY, closed), "rb") as file:
        # Python takes the memory for all that was asked for.
        return file.read(min(most, os.fstat(file.fileno()).st_size))


def require_data(path: Path) -> None:
    """Check an organization's file of records, which may be anybody's and lie anywhere, but not within others' reach.

    Whoever can write to the file, or put another one in its place, chooses what is trained on. Links are followed here,
    step by step, and what is said of the file's folder holds for that of each link.

    Raises:
        UserError: others can write to the file or in its folder, everybody on this machine can read it, or it lies
            under a folder that others can write to and what stands in there is not this user's or root's.

    Edge cases: a missing file is left to whoever reads it. A group may read the file, not write it. A folder with the
        sticky bit (/tmp) is fine for a file that is this user's or root's.
    """
    reachable, here, links = True, Path("/"), 0
    left = list(reversed(path.absolute().parts[1:]))
    while left:
        name = left.pop()
        about = _status(here)
        reachable = reachable and bool(about.st_mode & stat.S_IXOTH)
        step = here.parent if name == ".." else here / name
        try:
            found = os.lstat(step)
        except OSError:
            return
        link = stat.S_ISLNK(found.st_mode)
        if name != "..":
            _require_fixed(path, here, about, step, found, last=link or not left)
        if not link:
            here = step
            continue
        links += 1
        if links > _MOST_LINKS:
            raise UserError(f"{path}: too many links", "name the file itself")
        target = Path(os.readlink(step))
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
        here = Path("/") if target.is_absolute() else here
    mode = stat.S_IMODE(_status(here).st_mode)
    if mode & _WRITERS:
        raise UserError(f"{path}: others can write to the data", f"run `chmod go-w {here}`")
    if reachable and mode & stat.S_IROTH:
        raise UserError(f"{path}: everybody on this machine can read the data", f"run `chmod 600 {here}`")


def _require_fixed(
    path: Path, folder: Path, about: os.stat_result, step: Path, found: os.stat_result, last: bool
) -> None:
    """Nobody else can put another `step` into `folder`, or it would show by its owner."""
    if not about.st_mode & _WRITERS:
        return
    if last and not about.st_mode & stat.S_ISVTX:
        raise UserError(
            f"{path}: others can put another file in the data's place, in {folder}",
            f"run `chmod go-w {folder}`, or keep the data in a folder of your own",
        )
    if not _is_own(found):
        raise UserError(
            f"{step}: owned by user {found.st_uid}, in a folder that others can write to", "keep the data elsewhere"
        )


def _require(path: Path, closed: int, folder: bool) -> bool:
    try:
        about = os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "make it readable for this user") from error
    _check(path, about, closed, folder)
    return True


def _check(path: Path, about: os.stat_result, closed: int, folder: bool) -> None:
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(about.st_mode):
        raise _not_plain(path, folder)
    if not _is_own(about):
        raise UserError(f"{path}: owned by user {about.st_uid}, not by this one", "run as its owner, or give it over")
    if about.st_mode & closed:
        mend = "go-w" if closed == READABLE else "700" if folder else "600"
        what = "change" if closed == READABLE else "use"
        raise UserError(f"{path}: other users may {what} it", f"run `chmod {mend} {path}`")


def _not_plain(path: Path, folder: bool) -> UserError:
    kind = "folder" if folder else "file"
    return UserError(f"{path}: not a plain {kind}", f"put the {kind} itself in its place, not a link")


def _status(folder: Path) -> os.stat_result:
    try:
        return os.stat(folder)
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}", "make it readable for this user") from error


def _is_own(about: os.stat_result) -> bool:
    return about.st_uid in {0, os.geteuid()}
