"""Cases about replies: bytes to frames, frames to rules, rules to events, bodies to replies, errors to codes.

Imports `errors`, `protocol`, `pipeline`, `types`, `wire`. The rule that must stay true: whatever a case is about, its
bytes are also read in pieces, and every way to cut them gives the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from ..errors import KINDS, AiLibError, CallerError, ManifestError
from ..pipeline import Counts, DecodeProgram, compile_decoder
from ..protocol.event_rules import translate
from ..protocol.manifest import Manifest
from ..protocol.paths import parse_path, scope_getter
from ..protocol.where import Where
from ..types.events import OpaqueBlock, PartialContentDelta, StreamEnd, StreamError, StreamingEvent
from ..types.response import ChatResponse, fold
from ..types.usage import Usage
from ..wire.classify import classify
from .compare import Check, Difference, contains, each_in, within
from .suite import Bench, Case

__all__ = ["error_classification", "event_mapping", "response_parsing", "stream_decode", "tool_accumulation"]

MAX_CUTS = 4000  # places at which bytes are cut in two; a case is a few hundred bytes long
_USAGE = {
    "prompt_tokens": "input_tokens",
    "completion_tokens": "output_tokens",
    "cache_read_tokens": "cached_tokens",
    "cache_creation_tokens": "cache_write_tokens",
}


class Replay(NamedTuple):
    """What a reply came to. `frames` has the events of each frame; `cuts` says where other cuts gave others."""

    events: list[StreamingEvent]
    frames: list[list[StreamingEvent]]
    counts: Counts
    cuts: list[str]

    @property
    def reply(self) -> ChatResponse:
        return fold(self.events)

    @property
    def fault(self) -> StreamError | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, StreamError) else None


def replay(program: DecodeProgram, data: bytes, *, content_type: str | None = None, streamed: bool = True) -> Replay:
    """Read a reply whole, byte by byte, and cut in two at every place."""

    def read(pieces: Iterable[bytes]) -> tuple[list[StreamingEvent], list[list[StreamingEvent]], Counts]:
        pipeline = program.open(content_type=content_type, streamed=streamed)
        events: list[StreamingEvent] = []
        frames: list[list[StreamingEvent]] = []
        for piece in pieces:
            found = pipeline.feed(piece)
            events += found
            if pipeline.counts.frames > len(frames):
                frames += [[] for _ in range(pipeline.counts.frames - len(frames))]
                frames[-1] += found
        found = pipeline.finish()
        if pipeline.counts.frames > len(frames):
            frames += [[] for _ in range(pipeline.counts.frames - len(frames))]
            frames[-1] += found
        return events + found, frames, pipeline.counts

    events, _, counts = read([data])
    singly, frames, _ = read(data[at : at + 1] for at in range(len(data)))
    cuts = [] if _joined(singly) == _joined(events) else ["byte by byte"]
    step = max(1, len(data) // MAX_CUTS)
    for at in range(1, len(data), step):
        if _joined(read([data[:at], data[at:]])[0]) != _joined(events):
            cuts.append(f"cut at {at}")
    return Replay(events, frames, counts, cuts)


def _joined(events: Sequence[StreamingEvent]) -> list[Any]:
    """The events, with what says where an error was found left out: a byte count depends on the cut."""
    return [msgspec.structs.replace(one, message="") if isinstance(one, StreamError) else one for one in events]


def program_of(manifest: Manifest, api: str | None = None, **changes: Any) -> DecodeProgram:
    """What reads a provider's replies. `changes` replace keys of its `decode` section."""
    family = manifest.family(api)
    return compile_decoder({**family.decode, **changes}, family.where.at("decode"))


# ---- streams


def stream_decode(case: Case, bench: Bench) -> dict[str, Any]:
    """A stream's bytes, to frames, events and a reply."""
    given = case.input
    changes = {"streaming": {"decoder": given["decoder_config"]}} if "decoder_config" in given else None
    manifest = bench.manifest(case, changes=changes)
    program = program_of(manifest, given.get("api"))
    data = _bytes_of(given)
    streamed = given.get("streamed", True)
    seen = replay(program, data, content_type=given.get("content_type"), streamed=streamed)
    done = _done_received(manifest, given, data)
    frames = seen.frames[:-1] if done and program.done is not None else seen.frames
    shown = [
        {"type": "frame", "has_content": any(isinstance(one, PartialContentDelta) for one in frame)} for frame in frames
    ]
    is_complete = bool(seen.events) and isinstance(seen.events[-1], StreamEnd)
    return {
        **_reply(seen, manifest, bench),
        "valid": is_complete,
        "completed": is_complete,
        "done_received": done,
        "events": contains(shown),
        "frame_count": within(len(frames)),
    }


