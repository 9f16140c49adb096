"""The hub: one task reads for all; what one member does harms no other, and nothing is read that has left."""

from __future__ import annotations

import contextvars
import gc
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ai_lib_trio import Config, InternalError, TransportError, open_client
from ai_lib_trio.actors.exchange import Exchange
from ai_lib_trio.testing import Quiescence
from ai_lib_trio.transport import hub as hub_module
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.transport.hub import Hub
from client_support import MODEL, ONE_ATTEMPT, delta, finish, frame
from engines import KeepingSink, engine_of, fetch, post
from raw_server import Connection, chunk, chunked, raw_server

pytestmark = pytest.mark.skipif(not Hub.is_available(), reason="no epoll")

STREAM = [frame(delta("one ")), frame(delta("two")), frame(finish()), frame("[DONE]")]


class Member:
    """One end of a socket pair. `act` is called with what a read brought."""

    def __init__(self, log: list[Any], name: str = "") -> None:
        self.sock, self.peer = socket.socketpair()
        self.sock.setblocking(False)
        self.context: contextvars.Context | None = None
        self.fault: Exception | None = None
        self.is_full = False
        self.is_over = False
        self.log = log
        self.name = name
        self.woken = 0
        self.error: Exception | None = None
        self.then: Any = None

    def readable(self) -> int:
        try:
            data = self.sock.recv(64 * 1024)
        except BlockingIOError:  # as the engine's connections: being told of nothing is no fault
            return 0
        self.log.append((self.name, len(data)))
        if self.then is not None:
            self.then(data)
        if self.error is not None:
            raise self.error
        return len(data)

    def wake(self) -> None:
        self.woken += 1

    def close(self) -> None:
        self.sock.close()
        self.peer.close()


@pytest.fixture(autouse=True)
def the_hub_reads_however_few_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "few", 0)


@pytest.fixture
def log() -> list[Any]:
    return []


@pytest.fixture
def members(log: list[Any]) -> Iterator[list[Member]]:
    made = [Member(log, name) for name in "abc"]
    yield made
    for member in made:
        member.close()


@pytest.fixture
async def hub(nursery: trio.Nursery) -> Hub:
    hub = Hub()
    nursery.start_soon(hub.run)
    return hub


async def test_each_member_is_read_when_it_has_something(hub: Hub, members: list[Member], log: list[Any]) -> None:
    for member in members:
        hub.join(member)
        hub.join(member)
    members[1].peer.send(b"one")
    await wait_all_tasks_blocked(0.01)
    members[2].peer.send(b"three")
    await wait_all_tasks_blocked(0.01)
    assert log == [("b", 3), ("c", 5)]
    assert [member.woken for member in members] == [0, 0, 0]


async def test_a_member_whose_read_fails_is_left_with_its_fault_and_the_others_are_read_on(
    hub: Hub, members: list[Member], log: list[Any]
) -> None:
    bad, good, _ = members
    bad.error = ZeroDivisionError("in decoding")
    for member in (bad, good):
        hub.join(member)
        member.peer.send(b"x")
    await wait_all_tasks_blocked(0.01)
    assert bad.fault is bad.error
    assert (bad.woken, good.woken, len(hub)) == (1, 0, 1)
    bad.peer.send(b"more")
    good.peer.send(b"more")
    await wait_all_tasks_blocked(0.01)
    assert [name for name, _ in log].count("a") == 1
    assert ("b", 4) in log


async def test_a_full_member_is_left_unread_until_it_joins_again(
    hub: Hub, members: list[Member], log: list[Any]
) -> None:
    member = members[0]
    member.is_full = True
    hub.join(member)
    member.peer.send(b"x")
    await wait_all_tasks_blocked(0.01)
    assert (member.woken, len(hub)) == (1, 0)
    member.peer.send(b"yy")
    member.peer.shutdown(socket.SHUT_RDWR)  # a hang-up is told for what is registered at all, whatever it asks for
    turns = hub.turns
    await wait_all_tasks_blocked(0.01)
    assert hub.turns == turns
    member.is_full = False
    hub.join(member)
    await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    assert log[:2] == [("a", 1), ("a", 2)]
    hub.leave(member)


