"""Faults by guarantee: what comes out of a call when the provider misbehaves, on loopback, with real sockets.

    python -m benchmarks.faults [--json | --markdown] [--only NAME] [--peers] [--transport native|httpx]

Each fault is played by the simulator or a raw socket, and the call is made with one attempt, streamed, under a
deadline. Four guarantees are checked for each: the outcome is the typed one that is expected; it came within the
deadline; nothing is left open (tasks and sockets here, connections at the server); what the caller got is what the
server sent, with nothing lost before the fault and nothing twice. Exit 0 means that all of it held for ours.

`--peers` also runs the asyncio clients that are installed (in a process of their own) and prints what they did: they
are measured, not judged, and promise other things.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import trio

from ai_lib_trio import AiLibError, Config, Resilience, open_client
from ai_lib_trio.simulator import (
    CloseUnderNextRequest,
    ContentType,
    Cut,
    Encoded,
    Error,
    Headers,
    Insert,
    LineEnds,
    Omit,
    Oversize,
    Raw,
    RepeatEnd,
    Script,
    Simulator,
    SplitCharacters,
    Stall,
    Status,
    Text,
    Trickle,
    Usage,
    html_page,
    open_simulator,
    redirect,
)
from ai_lib_trio.testing import Quiescence

MODEL = "fault-table/any"
PROVIDER = "chat_completions"  # a dialect of the simulator; the client's manifest is made below
ANSWER = "Es war einmal ein König, der hatte 日本 im Sinn: one two three four five six seven eight nine ten."
DEADLINE_S = 1.5  # long enough for every fault that is no stall, short enough to see it kept
SLACK_S = 0.35  # of a machine that does other things meanwhile
LARGE = 8 * 1024 * 1024

MANIFEST = """
id: fault-table
protocol_version: "2.0"
name: The provider of the fault table
endpoint:
  base_url: {base_url}
  timeout_ms: 700
  auth: {{type: none}}
api_families:
  chat: {{dialect: chat_completions}}
"""


def plain(**fields: Any) -> Script:
    faults = fields.pop("faults", ())
    steps = fields.pop("steps", [Text(ANSWER), Usage(input_tokens=10, output_tokens=25)])
    return Script(steps=steps, faults=faults, **fields)


class Fault(NamedTuple):
    """One row. `outcomes` are the kinds (or `ok`) that may come out, `code` the standard code; `plays` is what the
    simulator answers. `least` is how much of the answer left the server for certain before the fault."""

    name: str
    outcomes: tuple[str, ...]
    plays: Any = None
    code: str | None = None
    least: int = 0  # characters
    text: str = "prefix"  # `whole`: all of the answer; `prefix`: a beginning of it; `none`
    url: Callable[[str], str] | None = None
    before: int = 0  # calls to make first, on the same client
    idle_s: float | None = None
    min_bytes_per_s: float | None = None
    run: Callable[[Simulator, str], Awaitable[Result]] | None = None
    serve: Callable[[], contextlib.AbstractAsyncContextManager[str]] | None = None


class Result(NamedTuple):
    """What came out of one call. `code` is the error's."""

    outcome: str
    text: str
    seconds: float
    note: str = ""
    code: str | None = None


def closed_port() -> int:
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.asynccontextmanager
async def plain_text_where_tls_is_expected() -> AsyncIterator[str]:
    """A server that answers a TLS handshake in plain text."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.receive_some(1024)
            await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, listeners)
        yield f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}/v1"
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def a_port_that_never_accepts() -> AsyncIterator[str]:
    """A listening port whose queue is full: connecting hangs."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(contextlib.closing(socket.socket()))
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(contextlib.closing(socket.socket()))
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def status(code: int, **fields: Any) -> Fault:
    hint = f" with retry-after {fields['retry_after']}" if "retry_after" in fields else ""
    return Fault(f"status {code}{hint}", ("provider",), Status(code, **fields), CODES[code], text="none")


