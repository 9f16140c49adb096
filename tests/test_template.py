"""The template language: what each operator gives, which entries stay, and what is refused when it is compiled."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import CallerError, ManifestError
from ai_lib_trio.protocol.where import Where
from ai_lib_trio.wire.template import compile_template

WHERE = Where("d.yaml", {(): ("d.yaml", 1), ("body",): ("d.yaml", 7)}).at("body")


def run(tree: Any, root: Any = None, *, define: dict[str, Any] | None = None, **names: Any) -> Any:
    return compile_template(tree, WHERE, define=define or {}, names=names)({"": root, **names})


# ---- literals, paths, objects, lists ----


@pytest.mark.parametrize("literal", ["a", "", 1, 0, 1.5, True, False, None])
def test_a_scalar_is_itself(literal: Any) -> None:
    assert run(literal) == literal


def test_a_doubled_dollar_is_one() -> None:
    assert run("$$x") == "$x"
    assert run({"$$ref": "$$defs/a"}) == {"$ref": "$defs/a"}


def test_a_path_gives_the_value_whole() -> None:
    value = {"a": None, "b": [], "c": {"d": {}}}
    assert run("$.v", {"v": value}) is value
    assert run("$.v.c.d", {"v": value}) == {}
    assert run("$.v.b[0]", {"v": value}) is None
    assert run("$x.a", x={"a": 0}) == 0


def test_an_object_drops_entries_that_are_nothing() -> None:
    assert run({"a": "$.a", "b": "$.b", "c": 1}, {"a": ""}) == {"a": "", "c": 1}


def test_constants_do_not_keep_an_object_alive() -> None:
    tree = {"out": {"type": "json_schema", "schema": "$.x"}, "other": "$.y"}
    assert run(tree, {"y": 1}) == {"other": 1}
    assert run(tree, {"x": {}, "y": 1}) == {"out": {"type": "json_schema", "schema": {}}, "other": 1}
    assert run(tree, {}) is None


def test_a_template_without_any_path_is_a_constant_and_stays() -> None:
    assert run({"a": {"b": []}, "c": {}}) == {"a": {"b": []}, "c": {}}
    assert run({"a": {"type": "x"}, "b": "$.b"}, {"b": 1}) == {"a": {"type": "x"}, "b": 1}


def test_a_list_drops_what_is_nothing_and_is_nothing_without_elements() -> None:
    assert run(["$.a", "$.b", 1], {"b": 2}) == [2, 1]
    assert run(["$.a"], {}) is None


# ---- operators ----


def test_first_gives_the_first_that_is_something() -> None:
    assert run({"$first": ["$.a", "$.b", 3]}, {"b": False}) is False
    assert run({"$first": ["$.a", "$.b"]}, {"b": ""}) == ""
    assert run({"$first": ["$.a", "$.b", 3]}, {}) == 3


def test_case_maps_by_the_value_and_its_type() -> None:
    tree = {"$case": "$.v", "of": {"a": 1, 2: "two", True: "yes"}}
    assert run(tree, {"v": "a"}) == 1
    assert run(tree, {"v": 2}) == "two"
    assert run(tree, {"v": True}) == "yes"
    assert run(tree, {}) is None
    with pytest.raises(CallerError, match=r"\$\.v is 'b': expected one of a, 2, True") as caught:
        run(tree, {"v": "b"})
    assert caught.value.kind == "bad_argument"
    with pytest.raises(CallerError, match=r"\$\.v is 1: expected one of"):
        run(tree, {"v": 1})


def test_case_falls_back_to_else() -> None:
    tree = {"$case": "$.v", "of": {"a": "$.x"}, "else": "$.y"}
    assert run(tree, {"v": "b", "y": 5}) == 5
    assert run(tree, {"y": 5}) == 5
    assert run({"$case": "$.v", "of": {"a": None}}, {"v": "a"}) is None


def test_a_long_value_is_not_shown_in_the_error() -> None:
    with pytest.raises(CallerError, match="a text of 50 characters") as caught:
        run({"$case": "$.v", "of": {"a": 1}}, {"v": "s" * 50})
    assert "ssss" not in str(caught.value)


def test_if_chooses_and_is_nothing_without_else() -> None:
    assert run({"$if": "$.a == 1", "then": "$.b", "else": 2}, {"a": 1, "b": 3}) == 3
    assert run({"$if": "$.a == 1", "then": "$.b", "else": 2}, {"a": True}) == 2
    assert run({"$if": "exists($.a)", "then": 1}, {}) is None
    assert run({"$if": "$.l[*].t == 'x'", "then": 1}, {"l": [{"t": "y"}, {"t": "x"}]}) == 1


def test_json_writes_and_parse_reads() -> None:
    assert run({"$json": "$.a"}, {"a": {"b": None}}) == '{"b":null}'
    assert run({"$json": "$.a"}, {"a": "text"}) == "text"
    assert run({"$json": "$.a"}, {}) is None
    assert run({"$parse": "$.a"}, {"a": '{"b":1}'}) == {"b": 1}
    with pytest.raises(CallerError, match="expected JSON text"):
        run({"$parse": "$.a"}, {"a": "{"})
    with pytest.raises(CallerError, match="expected JSON text, got a text of 400000 characters"):
        run({"$parse": "$.a"}, {"a": "[" * 200_000 + "]" * 200_000})
    with pytest.raises(CallerError, match="JSON can carry"):
        run({"$json": "$.a"}, {"a": object()})


def test_join_is_nothing_if_a_part_is() -> None:
    assert run({"$join": ["data:", "$.m", ";base64,", "$.d"]}, {"m": "a/b", "d": "x"}) == "data:a/b;base64,x"
    assert run({"$join": ["$.a", "$.b"], "by": "-"}, {"a": 1, "b": True}) == "1-true"
    assert run({"$join": ["data:", "$.m"]}, {}) is None
    with pytest.raises(CallerError, match="expected text to join, got a value of type dict"):
        run({"$join": ["$.a"]}, {"a": {}})


def test_cut_gives_the_text_before_the_first_mark() -> None:
    assert run({"$cut": "$.a", "at": ":"}, {"a": "x:y:z"}) == "x"
    assert run({"$cut": "$.a", "at": ":"}, {"a": "x"}) == "x"
    assert run({"$cut": "$.a", "at": ":"}, {}) is None


def test_each_skips_nothing_splices_lists_and_counts() -> None:
    items = {"l": [{"v": 1}, {}, {"v": [2, 3]}]}
    assert run({"$each": "$.l", "as": "x", "do": "$x.v"}, items) == [1, 2, 3]
    assert run({"$each": "$.l", "as": "x", "where": "exists($x.v)", "do": {"i": "$x#"}}, items) == [{"i": 0}, {"i": 2}]
    assert run({"$each": "$.l", "as": "x", "do": "$x.w"}, items) is None
    assert run({"$each": "$.none", "as": "x", "do": "$x"}, items) is None
    with pytest.raises(CallerError, match=r"expected a list at `\$\.l`"):
        run({"$each": "$.l", "as": "x", "do": "$x"}, {"l": 5})


def test_an_inner_each_may_bind_the_same_name_and_the_outer_one_is_back_after_it() -> None:
    tree = {
        "$each": "$.l",
        "as": "b",
        "do": {"inner": {"$each": "$b.l", "as": "b", "do": "$b.v"}, "v": "$b.v", "at": "$b#"},
    }
    root = {"l": [{"v": 1, "l": [{"v": 10}, {"v": 11}]}, {"v": 2}]}
    assert run(tree, root) == [{"inner": [10, 11], "v": 1, "at": 0}, {"v": 2, "at": 1}]


def test_concat_takes_lists_and_single_items() -> None:
    assert run({"$concat": ["$.a", {"x": "$.b"}, "$.none", [3]]}, {"a": [1], "b": 2}) == [1, {"x": 2}, 3]
    assert run({"$concat": ["$.none"]}, {}) is None


def test_merge_makes_one_object_and_later_wins() -> None:
    assert run({"$merge": ["$.a", {"y": 2}, "$.none"]}, {"a": {"x": 1, "y": 1}}) == {"x": 1, "y": 2}
    assert run({"$merge": ["$.a", "$.none"]}, {}) is None
    with pytest.raises(CallerError, match="expected an object to merge"):
        run({"$merge": ["$.a"]}, {"a": [1]})


def test_merge_adjacent_joins_neighbours_only() -> None:
    tree = {"$merge_adjacent": "$.l", "by": "r", "join": "p"}
    items = [{"r": "u", "p": [1]}, {"r": "u", "p": [2]}, {"r": "a", "p": [3]}, {"r": "u", "p": [4]}]
    root = {"l": items}
    assert run(tree, root) == [{"r": "u", "p": [1, 2]}, {"r": "a", "p": [3]}, {"r": "u", "p": [4]}]
    assert root["l"][0] == {"r": "u", "p": [1]}
    assert run(tree, {}) is None


def test_let_binds_and_use_sees_the_names_of_its_place() -> None:
    assert run({"$let": {"f": "$.a"}, "in": {"b": "$f.b", "c": "$f.c"}}, {"a": {"b": 1, "c": 2}}) == {"b": 1, "c": 2}
    define = {"part": {"t": "$b.t"}}
    assert run({"$each": "$.l", "as": "b", "do": {"$use": "part"}}, {"l": [{"t": 1}]}, define=define) == [{"t": 1}]


def test_need_refuses_nothing_and_names_the_path() -> None:
    assert run({"$need": "$.a"}, {"a": 0}) == 0
    with pytest.raises(CallerError, match=r"expected \$\.a, which body\.id needs") as caught:
        run({"id": {"$need": "$.a"}}, {})
    assert caught.value.code == "E1001"


def test_keep_sends_nothing_as_null_and_a_list_operators_nothing_as_an_empty_list() -> None:
    assert run({"a": {"$keep": "$.a"}, "b": "$.b"}, {}) == {"a": None}
    assert run({"a": {"$keep": {"$each": "$.l", "as": "x", "do": "$x"}}}, {}) == {"a": []}
    assert run({"a": {"$keep": "$.a"}}, {"a": 1}) == {"a": 1}
    assert run({"a": {"$keep": None}}) == {"a": None}
    assert run([{"$keep": "$.a"}], {}) == [None]
    assert run({"$keep": "$.a"}, {}) is None
    assert run({"$each": "$.l", "as": "x", "do": {"$keep": "$x.v"}}, {"l": [{}, {"v": 1}]}) == [None, 1]
    assert run({"$let": {"k": {"$keep": "$.a"}}, "in": {"v": "$k", "w": 1}}, {}) is None


def test_a_scope_is_never_changed() -> None:
    scope = {"": {"l": [1]}, "b": 7}
    assert compile_template({"$each": "$.l", "as": "b", "do": "$b"}, WHERE)(scope) == [1]
    assert scope == {"": {"l": [1]}, "b": 7}


def test_without_declared_names_an_unknown_one_is_nothing() -> None:
    assert compile_template({"a": "$x.y", "b": 1}, WHERE)({"": None}) is None
    assert compile_template({"a": "$x.y", "b": 1}, WHERE)({"": None, "x": {"y": 2}}) == {"a": 2, "b": 1}


# ---- load errors ----


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": {"$frist": ["$.a"]}}, r"d.yaml:7 at body.a.\$frist: expected an operator \(\$first, .*got `\$frist`"),
        ({"$if": "$.a", "than": 1}, r"at body.than: expected an argument of `\$if` \(then, else\), got `than`"),
        ({"$if": "$.a"}, r"at body: expected the argument `then` beside `\$if`"),
        ({"$first": ["$.a"], "$json": "$.b"}, r"expected one operator, got \$first and \$json"),
        ({"$first": "$.a"}, r"expected a list of values under `\$first`"),
        ({"$first": [1, "$.a"]}, "expected a value that can be nothing"),
        ({"$case": "$.a", "of": []}, "expected a mapping from values to templates"),
        ({"a": "$x.y"}, r"at body.a: expected a name that is bound here \(\$m\), got `\$x`"),
        ({"$if": "$x == 1", "then": 1}, r"expected a name that is bound here"),
        ({"a": "$.a["}, r"at body.a: expected an index"),
        ({"a": "$.l[*].v"}, r"expected a path to one value"),
        ({"$if": "$.a ==", "then": 1}, r"at body.\$if: expected a literal"),
        ({"$use": "nope"}, r"expected the name of a definition \(loop, pool\), got 'nope'"),
        ({"$use": "loop"}, r"expected a definition that does not use itself, got loop -> pool -> loop"),
        ({"$let": {"a": "$m"}, "in": 1}, r"at body.\$let.a: expected `\$a` to be used"),
        ({"$each": "$m", "as": "1x", "do": 1}, "expected a name"),
        ({"$merge": [1]}, "expected an object, got 1"),
        ({"$cut": "$m", "at": ""}, "expected the text to cut at"),
        ({1: "x"}, "expected a key that is text, got 1"),
        ({"a": object()}, "expected a literal, a path, an operator"),
    ],
)
def test_a_wrong_template_is_refused_with_its_place(tree: Any, message: str) -> None:
    define = {"loop": {"x": {"$use": "pool"}}, "pool": {"$use": "loop"}}
    with pytest.raises(ManifestError, match=message):
        compile_template(tree, WHERE, define=define, names=("m",))


def test_definitions_that_multiply_are_refused() -> None:
    define: dict[str, Any] = {"d0": "$.a"}
    for level in range(1, 20):
        define[f"d{level}"] = [{"$use": f"d{level - 1}"}, {"$use": f"d{level - 1}"}]
    with pytest.raises(ManifestError, match="expected at most 20000 parts"):
        compile_template({"$use": "d19"}, WHERE, define=define)


# ---- any template, any value ----

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abx"), inner, max_size=3),
    max_leaves=8,
)
PATHS = st.sampled_from(["$.a", "$.a.b", "$.x[0]", "$.b.a", "$"])
TEMPLATES = st.recursive(
    PATHS | st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "t"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("abx"), inner, max_size=3)
        | st.builds(lambda a, b: {"$first": [a, b]}, PATHS, inner)
        | st.builds(lambda p, a, b: {"$case": p, "of": {"t": a}, "else": b}, PATHS, inner, inner)
        | st.builds(lambda p, a, b: {"$if": f"exists({p})", "then": a, "else": b}, PATHS, inner, inner)
        | st.builds(lambda p, a: {"$each": p, "as": "b", "do": a}, PATHS, inner)
        | st.builds(lambda a, b: {"$concat": [a, b]}, inner, inner)
        | st.builds(lambda a: {"$keep": a}, inner)
        | st.builds(lambda a: {"$json": a}, inner)
        | st.builds(lambda p, a: {"$let": {"n": p}, "in": {"n": "$n", "a": a}}, PATHS, inner)
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(TEMPLATES, JSON)
def test_any_template_gives_json_or_refuses_with_a_callers_error(tree: Any, root: Any) -> None:
    before = repr(root)
    template = compile_template(tree, WHERE, names=())
    with suppress(CallerError):  # `$each` over what is no list, say
        assert _is_json(template({"": root}))
    assert repr(root) == before


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_is_json(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def test_entries_make_a_map_a_list_and_keyed_makes_a_list_a_map() -> None:
    entries = {"$each": {"$entries": "$.map"}, "as": "e", "do": {"name": "$e.key", "at": "$e#", "is": "$e.value.x"}}
    assert run(entries, {"map": {"a": {"x": 1}, "b": {"x": 2}}}) == [
        {"name": "a", "at": 0, "is": 1},
        {"name": "b", "at": 1, "is": 2},
    ]
    assert run({"$entries": "$.map"}, {"map": {}}) is None
    assert run({"$entries": "$.map"}, {}) is None
    keyed = {"$keyed": "$.list", "as": "t", "where": "$t.n != 'c'", "key": "$t.n", "do": {"at": "$t#", "v": "$t.v"}}
    assert run(keyed, {"list": [{"n": "a", "v": 1}, {"n": "c"}, {"n": "b", "v": 2}]}) == {
        "a": {"at": 0, "v": 1},
        "b": {"at": 2, "v": 2},
    }
    assert run(keyed, {"list": []}) is None


@pytest.mark.parametrize(
    ("tree", "scope", "said"),
    [
        ({"$entries": "$.map"}, {"map": [1]}, "expected an object"),
        ({"$keyed": "$.list", "as": "t", "key": "$t.n", "do": 1}, {"list": {"a": 1}}, "expected a list"),
        ({"$keyed": "$.list", "as": "t", "key": "$t.n", "do": 1}, {"list": [{"n": "a"}, {"n": "a"}]}, "twice"),
        ({"$keyed": "$.list", "as": "t", "key": "$t.n", "do": 1}, {"list": [{}]}, "as key"),
    ],
)
def test_entries_and_keyed_refuse_what_has_none(tree: Any, scope: Any, said: str) -> None:
    with pytest.raises(CallerError, match=said):
        run(tree, scope)


def test_join_takes_the_list_that_an_operator_makes() -> None:
    tree = {"$join": {"$each": "$.list", "as": "t", "do": "$t.n"}, "by": ", "}
    assert run(tree, {"list": [{"n": "a"}, {}, {"n": 2}]}) == "a, 2"
    assert run(tree, {"list": []}) is None


def test_an_entry_that_asks_for_a_flag_is_there_for_that_flag_alone() -> None:
    tree = {"on": {"$if": "$.f == true", "then": 1}, "off": {"$if": "$.f == false", "then": 2}, "always": "$.x"}
    assert run(tree, {"f": True, "x": 0}) == {"on": 1, "always": 0}
    assert run(tree, {"f": False, "x": 0}) == {"off": 2, "always": 0}
    for other in (None, 1, 0, "true"):
        assert run(tree, {"f": other, "x": 0}) == {"always": 0}
    assert run(tree, {"x": 0}) == {"always": 0}
    for root in (None, [], "text"):
        assert run(tree, root) is None