async def test_a_member_that_leaves_within_a_turn_is_not_read_in_it(
    hub: Hub, members: list[Member], log: list[Any]
) -> None:
    def end_the_others(_: bytes) -> None:
        for member in members:
            if member.name != log[-1][0]:
                hub.leave(member, member.sock.fileno())

    for member in members:
        member.then = end_the_others
        member.peer.send(b"x")
        hub.join(member)
    await wait_all_tasks_blocked(0.01)
    assert len(log) == 1


async def test_a_turn_is_bounded_and_others_run_in_between(
    hub: Hub, members: list[Member], log: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "TURN_BYTES", 1000)

    async def note_turns() -> None:
        while True:
            log.append("other")
            await trio.lowlevel.checkpoint()

    for member in members:
        member.peer.send(b"x" * 2000)
        hub.join(member)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(note_turns)
        while len([entry for entry in log if entry != "other"]) < 3:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    reads = [index for index, entry in enumerate(log) if entry != "other"]
    assert "other" in log[reads[0] : reads[2]]  # trio shuffles who is first in each round, so not between any two


async def test_more_ready_members_than_one_poll_tells_all_get_their_turn(
    hub: Hub, log: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Level-triggered, the system tells of those first that it has not told of for longest."""
    monkeypatch.setattr(hub_module, "MAX_READY", 2)
    many = [Member(log, str(number)) for number in range(9)]
    try:
        for member in many:
            member.peer.send(b"x" * 100)
            member.then = lambda _, member=member: member.peer.send(b"x" * 100)  # never used up
            hub.join(member)
        while len(log) < 45:
            await trio.lowlevel.checkpoint()
        counts = [sum(name == member.name for name, _ in log) for member in many]
        assert min(counts) >= 3, counts
    finally:
        for member in many:
            hub.leave(member)
            member.close()


async def test_a_stream_that_never_pauses_starves_no_other_one(quiescence: Quiescence) -> None:
    async def handler(connection: Connection) -> None:
        request = await connection.request()
        assert request is not None
        await connection.send(chunked(end=False))
        if request[1] == b"flood":
            piece = chunk(b"x" * 60_000)
            while True:
                await connection.send(piece)
        for _ in range(20):
            await connection.send(chunk(b"drop"))
            await trio.lowlevel.checkpoint()
        await connection.send(b"0\r\n\r\n")

    async with raw_server(handler) as server, engine_of("hub") as engine, trio.open_nursery() as nursery:
        floods = [KeepingSink() for _ in range(4)]
        for flood in floods:
            nursery.start_soon(fetch, engine, post(server, b"flood"), flood)
        while not all(flood.chunks for flood in floods):
            await trio.lowlevel.checkpoint()
        with trio.fail_after(10):
            assert (await fetch(engine, post(server))).body == b"drop" * 20
        nursery.cancel_scope.cancel()


async def test_a_descriptor_that_is_used_again_within_a_turn_brings_the_new_member_no_old_news(
    hub: Hub, members: list[Member], log: list[Any]
) -> None:
    """The first read closes the others' sockets, and new ones get their descriptors before the turn is over."""
    new: list[Member] = []
    used = {member.sock.fileno() for member in members}

    def replace(_: bytes) -> None:
        if new:
            return
        for member in members:
            if member.name != log[-1][0]:
                hub.leave(member)
                member.close()
                new.append(Member(log, "new"))
                hub.join(new[-1])

    for member in members:
        member.then = replace
        member.peer.send(b"x")
        hub.join(member)
    await wait_all_tasks_blocked(0.01)
    try:
        assert used & {member.sock.fileno() for member in new}, "no descriptor was used again"
        assert len(log) == 1
        assert [(member.fault, member.woken) for member in new] == [(None, 0)] * 2
        new[0].peer.send(b"yy")
        await wait_all_tasks_blocked(0.01)
        assert ("new", 2) in log
    finally:
        for member in new:
            hub.leave(member)
            member.close()


@pytest.mark.parametrize("how", ["close", "half", "reset"])
async def test_the_end_of_a_peer_is_read_like_anything_else_and_spins_nothing(quiescence: Quiescence, how: str) -> None:
    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(b"one", end=False))
        await go_on.wait()
        assert isinstance(connection.stream, trio.SocketStream)
        if how == "half":
            await connection.stream.send_eof()
            await connection.wait_left()
        elif how == "reset":
            connection.reset()

    go_on = trio.Event()
    async with raw_server(handler) as server, engine_of("hub") as engine:
        sink = KeepingSink(room=False)
        kinds: list[str] = []

        async def the_exchange() -> None:
            with pytest.raises(TransportError) as info:
                await fetch(engine, post(server), sink)
            kinds.append(info.value.kind)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(the_exchange)
            while not sink.waits:
                await trio.lowlevel.checkpoint()
            go_on.set()
            await wait_all_tasks_blocked(0.01)
            turns = engine._hub.turns
            await wait_all_tasks_blocked(0.01)
            assert engine._hub.turns == turns  # nobody is told of an end while the sink is full
            sink.more.set()
        assert kinds == ["reset" if how == "reset" else "truncated"]


