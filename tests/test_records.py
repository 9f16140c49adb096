"""What sinks are told: every step once, whatever becomes of the call, and no word of it where nobody asked."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest
import trio
from prometheus_client import CollectorRegistry
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import (
    AdmissionError,
    AiClient,
    AiLibError,
    BreakerRules,
    CancelledByToken,
    CancelToken,
    Resilience,
    TransportError,
)
from ai_lib_trio.telemetry import MetricsCollector
from ai_lib_trio.testing import Fail, Quiescence, ScriptedTransport, Stall
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.types.records import AttemptEnded, CallContent, CallEnded, CallQueued, CallStarted, Record
from client_support import MODEL, OTHER_MODEL, Recorder, echo, prompt_of, refused, scripted_client, streamed, whole

PATIENT = Resilience(max_attempts=3, min_delay_s=1, max_delay_s=1, jitter="none", breaker="off")


def troubled(request: WireRequest) -> Any:
    """An answer, or what the prompt asks for."""
    prompt = prompt_of(request)
    if prompt == "refused":
        return refused(503)
    if prompt == "waits":
        return [Stall()]
    if prompt == "cut":
        return [*streamed("one", "two")[:2], Fail(TransportError("the connection was reset", kind="reset"))]
    return echo(request)


async def used(client: AiClient, use: Callable[[AiClient], Any]) -> None:
    try:
        await use(client)
    except AiLibError:
        return


async def whole_call(client: AiClient) -> None:
    await client.chat().user("hello").execute()


async def streamed_call(client: AiClient) -> None:
    async with client.chat().user("hello").stream() as events:
        async for _ in events:
            pass


async def refused_call(client: AiClient) -> None:
    await client.chat().user("refused").execute()


async def cut_call(client: AiClient) -> None:
    async with client.chat().user("cut").stream() as events:
        async for _ in events:
            pass


async def left_call(client: AiClient) -> None:
    with trio.move_on_after(5):
        await client.chat().user("waits").execute()


async def left_stream(client: AiClient) -> None:
    async with client.chat().user("hello").stream() as events:
        await events.__anext__()


async def token_call(client: AiClient) -> None:
    token = CancelToken()
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            with pytest.raises(CancelledByToken):
                await client.chat().user("waits").cancel_token(token).execute()

        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        token.cancel()


async def fallback_call(client: AiClient) -> None:
    await client.chat().user("refused").fallback(OTHER_MODEL).execute()


async def race_call(client: AiClient) -> None:
    await client.race(client.chat().user("hello"), models=[MODEL, OTHER_MODEL]).execute()


async def late_call(client: AiClient) -> None:
    await client.chat().user("waits").deadline(3).execute()


CASES = [
    (whole_call, "ok", None, 1),
    (streamed_call, "ok", None, 1),
    (refused_call, "failed", "provider", 3),
    (cut_call, "failed", "reset", 1),
    (left_call, "cancelled", None, 1),
    (left_stream, "cancelled", None, 1),
    (token_call, "failed", "cancel_token", 1),
    (fallback_call, "failed", "provider", 6),
    (race_call, "ok", None, 2),
    (late_call, "failed", "deadline", 1),
]


@pytest.mark.parametrize(("use", "outcome", "kind", "attempts"), CASES, ids=[case[0].__name__ for case in CASES])
async def test_every_call_and_every_attempt_end_once(
    use: Any, outcome: str, kind: str | None, attempts: int, quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    sink = Recorder()
    async with scripted_client(ScriptedTransport(troubled), sinks=(sink,), resilience=PATIENT) as client:
        await used(client, use)
    started = [record for record in sink.records if isinstance(record, CallStarted)]
    ended = [record for record in sink.records if isinstance(record, CallEnded)]
    assert len(started) == len(ended) == 1
    assert sink.records[0] is started[0]
    assert sink.records[-1] is ended[0]
    assert (ended[0].outcome, ended[0].kind, ended[0].attempts) == (outcome, kind, attempts)
    queued = Counter((one.call, one.attempt) for one in sink.records if isinstance(one, CallQueued))
    over = Counter((one.call, one.attempt) for one in sink.records if isinstance(one, AttemptEnded))
    assert queued == over == Counter({(1, number): 1 for number in range(1, attempts + 1)})


async def test_a_retried_call_tells_the_pause_and_then_another_attempt(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    sink = Recorder()
    replies = iter([refused(503), whole("fine")])
    transport = ScriptedTransport(lambda request: next(replies))
    async with scripted_client(transport, sinks=(sink,), resilience=PATIENT) as client:
        await client.chat().user("x").temperature(0.5).max_tokens(9).execute()
    steps = ["CallQueued", "CallAdmitted", "AttemptStarted"]
    assert sink.names() == [
        "CallStarted",
        *steps,
        "AttemptEnded",
        "CallRetried",
        *steps,
        "FirstToken",
        "EventBatch",
        "AttemptEnded",
        "CallEnded",
    ]
    start, retried, end = sink.records[0], sink.records[5], sink.records[-1]
    assert (start.temperature, start.max_tokens, start.stream, start.server) == (0.5, 9, False, "api.openai.com:443")
    assert (retried.attempt, retried.after_s, retried.model) == (1, 1.0, MODEL)
    assert (end.attempts, end.finish_reason, end.response_id, end.response_model) == (2, "end_turn", "c-1", "a-model-1")
    assert (end.usage.input_tokens, end.usage.output_tokens, end.usage.raw) == (3, 2, None)
    assert end.total_s == 1.0


async def test_a_rerouted_call_tells_from_where_to_where(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    sink = Recorder()

    def one_is_down(request: WireRequest) -> Any:
        return refused(503) if "api.openai" in request.url else echo(request)

    async with scripted_client(ScriptedTransport(one_is_down), sinks=(sink,)) as client:
        await client.chat().user("x").fallback(OTHER_MODEL).execute()
    (rerouted,) = [record for record in sink.records if type(record).__name__ == "CallRerouted"]
    assert (rerouted.from_model, rerouted.to_model) == (MODEL, OTHER_MODEL)
    assert sink.records[0].ref == MODEL
    assert sink.records[-1].ref == OTHER_MODEL


async def test_a_breaker_that_opens_is_told_and_a_call_it_refuses_ends_once(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    sink = Recorder()
    rules = Resilience(max_attempts=1, breaker=BreakerRules(failures=3))
    async with scripted_client(ScriptedTransport(troubled), sinks=(sink,), resilience=rules) as client:
        for _ in range(3):
            with pytest.raises(AiLibError):
                await client.chat().user("refused").execute()
        with pytest.raises(AdmissionError, match="failed too often"):
            await client.chat().user("refused").execute()
    assert [record.state for record in sink.records if type(record).__name__ == "BreakerChanged"] == ["open"]
    assert [record.kind for record in sink.records if isinstance(record, CallEnded)][-1] == "breaker_open"


async def test_a_call_that_is_open_when_the_client_closes_ends_once(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    sink = Recorder()
    block = scripted_client(ScriptedTransport(troubled), sinks=(sink,), shutdown_grace_s=0)
    async with trio.open_nursery() as nursery, block as client:

        async def run() -> None:
            with pytest.raises(AdmissionError):
                await client.chat().user("waits").execute()

        nursery.start_soon(run)
        await wait_all_tasks_blocked()
    assert sink.names().count("CallEnded") == sink.names().count("AttemptEnded") == 1


async def test_prompts_and_replies_are_told_only_where_the_user_asks_for_it(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    for asked in (False, True):
        sink = Recorder()
        async with scripted_client(ScriptedTransport(echo), sinks=(sink,), record_content=asked) as client:
            await client.chat().user("a secret").execute()
            async with client.chat().user("a secret").stream() as events:
                async for _ in events:
                    pass
        content = [record for record in sink.records if isinstance(record, CallContent)]
        assert len(content) == (2 if asked else 0)
        for record in content:
            assert "you said a secret" in repr(record.reply)
            assert "a secret" in repr(record.messages)
        others = [record for record in sink.records if not isinstance(record, CallContent)]
        assert "secret" not in repr(others)


async def test_records_are_frozen_and_become_json_and_back(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    sink = Recorder()
    async with scripted_client(ScriptedTransport(echo), sinks=(sink,)) as client:
        await whole_call(client)
    for record in sink.records:
        assert msgspec.json.decode(msgspec.json.encode(record), type=Record) == record
        with pytest.raises(AttributeError):
            record.at_s = 0.0


async def test_a_sink_for_several_clients_is_asked_for_one_of_each(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    seen: dict[int, list[Any]] = {}

    class Shared:
        def for_client(self, number: int) -> Any:
            return seen.setdefault(number, []).append

        def __call__(self, record: Any) -> None:
            raise AssertionError("a client asks for its own")

    shared = Shared()
    for _ in range(2):
        async with scripted_client(ScriptedTransport(echo), sinks=(shared,)) as client:
            await whole_call(client)
            assert client.tree().sink_failures == 0
            assert client.number in seen
    assert len(seen) == 2
    assert all(isinstance(records[-1], CallEnded) for records in seen.values())


async def test_without_a_sink_no_record_is_built(
    quiescence: Quiescence, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **fields: Any) -> None:
        raise AssertionError(fields)

    kinds = set(get_args(Record))
    patched = set()
    for name, module in list(sys.modules.items()):
        if name.startswith(("ai_lib_trio.actors", "ai_lib_trio.client", "ai_lib_trio.resilience")):
            for attribute, value in list(vars(module).items()):
                if isinstance(value, type) and value in kinds:
                    monkeypatch.setattr(module, attribute, refuse)
                    patched.add(attribute)
    assert {"CallRetried", "CallRerouted", "BreakerChanged", "CallEnded", "EventBatch"} <= patched
    rules = Resilience(max_attempts=2, min_delay_s=1, jitter="none", breaker=BreakerRules(failures=3))
    async with scripted_client(ScriptedTransport(troubled), resilience=rules, record_content=True) as client:
        for use in (whole_call, streamed_call, left_call, left_stream, race_call, fallback_call, refused_call):
            await used(client, use)
        assert client.stats() == {"calls": 7, "open": 0, "ok": 3, "failed": 2, "cancelled": 2}
        assert any(actor.gate is not None and actor.gate.breakers for actor in client.tree().actors)  # one opened
        assert [actor.crashes + actor.bugs for actor in client.tree().actors] == [0, 0]


async def test_a_sink_for_several_clients_may_be_added_for_a_while(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    collector = MetricsCollector(CollectorRegistry())
    async with scripted_client(ScriptedTransport(echo)) as client:
        await whole_call(client)
        with client.sink(collector):
            await whole_call(client)
        await whole_call(client)
        assert client.tree().sink_failures == 0
        assert not client._hooks.on
    assert b'ailib_calls_total{code="",model="a-model",outcome="ok",provider="openai"} 1.0' in collector.exposition()[0]


async def test_a_sink_that_was_added_twice_is_taken_away_once_at_a_time(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    sink = Recorder()
    async with scripted_client(ScriptedTransport(echo)) as client:
        with client.sink(sink):
            with client.sink(sink):
                pass
            await whole_call(client)
        assert "CallEnded" in sink.names()
        assert not client._hooks.on
