"""Charging a ledger under a trust model: an account says against whom its epsilon holds.

Where nobody is trusted, a data set and unit have one account, and its epsilon holds against everybody. Rounds with
shared noise are charged twice: to that account, with the organization's own share, since against a coalition of all
others nothing else protects it; and to an account whose unit ends in " | server + c others", with the noise of the
honest sum. The second account takes in every other release of the data too, at its own noise or a smaller one
(`accounts`).

So each account composes everything that its adversary can see, in whatever order charters of both kinds follow each
other. The budget is held in the second account. In the first, rounds with shared noise bring no budget of their own,
but a budget that an earlier charter promised against everybody stays promised.
"""

from dataclasses import dataclass

from ..errors import UserError
from ..spelling import plain_id
from .accounts import MARK, Account
from .charges import Due
from .holdings import Holdings
from .ledger import Ledger
from .terms import PrivacyTerms

# The budget of an account that a charge says nothing about: a number, since the ledger holds no infinities.
UNLIMITED = 1e6


@dataclass(frozen=True)
class Event:
    """What is charged: one attempt at one round, on one data set; as in `Ledger.reserve`."""

    data: Holdings
    charter: str
    run: str
    round: int
    attempt: int


def account_unit(terms: PrivacyTerms) -> str:
    """The unit of the account that holds the terms' budget; with shared noise it names the adversary.

    Another spelling of a unit's name is no other unit, and opens no other account.
    """
    if terms.shares is None:
        return plain_id(terms.unit)
    others = max(terms.shares.colluders, 1)
    return f"{plain_id(terms.unit)}{MARK}{others} other{'s' if others > 1 else ''}"


def limited(account: Account) -> bool:
    """Whether an account has a budget."""
    return account.budget_epsilon < UNLIMITED


def require_plain(unit: str) -> None:
    """Refuse a unit that would be taken for another account's.

    Raises:
        UserError: it holds the mark, in whatever spelling.
    """
    if "|" in plain_id(unit):
        raise UserError("privacy.unit holds a vertical bar", "name the unit without it")


def reserve(ledger: Ledger, terms: PrivacyTerms, event: Event, steps: int, budget_epsilon: float) -> None:
    """Charge a round to every account that it concerns, before its first gradient: all of them, or none.

    Args:
        ledger: of the organization. terms: the charter's. event: what is charged.
        steps: noised steps of the round. budget_epsilon: held against the terms' adversary.

    Raises:
        OverBudget: an account has no room; nothing is charged. The rest as `Ledger.reserve`.
    """
    _reserve(ledger, terms, terms.own_multiplier, event, steps, budget_epsilon)


def reserve_alone(ledger: Ledger, terms: PrivacyTerms, event: Event, steps: int, budget_epsilon: float) -> None:
    """Charge steps that the organization takes by itself, with all of the noise: nobody else adds any.

    With shared noise it is the same epsilon against every adversary, and still charged to both accounts. Arguments and
    errors as `reserve`.
    """
    _reserve(ledger, terms, terms.alone.own_multiplier, event, steps, budget_epsilon)


def _reserve(ledger: Ledger, terms: PrivacyTerms, own: float, event: Event, steps: int, budget_epsilon: float) -> None:
    """`own`: the noise multiplier of what this organization adds."""
    dues = [Due(account_unit(terms), terms.noise_multiplier, budget_epsilon)]
    if terms.shares is not None:
        dues.append(Due(plain_id(terms.unit), own, UNLIMITED))
    ledger.reserve(
        dues,
        data=event.data,
        charter=event.charter,
        run=event.run,
        round=event.round,
        attempt=event.attempt,
        sample_rate=terms.sample_rate,
        steps=steps,
        delta=terms.delta,
        grid=terms.grid,
    )
