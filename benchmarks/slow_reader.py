"""A slow reader: a provider with much to say, a consumer that sleeps, and how much memory that takes.

    python -m benchmarks.slow_reader [--engine native|httpx] [--megabytes 96] [--json]

The provider is a process of its own, so that the memory measured is the client's alone. The consumer reads one event
and sleeps until the provider has stood still for a while; it sleeps again after half of the text, then reads the rest.
Measured are the bytes that the provider could send while the consumer slept (what the two sockets' buffers take), and
by how much the client's resident memory grew meanwhile. Exit 0 means that it grew by less than 2 MB and everything
came.

Resident memory is read from /proc: this runs on Linux.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import trio

__all__ = ["Measured", "measure"]

MODEL = "slow-reader/any"
PIECE_CHARS = 4000  # of a frame: large for a model, small beside a socket's buffer
WARM_MEGABYTES = 8  # read before anything is measured: modules, pools and arenas are there then
STILL_S = 0.5  # the provider has stood still for that long: it waits for us
BOUND_BYTES = 2_000_000  # by how much memory may grow while the consumer sleeps

MANIFEST = """
id: slow-reader
protocol_version: "2.0"
name: A provider with much to say
endpoint:
  base_url: http://127.0.0.1:{port}/v1
  auth: {{type: none}}
api_families:
  chat: {{dialect: chat_completions}}
"""


# ---- the provider: a process of its own, with blocking sockets


def serve() -> None:
    """Answer each connection with as many megabytes as its prompt says. Each line on stdin asks for the bytes sent."""
    import threading

    sent = [0]
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)

    def answer() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                megabytes = _asked_for(connection)
                frame = _frame({"delta": {"content": "x" * PIECE_CHARS}, "finish_reason": None})
                end = _frame({"delta": {}, "finish_reason": "stop"}) + b"data: [DONE]\n\n"
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
                sent[0] = 0
                for _ in range(megabytes * 1_000_000 // len(frame)):
                    connection.sendall(frame)
                    sent[0] += len(frame)
                connection.sendall(end)

    threading.Thread(target=answer, daemon=True).start()
    for _ in sys.stdin:
        print(sent[0], flush=True)


def _asked_for(connection: socket.socket) -> int:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields[b"content-length"]):
        body += connection.recv(65536)
    return int(json.loads(body)["messages"][-1]["content"])


def _frame(choice: dict[str, Any]) -> bytes:
    chunk = {"id": "c-1", "object": "chat.completion.chunk", "model": "any", "choices": [{"index": 0, **choice}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


class Provider:
    """The provider's process, seen from here."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port = int(self._line())

    def bytes_sent(self) -> int:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return int(self._line())

    def _line(self) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 30)
        if not ready:
            raise RuntimeError("the provider's process says nothing")
        return self._process.stdout.readline()


@contextmanager
def provider() -> Iterator[Provider]:
    """The provider, for the time of the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.slow_reader", "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        cwd=Path(__file__).resolve().parents[1],
    ) as process:
        try:
            yield Provider(process)
        finally:
            process.kill()


# ---- the consumer


class Measured(NamedTuple):
    """What came of it. `sent` and `grown` are the most, in bytes, of the two times that the consumer slept."""

    engine: str
    scripted: int  # bytes
    sent: int  # by the provider, beyond what the consumer had read
    grown: int  # the client's resident memory
    is_whole: bool  # every character came
    seconds: float

    @property
    def is_held(self) -> bool:
        return self.is_whole and self.grown < BOUND_BYTES and self.sent < self.scripted // 4


def resident_bytes() -> int:
    """This process's resident memory."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def measure(engine: str, megabytes: int) -> Measured:
    """Read so many megabytes slowly, through that engine."""
    from ai_lib_trio import Config, open_client

    with provider() as source, TemporaryDirectory() as folder:
        path = Path(folder) / "slow-reader.yaml"
        path.write_text(MANIFEST.format(port=source.port), encoding="utf-8")
        config = Config(environ={}, transport=engine, max_reply_bytes=2**40)  # type: ignore[arg-type]
        async with open_client(MODEL, manifests=path, config=config) as client:
            async with client.chat().user(str(WARM_MEGABYTES)).stream() as warming:
                async for _ in warming:
                    pass
            del warming
            began = time.perf_counter()
            frame = len(_frame({"delta": {"content": "x" * PIECE_CHARS}, "finish_reason": None}))
            frames = megabytes * 1_000_000 // frame
            naps: list[tuple[int, int]] = []
            received = 0
            async with client.chat().user(str(megabytes)).stream() as events:
                async for event in events:
                    received += len(getattr(event, "content", ""))
                    if received >= len(naps) * frames * PIECE_CHARS / 2 and len(naps) < 2:
                        naps.append(await _nap(source, received // PIECE_CHARS * frame))
        return Measured(
            engine,
            frames * frame,
            max(sent for sent, _ in naps),
            max(grown for _, grown in naps),
            received == frames * PIECE_CHARS,
            round(time.perf_counter() - began, 3),
        )


async def _nap(source: Provider, read: int) -> tuple[int, int]:
    """Sleep until the provider stands still. What it has sent beyond what was read, and how much memory has grown."""
    before = resident_bytes()
    sent, moved_at = source.bytes_sent(), time.perf_counter()
    while time.perf_counter() - moved_at < STILL_S:
        await trio.sleep(0.05)
        now = source.bytes_sent()
        if now != sent:
            sent, moved_at = now, time.perf_counter()
    return sent - read, resident_bytes() - before


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Gives its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.slow_reader", description=__doc__)
    parser.add_argument("--engine", choices=["native", "httpx"], help="only this engine")
    parser.add_argument("--megabytes", type=int, default=96)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.serve:
        serve()
        return 0
    engines = [asked.engine] if asked.engine else ["native", "httpx"]
    rows = [trio.run(measure, engine, asked.megabytes) for engine in engines]
    if asked.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
    else:
        for row in rows:
            print(
                f"{row.engine:8} of {row.scripted / 1e6:.1f} MB the provider could send {row.sent / 1e6:.2f} MB ahead "
                f"of a consumer that slept; memory grew by {row.grown / 1e6:.2f} MB"
                + ("" if row.is_whole else "; NOT everything came")
            )
    return 0 if all(row.is_held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
