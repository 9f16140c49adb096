"""A running client, seen from another process: snapshots over a Unix socket that the program opens.

Imports types and trio. The rule that must stay true: the socket is readable by its user alone, what goes over it holds
no key and no word of a prompt or reply, and whoever looks slows nobody down.

The protocol is one line of JSON each `interval_s`, from the moment somebody connects until they leave.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec
import trio

from ..errors import CallerError
from ..types.records import AttemptEnded, CallEnded, EventBatch, Record, Sink

__all__ = ["Counted", "Meter", "Observed", "observe", "snapshots"]

MOST_WATCHERS = 8  # each is a task and a socket; nobody needs more screens than that
RATE_OVER_S = 10.0
MAX_LINE = 16 * 1024 * 1024


class Counted(msgspec.Struct, kw_only=True):
    """What one provider's calls came to since the socket was opened. `cost` by currency.

    `tokens_per_s` is what came out in the last ten seconds, by the second, running streams included: those are
    estimated from their characters until the provider reports, and so `is_estimated`. The other counts are of what
    has ended, as it was reported.
    """

    calls: int = 0
    attempts: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    tokens_per_s: float = 0.0
    is_estimated: bool = False
    cost: dict[str, float] = {}


class Observed(msgspec.Struct, kw_only=True):
    """One snapshot. `tree` is the client's own, as JSON has it; `uptime_s` counts from the opening of the socket."""

    pid: int
    client: int
    uptime_s: float
    tree: dict[str, Any]
    stats: dict[str, int]
    providers: dict[str, Counted] = {}
    events_per_s: float = 0.0


class _Client(Protocol):
    """A client, as far as this looks at it."""

    number: int

    def tree(self) -> Any: ...
    def stats(self) -> dict[str, int]: ...
    def sink(self, sink: Sink) -> AbstractContextManager[None]: ...


class _Output:
    """How much output there was of one attempt, or of a call that ended, at some moments; between them evenly."""

    __slots__ = ("is_estimated", "points", "provider")

    def __init__(self, provider: str, began_at: float, *, is_estimated: bool) -> None:
        self.provider = provider
        self.is_estimated = is_estimated
        self.points: list[tuple[float, float]] = [(began_at, 0)]

    def add(self, at: float, tokens: int) -> None:
        if at > self.points[-1][0]:
            self.points.append((at, tokens))
        else:  # at one moment with the last one: all of it came then
            self.points[-1] = (at, tokens)
            if len(self.points) == 1:
                self.points.insert(0, (at, 0))

    def since(self, start: float) -> float:
        """How many tokens came after `start`. Forgets what lies before it."""
        while len(self.points) > 1 and self.points[1][0] <= start:
            del self.points[0]
        (at, tokens), last = self.points[0], self.points[-1][1]
        if at < start and len(self.points) > 1:
            then, more = self.points[1]
            tokens += (more - tokens) * (start - at) / (then - at)
        elif at < start:
            return 0.0
        return max(last - tokens, 0.0)  # what is reported at last may be less than what was estimated


class Meter:
    """A sink that counts, with rates over the last seconds. Bounded by the number of providers and of open calls."""

    def __init__(self) -> None:
        self.providers: dict[str, Counted] = {}
        self._running: dict[int, dict[int, _Output]] = {}  # by call and attempt, as the tree showed them
        self._ended: deque[_Output] = deque(maxlen=10_000)
        self._events: dict[int, int] = {}  # by second

    def __call__(self, record: Record) -> None:
        if isinstance(record, EventBatch):
            second = int(record.at_s)
            self._events[second] = self._events.get(second, 0) + record.events
            if len(self._events) > 2 * RATE_OVER_S:
                self._events = {at: count for at, count in self._events.items() if at > second - RATE_OVER_S}
        elif isinstance(record, AttemptEnded):
            self.providers.setdefault(record.provider, Counted()).attempts += 1
        elif isinstance(record, CallEnded):
            seen = self.providers.setdefault(record.provider, Counted())
            seen.calls += 1
            seen.failed += record.outcome == "failed"
            if record.cost and record.currency:
                seen.cost[record.currency] = seen.cost.get(record.currency, 0.0) + record.cost
            if record.usage is not None:
                seen.input_tokens += record.usage.input_tokens or 0
                seen.output_tokens += record.usage.output_tokens or 0
            self._close(record)

    def _close(self, record: CallEnded) -> None:
        """The call's output is what was reported; where nothing was, what was estimated so far stays."""
        running = self._running.pop(record.call, {})
        if record.usage is None or record.usage.output_tokens is None:
            self._ended.extend(running.values())
            return
        waited = record.total_s if record.first_token_s is None or not record.stream else record.first_token_s
        output = _Output(record.provider, record.at_s - max(record.total_s - waited, 0.0), is_estimated=False)
        output.add(record.at_s, record.usage.output_tokens)
        self._ended.append(output)

    def rates(self, now: float, tree: Any) -> float:
        """Set each provider's rate of tokens, with what the tree shows of running calls; gives the rate of events."""
        since = now - RATE_OVER_S
        running: dict[int, dict[int, _Output]] = {}
        for actor in tree.actors:
            for call in actor.calls:
                if call.output_s is None:
                    continue
                known = self._running.get(call.call, {}).get(call.attempt)
                if known is None:
                    known = _Output(actor.provider, now - call.output_s, is_estimated=call.is_estimated)
                known.is_estimated = call.is_estimated
                known.add(now, call.output_tokens)
                running.setdefault(call.call, {})[call.attempt] = known
        for number, attempts in self._running.items():  # an attempt that is over, of a call that may go on
            for attempt, output in attempts.items():
                if attempt not in running.get(number, {}) and output.points[-1][0] > since:
                    running.setdefault(number, {})[attempt] = output
        self._running = running
        self._ended = deque((one for one in self._ended if one.points[-1][0] > since), maxlen=self._ended.maxlen)
        for counted in self.providers.values():
            counted.tokens_per_s, counted.is_estimated = 0.0, False
        for output in (*(one for attempts in running.values() for one in attempts.values()), *self._ended):
            tokens = output.since(since)
            counted = self.providers.setdefault(output.provider, Counted())
            counted.tokens_per_s += tokens / RATE_OVER_S
            counted.is_estimated |= output.is_estimated and tokens > 0
        return sum(count for at, count in self._events.items() if at > since) / RATE_OVER_S


