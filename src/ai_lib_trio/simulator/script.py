"""What the simulator answers: scripts of a reply, other replies, and the faults that may happen to any of them.

Plain values, no I/O. Imports `types`. The rule that must stay true: a script says what is answered and never how a
dialect writes it, so one script serves every dialect; a fault says what goes wrong with bytes, headers or the
connection, and never what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from ..types.events import FinishReason
from ..types.usage import Usage

__all__ = [
    "Body",
    "CloseUnderNextRequest",
    "ContentType",
    "Cut",
    "Encoded",
    "Error",
    "Fault",
    "Finish",
    "Head",
    "Headers",
    "Hold",
    "Insert",
    "LineEnds",
    "Native",
    "Omit",
    "Oversize",
    "Pause",
    "Pieces",
    "Raw",
    "Refusal",
    "RepeatEnd",
    "Reply",
    "Script",
    "SplitCharacters",
    "Stall",
    "Status",
    "Step",
    "Text",
    "Thinking",
    "ToolCall",
    "Transfer",
    "Trickle",
    "Usage",
    "Waitable",
    "Writes",
    "html_page",
    "not_json",
    "redirect",
]

Pieces = Literal["words", "whole"] | int | tuple[int, ...]
"""How text is cut into frames: by words, not at all, in pieces of n characters, or in pieces of these lengths, the last
one repeated."""


class Waitable(Protocol):
    """Something to wait for; a `trio.Event` is one."""

    async def wait(self) -> None:
        """Return when it has happened."""
        ...


# ---- the steps of a script ----


class Text(msgspec.Struct, frozen=True):
    """A block of text. `signature` goes out where the dialect signs text."""

    text: str
    signature: str | None = None
    candidate: int = 0


class Thinking(msgspec.Struct, frozen=True):
    """A block of reasoning, with the seals that the dialect has a place for. One that it cannot do without is made."""

    text: str = ""
    signature: str | None = None
    encrypted: str | None = None
    id: str | None = None
    candidate: int = 0


class Refusal(msgspec.Struct, frozen=True):
    """The model's own words of refusal, where the dialect tells them from text."""

    text: str
    candidate: int = 0


class ToolCall(msgspec.Struct, frozen=True):
    """A call for the client. `arguments` is a JSON object, or text that goes out as it is, JSON or not.

    Without an `id` the dialect makes one, where its calls have ids.
    """

    name: str
    arguments: Any = msgspec.field(default_factory=dict)
    id: str | None = None
    signature: str | None = None
    candidate: int = 0


class Finish(msgspec.Struct, frozen=True):
    """Why a candidate ended, in the standard words; `raw` goes out instead where it is given."""

    reason: FinishReason = "end_turn"
    raw: str | None = None
    candidate: int = 0


class Error(msgspec.Struct, frozen=True):
    """An error inside a stream that began with 200: the reply ends here, but for steps that follow in the script.

    In a reply that is not streamed it is the whole body, under `status`.
    """

    message: str
    code: str | None = None
    type: str | None = None
    status: int = 500


class Native(msgspec.Struct, frozen=True):
    """One frame as it is: a JSON value for the dialect's framing, or bytes for the wire. Not in whole bodies."""

    data: Any


class Pause(msgspec.Struct, frozen=True):
    """`seconds` without a byte."""

    seconds: float


class Hold(msgspec.Struct, frozen=True):
    """No byte before somebody lets it go on: how a test holds a stream still without sleeping."""

    until: Any  # a Waitable; Any because structs cannot check a Protocol


Step = Text | Thinking | Refusal | ToolCall | Usage | Finish | Error | Native | Pause | Hold
"""What a script may consist of, in the order it is said."""


# ---- faults ----


class Cut(msgspec.Struct, frozen=True):
    """The reply stops after so many bytes or frames of its body.

    `how`: `close` ends the connection with a FIN, `reset` with an RST, `end` ends the body as HTTP has it, so that
    only the dialect's own end is missing.
    """

    after_bytes: int | None = None
    after_frames: int | None = None
    how: Literal["close", "reset", "end"] = "close"


class Stall(msgspec.Struct, frozen=True):
    """Nothing is sent for `seconds`, before the head or after so many frames. The client's leaving is still seen."""

    at: Literal["head"] | int = "head"
    seconds: float = math.inf


class Insert(msgspec.Struct, frozen=True):
    """Bytes of no meaning between two frames: garbage, comments, a frame of nobody's."""

    data: bytes = b'\x00\xff\xfe{"\xc3\x28\n\n'
    after_frames: int = 1
    every: bool = False  # after every n-th frame, not only once


