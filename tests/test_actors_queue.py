"""Admission: bounds on what runs and what waits, the order of waiting, leaving while waiting, cancel tokens."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import AiClient, AiLibError, CallerError, CancelToken, InternalError
from ai_lib_trio.testing import Hold, Quiescence, ScriptedTransport, Stall, Step
from client_support import Recorder, prompt_of, scripted_client, streamed, whole


class Gate:
    """A provider whose replies wait for `open`, and which remembers the order they were asked for in."""

    def __init__(self) -> None:
        self.open = trio.Event()
        self.order: list[str] = []

    def __call__(self, request: Any) -> list[Step]:
        self.order.append(prompt_of(request))
        return [Hold(self.open), *whole(prompt_of(request))]


async def call(client: AiClient, text: str, into: dict[str, str], deadline_s: float | None = None) -> None:
    chat = client.chat().user(text)
    if deadline_s is not None:
        chat = chat.deadline(deadline_s)
    try:
        into[text] = (await chat.execute()).content
    except AiLibError as exc:
        into[text] = exc.kind


async def test_no_more_than_max_inflight_run_and_the_rest_wait(quiescence: Quiescence) -> None:
    gate = Gate()
    transport = ScriptedTransport(gate)
    said: dict[str, str] = {}
    async with scripted_client(transport, max_inflight=3) as client:
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(call, client, str(number), said)
            await wait_all_tasks_blocked()
            assert transport.open_exchanges == 3
            [actor] = client.tree().actors
            assert (actor.inflight, actor.queued, len(actor.calls)) == (3, 7, 10)
            assert sorted({view.phase for view in actor.calls}) == ["connecting", "queued"]
            gate.open.set()
        assert said == {str(number): str(number) for number in range(10)}
        assert max_open(transport) == 3


def max_open(transport: ScriptedTransport) -> int:
    """The most exchanges that were open at one time, by the journal's order of beginnings and ends."""
    marks = [(asked.started_at, 1) for asked in transport.asked] + [(asked.ended_at, -1) for asked in transport.asked]
    most = now = 0
    for _, change in sorted(marks, key=lambda mark: (mark[0], mark[1])):
        now += change
        most = max(most, now)
    return most


async def test_over_the_bound_of_the_queue_a_call_is_shed_at_once(quiescence: Quiescence) -> None:
    gate = Gate()
    said: dict[str, str] = {}
    async with scripted_client(ScriptedTransport(gate), max_inflight=1, max_queued=2) as client:
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(call, client, str(number), said)
            await wait_all_tasks_blocked()
            assert list(said.values()) == ["shed", "shed"]
            gate.open.set()
        assert sorted(said.values()) == sorted(["shed", "shed", *gate.order])


async def test_a_burst_at_an_idle_actor_is_not_shed_while_there_are_places(quiescence: Quiescence) -> None:
    gate = Gate()
    gate.open.set()
    for inflight, queued in ((2, 0), (1, 1), (4, 2)):
        said: dict[str, str] = {}
        async with scripted_client(ScriptedTransport(gate), max_inflight=inflight, max_queued=queued) as client:
            await call(client, "warm", said)
            async with trio.open_nursery() as nursery:
                for number in range(inflight + queued):
                    nursery.start_soon(call, client, str(number), said)
        assert "shed" not in said.values()


async def test_those_who_left_the_queue_do_not_count_against_its_bound(quiescence: Quiescence) -> None:
    gate = Gate()
    said: dict[str, str] = {}
    async with scripted_client(ScriptedTransport(gate), max_inflight=1, max_queued=2) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, client, "runs", said)
            await wait_all_tasks_blocked()
            for _ in range(10):
                async with trio.open_nursery() as leaving:
                    leaving.start_soon(call, client, "leaves", said)
                    leaving.start_soon(call, client, "leaves", said)
                    await wait_all_tasks_blocked()
                    assert client.tree().actors[0].queued == 2
                    leaving.cancel_scope.cancel()
                assert client.tree().actors[0].queued == 0
            nursery.start_soon(call, client, "waits", said)
            await wait_all_tasks_blocked()
            gate.open.set()
        assert said == {"runs": "runs", "waits": "waits"}
        assert gate.order == ["runs", "waits"]


