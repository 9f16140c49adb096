"""The README says what is true: each Python block runs, and the set-up commands are two, one line each."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from ai_lib_trio.simulator import (
    Answer,
    Script,
    Status,
    Text,
    Thinking,
    ToolCall,
    Usage,
    open_simulator,
)
from docs_support import PAGES, blocks, main_of, point_at

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
HAIKU = "Bytes fall like spring rain"
USAGE = Usage(input_tokens=20, output_tokens=5)

# Section -> what the provider answers there, and what the block prints.
SAID: dict[str, tuple[list[Answer], list[str]]] = {
    "One call": ([Script(steps=[Text("Scattering."), USAGE])], ["Scattering.", "20 5 end_turn"]),
    "A stream": (
        [Script(steps=[Thinking("Five, seven, five."), Text(HAIKU)], pieces="whole")],
        ["(thinking) Five, seven, five.", HAIKU, "end_turn True"],
    ),
    "Tools": (
        [Script(steps=[ToolCall("weather", {"city": "Lisbon"})]), Script(steps=[Text("A rain jacket.")])],
        ["weather {'city': 'Lisbon'}", "A rain jacket."],
    ),
    "Time, cancellation, errors": (
        [Script(steps=[Text("The margin is too narrow.")])],
        ["in time: True", "too slow: False", "E4002 cancel_token do not retry"],
    ),
    "Many at once": (
        [Script(steps=[Text("4"), USAGE])] * 3,
        ["openai/gpt-5 5", "mistral/mistral-large-latest 5", "groq/llama-3.3-70b-versatile 5", "3 0"],
    ),
    "Retries, fallbacks, races": (
        [
            Status(503),
            Script(steps=[Text("4")]),
            Script(steps=[Text("Four.")]),
            Script(steps=[Text("late")], first_token_delay=60),
        ],
        ["4 [('openai', 'failed'), ('anthropic', 'ok')]", "Four. won ['lost']"],
    ),
    "A provider of your own": ([Script(steps=[Text("Beep.")])], ["Beep."]),
}


PROGRAMS = [(block.section, block.code) for block in blocks("python") if block.page == "README.md"]


def test_every_python_block_is_one_that_is_run() -> None:
    assert [title for title, _ in PROGRAMS] == list(SAID)


@pytest.mark.parametrize(("title", "code"), PROGRAMS, ids=[title for title, _ in PROGRAMS])
async def test_a_block_runs_and_prints_what_it_should(
    title: str, code: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts, printed = SAID[title]
    is_own = title == "A provider of your own"  # with a field that the dialect does not know
    async with open_simulator(scripts=scripts, check=not is_own) as sim:
        point_at(sim, monkeypatch)
        await main_of(code, monkeypatch)()
        # A race may be won before its loser has said anything.
        assert len(scripts) - 1 <= len(sim.entries) <= len(scripts)
        assert not any(entry.refused for entry in sim.entries)
        if is_own:
            assert sim.entries[0].body["project"] == "demo"
    shown = capsys.readouterr().out.splitlines()
    if title == "Many at once":
        shown, printed = sorted(shown), sorted(printed)
    assert shown == printed


def test_there_are_exactly_two_set_up_commands_of_one_line() -> None:
    commands = re.findall(r"^```sh\n(.*?)\n```$", README, re.MULTILINE | re.DOTALL)
    assert len(commands) == 2
    assert all("\n" not in command for command in commands)
    demo, tests = (shlex.split(command) for command in commands)
    assert demo[-2:] == [".venv/bin/ailib", "demo"]
    assert ".[cli]" in demo
    assert tests[-1] == ".venv-test/bin/pytest"
    assert ".[test]" in tests


def test_the_links_of_the_readme_and_the_docs_lead_somewhere() -> None:
    for page in (Path(__file__).resolve().parents[1] / "CHANGELOG.md", *PAGES):
        text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_commands_that_the_readme_says_are_missing_are_missing() -> None:
    from ai_lib_trio.cli.app import ailib

    missing = README.partition("## What is not there yet")[2].partition("\n## ")[0]
    there = ailib.list_commands(click.Context(ailib))
    assert missing.strip()
    assert [name for name in re.findall(r"`(?:ailib )?([a-z-]+)", missing) if name in there] == []
