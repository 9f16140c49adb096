"""The standard request: what the caller wants, before any wire shape.

Imports `message` and `tool`. The rule that must stay true: every field that is set either reaches the wire or is
named in the error that says it cannot (wire/encode).
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from .message import Message
from .tool import ToolChoice, ToolDefinition

__all__ = ["Request", "ResponseFormat"]


class ResponseFormat(msgspec.Struct, frozen=True, omit_defaults=True):
    """The form of the answer. For `json_schema`, `schema` is a JSON Schema object and `name` its name on the wire."""

    mode: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None


class Request(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One request, in the protocol's standard parameters. None means: not asked for, nothing is sent."""

    model: str
    messages: tuple[Message, ...] = ()
    stream: bool = False
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: tuple[str, ...] = ()
    seed: int | None = None
    n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    thinking: dict[str, Any] | None = None  # a provider's own reasoning switch, as its wire has it
    metadata: dict[str, Any] | None = None
    extra: dict[str, Any] | None = None  # deep-merged over the body, last
    headers: dict[str, str] | None = None  # cannot override the auth header
    query: dict[str, str] | None = None
