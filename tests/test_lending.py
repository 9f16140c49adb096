"""A stream that its reader reads by itself: the limits on time, its end, and who reads when, on real sockets."""

from __future__ import annotations

import contextlib
import contextvars
import signal
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import (
    AdmissionError,
    AiLibError,
    CancelToken,
    ChatStream,
    Config,
    PartialContentDelta,
    StreamEnd,
    TransportError,
    open_client,
)
from ai_lib_trio.testing import Quiescence
from ai_lib_trio.transport.hub import Hub
from client_support import MODEL, ONE_ATTEMPT, delta, finish, frame
from raw_server import Connection, RawServer, chunk, chunked, raw_server

DONE = [frame(finish()), frame("[DONE]")]


class Wire:
    """A server that sends to all its connections what a test tells it to."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []

    async def __call__(self, connection: Connection) -> None:
        while await connection.request() is not None:
            await connection.send(chunked(frame(delta("first ")), end=False))
            if connection not in self.connections:
                self.connections.append(connection)

    async def send(self, *pieces: bytes) -> None:
        for connection in self.connections:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):  # who has left
                await connection.send(b"".join(map(chunk, pieces)))

    async def end(self) -> None:
        await self.send(*DONE)
        for connection in self.connections:
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await connection.send(b"0\r\n\r\n")


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[tuple[Any, Wire, RawServer]]:
    """A client of the native engine, and the server that it calls."""
    wire = Wire()
    config = Config(**{"environ": {}, "resilience": ONE_ATTEMPT, "transport": "native", **settings})
    async with (
        raw_server(wire) as server,
        open_client(MODEL, base_url=server.url, api_key="k", config=config) as client,
    ):
        yield client, wire, server


async def first_of(events: ChatStream) -> None:
    """Read up to the first text; the stream's next events are its reader's to read."""
    async for event in events:
        if isinstance(event, PartialContentDelta):
            return


async def rest_of(events: ChatStream) -> str:
    async for _ in events:
        pass
    return str(events.response().content)


async def give_up_a_wait(events: ChatStream) -> None:
    """Wait for an event, and be cancelled."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(events.__anext__)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


