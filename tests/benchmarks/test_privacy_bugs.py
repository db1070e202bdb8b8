"""The table of planted bugs names tests that exist, and a planted bug is found."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "privacy_bugs.py"


def test_every_named_test_exists() -> None:
    spec = importlib.util.spec_from_file_location("privacy_bugs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    assert len({bug.name for bug in module.BUGS}) == len(module.BUGS) >= 10
    for bug in module.BUGS:
        assert bug.tests, bug.name
        for node in bug.tests:
            file, name = node.split("::")
            assert f"\ndef {name}(" in (ROOT / file).read_text(), node


@pytest.mark.slow
def test_planted_bugs_are_found_and_the_product_is_not() -> None:
    command = [sys.executable, str(SCRIPT), "--canaries", "1000", "--only", "same noise", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + done.stdout
    sound, planted = json.loads(done.stdout)
    assert sound["bug"] == "none"
    assert not sound["alarm"]
    assert sound["failed"] == []
    assert planted["alarm"]
    assert planted["failed"] == planted["tests"]
