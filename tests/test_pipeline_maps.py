"""Maps gone through entry by entry, and frames inside frames: both backends give the same, whatever stands there."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import ManifestError
from ai_lib_trio.pipeline import DecodeProgram, compile_decoder
from ai_lib_trio.protocol.where import Where
from ai_lib_trio.types.events import StreamError, StreamingEvent
from ai_lib_trio.types.response import fold
from pipeline_support import run

WHERE = Where("d.yaml", {(): ("d.yaml", 1)})
CALLS = {
    "framing": {"format": "ndjson"},
    "complete_when": ["eof"],
    "rules": {
        "calls": {
            "for_each": {"c": {"$entries": "$.calls"}},
            "emit": "ToolCall",
            "extract": {"index": "$c.key", "tool_call_id": "$c.key", "tool_name": "$c.value.do", "input": "$c.value.w"},
        },
        "text": {"for_each": {"t": "$.words"}, "emit": "PartialContentDelta", "extract": {"content": "$t.w"}},
    },
}  # fmt: skip


def both(tree: Any, data: bytes, **opened: Any) -> list[StreamingEvent]:
    program: DecodeProgram = compile_decoder(tree, WHERE)
    events, reference = (run(program.open(backend=backend, **opened), data) for backend in ("view", "generic"))
    assert events == reference
    return events


def test_a_map_of_calls_is_gone_through_in_its_order() -> None:
    frame = {"calls": {"b": {"do": "go", "w": {"x": 1}}, "a": {"do": "stop"}}, "words": [{"w": "hi"}]}
    response = fold(both(CALLS, json.dumps(frame).encode()))
    assert [(call.id, call.name, call.arguments) for call in response.tool_calls] == [
        ("b", "go", {"x": 1}),
        ("a", "stop", {}),
    ]
    assert response.content == "hi"


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["do", "w", "a"]), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.fixed_dictionaries({"calls": JSON, "words": JSON}), max_size=3))
def test_whatever_stands_in_place_of_a_map_both_backends_agree(frames: list[Any]) -> None:
    both(CALLS, "".join(json.dumps(frame) + "\n" for frame in frames).encode())


@pytest.mark.parametrize(
    "source", [{"$entries": "$.a[*]"}, {"$entries": 1}, {"$each": "$.a"}, {"$entries": "$.a", "more": 1}]
)
def test_entries_are_of_one_path(source: Any) -> None:
    tree = {"rules": {"x": {"for_each": {"c": source}, "emit": "Citation", "extract": {"data": "$c"}}}}
    with pytest.raises(ManifestError):
        compile_decoder(tree, WHERE)


WRAPPED = {
    "framing": {"format": "ndjson", "unwrap": "bytes"},
    "complete_when": ["mark"],
    "error": {"match": "exists($.message)", "extract": {"message": "$.message"}},
    "rules": {
        "text": {"emit": "PartialContentDelta", "extract": {"content": "$.text"}},
        "end": {"match": "$.end == true", "emit": "Complete"},
    },
}


def wrapped(value: Any) -> Any:
    return {"bytes": base64.b64encode(json.dumps(value).encode()).decode(), "p": "abc"}


def lines(*frames: Any) -> bytes:
    return "".join(json.dumps(frame) + "\n" for frame in frames).encode()


def test_a_frame_may_hold_the_frame_that_is_meant() -> None:
    data = lines(wrapped({"text": "a"}), wrapped({"text": "ü"}), wrapped({"end": True}))
    response = fold(both(WRAPPED, data, content_type="application/x-ndjson"))
    assert response.content == "aü"


def test_a_frame_that_holds_none_speaks_for_itself() -> None:
    data = lines(wrapped({"text": "a"}), {"message": "the model fell over"})
    fault = both(WRAPPED, data)[-1]
    assert isinstance(fault, StreamError)
    assert (fault.kind, fault.message) == ("provider", "the model fell over")


@pytest.mark.parametrize("held", ["%", "bm90IGpzb24=", 1, None])
def test_a_frame_that_cannot_be_unwrapped_is_a_fault_or_nothing(held: Any) -> None:
    fault = both(WRAPPED, lines({"bytes": held}))[-1]
    assert isinstance(fault, StreamError)
    assert fault.kind in ("unreadable_frame", "truncated")
