"""Reply headers become the limits they tell. What a header is called is the manifest's to say.

Imports `protocol`, types and `classify` (which reads durations and dates). Pure; what cannot be read is not there.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..protocol.manifest import RateLimits
from ..types.admission import LimitsSeen, Window
from .classify import _date_of, parse_pause

__all__ = ["read_limits"]


def read_limits(headers: Mapping[str, str], rate_limits: RateLimits, now_wall: float) -> LimitsSeen | None:
    """The limits in a reply's headers (names in lower case), None where there are none.

    Resets are seconds from now, whatever form they came in: dates count from the reply's own `date`, else `now_wall`.
    """
    names = rate_limits.headers
    requests = _window(headers, names.requests_limit, names.requests_remaining, names.requests_reset, now_wall)
    tokens = _window(headers, names.tokens_limit, names.tokens_remaining, names.tokens_reset, now_wall)
    return None if requests is None and tokens is None else LimitsSeen(requests, tokens)


def _window(
    headers: Mapping[str, str], limit: str | None, remaining: str | None, reset: str | None, now_wall: float
) -> Window | None:
    left = _count(headers.get(remaining)) if remaining is not None else None
    if left is None:
        return None
    text = headers.get(reset) if reset is not None else None
    return Window(
        limit=_count(headers.get(limit)) if limit is not None else None,
        remaining=left,
        reset_s=None if text is None else parse_pause(text, now_wall=_date_of(headers, now_wall)),
    )


def _count(text: str | None) -> float | None:
    """A count, as plain decimal digits; some providers write it as a float."""
    if text is None:
        return None
    if text.isdigit() and text.isascii() and len(text) <= 15:
        return float(text)
    text = text.strip()
    whole, _, rest = text.partition(".")
    if not whole.isascii() or not whole.isdigit() or len(whole) > 15 or rest.strip("0"):
        return None
    return float(whole)
