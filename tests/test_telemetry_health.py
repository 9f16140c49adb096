"""What health is told by records, and feedback as a program hands it over."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from trio.testing import MockClock

from ai_lib_trio import AiLibError, BreakerRules, CallerError, ChatResponse, Resilience
from ai_lib_trio.telemetry import CallLogger, Feedback, FeedbackCollector, HealthChecker, MetricsCollector
from ai_lib_trio.testing import ScriptedTransport
from ai_lib_trio.types.records import ActorRestarted, BreakerChanged, CallEnded, FeedbackGiven, HealthChanged
from client_support import OTHER_MODEL, Recorder, prompt_of, refused, scripted_client, whole
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
    for sink in (checker, metrics.for_client(1)):
        sink(BreakerChanged(at_s=0.0, provider="one", of="m", state="open"))
        sink(ActorRestarted(at_s=1.0, provider="one", deaths=1, failed=False))
    assert checker.health("one").open_breakers == ()
    assert b'ailib_breaker_state{of="m",provider="one"} 0.0' in metrics.exposition()[0]
