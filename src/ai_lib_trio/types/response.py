"""Fold: a sequence of events becomes one reply.

Imports the other types. The rule that must stay true: folding the events of a stream and those of the same
answer's whole body gives the same reply, and a reply's `message` holds every block in the order it came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from .events import (
    Citation,
    FinalCandidate,
    FinishReason,
    MediaPart,
    Metadata,
    OpaqueBlock,
    PartialContentDelta,
    PartialToolCall,
    RefusalDelta,
    Rerouted,
    ServerToolCall,
    StreamEnd,
    StreamError,
    StreamingEvent,
    ThinkingDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from .message import (
    AudioBlock,
    Base64Source,
    Block,
    DocumentBlock,
    ImageBlock,
    Message,
    OpaqueContent,
    RefusalBlock,
    ServerToolBlock,
    Source,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    UrlSource,
    VideoBlock,
)
from .tool import ToolCall
from .usage import Usage

__all__ = ["Candidate", "ChatResponse", "Fold", "fold", "parse_arguments"]


class Candidate(msgspec.Struct, frozen=True, omit_defaults=True):
    """One answer. `blocks` are in the order they began; the other fields are views of them."""

    index: int = 0
    blocks: tuple[Block, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    server_tool_calls: tuple[ServerToolCall, ...] = ()
    citations: tuple[Citation, ...] = ()
    finish_reason: FinishReason | None = None
    raw_finish_reason: str | None = None

    @property
    def content(self) -> str:
        """All text blocks joined, without a separator."""
        return "".join(block.text for block in self.blocks if isinstance(block, TextBlock))

    @property
    def thinking(self) -> str:
        """All reasoning that can be read, joined; empty where there is none or all of it is sealed."""
        return "".join(block.text for block in self.blocks if isinstance(block, ThinkingBlock))

    @property
    def refusal(self) -> str:
        """The model's own words of refusal, joined; empty where it did not refuse."""
        return "".join(block.text for block in self.blocks if isinstance(block, RefusalBlock))


class ChatResponse(msgspec.Struct, frozen=True, omit_defaults=True):
    """A whole reply.

    `finish_reason` is None for a partial fold. `usage` fields that were not reported are None. `raw` is the decoded
    body of a reply that was not streamed. `message` is the assistant's message to append for the next turn. `call` is
    the client's number, a dot, and the call's, as log lines name it; empty for a fold of one's own.
    """

    candidates: tuple[Candidate, ...] = ()
    usage: Usage = msgspec.field(default_factory=Usage)
    model: str | None = None
    response_id: str | None = None
    request_id: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    dialect: str | None = None
    raw: Any = None
    call: str = ""

    @property
    def first(self) -> Candidate:
        """The first candidate; an empty one where nothing came."""
        return self.candidates[0] if self.candidates else Candidate()

    @property
    def content(self) -> str:
        """The first candidate's text."""
        return self.first.content

    @property
    def thinking(self) -> str:
        """The first candidate's reasoning, as far as it can be read."""
        return self.first.thinking

    @property
    def refusal(self) -> str:
        """The first candidate's words of refusal."""
        return self.first.refusal

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The first candidate's blocks, in the order they began."""
        return self.first.blocks

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The first candidate's calls for the client, complete ones only."""
        return self.first.tool_calls

    @property
    def server_tool_calls(self) -> tuple[ServerToolCall, ...]:
        """Calls that the provider made and ran itself, and what they gave."""
        return self.first.server_tool_calls

    @property
    def citations(self) -> tuple[Citation, ...]:
        """The sources that the first candidate's text cites."""
        return self.first.citations

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the first candidate ended, in the standard's words; None in a partial fold."""
        return self.first.finish_reason

    @property
    def raw_finish_reason(self) -> str | None:
        """The same in the provider's own words, where it said any."""
        return self.first.raw_finish_reason

    @property
    def message(self) -> Message:
        """The first candidate as an assistant message; sent back to the same dialect it reproduces every block."""
        return Message("assistant", self.blocks, dialect=self.dialect)


def parse_arguments(text: str) -> Any:
    """Tool arguments as JSON; empty text is `{}`, text that is no JSON stays as it is."""
    if not text.strip():
        return {}
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):  # half a surrogate pair is no JSON; nor is a pit
        return text


