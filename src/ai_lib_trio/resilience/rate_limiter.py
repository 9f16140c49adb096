"""Token buckets for requests and tokens, configured or learnt from replies.

Imports `types.admission`. Pure: `now` is an argument. The rule that must stay true: what a bucket lets through in any
stretch of time is at most its capacity plus its refill (and one look in ten minutes, where a reply told of none); what
a reply told outweighs what we counted.
"""

from __future__ import annotations

import math

import msgspec

from ..types.admission import LimitsSeen, LimitView, Window

__all__ = ["Bucket", "LimitRules", "Limiter", "Mark"]

MAX_PAUSE_S = 600.0  # what a reply says holds nobody for longer: one of them cannot close a provider for a day
EPSILON = 1e-9  # sums of floats: a bucket that is full but for rounding is full


class LimitRules(msgspec.Struct, frozen=True):
    """Limits of the caller's own, beside what replies tell. Bursts up to one minute's worth pass at once."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


class Bucket:
    """One limit. Its level falls with what is taken and rises with time, up to the capacity.

    The level may be below zero: a reply cost more than was thought. `capacity` inf means that nobody said how much
    there is: then `level` is what is left until `resets_at`, and after that there is no limit until somebody tells one.

    What was told is not believed for ever: when nobody has said anything for ten minutes, from `looks_at` on, one call
    goes to see, whatever the level.
    """

    __slots__ = ("_at", "_level", "capacity", "looks_at", "rate", "resets_at")

    def __init__(self, capacity: float = math.inf, rate: float = 0.0, now: float = 0.0) -> None:
        self.capacity = capacity
        self.rate = rate
        self.resets_at: float | None = None
        self.looks_at = math.inf
        self._level = capacity
        self._at = now

    def level(self, now: float) -> float:
        """What is there now."""
        if now > self._at:
            if self.resets_at is not None and now >= self.resets_at:
                self._level = self.capacity
                self.resets_at = None
            elif self.rate > 0.0:
                self._level = min(self.capacity, self._level + (now - self._at) * self.rate)
            self._at = now
        return self._level

    def ready_at(self, amount: float, now: float) -> float:
        """When that much is there, if nobody else takes any. For more than the capacity, when it is full."""
        amount = min(amount, self.capacity)
        level = self.level(now)
        if level + EPSILON >= amount:
            return now
        return self._more_at(amount - level, now)

    def due_at(self, amount: float, now: float) -> float:
        """When that much has passed through, which may be more than fits at once. A lower bound."""
        level = self.level(now)
        if level + EPSILON >= amount:
            return now
        return self._more_at(amount - level, now, is_stepwise=amount <= self.capacity)

    def _more_at(self, missing: float, now: float, *, is_stepwise: bool = True) -> float:
        if self.looks_at <= now:
            return now
        by_refill = now + missing / self.rate if self.rate > 0.0 else math.inf
        if self.resets_at is not None and (is_stepwise or by_refill == math.inf):
            return min(by_refill, self.resets_at)
        # Nobody said when there is more: to be told so by the provider is better than to wait for ever.
        return by_refill if by_refill < math.inf else now

    def has_plenty(self, amount: float, now: float) -> bool:
        """Whether more than half of the capacity is left when that much is taken."""
        level = self.level(now)
        return level == math.inf or level - amount > self.capacity / 2

    def take(self, amount: float, now: float) -> None:
        """Take it, whether it is there or not."""
        level = self.level(now)
        if self.looks_at <= now and level < amount:
            self.looks_at = now + MAX_PAUSE_S
        self._level = level - amount

    def give_back(self, amount: float, now: float) -> None:
        """What was taken and not used; less than nothing where more was used. One reply takes what ten minutes bring at
        the most."""
        level = min(self.capacity, self.level(now) + amount)
        self._level = max(level, -MAX_PAUSE_S * self.rate) if self.rate > 0.0 else level

    def learn(self, window: Window, taken_since: float, now: float) -> None:
        """Believe a reply. `taken_since` is what was taken after the request that it answers."""
        if window.remaining is None:
            return
        left = max(0.0, window.remaining)
        self._at = now
        self._level = left - taken_since
        reset_s = window.reset_s
        if window.limit is not None and window.limit > 0:
            self.capacity = window.limit
            if reset_s is not None and reset_s > 0 and left < window.limit:
                # "Whole again in reset_s" is a refill at this rate: the providers whose headers we read describe
                # their limits as token buckets (docs/resilience.md has the links).
                self.rate = (window.limit - left) / reset_s
        else:
            self.capacity = math.inf
            self.rate = 0.0
        self.resets_at = None if reset_s is None else now + reset_s
        self.looks_at = now + MAX_PAUSE_S


class Mark(msgspec.Struct, frozen=True, gc=False):
    """What one admitted call took, and how many calls and tokens had been admitted by then."""

    tokens: float
    calls_by_then: int
    tokens_by_then: float


class Limiter:
    """The limits of one scope: a key, or one model of it."""

    __slots__ = (
        "_buckets",
        "_calls_taken",
        "_learnt_to",
        "_requests",
        "_seen_requests",
        "_seen_tokens",
        "_tokens",
        "_tokens_taken",
        "paused_until",
    )

    def __init__(self, rules: LimitRules, now: float) -> None:
        self.paused_until = -math.inf
        self._requests = _per_minute(rules.requests_per_minute, now)
        self._tokens = _per_minute(rules.tokens_per_minute, now)
        self._seen_requests: Bucket | None = None
        self._seen_tokens: Bucket | None = None
        self._calls_taken = 0
        self._tokens_taken = 0.0
        self._learnt_to = 0  # calls admitted by the one whose reply was believed last
        self._buckets: list[tuple[Bucket, bool]] = []  # those that there are, and whether each counts tokens
        self._gather()

    def _gather(self) -> None:
        pairs = (
            (self._requests, False),
            (self._tokens, True),
            (self._seen_requests, False),
            (self._seen_tokens, True),
        )
        self._buckets = [(bucket, is_tokens) for bucket, is_tokens in pairs if bucket is not None]

    @property
    def is_idle(self) -> bool:
        """Nothing is limited here."""
        return not self._buckets and self.paused_until == -math.inf

    def take_of_plenty(self, tokens: float, now: float) -> Mark | None:
        """Take a call's share where more than half of every limit is left behind it. None: nothing was taken."""
        if self.paused_until > now:
            return None
        for bucket, is_tokens in self._buckets:
            if not bucket.has_plenty(tokens if is_tokens else 1.0, now):
                return None
        return self.take(tokens, now)

    def ready_at(self, tokens: float, now: float) -> float:
        """When a call of that many tokens may go, if nobody goes before it. `now` or earlier means at once."""
        at = self.paused_until if self.paused_until > now else now
        for bucket, is_tokens in self._buckets:
            at = max(at, bucket.ready_at(tokens if is_tokens else 1.0, now))
        return at

    def due_at(self, tokens: float, calls_before: int, tokens_before: float, now: float) -> float:
        """When it may go if those before it go first."""
        at = self.ready_at(tokens, now)
        for bucket, is_tokens in self._buckets:
            amount = tokens_before + min(tokens, bucket.capacity) if is_tokens else calls_before + 1.0
            at = max(at, bucket.due_at(amount, now))
        return at

    def take(self, tokens: float, now: float) -> Mark:
        """A call goes: take its share of everything."""
        for bucket, is_tokens in self._buckets:
            bucket.take(min(tokens, bucket.capacity) if is_tokens else 1.0, now)
        self._calls_taken += 1
        self._tokens_taken += tokens
        return Mark(tokens, self._calls_taken, self._tokens_taken)

    def settle(self, mark: Mark, used: float | None, was_sent: bool, now: float) -> None:
        """The call is over. What never went out is given back; tokens are corrected to what was used."""
        if not was_sent:
            for bucket, is_tokens in self._buckets:
                bucket.give_back(min(mark.tokens, bucket.capacity) if is_tokens else 1.0, now)
        elif used is not None and self._tokens is not None:
            # The provider counts its own limit by itself, and its next reply says what is left of it.
            self._tokens.give_back(min(mark.tokens, self._tokens.capacity) - used, now)

    def learn(self, mark: Mark, seen: LimitsSeen, now: float) -> None:
        """Believe what the reply to the call of that mark told, unless a later call's reply was there first."""
        if mark.calls_by_then < self._learnt_to:
            return
        self._learnt_to = mark.calls_by_then
        if seen.requests is not None and seen.requests.remaining is not None:
            if self._seen_requests is None:
                self._seen_requests = Bucket(now=now)
                self._gather()
            self._seen_requests.learn(seen.requests, self._calls_taken - mark.calls_by_then, now)
        if seen.tokens is not None and seen.tokens.remaining is not None:
            if self._seen_tokens is None:
                self._seen_tokens = Bucket(now=now)
                self._gather()
            self._seen_tokens.learn(seen.tokens, self._tokens_taken - mark.tokens_by_then, now)

    def pause(self, seconds: float, now: float) -> None:
        """The provider asked for quiet."""
        self.paused_until = max(self.paused_until, now + min(seconds, MAX_PAUSE_S))

    def views(self, scope: str, now: float) -> list[LimitView]:
        """Snapshots of the buckets."""
        named = (
            ("requests", "configured", self._requests),
            ("tokens", "configured", self._tokens),
            ("requests", "headers", self._seen_requests),
            ("tokens", "headers", self._seen_tokens),
        )
        return [
            LimitView(
                scope=scope,
                of=of,
                source=source,
                level=bucket.level(now),
                capacity=bucket.capacity if bucket.capacity < math.inf else None,
                refill_per_s=bucket.rate,
                resets_in_s=None if bucket.resets_at is None else max(0.0, bucket.resets_at - now),
            )
            for of, source, bucket in named
            if bucket is not None and bucket.level(now) < math.inf
        ]


def _per_minute(limit: float | None, now: float) -> Bucket | None:
    return None if limit is None else Bucket(limit, limit / 60.0, now)
