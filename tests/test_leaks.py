"""The proof of quiescence proves something: each thing that could be left is seen. And Ctrl-C leaves nothing either."""

from __future__ import annotations

import gc
import signal
import socket
import threading
from collections import Counter
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from ai_lib_trio import AiClient
from ai_lib_trio.actors.job import Job, Progress
from ai_lib_trio.service import Call
from ai_lib_trio.testing import (
    Data,
    Head,
    NotQuiet,
    Quiescence,
    ScriptedTransport,
    Stall,
    every_split,
    quiescence,
    random_splits,
)
from ai_lib_trio.types.response import Fold
from client_support import SSE, delta, echo, frame, scripted_client

pytestmark = pytest.mark.filterwarnings("ignore:.*strict_exception_groups=False:trio.TrioDeprecationWarning")


async def test_a_task_that_is_left_is_named() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(NotQuiet, match="task 'a stray'"):
            async with quiescence():
                nursery.start_soon(trio.sleep_forever, name="a stray")
        nursery.cancel_scope.cancel()


async def test_a_socket_that_is_left_is_counted() -> None:
    held = []
    with pytest.raises(NotQuiet, match="socket at descriptor"):
        async with quiescence():
            held.append(socket.socket())
    held.pop().close()


async def test_a_thread_that_is_left_is_named_and_trios_idle_workers_are_not() -> None:
    release = threading.Event()
    with pytest.raises(NotQuiet, match="thread 'a stray'"):
        async with quiescence():
            threading.Thread(target=release.wait, name="a stray").start()
    release.set()
    async with quiescence():
        await trio.to_thread.run_sync(lambda: None)


async def test_an_abandoned_name_lookup_is_waited_for() -> None:
    began, release = threading.Event(), threading.Event()

    def getaddrinfo() -> None:
        began.set()
        release.wait(5)

    timer = threading.Timer(0.2, release.set)
    async with quiescence() as quiet:
        timer.start()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def lookup() -> None:
                    await trio.to_thread.run_sync(getaddrinfo, abandon_on_cancel=True)

                nursery.start_soon(lookup)
                await trio.to_thread.run_sync(began.wait)
                scope.cancel()
        assert not release.is_set()
        quiet.check()
        assert release.is_set()


async def test_permits_that_a_closed_client_still_counts_are_shown() -> None:
    with pytest.raises(NotQuiet, match=r"permits of a closed client:\nclient  1 open calls"):
        async with quiescence():
            async with scripted_client(ScriptedTransport(echo)) as client:
                await client.chat().user("x").execute()
            client._open[99] = next(iter([object()]))  # type: ignore[assignment]
    client._open.clear()


async def test_what_the_block_raises_goes_on_as_it_is_and_is_not_hidden_by_a_check() -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="mine"):
            async with quiescence():
                nursery.start_soon(trio.sleep_forever)
                raise ValueError("mine")
        nursery.cancel_scope.cancel()


async def test_the_fixture_is_the_same_proof(quiescence: Quiescence) -> None:
    quiescence.check()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        with pytest.raises(NotQuiet):
            quiescence.check()
        nursery.cancel_scope.cancel()


# ---- Ctrl-C


class Interrupting:
    """An engine during whose exchange somebody presses Ctrl-C."""

    def __init__(self, *, after_head: bool) -> None:
        self.after_head = after_head
        self.was_cancelled = False

    async def exchange(self, request: Any, sink: Any) -> None:
        if self.after_head:
            sink.head(200, list(SSE.items()))
            sink.data(frame(delta("one")))
        signal.raise_signal(signal.SIGINT)  # this task is protected: it must come out in the caller's
        try:
            await trio.sleep_forever()
        finally:
            self.was_cancelled = True

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("streams", [False, True])
def test_ctrl_c_during_an_exchange_leaves_as_a_plain_keyboard_interrupt(streams: bool, strict: bool) -> None:
    engine = Interrupting(after_head=streams)
    quiet: list[bool] = []

    async def main() -> None:
        before = Quiescence()
        try:
            async with scripted_client(lambda origin: engine) as client:
                if streams:
                    async with client.chat().user("x").stream() as events:
                        async for _ in events:
                            pass
                else:
                    await client.chat().user("x").execute()
        except KeyboardInterrupt:
            quiet.append(not before.leftovers())
            raise

    with pytest.raises(KeyboardInterrupt):
        trio.run(main, strict_exception_groups=strict)
    assert quiet == [True]
    assert engine.was_cancelled


