"""Which models there are, by what they can do, cost, and where they are.

Imports protocol. The rule that must stay true: a filter keeps what is known to fit. What is not known fits no filter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ..protocol.loader import Catalog
from ..protocol.registry import ModelFacts

__all__ = ["ModelManager", "RegisteredModel"]


class RegisteredModel(NamedTuple):
    """A model of the registry. `ref` is `provider/model`, as calls name it; `regions` are its provider's."""

    ref: str
    facts: ModelFacts
    regions: tuple[str, ...]


class ModelManager:
    """The models of a catalogue. `client.models` is the one of a client."""

    def __init__(self, catalog: Callable[[], Catalog], *, is_healthy: Callable[[str], bool] | None = None) -> None:
        self._catalog = catalog  # asked each time: manifests may be replaced while the program runs
        self._is_healthy = is_healthy

    def find(
        self,
        *,
        capabilities: Iterable[str] = (),
        min_context: int | None = None,
        max_input_price: float | None = None,
        max_output_price: float | None = None,
        currency: str = "USD",
        region: str | None = None,
        providers: Iterable[str] | None = None,
        only_healthy: bool = False,
        where: Callable[[RegisteredModel], bool] | None = None,
    ) -> list[RegisteredModel]:
        """The models that fit, in the order of the registry. Prices are for a million tokens, in `currency`.

        `region` is one that the provider declares; `global` is not taken for any other. `only_healthy` leaves out
        providers that are known to be down now. `where` is a filter of your own.
        """
        needed = frozenset(capabilities)
        catalog = self._catalog()
        wanted = None if providers is None else {catalog.provider(name).id for name in providers}
        found = []
        regions_of: dict[str, tuple[str, ...]] = {}
        for facts in catalog.models():
            if wanted is not None and facts.provider not in wanted:
                continue
            if facts.status != "active" or not needed <= (facts.capabilities or frozenset()):
                continue
            if min_context is not None and (facts.context_window is None or facts.context_window < min_context):
                continue
            if not _is_within(facts, max_input_price, max_output_price, currency):
                continue
            if facts.provider not in regions_of:
                regions_of[facts.provider] = _regions(catalog, facts.provider)
            regions = regions_of[facts.provider]
            if region is not None and region not in regions:
                continue
            if only_healthy and self._is_healthy is not None and not self._is_healthy(facts.provider):
                continue
            model = RegisteredModel(f"{facts.provider}/{facts.model_id}", facts, regions)
            if where is None or where(model):
                found.append(model)
        return found


def _regions(catalog: Catalog, provider: str) -> tuple[str, ...]:
    declared = catalog.provider(provider).availability.get("regions")
    return tuple(str(one) for one in declared) if isinstance(declared, (list, tuple)) else ()


def _is_within(facts: ModelFacts, max_input: float | None, max_output: float | None, currency: str) -> bool:
    if max_input is None and max_output is None:
        return True
    pricing = facts.pricing
    if pricing is None or pricing.currency != currency:
        return False
    for most, price in ((max_input, pricing.input_per_1m), (max_output, pricing.output_per_1m)):
        if most is not None and (price is None or price > most):
            return False
    return True
