"""A provider on loopback: connections come in, scripted answers go out, and a journal says what happened.

Every connection is a task of the simulator's nursery with one reader beside it, which sees the client leave while
nothing is being sent. Imports the rest of the simulator, `protocol`, `types`, `errors`, trio. The rule that must
stay true: when `async with open_simulator(...)` is left, every connection is closed and every task has ended, and
what was raised inside the block leaves it as itself.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from types import TracebackType
from typing import Any

import msgspec
import trio

from ..errors import CallerError
from ..types.message import TextBlock
from .check import Problem
from .directory import Directory, Source, Target, directory_of
from .http import HttpRequest, MalformedRequest, RequestReader, head_bytes
from .journal import Connection, Entry, Journal, without
from .render import Frame, Stream, error_fields, error_state, find_fault, reply_state, write_json
from .script import (
    Body,
    CloseUnderNextRequest,
    ContentType,
    Encoded,
    Error,
    Fault,
    Head,
    Headers,
    Hold,
    Pause,
    Raw,
    Reply,
    Script,
    Stall,
    Status,
    Text,
    Transfer,
    Usage,
)
from .sender import CutHere, Payload, Sender, payloads
from .speaker import Asked, RefusedRequest, Speaker

__all__ = ["Answer", "Simulator", "default_script", "open_simulator"]

Answer = Reply | Callable[[Entry], Reply]
"""A reply, or a function that makes one from the request's entry in the journal."""
Scripts = Answer | Sequence[Answer] | Mapping[str, Answer | Sequence[Answer]]

_READ_BYTES = 64 * 1024
_READ_AHEAD_BYTES = 64 * 1024  # of a client that sends on while it is answered; then it waits, unread
_TLS_HANDSHAKE = 0x16  # first byte of a TLS record that begins a handshake
_TLS_REFUSAL = b"\x15\x03\x01\x00\x02\x02\x28"  # a fatal alert, handshake_failure (RFC 8446, 6)


def default_script(entry: Entry) -> Script:
    """What is answered where nothing was scripted: the last words of the user, given back, with plausible usage."""
    messages = entry.request.messages if entry.request is not None else ()
    asked = next((message.text for message in reversed(messages) if message.role == "user" and message.text), "")
    words = sum(
        len(block.text.split()) for message in messages for block in message.blocks if isinstance(block, TextBlock)
    )
    answer = f"You said: {asked[:400]}" if asked else "Hello from the simulator."
    return Script(steps=[Text(answer), Usage(input_tokens=words, output_tokens=len(answer.split()))])


class _Rule:
    """Answers that wait for a request they fit."""

    __slots__ = ("answers", "left", "match", "model", "provider")

    def __init__(
        self,
        answers: Iterable[Answer],
        model: str | None,
        provider: str | None,
        match: Callable[[Entry], bool] | None,
        left: int | None,
    ) -> None:
        self.answers = deque(answers)
        self.model = model
        self.provider = provider
        self.match = match
        self.left = left  # how often the rule may answer; None is without end

    def fits(self, entry: Entry) -> bool:
        return (
            self.left != 0
            and (self.model is None or self.model == entry.model)
            and (self.provider is None or self.provider in (entry.provider, entry.dialect))
            and (self.match is None or self.match(entry))
        )

    def take(self) -> Answer:
        answer = self.answers[0]
        self.answers.rotate(-1)
        if self.left is not None:
            self.left -= 1
        return answer


