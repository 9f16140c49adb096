"""Bytes of one body become frames, whatever way they are cut.

Each framing takes bytes as they come (`feed`) and gives the frames that are complete, once; `finish` gives what the
end of the bytes completes. A frame is `(event name or None, payload bytes)`. Imports nothing of ours. Two rules must
stay true: any cut of the bytes gives the same frames, and every byte is looked at once (a frame that arrives in many
pieces is joined once, at its end).
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import Protocol

import msgspec

__all__ = ["BOM", "FRAMINGS", "Body", "EventStream", "Frame", "Framing", "JsonArray", "JsonLines", "Sse"]

Frame = tuple[str | None, bytes]
BOM = b"\xef\xbb\xbf"


class Framing(Protocol):
    """`fault` is None, or the kind of failure that ended the framing: frames given before it count, none follow.

    `cut` says, after `finish`, that the bytes cannot end here. A frame that `finish` gives may lack its terminator.
    """

    fault: str | None
    cut: bool

    def feed(self, data: bytes) -> list[Frame]: ...

    def finish(self) -> list[Frame]: ...


class _Lines:
    """Lines across cuts: what SSE and JSON lines share."""

    __slots__ = ("_first", "_max", "_pending", "_pieces", "_size", "cut", "fault")

    def __init__(self, max_frame_bytes: int) -> None:
        self.fault: str | None = None
        self.cut = False
        self._max = max_frame_bytes
        self._size = 0  # bytes of the frame so far, complete lines
        self._pieces: list[bytes] = []  # of the line that has no end yet
        self._pending = 0
        self._first = True

    def _keep(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._pending += len(piece)
        if self._size + self._pending > self._max:
            self.fault = "oversize"
            self._pieces.clear()

    def _take(self, line: bytes) -> bytes | None:
        """A complete line, with the pieces that came before; None where it is over the bound."""
        if self._pieces:
            self._pieces.append(line)
            line = b"".join(self._pieces)
            self._pieces.clear()
            self._pending = 0
        if self._size + len(line) > self._max:
            self.fault = "oversize"
            return None
        if self._first:
            self._first = False
            if line.startswith(BOM):
                line = line[3:]
        return line


class Sse(_Lines):
    """Server-sent events (WHATWG HTML, 9.2.6; read 2026-11-22), except that an event cut off at the end counts.

    Lines end in CR, LF or CRLF; `data` lines are joined by LF; comments, `id`, `retry` and unknown fields are passed
    over; an event without data is none. `max_frame_bytes` bounds the lines of one event.
    """

    __slots__ = ("_after_cr", "_before", "_data", "_event", "_name")

    def __init__(self, max_frame_bytes: int) -> None:
        super().__init__(max_frame_bytes)
        self._data: list[bytes] = []
        self._event: str | None = None
        self._after_cr = False
        self._before = b"data: "  # what stood before the data of the last plain event, and the name in it
        self._name: str | None = None

    def feed(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        if not data or self.fault:
            return frames
        if self._first or self._after_cr or len(data) > self._max:
            self._by_lines(data, frames)
            return frames
        gap = b"\n\n" if data.find(b"\r") < 0 else b"\r\n\r\n"
        at = 0
        if not (self._data or self._pieces or self._event is not None):
            at = self._plain_events(data, at, gap, frames)
        while at < len(data):  # an event of another kind, or one that began before or has not ended
            end = data.find(gap, at) + len(gap)
            if end < len(gap):
                end = len(data)
            if not self._by_lines(data[at:end], frames):
                break
            at = end if end == len(data) else self._plain_events(data, end, gap, frames)
        return frames

    def _plain_events(self, data: bytes, at: int, gap: bytes, frames: list[Frame]) -> int:
        """Takes whole events of one line of data, with a name or without, and tells where something else begins.

        Their lines end in LF, in data without a CR, or in CRLF; `gap` is two of these.
        """
        mark, other = gap[:1], gap[1:2] if len(gap) == 4 else b""
        find, starts = data.find, data.startswith
        before = self._before
        while True:
            # A byte is found by memchr; `in`, `split` and `count` look at every byte by themselves (CPython 3.13).
            if not starts(before, at):
                if not self._begins(data, at, mark + other):
                    return at
                before = self._before
            start = at + len(before)
            stop = find(mark, start)
            if stop < 0 or not starts(gap, stop) or (other and find(other, start, stop) >= 0):
                return at
            at = stop + len(gap)
            if start < stop:
                frames.append((self._name, data[start:stop]))

    def _begins(self, data: bytes, at: int, end: bytes) -> bool:
        """Whether a plain event begins here; what stands before its data is kept then: the next mostly has it too."""
        if data.startswith(b"data: ", at):
            self._before, self._name = b"data: ", None
            return True
        stop = data.find(end[:1], at)
        start = stop + len(end)
        if stop < 0 or not data.startswith(b"event: ", at) or not data.startswith(end + b"data: ", stop):
            return False
        head = data[at:stop]
        if b"\n" in head:
            return False
        self._before, self._name = data[at : start + 6], head[7:].decode("utf-8", "replace") or None
        return True

    def _by_lines(self, data: bytes, frames: list[Frame]) -> bool:
        """Any bytes, the long way. False where a line is over the bound."""
        if self._after_cr and data[0] == 10:  # the LF of a CRLF that was cut in two
            data = data[1:]
        if data:
            self._after_cr = data[-1] == 13
            rest: bytes | None = None
            lines = data.splitlines()  # on bytes: CR, LF and CRLF only
            if data[-1] != 10 and data[-1] != 13:
                rest = lines.pop()
            for line in lines:
                if not self._line(line, frames):
                    return False
            if rest is not None:
                self._keep(rest)
        else:
            self._after_cr = False
        return True

    def _line(self, line: bytes, frames: list[Frame]) -> bool:
        if self._pieces or self._first:
            taken = self._take(line)
            if taken is None:
                return False
            line = taken
        elif self._size + len(line) > self._max:
            self.fault = "oversize"
            return False
        if not line:
            if self._data:
                data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                if data:
                    frames.append((self._event, data))
                self._data = []
            self._event = None
            self._size = 0
            return True
        if line.startswith(b"data:"):
            self._size += len(line)
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            return True
        field, _, value = line.partition(b":")
        if field == b"event":
            self._event = value.removeprefix(b" ").decode("utf-8", "replace") or None
        elif field == b"data":  # the field without a colon: an empty line of data
            self._size += len(line)
            self._data.append(b"")
        return True

    def finish(self) -> list[Frame]:
        frames: list[Frame] = []
        if self.fault:
            return frames
        if self._pieces and not self._line(b"", frames):
            return frames
        if self._data:
            self._line(b"", frames)
        return frames


class JsonLines(_Lines):
    """One JSON text a line (NDJSON). Empty lines are passed over; the last line needs no end."""

    __slots__ = ()

    def feed(self, data: bytes) -> list[Frame]:
        if self.fault or not data:
            return []
        lines = data.split(b"\n")
        rest = lines.pop()
        if lines and (self._pieces or self._first):
            first = self._take(lines[0])
            if first is None:
                return []
            lines[0] = first
        if len(data) > self._max:
            for at, line in enumerate(lines):
                if len(line) > self._max:
                    self.fault = "oversize"
                    del lines[at:]
                    break
        if rest and not self.fault:
            self._keep(rest)
        return [(None, line) for line in lines if line and (line[0] > 32 or not line.isspace())]

    def finish(self) -> list[Frame]:
        if not self._pieces or self.fault:
            return []
        line = self._take(b"")
        return [] if not line or line.isspace() else [(None, line)]


_OUTSIDE = re.compile(rb'["{}\[\],]')
_INSIDE = re.compile(rb'["\\]')
_BLANK = b" \t\r\n"


class JsonArray:
    """The elements of one JSON array, or JSON texts one after the other, as they complete.

    Structure is followed by brackets and strings alone; whether an element is JSON is for its reader to say.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self.fault: str | None = None
        self.cut = False
        self._max = max_frame_bytes
        self._pieces: list[bytes] = []
        self._pending = 0
        self._depth = 0
        self._level: int | None = None  # the depth that elements stand at: 1 in an array, else 0
        self._in_string = False
        self._escaped = False
        self._head = b""  # what came before the first thing that is not blank

    def feed(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        if self.fault or not data:
            return frames
        at = 0
        if self._level is None:
            data = (self._head + data).removeprefix(BOM).lstrip(_BLANK)
            if not data or BOM.startswith(data):
                self._head = data
                return frames
            self._level = 1 if data[0] == 91 else 0
            at = self._depth = self._level
        self._scan(data, at, frames)
        return frames

    def _scan(self, data: bytes, at: int, frames: list[Frame]) -> None:
        start, end = at, len(data)
        while at < end:
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                    at += 1
                    continue
                found = _INSIDE.search(data, at)
                if found is None:
                    break
                at = found.end()
                if found.group() == b"\\":
                    self._escaped = True
                else:
                    self._in_string = False
                continue
            found = _OUTSIDE.search(data, at)
            if found is None:
                break
            at = found.end()
            mark = found.group()
            if mark == b'"':
                self._in_string = True
            elif mark in b"{[":
                self._depth += 1
            elif mark in b"}]":
                self._depth -= 1
                if self._depth == 0 and self._level == 0:
                    self._end(data[start:at], frames)
                    start = at
                elif self._depth == 0:  # the array's own bracket
                    self._end(data[start : at - 1], frames)
                    start, self._level = at, 0
            elif self._depth == self._level:
                self._end(data[start : at - 1], frames)
                start = at
            if self.fault:
                return
        self._keep(data[start:])

    def _keep(self, piece: bytes) -> None:
        if not self._pieces:
            piece = piece.lstrip(_BLANK)
        if piece:
            self._pieces.append(piece)
            self._pending += len(piece)
            if self._pending > self._max:
                self.fault = "oversize"

    def _end(self, piece: bytes, frames: list[Frame]) -> None:
        self._keep(piece)
        if not self.fault and self._pieces:
            frames.append((None, b"".join(self._pieces).rstrip(_BLANK)))
        self._pieces = []
        self._pending = 0

    def finish(self) -> list[Frame]:
        frames: list[Frame] = []
        if self.fault:
            return frames
        self.cut = self._depth > 0 or self._in_string
        self._end(b"", frames)
        return frames


class _Said(msgspec.Struct, frozen=True):
    """What a message's headers say: the event's name, and the payload where they stand for one."""

    name: str | None
    payload: bytes


class EventStream:
    """Binary messages with headers and check sums.

    A message is: total length, length of headers, CRC of those 8 bytes; headers; payload; CRC of all before it. All
    numbers are big-endian, the CRCs are CRC-32. The frame's name is the event's type, or the exception's. A sum that
    does not match is a frame that cannot be read.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self.fault: str | None = None
        self.cut = False
        self._max = max_frame_bytes
        self._pieces: list[bytes] = []
        self._size = 0
        self._wanted = _PRELUDE_BYTES  # bytes that the next step needs: a prelude, then a whole message
        self._head: bytes | None = None  # the last headers that were read, and what they say
        self._said = _Said(None, b"")

    def feed(self, data: bytes) -> list[Frame]:
        frames: list[Frame] = []
        if self.fault or not data:
            return frames
        self._pieces.append(data)
        self._size += len(data)
        if self._size < self._wanted:
            return frames
        held = data if len(self._pieces) == 1 else b"".join(self._pieces)
        at, end = 0, len(held)
        while end - at >= self._wanted:
            total, headers, check = _PRELUDE.unpack_from(held, at)
            if self._wanted == _PRELUDE_BYTES:
                if zlib.crc32(held[at : at + 8]) != check or total < _PRELUDE_BYTES + headers + 4:
                    self.fault = "unreadable_frame"
                elif total > self._max:
                    self.fault = "oversize"
                else:
                    self._wanted = total
                    if end - at >= total:
                        continue
                break
            start, stop = at + _PRELUDE_BYTES + headers, at + total - 4
            if zlib.crc32(held[at:stop]) != _NUMBER.unpack_from(held, stop)[0]:
                self.fault = "unreadable_frame"
                break
            said = self._read_headers(held[at + _PRELUDE_BYTES : start])
            if said is None:
                self.fault = "unreadable_frame"
                break
            payload = held[start:stop] or said.payload
            if payload:
                frames.append((said.name, payload))
            at += total
            self._wanted = _PRELUDE_BYTES
        self._pieces = [held[at:]]
        self._size = end - at
        return frames

    def _read_headers(self, data: bytes) -> _Said | None:
        """What the headers of a message say, None if they are none. The same ones stand before frame after frame."""
        if data == self._head:
            return self._said
        try:
            headers = _event_headers(data)
        except (IndexError, KeyError, struct.error):
            return None
        name = headers.get(b":exception-type") or headers.get(b":event-type") or headers.get(b":error-code")
        payload = b""
        if headers.get(b":message-type") == b"exception":
            payload = b"{}"  # its name says what is wrong
        elif headers.get(b":message-type") == b"error":
            said = headers.get(b":error-message", b"").decode("utf-8", "replace")
            import json  # rare

            payload = json.dumps({"message": said}).encode()
        self._head, self._said = data, _Said(None if name is None else name.decode("utf-8", "replace"), payload)
        return self._said

    def finish(self) -> list[Frame]:
        self.cut = self._size > 0 and self.fault is None
        return []


_PRELUDE = struct.Struct(">III")
_PRELUDE_BYTES = 12
_NUMBER = struct.Struct(">I")
_LENGTH = struct.Struct(">H")
# The sizes of header values by their type's number; 6 and 7 (bytes and text) carry their own length.
_HEADER_SIZES = {0: 0, 1: 0, 2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}


def _event_headers(data: bytes) -> dict[bytes, bytes]:
    """Headers of one message, values as bytes. Raises IndexError, KeyError or struct.error on what is none."""
    headers: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        length = data[at]
        name = data[at + 1 : at + 1 + length]
        at += 1 + length
        kind = data[at]
        at += 1
        if kind in (6, 7):
            (size,) = _LENGTH.unpack(data[at : at + 2])
            at += 2
        else:
            size = _HEADER_SIZES[kind]
        if at + size > len(data):
            raise IndexError(name)
        headers[name] = data[at : at + size]
        at += size
    return headers


class Body:
    """The whole body as one frame."""

    def __init__(self, max_frame_bytes: int) -> None:
        self.fault: str | None = None
        self.cut = False
        self._max = max_frame_bytes
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Frame]:
        if not self.fault:
            self._pieces.append(data)
            self._size += len(data)
            if self._size > self._max:
                self.fault = "oversize"
                self._pieces.clear()
        return []

    def finish(self) -> list[Frame]:
        data = b"".join(self._pieces).removeprefix(BOM)
        self._pieces.clear()
        if self.fault or not data.strip(_BLANK):
            return []
        return [(None, data)]


FRAMINGS: dict[str, type[Sse] | type[JsonLines] | type[JsonArray] | type[EventStream]] = {
    "sse": Sse,
    "ndjson": JsonLines,
    "json_array": JsonArray,
    "eventstream": EventStream,
}
