"""The provider actor: one outlet of credit, its queue, its limits and its connections.

Imports `job`, `exchange`, `hooks`, `transport.base` and trio. The rule that must stay true: the actor waits for
nothing but its inbox and a wake-up, so it takes every job at once, and nothing a provider does ends it.

             supervisor ──inbox (0)──> actor ──admits──> the caller's task, which runs the exchange and says its end

A job that finds nobody waiting and everything wide open is admitted in its caller's own turn (`take_nowait`): what the
actor's next turn would come to, without two switches of tasks.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any, TypeVar

import trio

from ..errors import AiLibError, InternalError
from ..service import Ending, Ticket
from ..transport.base import Engine, Leasing
from ..types.admission import LimitsSeen
from ..types.records import CallAdmitted
from .alarm import AlarmClock
from .exchange import Exchange, Rules
from .hooks import Hooks
from .job import Docket, Job

__all__ = ["ProviderActor"]

T = TypeVar("T")


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
        self.engine = engine
        self.leasing: Leasing | None = engine if isinstance(engine, Leasing) else None
        self.rules = rules
        self.hooks = hooks
        self.clock = AlarmClock()
        self.gate = rules.make_gate()
        self.has_mail = False  # something was put into the inbox that this has not taken yet
        self._inbox = inbox
        self._bell = bell
        self._docket = docket
        self._tickets: dict[Job, Ticket] = {}  # of jobs that wait
        self._crash: Exception | None = None  # a fault of this actor that somebody else's task met
        self._idle: trio.Event | None = None
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
            self._at_gate(self.gate.withdraw, ticket, trio.current_time())
            self._wake()  # it may have been the one that the others waited behind

    async def run(self) -> None:
        """Take jobs and admit them until cancelled. Only a fault of this loop gets out."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.clock.run, name=f"time limits of {self.provider}")
            while True:  # whoever came between two lives is in the inbox already, and goes first
                self._empty_inbox()
                self._admit()
                await self._wait_turn()

    async def wait_idle(self) -> None:
        """Wait until no exchange runs any more."""
        while self.inflight:
            self._idle = trio.Event()
            await self._idle.wait()

    # ---- the loop

    async def _wait_turn(self) -> None:
        """Wait for a job, a wake-up, or the gate's own time. A wake-up between two turns leaves `_needs_turn` set."""
        if self._needs_turn:
            self._needs_turn = False
            await trio.lowlevel.checkpoint()
            self._raise_crash()
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
        self._raise_crash()

    def _raise_crash(self) -> None:
        if self._crash is not None:
            raise self._crash

    def _at_gate(self, ask: Callable[..., T], *arguments: Any) -> T | None:
        """Ask the gate in another task's turn. What fails there is a fault of the actor, never of whoever asked: its
        loop raises it in the next turn."""
        try:
            return ask(*arguments)
        except Exception as exc:  # a bug of the gate ends this actor, and its supervisor sees to the rest
            self._crash = exc
            self._wake()
            return None

    def _wake(self) -> None:
        """Let the loop take a turn: a word without a job, where it waits."""
        self._needs_turn = True
        if self._is_waiting:
            self._is_waiting = False
            # A job that was just handed over wakes it as well.
            with contextlib.suppress(trio.WouldBlock):
                self._bell.send_nowait(None)

    def _empty_inbox(self) -> None:
        self.has_mail = False
        while True:
            try:
                job = self._inbox.receive_nowait()
            except trio.WouldBlock:
                return
            self._take(job)

    def hear_probes(self) -> None:
        """Tell the gate which replies have begun, where a breaker waits to know."""
        if not self.gate.is_probing:
            return
        now = trio.current_time()
        for job in self.inflight:
            first, admitted = job.progress.first_token_at, job.progress.admitted_at
            if first is not None and admitted is not None and job.ticket is not None:
                self.gate.began(job.ticket, first - admitted, now)

    def _take(self, job: Job | None) -> None:
        if job is None or job.is_settled:
            return
        self.hear_probes()
        ticket = _ticket(job)
        refusal = self.gate.offer(ticket, trio.current_time())
        if refusal is not None:
            self._docket.settle(job, refusal)
        else:
            self._tickets[job] = ticket

    def _admit(self) -> None:
        self.hear_probes()
        now = trio.current_time()
        for ticket, refusal in self.gate.turn(now):
            job: Job = ticket.item
            del self._tickets[job]
            if refusal is not None:
                self._docket.settle(job, refusal)
                continue
            self._let_in(job, ticket, now)
            if job.word is not None:
                job.word.set()
        self._tell_news()

    def take_nowait(self, job: Job) -> bool:
        """Admit a call's first attempt in its caller's turn, where no order of calls can matter: nobody waits, and more
        than half of every limit is free. False: it has to go through the inbox."""
        if not self._is_waiting or self.has_mail or self._tickets or len(job.call.log) > 1:
            return False
        now = job.progress.queued_at
        ticket = _ticket(job)
        if not self._at_gate(self.gate.pass_nowait, ticket, now):
            return False
        self._let_in(job, ticket, now)
        return True

    def _let_in(self, job: Job, ticket: Ticket, now: float) -> None:
        self.inflight[job] = None
        job.actor = self
        job.ticket = ticket
        job.progress.admitted_at = now
        if self.hooks.on:
            record = CallAdmitted(
                at_s=now,
                call=job.call.number,
                attempt=job.call.attempt,
                provider=self.provider,
                model=job.call.target.model,
                queue_s=now - job.progress.queued_at,
            )
            job.context.run(self.hooks.emit, record)

    def tell_gone(self) -> None:
        """Nobody calls this actor any more, and its breakers go with it. Called by the supervisor."""
        if not self.hooks.on:
            return
        for record in self._at_gate(self.gate.farewell, trio.current_time()) or ():
            self.hooks.emit(record)

    def _tell_news(self) -> None:
        for record in self.gate.news(is_wanted=self.hooks.on):
            self.hooks.emit(record)

    # ---- an admitted job, in its caller's task

    def exchange(self, job: Job) -> Exchange:
        """An admitted job's exchange, to be run by the caller's task, which says `served` when it is over.

        Cancelled, the connection is closed and the job is still to be settled, and `release`d, by whoever leaves.
        """
        return Exchange(job, self)

    def served(self, job: Job, fault: Exception | None) -> None:
        """Settle a job whose exchange is over. A provider's fault or a bug ends the job here and nothing else."""
        if fault is None or isinstance(fault, AiLibError):
            error = fault
        else:  # the boundary is a supervisor of one: a bug ends this job, siblings go on
            error = InternalError(f"a fault in the exchange: {type(fault).__name__}", kind="bug")
            error.__cause__ = fault
            self.bugs += 1
        self._docket.settle(job, error)
        self.release(job)

    def learnt(self, job: Job, seen: LimitsSeen, now: float) -> None:
        """The reply to a job told its limits."""
        assert job.ticket is not None
        self._at_gate(self.gate.learnt, job.ticket, seen, now)

    def release(self, job: Job) -> None:
        """Give a settled job's permit back, and tell the gate how it went."""
        del self.inflight[job]
        if not self.inflight and self._idle is not None:
            self._idle.set()
        ticket, progress = job.ticket, job.progress
        assert ticket is not None
        now = progress.ended_at if progress.ended_at is not None else trio.current_time()
        start = now if progress.admitted_at is None else progress.admitted_at
        # A whole reply has no first token before its end: as a sample it would make a hedge late.
        first = progress.first_token_at if job.call.request.stream else None
        ending = Ending(
            job.error,
            job.state(),
            job.error is not None and job.error.kind == "client_closed",
            now - start,
            None if first is None else first - start,
            progress.usage,
        )
        self._at_gate(self._ended, ticket, ending, now)
        job.ticket = None
        if job.error is None:
            job.call.detach()
        if self._tickets:
            self._wake()

    def _ended(self, ticket: Ticket, ending: Ending, now: float) -> None:
        self.gate.ended(ticket, ending, now)
        if not self._tickets:  # otherwise the turn that comes tells it
            self._tell_news()


def _ticket(job: Job) -> Ticket:
    call = job.call
    # By place: nine names cost as much as everything else at the gate.
    return Ticket(
        call.number,
        call.attempt,
        call.target.model,
        job.progress.queued_at,
        call.deadline,
        call.tenant,
        call.tokens,
        call.retry > 0,
        job,
    )
