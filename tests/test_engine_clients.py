"""A client that the user brought, of httpx and of httpx2: what is set up on it works, and it stays the user's."""

from __future__ import annotations

import contextlib
import importlib
import logging
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trio

from ai_lib_trio import AiLibError, CallerError, Config, TransportError, open_client
from ai_lib_trio.client.client import ClientBlock
from ai_lib_trio.testing import Quiescence
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.transport.httpx_engine import HttpxClientEngine
from client_support import KEYS, MODEL, ONE_ATTEMPT, WatchedSink, body_of, delta, finish, frame
from engines import make_certificate, server_context
from raw_server import Connection, RawServer, chunk, chunked, raw_server
from test_actors_faults import crash

STREAM = [frame(delta("one ")), frame(delta("two")), frame(finish()), frame("[DONE]")]
NEEDS_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="httpx2 needs Python 3.11")


@pytest.fixture(params=["httpx", pytest.param("httpx2", marks=NEEDS_311)])
def library(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


def mock(library: Any, handler: Any, **settings: Any) -> Any:
    return library.AsyncClient(transport=library.MockTransport(handler), **settings)


def client_with(theirs: Any, base_url: str | None = None, **settings: Any) -> ClientBlock:
    config = Config(http_client=theirs, resilience=ONE_ATTEMPT, environ=KEYS, **settings)
    return open_client(MODEL, base_url=base_url, api_key=None if base_url is None else "k", config=config)


async def text_of(client: Any, *, streams: bool = True) -> str:
    if not streams:
        return str((await client.chat().user("x").execute()).content)
    async with client.chat().user("x").stream() as events:
        async for _ in events:
            pass
    return str(events.response().content)


# ---- it stays the user's


async def test_it_is_used_and_never_closed(library: Any, quiescence: Quiescence) -> None:
    seen: list[Any] = []

    def handler(request: Any) -> Any:
        seen.append(request)
        return library.Response(200, json=body_of("theirs"))

    async with mock(library, handler, headers={"x-mine": "1"}) as theirs:
        for _ in range(2):
            async with client_with(theirs) as client:
                assert await text_of(client, streams=False) == "theirs"
            assert not theirs.is_closed
    assert [request.headers["x-mine"] for request in seen] == ["1", "1"]
    assert seen[0].headers["authorization"] == "Bearer test-key-one"


async def test_nothing_of_it_is_changed(library: Any, quiescence: Quiescence) -> None:
    """Settings, hooks and mounts are what they were, and the very same objects."""
    async with mock(library, lambda request: library.Response(200, json=body_of("x")), timeout=7.5) as theirs:
        hooks = {name: list(calls) for name, calls in theirs.event_hooks.items()}
        before = {name: value for name, value in vars(theirs).items() if name != "_state"}
        async with client_with(theirs) as client:
            await text_of(client, streams=False)
        after = {name: value for name, value in vars(theirs).items() if name != "_state"}
        assert {name for name in before if before[name] is not after[name]} == set()
        assert {name: list(calls) for name, calls in theirs.event_hooks.items()} == hooks
        assert theirs.timeout == library.Timeout(7.5)


async def test_a_restart_of_the_actor_keeps_it(library: Any, quiescence: Quiescence) -> None:
    async with mock(library, lambda request: library.Response(200, json=body_of("theirs"))) as theirs:
        async with client_with(theirs) as client:
            assert await text_of(client, streams=False) == "theirs"
            crash(client)
            with trio.fail_after(10):
                while client.tree().actors[0].crashes == 0:
                    await trio.lowlevel.checkpoint()
            assert not theirs.is_closed
            with trio.fail_after(10):
                while client.tree().actors[0].state != "running":
                    await trio.lowlevel.checkpoint()
            assert await text_of(client, streams=False) == "theirs"
        assert not theirs.is_closed


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"follow_redirects": True}, "follows redirects: a key could go to another host"),
        ({"auth": ("user", "password")}, "has `auth` set: credentials come from the manifest"),
    ],
)
async def test_one_that_could_send_a_key_elsewhere_is_refused_with_the_reason(
    library: Any, quiescence: Quiescence, settings: dict[str, Any], reason: str
) -> None:
    async with mock(library, lambda request: library.Response(200), **settings) as theirs:
        with pytest.raises(CallerError, match=reason):
            async with client_with(theirs):
                raise AssertionError("it opened")
        assert not theirs.is_closed


