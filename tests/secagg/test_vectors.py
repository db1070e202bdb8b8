"""Known answers: official ones for the primitives, and those of a second implementation for the whole protocol.

`vectors/generate.py` writes `vectors/protocol.json` without importing the package; `vectors/official.json` says where
each of its cases is from.
"""

import ast
import importlib.util
import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.secagg import encoding, keys, masking, merkle, shamir, suites, views
from cotune.secagg.audit import audit_piece
from cotune.secagg.control import BLOCK
from cotune.secagg.identity import raw_public, verify
from cotune.secagg.messages import Advert, Rooted, Shares
from cotune.secagg.pieces import piece_of
from cotune.secagg.plan import Plan
from cotune.secagg.record import RoundRecord, genesis, next_head
from cotune.secagg.record import verify as verify_record
from cotune.secagg.roster import Roster
from cotune.secagg.suites import CLASSIC, HYBRID
from cotune.secagg.wire import digest, peek, unseal
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

HERE = Path(__file__).parent / "vectors"
EVERYBODY, SURVIVORS = (0, 1, 2, 3), (0, 1, 2)


def unhexed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: unhexed(part) for key, part in value.items()}
    if isinstance(value, list):
        return [unhexed(part) for part in value]
    if isinstance(value, str) and "." not in value:  # floats are written as 0x1.8p+0
        return bytes.fromhex(value)
    return value


@pytest.fixture(scope="module")
def known() -> Any:
    raw = json.loads((HERE / "protocol.json").read_text())
    digests = raw.pop("digests")
    return unhexed(raw) | {"digests": digests}


@pytest.fixture(scope="module")
def roster(known: Any) -> Roster:
    found = known["roster"]
    return Roster("vectors", 3, tuple(found["members"]), found["coordinator"])


def numbers(words: list[bytes]) -> Any:
    return np.array([int.from_bytes(word, "big") for word in words], dtype="<u8")


# The second implementation.


