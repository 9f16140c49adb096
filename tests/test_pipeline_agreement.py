"""The printed rules over the view and the closures over plain JSON give the same events, whatever stands in a frame."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.types.events import StreamingEvent
from pipeline_support import delta, program, run

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "recorded"
APIS = {
    "openai_chat": "chat_completions",
    "openai_responses": "responses",
    "anthropic_messages": "messages",
    "gemini_generate": "generate_content",
    "ollama_chat": "ollama_chat",
}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 1}}
ITEM = {"type": "function_call", "id": "fc", "call_id": "c", "name": "go", "arguments": "{}"}
CALL = {"index": 0, "id": "c", "function": {"name": "go", "arguments": '{"x"'}}

START = {"type": "content_block_start"}
DONE = {"type": "response.output_item.done"}

# Frames that between them touch every rule of a dialect.
FRAMES: dict[str, list[Any]] = {
    "chat_completions": [
        {"id": "r", "model": "m", **delta(content="a", reasoning="b", refusal="c", tool_calls=[CALL])},
        {**delta(content=[{"type": "thinking", "thinking": [{"text": "t"}]}, {"type": "text", "text": "u"}])},
        {**delta(annotations=[{"type": "url_citation"}], images=[{"image_url": {"url": "https://x.example"}}])},
        {**delta(function_call={"name": "f", "arguments": "{}"}), "usage": USAGE, "x_groq": {"usage": USAGE}},
        {"choices": [{"index": 1, "message": {"content": "m"}, "finish_reason": "stop"}]},
        {"error": {"code": 400, "type": "t", "message": "m", "status": 400}},
    ],
    "messages": [
        {"type": "message_start", "message": {"id": "i", "model": "m", "usage": {"input_tokens": 1}}},
        {**START, "index": 0, "content_block": {"type": "tool_use", "id": "t", "name": "n", "input": {}}},
        {**START, "index": 1, "content_block": {"type": "thinking", "thinking": "x", "signature": "s"}},
        {**START, "index": 2, "content_block": {"type": "odd", "id": "o", "content": [1]}},
        {**START, "index": 3, "content_block": {"type": "compaction", "content": "c"}},
        {"type": "content_block_delta", "index": 0, "delta": {"partial_json": "{}", "text": "a", "citation": {"c": 1}}},
        {"type": "content_block_delta", "index": 3, "delta": {"content": "d", "thinking": "e", "signature": "f"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
        {"type": "error", "error": {"type": "e", "message": "m"}},
    ],
    "responses": [
        {"type": "response.created", "response": {"id": "r", "model": "m"}},
        {"type": "response.output_item.added", "output_index": 0, "item": ITEM},
        {"type": "response.output_item.added", "output_index": 1, "item": {"type": "odd_call", "id": "o"}},
        {"type": "response.output_text.delta", "output_index": 2, "content_index": 0, "delta": "a"},
        {"type": "response.output_text.annotation.added", "output_index": 2, "content_index": 0, "annotation": {}},
        {"type": "response.reasoning_summary_text.delta", "output_index": 3, "summary_index": 1, "delta": "s"},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{}"},
        {**DONE, "output_index": 0, "item": ITEM},
        {**DONE, "output_index": 1, "item": {"type": "odd_call", "id": "o", "output": "x"}},
        {**DONE, "output_index": 3, "item": {"type": "reasoning", "id": "r", "encrypted_content": "e"}},
        {**DONE, "output_index": 2, "item": {"type": "message", "id": "m", "content": [{"text": "a"}]}},
        {"type": "response.completed", "response": {"status": "completed", "usage": {"input_tokens": 1}}},
        {"type": "response.incomplete", "response": {"incomplete_details": {"reason": "max_output_tokens"}}},
    ],
    "generate_content": [
        {
            "modelVersion": "m", "responseId": "r",
            "usageMetadata": {"promptTokenCount": 1, "thoughtsTokenCount": 2},
            "candidates": [
                {
                    "index": 0, "finishReason": 1,
                    "groundingMetadata": {"groundingChunks": [{"web": {"uri": "u"}}]},
                    "content": {"parts": [
                        {"text": "a", "thought": True}, {"text": "b", "thoughtSignature": "s"},
                        {"functionCall": {"name": "n", "args": {"x": 1}}},
                        {"inlineData": {"mimeType": "image/png", "data": "A="}},
                        {"executableCode": {"code": "1"}}, {"codeExecutionResult": {"output": "1"}},
                    ]},
                }
            ],
        },
        {"promptFeedback": {"blockReason": "SAFETY"}},
        {"error": {"code": 429, "status": "S", "message": "m"}},
    ],
    "ollama_chat": [
        {"model": "m", "message": {"content": "a", "thinking": "b", "images": ["A="]}, "done": False},
        {"message": {"tool_calls": [{"id": "c", "function": {"name": "n", "arguments": {"x": 1}}}]}},
        {"done": True, "done_reason": "stop", "prompt_eval_count": 1, "eval_count": 2},
        {"error": "m"},
    ],
}  # fmt: skip
# Whole replies that between them touch every rule of a dialect's body.
BODIES: dict[str, list[Any]] = {
    "chat_completions": [
        {
            "id": "r", "model": "m", "usage": USAGE, "x_groq": {"usage": USAGE},
            "choices": [
                {
                    "index": 0, "finish_reason": "tool_calls",
                    "message": {
                        "content": "a", "reasoning": "b", "refusal": "c", "tool_calls": [CALL, CALL],
                        "annotations": [{"type": "url_citation", "url": "u"}],
                        "images": [{"image_url": {"url": "data:image/png;base64,A="}}],
                    },
                },
                {"index": 1, "message": {"content": [{"type": "text", "text": "u"}]}, "finish_reason": "length"},
            ],
        },
        {"error": {"code": 400, "type": "t", "message": "m", "status": 400}},
    ],
    "messages": [
        {
            "id": "i", "model": "m", "type": "message", "stop_reason": "tool_use",
            "usage": {"input_tokens": 1, "output_tokens": 2, "cache_read_input_tokens": 3},
            "content": [
                {"type": "thinking", "thinking": "x", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                {"type": "text", "text": "a", "citations": [{"type": "c", "cited_text": "t"}]},
                {"type": "server_tool_use", "id": "q", "name": "web_search", "input": {"query": "z"}},
                {"type": "web_search_tool_result", "tool_use_id": "q", "content": [{"url": "u"}]},
                {"type": "tool_use", "id": "t", "name": "n", "input": {"x": 1}},
                {"type": "odd", "content": "c"},
            ],
        },
        {"type": "error", "error": {"type": "e", "message": "m"}},
    ],
    "responses": [
        {
            "id": "r", "model": "m", "status": "completed",
            "usage": {
                "input_tokens": 1, "output_tokens": 2, "total_tokens": 3,
                "input_tokens_details": {"cached_tokens": 1}, "output_tokens_details": {"reasoning_tokens": 1},
            },
            "output": [
                {"type": "reasoning", "id": "q", "summary": [{"text": "s"}], "encrypted_content": "e"},
                {"type": "web_search_call", "id": "w", "action": {"query": "z"}},
                {
                    "type": "message", "id": "m", "phase": "final",
                    "content": [
                        {"type": "output_text", "text": "a", "annotations": [{"url": "u"}]},
                        {"type": "refusal", "refusal": "no"},
                    ],
                },
                ITEM,
            ],
        },
        {"status": "failed", "error": {"code": "c", "message": "m"}},
    ],
    "converse": [
        {
            "output": {
                "message": {
                    "role": "assistant",
                    "content": [
                        {"text": "a"},
                        {"reasoningContent": {"reasoningText": {"text": "b", "signature": "s"}}},
                        {"toolUse": {"toolUseId": "t", "name": "n", "input": {"x": 1}}},
                    ],
                }
            },
            "stopReason": "tool_use",
            "usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3},
        },
    ],
    "cohere_v2_chat": [
        {
            "id": "i", "finish_reason": "TOOL_CALL",
            "message": {
                "content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "b"}], "tool_plan": "p",
                "tool_calls": [CALL], "citations": [{"start": 0, "text": "a"}],
            },
            "usage": {"tokens": {"input_tokens": 1, "output_tokens": 2}},
        },
    ],
    "generate_content": FRAMES["generate_content"],
    "ollama_chat": [{**FRAMES["ollama_chat"][0], **FRAMES["ollama_chat"][2]}, *FRAMES["ollama_chat"][1:]],
}  # fmt: skip
ODD = [
    None,
    True,
    False,
    0,
    1,
    -1,
    1.5,
    10**20,
    "",
    "x",
    "text",
    "tool_use",
    [],
    [None],
    ["x"],
    {},
    {"type": "text"},
    [{"text": "y"}],
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        found += places(inner, (*path, key))
    return found


def changed(frame: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    out = copy.copy(frame)
    out[path[0]] = changed(frame[path[0]], path[1:], value)
    return out


def both(dialect: str, frames: list[Any], *, whole: bool = False) -> list[StreamingEvent]:
    """The events, after both backends gave the same."""
    if whole:
        data = json.dumps(frames[0]).encode()
    elif dialect == "ollama_chat":
        data = "".join(json.dumps(frame) + "\n" for frame in frames).encode()
    else:
        data = "".join(f"data: {json.dumps(frame)}\n\n" for frame in frames).encode()
    results = []
    for backend in ("view", "generic"):
        kind: dict[str, Any] = {"content_type": "application/json", "streamed": False} if whole else {}
        pipeline = program(dialect).open(backend=backend, **kind)
        results.append((run(pipeline, data), pipeline.counts, pipeline.body))
    assert results[0] == results[1]
    assert not whole or results[0][2] == frames[0]
    return results[0][0]


@pytest.mark.parametrize("dialect", FRAMES)
def test_every_frame_with_any_node_replaced_gives_the_same_events(dialect: str) -> None:
    frames = FRAMES[dialect]
    chance = random.Random(dialect)
    for number, frame in enumerate(frames):
        for path in places(frame):
            for value in (None, *chance.sample(ODD, k=4)):
                both(dialect, [*frames[:number], changed(frame, path, value), *frames[number + 1 :]])
                both(dialect, [changed(frame, path, value)])


@pytest.mark.parametrize("dialect", BODIES)
def test_every_whole_reply_with_any_node_replaced_gives_the_same_events_and_its_value(dialect: str) -> None:
    chance = random.Random(dialect)
    for value in BODIES[dialect]:
        both(dialect, [value], whole=True)
        both(dialect, [[value, value]], whole=True)  # a list counts as its elements
        for path in places(value):
            for other in (None, *chance.sample(ODD, k=6)):
                both(dialect, [changed(value, path, other)], whole=True)


@pytest.mark.parametrize("dialect", BODIES)
def test_a_whole_reply_that_needs_the_second_reader_gives_the_same_events_and_its_value(dialect: str) -> None:
    for value in BODIES[dialect]:
        for path in places(value)[1:]:
            both(dialect, [changed(value, path, "half a pair: \ud83d")], whole=True)


KEYS = st.sampled_from(
    [
        "type",
        "index",
        "delta",
        "text",
        "content",
        "choices",
        "message",
        "candidates",
        "parts",
        "item",
        "id",
        "error",
        "output",
    ]
)
VALUES = st.recursive(
    st.sampled_from(ODD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_frame_with_any_value_anywhere_gives_the_same_events(data: st.DataObject) -> None:
    dialect = data.draw(st.sampled_from(sorted(FRAMES)))
    frames = data.draw(st.lists(st.sampled_from(FRAMES[dialect]), min_size=1, max_size=4))
    number = data.draw(st.integers(0, len(frames) - 1))
    path = data.draw(st.sampled_from(places(frames[number])))
    frames = [*frames[:number], changed(frames[number], path, data.draw(VALUES)), *frames[number + 1 :]]
    both(dialect, frames)
    both(dialect, frames[:1], whole=True)


@pytest.mark.skipif(not (RECORDED / "INDEX.json").exists(), reason="no recorded replies beside the checkout")
@pytest.mark.parametrize("api", APIS)
def test_recorded_bodies_with_a_node_replaced_give_the_same_events(api: str) -> None:
    chance = random.Random(api)
    for path in sorted((RECORDED / "cases" / api).glob("*.json"))[:25]:
        text = json.loads(path.read_text("utf-8"))["response"]["body"].get("text", "")
        if not text.startswith("{") or "\n{" in text or len(text) > 5000:
            continue
        value = json.loads(text)
        for place in chance.sample(places(value), k=min(8, len(places(value)))):
            both(APIS[api], [changed(value, place, chance.choice(ODD))], whole=True)
