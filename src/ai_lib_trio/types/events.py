"""The events of a reply, the same for every provider. `StreamingEvent` is their union.

Imports nothing of ours. `block_index` counts the blocks of one candidate in the order they began; events of
several candidates carry `candidate_index`. Structs hold no cycles, so they stay out of the garbage collector
(`gc=False`) where they hold no containers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from .usage import Usage

__all__ = [
    "Citation",
    "FinalCandidate",
    "FinishReason",
    "MediaPart",
    "Metadata",
    "OpaqueBlock",
    "PartialContentDelta",
    "PartialToolCall",
    "RefusalDelta",
    "Rerouted",
    "ServerToolCall",
    "StreamEnd",
    "StreamError",
    "StreamingEvent",
    "ThinkingDelta",
    "ToolCallEnded",
    "ToolCallStarted",
    "commits",
    "has_output",
]

FinishReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "pause_turn", "other"]


class PartialContentDelta(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True, gc=False):
    """A piece of the answer's text."""

    content: str
    block_index: int = 0
    candidate_index: int = 0


class ThinkingDelta(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True, gc=False):
    """A piece of reasoning. `part_index` counts summary parts where the wire separates them."""

    thinking: str
    block_index: int = 0
    candidate_index: int = 0
    part_index: int | None = None


class RefusalDelta(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True, gc=False):
    """A piece of the model's own words of refusal."""

    text: str
    block_index: int = 0
    candidate_index: int = 0


class ToolCallStarted(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True, gc=False):
    """A call for the client begins. `index` counts the candidate's calls; `wire_id` is None for a generated id.

    `item_id` is a second id that some wires keep on a call and want back.
    """

    tool_call_id: str
    tool_name: str
    index: int = 0
    block_index: int = 0
    candidate_index: int = 0
    wire_id: str | None = None
    item_id: str | None = None


class PartialToolCall(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True, gc=False):
    """A piece of a call's arguments, as text."""

    arguments: str
    index: int = 0
    tool_call_id: str = ""
    block_index: int = 0
    candidate_index: int = 0


class ToolCallEnded(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True, gc=False):
    """The call's arguments are complete."""

    tool_call_id: str
    index: int = 0
    block_index: int = 0
    candidate_index: int = 0


class ServerToolCall(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True):
    """A call that the provider made and ran itself, or what such a call gave.

    `native` is the block as the wire has it, whole, for the next turn.
    """

    id: str
    name: str
    arguments: Any = None
    result: Any = None
    block_index: int = 0
    candidate_index: int = 0
    native: Any = None


class Citation(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True):
    """A source that the answer cites, as the wire has it."""

    data: Any
    block_index: int = 0
    candidate_index: int = 0


class MediaPart(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True, gc=False):
    """An image, sound or file in the answer: base64 `data` or a `url`."""

    mime_type: str
    data: str | None = None
    url: str | None = None
    block_index: int = 0
    candidate_index: int = 0


class OpaqueBlock(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True):
    """What the wire needs back unchanged on the next turn.

    With `of`, a part of the block of that kind at `index`: `kind` is `signature`, `encrypted`, `id`, or `native` (an
    object of the attributes that the standard has no names for). Such a block may have no other event. Without `of`, a
    whole wire block that has no standard meaning: `kind` is its wire type and `data` the block as it came.
    """

    index: int
    kind: str
    data: Any
    candidate_index: int = 0
    of: Literal["text", "thinking", "call", "media"] | None = None


class Metadata(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True):
    """What is known about the reply: usage so far, the model that answered, the provider's id of the reply."""

    usage: Usage | None = None
    model: str | None = None
    response_id: str | None = None


class FinalCandidate(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True, gc=False):
    """One candidate is complete. `finish_reason` is standard, `raw_finish_reason` as the wire has it."""

    candidate_index: int = 0
    finish_reason: FinishReason = "other"
    raw_finish_reason: str | None = None


class StreamEnd(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True, gc=False):
    """The reply is complete."""

    finish_reason: FinishReason = "other"
    raw_finish_reason: str | None = None


class StreamError(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True):
    """A fault on the wire, as the pipeline saw it. Callers of `stream()` get the exception made from it instead.

    `kind` is one of `errors.KINDS`, or `provider` for an error that the provider sent inside the reply; `code`,
    `type`, `message` and `status` are the provider's own, `error` its whole object.
    """

    kind: str
    message: str = ""
    code: str | None = None
    type: str | None = None
    status: int | None = None
    error: Any = None


class Rerouted(msgspec.Struct, frozen=True, tag=True, tag_field="event", omit_defaults=True, gc=False):
    """The answer goes on from another target. `discard` voids everything delivered before this event."""

    from_model: str
    to_model: str
    reason: str
    discard: bool = False


StreamingEvent = (
    PartialContentDelta
    | ThinkingDelta
    | RefusalDelta
    | ToolCallStarted
    | PartialToolCall
    | ToolCallEnded
    | ServerToolCall
    | Citation
    | MediaPart
    | OpaqueBlock
    | Metadata
    | FinalCandidate
    | StreamEnd
    | StreamError
    | Rerouted
)
"""Any event of a reply. `async for` gives all of them but `StreamError`, in whose place it raises."""

_NO_OUTPUT = frozenset({Metadata, FinalCandidate, StreamEnd, StreamError, Rerouted})


def commits(event: StreamingEvent) -> bool:
    """Whether this event carries output: after the first one there is no hidden retry."""
    return type(event) not in _NO_OUTPUT


def has_output(batch: Sequence[StreamingEvent]) -> bool:
    """Whether one of the events commits."""
    for event in batch:  # noqa: SIM110  # a generator costs more than all of this
        if type(event) not in _NO_OUTPUT:
            return True
    return False
