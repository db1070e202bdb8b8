"""A consortium that fits a test: a random Llama of two layers, a tokenizer of a few words, three files of records."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cotune.conf.compose import compose
from cotune.conf.schema import Settings
from cotune.offline import go_offline
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}> {{ message['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
LABELS = ("red", "green", "blue")
WORDS = tuple(f"word{number}" for number in range(60))


def tiny_tokenizer(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    special = ["<unk>", "<s>", "</s>", "<user>", "<assistant>", "<system>"]
    vocabulary = {word: number for number, word in enumerate([*special, *LABELS, *WORDS])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    tokenizer.chat_template = template
    return tokenizer


def save_model(folder: Path, template: str | None = TEMPLATE) -> Path:
    torch.manual_seed(7)
    config = AutoConfig.for_model(
        "llama",
        vocab_size=len(LABELS) + len(WORDS) + 6,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer(template).save_pretrained(folder)
    return folder


def write_rows(path: Path, units: int, seed: int, rows_per_unit: int = 2) -> Path:
    """Records whose label follows from their first word; the unit id names the file, so that no two files share one."""
    draw = random.Random(seed)
    lines = []
    for unit in range(units):
        for _ in range(rows_per_unit):
            first = draw.randrange(60)
            prompt = " ".join([WORDS[first], *draw.choices(WORDS, k=draw.randrange(1, 6))])
            lines.append({"prompt": prompt, "answer": LABELS[first % 3], "unit": f"{path.stem}/{unit}"})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@dataclass(frozen=True)
class Place:
    """Where the tiny model and the files lie.

    Attributes:
        model: the folder of the model. files: one an organization. test: the test file. root: of all of them.
    """

    root: Path
    model: Path
    files: tuple[Path, ...]
    test: Path

    def words(self, run_dir: Path, *more: str) -> list[str]:
        """The settings of a small run, as on the command line; later ones take the place of earlier ones."""
        given = [
            "experiment=custom",
            "name=tiny",
            "model=local",
            f"model.name={self.model}",
            "model.device=cpu",
            "model.dtype=float32",
            "model.context_length=32",
            "model.lora.rank=4",
            f"data.files=[{','.join(map(str, self.files))}]",
            f"data.test_file={self.test}",
            "strategy.learning_rate=0.05",
            "rounds=2",
            "privacy.sample_rate=0.5",
            "simulation.arms=[base,federated]",
            "simulation.evaluate_every=1",
            "simulation.generate_rows=4",
            f"cache={self.root / 'cache'}",
            f"run_dir={run_dir}",
        ]
        keys = {word.split("=", 1)[0] for word in more}
        return [word for word in given if word.split("=", 1)[0] not in keys] + list(more)

    def settings(self, run_dir: Path, *more: str) -> Settings:
        return compose(self.words(run_dir, *more))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    go_offline()
    root = tmp_path_factory.mktemp("consortium")
    names = ("North Ward", "south", "west")
    files = tuple(write_rows(root / f"{name.replace(' ', '_')}.jsonl", 16, seed) for seed, name in enumerate(names))
    return Place(root, save_model(root / "model"), files, write_rows(root / "test.jsonl", 12, 99))


@pytest.fixture(scope="session")
def rows() -> Callable[..., Path]:
    return write_rows


@pytest.fixture(scope="session")
def model_without_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("plain") / "model", None)
