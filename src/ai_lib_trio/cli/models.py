"""`ailib models`: which models are registered, what they take and what they cost. Imports click and the catalogue."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import click

from ..protocol.loader import Catalog
from ..protocol.registry import ModelFacts
from ..protocol.tree import nearest, suggestion
from .options import JSON, MANIFESTS
from .screen import as_json, console_for, print_nothing_found, print_table

__all__ = ["models"]


@click.command(short_help="List models, what they take and what they cost.")
@click.argument("words", metavar="[WORD]...", nargs=-1)
@click.option("--provider", "providers", multiple=True, help="Only models of this provider. May be repeated.")
@click.option("--capability", "capabilities", multiple=True, help="Only models that declare it. May be repeated.")
@click.option("--min-context", type=click.IntRange(min=1), help="Only models that take at least so many tokens.")
@click.option("--max-input-price", type=click.FloatRange(min=0), help="At most so many $ for 1M tokens read.")
@click.option("--max-output-price", type=click.FloatRange(min=0), help="At most so many $ for 1M tokens written.")
@click.option(
    "--status", "statuses", multiple=True, help="Only models of this status, such as active. May be repeated."
)
@click.option(
    "--sort", type=click.Choice(("name", "context", "input-price", "output-price")), help="Order of the list."
)
@MANIFESTS
@JSON
def models(
    words: tuple[str, ...],
    providers: tuple[str, ...],
    capabilities: tuple[str, ...],
    min_context: int | None,
    max_input_price: float | None,
    max_output_price: float | None,
    statuses: tuple[str, ...],
    sort: str | None,
    manifests: str | None,
    as_document: bool,
) -> None:
    """List registered models; each WORD must be in a name or id. Prices are $ for a million tokens.

    A filter leaves out the models of which the fact is not known. A model that is not listed works too, as
    PROVIDER/MODEL: what is not known of it is not checked.
    """
    catalog = Catalog.open(manifests)
    listed = catalog.models() if not providers else [facts for one in providers for facts in catalog.models(one)]
    found = [
        facts
        for facts in dict.fromkeys(listed)
        if all(word.lower() in _names(facts) for word in words)
        and set(capabilities) <= (facts.capabilities or frozenset())
        and (min_context is None or (facts.context_window or 0) >= min_context)
        and _costs_at_most(facts, "input_per_1m", max_input_price)
        and _costs_at_most(facts, "output_per_1m", max_output_price)
        and (not statuses or facts.status in statuses)
    ]
    if sort is not None:
        found.sort(key=_ORDERS[sort])
    if as_document:
        sys.stdout.write(as_json([{"ref": facts.ref, **_plain(facts)} for facts in found]) + "\n")
        return
    if not found:
        if not listed:
            print_nothing_found("model is registered", [f" for {' or '.join(providers)}. PROVIDER/MODEL works without"])
        else:
            print_nothing_found("model fits", _hints(listed, words, capabilities, statuses))
        return
    count = _short if console_for(sys.stdout) is not None else _exact
    print_table(
        ("model", "context", "output", "in $/1M", "out $/1M", "status"),
        [
            (
                facts.ref,
                count(facts.context_window),
                count(facts.max_output_tokens),
                _price(facts, "input_per_1m"),
                _price(facts, "output_per_1m"),
                facts.status,
            )
            for facts in found
        ],
        right=("context", "output", "in $/1M", "out $/1M"),
    )


def _names(facts: ModelFacts) -> str:
    return " ".join((facts.ref, facts.model_id, facts.display_name, *facts.aliases)).lower()


def _plain(facts: ModelFacts) -> dict[str, object]:
    import msgspec

    plain: dict[str, object] = msgspec.to_builtins(facts)
    if facts.capabilities is not None:
        plain["capabilities"] = sorted(facts.capabilities)
    plain["absent"] = sorted(facts.absent)
    return plain


def _costs(facts: ModelFacts, name: str) -> float | None:
    """A price in dollars; None where it is not known, or in another currency."""
    pricing = facts.pricing
    value: float | None = getattr(pricing, name) if pricing is not None and pricing.currency == "USD" else None
    return value


def _costs_at_most(facts: ModelFacts, name: str, limit: float | None) -> bool:
    value = _costs(facts, name)
    return limit is None or (value is not None and value <= limit)


def _by_price(name: str) -> Callable[[ModelFacts], tuple[object, ...]]:
    def order(facts: ModelFacts) -> tuple[object, ...]:
        value = _costs(facts, name)
        return (value is None, value or 0.0, facts.ref)

    return order


_ORDERS: dict[str, Callable[[ModelFacts], tuple[object, ...]]] = {
    "name": lambda facts: (facts.ref,),
    "context": lambda facts: (-(facts.context_window or 0), facts.ref),
    "input-price": _by_price("input_per_1m"),
    "output-price": _by_price("output_per_1m"),
}


def _hints(
    listed: Sequence[ModelFacts], words: Sequence[str], capabilities: Sequence[str], statuses: Sequence[str]
) -> list[str]:
    """Why nothing may have been found, beginning with a colon, a semicolon or a full stop."""
    declared = {one for facts in listed for one in facts.capabilities or ()}
    hints = [f": none declares {one!r}{suggestion(one, declared)}" for one in capabilities if one not in declared]
    known = {facts.status for facts in listed}
    hints += [f": none is {one!r}{suggestion(one, known)}" for one in statuses if one not in known]
    if words and not hints:
        close = nearest("-".join(words), [name for facts in listed for name in (facts.key, facts.model_id)])
        hints += [f": did you mean {' or '.join(close)}?"] if close else []
    return hints or [". One that is not listed works as PROVIDER/MODEL"]


def _exact(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _short(value: int | None) -> str:
    """A number of tokens for people: 8192 is 8192, 131072 is 131k, 1048576 is 1.05M."""
    if value is None:
        return "?"
    if value >= 1_000_000:
        return f"{value / 1_000_000:.3g}M"
    return f"{value / 1000:.0f}k" if value >= 10_000 else str(value)


def _price(facts: ModelFacts, name: str) -> str:
    value = getattr(facts.pricing, name) if facts.pricing is not None else None
    currency = facts.pricing.currency if facts.pricing is not None else "USD"
    if value is None:
        return "?"
    return f"{value:g}" if currency == "USD" else f"{value:g} {currency}"
