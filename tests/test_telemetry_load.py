"""A thousand calls at once on the simulator, over real sockets, with every sink on: each one has one root span, one end
record and one log line, and what all sinks counted is the same, and what was asked for."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, start_http_server

from ai_lib_trio import AiClient, AiLibError, CancelledByToken, CancelToken, Config, Resilience, open_client
from ai_lib_trio.simulator import Cut, Entry, Hold, Reply, Script, Status, Text, Usage, open_simulator
from ai_lib_trio.telemetry import CallLogger, HealthChecker, MetricsCollector, Tracing, observe
from ai_lib_trio.telemetry.observe import snapshots
from ai_lib_trio.testing import Quiescence, quiescence
from ai_lib_trio.types.records import AttemptEnded, CallEnded, CallQueued, CallRerouted, CallRetried, CallStarted
from test_telemetry_sinks import fetched, sample

__all__ = ["quiescence"]

CALLS = 1000
FATES = ("whole", "streamed", "whole", "refused", "retried", "left", "dropped", "raced", "rerouted", "cut", "told")
FIRST, SECOND = "openai/gpt-5", "groq/openai/gpt-oss-120b"  # registered with prices, so that costs are summed too
NEEDED_FILES = 2 * 2 * CALLS  # both ends of a connection are this process's; as many again for what is no call
LIMIT_S = 120  # what the load takes, many times over: reaching it is a failure


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for the sockets of both sides."""
    resource = pytest.importorskip("resource", reason="this system does not count open files so")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < NEEDED_FILES:
        pytest.skip(f"this machine allows {hard} open files, and the load needs {NEEDED_FILES}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, NEEDED_FILES), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Load:
    """What each prompt's call is to meet, what the simulator saw of it, and when all of them are there."""

    def __init__(self) -> None:
        self.fate_of = {f"call {number}": FATES[number % len(FATES)] for number in range(CALLS)}
        self.fates = Counter(self.fate_of.values())
        self.asked: Counter[tuple[str, str]] = Counter()
        self.all_here = trio.Event()
        self.counted = trio.Event()  # what is told of them while all are open was looked at
        self._never = trio.Event()

    def answer(self, entry: Entry) -> Reply:
        prompt = entry.body["messages"][-1]["content"]
        fate, provider = self.fate_of[prompt], str(entry.provider)
        self.asked[prompt, provider] += 1
        if len({one for one, _ in self.asked}) == CALLS:
            self.all_here.set()
        is_first = provider == "openai"
        if (fate in ("refused", "rerouted") and is_first) or (fate == "retried" and self.asked[prompt, provider] == 1):
            return Status(503)
        usage = Usage(input_tokens=7, output_tokens=3)
        if fate in ("left", "told"):
            return Script(steps=[Hold(self._never), Text("never"), usage])
        if fate == "dropped":
            return Script(steps=[Hold(self.counted), Text("one"), Hold(self._never), Text("two"), usage])
        if fate == "cut":
            return Script(steps=[Text("one two three"), usage], faults=[Cut(after_frames=2, how="reset")])
        # Nobody is answered before everybody has asked: that many calls are open at once.
        return Script(steps=[Hold(self.counted), Text("one two three"), usage])

    async def use(self, client: AiClient, prompt: str) -> None:
        chat, fate = client.chat().user(prompt), self.fate_of[prompt]
        try:
            if fate == "left":
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._after_they_were_counted, scope.cancel)
                        await chat.execute()
                assert scope.cancelled_caught
            elif fate == "told":
                token = CancelToken()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._after_they_were_counted, token.cancel)
                    with pytest.raises(CancelledByToken):
                        await chat.cancel_token(token).execute()
            elif fate == "raced":
                await client.race(chat, models=[FIRST, SECOND]).execute()
            elif fate == "rerouted":
                await chat.fallback(SECOND).execute()
            elif fate in ("streamed", "dropped", "cut"):
                async with chat.stream() as events:
                    async for _ in events:
                        if fate == "dropped":
                            break
            else:
                await chat.execute()
        except AiLibError:
            if fate not in ("refused", "cut"):
                raise

    async def _after_they_were_counted(self, then: Any) -> None:
        await self.counted.wait()
        then()