@pytest.mark.parametrize("strict", [True, False])
def test_ctrl_c_between_two_events_leaves_as_a_plain_keyboard_interrupt(strict: bool) -> None:
    transport = ScriptedTransport([Head(200, SSE), Data(frame(delta("one"))), Stall()])

    async def main() -> None:
        async with scripted_client(transport) as client, client.chat().user("x").stream() as events:
            async for _ in events:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main, strict_exception_groups=strict)
    assert transport.open_exchanges == 0


@pytest.mark.parametrize("strict", [True, False])
def test_ctrl_c_while_the_client_is_being_left_closes_it_all_the_same(strict: bool) -> None:
    transport = ScriptedTransport([Stall()])

    async def main() -> None:
        async def call(client: AiClient) -> None:
            with pytest.raises(BaseException):  # noqa: B017
                await client.chat().user("x").execute()

        async with trio.open_nursery() as nursery:
            caught = None
            try:
                async with scripted_client(transport, shutdown_grace_s=1000) as client:
                    nursery.start_soon(call, client)
                    await wait_all_tasks_blocked()

                    @trio.lowlevel.enable_ki_protection
                    async def interrupt() -> None:
                        await wait_all_tasks_blocked()
                        signal.raise_signal(signal.SIGINT)

                    nursery.start_soon(interrupt)
            except KeyboardInterrupt as exc:
                caught = exc
            assert caught is not None
            assert transport.open_exchanges == 0

    trio.run(main, strict_exception_groups=strict)


# ---- many


async def test_a_thousand_calls_leave_no_growing_state_behind(quiescence: Quiescence) -> None:
    transport = ScriptedTransport(echo)
    async with scripted_client(transport) as client:
        await client.chat().user("x").execute()
        slot = next(iter(client._supervisor.slots.values()))
        for number in range(1000):
            if number % 3:
                await client.chat().user("x").execute()
            else:
                async with client.chat().user("x").stream() as events:
                    await events.__anext__()
        assert slot.actor is not None
        assert len(slot.docket) == len(slot.actor.inflight) == slot.actor.queued == len(client._open) == 0
        assert len(client._supervisor.slots) == len(client._targets._targets) == 1


@pytest.mark.parametrize("way", ["whole", "read", "left"])
async def test_a_call_that_is_over_is_freed_without_the_collector(way: str) -> None:
    async with scripted_client(ScriptedTransport(echo)) as client:

        async def call() -> None:
            if way == "whole":
                await client.chat().user("x").execute()
                return
            async with client.chat().user("x").stream() as events:
                async for _ in events:
                    if way == "left":
                        break

        await call()
        gc.collect()
        gc.disable()
        try:
            before = _of_calls()
            for _ in range(10):
                await call()
            await wait_all_tasks_blocked()
            assert _of_calls() == before
        finally:
            gc.enable()


def _of_calls() -> dict[str, int]:
    return Counter(type(one).__name__ for one in gc.get_objects() if isinstance(one, (Call, Job, Progress, Fold)))


# ---- cuts


def test_every_split_and_random_splits_give_back_the_same_bytes() -> None:
    for data in (b"a", b"ab", b"data: \xe6\x97\xa5\r\n\r\n"):
        ways = list(every_split(data))
        assert all(b"".join(pieces) == data and all(pieces) for pieces in ways)
        assert [data[at : at + 1] for at in range(len(data))] in ways
        assert len(ways) == len(data) + (len(data) > 2)
    long = bytes(range(256)) * 10
    ways = list(random_splits(long, seed=1, ways=5))
    assert len(ways) == 5
    assert all(b"".join(pieces) == long and 2 <= len(pieces) <= 64 and all(pieces) for pieces in ways)
    assert ways == list(random_splits(long, seed=1, ways=5))
    assert list(random_splits(b"", seed=1, ways=1)) == [[b""]]
