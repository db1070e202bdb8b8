"""A node as it is, `client.participation.Member`: real but for its training and for the arithmetic of epsilon."""

import io
import os
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import lifetimes
import numpy as np
from cotune.privacy.holdings import Holdings


@dataclass(frozen=True)
class Workbench:
    trainer: None
    units: int
    holdings: Holdings


def stand_in(name: str, **content: Any) -> None:
    """A module that would import torch: it takes seconds to load, and its memory slows every fork."""
    sys.modules[name] = ModuleType(name)
    sys.modules[name].__dict__.update(content)


bench = Workbench(None, 12, Holdings.of([b"f" * 32]))
stand_in("cotune.client.workbench", Workbench=Workbench, logged=lambda: None, prepare=lambda *arguments: bench)
stand_in("cotune.training.base", BaseModel=object)
stand_in("cotune.training.capacity", require_disk=lambda *arguments: None)

from cotune.client import contribution, participation  # noqa: E402
from cotune.client.following import Following  # noqa: E402
from cotune.client.home import NodeHome  # noqa: E402
from cotune.privacy import accounts  # noqa: E402
from cotune.privacy.terms import METRICS  # noqa: E402
from cotune.secagg.plan import Plan  # noqa: E402
from cotune.secagg.state import State  # noqa: E402


def trained(trainer: object, strategy: object, adapter: np.ndarray, *terms: object) -> np.ndarray:
    """Another contribution each time: what a second training under one charge would be."""
    return np.random.default_rng(list(os.urandom(16))).uniform(-0.5, 0.5, len(adapter) + len(METRICS))


def handle(life: dict[str, Any]) -> Any:
    home = NodeHome(life["home"])
    with home.locked():
        member = participation.Member(home)
        before = home.round_secrets()
        if life["phase"] == 0:
            # As computed from the sums.
            Following.require_model = lambda following, chain: life["model"]  # type: ignore[method-assign]
            reply: Any = member.begin(life["message"])
        else:
            reply = (member.share, member.upload, member.survive, member.reveal)[life["phase"] - 1](life["message"])
        after = home.round_secrets() or before
        state = State.decode(after)
        plan = Plan.open(state.plan, member.roster)
        return reply, (plan.run, plan.round, plan.attempt), state.ctx2


if __name__ == "__main__":
    accounts.epsilon = lambda segments, delta: 0.01 * len(segments)  # type: ignore[assignment]
    contribution.contribute = trained  # type: ignore[assignment]
    np.savez(io.BytesIO(), random=np.random.default_rng().uniform(size=2))
    lifetimes.serve(handle)
