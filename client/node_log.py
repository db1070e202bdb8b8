"""The node's own log, where a refusal, which crosses to the other side as a code, is explained to its own people."""

import logging
import os
from pathlib import Path

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class _PrivateHandler(logging.FileHandler):
    """Appends to a file that is 0600 from its first byte."""

    def _open(self) -> "logging.TextIOWrapper":  # type: ignore[name-defined]
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")


def keep_log(path: Path) -> None:
    """Send what `cotune.client` logs from now on to this file, beside what this process does with its log anyway.

    In a simulation one process plays several nodes in turn: each message's lines go to the log of the node it was for.
    """
    log = logging.getLogger("cotune.client")
    for handler in list(log.handlers):
        if isinstance(handler, _PrivateHandler):
            if handler.baseFilename == str(path.absolute()):
                return
            log.removeHandler(handler)
            handler.close()
    handler = _PrivateHandler(path)
    handler.setFormatter(logging.Formatter(_FORMAT))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
