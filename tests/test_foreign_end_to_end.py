# ruff: noqa: E501  (manifests in one line a rule)
"""Files written for the specification work as they are: through the real client, over a socket, to a server here.

The shapes are those of the specification's v1 and v2 trees (read 2026-11-22); hosts and names are made up.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from ai_lib_trio import AiLibError, Config, open_client
from ai_lib_trio.client.client import AiClient
from ai_lib_trio.resilience.executor import Resilience
from ai_lib_trio.types.response import ChatResponse
from ai_lib_trio.types.tool import ToolDefinition

HEAD = """\
id: acme
protocol_version: "1.5"
name: Acme
endpoint: {base_url: "http://127.0.0.1:PORT/v1", protocol: http, timeout_ms: 10000}
auth: {type: bearer, token_env: ACME_API_KEY}
capabilities: {streaming: true, tools: true, vision: true, agentic: false}
error_classification: {by_http_status: {"429": rate_limited}}
retry_policy: {strategy: exponential_backoff, max_retries: 3, min_delay_ms: 1000, max_delay_ms: 30000, jitter: full, retry_on_http_status: [429]}
"""
EVENT_MAP = """\
streaming:
  event_format: data_lines
  decoder: {format: sse, delimiter: "\\n\\n", prefix: "data: ", done_signal: "[DONE]"}
  frame_selector: "exists($.choices) || exists($.error)"
  candidate: {candidate_id_path: "$.choices[*].index", fan_out: true}
  event_map:
    - {match: "exists($.choices[*].delta.content)", emit: PartialContentDelta, fields: {content: "$.choices[*].delta.content"}}
    - {match: "exists($.choices[*].delta.tool_calls[*].function.name)", emit: ToolCallStarted, fields: {tool_call_id: "$.choices[*].delta.tool_calls[*].id", tool_name: "$.choices[*].delta.tool_calls[*].function.name", index: "$.choices[*].delta.tool_calls[*].index"}}
    - {match: "exists($.choices[*].delta.tool_calls[*].function.arguments)", emit: PartialToolCall, fields: {arguments: "$.choices[*].delta.tool_calls[*].function.arguments", index: "$.choices[*].delta.tool_calls[*].index"}}
    - {match: "exists($.usage)", emit: Metadata, fields: {usage: "$.usage"}}
    - {match: "exists($.choices[*].finish_reason)", emit: FinalCandidate, fields: {finish_reason: "$.choices[*].finish_reason", candidate_index: "$.choices[*].index"}}
  stop_condition: "$.choices[0].finish_reason != null"
termination: {source_field: finish_reason, mapping: {stop: end_turn, length: max_tokens, tool_calls: tool_use}}
response_paths: {content: "choices[0].message.content", tool_calls: "choices[0].message.tool_calls", usage: usage, finish_reason: "choices[0].finish_reason"}
"""
SHAPES = {
    "a v1 openai_style file with an event_map": HEAD
    + EVENT_MAP
    + "payload_format: openai_style\nendpoints: {chat: {path: /chat/completions, method: POST, adapter: openai}}\n",
    "a v1 file of a format that nobody knows": HEAD
    + EVENT_MAP
    + "payload_format: acme_style\nendpoints: {chat: {path: /chat/completions, adapter: acme_chat}}\n",
    "a v1 file without endpoints": HEAD + EVENT_MAP,
    "a thin 1.1 stub": HEAD.replace("1.5", "1.1") + "payload_format: openai_style\n",
    "a v2 file with api_families and an adapter": """\
id: acme
protocol_version: "2.0"
name: Acme
endpoint:
  base_url: "http://127.0.0.1:PORT/v1"
  chat: /chat/completions
  auth: {type: bearer, header: Authorization, prefix: Bearer, token_env: ACME_API_KEY}
error_classification: {by_http_status: {"429": rate_limited}, by_error_code: {insufficient_quota: quota_exhausted}}
capabilities: {required: [text, streaming, tools], optional: [vision], feature_flags: {system_messages: true}, tool_calling: {native: {supported: true, reliability: full}}}
parameters: {max_tokens: {type: integer, min: 1, max: 8192}}
streaming:
  decoder: {format: sse, strategy: openai_chat, done_signal: "[DONE]", prefix: "data: "}
  event_map:
    - {match: "$.choices[0].delta.content", emit: PartialContentDelta, extract: {content: "$.choices[0].delta.content"}}
    - {match: "$.choices[0].delta.tool_calls", emit: PartialToolCall, extract: {tool_calls: "$.choices[0].delta.tool_calls"}}
    - {match: "$.choices[0].finish_reason", emit: StreamEnd, extract: {finish_reason: "$.choices[0].finish_reason"}}
    - {match: "$.usage", emit: UsageReport, extract: {usage: "$.usage"}}
  accumulator: {stateful_tool_parsing: true, key_path: "$.choices[0].delta.tool_calls[0].function.arguments", flush_on: "$.choices[0].finish_reason == 'tool_calls'"}
