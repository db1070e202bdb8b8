"""P4 at the server: rebuild one secret of each organization in U2 and derive the masks that are left on the sum."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from . import keys, masking, shamir
from .messages import Reveal
from .plan import Plan
from .refused import refuse, require
from .suites import Suite, suite_of
from .views import Cohort

# (sender, recipient) -> what carries the pair secret that the sender offered.
Offers = Mapping[tuple[int, int], bytes]


@lru_cache(maxsize=256)
def _weights(points: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shamir.weights(points))


def _windows(members: tuple[int, ...], threshold: int) -> Iterator[tuple[int, ...]]:
    """Choices of `threshold` of the members such that each single member is left out by one of them, if it can be."""
    turns = len(members) if len(members) > threshold else 1
    for turn in range(turns):
        yield tuple((members[turn:] + members[:turn])[:threshold])


def rebuild(shares: Mapping[int, int], threshold: int, holds: Callable[[bytes], bool]) -> bytes | None:
    """The 32-byte secret behind shares, each of which its owner committed to (but its own, which it reveals itself).

    Args:
        shares: revealing organization -> its share. threshold: how many are combined.
        holds: whether a candidate is the secret that its owner committed to.

    Returns:
        The secret, or None where no choice that was tried holds: then its owner dealt false shares, or shows one.
    """
    for chosen in _windows(tuple(sorted(shares)), threshold):
        value = shamir.combine([shares[i] for i in chosen], _weights(tuple(i + 1 for i in chosen)))
        secret = shamir.as_secret(value)
        if secret is not None and holds(secret):
            return secret
    return None


def rebuild_secrets(
    reveals: Mapping[int, Reveal], cohort: Cohort, plan: Plan
) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """b of every survivor and mk of every dropped organization, each checked against its advert.

    Raises:
        Refused: "unmask.secret" naming the first owner whose shares do not rebuild what it committed to: since every
            share was held against the owner's signed commitment, it is the owner's fault.
    """
    ctx0, suite = plan.ctx0, suite_of(plan.suite)
    first = next(iter(reveals.values()))
    self_secrets, mask_secrets = {}, {}
    for owner, _ in first.self_shares:
        shares = {index: dict(reveal.self_shares)[owner] for index, reveal in reveals.items()}
        self_secrets[owner] = _checked(owner, rebuild(shares, plan.threshold, _opens(cohort, ctx0, owner)))
    for owner, _ in first.mask_shares:
        shares = {index: dict(reveal.mask_shares)[owner] for index, reveal in reveals.items()}
        mask_secrets[owner] = _checked(owner, rebuild(shares, plan.threshold, _matches(cohort, owner, suite)))
    return self_secrets, mask_secrets


def _opens(cohort: Cohort, ctx0: bytes, owner: int) -> Callable[[bytes], bool]:
    return lambda secret: keys.commitment(ctx0, owner, secret) == cohort.adverts[owner].commitment


def _matches(cohort: Cohort, owner: int, suite: Suite) -> Callable[[bytes], bool]:
    return lambda secret: suite.public_half(secret) == cohort.adverts[owner].mask_key


def _checked(owner: int, secret: bytes | None) -> bytes:
    if secret is None:
        refuse("unmask.secret", f"the shares do not rebuild what organization {owner} committed to", owner)
    return secret


def check_secrets(
    self_secrets: Sequence[bytes],
    mask_secrets: Sequence[bytes],
    survivors: tuple[int, ...],
    dropped: tuple[int, ...],
    cohort: Cohort,
    plan: Plan,
) -> tuple[dict[int, bytes], dict[int, bytes]]:
    """b of each survivor and mk of each dropped organization, by owner, held against their adverts.

    Raises:
        Refused: "record.secrets", "record.commitment", "record.mask_key", the latter two naming the owner.
    """
    suite, secrets = suite_of(plan.suite), (*self_secrets, *mask_secrets)
    counted = (len(self_secrets), len(mask_secrets)) == (len(survivors), len(dropped))
    whole = counted and all(len(secret) == keys.SECRET_BYTES for secret in secrets)
    require(whole, "record.secrets", "too few or too many secrets are revealed")
    selves, masks = dict(zip(survivors, self_secrets, strict=True)), dict(zip(dropped, mask_secrets, strict=True))
    for i, b in selves.items():
        committed = keys.commitment(plan.ctx0, i, b) == cohort.adverts[i].commitment
        require(committed, "record.commitment", "a revealed secret is not the one its owner committed to", i)
    for i, mk in masks.items():
        matched = suite.public_half(mk) == cohort.adverts[i].mask_key
        require(matched, "record.mask_key", "a revealed mask secret is not that of its owner's public key", i)
    return selves, masks


def agreements(
    mask_secrets: Mapping[int, bytes], survivors: tuple[int, ...], cohort: Cohort, offers: Offers, suite: Suite
) -> dict[int, bytes]:
    """What each dropped organization had agreed upon with the survivors beyond X25519, in order; empty in suite 1.

    Raises:
        Refused: "share.offer" naming the organization that offered another secret than it committed to.
    """
    found = {}
    for dropped, secret in mask_secrets.items():
        pairs = []
        for survivor in survivors:
            offered, accepted = offers[dropped, survivor], offers[survivor, dropped]
            own = keys.recall(suite, secret, cohort.ctx1, dropped, survivor, offered)
            given = keys.accept(suite, secret, cohort.ctx1, survivor, dropped, accepted)
            pairs.append(keys.agreement(dropped, survivor, own, given))
        found[dropped] = b"".join(pairs)
    return found


def remaining_streams(
    self_secrets: Mapping[int, bytes],
    mask_secrets: Mapping[int, bytes],
    agreed: Mapping[int, bytes],
    cohort: Cohort,
    ctx2: bytes,
    suite: Suite,
) -> list[tuple[bytes, int]]:
    """The streams to apply so that the sum over the survivors is bare: (seed, sign) for `masking.apply`."""
    streams = [(keys.self_seed(secret, ctx2, owner), -1) for owner, secret in self_secrets.items()]
    for dropped, secret in mask_secrets.items():
        for number, survivor in enumerate(self_secrets):
            pair = agreed[dropped][2 * suite.kem_bytes * number :][: 2 * suite.kem_bytes]
            seed = keys.pair_seed(suite, secret, cohort.adverts[survivor].mask_key, ctx2, dropped, survivor, pair)
            streams.append((seed, -masking.pair_sign(survivor, dropped)))
    return streams
