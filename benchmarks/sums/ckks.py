"""Homomorphic encryption as peers use it (FedML, FATE): TenSEAL's CKKS, every client holds the one secret key.

A client encrypts and sends its vector, receives the encrypted sum and decrypts it. Measured on a slice of the vector,
which takes the same time for every ciphertext, and scaled to the whole; the server's additions are measured on two
uploads and scaled to all. The peak counts the bytes of the ciphertexts to send, not what the C++ library holds itself.
"""

import numpy as np
import tenseal
from numpy.typing import NDArray

from .cost import Cost, Stopwatch, dropouts, vector_of

DEGREE, COEFFICIENTS, SCALE = 8192, [60, 40, 40, 60], 2.0**40
SLOTS = DEGREE // 2
SLICE = 16 * SLOTS


def tenseal_ckks(parameters: int, n: int) -> Cost:
    """Poly 8192, coefficients 60, 40, 40, 60, scale 2^40."""
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=COEFFICIENTS)
    context.global_scale = SCALE
    client, once, adding, here = Stopwatch(), Stopwatch(), Stopwatch(), n - dropouts(n)
    vector = vector_of(0, SLICE)
    raw = client(_encrypt, context, vector)
    total = once(_read, context, raw)
    for _ in range(2):
        total = adding(_add, context, total, raw)
    decoded = client(_decrypt, context, once(_write, total))
    if abs(decoded[0][0] - 3 * vector[0]) > 1e-4:
        raise SystemExit("the decrypted sum is not the sum")
    size, scale = sum(map(len, raw)), parameters / SLICE
    server = once.seconds + (here - 1) * adding.seconds / 2
    return Cost(client.seconds * scale, server * scale, round(size * scale), round(size * scale))


def _encrypt(context: tenseal.Context, vector: NDArray[np.float32]) -> list[bytes]:
    starts = range(0, len(vector), SLOTS)
    return _write([tenseal.ckks_vector(context, vector[start : start + SLOTS]) for start in starts])


def _decrypt(context: tenseal.Context, raw: list[bytes]) -> list[list[float]]:
    return [part.decrypt() for part in _read(context, raw)]


def _write(parts: list[tenseal.CKKSVector]) -> list[bytes]:
    return [part.serialize() for part in parts]


def _read(context: tenseal.Context, raw: list[bytes]) -> list[tenseal.CKKSVector]:
    return [tenseal.ckks_vector_from(context, part) for part in raw]


def _add(context: tenseal.Context, total: list[tenseal.CKKSVector], raw: list[bytes]) -> list[tenseal.CKKSVector]:
    return [one + other for one, other in zip(total, _read(context, raw), strict=True)]
