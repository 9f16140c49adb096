"""The one shape that everything composes by: a service takes a call and writes its events into an outlet.

Imports `errors` and `types`; runs without trio. The rule that must stay true: a service returns when the answer is
complete, raises an `AiLibError` when it is not, and leaves nothing running either way.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from .types.events import StreamingEvent
from .types.request import Request
from .types.response import Fold

__all__ = ["Batch", "Call", "FoldOutlet", "Outlet", "Service", "Timeouts"]

Batch = Sequence[StreamingEvent]


class Outlet(Protocol):
    """Where a service writes what it has. One writer at a time."""

    def send_nowait(self, batch: Batch) -> bool:
        """Take a batch, always. False means: there is no room for another, `wait_room` first."""
        ...

    async def wait_room(self) -> None:
        """Wait until there is room for one more batch. Cancelled, nothing is lost that was sent."""
        ...


class Timeouts(NamedTuple):
    """Limits on waiting for a provider, in seconds; `math.inf` for none.

    `connect_s` None means what the manifest says. A first byte may take as long as a long reasoning does; between two
    reads of a running reply, silence of two minutes means that nobody is there. Time that the caller takes to read
    does not count.
    """

    connect_s: float | None = None
    first_byte_s: float = 600.0
    idle_s: float = 120.0


class Call:
    """One call on its way: what is asked, of whom, and by when.

    `number` counts the client's calls; `target` is what the client resolved the model to; `deadline` is absolute, on
    trio's clock (inf for none); `attempt` starts at 1. `log` gathers what each attempt came to, and is shared by the
    copies that policies hand on with another target or attempt.
    """

    __slots__ = ("attempt", "deadline", "log", "number", "request", "target", "timeouts")

    def __init__(
        self,
        number: int,
        request: Request,
        target: Any,
        *,
        deadline: float = math.inf,
        timeouts: Timeouts | None = None,
        attempt: int = 1,
        log: list[Any] | None = None,
    ) -> None:
        self.number = number
        self.request = request
        self.target = target
        self.deadline = deadline
        self.timeouts = timeouts
        self.attempt = attempt
        self.log: list[Any] = [] if log is None else log


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
