"""What the tests of the simulator share: the catalogue, requests on the wire, and a client that sees raw bytes."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import h11  # comes with httpx; an independent reader of HTTP
import trio
from msgspec import structs

from ai_lib_trio.pipeline import compile_decoder
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.simulator import (
    Finish,
    Script,
    Simulator,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from ai_lib_trio.types.events import StreamingEvent
from ai_lib_trio.types.message import Message
from ai_lib_trio.types.request import Request
from ai_lib_trio.wire.encode import compile_encoder

# Every dialect, and what its wire has no place for: `stream`; in replies `thinking`, `calls` or more than `one call`,
# `ids` of calls, a `model`, `codes` of errors; the reasons `refusal` and `max_tokens`; counts of what was `read` (in
# whole bodies alone), of `cached` and of `reasoning` tokens.
LACKS: dict[str, frozenset[str]] = {
    "chat_completions": frozenset(),
    "responses": frozenset(),
    "messages": frozenset(),
    "generate_content": frozenset(),
    "ollama_chat": frozenset({"cached", "reasoning", "codes", "refusal"}),
    "ollama_generate": frozenset({"calls", "cached", "reasoning", "codes", "refusal"}),
    "completions": frozenset({"thinking", "calls"}),
    "converse": frozenset({"reasoning", "model"}),
    "cohere_v2_chat": frozenset({"reasoning", "model", "codes"}),
    "cohere_v1_chat": frozenset({"thinking", "ids", "reasoning", "model", "codes"}),
    "text_generation": frozenset({"thinking", "calls", "read", "cached", "reasoning", "model", "refusal"}),
    "wenxin_chat": frozenset({"thinking", "one call", "ids", "cached", "reasoning", "model"}),
    "predictions": frozenset({"stream", "thinking", "calls", "cached", "reasoning", "refusal", "max_tokens"}),
}
DIALECTS = tuple(LACKS)
# Every dialect in each of the two ways that it has.
WAYS = [
    (dialect, stream) for dialect in DIALECTS for stream in (True, False) if not (stream and "stream" in LACKS[dialect])
]
STREAMED = [dialect for dialect, stream in WAYS if stream]
CALLING = [dialect for dialect in DIALECTS if "calls" not in LACKS[dialect]]

# Everything that a reply of every dialect can hold. Where a dialect has no place for the signature it is dropped.
WHOLE = Script(
    steps=[
        Thinking("Zuerst überlege ich, dann 日本.", signature="c2lnbmF0dXJl"),
        Text("It is sunny in 東京, and warm."),
        ToolCall("get_weather", {"city": "Paris", "unit": "°C"}, id="call_a"),
        ToolCall("get_time", {}, id="call_b"),
        Usage(input_tokens=40, output_tokens=25, cached_tokens=10, reasoning_tokens=7),
        Finish("tool_use"),
    ]
)


def fitting(script: Script, dialect: str) -> Script:
    """As much of a script as the dialect has a place for; without calls it ends as an answer does."""
    lacks = LACKS[dialect]
    steps: list[Any] = []
    for step in script.steps:
        if isinstance(step, Thinking) and "thinking" in lacks:
            continue
        if isinstance(step, ToolCall):
            made = sum(isinstance(one, ToolCall) for one in steps)
            if "calls" in lacks or ("one call" in lacks and made):
                continue
        steps.append(Finish() if isinstance(step, Finish) and "calls" in lacks else step)
    return structs.replace(script, steps=steps)


def model_of(dialect: str) -> str:
    """A model's name as the dialect has them."""
    return "acme/m-1" if dialect == "predictions" else "m-1"


@cache
def catalog() -> Catalog:
    return Catalog.open(environ={})


@cache
def encoder(dialect: str) -> Any:
    found = catalog().dialect(dialect)
    return compile_encoder(found.encode, found.where.at("encode"), dialect=found.id)


@cache
def decoder(dialect: str) -> Any:
    found = catalog().dialect(dialect)
    return compile_decoder(found.decode, found.where.at("decode"))


def events_of(dialect: str, body: bytes, *, content_type: str, streamed: bool, step: int = 0) -> list[StreamingEvent]:
    """What the pipeline makes of a body, fed whole or `step` bytes at a time."""
    pipeline = decoder(dialect).open(content_type=content_type, streamed=streamed)
    events: list[StreamingEvent] = []
    for at in range(0, len(body), step or max(1, len(body))):
        events += pipeline.feed(body[at : at + (step or len(body))])
    return events + pipeline.finish()


def request(*, stream: bool = True, model: str = "m-1", **fields: Any) -> Request:
    fields.setdefault("messages", (Message.user("Hi"),))
    return Request(model=model, stream=stream, **fields)


def http_bytes(
    prefix: str, path: str, body: bytes, *, headers: list[tuple[str, str]] | None = None, method: str = "POST"
) -> bytes:
    """A request as a client would write it."""
    lines = [f"{method} {prefix}{path} HTTP/1.1", "host: localhost", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers or []]
    lines += [f"content-length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def asking(dialect: str, wanted: Request, *, name: str = "", headers: list[tuple[str, str]] | None = None) -> bytes:
    """A standard request as bytes for the simulator, in a dialect, under the name of a provider or the dialect."""
    encoded = encoder(dialect).encode(wanted)
    query = "&".join(f"{key}={value}" for key, value in encoded.query)
    path = encoded.path + (f"?{query}" if query else "")
    return http_bytes(f"/{name or dialect}", path, encoded.body, headers=[*encoded.headers, *(headers or [])])


class Reply:
    """A reply that a client read to its end."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """A client of one connection that shows what came, byte by byte."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.raw = b""  # everything that came
        self._http = h11.Connection(h11.CLIENT)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.stream)

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def read(self) -> bytes:
        """What one read gives; nothing at the end. Raises trio.BrokenResourceError for a reset."""
        data = bytes(await self.stream.receive_some(65536))
        self.raw += data
        return data

    async def read_until(self, mark: bytes) -> bytes:
        """Read until `mark` has come; gives everything that came on this connection."""
        while mark not in self.raw:
            if not await self.read():
                raise AssertionError(f"{mark!r} never came, but {self.raw!r}")
        return self.raw

    async def read_all(self) -> bytes:
        """Read to the end of the connection."""
        while await self.read():
            pass
        return self.raw

    async def ask(self, data: bytes) -> Reply:
        """Send one request and read its reply, by an independent reader of HTTP."""
        if self._http.their_state is not h11.IDLE and self._http.our_state is not h11.IDLE:
            self._http.start_next_cycle()
        head, _, body = data.partition(b"\r\n\r\n")
        method, target = head.split(b" ")[:2]
        headers = [tuple(line.split(b": ", 1)) for line in head.split(b"\r\n")[1:]]
        self._http.send(h11.Request(method=method, target=target, headers=headers))
        if body:
            self._http.send(h11.Data(data=body))
        self._http.send(h11.EndOfMessage())
        await self.send(data)
        status, found, got = 0, {}, b""
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self.read())
            elif isinstance(event, h11.Response):
                status = event.status_code
                found = {name.decode(): value.decode() for name, value in event.headers}
            elif isinstance(event, h11.Data):
                got += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return Reply(status, found, got)


async def connect(sim: Simulator) -> Client:
    """A client with a connection of its own."""
    return Client(await trio.open_tcp_stream(sim.host, sim.port))


async def ask(sim: Simulator, data: bytes) -> Reply:
    """One request on a connection of its own."""
    async with await connect(sim) as client:
        return await client.ask(data)
