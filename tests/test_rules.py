"""Conditions: one grammar, one meaning."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import ManifestError
from ai_lib_trio.protocol.paths import Path, scope_getter
from ai_lib_trio.protocol.rules import And, Exists, Not, Or, compile_condition, parse_condition, paths_of
from ai_lib_trio.protocol.where import Where

WHERE = Where("acme.yaml", None, ("decode", "rules", "text", "match"))
FRAME = {
    "type": "delta",
    "done": True,
    "n": 3,
    "f": 1.5,
    "one": 1,
    "empty": "",
    "zero": 0,
    "no": False,
    "null": None,
    "obj": {},
    "choices": [{"finish_reason": None, "x": 1}, {"finish_reason": "stop"}, {}],
    "calls": [{"f": [{"name": None}]}, {"f": [{}, {"name": "go"}]}],
}


def holds(text: str, frame: Any = FRAME, **names: Any) -> bool:
    return compile_condition(parse_condition(text, WHERE), scope_getter)({"": frame, **names})


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("$.type == 'delta'", True),
        ("$.type == 'other'", False),
        ('$.type == "delta"', True),
        ("$.type != 'other'", True),
        ("$.missing != 'other'", True),
        ("$.missing == null", True),
        ("$.null == null", True),
        ("$.null != null", False),
        ("$.type != null", True),
        ("$.done == true", True),
        ("$.done != true", False),
        ("$.missing != true", True),
        ("$.done == 'true'", False),
        ("$.done == 1", False),
        ("$.one == true", False),
        ("$.one == 1.0", True),
        ("$.n > 2", True),
        ("$.n >= 3", True),
        ("$.n < 3", False),
        ("$.f <= 1.5", True),
        ("$.done > 0", False),
        ("$.type > 'a'", True),
        ("$.type > 1", False),
        ("$.missing < 1", False),
        ("$.type in ['a', 'delta']", True),
        ("$.n in [1, 2, 3]", True),
        ("$.done in [1, 'true']", False),
        ("$.obj in ['a']", False),
        ("$.null in [null]", True),
        # exists: present and not null; a bare path means the same
        ("exists($.empty)", True),
        ("exists($.zero)", True),
        ("exists($.no)", True),
        ("exists($.obj)", True),
        ("exists($.null)", False),
        ("!exists($.missing)", True),
        ("$.no", True),
        ("!$.missing", True),
        # any element under a wildcard
        ("$.choices[*].finish_reason != null", True),
        ("$.choices[*].finish_reason == 'stop'", True),
        ("$.choices[*].finish_reason == 'length'", False),
        ("exists($.choices[*].x)", True),
        ("exists($.calls[*].f[*].name)", True),
        ("$.choices[*].finish_reason == null", True),
        ("exists($.missing[*].x)", False),
        ("exists($..name)", True),
        # precedence: && binds tighter; parentheses and ! nest
        ("$.type == 'delta' || $.missing && $.missing", True),
        ("($.type == 'delta' || $.missing) && $.missing", False),
        ("!($.type in ['a', 'b'])", True),
        ("!!exists($.type)", True),
        ("exists($.type) && exists($.n) && exists($.missing)", False),
        ("exists($.missing) || exists($.null) || exists($.n)", True),
    ],
)
def test_a_condition_holds_by_its_one_meaning(text: str, truth: bool) -> None:
    assert holds(text) is truth


def test_conditions_see_bound_names_and_positions() -> None:
    assert holds("$k.type == 'text' && $k# > 0", k={"type": "text"}, **{"k#": 2})


def test_relative_paths_are_read_at_the_name_given() -> None:
    cond = parse_condition("type == 'tool_use' && exists(functionCall)", WHERE, relative="it")
    assert list(paths_of(cond)) == [Path("it", ("type",)), Path("it", ("functionCall",))]


def test_conditions_parse_to_the_tree_that_was_written() -> None:
    a, b, c = (Exists(Path("", (name,))) for name in "abc")
    assert parse_condition("$.a||$.b&&$.c", WHERE) == Or((a, And((b, c))))


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("", 1),
        ("$.a ==", 7),
        ("$.a = 1", 5),
        ("$.a == b", 8),
        ("$.a == 'b", 8),
        ("type == 'b'", 1),
        ("exists $.a", 1),
        ("exists($.a", 11),
        ("($.a", 5),
        ("$.a &&", 7),
        ("$.a in []", 9),
        ("$.a in ['b'", 12),
        ("$.a in 'b'", 8),
        ("$.a == 'b' $.c", 12),
        ("!" * 5000 + "$.a", 34),
        ("(" * 5000 + "$.a" + ")" * 5000, 34),
        ("$.a == " + "1" * 5000, 8),
        ("$.a in [" + "1" * 5000 + "]", 9),
    ],
)
def test_a_mistake_is_refused_at_its_column(text: str, column: int) -> None:
    with pytest.raises(ManifestError, match=rf"decode\.rules\.text\.match: .* at column {column}, got"):
        parse_condition(text, WHERE)


def test_many_brackets_beside_one_another_are_no_depth() -> None:
    assert parse_condition(" && ".join(["!($.a)"] * 100), WHERE) == And((Not(Exists(Path("", ("a",)))),) * 100)


def test_a_condition_that_is_no_text_is_refused() -> None:
    with pytest.raises(ManifestError, match="expected a condition as text, got True"):
        parse_condition(True, WHERE)  # type: ignore[arg-type]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["$.a", "$.b[*].c", "==", "!=", "in", "['x']", "'x'", "1", "&&", "||", "!", "(", ")"])))
def test_any_row_of_words_is_a_condition_or_a_manifest_error(words: list[str]) -> None:
    try:
        cond = parse_condition(" ".join(words), WHERE)
    except ManifestError:
        return
    for frame in ({}, {"a": "x", "b": [{"c": 1}]}, [], "x", None):
        assert holds(" ".join(words), frame) in (True, False)
    assert list(paths_of(cond))
