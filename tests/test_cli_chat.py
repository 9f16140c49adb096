"""`ailib chat`, run as users run it, against the simulator."""

from __future__ import annotations

import json
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

from ai_lib_trio.simulator import (
    Body,
    Cut,
    Hold,
    Pause,
    Refusal,
    Script,
    Status,
    Text,
    Thinking,
    Usage,
    html_page,
    not_json,
    open_simulator,
)
from cli_support import AILIB, Terminal, ailib, ailib_async, environment, one_error

ANSWER = Script(steps=[Thinking("Hm."), Text("Hello, world."), Usage(input_tokens=1000, output_tokens=2000)])
KEYS = {"OPENAI_API_KEY": "sk-of-a-test-1234567890", "ANTHROPIC_API_KEY": "sk-of-a-test-0987654321"}
PRICED = "anthropic/claude-haiku-4-5"


async def test_the_reply_goes_to_stdout_and_its_account_to_stderr() -> None:
    async with open_simulator(scripts=ANSWER) as sim:
        done = await ailib_async("chat", PRICED, "Hi", "--base-url", sim.base_url("anthropic"), env=KEYS)
    assert done.code == 0
    assert done.out == "Hello, world.\n"  # the thinking is for terminals
    assert "1000 in, 2000 out tokens" in done.err
    assert "USD" in done.err


async def test_the_text_comes_from_a_pipe_or_a_dash() -> None:
    async with open_simulator() as sim:
        for arguments in ((), ("-",)):
            done = await ailib_async(
                "chat", "ollama/any", *arguments, "--base-url", sim.base_url("ollama"), given="from a pipe"
            )
            assert (done.code, done.out) == (0, "You said: from a pipe\n")


async def test_options_reach_the_wire() -> None:
    async with open_simulator() as sim:
        done = await ailib_async(
            *("chat", "openai/any", "Hi", "--api", "responses", "--base-url", sim.base_url("openai")),
            *("--system", "Be brief.", "--max-tokens", "77", "--temperature", "0.5"),
            env=KEYS,
        )
        assert done.code == 0, done.err
        entry = sim.entries[0]
    assert (entry.dialect, entry.streamed) == ("responses", True)
    assert entry.request is not None
    assert (entry.request.max_tokens, entry.request.temperature) == (77, 0.5)
    assert [message.role for message in entry.request.messages] == ["system", "user"]


async def test_json_gives_every_event_as_a_line_then_a_summary() -> None:
    async with open_simulator(scripts=ANSWER) as sim:
        done = await ailib_async("chat", PRICED, "Hi", "--json", "--base-url", sim.base_url("anthropic"), env=KEYS)
    assert (done.code, done.err) == (0, "")
    lines = [json.loads(line) for line in done.out.splitlines()]
    text = "".join(line["content"] for line in lines if line.get("event") == "PartialContentDelta")
    assert text == "Hello, world."
    assert lines[-2]["event"] == "StreamEnd"
    assert lines[-1]["summary"]["content"] == text
    assert lines[-1]["summary"]["thinking"] == "Hm."
    assert lines[-1]["summary"]["usage"]["output_tokens"] == 2000
    assert lines[-1]["stats"]["cost"] > 0


async def test_a_refusal_is_shown_like_text() -> None:
    async with open_simulator(scripts=Script(steps=[Refusal("I would rather not.")])) as sim:
        done = await ailib_async("chat", "openai/any", "Hi", "--base-url", sim.base_url("openai"), env=KEYS)
    assert (done.code, done.out) == (0, "I would rather not.\n")


