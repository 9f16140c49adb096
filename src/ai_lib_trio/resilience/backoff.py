"""How long to wait before a retry: from a strategy, a jitter and the number of retries so far.

Imports nothing of ours. Pure: chance is a `Random` given by the caller.
"""

from __future__ import annotations

from random import Random
from typing import Literal

import msgspec

__all__ = ["Backoff", "Jitter", "Strategy"]

Strategy = Literal["none", "exponential_backoff", "linear_backoff", "fixed_delay"]
Jitter = Literal["full", "equal", "none"]


class Backoff(msgspec.Struct, frozen=True):
    """A schedule of pauses, in seconds. `none` is no pause and no retry."""

    strategy: Strategy = "exponential_backoff"
    min_delay_s: float = 1.0
    max_delay_s: float = 30.0
    jitter: Jitter = "full"

    def base_s(self, retry: int) -> float:
        """The pause before retry number `retry` (from 0), before jitter, capped."""
        if self.strategy == "fixed_delay":
            return min(self.min_delay_s, self.max_delay_s)
        if self.strategy == "linear_backoff":
            return min(self.min_delay_s * (retry + 1), self.max_delay_s)
        # The exponent is bounded: beyond 2**60 every cap is reached, and a float would overflow.
        return min(self.min_delay_s * 2.0 ** min(retry, 60), self.max_delay_s)

    def pause_s(self, retry: int, rng: Random) -> float:
        """The pause with jitter: `full` is anywhere between none and all of it, `equal` the upper half."""
        base = self.base_s(retry)
        if self.jitter == "full":
            return rng.uniform(0.0, base)
        if self.jitter == "equal":
            return base / 2 + rng.uniform(0.0, base / 2)
        return base