CODES = {
    400: "E1001",
    401: "E1002",
    403: "E1003",
    404: "E1004",
    408: "E3003",
    413: "E1005",
    422: "E1001",
    429: "E2001",
    500: "E3001",
    502: "E3001",
    503: "E3002",
    504: "E3003",
    529: "E3002",
}


def large_answer() -> Script:
    return Script(steps=[Text("x" * LARGE)], pieces=16 * 1024)


def faults() -> list[Fault]:
    """The table's rows."""
    return [
        Fault("none", ("ok",), plain(), text="whole"),
        Fault(
            "connection refused", ("connect",), None, text="none", url=lambda _: f"http://127.0.0.1:{closed_port()}/v1"
        ),
        Fault(
            "no such host",
            ("connect", "connect_timeout", "deadline"),
            None,
            text="none",
            url=lambda _: "http://no-such-host.invalid/v1",
        ),
        Fault("connecting hangs", ("connect_timeout",), None, text="none", serve=a_port_that_never_accepts),
        Fault(
            "no TLS where TLS is expected",
            ("tls_refused", "connect", "reset"),
            None,
            text="none",
            serve=plain_text_where_tls_is_expected,
        ),
        Fault("reset before the head", ("reset",), Raw(b"", "reset"), text="none"),
        Fault("closed before the head", ("reset",), Raw(b""), text="none"),
        Fault("garbage in place of HTTP", ("reset", "connect"), Raw(b"\x00\x01\x02 nonsense\r\n\r\n"), text="none"),
        Fault("reset in the stream", ("reset", "truncated"), plain(faults=[Cut(after_frames=6, how="reset")])),
        Fault("closed in the stream", ("truncated", "reset"), plain(faults=[Cut(after_frames=6)]), least=8),
        Fault("clean early end", ("truncated",), plain(faults=[Cut(after_frames=6, how="end")]), least=8),
        Fault("cut inside a character", ("truncated",), plain(faults=[Cut(after_bytes=1400, how="end")])),
        Fault("silence before the head", ("deadline",), plain(faults=[Stall("head")]), text="none"),
        Fault("silence after the head", ("deadline",), plain(faults=[Stall(0)]), text="none"),
        Fault("silence in the stream", ("idle_timeout",), plain(faults=[Stall(5)]), idle_s=0.5, least=8),
        Fault("a trickle", ("deadline",), plain(faults=[Trickle(200)])),
        status(400),
        status(401),
        status(403),
        status(404),
        status(408),
        status(413),
        status(422),
        status(429),
        status(429, retry_after=2),
        status(429, retry_after=86400),
        status(500),
        status(502),
        status(503, retry_after="Wed, 21 Oct 2065 07:28:00 GMT"),
        status(504),
        status(529),
        Fault("a proxy's page with 502", ("provider",), html_page(), text="none"),
        Fault("bad JSON in a frame", ("unreadable_frame",), plain(faults=[Insert(b"data: {nonsense\n\n", 4)]), least=8),
        Fault(
            "garbage between frames", ("ok", "unreadable_frame"), plain(faults=[Insert(after_frames=4)]), text="prefix"
        ),
        Fault(
            "comments between frames", ("ok",), plain(faults=[Insert(b": keep-alive\n\n", 1, every=True)]), text="whole"
        ),
        Fault("every character cut in two", ("ok",), plain(faults=[SplitCharacters()]), text="whole"),
        Fault("CRLF line ends", ("ok",), plain(faults=[LineEnds("\r\n")]), text="whole"),
        Fault("CR line ends", ("ok",), plain(faults=[LineEnds("\r")]), text="whole"),
        Fault("a frame of 20 MiB", ("oversize",), plain(faults=[Oversize(20 * 1024 * 1024)]), text="none"),
        Fault(
            "an error inside a 200 stream",
            ("provider",),
            plain(steps=[Text(ANSWER), Error("overloaded", code="overloaded_error")]),
        ),
        Fault("HTML that calls itself 200", ("wrong_content_type",), html_page(200, "OK"), text="none"),
        Fault("no content type", ("ok", "wrong_content_type"), plain(faults=[ContentType(None)]), text="prefix"),
        Fault("a redirect", ("redirected",), redirect("http://127.0.0.1:9/elsewhere"), text="none"),
        Fault("a compressed stream", ("ok",), plain(faults=[Encoded("gzip")]), text="whole"),
        Fault(
            "an unknown coding",
            ("wrong_content_type",),
            plain(faults=[Headers({"content-encoding": "compress"})]),
            text="none",
        ),
        Fault("the last frame twice", ("ok",), plain(faults=[RepeatEnd()]), text="whole"),
        Fault("no done signal", ("ok",), plain(faults=[Omit(("done",))]), text="whole"),
        Fault("no end of any kind", ("truncated",), plain(faults=[Omit(("done", "finish", "end"))]), text="prefix"),
        Fault(
            "closed under a new request",
            ("reset", "ok"),
            [plain(faults=[CloseUnderNextRequest()]), plain()],
            before=1,
            text="prefix",
        ),
        Fault("a slow consumer", ("ok",), large_answer(), text="none", run=slow_consumer),
        Fault("a cancelled caller", ("cancelled",), plain(faults=[Stall(3)]), run=cancelled_caller),
        Fault("a crashed actor", ("actor_lost",), plain(faults=[Stall(3)]), run=crashed_actor),
    ]


