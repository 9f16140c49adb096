"""What the `chat_completions` dialect puts on the wire, feature by feature, beside the documented request.

Documented requests: https://platform.openai.com/docs/api-reference/chat/create and the typed parameters of the vendor's
SDK 3.54.0 (https://github.com/openai/openai-python, src/openai/types/chat). All read 2026-11-22.
"""

from __future__ import annotations

import json

import pytest

from ai_lib_trio.errors import CallerError
from ai_lib_trio.types.message import (
    AudioBlock,
    Base64Source,
    DocumentBlock,
    ImageBlock,
    Message,
    RefusalBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
    VideoBlock,
)
from ai_lib_trio.types.request import Request, ResponseFormat
from ai_lib_trio.types.tool import ToolChoice, ToolDefinition
from encode_cases import ANSWER_SCHEMA, PDF, PNG, WEATHER, WEATHER_SCHEMA, body, encoded, provider_encoder

DIALECT = "chat_completions"


def test_a_text_request_is_the_documented_one() -> None:
    # https://platform.openai.com/docs/api-reference/chat/create, the first example
    sent = encoded(DIALECT, Message.system("You are a helpful assistant."), Message.user("Hello!"), model="gpt-x")
    assert (sent.method, sent.path, sent.query) == ("POST", "/chat/completions", [])
    assert sent.headers == [("content-type", "application/json")]
    assert json.loads(sent.body) == {
        "model": "gpt-x",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Hello!"},
        ],
    }


def test_a_stream_asks_for_its_usage() -> None:
    sent = body(DIALECT, stream=True)
    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True}


def test_many_turns_keep_their_order_and_names() -> None:
    sent = body(
        DIALECT,
        Message("system", "s"),
        Message("user", "a", name="ann"),
        Message("assistant", "b", name="bot"),
        Message("user", (TextBlock(text="c"), TextBlock(text="d"))),
    )
    assert sent["messages"] == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a", "name": "ann"},
        {"role": "assistant", "content": "b", "name": "bot"},
        {"role": "user", "content": "cd"},
    ]


def test_images_documents_and_audio_are_parts_of_the_content() -> None:
    sent = body(
        DIALECT,
        Message.user(
            (
                TextBlock(text="Compare"),
                ImageBlock(source=UrlSource("https://example.com/a.png"), detail="low"),
                ImageBlock(source=Base64Source("image/png", PNG)),
                DocumentBlock(source=Base64Source("application/pdf", PDF), filename="a.pdf"),
                DocumentBlock(source=Base64Source("application/pdf", PDF)),
                AudioBlock(source=Base64Source("audio/mpeg", PNG)),
                AudioBlock(source=Base64Source("audio/wav", PNG)),
            )
        ),
    )
    data = f"data:application/pdf;base64,{PDF}"
    assert sent["messages"][0]["content"] == [
        {"type": "text", "text": "Compare"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": data}},
        {"type": "file", "file": {"filename": "document.pdf", "file_data": data}},
        {"type": "input_audio", "input_audio": {"data": PNG, "format": "mp3"}},
        {"type": "input_audio", "input_audio": {"data": PNG, "format": "wav"}},
    ]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            DocumentBlock(source=UrlSource("https://example.com/a.pdf")),
            r"source\.kind of a document block in a user message is 'url': expected one of base64",
        ),
        (AudioBlock(source=Base64Source("audio/flac", PNG)), r"media_type of an audio block .* is 'audio/flac'"),
        (VideoBlock(source=UrlSource("https://example.com/a.mp4")), "video block in a user message has no place"),
    ],
)
def test_media_that_the_wire_cannot_carry_is_refused(block: object, message: str) -> None:
    with pytest.raises(CallerError, match=message):
        encoded(DIALECT, Message("user", (block,)))  # type: ignore[arg-type]


