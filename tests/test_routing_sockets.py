"""Each strategy on the way of real calls over real sockets: what counts is what the simulator saw, and what the sinks
were told of it, each thing once."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest
import trio

from ai_lib_trio import AiClient, AiLibError, Config, Resilience, open_client
from ai_lib_trio.routing import (
    Endpoint,
    ModelArray,
    Strategy,
    best_quality,
    by,
    capable,
    compose,
    fastest,
    least_busy,
    round_robin,
    weighted,
)
from ai_lib_trio.simulator import Entry, Reply, Script, Status, Text, open_simulator
from ai_lib_trio.testing import Quiescence, quiescence
from ai_lib_trio.types.records import AttemptEnded, CallEnded, CallRerouted, CallRetried, CallStarted

__all__ = ["quiescence"]

PLACES = {"east": "openai", "west": "groq", "north": "mistral"}
NAMES = {provider: name for name, provider in PLACES.items()}
ONCE = Resilience(max_attempts=1, breaker="off")
# An attempt, as a sink may see it: each step once at most, in this order; the first and the end exactly once.
STEPS = ("CallQueued", "CallAdmitted", "AttemptStarted", "FirstToken", "AttemptEnded", "CallRetried", "CallRerouted")


def place_of(entry: Entry) -> str:
    return NAMES[str(entry.provider)]


def usual(entry: Entry) -> Reply:
    return Script(steps=[Text(place_of(entry))])


class Run:
    """An array over three places, its client, and what the simulator and a sink saw."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.seen: Counter[str] = Counter()

    async def calls(
        self,
        strategy: Strategy,
        use: Any,
        *,
        answer: Any = usual,
        weights: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> Counter[str]:
        with trio.fail_after(60):
            async with open_simulator(scripts=answer) as sim:
                endpoints = [
                    Endpoint(
                        model=f"{provider}/any",
                        name=name,
                        base_url=sim.base_url(provider),
                        api_key=f"key-of-{name}",
                        weight=weight,
                        quality=-weight,
                    )
                    for (name, provider), weight in zip(PLACES.items(), weights, strict=True)
                ]
                array = ModelArray("all", endpoints, strategy=strategy)
                config = Config(sinks=(self.records.append,), resilience=ONCE, seed=1, environ={})
                async with open_client(router=array, config=config) as client:
                    await use(client, array)
                    assert client.tree().sink_failures == 0
                await sim.wait_quiet()
                self.seen = Counter(map(place_of, sim.entries))
        self.check_records()
        return self.seen

    def check_records(self) -> None:
        """Each call starts and ends once, and each of its attempts' steps is told once, in order."""
        of_calls: dict[int, list[Any]] = defaultdict(list)
        for record in self.records:
            of_calls[record.call].append(record)
        for told in of_calls.values():
            names = [type(one).__name__ for one in told]
            assert (names[0], names[-1]) == ("CallStarted", "CallEnded")
            assert names.count("CallStarted") == names.count("CallEnded") == 1
            steps: dict[int, list[str]] = defaultdict(list)
            for one in told:
                if hasattr(one, "attempt") and type(one).__name__ != "EventBatch":
                    steps[one.attempt].append(type(one).__name__)
            for attempt in steps.values():
                assert attempt == [name for name in STEPS if name in attempt]
                assert {"CallQueued", "AttemptEnded"} <= set(attempt)
            assert list(steps) == list(range(1, told[-1].attempts + 1))
        ended = [one for one in self.records if isinstance(one, AttemptEnded)]
        assert sum(one.state != "unsent" for one in ended) == self.seen.total()


def in_turn(count: int) -> Any:
    async def use(client: AiClient, array: ModelArray) -> None:
        for _ in range(count):
            await client.chat("x").execute()

    return use


def at_once(count: int, *, streamed: bool) -> Any:
    async def use(client: AiClient, array: ModelArray) -> None:
        async def one() -> None:
            chat = client.chat("x")
            if not streamed:
                await chat.execute()
                return
            async with chat.stream() as events:
                async for _ in events:
                    pass

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(one)

    return use


@pytest.mark.parametrize(
    ("strategy", "seen"),
    [
        (round_robin, {"east": 2, "west": 2, "north": 2}),
        (best_quality, {"west": 6}),
        (by(lambda one: one.weight), {"west": 6}),
        (compose(best_quality, round_robin), {"east": 2, "west": 2, "north": 2}),
        (compose(round_robin, best_quality), {"west": 6}),
        (compose(capable, least_busy), {"east": 6}),  # one after the other, nobody is busy: ties stay in their order
        (lambda candidates, asked: [one for one in candidates if one.name == "north"], {"north": 6}),
    ],
)
async def test_a_strategy_decides_where_calls_go(
    quiescence: Quiescence, strategy: Strategy, seen: dict[str, int]
) -> None:
    assert await Run().calls(strategy, in_turn(6), weights=(3.0, 1.0, 2.0)) == seen


async def test_weights_are_shares_and_weight_0_is_asked_last(quiescence: Quiescence) -> None:
    seen = await Run().calls(weighted, in_turn(200), weights=(3.0, 1.0, 0.0))
    assert 130 < seen["east"] < 170
    assert seen["north"] == 0


@pytest.mark.parametrize("streamed", [False, True])
async def test_calls_that_begin_together_are_spread_over_the_least_busy(quiescence: Quiescence, streamed: bool) -> None:
    seen = await Run().calls(least_busy, at_once(30, streamed=streamed))
    assert seen == {"east": 10, "west": 10, "north": 10}
    assert await Run().calls(least_busy, at_once(30, streamed=streamed), weights=(4.0, 1.0, 1.0)) == {
        "east": 20,
        "west": 5,
        "north": 5,
    }


async def test_races_that_begin_together_are_spread_too(quiescence: Quiescence) -> None:
    async def use(client: AiClient, array: ModelArray) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(client.race(client.chat("x"), models=["@all"]).execute)

    assert await Run().calls(least_busy, use) == {"east": 10, "west": 10, "north": 10}


async def test_the_least_busy_is_one_by_its_actor_not_by_its_name(quiescence: Quiescence) -> None:
    seen: list[str] = []

    def answer(entry: Entry) -> Reply:
        seen.append(str(entry.body["model"]))
        return usual(entry)

    async with open_simulator(scripts=answer) as sim:
        east = [
            Endpoint(model=f"openai/{model}", base_url=sim.base_url("openai"), api_key="k") for model in ("one", "two")
        ]
        west = Endpoint(model="groq/three", base_url=sim.base_url("groq"), api_key="k")
        array = ModelArray("all", [*east, west], strategy=least_busy)
        async with open_client(router=array, config=Config(resilience=ONCE, environ={})) as client:
            for label in array.endpoints:  # their keys are found and their actors are there
                for other in array.endpoints:
                    (array.restore if other == label else array.drain)(other)
                await client.chat("x").execute()
            for label in array.endpoints:
                array.restore(label)
            seen.clear()
            await at_once(30, streamed=True)(client, array)
    assert seen.count("three") == 15


async def test_a_call_that_never_came_is_not_on_its_way_for_ever(quiescence: Quiescence) -> None:
    async def use(client: AiClient, array: ModelArray) -> None:
        await in_turn(1)(client, array)
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.chat("x").execute()
        assert (await client.chat("x").preflight()).would_send
        for _ in range(2):
            with pytest.raises(AiLibError):
                await client.chat("x").deadline(1e-9).execute()
        await in_turn(4)(client, array)

    assert await Run().calls(least_busy, use) == {"east": 5}


async def test_the_fastest_is_measured_and_one_that_only_fails_is_left_to_the_end(quiescence: Quiescence) -> None:
    def answer(entry: Entry) -> Reply:
        if place_of(entry) == "east":
            return Status(503)
        return Script(steps=[Text("x")], first_token_delay=0.3 if place_of(entry) == "west" else 0.0)

    run = Run()
    seen = await run.calls(fastest, in_turn(10), answer=answer)
    assert seen == {"east": 1, "west": 1, "north": 9}
    assert sum(isinstance(one, CallRerouted) for one in run.records) == 1
    assert not any(isinstance(one, CallRetried) for one in run.records)
    assert all(one.outcome == "ok" for one in run.records if isinstance(one, CallEnded))
    assert sum(isinstance(one, CallStarted) for one in run.records) == 10


async def test_one_that_drains_gets_no_call_until_it_is_restored(quiescence: Quiescence) -> None:
    async def use(client: AiClient, array: ModelArray) -> None:
        array.drain("east")
        await in_turn(4)(client, array)
        array.restore("east")
        await in_turn(3)(client, array)

    assert await Run().calls(round_robin, use) == {"west": 3, "north": 3, "east": 1}
