"""The supervisor: owns inboxes and dockets, starts actors, restarts the crashed, and closes everything in order.

Imports `provider`, `health`, `life`, `job`, `hooks`, `transport.base` and trio. The rule that must stay true: a
job that entered a docket is settled, whatever happens to its actor; nothing that crashes here reaches the caller's
block as a group, unless the caller asked for it.

    client's nursery
      ├── supervise(slot)            one per outlet of credit, one-for-one
      │     └── ProviderActor.run    admits jobs; their exchanges run in the tasks of their callers
      ├── supervise_checks(actor)    one per place whose checks were asked for, one-for-one
      │     └── HealthActor.run      makes the checks that the manifest declares
      └── drive(call)                one per streamed call: policies and exchange, up to the channel the caller reads

Shutdown, in this order: 1. no more jobs are taken, and no more checks made; 2. running calls that somebody reads finish
within the grace; 3. dockets are settled; 4. exchanges end, their connections are cut; 5. engines are closed.
"""

from __future__ import annotations

import contextvars
import itertools
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import trio

from ..errors import AdmissionError
from ..service import Call, Outlet
from ..transport.base import Engine
from ..types.records import ActorRestarted, CallQueued
from .exchange import Rules
from .hooks import Hooks
from .job import Docket, Job
from .life import DEATHS_WITHIN_S, MAX_DEATHS, Life
from .provider import ProviderActor
from .target import ActorKey, Target

if TYPE_CHECKING:
    from .health import HealthActor

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

__all__ = ["Slot", "Supervisor"]

RESTART_PAUSE_S = 0.1  # long enough that a crash loop does not spin, short enough that no caller notices
# An exchange that was cancelled ends in a few turns of the scheduler, each of which may be long where a thousand of
# them end at one moment. Reaching this bound is a bug.
LEAVE_S = 5.0
CLOSED = ("client_closed", "the client was closed while the call was running")


class Slot(Life):
    """One outlet of credit: its inbox and docket, and the actor that serves them now.

    `key_number` tells apart the keys that are in use at one origin, from 1.
    """

    __slots__ = (
        "actor",
        "bugs",
        "credential_source",
        "docket",
        "engine",
        "inbox",
        "is_retired",
        "key",
        "key_number",
        "outbox",
        "rules",
        "target",
    )

    def __init__(
        self, target: Target, key_number: int, rules: Rules, hooks: Hooks, now: Callable[[], float] = trio.current_time
    ) -> None:
        super().__init__()
        self.key = target.key
        self.key_number = key_number
        self.target = target  # the first one: what the actor was started for
        self.credential_source = target.credential_source  # where the key was found, for people
        self.is_retired = False  # it finishes its jobs and takes no others
        self.rules = rules
        self.inbox, self.outbox = trio.open_memory_channel[Job | None](0)
        self.docket = Docket(hooks, now)
        self.actor: ProviderActor | None = None
        self.engine: Engine | None = None
        self.bugs = 0  # faults in exchanges, over all incarnations of the actor


