"""Workers of a simulation with real processes: one that dies costs the message that it had in hand, and no more."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cotune.server.exchange import Exchange, Outgoing, Reply
from cotune.simulations.workers import WorkerGrid, workers
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

pytestmark = pytest.mark.slow


def _app() -> ClientApp:
    """Says which process it is and which partition it was asked for; "hang" waits, "raise" raises."""
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        asked = message.content["body"]["body"]
        if asked.startswith(b"hang "):
            Path(asked[5:].decode()).write_text(str(os.getpid()))
            time.sleep(600)
        if asked == b"raise":
            raise ValueError("a secret")
        body = f"{os.getpid()} {context.node_config['partition-id']}".encode()
        content = RecordDict({"body": ConfigRecord({"body": body, "name": "", "refused": ""})})
        return Message(content, reply_to=message)

    return app


@pytest.fixture(scope="module")
def grid() -> Iterator[WorkerGrid]:
    """Four nodes on two workers."""
    init = {"object_store_memory": 80 * 2**20, "include_dashboard": False, "log_to_driver": False}
    with workers(_app(), 4, 2, 1, init | {"logging_level": "ERROR"}) as made:
        yield made


def _ask(grid: WorkerGrid, asked: dict[int, bytes], seconds: float = 120.0) -> dict[int, tuple[int, int]]:
    """Partition -> (process, partition) as it says; who did not answer is not there."""
    found: dict[int, tuple[int, int]] = {}

    def receive(node: int, reply: Reply) -> None:
        process, partition = reply.body.split()
        found[list(grid.get_node_ids()).index(node)] = (int(process), int(partition))

    nodes = list(grid.get_node_ids())
    outgoing = {nodes[partition]: Outgoing(body) for partition, body in asked.items()}
    Exchange(grid, threading.Event()).run("query", outgoing, "test", seconds, receive)
    return found


def test_each_node_has_its_worker_and_its_context(grid: WorkerGrid) -> None:
    first, again = (_ask(grid, dict.fromkeys(range(4), b"hello")) for _ in range(2))
    assert [first[partition][1] for partition in range(4)] == [0, 1, 2, 3]
    assert again == first
    assert first[0][0] == first[2][0] != first[1][0] == first[3][0]


def test_what_the_app_raises_is_no_answer_and_ends_no_worker(grid: WorkerGrid) -> None:
    before = _ask(grid, dict.fromkeys(range(4), b"hello"))
    assert set(_ask(grid, {0: b"raise", 1: b"hello"})) == {1}
    assert _ask(grid, dict.fromkeys(range(4), b"hello")) == before


def test_a_killed_worker_costs_what_it_had_in_hand(grid: WorkerGrid, tmp_path: Path) -> None:
    """Node 2 waits behind node 0 at the same worker, and is answered by the next one; so is node 0 the next time."""
    before = _ask(grid, dict.fromkeys(range(4), b"hello"))
    mark = tmp_path / "begun"

    def kill() -> None:
        _until(lambda: mark.exists() and bool(mark.read_text()))
        os.kill(int(mark.read_text()), signal.SIGKILL)

    threading.Thread(target=kill).start()
    started = time.monotonic()
    answered = _ask(grid, {0: b"hang " + bytes(mark), 1: b"hello", 2: b"hello", 3: b"hello"}, 600.0)
    assert time.monotonic() - started < 120  # a dead worker is noticed; the deadline is not waited for
    assert set(answered) == {1, 2, 3}
    assert int(mark.read_text()) == before[0][0]
    after = _ask(grid, dict.fromkeys(range(4), b"hello"))
    assert after[0] == (answered[2][0], 0)
    assert after[0][0] != before[0][0]
    assert after[1] == before[1]


def _until(done: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.05)
