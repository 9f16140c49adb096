"""A script becomes the frames of one dialect, or its whole body.

Sans-IO; imports `script`, `speaker`, `types`. Frames are made one at a time, as they are sent, so that a long stream
costs the memory of one frame. The rule that must stay true: the same script and the same request give the same bytes.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import msgspec

from ..errors import CallerError
from ..types.request import Request
from ..types.response import parse_arguments
from .script import (
    Error,
    Fault,
    Finish,
    Hold,
    Native,
    Omit,
    Oversize,
    Pause,
    Pieces,
    Refusal,
    RepeatEnd,
    Script,
    Status,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from .speaker import Asked, Framing, Speaker

__all__ = ["Frame", "Stream", "error_fields", "error_state", "find_fault", "pieces_of", "reply_state", "write_json"]


class Frame(NamedTuple):
    """One frame on the wire. `kind` is start, content, finish, usage, end, done, error or native."""

    data: bytes
    kind: str


def find_fault(faults: Sequence[Fault], kind: type[Any]) -> Any:
    """The first fault of a kind, or None."""
    return next((fault for fault in faults if isinstance(fault, kind)), None)


def pieces_of(text: str, pieces: Pieces) -> Iterator[str]:
    """The text cut as `pieces` says; joined again it is the text."""
    if not text:
        return
    if pieces == "whole":
        yield text
    elif pieces == "words":
        start = 0
        while start < len(text):
            end = text.find(" ", start + 1)
            end = len(text) if end < 0 else end
            yield text[start:end]
            start = end
    else:
        sizes = (pieces,) if isinstance(pieces, int) else tuple(pieces)
        if not sizes or min(sizes) < 1:
            raise CallerError(f"expected pieces of at least one character, got {pieces!r}", kind="bad_argument")
        start, at = 0, 0
        while start < len(text):
            size = sizes[min(at, len(sizes) - 1)]
            yield text[start : start + size]
            start, at = start + size, at + 1


def write_json(value: Any) -> bytes:
    """A JSON value as bytes; text that no UTF-8 can carry is written in escapes."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        import json

        return json.dumps(value, separators=(",", ":")).encode("ascii")


def error_state(asked: Asked | None, number: int, wall_time: float) -> dict[str, Any]:
    """What templates of errors see: the request, and an id of the reply."""
    return {
        "id": f"{number:08x}",
        "number": number,
        "asked": asked._asdict() if asked is not None else {},
        **_times(wall_time),
    }


def reply_state(script: Script, asked: Asked, request: Request, number: int, wall_time: float) -> dict[str, Any]:
    """What the templates of a reply see under `$`.

    id, number, model, created, created_at; `asked` (the wire's request) and `request` (the standard one); of the first
    candidate `blocks`, `text`, `thinking`, `refusal`, `calls`, `finish`; `candidates` with the same each; `usage` with
    two sums that wires report: `uncached_tokens` (input without cache reads and writes) and `visible_tokens` (output
    without reasoning).
    """
    candidates = _candidates(script, number)
    first = candidates[0]
    return {
        **error_state(asked, number, wall_time),
        "model": script.model or request.model,
        "request": msgspec.to_builtins(request),
        "candidates": candidates,
        "usage": _usage(script),
        **{key: first[key] for key in ("blocks", "text", "thinking", "refusal", "calls", "finish") if key in first},
    }


def _times(wall_time: float) -> dict[str, Any]:
    at = datetime.fromtimestamp(wall_time, timezone.utc)
    return {"created": int(wall_time), "created_at": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}


def _usage(script: Script) -> dict[str, int] | None:
    usage = next((step for step in script.steps if isinstance(step, Usage)), None)
    if usage is None:
        return None
    out: dict[str, int] = {
        key: value for key, value in msgspec.structs.asdict(usage).items() if value is not None and key != "raw"
    }
    if usage.input_tokens is not None:
        out["uncached_tokens"] = usage.input_tokens - (usage.cached_tokens or 0) - (usage.cache_write_tokens or 0)
    if usage.output_tokens is not None:
        out["visible_tokens"] = usage.output_tokens - (usage.reasoning_tokens or 0)
    if usage.input_tokens is not None and usage.output_tokens is not None:
        out.setdefault("total_tokens", usage.input_tokens + usage.output_tokens)
    return out


