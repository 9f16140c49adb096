"""The native engine: HTTP/1.1 and TLS on sockets of our own, one connection per exchange, kept for the next.

Imports `errors`, `base`, `http1`, `tls`, `hub` and trio. The rule that must stay true: a connection is either idle in
the engine's stack, or owned by one exchange, or closed; closing waits for nobody.

A read goes in one synchronous step from the socket through TLS and HTTP into the sink (`Connection.readable`). Who
calls it is the only difference between the three ways to wait: the exchange's own task after `wait_readable`; the task
that takes the reply, where it was lent to it (`base.Reading`); or the `hub`, for many streams at once and for what is
idle. Sending and connecting are the exchange's either way.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import math
import select
import socket
import ssl
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec
import trio

from ..errors import TransportError
from .base import Sink, WireRequest
from .http1 import Endpoint, ResponseReader, endpoint_of, head_of, reason_of
from .hub import Hub, take_turn
from .tls import default_context

__all__ = ["NativeEngine"]

MAX_IDLE = 100  # as the httpx engine: what a busy agent loop reuses, far below any descriptor limit
KEEPALIVE_S = 60.0  # servers commonly close idle connections after 60 to 75 s
READ_BYTES = 64 * 1024  # a read, and so the most that one push into the sink holds; larger ones were no faster
MAX_HEADS = 64  # prepared heads of requests: an engine serves one origin, with a few models and APIs
SMALL_BYTES = 16 * 1024  # of a request's body
RECORDS_BYTES = 256 * 1024  # of a request's body encrypted at once, so that a large one is not held twice
ADDRESS_S = 10.0  # how long an address stands for its name; no longer, so that changes of the name are followed
NEXT_ADDRESS_S = 0.25  # what trio gives an address before it tries the next one beside it
MAX_HANDSHAKE_READS = 256  # a handshake is a few reads; a server that never ends one is no server


class Connection:
    """One socket, and TLS over it. Between `begin` and its end it is one exchange's.

    News for that exchange: `is_over`, `is_full`, or `fault`. `task` is the exchange's task while it sleeps for them.
    """

    __slots__ = (
        "authority",
        "context",
        "fault",
        "has_head",
        "hub",
        "idle_at",
        "incoming",
        "is_full",
        "is_over",
        "is_streamed",
        "on_idle_news",
        "outgoing",
        "poll",
        "reader",
        "sink",
        "sock",
        "task",
        "tls",
        "unsent",
    )

    def __init__(self, sock: socket.socket, authority: str, hub: Hub | None) -> None:
        self.sock: socket.socket | None = sock
        self.authority = authority
        self.hub = hub
        self.tls: ssl.SSLObject | None = None
        self.incoming: ssl.MemoryBIO | None = None
        self.outgoing: ssl.MemoryBIO | None = None
        self.unsent = b""  # TLS's own words that found no room in the socket; they go before the next request
        self.reader: ResponseReader | None = None
        self.sink: Sink | None = None
        self.context: contextvars.Context | None = None
        self.task: trio.lowlevel.Task | None = None
        self.idle_at = 0.0
        self.is_streamed = False
        self.poll: Callable[[int], list[tuple[int, int]]] | None = None  # made when it is asked whether it is alive
        self.has_head = False
        self.is_full = False
        self.is_over = False
        self.fault: Exception | None = None
        self.on_idle_news: Any = None  # the engine's, while this is idle

    # ---- one exchange

    def begin(self, request: WireRequest, sink: Sink) -> None:
        """Belong to an exchange.

        What comes in one piece or two is read by the task that waits for it: a turn of the scheduler less than by the
        hub. What comes in many is lent to its reader, for the same reason; where many such run at once, the hub reads.
        """
        self.reader = ResponseReader(request.method)
        self.sink = sink
        self.is_streamed = request.is_streamed
        if request.is_streamed:
            self.context = trio.lowlevel.current_task().context
        if self.hub is not None:
            self.hub.streams += request.is_streamed
            if not (request.is_streamed and self.hub.is_worth_it):
                self.hub.leave(self)
        self.has_head = self.is_full = self.is_over = False
        self.fault = None

    def finish(self) -> bool:
        """Belong to nobody. Whether another request may follow."""
        reader, self.reader = self.reader, None
        self.sink = self.context = self.fault = None
        if self.hub is not None:
            self.hub.streams -= self.is_streamed
        self.is_streamed = False
        return self.is_over and reader is not None and reader.is_reusable and self.sock is not None

    def readable(self) -> int:
        """Do one read and hand on what it brought; returns its bytes. Raises what the exchange is to end with."""
        sock, reader = self.sock, self.reader
        if sock is None:
            return 0
        if reader is None:
            if self.on_idle_news is not None and not self.is_alive():
                self.on_idle_news(self)
            return 0
        if self.is_over or self.fault is not None:
            # Behind the end of the response. The exchange that is about to see that end must not keep the connection.
            reader.is_reusable = False
            if self.hub is not None:
                self.hub.leave(self)
            return 0
        try:
            data = sock.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            raise self.lost() from exc
        size = len(data)
        if not size:
            self._ended()
        elif self.tls is None:
            self._take(data)
        else:
            self._take_records(data)
        return size

    def _take(self, data: bytes) -> None:
        reader, sink = self.reader, self.sink
        assert reader is not None
        assert sink is not None
        body = reader.feed(data)
        if not self.has_head and reader.status:
            self.has_head = True
            sink.head(reader.status, reader.headers)
            reader.headers = ()  # the sink has them
        if body and not sink.data(body):
            self.is_full = True
        if reader.is_complete:
            self.is_over = True
        elif reader.fault is not None:
            raise self._reset("sent a reply that is not HTTP")

    def _ended(self) -> None:
        reader = self.reader
        assert reader is not None
        if reader.end():
            self.is_over = True
        elif reader.status:
            raise TransportError(f"{self.authority} closed the connection in the middle of its reply", kind="truncated")
        else:
            raise self._reset("closed the connection")

    def _take_records(self, data: bytes) -> None:
        """Every record of a read, at once: `SSLObject.read` gives one at a time."""
        assert self.incoming is not None
        self.incoming.write(data)
        plain, has_ended, broken = self._decrypt()
        if plain:
            self._take(plain)
        if broken is not None and not self.is_over:
            raise self.lost() from broken
        if has_ended and not self.is_over:
            self._ended()

    def _decrypt(self) -> tuple[bytes, bool, ssl.SSLError | None]:
        """What is decrypted by now, whether the server said goodbye, and what was no TLS."""
        tls, outgoing = self.tls, self.outgoing
        assert tls is not None
        assert outgoing is not None
        pieces: list[bytes] = []
        has_ended = False
        broken: ssl.SSLError | None = None
        try:
            while True:
                piece = tls.read(READ_BYTES)
                if not piece:
                    has_ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            has_ended = True
        except ssl.SSLError as exc:
            broken = exc
        if outgoing.pending:  # a change of keys is answered when there is room for it
            self.unsent += outgoing.read()
            self._flush()
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), has_ended, broken

    def _flush(self) -> None:
        sock = self.sock
        with contextlib.suppress(OSError):  # no room, or lost: then the next read says so
            if sock is not None and self.unsent:
                self.unsent = self.unsent[sock.send(self.unsent) :]

    def lost(self) -> TransportError:
        where = "in the middle of its reply" if self.has_head else "before it replied"
        return TransportError(f"the connection to {self.authority} was lost {where}", kind="reset")

    def _reset(self, what: str) -> TransportError:
        middle = " in the middle of its reply" if self.has_head else ""
        return TransportError(f"{self.authority} {what}{middle}", kind="reset")

    async def send(self, head: bytes, body: bytes, sink: Sink) -> bool:
        """Write a request. False where the connection turned out to be dead before any of it was taken.

        A server may answer and close before it has read everything: then writing ends, and its answer is read.
        """
        is_first = True
        for parts in self._outgoing(head, body):
            while parts:
                sock = self.sock
                if sock is None:
                    raise self.lost()
                try:
                    sent = sock.sendmsg(parts) if len(parts) > 1 and _HAS_SENDMSG else sock.send(parts[0])
                except (BlockingIOError, InterruptedError):
                    sent = 0
                except OSError:
                    return not is_first
                if is_first:
                    # After the first write and not before it, in the same step: a connection that died while it was
                    # idle is left for another one, and then nothing of the request was under way.
                    is_first = False
                    sink.sending()
                if sent == 0:
                    try:
                        await trio.lowlevel.wait_writable(sock)
                    except trio.ClosedResourceError:
                        raise self.lost() from None
                    continue
                while parts and sent >= len(parts[0]):
                    sent -= len(parts[0])
                    del parts[0]
                if sent:
                    parts[0] = memoryview(parts[0])[sent:]
        return True

    def _outgoing(self, head: bytes, body: bytes) -> Iterable[list[Any]]:
        """What goes into the socket, in turns: everything as it is, or its records."""
        if self.tls is None:
            # A small body is copied behind its head: that is cheaper than to write two pieces.
            return ([head + body] if len(body) <= SMALL_BYTES else [head, body],)
        return self._records(self.tls, head, body)

    def _records(self, tls: ssl.SSLObject, head: bytes, body: bytes) -> Iterable[list[Any]]:
        outgoing = self.outgoing
        assert outgoing is not None
        unsent, self.unsent = self.unsent, b""
        if len(body) <= RECORDS_BYTES:
            tls.write(head + body)
            yield [unsent + outgoing.read()]
            return
        tls.write(head)
        rest = memoryview(body)
        while rest:
            tls.write(rest[:RECORDS_BYTES])
            rest = rest[RECORDS_BYTES:]
            yield [unsent + outgoing.read()]
            unsent = b""

    async def receive(self) -> None:
        """Wait until the response is in the sink. Raises what ended it otherwise."""
        sink = self.sink
        assert sink is not None
        while True:
            if self.is_over or self.is_full or self.fault is not None:
                await trio.lowlevel.checkpoint()
            elif self.sock is None:
                raise self.lost()
            elif self.is_streamed and self._is_read_by_another(sink):
                self.task = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._leave)
            else:
                await self._read_once(self.sock)
            if self.fault is not None:
                fault, self.fault = self.fault, None
                try:
                    raise fault
                finally:
                    del fault  # its traceback holds this frame
            if self.is_full:
                self.is_full = False
                await sink.wait_room()
            if self.is_over:
                return

    def _is_read_by_another(self, sink: Sink) -> bool:
        """Whether the hub or the reply's reader reads from here on, while the exchange's task sleeps."""
        if self.hub is not None:
            if self.hub.is_worth_it:
                return self.hub.join(self)
            self.hub.leave(self)
        return self.has_head and sink.lend(self)

    async def _read_once(self, sock: socket.socket) -> None:
        try:
            await trio.lowlevel.wait_readable(sock)
        except trio.ClosedResourceError:
            raise self.lost() from None
        self.readable()

    def _leave(self, _: object) -> trio.lowlevel.Abort:
        # A cancelled exchange ends with its connection: the server sees it go in the turn that cancels, and not
        # when all tasks that were cancelled with this one have been unwound.
        self.task = None
        self.close()
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        """There is news: let the exchange's task go on, if it sleeps."""
        task, self.task = self.task, None
        if task is not None:
            trio.lowlevel.reschedule(task)

    # ---- lent to the reader of its reply, while its exchange's task sleeps (`base.Reading`)

    def wait(self) -> Awaitable[None]:
        """See `base.Reading`."""
        if self.sock is None:
            raise trio.ClosedResourceError
        return trio.lowlevel.wait_readable(self.sock)  # noqa: ASYNC105 - the reader awaits it

    def read(self) -> bool:
        """See `base.Reading`."""
        if self.task is None:  # the exchange goes on by itself, or was ended
            return False
        take_turn(self)
        if self.hub is not None and self.hub.is_worth_it:
            self.wake()
        return self.task is not None

    def is_silent(self) -> bool:
        """See `base.Reading`."""
        if self.sock is None:
            return True
        if self.poll is None and _HAS_POLL:
            poller = select.poll()
            poller.register(self.sock, select.POLLIN)
            self.poll = poller.poll
        return not (self.poll(0) if self.poll is not None else select.select([self.sock], [], [], 0)[0])

    # ---- idle, and closing

    def is_alive(self) -> bool:
        """Whether an idle connection is still good: nobody closed it or spoke on it. Does not wait."""
        sock = self.sock
        if sock is None:
            return False
        if self.is_silent():
            return True  # cheaper than to read and be told so by an exception
        while True:
            try:
                data = sock.recv(READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                return False
            if not data or self.tls is None or self.incoming is None:
                return False
            self.incoming.write(data)  # session tickets come behind a handshake, and are no response
            if self._decrypt() != (b"", False, None):
                return False

    def close(self) -> None:
        """Close the socket now, without a goodbye. Waits for nothing; safe to call twice."""
        sock, self.sock = self.sock, None
        if sock is None:
            return
        if self.hub is not None:
            self.hub.leave(self, sock.fileno())
        trio.lowlevel.notify_closing(sock)
        sock.close()
        self.tls = self.incoming = self.outgoing = None
        self.on_idle_news = None

    async def shake_hands(self, context: ssl.SSLContext, host: str) -> None:
        """Put TLS over the socket. Raises `TransportError` (tls_refused, reset)."""
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        failure: ssl.SSLError | ssl.CertificateError | ValueError | None = None
        try:
            tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=host)
            for _ in range(MAX_HANDSHAKE_READS):
                try:
                    tls.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await self._send_all(self.outgoing.read())
                    self.incoming.write(await self._receive_some())
            else:
                raise self._refused("the handshake does not end")
            await self._send_all(self.outgoing.read())
        except (ssl.SSLError, ValueError) as exc:  # ValueError: a name that no certificate can be for
            failure = exc
        if failure is not None:
            # What is left to say is the alert, which tells the server why.
            self.unsent = self.outgoing.read()
            self._flush()
            reason = getattr(failure, "verify_message", "") or getattr(failure, "reason", "") or "handshake failed"
            raise self._refused(reason) from failure
        if tls.selected_alpn_protocol() not in (None, "http/1.1"):
            raise self._refused(f"the server speaks {tls.selected_alpn_protocol()}, which the ssl_context offers")
        self.tls = tls

    def _refused(self, why: str) -> TransportError:
        return TransportError(f"TLS with {self.authority} was refused: {why}", kind="tls_refused")

    async def _send_all(self, data: bytes) -> None:
        while data:
            try:
                assert self.sock is not None
                data = data[self.sock.send(data) :]
            except (BlockingIOError, InterruptedError):
                await trio.lowlevel.wait_writable(self.sock)  # type: ignore[arg-type]
            except OSError as exc:
                raise self._unreached(exc) from exc

    async def _receive_some(self) -> bytes:
        while True:
            assert self.sock is not None
            await trio.lowlevel.wait_readable(self.sock)
            try:
                data = self.sock.recv(READ_BYTES)
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as exc:
                raise self._unreached(exc) from exc
            if not data:
                raise self._refused("the server closed the connection in the handshake")
            return data

    def _unreached(self, exc: OSError) -> TransportError:
        return TransportError(f"no connection to {self.authority}: {exc}", kind="connect")


