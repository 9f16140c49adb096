"""One script, every dialect, streamed and whole: each is read back as what the script says."""

from __future__ import annotations

from typing import Any

import msgspec
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
from ai_lib_trio.types.message import Message, ThinkingBlock
from ai_lib_trio.types.response import ChatResponse, fold
from ai_lib_trio.types.tool import ToolDefinition
from simulator_support import (
    CALLING,
    DIALECTS,
    LACKS,
    STREAMED,
    WAYS,
    WHOLE,
    ask,
    asking,
    catalog,
    decoder,
    encoder,
    events_of,
    fitting,
    model_of,
    request,
)


async def told(dialect: str, script: Script, *, stream: bool, step: int = 0, **fields: Any) -> ChatResponse:
    """What a client makes of a script in a dialect."""
    async with open_simulator(catalog(), script) as sim:
        reply = await ask(sim, asking(dialect, request(stream=stream, model=model_of(dialect), **fields)))
    assert reply.status == 200
    events = events_of(dialect, reply.body, content_type=reply.headers["content-type"], streamed=stream, step=step)
    assert not [event for event in events if isinstance(event, StreamError)]
    return fold(events)


def test_every_dialect_is_played_and_what_it_lacks_is_what_its_section_lacks() -> None:
    assert set(DIALECTS) == set(catalog().dialects())
    for dialect in DIALECTS:
        frames = catalog().dialect(dialect).simulate["frames"]
        assert ("thinking" in LACKS[dialect]) == ("thinking" not in frames), dialect
        assert ("calls" in LACKS[dialect]) == ("tool_use" not in frames), dialect
        assert ("stream" in LACKS[dialect]) == ("stream" in encoder(dialect).unplaced), dialect
        assert {"text", "error"} <= frames.keys() or "stream" in LACKS[dialect], dialect


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize(("dialect", "stream"), WAYS)
async def test_a_script_comes_back_whole(dialect: str, stream: bool, step: int) -> None:
    lacks = LACKS[dialect]
    response = await told(dialect, fitting(WHOLE, dialect), stream=stream, step=step)
    assert response.thinking == ("" if "thinking" in lacks else "Zuerst überlege ich, dann 日本.")
    assert response.content == "It is sunny in 東京, and warm."
    calls: list[Any] = [("get_weather", {"city": "Paris", "unit": "°C"}), ("get_time", {})]
    calls = [] if "calls" in lacks else calls[:1] if "one call" in lacks else calls
    assert [(call.name, call.arguments) for call in response.tool_calls] == calls
    if "ids" not in lacks:
        assert [call.id for call in response.tool_calls] == ["call_a", "call_b"][: len(calls)]
    assert response.finish_reason == ("tool_use" if calls else "end_turn")
    usage = response.usage
    assert usage.input_tokens == (None if "read" in lacks and not stream else 40)
    assert usage.output_tokens == 25
    assert usage.cached_tokens == (None if "cached" in lacks else 10)
    assert usage.reasoning_tokens == (None if "reasoning" in lacks else 7)
    assert usage.total_tokens == (None if usage.input_tokens is None else 65)
    assert response.model == (None if "model" in lacks else model_of(dialect))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", ["responses", "messages", "generate_content", "converse"])
async def test_a_seal_comes_back_where_the_dialect_has_one(dialect: str, stream: bool) -> None:
    response = await told(dialect, WHOLE, stream=stream)
    # A stream may bring it in a part of its own, after the words.
    thinking = [block for block in response.blocks if isinstance(block, ThinkingBlock)]
    seals = [block.encrypted if dialect == "responses" else block.signature for block in thinking]
    assert "c2lnbmF0dXJl" in seals


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("dialect", [dialect for dialect in CALLING if "thinking" not in LACKS[dialect]])
async def test_a_thought_that_the_script_leaves_unsealed_is_taken_back(dialect: str, stream: bool) -> None:
    wanted = request(stream=stream, model=model_of(dialect), tools=(ToolDefinition("f"),))
    async with open_simulator(catalog(), [Script(steps=[Thinking("Hm."), ToolCall("f")]), Status(503)]) as sim:
        first = await ask(sim, asking(dialect, wanted))
        found = fold(events_of(dialect, first.body, content_type=first.headers["content-type"], streamed=stream))
        call = found.tool_calls[0]
        message = msgspec.structs.replace(found.message, dialect=dialect)
        result = Message.tool(call.id, "done", tool_name=call.name)
        again = msgspec.structs.replace(wanted, messages=(*wanted.messages, message, result))
        assert (await ask(sim, asking(dialect, again))).status == 503  # the script's, and no refusal
        assert sim.entries[1].refused is None


