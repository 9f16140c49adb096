"""What the seam promises, held by the scripted engine and the real one alike."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ai_lib_trio import TransportError
from ai_lib_trio.testing import Data, Fail, Head, Quiescence, ScriptedTransport, Stall, Step
from ai_lib_trio.transport.base import Engine, WireRequest
from ai_lib_trio.transport.httpx_engine import HttpxClientEngine, HttpxEngine
from client_support import WatchedSink
from raw_server import Connection, chunk, chunked, raw_server

PIECES = [b"one", b"two", b"three"]


class Talk:
    """One engine, and a peer that sends the head, the pieces, and then `ends` or stays `silent` or cuts."""

    def __init__(self, engine: Engine, url: str, count_open: Callable[[], int]) -> None:
        self.engine = engine
        self.request = WireRequest("POST", f"{url}/x?key=not-shown", [("x-name", "Value")], b"{}")
        self.count_open = count_open


@contextlib.asynccontextmanager
async def scripted(end: str) -> AsyncIterator[Talk]:
    ends: dict[str, list[Step]] = {
        "ends": [],
        "silent": [Stall()],
        "cut": [Fail(TransportError("cut", kind="truncated"))],
    }
    transport = ScriptedTransport([Head(200, {"X-Mixed": "A"}), *map(Data, PIECES), *ends[end]])
    engine = transport("http://x")
    yield Talk(engine, "http://x", lambda: transport.open_exchanges)
    await engine.aclose()


def on_sockets(make: Callable[[], Any]) -> Any:
    @contextlib.asynccontextmanager
    async def talk(end: str) -> AsyncIterator[Talk]:
        async def handler(connection: Connection) -> None:
            while await connection.request() is not None:
                await connection.send(chunked(end=False, headers="X-Mixed: A\r\n"))
                for piece in PIECES:
                    await wait_all_tasks_blocked()
                    await connection.send(chunk(piece))
                if end == "cut":
                    return
                if end == "silent":
                    await connection.wait_left()
                    return
                await connection.send(b"0\r\n\r\n")

        async with raw_server(handler) as server:
            theirs = httpx.AsyncClient() if make is HttpxClientEngine else None
            engine = make() if theirs is None else make(theirs)
            yield Talk(engine, server.url, lambda: len(server.open))
            await engine.aclose()
            if theirs is not None:
                await theirs.aclose()

    return talk


ENGINES = {
    "scripted": scripted,
    "httpx": on_sockets(HttpxEngine),
    "a client of the user's": on_sockets(HttpxClientEngine),
}


@pytest.fixture(params=ENGINES)
def talk(request: pytest.FixtureRequest) -> Any:
    return ENGINES[request.param]


class Sink(WatchedSink):
    """Notes the order of what it is told, and raises or has no room where a test says so."""

    def __init__(self, *, raise_at: str = "", error: Exception | None = None, has_room: bool = True) -> None:
        super().__init__()
        self.told: list[str] = []
        self.raise_at = raise_at
        self.error = error
        self.has_room = has_room
        self.room = trio.Event()

    def note(self, what: str) -> None:
        self.told.append(what)
        if what == self.raise_at and self.error is not None:
            raise self.error

    def sending(self) -> None:
        self.note("sending")

    def head(self, status: int, headers: Any) -> None:
        super().head(status, headers)
        self.note("head")

    def data(self, chunk: bytes) -> bool:
        super().data(chunk)
        self.note("data")
        return self.has_room

    async def wait_room(self) -> None:
        self.note("wait")
        await self.room.wait()


async def test_the_sink_is_told_in_order_and_header_names_are_lower_case(talk: Any, quiescence: Quiescence) -> None:
    async with talk("ends") as peer:
        for _ in range(2):
            sink = Sink()
            await peer.engine.exchange(peer.request, sink)
            assert sink.told[:2] == ["sending", "head"]
            assert set(sink.told[2:]) == {"data"}
            assert (sink.status, sink.headers["x-mixed"], sink.body) == (200, "A", b"".join(PIECES))


@pytest.mark.parametrize("place", ["sending", "head", "data"])
@pytest.mark.parametrize("end", ["ends", "silent", "cut"])
async def test_what_the_sink_raises_ends_the_exchange_as_it_is(
    talk: Any, quiescence: Quiescence, place: str, end: str
) -> None:
    class OfTheSink(Exception):
        pass

    error = OfTheSink()
    async with talk(end) as peer:
        sink = Sink(raise_at=place, error=error)
        with pytest.raises(OfTheSink) as info:
            await peer.engine.exchange(peer.request, sink)
        assert info.value is error
        told = list(sink.told)
        await wait_all_tasks_blocked()
        assert sink.told == told, "called after the exchange was left"
        assert told[-1] == place
        if end == "silent":
            while peer.count_open():
                await wait_all_tasks_blocked(0.001)  # the peer hears of it


async def test_without_room_nothing_more_is_pushed_until_there_is(talk: Any, quiescence: Quiescence) -> None:
    async with talk("ends") as peer, trio.open_nursery() as nursery:
        sink = Sink(has_room=False)
        nursery.start_soon(peer.engine.exchange, peer.request, sink)
        while "wait" not in sink.told:
            await wait_all_tasks_blocked(0.001)
        await wait_all_tasks_blocked()
        assert sink.told == ["sending", "head", "data", "wait"]
        sink.room.set()
    assert sink.body == b"".join(PIECES)


@pytest.mark.parametrize("end", ["ends", "silent"])
async def test_cancelled_while_it_waits_for_room_or_data_the_connection_is_gone(
    talk: Any, quiescence: Quiescence, end: str
) -> None:
    async with talk(end) as peer:
        for has_room in (True, False):
            if has_room and end == "ends":
                continue
            sink = Sink(has_room=has_room)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.engine.exchange, peer.request, sink)
                while len(sink.chunks) < (len(PIECES) if has_room else 1):
                    await wait_all_tasks_blocked(0.001)
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            told = list(sink.told)
            while peer.count_open():
                await wait_all_tasks_blocked(0.001)
            assert sink.told == told


async def test_a_cut_is_a_transport_error_after_everything_that_came(talk: Any, quiescence: Quiescence) -> None:
    async with talk("cut") as peer:
        sink = Sink()
        with pytest.raises(TransportError) as info:
            await peer.engine.exchange(peer.request, sink)
        assert info.value.kind == "truncated"
        assert sink.body == b"".join(PIECES)


def test_a_request_shows_neither_headers_nor_query() -> None:
    request = WireRequest("POST", "https://a.example/v1/x?key=secret", [("authorization", "secret")], b"secret")
    assert repr(request) == "<WireRequest POST https://a.example/v1/x 6 bytes>"
