"""Each provider's request is the one of its case, field by field, and its reply is read: by evidence that is named."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import yaml

from ai_lib_trio.protocol.manifest import Family, Manifest
from ai_lib_trio.types.events import StreamError
from ai_lib_trio.types.request import Request
from ai_lib_trio.types.response import fold
from provider_cases import (
    CASES,
    HEAD,
    asked_of,
    catalog,
    decoder,
    derived,
    encode,
    needs_case,
    on_the_wire,
    read_cases,
    render,
    speaker_of,
)
from test_recorded_pipeline import RECORDED, check, load

ALL = read_cases()


def params(kind: str) -> list[Any]:
    return [pytest.param(case, id=case["provider"]) for case in ALL if case["evidence"] == kind]


def whose(case: dict[str, Any]) -> tuple[Manifest, Family]:
    manifest = catalog().provider(case["provider"])
    return manifest, manifest.family(case["family"])


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Paths at which two JSON values are not the same; what is null is not there."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            yield from differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differences(left, right, f"{path}[{index}]")
    elif one != other:
        yield path


def test_every_provider_with_a_chat_that_still_is_there_has_a_case() -> None:
    wanted = {name for name in catalog().providers() if needs_case(catalog().provider(name))}
    assert {case["provider"] for case in ALL} == wanted
    assert {path.stem for path in CASES.glob("*.yaml")} == wanted


def test_each_kind_of_evidence_is_one_that_is_known_and_says_where_it_is_from() -> None:
    for case in ALL:
        assert case["evidence"] in ("recorded", "documented", "derived-from-dialect")
        assert ("recording" in case) == (case["evidence"] == "recorded")
        assert ("source" in case) == (case["evidence"] == "documented")
        if "source" in case:
            assert urlsplit(case["source"]["url"]).scheme == "https"
            assert datetime.date.fromisoformat(case["source"]["checked"])


def test_derived_cases_are_what_their_manifests_come_to_today() -> None:
    for case in ALL:
        text = (CASES / f"{case['provider']}.yaml").read_text("utf-8")
        assert text.startswith(HEAD) == (case["evidence"] == "derived-from-dialect")
        if text.startswith(HEAD):
            found = derived(*whose(case))
            assert found is not None
            assert text == render(found), "run `python tests/provider_cases.py`"


@pytest.mark.parametrize("provider", ["openai", "anthropic", "gemini"])
def test_a_case_that_a_manifest_alone_gives_holds(provider: str) -> None:
    manifest = catalog().provider(provider)
    case = derived(manifest, manifest.family())
    assert case is not None
    assert yaml.safe_load(render(case)) == case
    check_reply(case)


@pytest.mark.parametrize("case", params("derived-from-dialect") + params("documented"))
def test_a_request_is_the_one_of_the_case_field_by_field(case: dict[str, Any]) -> None:
    manifest, family = whose(case)
    wire = on_the_wire(manifest, family, msgspec.convert(case["asked"], Request))
    wanted = case["request"]
    assert [*differences(wanted["body"], wire["body"])] == [*case.get("differs", ())]
    assert {key: value for key, value in wire.items() if key != "body"} == {
        key: value for key, value in wanted.items() if key != "body"
    }


@pytest.mark.parametrize("case", params("derived-from-dialect") + params("documented"))
def test_a_reply_is_read_as_what_the_case_says(case: dict[str, Any]) -> None:
    check_reply(case)


def check_reply(case: dict[str, Any]) -> None:
    reply, expected = case["reply"], case["expected"]
    streamed = case["asked"].get("stream", False)
    pipeline = decoder(case["provider"], case["family"]).open(content_type=reply["content_type"], streamed=streamed)
    body = reply["body"] if isinstance(reply["body"], str) else json.dumps(reply["body"])
    events = [*pipeline.feed(body.encode()), *pipeline.finish()]
    assert not [event for event in events if isinstance(event, StreamError)]
    response = fold(events)
    assert response.content == expected["text"]
    assert response.thinking == expected.get("thinking", "")
    assert [{"name": call.name, "arguments": call.arguments} for call in response.tool_calls] == expected.get(
        "calls", []
    )
    assert [citation.data for citation in response.citations] == expected.get("citations", [])
    assert response.finish_reason == expected["finish"]
    usage = {"input": response.usage.input_tokens, "output": response.usage.output_tokens}
    assert usage == expected.get("usage", {"input": None, "output": None})


@pytest.mark.skipif(not RECORDED.exists(), reason=f"no recorded replies at {RECORDED.name}/ beside the checkout")
@pytest.mark.parametrize("case", params("recorded"))
def test_a_recorded_request_is_encoded_as_it_was_sent_and_its_reply_is_read(case: dict[str, Any]) -> None:
    manifest, family = whose(case)
    recorded, body = load(case["recording"])
    sent, response = recorded["request"], recorded["response"]
    query = dict(part.partition("=")[::2] for part in (sent["query"] or "").split("&") if part)
    if "asked" in case:
        request = msgspec.convert(case["asked"], Request)
    else:
        speaker = speaker_of(manifest, family)
        assert speaker is not None
        wire = {"body": sent["body"], "headers": dict(encode(manifest, family, Request(model="m")).headers)}
        request = speaker.lift(asked_of(wire, speaker, sent["path"], query))
    encoded = encode(manifest, family, request)
    assert [*differences(sent["body"], json.loads(encoded.body))] == [*case.get("differs", ())]
    prefix = re.sub(r"\$\{\w+\}", "x", manifest.endpoint.base_url)
    assert sent["path"].endswith(encoded.path)
    assert prefix.startswith("http")
    streamed = family.dialect != "generate_content" and request.stream
    pipeline = decoder(manifest.id, family.id).open(
        content_type=response["headers"].get("content-type"), streamed=streamed
    )
    check(recorded["expected"], [*pipeline.feed(body), *pipeline.finish()])
