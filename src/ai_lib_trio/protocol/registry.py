"""Model files become facts about models, and an index over them.

Imports `errors`, `tree`, `where`. The rule that must stay true: a fact that a file does not state is None, never a
guess; prices are US dollars (or what `currency` says) for a million tokens, whatever unit a file was written in.
"""

# No postponed annotations here: msgspec would evaluate each of them anew, which costs as much as 50 manifests do.

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from .tree import Reader, kind_of

__all__ = [
    "Modalities",
    "ModelFacts",
    "ModelRef",
    "Pricing",
    "Registry",
    "Verification",
    "models_of_metadata",
    "read_models",
]


class Pricing(msgspec.Struct, frozen=True):
    """Prices for one million tokens; None where the provider states none."""

    input_per_1m: float | None = None
    output_per_1m: float | None = None
    cached_input_per_1m: float | None = None
    cache_write_per_1m: float | None = None
    currency: str = "USD"


class Modalities(msgspec.Struct, frozen=True):
    """What goes in and what comes out: text, image, audio, video, pdf."""

    input: tuple[str, ...] = ()
    output: tuple[str, ...] = ()


class Verification(msgspec.Struct, frozen=True):
    """Where the facts were read and when (a date as text)."""

    status: str = "unverified"
    verified_at: str | None = None
    source: str | None = None


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One registered model. `key` is the name in the registry, `model_id` what goes on the wire.

    `capabilities` is None where the file lists none: then nothing is known, rather than nothing declared.
    """

    key: str
    provider: str
    model_id: str
    display_name: str
    aliases: tuple[str, ...] = ()
    context_window: int | None = None
    max_output_tokens: int | None = None
    capabilities: frozenset[str] | None = None
    absent: frozenset[str] = frozenset()
    modalities: Modalities | None = None
    pricing: Pricing | None = None
    status: str = "active"
    verification: Verification = Verification()

    @property
    def ref(self) -> str:
        """How calls name it: `provider/model`, also where the key begins with the provider itself."""
        return f"{self.provider}/{self.key.removeprefix(self.provider + '/')}"


class ModelRef(msgspec.Struct, frozen=True):
    """A model that a call may go to. `model_id` is the wire's name, `ref` is `provider/model` as people write it."""

    provider_id: str
    model_id: str
    ref: str
    facts: ModelFacts | None = None


def read_models(root: Reader) -> list[ModelFacts]:
    """The models of one file. Raises `ManifestError` with file, line and path."""
    root.need_text("protocol_version")
    listing = root.child("models")
    root.tree("sources")
    root.raw("notes")
    root.raw("$schema")
    root.close()
    found = []
    for key in listing.value if listing is not None else ():
        reader = listing.child(key) if listing is not None else None
        if reader is not None:
            found.append(_model(str(key), reader))
    return found


