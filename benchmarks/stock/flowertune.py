"""The loop of Flower's `flowertune-llm` example, and that of its `opacus` example on the same LoRA.

Rank, alpha, dropout, targets (PEFT's own choice), batch, steps a round, AdamW anew in each round and its cosine rate
over the rounds are the example's; the loss is the mean over the batch's answer tokens; as Hugging Face's Trainer does,
the batch's gradient is clipped to 1. The server takes the mean of the adapters weighted by rows. Clients come one after
another in one process, and each goes through its rows once.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from opacus import PrivacyEngine
from opacus.accountants.utils import get_noise_multiplier
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch.utils.data import DataLoader, TensorDataset

IGNORED = -100
_CLIP = 1.0
_FEWEST_ROUNDS = 7
Row = tuple[Sequence[int], int]
"""Tokens, and where the answer begins."""
State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """The settings; the defaults are the example's.

    Attributes:
        last_rate: what the cosine ends at, as a fraction of `rate`.
        top_layers: only the last so many layers; 0: all, as in the example.
        targets: None: PEFT's own choice for the family, which is the query and value maps.
    """

    rate: float = 5e-5
    last_rate: float = 0.02
    rank: int = 32
    alpha: int = 64
    dropout: float = 0.075
    batch: int = 16
    local_steps: int = 10
    top_layers: int = 0
    targets: tuple[str, ...] | None = None

    def rounds(self, rows: int) -> int:
        """Rounds in which a client goes through its rows once."""
        return math.ceil(rows / (self.batch * self.local_steps))

    def fitted(self, rows: int) -> "Recipe":
        """With fewer steps a round where few rows would make one or two rounds: the cosine ends at its lowest rate."""
        steps = math.ceil(rows / self.batch) // _FEWEST_ROUNDS
        return replace(self, local_steps=max(1, min(self.local_steps, steps)))

    def rate_in(self, number: int, rounds: int) -> float:
        """The rate of a round, counted from 1 as the example does."""
        low = self.last_rate * self.rate
        return low + 0.5 * (self.rate - low) * (1 + math.cos(math.pi * number / rounds))


def peft_model(model: torch.nn.Module, recipe: Recipe, layers: int) -> PeftModel:
    """LoRA on a frozen model of so many layers."""
    chosen = list(range(layers - recipe.top_layers, layers)) if recipe.top_layers else None
    targets = None if recipe.targets is None else list(recipe.targets)
    return get_peft_model(
        model,
        LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=targets,
            layers_to_transform=chosen,
            task_type="CAUSAL_LM",
        ),
    )


def average(states: Sequence[State], weights: Sequence[int]) -> State:
    """FedAvg: the mean weighted by rows."""
    total = sum(weights)
    return {
        name: sum((weight / total) * state[name] for state, weight in zip(states, weights, strict=True))
        for name in states[0]
    }


def train(model: PeftModel, clients: Sequence[Sequence[Row]], recipe: Recipe, pad: int, seed: int) -> None:
    """One epoch of FedAvg in place: every row of every client once."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(rows)) for rows in clients]
    rounds = recipe.rounds(max(map(len, clients)))
    span = recipe.batch * recipe.local_steps
    start = copied(model)
    for number in range(1, rounds + 1):
        states, weights = [], []
        for rows, order in zip(clients, orders, strict=True):
            mine = [rows[place] for place in order[(number - 1) * span : number * span]]
            if not mine:
                continue
            set_peft_model_state_dict(model, start)
            _fit(model, mine, recipe, recipe.rate_in(number, rounds), pad)
            states.append(copied(model))
            weights.append(len(rows))
        start = average(states, weights)
    set_peft_model_state_dict(model, start)
    model.eval()


def copied(model: PeftModel) -> State:
    """The adapter's tensors, as they are now."""
    return {name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(model).items()}


def _trained(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def _fit(model: PeftModel, rows: Sequence[Row], recipe: Recipe, rate: float, pad: int) -> None:
    model.train()
    trained = _trained(model)
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    for tokens, mask, labels in _batches(rows, recipe.batch, pad):
        optimizer.zero_grad()
        model(input_ids=tokens, attention_mask=mask, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, _CLIP)
        optimizer.step()


def _batches(rows: Sequence[Row], size: int, pad: int) -> Iterator[tuple[torch.Tensor, ...]]:
    for start in range(0, len(rows), size):
        yield padded(rows[start : start + size], pad)


def padded(rows: Sequence[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, mask and labels [B, T], filled up on the right; labels on the answer only."""
    longest = max(len(tokens) for tokens, _ in rows)
    tokens = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    labels = torch.full((len(rows), longest), IGNORED)
    for place, (row, start) in enumerate(rows):
        tokens[place, : len(row)] = torch.tensor(np.asarray(row, dtype=np.int64))
        mask[place, : len(row)] = 1
        labels[place, start : len(row)] = tokens[place, start : len(row)]
    return tokens, mask, labels


def train_private(
    model: PeftModel,
    clients: Sequence[Sequence[Row]],
    recipe: Recipe,
    pad: int,
    seed: int,
    epsilon: float,
    delta: float,
) -> float:
    """The same with a PrivacyEngine at home, each row a unit: epsilon over all rounds, as the example leaves open.

    The example's SGD at 0.001 hardly moves LoRA's factors; a user would take AdamW here as well.

    Returns:
        The noise multiplier, one for all clients.
    """
    torch.manual_seed(seed)
    loaders = [DataLoader(TensorDataset(*padded(rows, pad)), batch_size=recipe.batch) for rows in clients]
    rounds, steps = recipe.rounds(max(map(len, clients))), max(map(len, loaders))
    start, module = copied(model), model
    sigma = get_noise_multiplier(
        target_epsilon=epsilon,
        target_delta=delta,
        sample_rate=1 / min(map(len, loaders)),
        steps=steps,
        accountant="rdp",
    )
    for number in range(rounds):
        states = []
        for loader in loaders:
            set_peft_model_state_dict(model, start)
            module.train()
            optimizer = torch.optim.AdamW(_trained(model), lr=recipe.rate_in(number + 1, rounds), weight_decay=0.0)
            module, noisy, sampled = PrivacyEngine(accountant="rdp").make_private(
                module=module, optimizer=optimizer, data_loader=loader, noise_multiplier=sigma, max_grad_norm=_CLIP
            )
            batches = iter(sampled)
            for _ in range(min(recipe.local_steps, steps - number * recipe.local_steps)):
                noisy.zero_grad()
                tokens, mask, labels = next(batches)
                if len(tokens):  # an empty sample, one in millions: the model takes none
                    module(input_ids=tokens, attention_mask=mask, labels=labels).loss.backward()
                    noisy.step()
            states.append(copied(model))
        start = average(states, [len(rows) for rows in clients])
    set_peft_model_state_dict(model, start)
    model.eval()
    return float(sigma)
