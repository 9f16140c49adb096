"""`ailib demo`: no key, no network, every claim checked; on a terminal, in a pipe and for programs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ai_lib_trio.cli.demo import FLOOD_BYTES, HELD_BYTES, Claim, _Play
from ai_lib_trio.cli.demo_resilience import TALE
from ai_lib_trio.cli.stage import Stage
from ai_lib_trio.errors import TransportError
from cli_support import AILIB, Terminal, ailib, environment

KEYS = {
    "OPENAI_API_KEY": "sk-a-real-one-1234567890",
    "HTTPS_PROXY": "http://127.0.0.1:1",
    "ALL_PROXY": "http://127.0.0.1:1",
}


@pytest.fixture(scope="module")
def report() -> dict[str, object]:
    done = ailib("demo", "--json", env=KEYS)
    assert (done.code, done.err) == (0, ""), done
    assert KEYS["OPENAI_API_KEY"] not in done.out
    found: dict[str, object] = json.loads(done.out)
    return found


def claim(report: dict[str, object], word: str) -> dict[str, object]:
    claims = report["claims"]
    assert isinstance(claims, list)
    found: list[dict[str, object]] = [one for one in claims if word in one["claim"]]
    assert len(found) == 1, claims
    assert found[0]["checked"] is True
    evidence = found[0]["evidence"]
    assert isinstance(evidence, dict)
    return evidence


def test_every_claim_is_checked_and_it_is_over_soon(report: dict[str, object]) -> None:
    assert report["ok"] is True
    assert isinstance(report["seconds"], float)
    assert report["seconds"] < 30  # four on an idle machine; the check command runs two suites on two cores


def test_every_dialect_answers_one_program(report: dict[str, object]) -> None:
    calls = claim(report, "wire formats, the same reply")["calls"]
    assert isinstance(calls, list)
    assert len(calls) >= 5
    assert len({call["dialect"] for call in calls}) == len({call["path"] for call in calls}) == len(calls)


def test_a_tool_goes_there_and_back_over_every_dialect(report: dict[str, object]) -> None:
    trips = claim(report, "there and back")["round_trips"]
    assert isinstance(trips, list)
    assert len(trips) >= 5
    assert all(trip["call_sent_back"] == [trip["call"]] for trip in trips)
    assert all(trip["seal_sent_back"] == trip["reasoning_sealed"] for trip in trips)
    assert sum(bool(trip["reasoning_sealed"]) for trip in trips) >= 2


def test_the_provider_witnessed_the_cancellation(report: dict[str, object]) -> None:
    evidence = claim(report, "after the cancel")
    assert evidence["provider_saw"] in ("client_closed", "reset_by_client")
    assert isinstance(evidence["provider_saw_after_s"], float)
    assert evidence["provider_saw_after_s"] < 1


def test_the_slow_consumer_held_the_provider_back(report: dict[str, object]) -> None:
    evidence = claim(report, "stood still")
    assert isinstance(evidence["bytes_sent"], int)
    assert evidence["bytes_sent"] <= HELD_BYTES < FLOOD_BYTES == evidence["bytes_scripted"]
    assert claim(report, "nothing lost")["characters_received"] == FLOOD_BYTES


def test_a_race_closes_its_losers_as_their_providers_saw(report: dict[str, object]) -> None:
    evidence = claim(report, "was first")
    members, saw = evidence["members"], evidence["provider_saw"]
    assert isinstance(members, list)
    assert isinstance(saw, list)
    assert [member["outcome"] for member in members] == ["lost", "won", "lost"]
    assert [len(member["attempts"]) for member in members] == [1, 1, 1]
    assert sum(one["outcome"] in ("client_closed", "reset_by_client") for one in saw) == 2


def test_a_hedge_asks_a_second_provider_and_closes_the_first(report: dict[str, object]) -> None:
    evidence = claim(report, "the first was closed unanswered")
    assert isinstance(evidence["asked_after_s"], float)
    assert 0.125 < evidence["asked_after_s"] < 1.25


def test_a_cut_answer_goes_on_elsewhere_with_no_character_missing(report: dict[str, object]) -> None:
    evidence = claim(report, "none came twice")
    attempts = evidence["attempts"]
    assert isinstance(attempts, list)
    assert [attempt["verdict"] for attempt in attempts] == ["replaced", "won"]
    assert isinstance(evidence["handed_on"], str)
    assert TALE.startswith(evidence["handed_on"])


def test_a_pipe_gets_plain_lines() -> None:
    done = ailib("demo")
    assert (done.code, done.err) == (0, "")
    assert "\x1b" not in done.out
    assert "NOT TRUE" not in done.out
    assert done.out.count("  checked: ") == 10
    assert done.out.splitlines()[-1].startswith("10 of 10 claims checked and true")


def test_a_terminal_gets_colour_and_a_gauge() -> None:
    with Terminal("demo") as terminal:
        plain = terminal.wait_for("10 of 10 claims")
        assert terminal.wait_end() == 0
    assert "\x1b[" in terminal.shown
    assert "still for" in plain
    assert max(len(line.split("\r")[-1]) for line in plain.splitlines()) <= 160  # claims are sentences; tables fit


def test_a_dumb_terminal_gets_plain_lines() -> None:
    with Terminal("demo", env={"TERM": "dumb"}) as terminal:
        assert terminal.wait_end() == 0
    assert "\x1b" not in terminal.shown


def test_ctrl_c_ends_it_with_130_and_no_traceback() -> None:
    with Terminal("demo") as terminal:
        terminal.wait_for("word-1")
        terminal.type("\x03")
        assert terminal.wait_end() == 130
    assert "Traceback" not in terminal.shown


def test_a_claim_that_does_not_hold_is_exit_1() -> None:
    """A provider that takes no part in the second scene: the demo says so, and fails."""
    program = (
        "import sys\n"
        "from ai_lib_trio.cli import demo, main\n"
        "from ai_lib_trio.cli.demo import _Play\n"
        "async def other(self): self._claim('pigs fly', False, {})\n"
        "_Play.tool_round_trip = other\n"
        "sys.exit(main(['demo']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), timeout=60, check=False
    )
    assert done.returncode == 1
    assert "NOT TRUE: pigs fly" in done.stdout
    assert "9 of 10 claims" not in done.stdout.splitlines()[0]
    assert "checked and true" in done.stdout.splitlines()[-1]


async def test_a_scene_that_fails_is_a_claim_that_does_not_hold() -> None:
    play = _Play(Stage(quiet=True))

    async def scene() -> None:
        raise TransportError("gone", kind="reset")

    await play._try(scene)
    assert play.claims == [Claim("the scene scene plays to its end", False, {"error": "[E3001 server_error] gone"})]


def test_whoever_stops_reading_gets_no_traceback() -> None:
    with subprocess.Popen(
        [AILIB, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
        code = process.wait(60)
    assert said == ""
    assert code == 141
