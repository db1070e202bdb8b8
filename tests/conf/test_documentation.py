"""docs/configuration.md names every key and every choice there is, and no key that is not there."""

import re
from pathlib import Path

import cotune
from cotune.conf.compose import choices, keys

DOCUMENT = (Path(cotune.__file__).parent / "docs" / "configuration.md").read_text(encoding="utf-8")


def documented() -> set[str]:
    found: set[str] = set()
    for row in re.findall(r"^\| (`[^|]+) \|", DOCUMENT, flags=re.MULTILINE):
        first, *rest = re.findall(r"`([^`]+)`", row)
        found.add(first)
        found |= {first.rsplit(".", 1)[0] + leaf for leaf in rest if leaf.startswith(".")}
    return found


def existing() -> set[str]:
    every: set[str] = set()
    for group, names in choices().items():
        for name in names:
            every |= set(keys([f"{group}={name}"]))
    return {key for key in every if not any(other.startswith(f"{key}.") for other in every)}


def test_every_key_is_documented_and_every_documented_key_exists() -> None:
    assert documented() - existing() == set()
    assert existing() - documented() - {"model.package", "data.package"} == set()


def test_every_choice_is_named() -> None:
    for group, names in choices().items():
        for name in names:
            assert f"`{name}`" in DOCUMENT or f"`{group}={name}`" in DOCUMENT, f"{group}={name}"
