"""The logger, the metrics and the spans, by the libraries that programs read them with."""

from __future__ import annotations

import gc
import json
import logging
import urllib.request
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics
from opentelemetry.semconv.schemas import Schemas
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import AiLibError, CancelledByToken, CancelToken, Config, Endpoint, ModelArray, Resilience, open_client
from ai_lib_trio.errors import CallerError
from ai_lib_trio.telemetry import CallLogger, HealthChecker, MetricsCollector, Tracing
from ai_lib_trio.telemetry.tracing import SCHEMA_URL
from ai_lib_trio.testing import Head, ScriptedTransport, Stall, json_reply
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.types.records import (
    AttemptEnded,
    BreakerChanged,
    CallAdmitted,
    CallContent,
    CallEnded,
    CallRetried,
    CallStarted,
    FirstToken,
)
from ai_lib_trio.types.usage import Usage
from client_support import (
    KEYS,
    MODEL,
    OTHER_MODEL,
    Recorder,
    echo,
    prompt_of,
    refused,
    scripted_client,
    streamed,
    whole,
)

PATIENT = Resilience(max_attempts=3, min_delay_s=1, max_delay_s=1, jitter="none", breaker="off")


def paced(request: WireRequest) -> Any:
    """Streams at a pace; fails where the prompt says so, at one provider."""
    prompt = prompt_of(request)
    if prompt == "refused" and "api.openai" in request.url:
        return refused(503)
    if prompt == "waits":
        return [Stall()]
    return streamed("one", "two", "three", pace_s=0.5) if json.loads(request.body).get("stream") else whole("fine")


async def some_calls(client: Any) -> None:
    """One whole, one streamed, one that fails after three attempts, one that goes elsewhere, one that is left."""
    await client.chat().user("a secret prompt").execute()
    async with client.chat().user("a secret prompt").stream() as events:
        async for _ in events:
            pass
    with pytest.raises(AiLibError):
        await client.chat().user("refused").execute()
    await client.chat().user("refused").fallback(OTHER_MODEL).execute()
    with trio.move_on_after(2):
        await client.chat().user("waits").execute()


# ---- the logger


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def kept() -> Iterator[Kept]:
    logger = logging.getLogger("ai_lib_trio.calls")
    handler = Kept()
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


async def test_each_call_is_one_line_of_json(kept: Kept, autojump_clock: MockClock) -> None:
    logging.getLogger("ai_lib_trio.calls").setLevel(logging.INFO)
    block = scripted_client(ScriptedTransport(paced), sinks=(CallLogger(),), resilience=PATIENT)
    async with block as client:
        await some_calls(client)
    lines = [json.loads(record.getMessage()) for record in kept.records]
    assert [line["call"] for line in lines] == [f"{client.number}.{number}" for number in range(1, 6)]
    assert [line["outcome"] for line in lines] == ["ok", "ok", "failed", "ok", "cancelled"]
    assert [record.levelno for record in kept.records] == [20, 20, 30, 20, 20]
    assert (lines[1]["output_tokens"], lines[1]["first_token_s"]) == (2, 0.5)
    assert (lines[2]["attempts"], lines[2]["code"], lines[2]["status"]) == (3, "E3002", 503)
    assert (lines[3]["ref"], lines[3]["attempts"]) == (OTHER_MODEL, 4)
    assert kept.records[0].ai_call == lines[0]  # type: ignore[attr-defined]


async def test_at_debug_every_step_is_a_line_that_people_can_read(kept: Kept, autojump_clock: MockClock) -> None:
    logging.getLogger("ai_lib_trio.calls").setLevel(logging.DEBUG)
    block = scripted_client(ScriptedTransport(paced), sinks=(CallLogger(form="console"),), resilience=PATIENT)
    async with block as client:
        await some_calls(client)
    lines = [record.getMessage() for record in kept.records]
    assert lines[0].startswith("call started call=")
    assert any(line.startswith("retried ") and 'reason="E3002 provider"' in line for line in lines)
    assert any(line.startswith("rerouted ") for line in lines)


