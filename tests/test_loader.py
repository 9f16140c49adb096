"""The catalogue: what a manifest of our own shape becomes, in which order sources count, and how faults are said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ai_lib_trio.errors import CallerError, ManifestError
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import Manifest, manifest_tree
from ai_lib_trio.protocol.sources import Tree, bundled_tree
from ai_lib_trio.protocol.tree import merge
from ai_lib_trio.protocol.yaml_source import read_yaml

ACME = """\
id: acme
protocol_version: "2.0"
name: Acme
aliases: [apex]
endpoint:
  base_url: https://api.acme.example/v1/
  auth: {type: bearer, token_env: ACME_API_KEY, extra_headers: {x-version: "1"}}
default_api_family: chat
api_families:
  chat:
    dialect: toy
    encode:
      path: /talk
      headers: null
    decode: {rules: {text: {match: $.b}}}
error_classification:
  by_http_status: {429: rate_limited, "503": overloaded}
  by_error_code: {no_money: quota_exhausted}
  by_message_contains: {Too Long: request_too_large}
  retry_after_extraction: {pattern: "in (\\\\d+) ms", unit: milliseconds}
retry_policy: {strategy: exponential_backoff, max_retries: 2, min_delay_ms: 500}
rate_limits: {scope: model, headers: {requests_limit: X-Limit, retry_after: null}}
capabilities: {required: [text, streaming], optional: [tools], feature_flags: {json_mode: true}}
parameters: {temperature: {range: [0, 2]}, max_tokens: {required: true, default: 100}}
"""
TOY = """\
id: toy
aliases: [toy_style]
encode:
  path: /chat
  headers: {x: y}
  parameters: {max_tokens: limit}
  body: {model: $.model}
decode:
  rules:
    text: {match: $.a, emit: PartialContentDelta}
simulate: {}
"""
MODELS = """\
protocol_version: "2.0"
models:
  big: {provider: acme, model_id: big-2026-11, context_window: 1000, aliases: [acme-big]}
  maker/small: {provider: acme, model_id: maker/small}
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write(
        tmp_path / "tree",
        {"providers/acme.yaml": ACME, "dialects/toy.yaml": TOY, "models/acme.yaml": MODELS},
    )


def opened(path: Path | None, environ: dict[str, str] | None = None, **options: Any) -> Catalog:
    return Catalog.open(path, environ or {}, **options)


def acme(tmp_path: Path, change: str, into: str, **options: Any) -> Manifest:
    """The toy provider with one piece of its text changed."""
    assert change in ACME
    write(tmp_path, {"providers/acme.yaml": ACME.replace(change, into), "dialects/toy.yaml": TOY})
    return opened(tmp_path, **options).provider("acme")


def test_a_manifest_becomes_the_internal_form(tree: Path) -> None:
    manifest = opened(tree).provider("acme")
    assert manifest.endpoint.base_url == "https://api.acme.example/v1"
    assert manifest.endpoint.timeout_ms == 10_000
    assert (manifest.auth.type, manifest.auth.header, manifest.auth.prefix) == ("bearer", "Authorization", "Bearer")
    assert manifest.auth.extra_headers == {"x-version": "1"}
    assert manifest.errors.by_http_status == {429: "rate_limited", 503: "overloaded"}
    assert manifest.errors.by_message_contains == {"too long": "request_too_large"}
    assert (manifest.errors.retry_after_pattern, manifest.errors.retry_after_unit) == (r"in (\d+) ms", "milliseconds")
    assert manifest.retry is not None
    assert (manifest.retry.max_retries, manifest.retry.min_delay_ms, manifest.retry.max_delay_ms) == (2, 500, 30_000)
    assert (manifest.rate_limits.scope, manifest.rate_limits.headers.requests_limit) == ("model", "x-limit")
    assert manifest.rate_limits.headers.retry_after is None
    assert manifest.capabilities.declared == {"text", "streaming", "tools"}
    assert manifest.parameters["temperature"].high == 2
    assert (manifest.parameters["max_tokens"].required, manifest.parameters["max_tokens"].default) == (True, 100)
    assert manifest.origin == "given"
    assert manifest.notes == ()


def test_a_family_is_its_dialect_with_the_providers_changes(tree: Path) -> None:
    family = opened(tree).provider("acme").family()
    assert family.dialect == "toy"
    assert family.encode == {
        "path": "/talk",
        "parameters": {},
        "body": {"model": "$.model", "limit": {"$first": ["$.max_tokens", 100]}},
    }
    assert family.decode == {"rules": {"text": {"match": "$.b", "emit": "PartialContentDelta"}}}


