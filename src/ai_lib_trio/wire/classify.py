"""A provider's error becomes a `ProviderError` with a standard code, the pause it asks for, and one clear line.

Imports `errors`, `types`, `protocol`. All that is known about codes, words and headers is data (a manifest's
`error_classification`, manifests/errors.yaml). The rules that must stay true: an error is classified the same whether
it came as a status or inside a reply; what cannot be read is never an exception here; no secret is in a message.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import msgspec

from ..errors import MAX_RAW_BYTES, ProviderError, code_of_name
from ..protocol.manifest import ErrorRules, RateLimits
from ..types.events import StreamError

__all__ = ["classify", "parse_pause", "pause_in", "request_id_of", "retry_after"]

MAX_MESSAGE_CHARS = 500  # of a provider's message: it stands in one line of a log
MAX_SEARCHED_BYTES = 8 * 1024  # of a body, by a manifest's pattern: it may begin at every character and go to the end
MAX_PAUSE_S = 31 * 86_400  # monthly quotas reset within it; more is no pause that anybody meant

_NO_RULES = ErrorRules()
_NO_LIMITS = RateLimits()


def classify(
    said: StreamError,
    *,
    status: int | None,
    headers: Mapping[str, str],
    rules: ErrorRules = _NO_RULES,
    table: ErrorRules = _NO_RULES,
    rate_limits: RateLimits = _NO_LIMITS,
    body: bytes = b"",
    now_wall: float,
    secrets: Collection[str] = (),
) -> ProviderError:
    """The error that a provider's reply is. The caller raises it.

    `said` is what the dialect read of it, `status` the reply's (200 for an error inside a stream), `headers` in lower
    case, `rules` the provider's and `table` the general classification. `now_wall` (seconds since 1970) counts where
    the reply has no date of its own. `secrets` are masked in everything that is kept.
    """
    failed = _error_status(said, status)
    value = _body_value(body) if body else said.error
    message = _clean(said.message, secrets)
    shown = message or _clean(_about_body(body, value), secrets)
    line = f"HTTP {failed}: {shown}" if failed is not None else f"error in the reply: {shown}"
    if said.code and said.code not in line:
        line += f" ({_clean(said.code, secrets)})"
    veto = table.should_retry_header is not None and headers.get(table.should_retry_header, "").strip() == "false"
    name = _name_of(said, failed, rules, table)
    return ProviderError(
        line,
        code=code_of_name(name),
        retryable=False if veto else None,
        status=failed if failed is not None else status,
        provider_code=_clean(said.code or said.type, secrets) or None,
        provider_message=message or None,
        request_id=_clean(request_id_of(headers, table) or _request_id_in(value, rules, table), secrets) or None,
        raw=_masked(body or _as_json(said.error), secrets),
        retry_after_s=retry_after(
            headers,
            body or _as_json(said.error),
            rate_limits,
            rules,
            now_wall,
            table=table,
            limited=name == "rate_limited",
        ),
    )


def request_id_of(headers: Mapping[str, str], table: ErrorRules) -> str | None:
    """The provider's id of a call, from a reply's headers (names in lower case)."""
    for name in table.request_id_headers:
        value = headers.get(name, "").strip()
        if value:
            return value[:200]
    return None


# ---- which error it is ----


def _error_status(said: StreamError, status: int | None) -> int | None:
    """The status that says what is wrong: the reply's, or the one that an error inside a reply carries."""
    if status is not None and status >= 400:
        return status
    if said.status is not None and 400 <= said.status <= 599:
        return said.status
    code = said.code or ""
    return int(code) if re.fullmatch(r"[45]\d\d", code, re.ASCII) else None


def _name_of(said: StreamError, status: int | None, rules: ErrorRules, table: ErrorRules) -> str:
    """The standard name: codes before messages before statuses; of the provider's manifest before the general table.
    A code that the provider's manifest calls vague comes after the messages, one of the table's after the status."""
    codes = [code for code in (said.code, said.type) if code]
    for own in (rules, table):
        for code in codes:
            if code in own.by_error_code and code not in rules.vague_codes:
                return own.by_error_code[code]
    message = said.message.lower()
    for own in (rules, table):
        for part, name in own.by_message_contains.items():
            if part in message:
                return name
    for code in codes:
        if code in rules.vague_codes:
            return rules.vague_codes[code]
    if status == 429 and _has_word(table.quota_words + rules.quota_words, [message, *codes]):
        return "quota_exhausted"
    if status is not None:
        for own in (rules, table):
            if status in own.by_http_status:
                return own.by_http_status[status]
        return "server_error" if status >= 500 else "invalid_request"
    for code in codes:
        if code in table.vague_codes:
            return table.vague_codes[code]
    return "unknown"


