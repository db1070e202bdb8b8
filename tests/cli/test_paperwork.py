"""Keys and charters from the command line."""

import hashlib
import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cotune.charter.charter import Charter, Member, load, save
from cotune.charter.signing import load_key, public_hex
from cotune.charter.terms import ModelTerms, SecAggTerms, StrategyTerms
from cotune.cli import charter as verbs
from cotune.cli import chat, keys, strategy
from cotune.errors import UserError
from cotune.privacy.noise_shares import NoiseShares, exposures
from cotune.privacy.skellam import grid_for
from cotune.privacy.terms import METRICS, PrivacyTerms

NAMES = ("north", "south", "west")
SGD = {
    "server_optimizer": "sgd",
    "learning_rate": 1.0,
    "momentum": 0.0,
    "beta2": 0.99,
    "stability": 1e-3,
    "averaging": 0.0,
}


@pytest.fixture
def federation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder with a charter of three and everybody's keys; nobody has signed."""
    public = {}
    for name in (*NAMES, "coordinator"):
        keys.new(tmp_path / f"{name}.key")
        public[name] = public_hex(load_key(tmp_path / f"{name}.key"))
    capsys.readouterr()
    schema = (("base_model.model.layer.lora_A.weight", (2, 4)), ("base_model.model.layer.lora_B.weight", (4, 2)))
    digest = "f9c9b4bf7f2c37d0fa4b3a6e3b5c1b3a" * 2
    charter = Charter(
        federation="three",
        epoch=1,
        members=tuple(Member(name=name, public_key=public[name], nominal_units=100) for name in NAMES),
        coordinator=public["coordinator"],
        model=ModelTerms(
            name="tiny",
            base_digest=digest,
            tokenizer_digest=digest,
            rank=2,
            alpha=4.0,
            targets=("q_proj",),
            rslora=False,
            top_layers=0,
            context_length=64,
            adapter_schema=schema,
            schema_digest=_digest(schema),
            initial_seed=1,
        ),
        strategy=StrategyTerms(
            target="cotune.strategies.fedavg.FedAvg",
            settings={
                **SGD,
                "local_steps": 2,
                "local_learning_rate": 0.3,
                "local_optimizer": "sgd",
                "local_beta1": 0.9,
                "local_beta2": 0.999,
                "local_stability": 1e-8,
                "local_weight_decay": 0.0,
                "proximal": 0.0,
            },
        ),
        rounds=3,
        privacy=PrivacyTerms(True, "patient", 8.0, 1e-3, 1.0, 1.0, 0.25, 4, 10.0, 0.1),
        secagg=SecAggTerms(
            suite="classic",
            lane_bits=16,
            range_sigmas=6.0,
            threshold=3,
            min_survivors=3,
            deadline_seconds=60.0,
            audit_rounds=2,
            check_fraction=0.1,
            check_probability=0.99,
        ),
        not_before="2026-01-01T00:00:00Z",
        not_after="2027-01-01T00:00:00Z",
    )
    save(charter, tmp_path / "charter.yaml")
    return tmp_path


def _digest(schema: tuple[tuple[str, tuple[int, ...]], ...]) -> str:
    import hashlib

    lists = [[name, list(shape)] for name, shape in schema]
    return hashlib.sha256(json.dumps(lists, separators=(",", ":")).encode()).hexdigest()


