"""Facts about models: units, what is not known, and who answers to a name."""

from __future__ import annotations

from functools import cache

import pytest

from ai_lib_trio.errors import CallerError, ManifestError
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.registry import ModelFacts, Registry, read_models
from ai_lib_trio.protocol.tree import Reader
from ai_lib_trio.protocol.yaml_source import read_yaml


def models(text: str, *, strict: bool = True, notes: list[str] | None = None) -> list[ModelFacts]:
    document = read_yaml('protocol_version: "2.0"\nmodels:\n  ' + text.replace("\n", "\n  "), "m.yaml")
    return read_models(Reader(document.data, document.where, strict=strict, notes=[] if notes is None else notes))


def test_an_entry_states_what_it_states_and_nothing_else() -> None:
    (bare,) = models("m: {provider: acme, model_id: m-1}")
    assert (bare.context_window, bare.max_output_tokens, bare.capabilities, bare.modalities, bare.pricing) == (
        None,
    ) * 5
    assert (bare.display_name, bare.status, bare.verification.status) == ("m", "active", "unverified")


def test_prices_per_token_become_prices_per_million() -> None:
    (facts,) = models("m: {provider: a, model_id: m, pricing: {input_per_token: 0.0000015, output_per_token: null}}")
    assert facts.pricing is not None
    assert (facts.pricing.input_per_1m, facts.pricing.output_per_1m, facts.pricing.currency) == (1.5, None, "USD")


def test_the_cached_price_has_two_spellings() -> None:
    (facts,) = models("m: {provider: a, model_id: m, pricing: {input_per_1m: 3, cache_hit_input_per_1m: 0.3}}")
    assert facts.pricing is not None
    assert (facts.pricing.input_per_1m, facts.pricing.cached_input_per_1m) == (3.0, 0.3)


def test_a_window_of_zero_means_not_known() -> None:
    (facts,) = models("m: {provider: a, model_id: m, context_window: 0}")
    assert facts.context_window is None


