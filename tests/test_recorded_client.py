"""Recorded replies of real providers, served on loopback, come through the whole client as what they said.

Whole and at three random cuts each; streamed as they were recorded. Where the provider has a manifest it is used, and
else a small one of the dialect alone.
"""

from __future__ import annotations

import json
import random
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from trio.testing import wait_all_tasks_blocked

from ai_lib_trio import AiClient, AiLibError, ChatResponse, Config, ProviderError, open_client
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.testing import Quiescence, random_splits
from client_support import ONE_ATTEMPT
from raw_server import Connection, chunk, raw_server
from test_recorded_pipeline import DIALECTS, RECORDED, check_calls, check_reply, load

HOP_BY_HOP = {"content-encoding", "content-length", "transfer-encoding", "connection", "keep-alive"}


def groups() -> list[Any]:
    index = RECORDED / "INDEX.json"
    if not index.exists():
        reason = f"no recorded replies at {RECORDED.name}/ beside the checkout"
        return [pytest.param("", "", [], marks=pytest.mark.skip(reason=reason), id="absent")]

    def key(entry: dict[str, Any]) -> tuple[str, str]:
        return entry["api"], entry["provider"]

    entries = sorted((entry for entry in json.loads(index.read_text("utf-8")) if entry["api"] in DIALECTS), key=key)
    return [
        pytest.param(api, provider, list(found), id=f"{api}-{provider}")
        for (api, provider), found in groupby(entries, key=key)
    ]


def manifest_of_a_dialect(dialect: str, folder: Path) -> Path:
    """The least that a provider has to say."""
    text = f"""
id: recorded
protocol_version: "2.0"
name: Recorded
status: stable
category: ai_provider
official_url: https://recorded.example/
endpoint: {{base_url: "https://recorded.example/v1", auth: {{type: none}}}}
default_api_family: only
api_families:
  only: {{dialect: {dialect}}}
"""
    (folder / "providers").mkdir()
    (folder / "providers" / "recorded.yaml").write_text(text, "utf-8")
    return folder


def target_of(provider: str, dialect: str) -> tuple[str, str | None]:
    """The provider's id and its API that speaks the dialect; `recorded` and None where there is no such manifest."""
    try:
        manifest = Catalog.open(None, environ={}).provider(provider)
    except AiLibError:
        return "recorded", None
    family = next((name for name, family in manifest.families.items() if family.dialect == dialect), None)
    return (manifest.id, family) if family is not None else ("recorded", None)


async def ask(client: AiClient, model: str, api: str, marker: str, streams: bool) -> ChatResponse | AiLibError:
    chat = client.chat().model(model).api(api).max_tokens(100).user(marker)
    try:
        if not streams:
            return await chat.execute()
        async with chat.stream() as events:
            async for _ in events:
                pass
        return events.response()
    except ProviderError as exc:
        if streams:
            exc.partial = events.partial()  # type: ignore[attr-defined]
        return exc


def check(expected: dict[str, Any], got: ChatResponse | AiLibError, status: int) -> None:
    if isinstance(got, ChatResponse):
        assert expected["error"] is None
        check_reply(expected, got)
        check_calls(expected, got)
        return
    assert expected["error"] is not None, f"{got}"
    assert got.kind == "provider"
    assert got.provider_code in expected["error"]["codes"]
    assert got.provider_message == expected["error"]["message"]
    assert got.code.startswith("E")
    if status >= 400:
        assert got.status == status == expected["error"]["status"]
    elif hasattr(got, "partial"):
        check_reply(expected, got.partial)


@pytest.mark.parametrize(("api", "provider", "entries"), groups())
async def test_a_recorded_reply_comes_through_the_client_as_what_it_said(
    quiescence: Quiescence, tmp_path: Path, api: str, provider: str, entries: list[dict[str, Any]]
) -> None:
    dialect = DIALECTS[api]
    name, family = target_of(provider, dialect)
    manifests = None if family is not None else manifest_of_a_dialect(dialect, tmp_path)
    replies: dict[str, tuple[dict[str, Any], list[bytes]]] = {}

    async def serve(connection: Connection) -> None:
        while (asked := await connection.request()) is not None:
            marker = next(marker for marker in replies if marker.encode() in asked[1])
            response, pieces = replies[marker]
            lines = [f"HTTP/1.1 {response['status']} Recorded", "transfer-encoding: chunked"]
            lines += [f"{key}: {value}" for key, value in response["headers"].items() if key.lower() not in HOP_BY_HOP]
            await connection.send("\r\n".join([*lines, "", ""]).encode())
            for piece in pieces:
                await connection.send(chunk(piece))
                if len(pieces) > 1:
                    await wait_all_tasks_blocked()  # the client has read so far, and waits for more
            await connection.send(b"0\r\n\r\n")

    wrong: list[str] = []
    async with raw_server(serve) as server:
        keys = {name: "test-key"}
        config = Config(base_urls={name: server.url}, api_keys=keys, environ={}, resilience=ONE_ATTEMPT)
        async with open_client(manifests=manifests, config=config) as client:
            for entry in entries:
                case, body = load(entry)
                seed = random.Random(entry["id"]).randrange(2**32)
                ways = [[body], *random_splits(body, seed=seed, most_pieces=8)] if body else [[]]
                for number, pieces in enumerate(ways):
                    marker = f"case-{entry['id']}-{number}-"
                    replies[marker] = (case["response"], pieces)
                    got = await ask(client, f"{name}/a-model", family or "only", marker, entry["stream"])
                    try:
                        check(case["expected"], got, case["response"]["status"])
                    except AssertionError as exc:
                        wrong.append(f"{entry['id']} cut {number}: {exc}")
            assert client.tree().open_calls == 0
            assert client.stats()["calls"] == sum(4 if load(entry)[1] else 1 for entry in entries)
        assert server.connections <= len(replies)
    assert not wrong, "\n".join(wrong)


def test_all_247_recorded_replies_of_the_dialects_are_here() -> None:
    if not (RECORDED / "INDEX.json").exists():
        pytest.skip(f"no recorded replies at {RECORDED.name}/ beside the checkout")
    assert sum(len(param.values[2]) for param in groups()) == 247  # type: ignore[arg-type, misc]
