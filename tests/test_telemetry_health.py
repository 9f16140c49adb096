"""What health is told by records, and feedback as a program hands it over."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import AiLibError, BreakerRules, CallerError, ChatResponse, Config, Resilience, open_client
from ai_lib_trio.errors import KINDS
from ai_lib_trio.routing import Endpoint, ModelArray
from ai_lib_trio.telemetry import CallLogger, Feedback, FeedbackCollector, HealthChecker, MetricsCollector
from ai_lib_trio.testing import ScriptedTransport
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.types.records import (
    ActorRestarted,
    AttemptEnded,
    BreakerChanged,
    CallEnded,
    FeedbackGiven,
    HealthChanged,
)
from client_support import OTHER_MODEL, Recorder, echo, prompt_of, refused, scripted_client, whole
from test_health_checks import acme
from test_telemetry_sinks import sample


async def asked(client: Any, *prompts: str) -> None:
    for prompt in prompts:
        try:
            await client.chat().user(prompt).execute()
        except AiLibError:
            continue


def by_prompt(request: Any) -> Any:
    status = prompt_of(request)
    return refused(int(status)) if status.isdigit() else whole("fine")


async def test_health_is_what_was_seen(autojump_clock: MockClock) -> None:
    checker = HealthChecker()
    rules = Resilience(max_attempts=1, breaker=BreakerRules(failures=5))
    async with scripted_client(ScriptedTransport(by_prompt), sinks=(checker,), resilience=rules) as client:
        assert checker.health("openai").state == "unknown"
        await asked(client, *["fine"] * 6)
        assert checker.health("openai").state == "healthy"
        await asked(client, *["400"] * 6)  # the caller's own mistakes
        assert checker.health("openai").state == "healthy"
        await asked(client, "500")
        await client.chat().user("fine").model(OTHER_MODEL).execute()
        await asked(client, *["500"] * 12)
        health = checker.health("openai")
        assert health.state == "unhealthy"
        assert health.open_breakers == ("a-model",)
        assert health.failed_share is not None
        assert health.failed_share >= 0.5
        assert health.reasons[-1] == "the breaker of a-model is open"
        assert {name: one.state for name, one in checker.report().items()} == {
            "openai": "unhealthy",
            "groq": "healthy",
        }


def test_what_our_own_gate_refuses_says_nothing_of_a_provider() -> None:
    checker = HealthChecker()
    for kind in ("breaker_open", "shed", "actor_lost", "provider_failed", "retry_budget", "admission_too_late"):
        assert KINDS[kind].code in ("E3002", "E2001")
        for attempt in range(10):
            checker(
                AttemptEnded(
                    at_s=0.0,
                    call=1,
                    attempt=attempt,
                    provider="one",
                    model="m",
                    outcome="failed",
                    state="unsent",
                    kind=kind,
                    code=KINDS[kind].code,
                )
            )
    assert checker.health("one").state == "unknown"


def test_a_failed_check_or_actor_is_not_well_and_a_crash_is_doubtful() -> None:
    checker = HealthChecker()
    checker(HealthChanged(at_s=0.0, provider="one", is_healthy=False, reason="status 500"))
    checker(ActorRestarted(at_s=0.0, provider="two", deaths=4, failed=True))
    checker(ActorRestarted(at_s=0.0, provider="three", deaths=1, failed=False))
    checker(HealthChanged(at_s=0.0, provider="four", is_healthy=True))
    states = {name: (one.state, one.reasons) for name, one in checker.report().items()}
    assert states == {
        "one": ("unhealthy", ("its check failed: status 500",)),
        "two": ("unhealthy", ("its actor crashed too often and stays down",)),
        "three": ("degraded", ("its actor crashed 1 times",)),
        "four": ("healthy", ()),
    }


async def test_feedback_is_linked_to_the_reply_by_its_request_id(autojump_clock: MockClock) -> None:
    def with_id(request: Any) -> Any:
        head, body = whole("fine")
        return [head._replace(headers={**head.headers, "x-request-id": "r-1"}), body]  # type: ignore[union-attr]

    collector = FeedbackCollector()
    async with scripted_client(ScriptedTransport(with_id)) as client:
        reply = await client.chat().user("x").execute()
        collector.thumbs(reply, True)
        collector.correction(reply, "better", "it was too short")
    collector.rating("r-2", 4.5)
    collector.choice("r-2", 0)
    collector.choice(
        "r-2", 1, rejected_indices=[0, 2], latency_to_select_ms=0, candidate_hashes=["h"], ui_context={"a": 1}
    )
    collector.regenerate("r-2")
    collector.custom("r-2", {"any": 1}, where="mobile")
    assert reply.request_id == "r-1"
    assert collector.drain() == [
        Feedback(kind="thumbs", request_id="r-1", call=reply.call, value=True),
        Feedback(kind="correction", request_id="r-1", call=reply.call, value="better", comment="it was too short"),
        Feedback(kind="rating", request_id="r-2", value=4.5),
        Feedback(kind="choice", request_id="r-2", value=0),
        Feedback(
            kind="choice",
            request_id="r-2",
            value=1,
            metadata={  # by the specification's names
                "rejected_indices": [0, 2],
                "latency_to_select_ms": 0,
                "candidate_hashes": ["h"],
                "ui_context": {"a": 1},
            },
        ),
        Feedback(kind="regenerate", request_id="r-2"),
        Feedback(kind="custom", request_id="r-2", value={"any": 1}, metadata={"where": "mobile"}),
    ]
    assert collector.drain() == []


def test_feedback_beyond_the_bound_is_dropped_and_counted() -> None:
    collector = FeedbackCollector(most=2)
    for number in range(5):
        collector.rating(f"r-{number}", number)
    assert (collector.dropped, [one.request_id for one in collector.drain()]) == (3, ["r-3", "r-4"])


def test_feedback_that_cannot_be_delivered_harms_nothing_and_is_counted() -> None:
    def broken(feedback: Feedback) -> None:
        raise ZeroDivisionError

    collector = FeedbackCollector(broken)
    collector.thumbs("r-1", False)
    assert (collector.failures, len(collector)) == (1, 0)


def test_feedback_of_nothing_is_an_error() -> None:
    with pytest.raises(CallerError, match="a reply of a client, or of a request id"):
        FeedbackCollector().thumbs("", True)
    with pytest.raises(CallerError, match="a reply of a client, or of a request id"):
        FeedbackCollector().thumbs(ChatResponse(), True)


async def test_a_reply_without_any_id_of_its_provider_is_linked_by_its_call(autojump_clock: MockClock) -> None:
    def without_ids(request: Any) -> Any:
        head, body = whole("fine")
        return [head, body._replace(chunk=body.chunk.replace(b'"id": "c-1", ', b""))]  # type: ignore[union-attr]

    collector, sink = FeedbackCollector(), Recorder()
    async with scripted_client(ScriptedTransport(without_ids), sinks=(sink,)) as client:
        reply = await client.chat().user("x").execute()
        async with client.chat().user("x").stream() as events:
            async for _ in events:
                pass
    assert (reply.request_id, reply.response_id) == (None, None)
    collector.thumbs(reply, True)
    collector.thumbs(events.response(), True)
    assert [one.request_id for one in collector.drain()] == [f"{client.number}.1", f"{client.number}.2"]
    assert [record.call for record in sink.records if isinstance(record, CallEnded)] == [1, 2]


@pytest.mark.parametrize("with_content", [False, True])
async def test_feedback_told_to_the_client_is_a_record_for_every_sink_with_words_only_where_they_are_asked_for(
    autojump_clock: MockClock, with_content: bool
) -> None:
    sink, metrics = Recorder(), MetricsCollector(CollectorRegistry())
    logger, lines = logging.Logger("of this test"), []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    sinks = (sink, metrics, CallLogger(logger))
    async with scripted_client(ScriptedTransport(by_prompt), sinks=sinks, record_content=with_content) as client:
        reply = await client.chat().user("x").execute()
        collector = FeedbackCollector(client.tell)
        lines.clear()
        collector.thumbs(reply, False, "a secret word")
        collector.correction(reply, "a secret text")
        collector.choice(reply, 1, rejected_indices=[0], ui_context={"where": "a secret place"})
        collector.custom(reply, {"any": "secret"}, more="secret")
        assert (collector.failures, len(collector), client.tree().sink_failures) == (0, 0, 0)
    told = [record for record in sink.records if isinstance(record, FeedbackGiven)]
    assert [(one.kind, one.request_id, one.call) for one in told] == [
        (kind, "c-1", reply.call) for kind in ("thumbs", "correction", "choice", "custom")
    ]
    assert ("secret" in repr(told)) is with_content
    assert (told[0].value, told[2].value, told[2].metadata["rejected_indices"]) == (False, 1, [0])
    assert [json.loads(line)["event"] for line in lines] == ["FeedbackGiven"] * 4
    assert json.loads(lines[0])["call"] == reply.call
    assert "secret" not in repr(lines)
    page = metrics.exposition()[0]
    assert sample(page, "ailib_feedback_total", kind="thumbs", value="down") == 1
    assert sample(page, "ailib_feedback_total") == 4


async def test_feedback_without_a_sink_is_told_to_nobody(autojump_clock: MockClock) -> None:
    async with scripted_client(ScriptedTransport(by_prompt)) as client:
        FeedbackCollector(client.tell).thumbs(await client.chat().user("x").execute(), True)


def test_an_actor_that_was_restarted_has_new_breakers() -> None:
    checker, metrics = HealthChecker(), MetricsCollector(CollectorRegistry())
    at: Any = {"provider": "one", "origin": "https://one.example"}
    for sink in (checker, metrics.for_client(1)):
        sink(BreakerChanged(at_s=0.0, **at, of="m", state="open"))
        sink(BreakerChanged(at_s=0.0, **at, key_number=2, of="n", state="open"))
        sink(ActorRestarted(at_s=1.0, **at, deaths=1, failed=False))
    assert checker.health("one").open_breakers == ("n",)  # the other key's actor goes on, and so does its breaker
    page = metrics.exposition()[0].decode()
    assert 'ailib_breaker_state{key="1",of="m",origin="https://one.example",provider="one"} 0.0' in page
    assert 'ailib_breaker_state{key="2",of="n",origin="https://one.example",provider="one"} 2.0' in page


def test_one_key_that_is_served_again_does_not_hide_another_that_is_not() -> None:
    checker = HealthChecker()
    at: Any = {"provider": "one", "origin": "https://one.example"}
    checker(ActorRestarted(at_s=0.0, **at, deaths=4, failed=True))
    checker(ActorRestarted(at_s=1.0, **at, key_number=2, deaths=1, failed=False))
    assert checker.health("one").actor_failed


def test_a_provider_with_two_origins_is_unhealthy_where_both_checks_fail() -> None:
    checker, metrics = HealthChecker(), MetricsCollector(CollectorRegistry())
    for origin, state in (("https://one.example", "degraded"), ("https://two.example", "unhealthy")):
        for sink in (checker, metrics.for_client(1)):
            if state == "degraded":
                sink(HealthChanged(at_s=0.0, provider="p", origin="https://two.example", is_healthy=True))
            sink(HealthChanged(at_s=0.0, provider="p", origin=origin, is_healthy=False, reason="status 500"))
        assert checker.health("p").state == state
        assert checker.health("p").checked is (state == "degraded")
    page = metrics.exposition()[0].decode()
    assert page.count('ailib_provider_healthy{origin="https://') == 2


def test_checks_that_crashed_too_often_say_nothing_of_the_provider_any_more() -> None:
    checker, metrics = HealthChecker(), MetricsCollector(CollectorRegistry())
    at: Any = {"at_s": 0.0, "provider": "p", "origin": "https://p.example"}
    for sink in (checker, metrics.for_client(1)):
        sink(HealthChanged(**at, is_healthy=False, reason="status 500"))
        sink(ActorRestarted(**at, key_number=0, actor="health", deaths=4, failed=True))
    health = checker.health("p")
    assert (health.state, health.checked, health.actor_deaths, health.actor_failed) == ("unknown", None, 0, False)
    page = metrics.exposition()[0].decode()
    assert "ailib_provider_healthy{" not in page
    assert 'ailib_actor_restarts_total{actor="health",provider="p"} 1.0' in page


async def test_two_keys_and_two_origins_of_one_provider_have_a_breaker_series_each_and_no_key_is_shown(
    autojump_clock: MockClock,
) -> None:
    def down_for_one(request: WireRequest) -> Any:
        return refused(500) if "key-one" in str(request.headers) else echo(request)

    model, elsewhere = "openai/a-model", "https://elsewhere.example/v1"
    endpoints = [
        Endpoint(name="one", model=model, api_key="key-one"),
        Endpoint(name="two", model=model, api_key="key-two"),
        Endpoint(name="three", model=model, api_key="key-two", base_url=elsewhere),
    ]
    metrics, checker, records = MetricsCollector(CollectorRegistry()), HealthChecker(), Recorder()
    resilience = Resilience(max_attempts=1, breaker=BreakerRules(failures=3))
    settings: Any = {"router": ModelArray("all", endpoints), "resilience": resilience}
    block = scripted_client(ScriptedTransport(down_for_one), sinks=(metrics, checker, records), **settings)
    async with block as client:
        for _ in range(24):
            await client.chat().user("x").model("@all").execute()
        numbers = {(actor.origin, actor.key_number) for actor in client.tree().actors}
        assert len(client.tree().actors) == len(numbers) == 3
        assert sorted(number for _, number in numbers) == [1, 1, 2]
        assert "(key 2)" in str(client.tree())
        (broken,) = [actor for actor in client.tree().actors if actor.gate is not None and actor.gate.breakers]
    opened = [one for one in records.records if isinstance(one, BreakerChanged) and one.state == "open"]
    assert [(one.origin, one.key_number) for one in opened] == [(broken.origin, broken.key_number)]
    page = metrics.exposition()[0].decode()
    states = [line for line in page.splitlines() if line.startswith("ailib_breaker_state{")]
    assert len(states) == 1
    assert f'key="{broken.key_number}",of="a-model",origin="{broken.origin}",provider="openai"' in states[0]
    assert "key-one" not in page + repr(records.records)
    assert "key-two" not in page + repr(records.records)


def test_ten_thousand_origins_do_not_make_ten_thousand_series() -> None:
    metrics = MetricsCollector(CollectorRegistry(), max_origins=5)
    sink = metrics.for_client(1)
    for number in range(10_000):
        at: Any = {"at_s": 0.0, "provider": "p", "origin": f"http://127.0.0.1:{number}"}
        sink(BreakerChanged(**at, of="m", state="open"))
        sink(HealthChanged(**at, is_healthy=True))
    page = metrics.exposition()[0].decode()
    assert page.count("ailib_breaker_state{") + page.count("ailib_provider_healthy{") <= 2 * 6
    assert 'ailib_breaker_state{key="other",of="m",origin="other",provider="p"} 2.0' in page


async def test_a_breaker_of_an_actor_that_was_replaced_is_told_closed(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    records = Recorder()
    manifest = acme(tmp_path, "{}")
    config = Config(
        transport=ScriptedTransport(lambda request: refused(500)),
        environ={"ACME_API_KEY": "k"},
        sinks=(records,),
        resilience=Resilience(max_attempts=1, breaker=BreakerRules(failures=1)),
    )
    async with open_client("acme/m", manifests=manifest, config=config) as client:
        with pytest.raises(AiLibError):
            await client.chat().user("x").execute()
        (slot,) = client._supervisor.slots.values()
        client._supervisor.retire(slot)  # as where its manifest changed
        await wait_all_tasks_blocked()
        assert client.tree().actors == ()
    told = [(one.of, one.state) for one in records.records if isinstance(one, BreakerChanged)]
    assert told == [("m", "open"), ("m", "closed")]
