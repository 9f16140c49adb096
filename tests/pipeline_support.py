"""What the pipeline's tests share: programs of the bundled dialects, and events of frames written by hand."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from ai_lib_trio.pipeline import DecodeProgram, Pipeline, compile_decoder
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.types.events import StreamingEvent


@cache
def program(dialect: str) -> DecodeProgram:
    found = Catalog.open().dialect(dialect)
    return compile_decoder(found.decode, found.where.at("decode"))


def frames_to_bytes(dialect: str, frames: list[Any]) -> bytes:
    """Frames as their dialect puts them on the wire; text is a frame as it is."""
    texts = [frame if isinstance(frame, str) else json.dumps(frame, ensure_ascii=False) for frame in frames]
    if dialect == "ollama_chat":
        return "".join(text + "\n" for text in texts).encode()
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def run(pipeline: Pipeline, data: bytes) -> list[StreamingEvent]:
    return pipeline.feed(data) + pipeline.finish()


def stream(dialect: str, *frames: Any) -> list[StreamingEvent]:
    """The events of a stream of frames, after both backends gave the same."""
    data = frames_to_bytes(dialect, list(frames))
    events, reference = (run(program(dialect).open(backend=backend), data) for backend in ("view", "generic"))
    assert events == reference
    return events


def body(dialect: str, value: Any) -> list[StreamingEvent]:
    """The events of a whole body, after both backends gave the same."""
    data = json.dumps(value).encode()
    kind = {"content_type": "application/json", "streamed": False}
    events, reference = (
        run(program(dialect).open(backend=backend, **kind), data)  # type: ignore[arg-type]
        for backend in ("view", "generic")
    )
    assert events == reference
    return events


def delta(index: int = 0, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """A chunk of the chat wire."""
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def call(index: Any = None, id: Any = None, name: Any = None, arguments: Any = None) -> dict[str, Any]:
    """A piece of a call on the chat wire; what is None is left out."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    piece = {"index": index, "id": id, "function": function}
    return {key: value for key, value in piece.items() if value is not None}
