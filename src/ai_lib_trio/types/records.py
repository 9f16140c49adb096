"""Records: what telemetry is told, frozen, one struct a step. Imports nothing of ours.

No prompt, reply text or secret is in any of them. Times (`at_s`) are trio's clock, in seconds. Sinks are plain
callables; they are called in the task of the step, with the caller's context variables, and must not block.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

__all__ = [
    "ActorRestarted",
    "AttemptStarted",
    "BreakerChanged",
    "CallAdmitted",
    "CallEnded",
    "CallQueued",
    "CallRerouted",
    "EventBatch",
    "FirstToken",
    "Record",
    "Sink",
]


class _Record(msgspec.Struct, frozen=True, tag=True, tag_field="record", kw_only=True, gc=False):
    at_s: float


class CallQueued(_Record, frozen=True):
    """A call entered a provider actor's docket."""

    call: int
    provider: str
    model: str


class CallAdmitted(_Record, frozen=True):
    """The actor let the call start."""

    call: int
    provider: str
    model: str
    queue_s: float


class AttemptStarted(_Record, frozen=True):
    """A request is about to go out."""

    call: int
    attempt: int
    provider: str
    model: str


class FirstToken(_Record, frozen=True):
    """The first event that carries output arrived."""

    call: int
    attempt: int
    after_s: float


class EventBatch(_Record, frozen=True):
    """One read's worth of events was decoded."""

    call: int
    attempt: int
    events: int
    body_bytes: int


class CallEnded(_Record, frozen=True):
    """The call's attempt is over and its connection returned or closed."""

    call: int
    attempt: int
    provider: str
    model: str
    outcome: str
    kind: str | None = None
    code: str | None = None
    total_s: float = 0.0


class ActorRestarted(_Record, frozen=True):
    """A provider actor crashed. `failed` means that it crashed too often and stays down."""

    provider: str
    deaths: int
    failed: bool


class BreakerChanged(_Record, frozen=True):
    """A breaker opened, let probes through, or closed. `of` is a model, or `connection` for what counts for all."""

    provider: str
    of: str
    state: str


class CallRerouted(_Record, frozen=True):
    """A policy hands the call to another target, or to the same one again. `after_s` is the pause before it."""

    call: int
    attempt: int
    from_model: str
    to_model: str
    reason: str
    after_s: float = 0.0


Record = (
    BreakerChanged
    | CallRerouted
    | CallQueued
    | CallAdmitted
    | AttemptStarted
    | FirstToken
    | EventBatch
    | CallEnded
    | ActorRestarted
)
Sink = Callable[[Record], None]
