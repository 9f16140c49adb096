"""Cancelled at its 1st, 2nd, 3rd ... scheduling step of any task, a call leaves nothing and the next one works."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from ai_lib_trio import AiClient, AiLibError, CancelToken
from ai_lib_trio.testing import Data, Head, Quiescence, ScriptedTransport, Sending, Step, quiescence
from client_support import SSE, AtStep, delta, echo, frame, prompt_of, scripted_client

MOST_STEPS = 400  # far more than a call takes: reaching it means that the call never ends

Calling = Callable[[AiClient], Awaitable[None]]


async def execute(client: AiClient) -> None:
    assert (await client.chat().user("hello").execute()).content == "you said hello"


async def read_a_stream(client: AiClient) -> None:
    async with client.chat().user("hello").stream() as events:
        assert "".join([event.content async for event in events if hasattr(event, "content")]) == "you said hello"
    assert events.response().content == "you said hello"


async def read_without_a_block(client: AiClient) -> None:
    events = client.chat().user("hello").stream()
    assert "".join([event.content async for event in events if hasattr(event, "content")]) == "you said hello"


async def leave_a_stream_early(client: AiClient) -> None:
    async with client.chat().user("hello").stream() as events:
        await events.__anext__()


async def read_slowly(client: AiClient) -> None:
    async with client.chat().user("hello").stream() as events:
        async for _ in events:
            for _ in range(3):
                await trio.lowlevel.checkpoint()


async def execute_within_a_deadline(client: AiClient) -> None:
    await client.chat().user("hello").deadline(1000).cancel_token(CancelToken()).execute()


async def be_refused(client: AiClient) -> None:
    with pytest.raises(AiLibError):
        await client.chat().user("refuse").execute()


def script(request: Any) -> list[Step]:
    if prompt_of(request) == "refuse":
        return [
            Sending(),
            Head(429, {"content-type": "application/json"}),
            Data(b'{"error": '),
            Data(b'{"message": "no"}}'),
        ]
    steps = list(echo(request))
    return [Sending(), *steps]


WAYS: list[Calling] = [
    execute,
    read_a_stream,
    read_without_a_block,
    leave_a_stream_early,
    read_slowly,
    execute_within_a_deadline,
    be_refused,
]


async def run_cancelled(client: AiClient, way: Calling, number: int) -> bool:
    """Run the call, cancelled at that step. Whether that step was reached."""
    scope = trio.CancelScope()
    instrument = AtStep(number, scope.cancel)
    trio.lowlevel.add_instrument(instrument)
    try:
        with scope:
            await way(client)
    finally:
        trio.lowlevel.remove_instrument(instrument)
    return instrument.steps >= number


def assert_empty(client: AiClient, transport: ScriptedTransport) -> None:
    tree = client.tree()
    assert transport.open_exchanges == 0
    assert tree.open_calls == 0
    assert tree.overdue_leaves == 0
    assert [(actor.inflight, actor.queued, actor.calls, actor.bugs, actor.crashes) for actor in tree.actors] in (
        [],
        [(0, 0, (), 0, 0)],
    )


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_cancelled_at_any_step_on_a_running_client_nothing_is_left_and_the_next_call_works(way: Calling) -> None:
    async def main() -> int:
        transport = ScriptedTransport(script)
        async with quiescence(), scripted_client(transport) as client:
            await execute(client)
            before = Census(client)
            for number in range(1, MOST_STEPS):
                was_reached = await run_cancelled(client, way, number)
                assert_empty(client, transport)
                before.check(number)
                if not was_reached:
                    break
                if number % 5 == 0 or number < 12:
                    await execute(client)
            await execute(client)
            return number

    assert 5 <= trio.run(main) < MOST_STEPS - 1  # a call that executes has four: connecting, sending, two reads


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_cancelled_at_any_step_of_a_clients_whole_life_nothing_is_left(way: Calling) -> None:
    """Opening, the actor's start, the call, the leaving: all of it between the two counts."""

    async def main() -> int:
        for number in range(1, MOST_STEPS):
            transport = ScriptedTransport(script)

            async def life(_: Any, transport: ScriptedTransport = transport) -> None:
                async with scripted_client(transport) as client:
                    await way(client)

            async with quiescence():
                was_reached = await run_cancelled(None, life, number)  # type: ignore[arg-type]
            assert transport.open_exchanges == 0
            assert all(engine.is_closed for engine in transport.engines)
            if not was_reached:
                return number
        return MOST_STEPS

    assert 5 <= trio.run(main) < MOST_STEPS - 1


