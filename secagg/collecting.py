"""What collecting one message of each organization in each step of a round comes to."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from .messages import Rooted, open_member
from .plan import Plan
from .refused import Refused, require
from .roster import Roster


class Step(IntEnum):
    """What is being collected."""

    ADVERTS = 1
    SHARES = 2
    UPLOADS = 3
    SURVIVALS = 4
    REVEALS = 5
    OPENINGS = 6
    DONE = 7


@dataclass(frozen=True)
class Rejection:
    """A message that was not counted: whose, when, and the code of the refusal."""

    index: int
    step: Step
    code: str


class Collector:
    """The steps of an attempt, and which messages count in them.

    Args:
        roster: of the charter. plan: of this attempt.

    Attributes:
        rejections: every message that was not counted.
    """

    def __init__(self, roster: Roster, plan: Plan) -> None:
        self._roster, self._plan = roster, plan
        self._step = Step.ADVERTS
        self._messages: dict[Step, dict[int, bytes]] = {step: {} for step in Step}
        self.rejections: list[Rejection] = []

    @property
    def step(self) -> Step:
        """What is being collected now."""
        return self._step

    def present(self, step: Step) -> tuple[int, ...]:
        """Whose messages of a step count."""
        return tuple(sorted(self._messages[step]))

    def _rooted(self, kind: str, index: int, envelope: bytes, context: bytes) -> Rooted:
        rooted = open_member(kind, envelope, Rooted.decode, self._roster)
        require(rooted.index == index, "message.index", "signed by another organization than the sender")
        require(rooted.context == context, "message.context", "a message of another round or view")
        return rooted

    def _take(self, step: Step, index: int, message: bytes, check: Callable[[], None]) -> bool:
        """Count a message if it holds. The same message twice counts once; a second, different one is rejected."""
        known = self._messages[step].get(index)
        try:
            require(self._step is step, "message.late", f"collecting {self._step.name}, not {step.name}")
            if known is None:
                check()
            require(known in (None, message), "message.second", "another message was already counted")
        except Refused as no:
            self.rejections.append(Rejection(index, step, no.code))
            return False
        self._messages[step][index] = message
        return True

    def _envelopes(self, step: Step) -> tuple[bytes, ...]:
        return tuple(message for _, message in sorted(self._messages[step].items()))

    def _enough(self, step: Step) -> None:
        require(self._step is step, "round.order", f"collecting {self._step.name}, not {step.name}")
        need = self._plan.threshold if step >= Step.SURVIVALS else self._plan.min_survivors
        have = len(self._messages[step])
        require(have >= need, "round.too_few", f"{step.name}: {have} of the {need} organizations that are needed")

    def _closed(self, step: Step) -> tuple[bytes, ...]:
        self._enough(step)
        self._step = Step(step + 1)
        return self._envelopes(step)