def test_a_merged_family_points_at_the_file_a_part_was_written_in(tree: Path) -> None:
    where = opened(tree).provider("acme").family().where
    assert where.at("decode", "rules", "text", "match").position() == (str(tree / "providers/acme.yaml"), 15)
    assert where.at("decode", "rules", "text", "emit").position() == (str(tree / "dialects/toy.yaml"), 10)
    assert where.at("encode", "path").position() == (str(tree / "providers/acme.yaml"), 13)
    error = where.at("decode", "rules", "text", "emit").error("expected an event")
    assert str(error) == (
        f"[E1001 invalid_request] {tree / 'dialects/toy.yaml'}:10 at decode.rules.text.emit: expected an event"
    )


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ("{a: {b: 1, c: 2}}", "{a: {c: 3}}", {"a": {"b": 1, "c": 3}}),
        ("{a: [1, 2]}", "{a: [3]}", {"a": [3]}),
        ("{a: {b: 1}}", "{a: null}", {}),
        ("{a: {b: 1}}", "{a: 5}", {"a": 5}),
        ("{a: 5}", "{a: {b: null, c: 1}}", {"a": {"c": 1}}),
        ("{}", "{a: {b: null, c: 1}}", {"a": {"c": 1}}),
        (
            "{a: {$case: $.x, of: {k: 1}}}",
            "{a: {$case: $.x, of: {l: 2}}}",
            {"a": {"$case": "$.x", "of": {"k": 1, "l": 2}}},
        ),
        ("{a: {$case: $.x, of: {k: 1}}}", "{a: {of: {l: 2}}}", {"a": {"$case": "$.x", "of": {"k": 1, "l": 2}}}),
        ("{a: {$case: $.x, of: {k: 1}}}", "{a: {$json: $.y}}", {"a": {"$json": "$.y"}}),
        ("{a: {t: 1}}", "{a: {$json: $.y}}", {"a": {"$json": "$.y"}}),
        ("{}", "{a: {$case: $.x, of: {k: null}}}", {"a": {"$case": "$.x", "of": {"k": None}}}),
    ],
)
def test_maps_merge_lists_and_scalars_replace_null_removes(base: str, over: str, merged: Any) -> None:
    below, above = read_yaml(base, "base"), read_yaml(over, "over")
    before = msgspec.json.encode([below.data, above.data])
    assert merge(below.data, above.data, below.where, above.where)[0] == merged
    assert msgspec.json.encode([below.data, above.data]) == before


