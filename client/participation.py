"""A member's part in a round: check, reserve, train, then the calls of the secure aggregation.

Nothing here knows Flower: bytes in, bytes out. Every refusal is a code; its text stays in the node's own log. The order
is what protects the organization: the plan is checked before any budget is spent, the budget is on disk before the
first gradient, the noised contribution is on disk before its first message, and the round's secrets are stored before
the reply that depends on them.
"""

import logging
import math
import time
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from ..charter import policy as policies
from ..charter import signing
from ..charter.conformity import conforms
from ..charter.messages import hello_statement
from ..charter.refusal import Refusal
from ..secagg.admission import Expected, admit
from ..secagg.organization import Organization
from ..secagg.plan import Plan
from ..secagg.record import genesis
from ..secagg.refused import Refused
from ..secagg.state import State
from ..strategies.derived import encoding_of, limits_of, schema_of
from ..strategies.model import Model, model_hash
from ..training.capacity import require_disk
from .chains import Chain
from .contribution import AtLeast
from .contributor import Contributor
from .workbench import Workbench, logged, prepare

log = logging.getLogger("cotune.client")
# What a box that is of no use is refused by.
_GROUNDS = ("share.seal", "share.range", "share.offer")
# Beyond every attempt.
_NO_ATTEMPT = 2**32
# Seconds by which a coordinator's clock may be ahead of this one.
_CLOCKS_APART = 600
# The contribution beside its place, what was contributed before, and the round's other files.
_FILES, _FLOAT_BYTES = 4, 8
_BENCHES: dict[str, tuple[object, Workbench]] = {}


