"""The suites: which primitives a federation uses. The roster pins one, so no plan can choose a weaker one.

    id  identities               round keys              hash, masks, seals, shares (the same in both)
    1   Ed25519                  X25519                  SHA-256, AES-256-CTR, AES-256-GCM, GF(2^521 - 1)
    2   Ed25519 and ML-DSA-65    X25519 and ML-KEM-768   (FIPS 203, FIPS 204)

In suite 2 both halves must hold: a forger has to break both signatures, an eavesdropper both agreements. A round secret
is 32 bytes in both suites, so what is shared by Shamir does not change.
"""

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .refused import refuse

X25519_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16
COMMITMENTS_BYTES = 2 * 32
_SHARES_BYTES = 2 * 66


@dataclass(frozen=True)
class Suite:
    """Sizes of one suite, in bytes; the zeros of suite 1 make both suites one protocol.

    Attributes:
        id: in every plan and in the roster's hash.
        identity_bytes, signature_bytes: public identity key, signature.
        public_bytes: a public round key. kem_bytes, ciphertext_bytes: an encapsulated secret and its ciphertext.
    """

    id: int
    name: str
    identity_bytes: int
    signature_bytes: int
    public_bytes: int
    kem_bytes: int
    ciphertext_bytes: int

    @property
    def sealed_bytes(self) -> int:
        """A sealed pair of shares."""
        return self.ciphertext_bytes + NONCE_BYTES + _SHARES_BYTES + TAG_BYTES

    @property
    def offer_bytes(self) -> int:
        """An offered pair secret: ciphertext, wrapping under the sender's mask secret, commitment."""
        return self.ciphertext_bytes + 2 * self.kem_bytes

    @property
    def box_bytes(self) -> int:
        """What one organization sends to another in P1: sealed shares, the offer, two commitments to the shares."""
        return self.sealed_bytes + self.offer_bytes + COMMITMENTS_BYTES

    def public_half(self, secret: bytes) -> bytes:
        """The public round key of a secret of 32 bytes."""
        if not self.kem_bytes:
            return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
        curve, lattice = self._halves(secret)
        return curve.public_key().public_bytes_raw() + lattice.public_key().public_bytes_raw()

    def exchange(self, secret: bytes, public: bytes, member: int | None = None) -> bytes:
        """X25519 (RFC 7748), 32 bytes, the same from both sides; Refused("keys.public") naming the key's owner."""
        curve = X25519PrivateKey.from_private_bytes(secret) if not self.kem_bytes else self._halves(secret)[0]
        try:
            return curve.exchange(X25519PublicKey.from_public_bytes(public[:X25519_BYTES]))
        except ValueError:
            refuse("keys.public", "a public key of low order, or of a wrong length", member)

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        """A fresh ML-KEM-768 secret (FIPS 203) and its ciphertext; both empty in suite 1; Refused("keys.public")."""
        if not self.kem_bytes:
            return b"", b""
        try:
            return MLKEM768PublicKey.from_public_bytes(public[X25519_BYTES:]).encapsulate()
        except ValueError:
            refuse("keys.public", "a public key that is not one of ML-KEM-768")

    def decapsulate(self, secret: bytes, ciphertext: bytes) -> bytes:
        """The secret in a ciphertext; for an altered one some other secret (implicit rejection)."""
        return self._halves(secret)[1].decapsulate(ciphertext) if self.kem_bytes else b""

    def check_public(self, public: bytes) -> None:
        """Refuse ("keys.public") a round key that cannot be used, or with which every agreement is zero."""
        if len(public) != self.public_bytes:
            refuse("keys.public", f"a public key of {len(public)} bytes; this suite's have {self.public_bytes}")
        self.exchange(bytes(range(32)), public)
        self.encapsulate(public)

    @staticmethod
    def _halves(secret: bytes) -> tuple[X25519PrivateKey, MLKEM768PrivateKey]:
        def part(label: bytes, size: int) -> bytes:
            return HKDF(algorithm=SHA256(), length=size, salt=None, info=b"cotune/secagg/v2/" + label).derive(secret)

        curve = X25519PrivateKey.from_private_bytes(part(b"x25519", X25519_BYTES))
        return curve, MLKEM768PrivateKey.from_seed_bytes(part(b"ml-kem-768", 64))


CLASSIC = Suite(1, "classic", 32, 64, 32, 0, 0)
HYBRID = Suite(2, "hybrid", 32 + 1952, 64 + 3309, 32 + 1184, 32, 1088)
SUITES = {suite.id: suite for suite in (CLASSIC, HYBRID)}


def suite_of(id: int) -> Suite:
    """The suite of this id; Refused("plan.suite") for another."""
    if id not in SUITES:
        refuse("plan.suite", f"suite {id} is not known here")
    return SUITES[id]
