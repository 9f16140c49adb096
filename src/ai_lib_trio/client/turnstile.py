"""A turnstile: of many that come at once, so many go through in each turn of the scheduler.

Imports trio. The rule that must stay true: whoever waits goes through in one of the next turns, those who came first
in the first of them, whatever becomes of the others.

Where time stands still, as it does in virtual time, nobody waits: a turn takes no time there, and who runs beside whom
would be chance.

Why: trio runs everything that can run before it looks at sockets again. A thousand calls that begin at one moment would
be encoded, admitted and connected in one turn of half a second, and the events of those that run already wait for it.
"""

from __future__ import annotations

import trio

__all__ = ["Turnstile"]

BUSY_S = 0.1  # within which as many as a turn takes make a rush: below that rate turns are short by themselves


class Turnstile:
    """Ask `pass_nowait`; where it says no, await `wait_passage`."""

    __slots__ = ("_at_once", "_left", "_lot", "_since")

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._left = at_once  # who may go through before anybody has to wait for the next turn
        self._since = trio.current_time()
        self._lot = trio.lowlevel.ParkingLot()

    def pass_nowait(self) -> bool:
        """Go through, where there is room in this turn and nobody waits."""
        if not self._left:
            return False
        self._left -= 1
        if not self._left:
            now = trio.current_time()
            is_rush = 0 < now - self._since < BUSY_S
            self._since = now
            if is_rush:
                trio.lowlevel.current_trio_token().run_sync_soon(self._next_turn)
            else:
                self._left = self._at_once
        return True

    async def wait_passage(self) -> None:
        """Wait for the turn that has room, and go through."""
        await self._lot.park()

    def _next_turn(self) -> None:
        self._left = self._at_once - len(self._lot.unpark(count=self._at_once))
        self._since = trio.current_time()
        if not self._left:
            trio.lowlevel.current_trio_token().run_sync_soon(self._next_turn)