def test_tools_are_functions() -> None:
    # https://platform.openai.com/docs/guides/function-calling?api-mode=chat
    strict = ToolDefinition("f", None, ANSWER_SCHEMA, strict=True)
    assert body(DIALECT, tools=(WEATHER, strict))["tools"] == [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "description": "The weather at a place",
                "parameters": WEATHER_SCHEMA,
            },
        },
        {"type": "function", "function": {"name": "f", "parameters": ANSWER_SCHEMA, "strict": True}},
    ]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (ToolChoice("auto"), "auto"),
        (ToolChoice("none"), "none"),
        (ToolChoice("required"), "required"),
        (ToolChoice("tool", "get_weather"), {"type": "function", "function": {"name": "get_weather"}}),
    ],
)
def test_tool_choice(choice: ToolChoice, sent: object) -> None:
    found = body(DIALECT, tools=(WEATHER,), tool_choice=choice, parallel_tool_calls=False)
    assert found["tool_choice"] == sent
    assert found["parallel_tool_calls"] is False


def test_each_result_of_a_parallel_call_is_a_message_of_its_own() -> None:
    raw = '{"location":  "Paris"}'  # the model's own spacing goes back
    sent = body(
        DIALECT,
        Message.user("Weather?"),
        Message.assistant(
            (
                ToolUseBlock(id="call_1", name="get_weather", input={"location": "Paris"}, arguments=raw),
                ToolUseBlock(id="call_2", name="now", input={}, arguments=""),
            )
        ),
        Message("tool", (ToolResultBlock(tool_use_id="call_1", content="15"),)),
        Message("tool", (ToolResultBlock(tool_use_id="call_2", content=(), is_error=True),)),
    )
    assert sent["messages"] == [
        {"role": "user", "content": "Weather?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": raw}},
                {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "15"},
        {"role": "tool", "tool_call_id": "call_2", "content": ""},
    ]


def test_two_results_in_one_message_are_two_messages() -> None:
    results = (ToolResultBlock(tool_use_id="a", content="1"), ToolResultBlock(tool_use_id="b", content="2"))
    assert body(DIALECT, Message("tool", results))["messages"] == [
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "tool", "tool_call_id": "b", "content": "2"},
    ]


def test_an_image_in_a_result_is_refused() -> None:
    image = ImageBlock(source=Base64Source("image/png", PNG))
    with pytest.raises(CallerError, match="image block in a tool result has no place in the dialect chat_completions"):
        encoded(DIALECT, Message.tool("call_1", (TextBlock(text="see"), image)))


def test_a_refusal_stands_beside_the_content() -> None:
    sent = body(DIALECT, Message.assistant((RefusalBlock(text="I cannot."),)))
    assert sent["messages"] == [{"role": "assistant", "content": None, "refusal": "I cannot."}]


def test_an_image_of_an_answer_stands_where_replies_have_it() -> None:
    image = ImageBlock(source=Base64Source("image/png", PNG))
    sent = body(DIALECT, Message("assistant", (TextBlock(text="Here."), image), dialect=DIALECT))
    assert sent["messages"] == [
        {
            "role": "assistant",
            "content": "Here.",
            "images": [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}],
        }
    ]


def test_reasoning_has_no_field_on_the_plain_wire() -> None:
    sent = body(DIALECT, Message("assistant", (ThinkingBlock(text="hm"), TextBlock(text="a")), dialect=DIALECT))
    assert sent["messages"] == [{"role": "assistant", "content": "a"}]


def test_a_provider_that_wants_its_reasoning_back_gets_it() -> None:
    # https://api-docs.deepseek.com/guides/thinking_mode#tool-calls, 2026-11-22
    thought = Message(
        "assistant",
        (ThinkingBlock(text="hm"), ToolUseBlock(id="c", name="f", input={})),
        dialect=DIALECT,
    )
    bare = Message("assistant", (ToolUseBlock(id="d", name="f", input={}),))
    request = Request(model="m", messages=(thought, Message.tool("c", "1"), bare, Message.tool("d", "2")))
    sent = json.loads(provider_encoder("deepseek").encode(request).body)["messages"]
    assert sent[0] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        "reasoning_content": "hm",
    }
    assert sent[2]["reasoning_content"] == ""
    plain = Request(model="m", messages=(Message.assistant("no calls"),))
    assert "reasoning_content" not in json.loads(provider_encoder("deepseek").encode(plain).body)["messages"][0]


