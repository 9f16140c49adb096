"""The provider actor: one outlet of credit, its queue, its connections, and the sessions that use them.

Imports `job`, `exchange`, `hooks`, `transport.base` and trio. The rule that must stay true: the actor waits for
nothing but its inbox, a wake-up and its children, so it takes every job at once, and nothing a provider does ends it.

             supervisor ──inbox (0)──> actor ──spawns──> session, session, ...   (one per admitted job)
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import NamedTuple

import trio

from ..errors import AdmissionError, AiLibError, InternalError
from ..protocol.manifest import ErrorRules
from ..service import Timeouts
from ..transport.base import Engine
from ..types.records import CallAdmitted
from .exchange import Exchange, Limits
from .hooks import Hooks
from .job import Docket, Job

__all__ = ["ProviderActor", "Rules"]

NO_DEADLINE_S = 600.0  # a call without a deadline is ordered as if it had ten minutes from arrival


class Rules(NamedTuple):
    """What an actor goes by: bounds on calls, limits on waiting and size, and where time and errors come from."""

    max_inflight: int
    max_queued: int
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
        inbox: trio.MemoryReceiveChannel[Job],
        docket: Docket,
        engine: Engine,
        rules: Rules,
        hooks: Hooks,
    ) -> None:
        self.provider = provider
        self.inflight: dict[Job, None] = {}
        self.bugs = 0
        self._inbox = inbox
        self._docket = docket
        self._engine = engine
        self._rules = rules
        self._hooks = hooks
        self._queue: list[tuple[float, int, int, Job]] = []  # heap by (deadline, call, attempt)
        self._waiting = trio.CancelScope()
        self._is_waiting = False
        self._needs_turn = False

    @property
    def queued(self) -> int:
        """Calls that wait to be admitted."""
        return sum(not job.is_settled for *_, job in self._queue)

    async def run(self) -> None:
        """Take jobs and run their sessions until cancelled. Only a fault of this loop gets out."""
        async with trio.open_nursery() as sessions:
            while True:
                await self._wait_turn()
                self._empty_inbox()
                self._admit(sessions)

    # ---- the loop

    async def _wait_turn(self) -> None:
        """Wait for a job or a wake-up. A wake-up between two turns is not lost: it leaves `_needs_turn` set."""
        if self._needs_turn:
            self._needs_turn = False
            await trio.lowlevel.checkpoint()
            return
        self._waiting = trio.CancelScope()
        self._is_waiting = True
        try:
            with self._waiting:
                self._take(await self._inbox.receive())
        finally:
            self._is_waiting = False
        self._needs_turn = False

    def _wake(self) -> None:
        self._needs_turn = True
        if self._is_waiting:
            self._waiting.cancel()

    def _empty_inbox(self) -> None:
        while True:
            try:
                job = self._inbox.receive_nowait()
            except trio.WouldBlock:
                return
            self._take(job)

    def _take(self, job: Job) -> None:
        if job.is_settled:
            return
        # What can start in this turn does not wait: only the rest counts against the queue's bound.
        bound = self._rules.max_queued + self._rules.max_inflight - len(self.inflight)
        if len(self._queue) >= bound and self.queued >= bound:
            self._docket.settle(
                job,
                AdmissionError(f"{self._rules.max_queued} calls are waiting for {self.provider} already", kind="shed"),
            )
            return
        call = job.call
        due = call.deadline if call.deadline < math.inf else job.progress.queued_at + NO_DEADLINE_S
        heapq.heappush(self._queue, (due, call.number, call.attempt, job))

    def _admit(self, sessions: trio.Nursery) -> None:
        while self._queue and len(self.inflight) < self._rules.max_inflight:
            *_, job = heapq.heappop(self._queue)
            if job.is_settled:  # its caller left while it waited
                continue
            self.inflight[job] = None
            progress = job.progress
            progress.admitted_at = now = trio.current_time()
            if self._hooks.on:
                record = CallAdmitted(
                    at_s=now,
                    call=job.call.number,
                    provider=self.provider,
                    model=job.call.target.model,
                    queue_s=now - progress.queued_at,
                )
                job.context.run(self._hooks.emit, record)
            job.context.run(sessions.start_soon, self._session, job)

    # ---- a session

    @trio.lowlevel.enable_ki_protection  # Ctrl-C goes to the caller's task, not into somebody's exchange
    async def _session(self, job: Job) -> None:
        """One job's task. A provider's fault or a bug ends the job here, never the actor."""
        error: AiLibError | None = None
        is_torn_down = True
        try:
            with job.scope:
                await Exchange(
                    job,
                    engine=self._engine,
                    timeouts=job.call.timeouts or self._rules.timeouts,
                    limits=self._rules.limits,
                    hooks=self._hooks,
                    errors=self._rules.errors,
                    wall_time=self._rules.wall_time,
                ).run()
            if job.scope.cancelled_caught:
                error = AdmissionError("the call was left by its caller", kind="client_closed")
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
                if self._queue:
                    self._wake()
