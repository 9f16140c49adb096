"""Clients on real sockets, by each engine: reuse, faults, cutting off, TLS."""

from __future__ import annotations

import gzip
import json
import random
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ai_lib_trio import AdmissionError, AiLibError, CallerError, Config, Timeouts, TransportError, open_client
from ai_lib_trio.client.client import ClientBlock
from ai_lib_trio.pipeline.inflate import Inflater
from ai_lib_trio.resilience.executor import Resilience
from ai_lib_trio.testing import Quiescence
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.transport.httpx_engine import HttpxEngine
from ai_lib_trio.transport.hub import Hub
from ai_lib_trio.transport.native import NativeEngine
from client_support import MODEL, ONE_ATTEMPT, AtStep, WatchedSink, body_of, delta, finish, frame
from raw_server import Connection, RawServer, chunk, chunked, raw_server, sized

OK = json.dumps(body_of("fine")).encode()
STREAM = [frame(delta("one ")), frame(delta("two")), frame(finish()), frame("[DONE]")]


def always(*answers: bytes) -> Callable[[Connection], Awaitable[None]]:
    """Answer each request of a connection with the same bytes, until the client leaves."""

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


TRANSPORT: Any = "auto"


@pytest.fixture(autouse=True, params=["httpx", "native", "native without a hub", "native, read by the hub"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the clients of a test move their bytes by."""
    name, _, _ = request.param.replace(",", "").partition(" ")
    if request.param == "native without a hub":
        monkeypatch.setattr(Hub, "is_available", lambda: False)
    elif request.param == "native, read by the hub":
        monkeypatch.setattr(Hub, "few", 0)
    monkeypatch.setattr(sys.modules[__name__], "TRANSPORT", name)
    return str(request.param)


def one_attempt(**settings: Any) -> Config:
    return Config(**{"environ": {}, "resilience": ONE_ATTEMPT, "transport": TRANSPORT, **settings})


def client_at(server: RawServer, **settings: Any) -> ClientBlock:
    settings.setdefault("resilience", Resilience(max_attempts=1, breaker="off"))  # these are tests of one attempt
    return open_client(MODEL, base_url=server.url, api_key="test-key", config=one_attempt(**settings))


async def text_of(client: Any, *, streams: bool = True) -> str:
    if not streams:
        return str((await client.chat().user("x").execute()).content)
    async with client.chat().user("x").stream() as events:
        async for _ in events:
            pass
    return str(events.response().content)


def post(server: RawServer, body: bytes = b"{}") -> WireRequest:
    return WireRequest("POST", f"{server.url}/v1/x", [("content-type", "application/json")], body)


# ---- connections


async def test_a_connection_is_used_again_call_after_call(quiescence: Quiescence) -> None:
    async with raw_server(always(sized(OK))) as server, client_at(server) as client:
        for _ in range(5):
            assert await text_of(client, streams=False) == "fine"
        assert server.connections == 1
        assert len(server.open) == 1
    assert server.open == set()


async def test_streams_reuse_connections_too_and_run_side_by_side(quiescence: Quiescence) -> None:
    async with raw_server(always(chunked(*STREAM))) as server, client_at(server) as client:
        for _ in range(3):
            assert await text_of(client) == "one two"
        assert server.connections == 1
        async with trio.open_nursery() as nursery:
            for _ in range(150):  # over httpx's own limit of 100
                nursery.start_soon(text_of, client)
        assert server.connections <= 150
        assert client.stats()["ok"] == 153


async def test_what_the_server_said_to_close_is_not_used_again(quiescence: Quiescence) -> None:
    answer = sized(OK, headers="connection: close\r\n")
    async with raw_server(once(answer)) as server, client_at(server) as client:
        for _ in range(3):
            assert await text_of(client, streams=False) == "fine"
        assert server.connections == 3


async def test_a_kept_connection_that_the_server_closed_is_replaced_before_it_is_used(quiescence: Quiescence) -> None:
    async with raw_server(once(sized(OK))) as server, client_at(server) as client:
        for _ in range(4):
            assert await text_of(client, streams=False) == "fine"
            await server.wait_no_connection()
        assert server.connections == 4


async def test_a_kept_connection_that_closes_under_the_next_request_is_a_reset(quiescence: Quiescence) -> None:
    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(sized(OK))
        if connection.number == 1:
            await connection.request()  # taken, and answered by closing

    async with raw_server(handler) as server, client_at(server) as client:
        assert await text_of(client, streams=False) == "fine"
        with pytest.raises(TransportError) as info:
            await text_of(client, streams=False)
        assert (info.value.kind, info.value.attempts[0].state) == ("reset", "silent")
        assert await text_of(client, streams=False) == "fine"


def silent_at_the_second(*answer: bytes, asked: trio.Event | None = None) -> Callable[[Connection], Awaitable[None]]:
    """Answers the first request of a connection; of the second answer it sends this much, and then nothing."""

    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(sized(OK))
        if await connection.request() is None:
            return
        for piece in answer:
            await connection.send(piece)
        if asked is not None:
            asked.set()
        await connection.wait_left()

    return handler


SILENCES = [
    pytest.param((), "first_byte_timeout", id="before the head"),
    pytest.param((sized(OK)[:-5],), "idle_timeout", id="in the body"),
    pytest.param((chunked(OK[:5], end=False),), "idle_timeout", id="in a chunked body"),
]


@pytest.mark.parametrize(("answer", "kind"), SILENCES)
async def test_limits_on_time_end_a_call_on_a_kept_connection_and_close_it(
    quiescence: Quiescence, answer: tuple[bytes, ...], kind: str
) -> None:
    timeouts = Timeouts(first_byte_s=0.1, idle_s=0.1)
    async with raw_server(silent_at_the_second(*answer)) as server, client_at(server, timeouts=timeouts) as client:
        for _ in range(2):
            assert await text_of(client, streams=False) == "fine"
            with pytest.raises(TransportError) as info:
                await text_of(client, streams=False)
            assert info.value.kind == kind
            await server.wait_no_connection()
        assert server.connections == 2
        assert client.tree().actors[0].inflight == 0


@pytest.mark.parametrize("answer", [(), (sized(OK)[:-5],)])
async def test_a_call_on_a_kept_connection_ends_with_its_client(
    quiescence: Quiescence, answer: tuple[bytes, ...]
) -> None:
    ended: list[str] = []

    async def call(client: Any) -> None:
        with pytest.raises(AdmissionError) as info:
            await text_of(client, streams=False)
        ended.append(info.value.kind)

    asked = trio.Event()
    async with trio.open_nursery() as nursery, raw_server(silent_at_the_second(*answer, asked=asked)) as server:
        async with client_at(server, shutdown_grace_s=0) as client:
            assert await text_of(client, streams=False) == "fine"
            nursery.start_soon(call, client)
            await asked.wait()
        await server.wait_no_connection()
    assert ended == ["client_closed"]


async def test_a_whole_reply_on_a_kept_connection_that_is_still_inflated_ends_with_its_client(
    quiescence: Quiescence, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it has come, so nobody waits for the connection: what ends it is not the close alone."""
    ended: list[str] = []
    steps = 0
    step = Inflater.step

    def counted(inflater: Inflater) -> bytes:
        nonlocal steps
        steps += 1
        return step(inflater)

    monkeypatch.setattr(Inflater, "step", counted)
    packed = sized(gzip.compress(b" " * 60_000_000), headers="content-encoding: gzip\r\n")

    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(sized(OK))
        if await connection.request() is not None:
            await connection.send(packed)
            await connection.wait_left()

    async def call(client: Any) -> None:
        with pytest.raises(AiLibError) as info:
            await text_of(client, streams=False)
        ended.append(info.value.kind)

    async with trio.open_nursery() as nursery, raw_server(handler) as server:
        async with client_at(server, shutdown_grace_s=0) as client:
            assert await text_of(client, streams=False) == "fine"
            nursery.start_soon(call, client)
            while not any(one.bytes_in for one in client.tree().actors[0].calls):
                await trio.lowlevel.checkpoint()
        assert ended == ["client_closed"]
        assert 0 < steps < 50  # of 258
        await server.wait_no_connection()


async def test_a_call_on_a_kept_connection_that_is_cancelled_closes_it(quiescence: Quiescence) -> None:
    asked = trio.Event()
    async with raw_server(silent_at_the_second(asked=asked)) as server, client_at(server) as client:
        assert await text_of(client, streams=False) == "fine"
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(text_of, client, streams=False))
                await asked.wait()
                scope.cancel()
        await server.wait_no_connection()
        assert await text_of(client, streams=False) == "fine"
        assert client.tree().actors[0].inflight == 0


async def test_closing_the_engine_closes_its_connections_and_is_safe_twice(quiescence: Quiescence) -> None:
    async with raw_server(always(sized(OK))) as server:
        engine = HttpxEngine()
        for _ in range(2):
            await engine.exchange(post(server), WatchedSink())
        assert engine.open_connections == 1
        await engine.aclose()
        await engine.aclose()
        await server.wait_no_connection()
        with pytest.raises(TransportError, match="closed"):
            await engine.exchange(post(server), WatchedSink())


# ---- framing


@pytest.mark.parametrize("framing", ["sized", "chunked", "until close", "byte by byte"])
async def test_every_framing_of_a_body_comes_out_as_it_was_sent(quiescence: Quiescence, framing: str) -> None:
    body = bytes(range(256)) * 2000
    head = b"HTTP/1.1 200 OK\r\nX-Mixed: A\r\n"
    if framing == "sized":
        answers = [head + f"content-length: {len(body)}\r\n\r\n".encode() + body]
    elif framing == "until close":
        answers = [head + b"\r\n" + body]
    else:
        size = 1 if framing == "byte by byte" else 5000
        body = body[:300] if size == 1 else body
        pieces = [chunk(body[at : at + size]) for at in range(0, len(body), size)]
        answers = [head + b"transfer-encoding: chunked\r\n\r\n", *pieces, b"0\r\n\r\n"]
    async with raw_server(once(*answers)) as server:
        engine, sink = HttpxEngine(), WatchedSink()
        await engine.exchange(post(server), sink)
        await engine.aclose()
    assert (sink.status, sink.headers["x-mixed"], sink.sent) == (200, "A", 1)
    assert sink.body == body


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_a_reply_without_a_body_is_a_head_and_an_end(quiescence: Quiescence, status: str) -> None:
    async with raw_server(always(f"HTTP/1.1 {status}\r\n\r\n".encode())) as server:
        engine, sink = HttpxEngine(), WatchedSink()
        await engine.exchange(post(server), sink)
        await engine.exchange(post(server), sink)
        await engine.aclose()
        assert server.connections == 1
    assert (sink.status, sink.body) == (int(status[:3]), b"")


async def test_an_informational_response_before_the_final_one_is_passed_over(quiescence: Quiescence) -> None:
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with raw_server(always(early + sized(OK))) as server, client_at(server) as client:
        assert await text_of(client, streams=False) == "fine"


async def test_the_body_stays_encoded_for_the_sink(quiescence: Quiescence) -> None:
    packed = gzip.compress(OK)
    async with raw_server(always(sized(packed, headers="content-encoding: gzip\r\n"))) as server:
        engine, sink = HttpxEngine(), WatchedSink()
        await engine.exchange(post(server), sink)
        await engine.aclose()
        async with client_at(server) as client:
            assert await text_of(client, streams=False) == "fine"
    assert sink.body == packed


async def test_a_bomb_is_stopped_at_the_bound_and_its_connection_closed(quiescence: Quiescence) -> None:
    bomb = gzip.compress(b" " * 30_000_000)
    async with (
        raw_server(always(sized(bomb, headers="content-encoding: gzip\r\n"))) as server,
        client_at(server, max_reply_bytes=1_000_000) as client,
    ):
        with pytest.raises(TransportError) as info:
            await text_of(client, streams=False)
        assert info.value.kind == "oversize"
        await server.wait_no_connection()


async def test_the_engine_reads_no_further_than_the_sink_has_room(quiescence: Quiescence) -> None:
    sent = 0

    async def handler(connection: Connection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(chunked(end=False))
        piece = chunk(b"x" * 8192)
        while True:
            await connection.send(piece)
            sent += len(piece)

    class Full(WatchedSink):
        def data(self, chunk: bytes) -> bool:
            super().data(chunk)
            return False

        async def wait_room(self) -> None:
            await trio.sleep_forever()

    async with raw_server(handler) as server:
        engine, sink = HttpxEngine(), Full()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.exchange, post(server), sink)
            await wait_all_tasks_blocked(0.05)
            assert len(sink.chunks) == 1
            stopped_at = sent
            await wait_all_tasks_blocked(0.05)
            assert sent == stopped_at
            nursery.cancel_scope.cancel()
        await engine.aclose()
        await server.wait_no_connection()


# ---- faults


FAULTS = [
    (b"", "close", "reset"),
    (b"", "reset", "reset"),
    (b"HTTP/1.1 200 OK\r\ncontent-", "close", "reset"),
    (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "close", "reset"),
    (sized(OK)[:-10], "close", "truncated"),
    (sized(OK)[:-10], "reset", "reset"),
    (chunked(*STREAM[:2], end=False), "close", "truncated"),
    (chunked(*STREAM[:2], end=False), "reset", "reset"),
    (chunked(*STREAM[:2]), "close", "truncated"),
    (b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + STREAM[0], "close", "truncated"),
    (chunked(end=False) + b"zz\r\nnonsense\r\n", "close", "reset"),
    (sized(b"<html>sign in</html>", kind="text/html"), "close", "wrong_content_type"),
    (sized(b"", status="302 Found", headers="location: http://127.0.0.1:1/\r\n"), "close", "redirected"),
    (chunked(STREAM[0], b"data: {nonsense\n\n", end=False), "close", "unreadable_frame"),
    (chunked(STREAM[0], b"data: {nonsense\n\n", end=False), "wait", "unreadable_frame"),
    (chunked(STREAM[0], b"data: {nonsense\n\n", *[b": more\n\n"] * 500), "wait", "unreadable_frame"),
]
CASES = [
    pytest.param(streams, *fault, id=f"{number}-{fault[2]}-{'stream' if streams else 'whole'}")
    for number, fault in enumerate(FAULTS)
    for streams in (False, True)
    if streams or b"text/event-stream" not in fault[0]
]


@pytest.mark.parametrize(("streams", "answer", "then", "kind"), CASES)
async def test_each_fault_of_the_wire_has_its_kind_and_leaves_no_connection(
    quiescence: Quiescence, streams: bool, answer: bytes, then: str, kind: str
) -> None:
    async with raw_server(once(answer, then=then)) as server, client_at(server) as client:
        for _ in range(2):
            with pytest.raises(TransportError) as info:
                await text_of(client, streams=streams)
            # A reset may overtake the bytes before it: then there was no status either.
            assert info.value.kind == kind
            assert "test-key" not in f"{info.value!r}"
            await server.wait_no_connection()
        assert client.tree().actors[0].bugs == 0


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_cut_behind_a_complete_answer_is_a_complete_answer(quiescence: Quiescence, then: str) -> None:
    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(*STREAM, end=False))
        if then == "reset":
            await connection.wait_left()  # until the client gives up waiting for the body's end
            return

    async with raw_server(handler) as server, client_at(server) as client:
        assert await text_of(client) == "one two"