@pytest.mark.parametrize(
    ("change", "into", "message"),
    [
        (
            "max_retries: 2",
            "max_retries: two",
            "retry_policy.max_retries: expected an integer of at least 0, got the text 'two'",
        ),
        (
            "type: bearer",
            "type: bear",
            "endpoint.auth.type: expected one of bearer, header, query, hmac_chain, none, got the text 'bear'; "
            "did you mean 'bearer' or 'header'?",
        ),
        ("optional: [tools]", "optional: tools", "capabilities.optional: expected a list, got the text 'tools'"),
        (
            "optional: [tools]",
            "optional: [tools, 5]",
            "capabilities.optional[1]: expected text, got the number 5",
        ),
        (
            "json_mode: true",
            "json_mode: 'yes'",
            "capabilities.feature_flags.json_mode: expected true or false, got the text 'yes'",
        ),
        (
            "dialect: toy",
            "dialect: tory",
            "api_families.chat.dialect: expected a known dialect, got 'tory'; did you mean 'toy'?",
        ),
        (
            "{range: [0, 2]}",
            "{range: [0]}",
            "parameters.temperature.range: expected two numbers, lowest and highest",
        ),
        (
            "base_url: https://api.acme.example/v1/",
            "base_url: api.acme.example",
            "endpoint.base_url: expected an http or https URL without query, got the text 'api.acme.example'",
        ),
        (
            "default_api_family: chat",
            "default_api_family: chart",
            "default_api_family: expected one of this file's families, got 'chart'; did you mean 'chat'?",
        ),
        ("id: acme", "id: Acme!", "id: expected an id of a-z, 0-9, - and _, got the text 'Acme!'"),
        ("name: Acme", "name: [Acme]", "name: expected text, got a list"),
        (
            "429: rate_limited",
            "4290: rate_limited",
            "error_classification.by_http_status[4290]: expected an HTTP status, got the number 4290",
        ),
        (
            "token_env: ACME_API_KEY",
            "token_env: ACME-KEY",
            "endpoint.auth.token_env: expected the name of a variable, got the text 'ACME-KEY'",
        ),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_file_line_and_path(
    tmp_path: Path, change: str, into: str, message: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        acme(tmp_path, change, into)
    line = ACME[: ACME.index(change)].count("\n") + 1
    assert str(caught.value) == f"[E1001 invalid_request] {tmp_path / 'providers/acme.yaml'}:{line} at {message}"
    assert (caught.value.kind, caught.value.retryable) == ("bad_manifest", False)


def test_a_family_that_changes_a_dialect_and_names_none_is_a_fault_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="expected 'dialect' as text that is not empty, got null"):
        acme(tmp_path, "    dialect: toy\n", "")


def test_a_misspelt_key_is_named_where_the_right_one_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"expected 'base_url' as text .* is 'base_ulr' meant to be it"):
        acme(tmp_path, "base_url:", "base_ulr:")


def test_an_unknown_key_is_an_error_in_strict_mode_and_a_note_otherwise(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="unknown key 'retry_polcy'; did you mean 'retry_policy'"):
        acme(tmp_path, "retry_policy:", "retry_polcy:", strict=True)
    manifest = acme(tmp_path, "retry_policy:", "retry_polcy:")
    assert len(manifest.notes) == 1
    assert "unknown key 'retry_polcy' has no effect" in manifest.notes[0]
    assert f"{tmp_path / 'providers/acme.yaml'}:21" in manifest.notes[0]


def test_an_error_name_outside_the_table_is_an_error_or_a_note(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="expected the name of a standard error"):
        acme(tmp_path, "429: rate_limited", "402: insufficient_quota", strict=True)
    manifest = acme(tmp_path, "429: rate_limited", "402: insufficient_quota")
    assert 402 not in manifest.errors.by_http_status
    assert "the row has no effect" in manifest.notes[0]


def test_opening_reads_no_file_and_a_broken_one_fails_alone(tree: Path) -> None:
    write(tree, {"providers/broken.yaml": "id: [", "dialects/broken.yaml": "id: ["})
    catalog = opened(tree)
    assert catalog.provider("acme").id == "acme"
    assert catalog.resolve("apex/x").provider_id == "acme"
    with pytest.raises(ManifestError, match=r"broken\.yaml:2: not YAML"):
        catalog.provider("broken")


def test_a_provider_is_parsed_once(tree: Path) -> None:
    catalog = opened(tree)
    first = catalog.provider("acme")
    (tree / "providers/acme.yaml").write_text("broken: [", encoding="utf-8")
    assert catalog.provider("apex") is first


def test_of_a_bundled_provider_the_dialects_are_read_that_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = bundled_tree().without_dist()
    catalog = Catalog([bundled])
    name = next(name for name in catalog.providers() if _has_several_dialects(catalog.provider(name)))
    read: list[tuple[str, str]] = []
    own = Tree.read
    monkeypatch.setattr(Tree, "read", lambda self, kind, stem: read.append((kind, stem)) or own(self, kind, stem))
    manifest = Catalog([bundled]).provider(name)
    assert read == [("providers", name)]
    used = manifest.families[manifest.default_family]
    assert used.encode
    assert read == [("providers", name), ("dialects", used.dialect)]


def _has_several_dialects(manifest: Manifest) -> bool:
    """And no defaults, which are looked at beside each of them."""
    families = manifest.families.values()
    return len({family.dialect for family in families}) > 1 and not any(family.form.defaults for family in families)


def test_the_explicit_path_comes_before_the_environment_and_both_before_the_bundled_set(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"providers/acme.yaml": ACME, "dialects/toy.yaml": TOY})
    other = ACME.replace("name: Acme", "name: Other")
    two = write(
        tmp_path / "two",
        {"providers/acme.yaml": other, "providers/beta.yaml": other.replace("acme", "beta"), "dialects/toy.yaml": TOY},
    )
    catalog = opened(one, {"AI_PROTOCOL_DIR": str(two)})
    assert catalog.provider("acme").name == "Acme"
    assert catalog.provider("beta").name == "Other"
    assert opened(None, {"AI_PROTOCOL_DIR": str(two)}).provider("acme").name == "Other"
    assert set(catalog.providers()) >= {"acme", "beta"} | set(opened(None).providers())


def test_a_source_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="found neither"):
        opened(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match="found neither"):
        opened(None, {"AI_PROTOCOL_DIR": str(tmp_path / "nowhere")})


def test_one_file_is_a_source_too(tmp_path: Path) -> None:
    path = write(tmp_path, {"any-name.yaml": ACME.replace("dialect: toy", "dialect: openai_style")}) / "any-name.yaml"
    catalog = opened(path)
    assert catalog.provider("acme").name == "Acme"
    assert catalog.provider("apex").family().dialect == catalog.dialect("openai_style").id


