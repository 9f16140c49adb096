"""Every shape of expression that the specification's manifests use: one meaning, whichever executor runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import ManifestError
from ai_lib_trio.pipeline import compile_decoder
from ai_lib_trio.protocol.event_rules import relative_condition, translate
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.paths import parse_path, scope_getter
from ai_lib_trio.protocol.rules import compile_condition, parse_condition
from ai_lib_trio.protocol.where import Where
from ai_lib_trio.types.events import PartialContentDelta
from ai_lib_trio.wire.template import compile_template

HERE = Where("a case")
Executor = Callable[[str, Any], bool]


def over_values(text: str, frame: Any) -> bool:
    return compile_condition(parse_condition(text, HERE), scope_getter)({"": frame})


def in_rules(backend: str) -> Executor:
    def holds(text: str, frame: Any) -> bool:
        rule = {"match": text, "emit": "PartialContentDelta", "extract": {"content": "yes"}}
        tree = {"framing": {"format": "ndjson"}, "complete_when": ["eof"], "rules": {"one": rule}}
        pipeline = compile_decoder(tree, HERE).open(backend=backend)
        events = [*pipeline.feed(json.dumps(frame).encode() + b"\n"), *pipeline.finish()]
        return any(isinstance(event, PartialContentDelta) for event in events)

    return holds


def in_templates(text: str, frame: Any) -> bool:
    return bool(compile_template({"$if": text, "then": True, "else": False}, HERE)({"": frame}))


EXECUTORS: dict[str, Executor] = {
    "values": over_values,
    "view": in_rules("view"),
    "plain": in_rules("generic"),
    "template": in_templates,
}

# Shape -> a condition as manifests write it, frames that it holds for, and frames that it does not hold for.
SHAPES: dict[str, tuple[str, list[Any], list[Any]]] = {
    "equality with a text in quotes": (
        "$.type == 'message_stop'",
        [{"type": "message_stop"}],
        [{"type": "ping"}, {"type": None}, {"type": ["message_stop"]}, {}],
    ),
    "equality with a boolean": (
        "$.is_end == true",
        [{"is_end": True}],
        [{"is_end": "true"}, {"is_end": 1}, {"is_end": False}, {}],
    ),
    "not null": (
        "$.choices[0].finish_reason != null",
        [{"choices": [{"finish_reason": "stop"}]}, {"choices": [{"finish_reason": ""}]}],
        [{"choices": [{"finish_reason": None}]}, {"choices": [{}]}, {"choices": []}, {}],
    ),
    "not null over a wildcard": (
        "$.choices[*].finish_reason != null",
        [{"choices": [{"finish_reason": None}, {"finish_reason": "stop"}]}],
        [{"choices": [{"finish_reason": None}, {}]}, {"choices": []}, {"choices": {}}, {}],
    ),
    "exists": ("exists($.usage)", [{"usage": {}}, {"usage": 0}, {"usage": ""}], [{"usage": None}, {}]),
    "exists over two wildcards": (
        "exists($.choices[*].delta.tool_calls[*].function.name)",
        [
            {"choices": [{"delta": {}}, {"delta": {"tool_calls": [{}, {"function": {"name": "look"}}]}}]},
            {"choices": [{"delta": {"tool_calls": [{"function": {"name": ""}}]}}]},
        ],
        [{"choices": [{"delta": {"tool_calls": [{"function": {"name": None}}]}}]}, {"choices": [{"delta": None}]}, {}],
    ),
    "negated exists": (
        "exists($.id) && !exists($.image)",
        [{"id": "a"}, {"id": "a", "image": None}],
        [{"id": "a", "image": "x"}, {"image": "x"}, {}],
    ),
    "conjunction": (
        "$.type == 'content_block_delta' && $.delta.type == 'text_delta'",
        [{"type": "content_block_delta", "delta": {"type": "text_delta"}}],
        [{"type": "content_block_delta", "delta": {"type": "x"}}, {"delta": {"type": "text_delta"}}, {"delta": 1}],
    ),
    "disjunction": (
        "exists($.choices) || exists($.error) || $.type == 'error'",
        [{"choices": []}, {"error": {}}, {"type": "error"}],
        [{"type": "x"}, {"error": None}],
    ),
    "a mix without parentheses": (
        "exists($.image) || exists($.artifacts) || exists($.finish) && $.finish == 'complete'",
        [{"image": 1}, {"artifacts": []}, {"finish": "complete"}],
        [{"finish": "half"}, {}],
    ),
    "membership": (
        "$.type in ['message_start', 'ping']",
        [{"type": "ping"}],
        [{"type": "pong"}, {"type": None}, {"type": {}}, {}],
    ),
    "a bare path": (
        "$.choices[0].delta.content",
        [{"choices": [{"delta": {"content": "a"}}]}, {"choices": [{"delta": {"content": ""}}]}],
        [{"choices": [{"delta": {}}]}, {"choices": [{"delta": {"content": None}}]}, {"choices": {"0": 1}}],
    ),
    "a numeric comparison": ("$.length > 0", [{"length": 1}, {"length": 0.5}], [{"length": 0}, {"length": "1"}, {}]),
    "a text without single quotes": ('$.type == "it\'s"', [{"type": "it's"}], [{"type": "its"}]),
    "parentheses": ("($.a || $.b) && !($.c == 1)", [{"a": 1}, {"b": 1, "c": True}], [{"a": 1, "c": 1}, {"c": 2}]),
    "equality with null": ("$.a == null", [{}, {"a": None}], [{"a": 0}, {"a": ""}]),
    "a negated wildcard": ("!exists($.a[*].b)", [{"a": [{}]}, {}, {"a": []}], [{"a": [{}, {"b": 0}]}]),
    "a filter inside of the path": (
        "exists($.content[?(@.type=='text')].text)",
        [{"content": [{"type": "x"}, {"type": "text", "text": "a"}]}],
        [{"content": [{"type": "text"}]}, {"content": []}, {}],
    ),
    "descent": ("exists($..name)", [{"a": [{"b": {"name": 1}}]}], [{"a": [{"b": {}}]}, {}]),
}


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_condition_means_the_same_wherever_it_runs(shape: str, executor: str) -> None:
    text, yes, no = SHAPES[shape]
    for frame in yes:
        assert EXECUTORS[executor](text, frame), frame
    for frame in no:
        assert not EXECUTORS[executor](text, frame), frame


VALUES = st.recursive(
    st.sampled_from([None, True, False, 0, 1, 1.5, "", "a", "b", "true", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=8,
)
ATOMS = st.sampled_from(
    ["$.a", "exists($.a.b)", "$.a == 'a'", "$.a != 1", "$.b == true", "$.a[*].b == 'a'", "exists($.a[*].b[*].c)",
     "$.a[0] != null", "$.a in ['a', 1, true, null]", "$.b < 1", "$.b >= 'a'", "$.a[*] == null"]
)  # fmt: skip
CONDITIONS = st.recursive(
    ATOMS,
    lambda inner: (
        st.tuples(inner, st.sampled_from(["&&", "||"]), inner).map(lambda three: f"({' '.join(three)})")
        | inner.map(lambda one: f"!({one})")
    ),
    max_leaves=5,
)


@settings(max_examples=100, deadline=None)
@given(CONDITIONS, st.dictionaries(st.sampled_from(["a", "b"]), VALUES, max_size=2))
def test_all_executors_agree_on_any_condition_over_any_frame(text: str, frame: dict[str, Any]) -> None:
    assert len({holds(text, frame) for holds in EXECUTORS.values()}) == 1


@pytest.mark.parametrize(
    ("text", "yes", "no"),
    [
        ("type == 'tool_use'", {"type": "tool_use"}, {"type": "text"}),
        ("exists(functionCall)", {"functionCall": {}}, {"functionCall": None}),
        ("type in ['a', 'b'] && input.at != null", {"type": "a", "input": {"at": 0}}, {"type": "a", "input": {}}),
        ('type == "type"', {"type": "type"}, {"type": "x"}),
    ],
)
def test_a_filter_speaks_of_each_element(text: str, yes: Any, no: Any) -> None:
    for condition in (
        parse_condition(text, HERE, relative="e"),
        parse_condition(relative_condition(text, "e", HERE), HERE),
    ):
        holds = compile_condition(condition, scope_getter)
        assert holds({"e": yes})
        assert not holds({"e": no})


@pytest.mark.parametrize(
    ("path", "frame", "value"),
    [
        ("$.a.b", {"a": {"b": 1}}, 1),
        ("$.a[0].b", {"a": [{"b": 1}]}, 1),
        ("$.a[0].b[0].c", {"a": [{"b": [{"c": 1}]}]}, 1),
        ("$.a[*].b", {"a": [{"b": 1}, {}, {"b": 2}]}, [1, None, 2]),
        ("$.a[*].b[*].c", {"a": [{"b": [{"c": 1}]}, {"b": [{"c": 2}, {"c": 3}]}]}, [1, 2, 3]),
        ("$.choices.0.message.content", {"choices": [{"message": {"content": "a"}}]}, "a"),
        ("$.content[?(@.type=='text')].text", {"content": [{"type": "text", "text": "a"}]}, ["a"]),
        (
            "$.candidates[0].content.parts[?(@.text)].text",
            {"candidates": [{"content": {"parts": [{"text": "a"}, {}]}}]},
            ["a"],
        ),
        ("$..b", {"a": [{"b": 1}, {"b": 2}]}, [1, 2]),
        ("$.a.b", {"a": "text"}, None),
        ("$.a[3]", {"a": [1]}, None),
    ],
)  # fmt: skip
def test_every_shape_of_a_path_gives_what_it_says(path: str, frame: Any, value: Any) -> None:
    assert scope_getter(parse_path(path, HERE))({"": frame}) == value


# ---- in manifests of the specification


def translated(*rules: dict[str, Any]) -> tuple[Any, list[str]]:
    notes: list[str] = []
    where = Where("acme.yaml", None, ("streaming", "event_map"))
    done = translate(
        list(rules),
        where,
        usage_names={},
        candidate_path=None,
        fan_out=False,
        selector=None,
        notes=notes,
        verbatim=True,
    )
    return done, notes


def test_constants_in_the_place_of_paths_are_themselves_and_a_made_id_is_no_value() -> None:
    done, notes = translated(
        {"match": "$.a", "emit": "StreamEnd", "extract": {"finish_reason": "end_turn", "why": "$.a"}}
    )
    assert notes == []
    (rule,) = done.rules.values()
    assert rule["extract"]["data"] == {"finish_reason": "end_turn", "why": "$.a"}


def test_a_condition_without_meaning_is_a_note_at_its_column_and_the_rule_goes_by_its_values() -> None:
    done, notes = translated({"match": "length > 0", "emit": "PartialContentDelta", "extract": {"content": "$.text"}})
    assert "match" not in next(iter(done.rules.values()))
    assert len(notes) == 1
    assert (
        "streaming.event_map[0].match: expected a path that begins with '$' at column 1, got 'length > 0'" in notes[0]
    )


@pytest.mark.parametrize(
    ("match", "column"),
    [
        ("$.type == 'a", 11),
        ("$.type === 'a'", 10),
        ("$.type == a", 11),
        ("exists($.a", 11),
        ("$.a && ", 8),
        ("$.a in 'x'", 8),
        ("$.a =~ /x/", 5),
        ("($.a || $.b", 12),
        ("!", 2),
    ],
)
def test_a_mistake_points_at_its_line_and_column(tmp_path: Path, match: str, column: int) -> None:
    path = tmp_path / "acme.yaml"
    path.write_text(
        "id: acme\nprotocol_version: '2.0'\nendpoint: {base_url: 'https://acme.example'}\ncapabilities: {}\n"
        "api_families:\n  chat:\n    dialect: chat_completions\n    decode:\n      rules:\n        mine:\n"
        f"          match: {json.dumps(match)}\n          emit: PartialContentDelta\n"
        "          extract: {content: $.a}\n"
    )
    family = Catalog.open(path, environ={}).provider("acme").family()
    with pytest.raises(ManifestError) as caught:
        compile_decoder(family.decode, family.where.at("decode"))
    assert (caught.value.file, caught.value.line) == (str(path), 11)
    assert f"at column {column}, got" in str(caught.value)
    assert "decode.rules.mine.match" in caught.value.path
