"""A member's part in a round: check, reserve, train, guard, then the five calls of the secure aggregation.

Nothing here knows Flower: bytes in, bytes out. Every refusal is a code; its text stays in the node's own log. The order
is what protects the organization: the plan is checked before any budget is spent, the budget is on disk before the
first gradient, the noised contribution is on disk before its first message, and the round's secrets are stored before
the reply that depends on them.
"""

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from ..charter import policy as policies
from ..charter import signatures, signing
from ..charter.conformity import conforms
from ..charter.messages import hello_statement
from ..charter.refusal import Refusal
from ..privacy.adversaries import Event, reserve
from ..privacy.ledger import Ledger
from ..privacy.sampling import SystemRandomness
from ..secagg.admission import Expected, admit
from ..secagg.journal import FileJournal
from ..secagg.organization import Organization
from ..secagg.plan import Plan
from ..secagg.refused import Refused
from ..secagg.state import State
from ..strategies.agreed import encoding_of, model_hash, nominal_batch, schema_of, strategy_of
from ..strategies.base import Adapter, Vector
from ..training.guards import check_finite
from .chains import Chain
from .consistency import belongs, may_have_left, require_whole
from .history import follow, follow_last
from .home import Home, Pending
from .settings import load as load_settings
from .workbench import Workbench, prepare

log = logging.getLogger("cotune.client")
# What a box that is of no use is refused by.
_GROUNDS = ("share.seal", "share.range", "share.offer")
# Beyond every attempt.
_NO_ATTEMPT = 2**32
_ALONE = "data set %s shares no record or unit id with the %d data sets charged before: it has an account of its own"
_BENCHES: dict[str, tuple[object, Workbench]] = {}


