"""The turnstile: many calls that begin at one moment leave turns of the scheduler to what runs already."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import AdmissionError
from ai_lib_trio.client.client import CALLS_A_TURN
from ai_lib_trio.client.turnstile import BUSY_S, Turnstile
from ai_lib_trio.testing import Quiescence, ScriptedTransport
from client_support import scripted_client, whole


class TickingClock(trio.abc.Clock):
    """Time that passes by being looked at: a microsecond each time, on machines of any speed."""

    def __init__(self) -> None:
        self.now = 0.0

    def start_clock(self) -> None:
        pass

    def current_time(self) -> float:
        self.now += 1e-6
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        return deadline - self.now


@pytest.fixture
def clock() -> TickingClock:
    return TickingClock()


class Turns(trio.abc.Instrument):
    """Counts the scheduler's turns."""

    def __init__(self) -> None:
        self.number = 0

    def before_io_wait(self, timeout: float) -> None:
        self.number += 1


@pytest.fixture
async def turns() -> Any:
    counting = Turns()
    trio.lowlevel.add_instrument(counting)
    yield counting
    trio.lowlevel.remove_instrument(counting)


async def test_so_many_go_through_in_a_turn_and_in_the_order_they_came(clock: TickingClock, turns: Turns) -> None:
    turnstile = Turnstile(3)
    came: list[int] = []
    went: list[tuple[int, int]] = []

    async def one(number: int) -> None:
        came.append(number)
        if not turnstile.pass_nowait():
            await turnstile.wait_passage()
        went.append((turns.number, number))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one, number)
    in_turns: dict[int, set[int]] = {}
    for turn, number in went:
        in_turns.setdefault(turn, set()).add(number)
    # trio shuffles the tasks of one turn, so the order is one of turns.
    assert list(in_turns.values()) == [set(came[at : at + 3]) for at in range(0, 20, 3)]


async def test_who_comes_while_others_wait_goes_behind_them(clock: TickingClock) -> None:
    turnstile = Turnstile(2)
    went: list[str] = []

    async def one(name: str) -> None:
        if not turnstile.pass_nowait():
            await turnstile.wait_passage()
        went.append(name)

    async with trio.open_nursery() as nursery:
        assert turnstile.pass_nowait()
        assert turnstile.pass_nowait()
        for name in ("a", "b", "c"):
            nursery.start_soon(one, name)
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
        nursery.start_soon(one, "d")
    assert went == ["a", "b", "c", "d"]


async def test_one_that_is_cancelled_while_it_waits_holds_nobody_up(clock: TickingClock) -> None:
    turnstile = Turnstile(1)
    assert turnstile.pass_nowait()
    with trio.CancelScope() as scope:
        scope.cancel()
        assert not turnstile.pass_nowait()
        await turnstile.wait_passage()
    assert scope.cancelled_caught
    for _ in range(3):
        if not turnstile.pass_nowait():
            await turnstile.wait_passage()
    await wait_all_tasks_blocked()
    assert turnstile.pass_nowait(), "an empty turn opens it again"


async def test_where_time_stands_still_nobody_waits(mock_clock: MockClock) -> None:
    turnstile = Turnstile(2)
    assert all(turnstile.pass_nowait() for _ in range(20))


async def test_calls_that_come_one_by_one_never_wait(clock: TickingClock) -> None:
    turnstile = Turnstile(2)
    for _ in range(20):
        clock.now += BUSY_S
        assert turnstile.pass_nowait()


async def test_calls_that_begin_together_begin_in_turns(
    quiescence: Quiescence, clock: TickingClock, turns: Turns
) -> None:
    begun: dict[int, int] = {}

    def answer(request: Any) -> Any:
        begun[turns.number] = begun.get(turns.number, 0) + 1
        return whole("hi")

    transport = ScriptedTransport(answer)
    async with scripted_client(transport) as client:
        await client.chat().user("x").execute()  # the actor runs, and the target is known
        begun.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(client.chat().user("x").execute)
        assert sum(begun.values()) == 100
        assert max(begun.values()) <= CALLS_A_TURN


async def test_calls_that_wait_for_their_turn_when_the_client_is_left_do_not_begin(
    quiescence: Quiescence, clock: TickingClock
) -> None:
    transport = ScriptedTransport(whole("hi"))
    outcomes: list[str] = []

    async def call(client: Any) -> None:
        try:
            outcomes.append((await client.chat().user("x").execute()).content)
        except AdmissionError as exc:
            outcomes.append(exc.kind)

    async with trio.open_nursery() as nursery:
        async with scripted_client(transport) as client:
            await client.chat().user("x").execute()
            for _ in range(3 * CALLS_A_TURN):
                nursery.start_soon(call, client)
            await trio.lowlevel.checkpoint()
            client._supervisor.stop_taking()
        await wait_all_tasks_blocked()
    assert len(outcomes) == 3 * CALLS_A_TURN
    assert outcomes.count("client_closed") >= 2 * CALLS_A_TURN
