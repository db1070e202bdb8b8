"""What a person types becomes settings, or one line that says how to mend it."""

import re
from pathlib import Path

import pytest
from cotune.conf.compose import FOLDER, choices, compose, keys, study_sweep, sweep
from cotune.conf.explain import REFUSED
from cotune.errors import UserError
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        compose(list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_defaults_compose_to_the_hospitals() -> None:
    run = compose([])
    assert (run.name, run.data.corpus, run.privacy.enabled) == ("hospitals", "icd10", True)
    assert run.run_dir == Path("runs/hospitals")
    assert run.privacy.epsilon == 8


EXAMPLE = FOLDER.parent / "docs" / "tutorials" / "sign_sgd.py"


def test_every_choice_of_every_group_composes_or_says_what_it_needs() -> None:
    files = ["data.files=[a,b,c]", "data.test_file=t"]
    plain = ["recipe=lora"]
    needed = {
        "model": {"local": ["model.name=m"]},
        "data": {"files": files, "phenotypes": plain, "own": ["data.code=mine.py:build"]},
        "experiment": {"custom": files},
        "strategy": {
            "rolora": plain,
            "ffa": plain,
            "own": [f"strategy.code={EXAMPLE}:SignSGD"],
        },
        "recipe": {"text": ["data=phenotypes"]},
    }
    for group, names in choices().items():
        for name in names:
            compose([f"{group}={name}", *needed.get(group, {}).get(name, [])])


def test_experiment_sets_and_the_command_line_wins() -> None:
    assert compose(["experiment=law_firms"]).data.corpus == "clauses"
    assert compose(["experiment=law_firms", "data=icd10"]).data.corpus == "icd10"
    assert compose(["experiment=law_firms", "rounds=3"]).rounds == 3
    assert compose(["experiment=custom", "data=icd10"]).data.corpus == "icd10"
    with pytest.raises(UserError, match=r"data\.files is not set"):
        compose(["experiment=custom"])


def test_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COTUNE_CACHE", "/somewhere/else")
    assert compose([]).cache == Path("/somewhere/else")
    monkeypatch.delenv("COTUNE_CACHE")
    assert compose([]).cache == Path("~/.cache/cotune").expanduser()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        compose([]).seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("privacy.epsilom=3", "did you mean privacy.epsilon?"),
        ("modle.name=x", "did you mean model.name?"),
        ("epsilon=3", "did you mean privacy.epsilon?"),
        ("+privacy.epsilo=1", "did you mean privacy.epsilon?"),
        ("data=clausses", "did you mean clauses?"),
        ("privacy=on", "named 'on': choose from"),  # no word suggests privacy=none
        ("privacy=nope", "named 'nope': choose from"),
        ("privacy=off", "choose from dp, none"),
        ("qwertyuiop=1", "docs/configuration.md"),
        ("~privacy.epsilon", "privacy.epsilon is missing"),
        ("seed='1'", "write a whole number"),
        ("seed=1.5", "write a whole number"),
        ("rounds=null", "write a whole number"),
        ("data.rows_are_units=yes_please", "write true or false"),
        ("strategy=flora", "FLoRA stacks every organization's own B and A, and secure aggregation shows"),
        ("strategy=fedex", "FedEx-LoRA takes its residual"),
        ("secagg=none", "would show the coordinator every organization's update"),
        ("strategy=fedx", "choose from dp_fedsgd, fedavg, ffa, own, rolora"),
        ("privacy.epsilon=0", "greater than 0"),
        ("privacy.epsilon=-1", "greater than 0"),
        ("privacy.epsilon=nan", "finite"),
        ("privacy.sample_rate=0", "greater than 0"),
        ("privacy.sample_rate=1.01", "less than or equal to 1"),
        ("secagg.lane_bits=3", "greater than or equal to 8"),
        ("secagg.lane_bits=33", "less than or equal to 32"),
        ("simulation.arms=[base,bse]", "simulation.arms"),
        ("name=../elsewhere", "name"),
        ("strategy._target_=os.system", "choose a strategy by its name"),
        ("strategy.local_steps=3", "unknown key strategy.local_steps"),
        ("model=local", "model.name is not set"),
        ("data=files", "data.files is not set"),
        ("seed=1,2", "add -m"),
        ("hydra.run.dir=x", "no effect"),
        ("cache=${nothing}", "cache"),
        ("a b", "cannot read"),
        ("=3", "cannot read"),
    ],
)
def test_a_mistake_is_one_line_that_says_how_to_mend_it(override: str, said: str) -> None:
    assert said in refusal(override)


@pytest.mark.parametrize("files", ["a.jsonl", "3", "{a: b}", "null"])
def test_files_that_are_no_list_are_said_to_be_none(files: str) -> None:
    said = refusal("data=files", "data.test_file=t.jsonl", f"data.files={files}")
    assert said.startswith("data.files=")
    assert said.endswith("write a list: [first,second]")


