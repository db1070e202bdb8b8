"""Which Flower node is which member: every node signs the coordinator's nonce with the key that the charter names.

This does not rest on Flower's own node authentication, so it is the same in a simulation and in the field. A node that
cannot sign is never part of a round; a second node for the same member is ignored.
"""

import logging
import secrets
import time
from collections.abc import Callable, Mapping

from ..charter.charter import Charter
from ..charter.messages import HELLO, NONCE_BYTES, hello_statement
from ..secagg.identity import verify
from .exchange import Exchange, Outgoing, Reply

log = logging.getLogger("cotune.server")
AGAIN_SECONDS = 1.0
# A node may have to import torch before it can say its name.
HELLO_SECONDS = 60.0


def call(
    charter: Charter,
    exchange: Exchange,
    known: Mapping[int, int],
    seconds: float,
    wait: Callable[[float], object] = time.sleep,
) -> dict[int, int]:
    """Find the members among the nodes that are online.

    Args:
        charter: names and keys.
        exchange: how to reach nodes.
        known: members found before, Flower node id -> index; they are not asked again while they are online.
        seconds: how long to wait for all of them; 0 asks the new ones once.
        wait: sleeps; tests replace it.

    Returns:
        Flower node id -> index in the charter.
    """
    online = set(exchange.nodes())
    found = {node: index for node, index in known.items() if node in online}
    asked = set(found)
    deadline = time.monotonic() + seconds
    while len(found) < len(charter.members):
        new = [node for node in exchange.nodes() if node not in asked]
        if new:
            asked.update(new)
            found |= _ask(charter, exchange, new, set(found.values()), max(HELLO_SECONDS, deadline - time.monotonic()))
        if time.monotonic() >= deadline:
            break
        if len(found) < len(charter.members):
            wait(AGAIN_SECONDS)
    return found


def _ask(charter: Charter, exchange: Exchange, nodes: list[int], taken: set[int], seconds: float) -> dict[int, int]:
    nonce = secrets.token_bytes(NONCE_BYTES)
    statement = hello_statement(charter.digest(), nonce)
    body = bytes.fromhex(charter.digest()) + nonce
    found: dict[int, int] = {}

    def receive(node: int, reply: Reply) -> None:
        index = _member(charter, reply, statement)
        if index is None or index in taken or index in found.values():
            log.warning(
                "roll call: node %d is no member of the charter, or a second one (%s)", node, reply.refused or "-"
            )
            return
        found[node] = index

    outgoing = {node: Outgoing(body) for node in nodes}
    answered = exchange.run(HELLO, outgoing, "hello", seconds, receive, interruptible=True)
    for node in nodes:
        if node not in answered:
            log.warning("roll call: node %d did not answer within %.0f seconds", node, seconds)
    return found


def _member(charter: Charter, reply: Reply, statement: bytes) -> int | None:
    names = [member.name for member in charter.members]
    if reply.refused or reply.name not in names:
        return None
    index = names.index(reply.name)
    return index if verify(bytes.fromhex(charter.members[index].public_key), reply.body, statement) else None
