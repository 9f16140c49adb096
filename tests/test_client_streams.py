"""Streams: backpressure, what is folded when, leaving early, dropping, and never mixing two calls."""

from __future__ import annotations

import gc
import threading
from itertools import pairwise
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import AdmissionError, AiLibError, CallerError, PartialContentDelta, StreamEnd, TransportError, fold
from ai_lib_trio.client.stream import FRESH_EVENTS, joined
from ai_lib_trio.testing import Data, Fail, Head, Hold, Quiescence, ScriptedTransport, Stall, Step, Wait, json_reply
from ai_lib_trio.types.events import FinalCandidate, OpaqueBlock, Rerouted, ThinkingDelta
from client_support import SSE, delta, echo, finish, frame, scripted_client, streamed, whole


def endless(request: Any) -> list[Step]:
    return [Head(200, SSE), *[Data(frame(delta(f"{number} "))) for number in range(1000)]]


# ---- backpressure


async def test_a_consumer_that_stops_reading_stops_the_reading_of_the_engine(quiescence: Quiescence) -> None:
    transport = ScriptedTransport(endless)
    async with scripted_client(transport) as client, client.chat().user("x").stream() as events:
        [asked] = await asked_of(transport)
        await wait_all_tasks_blocked()
        assert asked.chunks <= 2
        for taken in range(1, 100):
            await events.__anext__()
            await wait_all_tasks_blocked()
            assert asked.chunks <= taken + 2, "read further than two batches ahead"
        assert asked.waits > 0


async def asked_of(transport: ScriptedTransport) -> list[Any]:
    while not transport.asked:
        await trio.lowlevel.checkpoint()
    return transport.asked


