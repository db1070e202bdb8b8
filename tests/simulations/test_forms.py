"""An adapter form through a whole run: basis, charter, homes, the cut, release as plain LoRA."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cotune.adapter.basis import Basis, Directions, load_basis
from cotune.charter import charter as charters
from cotune.client.workbench import lora_of
from cotune.conf.compose import compose
from cotune.conf.rates import settled
from cotune.data.records import Message, Record
from cotune.errors import UserError
from cotune.evaluation.self_written import written
from cotune.simulations import bench, simulate
from cotune.simulations.bases import lora_settings, made_basis
from cotune.simulations.consortium import agreed_basis, filled_in
from cotune.simulations.corpus import load_corpus
from cotune.training.base import load_base
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


def test_a_run_from_basis_to_release(place: Any, public: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    words = ["model.lora.form=core", "model.basis.source=public", "model.basis.vocabulary=40", "rounds=1"]
    report = simulate.run(place.settings(run_dir, *FORM, *words, f"data.public_file={public}"))
    charter = charters.load(run_dir / "server" / "charter.yaml")
    terms = charter.model.basis
    assert terms is not None
    assert (charter.model.form, terms.source, terms.vocabulary) == ("core", "public", 40)
    bases = [load_basis(home / "basis.safetensors") for home in (run_dir / "nodes").iterdir()]
    assert {basis.digest for basis in bases} == {terms.digest}
    answers = 3 + 1  # three labels and the end of the turn
    assert charter.model.dimension == 6 * answers
    assert report.wire is not None
    assert report.arms.federated.accuracy is not None
    release = run_dir / "release"
    config = json.loads((release / "adapter_config.json").read_text())
    assert (config["r"], config["target_modules"]) == (answers, ["down_proj"])
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


@pytest.mark.parametrize("source", ["self_written", "random", "weights", "public"])
def test_a_basis_of_every_source(source: str, place: Any, public: Path, tmp_path: Path) -> None:
    settings = place.settings(
        tmp_path, *FORM, "model.lora.form=ffa", f"model.basis.source={source}", f"data.public_file={public}"
    )
    corpus = load_corpus(settings)
    base = load_base(settings.model, settings.cache, "cpu", "float32")
    settings = settled(settings, [16, 16, 16], answered=True)
    lora = lora_settings(settings)
    basis = made_basis(settings, base, lora, corpus)
    assert made_basis(settings, base, lora, corpus) == basis
    (given,) = basis.modules.values()
    assert given.inputs.shape == (6, 48)
    assert given.outputs is None


def test_text_of_the_models_own_is_different_and_ends(place: Any, tmp_path: Path) -> None:
    settings = place.settings(tmp_path)
    base = load_base(settings.model, settings.cache, "cpu", "float32")
    texts = written(base, (), 40, 24, 64, 1)
    assert len({text.casefold() for text in texts}) == len(texts) == 40
    assert all(0 < len(text.split()) <= 24 for text in texts)
    assert written(base, (), 40, 24, 64, 1) == texts
    assert written(base, (), 40, 24, 64, 2) != texts
    with pytest.raises(UserError, match=r"writes 0 different texts by itself, 5 were asked for: give public text"):
        written(base, (), 5, 24, 64, 1, lambda text: False)


def test_another_basis_than_the_charters_is_refused(tmp_path: Path) -> None:
    given = Directions(np.eye(4, 6, dtype=np.float32), np.eye(8, 3, dtype=np.float32))
    Basis({"m.down_proj": given}).save(tmp_path / "basis")
    terms = SimpleNamespace(digest=Basis({"m.down_proj": given}).digest, vocabulary=0, start="zero")
    model = SimpleNamespace(
        basis=terms, rank=4, alpha=4.0, targets=("down_proj",), rslora=False, top_layers=1, form="core"
    )
    charter: Any = SimpleNamespace(model=model)
    assert lora_of(charter, tmp_path / "basis").basis == Basis({"m.down_proj": given})
    for claim in ({"vocabulary": 2}, {"rank": 5}):
        claimed = SimpleNamespace(**{**vars(model), **{key: claim[key] for key in claim if key == "rank"}})
        claimed.basis = SimpleNamespace(**{**vars(terms), **{key: claim[key] for key in claim if key != "rank"}})
        lying: Any = SimpleNamespace(model=claimed)
        with pytest.raises(UserError, match="the charter says rank"):
            lora_of(lying, tmp_path / "basis")
    Basis({"m.down_proj": Directions(given.inputs[::-1].copy(), given.outputs)}).save(tmp_path / "basis")
    with pytest.raises(UserError, match="is not the basis of the charter: get it from who drafted the charter"):
        lora_of(charter, tmp_path / "basis")
    with pytest.raises(UserError, match=r"cannot read .*nowhere"):
        lora_of(charter, tmp_path / "nowhere")


def test_a_form_without_text_is_a_sentence(place: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"made from public text, and there is none: set data.public_file"):
        simulate.run(place.settings(tmp_path / "run", *FORM, "model.lora.form=core", "model.basis.source=public"))


def test_a_run_that_begins_where_public_rows_lead_to(place: Any, public: Path, tmp_path: Path) -> None:
    """The base model's scores are those of a run that begins at zero; the release holds the start."""
    words = ("model.lora.form=core", "model.basis.source=public", "model.basis.vocabulary=40", "rounds=1")
    settings = [*FORM, *words, f"data.public_file={public}", "simulation.arms=[base,federated,public]"]
    runs = {
        start: simulate.run(place.settings(tmp_path / start, *settings, f"model.basis.start={start}"))
        for start in ("zero", "public")
    }
    bases = [run.arms.base for run in runs.values()]
    assert bases[0].by_organization == bases[1].by_organization
    assert bases[0].nll == pytest.approx(bases[1].nll, rel=1e-4)
    for start in runs:
        charter = charters.load(tmp_path / start / "server" / "charter.yaml")
        assert charter.model.basis is not None
        assert charter.model.basis.start == start
        basis = load_basis(tmp_path / start / "basis.safetensors")
        assert basis.digest == charter.model.basis.digest
        assert basis.started == (start == "public")
        card = (tmp_path / start / "release" / "README.md").read_text()
        assert ("from an adapter trained on public rows" in card) == (start == "public")
    forgotten = [run.forgetting for run in runs.values()]
    assert all(found is not None for found in forgotten)
    # Its start is what the arm has that asks no organization.
    assert runs["public"].arms.public is not None
    assert runs["public"].arms.public.nll < runs["public"].arms.base.nll
    kept = {start: json.loads((tmp_path / start / "arms" / "public.json").read_text()) for start in runs}
    assert {start: [number for number, _ in arm["curve"]] for start, arm in kept.items()} == {
        "zero": [3],
        "public": [0],
    }
    # Another one made of the same settings is the same.
    one = place.settings(tmp_path / "again", *settings, "model.basis.start=public")
    corpus = load_corpus(one)
    one = filled_in(one, corpus)
    base = load_base(one.model, one.cache, "cpu", "float32")
    made = agreed_basis(one, base, lora_settings(one), corpus)
    assert made.started
    assert made == agreed_basis(one, base, lora_settings(one), corpus)


