"""The page on testing: its program of an hour runs as it stands, in no time, and the same every time."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import trio

from ai_lib_trio import Config, open_client
from ai_lib_trio.testing import EventLog, ScriptedTransport, Wait
from ai_lib_trio.types.records import BreakerChanged, CallQueued
from client_support import KEYS, streamed

PAGE = Path(__file__).resolve().parents[1] / "docs" / "testing.md"


def program() -> str:
    found = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (one,) = (block for block in found if "MockClock" in block)
    return str(one)


def test_the_pages_hour_of_rate_limiting_takes_no_time_and_is_the_same_every_run() -> None:
    names: dict[str, Any] = {}
    exec(compile(program(), str(PAGE), "exec"), names)
    first = names["runs"][0]
    assert any("CallRetried" in line for line in first)
    assert sum("CallEnded" in line for line in first) > 100
    began = time.process_time()
    again = trio.run(names["hour"], clock=trio.testing.MockClock(autojump_threshold=0))
    assert again == first
    assert time.process_time() - began < 5  # 0.3 s on an idle machine, for 3600 s


def test_a_log_is_in_the_order_of_time_call_and_attempt() -> None:
    log = EventLog()

    def queued(at_s: float, call: int, attempt: int) -> CallQueued:
        return CallQueued(at_s=at_s, call=call, attempt=attempt, provider="p", model="m")

    changed = BreakerChanged(at_s=1.0, provider="p", of="m", state="open")
    later, second, first, again = queued(2.0, 1, 3), queued(1.0, 2, 1), queued(1.0, 1, 2), queued(1.0, 1, 1)
    for record in (later, second, first, again, changed):
        log(record)
    assert log.in_order() == [changed, again, first, second, later]
    assert len(log.lines()) == 5


def test_the_program_is_short() -> None:
    body = program().partition("async def hour():")[2].partition("return")[0]
    assert len([line for line in body.splitlines() if line.strip()]) <= 10


def test_races_of_many_callers_at_one_instant_have_the_same_log_every_run() -> None:
    async def main() -> list[str]:
        log = EventLog()
        wire = ScriptedTransport(lambda request: [Wait(1.0), *streamed("one", "two")])
        async with open_client(config=Config(transport=wire, environ=KEYS, seed=3, sinks=(log,))) as client:

            async def race() -> None:
                chat = client.chat().user("x")
                await client.race(chat, models=["openai/a", "openai/b", "groq/c"]).execute()

            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(race)
        return log.lines()

    runs = [trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)) for _ in range(20)]
    assert all(run == runs[0] for run in runs)
