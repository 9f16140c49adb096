"""One client, one load, in a process of its own: prints what it cost as one line of JSON.

    python -m benchmarks.client CLIENT LOAD --base URL [--ca FILE] [--streams N] [--events N] [--every MS]

Clients: `ours` (the public API, default policies), `ours-httpx` (the same with `transport="httpx"`), `httpx` (by hand:
httpx on trio, an SSE splitter, msgspec), `floor` (by hand: trio's sockets, httptools, msgspec), `openai` and `litellm`
(those libraries on asyncio, where they are installed). CPU is this process's, user and system, without start-up and a
first call.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import resource
import ssl
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

CLIENTS = ("ours", "ours-httpx", "httpx", "floor", "openai", "litellm")
ON_ASYNCIO = ("openai", "litellm")
LOADS = ("bulk", "paced", "request", "cancel", "abandon", "idle")
Take = Callable[[str], None]


class Ours:
    """Through `client.chat()...stream()`, with an actor in between."""

    def __init__(self, base: str, context: ssl.SSLContext | None, transport: str = "auto") -> None:
        from ai_lib_trio import Config, PartialContentDelta, open_client

        self.delta = PartialContentDelta
        config = Config(max_inflight=20_000, ssl_context=context, transport=transport, environ={})  # type: ignore[arg-type]
        self.block = open_client("openai/reply", base_url=base + "/v1", api_key="k", config=config)

    async def __aenter__(self) -> Ours:
        self.client = await self.block.__aenter__()
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self.block.__aexit__(*details)

    async def request(self) -> str:
        return str((await self.client.chat("hi").execute()).content)

    async def stream(self, model: str, take: Take) -> None:
        delta = self.delta
        async with self.client.chat("hi").model("openai/" + model).stream() as events:
            async for event in events:
                if type(event) is delta:
                    take(event.content)


class Delta(msgspec.Struct):
    content: str | None = None


class Choice(msgspec.Struct):
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """A chunk or a whole reply, as somebody would write it who knows msgspec."""

    choices: list[Choice]


class _Lines:
    """Lines that begin with `data:`, from pieces cut anywhere."""

    def __init__(self, decoder: Any, take: Take) -> None:
        self.rest = b""
        self.decode = decoder.decode
        self.take = take

    def feed(self, piece: bytes) -> None:
        *lines, self.rest = (self.rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                for choice in self.decode(line[6:]).choices:
                    if choice.delta is not None and choice.delta.content:
                        self.take(choice.delta.content)


def _body(model: str, *, stream: bool) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": stream}).encode()


class Httpx:
    """httpx on trio, by hand."""

    def __init__(self, base: str, context: ssl.SSLContext | None) -> None:
        import httpx

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        self.http = httpx.AsyncClient(
            base_url=base, verify=context or True, limits=limits, timeout=120, trust_env=False
        )
        self.decoder = msgspec.json.Decoder(Chunk)
        self.headers = {"content-type": "application/json", "authorization": "Bearer k"}

    async def __aenter__(self) -> Httpx:
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self.http.aclose()

    async def request(self) -> str:
        reply = await self.http.post("/v1/chat/completions", content=_body("reply", stream=False), headers=self.headers)
        return str(self.decoder.decode(reply.content).choices[0].message.content)

    async def stream(self, model: str, take: Take) -> None:
        lines = _Lines(self.decoder, take)
        async with self.http.stream(
            "POST", "/v1/chat/completions", content=_body(model, stream=True), headers=self.headers
        ) as reply:
            async for piece in reply.aiter_raw():
                lines.feed(piece)


class Floor:
    """trio's sockets and httptools, by hand: no limits, no faults, one host. What is left when everything else goes."""

    def __init__(self, base: str, context: ssl.SSLContext | None) -> None:
        host, _, port = base.split("://")[1].partition(":")
        self.address = host, int(port)
        self.context = context
        self.idle: list[Any] = []
        self.decoder = msgspec.json.Decoder(Chunk)

    async def __aenter__(self) -> Floor:
        return self

    async def __aexit__(self, *details: Any) -> None:
        for stream in self.idle:
            await stream.aclose()

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        import trio

        if self.idle:
            stream = self.idle.pop()
        else:
            stream = await trio.open_tcp_stream(*self.address)
            if self.context is not None:
                stream = trio.SSLStream(stream, self.context, server_hostname=self.address[0], https_compatible=True)
        try:
            yield stream
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        self.idle.append(stream)

    async def _exchange(self, body: bytes, feed: Callable[[bytes], None]) -> None:
        import httptools

        class Reply:
            def __init__(self) -> None:
                self.pieces: list[bytes] = []
                self.on_body = self.pieces.append
                self.is_over = False

            def on_message_complete(self) -> None:
                self.is_over = True

        async with self._connection() as stream:
            await stream.send_all(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
                b"authorization: Bearer k\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
            )
            reply = Reply()
            parser = httptools.HttpResponseParser(reply)
            while not reply.is_over:
                parser.feed_data(await stream.receive_some(65536))
                if reply.pieces:
                    feed(b"".join(reply.pieces))
                    reply.pieces.clear()

    async def request(self) -> str:
        pieces: list[bytes] = []
        await self._exchange(_body("reply", stream=False), pieces.append)
        return str(self.decoder.decode(b"".join(pieces)).choices[0].message.content)

    async def stream(self, model: str, take: Take) -> None:
        await self._exchange(_body(model, stream=True), _Lines(self.decoder, take).feed)


