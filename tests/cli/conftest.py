"""A run of four organizations through the state machines, without Flower and without a model."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cotune.charter import charter as charters
from cotune.charter.charter import Charter, Member
from cotune.charter.signing import new_key, public_hex
from cotune.charter.terms import ModelTerms, SecAggTerms, StrategyTerms
from cotune.cli.app import main
from cotune.client.chains import Chain
from cotune.client.home import NodeHome
from cotune.enrollment import node_settings as nodes
from cotune.enrollment.node_settings import NodeSettings
from cotune.privacy.terms import PrivacyTerms
from cotune.secagg.admission import Expected
from cotune.secagg.coordinator import Coordinator, RoundSum
from cotune.secagg.encoding import Encoding
from cotune.secagg.journal import FileJournal, Journal
from cotune.secagg.merkle import PIECE_WORDS
from cotune.secagg.organization import Organization
from cotune.secagg.plan import Plan
from cotune.secagg.record import RoundRecord, genesis
from cotune.secagg.transcript import encode
from cotune.secagg.wire import peek
from cotune.server.audit_window import AuditWindow
from cotune.server.measured import Measured
from cotune.server.run_directory import Committed, RunDirectory
from cotune.strategies.base import ServerState
from cotune.training.source import LocalModel

NAMES = ("alder", "birch", "cedar", "dogwood")
# Three pieces, the last one short.
ENCODING = Encoding(((4 * (2 * PIECE_WORDS + 50), 1.0),), 4, 16)
ROUNDS = 3


class Forgetful:
    """The journal of a node that was restored from an old copy: it may sign another history."""

    def record(self, run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> None:
        pass

    def survived(self, run: bytes, round: int) -> bool:
        return False


@dataclass
class Consortium:
    """Four organizations with homes, and a coordinator's run directory of three rounds."""

    root: Path
    charter: Charter
    keys: list[Any]
    coordinator: Any
    homes: list[NodeHome]

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def file(self) -> Path:
        return self.root / "charter.yaml"

    def play(self, number: int, head: bytes, gone: int, journals: Sequence[Journal] = (Forgetful(),) * 4) -> RoundSum:
        """One round in which member `gone` does not upload."""
        run_id = RunDirectory(self.run, self.charter.digest()).run_id
        roster, hashes = self.charter.roster(), (b"m" * 32, self.charter.schema_hash(), self.charter.dp_hash())
        plan = Plan(run_id, number, 0, roster.hash, roster.indices, 3, 3, *hashes, ENCODING, 2_000, head)
        server = Coordinator(roster, plan, self.coordinator)
        facts = Expected(run_id, (number - 1, 0), *hashes, ENCODING.dimension, ENCODING, head, 1_000, 2_000)
        nodes = [
            Organization.begin(roster, i, key, server.plan_message, facts, journals[i])
            for i, key in enumerate(self.keys)
        ]
        for i, node in enumerate(nodes):
            assert server.add_advert(i, node.advert)
        adverts = server.close_adverts()
        for i, node in enumerate(nodes):
            assert server.add_shares(i, node.share(adverts))
        window, here = AuditWindow(self.run, 2), [i for i in range(4) if i != gone]
        window.begin(plan)
        for i, inbox in server.close_shares().items():
            if i != gone:
                header, words = nodes[i].mask(inbox, np.full(ENCODING.dimension, (i + 1) / 8))
                assert server.add_upload(i, header, words)
                window.add(number, i, words)
        survivors = server.close_uploads()
        for i in here:
            assert server.add_survival(i, nodes[i].survive(survivors))
        quorum = server.close_survival()
        for i in here:
            assert server.add_reveal(i, nodes[i].unmask(quorum))
        return server.result()

    def commit(self, number: int, total: RoundSum) -> None:
        folder = RunDirectory(self.run, self.charter.digest())
        window = AuditWindow(self.run, 2)
        window.keep(number, total.words)
        state = ServerState((number,), {})
        folder.commit(Committed(number, np.zeros(2, np.float32), state, total.head.hex(), (), Measured(), total.record))
        window.forget(folder.recorded())

    def forge(self, number: int, change: Callable[[RoundRecord], dict[str, Any]]) -> bytes:
        """The record of a round, changed and signed again."""
        path = self.run / "rounds" / f"{number:04d}" / "record.bin"
        record = RoundRecord.decode(peek(path.read_bytes())[0])
        return replace(record, **change(record)).sign(self.coordinator)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    root = tmp_path_factory.mktemp("consortium")
    homes = [NodeHome.create(root / name) for name in NAMES]
    keys, coordinator = [new_key(home.identity) for home in homes], new_key(root / "coordinator.key")
    charter = charter_of([public_hex(key) for key in keys], public_hex(coordinator))
    charters.save(charter, root / "charter.yaml")
    made = Consortium(root, charter, keys, coordinator, homes)
    folder = RunDirectory(made.run, charter.digest())
    head = genesis(folder.run_id, charter.roster())
    journals: list[Journal] = [FileJournal(home.journal) for home in homes]
    for number in range(ROUNDS):
        total = made.play(number, head, number, journals)
        made.commit(number, total)
        head = total.head
    for name, home in zip(NAMES, homes, strict=True):
        charters.save(charter, home.charter)
        model = LocalModel(
            name="tiny", revision=None, gguf_file=None, package=None, sha256=None, device="cpu", dtype="float32"
        )
        own = NodeSettings(
            name=name, model=model, cache=root, cache_features=False, physical_batch_tokens=64, threads=1
        )
        nodes.save(own, home.settings)
        home.set_chain(Chain(folder.run_id.hex(), head.hex(), ROUNDS - 1, 0))
        home.identity.unlink()  # nothing here may need a secret key
    (root / "coordinator.key").unlink()
    (root / "transcript.bin").write_bytes(encode(folder.records(-1)))
    return made


