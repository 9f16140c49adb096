"""One script, five dialects, streamed and whole: each is read back as what the script says."""

from __future__ import annotations

from typing import Any

import pytest

from ai_lib_trio.errors import CallerError
from ai_lib_trio.simulator import (
    Error,
    Finish,
    Native,
    Refusal,
    Script,
    Status,
    Text,
    Thinking,
    ToolCall,
    Usage,
    open_simulator,
)
from ai_lib_trio.types.events import StreamError
from ai_lib_trio.types.message import ThinkingBlock
from ai_lib_trio.types.response import ChatResponse, fold
from simulator_support import DIALECTS, WHOLE, ask, asking, catalog, decoder, events_of, request


async def told(dialect: str, script: Script, *, stream: bool, step: int = 0, **fields: Any) -> ChatResponse:
    """What a client makes of a script in a dialect."""
    async with open_simulator(catalog(), script) as sim:
        reply = await ask(sim, asking(dialect, request(stream=stream, **fields)))
    assert reply.status == 200
    events = events_of(dialect, reply.body, content_type=reply.headers["content-type"], streamed=stream, step=step)
    assert not [event for event in events if isinstance(event, StreamError)]
    return fold(events)


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_script_comes_back_whole(dialect: str, stream: bool, step: int) -> None:
    response = await told(dialect, WHOLE, stream=stream, step=step)
    assert response.thinking == "Zuerst überlege ich, dann 日本."
    assert response.content == "It is sunny in 東京, and warm."
    assert [(call.id, call.name, call.arguments) for call in response.tool_calls] == [
        ("call_a", "get_weather", {"city": "Paris", "unit": "°C"}),
        ("call_b", "get_time", {}),
    ]
    assert response.finish_reason == "tool_use"
    usage = response.usage
    assert (usage.input_tokens, usage.output_tokens) == (40, 25)
    if dialect != "ollama_chat":  # that wire reports two numbers
        assert (usage.cached_tokens, usage.reasoning_tokens, usage.total_tokens) == (10, 7, 65)
    assert response.model == "m-1"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", ["responses", "messages", "generate_content"])
async def test_a_seal_comes_back_where_the_dialect_has_one(dialect: str, stream: bool) -> None:
    response = await told(dialect, WHOLE, stream=stream)
    # A stream may bring it in a part of its own, after the words.
    thinking = [block for block in response.blocks if isinstance(block, ThinkingBlock)]
    seals = [block.encrypted if dialect == "responses" else block.signature for block in thinking]
    assert "c2lnbmF0dXJl" in seals


@pytest.mark.parametrize("dialect", ["responses", "messages"])
async def test_sealed_reasoning_without_a_word_comes_back(dialect: str) -> None:
    for stream in (True, False):
        script = Script(steps=[Thinking(encrypted="c2VhbGVk", id="rs_1"), Text("Done.")])
        response = await told(dialect, script, stream=stream)
        assert response.blocks[0].encrypted == "c2VhbGVk"
        assert response.content == "Done."


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", ["chat_completions", "responses"])
async def test_a_refusal_is_told_from_text(dialect: str, stream: bool) -> None:
    script = Script(steps=[Refusal("I will not say."), Finish("refusal")])
    response = await told(dialect, script, stream=stream)
    assert (response.refusal, response.content, response.finish_reason) == ("I will not say.", "", "refusal")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", ["chat_completions", "generate_content"])
async def test_several_candidates_stay_apart(dialect: str, stream: bool) -> None:
    script = Script(
        steps=[
            Text("one"),
            Text("two", candidate=1),
            ToolCall("f", {"x": 1}, id="c", candidate=1),
            Finish("max_tokens"),
        ]
    )
    response = await told(dialect, script, stream=stream, n=2)
    assert [candidate.content for candidate in response.candidates] == ["one", "two"]
    assert [candidate.finish_reason for candidate in response.candidates] == ["max_tokens", "tool_use"]
    assert response.candidates[1].tool_calls[0].arguments == {"x": 1}


