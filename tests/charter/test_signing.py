"""Keys on disk and signatures of a charter."""

import json
import pickle
import stat
from pathlib import Path
from typing import Any

import pytest
from cotune.charter.charter import Charter
from cotune.charter.refusal import Refusal
from cotune.charter.signing import (
    fingerprint,
    load_key,
    new_key,
    public_hex,
    sign_charter,
    verify_signature,
    verify_signatures,
)
from cotune.errors import UserError
from cotune.secagg.identity import new_identity
from cotune.secagg.suites import HYBRID
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEYS = {name: Ed25519PrivateKey.from_private_bytes(bytes([i]) * 32) for i, name in enumerate(["a", "b", "c"])}
COORDINATOR_KEY = Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)
SCHEMA = [["base_model.model.layers.0.q.lora_A.weight", [4, 8]]]


def fields() -> dict[str, Any]:
    return {
        "federation": "f",
        "epoch": 0,
        "members": [{"name": n, "public_key": public_hex(k), "nominal_units": 100} for n, k in KEYS.items()],
        "coordinator": public_hex(COORDINATOR_KEY),
        "model": {
            "name": "tiny",
            "base_digest": "a" * 64,
            "tokenizer_digest": "b" * 64,
            "rank": 4,
            "alpha": 8.0,
            "targets": ["q"],
            "rslora": True,
            "form": "ffa",
            "basis": {
                "digest": "d" * 64,
                "source": "public",
                "whitening": 0.25,
                "spared": 0.16,
                "start": "zero",
                "vocabulary": 64,
            },
            "top_layers": 0,
            "context_length": 64,
            "schema": SCHEMA,
            "schema_digest": "4f7c0ad1d4b1e5d0" * 4,
            "initial_seed": 0,
        },
        "strategy": {"target": "cotune.strategies.fedavg.FedAvg", "settings": {"local_steps": 2, "rate": 0.1}},
        "rounds": 3,
        "privacy": {
            "enabled": True,
            "unit": "client",
            "epsilon": 3.0,
            "delta": 1e-4,
            "noise_multiplier": 2.0,
            "max_grad_norm": 1.0,
            "sample_rate": 0.5,
            "records_per_unit": 1,
            "loss_cap": 5.0,
            "metrics_weight": 0.1,
        },
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


def build(changed: dict[str, Any]) -> Charter:
    """A charter whose schema digest fits its schema."""
    import hashlib

    text = json.dumps([[name, list(shape)] for name, shape in changed["model"]["schema"]], separators=(",", ":"))
    changed["model"]["schema_digest"] = hashlib.sha256(text.encode()).hexdigest()
    return Charter.model_validate(changed)


def signatures(charter: Charter) -> dict[str, bytes]:
    signed = {name: sign_charter(charter, key) for name, key in KEYS.items()}
    return signed | {"coordinator": sign_charter(charter, COORDINATOR_KEY)}


ALTERATIONS: dict[tuple[Any, ...], Any] = {
    ("federation",): "g",
    ("epoch",): 1,
    ("members", 0, "name"): "z",
    ("members", 0, "public_key"): "1" * 64,
    ("members", 0, "nominal_units"): 101,
    ("coordinator",): "2" * 64,
    ("model", "name"): "tiny2",
    ("model", "base_digest"): "c" * 64,
    ("model", "tokenizer_digest"): "c" * 64,
    ("model", "rank"): 8,
    ("model", "alpha"): 16.0,
    ("model", "targets"): ["v"],
    ("model", "rslora"): False,
    ("model", "form"): "core",
    ("model", "basis"): {
        "digest": "e" * 64,
        "source": "public",
        "whitening": 0.25,
        "spared": 0.16,
        "start": "zero",
        "vocabulary": 64,
    },
    ("model", "top_layers"): 1,
    ("model", "context_length"): 128,
    ("model", "schema"): [["base_model.model.layers.0.q.lora_A.weight", [8, 8]]],
    ("model", "initial_seed"): 1,
    ("strategy", "target"): "cotune.strategies.fedavg.Other",
    ("strategy", "settings", "local_steps"): 3,
    ("strategy", "settings", "rate"): 0.2,
    ("rounds",): 4,
    ("privacy", "enabled"): False,
    ("privacy", "unit"): "matter",
    ("privacy", "epsilon"): 4.0,
    ("privacy", "delta"): 2e-4,
    ("privacy", "noise_multiplier"): 1.0,
    ("privacy", "max_grad_norm"): 2.0,
    ("privacy", "sample_rate"): 0.25,
    ("privacy", "records_per_unit"): 2,
    ("privacy", "loss_cap"): 6.0,
    ("privacy", "metrics_weight"): 0.2,
    ("secagg", "lane_bits"): 17,
    ("secagg", "range_sigmas"): 7.0,
    ("secagg", "deadline_seconds"): 61.0,
    ("secagg", "audit_rounds"): 3,
    ("secagg", "check_fraction"): 0.2,
    ("secagg", "check_probability"): 0.9,
    ("not_before",): "2026-01-01T00:00:01Z",
    ("not_after",): "2027-01-01T00:00:01Z",
}


def _put(place: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value


@pytest.mark.parametrize("path", ALTERATIONS, ids=lambda path: ".".join(map(str, path)))
def test_altering_any_field_breaks_every_signature(path: tuple[Any, ...]) -> None:
    signed = build(fields())
    changed = fields()
    _put(changed, path, ALTERATIONS[path])
    if path == ("privacy", "delta"):
        for member in changed["members"]:
            member["nominal_units"] = 10
    if path == ("privacy", "enabled"):
        changed["privacy"] |= {"epsilon": 0.0, "delta": 0.0, "noise_multiplier": 0.0}
    tampered = build(changed)
    for name, signature in signatures(signed).items():
        key = public_hex(KEYS.get(name, COORDINATOR_KEY))
        assert verify_signature(signed, key, signature)
        assert not verify_signature(tampered, key, signature)


def test_altering_personal_steps_breaks_every_signature() -> None:
    given = fields()
    given["strategy"] = {"target": "cotune.strategies.dp_fedsgd.DPFedSGD", "settings": {"learning_rate": 0.1}}
    signed, tampered = build(given), build({**given, "personal_steps": 2})
    for name, signature in signatures(signed).items():
        key = public_hex(KEYS.get(name, COORDINATOR_KEY))
        assert verify_signature(signed, key, signature)
        assert not verify_signature(tampered, key, signature)


def test_alterations_cover_every_field() -> None:
    """A new field of the charter must be added above."""
    # Personal steps go with another strategy, see below.
    tops = {path[0] for path in ALTERATIONS} | {"version", "personal_steps"}
    assert tops == set(Charter.model_fields)
    charter = build(fields())
    for section, fixed in (
        ("model", {"schema_digest"}),
        # Shared noise changes four fields at once, noise on integers three; `test_charter` signs both.
        ("privacy", {"trust", "organizations", "colluders", "dropouts", "mechanism", "grid_step", "dimension"}),
        # Another suite asks for other keys: that charter cannot even be built.
        ("secagg", {"threshold", "min_survivors", "suite"}),
    ):
        names = set(charter.model_dump(mode="json", by_alias=True)[section])
        assert names - fixed == {path[1] for path in ALTERATIONS if path[0] == section}


def test_all_members_and_the_coordinator_must_sign() -> None:
    charter = build(fields())
    complete = signatures(charter)
    verify_signatures(charter, complete)
    for name in complete:
        partial = {other_name: value for other_name, value in complete.items() if other_name != name}
        with pytest.raises(Refusal, match=f"not signed by {name}") as caught:
            verify_signatures(charter, partial)
        assert caught.value.code == "charter.unsigned"


@pytest.mark.parametrize("bad", [b"", b"\0" * 64, b"x" * 63, b"x" * 1000])
def test_a_bad_signature_is_refused(bad: bytes) -> None:
    charter = build(fields())
    with pytest.raises(Refusal) as caught:
        verify_signatures(charter, signatures(charter) | {"b": bad})
    assert caught.value.code == "charter.signature"


def test_signatures_of_others_do_not_count() -> None:
    charter = build(fields())
    complete = signatures(charter)
    for wrong in ({"a": complete["b"], "b": complete["a"]}, {"stranger": complete["a"]}):
        with pytest.raises(Refusal) as caught:
            verify_signatures(charter, complete | wrong)
        assert caught.value.code == "charter.signature"


def test_a_signature_is_bound_to_its_purpose() -> None:
    charter = build(fields())
    plain = KEYS["a"].sign(charter.canonical_bytes())
    assert not verify_signature(charter, public_hex(KEYS["a"]), plain)


def test_a_key_is_private_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    key = new_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_key(path).private_bytes_raw() == key.private_bytes_raw()
    with pytest.raises(UserError, match="exists already"):
        new_key(path)
    assert load_key(path).private_bytes_raw() == key.private_bytes_raw()
    with pytest.raises(UserError, match="create its folder"):
        new_key(tmp_path / "none" / "identity.pem")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o601, 0o620])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity.pem"
    new_key(path)
    path.chmod(mode)
    with pytest.raises(UserError, match=f"run `chmod 600 {path}`"):
        load_key(path)
    path.chmod(0o400)
    load_key(path)


