"""The retry budget: retries are paid for by first attempts, so that they cannot multiply into a storm.

Imports `errors`. Pure: `now` is an argument. The rule that must stay true: in any stretch of time, retries are at most
the reserve, plus a share of the first attempts, plus a trickle by the second.
"""

from __future__ import annotations

import msgspec

from ..errors import need_number

__all__ = ["BudgetRules", "RetryBudget"]


class BudgetRules(msgspec.Struct, frozen=True):
    """`reserve` retries may be made at once; each first attempt adds `per_call`, each second `per_second`.

    A hundred calls that all fail once are all retried; a provider that stays down sees its load grow by a fifth and
    not by the number of attempts.
    """

    reserve: float = 100.0
    per_call: float = 0.2
    per_second: float = 1.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            need_number(name, getattr(self, name))


class RetryBudget:
    """One actor's balance of retries."""

    __slots__ = ("_at", "_balance", "rules", "spent")

    def __init__(self, rules: BudgetRules) -> None:
        self.rules = rules
        self.spent = 0
        self._balance = rules.reserve
        self._at: float | None = None

    def balance(self, now: float) -> float:
        """Retries that could be made now."""
        if self._at is not None and now > self._at:
            self._balance = min(self.rules.reserve, self._balance + (now - self._at) * self.rules.per_second)
        self._at = now if self._at is None else max(now, self._at)
        return self._balance

    def deposit(self, now: float) -> None:
        """A first attempt was made."""
        self._balance = min(self.rules.reserve, self.balance(now) + self.rules.per_call)

    def spend(self, now: float) -> bool:
        """Pay for a retry. False: there is nothing left to pay with."""
        if self.balance(now) < 1.0:
            return False
        self._balance -= 1.0
        self.spent += 1
        return True

    def refund(self) -> None:
        """A retry that was paid for was not made."""
        self._balance = min(self.rules.reserve, self._balance + 1.0)
        self.spent -= 1
