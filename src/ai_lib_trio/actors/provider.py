"""The provider actor: one outlet of credit, its queue, its connections, and the sessions that use them.

Imports `job`, `exchange`, `hooks`, `transport.base` and trio. The rule that must stay true: the actor waits for
nothing but its inbox, a wake-up and its children, so it takes every job at once, and nothing a provider does ends it.

             supervisor ──inbox (0)──> actor ──spawns──> session, session, ...   (one per admitted job)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import NamedTuple

import trio

from ..errors import AiLibError, InternalError
from ..protocol.manifest import ErrorRules
from ..service import Ending, Gate, Ticket, Timeouts
from ..transport.base import Engine
from ..types.records import CallAdmitted
from .alarm import AlarmClock
from .exchange import Exchange, Limits
from .hooks import Hooks
from .job import Docket, Job

__all__ = ["ProviderActor", "Rules"]


class Rules(NamedTuple):
    """What an actor goes by: its gate, limits on waiting and size, and where time and errors come from."""

    make_gate: Callable[[], Gate]
    timeouts: Timeouts
    limits: Limits
    errors: ErrorRules
    wall_time: Callable[[], float]


class ProviderActor:
    """One incarnation of an actor. The inbox and the docket are the supervisor's and outlive it."""

    def __init__(
        self,
        *,
        provider: str,
        inbox: trio.MemoryReceiveChannel[Job | None],
        bell: trio.MemorySendChannel[Job | None],
        docket: Docket,
        engine: Engine,
        rules: Rules,
        hooks: Hooks,
    ) -> None:
        self.provider = provider
        self.inflight: dict[Job, None] = {}
        self.bugs = 0
        self._inbox = inbox
        self._bell = bell
        self._docket = docket
        self._engine = engine
        self._rules = rules
        self._hooks = hooks
        self.gate = rules.make_gate()
        self._tickets: dict[Job, Ticket] = {}  # of jobs that wait
        self._clock = AlarmClock()
        self._is_waiting = False
        self._needs_turn = False

    @property
    def queued(self) -> int:
        """Calls that wait to be admitted."""
        return len(self._tickets)

    def withdraw(self, job: Job) -> None:
        """The caller of a job that waits has left. Called by the supervisor."""
        ticket = self._tickets.pop(job, None)
        if ticket is not None:
            self.gate.withdraw(ticket, trio.current_time())
            self._wake()  # it may have been the one that the others waited behind

    async def run(self) -> None:
        """Take jobs and run their sessions until cancelled. Only a fault of this loop gets out."""
        async with trio.open_nursery() as sessions:
            sessions.start_soon(self._clock.run, name=f"time limits of {self.provider}")
            while True:
                await self._wait_turn()
                self._empty_inbox()
                self._admit(sessions)

    # ---- the loop

    async def _wait_turn(self) -> None:
        """Wait for a job, a wake-up, or the gate's own time. A wake-up between two turns leaves `_needs_turn` set."""
        if self._needs_turn:
            self._needs_turn = False
            await trio.lowlevel.checkpoint()
            return
        wake_at = self.gate.wake_at()
        self._is_waiting = True
        try:
            if wake_at == math.inf:
                self._take(await self._inbox.receive())
            else:
                with trio.CancelScope(deadline=wake_at):
                    self._take(await self._inbox.receive())
        finally:
            self._is_waiting = False
        self._needs_turn = False

    def _wake(self) -> None:
        """Let the loop take a turn: a word without a job, where it waits."""
        self._needs_turn = True
        if self._is_waiting:
            self._is_waiting = False
            # A job that was just handed over wakes it as well.
            with contextlib.suppress(trio.WouldBlock):
                self._bell.send_nowait(None)

    def _empty_inbox(self) -> None:
        while True:
            try:
                job = self._inbox.receive_nowait()
            except trio.WouldBlock:
                return
            self._take(job)

    def _take(self, job: Job | None) -> None:
        if job is None or job.is_settled:
            return
        call = job.call
        ticket = Ticket(
            number=call.number,
            attempt=call.attempt,
            model=call.target.model,
            arrived=job.progress.queued_at,
            deadline=call.deadline,
            tenant=call.tenant,
            tokens=call.tokens,
            is_retry=call.retry > 0,
            item=job,
        )
        refusal = self.gate.offer(ticket, trio.current_time())
        if refusal is not None:
            self._docket.settle(job, refusal)
        else:
            self._tickets[job] = ticket

    def _admit(self, sessions: trio.Nursery) -> None:
        now = trio.current_time()
        for ticket, refusal in self.gate.turn(now):
            job: Job = ticket.item
            del self._tickets[job]
            if refusal is not None:
                self._docket.settle(job, refusal)
                continue
            self.inflight[job] = None
            job.progress.admitted_at = now
            if self._hooks.on:
                record = CallAdmitted(
                    at_s=now,
                    call=job.call.number,
                    attempt=job.call.attempt,
                    provider=self.provider,
                    model=job.call.target.model,
                    queue_s=now - job.progress.queued_at,
                )
                job.context.run(self._hooks.emit, record)
            job.context.run(sessions.start_soon, self._session, job, ticket)
        self._tell_news()

    def _tell_news(self) -> None:
        for record in self.gate.news():
            if self._hooks.on:
                self._hooks.emit(record)

    # ---- a session

    @trio.lowlevel.enable_ki_protection  # Ctrl-C goes to the caller's task, not into somebody's exchange
    async def _session(self, job: Job, ticket: Ticket) -> None:
        """One job's task. A provider's fault or a bug ends the job here, never the actor."""
        error: AiLibError | None = None
        is_torn_down = True
        try:
            await Exchange(
                job,
                engine=self._engine,
                timeouts=job.call.timeouts or self._rules.timeouts,
                limits=self._rules.limits,
                hooks=self._hooks,
                errors=self._rules.errors,
                wall_time=self._rules.wall_time,
                learn=lambda seen: self.gate.learnt(ticket, seen, trio.current_time()),
                clock=self._clock,
            ).run()
            is_torn_down = False
        except AiLibError as exc:
            error = exc
            is_torn_down = False
        except Exception as exc:  # the boundary is a supervisor of one: a bug ends this job, siblings go on
            error = InternalError(f"a fault in the session: {type(exc).__name__}", kind="bug")
            error.__cause__ = exc
            self.bugs += 1
            is_torn_down = False
        finally:
            self.inflight.pop(job, None)
            # Cancelled with the whole actor, the job is left in the docket: the supervisor says how it ended.
            if not is_torn_down:
                self._docket.settle(job, error)
                self._end(job, ticket)

    def _end(self, job: Job, ticket: Ticket) -> None:
        """Give the permit back, and tell the gate how it went."""
        progress = job.progress
        now = trio.current_time()
        start = now if progress.admitted_at is None else progress.admitted_at
        first = progress.first_token_at
        ending = Ending(
            error=job.error,
            state=job.state(),
            is_left=job.is_left and job.error is not None and job.error.kind == "client_closed",
            took_s=now - start,
            first_token_s=None if first is None else first - start,
            usage=progress.usage,
        )
        self.gate.ended(ticket, ending, now)
        if self._tickets:
            self._wake()
        else:
            self._tell_news()
