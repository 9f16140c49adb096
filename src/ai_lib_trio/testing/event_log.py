"""A sink that keeps what happened, in an order that does not depend on how tasks were scheduled.

Imports `types.records`. The rule that must stay true: two runs that do the same have the same lines. Trio shuffles
tasks that are woken at one instant; so records are put in order by time, call and attempt, then as that attempt had
them: members of a race are at work at one instant.
"""

from __future__ import annotations

import math

from ..types.records import CallStarted, Record

__all__ = ["EventLog"]


class EventLog:
    """`Config(sinks=(log,))`; afterwards `log.lines()`, or `log.records` as they came."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def __call__(self, record: Record) -> None:
        self.records.append(record)

    def in_order(self) -> list[Record]:
        """The records by time, call and sequence. What belongs to no call (a breaker's change) stands before calls."""
        return sorted(self.records, key=_place)

    def lines(self) -> list[str]:
        """One line for each record, in that order."""
        return [repr(record) for record in self.in_order()]


def _place(record: Record) -> tuple[float, int, float]:
    attempt = getattr(record, "attempt", 0 if isinstance(record, CallStarted) else math.inf)
    return record.at_s, getattr(record, "call", 0), attempt
