"""Usage: what a reply cost in tokens. Apart from `response`, which imports the events that carry it."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["Usage"]


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of one reply. What the provider did not report is None, never 0.

    `input_tokens` is everything the model read, cache reads and writes included (`cached_tokens` and
    `cache_write_tokens` are parts of it); `output_tokens` includes `reasoning_tokens`. `total_tokens` is as
    reported, else their sum. `raw` is the provider's own object, where the reply had one.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    raw: Any = None
