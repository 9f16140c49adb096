"""Race, hedge and quorum as users hold them: a stream of the winner's events, and what became of everyone.

Imports `stream`, `account`, `resilience.contest` and types.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Literal

import msgspec

from ..errors import AiLibError
from ..resilience.contest import Contest, Lane
from ..resilience.ledger import total_of
from ..service import Call, Service
from ..types.response import ChatResponse
from ..types.stats import Attempt, Billed
from .account import attempts_of
from .stream import ChatStream

if TYPE_CHECKING:
    from .client import AiClient

__all__ = ["ContestStream", "RaceMember"]


class RaceMember(msgspec.Struct, frozen=True, kw_only=True):
    """One member of a race, hedge or quorum, and its receipt.

    `outcome`: `running`, `won`, `lost` (beaten and closed, or its whole answer was not taken), `failed` (`kind` and
    `code` say how), `cancelled` (the race was left before it had a winner), `not_started`. `cost` is what its attempts
    cost, as well as it is known.
    """

    model: str
    outcome: Literal["running", "won", "lost", "failed", "cancelled", "not_started"]
    attempts: tuple[Attempt, ...] = ()
    billed: Billed = "nothing"
    cost: float | None = None
    currency: str | None = None
    kind: str | None = None
    code: str | None = None


class ContestStream(ChatStream):
    """A stream whose events are the winner's.

    `async with` alone is enough to hold it: when the block is left, every member's connection is closed. `winner`,
    `losers` and `members` may be asked at any time; `await execute()` reads it to its end.
    """

    __slots__ = ("_state",)

    def __init__(
        self, client: AiClient, prepare: Callable[[], Awaitable[tuple[Call, Service]]], state: Contest
    ) -> None:
        super().__init__(client, prepare)
        self._state = state

    if TYPE_CHECKING:  # the same, and checkers know that what `as` names has a winner

        async def __aenter__(self) -> ContestStream: ...

    @property
    def winner(self) -> RaceMember | None:
        """Who won; None while nobody has."""
        lane = self._state.winner
        return None if lane is None else self._member(lane)

    @property
    def losers(self) -> tuple[RaceMember, ...]:
        """Everyone else, in the order they were named."""
        return tuple(self._member(lane) for lane in self._state.losers)

    @property
    def members(self) -> tuple[RaceMember, ...]:
        """Everyone, in the order they were named."""
        return tuple(self._member(lane) for lane in self._state.lanes)

    async def execute(self) -> ChatResponse:
        """The winner's whole reply. Everyone is closed when it is there, and when it is not."""
        async with self as events:
            async for _ in events:
                pass
        return self.response()

    def _member(self, lane: Lane) -> RaceMember:
        drive = self._drive
        attempts = attempts_of(drive.call, lane.number) if drive is not None else ()
        total = total_of(attempts)
        error: AiLibError | None = lane.error
        has_won = lane is self._state.winner and lane.state in ("running", "complete")
        return RaceMember(
            model=lane.ref,
            outcome="not_started" if lane.state == "waiting" else "won" if has_won else _outcome(lane),
            attempts=attempts,
            billed=total.billed,
            cost=total.cost,
            currency=total.currency,
            kind=error.kind if error is not None else None,
            code=error.code if error is not None else None,
        )


def _outcome(lane: Lane) -> Literal["running", "lost", "failed", "cancelled"]:
    if lane.state in ("running", "complete"):
        return "running"
    return "failed" if lane.state == "failed" else "lost" if lane.state == "lost" else "cancelled"
