"""The outlet between attempts and the caller: it knows whether anything has been handed over that cannot be taken back.

Imports `service` and types. The rule that must stay true: what an attempt said before its first output reaches the
caller with that output or with its end, or, if the attempt fails first, not at all.
"""

from __future__ import annotations

from ..service import Batch, Outlet, Source
from ..types.events import Rerouted, has_output

__all__ = ["Delivery"]


class Delivery:
    """One caller's outlet, over all attempts. `is_committed` says that output has been handed over (DESIGN: commit
    point)."""

    __slots__ = ("_held", "_outlet", "is_committed")

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._held: Batch = ()
        self.is_committed = False

    @classmethod
    def of(cls, outlet: Outlet) -> Delivery:
        """The outlet itself where it is one already: a chain and the retries in it share it."""
        return outlet if isinstance(outlet, Delivery) else cls(outlet)

    def send_nowait(self, batch: Batch) -> bool:
        """See `service.Outlet`."""
        if self.is_committed:
            return self._outlet.send_nowait(batch)
        self._held = (*self._held, *batch)
        if has_output(batch):
            self.is_committed = True
            return self.flush()
        return True

    async def wait_room(self) -> None:
        """See `service.Outlet`."""
        await self._outlet.wait_room()

    def lend(self, source: Source) -> bool:
        """See `service.Outlet`."""
        return self._outlet.lend(source)

    def begin(self) -> None:
        """A new attempt: what the last one said before any output is dropped with it."""
        self._held = ()

    def flush(self) -> bool:
        """Hand over what is held: the reply is complete, or its output has begun."""
        if not self._held:
            return True
        held, self._held = self._held, ()
        return self._outlet.send_nowait(held)

    def reroute(self, event: Rerouted) -> bool:
        """Tell the caller that the answer goes on from elsewhere. With `discard` nothing is handed over any more."""
        if event.discard:
            self.is_committed = False
        self._held = ()
        return self._outlet.send_nowait([event])