def _candidates(script: Script, number: int) -> list[dict[str, Any]]:
    indexes = {0} | {step.candidate for step in script.steps if isinstance(step, _Placed)}
    candidates: list[dict[str, Any]] = [{"index": index, "blocks": []} for index in sorted(indexes)]
    by_index = {candidate["index"]: candidate for candidate in candidates}
    for place, step in enumerate(script.steps):
        if isinstance(step, Finish):
            by_index[step.candidate]["finish"] = {"reason": step.reason, **({"raw": step.raw} if step.raw else {})}
        elif isinstance(step, Text | Thinking | Refusal | ToolCall):
            by_index[step.candidate]["blocks"].append(_block(step, by_index[step.candidate], number, place))
    for candidate in candidates:
        blocks: list[dict[str, Any]] = candidate["blocks"]
        calls = [block for block in blocks if block["type"] == "tool_use"]
        if calls:
            candidate["calls"] = calls
        for kind in ("text", "thinking", "refusal"):
            of_kind = [block["text"] for block in blocks if block["type"] == kind]
            if of_kind:
                candidate[kind] = "".join(of_kind)
        candidate.setdefault("finish", {"reason": "tool_use" if calls else "end_turn"})
    return candidates


_Placed = (Text, Thinking, Refusal, ToolCall, Finish)


def _block(
    step: Text | Thinking | Refusal | ToolCall, candidate: dict[str, Any], number: int, place: int
) -> dict[str, Any]:
    blocks = candidate["blocks"]
    block: dict[str, Any] = {
        "index": len(blocks),
        "candidate": candidate["index"],
        "key": f"{number:04x}{place:04x}",  # what ids are made of where the script gives none
    }
    if isinstance(step, ToolCall):
        text = step.arguments if isinstance(step.arguments, str) else write_json(step.arguments).decode()
        value = parse_arguments(text)
        block |= {
            "type": "tool_use",
            "call_index": sum(1 for other in blocks if other["type"] == "tool_use"),
            "name": step.name,
            "arguments": text,
            "input": value,
        }
        given: tuple[str, ...] = ("id", "signature")
    elif isinstance(step, Thinking):
        block |= {"type": "thinking", "text": step.text}
        given = ("signature", "encrypted", "id")
    elif isinstance(step, Text):
        block |= {"type": "text", "text": step.text}
        given = ("signature",)
    else:
        block |= {"type": "refusal", "text": step.text}
        given = ()
    block |= {key: getattr(step, key) for key in given if getattr(step, key) is not None}
    return block


