"""Combinations that cannot work are refused, each with its reason; their nearest neighbors are not."""

import pytest
from cotune.conf.check import check
from cotune.conf.compose import compose
from cotune.errors import UserError
from cotune.secagg.plan import least_threshold
from hypothesis import given
from hypothesis import strategies as st

FILES = ("data=files", "data.files=[a,b,c]", "data.test_file=t")

YOGI = ("strategy=fedavg", "strategy.server_optimizer=yogi")
PROXIMAL = ("strategy=fedavg", "strategy.proximal=0.5")
ADAMW = (
    "strategy=fedavg",
    "strategy.local_optimizer=adamw",
    "strategy.local_learning_rate=0.1",
    "strategy.proximal=20.0",
)


@pytest.mark.parametrize(
    ("bad", "reason", "good"),
    [
        (("privacy.enabled=false",), "promises a bound", ("privacy=none",)),
        (("privacy=none", "privacy.delta=1e-5"), "promises a bound", ("privacy=none",)),
        (("privacy.epsilon=null",), "without privacy.epsilon", ("privacy.epsilon=3",)),
        (
            ("privacy.trust=honest_majority", "strategy=fedavg"),
            "several local steps",
            ("privacy.trust=honest_majority",),
        ),
        (("personal_steps=2", "strategy=fedavg"), "trains at home already", ("strategy=fedavg", "personal_steps=0")),
        (("simulation.arms=[personal]",), "which it goes on from", ("simulation.arms=[personal,federated]",)),
        (("privacy.trust=honest_majority", "privacy=none"), "privacy.enabled=false", ("privacy=none",)),
        (
            ("privacy.trust=honest_majority", "secagg.min_survivors=3", "privacy.dropouts=0"),
            "less noise",
            ("privacy.trust=honest_majority", "secagg.min_survivors=3"),
        ),
        (
            ("privacy.trust=honest_majority", "privacy.colluders=2"),
            "open single contributions",
            ("privacy.trust=honest_majority", "privacy.colluders=2", "secagg.threshold=4"),
        ),
        (("privacy.trust=honest_majority", "privacy.dropouts=3"), "leave none", ("privacy.dropouts=3",)),
        (("privacy.mechanism=skellam", "strategy=fedavg"), "not on their grid", ("privacy.mechanism=skellam",)),
        (("privacy.mechanism=skellam", "privacy=none"), "mechanism=gaussian", ("privacy=none",)),
        (("privacy.delta=0.00015",), "1/(10 n)", ("privacy.delta=0.00014",)),
        (
            ("strategy=rolora", "recipe=lora", "rounds=1"),
            "A in the second",
            ("strategy=rolora", "recipe=lora", "rounds=2"),
        ),
        (("strategy=rolora",), "no A to train", ("strategy=rolora", "recipe=lora")),
        (("strategy=ffa",), "no B to train", ("strategy=ffa", "recipe=lora")),
        (
            ("strategy.server_optimizer=yogi",),
            "strategy.learning_rate is null",
            ("strategy.server_optimizer=yogi", "strategy.learning_rate=1"),
        ),
        (
            ("strategy.server_optimizer=sgd", "recipe=lora"),
            "strategy.learning_rate is null",
            ("strategy.server_optimizer=sgd",),
        ),
        (
            ("strategy=fedavg", "strategy.learning_rate=0.01"),
            "so small a fraction",
            (*YOGI, "strategy.learning_rate=0.01"),
        ),
        ((*PROXIMAL, "strategy.local_steps=1"), "nothing to be pulled back from", PROXIMAL),
        ((*PROXIMAL, "strategy.proximal=1.1"), "pulls beyond", (*PROXIMAL, "strategy.proximal=1.0")),
        ((*PROXIMAL, "strategy.local_weight_decay=0.1"), "decays nothing", (*ADAMW, "strategy.local_weight_decay=0.1")),
        ((*ADAMW, "strategy.local_weight_decay=11"), "more than a weight", (*ADAMW, "strategy.local_weight_decay=10")),
        ((*ADAMW, "strategy.local_beta2=0.8"), "remembered longer", (*ADAMW, "strategy.local_beta2=0.82")),
        (
            ("strategy=ffa", "recipe=lora", "strategy.local_steps=2"),
            "unknown key",
            ("strategy=ffa", "recipe=lora", "privacy.trust=honest_majority"),
        ),
        (
            ("strategy=fedavg", "strategy.local_steps=1", "privacy.trust=honest_majority"),
            "several local steps",
            ("strategy=rolora", "recipe=lora", "privacy.trust=honest_majority", "privacy.mechanism=skellam"),
        ),
        (("data.public_file=p.jsonl",), "which brings its own", ("data.public_file=null",)),
        (
            (*FILES, "data.form=completion"),
            "no user's turn that a model could write",
            (*FILES, "data.form=completion", "data.public_file=p.jsonl"),
        ),
        (
            (*FILES, "model.basis.source=public"),
            "made from public text, and there is none",
            (*FILES, "model.basis.source=public", "data.public_file=p.jsonl"),
        ),
        (("data.organizations=2",), "by subtraction", ("data.organizations=3",)),
        (("data.organizations=201",), "3 to 200", ("data.organizations=200",)),
        (("secagg.threshold=2",), "must be 3 to 4", ("secagg.threshold=3",)),
        (("secagg.threshold=5",), "must be 3 to 4", ("secagg.threshold=4",)),
        (("secagg.min_survivors=2",), "must be 3 to 4", ("secagg.min_survivors=3",)),
        (("secagg.threshold=4", "secagg.min_survivors=3"), "must be 4 to 4", ("secagg.threshold=4",)),
        (
            ("secagg.lane_bits=8", "data.organizations=128"),
            "cannot hold the sum",
            ("secagg.lane_bits=8", "data.organizations=127"),
        ),
        (
            ("model.top_layers=0",),
            "no layer is frozen",
            ("model.top_layers=0", "model.cache_features=false"),
        ),
        (("model.lora.targets=[all-linear,q_proj]",), "further layers", ("model.lora.targets=[q_proj]",)),
        (("data.files=[a,b,c,d]",), "would be ignored", ()),
        (("data.package=null",), "without data.package", ()),
        (("data.test_rows=null",), "is split by it", ()),
        ((*FILES, "data.organizations=4"), "lists 3", (*FILES, "data.organizations=3")),
        ((*FILES, "data.files=[a,b]"), "in data.files", FILES),
        ((*FILES, "data.organizations=2"), "set data.organizations=3", FILES),
        ((*FILES, "data.files=[a,b,b]"), "twice", FILES),
        ((*FILES, "data.files=[a,b,./b]"), "twice", FILES),
        ((*FILES, "data.test_file=./a"), "also an organization's file", FILES),
        (("data.public_system=x",), "would be ignored", (*FILES, "data.public_system=x")),
        (("privacy.unit='a|b'",), "not a plain word", ("privacy.unit=visit",)),
        (("privacy.unit='a\u200bb'",), "not a plain word", ("privacy.unit=visit",)),
        ((*FILES, "data.test_file=a"), "also an organization's", FILES),
        ((*FILES, "data.test_file=null"), "without data.test_file", FILES),
        ((*FILES, "data.dominance=0.5"), "your files are the split", FILES),
        ((*FILES, "data.rows_per_organization=5"), "your files are the split", FILES),
        (("data.rows_per_organization=null",), "is split by it", ("data.units_per_organization=null",)),
        ((*FILES, "data.columns.answer=null"), "data.columns.answer is null", FILES),
        (("data.turns=all",), "without conversations", ("data.turns=last",)),
        (
            (*FILES, "recipe=lora", "data.turns=all"),
            "whose rows have one answer each",
            (*FILES, "recipe=lora", "data.form=messages", "data.turns=all"),
        ),
        (
            (*FILES, "recipe=lora", "data.form=messages", "data.turns=all", "data.rows_are_units=true"),
            "would be units apart",
            (*FILES, "recipe=lora", "data.form=messages", "data.rows_are_units=true"),
        ),
        (("data.task=text",), "whose answers are labels", (*FILES, "recipe=lora", "data.task=text")),
        (("data=phenotypes", "data.task=labels"), "whose answers are text", ("experiment=plain_words",)),
        (
            (*FILES, "data.task=text"),
            "not of free text",
            (*FILES, "recipe=text"),
        ),
        (("data=icd10", "data.skew=family"), "only clauses have families", ("data=clauses", "data.skew=family")),
        (("data.public_test=false",), "which anybody may read", (*FILES, "data.public_test=true")),
        (("simulation.arms=[base,base]",), "twice", ("simulation.arms=[base]",)),
    ],
)
def test_refused_with_its_reason_and_its_neighbor_is_not(
    bad: tuple[str, ...], reason: str, good: tuple[str, ...]
) -> None:
    with pytest.raises(UserError) as caught:
        compose(list(bad))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    compose(list(good))


DEFAULT = compose([])


@given(st.integers(3, 200))
def test_automatic_thresholds_pass_their_own_checks(organizations: int) -> None:
    data = DEFAULT.data.model_copy(update={"organizations": organizations})
    check(DEFAULT.model_copy(update={"data": data}))
    threshold = DEFAULT.secagg.threshold_for(organizations)
    assert 3 * threshold > 2 * organizations
    assert threshold <= DEFAULT.secagg.min_survivors_for(organizations) <= organizations


def test_least_threshold_is_the_designs() -> None:
    assert [least_threshold(n) for n in (3, 4, 7, 10, 30, 200)] == [3, 3, 5, 7, 21, 134]


def test_delta_follows_the_largest_organization() -> None:
    assert compose([]).privacy.delta_for(800) == pytest.approx(1 / 8000)
    assert compose(["privacy.delta=1e-6"]).privacy.delta_for(800) == 1e-6
