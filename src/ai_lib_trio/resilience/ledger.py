"""The ledger: what each attempt of a call used and cost, how well that is known, and what they come to together.

Imports types, `protocol.registry` and `estimate`. Pure. The rules that must stay true: every attempt has one entry,
whatever became of it; what is not known is said to be unknown, never counted as nothing; a total is the sum of its
entries.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..protocol.registry import Pricing
from ..types.request import Request
from ..types.stats import Attempt, AttemptState, Billed
from ..types.usage import Usage
from .estimate import CHARS_PER_TOKEN

__all__ = ["Account", "Total", "account", "cost_of", "most_of", "output_so_far", "total_of"]

_ORDER: tuple[Billed, ...] = ("nothing", "reported", "estimated", "unknown")


class Account(msgspec.Struct, frozen=True):
    """One attempt's usage and cost, and how well they are known."""

    billed: Billed
    usage: Usage | None
    cost: float | None
    currency: str | None


class Total(msgspec.Struct, frozen=True):
    """What the attempts cost together. `billed` is the weakest of theirs; `cost` sums what is known."""

    billed: Billed
    cost: float | None
    currency: str | None


def account(
    *,
    state: AttemptState,
    usage: Usage | None,
    chars_out: int,
    input_estimate: int,
    pricing: Pricing | None,
) -> Account:
    """The entry of an attempt that came that far.

    What never went out or was refused costs nothing: providers do not bill error statuses. A complete answer's usage is
    the provider's. An answer that was cut, left or lost is estimated from what was sent and what arrived (the provider
    may have made more before it noticed). Silence after sending is unknown.
    """
    currency = pricing.currency if pricing is not None else None
    if state in ("unsent", "refused"):
        return Account("nothing", None, 0.0, currency)
    has_input = usage is not None and usage.input_tokens is not None
    if state == "complete" and usage is not None and has_input and usage.output_tokens is not None:
        return _priced("reported", usage, pricing)
    if state == "silent" and not has_input:
        return Account("unknown", None, None, None)
    arrived, _ = output_so_far(None, chars_out)
    known = usage or Usage()
    read = known.input_tokens if known.input_tokens is not None else input_estimate
    made = max(known.output_tokens or 0, arrived)
    guess = Usage(
        input_tokens=read,
        output_tokens=made,
        total_tokens=read + made,
        cached_tokens=known.cached_tokens,
        cache_write_tokens=known.cache_write_tokens,
    )
    return _priced("estimated", guess, pricing)


def output_so_far(usage: Usage | None, chars_out: int) -> tuple[int, bool]:
    """How many tokens came out, and whether the provider says so: else it is estimated from the characters."""
    if usage is not None and usage.output_tokens is not None:
        return usage.output_tokens, True
    return -(-chars_out // CHARS_PER_TOKEN), False


def _priced(billed: Billed, usage: Usage, pricing: Pricing | None) -> Account:
    cost = cost_of(usage, pricing)
    return Account(billed, usage, cost, pricing.currency if pricing is not None and cost is not None else None)


def cost_of(usage: Usage, pricing: Pricing | None) -> float | None:
    """What the tokens cost by the registry's prices; None where a count or a price that matters is not known."""
    if pricing is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    if pricing.input_per_1m is None or pricing.output_per_1m is None:
        return None

    def price(value: float | None) -> float:
        return pricing.input_per_1m or 0.0 if value is None else value

    cached = usage.cached_tokens or 0
    written = usage.cache_write_tokens or 0
    plain = max(usage.input_tokens - cached - written, 0)  # some count their parts beside the whole
    total = (
        plain * pricing.input_per_1m
        + cached * price(pricing.cached_input_per_1m)
        + written * price(pricing.cache_write_per_1m)
        + usage.output_tokens * pricing.output_per_1m
    )
    return total / 1_000_000


def most_of(request: Request, tokens_in: int, tokens_out: int | None, pricing: Pricing | None) -> float | None:
    """The most that a reply of so many tokens may cost; None where a count or price is unknown. What the request asks
    to be kept in a cache may be charged as written to it, which some charge more for."""
    cost = cost_of(Usage(input_tokens=tokens_in, output_tokens=tokens_out), pricing)
    if cost is None or not _is_cached(request):
        return cost
    written = Usage(input_tokens=tokens_in, output_tokens=tokens_out, cache_write_tokens=tokens_in)
    return max(cost, cost_of(written, pricing) or 0.0)


def _is_cached(request: Request) -> bool:
    return any(
        getattr(block, "cache_control", None) is not None
        for message in request.messages
        if not isinstance(message.content, str)
        for block in message.content
    )


def total_of(attempts: Iterable[Attempt]) -> Total:
    """The sum of the entries. Prices in several currencies have no sum."""
    entries = list(attempts)
    nothing: Billed = "nothing"
    billed = max((entry.billed for entry in entries), key=_ORDER.index, default=nothing)
    spent = [entry for entry in entries if entry.billed != "nothing"]
    known = [entry for entry in spent if entry.cost is not None]
    currencies = {entry.currency for entry in known}
    if len(currencies) > 1:
        return Total(billed, None, None)
    if not known:
        return Total(billed, None if spent else 0.0, None)
    return Total(billed, sum(entry.cost or 0.0 for entry in known), currencies.pop())
