"""The accounts of a ledger: which charges each of them composes, and whether one more fits. One rule for all who ask.

An account is kept for a data set and a unit. It composes the charges with this unit to the data set and to all of its
kin (`holdings`). Every release that holds a record or an id of one of its units is then in it. For units that are in
some of these data sets only it is an upper bound. Kinship is not handed on, and need not be: a unit that is in two data
sets makes them kin directly.

A unit that ends in " | server + c others" is the same unit against a weaker adversary (`adversaries`). To that account
a round is charged with the noise that this adversary sees; it takes in every other charge against everybody as well, at
its own noise or a smaller one.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import UserError
from .accounting import accounted, epsilon, rounded
from .charges import Charge, Terms
from .holdings import Holdings, Shared, shared_by_pairs

MARK = " | server + "
# Data sets that a refusal names.
_NAMED = 3
_MEND = "see each charge with cotune privacy show, then agree on a larger epsilon or on new data, or stop here"
_OF_NOBODY = "; if what is shared is nobody's (a boilerplate text, row numbers as ids), drop those rows or use real ids"


class OverBudget(UserError):  # noqa: N818 - a verdict, not a fault
    """A reservation would exceed a budget of this data set; nothing was charged to any of its accounts."""

    code = "ledger.budget"


@dataclass(frozen=True)
class Kin:
    """A data set that shares records or unit ids with another one: its name, and how many of each."""

    data_set: str
    shared: Shared


@dataclass(frozen=True)
class Account:
    """One line of the statement: a data set and unit, its budget, and what is spent and left of it at `delta`.

    `method` says where `spent_epsilon` comes from, as in `accounting.Accounted`; `rdp_epsilon` is the Rényi bound.
    `composed` are the charges that all of this is made of, oldest first, those of kin data sets among them; `kin` are
    all data sets that share something with this one, whatever unit they were charged under.

    Edge cases: a charge to a kin data set may bring `spent_epsilon` above `budget_epsilon`, where no unit of both is in
        all that is composed here.
    """

    data_set: str
    unit: str
    delta: float
    budget_epsilon: float
    spent_epsilon: float
    left_epsilon: float
    method: str
    rdp_epsilon: float
    steps: int
    charges: int
    kin: tuple[Kin, ...]
    composed: tuple[Charge, ...] = field(repr=False)


def plain_unit(unit: str) -> str:
    """The unit's own name, of any account."""
    return unit.partition(MARK)[0]


@dataclass(frozen=True)
class Books:
    """All that a ledger holds, checked: the charges, oldest first, and what each data set holds, by its name."""

    charges: list[Charge]
    contents: dict[str, Holdings]

    def composed(self, data: Holdings, unit: str) -> list[Charge]:
        """The charges that the account of a data set and unit composes. The data set need not have been charged."""
        return _seen(self._of(self._kin(data)), unit)

    def spent(self, data: Holdings, unit: str, delta: float) -> float:
        """The composed epsilon at `delta` of an account; 0 where nothing was charged to it."""
        return epsilon([row.segment for row in self.composed(data, unit)], delta)

    def strangers(self, data: Holdings) -> int:
        """How many data sets were charged, where this one was not and is nobody's kin; else 0."""
        return 0 if self._kin(data) else len(self.contents)

    def admit(self, data: Holdings, terms: Mapping[str, Terms]) -> list[float]:
        """The composed epsilon of each account, by its unit, with its charge for one event that was not charged yet.

        The charges of an event belong together: an account takes in what is charged to it, not what another adversary
        sees of the same event. Their order makes no difference.

        Raises:
            OverBudget: one has no room for it, or an account against a weaker adversary, which takes it in, has none.
        """
        rows = self._of(self._kin(data))
        # What an adversary sees of this event, where nothing more special is charged to its account.
        plain = {row.unit: terms[plain_unit(row.unit)] for row in rows if plain_unit(row.unit) in terms}
        asked = dict(terms) | {unit: own for unit, own in plain.items() if unit not in terms}
        found = {unit: self._within_budget(data, unit, _seen(rows, unit), own) for unit, own in asked.items()}
        return [found[unit] for unit in terms]

    def statement(self) -> list[Account]:
        """One line for each data set and unit that was charged, in the order of their first charges."""
        kin: dict[str, list[Kin]] = {name: [] for name in self.contents}
        names = list(self.contents)
        for (one, other), shared in shared_by_pairs(list(self.contents.values())).items():
            kin[names[one]].append(Kin(names[other], shared))
            kin[names[other]].append(Kin(names[one], shared))
        return [
            _account(name, unit, tuple(kin[name]), _seen(self._of({name, *(one.data_set for one in kin[name])}), unit))
            for name, unit in dict.fromkeys(row.account for row in self.charges)
        ]

    def _kin(self, data: Holdings) -> set[str]:
        return {name for name, other in self.contents.items() if data.is_kin(other)}

    def _of(self, data_sets: Collection[str]) -> list[Charge]:
        return [row for row in self.charges if row.data_set in data_sets]

    def _within_budget(self, data: Holdings, unit: str, account: list[Charge], terms: Terms) -> float:
        """The composed epsilon with the new steps, or `OverBudget`."""
        history = [row.segment for row in account]
        delta = min([terms.delta, *(row.delta for row in account)])
        budget = min([terms.budget_epsilon, *(row.budget_epsilon for row in account)])
        total = epsilon([*history, terms.segment], delta)
        if total <= budget:
            return total
        spent = epsilon(history, delta)
        how = f" by {len(account)} charges of {len({row.run for row in account})} runs" if account else ""
        shared = self._shared(data, account)
        against = f" against the server with {unit.partition(MARK)[2]}" if MARK in unit else ""
        raise OverBudget(
            f"privacy budget{against}: epsilon {rounded(spent)} spent{how}{shared}, "
            f"{rounded(total)} with these {terms.steps} steps, "
            f"{rounded(max(budget - spent, 0.0), up=False)} left of {budget:g} at delta {delta:g}",
            _MEND + (_OF_NOBODY if shared else ""),
        )

    def _shared(self, data: Holdings, account: list[Charge]) -> str:
        """What a data set shares with the others of an account, in words, the first three by name."""
        others = list(dict.fromkeys(row.data_set for row in account if row.data_set != data.name))
        if not others:
            return ""
        parts = [f"{data.shared(self.contents[name])} with {name[:12]}" for name in others[:_NAMED]]
        if len(others) > _NAMED:
            parts.append(f"and {len(others) - _NAMED} more")
        return f" on {len(others) + 1} data sets that share records or units ({', '.join(parts)})"


def _seen(rows: Sequence[Charge], unit: str) -> list[Charge]:
    """What an account composes of the charges of related data sets."""
    charged = {row.event for row in rows if row.unit == unit}
    everybody = plain_unit(unit)
    return [row for row in rows if row.unit == unit or (row.unit == everybody and row.event not in charged)]


def _account(name: str, unit: str, kin: tuple[Kin, ...], rows: list[Charge]) -> Account:
    delta, budget = min(row.delta for row in rows), min(row.budget_epsilon for row in rows)
    spent = accounted([row.segment for row in rows], delta)
    return Account(
        data_set=name,
        unit=unit,
        delta=delta,
        budget_epsilon=budget,
        spent_epsilon=spent.epsilon,
        left_epsilon=max(budget - spent.epsilon, 0.0),
        method=spent.method,
        rdp_epsilon=spent.rdp,
        steps=sum(row.steps for row in rows),
        charges=len(rows),
        kin=kin,
        composed=tuple(rows),
    )
