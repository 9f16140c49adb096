"""What the `generate_content` dialect puts on the wire, feature by feature, beside the documented request.

Documented requests: https://ai.google.dev/api/generate-content and the pages named at each test; typed parameters of
the vendor's SDK 3.4.0 (https://github.com/googleapis/python-genai, google/genai/types.py). All read 2026-11-22.
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
    OpaqueContent,
    RefusalBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    UrlSource,
    VideoBlock,
)
from ai_lib_trio.types.request import ResponseFormat
from ai_lib_trio.types.tool import ToolChoice
from encode_cases import ANSWER_SCHEMA, PDF, PNG, WEATHER, WEATHER_SCHEMA, body, encoded

DIALECT = "generate_content"


def test_a_text_request_is_the_documented_one() -> None:
    # https://ai.google.dev/gemini-api/docs/text-generation
    sent = encoded(DIALECT, Message.system("You are a cat."), Message.user("Hello there"), model="gemini-x")
    assert (sent.method, sent.path, sent.query) == ("POST", "/models/gemini-x:generateContent", [])
    assert sent.headers == [("content-type", "application/json")]
    assert json.loads(sent.body) == {
        "systemInstruction": {"parts": [{"text": "You are a cat."}]},
        "contents": [{"role": "user", "parts": [{"text": "Hello there"}]}],
    }


def test_a_stream_is_another_method_and_asks_for_events() -> None:
    sent = encoded(DIALECT, stream=True, model="gemini-x")
    assert sent.path == "/models/gemini-x:streamGenerateContent"
    assert sent.query == [("alt", "sse")]
    assert "stream" not in json.loads(sent.body)


def test_turns_are_user_and_model() -> None:
    sent = body(DIALECT, Message.user("a"), Message.assistant("b"), Message.user("c"), Message.user("d"))
    assert sent["contents"] == [
        {"role": "user", "parts": [{"text": "a"}]},
        {"role": "model", "parts": [{"text": "b"}]},
        {"role": "user", "parts": [{"text": "c"}, {"text": "d"}]},
    ]


def test_media_of_every_kind_goes_inline_or_by_address() -> None:
    # https://ai.google.dev/gemini-api/docs/image-understanding and its neighbours for documents, audio and video
    sent = body(
        DIALECT,
        Message.user(
            (
                ImageBlock(source=Base64Source("image/png", PNG)),
                ImageBlock(source=UrlSource("https://example.com/a.jpg", "image/jpeg")),
                DocumentBlock(source=Base64Source("application/pdf", PDF)),
                AudioBlock(source=Base64Source("audio/wav", PNG)),
                VideoBlock(source=UrlSource("https://example.com/v", "video/mp4")),
                TextBlock(text="Well?"),
            )
        ),
    )
    assert sent["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "image/png", "data": PNG}},
        {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://example.com/a.jpg"}},
        {"inlineData": {"mimeType": "application/pdf", "data": PDF}},
        {"inlineData": {"mimeType": "audio/wav", "data": PNG}},
        {"fileData": {"mimeType": "video/mp4", "fileUri": "https://example.com/v"}},
        {"text": "Well?"},
    ]


def test_tools_are_function_declarations_with_their_json_schema() -> None:
    # https://ai.google.dev/gemini-api/docs/function-calling
    assert body(DIALECT, tools=(WEATHER,))["tools"] == [
        {
            "functionDeclarations": [
                {
                    "name": "get_weather",
                    "description": "The weather at a place",
                    "parametersJsonSchema": WEATHER_SCHEMA,
                }
            ]
        }
    ]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        (ToolChoice("auto"), {"mode": "AUTO"}),
        (ToolChoice("none"), {"mode": "NONE"}),
        (ToolChoice("required"), {"mode": "ANY"}),
        (ToolChoice("tool", "get_weather"), {"mode": "ANY", "allowedFunctionNames": ["get_weather"]}),
    ],
)
def test_tool_choice(choice: ToolChoice, sent: object) -> None:
    found = body(DIALECT, tools=(WEATHER,), tool_choice=choice)
    assert found["toolConfig"] == {"functionCallingConfig": sent}


def test_calls_go_back_with_their_signatures_and_results_by_name() -> None:
    # https://ai.google.dev/gemini-api/docs/thought-signatures; functionResponse: SDK, FunctionResponse
    sent = body(
        DIALECT,
        Message.user("Weather?"),
        Message(
            "assistant",
            (
                ThinkingBlock(text="hm", signature="s0"),
                TextBlock(text="I look.", signature="s1"),
                ToolUseBlock(id="gen_1", name="get_weather", input={"location": "Paris"}, signature="s2"),
                ToolUseBlock(id="fc-2", name="get_weather", input={"location": "Rome"}, wire_id="fc-2"),
                ToolUseBlock(id="gen_3", name="now", input={}),
                TextBlock(text="", signature="s3"),
            ),
            dialect=DIALECT,
        ),
        Message.tool("gen_1", '{"degrees": 15}'),
        Message.tool("fc-2", "no such place", is_error=True),
        Message.tool("gen_3", (TextBlock(text="a clock"), ImageBlock(source=Base64Source("image/png", PNG)))),
    )
    assert sent["contents"][1:] == [
        {
            "role": "model",
            "parts": [
                {"text": "hm", "thought": True, "thoughtSignature": "s0"},
                {"text": "I look.", "thoughtSignature": "s1"},
                {
                    "functionCall": {"name": "get_weather", "args": {"location": "Paris"}},
                    "thoughtSignature": "s2",
                },
                {"functionCall": {"id": "fc-2", "name": "get_weather", "args": {"location": "Rome"}}},
                {"functionCall": {"name": "now", "args": {}}},
                {"text": "", "thoughtSignature": "s3"},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "get_weather", "response": {"degrees": 15}}},
                {"functionResponse": {"id": "fc-2", "name": "get_weather", "response": {"error": "no such place"}}},
                {
                    "functionResponse": {
                        "name": "now",
                        "response": {"output": "a clock"},
                        "parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}}],
                    }
                },
            ],
        },
    ]


def test_a_result_without_a_known_call_needs_its_name() -> None:
    with pytest.raises(CallerError, match=r"expected \$b\.tool_name"):
        encoded(DIALECT, Message.tool("lost", "15"))
    sent = body(DIALECT, Message.tool("lost", "15", tool_name="get_weather"))
    assert sent["contents"][0]["parts"] == [{"functionResponse": {"name": "get_weather", "response": {"output": "15"}}}]


def test_an_image_that_the_model_made_goes_back_with_its_signature() -> None:
    image = ImageBlock(source=Base64Source("image/png", PNG), signature="s")
    message = Message("assistant", (image,), dialect=DIALECT)
    assert body(DIALECT, message)["contents"] == [
        {"role": "model", "parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}, "thoughtSignature": "s"}]}
    ]


def test_parts_of_server_tools_go_back_as_they_came() -> None:
    # https://ai.google.dev/gemini-api/docs/code-execution
    code = {"executableCode": {"language": "PYTHON", "code": "print(1)"}}
    result = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}}
    message = Message(
        "assistant",
        (OpaqueContent(kind="executableCode", data=code), OpaqueContent(kind="codeExecutionResult", data=result)),
        dialect=DIALECT,
    )
    assert body(DIALECT, message)["contents"] == [{"role": "model", "parts": [code, result]}]


def test_a_refusal_goes_back_as_text() -> None:
    assert body(DIALECT, Message.assistant((RefusalBlock(text="No."),)))["contents"] == [
        {"role": "model", "parts": [{"text": "No."}]}
    ]


def test_sampling_candidates_and_reasoning_stand_in_the_generation_config() -> None:
    sent = body(
        DIALECT,
        max_tokens=100,
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        stop_sequences=("END",),
        seed=7,
        n=2,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logprobs=True,
        top_logprobs=3,
        thinking={"includeThoughts": True},
        reasoning_effort="low",
    )
    assert sent["generationConfig"] == {
        "maxOutputTokens": 100,
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 40,
        "stopSequences": ["END"],
        "seed": 7,
        "candidateCount": 2,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.2,
        "responseLogprobs": True,
        "logprobs": 3,
        "thinkingConfig": {"includeThoughts": True, "thinkingLevel": "low"},
    }


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        (ResponseFormat("text"), {"responseMimeType": "text/plain"}),
        (ResponseFormat("json_object"), {"responseMimeType": "application/json"}),
        (
            ResponseFormat("json_schema", "answer", None, ANSWER_SCHEMA, True),
            {"responseMimeType": "application/json", "responseJsonSchema": ANSWER_SCHEMA},
        ),
    ],
)
def test_the_form_of_the_answer(asked: ResponseFormat, sent: object) -> None:
    # https://ai.google.dev/gemini-api/docs/structured-output
    found = encoded(DIALECT, response_format=asked)
    assert json.loads(found.body)["generationConfig"] == sent
    assert found.warnings == ()


@pytest.mark.parametrize("field", ["parallel_tool_calls", "metadata"])
def test_what_the_wire_lacks_is_refused_by_name(field: str) -> None:
    with pytest.raises(CallerError, match=f"`{field}` has no place in the dialect generate_content"):
        encoded(DIALECT, **{field: {"k": "v"}})