@pytest.mark.parametrize("way", [execute, read_a_stream], ids=lambda way: way.__name__)
def test_a_cancel_token_at_any_step_ends_the_call_as_its_own_error_or_not_at_all(way: Calling) -> None:
    async def main() -> None:
        transport = ScriptedTransport(script)
        outcomes = set()
        async with quiescence(), scripted_client(transport) as client:
            await execute(client)
            for number in range(1, MOST_STEPS):
                token = CancelToken()
                instrument = AtStep(number, token.cancel)
                trio.lowlevel.add_instrument(instrument)
                try:
                    chat = client.chat().user("hello").cancel_token(token)
                    if way is execute:
                        await chat.execute()
                    else:
                        async with chat.stream() as events:
                            async for _ in events:
                                pass
                    outcomes.add("done")
                except AiLibError as exc:
                    outcomes.add(exc.kind)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
                assert_empty(client, transport)
                if instrument.steps < number:
                    break
            await execute(client)
        assert outcomes == {"done", "cancel_token"}
        assert number < MOST_STEPS - 1

    trio.run(main)


async def test_cancelled_at_any_step_a_call_beside_it_goes_on(quiescence: Quiescence) -> None:
    async with scripted_client(ScriptedTransport(script)) as client:
        for number in range(1, MOST_STEPS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(execute, client)
                was_reached = await run_cancelled(client, read_a_stream, number)
            if not was_reached:
                return
    raise AssertionError("never ended")


async def test_a_fault_and_a_cancellation_at_one_instant_give_one_of_the_two(quiescence: Quiescence) -> None:
    """A provider's fault and the caller's cancellation at one instant: either comes out, alone."""
    broken = [Head(200, SSE), Data(frame(delta("one"))), Data(b"data: {nonsense\n\n")]
    transport = ScriptedTransport(broken)
    async with scripted_client(transport) as client:
        for number in range(1, 60):
            scope = trio.CancelScope()
            instrument = AtStep(number, scope.cancel)
            trio.lowlevel.add_instrument(instrument)
            seen: BaseException | None = None
            try:
                with scope:
                    async with client.chat().user("x").stream() as events:
                        async for _ in events:
                            pass
            except BaseException as exc:
                seen = exc
            finally:
                trio.lowlevel.remove_instrument(instrument)
            assert scope.cancelled_caught or (isinstance(seen, AiLibError) and seen.kind == "unreadable_frame")
            assert transport.open_exchanges == 0


class Census:
    """The tasks under a client, beside which no new one may stay."""

    def __init__(self, client: AiClient) -> None:
        self.client = client
        self.tasks = self._tasks()

    def _tasks(self) -> set[str]:
        found = set()
        pending = list(self.client._nursery.child_tasks)
        while pending:
            task = pending.pop()
            found.add(task.name)
            for nursery in task.child_nurseries:
                pending.extend(nursery.child_tasks)
        return found

    def check(self, number: int) -> None:
        assert self._tasks() == self.tasks, f"cancelled at step {number}"


async def cancelled_before(client: AiClient) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.chat().user("hello").execute()
    assert scope.cancelled_caught


async def stopped_before(client: AiClient) -> None:
    token = CancelToken()
    token.cancel("gone")
    with pytest.raises(AiLibError, match="gone") as info:
        await client.chat().user("hello").cancel_token(token).execute()
    assert info.value.kind == "cancel_token"


async def too_late_before(client: AiClient) -> None:
    with pytest.raises(AiLibError) as info:
        await client.chat().user("hello").deadline(0).execute()
    assert info.value.kind == "deadline"


@pytest.mark.parametrize("way", [cancelled_before, stopped_before, too_late_before], ids=lambda way: way.__name__)
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_call_that_was_over_before_it_began_sends_nothing(
    quiescence: Quiescence, way: Calling, is_first: bool
) -> None:
    """Both where its actor has yet to start and where it could have taken the call at once."""
    transport = ScriptedTransport(script)
    async with scripted_client(transport) as client:
        if not is_first:
            await execute(client)
        for _ in range(20):
            await way(client)
        assert len(transport.asked) == (not is_first)
        assert_empty(client, transport)
