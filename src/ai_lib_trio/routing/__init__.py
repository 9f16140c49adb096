"""Routing: one name for several models, endpoints or keys, and who of them is asked first.

`manager` finds models by what they can do, `array` is one name over several of them, `strategies` orders them.
Imports types, protocol and `errors`. The rule that must stay true: routing only orders. What is asked, retried and paid
for is up to the same policies as for every other call, and whoever comes later in the order is a fallback.
"""

from __future__ import annotations

from .array import Endpoint, ModelArray, Router
from .manager import ModelManager
from .strategies import (
    Asked,
    Candidate,
    Strategy,
    best_quality,
    by,
    capable,
    cheapest,
    compose,
    fastest,
    least_busy,
    round_robin,
    weighted,
)

__all__ = [
    "Asked",
    "Candidate",
    "Endpoint",
    "ModelArray",
    "ModelManager",
    "Router",
    "Strategy",
    "best_quality",
    "by",
    "capable",
    "cheapest",
    "compose",
    "fastest",
    "least_busy",
    "round_robin",
    "weighted",
]