# ---- failures: one line, with its code, exit 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (html_page(), "E3001"),
        (html_page(200), "E3001"),
        (not_json(), "E3001"),
        (Status(429, "slow down", retry_after=7), "E2001"),
        (Status(500, "no\nlines"), "E3001"),
    ],
    ids=["html, 502", "html, 200", "not json", "429", "500"],
)
async def test_what_is_no_reply_is_one_line(answer: object, code: str) -> None:
    async with open_simulator(scripts=answer) as sim:  # type: ignore[arg-type]
        arguments = ("chat", "openai/any", "Hi", "--retries", "0", "--base-url", sim.base_url("openai"))
        done = await ailib_async(*arguments, env=KEYS)
        assert len(sim.entries) == 1
    assert code in one_error(done)
    assert "the provider frame" not in done.err  # one sentence, not two run into each other
    assert done.out == ""


async def test_a_failed_call_is_tried_again_without_a_word_in_a_pipe() -> None:
    async with open_simulator(scripts=[Status(503), ANSWER]) as sim:
        done = await ailib_async("chat", "ollama/any", "Hi", "--base-url", sim.base_url("ollama"))
        assert len(sim.entries) == 2
    assert (done.code, done.out) == (0, "Hello, world.\n")
    assert "E3002" not in done.err


async def test_a_person_is_told_that_an_attempt_failed() -> None:
    async with open_simulator(scripts=[Status(503), ANSWER]) as sim:

        def look() -> str:
            with Terminal("chat", "ollama/any", "Hi", "--base-url", sim.base_url("ollama")) as terminal:
                terminal.wait_for("attempt 1 failed: E3002")
                assert terminal.wait_end() == 0
                return terminal.shown

        assert "Hello, world." in await trio.to_thread.run_sync(look)


async def test_what_arrived_before_a_cut_is_shown_and_the_cut_is_said() -> None:
    script = Script(steps=[Text("one two three four")], faults=[Cut(after_frames=3)])
    async with open_simulator(scripts=script) as sim:
        done = await ailib_async("chat", "openai/any", "Hi", "--base-url", sim.base_url("openai"), env=KEYS)
    assert "E3001" in one_error(done)
    assert done.out.startswith("one")


async def test_a_wrong_key_is_said_and_not_shown() -> None:
    async with open_simulator(keys={"openai": "the-right-one"}) as sim:
        done = await ailib_async("chat", "openai/any", "Hi", "--base-url", sim.base_url("openai"), env=KEYS)
    line = one_error(done)
    assert "E1002" in line
    assert KEYS["OPENAI_API_KEY"] not in line


async def test_a_refused_tls_handshake_is_said() -> None:
    async with open_simulator() as sim:
        secure = sim.base_url("ollama").replace("http:", "https:")
        done = await ailib_async("chat", "ollama/any", "Hi", "--base-url", secure)
    line = one_error(done)
    assert "E3001" in line
    assert "TLS" in line


async def test_a_host_where_nobody_listens_is_said() -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    url = f"http://127.0.0.1:{port}"
    done = await ailib_async("chat", "ollama/any", "Hi", "--retries", "0", "--base-url", url)
    assert "E3001" in one_error(done)


@pytest.mark.parametrize(
    ("model", "code", "word"),
    [
        ("openai/any", "E1002", "OPENAI_API_KEY"),  # no key: says where it was looked for
        ("no-such-provider/any", "E1004", "no-such-provider"),
        ("no-such-model", "E1004", "no-such-model"),
        ("anthropc/any", "E1004", "did you mean 'anthropic'"),
        ("openai/", "E1001", "provider/model"),
    ],
)
def test_what_cannot_be_asked_is_said_before_anything_is_sent(model: str, code: str, word: str) -> None:
    line = one_error(ailib("chat", model, "Hi"))
    assert code in line
    assert word in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id: [\n", ("broken.yaml:2",)),
        ("id: acme\nprotocol_version: '2.0'\nendpoint: 17\n", ("broken.yaml:3", "endpoint")),
    ],
    ids=["broken YAML", "wrong type"],
)
def test_a_manifest_that_cannot_be_used_is_said_with_file_and_line(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text, encoding="utf-8")
    line = one_error(ailib("chat", "acme/any", "Hi", "--manifests", str(file)))
    assert "E1001" in line
    assert all(word in line for word in words)


