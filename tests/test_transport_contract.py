"""What every engine behind the seam does, on real sockets: one suite, and each engine passes all of it."""

from __future__ import annotations

import contextlib
import gc
import gzip
import random
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ai_lib_trio import CallerError, TransportError
from ai_lib_trio.testing import Quiescence
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.transport.httpx_engine import HttpxClientEngine
from client_support import AtStep
from engines import CLIENTS, ENGINES, KeepingSink, engine_of, fetch, make_certificate, post, server_context
from raw_server import Connection, RawServer, chunk, chunked, raw_server, sized


def of_our_own(test: Any) -> Any:
    """A test that looks at the connections of an engine: those of a client that the user brought are not ours."""
    test.is_of_our_own = True
    return test


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    is_of_our_own = getattr(metafunc.function, "is_of_our_own", False)
    metafunc.parametrize("kind", ENGINES if is_of_our_own else [*ENGINES, *CLIENTS])


OK = b'{"ok": true}'
HEAD = b"HTTP/1.1 200 OK\r\n"


def always(*answers: bytes) -> Callable[[Connection], Awaitable[None]]:
    async def handler(connection: Connection) -> None:
        while await connection.request() is not None:
            for answer in answers:
                await connection.send(answer)

    return handler


def once(*answers: bytes, then: str = "close") -> Callable[[Connection], Awaitable[None]]:
    """Answer the first request and then `close`, `reset`, or `wait` for the client to leave."""

    async def handler(connection: Connection) -> None:
        await connection.request()
        for answer in answers:
            await connection.send(answer)
        if then == "reset":
            connection.reset()
        elif then == "wait":
            await connection.wait_left()

    return handler


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


# ---- requests


async def test_a_request_arrives_as_it_was_made(quiescence: Quiescence, kind: str) -> None:
    seen: list[Any] = []

    async def handler(connection: Connection) -> None:
        seen.append(await connection.request())
        await connection.send(sized(OK))

    body = bytes(range(256)) * 4
    async with raw_server(handler) as server, engine_of(kind) as engine:
        await fetch(engine, post(server, body, path="/v1/x?a=b%20c&d=e", x_mine="A  b", authorization="Bearer k"))
    headers, got = seen[0]
    assert got == body
    assert headers[":line"] == "POST /v1/x?a=b%20c&d=e HTTP/1.1"
    assert headers["host"] == f"127.0.0.1:{server.port}"
    assert (headers["content-length"], headers["content-type"]) == ("1024", "application/json")
    assert (headers["x-mine"], headers["authorization"]) == ("A  b", "Bearer k")
    of_the_client = {"accept", "accept-encoding", "connection", "user-agent"} if kind in CLIENTS else set()
    assert (
        set(headers) == {":line", "host", "content-length", "content-type", "x-mine", "authorization"} | of_the_client
    )


async def test_a_large_request_body_arrives_whole(quiescence: Quiescence, kind: str) -> None:
    body = random.Random(1).randbytes(3_000_000)
    seen: list[bytes] = []

    async def handler(connection: Connection) -> None:
        request = await connection.request()
        assert request is not None
        seen.append(request[1])
        await connection.send(sized(OK))

    async with raw_server(handler) as server, engine_of(kind) as engine:
        assert (await fetch(engine, post(server, body))).body == OK
    assert seen == [body]


async def test_a_server_that_answers_before_it_has_read_everything_is_heard(quiescence: Quiescence, kind: str) -> None:
    async def handler(connection: Connection) -> None:
        await connection.stream.receive_some(1000)
        await connection.send(sized(b"too large", status="413 Content Too Large", headers="connection: close\r\n"))
        assert isinstance(connection.stream, trio.SocketStream)
        await connection.stream.send_eof()
        await connection.wait_left()

    async with raw_server(handler) as server, engine_of(kind) as engine:
        sink = await fetch(engine, post(server, b"x" * 500_000))
    assert (sink.status, sink.body) == (413, b"too large")


async def test_a_caller_that_expects_100_continue_gets_the_final_response(quiescence: Quiescence, kind: str) -> None:
    async with (
        raw_server(always(b"HTTP/1.1 100 Continue\r\n\r\n" + sized(OK))) as server,
        engine_of(kind) as engine,
    ):
        assert (await fetch(engine, post(server, expect="100-continue"))).body == OK


