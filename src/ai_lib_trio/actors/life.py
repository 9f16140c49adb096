"""What the supervisor counts of an actor that it keeps running: crashes, and when they are too many.

Imports trio. Pure but for the scope: `now` is an argument.
"""

from __future__ import annotations

from collections import deque

import trio

__all__ = ["DEATHS_WITHIN_S", "MAX_DEATHS", "Life"]

MAX_DEATHS = 3  # more than this many ...
DEATHS_WITHIN_S = 60.0  # ... within this many seconds, and it stays down


class Life:
    """All lives of one actor, from its start to its end or to the crash too many. `scope` ends it."""

    __slots__ = ("crashes", "deaths", "has_failed", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.crashes = 0
        self.deaths: deque[float] = deque()  # the late ones
        self.has_failed = False

    def mourn(self, now: float) -> None:
        """It crashed."""
        self.crashes += 1
        self.deaths.append(now)
        while now - self.deaths[0] > DEATHS_WITHIN_S:
            self.deaths.popleft()
        self.has_failed = len(self.deaths) > MAX_DEATHS
