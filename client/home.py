"""An organization's home as its node works: beside what it set up and signed (`enrollment.home`), what rounds leave.

ledger.sqlite       epsilon spent, and digests of what was trained on; append-only
ledger.sqlite.head  how far the ledger had come, so that an older copy of it is found
journal             hashes of everything this node signed in its rounds
chains.json         for every run: head of the transcript it last verified, last round and attempt it took part in
model.bin           the consortium's model, as this node computed it from the sums
sum.bin             the last sum, until it is spot-checked
check.key           what this node's choice of spot checks follows from; never sent
evidence-*.bin      proof that the coordinator signed a false sum: no part is taken in that run any more
round.bin           secrets of the round in progress; what is left of them is deleted when the round has a record
personal.bin        the model after this node's personal steps; never sent
sent.bin            the sum of its noised contributions to the later rounds, for an adapter of its own; never sent
personal/           its own adapter for PEFT, made by steps or of that sum
pending.npz         this round's noised contribution, sent again if the attempt is retried
node.log            why something was refused; never sent
lock                held while a message is handled
cache/              hidden states of the frozen layers, over private records

All of them are plain files of the user who runs the node, or of root, never links. Nobody else may write charter,
signatures, policy and settings, and nobody else may use any of the others.
"""

import fcntl
import os
import secrets
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import private_files
from ..atomic import replace_bytes, sync_folder, write_bytes
from ..enrollment.home import FILES, Home
from ..errors import UserError
from ..private_files import PRIVATE
from .chains import Chain, decode, encode, with_chain
from .pending import Pending

CHAINS, ROUND, PENDING = "chains.json", "round.bin", "pending.npz"
MODEL, SUM, CHECK_KEY, PERSONAL, SENT = "model.bin", "sum.bin", "check.key", "personal.bin", "sent.bin"
CHECK_KEY_BYTES = 32
_LOCK, _CACHE, _PERSONAL = "lock", "cache", "personal"
# `chains.MOST_RUNS` chains of `chains.SEEN` heads are 7 MB of JSON; a round's secrets grow with the members.
_MOST_CHAINS, _MOST_SECRETS = 2**23, 2**28
# A dozen bytes and more for each of `charter.messages.MAX_WORDS` parameters; its exact length follows from the charter.
MOST_MODEL_BYTES = 2**38
# The bits that each file must not have.
_FILES = {
    **FILES,
    "ledger.sqlite": PRIVATE,
    "ledger.sqlite-journal": PRIVATE,
    "ledger.sqlite.head": PRIVATE,
    "journal": PRIVATE,
    CHAINS: PRIVATE,
    ROUND: PRIVATE,
    PENDING: PRIVATE,
    MODEL: PRIVATE,
    SUM: PRIVATE,
    CHECK_KEY: PRIVATE,
    PERSONAL: PRIVATE,
    SENT: PRIVATE,
    "node.log": PRIVATE,
    _LOCK: PRIVATE,
}


