"""Resilience on the client's path: one set of policies for `execute()` and `stream()`, on a scripted wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from ai_lib_trio import AiClient, AiLibError, CallerError, Config, Rerouted, open_client
from ai_lib_trio.errors import TransportError
from ai_lib_trio.resilience.budget import BudgetRules
from ai_lib_trio.resilience.circuit_breaker import BreakerRules
from ai_lib_trio.resilience.executor import Resilience
from ai_lib_trio.service import Timeouts
from ai_lib_trio.testing import Data, Fail, Head, Quiescence, ScriptedTransport, Sending, Stall, Step, Wait
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.types.message import Base64Source, ImageBlock, TextBlock
from ai_lib_trio.types.stats import CallStats
from client_support import (
    KEYS,
    MODEL,
    OTHER_MODEL,
    SSE,
    Recorder,
    asked_to_stream,
    delta,
    finish,
    frame,
    refused,
    streamed,
    usage_chunk,
    whole,
)

PLAIN = Resilience(jitter="none", min_delay_s=1.0, max_delay_s=30.0)
PRICED = "openai/gpt-4o-mini"
OTHER_PRICED = "openai/gpt-4o"


def client_on(transport: Any, model: str = MODEL, **settings: Any) -> Any:
    settings.setdefault("resilience", PLAIN)
    fallbacks = settings.pop("fallbacks", ())
    return open_client(model, fallbacks=fallbacks, config=Config(transport=transport, environ=KEYS, **settings))


def reply(text: str) -> Callable[[WireRequest], Sequence[Step]]:
    """The text, streamed in two pieces where a stream was asked for."""
    return lambda request: streamed(text[:2], text[2:]) if asked_to_stream(request) else whole(text)


def by_model(**scripts: Any) -> Callable[[WireRequest], Sequence[Step]]:
    """A script for each model, by its name on the wire with `-` and `.` as `_`. A list is given in turns."""

    def choose(request: WireRequest) -> Sequence[Step]:
        name = json.loads(request.body)["model"].replace("-", "_").replace(".", "_").replace("/", "_")
        script = scripts[name]
        if isinstance(script, Turns):
            script = script.take()
        return script(request) if callable(script) else script

    return choose


class Turns:
    def __init__(self, *scripts: Any) -> None:
        self.scripts = list(scripts)

    def take(self) -> Any:
        return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]


async def ask(chat: Any, *, streams: bool) -> tuple[str, list[Any], CallStats]:
    """The reply's text, the events of a stream, and the stats."""
    if not streams:
        answer, stats = await chat.execute_with_stats()
        return answer.content, [], stats
    async with chat.stream() as stream:
        events = [event async for event in stream]
    return stream.response().content, events, stream.stats


async def fails(chat: Any, *, streams: bool) -> AiLibError:
    with pytest.raises(AiLibError) as caught:
        await ask(chat, streams=streams)
    return caught.value


both = pytest.mark.parametrize("streams", [False, True])


# ---- retry


@both
async def test_the_manifests_policy_retries_by_itself(
    quiescence: Quiescence, autojump_clock: MockClock, streams: bool
) -> None:
    transport = ScriptedTransport(refused(503), [Fail(TransportError("no", kind="connect"))], reply("fine"))
    async with client_on(transport) as client:
        text, _, stats = await ask(client.chat().user("x"), streams=streams)
    assert text == "fine"
    assert [asked.started_at for asked in transport.asked] == [0.0, 1.0, 3.0]
    assert [(one.state, one.verdict, one.outcome) for one in stats.attempts] == [
        ("refused", "retried", "failed"),
        ("unsent", "retried", "failed"),
        ("complete", "won", "ok"),
    ]


@both
async def test_a_hint_is_kept_and_one_beyond_the_cap_ends_the_attempts(
    quiescence: Quiescence, autojump_clock: MockClock, streams: bool
) -> None:
    transport = ScriptedTransport(
        refused(429, headers={"retry-after": "7"}), reply("fine"), refused(429, headers={"retry-after": "3600"})
    )
    async with client_on(transport) as client:
        await ask(client.chat().user("x"), streams=streams)
        assert [asked.started_at for asked in transport.asked] == [0.0, 7.0]
        error = await fails(client.chat().user("x"), streams=streams)
        assert (error.code, error.retry_after_s, len(transport.asked), trio.current_time()) == ("E2001", 3600, 3, 7.0)


@both
async def test_the_callers_own_terms_come_first(
    quiescence: Quiescence, autojump_clock: MockClock, streams: bool
) -> None:
    transport = ScriptedTransport(refused(503))
    async with client_on(transport) as client:
        await fails(client.chat().user("x").retry(max_attempts=1), streams=streams)
        assert len(transport.asked) == 1
        await fails(
            client.chat().user("x").retry(max_attempts=3, strategy="fixed_delay", min_delay_s=5), streams=streams
        )
        assert [asked.started_at for asked in transport.asked[1:]] == [0.0, 5.0, 10.0]
        await fails(client.chat().user("x").retry(strategy="none"), streams=streams)
        assert len(transport.asked) == 5


