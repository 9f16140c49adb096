"""`ailib simulate`: the simulator for people."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli_support import AILIB, Terminal, ailib, environment, one_error


class Running:
    """A running `ailib simulate --json`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        opened = self.line()
        self.base_urls: dict[str, str] = opened["base_urls"]

    def line(self) -> dict[str, dict[str, str]]:
        assert self.process.stdout is not None
        found: dict[str, dict[str, str]] = json.loads(self.process.stdout.readline())
        return found


@contextmanager
def simulating(*arguments: str) -> Iterator[Running]:
    with subprocess.Popen(
        [AILIB, "simulate", "--port", "0", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as process:
        try:
            yield Running(process)
        finally:
            process.kill()


def test_chat_talks_to_it_and_each_request_is_a_line() -> None:
    with simulating("ollama", "messages", "--text", "Simulated.", "--thinking", "Hm.") as running:
        assert set(running.base_urls) == {"ollama", "messages"}
        done = ailib("chat", "ollama/any", "Hi", "--base-url", running.base_urls["ollama"])
        assert (done.code, done.out) == (0, "Simulated.\n")
        asked, ended = running.line()["request"], running.line()["end"]
        assert (asked["provider"], asked["dialect"], asked["outcome"]) == ("ollama", "ollama_chat", "open")
        assert ended["outcome"] == "served"


def test_ctrl_c_ends_it_with_130_and_nothing_said() -> None:
    with simulating() as running:
        running.process.send_signal(signal.SIGINT)
        out, err = running.process.communicate(timeout=60)
        assert (running.process.returncode, out, err) == (130, "", "")


def test_people_see_addresses_and_requests() -> None:
    with Terminal("simulate", "--port", "0", "ollama") as terminal:
        terminal.wait_for("ollama  http://127.0.0.1:")
        shown = terminal.wait_for("/ollama\n")
        address = next(line.split()[-1] for line in shown.splitlines() if "http://" in line)
        assert ailib("chat", "ollama/any", "Hi", "--base-url", address).code == 0
        terminal.wait_for("#1  POST /ollama/chat")
        terminal.wait_for("#1  200 served")
        terminal.type("\x03")
        assert terminal.wait_end() == 130


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--fault", "cut=20"), "E3001"),
        (("--fault", "reset=20"), "E3001"),
        (("--fault", "html"), "E3001"),
        (("--fault", "not-json"), "E3001"),
        (("--fault", "end=1"), "E3001"),
        (("--status", "429", "--retry-after", "3"), "E2001"),
        (("--key", "the-right-one"), "E1002"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_what_goes_wrong_on_request_is_what_the_client_says(arguments: tuple[str, ...], code: str) -> None:
    with simulating(*arguments) as running:
        done = ailib(
            *("chat", "openai/any", "Some words to give back", "--retries", "0"),
            *("--base-url", running.base_urls["openai"]),
            env={"OPENAI_API_KEY": "another-key-1234"},
        )
        assert code in one_error(done)
        assert "another-key" not in running.process.stdout.readline()  # type: ignore[union-attr]


def test_faults_that_harm_nothing_change_nothing() -> None:
    with simulating("--fault", "split", "--fault", "crlf", "--text", "日本語, größer") as running:
        done = ailib(
            "chat", "openai/any", "Hi", "--base-url", running.base_urls["openai"], env={"OPENAI_API_KEY": "k" * 9}
        )
        assert (done.code, done.out) == (0, "日本語, größer\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("--fault", "nonsense"),
        ("--fault", "cut"),
        ("--fault", "split=3"),
        ("--retry-after", "3"),
        ("--tool", "name:{not json"),
        ("--tool", ":{}"),
        ("--port", "70000"),
        ("--pace", "nan"),
        ("--first-token", "inf"),
        ("--fault", "trickle=0"),
        ("--key", ""),
    ],
)
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...]) -> None:
    assert ailib("simulate", *arguments).code == 2


def test_an_unknown_provider_is_said() -> None:
    assert "ollama" in one_error(ailib("simulate", "olama"))


def test_what_cannot_be_played_is_said() -> None:
    assert "no API family is declared" in one_error(ailib("simulate", "stability"))


def test_a_dialect_that_says_nothing_of_the_other_side_cannot_be_played(tmp_path: Path) -> None:
    for name in ("providers", "dialects"):
        (tmp_path / name).mkdir()
    (tmp_path / "providers" / "acme.yaml").write_text(
        'id: acme\nprotocol_version: "2.0"\nendpoint: {base_url: https://acme.example}\n'
        "api_families: {talk: {dialect: acme_talk}}\n"
    )
    (tmp_path / "dialects" / "acme_talk.yaml").write_text(
        "id: acme_talk\nencode: {path: /talk, body: {model: $.model}}\n"
        "decode: {body: {say: {emit: PartialContentDelta, extract: {content: $.said}}}}\n"
    )
    for name in ("acme", "acme_talk"):
        said = one_error(ailib("simulate", name, "--manifests", str(tmp_path)))
        assert f"{name} cannot be played: the dialect acme_talk has no `simulate` section" in said


def test_a_port_that_is_taken_is_said() -> None:
    with simulating("ollama") as running:
        port = running.base_urls["ollama"].split(":")[-1].split("/")[0]
        assert port in one_error(ailib("simulate", "--port", port))
