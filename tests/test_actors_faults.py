"""Whose fault is whose: crashes of actors, bugs of exchanges, restarts, giving up, escalation."""

from __future__ import annotations

import contextvars
import sys
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import AdmissionError, AiClient, AiLibError, InternalError
from ai_lib_trio.actors.supervisor import RESTART_PAUSE_S
from ai_lib_trio.errors import TransportError
from ai_lib_trio.testing import Head, Hold, Quiescence, ScriptedTransport, Stall, Step
from client_support import MODEL, OTHER_MODEL, Recorder, echo, prompt_of, scripted_client, streamed

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


class Crash(Exception):
    """What a broken actor raises."""


def crash(client: AiClient, provider: str = "openai", error: Exception | None = None) -> None:
    """Make the provider's actor raise in its own loop, in its next turn."""
    slot = next(slot for key, slot in client._supervisor.slots.items() if key.provider == provider)
    assert slot.actor is not None

    def fail() -> None:
        raise error or Crash("in the loop")

    slot.actor._empty_inbox = fail  # type: ignore[method-assign]
    slot.actor._wake()


async def outcome_of(client: AiClient, text: str, into: dict[str, Any], model: str = MODEL) -> None:
    try:
        into[text] = (await client.chat().user(text).model(model).execute()).content
    except AiLibError as exc:
        into[text] = exc


def stalls_when_told(request: Any) -> list[Step]:
    return [Stall()] if prompt_of(request) == "stall" else list(echo(request))


async def test_calls_of_a_crashed_actor_are_told_so_and_the_next_call_has_a_fresh_engine(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(stalls_when_told)
    async with scripted_client(transport) as client:
        said: dict[str, Any] = {}

        async def stall(whose: str) -> None:
            with pytest.raises(AdmissionError) as info:
                await client.chat().user("stall").headers({"x-whose": whose}).execute()
            error = info.value
            assert (error.kind, error.code, error.retryable, error.fallbackable) == ("actor_lost", "E3002", False, True)
            assert isinstance(error.__cause__, Crash)
            assert (error.provider, error.model) == ("openai", "a-model")
            assert error.attempts[0].outcome == "failed"
            [own] = [asked for asked in transport.asked if ("x-whose", whose) in asked.request.headers]
            assert own.ended == "cancelled"
            said[whose] = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stall, "one")
            nursery.start_soon(stall, "two")
            await wait_all_tasks_blocked()
            assert transport.open_exchanges == 2
            crash(client)
        assert said == {"one": True, "two": True}
        assert transport.open_exchanges == 0
        [actor] = client.tree().actors
        assert (actor.state, actor.crashes, actor.inflight, actor.queued) == ("restarting", 1, 0, 0)
        await outcome_of(client, "after", said)
        assert said["after"] == "you said after"
        assert [engine.is_closed for engine in transport.engines] == [True, False]
        assert client.tree().actors[0].state == "running"
    assert all(engine.is_closed for engine in transport.engines)


async def test_a_stream_of_a_crashed_actor_delivers_what_came_and_then_raises(quiescence: Quiescence) -> None:
    transport = ScriptedTransport([*streamed("one", "two")[:3], Stall()])
    async with scripted_client(transport) as client:
        got = []
        with pytest.raises(AdmissionError) as info:
            async with client.chat().user("x").stream() as events:
                async for event in events:
                    got.append(event.content)
                    if len(got) == 2:
                        crash(client)
        assert got == ["one", "two"]
        assert info.value.kind == "actor_lost"
        with pytest.raises(AdmissionError):
            events.response()
        assert events.partial().content == "onetwo"


@pytest.mark.parametrize("broken", ["pass_nowait", "offer", "ended", "learnt"])
async def test_a_bug_of_the_gate_ends_its_actor_and_never_leaves_a_caller_without_a_word(
    quiescence: Quiescence, autojump_clock: MockClock, broken: str
) -> None:
    """In whoever's task the gate was asked: the actor's, or a caller's."""
    head = {"content-type": "application/json", "x-ratelimit-remaining-requests": "5"}
    transport = ScriptedTransport(lambda request: [Head(200, head), *echo(request)[1:]])
    async with scripted_client(transport) as client:
        said: dict[str, Any] = {}
        await outcome_of(client, "first", said)
        [slot] = client._supervisor.slots.values()
        assert slot.actor is not None

        def fail(*arguments: Any) -> None:
            raise Crash(broken)

        setattr(slot.actor.gate, broken, fail)
        if broken == "offer":
            slot.actor.gate.pass_nowait = lambda ticket, now: False  # type: ignore[method-assign]
        await outcome_of(client, "second", said)
        if broken in ("pass_nowait", "offer"):
            assert (said["second"].kind, type(said["second"].__cause__)) == ("actor_lost", Crash)
        else:
            assert said["second"] == "you said second"  # its answer was there
        await wait_all_tasks_blocked()
        await outcome_of(client, "third", said)
        assert said["third"] == "you said third"
        assert client.tree().actors[0].crashes == 1


