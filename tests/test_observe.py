"""A running client seen from outside: the socket, what goes over it, and `ailib top` on a terminal of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import CallerError
from ai_lib_trio.cli.top import lines_of
from ai_lib_trio.telemetry import observe
from ai_lib_trio.telemetry.observe import Counted, Meter, Observed, _Output, snapshots
from ai_lib_trio.testing import Quiescence, ScriptedTransport, Stall, quiescence, sse_reply
from ai_lib_trio.transport.base import WireRequest
from cli_support import Terminal, ailib_async, one_error
from client_support import KEYS, delta, echo, finish, prompt_of, scripted_client, streamed, usage_chunk

__all__ = ["quiescence"]


def waiting(request: WireRequest) -> Any:
    return [*streamed("one")[:2], Stall()] if prompt_of(request) == "waits" else echo(request)


async def first(path: Path) -> Observed:
    seen = snapshots(path)
    try:
        return await seen.__anext__()
    finally:
        await seen.aclose()


async def test_a_snapshot_holds_the_tree_the_counts_and_no_secret(quiescence: Quiescence, tmp_path: Path) -> None:
    async with scripted_client(ScriptedTransport(waiting)) as client, observe(client, tmp_path / "s") as path:
        await client.chat().user("a secret prompt").execute()
        async with client.chat().user("waits").stream() as events:
            await events.__anext__()
            one = await first(path)
    assert (one.pid, one.client, one.stats["calls"], one.stats["open"]) == (os.getpid(), client.number, 2, 1)
    (actor,) = one.tree["actors"]
    assert (actor["provider"], actor["state"], actor["inflight"]) == ("openai", "running", 1)
    (call,) = actor["calls"]
    assert (call["call"], call["model"], call["phase"]) == (2, "a-model", "reading")
    assert (one.providers["openai"].calls, one.providers["openai"].attempts) == (1, 1)
    assert (one.providers["openai"].calls, one.providers["openai"].output_tokens) == (1, 2)
    told = repr(one)
    assert "secret" not in told
    assert not any(key in told for key in KEYS.values())


async def test_the_socket_is_its_users_alone_and_is_gone_after_the_block(
    quiescence: Quiescence, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    async with scripted_client(ScriptedTransport(echo)) as client:
        async with observe(client, path):
            mode = path.stat().st_mode
            assert stat.S_ISSOCK(mode)
            assert stat.S_IMODE(mode) == 0o600
        assert not path.exists()
        assert not client._hooks.on  # nobody listens any more, so nothing is built


async def test_whoever_looks_when_the_block_ends_is_sent_away(quiescence: Quiescence, tmp_path: Path) -> None:
    seen = []

    async def watch(path: Path) -> None:
        async for one in snapshots(path):
            seen.append(one)
            arrived.set()

    arrived = trio.Event()
    block = scripted_client(ScriptedTransport(echo))
    async with (
        trio.open_nursery() as nursery,
        block as client,
        observe(client, tmp_path / "s", interval_s=1000) as path,
    ):
        nursery.start_soon(watch, path)
        await arrived.wait()
    assert len(seen) == 1


async def test_what_the_block_raises_leaves_it_as_itself(quiescence: Quiescence, tmp_path: Path) -> None:
    error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError) as caught:
        async with scripted_client(ScriptedTransport(echo)) as client, observe(client, tmp_path / "s"):
            raise error
    assert caught.value is error


async def test_an_old_socket_is_replaced_and_anything_else_there_is_an_error(
    quiescence: Quiescence, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    old = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await old.bind(str(path))
    old.close()
    async with scripted_client(ScriptedTransport(echo)) as client, observe(client, path):
        with pytest.raises(CallerError, match="another program"):
            async with observe(client, path):
                raise AssertionError
        assert (await first(path)).client == client.number
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CallerError, match="no socket"):
        async with observe(client, tmp_path / "file"):
            raise AssertionError
    assert (tmp_path / "file").read_text() == "mine"


async def test_looking_where_nobody_listens_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(CallerError, match="there is no such socket"):
        await first(tmp_path / "nothing")


# ---- the command


async def test_top_writes_json_for_programs_and_a_picture_for_a_pipe(tmp_path: Path) -> None:
    block = scripted_client(ScriptedTransport(waiting))
    async with (
        block as client,
        observe(client, tmp_path / "s") as path,
        client.chat().user("waits").stream() as events,
    ):
        await events.__anext__()
        as_json = await ailib_async("top", str(path), "--json", "--once")
        as_text = await ailib_async("top", str(path))
    assert json.loads(as_json.out)["tree"]["actors"][0]["calls"][0]["phase"] == "reading"
    assert "1.1    a-model" in as_text.out
    assert (as_json.code, as_text.code) == (0, 0)


async def test_top_of_nothing_fails_with_one_line() -> None:
    done = await ailib_async("top", "/nowhere/at/all")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "telemetry.observe" in done.err


async def test_top_on_a_terminal_of_80_columns_is_live_and_leaves_with_ctrl_c(tmp_path: Path) -> None:
    block = scripted_client(ScriptedTransport(waiting))
    async with block as client, observe(client, tmp_path / "s", interval_s=0.05) as path:
        with Terminal("top", str(path), columns=80) as terminal:
            await trio.to_thread.run_sync(terminal.wait_for, "no provider has been called yet")
            async with client.chat().user("waits").stream() as events:
                await events.__anext__()
                await trio.to_thread.run_sync(terminal.wait_for, "openai")
                await trio.to_thread.run_sync(terminal.wait_for, "reading")
                shown = re.sub(r"\x1b\[[0-9;]*H", "\n", terminal.shown)
                shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
                terminal.type("\x03")
                assert await trio.to_thread.run_sync(terminal.wait_end) == 128 + signal.SIGINT
    assert max(len(line.rstrip("\r")) for line in shown.split("\n")) <= 80


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("xQ", 0), ("\x03", 128 + signal.SIGINT)])
async def test_top_leaves_the_terminal_as_it_was(tmp_path: Path, key: str, code: int) -> None:
    block = scripted_client(ScriptedTransport(echo))
    async with block as client, observe(client, tmp_path / "s", interval_s=0.05) as path:
        with Terminal("top", str(path), columns=80) as terminal:
            await trio.to_thread.run_sync(terminal.wait_for, "no provider")
            assert not terminal.is_as_it_was()  # keys come at once and are not shown
            terminal.type(key)
            assert await trio.to_thread.run_sync(terminal.wait_end) == code
            assert terminal.is_as_it_was()
            assert terminal.shown.count("\x1b[?1049h") == terminal.shown.count("\x1b[?1049l") == 1  # its own screen
            assert terminal.shown.rindex("\x1b[?25h") > terminal.shown.rindex("\x1b[?25l")  # the cursor is back
            assert "closed the socket" not in terminal.shown


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_that_ends_top_leaves_the_terminal_as_it_was(tmp_path: Path, number: signal.Signals) -> None:
    block = scripted_client(ScriptedTransport(echo))
    async with block as client, observe(client, tmp_path / "s", interval_s=0.05) as path:
        with Terminal("top", str(path), columns=80) as terminal:
            await trio.to_thread.run_sync(terminal.wait_for, "no provider")
            terminal.send(number)
            assert await trio.to_thread.run_sync(terminal.wait_end) == 128 + number
            assert terminal.is_as_it_was()
            assert terminal.shown.count("\x1b[?1049h") == terminal.shown.count("\x1b[?1049l") == 1
            assert "Traceback" not in terminal.shown


async def test_top_gives_the_terminal_back_while_it_is_stopped(tmp_path: Path) -> None:
    block = scripted_client(ScriptedTransport(echo))
    async with block as client, observe(client, tmp_path / "s", interval_s=0.05) as path:
        with Terminal("top", str(path), columns=80) as terminal:
            await trio.to_thread.run_sync(terminal.wait_for, "no provider")
            terminal.type("\x1a")  # nobody could let it go on here, so the system does not stop it
            await trio.to_thread.run_sync(terminal.wait_for, "no provider")
            while terminal.shown.count("\x1b[?1049h") < 2:
                await trio.to_thread.run_sync(terminal.wait_for, "no provider")
            assert terminal.shown.count("\x1b[?1049l") == 1
            assert not terminal.is_as_it_was()
            terminal.type("q")
            assert await trio.to_thread.run_sync(terminal.wait_end) == 0
            assert terminal.is_as_it_was()


async def test_a_path_that_no_socket_can_have_is_said_on_both_sides(tmp_path: Path) -> None:
    path = tmp_path / ("s" * 200)
    async with scripted_client(ScriptedTransport(echo)) as client:
        with pytest.raises(CallerError, match="path too long"):
            async with observe(client, path):
                raise AssertionError
    with pytest.raises(CallerError, match="path too long"):
        await first(path)


async def test_top_is_drawn_again_when_the_window_changes(tmp_path: Path) -> None:
    block = scripted_client(ScriptedTransport(waiting))
    async with (
        block as client,
        observe(client, tmp_path / "s", interval_s=1000) as path,  # nothing new comes by itself
        client.chat().user("waits").stream() as events,
    ):
        await events.__anext__()
        with Terminal("top", str(path), columns=80) as terminal:
            await trio.to_thread.run_sync(terminal.wait_for, "reading")
            terminal.resize(40, 10)
            await trio.to_thread.run_sync(terminal.wait_for, "…")
            terminal.resize(100, 30)
            await trio.to_thread.run_sync(terminal.wait_for, "reading")
            terminal.type("q")
            assert await trio.to_thread.run_sync(terminal.wait_end) == 0


async def test_top_of_a_program_that_was_killed_ends_with_a_line_that_says_so(tmp_path: Path) -> None:
    program = (
        "import sys, trio\n"
        "from ai_lib_trio import open_client\n"
        "from ai_lib_trio.telemetry import observe\n"
        "async def main():\n"
        "    async with open_client() as client, observe(client, sys.argv[1], interval_s=0.05):\n"
        "        print('ready', flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    path = tmp_path / "s"
    watched = _started(program, path)
    assert watched.stdout is not None
    try:
        await trio.to_thread.run_sync(watched.stdout.readline)
        with Terminal("top", str(path), columns=80) as terminal:
            await trio.to_thread.run_sync(terminal.wait_for, "no provider")
            watched.kill()
            assert await trio.to_thread.run_sync(terminal.wait_end) == 0
            assert "the program has closed the socket" in terminal.shown.rpartition("\x1b[?1049l")[2]
            assert terminal.is_as_it_was()
    finally:
        watched.kill()
        watched.wait()
        watched.stdout.close()
    assert path.exists()  # it could not clean up
    async with scripted_client(ScriptedTransport(echo)) as client, observe(client, path):
        assert (await first(path)).client == client.number  # and the next program takes its place


def _started(program: str, path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
async def test_the_time_between_snapshots_is_more_than_nothing(tmp_path: Path, seconds: float) -> None:
    async with scripted_client(ScriptedTransport(echo)) as client:
        with pytest.raises(CallerError, match="interval_s"):
            async with observe(client, tmp_path / "s", interval_s=seconds):
                raise AssertionError


async def test_top_ends_when_the_program_does(tmp_path: Path) -> None:
    block = scripted_client(ScriptedTransport(echo))
    async with block as client, observe(client, tmp_path / "s", interval_s=0.05) as path:
        terminal = Terminal("top", str(path), columns=80)
        await trio.to_thread.run_sync(terminal.wait_for, "no provider")
    with terminal:
        assert await trio.to_thread.run_sync(terminal.wait_end) == 0


# ---- rates


def paced(request: WireRequest) -> Any:
    """Eight characters, so two tokens by the usual rule, each half second; the provider reports 100 of them."""
    said = ["12345678"] * 16
    return sse_reply([*map(delta, said), finish(), usage_chunk(3, 100)], done="[DONE]", pace_s=0.5)


async def test_a_running_streams_rate_is_estimated_and_an_ended_ones_is_as_reported(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    meter = Meter()
    async with scripted_client(ScriptedTransport(paced)) as client:
        with client.sink(meter):
            async with client.chat().user("x").stream() as events:
                await events.__anext__()
                began = trio.current_time()
                (call,) = client.tree().actors[0].calls
                assert (call.output_tokens, call.output_s, call.tokens_per_s, call.rate) == (2, 0.0, None, "")
                async for _ in events:
                    passed = trio.current_time() - began
                    if passed == 5.0:
                        break
                tree = client.tree()
                (call,) = tree.actors[0].calls
                assert (call.output_tokens, call.is_estimated, call.output_s) == (22, True, 5.0)
                assert call.tokens_per_s == 22 / 5
                assert "11 events, ~4.4 tok/s" in str(tree)
                meter.rates(trio.current_time(), tree)
                counted = meter.providers["openai"]
                assert (counted.tokens_per_s, counted.is_estimated) == (2.2, True)  # 22 in the last ten seconds
                assert counted.output_tokens == 0  # nothing has been reported
                async for _ in events:
                    pass
            assert events.stats.usage.output_tokens == 100
            lasted = trio.current_time() - began
            meter.rates(trio.current_time(), client.tree())
            assert (counted.output_tokens, counted.is_estimated) == (100, False)
            assert counted.tokens_per_s == pytest.approx(100 / 10)  # all of it, and once
            await trio.sleep(10 - lasted + lasted / 4)
            meter.rates(trio.current_time(), client.tree())
            assert counted.tokens_per_s == pytest.approx(75 / 10)  # a quarter of its time is over ten seconds ago
            await trio.sleep(10)
            meter.rates(trio.current_time(), client.tree())
            assert counted.tokens_per_s == 0.0


async def test_a_stream_that_stalls_has_no_rate_any_more(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    meter = Meter()
    stalls = [*paced(WireRequest("POST", "", [], b""))[:12], Stall()]  # the head and data, with a wait before each
    async with scripted_client(ScriptedTransport(stalls)) as client:
        with client.sink(meter):
            async with client.chat().user("x").stream() as events:
                await events.__anext__()
                rates = []
                for _ in range(20):
                    await trio.sleep(1)
                    meter.rates(trio.current_time(), client.tree())
                    rates.append(meter.providers["openai"].tokens_per_s)
            assert max(rates) > 0
            assert rates[-1] == 0.0
            assert not meter.providers["openai"].is_estimated


async def test_what_was_estimated_of_a_stream_that_was_left_stays_until_it_is_old(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    meter = Meter()
    async with scripted_client(ScriptedTransport(paced)) as client:
        with client.sink(meter):
            async with client.chat().user("x").stream() as events:
                for _ in range(5):
                    await events.__anext__()
                meter.rates(trio.current_time(), client.tree())
            meter.rates(trio.current_time(), client.tree())
            counted = meter.providers["openai"]
            assert (counted.tokens_per_s, counted.is_estimated, counted.output_tokens) == (1.0, True, 0)
            await trio.sleep(11)
            meter.rates(trio.current_time(), client.tree())
            assert (counted.tokens_per_s, counted.is_estimated) == (0.0, False)
            assert not meter._running
            assert not meter._ended


def test_a_report_below_the_estimate_is_no_rate_below_nothing() -> None:
    output = _Output("p", 0.0, is_estimated=True)
    output.add(9.0, 100)
    output.add(12.0, 40)
    assert output.since(11.0) == 0.0


# ---- the picture


CALL = {
    "call": 1,
    "attempt": 1,
    "model": "m" * 100,
    "phase": "reading",
    "age_s": 1.0,
    "deadline_left_s": None,
    "events": 3,
    "tokens_per_s": 1234.5,
    "is_estimated": True,
}
ACTOR = {
    "provider": "p" * 60,
    "origin": "https://p.example",
    "key_number": 1,
    "state": "running",
    "inflight": 1,
    "queued": 2,
    "crashes": 1,
    "bugs": 1,
    "calls": [],
    "gate": None,
}
CHECK = {"provider": "p", "origin": "https://p.example", "is_healthy": None, "state": "running", "crashes": 0}


def picture(*actors: Any, width: int = 80, height: int = 1000, **more: Any) -> list[str]:
    tree = {"actors": list(actors), **more}
    one = Observed(pid=1, client=1, uptime_s=4000.0, tree=tree, stats={"calls": 10**9})
    one.providers["p" * 60] = Counted(
        calls=3, attempts=4, failed=1, cost={"USD": 1234.5, "CNY": 1.0}, tokens_per_s=12.3
    )
    return [text for text, _ in lines_of(one, width, height)]


def test_a_picture_is_never_wider_or_higher_than_the_terminal() -> None:
    actor = {
        **ACTOR,
        "calls": [{**CALL, "deadline_left_s": 3.0}] * 50,
        "gate": {
            "paused_for_s": 3.0,
            "breakers": [{"of": "\x1b[31mred\n", "state": "open", "failures": 5, "calls": 9, "half_open_in_s": 1.0}],
            "limits": [{"of": "tokens", "scope": "key", "level": 5.0, "capacity": 10.0}],
        },
    }
    for width, height in ((80, 24), (40, 10), (20, 3), (200, 100)):
        lines = picture(actor, width=width, height=height, sink_failures=2, checks=[{**CHECK, "is_healthy": False}])
        assert len(lines) <= height
        assert max(len(line) for line in lines) <= width
        assert all(line.isprintable() for line in lines)
        if width >= 80 and height > 10:  # each number is under its name
            head = next(one for one in lines if one.startswith("provider"))
            row = next(one for one in lines if one.startswith("ppp"))
            for name, value in (
                ("run", "1"),
                ("wait", "2"),
                ("calls", "3"),
                ("tries", "4"),
                ("fail", "1"),
                ("tok/s", "12.3"),
            ):
                assert row[: head.index(name) + len(name)].endswith(f" {value}")
            assert "  p               not there  https://p.example" in lines  # calls are left out before it is
            assert any(line.startswith("  ... ") and line.endswith(" more calls") for line in lines) is (height < 60)


def test_calls_are_left_out_by_turns_and_what_is_left_out_is_counted() -> None:
    few = {**ACTOR, "calls": [CALL]}
    many = {**ACTOR, "provider": "q", "calls": [{**CALL, "call": number} for number in range(100)]}
    lines = picture(few, many, height=24)
    assert len(lines) == 24
    assert sum(line.startswith("  1.1 ") for line in lines) == 2
    shown = [
        line for line in lines[lines.index(next(one for one in lines if one.startswith("q "))) :] if " ev " in line
    ]
    assert lines[-1] == f"  ... {100 - len(shown)} more calls"


def test_a_calls_row_fits_with_a_deadline_and_has_its_rate() -> None:
    (row,) = [line for line in picture({**ACTOR, "calls": [{**CALL, "deadline_left_s": 41.3}]}) if " ev " in line]
    assert row.endswith("reading      1.0 of 42.3 s     3 ev ~1234.5 tok/s")
    assert len(row) == 80
    reported = {**CALL, "is_estimated": False, "tokens_per_s": 20.0}
    assert any(line.endswith(" 20.0 tok/s") for line in picture({**ACTOR, "calls": [reported]}))
    assert any(
        line.endswith("3 ev") for line in map(str.rstrip, picture({**ACTOR, "calls": [{**CALL, "tokens_per_s": None}]}))
    )


def test_of_several_actors_of_a_provider_each_says_its_key_and_origin() -> None:
    assert not any("key 1 at" in line for line in picture(ACTOR))
    several = picture(ACTOR, {**ACTOR, "key_number": 2, "crashes": 2})
    assert [line for line in several if " at https" in line] == [
        "  key 1 at https://p.example",
        "  key 2 at https://p.example",
    ]
    assert "  1 crash, bugs in exchanges: 1" in several
    assert "  2 crashes, bugs in exchanges: 1" in several


def test_checks_say_what_was_seen_and_what_became_of_their_actor() -> None:
    checks = [
        CHECK,
        {**CHECK, "is_healthy": True},
        {**CHECK, "is_healthy": True, "state": "restarting", "crashes": 1},
        {**CHECK, "state": "failed", "crashes": 4},
    ]
    lines = picture(checks=checks)
    assert [line.split("  ")[-2].strip() for line in lines if line.endswith("https://p.example")] == [
        "not checked yet",
        "there",
        "there, restarting, 1 crash",
        "failed, 4 crashes",
    ]
    assert "changed manifests are not used: torn" in picture(manifest_fault="torn")


async def test_top_and_the_tree_agree(tmp_path: Path) -> None:
    block = scripted_client(ScriptedTransport(waiting))
    async with (
        block as client,
        observe(client, tmp_path / "s") as path,
        client.chat().user("waits").stream() as events,
    ):
        await events.__anext__()
        before = client.tree()
        told = json.loads((await ailib_async("top", str(path), "--json", "--once")).out)["tree"]
        mine = json.loads(msgspec.json.encode(client.tree()))
    for tree in (told, mine):
        (call,) = tree["actors"][0]["calls"]
        for moving in ("age_s", "output_s", "tokens_per_s"):
            assert call.pop(moving) is None or moving != "tokens_per_s" or call["output_tokens"] == 1
    assert told == mine
    assert before.actors[0].calls[0].output_tokens == 1


async def test_many_may_look_and_more_are_sent_away_with_a_word(quiescence: Quiescence, tmp_path: Path) -> None:
    got: list[Observed] = []
    sent_away: list[str] = []

    async def look(path: Path) -> None:
        try:
            async for one in snapshots(path):
                got.append(one)
        except CallerError as error:
            sent_away.append(str(error))

    block = scripted_client(ScriptedTransport(echo))
    async with (
        trio.open_nursery() as nursery,
        block as client,
        observe(client, tmp_path / "s", interval_s=1000) as path,
    ):
        for _ in range(12):
            nursery.start_soon(look, path)
        with trio.fail_after(10):
            while len(got) + len(sent_away) < 12:
                await wait_all_tasks_blocked(0.01)
        done = await ailib_async("top", str(path), "--once", "--json")
    assert (len(got), len(sent_away)) == (8, 4)
    assert all("8 look already" in one for one in sent_away)
    assert "8 look already" in one_error(done)


@pytest.mark.parametrize("said", [b"not json\n", b'{"pid": "x"}\n', b""])
async def test_what_is_no_client_of_ours_is_said_in_one_line(said: bytes, tmp_path: Path) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(said)

    made = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await made.bind(str(tmp_path / "s"))
    made.listen()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer, [trio.SocketListener(made)])
        assert str(tmp_path / "s") in one_error(await ailib_async("top", str(tmp_path / "s")))
        nursery.cancel_scope.cancel()