def test_new_key_is_private_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "org.key"
    keys.new(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    printed = capsys.readouterr().out
    assert public_hex(load_key(path)) in printed
    assert "PRIVATE" not in printed
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists"):
        keys.new(path)
    assert path.read_bytes() == before


def test_all_sign_and_it_verifies(federation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = federation / "charter.yaml"
    with pytest.raises(UserError, match="not signed by"):
        verbs.verify(file)
    for name in (*NAMES, "coordinator"):
        verbs.sign(file, federation / f"{name}.key")
    verbs.verify(file)
    assert "signed by all 3 members" in capsys.readouterr().out


def test_one_missing_or_a_changed_charter_does_not_verify(federation: Path) -> None:
    file = federation / "charter.yaml"
    for name in (*NAMES, "coordinator"):
        verbs.sign(file, federation / f"{name}.key")
    signatures = federation / verbs.SIGNATURES
    whole = signatures.read_text()
    signatures.write_text(json.dumps({name: text for name, text in json.loads(whole).items() if name != "west"}))
    with pytest.raises(UserError, match="west"):
        verbs.verify(file)
    signatures.write_text(whole)
    file.write_text(file.read_text().replace("rounds: 3", "rounds: 4"))
    with pytest.raises(UserError, match="does not belong"):
        verbs.verify(file)


def test_a_stranger_cannot_sign(federation: Path) -> None:
    keys.new(federation / "stranger.key")
    with pytest.raises(UserError, match="names nobody"):
        verbs.sign(federation / "charter.yaml", federation / "stranger.key")
    assert not (federation / verbs.SIGNATURES).exists()


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"north": 1}', b'{"north": "zz"}', b"[" * 100_000, b"\xff"])
def test_a_broken_file_of_signatures_is_one_line(federation: Path, content: bytes) -> None:
    (federation / verbs.SIGNATURES).write_bytes(content)
    with pytest.raises(UserError, match="not a file of signatures"):
        verbs.verify(federation / "charter.yaml")


def test_show_says_what_it_binds_to(federation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verbs.show(federation / "charter.yaml")
    printed = capsys.readouterr().out
    for word in ("north", "epsilon 8", "patient", "FedAvg", "rounds       3", "digest"):
        assert word in printed


def test_chat_refuses_a_wrong_folder_before_anything_loads(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        chat.chat(tmp_path / "nowhere")


def test_chat_answers_each_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import cotune.release.chat as room
    import cotune.release.loading as loading

    shown: list[tuple[str, tuple[str, str]]] = []

    class Release:
        def answer(self, prompt: str) -> tuple[str, str]:
            return f"base {prompt}", f"tuned {prompt}"

    opened: list[tuple[object, ...]] = []

    def open_release(*given: object, **_options: object) -> Release:
        opened.append(given)
        return Release()

    monkeypatch.setattr(loading, "open_release", open_release)
    show: Callable[..., None] = lambda console, prompt, answers: shown.append((prompt, answers))  # noqa: E731
    monkeypatch.setattr(room, "show", show)
    monkeypatch.setattr(room, "talk", lambda release, console: shown.append(("talk", ("", ""))))
    chat.chat(tmp_path, ["chat.new_tokens=7"], prompt=["a", "b"])
    assert shown == [("a", ("base a", "tuned a")), ("b", ("base b", "tuned b"))]
    assert opened[0][0] == tmp_path
    assert opened[0][-1] == 7
    chat.chat(tmp_path)
    assert shown[-1][0] == "talk"


def test_show_says_against_whom_shared_noise_holds(federation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = federation / "charter.yaml"
    charter = load(file)
    terms = replace(charter.privacy, trust="honest_majority", organizations=3, colluders=1, dropouts=0)
    strategy = {"target": "cotune.strategies.dp_fedsgd.DPFedSGD", "settings": SGD}
    save(
        type(charter).model_validate(charter.model_dump(by_alias=True) | {"privacy": terms, "strategy": strategy}), file
    )
    verbs.show(file)
    shown = capsys.readouterr().out
    found = exposures(NoiseShares(3, 1, 0), 1.0, 0.25, 3, 1e-3)
    for line in found.lines(NoiseShares(3, 1, 0)):
        assert line in shown
    assert "honest majority" in shown
    assert "each organization adds 0.7071" in shown


def test_a_charter_that_no_node_would_act_under_is_neither_shown_nor_signed(federation: Path) -> None:
    """Local steps under shared noise: the epsilons of one step a round would be far too small."""
    file = federation / "charter.yaml"
    charter = load(file)
    terms = replace(charter.privacy, trust="honest_majority", organizations=3, colluders=1, dropouts=0)
    save(type(charter).model_validate(charter.model_dump(by_alias=True) | {"privacy": terms}), file)
    for verb in (lambda: verbs.show(file), lambda: verbs.sign(file, federation / "north.key")):
        with pytest.raises(UserError, match="honest_majority with FedAvg"):
            verb()


def test_show_says_what_is_trained_and_over_which_basis(federation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = federation / "charter.yaml"
    fields = load(file).model_dump(by_alias=True)
    basis = {
        "digest": "ab" * 32,
        "source": "self_written",
        "whitening": 0.25,
        "spared": 0.16,
        "start": "zero",
        "vocabulary": 2048,
    }
    fields["model"] |= {"form": "core", "basis": basis, "top_layers": 1}
    save(Charter.model_validate(fields), file)
    verbs.show(file)
    shown = " ".join(capsys.readouterr().out.split())
    assert "a core between given directions, rank" in shown
    assert "the last layer:" in shown
    assert "basis self_written, whitening 0.25, spared 0.16, start zero, abababababababab..." in shown
    assert "the loss is taken over 2048 tokens" in shown


def test_show_says_that_noise_is_on_integers(federation: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = federation / "charter.yaml"
    charter = load(file)
    grid = grid_for(charter.privacy.sensitivity, charter.model.dimension + len(METRICS))
    terms = replace(charter.privacy, mechanism="skellam", grid_step=grid.step, dimension=grid.dimension)
    strategy = {"target": "cotune.strategies.dp_fedsgd.DPFedSGD", "settings": SGD}
    save(
        type(charter).model_validate(charter.model_dump(by_alias=True) | {"privacy": terms, "strategy": strategy}), file
    )
    verbs.show(file)
    assert f"(skellam in steps of {grid.step:.4g})" in capsys.readouterr().out


def test_a_strategy_is_shown_and_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import math\nfrom numpy import sign\nraise RuntimeError('it ran')\n")
    strategy.show(file)
    shown = capsys.readouterr().out
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert "imports math, numpy" in shown
    assert shown.count(digest) == 2
