"""Writes protocol.json: the whole protocol of suite 1 a second time, from its description alone.

    python generate.py          # writes protocol.json beside this file

It imports only `primitives` beside it and the standard library, so that a mistake in the package is not repeated here.
"""

import hashlib
import json
from fractions import Fraction
from pathlib import Path

from primitives import ctr, ed25519_public, ed25519_sign, gcm_seal, hkdf, path, shamir, top, x25519

CHUNK_WORDS, PIECE_WORDS = 32 * 1024, 2048
N, T, BITS, LANES = 4, 3, 21, 3
K = (2**BITS - 1) // (2 * N)
SEGMENTS = [(5, 1.0), (4, 0.25)]
RUN = b"vectors of a run"
SURVIVORS, EVERYBODY = [0, 1, 2], [0, 1, 2, 3]


def u(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def blob(raw: bytes) -> bytes:
    return u(len(raw), 4) + raw


def blobs(parts: list[bytes]) -> bytes:
    return u(len(parts), 2) + b"".join(map(blob, parts))


def indices(members: list[int]) -> bytes:
    return u(len(members), 2) + b"".join(u(i, 2) for i in members)


def H(label: str, *parts: bytes) -> bytes:  # noqa: N802 - as in the description
    whole = [b"cotune/secagg/v2", label.encode(), *parts]
    return hashlib.sha256(b"".join(u(len(part), 8) + part for part in whole)).digest()


def fixed(label: str) -> bytes:
    """Bytes that stand for a random choice."""
    return hashlib.sha256(b"test vector: " + label.encode()).digest()


def coefficients(label: str) -> list[int]:
    """Of the terms above the constant one."""
    return [int.from_bytes(fixed(f"{label}/{k}") * 2, "big") for k in range(1, T)]


def seal(kind: str, body: bytes, seed: bytes) -> bytes:
    return blob(body) + blob(ed25519_sign(seed, H(kind, body)))


def info(label: str, first: int, second: int) -> bytes:
    return blob(label.encode()) + u(first, 2) + u(second, 2) + blob(b"")


def stream(seed: bytes, chunk: int, words: int) -> list[int]:
    raw = ctr(seed, chunk * 2**32 + 2, 8 * words)
    return [int.from_bytes(raw[at : at + 8], "little") for at in range(0, len(raw), 8)]


def pack(lanes: list[int]) -> list[int]:
    words = -(-len(lanes) // LANES)
    return [sum(lane << BITS * (at // words) for at, lane in enumerate(lanes) if at % words == w) for w in range(words)]


def rounded(vector: list[float], seed: bytes) -> list[int]:
    """floor(x / s + U) + K; lane number l of a chunk draws U from chunk l of the stream, 4 bytes each, made odd."""
    clips = [clip for size, clip in SEGMENTS for _ in range(size)]
    words, lanes = -(-len(vector) // LANES), []
    for at, (x, clip) in enumerate(zip(vector, clips, strict=True)):
        raw = ctr(seed, at // words * 2**32 + 2, 4 * words)[4 * (at % words) :][:4]
        draw = Fraction(int.from_bytes(raw, "little", signed=True) | 1, 2**32)
        exact = min(max(Fraction(x) * K / Fraction(clip), Fraction(-K)), Fraction(K))
        lanes.append(int((exact + draw + Fraction(1, 2)) // 1) + K)
    return lanes


CONTROL = [1] + [int.from_bytes(H("control", bytes([k]))[:8], "big") for k in range(1, 8)]


def upload_leaf(words: list[int], context: bytes, index: int, number: int) -> bytes:
    raw = b"".join(word.to_bytes(8, "little") for word in words)
    return hashlib.sha256(b"\0" + context + u(index, 2) + u(number, 8) + raw).digest()


def upload_root(words: list[int], context: bytes, index: int) -> bytes:
    pieces = [words[at : at + PIECE_WORDS] for at in range(0, len(words), PIECE_WORDS)]
    tree = top([upload_leaf(piece, context, index, number) for number, piece in enumerate(pieces)])
    return hashlib.sha256(b"\2" + u(len(words), 8) + tree).digest()


def keys_and_plan(out: dict) -> dict:
    seeds = [fixed(f"identity {i}") for i in EVERYBODY]
    coordinator = fixed("coordinator")
    publics = [ed25519_public(seed) for seed in seeds]
    name = blob(b"vectors") + u(3, 4) + u(1, 2)
    roster = H("roster", name, ed25519_public(coordinator), *publics)
    genesis = H("genesis", RUN, roster)
    body = u(1, 2) + RUN + u(5, 4) + u(2, 4) + roster + indices(EVERYBODY) + u(T, 2) + u(T, 2)
    body += fixed("model") + fixed("schema") + fixed("privacy") + u(9, 8) + u(N, 2)
    body += u(BITS, 1) + u(LANES, 1) + u(K, 8) + u(len(SEGMENTS), 4)
    body += u(5, 4) + bytes.fromhex("3ff0000000000000") + u(4, 4) + bytes.fromhex("3fd0000000000000")
    body += u(2_000_000_000, 8) + genesis
    out["roster"] = {"members": publics, "coordinator": ed25519_public(coordinator), "hash": roster}
    out["plan"] = {"body": body, "message": seal("plan", body, coordinator), "ctx0": H("ctx0", body)}
    out["genesis"] = genesis
    return {"seeds": seeds, "coordinator": coordinator, "ctx0": H("ctx0", body), "genesis": genesis}


def shared(out: dict, made: dict) -> None:
    """P0 and P1: adverts, boxes, roots."""
    ctx0, secrets, adverts = made["ctx0"], [], []
    for i in EVERYBODY:
        b, mk, ck = (fixed(f"{name} of {i}") for name in ("b", "mk", "ck"))
        secrets.append((b, mk, ck))
        body = ctx0 + u(i, 2) + blob(x25519(mk)) + blob(x25519(ck)) + H("commit", ctx0, u(i, 2), b)
        adverts.append(seal("advert", body, made["seeds"][i]))
    ctx1 = H("ctx1", ctx0, *adverts)
    roots, boxes, tops, paths = [], [], [], []
    for i in EVERYBODY:
        others, mine = [j for j in EVERYBODY if j != i], []
        for j in others:
            plain = b"".join(
                u(shamir(secrets[i][k], coefficients(f"{name} of {i}"), j + 1), 66)
                for k, name in enumerate(("b", "mk"))
            )
            key = hkdf(x25519(secrets[i][2], x25519(secrets[j][2])), ctx1, info("channel", i, j))
            nonce = fixed(f"nonce {i} {j}")[:12]
            mine.append(nonce + gcm_seal(key, nonce, plain, ctx1 + u(i, 2) + u(j, 2)))
        leaves = [H("leaf", ctx1, u(i, 2), u(j, 2), box) for j, box in zip(others, mine, strict=True)]
        tops.append(top(leaves))
        paths.append([path(leaves, number) for number in range(len(leaves))])
        root = H("share-root", ctx1, u(i, 2), tops[-1])
        roots.append(seal("shares", ctx1 + u(i, 2) + root, made["seeds"][i]))
        made.setdefault("roots", []).append(root)
        boxes.append(mine)
    ctx2 = H("ctx2", ctx1, indices(EVERYBODY), *made["roots"])
    out["secrets"] = [list(three) for three in secrets]
    out["adverts"], out["ctx1"], out["ctx2"] = adverts, ctx1, ctx2
    out["shares"] = {"roots": roots, "boxes": boxes, "tops": tops, "paths": paths}
    out["shamir"] = {
        "secret": secrets[0][0],
        "coefficients": [u(c, 66) for c in coefficients("b of 0")],
        "shares": [u(shamir(secrets[0][0], coefficients("b of 0"), j + 1), 66) for j in EVERYBODY],
    }
    made |= {"secrets": secrets, "adverts": adverts, "ctx1": ctx1, "ctx2": ctx2, "root_envelopes": roots}


def masked(out: dict, made: dict) -> None:
    """P2: pair and self seeds, encoding, masks, upload roots."""
    ctx2, secrets, out["uploads"] = made["ctx2"], made["secrets"], []
    out["seeds"] = {"self": [hkdf(secrets[i][0], ctx2, info("self", i, i)) for i in EVERYBODY], "pair": {}}
    for i in EVERYBODY:
        for j in range(i + 1, N):
            agreed = x25519(secrets[i][1], x25519(secrets[j][1]))
            out["seeds"]["pair"][f"{i} {j}"] = hkdf(agreed, ctx2, info("pair", i, j))
    made["headers"], made["upload_roots"], made["lanes"] = [], [], []
    for i in SURVIVORS:
        vector = [0.5 - 0.1 * i, -1.0, 1.5, 0.0, 1 / 3, 0.25, -0.2, 0.01 * i, -9.0]
        lanes = rounded(vector, fixed(f"rounding of {i}"))
        words = CONTROL + pack(lanes)
        for word, mask in enumerate(stream(out["seeds"]["self"][i], 0, len(words))):
            words[word] += mask
        for j in EVERYBODY:
            if j != i:
                seed = out["seeds"]["pair"][f"{min(i, j)} {max(i, j)}"]
                for word, mask in enumerate(stream(seed, 0, len(words))):
                    words[word] += mask if i < j else -mask
        words = [word % 2**64 for word in words]
        root = upload_root(words, ctx2, i)
        made["headers"].append(seal("upload", ctx2 + u(i, 2) + root, made["seeds"][i]))
        made["upload_roots"].append(root)
        made["lanes"].append(lanes)
        parts = {"vector": [float.hex(x) for x in vector], "rounding": fixed(f"rounding of {i}"), "lanes": lanes}
        out["uploads"].append(parts | {"words": [u(word, 8) for word in words], "root": root})


def recorded(out: dict, made: dict) -> None:
    """P3 to P5: statement, quorum, sum, record, head."""
    ctx2, secrets = made["ctx2"], made["secrets"]
    statement = H("statement", ctx2, indices(SURVIVORS), *made["upload_roots"])
    signatures = [seal("survive", ctx2 + u(i, 2) + statement, made["seeds"][i]) for i in SURVIVORS]
    sums = [sum(column) for column in zip(*made["lanes"], strict=True)]
    bare = [3 * word % 2**64 for word in CONTROL] + pack(sums)
    result = upload_root(bare, ctx2, 0xFFFF)
    roots = H("roots", *made["upload_roots"])
    head = H("head", made["genesis"], ctx2, indices(SURVIVORS), roots, result)
    body = blob(out["plan"]["message"])
    for envelopes in (made["adverts"], made["root_envelopes"], made["headers"], signatures):
        body += blobs(envelopes)
    body += blobs([secrets[i][0] for i in SURVIVORS]) + blobs([secrets[3][1]]) + blobs([b""])
    body += b"".join(u(word, 8) for word in bare[:8]) + result + head
    clips = [clip for size, clip in SEGMENTS for _ in range(size)]
    values = [float(Fraction(lane - 3 * K) * Fraction(clip) / K) for lane, clip in zip(sums, clips, strict=True)]
    out["statement"], out["head"] = statement, head
    out["sum"] = {"words": [u(word, 8) for word in bare], "lanes": sums, "values": [float.hex(x) for x in values]}
    out["record"] = seal("record", body, made["coordinator"])


def small(out: dict) -> None:
    """What needs no round: digests, control constants, the masks of a chunk in the middle."""
    cases = [("a",), ("a", b""), ("", b"a"), ("label", b"one", b"two"), ("label", b"onet", b"wo")]
    out["digests"] = [[label, *parts, H(label, *parts)] for label, *parts in cases]
    out["control"] = [u(word, 8) for word in CONTROL]
    seed = fixed("a mask")
    chunks = [{"chunk": number, "words": [u(word, 8) for word in stream(seed, number, 5)]} for number in (0, 1, 7)]
    lengths = (PIECE_WORDS, PIECE_WORDS + 1, 2 * PIECE_WORDS + 5)
    words = stream(seed, 0, lengths[-1])
    roots = [{"words": size, "root": upload_root(words[:size], fixed("ctx2"), 7)} for size in lengths]
    out["roots"] = {"context": fixed("ctx2"), "index": 7, "roots": roots}
    out["masks"] = {"seed": seed, "chunk_words": CHUNK_WORDS, "chunks": chunks}


def readable(value: object) -> object:
    if isinstance(value, dict):
        return {key: readable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [readable(part) for part in value]
    return value.hex() if isinstance(value, bytes) else value


def generate() -> str:
    out: dict = {}
    small(out)
    made = keys_and_plan(out)
    for phase in (shared, masked, recorded):
        phase(out, made)
    return json.dumps(readable(out), indent=1) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "protocol.json").write_text(generate())
