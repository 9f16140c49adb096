"""What the tests of resilience share: a small honest service whose attempts are scripted, and a clock that jumps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import trio

from ai_lib_trio.errors import AdmissionError, AiLibError, ProviderError, TransportError
from ai_lib_trio.service import Call, Outlet, Ticket
from ai_lib_trio.types.events import (
    FinalCandidate,
    Metadata,
    PartialContentDelta,
    StreamEnd,
    StreamingEvent,
    commits,
)
from ai_lib_trio.types.request import Request
from ai_lib_trio.types.stats import AttemptState


class Goal:
    """A target, as far as policies look at it."""

    def __init__(self, ref: str = "acme/one") -> None:
        self.ref = ref


class FakeEntry:
    def __init__(self, call: Call) -> None:
        self.call = call
        self.error: AiLibError | None = None
        self.is_settled = False
        self.verdict: Any = None
        self.reached: AttemptState = "unsent"

    def state(self) -> AttemptState:
        return "complete" if self.is_settled and self.error is None else self.reached

    def cost(self) -> float | None:
        return None


def text(content: str) -> PartialContentDelta:
    return PartialContentDelta(content)


ENDING: tuple[StreamingEvent, ...] = (FinalCandidate(0, "end_turn", "stop"), StreamEnd("end_turn", "stop"))


class Script:
    """A service: each attempt plays the next part. A part is a list of seconds to wait, events, states and errors.

    `began` holds the time of every attempt, `open` how many are under way.
    """

    def __init__(self, *parts: Sequence[Any]) -> None:
        self.parts = list(parts)
        self.began: list[float] = []
        self.calls: list[Call] = []
        self.open = 0
        self.ended = 0

    async def __call__(self, call: Call, outlet: Outlet) -> None:
        entry = FakeEntry(call)
        call.log.append(entry)
        call.attempt = len(call.log)
        call.entry = entry
        self.began.append(trio.current_time())
        self.calls.append(call)
        self.open += 1
        part = self.parts.pop(0) if len(self.parts) > 1 else self.parts[0]
        try:
            await trio.lowlevel.checkpoint()
            for step in part:
                if isinstance(step, int | float):
                    await trio.sleep(step)
                elif isinstance(step, str):
                    entry.reached = step  # type: ignore[assignment]
                elif isinstance(step, AiLibError):
                    entry.error = step
                    entry.is_settled = True
                    raise step
                else:
                    batch = [step] if not isinstance(step, list | tuple) else list(step)
                    if any(commits(event) for event in batch):
                        entry.reached = "partial"
                    if not outlet.send_nowait(batch):
                        await outlet.wait_room()
            entry.is_settled = True
        finally:
            # Closing a connection takes a few turns of the scheduler, shielded, as an exchange's end does.
            with trio.CancelScope(shield=True):
                await trio.lowlevel.checkpoint()
            if not entry.is_settled:
                entry.is_settled = True
                entry.error = AdmissionError("left", kind="client_closed")
            self.open -= 1
            self.ended += 1


class Gathered:
    """An outlet that keeps the events."""

    def __init__(self) -> None:
        self.events: list[StreamingEvent] = []

    def send_nowait(self, batch: Sequence[StreamingEvent]) -> bool:
        self.events.extend(batch)
        return True

    async def wait_room(self) -> None:
        return None

    @property
    def text(self) -> str:
        return "".join(event.content for event in self.events if isinstance(event, PartialContentDelta))


def call_to(ref: str = "acme/one", **fields: Any) -> Call:
    return Call(fields.pop("number", 1), Request(model="one"), Goal(ref), **fields)


def answer(*pieces: str) -> list[Any]:
    """A whole answer: metadata, the pieces as one batch each, the end."""
    return [Metadata(response_id="r"), *(text(piece) for piece in pieces), list(ENDING)]


def refusal(status: int = 503, code: str = "E3002", **fields: Any) -> ProviderError:
    return ProviderError(f"HTTP {status}", status=status, code=code, **fields)


def fault(kind: str) -> TransportError:
    return TransportError(kind, kind=kind)


def ticket(number: int, *, model: str = "m", now: float = 0.0, **fields: Any) -> Ticket:
    return Ticket(number=number, attempt=fields.pop("attempt", 1), model=model, arrived=now, **fields)
