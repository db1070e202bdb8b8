"""The release folder: what is in it, that others can read it, and that it is never half there."""

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from cotune.adapter.peft_files import LoraSettings
from cotune.adapter.schema import AdapterSchema
from cotune.errors import UserError
from cotune.privacy.accounting import epsilon
from cotune.privacy.noise_shares import NoiseShares, exposures
from cotune.privacy.skellam import grid_for
from cotune.privacy.skellam_account import Segment
from cotune.privacy.spending import epsilons
from cotune.privacy.terms import PrivacyTerms
from cotune.release import folder as releases
from cotune.release.facts import ReleaseFacts
from cotune.release.folder import write_release
from cotune.release.privacy_statement import (
    COVERS,
    PrivacyFacts,
    statement_json,
    statement_markdown,
    statement_sentence,
)
from cotune.release.reading import RELEASE_CONFIG, digest_of, read_release
from cotune.server.run_directory import Attempt
from cotune.server.spent import charged
from cotune.training.source import ModelSource

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
SCHEMA = AdapterSchema((f"{PREFIX}.lora_A.weight", f"{PREFIX}.lora_B.weight"), ((2, 4), (6, 2)))
TERMS = PrivacyTerms(
    enabled=True,
    unit="one patient",
    epsilon=8.0,
    delta=1e-5,
    noise_multiplier=1.1,
    max_grad_norm=0.5,
    sample_rate=0.25,
    records_per_unit=4,
    loss_cap=10.0,
    metrics_weight=0.1,
)


@pytest.fixture
def facts(tmp_path: Path) -> ReleaseFacts:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.jsonl").write_bytes(b'{"round": 1}\n')
    return ReleaseFacts(
        federation="hospitals: a study",
        members=("north", "south", "west"),
        base_name="tiny/llama",
        base_licence="Apache-2.0",
        base_source=ModelSource(name="tiny"),
        base_digest="ab" * 32,
        tokenizer_digest="cd" * 32,
        lora=LoraSettings(rank=2, alpha=4.0, targets=("q_proj",), rslora=False, top_layers=1),
        trained="",
        schema=SCHEMA,
        adapter=np.arange(SCHEMA.dimension, dtype=np.float32),
        context_length=64,
        strategy="DPFedSGD",
        rounds=12,
        planned_rounds=15,
        charter_digest="ef" * 32,
        transcript_head="12" * 32,
        transcript=tmp_path / "run" / "log.jsonl",
        privacy=PrivacyFacts(TERMS, {"north": 7.5, "south": 6.0, "west": 7.75}, {"north": 12, "south": 12, "west": 12}),
        data_cards={"all": "# Data card\n\nPublic terms."},
        form="instruction",
        preamble=(("system", "Medical field?"),),
        hidden_turns=False,
        example_prompt="acute otitis",
        attachments={"charter.yaml": b"federation: hospitals\n"},
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_everything_is_there_and_reads_back(tmp_path: Path, facts: ReleaseFacts) -> None:
    folder = tmp_path / "out" / "release"
    write_release(facts, folder)
    assert names(folder) == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "charter.yaml",
        "cotune.json",
        "privacy_statement.json",
        "privacy_statement.md",
        "README.md",
        "transcript.jsonl",
    }
    released = read_release(folder)
    np.testing.assert_array_equal(released.adapter, facts.adapter)
    assert released.lora == facts.lora
    assert released.schema == facts.schema
    assert released.config.base.source == facts.base_source
    assert released.config.preamble == (("system", "Medical field?"),)
    assert (folder / "transcript.jsonl").read_bytes() == b'{"round": 1}\n'
    assert names(tmp_path / "out") == {"release"}  # nothing is left beside it


def test_the_configuration_holds_the_hash_of_every_other_file(tmp_path: Path, facts: ReleaseFacts) -> None:
    write_release(facts, tmp_path / "release")
    listed = read_release(tmp_path / "release").config.files
    assert set(listed) == names(tmp_path / "release") - {RELEASE_CONFIG}
    assert all(digest_of(tmp_path / "release" / name) == digest for name, digest in listed.items())


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json", "README.md", "transcript.jsonl"])
def test_a_changed_or_missing_file_is_found_in_one_line(tmp_path: Path, facts: ReleaseFacts, name: str) -> None:
    write_release(facts, tmp_path / "release")
    path = tmp_path / "release" / name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=rf"{name}: differs"):
        read_release(tmp_path / "release")
    path.unlink()
    with pytest.raises(UserError, match=rf"{name}: No such file"):
        read_release(tmp_path / "release")


def test_what_is_no_release_is_refused(tmp_path: Path, facts: ReleaseFacts) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read_release(tmp_path / "none")
    with pytest.raises(UserError, match="no release here"):
        read_release(tmp_path)
    write_release(facts, tmp_path / "release")
    config = tmp_path / "release" / RELEASE_CONFIG
    whole = json.loads(config.read_text())
    for changes in ({"release_version": 2}, {"more": 1}, {"files": {"../x": "ab" * 32}}, {"schema_digest": "ab" * 32}):
        config.write_text(json.dumps({**whole, **changes}))
        with pytest.raises(UserError) as caught:
            read_release(tmp_path / "release")
        assert "\n" not in str(caught.value)
    config.write_text("{")
    with pytest.raises(UserError, match=r"cotune\.json"):
        read_release(tmp_path / "release")


