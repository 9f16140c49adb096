"""Race: all members answer at once; the first that satisfies `until` is the answer.

Imports `contest`. The judges are plain functions over a contest's state.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from ..errors import need_plain, need_word
from ..service import Call, Outlet, Service
from ..types.response import ChatResponse
from .contest import Contest, Judge, Lane, Member, contest

__all__ = ["Until", "first_by", "racing"]

Until = Literal["first_token", "first_complete"] | Callable[[ChatResponse], bool]


def first_by(until: Until) -> Judge:
    """The judge that names the first member to have output, to be complete, or to have a reply that fits.

    Of two at the same moment the one that was named first wins.
    """

    def judge(state: Contest) -> Lane | None:
        if until == "first_token":
            ready = [lane for lane in state.lanes if lane.state in ("running", "complete") and _has_begun(lane)]
            return min(ready, key=lambda lane: (lane.committed_at, lane.number), default=None)
        if until == "first_complete":
            ready = [lane for lane in state.lanes if lane.state == "complete"]
            return min(ready, key=lambda lane: (lane.ended_at, lane.number), default=None)
        assert callable(until)
        for lane in state.lanes:
            if lane.state in ("running", "complete") and until(lane.reply()):
                return lane
        return None

    return judge


def _has_begun(lane: Lane) -> bool:
    # A reply without any output (an empty answer) has begun when it is complete.
    return lane.committed_at < float("inf") or lane.state == "complete"


def racing(members: Sequence[Member], until: Until, state: Contest) -> Service:
    """The first of the members to satisfy `until`. Raises `CallerError` where that is nothing of the kind."""
    if not callable(until):
        need_word("until", until, ("first_token", "first_complete"))
    need_plain("until", until)

    async def run(call: Call, outlet: Outlet) -> None:
        await contest(call, outlet, members, first_by(until), state=state, gathers=until != "first_token")

    return run
