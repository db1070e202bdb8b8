"""Without privacy, is cotune worse than what one would write with Flower's example? Both in one run, on the same data.

Every row passes once (`--examples` of the demo's hospitals, by default 256, 0 all), in whatever an arm trains:

- flower: `stock/flowertune.py`, the loop of Flower's flowertune-llm example, all layers of the model.
- cotune-same: cotune's fedavg with AdamW at home, privacy=none, on the same LoRA, at the same constant rate.
- cotune-lora: the same at cotune's own settings, recipe=lora: rank 8 in the last layer, rate 0.001.
- cotune-core: the default recipe, privacy=none: a core over cached states, the epoch in 20 rounds.
- flower-opacus (asked for by `--arms`): the first with a PrivacyEngine at home, epsilon 8 for each row.
- cotune-private (likewise): the default recipe at the unit-level epsilon 8 of the demo, 20 rounds of all rows.

Data, chat template, context and scoring are shared: accuracy among the labels, and answers that greedy decoding writes
word for word. cotune's steps run as in a federation, but for signatures, masks and the rounding to integers. Seconds
are CPU seconds of training on all threads; a cached arm's hold the frozen layers' one pass, unless `--states` found it.

    python benchmarks/without_privacy.py [key=value ...] [--arms ...] [--examples 0] [--test-rows 0]
        [--rates 5e-5 5e-4] [--threads 2] [--states FOLDER] [--json FILE]
"""

import argparse
import json
import math
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from cotune.conf.compose import compose
from cotune.conf.rates import planned_strategy, strategy_options
from cotune.conf.schema import Settings
from cotune.conf.terms import terms
from cotune.data.template import encode_all
from cotune.evaluation.labels import Evaluator
from cotune.simulations.bases import lora_settings
from cotune.simulations.consortium import agreed_basis, declared_units, everything
from cotune.simulations.corpus import load_corpus
from cotune.simulations.rehearsal import at_home, rehearse
from cotune.simulations.states import trainer_of
from cotune.training.adapter import LoraSettings, attach, import_peft, schema_of
from cotune.training.base import BaseModel, load_base
from cotune.training.layers import decoder_layers
from rich.console import Console
from rich.table import Table
from stock import flowertune
from stock.alike import Plan, last_layer_settings, shortened, stock_settings
from stock.flowertune import Recipe

USUAL = ("base", "flower", "cotune-same", "cotune-lora", "cotune-core")
PRIVATE = ("flower-opacus", "cotune-private")
CORE_ROUNDS = 20


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Attributes:
        rate: of the steps at home, or of the server's for a core. trained: numbers. passes: rows that went through a
            step, expected. cpu_s: of training. known: whether frozen states were known from before.
    """

    arm: str
    rate: float
    trained: int
    passes: int
    accuracy: float
    exact: float
    cpu_s: float
    known: bool = False


def base_of(settings: Settings) -> BaseModel:
    """A model of its own for each arm."""
    model = settings.model
    return load_base(model, settings.cache, model.device, model.dtype)


def scored(plan: Plan, settings: Settings, base: BaseModel, lora: LoraSettings, adapter: np.ndarray) -> list[float]:
    """Accuracy and exact answers on the test rows."""
    model, tests = settings.model, plan.corpus.test
    most = settings.simulation.evaluation_batch_tokens
    judge = Evaluator(base, lora, tests, plan.corpus.labels, model.context_length, most, model.cache_features)
    accuracy = judge.score(adapter).accuracy
    folder = plan.folder if model.cache_features else None
    return [accuracy, trainer_of(settings, base, lora, tests, folder, silent).exact(adapter, range(len(tests)))]


def silent(steps: int = 1, note: str = "") -> None:
    """No bar."""


def stock_arm(plan: Plan, arm: str, rate: float) -> Line:
    """Flower's loop on a model of its own, then scored as every adapter is."""
    recipe, settings = replace(plan.recipe, rate=rate), stock_settings(plan, rate)
    base = base_of(settings)
    context, tokenizer = settings.model.context_length, base.tokenizer
    clients = [
        [(example.tokens, example.answer_start) for example in encode_all(records, tokenizer, context)]
        for records in plan.corpus.organizations.values()
    ]
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    model = flowertune.peft_model(base.model, recipe, len(decoder_layers(base.model)))
    began = time.process_time()
    if arm == "flower":
        flowertune.train(model, clients, recipe, pad, plan.seed)
    else:
        delta = compose(list(plan.words)).privacy.delta_for(plan.of_one)
        flowertune.train_private(model, clients, recipe, pad, plan.seed, 8.0, delta)
    spent = time.process_time() - began
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        fresh, lora = base_of(settings), lora_settings(settings)
        schema = schema_of(attach(fresh, lora))
        adapter = import_peft(Path(folder), schema)
    return Line(arm, rate, schema.dimension, plan.rows, *scored(plan, settings, fresh, lora, adapter), spent)


