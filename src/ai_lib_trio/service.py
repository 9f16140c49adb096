"""The one shape that everything composes by: a service takes a call and writes its events into an outlet.

Imports `errors` and `types`; runs without trio. The rule that must stay true: a service returns when the answer is
complete, raises an `AiLibError` when it is not, and leaves nothing running either way.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Protocol

import msgspec

from .errors import AdmissionError, AiLibError, CallerError, need_number
from .types.admission import Forecast, GateView, LimitsSeen
from .types.events import StreamingEvent
from .types.records import Record
from .types.request import Request
from .types.response import Fold
from .types.stats import AttemptState, Skipped, Verdict
from .types.usage import Usage

__all__ = [
    "Batch",
    "Call",
    "Ending",
    "Entry",
    "FoldOutlet",
    "Gate",
    "Notes",
    "Outlet",
    "Service",
    "Source",
    "Ticket",
    "Timeouts",
    "UserFault",
    "send",
]

Batch = Sequence[StreamingEvent]


class UserFault(Exception):
    """A callable of the user raised. What it raised is given on as it is, never as a fault of ours."""

    def __init__(self, original: Exception) -> None:
        super().__init__(original)
        self.original = original


class Source(Protocol):
    """A running reply that was lent to its reader: who waits for it reads it, and no other task wakes up for that."""

    def wait(self) -> Awaitable[None]:
        """To be awaited at once: until there may be something to read. Always a checkpoint.

        Raises `trio.ClosedResourceError`, here or there, where the reply was ended meanwhile.
        """
        ...

    def read(self) -> bool:
        """Read once, without waiting; what it brought is in the outlet then. False: never read it again."""
        ...


class Outlet(Protocol):
    """Where a service writes what it has. One writer at a time."""

    def send_nowait(self, batch: Batch) -> bool:
        """Take a batch, always. False means: there is no room for another, `wait_room` first."""
        ...

    async def wait_room(self) -> None:
        """Wait until there is room for one more batch. Cancelled, nothing is lost that was sent."""
        ...

    def lend(self, source: Source) -> bool:
        """Let the reader read the running reply by itself. False: it cannot, or not yet."""
        ...


class Timeouts(msgspec.Struct, frozen=True):
    """Limits on waiting for a provider, in seconds; `math.inf` for none.

    `connect_s` None means what the manifest says. A first byte may take as long as a long reasoning does; between two
    reads of a running reply, silence of two minutes means that nobody is there. `min_bytes_per_s` (0 for off) is what
    a running reply must bring, over each ten seconds. Time that the caller takes to read does not count.
    """

    connect_s: float | None = None
    first_byte_s: float = 600.0
    idle_s: float = 120.0
    min_bytes_per_s: float = 0.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is None and name != "connect_s":
                raise CallerError(f"{name} is a number of at least 0, got None", kind="bad_argument")
            need_number(name, value)


class Entry(Protocol):
    """What one attempt left in `Call.log`, as policies see it. `verdict` is theirs to write."""

    call: Call
    error: AiLibError | None
    is_settled: bool
    verdict: Verdict | None

    def state(self) -> AttemptState:
        """How far the attempt came: `unsent`, `silent`, `refused`, `partial` or `complete`."""
        ...


class Notes:
    """What is noted of a call beside its attempts: targets that were passed over, what is doubtful, and its sources of
    chance by lane, once there are any."""

    __slots__ = ("generators", "skipped", "warnings")

    def __init__(self) -> None:
        self.skipped: tuple[Skipped, ...] = ()
        self.warnings: tuple[str, ...] = ()
        self.generators: dict[int, Random] | None = None


class Call:
    """One call on its way: what is asked, of whom, and by when.

    `number` counts the client's calls; `target` is what the client resolved the model to; `deadline` is absolute, on
    trio's clock (inf for none). `tenant` is whose call it is and `tokens` how much it is thought to use: both are for
    the order in an actor's queue and its limits. `log` gathers what each attempt came to; it and the `notes` are shared
    by the copies that policies hand on. A copy is one attempt: `retry` says how many there were at this target before
    it, `lane` which member of a race it is, and the innermost service fills in `attempt` (which counts from 1 over the
    whole call) and `entry`.
    """

    __slots__ = (
        "attempt",
        "deadline",
        "entry",
        "lane",
        "log",
        "notes",
        "number",
        "request",
        "retry",
        "target",
        "tenant",
        "timeouts",
        "tokens",
    )

    def __init__(
        self,
        number: int,
        request: Request,
        target: Any,
        deadline: float = math.inf,
        timeouts: Timeouts | None = None,
        tenant: str = "",
        tokens: int = 0,
        retry: int = 0,
        lane: int = 0,
    ) -> None:
        self.number = number
        self.request = request
        self.target = target
        self.deadline = deadline
        self.timeouts = timeouts
        self.attempt = 1
        self.log: list[Any] = []
        self.notes = Notes()
        self.tenant = tenant
        self.tokens = tokens
        self.retry = retry
        self.lane = lane
        self.entry: Entry | None = None

    def copy(
        self,
        *,
        request: Request | None = None,
        target: Any = None,
        tokens: int | None = None,
        retry: int = 0,
        lane: int | None = None,
        deadline: float | None = None,
    ) -> Call:
        """This call for another attempt, target or lane; what is not given stays."""
        call = _new_call(Call)  # not by its arguments: fifteen named ones cost more than all else here
        call.number = self.number
        call.request = self.request if request is None else request
        call.target = self.target if target is None else target
        call.deadline = self.deadline if deadline is None else deadline
        call.timeouts = self.timeouts
        call.attempt = self.attempt
        call.log = self.log
        call.notes = self.notes
        call.tenant = self.tenant
        call.tokens = self.tokens if tokens is None else tokens
        call.retry = retry
        call.lane = self.lane if lane is None else lane
        call.entry = None
        return call

    def detach(self) -> None:
        """No attempt comes after this one: it leads no more to the log that it stands in. A call that is over is then
        freed at once, with its reply, and not when the collector comes by."""
        self.entry = None
        self.log = []


_new_call = object.__new__

Service = Callable[[Call, Outlet], Awaitable[None]]


async def send(outlet: Outlet, batch: Batch) -> None:
    """Write a batch, and wait until there is room for the next."""
    if not outlet.send_nowait(batch):
        await outlet.wait_room()


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

    def lend(self, source: Source) -> bool:
        return False


# ---- the gate in front of a provider: state that an actor owns, behind one protocol


class Ticket:
    """One attempt at a gate, made by the actor: `item` is its job. `marks` are the gate's own notes, `account` its
    queue's."""

    __slots__ = (
        "account",
        "arrived",
        "attempt",
        "deadline",
        "is_retry",
        "item",
        "marks",
        "model",
        "number",
        "tenant",
        "tokens",
    )

    def __init__(
        self,
        number: int,
        attempt: int,
        model: str,
        arrived: float,
        deadline: float = math.inf,
        tenant: str = "",
        tokens: int = 0,
        is_retry: bool = False,
        item: Any = None,
    ) -> None:
        self.number = number
        self.attempt = attempt
        self.model = model
        self.arrived = arrived
        self.deadline = deadline
        self.tenant = tenant
        self.tokens = tokens
        self.is_retry = is_retry
        self.item = item
        self.marks: Any = None
        self.account: Any = None

    def __repr__(self) -> str:
        return f"<Ticket {self.number}.{self.attempt} {self.model} tenant {self.tenant!r} {self.tokens} tokens>"