def test_a_dialect_of_one_source_does_not_change_the_providers_of_another(tmp_path: Path) -> None:
    mine = write(tmp_path, {"dialects/chat_completions.yaml": TOY.replace("id: toy", "id: chat_completions")})
    write(tmp_path, {"providers/acme.yaml": ACME.replace("dialect: toy", "dialect: chat_completions")})
    catalog = opened(mine)
    bundled = opened(None)
    assert catalog.provider("acme").family().encode["path"] == "/talk"
    for name in bundled.providers():
        assert manifest_tree(catalog.provider(name)) == manifest_tree(bundled.provider(name))


def test_a_model_resolves_by_key_wire_id_and_alias_and_the_prefix_stays_off_the_wire(tree: Path) -> None:
    catalog = opened(tree)
    for text in ("acme/big", "acme/big-2026-11", "acme/acme-big", "apex/big", "big", "big-2026-11", "acme-big"):
        found = catalog.resolve(text)
        assert (found.provider_id, found.model_id) == ("acme", "big-2026-11")
        assert found.facts is not None
    assert catalog.resolve("big").ref == "acme/big"
    assert catalog.resolve("maker/small").model_id == "maker/small"


def test_an_unregistered_model_goes_out_as_written_after_the_first_slash(tree: Path) -> None:
    found = opened(tree).resolve("acme/maker/new:free")
    assert (found.provider_id, found.model_id, found.ref, found.facts) == (
        "acme", "maker/new:free", "acme/maker/new:free", None,
    )  # fmt: skip


def test_a_marketplace_cannot_take_over_what_is_asked_of_a_provider(tree: Path) -> None:
    write(
        tree,
        {
            "providers/maker.yaml": ACME.replace("id: acme", "id: maker").replace("apex", "mk"),
            "models/maker.yaml": 'protocol_version: "2.0"\nmodels: {}\n',
        },
    )
    catalog = opened(tree)
    assert catalog.resolve("maker/small").provider_id == "maker"
    assert catalog.resolve("acme/maker/small").provider_id == "acme"


def test_a_name_that_several_providers_have_asks_which(tree: Path) -> None:
    write(
        tree,
        {
            "providers/beta.yaml": ACME.replace("id: acme", "id: beta").replace("apex", "bt"),
            "models/beta.yaml": MODELS.replace("provider: acme", "provider: beta"),
        },
    )
    with pytest.raises(CallerError, match="say which: acme/big, beta/big") as caught:
        opened(tree).resolve("big")
    assert caught.value.kind == "unknown_model"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("acne/big", "unknown_provider", "no provider is called 'acne'; did you mean 'acme'"),
        ("Acme/big", "unknown_provider", "did you mean 'acme'"),
        ("bigg", "unknown_model", "no model is called 'bigg'; did you mean 'big'"),
        ("acme", "unknown_model", "'acme' is a provider; say which model: acme/"),
        ("qqqqqq", "unknown_model", "write provider/model"),
        ("", "bad_argument", "expected a model such as"),
        ("/big", "bad_argument", "expected a model such as"),
        ("acme/", "bad_argument", "expected a model such as"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(tree: Path, text: str, kind: str, message: str) -> None:
    with pytest.raises(CallerError, match=message) as caught:
        opened(tree).resolve(text)
    assert caught.value.kind == kind
    assert caught.value.code == {"bad_argument": "E1001"}.get(kind, "E1004")


def test_an_unknown_family_is_refused_with_the_nearest_one(tree: Path) -> None:
    with pytest.raises(CallerError, match="acme has no API family 'chatt'; did you mean 'chat'"):
        opened(tree).provider("acme").family("chatt")


def test_every_bundled_file_loads_strictly() -> None:
    catalog = opened(None)
    for name in catalog.providers():
        manifest = catalog.provider(name)
        assert (manifest.id, manifest.origin, manifest.notes) == (name, "bundled", ())
        assert bool(manifest.families) == bool(manifest.default_family)
    for dialect in catalog.dialects():
        assert catalog.dialect(dialect).id == dialect
    known = set(catalog.providers())
    assert all(facts.provider in known for facts in catalog.models())


def test_a_file_that_does_not_bear_its_id_is_found_by_it_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, {"providers/other-name.yaml": ACME, "dialects/toy.yaml": TOY})
    assert opened(tmp_path).provider("acme").name == "Acme"


def test_the_effective_manifest_is_plain_values(tree: Path) -> None:
    shown = manifest_tree(opened(tree).provider("acme"))
    assert msgspec.json.decode(msgspec.json.encode(shown))["families"]["chat"]["dialect"] == "toy"


def test_a_dialects_definition_that_a_providers_changes_leave_without_use_goes_and_its_own_must_have_one() -> None:
    catalog = Catalog.open(environ={})
    family = catalog.provider("mistral").family()
    assert "filename" in catalog.dialect("chat_completions").encode["define"]
    assert "filename" not in family.encode["define"]
    assert "url" in family.encode["define"]
