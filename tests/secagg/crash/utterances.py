"""What left an organization, and what it must never have said."""

import pickle
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cotune.secagg.messages import Advert, Reveal, Rooted, Shares, open_member
from cotune.secagg.roster import Roster
from cotune.secagg.wire import digest, peek

KINDS = ("advert", "shares", "upload", "survive", "reveal")
DECODERS = (Advert, Rooted, Rooted, Rooted, Reveal)


@dataclass
class Left:
    """Every message that ever left the organization, held against what it must never have said."""

    roster: Roster
    journal: Path
    bodies: dict[tuple[object, ...], set[bytes]] = field(default_factory=lambda: defaultdict(set))
    keys: dict[bytes, bytes] = field(default_factory=dict)
    masked: dict[bytes, set[bytes]] = field(default_factory=lambda: defaultdict(set))
    opened: dict[tuple[object, ...], dict[int, set[str]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )

    def add(self, phase: int, where: tuple[bytes, int, int], ctx2: bytes, reply: Any) -> None:
        """Check one message as soon as it is out."""
        kind = KINDS[phase]
        envelope = Shares.decode(reply).root if phase == 1 else reply[0] if phase == 2 else reply
        message = open_member(kind, envelope, DECODERS[phase].decode, self.roster)
        body = peek(envelope)[0]
        assert digest(kind, body).hex() in self.durable(), "a message left before its statement was durable"
        self.bodies[(*where[:2], "any") if kind == "survive" else (*where, kind)].add(body)
        if phase == 0:
            for key in (message.mask_key, message.channel_key, message.commitment):
                assert self.keys.setdefault(key, body) == body, "a key in two adverts"
        if phase == 1:
            self.masked[b"boxes" + message.context].add(reply)
        if phase == 2:
            self.masked[ctx2].add(reply[1].tobytes())
        if phase == 4:
            for owner, _ in message.self_shares:
                self.opened[where[:2]][owner].add("b")
            for owner, _ in message.mask_shares:
                self.opened[where[:2]][owner].add("mk")
        self.check()

    def durable(self) -> str:
        """The journal as a power cut would leave it."""
        shadow = self.journal.parent.parent / "shadow"
        names = pickle.loads((shadow / "names").read_bytes())
        content = shadow / str(names.get(self.journal.name))
        return content.read_text() if content.exists() else ""

    def check(self) -> None:
        assert all(len(bodies) == 1 for bodies in self.bodies.values()), "two statements under one name"
        assert all(len(words) == 1 for words in self.masked.values()), "one key over two texts"
        shares = [kinds for owners in self.opened.values() for kinds in owners.values()]
        assert all(len(kinds) == 1 for kinds in shares), "shares of both secrets of one organization"
