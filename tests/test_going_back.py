"""What a reply has beyond the standard goes back with it: sealed reasoning of an aggregator, calls of custom tools."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ai_lib_trio.pipeline import compile_decoder
from ai_lib_trio.types.message import Message
from ai_lib_trio.types.request import Request
from ai_lib_trio.types.response import ChatResponse, fold
from encode_cases import catalog, provider_encoder

DETAILS: list[dict[str, Any]] = [
    {"type": "reasoning.summary", "summary": "**Look**", "format": "f-1", "index": 0},
    {"type": "reasoning.encrypted", "data": "gAAAA", "id": "rs_1", "format": "f-1", "index": 0},
    {"type": "reasoning.text", "text": "Look it up.", "signature": "sig", "index": 1},
]


def read(provider: str, api: str | None, data: bytes, *, stream: bool) -> ChatResponse:
    family = catalog().provider(provider).family(api)
    program = compile_decoder(family.decode, family.where.at("decode"))
    kind = "text/event-stream" if stream else "application/json"
    replies = []
    for backend in ("view", "generic"):
        pipeline = program.open(content_type=kind, streamed=stream, backend=backend)
        replies.append(fold([*pipeline.feed(data), *pipeline.finish()]))
    assert replies[0].blocks == replies[1].blocks
    return replies[0]


def sent_back(provider: str, api: str | None, reply: ChatResponse, dialect: str, *more: Message) -> Any:
    answer = Message("assistant", reply.blocks, dialect=dialect)
    request = Request(model="m", messages=(Message.user("Hi"), answer, *more))
    return json.loads(provider_encoder(provider, api).encode(request).body)


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    return (
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}).encode() + b"\n\n"
    )


@pytest.mark.parametrize("stream", [True, False])
def test_an_aggregators_reasoning_goes_back_with_its_seals_and_counts_once(stream: bool) -> None:
    if stream:
        signed = {key: value for key, value in DETAILS[2].items() if key != "signature"}
        data = (
            chunk(reasoning="**Look**", reasoning_details=[DETAILS[0]])
            + chunk(reasoning="Look ", reasoning_details=[{**signed, "text": "Look "}])
            + chunk(reasoning="it up.", reasoning_details=[{**signed, "text": "it up."}])
            + chunk(reasoning_details=[DETAILS[1], {"type": "reasoning.text", "signature": "sig", "index": 1}])
            + chunk(content="15 degrees")
            + chunk("stop")
        )
    else:
        message = {"content": "15 degrees", "reasoning": "**Look**Look it up.", "reasoning_details": DETAILS}
        data = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
    reply = read("openrouter", None, data, stream=stream)
    assert (reply.content, reply.thinking) == ("15 degrees", "**Look**Look it up.")
    wire = sent_back("openrouter", None, reply, "chat_completions")["messages"][1]
    assert sorted(wire.pop("reasoning_details"), key=str) == sorted(DETAILS, key=str)
    assert wire == {"role": "assistant", "content": "15 degrees", "reasoning": "**Look**Look it up."}
    # Another provider of the same wire has no place for it, and takes the rest.
    assert sent_back("groq", None, reply, "chat_completions")["messages"][1]["content"] == "15 degrees"


@pytest.mark.parametrize("stream", [True, False])
def test_a_call_of_a_custom_tool_goes_back_as_one(stream: bool) -> None:
    call = {"type": "custom_tool_call", "id": "ct_1", "call_id": "c1", "name": "run", "input": "print('hi')"}
    plain = {"type": "function_call", "id": "fc_1", "call_id": "c2", "name": "f", "arguments": "{}"}
    end = {"id": "r", "status": "completed", "output": [call, plain]}
    if stream:
        frames = [
            *(
                {"type": "response.output_item.added", "output_index": at, "item": {**item, "input": ""}}
                for at, item in enumerate([call])
            ),
            {"type": "response.custom_tool_call_input.delta", "output_index": 0, "delta": "print('hi')"},
            {"type": "response.output_item.done", "output_index": 0, "item": call},
            {"type": "response.output_item.done", "output_index": 1, "item": plain},
            {"type": "response.completed", "response": end},
        ]
        data = b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames)
    else:
        data = json.dumps(end).encode()
    reply = read("openai", "responses", data, stream=stream)
    assert [(found.name, found.arguments) for found in reply.tool_calls] == [("run", "print('hi')"), ("f", {})]
    results = (Message.tool("c1", "hi"), Message.tool("c2", "done"))
    items = sent_back("openai", "responses", reply, "responses", *results)["input"][1:]
    assert items == [
        call,
        plain,
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "hi"},
        {"type": "function_call_output", "call_id": "c2", "output": "done"},
    ]
