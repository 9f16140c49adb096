"""What is well and what is not, from what records told: per provider, with reasons.

Imports types. The rule that must stay true: health is what was seen. A provider that nobody called and nobody checked
is unknown, and not well.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

import msgspec

from ..types.records import ActorRestarted, AttemptEnded, BreakerChanged, HealthChanged, Record

__all__ = ["Health", "HealthChecker"]

State = Literal["healthy", "degraded", "unhealthy", "unknown"]
KEPT = 50  # attempts of a provider: enough for a share, few enough that an outage shows in the next moments
ENOUGH = 5  # fewer attempts say nothing about a share
SERVER_CODES = frozenset({"E3001", "E3002", "E3003"})
OURS = frozenset({"breaker_open", "shed", "actor_lost", "provider_failed", "retry_budget", "deadline"})


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """One provider. `failed_share` is of its last attempts, None where there were too few; `checked` is what its
    declared check said last (of several origins: whether one was met), None where none was made.
    `reasons` are for people."""

    provider: str
    state: State
    reasons: tuple[str, ...] = ()
    failed_share: float | None = None
    checked: bool | None = None
    open_breakers: tuple[str, ...] = ()
    actor_deaths: int = 0
    actor_failed: bool = False


class _Seen:
    __slots__ = ("breakers", "checked", "deaths", "failed", "outcomes")

    def __init__(self) -> None:
        self.outcomes: deque[bool] = deque(maxlen=KEPT)  # whether it was the provider's fault
        self.breakers: dict[tuple[str, int], dict[str, str]] = {}  # by actor: its origin and the number of its key
        self.deaths = 0
        self.failed: set[tuple[str, int]] = set()  # actors that stay down
        self.checked: dict[str, tuple[bool, str]] = {}  # by origin: is it well, and why not


class HealthChecker:
    """A sink. It may be given to several clients: what they see of a provider is put together."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def __call__(self, record: Record) -> None:
        if isinstance(record, AttemptEnded):
            if record.outcome == "ok":
                self._of(record.provider).outcomes.append(False)
            elif record.code in SERVER_CODES and record.kind not in OURS:
                self._of(record.provider).outcomes.append(True)
        elif isinstance(record, BreakerChanged):
            actor = (record.origin, record.key_number)
            self._of(record.provider).breakers.setdefault(actor, {})[record.of] = record.state
        elif isinstance(record, ActorRestarted):
            seen = self._of(record.provider)
            if record.actor == "provider":
                actor = (record.origin, record.key_number)
                seen.deaths += 1
                seen.breakers.pop(actor, None)  # the next actor begins with new ones
                (seen.failed.add if record.failed else seen.failed.discard)(actor)
            elif record.failed:  # a fault of ours: what was seen once is not looked at any more
                seen.checked.pop(record.origin, None)
        elif isinstance(record, HealthChanged):
            self._of(record.provider).checked[record.origin] = (record.is_healthy, record.reason)

    def _of(self, provider: str) -> _Seen:
        seen = self._seen.get(provider)
        if seen is None:
            seen = self._seen[provider] = _Seen()
        return seen

    def report(self) -> dict[str, Health]:
        """Every provider that was seen, by id."""
        return {provider: self.health(provider) for provider in self._seen}

    def health(self, provider: str) -> Health:
        """One provider."""
        seen = self._seen.get(provider)
        if seen is None:
            return Health(provider=provider, state="unknown", reasons=("nobody called it",))
        count = len(seen.outcomes)
        share = sum(seen.outcomes) / count if count >= ENOUGH else None
        opened = tuple(
            sorted({of for by_name in seen.breakers.values() for of, state in by_name.items() if state == "open"})
        )
        checked = any(is_well for is_well, _ in seen.checked.values()) if seen.checked else None
        unmet = sorted((origin, why) for origin, (is_well, why) in seen.checked.items() if not is_well)
        bad: list[str] = []
        doubtful: list[str] = []
        if seen.failed:
            bad.append("its actor crashed too often and stays down")
        if "connection" in opened:
            bad.append("it cannot be connected to")
        if checked is False:
            bad.append(f"its check failed: {unmet[0][1]}")
        else:
            doubtful += [f"its check at {origin} failed: {why}" for origin, why in unmet]
        if share is not None and share >= 0.5:
            bad.append(f"{share:.0%} of its last {count} attempts failed")
        elif share is not None and share >= 0.1:
            doubtful.append(f"{share:.0%} of its last {count} attempts failed")
        doubtful += [f"the breaker of {of} is open" for of in opened if of != "connection"]
        if seen.deaths and not seen.failed:
            doubtful.append(f"its actor crashed {seen.deaths} times")
        is_known = bool(seen.outcomes) or checked is not None or bool(bad or doubtful)
        state: State = "unhealthy" if bad else "degraded" if doubtful else "healthy" if is_known else "unknown"
        return Health(
            provider=provider,
            state=state,
            reasons=(*bad, *doubtful),
            failed_share=share,
            checked=checked,
            open_breakers=opened,
            actor_deaths=seen.deaths,
            actor_failed=bool(seen.failed),
        )
