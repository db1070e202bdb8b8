"""Identity keys on disk and detached signatures of a charter.

A key file holds one PEM block (PKCS8) in suite "classic", Ed25519, and a second one in "hybrid", ML-DSA-65.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey

from .. import atomic, private_files
from ..errors import UserError
from ..secagg.identity import HybridIdentity, Identity, new_identity, raw_public, verify
from ..secagg.suites import CLASSIC, Suite
from .charter import COORDINATOR, Charter
from .refusal import Refusal

_DOMAIN = b"cotune/charter/v1/signature\0"
_MOST_KEY_BYTES = 16_384
_END = b"-----END PRIVATE KEY-----\n"


def new_key(path: Path, suite: Suite = CLASSIC) -> Identity:
    """Make an identity key of a suite and write it, PKCS8 PEM, 0600.

    Raises:
        UserError: the file exists already (a key is never overwritten) or cannot be written.
    """
    if path.exists():
        raise UserError(f"{path} exists already", "choose another file; a lost key cannot be made again")
    identity = new_identity(suite)
    halves = (identity.curve, identity.lattice) if isinstance(identity, HybridIdentity) else (identity,)
    pem = b"".join(_pem(half) for half in halves)
    try:
        atomic.write_bytes(path, pem, mode=0o600)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "create its folder and make it writable") from error
    return identity


def _pem(key: Ed25519PrivateKey | MLDSA65PrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def load_key(path: Path) -> Identity:
    """Read an identity key.

    Raises:
        UserError: no such file, a link, open to others, or not an unencrypted identity key.
    """
    try:
        content = private_files.read_file(path, _MOST_KEY_BYTES)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "run `cotune keys new` or give the key's path") from error
    first, end, second = content.partition(_END)
    try:
        keys = [serialization.load_pem_private_key(block, None) for block in (first + end, second) if block.strip()]
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without the cause: its text could quote the key.
        raise UserError(f"{path}: not an unencrypted PEM key", "run `cotune keys new`") from None
    match keys:
        case [Ed25519PrivateKey() as curve]:
            return curve
        case [Ed25519PrivateKey() as curve, MLDSA65PrivateKey() as lattice]:
            return HybridIdentity(curve, lattice)
    raise UserError(f"{path}: neither an Ed25519 key nor one with an ML-DSA-65 key after it", "run `cotune keys new`")


def public_hex(key: Identity) -> str:
    """The public key in hex, as it stands in a charter: 64 digits, or 3968."""
    return raw_public(key).hex()


def fingerprint(public_key: str) -> str:
    """100 bits of the SHA-256 of a public key (hex) in base 32, in fours, to read aloud on the phone."""
    text = base64.b32encode(hashlib.sha256(bytes.fromhex(public_key)).digest()).decode()[:20]
    return "-".join(text[start : start + 4] for start in range(0, 20, 4))


def sign_charter(charter: Charter, key: Identity) -> bytes:
    """The detached signature: 64 bytes, or 3373."""
    return key.sign(_DOMAIN + charter.canonical_bytes())


def verify_signature(charter: Charter, public_key: str, signature: bytes) -> bool:
    """Whether the holder of a public key (hex) signed this very charter."""
    return verify(bytes.fromhex(public_key), signature, _DOMAIN + charter.canonical_bytes())


def verify_signatures(charter: Charter, signatures: Mapping[str, bytes]) -> None:
    """Check that every member and the coordinator signed.

    Args:
        signatures: member's name, or "coordinator" -> signature.

    Raises:
        Refusal: "charter.unsigned" where one is missing, "charter.signature" where one is wrong or by a stranger.
    """
    keys = {member.name: member.public_key for member in charter.members} | {COORDINATOR: charter.coordinator}
    missing = sorted(set(keys) - set(signatures))
    if missing:
        raise Refusal("charter.unsigned", f"not signed by {', '.join(missing)}", "ask them to sign this charter")
    for name, signature in signatures.items():
        if name not in keys or not verify_signature(charter, keys[name], signature):
            raise Refusal(
                "charter.signature",
                f"the signature of {name[:64]!r} does not belong to this charter",
                "compare the charter's digest with theirs and sign the same file",
            )
