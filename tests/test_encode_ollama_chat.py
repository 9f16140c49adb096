"""What the `ollama_chat` dialect puts on the wire, feature by feature, beside the documented request.

Documented requests: https://docs.ollama.com/api/chat and docs/capabilities/*.mdx of https://github.com/ollama/ollama;
the typed request of the vendor's Python client 0.6.3. All read 2026-11-22.
"""

from __future__ import annotations

import json

import pytest

from ai_lib_trio.errors import CallerError
from ai_lib_trio.types.message import (
    Base64Source,
    DocumentBlock,
    ImageBlock,
    Message,
    RefusalBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    UrlSource,
)
from ai_lib_trio.types.request import ResponseFormat
from ai_lib_trio.types.tool import ToolChoice
from encode_cases import ANSWER_SCHEMA, PDF, PNG, WEATHER, WEATHER_SCHEMA, body, encoded

DIALECT = "ollama_chat"


def test_a_text_request_is_the_documented_one_and_says_that_it_is_no_stream() -> None:
    sent = encoded(DIALECT, Message.system("Be brief."), Message.user("why is the sky blue?"), model="qwen3:8b")
    assert (sent.method, sent.path, sent.query) == ("POST", "/chat", [])
    assert sent.headers == [("content-type", "application/json")]
    assert json.loads(sent.body) == {
        "model": "qwen3:8b",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "why is the sky blue?"},
        ],
        "stream": False,
    }
    assert body(DIALECT, stream=True)["stream"] is True


def test_images_are_a_list_of_base64_beside_the_text() -> None:
    # docs/capabilities/vision.mdx
    sent = body(
        DIALECT,
        Message.user((TextBlock(text="What is this?"), ImageBlock(source=Base64Source("image/png", PNG)))),
        Message.user((ImageBlock(source=Base64Source("image/jpeg", PDF)),)),
    )
    assert sent["messages"] == [
        {"role": "user", "content": "What is this?", "images": [PNG]},
        {"role": "user", "content": "", "images": [PDF]},
    ]


def test_an_image_by_address_and_a_document_are_refused() -> None:
    with pytest.raises(CallerError, match=r"source\.kind of an image block in a user message is 'url'"):
        encoded(DIALECT, Message.user((ImageBlock(source=UrlSource("https://example.com/a.png")),)))
    with pytest.raises(CallerError, match="document block in a user message has no place in the dialect ollama_chat"):
        encoded(DIALECT, Message.user((DocumentBlock(source=Base64Source("application/pdf", PDF)),)))


def test_tools_are_functions() -> None:
    # docs/capabilities/tool-calling.mdx
    assert body(DIALECT, tools=(WEATHER,))["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather at a place",
                "parameters": WEATHER_SCHEMA,
            },
        }
    ]


def test_there_is_no_tool_choice_so_none_takes_the_tools_away_and_force_is_refused() -> None:
    assert "tool_choice" not in body(DIALECT, tools=(WEATHER,), tool_choice=ToolChoice("auto"))
    assert "tools" not in body(DIALECT, tools=(WEATHER,), tool_choice=ToolChoice("none"))
    for choice in (ToolChoice("required"), ToolChoice("tool", "get_weather")):
        with pytest.raises(CallerError, match=r"tool_choice\.mode is .*: expected one of auto, none"):
            encoded(DIALECT, tools=(WEATHER,), tool_choice=choice)


def test_calls_go_back_as_objects_and_results_by_the_tools_name() -> None:
    # docs/capabilities/tool-calling.mdx, "Generate a response with multiple tool results"
    sent = body(
        DIALECT,
        Message.user("Weather?"),
        Message(
            "assistant",
            (
                ThinkingBlock(text="hm"),
                ToolUseBlock(id="gen_1", name="get_weather", input={"location": "Paris"}),
                ToolUseBlock(id="call_2", name="now", input={}, wire_id="call_2"),
            ),
            dialect=DIALECT,
        ),
        Message.tool("gen_1", "15"),
        Message.tool("call_2", (TextBlock(text="a clock"), ImageBlock(source=Base64Source("image/png", PNG)))),
    )
    assert sent["messages"][1:] == [
        {
            "role": "assistant",
            "content": "",
            "thinking": "hm",
            "tool_calls": [
                {"type": "function", "function": {"name": "get_weather", "arguments": {"location": "Paris"}}},
                {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": {}}},
            ],
        },
        {"role": "tool", "tool_name": "get_weather", "content": "15"},
        {"role": "tool", "tool_name": "now", "tool_call_id": "call_2", "content": "a clock", "images": [PNG]},
    ]


def test_a_refusal_goes_back_as_text() -> None:
    sent = body(DIALECT, Message.assistant((TextBlock(text="Sorry. "), RefusalBlock(text="No."))))
    assert sent["messages"] == [{"role": "assistant", "content": "Sorry. No."}]


def test_sampling_stands_under_options() -> None:
    # https://docs.ollama.com/modelfile
    sent = body(
        DIALECT,
        max_tokens=100,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stop_sequences=("END",),
        seed=7,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logprobs=True,
        top_logprobs=3,
    )
    assert {key: sent[key] for key in sent if key not in ("model", "messages", "stream")} == {
        "options": {
            "num_predict": 100,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "stop": ["END"],
            "seed": 7,
            "presence_penalty": 0.1,
            "frequency_penalty": 0.2,
        },
        "logprobs": True,
        "top_logprobs": 3,
    }


@pytest.mark.parametrize(("effort", "sent"), [("none", False), ("low", "low"), ("high", "high")])
def test_reasoning_effort_is_the_think_field(effort: str, sent: object) -> None:
    # docs/capabilities/thinking.mdx
    assert body(DIALECT, reasoning_effort=effort)["think"] == sent


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (ResponseFormat("json_object"), "json"),
        (ResponseFormat("json_schema", "answer", None, ANSWER_SCHEMA), ANSWER_SCHEMA),
        (ResponseFormat("text"), None),
    ],
)
def test_the_form_of_the_answer(asked: ResponseFormat, sent: object) -> None:
    # docs/capabilities/structured-outputs.mdx
    assert body(DIALECT, response_format=asked).get("format") == sent


@pytest.mark.parametrize("field", ["parallel_tool_calls", "n", "thinking", "metadata"])
def test_what_the_wire_lacks_is_refused_by_name(field: str) -> None:
    with pytest.raises(CallerError, match=f"`{field}` has no place in the dialect ollama_chat"):
        encoded(DIALECT, **{field: {"k": "v"}})
