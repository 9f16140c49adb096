"""What the `messages` dialect puts on the wire, feature by feature, beside the vendor's documented request.

Documented requests: https://platform.claude.com/docs/en/api/messages/create and the pages named at each test; typed
parameters of the vendor's SDK 2.12.0 (https://github.com/anthropics/anthropic-sdk-python). All read 2026-11-22.
"""

from __future__ import annotations

import base64
import json

import pytest

from ai_lib_trio.errors import CallerError
from ai_lib_trio.types.message import (
    AudioBlock,
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

DIALECT = "messages"


def test_a_text_request_is_the_documented_one() -> None:
    # https://platform.claude.com/docs/en/api/messages/create, the first example
    sent = encoded(DIALECT, Message.user("Hello, Claude"), model="claude-x", max_tokens=1024)
    assert sent.method == "POST"
    assert sent.path == "/messages"
    assert sent.query == []
    assert dict(sent.headers) == {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    assert json.loads(sent.body) == {
        "model": "claude-x",
        "max_tokens": 1024,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello, Claude"}]}],
    }
    assert sent.warnings == ()


def test_the_required_limit_is_sent_where_the_caller_gave_none() -> None:
    assert body(DIALECT)["max_tokens"] == 4096


def test_a_stream_is_asked_for_in_the_body() -> None:
    assert body(DIALECT, stream=True)["stream"] is True
    assert "stream" not in body(DIALECT)


def test_system_text_is_a_field_beside_the_messages_and_keeps_its_cache_mark() -> None:
    # https://platform.claude.com/docs/en/build-with-claude/prompt-caching
    sent = body(
        DIALECT,
        Message.system("Be brief."),
        Message.user("Hi"),
        Message.system((TextBlock(text="The book.", cache_control={"type": "ephemeral"}),)),
    )
    assert sent["system"] == [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "The book.", "cache_control": {"type": "ephemeral"}},
    ]
    assert sent["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]


def test_turns_alternate_and_neighbours_of_one_role_are_one_message() -> None:
    sent = body(
        DIALECT, Message.user("a"), Message.user("b"), Message.assistant("c"), Message.user("d"), Message.user("")
    )
    assert sent["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "c"}]},
        {"role": "user", "content": [{"type": "text", "text": "d"}]},
    ]


def test_images_go_inline_or_by_address() -> None:
    # https://platform.claude.com/docs/en/build-with-claude/vision
    sent = body(
        DIALECT,
        Message.user(
            (
                ImageBlock(source=Base64Source("image/png", PNG)),
                ImageBlock(source=UrlSource("https://example.com/a.jpg"), cache_control={"type": "ephemeral"}),
                TextBlock(text="What is this?"),
            )
        ),
    )
    assert sent["messages"][0]["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        {
            "type": "image",
            "source": {"type": "url", "url": "https://example.com/a.jpg"},
            "cache_control": {"type": "ephemeral"},
        },
        {"type": "text", "text": "What is this?"},
    ]


def test_documents_go_as_pdf_as_an_address_or_as_plain_text() -> None:
    # https://platform.claude.com/docs/en/build-with-claude/pdf-support; plain text: PlainTextSourceParam of the SDK
    text = base64.b64encode("naïve".encode()).decode()
    sent = body(
        DIALECT,
        Message.user(
            (
                DocumentBlock(source=Base64Source("application/pdf", PDF), filename="a.pdf"),
                DocumentBlock(source=UrlSource("https://example.com/b.pdf")),
                DocumentBlock(source=Base64Source("text/markdown", text)),
            )
        ),
    )
    assert sent["messages"][0]["content"] == [
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "url", "url": "https://example.com/b.pdf"}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "naïve"}},
    ]


def test_audio_is_refused_by_name_and_place() -> None:
    with pytest.raises(CallerError, match="audio block in a user message has no place in the dialect messages"):
        encoded(DIALECT, Message.user((AudioBlock(source=Base64Source("audio/wav", PNG)),)))


def test_tools_go_with_their_schema_whole() -> None:
    # https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview
    assert body(DIALECT, tools=(WEATHER,))["tools"] == [
        {"name": "get_weather", "description": "The weather at a place", "input_schema": WEATHER_SCHEMA}
    ]


@pytest.mark.parametrize(
    ("choice", "parallel", "sent"),
    [
        (ToolChoice("auto"), None, {"type": "auto"}),
        (ToolChoice("none"), None, {"type": "none"}),
        (ToolChoice("required"), None, {"type": "any"}),
        (ToolChoice("tool", "get_weather"), None, {"type": "tool", "name": "get_weather"}),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (
            ToolChoice("tool", "get_weather"),
            False,
            {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
        ),
        (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("auto"), True, {"type": "auto"}),
    ],
)
def test_tool_choice_and_parallel_calls_are_one_field(
    choice: ToolChoice | None, parallel: bool | None, sent: dict[str, object]
) -> None:
    # https://platform.claude.com/docs/en/agents-and-tools/tool-use/implement-tool-use
    found = body(DIALECT, tools=(WEATHER,), tool_choice=choice, parallel_tool_calls=parallel)
    assert found["tool_choice"] == sent
    assert "parallel_tool_calls" not in found


def test_parallel_results_stand_in_one_user_message_before_its_text() -> None:
    # https://platform.claude.com/docs/en/agents-and-tools/tool-use/implement-tool-use#parallel-tool-use
    sent = body(
        DIALECT,
        Message.user("Weather in Paris and Rome?"),
        Message.assistant(
            (
                TextBlock(text="I look."),
                ToolUseBlock(id="toolu_1", name="get_weather", input={"location": "Paris"}),
                ToolUseBlock(id="toolu_2", name="get_weather", input={"location": "Rome"}),
                ToolUseBlock(id="toolu_3", name="now"),
            )
        ),
        Message.tool("toolu_1", "15 degrees"),
        Message.tool("toolu_2", "no such place", is_error=True),
        Message.tool("toolu_3", (TextBlock(text="a clock"), ImageBlock(source=Base64Source("image/png", PNG)))),
        Message.user("And now?"),
    )
    assert sent["messages"][1:] == [
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"location": "Paris"}},
                {"type": "tool_use", "id": "toolu_2", "name": "get_weather", "input": {"location": "Rome"}},
                {"type": "tool_use", "id": "toolu_3", "name": "now", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": "15 degrees"},
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no such place", "is_error": True},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_3",
                    "content": [
                        {"type": "text", "text": "a clock"},
                        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    ],
                },
                {"type": "text", "text": "And now?"},
            ],
        },
    ]