async def test_where_the_system_takes_no_more_watches_each_exchange_waits_for_itself(
    quiescence: Quiescence, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with raw_server(streaming) as server, engine_of("hub") as engine:

        class Full:
            closed = False

            def __init__(self, epoll: Any) -> None:
                self.epoll = epoll

            def register(self, fd: int, events: int) -> None:
                raise OSError(28, "No space left on device")

            def __getattr__(self, name: str) -> Any:
                return getattr(self.epoll, name)

        monkeypatch.setattr(engine._hub, "_epoll", Full(engine._hub._epoll))
        for _ in range(2):
            assert (await fetch(engine, post(server))).body == b"".join(STREAM)
        assert (server.connections, len(engine._hub)) == (1, 0)
        monkeypatch.undo()


async def test_a_read_happens_in_the_context_of_its_exchange(hub: Hub, members: list[Member]) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="hub")
    seen: list[str] = []
    for member in members[:2]:
        context = contextvars.copy_context()
        context.run(variable.set, member.name)
        member.context = context
        member.then = lambda _: seen.append(variable.get())
        member.peer.send(b"x")
        hub.join(member)
    await wait_all_tasks_blocked(0.01)
    assert sorted(seen) == ["a", "b"]


async def test_a_hub_that_has_ended_takes_no_one_and_lets_everyone_leave(members: list[Member]) -> None:
    hub = Hub()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        hub.join(members[0])
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    hub.leave(members[0])
    hub.join(members[1])
    hub.close()
    assert len(hub) == 0


async def test_a_hub_that_never_ran_leaves_no_descriptor(quiescence: Quiescence) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await Hub().run()


# ---- under an engine, and under a client


async def test_an_event_costs_its_exchange_no_wake_up(quiescence: Quiescence) -> None:
    """The exchange's task sleeps from the request's last byte to the response's end."""
    steps: list[str] = []
    send_more = trio.Event()

    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(b"first", end=False))
        await send_more.wait()
        for _ in range(50):
            await connection.send(chunk(b"piece"))
            for _ in range(3):
                await trio.lowlevel.checkpoint()
        await connection.send(b"0\r\n\r\n")
        await connection.wait_left()

    class Steps(trio.abc.Instrument):
        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            steps.append(task.name)

    async with raw_server(handler) as server, engine_of("hub") as engine:
        sink = KeepingSink()

        async def the_exchange() -> None:
            await fetch(engine, post(server), sink)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(the_exchange, name="the exchange")
            while not sink.chunks:
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            instrument = Steps()
            trio.lowlevel.add_instrument(instrument)
            send_more.set()
        trio.lowlevel.remove_instrument(instrument)
    assert sink.body == b"first" + b"piece" * 50
    assert len(sink.chunks) > 10
    assert steps.count("the exchange") == 1


def client_at(url: str, **settings: Any) -> Any:
    config = Config(**{"environ": {}, "resilience": ONE_ATTEMPT, "transport": "native", **settings})
    return open_client(MODEL, base_url=url, api_key="k", config=config)


async def text_of(client: Any) -> str:
    async with client.chat().user("x").stream() as events:
        async for _ in events:
            pass
    return str(events.response().content)


async def streaming(connection: Connection) -> None:
    while await connection.request() is not None:
        await connection.send(chunked(end=False))
        for piece in STREAM:
            await connection.send(chunk(piece))
            await trio.lowlevel.checkpoint()
        await connection.send(b"0\r\n\r\n")