@pytest.mark.parametrize(
    ("name", "value"), [("x-bad", "a\r\nx-more: b"), ("x bad", "a"), ("x-bad", "a\0b"), ("x-bad", "a\nb"), ("", "a")]
)
async def test_a_header_that_cannot_be_sent_is_the_callers_error_and_shows_no_value(
    quiescence: Quiescence, kind: str, name: str, value: str
) -> None:
    async with raw_server(always(sized(OK))) as server, engine_of(kind) as engine:
        request = WireRequest("POST", server.url, [("authorization", "Bearer secret"), (name, value)], b"{}")
        with pytest.raises(CallerError) as info:
            await fetch(engine, request)
        assert info.value.kind == "bad_argument"
        assert "secret" not in info.value.message
        assert f"127.0.0.1:{server.port}" in info.value.message
        await server.wait_no_connection()
        assert (await fetch(engine, post(server))).body == OK


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/x", "/x"])
async def test_an_address_that_is_none_is_the_callers_error(quiescence: Quiescence, kind: str, url: str) -> None:
    async with engine_of(kind) as engine:
        with pytest.raises(CallerError) as info:
            await fetch(engine, WireRequest("POST", url, [], b"{}", is_streamed=True))
    assert info.value.kind == "bad_argument"


# ---- framing


@pytest.mark.parametrize("framing", ["sized", "chunked", "until close", "byte by byte", "large chunks"])
async def test_every_framing_of_a_body_comes_out_as_it_was_sent(
    quiescence: Quiescence, kind: str, framing: str
) -> None:
    body = random.Random(2).randbytes(600_000)
    head = HEAD + b"X-Mixed: A\r\n"
    if framing == "sized":
        answers = [head + f"content-length: {len(body)}\r\n\r\n".encode() + body]
    elif framing == "until close":
        answers = [head + b"\r\n" + body]
    else:
        size = {"byte by byte": 1, "chunked": 5000, "large chunks": 250_000}[framing]
        body = body[:300] if size == 1 else body
        pieces = [chunk(body[at : at + size]) for at in range(0, len(body), size)]
        whole = head + b"transfer-encoding: chunked\r\n\r\n" + b"".join(pieces) + b"0\r\n\r\n"
        answers = [whole[at : at + 1] for at in range(len(whole))] if size == 1 else [whole]
    async with raw_server(once(*answers)) as server, engine_of(kind) as engine:
        sink = await fetch(engine, post(server))
    assert (sink.status, sink.headers["x-mixed"], sink.sent) == (200, "A", 1)
    assert sink.body == body


@pytest.mark.parametrize("framing", ["sized", "chunked"])
async def test_a_response_may_be_cut_anywhere_on_its_way(quiescence: Quiescence, kind: str, framing: str) -> None:
    whole = sized(OK * 3) if framing == "sized" else chunked(OK, b"x", OK * 2)
    expected = OK * 3 if framing == "sized" else OK + b"x" + OK * 2
    cuts = iter(range(1, len(whole), 3))

    async def handler(connection: Connection) -> None:
        while await connection.request() is not None:
            cut = next(cuts)
            await connection.send(whole[:cut])
            await wait_all_tasks_blocked()
            await connection.send(whole[cut:])

    async with raw_server(handler) as server, engine_of(kind) as engine:
        for _ in range(1, len(whole), 3):
            assert (await fetch(engine, post(server))).body == expected
        assert server.connections == 1


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_a_response_without_a_body_is_a_head_and_an_end(quiescence: Quiescence, kind: str, status: str) -> None:
    answer = f"HTTP/1.1 {status}\r\ncontent-length: 5\r\n\r\n".encode()
    async with raw_server(always(answer)) as server, engine_of(kind) as engine:
        for _ in range(2):
            sink = await fetch(engine, post(server))
            assert (sink.status, sink.chunks) == (int(status[:3]), [])
        assert server.connections == 1


async def test_the_answer_to_a_head_request_has_a_length_and_no_body(quiescence: Quiescence, kind: str) -> None:
    async with raw_server(always(HEAD + b"content-length: 500\r\n\r\n")) as server, engine_of(kind) as engine:
        for _ in range(2):
            sink = await fetch(engine, post(server, b"", method="HEAD"))
            assert (sink.status, sink.headers["content-length"], sink.chunks) == (200, "500", [])
        assert server.connections == 1


async def test_an_empty_body_of_length_nought_is_an_end(quiescence: Quiescence, kind: str) -> None:
    async with raw_server(always(sized(b""))) as server, engine_of(kind) as engine:
        for _ in range(2):
            sink = await fetch(engine, post(server))
            assert (sink.status, sink.chunks) == (200, [])
        assert server.connections == 1


async def test_informational_responses_are_passed_over(quiescence: Quiescence, kind: str) -> None:
    early = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" * 3
    async with raw_server(always(early, sized(OK))) as server, engine_of(kind) as engine:
        for _ in range(3):
            sink = await fetch(engine, post(server))
            assert len(sink.heads) == 1
            assert (sink.status, sink.body) == (200, OK)
        assert server.connections == 1


