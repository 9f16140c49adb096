"""A job is one attempt of a call, handed to a provider's actor; the docket holds those that are not settled yet.

Imports `hooks`, `service` and trio. The rule that must stay true: every job that entered the docket is settled exactly
once, at its exchange's end, by its caller's leaving, or by the supervisor; then whoever waits for it is woken, and the
sinks are told.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import msgspec
import trio

from ..errors import AiLibError
from ..service import Call, Outlet, Ticket
from ..types.records import AttemptEnded
from ..types.stats import AttemptState, Verdict
from ..types.usage import Usage
from .hooks import Hooks

__all__ = ["Docket", "Job", "Progress"]


class Progress:
    """How far an attempt came: written by its exchange, read for statistics and by policies."""

    __slots__ = (
        "admitted_at",
        "body",
        "bytes_in",
        "chars_out",
        "dropped_opaque",
        "ended_at",
        "events",
        "finish_reason",
        "first_token_at",
        "head_at",
        "headers",
        "queued_at",
        "request_id",
        "response_id",
        "response_model",
        "sent_at",
        "started_at",
        "status",
        "unread_frames",
        "usage",
        "warnings",
    )

    def __init__(self, now: float) -> None:
        self.queued_at = now
        self.admitted_at: float | None = None
        self.started_at: float | None = None  # the exchange began: connecting, or taking an idle connection
        self.sent_at: float | None = None  # the request's first byte was about to be written
        self.head_at: float | None = None
        self.first_token_at: float | None = None
        self.ended_at: float | None = None
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.request_id: str | None = None
        self.bytes_in = 0
        self.events = 0
        self.chars_out = 0  # of text, reasoning and arguments: for an estimate where no usage was reported
        self.usage: Usage | None = None  # as reported so far
        self.response_id: str | None = None
        self.response_model: str | None = None
        self.finish_reason: str | None = None
        self.dropped_opaque = 0
        self.unread_frames = 0
        self.warnings: tuple[str, ...] = ()
        self.body: object = None  # the decoded body of a reply that was not streamed

    def mask(self, masked: Callable[[str], str]) -> None:
        """Take the key out of what a reply says of itself: some servers answer with what they were sent."""
        for name in ("request_id", "response_id", "response_model"):
            said = getattr(self, name)
            if said is not None:
                setattr(self, name, masked(said))

    def state(self, *, is_complete: bool) -> AttemptState:
        """`unsent`, `silent`, `refused`, `partial` or `complete` (DESIGN: commit point)."""
        if is_complete:
            return "complete"
        if self.first_token_at is not None:
            return "partial"
        if self.status is not None and self.status >= 400:
            return "refused"
        return "unsent" if self.sent_at is None and self.head_at is None else "silent"


class Job:
    """One attempt. Its exchange runs in the caller's task; `end` is how limits on time and the actor's end reach it."""

    __slots__ = (
        "abort",
        "actor",
        "call",
        "context",
        "error",
        "handover",
        "is_ended",
        "is_settled",
        "outlet",
        "progress",
        "ticket",
        "verdict",
        "word",
    )

    def __init__(self, call: Call, outlet: Outlet, now: float) -> None:
        self.call = call
        self.outlet = outlet
        self.context = contextvars.copy_context()  # of the caller, for what others tell the sinks of the job
        self.progress = Progress(now)
        self.abort: Callable[[], None] | None = None  # ends what its exchange waits for now
        self.is_ended = False
        self.handover: trio.CancelScope | None = None  # around the caller's wait for the actor to take the job
        self.word: trio.Event | None = None  # that the caller waits for: admitted, or settled
        self.actor: Any = None  # the one that admitted it
        self.ticket: Ticket | None = None  # at that actor's gate
        self.is_settled = False
        self.error: AiLibError | None = None
        self.verdict: Verdict | None = None  # what became of it, where there was more than one: policies say so

    def state(self) -> AttemptState:
        """See `service.Entry`."""
        return self.progress.state(is_complete=self.is_settled and self.error is None)

    def end(self) -> None:
        """Let its exchange end now, or as soon as it begins."""
        self.is_ended = True
        if self.abort is not None:
            self.abort()

    def settle(self, error: AiLibError | None, now: float) -> None:
        """Say how it ended. Only the docket calls this, once."""
        self.is_settled = True
        self.error = error
        self.progress.ended_at = now
        if self.word is not None:
            self.word.set()
        if self.handover is not None:
            self.handover.cancel()

    def __repr__(self) -> str:
        return f"<Job {self.call.number}.{self.call.attempt} {'settled' if self.is_settled else 'open'}>"


class Docket:
    """The jobs handed over and not settled, by call and attempt. Entered before the hand-over, so none is lost."""

    __slots__ = ("_empty", "_hooks", "_jobs", "_now")

    def __init__(self, hooks: Hooks, now: Callable[[], float] = trio.current_time) -> None:
        self._hooks = hooks
        self._now = now
        self._jobs: dict[Job, None] = {}
        self._empty: trio.Event | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def jobs(self) -> list[Job]:
        return list(self._jobs)

    def enter(self, job: Job) -> None:
        self._jobs[job] = None

    def settle(self, job: Job, error: AiLibError | None) -> None:
        """Strike the job, say how it ended to whoever waits for it, and tell the sinks. Only the first word counts."""
        if self._jobs.pop(job, self) is self:
            return
        target = job.call.target
        if error is not None:
            error.located(provider=target.manifest.id, model=target.model)
        now = self._now()
        job.settle(error, now)
        if self._hooks.on:
            job.context.run(self._hooks.emit, _ending(job, error, now))
        if self._empty is not None and not self._jobs:
            self._empty.set()

    async def wait_empty(self) -> None:
        """Wait until every job is settled."""
        while self._jobs:
            self._empty = trio.Event()
            await self._empty.wait()


def _ending(job: Job, error: AiLibError | None, now: float) -> AttemptEnded:
    progress = job.progress
    target = job.call.target
    progress.mask(target.masked)
    usage = progress.usage
    is_left = error is not None and error.kind == "client_closed"
    return AttemptEnded(
        at_s=now,
        call=job.call.number,
        attempt=job.call.attempt,
        provider=target.manifest.id,
        model=target.model,
        outcome="ok" if error is None else "cancelled" if is_left else "failed",
        state=job.state(),
        kind=error.kind if error is not None else None,
        code=error.code if error is not None else None,
        status=progress.status,
        queue_s=_between(progress.queued_at, progress.admitted_at),
        connect_s=_between(progress.started_at, progress.sent_at),
        first_token_s=_between(progress.started_at, progress.first_token_at),
        total_s=now - progress.queued_at,
        events=progress.events,
        bytes_in=progress.bytes_in,
        # What a provider puts beside its counts is not ours to hand around.
        usage=msgspec.structs.replace(usage, raw=None) if usage is not None else None,
        request_id=progress.request_id,
        response_id=progress.response_id,
        response_model=progress.response_model,
        finish_reason=progress.finish_reason,
    )


def _between(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else end - start
