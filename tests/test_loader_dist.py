# ruff: noqa: E501  (manifests in one line a rule)
"""`dist/`: deterministic, equal in meaning to the YAML, and believed only where it was made of the files beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import ManifestError
from ai_lib_trio.protocol import sources, yaml_source
from ai_lib_trio.protocol.build import decode_data, encode_data, shipped, write_dist
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import manifest_tree
from ai_lib_trio.protocol.where import Where

FILES = {
    "providers/acme.yaml": """\
id: acme
protocol_version: "2.0"
name: Acme
aliases: [apex]
endpoint: {base_url: https://acme.example}
api_families: {chat: {dialect: toy}}
error_classification: {by_http_status: {429: rate_limited}}
""",
    "dialects/toy.yaml": "id: toy\naliases: [toy_style]\nencode: {path: /x, body: {s: {$case: $.stream, of: {true: 1, 2: b}}}}\n",
    "models/acme.yaml": 'protocol_version: "2.0"\nmodels: {big: {provider: acme, model_id: big-1, aliases: [large]}}\n',
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def build(root: Path) -> dict[str, bytes]:
    return Catalog.open(root, {}, strict=True).build(0)


def built(root: Path) -> Path:
    write_dist(root / "dist", build(root))
    return root


def test_the_same_tree_gives_the_same_bytes(tree: Path) -> None:
    first = build(tree)
    assert build(built(tree)) == first
    assert set(first) == {"index.json", "providers/acme.json", "dialects/toy.json", "models/acme.json"}


def test_writing_twice_changes_nothing_and_takes_away_what_has_no_source(tree: Path) -> None:
    out = tree / "dist"
    assert len(write_dist(out, build(tree))) == 4
    assert write_dist(out, build(tree)) == []
    (out / "providers" / "gone.json").write_text("{}", encoding="utf-8")
    assert write_dist(out, build(tree)) == ["providers/gone.json"]
    assert not (out / "providers" / "gone.json").exists()


def test_a_fresh_dist_is_read_instead_of_the_yaml(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = manifest_tree(Catalog.open(tree, {}).provider("acme"))
    built(tree)
    monkeypatch.setattr(yaml_source, "read_yaml", lambda text, file: pytest.fail(f"{file} was parsed"))
    catalog = Catalog.open(tree, {})
    assert manifest_tree(catalog.provider("acme")) == plain
    assert catalog.provider("apex").id == "acme"
    assert catalog.dialect("toy_style").id == "toy"
    assert catalog.resolve("acme/large").model_id == "big-1"


def test_keys_that_are_no_text_survive(tree: Path) -> None:
    cases = Catalog.open(built(tree), {}).dialect("toy").encode["body"]["s"]["of"]
    assert [(key, type(key)) for key in cases] == [(True, bool), (2, int)]


def test_a_changed_source_is_read_as_it_stands(tree: Path) -> None:
    built(tree)
    path = tree / "providers/acme.yaml"
    path.write_text(FILES["providers/acme.yaml"].replace("name: Acme", "name: Changed"), encoding="utf-8")
    catalog = Catalog.open(tree, {})
    assert catalog.provider("acme").name == "Changed"
    (tree / "models/acme.yaml").write_text(FILES["models/acme.yaml"].replace("large", "huge"), encoding="utf-8")
    assert Catalog.open(tree, {}).resolve("huge").model_id == "big-1"


def test_a_new_source_is_found_though_the_index_does_not_know_it(tree: Path) -> None:
    built(tree)
    (tree / "providers/beta.yaml").write_text(
        FILES["providers/acme.yaml"].replace("acme", "beta").replace("apex", "bt"), encoding="utf-8"
    )
    catalog = Catalog.open(tree, {})
    assert catalog.provider("beta").id == "beta"
    assert catalog.provider("bt").id == "beta"


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"format": 99, "sources": {}, "names": {}, "dialects": {}, "models": {}}']
)
def test_an_index_of_another_format_is_no_index(tree: Path, text: str) -> None:
    built(tree)
    (tree / "dist/index.json").write_text(text, encoding="utf-8")
    assert Catalog.open(tree, {}).provider("apex").id == "acme"


def test_a_tree_with_a_fault_is_not_built(tree: Path) -> None:
    (tree / "providers/acme.yaml").write_text(FILES["providers/acme.yaml"] + "unknwon: 1\n", encoding="utf-8")
    with pytest.raises(ManifestError, match="unknown key 'unknwon'"):
        build(tree)


def test_the_bundled_set_means_the_same_from_dist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Catalog.open(environ={})
    write_dist(tmp_path, shipped(plain.build()))
    original = sources.bundled_tree

    def with_dist() -> sources.Tree:
        found = original()
        found.dist, found.is_trusted = tmp_path, True
        return found

    monkeypatch.setattr(sources, "bundled_tree", with_dist)
    monkeypatch.setattr(yaml_source, "read_yaml", lambda text, file: pytest.fail(f"{file} was parsed"))
    fast = Catalog.open(environ={})
    for name in plain.providers():
        assert manifest_tree(fast.provider(name)) == manifest_tree(plain.provider(name))
    assert fast.models() == plain.models()
    for facts in plain.models()[::25]:
        assert set(fast._offers(facts.key)) == set(plain._all_models().anywhere(facts.key))


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(2, 600), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=150, deadline=None)
@given(values)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    assert decode_data(encode_data(value, Where())) == value


def test_a_number_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(ManifestError, match="a: expected a number that JSON can hold"):
        encode_data({"a": float("inf")}, Where())
