"""What an organization allows: one refusal code a reason."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cotune.charter import policy as policies
from cotune.charter.charter import Charter
from cotune.charter.policy import Policy, check, check_units, refusals, unit_refusals
from cotune.charter.refusal import Refusal
from cotune.charter.terms import BasisTerms
from cotune.errors import UserError
from cotune.privacy.terms import largest_delta
from hypothesis import given
from hypothesis import strategies as st

NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY = f"{1:064x}"
SCHEMA = [["base_model.model.layers.0.q.lora_A.weight", [4, 8]]]


def charter_with(**privacy: Any) -> Charter:
    terms = {
        "enabled": True,
        "unit": "patient",
        "epsilon": 8.0,
        "delta": 1e-4,
        "noise_multiplier": 0.9,
        "max_grad_norm": 1.0,
        "sample_rate": 0.25,
        "records_per_unit": 4,
        "loss_cap": 10.0,
        "metrics_weight": 0.1,
    }
    return Charter.model_validate(
        {
            "federation": "hospitals",
            "epoch": 1,
            "members": [
                {"name": f"clinic-{i}", "public_key": f"{i + 1:064x}", "nominal_units": 1000} for i in range(4)
            ],
            "coordinator": "f" * 64,
            "model": {
                "name": "tiny",
                "base_digest": "a" * 64,
                "tokenizer_digest": "b" * 64,
                "rank": 4,
                "alpha": 8.0,
                "targets": ["q"],
                "rslora": False,
                "top_layers": 0,
                "context_length": 64,
                "schema": SCHEMA,
                "schema_digest": hashlib.sha256(json.dumps(SCHEMA, separators=(",", ":")).encode()).hexdigest(),
                "initial_seed": 0,
            },
            "strategy": {"target": "cotune.strategies.dp_fedsgd.DPFedSGD", "settings": {}},
            "rounds": 3,
            "privacy": terms | privacy,
            "secagg": {
                "lane_bits": 16,
                "range_sigmas": 6.0,
                "threshold": 3,
                "min_survivors": 3,
                "deadline_seconds": 60.0,
                "audit_rounds": 2,
                "check_fraction": 0.1,
                "check_probability": 0.99,
                "suite": "classic",
            },
            "not_before": "2026-01-01T00:00:00Z",
            "not_after": "2027-01-01T00:00:00Z",
        }
    )


def policy_with(**changed: Any) -> Policy:
    fields = {
        "data": "notes.jsonl",
        "form": "instruction",
        "columns": {"prompt": "note", "answer": "code", "unit": "patient"},
        "max_epsilon": 8.0,
        "models": ["a" * 64],
        "min_members": 4,
        "unit": "patient",
        "allow_without_privacy": False,
    }
    return Policy.model_validate(fields | changed)


def codes(charter: Charter, policy: Policy, **changed: Any) -> list[str]:
    arguments = {"name": "clinic-0", "public_key": KEY, "now": NOW} | changed
    n_units = arguments.pop("n_units", 800)
    found = [*refusals(charter, policy, **arguments), *unit_refusals(charter, "clinic-0", n_units)]
    return [refusal.code for refusal in found]


def test_a_fitting_charter_is_accepted() -> None:
    check(charter_with(), policy_with(), "clinic-0", KEY, NOW)
    check_units(charter_with(), "clinic-0", 800)
    assert codes(charter_with(), policy_with(models="any")) == []


SHARED = {"trust": "honest_majority", "organizations": 4, "colluders": 1, "dropouts": 1, "delta": 1e-5}
OFF = {"enabled": False, "epsilon": 0.0, "delta": 0.0, "noise_multiplier": 0.0}


@pytest.mark.parametrize(
    ("code", "privacy", "policy", "situation"),
    [
        ("charter.member", {}, {}, {"name": "clinic-9"}),
        ("charter.key", {}, {}, {"public_key": "e" * 64}),
        ("charter.early", {}, {}, {"now": datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)}),
        ("charter.late", {}, {}, {"now": datetime(2027, 1, 1, tzinfo=UTC)}),
        ("charter.units", {}, {}, {"n_units": 1001}),
        ("policy.empty", {}, {}, {"n_units": 0}),
        ("policy.epsilon", {}, {"max_epsilon": 7.99}, {}),
        ("policy.model", {}, {"models": ["c" * 64]}, {}),
        ("policy.model", {}, {"models": []}, {}),
        ("policy.members", {}, {"min_members": 5}, {}),
        ("policy.unit", {}, {"unit": "visit"}, {}),
        ("policy.privacy", OFF, {}, {}),
        ("policy.trust", SHARED, {}, {}),
        ("charter.units", SHARED, {"allow_honest_majority": True}, {"n_units": 1001}),
    ],
)
def test_each_reason_alone_refuses_with_its_code(
    code: str, privacy: dict[str, Any], policy: dict[str, Any], situation: dict[str, Any]
) -> None:
    assert codes(charter_with(**privacy), policy_with(**policy), **situation) == [code]
    arguments = {"name": "clinic-0", "public_key": KEY, "now": NOW} | situation
    n_units = arguments.pop("n_units", 800)
    with pytest.raises(Refusal) as caught:  # noqa: PT012
        check(charter_with(**privacy), policy_with(**policy), **arguments)
        check_units(charter_with(**privacy), "clinic-0", n_units)
    assert caught.value.code == code
    assert caught.value.mend
    assert "\n" not in str(caught.value)


def test_a_start_is_a_choice_of_the_organization() -> None:
    charter = charter_with()
    basis = {
        "digest": "d" * 64,
        "source": "random",
        "whitening": 0.0,
        "spared": 0.0,
        "start": "public",
        "vocabulary": 0,
    }
    model = charter.model.model_copy(update={"form": "ffa", "basis": BasisTerms.model_validate(basis)})
    begun = charter.model_copy(update={"model": model})
    assert codes(begun, policy_with()) == ["policy.start"]
    assert codes(begun, policy_with(allow_start=True)) == []


def test_the_unit_may_be_spelled_otherwise() -> None:
    assert codes(charter_with(), policy_with(unit="Patient")) == []
    assert codes(charter_with(unit="Patient"), policy_with(unit="patient")) == []


def test_disabled_privacy_is_a_choice_of_the_organization() -> None:
    assert codes(charter_with(**OFF), policy_with(allow_without_privacy=True)) == []


def test_shared_noise_is_a_choice_of_the_organization() -> None:
    assert codes(charter_with(**SHARED), policy_with(allow_honest_majority=True)) == []
    assert codes(charter_with(), policy_with(allow_honest_majority=True)) == []
    # Its own budget stays: what it allows is another adversary, not another number.
    opted = policy_with(allow_honest_majority=True, max_epsilon=7.0)
    assert codes(charter_with(**SHARED), opted) == ["policy.epsilon"]


def test_the_moment_counts_and_not_its_time_zone() -> None:
    zone = timezone(timedelta(hours=14))
    assert codes(charter_with(), policy_with(), now=datetime(2026, 1, 1, 14, tzinfo=zone)) == []
    assert codes(charter_with(), policy_with(), now=datetime(2026, 1, 1, 13, 59, tzinfo=zone)) == ["charter.early"]


@given(n_units=st.integers(1, 10**6), delta=st.floats(1e-9, 1e-4))
def test_units_are_held_to_what_was_declared_and_so_is_delta(n_units: int, delta: float) -> None:
    charter = charter_with(delta=delta)
    declared = next(member.nominal_units for member in charter.members if member.name == "clinic-0")
    assert codes(charter, policy_with(), n_units=n_units) == (["charter.units"] if n_units > declared else [])
    assert n_units > declared or delta <= largest_delta(n_units)


def test_yaml_round_trip_and_errors(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    for policy in (policy_with(), policy_with(models="any")):
        policies.save(policy, path)
        assert policies.load(path) == policy
    path.write_text(path.read_text().replace("max_epsilon: 8.0", "max_epsilon: '8'"))
    with pytest.raises(UserError, match="max_epsilon"):
        policies.load(path)


@pytest.mark.parametrize("changed", [{"min_members": 2}, {"max_epsilon": -1.0}, {"models": "all"}, {"form": "free"}])
def test_a_policy_out_of_range_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changed))):
        policy_with(**changed)