async def test_an_unreachable_port_is_a_failed_connection(quiescence: Quiescence) -> None:
    async with raw_server(always()) as server:
        pass
    async with client_at(server) as client:
        with pytest.raises(TransportError) as info:
            await text_of(client)
    assert (info.value.kind, info.value.attempts[0].state) == ("connect", "unsent")
    assert f"127.0.0.1:{server.port}" in info.value.message
    assert info.value.retryable
    assert info.value.fallbackable


class NoNames(trio.abc.HostnameResolver):
    """Knows no host, and says so at once."""

    async def getaddrinfo(self, *args: Any, **settings: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def getnameinfo(self, *args: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


async def test_a_name_without_an_address_is_a_failed_connection(quiescence: Quiescence) -> None:
    trio.socket.set_custom_hostname_resolver(NoNames())
    block = open_client(MODEL, base_url="https://no-such-host.invalid", api_key="k", config=one_attempt())
    async with block as client:
        with pytest.raises(TransportError) as info:
            await text_of(client)
    assert info.value.kind == "connect"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key in one file, made now."""
    import shutil
    import subprocess

    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    place = tmp_path_factory.mktemp("tls")
    command = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    made = subprocess.run(
        [openssl, *command.split(), "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=place,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("this openssl cannot make a certificate")
    both = place / "both.pem"
    both.write_bytes((place / "cert.pem").read_bytes() + (place / "key.pem").read_bytes())
    return both


def server_tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


async def test_a_certificate_that_nobody_vouches_for_is_refused(quiescence: Quiescence, certificate: Path) -> None:
    async with raw_server(always(sized(OK)), tls=server_tls(certificate)) as server, client_at(server) as client:
        with pytest.raises(TransportError) as info:
            await text_of(client)
        assert (info.value.kind, info.value.retryable, info.value.fallbackable) == ("tls_refused", False, True)
        assert info.value.attempts[0].state == "unsent"
        await server.wait_no_connection()


async def test_plain_bytes_where_tls_was_expected_are_refused(quiescence: Quiescence) -> None:
    async def handler(connection: Connection) -> None:
        await connection.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await connection.wait_left()

    async with raw_server(handler) as server:
        server.scheme = "https"
        async with client_at(server) as client:
            with pytest.raises(TransportError) as info:
                await text_of(client)
        assert info.value.kind == "tls_refused"


async def test_tls_with_the_callers_own_trust_works_and_is_cut_off_cleanly(
    quiescence: Quiescence, certificate: Path
) -> None:
    trust = ssl.create_default_context(cafile=str(certificate))

    async def handler(connection: Connection) -> None:
        while await connection.request() is not None:
            if connection.requests < 3:
                await connection.send(chunked(*STREAM))
            else:
                await connection.send(chunked(STREAM[0], end=False))
                await connection.wait_left()

    async with (
        raw_server(handler, tls=server_tls(certificate)) as server,
        client_at(server, ssl_context=trust) as client,
    ):
        assert await text_of(client) == "one two"
        assert await text_of(client) == "one two"
        assert server.connections == 1
        async with client.chat().user("x").stream() as events:
            await events.__anext__()
        await server.wait_no_connection()


async def test_a_tls_server_that_resets_in_the_middle_was_not_a_refusal(
    quiescence: Quiescence, certificate: Path
) -> None:
    trust = ssl.create_default_context(cafile=str(certificate))

    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(STREAM[0], end=False))
        stream = connection.stream
        assert isinstance(stream, trio.SSLStream)
        await stream.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + b"not a record of ours" + b"\0" * 12)
        await connection.wait_left()

    async with (
        raw_server(handler, tls=server_tls(certificate)) as server,
        client_at(server, ssl_context=trust) as client,
    ):
        with pytest.raises(TransportError) as info:
            await text_of(client)
        assert info.value.kind == "reset"


# ---- cutting off


def conversation(*, pause: Callable[[], Awaitable[None]]) -> Callable[[Connection], Awaitable[None]]:
    async def handler(connection: Connection) -> None:
        while await connection.request() is not None:
            await pause()
            await connection.send(chunked(end=False))
            for piece in STREAM:
                await pause()
                await connection.send(chunk(piece))
            await connection.send(b"0\r\n\r\n")

    return handler


@pytest.mark.parametrize("seed", range(4))
async def test_cancelled_at_random_steps_on_real_sockets_nothing_is_left_and_the_next_call_works(
    quiescence: Quiescence, seed: int
) -> None:
    chance = random.Random(seed)

    async def pause() -> None:
        for _ in range(chance.randrange(3)):
            await trio.lowlevel.checkpoint()

    async with raw_server(conversation(pause=pause)) as server, client_at(server) as client:
        for _ in range(60):
            scope = trio.CancelScope()
            instrument = AtStep(chance.randrange(1, 120), scope.cancel)
            trio.lowlevel.add_instrument(instrument)
            try:
                with scope:
                    await text_of(client)
            finally:
                trio.lowlevel.remove_instrument(instrument)
            tree = client.tree()
            assert (tree.open_calls, tree.overdue_leaves, tree.actors[0].inflight if tree.actors else 0) == (0, 0, 0)
            if scope.cancelled_caught:
                engine = next(iter(client._supervisor.slots.values())).engine if tree.actors else None
                if isinstance(engine, HttpxEngine | NativeEngine):
                    while len(server.open) > engine.open_connections:
                        await trio.lowlevel.checkpoint()  # the server hears of it
            assert await text_of(client) == "one two"
        assert client.tree().actors[0].bugs == 0


async def test_leaving_a_stream_closes_its_socket_before_the_block_is_over(quiescence: Quiescence) -> None:
    async with raw_server(once(chunked(STREAM[0], end=False), then="wait")) as server, client_at(server) as client:
        before = Quiescence()
        async with client.chat().user("x").stream() as events:
            await events.__anext__()
            assert len(server.open) == 1
        mine = [line for line in before.leftovers() if line.startswith("socket")]
        assert len(mine) <= 1, "the server's side may not have heard of it yet"
        await server.wait_no_connection()


@pytest.mark.parametrize("proxy", ["nonsense://x", "user:p4ss@127.0.0.1:1"])
async def test_a_proxy_in_the_environment_that_is_none_is_the_callers_mistake_and_keeps_its_password(
    quiescence: Quiescence, proxy: str
) -> None:
    environ = {"OPENAI_API_KEY": "k", "HTTPS_PROXY": proxy}
    async with open_client("openai/any", config=Config(environ=environ)) as client:
        with pytest.raises(CallerError, match="expected a proxy such as") as caught:
            await client.chat("x").execute()
        assert [actor.crashes + actor.bugs for actor in client.tree().actors] == [0]
    assert "p4ss" not in str(caught.value)