_UNDER_WAY = (errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EWOULDBLOCK))
_HAS_POLL = hasattr(select, "poll")
_HAS_SENDMSG = hasattr(socket.socket, "sendmsg")  # not on Windows: there, one piece after the other


class NativeEngine:
    """Connections to one origin. `hub` waits for all of them at once; without one, each exchange waits for its own."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None, hub: Hub | None = None) -> None:
        self._ssl_context = ssl_context
        self._hub = hub
        # The latest last. That one is used again first: the least likely to have been closed by the server meanwhile.
        self._idle: OrderedDict[Connection, None] = OrderedDict()
        self._busy: set[Connection] = set()
        self._prepared: dict[tuple[str, str, tuple[tuple[str, str], ...]], tuple[Endpoint, bytes]] = {}
        self._addresses: dict[tuple[str, int], _Address] = {}  # the one that answered last, for a short time
        self._looked_up: dict[tuple[str, int], trio.Event] = {}  # what is being reached now, for the first time
        self._is_closed = False
        self._now = trio.lowlevel.current_clock().current_time  # trio's time by one call instead of three

    @property
    def open_connections(self) -> int:
        """Connections that are in use or kept for reuse."""
        return len(self._idle) + len(self._busy)

    async def exchange(self, request: WireRequest, sink: Sink) -> None:
        """See `base.Engine`."""
        endpoint, _ = self._prepare(request)
        while True:
            if self._is_closed:
                raise TransportError("the engine is closed", kind="connect")
            connection = self.lease()
            is_fresh = connection is None
            if connection is None:
                connection = await self._connect(endpoint)
            if await self.exchange_on(connection, request, sink):
                return
            if is_fresh:
                raise connection.lost()

    async def exchange_on(self, connection: Connection, request: WireRequest, sink: Sink) -> bool:
        """See `base.Leasing`."""
        is_done = False
        try:
            _, head = self._prepare(request)
            connection.begin(request, sink)
            if await connection.send(b"%b%d\r\n\r\n" % (head, len(request.body)), request.body, sink):
                request.body = b""  # a reply may take minutes: what was asked is not kept for them
                await connection.receive()
                is_done = True
        finally:
            self._busy.discard(connection)
            is_clean = connection.finish() and is_done
            if is_clean and not self._is_closed:
                self._keep(connection)
            else:
                connection.close()
        return is_done

    async def aclose(self) -> None:
        """Close every connection. Exchanges that still run end with a `reset`."""
        self._is_closed = True
        idle, self._idle = list(self._idle), OrderedDict()
        for connection in idle:
            connection.close()
        for connection in self._busy:
            connection.fault = connection.fault or connection.lost()
            connection.close()
            connection.wake()
        await trio.lowlevel.cancel_shielded_checkpoint()

    # ---- connections

    def lease(self) -> Connection | None:
        """The idle connection that was used last and is alive, if there is one. See `base.Leasing`."""
        while self._idle:
            connection, _ = self._idle.popitem()
            connection.on_idle_news = None
            if self._now() - connection.idle_at <= KEEPALIVE_S and connection.is_alive():
                self._busy.add(connection)
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection) -> None:
        now = self._now()
        connection.idle_at = now
        connection.on_idle_news = self._gone
        self._idle[connection] = None
        if self._hub is not None:
            self._hub.join(connection)  # which sees it closed by the server
        while True:  # the first is the oldest
            oldest = next(iter(self._idle))
            if now - oldest.idle_at <= KEEPALIVE_S and len(self._idle) <= MAX_IDLE:
                return
            del self._idle[oldest]
            oldest.close()

    def _gone(self, connection: Connection) -> None:
        """The hub saw an idle connection end."""
        self._idle.pop(connection, None)
        connection.close()

    def _prepare(self, request: WireRequest) -> tuple[Endpoint, bytes]:
        key = (request.method, request.url, tuple(request.headers))
        prepared = self._prepared.get(key)
        if prepared is None:
            endpoint = endpoint_of(request.url)
            if len(self._prepared) >= MAX_HEADS:
                self._prepared.clear()
            prepared = self._prepared[key] = endpoint, head_of(request.method, endpoint, request.headers)
        return prepared

    async def _connect(self, endpoint: Endpoint) -> Connection:
        """A new connection, entered among the busy ones."""
        sock = await self._reach(endpoint)
        connection = Connection(sock, endpoint.authority, self._hub)
        self._busy.add(connection)
        try:
            if self._is_closed:
                raise TransportError("the engine is closed", kind="connect")
            if endpoint.is_tls:
                if self._ssl_context is None:
                    self._ssl_context = default_context()
                await connection.shake_hands(self._ssl_context, endpoint.host)
        except BaseException as exc:
            self._busy.discard(connection)
            connection.close()
            if isinstance(exc, trio.ClosedResourceError):  # by `aclose`
                raise connection.lost() from None
            raise
        return connection

    async def _reach(self, endpoint: Endpoint) -> socket.socket:
        """A connected socket.

        Many calls at once need many connections to one host: the first of them looks its name up and tries its
        addresses, the others go to the address that answered. An IP address needs no looking up.
        """
        place = endpoint.host, endpoint.port
        address = self._known(place) or _literal(*place)
        if address is None and place in self._looked_up:
            with trio.move_on_after(NEXT_ADDRESS_S):
                await self._looked_up[place].wait()
            address = self._known(place)
        if address is not None:
            sock = await _connected(address)
            if sock is not None:
                return sock
            self._addresses.pop(place, None)
        told = self._looked_up.setdefault(place, trio.Event())
        failure: OSError | None = None
        try:
            stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
        except OSError as exc:
            failure = exc
        finally:
            told.set()
            if self._looked_up.get(place) is told:
                del self._looked_up[place]
        if failure is not None:
            if _has_no_address(failure):
                raise TransportError(f"the host {endpoint.authority} has no address", kind="connect") from failure
            reason = reason_of(failure)
            raise TransportError(f"no connection to {endpoint.authority}: {reason}", kind="connect") from failure
        # trio's socket and stream check and wait by themselves; the descriptor is all that is needed of them.
        sock = socket.socket(fileno=stream.socket.detach())
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # lost already: its use will say so
            self._addresses[place] = _Address(sock.family, sock.getpeername(), trio.current_time() + ADDRESS_S)
        return sock

    def _known(self, place: tuple[str, int]) -> _Address | None:
        """The address that answered lately."""
        address = self._addresses.get(place)
        return address if address is not None and trio.current_time() < address.until else None


class _Address(msgspec.Struct, frozen=True):
    family: int
    address: Any  # as the socket takes it
    until: float  # trio's clock; inf for one that is no answer of a resolver


def _literal(host: str, port: int) -> _Address | None:
    """The address that a host is by itself, if it is one."""
    with contextlib.suppress(OSError):
        socket.inet_pton(socket.AF_INET, host)
        return _Address(socket.AF_INET, (host, port), math.inf)
    with contextlib.suppress(OSError):  # one with a zone is not: its number is the resolver's to find
        socket.inet_pton(socket.AF_INET6, host)
        return _Address(socket.AF_INET6, (host, port, 0, 0), math.inf)
    return None


async def _connected(address: _Address) -> socket.socket | None:
    """A socket that is connected to this address. None where that fails, or takes so long that others are tried."""
    try:
        # Through trio's, so that a socket factory of the caller's is asked; detached, as in `_reach`.
        # Told what it is, or Python would ask the system three times.
        own = trio.socket.socket(address.family, socket.SOCK_STREAM)
        sock = socket.socket(own.family, own.type, own.proto, fileno=own.detach())
    except OSError:
        return None
    is_connected = False
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = sock.connect_ex(address.address)
        if error in _UNDER_WAY and _is_connected(sock):
            error = 0
        elif error in _UNDER_WAY:
            # An address that is no answer of a resolver has no other one beside it.
            limit = trio.move_on_after(NEXT_ADDRESS_S) if address.until < math.inf else contextlib.nullcontext()
            with limit:
                await trio.lowlevel.wait_writable(sock)
                error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        is_connected = error == 0
    except OSError:
        pass
    finally:
        if not is_connected:
            sock.close()
    return sock if is_connected else None


def _is_connected(sock: socket.socket) -> bool:
    """Whether it is already: on this machine itself a connection takes no time, though `connect` says it will."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _has_no_address(failure: OSError) -> bool:
    seen: BaseException | None = failure
    while seen is not None:
        if isinstance(seen, socket.gaierror):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