# ---- running one


_transport: Any = "auto"  # what the command's `--transport` says, for every client of the run


def client_at(base_url: str, folder: str) -> Any:
    path = f"{folder}/fault-table.yaml"
    with open(path, "w", encoding="utf-8") as file:
        file.write(MANIFEST.format(base_url=base_url))
    config = Config(environ={}, resilience=Resilience(max_attempts=1, breaker="off"), transport=_transport)
    return open_client(MODEL, manifests=path, config=config)


async def one_call(client: Any, fault: Fault) -> Result:
    chat = client.chat().user("tell").deadline(DEADLINE_S)
    if fault.idle_s is not None:
        chat = chat.timeouts(idle_s=fault.idle_s)
    began = time.perf_counter()
    text = ""
    outcome, note, code = "ok", "", None
    try:
        async with chat.stream() as events:
            async for event in events:
                text += getattr(event, "content", "")
    except AiLibError as exc:
        outcome, note, code = exc.kind, f"{exc.code} {exc.name}", exc.code
        if exc.retry_after_s is not None:
            note += f", wait {exc.retry_after_s:.0f} s"
    return Result(outcome, text, time.perf_counter() - began, note, code)


async def slow_consumer(sim: Simulator, folder: str) -> Result:
    """Sleeps before it reads: the server must stand still meanwhile. Then reads all."""
    began = time.perf_counter()
    async with client_at(sim.base_url(PROVIDER), folder) as client, client.chat().user("tell").stream() as events:
        got = 0
        await trio.sleep(0.5)
        held = sim.entries[-1].bytes_sent
        await trio.sleep(0.5)
        still = sim.entries[-1].bytes_sent - held
        async for event in events:
            got += len(getattr(event, "content", ""))
    is_held = held < LARGE // 2 and still == 0
    outcome = "ok" if is_held and got == LARGE else "not held"
    return Result(
        outcome, "", min(time.perf_counter() - began, DEADLINE_S), f"{held // 1024} KiB in buffers, then still"
    )


async def cancelled_caller(sim: Simulator, folder: str) -> Result:
    """The caller's own scope ends the call; the server sees the connection close."""
    began = time.perf_counter()
    text = ""
    async with client_at(sim.base_url(PROVIDER), folder) as client:
        with trio.move_on_after(0.3) as scope:
            async with client.chat().user("tell").stream() as events:
                async for event in events:
                    text += getattr(event, "content", "")
    left = time.perf_counter() - began - 0.3
    return Result("cancelled" if scope.cancelled_caught else "ok", text, left, f"closed {left * 1000:.0f} ms after")


