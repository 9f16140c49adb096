"""What the tests of encoding share: the bundled dialects compiled once, and the parts of a conversation."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.types.message import Message
from ai_lib_trio.types.request import Request
from ai_lib_trio.types.tool import ToolDefinition
from ai_lib_trio.wire.encode import Encoded, Encoder, compile_encoder

DIALECTS = ("chat_completions", "responses", "messages", "generate_content", "ollama_chat")

WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"location": {"type": "string"}, "unit": {"type": "string", "default": None}},
    "required": ["location"],
}
WEATHER = ToolDefinition("get_weather", "The weather at a place", WEATHER_SCHEMA)
ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}
PNG = "iVBORw0KGgo="
PDF = "JVBERi0xLjQ="


@cache
def catalog() -> Catalog:
    return Catalog.open(environ={})


@cache
def encoder(dialect: str) -> Encoder:
    found = catalog().dialect(dialect)
    return compile_encoder(found.encode, found.where.at("encode"), dialect=found.id)


@cache
def provider_encoder(provider: str, api: str | None = None) -> Encoder:
    manifest = catalog().provider(provider)
    family = manifest.family(api)
    return compile_encoder(
        family.encode, family.where.at("encode"), dialect=family.dialect, parameters=manifest.parameters
    )


def encoded(dialect: str, *messages: Message, **fields: Any) -> Encoded:
    """The request on the wire; one user message `Hi` where no message is given."""
    request = Request(model=fields.pop("model", "m-1"), messages=messages or (Message.user("Hi"),), **fields)
    return encoder(dialect).encode(request)


def body(dialect: str, *messages: Message, **fields: Any) -> Any:
    return json.loads(encoded(dialect, *messages, **fields).body)
