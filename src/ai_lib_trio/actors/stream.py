"""The channel between an exchange and the caller: batches go one way, room comes back.

Imports `service` and trio. The rule that must stay true: what was sent is either taken by the caller or dropped with
the call, and while the caller does not read, no more than one batch waits here (and one read waits to become the next).

A running reply may be lent to the reader (`lend`). Then `news` waits for its source and `take` reads from it.

Why not a trio memory channel: it says whether a batch fitted, not whether a reader took it, so that bound would be a
batch wider; and a hop through it costs 8 us where this one costs 4 (CPython 3.13, one core).
"""

from __future__ import annotations

from collections.abc import Awaitable

import trio

from ..service import Batch, Source

__all__ = ["ChannelOutlet"]


class ChannelOutlet:
    """An outlet with one reader. The writer's side is `service.Outlet`; the reader waits for `news`, then calls `take`.

    `close` ends the reader after what was sent; `close_reader` makes the writer's batches vanish.
    """

    __slots__ = ("_batches", "_is_closed", "_is_deserted", "_reader", "_source", "_writer", "events")

    def __init__(self) -> None:
        self._batches: list[Batch] = []  # one, hardly ever two: an empty deque is ten times the size
        self._reader: trio.lowlevel.Task | None = None
        self._writer: trio.lowlevel.Task | None = None
        self._source: Source | None = None  # what the reader reads by itself
        self._is_closed = False
        self._is_deserted = False
        self.events = 0

    # ---- the writer's side

    def send_nowait(self, batch: Batch) -> bool:
        """Take a batch, always. True if a reader was waiting for it, or read it: then the next may follow at once."""
        self.events += len(batch)
        if self._is_deserted:
            return True
        self._batches.append(batch)
        reader, self._reader = self._reader, None
        if reader is None:
            return self._source is not None
        trio.lowlevel.reschedule(reader)
        return True

    def lend(self, source: Source) -> bool:
        """See `service.Outlet`."""
        if self._is_deserted:
            return False
        self._source = source
        self._wake_reader()
        return True

    async def wait_room(self) -> None:
        """Wait until the reader has taken what was sent. Cancelled, nothing of it is lost."""
        while self._batches and not self._is_deserted:
            self._writer = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._writer_left)

    def _writer_left(self, _: object) -> trio.lowlevel.Abort:
        self._writer = None
        return trio.lowlevel.Abort.SUCCEEDED

    def close(self) -> None:
        """No more batches: the reader gets what was sent, then the end."""
        self._is_closed = True
        self._source = None
        self._wake_reader()

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            trio.lowlevel.reschedule(reader)

    # ---- the reader's side

    def news(self) -> Awaitable[object]:
        """To be awaited at once: until `take` may have something. Always a checkpoint; cancelled, nothing is lost.

        Raises `trio.ClosedResourceError` where what the reader reads by itself was ended: `take` then, all the same.
        Raises `trio.BusyResourceError` where another task is waiting already. No coroutine of its own: a reader waits
        here most of its life, and for each event that comes alone.
        """
        if self._reader is not None:
            raise trio.BusyResourceError("another task is reading this stream")
        if self._batches or self._is_closed:
            return trio.lowlevel.checkpoint()  # noqa: ASYNC105 - the reader awaits it
        if self._source is not None:
            return self._source.wait()
        self._reader = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(self._reader_left)  # noqa: ASYNC105

    @trio.lowlevel.enable_ki_protection  # a read that Ctrl-C cuts in two would lose events
    def take(self) -> Batch | None:
        """The next batch, empty where the news was none; None at the end."""
        if not self._batches and self._source is not None and not self._source.read():
            self._source = None
        if not self._batches:
            return None if self._is_closed else ()
        batch = self._batches.pop(0)
        if not self._batches:
            self._wake_writer()
        return batch

    def _reader_left(self, _: object) -> trio.lowlevel.Abort:
        self._reader = None
        return trio.lowlevel.Abort.SUCCEEDED

    def close_reader(self) -> None:
        """The reader takes no more; what waits is dropped."""
        self._is_deserted = True
        self._source = None
        self._batches.clear()
        self._wake_writer()

    def _wake_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            trio.lowlevel.reschedule(writer)
