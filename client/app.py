"""The Flower ClientApp of a member: a message comes in, its handler runs under the node's lock, bytes or a code go out.

No exception leaves this module: its text could carry data to the other side. A refusal travels as its code, anything
unexpected as "error.internal"; the full text is in the node's own log.

The app is built around a function from Flower's context to the node's home. In a simulation a partition chooses among
the homes; a deployed node has one. Nothing else differs.
"""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ..charter import messages as wire
from ..errors import UserError
from ..secagg.refused import Refused
from .home import MOST_MODEL_BYTES, NodeHome
from .node import Node
from .node_log import keep_log
from .participation import Member
from .records import Follower

log = logging.getLogger("cotune.client")
_CODE = re.compile(r"[a-z0-9_.-]{1,64}")
AnyNode = TypeVar("AnyNode", bound=Node)


def build(home_of: Callable[[Context], Path]) -> ClientApp:
    """The app.

    Args:
        home_of: from a message's context to the home of the node it is for. Local configuration decides, never the
            message.
    """
    app = ClientApp()

    def answer(
        kind: Callable[[NodeHome], AnyNode], handler: Callable[[AnyNode, Message], RecordDict]
    ) -> Callable[[Message, Context], Message]:
        def handle(message: Message, context: Context) -> Message:
            given = _guarded(lambda home: handler(kind(home), message), message, lambda: home_of(context))
            return Message(given, reply_to=message)

        return handle

    app.query("hello")(answer(Member, _hello))
    app.train("round")(answer(Member, lambda member, message: _content(member.begin(_only(message)))))
    app.query("shares")(answer(Member, lambda member, message: _content(member.share(_only(message)))))
    app.query("upload")(answer(Member, _upload))
    app.query("survivors")(answer(Member, lambda member, message: _content(member.survive(_only(message)))))
    app.query("reveal")(answer(Member, lambda member, message: _content(member.reveal(_only(message)))))
    app.query("open")(answer(Member, lambda member, message: _content(member.open(_only(message)))))
    app.query("record")(answer(Follower, _record))
    app.query("pieces")(answer(Follower, _pieces))
    return app


def _guarded(handler: Callable[[NodeHome], RecordDict], message: Message, path: Callable[[], Path]) -> RecordDict:
    """The handler's content, or the code of what went wrong."""
    kind = message.metadata.message_type
    try:
        home = NodeHome(path())
        keep_log(home.log)
        with home.locked():
            return handler(home)
    except (UserError, Refused) as refusal:
        log.warning("%s refused: %s", kind, refusal)
        code = getattr(refusal, "code", "error.node")
    except Exception:
        log.exception("%s failed", kind)
        code = "error.internal"
    return _content(b"", refused=code if _CODE.fullmatch(code) else "error.node")


def _hello(member: Member, message: Message) -> RecordDict:
    return _content(member.hello(_only(message)), name=member.settings.name)


def _upload(member: Member, message: Message) -> RecordDict:
    header, words = member.upload(_only(message))
    return _content(header, vector=words)


def _record(follower: Follower, message: Message) -> RecordDict:
    model = b""
    if wire.MODEL in message.content:
        model = _array(message, wire.MODEL, "|u1", MOST_MODEL_BYTES).tobytes()
    return _content(follower.record(_records(message), _array(message, wire.VECTOR, "<u8", wire.MAX_WORDS), model))


def _pieces(follower: Follower, message: Message) -> RecordDict:
    (record,) = _records(message)
    return _content(follower.check(record, _body(message), _array(message, wire.VECTOR, "<u8", wire.MAX_WORDS)))


def _array(message: Message, name: str, dtype: str, most: int) -> np.ndarray:
    """The array of a name, a view of the message's bytes."""
    arrays = message.content.get(name)
    if not isinstance(arrays, ArrayRecord) or set(arrays) != {wire.VECTOR}:
        raise UserError(f"message: no {name} came with it", "update the coordinator")
    return wire.read_vector(arrays[wire.VECTOR].data, dtype, most)


def _fields(message: Message) -> ConfigRecord:
    fields = message.content[wire.BODY]
    if not isinstance(fields, ConfigRecord) or set(fields) != {wire.BODY, wire.RECORDS}:
        raise UserError("message: not of the form of the charter's messages", "update the coordinator")
    return fields


def _only(message: Message) -> bytes:
    """The body of a message that holds nothing else."""
    if set(message.content) != {wire.BODY} or _records(message):
        raise UserError("message: it holds more than its body", "update the coordinator")
    return _body(message)


def _body(message: Message) -> bytes:
    body = _fields(message)[wire.BODY]
    if not isinstance(body, bytes) or len(body) > wire.MAX_BODY_BYTES:
        raise UserError("message: its body is not bytes, or too large", "update the coordinator")
    return body


def _records(message: Message) -> tuple[bytes, ...]:
    records = _fields(message)[wire.RECORDS]
    if not isinstance(records, list) or len(records) > wire.MAX_RECORDS:
        raise UserError("message: its records are not a list, or too many", "update the coordinator")
    if not all(isinstance(record, bytes) and len(record) <= wire.MAX_BODY_BYTES for record in records):
        raise UserError("message: a record is not bytes, or too large", "update the coordinator")
    return tuple(records)  # type: ignore[arg-type]


def _content(body: bytes, *, name: str = "", refused: str = "", vector: np.ndarray | None = None) -> RecordDict:
    content = RecordDict({wire.BODY: ConfigRecord({wire.BODY: body, wire.NAME: name, wire.REFUSED: refused})})
    if vector is not None:
        content[wire.VECTOR] = ArrayRecord({wire.VECTOR: Array(vector)})
    return content
