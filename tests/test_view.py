"""The pruned view: a decoder that reads only what rules name, fails no JSON, and agrees with plain JSON."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.protocol.paths import parse_path
from ai_lib_trio.protocol.view import Node, access, decoder_of
from ai_lib_trio.protocol.where import Where

WHERE = Where("acme.yaml")
PATHS = [
    "$.a",
    "$.a.b",
    "$.a.index",
    "$.list[1].x",
    "$.list[*].x",
    "$.list[*].y[*].z",
    "$.deep.er.still",
    "$.'odd key'",
]


def view(*texts: str) -> tuple[Node, msgspec.json.Decoder[Any]]:
    root = Node()
    for text in texts:
        root.along(parse_path(text, WHERE).steps)
    return root, decoder_of(root)


def test_what_no_path_names_is_not_kept() -> None:
    root, decoder = view("$.a.b")
    frame = decoder.decode(b'{"a": {"b": 1, "c": 2}, "d": [1, 2, 3]}')
    assert [type(frame).__struct_fields__, type(frame.f0).__struct_fields__] == [("f0",), ("f0",)]
    assert access(parse_path("$.a.b", WHERE), 0, root)([frame]) == 1


@pytest.mark.parametrize("value", [1, 1.5, "t", True, None, [], [1], {}, {"b": []}, [[{}]], 10**30, -0.0, ""])
def test_no_json_value_fails_the_view_at_any_place(value: Any) -> None:
    root, decoder = view(*PATHS)
    whole: dict[str, Any] = {
        "a": value,
        "list": [value, {"x": value, "y": value}, {"y": [value]}],
        "deep": {"er": value},
    }
    for frame in (value, whole, [value, whole]):
        decoded = decoder.decode(json.dumps(frame).encode())
        if isinstance(decoded, list):
            continue
        for text in PATHS:
            path = parse_path(text, WHERE)
            reference = access(path, 0, None)([frame])
            found = access(path, 0, root)([decoded])
            if not isinstance(reference, dict):
                assert found == reference, text


def test_keys_may_be_names_of_methods_or_anything() -> None:
    root, decoder = view("$.index", "$.count", "$.'a b'", "$.class")
    frame = decoder.decode(b'{"index": 1, "count": 2, "a b": 3, "class": 4}')
    assert [
        access(parse_path(text, WHERE), 0, root)([frame]) for text in ("$.index", "$.count", "$.'a b'", "$.class")
    ] == [
        1,
        2,
        3,
        4,
    ]


def test_a_value_taken_whole_is_plain_json_and_so_is_what_is_below_it() -> None:
    root = Node()
    root.along(("u", "n", "x"))
    root.along(("u",)).take()
    frame = decoder_of(root).decode(b'{"u": {"n": {"x": 1}, "more": 2}}')
    assert access(parse_path("$.u", WHERE), 0, root)([frame]) == {"n": {"x": 1}, "more": 2}
    assert access(parse_path("$.u.n.x", WHERE), 0, root)([frame]) == 1
    below = root.along(("u", "n"))
    assert access(parse_path("$n.x", WHERE), 0, below)([{"x": 1}]) == 1


def test_unified_places_are_one_type() -> None:
    root = Node()
    delta, message = root.at("delta"), root.at("message")
    delta.at("text")
    message.at("text")
    message.at("more").at("deep")
    one = delta.unify(message)
    assert one is root.at("delta") is root.at("message")
    decoder = decoder_of(root)
    for key in ("delta", "message"):
        frame = decoder.decode(json.dumps({key: {"text": "a", "more": {"deep": 1}}}).encode())
        found = access(parse_path(f"$.{key}", WHERE), 0, root)([frame])
        assert access(parse_path("$m.more.deep", WHERE), 0, one)([found]) == 1


def test_a_place_that_contains_itself_stays_plain_json() -> None:
    root = Node()
    inner = root.at("response")
    root.at("id")
    root.unify(inner)
    frame = decoder_of(root).decode(b'{"response": {"id": 1}}')
    assert access(parse_path("$.response.id", WHERE), 0, root)([frame]) == 1


def test_a_frame_read_as_a_list_is_plain_json() -> None:
    root, decoder = view("$[0].a", "$.b")
    assert decoder.decode(b'[{"a": 1}]') == [{"a": 1}]
    assert access(parse_path("$[0].a", WHERE), 0, root)([[{"a": 1}]]) == 1


def test_a_query_over_values_that_cannot_be_compared_finds_nothing() -> None:
    find = access(parse_path("$.a[?(@.x > 3)].x", WHERE), 0, None)
    assert find([{"a": [{"x": 5}, {"x": 1}]}]) == [5]
    for odd in ({"a": [{"x": {}}]}, {"a": [{"x": "t"}]}, {"a": 3}, {"a": [3, None]}, [], None):
        assert isinstance(find([odd]), list)


KEYS = st.sampled_from(["a", "b", "index", "list", "x", "y", "z", "deep", "er", "still", "odd key"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_getters_over_the_view_and_over_plain_json_agree(value: Any) -> None:
    root, decoder = view(*PATHS)
    frame = json.dumps(value).encode()
    decoded, reference = decoder.decode(frame), msgspec.json.decode(frame)
    for text in PATHS:
        path = parse_path(text, WHERE)
        found, wanted = access(path, 0, root)([decoded]), access(path, 0, None)([reference])
        assert (found is None) == (wanted is None), text
        if path.is_wild:
            assert [one is None for one in found] == [one is None for one in wanted], text
        elif not isinstance(wanted, dict | list):
            assert found == wanted, text
            assert type(found) is type(wanted), text
