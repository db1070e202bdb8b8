"""Who is online, who is out of the run for good, and whom the next attempt leaves out."""

import logging
from collections.abc import Collection, Iterable

from ..charter.charter import Charter
from ..errors import UserError
from . import burned, disputes, roll_call
from .exchange import Exchange
from .run_directory import RunDirectory

log = logging.getLogger("cotune.server")


class Attendance:
    """The members of a run, by roster index.

    Attributes:
        nodes: Flower's node id -> member, of those online.
        out: who sits out the run, since it spoiled a round or may have.
        left_out: whom the attempt at hand leaves out, `out` among them.
    """

    def __init__(self, charter: Charter, exchange: Exchange, folder: RunDirectory) -> None:
        self._charter, self._exchange, self._folder = charter, exchange, folder
        self._names = [member.name for member in charter.members]
        self.nodes: dict[int, int] = {}
        self.left_out: tuple[int, ...] = ()
        self.out = burned.left_out(folder.attempts())

    @property
    def here(self) -> set[int]:
        """Who is online and not out."""
        return set(self.nodes.values()) - self.out

    def call(self) -> None:
        """Wait until enough members are online, or the deadline."""
        few = len(self.here) < self._charter.secagg.min_survivors
        seconds = self._charter.secagg.deadline_seconds if few else 0.0
        self.nodes = roll_call.call(self._charter, self._exchange, self.nodes, seconds)

    def gather(self) -> None:
        """`call`, and end the run where too few came.

        Raises:
            UserError: naming those that are missing, or that have spoiled rounds.
        """
        need, others = self._charter.secagg.min_survivors, set(range(len(self._names))) - self.out
        if len(others) < need:
            what = f"{self._why_out()}, and too few others are left"
            raise UserError(what, "read the log, and sign a charter for the other members")
        self.call()
        if len(self.here) < need:
            raise UserError(
                f"only {len(self.here)} of the {need} members needed are online",
                f"start the nodes of {self.said(others - self.here)}",
            )

    def leave_out(self, number: int, complaints: tuple[bytes, ...], withheld: set[int]) -> None:
        """Decide whom the next attempt at a round leaves out, after complaints in earlier ones."""
        disputed = disputes.left_out(self._charter, complaints, self.here, withheld)
        self.left_out = tuple(sorted(self.out.union(disputed)))
        if complaints:
            names = self.said(disputed) or "nobody, too few would remain"
            log.warning("round %d: %s; left out: %s", number + 1, disputes.describe(self._charter, complaints), names)

    def judge(self) -> None:
        """After a burned round: who is out. Who parted comes back where a later dispute shows which of two it was."""
        known, self.out = self.out, burned.left_out(self._folder.attempts())
        if self.out - known:
            log.error("%s; left out of this run from now on: %s", self._why_out(), self.said(self.out - known))

    def said(self, members: Iterable[int]) -> str:
        """Members by name, in one line."""
        return ", ".join(self._names[index] for index in sorted(members))

    def enough_without(self, members: Collection[int]) -> bool:
        """Whether enough are left in the roster where these and those out take no part."""
        return len(self._names) - len(self.out.union(members)) >= self._charter.secagg.min_survivors

    def _why_out(self) -> str:
        """Who sits out the run, and what is known of them."""
        proven = burned.proven(self._folder.attempts())
        parted = self.out - proven
        said = [f"{self.said(proven)}: proven to have broken the protocol"] if proven else []
        said += [f"{self.said(parted)}: not all words about a spoiled round can be true"] if parted else []
        return "; ".join(said)
