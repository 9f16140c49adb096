"""What is known about a provider's willingness: limits read from replies, and snapshots of the gate before it.

Imports nothing of ours. Frozen structs that JSON can hold; durations are seconds, and None is what nobody said.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["BreakerState", "BreakerView", "Forecast", "GateView", "LimitView", "LimitsSeen", "Window"]

BreakerState = Literal["closed", "open", "half_open"]


class Window(msgspec.Struct, frozen=True):
    """One limit as a reply's headers tell it: how much there is in all, what is left, and when it is whole again."""

    limit: float | None = None
    remaining: float | None = None
    reset_s: float | None = None


class LimitsSeen(msgspec.Struct, frozen=True):
    """The limits that one reply told."""

    requests: Window | None = None
    tokens: Window | None = None


class Forecast(msgspec.Struct, frozen=True):
    """What a gate would do with a call handed over now. `wait_s` is at least how long it would wait to be admitted."""

    admitted: bool
    wait_s: float = 0.0
    kind: str | None = None
    reason: str | None = None


class LimitView(msgspec.Struct, frozen=True, kw_only=True):
    """One bucket: `of` is `requests` or `tokens`, `source` is `configured` or `headers`, `scope` a model or `key`."""

    scope: str
    of: str
    source: str
    level: float
    capacity: float | None = None
    refill_per_s: float = 0.0
    resets_in_s: float | None = None


class BreakerView(msgspec.Struct, frozen=True, kw_only=True):
    """One breaker. `of` is a model, or `connection` for what counts for all models."""

    of: str
    state: BreakerState
    failures: int
    calls: int
    half_open_in_s: float | None = None


class GateView(msgspec.Struct, frozen=True, kw_only=True):
    """A gate at one moment. Breakers that are closed without a failure and limits that nobody told are left out."""

    retries_left: float = 0.0
    paused_for_s: float = 0.0
    breakers: tuple[BreakerView, ...] = ()
    limits: tuple[LimitView, ...] = ()
    queued_by_tenant: dict[str, int] = {}
