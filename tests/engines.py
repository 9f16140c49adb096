"""The engines that stand behind the seam, opened one way, and sinks to push into."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.transport.httpx_engine import HttpxClientEngine, HttpxEngine
from ai_lib_trio.transport.hub import Hub
from ai_lib_trio.transport.native import NativeEngine

__all__ = [
    "CLIENTS",
    "ENGINES",
    "KeepingSink",
    "benchmark",
    "engine_of",
    "fetch",
    "make_certificate",
    "post",
    "server_context",
]

_needs_epoll = pytest.mark.skipif(not Hub.is_available(), reason="no epoll")
# The native engine four ways: without a hub; with one, for replies that it reads, and for those that it does not; and
# with a reader of its own for each reply, which is lent to it.
ENGINES = [
    "httpx",
    "native",
    "lent",
    pytest.param("hub", marks=_needs_epoll),
    pytest.param("hub, whole replies", marks=_needs_epoll),
]

# Of these two the user brings the client: its pool is not ours to look into.
CLIENTS = ["a client of httpx", "a client of httpx2"] if sys.version_info >= (3, 11) else ["a client of httpx"]


@contextlib.asynccontextmanager
async def engine_of(kind: str, **settings: Any) -> AsyncIterator[Any]:
    """An engine, closed with the block; see `ENGINES`."""
    if kind in CLIENTS:
        library = importlib.import_module(kind.rpartition(" ")[2])
        context = settings.pop("ssl_context", True)
        async with library.AsyncClient(verify=context, trust_env=False, **settings) as client:
            yield HttpxClientEngine(client)
        return
    if not kind.startswith("hub"):
        engine: Any = {"httpx": HttpxEngine, "native": NativeEngine, "lent": _LentReplies}[kind](**settings)
        try:
            yield engine
        finally:
            with trio.CancelScope(shield=True):
                await engine.aclose()
        return
    hub = Hub()
    hub.few = 0  # it reads whatever comes in pieces
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hub.run)
        engine = NativeEngine(hub=hub, **settings) if kind == "hub" else _WholeReplies(hub=hub, **settings)
        try:
            yield engine
        except BaseException as exc:  # kept out of the nursery, which would wrap it
            error = exc
        with trio.CancelScope(shield=True):
            await engine.aclose()
        assert len(hub) == 0, "a closed connection is still with the hub"
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error


class _WholeReplies(NativeEngine):
    """Expects every reply in one piece."""

    async def exchange(self, request: WireRequest, sink: Any) -> None:
        request.is_streamed = False
        await super().exchange(request, sink)


class _LentReplies(NativeEngine):
    """Every reply is read by a task of its own, as a stream's reader does it, whenever the engine lends it."""

    async def exchange(self, request: WireRequest, sink: Any) -> None:
        lending = _Lending(sink)
        error: BaseException | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lending.read)
            try:
                await super().exchange(request, lending)
            except BaseException as exc:  # kept out of the nursery, which would wrap it
                error = exc
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error


class _Lending:
    """A sink in front of another, that takes over the reading."""

    def __init__(self, sink: Any) -> None:
        self.sending, self.head, self.data, self.wait_room = sink.sending, sink.head, sink.data, sink.wait_room
        self.reading: Any = None
        self.is_lent = trio.Event()

    def lend(self, reading: Any) -> bool:
        assert self.reading is None, "lent twice"
        self.reading = reading
        self.is_lent.set()
        return True

    async def read(self) -> None:
        while True:
            await self.is_lent.wait()
            try:
                await self.reading.wait()
            except trio.ClosedResourceError:
                assert not self.reading.read()
            if not self.reading.read():
                self.reading, self.is_lent = None, trio.Event()


class KeepingSink:
    """Keeps what it was told. `room` is what `data` answers; `wait_room` waits for `more`."""

    def __init__(self, *, room: bool = True) -> None:
        self.room = room
        self.more = trio.Event()
        self.sent = 0
        self.heads: list[tuple[int, list[tuple[str, str]]]] = []
        self.chunks: list[bytes] = []
        self.waits = 0
        self.is_over = False

    def sending(self) -> None:
        assert not self.is_over
        self.sent += 1

    def head(self, status: int, headers: Any) -> None:
        assert not self.is_over
        assert self.sent == 1
        self.heads.append((status, list(headers)))

    def data(self, chunk: bytes) -> bool:
        assert not self.is_over
        assert len(self.heads) == 1
        assert chunk
        self.chunks.append(bytes(chunk))
        return self.room

    async def wait_room(self) -> None:
        self.waits += 1
        if self.room:
            await trio.lowlevel.checkpoint()
        else:
            await self.more.wait()

    def lend(self, reading: Any) -> bool:
        return False

    @property
    def status(self) -> int | None:
        return self.heads[0][0] if self.heads else None

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.heads[0][1])

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


def post(server: Any, body: bytes = b"{}", *, method: str = "POST", path: str = "/v1/x", **headers: str) -> WireRequest:
    """A request whose reply is read by the hub, or lent, where the engine does that."""
    pairs = [("content-type", "application/json"), *((name.replace("_", "-"), text) for name, text in headers.items())]
    return WireRequest(method, server.url + path, pairs, body, is_streamed=True)


async def fetch(engine: Any, request: WireRequest, sink: KeepingSink | None = None) -> KeepingSink:
    """One exchange, after which the sink must be left alone."""
    sink = sink or KeepingSink()
    try:
        await engine.exchange(request, sink)
    finally:
        sink.is_over = True
    return sink


def make_certificate(place: Path, names: str = "IP:127.0.0.1,IP:::1,DNS:localhost") -> Path:
    """A self-signed certificate for this machine and its key in one file, made now. Skips where that is impossible."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    command = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName={names}"
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


def server_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def benchmark(module: str, engine: str) -> list[str]:
    """The command that runs a module of the benchmarks; for the engine `hub`, that one reads even a single stream."""
    if engine != "hub":
        return [sys.executable, "-m", f"benchmarks.{module}"]
    by_the_hub = "import runpy; from ai_lib_trio.transport.hub import Hub; Hub.few = 0; "
    return [sys.executable, "-c", f"{by_the_hub}runpy.run_module('benchmarks.{module}', run_name='__main__')"]