async def test_silence_is_retried_as_often_as_the_caller_allows(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport([Sending(), Fail(TransportError("gone", kind="reset"))])
    async with client_on(transport) as client:
        error = await fails(client.chat().user("x"), streams=True)
        assert [one.billed for one in error.attempts] == ["unknown", "unknown"]
        await fails(client.chat().user("x").retry(silent=0), streams=True)
        assert len(transport.asked) == 3


CUT = [Head(200, SSE), Data(frame(delta("one "))), Fail(TransportError("gone", kind="reset"))]


async def test_after_output_nothing_is_retried_unless_the_caller_says_so(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(CUT, CUT, reply("one two"))
    async with client_on(transport) as client:
        error = await fails(client.chat().user("x"), streams=True)
        assert (error.kind, error.attempts[0].state, len(transport.asked)) == ("reset", "partial", 1)
        text, events, _ = await ask(client.chat().user("x").retry(partial=True), streams=True)
        assert text == "one two"
        assert [event.discard for event in events if isinstance(event, Rerouted)] == [True]


async def test_a_deadline_bounds_attempts_and_pauses(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    transport = ScriptedTransport([Wait(2), *refused(503)])
    async with client_on(transport) as client:
        for streams in (False, True):
            began = trio.current_time()
            await fails(client.chat().user("x").deadline(7.5), streams=streams)
            assert trio.current_time() - began <= 7.5
            assert all(asked.started_at - began < 7.5 for asked in transport.asked[-2:])


async def test_a_provider_that_is_down_is_not_stormed_by_retries(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(refused(503))
    settings = PLAIN.over(Resilience(breaker="off", retry_budget=BudgetRules(reserve=5, per_call=0.1, per_second=0)))
    async with client_on(transport, resilience=settings) as client, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(lambda: fails(client.chat().user("x"), streams=False))
    assert len(transport.asked) <= 50 + 5 + 5


async def test_pauses_are_drawn_from_the_seed_and_the_calls_number(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    times = []
    for seed in (1, 1, 2):
        began = trio.current_time()
        transport = ScriptedTransport(refused(503))
        async with client_on(transport, seed=seed, resilience=Resilience(min_delay_s=1)) as client:
            await fails(client.chat().user("x"), streams=False)
        times.append([round(asked.started_at - began, 6) for asked in transport.asked])
    assert times[0] == times[1] != times[2]


# ---- fallback


@both
async def test_a_chain_goes_to_the_next_provider_with_its_own_key_and_model(
    quiescence: Quiescence, autojump_clock: MockClock, streams: bool
) -> None:
    transport = ScriptedTransport(by_model(a_model=refused(401), another_model=reply("fine")))
    async with client_on(transport, fallbacks=(OTHER_MODEL,)) as client:
        text, events, stats = await ask(client.chat().user("x"), streams=streams)
    assert text == "fine"
    assert stats.model == OTHER_MODEL
    first, second = transport.asked
    assert first.origin != second.origin
    keys = [dict(asked.request.headers).get("authorization") for asked in transport.asked]
    assert keys == ["Bearer test-key-one", "Bearer test-key-two"]
    if streams:
        assert events[0] == Rerouted(MODEL, OTHER_MODEL, "E1002 provider")


@both
async def test_every_way_to_name_fallbacks_leads_to_the_same_chain(
    quiescence: Quiescence, autojump_clock: MockClock, streams: bool
) -> None:
    def transport() -> ScriptedTransport:
        return ScriptedTransport(by_model(a_model=refused(503), another_model=reply("fine")))

    settings: dict[str, Any] = {"environ": KEYS, "resilience": Resilience(max_attempts=1)}
    async with client_on(transport()) as client:
        chat = client.chat().user("x").retry(max_attempts=1)
        assert (await ask(chat.fallback(OTHER_MODEL), streams=streams))[0] == "fine"
        chain = client.fallback(chat, models=[MODEL, OTHER_MODEL])
        assert (await ask(chain, streams=streams))[0] == "fine"
    build = AiClient.builder().model(MODEL).fallbacks(OTHER_MODEL).config(transport=transport(), **settings)
    async with build.build() as client:
        assert (await ask(client.chat().user("x"), streams=streams))[0] == "fine"


@both
async def test_codes_that_the_caller_adds_lead_on_too(
    quiescence: Quiescence, autojump_clock: MockClock, streams: bool
) -> None:
    transport = ScriptedTransport(by_model(a_model=refused(404), another_model=reply("fine")))
    async with client_on(transport) as client:
        chat = client.chat().user("x")
        assert (await fails(chat.fallback(OTHER_MODEL), streams=streams)).code == "E1004"
        assert (await ask(chat.fallback(OTHER_MODEL, on=["E1004"]), streams=streams))[0] == "fine"


async def test_a_chain_of_unknown_models_codes_or_policies_is_refused_where_it_is_written(
    quiescence: Quiescence,
) -> None:
    async with client_on(ScriptedTransport(reply("x"))) as client:
        chat = client.chat().user("x")
        for wrong in (
            lambda: chat.fallback("nobody/knows"),
            lambda: chat.fallback(OTHER_MODEL, on=["E42"]),
            lambda: chat.fallback(OTHER_MODEL, mid_stream="perhaps"),
            lambda: client.race(chat, models=["nobody/knows"]),
            lambda: client.race(chat, models=[]),
            lambda: client.race(chat, models="openai/a-model"),
            lambda: client.quorum(chat, models=[MODEL], k=2),
            lambda: client.hedge(chat, models=[MODEL], after="soon"),
            lambda: client.hedge(chat, models=[MODEL], after=-1.0),
            lambda: chat.retry(max_attempts=0),
            lambda: chat.retry(jitter="some"),
            lambda: client.fallback(chat, models=[]),
        ):
            with pytest.raises(CallerError):
                wrong()


@pytest.mark.parametrize("fallbacks", ["openai/a-model", ["nobody/knows"], [OTHER_MODEL, "@fast"]])
async def test_a_clients_unknown_fallbacks_are_refused_when_it_opens_and_not_when_they_are_needed(
    quiescence: Quiescence, fallbacks: Any
) -> None:
    with pytest.raises(CallerError):
        async with open_client(MODEL, fallbacks=fallbacks, config=Config(environ=KEYS)):
            raise AssertionError("it opened")


NAN = float("nan")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Resilience(max_attempts=2.5),  # type: ignore[arg-type]
        lambda: Resilience(min_delay_s=NAN),
        lambda: Resilience(requests_per_minute=NAN),
        lambda: Resilience(max_inflight=True),
        lambda: Resilience(tenants={"a": float("inf")}),
        lambda: Resilience(providers={"openai": Resilience(providers={})}),
        lambda: BreakerRules(probes=0),
        lambda: BreakerRules(failures=0),
        lambda: BreakerRules(window_s=0.0),
        lambda: BreakerRules(slow_call_s=NAN),
        lambda: BudgetRules(reserve=-1.0),
        lambda: BudgetRules(per_call=NAN),
        lambda: Timeouts(first_byte_s=NAN),
        lambda: Timeouts(idle_s=-1.0),
        lambda: Config(shutdown_grace_s=NAN),
        lambda: Config(reload_manifests_s=-1.0),
        lambda: Config(max_reply_bytes=0),
        lambda: Config(transport="nativ"),  # type: ignore[arg-type]
        lambda: Config(gates="enforced"),  # type: ignore[arg-type]
        lambda: Config(on_actor_failure="ignore"),  # type: ignore[arg-type]
    ],
)
def test_a_setting_that_would_wedge_or_mean_nothing_is_refused_where_it_is_written(wrong: Any) -> None:
    with pytest.raises(CallerError) as caught:
        wrong()
    assert caught.value.kind == "bad_argument"


async def test_a_fallback_without_a_key_is_passed_over_and_the_stats_say_so(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(by_model(a_model=refused(503), another_model=reply("fine")))
    async with client_on(transport) as client:
        chat = client.chat().user("x").retry(max_attempts=1).fallback("anthropic/claude-x", OTHER_MODEL)
        text, _, stats = await ask(chat, streams=False)
    assert (text, [one.model for one in stats.skipped]) == ("fine", ["anthropic/claude-x"])


@both
async def test_restart_gives_the_answer_from_the_start_after_voiding_what_came(
    quiescence: Quiescence, autojump_clock: MockClock, streams: bool
) -> None:
    transport = ScriptedTransport(by_model(a_model=CUT, another_model=reply("one two")))
    async with client_on(transport) as client:
        chat = client.chat().user("x").fallback(OTHER_MODEL, mid_stream="restart")
        if not streams:
            return
        text, events, stats = await ask(chat, streams=True)
        assert text == "one two"
        assert [event.discard for event in events if isinstance(event, Rerouted)] == [True]
        assert [one.verdict for one in stats.attempts] == ["replaced", "won"]
        error = await fails(client.chat().user("x").fallback(OTHER_MODEL), streams=True)
        assert error.kind == "reset"


STORY = "The sky is blue: air scatters short waves more than long ones. 日本の空も青い。"


def going_on(request: WireRequest) -> Sequence[Step]:
    """A model that goes on from the assistant's message that ends the request, if one does."""
    last = json.loads(request.body)["messages"][-1]
    said = last["content"] if last["role"] == "assistant" else ""
    assert STORY.startswith(said)
    rest = STORY[len(said) :]
    return streamed(*(rest[at : at + 9] for at in range(0, len(rest), 9)))


def cut_at(offset: int) -> list[Step]:
    pieces = [STORY[at : at + 6] for at in range(0, len(STORY), 6)]
    body = b"".join(step.chunk for step in streamed(*pieces) if isinstance(step, Data))
    return [Head(200, SSE), Data(body[:offset]), Fail(TransportError("gone", kind="reset"))]


WHOLE_BODY = sum(len(step.chunk) for step in cut_at(10**6) if isinstance(step, Data))


@pytest.mark.parametrize("policy", ["restart", "continue"])
async def test_a_stream_cut_at_any_byte_ends_with_the_whole_text_once(
    quiescence: Quiescence, autojump_clock: MockClock, policy: str
) -> None:
    offset = 0
    transport = ScriptedTransport(by_model(a_model=lambda request: cut_at(offset), another_model=going_on))
    settings = Resilience(max_attempts=1, breaker="off", can_continue=(OTHER_MODEL,))
    async with client_on(transport, resilience=settings) as client:
        chat = client.chat().user("why?").fallback(OTHER_MODEL, mid_stream=policy)
        for at in range(0, WHOLE_BODY + 1, 3 if policy == "restart" else 1):
            offset = at
            text, events, stats = await ask(chat, streams=True)
            assert text == STORY
            seen = ""
            for event in events:  # what a caller who prints has on the screen
                if isinstance(event, Rerouted) and event.discard:
                    seen = ""
                seen += getattr(event, "content", "")
            assert seen == STORY
            assert len(stats.attempts) <= 2


async def test_a_model_that_nobody_declares_to_go_on_is_not_asked_to(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(by_model(a_model=cut_at(400), another_model=going_on))
    async with client_on(transport) as client:
        undeclared = "openai/another-model"  # neither the model nor its provider is declared to go on
        assert not client._catalog.provider("openai").capabilities.feature_flags.get("assistant_prefill")
        error = await fails(client.chat().user("x").fallback(undeclared, mid_stream="continue"), streams=True)
        assert (error.kind, len(transport.asked)) == ("reset", 1)


# ---- limits, breakers, queues


def limited(remaining: int, reset: str) -> dict[str, str]:
    return {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": reset,
    }


@both
async def test_limits_are_learnt_from_replies_and_kept_before_the_next_request(
    quiescence: Quiescence, autojump_clock: MockClock, streams: bool
) -> None:
    def with_limits(request: WireRequest) -> Sequence[Step]:
        head, *rest = reply("fine")(request)
        assert isinstance(head, Head)
        return [Head(200, {**head.headers, **limited(0, "2m0s")}), *rest]

    transport = ScriptedTransport(with_limits)
    async with client_on(transport) as client:
        await ask(client.chat().user("x"), streams=streams)
        limits = client.tree().actors[0].gate.limits
        assert [(one.scope, one.of, one.source, one.level) for one in limits] == [("a-model", "requests", "headers", 0)]
        assert "requests left for a-model: 0 of 60 (headers)" in str(client.tree())
        error = await fails(client.chat().user("x").deadline(1.5), streams=streams)
        assert (error.kind, error.code, error.retry_after_s, trio.current_time()) == (
            "admission_too_late",
            "E2001",
            2.0,
            0.0,
        )
        assert error.attempts[0].state == "unsent"
        await ask(client.chat().user("x").deadline(10), streams=streams)
        assert transport.asked[1].started_at == 2.0  # sixty in two minutes
        await ask(client.chat().user("x").model("openai/unlimited"), streams=streams)
        assert transport.asked[2].started_at == 2.0  # this provider's limits are by model


async def test_limits_of_the_callers_own_hold_every_task_of_the_client(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(reply("fine"))
    settings = Resilience(requests_per_minute=6)
    async with client_on(transport, resilience=settings) as client, trio.open_nursery() as nursery:
        for _ in range(366):
            nursery.start_soon(lambda: client.chat().user("x").deadline(7200).execute())
    starts = sorted(asked.started_at for asked in transport.asked)
    assert len(starts) == 366
    assert starts[5] == 0.0
    assert starts[-1] == pytest.approx(3600.0)


async def test_a_breaker_opens_by_model_shows_in_the_tree_and_tells_sinks(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    sink = Recorder()
    transport = ScriptedTransport(by_model(a_model=refused(500), well=reply("fine")))
    async with client_on(transport, resilience=Resilience(max_attempts=1), sinks=(sink,)) as client:
        for _ in range(5):
            await fails(client.chat().user("x"), streams=False)
        for streams in (False, True):
            error = await fails(client.chat().user("x"), streams=streams)
            assert (error.kind, error.retry_after_s) == ("breaker_open", 30.0)
        assert len(transport.asked) == 5
        assert (await ask(client.chat().user("x").model("openai/well"), streams=False))[0] == "fine"
        assert "breaker of a-model open" in str(client.tree())
        msgspec.json.encode(client.tree())
        await trio.sleep(30)
        await fails(client.chat().user("x"), streams=False)
        assert len(transport.asked) == 7
    states = [(one.of, one.state) for one in sink.records if type(one).__name__ == "BreakerChanged"]
    assert states == [("a-model", "open"), ("a-model", "half_open"), ("a-model", "open")]


async def test_a_breaker_that_opens_during_retries_gives_the_failure_that_opened_it(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(refused(500))
    settings = PLAIN.over(Resilience(breaker=BreakerRules(failures=2)))
    async with client_on(transport, resilience=settings) as client:
        error = await fails(client.chat().user("x"), streams=False)
    assert (error.status, [one.kind for one in error.attempts]) == (500, ["provider", "provider", "breaker_open"])


async def test_tenants_share_by_weight_and_one_that_floods_delays_another_by_one_call_at_most(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(lambda request: [Wait(1.0), *reply("fine")(request)])
    done: list[str] = []
    settings = Resilience(max_inflight=1, tenants={"heavy": 3.0})
    async with client_on(transport, resilience=settings) as client:

        async def call(tenant: str) -> None:
            await client.chat().user("x").tenant(tenant).execute()
            done.append(tenant)

        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(call, "heavy")
            for _ in range(60):
                nursery.start_soon(call, "light")
            await trio.sleep(40.5)
            assert client.tree().actors[0].gate.queued_by_tenant.keys() == {"heavy", "light"}
            assert 27 <= done.count("heavy") <= 33
            late = len(done)
            nursery.start_soon(call, "late")
            await trio.sleep(2.0)
            assert "late" in done[late : late + 2]
            nursery.cancel_scope.cancel()


async def test_told_to_shed_nobody_waits(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(lambda request: [Wait(1.0), *reply("fine")(request)])
    settings = Resilience(max_inflight=1, when_full="shed", max_attempts=1)
    kinds: list[str] = []
    async with client_on(transport, resilience=settings) as client, trio.open_nursery() as nursery:

        async def call() -> None:
            try:
                await client.chat().user("x").execute()
                kinds.append("ok")
            except AiLibError as exc:
                kinds.append(exc.kind)

        for _ in range(3):
            nursery.start_soon(call)
    assert sorted(kinds) == ["ok", "shed", "shed"]
    assert trio.current_time() == 1.0


async def test_the_environment_and_the_builder_set_what_code_leaves_open(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    for environ, own, expected in (
        ({"AI_LIB_MAX_ATTEMPTS": "2"}, {}, 2),
        ({"AI_LIB_MAX_ATTEMPTS": "2"}, {"max_attempts": 3}, 3),
        ({}, {"providers": {"openai": Resilience(max_attempts=1)}, "max_attempts": 3}, 1),
        ({}, {}, 4),
    ):
        transport = ScriptedTransport(refused(503))
        build = (
            AiClient.builder().model(MODEL).resilience(**own).config(transport=transport, environ={**KEYS, **environ})
        )
        async with build.build() as client:
            await fails(client.chat().user("x"), streams=False)
        assert len(transport.asked) == expected
    with pytest.raises(CallerError, match="no setting"):
        AiClient.builder().resilience(max_tries=3)
    with pytest.raises(CallerError, match="AI_LIB_MAX_ATTEMPTS"):
        async with open_client(MODEL, config=Config(environ={"AI_LIB_MAX_ATTEMPTS": "many"})):
            pass


async def test_a_reply_that_trickles_is_ended_by_its_own_name(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    slow = [Head(200, SSE)]
    for _ in range(100):
        slow += [Wait(4.0), Data(frame(delta("x")))]
    transport = ScriptedTransport(slow)
    async with client_on(transport) as client:
        chat = client.chat().user("x").timeouts(min_bytes_per_s=1000)
        error = await fails(chat, streams=True)
        assert (error.kind, error.code, trio.current_time()) == ("throughput_timeout", "E3003", 14.0)
        began = trio.current_time()
        await fails(client.chat().user("x").timeouts(min_bytes_per_s=10).deadline(60), streams=True)
        assert trio.current_time() - began == 60


# ---- preflight


def picture() -> list[Any]:
    return [TextBlock(text="what is this?"), ImageBlock(source=Base64Source("image/png", "aGk="))]


async def test_a_target_that_lacks_what_the_request_needs_is_passed_over(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(reply("a cat"))
    config = Config(transport=transport, environ={**KEYS, "DEEPSEEK_API_KEY": "k"}, resilience=PLAIN)
    async with open_client("deepseek/deepseek-chat", config=config) as client:
        chat = client.chat().user(picture())
        error = await fails(chat, streams=False)
        assert (error.kind, error.code, transport.asked) == ("capability", "E1005", [])
        text, _, stats = await ask(chat.fallback(PRICED), streams=False)
        assert (text, stats.model, [one.model for one in stats.skipped]) == (
            "a cat",
            PRICED,
            ["deepseek/deepseek-chat"],
        )
        seen = await chat.preflight()
        assert not seen.would_send
        assert [check.name for check in seen.checks if check.verdict == "refuse"] == ["vision"]


@pytest.mark.parametrize(("gates", "sends"), [("enforce", False), ("warn", True), ("off", True)])
async def test_gates_refuse_warn_or_say_nothing(quiescence: Quiescence, gates: Any, sends: bool) -> None:
    transport = ScriptedTransport(reply("a cat"))
    environ = {**KEYS, "DEEPSEEK_API_KEY": "k"}
    config = Config(transport=transport, environ=environ, gates=gates)
    async with open_client("deepseek/deepseek-chat", config=config) as client:
        chat = client.chat().user(picture())
        if not sends:
            assert (await fails(chat, streams=False)).kind == "capability"
            return
        _, _, stats = await ask(chat, streams=False)
        assert bool(stats.warnings) == (gates == "warn")


async def test_preflight_alone_says_what_would_happen_and_sends_nothing(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(reply("fine"))
    async with client_on(transport, PRICED, resilience=Resilience(requests_per_minute=1)) as client:
        chat = client.chat().user("x" * 400).max_tokens(100)
        seen = await chat.preflight()
        assert (seen.would_send, seen.input_tokens, seen.output_bound, seen.wait_s) == (True, 104, 100, 0.0)
        assert seen.cost_bound is not None
        assert transport.asked == []
        await chat.execute()
        assert (await chat.preflight()).wait_s == 60.0
        late = await chat.deadline(5).preflight()
        assert [check.kind for check in late.checks if check.verdict == "refuse"] == ["admission_too_late"]


async def test_a_cost_cap_stops_what_might_exceed_it(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    transport = ScriptedTransport(reply("fine"))
    async with client_on(transport, PRICED) as client:
        chat = client.chat().user("x").max_tokens(1000)
        bound = (await chat.preflight()).cost_bound
        error = await fails(chat.cost_cap(bound / 2), streams=False)
        assert (error.kind, error.code, transport.asked) == ("cost_cap", "E2002", [])
        await ask(chat.cost_cap(bound), streams=False)
        race = client.race(chat.cost_cap(bound * 1.5), models=[PRICED, PRICED])
        await race.execute()
        assert [one.kind for one in race.members] == [None, "cost_cap"]


async def test_a_retry_counts_against_the_cost_cap_too(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    transport = ScriptedTransport([Sending(), Fail(TransportError("gone", kind="reset"))], reply("fine"))
    async with client_on(transport, PRICED) as client:
        chat = client.chat().user("x").max_tokens(1000)
        bound = (await chat.preflight()).cost_bound
        error = await fails(chat.cost_cap(bound * 1.5), streams=False)
        # What was sent and never answered may have cost all that it might: nothing is left for another.
        assert (error.kind, len(transport.asked), [one.billed for one in error.attempts]) == ("reset", 1, ["unknown"])
        refused_once = ScriptedTransport(refused(503), reply("fine"))
    async with client_on(refused_once, PRICED) as client:
        chat = client.chat().user("x").max_tokens(1000).cost_cap(bound)
        assert (await ask(chat, streams=True))[0] == "fine"  # a refusal cost nothing


# ---- the ledger


async def test_a_calls_cost_is_the_sum_of_its_attempts_each_marked(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    halfway = [Head(200, SSE), Data(frame(delta("x" * 40))), Fail(TransportError("gone", kind="reset"))]
    silent = [Sending(), Fail(TransportError("gone", kind="reset"))]
    transport = ScriptedTransport(refused(503), silent, halfway, streamed("fine"))
    async with client_on(transport, PRICED) as client:
        _, _, stats = await ask(client.chat().user("x" * 400).retry(partial=True), streams=True)
    assert [(one.billed, one.verdict) for one in stats.attempts] == [
        ("nothing", "retried"),
        ("unknown", "retried"),
        ("estimated", "retried"),
        ("reported", "won"),
    ]
    third = stats.attempts[2]
    assert third.usage is not None
    assert (third.usage.input_tokens, third.usage.output_tokens) == (104, 10)
    assert stats.billed == "unknown"
    assert stats.cost == pytest.approx(sum(one.cost or 0 for one in stats.attempts))
    assert stats.cost > stats.attempts[3].cost > 0  # type: ignore[operator]


# ---- race, hedge, quorum


def contest_transport() -> ScriptedTransport:
    return ScriptedTransport(
        by_model(
            slow=[Head(200, SSE), Wait(9), *streamed("slow")[1:]],
            fast=[Head(200, SSE), Wait(1), Data(frame(delta("fa"))), Wait(5), *streamed("st")[1:]],
            dead=refused(500),
            agrees=[Head(200, SSE), Wait(2), *streamed("fast.")[1:]],
        )
    )


RACE = ["openai/slow", "openai/fast", "openai/dead"]


async def test_a_race_closes_its_losers_when_the_winner_is_known(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = contest_transport()
    async with client_on(transport, resilience=Resilience(max_attempts=1)) as client:
        async with client.race(client.chat().user("x"), models=RACE) as race:
            async for event in race:
                if getattr(event, "content", None) == "fa":
                    await trio.sleep(0.1)  # the winner goes on; nobody else does
                    assert transport.open_exchanges == 1
                    assert race.winner is not None
                    assert race.winner.outcome == "won"
            assert race.response().content == "fast"
        assert race.winner.model == "openai/fast"
        assert [(one.model, one.outcome) for one in race.losers] == [("openai/slow", "lost"), ("openai/dead", "failed")]
        assert [one.billed for one in race.members] == ["unknown", "reported", "nothing"]
        assert len(race.stats.attempts) == 3
        assert race.stats.model == "openai/fast"
        assert client.tree().open_calls == 0


async def test_a_race_may_be_left_early_and_by_an_error_of_the_block(quiescence: Quiescence) -> None:
    transport = contest_transport()
    async with client_on(transport) as client:
        mine = KeyError("mine")
        with pytest.raises(KeyError) as caught:
            async with client.race(client.chat().user("x"), models=RACE):
                await trio.testing.wait_all_tasks_blocked()
                assert transport.open_exchanges >= 2
                raise mine
        assert caught.value is mine
        assert transport.open_exchanges == 0


async def test_what_a_callable_of_the_user_raises_comes_out_as_itself(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    mine = KeyError("mine")

    def until(reply: Any) -> bool:
        raise mine

    async with client_on(contest_transport()) as client:
        with pytest.raises(KeyError) as caught:
            await client.race(client.chat().user("x"), models=RACE, until=until).execute()
        assert caught.value is mine


async def test_first_complete_hedge_and_quorum_through_the_client(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = contest_transport()
    async with client_on(transport, resilience=Resilience(max_attempts=1)) as client:
        chat = client.chat().user("x")
        complete = client.race(chat, models=["openai/fast", "openai/agrees"], until="first_complete")
        assert (await complete.execute()).content == "fast."
        assert complete.stats.total_s == 2.0
        hedge = client.hedge(chat, models=["openai/slow", "openai/fast"], after=0.5)
        assert (await hedge.execute()).content == "fast"
        assert [one.outcome for one in hedge.members] == ["lost", "won"]
        began = trio.current_time()
        cold = client.hedge(chat, models=["openai/slow", "openai/fast"])
        await cold.execute()
        assert cold.stats.attempts[1].total_s == trio.current_time() - began - 2.0
        quorum = client.quorum(chat, models=["openai/fast", "openai/agrees", "openai/slow"], k=2)
        assert (await quorum.execute()).content == "fast."
        assert [one.outcome for one in quorum.members] == ["lost", "won", "lost"]
        none = client.quorum(chat, models=["openai/fast", "openai/slow"], k=2)
        with pytest.raises(AiLibError) as caught:
            await none.execute()
        assert (caught.value.kind, caught.value.code) == ("no_quorum", "E4001")
    assert transport.open_exchanges == 0


async def test_a_hedge_learns_its_percentile_from_recent_first_tokens(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    waits = iter([0.1 * n for n in range(1, 21)] + [60.0])
    transport = ScriptedTransport(
        by_model(one=lambda request: [Head(200, SSE), Wait(next(waits)), *streamed("one")[1:]], two=streamed("two"))
    )
    async with client_on(transport) as client:
        for _ in range(20):
            await ask(client.chat().user("x").model("openai/one"), streams=True)
        hedge = client.hedge(client.chat().user("x"), models=["openai/one", "openai/two"], after="p50")
        began = trio.current_time()
        assert (await hedge.execute()).content == "two"
        assert trio.current_time() - began == pytest.approx(1.1)


async def test_a_race_has_one_deadline_and_can_be_cancelled_by_a_token(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport([Sending(), Stall()])
    async with client_on(transport) as client:
        race = client.race(client.chat().user("x").deadline(3), models=RACE)
        with pytest.raises(AiLibError) as caught:
            await race.execute()
        assert (caught.value.kind, trio.current_time(), transport.open_exchanges) == ("deadline", 3.0, 0)
        assert [one.outcome for one in race.members] == ["cancelled"] * 3


# ---- left at any step, and the same every time


def chain_script() -> Callable[[WireRequest], Sequence[Step]]:
    return by_model(
        a_model=Turns(refused(503), [Fail(TransportError("no", kind="connect"))], refused(500), CUT),
        another_model=Turns(refused(429, headers={"retry-after": "2"}), reply("one two")),
        slow=[Head(200, SSE), Wait(9), *streamed("slow")[1:]],
        fast=[Head(200, SSE), Wait(1), *streamed("fast")[1:]],
    )


async def use_chain(client: AiClient) -> Any:
    chat = client.chat().user("x").retry(max_attempts=4).fallback(OTHER_MODEL, mid_stream="restart")
    stream = chat.stream()
    async with stream:
        async for _ in stream:
            pass
    return stream


async def use_race(client: AiClient) -> Any:
    race = client.race(client.chat().user("x"), models=["openai/slow", "openai/fast"])
    async with race:
        async for _ in race:
            pass
    return race


class AtTick(trio.abc.Instrument):
    def __init__(self, scope: trio.CancelScope, ticks: int) -> None:
        self.scope, self.left, self.has_fired = scope, ticks, False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.has_fired = True
            self.scope.cancel()


@pytest.mark.parametrize("use", [use_chain, use_race])
def test_cancelled_at_any_step_nothing_is_open_and_every_attempt_is_told(use: Any) -> None:
    async def at(ticks: int) -> bool:
        sink = Recorder()
        transport = ScriptedTransport(chain_script())
        async with client_on(transport, sinks=(sink,), resilience=PLAIN) as client:
            with trio.CancelScope() as scope:
                watch = AtTick(scope, ticks)
                trio.lowlevel.add_instrument(watch)
                try:
                    await use(client)
                finally:
                    trio.lowlevel.remove_instrument(watch)
                    assert transport.open_exchanges == 0
            tree = client.tree()
            assert all((actor.inflight, actor.queued, actor.bugs) == (0, 0, 0) for actor in tree.actors)
        names = sink.names()
        assert names.count("CallQueued") == names.count("AttemptEnded") >= len(transport.asked)
        assert names.count("CallStarted") == names.count("CallEnded")
        assert all(asked.ended is not None for asked in transport.asked)
        return watch.has_fired

    for ticks in range(1, 600):
        if not trio.run(at, ticks, clock=MockClock(autojump_threshold=0)):
            assert ticks > 30
            return
    raise AssertionError("it never came to its end")


def test_an_hour_of_rate_limiting_takes_no_time_and_is_the_same_every_run() -> None:
    async def main() -> list[str]:
        sink = Recorder()

        def script(request: WireRequest) -> Sequence[Step]:
            now = trio.current_time()
            if now % 420 == 180:
                return refused(429, headers={"retry-after": "20"})
            head, *rest = reply("fine")(request)
            assert isinstance(head, Head)
            left = max(0, 3 - int(now // 60) % 7)
            return [Head(200, {**head.headers, **limited(left, "60s")}), Wait(0.5), *rest]

        transport = ScriptedTransport(script)
        settings = Resilience(jitter="full")
        async with (
            client_on(transport, sinks=(sink,), seed=7, resilience=settings) as client,
            trio.open_nursery() as nursery,
        ):
            for _ in range(60):
                for _ in range(5):
                    nursery.start_soon(client.chat().user("x").deadline(600).execute)
                await trio.sleep(60)
        assert trio.current_time() >= 3600
        assert any(asked.started_at % 60 for asked in transport.asked)  # some had to wait for the limits
        order = sorted(sink.records, key=lambda one: (one.at_s, getattr(one, "call", 0)))
        return [repr(one) for one in order]

    runs = [trio.run(main, clock=MockClock(autojump_threshold=0)) for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]


def test_a_stream_of_ninety_six_megabytes_waits_for_a_consumer_that_sleeps() -> None:
    import tracemalloc

    piece = frame(delta("x" * 64_000))

    async def main() -> None:
        transport = ScriptedTransport(
            [Head(200, SSE), *[Data(piece)] * 1500, Data(frame(finish())), Data(frame("[DONE]"))]
        )
        async with client_on(transport) as client, client.chat().user("x").stream() as events:
            await events.__anext__()
            tracemalloc.start()
            await trio.testing.wait_all_tasks_blocked()
            before, _ = tracemalloc.get_traced_memory()
            await trio.sleep(3600)
            after, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert transport.asked[0].pushed <= 6 * len(piece)
            assert after - before < 2_000_000

    trio.run(main, clock=MockClock(autojump_threshold=0))


_ = usage_chunk
