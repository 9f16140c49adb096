"""Mid-stream failover: an answer that was cut goes on from another target, without a missing or repeated character.

Imports `delivery` and types. Pure. The rules that must stay true: a tool call reaches the caller whole or not at all;
what was delivered stays as it is, and what follows is numbered after it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..service import Batch, Source
from ..types.events import (
    Metadata,
    OpaqueBlock,
    PartialContentDelta,
    PartialToolCall,
    Rerouted,
    StreamEnd,
    StreamError,
    StreamingEvent,
    ToolCallEnded,
    ToolCallStarted,
)
from ..types.message import Message
from ..types.request import Request
from .delivery import Delivery

__all__ = ["MIN_OVERLAP", "Splice", "Trimmer"]

# A shorter match is chance: two texts that go on from one another often share a word, seldom a line of this length.
MIN_OVERLAP = 24
TAIL_CHARS = 4000  # how far back a repetition is looked for


class Trimmer:
    """Takes from the beginning of a text what repeats the end, or all, of what stands before it.

    Text is held back while it may still turn out to be a repetition, and given out once it cannot. White space at the
    very end of what stands before is not handed to the next target (some refuse it), so it comes again and is taken.
    """

    __slots__ = ("_before", "_held", "_is_done", "_space", "trimmed")

    def __init__(self, before: str) -> None:
        self._before = before
        self._space = before[len(before.rstrip()) :]
        self._held = ""
        self._is_done = len(before) < MIN_OVERLAP and not self._space
        self.trimmed = 0

    def feed(self, text: str) -> str:
        """The part of it that is new, as far as that is known."""
        if self._is_done:
            return text
        self._held += text
        if self._may_repeat():
            return ""
        return self.end()

    def end(self) -> str:
        """What is held, without the repetition."""
        if self._is_done:
            return ""
        self._is_done = True
        held, self._held = self._held, ""
        self.trimmed = self._overlap(held)
        return held[self.trimmed :]

    def _may_repeat(self) -> bool:
        """Whether the held text occurs in the text before, so that more of it could reach its end."""
        before, held = self._before, self._held
        if self._space.startswith(held):
            return len(held) < len(self._space)
        if len(before) < MIN_OVERLAP:
            return False
        if before.startswith(held):
            return len(held) < len(before)
        tail = before[-TAIL_CHARS:]
        at = tail.find(held)
        while at >= 0:
            rest = len(tail) - at
            if rest >= MIN_OVERLAP and rest > len(held):
                return True
            at = tail.find(held, at + 1)
        return False

    def _overlap(self, held: str) -> int:
        before = self._before
        if len(before) >= MIN_OVERLAP:
            if held.startswith(before):
                return len(before)
            tail = before[-TAIL_CHARS:]
            for length in range(min(len(tail), len(held)), MIN_OVERLAP - 1, -1):
                if tail.endswith(held[:length]):
                    return length
        again = 0
        while again < min(len(self._space), len(held)) and held[again] == self._space[again]:
            again += 1
        return again


class Splice:
    """An outlet that joins the answers of several attempts into one.

    Tool calls are held until they are complete; `onward` begins the next attempt's part.
    """

    def __init__(self, outlet: Delivery) -> None:
        self._outlet = outlet
        self._text: list[str] = []
        self._calls: dict[int, list[StreamingEvent]] = {}  # by block, not complete yet
        self._block_offset = 0
        self._call_offset = 0
        self._last_block = -1
        self._begun = ""  # the text that targets before the present one delivered: what it was asked to go on from
        self.calls = 0  # delivered, whole
        self.candidates = 1
        self._trimmer: Trimmer | None = None
        self._trimmed_at = 0

    @property
    def text(self) -> str:
        """The text that was delivered."""
        return "".join(self._text)

    def onward(self) -> None:
        """The attempt was cut: drop what is not whole, and number the next attempt's parts after these.

        What the last trimmer still held was never delivered: the next target goes on from what was.
        """
        self._calls.clear()
        self._block_offset = self._last_block + 1
        self._call_offset = self.calls
        self._begun = self.text
        self._trimmer = Trimmer(self._begun)

    def restart(self) -> None:
        """Everything delivered was voided."""
        self._begun = ""
        self._text.clear()
        self._calls.clear()
        self._trimmer = None
        self._block_offset = self._call_offset = self.calls = 0
        self._last_block = -1

    def continuing(self, request: Request) -> Request:
        """The request that asks another target to go on from here."""
        text = self.text.rstrip()
        if not text:
            return request
        return msgspec.structs.replace(request, messages=(*request.messages, Message.assistant(text)))

    def send_nowait(self, batch: Batch) -> bool:
        """See `service.Outlet`."""
        out: list[StreamingEvent] = []
        has_room = True
        for event in batch:
            if isinstance(event, Rerouted):  # the same target began again
                begun = self._begun
                if event.discard:
                    self.restart()
                has_room = self._outlet.reroute(event)
                out.clear()
                if event.discard and begun:
                    # It will go on from there again, for that is what it was asked: the beginning is the caller's too.
                    self._add_text(PartialContentDelta(begun), out)
                    self.onward()
                continue
            self._add(event, out)
        return self._outlet.send_nowait(out) if out else has_room

    async def wait_room(self) -> None:
        """See `service.Outlet`."""
        await self._outlet.wait_room()

    def lend(self, source: Source) -> bool:
        """See `service.Outlet`."""
        return self._outlet.lend(source)

    def _add(self, event: StreamingEvent, out: list[StreamingEvent]) -> None:
        if isinstance(event, PartialContentDelta):
            self._add_text(event, out)
            return
        if isinstance(event, StreamEnd | Metadata | StreamError | Rerouted):
            if isinstance(event, StreamEnd):
                self._release_into(out)
            out.append(event)
            return
        self.candidates = max(self.candidates, event.candidate_index + 1)
        event = self._shifted(event)
        if isinstance(event, ToolCallStarted):
            self._see(event.block_index)
            self._calls[event.block_index] = [event]
        elif isinstance(event, PartialToolCall) and event.block_index in self._calls:
            self._calls[event.block_index].append(event)
        elif isinstance(event, OpaqueBlock) and event.index in self._calls:
            self._calls[event.index].append(event)
        elif isinstance(event, ToolCallEnded) and event.block_index in self._calls:
            out.extend(self._calls.pop(event.block_index))
            out.append(event)
            self.calls += 1
        else:
            self._see(getattr(event, "block_index", -1))
            out.append(event)

    def _add_text(self, event: PartialContentDelta, out: list[StreamingEvent]) -> None:
        self.candidates = max(self.candidates, event.candidate_index + 1)
        block = event.block_index + self._block_offset
        text = event.content
        if self._trimmer is not None:
            self._trimmed_at = block
            text = self._trimmer.feed(text)
            if not text:
                return
        elif not self._block_offset:
            self._see(block)
            self._text.append(text)
            out.append(event)
            return
        self._see(block)
        self._text.append(text)
        out.append(PartialContentDelta(text, block, event.candidate_index))

    def _release_into(self, out: list[StreamingEvent]) -> None:
        rest = self._trimmer.end() if self._trimmer is not None else ""
        if rest:
            self._text.append(rest)
            self._see(self._trimmed_at)
            out.append(PartialContentDelta(rest, self._trimmed_at))

    def _see(self, block: int) -> None:
        self._last_block = max(self._last_block, block)

    def _shifted(self, event: StreamingEvent) -> StreamingEvent:
        if not self._block_offset and not self._call_offset:
            return event
        changes: dict[str, int] = {}
        if isinstance(event, OpaqueBlock):
            changes["index"] = event.index + self._block_offset
        elif hasattr(event, "block_index"):
            changes["block_index"] = event.block_index + self._block_offset
        if isinstance(event, ToolCallStarted | PartialToolCall | ToolCallEnded):
            changes["index"] = event.index + self._call_offset
        replace: Callable[..., StreamingEvent] = msgspec.structs.replace
        return replace(event, **changes) if changes else event
