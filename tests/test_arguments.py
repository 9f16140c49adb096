"""What a caller gets wrong is said where it was written, as a `CallerError`: no fault of ours, and not in silence."""

from __future__ import annotations

import asyncio
import inspect
import pydoc
from collections.abc import Callable
from typing import Any

import pytest

import ai_lib_trio
from ai_lib_trio import (
    Base64Source,
    CallerError,
    ChatRequestBuilder,
    Config,
    ImageBlock,
    Router,
    TextBlock,
    Timeouts,
    ToolDefinition,
    open_client,
)
from ai_lib_trio.simulator import open_simulator
from ai_lib_trio.testing import ScriptedTransport, json_reply

Builder = Any  # of values that are of the wrong type
HELLO = json_reply({"choices": [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}]})
STEPS: dict[str, tuple[Callable[[Builder], object], str]] = {
    "stop": (lambda chat: chat.stop(["a"]), "a stop sequence is text, got ['a']"),
    "parallel_tool_calls": (lambda chat: chat.parallel_tool_calls("yes"), "parallel_tool_calls is True or False"),
    "reasoning_effort": (lambda chat: chat.reasoning_effort(3), "reasoning_effort is text, got 3"),
    "thinking": (lambda chat: chat.thinking(True), "thinking is a mapping, got bool"),
    "metadata": (lambda chat: chat.metadata("s"), "metadata is a mapping, got str"),
    "extra": (lambda chat: chat.extra([1]), "extra is a mapping, got list"),
    "headers": (lambda chat: chat.headers("a: b"), "headers is a mapping, got str"),
    "query": (lambda chat: chat.query("a=b"), "query is a mapping, got str"),
    "model": (lambda chat: chat.model(None), "a model is text, got None"),
    "api": (lambda chat: chat.api(None), "api is text, got None"),
    "tenant": (lambda chat: chat.tenant(None), "a tenant is text, got None"),
    "fallback": (lambda chat: chat.fallback(["a/b"]), "a model is text, got ['a/b']"),
    "cancel_token": (lambda chat: chat.cancel_token("a"), "expected a CancelToken, got str"),
    "tools, their names": (lambda chat: chat.tools(ToolDefinition(3)), "a tool's name is text, got 3"),  # type: ignore[arg-type]
    "tools, their parameters": (
        lambda chat: chat.tools(ToolDefinition("f", parameters="x")),  # type: ignore[arg-type]
        "a tool's parameters is a mapping, got str",
    ),
    "response_format": (lambda chat: chat.response_format("json_schema", int), "schema is a mapping, got type"),
    "fallback, its codes": (lambda chat: chat.fallback("openai/x", on="E1004"), "on is a list of codes, got 'E1004'"),
    "timeouts": (lambda chat: chat.timeouts(idle_s="3"), "idle_s is a number of at least 0, got '3'"),
    "user, nothing": (lambda chat: chat.user(None), "content is text or a list of blocks, got NoneType"),
    "user, bytes": (lambda chat: chat.user(b"hi"), "content is text or a list of blocks, got bytes"),
    "user, one block": (lambda chat: chat.user(TextBlock("hi")), "content is text or a list of blocks, got TextBlock"),
    "tool_result": (lambda chat: chat.tool_result("id", {"a": 1}), "content is text or a list of blocks, got dict"),
}
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "timeouts": ({"timeouts": 3}, "timeouts is a Timeouts, got 3"),
    "resilience": ({"resilience": {"max_attempts": 3}}, "resilience is a Resilience"),
    "gates": ({"gates": "enforced"}, "gates is one of enforce, warn, off, got 'enforced'"),
    "transport": ({"transport": "carrier pigeon"}, "transport is auto, native, httpx, or a function"),
    "on_actor_failure": ({"on_actor_failure": "ignore"}, "on_actor_failure is one of restart, raise"),
    "sinks": ({"sinks": print}, "sinks is a tuple of callables"),
    "max_frame_bytes": ({"max_frame_bytes": "16M"}, "max_frame_bytes is a whole number of at least 1, got '16M'"),
    "reload_manifests_s": ({"reload_manifests_s": -1}, "reload_manifests_s is a number of at least 0, got -1"),
    "check_health_s": ({"check_health_s": float("nan")}, "check_health_s is a number of at least 0, got nan"),
    "base_urls": ({"base_urls": "http://a"}, "base_urls is a mapping of texts"),
    "wall_time": ({"wall_time": 12.5}, "wall_time is a function"),
}


@pytest.mark.parametrize("step", STEPS)
async def test_a_value_of_the_wrong_type_is_refused_by_the_step_that_took_it(step: str) -> None:
    take, said = STEPS[step]
    config = Config(transport=ScriptedTransport(HELLO), environ={})
    async with open_client("openai/any", api_key="k", config=config) as client:
        chat: ChatRequestBuilder = client.chat().user("hello")
        with pytest.raises(CallerError) as caught:
            take(chat)
    assert said in str(caught.value)
    assert caught.value.kind == "bad_argument"


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_of_the_wrong_type_is_refused_when_it_is_made(setting: str) -> None:
    given, said = SETTINGS[setting]
    with pytest.raises(CallerError) as caught:
        Config(**given)
    assert said in str(caught.value)


