"""One attempt's conversation: a request goes out through the engine, what comes back becomes events.

Imports pipeline, wire, `service`, `transport.base` and trio. The rule that must stay true: whatever was decoded before
a fault is delivered before the fault is raised, and the limits on time run only while we wait for the provider.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import msgspec
import trio

from ..errors import MAX_RAW_BYTES, AiLibError, TransportError
from ..pipeline import Pipeline
from ..pipeline.inflate import Inflater
from ..protocol.manifest import ErrorRules
from ..service import Batch, Gate, Timeouts
from ..transport.base import Engine, Headers, Leasing, Reading, WireRequest
from ..types.admission import LimitsSeen
from ..types.events import (
    Metadata,
    PartialContentDelta,
    PartialToolCall,
    StreamEnd,
    StreamError,
    ThinkingDelta,
    has_output,
)
from ..types.records import AttemptStarted, EventBatch, FirstToken
from ..wire.auth import Pairs, attach, authorise, secrets_of, signature
from ..wire.classify import classify, request_id_of
from ..wire.limits import read_limits
from .alarm import Alarm, AlarmClock
from .hooks import Hooks
from .job import Job, Progress
from .target import Target

__all__ = ["Exchange", "Limits", "Rules"]


THROUGHPUT_S = 10.0  # a stretch: long enough for a pause between two thoughts, short enough to leave a trickle
MAX_DRESSED = 64  # of one target: a few paths, unless a path has the request in it
DRAIN_S = 1.0  # how long the end of a body is awaited after the reply's own end


class Limits(msgspec.Struct, frozen=True):
    """Bounds on one reply, in bytes."""

    max_frame_bytes: int = 16 * 1024 * 1024
    max_reply_bytes: int = 256 * 1024 * 1024


class Rules(msgspec.Struct, frozen=True):
    """What an actor goes by: its gate, limits on waiting and size, and where time and errors come from."""

    make_gate: Callable[[], Gate]
    timeouts: Timeouts
    limits: Limits
    errors: ErrorRules
    wall_time: Callable[[], float]


class Home(Protocol):
    """The actor that admitted a job, as its exchange sees it."""

    engine: Engine
    leasing: Leasing | None
    rules: Rules
    hooks: Hooks
    clock: AlarmClock

    def learnt(self, job: Job, seen: LimitsSeen, now: float) -> None:
        """The reply told its limits."""
        ...


class _EnoughRead(Exception):
    """The error body is long enough to be classified: stop reading it."""


class Exchange:
    """One attempt. It is the engine's sink."""

    __slots__ = (
        "_alarm",
        "_clock",
        "_cut_in",
        "_error_body",
        "_home",
        "_hooks",
        "_idle_at",
        "_inflater",
        "_job",
        "_limits",
        "_phase",
        "_pipeline",
        "_plain_bytes",
        "_progress",
        "_reading",
        "_target",
        "_timeouts",
        "_verdict",
        "_window_at",
        "_window_bytes",
    )

    def __init__(self, job: Job, home: Home) -> None:
        self._job = job
        self._progress = job.progress
        target = job.call.target
        assert isinstance(target, Target)
        self._target = target
        self._home = home
        self._hooks = home.hooks
        self._clock = home.clock
        self._limits = home.rules.limits
        self._timeouts = job.call.timeouts or home.rules.timeouts
        self._window_at = 0.0  # when the present stretch of the minimum throughput began, and what it brought
        self._window_bytes = 0
        self._idle_at = 0.0  # when silence is too long, apart from throughput
        self._alarm = Alarm(self._time_is_up)
        self._phase = "connect"
        self._cut_in: str | None = None  # the phase whose time was up
        self._pipeline: Pipeline | None = None
        self._reading: Reading | None = None  # lent by the engine
        self._inflater: Inflater | None = None
        self._error_body: bytearray | None = None
        self._plain_bytes = 0
        self._verdict: AiLibError | None = None  # what we ourselves found wrong, as opposed to the wire

    async def run(self) -> None:
        """Carry the attempt out. Returns when the reply is complete; raises the `AiLibError` that it ended with.

        Returns early where the job was settled by somebody else meanwhile.
        """
        # A call that was cancelled before it began sends nothing: engines may write before they wait.
        await trio.lowlevel.checkpoint_if_cancelled()
        job = self._job
        request = self._request()
        progress = self._progress
        progress.started_at = started_at = self._clock.now()
        if self._hooks.on:
            call = job.call
            self._hooks.emit(
                AttemptStarted(
                    at_s=started_at,
                    call=call.number,
                    attempt=call.attempt,
                    provider=self._target.manifest.id,
                    model=self._target.model,
                )
            )
        connect_s = self._timeouts.connect_s
        if connect_s is None:
            connect_s = self._target.manifest.endpoint.timeout_ms / 1000
        self._clock.move(self._alarm, started_at + connect_s)
        is_cut = False
        try:
            is_cut = await self._carry_out(request)
        except _EnoughRead:
            pass
        except TransportError as exc:
            if self._verdict is not None:  # an engine may meet more on its way out; this came first
                raise self._verdict from self._verdict.__cause__
            if job.is_ended:  # a leased connection was closed under it
                is_cut = True
            elif self._error_body is None:  # a status is worth more than a cut in its body
                self._end(exc)
                return
        finally:
            self._clock.put_away(self._alarm)
        if job.is_settled:
            return
        if self._error_body is not None:  # worth more than a body that fell silent, too
            raise self._refusal(bytes(self._error_body))
        if is_cut and self._phase != "drain":
            raise self._too_slow()
        self._end(None)

    async def _carry_out(self, request: WireRequest) -> bool:
        """Let the engine carry it out, so that `Job.end` ends it. Returns whether that was so.

        An idle connection needs no scope around it: to close it is to end what waits for it. That is the way of a
        whole reply; one in pieces may also wait for its reader.
        """
        job, home = self._job, self._home
        if home.leasing is not None and not request.is_streamed and not job.is_ended:
            lease = home.leasing.lease()
            if lease is not None:
                job.abort = lease.close
                try:
                    if await home.leasing.exchange_on(lease, request, self):
                        return False
                finally:
                    job.abort = None
        # As `_ending` does, without the generator that a stream would hold for all its minutes.
        with trio.CancelScope() as scope:
            job.abort = scope.cancel
            if job.is_ended:
                scope.cancel()
            try:
                await home.engine.exchange(request, self)
            finally:
                job.abort = None
        return scope.cancelled_caught

    @contextlib.contextmanager
    def _ending(self) -> Iterator[trio.CancelScope]:
        """A scope that `Job.end` cancels."""
        job, before = self._job, self._job.abort
        with trio.CancelScope() as scope:
            job.abort = scope.cancel
            if job.is_ended:
                scope.cancel()
            try:
                yield scope
            finally:
                job.abort = before

    # ---- the request

    def _request(self) -> WireRequest:
        target = self._target
        request = self._job.call.request
        encoded = target.encoder.encode(request)
        self._progress.dropped_opaque = encoded.dropped_opaque
        self._progress.warnings = encoded.warnings
        method, path, query, headers, body = encoded.method, encoded.path, encoded.query, encoded.headers, encoded.body
        if target.auth.chain is None and not query and request.headers is None:
            # The same for every such request to this path: dressed once, and never changed.
            key = path, request.stream
            dressed = target.dressed.get(key)
            if dressed is None or dressed[0] != headers:
                if len(target.dressed) >= MAX_DRESSED:
                    target.dressed.clear()
                dressed = target.dressed[key] = (headers, *self._dressed(path, query, headers))
            return WireRequest(method, dressed[1], dressed[2], body, is_streamed=request.stream)
        url, headers = self._dressed(path, query, headers)
        secret = target.secret.reveal() if target.secret is not None else None
        at = self._home.rules.wall_time()
        headers = signature(target.auth, secret, method=method, url=url, headers=headers, body=body, at=at)
        return WireRequest(method, url, headers, body, is_streamed=request.stream)

    def _dressed(self, path: str, query: Pairs, headers: Pairs) -> tuple[str, Pairs]:
        """The URL and headers of a request, with its key and what it accepts."""
        target = self._target
        secret = target.secret.reveal() if target.secret is not None else None
        signed = authorise(headers, query, attach(target.auth, secret))
        headers, query = signed.headers, signed.query
        if not any(name == "accept-encoding" for name, _ in headers):
            # A stream compressed by the server is delayed by its buffers; a whole body may be.
            headers.append(("accept-encoding", "identity" if self._job.call.request.stream else Inflater.accepted()))
        url = target.base_url.rstrip("/") + path
        if query:
            from urllib.parse import urlencode

            url += ("&" if "?" in url else "?") + urlencode(query)
        return url, headers

    # ---- the sink

    def sending(self) -> None:
        """See `transport.base.Sink`."""
        now = self._clock.now()
        self._progress.sent_at = now
        self._phase = "first_byte"
        self._clock.move(self._alarm, now + self._timeouts.first_byte_s)

    def head(self, status: int, headers: Headers) -> None:
        """See `transport.base.Sink`."""
        progress = self._progress
        now = self._clock.now()
        if progress.sent_at is None:
            progress.sent_at = now
        progress.head_at = now
        progress.status = status
        progress.headers = dict(headers)
        progress.request_id = request_id_of(progress.headers, self._home.rules.errors)
        self._phase = "first_byte"
        self._clock.move(self._alarm, now + self._timeouts.first_byte_s)
        seen = read_limits(progress.headers, self._target.manifest.rate_limits, self._home.rules.wall_time())
        if seen is not None:
            self._home.learnt(self._job, seen, now)
        if 300 <= status < 400:
            raise self._ours("redirected", f"answered with a redirect ({status}), which is not followed")
        if status >= 400:
            self._error_body = bytearray()
        coding = progress.headers.get("content-encoding", "").strip().lower()
        if coding and coding != "identity":
            if not Inflater.knows(coding):
                raise self._ours("wrong_content_type", f"sent the content coding {coding!r}, which was not asked for")
            self._inflater = Inflater(coding)
        if self._error_body is None:
            self._pipeline = self._target.decoder.open(
                content_type=progress.headers.get("content-type"),
                streamed=self._job.call.request.stream,
                max_frame_bytes=self._limits.max_frame_bytes,
            )

    def data(self, chunk: bytes) -> bool:
        """See `transport.base.Sink`."""
        self._progress.bytes_in += len(chunk)
        if self._phase == "drain":
            return True
        if self._reading is not None:  # its reader's time until it waits again
            self._clock.move(self._alarm, math.inf)
            return self._plain(chunk) and self._phase != "drain"
        now = self._clock.now()
        self._idle_at = now + self._timeouts.idle_s
        self._clock.move(self._alarm, self._idle_at)
        if self._timeouts.min_bytes_per_s > 0:
            self._measure(len(chunk), now)
        self._phase = "idle"
        if self._inflater is None:
            return self._plain(chunk)
        self._inflater.feed(chunk)
        return self._inflate()

    async def wait_room(self) -> None:
        """See `transport.base.Sink`."""
        # The consumer's slowness is not the provider's: the clocks stand still meanwhile.
        self._clock.move(self._alarm, math.inf)
        stopped_at = self._clock.now()
        job = self._job
        while True:
            if job.call.request.stream:
                await job.outlet.wait_room()
            else:
                with self._ending():
                    await job.outlet.wait_room()
                if job.is_ended:
                    raise self._ours("reset", "was not read to its end")
            if self._inflater is None or self._phase == "drain":
                break
            await trio.lowlevel.checkpoint()  # a small body may inflate to a huge one: others get their turn meanwhile
            if self._inflate():
                break
        phase_s = DRAIN_S if self._phase == "drain" else self._timeouts.idle_s
        now = self._clock.now()
        self._window_at += now - stopped_at
        self._idle_at = now + phase_s
        self._clock.move(self._alarm, self._idle_at)
        if self._timeouts.min_bytes_per_s > 0 and self._phase == "idle":
            self._measure(0, now)

    def lend(self, reading: Reading) -> bool:
        """See `transport.base.Sink`. Lent once output has begun: until then the caller may have others things to do."""
        if self._progress.first_token_at is None or self._phase != "idle" or self._inflater is not None:
            return False
        if self._timeouts.min_bytes_per_s > 0 or not self._job.outlet.lend(self):
            return False
        self._reading = reading
        self._clock.move(self._alarm, math.inf)
        return True

    # ---- the source of its reader (`service.Source`), while the engine's reading is lent

    def wait(self) -> Awaitable[None]:
        """See `service.Source`."""
        assert self._reading is not None
        if self._alarm.due == math.inf:  # else the silence of before goes on
            self._idle_at = self._clock.now() + self._timeouts.idle_s
            self._clock.move(self._alarm, self._idle_at)
        return self._reading.wait()

    def read(self) -> bool:
        """See `service.Source`."""
        if self._reading is None:
            return False
        if self._reading.read():
            return True
        self._reading = None
        if self._phase == "idle" and not self._job.is_ended:
            self._idle_at = self._clock.now() + self._timeouts.idle_s
            self._clock.move(self._alarm, self._idle_at)
        return False

    def _measure(self, body_bytes: int, now: float) -> None:
        """Hold the reply to its minimum throughput: each stretch of it must bring so much, or it ends there."""
        if self._phase != "idle" or self._window_bytes >= self._timeouts.min_bytes_per_s * THROUGHPUT_S:
            self._window_at = now
            self._window_bytes = 0
        self._window_bytes += body_bytes
        if self._window_bytes < self._timeouts.min_bytes_per_s * THROUGHPUT_S:
            self._clock.move(self._alarm, min(self._alarm.due, self._window_at + THROUGHPUT_S))

    def _inflate(self) -> bool:
        """One bounded step. False while there is no room or more to inflate."""
        inflater = self._inflater
        assert inflater is not None
        try:
            plain = inflater.step()
        except zlib.error as exc:
            raise self._ours("unreadable_frame", "sent a compressed body that is broken") from exc
        has_room = self._plain(plain)
        return has_room and (self._phase == "drain" or not inflater.has_input)

    def _plain(self, piece: bytes) -> bool:
        self._plain_bytes += len(piece)
        if self._plain_bytes > self._limits.max_reply_bytes:
            raise self._ours("oversize", f"sent a reply over {self._limits.max_reply_bytes} bytes")
        if self._error_body is not None:
            self._error_body += piece
            if len(self._error_body) > MAX_RAW_BYTES:
                raise _EnoughRead
            return True
        pipeline = self._pipeline
        assert pipeline is not None
        has_room = self._deliver(pipeline.feed(piece), len(piece))
        if pipeline.closed:
            # The reply said that it is over. Its body's end makes the connection reusable, but is not waited for long.
            self._phase = "drain"
            self._clock.move(self._alarm, self._clock.now() + DRAIN_S)
        return has_room

    def _end(self, cut: TransportError | None) -> None:
        """The body is over, cleanly or by a cut. Evidence of a complete answer outweighs the cut."""
        pipeline = self._pipeline
        if pipeline is None:
            raise cut or self._ours("reset", "ended the connection before its reply")
        if not pipeline.closed:
            batch = pipeline.finish()
            if cut is not None and batch and isinstance(batch[-1], StreamError):
                self._deliver(batch[:-1], 0)
                raise cut
            self._deliver(batch, 0)
        progress = self._progress
        progress.body = pipeline.body
        progress.unread_frames = pipeline.unread_frames
        progress.warnings += pipeline.doubts()

    def _deliver(self, batch: Batch, body_bytes: int) -> bool:
        if not batch:
            return True
        progress = self._progress
        last = batch[-1]
        fault = last if isinstance(last, StreamError) else None
        if fault is not None:
            batch = batch[:-1]
        progress.events += len(batch)
        _count(batch, progress)
        if progress.first_token_at is None and has_output(batch):
            progress.first_token_at = now = self._clock.now()
            if self._hooks.on:
                call = self._job.call
                after = 0.0 if progress.started_at is None else now - progress.started_at
                self._hooks.emit(
                    FirstToken(
                        at_s=now,
                        call=call.number,
                        attempt=call.attempt,
                        provider=self._target.manifest.id,
                        model=self._target.model,
                        after_s=after,
                    )
                )
        if self._hooks.on:
            call = self._job.call
            self._hooks.emit(
                EventBatch(
                    at_s=self._clock.now(),
                    call=call.number,
                    attempt=call.attempt,
                    events=len(batch),
                    body_bytes=body_bytes,
                )
            )
        has_room = self._job.outlet.send_nowait(batch) if batch else True
        if fault is not None:
            raise self._fault(fault)
        return has_room

    # ---- what went wrong

    def _ours(self, kind: str, what: str) -> TransportError:
        return self._failed(kind, f"the provider {what}")

    def _failed(self, kind: str, message: str) -> TransportError:
        request_id = self._progress.request_id
        error = TransportError(
            message,
            kind=kind,
            status=self._progress.status,
            request_id=None if request_id is None else self._target.masked(request_id),
        )
        self._verdict = error
        return error

    def _time_is_up(self) -> None:
        if self._reading is not None and not self._reading.is_silent():
            # Something came, and its reader does something else.
            self._clock.move(self._alarm, math.inf)
            return
        # What comes in the same turn, before the exchange is cancelled, makes it no later phase's fault.
        self._cut_in = self._phase
        self._job.end()

    def _too_slow(self) -> TransportError:
        timeouts = self._timeouts
        if self._cut_in == "connect":
            return self._ours("connect_timeout", "could not be reached in time")
        if self._cut_in == "first_byte":
            return self._ours("first_byte_timeout", f"sent nothing for {timeouts.first_byte_s:g} s after the request")
        if self._clock.now() < self._idle_at:
            return self._ours("throughput_timeout", f"brought less than {timeouts.min_bytes_per_s:g} bytes a second")
        return self._ours("idle_timeout", f"fell silent for {timeouts.idle_s:g} s in the middle of its reply")

    def _refusal(self, body: bytes) -> AiLibError:
        progress = self._progress
        assert progress.status is not None
        said = self._target.decoder.read_error(progress.status, progress.headers, body)
        return self._classified(said, body)

    def _fault(self, fault: StreamError) -> AiLibError:
        if fault.kind != "provider":
            return self._failed(fault.kind, fault.message)
        self._verdict = self._classified(fault, b"")
        return self._verdict

    def _classified(self, said: StreamError, body: bytes) -> AiLibError:
        manifest = self._target.manifest
        secret = self._target.secret
        return classify(
            said,
            status=self._progress.status,
            headers=self._progress.headers,
            rules=manifest.errors,
            table=self._home.rules.errors,
            rate_limits=manifest.rate_limits,
            body=body,
            now_wall=self._home.rules.wall_time(),
            secrets=() if secret is None else secrets_of(self._target.auth, secret.reveal()),
        )


def _count(batch: Batch, progress: Progress) -> None:
    """Keep what an account needs: the usage reported last, how much text came, and what the reply says of itself."""
    chars = 0
    for event in batch:
        kind = type(event)
        if kind is PartialContentDelta:
            chars += len(event.content)  # type: ignore[union-attr]
        elif kind is ThinkingDelta:
            chars += len(event.thinking)  # type: ignore[union-attr]
        elif kind is PartialToolCall:
            chars += len(event.arguments)  # type: ignore[union-attr]
        elif kind is Metadata:
            progress.usage = event.usage or progress.usage  # type: ignore[union-attr]
            progress.response_id = event.response_id or progress.response_id  # type: ignore[union-attr]
            progress.response_model = event.model or progress.response_model  # type: ignore[union-attr]
        elif kind is StreamEnd:
            progress.finish_reason = event.finish_reason  # type: ignore[union-attr]
    progress.chars_out += chars