async def test_a_bug_in_one_calls_decoding_ends_that_call_and_its_siblings_go_on(
    quiescence: Quiescence, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    data = Exchange.data

    def break_the_third(self: Exchange, piece: bytes) -> bool:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise ZeroDivisionError("a bug")
        return data(self, piece)

    monkeypatch.setattr(Exchange, "data", break_the_third)
    outcomes: list[str] = []

    async def call(client: Any) -> None:
        try:
            outcomes.append(await text_of(client))
        except InternalError as exc:
            outcomes.append(f"{exc.kind} by {type(exc.__cause__).__name__}")

    async with raw_server(streaming) as server, client_at(server.url) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(call, client)
        assert sorted(outcomes) == ["bug by ZeroDivisionError", *["one two"] * 4]
        assert await text_of(client) == "one two"
        assert client.tree().actors[0].bugs == 1


async def test_a_sink_that_closes_its_connection_and_is_full_ends_its_exchange_alone(quiescence: Quiescence) -> None:
    class Closing(KeepingSink):
        def data(self, chunk: bytes) -> bool:
            super().data(chunk)
            if len(self.chunks) == 2:
                for connection in list(engine._busy):
                    connection.close()
            return len(self.chunks) < 2

    async with raw_server(streaming) as server, engine_of("hub") as engine:
        sink = Closing(room=True)
        with pytest.raises(TransportError):
            await fetch(engine, post(server), sink)
        assert len(sink.chunks) == 2
        assert (await fetch(engine, post(server))).body == b"".join(STREAM)


async def test_one_hub_serves_all_providers_of_a_client_and_ends_with_it(quiescence: Quiescence) -> None:
    async with raw_server(streaming) as server:
        settings = {
            "base_urls": {"openai": server.url, "groq": server.url},
            "api_keys": {"openai": "k", "groq": "k"},
        }
        config = Config(environ={}, resilience=ONE_ATTEMPT, transport="native", **settings)
        async with open_client(config=config) as client:
            for model in ("openai/a-model", "groq/another-model"):
                async with client.chat("x").model(model).stream() as events:
                    assert [event async for event in events]
            names = [task.name for task in client._nursery.child_tasks]
            assert names.count("hub") == 1
            assert len(client.tree().actors) == 2


async def test_without_epoll_clients_do_the_same_without_a_hub(
    quiescence: Quiescence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Hub, "is_available", lambda: False)
    async with raw_server(streaming) as server, client_at(server.url) as client:
        for _ in range(3):
            assert await text_of(client) == "one two"
        assert "hub" not in [task.name for task in client._nursery.child_tasks]
        assert server.connections == 1


async def test_what_was_asked_is_not_kept_while_its_reply_comes(quiescence: Quiescence) -> None:
    async def silent(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(STREAM[0], end=False))
        await connection.wait_left()

    def requests() -> list[WireRequest]:
        return [one for one in gc.get_objects() if isinstance(one, WireRequest)]

    before = requests()  # other tests keep theirs
    async with raw_server(silent) as server, client_at(server.url) as client:
        chat = client.chat().user("a long prompt")
        async with chat.stream() as events:
            await events.__anext__()
            assert [one.body for one in requests() if one not in before] == [b""]


async def test_two_hundred_streams_are_cancelled_at_once_and_nothing_waits_for_the_collector(
    quiescence: Quiescence,
) -> None:
    async def endless(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(STREAM[0], end=False))
        await connection.wait_left()

    started = 0

    async def read(client: Any) -> None:
        nonlocal started
        async with client.chat().user("x").stream() as events:
            async for _ in events:
                started += 1

    gc.collect()
    gc.disable()
    try:
        async with raw_server(endless) as server, client_at(server.url, max_inflight=300) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(200):
                    nursery.start_soon(read, client)
                while started < 200:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            tree = client.tree()
            assert (tree.open_calls, tree.overdue_leaves, tree.actors[0].inflight) == (0, 0, 0)
            await server.wait_no_connection()
            assert client._hub is not None
            assert len(client._hub) == 0
    finally:
        gc.enable()
