"""The comparison without privacy: every arm runs, and Flower's loop passes over each row once."""

import importlib.util
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "without_privacy.py"
ARMS = ("base", "flower", "cotune-same", "cotune-lora", "cotune-core", "flower-opacus", "cotune-private")


def simulation_fixtures() -> Any:
    """The tiny model and its files, of the simulations' tests."""
    spec = importlib.util.spec_from_file_location("tiny_place", Path(__file__).parents[1] / "simulations/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_place"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    tiny, root = simulation_fixtures(), tmp_path_factory.mktemp("flower")
    files = [tiny.write_rows(root / f"{name}.jsonl", 16, seed) for seed, name in enumerate(("north", "south", "west"))]
    return [
        "experiment=custom",
        "model=local",
        f"model.name={tiny.save_model(root / 'model')}",
        "model.device=cpu",
        "model.dtype=float32",
        "model.context_length=32",
        "model.lora.rank=4",
        "data.rows_are_units=true",
        f"data.files=[{','.join(map(str, files))}]",
        f"data.test_file={tiny.write_rows(root / 'test.jsonl', 12, 99)}",
        f"cache={root / 'cache'}",
    ]


def lines_of(words: list[str], folder: Path, *options: str) -> list[dict[str, Any]]:
    out = folder / "lines.json"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words, "--json", str(out), *options], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text())  # type: ignore[no-any-return]


@pytest.mark.slow
def test_every_arm_passes_over_the_rows_once(words: list[str], tmp_path: Path) -> None:
    options = ("--batch", "4", "--local-steps", "3", "--rates", "0.01", "--arms", *ARMS)
    found = {line["arm"]: line for line in lines_of(words, tmp_path, *options)}
    assert tuple(found) == ARMS
    assert found["flower"]["trained"] == found["cotune-same"]["trained"] > 0
    assert found["base"]["cpu_s"] == 0 < found["flower"]["cpu_s"]
    for arm in ("flower", "cotune-same", "cotune-lora", "cotune-core", "flower-opacus"):
        assert found[arm]["passes"] == 3 * 32
    assert found["cotune-private"]["passes"] == 20 * 3 * 32


@pytest.fixture
def stock(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from stock import flowertune

    return flowertune


def test_the_rate_falls_as_a_cosine(stock: Any) -> None:
    recipe = stock.Recipe(rate=1.0, last_rate=0.0)
    assert recipe.rate_in(1, 2) == pytest.approx(0.5)
    assert recipe.rate_in(2, 2) == pytest.approx(0.0)
    assert stock.Recipe(batch=4, local_steps=3).rounds(25) == 3


def test_few_rows_make_short_rounds(stock: Any) -> None:
    """Of the example's ten steps none is left out for a hospital's 1200 rows; one round would be at the lowest rate."""
    recipe = stock.Recipe()
    assert recipe.fitted(1200) == recipe
    for rows in (16, 64, 200):
        assert recipe.fitted(rows).local_steps == 1
    assert recipe.fitted(64).rounds(64) == 4


def test_the_mean_is_weighted_by_rows(stock: Any) -> None:
    import torch

    mean = stock.average([{"a": torch.tensor([1.0])}, {"a": torch.tensor([4.0])}], [2, 1])
    assert mean["a"].tolist() == pytest.approx([2.0])


def test_loss_is_on_the_answer_only(stock: Any) -> None:
    tokens, mask, labels = stock.padded([([5, 6, 7], 2), ([5, 6, 7, 8], 1)], 0)
    assert tokens.tolist() == [[5, 6, 7, 0], [5, 6, 7, 8]]
    assert mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    ignored = stock.IGNORED
    assert labels.tolist() == [[ignored, ignored, 7, ignored], [ignored, 6, 7, 8]]


def test_every_row_once_in_one_epoch(stock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client's rows pass once over the rounds, none of another's, whatever the sizes are."""
    import torch

    class Nothing:
        def eval(self) -> None:
            pass

    seen: list[int] = []
    monkeypatch.setattr(stock, "copied", lambda model: {"a": torch.zeros(1)})
    monkeypatch.setattr(stock, "set_peft_model_state_dict", lambda model, state: None)
    monkeypatch.setattr(stock, "_fit", lambda model, rows, recipe, rate, pad: seen.extend(row for row, _ in rows))
    draw = random.Random(1)
    clients = [[(100 * client + row, 0) for row in range(draw.randrange(1, 30))] for client in range(4)]
    stock.train(Nothing(), clients, stock.Recipe(batch=2, local_steps=3), 0, 1)
    assert sorted(seen) == sorted(row for rows in clients for row, _ in rows)