@pytest.mark.parametrize("form", ["json", "console"])
async def test_no_line_holds_a_key_or_a_word_of_a_prompt_though_a_server_answers_with_them(
    kept: Kept, autojump_clock: MockClock, form: Any
) -> None:
    logging.getLogger("ai_lib_trio.calls").setLevel(logging.DEBUG)
    key = KEYS["OPENAI_API_KEY"]

    def leaky(request: WireRequest) -> Any:
        _, body = whole("a secret reply")
        told = body.chunk.replace(b'"c-1"', f'"id-{key}"'.encode()).replace(b"a-model-1", key.encode())  # type: ignore[union-attr]
        head = Head(200, {"content-type": "application/json", "x-request-id": f"{key}\n\x1b[31mforged line"})
        return [head, body._replace(chunk=told)]  # type: ignore[union-attr]

    sinks = (CallLogger(form=form),)
    async with scripted_client(ScriptedTransport(leaky), sinks=sinks, record_content=True) as client:
        await client.chat().user("a secret prompt").execute()
    told = "\n".join(record.getMessage() + repr(record.__dict__) for record in kept.records)
    assert key not in told
    assert "secret" not in told
    assert "\x1b" not in told
    assert all("\n" not in record.getMessage() for record in kept.records)
    assert "<redacted>" in told


PAIR = {"AWS_ACCESS_KEY_ID": "AKIDpairkeyid", "AWS_SECRET_ACCESS_KEY": "pairsecretpart", "AWS_REGION": "eu-west-1"}


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    ("model", "secrets"),
    [(MODEL, [KEYS["OPENAI_API_KEY"]]), ("bedrock/a-model", [":".join(list(PAIR.values())[:2]), "pairsecretpart"])],
)
async def test_a_server_that_answers_with_the_key_in_every_field_leaks_it_into_no_line_span_series_or_snapshot(
    kept: Kept, autojump_clock: MockClock, form: Any, model: str, secrets: list[str]
) -> None:
    logging.getLogger("ai_lib_trio.calls").setLevel(logging.DEBUG)
    status = 200

    def leaky(request: WireRequest) -> Any:
        said = f"x-{'-'.join(secrets)}-x"
        names = ("id", "model", "object", "system_fingerprint", "service_tier", "request_id", "requestId", "responseId")
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, said: said, "cost": said}
        choice = {"index": 0, "message": {"role": "assistant", "content": "a word"}, "finish_reason": said}
        body = {**dict.fromkeys(names, said), "choices": [choice], "usage": usage, "modelVersion": said}
        output = {"output": {"message": {"role": "assistant", "content": [{"text": "a word"}]}}, "stopReason": said}
        error = {"message": said, "type": said, "code": said, "param": said, "status": said}
        headers = ("x-request-id", "request-id", "x-amzn-requestid", "server", "retry-after", "x-ratelimit-limit", said)
        return json_reply(
            {**body, **output} if status < 400 else {"error": error, "message": said, "__type": said, **body},
            status=status,
            headers=dict.fromkeys(headers, said),
        )

    traced, registry, sink, health = Traced(), CollectorRegistry(), Recorder(), HealthChecker()
    config = Config(
        transport=ScriptedTransport(leaky),
        environ={**KEYS, **PAIR},
        sinks=(CallLogger(form=form), traced.sink, MetricsCollector(registry), sink, health),
        record_content=True,
        resilience=PATIENT,
    )
    async with open_client(model, config=config) as client:
        for status in (200, 401, 429, 500):
            try:
                await client.chat().user("x").tenant(f"of {' '.join(secrets)}").execute()
            except AiLibError:
                assert status != 200
        with pytest.raises(CallerError, match="holds the key") as caught:
            await client.chat().user("x").model(f"{model}-{secrets[-1]}").execute()
        told = str(client.tree()) + repr(client.tree()) + repr(caught.value)
    told += "".join(record.getMessage() + repr(record.__dict__) for record in kept.records)
    told += "".join(span.to_json() for span in traced.spans()) + generate_latest(registry).decode()
    told += repr([record for record in sink.records if not isinstance(record, CallContent)]) + repr(health.report())
    assert len([record for record in sink.records if isinstance(record, CallEnded)]) == 4
    assert "<redacted>" in told
    for secret in secrets:
        assert secret not in told