def test_an_api_that_the_provider_lacks_is_said_with_those_it_has() -> None:
    assert "responses" in one_error(ailib("chat", "openai/any", "Hi", "--api", "nonsense", env=KEYS))


@pytest.mark.parametrize(
    "arguments",
    [
        ("chat",),
        ("chat", "openai/any", ""),
        ("chat", "openai/any", "-"),
        ("chat", "openai/any", "Hi", "--max-tokens", "0"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: tuple[str, ...]) -> None:
    done = ailib(*arguments)
    assert done.code == 2
    assert "Usage:" in done.err


@pytest.mark.parametrize("url", ["not a url", "ftp://127.0.0.1", "http://user@127.0.0.1:1"])
def test_a_base_url_that_is_none_is_said(url: str) -> None:
    assert "E1001" in one_error(ailib("chat", "ollama/any", "Hi", "--base-url", url))


async def test_a_deadline_is_said() -> None:
    never = trio.Event()
    async with open_simulator(scripts=Script(steps=[Text("Once upon"), Hold(never)])) as sim:
        done = await ailib_async("chat", "ollama/any", "Hi", "--deadline", "1", "--base-url", sim.base_url("ollama"))
    assert "E3003" in one_error(done)
    assert done.out == "Once upon\n"


# ---- text of every kind


async def test_bytes_that_are_no_text_are_marked_and_sent() -> None:
    async with open_simulator() as sim:
        url = sim.base_url("ollama")
        with trio.fail_after(60):
            done = await trio.run_process(
                [AILIB, "chat", "ollama/any", "-", "--base-url", url],
                stdin=b"caf\xe9",
                capture_stdout=True,
                env=environment(),
            )
        given = await ailib_async("chat", "ollama/any", "caf\udce9", "--base-url", url)
    assert done.stdout.decode() == given.out == "You said: caf\ufffd\n"


async def test_what_a_terminal_cannot_say_is_escaped() -> None:
    async with open_simulator(scripts=Script(steps=[Text("größer")])) as sim:
        arguments = ("chat", "ollama/any", "Hi", "--base-url", sim.base_url("ollama"))
        done = await ailib_async(*arguments, env={"PYTHONIOENCODING": "ascii"})
    assert (done.code, done.out) == (0, "gr\\xf6\\xdfer\n")


async def test_half_a_character_of_a_reply_is_marked() -> None:
    body = Body(
        b'{"model":"m","message":{"role":"assistant","content":"a \\ud83d b"},"done":true,"done_reason":"stop"}'
    )
    async with open_simulator(scripts=body) as sim:
        arguments = ("chat", "ollama/any", "Hi", "--base-url", sim.base_url("ollama"))
        people, programs = await ailib_async(*arguments), await ailib_async(*arguments, "--json")
    assert people.out == "a \ufffd b\n"
    assert json.loads(programs.out.splitlines()[-1])["summary"]["content"] == "a \ufffd b"


async def test_whoever_stops_reading_ends_the_reply_without_a_traceback() -> None:
    never = trio.Event()
    story = Script(steps=[Text("word " * 50_000), Hold(never)])
    async with open_simulator(scripts=story) as sim, trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [AILIB, "chat", "ollama/any", "Hi", "--base-url", sim.base_url("ollama")],
                stdout=subprocess.PIPE,
                capture_stderr=True,
                check=False,
                env=environment(),
            )
        )
        assert (await process.stdout.receive_some(100)).startswith(b"word")
        await process.stdout.aclose()
        entry = await sim.wait_end(1)
        assert entry.left_by_client
        await process.wait()
        assert process.returncode == 141


# ---- on a terminal


