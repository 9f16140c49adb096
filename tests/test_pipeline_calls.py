"""Tool calls: one call is opened once, its arguments come once, and what is no call of the client never becomes one."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ai_lib_trio.types.events import (
    FinalCandidate,
    OpaqueBlock,
    PartialContentDelta,
    PartialToolCall,
    ServerToolCall,
    StreamEnd,
    StreamingEvent,
    ToolCallEnded,
    ToolCallStarted,
)
from ai_lib_trio.types.response import fold, parse_arguments
from pipeline_support import body, call, delta, program, run, stream

CHAT = "chat_completions"
STOP = delta(finish="tool_calls")


def calls_of(events: list[StreamingEvent]) -> list[tuple[str, str, Any]]:
    return [(one.id, one.name, one.arguments) for one in fold(events).tool_calls]


def chat(*pieces: dict[str, Any]) -> list[StreamingEvent]:
    return stream(CHAT, *(delta(tool_calls=[piece]) for piece in pieces), STOP)


def test_ids_for_many_calls_are_made_in_time_proportional_to_their_number() -> None:
    # Looking for a free one from the start each time took 11 s for 8,000 of them.
    calls = [{"index": number, "function": {"name": "go", "arguments": "{}"}} for number in range(20_000)]
    begun = time.process_time()
    events = stream(CHAT, delta(tool_calls=calls), STOP)
    assert time.process_time() - begun < 8
    assert len({event.tool_call_id for event in events if isinstance(event, ToolCallStarted)}) == 20_000


def test_a_call_in_pieces_is_opened_once_and_ends_at_the_end() -> None:
    events = chat(call(0, "c1", "go", ""), call(0, arguments='{"a"'), call(0, arguments=":1}"))
    assert events == [
        ToolCallStarted("c1", "go", 0, 0, 0, "c1"),
        PartialToolCall('{"a"', 0, "c1"),
        PartialToolCall(":1}", 0, "c1"),
        ToolCallEnded("c1"),
        FinalCandidate(0, "tool_use", "tool_calls"),
        StreamEnd("tool_use", "tool_calls"),
    ]


def test_parallel_calls_may_be_interleaved() -> None:
    events = chat(call(0, "c1", "a", ""), call(1, "c2", "b", ""), call(0, arguments="{}"), call(1, arguments='{"x":2}'))
    assert calls_of(events) == [("c1", "a", {}), ("c2", "b", {"x": 2})]


def test_an_id_and_name_repeated_in_every_piece_is_one_call() -> None:
    events = chat(call(0, "c1", "a", '{"x"'), call(0, "c1", "a", ":1}"))
    assert calls_of(events) == [("c1", "a", {"x": 1})]


def test_another_id_at_the_same_index_is_another_call() -> None:
    events = chat(call(0, "c1", "a", '{"x":1}'), call(0, "c2", "b", '{"x":2}'), call(0, arguments=" "))
    assert calls_of(events) == [("c1", "a", {"x": 1}), ("c2", "b", {"x": 2})]
    assert next(event for event in events if isinstance(event, ToolCallEnded)) == ToolCallEnded("c1", 0, 0)


def test_a_missing_index_is_the_place_in_the_list() -> None:
    events = stream(CHAT, delta(tool_calls=[call(None, "c1", "a", "{}"), call(None, "c2", "b", "{}")]), STOP)
    assert calls_of(events) == [("c1", "a", {}), ("c2", "b", {})]


def test_the_start_waits_for_the_name_and_what_came_before_it_follows() -> None:
    events = chat(call(0, "c1"), call(0, arguments='{"x"'), call(0, name="a", arguments=":1}"))
    assert events[:3] == [
        ToolCallStarted("c1", "a", 0, 0, 0, "c1"),
        PartialToolCall('{"x"', 0, "c1"),
        PartialToolCall(":1}", 0, "c1"),
    ]


def test_a_call_that_is_never_named_is_none_and_counted() -> None:
    pipeline = program(CHAT).open()
    data = b'data: {"choices":[{"delta":{"tool_calls":[{"index":0,"id":"c1"}]},"finish_reason":"stop"}]}\n\n'
    events = run(pipeline, data)
    assert calls_of(events) == []
    assert pipeline.counts.nameless_calls == 1
    assert fold(events).finish_reason == "end_turn"


@pytest.mark.parametrize("empty", [{"name": "", "arguments": ""}, {"name": None, "arguments": None}, {}])
def test_an_empty_function_call_object_is_no_call(empty: dict[str, Any]) -> None:
    message = {"role": "assistant", "content": "hi", "function_call": empty, "tool_calls": None}
    events = body(CHAT, {"choices": [{"index": 0, "message": message, "finish_reason": ""}]})
    assert calls_of(events) == []
    assert events[-1] == StreamEnd("other")


def test_a_legacy_function_call_is_a_call_with_an_id_made_here() -> None:
    events = stream(
        CHAT,
        delta(function_call={"name": "go", "arguments": ""}),
        delta(function_call={"arguments": '{"x":1}'}),
        delta(finish="function_call"),
    )
    assert events[0] == ToolCallStarted("call_0", "go")
    assert calls_of(events) == [("call_0", "go", {"x": 1})]
    assert fold(events).finish_reason == "tool_use"


def test_ids_made_here_are_the_same_for_the_same_reply_and_differ_between_replies() -> None:
    def made(response_id: str) -> list[str]:
        parts = [{"functionCall": {"name": name}} for name in "ab"]
        candidates = [{"content": {"parts": parts}, "finishReason": "STOP"}]
        reply = fold(body("generate_content", {"responseId": response_id, "candidates": candidates}))
        return [one.id for one in reply.tool_calls]

    assert made("r1") == made("r1")
    assert len({*made("r1"), *made("r2")}) == 4


def test_ids_and_names_that_are_no_text_count_as_absent() -> None:
    events = stream(CHAT, delta(tool_calls=[call(0, 17, "go", "{}")]), delta(tool_calls=[call(0, {}, ["x"], "")]), STOP)
    assert calls_of(events) == [("call_0", "go", {})]


def test_arguments_given_as_an_object_are_the_whole() -> None:
    assert calls_of(chat(call(0, "c1", "go", {"x": [1]}))) == [("c1", "go", {"x": [1]})]


def test_arguments_that_are_empty_or_no_json_are_kept_as_they_are() -> None:
    assert calls_of(chat(call(0, "c1", "go", ""))) == [("c1", "go", {})]
    assert calls_of(chat(call(0, "c1", "go"))) == [("c1", "go", {})]
    assert calls_of(chat(call(0, "c1", "go", "4 + 4"))) == [("c1", "go", "4 + 4")]


def test_text_after_a_call_is_a_block_of_its_own() -> None:
    one = delta(tool_calls=[call(0, "c", "go", "{}")])
    events = stream(CHAT, delta(content="a"), delta(content="b"), one, delta(content="c"), STOP)
    assert [block.__struct_config__.tag for block in fold(events).blocks] == ["text", "tool_use", "text"]
    assert [event for event in events if isinstance(event, PartialContentDelta)] == [
        PartialContentDelta("a", 0),
        PartialContentDelta("b", 0),
        PartialContentDelta("c", 2),
    ]


def test_a_reason_to_stop_beside_the_last_piece_loses_neither() -> None:
    events = stream(
        CHAT, delta(finish="stop", content="done", tool_calls=[call(0, "c", "go", "{}")]), delta(content=" and more")
    )
    reply = fold(events)
    assert (reply.content, len(reply.tool_calls), reply.finish_reason) == ("done and more", 1, "tool_use")


# ---- blocks with starts, pieces and ends ----


def start(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def piece(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


END = ({"type": "message_delta", "delta": {"stop_reason": "tool_use"}}, {"type": "message_stop"})


def test_a_block_ends_where_the_wire_says_and_text_blocks_end_in_silence() -> None:
    events = stream(
        "messages",
        start(0, type="text", text=""),
        piece(0, text="hi"),
        stop(0),
        start(1, type="tool_use", id="t1", name="go", input={}),
        piece(1, partial_json=""),
        piece(1, partial_json='{"x":1}'),
        stop(1),
        start(2, type="tool_use", id="t2", name="go", input={}),
        stop(2),
        *END,
    )
    assert events[:-2] == [
        PartialContentDelta("hi", 0),
        ToolCallStarted("t1", "go", 0, 1, 0, "t1"),
        PartialToolCall('{"x":1}', 0, "t1", 1),
        ToolCallEnded("t1", 0, 1),
        ToolCallStarted("t2", "go", 1, 2, 0, "t2"),
        ToolCallEnded("t2", 1, 2),
    ]


def test_arguments_told_whole_at_the_start_count_where_no_pieces_follow() -> None:
    events = stream("messages", start(0, type="tool_use", id="t", name="go", input={"x": 1}), stop(0), *END)
    assert calls_of(events) == [("t", "go", {"x": 1})]
    events = stream(
        "messages",
        start(0, type="tool_use", id="t", name="go", input={"x": 1}),
        piece(0, partial_json='{"y":2}'),
        stop(0),
        *END,
    )
    assert calls_of(events) == [("t", "go", {"y": 2})]


def test_pieces_of_a_block_that_the_provider_runs_are_no_arguments_of_a_client() -> None:
    events = stream(
        "messages",
        start(0, type="server_tool_use", id="s", name="web_search", input={}, server="x"),
        piece(0, partial_json='{"query":'),
        piece(0, partial_json='"x"}'),
        stop(0),
        start(1, type="web_search_tool_result", tool_use_id="s", content=[{"type": "r", "url": "u"}]),
        stop(1),
        start(2, type="text", text=""),
        piece(2, text="so"),
        *END,
    )
    native = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}, "server": "x"}
    result = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "r", "url": "u"}]}
    assert events[:2] == [
        ServerToolCall("s", "web_search", {"query": "x"}, None, 0, 0, native),
        ServerToolCall("s", "web_search_tool_result", None, [{"type": "r", "url": "u"}], 1, 0, result),
    ]
    assert calls_of(events) == []


def test_a_block_that_comes_in_pieces_without_a_standard_meaning_goes_back_whole() -> None:
    events = stream(
        "messages",
        start(0, type="compaction", content=None),
        piece(0, type="compaction_delta", content="so far: "),
        piece(0, type="compaction_delta", content="nothing"),
        stop(0),
        *END,
    )
    assert events[0] == OpaqueBlock(0, "compaction", {"type": "compaction", "content": "so far: nothing"})


def test_a_final_whole_copy_does_not_double_the_pieces() -> None:
    item = {"type": "function_call", "id": "fc", "call_id": "c", "name": "go"}
    events = stream(
        "responses",
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"x":1}'},
        {"type": "response.function_call_arguments.done", "output_index": 0, "arguments": '{"x":1}'},
        {"type": "response.output_item.done", "output_index": 0, "item": {**item, "arguments": '{"x":1}'}},
        {"type": "response.completed", "response": {"status": "completed"}},
    )
    assert events[:3] == [
        ToolCallStarted("c", "go", 0, 0, 0, "c", "fc"),
        PartialToolCall('{"x":1}', 0, "c"),
        ToolCallEnded("c"),
    ]
    assert len(calls_of(events)) == 1


def test_whole_calls_need_no_index() -> None:
    calls = [{"function": {"name": "a", "arguments": {"x": 1}}}, {"function": {"name": "b", "arguments": {}}}]
    lines = [{"message": {"tool_calls": [one]}, "done": False} for one in calls]
    events = stream("ollama_chat", *lines, {"message": {"content": ""}, "done": True, "done_reason": "stop"})
    assert calls_of(events) == [("call_0", "a", {"x": 1}), ("call_1", "b", {})]
    assert fold(events).finish_reason == "tool_use"
    assert [event.wire_id for event in events if isinstance(event, ToolCallStarted)] == [None, None]


def test_a_call_keeps_the_signature_that_its_wire_wants_back() -> None:
    parts = [
        {"functionCall": {"id": "w", "name": "a", "args": {"x": 1}}, "thoughtSignature": "S"},
        {"functionCall": {"name": "b"}},
    ]
    events = body("generate_content", {"candidates": [{"content": {"parts": parts}, "finishReason": "STOP"}]})
    one, two = fold(events).blocks
    assert (one.id, one.wire_id, one.signature, one.input) == ("w", "w", "S", {"x": 1})  # type: ignore[union-attr]
    assert (two.id, two.wire_id, two.signature, two.input) == ("call_0", None, None, {})  # type: ignore[union-attr]


def test_calls_that_were_cut_off_are_never_delivered_as_calls() -> None:
    events = stream(CHAT, delta(tool_calls=[call(0, "c1", "go", '{"x"')]))
    assert not [event for event in events if isinstance(event, ToolCallEnded)]
    assert calls_of(events) == []


def test_arguments_that_no_reader_takes_stay_text() -> None:
    for text in ("half a pair: \ud83d", "[" * 100_000, '{"x": '):
        assert parse_arguments(text) == text
