"""The one shape that everything composes by: a service takes a call and writes its events into an outlet.

Imports `errors` and `types`; runs without trio. The rule that must stay true: a service returns when the answer is
complete, raises an `AiLibError` when it is not, and leaves nothing running either way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from .types.events import StreamingEvent
from .types.request import Request
from .types.response import Fold

__all__ = ["Batch", "Call", "FoldOutlet", "Outlet", "Service"]

Batch = Sequence[StreamingEvent]


class Outlet(Protocol):
    """Where a service writes what it has. One writer at a time."""

    def send_nowait(self, batch: Batch) -> bool:
        """Take a batch, always. False means: there is no room for another, `wait_room` first."""
        ...

    async def wait_room(self) -> None:
        """Wait until there is room for one more batch. Cancelled, nothing is lost that was sent."""
        ...


class Call:
    """One call on its way: what is asked, of whom, and by when.

    `number` counts the client's calls; `target` is what `client` resolved the model to; `deadline` is absolute, on
    trio's clock (inf for none); `attempt` starts at 1. Policies hand on copies with another target or attempt.
    """

    __slots__ = ("attempt", "deadline", "number", "request", "target")

    def __init__(self, number: int, request: Request, target: Any, *, deadline: float, attempt: int = 1) -> None:
        self.number = number
        self.request = request
        self.target = target
        self.deadline = deadline
        self.attempt = attempt


Service = Callable[[Call, Outlet], Awaitable[None]]


class FoldOutlet:
    """An outlet that gathers the reply: it always has room."""

    __slots__ = ("events", "folding")

    def __init__(self) -> None:
        self.folding = Fold()
        self.events = 0

    def send_nowait(self, batch: Batch) -> bool:
        self.events += len(batch)
        self.folding.add_all(batch)
        return True

    async def wait_room(self) -> None:
        return None