class Simulator:
    """A running simulator. Made by `open_simulator`.

    `journal` has every request and connection. `base_url(name)` is where a client of a provider or dialect is
    pointed. `script(...)` says what is answered.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        keys: Mapping[str, str] | None,
        check: bool,
        wall_time: Callable[[], float],
        send_buffer_bytes: int | None,
        on_change: Callable[[str, Entry], None] | None,
    ) -> None:
        self.journal = Journal(on_change)
        self.host = ""
        self.port = 0
        self._directory = directory
        self._keys = dict(keys) if keys is not None else None
        self._check = check
        self._wall_time = wall_time
        self._send_buffer_bytes = send_buffer_bytes
        self._rules: list[_Rule] = []
        self._on_connect: deque[Stall | Raw] = deque()

    def __repr__(self) -> str:
        return f"<Simulator {self.url}: {len(self.journal)} requests, {self.open_connections} open connections>"

    # ---- where it is, and what it answers ----

    @property
    def url(self) -> str:
        """The address alone; requests find their dialect by their path."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def base_url(self, name: str) -> str:
        """The base URL for a client of a provider, or of a dialect. Raises CallerError for an unknown name."""
        return f"{self.url}/{self._directory.name(name)}"

    def script(
        self,
        *answers: Answer,
        model: str | None = None,
        provider: str | None = None,
        match: Callable[[Entry], bool] | None = None,
        times: int | None = 1,
    ) -> None:
        """Queue answers, one for each request that fits, `times` over (None: for ever).

        Rules are asked in the order they were made; requests that fit none get `default_script`. `provider` may name
        a dialect. A request that the dialect's checks refuse takes no answer.
        """
        if not answers:
            raise CallerError("expected at least one answer", kind="bad_argument")
        left = None if times is None else times * len(answers)
        wanted = self._directory.name(provider) if provider is not None else None
        self._rules.append(_Rule(answers, model, wanted, match, left))

    def on_connect(self, *behaviours: Stall | Raw) -> None:
        """What the next connections do before they read: be silent (Stall), or send bytes and close (Raw)."""
        self._on_connect.extend(behaviours)

    # ---- what happened ----

    @property
    def entries(self) -> list[Entry]:
        """Every request, in the order they came."""
        return self.journal.entries

    @property
    def connections(self) -> list[Connection]:
        """Every connection, in the order they came."""
        return self.journal.connections

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return self.journal.open_connections

    async def wait_entry(self, number: int) -> Entry:
        """Wait until the request of this number (from 1) has come."""
        return await self.journal.wait_entry(number)

    async def wait_end(self, number: int) -> Entry:
        """Wait until the request of this number has come and ended, one way or another."""
        return await self.journal.wait_end(number)

    async def wait_frames(self, number: int, frames: int) -> Entry:
        """Wait until so many frames of the answer to the request of this number have left."""
        return await self.journal.wait_frames(number, frames)

    async def wait_connection_end(self, number: int) -> Connection:
        """Wait until the connection of this number (from 1) has come and ended."""
        return await self.journal.wait_connection_end(number)

    async def wait_quiet(self) -> None:
        """Wait until no connection is open."""
        await self.journal.wait(lambda: self.journal.open_connections == 0)

    # ---- one connection ----

    async def serve_stream(self, stream: trio.abc.Stream, peer: str = "") -> None:
        """Serve one connection until it ends; the stream is closed then. Any trio stream will do.

        On cancellation the connection is closed without a goodbye.
        """
        connection = self.journal.connected(peer)
        link = _Link(stream)
        end: str | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.read_all, nursery.cancel_scope)
                try:
                    end = await self._converse(link, connection)
                except trio.BrokenResourceError:
                    link.left("reset_by_client")
                nursery.cancel_scope.cancel()
        finally:
            if end == "reset":
                link.prepare_reset()
            # The journal first: whoever waits for this end may look at it the moment the socket is gone.
            self.journal.disconnected(connection, end or link.gone or "simulator_closed")
            # Shielded, and done at once: cancelled here, what went wrong above would be replaced by the cancellation.
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def serve_socket(self, stream: trio.SocketStream) -> None:
        """Serve one connection that a listener accepted."""
        if self._send_buffer_bytes is not None:
            stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, self._send_buffer_bytes)
        try:
            host, port = stream.socket.getpeername()[:2]
        except OSError:  # the client left before it was looked at
            host, port = "", 0
        await self.serve_stream(stream, f"{host}:{port}")

    async def _converse(self, link: _Link, connection: Connection) -> str:
        """Answer requests until the connection is to end; gives how. Cancelled when the client leaves."""
        if self._on_connect:
            first = self._on_connect.popleft()
            if isinstance(first, Stall):
                await trio.sleep(first.seconds)
            else:
                await link.stream.send_all(first.data)
                return first.how
        while True:
            try:
                request = await link.next_request()
            except MalformedRequest as error:
                entry = self.journal.arrived(connection, "", "")
                entry.refused, entry.status, entry.reply = str(error), error.status, "malformed"
                self.journal.began(entry)
                await self._respond_plainly(link, entry, error.status, str(error))
                self.journal.ended(entry, "served")
                return "closed"
            if isinstance(request, str):
                return request
            end = await self._answer(link, connection, request)
            if end is not None:
                return end

    async def _answer(self, link: _Link, connection: Connection, request: HttpRequest) -> str | None:
        """Answer one request; gives how the connection ends, None where it stays open."""
        link.answering = True
        target = self._directory.find(request.method, request.path)
        entry = self._enter(connection, request, target)
        asked = _asked(entry, target)
        reply = self._reply(entry, target, asked)
        entry.reply = _describe(reply)
        self.journal.began(entry)
        if isinstance(reply, Raw):
            entry.status = 0
            await link.stream.send_all(reply.data)
            entry.bytes_sent = len(reply.data)
            self.journal.ended(entry, "served" if reply.how == "close" else "reset")
            return "closed" if reply.how == "close" else "reset"
        outgoing = self._outgoing(entry, reply, target, asked)
        outcome, end = await _send(link, entry, outgoing, self.journal.changed, keep_alive=request.keep_alive)
        self.journal.ended(entry, outcome)
        under: CloseUnderNextRequest | None = find_fault(outgoing.faults, CloseUnderNextRequest)
        link.close_under = under.how if under is not None else None
        link.answering = False
        return end

    def _enter(self, connection: Connection, request: HttpRequest, target: Target | None) -> Entry:
        """The journal's entry, with every credential masked before it is kept."""
        masker = self._directory.masker
        secrets = [*masker.secrets(request.headers), *masker.secrets(request.query)]
        entry = self.journal.arrived(connection, request.method, without(request.path, secrets))
        entry.headers = masker.masked(request.headers, secrets)
        entry.query = masker.masked(request.query, secrets)
        text = without(request.body.decode("utf-8", "replace"), secrets)
        try:
            entry.body = msgspec.json.decode(text) if text else None
        except msgspec.DecodeError:
            entry.body = text
        if target is not None:
            entry.provider, entry.dialect = target.provider, target.speaker.dialect
        entry.key = self._known_key(entry.provider, secrets)
        return entry

    def _known_key(self, provider: str | None, secrets: list[str]) -> str | None:
        """The id under which a credential is known, `"unknown"` for another one; the provider's own comes first."""
        if not secrets:
            return None
        known = {key for key, value in (self._keys or {}).items() if value in secrets}
        if provider in known:
            return provider
        return min(known, default="unknown")

    def _reply(self, entry: Entry, target: Target | None, asked: Asked) -> Reply:
        """What is answered: a refusal, or the next answer that was scripted for such a request."""
        if target is None or target.matched is None:
            return self._refuse(entry, 404, Problem(f"no route for {entry.method} {entry.path}"))
        if (
            self._keys is not None
            and target.provider is not None
            and self._directory.auth(target.provider).type != "none"
        ):
            wanted = self._keys.get(target.provider)
            if entry.key is None or (wanted is not None and entry.key != target.provider):
                return self._refuse(entry, 401, Problem("no valid credential"))
        try:
            if asked.body is None:
                raise RefusedRequest(Problem("the body is not a JSON object"))
            entry.request = target.speaker.lift(asked, check=self._check)
        except RefusedRequest as error:
            return self._refuse(entry, 400, error.problem)
        entry.model = entry.request.model
        entry.streamed = entry.request.stream
        rule = next((rule for rule in self._rules if rule.fits(entry)), None)
        answer = rule.take() if rule is not None else default_script
        return answer if isinstance(answer, Script | Status | Body | Raw) else answer(entry)

    def _refuse(self, entry: Entry, status: int, problem: Problem) -> Status:
        entry.refused = problem.message
        return Status(status, problem.message, problem.code, param=problem.param)

    async def _respond_plainly(self, link: _Link, entry: Entry, status: int, message: str) -> None:
        """An answer without a dialect: to bytes that are no request of HTTP/1.1."""
        data = write_json({"error": {"message": message}})
        head = [("content-type", "application/json"), ("content-length", str(len(data))), ("connection", "close")]
        await link.stream.send_all(head_bytes(status, head) + data)
        entry.bytes_sent = len(data)

    # ---- what goes out ----

    def _outgoing(self, entry: Entry, reply: Script | Status | Body, target: Target | None, asked: Asked) -> _Outgoing:
        number, now = entry.number, self._wall_time()
        if isinstance(reply, Body):
            headers = {"content-type": reply.content_type, **reply.headers}
            return _Outgoing(reply.status, headers, [Frame(reply.data, "body")], "length", reply.faults)
        speaker = target.speaker if target is not None else None
        failed = (
            next((step for step in reply.steps if isinstance(step, Error)), None) if isinstance(reply, Script) else None
        )
        if isinstance(reply, Status) or speaker is None or (failed is not None and not entry.streamed):
            return self._error(reply, failed, speaker, error_state(asked, number, now))
        assert entry.request is not None, "a script answers requests that were lifted"
        state = reply_state(reply, asked, entry.request, number, now)
        misfit = speaker.misfit(state)
        if misfit is not None:
            raise CallerError(f"this script cannot be told: {misfit}", kind="bad_argument")
        headers = {**speaker.headers(state), **reply.headers}
        delay = [Pause(reply.first_token_delay)] if reply.first_token_delay else []
        if entry.streamed:
            framing = speaker.framing(asked)
            headers = {"content-type": framing.content_type, "cache-control": "no-cache", **headers}
            items = _paced(Stream(speaker, reply, state, framing), reply.pace)
            return _Outgoing(200, headers, chain(delay, items), "chunked", reply.faults)
        headers = {"content-type": "application/json", **headers}
        waits = [step for step in reply.steps if isinstance(step, Pause | Hold)]
        body = Frame(write_json(speaker.body(state)), "body")
        return _Outgoing(200, headers, [body], "length", reply.faults, [*delay, *waits])

    def _error(
        self, reply: Script | Status, failed: Error | None, speaker: Speaker | None, state: Mapping[str, Any]
    ) -> _Outgoing:
        said = failed if failed is not None else reply
        assert isinstance(said, Error | Status)
        given = error_fields(said)
        body = speaker.error(state, given) if speaker is not None else {"error": given}
        headers = {"content-type": "application/json", **(speaker.headers(state, given) if speaker is not None else {})}
        if isinstance(reply, Status) and reply.retry_after is not None:
            headers["retry-after"] = f"{reply.retry_after}"
        headers |= reply.headers
        return _Outgoing(said.status, headers, [Frame(write_json(body), "body")], "length", reply.faults)