async def test_a_thousand_calls_on_the_simulator_with_all_sinks_on_are_all_accounted_for(
    quiescence: Quiescence, many_files: None, tmp_path: Path
) -> None:
    load = Load()
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
    metrics, health = MetricsCollector(registry), HealthChecker()
    sinks = (
        records.append,
        CallLogger(logger),
        metrics,
        Tracing(tracer_provider=spans, meter_provider=MeterProvider([reader])),
        health,
    )
    rules = Resilience(max_attempts=2, min_delay_s=0, max_delay_s=0, jitter="none", breaker="off", retry_budget="off")
    server, thread = start_http_server(0, "127.0.0.1", registry=registry)
    page_url = f"http://127.0.0.1:{server.server_port}/metrics"
    try:
        with trio.fail_after(LIMIT_S):
            async with open_simulator(scripts=load.answer) as sim:
                config = Config(
                    sinks=sinks,
                    resilience=rules,
                    environ={},
                    base_urls={"openai": sim.base_url("openai"), "groq": sim.base_url("groq")},
                    api_keys={"openai": "k-1", "groq": "k-2"},
                )
                async with open_client(FIRST, config=config) as client:
                    async with observe(client, tmp_path / "s") as path:
                        async with trio.open_nursery() as nursery:
                            for prompt in load.fate_of:
                                nursery.start_soon(load.use, client, prompt)
                            await load.all_here.wait()
                            during = await trio.to_thread.run_sync(fetched, page_url)
                            load.counted.set()
                        seen = snapshots(path)
                        observed = await seen.__anext__()
                        await seen.aclose()
                    assert client.tree().sink_failures == 0
                    assert client.tree().overdue_leaves == 0
                    assert [actor.crashes + actor.bugs for actor in client.tree().actors] == [0, 0]
                    stats = client.stats()
                page = await trio.to_thread.run_sync(fetched, page_url)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

    # each call is started once, ended once, logged once, and a root span once
    numbers = Counter(dict.fromkeys(range(1, CALLS + 1), 1))
    ended = [record for record in records if isinstance(record, CallEnded)]
    attempts = [record for record in records if isinstance(record, AttemptEnded)]
    finished = exporter.get_finished_spans()
    roots = [span for span in finished if span.parent is None]
    assert Counter(record.call for record in records if isinstance(record, CallStarted)) == numbers
    assert Counter(record.call for record in ended) == numbers
    assert Counter(int(line["call"].partition(".")[2]) for line in lines) == numbers
    assert len(roots) == CALLS
    assert len({span.context.span_id for span in finished if span.context}) == len(finished) == CALLS + len(attempts)

    # each attempt is queued once and ended once, and a span below its call's
    queued = Counter((one.call, one.attempt) for one in records if isinstance(one, CallQueued))
    assert queued == Counter((one.call, one.attempt) for one in attempts)
    below = Counter(span.parent.span_id for span in finished if span.parent is not None)
    assert Counter(below[span.context.span_id] for span in roots if span.context) == Counter(
        record.attempts for record in ended
    )
    assert sum(line["attempts"] for line in lines) == sum(record.attempts for record in ended) == len(attempts)

    # the outcomes are those that were asked for, in every sink
    fates = load.fates
    failed = fates["refused"] + fates["cut"] + fates["told"]
    left = fates["left"] + fates["dropped"]
    outcomes = {"ok": CALLS - failed - left, "failed": failed, "cancelled": left}
    assert stats == {"calls": CALLS, "open": 0, **outcomes} == observed.stats
    assert Counter(record.outcome for record in ended) == outcomes
    assert Counter(line["outcome"] for line in lines) == outcomes
    assert Counter((span.attributes or {})["ailib.outcome"] for span in roots) == outcomes
    assert {one: sample(page, "ailib_calls_total", outcome=one) for one in outcomes} == outcomes
    assert Counter(record.kind for record in ended if record.kind is not None) == {
        "provider": fates["refused"],
        "reset": fates["cut"],
        "cancel_token": fates["told"],
    }

    # the simulator saw each attempt that these records say went out
    firsts = Counter(dict.fromkeys(fates, 1) | {"refused": 2, "retried": 2, "rerouted": 2})
    for prompt, fate in load.fate_of.items():
        assert load.asked[prompt, "openai"] == firsts[fate], fate
        assert load.asked[prompt, "groq"] <= (fate in ("rerouted", "raced"))
    expected = sum(count * firsts[fate] for fate, count in fates.items()) + fates["rerouted"] + fates["raced"]
    assert len(attempts) == expected == sample(page, "ailib_attempts_total")

    # while all were there, and after
    assert sample(during, "ailib_calls_in_flight") + sample(during, "ailib_calls_total") == CALLS
    assert sample(during, "ailib_calls_in_flight") >= sum(
        count for fate, count in fates.items() if fate not in ("refused", "retried", "cut", "rerouted")
    )
    assert sample(page, "ailib_calls_in_flight") == 0
    assert sample(page, "ailib_call_seconds_count") == CALLS

    # retries, reroutes, tokens and money are the same sums everywhere
    retried = fates["refused"] + fates["retried"] + fates["rerouted"]
    assert sample(page, "ailib_retries_total") == retried == sum(isinstance(one, CallRetried) for one in records)
    assert fates["rerouted"] == sum(isinstance(one, CallRerouted) for one in records)
    assert sample(page, "ailib_reroutes_total", provider="openai") == fates["rerouted"]
    made = sum(record.usage.output_tokens for record in ended if record.usage is not None)
    assert made >= 3 * outcomes["ok"]
    assert sample(page, "ailib_tokens_total", type="output") == made
    assert sum(counted.output_tokens for counted in observed.providers.values()) == made
    assert sum(counted.calls for counted in observed.providers.values()) == CALLS
    assert sum(line.get("output_tokens", 0) for line in lines) == made
    cost = sum(record.cost for record in ended if record.cost is not None)
    assert cost > 0
    assert sample(page, "ailib_cost_total", currency="USD") == pytest.approx(cost)
    assert sum(counted.cost["USD"] for counted in observed.providers.values()) == pytest.approx(cost)
    assert sum((span.attributes or {}).get("ailib.cost", 0) for span in roots) == pytest.approx(cost)
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

    # the refusals of the one and the answers of the other are what its health is
    assert {name: one.state for name, one in health.report().items() if name == "groq"} == {"groq": "healthy"}
