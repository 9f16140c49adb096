"""Strategies: plain functions that put candidates in the order in which they are to be asked.

Imports protocol's facts and types. The rules that must stay true: a strategy has no state and no clock, draws chance
from what it is given, and its sort is stable; so strategies compose, and the same call is routed the same way again.

A strategy of your own is one function of candidates and the request; what it leaves out is not asked at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

from ..protocol.manifest import Capabilities
from ..protocol.registry import ModelFacts
from ..types.message import AudioBlock, DocumentBlock, ImageBlock, VideoBlock
from ..types.request import Request

__all__ = [
    "Asked",
    "Candidate",
    "Strategy",
    "best_quality",
    "by",
    "capable",
    "cheapest",
    "compose",
    "fastest",
    "least_busy",
    "needs_of",
    "round_robin",
    "weighted",
]


class Candidate(NamedTuple):
    """One endpoint of an array, as it is now.

    `facts` are the registry's, None for a model that nobody registered; `declared` is what its provider can do.
    `in_flight` and `queued` are its actor's own counts, the latter with the calls that are on their way to it, which
    matter where many begin at once. `first_token_s` is a decaying average of what was measured,
    None before the first reply; `is_failing` is True where its last attempt failed before one, not long ago. `is_well`
    is False while its breaker is open, its actor is down or its check failed.
    """

    name: str
    model: str
    weight: float = 1.0
    quality: float = 0.0
    facts: ModelFacts | None = None
    declared: Capabilities | None = None
    in_flight: int = 0
    queued: int = 0
    first_token_s: float | None = None
    is_failing: bool = False
    is_well: bool = True


class Asked(NamedTuple):
    """What is asked. `turn` counts the array's calls from 0; `tokens` is how much the request is thought to be, with
    its answer; `chance` is this call's own."""

    request: Request
    turn: int
    tokens: int
    chance: Random


Strategy = Callable[[Sequence[Candidate], Asked], Sequence[Candidate]]
"""A function of the candidates and of what is asked: it gives candidates, the one to ask first first.

It has no state, does not wait, and draws chance from `asked.chance`. Who is left out is not asked."""


def by(key: Callable[[Candidate], float]) -> Strategy:
    """The lowest first, by a number of your own; ties stay in the order in which they came."""

    def strategy(candidates: Sequence[Candidate], asked: Asked) -> Sequence[Candidate]:
        return sorted(candidates, key=key)

    return strategy


def compose(*strategies: Strategy) -> Strategy:
    """One after the other: the last has the last word, and those before it decide between what it finds equal."""

    def strategy(candidates: Sequence[Candidate], asked: Asked) -> Sequence[Candidate]:
        for one in strategies:
            candidates = one(candidates, asked)
        return candidates

    return strategy


def round_robin(candidates: Sequence[Candidate], asked: Asked) -> Sequence[Candidate]:
    """Each call begins at the next one."""
    if not candidates:
        return candidates
    start = asked.turn % len(candidates)
    return [*candidates[start:], *candidates[:start]]


def weighted(candidates: Sequence[Candidate], asked: Asked) -> Sequence[Candidate]:
    """By lot, each with the chance of its weight; one of weight 0 comes after all others."""
    # Sorted by an exponential waiting time at the rate of its weight: the first is i with the chance w_i / sum(w).
    waits = [
        (-math.log(1.0 - asked.chance.random()) / one.weight if one.weight > 0 else math.inf) for one in candidates
    ]
    order = sorted(range(len(candidates)), key=waits.__getitem__)
    return [candidates[number] for number in order]


def cheapest(candidates: Sequence[Candidate], asked: Asked) -> Sequence[Candidate]:
    """By what the request is thought to cost; unknown prices come last. Prices in several currencies are not compared:
    each currency keeps the place of its first candidate."""
    currencies = list(dict.fromkeys(_currency(one) for one in candidates if _currency(one) is not None))

    def key(one: Candidate) -> tuple[float, float]:
        price = _price(one, asked)
        return (math.inf, 0.0) if price is None else (float(currencies.index(_currency(one))), price)

    return sorted(candidates, key=key)


def best_quality(candidates: Sequence[Candidate], asked: Asked) -> Sequence[Candidate]:
    """By the quality that you gave each endpoint, the highest first."""
    return sorted(candidates, key=lambda one: -one.quality)


def fastest(candidates: Sequence[Candidate], asked: Asked) -> Sequence[Candidate]:
    """By the measured time to a first token. What was never measured comes first: it is measured by being asked. What
    failed instead comes last, for the array's next twenty calls or until it has answered one."""

    def key(one: Candidate) -> float:
        if one.is_failing:
            return math.inf
        return -1.0 if one.first_token_s is None else one.first_token_s

    return sorted(candidates, key=key)


def least_busy(candidates: Sequence[Candidate], asked: Asked) -> Sequence[Candidate]:
    """By the calls that each one's actor has, running and waiting, for its weight."""
    return sorted(candidates, key=lambda one: (one.in_flight + one.queued) / one.weight if one.weight > 0 else math.inf)


def capable(candidates: Sequence[Candidate], asked: Asked) -> Sequence[Candidate]:
    """Only those that are not known to be unable: of what the request needs nothing is declared absent, and it fits."""
    needs = needs_of(asked.request)
    return [one for one in candidates if _can(one, needs, asked.tokens)]


def needs_of(request: Request) -> frozenset[str]:
    """The capabilities that a request cannot do without."""
    needs = set()
    if request.tools:
        needs.add("tools")
    if request.response_format is not None and request.response_format.mode == "json_schema":
        needs.add("structured_output")
    for message in request.messages:
        for block in message.content if not isinstance(message.content, str) else ():
            need = _NEEDED.get(type(block))
            if need is not None:
                needs.add(need)
    return frozenset(needs)


_NEEDED: Mapping[type[Any], str] = {
    ImageBlock: "vision",
    DocumentBlock: "documents",
    AudioBlock: "audio",
    VideoBlock: "video",
}


def _can(one: Candidate, needs: frozenset[str], tokens: int) -> bool:
    facts = one.facts
    if facts is None:
        # Of a model that nobody registered nothing is known: it is tried.
        return True
    if needs & facts.absent:
        return False
    if facts.capabilities is not None:
        declared = facts.capabilities | (one.declared.declared if one.declared is not None else frozenset())
        if needs - declared:
            return False
    return facts.context_window is None or tokens <= facts.context_window


def _currency(one: Candidate) -> str | None:
    pricing = one.facts.pricing if one.facts is not None else None
    return None if pricing is None else pricing.currency


def _price(one: Candidate, asked: Asked) -> float | None:
    pricing = one.facts.pricing if one.facts is not None else None
    if pricing is None or pricing.input_per_1m is None or pricing.output_per_1m is None:
        return None
    made = asked.request.max_tokens or 0
    read = max(asked.tokens - made, 0)
    # Without a bound an answer is taken to be as long as its question: only the order matters.
    return read * pricing.input_per_1m + (made or read) * pricing.output_per_1m