def test_the_checked_in_answers_are_what_the_generator_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    spec = importlib.util.spec_from_file_location("generate_vectors", HERE / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("primitives", None)
    assert module.generate() == (HERE / "protocol.json").read_text()


@pytest.mark.parametrize("name", ["generate.py", "primitives.py"])
def test_the_generator_shares_no_code_with_the_package(name: str) -> None:
    imported = set()
    for node in ast.walk(ast.parse((HERE / name).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module))
    assert imported <= {"hashlib", "hmac", "json", "fractions", "pathlib", "primitives"}


def test_digests_and_control_words(known: Any) -> None:
    for label, *parts, answer in known["digests"]:
        assert digest(label, *[bytes.fromhex(part) for part in parts]).hex() == answer
    assert np.array_equal(BLOCK, numbers(known["control"]))


def test_roster_plan_and_genesis(known: Any, roster: Roster) -> None:
    plan = Plan.open(known["plan"]["message"], roster)
    assert roster.hash == known["roster"]["hash"] == plan.roster_hash
    assert plan.encode() == known["plan"]["body"]
    assert plan.ctx0 == known["plan"]["ctx0"]
    assert genesis(plan.run, roster) == known["genesis"] == plan.prev_head
    assert (plan.round, plan.attempt, plan.threshold, plan.encoding.segments) == (5, 2, 3, ((5, 1.0), (4, 0.25)))


def test_adverts_and_contexts(known: Any, roster: Roster) -> None:
    ctx0 = known["plan"]["ctx0"]
    for i in EVERYBODY:
        b, mk, ck = known["secrets"][i]
        advert = Advert(ctx0, i, CLASSIC.public_half(mk), CLASSIC.public_half(ck), keys.commitment(ctx0, i, b))
        assert unseal("advert", known["adverts"][i], roster.members[i]) == advert.encode()
    assert keys.context1(ctx0, known["adverts"]) == known["ctx1"]
    roots = [Rooted.decode(peek(envelope)[0]).root for envelope in known["shares"]["roots"]]
    assert keys.context2(known["ctx1"], EVERYBODY, roots) == known["ctx2"]


def test_shamir(known: Any) -> None:
    found = known["shamir"]
    points = [i + 1 for i in EVERYBODY]
    shares = [int.from_bytes(share, "big") for share in found["shares"]]
    for left_out in EVERYBODY:
        chosen = [i for i in EVERYBODY if i != left_out]
        value = shamir.combine([shares[i] for i in chosen], shamir.weights([points[i] for i in chosen]))
        assert shamir.as_secret(value) == found["secret"]


def test_shares_from_given_coefficients(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = known["shamir"]
    drawn = iter([int.from_bytes(c, "big") for c in reversed(found["coefficients"])])
    monkeypatch.setattr(shamir.secrets, "randbelow", lambda _: next(drawn))
    shares = shamir.split(found["secret"], 3, [1, 2, 3, 4])
    assert shares == [int.from_bytes(share, "big") for share in found["shares"]]


def test_sealed_shares_leaves_roots_and_paths(known: Any, roster: Roster) -> None:
    ctx1, found = known["ctx1"], known["shares"]
    for i in EVERYBODY:
        others = [j for j in EVERYBODY if j != i]
        leaves = views.box_leaves(ctx1, i, others, found["boxes"][i])
        assert merkle.top(leaves) == found["tops"][i]
        root = views.share_root(ctx1, i, found["tops"][i])
        assert unseal("shares", found["roots"][i], roster.members[i]) == Rooted(ctx1, i, root).encode()
        assert Shares.decode(Shares(found["roots"][i], tuple(found["boxes"][i])).encode()).root == found["roots"][i]
        public = CLASSIC.public_half(known["secrets"][i][2])
        for number, j in enumerate(others):
            assert merkle.path(leaves, number) == tuple(found["paths"][i][number])
            box = found["boxes"][i][number]
            plain = keys.open_share(CLASSIC, known["secrets"][j][2], public, ctx1, i, j, box)
            assert len(plain) == 2 * shamir.SHARE_BYTES
            if i == 0:
                assert plain[: shamir.SHARE_BYTES] == known["shamir"]["shares"][j]


def test_seeds(known: Any) -> None:
    ctx2 = known["ctx2"]
    for i in EVERYBODY:
        assert keys.self_seed(known["secrets"][i][0], ctx2, i) == known["seeds"]["self"][i]
        for j in set(EVERYBODY) - {i}:
            public = CLASSIC.public_half(known["secrets"][j][1])
            seed = keys.pair_seed(CLASSIC, known["secrets"][i][1], public, ctx2, i, j, b"")
            assert seed == known["seeds"]["pair"][f"{min(i, j)} {max(i, j)}"]


@pytest.mark.usefixtures("loops")
def test_masks_of_chunks(known: Any) -> None:
    found = known["masks"]
    assert found["chunk_words"] == masking.CHUNK_WORDS
    for case in found["chunks"]:
        words = np.zeros(len(case["words"]), dtype="<u8")
        masking.apply(words, [(found["seed"], 1)], case["chunk"] * masking.CHUNK_WORDS)
        assert np.array_equal(words, numbers(case["words"]))


@pytest.mark.usefixtures("loops")
def test_roots_over_pieces(known: Any) -> None:
    found = known["roots"]
    for case in found["roots"]:
        words = np.zeros(case["words"], dtype="<u8")
        masking.apply(words, [(known["masks"]["seed"], 1)])
        assert merkle.root(words, found["context"], found["index"]) == case["root"]


@pytest.mark.usefixtures("loops")
def test_masked_uploads(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan.decode(known["plan"]["body"])
    for i in SURVIVORS:
        found = known["uploads"][i]
        monkeypatch.setattr(encoding, "new_secret", lambda found=found: found["rounding"])
        words = np.concatenate([BLOCK, np.zeros(plan.encoding.words, dtype="<u8")])
        plan.encoding.encode(np.array([float.fromhex(x) for x in found["vector"]]), words[len(BLOCK) :])
        streams = [(known["seeds"]["self"][i], 1)]
        for j in set(EVERYBODY) - {i}:
            streams.append((known["seeds"]["pair"][f"{min(i, j)} {max(i, j)}"], masking.pair_sign(i, j)))
        masking.apply(words, streams)
        assert np.array_equal(words, numbers(found["words"]))
        assert merkle.root(words, known["ctx2"], i) == found["root"]


@pytest.mark.usefixtures("loops")
def test_the_record_and_the_audit_of_its_sum(known: Any, roster: Roster) -> None:
    verified = verify_record(known["record"], roster, b"vectors of a run", known["genesis"])
    assert (verified.survivors, verified.sharers, verified.ctx2) == (SURVIVORS, EVERYBODY, known["ctx2"])
    roots = tuple(found["root"] for found in known["uploads"])
    assert keys.survivors_statement(known["ctx2"], SURVIVORS, roots) == known["statement"]
    assert next_head(known["genesis"], known["ctx2"], SURVIVORS, roots, verified.record.result) == known["head"]
    assert verified.head == known["head"]
    bare = numbers(known["sum"]["words"])
    uploads = {i: piece_of(numbers(known["uploads"][i]["words"]), 0, known["ctx2"], i) for i in SURVIVORS}
    result = piece_of(bare, 0, known["ctx2"], merkle.SUM)
    assert np.array_equal(audit_piece(verified, 0, uploads, result), bare)
    values = verified.plan.encoding.decode(bare[len(BLOCK) :], len(SURVIVORS))
    assert values == pytest.approx([float.fromhex(x) for x in known["sum"]["values"]], rel=1e-15, abs=1e-18)
    record = RoundRecord.decode(peek(known["record"])[0])
    assert record.mask_secrets == (known["secrets"][3][1],)


# Official vectors.


@pytest.fixture(scope="module")
def official() -> Any:
    raw = json.loads((HERE / "official.json").read_text())
    raw.pop("origin")
    return {name: found["cases"] for name, found in raw.items()}


class Given:
    """In the place of HKDF: the derived half is the seed of the official case."""

    def __init__(self, seed: bytes) -> None:
        self.seed = seed

    def __call__(self, *, length: int, **_: object) -> "Given":
        self.length = length
        return self

    def derive(self, _: bytes) -> bytes:
        return self.seed if self.length == 64 else bytes(range(32))


def test_ml_kem(official: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in official["ML-KEM-768"]:
        found = unhexed(case)
        seed = found["d"] + found["z"]
        assert MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw() == found["pk"]
        monkeypatch.setattr(suites, "HKDF", Given(seed))
        assert HYBRID.public_half(bytes(32))[32:] == found["pk"]
        assert HYBRID.decapsulate(bytes(32), found["ct"]) == found["ss"]
        assert HYBRID.decapsulate(bytes(32), found["ct_n"]) == found["ss_n"]


def test_ml_dsa(official: Any) -> None:
    for case in official["ML-DSA-65"]:
        found = unhexed(case)
        signature = found["sm"][:3309]
        assert found["sm"][3309:] == found["msg"]
        assert MLDSA65PrivateKey.from_seed_bytes(found["xi"]).public_key().public_bytes_raw() == found["pk"]
        MLDSA65PublicKey.from_public_bytes(found["pk"]).verify(signature, found["msg"], found["ctx"])
        assert (len(found["pk"]), len(signature)) == (HYBRID.identity_bytes - 32, HYBRID.signature_bytes - 64)


def test_x25519(official: Any) -> None:
    for case in official["X25519"][:2]:
        found = {key: bytes.fromhex(value) for key, value in case.items() if key != "COUNT"}
        assert CLASSIC.exchange(found["INPUT_SCALAR"], found["INPUT_U"]) == found["OUTPUT_U"]
    base = b"\x09" + bytes(31)
    assert CLASSIC.public_half(base) == CLASSIC.exchange(base, base) == bytes.fromhex(official["X25519"][2]["OUTPUT_U"])


def test_ed25519(official: Any) -> None:
    for case in official["Ed25519"]:
        found = unhexed(case)
        key = Ed25519PrivateKey.from_private_bytes(found["seed"])
        assert raw_public(key) == found["public"]
        assert key.sign(found["message"]) == found["signature"]
        assert verify(found["public"], found["signature"], found["message"])
        assert not verify(found["public"], found["signature"], found["message"] + b"x")


def test_the_primitives_of_the_generator(official: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second implementation is held to the official answers too."""
    monkeypatch.syspath_prepend(str(HERE))
    import primitives

    for case in official["AES-256-GCM"]:
        key, nonce, plain, aad, text, tag = (bytes.fromhex(case[k]) for k in ("Key", "IV", "PT", "AAD", "CT", "Tag"))
        assert primitives.gcm_seal(key, nonce, plain, aad) == text + tag
    for case in official["AES-256-CTR"]:
        key, start, plain, text = (bytes.fromhex(case[k]) for k in ("KEY", "IV", "PLAINTEXT", "CIPHERTEXT"))
        stream = primitives.ctr(key, int.from_bytes(start, "big"), len(plain))
        assert bytes(a ^ b for a, b in zip(stream, plain, strict=True)) == text
    for case in official["HKDF-SHA256"]:
        secret, salt, info, answer = (bytes.fromhex(case.get(k, "")) for k in ("IKM", "salt", "info", "OKM"))
        assert primitives.hkdf(secret, salt, info, int(case["L"])) == answer
    for case in official["X25519"][:2]:
        scalar, u, answer = (bytes.fromhex(case[k]) for k in ("INPUT_SCALAR", "INPUT_U", "OUTPUT_U"))
        assert primitives.x25519(scalar, u) == answer
    for case in official["Ed25519"]:
        assert (
            primitives.ed25519_sign(bytes.fromhex(case["seed"]), bytes.fromhex(case["message"])).hex()
            == case["signature"]
        )
    sys.modules.pop("primitives", None)


def test_keystream_is_the_official_counter_mode(official: Any) -> None:
    """GCM of zeros is CTR from block 2 of the nonce: the key stream and the CAVP cases are one cipher."""
    case = official["AES-256-GCM"][0]
    key, plain, text = (bytes.fromhex(case[k]) for k in ("Key", "PT", "CT"))
    box = keys.AESGCM(key)
    sealed = box.encrypt(bytes.fromhex(case["IV"]), plain, bytes.fromhex(case["AAD"]))
    assert sealed == text + bytes.fromhex(case["Tag"])
    zero = box.encrypt(bytes(12), bytes(32), None)[:32]
    words = np.zeros(4, dtype="<u8")
    masking.apply(words, [(key, 1)])
    assert words.tobytes() == zero


def test_all_secrets_of_the_answers_differ(known: Any) -> None:
    seeds = sorted(
        [
            *known["seeds"]["self"],
            *known["seeds"]["pair"].values(),
            *(secret for three in known["secrets"] for secret in three),
        ]
    )
    assert all(a != b for a, b in pairwise(seeds))
