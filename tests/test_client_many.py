"""Many calls at once, two clients at once, contexts of their own, sinks that fail, and hosts that use anyio."""

from __future__ import annotations

import contextvars
import random
from typing import Any

import anyio
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import AiClient, CallerError, PartialContentDelta, ToolCallEnded, ToolCallStarted
from ai_lib_trio.testing import Quiescence, ScriptedTransport, Stall, Step, Wait, quiescence, sse_reply
from client_support import (
    MODEL,
    OTHER_MODEL,
    Recorder,
    asked_to_stream,
    delta,
    echo,
    finish,
    prompt_of,
    scripted_client,
)

caller = contextvars.ContextVar("caller", default="nobody")


def tool_chunk(**call: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}
    return {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


def shuffled(request: Any) -> list[Step]:
    """An answer that says what was asked, in random pieces at random times, with a tool call of its own."""
    prompt = prompt_of(request)
    chance = random.Random(prompt)
    if not asked_to_stream(request):
        return [Wait(chance.random()), *echo(request)]
    text = f"you said {prompt}"
    cut = chance.randrange(1, len(text))
    arguments = f'{{"echo": "{prompt}"}}'
    frames = [
        delta(text[:cut]),
        tool_chunk(index=0, id=f"id-{prompt}", type="function", function={"name": "echo", "arguments": ""}),
        tool_chunk(index=0, function={"arguments": arguments[:5]}),
        tool_chunk(index=0, function={"arguments": arguments[5:]}),
        finish("tool_calls"),
    ]
    if chance.random() < 0.5:
        frames.insert(1, delta(text[cut:]))
    else:
        frames[0] = delta(text)
    steps = sse_reply(frames, done="[DONE]")
    for place in range(len(steps), 0, -1):
        steps.insert(place, Wait(chance.random()))
    return steps


async def check_one(client: AiClient, prompt: str, model: str = MODEL, *, streams: bool = True) -> None:
    chat = client.chat().user(prompt).model(model)
    if not streams:
        assert (await chat.execute()).content == f"you said {prompt}"
        return
    kinds: list[type] = []
    async with chat.stream() as events:
        async for event in events:
            kinds.append(type(event))
    reply = events.response()
    assert reply.content == f"you said {prompt}"
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [
        (f"id-{prompt}", "echo", {"echo": prompt})
    ]
    assert kinds.count(ToolCallStarted) == kinds.count(ToolCallEnded) == 1
    assert PartialContentDelta in kinds
    assert events.stats.attempts[0].state == "complete"


async def test_a_thousand_calls_at_once_on_one_client_never_mix(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(shuffled)
    async with scripted_client(transport) as client:
        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(lambda n=number: check_one(client, f"number {n}", streams=n % 4 != 0))
        assert client.stats() == {"calls": 1000, "open": 0, "ok": 1000, "failed": 0, "cancelled": 0}
        assert len(transport.engines) == 1
        assert trio.current_time() < 20


async def test_calls_that_begin_together_to_a_new_model_go_by_one_target(quiescence: Quiescence) -> None:
    transport = ScriptedTransport([Stall()])
    async with scripted_client(transport) as client, trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(client.chat().user("x").execute)
        await wait_all_tasks_blocked()
        assert len(transport.asked) == 10
        jobs = client._supervisor.slots.values()
        targets = {id(job.call.target) for slot in jobs for job in slot.docket.jobs()}
        assert len(targets) == 1
        nursery.cancel_scope.cancel()


async def test_two_clients_and_two_providers_at_once_never_mix(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transports = ScriptedTransport(shuffled), ScriptedTransport(shuffled)
    async with scripted_client(transports[0]) as one, scripted_client(transports[1], OTHER_MODEL) as two:
        async with trio.open_nursery() as nursery:
            for number in range(100):
                for name, client in (("one", one), ("two", two)):
                    for model in (MODEL, OTHER_MODEL):
                        nursery.start_soon(check_one, client, f"{name} {number} {model}", model)
        assert [client.stats()["ok"] for client in (one, two)] == [200, 200]
        keys = {dict(asked.request.headers)["authorization"]: asked.origin for asked in transports[0].asked}
        assert len(keys) == len(set(keys.values())) == 2
        for name, transport in zip(("one", "two"), transports, strict=True):
            assert all(prompt_of(asked.request).startswith(name) for asked in transport.asked)
            assert len(transport.engines) == 2


@pytest.mark.parametrize("streams", [False, True])
async def test_sinks_see_the_context_of_the_call_they_are_told_of(
    quiescence: Quiescence, autojump_clock: MockClock, streams: bool
) -> None:
    seen: dict[int, set[str]] = {}
    names: set[str] = set()

    def sink(record: Any) -> None:
        names.add(type(record).__name__)
        seen.setdefault(record.call, set()).add(caller.get())

    async def run(client: AiClient, name: str) -> None:
        caller.set(name)
        await check_one(client, name, streams=streams)

    block = scripted_client(ScriptedTransport(shuffled), sinks=(sink,), max_inflight=7)
    async with block as client, trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(run, client, f"caller {number}")
    assert all(len(found) == 1 for found in seen.values())
    assert {next(iter(found)) for found in seen.values()} == {f"caller {number}" for number in range(100)}
    assert {
        "CallStarted",
        "CallQueued",
        "CallAdmitted",
        "AttemptStarted",
        "FirstToken",
        "EventBatch",
        "CallEnded",
    } <= names


async def test_a_sink_that_fails_harms_no_call_and_is_counted(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    good = Recorder()

    def bad(record: Any) -> None:
        raise ZeroDivisionError

    async with scripted_client(ScriptedTransport(shuffled), sinks=(bad, good)) as client:
        await check_one(client, "x")
        assert client.tree().sink_failures == len(good.records) > 5
    assert good.names()[0] == "CallStarted"
    assert good.names()[-1] == "CallEnded"


async def test_records_tell_times_and_counts_and_no_word_of_prompt_reply_or_key(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    sink = Recorder()
    async with scripted_client(ScriptedTransport(shuffled), sinks=(sink,)) as client:
        await check_one(client, "a secret prompt")
        told = repr(sink.records) + repr(client) + repr(client.tree()) + str(client.tree())
        told += repr(client.config) + repr(list(client.config.__rich_repr__())) + repr(client.chat().user("x"))
    assert "secret prompt" not in told
    assert "test-key" not in told
    times = [record.at_s for record in sink.records]
    assert times == sorted(times)


# ---- hosts that use anyio


def test_the_client_runs_unchanged_inside_anyio() -> None:
    transport = ScriptedTransport(shuffled)
    options = {"clock": MockClock(autojump_threshold=0)}

    async def main() -> None:
        async with quiescence(), scripted_client(transport) as client:
            async with anyio.create_task_group() as group:
                for number in range(10):
                    group.start_soon(check_one, client, f"number {number}")
            with anyio.move_on_after(0.05) as scope:
                transport._scripts[:] = [[Stall()]]
                await client.chat().user("x").execute()
            assert scope.cancelled_caught
            assert transport.open_exchanges == 0
            with pytest.raises(TimeoutError):
                with anyio.fail_after(0.05):
                    async with client.chat().user("x").stream() as events:
                        await events.__anext__()
            async with anyio.create_task_group() as group:
                group.start_soon(client.chat().user("x").execute)
                await wait_all_tasks_blocked()
                assert transport.open_exchanges == 1
                group.cancel_scope.cancel()
            assert transport.open_exchanges == 0

    anyio.run(main, backend="trio", backend_options=options)


def test_under_anyios_asyncio_the_client_says_in_one_line_what_to_do() -> None:
    async def main() -> None:
        async with scripted_client(ScriptedTransport(shuffled)):
            raise AssertionError("it opened")

    with pytest.raises(CallerError) as info:
        anyio.run(main, backend="asyncio")
    assert "anyio.run(main, backend='trio')" in str(info.value)
    assert "\n" not in str(info.value)
