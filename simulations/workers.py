"""A Flower grid over Ray's workers: what the server app pushes goes to a worker at once, and a worker may die.

Flower's own engine looks for messages ten times a second, which is most of a short round of seven exchanges, and gives
a worker that has died one message after the other, until the run is over. Here each node has its worker, so that a
process loads the data of its own nodes only. The message that a worker had in hand when it died (killed, out of
memory) is answered by an error, which to the server is a member that did not answer; another worker is started, and
everything else waits for that one.
"""

import logging
import os
import queue
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import ray
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

log = logging.getLogger("cotune.simulations")
_RUN, _SERVER, _FIRST_NODE = 1, 1, 101
# Flower's code for an app that died: `flwr.common.constant.ErrorCode.CLIENT_APP_CRASHED`.
_CRASHED: Final = 8


class _Node:
    """What runs in a worker's process."""

    def __init__(self, app: ClientApp) -> None:
        self._app = app

    def answer(self, message: Message, context: Context) -> Message:
        return self._app(message, context)


class WorkerGrid(Grid):  # type: ignore[misc]
    """Nodes 101, 102, ... of partitions 0, 1, ..., dealt to workers in turn.

    A node keeps nothing between two messages but what its home holds, so each message comes with a context of its own.
    """

    def __init__(self, app: ClientApp, nodes: int, workers: int, resources: Mapping[str, float]) -> None:
        """Start the workers; Ray must be up.

        Args:
            app: what answers. nodes: how many. workers: processes, no more than there are nodes. resources: of each,
                as Ray's options (`num_cpus`, `num_gpus`).
        """
        self._app, self._nodes = app, nodes
        self._kind = ray.remote(_Node).options(**resources)
        self._inboxes: list[queue.Queue[Message | None]] = [queue.Queue() for _ in range(min(workers, nodes))]
        self._replies: dict[str, Message] = {}
        self._closed, self._lock = False, threading.Lock()
        for inbox in self._inboxes:
            # A daemon: one that waits for a step which takes hours must not hold up the end of the process.
            threading.Thread(target=self._serve, args=(inbox,), daemon=True).start()

    def close(self) -> None:
        """Give out no further messages and start no further worker; the processes end with Ray."""
        with self._lock:
            self._closed = True
        for inbox in self._inboxes:
            inbox.put(None)

    def get_node_ids(self) -> Iterable[int]:
        """All of them: a node whose worker died is there again for the next message."""
        return range(_FIRST_NODE, _FIRST_NODE + self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Hand each message to the worker of its node; its number is what `pull_messages` asks for."""
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        number = str(uuid.uuid4())
        message.metadata.__dict__["_message_id"] = number  # as Flower's own grids do
        self._inboxes[self._partition(message) % len(self._inboxes)].put(message)
        return number

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Those replies that have come, each once."""
        return [reply for number in message_ids if (reply := self._replies.pop(number, None)) is not None]

    def _partition(self, message: Message) -> int:
        return int(message.metadata.dst_node_id) - _FIRST_NODE

    def _serve(self, inbox: "queue.Queue[Message | None]") -> None:
        """Feed one worker, a message at a time: so only one is lost with it."""
        worker = self._start()
        while worker is not None and (message := inbox.get()) is not None:
            partition = self._partition(message)
            config: Any = {"partition-id": partition, "num-partitions": self._nodes}
            context = Context(_RUN, message.metadata.dst_node_id, config, RecordDict(), {})
            try:
                reply = ray.get(worker.answer.remote(message, context))
            except Exception as problem:
                if self._closed:
                    return
                log.error("node %d did not answer %s: %s", partition, message.metadata.message_type, _line(problem))
                reply = Message(Error(_CRASHED, type(problem).__name__), reply_to=message)
                if not isinstance(problem, ray.exceptions.RayTaskError):  # that is what the app itself raised
                    worker = self._start(worker)
            if time.time() < message.metadata.created_at + message.metadata.ttl:  # later nobody asks for it
                self._replies[message.metadata.message_id] = reply

    def _start(self, dead: Any = None) -> Any:
        """A new worker; None where the grid is closed, since Ray would start anew for it."""
        with self._lock:
            if self._closed:
                return None
            if dead is not None:
                ray.kill(dead)  # where Ray only lost sight of it: two must not work in one home
                log.warning("another worker is started in the place of the one that died")
            return self._kind.remote(self._app)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Of the interface; `server.exchange` waits by itself."""
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Of the interface, deprecated there."""
        raise NotImplementedError

    def set_run(self, run: Any) -> None:
        """Of the interface: here is one run only."""
        raise NotImplementedError

    @property
    def run(self) -> Any:
        """See `set_run`."""
        raise NotImplementedError


@contextmanager
def workers(app: ClientApp, nodes: int, count: int, cpus: int, init: Mapping[str, Any]) -> Iterator[WorkerGrid]:
    """The grid, for as long as the context is open.

    Args:
        app: see `WorkerGrid`.
        nodes: see `WorkerGrid`.
        count: workers.
        cpus: of each worker.
        init: for `ray.init`.
    """
    with _importable():
        ray.init(num_cpus=cpus * count, **init)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = _RUN, _SERVER, 1
    try:
        grid = WorkerGrid(app, nodes, count, {"num_cpus": cpus, "num_gpus": 0.0})
        try:
            yield grid
        finally:
            grid.close()
    finally:
        ray.shutdown()


@contextmanager
def _importable() -> Iterator[None]:
    """Ray's processes that start in here find the modules that this one does, whatever was added to its path."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _line(problem: Exception) -> str:
    return " ".join(str(problem).split())[:300]
