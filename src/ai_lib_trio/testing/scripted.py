"""An engine without sockets: replies are scripts, time is trio's clock, and everything asked is written down.

Imports `errors`, `transport.base` and trio. The rule that must stay true: it behaves as the seam promises
(transport/base): it reads on only where the sink has room, and when `exchange` is left nothing calls the sink again.

    slow = [Sending(), Wait(2.0), Head(200, {"content-type": "text/event-stream"}), Data(b"data: ..."), Stall()]
    async with open_client(model, config=Config(transport=ScriptedTransport(slow))) as client: ...

On `trio.testing.MockClock(autojump_threshold=0)` an hour of waiting takes no time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Union

import trio

from ..transport.base import Sink, WireRequest

__all__ = [
    "Asked",
    "Data",
    "Fail",
    "Head",
    "Hold",
    "ScriptedEngine",
    "ScriptedTransport",
    "Sending",
    "Stall",
    "Step",
    "Wait",
    "json_reply",
    "ndjson_reply",
    "sse_reply",
]


class Wait(NamedTuple):
    """Let this many seconds pass."""

    seconds: float


class Sending(NamedTuple):
    """The connection is there and the request goes out. Left out, it happens just before the head."""


class Head(NamedTuple):
    """The status line and headers."""

    status: int = 200
    headers: Mapping[str, str] = {}


class Data(NamedTuple):
    """One read's worth of the body."""

    chunk: bytes


class Hold(NamedTuple):
    """Wait until the test sets the event."""

    event: trio.Event


class Stall(NamedTuple):
    """Say nothing more: only cancellation ends this."""


class Fail(NamedTuple):
    """Raise this, as an engine raises `TransportError` for a fault of the wire."""

    error: BaseException


Step = Union[Wait, Sending, Head, Data, Hold, Stall, Fail]  # noqa: UP007 - evaluated on Python 3.10 as well
"""What an exchange may consist of, in the order it happens."""

Script = Sequence[Step]


class Asked:
    """One exchange, as the engine saw it. Times are trio's clock.

    `ended` is None while it runs, then `done`, `cancelled`, or the name of the exception it ended with. `pushed` counts
    the body's bytes that the sink took, `chunks` the reads, `waits` how often it was asked to wait for room.
    """

    __slots__ = ("chunks", "ended", "ended_at", "origin", "pushed", "request", "started_at", "waits")

    def __init__(self, origin: str, request: WireRequest, now: float) -> None:
        self.origin = origin
        self.request = request
        self.started_at = now
        self.ended_at: float | None = None
        self.ended: str | None = None
        self.pushed = 0
        self.chunks = 0
        self.waits = 0

    @property
    def body(self) -> Any:
        """The request's body, decoded from JSON."""
        return json.loads(self.request.body)

    def __repr__(self) -> str:
        return f"<Asked {self.request.method} {self.ended or 'open'} {self.chunks} reads>"


class ScriptedEngine:
    """One engine, as an actor owns one. Made by a `ScriptedTransport`, which holds the journal."""

    def __init__(self, transport: ScriptedTransport, origin: str) -> None:
        self.origin = origin
        self.is_closed = False
        self._transport = transport

    async def exchange(self, request: WireRequest, sink: Sink) -> None:
        """See `transport.base.Engine`."""
        asked = Asked(self.origin, request, trio.current_time())
        self._transport.asked.append(asked)
        asked.ended = None
        has_sent = False
        how = "cancelled"
        try:
            script = self._transport.script_for(request)
            await trio.lowlevel.checkpoint()  # connecting, or taking a connection, is a place to be cancelled at
            for step in script:
                if isinstance(step, Wait):
                    await trio.sleep(step.seconds)
                elif isinstance(step, Hold):
                    await step.event.wait()
                elif isinstance(step, Stall):
                    await trio.sleep_forever()
                elif isinstance(step, Fail):
                    raise step.error
                elif isinstance(step, Sending):
                    has_sent = True
                    sink.sending()
                    await trio.lowlevel.checkpoint()
                elif isinstance(step, Head):
                    if not has_sent:
                        sink.sending()
                        await trio.lowlevel.checkpoint()
                    sink.head(step.status, [(name.lower(), value) for name, value in step.headers.items()])
                else:
                    await trio.lowlevel.checkpoint()  # a read
                    has_room = sink.data(step.chunk)
                    asked.pushed += len(step.chunk)
                    asked.chunks += 1
                    if not has_room:
                        asked.waits += 1
                        await sink.wait_room()
            await trio.lowlevel.checkpoint()  # the read that finds the end
            how = "done"
        except Exception as exc:
            how = type(exc).__name__
            raise
        finally:
            asked.ended = how
            asked.ended_at = trio.current_time()

    async def aclose(self) -> None:
        """See `transport.base.Engine`."""
        self.is_closed = True
        await trio.lowlevel.checkpoint()

    def __repr__(self) -> str:
        return f"<ScriptedEngine {self.origin} {'closed' if self.is_closed else 'open'}>"


class ScriptedTransport:
    """What `Config(transport=...)` takes: makes the engines, and keeps one journal over all of them.

    With one script every request gets that; with several they are given in order, the last one again and again. A
    function decides by the request: it is called with the `WireRequest` and gives a script.
    """

    def __init__(self, *scripts: Script | Callable[[WireRequest], Script]) -> None:
        if not scripts:
            raise ValueError("give at least one script")
        self._scripts = list(scripts)
        self.asked: list[Asked] = []
        self.engines: list[ScriptedEngine] = []

    def __call__(self, origin: str) -> ScriptedEngine:
        engine = ScriptedEngine(self, origin)
        self.engines.append(engine)
        return engine

    def script_for(self, request: WireRequest) -> Script:
        """The script that answers this request. Called once per request."""
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        return script(request) if callable(script) else script

    @property
    def open_exchanges(self) -> int:
        """Exchanges that have begun and not ended."""
        return sum(asked.ended is None for asked in self.asked)

    def __repr__(self) -> str:
        return f"<ScriptedTransport {len(self.asked)} asked, {self.open_exchanges} open>"


def json_reply(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> list[Step]:
    """A whole JSON body in one read."""
    head = {"content-type": "application/json", **(headers or {})}
    return [Head(status, head), Data(json.dumps(value).encode())]


def sse_reply(
    frames: Iterable[Any], *, done: str | None = None, headers: Mapping[str, str] | None = None, pace_s: float = 0.0
) -> list[Step]:
    """An event stream, one read per frame, `pace_s` apart. A frame is a JSON value, or (event name, JSON value).

    `done` is the text of a last `data:` line, for wires that have one.
    """
    steps: list[Step] = [Head(200, {"content-type": "text/event-stream", **(headers or {})})]
    for frame in frames:
        name, value = frame if isinstance(frame, tuple) else (None, frame)
        lines = f"event: {name}\n" if name else ""
        if pace_s:
            steps.append(Wait(pace_s))
        steps.append(Data(f"{lines}data: {json.dumps(value)}\n\n".encode()))
    if done is not None:
        steps.append(Data(f"data: {done}\n\n".encode()))
    return steps


def ndjson_reply(lines: Iterable[Any], *, headers: Mapping[str, str] | None = None) -> list[Step]:
    """Newline-delimited JSON, one read per line."""
    steps: list[Step] = [Head(200, {"content-type": "application/x-ndjson", **(headers or {})})]
    steps += [Data(json.dumps(line).encode() + b"\n") for line in lines]
    return steps
