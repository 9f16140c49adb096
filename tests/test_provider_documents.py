"""What providers' own documents say beside an exchange: errors by status and code, and reasoning that goes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ai_lib_trio.errors import CODES
from ai_lib_trio.types.message import Message, TextBlock, ThinkingBlock
from ai_lib_trio.types.request import Request
from ai_lib_trio.types.response import ChatResponse, fold
from ai_lib_trio.types.tool import ToolChoice, ToolDefinition
from ai_lib_trio.wire.classify import classify
from encode_cases import catalog, provider_encoder
from provider_cases import decoder


def said(type: str | None, code: str | None, message: str) -> dict[str, Any]:
    return {"error": {key: value for key, value in (("type", type), ("code", code), ("message", message)) if value}}


@pytest.mark.parametrize(
    ("provider", "status", "body", "name"),
    [
        # https://github.com/MoonshotAI/kimi-help-center/blob/b7cfbfdd63c3bac4006ca9628cf1b806aa4cdf55/en-US/kimi-api/error-codes.md
        ("moonshot", 400, said("content_filter", None, "considered high risk"), "invalid_request"),
        ("moonshot", 401, said("incorrect_api_key_error", None, "Incorrect API key provided"), "authentication"),
        ("moonshot", 429, said("engine_overloaded_error", None, "please try again later"), "overloaded"),
        ("moonshot", 429, said("exceeded_current_quota_error", None, "Token quota is insufficient"), "quota_exhausted"),
        ("moonshot", 429, said("rate_limit_reached_error", None, "RPM limit reached"), "rate_limited"),
        ("moonshot", 503, said("server_unavailable", None, "try again later"), "overloaded"),
        # https://cloud.tencent.com/document/product/1823/131595
        ("hunyuan", 400, said("invalid_request_error", "400001", "model is required"), "invalid_request"),
        ("hunyuan", 401, said("authentication_error", "401002", "invalid api key"), "authentication"),
        ("hunyuan", 402, said("permission_error", "403004", "FREE_QUOTA_EXHAUSTED"), "quota_exhausted"),
        ("hunyuan", 403, said("permission_error", "403001", "access denied"), "permission_denied"),
        ("hunyuan", 429, said("rate_limit_error", "429001", "rate limit exceeded"), "rate_limited"),
        ("hunyuan", 451, said("content_filter_error", "451001", "content was filtered"), "invalid_request"),
        ("hunyuan", 502, said("upstream_error", "502001", "provider error"), "server_error"),
        # https://f8cxtsvnr8.apifox.cn/apidoc/project-3794483/doc-3441122
        ("baichuan", 429, said(None, None, "Rate limit reached for requests"), "rate_limited"),
        ("baichuan", 429, said(None, None, "Insufficient account balance, please recharge"), "quota_exhausted"),
        # https://developers.cloudflare.com/workers-ai/platform/errors/
        ("cloudflare", 429, {"success": False, "errors": [{"code": 3040, "message": "no capacity"}]}, "overloaded"),
        ("cloudflare", 429, {"success": False, "errors": [{"code": 3036, "message": "used up"}]}, "quota_exhausted"),
        ("cloudflare", 400, {"success": False, "errors": [{"code": 5007, "message": "No such model"}]}, "not_found"),
        # https://docs.fireworks.ai/guides/inference-error-codes
        ("fireworks", 402, said(None, None, "Payment Required"), "quota_exhausted"),
        ("fireworks", 412, said(None, None, "Precondition Failed"), "permission_denied"),
        ("fireworks", 503, said(None, None, "Service Overloaded"), "overloaded"),
        # https://github.com/AI21Labs/ai21-python/blob/c13355b3a94aeb6b8da642830f07a07df6714bb1/ai21/errors.py
        ("ai21", 424, {"detail": "the model failed"}, "server_error"),
        ("ai21", 422, {"detail": "no such field"}, "invalid_request"),
        # https://github.com/iFLYTEK-OP/websdk-java/blob/4efde44ba5c5fe9972a79df37b73004f01552e2f/doc/spark/sparkchat.md
        ("spark", 200, {"code": 10907, "message": "too many tokens", "sid": "cha1"}, "request_too_large"),
        ("spark", 400, said("api_error", "10013", "the question was refused"), "invalid_request"),
        ("spark", 403, said("api_error", "11200", "AppIdNoAuthError"), "permission_denied"),
        ("spark", 403, said("api_error", "11201", "the day's limit"), "quota_exhausted"),
        ("spark", 403, said("api_error", "11202", "AppIdQpsOverFlowError"), "rate_limited"),
        # https://github.com/tryAGI/Jina/blob/2a3f424fd9387ecf25d05579854ef0b9593212c8/src/libs/Jina/openapi.json
        ("jina", 400, {"detail": "no such model", "code": "INPUT_MODEL_NOT_FOUND"}, "not_found"),
        ("jina", 403, {"detail": "top up", "code": "AUTHZ_INSUFFICIENT_BALANCE"}, "quota_exhausted"),
        ("jina", 409, {"detail": "busy", "code": "CONFLICT_RESOURCE_BUSY"}, "conflict"),
        ("jina", 429, {"detail": "slower", "code": "RATE_CONCURRENCY_LIMIT_EXCEEDED"}, "rate_limited"),
        ("jina", 504, {"detail": "timed out", "code": "SERVICE_TIMEOUT"}, "timeout"),
        # https://github.com/deepinfra/docs/blob/0db204faba2221d26f7fe9538978f37e2f81a6ef/integrations/pi.mdx
        ("deepinfra", 402, said(None, None, "the account needs funding"), "quota_exhausted"),
        ("deepinfra", 422, {"message": "Input should be a role", "param": "messages.0.role"}, "invalid_request"),
    ],
)
def test_an_error_is_the_standard_one_that_the_providers_documents_make_it(
    provider: str, status: int, body: dict[str, Any], name: str
) -> None:
    manifest = catalog().provider(provider)
    family = manifest.family()
    headers = {"content-type": "application/json"}
    error = classify(
        decoder(provider, family.id).read_error(status, headers, json.dumps(body).encode()),
        status=status,
        headers=headers,
        rules=manifest.errors,
        table=catalog().error_table(),
        rate_limits=manifest.rate_limits,
        now_wall=0.0,
    )
    assert CODES[error.code].name == name


@pytest.mark.parametrize("provider", ["fireworks", "hunyuan", "moonshot"])
def test_reasoning_goes_back_where_the_provider_takes_it(provider: str) -> None:
    blocks = (ThinkingBlock(text="hm"), TextBlock(text="a"))
    thought = Message("assistant", blocks, dialect="chat_completions")
    request = Request(model="m", messages=(thought, Message.user("and?")))
    sent = json.loads(provider_encoder(provider).encode(request).body)["messages"][0]
    assert sent == {"role": "assistant", "content": "a", "reasoning_content": "hm"}


@pytest.mark.parametrize(
    ("provider", "field"),
    [
        ("moonshot", "max_completion_tokens"),
        ("minimax", "max_completion_tokens"),
        ("qwen", "max_completion_tokens"),
    ],
)
def test_the_bound_on_output_has_the_name_that_is_not_deprecated(provider: str, field: str) -> None:
    request = Request(model="m", messages=(Message.user("Hi"),), max_tokens=9)
    sent = json.loads(provider_encoder(provider).encode(request).body)
    assert sent[field] == 9
    assert "max_tokens" not in sent


def streamed(provider: str, *chunks: dict[str, Any]) -> ChatResponse:
    pipeline = decoder(provider, "chat_completions").open(content_type="text/event-stream", streamed=True)
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    return fold([*pipeline.feed(body.encode()), *pipeline.finish()])


def test_a_stream_with_usage_in_every_chunk_and_reasoning_as_parts_is_read() -> None:
    # https://github.com/databricks/databricks-ai-bridge/blob/59f216a2cfafcfbb0b6cd54851cefcd6073c1076/integrations:
    # langchain/tests/utils/chat_models.py and ai-sdk-provider/tests/fmapi-convert.test.ts
    def chunk(content: object, written: int, finish: str | None = None) -> dict[str, Any]:
        usage = {"prompt_tokens": 30, "completion_tokens": written, "total_tokens": 30 + written}
        return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}], "usage": usage}

    summary = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Thinking step 1..."}]}
    reply = streamed(
        "databricks",
        chunk([summary], 20),
        chunk([{"type": "text", "text": "36939"}], 22),
        chunk(" = ", 28),
        chunk("", 36, "stop"),
    )
    assert (reply.thinking, reply.content, reply.finish_reason) == ("Thinking step 1...", "36939 = ", "end_turn")
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (30, 36)


def test_cached_tokens_are_read_beside_the_others_too() -> None:
    # https://platform.moonshot.cn/docs/api/chat, 2026-11-28, read in a copy
    usage = {"prompt_tokens": 19, "completion_tokens": 21, "total_tokens": 40, "cached_tokens": 10}
    last = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop", "usage": usage}]}
    assert streamed("moonshot", last).usage.cached_tokens == 10


@pytest.mark.parametrize(
    ("family", "path"),
    [("x1", "/v2/chat/completions"), ("x2", "/x2/chat/completions"), ("flash", "/agent/v1/chat/completions")],
)
def test_reasoning_models_of_one_name_are_told_apart_by_their_address(family: str, path: str) -> None:
    """https://www.xfyun.cn/doc/spark/X1http.html: a tool that must be called is named beside its type."""
    tool = ToolDefinition("find", "Find it", {"type": "object", "properties": {}})
    wanted = ToolChoice(mode="tool", name="find")
    request = Request(model="spark-x", messages=(Message.user("go"),), tools=(tool,), tool_choice=wanted)
    encoded = provider_encoder("spark", family).encode(request)
    assert encoded.path == path
    assert json.loads(encoded.body)["tool_choice"] == {"type": "function", "name": "find"}


@pytest.mark.parametrize("provider", ["baidu", "qwen", "xai"])
def test_a_system_text_is_an_item_where_instructions_are_not_read(provider: str) -> None:
    """https://help.aliyun.com/zh/model-studio/qwen-api-via-openai-responses: the field is ignored, without an error."""
    messages = (Message.system("Be brief."), Message.user("Hi"), Message.assistant("Yes?"), Message.user("Go"))
    body = json.loads(provider_encoder(provider, "responses").encode(Request(model="m", messages=messages)).body)
    assert "instructions" not in body
    assert body["input"][0] == {"type": "message", "role": "system", "content": "Be brief."}
    assert [item["role"] for item in body["input"]] == ["system", "user", "assistant", "user"]
