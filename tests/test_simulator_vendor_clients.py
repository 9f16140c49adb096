"""The vendors' own clients, where they are installed, take the simulator for the vendor."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import trio

from ai_lib_trio.simulator import open_simulator
from simulator_support import WHOLE, catalog

SAID = "It is sunny in 東京, and warm."
MESSAGES: Any = [{"role": "user", "content": "Hi"}]

# Foreign code: its warnings are not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore")


Opened = Callable[[Any], Any]


def needs(module: str) -> Any:
    """For a test of the vendor's client that this module is."""
    try:
        is_there = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor what it would be in
        is_there = False
    return pytest.mark.skipif(not is_there, reason=f"{module} is not installed")


async def against(provider: str, use: Callable[[str, Opened], None]) -> None:
    """Run a client that blocks, in a thread, against the simulator; every request has to be taken."""
    with ExitStack() as stack:

        def opened(client: Any) -> Any:
            """The client, which is closed at the end of the test."""
            stack.callback(client.close if hasattr(client, "close") else client._client.close)
            return client

        await _against(provider, use, opened)


async def _against(provider: str, use: Callable[[str, Opened], None], opened: Opened) -> None:
    async with open_simulator(catalog(), WHOLE) as sim:
        await trio.to_thread.run_sync(use, sim.base_url(provider), opened)
        assert [entry.refused for entry in sim.entries] == [None] * len(sim.entries)
        assert {entry.status for entry in sim.entries} == {200}


@needs("openai")
async def test_the_openai_client_reads_chat_completions() -> None:
    openai = importlib.import_module("openai")

    def use(base_url: str, opened: Opened) -> None:
        client = opened(openai.OpenAI(base_url=base_url, api_key="sk-test", max_retries=0))
        reply = client.chat.completions.create(model="m", messages=MESSAGES)
        assert reply.choices[0].message.content == SAID
        assert [call.function.name for call in reply.choices[0].message.tool_calls] == ["get_weather", "get_time"]
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (40, 25)
        with client.chat.completions.stream(model="m", messages=MESSAGES) as stream:
            stream.until_done()
            final = stream.get_final_completion()
        assert final.choices[0].message.content == SAID
        assert [call.id for call in final.choices[0].message.tool_calls] == ["call_a", "call_b"]
        assert final.choices[0].finish_reason == "tool_calls"

    await against("openai", use)


@needs("openai")
async def test_the_openai_client_reads_responses_and_sends_them_back() -> None:
    openai = importlib.import_module("openai")

    def use(base_url: str, opened: Opened) -> None:
        client = opened(openai.OpenAI(base_url=base_url, api_key="sk-test", max_retries=0))
        assert client.responses.create(model="m", input="Hi").output_text == SAID
        with client.responses.stream(model="m", input="Hi") as stream:
            stream.until_done()
            final = stream.get_final_response()
        assert final.output_text == SAID
        assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call"]
        assert final.usage.total_tokens == 65
        outputs = [{"type": "function_call_output", "call_id": name, "output": "fine"} for name in ("call_a", "call_b")]
        back = [item.model_dump(exclude_none=True) for item in final.output]
        client.responses.create(model="m", input=[*MESSAGES, *back, *outputs])

    await against("openai", use)


@needs("anthropic")
async def test_the_anthropic_client_reads_messages_and_sends_them_back() -> None:
    anthropic = importlib.import_module("anthropic")

    def use(base_url: str, opened: Opened) -> None:
        client = opened(anthropic.Anthropic(base_url=base_url, api_key="sk-test", max_retries=0))
        reply = client.messages.create(model="m", max_tokens=99, messages=MESSAGES)
        assert [block.type for block in reply.content] == ["thinking", "text", "tool_use", "tool_use"]
        with client.messages.stream(model="m", max_tokens=99, messages=MESSAGES) as stream:
            final = stream.get_final_message()
        assert final.content[0].signature == "c2lnbmF0dXJl"
        assert final.content[1].text == SAID
        assert final.content[2].input == {"city": "Paris", "unit": "°C"}
        assert (final.stop_reason, final.usage.output_tokens) == ("tool_use", 25)
        results = [{"type": "tool_result", "tool_use_id": name, "content": "fine"} for name in ("call_a", "call_b")]
        turns = [*MESSAGES, {"role": "assistant", "content": final.content}, {"role": "user", "content": results}]
        client.messages.create(model="m", max_tokens=99, messages=turns)

    await against("anthropic", use)


@needs("google.genai")
async def test_the_google_client_reads_generate_content() -> None:
    genai = importlib.import_module("google.genai")

    def use(base_url: str, opened: Opened) -> None:
        client = opened(genai.Client(api_key="test-key", http_options={"base_url": base_url}))
        tools = [{"function_declarations": [{"name": "f", "parameters_json_schema": {"type": "object"}}]}]
        reply = client.models.generate_content(model="m", contents="Hi", config={"tools": tools, "temperature": 0.5})
        assert reply.usage_metadata.total_token_count == 65
        assert [call.name for call in reply.function_calls] == ["get_weather", "get_time"]
        pieces = list(client.models.generate_content_stream(model="m", contents="Hi"))
        parts = [part for piece in pieces for part in piece.candidates[0].content.parts]
        assert "".join(part.text for part in parts if part.text and not part.thought) == SAID
        assert pieces[-1].candidates[0].finish_reason.name == "STOP"

    await against("gemini", use)


@needs("ollama")
async def test_the_ollama_client_reads_its_chat() -> None:
    ollama = importlib.import_module("ollama")

    def use(base_url: str, opened: Opened) -> None:
        client = opened(ollama.Client(host=base_url))
        reply = client.chat(model="m", messages=MESSAGES)
        assert (reply.message.content, reply.done_reason, reply.eval_count) == (SAID, "stop", 25)
        assert [call.function.name for call in reply.message.tool_calls] == ["get_weather", "get_time"]
        pieces = list(client.chat(model="m", messages=MESSAGES, stream=True))
        assert "".join(piece.message.content or "" for piece in pieces) == SAID
        assert pieces[-1].done

    await against("ollama", use)
