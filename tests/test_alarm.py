"""Limits on time for many exchanges: rung by the clock, moved without cost, put away for good."""

from __future__ import annotations

import math

import trio
from trio.testing import MockClock

from ai_lib_trio.actors.alarm import FEW_DEAD, Alarm, AlarmClock


def silent() -> Alarm:
    """One that nobody hears."""
    return Alarm(lambda: None)


async def rings(alarm: Alarm) -> float:
    """When the alarm rang, on trio's clock."""
    rung = trio.Event()
    alarm.ring = rung.set
    await rung.wait()
    return trio.current_time()


async def test_an_alarm_rings_when_it_is_due(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        clock = AlarmClock()
        nursery.start_soon(clock.run)
        alarm = silent()
        start = trio.current_time()
        clock.move(alarm, start + 5)
        assert await rings(alarm) == start + 5
        assert alarm.has_rung
        nursery.cancel_scope.cancel()


async def test_an_alarm_that_was_moved_rings_at_its_last_moment_only(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        clock = AlarmClock()
        nursery.start_soon(clock.run)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        later, earlier = silent(), silent()
        clock.move(later, start + 5)
        clock.move(later, start + 9)
        clock.move(earlier, start + 7)
        clock.move(earlier, start + 2)
        ended: dict[str, float] = {}

        async def wait(name: str, alarm: Alarm) -> None:
            ended[name] = await rings(alarm) - start

        async with trio.open_nursery() as both:
            both.start_soon(wait, "later", later)
            both.start_soon(wait, "earlier", earlier)
        assert ended == {"later": 9, "earlier": 2}
        nursery.cancel_scope.cancel()


async def test_an_alarm_that_stands_still_goes_on_when_it_is_moved_again(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        clock = AlarmClock()
        nursery.start_soon(clock.run)
        start = trio.current_time()
        alarm = silent()
        clock.move(alarm, start + 3)
        clock.move(alarm, math.inf)
        await trio.sleep(10)
        assert not alarm.has_rung
        clock.move(alarm, trio.current_time() + 1)
        assert await rings(alarm) == start + 11
        nursery.cancel_scope.cancel()


async def test_an_alarm_that_was_put_away_never_rings(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        clock = AlarmClock()
        nursery.start_soon(clock.run)
        rung = trio.Event()
        alarm = Alarm(rung.set)
        clock.move(alarm, trio.current_time() + 1)
        clock.put_away(alarm)
        await trio.sleep(5)
        assert not rung.is_set()
        assert len(clock) == 0
        nursery.cancel_scope.cancel()


async def test_the_list_does_not_grow_with_calls_that_are_over(autojump_clock: MockClock) -> None:
    clock = AlarmClock()
    kept = silent()
    clock.move(kept, 50.0)
    for number in range(10 * FEW_DEAD):
        alarm = silent()
        clock.move(alarm, 100.0 + number)
        clock.put_away(alarm)
        assert len(clock) <= 2 * FEW_DEAD
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        await rings(kept)
        assert kept.has_rung
        nursery.cancel_scope.cancel()