def test_training_begins_at_public_rows_only_where_a_corpus_brings_them() -> None:
    records = {name: [Record((Message("user", name),), "a", unit=name)] for name in "abcd"}
    corpus: Any = SimpleNamespace(organizations=records, answered=records["a"])

    def start(*words: str) -> str | None:
        return filled_in(compose(["privacy.epsilon=1", "experiment=hospitals", *words]), corpus).model.basis.start

    assert start() == "public"
    assert start("model.basis.source=self_written") == "zero"
    assert start("model.basis.source=self_written", "model.basis.start=public") == "public"
    files = ["data=files", "data.files=[a.jsonl,b.jsonl,c.jsonl]", "data.test_file=t.jsonl", "data.public_file=p.jsonl"]
    assert start(*files) == "zero"


def test_a_start_needs_right_answers(place: Any, tmp_path: Path) -> None:
    words = ("model.lora.form=core", "model.basis.source=self_written", "model.basis.start=public")
    with pytest.raises(UserError, match="no right answers of public rows are known"):
        simulate.run(place.settings(tmp_path / "run", *FORM, *words))
    with pytest.raises(UserError, match="plain LoRA has no basis"):
        place.settings(tmp_path / "run", "model.basis.start=public")


def test_a_kept_basis_with_a_start_is_of_the_same_rounds_and_clip(place: Any, public: Path, tmp_path: Path) -> None:
    """A sweep over what a start follows from makes it anew; without one the rounds have no part in the basis."""
    core = (*FORM, "model.lora.form=core", f"data.public_file={public}")

    def digest(*words: str) -> str:
        return bench._digest(place.settings(tmp_path, *core, *words))

    begun = "model.basis.start=public"
    assert digest(begun) != digest(begun, "privacy.max_grad_norm=0.3")
    assert digest(begun) == digest(begun, "strategy.learning_rate=3.0", "strategy.server_optimizer=yogi")
    assert digest(begun) != digest(begun, "rounds=7")
    assert digest(begun) == digest(begun, "privacy.epsilon=3")
    assert digest() == digest("rounds=7", "privacy.max_grad_norm=0.3")
