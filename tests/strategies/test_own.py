"""Strategies of one's own: what is hashed is what runs, and a file that the digest does not cover is refused."""

import hashlib
from pathlib import Path
from typing import Any

import cotune
import numpy as np
import pytest
from cotune.adapter.part import whole
from cotune.adapter.schema import AdapterSchema
from cotune.errors import UserError
from cotune.privacy.sampling import SeededRandomness
from cotune.privacy.terms import METRICS, PrivacyTerms
from cotune.strategies import own
from cotune.strategies.derived import made
from cotune.strategies.paid import PaidSteps, UnpaidError, contribute

EXAMPLE = Path(cotune.__file__).parent / "docs" / "tutorials" / "sign_sgd.py"
TERMS = PrivacyTerms(True, "row", 8.0, 1e-5, 1.5, 0.05, 0.5, 1, 10.0, 0.1)
SCHEMA = AdapterSchema(("base_model.model.a.lora_A.weight", "base_model.model.a.lora_B.weight"), ((2, 4), (3, 2)))
HEAD = "from cotune.strategies.dp_fedsgd import DPFedSGD\n"


class Noise:
    """A trainer over no records."""

    def private_sum(self, adapter: Any, terms: PrivacyTerms, randomness: Any, part: Any = None) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(len(adapter) if part is None else part.size) + len(METRICS))


def written(folder: Path, text: str) -> Path:
    file = folder / "mine.py"
    file.write_bytes(text.encode())
    return file


def sent(rule: Any) -> np.ndarray:
    part = whole(SCHEMA)
    return contribute(Noise(), rule, np.zeros(part.size, np.float32), part, TERMS, 4.0, SeededRandomness(0))


def test_the_example_is_a_strategy() -> None:
    code = own.installed(EXAMPLE)
    names = own.classes(own._INSTALLED[code.digest])
    assert (code.digest, names) == (hashlib.sha256(EXAMPLE.read_bytes()).hexdigest(), ["SignSGD"])
    rule = made("SignSGD", code.digest, {"learning_rate": 0.5, "decay": 0.5, "averaging": 0.0})
    assert (rule.steps_per_round, rule.one_noised_gradient) == (1, True)
    part, state = whole(SCHEMA), rule.start(SCHEMA.dimension)
    adapter = np.zeros(part.size, np.float32)
    for step in (0.5, 0.25, 0.125):
        total = sent(rule)[: part.size]
        moved, state = rule.apply(adapter, state, part, total, 4.0, 3)
        np.testing.assert_array_equal(moved, adapter - np.float32(step) * np.sign(total).astype(np.float32))
        adapter = moved
    with pytest.raises(UserError, match="decay is not in"):
        made("SignSGD", code.digest, {"decay": 2.0})
    with pytest.raises(UserError, match="unexpected keyword"):
        made("SignSGD", code.digest, {"unknown": 2.0})


