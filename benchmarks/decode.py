"""What the rules of a manifest cost beside a loop by hand, for each dialect: bytes to typed events, no network.

    python -m benchmarks.decode [--dialect NAME] [--rounds N] [--frames N]

Prints one JSON object: what an event costs as a reply grows (`growth`), and for each dialect the microseconds of a
frame by hand (`by_hand_us`) and by the rules (`us`), least of the rounds, and the ratio, the median of the rounds with
its spread. `frame` is the whole way (framing, JSON, rules, events) over reads of 64 KiB; `alone` is the same with each
frame in a read of its own, as a paced stream brings it; `rules` begins with frames that are cut already; `closures` is
the whole way over the reference backend. Frames have the shapes and sizes of recorded ones: a stream's first frame,
many deltas of text, its last. Both sides must give the same text, counts and reason.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import struct
import time
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from ai_lib_trio.pipeline import DecodeProgram, compile_decoder
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.types.events import FinalCandidate, Metadata, PartialContentDelta, StreamEnd, StreamingEvent
from ai_lib_trio.types.response import fold

from .by_hand import BY_HAND

WORDS = ("The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", ".\\n", " **", " “Ünï”")
READ_BYTES = 65536


class Shape(NamedTuple):
    """The frames of a dialect; `%s` in the delta is its text. A frame's event name stands before a blank."""

    framing: str
    first: tuple[str, ...]
    delta: str
    last: tuple[str, ...]


def _chat(choice: str, usage: str = "null") -> str:
    return (
        '{"id":"chatcmpl-0123456789abcdefghijABCDEFGHI","object":"chat.completion.chunk","created":1763800000,"model":'
        f'"a-model-2026-11-22","service_tier":"default","system_fingerprint":"fp_0123456789","choices":[{choice}],'
        f'"usage":{usage},"obfuscation":"0a1b2c3d4e"}}'
    )


def _completion(text: str, finish: str = "null") -> str:
    return (
        '{"id":"cmpl-0123456789abcdef0123456789abcdef","object":"text_completion","created":1763800000,"model":'
        f'"a-model","choices":[{{"index":0,"text":"{text}","logprobs":null,"finish_reason":{finish},"stop_reason":null}}],'
        '"usage":null}'
    )


def _generated(text: str, more: str, said: int) -> str:
    return (
        '{"candidates": [{"content": {"parts": [{"text": "' + text + '"}],"role": "model"},' + more + '"index": 0}],'
        f'"usageMetadata": {{"promptTokenCount": 18,"candidatesTokenCount": {said},"totalTokenCount": {said + 53},'
        '"promptTokensDetails": [{"modality": "TEXT","tokenCount": 18}],"thoughtsTokenCount": 35,'
        '"serviceTier": "standard"},"modelVersion": "a-model-2.5","responseId": "ru1garvBEoOiqtsP2fznmQw"}'
    )


def _ollama(said: str, more: str = '"done":false') -> str:
    return f'{{"model":"a-model","created_at":"2026-11-22T20:26:46.294874Z",{said},{more}}}'


def _wenxin(text: str, number: int, more: str) -> str:
    return (
        f'{{"id":"as-0123456789","object":"chat.completion","created":1763800000,"sentence_id":{number},{more},'
        f'"result":"{text}","need_clear_history":false,'
        f'"usage":{{"prompt_tokens":2,"completion_tokens":{number + 9},"total_tokens":{number + 11}}}}}'
    )


def _generation(token: str, whole: str, details: str) -> str:
    return f'{{"index":7,"token":{{{token},"logprob":-0.2873535}},"generated_text":{whole},"details":{details}}}'


