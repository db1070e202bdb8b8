"""The tiny models and rows of the evaluation's tests: a release is read and talked to with the same."""

import importlib.util
from pathlib import Path

_FILE = Path(__file__).parents[1] / "evaluation" / "conftest.py"
_SPEC = importlib.util.spec_from_file_location("evaluation_fixtures", _FILE)
assert _SPEC is not None
assert _SPEC.loader is not None
_FIXTURES = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_FIXTURES)

make_small_base = _FIXTURES.make_small_base
make_rows = _FIXTURES.make_rows
top_lora = _FIXTURES.top_lora
