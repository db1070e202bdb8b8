"""The process in which chat templates run: jinja's sandbox as transformers sets it up, and limits by the kernel.

A template is a program by whoever made the model. Jinja keeps it from files and Python's inside, not from loops that
never end or a text of many gigabytes, and nothing inside a process can stop those. `rendering` runs this file as a
program of its own: one JSON object a line comes in, one goes out. Imports nothing of cotune, so that it starts at once.
"""

import json
import math
import resource
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

MEMORY_BYTES = 2**29
"""The process gets no more address space."""
SECONDS = 2.0
"""Of processor time, beside what each text gets."""
SECONDS_PER_TEXT, SECONDS_PER_CHARACTER = 0.01, 1e-7
"""Ordinary templates take less than 0.001 seconds."""

# The day is always this one: by the clock a record would be another text each day, and a template could ask a node
# something new each time.
_DAY = datetime(2024, 7, 26)


def most_characters(messages: list[dict[str, str]]) -> int:
    """The longest text that a template may make of messages."""
    return 100_000 + 8 * sum(len(message["content"]) for message in messages)


def compile_template(source: str) -> "jinja2.Template":
    """As transformers compiles a chat template (5.23, `utils.chat_template_utils`).

    Raises:
        jinja2.TemplateError: it is none.
    """
    import jinja2
    import jinja2.ext
    import jinja2.nodes
    import jinja2.utils
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(jinja2.ext.Extension):
        """`{% generation %}`, which marks what an assistant wrote; here it is written and nothing more."""

        tags = {"generation"}  # noqa: RUF012 - as jinja declares it

        def parse(self, parser: Any) -> jinja2.nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

        def _written(self, caller: Any) -> Any:
            return caller()

    class Namespace(jinja2.utils.Namespace):
        """Without names that begin with an underscore."""

        def __init__(*args: Any, **names: Any) -> None:
            self, given = args[0], dict(*args[1:], **names)
            for name in given:
                Namespace._check(name)
            jinja2.utils.Namespace.__init__(self, given)

        def __setitem__(self, name: str, value: Any) -> None:
            Namespace._check(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

        @staticmethod
        def _check(name: object) -> None:
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"a namespace with the name {name!r}")

    class Dictionary:
        """`dict` without its attributes."""

        def __call__(self, *args: Any, **names: Any) -> dict[Any, Any]:
            return dict(*args, **names)

        def fromkeys(self, *args: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": _DAY.strftime,
        "dict": Dictionary(),
        "namespace": Namespace,
    }
    return environment.from_string(source)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def answers(lines: IO[str]) -> Iterator[dict[str, str]]:
    """What the template, in the first line, makes of each later line's messages, or what it raised."""
    source, template, seconds = json.loads(next(lines))["template"], None, SECONDS
    for line in lines:
        task = json.loads(line)
        seconds += SECONDS_PER_TEXT + SECONDS_PER_CHARACTER * len(line)
        _limit_seconds(seconds)
        try:
            template = template or compile_template(source)
            text = template.render(
                messages=_in_parts(task["messages"]) if task.get("in_parts") else task["messages"],
                tools=None,
                documents=None,
                add_generation_prompt=task["prompt_only"],
                **task["names"],
            )
        except MemoryError:
            yield {"beyond": "memory"}
        except Exception as error:
            yield {"error": f"{type(error).__name__}: {str(error)[:1_000]}"}
        else:
            yield {"text": text} if len(text) <= most_characters(task["messages"]) else {"beyond": "length"}


def _in_parts(messages: list[dict[str, str]]) -> list[dict[str, object]]:
    """The same messages for a template that takes a content as a list, of which texts are one kind."""
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _limit_seconds(seconds: float) -> None:
    """The kernel ends this process when it has used so much processor time in all."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = math.ceil(seconds)
    if hard == resource.RLIM_INFINITY or soft < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def main() -> None:
    """Answer on standard output until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    sys.path[:] = json.loads(sys.stdin.readline())["path"]
    import jinja2.sandbox  # noqa: F401 - before the memory is limited

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for answer in answers(sys.stdin):
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
