"""Frames become payload, and payload becomes bytes on a connection, with whatever faults the reply is to have.

Imports trio, `http`, `render` and `script`. The rule that must stay true: what is counted as sent has been taken by
the connection, so a send that blocks shows as a count that stands still.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import trio

from .http import last_chunk, one_chunk
from .journal import Entry
from .render import Frame, find_fault
from .script import Cut, Encoded, Fault, Hold, Insert, LineEnds, Pause, SplitCharacters, Trickle, Writes

__all__ = ["CutHere", "Payload", "Sender", "payloads"]

SLICE_BYTES = 64 * 1024  # the most that one send hands over, so that the count follows the connection


class CutHere(Exception):
    """The script ends the reply here; `how` as in `Cut`."""

    def __init__(self, how: str) -> None:
        super().__init__(how)
        self.how = how


class Payload(NamedTuple):
    """One frame as it goes into the body, with what faults put after it. `last` ends the body."""

    data: bytes
    kind: str
    last: bool


def payloads(items: Iterable[Frame | Pause | Hold], faults: Sequence[Fault]) -> Iterator[Payload | Pause | Hold]:
    """The frames with line ends, insertions and compression applied; the last item is a Payload that ends the body."""
    ends: LineEnds | None = find_fault(faults, LineEnds)
    encoded: Encoded | None = find_fault(faults, Encoded)
    inserts = [fault for fault in faults if isinstance(fault, Insert)]
    # 31 makes zlib write gzip's header and trailer, 15 its own, which is what HTTP calls deflate (RFC 9110, 8.4.1).
    deflater = zlib.compressobj(wbits=31 if encoded.coding == "gzip" else 15) if encoded else None

    def coded(frame: Frame, count: int) -> bytes:
        data = frame.data
        if ends is not None:
            data = data.replace(b"\r\n", b"\n").replace(b"\n", ends.ends.encode())
        for insert in inserts:
            if count % insert.after_frames == 0 if insert.every else count == insert.after_frames:
                data += insert.data
        return deflater.compress(data) + deflater.flush(zlib.Z_SYNC_FLUSH) if deflater is not None else data

    count = 0
    waiting: Payload | None = None  # a frame is let go when it is known whether it is the last
    for item in items:
        if waiting is not None:
            yield waiting
            waiting = None
        if isinstance(item, Frame):
            count += 1
            waiting = Payload(coded(item, count), item.kind, False)
        else:
            yield item
    rest = deflater.flush() if deflater is not None else b""
    data, kind, _ = waiting if waiting is not None else Payload(b"", "end", True)
    yield Payload(data + rest, kind, True)


class Sender:
    """The body of one reply on its way out. With `chunked` the body's end is marked by a last chunk."""

    def __init__(
        self,
        stream: trio.abc.SendStream,
        entry: Entry,
        faults: Sequence[Fault],
        changed: Callable[[], None],
        *,
        chunked: bool,
    ) -> None:
        self._stream = stream
        self._entry = entry
        self._changed = changed
        self._chunked = chunked
        self._cut: Cut | None = find_fault(faults, Cut)
        self._trickle: Trickle | None = find_fault(faults, Trickle)
        self._writes: Writes | None = find_fault(faults, Writes)
        self._split: SplitCharacters | None = find_fault(faults, SplitCharacters)
        self._kept = b""  # bytes that wait for a write of the size that `Writes` wants
        self._count = 0

    async def send(self, payload: Payload) -> None:
        """Send one payload whole. Raises CutHere where the script ends the reply."""
        cut = self._cut
        if cut is not None and cut.after_frames is not None and self._entry.frames_sent >= cut.after_frames:
            raise CutHere(cut.how)
        data, last = payload.data, payload.last
        room = None if cut is None or cut.after_bytes is None else cut.after_bytes - self._entry.bytes_sent
        if room is not None and len(data) + len(self._kept) >= room:
            await self._write(data[: max(0, room - len(self._kept))], flush=True, last=False)
            raise CutHere(cut.how if cut is not None else "close")
        await self._write(data, flush=last, last=last)
        self._entry.frames_sent += 1
        self._changed()
        if cut is not None and cut.after_frames is not None and self._entry.frames_sent >= cut.after_frames:
            raise CutHere(cut.how)

    async def end_body(self) -> None:
        """Mark the end of the body here, whatever is missing from it."""
        if self._chunked:
            await self._stream.send_all(last_chunk())

    async def _write(self, data: bytes, *, flush: bool, last: bool) -> None:
        pieces = list(self._pieces(data, flush))
        for index, piece in enumerate(pieces):
            await self._pause(piece)
            sent = one_chunk(piece) if self._chunked else piece
            if last and self._chunked and index == len(pieces) - 1:
                sent += last_chunk()  # in one write with what it ends: a client may leave once it has seen the end
            await self._stream.send_all(sent)
            self._count += 1
            self._entry.bytes_sent += len(piece)
            self._changed()
        if last and not pieces:
            await self.end_body()

    async def _pause(self, piece: bytes) -> None:
        if self._trickle is not None:
            await trio.sleep(len(piece) / self._trickle.bytes_per_second)
        elif self._count and self._writes is not None and self._writes.pause:
            await trio.sleep(self._writes.pause)
        elif self._count and self._split is not None and self._split.pause:
            await trio.sleep(self._split.pause)

    def _pieces(self, data: bytes, flush: bool) -> Iterator[bytes]:
        if self._trickle is not None:
            step = self._trickle.step
            yield from (data[at : at + step] for at in range(0, len(data), step))
        elif self._writes is not None:
            yield from self._sized(self._writes.sizes, data, flush)
        elif self._split is not None:
            start = 0
            for at, byte in enumerate(data):
                if byte >= 0xC0:  # the first byte of a character of several: end the write after it
                    yield data[start : at + 1]
                    start = at + 1
            if start < len(data):
                yield data[start:]
        else:
            yield from (data[at : at + SLICE_BYTES] for at in range(0, len(data), SLICE_BYTES))

    def _sized(self, sizes: tuple[int, ...], data: bytes, flush: bool) -> Iterator[bytes]:
        data, at, count = self._kept + data, 0, self._count
        while True:
            size = sizes[min(count, len(sizes) - 1)]
            if len(data) - at < size:
                break
            yield data[at : at + size]
            at, count = at + size, count + 1
        self._kept = data[at:]
        if flush and self._kept:
            yield self._kept
            self._kept = b""
