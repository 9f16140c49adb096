"""Two turns with a tool and reasoning: a reply's message goes back, and the second request is the documented one.

Each reply is written by hand in the shape that the vendor documents (links in the tests of encoding, 2026-11-22), as
a stream and as a whole body. Both must give the same second request.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from ai_lib_trio.pipeline import compile_decoder
from ai_lib_trio.types.message import Message
from ai_lib_trio.types.request import Request
from ai_lib_trio.types.response import ChatResponse, Fold
from encode_cases import DIALECTS, WEATHER, WEATHER_SCHEMA, catalog, encoder

QUESTION = Message.user("Weather in Paris and Rome?")
FUNCTION = {"name": "get_weather", "description": "The weather at a place", "parameters": WEATHER_SCHEMA}
PARIS, ROME = '{"location": "Paris"}', '{"location":"Rome"}'


def sse(*frames: Any, names: bool = False, done: bool = False) -> bytes:
    lines = [(f"event: {frame['type']}\n" if names else "") + f"data: {json.dumps(frame)}\n\n" for frame in frames]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def ndjson(*frames: Any) -> bytes:
    return "".join(json.dumps(frame) + "\n" for frame in frames).encode()


# ---- chat_completions ----

CHAT_CALLS = [
    {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": PARIS}},
    {"index": 1, "id": "call_2", "type": "function", "function": {"name": "get_weather", "arguments": ROME}},
]
CHAT_BODY = {
    "id": "c1",
    "model": "m-1",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Look it up.",
                "tool_calls": [{key: call[key] for key in ("id", "type", "function")} for call in CHAT_CALLS],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
}


def chunk(delta: Any, reason: str | None = None) -> Any:
    return {"id": "c1", "model": "m-1", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


CHAT_STREAM = sse(
    chunk({"role": "assistant", "content": None, "reasoning_content": "Look "}),
    chunk({"reasoning_content": "it up."}),
    chunk(
        {
            "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
            ]
        }
    ),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": PARIS[:9]}}]}),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": PARIS[9:]}}]}),
    chunk({"tool_calls": [CHAT_CALLS[1]]}),
    chunk({}, "tool_calls"),
    {"id": "c1", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}},
    done=True,
)
CHAT_SECOND = {
    "model": "m-1",
    "messages": [
        {"role": "user", "content": "Weather in Paris and Rome?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": PARIS}},
                {"id": "call_2", "type": "function", "function": {"name": "get_weather", "arguments": ROME}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "15 degrees"},
        {"role": "tool", "tool_call_id": "call_2", "content": "no such place"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
}

# ---- responses ----

RESPONSES_ITEMS = [
    {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [{"type": "summary_text", "text": "Look "}, {"type": "summary_text", "text": "it up."}],
        "encrypted_content": "gAAAA-sealed",
    },
    {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "phase": "commentary",
        "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
    },
    {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "get_weather",
        "arguments": PARIS,
        "status": "completed",
    },
    {
        "type": "function_call",
        "id": "fc_2",
        "call_id": "call_2",
        "name": "get_weather",
        "arguments": ROME,
        "status": "completed",
    },
]
RESPONSES_BODY = {"id": "resp_1", "model": "m-1", "status": "completed", "output": RESPONSES_ITEMS}


def item(kind: str, index: int, **fields: Any) -> Any:
    return {"type": f"response.output_item.{kind}", "output_index": index, "item": fields}


RESPONSES_STREAM = sse(
    {"type": "response.created", "response": {"id": "resp_1", "model": "m-1", "status": "in_progress"}},
    item("added", 0, type="reasoning", id="rs_1", summary=[]),
    {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "Loo"},
    {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 0, "delta": "k "},
    {"type": "response.reasoning_summary_text.delta", "output_index": 0, "summary_index": 1, "delta": "it up."},
    item("done", 0, **RESPONSES_ITEMS[0]),
    item("added", 1, type="message", id="msg_1", status="in_progress", role="assistant", content=[]),
    {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "I "},
    {"type": "response.output_text.delta", "output_index": 1, "content_index": 0, "delta": "look."},
    item("done", 1, **RESPONSES_ITEMS[1]),
    item("added", 2, **{**RESPONSES_ITEMS[2], "arguments": ""}),
    {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": PARIS[:5]},
    {"type": "response.function_call_arguments.delta", "output_index": 2, "delta": PARIS[5:]},
    item("done", 2, **RESPONSES_ITEMS[2]),
    item("added", 3, **{**RESPONSES_ITEMS[3], "arguments": ""}),
    {"type": "response.function_call_arguments.delta", "output_index": 3, "delta": ROME},
    item("done", 3, **RESPONSES_ITEMS[3]),
    {"type": "response.completed", "response": RESPONSES_BODY},
    names=True,
)
RESPONSES_SECOND = {
    "model": "m-1",
    "input": [
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "Weather in Paris and Rome?"}],
        },
        RESPONSES_ITEMS[0],
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "I look."}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "get_weather", "arguments": PARIS},
        {"type": "function_call", "id": "fc_2", "call_id": "call_2", "name": "get_weather", "arguments": ROME},
        {"type": "function_call_output", "call_id": "call_1", "output": "15 degrees"},
        {"type": "function_call_output", "call_id": "call_2", "output": "no such place"},
    ],
    "tools": [{"type": "function", **FUNCTION}],
}

# ---- messages ----

MESSAGES_BLOCKS = [
    {"type": "thinking", "thinking": "Look it up.", "signature": "EqQBsigned"},
    {"type": "redacted_thinking", "data": "EmwKsealed"},
    {"type": "text", "text": "I look."},
    {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"location": "Paris"}},
    {"type": "tool_use", "id": "toolu_2", "name": "get_weather", "input": {"location": "Rome"}},
]
MESSAGES_USAGE = {"input_tokens": 9, "output_tokens": 5}
MESSAGES_BODY = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m-1",
    "content": MESSAGES_BLOCKS,
    "stop_reason": "tool_use",
    "usage": MESSAGES_USAGE,
}


def block(index: int, start: Any, *deltas: Any) -> list[Any]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


MESSAGES_STREAM = sse(
    {"type": "message_start", "message": {**MESSAGES_BODY, "content": [], "stop_reason": None}},
    *block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "Look "},
        {"type": "thinking_delta", "thinking": "it up."},
        {"type": "signature_delta", "signature": "EqQB"},
        {"type": "signature_delta", "signature": "signed"},
    ),
    {"type": "ping"},
    *block(1, MESSAGES_BLOCKS[1]),
    *block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "I look."}),
    *block(
        3,
        {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}},
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"location": '},
        {"type": "input_json_delta", "partial_json": '"Paris"}'},
    ),
    *block(
        4,
        {"type": "tool_use", "id": "toolu_2", "name": "get_weather", "input": {}},
        {"type": "input_json_delta", "partial_json": ROME},
    ),
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
    names=True,
)
MESSAGES_SECOND = {
    "model": "m-1",
    "max_tokens": 4096,
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Weather in Paris and Rome?"}]},
        {"role": "assistant", "content": MESSAGES_BLOCKS},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "15 degrees"},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no such place", "is_error": True},
            ],
        },
    ],
    "tools": [
        {"name": "get_weather", "description": "The weather at a place", "input_schema": WEATHER_SCHEMA},
    ],
}

# ---- generate_content ----

GENERATE_PARTS = [
    {"text": "Look it up.", "thought": True},
    {"text": "I look."},
    {"functionCall": {"name": "get_weather", "args": {"location": "Paris"}}, "thoughtSignature": "sig-call"},
    {"functionCall": {"name": "get_weather", "args": {"location": "Rome"}}},
]


def part(*parts: Any, **more: Any) -> Any:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0, **more}
    return {"candidates": [candidate], "modelVersion": "m-1", "responseId": "r1"}


GENERATE_BODY = part(*GENERATE_PARTS, finishReason="STOP")
GENERATE_STREAM = sse(
    part({"text": "Look ", "thought": True}),
    part({"text": "it up.", "thought": True}),
    part({"text": "I look."}, GENERATE_PARTS[2]),
    part(GENERATE_PARTS[3]),
    {**part({"text": ""}, finishReason="STOP"), "usageMetadata": {"promptTokenCount": 9, "candidatesTokenCount": 5}},
)
GENERATE_SECOND = {
    "contents": [
        {"role": "user", "parts": [{"text": "Weather in Paris and Rome?"}]},
        {"role": "model", "parts": GENERATE_PARTS},
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "get_weather", "response": {"output": "15 degrees"}}},
                {"functionResponse": {"name": "get_weather", "response": {"error": "no such place"}}},
            ],
        },
    ],
    "tools": [
        {
            "functionDeclarations": [
                {
                    "name": "get_weather",
                    "description": "The weather at a place",
                    "parametersJsonSchema": WEATHER_SCHEMA,
                }
            ]
        }
    ],
}

# ---- ollama_chat ----

OLLAMA_CALLS = [
    {"function": {"name": "get_weather", "arguments": {"location": "Paris"}}},
    {"function": {"name": "get_weather", "arguments": {"location": "Rome"}}},
]
OLLAMA_BODY = {
    "model": "m-1",
    "message": {"role": "assistant", "content": "", "thinking": "Look it up.", "tool_calls": OLLAMA_CALLS},
    "done": True,
    "done_reason": "stop",
}


def line(done: bool = False, **message: Any) -> Any:
    found = {"model": "m-1", "message": {"role": "assistant", "content": "", **message}, "done": done}
    return {**found, "done_reason": "stop", "prompt_eval_count": 9, "eval_count": 5} if done else found


OLLAMA_STREAM = ndjson(
    line(thinking="Look "), line(thinking="it up."), line(tool_calls=[OLLAMA_CALLS[0]]),
    line(tool_calls=[OLLAMA_CALLS[1]]), line(done=True),
)  # fmt: skip
OLLAMA_SECOND = {
    "model": "m-1",
    "messages": [
        {"role": "user", "content": "Weather in Paris and Rome?"},
        {
            "role": "assistant",
            "content": "",
            "thinking": "Look it up.",
            "tool_calls": [{"type": "function", **call} for call in OLLAMA_CALLS],
        },
        {"role": "tool", "tool_name": "get_weather", "content": "15 degrees"},
        {"role": "tool", "tool_name": "get_weather", "content": "no such place"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "stream": False,
}

CASES: dict[str, tuple[Any, bytes, str, Any]] = {
    "chat_completions": (CHAT_BODY, CHAT_STREAM, "text/event-stream", CHAT_SECOND),
    "responses": (RESPONSES_BODY, RESPONSES_STREAM, "text/event-stream; charset=utf-8", RESPONSES_SECOND),
    "messages": (MESSAGES_BODY, MESSAGES_STREAM, "text/event-stream; charset=utf-8", MESSAGES_SECOND),
    "generate_content": (GENERATE_BODY, GENERATE_STREAM, "text/event-stream", GENERATE_SECOND),
    "ollama_chat": (OLLAMA_BODY, OLLAMA_STREAM, "application/x-ndjson", OLLAMA_SECOND),
}


def reply_of(dialect: str, *, streamed: bool) -> ChatResponse:
    body, stream, content_type, _ = CASES[dialect]
    found = catalog().dialect(dialect)
    program = compile_decoder(found.decode, found.where.at("decode"))
    pipeline = program.open(content_type=content_type if streamed else "application/json", streamed=streamed)
    fold = Fold()
    fold.add_all(pipeline.feed(stream if streamed else json.dumps(body).encode()))
    fold.add_all(pipeline.finish())
    return fold.response(dialect=dialect)


def second_request(dialect: str, reply: ChatResponse, *, to: str | None = None) -> Any:
    first, second = reply.tool_calls
    request = Request(
        model="m-1",
        messages=(
            QUESTION,
            reply.message,
            Message.tool(first.id, "15 degrees"),
            Message.tool(second.id, "no such place", is_error=True),
        ),
        tools=(WEATHER,),
    )
    return encoder(to or dialect).encode(request)


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_second_request_is_the_documented_one(dialect: str, streamed: bool) -> None:
    reply = reply_of(dialect, streamed=streamed)
    assert reply.finish_reason == "tool_use"
    assert [call.arguments for call in reply.tool_calls] == [{"location": "Paris"}, {"location": "Rome"}]
    assert reply.thinking == "Look it up."
    found = second_request(dialect, reply)
    assert json.loads(found.body) == CASES[dialect][3]
    assert found.dropped_opaque == 0
    assert found.warnings == ()


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("source", DIALECTS)
@pytest.mark.parametrize("target", DIALECTS)
def test_a_conversation_goes_on_in_any_other_dialect_without_the_sealed_parts(
    source: str, target: str, streamed: bool
) -> None:
    if source == target:
        return
    found = second_request(source, reply_of(source, streamed=streamed), to=target)
    text = found.body.decode()
    assert "get_weather" in text
    assert "15 degrees" in text
    for sealed in ("Look it up.", "sealed", "signed", "sig-call", "rs_1", "fc_1", "msg_1"):
        assert sealed not in text
    assert found.dropped_opaque >= 1


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
def test_blocks_of_server_tools_go_back_whole(streamed: bool) -> None:
    blocks = [
        {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [{"url": "u", "encrypted_content": "E"}]},
        {"type": "text", "text": "Found.", "citations": [{"type": "web_search_result_location", "url": "u"}]},
    ]
    whole = {**MESSAGES_BODY, "content": blocks, "stop_reason": "end_turn"}
    stream = sse(
        {"type": "message_start", "message": {**MESSAGES_BODY, "content": []}},
        *block(0, {**blocks[0], "input": {}}, {"type": "input_json_delta", "partial_json": '{"query": "x"}'}),
        *block(1, blocks[1]),
        *block(
            2,
            {"type": "text", "text": ""},
            {"type": "citations_delta", "citation": blocks[2]["citations"][0]},
            {"type": "text_delta", "text": "Found."},
        ),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    )
    found = catalog().dialect("messages")
    program = compile_decoder(found.decode, found.where.at("decode"))
    pipeline = program.open(content_type="text/event-stream" if streamed else "application/json", streamed=streamed)
    fold = Fold()
    fold.add_all(pipeline.feed(stream if streamed else json.dumps(whole).encode()))
    fold.add_all(pipeline.finish())
    message = fold.response(dialect="messages").message
    sent = json.loads(encoder("messages").encode(Request(model="m-1", messages=(QUESTION, message))).body)
    assert sent["messages"][1] == {"role": "assistant", "content": blocks}