@pytest.mark.parametrize("escalates", [False, True])
async def test_an_actor_that_crashes_in_the_moment_in_which_the_client_closes_is_a_crash_like_another(
    quiescence: Quiescence, autojump_clock: MockClock, escalates: bool
) -> None:
    caught: list[BaseException] = []
    told = Recorder()
    try:
        async with scripted_client(
            ScriptedTransport(echo), sinks=(told,), on_actor_failure="raise" if escalates else "restart"
        ) as client:
            said: dict[str, Any] = {}
            await outcome_of(client, "first", said)
            [slot] = client._supervisor.slots.values()
            assert slot.actor is not None

            def fail(*arguments: Any) -> None:
                raise Crash("ended")

            slot.actor.gate.ended = fail  # type: ignore[method-assign]
            await outcome_of(client, "second", said)
    except BaseException as exc:
        caught.append(exc)
    assert said["second"] == "you said second"
    assert told.names().count("ActorRestarted") == 1
    if escalates:
        [group] = caught
        assert isinstance(group, BaseExceptionGroup)
        assert [type(one) for one in group.exceptions] == [Crash]
    else:
        assert caught == []


async def test_a_call_is_admitted_in_its_callers_turn_only_where_nobody_is_before_it(quiescence: Quiescence) -> None:
    release = trio.Event()
    transport = ScriptedTransport(lambda request: [Hold(release), *echo(request)])
    async with scripted_client(transport, max_inflight=4) as client:
        said: dict[str, Any] = {}
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(outcome_of, client, str(number), said)
            await wait_all_tasks_blocked()
            [actor] = client.tree().actors
            assert (actor.inflight, actor.queued) == (4, 2)
            assert sorted(view.call for view in actor.calls if view.phase == "connecting") == [1, 2, 3, 4]
            release.set()
        assert said == {str(number): f"you said {number}" for number in range(6)}


async def test_siblings_of_a_crashed_actor_go_on(quiescence: Quiescence) -> None:
    release = trio.Event()

    def script(request: Any) -> list[Step]:
        return [Hold(release), *echo(request)]

    async with scripted_client(ScriptedTransport(script)) as client:
        said: dict[str, Any] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, client, "mine", said)
            nursery.start_soon(outcome_of, client, "the other's", said, OTHER_MODEL)
            await wait_all_tasks_blocked()
            crash(client)
            await wait_all_tasks_blocked()
            release.set()
        assert said["mine"].kind == "actor_lost"
        assert said["the other's"] == "you said the other's"
        states = {actor.provider: actor.crashes for actor in client.tree().actors}
        assert states == {"openai": 1, "groq": 0}


async def test_jobs_that_come_while_an_actor_is_restarting_are_served(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    async with scripted_client(ScriptedTransport(echo)) as client:
        said: dict[str, Any] = {}
        await outcome_of(client, "first", said)
        crash(client)
        await wait_all_tasks_blocked()
        assert client.tree().actors[0].state == "restarting"
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, client, "a", said)
            nursery.start_soon(outcome_of, client, "b", said)
        assert said == {"first": "you said first", "a": "you said a", "b": "you said b"}
        assert 0 < trio.current_time() - began < 1


