"""A contest: several members answer one call, a judge names the winner, and the losers are closed there and then.

Imports `service`, `delivery` and trio. What race, hedge and quorum share. The rules that must stay true: a contest is
left only when every member's exchange has ended and its connection is closed, whether there was a winner, an error, or
a cancellation from outside; what leaves it is never wrapped by its nursery.

    contest ── nursery ── lane 0, lane 1, ...    each runs a whole chain of policies for its member
                 │
                 └─ loop: judge -> start who is due -> wait for news
"""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal

import msgspec
import trio

from ..errors import AdmissionError, AiLibError, CallerError, InternalError
from ..service import Batch, Call, Outlet, Service, Source, UserFault
from ..types.events import StreamingEvent, commits
from ..types.response import ChatResponse, Fold
from ..types.stats import Skipped

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["Contest", "Entrant", "Judge", "Lane", "Member", "contest"]

LaneState = Literal["waiting", "running", "complete", "failed", "lost", "cancelled"]


class Entrant(msgspec.Struct, frozen=True):
    """Who is to take part, by name: `ref` is what the caller called it, `models` the chain of models it stands for."""

    ref: str
    models: tuple[str, ...]


class Member(msgspec.Struct, frozen=True):
    """Who takes part. `enter` gives the call as it goes to it, or raises why it cannot."""

    ref: str
    enter: Callable[[Call], Awaitable[Call]]
    service: Service


class Lane:
    """One member's run. It is the outlet of its member; once it has won, what comes goes on to the caller.

    Before that it keeps what came. With `gathers` it takes a whole reply (bounded by the limit on a reply's size);
    otherwise it stops reading at the first output until the winner is known.
    """

    def __init__(self, number: int, member: Member, *, gathers: bool, ring: Callable[[], None]) -> None:
        self.number = number
        self.ref = member.ref
        self.state: LaneState = "waiting"
        self.error: AiLibError | None = None
        self.committed_at = math.inf
        self.ended_at = math.inf
        self.over = trio.Event()
        self.scope = trio.CancelScope()
        self._member = member
        self._gathers = gathers
        self._ring = ring
        self._kept: list[StreamingEvent] = []
        self._onward: Outlet | None = None
        self._has_won = trio.Event()
        self._fold = Fold()
        self._folded = 0

    # ---- the outlet of its member

    def send_nowait(self, batch: Batch) -> bool:
        """See `service.Outlet`."""
        if self._onward is not None:
            return self._onward.send_nowait(batch)
        self._kept.extend(batch)
        if self.committed_at == math.inf and any(commits(event) for event in batch):
            self.committed_at = trio.current_time()
        self._ring()
        return self._gathers or self.committed_at == math.inf

    async def wait_room(self) -> None:
        """See `service.Outlet`."""
        if not self._gathers:
            await self._has_won.wait()
        if self._onward is not None:
            await self._onward.wait_room()

    def lend(self, source: Source) -> bool:
        """See `service.Outlet`."""
        return self._onward is not None and self._onward.lend(source)

    # ---- its run

    @trio.lowlevel.enable_ki_protection  # Ctrl-C goes to the caller's task
    async def run(self, call: Call) -> None:
        """Answer the call. Nothing but a cancellation and an interrupt gets out."""
        self.state = "running"
        try:
            with self.scope:
                try:
                    onward = await self._member.enter(call.copy(lane=self.number))
                    await self._member.service(onward, self)
                    self.state = "complete"
                except AiLibError as exc:
                    self.state, self.error = "failed", exc
                except Exception as exc:  # the boundary of a member: a bug ends this member alone
                    fault = InternalError(f"a fault in the call: {type(exc).__name__}", kind="bug")
                    fault.__cause__ = exc
                    self.state, self.error = "failed", fault
        finally:
            if self.state == "running":
                self.state = "cancelled"
            self.ended_at = trio.current_time()
            self.over.set()
            self._ring()

    @property
    def is_over(self) -> bool:
        return self.over.is_set()

    def reply(self) -> ChatResponse:
        """The fold of what came so far."""
        self._fold.add_all(self._kept[self._folded :])
        self._folded = len(self._kept)
        return self._fold.response()

    # ---- its end

    def win(self, outlet: Outlet) -> bool:
        """It goes on to the caller, with what was kept first. Gives whether the caller has room."""
        self._onward = outlet
        kept, self._kept = self._kept, []
        has_room = outlet.send_nowait(kept) if kept else True
        self._has_won.set()
        return has_room

    def close(self, *, is_beaten: bool) -> None:
        """Close it. Its scope's end waits until its connection is closed."""
        if self.state == "complete" or (self.state == "running" and is_beaten):
            self.state = "lost"
        elif self.state == "running":
            self.state = "cancelled"
        self.scope.cancel()


