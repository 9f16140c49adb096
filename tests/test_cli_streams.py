"""`ailib` where its streams are not as usual: a closed pipe, a full disk, or no stream at all."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from ai_lib_trio.simulator import Script, Text, open_simulator
from cli_support import AILIB, LIMIT_S, Done, ailib, environment, one_error

UNREAD = 141  # 128 and SIGPIPE's number, as of every other tool of a pipeline

LISTINGS = (
    ("models",),
    ("models", "--json"),
    ("models", "--help"),
    ("providers",),
    ("providers", "--json"),
    ("manifests", "show", "openai"),
    ("manifests", "validate", "openai"),
    ("doctor",),
    ("doctor", "--json"),
    ("demo",),
    ("simulate", "openai", "--port", "0"),
    ("simulate", "openai", "--port", "0", "--json"),
)


@contextmanager
def closed_pipe() -> Iterator[int]:
    """The end to write into of a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


def run(*arguments: str, out: int = subprocess.DEVNULL, err: int = subprocess.PIPE) -> Done:
    done = subprocess.run(
        [AILIB, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        text=True,
        env=environment(),
        timeout=LIMIT_S,
        check=False,
    )
    return Done(done.returncode, "", done.stderr or "")


@pytest.mark.parametrize("arguments", LISTINGS, ids=" ".join)
def test_a_command_whose_reader_has_left_ends_quietly(arguments: tuple[str, ...]) -> None:
    with closed_pipe() as out:
        assert run(*arguments, out=out) == (UNREAD, "", "")


def test_a_reader_that_takes_one_line_gets_it_and_no_complaint() -> None:
    line = "ailib models | head -1; echo ${PIPESTATUS[0]}"
    path = f"{Path(AILIB).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        env=environment({"PATH": path}),
        timeout=LIMIT_S,
        check=False,
    )
    first, code = done.stdout.splitlines()
    assert "/" in first
    assert code in ("0", str(UNREAD))  # it may have written all of it before the reader left
    assert done.stderr == ""


def test_a_failure_that_nobody_reads_has_its_code_all_the_same() -> None:
    with closed_pipe() as err:
        assert run("models", "--bogus", err=err).code == 2
        assert run("chat", "nobody/any", "Hi", err=err).code == 1


async def test_a_reply_whose_reader_has_left_ends_and_its_connection_with_it() -> None:
    async with open_simulator(scripts=[Script(steps=[Text("one "), Text("two ")], pace=0.0)]) as sim:
        with closed_pipe() as out:
            done = await trio.to_thread.run_sync(
                lambda: run("chat", "ollama/any", "Hi", "--base-url", sim.base_url("ollama"), out=out)
            )
        assert done == (UNREAD, "", "")


def test_a_simulator_whose_reader_has_left_ends_at_the_next_request() -> None:
    import urllib.error
    import urllib.request

    command = [AILIB, "simulate", "openai", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            url = json.loads(process.stdout.readline())["base_urls"]["openai"]
            process.stdout.close()
            with pytest.raises((urllib.error.URLError, OSError)):
                urllib.request.urlopen(f"{url}/models", timeout=LIMIT_S)
            assert process.wait(LIMIT_S) == UNREAD
            assert process.stderr.read() == b""
        finally:
            process.kill()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
@pytest.mark.parametrize("arguments", [("models",), ("doctor",), ("simulate", "openai", "--port", "0")], ids=" ".join)
def test_a_full_disk_is_one_clear_line(arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        assert "No space left on device" in one_error(run(*arguments, out=full.fileno()))


@pytest.mark.parametrize("arguments", [("build", "--out"), ("convert", "old.yaml", "--out")], ids=" ".join)
def test_a_place_that_cannot_be_written_is_one_clear_line(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("old.yaml").write_text("id: acme\nprotocol_version: '1.5'\nendpoint: {base_url: https://a.example/v1}\n")
    assert "file/out" in one_error(ailib("manifests", *arguments, "file/out"))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_is_closed_from_the_start_is_no_reason_to_fail(closed: str) -> None:
    for command, code in (("models llama", 0), ("chat ollama/any", 2), ("chat nobody/any Hi", 1)):
        line = f"'{AILIB}' {command} {closed}"
        done = subprocess.run(
            ["bash", "-c", line],
            input="",
            capture_output=True,
            text=True,
            env=environment(),
            timeout=LIMIT_S,
            check=False,
        )
        assert done.returncode == code, line
        assert "Traceback" not in done.stderr
