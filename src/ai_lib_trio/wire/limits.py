"""Reply headers become the limits they tell. What a header is called is the manifest's to say.

Imports `protocol`, types and `classify` (which reads durations and dates). Pure; what cannot be read is not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from ..protocol.manifest import RateLimits
from ..types.admission import LimitsSeen, Window
from .classify import pause_in

__all__ = ["read_limits"]


def read_limits(headers: Mapping[str, str], rate_limits: RateLimits, now_wall: float) -> LimitsSeen | None:
    """The limits in a reply's headers (names in lower case), None where there are none.

    Resets are seconds from now, whatever form they came in: dates count from the reply's own `date`, else `now_wall`.
    """
    names = rate_limits.headers
    requests = tokens = None
    left = headers.get(names.requests_remaining) if names.requests_remaining is not None else None
    if left is not None:
        requests = _window(headers, left, names.requests_limit, names.requests_reset, now_wall)
    left = headers.get(names.tokens_remaining) if names.tokens_remaining is not None else None
    if left is not None:
        tokens = _window(headers, left, names.tokens_limit, names.tokens_reset, now_wall)
    return None if requests is None and tokens is None else LimitsSeen(requests, tokens)


def _window(
    headers: Mapping[str, str], left: str, limit: str | None, reset: str | None, now_wall: float
) -> Window | None:
    remaining = _count(left)
    if remaining is None:
        return None
    whole = headers.get(limit) if limit is not None else None
    text = headers.get(reset) if reset is not None else None
    return Window(
        None if whole is None else _limit(whole),
        remaining,
        None if text is None else pause_in(headers, text, now_wall),
    )


def _count(text: str) -> float | None:
    """A count, as plain decimal digits; some providers write it as a float."""
    if text.isdigit() and text.isascii() and len(text) <= 15:
        return float(text)
    text = text.strip()
    whole, _, rest = text.partition(".")
    if not whole.isascii() or not whole.isdigit() or len(whole) > 15 or rest.strip("0"):
        return None
    return float(whole)


_limit = lru_cache(maxsize=256)(_count)  # of one key and model it is the same in reply after reply
