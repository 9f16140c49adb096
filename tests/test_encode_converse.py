"""Requests of the dialect converse, field by field: https://docs.aws.amazon.com/bedrock/latest/APIReference/
API_runtime_Converse.html and recorded requests, 2026-11-22."""

from __future__ import annotations

import json

import pytest

from ai_lib_trio.errors import CallerError
from ai_lib_trio.types.message import (
    Base64Source,
    DocumentBlock,
    ImageBlock,
    Message,
    OpaqueContent,
    RefusalBlock,
    ServerToolBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
)
from ai_lib_trio.types.request import ResponseFormat
from ai_lib_trio.types.tool import ToolChoice
from encode_cases import ANSWER_SCHEMA, PDF, PNG, WEATHER, WEATHER_SCHEMA, body, encoded

DIALECT = "converse"


def test_the_model_stands_in_the_path_and_the_path_says_whether_it_streams() -> None:
    model = "us.amazon.nova-micro-v1:0"
    assert encoded(DIALECT, model=model).path == "/model/us.amazon.nova-micro-v1%3A0/converse"
    streamed = encoded(DIALECT, model=model, stream=True)
    assert streamed.path == "/model/us.amazon.nova-micro-v1%3A0/converse-stream"
    assert json.loads(streamed.body) == {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}


def test_parameters_stand_in_the_inference_configuration_and_a_models_own_beside_it() -> None:
    got = body(
        DIALECT,
        temperature=0.7,
        top_p=0.9,
        max_tokens=1000,
        stop_sequences=("END",),
        thinking={"type": "enabled", "budget_tokens": 1024},
        top_k=200,
        reasoning_effort="high",
        metadata={"team": "a"},
    )
    assert got["inferenceConfig"] == {"temperature": 0.7, "topP": 0.9, "maxTokens": 1000, "stopSequences": ["END"]}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    assert got["additionalModelRequestFields"] == {"thinking": thinking, "top_k": 200}
    assert got["outputConfig"] == {"effort": "high"}
    assert got["requestMetadata"] == {"team": "a"}


def test_results_of_parallel_calls_and_the_text_after_them_are_one_user_message() -> None:
    got = body(
        DIALECT,
        Message.system("Be brief."),
        Message.user("Weather?"),
        Message.assistant((TextBlock("I look."), ToolUseBlock("t1", "a", {"x": 1}), ToolUseBlock("t2", "b", None))),
        Message.tool("t1", "15 degrees"),
        Message("tool", (ToolResultBlock("t2", "no such place", is_error=True),)),
        Message.user("Well?"),
    )
    assert got["system"] == [{"text": "Be brief."}]
    assert got["messages"] == [
        {"role": "user", "content": [{"text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [
                {"text": "I look."},
                {"toolUse": {"toolUseId": "t1", "name": "a", "input": {"x": 1}}},
                {"toolUse": {"toolUseId": "t2", "name": "b", "input": {}}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"toolResult": {"toolUseId": "t1", "content": [{"text": "15 degrees"}]}},
                {"toolResult": {"toolUseId": "t2", "content": [{"text": "no such place"}], "status": "error"}},
                {"text": "Well?"},
            ],
        },
    ]


@pytest.mark.parametrize(
    ("choice", "wire"),
    [
        (ToolChoice("auto"), {"auto": {}}),
        (ToolChoice("required"), {"any": {}}),
        (ToolChoice("tool", "get_weather"), {"tool": {"name": "get_weather"}}),
    ],
)
def test_tools_and_the_choice_among_them(choice: ToolChoice, wire: object) -> None:
    spec = {"name": "get_weather", "description": "The weather at a place", "inputSchema": {"json": WEATHER_SCHEMA}}
    got = body(DIALECT, tools=(WEATHER,), tool_choice=choice)
    assert got["toolConfig"] == {"tools": [{"toolSpec": spec}], "toolChoice": wire}


def test_no_tool_may_be_called_where_none_is_told() -> None:
    assert "toolConfig" not in body(DIALECT, tools=(WEATHER,), tool_choice=ToolChoice("none"))


def test_a_schema_goes_as_text() -> None:
    got = body(DIALECT, response_format=ResponseFormat("json_schema", schema=ANSWER_SCHEMA, name="answer"))
    wire = got["outputConfig"]["textFormat"]
    assert (wire["type"], wire["structure"]["jsonSchema"]["name"]) == ("json_schema", "answer")
    assert json.loads(wire["structure"]["jsonSchema"]["schema"]) == ANSWER_SCHEMA
    with pytest.raises(CallerError, match="json_object"):
        body(DIALECT, response_format=ResponseFormat("json_object"))


def test_media_are_bytes_or_objects_of_the_vendors_store() -> None:
    s3 = UrlSource("s3://bucket/kiwi.jpg", media_type="image/jpeg")
    got = body(
        DIALECT,
        Message(
            "user",
            (
                ImageBlock(Base64Source("image/png", PNG)),
                ImageBlock(s3),
                DocumentBlock(Base64Source("application/pdf", PDF), filename="report.pdf"),
            ),
        ),
    )
    assert got["messages"][0]["content"] == [
        {"image": {"format": "png", "source": {"bytes": PNG}}},
        {"image": {"format": "jpeg", "source": {"s3Location": {"uri": "s3://bucket/kiwi.jpg"}}}},
        {"document": {"format": "pdf", "name": "report", "source": {"bytes": PDF}}},
    ]
    with pytest.raises(CallerError, match="expected one of s3"):
        body(DIALECT, Message("user", (ImageBlock(UrlSource("https://x.example/a.png")),)))


def test_reasoning_and_what_the_provider_ran_go_back_as_they_came() -> None:
    native = {"toolUseId": "s1", "name": "code", "type": "server_tool_use", "input": {"snippet": "1"}}
    result = {"toolUseId": "s1", "content": [{"json": {"stdOut": "1"}}]}
    got = body(
        DIALECT,
        Message.user("Hi"),
        Message(
            "assistant",
            (
                ThinkingBlock("I think.", signature="s"),
                ThinkingBlock("", encrypted="c2VhbGVk"),
                ServerToolBlock("s1", "code", native=native),
                OpaqueContent("toolResult", result),
                RefusalBlock("No."),
            ),
            dialect=DIALECT,
        ),
    )
    assert got["messages"][1]["content"] == [
        {"reasoningContent": {"reasoningText": {"text": "I think.", "signature": "s"}}},
        {"reasoningContent": {"redactedContent": "c2VhbGVk"}},
        {"toolUse": native},
        {"toolResult": result},
        {"text": "No."},
    ]


def test_a_mark_of_caching_is_a_block_after_its_own() -> None:
    got = body(
        DIALECT,
        Message("system", (TextBlock("Long.", cache_control={"type": "ephemeral"}),)),
        Message("user", (TextBlock("Longer.", cache_control={"type": "ephemeral", "ttl": "1h"}), TextBlock("Hi"))),
    )
    assert got["system"] == [{"text": "Long."}, {"cachePoint": {"type": "default"}}]
    point = {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert got["messages"][0]["content"] == [{"text": "Longer."}, point, {"text": "Hi"}]
