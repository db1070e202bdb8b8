"""Hydra's, OmegaConf's and pydantic's errors as one line each: the key, what is wrong with it, and how to mend it."""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from pydantic import ValidationError

from ..errors import UserError

_TYPES = {
    "int_type": "write a whole number",
    "int_parsing": "write a whole number",
    "int_from_float": "write a whole number",
    "float_type": "write a number",
    "bool_type": "write true or false",
    "string_type": "write text",
    "tuple_type": "write a list: [first,second]",
    "finite_number": "write a finite number",
    "path_type": "write a path",
    "model_type": "give the whole group",
    "model_attributes_type": "give the whole group",
}
_SERVED = "choose strategy=dp_fedsgd or strategy=fedavg"
_SUMS_ONLY = "and secure aggregation shows the coordinator sums only"
# What is known and refused: a choice for which there is no file -> why, and what to choose.
REFUSED = {
    ("strategy", "flora"): (f"FLoRA stacks every organization's own B and A, {_SUMS_ONLY}", _SERVED),
    ("strategy", "fedex"): (f"FedEx-LoRA takes its residual from every organization's own BA, {_SUMS_ONLY}", _SERVED),
    ("strategy", "hetlora"): (f"HetLoRA weighs and prunes every organization's own B and A, {_SUMS_ONLY}", _SERVED),
    ("strategy", "flexlora"): (f"FlexLoRA decomposes the sum of every organization's own BA, {_SUMS_ONLY}", _SERVED),
    ("secagg", "none"): ("it would show the coordinator every organization's update", "leave secagg as it is"),
}


def explain_composition(
    error: Exception, overrides: Sequence[str], keys: Sequence[str], choices: Mapping[str, Sequence[str]]
) -> UserError:
    """The one line for an error of Hydra or OmegaConf.

    Args:
        error: what was raised while composing `overrides`.
        overrides: as typed.
        keys: every dotted key that exists.
        choices: group -> names that it may be set to.
    """
    for text in overrides:
        key, _, value = text.lstrip("+~").partition("=")
        if (key, value) in REFUSED:
            why, mend = REFUSED[key, value]
            return UserError(f"{text}: {why}", mend)
        if key in choices and value not in choices[key]:
            return UserError(
                f"{text}: there is no {key} named {value!r}",
                f"{_meant(value, choices[key])}choose from {', '.join(choices[key])}",
            )
        if key not in keys and key not in choices and not text.startswith("+"):
            return _unknown(key, keys)
    full_key = re.search(r"full_key: (\S+)", str(error))
    if full_key and "Missing mandatory value" in str(error):
        return UserError(f"{full_key[1]} is not set", f"add {full_key[1]}=...")
    where = f"{full_key[1]}: " if full_key else ""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return UserError(f"{where}cannot compose the configuration ({first})", "check the settings that you gave")


def explain_invalid(error: ValidationError, keys: Sequence[str]) -> UserError:
    """The one line for the first thing that the schema refuses; further ones are counted.

    Args:
        error: pydantic's.
        keys: every dotted key that exists, for suggestions.
    """
    details = error.errors(include_url=False)
    first = details[0]
    location = [str(part) for part in first["loc"] if not _is_branch(part)]
    key = ".".join(location)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    kind = first["type"]
    if kind == "extra_forbidden":
        near = _nearest(key, keys)
        return UserError(f"unknown key {key}{more}", f"did you mean {near}?" if near else "remove it")
    if kind == "missing":
        return UserError(f"{key} is missing{more}", "set it, or leave the group as it is")
    if kind == "union_tag_invalid":
        return UserError(f"{key}: unknown strategy class{more}", "choose a strategy by its name: strategy=dp_fedsgd")
    message = first["msg"][0].lower() + first["msg"][1:]
    mend = _TYPES.get(kind, "give a value in that range" if "than" in message else "give such a value")
    return UserError(f"{key}={_shown(first['input'])}: {message}{more}", mend)


def _unknown(key: str, keys: Sequence[str]) -> UserError:
    near = _nearest(key, keys)
    return UserError(
        f"unknown key {key}", f"did you mean {near}?" if near else "see docs/configuration.md for the keys"
    )


def _nearest(key: str, keys: Sequence[str]) -> str | None:
    """The key that was meant: nearly the same path, else nearly the same last part in any group."""
    near = get_close_matches(key, [known for known in keys if known != key], n=1, cutoff=0.75)
    if near:
        return near[0]
    leaves = {known.rsplit(".", 1)[-1]: known for known in reversed(keys) if known != key}
    leaf = get_close_matches(key.rsplit(".", 1)[-1], leaves, n=1, cutoff=0.75)
    return leaves[leaf[0]] if leaf else None


def _meant(word: str, known: Sequence[str]) -> str:
    # A slip of the pen must not lead to less: "on" looks like "none".
    near = get_close_matches(word, [name for name in known if name != "none"], n=1, cutoff=0.6)
    return f"did you mean {near[0]}? Else " if near else ""


def _is_branch(part: object) -> bool:
    """Pydantic names a union's branch in the location; a person did not write it."""
    return isinstance(part, str) and part.startswith("cotune.strategies.")


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