def test_what_is_not_a_key_is_refused_in_one_line(tmp_path: Path) -> None:
    stranger = X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    locked = KEYS["a"].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    for number, content in enumerate([b"", b"nonsense", stranger, locked]):
        path = tmp_path / f"{number}.pem"
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(UserError, match="cotune keys new") as caught:
            load_key(path)
        assert "\n" not in str(caught.value)
        assert caught.value.__cause__ is None
    with pytest.raises(UserError, match="No such file"):
        load_key(tmp_path / "none.pem")


def test_fingerprints_are_short_and_differ() -> None:
    prints = {fingerprint(public_hex(key)) for key in KEYS.values()}
    assert len(prints) == 3
    assert all(len(text) == 24 and [len(part) for part in text.split("-")] == [4] * 5 for text in prints)


def test_a_refusal_keeps_its_code_across_processes() -> None:
    refusal = pickle.loads(pickle.dumps(Refusal("policy.epsilon", "what", "mend")))
    assert (refusal.code, refusal.what, refusal.mend, str(refusal)) == ("policy.epsilon", "what", "mend", "what: mend")


def test_a_hybrid_identity_is_two_keys_in_one_private_file(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    key = new_key(path, HYBRID)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = load_key(path)
    assert public_hex(again) == public_hex(key)
    assert len(public_hex(key)) == 2 * HYBRID.identity_bytes
    blocks = path.read_bytes().split(b"-----END PRIVATE KEY-----\n")
    path.write_bytes(blocks[1] + b"-----END PRIVATE KEY-----\n" + blocks[0] + b"-----END PRIVATE KEY-----\n")
    with pytest.raises(UserError, match="neither an Ed25519 key nor"):
        load_key(path)


def test_a_hybrid_charter_is_signed_by_both_halves() -> None:
    keys = {name: new_identity(HYBRID) for name in ("a", "b", "c")}
    coordinator = new_identity(HYBRID)
    changed = fields() | {"coordinator": public_hex(coordinator)}
    changed["members"] = [{"name": n, "public_key": public_hex(k), "nominal_units": 100} for n, k in keys.items()]
    with pytest.raises(UserError, match="the key of a is not one of suite classic"):
        build(changed)
    changed["secagg"]["suite"] = "hybrid"
    charter = build(changed)
    assert charter.roster().suite == HYBRID.id
    complete = {name: sign_charter(charter, key) for name, key in keys.items()}
    complete["coordinator"] = sign_charter(charter, coordinator)
    verify_signatures(charter, complete)
    for at in (0, 64):  # a byte of the Ed25519 half, a byte of the ML-DSA half
        bent = bytearray(complete["b"])
        bent[at] ^= 1
        with pytest.raises(Refusal) as caught:
            verify_signatures(charter, complete | {"b": bytes(bent)})
        assert caught.value.code == "charter.signature"