class OpenAI:
    """The openai SDK, on asyncio."""

    def __init__(self, base: str, context: ssl.SSLContext | None) -> None:
        import httpx
        import openai

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
        http = httpx.AsyncClient(verify=context or True, limits=limits, timeout=120, trust_env=False)
        self.sdk = openai.AsyncOpenAI(base_url=base + "/v1", api_key="k", max_retries=0, http_client=http)

    async def __aenter__(self) -> OpenAI:
        return self

    async def __aexit__(self, *details: Any) -> None:
        await self.sdk.close()

    async def request(self) -> str:
        reply = await self.sdk.chat.completions.create(model="reply", messages=[{"role": "user", "content": "hi"}])
        return str(reply.choices[0].message.content)

    async def stream(self, model: str, take: Take) -> None:
        messages: Any = [{"role": "user", "content": "hi"}]
        async with await self.sdk.chat.completions.create(model=model, messages=messages, stream=True) as chunks:
            async for chunk in chunks:
                if chunk.choices and chunk.choices[0].delta.content:
                    take(chunk.choices[0].delta.content)


class LiteLLM:
    """litellm, on asyncio; it opens its own connections."""

    def __init__(self, base: str, context: ssl.SSLContext | None) -> None:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks a host for prices before it begins
        import litellm

        litellm.suppress_debug_info = True
        if context is not None:
            litellm.ssl_verify = context
        self.ask = litellm.acompletion
        messages = [{"role": "user", "content": "hi"}]
        self.common: dict[str, Any] = {"messages": messages, "api_base": base + "/v1", "api_key": "k", "num_retries": 0}

    async def __aenter__(self) -> LiteLLM:
        return self

    async def __aexit__(self, *details: Any) -> None:
        pass

    async def request(self) -> str:
        return str((await self.ask(model="openai/reply", **self.common)).choices[0].message.content)

    async def stream(self, model: str, take: Take) -> None:
        async for chunk in await self.ask(model="openai/" + model, stream=True, **self.common):
            if chunk.choices and chunk.choices[0].delta.content:
                take(chunk.choices[0].delta.content)


def make(name: str, base: str, context: ssl.SSLContext | None) -> Any:
    if name in ("ours", "ours-httpx"):
        return Ours(base, context, "httpx" if name == "ours-httpx" else "auto")
    return {"httpx": Httpx, "floor": Floor, "openai": OpenAI, "litellm": LiteLLM}[name](base, context)


# ---- two runtimes, one face


