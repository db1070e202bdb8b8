"""A grid in this process that can lose and bend messages, and a clock that never makes anybody wait."""

import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cotune.client import app as client_app
from flwr.app import Context, Message, RecordDict
from flwr.serverapp import Grid

Hook = Callable[[str, int, Message], Message | None]


class FastClock:
    """Waiting costs no time: a sleep, or a look at the clock, moves it."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def monotonic(self) -> float:
        self._ahead += 0.01
        return self._ahead

    def sleep(self, seconds: float) -> None:
        self._ahead += max(seconds, 0.5)


class FakeGrid(Grid):
    """Hands every message to the client app at once; node id 101 + i is the home of member i.

    `before` and `after` see (kind, member, message) and give what goes on, or None to lose it. `late` names
    (kind, member) whose reply comes only when the next exchange has begun.
    """

    def __init__(self, homes: list[Path]) -> None:
        self.homes = homes
        self.online = list(range(len(homes)))
        self.before: Hook = lambda kind, member, message: message
        self.after: Hook = lambda kind, member, message: message
        self.carried: list[tuple[str, int, Message]] = []
        self.sent: list[tuple[str, int]] = []
        self.unreachable: set[int] = set()
        self._ready: dict[str, Message] = {}
        self._app = client_app.build(lambda context: self.homes[int(context.node_config["partition-id"])])

    def get_node_ids(self) -> Iterable[int]:
        return [101 + member for member in self.online]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [number for number in (self._push(message) for message in messages) if number is not None]

    def _push(self, message: Message) -> str | None:
        member, kind = message.metadata.dst_node_id - 101, message.metadata.message_type
        if member in self.unreachable:
            return None
        number = str(uuid.uuid4())
        message.metadata.__dict__["_message_id"] = number
        self.sent.append((kind, member))
        given = self.before(kind, member, message)
        if given is None:
            return number
        reply = self.deliver(given, member)
        self.carried.append((kind, member, reply))
        returned = self.after(kind, member, reply)
        if returned is not None:
            self._ready[number] = returned
        return number

    def deliver(self, message: Message, member: int) -> Message:
        context = Context(1, 101 + member, {"partition-id": member}, RecordDict(), {})
        return self._app(message, context)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return [self._ready.pop(number) for number in message_ids if number in self._ready]

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, *args: Any, **kwargs: Any) -> Iterable[Message]:
        raise NotImplementedError
