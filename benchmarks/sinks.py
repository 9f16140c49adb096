"""What sinks cost a streamed call: none, one that counts, and each of the library's own.

`python -m benchmarks.sinks` prints microseconds of processor time a call, on the scripted engine: the median of several
rounds that take turns, so that a busy machine slows all of them.

Without a sink no record is built (a test holds it), so what is left is to ask, where one would be, whether anybody
listens: the last line says what that comes to, from the number of records that a sink was given.
"""

from __future__ import annotations

import logging
import statistics
import time
import timeit
from typing import Any

import trio

from ai_lib_trio import Config, open_client
from ai_lib_trio.actors.hooks import Hooks
from ai_lib_trio.telemetry import CallLogger, MetricsCollector, Tracing
from ai_lib_trio.testing import ScriptedTransport, sse_reply

EVENTS = 50
CALLS = 100
ROUNDS = 5


def reply() -> Any:
    chunk = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]}
    end = {"id": "c", "model": "m", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return sse_reply([*[chunk] * EVENTS, end], done="[DONE]")


async def seconds_of(sinks: tuple[Any, ...]) -> float:
    """The time of `CALLS` streamed calls, one after the other."""
    said = reply()
    config = Config(
        transport=ScriptedTransport(lambda request: said), environ={}, api_keys={"openai": "k"}, sinks=sinks
    )
    async with open_client("openai/m", config=config) as client:
        chat = client.chat().user("x")
        started = time.process_time()
        for _ in range(CALLS):
            async with chat.stream() as events:
                async for _ in events:
                    pass
        return time.process_time() - started


def main() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from prometheus_client import CollectorRegistry

    logger = logging.Logger("quiet", logging.INFO)
    logger.addHandler(logging.NullHandler())
    counted: list[int] = [0]

    def count(record: object) -> None:
        counted[0] += 1

    cases: dict[str, tuple[Any, ...]] = {
        "no sink": (),
        "a sink that counts": (count,),
        "CallLogger": (CallLogger(logger),),
        "MetricsCollector": (MetricsCollector(CollectorRegistry()),),
        "Tracing, with the SDK": (Tracing(tracer_provider=TracerProvider()),),
    }
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, sinks in cases.items():
            taken[name].append(trio.run(seconds_of, sinks))
    base = statistics.median(taken["no sink"])
    for name, rounds in taken.items():
        median = statistics.median(rounds)
        print(f"{name:<24} {median / CALLS * 1e6:8.0f} us a call   {(median - base) / CALLS * 1e6:+7.0f}")
    records = counted[0] / (CALLS * ROUNDS)
    asking = min(timeit.repeat("if hooks.on: pass", globals={"hooks": Hooks()}, number=100_000)) / 100_000
    share = asking * records / (base / CALLS)
    asked_us = asking * records * 1e6
    print(f"asking {records:.0f} times a call   {asked_us:8.1f} us a call   {share:.2%} of one without a sink")


if __name__ == "__main__":
    main()
