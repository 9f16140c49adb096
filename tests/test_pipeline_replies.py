"""What the dialects' rules make of text, reasoning, refusals, citations, usage and ends, wire by wire."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ai_lib_trio.pipeline import compile_decoder
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.types.events import (
    Citation,
    FinalCandidate,
    Metadata,
    OpaqueBlock,
    PartialContentDelta,
    RefusalDelta,
    StreamEnd,
    StreamError,
    StreamingEvent,
    ThinkingDelta,
)
from ai_lib_trio.types.message import ImageBlock, OpaqueContent, ServerToolBlock, TextBlock, ThinkingBlock, ToolUseBlock
from ai_lib_trio.types.response import fold
from ai_lib_trio.types.usage import Usage
from pipeline_support import body, delta, program, run, stream
from test_pipeline_framing import EVENT, binary, header

CHAT = "chat_completions"


def usage_of(events: list[StreamingEvent]) -> Usage:
    return fold(events).usage


# ---- chat_completions ----


def test_a_chat_stream_becomes_text_then_what_is_known_then_its_end() -> None:
    about = {"id": "r1", "model": "m-1"}
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 2,
        "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    events = stream(
        CHAT,
        {**about, **delta(role="assistant", content="")},
        {**about, **delta(content="He"), "usage": None},
        {**about, **delta(content="llo"), "obfuscation": "xx"},
        {**about, **delta(finish="stop")},
        {**about, "choices": [], "usage": usage},
        "[DONE]",
    )
    assert events == [
        PartialContentDelta("He"),
        PartialContentDelta("llo"),
        Metadata(Usage(5, 2, 7, cached_tokens=3, raw=usage), "m-1", "r1"),
        FinalCandidate(0, "end_turn", "stop"),
        StreamEnd("end_turn", "stop"),
    ]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_is_apart_from_text_under_either_name(field: str) -> None:
    reply = fold(
        stream(CHAT, delta(**{field: "hm"}), delta(**{field: " so"}), delta(content="yes"), delta(finish="stop"))
    )
    assert (reply.thinking, reply.content) == ("hm so", "yes")
    assert reply.blocks == (ThinkingBlock(text="hm so"), TextBlock(text="yes"))


def test_reasoning_under_both_names_counts_once() -> None:
    assert fold(stream(CHAT, delta(reasoning="a", reasoning_content="a"), delta(finish="stop"))).thinking == "a"


def test_content_may_be_a_list_of_parts_with_reasoning_in_it() -> None:
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "yes"}]
    for events in (
        body(CHAT, {"choices": [{"message": {"content": content}, "finish_reason": "stop"}]}),
        stream(CHAT, delta(content=content[:1]), delta(content=content[1:]), delta(finish="stop")),
    ):
        assert (fold(events).thinking, fold(events).content) == ("hm", "yes")


def test_usage_is_found_wherever_the_wire_puts_it() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    for frames in (
        [delta(content="a"), {**delta(finish="stop"), "usage": usage}],
        [delta(finish="stop"), {"choices": [], "usage": usage}],
        [delta(finish="stop"), {**delta(), "usage": usage}],
        [{**delta(finish="stop"), "x_groq": {"usage": usage}}],
        [{**delta(), "usage": usage}, delta(finish="stop"), {"usage": None}],
    ):
        assert usage_of(stream(CHAT, *frames)) == Usage(3, 4, 7, raw=usage)


@pytest.mark.parametrize("garbage", [-5, 10**9 + 1, 10**400, 1e308], ids=["below", "beyond", "far", "float"])
def test_a_count_that_no_reply_has_is_not_told(garbage: float) -> None:
    usage = {"prompt_tokens": garbage, "completion_tokens": 4, "total_tokens": garbage}
    told = usage_of(stream(CHAT, delta(content="a"), {**delta(finish="stop"), "usage": usage}))
    assert (told.input_tokens, told.output_tokens, told.total_tokens, told.raw) == (None, 4, None, usage)


def test_several_choices_are_candidates() -> None:
    events = stream(
        CHAT, delta(1, content="b"), delta(0, content="a"), delta(1, finish="length"), delta(0, finish="stop"), "[DONE]"
    )
    reply = fold(events)
    assert [(one.index, one.content, one.finish_reason) for one in reply.candidates] == [
        (0, "a", "end_turn"),
        (1, "b", "max_tokens"),
    ]
    assert events[-1] == StreamEnd("end_turn", "stop")


def test_a_refusal_is_neither_text_nor_lost() -> None:
    events = stream(CHAT, delta(refusal="I can"), delta(refusal="not"), delta(finish="stop"))
    assert events[:2] == [RefusalDelta("I can"), RefusalDelta("not")]
    assert (fold(events).refusal, fold(events).content) == ("I cannot", "")


def test_a_filtered_reply_may_have_no_message_at_all() -> None:
    reply = fold(body(CHAT, {"choices": [{"index": 0, "finish_reason": "content_filter"}]}))
    assert (reply.content, reply.finish_reason, reply.raw_finish_reason) == ("", "refusal", "content_filter")


def test_citations_and_images_of_a_chat_reply_are_kept() -> None:
    cited = {"type": "url_citation", "url_citation": {"url": "u"}}
    message = {
        "content": "see",
        "annotations": [cited, {"type": "file", "file": {}}],
        "images": [{"image_url": {"url": "data:image/png;base64,AA=="}}],
    }
    reply = fold(body(CHAT, {"choices": [{"message": message, "finish_reason": "stop"}]}))
    assert reply.citations == (Citation(cited),)
    text, image = reply.blocks
    assert isinstance(text, TextBlock)
    assert isinstance(image, ImageBlock)
    assert text.citations == (cited,)


@pytest.mark.parametrize(
    ("raw", "standard"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("content_filter", "refusal"),
        ("x", "other"),
    ],
)
def test_a_reason_is_told_in_standard_words_and_in_the_wires_own(raw: str, standard: str) -> None:
    assert stream(CHAT, delta(finish=raw))[-1] == StreamEnd(standard, raw)  # type: ignore[arg-type]


# ---- messages ----


def message(*blocks: Any, usage: Any = None, stop: str = "end_turn") -> list[Any]:
    """A stream of the messages wire: each block is (its start, its deltas...)."""
    frames: list[Any] = [
        {"type": "message_start", "message": {"id": "m1", "model": "x", "usage": usage}},
        {"type": "ping"},
    ]
    for index, (start, *deltas) in enumerate(blocks):
        frames.append({"type": "content_block_start", "index": index, "content_block": start})
        frames += [{"type": "content_block_delta", "index": index, "delta": one} for one in deltas]
        frames.append({"type": "content_block_stop", "index": index})
    frames.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 9}})
    return [*frames, {"type": "message_stop"}]


def test_thinking_keeps_its_signature_and_sealed_thinking_its_data() -> None:
    events = stream(
        "messages",
        *message(
            ({"type": "thinking", "thinking": "", "signature": ""}, {"thinking": "hm"}, {"signature": "S"}),
            ({"type": "thinking", "thinking": "", "signature": ""}, {"signature": "only"}),
            ({"type": "redacted_thinking", "data": "D"},),
            ({"type": "text", "text": ""}, {"text": "yes"}),
        ),
    )
    assert fold(events).blocks == (
        ThinkingBlock(text="hm", signature="S"),
        ThinkingBlock(signature="only"),
        ThinkingBlock(encrypted="D"),
        TextBlock(text="yes"),
    )


def test_input_tokens_include_what_the_wire_counts_apart() -> None:
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 100,
        "cache_creation_input_tokens": 1000,
        "output_tokens": 1,
    }
    got = usage_of(stream("messages", *message(({"type": "text", "text": "a"},), usage=usage)))
    assert (got.input_tokens, got.output_tokens, got.total_tokens) == (1110, 9, 1119)
    assert (got.cached_tokens, got.cache_write_tokens, got.reasoning_tokens) == (100, 1000, None)
    assert got.raw == {"output_tokens": 9}


def test_several_text_blocks_stay_apart_and_citations_find_theirs() -> None:
    cited = {"type": "char_location", "cited_text": "x"}
    streamed = stream(
        "messages",
        *message(
            ({"type": "text", "text": ""}, {"text": "a"}),
            ({"type": "text", "text": "", "citations": []}, {"citation": cited}, {"text": "b"}),
        ),
    )
    whole = body(
        "messages",
        {
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "citations": [cited]}],
            "stop_reason": "end_turn",
        },
    )
    for events in (streamed, whole):
        assert fold(events).blocks == (TextBlock(text="a"), TextBlock(text="b", citations=(cited,)))
        assert fold(events).content == "ab"
        assert fold(events).citations == (Citation(cited, 1),)


def test_a_whole_message_and_its_stream_make_the_same_reply() -> None:
    blocks: list[Any] = [
        {"type": "thinking", "thinking": "hm", "signature": "S"},
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "t", "name": "go", "input": {"x": 1}, "caller": {"type": "direct"}},
        {"type": "server_tool_use", "id": "s", "name": "search", "input": {"q": 1}},
        {"type": "search_result_odd", "tool_use_id": "s", "content": [1]},
        {"type": "compaction", "content": "c"},
    ]
    usage = {"input_tokens": 1, "output_tokens": 9}
    whole = {"id": "m1", "model": "x", "content": blocks, "stop_reason": "tool_use", "usage": usage}
    streamed = message(
        (
            {"type": "thinking", "thinking": "", "signature": ""},
            {"thinking": "h"},
            {"thinking": "m"},
            {"signature": "S"},
        ),
        ({"type": "text", "text": ""}, {"text": "a"}),
        (
            {"type": "tool_use", "id": "t", "name": "go", "input": {}, "caller": {"type": "direct"}},
            {"partial_json": '{"x":1}'},
        ),
        ({"type": "server_tool_use", "id": "s", "name": "search", "input": {}}, {"partial_json": '{"q": 1}'}),
        (blocks[4],),
        ({"type": "compaction", "content": ""}, {"content": "c"}),
        usage={"input_tokens": 1},
        stop="tool_use",
    )
    one, other = fold(body("messages", whole)), fold(stream("messages", *streamed))
    assert one.blocks == other.blocks
    assert [block.native for block in one.blocks if isinstance(block, ToolUseBlock)] == [{"caller": {"type": "direct"}}]
    assert [block.native for block in one.blocks if isinstance(block, ServerToolBlock)] == blocks[3:5]
    assert one.blocks[-1] == OpaqueContent(kind="compaction", data=blocks[5])
    assert (one.finish_reason, one.model, one.response_id) == (other.finish_reason, other.model, other.response_id)
    assert (one.usage.input_tokens, one.usage.output_tokens) == (other.usage.input_tokens, other.usage.output_tokens)


# ---- responses ----


def test_items_of_a_response_are_blocks_with_what_goes_back() -> None:
    reasoning = {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": "a"}, {"type": "summary_text", "text": "b"}], "encrypted_content": "E"}  # fmt: skip  # noqa: E501
    text = {"type": "message", "id": "ms", "phase": "final", "content": [{"type": "output_text", "text": "yes"}]}
    whole = body("responses", {"id": "r", "status": "completed", "output": [reasoning, text]})
    streamed = stream(
        "responses",
        {"type": "response.created", "response": {"id": "r"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "reasoning", "id": "rs"}},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "a"},
        {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 1, "delta": "b"},
        {"type": "response.output_item.done", "output_index": 0, "item": reasoning},
        {"type": "response.output_item.added", "output_index": 1, "item": {"type": "message", "id": "ms"}},
        {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "y"},
        {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "es"},
        {"type": "response.output_text.done", "output_index": 1, "content_index": 0, "text": "yes"},
        {"type": "response.output_item.done", "output_index": 1, "item": text},
        {"type": "response.completed", "response": {"id": "r", "status": "completed"}},
    )
    for events in (whole, streamed):
        assert fold(events).blocks == (
            ThinkingBlock(text="ab", encrypted="E", id="rs", summary=("a", "b")),
            TextBlock(text="yes", native={"id": "ms", "phase": "final"}),
        )
        assert events[-1] == StreamEnd("end_turn", "completed")
    assert streamed[0] == ThinkingDelta("a", 0, 0, 0)


def test_an_incomplete_response_tells_why() -> None:
    response = {
        "status": "incomplete",
        "incomplete_details": {"reason": "max_output_tokens"},
        "usage": {"input_tokens": 3},
    }
    events = stream("responses", {"type": "response.incomplete", "response": response})
    assert events[-1] == StreamEnd("max_tokens", "max_output_tokens")
    assert usage_of(events).input_tokens == 3


def test_a_refusal_of_a_response_is_a_refusal() -> None:
    content = [{"type": "refusal", "refusal": "no"}]
    item = {"type": "message", "id": "ms", "content": content}
    assert fold(body("responses", {"status": "completed", "output": [item]})).refusal == "no"
    events = stream(
        "responses",
        {"type": "response.refusal.delta", "output_index": 0, "content_index": 0, "delta": "no"},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {"status": "completed"}},
    )
    assert (fold(events).refusal, fold(events).blocks[1:]) == ("no", ())


# ---- generate_content ----


def gemini(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, **fields}]}


def test_a_signed_part_is_a_block_of_its_own() -> None:
    events = stream(
        "generate_content",
        gemini({"text": "hm", "thought": True}),
        gemini({"text": "a"}),
        gemini({"text": "b"}),
        gemini({"text": "", "thoughtSignature": "S"}, finishReason="STOP"),
    )
    assert fold(events).blocks == (
        ThinkingBlock(text="hm"),
        TextBlock(text="ab"),
        TextBlock(text="", signature="S"),
    )
    assert OpaqueBlock(2, "signature", "S", 0, "text") in events


def test_thoughts_are_added_to_the_output_that_leaves_them_out() -> None:
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 3, "thoughtsTokenCount": 10, "totalTokenCount": 18}
    got = usage_of(stream("generate_content", {**gemini({"text": "a"}, finishReason="STOP"), "usageMetadata": usage}))
    assert (got.input_tokens, got.output_tokens, got.total_tokens, got.reasoning_tokens) == (5, 13, 18, 10)


def test_frames_after_the_reason_still_count() -> None:
    events = stream(
        "generate_content",
        gemini({"text": "a"}, finishReason="STOP"),
        {"usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 3}},
    )
    assert usage_of(events).total_tokens == 8


@pytest.mark.parametrize(
    ("reply", "raw", "standard"),
    [
        ({"promptFeedback": {"blockReason": "SAFETY"}}, "SAFETY", "refusal"),
        ({"candidates": [{"finishReason": "MAX_TOKENS"}]}, "MAX_TOKENS", "max_tokens"),
        ({"candidates": [{"content": {}, "finishReason": "STOP"}]}, "STOP", "end_turn"),
        ({"candidates": [{"content": {"parts": None}, "finishReason": 1}]}, "STOP", "end_turn"),
        ({"candidates": [{"finishReason": 99}]}, "99", "other"),
        ({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}, "MALFORMED_FUNCTION_CALL", "other"),
    ],
)
def test_a_reply_without_parts_is_complete_by_its_reason(reply: Any, raw: str, standard: str) -> None:
    for events in (body("generate_content", reply), stream("generate_content", reply)):
        assert events[-1] == StreamEnd(standard, raw)  # type: ignore[arg-type]


def test_code_that_the_provider_ran_is_no_call_of_the_client() -> None:
    code = {"executableCode": {"language": "PYTHON", "code": "1+1"}}
    result = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "2"}}
    reply = fold(body("generate_content", gemini(code, result, {"text": "2"}, finishReason="STOP")))
    assert [(one.name, one.native) for one in reply.server_tool_calls] == [
        ("code_execution", code),
        ("code_execution_result", result),
    ]
    assert reply.tool_calls == ()
    assert reply.finish_reason == "end_turn"


def test_sources_of_an_answer_are_citations_of_its_last_text() -> None:
    chunk = {"web": {"uri": "u"}}
    reply = fold(
        body(
            "generate_content",
            gemini({"text": "a"}, finishReason="STOP", groundingMetadata={"groundingChunks": [chunk]}),
        )
    )
    assert reply.blocks == (TextBlock(text="a", citations=(chunk,)),)


# ---- ollama_chat ----


def test_lines_become_text_thinking_and_usage() -> None:
    events = stream(
        "ollama_chat",
        {"model": "m", "message": {"role": "assistant", "thinking": "hm", "content": ""}, "done": False},
        {"model": "m", "message": {"role": "assistant", "content": "yes"}, "done": False},
        {
            "model": "m",
            "message": {"content": ""},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 3,
            "eval_count": 4,
        },
    )
    assert events == [
        ThinkingDelta("hm", 0),
        PartialContentDelta("yes", 1),
        Metadata(Usage(3, 4, 7), "m"),
        FinalCandidate(0, "end_turn", "stop"),
        StreamEnd("end_turn", "stop"),
    ]


# ---- wires that are read so far ----


def test_a_binary_stream_tells_blocks_usage_and_exceptions() -> None:
    def said(name: bytes, payload: bytes, kind: bytes = b":event-type") -> bytes:
        return binary(payload, EVENT, header(kind, name))

    start = said(b"messageStart", b'{"role":"assistant","p":"ab"}')
    call = (
        said(b"contentBlockStart", b'{"contentBlockIndex":0,"start":{"toolUse":{"toolUseId":"t","name":"go"}}}')
        + said(b"contentBlockDelta", b'{"contentBlockIndex":0,"delta":{"toolUse":{"input":"{\\"x\\":1}"}}}')
        + said(b"contentBlockStop", b'{"contentBlockIndex":0}')
    )
    end = said(b"messageStop", b'{"stopReason":"tool_use"}')
    usage = said(b"metadata", b'{"usage":{"inputTokens":1,"outputTokens":2,"cacheReadInputTokens":3}}')
    open_it = {"content_type": "application/vnd.amazon.eventstream"}
    reply = fold(run(program("converse").open(**open_it), start + call + end + usage))
    assert [(one.id, one.name, one.arguments) for one in reply.tool_calls] == [("t", "go", {"x": 1})]
    assert (reply.usage.input_tokens, reply.usage.total_tokens, reply.finish_reason) == (4, 6, "tool_use")
    broken = said(b"throttlingException", b'{"message":"slow"}', b":exception-type")
    last = run(program("converse").open(**open_it), start + broken)[-1]
    assert isinstance(last, StreamError)
    assert (last.code, last.message) == ("throttlingException", "slow")
    for payload in (b'{"message":"odd"}', b'{"Message":"odd"}'):  # an exception that nobody has heard of yet
        last = run(program("converse").open(**open_it), start + said(b"newException", payload, b":exception-type"))[-1]
        assert isinstance(last, StreamError)
        assert (last.kind, last.code, last.message) == ("provider", "newException", "odd")
    cut = run(program("converse").open(**open_it), (start + call + end)[:-3])[-1]
    assert isinstance(cut, StreamError)
    assert cut.kind == "truncated"
    said_by_header = {"x-amzn-errortype": "ValidationException:http://internal.example/"}
    error = program("converse").read_error(400, said_by_header, b'{"message":"bad"}')
    assert (error.code, error.message) == ("ValidationException", "bad")


def test_an_exception_around_wrapped_frames_is_told_whatever_its_name() -> None:
    family = Catalog.open().provider("bedrock").family("invoke")
    found = compile_decoder(family.decode, family.where.at("decode"))
    start = b'{"type":"message_start","message":{"id":"m","model":"x","usage":{"input_tokens":1}}}'
    data = binary(b'{"bytes":"%s"}' % base64.b64encode(start), EVENT, header(b":event-type", b"chunk"))
    data += binary(b'{"message":"odd"}', header(b":message-type", b"exception"), header(b":exception-type", b"newOne"))
    events = run(found.open(content_type="application/vnd.amazon.eventstream"), data)
    assert isinstance(events[0], Metadata)
    last = events[-1]
    assert isinstance(last, StreamError)
    assert (last.kind, last.code, last.message) == ("provider", "newOne", "odd")


def test_calls_that_stream_as_objects_and_come_whole_as_lists_are_the_same() -> None:
    call = {"id": "t", "type": "function", "function": {"name": "go", "arguments": ""}}
    streamed = stream(
        "cohere_v2_chat",
        {"type": "message-start", "id": "r", "delta": {"message": {"role": "assistant"}}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I will go"}}},
        {"type": "tool-call-start", "index": 0, "delta": {"message": {"tool_calls": call}}},
        {
            "type": "tool-call-delta",
            "index": 0,
            "delta": {"message": {"tool_calls": {"function": {"arguments": "{}"}}}},
        },
        {"type": "tool-call-end", "index": 0},
        {"type": "message-end", "delta": {"finish_reason": "TOOL_CALL", "usage": {"tokens": {"input_tokens": 69.0}}}},
        "[DONE]",
    )
    call = {"id": "t", "type": "function", "function": {"name": "go", "arguments": "{}"}}
    whole = body(
        "cohere_v2_chat",
        {
            "id": "r",
            "message": {"tool_plan": "I will go", "tool_calls": [call]},
            "finish_reason": "TOOL_CALL",
            "usage": {"tokens": {"input_tokens": 69}},
        },
    )
    assert fold(streamed).blocks == fold(whole).blocks
    assert fold(streamed).usage.input_tokens == fold(whole).usage.input_tokens == 69


def test_a_completion_is_text_without_a_message() -> None:
    events = stream(
        "completions",
        {"choices": [{"index": 0, "text": "a", "finish_reason": None}]},
        {"choices": [{"index": 0, "text": "b", "finish_reason": "length"}], "usage": {"prompt_tokens": 1}},
        "[DONE]",
    )
    assert (fold(events).content, fold(events).finish_reason) == ("ab", "max_tokens")
