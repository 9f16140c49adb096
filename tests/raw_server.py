"""A server on loopback that sends exactly the bytes a test wants, and remembers what it saw."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

__all__ = ["Connection", "RawServer", "chunked", "raw_server", "sized"]


class Connection:
    """One connection, as the server has it."""

    def __init__(self, stream: trio.abc.Stream, number: int) -> None:
        self.stream = stream
        self.number = number  # from 1, in the order they came
        self.requests = 0
        self._read = b""

    async def request(self) -> tuple[dict[str, str], bytes] | None:
        """The next request's headers (with `:line`) and body, or None where the client has closed."""
        while b"\r\n\r\n" not in self._read:
            if not await self._more():
                return None
        head, _, rest = self._read.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = {":line": line}
        for text in lines:
            name, _, value = text.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        self._read = rest
        while len(self._read) < length:
            if not await self._more():
                return None
        body, self._read = self._read[:length], self._read[length:]
        self.requests += 1
        return headers, body

    async def _more(self) -> bool:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            data = await self.stream.receive_some(65536)
            self._read += data
            return bool(data)
        return False

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def wait_left(self) -> None:
        """Wait until the client has closed."""
        while await self._more():
            pass

    def reset(self) -> None:
        """Close with a reset: what is on its way is lost."""
        assert isinstance(self.stream, trio.SocketStream)
        self.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.stream.socket.close()


class RawServer:
    """Where it listens, and its open connections."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.open: set[Connection] = set()
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def wait_no_connection(self) -> None:
        """Wait until every client's connection has ended, as this side sees it."""
        until = time.monotonic() + 20  # of real time: tests stop trio's
        while self.open:
            assert time.monotonic() < until, "a connection stays open"
            await trio.lowlevel.checkpoint()


Handler = Callable[[Connection], Awaitable[None]]


@contextlib.asynccontextmanager
async def raw_server(handler: Handler, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[RawServer]:
    """Serve each connection with `handler` while the block is open; the connection is closed when it returns."""
    server = RawServer()
    server.scheme = "http" if tls is None else "https"

    async def serve(stream: trio.SocketStream) -> None:
        server.connections += 1
        wrapped = stream if tls is None else trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        connection = Connection(wrapped, server.connections)
        server.open.add(connection)
        try:
            async with stream:
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await handler(connection)
        finally:
            server.open.discard(connection)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.port = listeners[0].socket.getsockname()[1]
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, listeners)
        try:
            yield server
        except BaseException as exc:  # kept out of the nursery, which would wrap it
            error = exc
        nursery.cancel_scope.cancel()
    if error is not None:
        raise error


def sized(body: bytes, *, status: str = "200 OK", headers: str = "", kind: str = "application/json") -> bytes:
    """A whole response with its length."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def chunked(*pieces: bytes, end: bool = True, kind: str = "text/event-stream", headers: str = "") -> bytes:
    """A whole response in chunks; without `end` it is a beginning."""
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n{headers}\r\n".encode()
    return head + b"".join(chunk(piece) for piece in pieces) + (b"0\r\n\r\n" if end else b"")


def chunk(piece: bytes) -> bytes:
    return f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
