"""A program as users write it: it runs, and `mypy`, which reads this file beside `src`, sees the types in it."""

from __future__ import annotations

from ai_lib_trio import (
    AiClient,
    AiLibError,
    Base64Source,
    ChatResponse,
    Config,
    ImageBlock,
    Message,
    PartialContentDelta,
    Resilience,
    StreamingEvent,
    TextBlock,
    ToolDefinition,
    open_client,
)
from ai_lib_trio.simulator import Script, Simulator, Text, ToolCall, open_simulator


def shown(event: StreamingEvent) -> str:
    match event:
        case PartialContentDelta(content=text):
            return text
    return ""


async def answer(client: AiClient) -> ChatResponse:
    blocks = [TextBlock("What is it?"), ImageBlock(source=Base64Source.from_bytes("image/png", b"\x89PNG"))]
    chat = client.chat(Message.system("Be brief.")).user(blocks).tools(ToolDefinition("look", parameters={}))
    reply = await chat.execute()
    while reply.tool_calls:
        chat = chat.messages(reply.message)
        for call in reply.tool_calls:
            chat = chat.tool_result(call, [TextBlock(f"{call.name}: a cat")])
        reply = await chat.execute()
    return reply


async def first(client: AiClient) -> tuple[str, str]:
    text = ""
    chat = client.chat("Who is there?")
    async with client.race(chat, models=["openai/a", "openai/b"], until=lambda reply: bool(reply.content)) as race:
        async for event in race:
            text += shown(event)
    assert race.winner is not None
    return race.winner.outcome, text


async def refusal(client: AiClient) -> str:
    try:
        await client.chat().execute()
    except AiLibError as error:
        return error.code
    return ""


def config_for(sim: Simulator) -> Config:
    return Config(
        base_urls={"openai": sim.base_url("openai")},
        api_keys={"openai": "none"},
        resilience=Resilience(max_attempts=1),
        environ={},
    )


async def test_a_typed_program_runs() -> None:
    scripts = [Script(steps=[ToolCall("look")]), Script(steps=[Text("A cat.")])]
    async with open_simulator(scripts=scripts) as sim, open_client("openai/any", config=config_for(sim)) as client:
        reply = await answer(client)
        assert (reply.content, reply.finish_reason) == ("A cat.", "end_turn")
        assert await first(client) == ("won", "You said: Who is there?")
        assert await refusal(client) == "E1001"
