"""Rounds that were burned: their survivors were asked to sign, and nothing was committed.

A crash burns a round, and so does a member that misbehaves once the survivors have signed. The privacy of the round is
spent either way, so a run in which this repeats stops before it has spent everything on nothing.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from ..charter.charter import Charter
from ..errors import UserError
from .run_directory import Attempt, Committed, RunDirectory
from .spent import epsilons, may_have_sent

# So many rounds in a row whose unmasking was refused end a run.
IN_A_ROW: Final = 2
# Refusals of an unmasking that prove that the member they name did not keep to what it signed.
_PROOFS: Final = frozenset({"unmask.secret", "share.offer"})


def asked_to_sign(noted: Iterable[Attempt]) -> bool:
    """Whether the survivors of an attempt were asked to sign: the round is not tried again.

    Args:
        noted: of one round.
    """
    return any(attempt.signing for attempt in noted)


def refusals(noted: Sequence[Attempt]) -> list[Attempt]:
    """The notes of the attempts that were refused after their survivors were asked to sign, in order.

    Edge cases: a round that a crash burned has none.

    Args:
        noted: of any number of rounds.
    """
    signed = {(attempt.round, attempt.attempt) for attempt in noted if attempt.signing}
    return [attempt for attempt in noted if attempt.refused and (attempt.round, attempt.attempt) in signed]


def proven(noted: Sequence[Attempt]) -> frozenset[int]:
    """Indices of the members that a refusal after signing convicts: they sit out the rounds that follow.

    Args:
        noted: of the whole run.
    """
    return frozenset(
        attempt.named for attempt in refusals(noted) if attempt.named is not None and attempt.refused in _PROOFS
    )


def stop_if_repeated(charter: Charter, folder: RunDirectory) -> None:
    """End the run where the last rounds were burned by refusals, `IN_A_ROW` of them or more.

    Rounds that a crash burned in between count neither way. A run that was stopped goes on when it is started again,
    and stops at the next such round unless one was committed before it.

    Raises:
        UserError: with every refusal and the member that it names.
    """
    recorded = folder.recorded()
    since = recorded[-1] if recorded else -1
    row = refusals([attempt for number in folder.committed() if number > since for attempt in folder.attempts(number)])
    if len(row) < IN_A_ROW:
        return
    said = "; ".join(f"round {attempt.round + 1}: {attempt.refused}, {_name(charter, attempt)}" for attempt in row)
    raise UserError(
        f"{len(row)} rounds in a row were burned, their unmasking was refused ({said})",
        "each spent every member's budget; read the log and settle it with the members, then start again to continue",
    )


def _name(charter: Charter, attempt: Attempt) -> str:
    return "no member is named" if attempt.named is None else charter.members[attempt.named].name


def burned(charter: Charter, steps: int, number: int, before: Committed, noted: Sequence[Attempt]) -> Committed:
    """A burned round as it is committed: the model of the round before, nothing measured, everybody's budget spent.

    Who trained is not known after a crash, so everybody counts; with shared noise once for each attempt that may have
    sent something.

    Args:
        steps: of one round. number: of the round. before: the round before. noted: the round's attempts.
    """
    values: dict[str, Any] = before.values
    attempts = 1 if charter.privacy.shares is None else max(1, len(may_have_sent(noted)))
    earlier = values.get("trained", {})
    trained = {member.name: earlier.get(member.name, 0) + attempts for member in charter.members}
    shown = {
        "loss": None,
        "clipped": None,
        "units": 0.0,
        "saturated": 0.0,
        "bytes_up": values.get("bytes_up", 0),
        "contributions": values.get("contributions", 0),
        "trained": trained,
        "epsilon": epsilons(charter.privacy, steps, trained),
        "seconds": 0.0,
    }
    return Committed(number, before.adapter, before.state, before.head, (), shown, b"")