async def test_those_who_came_while_an_actor_was_restarting_are_before_whoever_comes_as_it_starts(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    async with scripted_client(ScriptedTransport(stalls_when_told), max_inflight=4) as client:
        said: dict[str, Any] = {}
        await outcome_of(client, "first", said)
        crash(client)
        await wait_all_tasks_blocked()
        [slot] = client._supervisor.slots.values()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(outcome_of, client, "stall", said)
            await wait_all_tasks_blocked()
            await trio.sleep(RESTART_PAUSE_S)
            while slot.actor is None or not slot.actor._is_waiting:
                await trio.lowlevel.checkpoint()
            nursery.start_soon(outcome_of, client, "late", said)
            await wait_all_tasks_blocked()
            [actor] = client.tree().actors
            assert [(view.call, view.phase) for view in actor.calls if view.phase == "queued"] == [(6, "queued")]
            nursery.cancel_scope.cancel()


async def test_an_engine_is_closed_though_one_of_its_exchanges_does_not_end(autojump_clock: MockClock) -> None:
    """Closing it is what ends such an exchange, too. It is counted, so quiescence is not asked."""

    class Engine:
        def __init__(self) -> None:
            self.closed = trio.Event()

        async def exchange(self, request: Any, sink: Any) -> None:
            with trio.move_on_after(60, shield=True):
                await self.closed.wait()
            raise TransportError("closed", kind="reset")

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()
            self.closed.set()

    engines: list[Engine] = []

    def factory(origin: str) -> Engine:
        engines.append(Engine())
        return engines[-1]

    said: dict[str, Any] = {}
    async with trio.open_nursery() as others:
        async with scripted_client(factory, shutdown_grace_s=0) as client:
            others.start_soon(outcome_of, client, "x", said)
            await wait_all_tasks_blocked()
        assert [engine.closed.is_set() for engine in engines] == [True]
        assert client.tree().overdue_leaves == 1
        client._supervisor.overdue_leaves = 0  # seen: quiescence of the tests that follow asks every client that lives
    assert said["x"].kind == "client_closed"


async def test_a_call_that_comes_while_the_clients_surroundings_are_cancelled_is_told_so(
    quiescence: Quiescence,
) -> None:
    """Actors are ended with what is around the client's block, and the block may go on for a while."""
    said: dict[str, Any] = {}
    async with trio.open_nursery() as others:
        with trio.CancelScope() as around:
            async with scripted_client(ScriptedTransport(echo)) as client:
                await outcome_of(client, "first", said)
                around.cancel()
                with trio.CancelScope(shield=True):
                    await wait_all_tasks_blocked()
                    others.start_soon(outcome_of, client, "late", said)
                    await wait_all_tasks_blocked()
                assert said["late"].kind == "client_closed"


async def test_more_than_three_deaths_in_a_minute_mark_the_provider_failed_and_others_go_on(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    sink = Recorder()
    async with scripted_client(ScriptedTransport(stalls_when_told), sinks=(sink,)) as client:
        said: dict[str, Any] = {}
        for number in range(4):
            await outcome_of(client, "warm up", said)
            assert said["warm up"] == "you said warm up"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outcome_of, client, "stall", said)
                await wait_all_tasks_blocked()
                crash(client)
            assert said["stall"].kind == "actor_lost"
            assert client.tree().actors[0].crashes == number + 1
            await trio.sleep(1)
        await outcome_of(client, "too late", said)
        assert (said["too late"].kind, said["too late"].code) == ("provider_failed", "E3002")
        assert client.tree().actors[0].state == "failed"
        await outcome_of(client, "other", said, OTHER_MODEL)
        assert said["other"] == "you said other"
        restarts = [record for record in sink.records if type(record).__name__ == "ActorRestarted"]
        assert [(record.deaths, record.failed) for record in restarts] == [
            (1, False),
            (2, False),
            (3, False),
            (4, True),
        ]


async def test_deaths_that_are_far_apart_do_not_add_up(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    async with scripted_client(ScriptedTransport(echo)) as client:
        said: dict[str, Any] = {}
        for _ in range(8):
            await outcome_of(client, "x", said)
            crash(client)
            await trio.sleep(21)
        await outcome_of(client, "x", said)
        assert said["x"] == "you said x"
        assert client.tree().actors[0].crashes == 8


@pytest.mark.parametrize("streams", [False, True])
async def test_a_bug_in_an_exchange_ends_that_call_and_nothing_else(quiescence: Quiescence, streams: bool) -> None:
    """An engine that raises what it must not is a bug: kind `bug`, the cause kept, the actor unharmed."""
    bug = RuntimeError("in an engine")
    release = trio.Event()

    class Engine:
        async def exchange(self, request: Any, sink: Any) -> None:
            await trio.lowlevel.checkpoint()
            if prompt_of(request) == "bug":
                raise bug
            await release.wait()
            sink.head(200, [("content-type", "application/json")])
            sink.data(echo(request)[1].chunk)  # type: ignore[union-attr]

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    async with scripted_client(lambda origin: Engine()) as client:
        said: dict[str, Any] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, client, "fine", said)
            await wait_all_tasks_blocked()
            with pytest.raises(InternalError) as info:
                if streams:
                    async with client.chat().user("bug").stream() as events:
                        async for _ in events:
                            pass
                else:
                    await client.chat().user("bug").execute()
            assert (info.value.kind, info.value.code) == ("bug", "E9999")
            assert info.value.__cause__ is bug
            assert "in an engine" not in str(info.value)
            [actor] = client.tree().actors
            assert (actor.crashes, actor.bugs, actor.inflight) == (0, 1, 1)
            release.set()
        assert said["fine"] == "you said fine"


async def test_escalation_ends_the_block_with_a_group_that_holds_the_crash(quiescence: Quiescence) -> None:
    error = Crash("seen")
    with pytest.raises(ExceptionGroup) as info:
        async with scripted_client(ScriptedTransport(echo), on_actor_failure="raise") as client:
            await client.chat().user("x").execute()
            crash(client, error=error)
            await trio.sleep_forever()
    assert info.value.exceptions == (error,)


async def test_when_the_block_and_an_actor_both_fail_the_group_holds_both(quiescence: Quiescence) -> None:
    error, mine = Crash("seen"), ValueError("mine")
    with pytest.raises(ExceptionGroup) as info:
        async with scripted_client(ScriptedTransport(echo), on_actor_failure="raise") as client:
            await client.chat().user("x").execute()
            crash(client, error=error)
            try:
                await trio.sleep_forever()
            finally:
                raise mine
    assert set(info.value.exceptions) == {error, mine}


async def test_a_cancellation_of_ours_does_not_travel_on_in_the_group(quiescence: Quiescence) -> None:
    error, mine = Crash("seen"), ValueError("mine")

    async def grumble() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise mine

    with pytest.raises(BaseExceptionGroup) as info:
        async with scripted_client(ScriptedTransport(echo), on_actor_failure="raise") as client:
            await client.chat().user("x").execute()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(grumble)
                    crash(client, error=error)
                    await trio.sleep_forever()
            except BaseExceptionGroup as group:
                raise BaseExceptionGroup("beside a cancellation", [*group.exceptions, await cancelled()]) from None
    leaves = [leaf for part in info.value.exceptions for leaf in getattr(part, "exceptions", (part,))]
    assert set(leaves) == {error, mine}


async def cancelled() -> BaseException:
    """A `Cancelled`, as a task of the block may meet one while its siblings fail."""
    try:
        await trio.sleep_forever()
    except trio.Cancelled as exc:
        return exc


async def test_a_transport_that_cannot_be_made_is_the_providers_failure_and_not_the_clients(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    def factory(origin: str) -> Any:
        raise OSError("no engine today")

    async with scripted_client(factory) as client:
        said: dict[str, Any] = {}
        kinds = []
        for _ in range(5):
            await outcome_of(client, "x", said)
            kinds.append(said["x"].kind)
            await trio.sleep(1)
        assert kinds[0] == "actor_lost"
        assert kinds[-1] == "provider_failed"


async def test_every_call_that_was_queued_is_told_its_end_exactly_once(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    sink = Recorder()
    async with scripted_client(
        ScriptedTransport(stalls_when_told), sinks=(sink,), max_inflight=2, max_queued=2
    ) as client:
        said: dict[str, Any] = {}
        await outcome_of(client, "fine", said)
        async with trio.open_nursery() as nursery:
            for _ in range(5):  # two run, two wait, one is shed
                nursery.start_soon(outcome_of, client, "stall", said)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(outcome_of, client, "stall", said)
            await wait_all_tasks_blocked()
            crash(client)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outcome_of, client, "stall", said)  # while it restarts
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        queued = sorted(record.call for record in sink.records if type(record).__name__ == "CallQueued")
        ended = sorted(record.call for record in sink.records if type(record).__name__ == "AttemptEnded")
        assert queued == ended == list(range(1, 11))
        outcomes = {record.call: (record.outcome, record.kind) for record in sink.records if hasattr(record, "outcome")}
        assert outcomes[1] == ("ok", None)
        assert sorted(outcomes[number][0] for number in range(2, 7)) == ["cancelled"] * 4 + ["failed"]
        assert {outcomes[number] for number in range(7, 10)} == {("failed", "actor_lost")}
        assert outcomes[10][0] == "cancelled"


caller = contextvars.ContextVar("caller", default="nobody")


async def test_an_actor_does_not_carry_the_context_of_whoever_called_first(quiescence: Quiescence) -> None:
    seen = []

    def sink(record: Any) -> None:
        if type(record).__name__ == "ActorRestarted":
            seen.append(caller.get())

    async with scripted_client(ScriptedTransport(echo), sinks=(sink,)) as client:

        async def first() -> None:
            caller.set("the first caller")
            await client.chat().user("x").execute()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(first)
        crash(client)
        await wait_all_tasks_blocked()
    assert seen == ["nobody"]


async def test_a_bug_in_the_actor_harms_no_other_client(quiescence: Quiescence) -> None:
    said: dict[str, Any] = {}
    async with scripted_client(ScriptedTransport(echo)) as one, scripted_client(ScriptedTransport(echo)) as two:
        await outcome_of(one, "x", said)
        await outcome_of(two, "y", said)
        crash(one)
        await wait_all_tasks_blocked()
        assert [client.tree().actors[0].crashes for client in (one, two)] == [1, 0]
