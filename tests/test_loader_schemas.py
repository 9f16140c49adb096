# ruff: noqa: E501  (messages in one line)
"""Our JSON Schemas, and the messages they give: two validators agree, and neither is fooled."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import ManifestError
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.validator import KEYWORDS, SCHEMAS, Validator, text_keys
from ai_lib_trio.protocol.where import Document
from ai_lib_trio.protocol.yaml_source import read_yaml

ROOT = Path(__file__).resolve().parents[1] / "manifests"
VALIDATOR = Validator(lambda name: (ROOT / "schemas" / f"{name}.json").read_bytes())
KINDS = {"providers": "provider", "models": "models", "dialects": "dialect"}


def documents(kind: str) -> list[Document]:
    return [read_yaml(path.read_bytes(), path.name) for path in sorted((ROOT / kind).glob("*.yaml"))]


def independent(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((ROOT / "schemas" / f"{name}.json").read_bytes()))


def accepts(document: Document, name: str) -> bool:
    try:
        VALIDATOR.check(document, name)
    except ManifestError:
        return False
    return True


def subschemas(schema: Any) -> list[dict[str, Any]]:
    """The schema and every schema in it: values of keywords that hold schemas, and no others."""
    if not isinstance(schema, dict):
        return []
    found = [schema]
    for keyword in ("properties", "$defs"):
        for part in schema.get(keyword, {}).values():
            found += subschemas(part)
    for keyword in ("additionalProperties", "propertyNames", "items"):
        found += subschemas(schema.get(keyword))
    for part in schema.get("anyOf", []):
        found += subschemas(part)
    return found


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_uses_known_keywords_only_and_none_beside_a_reference(name: str) -> None:
    schema = VALIDATOR.schema(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    for part in subschemas(schema):
        assert set(part) <= KEYWORDS
        assert "$ref" not in part or set(part) == {"$ref"}
        if "$ref" in part:
            assert part["$ref"].startswith("#/$defs/")


def test_every_schema_file_is_used() -> None:
    assert sorted(path.stem for path in (ROOT / "schemas").glob("*.json")) == sorted(SCHEMAS)


@pytest.mark.parametrize("kind", KINDS)
def test_both_validators_accept_every_bundled_file(kind: str) -> None:
    other = independent(KINDS[kind])
    for document in documents(kind):
        VALIDATOR.check(document, KINDS[kind])
        assert not list(other.iter_errors(text_keys(document.data))), document.file


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, part in value.items():
            found += places(part, (*path, key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            found += places(part, (*path, number))
    return found


BROKEN = st.sampled_from([None, True, -1, 5, 2.5, "", "text", "bearer", [], ["x"], {}, {"unknown": 1}])
PROVIDERS = documents("providers")
MODELS = documents("models")


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_both_validators_agree_on_broken_files(data: st.DataObject) -> None:
    name, source = data.draw(st.sampled_from([("provider", PROVIDERS), ("models", MODELS), ("foreign", PROVIDERS)]))
    tree = copy.deepcopy(data.draw(st.sampled_from(source)).data)
    if name == "models":
        tree["models"] = dict(list(tree["models"].items())[:2])
    path = data.draw(st.sampled_from(places(tree)))
    if not path:
        tree = data.draw(BROKEN)
    else:
        into = tree
        for key in path[:-1]:
            into = into[key]
        if data.draw(st.booleans()):
            into[path[-1]] = data.draw(BROKEN)
        elif isinstance(into, dict) and data.draw(st.booleans()):
            into[data.draw(st.sampled_from(["extra", "nmae", "404x", "a.b"]))] = 1
        else:
            del into[path[-1]]
    document = Document(tree, "broken.yaml", {})
    expected = independent(name).is_valid(text_keys(tree))
    assert accepts(document, name) == expected


ACME = """\
id: acme
protocol_version: "2.0"
endpoint:
  base_url: https://acme.example
  auth: {type: bearer}
api_families: {}
error_classification:
  by_http_status: {429: rate_limited}
  by_error_code: {a.b: conflict}
"""


@pytest.mark.parametrize(
    ("change", "into", "message"),
    [
        ("type: bearer", "type: beerer", "5 at endpoint.auth.type: expected one of bearer, header, query, hmac_chain, none, got the text 'beerer'; did you mean 'bearer'?"),
        ("auth:", "auht:", "5 at endpoint.auht: unknown key 'auht'; did you mean 'auth'?"),
        ("429: rate_limited", "429: [x]", "8 at error_classification.by_http_status[429]: expected one of"),
        ("a.b: conflict", "a.b: 5", "9 at error_classification.by_error_code.a.b: expected one of"),
        ("api_families: {}", "api_families: []", "6 at api_families: expected a mapping, got a list"),
        ('protocol_version: "2.0"\n', "", "1: expected 'protocol_version', got nothing"),
        ("id: acme", "id: Acme", "1 at id: expected text that matches ^[a-z0-9][a-z0-9_-]{0,63}$, got the text 'Acme'"),
    ],
)  # fmt: skip
def test_a_fault_names_line_path_expected_got_and_the_nearest_name(change: str, into: str, message: str) -> None:
    assert change in ACME
    with pytest.raises(ManifestError) as caught:
        VALIDATOR.check(read_yaml(ACME.replace(change, into), "acme.yaml"), "provider")
    assert f"acme.yaml:{message}" in str(caught.value)


def test_a_schema_that_refers_elsewhere_is_refused_and_nothing_is_fetched() -> None:
    schema = b'{"$ref": "https://evil.example/schema.json"}'
    with pytest.raises(ManifestError, match="nothing but what is bundled is read"):
        Validator(lambda name: schema).check(Document({}, "f.yaml", {}), "provider")


def test_checking_writes_no_default_into_the_data() -> None:
    schema = b'{"type": "object", "properties": {"a": {"default": 5}}}'
    document = Document({}, "f.yaml", {})
    Validator(lambda name: schema).check(document, "provider")
    assert document.data == {}


def test_the_bundled_set_has_no_fault() -> None:
    assert [str(fault) for fault in Catalog.open(environ={}).check(-1)] == []


def test_faults_of_a_tree_come_all_at_once_each_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "providers").mkdir()
    for name, text in {
        "acme": ACME.replace("type: bearer", "type: no"),
        "beta": "id: [",
        "gamma": ACME.replace("id: acme", "id: gamma"),
        "old": 'id: old\nprotocol_version: "1.1"\n',
    }.items():
        (tmp_path / "providers" / f"{name}.yaml").write_text(text, encoding="utf-8")
    faults = Catalog.open(tmp_path, {}).check()
    assert [Path(fault.file).stem for fault in faults] == ["acme", "beta", "old"]
    assert [fault.line for fault in faults] == [5, 2, 1]


def test_a_section_without_a_source_and_a_name_taken_twice_are_faults() -> None:
    from ai_lib_trio.protocol.manifest import read_manifest
    from ai_lib_trio.protocol.validator import cross_faults

    document = read_yaml(ACME + "sources:\n  limits: {url: 'https://a.example', checked: 2026-11-22}\n", "acme.yaml")
    manifest = read_manifest(document, lambda name: None, origin="bundled", strict=True)
    said = [str(fault) for fault in cross_faults(manifest)]
    assert sum("expected an entry in 'sources'" in one for one in said) == 3
    assert any("expected a section of this file, got 'limits'" in one for one in said)
