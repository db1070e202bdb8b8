"""The node's own log, where a refusal, which crosses to the other side as a code, is explained to its own people."""

import logging
import os
from pathlib import Path

from .. import private_files
from ..errors import UserError

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class _PrivateHandler(logging.FileHandler):
    """Appends to a file that is 0600 from its first byte."""

    def _open(self) -> "logging.TextIOWrapper":  # type: ignore[name-defined]
        descriptor = private_files.open_file(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        return os.fdopen(descriptor, "a", encoding="utf-8")


def keep_log(path: Path) -> None:
    """Send what `cotune.client` logs from now on to this file, beside what this process does with its log anyway.

    In a simulation one process plays several nodes in turn: each message's lines go to the log of the node it was for.

    Raises:
        UserError: the file is a link, is open to others, or cannot be written.
    """
    log = logging.getLogger("cotune.client")
    for handler in list(log.handlers):
        if isinstance(handler, _PrivateHandler):
            if handler.baseFilename == str(path.absolute()):
                return
            log.removeHandler(handler)
            handler.close()
    try:
        handler = _PrivateHandler(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "make it writable for this user") from error
    handler.setFormatter(logging.Formatter(_FORMAT))
    log.addHandler(handler)
    if log.level != logging.INFO:  # setting it anew empties caches of every logger
        log.setLevel(logging.INFO)