def test_an_empty_list_of_files_asks_for_three() -> None:
    said = refusal("data=files", "data.test_file=t.jsonl", "data.files=[]", "recipe=lora")
    assert said.endswith("name the files of at least 3 organizations in data.files")


@pytest.mark.parametrize("refused", REFUSED, ids="=".join)
def test_what_is_refused_by_name_is_no_choice_and_says_why(refused: tuple[str, str]) -> None:
    group, name = refused
    assert name not in choices()[group]
    why, mend = REFUSED[refused]
    for others in ([], ["rounds=3", "privacy=none"]):
        assert refusal(*others, f"{group}={name}") == f"{group}={name}: {why}: {mend}"
    for choice in re.findall(r"(\w+)=(\w+)", mend):
        compose(["=".join(choice)])


def test_known_keys_of_a_chosen_group_are_not_called_unknown() -> None:
    assert "strategy.local_steps" in keys(["strategy=fedavg"])
    assert compose(["strategy=fedavg", "strategy.local_steps=3"]).strategy.steps_per_round == 3
    assert "unknown key privacy.epsilo" in refusal("strategy=fedavg", "strategy.local_steps=3", "privacy.epsilo=3")


def test_options_are_the_strategys_arguments() -> None:
    options = compose(["strategy=fedavg"]).strategy.options
    server = {"server_optimizer", "learning_rate", "momentum", "beta2", "stability", "averaging"}
    home = {"steps", "learning_rate", "optimizer", "beta1", "beta2", "stability", "weight_decay"}
    assert set(options) == {"proximal", *server, *(f"local_{name}" for name in home)}


@pytest.mark.parametrize("name", ["dp_fedsgd", "rolora", "ffa", "fedavg"])
def test_the_options_make_the_class_that_they_name(name: str) -> None:
    """As a charter makes it; each YAML's defaults are within the class' own ranges."""
    more = ["strategy.server_optimizer=adam", "strategy.learning_rate=0.5"]  # null follows from the run
    more += ["strategy.local_learning_rate=0.5"] if name == "fedavg" else []
    chosen = compose([f"strategy={name}", "recipe=lora", *more]).strategy
    rule = instantiate({"_target_": chosen.target, **chosen.options})
    assert rule.steps_per_round == chosen.steps_per_round


def test_files_are_counted() -> None:
    line = ["data=files", "data.files=[a.jsonl,b.jsonl,c.jsonl]", "data.test_file=t.jsonl"]
    assert compose(line).data.organizations == 3
    assert compose(line).data.files == (Path("a.jsonl"), Path("b.jsonl"), Path("c.jsonl"))


def test_sweep_is_the_product_and_folders_differ() -> None:
    runs = sweep(["seed=1,2,3", "privacy.epsilon=1,8", "rounds=5"])
    assert [(run.seed, run.privacy.epsilon) for run in runs] == [(s, e) for s in (1, 2, 3) for e in (1.0, 8.0)]
    assert {run.rounds for run in runs} == {5}
    assert len({run.run_dir for run in runs}) == 6


def test_sweep_of_ranges_lists_and_one_value() -> None:
    assert [run.seed for run in sweep(["seed=range(1,4)"])] == [1, 2, 3]
    assert [run.model.lora.targets for run in sweep(["model.lora.targets=[q_proj],[q_proj,v_proj]"])] == [
        ("q_proj",),
        ("q_proj", "v_proj"),
    ]
    assert sweep(["seed=4"]) == [compose(["seed=4"])]


def test_sweep_over_a_glob_of_a_group() -> None:
    assert [run.strategy.target.rsplit(".", 1)[-1] for run in sweep(["strategy=glob(d*)"])] == ["DPFedSGD"]


def test_sweep_refuses_before_it_returns_any() -> None:
    with pytest.raises(UserError, match="greater than 0"):
        sweep(["privacy.epsilon=8,0"])
    with pytest.raises(UserError, match="same values"):
        sweep(["seed=1,1"])


def test_study_has_two_corpora_three_seeds_and_every_arm() -> None:
    runs = study_sweep([])
    assert {(run.data.corpus, run.seed) for run in runs} == {(c, s) for c in ("icd10", "clauses") for s in (1, 2, 3)}
    assert all("pooled" in run.simulation.arms for run in runs)
    assert {run.seed for run in study_sweep(["seed=7"])} == {7}


@given(key=st.sampled_from(keys()), junk=st.text(min_size=0, max_size=12))
@settings(max_examples=15, deadline=None)
def test_any_value_of_any_key_gives_settings_or_a_user_error(key: str, junk: str) -> None:
    said = ""
    try:
        compose([f"{key}={junk}"])
    except UserError as error:
        said = str(error)
    assert "\n" not in said
