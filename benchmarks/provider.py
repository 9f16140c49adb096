"""A provider on loopback for the benchmarks: one process, chat completions, cheap enough that the client is measured.

    python -m benchmarks.provider [--tls CERT_AND_KEY]

Prints its port as one line of JSON and serves until it is ended. The model's name says what to answer:

    reply           a whole reply of some 400 bytes
    each-N          a stream of N events, each in an HTTP chunk of its own, as fast as it is taken
    paced-N-MS      a stream of N events, one every MS milliseconds, each holding the time it was written (ns)
    hang            one event, and then nothing

`GET /stats` tells how many connections are open and when the last one closed. Bytes are made once and written as they
are; paced streams share one timer.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import re
import socket
import ssl
import time
from collections import defaultdict
from pathlib import Path

HEAD = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 22 Nov 2026 12:00:00 GMT\r\ncontent-type: %b\r\nserver: bench\r\n"
    b"cache-control: no-cache\r\nx-request-id: req_0123456789abcdef\r\nx-ratelimit-limit-requests: 10000\r\n"
    b"x-ratelimit-remaining-requests: 9999\r\nx-ratelimit-reset-requests: 6ms\r\n%b\r\n\r\n"
)
STREAM_HEAD = HEAD % (b"text/event-stream; charset=utf-8", b"transfer-encoding: chunked")
MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"]*/)?([^"/]+)"')
LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
SLAB = 64  # events written at once in a bulk stream; over TLS each has a record of its own
TICK_S = 0.001


def _event(delta: dict[str, object], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = {
        "id": "chatcmpl-0123456789",
        "object": "chat.completion.chunk",
        "created": 1763800000,
        "model": "a-model-1",
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
        "choices": [choice],
        "usage": None,
    }
    return _chunk(b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


FIRST = _event({"role": "assistant", "content": ""})
LAST = _event({}, "stop") + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
STAMP = "0" * 19  # of monotonic nanoseconds, always as wide, so that the chunk's size stays
STAMPED_BEFORE, STAMPED_AFTER = _event({"content": STAMP}).split(STAMP.encode())


@functools.cache
def bulk(events: int, at_once: int) -> list[bytes]:
    """The slabs of a stream."""
    words = [_event({"content": word}) for word in (" the", " quick", " brown", " fox", " jumps", " over", ".\n")]
    all_events = [FIRST, *(words[number % len(words)] for number in range(events)), LAST]
    return [b"".join(all_events[at : at + at_once]) for at in range(0, len(all_events), at_once)]


def whole() -> bytes:
    message = {"role": "assistant", "content": "lorem ipsum dolor sit amet", "refusal": None}
    usage = {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29}
    body = json.dumps(
        {
            "id": "chatcmpl-0123456789",
            "object": "chat.completion",
            "created": 1763800000,
            "model": "a-model-1",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
            "usage": usage,
        }
    ).encode()
    return HEAD % (b"application/json", b"content-length: %d" % len(body)) + body


REPLY = whole()


class Pacer:
    """One timer for all paced streams: who is due at a tick stands in that tick's list."""

    def __init__(self) -> None:
        self.due: defaultdict[int, list[tuple[Provider, int, int]]] = defaultdict(list)
        self.tick = 0
        self.is_running = False

    def add(self, provider: Provider, left: int, every: int) -> None:
        if not self.is_running:
            self.is_running = True
            self.tick = int(time.monotonic() / TICK_S)
            asyncio.get_running_loop().call_later(TICK_S, self.turn)
        self.due[self.tick + every].append((provider, left, every))

    def turn(self) -> None:
        now = int(time.monotonic() / TICK_S)
        while self.tick < now:
            self.tick += 1
            for provider, left, every in self.due.pop(self.tick, ()):
                if provider.transport.is_closing():
                    continue
                provider.transport.write(b"%b%019d%b" % (STAMPED_BEFORE, time.monotonic_ns(), STAMPED_AFTER))
                if left > 1:
                    self.due[self.tick + every].append((provider, left - 1, every))
                else:
                    provider.transport.write(LAST)
        self.is_running = bool(self.due)
        if self.is_running:
            asyncio.get_running_loop().call_later(TICK_S, self.turn)


class Provider(asyncio.Protocol):
    """One connection."""

    pacer = Pacer()
    at_once = SLAB
    open = 0
    last_close_ns = 0
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.read = b""
        self.slabs: list[bytes] = []
        self.is_paused = False
        self.counts = True
        Provider.open += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.slabs = []
        Provider.open -= 1
        if self.counts:
            Provider.last_close_ns = time.monotonic_ns()

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self.go_on()

    def data_received(self, data: bytes) -> None:
        self.read += data
        head, found, rest = self.read.partition(b"\r\n\r\n")
        if not found:
            return
        said = LENGTH.search(head)
        length = int(said[1]) if said else 0
        if len(rest) < length:
            return
        self.read = rest[length:]
        if head.startswith(b"GET /stats"):
            self.counts = False
            stats = {"open": Provider.open - 1, "last_close_ns": Provider.last_close_ns, "cpu_s": time.process_time()}
            body = json.dumps(stats).encode()
            self.transport.write(HEAD % (b"application/json", b"content-length: %d" % len(body)) + body)
            return
        model = MODEL.search(rest[:length])
        self.answer(model[1].decode() if model else "reply")

    def answer(self, model: str) -> None:
        what, *numbers = model.split("-")
        if what == "each":
            self.slabs = [STREAM_HEAD, *bulk(int(numbers[0]), self.at_once)][::-1]
            self.go_on()
        elif what == "paced":
            self.transport.write(STREAM_HEAD + FIRST)
            self.pacer.add(self, int(numbers[0]), int(numbers[1]))
        elif what == "hang":
            self.transport.write(STREAM_HEAD + FIRST + _event({"content": "still"}))
        else:
            self.transport.write(REPLY)

    def go_on(self) -> None:
        while self.slabs and not self.is_paused:
            self.transport.write(self.slabs.pop())


async def serve(tls: Path | None) -> None:
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        Provider.at_once = 1
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Provider, "127.0.0.1", 0, backlog=4096, ssl=context)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tls", type=Path)
    asyncio.run(serve(parser.parse_args().tls))


if __name__ == "__main__":
    main()