class _Outgoing:
    """One reply, ready to be sent. `before` are waits before the head."""

    __slots__ = ("before", "faults", "headers", "items", "status", "transfer")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        items: Iterable[Frame | Pause | Hold],
        transfer: str,
        faults: Sequence[Fault],
        before: Sequence[Pause | Hold] = (),
    ) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.items = items
        self.faults = faults
        self.before = before
        chosen: Transfer | None = find_fault(faults, Transfer)
        self.transfer = chosen.how if chosen else transfer
        for fault in faults:
            if isinstance(fault, ContentType):
                self.headers.pop("content-type", None)
                if fault.value is not None:
                    self.headers["content-type"] = fault.value
            elif isinstance(fault, Encoded):
                self.headers["content-encoding"] = fault.coding


class _Link:
    """One connection's bytes: a reader that runs all the time, and what it found."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.reader = RequestReader()
        self.gone: str | None = None
        self.answering = False
        self.close_under: str | None = None
        self._moved = trio.lowlevel.ParkingLot()

    def left(self, how: str) -> None:
        self.gone = self.gone or how

    async def read_all(self, scope: trio.CancelScope) -> None:
        """Read until the client is gone, then end what is being done for it.

        A client that shuts down its sending side counts as gone, as it does for most servers behind a proxy.
        """
        while True:
            while self.answering and self.reader.buffered >= _READ_AHEAD_BYTES:
                await self._moved.park()
            try:
                data = await self.stream.receive_some(_READ_BYTES)
            except trio.BrokenResourceError:
                self.left("reset_by_client")
                break
            if not data:
                self.left("client_closed")
                break
            self.reader.feed(data)
            self._moved.unpark_all()
        scope.cancel()

    async def next_request(self) -> HttpRequest | str:
        """The next request, or how the connection ends instead. Raises MalformedRequest."""
        self._moved.unpark_all()
        while True:
            if self.close_under is not None and self.reader.began:
                return "cut" if self.close_under == "close" else "reset"
            if self.reader.first_byte == _TLS_HANDSHAKE:
                await self.stream.send_all(_TLS_REFUSAL)
                return "tls_refused"
            request = self.reader.next()
            if request is not None:
                return request
            if self.reader.wants_continue():
                await self.stream.send_all(head_bytes(100, ()))
            await self._moved.park()

    def prepare_reset(self) -> None:
        """Make the close that follows an RST. Streams that are no sockets have none; for them it is a close."""
        if isinstance(self.stream, trio.SocketStream):
            import struct

            self.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _send(
    link: _Link, entry: Entry, outgoing: _Outgoing, changed: Callable[[], None], *, keep_alive: bool
) -> tuple[str, str | None]:
    """Send one reply; gives its outcome, and how the connection ends, None where it stays open."""
    faults = outgoing.faults
    stall: Stall | None = find_fault(faults, Stall)
    for wait in outgoing.before:
        await _wait(wait)
    if stall is not None and stall.at == "head":
        await trio.sleep(stall.seconds)
    items: Iterable[Payload | Pause | Hold] = payloads(outgoing.items, faults)
    headers = dict(outgoing.headers)
    if outgoing.transfer == "chunked":
        headers["transfer-encoding"] = "chunked"
    elif outgoing.transfer == "length":
        items = list(items)
        headers["content-length"] = str(sum(len(item.data) for item in items if isinstance(item, Payload)))
    stays = keep_alive and outgoing.transfer != "close"
    if not stays:
        headers["connection"] = "close"
    for fault in faults:
        if isinstance(fault, Headers):
            headers |= {name.lower(): value for name, value in fault.headers.items()}
    head: Head | None = find_fault(faults, Head)
    entry.status = outgoing.status
    await link.stream.send_all(head.data if head is not None else head_bytes(outgoing.status, headers.items()))
    changed()
    sender = Sender(link.stream, entry, faults, changed, chunked=outgoing.transfer == "chunked")
    try:
        for item in items:
            if stall is not None and stall.at == entry.frames_sent:
                await trio.sleep(stall.seconds)
                stall = None
            if isinstance(item, Payload):
                await sender.send(item)
            else:
                await _wait(item)
    except CutHere as cut:
        if cut.how != "end":
            return cut.how.replace("close", "cut"), cut.how.replace("close", "cut")
        await sender.end_body()
        return "cut", None if stays else "closed"
    return "served", None if stays else "closed"


async def _wait(item: Pause | Hold) -> None:
    if isinstance(item, Pause):
        await trio.sleep(item.seconds)
    else:
        await item.until.wait()


def _paced(items: Iterable[Frame | Pause | Hold], pace: float) -> Iterator[Frame | Pause | Hold]:
    """The items with a pause before every frame of output but the first."""
    first = True
    for item in items:
        if pace and isinstance(item, Frame) and item.kind == "content":
            if not first:
                yield Pause(pace)
            first = False
        yield item


def _asked(entry: Entry, target: Target | None) -> Asked:
    """The request as templates see it: as the journal keeps it, so that what they make of it holds no key either."""
    matched = target.matched if target is not None else None
    return Asked(
        entry.method,
        entry.path,
        matched.route if matched is not None else "",
        matched.segments if matched is not None else {},
        dict(entry.query),
        dict(entry.headers),
        entry.body if isinstance(entry.body, dict) else None,
    )


def _describe(reply: Reply) -> str:
    if isinstance(reply, Script):
        return f"script of {len(reply.steps)} steps"
    if isinstance(reply, Status):
        return f"status {reply.status}"
    if isinstance(reply, Body):
        return f"body of {len(reply.data)} bytes, status {reply.status}"
    return f"{len(reply.data)} raw bytes"


@cache
def _bundled() -> Source:
    from ..protocol.loader import Catalog

    return Catalog.open(environ={})


class open_simulator:  # used as a function is: `async with open_simulator() as sim`
    """An async context manager that gives a running `Simulator`; leaving it closes every connection.

    `catalog` is a catalogue of manifests (the bundled ones where it is None). `scripts` says what is answered: one
    answer for every request, a sequence of answers used once each in order, or a mapping from model to either.
    `port` 0 takes a free one; `host` None listens nowhere, for `serve_stream` alone. With `keys` (provider id -> key)
    a request to a provider needs its key, and is answered 401 otherwise. `check=False` takes malformed requests as
    far as they can be lifted. `wall_time` is what replies are dated with. `send_buffer_bytes` bounds what the system
    takes of a reply that nobody reads. `on_change` is called with `"request"` or `"end"` and the entry.
    """

    def __init__(
        self,
        catalog: Source | None = None,
        scripts: Scripts | None = None,
        *,
        host: str | None = "127.0.0.1",
        port: int = 0,
        keys: Mapping[str, str] | None = None,
        check: bool = True,
        wall_time: Callable[[], float] = time.time,
        send_buffer_bytes: int | None = None,
        on_change: Callable[[str, Entry], None] | None = None,
    ) -> None:
        directory = directory_of(catalog if catalog is not None else _bundled())
        _ = directory.masker  # reads every manifest once for a catalogue: better now than inside the first request
        self._host = host
        self._port = port
        self._simulator = Simulator(
            directory,
            keys=keys,
            check=check,
            wall_time=wall_time,
            send_buffer_bytes=send_buffer_bytes,
            on_change=on_change,
        )
        if isinstance(scripts, Mapping):
            for model, answers in scripts.items():
                self._queue(answers, model)
        elif scripts is not None:
            self._queue(scripts, None)
        self._nursery_manager: Any = None
        self._nursery: trio.Nursery | None = None

    def _queue(self, answers: Answer | Sequence[Answer], model: str | None) -> None:
        if isinstance(answers, Sequence):
            self._simulator.script(*answers, model=model)
        else:
            self._simulator.script(answers, model=model, times=None)

    async def __aenter__(self) -> Simulator:
        if not trio.lowlevel.in_trio_task():
            raise CallerError("the simulator runs on trio: there is no trio run here", kind="bad_argument")
        listeners: list[trio.SocketListener] = []
        if self._host is not None:
            # A thousand clients may connect within one turn of the scheduler.
            listeners = await trio.open_tcp_listeners(self._port, host=self._host, backlog=4096)
            self._simulator.host = self._host
            self._simulator.port = listeners[0].socket.getsockname()[1]
        self._nursery_manager = trio.open_nursery()
        self._nursery = await self._nursery_manager.__aenter__()
        for listener in listeners:
            self._nursery.start_soon(self._accept, listener, self._nursery)
        return self._simulator

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        raise
                    await trio.sleep(0.1)  # out of descriptors: clients wait in the backlog until some are free
                else:
                    nursery.start_soon(self._simulator.serve_socket, stream)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        # The block's own exception is not handed to the nursery, which would wrap it in a group: it goes on by itself.
        try:
            await self._nursery_manager.__aexit__(None, None, None)
        except BaseException as group:
            faults = [leaf for leaf in _leaves(group) if not isinstance(leaf, trio.Cancelled)]
            if not faults and error is not None:
                return
            # A script that cannot be said in a dialect ends the block with that one error, not with a group of one.
            raise (faults[0] if len(faults) == 1 else group) from error


def _leaves(error: BaseException) -> Iterator[BaseException]:
    inner: Sequence[BaseException] = getattr(error, "exceptions", ())
    if not inner:
        yield error
    for one in inner:
        yield from _leaves(one)
