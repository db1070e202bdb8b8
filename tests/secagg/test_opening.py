"""Where a sum cannot be read, one piece of it is opened, and whoever spoiled it is named."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cotune.secagg import merkle
from cotune.secagg.messages import Rooted
from cotune.secagg.pieces import piece_of
from cotune.secagg.refused import Refused
from cotune.secagg.wire import seal

Build = Callable[..., Any]


def test_rough(federation: Build) -> None:
    fed = federation(4, 20000)
    inboxes, server = fed.share(), fed.coordinator
    uploads = {i: fed.organizations[i].mask(inboxes[i], fed.vectors[i], keep_seeds=True) for i in range(4)}
    words = uploads[1][1].copy()
    words[3000:] ^= np.uint64(12345678901234567)
    ctx2 = fed.organizations[1].context
    header = seal("upload", Rooted(ctx2, 1, merkle.root(words, ctx2, 1)).encode(), fed.keys[1])
    fed.organizations[1]._state.header = header
    uploads[1] = (header, words)
    assert all(server.add_upload(i, *uploads[i]) for i in range(4))
    bundle = server.close_uploads()
    for i, o in fed.organizations.items():
        assert server.add_survival(i, o.survive(bundle))
    q = server.close_survival()
    for i, o in fed.organizations.items():
        assert server.add_reveal(i, o.unmask(q))
    with pytest.raises(Refused):
        server.result()
    assert server.fault() >= 1
    req = server.opening_request(lambda i, n: piece_of(uploads[i][1], n, ctx2, i))
    fed.organizations = {i: fed.reload(i) for i in fed.organizations}
    for i, o in fed.organizations.items():
        assert server.add_opened(i, o.open(req, None))
    assert server.verdict().convicted == (1,)
    assert server.verdict().disputes == ()