async def test_trailers_are_read_and_dropped(quiescence: Quiescence, kind: str) -> None:
    answer = chunked(OK, end=False) + b"0\r\nx-sum: 5\r\nx-more: a b\r\n\r\n"
    async with raw_server(always(answer)) as server, engine_of(kind) as engine:
        for _ in range(3):
            sink = await fetch(engine, post(server))
            assert sink.body == OK
            assert "x-sum" not in sink.headers
        assert server.connections == 1


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd"])
async def test_a_coded_body_stays_coded_for_the_sink(quiescence: Quiescence, kind: str, coding: str) -> None:
    packed = {"gzip": gzip.compress, "deflate": zlib.compress}.get(coding, lambda data: b"\x0b" + data)(OK)
    async with (
        raw_server(always(sized(packed, headers=f"content-encoding: {coding}\r\n"))) as server,
        engine_of(kind) as engine,
    ):
        sink = await fetch(engine, post(server))
    assert (sink.body, sink.headers["content-encoding"]) == (packed, coding)


async def test_headers_come_in_the_order_of_the_wire_in_lower_case_and_repeated(
    quiescence: Quiescence, kind: str
) -> None:
    answer = HEAD + b"Set-Cookie: a=1\r\nX-A:  spaced \t\r\nset-cookie: b=2\r\nX-Latin: \xe9\r\nX-Empty:\r\n"
    answer += b"Folded: one\r\n two\r\nContent-Length: 2\r\n\r\nhi"
    async with raw_server(always(answer)) as server, engine_of(kind) as engine:
        sink = await fetch(engine, post(server))
    assert sink.heads[0][1] == [
        ("set-cookie", "a=1"),
        ("x-a", "spaced"),
        ("set-cookie", "b=2"),
        ("x-latin", "é"),
        ("x-empty", ""),
        ("folded", "one two"),
        ("content-length", "2"),
    ]
    assert sink.body == b"hi"


# ---- connections


@of_our_own
async def test_a_connection_is_used_again_and_the_latest_first(quiescence: Quiescence, kind: str) -> None:
    async with raw_server(always(chunked(OK))) as server, engine_of(kind) as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(fetch, engine, post(server))
        opened = server.connections
        assert 1 <= opened <= 3
        for _ in range(5):
            await fetch(engine, post(server))
        assert server.connections == opened
        assert engine.open_connections == opened
        assert max(connection.requests for connection in server.open) >= 6 - opened
    await server.wait_no_connection()


@of_our_own
async def test_many_exchanges_run_side_by_side(quiescence: Quiescence, kind: str) -> None:
    async with raw_server(always(chunked(*[OK] * 20))) as server, engine_of(kind) as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(150):
                nursery.start_soon(fetch, engine, post(server))
        assert engine.open_connections <= 100, "more are kept than may be"


@pytest.mark.parametrize(
    "answer",
    [
        sized(OK, headers="connection: close\r\n"),
        sized(OK, headers="Connection: keep-alive, Close\r\n"),
        sized(OK).replace(b"HTTP/1.1", b"HTTP/1.0"),
        sized(OK).replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"\r\n\r\n", b"\r\nconnection: keep-alive\r\n\r\n"),
        HEAD + b"\r\n" + OK,
        sized(OK) + b"\r\n",
        sized(OK) + b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong",
        chunked(OK) + b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong",
        chunked(OK) + b"\r\n",
        chunked(OK) + b"garbage",
    ],
)
async def test_a_connection_with_an_end_or_leftovers_is_not_used_again(
    quiescence: Quiescence, kind: str, answer: bytes
) -> None:
    async with raw_server(once(answer)) as server, engine_of(kind) as engine:
        for _ in range(3):
            assert (await fetch(engine, post(server))).body == OK
        assert server.connections == 3


