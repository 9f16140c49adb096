"""Recorded replies of real providers decode to what they said: whole, byte by byte and at random cuts."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ai_lib_trio.pipeline import DecodeProgram, compile_decoder
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.types.events import StreamError, StreamingEvent
from ai_lib_trio.types.response import ChatResponse, fold

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "recorded"
DIALECTS = {
    "openai_chat": "chat_completions",
    "openai_responses": "responses",
    "anthropic_messages": "messages",
    "gemini_generate": "generate_content",
    "ollama_chat": "ollama_chat",
    "bedrock_converse": "converse",
    "cohere_v2_chat": "cohere_v2_chat",
    "cohere_v1_chat": "cohere_v1_chat",
    "openai_completions": "completions",
}
# Two recordings whose raw reason the set reads otherwise than we do. Of a reply that a text of the caller's own ended
# it says end_turn, of a whole one without a reason nothing. The specification has a name for the first, as its provider
# has (https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons), and makes null `other`; 2026-11-28.
OTHERWISE = {"stop_sequence": "stop_sequence", None: "other"}


def _cases() -> Iterator[Any]:
    index = RECORDED / "INDEX.json"
    if not index.exists():
        reason = f"no recorded replies at {RECORDED.name}/ beside the checkout"
        yield pytest.param({}, marks=pytest.mark.skip(reason=reason), id="absent")
        return
    for entry in json.loads(index.read_text("utf-8")):
        if entry["api"] in DIALECTS:
            yield pytest.param(entry, id=f"{entry['api']}-{entry['provider']}-{entry['id']}")


_PROGRAMS: dict[str, DecodeProgram] = {}


def program(dialect: str) -> DecodeProgram:
    if dialect not in _PROGRAMS:
        found = Catalog.open().dialect(dialect)
        _PROGRAMS[dialect] = compile_decoder(found.decode, found.where.at("decode"))
    return _PROGRAMS[dialect]


def load(entry: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    case = json.loads((RECORDED / "cases" / entry["api"] / f"{entry['id']}.json").read_text("utf-8"))
    body = case["response"]["body"]
    return case, body["text"].encode() if "text" in body else base64.b64decode(body["base64"])


def decode(entry: dict[str, Any], case: dict[str, Any], pieces: list[bytes], backend: str) -> list[StreamingEvent]:
    response = case["response"]
    pipeline = program(DIALECTS[entry["api"]]).open(
        content_type=response["headers"].get("content-type"), streamed=entry["stream"], backend=backend
    )
    events = [event for piece in pieces for event in pipeline.feed(piece)]
    events += pipeline.finish()
    assert pipeline.closed
    assert pipeline.counts.repaired == 0
    return events


def check(expected: dict[str, Any], events: list[StreamingEvent]) -> None:
    reply = fold(events)
    if expected["error"] is None:
        assert not [event for event in events if isinstance(event, StreamError)]
    else:
        check_error(expected["error"], events[-1])
    check_reply(expected, reply)


def check_reply(expected: dict[str, Any], reply: ChatResponse) -> None:
    assert reply.content in [expected["text"], *expected["text_alts"]]
    assert reply.thinking in [expected["reasoning"], *expected["reasoning_alts"]]
    assert reply.refusal == expected["refusal"]
    check_calls(expected, reply)
    assert reply.raw_finish_reason == expected["finish_raw"]
    if expected["error"] is None and expected["finish_raw"] in OTHERWISE:
        assert reply.finish_reason == OTHERWISE[expected["finish_raw"]]
    else:
        assert str(reply.finish_reason) in expected["finish_ok"]
    check_usage(expected["usage"], reply)


def check_calls(expected: dict[str, Any], reply: ChatResponse) -> None:
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [
        (call["name"], call["arguments"]) for call in expected["tool_calls"]
    ]
    for call, wanted in zip(reply.tool_calls, expected["tool_calls"], strict=True):
        assert call.id
        assert wanted["id"] is None or call.id == wanted["id"]
    assert len({call.id for call in reply.tool_calls}) == len(reply.tool_calls)
    assert [(call.id, call.name) for call in reply.server_tool_calls] == [
        (call["id"], call["name"]) for call in expected["server_tool_calls"]
    ]


def check_usage(usage: dict[str, Any], reply: ChatResponse) -> None:
    if not usage:
        return
    got = reply.usage
    assert got.input_tokens in [usage["input"], *usage.get("input_ok", [])]
    assert got.output_tokens in [usage["output"], *usage.get("output_ok", [])]
    if usage["total"] is not None:
        assert got.total_tokens == usage["total"]
    for name, value in (
        ("cached", got.cached_tokens),
        ("cache_write", got.cache_write_tokens),
        ("reasoning", got.reasoning_tokens),
    ):
        # Where the wire is silent the set says 0 for some providers and null for others; we say None.
        assert (value or 0) == (usage[name] or 0), name


def check_error(expected: dict[str, Any], event: StreamingEvent) -> None:
    assert isinstance(event, StreamError)
    assert event.kind == "provider"
    assert event.code in expected["codes"]
    assert event.message == expected["message"]


@pytest.mark.parametrize("entry", list(_cases()))
@pytest.mark.parametrize("backend", ["view", "generic"])
def test_a_recorded_reply_decodes_to_what_it_said_however_it_is_cut(entry: dict[str, Any], backend: str) -> None:
    case, body = load(entry)
    response, expected = case["response"], case["expected"]
    if response["status"] >= 400:
        said = program(DIALECTS[entry["api"]]).read_error(response["status"], response["headers"], body)
        check_error(expected["error"], said)
        assert said.status == expected["error"]["status"]
        return
    whole = decode(entry, case, [body], backend)
    check(expected, whole)
    if backend == "generic":
        return
    assert decode(entry, case, [body], "generic") == whole
    assert decode(entry, case, [body[at : at + 1] for at in range(len(body))], backend) == whole
    chance = random.Random(entry["id"])
    for _ in range(3):
        cuts = sorted({0, len(body), *(chance.randrange(len(body)) for _ in range(chance.randrange(1, 40)))})
        assert decode(entry, case, [body[a:b] for a, b in pairwise(cuts)], backend) == whole