async def test_a_word_in_place_of_a_key_may_be_a_part_of_other_names(autojump_clock: MockClock) -> None:
    sink = Recorder()
    config = Config(transport=ScriptedTransport(echo), api_keys={"openai": "none"}, environ={}, sinks=(sink,))
    async with open_client("openai/none-such", config=config) as client:
        await client.chat().user("x").tenant("nonesuch").execute()
    assert (sink.records[0].model, sink.records[0].tenant) == ("none-such", "nonesuch")


# ---- metrics


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url) as reply:
        return bytes(reply.read())


def sample(page: bytes, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    found = [
        one.value
        for family in text_string_to_metric_families(page.decode())
        for one in family.samples
        if one.name == name and labels.items() <= one.labels.items()
    ]
    return sum(found)


async def test_a_scrape_over_http_tells_what_the_calls_were(autojump_clock: MockClock) -> None:
    collector = MetricsCollector(CollectorRegistry())
    block = scripted_client(ScriptedTransport(paced), sinks=(collector,), resilience=PATIENT)
    async with block as client:
        await some_calls(client)
    server, thread = start_http_server(0, "127.0.0.1", registry=collector.registry)
    try:
        page = await trio.to_thread.run_sync(fetched, f"http://127.0.0.1:{server.server_port}/metrics")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert sample(page, "ailib_calls_total", outcome="ok") == 3
    assert sample(page, "ailib_calls_total", outcome="failed", code="E3002") == 1
    assert sample(page, "ailib_calls_total", outcome="cancelled") == 1
    assert sample(page, "ailib_attempts_total", provider="openai") == 9
    assert sample(page, "ailib_attempts_total", provider="groq", outcome="ok") == 1
    assert sample(page, "ailib_retries_total") == 4
    assert sample(page, "ailib_reroutes_total", provider="openai") == 1
    assert sample(page, "ailib_tokens_total", type="output") == 6
    assert sample(page, "ailib_calls_in_flight") == 0
    assert sample(page, "ailib_queue_seconds_count") == 10
    assert sample(page, "ailib_first_token_seconds_count") == 3
    assert sample(page, "ailib_first_token_seconds_sum") == 0.5
    assert sample(page, "ailib_call_seconds_count") == 5
    assert sample(page, "ailib_output_token_seconds_count") == 1
    assert page == collector.exposition()[0]


async def test_a_call_that_runs_is_in_flight(autojump_clock: MockClock) -> None:
    collector = MetricsCollector(CollectorRegistry())
    async with scripted_client(ScriptedTransport(paced), sinks=(collector,)) as client:
        async with client.chat().user("x").stream() as events:
            await events.__anext__()
            assert sample(collector.exposition()[0], "ailib_calls_in_flight", model="a-model") == 1
        assert sample(collector.exposition()[0], "ailib_calls_in_flight", model="a-model") == 0


def test_ten_thousand_names_of_models_do_not_make_ten_thousand_series() -> None:
    collector = MetricsCollector(CollectorRegistry())
    sink = collector.for_client(1)
    for number in range(10_000):
        of: Any = {"at_s": 0.0, "call": number, "provider": "openai", "model": f"model-{number}"}
        attempt = {**of, "attempt": 1}
        sink(CallStarted(**of, ref=f"openai/model-{number}", stream=True))
        sink(CallAdmitted(**attempt, queue_s=0.0))
        sink(FirstToken(**attempt, after_s=0.1))
        sink(AttemptEnded(**attempt, outcome="ok", state="complete"))
        sink(CallRetried(at_s=0.0, call=number, attempt=1, model=f"openai/model-{number}", reason=""))
        sink(BreakerChanged(at_s=0.0, provider="openai", of=f"model-{number}", state="open"))
        usage = Usage(input_tokens=1, output_tokens=2, cached_tokens=3, reasoning_tokens=4)
        ended = {"ref": f"openai/model-{number}", "stream": True, "outcome": "ok", "attempts": 1, "usage": usage}
        sink(CallEnded(**of, **ended, cost=1.0, currency="USD", first_token_s=0.1, total_s=1.0))
    page = collector.exposition()[0]
    assert sample(page, "ailib_calls_total") == sample(page, "ailib_attempts_total") == 10_000
    assert sample(page, "ailib_calls_total", model="other") == 10_000 - 100
    models = {
        one.labels["model"]
        for family in text_string_to_metric_families(page.decode())
        for one in family.samples
        if "model" in one.labels
    }
    assert len(models) == 101
    assert page.count(b"\n") < 30_000


def test_buckets_are_where_the_values_are() -> None:
    collector = MetricsCollector(CollectorRegistry())
    sink = collector.for_client(1)
    of: Any = {"at_s": 0.0, "call": 1, "provider": "p", "model": "m"}
    for seconds in (0.3, 0.8, 2.5, 45.0):  # what a small model takes, a large one, one far away, one that reasons
        sink(FirstToken(**of, attempt=1, after_s=seconds))
    bounds = [
        (float(one.labels["le"]), one.value)
        for family in text_string_to_metric_families(collector.exposition()[0].decode())
        for one in family.samples
        if one.name == "ailib_first_token_seconds_bucket"
    ]
    assert [bound for bound, _ in bounds] == sorted(bound for bound, _ in bounds)
    assert len({value for _, value in bounds}) == 5  # each of them falls into a bucket of its own
    assert bounds[0][1] == 0


async def test_models_beyond_the_bound_are_counted_together(autojump_clock: MockClock) -> None:
    collector = MetricsCollector(CollectorRegistry(), max_models=2)
    async with scripted_client(ScriptedTransport(echo), sinks=(collector,)) as client:
        for number in range(20):
            await client.chat().user("x").model(f"openai/model-{number}").execute()
    page = collector.exposition()[0]
    assert sample(page, "ailib_calls_total") == 20
    assert sample(page, "ailib_calls_total", model="other") == 18
    assert sample(page, "ailib_calls_in_flight") == 0


# ---- spans


class Traced:
    """An OpenTelemetry SDK that keeps what it is given."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.sink = Tracing(tracer_provider=self.provider, meter_provider=self.meters)

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def calls(self) -> list[ReadableSpan]:
        return [span for span in self.spans() if span.name.startswith("chat ")]

    def attempts_of(self, call: ReadableSpan) -> list[ReadableSpan]:
        assert call.context is not None
        return [span for span in self.spans() if span.parent and span.parent.span_id == call.context.span_id]

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        assert data is not None
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


async def test_a_call_is_a_span_below_its_callers_and_each_attempt_one_below_it(autojump_clock: MockClock) -> None:
    traced = Traced()
    tracer = traced.provider.get_tracer("the program")
    block = scripted_client(ScriptedTransport(paced), sinks=(traced.sink,), resilience=PATIENT)
    async with block as client:
        with tracer.start_as_current_span("the caller") as caller:
            await some_calls(client)
            assert trace.get_current_span() is caller
    calls = traced.calls()
    assert len(calls) == 5
    assert {call.parent.span_id for call in calls if call.parent} == {caller.get_span_context().span_id}
    assert [len(traced.attempts_of(call)) for call in calls] == [1, 1, 3, 4, 1]
    assert all(span.kind is trace.SpanKind.CLIENT for span in traced.spans() if span.name != "the caller")
    first, streamed_one, failed, rerouted, left = (dict(call.attributes or {}) for call in calls)
    assert first["gen_ai.operation.name"] == "chat"
    assert first["gen_ai.provider.name"] == "openai"
    assert first["gen_ai.request.model"] == "a-model"
    assert first["gen_ai.response.id"] == "c-1"
    assert first["gen_ai.response.finish_reasons"] == ("end_turn",)
    assert (first["gen_ai.usage.input_tokens"], first["gen_ai.usage.output_tokens"]) == (3, 2)
    assert (first["server.address"], first["server.port"]) == ("api.openai.com", 443)
    assert "gen_ai.response.time_to_first_chunk" not in first
    assert "gen_ai.request.stream" not in first
    assert streamed_one["gen_ai.request.stream"] is True
    assert streamed_one["gen_ai.response.time_to_first_chunk"] == 0.5
    assert (failed["error.type"], failed["ailib.error.code"]) == ("overloaded", "E3002")
    assert calls[2].status.status_code is trace.StatusCode.ERROR
    assert calls[0].status.status_code is trace.StatusCode.UNSET
    assert rerouted["ailib.answered_by"] == OTHER_MODEL
    assert left["ailib.outcome"] == "cancelled"
    attempts = traced.attempts_of(calls[2])
    assert [dict(one.attributes or {})["http.response.status_code"] for one in attempts] == [503] * 3
    assert [event.name for event in calls[2].events] == ["retried", "retried"]
    assert "secret" not in "".join(span.to_json() for span in traced.spans())


async def test_a_streamed_call_in_another_task_has_its_openers_span_as_parent(autojump_clock: MockClock) -> None:
    traced = Traced()
    tracer = traced.provider.get_tracer("the program")

    async def one(client: Any, name: str) -> None:
        with tracer.start_as_current_span(name):
            async with client.chat().user(name).stream() as events:
                async for _ in events:
                    pass

    block = scripted_client(ScriptedTransport(paced), sinks=(traced.sink,))
    async with block as client, trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(one, client, f"caller {number}")
    callers = {span.context.span_id for span in traced.spans() if span.context and span.name.startswith("caller")}
    assert {span.parent.span_id for span in traced.calls() if span.parent} == callers


async def test_what_runs_inside_of_an_attempt_sees_the_callers_span(autojump_clock: MockClock) -> None:
    traced, seen = Traced(), []

    def reply(request: WireRequest) -> Any:  # inside the exchange, below every policy
        seen.append(trace.get_current_span())
        return echo(request)

    async with scripted_client(ScriptedTransport(reply), sinks=(traced.sink,)) as client:
        with traced.provider.get_tracer("the program").start_as_current_span("the caller") as caller:
            await client.chat().user("x").execute()
            async with client.chat().user("x").stream() as events:
                async for _ in events:
                    pass
        await client.chat().user("x").execute()
    assert seen == [caller, caller, trace.INVALID_SPAN]


async def test_a_call_that_is_left_in_whatever_way_ends_its_spans_once(autojump_clock: MockClock) -> None:
    traced, ends = Traced(), Counter[int]()

    class Ends(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            assert span.context is not None
            ends[span.context.span_id] += 1

    traced.provider.add_span_processor(Ends())
    block = scripted_client(ScriptedTransport(paced), sinks=(traced.sink,), shutdown_grace_s=0)
    async with trio.open_nursery() as nursery, block as client:
        with trio.move_on_after(1):  # cancelled
            await client.chat().user("waits").execute()
        async with client.chat().user("x").stream() as events:  # left in the middle
            await events.__anext__()
        with pytest.warns(ResourceWarning, match="call"):
            await _drop_without_a_word(client)
        token = CancelToken()
        nursery.start_soon(_expect, CancelledByToken, client.chat().user("waits").cancel_token(token).execute)
        await wait_all_tasks_blocked()
        token.cancel()
        nursery.start_soon(_expect, AiLibError, client.chat().user("waits").execute)  # open when the client closes
        await wait_all_tasks_blocked()
    assert len(traced.calls()) == 5
    assert [len(traced.attempts_of(call)) for call in traced.calls()] == [1] * 5
    assert len(ends) == 10
    assert set(ends.values()) == {1}
    assert [dict(call.attributes or {})["ailib.outcome"] for call in traced.calls()] == [
        *["cancelled"] * 3,
        *["failed"] * 2,
    ]


async def _drop_without_a_word(client: Any) -> None:
    dropped = client.chat().user("x").stream()
    await dropped.__aiter__().__anext__()
    del dropped
    gc.collect()
    await wait_all_tasks_blocked()


async def _expect(kind: type[Exception], run: Any) -> None:
    with pytest.raises(kind):
        await run()


async def test_each_attempt_says_which_server_it_went_to_and_the_sums_are_of_who_answered(
    autojump_clock: MockClock,
) -> None:
    def one_is_down(request: WireRequest) -> Any:
        return refused(503) if "east" in request.url else echo(request)

    traced = Traced()
    array = ModelArray(
        "two",
        [
            Endpoint(model=MODEL, name="east", base_url="https://east.example/v1", api_key="k-1"),
            Endpoint(model=MODEL, name="west", base_url="https://west.example:8443/v1", api_key="k-2"),
        ],
        strategy=lambda some, asked: some,
    )
    async with scripted_client(ScriptedTransport(one_is_down), "@two", sinks=(traced.sink,), router=array) as client:
        await client.chat().user("x").execute()
    (call,) = traced.calls()
    servers = [dict(span.attributes or {}) for span in traced.attempts_of(call)]
    assert [(one["server.address"], one["server.port"]) for one in servers] == [
        ("east.example", 443),
        ("west.example", 8443),
    ]
    (point,) = traced.points(gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION)
    assert point.attributes["server.address"] == "west.example"


async def test_durations_tokens_and_first_chunks_are_measured_by_the_conventions_names(
    autojump_clock: MockClock,
) -> None:
    traced = Traced()
    block = scripted_client(ScriptedTransport(paced), sinks=(traced.sink,), resilience=PATIENT)
    async with block as client:
        await some_calls(client)
    durations = traced.points(gen_ai_metrics.GEN_AI_CLIENT_OPERATION_DURATION)
    assert sum(point.count for point in durations) == 5
    assert [point.count for point in durations if point.attributes.get("error.type") == "overloaded"] == [1]
    tokens = traced.points(gen_ai_metrics.GEN_AI_CLIENT_TOKEN_USAGE)
    assert sum(point.sum for point in tokens if point.attributes["gen_ai.token.type"] == "input") == 9
    (chunk,) = traced.points(gen_ai_metrics.GEN_AI_CLIENT_OPERATION_TIME_TO_FIRST_CHUNK)
    assert (chunk.count, chunk.sum) == (1, 0.5)


async def test_every_name_that_looks_like_one_of_the_conventions_is_one(autojump_clock: MockClock) -> None:
    traced = Traced()
    block = scripted_client(ScriptedTransport(paced), sinks=(traced.sink,), resilience=PATIENT, record_content=True)
    async with block as client:
        await some_calls(client)
        await client.chat().system("s").user("x").temperature(0.1).top_p(0.5).max_tokens(3).seed(1).n(2).execute()
        await client.chat().user("x").response_format("json_object").execute()
        assert dict(traced.calls()[-1].attributes or {})["gen_ai.output.type"] == "json"
    known = {value for name, value in vars(gen_ai_attributes).items() if name.startswith("GEN_AI_")}
    used = {name for span in traced.spans() for name in span.attributes or {} if name.startswith("gen_ai.")}
    assert used <= known
    assert {"gen_ai.request.temperature", "gen_ai.request.choice.count", "gen_ai.input.messages"} <= used
    assert SCHEMA_URL in {one.value for one in Schemas}
    scopes = {span.instrumentation_scope for span in traced.calls()}
    assert {scope.schema_url for scope in scopes if scope} == {SCHEMA_URL}


async def test_content_is_on_a_span_only_where_the_user_asks_for_it(autojump_clock: MockClock) -> None:
    traced = Traced()
    sinks = (traced.sink,)
    async with scripted_client(ScriptedTransport(echo), sinks=sinks, record_content=True) as client:
        await client.chat().system("be brief").user("hello").execute()
    attributes = dict(traced.calls()[0].attributes or {})
    assert json.loads(str(attributes["gen_ai.input.messages"])) == [
        {"role": "user", "parts": [{"type": "text", "content": "hello"}]}
    ]
    assert json.loads(str(attributes["gen_ai.system_instructions"])) == [{"type": "text", "content": "be brief"}]
    (said,) = json.loads(str(attributes["gen_ai.output.messages"]))
    assert said["parts"] == [{"type": "text", "content": "you said hello"}]


def test_a_sink_that_counts_calls_by_client_is_not_called_by_itself() -> None:
    for sink in (MetricsCollector(CollectorRegistry()), Traced().sink):
        with pytest.raises(CallerError, match="given to clients whole"):
            sink(None)  # type: ignore[arg-type]


async def test_a_provider_has_the_conventions_name_where_they_give_it_one(autojump_clock: MockClock) -> None:
    traced = Traced()
    async with scripted_client(ScriptedTransport(paced), "mistral/a-model", sinks=(traced.sink,)) as client:
        await client.chat().user("x").execute()
    (call,) = traced.calls()
    assert [dict(span.attributes or {})["gen_ai.provider.name"] for span in (call, *traced.attempts_of(call))] == [
        "mistral_ai"
    ] * 2


def test_what_a_sink_cannot_be_made_of_is_said() -> None:
    with pytest.raises(CallerError, match="form is one of json, console"):
        CallLogger(form="xml")  # type: ignore[arg-type]
    registry = CollectorRegistry()
    MetricsCollector(registry)
    with pytest.raises(CallerError, match="one collector for each prefix"):
        MetricsCollector(registry)
    MetricsCollector(registry, prefix="another")