def _bytes_of(given: Mapping[str, Any]) -> bytes:
    if "hex" in given:
        return bytes.fromhex("".join(given["hex"].split()))
    if "raw_chunks" in given:
        text = "".join(given["raw_chunks"])
    elif "text" in given:
        text = given["text"]
    else:
        text = "".join(f"{event}\n\n" for event in given["events"])
    return str(text).replace("\n", {"lf": "\n", "crlf": "\r\n", "cr": "\r"}[given.get("line_end", "lf")]).encode()


def _done_received(manifest: Manifest, given: Mapping[str, Any], data: bytes) -> bool:
    """Whether the done signal was read: it is made the only evidence of the end, and the end is asked for."""
    try:
        program = program_of(manifest, given.get("api"), complete_when=["sentinel"])
    except ManifestError:
        return False  # this wire has no such signal
    pipeline = program.open(content_type=given.get("content_type"), streamed=True)
    pipeline.feed(data)
    return pipeline.closed and pipeline.finish() == []


def _reply(seen: Replay, manifest: Manifest, bench: Bench) -> dict[str, Any]:
    """What a case may expect of a reply, streamed or whole."""
    reply, fault = seen.reply, seen.fault
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.raw}}
        for call in reply.tool_calls
    ]
    outcome: dict[str, Any] = {
        "accumulated_tool_calls": calls,
        "usage": Check(lambda expected, path: _usage(expected, reply.usage, path)),
        "content_blocks": Check(lambda expected, path: _blocks(expected, reply, path)),
        "finish_reason": reply.finish_reason,
        "raw_finish_reason": reply.raw_finish_reason,
        "content": reply.content,
        "thinking": reply.thinking,
        "refusal": reply.refusal,
        "model": reply.model,
        "response_id": reply.response_id,
        "candidates": [
            {"content": one.content, "finish_reason": one.finish_reason, "tool_calls": len(one.tool_calls)}
            for one in reply.candidates
        ],
        "typed_events": contains([msgspec.to_builtins(event) for event in seen.events]),
        "ignored_frames": seen.counts.ignored,
        "repaired_frames": seen.counts.repaired,
        "!cuts": seen.cuts,
    }
    if fault is not None:
        outcome |= _error(_as_error(fault, manifest, bench), fault)
    else:
        outcome |= {"error_code": "", "error_kind": ""}
    return outcome


def _as_error(fault: StreamError, manifest: Manifest, bench: Bench) -> AiLibError:
    if fault.kind != "provider":
        return AiLibError(fault.message, kind=fault.kind, code=KINDS[fault.kind].code)
    return classify(
        fault,
        status=200,
        headers={},
        rules=manifest.errors,
        table=bench.catalog.error_table(),
        rate_limits=manifest.rate_limits,
        now_wall=0.0,
    )


def _error(error: AiLibError, said: StreamError | None = None) -> dict[str, Any]:
    return {
        "error_code": error.code,
        "error_name": error.name,
        "error_type": error.name,
        "error_kind": error.kind,
        "retryable": error.retryable,
        "fallbackable": error.fallbackable,
        "status": error.status,
        "provider_code": error.provider_code,
        "message_contains": each_in(error.message),
        "retry_after_s": error.retry_after_s,
        "request_id": error.request_id,
    }


def _usage(expected: Any, got: Usage, path: str) -> Iterable[Difference]:
    for name, value in expected.items():
        field = _USAGE.get(name, name)
        found = getattr(got, field) if field in Usage.__struct_fields__ else "no such count"
        if found != value:
            yield Difference(f"{path}.{name}", value, found)


def _blocks(expected: Any, reply: ChatResponse, path: str) -> Iterable[Difference]:
    blocks = [msgspec.to_builtins(block) for block in reply.blocks]
    if len(blocks) != len(expected):
        yield Difference(path, expected, blocks)
        return
    for number, (wanted, block) in enumerate(zip(expected, blocks, strict=True)):
        for key, value in wanted.items():
            at = f"{path}.{number}.{key}"
            if key == "content_contains":
                if value not in block.get("text", ""):
                    yield Difference(at, value, block.get("text"))
            else:
                got = block.get("text" if key == "content" else key)
                if got != value:
                    yield Difference(at, value, got)


