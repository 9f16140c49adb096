"""Every bundled provider, through its own encoding, the simulator, and its own decoding."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ai_lib_trio import Config, ProviderError, open_client
from ai_lib_trio.errors import CallerError
from ai_lib_trio.pipeline import compile_decoder
from ai_lib_trio.simulator import Error, Script, Status, Text, ToolCall, open_simulator
from ai_lib_trio.types.events import PartialContentDelta, StreamError
from ai_lib_trio.types.message import Message, ThinkingBlock, ToolResultBlock, ToolUseBlock
from ai_lib_trio.types.response import fold
from ai_lib_trio.types.tool import ToolDefinition
from ai_lib_trio.wire.encode import compile_encoder
from client_support import ONE_ATTEMPT
from simulator_support import LACKS, WAYS, WHOLE, ask, catalog, fitting, http_bytes, model_of, request

# Providers that leave out of a shared dialect's replies why they ended and what was read.
SILENT = {("writer", "completions")}


def families() -> list[Any]:
    """Every family of every provider: the simulator plays all of them."""
    found = []
    for name in catalog().providers():
        for family in catalog().provider(name).families.values():
            found.append(pytest.param(name, family, id=f"{name}-{family.id}"))
    return found


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("provider", "family"), families())
async def test_a_provider_of_the_catalogue_can_be_played(provider: str, family: Any, stream: bool) -> None:
    manifest = catalog().provider(provider)
    encoder = compile_encoder(
        family.encode, family.where.at("encode"), dialect=family.dialect, parameters=manifest.parameters
    )
    decoder = compile_decoder(family.decode, family.where.at("decode"))
    lacks = LACKS[family.dialect]
    wanted = request(
        stream=stream,
        model=model_of(family.dialect),
        messages=(Message.system("Be brief."), Message.user("The weather?")),
        temperature=0.5,
        max_tokens=100,
    )
    if "tools" not in encoder.unplaced:
        weather = ToolDefinition("get_weather", "The weather", {"type": "object", "properties": {}})
        wanted = msgspec.structs.replace(wanted, tools=(weather,))
    if stream and "stream" in lacks:
        with pytest.raises(CallerError, match="`stream` has no place"):
            encoder.encode(wanted)
        return
    script = fitting(WHOLE, family.dialect)
    names = [step.name for step in script.steps if isinstance(step, ToolCall)]
    encoded = encoder.encode(wanted)
    query = "&".join(f"{key}={value}" for key, value in encoded.query)
    path = encoded.path + (f"?{query}" if query else "")
    async with open_simulator(catalog(), script) as sim:
        reply = await ask(sim, http_bytes(f"/{provider}", path, encoded.body, headers=encoded.headers))
        entry = sim.entries[0]
        assert sim.base_url(provider) == f"http://127.0.0.1:{sim.port}/{provider}"
    assert reply.status == 200, reply.body
    assert (entry.provider, entry.dialect) == (provider, family.dialect)
    assert entry.request is not None
    assert (entry.request.temperature, entry.request.max_tokens, entry.streamed) == (0.5, 100, stream)
    pipeline = decoder.open(content_type=reply.headers["content-type"], streamed=stream)
    events = [*pipeline.feed(reply.body), *pipeline.finish()]
    assert not [event for event in events if isinstance(event, StreamError)]
    response = fold(events)
    assert response.content == "It is sunny in 東京, and warm."
    assert response.thinking == ("" if "thinking" in lacks else "Zuerst überlege ich, dann 日本.")
    assert [call.name for call in response.tool_calls] == names
    if (provider, family.id) in SILENT:
        assert (response.finish_reason, response.usage.output_tokens) == ("other", None)
    else:
        assert response.finish_reason == ("tool_use" if names else "end_turn")
        read = None if "read" in lacks and not stream else 40
        assert (response.usage.input_tokens, response.usage.output_tokens) == (read, 25)
    if "tools" in encoder.unplaced:
        return

    # The next turn: the answer and the results go back, and the other side reads them as what they are.
    answer = Message("assistant", response.blocks, dialect=family.dialect)
    results = [Message.tool(call.id, f"about {call.name}") for call in response.tool_calls]
    again = encoder.encode(msgspec.structs.replace(wanted, messages=(*wanted.messages, answer, *results)))
    async with open_simulator(catalog(), script) as sim:
        reply = await ask(sim, http_bytes(f"/{provider}", path, again.body, headers=again.headers))
        entry = sim.entries[0]
    assert reply.status == 200, reply.body
    assert entry.request is not None
    blocks = [block for message in entry.request.messages for block in message.blocks]
    assert [block.name for block in blocks if isinstance(block, ToolUseBlock)] == names
    told = [Message.user(block.content).text for block in blocks if isinstance(block, ToolResultBlock)]
    assert told == [f"about {name}" for name in names]
    sent_back = b"berlege" in again.body
    assert any(isinstance(block, ThinkingBlock) and "berlege" in block.text for block in blocks) == sent_back


def one_family_of_each_dialect() -> list[Any]:
    """Provider, family, and whether it is streamed: each dialect once in each of its ways, as some provider has it."""
    found: dict[str, tuple[str, str]] = {}
    for name in catalog().providers():
        for family in catalog().provider(name).families.values():
            found.setdefault(family.dialect, (name, family.id))
    assert set(found) == set(LACKS)
    return [pytest.param(dialect, *found[dialect], stream, id=f"{dialect}-{stream}") for dialect, stream in WAYS]


@pytest.mark.parametrize(("dialect", "provider", "family", "stream"), one_family_of_each_dialect())
async def test_every_dialect_works_through_the_client(dialect: str, provider: str, family: str, stream: bool) -> None:
    script = fitting(WHOLE, dialect)
    model = f"{provider}/{model_of(dialect)}"
    async with open_simulator(catalog(), [script, Status(429, "not so fast")]) as sim:
        config = Config(
            base_urls={provider: sim.base_url(provider)},
            api_keys={provider: "the-key"},
            environ={"AWS_REGION": "eu-west-1"},
            resilience=ONE_ATTEMPT,
        )
        async with open_client(model, config=config) as client:
            chat = client.chat().system("Be brief.").user("The weather?").api(family).max_tokens(50)
            if stream:
                async with chat.stream() as events:
                    pieces = [event.content async for event in events if isinstance(event, PartialContentDelta)]
                response = events.response()
                assert len(pieces) > 1
            else:
                response = await chat.execute()
            with pytest.raises(ProviderError) as refused:
                await chat.execute()
        asked = sim.entries[0].request
    assert response.content == "It is sunny in 東京, and warm."
    assert [call.name for call in response.tool_calls] == [
        step.name for step in script.steps if isinstance(step, ToolCall)
    ]
    assert (refused.value.status, refused.value.provider_message) == (429, "not so fast")
    assert asked is not None
    assert (asked.stream, asked.max_tokens) == (stream, 50)
    assert "The weather?" in asked.messages[-1].text


async def test_a_stream_that_no_model_of_a_provider_has_is_refused_before_anything_is_sent() -> None:
    provider = next(
        name for name in catalog().providers() if "streaming" in catalog().provider(name).capabilities.absent
    )
    models = catalog().models(provider)
    assert models
    async with open_simulator(catalog()) as sim:
        config = Config(base_urls={provider: sim.base_url(provider)}, api_keys={provider: "the-key"}, environ={})
        async with open_client(f"{provider}/{models[0].model_id}", config=config) as client:
            with pytest.raises(CallerError, match="streaming") as refused:
                async with client.chat().user("Hi").stream() as events:
                    async for _ in events:
                        pass
            assert (await client.chat().user("Hi").execute()).content == "You said: Hi"
        assert refused.value.kind == "capability"
        assert len(sim.entries) == 1


async def test_an_error_stands_bare_in_a_stream_of_wrapped_frames() -> None:
    wrapped = [
        (name, family)
        for name in catalog().providers()
        for family in catalog().provider(name).families.values()
        if "wrap" in family.simulate["framing"]
    ]
    assert wrapped
    for name, family in wrapped:
        encoded = compile_encoder(family.encode, family.where.at("encode"), dialect=family.dialect).encode(request())
        script = Script(steps=[Text("so far"), Error("slow down", status=429)])
        async with open_simulator(catalog(), script) as sim:
            reply = await ask(sim, http_bytes(f"/{name}", encoded.path, encoded.body, headers=encoded.headers))
        assert b"so far" not in reply.body
        assert b'{"message":"slow down"}' in reply.body
        pipeline = compile_decoder(family.decode, family.where.at("decode")).open(
            content_type=reply.headers["content-type"]
        )
        events = [*pipeline.feed(reply.body), *pipeline.finish()]
        assert fold(events).content == "so far"
        assert isinstance(events[-1], StreamError)
        assert (events[-1].code, events[-1].message) == ("throttlingException", "slow down")