@pytest.mark.parametrize("behind", [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong", b"\r\n", b"x"])
async def test_what_is_said_on_an_idle_connection_is_no_answer_to_the_next_request(
    quiescence: Quiescence, kind: str, behind: bytes
) -> None:
    said = trio.Event()

    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(sized(OK))
        if connection.number == 1:
            await wait_all_tasks_blocked()
            await connection.send(behind)
            said.set()
        await connection.wait_left()

    async with raw_server(handler) as server, engine_of(kind) as engine:
        await fetch(engine, post(server))
        await said.wait()
        await wait_all_tasks_blocked()
        assert (await fetch(engine, post(server))).body == OK
        assert server.connections == 2


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_an_idle_connection_that_the_server_closed_is_replaced_before_it_is_used(
    quiescence: Quiescence, kind: str, then: str
) -> None:
    async with raw_server(once(sized(OK), then="wait")) as server, engine_of(kind) as engine:
        for number in range(1, 4):
            sink = await fetch(engine, post(server))
            assert (sink.sent, sink.body) == (1, OK)
            [connection] = server.open
            if then == "reset":
                connection.reset()
            else:
                assert isinstance(connection.stream, trio.SocketStream)
                connection.stream.socket.shutdown(socket.SHUT_WR)
            await wait_all_tasks_blocked()
            assert server.connections == number


async def test_a_connection_that_closes_under_a_request_is_a_reset_and_nothing_is_sent_twice(
    quiescence: Quiescence, kind: str
) -> None:
    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(sized(OK))
        if connection.number == 1:
            await connection.request()  # taken, and answered by closing

    async with raw_server(handler) as server, engine_of(kind) as engine:
        await fetch(engine, post(server))
        sink = KeepingSink()
        with pytest.raises(TransportError) as info:
            await fetch(engine, post(server), sink)
        assert (info.value.kind, sink.sent, server.connections) == ("reset", 1, 1)
        assert (await fetch(engine, post(server))).body == OK
        assert server.connections == 2


async def test_a_server_that_closes_its_half_behind_a_whole_response_is_no_fault(
    quiescence: Quiescence, kind: str
) -> None:
    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(OK))
        assert isinstance(connection.stream, trio.SocketStream)
        await connection.stream.send_eof()
        await connection.wait_left()

    async with raw_server(handler) as server, engine_of(kind) as engine:
        for _ in range(3):
            assert (await fetch(engine, post(server))).body == OK
            await wait_all_tasks_blocked()
        assert server.connections == 3


@of_our_own
async def test_closing_the_engine_is_safe_twice_and_ends_its_use(quiescence: Quiescence, kind: str) -> None:
    async with raw_server(always(sized(OK))) as server, engine_of(kind) as engine:
        await fetch(engine, post(server))
        assert engine.open_connections == 1
        await engine.aclose()
        await engine.aclose()
        await server.wait_no_connection()
        assert engine.open_connections == 0
        sink = KeepingSink()
        with pytest.raises(TransportError, match="closed") as info:
            await fetch(engine, post(server), sink)
        assert (info.value.kind, sink.sent) == ("connect", 0)


# ---- faults

NO_HTTP = [
    b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
    b"HTTP/1.1 2000 OK\r\n\r\n",
    b"HTTP/1.1 20 OK\r\n\r\n",
    b"HTTP/1.1 099 No\r\n\r\n",
    b"HTTP/11 200 OK\r\n\r\n",
    b"HTTP/1.1  200 OK\r\n\r\n",
    b"http/1.1 200 OK\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    HEAD + b"no colon\r\n\r\n",
    HEAD + b"sp ace: x\r\n\r\n",
    HEAD + b"x : y\r\n\r\n",
    HEAD + b": y\r\n\r\n",
    HEAD + b"x: a\0b\r\n\r\n",
    HEAD + b"x: a\rb\r\n\r\n",
    HEAD + b" folded: first\r\n\r\n",
    HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    HEAD + b"content-length: 5, 6\r\n\r\nhello",
    HEAD + b"content-length: -5\r\n\r\nhello",
    HEAD + b"content-length: +5\r\n\r\nhello",
    HEAD + b"content-length: 0x5\r\n\r\nhello",
    HEAD + b"content-length:\r\n\r\nhello",
    HEAD + b"content-length: 123456789012345678901\r\n\r\nhello",
    HEAD + b"transfer-encoding: gzip, chunked\r\n\r\nhello",
    HEAD + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\nhello",
]


@pytest.mark.parametrize("answer", NO_HTTP)
async def test_a_head_that_is_no_http_is_a_reset_before_any_reply(
    quiescence: Quiescence, kind: str, answer: bytes
) -> None:
    async with raw_server(once(answer, then="wait")) as server, engine_of(kind) as engine:
        sink = KeepingSink()
        with pytest.raises(TransportError) as info:
            await fetch(engine, post(server), sink)
        assert info.value.kind == "reset"
        assert info.value.message == f"127.0.0.1:{server.port} sent a reply that is not HTTP"
        assert (sink.heads, sink.chunks) == ([], [])
        await server.wait_no_connection()
        assert_none_open(engine)


NO_CHUNKS = [
    b"zz\r\nnonsense\r\n",
    b"-5\r\nhello\r\n",
    b"0x5\r\nhello\r\n",
    b"\r\n",
    b"5\r\nhelloXX",
    b"FFFFFFFFFFFFFFFFFFFFF\r\nhello",
    b"0\r\nno colon\r\n\r\n",
    b"0\r\nx : y\r\n\r\n",
]


@pytest.mark.parametrize("tail", NO_CHUNKS)
async def test_broken_chunks_are_a_reset_behind_everything_before_them(
    quiescence: Quiescence, kind: str, tail: bytes
) -> None:
    async with raw_server(once(chunked(OK, end=False) + tail, then="wait")) as server, engine_of(kind) as engine:
        sink = KeepingSink()
        with pytest.raises(TransportError) as info:
            await fetch(engine, post(server), sink)
        assert info.value.kind == "reset"
        assert info.value.message == f"127.0.0.1:{server.port} sent a reply that is not HTTP in the middle of its reply"
        assert sink.body in (OK, OK + b"hello")
        await server.wait_no_connection()


@of_our_own
@pytest.mark.parametrize(
    ("answer", "then", "error", "message"),
    [
        (b"", "close", "reset", "closed the connection"),
        (HEAD[:9], "close", "reset", "closed the connection"),
        (HEAD + b"content-", "close", "reset", "closed the connection"),
        (sized(OK)[:-3], "close", "truncated", "closed the connection in the middle of its reply"),
        (chunked(OK, end=False), "close", "truncated", "closed the connection in the middle of its reply"),
        (chunked(OK)[:-2], "close", "truncated", "closed the connection in the middle of its reply"),
        (chunked(OK, end=False) + b"5\r\nhe", "close", "truncated", "closed the connection in the middle of its reply"),
    ],
)
async def test_a_response_that_is_cut_off_says_where(
    quiescence: Quiescence, kind: str, answer: bytes, then: str, error: str, message: str
) -> None:
    async with raw_server(once(answer, then=then)) as server, engine_of(kind) as engine:
        sink = KeepingSink()
        with pytest.raises(TransportError) as info:
            await fetch(engine, post(server, authorization="Bearer secret", path="/v1?key=secret"), sink)
        assert (info.value.kind, info.value.message) == (error, f"127.0.0.1:{server.port} {message}")
        assert sink.sent == 1
        assert "secret" not in repr(info.value)
        assert engine.open_connections == 0


@pytest.mark.parametrize("has_head", [False, True])
async def test_a_reset_says_that_the_connection_was_lost(quiescence: Quiescence, kind: str, has_head: bool) -> None:
    async def handler(connection: Connection) -> None:
        await connection.request()
        if has_head:
            await connection.send(chunked(OK, end=False))
        await wait_all_tasks_blocked()
        connection.reset()

    async with raw_server(handler) as server, engine_of(kind) as engine:
        sink = KeepingSink()
        with pytest.raises(TransportError) as info:
            await fetch(engine, post(server), sink)
        where = "in the middle of its reply" if has_head else "before it replied"
        assert info.value.kind == "reset"
        assert info.value.message == f"the connection to 127.0.0.1:{server.port} was lost {where}"
        assert sink.body == (OK if has_head else b"")


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 " + b"x" * 300_000,
        HEAD + b"x: " + b"y" * 300_000,
        HEAD + b"x: y\r\n" * 60_000,
        chunked(OK, end=False) + b"5;a=" + b"b" * 300_000,
        chunked(OK, end=False) + b"0\r\n" + b"x: y\r\n" * 60_000,
    ],
    ids=["status line", "header", "headers", "chunk extension", "trailers"],
)
async def test_what_surrounds_a_body_is_bounded(quiescence: Quiescence, kind: str, start: bytes) -> None:
    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(start)
        await connection.wait_left()

    async with raw_server(handler) as server, engine_of(kind) as engine:
        with pytest.raises(TransportError) as info, trio.fail_after(10):
            await fetch(engine, post(server))
        assert info.value.kind == "reset"
        await server.wait_no_connection()