api_families: [chat_completions, embeddings]
default_api_family: chat_completions
endpoints: {chat: {path: /chat/completions, method: POST, adapter: openai}}
termination: {source_field: finish_reason, mapping: {stop: end_turn, tool_calls: tool_use}}
""",
}
CALL = [
    {"index": 0, "id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1,'}},
    {"index": 0, "function": {"arguments": ' "b": 2}'}},
]
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def sse(*frames: Any) -> bytes:
    return "".join(f"data: {one if isinstance(one, str) else json.dumps(one)}\n\n" for one in frames).encode()


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "r1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}


def chat(request: dict[str, Any]) -> tuple[int, str, Sequence[bytes]]:
    """A server of the format that most providers speak."""
    content = request["messages"][-1]["content"]
    if content == "too much":
        body = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}
        return 429, "application/json", [json.dumps(body).encode()]
    if not request.get("stream"):
        message = {"role": "assistant", "content": "Hello there"}
        body = {"id": "r1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE}
        return 200, "application/json", [json.dumps(body).encode()]
    if request.get("tools"):
        calls = [chunk({"tool_calls": [call]}) for call in CALL]
        whole = sse(chunk({"role": "assistant", "content": ""}), *calls, chunk({}, "tool_calls", usage=USAGE), "[DONE]")
    else:
        whole = sse(chunk({"content": "Hello"}), chunk({"content": " there"}), chunk({}, "stop", usage=USAGE), "[DONE]")
    return 200, "text/event-stream", [whole[:33], whole[33:90], whole[90:]]


class Server:
    """An HTTP server of one reply per connection. `asked` are the requests: path, headers, decoded body."""

    def __init__(self, answer: Callable[[dict[str, Any]], tuple[int, str, Sequence[bytes]]]) -> None:
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self._answer = answer

    async def serve(self, stream: trio.SocketStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some()
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        while len(body) < int(headers["content-length"]):
            body += await stream.receive_some()
        request = json.loads(body)
        self.asked.append((first.split()[1], headers, request))
        status, content_type, pieces = self._answer(request)
        await stream.send_all(
            f"HTTP/1.1 {status} x\r\ncontent-type: {content_type}\r\nconnection: close\r\n\r\n".encode()
        )
        for piece in pieces:
            await stream.send_all(piece)
        await stream.aclose()


@asynccontextmanager
async def playing(
    text: str, folder: Path, answer: Callable[[dict[str, Any]], tuple[int, str, Sequence[bytes]]]
) -> AsyncIterator[tuple[AiClient, Server]]:
    """A client of the file's provider, and the server that plays it."""
    server = Server(answer)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, server.serve, [listener])
        port = listener.socket.getsockname()[1]
        file = folder / "acme.yaml"
        file.write_text(text.replace("PORT", str(port)), encoding="utf-8")
        config = Config(environ={"ACME_API_KEY": "test-key"}, resilience=Resilience(max_attempts=1, breaker="off"))
        async with open_client("acme/some-model", manifests=file, config=config) as client:
            yield client, server
        nursery.cancel_scope.cancel()


async def streamed(builder: Any) -> ChatResponse:
    async with builder.stream() as events:
        async for _ in events:
            pass
        return events.response()


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_file_of_this_shape_works_whole_and_streamed_with_tools_and_errors(shape: str, tmp_path: Path) -> None:
    async with playing(SHAPES[shape], tmp_path, chat) as (client, server):
        whole = await client.chat().system("Be brief.").user("Hi").max_tokens(9).execute()
        assert (whole.content, whole.finish_reason, whole.usage.total_tokens) == ("Hello there", "end_turn", 12)
        reply = await streamed(client.chat("Hi"))
        assert (reply.content, reply.finish_reason, reply.usage.output_tokens) == ("Hello there", "end_turn", 5)
        tool = ToolDefinition(name="add", description="Adds.", parameters={"type": "object"})
        called = await streamed(client.chat("1 + 2?").tools(tool))
        assert [(call.id, call.name, call.arguments) for call in called.tool_calls] == [("c1", "add", {"a": 1, "b": 2})]
        assert called.finish_reason == "tool_use"
        with pytest.raises(AiLibError) as caught:
            await client.chat("too much").execute()
        assert (caught.value.code, caught.value.status) == ("E2001", 429)
        path, headers, body = server.asked[0]
        assert path == "/v1/chat/completions"
        assert headers["authorization"] == "Bearer test-key"
        assert (body["model"], body["max_tokens"]) == ("some-model", 9)
        assert [message["role"] for message in body["messages"]] == ["system", "user"]