def test_sampling_candidates_and_the_rest_stand_where_the_vendor_has_them() -> None:
    sent = body(
        DIALECT,
        max_tokens=100,  # max_tokens is deprecated there in favour of max_completion_tokens
        temperature=0.5,
        top_p=0.9,
        stop_sequences=("END", "STOP"),
        seed=7,
        n=2,
        presence_penalty=0.1,
        frequency_penalty=-0.1,
        logprobs=True,
        top_logprobs=3,
        reasoning_effort="low",
        metadata={"k": "v"},
    )
    assert {key: sent[key] for key in sent if key not in ("model", "messages")} == {
        "max_completion_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["END", "STOP"],
        "seed": 7,
        "n": 2,
        "presence_penalty": 0.1,
        "frequency_penalty": -0.1,
        "logprobs": True,
        "top_logprobs": 3,
        "reasoning_effort": "low",
        "metadata": {"k": "v"},
    }


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (ResponseFormat("text"), {"type": "text"}),
        (ResponseFormat("json_object"), {"type": "json_object"}),
        (
            ResponseFormat("json_schema", "answer", "An answer", ANSWER_SCHEMA, True),
            {
                "type": "json_schema",
                "json_schema": {
                    "name": "answer",
                    "description": "An answer",
                    "schema": ANSWER_SCHEMA,
                    "strict": True,
                },
            },
        ),
        (
            ResponseFormat("json_schema", schema=ANSWER_SCHEMA),
            {"type": "json_schema", "json_schema": {"name": "response", "schema": ANSWER_SCHEMA}},
        ),
    ],
)
def test_the_form_of_the_answer(asked: ResponseFormat, sent: object) -> None:
    # https://platform.openai.com/docs/guides/structured-outputs?api-mode=chat
    assert body(DIALECT, response_format=asked)["response_format"] == sent


@pytest.mark.parametrize("field", ["top_k", "thinking"])
def test_what_the_wire_lacks_is_refused_by_name(field: str) -> None:
    with pytest.raises(CallerError, match=f"`{field}` has no place in the dialect chat_completions"):
        encoded(DIALECT, **{field: {}})


def test_a_provider_renames_what_it_calls_otherwise() -> None:
    # https://github.com/mistralai/platform-docs-public/blob/main/openapi.yaml, ChatCompletionRequest, 2026-11-22
    request = Request(
        model="m", messages=(Message.user("Hi"),), stream=True, max_tokens=5, seed=1, tool_choice=ToolChoice("required")
    )
    assert json.loads(provider_encoder("mistral").encode(request).body) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "tool_choice": "any",
        "stream": True,
        "max_tokens": 5,
        "random_seed": 1,
    }


def test_a_provider_adds_what_it_has_beside_the_plain_wire() -> None:
    # https://openrouter.ai/docs/features/prompt-caching and .../guides/best-practices/reasoning-tokens, 2026-11-22
    marked = TextBlock(text="The book.", cache_control={"type": "ephemeral"})
    request = Request(
        model="m",
        messages=(
            Message.user((marked, TextBlock(text="Well?"))),
            Message("assistant", (ThinkingBlock(text="hm"), TextBlock(text="Yes.")), dialect=DIALECT),
        ),
        thinking={"exclude": False, "effort": "low"},
        reasoning_effort="high",
    )
    found = provider_encoder("openrouter").encode(request)
    assert found.warnings == ()
    assert json.loads(found.body) == {
        "model": "m",
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "The book.", "cache_control": {"type": "ephemeral"}},
                    {"type": "text", "text": "Well?"},
                ],
            },
            {"role": "assistant", "content": "Yes.", "reasoning": "hm"},
        ],
        "reasoning": {"exclude": False, "effort": "high"},
    }