def cotune_arm(plan: Plan, arm: str, settings: Settings) -> Line:
    """cotune's own steps, members one after another; each sum goes to the server's rule."""
    base, lora = base_of(settings), lora_settings(settings)
    if lora.form != "lora":
        lora = replace(lora, basis=agreed_basis(settings, base, lora, plan.corpus))
    began = time.process_time()
    before = set(plan.folder.glob("*"))
    trainer = trainer_of(settings, base, lora, everything(plan.corpus), plan.folder, silent)
    known = settings.model.cache_features and set(plan.folder.glob("*")) == before
    units = declared_units(settings, plan.corpus)
    agreed = terms(settings, max(units.values()), trainer.schema.dimension)
    options = strategy_options(settings, agreed, list(units.values()), lora.moved)
    homes = at_home(trainer, {name: len(records) for name, records in plan.corpus.organizations.items()})
    rule = planned_strategy(settings, options)
    found = rehearse(rule, homes, agreed, units, settings.rounds, settings.seed, lambda: None, threading.Event())
    spent = time.process_time() - began
    rate = options.get("local_learning_rate", options["learning_rate"])
    passes = round(settings.rounds * settings.strategy.steps_per_round * agreed.sample_rate * plan.rows)
    dimension = trainer.schema.dimension
    return Line(arm, rate, dimension, passes, *scored(plan, settings, base, lora, found.adapter), spent, known)


def same_arm(plan: Plan, rate: float) -> Line:
    """cotune on the stock loop's LoRA."""
    return cotune_arm(plan, "cotune-same", stock_settings(plan, rate))


def base_arm(plan: Plan) -> Line:
    """The model as it is."""
    settings = last_layer_settings(plan)
    base, lora = base_of(settings), lora_settings(settings)
    zeros = np.zeros(schema_of(attach(base, lora)).dimension, np.float32)
    return Line("base", 0.0, 0, 0, *scored(plan, settings, base, lora, zeros), 0.0)


def run(plan: Plan, arms: Sequence[str], rates: Sequence[float], tell: Callable[[Line], None]) -> list[Line]:
    """The arms asked for, each told as soon as it is done."""
    core = ("recipe=core", "privacy=none", f"rounds={CORE_ROUNDS}", f"privacy.sample_rate={1 / CORE_ROUNDS!r}")
    work: dict[str, list[Callable[[], Line]]] = {
        "base": [lambda: base_arm(plan)],
        "flower": [lambda rate=rate: stock_arm(plan, "flower", rate) for rate in rates],
        "cotune-same": [lambda rate=rate: same_arm(plan, rate) for rate in rates],
        "cotune-lora": [lambda: cotune_arm(plan, "cotune-lora", last_layer_settings(plan))],
        "cotune-core": [lambda: cotune_arm(plan, "cotune-core", plan.settings(*core))],
        "flower-opacus": [lambda rate=rate: stock_arm(plan, "flower-opacus", rate) for rate in rates],
        "cotune-private": [lambda: cotune_arm(plan, "cotune-private", plan.settings("recipe=core"))],
    }
    lines = []
    for arm in arms:
        for each in work[arm]:
            lines.append(each())
            tell(lines[-1])
    return lines


def table(plan: Plan, lines: Sequence[Line]) -> Table:
    """For people."""
    made = Table(title=f"{plan.rows:,} rows of {len(plan.corpus.organizations)} organizations")
    for name in ("arm", "rate", "trained numbers", "row passes", "accuracy", "exact", "CPU s", "of flower"):
        made.add_column(name, justify="left" if name == "arm" else "right")
    stock = next((line.cpu_s for line in lines if line.arm == "flower"), math.nan)
    for line in lines:
        ratio = f"{line.cpu_s / stock:.3f}" if line.trained and not math.isnan(stock) else ""
        seconds = f"{line.cpu_s:,.1f}{' (states known)' if line.known else ''}"
        numbers = (f"{line.rate:g}", f"{line.trained:,}", f"{line.passes:,}", f"{100 * line.accuracy:.1f}%")
        made.add_row(line.arm, *numbers, f"{100 * line.exact:.1f}%", seconds, ratio)
    return made


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--arms", nargs="+", default=list(USUAL), choices=(*USUAL, *PRIVATE))
    parser.add_argument("--examples", type=int, default=256, help="training rows of all organizations; 0: all")
    parser.add_argument("--test-rows", type=int, default=100, help="0: all")
    parser.add_argument("--rates", type=float, nargs="+", default=[Recipe.rate], help="of flower and cotune-same")
    parser.add_argument("--top-layers", type=int, default=0, help="LoRA of flower and cotune-same; 0: all layers")
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--local-steps", type=int, default=Recipe.local_steps)
    parser.add_argument("--targets", nargs="+", help="of flower and cotune-same; else PEFT's choice, q_proj v_proj")
    parser.add_argument("--states", type=Path, help="where states of the frozen layers are kept; else nowhere")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file for the lines")
    parser.add_argument("words", nargs="*", metavar="key=value", help="cotune's settings, e.g. seed=2")
    options = parser.parse_intermixed_args()
    torch.set_num_threads(options.threads)
    targets = None if options.targets is None else tuple(options.targets)
    recipe = Recipe(
        batch=options.batch, local_steps=options.local_steps, top_layers=options.top_layers, targets=targets
    )
    settings = compose(options.words)
    corpus = shortened(load_corpus(settings), options.examples, options.test_rows, settings.seed)
    words = list(options.words)
    if options.examples:  # a smaller organization declares what it holds
        words.append("data.units_per_organization=null")
    console = Console(width=140)
    with tempfile.TemporaryDirectory() as folder:
        recipe = recipe.fitted(max(map(len, corpus.organizations.values())))
        plan = Plan(corpus, tuple(words), recipe, options.states or Path(folder) / "states", settings.seed)
        lines = run(plan, options.arms, options.rates, lambda line: console.print(line))
    console.print(table(plan, lines))
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
