"""One attempt's conversation: what a fault is, what outweighs what, and limits on time and size, to the second."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ai_lib_trio import AiLibError, ProviderError, TransportError
from ai_lib_trio.pipeline.inflate import Inflater
from ai_lib_trio.testing import Data, Fail, Head, Hold, Quiescence, ScriptedTransport, Sending, Stall, Step, Wait
from client_support import SSE, body_of, delta, finish, frame, refused, scripted_client, streamed, whole
from test_inflate import PACKERS

JSON = {"content-type": "application/json"}


async def outcome(steps: list[Step], *, streams: bool, **settings: Any) -> tuple[str, AiLibError | None]:
    """The text that was delivered, and the error that came after it."""
    timeouts = settings.pop("per_call", None)
    async with scripted_client(ScriptedTransport(steps), **settings) as client:
        chat = client.chat().user("x")
        if timeouts is not None:
            chat = chat.timeouts(**timeouts)
        if not streams:
            try:
                return (await chat.execute()).content, None
            except AiLibError as exc:
                return "", exc
        events = chat.stream()
        async with events:
            try:
                async for _ in events:
                    pass
            except AiLibError as exc:
                with pytest.raises(type(exc)) as again:
                    events.response()
                assert again.value is exc  # noqa: PT017
                return events.partial().content, exc
        return events.response().content, None


FAULTS = {
    "a broken frame": ([Data(b"data: {nonsense\n\n")], "unreadable_frame"),
    "a broken frame and then its end": ([Data(b"data: {nonsense\n\n"), Data(frame(finish()))], "unreadable_frame"),
    "an end without a finish": ([], "truncated"),
    "a cut": ([Fail(TransportError("gone", kind="truncated"))], "truncated"),
    "a reset": ([Fail(TransportError("gone", kind="reset"))], "reset"),
    "a frame over the bound": ([Data(b"data: " + b"x" * 3000), Data(b"x")], "oversize"),
    "silence": ([Stall()], "idle_timeout"),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_in_a_stream_is_raised_after_everything_that_came_before(
    quiescence: Quiescence, autojump_clock: MockClock, name: str
) -> None:
    steps, kind = FAULTS[name]
    start = [Head(200, SSE), Data(frame(delta("one "))), Data(frame(delta("two")))]
    text, error = await outcome([*start, *steps], streams=True, max_frame_bytes=2000)
    assert text == "one two"
    assert isinstance(error, TransportError)
    assert error.kind == kind
    assert error.attempts[0].state == "partial"
    assert error.attempts[0].kind == kind
    assert not str(error.message).startswith("the provider the")


@pytest.mark.parametrize(
    ("steps", "kind"),
    [
        ([Head(200, JSON), Data(b"not json")], "unreadable_frame"),
        ([Head(200, {"content-type": "text/html"}), Data(b"<html>proxy</html>")], "wrong_content_type"),
        ([Head(302, {"location": "https://elsewhere.example/"})], "redirected"),
        ([Head(200, {**JSON, "content-encoding": "compress"}), Data(b"..")], "wrong_content_type"),
        ([Head(200, {**JSON, "content-encoding": "gzip"}), Data(b"not gzip")], "unreadable_frame"),
        ([Head(200, JSON), Data(b" " * 600), Data(b" " * 600)], "oversize"),
        ([Fail(TransportError("refused", kind="connect"))], "connect"),
        ([Fail(TransportError("TLS", kind="tls_refused"))], "tls_refused"),
        ([Sending(), Fail(TransportError("gone", kind="reset"))], "reset"),
        ([], "reset"),
        ([Head(204, {})], "truncated"),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_what_no_provider_should_send_is_one_error_with_its_kind(
    quiescence: Quiescence, streams: bool, steps: list[Step], kind: str
) -> None:
    text, error = await outcome(steps, streams=streams, max_reply_bytes=1000)
    assert text == ""
    assert isinstance(error, TransportError), error
    assert error.kind == kind
    assert error.provider == "openai"


@pytest.mark.parametrize("streams", [False, True])
async def test_html_of_a_proxy_with_an_error_status_keeps_its_status(quiescence: Quiescence, streams: bool) -> None:
    steps = [Head(502, {"content-type": "text/html"}), Data(b"<html>Bad Gateway</html>")]
    _, error = await outcome(steps, streams=streams)
    assert isinstance(error, ProviderError)
    assert (error.status, error.raw) == (502, b"<html>Bad Gateway</html>")
    assert error.attempts[0].state == "refused"


@pytest.mark.parametrize(
    "end", [[Stall()], [Fail(TransportError("cut", kind="truncated"))], [Data(b"x" * 100_000), Stall()]]
)
async def test_a_status_is_worth_more_than_how_its_body_ended(
    quiescence: Quiescence, autojump_clock: MockClock, end: list[Step]
) -> None:
    _, error = await outcome([Head(429, {"retry-after": "7"}), Data(b'{"error": '), *end], streams=True)
    assert isinstance(error, ProviderError)
    assert (error.code, error.status, error.retry_after_s) == ("E2001", 429, 7.0)
    assert len(error.raw) <= 64 * 1024


@pytest.mark.parametrize(
    "end",
    [
        [Fail(TransportError("cut", kind="truncated"))],
        [Fail(TransportError("gone", kind="reset"))],
        [Stall()],
        [Data(b"data: {trailing nonsense\n\n")],
    ],
)
async def test_evidence_of_a_complete_reply_outweighs_how_the_connection_ended(
    quiescence: Quiescence, autojump_clock: MockClock, end: list[Step]
) -> None:
    text, error = await outcome([*streamed("all ", "of it"), *end], streams=True)
    assert (text, error) == ("all of it", None)
    assert trio.current_time() <= 1.0  # a body's end is not waited for longer than that


async def test_a_reply_that_was_complete_keeps_no_connection_that_did_not_end(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport([*streamed("done"), Stall()])
    async with scripted_client(transport) as client:
        assert (await stream_text(client)) == "done"
        assert transport.asked[0].ended == "cancelled"
        assert trio.current_time() == 1.0


async def stream_text(client: Any) -> str:
    async with client.chat().user("x").stream() as events:
        async for _ in events:
            pass
    return str(events.response().content)


# ---- limits on time


async def test_the_connect_limit_is_the_manifests_unless_the_call_says_otherwise(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    _, error = await outcome([Stall()], streams=False)
    assert (error.kind, error.code, trio.current_time()) == ("connect_timeout", "E3003", 10.0)
    assert error.attempts[0].state == "unsent"
    _, error = await outcome([Stall()], streams=False, per_call={"connect_s": 2.5})
    assert (error.kind, trio.current_time()) == ("connect_timeout", 12.5)


@pytest.mark.parametrize("streams", [False, True])
async def test_the_first_byte_limit_counts_from_the_sending(
    quiescence: Quiescence, autojump_clock: MockClock, streams: bool
) -> None:
    _, error = await outcome([Wait(9), Sending(), Stall()], streams=streams)
    assert (error.kind, trio.current_time()) == ("first_byte_timeout", 609.0)
    assert error.attempts[0].state == "silent"
    _, error = await outcome([Sending(), Stall()], streams=streams, per_call={"first_byte_s": 30})
    assert trio.current_time() == 639.0


async def test_a_limit_that_passes_as_the_request_goes_out_is_called_by_its_own_name(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    """The connection is there at the instant at which the time for it is over."""
    for _ in range(8):  # which of both is seen first is the scheduler's chance
        start = trio.current_time()
        is_there = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_set_at, start + 10, is_there)
            _, error = await outcome([Hold(is_there), Sending(), Stall()], streams=True)
        assert (error.kind, trio.current_time() - start) == ("connect_timeout", 10.0)


async def _set_at(moment: float, event: trio.Event) -> None:
    await trio.sleep_until(moment)
    event.set()


async def test_the_idle_limit_counts_from_the_last_read(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    paced = [Head(200, SSE), *[step for _ in range(20) for step in (Wait(119), Data(frame(delta("x"))))], Stall()]
    text, error = await outcome(paced, streams=True)
    assert text == "x" * 20
    assert (error.kind, trio.current_time()) == ("idle_timeout", 20 * 119 + 120)


async def test_a_comment_line_is_a_sign_of_life(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    beats = [step for _ in range(10) for step in (Wait(100), Data(b": still here\n\n"))]
    text, error = await outcome([Head(200, SSE), *beats, *streamed("late")[1:]], streams=True)
    assert (text, error) == ("late", None)


async def test_a_deadline_covers_everything_and_is_an_error_of_its_own(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    for steps, streams in (([Stall()], False), ([Sending(), Stall()], True), ([*streamed("a")[:2], Stall()], True)):
        transport = ScriptedTransport(steps)
        async with scripted_client(transport) as client:
            began = trio.current_time()
            chat = client.chat().user("x").deadline(3)
            with pytest.raises(AiLibError) as info:
                if streams:
                    async with chat.stream() as events:
                        async for _ in events:
                            pass
                else:
                    await chat.execute()
            assert (info.value.kind, info.value.code, trio.current_time() - began) == ("deadline", "E3003", 3.0)
            assert transport.open_exchanges == 0


# ---- content coding


@pytest.mark.parametrize("coding", ["gzip", "deflate", "raw deflate"])
@pytest.mark.parametrize("streams", [False, True])
async def test_encoded_bodies_are_inflated(quiescence: Quiescence, coding: str, streams: bool) -> None:
    plain = b"".join(step.chunk for step in streamed("in", "flated") if isinstance(step, Data))
    body = plain if streams else json.dumps(body_of("inflated")).encode()
    if coding == "gzip":
        packed = gzip.compress(body)
    else:
        packer = zlib.compressobj(wbits=-15 if coding == "raw deflate" else 15)
        packed = packer.compress(body) + packer.flush()
    kind = "text/event-stream" if streams else "application/json"
    head = Head(200, {"content-type": kind, "content-encoding": coding.removeprefix("raw ")})
    for size in (1, 7, len(packed)):
        pieces: list[Step] = [Data(packed[at : at + size]) for at in range(0, len(packed), size)]
        assert await outcome([head, *pieces], streams=streams) == ("inflated", None)


async def test_a_body_that_inflates_to_a_huge_one_is_stopped_at_the_bound(quiescence: Quiescence) -> None:
    bomb = gzip.compress(b" " * 8_000_000)
    assert len(bomb) < 10_000
    _, error = await outcome(
        [Head(200, {**JSON, "content-encoding": "gzip"}), Data(bomb)], streams=False, max_reply_bytes=1_000_000
    )
    assert error.kind == "oversize"


async def test_others_get_their_turn_while_a_small_body_inflates_to_a_huge_one(quiescence: Quiescence) -> None:
    bomb = gzip.compress(b" " * 4_000_000 + json.dumps(body_of("small")).encode())
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    head = Head(200, {**JSON, "content-encoding": "gzip"})
    async with scripted_client(ScriptedTransport([head, Data(bomb)])) as client, trio.open_nursery() as nursery:
        nursery.start_soon(count)
        before = turns
        assert (await client.chat().user("x").execute()).content == "small"
        assert turns - before > 4_000_000 // (64 * 1024)
        nursery.cancel_scope.cancel()


async def test_what_follows_a_complete_encoded_stream_is_not_inflated(quiescence: Quiescence) -> None:
    plain = b"".join(step.chunk for step in streamed("whole") if isinstance(step, Data))
    packed = gzip.compress(plain + b"\n" * 9_000_000)
    steps = [Head(200, {**SSE, "content-encoding": "gzip"}), Data(packed)]
    assert await outcome(steps, streams=True, max_reply_bytes=1_000_000) == ("whole", None)


async def test_a_stream_asks_for_identity_and_a_whole_reply_may_be_encoded(quiescence: Quiescence) -> None:
    transport = ScriptedTransport(whole("x"), streamed("x"))
    async with scripted_client(transport) as client:
        await client.chat().user("x").execute()
        await stream_text(client)
    codings = [dict(asked.request.headers)["accept-encoding"] for asked in transport.asked]
    assert codings == [Inflater.accepted(), "identity"]
    assert codings[0].startswith("gzip, deflate")


@pytest.mark.parametrize("coding", ["br", "zstd"])
async def test_a_whole_reply_in_a_coding_that_is_installed_is_read(quiescence: Quiescence, coding: str) -> None:
    packed = dict(PACKERS)[coding](json.dumps(body_of("packed")).encode())
    steps = [Head(200, {**JSON, "content-encoding": coding}), Data(packed)]
    assert await outcome(steps, streams=False) == ("packed", None)


async def test_times_of_an_attempt_are_right_when_the_clock_starts_at_zero(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    steps: list[Step] = [Sending(), Wait(2), *streamed("a", "b", pace_s=1)]
    async with scripted_client(ScriptedTransport(steps)) as client:
        async with client.chat().user("x").stream() as events:
            async for _ in events:
                pass
        stats = events.stats
        assert trio.current_time() == stats.total_s
        assert (stats.queue_s, stats.connect_s, stats.first_token_s) == (0.0, 0.0, 3.0)
        assert stats.attempts[0].first_token_s == 3.0
        assert stats.total_s == 6.0


async def test_an_error_says_what_the_provider_said_and_not_what_was_asked(quiescence: Quiescence) -> None:
    _, error = await outcome(refused(401, "bad key"), streams=False)
    assert (error.code, error.provider_message, error.status) == ("E1002", "bad key", 401)
    shown = f"{error} {error!r} {error.attempts}"
    assert "test-key" not in shown