async def test_an_unreachable_port_is_a_failed_connection_and_nothing_was_sent(
    quiescence: Quiescence, kind: str
) -> None:
    async with raw_server(always()) as server:
        pass
    async with engine_of(kind) as engine:
        sink = KeepingSink()
        with pytest.raises(TransportError) as info:
            await fetch(engine, post(server), sink)
    assert (info.value.kind, sink.sent) == ("connect", 0)
    assert info.value.message.startswith(f"no connection to 127.0.0.1:{server.port}: ")
    assert info.value.message.endswith("refused")  # and not that all attempts failed


async def test_a_name_without_an_address_is_a_failed_connection(quiescence: Quiescence, kind: str) -> None:
    async with engine_of(kind) as engine:
        with pytest.raises(TransportError) as info:
            await fetch(engine, WireRequest("POST", "https://no-such-host.invalid/x", [], b"", is_streamed=True))
    assert (info.value.kind, info.value.message) == ("connect", "the host no-such-host.invalid has no address")


@pytest.mark.parametrize("host", ["[::1]", "localhost"])
async def test_other_ways_to_name_this_machine_are_reached(quiescence: Quiescence, kind: str, host: str) -> None:
    """IPv6 by its address; a name, by whichever address family answers."""
    seen: list[str] = []

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            connection = Connection(stream, 1)
            request = await connection.request()
            assert request is not None
            seen.append(request[0]["host"])
            await connection.send(sized(OK))

    try:
        listeners = await trio.open_tcp_listeners(0, host="::1" if host == "[::1]" else "127.0.0.1")
    except OSError:
        pytest.skip("no IPv6 loopback here")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        async with engine_of(kind) as engine:
            sink = await fetch(engine, WireRequest("POST", f"http://{host}:{port}/x", [], b"{}", is_streamed=True))
        nursery.cancel_scope.cancel()
    assert sink.body == OK
    assert seen == [f"{host}:{port}"]


