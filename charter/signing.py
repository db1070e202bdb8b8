"""Ed25519 keys on disk and detached signatures of a charter."""

import base64
import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .. import atomic
from ..errors import UserError
from .charter import COORDINATOR, Charter
from .refusal import Refusal

_DOMAIN = b"cotune/charter/v1/signature\0"
_MOST_KEY_BYTES = 4096


def new_key(path: Path) -> Ed25519PrivateKey:
    """Make an identity key and write it, PKCS8 PEM, 0600.

    Raises:
        UserError: the file exists already (a key is never overwritten) or cannot be written.
    """
    if path.exists():
        raise UserError(f"{path} exists already", "choose another file; a lost key cannot be made again")
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        atomic.write_bytes(path, pem, mode=0o600)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "create its folder and make it writable") from error
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read an identity key.

    Raises:
        UserError: no such file, readable by others, or not an unencrypted Ed25519 key.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MOST_KEY_BYTES)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", "run `cotune keys new` or give the key's path") from error
    if mode & 0o177:
        raise UserError(f"{path}: its permissions are {mode:04o}, wider than 0600", f"run chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without the cause: its text could quote the key.
        raise UserError(f"{path}: not an unencrypted PEM key", "run `cotune keys new`") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserError(f"{path}: not an Ed25519 key", "run `cotune keys new`")
    return key


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public key, 64 hex digits, as it stands in a charter."""
    return key.public_key().public_bytes_raw().hex()


def fingerprint(public_key: str) -> str:
    """100 bits of the SHA-256 of a public key (hex) in base 32, in fours, to read aloud on the phone."""
    text = base64.b32encode(hashlib.sha256(bytes.fromhex(public_key)).digest()).decode()[:20]
    return "-".join(text[start : start + 4] for start in range(0, 20, 4))


def sign_charter(charter: Charter, key: Ed25519PrivateKey) -> bytes:
    """The detached signature: 64 bytes."""
    return key.sign(_DOMAIN + charter.canonical_bytes())


def verify_signature(charter: Charter, public_key: str, signature: bytes) -> bool:
    """Whether the holder of a public key (hex) signed this very charter."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_key)).verify(
            signature, _DOMAIN + charter.canonical_bytes()
        )
    except (InvalidSignature, ValueError):
        return False
    return True


def verify_signatures(charter: Charter, signatures: Mapping[str, bytes]) -> None:
    """Check that every member and the coordinator signed.

    Args:
        signatures: member's name, or "coordinator" -> 64 bytes.

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