def test_results_inside_a_user_message_go_out_the_same_way() -> None:
    results = (ToolResultBlock(tool_use_id="toolu_1", content="15"), TextBlock(text="Well?"))
    one = body(DIALECT, Message.user("x"), Message.assistant("y"), Message.user(results))
    two = body(DIALECT, Message.user("x"), Message.assistant("y"), Message.tool("toolu_1", "15"), Message.user("Well?"))
    assert one == two


def test_an_empty_result_has_no_content() -> None:
    sent = body(DIALECT, Message.tool("toolu_1", ""))
    assert sent["messages"] == [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1"}]}]


def test_arguments_that_were_no_json_go_back_wrapped() -> None:
    # https://platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming
    sent = body(DIALECT, Message.assistant((ToolUseBlock(id="t", name="f", input='{"a": '),)))
    assert sent["messages"][0]["content"][0]["input"] == {"INVALID_JSON": '{"a": '}


def test_reasoning_goes_back_with_its_signature_and_sealed_reasoning_as_it_came() -> None:
    # https://platform.claude.com/docs/en/build-with-claude/extended-thinking#preserving-thinking-blocks
    sent = body(
        DIALECT,
        Message(
            "assistant",
            (
                ThinkingBlock(text="Let me see", signature="EqQB"),
                ThinkingBlock(signature="only"),
                ThinkingBlock(encrypted="EmwK"),
                TextBlock(text="Yes."),
            ),
            dialect=DIALECT,
        ),
    )
    assert sent["messages"][0]["content"] == [
        {"type": "thinking", "thinking": "Let me see", "signature": "EqQB"},
        {"type": "thinking", "thinking": "", "signature": "only"},
        {"type": "redacted_thinking", "data": "EmwK"},
        {"type": "text", "text": "Yes."},
    ]


def test_server_tools_their_results_and_citations_go_back_as_they_came() -> None:
    # https://platform.claude.com/docs/en/agents-and-tools/tool-use/web-search-tool
    call = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
    result = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"encrypted_content": "E"}]}
    cited = {"type": "web_search_result_location", "url": "https://example.com", "encrypted_index": "I"}
    sent = body(
        DIALECT,
        Message(
            "assistant",
            (
                ServerToolBlock(id="srvtoolu_1", name="web_search", input={"query": "x"}, native=call),
                ServerToolBlock(id="srvtoolu_1", name="web_search_tool_result", native=result),
                TextBlock(text="Found.", citations=(cited,)),
                OpaqueContent(kind="compaction", data={"type": "compaction", "content": "C"}),
            ),
            dialect=DIALECT,
        ),
    )
    assert sent["messages"][0]["content"] == [
        call,
        result,
        {"type": "text", "text": "Found.", "citations": [cited]},
        {"type": "compaction", "content": "C"},
    ]


def test_a_refusal_goes_back_as_text() -> None:
    sent = body(DIALECT, Message.assistant((RefusalBlock(text="No."),)))
    assert sent["messages"][0]["content"] == [{"type": "text", "text": "No."}]


def test_sampling_reasoning_and_metadata_stand_where_the_vendor_has_them() -> None:
    sent = body(
        DIALECT,
        max_tokens=100,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stop_sequences=("END",),
        thinking={"type": "adaptive"},
        reasoning_effort="high",
        metadata={"user_id": "u1"},
    )
    assert {key: sent[key] for key in sent if key not in ("model", "messages")} == {
        "max_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "stop_sequences": ["END"],
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "metadata": {"user_id": "u1"},
    }


def test_an_answer_by_schema_is_asked_for_in_the_output_config() -> None:
    # https://platform.claude.com/docs/en/build-with-claude/structured-outputs
    sent = body(
        DIALECT, response_format=ResponseFormat("json_schema", "answer", None, ANSWER_SCHEMA), reasoning_effort="low"
    )
    assert sent["output_config"] == {"format": {"type": "json_schema", "schema": ANSWER_SCHEMA}, "effort": "low"}
    assert "output_config" not in body(DIALECT, response_format=ResponseFormat("text"))


def test_json_without_a_schema_is_refused() -> None:
    with pytest.raises(CallerError, match=r"response_format\.mode is 'json_object': expected one of text, json_schema"):
        encoded(DIALECT, response_format=ResponseFormat("json_object"))


@pytest.mark.parametrize("field", ["seed", "n", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs"])
def test_what_the_wire_lacks_is_refused_by_name(field: str) -> None:
    with pytest.raises(CallerError, match=f"`{field}` has no place in the dialect messages"):
        encoded(DIALECT, **{field: 1})