class Trickle(msgspec.Struct, frozen=True):
    """The body goes out at this many bytes a second, `step` bytes at a time."""

    bytes_per_second: float
    step: int = 1


class Writes(msgspec.Struct, frozen=True):
    """The body goes out in writes of these sizes (the last repeats), whatever the frames, with a pause between."""

    sizes: tuple[int, ...] = (1,)
    pause: float = 0.0


class SplitCharacters(msgspec.Struct, frozen=True):
    """Every write ends inside a character, where there is one of more than one byte; `pause` seconds between."""

    pause: float = 0.0


class LineEnds(msgspec.Struct, frozen=True):
    """The framing's line ends are these instead of LF. Text inside frames keeps its own."""

    ends: Literal["\r\n", "\r"] = "\r\n"


class ContentType(msgspec.Struct, frozen=True):
    """The reply calls itself something else; None leaves the header out."""

    value: str | None


class Headers(msgspec.Struct, frozen=True):
    """Headers added to the reply's, or in place of those of the same name."""

    headers: Mapping[str, str]


class Head(msgspec.Struct, frozen=True):
    """These bytes instead of the status line and headers."""

    data: bytes


class Encoded(msgspec.Struct, frozen=True):
    """The body is compressed, frame by frame, and the header says so."""

    coding: Literal["gzip", "deflate"] = "gzip"


class Transfer(msgspec.Struct, frozen=True):
    """How the body's end is marked: chunks, a length, or the end of the connection."""

    how: Literal["chunked", "length", "close"]


class RepeatEnd(msgspec.Struct, frozen=True):
    """The last frame of the stream comes twice."""


class Omit(msgspec.Struct, frozen=True):
    """Frames of these kinds never come: start, finish, usage, end, done."""

    kinds: tuple[str, ...]


class Oversize(msgspec.Struct, frozen=True):
    """A frame of about `size` bytes: the first one of text, its text repeated until it is that long."""

    size: int


class CloseUnderNextRequest(msgspec.Struct, frozen=True):
    """The connection looks kept alive, and closes when the next request's first bytes arrive."""

    how: Literal["close", "reset"] = "close"


Fault = (
    Cut
    | Stall
    | Insert
    | Trickle
    | Writes
    | SplitCharacters
    | LineEnds
    | ContentType
    | Headers
    | Head
    | Encoded
    | Transfer
    | RepeatEnd
    | Omit
    | Oversize
    | CloseUnderNextRequest
)
"""What may go wrong with a reply, on the wire."""


# ---- replies ----


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """A reply in steps. `Usage` and `Finish` are facts of the whole reply: the dialect knows where they belong.

    Without a `Finish` the reason is `tool_use` where a call was made, else `end_turn`; without `Usage` none is
    reported. `pace` is seconds before every frame of output after the first, `first_token_delay` seconds between
    the head and the first frame (or before the head of a whole body). `model` answers in place of the one asked.
    """

    steps: Sequence[Step] = ()
    pace: float = 0.0
    first_token_delay: float = 0.0
    pieces: Pieces = "words"
    model: str | None = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    faults: Sequence[Fault] = ()


class Status(msgspec.Struct, frozen=True):
    """An error reply in the dialect's own form. `retry_after` goes out as that header's value."""

    status: int
    message: str = "simulated error"
    code: str | None = None
    type: str | None = None
    param: str | None = None
    retry_after: str | float | None = None
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    faults: Sequence[Fault] = ()


class Body(msgspec.Struct, frozen=True):
    """A reply of these bytes, whatever the dialect."""

    data: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = msgspec.field(default_factory=dict)
    faults: Sequence[Fault] = ()


class Raw(msgspec.Struct, frozen=True):
    """These bytes on the connection, status line and all, then its end."""

    data: bytes
    how: Literal["close", "reset"] = "close"


Reply = Script | Status | Body | Raw
"""What may be answered: a script in the dialect's words, an error, a body of no dialect, or bytes."""


def html_page(status: int = 502, text: str = "Bad Gateway") -> Body:
    """What a proxy answers in place of the provider."""
    page = f"<html><head><title>{status} {text}</title></head><body><h1>{status} {text}</h1></body></html>\n"
    return Body(page.encode(), status, "text/html; charset=utf-8")


def redirect(location: str, status: int = 307) -> Body:
    """A reply that sends the client elsewhere; ours does not follow (kind `redirected`)."""
    return Body(b"", status, "text/plain", {"location": location})


def not_json(text: str = "upstream said: {not json", status: int = 200) -> Body:
    """A body that calls itself JSON and is none."""
    return Body(text.encode(), status)
