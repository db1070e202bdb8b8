"""The key schedule: contexts, commitments, agreements of the suite, HKDF-SHA256 (RFC 5869) and sealed boxes.

Every key is derived under the whole view that its holder has of the round, so organizations that were shown different
plans, key sets or cohorts derive keys that do not match: garbage instead of leakage (Pasquini et al. 2022).
"""

import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .refused import refuse, require
from .shamir import SHARE_BYTES
from .suites import NONCE_BYTES, Suite
from .wire import Writer, digest

SECRET_BYTES = 32


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


def _derive(secret: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=SECRET_BYTES, salt=salt, info=info).derive(secret)


def _info(label: str, first: int, second: int, extra: bytes = b"") -> bytes:
    return bytes(Writer().blob(label.encode()).uint(first, 2).uint(second, 2).blob(extra))


def pair_seed(suite: Suite, secret: bytes, public: bytes, ctx2: bytes, one: int, other: int, agreed: bytes) -> bytes:
    """The mask seed that two organizations share; the same from both sides.

    Args:
        one: index of the holder of `secret`.
        other: index of the owner of `public`.
        agreed: the two offered secrets, that of the smaller index first; empty in suite 1.
    """
    shared = suite.exchange(secret, public, other)
    return _derive(shared + agreed, ctx2, _info("pair", min(one, other), max(one, other)))


def self_seed(self_secret: bytes, ctx2: bytes, index: int) -> bytes:
    """The mask seed of one organization alone."""
    return _derive(self_secret, ctx2, _info("self", index, index))


def _associated(ctx1: bytes, sender: int, recipient: int) -> bytes:
    return bytes(Writer().fixed(ctx1, 32).uint(sender, 2).uint(recipient, 2))


def _channel(suite: Suite, secret: bytes, public: bytes, agreed: bytes, ctx1: bytes, info: bytes) -> AESGCM:
    return AESGCM(_derive(suite.exchange(secret, public) + agreed, ctx1, info))


def seal_share(
    suite: Suite, secret: bytes, public: bytes, ctx1: bytes, sender: int, recipient: int, plain: bytes
) -> bytes:
    """AES-256-GCM under the channel key of this direction: ciphertext of the suite, nonce, sealed text.

    A key is meant to be used once; the random nonce keeps a restart that seals again from repeating one.
    """
    agreed, ciphertext = suite.encapsulate(public)
    box = _channel(suite, secret, public, agreed, ctx1, _info("channel", sender, recipient, ciphertext))
    nonce = os.urandom(NONCE_BYTES)
    return ciphertext + nonce + box.encrypt(nonce, plain, _associated(ctx1, sender, recipient))


def open_share(
    suite: Suite, secret: bytes, public: bytes, ctx1: bytes, sender: int, recipient: int, sealed: bytes
) -> bytes:
    """The plain text of `seal_share`, or `Refused("share.seal")` naming the sender."""
    ciphertext, rest = sealed[: suite.ciphertext_bytes], sealed[suite.ciphertext_bytes :]
    try:
        agreed = suite.decapsulate(secret, ciphertext)
        box = _channel(suite, secret, public, agreed, ctx1, _info("channel", sender, recipient, ciphertext))
        return box.decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], _associated(ctx1, sender, recipient))
    except (InvalidTag, ValueError):
        refuse("share.seal", f"the share sealed by organization {sender} does not open", sender)


def share_commitment(ctx1: bytes, owner: int, holder: int, of: str, value: int) -> bytes:
    """H of one share, so that a false share convicts who shows it. A share is uniform in the field: it needs no salt.

    Args:
        of: "b" or "mk", which of the owner's secrets it is a share of.
    """
    place = owner.to_bytes(2, "big") + holder.to_bytes(2, "big")
    return digest("share", ctx1, of.encode(), place, value.to_bytes(SHARE_BYTES, "big"))


def share_commitments(ctx1: bytes, owner: int, holder: int, shares: tuple[int, int]) -> bytes:
    """Both commitments at the end of a box, b first."""
    both = zip(("b", "mk"), shares, strict=True)
    return b"".join(share_commitment(ctx1, owner, holder, of, value) for of, value in both)


# An encapsulation is random, so the secret that it offers cannot be derived from the sender's mask secret alone. It
# travels once more, wrapped under that mask secret: whoever rebuilds the mask secret of an organization that dropped
# out gets both secrets of each of its pairs, the offered one by `recall`, the accepted one by `accept`. A commitment
# beside them tells whose fault it is where the two ways do not lead to the same secret.


def _pad(suite: Suite, secret: bytes, ctx1: bytes, sender: int, recipient: int) -> bytes:
    return _derive(secret, ctx1, _info("offer", sender, recipient))[: suite.kem_bytes]


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def offer(
    suite: Suite, mask_secret: bytes, mask_public: bytes, ctx1: bytes, sender: int, recipient: int
) -> tuple[bytes, bytes]:
    """A secret for the pair and what carries it to the holder of `mask_public`; both empty in suite 1."""
    secret, ciphertext = suite.encapsulate(mask_public)
    if not secret:
        return b"", b""
    wrapped = _xor(secret, _pad(suite, mask_secret, ctx1, sender, recipient))
    return secret, ciphertext + wrapped + _offer_commitment(ctx1, sender, recipient, secret)


def accept(suite: Suite, mask_secret: bytes, ctx1: bytes, sender: int, recipient: int, offered: bytes) -> bytes:
    """The recipient's way to an offered secret; Refused("share.offer") naming the sender."""
    secret = suite.decapsulate(mask_secret, offered[: suite.ciphertext_bytes])
    return _committed(suite, ctx1, sender, recipient, secret, offered)


def recall(suite: Suite, mask_secret: bytes, ctx1: bytes, sender: int, recipient: int, offered: bytes) -> bytes:
    """The way to an offered secret by the sender's own mask secret; Refused("share.offer") naming the sender."""
    wrapped = offered[suite.ciphertext_bytes :][: suite.kem_bytes]
    secret = _xor(wrapped, _pad(suite, mask_secret, ctx1, sender, recipient))
    return _committed(suite, ctx1, sender, recipient, secret, offered)


def _offer_commitment(ctx1: bytes, sender: int, recipient: int, secret: bytes) -> bytes:
    return digest("offer", ctx1, sender.to_bytes(2, "big"), recipient.to_bytes(2, "big"), secret)


def _committed(suite: Suite, ctx1: bytes, sender: int, recipient: int, secret: bytes, offered: bytes) -> bytes:
    same = not secret or offered[-suite.kem_bytes :] == _offer_commitment(ctx1, sender, recipient, secret)
    require(same, "share.offer", f"organization {sender} offered another pair secret than it committed to", sender)
    return secret


def agreement(one: int, other: int, from_one: bytes, from_other: bytes) -> bytes:
    """Both offered secrets of a pair, that of the smaller index first."""
    return from_one + from_other if one < other else from_other + from_one