def models_of_metadata(provider: str, models: Any, names: Mapping[str, str]) -> list[ModelFacts]:
    """The facts in a specification manifest's `metadata.models`, an open block: what is not as expected is not known.

    `names` are our capabilities for its words. A word that is false is declared absent; one that is missing is unknown.
    """
    found = []
    for model_id, entry in models.items() if isinstance(models, Mapping) else ():
        if not isinstance(entry, Mapping):
            continue
        said = _mapping(entry.get("model_capabilities"))
        ways = _mapping(entry.get("modalities"))
        prices = _mapping(entry.get("pricing"))
        verified = _mapping(entry.get("verification"))
        found.append(
            ModelFacts(
                key=str(model_id),
                provider=provider,
                model_id=str(model_id),
                display_name=str(entry.get("display_name") or model_id),
                context_window=_positive(entry.get("context_window")),
                max_output_tokens=_positive(entry.get("max_output_tokens")),
                capabilities=frozenset(names.get(one, one) for one, has in said.items() if has is True) or None,
                absent=frozenset(names.get(one, one) for one, has in said.items() if has is False),
                modalities=Modalities(_texts(ways.get("input")), _texts(ways.get("output"))) if ways else None,
                pricing=Pricing(
                    input_per_1m=_price(prices.get("input_per_1m")),
                    output_per_1m=_price(prices.get("output_per_1m")),
                    cached_input_per_1m=_price(prices.get("cache_hit_input_per_1m")),
                )
                if prices
                else None,
                status=str(entry.get("status") or "active"),
                verification=Verification(
                    status=_text(verified.get("status")) or "unverified",
                    verified_at=_text(verified.get("verified_at")),
                    source=_text(verified.get("source")),
                ),
            )
        )
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _price(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and value >= 0 else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(one for one in value if isinstance(one, str)) if isinstance(value, list) else ()


def _model(key: str, reader: Reader) -> ModelFacts:
    model_id = reader.text("model_id") or key
    capabilities = reader.raw("capabilities")
    facts = ModelFacts(
        key=key,
        provider=reader.need_text("provider"),
        model_id=model_id,
        display_name=reader.text("display_name") or reader.text("name") or key,
        aliases=reader.texts("aliases"),
        context_window=_size(reader, "context_window"),
        max_output_tokens=_size(reader, "max_output_tokens"),
        capabilities=None if capabilities is None else frozenset(reader.texts("capabilities")),
        absent=frozenset(reader.texts("absent")),
        modalities=_modalities(reader),
        pricing=_pricing(reader),
        status=reader.text("status") or "active",
        verification=_verification(reader),
    )
    for documentation in ("name", "tags", "modality", "dimensions", "agentic_capabilities", "notes", "metadata"):
        reader.raw(documentation)
    reader.close()
    return facts


def _size(reader: Reader, key: str) -> int | None:
    return reader.integer(key, 0) or None  # upstream writes 0 for what is not known


def _modalities(reader: Reader) -> Modalities | None:
    child = reader.child("modalities")
    if child is None:
        return None
    found = Modalities(input=child.texts("input"), output=child.texts("output"))
    child.close()
    return found


def _pricing(reader: Reader) -> Pricing | None:
    child = reader.child("pricing")
    if child is None:
        return None

    def price(per_1m: str, per_token: str, other_per_1m: str = "") -> float | None:
        value, single, other = child.number(per_1m), child.number(per_token), child.number(other_per_1m)
        if value is None:
            value = other
        if value is None and single is not None:
            value = round(single * 1_000_000, 9)  # 0.0000015 * 1e6 is 1.5, not 1.4999999999999998
        if value is not None and value < 0:
            raise child.where.at(per_1m).error(f"expected a price of at least 0, got {kind_of(value)}")
        return value

    found = Pricing(
        input_per_1m=price("input_per_1m", "input_per_token"),
        output_per_1m=price("output_per_1m", "output_per_token"),
        cached_input_per_1m=price("cached_input_per_1m", "cached_input_per_token", "cache_hit_input_per_1m"),
        cache_write_per_1m=price("cache_write_per_1m", "cache_write_per_token"),
        currency=child.text("currency") or "USD",
    )
    for documentation in ("tiers", "notes"):
        child.raw(documentation)
    child.close()
    return found


def _verification(reader: Reader) -> Verification:
    child = reader.child("verification")
    if child is None:
        return Verification()
    found = Verification(
        status=child.text("status") or "unverified",
        verified_at=child.text("verified_at"),
        source=child.text("source"),
    )
    child.raw("notes")
    child.close()
    return found


class Registry:
    """Models by name. Within a provider by key, wire id or alias; across providers by the same, where it is unique.

    A key that begins with its provider (`host/model`) says that the model is another's, served there: across providers
    it answers to that key alone, so that a marketplace does not make its makers' own names ambiguous.
    """

    __slots__ = ("_by_name", "_by_provider", "models")

    def __init__(self, models: Iterable[ModelFacts]) -> None:
        # The first source that has a model decides what is said of it.
        first: dict[tuple[str, str], ModelFacts] = {}
        for facts in models:
            first.setdefault((facts.provider, facts.key), facts)
        self.models: tuple[ModelFacts, ...] = tuple(first.values())
        self._by_provider: dict[tuple[str, str], ModelFacts] = {}
        self._by_name: dict[str, dict[str, ModelFacts]] = {}
        # Keys first, then wire ids, then aliases: a key is what the file's writer chose, and it wins.
        for names in (_key, _wire_id, _aliases):
            for facts in self.models:
                for name in names(facts):
                    self._by_provider.setdefault((facts.provider, name), facts)
                    if names is _key or not facts.key.startswith(f"{facts.provider}/"):
                        self._by_name.setdefault(name, {}).setdefault(facts.provider, facts)

    def of_provider(self, provider: str, name: str) -> ModelFacts | None:
        """A provider's model by key, wire id or alias."""
        found = self._by_provider.get((provider, name))
        return found or self._by_provider.get((provider, f"{provider}/{name}"))

    def anywhere(self, name: str) -> dict[str, ModelFacts]:
        """Who has a model of this name: provider -> facts."""
        return self._by_name.get(name, {})

    def names(self) -> list[str]:
        """Every name that `anywhere` knows."""
        return list(self._by_name)


def _key(facts: ModelFacts) -> tuple[str, ...]:
    return (facts.key,)


def _wire_id(facts: ModelFacts) -> tuple[str, ...]:
    return (facts.model_id,)


def _aliases(facts: ModelFacts) -> tuple[str, ...]:
    return facts.aliases