async def crashed_actor(sim: Simulator, folder: str) -> Result:
    """The provider's actor dies by a bug of its own loop, in the middle of a call; the next call works."""

    def broken() -> None:
        raise RuntimeError("a bug of the actor's own")

    began = time.perf_counter()
    text, outcome, note = "", "ok", ""
    async with client_at(sim.base_url(PROVIDER), folder) as client:
        try:
            async with client.chat().user("tell").stream() as events:
                async for event in events:
                    text += getattr(event, "content", "")
                    slot = next(iter(client._supervisor.slots.values()))
                    if slot.actor is not None and text.count(" ") == 1:
                        slot.actor._empty_inbox = broken  # its next turn raises
                        slot.actor._wake()
        except AiLibError as exc:
            outcome, note = exc.kind, f"{exc.code} {exc.name}"
        sim.script(plain())
        again = await client.chat().user("again").execute()
        note += ", next call works" if again.content == ANSWER else ", next call fails"
    return Result(outcome, text, time.perf_counter() - began, note)


class Row(NamedTuple):
    """One line of the table."""

    fault: str
    outcome: str
    is_typed: bool
    is_in_time: bool
    is_quiet: bool
    is_exact: bool
    seconds: float
    note: str

    @property
    def is_full(self) -> bool:
        return self.is_typed and self.is_in_time and self.is_quiet and self.is_exact


async def play(fault: Fault, folder: str) -> Row:
    """Play one fault against ours."""
    quiet = Quiescence()
    left: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        sim = await stack.enter_async_context(open_simulator(send_buffer_bytes=64 * 1024))
        answers = fault.plays if isinstance(fault.plays, list) else [] if fault.plays is None else [fault.plays]
        if answers:
            sim.script(*answers)
        url = sim.base_url(PROVIDER)
        if fault.serve is not None:
            url = await stack.enter_async_context(fault.serve())
        if fault.url is not None:
            url = fault.url(url)
        inner = Quiescence()
        if fault.run is not None:
            result = await fault.run(sim, folder)
        else:
            async with client_at(url, folder) as client:
                for _ in range(fault.before):
                    await one_call(client, fault)
                result = await one_call(client, fault)
        with trio.move_on_after(2.0):
            await sim.wait_quiet()
        left = [line for line in inner.leftovers() if "socket" not in line]
        if sim.open_connections:
            left.append(f"{sim.open_connections} connections at the server")
    left += quiet.leftovers()
    exact = {
        "whole": result.text == ANSWER,
        "prefix": ANSWER.startswith(result.text) and (result.outcome != "ok" or result.text == ANSWER),
        "none": not result.text,
    }[fault.text]
    note = "; ".join([result.note, *left] if result.note else left)
    return Row(
        fault.name,
        result.outcome,
        result.outcome in fault.outcomes and fault.code in (None, result.code),
        result.seconds <= DEADLINE_S + SLACK_S,
        not left,
        exact and len(result.text) >= fault.least,
        round(result.seconds, 3),
        note,
    )


# ---- peers: what is installed, each in a process of its own


PEERS = {"ai_lib_python": "ai-lib-python", "litellm": "litellm", "openai": "openai"}

# The incumbent reads manifests too, and brings none: this one says of the wire what ours does.
INCUMBENT_MANIFEST = """
id: fault-table
protocol_version: "1.5"
name: The provider of the fault table
status: stable
endpoint: {base_url: "http://127.0.0.1:9/v1"}
auth: {type: bearer}
endpoints: {chat: {path: /chat/completions, method: POST}}
capabilities: {streaming: true, tools: false}
streaming:
  decoder: {format: sse, delimiter: "\\n\\n", prefix: "data: ", done_signal: "[DONE]"}
  content_path: $.choices[0].delta.content
  event_map:
    - match: exists($.choices[*].delta.content)
      emit: PartialContentDelta
      fields: {content: "$.choices[*].delta.content"}
    - match: exists($.choices[*].finish_reason)
      emit: FinalCandidate
      fields: {finish_reason: "$.choices[*].finish_reason"}
"""

