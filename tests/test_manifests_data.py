"""The bundled manifests and model files, checked as data: sources, dates, units, ranges, references."""

from __future__ import annotations

import datetime
import functools
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from ai_lib_trio.errors import CODES
from ai_lib_trio.pipeline.pipeline import compile_decoder
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.types.message import Message
from ai_lib_trio.types.request import Request
from ai_lib_trio.wire.encode import compile_encoder

MANIFESTS = Path(__file__).resolve().parents[1] / "manifests"
PROVIDER_FILES = sorted((MANIFESTS / "providers").glob("*.yaml"))
MODEL_FILES = sorted((MANIFESTS / "models").glob("*.yaml"))
ERROR_NAMES = {row.name for row in CODES.values()}
BEHAVIOUR = (  # sections that change what a call does: each needs a source
    "endpoint",
    "api_families",
    "error_classification",
    "retry_policy",
    "rate_limits",
    "capabilities",
    "parameters",
    "services",
)
EVIDENCE = {"documentation", "recorded", "library", "specification"}
CAPABILITIES = {
    *("text", "streaming", "vision", "audio", "video", "image_generation", "tts", "stt", "tools", "parallel_tools"),
    *("agentic", "reasoning", "embeddings", "structured_output", "batch", "mcp_client", "mcp_server", "computer_use"),
    *("rerank", "realtime"),
    "assistant_prefill",  # a word of ours: the specification has none for it
}
MODALITIES = {"text", "image", "audio", "video", "pdf", "embedding"}
PRICES = {"input_per_1m", "output_per_1m", "cached_input_per_1m", "cache_write_per_1m"}
FAMOUS = ["openai", "anthropic", "gemini", "deepseek", "groq", "mistral", "openrouter", "xai", "together", "ollama"]


class _Strict(yaml.CSafeLoader):
    """Refuses a key that comes twice in one mapping, and leaves dates as text."""