class NodeHome(Home):
    """The folder of a node at work. Every write is atomic; `locked` keeps two processes of one node apart."""

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.sqlite"

    @property
    def log(self) -> Path:
        return self.path / "node.log"

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def cache(self) -> Path:
        return self._folder(_CACHE)

    @property
    def personal_folder(self) -> Path:
        """Where the personal adapter lies as PEFT reads it."""
        return self._folder(_PERSONAL)

    def _folder(self, name: str) -> Path:
        folder = self.path / name
        with _one_line(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def require_own(self) -> None:
        """Check every file that a node keeps here: plain, this user's or root's, closed to others.

        Raises:
            UserError: one is not; it names the file and how to mend it.
        """
        for name, closed in _FILES.items():
            private_files.require_file(self.path / name, closed)
        for proof in self.path.glob("evidence-*.bin"):
            private_files.require_file(proof)
        for folder in (self.path / _CACHE, self.path / _PERSONAL):
            if private_files.require_folder(folder):
                for file in folder.iterdir():
                    private_files.require_file(file)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the node's lock: one message at a time, whatever the other side sends."""
        with _one_line(self.path / _LOCK):
            descriptor = private_files.open_file(self.path / _LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self.require_own()
            self._clear_unfinished()
            yield
        finally:
            os.close(descriptor)

    def _clear_unfinished(self) -> None:
        """Delete what a killed process had begun to write beside its place: it may hold secrets of a round."""
        for name in (CHAINS, ROUND, PENDING, MODEL, SUM, CHECK_KEY, PERSONAL, SENT):
            for file in self.path.glob(f".{name}.*"):
                file.unlink()

    def _write(self, name: str, content: bytes) -> None:
        with _one_line(self.path / name):
            write_bytes(self.path / name, content, 0o600)

    def _delete(self, name: str) -> None:
        with _one_line(self.path / name):
            (self.path / name).unlink(missing_ok=True)
            sync_folder(self.path)

    def require_journal(self) -> None:
        """Refuse to go on without the memory of what was signed: a node that took part in a round has a journal.

        Raises:
            UserError: it is gone; an empty one would let the node sign everything again.
        """
        if self.chains() and not self.journal.exists():
            raise UserError(f"{self.journal}: the round journal is gone", "restore it, or set up a node with a new key")

    def chains(self) -> dict[str, Chain]:
        """Where the node stands in every run that it has seen, by run id; the one changed last comes last.

        Raises:
            UserError: the file is not one that `set_chain` wrote. No crash does that: it is replaced as a whole.
        """
        file = self.path / CHAINS
        try:
            return decode(private_files.read_file(file, _MOST_CHAINS))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, RecursionError, OSError):
            raise UserError(
                f"{file} cannot be read", "restore it; the node takes part in no round without it"
            ) from None

    def chain(self, run: str | None = None) -> Chain:
        """Where the node stands in a run, by default the one changed last; without a head if it has not seen it."""
        chains = self.chains()
        if run is None:
            return list(chains.values())[-1] if chains else Chain()
        return chains.get(run, Chain(run=run))

    def set_chain(self, chain: Chain) -> None:
        """Keep where the node stands in a run; the other runs stay.

        Raises:
            UserError: the run is new, and this node has seen too many.
        """
        self._write(CHAINS, encode(with_chain(self.chains(), chain)))

    def set_signed(self, secrets: bytes, chain: Chain) -> None:
        """`set_round_secrets` and `set_chain` for one answer: when it returns both are durable.

        After a power cut before that either may be the old one, and no answer has left. Secrets that are older than the
        journal are of no use, chains that are older are a kill between the journal's entry and the answer.
        """
        content = encode(with_chain(self.chains(), chain))
        with _one_line(self.path / ROUND):
            replace_bytes(self.path / ROUND, secrets, 0o600)
        self._write(CHAINS, content)

    def round_secrets(self) -> bytes | None:
        return self._read(ROUND, _MOST_SECRETS)

    def set_round_secrets(self, secrets: bytes | None) -> None:
        """Keep the secrets of the round in progress, or delete them."""
        if secrets is None:
            self._delete(ROUND)
        else:
            self._write(ROUND, secrets)

    def model(self) -> bytes | None:
        """What `set_model` kept."""
        return self._read(MODEL, MOST_MODEL_BYTES)

    def set_model(self, content: bytes) -> None:
        """Keep the consortium's model; see `following`."""
        self._write(MODEL, content)

    def personal(self) -> bytes | None:
        """What `set_personal` kept."""
        return self._read(PERSONAL, MOST_MODEL_BYTES)

    def set_personal(self, content: bytes) -> None:
        """Keep the model after a personal step; see `personal`."""
        self._write(PERSONAL, content)

    def sent(self) -> bytes | None:
        """What `set_sent` kept."""
        return self._read(SENT, MOST_MODEL_BYTES)

    def set_sent(self, content: bytes) -> None:
        """Keep what this node has contributed; see `sent`."""
        self._write(SENT, content)

    def sum(self) -> bytes | None:
        """The words of the last sum, until it is checked."""
        return self._read(SUM, MOST_MODEL_BYTES)

    def set_sum(self, words: bytes | None) -> None:
        """Keep the words of the last sum, or delete them."""
        if words is None:
            self._delete(SUM)
        else:
            self._write(SUM, words)

    def check_key(self) -> bytes:
        """32 bytes that nobody else knows, made once."""
        known = self._read(CHECK_KEY, CHECK_KEY_BYTES + 1)
        if known is None:
            known = secrets.token_bytes(CHECK_KEY_BYTES)
            self._write(CHECK_KEY, known)
        if len(known) != CHECK_KEY_BYTES:
            raise UserError(f"{self.path / CHECK_KEY}: not {CHECK_KEY_BYTES} bytes", "restore it, or delete it")
        return known

    def evidence(self, run: str) -> Path:
        """Where proof of a false sum in a run is kept."""
        return self.path / f"evidence-{run}.bin"

    def set_evidence(self, run: str, proof: bytes) -> None:
        """Keep a proof that the coordinator signed a false sum."""
        self._write(self.evidence(run).name, proof)

    def _read(self, name: str, most: int) -> bytes | None:
        """The content of a file of this home, None where it is not there."""
        with _one_line(self.path / name):
            try:
                return private_files.read_file(self.path / name, most)
            except FileNotFoundError:
                return None

    def pending(self) -> Pending | None:
        """The contribution on disk, if there is one.

        Raises:
            UserError: the file is not one that this version wrote. No crash does that: it is replaced as a whole.
        """
        file = self.path / PENDING
        with _one_line(file):
            try:
                descriptor = private_files.open_file(file, os.O_RDONLY)
            except FileNotFoundError:
                return None
        try:
            with os.fdopen(descriptor, "rb") as opened:
                return Pending.read(opened)
        except (ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile):
            raise UserError(f"{file} cannot be read", "delete it; the round is trained and charged once more") from None

    def set_pending(self, pending: Pending | None) -> None:
        if pending is None:
            self._delete(PENDING)
            return
        self._write(PENDING, pending.encoded())


@contextmanager
def _one_line(file: Path) -> Iterator[None]:
    """A full or failing disk is for the organization to mend, not a bug."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}", "free disk space or make its folder writable") from error
