"""Facts about models: units, what is not known, and who answers to a name."""

from __future__ import annotations

import pytest

from ai_lib_trio.errors import ManifestError
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


def test_every_bundled_model_has_a_verified_source_and_a_price_or_none() -> None:
    for one in Catalog.open(environ={}).models():
        assert one.verification.verified_at, one.key
        assert one.verification.source, one.key
        assert one.pricing is None or one.pricing.currency == "USD", one.key
