"""The journal tells what happened and holds no key; the simulator leaves nothing behind."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from ai_lib_trio.errors import CallerError
from ai_lib_trio.simulator import Entry, Hold, Reply, Script, Stall, Status, Text, Usage, open_simulator
from ai_lib_trio.simulator.journal import MASK, Masker
from ai_lib_trio.types.message import Message
from simulator_support import Client, ask, asking, catalog, connect, http_bytes, request

SECRET = "sk-test-0123456789"


def chat(**fields: Any) -> bytes:
    return asking("chat_completions", request(**fields))


# ---- credentials ----


@pytest.mark.parametrize("provider", catalog().providers())
async def test_no_key_stands_in_the_journal_wherever_its_manifest_puts_it(provider: str) -> None:
    auth = catalog().provider(provider).auth
    headers = [(auth.header.lower(), f"{auth.prefix} {SECRET}".strip())] if auth.header else []
    query = f"?{auth.param_name}={SECRET}&alt=sse" if auth.param_name else ""
    body = json.dumps({"note": f"my key is {SECRET}"}).encode()
    async with open_simulator(catalog()) as sim:
        await ask(sim, http_bytes(f"/{provider}", f"/x{query}", body, headers=headers))
        entry = sim.entries[0]
        assert auth.header is None or entry.header(auth.header) == MASK
        if auth.header or auth.param_name:
            assert entry.key == "unknown"
            assert SECRET not in json.dumps(entry.as_dict()) + repr(entry) + repr(sim) + repr(sim.connections)


async def test_a_key_in_a_prompt_is_masked_in_what_the_prompt_is_lifted_to() -> None:
    headers = [("authorization", f"Bearer {SECRET}")]
    wanted = request(stream=False, messages=(Message.user(f"My key is {SECRET}."),))
    async with open_simulator(catalog()) as sim:
        await ask(sim, asking("chat_completions", wanted, headers=headers))
        entry = sim.entries[0]
        assert entry.request is not None
        assert entry.request.messages[0].text == f"My key is {MASK}."
        assert SECRET not in repr(entry.request) + json.dumps(entry.as_dict())


async def test_a_short_key_does_not_mask_words() -> None:
    headers = [("authorization", "Bearer test")]
    async with open_simulator(catalog()) as sim:
        await ask(sim, asking("chat_completions", request(messages=(Message.user("a test"),)), headers=headers))
        entry = sim.entries[0]
        assert entry.header("authorization") == MASK
        assert entry.body["messages"][0]["content"] == "a test"


@pytest.mark.parametrize(
    "name", ["Authorization", "X-Api-Key", "api-key", "x-some-token", "X-Secret", "cookie", "proxy-authorization"]
)
def test_the_usual_names_of_credentials_are_masked(name: str) -> None:
    masker = Masker(["x-declared"])
    assert masker.hides(name)
    assert masker.hides("X-Declared")
    assert masker.masked([(name, f"Bearer {SECRET}")], []) == [(name, MASK)]


@pytest.mark.parametrize("name", ["content-type", "idempotency-key", "x-request-id", "anthropic-version", "alt"])
def test_other_headers_are_kept(name: str) -> None:
    assert not Masker().hides(name)


async def test_keys_are_known_by_their_owner_and_wrong_ones_are_refused() -> None:
    names = [name for name in catalog().providers() if catalog().provider(name).auth.header]
    bearers = [name for name in names if catalog().provider(name).auth.type == "bearer"][:2]
    one, other = [name for name in bearers if catalog().provider(name).families]
    keys = {one: "key-of-one", other: "key-of-other"}
    async with open_simulator(catalog(), keys=keys) as sim:
        for given, status, known in [
            ("key-of-one", 200, one),
            ("key-of-other", 401, other),
            ("nobodys", 401, "unknown"),
            (None, 401, None),
        ]:
            headers = [("authorization", f"Bearer {given}")] if given else []
            dialect = catalog().provider(one).family().dialect
            reply = await ask(sim, asking(dialect, request(stream=False), name=one, headers=headers))
            assert reply.status == status
            assert sim.entries[-1].key == known


# ---- what is answered ----


async def test_answers_are_queued_by_model_provider_and_match() -> None:
    async with open_simulator(catalog()) as sim:
        sim.script(Script(steps=[Text("for b")]), model="b")
        sim.script(Script(steps=[Text("for messages")]), provider="messages", times=None)
        sim.script(Script(steps=[Text("for hot")]), match=lambda entry: entry.body.get("temperature") == 2)
        sim.script(Status(503), Script(steps=[Text("twice")]), times=1)

        async def said(dialect: str, **fields: Any) -> tuple[int, bytes]:
            reply = await ask(sim, asking(dialect, request(stream=False, **fields)))
            return reply.status, reply.body

        assert b"for messages" in (await said("messages"))[1]
        assert b"for b" in (await said("chat_completions", model="b"))[1]
        assert b"for hot" in (await said("chat_completions", temperature=2))[1]
        assert (await said("chat_completions"))[0] == 503
        assert b"twice" in (await said("chat_completions", model="b"))[1]
        assert b"You said: Hi" in (await said("chat_completions"))[1]
        assert b"for messages" in (await said("messages"))[1]


async def test_scripts_may_be_one_answer_a_list_a_mapping_or_a_function() -> None:
    one, two = Script(steps=[Text("one")]), Script(steps=[Text("two")])

    def made(entry: Entry) -> Reply:
        return Script(steps=[Text(f"made for {entry.model}")])

    async def said(scripts: Any, *models: str) -> list[str]:
        async with open_simulator(catalog(), scripts) as sim:
            replies = [await ask(sim, chat(stream=False, model=model)) for model in models]
        return [reply.json["choices"][0]["message"]["content"] for reply in replies]

    assert await said(one, "a", "a") == ["one", "one"]
    assert await said([one, two], "a", "a", "a") == ["one", "two", "You said: Hi"]
    assert await said({"a": one, "b": [two]}, "b", "a", "b", "a") == ["two", "one", "You said: Hi", "one"]
    assert await said(made, "a", "b") == ["made for a", "made for b"]


async def test_an_empty_queue_and_an_unknown_name_are_errors() -> None:
    async with open_simulator(catalog()) as sim:
        with pytest.raises(CallerError, match="at least one answer"):
            sim.script()
        with pytest.raises(CallerError, match="nobody"):
            sim.base_url("nobody")
        with pytest.raises(CallerError, match="nobody"):
            sim.script(Script(), provider="nobody")
        assert sim.base_url("openai_style") == sim.base_url("chat_completions")


# ---- what is told ----


async def test_an_entry_tells_a_request_and_its_end() -> None:
    changes: list[tuple[str, int, str]] = []

    def changed(what: str, entry: Entry) -> None:
        changes.append((what, entry.number, entry.outcome))

    async with open_simulator(catalog(), Script(steps=[Text("Hello")]), on_change=changed) as sim:
        async with await connect(sim) as client:
            reply = await client.ask(chat())
            await client.ask(chat(stream=False))
        await sim.wait_quiet()
        first, second = sim.entries
        assert (first.number, first.connection.number, first.method) == (1, 1, "POST")
        assert (first.path, first.dialect, first.provider) == (
            "/chat_completions/chat/completions",
            "chat_completions",
            None,
        )
        assert (first.status, first.streamed, first.outcome) == (200, True, "served")
        assert first.bytes_sent == len(reply.body)
        assert first.frames_sent == reply.body.count(b"data: ")
        assert first.ended_at is not None
        assert first.ended_at >= first.at
        assert second.connection is first.connection
        assert first.connection.end == "client_closed"
        assert json.loads(json.dumps(first.as_dict()))["connection_end"] == "client_closed"
        assert changes == [("request", 1, "open"), ("end", 1, "served"), ("request", 2, "open"), ("end", 2, "served")]


async def test_a_client_that_leaves_between_frames_is_seen_at_once() -> None:
    gate = trio.Event()
    async with open_simulator(catalog(), Script(steps=[Text("a"), Hold(gate)])) as sim:
        async with await connect(sim) as client:
            await client.send(chat())
            await client.read_until(b'"content":"a"')
            assert sim.open_connections == 1
        entry = await sim.wait_end(1)
        assert entry.left_by_client
        assert (await sim.wait_connection_end(1)).end == entry.outcome
        assert sim.open_connections == 0


async def test_a_client_that_resets_is_told_from_one_that_closes() -> None:
    import struct

    async with open_simulator(catalog(), Script(steps=[Text("a"), Hold(trio.Event())])) as sim:
        client = await connect(sim)
        await client.send(chat())
        await client.read_until(b'"content":"a"')
        assert isinstance(client.stream, trio.SocketStream)
        client.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.stream.aclose()
        assert (await sim.wait_end(1)).outcome == "reset_by_client"


async def test_a_slow_reader_holds_the_simulator_back() -> None:
    size = 32 * 1024 * 1024
    script = Script(steps=[Text("x" * size)], pieces=256 * 1024)
    async with open_simulator(catalog(), script, send_buffer_bytes=64 * 1024) as sim:
        async with await connect(sim) as client:
            await client.send(chat())
            entry = await sim.wait_entry(1)
            # It is held back when its bytes stand still over many turns of the scheduler.
            seen = -1
            while seen != entry.bytes_sent or seen < 1:
                seen = entry.bytes_sent
                await trio.testing.wait_all_tasks_blocked(0.05)
            assert 0 < seen < size // 2
            assert entry.outcome == "open"
            while not client.raw.endswith(b"0\r\n\r\n"):
                client.raw = client.raw[-5:]
                assert await client.read()
        assert (await sim.wait_end(1)).bytes_sent > size


async def test_a_thousand_clients_at_once_each_get_their_own_answer() -> None:
    arrived = trio.Event()

    def made(entry: Entry) -> Reply:
        if entry.number == 1000:
            arrived.set()
        return Script(steps=[Text(f"for {entry.model}"), Hold(arrived), Usage(input_tokens=1, output_tokens=1)])

    answered = 0
    async with open_simulator(catalog(), made, host=None) as sim:

        async def one(number: int) -> None:
            nonlocal answered
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(sim.serve_stream, theirs)
            async with Client(ours) as client:
                reply = await client.ask(chat(model=f"m-{number}"))
                assert f'm-{number}"' in reply.body.decode()
                answered += 1

        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(one, number)
        assert answered == 1000
        assert sim.open_connections == 0


async def test_three_hundred_sockets_at_once_are_served() -> None:
    gate = trio.Event()
    async with open_simulator(catalog(), Script(steps=[Text("a"), Hold(gate)])) as sim:

        async def one() -> None:
            assert b"[DONE]" in (await ask(sim, chat())).body

        async with trio.open_nursery() as nursery:
            for _ in range(300):
                nursery.start_soon(one)
            await sim.wait_entry(300)
            assert sim.open_connections == 300
            gate.set()
        await sim.wait_quiet()
        assert {entry.outcome for entry in sim.entries} == {"served"}


# ---- leaving ----


async def test_leaving_the_block_closes_every_connection() -> None:
    async with open_simulator(catalog(), Script(faults=[Stall()])) as sim:
        client = await connect(sim)
        await client.send(chat())
        idle = await connect(sim)
        await sim.wait_entry(1)
        await sim.journal.wait(lambda: len(sim.connections) == 2)
    assert [connection.end for connection in sim.connections] == ["simulator_closed"] * 2
    assert sim.entries[0].outcome == "simulator_closed"
    for left in (client, idle):
        async with left:
            assert await left.read_all() == b""
    with pytest.raises(OSError, match="connect"):
        await connect(sim)


async def test_what_is_raised_in_the_block_leaves_it_as_itself() -> None:
    mine = LookupError("mine")
    with pytest.raises(LookupError) as caught:
        async with open_simulator(catalog(), Script(faults=[Stall()])) as sim:
            client = await connect(sim)
            await client.send(chat())
            await sim.wait_entry(1)
            raise mine
    assert caught.value is mine
    await trio.aclose_forcefully(client.stream)


async def test_a_cancelled_block_is_cancelled_and_closed() -> None:
    with trio.CancelScope() as scope:
        async with open_simulator(catalog()) as sim:
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert sim.open_connections == 0


async def test_a_function_that_fails_ends_the_block_with_its_error() -> None:
    def broken(entry: Entry) -> Reply:
        raise ZeroDivisionError("in the script")

    with pytest.raises(ZeroDivisionError, match="in the script"):
        async with open_simulator(catalog(), broken) as sim, await connect(sim) as client:
            await client.send(chat())
            await trio.sleep_forever()
