"""Routing: strategies as plain functions, and arrays on the way of real calls."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import (
    AdmissionError,
    AiLibError,
    BreakerRules,
    CallerError,
    Config,
    CredentialError,
    ImageBlock,
    Resilience,
    TextBlock,
    ToolDefinition,
    UrlSource,
    open_client,
)
from ai_lib_trio.protocol.registry import ModelFacts, Pricing
from ai_lib_trio.routing import (
    Asked,
    Candidate,
    Endpoint,
    ModelArray,
    Router,
    Strategy,
    best_quality,
    by,
    capable,
    cheapest,
    compose,
    fastest,
    least_busy,
    round_robin,
    weighted,
)
from ai_lib_trio.testing import Head, Quiescence, ScriptedTransport, Stall, Wait, quiescence
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.types.message import Message
from ai_lib_trio.types.request import Request
from client_support import KEYS, MODEL, OTHER_MODEL, asked_to_stream, echo, refused, scripted_client, streamed, whole
from test_health_checks import acme

__all__ = ["quiescence"]

ONCE = Resilience(max_attempts=1, breaker="off")


def asked(turn: int = 0, *, tokens: int = 100, seed: int = 0, **fields: Any) -> Asked:
    return Asked(Request(model="", **fields), turn, tokens, Random(seed))


def names(strategy: Strategy, candidates: Sequence[Candidate], one: Asked | None = None) -> str:
    return "".join(candidate.name for candidate in strategy(candidates, one or asked()))


def facts(name: str = "m", **fields: Any) -> ModelFacts:
    return ModelFacts(key=name, provider="p", model_id=name, display_name=name, **fields)


def costing(name: str, given: float | None, made: float | None, currency: str = "USD") -> Candidate:
    return Candidate(name, name, facts=facts(name, pricing=Pricing(given, made, currency=currency)))


PLAIN = [Candidate(name, name) for name in "abc"]


# ---- strategies by themselves


def test_round_robin_begins_at_the_next_one_each_time() -> None:
    assert [names(round_robin, PLAIN, asked(turn)) for turn in range(4)] == ["abc", "bca", "cab", "abc"]


def test_weighted_gives_each_its_share_and_weight_0_comes_last() -> None:
    candidates = [Candidate("a", "a", 3.0), Candidate("b", "b", 1.0), Candidate("c", "c", 0.0)]
    orders = [names(weighted, candidates, asked(seed=seed)) for seed in range(2000)]
    firsts = Counter(order[0] for order in orders)
    assert 0.70 < firsts["a"] / 2000 < 0.80
    assert all(order.endswith("c") for order in orders)
    assert names(weighted, candidates, asked(seed=7)) == names(weighted, candidates, asked(seed=7))


def test_cheapest_knows_what_the_request_costs_and_puts_unknown_prices_last() -> None:
    candidates = [Candidate("x", "x"), costing("r", 1.0, 100.0), costing("w", 10.0, 10.0)]
    assert names(cheapest, candidates, asked(tokens=1100, max_tokens=1000)) == "wrx"
    assert names(cheapest, candidates, asked(tokens=100_010, max_tokens=10)) == "rwx"


def test_prices_in_several_currencies_are_not_compared() -> None:
    candidates = [
        costing("c", 7.0, 7.0, "CNY"),
        costing("u", 2.0, 2.0),
        costing("d", 5.0, 5.0, "CNY"),
        costing("v", 1.0, 1.0),
    ]
    assert names(cheapest, candidates) == "dcvu"


def test_quality_latency_and_business_order_by_their_numbers() -> None:
    candidates = [
        Candidate("a", "a", quality=1, first_token_s=0.3, in_flight=4, weight=4),
        Candidate("b", "b", quality=3, first_token_s=0.1, in_flight=1, queued=1),
        Candidate("c", "c", quality=2, in_flight=9, weight=0),
    ]
    assert names(best_quality, candidates) == "bca"
    assert names(fastest, candidates) == "cba"  # what was never measured is measured by being asked
    assert names(least_busy, candidates) == "abc"
    assert names(by(lambda one: len(one.name)), candidates) == "abc"


def test_capable_leaves_out_what_is_known_to_be_unable() -> None:
    candidates = [
        Candidate("u", "u"),  # nobody registered it: it is tried
        Candidate("t", "t", facts=facts(capabilities=frozenset({"tools"}), context_window=1000)),
        Candidate("v", "v", facts=facts(capabilities=frozenset({"vision"}))),
        Candidate("n", "n", facts=facts(absent=frozenset({"tools"}))),
    ]
    tool = ToolDefinition("t", "d", {"type": "object"})
    image = (TextBlock("what?"), ImageBlock(UrlSource("https://example.com/a.png")))
    assert names(capable, candidates, asked()) == "utvn"
    assert names(capable, candidates, asked(tools=(tool,))) == "ut"
    assert names(capable, candidates, asked(tools=(tool,), tokens=5000)) == "u"
    assert names(capable, candidates, asked(messages=(Message.user(image),))) == "uvn"


def test_the_last_of_a_composition_has_the_last_word_and_those_before_break_ties() -> None:
    candidates = [Candidate("a", "a", quality=1), Candidate("b", "b", quality=2), Candidate("c", "c", quality=2)]
    both = compose(round_robin, best_quality)
    assert [names(both, candidates, asked(turn)) for turn in range(3)] == ["bca", "bca", "cba"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5), st.booleans()), max_size=8), st.integers(0, 99))
def test_every_strategy_gives_a_permutation_and_the_same_one_again(rows: list[Any], turn: int) -> None:
    candidates = [
        Candidate(str(number), "m", weight=weight, quality=quality, first_token_s=quality if is_known else None)
        for number, (weight, quality, is_known) in enumerate(rows)
    ]
    for strategy in (round_robin, weighted, cheapest, best_quality, fastest, least_busy, capable):
        one = list(strategy(candidates, asked(turn, seed=turn)))
        assert sorted(candidate.name for candidate in one) == sorted(candidate.name for candidate in candidates)
        assert one == list(strategy(candidates, asked(turn, seed=turn)))


# ---- arrays on the way of calls


class Places:
    """A transport that says which origin and key were asked."""

    def __init__(self, reply: Any = None) -> None:
        self.asked: list[tuple[str, str]] = []
        self.reply = reply

    def __call__(self, request: WireRequest) -> Any:
        key = dict(request.headers).get("authorization", "").removeprefix("Bearer ")
        self.asked.append((request.url.partition("://")[2].partition("/")[0], key))
        return echo(request) if self.reply is None else self.reply(request)

    def hosts(self) -> list[str]:
        return [host for host, _ in self.asked]


def routed(places: Places, *arrays: ModelArray, model: str | None = None, **more: Any) -> Any:
    more.setdefault("resilience", ONCE)
    config = Config(transport=ScriptedTransport(places), environ=KEYS, seed=1, **more)
    return open_client(model, router=Router(*arrays), config=config)


async def test_a_call_to_an_array_goes_round_and_is_streamed_or_whole(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    places = Places()
    async with routed(places, ModelArray("two", [MODEL, OTHER_MODEL])) as client:
        for _ in range(2):
            reply, stats = await client.chat().model("@two").user("x").execute_with_stats()
            assert reply.content == "you said x"
            assert stats.model in (MODEL, OTHER_MODEL)
        async with client.chat().user("y").stream() as events:  # the first array is the default
            async for _ in events:
                pass
        assert (await client.chat().user("z").preflight()).model == OTHER_MODEL  # the next one, not taken by asking
        await client.chat().user("z").execute()
    assert places.hosts() == ["api.openai.com", "api.groq.com"] * 2


async def test_the_ranking_is_a_chain_of_fallbacks(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    places = Places(lambda request: refused(503) if "api.openai" in request.url else echo(request))
    async with routed(places, ModelArray("two", [MODEL, OTHER_MODEL], strategy=lambda some, one: some)) as client:
        _, stats = await client.chat("x").model("@two").execute_with_stats()
    assert stats.model == OTHER_MODEL
    assert [attempt.outcome for attempt in stats.attempts] == ["failed", "ok"]
    one = ModelArray("one", [MODEL, OTHER_MODEL], strategy=lambda some, one: some, chain=1)
    async with routed(places, one) as client:
        with pytest.raises(AiLibError):
            await client.chat("x").execute()
        reply = await client.chat("x").fallback(OTHER_MODEL).execute()  # the call's own come after the array's
    assert reply.content == "you said x"


async def test_endpoints_of_one_model_have_their_own_urls_keys_and_actors(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    array = ModelArray(
        "gate",
        [
            Endpoint(model=MODEL, name="own"),
            Endpoint(model=MODEL, name="west", base_url="https://west.example/v1", api_key="west-key"),
            Endpoint(model=MODEL, name="spare", api_key="spare-key"),
        ],
    )
    places = Places()
    async with routed(places, array) as client:
        for _ in range(3):
            await client.chat("x").model("@gate").execute()
        assert len(client.tree().actors) == 3
        assert "west-key" not in repr(client.config) + repr(array) + repr(array.endpoints) + str(client.tree())
    assert places.asked == [
        ("api.openai.com", "test-key-one"),
        ("west.example", "west-key"),
        ("api.openai.com", "spare-key"),
    ]


def test_a_strategy_that_gives_what_it_was_given_before_is_held_to_what_is_so_now() -> None:
    kept: list[Candidate] = []

    def from_memory(candidates: Sequence[Candidate], asked: Asked) -> Sequence[Candidate]:
        kept.extend(candidates if not kept else ())
        return kept

    array = ModelArray("m", ["a", "b", "c"], strategy=from_memory)
    well = {"a": True, "b": True, "c": True}

    def rank() -> list[str]:
        look = lambda name, endpoint: Candidate(name=name, model=name, is_well=well[name])  # noqa: E731
        return array.rank(Request(model="m"), 10, 0, look)

    assert rank() == ["a", "b", "c"]
    array.drain("a")
    assert rank() == ["b", "c"]
    well["b"] = False
    assert rank() == ["c", "b"]


async def test_an_endpoint_that_drains_gets_no_new_call(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    array = ModelArray("two", [MODEL, OTHER_MODEL])
    places = Places(lambda request: streamed("a", "b", pace_s=1.0) if asked_to_stream(request) else whole("fine"))
    async with routed(places, array) as client:
        async with client.chat("x").model("@two").stream() as events:
            await events.__anext__()
            array.drain(MODEL)
            for _ in range(3):
                await client.chat("x").execute()
            async for _ in events:  # what runs goes on
                pass
            assert events.response().content == "ab"
        array.drain(OTHER_MODEL)
        with pytest.raises(AdmissionError, match="all of them drain"):
            await client.chat("x").execute()
        array.restore(MODEL)
        await client.chat("x").execute()
    assert places.hosts() == ["api.openai.com", *["api.groq.com"] * 3, "api.openai.com"]
    with pytest.raises(CallerError, match="no endpoint 'x'"):
        array.drain("x")


async def test_one_whose_breaker_is_open_is_asked_last(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    places = Places(lambda request: refused(503) if "api.openai" in request.url else echo(request))
    rules = Resilience(max_attempts=1, breaker=BreakerRules(failures=2))
    array = ModelArray("two", [MODEL, OTHER_MODEL], strategy=lambda some, one: some)
    async with routed(places, array, resilience=rules) as client:
        for _ in range(5):
            await client.chat("x").execute()
    assert places.hosts().count("api.openai.com") == 2


async def test_least_busy_looks_at_what_the_actors_have_now(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    places = Places(lambda request: [Stall()] if "waits" in request.body.decode() else echo(request))
    array = ModelArray("two", [MODEL, OTHER_MODEL], strategy=least_busy)
    async with routed(places, array) as client, trio.open_nursery() as nursery:
        await client.chat("x").execute()
        nursery.start_soon(client.chat("waits").execute)
        await wait_all_tasks_blocked()
        for _ in range(3):
            await client.chat("x").execute()
        nursery.cancel_scope.cancel()
    assert places.hosts() == ["api.openai.com", "api.openai.com", *["api.groq.com"] * 3]


async def test_fastest_goes_by_what_was_measured_and_changes_its_mind(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    slow = {"api.openai.com": 0.1, "api.groq.com": 0.5}

    def paced(request: WireRequest) -> Any:
        return [Wait(slow[places.hosts()[-1]]), *echo(request)]

    places = Places(paced)
    async with routed(places, ModelArray("two", [MODEL, OTHER_MODEL], strategy=fastest)) as client:
        for _ in range(4):
            await client.chat("x").execute()
        slow["api.openai.com"] = 3.0
        for _ in range(3):
            await client.chat("x").execute()
    assert places.hosts() == [
        *["api.openai.com", "api.groq.com"],  # each is measured once
        *["api.openai.com"] * 3,
        *["api.groq.com"] * 2,  # 0.1 + 0.2 * (3.0 - 0.1) is more than 0.5
    ]


async def test_fastest_passes_over_one_that_only_fails_and_looks_at_it_again_later(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    is_up = False

    def reply(request: WireRequest) -> Any:
        return refused(503) if "api.openai" in request.url and not is_up else echo(request)

    places = Places(reply)
    async with routed(places, ModelArray("two", [MODEL, OTHER_MODEL], strategy=fastest)) as client:
        for _ in range(20):
            await client.chat("x").execute()
        assert places.hosts() == ["api.openai.com", *["api.groq.com"] * 20]  # asked once, in vain
        is_up = True
        await client.chat("x").execute()
        await client.chat("x").execute()
    assert places.hosts()[21:] == ["api.openai.com"] * 2


PRICED = ["openai/gpt-5", "openai/gpt-5-nano", "openai/gpt-5-mini"]


@pytest.mark.parametrize(
    ("strategy", "first"),
    [
        (round_robin, "a"),
        (cheapest, "b"),
        (best_quality, "c"),
        (compose(capable, best_quality), "c"),
        (compose(best_quality, cheapest), "b"),
        (by(lambda one: -one.weight), "a"),
        (weighted, "a"),
    ],
)
async def test_each_strategy_orders_the_chain_of_a_real_call(
    quiescence: Quiescence, autojump_clock: MockClock, strategy: Strategy, first: str
) -> None:
    asked_models: list[str] = []

    def reply(request: WireRequest) -> Any:
        asked_models.append(json.loads(request.body)["model"])
        return refused(503)

    endpoints = [
        Endpoint(model=model, name=name, weight=weight, quality=quality)
        for name, model, weight, quality in zip("abc", PRICED, (1.0, 0.0, 0.0), (1.0, 2.0, 3.0), strict=True)
    ]
    async with routed(Places(reply), ModelArray("all", endpoints, strategy=strategy)) as client:
        with pytest.raises(AiLibError) as caught:
            await client.chat("x").execute()
    models = [model.partition("/")[2] for model in PRICED]
    assert asked_models[0] == models["abc".index(first)]
    assert sorted(asked_models) == sorted(models)  # the others are its fallbacks
    assert len(caught.value.attempts) == 3


async def test_weighted_shares_real_calls_by_weight(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    places = Places()
    endpoints = [Endpoint(model=MODEL, weight=3), Endpoint(model=OTHER_MODEL, weight=1)]
    async with routed(places, ModelArray("two", endpoints, strategy=weighted)) as client:
        for _ in range(200):
            await client.chat("x").execute()
    assert 130 < places.hosts().count("api.openai.com") < 170


async def test_one_that_cannot_do_what_is_asked_is_not_in_the_chain(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    places = Places()
    tool = ToolDefinition("t", "d", {"type": "object"})
    unable = "openai/gpt-3.5-turbo"  # declared to have none
    async with routed(places, ModelArray("two", [unable, OTHER_MODEL], strategy=capable)) as client:
        await client.chat("x").tools(tool).execute()
        await client.chat("x").execute()
    assert places.hosts() == ["api.groq.com", "api.openai.com"]


async def test_one_whose_declared_check_failed_is_asked_last_and_one_whose_actor_is_down_too(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path
) -> None:
    checked = acme(tmp_path, "{interval_ms: 5000, check: {method: GET, path: /up, expected_status: [200]}}")

    def reply(request: WireRequest) -> Any:
        return [Head(503)] if request.method == "GET" else echo(request)

    places = Places(reply)
    environ = {**KEYS, "ACME_API_KEY": "k"}
    config = Config(transport=ScriptedTransport(places), environ=environ, resilience=ONCE, check_health_s=0)
    array = ModelArray("three", ["acme/m", MODEL, OTHER_MODEL], strategy=lambda some, one: some)
    async with open_client(router=array, manifests=checked, config=config) as client:
        await client.chat("x").execute()
        await trio.sleep(1)  # a place that is used is checked at once
        await client.chat("x").execute()
        assert places.hosts() == ["acme.example", "acme.example", "api.openai.com"]
        assert not client._is_provider_healthy("acme")
        assert "acme at https://acme.example  not there" in str(client.tree())
        (slot,) = [slot for slot in client._supervisor.slots.values() if slot.key.provider == "openai"]
        slot.has_failed = True
        await client.chat("x").execute()
        assert places.hosts()[-1] == "api.groq.com"
        slot.has_failed = False


async def test_a_strategy_runs_in_its_callers_task_and_what_it_raises_is_raised_as_it_is(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    tasks: list[Any] = []
    faults: list[BaseException] = [ZeroDivisionError("mine"), AdmissionError("mine too", kind="shed"), SystemExit(3)]

    def own(candidates: Sequence[Candidate], one: Asked) -> Sequence[Candidate]:
        tasks.append((trio.lowlevel.current_task(), variable.get()))
        if one.request.messages[-1].content == "raise":
            raise faults[0]
        return candidates

    variable: ContextVar[str] = ContextVar("variable")
    variable.set("the caller's")
    places = Places()
    async with routed(places, ModelArray("own", [MODEL, OTHER_MODEL], strategy=own)) as client:
        async with client.chat("x").model("@own").stream() as events:
            async for _ in events:
                pass
        await client.chat("x").model("@own").execute()
        await client.chat("x").model(MODEL).fallback("@own").execute()
        await client.race(client.chat("x"), models=["@own", OTHER_MODEL]).execute()
        assert tasks == [(trio.lowlevel.current_task(), "the caller's")] * 4
        for fault in list(faults):
            for use in (
                client.chat("raise").model("@own").execute,
                client.race(client.chat("raise"), models=["@own", OTHER_MODEL]).execute,
                lambda: _read(client.chat("raise").model("@own").stream()),
            ):
                with pytest.raises(type(fault)) as caught:
                    await use()
                assert caught.value is fault
            faults.pop(0)
        assert client.stats()["open"] == 0
        assert await client.chat("x").model("@own").execute()  # nothing is broken by it


async def _read(stream: Any) -> None:
    async with stream as events:
        async for _ in events:
            pass


@pytest.mark.parametrize(
    ("gives", "said"),
    [
        (lambda some, one: None, "a list of candidates, got NoneType"),
        (lambda some, one: some[0], "a list of candidates, got Candidate"),
        (lambda some, one: [candidate.name for candidate in some], "a list of candidates, got list"),
        (lambda some, one: [*some, some[0]], "each of its candidates once"),
        (lambda some, one: [some[0]._replace(name="made up")], "each of its candidates once"),
    ],
)
async def test_a_strategy_that_gives_something_else_is_told_so(
    quiescence: Quiescence, autojump_clock: MockClock, gives: Any, said: str
) -> None:
    places = Places()
    async with routed(places, ModelArray("own", [MODEL, OTHER_MODEL], strategy=gives)) as client:
        with pytest.raises(CallerError, match=said):
            await client.chat("x").execute()
    assert places.asked == []


async def test_an_endpoint_without_a_key_is_passed_over(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    places = Places()
    async with routed(places, ModelArray("two", ["anthropic/any", MODEL], strategy=lambda some, one: some)) as client:
        await client.chat("x").execute()
        with pytest.raises(CredentialError):
            await client.chat("x").model("anthropic/any").execute()
    assert places.hosts() == ["api.openai.com"]


async def test_a_strategy_of_ones_own_is_one_function_and_what_it_raises_comes_out(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    def by_prompt(candidates: Sequence[Candidate], one: Asked) -> Sequence[Candidate]:
        text = str(one.request.messages[-1].content)
        if text == "raise":
            raise ZeroDivisionError
        return [candidate for candidate in candidates if text in candidate.model]

    places = Places()
    async with routed(places, ModelArray("own", [MODEL, OTHER_MODEL], strategy=by_prompt)) as client:
        await client.chat("groq").execute()
        with pytest.raises(ZeroDivisionError):
            await client.chat("raise").execute()
        with pytest.raises(AdmissionError, match="none of them fits") as caught:
            await client.chat("nobody").execute()
        assert (caught.value.kind, caught.value.code) == ("no_endpoint", "E3002")
    assert places.hosts() == ["api.groq.com"]


async def test_an_array_takes_part_in_a_race_as_one_member_with_the_others_behind_its_first(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    places = Places(lambda request: refused(503) if "api.openai" in request.url else echo(request))
    pair = ModelArray("pair", [MODEL, OTHER_MODEL], strategy=lambda some, one: some)
    async with routed(places, pair) as client:
        contest = client.race(client.chat("x"), models=["@pair"])
        assert (await contest.execute()).content == "you said x"
        assert [member.model for member in contest.members] == ["@pair"]
        assert contest.winner is not None
        assert [attempt.model for attempt in contest.winner.attempts] == [
            MODEL.partition("/")[2],
            OTHER_MODEL.partition("/")[2],
        ]
        hedged = client.hedge(client.chat("y"), models=["@pair", OTHER_MODEL], after=5.0)
        assert (await hedged.execute()).content == "you said y"
        agreed = client.quorum(client.chat("z"), models=["@pair", OTHER_MODEL], k=2)
        assert (await agreed.execute()).content == "you said z"
    assert places.hosts()[:2] == ["api.openai.com", "api.groq.com"]


async def test_an_array_among_the_fallbacks_stands_for_its_endpoints_in_their_order(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    places = Places(lambda request: refused(503) if "spare" not in request.url else echo(request))
    spare = Endpoint(model=MODEL, name="spare", base_url="https://spare.example/v1", api_key="k")
    array = ModelArray("two", [OTHER_MODEL, spare], strategy=lambda some, one: some)
    async with routed(places, array) as client:
        reply, stats = await client.chat("x").model(MODEL).fallback("@two").execute_with_stats()
        assert reply.content == "you said x"
        assert [attempt.outcome for attempt in stats.attempts] == ["failed", "failed", "ok"]
        chained = client.fallback(client.chat("y"), models=[OTHER_MODEL, "@two"])
        assert (await chained.execute()).content == "you said y"
    assert places.hosts()[:3] == ["api.openai.com", "api.groq.com", "spare.example"]


async def test_the_api_that_was_asked_for_is_used_by_every_endpoint_and_those_without_it_are_left_out(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    paths: list[str] = []

    def reply(request: WireRequest) -> Any:
        paths.append(request.url.partition("://")[2])
        return refused(503)

    east = Endpoint(model=MODEL, name="east", api_key="k", base_url="https://east.example/v1")
    claude = Endpoint(model="anthropic/claude-x", api_key="k")
    array = ModelArray("all", [MODEL, claude, east], strategy=lambda some, one: some)
    async with routed(Places(reply), array, ModelArray("other", [claude])) as client:
        with pytest.raises(AiLibError):
            await client.chat("x").model("@all").api("responses").execute()
        assert paths == ["api.openai.com/v1/responses", "east.example/v1/responses"]
        with pytest.raises(CallerError, match="no endpoint of @other has an API 'responses'"):
            await client.chat("x").model("@other").api("responses").execute()
        with pytest.raises(CallerError, match="none of the models has an API 'nothing'"):
            await client.race(client.chat("x").api("nothing"), models=[MODEL, OTHER_MODEL]).execute()
        paths.clear()
        with pytest.raises(AiLibError):  # who has it uses it; a model that was named itself has its own otherwise
            await client.race(client.chat("x").api("responses"), models=[MODEL, OTHER_MODEL]).execute()
        assert sorted(path.rpartition("/")[2] for path in paths) == ["completions", "responses"]
        paths.clear()
        with pytest.raises(AiLibError):
            await client.chat("x").model(MODEL).api("responses").fallback("anthropic/claude-x", "@all").execute()
        assert [path.rpartition("/")[2] for path in paths] == ["responses"] * 3


async def test_names_that_lead_nowhere_are_errors(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    async with routed(Places(), ModelArray("two", [MODEL])) as client:
        with pytest.raises(CallerError, match="there are: @two"):
            await client.chat("x").model("@three").execute()
        with pytest.raises(CallerError, match="there are: @two"):
            client.race(client.chat("x"), models=["@three"])
        with pytest.raises(CallerError, match="there are: @two"):
            client.chat("x").fallback("@three")
    async with scripted_client(ScriptedTransport(echo)) as client:
        with pytest.raises(CallerError, match="give its router"):
            await client.chat("x").model("@two").execute()
    for wrong in (
        lambda: ModelArray("", [MODEL]),
        lambda: ModelArray("@a", [MODEL]),
        lambda: ModelArray("a", []),
        lambda: ModelArray("a", [MODEL, MODEL]),
        lambda: ModelArray("a", [MODEL], chain=0),
        lambda: ModelArray("a", [Endpoint(model=MODEL, weight=-1)]),
        lambda: Router(),
        lambda: Router(ModelArray("a", [MODEL]), ModelArray("a", [MODEL])),
    ):
        with pytest.raises(CallerError):
            wrong()


async def test_an_endpoint_that_nobody_knows_is_said_when_the_client_is_opened(quiescence: Quiescence) -> None:
    for models, kind in ((["nobody/any"], "unknown_provider"), ([MODEL, "openai"], "unknown_model")):
        with pytest.raises(CallerError) as caught:
            async with routed(Places(), ModelArray("two", models)):
                raise AssertionError
        assert caught.value.kind == kind


async def test_an_address_that_is_empty_is_a_mistake_and_not_the_providers_own(quiescence: Quiescence) -> None:
    places = Places()
    empty = Endpoint(model=MODEL, base_url="")
    async with routed(places, ModelArray("one", [empty])) as client:
        with pytest.raises(CallerError, match="http or https URL"):
            await client.chat("x").execute()
    config = Config(transport=ScriptedTransport(places), environ=KEYS)
    async with open_client(MODEL, base_url="", config=config) as client:
        with pytest.raises(CallerError, match="http or https URL"):
            await client.chat("x").execute()
    assert not places.asked


async def test_one_array_is_a_router_and_its_name_a_clients_model(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    places = Places()
    config = Config(transport=ScriptedTransport(places), environ=KEYS)
    async with open_client("@two", router=ModelArray("two", [MODEL]), config=config) as client:
        await client.chat("x").execute()
    assert json.dumps(places.hosts()) == '["api.openai.com"]'


# ---- models by what they can do


async def test_models_are_found_by_capability_context_price_region_and_provider(quiescence: Quiescence) -> None:
    async with scripted_client(ScriptedTransport(echo)) as client:
        models = client.models
        everything = models.find()
        assert len(everything) > 50
        seeing = models.find(capabilities=["vision"], min_context=100_000, max_input_price=1.0)
        assert seeing
        for model in seeing:
            assert model.facts.capabilities is not None
            assert "vision" in model.facts.capabilities
            assert model.facts.context_window is not None
            assert model.facts.context_window >= 100_000
            assert model.facts.pricing is not None
            assert model.facts.pricing.input_per_1m is not None
            assert model.facts.pricing.input_per_1m <= 1.0
        of_groq = models.find(providers=["groq"])
        assert {model.ref.partition("/")[0] for model in of_groq} == {"groq"}
        in_china = models.find(region="cn")
        assert in_china
        assert all("cn" in model.regions for model in in_china)
        assert len(in_china) < len(everything)
        assert models.find(region="nowhere") == []
        assert models.find(where=lambda model: model.ref == of_groq[0].ref) == [of_groq[0]]
        assert models.find(max_input_price=1.0, currency="XXX") == []


async def test_providers_that_are_down_are_left_out_where_asked(quiescence: Quiescence) -> None:
    async with scripted_client(ScriptedTransport(echo)) as client:
        await client.chat("x").model(OTHER_MODEL).execute()
        for slot in client._supervisor.slots.values():
            slot.has_failed = True
        assert client.models.find(providers=["groq"])
        assert client.models.find(providers=["groq"], only_healthy=True) == []
        for slot in client._supervisor.slots.values():
            slot.has_failed = False