class Ending(msgspec.Struct, frozen=True, gc=False):
    """How an admitted attempt ended. `error` is None for a complete reply; seconds count from admission, to the first
    token of a streamed one."""

    error: AiLibError | None
    state: AttemptState
    is_left: bool = False  # its caller went away: nobody's fault
    took_s: float = 0.0
    first_token_s: float | None = None
    usage: Usage | None = None


class Gate(Protocol):
    """Everything between a job and its exchange: queue, breaker, limits, permits, retry budget. Owned by one actor.

    Synchronous and without a clock: `now` is trio's time, given by the actor. Every ticket that was offered comes out
    exactly once: by `offer` or `turn` with an error, or by `turn` without one and then `ended`, or by `withdraw`. One
    that `pass_nowait` let in was never offered, and comes out by `ended`.
    """

    @property
    def queued(self) -> int:
        """Tickets that wait."""
        ...

    @property
    def inflight(self) -> int:
        """Tickets that were admitted and have not ended."""
        ...

    @property
    def is_probing(self) -> bool:
        """Whether a breaker waits to know how its probes go: then it wants to hear of replies that `began`."""
        ...

    def began(self, ticket: Ticket, after_s: float, now: float) -> None:
        """An admitted ticket's reply has begun, so long after its admission. More than once is as good as once."""
        ...

    def pass_nowait(self, ticket: Ticket, now: float) -> bool:
        """Let a first attempt in at once, where nobody waits and no limit is near, so that it cannot matter who comes
        first. False: it must be offered."""
        ...

    def offer(self, ticket: Ticket, now: float) -> AdmissionError | None:
        """Take a ticket into the queue, or say at once why not."""
        ...

    def turn(self, now: float) -> list[tuple[Ticket, AdmissionError | None]]:
        """Who starts now (None) and who is refused now, in order."""
        ...

    def wake_at(self) -> float:
        """When the next turn is due though nothing happened; inf for never."""
        ...

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """The caller of a ticket that waits has left."""
        ...

    def learnt(self, ticket: Ticket, seen: LimitsSeen, now: float) -> None:
        """The reply to an admitted ticket told its limits."""
        ...

    def ended(self, ticket: Ticket, ending: Ending, now: float) -> None:
        """An admitted ticket's exchange is over; its permit is free."""
        ...

    def forecast(self, ticket: Ticket, now: float) -> Forecast:
        """What `offer` and `turn` would do with this ticket, without doing it."""
        ...

    def first_token_quantile(self, model: str, share: float) -> float | None:
        """The seconds within which `share` of recent replies had their first token; None without enough of them."""
        ...

    def news(self, *, is_wanted: bool = True) -> list[Record]:
        """Changes since the last time it was asked, for sinks. Where nobody wants them none is built or kept."""
        ...

    def farewell(self, now: float) -> list[Record]:
        """What sinks must hear of a gate that is not asked any more: each breaker that they hold for open is gone."""
        ...

    def view(self, now: float) -> GateView:
        """A snapshot for people."""
        ...
