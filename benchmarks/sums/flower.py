"""Flower 1.41's SecAgg+, by the functions of its own client mod and server workflow, on its default settings.

One client goes through all four stages of `secaggplus_mod`. What the server and the other clients send it is made by
the same functions, unmeasured; the shares that others seal for it are of the right size and mean nothing. The steps
of the server are those of `SecAggPlusWorkflow`; what it repeats for each upload or mask is run `SAMPLE` times, what it
repeats for each secret once, and scaled. Sending, the legacy context and Flower's messages are left out on both sides.
"""

from typing import Any

import numpy as np
from cotune.secagg.plan import least_threshold
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation import ndarrays_arithmetic as arithmetic
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen, share_keys_plaintext_concat
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from .cost import Cost, Stopwatch, dropouts, vector_of, with_peak

CLIP, TARGET, MODULUS, MAX_WEIGHT, EXAMPLES = 8.0, 1 << 22, 1 << 32, 1000.0, 640
SAMPLE = 4


def flower_secagg(parameters: int, n: int) -> Cost:
    """One client's round, and the server's."""
    client = Stopwatch()
    terms = {Key.SAMPLE_NUMBER: n, Key.SHARE_NUMBER: n, Key.THRESHOLD: least_threshold(n), Key.CLIPPING_RANGE: CLIP}
    terms |= {Key.TARGET_RANGE: TARGET, Key.MOD_RANGE: MODULUS, Key.MAX_WEIGHT: MAX_WEIGHT}
    states = [SecAggPlusState(nid=nid) for nid in range(n)]
    pairs = [(client if nid == 0 else _call)(_setup, state, terms) for nid, state in enumerate(states)]
    keys = {str(nid): (pair[Key.PUBLIC_KEY_1], pair[Key.PUBLIC_KEY_2]) for nid, pair in enumerate(pairs)}
    sent = client(_share_keys, states[0], keys)
    share_sizes = [len(states[0].rd_seed_share_dict[0]), len(states[0].sk1_share_dict[0])]
    inbox = {Key.SOURCE_LIST: list(range(1, n)), Key.CIPHERTEXT_LIST: _boxes(states, *share_sizes)}
    vector = ndarrays_to_parameters([vector_of(0, parameters)])
    before = dict(vars(states[0]))
    upload = client(_collect_masked_vectors, states[0], inbox, EXAMPLES, vector)[Key.MASKED_PARAMETERS]
    left = {Key.ACTIVE_NODE_ID_LIST: list(range(n - dropouts(n))), Key.DEAD_NODE_ID_LIST: [n - 1] * dropouts(n)}
    revealed = client(_unmask, states[0], left)
    messages = [part for reply in (pairs[0], sent, revealed) for value in reply.values() for part in _flat(value)]
    state = SecAggPlusState(**before)
    _, peak = with_peak(_collect_masked_vectors, state, inbox, EXAMPLES, vector)
    size = sum(map(len, upload)) + sum(len(part) for part in messages if isinstance(part, bytes))
    return Cost(client.seconds, _server(upload, states, n), size, peak)


def _call(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _boxes(states: list[Any], seed_share: int, key_share: int) -> list[bytes]:
    """What every other client sealed for the first one: shares of the right size."""
    boxes = []
    for nid, key in states[0].ss2_dict.items():
        plain = share_keys_plaintext_concat(nid, 0, bytes(seed_share), bytes(key_share))
        boxes.append(encrypt(key, plain))
    return boxes


def _server(upload: list[bytes], states: list[Any], n: int) -> float:
    """Sum the uploads, rebuild the secrets, take the masks off, decode: CPU seconds."""
    gone, here, public = dropouts(n), n - dropouts(n), states[1].pk1
    secrets = (states[0].rd_seed, states[0].sk1)
    seed_shares, key_shares = (create_shares(secret, least_threshold(n), n)[:here] for secret in secrets)
    adding, once, seeds, keys, own, pair = (Stopwatch() for _ in range(6))
    total: list[Any] = [np.zeros_like(bytes_to_ndarray(part)) for part in upload]
    for _ in range(SAMPLE):
        total = adding(_add, total, upload)
    total = once(arithmetic.parameters_mod, total, MODULUS)
    seed, key = seeds(combine_shares, seed_shares), keys(combine_shares, key_shares)
    for _ in range(SAMPLE):
        total = own(_take_off, total, seed)
    for _ in range(SAMPLE * gone):
        total = pair(_put_on, total, key, public)
    once(_decode, total, here)
    repeated = here * (adding.seconds + own.seconds) + gone * (n - 1) * pair.seconds
    return once.seconds + here * seeds.seconds + gone * keys.seconds + repeated / SAMPLE


def _add(total: list[Any], upload: list[bytes]) -> list[Any]:
    return arithmetic.parameters_addition(total, [bytes_to_ndarray(part) for part in upload])


def _take_off(total: list[Any], seed: bytes) -> list[Any]:
    mask = pseudo_rand_gen(seed, MODULUS, arithmetic.get_parameters_shape(total))
    return arithmetic.parameters_subtraction(total, mask)


def _put_on(total: list[Any], secret: bytes, public: bytes) -> list[Any]:
    shared = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(public))
    mask = pseudo_rand_gen(shared, MODULUS, arithmetic.get_parameters_shape(total))
    return arithmetic.parameters_addition(total, mask)


def _decode(total: list[Any], here: int) -> list[Any]:
    ratio, words = arithmetic.factor_extract(arithmetic.parameters_mod(total, MODULUS))
    vectors = dequantize(words, CLIP, TARGET)
    for vector in vectors:
        vector += -(here - 1) * CLIP
        vector *= TARGET / ratio
    return vectors
