"""The rooms' dependencies run one way, heavy libraries stay where they belong, and every module says what it is."""

import ast
import re
from pathlib import Path

import cotune
import pytest

ROOT = Path(cotune.__file__).parent

# Each room may import those on later lines; server and client share a line and never import each other.
ORDER = [
    {"cli"},
    {"simulations"},
    {"attacks"},
    {"conf"},
    {"server", "client"},
    {"enrollment"},
    {"release", "verify"},
    {"strategies"},
    {"evaluation"},
    {"training"},
    {"data"},
    {"charter"},
    {"adapter"},
    {"privacy"},
    {"secagg"},
]
ROOMS = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
OPEN_TO_ALL = {"", "errors", "atomic", "digest", "private_files", "spelling"}
# What `import cotune` and the command open with; no room imports them.
DOOR = {"face", "offline"}

MODELS = {"torch", "transformers", "peft", "opacus"}
FORBIDDEN = {
    "secagg": {"flwr", "ray", *MODELS},
    "charter": {"flwr", "ray", *MODELS},
    "adapter": {"flwr", "ray", *MODELS},
    "privacy": {"flwr", "ray", "torch", "transformers", "peft"},
    "conf": {"flwr", "ray", *MODELS},
    "data": {"flwr", "ray"},
    "training": {"flwr", "ray"},
    "evaluation": {"flwr", "ray"},
    "enrollment": {"flwr", "ray"},
    "release": {"flwr", "ray"},
    "verify": {"flwr", "ray", *MODELS},
    "attacks": {"flwr", "ray"},
    "strategies": {"flwr", "ray"},
    "cli": {"flwr", "ray"},
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "core", "lib", "tools"}


def imports(source: str, package: str) -> set[str]:
    """Every module that `source` imports, anywhere in it, as absolute dotted names.

    Args:
        source: Python code.
        package: dotted name of the package it stands in, for relative imports.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module or "")
            if node.module == "cotune":
                found |= {f"cotune.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
            if node.module:
                found.add(f"{base}.{node.module}")
            else:
                found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and _calls_import_module(node):
            target = node.args[0]
            if isinstance(target, ast.Constant) and isinstance(target.value, str):
                found.add(target.value)
    return found


def _calls_import_module(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in {"import_module", "__import__"} and bool(node.args)


def violations(source: str, room: str, package: str) -> list[str]:
    """What in `source`, a module of `room`, breaks the architecture."""
    wrong = []
    for module in sorted(imports(source, package)):
        top, _, rest = module.partition(".")
        if top == "cotune":
            target = rest.split(".")[0]
            if target == room or target in OPEN_TO_ALL or (target not in ROOMS and room == "cli"):
                continue
            if target not in ROOMS or ROOMS[target] <= ROOMS[room]:
                wrong.append(f"{room} imports {module}")
        elif top in FORBIDDEN.get(room, set()):
            wrong.append(f"{room} imports {module}")
    return wrong


def modules() -> list[Path]:
    return sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def package_of(path: Path) -> str:
    return ".".join(("cotune", *path.parent.relative_to(ROOT).parts))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_keeps_to_the_architecture(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    room = path.relative_to(ROOT).parts[0]
    assert violations(source, room, package_of(path)) == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"
    assert path.stem not in VAGUE, f"{path} is not named for a concept"


# Both ends of the protocol, each one state machine whose steps are read in their order.
LONG = {"secagg/coordinator.py": 350, "secagg/organization.py": 310}


def test_no_module_is_longer_than_300_lines() -> None:
    lines = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()
    }
    assert {name: count for name, count in lines.items() if count > LONG.get(name, 300)} == {}


def test_no_module_imports_in_a_circle() -> None:
    """At the top of a module: what a function imports when it is called is late enough."""
    known = {".".join(("cotune", *path.relative_to(ROOT).with_suffix("").parts)): path for path in modules()}
    edges = {}
    for name, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
        found = imports(top, package_of(path))
        # `from . import x` gives the package; whether x is a module shows in its name.
        edges[name] = {other for other in known if other in found and other != name}
    while leaves := {name for name, others in edges.items() if not others & edges.keys()}:
        edges = {name: others for name, others in edges.items() if name not in leaves}
    assert edges == {}


def test_what_is_open_to_all_imports_no_room() -> None:
    for name in ("errors", "atomic", "digest", "private_files", "spelling", "offline"):
        found = imports((ROOT / f"{name}.py").read_text(encoding="utf-8"), "cotune")
        assert {module for module in found if module.startswith("cotune")} <= {"cotune.errors"}


def test_nothing_but_atomic_writes_beside_and_renames() -> None:
    beside = re.compile(r"os\.(replace|rename)\b|\.rename\(|\b(mkstemp|mkdtemp|NamedTemporaryFile)\b")
    assert [path for path in modules() if beside.search(path.read_text(encoding="utf-8"))] == []
    assert beside.search((ROOT / "atomic.py").read_text(encoding="utf-8"))


def test_every_room_is_installed() -> None:
    """A package that pyproject.toml forgets works in the tree and is missing from the wheel."""
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    there = {package_of(path) for path in modules() if path.name == "__init__.py"} | {"cotune"}
    assert listed == there


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("secagg", "from ..privacy.terms import METRICS"),
        ("secagg", "from .. import privacy"),
        ("secagg", "import flwr"),
        ("secagg", "def late():\n    import torch.nn as nn"),
        ("charter", "from transformers import AutoTokenizer"),
        ("charter", "import torch"),
        ("privacy", "from transformers.models import llama"),
        ("client", "from ..server.app import app"),
        ("server", "from cotune.client import app"),
        ("server", "from cotune import client"),
        ("training", "import flwr.app"),
        ("strategies", "from flwr.app import Message"),
        ("conf", "from ..simulations import bench"),
        ("strategies", "from ..conf.schema import Settings"),
        ("data", "from ..cli.app import main"),
        ("simulations", "from ..tests import anything"),
        ("training", "import importlib\nimportlib.import_module('cotune.server.app')"),
    ],
)
def test_checker_catches_a_planted_violation(room: str, line: str) -> None:
    assert violations(line, room, f"cotune.{room}")


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("server", "from ..secagg.plan import Plan\nfrom ..errors import UserError\nimport flwr"),
        ("cli", "from .. import __version__\nfrom . import runs"),
        ("data", "from .records import Record\nfrom ..atomic import write_bytes"),
        ("simulations", "from ..client import app\nfrom ..server import app as other"),
    ],
)
def test_checker_allows_what_is_right(room: str, line: str) -> None:
    assert violations(line, room, f"cotune.{room}") == []


def test_checker_sees_subpackages() -> None:
    assert violations("from ...training.base import load_base", "data", "cotune.data.corpora")
    assert not violations("from ..records import Record", "data", "cotune.data.corpora")