class Contest:
    """A contest under way, as a judge and the caller see it."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.winner: Lane | None = None
        self._news = trio.Event()

    def ring(self) -> None:
        self._news.set()

    @property
    def losers(self) -> list[Lane]:
        return [lane for lane in self.lanes if lane is not self.winner]

    async def wait_news(self, until: float) -> None:
        with trio.CancelScope(deadline=until):
            await self._news.wait()
        self._news = trio.Event()


Judge = Callable[[Contest], "Lane | AiLibError | None"]


async def contest(
    call: Call,
    outlet: Outlet,
    members: Sequence[Member],
    judge: Judge,
    *,
    state: Contest,
    gathers: bool,
    starts: Callable[[int], float] | None = None,
) -> None:
    """Let the members answer until the judge names the winner, and hand the winner's answer to the outlet.

    The judge looks after every change; it may also name an error that ends the contest. `starts(n)` is how many seconds
    after the start member n begins at the latest; it begins at once where nobody else is running. Raises the winner's
    own error if it fails later, and the first member's where all failed; kind `no_quorum` where some answered, and the
    judge wanted none of them.
    """
    begun_at = trio.current_time()
    state.lanes = [Lane(n, member, gathers=gathers, ring=state.ring) for n, member in enumerate(members)]
    waiting = list(state.lanes)
    verdict: Lane | AiLibError | None = None
    fault: Exception | None = None
    has_room = True
    try:
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    try:
                        verdict = judge(state)
                    except Exception as exc:  # a callable of the user's; the members are closed before it goes on
                        fault = exc
                        break
                    if verdict is not None:
                        break
                    now = trio.current_time()
                    running = [lane for lane in state.lanes if lane.state == "running"]
                    due_at = begun_at + starts(waiting[0].number) if waiting and starts is not None else now
                    if waiting and (due_at <= now or not running):
                        lane = waiting.pop(0)
                        lane.state = "running"
                        nursery.start_soon(lane.run, call)
                        # One after the other: trio shuffles tasks that begin at one instant.
                        await trio.lowlevel.checkpoint()
                        continue
                    if not running and not waiting:
                        break
                    await state.wait_news(due_at if waiting else math.inf)
            finally:
                winner = verdict if isinstance(verdict, Lane) else None
                for lane in state.lanes:
                    if lane is not winner:
                        lane.close(is_beaten=winner is not None)
            state.winner = winner
            if winner is not None:
                has_room = winner.win(outlet)
            for lane in state.lanes:
                if lane is not winner and lane not in waiting:
                    await lane.over.wait()
    except BaseExceptionGroup as group:
        # Its lanes let out nothing but cancellations and interrupts: one of them stands for all.
        raise _first_of(group) from None
    finally:
        _mark(call, state)
    if fault is not None:
        if isinstance(fault, AiLibError):
            raise fault
        raise UserFault(fault) from fault
    if isinstance(verdict, AiLibError):
        raise verdict
    if winner is None:
        raise _failure(state)
    if winner.error is not None:
        raise winner.error
    if winner.state != "complete":
        raise AdmissionError("the winner of the race was left", kind="client_closed")
    if not has_room:
        await outlet.wait_room()


def _mark(call: Call, state: Contest) -> None:
    """Say in the ledger which attempts were for nothing."""
    for entry in call.log:
        lane = state.lanes[entry.call.lane] if entry.call.lane < len(state.lanes) else None
        if lane is None or lane is state.winner or entry.verdict is not None:
            continue
        # Without a winner a whole answer was for nothing all the same: nobody was given it.
        if state.winner is not None or entry.state() == "complete":
            entry.verdict = "lost"
    for lane in state.lanes:
        if lane.state == "waiting":
            call.notes.skipped += (Skipped(lane.ref, "not needed"),)


def _first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """An exception of a nursery's group, of what is no cancellation where there is any."""
    rest = group.split(trio.Cancelled)[1]
    one: BaseException = group if rest is None else rest
    while isinstance(one, BaseExceptionGroup):
        one = one.exceptions[0]
    return one


def _failure(state: Contest) -> AiLibError:
    """All failed: the first member's error, since it is the one that was wanted first. The attempts tell the rest."""
    if any(lane.state == "lost" for lane in state.lanes):
        return AdmissionError("no member's answer is one that was asked for", kind="no_quorum")
    for lane in state.lanes:
        if lane.error is not None:
            return lane.error
    return CallerError("a race needs members", kind="bad_argument")
