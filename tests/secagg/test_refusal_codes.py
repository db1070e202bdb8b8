"""Every refusal that the protocol can make is made in some test, and named there by its code."""

import ast
import re
from pathlib import Path

import cotune.secagg
import pytest

CODE = re.compile(r"[a-z_]+\.[a-z_]+|phase")
TESTS = Path(__file__).parent


def codes() -> dict[str, str]:
    """Each code and the module that refuses with it: every string of that form in a call, docstrings left out."""
    found = {}
    for path in sorted(Path(cotune.secagg.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for part in node.args if isinstance(node, ast.Call) else []:
                value = part.value if isinstance(part, ast.Constant) else None
                if isinstance(value, str) and CODE.fullmatch(value):
                    found[value] = path.name
    return found


def text_of_tests() -> str:
    files = [path for path in TESTS.rglob("test_*.py") if path != Path(__file__)]
    return "\n".join(path.read_text() for path in files)


def test_there_are_codes() -> None:
    assert {"plan.threshold", "share.seal", "phase", "quorum.too_few"} <= set(codes())


@pytest.mark.parametrize(("code", "module"), codes().items())
def test_a_test_names_this_code(code: str, module: str) -> None:
    pattern = rf'["\']{re.escape(code)}["\']|match=r"\^?{re.escape(re.escape(code))}'
    assert re.search(pattern, text_of_tests()), f"{module} refuses with {code}, and no test of this folder says so"
