"""The room stays readable alone: of all third parties only numpy and cryptography, and no other room."""

import ast
import pickle
import sys
from pathlib import Path

import cotune.secagg
import pytest
from cotune.secagg.refused import Refused

FILES = sorted(Path(cotune.secagg.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_imports(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots = {str(node.module).split(".")[0]}
        else:
            if isinstance(node, ast.ImportFrom) and node.level > 1:
                assert node.module in ("atomic", "errors")
            continue
        assert roots <= set(sys.stdlib_module_names) | {"numpy", "cryptography"}


def test_a_refusal_crosses_processes_whole() -> None:
    no = pickle.loads(pickle.dumps(Refused("a.b", "text", 3, "head")))
    assert (no.code, no.text, no.member, no.part, str(no)) == ("a.b", "text", 3, "head", "a.b: text")
