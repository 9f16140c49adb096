"""A thousand calls at once with every sink on: each one has one root span, one end and one line, and the sums agree."""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import Any

import trio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from ai_lib_trio import AiClient, AiLibError, Resilience
from ai_lib_trio.telemetry import CallLogger, HealthChecker, MetricsCollector, Tracing
from ai_lib_trio.telemetry.observe import Meter
from ai_lib_trio.testing import Quiescence, ScriptedTransport, Stall, quiescence
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.types.records import AttemptEnded, CallEnded, CallStarted
from client_support import asked_to_stream, prompt_of, refused, scripted_client, streamed, whole
from test_telemetry_sinks import sample

__all__ = ["quiescence"]

CALLS = 1000
FATES = ("whole", "streamed", "streamed", "refused", "retried", "left", "dropped", "raced")


async def test_a_thousand_calls_with_all_sinks_on_are_all_accounted_for(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    fate_of = {f"call {number}": FATES[number % len(FATES)] for number in range(CALLS)}
    tried: Counter[str] = Counter()

    def reply(request: WireRequest) -> Any:
        prompt = prompt_of(request)
        fate = fate_of[prompt]
        tried[prompt] += 1
        if fate == "refused" or (fate == "retried" and tried[prompt] == 1):
            return refused(503)
        if fate == "left":
            return [Stall()]
        return streamed("one", "two", pace_s=0.1) if asked_to_stream(request) else whole("fine")

    async def use(client: AiClient, prompt: str) -> None:
        chat, fate = client.chat().user(prompt), fate_of[prompt]
        try:
            if fate == "left":
                with trio.move_on_after(3):
                    await chat.execute()
            elif fate == "raced":
                await client.race(chat, models=["openai/a-model", "groq/another-model"]).execute()
            elif fate in ("streamed", "dropped"):
                async with chat.stream() as events:
                    async for _ in events:
                        if fate == "dropped":
                            break
            else:
                await chat.execute()
        except AiLibError:
            assert fate == "refused"

    exporter, reader, registry = InMemorySpanExporter(), InMemoryMetricReader(), CollectorRegistry()
    spans = TracerProvider()
    spans.add_span_processor(SimpleSpanProcessor(exporter))
    records: list[Any] = []
    lines: list[dict[str, Any]] = []
    logger = logging.Logger("of this test", logging.INFO)

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(json.loads(record.getMessage()))

    logger.addHandler(Lines())
    metrics, meter, health = MetricsCollector(registry), Meter(), HealthChecker()
    sinks = (
        records.append,
        CallLogger(logger),
        metrics,
        Tracing(tracer_provider=spans, meter_provider=MeterProvider([reader])),
        meter,
        health,
    )
    rules = Resilience(max_attempts=2, min_delay_s=1, jitter="none", breaker="off", retry_budget="off")
    block = scripted_client(ScriptedTransport(reply), sinks=sinks, resilience=rules)
    async with block as client:
        async with trio.open_nursery() as nursery:
            for prompt in fate_of:
                nursery.start_soon(use, client, prompt)
        assert client.tree().sink_failures == 0
        assert client.stats()["calls"] == CALLS

    numbers = Counter(dict.fromkeys(range(1, CALLS + 1), 1))
    started = [record for record in records if isinstance(record, CallStarted)]
    ended = [record for record in records if isinstance(record, CallEnded)]
    attempts = [record for record in records if isinstance(record, AttemptEnded)]
    assert Counter(record.call for record in started) == numbers
    assert Counter(record.call for record in ended) == numbers
    # one line a call
    assert Counter(int(line["call"].partition(".")[2]) for line in lines) == numbers
    # one root span a call, one below it an attempt, and nothing else
    finished = exporter.get_finished_spans()
    roots = [span for span in finished if span.parent is None]
    assert len(roots) == CALLS
    assert len(finished) == CALLS + len(attempts)
    below = Counter(span.parent.span_id for span in finished if span.parent is not None)
    assert Counter(below[span.context.span_id] for span in roots if span.context) == Counter(
        record.attempts for record in ended
    )
    # the sums agree: records, lines, metrics, spans, and what was asked for
    outcomes = Counter(record.outcome for record in ended)
    fates = Counter(fate_of.values())
    left = fates["left"] + fates["dropped"]
    assert outcomes == Counter(failed=fates["refused"], cancelled=left, ok=CALLS - fates["refused"] - left)
    page = metrics.exposition()[0]
    assert Counter(line["outcome"] for line in lines) == outcomes
    assert {one: sample(page, "ailib_calls_total", outcome=one) for one in outcomes} == outcomes
    assert Counter((span.attributes or {})["ailib.outcome"] for span in roots) == outcomes
    assert sample(page, "ailib_attempts_total") == len(attempts)
    assert sample(page, "ailib_retries_total") == fates["refused"] + fates["retried"]
    assert sample(page, "ailib_calls_in_flight") == 0
    made = sum(record.usage.output_tokens for record in ended if record.usage is not None)
    assert sample(page, "ailib_tokens_total", type="output") == made
    assert sum(counted.output_tokens for counted in meter.providers.values()) == made
    assert sum(counted.calls for counted in meter.providers.values()) == CALLS
    data = reader.get_metrics_data()
    assert data is not None
    told = {
        metric.name: metric.data.data_points
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert sum(point.count for point in told["gen_ai.client.operation.duration"]) == CALLS
    output = [one for one in told["gen_ai.client.token.usage"] if one.attributes["gen_ai.token.type"] == "output"]
    assert sum(point.sum for point in output) == made
