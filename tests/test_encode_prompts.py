"""Requests of the dialects whose wire is a prompt or a history: cohere_v2_chat, cohere_v1_chat, completions,
ollama_generate. The documentation is named in each dialect's file, 2026-11-22."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ai_lib_trio.errors import CallerError
from ai_lib_trio.pipeline import compile_decoder
from ai_lib_trio.types.message import (
    Base64Source,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from ai_lib_trio.types.request import Request, ResponseFormat
from ai_lib_trio.types.response import fold
from ai_lib_trio.types.tool import ToolChoice, ToolDefinition
from encode_cases import ANSWER_SCHEMA, PNG, WEATHER, WEATHER_SCHEMA, body, catalog, encoded, encoder

TURNS = (Message.system("Be brief."), Message.user("2+2?"), Message.assistant("4"), Message.user("3+3?"))


# ---- cohere_v2_chat ----


def test_v2_requests_say_whether_they_stream_and_have_names_of_their_own() -> None:
    got = encoded("cohere_v2_chat", top_p=0.9, top_k=5, stop_sequences=("END",), seed=7, max_tokens=9)
    assert (got.path, got.headers) == ("/v2/chat", [("content-type", "application/json")])
    assert json.loads(got.body) == {
        "model": "m-1",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": False,
        "p": 0.9,
        "k": 5,
        "stop_sequences": ["END"],
        "seed": 7,
        "max_tokens": 9,
    }


def test_v2_tools_are_strict_together_and_none_can_be_forced_by_name() -> None:
    function = {"name": "get_weather", "description": "The weather at a place", "parameters": WEATHER_SCHEMA}
    got = body("cohere_v2_chat", tools=(WEATHER,), tool_choice=ToolChoice("required"))
    assert got["tools"] == [{"type": "function", "function": function}]
    assert (got["tool_choice"], "strict_tools" in got) == ("REQUIRED", False)
    strict = ToolDefinition("f", None, {"type": "object"}, strict=True)
    assert body("cohere_v2_chat", tools=(WEATHER, strict))["strict_tools"] is True
    with pytest.raises(CallerError, match="'tool'"):
        body("cohere_v2_chat", tools=(WEATHER,), tool_choice=ToolChoice("tool", "get_weather"))


def test_v2_a_schema_is_a_kind_of_json_object() -> None:
    wanted = ResponseFormat("json_schema", schema=ANSWER_SCHEMA)
    got = body("cohere_v2_chat", response_format=wanted)["response_format"]
    assert got == {"type": "json_object", "json_schema": ANSWER_SCHEMA}


def test_v2_a_plan_goes_back_as_a_plan_and_reasoning_as_reasoning() -> None:
    reply = {
        "id": "r",
        "message": {
            "role": "assistant",
            "tool_plan": "I will look.",
            "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "So."}],
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}}],
        },
        "finish_reason": "TOOL_CALL",
    }
    dialect = catalog().dialect("cohere_v2_chat")
    pipeline = compile_decoder(dialect.decode, dialect.where.at("decode")).open(
        content_type="application/json", streamed=False
    )
    response = fold([*pipeline.feed(json.dumps(reply).encode()), *pipeline.finish()])
    answer = Message("assistant", response.blocks, dialect="cohere_v2_chat")
    got = body("cohere_v2_chat", Message.user("Hi"), answer, Message.tool("c", "15"))
    assert got["messages"][1:] == [reply["message"], {"role": "tool", "tool_call_id": "c", "content": "15"}]


def test_v2_a_plan_streams_as_thinking_of_its_own() -> None:
    frames: list[Any] = [
        {"type": "message-start", "id": "r", "delta": {"message": {"role": "assistant", "tool_plan": ""}}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "I will "}}},
        {"type": "tool-plan-delta", "delta": {"message": {"tool_plan": "look."}}},
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}},
    ]
    dialect = catalog().dialect("cohere_v2_chat")
    pipeline = compile_decoder(dialect.decode, dialect.where.at("decode")).open(content_type="text/event-stream")
    data = "".join(f"event: {frame['type']}\ndata: {json.dumps(frame)}\n\n" for frame in frames).encode()
    response = fold([*pipeline.feed(data), *pipeline.finish()])
    assert [(block.text, block.id) for block in response.blocks] == [("I will look.", "tool_plan")]


# ---- cohere_v1_chat ----


def test_v1_the_last_message_stands_apart_from_the_history() -> None:
    got = encoded("cohere_v1_chat", *TURNS, stream=True)
    assert got.path == "/v1/chat"
    assert json.loads(got.body) == {
        "model": "m-1",
        "preamble": "Be brief.",
        "message": "3+3?",
        "chat_history": [{"role": "USER", "message": "2+2?"}, {"role": "CHATBOT", "message": "4"}],
        "stream": True,
    }


def test_v1_a_stream_repeats_its_reply_at_the_end_and_counts_once() -> None:
    call = {"name": "f", "parameters": {"x": 1}}
    lines = [
        {"event_type": "stream-start", "generation_id": "g"},
        {"event_type": "text-generation", "text": "Fo"},
        {"event_type": "text-generation", "text": "ur."},
        {"event_type": "tool-calls-generation", "tool_calls": [call]},
        {
            "event_type": "stream-end",
            "finish_reason": "COMPLETE",
            "response": {
                "response_id": "r",
                "text": "Four.",
                "tool_calls": [call],
                "meta": {"tokens": {"input_tokens": 5, "output_tokens": 2}, "billed_units": {"input_tokens": 1}},
            },
        },
    ]
    dialect = catalog().dialect("cohere_v1_chat")
    pipeline = compile_decoder(dialect.decode, dialect.where.at("decode")).open(content_type="application/stream+json")
    response = fold([*pipeline.feed("".join(json.dumps(line) + "\n" for line in lines).encode()), *pipeline.finish()])
    assert (response.content, response.response_id, response.finish_reason) == ("Four.", "r", "tool_use")
    assert [(found.name, found.arguments) for found in response.tool_calls] == [("f", {"x": 1})]
    assert (response.usage.input_tokens, response.usage.output_tokens) == (5, 2)


# ---- completions ----


def test_one_message_is_the_prompt_and_several_say_who_speaks() -> None:
    assert body("completions", Message.user("Once upon")) == {"model": "m-1", "prompt": "Once upon"}
    got = body("completions", *TURNS, stream=True, logprobs=True)
    assert got["prompt"] == "System: Be brief.\n\nUser: 2+2?\n\nAssistant: 4\n\nUser: 3+3?\n\nAssistant:"
    assert (got["stream"], got["stream_options"], got["logprobs"]) == (True, {"include_usage": True}, 1)
    assert body("completions", top_logprobs=3)["logprobs"] == 3


@pytest.mark.parametrize("dialect", ["completions", "cohere_v1_chat", "ollama_generate"])
def test_what_a_prompt_cannot_say_is_refused_by_name(dialect: str) -> None:
    with pytest.raises(CallerError, match="`tools` has no place"):
        body(dialect, tools=(WEATHER,))
    calls = Message.assistant((TextBlock("I look."), ToolUseBlock("c", "f", {})))
    with pytest.raises(CallerError, match="tool_use block in an assistant message"):
        body(dialect, Message.user("Hi"), calls, Message.user("Well?"))


# ---- ollama_generate ----


def test_a_prompt_with_its_system_text_and_images() -> None:
    picture = Message("user", (TextBlock("What is this?"), ImageBlock(Base64Source("image/png", PNG))))
    got = encoded("ollama_generate", Message.system("Be brief."), picture, max_tokens=9, reasoning_effort="none")
    assert got.path == "/generate"
    assert json.loads(got.body) == {
        "model": "m-1",
        "system": "Be brief.",
        "prompt": "What is this?",
        "images": [PNG],
        "think": False,
        "stream": False,
        "options": {"num_predict": 9},
    }
    assert body("ollama_generate", *TURNS)["prompt"] == "User: 2+2?\n\nAssistant: 4\n\nUser: 3+3?\n\nAssistant:"


def test_reasoning_of_another_dialect_is_dropped_and_counted() -> None:
    answer = Message("assistant", (ThinkingBlock("Hm."), TextBlock("4")), dialect="messages")
    request = Request(model="m", messages=(Message.user("2+2?"), answer, Message.user("3+3?")))
    for dialect in ("completions", "cohere_v1_chat", "cohere_v2_chat", "ollama_generate", "converse"):
        assert encoder(dialect).encode(request).dropped_opaque == 1