async def test_the_idle_clock_stands_still_while_the_consumer_is_slow(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(streamed("a", "b", "c", "d", "e"))
    async with scripted_client(transport) as client, client.chat().user("x").stream() as events:
        text = ""
        async for event in events:
            await trio.sleep(1000)
            if isinstance(event, PartialContentDelta):
                text += event.content
    assert text == "abcde"
    assert trio.current_time() >= 5000


async def test_the_idle_clock_runs_again_when_the_consumer_reads(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport([*streamed("a", "b", "c")[:4], Stall()])
    async with scripted_client(transport) as client, client.chat().user("x").stream() as events:
        for _ in range(3):
            await events.__anext__()
            await trio.sleep(1000)
        began = trio.current_time()
        with pytest.raises(TransportError) as info:
            async for _ in events:
                pass
        assert info.value.kind == "idle_timeout"
        assert trio.current_time() - began <= 120


async def test_a_deadline_ends_a_stream_whose_consumer_is_slow(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(endless)
    async with scripted_client(transport) as client:
        async with client.chat().user("x").deadline(10).stream() as events:
            await events.__anext__()
            await trio.sleep(60)
            assert transport.open_exchanges == 0
            with pytest.raises(AdmissionError) as info:
                async for _ in events:
                    pass
        assert info.value.kind == "deadline"


# ---- what is folded when


async def test_partial_is_the_fold_of_what_arrived_and_response_of_the_whole(quiescence: Quiescence) -> None:
    release = trio.Event()
    steps = streamed("one ", "two ", "three")
    transport = ScriptedTransport([*steps[:3], Hold(release), *steps[3:]])
    async with scripted_client(transport) as client:
        stream = client.chat().user("x").stream()
        for unstarted in (stream.partial, stream.response):
            with pytest.raises(CallerError):
                unstarted()
        async with stream as events:
            await events.__anext__()
            await events.__anext__()
            assert events.partial().content == "one two "
            assert events.partial().finish_reason is None
            assert events.stats.attempts[0].outcome == "cancelled" or events.stats.events >= 2
            with pytest.raises(CallerError, match="partial"):
                events.response()
            release.set()
            rest = [event async for event in events]
        assert isinstance(rest[-1], StreamEnd)
        reply = events.response()
        assert (reply.content, reply.finish_reason, reply.usage.total_tokens) == ("one two three", "end_turn", 5)
        assert events.partial() == reply
        assert events.stats.attempts[0].state == "complete"


async def test_a_long_stream_keeps_its_text_and_not_its_events(quiescence: Quiescence) -> None:
    texts = [f"{number} " for number in range(300)]
    transport = ScriptedTransport(streamed(*texts))
    async with scripted_client(transport) as client, client.chat().user("x").stream() as events:
        read = 0
        async for _ in events:
            read += 1
            assert len(events._unfolded) <= FRESH_EVENTS
            if read in (100, 200):
                assert events.partial().content == "".join(texts[:read])
    assert events.response().content == "".join(texts)
    assert events.stats.events >= 300


text_events = st.builds(
    PartialContentDelta, st.text(max_size=3), st.integers(0, 1), st.integers(0, 1)
)  # few blocks and candidates, so that neighbours are often of one
other_events = st.one_of(
    st.builds(ThinkingDelta, st.text(max_size=3), st.integers(0, 1)),
    st.just(OpaqueBlock(0, "signature", "s", of="text")),
    st.builds(Rerouted, st.just("a/1"), st.just("b/2"), st.just("E3001 reset"), discard=st.booleans()),
    st.just(FinalCandidate(0, "end_turn", "stop")),
)


@given(st.lists(st.one_of(text_events, other_events)))
def test_pieces_that_were_joined_fold_to_the_same_reply(events: list[Any]) -> None:
    pieces = joined(events)
    assert fold(pieces) == fold(events)
    for before, after in pairwise(pieces):
        if isinstance(before, PartialContentDelta) and isinstance(after, PartialContentDelta):
            assert (before.block_index, before.candidate_index) != (after.block_index, after.candidate_index)


async def test_a_stream_that_was_left_before_its_end_has_no_response(quiescence: Quiescence) -> None:
    """Not even where all of it had arrived: what the caller did not read may be more than what they did."""
    async with scripted_client(ScriptedTransport(streamed("one ", "two ", "three"))) as client:
        for reads in range(3):
            async with client.chat().user("x").stream() as events:
                for _ in range(reads):
                    await events.__anext__()
                await wait_all_tasks_blocked()
            with pytest.raises(CallerError, match="partial"):
                events.response()
        assert events.partial().content == "one two "


async def test_a_stream_that_was_left_at_its_end_event_has_its_response(quiescence: Quiescence) -> None:
    async with scripted_client(ScriptedTransport(streamed("one ", "two"))) as client:
        async with client.chat().user("x").stream() as events:
            async for event in events:
                if isinstance(event, StreamEnd):
                    break
        assert events.response().content == "one two"


async def test_an_error_is_raised_by_the_iteration_and_again_by_response(quiescence: Quiescence) -> None:
    broken = TransportError("cut", kind="reset")
    transport = ScriptedTransport([*streamed("one")[:2], Fail(broken)])
    async with scripted_client(transport) as client:
        async with client.chat().user("x").stream() as events:
            got = []
            with pytest.raises(TransportError) as info:
                async for event in events:
                    got.append(event)
            assert [event.content for event in got if isinstance(event, PartialContentDelta)] == ["one"]
            with pytest.raises(TransportError) as again:
                await events.__anext__()
        with pytest.raises(TransportError) as last:
            events.response()
        assert info.value is again.value is last.value is broken
        assert client.stats() == {"calls": 1, "open": 0, "ok": 0, "failed": 1, "cancelled": 0}


async def test_a_stream_is_used_once(quiescence: Quiescence) -> None:
    async with scripted_client(ScriptedTransport(echo)) as client:
        stream = client.chat().user("x").stream()
        async with stream as events:
            async for _ in events:
                pass
            assert [event async for event in events] == []
        with pytest.raises(CallerError, match="once"):
            async with stream:
                raise AssertionError("it opened again")


async def test_two_tasks_cannot_read_one_stream(quiescence: Quiescence) -> None:
    async with scripted_client(ScriptedTransport([Head(200, SSE), Stall()])) as client:
        async with client.chat().user("x").stream() as events, trio.open_nursery() as nursery:
            nursery.start_soon(events.__anext__)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await events.__anext__()
            nursery.cancel_scope.cancel()
        unstarted = client.chat().user("y").stream()
        failures = []

        async def read() -> None:
            try:
                await unstarted.__anext__()
            except (CallerError, trio.BusyResourceError) as exc:
                failures.append(exc)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert len(failures) == 1
        await unstarted.aclose()


async def test_events_within_a_read_come_without_a_switch_of_tasks(quiescence: Quiescence) -> None:
    together = b"".join(frame(delta(text)) for text in "abcdef")
    transport = ScriptedTransport([Head(200, SSE), Data(together), Stall()])
    async with scripted_client(transport) as client, client.chat().user("x").stream() as events:
        await events.__anext__()
        with trio.CancelScope() as scope:
            scope.cancel()
            for _ in range(5):
                await events.__anext__()
        assert not scope.cancelled_caught


# ---- leaving and dropping


async def test_leaving_a_stream_early_closes_its_exchange_before_the_block_is_over(quiescence: Quiescence) -> None:
    transport = ScriptedTransport(endless)
    async with scripted_client(transport) as client:
        async with client.chat().user("x").stream() as events:
            async for _ in events:
                break
        assert transport.asked[0].ended == "cancelled"
        assert client.tree().open_calls == 0
        assert client.stats()["cancelled"] == 1
        await events.aclose()


async def test_a_stream_that_is_dropped_early_warns_and_closes_in_the_next_turns(quiescence: Quiescence) -> None:
    transport = ScriptedTransport(endless)
    async with scripted_client(transport) as client:
        async for _ in (events := client.chat().user("x").stream()):
            break
        assert transport.open_exchanges == 1
        with pytest.warns(ResourceWarning, match=r"call 1 \(openai/a-model\)"):  # noqa: PT031
            del events
            gc.collect()
        assert transport.open_exchanges == 1  # nothing waits inside __del__
        await wait_all_tasks_blocked()
        assert transport.open_exchanges == 0
        assert client.tree().open_calls == 0


async def test_a_stream_may_be_dropped_from_another_thread(quiescence: Quiescence) -> None:
    transport = ScriptedTransport(endless)
    async with scripted_client(transport) as client:
        holder: list[Any] = [client.chat().user("x").stream()]
        await holder[0].__anext__()
        caught: list[Any] = []

        def drop() -> None:
            with pytest.warns(ResourceWarning, match="dropped"):  # noqa: PT031
                holder.clear()
                gc.collect()
            caught.append(True)

        thread = threading.Thread(target=drop)
        thread.start()
        thread.join()
        assert caught
        await wait_all_tasks_blocked()
        assert transport.open_exchanges == 0


async def test_a_stream_that_a_name_still_holds_stays_open_until_the_clients_block_ends(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(endless)
    async with scripted_client(transport) as client:
        events = client.chat().user("x").stream()
        async for _ in events:
            break
        await trio.sleep(1000)
        assert transport.open_exchanges == 1
        began = trio.current_time()
    assert transport.open_exchanges == 0
    assert trio.current_time() == began, "nobody reads it: no grace"
    with pytest.warns(ResourceWarning, match="call 1"):  # noqa: PT031
        del events
        gc.collect()


async def test_a_plain_loop_to_the_end_leaves_nothing_and_warns_of_nothing(quiescence: Quiescence) -> None:
    transport = ScriptedTransport(echo)
    async with scripted_client(transport) as client:
        texts = [event.content async for event in client.chat().user("x").stream() if hasattr(event, "content")]
        assert "".join(texts) == "you said x"
        assert client.tree().open_calls == 0
        assert transport.open_exchanges == 0


async def test_a_plain_loop_that_is_cancelled_closes_its_call(quiescence: Quiescence) -> None:
    transport = ScriptedTransport([*streamed("one")[:2], Stall()])
    async with scripted_client(transport) as client:
        with trio.CancelScope() as scope:
            async for _ in client.chat().user("x").stream():
                scope.cancel()
        assert scope.cancelled_caught
        assert transport.open_exchanges == 0
        assert client.tree().open_calls == 0


async def test_a_stream_that_is_never_started_costs_and_warns_nothing(quiescence: Quiescence) -> None:
    transport = ScriptedTransport(echo)
    async with scripted_client(transport) as client:
        client.chat().user("x").stream()
        gc.collect()
        assert transport.asked == []
        assert client.stats()["calls"] == 0


# ---- the end of the client's block


async def test_the_clients_block_waits_for_attended_calls_of_other_tasks_within_the_grace(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    got: list[Any] = []

    async def read(client: Any, text: str, streams: bool) -> None:
        try:
            if streams:
                async with client.chat().user(text).stream() as events:
                    got.append("".join([e.content async for e in events if isinstance(e, PartialContentDelta)]))
            else:
                got.append((await client.chat().user(text).execute()).content)
        except AiLibError as exc:
            got.append(exc.kind)

    def slow(request: Any) -> list[Step]:
        steps = list(echo(request))
        last = float(request.body.decode().split("wait ")[1].split('"')[0])
        return [steps[0], Wait(last), *steps[1:]]

    async with trio.open_nursery() as nursery:
        async with scripted_client(ScriptedTransport(slow), shutdown_grace_s=5) as client:
            for streams in (False, True):
                nursery.start_soon(read, client, "wait 3", streams)
                nursery.start_soon(read, client, "wait 60", streams)
            await wait_all_tasks_blocked()
        assert trio.current_time() == 5.0
    assert sorted(got) == ["client_closed", "client_closed", "you said wait 3", "you said wait 3"]


async def test_no_call_begins_once_the_clients_block_is_being_left(quiescence: Quiescence) -> None:
    transport = ScriptedTransport(echo)
    async with scripted_client(transport) as client:
        pass
    with pytest.raises(AdmissionError) as info:
        await client.chat().user("x").execute()
    assert info.value.kind == "client_closed"
    with pytest.raises(AdmissionError):
        async with client.chat().user("x").stream():
            raise AssertionError("it opened")
    with pytest.raises(AdmissionError):
        async for _ in client.chat().user("x").stream():
            raise AssertionError("it began")
    assert transport.asked == []


async def test_an_error_in_the_block_ends_calls_of_other_tasks_without_a_grace(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    kinds = []

    async def read(client: Any) -> None:
        with pytest.raises(AiLibError) as info:
            await client.chat().user("x").execute()
        kinds.append(info.value.kind)

    async with trio.open_nursery() as nursery:
        with pytest.raises(ValueError, match="mine"):
            async with scripted_client(ScriptedTransport([Stall()])) as client:
                nursery.start_soon(read, client)
                await wait_all_tasks_blocked()
                raise ValueError("mine")
        assert trio.current_time() == 0.0
    assert kinds == ["client_closed"]


async def test_what_arrived_before_the_client_was_closed_is_still_read(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    got: list[Any] = []

    async def read(client: Any, began: trio.Event, closed: trio.Event) -> None:
        async with client.chat().user("x").stream() as events:
            got.append(await events.__anext__())
            began.set()
            await closed.wait()
            with pytest.raises(AdmissionError):
                async for event in events:
                    got.append(event)
            with pytest.raises(AdmissionError):
                events.response()

    async with trio.open_nursery() as nursery:
        closed, began = trio.Event(), trio.Event()
        async with scripted_client(ScriptedTransport(endless)) as client:
            nursery.start_soon(read, client, began, closed)
            await began.wait()
        closed.set()
    texts = [event.content for event in got if isinstance(event, PartialContentDelta)]
    assert texts == [f"{number} " for number in range(len(texts))]
    assert len(texts) >= 2


async def test_a_whole_reply_to_a_streamed_call_is_read_as_one(quiescence: Quiescence) -> None:
    """A server that answers a stream with a JSON body is understood by its content type."""
    async with scripted_client(ScriptedTransport(whole("all at once"))) as client:
        async with client.chat().user("x").stream() as events:
            async for _ in events:
                pass
        assert events.response().content == "all at once"


# ---- what of a reply was not read


@pytest.mark.parametrize("streams", [True, False])
async def test_what_was_lost_or_mended_of_a_reply_is_told(quiescence: Quiescence, streams: bool) -> None:
    nameless = {"index": 0, "id": "x", "type": "function", "function": {"arguments": "{}"}}
    if streams:
        lost = frame({"choices": [{"index": 0, "delta": {"tool_calls": [nameless]}}]})
        mended = b'data: {"choices": [{"index": 0, "delta": {"content": "\\ud800"}}]}\n\n'
        frames = [frame(delta("a")), lost, mended, frame({"unknown": 1}), frame(finish()), frame("[DONE]")]
        reply = [Head(200, SSE), *map(Data, frames)]
    else:
        message = {"role": "assistant", "content": "a", "tool_calls": [nameless]}
        reply = json_reply({"id": "c-1", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
    async with scripted_client(ScriptedTransport(reply)) as client:
        if streams:
            async with client.chat("x").stream() as events:
                async for _ in events:
                    pass
            stats = events.stats
        else:
            _, stats = await client.chat("x").execute_with_stats()
    assert [line.split()[2] for line in stats.warnings] == (["1", "1"] if streams else ["1"])
    assert "calls of tools without a name" in stats.warnings[0]
    assert stats.unread_frames == (1 if streams else 0)
