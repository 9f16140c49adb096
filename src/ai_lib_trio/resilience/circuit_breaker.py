"""A breaker: stops calls to what keeps failing, and lets a few through later to see.

Imports `errors` and `types.admission`. Pure: `now` is an argument. The rule that must stay true: while it is open
nothing passes, while it is half open at most `probes` are on their way, and only what passed in the present state moves
it.

             too many failures                    pause over
    closed ────────────────────> open ────────────────────────> half_open
      ^                            ^        a probe failed          │
      │                            └────────────────────────────────┤
      └─────────────────────────────────────────────────────────────┘
                              all probes went well
"""

from __future__ import annotations

from collections import deque

import msgspec

from ..errors import need_number
from ..types.admission import BreakerState, BreakerView

__all__ = ["Breaker", "BreakerRules"]

KEPT_CALLS = 1000  # of the window: enough for a share, bounded in memory


class BreakerRules(msgspec.Struct, frozen=True):
    """It opens at `failures` failures within `window_s` seconds that are at least `share` of the calls there.

    Five failures are no accident; half of the calls means that the provider is down and not just one request of many.
    Thirty seconds of quiet are long against a blip and short against an outage. Calls slower than `slow_call_s`
    (to their first token; None for never) count as failures.
    """

    failures: int = 5
    share: float = 0.5
    window_s: float = 30.0
    open_s: float = 30.0
    probes: int = 1
    slow_call_s: float | None = None

    def __post_init__(self) -> None:
        need_number("failures", self.failures, least=1, is_whole=True)
        need_number("share", self.share)
        need_number("window_s", self.window_s, is_above=True)
        need_number("open_s", self.open_s)
        need_number("probes", self.probes, least=1, is_whole=True)
        need_number("slow_call_s", self.slow_call_s)


class Breaker:
    """One breaker. `enter` gives a pass that goes back with `leave`.

    `is_closed` says that calls pass freely, and then `generation` is their pass. An open one is not closed until a
    probe went well, whatever the time.
    """

    __slots__ = ("_bad", "_calls", "_entered", "_good", "_opened_at", "_state", "generation", "is_closed", "rules")

    def __init__(self, rules: BreakerRules) -> None:
        self.rules = rules
        self._state: BreakerState = "closed"
        self._calls: deque[tuple[float, bool]] = deque()  # (when, was it a failure)
        self._bad = 0  # failures among them
        self._opened_at = 0.0
        self._entered = 0  # probes on their way
        self._good = 0  # probes that went well
        self.generation = 0  # counts changes of state: a pass of an earlier one moves nothing
        self.is_closed = True

    def state(self, now: float) -> BreakerState:
        """The state now: an open breaker becomes half open when its pause is over."""
        if self._state == "open" and now >= self._opened_at + self.rules.open_s:
            self._move("half_open")
        return self._state

    def opens_in_s(self, now: float) -> float:
        """Seconds until an open breaker lets probes through; 0 for the other states."""
        return self._opened_at + self.rules.open_s - now if self.state(now) == "open" else 0.0

    def allows(self, now: float) -> bool:
        """Whether a call may pass now."""
        state = self.state(now)
        return state == "closed" or (state == "half_open" and self._entered + self._good < self.rules.probes)

    def enter(self, now: float) -> int:
        """A call passes; ask `allows` first. Gives its pass."""
        if self.state(now) == "half_open":
            self._entered += 1
        return self.generation

    def is_probe(self, pass_: int) -> bool:
        """Whether this pass is of a probe that the breaker waits for."""
        return self._state == "half_open" and pass_ == self.generation

    def leave(self, pass_: int, failed: bool | None, now: float) -> None:
        """The call is over: it failed by the provider's fault (True), went well (False), or says nothing (None)."""
        if pass_ != self.generation:
            return
        if self._state == "half_open":
            self._entered -= 1
            if failed:
                self._open(now)
            elif failed is False:
                self._good += 1
                if self._good >= self.rules.probes:
                    self._move("closed")
            return
        if failed is None:
            return
        calls = self._calls
        calls.append((now, failed))
        rules = self.rules
        if len(calls) > KEPT_CALLS or now - calls[0][0] > rules.window_s:
            self._forget(now)
        if not failed:
            return
        self._bad += 1
        if self._bad >= rules.failures and self._bad >= rules.share * len(calls):
            self._open(now)

    def _open(self, now: float) -> None:
        self._move("open")
        self._opened_at = now

    def _move(self, state: BreakerState) -> None:
        self._state = state
        self.is_closed = state == "closed"
        self.generation += 1
        self._entered = self._good = 0
        self._calls.clear()
        self._bad = 0

    def _forget(self, now: float) -> None:
        calls = self._calls
        while calls and (now - calls[0][0] > self.rules.window_s or len(calls) > KEPT_CALLS):
            self._bad -= calls.popleft()[1]

    def view(self, of: str, now: float) -> BreakerView | None:
        """A snapshot; None where there is nothing to tell."""
        state = self.state(now)
        self._forget(now)
        if state == "closed" and not self._bad:
            return None
        return BreakerView(
            of=of,
            state=state,
            failures=self._bad,
            calls=len(self._calls),
            half_open_in_s=self.opens_in_s(now) if state == "open" else None,
        )
