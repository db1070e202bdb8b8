"""From what a person types to settings: Hydra composes, pydantic validates, `check` refuses what cannot work.

Hydra's and pydantic's errors are long and speak of their own internals. Here each becomes one line that names the key,
and where a key or a choice is nearly right, the one that was meant.
"""

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Sweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from ..errors import UserError
from .check import check
from .explain import explain_composition, explain_invalid
from .schema import Settings

FOLDER = Path(__file__).parent
_QUOTE = "write key=value; names with other letters or signs in quotes of their own: \"key=['a b.csv','ä.csv']\""


def compose(overrides: Sequence[str]) -> Settings:
    """The settings of one run.

    Args:
        overrides: as on the command line, e.g. ["privacy.epsilon=3", "data=clauses"].

    Raises:
        UserError: an unknown key or choice, a wrong type or range, a missing value, or a combination that cannot work.
    """
    settings = _validated(overrides)
    check(settings)
    return settings


def sweep(overrides: Sequence[str]) -> list[Settings]:
    """The settings of every combination of the values given as `key=1,2,3` (or `range(...)`, or `glob(...)`).

    Where there are several, each run's folder gets a part that names its own values, unless the folders differ already.
    All are checked before any is returned.

    Raises:
        UserError: as `compose`, for any of them; or two runs that would share a folder.
    """
    fixed: list[str] = []
    swept: list[list[str]] = []
    for text, override in zip(overrides, _parsed(overrides), strict=True):
        if override.is_sweep_override():
            swept.append(list(_values(override)))
        else:
            fixed.append(text)
    points = list(product(*swept))
    runs = [compose([*fixed, *point]) for point in points]
    if len({run.run_dir for run in runs}) == len(runs):
        return runs
    named = [
        run.model_copy(update={"run_dir": run.run_dir / _folder(point)})
        for run, point in zip(runs, points, strict=True)
    ]
    if len({run.run_dir for run in named}) < len(named):
        raise UserError("two runs of the sweep have the same values", "give each value once")
    return named


def study_sweep(overrides: Sequence[str]) -> list[Settings]:
    """The runs of `study.yaml`; an override of one of its keys takes the place of that key's values."""
    planned = yaml.safe_load((FOLDER / "study.yaml").read_text(encoding="utf-8"))["sweep"]
    given = {override.get_key_element() for override in _parsed(overrides)}
    kept = [line for line in planned if line.split("=", 1)[0] not in given]
    return sweep([*kept, *overrides])


def listed(text: str) -> list[str]:
    """One override as several, `key=1,2` as `key=1` and `key=2`.

    Raises:
        UserError: it cannot be read.
    """
    (override,) = _parsed([text])
    return list(_values(override)) if override.is_sweep_override() else [text]


def _validated(overrides: Sequence[str]) -> Settings:
    for override in _parsed(overrides):
        if override.is_sweep_override():
            raise UserError(
                f"{override.input_line} gives several values", "add -m to run each of them, or write [a,b] for a list"
            )
    composed = _composed(overrides)
    try:
        values = _counted(OmegaConf.to_container(composed, resolve=True, throw_on_missing=True))
    except OmegaConfBaseException as error:
        raise explain_composition(error, overrides, keys(overrides), choices()) from None
    try:
        # JSON in strict mode: a list may become a tuple and a string a path, but "3" never becomes 3.
        return Settings.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise explain_invalid(error, keys(overrides)) from None


def _counted(values: Any) -> Any:
    """For `corpus: files`, organizations null counts the files; pydantic then sees a number."""
    data = values.get("data")
    if isinstance(data, dict) and data.get("corpus") == "files" and data.get("organizations") is None:
        files = data.get("files")
        # Where there is no list or an empty one, that is to be said, and not a number that nobody typed.
        data["organizations"] = max(1, len(files)) if isinstance(files, list) else 1
    return values


def _composed(overrides: Sequence[str]) -> DictConfig:
    try:
        with initialize_config_module("cotune.conf", version_base="1.3"):
            return hydra_compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explain_composition(error, overrides, keys(overrides), choices()) from None


def _parsed(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed: list[Override] = []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException:
            override = None
        if override is None or not re.fullmatch(r"[A-Za-z_][\w.@/:-]*", override.get_key_element().lstrip("+~")):
            raise UserError(f"cannot read the setting {text!r}", _QUOTE)
        if override.get_key_element().lstrip("+~").startswith("hydra"):
            raise UserError(f"{text}: Hydra's own settings have no effect here", "remove it")
        parsed.append(override)
    return parsed


def _values(override: Override) -> Iterator[str]:
    key = override.get_key_element()
    if override.is_sweep_override() and isinstance(override.value(), Sweep):
        try:
            for value in override.sweep_string_iterator():
                yield f"{key}={value}"
            return
        except (HydraException, ValueError, TypeError):
            pass
    names = choices().get(key, ())
    glob: Any = override.value()
    try:
        matched = glob.filter(list(names))
    except AttributeError:
        raise UserError(f"cannot expand {override.input_line!r}", "list the values: key=1,2,3") from None
    if not matched:
        raise UserError(
            f"{override.input_line!r} matches nothing", f"choose from {', '.join(names) or 'listed values'}"
        )
    for name in matched:
        yield f"{key}={name}"


def _folder(point: Sequence[str]) -> str:
    return ",".join(re.sub(r"[^A-Za-z0-9_.=+-]+", "-", line) for line in point)[:200]


def keys(overrides: Sequence[str] = ()) -> tuple[str, ...]:
    """Every dotted key that exists under the groups that `overrides` choose; other overrides do not matter."""
    groups = choices()
    return _keys(tuple(text for text in overrides if text.partition("=")[2] in groups.get(text.partition("=")[0], ())))


@cache
def _keys(chosen: tuple[str, ...]) -> tuple[str, ...]:
    with initialize_config_module("cotune.conf", version_base="1.3"):
        default = OmegaConf.to_container(hydra_compose("config", overrides=list(chosen)), resolve=False)
    return tuple(_dotted(default, ""))


def choices() -> dict[str, tuple[str, ...]]:
    """Group -> the names that it may be set to; a file whose name begins with _ is what others of its group share."""
    return {
        folder.name: tuple(sorted(file.stem for file in folder.glob("[!_]*.yaml")))
        for folder in sorted(FOLDER.iterdir())
        if folder.is_dir() and any(folder.glob("*.yaml"))
    }


def _dotted(node: object, prefix: str) -> Iterator[str]:
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        yield f"{prefix}{key}"
        yield from _dotted(value, f"{prefix}{key}.")
