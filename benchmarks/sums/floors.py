"""What no secure sum of this kind can do without: the sum itself, and its key streams."""

import numpy as np
from cotune.secagg.encoding import Encoding
from cotune.secagg.masking import CHUNK_WORDS, WORD_BYTES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from .cost import Cost, Stopwatch, dropouts, vector_of, with_peak
from .double_mask import CLIP, LANE_BITS


def plain(parameters: int, n: int) -> Cost:
    """Everyone sends float32, the server adds."""
    client, server, here = Stopwatch(), Stopwatch(), n - dropouts(n)
    total = np.zeros(parameters, dtype=np.float32)
    vector = vector_of(0, parameters)
    for _ in range(here):
        raw = client(vector.tobytes)
        server(lambda raw=raw: np.add(total, np.frombuffer(raw, np.float32), out=total))
    return Cost(client.seconds / here, server.seconds, len(raw), with_peak(vector.tobytes)[1])


def aes_ctr(parameters: int, n: int) -> Cost:
    """The key streams alone, by AES-256-CTR into one buffer of 256 KiB: n at the client, 2 (n - 1) at the server."""
    words = Encoding(((parameters, CLIP),), n, LANE_BITS).words
    zeros = memoryview(bytes(CHUNK_WORDS * WORD_BYTES))
    buffer = bytearray(len(zeros) + 15)

    def streams(count: int) -> None:
        for _ in range(count):
            encryptor = Cipher(AES(bytes(32)), CTR(bytes(16))).encryptor()
            for start in range(0, words, CHUNK_WORDS):
                encryptor.update_into(zeros[: (words - start) * WORD_BYTES], buffer)

    client, server = Stopwatch(), Stopwatch()
    client(streams, n)
    server(streams, (1 + dropouts(n)) * (n - dropouts(n)))
    return Cost(client.seconds, server.seconds, words * WORD_BYTES, len(buffer))