async def test_the_queue_is_served_by_deadline_and_then_by_arrival(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    gate = Gate()
    said: dict[str, str] = {}
    async with scripted_client(ScriptedTransport(gate), max_inflight=1) as client, trio.open_nursery() as nursery:
        nursery.start_soon(call, client, "first", said)
        await wait_all_tasks_blocked()
        waiting: list[tuple[str, float | None]] = [
            ("none a", None),
            ("an hour", 3600.0),
            ("a minute", 60.0),
            ("none b", None),
            ("ten seconds", 10.0),
            ("a minute too", 60.0),
        ]
        for text, deadline_s in waiting:
            nursery.start_soon(call, client, text, said, deadline_s)
            await wait_all_tasks_blocked()
        gate.open.set()
    assert gate.order == ["first", "ten seconds", "a minute", "a minute too", "none a", "none b", "an hour"]
    assert all(text == answer for text, answer in said.items())


async def test_a_deadline_that_passes_in_the_queue_starts_nothing(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    gate = Gate()
    said: dict[str, str] = {}
    async with scripted_client(ScriptedTransport(gate), max_inflight=1) as client, trio.open_nursery() as nursery:
        nursery.start_soon(call, client, "runs", said)
        await wait_all_tasks_blocked()
        nursery.start_soon(call, client, "late", said, 5.0)
        await trio.sleep(6)
        assert said == {"late": "deadline"}
        gate.open.set()
    assert gate.order == ["runs"]


async def test_a_call_that_leaves_while_it_waits_is_told_of_and_forgotten(quiescence: Quiescence) -> None:
    gate, sink, said = Gate(), Recorder(), {}
    transport = ScriptedTransport(gate)
    async with scripted_client(transport, max_inflight=1, sinks=(sink,)) as client, trio.open_nursery() as nursery:
        nursery.start_soon(call, client, "runs", said)
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with client.chat().user("waits").stream() as events:
                await wait_all_tasks_blocked()
                assert client.tree().actors[0].queued == 1
                assert str(client.tree()).count("call ") == 2
                scope.cancel()
                await events.__anext__()
        assert client.tree().actors[0].queued == 0
        gate.open.set()
    ended = {record.call: record.outcome for record in sink.records if type(record).__name__ == "CallEnded"}
    assert ended == {1: "ok", 2: "cancelled"}
    assert gate.order == ["runs"]


# ---- cancel tokens


@pytest.mark.parametrize("streams", [False, True])
async def test_a_token_cancelled_before_the_call_sends_nothing(quiescence: Quiescence, streams: bool) -> None:
    token = CancelToken()
    token.cancel("not today")
    token.cancel("second reasons do not count")
    transport = ScriptedTransport(streamed("x"))
    async with scripted_client(transport) as client:
        chat = client.chat().user("x").cancel_token(token)
        with pytest.raises(AiLibError, match="not today") as info:
            if streams:
                async with chat.stream() as events:
                    async for _ in events:
                        pass
            else:
                await chat.execute()
        assert (info.value.kind, info.value.code, info.value.retryable) == ("cancel_token", "E4002", False)
        assert transport.asked == []


@pytest.mark.parametrize("streams", [False, True])
async def test_a_token_ends_all_its_calls_from_another_thread(quiescence: Quiescence, streams: bool) -> None:
    token = CancelToken()
    transport = ScriptedTransport([*streamed("a")[:2], Stall()])
    kinds: list[str] = []

    async def run(client: AiClient) -> None:
        chat = client.chat().user("x").cancel_token(token)
        with pytest.raises(AiLibError) as info:
            if streams:
                async with chat.stream() as events:
                    async for _ in events:
                        pass
            else:
                await chat.execute()
        kinds.append(info.value.kind)

    async with scripted_client(transport) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(run, client)
            await wait_all_tasks_blocked()
            thread = threading.Thread(target=token.cancel, args=("from a thread",))
            thread.start()
            thread.join()
        assert kinds == ["cancel_token"] * 5
        assert transport.open_exchanges == 0
        assert token._scopes == {}


async def test_a_token_cancelled_after_the_call_changes_nothing(quiescence: Quiescence) -> None:
    token = CancelToken()
    async with scripted_client(ScriptedTransport(whole("x"))) as client:
        assert (await client.chat().user("x").cancel_token(token).execute()).content == "x"
        token.cancel()
        assert (await client.chat().user("x").execute()).content == "x"
    token.cancel("after the client, too")


def test_a_token_outlives_its_run() -> None:
    token = CancelToken()

    async def main() -> None:
        async with scripted_client(ScriptedTransport(whole("x"))) as client:
            await client.chat().user("x").cancel_token(token).execute()

    trio.run(main)
    token.cancel()
    assert repr(token) == "<CancelToken cancelled: 'cancelled'>"


async def test_a_bug_in_the_encoding_is_the_calls_own_end(
    quiescence: Quiescence, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = ScriptedTransport(whole("x"))
    async with scripted_client(transport) as client:
        target = await client._targets.find("openai/a-model", None)

        class Broken:
            def encode(self, request: Any) -> Any:
                raise KeyError("a bug")

        working, target.encoder = target.encoder, Broken()  # type: ignore[assignment]
        with pytest.raises(InternalError) as info:
            await client.chat().user("x").execute()
        assert isinstance(info.value.__cause__, KeyError)
        assert transport.asked == []
        target.encoder = working
        assert (await client.chat().user("x").execute()).content == "x"


async def test_what_is_wrong_with_a_request_is_said_before_anything_is_sent(quiescence: Quiescence) -> None:
    transport = ScriptedTransport(whole("x"))
    async with scripted_client(transport) as client:
        with pytest.raises(CallerError, match="no messages"):
            await client.chat().execute()
        for wrong in ("nobody/a-model", "openai/"):
            with pytest.raises(AiLibError) as info:
                await client.chat().user("x").model(wrong).execute()
            assert info.value.code in ("E1004", "E1001")
        with pytest.raises(CallerError, match="has no API"):
            await client.chat().user("x").api("nonsense").execute()
        assert transport.asked == []
        assert client.stats()["calls"] == 0
