"""docs/policy.md names every field of a policy, and none that is not there."""

import re
from pathlib import Path

import cotune
from cotune.charter.policy import Policy


def test_every_field_is_documented() -> None:
    text = (Path(cotune.__file__).parent / "docs" / "policy.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[^|]+) \|", text, flags=re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} == set(Policy.model_fields)
