"""What the client's tests share: a wire to speak (chat completions), scripted clients, and small sinks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from ai_lib_trio import Config, open_client
from ai_lib_trio.client.client import ClientBlock
from ai_lib_trio.resilience.executor import Resilience
from ai_lib_trio.testing import Head, ScriptedTransport, Step, json_reply, sse_reply
from ai_lib_trio.transport.base import Sink, WireRequest

MODEL = "openai/a-model"
OTHER_MODEL = "groq/another-model"  # the same dialect at another provider
KEYS = {"OPENAI_API_KEY": "test-key-one", "GROQ_API_KEY": "test-key-two", "MISTRAL_API_KEY": "test-key-three"}
SSE = {"content-type": "text/event-stream"}
ONE_ATTEMPT = Resilience(max_attempts=1, breaker="off")  # retries and breakers have tests of their own


def delta(text: str) -> dict[str, Any]:
    """A chunk of a stream that carries text."""
    return _chunk({"index": 0, "delta": {"content": text}, "finish_reason": None})


def finish(reason: str = "stop") -> dict[str, Any]:
    return _chunk({"index": 0, "delta": {}, "finish_reason": reason})


def _chunk(choice: dict[str, Any]) -> dict[str, Any]:
    return {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "a-model-1", "choices": [choice]}


def usage_chunk(given: int = 3, made: int = 2) -> dict[str, Any]:
    usage = {"prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made}
    return {**_chunk({}), "choices": [], "usage": usage}


def frame(value: Any) -> bytes:
    """One event of a stream, as bytes."""
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()


def streamed(*texts: str, pace_s: float = 0.0) -> list[Step]:
    """A whole streamed reply, one read per text."""
    return sse_reply([*(delta(text) for text in texts), finish(), usage_chunk()], done="[DONE]", pace_s=pace_s)


def body_of(text: str) -> dict[str, Any]:
    return {
        "id": "c-1",
        "object": "chat.completion",
        "created": 1,
        "model": "a-model-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def whole(text: str) -> list[Step]:
    """A whole reply that is not streamed."""
    return json_reply(body_of(text))


def refused(status: int, message: str = "no", headers: Mapping[str, str] | None = None) -> list[Step]:
    return json_reply(
        {"error": {"message": message, "type": "some_type", "code": None}}, status=status, headers=headers
    )


def asked_to_stream(request: WireRequest) -> bool:
    return bool(json.loads(request.body).get("stream"))


def prompt_of(request: WireRequest) -> str:
    """The last message's text, as it stands in the request."""
    content = json.loads(request.body)["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def echo(request: WireRequest) -> Sequence[Step]:
    """A reply that says what was asked, streamed in three pieces where a stream was asked for."""
    text = f"you said {prompt_of(request)}"
    if not asked_to_stream(request):
        return whole(text)
    third = len(text) // 3
    return streamed(text[:third], text[third : 2 * third], text[2 * third :])


def scripted_client(transport: ScriptedTransport | Any, model: str = MODEL, **settings: Any) -> ClientBlock:
    """A client on a scripted transport, with keys and without the process's environment.

    One attempt and no breaker, unless a test asks for them.
    """
    settings.setdefault("resilience", ONE_ATTEMPT)
    return open_client(model, config=Config(transport=transport, environ=KEYS, **settings))


class AtStep(trio.abc.Instrument):
    """Calls `act` just before the n-th step of any task, once armed."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.number = number
        self.act = act
        self.steps = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.steps += 1
        if self.steps == self.number:
            self.act()


class Recorder:
    """A sink that keeps every record."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def __call__(self, record: Any) -> None:
        self.records.append(record)

    def names(self) -> list[str]:
        return [type(record).__name__ for record in self.records]


class WatchedSink:
    """A sink for engines: keeps what it was told, and has room while `room` says so."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.sent = 0
        self.waits = 0

    def sending(self) -> None:
        self.sent += 1

    def head(self, status: int, headers: Any) -> None:
        self.status = status
        self.headers = dict(headers)

    def data(self, chunk: bytes) -> bool:
        self.chunks.append(chunk)
        return True

    async def wait_room(self) -> None:
        self.waits += 1

    def lend(self, reading: Any) -> bool:
        return False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)


_: type[Sink] = WatchedSink

__all__ = [
    "KEYS",
    "MODEL",
    "ONE_ATTEMPT",
    "OTHER_MODEL",
    "SSE",
    "AtStep",
    "Head",
    "Recorder",
    "WatchedSink",
    "asked_to_stream",
    "body_of",
    "delta",
    "echo",
    "finish",
    "frame",
    "prompt_of",
    "refused",
    "scripted_client",
    "streamed",
    "usage_chunk",
    "whole",
]
