"""Records become metrics that a Prometheus server scrapes, by prometheus-client.

Imports types, and prometheus-client where a collector is made. The rule that must stay true: the number of time series
has a bound that no caller and no provider can push: models beyond it are counted together.

No thread and no port is opened: `exposition()` gives the page, for whatever serves your program's pages already.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ..errors import CallerError
from ..types.records import (
    ActorRestarted,
    AttemptEnded,
    BreakerChanged,
    CallAdmitted,
    CallEnded,
    CallRerouted,
    CallRetried,
    CallStarted,
    FeedbackGiven,
    FirstToken,
    HealthChanged,
    Record,
    Sink,
)

__all__ = ["MetricsCollector"]

# Buckets in seconds. First tokens come after tenths of a second, or minutes where a model reasons; whole replies take
# from half a second to the ten minutes that a first byte may take.
FIRST_TOKEN_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
TOTAL_S = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 600.0)
QUEUE_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
PER_TOKEN_S = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
TOKENS = tuple(float(4**power) for power in range(11))  # 1 to a million
COST = (0.00001, 0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
BREAKER = {"closed": 0.0, "half_open": 1.0, "open": 2.0}
OTHER = "other"


class MetricsCollector:
    """A sink for any number of clients. `registry` is prometheus-client's, its default one if None.

    `max_models` bounds how many models are told apart, over all providers, and `max_origins` how many origins and keys
    at them; what comes later is counted as `other`.
    """

    def __init__(
        self, registry: Any = None, *, prefix: str = "ailib", max_models: int = 100, max_origins: int = 20
    ) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as exc:
            raise CallerError(
                "metrics need prometheus-client: pip install 'ai-lib-trio[telemetry]'", kind="bad_argument"
            ) from exc
        self.registry = prometheus.REGISTRY if registry is None else registry
        self._exposition = prometheus.exposition
        self._max_models = max_models
        self._models: set[tuple[str, str]] = set()
        self._max_origins = max_origins
        self._origins: set[tuple[str, str, str]] = set()
        self._breakers: dict[tuple[str, str, str], set[str]] = {}
        try:
            self._register(prometheus, prefix)
        except ValueError as exc:  # a name that is none, or that the registry has already
            raise CallerError(
                f"{exc}; a registry takes one collector for each prefix, and that one may be a sink of every client",
                kind="bad_argument",
            ) from exc

    def _register(self, prometheus: Any, prefix: str) -> None:
        one = ("provider", "model")

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Any:
            return prometheus.Counter(f"{prefix}_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...]) -> Any:
            return prometheus.Gauge(f"{prefix}_{name}", text, labels, registry=self.registry)

        def histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Any:
            return prometheus.Histogram(f"{prefix}_{name}", text, labels, buckets=buckets, registry=self.registry)

        self._calls = counter("calls", "Calls that ended.", (*one, "outcome", "code"))
        self._attempts = counter("attempts", "Attempts that ended.", (*one, "outcome", "state", "code"))
        self._retries = counter("retries", "Attempts that were followed by another at the same target.", one)
        self._reroutes = counter("reroutes", "Calls handed to another target.", one)
        self._tokens = counter("tokens", "Tokens of replies, as providers reported them.", (*one, "type"))
        self._cost = counter("cost", "What calls cost, as well as it is known.", (*one, "currency"))
        self._restarts = counter("actor_restarts", "Crashes of actors.", ("provider", "actor"))
        self._feedback = counter("feedback", "What people said of replies.", ("kind", "value"))
        self._in_flight = gauge("calls_in_flight", "Calls that have not ended, by where they began.", one)
        self._breaker = gauge("breaker_state", "0 closed, 1 half open, 2 open.", ("provider", "origin", "key", "of"))
        self._healthy = gauge("provider_healthy", "1 where the last declared check was met.", ("provider", "origin"))
        self._total_s = histogram("call_seconds", "From a call's start to its end.", (*one, "outcome"), TOTAL_S)
        self._first_s = histogram(
            "first_token_seconds", "From when an attempt went out to its first token.", one, FIRST_TOKEN_S
        )
        self._queue_s = histogram("queue_seconds", "From an attempt's queueing to its admission.", one, QUEUE_S)
        self._per_token_s = histogram(
            "output_token_seconds", "Between two tokens of a streamed reply, on average.", one, PER_TOKEN_S
        )
        self._call_tokens = histogram("call_tokens", "Tokens of one reply.", (*one, "type"), TOKENS)
        self._call_cost = histogram("call_cost", "What one call cost.", (*one, "currency"), COST)

    def exposition(self) -> tuple[bytes, str]:
        """The page for a scrape, and its content type."""
        return self._exposition.generate_latest(self.registry), self._exposition.CONTENT_TYPE_LATEST

    def for_client(self, number: int) -> Sink:
        """See `ClientSink`."""
        return _OneClient(self)

    def __call__(self, record: Record) -> None:
        raise CallerError("a collector is given to clients whole, as one of their sinks", kind="bad_argument")

    def labels(self, provider: str, model: str) -> tuple[str, str]:
        """The labels of a model, within the bound."""
        pair = (provider, model)
        if pair in self._models:
            return pair
        if len(self._models) >= self._max_models:
            return (provider, OTHER)
        self._models.add(pair)
        return pair

    def origin_labels(self, provider: str, origin: str, key_number: int) -> tuple[str, str, str]:
        """The labels of an origin and a key at it, within the bound."""
        one = (provider, origin, str(key_number))
        if one not in self._origins:
            if len(self._origins) >= self._max_origins:
                return (provider, OTHER, OTHER)
            self._origins.add(one)
        return one


class _OneClient:
    """One client's sink: knows where its open calls began."""

    def __init__(self, collector: MetricsCollector) -> None:
        self._of = collector
        self._open: dict[int, tuple[str, str]] = {}

    def __call__(self, record: Record) -> None:
        of = self._of
        if isinstance(record, CallStarted):
            labels = self._open[record.call] = of.labels(record.provider, record.model)
            of._in_flight.labels(*labels).inc()
        elif isinstance(record, CallAdmitted):
            of._queue_s.labels(*of.labels(record.provider, record.model)).observe(record.queue_s)
        elif isinstance(record, FirstToken):
            of._first_s.labels(*of.labels(record.provider, record.model)).observe(record.after_s)
        elif isinstance(record, AttemptEnded):
            labels = of.labels(record.provider, record.model)
            of._attempts.labels(*labels, record.outcome, record.state, record.code or "").inc()
        elif isinstance(record, CallRetried):
            of._retries.labels(*self._ref(record.model)).inc()
        elif isinstance(record, CallRerouted):
            of._reroutes.labels(*self._ref(record.from_model)).inc()
        elif isinstance(record, CallEnded):
            self._end(record)
        elif isinstance(record, BreakerChanged):
            name = record.of if record.of == "connection" else of.labels(record.provider, record.of)[1]
            where = of.origin_labels(record.provider, record.origin, record.key_number)
            of._breaker.labels(*where, name).set(BREAKER[record.state])
            of._breakers.setdefault(where, set()).add(name)
        elif isinstance(record, ActorRestarted):
            of._restarts.labels(record.provider, record.actor).inc()
            where = of.origin_labels(record.provider, record.origin, record.key_number)
            if record.actor == "provider":
                for name in of._breakers.pop(where, ()):  # the next actor begins with new ones
                    of._breaker.labels(*where, name).set(0.0)
            elif record.failed:  # nobody looks any more
                with contextlib.suppress(KeyError):  # there was no check before the crashes
                    of._healthy.remove(*where[:2])
        elif isinstance(record, FeedbackGiven):
            of._feedback.labels(record.kind, _told(record)).inc()
        elif isinstance(record, HealthChanged):
            where = of.origin_labels(record.provider, record.origin, 0)
            of._healthy.labels(*where[:2]).set(1.0 if record.is_healthy else 0.0)

    def _ref(self, ref: str) -> tuple[str, str]:
        provider, _, model = ref.partition("/")
        return self._of.labels(provider, model)

    def _end(self, record: CallEnded) -> None:
        of = self._of
        begun = self._open.pop(record.call, None)
        if begun is not None:
            of._in_flight.labels(*begun).dec()
        labels = of.labels(record.provider, record.model)
        of._calls.labels(*labels, record.outcome, record.code or "").inc()
        of._total_s.labels(*labels, record.outcome).observe(record.total_s)
        if record.cost is not None and record.currency is not None:
            of._cost.labels(*labels, record.currency).inc(record.cost)
            of._call_cost.labels(*labels, record.currency).observe(record.cost)
        usage = record.usage
        if usage is None:
            return
        counts = (
            ("input", usage.input_tokens),
            ("output", usage.output_tokens),
            ("cached", usage.cached_tokens),
            ("reasoning", usage.reasoning_tokens),
        )
        for kind, count in counts:
            if count is not None:
                of._tokens.labels(*labels, kind).inc(count)
                of._call_tokens.labels(*labels, kind).observe(count)
        made = usage.output_tokens or 0
        if record.stream and record.outcome == "ok" and record.first_token_s is not None and made > 1:
            of._per_token_s.labels(*labels).observe((record.total_s - record.first_token_s) / (made - 1))


def _told(record: FeedbackGiven) -> str:
    """A thumb's direction; the values of the other kinds have no bound."""
    return ("up" if record.value else "down") if record.kind == "thumbs" else ""
