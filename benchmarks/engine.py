"""What the engines cost without anything above them: `python -m benchmarks.engine [--only LOAD] [--rounds N]`.

Each engine's `exchange` pushes into a sink that counts bytes, beside the same request by hand: `httpx` on trio, and
the floor (trio's sockets and httptools). One process for each figure, on one core, against `benchmarks.provider` on
another; rounds take turns. CPU of the client; what counts is the ratio to `httpx` in the same round.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import trio

from .__main__ import ROOT, _pinned, certificate_in, provider
from .client import Floor, Httpx, _body, cpu_s, memory_mb

WAYS = ("httpx", "httpx engine", "native", "hub", "floor")
HEADERS = [
    ("content-type", "application/json"),
    ("authorization", "Bearer k"),
    ("accept-encoding", "identity"),
]


class Load(NamedTuple):
    """`unit` is what the figure is divided by, for people."""

    name: str
    unit: str
    model: str
    streams: int
    times: int  # exchanges one after another in each stream
    per_exchange: int = 1
    is_tls: bool = False


LOADS = [
    Load("request", "us a request", "reply", 1, 1000),
    Load("request TLS", "us a request", "reply", 1, 1000, is_tls=True),
    Load("bulk", "us an event", "each-20000", 1, 1, 20_000),
    Load("bulk TLS", "us an event", "each-20000", 1, 1, 20_000, is_tls=True),
    Load("paced", "us an event", "paced-100-20", 100, 1, 100),
    Load("connect", "us a connection", "paced-1-1", 2000, 1),
    Load("connect TLS", "us a connection", "paced-1-1", 500, 1, is_tls=True),
    Load("idle TLS", "KB a stream", "hang", 300, 1, is_tls=True),
    Load("idle", "KB a stream", "hang", 1000, 1),
]


class Counting:
    """A sink that only counts, or tells that something came."""

    def __init__(self, came: Callable[[], None] | None = None) -> None:
        self.size = 0
        self.came = came

    def sending(self) -> None:
        pass

    def head(self, status: int, headers: Any) -> None:
        assert status == 200

    def data(self, chunk: bytes) -> bool:
        self.size += len(chunk)
        if self.came is not None:
            self.came()
            self.came = None
        return True

    async def wait_room(self) -> None:
        await trio.lowlevel.checkpoint()

    def lend(self, reading: Any) -> bool:
        return False


Exchange = Callable[[str, Counting], Any]


@contextlib.asynccontextmanager
async def opened(way: str, base: str, context: Any) -> AsyncIterator[Exchange]:
    """One exchange of this way, as a function of the model and the sink."""
    if way == "httpx":
        async with Httpx(base, context) as by_hand:

            async def exchange(model: str, sink: Counting) -> None:
                body = _body(model, stream=True)
                async with by_hand.http.stream(
                    "POST", "/v1/chat/completions", content=body, headers=by_hand.headers
                ) as reply:
                    async for piece in reply.aiter_raw():
                        sink.data(piece)

            yield exchange
        return
    if way == "floor":
        async with Floor(base, context) as floor:

            async def exchange(model: str, sink: Counting) -> None:
                await floor._exchange(_body(model, stream=True), sink.data)  # type: ignore[arg-type]

            yield exchange
        return
    from ai_lib_trio.transport.base import WireRequest

    url = base + "/v1/chat/completions"
    engine: Any

    async def exchange(model: str, sink: Counting) -> None:
        request = WireRequest("POST", url, list(HEADERS), _body(model, stream=True), is_streamed=model != "reply")
        await engine.exchange(request, sink)

    async with trio.open_nursery() as nursery:
        if way == "httpx engine":
            from ai_lib_trio.transport.httpx_engine import HttpxEngine

            engine = HttpxEngine(ssl_context=context)
        else:
            from ai_lib_trio.transport.hub import Hub
            from ai_lib_trio.transport.native import NativeEngine

            hub = Hub() if way == "hub" else None
            if hub is not None:
                hub.few = 0  # it reads whatever comes in pieces
                nursery.start_soon(hub.run)
            engine = NativeEngine(ssl_context=context, hub=hub)
        yield exchange
        await engine.aclose()
        nursery.cancel_scope.cancel()


async def one(way: str, load: Load, base: str, context: Any) -> float:
    """The figure of one way under one load."""
    async with opened(way, base, context) as exchange:
        for _ in range(20):
            await exchange("reply", Counting())
        await exchange("each-50", Counting())
        gc.collect()
        if load.unit.startswith("KB"):
            return await idle(exchange, load)

        async def stream() -> None:
            for _ in range(load.times):
                await exchange(load.model, Counting())

        began = cpu_s()
        async with trio.open_nursery() as nursery:
            for _ in range(load.streams):
                nursery.start_soon(stream)
        return (cpu_s() - began) / (load.streams * load.times * load.per_exchange) * 1e6


async def idle(exchange: Exchange, load: Load) -> float:
    started = 0
    all_started = trio.Event()

    def came() -> None:
        nonlocal started
        started += 1
        if started == load.streams:
            all_started.set()

    before = memory_mb()
    async with trio.open_nursery() as nursery:
        for _ in range(load.streams):
            nursery.start_soon(exchange, load.model, Counting(came))
        await all_started.wait()
        gc.collect()
        kilobytes = (memory_mb() - before) * 1e3 / load.streams
        nursery.cancel_scope.cancel()
    return kilobytes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--only", help="loads whose name has this in it")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=4, metavar=("WAY", "LOAD", "BASE", "CA"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        import ssl

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000) if hard > 0 else soft, hard))
        way, name, base, ca = args.one
        [load] = [load for load in LOADS if load.name == name]
        context = ssl.create_default_context(cafile=ca) if load.is_tls else None
        print(json.dumps(trio.run(one, way, load, base, context)))
        return
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        certificate = certificate_in(Path(folder))
        plain = stack.enter_context(provider())
        secure = stack.enter_context(provider(certificate=certificate)) if certificate is not None else None
        for load in LOADS:
            if (args.only and args.only != load.name) or (load.is_tls and secure is None):
                continue
            run_load(load, args.ways.split(","), args.rounds, str(secure if load.is_tls else plain), certificate)


def run_load(load: Load, ways: list[str], rounds: int, base: str, certificate: Path | None) -> None:
    values: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            command = [sys.executable, "-m", "benchmarks.engine", "--one", way, load.name, base, str(certificate)]
            done = subprocess.run(_pinned(command, 0), cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{load.name}: {way}: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
                values[way].append(float("nan"))
                continue
            values[way].append(json.loads(done.stdout))
    print(f"{load.name}, {load.unit}")
    for way in ways:
        line = f"  {way:<13} {min(values[way]):>8.1f} at least, {statistics.median(values[way]):>8.1f} at the median"
        if "httpx" in values:
            ratios = [value / by_hand for value, by_hand in zip(values[way], values["httpx"], strict=True)]
            line += f"   x {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(line, flush=True)


if __name__ == "__main__":
    main()
