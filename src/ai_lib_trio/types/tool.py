"""Tools: what a model may call, and the calls it makes. Imports nothing of ours."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

__all__ = ["ToolCall", "ToolChoice", "ToolDefinition"]


class ToolDefinition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool offered to the model. `parameters` is a JSON Schema object and goes out as written."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] = msgspec.field(default_factory=lambda: {"type": "object", "properties": {}})
    strict: bool | None = None


class ToolChoice(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the model must call: `auto`, `none`, `required`, or `tool` with a `name`."""

    mode: Literal["auto", "none", "required", "tool"]
    name: str | None = None


class ToolCall(msgspec.Struct, frozen=True, omit_defaults=True):
    """A complete call. `arguments` is parsed JSON; `raw` is the text as it came.

    Where the text is no JSON, `arguments` is that text unchanged. Empty text is `{}`.
    """

    id: str
    name: str
    arguments: Any
    raw: str = ""
