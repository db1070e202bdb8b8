"""Who signs: an Ed25519 key, or an Ed25519 and an ML-DSA-65 key together, of which a forger must break both.

The length of a public key tells which: 32 bytes, or 32 + 1952.
"""

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from .suites import CLASSIC, HYBRID, Suite

# Signed in front of every message, so that one half of a hybrid signature never is a signature of suite 1.
_HYBRID_DOMAIN = b"cotune/hybrid/v1\0"
_CURVE_KEY = CLASSIC.identity_bytes
_CURVE_SIGNATURE = CLASSIC.signature_bytes


class HybridIdentity:
    """The two private keys of an organization in suite 2."""

    def __init__(self, curve: Ed25519PrivateKey, lattice: MLDSA65PrivateKey) -> None:
        self.curve, self.lattice = curve, lattice

    def sign(self, message: bytes) -> bytes:
        """Ed25519 (64 bytes), then ML-DSA-65 (3309 bytes), each over the domain and the message."""
        return self.curve.sign(_HYBRID_DOMAIN + message) + self.lattice.sign(_HYBRID_DOMAIN + message)


Identity = Ed25519PrivateKey | HybridIdentity


def new_identity(suite: Suite = CLASSIC) -> Identity:
    """A fresh identity of a suite."""
    curve = Ed25519PrivateKey.generate()
    return curve if suite is CLASSIC else HybridIdentity(curve, MLDSA65PrivateKey.generate())


def raw_public(identity: Identity) -> bytes:
    """The public half: 32 bytes, or 32 + 1952."""
    if isinstance(identity, HybridIdentity):
        return raw_public(identity.curve) + identity.lattice.public_key().public_bytes_raw()
    return identity.public_key().public_bytes_raw()


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether the holder of a public identity key signed the message; False for anything malformed."""
    try:
        if len(public) == HYBRID.identity_bytes:
            message = _HYBRID_DOMAIN + message
            lattice = MLDSA65PublicKey.from_public_bytes(public[_CURVE_KEY:])
            lattice.verify(signature[_CURVE_SIGNATURE:], message)
            public, signature = public[:_CURVE_KEY], signature[:_CURVE_SIGNATURE]
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
