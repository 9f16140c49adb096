"""The channel between a session and the caller: batches go one way, room comes back.

Imports `service` and trio. The rule that must stay true: what was sent is either taken by the caller or dropped with
the call, and never more is held than the bound: one batch in the channel and one on its way into it.
"""

from __future__ import annotations

from collections import deque

import trio

from ..service import Batch
from ..types.events import StreamingEvent

__all__ = ["ChannelOutlet"]


class ChannelOutlet:
    """An outlet that hands batches to one reader through a memory channel of one batch.

    The writer's side is `service.Outlet`; the reader calls `receive`. `close` ends the reader after what was sent.
    """

    __slots__ = ("_receive", "_send", "_waiting", "events")

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Batch](1)
        self._waiting: deque[Batch] = deque()
        self.events = 0

    def send_nowait(self, batch: Batch) -> bool:
        """Take a batch. True while one more would still find room: two reads at most are held (DESIGN 3)."""
        self.events += len(batch)
        if not self._waiting:
            try:
                self._send.send_nowait(batch)
            except trio.WouldBlock:
                pass
            except trio.BrokenResourceError:  # the reader is gone: its call is being cancelled
                return True
            else:
                return True
        self._waiting.append(batch)
        return False

    async def wait_room(self) -> None:
        """Wait until what waits has moved into the channel. Cancelled, it stays where it is."""
        while self._waiting:
            try:
                await self._send.send(self._waiting[0])
            except trio.BrokenResourceError:
                self._waiting.clear()
                return
            self._waiting.popleft()

    def close(self) -> None:
        """No more batches: the reader gets what was sent, then the end."""
        self._send.close()

    def close_reader(self) -> None:
        """The reader takes no more; what is held is dropped."""
        self._waiting.clear()
        self._receive.close()

    async def receive(self) -> list[StreamingEvent] | None:
        """The next batch, or None at the end."""
        try:
            return list(await self._receive.receive())
        except trio.EndOfChannel:
            return None