# ---- formats of their own


PREDICTIONS = (
    HEAD
    + """\
payload_format: acme_style
endpoints: {chat: {path: "/models/{owner}/{model}/predictions", adapter: acme}, openai_chat: {path: /chat/completions, adapter: openai}}
parameter_mappings: {temperature: input.temperature, max_tokens: input.max_tokens, prompt: input.prompt, system_message: input.system_prompt}
response_paths: {content: output, status: status, error: error}
streaming:
  decoder: {format: sse, prefix: "data: ", done_signal: "done"}
  event_map:
    - {match: "$.event == 'output'", emit: PartialContentDelta, fields: {content: "$.data"}}
    - {match: "$.event == 'done'", emit: StreamEnd, fields: {finish_reason: end_turn}}
    - {match: "$.event == 'error'", emit: StreamError, fields: {error: "$.data"}}
  stop_condition: "$.event == 'done'"
"""
)


def predictions(request: dict[str, Any]) -> tuple[int, str, Sequence[bytes]]:
    if "messages" in request:
        return chat(request)
    if not request.get("stream"):
        return 200, "application/json", [b'{"status": "succeeded", "output": "Hello"}']
    pieces = [b"event: output\ndata: Hel\n\n", b"event: output\ndata: lo 42\n\n"]
    if request["input"]["prompt"] != "cut":
        pieces.append(b"event: done\ndata: {}\n\n")
    return 200, "text/event-stream", pieces


async def test_frames_of_plain_text_are_read_by_the_names_of_their_events(tmp_path: Path) -> None:
    async with playing(PREDICTIONS, tmp_path, predictions) as (client, server):
        ask = client.chat().model("acme/maker/some-model").system("Be brief.")
        assert (await ask.user("Hi").temperature(0.5).execute()).content == "Hello"
        assert (await streamed(ask.user("Hi"))).content == "Hello 42"  # 42 stays text, and lines keep their order
        with pytest.raises(AiLibError) as caught:
            await streamed(ask.user("cut"))
        assert caught.value.kind == "truncated"
        path, _, body = server.asked[0]
        assert path == "/v1/models/maker/some-model/predictions"
        assert body["input"] == {"prompt": "Hi", "system_prompt": "Be brief.", "temperature": 0.5}
        # The file's other chat operation speaks a format that is known: the file's own names are not that one's.
        assert (await ask.user("Hi").max_tokens(3).api("chat_completions").execute()).content == "Hello there"
        path, _, body = server.asked[-1]
        assert path == "/v1/chat/completions"
        assert "input" not in body


WRAPPED = (
    HEAD
    + """\
payload_format: openai_style
endpoints: {chat: {path: /llm/chat-completions, adapter: acme}}
parameter_mappings: {max_tokens: max_new_tokens}
response_paths: {content: "data.choices[0].message", usage: data.usage, finish_reason: "data.choices[0].finish_reason"}
streaming:
  decoder: {format: sse, prefix: "data: ", done_signal: "[DONE]"}
  frame_selector: "exists($.data.choices) || exists($.error)"
  event_map:
    - {match: "exists($.data.choices[*].delta)", emit: PartialContentDelta, fields: {content: "$.data.choices[*].delta"}}
    - {match: "exists($.data.usage)", emit: Metadata, fields: {usage: "$.data.usage"}}
    - {match: "exists($.data.choices[*].finish_reason)", emit: FinalCandidate, fields: {finish_reason: "$.data.choices[*].finish_reason"}}
"""
)


def wrapped(request: dict[str, Any]) -> tuple[int, str, Sequence[bytes]]:
    if not request.get("stream"):
        body = {"data": {"choices": [{"message": "Hello", "finish_reason": "stop"}], "usage": USAGE}}
        return 200, "application/json", [json.dumps(body).encode()]
    first, last = {"index": 0, "delta": "Hel"}, {"index": 0, "delta": "lo", "finish_reason": "stop"}
    frames = [{"data": {"choices": [first]}}, {"data": {"choices": [last], "usage": USAGE}}, "[DONE]"]
    return 200, "text/event-stream", [sse(*frames)]


async def test_a_known_format_inside_another_field_is_read_where_the_file_says(tmp_path: Path) -> None:
    async with playing(WRAPPED, tmp_path, wrapped) as (client, server):
        for reply in (await client.chat("Hi").max_tokens(3).execute(), await streamed(client.chat("Hi"))):
            assert (reply.content, reply.finish_reason, reply.usage.total_tokens) == ("Hello", "end_turn", 12)
        assert server.asked[0][0] == "/v1/llm/chat-completions"
        assert server.asked[0][2]["max_new_tokens"] == 3
