"""`ailib race`, as users run it, beside a simulator on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import trio

from ai_lib_trio.simulator import Hold, Script, Simulator, Stall, Status, Text, Usage, open_simulator
from cli_support import Terminal, ailib, ailib_async, one_error

MANIFEST = """
id: {name}
protocol_version: "2.0"
name: {name}
endpoint: {{base_url: {url}, auth: {{type: none}}}}
api_families:
  chat: {{dialect: chat_completions}}
retry_policy: {{strategy: none}}
"""


def manifests(folder: Path, sim: Simulator) -> str:
    (folder / "providers").mkdir()
    for name in ("quick", "stuck"):
        text = MANIFEST.format(name=name, url=sim.base_url("chat_completions"))
        (folder / "providers" / f"{name}.yaml").write_text(text)
    return str(folder)


async def test_the_winner_is_on_stdout_and_the_ledger_on_stderr(tmp_path: Path) -> None:
    async with open_simulator() as sim:
        sim.script(Script(steps=[Text("I am first."), Usage(input_tokens=3, output_tokens=4)]), model="a")
        sim.script(Script(steps=[Text("never")], faults=[Stall(1)]), model="b")
        folder = manifests(tmp_path, sim)
        done = await ailib_async("race", "quick/a", "stuck/b", "-t", "who?", "--manifests", folder)
        await sim.wait_quiet()
        assert (done.code, done.out) == (0, "I am first.\n")
        won, lost = done.err.splitlines()
        assert won.startswith("quick/a  won")
        assert lost.startswith("stuck/b  lost")
        assert sim.open_connections == 0
        # A race may be won before its loser has said anything. Closing is a reset where bytes of the reply lie unread.
        outcomes = {entry.body["model"]: entry.outcome for entry in sim.entries}
        assert outcomes.pop("b", "client_closed") in ("client_closed", "reset_by_client")
        assert outcomes == {"a": "served"}


async def test_a_quorum_and_a_hedge_as_json(tmp_path: Path) -> None:
    async with open_simulator() as sim:
        for _ in range(4):
            sim.script(Script(steps=[Text("four")]), model="a")
        folder = manifests(tmp_path, sim)
        asked = ("-t", "2+2?", "--manifests", folder, "--json")
        quorum = await ailib_async("race", "quick/a", "stuck/a", "--quorum", "2", *asked)
        assert json.loads(quorum.out)["content"] == "four"
        hedge = await ailib_async("race", "quick/a", "stuck/a", "--hedge", "30", *asked)
        assert [one["outcome"] for one in json.loads(hedge.out)["members"]] == ["won", "not_started"]


async def test_where_all_fail_one_line_and_the_ledger_say_so(tmp_path: Path) -> None:
    async with open_simulator() as sim:
        sim.script(Status(503), model="a")
        sim.script(Status(500), model="b")
        done = await ailib_async("race", "quick/a", "stuck/b", "-t", "?", "--manifests", manifests(tmp_path, sim))
    assert done.code == 1
    assert [line.split()[1] for line in done.err.splitlines()[:2]] == ["failed", "failed"]
    assert done.err.splitlines()[2].startswith("[E3002")


def test_a_race_that_cannot_begin_says_why_to_people_and_to_programs() -> None:
    for form in ((), ("--json",)):
        done = ailib("race", "openai/gpt-5", "anthropic/any", "-t", "?", *form)
        assert one_error(done).startswith("[E1002 authentication] no key for openai")
        assert done.out == "" or json.loads(done.out) == {"content": None, "members": [], "stats": None}


async def test_what_a_failure_cost_is_told_to_programs_too(tmp_path: Path) -> None:
    async with open_simulator() as sim:
        sim.script(Status(503), model="a")
        sim.script(Status(500), model="b")
        asked = ("quick/a", "stuck/b", "-t", "?", "--manifests", manifests(tmp_path, sim), "--json")
        done = await ailib_async("race", *asked)
    assert "E3002" in one_error(done)
    told = json.loads(done.out)
    assert told["content"] is None
    assert [(one["model"], one["code"]) for one in told["members"]] == [("quick/a", "E3002"), ("stuck/b", "E3001")]


async def test_ctrl_c_closes_every_connection_and_the_ledger_says_so(tmp_path: Path) -> None:
    never = trio.Event()
    async with open_simulator() as sim:
        sim.script(Script(steps=[Text("Once upon"), Hold(never)]), model="a")
        sim.script(Script(steps=[Text("There was"), Hold(never)]), model="b")
        asked = ("quick/a", "stuck/b", "--until", "first_complete", "-t", "?", "--manifests", manifests(tmp_path, sim))

        def watch() -> tuple[int, str, bool]:
            with Terminal("race", *asked) as terminal:
                for number in (1, 2):
                    trio.from_thread.run(sim.wait_entry, number)
                terminal.type("\x03")
                return terminal.wait_end(), terminal.shown, terminal.is_as_it_was()

        code, shown, is_as_it_was = await trio.to_thread.run_sync(watch)
        await sim.wait_quiet()
        assert all(entry.left_by_client for entry in sim.entries)
    assert (code, is_as_it_was) == (130, True)
    assert shown.count("cancelled") == 2
    assert "Traceback" not in shown


async def test_ctrl_c_in_the_middle_of_a_line_begins_another_one(tmp_path: Path) -> None:
    never = trio.Event()
    async with open_simulator() as sim:
        sim.script(Script(steps=[Text("Once upon"), Hold(never)]), model="a")
        asked = ("quick/a", "-t", "?", "--manifests", manifests(tmp_path, sim))

        def watch() -> str:
            with Terminal("race", *asked) as terminal:
                terminal.wait_for("Once upon")
                terminal.type("\x03")
                assert terminal.wait_end() == 130
                return terminal.wait_for("quick/a")

        assert "\nquick/a" in await trio.to_thread.run_sync(watch)


def test_no_text_is_refused_before_anything_is_asked() -> None:
    for text in ("", "  "):
        done = ailib("race", "openai/any", "-t", text)
        assert (done.code, "there is no text to send" in done.err) == (2, True)


def test_two_ways_at_once_are_refused() -> None:
    done = ailib("race", "a/b", "-t", "x", "--hedge", "1", "--quorum", "1")
    assert done.code == 2
