"""Cases about requests: messages, parameters, blocks and whole requests, written by the encoder that calls use.

Imports `errors`, `protocol`, `types`, `wire`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from ..errors import CallerError
from ..protocol.manifest import Manifest
from ..types.message import Base64Source, DocumentBlock, Message, UrlSource
from ..types.request import Request
from ..wire.encode import Encoded, Encoder, compile_encoder
from ..wire.lens import STANDARD_PARAMETERS
from .compare import Check, Difference, contains
from .contracts import blocks_of
from .suite import Bench, Case

__all__ = ["content_block_encode", "message_building", "parameter_mapping", "request_building", "request_of"]


def encoder_of(manifest: Manifest, api: str | None = None) -> Encoder:
    """What writes a provider's requests."""
    family = manifest.family(api)
    return compile_encoder(family.encode, family.where.at("encode"), dialect=family.dialect)


def message_building(case: Case, bench: Bench) -> dict[str, Any]:
    """The standard messages, with the caller's notes; and on the wire, without them."""
    messages = [_message(one) for one in case.input["messages"]]
    fields = _parameters(case.input.get("parameters") or {})
    request = Request(model="a-model", messages=tuple(messages), **fields)
    wire = _body(encoder_of(bench.manifest(case), case.input.get("api")).encode(request))
    standard = msgspec.to_builtins(request.messages)

    def differs(expected: Any, path: str) -> Iterable[Difference]:
        yield from contains({"messages": standard}).differs(expected, path)
        plain = [{key: value for key, value in one.items() if key != "metadata"} for one in expected["messages"]]
        if wire.get("messages") != plain:
            yield Difference(f"{path}.messages on the wire", plain, wire.get("messages"))

    return {"normalized_body": Check(differs), "message_count": len(standard)}


def parameter_mapping(case: Case, bench: Bench) -> dict[str, Any]:
    """The parameters of a body: standard ones by their wire names, with the manifest's defaults."""
    manifest = bench.manifest(case)
    family = manifest.family(case.input.get("api"))
    request = Request(model="a-model", messages=(Message.user("hi"),), **_parameters(case.input["standard_params"]))
    body = _body(encoder_of(manifest, case.input.get("api")).encode(request))
    renames = family.encode.get("parameters") or {}
    wire = {str(path).split(".")[0] for path in renames.values()} | set(STANDARD_PARAMETERS) | {"stop"}
    return {"provider_params": {key: value for key, value in body.items() if key in wire}}


def request_building(case: Case, bench: Bench) -> dict[str, Any]:
    """A whole request on the wire, or the error that says why it cannot be written."""
    given = case.input
    encoder = encoder_of(bench.manifest(case), given.get("api"))
    try:
        if "request" in given:
            request = request_of(given["request"])
        else:
            messages = tuple(_message(one) for one in given["messages"])
            request = Request(model="a-model", messages=messages, **_parameters(given.get("parameters") or {}))
        encoded = encoder.encode(request)
    except CallerError as error:
        message = error.message
        return {
            "valid": False,
            "error_code": error.code,
            "error_contains": Check(lambda text, path: [] if text in message else [Difference(path, text, message)]),
        }
    body = _body(encoded)
    return {
        "valid": True,
        "request_contains": contains(body),
        "body": body,
        "method": encoded.method,
        "path": encoded.path,
        "query": dict(encoded.query),
        "headers": contains(dict(encoded.headers)),
        "dropped_opaque": encoded.dropped_opaque,
        "warnings": len(encoded.warnings),
    }


def content_block_encode(case: Case, bench: Bench) -> dict[str, Any]:
    """Blocks of one user message, as a dialect writes them."""
    dialect = bench.catalog.dialect(case.input["api_style"])
    encoder = compile_encoder(dialect.encode, dialect.where.at("encode"), dialect=dialect.id)
    try:
        blocks = tuple(_block(one) for one in case.input["blocks"])
        body = _body(encoder.encode(Request(model="a-model", messages=(Message("user", blocks),))))
    except CallerError as error:
        return {"valid": False, "error_code": error.code, "!expect_error": not case.input.get("expect_error")}
    return {"valid": True, "encoded": blocks_of(body), "!expect_error": bool(case.input.get("expect_error"))}


def _body(encoded: Encoded) -> Any:
    return json.loads(encoded.body) if encoded.body else None


def _convert(value: Any, kind: Any) -> Any:
    """A value of ours from a case's JSON. What the type has no field for is refused, not left out."""
    try:
        made = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise CallerError(f"the case's {kind.__name__.lower()} is none: {error}", kind="bad_argument") from None
    lost = _lost(value, msgspec.to_builtins(made))
    if lost:
        raise CallerError(f"the case has {lost!r}, which a {kind.__name__} has not", kind="bad_argument")
    return made


def _lost(given: Any, made: Any) -> str:
    """The first key of what was given that is not in what was made."""
    if isinstance(given, Mapping) and isinstance(made, Mapping):
        for key, value in given.items():
            if key not in made:
                if value in (None, False, [], {}, ""):
                    continue  # a default, left out again
                return str(key)
            if lost := _lost(value, made[key]):
                return f"{key}.{lost}"
    elif isinstance(given, list) and isinstance(made, list):
        for one, other in zip(given, made, strict=False):
            if lost := _lost(one, other):
                return lost
    return ""


def request_of(given: Mapping[str, Any]) -> Request:
    """A case's standard request. Raises `CallerError` for one that is none."""
    made: Request = _convert({"model": "a-model", **given}, Request)
    return made


def _message(given: Mapping[str, Any]) -> Message:
    made: Message = _convert(given, Message)
    return made


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a request, from parameters as callers of the specification write them."""
    fields = dict(given)
    form = fields.get("response_format")
    if isinstance(form, Mapping) and "type" in form:
        inner = form.get("json_schema") if isinstance(form.get("json_schema"), Mapping) else {}
        fields["response_format"] = {"mode": form["type"], **(inner or {})}
    request = request_of(fields)
    return {name: getattr(request, name) for name in fields}


def _block(given: Mapping[str, Any]) -> Any:
    kind = given["block_type"]
    if kind == "text":
        return _convert({"role": "user", "content": [{"type": "text", "text": given["text"]}]}, Message).content[0]
    sources: dict[str, Any] = {
        "base64": Base64Source(given.get("mime_type", "application/pdf"), given.get("data", "")),
        "url": UrlSource(given.get("data", ""), given.get("mime_type")),
    }
    # Any other source, such as a reference to be looked up, is handed on as it is: the encoder says what it takes.
    source = sources.get(given["source_type"], dict(given))
    if kind != "document":
        made = msgspec.to_builtins(source)
        return _convert({"role": "user", "content": [{"type": kind, "source": made}]}, Message).content[0]
    return DocumentBlock(source=source)