class Member:
    """One organization's node under one charter, for the length of one message.

    Args:
        home: its folder; the caller holds its lock.

    Raises:
        UserError: the home is not usable. Refusal: the charter is not what this organization signed or allows.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self.settings = load_settings(home.settings)
        self.policy = policies.load(home.policy)
        self.charter = signatures.load_signed(home.charter, home.signatures)
        self.identity = signing.load_key(home.identity)
        self.roster = self.charter.roster()
        self._require_member()
        self.index = self.charter.index_of(self.settings.name)
        home.require_journal()
        self.journal = FileJournal(home.journal)
        require_whole(home, self.journal)
        self.strategy = strategy_of(self.charter)

    def _require_member(self) -> None:
        if all(member.name != self.settings.name for member in self.charter.members):
            raise Refusal(
                "charter.member", f"{self.settings.name} is not a member", "check this node's name and the charter"
            )

    def hello(self, statement: bytes) -> bytes:
        """Prove who this node is: the signature over the charter's digest and the coordinator's nonce.

        Raises:
            Refusal: "hello.charter" if the coordinator runs another charter.
        """
        digest, nonce = statement[:32].hex(), statement[32:]
        if digest != self.charter.digest():
            raise Refusal(
                "hello.charter", "the coordinator runs another charter than the one signed here", "compare the digests"
            )
        return self.identity.sign(hello_statement(digest, nonce))

    def begin(self, plan_message: bytes, adapter: Adapter, records: tuple[bytes, ...]) -> bytes:
        """Check a plan, train under it, and join the round.

        Args:
            plan_message: the coordinator's signed plan.
            adapter: the round's adapter, float32 [d].
            records: the round records since the last round that this node completed, oldest first.

        Returns:
            The ADVERT message.

        Raises:
            Refusal, secagg.Refused: the plan is not acceptable; nothing was spent.
            OverBudget: the ledger has no room for this round; nothing was spent.
        """
        plan = Plan.open(plan_message, self.roster)
        chain = follow(self.home.chain(plan.run.hex()), records, self.roster)
        expected = self._expected(plan, chain, adapter)
        admit(plan_message, self.roster, expected, self.journal)
        bench = self._workbench()
        own_key = signing.public_hex(self.identity)
        policies.check(self.charter, self.policy, self.settings.name, own_key, datetime.now(UTC), bench.units)
        chain = self._take_up(chain)
        # A newer plan ends the round before: its secrets must never mask this round's contribution.
        self.home.set_round_secrets(None)
        contribution = self._contribution(plan, adapter, bench)
        organization = Organization.begin(
            self.roster, self.index, self.identity, plan_message, replace(expected, now=int(time.time())), self.journal
        )
        # Behind the journal's entry, never before it: see `consistency`.
        self.home.set_chain(replace(chain, round=plan.round, attempt=plan.attempt))
        self.home.set_round_secrets(organization.dump())
        log.info("round %d attempt %d: joined with %d coordinates", plan.round + 1, plan.attempt + 1, len(contribution))
        return organization.advert

    def share(self, adverts: bytes) -> bytes:
        """P1: the sealed shares."""
        organization = self._organization()
        shares = organization.share(adverts)
        self.home.set_round_secrets(organization.dump())
        return shares

    def upload(self, inbox: bytes) -> tuple[bytes, np.ndarray | None]:
        """P2: the signed header and the masked words, uint64.

        With shared noise the contribution is deleted before its words leave: it must not be in two sums.

        Where a box of another member is of no use: the signed complaint, and no words. The pending contribution stays:
        it is charged, and the round's next attempt sends it.
        """
        organization, plan = self._round()
        contribution = self._own_contribution(plan)
        try:
            header, words = organization.mask(inbox, contribution, self.settings.threads)
        except Refused as refusal:
            if refusal.code not in _GROUNDS or refusal.member is None:
                raise
            return self._complain(organization, refusal), None
        self.home.set_round_secrets(organization.dump())
        if self.charter.privacy.shares is not None:
            self.home.set_pending(None)
        return header, words

    def _complain(self, organization: Organization, refusal: Refused) -> bytes:
        """Say whose box is of no use; this attempt's secrets are deleted before anybody hears it."""
        complaint = organization.complain(refusal)
        self.home.set_round_secrets(None)
        accused = self.charter.members[refusal.member or 0].name
        log.warning("complained of %s: %s; the contribution is kept for the next attempt", accused, refusal)
        return complaint

    def survive(self, survivors: bytes) -> bytes:
        """P3: the signature on the survivors."""
        organization = self._organization()
        signature = organization.survive(survivors)
        self.home.set_round_secrets(organization.dump())
        return signature

    def reveal(self, quorum: bytes) -> bytes:
        """P4: this node's shares. The round's secrets and the pending contribution are deleted."""
        organization = self._organization()
        revealed = organization.unmask(quorum)
        self.home.set_round_secrets(None)
        self.home.set_pending(None)
        return revealed

    def record(self, records: tuple[bytes, ...]) -> None:
        """P5: verify the last records and keep the transcript's head."""
        follow_last(self.home, records, self.roster)

    def _round(self) -> tuple[Organization, Plan]:
        """This node's part in the round in progress, and the round's plan."""
        secrets = self.home.round_secrets()
        if secrets is None:
            raise Refusal("round.none", "no round is in progress here", "wait for the next round")
        plan = Plan.open(State.decode(secrets).plan, self.roster)
        if not conforms(self.charter, plan):
            raise Refusal("round.charter", "the round in progress is under another charter", "wait for the next round")
        return Organization.load(secrets, self.roster, self.identity, self.journal), plan

    def _organization(self) -> Organization:
        return self._round()[0]

    def _own_contribution(self, plan: Plan) -> Vector:
        """The pending contribution, if it is of the round in progress.

        Another one means that one of the two files came back from a backup.
        """
        pending = self.home.pending()
        if pending is None or not belongs(pending, plan):
            raise Refusal("round.pending", "no contribution for this round is on disk", "wait for the next round")
        return pending.contribution

    def _take_up(self, chain: Chain) -> Chain:
        """Remember a new run before anything is spent on it, if the policy allows one more under this charter.

        A run stays under the charter that it was begun under: what was made under other terms is not for these.
        """
        known, digest = self.home.chains(), self.charter.digest()
        if chain.run in known:
            if chain.charter != digest:
                raise Refusal("plan.charter", "the run was begun under another charter", "let it begin a new run")
            return chain
        policies.check_runs(self.policy, sum(other.charter == digest for other in known.values()))
        begun = replace(chain, charter=digest)
        self.home.set_chain(begun)
        return begun

    def require_size(self, adapter: Adapter) -> None:
        """Refuse an adapter of another size than the charter's; called before a copy of it is made."""
        if adapter.shape != (schema_of(self.charter).dimension,):
            raise Refusal("plan.adapter", "the adapter has another size than the charter's", "update the coordinator")

    def _expected(self, plan: Plan, chain: Chain, adapter: Adapter) -> Expected:
        """What this node knows without the server."""
        schema = schema_of(self.charter)
        self.require_size(adapter)
        check_finite(adapter, "the coordinator's adapter")
        encoding = encoding_of(self.charter, self.strategy, schema, plan.round)
        agreed = self.charter.secagg
        if (plan.threshold, plan.min_survivors) != (agreed.threshold, agreed.min_survivors):
            # The roster's own rules hold whatever is agreed; members may have agreed on more.
            raise Refusal(
                "plan.secagg", "the plan opens sums on other terms than the charter", "update the coordinator"
            )
        if plan.round >= self.charter.rounds:
            raise Refusal("plan.rounds", "the charter plans fewer rounds", "agree on a charter with more rounds")
        return Expected(
            run=plan.run,
            # A round whose record was verified here is over, whoever signed in it.
            last=max(self.journal.last(plan.run), (chain.verified, _NO_ATTEMPT)),
            model_hash=model_hash(self.charter, adapter),
            schema_hash=self.charter.schema_hash(),
            dp_hash=self.charter.dp_hash(),
            dimension=encoding.dimension,
            encoding=encoding,
            prev_head=bytes.fromhex(chain.head),
            now=int(time.time()),
        )

    def _workbench(self) -> Workbench:
        """The data and the trainer, kept for the life of this process while everything that they follow from stays."""
        place, data = str(self.home.path), self.policy.data
        file = data.stat() if data.exists() else None
        facts = (
            self.charter.digest(),
            self.policy.model_dump_json(),
            self.settings.model_dump_json(),
            None if file is None else (file.st_mtime_ns, file.st_size, file.st_ino),
        )
        if place not in _BENCHES or _BENCHES[place][0] != facts:
            _BENCHES.pop(place, None)  # two base models need twice the memory
            _BENCHES[place] = facts, prepare(self.charter, self.settings, self.policy, self.home.cache)
        return _BENCHES[place][1]

    def _contribution(self, plan: Plan, adapter: Adapter, bench: Workbench) -> Vector:
        """This round's noised contribution: the one on disk if an earlier attempt made it, else a new one.

        Sending the same noised vector in another attempt costs no budget: it is the same release. Where the noise is
        shared it would not be: two sums that hold the same share tell more than each. `upload` then keeps none.
        """
        run, pending, shared = plan.run.hex(), self.home.pending(), self.charter.privacy.shares is not None
        if pending is not None and belongs(pending, plan) and not (shared and may_have_left(pending, self.journal)):
            return pending.contribution
        if pending is not None and (pending.run, pending.round, pending.attempt) == (run, plan.round, plan.attempt):
            # Its charge is used up: an old copy of the file would bring it back beside the second one.
            raise Refusal("round.pending", "this attempt was trained for another model", "wait for the next attempt")
        self._reserve(plan, bench)
        own = nominal_batch(self.charter, self.settings.name)
        terms = self.charter.privacy
        trained = self.strategy.local(bench.trainer, adapter, terms, own, SystemRandomness())
        contribution = self._checked(trained, plan)
        about = (run, plan.round, plan.attempt, plan.model_hash.hex(), plan.schema_hash.hex())
        self.home.set_pending(Pending(*about, contribution))
        return contribution

    def _reserve(self, plan: Plan, bench: Workbench) -> None:
        terms = self.charter.privacy
        if not terms.enabled:
            return
        ledger = Ledger(self.home.ledger)
        ledger.require_charged(plan.run.hex(), self._rounds_seen(plan.run))
        event = Event(bench.holdings, self.charter.digest(), plan.run.hex(), plan.round, plan.attempt)
        budget = min(terms.epsilon, self.policy.max_epsilon)
        strangers = ledger.strangers(event.data)
        reserve(ledger, terms, event, self.strategy.steps_per_round, budget)
        if strangers:
            log.warning(_ALONE, event.data.name[:12], strangers)

    def _rounds_seen(self, run: bytes) -> set[int]:
        """The newest rounds of a run that this home remembers outside its ledger: by its journal and by its chain."""
        newest = {self.journal.last(run)[0], self.home.chain(run.hex()).round}
        return newest - {-1}

    def _checked(self, trained: Vector, plan: Plan) -> Vector:
        """Did it really train: finite and not zero; then the fraction that the encoding will cut."""
        check_finite(trained, "the trained contribution")
        lengths = [length for length, _ in plan.encoding.segments[:-1]]
        bounds = np.repeat([clip for _, clip in plan.encoding.segments[:-1]], lengths)
        if not trained[: lengths[0]].any():
            raise Refusal(
                "round.unmoved", "training changed nothing although budget was spent", "check the LoRA targets"
            )
        saturated = float(np.mean(np.abs(trained) > bounds))
        if self.charter.privacy.shares is not None and saturated:
            # The range holds every number of a run but for a chance that nobody meets: this is a fault.
            raise Refusal("round.range", "a number is outside the encoding's range", "look for what trained here")
        return np.concatenate([trained, [saturated]])