# ---- backpressure, and sinks that refuse


async def test_no_further_is_read_than_the_sink_has_room(quiescence: Quiescence, kind: str) -> None:
    sent = 0

    async def handler(connection: Connection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(chunked(end=False))
        piece = chunk(b"x" * 8192)
        while True:
            await connection.send(piece)
            sent += len(piece)

    async with raw_server(handler) as server, engine_of(kind) as engine:
        sink = KeepingSink(room=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, engine, post(server), sink)
            await until(lambda: sink.waits == 1)
            for turn in range(1, 20):
                await wait_all_tasks_blocked(0.005)
                assert (len(sink.chunks), sink.waits) == (turn, turn)
                sink.more.set()
                sink.more = trio.Event()
                await until(lambda turn=turn: sink.waits == turn + 1)  # type: ignore[misc]
            assert max(map(len, sink.chunks)) <= 64 * 1024
            await wait_all_tasks_blocked(0.01)
            stopped_at = sent
            await wait_all_tasks_blocked(0.01)
            assert sent == stopped_at
            nursery.cancel_scope.cancel()
        await server.wait_no_connection()


async def test_a_full_sink_gets_the_rest_in_order_when_it_has_room_and_the_connection_is_kept(
    quiescence: Quiescence, kind: str
) -> None:
    body = random.Random(3).randbytes(2_000_000)

    class Slow(KeepingSink):
        async def wait_room(self) -> None:
            self.waits += 1
            for _ in range(3):
                await trio.lowlevel.checkpoint()

    async with raw_server(always(sized(body))) as server, engine_of(kind) as engine:
        for _ in range(2):
            sink = Slow(room=False)
            await fetch(engine, post(server), sink)
            assert sink.body == body
            assert sink.waits == len(sink.chunks) > 5
        assert server.connections == 1


async def test_a_sink_that_has_no_room_for_the_last_piece_is_waited_for(quiescence: Quiescence, kind: str) -> None:
    async with raw_server(always(sized(OK))) as server, engine_of(kind) as engine:
        sink = KeepingSink(room=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, engine, post(server), sink)
            await until(lambda: sink.waits == 1)
            await wait_all_tasks_blocked()
            assert not sink.is_over
            sink.more.set()
        assert (sink.is_over, sink.body) == (True, OK)


class Refusal(Exception):
    pass


@pytest.mark.parametrize("where", ["sending", "head", "data", "second data", "wait_room"])
async def test_what_a_sink_raises_ends_the_exchange_as_it_is_and_closes_the_connection(
    quiescence: Quiescence, kind: str, where: str
) -> None:
    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(OK, end=False))
        await got.wait()
        await connection.send(chunk(OK))
        await connection.wait_left()

    got = trio.Event()
    refusal = Refusal()

    class Raising(KeepingSink):
        def sending(self) -> None:
            super().sending()
            if where == "sending":
                raise refusal

        def head(self, status: int, headers: Any) -> None:
            super().head(status, headers)
            if where == "head":
                raise refusal

        def data(self, chunk: bytes) -> bool:
            super().data(chunk)
            got.set()
            if where == "data" or (where == "second data" and len(self.chunks) == 2):
                raise refusal
            return where != "wait_room"

        async def wait_room(self) -> None:
            await trio.lowlevel.checkpoint()
            raise refusal

    async with raw_server(handler) as server, engine_of(kind) as engine:
        with pytest.raises(Refusal) as info:
            await fetch(engine, post(server), Raising())
        assert info.value is refusal
        got.set()
        assert_none_open(engine)
        await server.wait_no_connection()


# ---- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def trust(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


