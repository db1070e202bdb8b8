"""Rounds that were burned: their survivors were asked to sign, and nothing was committed.

A crash burns a round, and so does a member that misbehaves once the survivors have signed. The privacy of the round is
spent either way. So burned rounds count over the whole run, whoever spoiled them: a run stops at the `MOST`th and at
each further one, so that somebody looks; started again it goes on where members' policies allow it.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from ..charter.charter import Charter
from ..errors import UserError
from ..secagg import blame
from ..secagg.opening import Verdict
from .run_directory import Attempt, Committed, RunDirectory
from .spent import may_have_sent

# So many burned rounds of a run end it, as the policy of every member has it by default.
MOST: Final = 2
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
    """Indices of the members that a refusal after signing convicts, or an opened piece of their upload.

    Args:
        noted: of the whole run.
    """
    found = refusals(noted)
    named = {attempt.named for attempt in found if attempt.named is not None and attempt.refused in _PROOFS}
    return frozenset(named.union(*(attempt.convicted for attempt in found)))


def left_out(noted: Sequence[Attempt]) -> frozenset[int]:
    """Indices of the members that sit out the rounds that follow: those proven, and those that part.

    Of the latter nothing is proven. Their words about opened pieces contradict another's, or nothing was found and they
    said nothing: over the whole run at most one is honest for each that lies, see `blame.spoilers`.

    Args:
        noted: of the whole run.
    """
    verdicts = [Verdict(attempt.convicted, attempt.disputes, attempt.silent) for attempt in refusals(noted)]
    return proven(noted).union(blame.spoilers(verdicts))


def stop_if_spoiled(charter: Charter, folder: RunDirectory) -> None:
    """End the run at its `MOST`th burned round and each later one; started again it goes on where members do.

    Raises:
        UserError: with every burned round, its refusal and who was found.
    """
    recorded = set(folder.recorded())
    lost = [number for number in folder.committed() if number not in recorded]
    if len(lost) < MOST:
        return
    said = "; ".join(f"round {number + 1}: {_why(charter, folder.attempts(number))}" for number in lost)
    raise UserError(
        f"{len(lost)} rounds of this run were spoiled ({said})",
        "settle it with the members. Started again, the run ends with the rounds that it has; it goes on where enough "
        "members raise max_spoiled_rounds in their policy.yaml",
    )


def _why(charter: Charter, noted: Sequence[Attempt]) -> str:
    found = refusals(noted)
    if not found:
        return "the coordinator was interrupted"
    names = sorted(charter.members[index].name for index in proven(noted))
    others = sorted(charter.members[index].name for index in left_out(noted) - proven(noted))
    said = ", ".join(names) if names else "no member is named"
    return f"{found[-1].refused}, {said}" + (f", parted: {', '.join(others)}" if others else "")


def burned(charter: Charter, steps: int, number: int, before: Committed, noted: Sequence[Attempt]) -> Committed:
    """A burned round as it is committed: the model of the round before, nothing measured, everybody's budget spent.

    Who trained is not known after a crash, so everybody counts; with shared noise once for each attempt that may have
    sent something.

    Args:
        steps: of one round. number: of the round. before: the round before. noted: the round's attempts.
    """
    attempts = 1 if charter.privacy.shares is None else max(1, len(may_have_sent(noted)))
    times = {member.name: attempts for member in charter.members}
    measured = before.measured.charged(charter.privacy, steps, times)
    return Committed(number, before.adapter, before.state, before.head, (), measured, b"")
