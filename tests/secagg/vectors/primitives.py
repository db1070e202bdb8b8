"""The primitives of suite 1 from their own specifications, slow and plain; imports nothing of the package under test.

AES is written out (FIPS 197); Ed25519 and X25519 are the loops of RFC 8032 and RFC 7748.
"""

import hashlib
import hmac

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
PRIME = 2**521 - 1


def _field_times(a: int, b: int) -> int:
    product = 0
    while b:
        product, a, b = product ^ a * (b & 1), a << 1 ^ (0x11B if a & 0x80 else 0), b >> 1
    return product


def _sbox() -> list[int]:
    box = []
    for value in range(256):
        inverse = next((x for x in range(256) if _field_times(value, x) == 1), 0)
        turned = [inverse << k & 255 | inverse >> 8 - k for k in range(5)]
        box.append(turned[0] ^ turned[1] ^ turned[2] ^ turned[3] ^ turned[4] ^ 0x63)
    return box


SBOX = _sbox()


def _round_keys(key: bytes) -> list[list[int]]:
    words, constant = [list(key[i : i + 4]) for i in range(0, 32, 4)], 1
    for i in range(8, 60):
        word = list(words[-1])
        if i % 8 == 0:
            word = [SBOX[x] for x in word[1:] + word[:1]]
            word[0], constant = word[0] ^ constant, _field_times(constant, 2)
        elif i % 8 == 4:
            word = [SBOX[x] for x in word]
        words.append([a ^ b for a, b in zip(words[i - 8], word, strict=True)])
    return [[byte for word in words[i : i + 4] for byte in word] for i in range(0, 60, 4)]


def aes256(key: bytes, block: bytes) -> bytes:
    keys = _round_keys(key)
    state = [a ^ b for a, b in zip(block, keys[0], strict=True)]
    for number in range(1, 15):
        state = [SBOX[state[(4 * column + 5 * row) % 16]] for column in range(4) for row in range(4)]
        if number < 14:
            mixed = []
            for c in range(0, 16, 4):
                a = state[c : c + 4]
                for r in range(4):
                    mixed.append(
                        _field_times(a[r], 2) ^ _field_times(a[(r + 1) % 4], 3) ^ a[(r + 2) % 4] ^ a[(r + 3) % 4]
                    )
            state = mixed
        state = [a ^ b for a, b in zip(state, keys[number], strict=True)]
    return bytes(state)


def ctr(key: bytes, counter: int, size: int) -> bytes:
    blocks = (aes256(key, (counter + k).to_bytes(16, "big")) for k in range(-(-size // 16)))
    return b"".join(blocks)[:size]


def gcm_seal(key: bytes, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
    """NIST SP 800-38D with a nonce of 96 bits."""
    start = int.from_bytes(nonce + b"\0\0\0\1", "big")
    text = bytes(a ^ b for a, b in zip(plain, ctr(key, start + 1, len(plain)), strict=True))
    h, tag = int.from_bytes(aes256(key, bytes(16)), "big"), 0
    padded = [part + bytes(-len(part) % 16) for part in (aad, text)]
    lengths = (8 * len(aad)).to_bytes(8, "big") + (8 * len(text)).to_bytes(8, "big")
    whole = padded[0] + padded[1] + lengths
    for at in range(0, len(whole), 16):
        x, y, product = tag ^ int.from_bytes(whole[at : at + 16], "big"), h, 0
        for bit in range(127, -1, -1):
            product ^= y * (x >> bit & 1)
            y = y >> 1 ^ (0xE1 << 120) * (y & 1)
        tag = product
    return text + (tag ^ int.from_bytes(ctr(key, start, 16), "big")).to_bytes(16, "big")


def hkdf(secret: bytes, salt: bytes, info: bytes, size: int = 32) -> bytes:
    """RFC 5869 with SHA-256."""
    key, block, output = hmac.digest(salt or bytes(32), secret, "sha256"), b"", b""
    for count in range(1, -(-size // 32) + 1):
        block = hmac.digest(key, block + info + bytes([count]), "sha256")
        output += block
    return output[:size]


def x25519(scalar: bytes, u: bytes = b"\x09" + bytes(31)) -> bytes:
    """RFC 7748, section 5."""
    k = int.from_bytes(bytes([scalar[0] & 248]) + scalar[1:31] + bytes([scalar[31] & 127 | 64]), "little")
    x1 = int.from_bytes(u, "little") % 2**255
    x2, z2, x3, z3, swap = 1, 0, x1, 1, 0
    for t in range(254, -1, -1):
        bit = k >> t & 1
        if swap ^ bit:
            x2, x3, z2, z3 = x3, x2, z3, z2
        swap = bit
        a, b, c, d = (x2 + z2) % P, (x2 - z2) % P, (x3 + z3) % P, (x3 - z3) % P
        aa, bb, da, cb = a * a % P, b * b % P, d * a % P, c * b % P
        e = (aa - bb) % P
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
    if swap:
        x2, z2 = x3, z3
    return (x2 * pow(z2, P - 2, P) % P).to_bytes(32, "little")


def _add(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    (x1, y1), (x2, y2) = one, other
    both = D * x1 * x2 * y1 * y2
    return (x1 * y2 + x2 * y1) * pow(1 + both, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - both, -1, P) % P


def _times(scalar: int, point: tuple[int, int]) -> tuple[int, int]:
    result = (0, 1)
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point, scalar = _add(point, point), scalar >> 1
    return result


def _base() -> tuple[int, int]:
    y = 4 * pow(5, -1, P) % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return (x if x % 2 == 0 else P - x), y


BASE = _base()


def _packed(point: tuple[int, int]) -> bytes:
    return (point[1] | (point[0] & 1) << 255).to_bytes(32, "little")


def _secret(seed: bytes) -> tuple[int, bytes]:
    h = hashlib.sha512(seed).digest()
    return int.from_bytes(bytes([h[0] & 248]) + h[1:31] + bytes([h[31] & 127 | 64]), "little"), h[32:]


def ed25519_public(seed: bytes) -> bytes:
    return _packed(_times(_secret(seed)[0], BASE))


def ed25519_sign(seed: bytes, message: bytes) -> bytes:
    """RFC 8032, section 5.1.6."""
    a, prefix = _secret(seed)
    r = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % ORDER
    R = _packed(_times(r, BASE))
    k = int.from_bytes(hashlib.sha512(R + ed25519_public(seed) + message).digest(), "little") % ORDER
    return R + ((r + k * a) % ORDER).to_bytes(32, "little")


def shamir(secret: bytes, above: list[int], x: int) -> int:
    """The polynomial whose coefficients above the constant one are given, lowest first."""
    return (int.from_bytes(secret, "big") + sum(c * x ** (k + 1) for k, c in enumerate(above))) % PRIME


def top(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, over leaves that are hashed already."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + top(leaves[:half]) + top(leaves[half:])).digest()


def path(leaves: list[bytes], number: int) -> list[bytes]:
    if len(leaves) == 1:
        return []
    half = 1 << (len(leaves) - 1).bit_length() - 1
    if number < half:
        return [*path(leaves[:half], number), top(leaves[half:])]
    return [*path(leaves[half:], number - half), top(leaves[:half])]