class Supervisor:
    """Starts an actor for each outlet of credit on first use. `escalate` ends the client's block with the crash."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        make_engine: Callable[[ActorKey], Engine],
        make_rules: Callable[[Target, int], Rules],  # from a target and the number of its key
        hooks: Hooks,
        escalate: bool = False,
    ) -> None:
        self.slots: dict[ActorKey, Slot] = {}
        self.retired: list[Slot] = []  # with jobs that go on
        self.failures: list[Exception] = []  # crashes that the caller asked to see
        self.overdue_leaves = 0  # exchanges that did not end within LEAVE_S: each one is a bug
        self.is_closing = False
        self._checking: set[HealthActor] = set()
        self._nursery = nursery
        self._make_engine = make_engine
        self._make_rules = make_rules
        self._hooks = hooks
        self._escalate = escalate
        self._context = contextvars.copy_context()
        self._now = trio.lowlevel.current_clock().current_time  # trio's time by one call instead of three

    # ---- a call's way in

    @trio.lowlevel.enable_ki_protection  # Ctrl-C comes at a checkpoint, never between a permit and its return
    async def through_actor(self, call: Call, outlet: Outlet) -> None:
        """The innermost service: have the call's attempt admitted by its provider's actor, and carry it out.

        On return the answer is complete. Raises the `AiLibError` that ended it. Cancelled, it leaves when its
        connection is closed: nothing runs after it.
        """
        job, slot = self.enter(call, outlet)
        try:
            actor = slot.actor
            if actor is None or not actor.take_nowait(job):
                await self._wait_admission(slot, job)
            if not job.is_settled:
                # Here and not in a coroutine of the actor's: a stream would hold that one for all its minutes.
                actor = job.actor
                try:
                    await actor.exchange(job).run()
                except Exception as exc:  # the actor says what it is: a bug ends this job, siblings go on
                    actor.served(job, exc)
                else:
                    actor.served(job, None)
        finally:
            if not job.is_settled:
                self._leave(slot, job)
            elif job.actor is not None and job in job.actor.inflight:  # settled between its admission and its exchange
                job.actor.release(job)
        if job.error is not None:
            raise job.error

    async def _wait_admission(self, slot: Slot, job: Job) -> None:
        """Hand the job over and wait until the actor has admitted it, or somebody settled it."""
        job.word = trio.Event()
        if slot.actor is not None:
            slot.actor.has_mail = True
        try:
            slot.inbox.send_nowait(job)
        except trio.WouldBlock:  # the actor is in its turn, or between two lives
            job.handover = trio.CancelScope()
            with job.handover:
                await slot.inbox.send(job)
        await job.word.wait()

    def enter(self, call: Call, outlet: Outlet) -> tuple[Job, Slot]:
        """Enter a job in its docket. Raises `AdmissionError` where the provider has failed or the client closes."""
        target = call.target
        assert isinstance(target, Target)
        if self.is_closing:
            raise AdmissionError("the client is closed", kind="client_closed")
        slot = self._slot_of(target)
        now = self._now()
        job = Job(call, outlet, now)
        call.log.append(job)
        call.attempt = len(call.log)
        call.entry = job
        slot.docket.enter(job)
        if self._hooks.on:
            self._hooks.emit(
                CallQueued(
                    at_s=now,
                    call=call.number,
                    attempt=call.attempt,
                    provider=target.manifest.id,
                    model=target.model,
                    provider_name=target.provider_name,
                    server=target.server,
                )
            )
        if slot.has_failed:
            failed = AdmissionError(
                f"the actor of {target.manifest.id} crashed more than {MAX_DEATHS} times in {DEATHS_WITHIN_S:g} s",
                kind="provider_failed",
            )
            slot.docket.settle(job, failed)
            raise failed
        return job, slot

    def _leave(self, slot: Slot, job: Job) -> None:
        """The caller goes before the job's end; its exchange is over already."""
        slot.docket.settle(job, AdmissionError("the call was left by its caller", kind="client_closed"))
        if job.actor is not None:
            job.actor.release(job)
        elif slot.actor is not None:
            slot.actor.withdraw(job)
        job.call.detach()

    # ---- actors

    def retire(self, slot: Slot) -> None:
        """Replace an actor whose key, origin or manifest changed: the next call starts another, this one ends when its
        jobs have."""
        if self.slots.get(slot.key) is slot:
            del self.slots[slot.key]
        slot.is_retired = True
        self.retired.append(slot)
        self._context.run(partial(self._nursery.start_soon, self._drain, slot, name=f"drain of {slot.key.provider}"))

    async def _drain(self, slot: Slot) -> None:
        await slot.docket.wait_empty()
        if slot.actor is not None:
            slot.actor.tell_gone()
        slot.scope.cancel()
        self.retired.remove(slot)

    def _slot_of(self, target: Target) -> Slot:
        """The slot for a target. A call that began before a change goes on at the actor that it began with."""
        slot = self.slots.get(target.key)
        if slot is None or slot.target.manifest is not target.manifest:
            for old in self.retired:
                if old.key == target.key and old.target.manifest is target.manifest:
                    return old
        return slot or self._open_slot(target)

    def _open_slot(self, target: Target) -> Slot:
        at_origin = [*self.slots.values(), *self.retired]
        taken = {
            slot.key_number
            for slot in at_origin
            if (slot.key.provider, slot.key.origin) == (target.key.provider, target.key.origin)
        }
        number = next(number for number in itertools.count(1) if number not in taken)
        slot = Slot(target, number, self._make_rules(target, number), self._hooks, self._now)
        self.slots[target.key] = slot
        # In the context of whoever opened the client: the first caller's variables are not the actor's.
        self._context.run(
            partial(self._nursery.start_soon, self._supervise, slot, name=f"actor of {slot.key.provider}")
        )
        return slot

    @trio.lowlevel.enable_ki_protection
    async def _supervise(self, slot: Slot) -> None:
        """Keep one actor running: one-for-one, with a pause and a fresh engine after each crash."""
        try:
            with slot.scope:  # ended when the actor was replaced and has no jobs left
                await self._keep(slot, partial(self._run_actor, slot))
        except BaseException:
            # What is around the client's block ends, and its actors first: nobody would take a call that comes now.
            self.is_closing = True
            raise
        finally:
            self._settle_all(slot, *CLOSED)

    async def _keep(self, life: Life, live: Callable[[], Awaitable[Exception]]) -> None:
        """Live, and live again after each crash, until there were too many."""
        while not life.has_failed:
            crash = await live()
            if self._escalate:
                self.failures.append(crash)
                self._nursery.cancel_scope.cancel()
            await trio.sleep(RESTART_PAUSE_S)

    async def _run_actor(self, slot: Slot) -> Exception:
        """One life of the actor, to its crash. Its jobs are settled, and their exchanges over, before this is left."""
        try:
            engine = slot.engine = self._make_engine(slot.key)
        except Exception as exc:  # this is the supervisor: an engine that cannot be made is a crash like another
            self._mourn(slot, exc)
            return exc
        actor = slot.actor = ProviderActor(
            provider=slot.key.provider,
            inbox=slot.outbox,
            bell=slot.inbox,
            docket=slot.docket,
            engine=engine,
            rules=slot.rules,
            hooks=self._hooks,
        )
        try:
            await actor.run()
        except Exception as exc:  # this is the supervisor: a crash of the actor's own loop ends here
            crash = _unwrapped(exc)
            self._mourn(slot, crash)
            return crash
        except BaseExceptionGroup as group:  # it crashed in the moment in which it was ended
            ended, rest = group.split(trio.Cancelled)
            if ended is None or not isinstance(rest, ExceptionGroup):
                raise
            crash = _unwrapped(rest)
            self._mourn(slot, crash)
            if self._escalate:
                self.failures.append(crash)
            raise ended from None
        finally:
            slot.actor = slot.engine = None
            self._settle_all(slot, *CLOSED)
            for leave in (actor.wait_idle, engine.aclose):  # an exchange that does not end is cut off all the same
                with trio.move_on_after(LEAVE_S, shield=True) as bound:
                    await leave()
                if bound.cancelled_caught:
                    self.overdue_leaves += 1
            slot.bugs += actor.bugs
        raise AssertionError("an actor's loop does not return")

    def _mourn(self, slot: Slot, crash: Exception) -> None:
        now = trio.current_time()
        slot.mourn(now)
        self._settle_all(slot, "actor_lost", "the provider's actor crashed", crash)
        self._tell_crash(slot, now, slot.key, actor="provider", key_number=slot.key_number)

    def _tell_crash(self, life: Life, now: float, key: ActorKey, *, actor: str, key_number: int) -> None:
        if self._hooks.on:
            self._hooks.emit(
                ActorRestarted(
                    at_s=now,
                    provider=key.provider,
                    origin=key.origin,
                    key_number=key_number,
                    actor=actor,
                    deaths=len(life.deaths),
                    failed=life.has_failed,
                )
            )

    def _settle_all(self, slot: Slot, kind: str, message: str, cause: Exception | None = None) -> None:
        for job in slot.docket.jobs():
            error = AdmissionError(message, kind=kind)
            error.__cause__ = cause
            slot.docket.settle(job, error)
            job.end()

    # ---- checks

    def check(self, actor: HealthActor) -> None:
        """Keep a health actor running, until its scope is cancelled or no more checks are made."""
        if self.is_closing:
            return
        self._checking.add(actor)
        start = partial(self._nursery.start_soon, self._supervise_checks, actor, name=f"health of {actor.provider}")
        self._context.run(start)

    @trio.lowlevel.enable_ki_protection
    async def _supervise_checks(self, actor: HealthActor) -> None:
        try:
            with actor.scope:
                await self._keep(actor, partial(self._run_checks, actor))
        finally:
            self._checking.discard(actor)

    async def _run_checks(self, actor: HealthActor) -> Exception:
        try:
            actor.is_running = True
            await actor.run()
        except Exception as exc:  # this is the supervisor: a bug of a check is no failure of the provider
            now = trio.current_time()
            actor.mourn(now)
            self._tell_crash(actor, now, actor.target.key, actor="health", key_number=0)
            return _unwrapped(exc)
        finally:
            actor.is_running = False
        raise AssertionError("an actor's loop does not return")

    # ---- the end

    def stop_taking(self) -> None:
        """The first step of shutdown: from now on no job is taken and no check made. Running jobs go on."""
        self.is_closing = True
        for actor in self._checking:
            actor.scope.cancel()


def _unwrapped(crash: Exception) -> Exception:
    """The crash, without the wrapping of an actor's own nursery."""
    while isinstance(crash, ExceptionGroup) and len(crash.exceptions) == 1:
        crash = crash.exceptions[0]
    return crash