class _OpenBlock(msgspec.Struct, eq=False):
    """A block that is still being written."""

    kind: str
    pieces: list[str] = []  # each its own, as msgspec has it
    attributes: dict[str, Any] | None = None
    citations: list[Any] | None = None
    summary: dict[int, list[str]] | None = None
    call: ToolCallStarted | None = None
    ended: bool = False
    value: Block | ServerToolCall | None = None

    def block(self) -> Block | None:
        pieces = self.pieces
        text = pieces[0] if len(pieces) == 1 else "".join(pieces)
        own = self.attributes
        if self.kind == "text":
            if own is None:
                return TextBlock(text, citations=self.cited()) if text else None
            return TextBlock(
                text=text, signature=own.get("signature"), citations=self.cited(), native=own.get("native")
            )
        own = own or {}
        if self.kind == "thinking":
            parts = self.summary
            return ThinkingBlock(
                text=text,
                signature=own.get("signature"),
                encrypted=own.get("encrypted"),
                id=own.get("id"),
                summary=None if parts is None else tuple("".join(parts[key]) for key in sorted(parts)),
            )
        if self.kind == "refusal":
            return RefusalBlock(text=text)
        if self.kind == "call":
            call = self.call
            if call is None or not self.ended:  # a call that was cut off is never delivered as one
                return None
            return ToolUseBlock(
                id=call.tool_call_id,
                name=call.tool_name,
                input=parse_arguments(text),
                arguments=text,
                wire_id=call.wire_id,
                item_id=call.item_id,
                signature=own.get("signature"),
                native=own.get("native"),
            )
        if isinstance(self.value, ServerToolCall):
            server = self.value
            return ServerToolBlock(id=server.id, name=server.name, input=server.arguments, native=server.native)
        if isinstance(self.value, ImageBlock) and own:
            return msgspec.structs.replace(self.value, signature=own.get("signature"))
        return self.value

    def cited(self) -> tuple[Any, ...] | None:
        return None if self.citations is None else tuple(self.citations)


class _OpenCandidate(msgspec.Struct, eq=False):
    blocks: dict[Any, _OpenBlock] = {}
    citations: list[Citation] = []
    servers: list[ServerToolCall] = []
    finish: FinalCandidate | None = None

    def unseal(self) -> None:
        """Drop what only the wire that it came from can take back."""
        for key, block in list(self.blocks.items()):
            block.attributes = None
            if block.kind in ("opaque", "server"):
                del self.blocks[key]

    def open(self, index: int, kind: str) -> _OpenBlock:
        # A wire may put text and a call at one index; the kind keeps them apart, in order of first sight.
        block = self.blocks.get((index, kind))
        if block is None:
            block = self.blocks[index, kind] = _OpenBlock(kind)
        return block