# One call for each line of stdin, one line of JSON for each. Only the call is timed: a library's import is not a fault.
PEER_SCRIPT = """
import asyncio, json, sys, time
name, deadline, folder = sys.argv[1], float(sys.argv[2]), sys.argv[3]
messages = [{"role": "user", "content": "tell"}]
if name == "openai":
    import openai
elif name == "litellm":
    import litellm
    litellm.suppress_debug_info = True
else:
    import ai_lib_python

async def call(url, said):
    if name == "openai":
        async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=0, timeout=deadline) as client:
            stream = await client.chat.completions.create(model="any", messages=messages, stream=True)
            async for chunk in stream:
                for choice in chunk.choices:
                    said.append(choice.delta.content or "")
    elif name == "litellm":
        stream = await litellm.acompletion(
            model="openai/any", api_base=url, api_key="k", messages=messages, stream=True, timeout=deadline,
            num_retries=0,
        )
        async for chunk in stream:
            said.append(chunk.choices[0].delta.content or "")
    else:
        builder = ai_lib_python.AiClient.builder().model("fault-table/any").protocol_path(folder)
        client = await builder.api_key("k").base_url(url).timeout(deadline).build()
        try:
            async for event in client.chat().user("tell").stream():
                if event.is_content_delta:
                    said.append(event.as_content_delta.content)
        finally:
            await client.close()

async def main():
    try:  # the first call of a process loads more of a library
        await asyncio.wait_for(call("http://127.0.0.1:9/v1", []), 60)
    except Exception:
        pass
    print("\\nready", flush=True)
    for line in iter(sys.stdin.readline, ""):
        said, outcome, began = [], "ok", time.perf_counter()
        try:
            await asyncio.wait_for(call(line.strip(), said), 4 * deadline)
        except Exception as exc:
            outcome = type(exc).__name__
        seconds = time.perf_counter() - began
        print("\\n" + json.dumps({"outcome": outcome, "text": "".join(said), "seconds": round(seconds, 3)}), flush=True)

asyncio.run(main())
"""


def installed() -> list[str]:
    """The peers that this Python has."""
    return [name for name in PEERS if importlib.util.find_spec(name) is not None]


class Peer:
    """A peer's process. It is started again when it dies or does not answer."""

    def __init__(self, name: str, folder: str) -> None:
        self.name = name
        self.version = importlib.metadata.version(PEERS[name])
        self._folder = folder
        self._process: trio.Process | None = None
        self._unread = b""

    async def play(self, fault: Fault) -> str:
        """What it did, in one cell: outcome, text, seconds, and what was still open at the server a second later."""
        if fault.run is not None or fault.before:
            return "not run"
        async with contextlib.AsyncExitStack() as stack:
            sim = await stack.enter_async_context(open_simulator())
            if fault.plays is not None:
                sim.script(*(fault.plays if isinstance(fault.plays, list) else [fault.plays]))
            url = sim.base_url(PROVIDER)
            if fault.serve is not None:
                url = await stack.enter_async_context(fault.serve())
            if fault.url is not None:
                url = fault.url(url)
            if self._process is None:
                await self._start()
            seen = None
            with trio.move_on_after(10 * DEADLINE_S):
                seen = await self._ask(url)
            if seen is None:
                self.close()
                return "no end within 15 s"
            with trio.move_on_after(1.0):
                await sim.wait_quiet()
            text = str(seen["text"])
            got = "whole" if text == ANSWER else "no" if not text else "part" if ANSWER.startswith(text) else "wrong"
            still = f", {sim.open_connections} still open" if sim.open_connections else ""
            return f"{seen['outcome']}, {got} text, {seen['seconds']:.1f} s{still}"

    async def _start(self) -> None:
        argv = [sys.executable, "-c", PEER_SCRIPT, self.name, str(DEADLINE_S), self._folder]
        environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else it is looked for in the net
        self._unread = b""
        self._process = await trio.lowlevel.open_process(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environ
        )
        with trio.fail_after(120):
            while await self._line() not in (b"ready", None):
                pass

    async def _ask(self, url: str) -> dict[str, Any] | None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(url.encode() + b"\n")
        except trio.BrokenResourceError:
            return None
        while (line := await self._line()) is not None:
            if line.startswith(b'{"outcome"'):
                found: dict[str, Any] = json.loads(line)
                return found
        return None

    async def _line(self) -> bytes | None:
        """The next line of its output; None at the end."""
        assert self._process is not None
        assert self._process.stdout is not None
        while b"\n" not in self._unread:
            more = await self._process.stdout.receive_some()
            if not more:
                return None
            self._unread += bytes(more)
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def close(self) -> None:
        """End its process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()


# ---- the command


def table(rows: Sequence[Row], peers: dict[str, dict[str, str]]) -> str:
    """The table in text."""
    lines = []
    width = max(len(row.fault) for row in rows)
    head = f"{'fault':{width}}  {'outcome':18}  typed  in time  quiet  exact  seconds  note"
    lines.append(head)
    for row in rows:
        marks = ["yes" if one else "NO" for one in (row.is_typed, row.is_in_time, row.is_quiet, row.is_exact)]
        lines.append(
            f"{row.fault:{width}}  {row.outcome:18}  {marks[0]:5}  {marks[1]:7}  {marks[2]:5}  {marks[3]:5}  "
            f"{row.seconds:7.3f}  {row.note}".rstrip()
        )
        lines.extend(
            f"{'':{width}}    {name}: {cells[row.fault]}" for name, cells in peers.items() if row.fault in cells
        )
    return "\n".join(lines)


def markdown(rows: Sequence[Row], peers: dict[str, dict[str, str]]) -> str:
    """The table for a page: what came out of each fault, ours and the peers'."""
    lines = [f"| fault | ours | {' | '.join(peers)} |", f"|---|---|{'---|' * len(peers)}"]
    for row in rows:
        cells = [found.get(row.fault, "not run").replace("|", "/") for found in peers.values()]
        lines.append(f"| {row.fault} | {row.outcome}{'' if row.is_full else ', NOT full'} | {' | '.join(cells)} |")
    return "\n".join(lines)


