"""docs/policy.md names every field of a policy, and none that is not there."""

import re
from pathlib import Path

import cotune
from cotune.charter.policy import Policy
from cotune.enrollment.node_settings import NodeSettings


def test_every_field_is_documented() -> None:
    text = (Path(cotune.__file__).parent / "docs" / "policy.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[^|]+) \|", text.split("\n## ")[0], flags=re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} == set(Policy.model_fields)


def test_every_field_of_the_node_is_documented() -> None:
    text = (Path(cotune.__file__).parent / "docs" / "policy.md").read_text(encoding="utf-8")
    section = text.split("\n## node.yaml")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", section, flags=re.MULTILINE)
    assert {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)} == set(NodeSettings.model_fields)