class Fold:
    """Gathers events into a reply. `add` takes them one by one, `response` may be asked at any time."""

    def __init__(self) -> None:
        self._candidates: dict[int, _OpenCandidate] = {}
        self._usage: Usage | None = None
        self._model: str | None = None
        self._response_id: str | None = None
        self._end: StreamEnd | None = None
        self.discarded = 0  # replies voided by a reroute

    def _candidate(self, index: int) -> _OpenCandidate:
        candidate = self._candidates.get(index)
        if candidate is None:
            candidate = self._candidates[index] = _OpenCandidate()
        return candidate

    def add_all(self, events: Iterable[StreamingEvent]) -> None:
        adders = _ADDERS
        for event in events:
            adders[event.__class__](self, event)

    def add(self, event: StreamingEvent) -> None:
        _ADDERS[type(event)](self, event)

    def _add_metadata(self, event: Metadata) -> None:
        self._usage = event.usage or self._usage
        self._model = event.model or self._model
        self._response_id = event.response_id or self._response_id

    def _add_end(self, event: StreamEnd) -> None:
        self._end = event

    def _add_error(self, event: StreamError) -> None:
        """A fault is the caller's exception, and no part of a reply."""

    def _add_rerouted(self, event: Rerouted) -> None:
        if event.discard:
            self._candidates.clear()
            self._usage = self._model = self._response_id = None
            self.discarded += 1
        else:
            # What one wire wants back unread is nothing to another, which is where the message's next turn goes.
            for candidate in self._candidates.values():
                candidate.unseal()

    def _add_text(self, event: PartialContentDelta) -> None:  # most events of most replies: without a call
        index = event.candidate_index
        candidate = self._candidates.get(index)
        if candidate is None:
            candidate = self._candidates[index] = _OpenCandidate()
        key = (event.block_index, "text")
        block = candidate.blocks.get(key)
        if block is None:
            block = candidate.blocks[key] = _OpenBlock("text")
        block.pieces.append(event.content)

    def _add_thinking(self, event: ThinkingDelta) -> None:
        block = self._candidate(event.candidate_index).open(event.block_index, "thinking")
        block.pieces.append(event.thinking)
        if event.part_index is not None:
            block.summary = {} if block.summary is None else block.summary
            block.summary.setdefault(event.part_index, []).append(event.thinking)

    def _add_arguments(self, event: PartialToolCall) -> None:
        self._candidate(event.candidate_index).open(event.block_index, "call").pieces.append(event.arguments)

    def _add_call(self, event: ToolCallStarted) -> None:
        self._candidate(event.candidate_index).open(event.block_index, "call").call = event

    def _add_call_end(self, event: ToolCallEnded) -> None:
        self._candidate(event.candidate_index).open(event.block_index, "call").ended = True

    def _add_refusal(self, event: RefusalDelta) -> None:
        self._candidate(event.candidate_index).open(event.block_index, "refusal").pieces.append(event.text)

    def _add_server_call(self, event: ServerToolCall) -> None:
        candidate = self._candidate(event.candidate_index)
        candidate.servers.append(event)
        candidate.open(event.block_index, "server").value = event

    def _add_citation(self, event: Citation) -> None:
        candidate = self._candidate(event.candidate_index)
        candidate.citations.append(event)
        block = candidate.open(event.block_index, "text")
        if block.citations is None:
            block.citations = []
        block.citations.append(event.data)

    def _add_media(self, event: MediaPart) -> None:
        self._candidate(event.candidate_index).open(event.block_index, "media").value = _media_block(event)

    def _add_final(self, event: FinalCandidate) -> None:
        candidate = self._candidates.get(event.candidate_index) or self._candidate(event.candidate_index)
        candidate.finish = event

    def _add_opaque(self, event: OpaqueBlock) -> None:
        candidate = self._candidate(event.candidate_index)
        if event.of is None:
            candidate.open(event.index, "opaque").value = OpaqueContent(kind=event.kind, data=event.data)
            return
        # A seal without readable text is still a block: sealed reasoning, or a signed empty text.
        block = candidate.open(event.index, event.of)
        if block.attributes is None:
            block.attributes = {}
        before = block.attributes.get(event.kind)
        # Signatures may come in pieces; ids and sealed text come whole.
        joined = before + event.data if event.kind == "signature" and isinstance(before, str) else event.data
        block.attributes[event.kind] = joined

    def response(
        self,
        *,
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        dialect: str | None = None,
        raw: Any = None,
        call: str = "",
    ) -> ChatResponse:
        """The reply so far. Calls whose arguments are not complete are left out."""
        candidates = tuple([self._closed(index) for index in sorted(self._candidates)])
        if not candidates and self._end is not None:
            candidates = (
                Candidate(finish_reason=self._end.finish_reason, raw_finish_reason=self._end.raw_finish_reason),
            )
        return ChatResponse(
            candidates,
            self._usage or Usage(),
            self._model,
            self._response_id,
            request_id,
            {} if headers is None else dict(headers),
            dialect,
            raw,
            call,
        )

    def _closed(self, index: int) -> Candidate:
        candidate = self._candidates[index]
        blocks: list[Block] = []
        calls: list[ToolCall] = []
        for open_block in candidate.blocks.values():
            block = open_block.block()
            if block is not None:
                blocks.append(block)
                if block.__class__ is ToolUseBlock:
                    calls.append(ToolCall(block.id, block.name, block.input, block.arguments or ""))
        finish: FinalCandidate | StreamEnd | None = candidate.finish or (self._end if index == 0 else None)
        return Candidate(
            index,
            tuple(blocks),
            tuple(calls),
            tuple(candidate.servers),
            tuple(candidate.citations),
            None if finish is None else finish.finish_reason,
            None if finish is None else finish.raw_finish_reason,
        )


_ADDERS: dict[type, Callable[[Fold, Any], None]] = {
    PartialContentDelta: Fold._add_text,
    ThinkingDelta: Fold._add_thinking,
    RefusalDelta: Fold._add_refusal,
    ToolCallStarted: Fold._add_call,
    PartialToolCall: Fold._add_arguments,
    ToolCallEnded: Fold._add_call_end,
    ServerToolCall: Fold._add_server_call,
    Citation: Fold._add_citation,
    MediaPart: Fold._add_media,
    OpaqueBlock: Fold._add_opaque,
    Metadata: Fold._add_metadata,
    FinalCandidate: Fold._add_final,
    StreamEnd: Fold._add_end,
    StreamError: Fold._add_error,
    Rerouted: Fold._add_rerouted,
}


def _media_block(event: MediaPart) -> Block:
    source: Source
    if event.data is not None:
        source = Base64Source(media_type=event.mime_type, data=event.data)
    else:
        source = UrlSource(url=event.url or "", media_type=event.mime_type)
    family = event.mime_type.partition("/")[0]
    if family == "image":
        return ImageBlock(source=source)
    if family == "audio":
        return AudioBlock(source=source)
    if family == "video":
        return VideoBlock(source=source)
    return DocumentBlock(source=source)


def fold(events: Iterable[StreamingEvent]) -> ChatResponse:
    """The reply that a complete sequence of events makes."""
    folding = Fold()
    folding.add_all(events)
    return folding.response()
