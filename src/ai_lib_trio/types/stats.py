"""What a call took: one entry per attempt, and the call's totals. Imports `usage`."""

from __future__ import annotations

from typing import Literal

import msgspec

from .usage import Usage

__all__ = ["Attempt", "AttemptState", "Billed", "CallStats", "Outcome", "Skipped", "Verdict"]

Outcome = Literal["ok", "failed", "cancelled"]
AttemptState = Literal["unsent", "refused", "silent", "partial", "complete"]
Verdict = Literal["won", "lost", "retried", "replaced"]
Billed = Literal["nothing", "reported", "estimated", "unknown"]


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One attempt at one target.

    `state` says how far it came: `unsent` (nothing written), `silent` (sent, no status), `refused` (an error
    status), `partial` (output arrived), `complete`. Seconds are durations; None where that point was not reached.

    `verdict` says what became of it where there was more than one: `won`, `lost` (a race), `retried`, `replaced` (by
    another target). `usage` is what it used and `billed` how that is known: `reported` by the provider, `estimated`
    from what was sent and what arrived, `unknown`, or `nothing` (it never went out, or was refused). `cost` is in
    `currency`, None where usage or prices are unknown.
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
    verdict: Verdict | None = None
    billed: Billed = "unknown"
    usage: Usage | None = None
    cost: float | None = None
    currency: str | None = None


class Skipped(msgspec.Struct, frozen=True):
    """A target that was passed over without an attempt, and why."""

    model: str
    reason: str


class CallStats(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A call's account. Times are seconds; `bytes_in` counts the reply's body as it came off the wire.

    `usage` is the reply's; `cost` is the sum of what the attempts cost, in `currency`, by the registry's prices: all of
    them, lost and failed ones too. `billed` is how well it is known, the weakest of the attempts' own; with `unknown`,
    `cost` is what is known of it, a lower bound, or None. `skipped` are targets that were passed over.
    `dropped_opaque_blocks` counts parts of earlier turns that this dialect cannot take back, `unread_frames` parts of
    the reply that no rule reads (a provider's pings are some); `warnings` says what of it was lost or mended.
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
    billed: Billed = "unknown"
    dropped_opaque_blocks: int = 0
    unread_frames: int = 0
    warnings: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
