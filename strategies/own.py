"""Strategies of one's own: a class in one file of Python, named in the charter by the SHA-256 of that file.

A node runs such code only where its `policy.yaml` lists the digest: somebody there has read the file. The digest is to
cover all that runs, so a file may import cotune, NumPy and Python's own library, and nothing that lies beside it. That
is a rule for honest authors, not a sandbox: code that is listed runs with the node's rights. That an honest mistake in
it takes no more noised steps from the trainer than the ledger was charged for is what `paid` sees to.
"""

import ast
import hashlib
import importlib.util
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import UserError
from ..spelling import printable

MOST_BYTES = 2**20
_ALLOWED = frozenset({"cotune", "numpy"}) | sys.stdlib_module_names
# What the server and the members ask of a strategy; `base.Strategy` says what each of them is.
_ASKED = (
    "one_noised_gradient",
    "steps_per_round",
    "turns",
    "trained",
    "reach",
    "norms",
    "local",
    "start",
    "published",
    "apply",
)
# Digest -> the module that was made of that file. A process has what it was told to install, and nothing by itself.
_INSTALLED: dict[str, ModuleType] = {}


@dataclass(frozen=True)
class Code:
    """A file of strategies as it was read, once: what is hashed is what runs.

    Attributes:
        file: where it lies. content: its bytes. digest: their SHA-256, hex.
        imports: the modules that it names, sorted.
    """

    file: Path
    content: bytes
    digest: str
    imports: tuple[str, ...]


def read_code(file: Path) -> Code:
    """The file's bytes and their digest.

    Raises:
        UserError: it cannot be read, is too long, is not Python, or imports what the digest does not cover.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_BYTES + 1)
    except OSError as problem:
        raise UserError(f"{file}: {problem.strerror}", "give the file of the strategy's class") from None
    if len(content) > MOST_BYTES:
        raise UserError(f"{file}: longer than {MOST_BYTES:,} bytes", "keep to the strategy itself")
    text = _read_as_shown(file, content)
    try:
        tree = ast.parse(text, str(file))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        line = getattr(problem, "lineno", None)
        raise UserError(f"{file}: not Python{f', line {line}' if line else ''}", "correct it") from None
    imports = sorted(set(_imports(tree)))
    for line, module in imports:
        if module.partition(".")[0] not in _ALLOWED:
            raise UserError(
                f"{file} line {line}: it imports {module or 'what lies beside it'}, which its digest does not cover",
                "keep a strategy in one file that imports cotune, numpy and Python's own library only",
            )
    named = tuple(sorted({module for _, module in imports}))
    return Code(file, content, hashlib.sha256(content).hexdigest(), named)


def _read_as_shown(file: Path, content: bytes) -> str:
    """The text that a person reads in the file, which is what runs.

    Python would honour a declared encoding in which a comment holds a line break, and an editor obeys characters that
    hide or turn what stands beside them.
    """
    try:
        text, encoding = content.decode(), tokenize.detect_encoding(io.BytesIO(content).readline)[0]
    except (UnicodeDecodeError, SyntaxError):
        raise UserError(f"{file}: not UTF-8", "save it as UTF-8 without a declared encoding") from None
    if encoding != "utf-8":
        raise UserError(f"{file}: it declares the encoding {encoding}", "save it as UTF-8 without a declared encoding")
    shown = printable(text, also="\n\t")
    for place, (letter, seen) in enumerate(zip(text, shown, strict=True)):
        if letter != seen:
            line = text.count("\n", 0, place) + 1
            raise UserError(
                f"{file} line {line}: it holds the character U+{ord(letter):04X}, which a reader does not see",
                "take it out; lines end with a line feed alone",
            )
    return text


def install(code: Code) -> None:
    """Run the file, so that `class_of` finds its classes from now on in this process.

    Raises:
        UserError: it fails while it is run.
    """
    if code.digest in _INSTALLED:
        return
    module = ModuleType(f"cotune_strategy_{code.digest[:16]}")
    module.__file__ = str(code.file)
    # Dataclasses look their module up by name.
    sys.modules[module.__name__] = module
    try:
        exec(compile(code.content, str(code.file), "exec", dont_inherit=True), module.__dict__)  # noqa: S102  (its digest was agreed to)
    except Exception as problem:
        del sys.modules[module.__name__]
        said = " ".join(str(problem).split())[:200]
        raise UserError(f"{code.file}: {type(problem).__name__}: {said}", "correct the file") from None
    _INSTALLED[code.digest] = module


def class_of(name: str, digest: str) -> type[Any]:
    """The class of that name in the installed file of that digest.

    Raises:
        UserError: no such file is installed here, or it has no such class, or the class is no strategy.
    """
    module = _INSTALLED.get(digest)
    if module is None:
        raise UserError(
            f"the strategy {name} is code of its own ({digest[:16]}...), which is not installed here",
            "get its file from who drafted the charter, read it, and list its digest in policy.yaml",
        )
    found = vars(module).get(name)
    if not isinstance(found, type):
        there = ", ".join(classes(module)) or "none"
        raise UserError(f"{module.__file__} has no class {name}", f"name one of its strategies: {there}")
    lacking = [asked for asked in _ASKED if not hasattr(found, asked)]
    if lacking:
        raise UserError(
            f"{module.__file__}: {name} has no {', '.join(lacking)}",
            "derive it from cotune.strategies.dp_fedsgd.DPFedSGD, or write what strategies.base.Strategy asks for",
        )
    return found


def classes(module: ModuleType) -> list[str]:
    """The names of the strategies that a module itself defines."""
    own = (found for found in vars(module).values() if isinstance(found, type) and found.__module__ == module.__name__)
    return sorted(found.__name__ for found in own if all(hasattr(found, asked) for asked in _ASKED))


def installed(file: Path) -> Code:
    """`read_code` and `install` in one."""
    code = read_code(file)
    install(code)
    return code


def located(place: str) -> tuple[Path, str]:
    """The file and the class that a person names: "momentum.py:Momentum", or "package.module:Momentum".

    Raises:
        UserError: it is neither, or there is no such module.
    """
    where, _, name = place.rpartition(":")
    if not where or not name.isidentifier():
        raise UserError(f"{place!r} names no class", "write FILE.py:Class or package.module:Class")
    if where.endswith(".py"):
        return Path(where).expanduser().absolute(), name
    try:
        found = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        raise UserError(f"there is no module {where}", "write FILE.py:Class or package.module:Class")
    return Path(found.origin), name


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every module that is imported; an empty name where it is one beside the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "" if node.level else node.module or ""
