"""Each fault does on the wire what it says. The client here is a raw socket."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from ai_lib_trio.simulator import (
    Body,
    CloseUnderNextRequest,
    ContentType,
    Cut,
    Encoded,
    Fault,
    Head,
    Headers,
    Hold,
    Insert,
    LineEnds,
    Omit,
    Oversize,
    Pause,
    Raw,
    RepeatEnd,
    Script,
    Simulator,
    SplitCharacters,
    Stall,
    Status,
    Text,
    Transfer,
    Trickle,
    Usage,
    Writes,
    html_page,
    not_json,
    open_simulator,
    redirect,
)
from simulator_support import Client, ask, asking, catalog, connect, http_bytes, request

ANSWER = [Text("one two three"), Usage(input_tokens=1, output_tokens=3)]


def script(*faults: Fault, **fields: Any) -> Script:
    return Script(steps=ANSWER, faults=faults, **fields)


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with open_simulator(catalog(), wall_time=lambda: 1_700_000_000.0) as running:
        yield running


def chat(**fields: Any) -> bytes:
    return asking("chat_completions", request(**fields))


async def plain(sim: Simulator, **fields: Any) -> bytes:
    """The body without a fault."""
    sim.script(script())
    return first((await ask(sim, chat(**fields))).body)


def first(body: bytes) -> bytes:
    """The body as the first request would have had it: replies are numbered."""
    return body.replace(b"chatcmpl-00000002", b"chatcmpl-00000001")


def unchunked(raw: bytes) -> bytes:
    """The payload of a chunked reply as far as it came."""
    _, _, rest = raw.partition(b"\r\n\r\n")
    out = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        out += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return out


async def raw_reply(sim: Simulator, *faults: Fault, **fields: Any) -> bytes:
    """Everything that comes on the connection until it ends."""
    sim.script(script(*faults, **fields))
    async with await connect(sim) as client:
        await client.send(chat())
        return await client.read_all()


@pytest.mark.parametrize("count", [0, 1, 10, 100, 257])
async def test_a_cut_after_bytes_lets_exactly_those_bytes_through(sim: Simulator, count: int) -> None:
    raw = await raw_reply(sim, Cut(after_bytes=count))
    assert len(unchunked(raw)) == count
    assert not raw.endswith(b"0\r\n\r\n")
    entry = sim.entries[0]
    assert (entry.bytes_sent, entry.outcome, entry.connection.end) == (count, "cut", "cut")


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_cut_after_frames_lets_those_frames_through(sim: Simulator, count: int) -> None:
    raw = await raw_reply(sim, Cut(after_frames=count))
    assert unchunked(raw).count(b"\n\n") == count == sim.entries[0].frames_sent


async def test_a_cut_may_be_a_reset(sim: Simulator) -> None:
    sim.script(script(Cut(after_frames=2, how="reset")))
    async with await connect(sim) as client:
        await client.send(chat())
        with pytest.raises(trio.BrokenResourceError):
            await client.read_all()
    entry = await sim.wait_end(1)
    assert (entry.outcome, entry.connection.end) == ("reset", "reset")


async def test_a_cut_may_end_the_body_in_order(sim: Simulator) -> None:
    whole = await plain(sim)
    sim.script(script(Cut(after_frames=3, how="end")))
    async with await connect(sim) as client:
        reply = await client.ask(chat())
        assert reply.body
        assert whole.startswith(first(reply.body))
        assert b"[DONE]" not in reply.body
        sim.script(script())
        assert (await client.ask(chat())).body  # the connection is still good
    assert [entry.outcome for entry in sim.entries] == ["served", "cut", "served"]


async def test_a_whole_body_is_cut_short_of_its_length(sim: Simulator) -> None:
    sim.script(script(Cut(after_bytes=20)))
    async with await connect(sim) as client:
        await client.send(chat(stream=False))
        head, _, body = (await client.read_all()).partition(b"\r\n\r\n")
    assert len(body) == 20
    assert int(head.partition(b"content-length: ")[2].split()[0]) > 20


async def test_a_stall_before_the_head_sends_nothing_and_sees_the_client_leave(sim: Simulator) -> None:
    sim.script(script(Stall()))
    async with await connect(sim) as client:
        await client.send(chat())
        entry = await sim.wait_entry(1)
        await trio.testing.wait_all_tasks_blocked()
        assert (entry.status, entry.outcome) == (None, "open")
    assert (await sim.wait_end(1)).outcome == "client_closed"
    assert (await sim.wait_connection_end(1)).end == "client_closed"
    assert sim.open_connections == 0


async def test_a_stall_after_frames_sends_those_frames_and_sees_the_client_leave(sim: Simulator) -> None:
    sim.script(script(Stall(at=2)))
    async with await connect(sim) as client:
        await client.send(chat())
        await client.read_until(b'"content":"one"')
        await trio.testing.wait_all_tasks_blocked()
        assert b" two" not in client.raw
        assert (sim.entries[0].frames_sent, sim.entries[0].outcome) == (2, "open")
    assert (await sim.wait_end(1)).left_by_client


async def test_a_stall_with_an_end_goes_on(sim: Simulator) -> None:
    whole = await plain(sim)
    sim.script(script(Stall(at=1, seconds=0.01)))
    assert first((await ask(sim, chat())).body) == whole


async def test_a_hold_waits_for_whoever_lets_it_go_on(sim: Simulator) -> None:
    gate = trio.Event()
    sim.script(Script(steps=[Text("before"), Hold(gate), Text("after")]))
    async with await connect(sim) as client:
        await client.send(chat())
        await client.read_until(b"before")
        assert b"after" not in client.raw
        gate.set()
        await client.read_until(b"[DONE]")
        assert b"after" in client.raw


async def test_inserted_bytes_stand_between_frames(sim: Simulator) -> None:
    whole = await plain(sim)
    sim.script(script(Insert(after_frames=2)))
    body = (await ask(sim, chat())).body
    garbage = Insert().data
    assert body.count(garbage) == 1
    assert first(body.replace(garbage, b"")) == whole
    assert body.split(garbage)[0].count(b"\n\n") == 2


async def test_comments_may_stand_after_every_frame(sim: Simulator) -> None:
    sim.script(script(Insert(b": keep-alive\n\n", after_frames=1, every=True)))
    body = (await ask(sim, chat())).body
    assert body.count(b": keep-alive") == body.count(b"data: ")


async def test_a_trickle_takes_its_time(autojump_clock: trio.testing.MockClock) -> None:
    async with open_simulator(catalog(), script(Trickle(bytes_per_second=10)), host=None) as sim, served(sim) as client:
        began = trio.current_time()
        reply = await client.ask(chat())
        assert trio.current_time() - began == pytest.approx(len(reply.body) / 10)


async def test_pace_and_first_token_delay_are_seconds_of_trio(autojump_clock: trio.testing.MockClock) -> None:
    paced = Script(steps=[Text("a b c"), Pause(5)], pace=2, first_token_delay=30)
    async with open_simulator(catalog(), paced, host=None) as sim, served(sim) as client:
        began = trio.current_time()
        await client.send(chat())
        await client.read_until(b"\r\n\r\n")
        assert trio.current_time() == began  # the head comes at once
        await client.read_until(b'"content":"a"')
        assert trio.current_time() - began == pytest.approx(30)
        await client.read_until(b'" c"')
        assert trio.current_time() - began == pytest.approx(34)
        await client.read_until(b"[DONE]")
        assert trio.current_time() - began == pytest.approx(39)


async def test_a_whole_body_waits_before_its_head(autojump_clock: trio.testing.MockClock) -> None:
    slow = Script(steps=[Pause(5), Text("a")], first_token_delay=30)
    async with open_simulator(catalog(), slow, host=None) as sim, served(sim) as client:
        began = trio.current_time()
        await client.send(chat(stream=False))
        await client.read()
        assert trio.current_time() - began == pytest.approx(35)


def served(sim: Simulator) -> Any:
    """A client on a memory stream, for virtual time."""
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def opened() -> AsyncIterator[Client]:
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sim.serve_stream, theirs)
            async with Client(ours) as client:
                yield client

    return opened()


async def writes_of(reply: Script, **fields: Any) -> list[bytes]:
    """The chunks of the body as the connection gets them, on a stream that does not join writes."""
    seen: list[bytes] = []

    class Watched(trio.abc.Stream):
        def __init__(self, inner: trio.abc.Stream) -> None:
            self.inner = inner

        async def send_all(self, data: Any) -> None:
            seen.append(bytes(data))
            await self.inner.send_all(data)

        async def wait_send_all_might_not_block(self) -> None:
            await self.inner.wait_send_all_might_not_block()

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return bytes(await self.inner.receive_some(max_bytes))

        async def aclose(self) -> None:
            await self.inner.aclose()

    async with open_simulator(catalog(), reply, host=None) as sim:
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sim.serve_stream, Watched(theirs))
            async with Client(ours) as client:
                await client.ask(chat(**fields))
    return [unchunked(b"\r\n\r\n" + data.removesuffix(b"0\r\n\r\n")) for data in seen[1:]]


async def test_a_frame_is_one_write_and_the_last_takes_the_end_along() -> None:
    chunks = await writes_of(script())
    assert all(chunk.startswith(b"data: ") and chunk.count(b"data: ") == 1 for chunk in chunks)


async def test_writes_have_the_sizes_that_were_asked_for() -> None:
    chunks = await writes_of(script(Writes((1, 2, 50))))
    assert [len(chunk) for chunk in chunks[:2]] == [1, 2]
    assert {len(chunk) for chunk in chunks[2:-1]} == {50}


async def test_split_characters_end_every_write_inside_one() -> None:
    chunks = await writes_of(Script(steps=[Text("日本 é🙂")], faults=[SplitCharacters()]))
    broken = [chunk for chunk in chunks if chunk and chunk[-1] >= 0xC0]
    assert len(broken) == 4
    assert "日本" in b"".join(chunks).decode()


@pytest.mark.parametrize("ends", ["\r\n", "\r"])
async def test_line_ends_are_those_of_the_fault(sim: Simulator, ends: Any) -> None:
    whole = await plain(sim)
    sim.script(script(LineEnds(ends)))
    body = (await ask(sim, chat())).body
    assert first(body) == whole.replace(b"\n", ends.encode())


async def test_line_ends_replace_those_of_a_dialect_that_has_crlf(sim: Simulator) -> None:
    sim.script(script(LineEnds("\r")), script())
    body = (await ask(sim, asking("generate_content", request()))).body
    assert b"\n" not in body
    assert b"\r\r" in body
    assert (await ask(sim, asking("generate_content", request()))).body.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(("coding", "wbits"), [("gzip", 31), ("deflate", 15)])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_encoded_body_inflates_to_the_same(sim: Simulator, coding: Any, wbits: int, stream: bool) -> None:
    whole = await plain(sim, stream=stream)
    sim.script(script(Encoded(coding)))
    reply = await ask(sim, chat(stream=stream))
    assert reply.headers["content-encoding"] == coding
    assert first(zlib.decompress(reply.body, wbits)) == whole
    assert coding != "gzip" or gzip.decompress(reply.body)


async def test_headers_are_what_the_fault_says(sim: Simulator) -> None:
    sim.script(script(ContentType("text/html"), Headers({"X-RateLimit-Remaining": "0"})))
    reply = await ask(sim, chat())
    assert (reply.headers["content-type"], reply.headers["x-ratelimit-remaining"]) == ("text/html", "0")
    sim.script(script(ContentType(None)))
    assert "content-type" not in (await ask(sim, chat())).headers


async def test_a_head_may_be_any_bytes(sim: Simulator) -> None:
    sim.script(script(Head(b"HTTP/1.1 banana\r\n\r\n")))
    async with await connect(sim) as client:
        await client.send(chat())
        assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 banana\r\n\r\n")


@pytest.mark.parametrize("how", ["length", "close"])
async def test_a_stream_may_end_by_length_or_by_the_connection(sim: Simulator, how: Any) -> None:
    whole = await plain(sim)
    sim.script(script(Transfer(how)))
    async with await connect(sim) as client:
        await client.send(chat())
        if how == "close":
            raw = await client.read_all()
            assert b"connection: close" in raw
        else:
            raw = await client.read_until(b"[DONE]\n\n")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert first(body) == whole
    assert (b"content-length" in head) == (how == "length")
    assert b"transfer-encoding" not in head
    assert sim.entries[1].outcome == "served"


async def test_the_last_frame_may_come_twice(sim: Simulator) -> None:
    sim.script(script(RepeatEnd()))
    assert (await ask(sim, chat())).body.count(b"[DONE]") == 2


@pytest.mark.parametrize(
    ("kinds", "missing"), [(("done",), b"[DONE]"), (("finish",), b'"finish_reason":"stop"'), (("usage",), b'"usage"')]
)
async def test_frames_of_a_kind_may_be_left_out(sim: Simulator, kinds: tuple[str, ...], missing: bytes) -> None:
    assert missing in await plain(sim)
    sim.script(script(Omit(kinds)))
    assert missing not in (await ask(sim, chat())).body


async def test_an_oversize_frame_is_one_frame(sim: Simulator) -> None:
    sim.script(script(Oversize(300_000)))
    body = (await ask(sim, chat())).body
    sizes = sorted(len(frame) for frame in body.split(b"\n\n"))
    assert 300_000 < sizes[-1] < 301_000
    assert sizes[-2] < 1000
    json.loads(max(body.split(b"\n\n"), key=len).removeprefix(b"data: "))


async def test_a_kept_connection_may_close_under_the_next_request(sim: Simulator) -> None:
    sim.script(script(CloseUnderNextRequest()))
    async with await connect(sim) as client:
        assert (await client.ask(chat())).headers.get("connection") != "close"
        await trio.testing.wait_all_tasks_blocked()
        assert sim.open_connections == 1
        await client.send(chat())
        with pytest.raises(trio.BrokenResourceError):  # our end had bytes unread, or the answer is a plain end
            if not await client.read():
                raise trio.BrokenResourceError
    assert (await sim.wait_connection_end(1)).end == "cut"
    assert len(sim.entries) == 1


async def test_an_error_status_carries_its_headers(sim: Simulator) -> None:
    sim.script(Status(429, "slow down", retry_after="Sun, 22 Nov 2026 10:00:00 GMT", headers={"x-reset": "6m0s"}))
    reply = await ask(sim, chat())
    assert reply.status == 429
    assert (reply.headers["retry-after"], reply.headers["x-reset"]) == ("Sun, 22 Nov 2026 10:00:00 GMT", "6m0s")


async def test_a_proxys_page_a_redirect_and_no_json_are_what_they_say(sim: Simulator) -> None:
    sim.script(html_page(502), redirect("http://127.0.0.1:9/elsewhere"), not_json())
    page, moved, broken = [await ask(sim, chat()) for _ in range(3)]
    assert (page.status, page.headers["content-type"]) == (502, "text/html; charset=utf-8")
    assert page.body.startswith(b"<html>")
    assert (moved.status, moved.headers["location"], moved.body) == (307, "http://127.0.0.1:9/elsewhere", b"")
    assert broken.headers["content-type"] == "application/json"
    with pytest.raises(ValueError, match="Expecting"):
        _ = broken.json


async def test_a_body_of_bytes_goes_out_as_it_is(sim: Simulator) -> None:
    sim.script(Body(b"\x00\xff", 200, "application/octet-stream", {"x-a": "b"}))
    reply = await ask(sim, chat())
    assert (reply.body, reply.headers["x-a"]) == (b"\x00\xff", "b")


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_raw_bytes_are_the_whole_conversation(sim: Simulator, how: Any) -> None:
    sim.script(Raw(b"SSH-2.0-OpenSSH\r\n", how))
    async with await connect(sim) as client:
        await client.send(chat())
        if how == "close":
            assert await client.read_all() == b"SSH-2.0-OpenSSH\r\n"
        else:
            with pytest.raises(trio.BrokenResourceError):
                await client.read_all()
    assert (await sim.wait_connection_end(1)).end == ("closed" if how == "close" else "reset")


async def test_a_connection_may_be_silent_or_cut_before_its_first_request(sim: Simulator) -> None:
    sim.on_connect(Raw(b"", "reset"), Stall(seconds=60))
    async with await connect(sim) as client:
        with pytest.raises(trio.BrokenResourceError):
            await client.read_all()
    async with await connect(sim) as client:
        await client.send(chat())
        await trio.testing.wait_all_tasks_blocked()
        assert not sim.entries
    assert (await sim.wait_connection_end(2)).end == "client_closed"


async def test_tls_is_refused_with_an_alert(sim: Simulator) -> None:
    async with await connect(sim) as client:
        await client.send(bytes.fromhex("1603010005") + b"hello")
        assert await client.read_all() == bytes.fromhex("15030100020228")
    assert (await sim.wait_connection_end(1)).end == "tls_refused"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/2.0\r\nhost: x\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nhost: x\r\na: " + b"x" * 70_000, 431),
    ],
)
async def test_bytes_that_are_no_request_are_refused_and_journaled(sim: Simulator, data: bytes, status: int) -> None:
    async with await connect(sim) as client:
        await client.send(data)
        assert (await client.read_all()).startswith(f"HTTP/1.1 {status} ".encode())
    entry = await sim.wait_end(1)
    assert (entry.status, entry.connection.end) == (status, "closed")
    assert entry.refused


async def test_a_request_is_read_in_pieces_in_chunks_and_after_a_continue(sim: Simulator) -> None:
    data = chat(stream=False)
    head, _, body = data.partition(b"\r\n\r\n")
    sim.script(script(), times=None)
    async with await connect(sim) as client:
        for at in range(len(data)):
            await client.send(data[at : at + 1])
        await client.read_until(b"one two three")
    head = head[: head.index(b"content-length")] + b"transfer-encoding: chunked"
    async with await connect(sim) as client:
        half = len(body) // 2
        await client.send(head + b"\r\n\r\n" + b"%x;note=1\r\n%b\r\n" % (half, body[:half]))
        await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) - half, body[half:]))
        await client.read_until(b"one two three")
    async with await connect(sim) as client:
        await client.send(data.partition(b"\r\n\r\n")[0] + b"\r\nexpect: 100-continue\r\n\r\n")
        await client.read_until(b"100 Continue\r\n\r\n")
        await client.send(body)
        await client.read_until(b"one two three")


async def test_requests_sent_ahead_are_answered_in_order(sim: Simulator) -> None:
    sim.script(*(Script(steps=[Text(f"answer {number}")]) for number in range(3)))
    async with await connect(sim) as client:
        await client.send(chat(stream=False) * 3)
        raw = await client.read_until(b"answer 2")
    assert raw.index(b"answer 0") < raw.index(b"answer 1") < raw.index(b"answer 2")


async def test_a_client_of_http_1_0_gets_its_connection_closed(sim: Simulator) -> None:
    async with await connect(sim) as client:
        await client.send(chat(stream=False).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
        assert b"connection: close" in await client.read_all()


async def test_get_without_a_body_is_a_request(sim: Simulator) -> None:
    reply = await ask(sim, http_bytes("", "/models", b"", method="GET"))
    assert reply.status == 404
