"""YAML as manifests use it: core types, places, and nothing that can hang or surprise the loader."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import ManifestError
from ai_lib_trio.protocol.yaml_source import MAX_NODES, read_yaml, read_yaml_documents


def value(text: str) -> Any:
    return read_yaml(f"v: {text}", "f.yaml").data["v"]


@pytest.mark.parametrize(
    "text", ["no", "on", "off", "yes", "y", "12:30", "2026-11-22", "1_000", "0b11", "1.2.3", "-", "<<", "nan", "0o8"]
)
def test_what_yaml_1_1_would_change_stays_text(text: str) -> None:
    assert value(text if text not in ("-",) else "'-'") == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-7", -7),
        ("+7", 7),
        ("0o17", 15),
        ("0xfF", 255),
        ("007", 7),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        (".inf", float("inf")),
        ("-.INF", float("-inf")),
        ("'12'", "12"),
        ('"true"', "true"),
        ("!!str 12", "12"),
        ("!!float 12", 12.0),
        ("!!int 12", 12),
        ("! 12", "12"),
    ],
)
def test_scalars_have_the_types_of_the_core_schema(text: str, expected: Any) -> None:
    found = value(text)
    assert found == expected
    assert type(found) is type(expected)


def test_keys_may_be_numbers_and_a_null_key_is_its_text() -> None:
    assert read_yaml("{429: a, null: b, true: c, 'on': d}", "f.yaml").data == {
        429: "a",
        "null": "b",
        True: "c",
        "on": "d",
    }


def test_every_part_knows_its_line() -> None:
    where = read_yaml("a:\n  b:\n    - x\n    - y: 1\n      z: |\n        text\n", "f.yaml").where
    for path, line in [(("a",), 1), (("a", "b"), 2), (("a", "b", 1), 4), (("a", "b", 1, "z"), 5)]:
        assert where.at(*path).position() == ("f.yaml", line)


def test_a_part_without_a_place_of_its_own_has_its_parents() -> None:
    where = read_yaml("a: &x {k: 1}\nb: *x\n", "f.yaml").where
    assert where.at("b", "k").position() == ("f.yaml", 2)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "duplicate key 'a', also in line 1"),
        ("x:\n  a: 1\n  a: 3\n", 3, "duplicate key 'a'"),
        ("a: [1\n", 2, "not YAML"),
        ("a:\n\t- b\n", 2, "not YAML"),
        ("a: &x [1, *x]\n", 1, "contains itself"),
        ("a: 1\nb: *none\n", 2, "not YAML|known anchor"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "core schema"),
        ("a: !mine 1\n", 1, "core schema"),
        ("a: !!int x\n", 1, "core schema"),
        ("? [1, 2]\n: 3\n", 1, "key that is text"),
        ("a: " + "9" * 5000, 1, "number of at most"),
        ("a: " + "[" * 100 + "]" * 100, 1, "levels"),
    ],
)
def test_a_fault_names_its_file_and_line_in_one_line(text: str, line: int, part: str) -> None:
    with pytest.raises(ManifestError, match=part) as caught:
        read_yaml(text, "f.yaml")
    assert (caught.value.file, caught.value.line) == ("f.yaml", line)
    assert "\n" not in str(caught.value)
    assert caught.value.kind == "bad_manifest"


def test_bytes_that_are_not_utf_8_are_refused_with_their_line() -> None:
    with pytest.raises(ManifestError, match="UTF-8") as caught:
        read_yaml(b"a: 1\nb: \xff\n", "f.yaml")
    assert caught.value.line == 2


def test_control_characters_are_refused() -> None:
    with pytest.raises(ManifestError, match="not YAML"):
        read_yaml("a: \x01", "f.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert read_yaml(b"\xef\xbb\xbfa: 1", "f.yaml").data == {"a": 1}


def test_one_document_is_expected_and_several_can_be_read() -> None:
    with pytest.raises(ManifestError, match="one YAML document, got 2"):
        read_yaml("a: 1\n---\nb: 2\n", "f.yaml")
    assert [d.data for d in read_yaml_documents("a: 1\n---\nb: 2\n", "f.yaml")] == [{"a": 1}, {"b": 2}]
    assert read_yaml("", "f.yaml").data is None


def test_an_alias_bomb_is_refused_at_once() -> None:
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 12)]
    begun = time.perf_counter()
    with pytest.raises(ManifestError, match=f"at most {MAX_NODES} values"):
        read_yaml("\n".join(lines), "f.yaml")
    assert time.perf_counter() - begun < 1


def test_aliases_cannot_nest_deeper_than_a_value_may() -> None:
    lines = ["l0: &l0 [[[[[[[[x]]]]]]]]"]
    lines += [f"l{i}: &l{i} [[[[[[[[*l{i - 1}]]]]]]]]" for i in range(1, 20)]
    with pytest.raises(ManifestError, match="levels"):
        read_yaml("\n".join(lines), "f.yaml")


def test_the_pure_loader_gives_the_same_where_libyaml_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    text = "a: no\nb: [1, {c: 2026-11-22, d: !!str 5}]\ne: &x {f: 1}\ng: *x\n"
    fast = read_yaml(text, "f.yaml")
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    slow = read_yaml(text, "f.yaml")
    assert slow.data == fast.data
    assert slow.positions == fast.positions


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab:-[]{}&*!#|>\n '\",?%@`0.~", max_size=60))
def test_any_text_is_a_value_or_one_clear_error(text: str) -> None:
    said = ""
    try:
        for document in read_yaml_documents(text, "f.yaml"):
            assert document.data is None or isinstance(document.data, (str, int, float, list, dict))
    except ManifestError as error:
        said = str(error)
    assert "\n" not in said


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(json_values)
def test_json_reads_as_the_value_it_is(data: Any) -> None:
    import json

    assert read_yaml(json.dumps(data, ensure_ascii=False), "f.yaml").data == data


def test_reading_needs_no_constructor_of_the_yaml_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a constructor ran")

    monkeypatch.setattr(yaml.constructor.BaseConstructor, "construct_object", refuse)
    assert read_yaml("a: [1, 2]", "f.yaml").data == {"a": [1, 2]}
