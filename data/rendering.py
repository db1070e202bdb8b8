"""Conversations -> text by a model's chat template, in a process of its own with little time and memory (`sandbox`)."""

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from . import sandbox
from .records import Message

# Passed on to the process: what Python may need to start, and the time zone for the date of today.
_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")
# By the clock; the limit that counts is one of processor time.
_MOST_SECONDS = 60.0
_MOST_PROCESSES = 4


class TemplateError(Exception):
    """What a template raised, in one line."""


class TemplateLimit(Exception):  # noqa: N818
    """That a template was ended, in one line."""


class _Process:
    """A process that renders with one template. Not for several threads at once."""

    def __init__(self, template: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - this very Python, and a file of this package
            [sys.executable, "-I", sandbox.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            env={name: os.environ[name] for name in _VARIABLES if name in os.environ},
        )
        self._begin = _line({"path": sys.path}) + _line({"template": template})

    def render(self, task: Mapping[str, object], most_bytes: int) -> dict[str, str]:
        """The process's answer. Raises OSError or ValueError where it gives none: then it is of no more use."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise ValueError("closed")
        _write(stdin.fileno(), self._begin + _line(task))
        self._begin = b""
        content = _read_line(stdout.fileno(), most_bytes, time.monotonic() + _MOST_SECONDS)
        answer = json.loads(content)
        if not isinstance(answer, dict):
            raise ValueError("not an answer")
        return answer

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()


_processes: dict[str, _Process] = {}
_lock = threading.Lock()
# Processes of the one that this one was forked from: they are not ours to use or to end.
_inherited: list[_Process] = []


def render(
    template: str, names: Mapping[str, str], messages: Sequence[Message], prompt_only: bool, in_parts: bool = False
) -> str:
    """The text of a conversation.

    Args:
        template: a Jinja template, as in a tokenizer's `chat_template`.
        names: of special tokens, by which the template calls them.
        messages: the turns. prompt_only: whether the text ends where the assistant's answer begins.
        in_parts: whether each content is passed as a list that holds one part, a text.

    Raises:
        TemplateError: the template raised something.
        TemplateLimit: it took too long, needed too much memory, or made too long a text.
        OSError: the process cannot be started.
    """
    turns = [{"role": message.role, "content": message.content} for message in messages]
    task = {"messages": turns, "prompt_only": prompt_only, "in_parts": in_parts, "names": dict(names)}
    with _lock:
        process = _processes.pop(template, None) or _Process(template)
        try:
            answer = process.render(task, 12 * sandbox.most_characters(turns))
            if "beyond" in answer:
                raise ValueError(answer["beyond"])
        except (OSError, ValueError):
            process.end()
            raise TemplateLimit(
                f"needs more than {sandbox.SECONDS:g} s, {sandbox.MEMORY_BYTES >> 20} MB or "
                f"{sandbox.most_characters(turns)} characters"
            ) from None
        except BaseException:  # an answer that nobody waits for must not be taken for the next one
            process.end()
            raise
        _processes[template] = process
        while len(_processes) > _MOST_PROCESSES:
            _processes.pop(next(iter(_processes))).end()
    if "text" in answer:
        return answer["text"]
    raise TemplateError(" ".join(answer.get("error", "").split())[:120])


def _line(task: Mapping[str, object]) -> bytes:
    return json.dumps(task).encode() + b"\n"


def _write(pipe: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(pipe, view) :]


def _read_line(pipe: int, most: int, deadline: float) -> bytes:
    """One line. Raises ValueError where none comes in time, or a longer one."""
    content = bytearray()
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while not content.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or len(content) > most or not poll.poll(1_000 * left):
            raise ValueError("no answer")
        piece = os.read(pipe, 1 << 16)
        if not piece:
            raise ValueError("it was ended")
        content += piece
    return bytes(content)


def _end_all() -> None:
    while _processes:
        _processes.popitem()[1].end()


def _forget_all() -> None:
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_processes.values())
    _processes.clear()


atexit.register(_end_all)
os.register_at_fork(after_in_child=_forget_all)