_Strict.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:timestamp"]
    for first, rules in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def _mapping(loader: _Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in found:
            raise AssertionError(f"{key!r} comes twice, the second time in line {key_node.start_mark.line + 1}")
        found[key] = loader.construct_object(value_node, deep=True)
    return found


_Strict.add_constructor("tag:yaml.org,2002:map", _mapping)


@functools.cache
def load(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        loaded = yaml.load(file, Loader=_Strict)
    assert isinstance(loaded, dict), path
    return loaded


def providers() -> dict[str, dict[str, Any]]:
    return {path.stem: load(path) for path in PROVIDER_FILES}


def models() -> list[tuple[str, str, dict[str, Any]]]:
    return [(path.stem, key, entry) for path in MODEL_FILES for key, entry in load(path)["models"].items()]


def is_date(value: object) -> bool:
    return isinstance(value, str) and bool(datetime.date.fromisoformat(value))


def is_web_link(value: object) -> bool:
    return isinstance(value, str) and urlsplit(value).scheme == "https" and "." in urlsplit(value).netloc


each_provider = pytest.mark.parametrize("path", PROVIDER_FILES, ids=lambda path: path.stem)
each_model_file = pytest.mark.parametrize("path", MODEL_FILES, ids=lambda path: path.stem)


def test_the_providers_of_the_first_release_are_there() -> None:
    assert set(FAMOUS) <= set(providers())


@each_provider
def test_a_provider_file_is_named_after_its_id(path: Path) -> None:
    assert load(path)["id"] == path.stem
    assert load(path)["protocol_version"] == "2.0"


def test_no_alias_is_another_providers_name() -> None:
    seen = dict.fromkeys(providers(), "id")
    for name, tree in providers().items():
        for alias in tree.get("aliases", ()):
            assert alias not in seen, f"{alias} of {name}"
            seen[alias] = name


@each_provider
def test_every_behavioural_section_has_a_source_with_a_link_and_a_date(path: Path) -> None:
    tree = load(path)
    sources = tree["sources"]
    for section in BEHAVIOUR:
        if section in tree:
            assert section in sources, section
    for section, source in sources.items():
        assert set(source) <= {"url", "checked", "dated", "evidence", "note"}, section
        assert is_web_link(source["url"]), section
        assert is_date(source["checked"]), section
        assert is_date(source.get("dated", source["checked"])), section
        assert source.get("dated", source["checked"]) <= source["checked"], section
        assert source.get("evidence", "documentation") in EVIDENCE, section
        top = tree
        for key in section.split("."):
            assert key in top, f"{section} has a source and is not in the file"
            top = top[key]


@each_provider
def test_a_base_url_is_an_origin_with_a_prefix_and_never_a_dialects_path(path: Path) -> None:
    endpoint = load(path)["endpoint"]
    base_url = endpoint["base_url"]
    placeholders = set(re.findall(r"\$\{(\w+)\}", base_url))
    assert placeholders == set(endpoint.get("variables", {}))
    plain = re.sub(r"\$\{\w+\}", "x", base_url)
    parts = urlsplit(plain)
    assert parts.scheme == "https" or parts.hostname in ("127.0.0.1", "localhost")
    assert (parts.query, parts.fragment) == ("", "")
    assert not plain.endswith("/")
    for ending in ("/chat/completions", "/responses", "/messages", "/chat"):
        assert not plain.endswith(ending)


@each_provider
def test_auth_says_how_and_where_the_key_is_looked_for(path: Path) -> None:
    auth = load(path)["endpoint"]["auth"]
    needed = {"bearer": {"token_env"}, "header": {"token_env", "header"}, "query": {"token_env", "param_name"}}
    assert needed.get(auth["type"], set()) <= set(auth)
    assert auth["type"] in (*needed, "none")
    assert re.fullmatch(r"[A-Z][A-Z0-9_]*", auth.get("token_env", "NONE"))


@each_provider
def test_api_families_speak_dialects_that_exist(path: Path) -> None:
    tree = load(path)
    dialects = {dialect.stem for dialect in (MANIFESTS / "dialects").glob("*.yaml")}
    families = tree.get("api_families", {})
    assert families or tree["status"] == "deprecated" or "no dialect" in str(tree.get("notes"))
    if families:
        assert tree["default_api_family"] in families
    for family in families.values():
        assert family["dialect"] in dialects
        assert set(family) <= {"dialect", "encode", "decode", "simulate", "whole"}


@each_provider
def test_error_classes_are_standard_names(path: Path) -> None:
    errors = load(path).get("error_classification", {})
    for status in errors.get("by_http_status", {}):
        assert isinstance(status, int)
        assert 400 <= status <= 599
    for table in ("by_http_status", "by_error_code", "by_message_contains"):
        for said, name in errors.get(table, {}).items():
            assert name in ERROR_NAMES, f"{table} {said}"
            assert table == "by_http_status" or isinstance(said, str)
    for message in errors.get("by_message_contains", {}):
        assert message == message.lower()
    pause = errors.get("retry_after_extraction")
    if pause:
        assert len(pause["pattern"]) <= 200
        assert re.compile(pause["pattern"]).groups == 1


@each_provider
def test_retry_advice_is_in_range(path: Path) -> None:
    policy = load(path).get("retry_policy")
    if policy is None:
        return
    assert 0 <= policy["max_retries"] <= 5
    assert 0 < policy["min_delay_ms"] <= policy["max_delay_ms"] <= 120_000
    assert policy["jitter"] in ("full", "equal", "none")
    assert all(400 <= status <= 599 for status in policy["retry_on_http_status"])
    assert policy["retry_on_http_status"] == sorted(set(policy["retry_on_http_status"]))


@each_provider
def test_limits_name_their_scope_and_lower_case_headers(path: Path) -> None:
    limits = load(path).get("rate_limits")
    if limits is None:
        return
    known = {f"{what}_{which}" for what in ("requests", "tokens") for which in ("limit", "remaining", "reset")}
    assert limits["scope"] in ("key", "model")
    assert set(limits["headers"]) <= known | {"retry_after"}
    for header in limits["headers"].values():
        assert re.fullmatch(r"[a-z0-9-]+", header)


@each_provider
def test_capabilities_are_words_of_the_specification_and_not_both_there_and_absent(path: Path) -> None:
    found = load(path)["capabilities"]
    declared = [*found.get("required", ()), *found.get("optional", ()), *found.get("absent", ())]
    assert set(declared) <= CAPABILITIES
    assert len(declared) == len(set(declared))
    assert all(isinstance(flag, bool) for flag in found.get("feature_flags", {}).values())


@each_provider
def test_parameter_facts_are_ranges_or_choices(path: Path) -> None:
    for name, facts in load(path).get("parameters", {}).items():
        assert facts, name
        assert set(facts) <= {"range", "min", "max", "enum", "required", "default", "type"}, name
        if "range" in facts:
            low, high = facts["range"]
            assert low <= high, name


@each_model_file
def test_a_models_file_holds_one_providers_models(path: Path) -> None:
    tree = load(path)
    assert tree["protocol_version"] == "2.0"
    assert path.stem in providers()
    assert {entry["provider"] for entry in tree["models"].values()} == {path.stem}
    wire_ids = [entry["model_id"] for entry in tree["models"].values()]
    assert len(wire_ids) == len(set(wire_ids))


@each_model_file
def test_a_models_facts_have_units_ranges_and_a_source(path: Path) -> None:
    for key, entry in load(path)["models"].items():
        assert re.fullmatch(r"[a-zA-Z0-9_./:@-]+", key), key
        assert entry["model_id"], key
        for size in ("context_window", "max_output_tokens"):
            assert isinstance(entry.get(size, 1), int), key
            assert 1 <= entry.get(size, 1) <= 20_000_000, key
        assert set(entry.get("capabilities", ())) <= CAPABILITIES, key
        for side in ("input", "output"):
            assert set(entry.get("modalities", {}).get(side, ())) <= MODALITIES, key
        assert entry["status"] in ("active", "preview", "beta", "deprecated"), key
        verification = entry["verification"]
        assert verification["status"] in ("verified", "unverified"), key
        assert is_date(verification["verified_at"]), key
        assert is_web_link(verification["source"]), key


@each_model_file
def test_prices_are_dollars_for_a_million_tokens_and_never_negative(path: Path) -> None:
    for key, entry in load(path)["models"].items():
        pricing = entry.get("pricing")
        if pricing is None:
            continue
        assert pricing["currency"] == "USD", key
        assert set(pricing) <= PRICES | {"currency", "notes"}, key
        for unit in PRICES & set(pricing):
            assert 0 <= pricing[unit] <= 1_000, f"{key} {unit}"
        if pricing.get("input_per_1m"):
            assert pricing.get("cached_input_per_1m", 0) <= pricing["input_per_1m"], key


def test_the_models_named_in_the_documentation_are_registered() -> None:
    named = {f"{provider}/{key}" for provider, key, _ in models()}
    assert {"openai/gpt-5", "anthropic/claude-sonnet-4-5", "gemini/gemini-2.5-flash"} <= named


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return Catalog.open()


@each_provider
def test_a_provider_loads_in_strict_mode_and_its_families_compile(path: Path, catalog: Catalog) -> None:
    manifest = catalog.provider(path.stem)
    assert manifest.id == path.stem
    for family in manifest.families.values():
        compile_encoder(
            family.encode, family.where.at("encode"), dialect=family.dialect, parameters=manifest.parameters
        )
        compile_decoder(family.decode, family.where.at("decode"))


@each_provider
def test_a_plain_request_of_every_family_has_a_path_and_the_models_own_name(path: Path, catalog: Catalog) -> None:
    manifest = catalog.provider(path.stem)
    message = Message(role="user", content="hello")
    for family in manifest.families.values():
        encoder = compile_encoder(family.encode, family.where.at("encode"), dialect=family.dialect)
        encoded = encoder.encode(Request(model="a/model", messages=(message,), max_tokens=7))
        assert encoded.path.startswith("/")
        named = "a/model" in encoded.path + encoded.body.decode() or "a%2Fmodel" in encoded.path
        assert named == (family.dialect != "text_generation")  # a server of one model, which is named nowhere
        assert "7" in encoded.body.decode()


@pytest.mark.parametrize(
    ("provider", "request_fields", "expected"),
    [
        ("mistral", {"seed": 3, "max_tokens": 9}, {"random_seed": 3, "max_tokens": 9}),
        ("openai", {"max_tokens": 9}, {"max_completion_tokens": 9}),
        ("openrouter", {"reasoning_effort": "low", "max_tokens": 9}, {"reasoning": {"effort": "low"}, "max_tokens": 9}),
        ("deepseek", {"thinking": {"type": "disabled"}}, {"thinking": {"type": "disabled"}}),
        (
            "together",
            {"top_k": 4, "stream": True},
            {"top_k": 4, "stream": True, "stream_options": {"include_usage": True}},
        ),
        ("anthropic", {}, {"max_tokens": 4096}),
    ],
)
def test_a_provider_sends_its_own_names(
    provider: str, request_fields: dict[str, Any], expected: dict[str, Any], catalog: Catalog
) -> None:
    family = catalog.provider(provider).family()
    encoder = compile_encoder(family.encode, family.where.at("encode"), dialect=family.dialect)
    message = Message(role="user", content="hello")
    body = json.loads(encoder.encode(Request(model="m", messages=(message,), **request_fields)).body)
    assert {**body, **expected} == body
    assert set(body) - set(expected) <= {"model", "messages"}


def test_every_registered_model_resolves_by_provider_and_key_and_goes_out_under_its_own_name(catalog: Catalog) -> None:
    for provider, key, entry in models():
        found = catalog.resolve(f"{provider}/{key}")
        assert (found.provider_id, found.model_id) == (provider, entry["model_id"])
        for alias in entry.get("aliases", ()):
            assert catalog.resolve(f"{provider}/{alias}").model_id == entry["model_id"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-5", "openai/gpt-5"),
        ("gpt-35-turbo", "openai/gpt-3.5-turbo"),  # the specification's key; another name goes on the wire
        ("claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("gemini-2.5-flash", "gemini/gemini-2.5-flash"),
        ("spark-lite", "spark/lite"),
        ("azure/gpt-5", "azure/gpt-5"),
        ("kimi/kimi-latest", "moonshot/kimi-latest"),
        ("openrouter/openai/gpt-5", "openrouter/openai/gpt-5"),
    ],
)
def test_a_makers_names_stay_unambiguous_beside_those_who_host_them(name: str, expected: str, catalog: Catalog) -> None:
    found = catalog.resolve(name)
    assert f"{found.provider_id}/{found.model_id}" == expected
    assert found.facts is not None