@pytest.mark.parametrize("dialect", ["responses", "messages", "converse"])
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
        *((dialect, "end_turn") for dialect in DIALECTS),
        *(
            (dialect, reason)
            for dialect in DIALECTS
            for reason in ("max_tokens", "refusal")
            if reason not in LACKS[dialect]
        ),
        *((dialect, "stop_sequence") for dialect in ("messages", "converse", "text_generation", "wenxin_chat")),
        *((dialect, "stop_sequence") for dialect in ("cohere_v1_chat", "cohere_v2_chat")),
        ("messages", "pause_turn"),
    ],
)
async def test_a_finish_reason_comes_back_in_standard_words(dialect: str, reason: Any) -> None:
    for stream in (True, False):
        if (dialect, stream) not in WAYS:
            continue
        script = Script(steps=[Text("so far"), Finish(reason)])
        response = await told(dialect, script, stream=stream)
        assert response.finish_reason == reason


@pytest.mark.parametrize(("dialect", "stream"), WAYS)
async def test_without_usage_none_is_reported(dialect: str, stream: bool) -> None:
    response = await told(dialect, Script(steps=[Text("hello")]), stream=stream)
    assert response.usage.input_tokens is None
    assert response.usage.output_tokens is None


@pytest.mark.parametrize("dialect", [dialect for dialect in CALLING if "one call" not in LACKS[dialect]])
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


@pytest.mark.parametrize("dialect", STREAMED)
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
        reply = await ask(sim, asking(dialect, request(stream=False, model=model_of(dialect))))
    assert reply.status == 503
    assert decoder(dialect).read_error(503, reply.headers, reply.body).message == "the model fell over"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 503, 529])
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_error_status_has_the_dialects_own_body(dialect: str, status: int) -> None:
    async with open_simulator(catalog(), Status(status, "no more of this", retry_after=1.5)) as sim:
        stream = "stream" not in LACKS[dialect]
        reply = await ask(sim, asking(dialect, request(stream=stream, model=model_of(dialect))))
    assert (reply.status, reply.headers["retry-after"]) == (status, "1.5")
    said = decoder(dialect).read_error(status, reply.headers, reply.body)
    assert (said.status, said.message) == (status, "no more of this")
    if "codes" not in LACKS[dialect]:
        assert said.code or said.type


@pytest.mark.parametrize("dialect", STREAMED)
async def test_a_frame_of_ones_own_goes_out_as_it_is(dialect: str) -> None:
    script = Script(steps=[Text("a"), Native({"type": "x-unknown", "n": 1}), Text("b"), Usage(input_tokens=1)])
    async with open_simulator(catalog(), script) as sim:
        reply = await ask(sim, asking(dialect, request()))
    assert b"x-unknown" in reply.body
    response = fold(events_of(dialect, reply.body, content_type=reply.headers["content-type"], streamed=True))
    assert response.content == "ab"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("dialect", "step", "said"),
    [
        ("messages", Refusal("no"), "no frames for refusal"),
        ("messages", Text("b", candidate=1), "one candidate"),
        ("completions", ToolCall("f"), "no frames for tool_use"),
        ("wenxin_chat", ToolCall("f"), "one call in a reply"),
    ],
)
async def test_what_a_dialect_cannot_say_is_an_error_and_not_silence(
    dialect: str, step: Any, said: str, stream: bool
) -> None:
    script = Script(steps=[ToolCall("e") if dialect == "wenxin_chat" else Text("a"), step])
    with pytest.raises(CallerError, match=said):
        async with open_simulator(catalog(), script) as sim:
            await ask(sim, asking(dialect, request(stream=stream)))


def test_a_stream_that_a_wire_does_not_have_is_refused_before_it_is_sent() -> None:
    with pytest.raises(CallerError, match="`stream` has no place in the dialect predictions"):
        encoder("predictions").encode(request(model="acme/m-1"))


async def test_messages_of_a_binary_stream_name_what_they_are() -> None:
    script = Script(steps=[Text("so far"), Error("too fast", status=429)])
    async with open_simulator(catalog(), script) as sim:
        reply = await ask(sim, asking("converse", request()))
    assert reply.headers["content-type"] == "application/vnd.amazon.eventstream"
    assert b":event-type\x07\x00\x11contentBlockDelta" in reply.body
    assert b":exception-type\x07\x00\x13throttlingException" in reply.body
    fault = events_of("converse", reply.body, content_type=reply.headers["content-type"], streamed=True)[-1]
    assert isinstance(fault, StreamError)
    assert (fault.code, fault.message) == ("throttlingException", "too fast")