def _has_word(words: tuple[str, ...], texts: list[str]) -> bool:
    return bool(words) and any(_words(words).search(text.lower()) for text in texts)


@lru_cache(maxsize=64)
def _words(words: tuple[str, ...]) -> re.Pattern[str]:
    # `_` separates here: `insufficient_quota` has the word quota, `explanation` has not the word plan.
    return re.compile("(?<![a-z])(?:" + "|".join(re.escape(word) for word in words) + ")(?![a-z])")


# ---- what it says ----


def _clean(text: str | None, secrets: Collection[str]) -> str:
    """A text as one bounded line, without secrets."""
    line = _mask(" ".join((text or "").split()), secrets)
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 1] + "…"


def _mask(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        if secret:
            text = text.replace(secret, "<redacted>")
    return text


def _masked(body: bytes, secrets: Collection[str]) -> bytes:
    for secret in secrets:
        if secret:
            body = body.replace(secret.encode(), b"<redacted>")
    return body[:MAX_RAW_BYTES]


def _about_body(body: bytes, value: Any) -> str:
    """What to say of a body in which the dialect found no message."""
    if value is not None:
        return "no message in the error's body"
    start = body[:4096].decode("utf-8", "replace").strip().lstrip("\ufeff").strip()
    if not start:
        return "no body"
    if start.startswith("<"):
        title = re.search(r"<title[^>]{0,200}>([^<]{1,200})</title", start, re.IGNORECASE)
        said = f": {' '.join(title.group(1).split())!r}" if title else ""
        return f"a page of HTML or XML instead of the API's reply (a proxy or gateway on the way?){said}"
    return f"a body that is not JSON: {start[:200]!r}"


def _body_value(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body[: MAX_RAW_BYTES * 4])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _as_json(value: Any) -> bytes:
    if value is None:
        return b""
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return b""


def _request_id_in(value: Any, rules: ErrorRules, table: ErrorRules) -> str | None:
    for place in (value, value.get("error") if isinstance(value, dict) else None):
        if isinstance(place, dict):
            for name in (*rules.request_id_fields, *table.request_id_fields):
                found = place.get(name)
                if isinstance(found, str) and found:
                    return found[:200]
    return None


# ---- how long to wait ----


def retry_after(
    headers: Mapping[str, str],
    body: bytes,
    rate_limits: RateLimits,
    rules: ErrorRules,
    now_wall: float,
    *,
    table: ErrorRules = _NO_RULES,
    limited: bool = False,
) -> float | None:
    """The pause in seconds that an error asks for, None where it names none. For errors only: some replies of status
    200 carry such a header as well.

    In order: the manifest's header, the headers of the general table, the manifest's pattern in the body, and, for a
    rate limit, the reset of a limit that has nothing left.
    """
    since = _date_of(headers, now_wall)
    names = rate_limits.headers
    own = {names.retry_after: "seconds"} if names.retry_after and names.retry_after not in table.pause_headers else {}
    for name, unit in {**own, **rules.pause_headers, **table.pause_headers}.items():
        if name in headers:
            pause = parse_pause(headers[name], now_wall=since, unit=unit)
            if pause is not None:
                return pause
    if rules.retry_after_pattern is not None:
        found = _pattern(rules.retry_after_pattern).search(body[:MAX_SEARCHED_BYTES].decode("utf-8", "replace"))
        if found is not None:
            pause = parse_pause(found.group(1) or "", now_wall=since, unit=rules.retry_after_unit)
            if pause is not None:
                return pause
    if not limited:
        return None
    resets = [
        parse_pause(headers[reset], now_wall=since)
        for left, reset in (
            (names.requests_remaining, names.requests_reset),
            (names.tokens_remaining, names.tokens_reset),
        )
        if left and reset and reset in headers and headers.get(left, "").strip() in ("0", "0.0")
    ]
    return max((pause for pause in resets if pause is not None), default=None)


_NUMBER = re.compile(r"[+-]?(?:\d{1,18}(?:\.\d{0,12})?|\.\d{1,12})", re.ASCII)
_DURATION = r"(-?)((?:[0-9]{1,12}(?:\.[0-9]{1,12})?(?:ns|us|µs|μs|ms|d|h|m|s))+)"
_PART = r"([0-9]+(?:\.[0-9]+)?)(ns|us|µs|μs|ms|d|h|m|s)"
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_RFC_3339 = r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(\.\d{1,9})?\s?([Zz]|[+-]\d\d:?\d\d)?"
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse_pause(text: str, *, now_wall: float, unit: str = "seconds") -> float | None:
    """A pause in seconds from any form that providers use; None for what cannot be one.

    A number is in `unit`, or a time since 1970 (in seconds or milliseconds) if it is large enough; `6m0s` and `250ms`
    are durations; dates are HTTP dates or RFC 3339, counted from `now_wall`. What lies in the past is 0.
    """
    is_moment, value = _told(text, unit)
    return _bounded(value - now_wall) if is_moment and value is not None else value


def pause_in(headers: Mapping[str, str], text: str, now_wall: float) -> float | None:
    """`parse_pause` of a header's text. The reply's own date is read only where the text names a time."""
    is_moment, value = _told(text, "seconds")
    return _bounded(value - _date_of(headers, now_wall)) if is_moment and value is not None else value


@lru_cache(maxsize=256)  # resets are told with each reply, and most often the same ones
def _told(text: str, unit: str) -> tuple[bool, float | None]:
    """Whether a text names a time, and that time in seconds since 1970; else the pause that it is, None for none."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        value = float(text)
        if value >= 1e12:  # milliseconds since 1970; as a pause it would be thousands of years
            return True, value / 1000
        if value >= 1e9:
            return True, value
        return False, _bounded(value / 1000 if unit == "milliseconds" else value)
    found = re.fullmatch(_DURATION, text)
    if found is not None:
        total = sum(float(number) * _UNITS[name] for number, name in re.findall(_PART, found.group(2)))
        return False, _bounded(-total if found.group(1) else total)
    return True, _moment(text)


def _bounded(pause: float) -> float | None:
    if not math.isfinite(pause) or pause > MAX_PAUSE_S:
        return None
    return max(pause, 0.0)


@lru_cache(maxsize=64)  # a busy provider's replies of one second bear one date
def _moment(text: str) -> float | None:
    """Seconds since 1970 of an RFC 3339 time or an HTTP date; a time without a zone is UTC."""
    if text[:1].isdigit() and (found := re.fullmatch(_RFC_3339, text, re.ASCII)):
        day, clock, fraction, zone = found.groups()
        zone = "+00:00" if zone is None or zone in "Zz" else zone
        zone = zone if ":" in zone else f"{zone[:3]}:{zone[3:]}"
        try:
            return datetime.fromisoformat(f"{day}T{clock}{zone}").timestamp() + float(fraction or 0)
        except (ValueError, OverflowError):
            return None
    seconds = _http_date(text)
    if seconds is not None:
        return seconds
    from email.utils import parsedate_to_datetime  # for older forms; a tenth of what importing the client takes

    try:
        moment = parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    try:
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


def _http_date(text: str) -> float | None:
    """Seconds since 1970 of a date as every server writes it (RFC 9110, IMF-fixdate); None for another form."""
    between = (text[3:5], text[7:8], text[11:12], text[16:17], text[19:20], text[22:23], text[25:])
    if between != (", ", " ", " ", " ", ":", ":", " GMT") or text[8:11] not in _MONTHS:
        return None
    day, month, year, clock = text[5:7], _MONTHS.index(text[8:11]) + 1, text[12:16], text[17:25]
    try:
        return datetime.fromisoformat(f"{year}-{month:02}-{day}T{clock}+00:00").timestamp()
    except ValueError:
        return None


def _date_of(headers: Mapping[str, str], now_wall: float) -> float:
    """The reply's own clock, which is the one that its dates were made by; else ours."""
    moment = _moment(headers.get("date", "").strip()) if "date" in headers else None
    return now_wall if moment is None else moment


@lru_cache(maxsize=64)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)
