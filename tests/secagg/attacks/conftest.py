"""What every attack needs: a coordinator that lies with its genuine key, checks that can be switched off, a thief."""

import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cotune.secagg import keys, masking, shamir
from cotune.secagg.collecting import Step
from cotune.secagg.control import CONTROL_WORDS, check_control
from cotune.secagg.messages import Inbound, decode_inbox, decode_list, encode_inbox, encode_list
from cotune.secagg.recovery import agreements
from cotune.secagg.refused import Refused
from cotune.secagg.wire import peek, seal
from numpy.typing import NDArray


class HostileServer:
    """An honest coordinator's messages, rewritten and signed again; and what can be made of all that a server sees."""

    def __init__(self, federation: Any) -> None:
        self.fed = federation

    def bundle(self, kind: str, context: bytes, *envelopes: bytes) -> bytes:
        """A bundle of the server's own making."""
        return seal(kind, encode_list(context, envelopes), self.fed.coordinator_key)

    def relist(self, kind: str, bundle: bytes, change: Callable[[list[bytes]], object]) -> bytes:
        """The bundle of adverts, survivors or quorum with its envelopes changed in place."""
        context, envelopes = decode_list(peek(bundle)[0])
        altered = list(envelopes)
        change(altered)
        return self.bundle(kind, context, *altered)

    def swap(self, kind: str, bundle: bytes, position: int, envelope: bytes) -> bytes:
        """The bundle with one envelope in the place of another."""
        return self.relist(kind, bundle, lambda envelopes: envelopes.__setitem__(position, envelope))

    def without(self, kind: str, bundle: bytes, *positions: int) -> bytes:
        """The bundle with some envelopes left out."""

        def leave_out(envelopes: list[bytes]) -> None:
            envelopes[:] = [envelope for i, envelope in enumerate(envelopes) if i not in positions]

        return self.relist(kind, bundle, leave_out)

    def reinbox(self, bundle: bytes, change: Callable[[list[Inbound]], object]) -> bytes:
        """The bundle of boxes for one organization with its parts changed in place."""
        context, parts = decode_inbox(peek(bundle)[0])
        altered = list(parts)
        change(altered)
        return seal("inbox", encode_inbox(context, tuple(altered)), self.fed.coordinator_key)

    def secret(self, shares: Mapping[int, int]) -> bytes | None:
        """The secret behind the shares of some organizations, by index; None where they give none."""
        value = shamir.combine(list(shares.values()), shamir.weights([index + 1 for index in shares]))
        return shamir.as_secret(value)

    def steal(self, victim: int, words: NDArray[np.uint64], b: bytes, mk: bytes) -> NDArray[np.float64]:
        """The vector under an upload, by both secrets of its owner; Refused("sum.control") where one is wrong."""
        fed, server = self.fed, self.fed.coordinator
        ctx2, cohort = fed.organizations[victim].context, server._cohort
        peers = tuple(peer for peer in server.present(Step.SHARES) if peer != victim)
        agreed = agreements({victim: mk}, peers, cohort, server._offers, fed.suite)[victim]
        streams = [(keys.self_seed(b, ctx2, victim), -1)]
        for number, peer in enumerate(peers):
            pair = agreed[2 * fed.suite.kem_bytes * number :][: 2 * fed.suite.kem_bytes]
            public = cohort.adverts[peer].mask_key
            seed = keys.pair_seed(fed.suite, mk, public, ctx2, victim, peer, pair)
            streams.append((seed, -masking.pair_sign(victim, peer)))
        bare = words.copy()
        masking.apply(bare, streams)
        check_control(bare[:CONTROL_WORDS], 1)
        return fed.encoding.decode(bare[CONTROL_WORDS:], 1)  # type: ignore[no-any-return]


class ForgetfulJournal:
    """What an organization without a journal remembers."""

    def record(self, run: bytes, round: int, attempt: int, kind: str, statement: bytes) -> None:
        """Nothing."""

    def survived(self, run: bytes, round: int) -> bool:
        """Never."""
        return False


@pytest.fixture(scope="session")
def hostile() -> Callable[[Any], HostileServer]:
    """hostile(federation)."""
    return HostileServer


@pytest.fixture(scope="session")
def forgetful() -> Callable[[Any], None]:
    """forgetful(federation): from here on its organizations have no journal."""

    def forget(federation: Any) -> None:
        federation.journals = [ForgetfulJournal() for _ in range(federation.n)]

    return forget


@pytest.fixture(scope="session")
def witness() -> Callable[[Any], SimpleNamespace]:
    """witness(federation): one honest round, and every message of it."""

    def play(fed: Any) -> SimpleNamespace:
        server, seen = fed.coordinator, SimpleNamespace(plan=fed.coordinator.plan_message)
        seen.adverts = fed.advertise()
        seen.advert = {i: organization.advert for i, organization in fed.organizations.items()}
        seen.shares = {i: organization.share(seen.adverts) for i, organization in fed.organizations.items()}
        assert all(server.add_shares(i, message) for i, message in seen.shares.items())
        seen.inbox = server.close_shares()
        seen.upload = {i: fed.organizations[i].mask(box, fed.vectors[i]) for i, box in seen.inbox.items()}
        assert all(server.add_upload(i, *upload) for i, upload in seen.upload.items())
        seen.survivors = server.close_uploads()
        seen.survival = {i: organization.survive(seen.survivors) for i, organization in fed.organizations.items()}
        assert all(server.add_survival(i, message) for i, message in seen.survival.items())
        seen.quorum = server.close_survival()
        seen.reveal = {i: organization.unmask(seen.quorum) for i, organization in fed.organizations.items()}
        assert all(server.add_reveal(i, message) for i, message in seen.reveal.items())
        seen.outcome = server.result()
        return seen

    return play


@pytest.fixture(scope="session")
def refusal() -> Callable[..., str]:
    """refusal(call, *arguments): the code with which the call is refused."""

    def code_of(call: Callable[..., object], *arguments: object, **named: object) -> str:
        with pytest.raises(Refused) as no:
            call(*arguments, **named)
        return no.value.code

    return code_of


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """without(*codes): from here on no refusal with one of these codes is made, in any module of the protocol."""

    def switch_off(*codes: str) -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith("cotune.secagg.") and name != "cotune.secagg.refused":
                for at, says_no in ((1, "require"), (0, "refuse")):
                    if hasattr(module, says_no):
                        monkeypatch.setattr(module, says_no, _deaf(getattr(module, says_no), codes, at))

    return switch_off


def _deaf(says_no: Callable[..., None], codes: tuple[str, ...], at: int) -> Callable[..., None]:
    def call(*arguments: Any, **named: Any) -> None:
        if arguments[at] not in codes:
            says_no(*arguments, **named)

    return call