class Stream:
    """The frames of one streamed reply. Iterate it: Frame to send, Pause and Hold to wait for."""

    def __init__(self, speaker: Speaker, script: Script, state: Mapping[str, Any], framing: Framing) -> None:
        self.speaker = speaker
        self.script = script
        self.state = state
        self.framing = framing
        self._count = 0
        omit = find_fault(script.faults, Omit)
        self._omitted: frozenset[str] = frozenset(omit.kinds) if omit else frozenset()
        oversize = find_fault(script.faults, Oversize)
        self._oversize: int | None = oversize.size if oversize else None

    def __iter__(self) -> Iterator[Frame | Pause | Hold]:
        repeat = find_fault(self.script.faults, RepeatEnd) is not None
        last: Frame | None = None
        for item in self._items():
            if isinstance(item, Frame):
                if item.kind in self._omitted:
                    continue
                last = item
            yield item
        if repeat and last is not None:
            yield last
        if self.framing.format == "json_array":
            yield Frame(b"]" if self._count else b"[]", "native")

    def _items(self) -> Iterator[Frame | Pause | Hold]:
        yield from self._made("start", "start")
        taken = [0] * (1 + max(candidate["index"] for candidate in self.state["candidates"]))
        by_index = {candidate["index"]: candidate for candidate in self.state["candidates"]}
        failed = False
        for step in self.script.steps:
            if isinstance(step, Pause | Hold):
                yield step
            elif isinstance(step, Native):
                if isinstance(step.data, bytes):
                    yield Frame(step.data, "native")
                else:
                    yield self._frame(step.data, "native")
            elif isinstance(step, Error):
                failed = True
                yield from self._made("error", "error", e=error_fields(step))
            elif isinstance(step, Text | Thinking | Refusal | ToolCall):
                block = by_index[step.candidate]["blocks"][taken[step.candidate]]
                taken[step.candidate] += 1
                yield from self._block(block)
        if failed:
            return
        for candidate in self.state["candidates"]:
            yield from self._made("finish", "finish", c=candidate)
        if self.state["usage"] is not None:
            yield from self._made("usage", "usage")
        yield from self._made("end", "end")
        if self.framing.done is not None:
            yield self._bytes(self.framing.done.encode(), None, "done")

    def _block(self, block: dict[str, Any]) -> Iterator[Frame]:
        kind = block["type"]
        yield from self._made(f"{kind}.start", "content", b=block)
        text, pieces = block["arguments"] if kind == "tool_use" else block["text"], self.script.pieces
        if kind == "tool_use" and pieces == "words":
            pieces = 8  # JSON has few spaces to cut at, and providers cut it into tokens all the same
        for piece in pieces_of(text, pieces):
            if self._oversize is not None and kind == "text":
                piece = piece * (self._oversize // len(piece.encode()) + 1)
                self._oversize = None
            yield from self._made(f"{kind}.piece", "content", b=block, piece=piece)
        yield from self._made(f"{kind}.end", "content", b=block)

    def _made(self, name: str, kind: str, **bound: Any) -> Iterator[Frame]:
        for value in self.speaker.frames(name, self.state, **bound):
            yield self._frame(value, kind)

    def _frame(self, value: Any, kind: str) -> Frame:
        if self.framing.number is not None and isinstance(value, dict):
            value = {**value, self.framing.number: self._count}
        framing = self.framing
        event = framing.event({"": value}) if framing.event is not None else None
        payload = framing.payload({"": value}) if framing.payload is not None else None
        data = write_json(value if payload is None else payload)
        if framing.wrap is not None and kind != "error":
            data = write_json({framing.wrap: b64encode(data).decode()})
        return self._bytes(data, event, kind)

    def _bytes(self, data: bytes, event: Any, kind: str) -> Frame:
        first = self._count == 0
        self._count += 1
        if self.framing.format == "ndjson":
            return Frame(data + b"\n", kind)
        if self.framing.format == "json_array":
            return Frame((b"[" if first else b",\r\n") + data, kind)
        if self.framing.format == "eventstream":
            return Frame(binary_message(data, str(event or kind), failed=kind == "error"), kind)
        end = self.framing.ends.encode()
        head = b"event: " + str(event).encode() + end if event is not None else b""
        return Frame(head + b"data: " + data + end + end, kind)


def binary_message(payload: bytes, name: str, *, failed: bool = False) -> bytes:
    """One message of a binary event stream (`pipeline.decode.EventStream` has the format): an event or an exception."""
    headers = b"".join(
        struct.pack(">B", len(key)) + key + struct.pack(">BH", 7, len(value)) + value
        for key, value in (
            (b":exception-type" if failed else b":event-type", name.encode()),
            (b":content-type", b"application/json"),
            (b":message-type", b"exception" if failed else b"event"),
        )
    )
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack(">I", zlib.crc32(message))


def error_fields(said: Error | Status) -> dict[str, Any]:
    """What templates of errors see as `$e`: status, message, code, type and param, where they are given."""
    fields = {key: getattr(said, key, None) for key in ("status", "message", "code", "type", "param")}
    return {key: value for key, value in fields.items() if value is not None}
