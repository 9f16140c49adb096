"""The httpx engine: one leased connection per exchange, pulled by httpx and pushed into the sink.

Imports `errors` and `base`; httpx is imported when the first exchange needs it. A client that the caller brings is
spoken to in the words of the library that it is from: httpx, or one with the same names, as httpx2. The rule that must
stay true: an exchange owns its connection alone, so that whatever goes wrong it can be closed without asking a shared
pool.

Why a transport per connection and not one pool: httpcore's pool scans all connections for every request, and a
cancellation at an unlucky checkpoint leaves a connection in it that nobody closes (seen with httpcore 1.0.9: between
connecting and taking the connection's lock). A transport with one connection has neither problem, and costs 40 us.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import sys
import time
import types
from collections.abc import Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

import trio

from ..errors import AiLibError, CallerError, TransportError
from .base import Sink, WireRequest
from .http1 import reason_of
from .tls import default_context

if TYPE_CHECKING:
    import httpx

__all__ = ["HttpxClientEngine", "HttpxEngine"]

MAX_IDLE = 100  # connections kept for the next call: what a busy agent loop reuses, far below any descriptor limit
KEEPALIVE_S = (
    60.0  # servers commonly close idle connections after 60 to 75 s; a closed one is noticed before use anyway
)
READ_BYTES = 64 * 1024  # what httpcore asks a socket for at a time
ABORT_S = (
    1.0  # closing waits for no peer, only for a few turns of the scheduler; the bound is for what we do not foresee
)


class _Library:
    """What is needed of httpx, or of a library with the same names."""

    def __init__(self, module: Any) -> None:
        self.faults: tuple[type[Exception], ...] = (module.HTTPError, module.InvalidURL, module.StreamError)
        self.unreached: tuple[type[Exception], ...] = (module.ConnectError, module.ProxyError)
        self.unsendable: tuple[type[Exception], ...] = (
            module.InvalidURL,
            module.UnsupportedProtocol,
            module.LocalProtocolError,
        )
        self.unreadable: type[Exception] = module.RemoteProtocolError

        class WholeBody(module.AsyncByteStream):  # type: ignore[misc]
            """No generator: one that is cancelled in the middle leaves nothing for the collector."""

            def __init__(self, body: bytes) -> None:
                self._body: bytes | None = body

            def __aiter__(self) -> WholeBody:
                return self

            async def __anext__(self) -> bytes:
                body, self._body = self._body, None
                if body is None:
                    raise StopAsyncIteration
                return body

        self.whole_body = WholeBody


@functools.cache
def _library(name: str) -> _Library:
    return _Library(sys.modules[name])


def _library_of(client: Any) -> _Library:
    """The library whose `AsyncClient` this is. Raises `CallerError` where it is none."""
    for base in type(client).__mro__:
        name = base.__module__.partition(".")[0]
        if base.__name__ == "AsyncClient" and hasattr(sys.modules.get(name), "AsyncByteStream"):
            return _library(name)
    what = f"http_client is an AsyncClient of httpx or httpx2, got {type(client).__module__}.{type(client).__name__}"
    raise CallerError(what, kind="bad_argument")


@functools.cache
def _no_tls() -> ssl.SSLContext:
    """For plain http, where httpx wants a context all the same: it trusts nobody, and costs nothing to make."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class _Lease:
    """One transport with at most one connection, and that connection's socket, to cut it off by."""

    __slots__ = ("_abort", "_trap", "idle_since", "is_asked", "sock", "transport")

    def __init__(self, transport: httpx.AsyncHTTPTransport) -> None:
        self.transport = transport
        self.sock: Any = None  # trio's, while there is a connection
        self.is_asked = False  # a request is under way on it
        self.idle_since = 0.0
        self._abort: Any = None  # what undoes the wait that goes on now
        self._trap: Any = None  # the wait that closes the connection when it is cancelled

    def connected(self, stream: Any) -> None:
        """httpcore has a connection: its network stream."""
        self.sock = stream.get_extra_info("socket")
        self._trap = _begun(trio.lowlevel.wait_task_rescheduled(self._aborted))  # noqa: ASYNC105  # only begun, by hand

    def cut(self) -> None:
        """End both directions now, without a goodbye. Waits for nothing; reads below us meet the end.

        The descriptor stays open until `close`: httpcore may still ask it whether it is readable.
        """
        if self.sock is not None:
            with contextlib.suppress(OSError):  # not connected any more: as cut as can be
                self.sock.shutdown(socket.SHUT_RDWR)

    async def cut_off(self) -> None:
        self.cut()

    def close(self) -> None:
        """Close the socket now, without a goodbye. Waits for nothing; safe to call twice.

        It is all that there is to close: what httpcore keeps of a connection is in memory, and goes with the transport.
        One that httpcore lost sight of, such as in a cancelled handshake, is closed as well.
        """
        sock, self.sock = self.sock, None
        self._trap = None  # which knows this lease: nothing is left to the collector
        if sock is not None:
            sock.close()

    def guarded(self, trap: Any) -> Any:
        """The same wait, whose cancellation closes the connection.

        The server sees it go in the turn that cancels, and not when all tasks that were cancelled with this one have
        been unwound: through httpx and httpcore that takes some 150 us and three turns each. Once a request is under
        way only: connecting gives up waits of its own, and httpcore asks an idle connection whether it is readable.
        """
        # trio hides what a wait is undone by; where it is called otherwise, unwinding closes the connection.
        abort = getattr(trap, "abort_func", None) if self.is_asked else None
        if abort is None or self._trap is None:
            return trap
        self._abort = abort
        return self._trap

    def _aborted(self, raise_cancel: Any) -> trio.lowlevel.Abort:
        abort, self._abort = self._abort, None
        outcome: trio.lowlevel.Abort = abort(raise_cancel)
        if outcome is trio.lowlevel.Abort.SUCCEEDED:  # nothing waits for the socket any more
            self.close()
        return outcome


