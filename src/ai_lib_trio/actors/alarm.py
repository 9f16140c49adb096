"""Limits on time for many exchanges: one task that sleeps until the earliest of them.

Imports trio. The rule that must stay true: an alarm that is due rings in the next turn of the scheduler, by trio's
clock; one that was moved or put away never does.

A reply moves its limit with each read, and nearly always to later. So moving to later is an assignment here, where a
cancel scope's own deadline costs some microseconds: the sleeper finds the alarm at its old moment, and enters it anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush

import trio

__all__ = ["Alarm", "AlarmClock"]

FEW_DEAD = 64  # alarms that were put away and are still listed; beyond it, and when they are most, the list is cleaned


class Alarm:
    """One limit. Its owner moves it by `AlarmClock.move` and reads `has_rung`."""

    __slots__ = ("due", "has_rung", "listed", "ring")

    def __init__(self, ring: Callable[[], None]) -> None:
        self.ring: Callable[[], None] | None = ring  # called when it is due; None once it was put away
        self.due = math.inf  # trio's clock; inf stands still
        self.listed = math.inf  # the earliest moment at which the sleeper looks at it
        self.has_rung = False


class AlarmClock:
    """The alarms of one actor. `run` is its task; `now` gives trio's time, by one call instead of three."""

    def __init__(self) -> None:
        self.now = trio.lowlevel.current_clock().current_time
        self._list: list[tuple[float, int, Alarm]] = []
        self._entries = 0  # so that alarms of one moment are never compared
        self._dead = 0
        self._sleep: trio.CancelScope | None = None

    def __len__(self) -> int:
        """Entries in the list, of alarms put away too."""
        return len(self._list)

    def move(self, alarm: Alarm, due: float) -> None:
        """Let the alarm ring at another moment."""
        alarm.due = due
        if due < alarm.listed:
            self._enter(alarm)

    def put_away(self, alarm: Alarm) -> None:
        """The alarm rings no more."""
        alarm.ring = None
        alarm.due = math.inf
        if alarm.listed == math.inf:
            return
        self._dead += 1
        if self._dead > FEW_DEAD and self._dead * 2 > len(self._list):
            self._list = [entry for entry in self._list if entry[2].ring is not None]
            heapify(self._list)
            self._dead = 0

    async def run(self) -> None:
        """Ring until cancelled."""
        while True:
            self._ring(self.now())
            with trio.CancelScope(deadline=self._list[0][0] if self._list else math.inf) as self._sleep:
                await trio.sleep_forever()
            self._sleep = None

    def _enter(self, alarm: Alarm) -> None:
        alarm.listed = alarm.due
        self._entries += 1
        heappush(self._list, (alarm.due, self._entries, alarm))
        if self._sleep is not None and alarm.due < self._sleep.deadline:
            self._sleep.deadline = alarm.due

    def _ring(self, now: float) -> None:
        while self._list and self._list[0][0] <= now:
            moment, _, alarm = heappop(self._list)
            if alarm.ring is None:
                self._dead = max(0, self._dead - 1)
                continue
            if moment != alarm.listed:
                continue  # it was entered again, for earlier, and has been looked at since
            alarm.listed = math.inf
            if alarm.due <= now:
                alarm.has_rung = True
                alarm.ring()
            elif alarm.due < math.inf:
                self._enter(alarm)
