"""Requests that real providers answered are taken by the simulator's checks, and come back when sent again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ai_lib_trio.errors import CallerError
from ai_lib_trio.simulator.directory import Target, directory_of
from ai_lib_trio.simulator.speaker import Asked, RefusedRequest
from ai_lib_trio.types.request import Request
from simulator_support import catalog, encoder

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

pytestmark = pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded provider traffic is not beside the project")


def answered() -> list[tuple[dict[str, Any], Target, Asked]]:
    """Every recorded request with a body that got a 200, and who answers it here."""
    found = []
    for entry in json.loads((RECORDED / "INDEX.json").read_text()):
        if entry["api"] not in DIALECTS:
            continue
        case = json.loads((RECORDED / "cases" / entry["api"] / f"{entry['id']}.json").read_text())
        sent = case["request"]
        if case["response"]["status"] != 200 or not isinstance(sent["body"], dict):
            continue
        dialect = DIALECTS[entry["api"]]
        directory = directory_of(catalog())
        target = directory.find("POST", f"/{entry['provider']}{sent['path']}")
        if target is None or target.matched is None or target.speaker.dialect != dialect:
            target = directory.find("POST", f"/{dialect}{sent['path']}")
        if target is None or target.matched is None:
            continue  # a path that only this provider has
        query = dict(part.partition("=")[::2] for part in (sent["query"] or "").split("&") if part)
        headers = {"anthropic-version": "2023-06-01"}
        matched = target.matched
        found.append(
            (entry, target, Asked("POST", sent["path"], matched.route, matched.segments, query, headers, sent["body"]))
        )
    return found


def test_what_providers_took_is_taken() -> None:
    requests = answered()
    refused = []
    for entry, target, asked in requests:
        try:
            lifted = target.speaker.lift(asked)
        except RefusedRequest as error:
            refused.append(f"{entry['id']} {entry['provider']}: {error}")
        else:
            assert lifted.messages
            assert lifted.stream == entry["stream"] or target.speaker.dialect == "generate_content"
    # What is left are fields of one provider's own, and names in the other of two spellings that a wire takes.
    assert len(refused) <= len(requests) // 10, refused
    assert all("unknown field" in text or "is required" in text for text in refused), refused


def test_what_was_lifted_is_lifted_again_from_its_own_encoding() -> None:
    again = 0
    for _, target, asked in answered():
        dialect = target.speaker.dialect
        speaker = directory_of(catalog()).find("POST", f"/{dialect}/")
        assert speaker is not None
        try:
            lifted = target.speaker.lift(asked)
            encoded = encoder(dialect).encode(lifted)
        except (RefusedRequest, CallerError):
            continue  # outside the standard request: files by id, blocks of the provider's own
        if asked.body.get("tools") and not lifted.tools:
            continue  # tools of the provider's own alone
        matched = speaker.speaker.match("POST", encoded.path)
        assert matched is not None
        second = speaker.speaker.lift(
            Asked(
                "POST",
                encoded.path,
                matched.route,
                matched.segments,
                dict(encoded.query),
                dict(encoded.headers),
                json.loads(encoded.body),
            )
        )
        assert said(second) == said(lifted)
        again += 1
    assert again > 150


def said(request: Request) -> Any:
    """What both must agree on: the words, the calls, the tools."""
    words = "".join(message.text for message in request.messages if message.role != "system")
    calls = [
        (block.name, block.input) for message in request.messages for block in message.blocks if hasattr(block, "input")
    ]
    return request.model, words, calls, [tool.name for tool in request.tools], request.temperature, request.max_tokens
