"""The gate in front of a provider: queue, breakers, limits, permits and retry budget, put together.

Imports `service` and the machines beside it. Pure: `now` is an argument. Implements `service.Gate`. The order, for
each call: breakers and limits are looked at (what cannot go in time is refused at once) -> a retry pays -> queue ->
limits -> a permit -> breakers are entered. So a probe of a half-open breaker holds its permit first, and a refusal
takes nothing from anybody.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from ..errors import AdmissionError
from ..protocol.manifest import Scope
from ..service import Ending, Ticket
from ..types.admission import BreakerView, Forecast, GateView, LimitsSeen, LimitView
from ..types.records import BreakerChanged, Record
from .budget import BudgetRules, RetryBudget
from .circuit_breaker import Breaker, BreakerRules
from .fair_queue import FairQueue, due_of
from .rate_limiter import Limiter, LimitRules, Mark

__all__ = ["GateRules", "ProviderGate"]

CONNECTION = "connection"
CONNECT_KINDS = frozenset({"connect", "connect_timeout", "tls_refused"})
SERVER_CODES = frozenset({"E3001", "E3002", "E3003"})
LATENCY_SAMPLES = 128
NO_PASS = -1  # of a probe that has told already how it went
MIN_SAMPLES = 20  # fewer say nothing about a tail


class GateRules(msgspec.Struct, frozen=True):
    """What a gate goes by. `scope` is what a limit is a limit of; `breaker` None is no breaker."""

    max_inflight: int = 1000
    max_queued: int = 10_000
    max_queued_tokens: float = 50_000_000.0  # the default number of calls at 5000 tokens each
    when_full: Literal["wait", "shed"] = "wait"
    scope: Scope = "key"
    limits: LimitRules = LimitRules()
    breaker: BreakerRules | None = BreakerRules()
    budget: BudgetRules | None = BudgetRules()
    weights: Mapping[str, float] = {}


class _Lane:
    """What one model's calls pass: the limits that they share, and two breakers (None where there are none).

    `latencies` are seconds to the first token, the latest last.
    """

    __slots__ = ("connection", "latencies", "limiter", "model")

    def __init__(self, limiter: Limiter, model: Breaker | None, connection: Breaker | None) -> None:
        self.limiter = limiter
        self.model = model
        self.connection = connection
        self.latencies: deque[float] = deque(maxlen=LATENCY_SAMPLES)


_Passes = tuple[
    _Lane, Mark, int, int
]  # of an admitted ticket: with the passes of the model's breaker and the connection's


class ProviderGate:
    """One actor's gate. `provider`, `origin` and `key_number` are for what it tells: see `BreakerChanged`."""

    def __init__(self, rules: GateRules, *, provider: str = "", origin: str = "", key_number: int = 1) -> None:
        self.rules = rules
        self._of: Any = {"provider": provider, "origin": origin, "key_number": key_number}
        self._queue = FairQueue(rules.weights)
        self._inflight: dict[Ticket, None] = {}
        self._fresh: list[Ticket] = []
        self._budget = RetryBudget(rules.budget) if rules.budget is not None else None
        self._limiters: dict[str, Limiter] = {}
        self._breakers: dict[str, Breaker] = {}
        self._told: dict[str, str] = {}  # the last state of each breaker that was news
        self._lanes: dict[str, _Lane] = {}  # by model, from its first admitted call on
        self._has_opened = False
        self._wake_at = math.inf
        self._news: list[tuple[float, str, str]] = []  # when, of what, and what it is now

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def inflight(self) -> int:
        return len(self._inflight)

    @property
    def is_probing(self) -> bool:
        """See `service.Gate`."""
        return bool(self._told) and "half_open" in self._told.values()

    def wake_at(self) -> float:
        """See `service.Gate`."""
        return self._wake_at

    # ---- the way in

    def pass_nowait(self, ticket: Ticket, now: float) -> bool:
        """See `service.Gate`. What it does is what `offer` and a `turn` would."""
        inflight = self._inflight
        if self._queue or self._fresh or 2 * (len(inflight) + 1) > self.rules.max_inflight or ticket.deadline <= now:
            return False
        lane = self._lanes.get(ticket.model) or self._lane(ticket.model, now)
        model, connection = lane.model, lane.connection
        if model is not None and connection is not None:
            if not (model.is_closed and connection.is_closed):
                return False
            passes = model.generation, connection.generation
        else:
            passes = 0, 0
        mark = lane.limiter.take_of_plenty(ticket.tokens, now)
        if mark is None:
            return False
        if self._budget is not None:
            self._budget.deposit(now)
        inflight[ticket] = None
        ticket.marks = lane, mark, *passes
        return True

    def offer(self, ticket: Ticket, now: float) -> AdmissionError | None:
        """See `service.Gate`."""
        refusal = self._by_breakers(ticket.model, now) or self._by_time(ticket, now)
        if refusal is not None:
            return refusal
        if self._budget is not None:
            if not ticket.is_retry:
                self._budget.deposit(now)
            elif not self._budget.spend(now):
                return AdmissionError("the retry budget of the provider is spent", kind="retry_budget")
        self._queue.push(ticket)
        self._fresh.append(ticket)
        return None

    def turn(self, now: float) -> list[tuple[Ticket, AdmissionError | None]]:
        """See `service.Gate`."""
        out: list[tuple[Ticket, AdmissionError | None]] = []
        held: set[str] = set()
        self._wake_at = math.inf
        if self._has_opened:
            out.extend(self._sent_away(now))
        while self._queue:
            ticket = self._queue.peek(held)
            if ticket is None:
                break
            refusal = self._by_breakers(ticket.model, now)
            if refusal is not None:
                self._drop(ticket)
                out.append((ticket, refusal))
                continue
            limiter = self._limiter(ticket.model, now)
            ready_at = limiter.ready_at(ticket.tokens, now)
            if ready_at > due_of(ticket):
                self._drop(ticket)
                out.append((ticket, _too_late(ready_at - now)))
                continue
            if ready_at > now:
                # Whoever shares its limit waits behind it: to let the small ones pass would starve the large.
                self._wake_at = min(self._wake_at, ready_at)
                if self.rules.scope == "key":
                    break
                held.add(ticket.model)
                continue
            if len(self._inflight) >= self.rules.max_inflight:
                break
            self._queue.serve(ticket)
            self._inflight[ticket] = None
            lane = self._lane(ticket.model, now)
            mark = limiter.take(ticket.tokens, now)
            ticket.marks = lane, mark, self._enter(ticket.model, now), self._enter(CONNECTION, now)
            out.append((ticket, None))
        out.extend(self._tired(now))
        out.extend((ticket, refusal) for ticket, refusal in self._overflow(now))
        longest = self._queue.longest_patient()
        if longest is not None:
            self._wake_at = min(self._wake_at, due_of(longest))
        return out

    def _tired(self, now: float) -> list[tuple[Ticket, AdmissionError]]:
        """Those without a deadline that have waited as long as anybody may, for limits or for a permit."""
        out: list[tuple[Ticket, AdmissionError]] = []
        while (ticket := self._queue.longest_patient()) is not None and due_of(ticket) <= now:
            self._drop(ticket)
            waited = f"it waited {now - ticket.arrived:.0f} s behind {len(self._inflight)} running calls"
            out.append((ticket, AdmissionError(waited, kind="admission_too_late")))
        return out

    def _sent_away(self, now: float) -> list[tuple[Ticket, AdmissionError | None]]:
        """A breaker opened: whoever waits for it is told at once, and may go elsewhere."""
        self._has_opened = False
        out: list[tuple[Ticket, AdmissionError | None]] = []
        for ticket in list(self._queue):
            refusal = self._by_breakers(ticket.model, now)
            if refusal is not None:
                self._drop(ticket)
                out.append((ticket, refusal))
        return sorted(out, key=lambda pair: (pair[0].number, pair[0].attempt))

    def _overflow(self, now: float) -> list[tuple[Ticket, AdmissionError]]:
        """The newest of those that wait beyond the bound."""
        rules, queue = self.rules, self._queue
        bound = rules.max_queued if rules.when_full == "wait" else 0
        shed: list[tuple[Ticket, AdmissionError]] = []
        while self._fresh and (len(queue) > bound or queue.tokens > rules.max_queued_tokens):
            ticket = self._fresh.pop()
            if ticket in queue:
                self._drop(ticket)
                wait_s = self._limiter(ticket.model, now).ready_at(ticket.tokens, now) - now
                shed.append((ticket, _shed(len(queue), wait_s)))
        self._fresh.clear()
        return shed

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """See `service.Gate`."""
        if ticket in self._queue:
            self._drop(ticket)

    def _drop(self, ticket: Ticket) -> None:
        """It leaves the queue and does not start; a retry is paid back."""
        self._queue.remove(ticket)
        if ticket.is_retry and self._budget is not None:
            self._budget.refund()

    def _by_breakers(self, model: str, now: float) -> AdmissionError | None:
        for of in (CONNECTION, model):
            breaker = self._breakers.get(of)
            if breaker is None or breaker.allows(now):
                continue
            self._tell(of, breaker, now)
            wait_s = breaker.opens_in_s(now)
            what = "connecting" if of == CONNECTION else f"{model}"
            when = f"tried again in {wait_s:.1f} s" if wait_s > 0 else "being tried by another call"
            return AdmissionError(
                f"{what} failed too often; it is {when}", kind="breaker_open", retry_after_s=wait_s or None
            )
        return None

    def _by_time(self, ticket: Ticket, now: float) -> AdmissionError | None:
        """A call that cannot be admitted before it is due is told so now, and when it could have been."""
        limiter = self._limiter(ticket.model, now)
        if limiter.is_idle:
            return None
        due = due_of(ticket)
        if len(self._queue):
            models = None if self.rules.scope == "key" else (ticket.model,)
            # The order of all who wait is only worked out where even the longest wait would matter.
            at = limiter.due_at(ticket.tokens, len(self._queue), self._queue.tokens, now)
            if at > due:
                at = limiter.due_at(ticket.tokens, *self._queue.before(ticket, models), now)
        else:
            at = limiter.ready_at(ticket.tokens, now)
        return _too_late(at - now) if at > due else None

    def forecast(self, ticket: Ticket, now: float) -> Forecast:
        """See `service.Gate`."""
        refusal = self._by_breakers(ticket.model, now) or self._by_time(ticket, now)
        if refusal is not None:
            return Forecast(False, refusal.retry_after_s or 0.0, refusal.kind, refusal.message)
        if ticket.is_retry and self._budget is not None and self._budget.balance(now) < 1.0:
            return Forecast(False, 0.0, "retry_budget", "the retry budget of the provider is spent")
        models = None if self.rules.scope == "key" else (ticket.model,)
        limiter = self._limiter(ticket.model, now)
        at = limiter.due_at(ticket.tokens, *self._queue.before(ticket, models), now)
        if len(self._inflight) >= self.rules.max_inflight or at > now:
            if self.rules.when_full == "shed" or len(self._queue) >= self.rules.max_queued:
                return Forecast(False, at - now, "shed", f"{len(self._queue)} calls are waiting already")
            return Forecast(True, at - now, None, f"{len(self._inflight)} calls are running, {len(self._queue)} wait")
        return Forecast(True)

    # ---- what replies tell

    def learnt(self, ticket: Ticket, seen: LimitsSeen, now: float) -> None:
        """See `service.Gate`."""
        lane, mark = ticket.marks[:2]
        lane.limiter.learn(mark, seen, now)

    def began(self, ticket: Ticket, after_s: float, now: float) -> None:
        """See `service.Gate`. A probe that answers has gone well: its reply may take minutes, and others would be
        refused for all of them."""
        passes: _Passes = ticket.marks
        lane, mark, model_pass, connection_pass = passes
        slow_s = self.rules.breaker.slow_call_s if self.rules.breaker is not None else None
        is_slow = slow_s is not None and after_s > slow_s
        if lane.connection is not None and lane.connection.is_probe(connection_pass):
            self._leave(CONNECTION, lane.connection, connection_pass, False, now)
            connection_pass = NO_PASS
        if lane.model is not None and lane.model.is_probe(model_pass):
            self._leave(ticket.model, lane.model, model_pass, is_slow, now)
            model_pass = NO_PASS
        ticket.marks = lane, mark, model_pass, connection_pass

    def ended(self, ticket: Ticket, ending: Ending, now: float) -> None:
        """See `service.Gate`."""
        del self._inflight[ticket]
        passes: _Passes = ticket.marks
        lane, mark, model_pass, connection_pass = passes
        usage = ending.usage
        used = None
        if usage is not None:
            used = usage.total_tokens
            if used is None and usage.input_tokens is not None:
                used = usage.input_tokens + (usage.output_tokens or 0)
        lane.limiter.settle(mark, used, ending.state != "unsent", now)
        if ticket.account is not None:
            if used is not None:
                self._queue.settle(ticket, used)
            elif ending.state in ("unsent", "refused"):
                self._queue.settle(ticket, 0.0)
        error = ending.error
        if error is not None and error.retry_after_s and error.code in ("E2001", "E3002") and error.kind == "provider":
            lane.limiter.pause(error.retry_after_s, now)
        if ending.first_token_s is not None:
            lane.latencies.append(ending.first_token_s)
        if lane.connection is not None:
            self._leave(CONNECTION, lane.connection, connection_pass, _connected(ending), now)
        if lane.model is not None:
            self._leave(ticket.model, lane.model, model_pass, self._failed(ending), now)

    def _failed(self, ending: Ending) -> bool | None:
        """Whether it was the provider's fault. None: it says nothing about the provider."""
        error = ending.error
        if error is not None and not ending.is_left:
            if error.kind in CONNECT_KINDS:
                return None  # counted for all models, by the connection's breaker
            if error.code in SERVER_CODES and error.kind != "deadline":
                return True
            return False if error.kind == "provider" else None
        rules = self.rules.breaker
        slow_s = rules.slow_call_s if rules is not None else None
        if slow_s is not None:
            waited = ending.first_token_s if ending.first_token_s is not None else ending.took_s
            if waited > slow_s:
                return True
        return None if ending.is_left else False

    # ---- breakers and limiters, made when they have something to keep

    def _enter(self, of: str, now: float) -> int:
        if self.rules.breaker is None:
            return 0
        breaker = self._breaker(of)
        pass_ = breaker.enter(now)
        self._tell(of, breaker, now)
        return pass_

    def _breaker(self, of: str) -> Breaker:
        breaker = self._breakers.get(of)
        if breaker is None:
            assert self.rules.breaker is not None
            breaker = self._breakers[of] = Breaker(self.rules.breaker)
        return breaker

    def _lane(self, model: str, now: float) -> _Lane:
        lane = self._lanes.get(model)
        if lane is None:
            has_breakers = self.rules.breaker is not None
            breakers = (self._breaker(model), self._breaker(CONNECTION)) if has_breakers else (None, None)
            lane = self._lanes[model] = _Lane(self._limiter(model, now), *breakers)
        return lane

    def _leave(self, of: str, breaker: Breaker, pass_: int, failed: bool | None, now: float) -> None:
        breaker.leave(pass_, failed, now)
        if of in self._told or not breaker.is_closed:
            self._tell(of, breaker, now)

    def _tell(self, of: str, breaker: Breaker, now: float) -> None:
        state = breaker.state(now)
        if state != self._told.get(of, "closed"):
            self._told[of] = state
            self._has_opened = self._has_opened or state == "open"
            self._news.append((now, of, state))

    def _limiter(self, model: str, now: float) -> Limiter:
        scope = "key" if self.rules.scope == "key" else model
        limiter = self._limiters.get(scope)
        if limiter is None:
            limiter = self._limiters[scope] = Limiter(self.rules.limits, now)
        return limiter

    # ---- for people and policies

    def first_token_quantile(self, model: str, share: float) -> float | None:
        """See `service.Gate`."""
        lane = self._lanes.get(model)
        if lane is None or len(lane.latencies) < MIN_SAMPLES:
            return None
        samples = lane.latencies
        return sorted(samples)[min(len(samples) - 1, int(share * len(samples)))]

    def news(self, *, is_wanted: bool = True) -> list[Record]:
        """See `service.Gate`."""
        if not self._news:
            return []
        news, self._news = self._news, []
        if not is_wanted:
            return []
        return [BreakerChanged(at_s=at, of=of, state=state, **self._of) for at, of, state in news]

    def farewell(self, now: float) -> list[Record]:
        """See `service.Gate`."""
        told = sorted(of for of, state in self._told.items() if state != "closed")
        return [BreakerChanged(at_s=now, of=of, state="closed", **self._of) for of in told]

    def view(self, now: float) -> GateView:
        """See `service.Gate`."""
        breakers: list[BreakerView] = []
        for of, breaker in sorted(self._breakers.items()):
            seen = breaker.view(of, now)
            if seen is not None:
                breakers.append(seen)
        limits: list[LimitView] = []
        for scope, limiter in sorted(self._limiters.items()):
            limits.extend(limiter.views(scope, now))
        paused_until = max((limiter.paused_until for limiter in self._limiters.values()), default=-math.inf)
        return GateView(
            retries_left=self._budget.balance(now) if self._budget is not None else math.inf,
            paused_for_s=max(0.0, paused_until - now) if paused_until > -math.inf else 0.0,
            breakers=tuple(breakers),
            limits=tuple(limits),
            queued_by_tenant=self._queue.by_tenant(),
        )


def _connected(ending: Ending) -> bool | None:
    if ending.error is not None and ending.error.kind in CONNECT_KINDS:
        return True
    return None if ending.state == "unsent" else False


def _too_late(wait_s: float) -> AdmissionError:
    when = f"in {wait_s:.1f} s at the earliest" if wait_s < math.inf else "at no time that is known"
    return AdmissionError(
        f"the limits let this call through {when}, which is too late for it",
        kind="admission_too_late",
        retry_after_s=wait_s if wait_s < math.inf else None,
    )


def _shed(waiting: int, wait_s: float) -> AdmissionError:
    return AdmissionError(
        f"{waiting} calls are waiting for the provider already",
        kind="shed",
        retry_after_s=wait_s if 0 < wait_s < math.inf else None,
    )
