"""Each provider's request is the one of its case, field by field, and its reply is read: by evidence that is named."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import yaml

from ai_lib_trio.conformance.exchange import bodies_differ
from ai_lib_trio.conformance.run import run_suite
from ai_lib_trio.protocol.manifest import Family, Manifest
from ai_lib_trio.types.request import Request
from provider_cases import (
    CASES,
    HEAD,
    asked_of,
    catalog,
    decoder,
    derived,
    encode,
    needs_case,
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
def test_a_case_that_a_manifest_alone_gives_holds(provider: str, tmp_path: Path) -> None:
    manifest = catalog().provider(provider)
    case = derived(manifest, manifest.family())
    assert case is not None
    assert yaml.safe_load(render(case)) == case
    (tmp_path / "case.yaml").write_text(render(case), "utf-8")
    assert run_suite(tmp_path).is_good


def test_cases_that_need_no_recording_hold_field_by_field() -> None:
    report = run_suite(CASES)
    assert [(result.id, result.differences) for result in report.results if result.status != "passed"] == []
    assert {result.id for result in report.results} == {
        case["provider"] for case in ALL if case["evidence"] != "recorded"
    }


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
    assert [*bodies_differ(sent["body"], json.loads(encoded.body), case.get("differs", ()))] == []
    prefix = re.sub(r"\$\{\w+\}", "x", manifest.endpoint.base_url)
    assert sent["path"].endswith(encoded.path)
    assert prefix.startswith("http")
    streamed = family.dialect != "generate_content" and request.stream
    pipeline = decoder(manifest.id, family.id).open(
        content_type=response["headers"].get("content-type"), streamed=streamed
    )
    check(recorded["expected"], [*pipeline.feed(body), *pipeline.finish()])
