"""Every bundled provider, through its own encoding, the simulator, and its own decoding."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ai_lib_trio.pipeline import compile_decoder
from ai_lib_trio.simulator import open_simulator
from ai_lib_trio.types.events import StreamError
from ai_lib_trio.types.message import Message, ThinkingBlock, ToolResultBlock, ToolUseBlock
from ai_lib_trio.types.response import fold
from ai_lib_trio.types.tool import ToolDefinition
from ai_lib_trio.wire.encode import compile_encoder
from simulator_support import WHOLE, ask, catalog, http_bytes, request


def families() -> list[Any]:
    """Every family of every provider that the simulator can play."""
    found = []
    for name in catalog().providers():
        for family in catalog().provider(name).families.values():
            if family.simulate:
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
    wanted = request(
        stream=stream,
        messages=(Message.system("Be brief."), Message.user("The weather?")),
        tools=(ToolDefinition("get_weather", "The weather", {"type": "object", "properties": {}}),),
        temperature=0.5,
        max_tokens=100,
    )
    encoded = encoder.encode(wanted)
    query = "&".join(f"{key}={value}" for key, value in encoded.query)
    path = encoded.path + (f"?{query}" if query else "")
    async with open_simulator(catalog(), WHOLE) as sim:
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
    assert response.thinking == "Zuerst überlege ich, dann 日本."
    assert [call.name for call in response.tool_calls] == ["get_weather", "get_time"]
    assert response.finish_reason == "tool_use"
    assert (response.usage.input_tokens, response.usage.output_tokens) == (40, 25)

    # The next turn: the answer and the results go back, and the other side reads them as what they are.
    answer = Message("assistant", response.blocks, dialect=family.dialect)
    results = [Message.tool(call.id, f"about {call.name}") for call in response.tool_calls]
    again = encoder.encode(msgspec.structs.replace(wanted, messages=(*wanted.messages, answer, *results)))
    async with open_simulator(catalog(), WHOLE) as sim:
        reply = await ask(sim, http_bytes(f"/{provider}", path, again.body, headers=again.headers))
        entry = sim.entries[0]
    assert reply.status == 200, reply.body
    assert entry.request is not None
    blocks = [block for message in entry.request.messages for block in message.blocks]
    assert [block.name for block in blocks if isinstance(block, ToolUseBlock)] == ["get_weather", "get_time"]
    assert [block.content for block in blocks if isinstance(block, ToolResultBlock)] == [
        "about get_weather",
        "about get_time",
    ]
    sent_back = b"berlege" in again.body
    assert any(isinstance(block, ThinkingBlock) and "berlege" in block.text for block in blocks) == sent_back
