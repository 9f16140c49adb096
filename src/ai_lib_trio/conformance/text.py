"""Cases about calls in text. Imports `protocol`, `pipeline`, `types`, `wire`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import msgspec

from ..pipeline.text_tools import CallsInText, TextCall, read_calls, tidy
from ..protocol.manifest import TextTools
from ..types.events import (
    FinalCandidate,
    PartialContentDelta,
    PartialToolCall,
    StreamEnd,
    StreamingEvent,
    ToolCallEnded,
    ToolCallStarted,
)
from ..types.response import fold
from ..types.tool import ToolDefinition
from ..wire.text_tools import Locale, instructions
from .compare import Check, Difference, each_in
from .suite import Bench, Case

__all__ = ["hybrid", "parse", "prompt"]


def parse(case: Case, bench: Bench) -> dict[str, Any]:
    """Calls in a text, and what is left of it."""
    config = case.input.get("config", {})
    form = msgspec.convert(config.get("form", {}), TextTools)
    lenient = config.get("lenient_parsing", True)
    rest, calls = read_calls(case.input["response_text"], form, lenient=lenient, names=config.get("tools"))
    return _outcome(rest, calls) | {"!config": _unknown(config, "lenient_parsing", "form", "tools")}


def hybrid(case: Case, bench: Bench) -> dict[str, Any]:
    """A reply with text and perhaps calls of the API's own, through what the client puts around it."""
    events: list[StreamingEvent] = [PartialContentDelta(case.input["content"])]
    for number, call in enumerate(case.input["native_tool_calls"]):
        arguments = msgspec.json.encode(call["arguments"]).decode()
        block = number + 1
        events += [
            ToolCallStarted(call["id"], call["name"], number, block),
            PartialToolCall(arguments, number, call["id"], block),
            ToolCallEnded(call["id"], number, block),
        ]
    events += [FinalCandidate(0, "end_turn"), StreamEnd("end_turn")]
    reply = fold(CallsInText(TextTools(), hybrid=True).feed(events))
    calls = [TextCall(call.name, call.arguments) for call in reply.tool_calls]
    config = case.input.get("config", {})
    strict = ["lenient_parsing: a hybrid reads leniently"] if config.get("lenient_parsing") is False else []
    return _outcome(reply.content, calls) | {"!config": [*strict, *_unknown(config, "lenient_parsing")]}


def prompt(case: Case, bench: Bench) -> dict[str, Any]:
    """What a model is told."""
    config = case.input.get("config", {})
    tools = [ToolDefinition(tool["name"], tool.get("description")) for tool in case.input["tools"]]
    form = TextTools(prompt_level=config.get("prompt_level", "L2"))
    told = instructions(tools, form, locale=cast(Locale, config.get("locale", "en")))
    return {"prompt_contains": each_in(told), "!config": _unknown(config, "prompt_level", "locale")}


def _outcome(rest: str, calls: list[TextCall]) -> dict[str, Any]:
    def compare_text(expected: Any, path: str) -> Iterable[Difference]:
        if tidy(expected) != tidy(rest):
            yield Difference(path, expected, rest)

    return {
        "remaining_text": Check(compare_text),
        "tool_calls": [{"name": call.name, "arguments": call.arguments} for call in calls],
    }


def _unknown(config: dict[str, Any], *known: str) -> list[str]:
    return sorted(config.keys() - set(known))
