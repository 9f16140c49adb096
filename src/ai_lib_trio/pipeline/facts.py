"""The facts that rules may emit, the accumulator's method that each becomes, and what is made of values on the way.

Read by the parser of rules and by both backends. Imports nothing of ours. The rule that must stay true: what a backend
passes on is of the field's type, whatever the wire had.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["ALIASES", "FACTS", "Emission", "cut", "emission", "entries", "joined", "json_text", "of_kind"]

# Facts and their fields, the main one first. A field is `text` (text that is not empty), `key` (text or a whole
# number), `count` (a whole number), `flag` (true, or not), `word` (the accumulator reads it), `any` (taken whole), or
# `later` (the same, and wanted at the end alone: a view need not keep it).
FACTS: Mapping[str, Mapping[str, str]] = {
    "PartialContentDelta": {"content": "text", "index": "key", "alone": "flag", "signature": "text", "native": "any"},
    "Refusal": {"content": "text", "index": "key"},
    "ThinkingDelta": {
        "thinking": "text", "index": "key", "part": "count", "alone": "flag", "signature": "text", "encrypted": "text",
        "id": "text", "native": "any",
    },
    "ToolCall": {
        "index": "key", "tool_call_id": "text", "tool_name": "text", "arguments": "any", "input": "any",
        "is_complete": "flag", "signature": "text", "item_id": "text", "native": "any",
    },
    "ServerBlock": {
        "index": "key", "id": "text", "name": "text", "input": "any", "result": "any", "native": "any",
        "arguments_at": "text", "is_complete": "flag",
    },
    "OpaqueBlock": {
        "index": "key", "kind": "text", "data": "any", "piece": "text", "piece_at": "text", "is_complete": "flag",
    },
    "BlockEnded": {"index": "key"},
    "Citation": {"data": "any", "index": "key"},
    "MediaPart": {"mime_type": "text", "data": "text", "url": "text", "signature": "text"},
    "Usage": {
        "input_tokens": "word", "output_tokens": "word", "total_tokens": "word", "cached_tokens": "word",
        "cache_write_tokens": "word", "reasoning_tokens": "word", "raw": "later",
    },
    "Metadata": {"model": "text", "response_id": "text"},
    "FinalCandidate": {"finish_reason": "word"},
    "Complete": {},
    "StreamError": {"code": "any", "type": "any", "message": "any", "status": "word", "error": "any"},
}  # fmt: skip

# Names that the specification's manifests use for the same facts.
ALIASES: Mapping[str, str] = {
    "ToolCallStarted": "ToolCall",
    "PartialToolCall": "ToolCall",
    "ToolCallEnded": "BlockEnded",
    "StreamEnd": "FinalCandidate",
    "RefusalDelta": "Refusal",
}


class Emission(msgspec.Struct, frozen=True):
    """A call of the accumulator: `method(*fields)`, made only where one of the `wants` fields has something."""

    method: str
    fields: tuple[str, ...]
    wants: tuple[str, ...] | None = None  # None: always


_EMISSIONS: Mapping[str, Emission] = {
    "PartialContentDelta": Emission(
        "text_with", ("content", "index", "alone", "signature", "native"), ("content", "signature", "native")
    ),
    "Refusal": Emission("refusal", ("content", "index"), ("content",)),
    "ThinkingDelta": Emission(
        "thinking",
        ("thinking", "index", "part", "alone", "signature", "encrypted", "id", "native"),
        ("thinking", "signature", "encrypted", "id", "native"),
    ),
    "ToolCall": Emission(
        "call",
        ("index", "tool_call_id", "tool_name", "arguments", "input", "is_complete", "signature", "item_id", "native"),
        ("tool_call_id", "tool_name", "arguments", "input", "is_complete", "signature", "native"),
    ),
    "ServerBlock": Emission("server", tuple(FACTS["ServerBlock"]), ("id", "name", "native")),
    "OpaqueBlock": Emission("opaque", tuple(FACTS["OpaqueBlock"]), ("data", "piece")),
    "BlockEnded": Emission("ended", ("index",), ("index",)),
    "Citation": Emission("citation", ("data", "index"), ("data",)),
    "MediaPart": Emission("media", tuple(FACTS["MediaPart"]), ("data", "url")),
    "Usage": Emission("usage", tuple(FACTS["Usage"]), tuple(FACTS["Usage"])),
    "Metadata": Emission("metadata", ("model", "response_id"), ("model", "response_id")),
    "FinalCandidate": Emission("finish", ("finish_reason",), ("finish_reason",)),
    "Complete": Emission("complete", ()),
    "StreamError": Emission("error", tuple(FACTS["StreamError"])),
}
_PLAIN_TEXT = Emission("text", ("content", "index"), ("content",))
_PLAIN_THINKING = Emission("thinking", ("thinking", "index", "part"), ("thinking",))


_SHORT = {"PartialContentDelta": _PLAIN_TEXT, "ThinkingDelta": _PLAIN_THINKING}


def emission(fact: str, given: frozenset[str]) -> Emission:
    """The call that a fact with these fields becomes: the short one where its fields are enough."""
    short = _SHORT.get(fact)
    return short if short is not None and given <= set(short.fields) else _EMISSIONS[fact]


# ---- what both backends make of values


def json_text(value: Any) -> Any:
    """JSON text of a value; text stays text."""
    return value if value is None or value.__class__ is str else msgspec.json.encode(value).decode()


def joined(parts: list[Any], by: str) -> str | None:
    """The texts and whole numbers as one text, nothing if a part is neither."""
    texts = [str(part) if part.__class__ is int else part for part in parts]
    return by.join(texts) if all(text.__class__ is str for text in texts) else None


def cut(value: Any, at: str) -> Any:
    """A text up to the first `at`."""
    return value.partition(at)[0] if value.__class__ is str else None


def entries(value: Any) -> Any:
    """The entries of an object, in its order, as objects of their own."""
    return [{"key": key, "value": item} for key, item in value.items()] if value.__class__ is dict else None


def of_kind(kind: str, value: Any) -> Any:
    """A value as its field takes it: of the field's type, or nothing."""
    if kind == "text":
        return value if value.__class__ is str and value else None
    if kind == "key":
        return value if value.__class__ is str or value.__class__ is int else None
    if kind == "count":
        return value if value.__class__ is int else None
    return value is True if kind == "flag" else value