# ---- rules


def event_mapping(case: Case, bench: Bench) -> dict[str, Any]:
    """An event map over frames: the events' names and the values that were extracted, before they become typed.

    The map is translated and compiled as a manifest's own is; each rule hands on what it extracted, unread.
    """
    manifest = bench.manifest(case)
    streaming = {"event_map": case.input["event_map"]}
    notes: list[str] = []
    told = translate(
        streaming["event_map"],
        Where("the case"),
        usage_names={},
        candidate_path=None,
        fan_out=False,
        selector=None,
        notes=notes,
        verbatim=True,
    )
    tree = {"framing": {"format": "ndjson"}, "complete_when": ["eof"], "rules": told.rules}
    data = b"".join(json.dumps(frame).encode() + b"\n" for frame in case.input["frames"])
    seen = replay(compile_decoder(tree, Where("the case")), data)
    events = [{"type": one.kind, **one.data} for one in seen.events if isinstance(one, OpaqueBlock)]
    del manifest  # it loads: the case is set up with it
    return {"events": events, "event_count": len(events), "!cuts": seen.cuts, "!notes": notes}


def tool_accumulation(case: Case, bench: Bench) -> dict[str, Any]:
    """Pieces of calls, each in a frame of its own, to whole calls."""
    manifest = bench.manifest(case)
    program = program_of(manifest, case.input.get("api"))
    frames = [_around(piece, case.input.get("accumulator_config", {})) for piece in case.input["partial_chunks"]]
    lines = [f"data: {json.dumps(frame)}\n\n".encode() for frame in frames]
    if program.done is not None:
        lines.append(b"data: " + program.done + b"\n\n")
    seen = replay(program, b"".join(lines))
    calls = [
        {
            "index": number,
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.raw},
        }
        for number, call in enumerate(seen.reply.tool_calls)
    ]
    return {"assembled_tool_calls": calls, "complete": bool(calls) and seen.fault is None, "!cuts": seen.cuts}


def _around(piece: Any, config: Mapping[str, Any]) -> Any:
    """The frame that a piece of a call stands in, by the path at which its arguments are looked for."""
    unknown = config.keys() - {"stateful_tool_parsing", "key_path", "flush_on"}
    path = parse_path(str(config.get("key_path", "")), Where("the case", None, ("accumulator_config", "key_path")))
    if unknown or config.get("stateful_tool_parsing") is False:
        raise CallerError("calls are always put together; nothing else can be asked for", kind="bad_argument")
    for size in range(len(path.steps) + 1):
        inner = msgspec.structs.replace(path, steps=path.steps[size:])
        if isinstance(scope_getter(inner)({"": piece}), str):
            frame = piece
            for step in reversed(path.steps[:size]):
                if isinstance(step, int):
                    if step:
                        raise CallerError("expected a piece at index 0 of the frame's lists", kind="bad_argument")
                    frame = [frame]
                else:
                    frame = {step: frame}
            return frame
    raise CallerError(f"the piece has no arguments where {path} ends", kind="bad_argument")


# ---- whole replies and errors


def response_parsing(case: Case, bench: Bench) -> dict[str, Any]:
    """A whole body, to a reply."""
    manifest = bench.manifest(case)
    data = json.dumps(case.input["response_body"], ensure_ascii=False).encode()
    program = program_of(manifest, case.input.get("api"))
    seen = replay(program, data, content_type="application/json", streamed=False)
    is_complete = bool(seen.events) and isinstance(seen.events[-1], StreamEnd)
    return {**_reply(seen, manifest, bench), "valid": is_complete}


def error_classification(case: Case, bench: Bench) -> dict[str, Any]:
    """An error reply, to a standard code and what may be done about it."""
    manifest = bench.manifest(case)
    given = case.input
    body = given["response_text"].encode() if "response_text" in given else json.dumps(given["response_body"]).encode()
    headers = {str(name).lower(): str(value) for name, value in given.get("headers", {}).items()}
    said = program_of(manifest, given.get("api")).read_error(given["http_status"], headers, body)
    error = classify(
        said,
        status=given["http_status"],
        headers=headers,
        rules=manifest.errors,
        table=bench.catalog.error_table(),
        rate_limits=manifest.rate_limits,
        body=body,
        now_wall=0.0,
    )
    return {**_error(error, said), "valid": error.code != "E9999"}