async def test_a_conversation_keeps_its_history_and_ends_with_ctrl_d() -> None:
    async with open_simulator() as sim:

        def talk() -> int:
            with Terminal("chat", "ollama/any", "--base-url", sim.base_url("ollama")) as terminal:
                terminal.wait_for("> ")
                terminal.type("first words\n")
                terminal.wait_for("You said: first words")
                terminal.wait_for("> ")
                terminal.type("second words\n")
                terminal.wait_for("You said: second words")
                terminal.wait_for("> ")
                terminal.type("\x04")
                return terminal.wait_end()

        assert await trio.to_thread.run_sync(talk) == 0
        second = sim.entries[1].request
        assert len(sim.connections) == 1
    assert second is not None
    assert [message.text for message in second.messages] == ["first words", "You said: first words", "second words"]


async def test_ctrl_c_ends_the_reply_and_its_connection_and_the_conversation_goes_on() -> None:
    never = trio.Event()
    async with open_simulator(scripts=[Script(steps=[Text("Once upon"), Hold(never)])]) as sim:

        def talk() -> int:
            with Terminal("chat", "ollama/any", "--base-url", sim.base_url("ollama")) as terminal:
                terminal.wait_for("> ")
                terminal.type("a story\n")
                terminal.wait_for("Once upon")
                terminal.type("\x03")
                terminal.wait_for("ended")
                trio.from_thread.run(sim.wait_end, 1)
                terminal.wait_for("> ")
                terminal.type("something else\n")
                terminal.wait_for("You said: something else")
                terminal.type("\x04")
                return terminal.wait_end()

        assert await trio.to_thread.run_sync(talk) == 0
        assert sim.entries[0].left_by_client
        second = sim.entries[1].request
    assert second is not None
    assert [message.text for message in second.messages] == ["something else"]


async def test_ctrl_c_at_the_prompt_leaves_with_130() -> None:
    def talk() -> int:
        with Terminal("chat", "ollama/any") as terminal:
            terminal.wait_for("> ")
            terminal.type("\x03")
            return terminal.wait_end()

    assert await trio.to_thread.run_sync(talk) == 130


async def test_ctrl_c_during_a_single_reply_is_130_without_a_traceback() -> None:
    never = trio.Event()
    async with open_simulator(scripts=[Script(steps=[Text("Once upon"), Hold(never)])]) as sim:

        def talk() -> tuple[int, str]:
            with Terminal("chat", "ollama/any", "a story", "--base-url", sim.base_url("ollama")) as terminal:
                terminal.wait_for("Once upon")
                terminal.type("\x03")
                return terminal.wait_end(), terminal.shown

        code, shown = await trio.to_thread.run_sync(talk)
        entry = await sim.wait_end(1)
    assert code == 130
    assert "Traceback" not in shown
    assert entry.left_by_client


async def test_a_reply_cannot_act_on_the_terminal() -> None:
    evil = "\x1b[2J\x1b]0;owned\x07 and \x9b31m text"
    async with open_simulator(scripts=Script(steps=[Text(evil)], pieces="whole")) as sim:

        def look() -> str:
            with Terminal("chat", "ollama/any", "Hi", "--base-url", sim.base_url("ollama")) as terminal:
                assert terminal.wait_end() == 0
                return terminal.shown

        shown = await trio.to_thread.run_sync(look)
        piped = await ailib_async("chat", "ollama/any", "Hi", "--base-url", sim.base_url("ollama"))
    assert "\x1b[2J" not in shown
    assert "\x1b]0" not in shown
    assert "\x9b" not in shown
    assert r"\x1b[2J" in shown
    assert piped.out == evil + "\n"  # a pipe gets what was said


async def test_thinking_is_shown_on_a_terminal() -> None:
    async with open_simulator(scripts=Script(steps=[Thinking("Hm."), Pause(0), Text("Yes.")])) as sim:

        def look() -> str:
            with Terminal("chat", "anthropic/any", "Hi", "--base-url", sim.base_url("anthropic"), env=KEYS) as terminal:
                shown = terminal.wait_for("Yes.")
                assert terminal.wait_end() == 0
                return shown

        assert "Hm.\nYes." in await trio.to_thread.run_sync(look)
