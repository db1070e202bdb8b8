"""What `cotune study strategies` compares: every point composes, is charged alike, and a person's words win."""

from itertools import product

import pytest
from cotune.conf.methods import Comparison, comparison, refusal
from cotune.errors import UserError


def test_every_point_of_the_plan_composes() -> None:
    study = comparison([])
    assert len(study.methods) == 8
    assert (len(study.experiments), study.epsilons[0], len(study.seeds)) == (2, "privacy.epsilon=8", 3)
    for method, experiment in product(study.methods, study.experiments):
        for tried in method.tried:
            settings = study.settings(method, tried, tried.start, experiment, study.epsilons[0])
            assert settings.simulation.judge == "validation"
            assert study.settings(method, tried, 1.0, experiment, "privacy.epsilon=8", "seed=2").seed == 2
            rates = settings.strategy.options
            assert rates[tried.key.removeprefix("strategy.")] == tried.start


def test_what_is_not_the_method_is_the_same_for_all() -> None:
    study = comparison(["experiment=hospitals"])
    alike = set()
    for method in study.methods:
        settings = study.settings(method, method.tried[0], 1.0, study.experiments[0], study.epsilons[0])
        facts = settings.model_dump(mode="json", exclude={"strategy"})
        facts["model"].pop("lora")
        facts["model"].pop("basis")
        clip = facts["privacy"].pop("max_grad_norm")
        assert clip == (0.02 if method.name == "ffa_public" else 0.2)
        alike.add(str(facts))
        assert settings.model.lora.targets == ("down_proj",)
    assert len(alike) == 1


def test_a_persons_words_win() -> None:
    study = comparison(["method=core,ffa", "seed=5", "rounds=3", "privacy.epsilon=1,2", "model.lora.rank=4"])
    assert [method.name for method in study.methods] == ["core", "ffa"]
    assert study.seeds == ("seed=5",)
    assert study.epsilons == ("privacy.epsilon=2", "privacy.epsilon=1")
    for settings in points(study):
        assert (settings.rounds, settings.model.lora.rank) == (3, 4)


def points(study: Comparison) -> list:  # type: ignore[type-arg]
    return [
        study.settings(method, method.tried[0], 1.0, experiment, epsilon)
        for method, experiment, epsilon in product(study.methods, study.experiments, study.epsilons)
    ]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("method=cores", "there is no method 'cores': did you mean core?"),
        ("method=xyzzy", "there is no method 'xyzzy': choose from fedit, "),
        ("simulation.judge=test", "simulation.judge is what the study sets for each method"),
        ("strategy.learning_rate=1", "strategy.learning_rate is what the study sets for each method"),
        ("privacy.epsilon=many", "privacy.epsilon=many is not a number"),
        ("rounds=0", "rounds"),
        ("nonsense=1", "nonsense"),
    ],
)
def test_what_cannot_be_is_a_sentence(word: str, sentence: str) -> None:
    with pytest.raises(UserError) as error:
        comparison([word])
    assert sentence in str(error.value)


def test_with_shared_noise_steps_at_home_have_no_account() -> None:
    study = comparison(["privacy.trust=honest_majority", "method=fedit,core"])
    fedit, core = study.methods
    assert "after several local steps a sum is not a signal plus one Gaussian" in refusal(study, fedit)
    assert not refusal(study, core)
    assert not refusal(comparison(["method=fedit"]), fedit)
    with pytest.raises(UserError, match="leave none of 4"):
        comparison(["privacy.trust=honest_majority", "privacy.colluders=3", "method=core"])
