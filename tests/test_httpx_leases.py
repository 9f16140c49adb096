"""The httpx engine's own connections: cut off in the turn that cancels, directly and through a proxy, and kept where
nothing went wrong."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ai_lib_trio import TransportError
from ai_lib_trio.testing import Quiescence
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.transport.httpx_engine import HttpxEngine
from client_support import AtStep
from engines import KeepingSink, engine_of, fetch, make_certificate, post, server_context
from raw_server import Connection, chunk, chunked, raw_server

Handler = Callable[[Connection], Awaitable[None]]
PIECE = b"data: 1\n\n"
WAYS = ["plain", "tls", "through a proxy", "through a tunnel"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@contextlib.asynccontextmanager
async def reached(way: str, certificate: Path, handler: Handler) -> Any:
    """An engine, a request to `handler` by this way, and the server. A proxy is here what it leads to as well."""
    context = server_context(certificate)

    async def tunnelled(connection: Connection) -> None:
        request = await connection.request()
        if request is None:
            return
        assert request[0][":line"].startswith("CONNECT 127.0.0.1:1 ")
        await connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        connection.stream = trio.SSLStream(connection.stream, context, server_side=True, https_compatible=True)
        await handler(connection)

    serving = tunnelled if way == "through a tunnel" else handler
    async with raw_server(serving, tls=context if way == "tls" else None) as server:
        request = post(server)
        proxy = None
        if way.startswith("through"):
            proxy = server.url
            scheme = "https" if way == "through a tunnel" else "http"
            request = WireRequest("POST", f"{scheme}://127.0.0.1:1/v1/x", request.headers, request.body)
        trust = ssl.create_default_context(cafile=str(certificate))
        async with engine_of("httpx", ssl_context=trust, proxy=proxy) as engine:
            yield engine, request, server


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("when", ["before the head", "in the body"])
async def test_a_cancelled_exchange_has_closed_its_socket_when_cancel_returns(
    quiescence: Quiescence, certificate: Path, way: str, when: str
) -> None:
    async def handler(connection: Connection) -> None:
        await connection.request()
        if when == "in the body":
            await connection.send(chunked(PIECE, end=False))
        asked.set()
        await connection.wait_left()

    asked = trio.Event()
    sink = KeepingSink()
    async with reached(way, certificate, handler) as (engine, request, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, engine, request, sink)
            await asked.wait()
            while when == "in the body" and not sink.chunks:
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            [lease] = engine._busy
            sock = lease.sock
            assert sock.fileno() >= 0
            nursery.cancel_scope.cancel()
            assert sock.fileno() == -1  # no task has had its turn yet
            assert not sink.is_over
        assert sink.is_over
        assert engine.open_connections == 0
        await server.wait_no_connection()


@pytest.mark.parametrize("way", WAYS)
async def test_an_exchange_that_ends_by_itself_keeps_its_connection_and_no_cancellation_reaches_it_there(
    quiescence: Quiescence, certificate: Path, way: str
) -> None:
    async def handler(connection: Connection) -> None:
        while await connection.request() is not None:
            await connection.send(chunked(PIECE))

    async with reached(way, certificate, handler) as (engine, request, server):
        for _ in range(3):
            with trio.CancelScope() as scope:
                assert (await fetch(engine, request)).body == PIECE
                scope.cancel()
                assert engine.open_connections == 1
        assert server.connections == 1
    await server.wait_no_connection()


class TwoAddresses(trio.abc.HostnameResolver):
    """Knows a host by an address where nobody listens and by one where somebody does."""

    async def getaddrinfo(self, host: Any, port: Any, *args: Any, **settings: Any) -> Any:
        await trio.lowlevel.checkpoint()
        stream, tcp = trio.socket.SOCK_STREAM, trio.socket.IPPROTO_TCP
        return [(trio.socket.AF_INET, stream, tcp, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    async def getnameinfo(self, *args: Any) -> Any:
        raise AssertionError("nobody asks")


async def test_a_connection_to_the_second_address_of_a_name_is_cut_off_as_any_other(quiescence: Quiescence) -> None:
    """Connecting cancels attempts of its own: such a cancellation is not the exchange's."""
    trio.socket.set_custom_hostname_resolver(TwoAddresses())

    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(PIECE, end=False))
        await connection.wait_left()

    engine = HttpxEngine()
    sink = KeepingSink()
    async with raw_server(handler) as server:
        request = WireRequest("POST", f"http://two.example:{server.port}/", [], b"{}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, engine, request, sink)
            while not sink.chunks:
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            [lease] = engine._busy
            sock = lease.sock
            nursery.cancel_scope.cancel()
            assert sock.fileno() == -1
        await server.wait_no_connection()
    await engine.aclose()


async def test_a_cancellation_that_a_sink_keeps_to_itself_ends_nothing(quiescence: Quiescence) -> None:
    """A sink may give up a wait of its own, and the exchange goes on."""

    class Impatient(KeepingSink):
        async def wait_room(self) -> None:
            self.waits += 1
            with trio.CancelScope() as scope:
                scope.cancel()
                await trio.sleep_forever()

    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(PIECE, end=False))
        while not sink.chunks:
            await trio.lowlevel.checkpoint()
        await connection.send(chunk(PIECE))  # which the sink, being full, lets wait
        while not sink.waits:
            await trio.lowlevel.checkpoint()
        await connection.send(chunk(PIECE) + b"0\r\n\r\n")
        await connection.wait_left()

    sink = Impatient(room=False)
    async with raw_server(handler) as server, engine_of("httpx") as engine:
        with trio.fail_after(10):
            await fetch(engine, post(server), sink)
        assert sink.body == PIECE * 3
        assert engine.open_connections == 1


@pytest.mark.parametrize("is_fresh", [True, False])
@pytest.mark.parametrize("way", WAYS)
async def test_an_engine_that_is_closed_at_any_step_ends_an_exchange_well_or_as_a_reset(
    quiescence: Quiescence, certificate: Path, way: str, is_fresh: bool
) -> None:
    async def handler(connection: Connection) -> None:
        while await connection.request() is not None:
            await connection.send(chunked(end=False))
            await trio.lowlevel.checkpoint()
            await connection.send(chunk(PIECE))
            await connection.send(b"0\r\n\r\n")

    ends: list[str] = []

    async def run(engine: Any, request: WireRequest) -> None:
        try:
            ends.append("ok" if (await fetch(engine, request)).body == PIECE else "cut short")
        except TransportError as exc:
            ends.append(exc.kind)

    number = 0
    is_reached = True
    while is_reached:
        number += 1 + number // 20
        async with reached(way, certificate, handler) as (engine, request, server):
            if not is_fresh:
                await fetch(engine, request)
            moment = trio.Event()
            instrument = AtStep(number, moment.set)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run, engine, request)
                trio.lowlevel.add_instrument(instrument)
                try:
                    while len(ends) == 0 and not moment.is_set():
                        await trio.lowlevel.checkpoint()
                finally:
                    trio.lowlevel.remove_instrument(instrument)
                is_reached = moment.is_set()
                await engine.aclose()
            assert ends.pop() in ("ok", "reset", "connect")
            assert engine.open_connections == 0
            await server.wait_no_connection()
    assert number > 10