def test_the_model_card_says_what_it_must(tmp_path: Path, facts: ReleaseFacts) -> None:
    write_release(facts, tmp_path / "release")
    card = (tmp_path / "release" / "README.md").read_text()
    _, header, body = card.split("---\n", 2)
    meta = yaml.safe_load(header)
    assert meta["base_model"] == "tiny/llama"
    assert meta["license"] == "apache-2.0"
    for words in (
        "north, south, west",
        "licence Apache-2.0",
        "ab" * 32,
        "(7.750, 1.0e-05)",
        "one patient",
        "adding or removing all records of one unit",
        "does not cover",
        "rounds: 12 of 15 planned",
        "ef" * 32,
        "12" * 32,
        "#### Data card",
        "cotune chat",
        "PeftModel.from_pretrained",
        "Medical field?",
    ):
        assert words in body


def test_a_name_with_yaml_in_it_stays_a_name(tmp_path: Path, facts: ReleaseFacts) -> None:
    write_release(replace(facts, base_name='a"\nlicense: mit # b'), tmp_path / "release")
    header = (tmp_path / "release" / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(header)["base_model"] == 'a"\nlicense: mit # b'
    assert yaml.safe_load(header)["license"] == "apache-2.0"


def test_the_privacy_statement(tmp_path: Path, facts: ReleaseFacts) -> None:
    write_release(facts, tmp_path / "release")
    found = json.loads((tmp_path / "release" / "privacy_statement.json").read_text())
    assert found["epsilon_max"] == 7.75
    assert found["delta"] == 1e-5
    assert found["unit"] == "one patient"
    assert found["adjacency"] == "add or remove all records of one unit"
    assert found["by_organization"] == {"north": 7.5, "south": 6.0, "west": 7.75}
    assert found["does_not_cover"]
    text = (tmp_path / "release" / "privacy_statement.md").read_text()
    assert "| west | 7.750 | 1.0e-05 | 12 |" in text
    assert found["sentence"] in text


def test_without_privacy_nothing_is_promised(tmp_path: Path, facts: ReleaseFacts) -> None:
    off = PrivacyFacts(TERMS.without_noise, {}, {})
    write_release(replace(facts, privacy=off), tmp_path / "release")
    found = json.loads((tmp_path / "release" / "privacy_statement.json").read_text())
    assert found["enabled"] is False
    assert found["epsilon_max"] is None
    assert found["delta"] is None
    assert "without differential privacy" in (tmp_path / "release" / "README.md").read_text()
    with pytest.raises(ValueError, match="no epsilon"):
        PrivacyFacts(off.terms, {"north": 1.0}, {})
    with pytest.raises(ValueError, match="states the epsilon"):
        PrivacyFacts(TERMS, {}, {})


def test_the_sentence_has_the_largest_epsilon(facts: ReleaseFacts) -> None:
    assert "7.75" in statement_sentence(facts.privacy)


def test_an_earlier_release_is_replaced_whole(tmp_path: Path, facts: ReleaseFacts) -> None:
    folder = tmp_path / "release"
    write_release(facts, folder)
    write_release(replace(facts, adapter=facts.adapter * 2, attachments={}), folder)
    np.testing.assert_array_equal(read_release(folder).adapter, facts.adapter * 2)
    assert not (folder / "charter.yaml").exists()
    assert names(tmp_path) == {"release", "run"}


def test_a_release_that_is_not_proved_is_not_written(tmp_path: Path, facts: ReleaseFacts) -> None:
    seen: list[set[str]] = []

    def refuse(made: Path) -> None:
        read_release(made)
        seen.append(names(made))
        raise UserError("another model", "mend it")

    folder = tmp_path / "release"
    with pytest.raises(UserError, match="another model"):
        write_release(facts, folder, refuse)
    assert names(tmp_path) == {"run"}
    write_release(facts, folder, lambda made: None)
    before = (folder / RELEASE_CONFIG).read_bytes()
    with pytest.raises(UserError, match="another model"):
        write_release(replace(facts, rounds=13), folder, refuse)
    assert (folder / RELEASE_CONFIG).read_bytes() == before
    assert names(tmp_path) == {"run", "release"}
    assert seen == [names(folder)] * 2


def test_a_folder_of_somebody_else_is_never_touched(tmp_path: Path, facts: ReleaseFacts) -> None:
    folder = tmp_path / "release"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="not a release"):
        write_release(facts, folder)
    assert names(folder) == {"thesis.txt"}
    shutil.rmtree(folder)
    folder.mkdir()
    write_release(facts, folder)  # an empty folder is fine
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="not a folder"):
        write_release(facts, tmp_path / "file")