def test_only_what_was_installed_is_found(tmp_path: Path) -> None:
    code = own.read_code(written(tmp_path, HEAD + f"class Mine(DPFedSGD):\n    '{tmp_path}'\n"))
    with pytest.raises(UserError, match="not installed here"):
        own.class_of("Mine", code.digest)
    own.install(code)
    assert own.class_of("Mine", code.digest).__name__ == "Mine"
    with pytest.raises(UserError, match="has no class Other: name one of its strategies: Mine"):
        own.class_of("Other", code.digest)
    # What is imported is no strategy of the file.
    assert own.classes(own._INSTALLED[code.digest]) == ["Mine"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import torch\n", "line 1: it imports torch"),
        ("import numpy\nimport pandas.io\n", "line 2: it imports pandas.io"),
        ("from .beside import Rule\n", "line 1: it imports what lies beside it"),
        ("from . import beside\n", "line 1: it imports what lies beside it"),
        ("def late():\n    import requests\n", "line 2: it imports requests"),
        ("class (:\n", "not Python, line 1"),
        ("a = '\x00'\n", r"line 1: it holds the character U\+0000"),
        ("# -*- coding: utf-7 -*-\n# plain +AAo-import os as hidden\n", "declares the encoding utf-7"),
        ("# coding: raw_unicode_escape\n# \\u000aimport os\n", "declares the encoding"),
        ("# coding: latin-1\n", "declares the encoding"),
        ("a = 1  # \u202e hidden\n", r"line 1: it holds the character U\+202E"),
        ("a = 1\n\rimport os\n", r"line 2: it holds the character U\+000D"),
        ("a = 1\x1b[2K\n", r"U\+001B"),
        ("a = 1\x0cimport os\n", r"U\+000C"),
        ("\ufeffa = 1\n", r"declares the encoding utf-8-sig"),
        ("(" * 5000 + "\n", "not Python"),
        ("-" * 200_000 + "1\n", "not Python"),
        ("raise RuntimeError('no\\nway')\n", "RuntimeError: no way"),
        ("#" * (own.MOST_BYTES + 1), "longer than"),
    ],
)
def test_a_file_that_cannot_be_one(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=reason) as caught:
        own.installed(written(tmp_path, text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["Mine = 3\n", "class Mine:\n    turns = 1\n", "Mine = DPFedSGD\nclass Mine: pass\n"])
def test_a_class_that_is_no_strategy(text: str, tmp_path: Path) -> None:
    code = own.installed(written(tmp_path, HEAD + text))
    with pytest.raises(UserError, match="has no"):
        own.class_of("Mine", code.digest)


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("mine.py", "names no class"),
        (":Mine", "names no class"),
        ("mine.py:not a name", "names no class"),
        ("no.such.module:Mine", "there is no module no.such.module"),
        ("math:Mine", "there is no module math"),
    ],
)
def test_a_place_that_names_nothing(place: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        own.located(place)


def test_a_place_in_a_module_and_in_a_file() -> None:
    assert own.located("mine.py:Mine") == (Path("mine.py").absolute(), "Mine")
    file, name = own.located("cotune.strategies.ffa:FFALoRA")
    assert (file.name, name) == ("ffa.py", "FFALoRA")


CHEATS = {
    "twice": "a = trainer.private_sum(adapter, terms, randomness, part); b = trainer.private_sum(adapter, terms, "
    "randomness, part); return a",
    "other terms": "from dataclasses import replace; return trainer.private_sum(adapter, replace(terms, "
    "noise_multiplier=0.1), randomness, part)",
    "something else": "return 2 * trainer.private_sum(adapter, terms, randomness, part)",
    "own coins": "from cotune.privacy.sampling import SeededRandomness; return trainer.private_sum(adapter, terms, "
    "SeededRandomness(0), part)",
    "in place": "a = trainer.private_sum(adapter, terms, randomness, part); a *= 2; return a",
    "nothing": "import numpy; return numpy.zeros(part.size + 4)",
}


@pytest.mark.parametrize("body", CHEATS.values(), ids=CHEATS.keys())
def test_a_strategy_gets_what_was_paid_for_and_sends_what_it_says(body: str, tmp_path: Path) -> None:
    text = (
        HEAD
        + "class Mine(DPFedSGD):\n    def local(self, trainer, adapter, part, terms, batch, randomness):\n"
        + f"        {body}\n"
    )
    code = own.installed(written(tmp_path, text))
    settings = {"learning_rate": 1.0, "momentum": 0.0, "beta2": 0.9, "stability": 1e-8, "averaging": 0.0}
    rule = made("Mine", code.digest, {"server_optimizer": "sgd", **settings})
    with pytest.raises(UnpaidError):
        sent(rule)


def test_paid_steps_end() -> None:
    coins = SeededRandomness(0)
    paid = PaidSteps(Noise(), TERMS, 2, coins)
    for _ in range(2):
        paid.private_sum(np.zeros(3, np.float32), TERMS, coins)
    with pytest.raises(UnpaidError, match="more steps"):
        paid.private_sum(np.zeros(3, np.float32), TERMS, coins)


def test_what_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_bytes(b"a = '\xff'\n")
    with pytest.raises(UserError, match="not UTF-8"):
        own.read_code(tmp_path / "mine.py")