@pytest.mark.parametrize("what", ["a synchronous client", "a text"])
async def test_what_is_no_such_client_is_refused_when_the_client_opens(
    library: Any, quiescence: Quiescence, what: str
) -> None:
    theirs = library.Client() if what == "a synchronous client" else "https://proxy.example"
    with pytest.raises(CallerError, match="http_client is an AsyncClient of httpx or httpx2, got "):
        async with client_with(theirs):
            raise AssertionError("it opened")
    if what != "a text":
        theirs.close()


async def test_one_that_is_closed_too_early_is_the_callers_error(library: Any, quiescence: Quiescence) -> None:
    theirs = mock(library, lambda request: library.Response(200, json=body_of("x")))
    async with client_with(theirs) as client:
        await text_of(client, streams=False)
        await theirs.aclose()
        with pytest.raises(CallerError, match="http_client was closed"):
            await text_of(client, streams=False)


async def test_settings_changed_behind_our_back_still_follow_no_redirect_and_add_no_auth(
    library: Any, quiescence: Quiescence
) -> None:
    seen: list[Any] = []

    def handler(request: Any) -> Any:
        seen.append(request)
        return library.Response(307, headers={"location": "https://elsewhere.example/"})

    async with mock(library, handler) as theirs:
        async with client_with(theirs) as client:
            theirs.follow_redirects = True
            theirs.auth = ("user", "password")
            with pytest.raises(TransportError) as info:
                await text_of(client)
        assert info.value.kind == "redirected"
    assert [request.url.host for request in seen] == ["api.openai.com"]
    assert seen[0].headers["authorization"].startswith("Bearer ")


# ---- what is set up on it works


async def test_its_hooks_its_mounts_and_a_class_of_the_users_own_work(library: Any, quiescence: Quiescence) -> None:
    log: list[str] = []

    async def asked(request: Any) -> None:
        log.append(f"asked {request.url.host}")

    async def told(response: Any) -> None:
        log.append(f"told {response.status_code}")

    class Instrumented(library.AsyncClient):  # type: ignore[misc]
        async def send(self, request: Any, **settings: Any) -> Any:
            log.append("sent")
            return await super().send(request, **settings)

    def handler(request: Any) -> Any:
        log.append("mounted")
        return library.Response(200, json=body_of("theirs"))

    async with (
        Instrumented(
            transport=library.MockTransport(lambda request: library.Response(500)),
            mounts={"https://": library.MockTransport(handler)},
            event_hooks={"request": [asked], "response": [told]},
        ) as theirs,
        client_with(theirs) as client,
    ):
        assert await text_of(client, streams=False) == "theirs"
    assert log == ["sent", "asked api.openai.com", "mounted", "told 200"]


async def test_its_log_lines_come(library: Any, quiescence: Quiescence, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=library.__name__)
    theirs = mock(library, lambda request: library.Response(200, json=body_of("x")))
    async with theirs, client_with(theirs) as client:
        await text_of(client, streams=False)
    [record] = [record for record in caplog.records if record.name == library.__name__]
    assert "POST https://api.openai.com/" in record.getMessage()


async def test_a_stream_may_be_left_early(library: Any, quiescence: Quiescence) -> None:
    closed = []

    class Body(library.AsyncByteStream):  # type: ignore[misc]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in STREAM[:2]:
                yield piece
            await trio.sleep_forever()

        async def aclose(self) -> None:
            closed.append(True)

    def handler(request: Any) -> Any:
        return library.Response(200, headers={"content-type": "text/event-stream"}, stream=Body())

    async with mock(library, handler) as theirs, client_with(theirs) as client:
        async with client.chat().user("x").stream() as events:
            await events.__anext__()
        assert closed
        assert client.tree().overdue_leaves == 0


