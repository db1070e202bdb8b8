"""The key schedule: contexts, commitments, X25519 agreements, HKDF-SHA256 (RFC 7748, RFC 5869) and sealed shares.

Every key is derived under the whole view that its holder has of the round, so organizations that were shown different
plans, key sets or cohorts derive keys that do not match: garbage instead of leakage (Pasquini et al. 2022).
"""

import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .refused import refuse
from .wire import Writer, digest

SECRET_BYTES = 32
NONCE_BYTES = 12


def context0(plan_body: bytes) -> bytes:
    """ctx0 = H(plan)."""
    return digest("ctx0", plan_body)


def context1(ctx0: bytes, adverts: Sequence[bytes]) -> bytes:
    """ctx1 = H(ctx0, the signed adverts of U1 in the order of their indices)."""
    return digest("ctx1", ctx0, *adverts)


def context2(ctx1: bytes, members: tuple[int, ...], roots: Sequence[bytes]) -> bytes:
    """ctx2 = H(ctx1, U2, the share roots of U2 in order)."""
    return digest("ctx2", ctx1, bytes(Writer().indices(members)), *roots)


def survivors_statement(ctx2: bytes, survivors: tuple[int, ...], roots: Sequence[bytes]) -> bytes:
    """What survivors sign: ctx2, U3 and the roots of the masked uploads of U3 in order."""
    return digest("statement", ctx2, bytes(Writer().indices(survivors)), *roots)


def commitment(ctx0: bytes, index: int, self_secret: bytes) -> bytes:
    """H(b), bound to the round and its owner so that a commitment cannot be copied."""
    return digest("commit", ctx0, index.to_bytes(2, "big"), self_secret)


def new_secret() -> bytes:
    """32 bytes of the operating system's generator."""
    return os.urandom(SECRET_BYTES)


def public_half(secret: bytes) -> bytes:
    """X25519 public key, raw."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def _agree(secret: bytes, public: bytes, salt: bytes, info: bytes) -> bytes:
    try:
        shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        refuse("keys.low_order", "a public key of low order")
    return _derive(shared, salt, info)


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=salt, info=info).derive(secret)


def check_public(public: bytes) -> None:
    """Refuse ("keys.low_order") a key with which every agreement is zero."""
    _agree(new_secret(), public, b"", b"")


def _info(label: str, first: int, second: int) -> bytes:
    return bytes(Writer().blob(label.encode()).uint(first, 2).uint(second, 2))


def pair_seed(secret: bytes, public: bytes, ctx2: bytes, one: int, other: int) -> bytes:
    """The mask seed that two organizations share; the same from both sides."""
    return _agree(secret, public, ctx2, _info("pair", min(one, other), max(one, other)))


def self_seed(self_secret: bytes, ctx2: bytes, index: int) -> bytes:
    """The mask seed of one organization alone."""
    return _derive(self_secret, ctx2, _info("self", index, index))


def _associated(ctx1: bytes, sender: int, recipient: int) -> bytes:
    return bytes(Writer().fixed(ctx1, 32).uint(sender, 2).uint(recipient, 2))


def seal_share(secret: bytes, public: bytes, ctx1: bytes, sender: int, recipient: int, plain: bytes) -> bytes:
    """AES-256-GCM under the channel key of this direction. The nonce is random and travels in front.

    A key is meant to be used once; the random nonce keeps a restart that seals again from repeating one.
    """
    key = _agree(secret, public, ctx1, _info("channel", sender, recipient))
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plain, _associated(ctx1, sender, recipient))


def open_share(secret: bytes, public: bytes, ctx1: bytes, sender: int, recipient: int, sealed: bytes) -> bytes:
    """The plain text of `seal_share`, or `Refused("share.seal")` naming the sender."""
    key = _agree(secret, public, ctx1, _info("channel", sender, recipient))
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _associated(ctx1, sender, recipient))
    except (InvalidTag, ValueError):
        refuse("share.seal", f"the share sealed by organization {sender} does not open", culprit=sender)