def test_a_wrong_table_of_keys_is_refused_without_showing_one() -> None:
    with pytest.raises(CallerError) as caught:
        Config(api_keys={"openai": b"sk-secret"})  # type: ignore[dict-item]
    assert "secret" not in repr(caught.value)


@pytest.mark.parametrize("given", [{"connect_s": "3"}, {"first_byte_s": None}, {"idle_s": -1.0}])
def test_a_timeout_is_a_number_of_seconds(given: dict[str, Any]) -> None:
    with pytest.raises(CallerError, match="is a number of at least 0"):
        Timeouts(**given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"config": {"seed": 1}}, "config is a Config, got dict"),
        ({"fallbacks": "openai/any"}, "fallbacks is a list of models"),
        ({"api_key": b"sk-secret"}, "api_key is text, got bytes"),
        ({"base_url": 3}, "base_url is text, got int"),
    ],
)
def test_open_client_refuses_what_it_cannot_use(given: dict[str, Any], said: str) -> None:
    with pytest.raises(CallerError) as caught:
        open_client("openai/any", **given)
    assert said in str(caught.value)
    assert "secret" not in repr(caught.value)


async def test_a_contest_and_a_sink_refuse_what_they_cannot_use() -> None:
    config = Config(transport=ScriptedTransport(HELLO), environ={})
    async with open_client("openai/any", api_key="k", config=config) as client:
        any_client: Any = client
        chat, models = client.chat("hello"), ["openai/x", "openai/y"]
        for contest, said in (
            (lambda: any_client.race("hello", models=models), "expected a request of client.chat(), got str"),
            (lambda: any_client.race(chat, models=models, until="first"), "until is first_token, first_complete or a"),
            (lambda: any_client.quorum(chat, models=models, k="2"), "k is a whole number of at least 1, got '2'"),
            (lambda: any_client.sink(3).__enter__(), "a sink is a callable, got int"),
            (lambda: Router(3), "expected a ModelArray, got int"),  # type: ignore[arg-type]
        ):
            with pytest.raises(CallerError) as caught:
                contest()
            assert said in str(caught.value)
        with pytest.raises(CallerError, match="expected values that JSON can carry"):
            await chat.response_format("json_schema", {"type": int}).execute()
        with pytest.raises(CallerError, match="expected a ModelArray, got int"):
            async with open_client(router=3):  # type: ignore[arg-type]
                pass


async def test_messages_that_are_all_empty_are_no_request() -> None:
    wire = ScriptedTransport(HELLO)
    async with open_client("openai/any", api_key="k", config=Config(transport=wire, environ={})) as client:
        for chat in (client.chat(""), client.chat().system("").user([])):
            with pytest.raises(CallerError, match="the messages are empty"):
                await chat.execute()
        assert (await client.chat().system("").user("hello").execute()).content == "hello"
    assert len(wire.asked) == 1


async def test_bytes_of_a_file_go_out_as_base64_and_nothing_else_does() -> None:
    wire = ScriptedTransport(HELLO)
    async with open_client("openai/any", api_key="k", config=Config(transport=wire, environ={})) as client:
        await client.chat().user([ImageBlock(source=Base64Source.from_bytes("image/png", b"\x89PNG"))]).execute()
        raw = ImageBlock(source=Base64Source("image/png", b"\x89PNG"))  # type: ignore[arg-type]
        with pytest.raises(CallerError, match="from_bytes encodes bytes"):
            await client.chat().user([raw]).execute()
    content = wire.asked[0].body["messages"][0]["content"]
    assert content == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}}]
    assert len(wire.asked) == 1


def test_on_another_loop_the_client_and_the_simulator_say_what_they_run_on() -> None:
    async def client() -> None:
        async with open_client("openai/any"):
            pass

    async def simulator() -> None:
        async with open_simulator():
            pass

    for program in (client, simulator):
        with pytest.raises(CallerError, match="on trio"):
            asyncio.run(program())


async def test_a_client_says_its_number_its_model_and_its_calls() -> None:
    async with open_client("openai/any", api_key="k", config=Config(environ={})) as client:
        assert repr(client) == f"<AiClient {client.number} openai/any, 0 open calls>"
    assert repr(client) == f"<AiClient {client.number} openai/any, closed>"


@pytest.mark.parametrize("name", [name for name in ai_lib_trio.__all__ if name not in ("__version__",)])
def test_help_shows_every_public_name(name: str) -> None:
    value = getattr(ai_lib_trio, name)
    assert pydoc.render_doc(value)
    if isinstance(value, type):
        assert inspect.signature(value)


def test_help_shows_the_package() -> None:
    assert "open_client" in pydoc.render_doc(ai_lib_trio)
