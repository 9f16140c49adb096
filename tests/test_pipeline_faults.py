"""Faults on the wire: told as the last event, after everything that came; never an exception, never a false end."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.pipeline import Pipeline
from ai_lib_trio.types.events import (
    FinalCandidate,
    Metadata,
    PartialContentDelta,
    PartialToolCall,
    StreamEnd,
    StreamError,
    StreamingEvent,
)
from ai_lib_trio.types.response import fold
from pipeline_support import delta, frames_to_bytes, program, run, stream

CHAT = "chat_completions"
DIALECTS = ["chat_completions", "responses", "messages", "generate_content", "ollama_chat"]

# One answer of a few frames on every wire, "Hello 日本" with usage, and how many frames prove that it is complete.
ANSWERS: dict[str, tuple[list[Any], int]] = {
    "chat_completions": (
        [
            delta(content="Hello "),
            delta(content="日本"),
            delta(finish="stop"),
            {"choices": [], "usage": {"prompt_tokens": 1}},
            "[DONE]",
        ],
        3,
    ),
    "responses": (
        [
            {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hello "},
            {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "日本"},
            {"type": "response.completed", "response": {"status": "completed", "usage": {"input_tokens": 1}}},
        ],
        3,
    ),
    "messages": (
        [
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Hello "}},
            {"type": "content_block_delta", "index": 0, "delta": {"text": "日本"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"input_tokens": 1}},
            {"type": "message_stop"},
        ],
        4,
    ),
    "generate_content": (
        [
            {"candidates": [{"content": {"parts": [{"text": "Hello "}]}}]},
            {"candidates": [{"content": {"parts": [{"text": "日本"}]}, "finishReason": "STOP"}]},
            {"usageMetadata": {"promptTokenCount": 1}},
        ],
        2,
    ),
    "ollama_chat": (
        [
            {"message": {"content": "Hello "}, "done": False},
            {"message": {"content": "日本"}, "done": False},
            {"message": {"content": ""}, "done": True, "done_reason": "stop", "prompt_eval_count": 1},
        ],
        3,
    ),
}  # fmt: skip


def fault(events: list[StreamingEvent]) -> StreamError:
    last = events[-1]
    assert isinstance(last, StreamError)
    assert not [event for event in events[:-1] if isinstance(event, StreamError | StreamEnd)]
    return last


def text_of(events: list[StreamingEvent]) -> str:
    return "".join(event.content for event in events if isinstance(event, PartialContentDelta))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_an_answer_cut_anywhere_is_never_complete_without_evidence_and_loses_nothing(dialect: str) -> None:
    frames, evidence = ANSWERS[dialect]
    data = frames_to_bytes(dialect, frames)
    assert isinstance(run(program(dialect).open(), data)[-1], StreamEnd)
    proven = len(frames_to_bytes(dialect, frames[:evidence]))
    ends = [len(frames_to_bytes(dialect, frames[:count])) for count in range(len(frames) + 1)]
    for cut in range(len(data)):
        events = run(program(dialect).open(), data[:cut])
        if cut < proven - 2:  # the last frame counts without its blank line
            assert fault(events).kind == "truncated", cut
        if cut >= proven - 2 and cut in ends:
            assert isinstance(events[-1], StreamEnd), cut
        whole = sum(end <= cut for end in ends) - 1
        wanted = text_of(run(program(dialect).open(), data[: ends[whole]]))
        assert text_of(events).startswith(wanted)
        if isinstance(events[-1], StreamEnd):
            assert text_of(events) == "Hello 日本"


def test_a_cut_inside_a_frame_is_seen_even_after_the_evidence() -> None:
    frames, _ = ANSWERS[CHAT]
    data = frames_to_bytes(CHAT, frames)
    at = data.index(b'"prompt_tokens"') + 4
    events = run(program(CHAT).open(), data[:at])
    assert fault(events).kind == "truncated"
    assert text_of(events) == "Hello 日本"


def test_no_bytes_at_all_are_a_truncated_reply() -> None:
    for dialect in DIALECTS:
        assert fault(program(dialect).open().finish()).kind == "truncated"
        whole = program(dialect).open(content_type="application/json", streamed=False)
        assert fault(run(whole, b" \n ")).kind == "truncated"
        undecided = program(dialect).open(content_type="application/json", streamed=True)
        assert fault(run(undecided, b"")).kind == "truncated"


def test_calls_cut_off_are_told_as_far_as_they_came() -> None:
    piece = {"index": 0, "id": "c", "function": {"name": "go", "arguments": '{"x"'}}
    events = stream(CHAT, delta(tool_calls=[piece]))
    assert isinstance(events[1], PartialToolCall)
    assert fault(events).kind == "truncated"


def test_an_end_without_evidence_still_tells_usage_and_who_answered() -> None:
    start = {"type": "message_start", "message": {"id": "m", "model": "x", "usage": {"input_tokens": 7}}}
    events = stream("messages", start)
    assert isinstance(events[0], Metadata)
    assert events[0].usage is not None
    assert (events[0].usage.input_tokens, events[0].response_id) == (7, "m")
    assert fault(events).kind == "truncated"


def test_a_stop_reason_alone_does_not_end_a_message() -> None:
    events = stream("messages", {"type": "message_delta", "delta": {"stop_reason": "end_turn"}})
    assert fault(events).kind == "truncated"


def test_one_candidate_without_a_reason_keeps_the_reply_open() -> None:
    frames = [delta(0, content="a"), delta(1, content="b"), delta(0, finish="stop")]
    assert fault(stream(CHAT, *frames)).kind == "truncated"
    assert isinstance(stream(CHAT, *frames, delta(1, finish="stop"))[-1], StreamEnd)
    assert isinstance(stream(CHAT, *frames, "[DONE]")[-1], StreamEnd)


@pytest.mark.parametrize("junk", ["{oops}", "hello", '{"a": 1} x', '{"a":', "[1, 2", '{"a": tru}'])
def test_a_frame_that_cannot_be_read_ends_the_reply_after_what_came_before(junk: str) -> None:
    data = frames_to_bytes(CHAT, [delta(content="a"), junk, delta(content="b"), delta(finish="stop"), "[DONE]"])
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        pipeline = program(CHAT).open()
        events = [event for piece in pieces for event in pipeline.feed(piece)] + pipeline.finish()
        assert events[0] == PartialContentDelta("a")
        assert fault(events).kind == "unreadable_frame"
        assert "frame 2" in fault(events).message
        assert junk not in fault(events).message
        assert pipeline.closed
        assert len(events) == 2


def test_a_frame_nested_without_end_is_unreadable() -> None:
    data = b"data: " + b"[" * 200_000 + b"]" * 200_000 + b"\n\n"
    assert fault(run(program(CHAT).open(), data)).kind == "unreadable_frame"


# Readers of JSON go deeper than Python calls itself, and how deep is another number in each version of it.
DEPTHS = [300, 700, 900, 960, 980, 1_000, 1_500, 3_000, 9_000, 40_000]


def deep(depth: int, **more: Any) -> bytes:
    """An object with a list of lists in it, made as text: the standard library writes none as deep."""
    return json.dumps({**more, "deep": 0}).encode().replace(b'"deep": 0', b'"deep": ' + b"[" * depth + b"]" * depth)


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_error_as_deep_as_it_likes_is_told_and_never_raised(depth: int) -> None:
    body = b'{"error": ' + deep(depth, message="no", code="bad") + b"}"
    for data, kind in ((b"data: " + body + b"\n\n", "text/event-stream"), (body, "application/json")):
        found = fault(run(program(CHAT).open(content_type=kind), data))
        assert (found.kind, found.message) == ("provider", "no") or found.kind == "unreadable_frame"
    assert program(CHAT).read_error(400, {}, body).status == 400
    nameless = b'{"error": {"message": ' + deep(depth) + b"}}"
    assert fault(run(program(CHAT).open(), b"data: " + nameless + b"\n\n")).kind in ("provider", "unreadable_frame")
    assert program(CHAT).read_error(400, {}, nameless).status == 400


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_value_as_deep_as_it_likes_is_passed_on_or_told(depth: int) -> None:
    odd = b'"odd": "\\ud83d", '
    call = b'"message": {"tool_calls": [{"id": "a", "function": {"name": "n", "arguments": ' + deep(depth) + b"}}]}}]}"
    block = b'"type": "content_block_start", "index": 0, "content_block": ' + deep(depth, type="new", data="x") + b"}"
    usage = b'"type": "message_delta", "delta": {}, "usage": ' + deep(depth, output_tokens=1) + b"}"
    for more in (b"", odd):
        for dialect, frame in (
            (CHAT, b"{" + more + b'"choices": [{"finish_reason": "stop", ' + call),
            ("messages", b"{" + more + block),
            ("messages", b"{" + more + usage),
        ):
            events = run(program(dialect).open(), b"data: " + frame + b"\n\n")
            assert isinstance(events[-1], StreamEnd) or fault(events).kind in ("truncated", "unreadable_frame")


def test_numbers_over_every_bound_are_read_or_told() -> None:
    data = b'data: {"n": ' + b"9" * 10_000 + b', "choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n'
    events = run(program(CHAT).open(), data)
    assert isinstance(events[-1], StreamEnd) or "a number of too many digits" in fault(events).message


def test_a_frame_over_the_bound_is_told_after_what_came_before() -> None:
    data = frames_to_bytes(CHAT, [delta(content="a"), delta(content="b" * 5000), delta(finish="stop")])
    for pieces in ([data], [data[at : at + 7] for at in range(0, len(data), 7)]):
        pipeline = program(CHAT).open(max_frame_bytes=1000)
        events = [event for piece in pieces for event in pipeline.feed(piece)] + pipeline.finish()
        assert events[0] == PartialContentDelta("a")
        assert fault(events).kind == "oversize"
        assert len(events) == 2


def test_a_body_over_the_bound_is_told() -> None:
    pipeline = program(CHAT).open(content_type="application/json", streamed=False, max_frame_bytes=100)
    assert fault(run(pipeline, b'{"x": "' + b"y" * 200 + b'"}')).kind == "oversize"


# ---- errors of the provider inside a reply ----


def test_an_error_inside_a_stream_comes_after_the_rest_of_its_frame() -> None:
    error = {"code": 400, "message": "limit", "metadata": {"x": 1}}
    events = stream(
        CHAT,
        {**delta(content="a", finish="length"), "id": "r", "model": "m"},
        {"choices": [], "error": error, "usage": {"prompt_tokens": 3, "completion_tokens": 4}},
        delta(content="never"),
        "[DONE]",
    )
    assert events[0] == PartialContentDelta("a")
    assert isinstance(events[1], Metadata)
    assert fold(events).usage.total_tokens == 7
    assert events[2] == FinalCandidate(0, "max_tokens", "length")
    assert fault(events) == StreamError("provider", "limit", "400", None, 400, error)
    assert len(events) == 4


@pytest.mark.parametrize(
    ("dialect", "frame", "code", "message"),
    [
        (CHAT, {"error": {"type": "server_error", "code": None, "message": "x"}}, "server_error", "x"),
        (CHAT, {"error": "plain"}, None, "plain"),
        (
            "messages",
            {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
            "overloaded_error",
            "busy",
        ),
        (
            "responses",
            {"type": "error", "code": "rate_limit_exceeded", "message": "slow"},
            "rate_limit_exceeded",
            "slow",
        ),
        (
            "responses",
            {
                "type": "response.failed",
                "response": {"status": "failed", "error": {"code": "server_error", "message": "x"}},
            },
            "server_error",
            "x",
        ),
        (
            "generate_content",
            {"error": {"code": 503, "message": "busy", "status": "UNAVAILABLE"}},
            "UNAVAILABLE",
            "busy",
        ),
        ("ollama_chat", {"error": "model not found"}, None, "model not found"),
    ],
)
def test_every_wire_can_say_an_error_inside_a_reply(dialect: str, frame: Any, code: str | None, message: str) -> None:
    said = fault(stream(dialect, frame))
    assert (said.kind, said.code, said.message) == ("provider", code, message)
    whole = program(dialect).open(content_type="application/json", streamed=True)
    assert fault(run(whole, json.dumps(frame).encode())).message == message


def test_an_error_in_a_list_of_replies_is_seen() -> None:
    pipeline = program("generate_content").open(content_type="application/json", streamed=True)
    events = run(pipeline, b'[{"error": {"code": 429, "message": "slow", "status": "RESOURCE_EXHAUSTED"}}]')
    assert (fault(events).code, fault(events).status) == ("RESOURCE_EXHAUSTED", 429)


# ---- content types ----


@pytest.mark.parametrize("content_type", ["text/html", "text/html; charset=utf-8", "application/xml", "image/png"])
def test_a_reply_of_another_kind_is_refused_by_its_type(content_type: str) -> None:
    for streamed in (True, False):
        pipeline = program(CHAT).open(content_type=content_type, streamed=streamed)
        assert fault(run(pipeline, b"<html>")).kind == "wrong_content_type"
        assert (
            fault(program(CHAT).open(content_type=content_type, streamed=streamed).finish()).kind
            == "wrong_content_type"
        )


@pytest.mark.parametrize("content_type", [None, "", "text/plain", "application/octet-stream", "TEXT/EVENT-STREAM; x=y"])
def test_a_type_that_says_nothing_leaves_it_to_what_was_asked_for(content_type: str | None) -> None:
    data = frames_to_bytes(CHAT, ANSWERS[CHAT][0])
    assert isinstance(run(program(CHAT).open(content_type=content_type, streamed=True), data)[-1], StreamEnd)


def test_what_came_decides_and_not_what_was_asked_for() -> None:
    whole = json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}).encode()
    pipeline = program(CHAT).open(content_type="application/json; charset=utf-8", streamed=True)
    assert text_of(run(pipeline, b"\n " + whole)) == "a"
    assert pipeline.body == json.loads(whole)
    streamed = program(CHAT).open(content_type="text/event-stream", streamed=False)
    assert text_of(run(streamed, frames_to_bytes(CHAT, ANSWERS[CHAT][0]))) == "Hello 日本"


def test_a_list_where_a_stream_was_asked_for_is_read_element_by_element() -> None:
    frames, _ = ANSWERS["generate_content"]
    data = b"\xef\xbb\xbf \r\n" + json.dumps(frames, indent=2, ensure_ascii=False).encode()
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        pipeline = program("generate_content").open(content_type="application/json", streamed=True)
        events = [event for piece in pieces for event in pipeline.feed(piece)]
        assert text_of(events) == "Hello 日本"  # before the end of the bytes
        assert isinstance((events + pipeline.finish())[-1], StreamEnd)
    cut = program("generate_content").open(content_type="application/json", streamed=True)
    assert fault(run(cut, data[:-1])).kind == "truncated"


def test_a_body_that_was_cut_is_truncated_and_one_that_is_no_json_is_unreadable() -> None:
    whole = json.dumps({"choices": [{"message": {"content": "a b"}, "finish_reason": "stop"}], "ok": True}).encode()
    for cut in range(1, len(whole)):
        pipeline = program(CHAT).open(content_type="application/json", streamed=False)
        assert fault(run(pipeline, whole[:cut])).kind == "truncated", whole[:cut]
    pipeline = program(CHAT).open(content_type="application/json", streamed=False)
    assert fault(run(pipeline, b"<html>a proxy says no, at length</html>")).kind == "unreadable_frame"
    assert pipeline.body is None


def test_a_body_that_holds_nothing_known_is_no_empty_answer() -> None:
    for value in ({}, {"foo": 1}, {"id": "x", "model": "m"}, [], "text", 3, None, {"choices": []}):
        pipeline = program(CHAT).open(content_type="application/json", streamed=False)
        assert fault(run(pipeline, json.dumps(value).encode())).kind == "unreadable_frame", value


# ---- what msgspec refuses and providers send ----


def test_halves_of_a_surrogate_pair_in_two_frames_become_one_character() -> None:
    for dialect, one, two in (
        (CHAT, '{"choices":[{"delta":{"content":"a\\ud83d"}}]}', '{"choices":[{"delta":{"content":"\\ude00b"}}]}'),
        (CHAT, '{"choices":[{"delta":{"reasoning":"a\\ud83d"}}]}', '{"choices":[{"delta":{"reasoning":"\\ude00b"}}]}'),
    ):
        pipeline = program(dialect).open()
        events = run(pipeline, frames_to_bytes(dialect, [one, two, delta(finish="stop")]))
        reply = fold(events)
        assert (reply.content or reply.thinking) == "a😀b"
        assert pipeline.counts.repaired == 2
        msgspec.json.encode(events)


def test_a_half_that_stays_alone_becomes_a_replacement_character() -> None:
    frames = [
        '{"choices":[{"delta":{"content":"x\\udc00y\\ud83d"}}]}',
        delta(content="z"),
        delta(content="a"),
        delta(finish="stop"),
    ]
    assert fold(stream(CHAT, *frames)).content == "x\ufffdy\ufffdza"
    assert fold(stream(CHAT, *frames[:1], delta(finish="stop"))).content == "x\ufffdy\ufffd"


def test_lone_surrogates_anywhere_leave_events_that_can_be_written() -> None:
    lone = "\\ud83d"
    frame = (
        f'{{"id":"{lone}","model":"{lone}","usage":{{"x":"{lone}"}},"choices":[{{"delta":{{"reasoning":"{lone}",'
        f'"tool_calls":[{{"index":0,"id":"{lone}","function":{{"name":"{lone}","arguments":"{lone}"}}}}]}},'
        f'"finish_reason":"{lone}"}}]}}'
    )
    events = stream(CHAT, frame, "[DONE]")
    assert isinstance(events[-1], StreamEnd)
    assert msgspec.json.decode(msgspec.json.encode(events))
    assert msgspec.json.encode(stream(CHAT, f'{{"error":{{"message":"{lone}","code":"{lone}"}}}}'))


@pytest.mark.parametrize(
    "odd",
    ['{"x": NaN, %s}', '{"x": 1e999, %s}', '{"x": -Infinity, %s}', "\ufeff{%s}", '{"x": "\\ud83d", %s}'],
)
def test_what_the_fast_reader_refuses_is_read_once_more_and_counted(odd: str) -> None:
    frame = odd % '"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]'
    pipeline = program(CHAT).open()
    events = run(pipeline, frames_to_bytes(CHAT, [delta(content="b"), frame, delta(content="c")]))
    assert text_of(events) == "bac"
    assert pipeline.counts.repaired <= 1
    generic = program(CHAT).open(backend="generic")
    assert run(generic, frames_to_bytes(CHAT, [delta(content="b"), frame, delta(content="c")])) == events


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    data = b'data: {"choices":[{"delta":{"content":"a\xffb"},"finish_reason":"stop"}]}\n\n'
    pipeline = program(CHAT).open()
    assert text_of(run(pipeline, data)) == "a\ufffdb"
    assert pipeline.counts.repaired == 1


# ---- state ----


def test_a_closed_pipeline_gives_nothing_more_and_counts_what_came_late() -> None:
    pipeline = program(CHAT).open()
    data = frames_to_bytes(CHAT, ANSWERS[CHAT][0])
    assert isinstance(pipeline.feed(data)[-1], StreamEnd)
    assert pipeline.closed
    assert pipeline.feed(b"data: late\n\n") == []
    assert pipeline.finish() == []
    assert pipeline.counts.late_bytes == 12


def test_lists_that_were_given_out_do_not_grow() -> None:
    pipeline = program(CHAT).open()
    first = pipeline.feed(b": nothing\n\n")
    pipeline.feed(frames_to_bytes(CHAT, [delta(content="a")]))
    assert first == []


def test_pipelines_of_one_program_never_mix() -> None:
    compiled = program(CHAT)
    chance = random.Random(7)
    pipelines: list[tuple[Pipeline, bytes, list[StreamingEvent]]] = []
    for number in range(50):
        piece = {"index": 0, "id": f"c{number}", "function": {"name": f"f{number}", "arguments": "{"}}
        rest = {"index": 0, "function": {"arguments": f'"n":{number}}}'}}
        frames = [
            delta(content=f"t{number}"),
            delta(tool_calls=[piece]),
            delta(tool_calls=[rest]),
            delta(finish="stop"),
            "[DONE]",
        ]
        pipelines.append((compiled.open(backend=chance.choice(["view", "generic"])), frames_to_bytes(CHAT, frames), []))
    at = [0] * 50
    while any(not pipeline.closed for pipeline, _, _ in pipelines):
        number = chance.randrange(50)
        pipeline, data, events = pipelines[number]
        step = chance.randrange(1, 40)
        events += pipeline.feed(data[at[number] : at[number] + step])
        at[number] += step
        if at[number] >= len(data):
            events += pipeline.finish()
    for number, (_, _, events) in enumerate(pipelines):
        reply = fold(events)
        assert reply.content == f"t{number}"
        assert [(one.id, one.name, one.arguments) for one in reply.tool_calls] == [
            (f"c{number}", f"f{number}", {"n": number})
        ]


def test_usage_so_far_is_known_before_the_end() -> None:
    pipeline = program("messages").open()
    start = {"type": "message_start", "message": {"id": "m", "model": "x", "usage": {"input_tokens": 7}}}
    pipeline.feed(frames_to_bytes("messages", [start]))
    assert pipeline.usage is not None
    assert (pipeline.usage.input_tokens, pipeline.model, pipeline.response_id) == (7, "x", "m")


def test_a_frame_in_a_hundred_thousand_pieces_takes_no_longer_than_its_bytes() -> None:
    # Quadratic work would need 5e9 byte copies here; linear work is done at once.
    pipeline = program(CHAT).open()
    pipeline.feed(b'data: {"choices":[{"delta":{"content":"')
    for _ in range(100_000):
        assert pipeline.feed(b"x") == []
    events = pipeline.feed(b'"},"finish_reason":"stop"}]}\n\n')
    assert events == [PartialContentDelta("x" * 100_000)]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(DIALECTS), st.binary(max_size=60), st.sampled_from([None, "application/json", "text/event-stream"])
)
def test_no_bytes_make_a_pipeline_raise(dialect: str, data: bytes, content_type: str | None) -> None:
    good = frames_to_bytes(dialect, ANSWERS[dialect][0][:1])
    for whole in (data, good + data, b"data: " + data + b"\n\n", b"{" + data + b"}"):
        pipeline = program(dialect).open(content_type=content_type)
        events = run(pipeline, whole)
        assert isinstance(events[-1], StreamEnd | StreamError)
        assert pipeline.closed
        program(dialect).read_error(500, {}, whole)


def test_what_a_program_keeps_of_content_types_is_bounded_and_the_rest_are_read_as_well() -> None:
    found = program("converse")
    data = json.dumps({"stopReason": "end_turn"}).encode()
    ends = []
    for number in range(200):
        for kind in (f"application/json; x={number}", f"image/x{number}"):
            ends.append(run(found.open(content_type=kind, streamed=False), data)[-1])
    assert [type(end) for end in ends] == [StreamEnd, StreamError] * 200
    assert len(found._ways) <= 64