async def test_tls_carries_everything_and_connections_are_kept(
    quiescence: Quiescence, kind: str, certificate: Path, trust: ssl.SSLContext
) -> None:
    body = random.Random(4).randbytes(1_000_000)
    seen: list[int] = []

    async def handler(connection: Connection) -> None:
        while (request := await connection.request()) is not None:
            seen.append(len(request[1]))
            await connection.send(sized(body))

    async with (
        raw_server(handler, tls=server_context(certificate)) as server,
        engine_of(kind, ssl_context=trust) as engine,
    ):
        for size in (2, 700_000, 2):
            assert (await fetch(engine, post(server, b"x" * size))).body == body
        assert server.connections == 1
        assert seen == [2, 700_000, 2]


async def test_a_read_of_many_tls_records_reaches_the_sink_in_one_piece_or_few(
    quiescence: Quiescence, kind: str, certificate: Path, trust: ssl.SSLContext
) -> None:
    pieces = [f"data: {number}\n\n".encode() for number in range(400)]
    sink = KeepingSink(room=False)

    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(b"first", end=False))
        await until(lambda: bool(sink.chunks))
        for piece in pieces:  # a record each, and all of them there before the next read
            await connection.send(chunk(piece))
        await connection.send(b"0\r\n\r\n")
        sink.room = True
        sink.more.set()
        await connection.wait_left()

    async with (
        raw_server(handler, tls=server_context(certificate)) as server,
        engine_of(kind, ssl_context=trust) as engine,
    ):
        await fetch(engine, post(server), sink)
        assert sink.body == b"first" + b"".join(pieces)
        if kind != "httpx":  # `trio.SSLStream` hands out one record a receive
            assert len(sink.chunks) <= 5


async def test_a_body_until_the_close_ends_over_tls_too(
    quiescence: Quiescence, kind: str, certificate: Path, trust: ssl.SSLContext
) -> None:
    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(HEAD + b"\r\n" + OK)
        tls = connection.stream
        assert isinstance(tls, trio.SSLStream)
        if connection.number == 1:
            await tls.aclose()  # with a goodbye; the second time without

    async with (
        raw_server(handler, tls=server_context(certificate)) as server,
        engine_of(kind, ssl_context=trust) as engine,
    ):
        for _ in range(2):
            assert (await fetch(engine, post(server))).body == OK


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    quiescence: Quiescence, kind: str, certificate: Path
) -> None:
    async with raw_server(always(sized(OK)), tls=server_context(certificate)) as server, engine_of(kind) as engine:
        sink = KeepingSink()
        with pytest.raises(TransportError) as info:
            await fetch(engine, post(server), sink)
        assert (info.value.kind, sink.sent) == ("tls_refused", 0)
        assert info.value.message.startswith(f"TLS with 127.0.0.1:{server.port} was refused: self")
        await server.wait_no_connection()
        assert_none_open(engine)


async def test_a_certificate_for_another_name_is_refused(quiescence: Quiescence, kind: str, tmp_path: Path) -> None:
    other = make_certificate(tmp_path, names="DNS:elsewhere.example")
    context = ssl.create_default_context(cafile=str(other))
    async with (
        raw_server(always(sized(OK)), tls=server_context(other)) as server,
        engine_of(kind, ssl_context=context) as engine,
    ):
        with pytest.raises(TransportError) as info:
            await fetch(engine, post(server))
        assert info.value.kind == "tls_refused"
        assert "IP address mismatch" in info.value.message


async def test_plain_bytes_where_tls_was_expected_are_refused(quiescence: Quiescence, kind: str) -> None:
    async def handler(connection: Connection) -> None:
        await connection.stream.receive_some(65536)
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with raw_server(handler) as server, engine_of(kind) as engine:
        server.scheme = "https"
        with pytest.raises(TransportError) as info:
            await fetch(engine, post(server))
        assert info.value.kind == "tls_refused"


@pytest.mark.parametrize("cut", ["garbage", "reset", "close"])
async def test_a_cut_in_tls_behind_a_head_was_no_refusal(
    quiescence: Quiescence, kind: str, certificate: Path, trust: ssl.SSLContext, cut: str
) -> None:
    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(OK, end=False))
        await wait_all_tasks_blocked()
        tls = connection.stream
        assert isinstance(tls, trio.SSLStream)
        raw = tls.transport_stream
        assert isinstance(raw, trio.SocketStream)
        if cut == "garbage":
            await raw.send_all(b"\x17\x03\x03\x00\x20" + b"not a record of ours" + b"\0" * 12)
            await connection.wait_left()
        elif cut == "reset":
            Connection(raw, 0).reset()

    async with (
        raw_server(handler, tls=server_context(certificate)) as server,
        engine_of(kind, ssl_context=trust) as engine,
    ):
        sink = KeepingSink()
        with pytest.raises(TransportError) as info:
            await fetch(engine, post(server), sink)
        assert info.value.kind == ("truncated" if cut == "close" else "reset")
        assert sink.body == OK


