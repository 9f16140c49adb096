"""What the `responses` dialect puts on the wire, feature by feature, beside the documented request.

Documented requests: https://platform.openai.com/docs/api-reference/responses/create and the typed parameters of the
vendor's SDK 3.54.0 (https://github.com/openai/openai-python, src/openai/types/responses). All read 2026-11-22.
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
    OpaqueContent,
    RefusalBlock,
    ServerToolBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    UrlSource,
)
from ai_lib_trio.types.request import ResponseFormat
from ai_lib_trio.types.tool import ToolChoice, ToolDefinition
from encode_cases import ANSWER_SCHEMA, PDF, PNG, WEATHER, WEATHER_SCHEMA, body, encoded

DIALECT = "responses"


def test_a_text_request_is_the_documented_one() -> None:
    sent = encoded(DIALECT, Message.system("Talk like a pirate."), Message.user("Hello"), model="gpt-x")
    assert (sent.method, sent.path, sent.query) == ("POST", "/responses", [])
    assert sent.headers == [("content-type", "application/json")]
    assert json.loads(sent.body) == {
        "model": "gpt-x",
        "instructions": "Talk like a pirate.",
        "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
    }
    assert body(DIALECT, stream=True)["stream"] is True


def test_two_system_messages_are_one_instruction() -> None:
    assert body(DIALECT, Message.system("a"), Message.user("b"), Message.system("c"))["instructions"] == "a\n\nc"


def test_images_and_documents_are_input_parts() -> None:
    # https://platform.openai.com/docs/guides/images-vision, https://platform.openai.com/docs/guides/pdf-files
    sent = body(
        DIALECT,
        Message.user(
            (
                TextBlock(text="Compare"),
                ImageBlock(source=UrlSource("https://example.com/a.png"), detail="high"),
                ImageBlock(source=Base64Source("image/png", PNG)),
                DocumentBlock(source=UrlSource("https://example.com/a.pdf")),
                DocumentBlock(source=Base64Source("application/pdf", PDF), filename="b.pdf"),
            )
        ),
    )
    assert sent["input"][0]["content"] == [
        {"type": "input_text", "text": "Compare"},
        {"type": "input_image", "image_url": "https://example.com/a.png", "detail": "high"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
        {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        {"type": "input_file", "filename": "b.pdf", "file_data": f"data:application/pdf;base64,{PDF}"},
    ]


def test_tools_stand_flat_and_strict_goes_only_where_it_was_said() -> None:
    # https://platform.openai.com/docs/guides/function-calling
    loose = ToolDefinition("f", None, ANSWER_SCHEMA, strict=False)
    assert body(DIALECT, tools=(WEATHER, loose))["tools"] == [
        {
            "type": "function",
            "name": "get_weather",
            "description": "The weather at a place",
            "parameters": WEATHER_SCHEMA,
        },
        {"type": "function", "name": "f", "parameters": ANSWER_SCHEMA, "strict": False},
    ]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (ToolChoice("auto"), "auto"),
        (ToolChoice("none"), "none"),
        (ToolChoice("required"), "required"),
        (ToolChoice("tool", "get_weather"), {"type": "function", "name": "get_weather"}),
    ],
)
def test_tool_choice(choice: ToolChoice, sent: object) -> None:
    found = body(DIALECT, tools=(WEATHER,), tool_choice=choice, parallel_tool_calls=True)
    assert found["tool_choice"] == sent
    assert found["parallel_tool_calls"] is True


def test_an_assistants_blocks_are_items_of_their_own_in_order() -> None:
    # https://platform.openai.com/docs/guides/reasoning#keeping-reasoning-items-in-context
    sent = body(
        DIALECT,
        Message.user("Weather?"),
        Message(
            "assistant",
            (
                ThinkingBlock(text="onetwo", id="rs_1", encrypted="gAAA", summary=("one", "two")),
                TextBlock(text="I look.", native={"id": "msg_1", "phase": "commentary"}),
                ToolUseBlock(
                    id="call_1",
                    name="get_weather",
                    input={"location": "Paris"},
                    arguments='{"location":"Paris"}',
                    wire_id="call_1",
                    item_id="fc_1",
                ),
                ToolUseBlock(id="call_2", name="now", input={}, item_id="fc_2"),
            ),
            dialect=DIALECT,
        ),
        Message.tool("call_1", "15"),
        Message.tool("call_2", (TextBlock(text="a clock"), ImageBlock(source=Base64Source("image/png", PNG)))),
    )
    assert sent["input"][1:] == [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "one"}, {"type": "summary_text", "text": "two"}],
            "encrypted_content": "gAAA",
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "phase": "commentary",
            "content": [{"type": "output_text", "text": "I look."}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "get_weather",
            "arguments": '{"location":"Paris"}',
        },
        {"type": "function_call", "id": "fc_2", "call_id": "call_2", "name": "now", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "15"},
        {
            "type": "function_call_output",
            "call_id": "call_2",
            "output": [
                {"type": "input_text", "text": "a clock"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"},
            ],
        },
    ]


def test_sealed_reasoning_without_words_goes_back_with_an_empty_summary() -> None:
    sealed = Message("assistant", (ThinkingBlock(id="rs_1", encrypted="gAAA"),), dialect=DIALECT)
    assert body(DIALECT, sealed)["input"] == [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
    ]


def test_reasoning_text_that_is_no_summary_goes_back_as_content() -> None:
    open_model = Message("assistant", (ThinkingBlock(id="rs_1", text="hm"),), dialect=DIALECT)
    assert body(DIALECT, open_model)["input"] == [
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    ]


def test_items_of_server_tools_and_unknown_items_go_back_as_they_came() -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
    other = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"}
    message = Message(
        "assistant",
        (
            ServerToolBlock(id="ws_1", name="web_search_call", native=search),
            OpaqueContent(kind="compaction", data=other),
            TextBlock(text="Found."),
        ),
        dialect=DIALECT,
    )
    assert body(DIALECT, message)["input"][:2] == [search, other]


def test_a_refusal_is_a_part_of_an_output_message() -> None:
    assert body(DIALECT, Message.assistant((RefusalBlock(text="No."),)))["input"] == [
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    ]


def test_sampling_and_the_rest_stand_where_the_vendor_has_them() -> None:
    sent = body(
        DIALECT,
        max_tokens=100,
        temperature=0.5,
        top_p=0.9,
        logprobs=True,
        top_logprobs=3,
        thinking={"summary": "auto"},
        reasoning_effort="low",
        metadata={"k": "v"},
    )
    assert {key: sent[key] for key in sent if key not in ("model", "input")} == {
        "max_output_tokens": 100,
        "temperature": 0.5,
        "top_p": 0.9,
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 3,
        "reasoning": {"summary": "auto", "effort": "low"},
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
                "name": "answer",
                "description": "An answer",
                "schema": ANSWER_SCHEMA,
                "strict": True,
            },
        ),
    ],
)
def test_the_form_of_the_answer(asked: ResponseFormat, sent: object) -> None:
    # https://platform.openai.com/docs/guides/structured-outputs
    assert body(DIALECT, response_format=asked)["text"] == {"format": sent}


@pytest.mark.parametrize("field", ["top_k", "stop_sequences", "seed", "n", "presence_penalty", "frequency_penalty"])
def test_what_the_wire_lacks_is_refused_by_name(field: str) -> None:
    with pytest.raises(CallerError, match=f"`{field}` has no place in the dialect responses"):
        encoded(DIALECT, **{field: ("x",) if field == "stop_sequences" else 1})
