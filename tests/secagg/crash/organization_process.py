"""An organization's node without training: the steps of `client.participation.Member` around the same files."""

import io
import os
from dataclasses import replace
from typing import Any

import lifetimes
import numpy as np
from cotune.client.chains import Chain
from cotune.client.consistency import belongs, require_whole
from cotune.client.home import NodeHome
from cotune.client.pending import Pending
from cotune.secagg.admission import admit
from cotune.secagg.identity import HybridIdentity, Identity
from cotune.secagg.journal import FileJournal
from cotune.secagg.organization import Organization
from cotune.secagg.plan import Plan
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


def identity_of(curve: bytes, *lattice: bytes) -> Identity:
    own = Ed25519PrivateKey.from_private_bytes(curve)
    return HybridIdentity(own, MLDSA65PrivateKey.from_seed_bytes(lattice[0])) if lattice else own


def contribution(home: NodeHome, plan: Plan) -> np.ndarray:
    """As a node does it: the one on disk for this round and model, else a new one, different each time it is made."""
    pending = home.pending()
    if pending is None or not belongs(pending, plan):
        noised = np.random.default_rng(list(os.urandom(16))).uniform(-1, 1, plan.encoding.dimension)
        hashes = (plan.model_hash.hex(), plan.schema_hash.hex())
        pending = Pending(plan.run.hex(), plan.round, plan.attempt, *hashes, noised)
        home.set_pending(pending)
    return pending.contribution


def begin(home: NodeHome, journal: FileJournal, life: dict[str, Any]) -> Organization:
    plan = Plan.open(life["message"], life["roster"])
    expected = replace(life["expected"], last=journal.last(plan.run))
    admit(life["message"], life["roster"], expected, journal)
    chain = home.chains().get(plan.run.hex(), Chain(plan.run.hex()))
    chain = replace(chain, head=plan.prev_head.hex())
    if chain.run not in home.chains():
        home.set_chain(chain)
    home.set_round_secrets(None)
    contribution(home, plan)
    identity = identity_of(*life["identity"])
    organization = Organization.begin(life["roster"], 0, identity, life["message"], expected, journal)
    home.set_chain(replace(chain, round=plan.round, attempt=plan.attempt))
    return organization


def handle(life: dict[str, Any]) -> Any:
    home = NodeHome(life["home"])
    with home.locked():
        journal = FileJournal(home.journal)
        require_whole(home, journal)
        if life["phase"] == 0:
            organization = begin(home, journal, life)
            reply: Any = organization.advert
        else:
            dump = home.round_secrets()
            if dump is None:
                raise LookupError("no round is in progress")
            organization = Organization.load(dump, life["roster"], identity_of(*life["identity"]), journal)
            pending = home.pending()
            if life["phase"] == 2 and pending is None:
                raise LookupError("no contribution")
            step = (organization.share, organization.mask, organization.survive, organization.unmask)[life["phase"] - 1]
            reply = step(life["message"], pending.contribution) if life["phase"] == 2 else step(life["message"])
        home.set_round_secrets(None if life["phase"] == 4 else organization.dump())
        home.set_chain(replace(home.chain(), signed=journal.size()))
        if life["phase"] == 4:
            home.set_pending(None)
        plan = organization._plan
        return reply, (plan.run, plan.round, plan.attempt), organization.context


def warm_up() -> None:
    """Load what a life would load, so that every child finds it."""
    key, box = Ed25519PrivateKey.generate(), io.BytesIO()
    key.public_key().verify(key.sign(b""), b"")
    X25519PrivateKey.generate().exchange(X25519PrivateKey.generate().public_key())
    np.savez(box, noised=np.random.default_rng().uniform(size=2))
    np.load(io.BytesIO(box.getvalue()))["noised"].tobytes()


if __name__ == "__main__":
    warm_up()
    lifetimes.serve(handle)
