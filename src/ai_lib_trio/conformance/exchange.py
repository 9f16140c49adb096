"""Cases of a provider, in the form of conformance/providers: a request as it must go out, a reply as it must be read.

Imports `errors`, `protocol`, `types`, `wire`. The rule that must stay true: the request is compared field by field, and
a difference that the case lists and that is not there any more is one too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..protocol.manifest import Family, Manifest
from ..protocol.trust import fill, placeholders
from ..types.request import Request
from ..wire.auth import attach, authorise
from ..wire.encode import compile_encoder
from .compare import Check, Difference, same
from .replies import program_of, replay
from .requests import request_of
from .suite import Bench, Case

__all__ = ["KEY", "bodies_differ", "on_the_wire", "provider_exchange"]

_INDEX = re.compile(r"\[(\d+)\]")
KEY = "the-key"  # what stands for the caller's key in every case


def on_the_wire(manifest: Manifest, family: Family, request: Request) -> dict[str, Any]:
    """The request as it would go out, with variables of the address named after themselves and a key that is none."""
    where = family.where.at("encode")
    encoded = compile_encoder(family.encode, where, dialect=family.dialect, parameters=manifest.parameters).encode(
        request
    )
    values = {name: name.lower().replace("_", "-") for name in placeholders(manifest.endpoint.base_url)}
    signed = authorise(encoded.headers, encoded.query, attach(manifest.auth, KEY))
    out: dict[str, Any] = {"method": encoded.method, "url": fill(manifest.endpoint.base_url, values) + encoded.path}
    if signed.query:
        out["query"] = dict(signed.query)
    out["headers"] = dict(signed.headers)
    out["body"] = json.loads(encoded.body) if encoded.body else None
    return out


def provider_exchange(case: Case, bench: Bench) -> dict[str, Any]:
    """What a provider's manifest makes of a case's request, and of its reply."""
    given = case.input
    manifest = bench.manifest(case)
    request = request_of(given["asked"])
    wire = on_the_wire(manifest, manifest.family(given["family"]), request)

    def differs(expected: Any, path: str) -> Iterable[Difference]:
        plain, sent = ({key: value for key, value in one.items() if key != "body"} for one in (expected, wire))
        yield from same(plain, sent, path)
        yield from bodies_differ(expected["body"], wire["body"], given.get("differs") or (), f"{path}.body")

    reply = given["reply"]
    body = reply["body"] if isinstance(reply["body"], str) else json.dumps(reply["body"], ensure_ascii=False)
    seen = replay(
        program_of(manifest, given["family"]),
        body.encode(),
        content_type=reply.get("content_type"),
        streamed=request.stream,
    )
    read = seen.reply
    return {
        "request": Check(differs),
        "text": read.content,
        "thinking": read.thinking,
        "calls": [{"name": call.name, "arguments": call.arguments} for call in read.tool_calls],
        "citations": [citation.data for citation in read.citations],
        "finish": read.finish_reason,
        "usage": {"input": read.usage.input_tokens, "output": read.usage.output_tokens},
        "!error": seen.fault.message if seen.fault is not None else None,
        "!cuts": seen.cuts,
    }


def bodies_differ(expected: Any, got: Any, listed: Iterable[str] = (), path: str = "body") -> Iterable[Difference]:
    """Differences of two bodies, but for those at a `listed` path; and each listed one that is none."""
    left = {f"{path}." + _INDEX.sub(r".\1", one) for one in listed}
    for one in same(_without_null(expected), _without_null(got), path):
        if one.path in left:
            left.discard(one.path)
        else:
            yield one
    for gone in sorted(left):
        yield Difference(gone, "a difference, as the case lists", "none")


def _without_null(value: Any) -> Any:
    """The value with what is null left out of its objects: a field that is null is as good as not there."""
    if isinstance(value, Mapping):
        return {key: _without_null(one) for key, one in value.items() if one is not None}
    return [_without_null(one) for one in value] if isinstance(value, list) else value