class Steps(trio.abc.Instrument):
    """The names of the tasks that ran."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.names.append(task.name)


async def ten_events(wire: Wire, events: ChatStream) -> list[str]:
    """Have ten events read that come one by one; gives the tasks that ran for them."""
    steps = Steps()

    async def read() -> None:
        for _ in range(10):
            await events.__anext__()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, name="the reader")
        await wait_all_tasks_blocked()
        trio.lowlevel.add_instrument(steps)
        try:
            for _ in range(10):
                await wire.send(frame(delta("x")))
                await wait_all_tasks_blocked()
        finally:
            trio.lowlevel.remove_instrument(steps)
    return steps.names


async def test_an_event_wakes_its_reader_and_no_other_task(quiescence: Quiescence) -> None:
    async with opened() as (client, wire, _), client.chat("x").stream() as events:
        await first_of(events)
        names = await ten_events(wire, events)
        tasks = [task.name for task in client._nursery.child_tasks]
        assert names.count("the reader") == 10
        assert tasks
        assert not set(names) & set(tasks)
        await wire.end()
        assert await rest_of(events) == "first " + "x" * 10


async def test_a_race_lends_its_winner(quiescence: Quiescence) -> None:
    async with (
        opened() as (client, wire, _),
        client.race(client.chat("x"), models=[MODEL], until="first_token") as race,
    ):
        await first_of(race)
        names = await ten_events(wire, race)
        assert names.count("the reader") == 10
        assert not [name for name in names if name.startswith(("call", "hub")) or "run" in name]  # nor its lane's task
        await wire.end()
        assert await rest_of(race) == "first " + "x" * 10


@pytest.mark.skipif(not Hub.is_available(), reason="no epoll")
async def test_where_more_streams_run_the_hub_takes_over(
    quiescence: Quiescence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "few", 1)
    async with opened() as (client, wire, server):
        async with client.chat("x").stream() as one:
            await first_of(one)
            names = await ten_events(wire, one)
            assert "hub" not in names
            async with client.chat("x").stream() as two:
                await first_of(two)
                assert client._hub.streams == 2
                await ten_events(wire, one)  # the first of these is still its reader's, and gives it to the hub
                names = await ten_events(wire, one)
                assert names.count("hub") >= 10
                await wire.end()
                assert await rest_of(one) == "first " + "x" * 30
                assert await rest_of(two) == "first " + "x" * 20
        assert client._hub.streams == 0
        assert server.connections == 2


# ---- limits on time


async def test_time_that_a_reader_takes_is_no_silence(quiescence: Quiescence, mock_clock: MockClock) -> None:
    async with opened() as (client, wire, _), client.chat("x").stream() as events:
        await first_of(events)
        mock_clock.jump(1000)
        await wait_all_tasks_blocked()
        await wire.end()
        assert await rest_of(events) == "first "


async def test_a_provider_that_falls_silent_is_given_up_while_its_reader_waits(
    quiescence: Quiescence, mock_clock: MockClock
) -> None:
    async with opened() as (client, _, server), client.chat("x").stream() as events:
        await first_of(events)
        mock_clock.jump(1000)  # the reader's own time
        caught: list[AiLibError] = []

        async def read() -> None:
            with pytest.raises(TransportError) as info:
                await events.__anext__()
            caught.append(info.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            mock_clock.jump(119)
            await wait_all_tasks_blocked()
            assert not caught
            mock_clock.jump(2)
        assert caught[0].kind == "idle_timeout"
        assert events.partial().content == "first "
        await server.wait_no_connection()


async def test_silence_goes_on_over_waits_that_were_given_up(quiescence: Quiescence, mock_clock: MockClock) -> None:
    async with opened() as (client, _, server), client.chat("x").stream() as events:
        await first_of(events)
        for _ in range(3):
            await give_up_a_wait(events)
            mock_clock.jump(50)
        await server.wait_no_connection()
        with pytest.raises(TransportError) as info:
            await events.__anext__()
        assert info.value.kind == "idle_timeout"


async def test_what_came_while_nobody_waited_is_no_silence(quiescence: Quiescence, mock_clock: MockClock) -> None:
    async with opened() as (client, wire, _), client.chat("x").stream() as events:
        await first_of(events)
        await give_up_a_wait(events)
        await wire.send(frame(delta("second")))
        await wait_all_tasks_blocked(0.01)
        mock_clock.jump(1000)
        await wait_all_tasks_blocked()
        await events.__anext__()
        await wire.end()
        assert await rest_of(events) == "first second"


async def test_a_minimum_of_bytes_is_measured_however_its_reader_waits(
    quiescence: Quiescence, mock_clock: MockClock
) -> None:
    async with opened() as (client, wire, _), client.chat("x").timeouts(min_bytes_per_s=1000).stream() as events:
        await first_of(events)
        caught: list[AiLibError] = []

        async def read() -> None:
            with pytest.raises(TransportError) as info:
                await rest_of(events)
            caught.append(info.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            for _ in range(4):
                await wait_all_tasks_blocked()
                if caught:
                    break
                mock_clock.jump(6)
                await wire.send(frame(delta("x")))
        assert caught[0].kind == "throughput_timeout"


# ---- what is not lent


async def test_when_the_first_token_came_is_known_before_anybody_reads(quiescence: Quiescence) -> None:
    told = trio.Event()

    def sink(record: Any) -> None:
        if type(record).__name__ == "FirstToken":
            told.set()

    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(frame(delta("")), end=False))
        await wait_all_tasks_blocked(0.01)
        await connection.send(chunk(frame(delta("first "))))
        await connection.wait_left()

    config = Config(environ={}, resilience=ONE_ATTEMPT, transport="native", sinks=[sink])
    async with (
        raw_server(handler) as server,
        open_client(MODEL, base_url=server.url, api_key="k", config=config) as client,
        client.chat("x").stream() as events,
    ):
        with trio.fail_after(10):
            await told.wait()
        await first_of(events)


async def test_a_compressed_stream_is_inflated_event_by_event(quiescence: Quiescence) -> None:
    texts: list[str] = []
    come = trio.open_memory_channel[str](0)

    async def handler(connection: Connection) -> None:
        await connection.request()
        packer = zlib.compressobj(wbits=31)

        def packed(*frames: bytes) -> bytes:
            return chunk(packer.compress(b"".join(frames)) + packer.flush(zlib.Z_SYNC_FLUSH))

        head = chunked(end=False).replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n", 1)
        await connection.send(head + packed(frame(delta("0"))))
        for number in range(1, 5):
            assert await come[1].receive() == str(number - 1)
            await connection.send(packed(frame(delta(str(number)))))
        await connection.send(packed(*DONE) + b"0\r\n\r\n")

    config = Config(environ={}, resilience=ONE_ATTEMPT, transport="native")
    async with (
        raw_server(handler) as server,
        open_client(MODEL, base_url=server.url, api_key="k", config=config) as client,
        client.chat("x").stream() as events,
    ):
        async for event in events:
            if isinstance(event, PartialContentDelta):
                texts.append(event.content)
                if len(texts) < 5:
                    await come[0].send(event.content)
    assert texts == list("01234")


# ---- its end


async def test_behind_the_last_event_the_body_is_read_to_its_end_without_its_reader(quiescence: Quiescence) -> None:
    """Who stops at `StreamEnd` and keeps the block open keeps no connection from the next call."""
    async with opened() as (client, wire, server):
        async with client.chat("x").stream() as events:
            await first_of(events)
            await wire.send(*DONE)  # and the chunk coding goes on
            async for event in events:
                if isinstance(event, StreamEnd):
                    break
            await wait_all_tasks_blocked()
            await wire.connections[0].send(b"0\r\n\r\n")
            with trio.fail_after(10):
                while client.tree().open_calls:
                    await trio.lowlevel.checkpoint()
            async with client.chat("x").stream() as others:
                await first_of(others)
                await wire.end()
                assert await rest_of(others) == "first "
        assert server.connections == 1


async def test_a_reader_that_waits_is_told_of_its_clients_end(quiescence: Quiescence) -> None:
    kinds: list[str] = []

    async def read(events: ChatStream) -> None:
        with pytest.raises(AdmissionError) as info:
            await events.__anext__()
        kinds.append(str(info.value.kind))

    async with trio.open_nursery() as nursery, opened() as (client, _, _):
        events = client.chat("x").stream()
        await first_of(events)
        nursery.start_soon(read, events)
        await wait_all_tasks_blocked()
        client._nursery.cancel_scope.cancel()
        await wait_all_tasks_blocked()
    assert kinds == ["client_closed"]


async def test_a_second_reader_is_refused_and_the_first_reads_on(quiescence: Quiescence) -> None:
    async with opened() as (client, wire, _), client.chat("x").stream() as events:
        await first_of(events)
        texts: list[str] = []

        async def read() -> None:
            texts.append(await rest_of(events))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="reading this stream"):
                await events.__anext__()
            await wire.send(frame(delta("second")))
            await wire.end()
        assert texts == ["first second"]


async def test_an_attempt_that_begins_anew_is_lent_anew(quiescence: Quiescence) -> None:
    served = 0

    async def handler(connection: Connection) -> None:
        nonlocal served
        await connection.request()
        served += 1
        await connection.send(chunked(frame(delta("once ")), end=False))
        await trio.testing.wait_all_tasks_blocked()
        await connection.send(chunk(frame(delta("more "))))
        await trio.testing.wait_all_tasks_blocked()
        if served == 1:
            connection.reset()
            return
        await connection.send(b"".join(map(chunk, DONE)) + b"0\r\n\r\n")

    config = Config(environ={}, transport="native")
    async with (
        raw_server(handler) as server,
        open_client(MODEL, base_url=server.url, api_key="k", config=config) as client,
        client.chat("x").retry(partial=True, min_delay_s=0.0, max_delay_s=0.0).stream() as events,
    ):
        assert await rest_of(events) == "once more "
        assert server.connections == served == 2


# ---- whose task and context


async def test_sinks_are_told_in_the_calls_context_and_not_its_readers(quiescence: Quiescence) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody")
    seen: dict[str, set[str]] = {}

    def sink(record: Any) -> None:
        seen.setdefault(type(record).__name__, set()).add(variable.get())

    async def read(events: ChatStream) -> None:
        variable.set("the reader")
        await rest_of(events)

    async with opened(sinks=[sink]) as (client, wire, _):
        variable.set("the caller")
        async with client.chat("x").stream() as events:
            await first_of(events)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, events)
                await wait_all_tasks_blocked()
                await wire.end()
    assert seen["EventBatch"] == {"the caller"}


def test_an_interrupt_in_the_middle_of_a_read_loses_no_event() -> None:
    is_armed = False

    def sink(record: Any) -> None:
        nonlocal is_armed
        if is_armed and type(record).__name__ == "EventBatch":
            is_armed = False
            signal.raise_signal(signal.SIGINT)
            sum(range(100))  # some steps at which an interrupt could be raised

    async def main() -> tuple[str, int]:
        nonlocal is_armed
        interrupts = 0
        async with opened(sinks=[sink]) as (client, wire, _), client.chat("x").stream() as events:
            await first_of(events)
            is_armed = True
            await wire.send(frame(delta("second ")))
            await wire.end()
            while True:
                try:
                    text = await rest_of(events)
                except KeyboardInterrupt:
                    interrupts += 1
                else:
                    return text, interrupts

    assert trio.run(main) == ("first second ", 1)


# ---- a sink that ends its own call in the middle of a read


@pytest.mark.parametrize("few", [0, 256])
async def test_a_sink_that_cancels_its_call_in_a_read_ends_that_call_alone(
    quiescence: Quiescence, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "few", few)
    token = CancelToken()

    def sink(record: Any) -> None:
        if type(record).__name__ == "EventBatch" and record.call == 2 and "second" in sent:
            token.cancel("enough")

    sent: list[str] = []
    async with opened(sinks=[sink]) as (client, wire, _), client.chat("x").stream() as others:
        await first_of(others)
        async with client.chat("x").cancel_token(token).stream() as events:
            await first_of(events)
            sent.append("second")
            await wire.send(frame(delta("second ")))
            with pytest.raises(AiLibError) as info:
                await rest_of(events)
            assert info.value.kind == "cancel_token"
        await wire.end()
        assert await rest_of(others) == "first second "