async def test_an_idle_tls_connection_that_was_closed_is_replaced(
    quiescence: Quiescence, kind: str, certificate: Path, trust: ssl.SSLContext
) -> None:
    async with (
        raw_server(once(sized(OK)), tls=server_context(certificate)) as server,
        engine_of(kind, ssl_context=trust) as engine,
    ):
        for number in range(1, 4):
            assert (await fetch(engine, post(server))).body == OK
            await server.wait_no_connection()
            assert server.connections == number


# ---- cancellation


@contextlib.contextmanager
def cancelled_at(number: int) -> Any:
    scope = trio.CancelScope()
    instrument = AtStep(number, scope.cancel)
    trio.lowlevel.add_instrument(instrument)
    try:
        with scope:
            yield instrument
    finally:
        trio.lowlevel.remove_instrument(instrument)


def talk(*, slow: bool = False) -> Callable[[Connection], Awaitable[None]]:
    async def handler(connection: Connection) -> None:
        while await connection.request() is not None:
            for piece in (HEAD, b"transfer-encoding: chunked\r\n\r\n", chunk(OK), chunk(OK), b"0\r\n", b"\r\n"):
                await connection.send(piece)
                await trio.lowlevel.checkpoint()

    return handler


@of_our_own
@pytest.mark.parametrize("way", ["plain", "tls", "full sink", "large body"])
async def test_cancelled_at_any_step_an_exchange_leaves_nothing_and_the_next_one_works(
    quiescence: Quiescence, kind: str, way: str, certificate: Path, trust: ssl.SSLContext
) -> None:
    tls = server_context(certificate) if way == "tls" else None
    request_body = b"x" * (1_500_000 if way == "large body" else 2)
    gc.collect()
    gc.disable()  # nothing may wait for the collector
    try:
        async with raw_server(talk(), tls=tls) as server, engine_of(kind, ssl_context=trust) as engine:
            for is_fresh in (True, False):
                number = 0
                reached = True
                while reached and number < 600:
                    number += 1 + number // 40
                    if is_fresh:
                        await close_idle(engine, server)
                    sink = KeepingSink(room=way != "full sink")
                    sink.more.set()
                    with cancelled_at(number) as instrument:
                        await fetch(engine, post(server, request_body), sink)
                    reached = instrument.steps >= number
                    assert_quiet(engine)
                    await until(lambda: len(server.open) == engine.open_connections)
                    if number % 4 == 0:
                        assert (await fetch(engine, post(server))).body == OK * 2
                assert not reached, "the exchange never ended"
                assert (await fetch(engine, post(server))).body == OK * 2
    finally:
        gc.enable()


async def close_idle(engine: Any, server: RawServer) -> None:
    """End the idle connections from the server's side, so that the next exchange opens a new one."""
    for connection in list(server.open):
        stream = connection.stream
        raw = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
        assert isinstance(raw, trio.SocketStream)
        with contextlib.suppress(OSError):
            raw.socket.shutdown(socket.SHUT_RDWR)
    await wait_all_tasks_blocked()


def assert_none_open(engine: Any) -> None:
    """Our own engines say so at once; of a client that the user brought, the server's side tells."""
    if not isinstance(engine, HttpxClientEngine):
        assert engine.open_connections == 0


def assert_quiet(engine: Any) -> None:
    assert not engine._busy, "a connection is in use though no exchange runs"


@of_our_own
async def test_cancelled_while_connecting_nothing_is_left(quiescence: Quiescence, kind: str) -> None:
    """A listener that accepts nobody: its queue is full, so a connection is never made."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        async with engine_of(kind) as engine:
            with trio.move_on_after(0.05) as scope:
                await fetch(engine, WireRequest("POST", f"http://127.0.0.1:{port}/", [], b"{}", is_streamed=True))
            assert scope.cancelled_caught
            assert engine.open_connections == 0
        for filler in fillers:
            filler.close()


@of_our_own
async def test_an_engine_that_is_closed_under_an_exchange_ends_it_as_a_reset(quiescence: Quiescence, kind: str) -> None:
    async with raw_server(once(chunked(OK, end=False), then="wait")) as server, engine_of(kind) as engine:
        sink = KeepingSink()
        errors: list[str] = []

        async def run() -> None:
            with pytest.raises(TransportError) as info:
                await fetch(engine, post(server), sink)
            errors.append(info.value.kind)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await until(lambda: bool(sink.chunks))
            await wait_all_tasks_blocked()
            await engine.aclose()
        assert errors == ["reset"]
        assert engine.open_connections == 0
