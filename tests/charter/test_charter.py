"""The charter: canonical bytes, the rules at construction, YAML."""

import hashlib
import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from cotune.charter import charter as charters
from cotune.charter import documents
from cotune.charter.charter import Charter, model_hash
from cotune.errors import UserError
from cotune.privacy.terms import PrivacyTerms, largest_delta
from cotune.spelling import plain, plain_id
from hypothesis import given
from hypothesis import strategies as st

SCHEMA = [
    ["base_model.model.model.layers.0.q_proj.lora_A.weight", [4, 8]],
    ["base_model.model.model.layers.0.q_proj.lora_B.weight", [8, 4]],
]


def fields_of(n: int = 4, **changed: Any) -> dict[str, Any]:
    """A valid charter of n members as plain fields."""
    privacy = {
        "enabled": True,
        "unit": "patient",
        "epsilon": 8.0,
        "delta": 1e-4,
        "noise_multiplier": 0.854,
        "max_grad_norm": 1.0,
        "sample_rate": 0.25,
        "records_per_unit": 4,
        "loss_cap": 10.0,
        "metrics_weight": 0.1,
    }
    fields = {
        "federation": "hospitals",
        "epoch": 1,
        "members": [{"name": f"clinic-{i}", "public_key": f"{i + 1:064x}", "nominal_units": 800 + i} for i in range(n)],
        "coordinator": "f" * 64,
        "model": {
            "name": "tiny",
            "base_digest": "a" * 64,
            "tokenizer_digest": "b" * 64,
            "rank": 4,
            "alpha": 8.0,
            "targets": ["q_proj"],
            "rslora": False,
            "top_layers": 1,
            "context_length": 128,
            "schema": SCHEMA,
            "schema_digest": hashlib.sha256(json.dumps(SCHEMA, separators=(",", ":")).encode()).hexdigest(),
            "initial_seed": 7,
        },
        "strategy": {
            "target": "cotune.strategies.dp_fedsgd.DPFedSGD",
            "settings": {"learning_rate": 0.005, "steps": 1, "server_optimizer": "adam", "bias": False},
        },
        "rounds": 15,
        "privacy": privacy,
        "secagg": {
            "lane_bits": 16,
            "range_sigmas": 6.0,
            "threshold": 2 * n // 3 + 1,
            "min_survivors": max(3, 2 * n // 3 + 1),
            "deadline_seconds": 600.0,
            "audit_rounds": 2,
            "check_fraction": 0.1,
            "check_probability": 0.99,
            "suite": "classic",
        },
        "not_before": "2026-01-01T00:00:00Z",
        "not_after": "2027-01-01T00:00:00Z",
    }
    for path, value in changed.items():
        place: Any = fields
        *parents, last = path.split("__")
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        place[last] = value
    return fields


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every scalar in nested fields."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for key, inner in enumerate(value) for leaf in leaves(inner, (*path, key))]
    return [path]


def altered(value: Any) -> Any:
    """Another value of the same type, close by."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1 if isinstance(value, int) else value * (1 + 2**-50)
    return value[:-1] + ("1" if value[-1] != "1" else "2")


@pytest.mark.parametrize("path", leaves(fields_of()), ids=lambda path: ".".join(map(str, path)))
def test_every_field_is_in_the_canonical_bytes(path: tuple[Any, ...]) -> None:
    fields = fields_of()
    before = Charter.model_validate(fields)
    held: Any = json.loads(before.canonical_bytes())
    expected: Any = fields
    for key in path:
        held, expected = held[key], expected[key]
    assert (type(held), held) == (type(expected), expected)
    try:
        after = Charter.model_validate(_changed(fields, path))
    except (UserError, ValueError):
        return  # The altered value is not valid in this place.
    assert after.digest() != before.digest()


def _changed(fields: dict[str, Any], path: tuple[Any, ...]) -> dict[str, Any]:
    copy = json.loads(json.dumps(fields))
    place = copy
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = altered(place[path[-1]])
    return copy


def test_canonical_bytes_ignore_order_and_are_stable() -> None:
    fields = fields_of()
    backwards = json.loads(json.dumps(fields), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    one, two = Charter.model_validate(fields), Charter.model_validate(backwards)
    assert one.canonical_bytes() == two.canonical_bytes()
    assert one.digest() == hashlib.sha256(one.canonical_bytes()).hexdigest()
    # Pinned: a change of these bytes breaks every signature in the field.
    assert one.digest() == "9fefc09faae6bb3f49283c207bfb55e202b1145792d9fa6ec9e9d81f3446038e"


@given(
    n=st.integers(3, 12),
    epsilon=st.floats(1e-6, 1e6),
    unit=st.text(st.characters(exclude_categories=("C", "Z")), max_size=64)
    .map(plain)
    .filter(lambda name: 0 < len(name) <= 64 and "|" not in plain_id(name)),
    setting=st.one_of(st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_yaml_round_trip(
    tmp_path_factory: pytest.TempPathFactory, n: int, epsilon: float, unit: str, setting: object
) -> None:
    path = tmp_path_factory.mktemp("charter") / "charter.yaml"
    fields = fields_of(n, privacy__epsilon=epsilon, privacy__unit=unit, strategy__settings={"value": setting})
    charter = Charter.model_validate(fields)
    charters.save(charter, path)
    again = charters.load(path)
    assert again == charter
    assert again.canonical_bytes() == charter.canonical_bytes()
    assert type(again.strategy.settings["value"]) is type(setting)


def test_it_is_frozen_and_built_from_values() -> None:
    charter = Charter.model_validate(fields_of())
    assert isinstance(charter.privacy, PrivacyTerms)
    built = Charter(
        **{name: getattr(charter, name) for name in Charter.model_fields if name != "version"},
    )
    assert built == charter
    with pytest.raises(ValueError, match="frozen"):
        charter.rounds = 16  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 2}, "by subtracting its own"),
        ({"members__1__name": "clinic-0"}, "name stands twice"),
        ({"members__1__name": "coordinator"}, "name"),
        ({"members__1__public_key": f"{1:064x}"}, "key stands twice"),
        ({"coordinator": f"{1:064x}"}, "key stands twice"),
        ({"secagg__threshold": 2}, "quorums"),
        ({"secagg__threshold": 5}, "from 3 to 4"),
        ({"secagg__min_survivors": 2}, "min_survivors"),
        ({"secagg__min_survivors": 5}, "min_survivors"),
        ({"privacy__delta": 1.3e-4}, "1 / (10 units)"),
        ({"privacy__epsilon": 0.0}, "privacy.epsilon"),
        ({"privacy__unit": ""}, "privacy.unit"),
        ({"privacy__unit": "pat\u200bient"}, "privacy.unit"),
        ({"privacy__unit": "patient "}, "privacy.unit"),
        ({"privacy__unit": "patient \uff5c server"}, "privacy.unit"),
        ({"not_after": "2026-01-01T00:00:00Z"}, "not before"),
        ({"model__schema_digest": "0" * 64}, "schema_digest"),
    ],
)
def test_contradictions_are_refused_with_a_way_out(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        Charter.model_validate(fields_of(**change))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.mend


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"extra": 1}, "extra"),
        ({"rounds": 0}, "rounds"),
        ({"rounds": "15"}, "rounds"),
        ({"rounds": True}, "rounds"),
        ({"epoch": -1}, "epoch"),
        ({"federation": "Hospitals"}, "federation"),
        ({"federation": "h" * 65}, "federation"),
        ({"federation": "hospitals\n"}, "federation"),
        ({"members__0__public_key": "a" * 63}, "members.0.public_key"),
        ({"model__name": "a\nb"}, "model.name"),
        ({"model__name": "a\x9b2Kb"}, "model.name"),
        ({"model__name": "a\u202eb"}, "model.name"),
        ({"model__name": ""}, "model.name"),
        ({"model__targets": ["q\x9b2K"]}, "model.targets.0"),
        ({"rounds": 10_001}, "rounds"),
        ({"model__alpha": float("inf")}, "model.alpha"),
        ({"strategy__target": "os.system"}, "strategy.target"),
        ({"strategy__target": "cotune.strategies.derived.instantiate"}, "strategy.target"),
        ({"strategy__settings": {"x": [1]}}, "strategy.settings"),
        ({"strategy__settings": {"_target_": "urllib.request.urlretrieve"}}, "strategy.settings"),
        ({"strategy__settings": {"x": "${oc.env:HOME}"}}, "strategy.settings"),
        ({"strategy__settings": {"x": "\x1b[2J"}}, "strategy.settings"),
        ({"strategy__settings": {"x": float("nan")}}, "strategy.settings"),
        ({"privacy__extra": 1}, "privacy.extra"),
        ({"privacy__epsilon": "1e-5"}, "privacy.epsilon"),
        ({"not_before": "2026-01-01"}, "not_before"),
        ({"not_before": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=23)))}, "not_before"),
        ({"secagg__lane_bits": 64}, "secagg.lane_bits"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    path = tmp_path / "charter.yaml"
    path.write_text(yaml.safe_dump(fields_of(**change)))
    with pytest.raises(UserError) as caught:
        charters.load(path)
    assert f": {field}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", list(fields_of()))
def test_a_missing_field_is_named(tmp_path: Path, missing: str) -> None:
    fields = fields_of()
    del fields[missing]
    path = tmp_path / "charter.yaml"
    path.write_text(yaml.safe_dump(fields))
    with pytest.raises(UserError, match=f"{missing}: missing: add this field"):
        charters.load(path)


def test_unquoted_dates_mean_utc(tmp_path: Path) -> None:
    path = tmp_path / "charter.yaml"
    text = documents.dump(Charter.model_validate(fields_of()))
    path.write_text(text.replace("'2026-01-01T00:00:00Z'", "2026-01-01T02:00:00+02:00"))
    assert charters.load(path) == Charter.model_validate(fields_of())


def test_hashes_for_the_plan_follow_what_they_stand_for() -> None:
    charter = Charter.model_validate(fields_of())
    other = Charter.model_validate(fields_of(privacy__noise_multiplier=0.855))
    later = Charter.model_validate(fields_of(rounds=16))
    assert charter.dp_hash() != other.dp_hash()
    assert charter.dp_hash() == later.dp_hash()
    assert len({charter.schema_hash(), other.schema_hash(), later.schema_hash()}) == 3
    assert charter.schema_hash() == Charter.model_validate(fields_of()).schema_hash()
    digests = ("a" * 64, "b" * 64, "c" * 64)
    assert len({model_hash(*digests), model_hash(*digests[::-1]), model_hash("a" * 64, "b" * 64, "d" * 64)}) == 3
    with pytest.raises(ValueError, match="32 bytes"):
        model_hash("aa", "b" * 64, "c" * 64)


def test_roster_keeps_the_order_of_the_members() -> None:
    charter = Charter.model_validate(fields_of(5))
    roster = charter.roster()
    assert roster.members[charter.index_of("clinic-3")].hex() == charter.members[3].public_key
    assert roster.coordinator.hex() == charter.coordinator
    assert (roster.federation, roster.epoch) == ("hospitals", 1)
    with pytest.raises(KeyError):
        charter.index_of("nobody")


def test_schema_digest_is_the_one_of_the_training_room() -> None:
    schema = pytest.importorskip("cotune.adapter.schema").AdapterSchema.from_lists(SCHEMA)
    assert Charter.model_validate(fields_of()).model.schema_digest == schema.digest


def test_delta_may_reach_but_not_pass_its_bound() -> None:
    assert largest_delta(800) == 1 / 8000
    Charter.model_validate(fields_of(privacy__delta=largest_delta(803)))


def test_disabled_privacy_needs_no_budget() -> None:
    off = {"privacy__enabled": False, "privacy__epsilon": 0.0, "privacy__delta": 0.0, "privacy__noise_multiplier": 0.0}
    assert Charter.model_validate(fields_of(**off)).privacy.noise_std == 0.0


def test_noise_on_integers_is_a_term_that_is_signed() -> None:
    def integers(**changed: Any) -> Charter:
        fields = {"mechanism": "skellam", "grid_step": 2.0**-6} | changed
        dimension = Charter.model_validate(fields_of()).model.dimension + 3
        terms = {f"privacy__{key}": value for key, value in ({"dimension": dimension} | fields).items()}
        return Charter.model_validate(fields_of(**terms))

    charter = integers()
    assert charter.privacy.grid is not None
    for changed in ({"mechanism": "gaussian"}, {"grid_step": 0.3}, {"dimension": 1}):
        with pytest.raises(UserError):
            integers(**changed)
    others = [integers(grid_step=2.0**-7), Charter.model_validate(fields_of())]
    assert len({charter.dp_hash(), *(other.dp_hash() for other in others)}) == 3


def test_shared_noise_is_a_term_that_is_signed() -> None:
    def shared(**changed: Any) -> Charter:
        terms = {"trust": "honest_majority", "organizations": 7, "colluders": 2, "dropouts": 1}
        fields = {f"privacy__{key}": value for key, value in (terms | changed).items()}
        return Charter.model_validate(fields_of(7, secagg__min_survivors=6, **fields))

    charter = shared()
    assert charter.privacy.shares is not None
    assert charter.privacy.shares.honest == 4
    assert charter.privacy.own_multiplier == pytest.approx(0.854 / 2)
    for changed in ({"organizations": 8}, {"dropouts": 0}, {"trust": "nobody"}, {"unit": "patient | if nobody"}):
        with pytest.raises(UserError):
            shared(**changed)
    others = [shared(colluders=1), Charter.model_validate(fields_of(7, secagg__min_survivors=6))]
    assert len({charter.dp_hash(), *(other.dp_hash() for other in others)}) == 3
