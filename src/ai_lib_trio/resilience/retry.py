"""Retry: another attempt at the same target, where the last one's state allows it.

Imports `service`, `backoff`, `delivery` and trio. The rules that must stay true: nothing that reached the caller comes
again without an event that voids it; a pause that the provider asked for is kept or the attempts end, never shortened;
what cannot begin before the deadline is not begun.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

import msgspec
import trio

from ..errors import AiLibError
from ..protocol.manifest import RetryPolicy
from ..service import Call, Outlet, Service
from ..types.events import Rerouted
from ..types.records import CallRetried, Listeners
from ..types.stats import AttemptState
from .backoff import Backoff
from .delivery import Delivery

__all__ = ["Chance", "RetryRules", "Stop", "Wait", "decide", "retrying", "rules_of"]

# Refusals of our own before anything was sent. When they meet a retry, the failure that led to it says more.
GATE_KINDS = frozenset({"breaker_open", "shed", "admission_too_late", "retry_budget", "provider_failed", "cost_cap"})


class RetryRules(msgspec.Struct, frozen=True):
    """When a target is tried again. `max_attempts` counts the first.

    `on_status` adds statuses to what the standard table calls retryable; `on_names`, where given, keeps only errors of
    those standard names. `silent` is how often a call may go out again after silence (its cost is unknown); `partial`
    allows it after output, with a `Rerouted` event that voids what came. A hint longer than `max_hint_s` ends the
    attempts.
    """

    max_attempts: int = 4
    backoff: Backoff = Backoff()
    on_status: frozenset[int] = frozenset()
    on_names: frozenset[str] = frozenset()
    silent: int = 1
    partial: bool = False
    max_hint_s: float = 60.0


def rules_of(policy: RetryPolicy | None) -> RetryRules:
    """The rules that a manifest's policy asks for; the specification's defaults where there is none."""
    policy = policy or RetryPolicy()
    backoff = Backoff(policy.strategy, policy.min_delay_ms / 1000, policy.max_delay_ms / 1000, policy.jitter)
    return RetryRules(
        max_attempts=1 if policy.strategy == "none" else policy.max_retries + 1,
        backoff=backoff,
        on_status=frozenset(policy.retry_on_http_status),
        on_names=frozenset(policy.retry_on_error_code),
        max_hint_s=max(60.0, backoff.max_delay_s),  # limits count in minutes: a minute is worth waiting for
    )


class Wait(msgspec.Struct, frozen=True):
    """Try again after so many seconds."""

    seconds: float


class Stop(msgspec.Struct, frozen=True):
    """Do not try this target again, for this reason."""

    reason: str


class Chance:
    """Gives each call a generator of its own, seeded by (seed, call number, lane), and made when first needed."""

    __slots__ = ("_seed",)

    def __init__(self, seed: object) -> None:
        self._seed = seed

    def of(self, call: Call) -> Random:
        generators = call.notes.generators
        if generators is None:
            generators = call.notes.generators = {}
        rng = generators.get(call.lane)
        if rng is None:
            rng = Random(f"{self._seed}:{call.number}" + (f":{call.lane}" if call.lane else ""))
            generators[call.lane] = rng
        return rng


def decide(
    error: AiLibError,
    state: AttemptState,
    *,
    retry: int,
    silent_before: int,
    rules: RetryRules,
    rng: Callable[[], Random],
    now: float,
    deadline: float,
) -> Wait | Stop:
    """What to do after attempt number `retry` (from 0) at a target failed in that state."""
    if retry + 1 >= rules.max_attempts:
        return Stop("attempts used up")
    if not _is_retryable(error, rules):
        return Stop(f"{error.name} is not retried")
    if state == "partial" and not rules.partial:
        return Stop("output reached the caller")
    # An error inside a reply of status 200, before any output, is a refusal like one with a status.
    if state == "silent" and error.kind != "provider" and silent_before >= rules.silent:
        return Stop("sent without an answer")
    pause = rules.backoff.pause_s(retry, rng())
    hint = error.retry_after_s
    if hint is not None:
        if hint > rules.max_hint_s:
            return Stop(f"asked to wait {hint:.0f} s")
        if hint > 0.0:  # a date in the past asks for nothing: the attempts would follow one another without a pause
            pause = hint
    if now + pause >= deadline:
        return Stop("the deadline comes first")
    return Wait(pause)


def _is_retryable(error: AiLibError, rules: RetryRules) -> bool:
    if error.code == "E2002" or error.retry_vetoed:
        return False
    if rules.on_names and error.kind == "provider" and error.name not in rules.on_names:
        return False
    return error.retryable or (error.kind == "provider" and error.status in rules.on_status)


def retrying(
    service: Service,
    rules: RetryRules,
    *,
    chance: Chance,
    hooks: Listeners | None = None,
) -> Service:
    """The service, tried again by the rules. Raises the error of the last attempt that was more than a refusal of
    ours."""

    async def run(call: Call, outlet: Outlet) -> None:
        delivery = Delivery.of(outlet)
        attempt = call
        series: _Series | None = None  # most calls need one attempt, and its frame is kept for all of a reply's minutes
        while True:
            delivery.begin()
            try:
                await service(attempt, delivery)
            except AiLibError as exc:
                error = exc
            else:
                if delivery is not outlet:
                    delivery.flush()
                return
            if series is None:
                series = _Series(call, delivery, rules, chance, hooks)
            attempt = await series.next(attempt, error)

    return run


class _Series:
    """The attempts of one call at one target, from the first that failed."""

    __slots__ = ("_before", "_call", "_chance", "_delivery", "_hooks", "_retry", "_rules", "_silent")

    def __init__(
        self, call: Call, delivery: Delivery, rules: RetryRules, chance: Chance, hooks: Listeners | None
    ) -> None:
        self._call = call
        self._delivery = delivery
        self._rules = rules
        self._chance = chance
        self._hooks = hooks
        self._retry = self._silent = 0
        self._before: AiLibError | None = None  # what the attempt before the last one failed with

    async def next(self, attempt: Call, error: AiLibError) -> Call:
        """Wait, and give the next attempt. Raises what the call fails with where there is none."""
        call, delivery = self._call, self._delivery
        if self._before is not None and error.kind in GATE_KINDS:
            raise self._before
        entry = attempt.entry
        state = entry.state() if entry is not None else "unsent"
        if delivery.is_committed:
            state = "partial"
        now = trio.current_time()
        step = decide(
            error,
            state,
            retry=self._retry,
            silent_before=self._silent,
            rules=self._rules,
            rng=partial(self._chance.of, call),
            now=now,
            deadline=call.deadline,
        )
        if isinstance(step, Stop):
            raise error
        if entry is not None:
            entry.verdict = "retried"
        reason = f"{error.code} {error.kind}"
        ref = getattr(call.target, "ref", "")
        if self._hooks is not None and self._hooks.on:
            self._hooks.emit(
                CallRetried(
                    at_s=now,
                    call=call.number,
                    attempt=attempt.attempt,
                    model=ref,
                    reason=reason,
                    after_s=step.seconds,
                )
            )
        if delivery.is_committed and not delivery.reroute(Rerouted(ref, ref, reason, discard=True)):
            await delivery.wait_room()
        await trio.sleep(step.seconds)
        self._before = error
        self._retry += 1
        self._silent += state == "silent" and error.kind != "provider"
        return call.copy(retry=self._retry)