def run(name: str, main: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    if name in ON_ASYNCIO:
        import asyncio

        return asyncio.run(main())  # type: ignore[arg-type]
    import trio

    return trio.run(main)  # type: ignore[arg-type]


async def at_once(name: str, calls: list[Callable[[], Awaitable[None]]], until: Callable[[], Awaitable[None]]) -> int:
    """Run all; when `until` returns, cancel what runs. The moment (ns) of the cancellation."""
    if name in ON_ASYNCIO:
        import asyncio

        tasks = [asyncio.ensure_future(call()) for call in calls]
        await until()
        at = time.monotonic_ns()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return at
    import trio

    async with trio.open_nursery() as nursery:
        for call in calls:
            nursery.start_soon(call)
        await until()
        at = time.monotonic_ns()
        nursery.cancel_scope.cancel()
    return at


async def nap(name: str, seconds: float) -> None:
    if name in ON_ASYNCIO:
        import asyncio

        await asyncio.sleep(seconds)
    else:
        import trio

        await trio.sleep(seconds)


# ---- loads


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def stats(base: str, context: ssl.SSLContext | None) -> dict[str, Any]:
    import urllib.request  # two megabytes, which no client's figures should hold

    with urllib.request.urlopen(base + "/stats", timeout=10, context=context) as reply:
        return dict(json.loads(reply.read()))


class Left(Exception):
    """How a consumer leaves a stream early."""


async def load(args: argparse.Namespace, context: ssl.SSLContext | None) -> dict[str, Any]:
    async with make(args.client, args.base, context) as client:
        await client.request()
        await client.stream("each-50", lambda text: None)
        gc.collect()
        doing = {"bulk": bulk, "paced": paced, "request": request, "cancel": leave, "abandon": leave, "idle": idle}
        return await doing[args.load](client, args, context)


async def bulk(client: Any, args: argparse.Namespace, context: Any) -> dict[str, Any]:
    seen = 0

    def take(text: str) -> None:
        nonlocal seen
        seen += 1

    began = cpu_s()
    await client.stream(f"each-{args.events}", take)
    used = cpu_s() - began
    assert seen == args.events, (seen, args.events)
    return {"us_per_event": used / seen * 1e6}


async def request(client: Any, args: argparse.Namespace, context: Any) -> dict[str, Any]:
    began = cpu_s()
    for _ in range(args.events):
        assert await client.request()
    return {"ms_per_request": (cpu_s() - began) / args.events * 1e3}


async def paced(client: Any, args: argparse.Namespace, context: Any) -> dict[str, Any]:
    late = array("q")  # a list of numbers would be 4 MB of the peak
    ended = errors = 0

    def take(text: str) -> None:
        late.append(time.monotonic_ns() - int(text))

    async def one() -> None:
        nonlocal ended, errors
        try:
            await client.stream(f"paced-{args.events}-{args.every}", take)
        except Exception:  # of whatever library: it is counted
            errors += 1
        ended += 1

    async def until() -> None:
        while ended < args.streams:
            await nap(args.client, 0.01)

    began = cpu_s()
    await at_once(args.client, [one] * args.streams, until)
    used = cpu_s() - began
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    assert errors or len(late) == args.streams * args.events, len(late)
    sorted_late = sorted(late)
    return {
        "us_per_event": used / len(late) * 1e6,
        "cpu_s": used,
        "late_p50_ms": sorted_late[len(late) // 2] / 1e6,
        "late_p99_ms": sorted_late[len(late) * 99 // 100] / 1e6,
        "peak_mb": peak_mb,
        "errors": errors,
    }


async def leave(client: Any, args: argparse.Namespace, context: Any) -> dict[str, Any]:
    """Cancel all streams at one moment, or leave each from within; with the collector off."""
    started = ended = 0

    async def one() -> None:
        nonlocal started, ended
        is_first = True

        def take(text: str) -> None:
            nonlocal started, is_first
            started += is_first
            is_first = False
            if args.load == "abandon":
                raise Left

        with contextlib.suppress(Left):
            await client.stream("hang", take)
        ended += 1

    async def until() -> None:
        while (started if args.load == "cancel" else ended) < args.streams:
            await nap(args.client, 0.01)
        if args.load == "cancel":
            await nap(args.client, 0.2)

    before = stats(args.base, context)["open"]
    gc.disable()
    at = await at_once(args.client, [one] * args.streams, until)
    done = time.monotonic_ns()
    deadline = time.monotonic() + 5
    while (seen := stats(args.base, context))["open"] > before and time.monotonic() < deadline:
        await nap(args.client, 0.01)
    gc.enable()
    closed_ms = (seen["last_close_ns"] - at) / 1e6 if args.load == "cancel" else None
    return {
        "left_open": max(0, seen["open"] - before),
        "tasks_done_ms": (done - at) / 1e6,
        **({"closed_ms": closed_ms} if closed_ms is not None else {}),
    }


async def idle(client: Any, args: argparse.Namespace, context: Any) -> dict[str, Any]:
    """What a stream costs that is open and silent, in KB of resident memory."""
    started = 0

    async def one() -> None:
        def take(text: str) -> None:
            nonlocal started
            started += 1

        await client.stream("hang", take)

    kilobytes = 0.0

    async def until() -> None:
        nonlocal kilobytes
        while started < args.streams:
            await nap(args.client, 0.01)
        gc.collect()
        kilobytes = (memory_mb() - before) * 1e3 / args.streams

    before = memory_mb()
    await at_once(args.client, [one] * args.streams, until)
    return {"kb_per_stream": kilobytes}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("load", choices=LOADS)
    parser.add_argument("--base", required=True)
    parser.add_argument("--ca")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--every", type=int, default=20)
    args = parser.parse_args()
    wanted = args.streams * 2 + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    context = ssl.create_default_context(cafile=args.ca) if args.ca else None

    async def measured() -> dict[str, Any]:
        return await load(args, context)

    print(json.dumps(run(args.client, measured)), flush=True)


if __name__ == "__main__":
    main()
