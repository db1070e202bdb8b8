"""One exchange: a message to each of some nodes, and their replies until all are in or the deadline has passed.

Flower's `send_and_receive` sleeps three seconds between polls, too slow for the five exchanges of a round, so this is
our own loop over `push_messages` and `pull_messages`. Replies are matched by the message they answer: an error reply
made by the SuperLink carries the SuperLink's own node id. What a node says in a refusal is a short code, and nothing
else of an error is read.
"""

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from ..charter.messages import (
    BODY,
    MAX_BODY_BYTES,
    MAX_NAME_LENGTH,
    MAX_WORDS,
    MODEL,
    NAME,
    RECORDS,
    REFUSED,
    VECTOR,
    read_vector,
)

# A look at the replies costs a call: the longer they have taken, the longer the next look may wait.
_LEAST_POLL, _MOST_POLL, _POLLS_SHARE = 0.002, 0.05, 1 / 8
_CODE = re.compile(r"[a-z0-9_.-]{1,64}")


class Interrupted(Exception):  # noqa: N818 - not an error
    """The operator asked the run to stop; what was committed stays committed."""


@dataclass(frozen=True)
class Outgoing:
    """What goes to one node.

    Attributes:
        body: the protocol's bytes.
        vector: an array that travels beside it (a sum, pieces of uploads), or None.
        records: round records, for a member that missed some.
        model: the encoded model before the last of them, for a member that does not hold it.
    """

    body: bytes
    vector: np.ndarray | None = None
    records: tuple[bytes, ...] = ()
    model: bytes = b""


@dataclass(frozen=True)
class Reply:
    """What came back from one node: protocol bytes, or a refusal's code."""

    body: bytes
    name: str
    vector: np.ndarray | None
    refused: str


class Exchange:
    """Sends to nodes and collects their replies.

    Args:
        grid: Flower's grid.
        stop: set when the run shall end; checked at every poll.
        observe: called with (message type, reply) for every reply that was accepted; what the tests use to prove that
            nothing reaches the server in clear.
    """

    def __init__(
        self, grid: Grid, stop: threading.Event, observe: Callable[[str, Reply], None] = lambda kind, reply: None
    ) -> None:
        self._grid = grid
        self._stop = stop
        self._observe = observe

    def nodes(self) -> tuple[int, ...]:
        """The nodes that are online now.

        Raises:
            Interrupted: the stop event was set; whoever asks is still waiting for members.
        """
        if self._stop.is_set():
            raise Interrupted
        return tuple(self._grid.get_node_ids())

    def run(
        self,
        kind: str,
        outgoing: Mapping[int, Outgoing],
        group: str,
        seconds: float,
        receive: Callable[[int, Reply], None],
        *,
        interruptible: bool = False,
    ) -> set[int]:
        """Send, then hand each reply to `receive` as it comes.

        Args:
            kind: message type, one of `charter.messages`.
            outgoing: node id -> what it gets.
            group: Flower's group id, for its logs.
            seconds: the deadline.
            receive: called once a node with its reply, on this thread.
            interruptible: whether the stop event may end it. Once keys are exchanged a round takes seconds, and
                stopping in it would burn it.

        Returns:
            The nodes that answered in time. A malformed reply counts as no answer.

        Raises:
            Interrupted: the stop event was set and `interruptible` allows it.
        """
        waiting = self._push({node: _message(kind, node, outgoing[node], group, seconds) for node in outgoing})
        answered: set[int] = set()
        started = time.monotonic()
        while waiting and (waited := time.monotonic() - started) < seconds:
            if interruptible and self._stop.is_set():
                raise Interrupted
            for message in self._grid.pull_messages(list(waiting)):
                node = waiting.pop(message.metadata.reply_to_message_id, None)
                reply = _reply(message) if node is not None else None
                if node is None or reply is None:
                    continue
                answered.add(node)
                self._observe(kind, reply)
                receive(node, reply)
            if waiting:
                time.sleep(min(max(waited * _POLLS_SHARE, _LEAST_POLL), _MOST_POLL))
        return answered

    def _push(self, messages: Mapping[int, Message]) -> dict[str, int]:
        """Send each message by itself; message id -> node.

        For a message that cannot be sent (a node that just left) Flower's grids give None, a shorter list or nothing at
        all. One at a time, that node does not answer and the others do.
        """
        sent: dict[str, int] = {}
        for node, message in messages.items():
            for number in self._grid.push_messages([message]):
                if number:
                    sent[number] = node
        return sent


def _message(kind: str, node: int, content: Outgoing, group: str, seconds: float) -> Message:
    records = RecordDict({BODY: ConfigRecord({BODY: content.body, RECORDS: list(content.records)})})
    if content.vector is not None:
        records[VECTOR] = ArrayRecord({VECTOR: Array(content.vector)})
    if content.model:
        records[MODEL] = ArrayRecord({VECTOR: Array(np.frombuffer(content.model, np.uint8))})
    return Message(records, node, kind, group_id=group, ttl=max(1.0, seconds))


def _reply(message: Message) -> Reply | None:
    """The reply in a message, or None where it is an error or not of the form that members send."""
    if message.has_error() or not message.has_content():
        return None
    try:
        if set(message.content) - {BODY, VECTOR}:
            return None
        fields = message.content[BODY]
        if not isinstance(fields, ConfigRecord) or set(fields) - {BODY, NAME, REFUSED}:
            return None
        body, name, refused = fields.get(BODY, b""), fields.get(NAME, ""), fields.get(REFUSED, "")
        if not (isinstance(body, bytes) and isinstance(name, str) and isinstance(refused, str)):
            return None
        if len(body) > MAX_BODY_BYTES or len(name) > MAX_NAME_LENGTH or (refused and not _CODE.fullmatch(refused)):
            return None
        return Reply(body, name, _vector(message.content), refused)
    except (KeyError, TypeError, ValueError):
        return None


def _vector(content: RecordDict) -> np.ndarray | None:
    if VECTOR not in content:
        return None
    arrays = content[VECTOR]
    if not isinstance(arrays, ArrayRecord) or set(arrays) != {VECTOR}:
        raise ValueError("unexpected arrays")
    return read_vector(arrays[VECTOR].data, "<u8", MAX_WORDS)