async def measure(only: str | None, names: Sequence[str], folder: str) -> tuple[list[Row], dict[str, dict[str, str]]]:
    """Every row for ours, every cell for the peers."""
    rows: list[Row] = []
    # What is loaded and compiled on first use is not what a fault is measured by: on a busy machine it takes as long as
    # a whole deadline.
    await play(Fault("none", ("ok",), plain(faults=[Encoded("gzip")])), folder)
    peers = [Peer(name, folder) for name in names]
    cells: dict[str, dict[str, str]] = {f"{PEERS[peer.name]} {peer.version}": {} for peer in peers}
    try:
        for fault in faults():
            if only is not None and only not in fault.name:
                continue
            rows.append(await play(fault, folder))
            for peer, found in zip(peers, cells.values(), strict=True):
                found[fault.name] = await peer.play(fault)
    finally:
        for peer in peers:
            peer.close()
    return rows, cells


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Gives its exit code."""
    import tempfile

    global _transport

    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--markdown", action="store_true", help="print a table for a page")
    parser.add_argument("--only", help="faults whose name has this in it")
    parser.add_argument("--peers", action="store_true", help="also run the peers that are installed")
    parser.add_argument("--transport", choices=("auto", "native", "httpx"), default="auto", help="ours by this engine")
    asked = parser.parse_args(arguments)
    _transport = asked.transport
    names = installed() if asked.peers else []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "v1", "providers", "fault-table.yaml")
        source.parent.mkdir(parents=True)
        source.write_text(INCUMBENT_MANIFEST, encoding="utf-8")
        rows, peers = trio.run(measure, asked.only, names, folder)
    full = sum(row.is_full for row in rows)
    if asked.markdown:
        print(markdown(rows, peers))
    elif asked.json:
        print(json.dumps({"rows": [row._asdict() for row in rows], "peers": peers, "full": full}, indent=2))
    else:
        print(table(rows, peers))
        print(f"\n{full} of {len(rows)} faults full.")
        missing = [title for name, title in PEERS.items() if name not in names]
        if asked.peers and missing:
            print(f"Not installed here, so not measured: {', '.join(missing)}.")
    return 0 if rows and full == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
