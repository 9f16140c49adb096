"""Records: what telemetry is told, frozen, one struct a step. Imports `stats` and `usage`.

No prompt, reply text or secret is in any of them but `CallContent`, which is made only where the user asked for it.
Times (`at_s`) are trio's clock, in seconds. Sinks are plain callables; they are called in the task of the step, with
the caller's context variables, and must not block.

One call, as a sink sees it (`call` counts a client's calls, `attempt` the attempts within one):

    CallStarted  ( CallQueued CallAdmitted AttemptStarted FirstToken EventBatch* AttemptEnded
                   ( CallRetried | CallRerouted ) )*  CallContent?  CallEnded

The rule that must stay true: each call that started has exactly one `CallEnded`, and each attempt that was queued
exactly one `AttemptEnded` before it, whatever became of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import msgspec

from .message import Message
from .stats import AttemptState, Billed, Outcome
from .usage import Usage

__all__ = [
    "ActorRestarted",
    "AttemptEnded",
    "AttemptStarted",
    "BreakerChanged",
    "CallAdmitted",
    "CallContent",
    "CallEnded",
    "CallQueued",
    "CallRerouted",
    "CallRetried",
    "CallStarted",
    "ClientSink",
    "EventBatch",
    "FeedbackGiven",
    "FirstToken",
    "HealthChanged",
    "ManifestsChanged",
    "Record",
    "Sink",
]


class _Record(msgspec.Struct, frozen=True, tag=True, tag_field="record", kw_only=True, gc=False):
    at_s: float


class CallStarted(_Record, frozen=True):
    """A caller asked. `model` is the wire's id; what was not asked for is None.

    `provider_name` is what the provider is called in telemetry, where that is not its id; `server` is where its
    requests go, as `host:port`. `output_type` is `text` or `json`, where the caller asked for one.
    """

    call: int
    provider: str
    model: str
    ref: str
    stream: bool
    tenant: str = ""
    provider_name: str = ""
    server: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    choices: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    output_type: str | None = None


class CallQueued(_Record, frozen=True):
    """An attempt entered a provider actor's docket. `provider_name` and `server` as in `CallStarted`: an attempt may go
    elsewhere than its call began."""

    call: int
    attempt: int
    provider: str
    model: str
    provider_name: str = ""
    server: str = ""


class CallAdmitted(_Record, frozen=True):
    """The actor let the attempt start."""

    call: int
    attempt: int
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
    """The first event that carries output arrived. `after_s` counts from when the request was about to go out."""

    call: int
    attempt: int
    provider: str
    model: str
    after_s: float


class EventBatch(_Record, frozen=True):
    """One read's worth of events was decoded."""

    call: int
    attempt: int
    events: int
    body_bytes: int


class AttemptEnded(_Record, frozen=True):
    """The attempt is over and its connection returned or closed. Seconds are durations, None where that point was not
    reached; `usage` is as the provider reported it."""

    call: int
    attempt: int
    provider: str
    model: str
    outcome: Outcome
    state: AttemptState
    kind: str | None = None
    code: str | None = None
    status: int | None = None
    queue_s: float | None = None
    connect_s: float | None = None
    first_token_s: float | None = None
    total_s: float = 0.0
    events: int = 0
    bytes_in: int = 0
    usage: Usage | None = None
    request_id: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    finish_reason: str | None = None


class CallRetried(_Record, frozen=True):
    """A policy will ask the same target again, after a pause of `after_s`. `attempt` is the one that failed."""

    call: int
    attempt: int
    model: str
    reason: str
    after_s: float = 0.0


class CallRerouted(_Record, frozen=True):
    """A policy hands the call to another target. `attempt` is the one that failed."""

    call: int
    attempt: int
    from_model: str
    to_model: str
    reason: str


class CallEnded(_Record, frozen=True):
    """The call is over. `provider`, `model` and `server` are of the attempt that answered, or of the last one.

    `usage` is the answering attempt's, `cost` the sum over all attempts, as `CallStats` has them. `total_s` counts from
    the call's start, `first_token_s` from its first queueing.
    """

    call: int
    provider: str
    model: str
    ref: str
    stream: bool
    outcome: Outcome
    attempts: int
    kind: str | None = None
    code: str | None = None
    status: int | None = None
    queue_s: float | None = None
    first_token_s: float | None = None
    total_s: float = 0.0
    events: int = 0
    bytes_in: int = 0
    usage: Usage | None = None
    cost: float | None = None
    currency: str | None = None
    billed: Billed = "nothing"
    request_id: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    finish_reason: str | None = None
    provider_name: str = ""
    server: str = ""
    tenant: str = ""


class CallContent(_Record, frozen=True):
    """What was asked and answered: only where `Config.record_content` is on. `reply` is None where nothing came."""

    call: int
    messages: tuple[Message, ...]
    reply: Message | None = None


class FeedbackGiven(_Record, frozen=True):
    """What somebody said of a reply, as the program handed it over. `request_id` links it to the reply; `call` is the
    call, as log lines name it, where that is known.

    `value` is a number or a bool; words, comments and metadata are in it only where `Config.record_content` is on.
    """

    kind: str
    request_id: str
    call: str | None = None
    value: Any = None
    comment: str | None = None
    metadata: dict[str, Any] = {}


class ActorRestarted(_Record, frozen=True):
    """An actor crashed. `failed` means that it crashed too often and stays down.

    `actor` is `provider` for one that admits calls, `health` for one that makes checks. Of several at one provider,
    `origin` and `key_number` say which: the keys in use at one origin are counted from 1. Checks carry no key: 0.
    """

    provider: str
    deaths: int
    failed: bool
    origin: str = ""
    key_number: int = 1
    actor: str = "provider"


class BreakerChanged(_Record, frozen=True):
    """A breaker opened, let probes through, or closed; or its actor was replaced, and it with it, which is `closed`.

    `of` is a model, or `connection` for what counts for all. `origin` and `key_number` say which actor's it is, as in
    `ActorRestarted`; the key itself is in no record.
    """

    provider: str
    of: str
    state: str
    origin: str = ""
    key_number: int = 1


class HealthChanged(_Record, frozen=True):
    """A declared check of a provider, at this origin, came out otherwise than the last one, or for the first time."""

    provider: str
    is_healthy: bool
    reason: str = ""
    origin: str = ""


class ManifestsChanged(_Record, frozen=True):
    """Files of manifests differ. `fault` is why the old ones stay in use; `retired` are actors that are replaced."""

    files: tuple[str, ...]
    fault: str | None = None
    retired: tuple[str, ...] = ()


Record = (
    CallStarted
    | CallQueued
    | CallAdmitted
    | AttemptStarted
    | FirstToken
    | EventBatch
    | AttemptEnded
    | CallRetried
    | CallRerouted
    | CallEnded
    | CallContent
    | FeedbackGiven
    | ActorRestarted
    | BreakerChanged
    | HealthChanged
    | ManifestsChanged
)
"""What a sink may be given; `docs/telemetry.md` says when each one comes."""

Sink = Callable[[Record], None]
"""A callable that takes records. It runs in the task of the step and must not wait; what it raises harms no call."""


@runtime_checkable
class ClientSink(Protocol):
    """A sink that may be given to several clients: each one asks for its own, so that call numbers stay apart."""

    def for_client(self, number: int) -> Sink:
        """The sink of one client. `number` counts the clients of this process."""
        ...

    def __call__(self, record: Record) -> None: ...


class Listeners(Protocol):
    """Whoever listens, as those who have something to tell see them: ask `on` before building a record."""

    @property
    def on(self) -> bool: ...

    def emit(self, record: Record) -> None: ...
