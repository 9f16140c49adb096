"""Law 3: what is raised inside a block of ours leaves it as itself, on every Python, strict groups or not."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from ai_lib_trio import AiLibError, CallerError, CancelToken
from ai_lib_trio.testing import Head, ScriptedTransport, Stall, quiescence
from client_support import MODEL, echo, scripted_client, streamed

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

# Hosts may still turn strict groups off, and our blocks must hold there too.
pytestmark = pytest.mark.filterwarnings("ignore:.*strict_exception_groups=False:trio.TrioDeprecationWarning")

Main = Callable[[], Awaitable[None]]


def run(main: Main, strict: bool) -> None:
    async def quiet() -> None:
        async with quiescence():
            await main()

    trio.run(quiet, strict_exception_groups=strict)


def raised() -> list[BaseException]:
    return [
        CallerError("mine", kind="bad_argument"),
        KeyboardInterrupt(),
        SystemExit(3),
        trio.TooSlowError(),
        ValueError("mine"),
        ExceptionGroup("mine", [ValueError(), KeyError()]),
        BaseExceptionGroup("mine", [KeyboardInterrupt(), KeyError()]),
        StopAsyncIteration(),
        GeneratorExit(),
    ]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("error", raised(), ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "place", ["idle client", "used client", "stream", "after first event", "plain for", "call open"]
)
def test_what_the_block_raises_leaves_it_as_the_same_object(place: str, error: BaseException, strict: bool) -> None:
    transport = ScriptedTransport([*streamed("a", "b")[:2], Stall()] if place == "call open" else streamed("a", "b"))

    async def main() -> None:
        caught: BaseException | None = None
        try:
            async with scripted_client(transport) as client:
                chat = client.chat().user("hello")
                if place == "idle client":
                    raise error
                if place == "used client":
                    async with chat.stream() as events:
                        async for _ in events:
                            pass
                    raise error
                if place == "plain for":
                    events = chat.stream()
                    async for _ in events:
                        await events.aclose()
                        raise error
                async with chat.stream() as events:
                    if place != "stream":
                        await events.__anext__()
                    raise error
        except BaseException as exc:
            caught = exc
        assert caught is error
        assert transport.open_exchanges == 0

    run(main, strict)


@pytest.mark.parametrize("strict", [True, False])
def test_a_plain_except_clause_outside_our_blocks_catches_what_was_raised_inside(strict: bool) -> None:
    async def main() -> None:
        transport = ScriptedTransport(echo)
        caught: list[str] = []
        for kind in (AiLibError, KeyboardInterrupt, trio.TooSlowError, ValueError):
            try:
                async with scripted_client(transport) as client, client.chat().user("x").stream():
                    raise kind("inside")
            except kind:
                caught.append(kind.__name__)
        assert caught == ["AiLibError", "KeyboardInterrupt", "TooSlowError", "ValueError"]

    run(main, strict)


@pytest.mark.parametrize("strict", [True, False])
def test_an_error_of_the_provider_is_caught_by_a_plain_except_around_the_client(strict: bool) -> None:
    async def main() -> None:
        transport = ScriptedTransport([Head(503, {"content-type": "application/json"})])
        for streams in (False, True):
            with pytest.raises(AiLibError) as info:
                async with scripted_client(transport) as client:
                    if streams:
                        async with client.chat().user("x").stream() as events:
                            async for _ in events:
                                pass
                    else:
                        await client.chat().user("x").execute()
            assert info.value.status == 503
            assert info.value.provider == "openai"

    run(main, strict)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("where", ["around the client", "around the call", "inside the stream"])
@pytest.mark.parametrize("streams", [False, True])
def test_fail_after_gives_too_slow_error_wherever_the_scope_stands(where: str, streams: bool, strict: bool) -> None:
    transport = ScriptedTransport([Head(200, {"content-type": "text/event-stream"}), Stall()])

    async def call(chat: object) -> None:
        if not streams:
            await chat.execute()  # type: ignore[attr-defined]
            return
        async with chat.stream() as events:  # type: ignore[attr-defined]
            if where == "inside the stream":
                with trio.fail_after(2):
                    await events.__anext__()
            await events.__anext__()

    async def main() -> None:
        began = trio.current_time()
        with pytest.raises(trio.TooSlowError):
            if where == "around the client":
                with trio.fail_after(2):
                    async with scripted_client(transport) as client:
                        await call(client.chat().user("x"))
            else:
                async with scripted_client(transport) as client:
                    with trio.fail_after(2):
                        await call(client.chat().user("x"))
        assert trio.current_time() - began == 2
        assert transport.open_exchanges == 0

    async def quiet() -> None:
        async with quiescence():
            await main()

    trio.run(quiet, strict_exception_groups=strict, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("strict", [True, False])
def test_move_on_after_inside_the_client_leaves_the_client_usable(strict: bool) -> None:
    transport = ScriptedTransport([Stall()], echo)

    async def main() -> None:
        async with scripted_client(transport) as client:
            with trio.move_on_after(1) as scope:
                await client.chat().user("x").execute()
            assert scope.cancelled_caught
            assert transport.open_exchanges == 0
            assert (await client.chat().user("again").execute()).content == "you said again"

    async def quiet() -> None:
        async with quiescence():
            await main()

    trio.run(quiet, strict_exception_groups=strict, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("streams", [False, True])
def test_a_cancel_token_gives_its_own_error_and_never_trios(streams: bool, strict: bool) -> None:
    transport = ScriptedTransport([Stall()])

    async def main() -> None:
        token = CancelToken()
        async with scripted_client(transport) as client, trio.open_nursery() as nursery:

            async def cancel() -> None:
                await trio.testing.wait_all_tasks_blocked()
                token.cancel("enough")

            nursery.start_soon(cancel)
            chat = client.chat().user("x").cancel_token(token)
            with pytest.raises(AiLibError, match="enough") as info:
                if streams:
                    async with chat.stream() as events:
                        await events.__anext__()
                else:
                    await chat.execute()
            assert info.value.kind == "cancel_token"
            assert transport.open_exchanges == 0

    run(main, strict)


@pytest.mark.parametrize("strict", [True, False])
def test_the_exceptions_of_the_users_own_nursery_inside_the_client_come_out_as_trio_made_them(strict: bool) -> None:
    async def main() -> None:
        async def fail() -> None:
            raise ValueError("a task of mine")

        caught: BaseException | None = None
        inner: BaseException | None = None
        try:
            async with scripted_client(ScriptedTransport([Stall()])) as client:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(client.chat().user("x").execute)
                        await trio.testing.wait_all_tasks_blocked()
                        nursery.start_soon(fail)
                except BaseException as exc:
                    inner = exc
                    raise
        except BaseException as exc:
            caught = exc
        assert caught is inner
        assert isinstance(caught, ExceptionGroup if strict else ValueError)

    run(main, strict)


def test_a_client_inside_a_cancelled_scope_lets_the_cancellation_through() -> None:
    async def main() -> None:
        with trio.CancelScope() as scope:
            async with scripted_client(ScriptedTransport([Stall()])) as client:
                scope.cancel()
                await client.chat().user("x").execute()
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            async with scripted_client(ScriptedTransport([Stall()])) as client:
                await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught

    run(main, True)


def test_a_cancelled_and_a_failing_part_of_the_body_come_out_as_they_were() -> None:
    """The body's own group may hold a `Cancelled` of an outer scope beside an error: both go on, untouched."""

    async def main() -> None:
        with pytest.raises(ExceptionGroup) as info, trio.CancelScope() as outer:
            async with scripted_client(ScriptedTransport([Stall()])) as client, trio.open_nursery() as nursery:

                async def grumble() -> None:
                    try:
                        await client.chat().user("x").execute()
                    finally:
                        raise ValueError("while cancelled")

                nursery.start_soon(grumble)
                await trio.testing.wait_all_tasks_blocked()
                outer.cancel()
                await trio.sleep_forever()
        assert [type(leaf) for leaf in info.value.exceptions] == [ValueError]

    run(main, True)


def test_under_asyncio_the_client_fails_with_one_clear_line() -> None:
    import asyncio

    async def main() -> None:
        async with scripted_client(ScriptedTransport([Stall()]), MODEL):
            raise AssertionError("it opened")

    with pytest.raises(CallerError) as info:
        asyncio.run(main())
    assert "runs on trio" in str(info.value)
    assert "\n" not in str(info.value)