def test_no_capabilities_and_an_empty_list_are_two_things() -> None:
    one, two = models("m: {provider: a, model_id: m}\nn: {provider: a, model_id: n, capabilities: []}")
    assert one.capabilities is None
    assert two.capabilities == frozenset()


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{model_id: m}", "m.yaml:3 at models.m: expected 'provider'"),
        ("{provider: a, context_window: big}", "at models.m.context_window: expected an integer of at least 0"),
        ("{provider: a, pricing: {input_per_1m: cheap}}", "at models.m.pricing.input_per_1m: expected a number"),
        ("{provider: a, pricing: {input_per_1m: -1}}", "expected a price of at least 0"),
        ("{provider: a, contxt_window: 5}", "unknown key 'contxt_window'; did you mean 'context_window'"),
    ],
)
def test_a_wrong_entry_is_named_with_file_line_and_path(entry: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        models(f"m: {entry}")
    assert message in str(caught.value)


def test_unknown_keys_of_a_foreign_registry_are_counted() -> None:
    notes: list[str] = []
    models("m: {provider: a, model_id: m, x: 1}", strict=False, notes=notes)
    assert len(notes) == 1


def facts(provider: str, key: str, model_id: str = "", aliases: tuple[str, ...] = ()) -> ModelFacts:
    return ModelFacts(key=key, provider=provider, model_id=model_id or key, display_name=key, aliases=aliases)


def test_a_key_wins_over_another_models_wire_id_and_that_over_an_alias() -> None:
    by_alias, by_id, by_key = facts("a", "k1", aliases=("x",)), facts("a", "k2", "x"), facts("a", "x", "x-9")
    assert Registry([by_alias, by_id, by_key]).of_provider("a", "x") is by_key
    assert Registry([by_alias, by_id]).of_provider("a", "x") is by_id
    assert Registry([by_alias]).of_provider("a", "x") is by_alias


def test_a_key_that_begins_with_its_provider_is_found_without_it() -> None:
    registry = Registry([facts("a", "a/maker/m", "maker/m")])
    assert registry.of_provider("a", "maker/m") is not None
    assert set(registry.anywhere("a/maker/m")) == {"a"}


def test_the_first_source_of_a_model_decides() -> None:
    first, second = facts("a", "m", "one"), facts("a", "m", "two")
    registry = Registry([first, second])
    assert registry.models == (first,)
    assert registry.of_provider("a", "m") is first
    assert registry.of_provider("a", "two") is None


@cache
def bundled() -> Catalog:
    return Catalog.open(environ={})


# The files of the specification's registry whose models newer sources know as well: key -> the wire's id, where it is
# another. https://github.com/ailib-official/ai-protocol, v1/models, read 2026-11-28. The other files' entries are here
# with that source.
SPECIFIED: dict[str, dict[str, str]] = {
    "anthropic": {
        "claude-3-5-sonnet": "claude-3-5-sonnet-20241022",
        "claude-3-5-haiku": "claude-3-5-haiku-20241022",
        "claude-3-opus": "claude-3-opus-20240229",
    },
    "cohere": dict.fromkeys(
        [
            "command-r-plus",
            "command-r-plus-08-2024",
            "command-r",
            "command-r-08-2024",
            "command-light",
            "embed-english-v3.0",
            "embed-multilingual-v3.0",
            "rerank-english-v3.0",
            "rerank-multilingual-v3.0",
        ],
        "",
    ),
    "deepseek": dict.fromkeys(["deepseek-chat", "deepseek-reasoner"], ""),
    "gemini": dict.fromkeys(
        ["gemini-2.5-pro", "gemini-2.5-flash", "gemini-2.5-flash-lite", "gemini-3.1-flash-lite-preview"], ""
    ),
    "openai": {
        **dict.fromkeys(["gpt-4o", "gpt-4o-mini", "gpt-4-turbo", "gpt-4.1"], ""),
        "gpt-35-turbo": "gpt-3.5-turbo",
    },
    "groq": dict.fromkeys(
        [
            "llama3-8b-8192",
            "llama3-70b-8192",
            "llama-3.1-8b-instant",
            "llama-3.3-70b-versatile",
            "meta-llama/llama-4-maverick-17b-128e-instruct",
            "meta-llama/llama-4-scout-17b-16e-instruct",
        ],
        "",
    ),
    "mistral": dict.fromkeys(
        [
            "mistral-small-latest",
            "mistral-medium-latest",
            "mistral-large-latest",
            "pixtral-12b-latest",
            "pixtral-large-latest",
            "open-mistral-7b",
            "mistral-tiny",
        ],
        "",
    ),
    "nvidia": dict.fromkeys(
        [
            "nvidia-nemotron-4-340b-instruct",
            "nvidia/llama3-chatqa-1.5-70b",
            "deepseek-ai/deepseek-r1",
            "mistralai/mistral-large-2-instruct",
            "mistralai/mixtral-8x22b-instruct",
            "meta/llama3-70b",
            "moonshotai/kimi-k2-instruct",
            "minimaxai/minimax-m2",
        ],
        "",
    ),
    "qwen": dict.fromkeys(["qwen-max", "qwen-turbo"], ""),
    "siliconflow": {
        f"siliconflow/{one}": one
        for one in ("deepseek-ai/DeepSeek-V2.5", "Qwen/Qwen2.5-72B-Instruct", "meta-llama/Meta-Llama-3.1-70B-Instruct")
    },
}


@pytest.mark.parametrize(
    ("provider", "key", "model_id"),
    [(provider, key, wire or key) for provider, keys in SPECIFIED.items() for key, wire in keys.items()],
)
def test_a_model_of_the_specification_is_found_by_key_by_provider_and_key_and_by_provider_and_wire_id(
    provider: str, key: str, model_id: str
) -> None:
    catalog = bundled()
    for text in (key, f"{provider}/{key}", f"{provider}/{model_id}"):
        found = catalog.resolve(text)
        assert (found.provider_id, found.model_id) == (provider, model_id), text
        assert found.facts is not None, text


def test_the_rest_of_the_specifications_registry_is_here_and_found_the_same_ways() -> None:
    catalog = bundled()
    own = [one for one in catalog.models() if "/ai-protocol/" in (one.verification.source or "")]
    listed = {(provider, key) for provider, keys in SPECIFIED.items() for key in keys}
    assert len({(one.provider, one.key) for one in own} | listed) >= 193
    for one in own:
        for text in (f"{one.provider}/{one.key}", f"{one.provider}/{one.model_id}"):
            found = catalog.resolve(text)
            assert (found.provider_id, found.model_id) == (one.provider, one.model_id), text


@pytest.mark.parametrize(
    ("family", "names"),
    [("gemini", ["google"]), ("moonshot", ["kimi"]), ("zhipu", ["glm"]), ("baidu", ["ernie", "qianfan"])],
)
def test_a_family_of_the_published_map_goes_by_its_names_exactly(family: str, names: list[str]) -> None:
    catalog = bundled()
    for name in names:
        assert catalog.provider(name).id == family
        assert catalog.resolve(f"{name}/anything/at:all").model_id == "anything/at:all"
        for wrong in (name.title(), f"{name}-", name.upper()):
            with pytest.raises(CallerError) as caught:
                catalog.provider(wrong)
            assert caught.value.kind == "unknown_provider"


def test_every_bundled_model_is_named_with_its_provider_once_and_found_by_that() -> None:
    catalog = Catalog.open(None, {})
    models = catalog.models()
    assert len({facts.ref for facts in models}) == len(models)
    for facts in models:
        provider, _, rest = facts.ref.partition("/")
        assert provider == facts.provider
        assert not rest.startswith(f"{provider}/")
        found = catalog.resolve(facts.ref)
        assert (found.facts, found.model_id, found.ref) == (facts, facts.model_id, facts.ref)
        assert facts.key == facts.ref or f"{facts.provider}/{facts.key}" == facts.ref


def test_every_bundled_model_has_a_verified_source_and_a_price_or_none() -> None:
    for one in bundled().models():
        assert one.verification.verified_at, one.key
        assert one.verification.source, one.key
        assert one.pricing is None or one.pricing.currency == "USD", one.key
