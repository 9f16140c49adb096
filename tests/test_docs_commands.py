"""The commands on our pages, run as they stand there: against the simulator where they would talk to a provider.

Each line has one rule below that says how it is tried. A new line without a rule is a failure, and so is a rule without
a line.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.simulator import open_simulator
from cli_support import AILIB, Terminal, ailib_async, environment
from docs_support import ROOT, blocks

PIGEON = {
    code.partition("\n")[0].removeprefix("# "): code
    for code in (block.code for block in blocks("yaml") if block.page == "docs/adding-a-provider.md")
}
Trial = Callable[["re.Match[str]", Path], Awaitable[None]]
RULES: dict[str, Trial] = {}


def rule(pattern: str) -> Callable[[Trial], Trial]:
    """How lines of this form are tried. The function gets the match and an empty folder."""

    def add(trial: Trial) -> Trial:
        RULES[pattern] = trial
        return trial

    return add


LINES = sorted({line for block in blocks("sh", "console", "indented") for line in block.commands})


def matching(line: str) -> list[tuple[Trial, re.Match[str]]]:
    return [(trial, found) for pattern, trial in RULES.items() if (found := re.fullmatch(pattern, line))]


# ---- setting up: the extras are there, and what is set up is what runs here


def has_extra(name: str) -> bool:
    project = (ROOT / "pyproject.toml").read_text("utf-8").partition("[project.optional-dependencies]")[2]
    return re.search(rf"^{name} = \[", project.partition("\n[")[0], re.MULTILINE) is not None


@rule(r"python3 -m venv (\S+) && \1/bin/pip install --quiet (?:--editable )?'\.\[(\w+)\]' && \1/bin/(.+)")
async def _set_up(found: re.Match[str], folder: Path) -> None:
    assert has_extra(found[2])
    command = shlex.split(found[3])
    if command == ["pytest"]:  # this run; `.ci/run` runs the whole line as it stands
        return
    assert command[0] == "ailib"
    done = await ailib_async(*command[1:])
    assert done.code == 0, done.err


@rule(r"pip install -e [\"']\.\[(\w+)\][\"']")
async def _install(found: re.Match[str], folder: Path) -> None:
    assert has_extra(found[1])


@rule(r"mkdocs build --strict")
async def _build(found: re.Match[str], folder: Path) -> None:
    """`test_site` runs it; here, that it reads the file that it would."""
    assert (ROOT / "mkdocs.yml").is_file()


@rule(r"export (\w+)=\.\.\.")
async def _export(found: re.Match[str], folder: Path) -> None:
    catalog = Catalog.open(environ={})
    assert found[1] in {catalog.provider(name).auth.token_env for name in catalog.providers()}


@rule(r"python -m benchmarks(.*)")
async def _measure(found: re.Match[str], folder: Path) -> None:
    """It takes minutes: its options are those that it has."""
    done = await trio.run_process([sys.executable, "-m", "benchmarks", "--help"], cwd=ROOT, capture_stdout=True)
    for option in re.findall(r"--[\w-]+", found[1]):
        assert f"{option} " in done.stdout.decode().replace("]", " ").replace("\n", " "), option


# ---- talking


@rule(r'ailib chat (\w+)/(\S+) "(.+)"')
async def _chat(found: re.Match[str], folder: Path) -> None:
    async with open_simulator() as sim:
        arguments = [*shlex.split(found[0])[1:], "--base-url", sim.base_url(found[1])]
        done = await ailib_async(*arguments, env={f"{found[1].upper()}_API_KEY": "a-key-of-the-test"})
    assert (done.code, done.out) == (0, f"You said: {found[3]}\n"), done.err


@rule(r"git diff \| (ailib chat (\w+)/\S+ --system .+ -)")
async def _review(found: re.Match[str], folder: Path) -> None:
    async with open_simulator() as sim:
        arguments = [*shlex.split(found[1])[1:], "--base-url", sim.base_url(found[2])]
        env = {f"{found[2].upper()}_API_KEY": "a-key-of-the-test"}
        done = await ailib_async(*arguments, given="-old\n+new\n", env=env)
        system = sim.entries[0].request.messages[0] if sim.entries[0].request is not None else None
    assert done.code == 0, done.err
    assert "+new" in done.out
    assert system is not None
    assert (system.role, system.text) == ("system", "Review this diff.")


@rule(r"ailib chat ollama/(\S+)")
async def _conversation(found: re.Match[str], folder: Path) -> None:
    async with open_simulator() as sim:

        def talk() -> int:
            with Terminal(*shlex.split(found[0])[1:], "--base-url", sim.base_url("ollama")) as terminal:
                terminal.wait_for("> ")
                terminal.type("first words\n")
                terminal.wait_for("You said: first words")
                terminal.wait_for("> ")
                terminal.type("\x04")
                return terminal.wait_end()

        assert await trio.to_thread.run_sync(talk) == 0


@rule(r"ailib (models|providers) (\S+)")
async def _list(found: re.Match[str], folder: Path) -> None:
    done = await ailib_async(found[1], found[2])
    assert done.code == 0, done.err
    assert all(found[2] in line.lower() for line in done.out.splitlines())
    assert done.out


# ---- manifests and the simulator


def _pigeon(folder: Path) -> None:
    for name, code in PIGEON.items():
        if not name.startswith("conformance/"):
            (folder / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "folder" / name).write_text(code, "utf-8")


@rule(r"ailib manifests (validate|show) .*\bfolder\b( --json)?")
async def _manifest(found: re.Match[str], folder: Path) -> None:
    _pigeon(folder)
    arguments = [str(folder / word) if word == "folder" else word for word in shlex.split(found[0])[1:]]
    done = await ailib_async(*arguments)
    assert done.code == 0, done.err
    if found[2]:
        assert json.loads(done.out)["id"] == "pigeon"
    else:
        assert "pigeon: 1 API compiled (talk)" in done.out


@rule(r"ailib simulate (.+)")
async def _simulate(found: re.Match[str], folder: Path) -> None:
    """It begins to serve, with a port of its own beside others, and Ctrl-C ends it."""
    _pigeon(folder)
    command = [AILIB, "simulate", *shlex.split(found[1]), "--port", "0", "--json"]

    def run() -> tuple[str, int]:
        with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment()) as process:
            assert process.stdout is not None
            try:
                opened = process.stdout.readline()
                process.send_signal(signal.SIGINT)
                return opened, process.wait(60)
            finally:
                process.kill()

    opened, code = await trio.to_thread.run_sync(run)
    served = json.loads(opened)["base_urls"]
    assert code == 130
    assert "folder" not in found[1] or "pigeon" in served


@rule(r"ailib conformance( \S+)?( --tree \S+)?")
async def _conformance(found: re.Match[str], folder: Path) -> None:
    """Where the specification is not beside this checkout, our own cases stand for its suite."""
    arguments = [str(ROOT / "conformance" / "cases")] if found[1] else []
    if found[2]:
        arguments += ["--tree", str(ROOT)]
    done = await ailib_async("conformance", *arguments)
    assert done.code == 0, done.out + done.err
    assert re.search(r"^\d+ of \d+ passed, 0 failed$", done.out, re.MULTILINE)


def test_every_line_has_one_rule_and_every_rule_a_line() -> None:
    assert [line for line in LINES if len(matching(line)) != 1] == []
    assert [pattern for pattern in RULES if not any(re.fullmatch(pattern, line) for line in LINES)] == []


@pytest.mark.parametrize("line", LINES)
async def test_a_command_does_what_the_page_says(line: str, tmp_path: Path) -> None:
    for trial, found in matching(line):
        await partial(trial, found, tmp_path)()