@pytest.mark.parametrize(
    ("dialect", "reason"),
    [
        *((dialect, reason) for dialect in DIALECTS for reason in ("end_turn", "max_tokens")),
        ("messages", "stop_sequence"),
        ("messages", "pause_turn"),
        *((dialect, "refusal") for dialect in DIALECTS if dialect != "ollama_chat"),
    ],
)
async def test_a_finish_reason_comes_back_in_standard_words(dialect: str, reason: Any) -> None:
    for stream in (True, False):
        script = Script(steps=[Text("so far"), Finish(reason)])
        response = await told(dialect, script, stream=stream)
        assert response.finish_reason == reason


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_without_usage_none_is_reported(dialect: str) -> None:
    for stream in (True, False):
        response = await told(dialect, Script(steps=[Text("hello")]), stream=stream)
        assert response.usage.input_tokens is None
        assert response.usage.output_tokens is None


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_calls_without_a_given_id_differ(dialect: str) -> None:
    for stream in (True, False):
        response = await told(dialect, Script(steps=[ToolCall("f"), ToolCall("f")]), stream=stream)
        assert len({call.id for call in response.tool_calls}) == 2


async def test_usage_is_left_out_where_the_request_did_not_ask() -> None:
    body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "Hi"}]}'
    head = f"POST /chat_completions/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    async with open_simulator(catalog(), WHOLE) as sim:
        reply = await ask(sim, head.encode() + body)
    assert b"usage" not in reply.body
    assert reply.body.endswith(b"data: [DONE]\n\n")


async def test_a_stream_without_sse_is_one_json_array() -> None:
    body = b'{"contents": [{"parts": [{"text": "Hi"}]}]}'
    path = "/generate_content/models/m:streamGenerateContent"
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    async with open_simulator(catalog(), WHOLE) as sim:
        reply = await ask(sim, head.encode() + body)
    assert reply.headers["content-type"] == "application/json"
    assert isinstance(reply.json, list)
    response = fold(events_of("generate_content", reply.body, content_type="application/json", streamed=True))
    assert response.content == "It is sunny in 東京, and warm."


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_error_inside_a_stream_is_the_providers_error(dialect: str) -> None:
    script = Script(steps=[Text("so far"), Error("the model fell over", code="overloaded", status=503)])
    async with open_simulator(catalog(), script) as sim:
        reply = await ask(sim, asking(dialect, request()))
    assert reply.status == 200
    events = events_of(dialect, reply.body, content_type=reply.headers["content-type"], streamed=True)
    fault = events[-1]
    assert isinstance(fault, StreamError)
    assert (fault.kind, fault.message) == ("provider", "the model fell over")
    assert fold(events).content == "so far"


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_error_in_a_whole_reply_is_its_status(dialect: str) -> None:
    script = Script(steps=[Error("the model fell over", status=503)])
    async with open_simulator(catalog(), script) as sim:
        reply = await ask(sim, asking(dialect, request(stream=False)))
    assert reply.status == 503
    assert decoder(dialect).read_error(503, reply.headers, reply.body).message == "the model fell over"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 503, 529])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_error_status_has_the_dialects_own_body(dialect: str, status: int) -> None:
    async with open_simulator(catalog(), Status(status, "no more of this", retry_after=1.5)) as sim:
        reply = await ask(sim, asking(dialect, request()))
    assert (reply.status, reply.headers["retry-after"]) == (status, "1.5")
    said = decoder(dialect).read_error(status, reply.headers, reply.body)
    assert (said.status, said.message) == (status, "no more of this")
    if dialect != "ollama_chat":  # that wire has no codes
        assert said.code or said.type


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_frame_of_ones_own_goes_out_as_it_is(dialect: str) -> None:
    script = Script(steps=[Text("a"), Native({"type": "x-unknown", "n": 1}), Text("b"), Usage(input_tokens=1)])
    async with open_simulator(catalog(), script) as sim:
        reply = await ask(sim, asking(dialect, request()))
    assert b"x-unknown" in reply.body
    response = fold(events_of(dialect, reply.body, content_type=reply.headers["content-type"], streamed=True))
    assert response.content == "ab"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("step", "said"), [(Refusal("no"), "no frames for refusal"), (Text("b", candidate=1), "one candidate")]
)
async def test_what_a_dialect_cannot_say_is_an_error_and_not_silence(step: Any, said: str, stream: bool) -> None:
    with pytest.raises(CallerError, match=said):
        async with open_simulator(catalog(), Script(steps=[Text("a"), step])) as sim:
            await ask(sim, asking("messages", request(stream=stream)))