@pytest.fixture
def copied(consortium: Consortium, tmp_path: Path) -> Path:
    """A copy of the run directory, to be tampered with."""
    return Path(shutil.copytree(consortium.run, tmp_path / "run"))


@pytest.fixture
def said(consortium: Consortium, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    """said("verify", FILE, ...): the exit code, and what was printed, by line; the charter is given."""

    def call(verb: str, *words: object, charter: Path | None = None) -> tuple[int, list[str]]:
        with pytest.raises(SystemExit) as ended:
            main(["transcript", verb, *map(str, words), "--charter", str(charter or consortium.file)])
        shown = capsys.readouterr()
        if ended.value.code == 2:
            assert len(shown.err.splitlines()) == 1
        return int(ended.value.code or 0), (shown.out + shown.err).splitlines()

    return call


def charter_of(public: list[str], coordinator: str) -> Charter:
    digest = "ab" * 32
    return Charter(
        federation="forest",
        epoch=1,
        members=tuple(Member(name=n, public_key=key, nominal_units=9) for n, key in zip(NAMES, public, strict=True)),
        coordinator=coordinator,
        model=ModelTerms(
            name="tiny",
            base_digest=digest,
            tokenizer_digest=digest,
            rank=2,
            alpha=4.0,
            targets=("q_proj",),
            rslora=False,
            top_layers=0,
            context_length=64,
            adapter_schema=(("a", (2, 4)),),
            schema_digest="37a62a9975aafc2a04573031794ceaf5c3b8de579a5a3403d8ed2f71d211948f",
            initial_seed=1,
        ),
        strategy=StrategyTerms(target="cotune.strategies.fedavg.FedAvg", settings={"local_steps": 2}),
        rounds=ROUNDS,
        privacy=PrivacyTerms(True, "patient", 8.0, 1e-3, 1.0, 1.0, 0.25, 4, 10.0, 0.1),
        secagg=SecAggTerms(
            suite="classic",
            lane_bits=16,
            range_sigmas=6.0,
            threshold=3,
            min_survivors=3,
            deadline_seconds=60.0,
            audit_rounds=2,
            check_fraction=0.1,
            check_probability=0.99,
        ),
        not_before="2026-01-01T00:00:00Z",
        not_after="2027-01-01T00:00:00Z",
    )