class Member(Contributor):
    """A node that takes part in a round."""

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

    def begin(self, plan_message: bytes) -> bytes:
        """Check a plan, train under it, and join the round.

        All that can refuse does so before the charge. After it an advert goes out, whatever the data and the adapter
        are: see `contribution`.

        Args:
            plan_message: the coordinator's signed plan.

        Returns:
            The ADVERT message.

        Raises:
            Refusal, secagg.Refused: the plan is not acceptable; nothing was spent.
            OverBudget: the ledger has no room for this round; nothing was spent.
        """
        plan = Plan.open(plan_message, self.roster)
        chain = self._standing(plan)
        model = self.following.require_model(chain)
        expected = self._expected(plan, chain, model)
        admit(plan_message, self.roster, expected, self.journal)
        with AtLeast(self.settings.least_step_seconds):
            own_key = signing.public_hex(self.identity)
            policies.check(self.charter, self.policy, self.settings.name, own_key, datetime.now(UTC))
            bench = self._workbench()
            policies.check_units(self.charter, self.settings.name, bench.units)
            sent_again = self._is_sent_again(plan)
            if not sent_again:
                self._require_unspoiled(chain)
            require_disk(_FILES * plan.encoding.dimension * _FLOAT_BYTES, self.home.path, "a round's contribution")
            chain = self.take_up(chain)
            # A newer plan ends the round before: its secrets must never mask this round's contribution.
            self.home.set_round_secrets(None)
            if not sent_again:
                self._contribute(plan, model.adapter, bench)
            self._remember(plan)
        organization = Organization.begin(self.roster, self.index, self.identity, plan_message, expected, self.journal)
        # Behind the journal's entry, never before it: see `consistency`.
        self._signed(organization, replace(self.home.chain(chain.run), round=plan.round, attempt=plan.attempt))
        log.info("round %d attempt %d: joined", plan.round + 1, plan.attempt + 1)
        return organization.advert

    def share(self, adverts: bytes) -> bytes:
        """P1: the sealed shares."""
        organization = self._organization()
        shares = organization.share(adverts)
        self._signed(organization)
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
            # Only what has noise of its own may ever be opened by itself.
            alone = self.charter.privacy.enabled and self.charter.privacy.shares is None
            header, words = organization.mask(inbox, contribution, self.settings.threads, keep_seeds=alone)
        except Refused as refusal:
            if refusal.code not in _GROUNDS or refusal.member is None:
                raise
            return self._complain(organization, refusal), None
        self._signed(organization)
        if self.charter.privacy.shares is not None:
            self.home.set_pending(None)
        return header, words

    def _complain(self, organization: Organization, refusal: Refused) -> bytes:
        """Say whose box is of no use; this attempt's secrets are deleted before anybody hears it."""
        complaint = organization.complain(refusal)
        self._signed(organization)
        self.home.set_round_secrets(None)
        accused = self.charter.members[refusal.member or 0].name
        log.warning("complained of %s: %s; the contribution is kept for the next attempt", accused, refusal)
        return complaint

    def survive(self, survivors: bytes) -> bytes:
        """P3: the signature on the survivors."""
        organization = self._organization()
        signature = organization.survive(survivors)
        self._signed(organization)
        return signature

    def reveal(self, quorum: bytes) -> bytes:
        """P4: this node's shares. The pending contribution is deleted; of the round's secrets only those are left that
        open a piece which does not decode.
        """
        organization = self._organization()
        revealed = organization.unmask(quorum)
        self._signed(organization)
        self.home.set_pending(None)
        return revealed

    def open(self, opening: bytes) -> bytes:
        """After P4, where a piece of the sum does not decode: the masks of this piece alone, and the round is over."""
        organization, plan = self._round()
        if plan.round <= self.home.chain(plan.run.hex()).verified:
            raise Refusal("round.over", "this round has a record", "wait for the next round")
        limits = limits_of(self.charter, self.strategy, schema_of(self.charter), plan.round)
        opened = organization.open(opening, limits)
        self._signed(organization)
        log.warning("round %d: its sum does not decode; opened one piece to find who spoiled it", plan.round + 1)
        return opened

    def _signed(self, organization: Organization, chain: Chain | None = None) -> None:
        """Keep the round's secrets, and how long the journal is: neither may come back from before this signature.

        Args:
            chain: of the round's run, by default the one changed last.
        """
        self.home.set_signed(organization.dump(), replace(chain or self.home.chain(), signed=self.journal.size()))

    def _round(self) -> tuple[Organization, Plan]:
        """This node's part in the round in progress, and the round's plan."""
        secrets = self.home.round_secrets()
        if secrets is None:
            raise Refusal("round.none", "no round is in progress here", "wait for the next round")
        plan = Plan.open(State.decode(secrets).plan, self.roster)
        if not conforms(self.charter, plan):
            raise Refusal("round.charter", "the round in progress is under another charter", "wait for the next round")
        self.require_honest(plan.run.hex())
        return Organization.load(secrets, self.roster, self.identity, self.journal), plan

    def _organization(self) -> Organization:
        return self._round()[0]

    def _standing(self, plan: Plan) -> Chain:
        """Where this node stands in the plan's run; it goes on only from a sum that it has checked.

        Raises:
            Refusal: "run.false_sum", "record.unchecked".
        """
        chain = self.home.chain(plan.run.hex())
        self.require_honest(chain.run)
        if not chain.head:
            chain = replace(chain, head=genesis(plan.run, self.roster).hex())
        if chain.checked < chain.verified:
            raise Refusal("record.unchecked", "the last sum was not checked yet", "wait for its pieces")
        return chain

    def _expected(self, plan: Plan, chain: Chain, model: Model) -> Expected:
        """What this node knows without the server."""
        schema, agreed, now = schema_of(self.charter), self.charter.secagg, int(time.time())
        encoding = encoding_of(self.charter, self.strategy, schema, plan.round)
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
            model_hash=model_hash(self.charter, model),
            schema_hash=self.charter.schema_hash(),
            dp_hash=self.charter.dp_hash(),
            dimension=encoding.dimension,
            encoding=encoding,
            prev_head=bytes.fromhex(chain.head),
            now=now,
            latest=now + math.ceil(agreed.deadline_seconds) + _CLOCKS_APART,
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
            _BENCHES[place] = (
                facts,
                prepare(self.charter, self.settings, self.policy, self.home.cache, self.home.basis, logged()),
            )
        return _BENCHES[place][1]
