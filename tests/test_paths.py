"""Paths: one grammar, errors at the column, getters that agree with jsonpath-ng where both apply."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonpath_ng.ext import parse as parse_jsonpath

from ai_lib_trio.errors import ManifestError
from ai_lib_trio.protocol.paths import (
    WILD,
    Path,
    compile_query,
    compile_steps,
    is_path,
    parse_path,
    scope_getter,
    unescape,
)
from ai_lib_trio.protocol.where import Where

WHERE = Where("acme.yaml", {("decode", "rules"): ("acme.yaml", 7)}, ("decode", "rules", "text"))


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("$", Path("")),
        ("$.a.b", Path("", ("a", "b"))),
        ("$.choices[0].delta", Path("", ("choices", 0, "delta"))),
        ("$.choices.0.message.content", Path("", ("choices", 0, "message", "content"))),
        ("$.choices[*].delta.tool_calls[*].id", Path("", ("choices", WILD, "delta", "tool_calls", WILD, "id"))),
        ("$x", Path("x")),
        ("$x.a", Path("x", ("a",))),
        ("$call#", Path("call", (), True)),
        ("$header.x-amzn-errortype", Path("header", ("x-amzn-errortype",))),
        ("$.'odd key'.b", Path("", ("odd key", "b"))),
        ("$['odd key'][2]", Path("", ("odd key", 2))),
        ('$["a"]', Path("", ("a",))),
        ("  $.a  ", Path("", ("a",))),
    ],
)
def test_a_path_parses_to_its_root_and_steps(text: str, path: Path) -> None:
    assert parse_path(text, WHERE) == path


@pytest.mark.parametrize("text", ["$..usage", "$.content[?(@.type=='text')].text", "$.a[1:3].b", "$.a[-1]"])
def test_what_the_grammar_cannot_say_is_left_to_jsonpath_ng(text: str) -> None:
    path = parse_path(text, WHERE)
    assert path.query
    assert path.is_wild


def test_quoted_texts_of_a_filter_may_hold_what_paths_may_not() -> None:
    path = parse_path("$.a[?(@.b == '=~ .. ..')].c", WHERE)
    assert compile_query(path.query)({"a": [{"b": "=~ .. ..", "c": 1}]}) == [1]


@pytest.mark.parametrize("query", ["$.a[?(@.b > 1)].c", "$.a[?(@.b & @.c)]"])
def test_a_filter_over_values_that_it_cannot_compare_finds_nothing_and_does_not_raise(query: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # jsonpath-ng would rather have `&&`
        path = parse_path(query, WHERE)
        for value in ([{"b": None}, {"b": "x"}, 5], {"b": {}}, "x", None):
            assert scope_getter(path)({"": {"a": value}}) == []


def test_a_filter_finds_what_it_says() -> None:
    path = parse_path("$.content[?(@.type=='text')].text", WHERE)
    frame = {"content": [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]}
    assert scope_getter(path)({"": frame}) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("a.b", 1, "begins with '$'"),
        ("$.", 3, "a key"),
        ("$.a.", 5, "a key"),
        ("$.a b", 5, "end of the path"),
        ("$.a[", 5, "an index"),
        ("$.a[x]", 5, "an index"),
        ("$.a[1", 6, "']'"),
        ("$x#.a", 4, "end of the path"),
        ("$.a#", 4, "end of the path"),
        ("$.a[?(@.x==)]", 1, "jsonpath-ng"),
        ("$.a[" + "1" * 5000 + "]", 5, "an index"),
        ("$." + "1" * 5000, 3, "an index"),
        ("$" + ".a" * 65, 1, "at most 64 steps"),
        ("$..a..b", 1, "`..` once"),
        ("$.a[?(@..x[?(@..y)])]", 1, "`..` once"),
        ("$.a[?(@.x =~ '(a+)+$')].b", 1, "without a pattern"),
        ("$.a[?" + "(" * 500 + "@.b" + ")" * 500 + "]", 1, "at most 200 characters"),
    ],
)
def test_a_mistake_is_refused_with_its_place_and_column(text: str, column: int, expected: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_path(text, WHERE)
    message = str(caught.value)
    assert "acme.yaml:7 at decode.rules.text" in message
    assert f"at column {column}" in message
    assert expected in message


def test_a_path_without_a_dollar_is_relative_where_a_name_is_given() -> None:
    assert parse_path("type", WHERE, relative="it") == Path("it", ("type",))
    assert parse_path("@.a[0]", WHERE, relative="it") == Path("it", ("a", 0))
    assert parse_path("functionCall.name", WHERE, relative="it") == Path("it", ("functionCall", "name"))


def test_two_dollars_are_a_literal() -> None:
    assert is_path("$.a")
    assert not is_path("$$.a")
    assert not is_path(3)
    assert unescape("$$.a") == "$.a"
    assert unescape("a") == "a"


@pytest.mark.parametrize(
    ("value", "steps", "found"),
    [
        ({"a": {"b": 1}}, ("a", "b"), 1),
        ({"a": None}, ("a",), None),
        ({"a": None}, ("a", "b"), None),
        ({}, ("a", "b", "c"), None),
        ([1, 2], (1,), 2),
        ([1, 2], (2,), None),
        ({"0": "x"}, (0,), None),
        ("text", ("a",), None),
        ("text", (0,), None),
        ({"a": ""}, ("a",), ""),
        ({"a": []}, ("a",), []),
        ({"a": [{"b": 1}, {}, 3]}, ("a", WILD, "b"), [1, None, None]),
        ({"a": {"b": 1}}, ("a", WILD, "b"), []),
        ({"a": [{"b": [{"c": 1}, {"c": 2}]}, {"b": 3}, {"b": [{}]}]}, ("a", WILD, "b", WILD, "c"), [1, 2, None]),
    ],
)
def test_absent_null_and_a_wrong_shape_are_all_nothing(value: Any, steps: tuple[Any, ...], found: Any) -> None:
    assert compile_steps(steps)(value) == found


def test_a_path_prints_as_it_is_written() -> None:
    for text in ("$", "$.a[0].b", "$x.a[*].b", "$x#", "$.'odd key'"):
        assert str(parse_path(text, WHERE)) == text


KEYS = st.sampled_from(["a", "b", "index", "type", "x-y"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)
STEPS = st.lists(KEYS | st.integers(0, 2), min_size=1, max_size=4)


@settings(max_examples=200, deadline=None)
@given(VALUES, STEPS)
def test_simple_paths_agree_with_jsonpath_ng(value: Any, steps: list[Any]) -> None:
    text = "$" + "".join(f"[{step}]" if isinstance(step, int) else f".'{step}'" for step in steps)
    ours = scope_getter(parse_path(text, WHERE))({"": value})
    plain = value
    for step in steps:  # jsonpath-ng reads a scalar as a list of itself; there we say nothing
        wrong = not isinstance(plain, list) if isinstance(step, int) else not isinstance(plain, dict)
        if wrong:
            assert ours is None
            return
        plain = (plain[step] if step < len(plain) else None) if isinstance(step, int) else plain.get(step)
    theirs = [match.value for match in parse_jsonpath(text).find(value)]
    assert ours == (theirs[0] if theirs else None)
    assert type(ours) is type(theirs[0] if theirs else None)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="$.[]*'ab0# @?()=:-", max_size=12))
def test_any_text_is_a_path_or_a_manifest_error(text: str) -> None:
    try:
        path = parse_path(text, WHERE)
    except ManifestError:
        return
    scope_getter(path)({"": {"a": [{"b": 1}]}, "a": {}})
