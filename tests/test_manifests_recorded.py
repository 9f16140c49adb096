"""Recorded replies decode through the manifest of the provider that sent them, overrides and all; they came from the
address that the manifest gives; and their errors are the standard errors that it says they are."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import Any

import pytest

from ai_lib_trio.pipeline import DecodeProgram, compile_decoder
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import Family, Manifest
from ai_lib_trio.types.events import StreamError
from ai_lib_trio.types.message import Message
from ai_lib_trio.types.request import Request
from ai_lib_trio.wire.classify import classify
from ai_lib_trio.wire.encode import compile_encoder
from test_recorded_pipeline import DIALECTS, RECORDED, check, check_error, load

FAMILIES = {"bedrock_invoke": "invoke"}  # a wire that is a dialect's, changed by the provider: the family that reads it

NAMES = {
    "zai": "zhipu",
    "bedrock-mantle": "bedrock",
    "local-openai-compatible": "vllm",
}  # the recordings' name of a provider -> ours
OTHER_ADDRESSES = {  # recorded elsewhere, and why
    "bedrock-mantle": "the other one of two hosts; its base_url is given by hand",
    "local-openai-compatible": "a server on some machine, of which the recording tells no port",
    "huggingface": "a route of one sub-provider, since replaced by /v1",
    "vertex": "v1beta1, and the host of the global location",
}
ERRORS = {  # (provider, status of the reply, provider's code) -> standard error
    ("anthropic", 404, "not_found_error"): "not_found",
    ("anthropic", 400, "invalid_request_error"): "invalid_request",
    ("anthropic", 401, "authentication_error"): "authentication",
    ("azure", 200, "content_filter"): "invalid_request",
    ("openai", 404, "model_not_found"): "not_found",
    ("openrouter", 200, "400"): "invalid_request",
    ("groq", 200, "tool_use_failed"): "invalid_request",
}
WORDS = {"not_found": "E1004", "invalid_request": "E1001", "authentication": "E1002"}


@cache
def catalog() -> Catalog:
    return Catalog.open()


@cache
def program(provider: str, family: str) -> DecodeProgram:
    found = catalog().provider(provider).family(family)
    return compile_decoder(found.decode, found.where.at("decode"))


def cases(but: Collection[str] = ()) -> Iterator[Any]:
    index = RECORDED / "INDEX.json"
    if not index.exists():
        reason = f"no recorded replies at {RECORDED.name}/ beside the checkout"
        yield pytest.param({}, marks=pytest.mark.skip(reason=reason), id="absent")
        return
    for entry in json.loads(index.read_text("utf-8")):
        if (entry["api"] in DIALECTS or entry["api"] in FAMILIES) and entry["provider"] not in but:
            yield pytest.param(entry, id=f"{entry['provider']}-{entry['api']}-{entry['id']}")


def spoken(entry: dict[str, Any]) -> tuple[Manifest, Family]:
    """The provider of a recording and its family for that wire: one per dialect, the first where there are two."""
    manifest = catalog().provider(NAMES.get(entry["provider"], entry["provider"]))
    if entry["api"] in FAMILIES:
        return manifest, manifest.families[FAMILIES[entry["api"]]]
    families = [family for family in manifest.families.values() if family.dialect == DIALECTS[entry["api"]]]
    assert families, f"{manifest.id} has no family of {DIALECTS[entry['api']]}"
    return manifest, families[0]


@pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded replies at {RECORDED.name}/ beside the checkout")
def test_all_250_recorded_chats_and_completions_are_here() -> None:
    assert len(list(cases())) == 250


@pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded replies at {RECORDED.name}/ beside the checkout")
def test_who_claims_recorded_evidence_has_a_recorded_reply() -> None:
    heard = {NAMES.get(entry["provider"], entry["provider"]) for (entry,) in (case.values for case in cases())}
    claiming = {
        name
        for name in catalog().providers()
        if catalog().provider(name).sources.get("api_families", {}).get("evidence") == "recorded"
    }
    assert claiming == heard


@pytest.mark.parametrize("entry", list(cases()))
def test_a_reply_decodes_through_its_providers_own_family(entry: dict[str, Any]) -> None:
    manifest, family = spoken(entry)
    case, body = load(entry)
    response, expected = case["response"], case["expected"]
    decoder = program(manifest.id, family.id)
    if response["status"] >= 400:
        said = decoder.read_error(response["status"], response["headers"], body)
        check_error(expected["error"], said)
        known = said
    else:
        pipeline = decoder.open(content_type=response["headers"].get("content-type"), streamed=entry["stream"])
        events = [*pipeline.feed(body), *pipeline.finish()]
        check(expected, events)
        if expected["error"] is None:
            return
        assert isinstance(events[-1], StreamError)
        known = events[-1]
    error = classify(
        known,
        status=response["status"],
        headers=response["headers"],
        rules=manifest.errors,
        table=catalog().error_table(),
        rate_limits=manifest.rate_limits,
        now_wall=0.0,
    )
    wanted = ERRORS[entry["provider"], response["status"], known.code or known.type]
    assert error.code == WORDS[wanted]


@pytest.mark.parametrize("entry", list(cases(but=OTHER_ADDRESSES)))
def test_a_reply_came_from_the_address_that_the_manifest_gives(entry: dict[str, Any]) -> None:
    manifest, _ = spoken(entry)
    case, _ = load(entry)
    request = case["request"]
    message = Message(role="user", content="hello")
    paths = {
        compile_encoder(family.encode, family.where.at("encode"), dialect=family.dialect)
        .encode(Request(model="MODEL", messages=(message,), stream=entry["stream"]))
        .path
        for family in manifest.families.values()
    }
    address = re.sub(r"\\\$\\\{[A-Z_]+\\\}", "[^/]+", re.escape(manifest.endpoint.base_url))
    patterns = [address + re.escape(path).replace("MODEL", "[^/]+") for path in paths]
    came = f"{'http' if request['host'] == '127.0.0.1' else 'https'}://{request['host']}{request['path']}"
    came = came.replace("127.0.0.1", "127.0.0.1:11434")
    assert any(re.fullmatch(pattern, came) for pattern in patterns), (came, patterns)
