"""What a call took: one entry per attempt, and the call's totals. Imports `usage`."""

from __future__ import annotations

from typing import Literal

import msgspec

from .usage import Usage

__all__ = ["Attempt", "AttemptState", "CallStats", "Outcome"]

Outcome = Literal["ok", "failed", "cancelled"]
AttemptState = Literal["unsent", "refused", "silent", "partial", "complete"]


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One attempt at one target.

    `state` says how far it came: `unsent` (nothing written), `silent` (sent, no status), `refused` (an error
    status), `partial` (output arrived), `complete`. Seconds are durations; None where that point was not reached.
    """

    number: int
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
    request_id: str | None = None


class CallStats(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A call's account. Times are seconds; `bytes_in` counts the reply's body as it came off the wire.

    `cost` is in `currency`, computed from the registry's prices; None where usage or prices are unknown.
    `dropped_opaque_blocks` counts parts of earlier turns that this dialect cannot take back.
    """

    model: str
    provider: str
    attempts: tuple[Attempt, ...] = ()
    queue_s: float | None = None
    connect_s: float | None = None
    first_token_s: float | None = None
    total_s: float = 0.0
    events: int = 0
    bytes_in: int = 0
    usage: Usage = msgspec.field(default_factory=Usage)
    cost: float | None = None
    currency: str | None = None
    dropped_opaque_blocks: int = 0
    warnings: tuple[str, ...] = ()