_ENDED = '"done_reason":"stop","done":true,"total_duration":1897385625,"prompt_eval_count":17,"eval_count":50'
_ITEM = "msg_0123456789abcdef0123456789abcdef0123456789abcdef"
_RESPONSE = (
    '"response":{"id":"resp_0123456789abcdef","object":"response","created_at":1763800000,"status":"%s","error":null,'
    '"incomplete_details":null,"model":"a-model-2026-11-22","output":[],"usage":%s}'
)
SHAPES = {
    "chat_completions": Shape(
        "sse",
        (_chat('{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}'),),
        _chat('{"index":0,"delta":{"content":"%s"},"logprobs":null,"finish_reason":null}'),
        (
            _chat('{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}'),
            _chat("", '{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}'),
            "[DONE]",
        ),
    ),
    "responses": Shape(
        "sse",
        (f'response.created {{"type":"response.created",{_RESPONSE % ("in_progress", "null")}}}',),
        'response.output_text.delta {"type":"response.output_text.delta","sequence_number":98,"item_id":"'
        + _ITEM + '","output_index":0,"content_index":0,"delta":"%s","logprobs":[],"obfuscation":"wIfGmqokzC8KL"}',
        (
            'response.completed {"type":"response.completed","sequence_number":99,'
            + _RESPONSE % ("completed", '{"input_tokens":9,"output_tokens":9,"total_tokens":18}')
            + "}",
        ),
    ),
    "messages": Shape(
        "sse",
        (
            'message_start {"type":"message_start","message":{"model":"a-model","id":"msg_01Xf6SmUVY1mDrSwFc5RsY3n",'
            '"type":"message","role":"assistant","content":[],"stop_reason":null,"usage":{"input_tokens":690,'
            '"output_tokens":8,"service_tier":"standard"}}}',
            'content_block_start {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        ),
        'content_block_delta {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}       }',
        (
            'content_block_stop {"type":"content_block_stop","index":0 }',
            'message_delta {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
            '"usage":{"output_tokens":354}}',
            'message_stop {"type":"message_stop"      }',
        ),
    ),
    "generate_content": Shape(
        "sse crlf", (), _generated("%s", "", 31), (_generated("", '"finishReason": "STOP",', 80),)
    ),
    "converse": Shape(
        "eventstream",
        ('messageStart {"p":"abcdefghijklmnopqr","role":"assistant"}',),
        'contentBlockDelta {"contentBlockIndex":0,"delta":{"text":"%s"},"p":"abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"}',
        (
            'contentBlockStop {"contentBlockIndex":0,"p":"abcdefghijklmnop"}',
            'messageStop {"p":"abcdefghijklmno","stopReason":"end_turn"}',
            'metadata {"metrics":{"latencyMs":522},"usage":{"inputTokens":13,"outputTokens":82,"totalTokens":95}}',
        ),
    ),
    "cohere_v2_chat": Shape(
        "sse",
        (
            'message-start {"id":"599ae0aa-0ef6-49e4-b7f4-e2fafc40ca2c","type":"message-start","delta":{"message":'
            '{"role":"assistant","content":[],"tool_plan":"","tool_calls":[],"citations":[]}}}',
            'content-start {"type":"content-start","index":0,"delta":{"message":{"content":{"text":""}}}}',
        ),
        'content-delta {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"%s"}}}}',
        (
            'message-end {"type":"message-end","delta":{"finish_reason":"COMPLETE","usage":{"billed_units":'
            '{"input_tokens":7,"output_tokens":89},"tokens":{"input_tokens":69,"output_tokens":89}}}}',
        ),
    ),
    "cohere_v1_chat": Shape(
        "ndjson",
        ('{"is_finished":false,"event_type":"stream-start","generation_id":"599ae0aa-0ef6-49e4-b7f4-e2fafc40ca2c"}',),
        '{"is_finished":false,"event_type":"text-generation","text":"%s"}',
        (
            '{"is_finished":true,"event_type":"stream-end","finish_reason":"COMPLETE","response":{"response_id":"599ae0aa",'
            '"text":"","meta":{"tokens":{"input_tokens":69,"output_tokens":89}}}}',
        ),
    ),
    "ollama_chat": Shape(
        "ndjson",
        (),
        _ollama('"message":{"role":"assistant","content":"%s"}'),
        (_ollama('"message":{"role":"assistant","content":""}', _ENDED),),
    ),
    "ollama_generate": Shape("ndjson", (), _ollama('"response":"%s"'), (_ollama('"response":""', _ENDED),)),
    "completions": Shape("sse", (), _completion("%s"), (_completion("", '"stop"'), "[DONE]")),
    "text_generation": Shape(
        "sse",
        (),
        _generation('"id":450,"text":"%s","special":false', "null", "null"),
        (
            _generation(
                '"id":2,"text":"</s>","special":true',
                '"The whole text once more."',
                '{"finish_reason":"eos_token","generated_tokens":20,"input_length":8,"seed":null}',
            ),
        ),
    ),
    "wenxin_chat": Shape(
        "sse",
        (),
        _wenxin("%s", 1, '"is_end":false,"is_truncated":false'),
        (_wenxin("", 2, '"is_end":true,"is_truncated":false,"finish_reason":"normal"'),),
    ),
}  # fmt: skip


def _message(name: str, payload: bytes) -> bytes:
    """A binary frame."""
    pairs = ((":event-type", name), (":content-type", "application/json"), (":message-type", "event"))
    headers = b"".join(
        bytes([len(key)]) + key.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
        for key, value in pairs
    )
    prelude = struct.pack(">II", 16 + len(headers) + len(payload), len(headers))
    body = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + payload
    return body + struct.pack(">I", zlib.crc32(body))


def wire(dialect: str, frames: int) -> list[bytes]:
    """A stream as a list of its frames' bytes."""
    shape = SHAPES[dialect]
    deltas = [shape.delta.replace("%s", WORDS[number % len(WORDS)]) for number in range(frames)]
    end = "\r\n" if "crlf" in shape.framing else "\n"
    out = []
    for text in (*shape.first, *deltas, *shape.last):
        name, blank, data = ("", "", text) if text[0] in "{[" else text.partition(" ")
        if shape.framing == "eventstream":
            out.append(_message(name, data.encode()))
        elif shape.framing == "ndjson":
            out.append(data.encode() + b"\n")
        else:
            out.append(((f"event: {name}{end}" if blank else "") + f"data: {data}{end}{end}").encode())
    return out


def reads(frames: list[bytes]) -> list[bytes]:
    body = b"".join(frames)
    return [body[at : at + READ_BYTES] for at in range(0, len(body), READ_BYTES)]


def program_of(catalog: Catalog, dialect: str) -> DecodeProgram:
    found = catalog.dialect(dialect)
    return compile_decoder(found.decode, found.where.at("decode"))


def _told(events: list[StreamingEvent]) -> list[Any]:
    """What both sides must agree on: the text, the counts, the reason."""
    text = "".join(event.content for event in events if type(event) is PartialContentDelta)
    ends = [event for event in events if isinstance(event, FinalCandidate | StreamEnd)]
    known = [
        (event.usage and (event.usage.input_tokens, event.usage.output_tokens), event.model, event.response_id)
        for event in events
        if type(event) is Metadata
    ]
    return [text, len(events), ends, known]


Way = Callable[[], list[StreamingEvent]]


def ways(program: DecodeProgram, dialect: str, frames: int) -> dict[str, tuple[Way, Way]]:
    """For each kind of measurement, the loop by hand and the rules."""
    pieces = wire(dialect, frames)
    bulk = reads(pieces)
    cut = BY_HAND[dialect]().cut(b"".join(pieces))

    def hand_over(source: list[bytes]) -> Way:
        def way() -> list[StreamingEvent]:
            reply = BY_HAND[dialect]()
            out: list[StreamingEvent] = []
            for piece in source:
                out += reply.feed(piece)
            return out + reply.end()

        return way

    def rules_over(source: list[bytes], backend: str = "view") -> Way:
        def way() -> list[StreamingEvent]:
            pipeline = program.open(backend=backend)
            out: list[StreamingEvent] = []
            for piece in source:
                out += pipeline.feed(piece)
            return out + pipeline.finish()

        return way

    def hand_cut() -> list[StreamingEvent]:
        reply = BY_HAND[dialect]()
        out: list[StreamingEvent] = []
        reply.frames(cut, out.append)
        return out + reply.end()

    named = [frame if isinstance(frame, tuple) else (None, frame) for frame in cut]

    def rules_cut() -> list[StreamingEvent]:
        pipeline = program.open()
        pipeline._read(named, at_end=False)  # what `feed` does after its framing
        return pipeline._taken() + pipeline.finish()

    return {
        "frame": (hand_over(bulk), rules_over(bulk)),
        "alone": (hand_over(pieces), rules_over(pieces)),
        "rules": (hand_cut, rules_cut),
        "closures": (hand_over(bulk), rules_over(bulk, "generic")),
    }


def measure(dialect: str, frames: int, rounds: int, catalog: Catalog) -> dict[str, Any]:
    program = program_of(catalog, dialect)
    found: dict[str, Any] = {"bytes_per_frame": len(wire(dialect, 1)[-1])}
    for kind, (hand, ours) in ways(program, dialect, frames).items():
        assert _told(hand()) == _told(ours()), (dialect, kind, _told(hand())[1:], _told(ours())[1:])
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for way, into in zip((hand, ours), times, strict=True):
                began = time.process_time_ns()
                way()
                into.append((time.process_time_ns() - began) / frames / 1e3)
        ratios = [ours_us / hand_us for hand_us, ours_us in zip(*times, strict=True)]
        found[kind] = {
            "by_hand_us": min(times[0]),
            "us": min(times[1]),
            "ratio": statistics.median(ratios),
            "spread": [min(ratios), max(ratios)],
        }
    return found


def growth(catalog: Catalog) -> dict[str, dict[str, float]]:
    """Microseconds of an event as a reply grows: of text, and of one call's arguments; decoded, and folded to a reply.

    Where it costs the same whatever the length, the whole is linear.
    """
    program = program_of(catalog, "chat_completions")
    call = '"tool_calls":[{"index":0,%s"function":{%s"arguments":"%s"}}]'
    shapes = {"text": '"content":" word"', "arguments": call % ("", "", "0,")}
    found: dict[str, dict[str, float]] = {}
    for kind, delta in shapes.items():
        first = call % ('"id":"c",', '"name":"f",', "") if kind == "arguments" else '"content":""'
        frames = [
            f'data: {_chat(f"""{{"index":0,"delta":{{{one}}},"finish_reason":null}}""")}\n\n'.encode()
            for one in (first, delta)
        ]
        found[kind] = {}
        for events in (1_000, 10_000, 100_000):
            body = frames[0] + frames[1] * events + b"data: [DONE]\n\n"
            pieces = [body[at : at + READ_BYTES] for at in range(0, len(body), READ_BYTES)]
            took = []
            for _ in range(3):
                began = time.process_time_ns()
                pipeline = program.open()
                out: list[StreamingEvent] = []
                for piece in pieces:
                    out += pipeline.feed(piece)
                fold(out)
                took.append((time.process_time_ns() - began) / events / 1e3)
            assert len(out) > events, (kind, len(out))
            found[kind][str(events)] = min(took)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dialect", action="append", choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--frames", type=int, default=2000)
    args = parser.parse_args()
    catalog = Catalog.open(environ={})
    gc.collect()
    gc.freeze()
    gc.disable()
    dialects = {name: measure(name, args.frames, args.rounds, catalog) for name in args.dialect or SHAPES}
    print(json.dumps({"dialects": dialects, "growth": growth(catalog)}))


if __name__ == "__main__":
    main()
