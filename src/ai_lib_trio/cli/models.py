"""`ailib models`: which models are registered, what they take and what they cost. Imports click and the catalogue."""

from __future__ import annotations

import sys

import click

from ..protocol.loader import Catalog
from ..protocol.registry import ModelFacts
from .options import JSON, MANIFESTS
from .screen import as_json, print_table

__all__ = ["models"]


@click.command()
@click.argument("search", required=False)
@click.option("--provider", help="Only models of this provider.")
@click.option("--capability", "capabilities", multiple=True, help="Only models that declare it. May be repeated.")
@click.option("--min-context", type=click.IntRange(min=1), help="Only models that take at least so many tokens.")
@MANIFESTS
@JSON
def models(
    search: str | None,
    provider: str | None,
    capabilities: tuple[str, ...],
    min_context: int | None,
    manifests: str | None,
    as_document: bool,
) -> None:
    """List registered models; SEARCH looks in names and ids. Prices are for a million tokens.

    A model that is not listed works too, as PROVIDER/MODEL: what is not known of it is not checked.
    """
    found = [
        facts
        for facts in Catalog.open(manifests).models(provider)
        if (search is None or search.lower() in _names(facts))
        and set(capabilities) <= (facts.capabilities or frozenset())
        and (min_context is None or (facts.context_window or 0) >= min_context)
    ]
    if as_document:
        sys.stdout.write(as_json([{"ref": _ref(facts), **_plain(facts)} for facts in found]) + "\n")
        return
    print_table(
        ("model", "context", "output", "in $/1M", "out $/1M", "status"),
        [
            (
                _ref(facts),
                _count(facts.context_window),
                _count(facts.max_output_tokens),
                _price(facts, "input_per_1m"),
                _price(facts, "output_per_1m"),
                facts.status,
            )
            for facts in found
        ],
        right=("context", "output", "in $/1M", "out $/1M"),
    )


def _ref(facts: ModelFacts) -> str:
    return f"{facts.provider}/{facts.key}"


def _names(facts: ModelFacts) -> str:
    return " ".join((_ref(facts), facts.model_id, facts.display_name, *facts.aliases)).lower()


def _plain(facts: ModelFacts) -> dict[str, object]:
    import msgspec

    plain: dict[str, object] = msgspec.to_builtins(facts)
    if facts.capabilities is not None:
        plain["capabilities"] = sorted(facts.capabilities)
    plain["absent"] = sorted(facts.absent)
    return plain


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _price(facts: ModelFacts, name: str) -> str:
    value = getattr(facts.pricing, name) if facts.pricing is not None else None
    currency = facts.pricing.currency if facts.pricing is not None else "USD"
    if value is None:
        return "?"
    return f"{value:g}" if currency == "USD" else f"{value:g} {currency}"