@pytest.mark.parametrize("step", ["model_card", "statement_json", "export_peft", "digest_of"])
def test_a_failure_at_any_step_leaves_what_was_there(
    tmp_path: Path, facts: ReleaseFacts, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = tmp_path / "release"
    write_release(facts, folder)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(releases, step, full)
    with pytest.raises(UserError, match="No space left"):
        write_release(replace(facts, adapter=facts.adapter * 2), folder)
    np.testing.assert_array_equal(read_release(folder).adapter, facts.adapter)
    assert names(tmp_path) == {"release", "run"}
    with pytest.raises(UserError, match="No space left"):
        write_release(facts, tmp_path / "other")
    assert names(tmp_path) == {"release", "run"}


def test_a_failing_rename_brings_the_earlier_release_back(
    tmp_path: Path, facts: ReleaseFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "release"
    write_release(facts, folder)
    real = os.rename

    def rename(source: str | Path, target: str | Path, **options: object) -> None:
        if Path(target) == folder and ".earlier" not in str(source):
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(UserError, match="Input/output"):
        write_release(replace(facts, adapter=facts.adapter * 2), folder)
    np.testing.assert_array_equal(read_release(folder).adapter, facts.adapter)


def test_bad_facts(tmp_path: Path, facts: ReleaseFacts) -> None:
    broken = facts.adapter.copy()
    broken[3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        write_release(replace(facts, adapter=broken), tmp_path / "release")
    for name in ("../x", "README.md", RELEASE_CONFIG, "a/b", "report.json", "Charter.yaml", "x"):
        with pytest.raises(ValueError, match="no part of a release"):
            write_release(replace(facts, attachments={name: b""}), tmp_path / "release")
    with pytest.raises(UserError, match="log"):
        write_release(replace(facts, transcript=tmp_path / "no" / "log.jsonl"), tmp_path / "release")
    assert names(tmp_path) == {"run"}


def test_shared_noise_is_said_with_all_three_epsilons() -> None:
    terms = replace(TERMS, trust="honest_majority", organizations=3, colluders=1, dropouts=0)
    steps = {"north": 12, "south": 7, "west": 12}
    facts = PrivacyFacts(terms, {"north": 7.75, "south": 6.0, "west": 7.75}, steps)
    found = exposures(NoiseShares(3, 1, 0), terms.noise_multiplier, terms.sample_rate, 12, terms.delta)
    sentence, markdown, machine = statement_sentence(facts), statement_markdown(facts), statement_json(facts)
    for line in found.lines(NoiseShares(3, 1, 0)):
        assert line in sentence
        assert line in markdown
    assert "does not rely" not in sentence
    assert "honest majority" in sentence
    assert machine["exposures"] == asdict(found)
    assert machine["trust"] == "honest_majority"
    assert found.outsider < found.colluding < found.alone
    assert not set(COVERS) & set(machine["covers"])
    assert f"{terms.own_multiplier:.4g} times" in markdown
    plain = PrivacyFacts(TERMS, {"north": 7.5}, {"north": 12})
    assert statement_json(plain)["exposures"] is None
    assert "does not rely on secure aggregation" in statement_sentence(plain)


def test_noise_on_integers_is_said() -> None:
    grid = grid_for(TERMS.sensitivity, 1_003)
    terms = replace(TERMS, mechanism="skellam", grid_step=grid.step, dimension=grid.dimension)
    markdown = statement_markdown(PrivacyFacts(terms, {"north": 7.5}, {"north": 12}))
    assert f"in whole steps of {grid.step:.4g}, to which the sum is rounded at random" in markdown
    assert "Mechanism: Skellam noise of" in markdown
    assert "Gaussian" not in markdown
    assert statement_json(PrivacyFacts(terms, {"north": 7.5}, {"north": 12}))["terms"]["grid_step"] == grid.step
    # The coordinator counts as the ledgers do.
    assert epsilons(terms, 1, {"north": 3})["north"] == epsilon(
        [Segment(grid, TERMS.noise_multiplier, TERMS.sample_rate, 3)], TERMS.delta
    )


def test_each_attempt_with_shared_noise_counts() -> None:
    """Who trained in two attempts at a round released twice; without sharing it sent the same again."""
    noted = [Attempt(0, 0, False, trained=(0, 1)), Attempt(0, 1, False, trained=None), Attempt(0, 2, True)]
    assert charged(noted, (0,), 3) == {0: 1, 1: 1, 2: 1}
    assert charged(noted, (0,), 3, shared_noise=True) == {0: 3, 1: 2, 2: 1}


def test_an_attempt_that_ended_before_the_uploads_sent_nothing() -> None:
    """Its vectors are those of the next attempt, or are lost; who was only in such attempts still counts once."""
    noted = [Attempt(0, number, False, trained=(0, 1), sent=False) for number in range(3)] + [Attempt(0, 3, True)]
    assert charged(noted, (0,), 3, shared_noise=True) == charged(noted, (0,), 3) == {0: 1, 1: 1}
    assert charged([*noted, Attempt(0, 2, False, trained=(1, 2))], (0,), 3, shared_noise=True) == {0: 1, 1: 1, 2: 1}
