"""An adapter form through a whole run: basis, charter, homes, the cut, release as plain LoRA."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.charter import charter as charters
from cotune.errors import UserError
from cotune.simulations import simulate
from cotune.training.basis import Basis, load_basis
from peft import PeftModel
from transformers import AutoModelForCausalLM

pytestmark = pytest.mark.slow

FORM = (
    "model.lora.targets=[down_proj]",
    "model.lora.rank=6",
    "model.lora.alpha=6",
    "model.top_layers=1",
    "model.cache_features=true",
    "privacy.sample_rate=1.0",
    "strategy.server_optimizer=sgd",
    "strategy.learning_rate=2.0",
)


@pytest.fixture(scope="module")
def public(rows: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows(tmp_path_factory.mktemp("public") / "public.jsonl", 12, 7)


@pytest.mark.parametrize(("form", "source"), [("core", "public"), ("ffa", "self_written")])
def test_a_run_from_basis_to_release(form: str, source: str, place: Any, public: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = [f"model.lora.form={form}", f"model.basis.source={source}", "model.basis.vocabulary=40"]
    report = simulate.run(place.settings(run_dir, *FORM, *words, f"data.public_file={public}"))
    charter = charters.load(run_dir / "server" / "charter.yaml")
    terms = charter.model.basis
    assert terms is not None
    assert (charter.model.form, terms.source, terms.vocabulary) == (form, source, 40)
    bases = [load_basis(home / "basis.safetensors") for home in (run_dir / "nodes").iterdir()]
    assert {basis.digest for basis in bases} == {terms.digest}
    answers = 3 + 1  # three labels and the end of the turn
    assert charter.model.dimension == (6 * answers if form == "core" else 6 * 32)
    assert report.wire is not None
    assert report.arms.federated.accuracy is not None
    release = run_dir / "release"
    config = json.loads((release / "adapter_config.json").read_text())
    assert (config["r"], config["target_modules"]) == (answers if form == "core" else 6, ["down_proj"])
    assert terms.digest[:16] in (release / "README.md").read_text()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place.model), release)
    product = [
        module.lora_B["default"].weight @ module.lora_A["default"].weight
        for name, module in model.named_modules()
        if name.endswith("down_proj") and hasattr(module, "lora_A")
    ]
    assert float(product[0].abs().max()) > 0
    given = next(iter(bases[0].modules.values()))
    outside = product[0].detach().numpy() @ (np.eye(48) - np.linalg.pinv(given.inputs) @ given.inputs)
    assert np.abs(outside).max() < 1e-4 * float(product[0].abs().max())


def test_another_basis_than_the_charters_is_refused(place: Any, public: Path, tmp_path: Path) -> None:
    """A file that was exchanged in one home: that node trains nothing under it."""
    run_dir = tmp_path / "run"
    words = (*FORM, "model.lora.form=core", f"data.public_file={public}", "simulation.arms=[base]")
    simulate.run(place.settings(run_dir, *words))
    for home in (run_dir / "nodes").iterdir():
        found = load_basis(home / "basis.safetensors")
        (path, given), *_ = found.modules.items()
        Basis({path: type(given)(given.inputs[::-1].copy(), given.outputs)}, found.tokens).save(
            home / "basis.safetensors"
        )
    words = (*words[:-1], "simulation.arms=[base,federated]")
    with pytest.raises(UserError, match=r"too few members|no member"):
        simulate.run(place.settings(run_dir, *words))
    logs = [(home / "node.log").read_text() for home in (run_dir / "nodes").iterdir()]
    assert all("is not the basis of the charter" in log for log in logs)


def test_a_form_without_text_is_a_sentence(place: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"made from public text, and there is none: set data.public_file"):
        simulate.run(place.settings(tmp_path / "run", *FORM, "model.lora.form=core"))