async def test_leaving_a_stream_does_not_read_it_to_its_end(library: Any, quiescence: Quiescence) -> None:
    """A provider that goes on sending is not listened to while the caller is leaving."""

    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(end=False))
        while True:
            await connection.send(chunk(STREAM[0]))
            await trio.lowlevel.checkpoint()

    theirs = library.AsyncClient()
    async with raw_server(handler) as server, theirs, client_with(theirs, server.url) as client:
        async with client.chat().user("x").stream() as events:
            await events.__anext__()
            before = trio.current_time()
        assert trio.current_time() - before < 0.5
        await server.wait_no_connection()


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_faults_are_translated(library: Any, quiescence: Quiescence, then: str) -> None:
    async def handler(connection: Connection) -> None:
        await connection.request()
        await connection.send(chunked(STREAM[0], end=False))
        if then == "reset":
            connection.reset()

    async with raw_server(handler) as server, library.AsyncClient() as theirs:
        async with client_with(theirs, server.url) as client:
            with pytest.raises(AiLibError) as info:
                await text_of(client)
        assert info.value.kind == {"close": "truncated", "reset": "reset"}[then]


async def test_a_body_that_comes_without_a_wait_is_handed_on_in_bounded_pieces(
    library: Any, quiescence: Quiescence
) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b"x" * 8192

    async with mock(library, lambda request: library.Response(200, content=body())) as theirs:
        sink = WatchedSink()
        await HttpxClientEngine(theirs).exchange(WireRequest("POST", "https://a.example/", [], b"{}"), sink)
    assert len(sink.body) == 200 * 8192
    assert max(map(len, sink.chunks)) <= 2 * 64 * 1024


# ---- HTTP/2, which only such a client speaks


class Http2:
    """The server's side: answers each request with a stream of events, and counts them.

    `endless` are those whose stream does not end, by number; `at_once` is how many streams it allows at once.
    """

    def __init__(self, endless: Sequence[int], *, at_once: int = 100) -> None:
        self.endless = endless
        self.at_once = at_once
        self.requests: list[dict[str, str]] = []

    async def __call__(self, connection: Connection) -> None:
        http = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        http.initiate_connection()
        http.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.at_once})
        while True:
            await connection.send(http.data_to_send())
            data = await connection.stream.receive_some(65536)
            if not data:
                return
            for event in http.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    self.requests.append(dict(event.headers))
                elif isinstance(event, h2.events.StreamEnded):
                    self.answer(http, event.stream_id)

    def answer(self, http: Any, stream: int) -> None:
        is_endless = len(self.requests) in self.endless
        http.send_headers(stream, [(":status", "200"), ("content-type", "text/event-stream")])
        for piece in STREAM[:1] if is_endless else STREAM:
            http.send_data(stream, piece)
        if not is_endless:
            http.end_stream(stream)


@contextlib.asynccontextmanager
async def over_http_2(library: Any, speaker: Http2, tmp_path: Path) -> AsyncIterator[tuple[Any, RawServer]]:
    certificate = make_certificate(tmp_path)
    context = server_context(certificate)
    context.set_alpn_protocols(["h2"])
    trust = ssl.create_default_context(cafile=str(certificate))
    theirs = library.AsyncClient(http2=True, verify=trust)
    async with raw_server(speaker, tls=context) as server, theirs, client_with(theirs, server.url) as client:
        yield client, server


async def test_http_2_is_spoken_where_the_client_and_the_server_do(
    library: Any, quiescence: Quiescence, tmp_path: Path
) -> None:
    speaker = Http2(endless=[4])
    async with over_http_2(library, speaker, tmp_path) as (client, server):
        for _ in range(3):
            assert await text_of(client) == "one two"
        async with client.chat().user("x").stream() as events:  # one that does not end: the connection outlives it
            await events.__anext__()
        assert await text_of(client) == "one two"
        assert server.connections == 1
        assert client.tree().overdue_leaves == 0
    assert [request[":method"] for request in speaker.requests] == ["POST"] * 5
    assert speaker.requests[0]["authorization"] == "Bearer k"


async def test_a_connection_of_http_2_that_is_full_of_streams_left_early_is_a_failed_connection(
    library: Any, quiescence: Quiescence, tmp_path: Path
) -> None:
    """httpcore resets no stream, so they stay open for the server, which allows no more of them."""
    speaker = Http2(endless=[1, 2], at_once=2)
    async with over_http_2(library, speaker, tmp_path) as (client, server):
        for _ in range(2):
            async with client.chat().user("x").stream() as events:
                await events.__anext__()
        with pytest.raises(TransportError, match="has room for another stream") as info:
            await text_of(client)
        assert (info.value.kind, info.value.retryable, info.value.fallbackable) == ("connect", True, True)
        assert len(speaker.requests) == 2
        assert server.connections == 1
        assert client.tree().overdue_leaves == 0