@asynccontextmanager
async def observe(client: _Client, path: str | Path, *, interval_s: float = 0.5) -> AsyncIterator[Path]:
    """Let `ailib top PATH` look at the client for the time of the block. Gives the socket's path.

    The socket is made with mode 0600; an old one at the path is replaced, where nobody listens at it, and anything else
    there is an error. It is removed when the block is left, and whoever looks is sent away.
    """
    if not 0 < interval_s < float("inf"):
        raise CallerError(f"interval_s is a number of seconds above 0, got {interval_s!r}", kind="bad_argument")
    if not hasattr(socket, "AF_UNIX"):
        raise CallerError("this system has no Unix sockets", kind="bad_argument")
    where = Path(path)
    meter = Meter()
    opened_at = trio.current_time()
    listener = await _open(where)
    inode = os.stat(where).st_ino

    def look() -> bytes:
        now = trio.current_time()
        tree = client.tree()
        rate = meter.rates(now, tree)
        observed = Observed(
            pid=os.getpid(),
            client=client.number,
            uptime_s=now - opened_at,
            tree=msgspec.to_builtins(tree),
            stats=client.stats(),
            providers=meter.providers,
            events_per_s=rate,
        )
        return msgspec.json.encode(observed) + b"\n"

    watchers = trio.CapacityLimiter(MOST_WATCHERS)

    async def tell(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                watchers.acquire_nowait()
            except trio.WouldBlock:
                return
            try:
                while True:
                    await stream.send_all(look())
                    await trio.sleep(interval_s)
            except trio.BrokenResourceError:  # it left
                return
            finally:
                watchers.release()

    try:
        # What the block raises leaves it as itself: the nursery is cancelled and never sees it.
        failure: BaseException | None = None
        with client.sink(meter):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_serve, listener, tell)
                try:
                    yield where
                except BaseException as exc:
                    failure = exc
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
    finally:
        listener.socket.close()
        _remove(where, inode)


async def _serve(listener: trio.SocketListener, tell: Any) -> None:
    await trio.serve_listeners(tell, [listener])


async def _open(where: Path) -> trio.SocketListener:
    try:
        mode = os.lstat(where).st_mode
    except FileNotFoundError:
        mode = 0
    if mode:
        if not stat.S_ISSOCK(mode):
            raise CallerError(f"{where} is there and is no socket", kind="bad_argument")
        if await _is_served(where):
            raise CallerError(f"{where} is being listened at by another program", kind="bad_argument")
        os.unlink(where)
    made = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    # Nobody else can connect in the moment between bind and chmod: the mask takes their rights away from the start.
    mask = os.umask(0o177)
    try:
        await made.bind(str(where))
    except OSError as exc:
        made.close()
        raise CallerError(f"no socket can be made at {where}: {_said(exc)}", kind="bad_argument") from exc
    finally:
        os.umask(mask)
    os.chmod(where, 0o600)
    made.listen(MOST_WATCHERS)
    return trio.SocketListener(made)


def _said(error: OSError) -> str:
    return error.strerror or str(error)  # a path that is too long has no number


async def _is_served(where: Path) -> bool:
    with trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM) as probe:
        try:
            await probe.connect(str(where))
        except OSError:
            return False
    return True


def _remove(where: Path, inode: int) -> None:
    try:
        if os.stat(where).st_ino == inode:
            os.unlink(where)
    except FileNotFoundError:  # somebody was faster
        return


async def snapshots(path: str | Path) -> AsyncGenerator[Observed, None]:
    """The snapshots of the program that listens at the path, until it ends. Close the iterator when you leave early.

    Raises `CallerError` where nobody listens, and where one is sent away before there was a snapshot.
    """
    try:
        stream = await trio.open_unix_socket(str(path))
    except OSError as exc:
        said = "there is no such socket" if exc.errno == errno.ENOENT else _said(exc).lower()
        raise CallerError(f"{path}: {said}; the program opens it with telemetry.observe", kind="bad_argument") from exc
    decoder = msgspec.json.Decoder(Observed)
    rest = bytearray()
    count = 0
    async with stream:
        while True:
            try:
                data = await stream.receive_some()
            except trio.BrokenResourceError:
                data = b""
            if not data and not count:
                why = f"sent away without a snapshot: {MOST_WATCHERS} look already, or the program ends"
                raise CallerError(f"{path}: {why}", kind="bad_argument")
            if not data:
                return
            rest += data
            if len(rest) > MAX_LINE and b"\n" not in rest:
                raise CallerError(f"{path}: what listens there is no client of ours", kind="bad_argument")
            *lines, last = rest.split(b"\n")
            rest = bytearray(last)
            for line in lines:
                try:
                    one = decoder.decode(line)
                except msgspec.DecodeError as exc:
                    raise CallerError(f"{path}: what listens there is no client of ours", kind="bad_argument") from exc
                count += 1
                yield one