class HttpxEngine:
    """Connections of our own through httpx's transport. `proxy` is a proxy's URL or None."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None, proxy: str | None = None) -> None:
        self._ssl_context = ssl_context
        self._proxy = proxy
        self._idle: list[_Lease] = []
        self._busy: set[_Lease] = set()
        self._is_closed = False

    @property
    def open_connections(self) -> int:
        """Connections that are leased or kept for reuse."""
        return len(self._idle) + len(self._busy)

    def _new_transport(self, *, is_tls: bool) -> httpx.AsyncHTTPTransport:
        import httpx

        if self._ssl_context is None:
            self._ssl_context = default_context() if is_tls else _no_tls()
        try:
            return httpx.AsyncHTTPTransport(
                verify=self._ssl_context,
                trust_env=False,
                http1=True,
                http2=False,
                limits=httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE_S),
                proxy=self._proxy,
            )
        except (ValueError, ImportError) as exc:  # the environment names no proxy, or one of a kind that is not there
            scheme = "no scheme" if "://" not in (proxy := self._proxy or "") else proxy.partition("://")[0][:20]
            raise CallerError(
                f"expected a proxy such as http://host:port in the environment, got {scheme}", kind="bad_argument"
            ) from exc

    def _lease(self, *, is_tls: bool) -> _Lease:
        now = time.monotonic()
        stale = [lease for lease in self._idle if now - lease.idle_since > KEEPALIVE_S]
        if stale:
            self._idle = [lease for lease in self._idle if lease not in stale]
            for lease in stale:
                lease.close()
        # The most recently used first: the least likely to have been closed by the server meanwhile.
        lease = self._idle.pop() if self._idle else _Lease(self._new_transport(is_tls=is_tls))
        self._busy.add(lease)
        return lease

    async def exchange(self, request: WireRequest, sink: Sink) -> None:
        """See `base.Engine`."""
        if self._is_closed:
            raise TransportError("the engine is closed", kind="connect")
        lease = self._lease(is_tls=request.url.startswith("https:"))
        is_clean = False
        try:
            await _pull(request, sink, lease)
            is_clean = True
        finally:
            self._busy.discard(lease)
            if is_clean and not self._is_closed and len(self._idle) < MAX_IDLE:
                lease.is_asked = False
                lease.idle_since = time.monotonic()
                self._idle.append(lease)
            else:
                lease.close()

    async def aclose(self) -> None:
        """Close every connection. Exchanges that still run end with a `reset`."""
        self._is_closed = True
        idle, self._idle = self._idle, []
        for lease in idle:
            lease.close()
        for lease in list(self._busy):
            lease.close()
            # httpcore must forget the connection, or an exchange that is just ending asks whether it is readable.
            with trio.move_on_after(ABORT_S, shield=True):
                await lease.transport.aclose()
        await trio.lowlevel.cancel_shielded_checkpoint()


async def _pull(request: WireRequest, sink: Sink, lease: _Lease) -> None:
    """One exchange on one lease: send, then push what comes until the body ends."""
    import httpx

    library = _library("httpx")

    async def trace(name: str, info: dict[str, Any]) -> None:
        if name.endswith("connect_tcp.complete"):
            lease.connected(info["return_value"])
        elif _is_sending(name, info):
            del info["request"].extensions["trace"]  # of what comes behind it nothing is asked
            lease.is_asked = True
            sink.sending()

    has_head = False
    failure: BaseException | None = None
    try:
        wire = httpx.Request(
            request.method, request.url, headers=request.headers, content=request.body, extensions={"trace": trace}
        )
        wire.stream = library.whole_body(request.body)
        response = await _watched(lease.transport.handle_async_request(wire), lease.guarded)
        try:
            sink.head(response.status_code, _headers(response))
            has_head = True
            await _push_body(response.stream, sink, lease.cut_off, library, lease.guarded)
        finally:
            # Reading a body to its end does not return the connection; closing the response does.
            if lease.sock is not None:
                with trio.move_on_after(ABORT_S, shield=True):
                    await response.aclose()
    except library.faults as exc:
        failure = exc
    except trio.ClosedResourceError as exc:  # by `aclose`; httpcore leaves it as it is in a handshake
        if lease.sock is not None:
            raise
        failure = exc
    if failure is not None:
        # Outside the handler: httpx's exception holds the request with its headers, and must not hang on ours.
        error = translate(failure, request.url, library, has_head=has_head)
        cause, failure = failure.__cause__, None
        raise error from cause


def _is_sending(name: str, info: dict[str, Any]) -> bool:
    """Whether httpcore tells that the request goes out: not the one that asks a proxy for a tunnel."""
    return name.endswith("send_request_headers.started") and getattr(info.get("request"), "method", b"") != b"CONNECT"


class _Gathered:
    """The pieces of a body that came without a wait, until they go into the sink together."""

    __slots__ = ("fault", "guarded", "is_at_sink", "is_full", "pieces", "scope", "sink", "size")

    def __init__(self, sink: Sink, scope: trio.CancelScope, guarded: Callable[[Any], Any] | None) -> None:
        self.sink = sink
        self.scope = scope
        self.guarded = guarded
        self.pieces: list[bytes] = []
        self.size = 0
        self.is_full = False  # the sink said so while the stream was waiting already
        self.is_at_sink = False  # what is waited for now, or what raised, is the sink and not the stream
        self.fault: BaseException | None = None  # what the sink raised meanwhile

    def push(self) -> bool:
        """Give the sink what there is. Whether it has room for more."""
        pieces = self.pieces
        if not pieces:
            return True
        whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.pieces = []
        self.size = 0
        self.is_at_sink = True
        has_room = self.sink.data(whole)
        self.is_at_sink = False
        return has_room

    def on_wait(self, trap: Any) -> Any:
        """The stream is about to wait for the network: what it brought is all that was read."""
        if self.is_at_sink:
            return trap
        if self.fault is None:
            try:
                self.is_full = not self.push() or self.is_full
            except BaseException as exc:
                # The step that has begun holds the scheduler's trap: it must go on, into this cancellation.
                self.fault = exc
                self.is_at_sink = False
                self.scope.cancel()
        return trap if self.guarded is None else self.guarded(trap)

    async def rest(self) -> None:
        self.is_full = False
        self.is_at_sink = True
        await self.sink.wait_room()
        self.is_at_sink = False


async def _push_body(
    stream: Any,
    sink: Sink,
    cut_off: Callable[[], Awaitable[None]],
    library: _Library,
    guarded: Callable[[Any], Any] | None = None,
) -> None:
    """Push a body as it comes: one call of the sink for all that is there before the next wait for the network,
    whatever chunks and records it came in.

    Left in the middle, it calls `cut_off` and unwinds the stream. `guarded`: see `_Lease`.
    """
    scope = trio.CancelScope()
    gathered = _Gathered(sink, scope, guarded)
    try:
        with scope:
            work = _gather(stream.__aiter__(), gathered, cut_off, library)
            await _watched(work, gathered.on_wait)
    finally:
        if gathered.fault is not None:  # whatever became of the step: what the sink raised goes first
            fault, gathered.fault = gathered.fault, None
            try:
                raise fault
            finally:
                del fault  # its traceback holds this frame


async def _gather(
    iterator: Any, gathered: _Gathered, cut_off: Callable[[], Awaitable[None]], library: _Library
) -> None:
    try:
        async for piece in iterator:
            if piece:
                gathered.pieces.append(piece)
                gathered.size += len(piece)
            if gathered.is_full:
                await gathered.rest()
            elif gathered.fault is not None:
                break
            elif gathered.size >= READ_BYTES and not gathered.push():  # over a socket's read: a body that never waits
                await gathered.rest()
    except BaseException:
        is_unwound = not gathered.is_at_sink  # the stream raised it, and is over
        gathered.is_at_sink = True
        try:
            if gathered.fault is None:
                gathered.push()  # what came before a fault goes before it
        finally:
            if not is_unwound:
                await _leave(iterator, cut_off, library)
        raise
    if gathered.fault is not None:
        await _leave(iterator, cut_off, library)
    elif not gathered.push() or gathered.is_full:
        await gathered.rest()


async def _leave(iterator: Any, cut_off: Callable[[], Awaitable[None]], library: _Library) -> None:
    """Leave a body in the middle: httpx's generators are suspended below us. With the socket cut, their next step
    raises and they unwind by themselves; dropped as they are, the collector would find them and warn."""
    with trio.move_on_after(ABORT_S, shield=True):
        await cut_off()
        with contextlib.suppress(*library.faults, trio.ClosedResourceError, RuntimeError):
            async for _ in iterator:
                pass


def _begun(step: Any) -> Any:
    """What a step gives the scheduler to wait for."""
    try:
        return step.send(None)
    finally:
        step.close()


@types.coroutine
def _watched(work: Any, on_wait: Callable[[Any], Any]) -> Generator[Any, Any, Any]:
    """Await `work`. Each time that it waits for something, the scheduler gets what `on_wait` makes of that.

    A turn of the scheduler is no wait: `trio.SSLStream` hands out a record a step, with a turn between them, and waits
    when what was read is used up.
    """
    turn = _begun(trio.lowlevel.cancel_shielded_checkpoint())  # noqa: ASYNC105  # only begun, by hand
    answer: Any = None
    failure: BaseException | None = None
    while True:
        try:
            if failure is None:
                trap = work.send(answer)
            else:
                thrown, failure = failure, None
                try:
                    trap = work.throw(thrown)
                finally:
                    del thrown  # its traceback holds this frame
        except StopIteration as end:
            return end.value
        if trap is not turn:
            trap = on_wait(trap)
        try:
            answer = yield trap
        except BaseException as exc:
            failure = exc


def _headers(response: httpx.Response) -> list[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers.raw]


def _chain(exc: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while exc is not None and exc not in found:
        found.append(exc)
        exc = exc.__cause__ or exc.__context__
    return found


def translate(exc: BaseException, url: str, library: _Library, *, has_head: bool) -> AiLibError:
    """Our error for what httpx raised. Names the host, never the path or the query."""
    host = url.split("://", 1)[-1].partition("/")[0].partition("?")[0].rpartition("@")[2]
    causes = _chain(exc)
    detail = next((str(cause) for cause in reversed(causes) if isinstance(cause, OSError) and str(cause)), "")
    if not has_head and any(isinstance(cause, ssl.SSLError) for cause in causes):
        reason = next(cause for cause in causes if isinstance(cause, ssl.SSLError))
        text = getattr(reason, "verify_message", "") or reason.reason or "handshake failed"
        return TransportError(f"TLS with {host} was refused: {text}", kind="tls_refused")
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return TransportError(f"the host {host} has no address", kind="connect")
    if isinstance(exc, library.unreached):
        return TransportError(f"no connection to {host}" + (f": {reason_of(exc)}" if detail else ""), kind="connect")
    if isinstance(exc, library.unsendable) and "outbound streams" in str(exc):  # HTTP/2: see `HttpxClientEngine`
        return TransportError(f"no connection to {host} has room for another stream: {exc}", kind="connect")
    if isinstance(exc, library.unsendable):
        return CallerError(f"the request to {host} cannot be sent: {exc}", kind="bad_argument")
    if isinstance(exc, library.unreadable) and has_head and "without sending complete" in str(exc):
        return TransportError(f"{host} closed the connection in the middle of its reply", kind="truncated")
    if isinstance(exc, library.unreadable):
        what = "closed the connection" if "disconnected" in str(exc).lower() else "sent a reply that is not HTTP"
        return TransportError(f"{host} {what}" + (" in the middle of its reply" if has_head else ""), kind="reset")
    where = "in the middle of its reply" if has_head else "before it replied"
    return TransportError(f"the connection to {host} was lost {where}", kind="reset")


class HttpxClientEngine:
    """The caller's own `AsyncClient`, of httpx or httpx2: never closed or reconfigured by us.

    Its hooks, mounts, cookies and instrumentation work. A client that follows redirects or sets `auth` is refused:
    a key could go to a host it is not bound to.

    Over HTTP/2 a stream that is left early is not reset: httpcore sends no RST_STREAM, and has no door for one (1.0.9;
    its issue 943, checked 2026-11-28). The provider writes on, and when as many were left as the server allows at once,
    the connection refuses every further request until it was idle for the client's `keepalive_expiry`. That refusal is
    a failed connection here, and no mistake of the caller's.
    """

    def __init__(self, client: Any) -> None:
        if getattr(client, "follow_redirects", False):
            raise CallerError("http_client follows redirects: a key could go to another host", kind="bad_argument")
        if getattr(client, "auth", None) is not None:
            raise CallerError("http_client has `auth` set: credentials come from the manifest", kind="bad_argument")
        self._client = client
        self._library = _library_of(client)

    async def exchange(self, request: WireRequest, sink: Sink) -> None:
        """See `base.Engine`."""
        library = self._library
        if self._client.is_closed:
            raise CallerError("http_client was closed while calls still went through it", kind="bad_argument")
        has_head = False
        failure: BaseException | None = None

        async def trace(name: str, info: dict[str, Any]) -> None:
            if _is_sending(name, info):
                sink.sending()

        try:
            wire = self._client.build_request(
                request.method,
                request.url,
                headers=request.headers,
                content=request.body,
                timeout=None,
                extensions={"trace": trace},
            )
            wire.stream = library.whole_body(request.body)
            # Said again here: the caller may have changed the client's settings since.
            response = await self._client.send(wire, stream=True, auth=None, follow_redirects=False)
            try:
                sink.head(response.status_code, _headers(response))
                has_head = True
                # Not `aiter_raw`: a mocked response is one that has been read already.
                await _push_body(response.stream, sink, response.aclose, library)
            finally:
                with trio.move_on_after(ABORT_S, shield=True):
                    await response.aclose()
        except library.faults as exc:
            failure = exc
        if failure is not None:
            error = translate(failure, request.url, library, has_head=has_head)
            cause, failure = failure.__cause__, None
            raise error from cause

    async def aclose(self) -> None:
        """Nothing: the client belongs to the caller."""
