"""A run's transcript: the records of its rounds in one file, and their examination from the roster's keys alone.

    magic, then for each round that ended well, oldest first: length (4 bytes), RECORD message

Burned and aborted attempts leave no record. The file is public to the federation: it holds no secret that P4 did not
already reveal to the coordinator, and no update.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .plan import Plan
from .record import RoundRecord, Verified, genesis, verify
from .refused import Refused, require
from .roster import Roster
from .wire import MAX_MESSAGE, peek

_MAGIC = b"cotune-transcript-1\n"
_LENGTH = 4


def encode(records: Iterable[bytes]) -> bytes:
    """The content of a transcript file."""
    return _MAGIC + b"".join(len(record).to_bytes(_LENGTH, "big") + record for record in records)


def read(path: Path) -> Iterator[bytes]:
    """The records of a transcript file, one at a time.

    Raises:
        Refused: "transcript.format" or "transcript.truncated". OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        require(file.read(len(_MAGIC)) == _MAGIC, "transcript.format", "this is not a transcript of cotune")
        while prefix := file.read(_LENGTH):
            size = int.from_bytes(prefix, "big")
            require(size <= MAX_MESSAGE, "transcript.format", "a record that is larger than any can be")
            record = file.read(size)
            whole = len(prefix) == _LENGTH and len(record) == size
            require(whole, "transcript.truncated", "the file ends inside a record: the last rounds are missing")
            yield record


@dataclass(frozen=True)
class Examined:
    """One record of a transcript: `verified` where it holds, `fault` where it does not.

    Attributes:
        round, attempt: as the record says; -1 where that cannot be read.
    """

    round: int
    attempt: int
    verified: Verified | None
    fault: Refused | None


def examine(records: Iterable[bytes], roster: Roster) -> Iterator[Examined]:
    """Check every record, in order, against the roster and the head before it.

    A record that does not hold is reported, and says nothing about others: the next one may extend any head, so that
    one false record is one fault. The run is that of the first record that holds; whether it is the run one means is
    for the caller to say.
    """
    run, head, last, whole = b"", b"", (-1, -1), True
    for message in records:
        number = (-1, -1)
        try:
            plan = Plan.decode(peek(RoundRecord.decode(peek(message)[0]).plan)[0])
            number = (plan.round, plan.attempt)
            of = run or plan.run
            verified = verify(message, roster, of, (head or genesis(of, roster)) if whole else plan.prev_head)
            in_order = plan.round > last[0]
            require(in_order, "transcript.order", f"round {plan.round + 1} stands after round {last[0] + 1}")
        except Refused as no:
            whole = False
            yield Examined(*number, None, no)
        else:
            run, head, last, whole = of, verified.head, number, True
            yield Examined(*number, verified, None)
