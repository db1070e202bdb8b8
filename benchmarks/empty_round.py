"""What a simulated round costs where there is next to nothing to train: four members, a random Llama of two layers.

The rounds run through `simulations.federation`, as `cotune simulate` runs them: Flower's apps, Ray's workers, homes on
disk, the whole protocol of seven exchanges. Beside them a stock Flower app runs on Flower's own simulation engine with
the same backend settings: as many nodes and rounds, one, two (train and evaluate, as Flower's strategies do) or seven
exchanges a round, with a client that sends its arrays straight back.

Ray runs workers at a low priority, so other work on the machine weighs on the wall seconds more than on the CPU's.

Reported are wall seconds of a round (the median; the first, which loads the model, is left out), CPU seconds of a round
(this process and all its children, Ray's included), the ratio of the wall seconds to those of the stock app with the
same number of exchanges, and where the wall seconds of our round go, by phase: the server's exchanges are `train`,
`share`, `mask`, `survive`, `unmask`; `apply` is the commit; `follow` is what lies between two rounds: record, sum,
pieces.

    python benchmarks/empty_round.py [--rounds 12] [--members 4] [--workers 2] [--quick] [--json]
"""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
import torch
from cotune.conf.compose import compose
from cotune.conf.schema import Settings
from cotune.offline import go_offline
from cotune.server.events import RoundEvent
from cotune.simulations import federation
from cotune.simulations.consortium import found
from cotune.simulations.corpus import load_corpus
from cotune.simulations.workspace import open_workspace
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
WORDS = ("<unk>", "</s>", "<user>", "<assistant>", "<system>", "red", "green", *(f"w{number}" for number in range(20)))
EXCHANGES = 7
UNITS = 8
PARAMETERS = 2_000


@dataclass
class Row:
    """One line."""

    what: str
    exchanges: int
    members: int
    workers: int
    rounds: int
    wall_s: float
    cpu_s: float
    over_stock: float = 1.0
    phases: dict[str, float] = field(default_factory=dict)


class Watch:
    """Moments of a run: when each round ended, and the seconds of each phase in it."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.cpu: list[float] = []
        self.phases: dict[str, list[float]] = defaultdict(list)
        self._phase, self._since = "follow", time.monotonic()

    def show(self, event: RoundEvent) -> None:
        """A round event of the server."""
        now = time.monotonic()
        self.phases[self._phase].append(now - self._since)
        self._phase, self._since = event.phase, now
        if event.phase == "done":
            self._phase = "follow"
            self.end()

    def end(self) -> None:
        """A round ends."""
        self.ends.append(time.monotonic())
        self.cpu.append(cpu_seconds())

    def row(self, what: str, exchanges: int, members: int, workers: int) -> Row:
        """The medians, without the first round."""
        walls, cpus = np.diff(self.ends), np.diff(self.cpu)
        # An event that is shown while another phase goes on adds a second entry: sums, not medians, by phase.
        phases = {name: round(sum(found[1:]) / len(walls), 4) for name, found in self.phases.items()}
        wall, cpu = round(float(statistics.median(walls)), 4), round(statistics.fmean(cpus), 4)
        return Row(what, exchanges, members, workers, len(self.ends), wall, cpu, phases=phases)


def cpu_seconds() -> float:
    """Of this process and all that descend from it, those that have ended and were waited for included."""
    here = psutil.Process()
    total = 0.0
    for process in (here, *here.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system + times.children_user + times.children_system
    return total


def consortium(root: Path, members: int, rounds: int, workers: int) -> Settings:
    """Settings of a small run: a model, files of records, all in `root`."""
    torch.manual_seed(7)
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(root / "model")
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=1,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(root / "model")
    files = [root / f"member{number}.jsonl" for number in range(members)]
    for place, file in enumerate((*files, root / "test.jsonl")):
        rows = [
            {"prompt": f"w{place} w{unit}", "answer": ("red", "green")[unit % 2], "unit": f"{file.stem}/{unit}"}
            for unit in range(UNITS)
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compose(
        [
            "experiment=custom",
            "name=empty",
            "model=local",
            f"model.name={root / 'model'}",
            "model.device=cpu",
            "model.dtype=float32",
            "model.context_length=32",
            "model.lora.rank=2",
            f"data.files=[{','.join(map(str, files))}]",
            f"data.test_file={root / 'test.jsonl'}",
            f"rounds={rounds}",
            "simulation.arms=[federated]",
            f"simulation.workers={workers}",
            f"cache={root / 'cache'}",
            f"run_dir={root / 'run'}",
        ]
    )


def ours(settings: Settings, members: int) -> Row:
    """Rounds of the product."""
    space, watch = open_workspace(settings), Watch()
    made = found(settings, space, load_corpus(settings))
    federation.federate(settings, space, made.charter, tuple(made.homes.values()), watch.show, threading.Event())
    return watch.row("cotune", EXCHANGES, members, settings.simulation.workers)


def stock(settings: Settings, members: int, exchanges: int) -> Row:
    """Rounds of a Flower app that does nothing, on Flower's own simulation engine."""
    from flwr.simulation import run_simulation

    watch, server, client = Watch(), ServerApp(), ClientApp()

    @client.train()
    def back(message: Message, context: Context) -> Message:
        return Message(message.content, reply_to=message)

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        while len(nodes := list(grid.get_node_ids())) < members:
            time.sleep(0.1)
        arrays = np.zeros(PARAMETERS, np.float32)
        for number in range(settings.rounds):
            for _ in range(exchanges):
                content = RecordDict({"arrays": ArrayRecord({"all": Array(arrays)})})
                sent = [Message(content, node, "train", group_id=str(number)) for node in nodes]
                replies = list(grid.send_and_receive(sent, timeout=60))
                arrays = np.mean([reply.content["arrays"]["all"].numpy() for reply in replies], axis=0)
            watch.end()

    threads, workers = settings.simulation.threads_per_worker, settings.simulation.workers
    backend = {
        "client_resources": {"num_cpus": threads, "num_gpus": 0.0},
        "init_args": federation.ray_settings(settings) | {"num_cpus": threads * workers},
    }
    run_simulation(server, client, members, "ray", backend)  # type: ignore[arg-type]
    return watch.row("stock Flower", exchanges, members, settings.simulation.workers)


def show(rows: Sequence[Row]) -> None:
    """Two tables for people."""
    table = Table(title="a round without training: seconds")
    names = ("what", "exchanges", "members", "workers", "rounds", "wall_s", "cpu_s", "over_stock")
    for name in names:
        table.add_column(name.replace("_", " "), justify="left" if name == "what" else "right")
    for row in rows:
        values = asdict(row)
        table.add_row(*(str(values[name]) for name in names))
    phases = Table(title="where the wall seconds of our round go")
    for name in rows[0].phases:
        phases.add_column(name, justify="right")
    phases.add_row(*map(str, rows[0].phases.values()))
    for shown in (table, phases):
        Console(width=120).print(shown)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a smoke test: four rounds")
    parser.add_argument("--json", action="store_true", help="a JSON list instead of the tables")
    options = parser.parse_args()
    go_offline()
    rounds = 4 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as folder:
        settings = consortium(Path(folder), options.members, rounds, options.workers)
        rows = [ours(settings, options.members)]
        rows += [stock(settings, options.members, exchanges) for exchanges in (1, 2, EXCHANGES)]
    same = next(row.wall_s for row in rows[1:] if row.exchanges == EXCHANGES)
    rows[0].over_stock = round(rows[0].wall_s / same, 2)
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        show(rows)


if __name__ == "__main__":
    main()
