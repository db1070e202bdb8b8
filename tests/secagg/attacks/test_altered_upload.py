"""Altered uploads: masked words are changed between an organization and the coordinator.

Attacker: whoever carries or stores the words, or sends others in their place. Masks are additive: adding a vector to
the masked words adds it to the sum, and no mask has to be known. Gain without the check: the attacker steers the model,
and the control block notices nothing. Stopped by the signed root over the chunks of every upload (`upload.root`).
Source: Boneh, Shoup, "A graduate course in applied cryptography", section 3.3 on the malleability of stream ciphers.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from cotune.secagg.control import CONTROL_WORDS
from cotune.secagg.messages import Rooted
from cotune.secagg.wire import seal

Build = Callable[..., Any]


def steered(fed: Any, words: Any) -> Any:
    """A tenth of the bound added to a coordinate whose lane has room for it."""
    altered = words.copy()
    altered[CONTROL_WORDS] += np.uint64(fed.encoding.levels // 10)
    return altered


def test_words_that_were_not_signed_are_not_added(federation: Build) -> None:
    fed = federation(3)
    inboxes, server = fed.share(), fed.coordinator
    header, words = fed.organizations[0].mask(inboxes[0], fed.vectors[0])
    other = fed.organizations[1].mask(inboxes[1], fed.vectors[1])[1]
    for bad in (steered(fed, words), other, words[::-1].copy()):
        assert not server.add_upload(0, header, bad)
        assert server.rejections[-1].code == "upload.root"
    for bad in (words[:-1], np.append(words, words[:1]), words.astype(np.int64), np.repeat(words, 2)[::2]):
        assert not server.add_upload(0, header, bad)
        assert server.rejections[-1].code == "upload.shape"
    assert not server._sum.any()
    assert server.add_upload(0, header, words)


def test_without_the_root_the_sum_is_steered(federation: Build, without: Build) -> None:
    fed = federation(3)
    without("upload.root")
    server = fed.coordinator
    add = server.add_upload
    server.add_upload = lambda i, header, words: add(i, header, steered(fed, words) if i == 1 else words)
    fed.vectors[:, 0] = 0
    total = fed.play().values
    assert np.isclose(total[0], 0.1, atol=1e-4)
    assert np.allclose(total[1:], fed.vectors[:, 1:].sum(axis=0), atol=1e-4)


def test_a_second_upload_does_not_replace_the_first(federation: Build) -> None:
    """The same one again is counted once; another one, though well signed, is not counted at all."""
    fed = federation(3)
    inboxes, server = fed.share(), fed.coordinator
    header, words = fed.organizations[0].mask(inboxes[0], fed.vectors[0])
    assert server.add_upload(0, header, words)
    before = server._sum.copy()
    assert server.add_upload(0, header, words)
    second = seal("upload", Rooted(fed.organizations[0].context, 0, b"x" * 32).encode(), fed.keys[0])
    assert not server.add_upload(0, second, words)
    assert server.rejections[-1].code == "message.second"
    assert np.array_equal(server._sum, before)
