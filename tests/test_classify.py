"""Errors of providers: which standard error they are, how long they ask to wait, and the one line they become."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from email.utils import format_datetime, parsedate_to_datetime
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import CODES, MAX_RAW_BYTES, ProviderError
from ai_lib_trio.protocol.manifest import ErrorRules, RateLimitHeaders, RateLimits
from ai_lib_trio.types.events import StreamError
from ai_lib_trio.wire.classify import classify, parse_pause, request_id_of, retry_after
from ai_lib_trio.wire.limits import read_limits
from encode_cases import catalog

NOW = 1_795_341_600.0  # 2026-11-22T10:00:00Z
NOW_HTTP = format_datetime(datetime.fromtimestamp(NOW, timezone.utc), usegmt=True)


@cache
def table() -> ErrorRules:
    return catalog().error_table()


def said(message: str = "", code: str | None = None, type: str | None = None, **fields: Any) -> StreamError:
    return StreamError(kind="provider", message=message, code=code, type=type, **fields)


def classified(
    what: StreamError,
    status: int | None = None,
    *,
    rules: ErrorRules | None = None,
    headers: dict[str, str] | None = None,
    body: bytes = b"",
    limits: RateLimits | None = None,
    secrets: tuple[str, ...] = (),
) -> ProviderError:
    return classify(
        what,
        status=status,
        headers=headers or {},
        rules=rules or ErrorRules(),
        table=table(),
        rate_limits=limits or RateLimits(),
        body=body,
        now_wall=NOW,
        secrets=secrets,
    )


# ---- which error ----


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "E1001"),
        (401, "E1002"),
        (402, "E2002"),
        (403, "E1003"),
        (404, "E1004"),
        (408, "E3003"),
        (409, "E4001"),
        (413, "E1005"),
        (418, "E1001"),
        (422, "E1001"),
        (429, "E2001"),
        (499, "E4002"),
        (500, "E3001"),
        (502, "E3001"),
        (503, "E3002"),
        (504, "E3003"),
        (507, "E3001"),
        (529, "E3002"),
    ],
)
def test_a_status_alone_has_a_standard_meaning(status: int, code: str) -> None:
    error = classified(said("no"), status)
    assert error.code == code
    assert error.status == status
    assert (error.retryable, error.fallbackable) == (CODES[code].retryable, CODES[code].fallbackable)


@pytest.mark.parametrize(
    ("status", "code", "type", "message", "expected"),
    [
        # the compliance cases of the specification
        (400, "invalid_request_error", "invalid_request_error", "Invalid request", "E1001"),
        (401, "invalid_api_key", "invalid_request_error", "Incorrect API key provided", "E1002"),
        (403, "permission_denied", "permission_error", "You do not have access to this model", "E1003"),
        (404, "model_not_found", "invalid_request_error", "The model does not exist", "E1004"),
        (400, "context_length_exceeded", "invalid_request_error", "too long", "E1005"),
        (429, "rate_limit_exceeded", "rate_limit_exceeded", "Rate limit exceeded for requests", "E2001"),
        (429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota", "E2002"),
        (500, "server_error", "server_error", "An error occurred on the server", "E3001"),
        (503, "overloaded", "server_error", "The server is overloaded. Please try again later.", "E3002"),
        (529, None, "overloaded_error", "Overloaded", "E3002"),
        # a vague type does not hide what the status says
        (401, None, "invalid_request_error", "You didn't provide an API key", "E1002"),
        (413, None, "invalid_request_error", "Request too large", "E1005"),
        # words of a 429
        (429, None, None, "Please check your plan and billing details", "E2002"),
        (429, None, "quota_reached", "slow down", "E2002"),
        (429, None, None, "An explanation: too many requests", "E2001"),
        (400, None, None, "Please check your billing details", "E1001"),
        # a code that says what it is outranks a word in the message (a link to a billing page, say)
        (429, "rate_limit_exceeded", "tokens", "Rate limit reached. Add a payment method at /account/billing", "E2001"),
        (400, None, "invalid_request_error", "This model's maximum context length is 8192 tokens", "E1005"),
    ],
)
def test_codes_come_before_types_and_both_before_statuses(
    status: int, code: str | None, type: str | None, message: str, expected: str
) -> None:
    assert classified(said(message, code, type), status).code == expected


def test_a_manifests_codes_then_messages_then_statuses_come_first() -> None:
    rules = ErrorRules(
        by_http_status={429: "overloaded"},
        by_error_code={"rate_limit_exceeded": "quota_exhausted"},
        by_message_contains={"credit": "quota_exhausted"},
    )
    assert classified(said("x", "rate_limit_exceeded"), 429, rules=rules).code == "E2002"
    assert classified(said("No CREDIT left"), 400, rules=rules).code == "E2002"
    assert classified(said("x"), 429, rules=rules).code == "E3002"
    assert classified(said("x", "invalid_api_key"), 429, rules=rules).code == "E1002"


def test_a_code_that_a_manifest_calls_vague_is_asked_after_the_messages_and_before_words_and_status() -> None:
    rules = ErrorRules(
        vague_codes={"rate_limit_exceeded": "rate_limited"}, by_message_contains={"too large for": "request_too_large"}
    )
    large, billing = "Request TOO LARGE for a-model", "Limit reached. Add a payment method at /account/billing"
    assert classified(said(large, "rate_limit_exceeded"), 429, rules=rules).code == "E1005"
    assert classified(said(billing, "rate_limit_exceeded"), 429, rules=rules).code == "E2001"
    assert classified(said("x", "rate_limit_exceeded"), 400, rules=rules).code == "E2001"
    assert classified(said("x", "rate_limit_exceeded"), 200, rules=rules).code == "E2001"


def test_an_error_inside_a_reply_is_classified_by_the_same_table() -> None:
    assert classified(said("Overloaded", "overloaded_error", "overloaded_error"), 200).code == "E3002"
    assert classified(said("bad", None, "invalid_request_error", status=400), 200).status == 400
    assert classified(said("bad", "400"), 200).code == "E1001"
    assert classified(said("boom", "server_error"), 200).code == "E3001"
    unknown = classified(said("what?"), 200)
    assert (unknown.code, unknown.status, unknown.retryable) == ("E9999", 200, False)
    assert unknown.message == "error in the reply: what?"


def test_a_server_may_advise_against_a_retry_but_never_for_one() -> None:
    assert classified(said("x"), 500, headers={"x-should-retry": "false"}).retryable is False
    assert classified(said("x"), 400, headers={"x-should-retry": "true"}).retryable is False


# ---- what is kept ----


def test_the_providers_own_words_are_kept() -> None:
    body = json.dumps({"error": {"message": "No  such\nmodel", "code": "model_not_found"}}).encode()
    error = classified(said("No  such\nmodel", "model_not_found"), 404, headers={"x-request-id": "req_1"}, body=body)
    assert str(error) == "[E1004 not_found] HTTP 404: No such model (model_not_found)"
    assert error.provider_message == "No such model"
    assert error.provider_code == "model_not_found"
    assert error.request_id == "req_1"
    assert error.raw == body
    assert error.kind == "provider"


def test_a_request_id_is_found_in_headers_by_name_else_in_the_body() -> None:
    assert request_id_of({"request-id": "r1", "cf-ray": "c"}, table()) == "r1"
    assert request_id_of({}, table()) is None
    assert classified(said("x"), 401, body=b'{"error":{"type":"t"},"request_id":"req_2"}').request_id == "req_2"


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (
            b"<html>\n<head><title>502  Bad Gateway</title></head>" + b"<p>x</p>" * 9000,
            "HTTP 502: a page of HTML or XML instead of the API's reply (a proxy or gateway on the way?): "
            "'502 Bad Gateway'",
        ),
        (b"\xef\xbb\xbf<!DOCTYPE html>", "HTTP 502: a page of HTML or XML instead of the API's reply"),
        (b"upstream connect error\n", "HTTP 502: a body that is not JSON: 'upstream connect error'"),
        (b"\xff\xfe\x00", "HTTP 502: a body that is not JSON: "),
        (b"", "HTTP 502: no body"),
        (b'{"ok": false}', "HTTP 502: no message in the error's body"),
    ],
)
def test_a_body_without_a_message_is_described_in_one_line(body: bytes, line: str) -> None:
    error = classified(said(), 502, body=body)
    assert error.message.startswith(line)
    assert "\n" not in error.message
    assert len(error.message) < 600


def test_a_long_message_and_a_large_body_are_cut() -> None:
    error = classified(said("x" * 5000), 500, body=b"y" * (MAX_RAW_BYTES + 10))
    assert len(error.message) < 600
    assert len(error.raw) == MAX_RAW_BYTES


def test_a_secret_that_the_provider_repeats_is_masked_everywhere() -> None:
    secret = "sk-very-secret"
    error = classified(
        said(f"Incorrect key: {secret}", secret),
        401,
        headers={"x-request-id": f"of {secret}"},
        body=f'{{"error": "{secret}"}}'.encode(),
        secrets=(secret, ""),
    )
    assert (error.provider_code, error.request_id) == ("<redacted>", "of <redacted>")
    for shown in (str(error), repr(error), error.provider_message or "", error.raw.decode(), error.provider_code or ""):
        assert secret not in shown
    assert "<redacted>" in error.message
    assert error.provider_code == "<redacted>"
    for headers, body in (({"x-request-id": secret}, b""), ({}, f'{{"request_id": "{secret}"}}'.encode())):
        error = classified(said("no"), 401, headers=headers, body=body, secrets=(secret,))
        assert error.request_id == "<redacted>"


def test_a_code_without_end_is_cut() -> None:
    error = classified(said("no", "x" * 5_000_000), 400)
    assert error.provider_code is not None
    assert len(error.provider_code) == 500


# ---- how long to wait ----


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("1.5", 1.5),
        ("0", 0),
        ("-3", 0),
        ("6m0s", 360),
        ("1.5s", 1.5),
        ("250ms", 0.25),
        ("1h2m3s", 3723),
        ("1d", 86400),
        ("20µs", 0.00002),
        ("-5s", 0),
        ("Sun, 22 Nov 2026 10:00:10 GMT", 10),
        ("Sunday, 22-Nov-26 10:00:10 GMT", 10),
        ("Sun Nov 22 10:00:10 2026", 10),
        ("Sun, 22 Nov 2026 09:00:00 GMT", 0),
        ("2026-11-22T10:00:30Z", 30),
        ("2026-11-22T10:00:30.500Z", 30.5),
        ("2026-11-22T12:00:30+02:00", 30),
        ("2026-11-22T12:00:30+0200", 30),
        ("2026-11-22 10:01:00", 60),
        ("1795341660", 60),
        ("1795341660000", 60),
        ("99999999", None),
        ("4000h", None),
        ("2126-11-22T10:00:30Z", None),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("1e3", None),
        ("٣", None),
        ("6m 0s", None),
        ("2026-13-45T99:00:00Z", None),
        ("9" * 30, None),
    ],
)
def test_a_pause_is_read_in_every_form_that_providers_use(text: str, seconds: float | None) -> None:
    found = parse_pause(text, now_wall=NOW)
    assert found == (pytest.approx(seconds) if seconds is not None else None)


@given(st.datetimes(datetime(1970, 1, 1), datetime(2300, 1, 1)))
def test_a_date_as_servers_write_it_is_read_to_the_second(moment: datetime) -> None:
    moment = moment.replace(microsecond=0, tzinfo=timezone.utc)
    assert parse_pause(format_datetime(moment, usegmt=True), now_wall=moment.timestamp() - 7) == 7


@settings(max_examples=200)
@given(
    st.from_regex(
        r"(Sun|Xyz), [0-3][0-9] (Feb|Nov|Non) (2026|0٣01)[ T][0-2][0-9]:[0-7][0-9]:[0-6][0-9] (GMT|UTC)", fullmatch=True
    )
)
def test_a_date_that_nearly_is_one_is_read_as_the_standard_library_reads_it(text: str) -> None:
    try:
        moment = parsedate_to_datetime(text)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except (TypeError, ValueError, IndexError):
        assert parse_pause(text, now_wall=NOW) is None
    else:
        assert parse_pause(text, now_wall=seconds - 7) == 7


@settings(max_examples=200)
@given(st.text(max_size=40) | st.from_regex(r"[-+0-9a-zµ.: ]{0,30}", fullmatch=True), st.floats(0, 4e9))
def test_any_text_is_a_pause_in_bounds_or_none(text: str, now: float) -> None:
    found = parse_pause(text, now_wall=now)
    assert found is None or (math.isfinite(found) and 0 <= found <= 31 * 86400)


def pause(headers: dict[str, str], body: bytes = b"", **fields: Any) -> float | None:
    return retry_after(
        headers,
        body,
        fields.pop("limits", RateLimits()),
        fields.pop("rules", ErrorRules()),
        NOW,
        table=table(),
        **fields,
    )


def test_milliseconds_are_more_exact_than_seconds() -> None:
    assert pause({"retry-after": "2", "retry-after-ms": "1500"}) == 1.5
    assert pause({"retry-after": "2", "retry-after-ms": "soon"}) == 2


def test_a_date_counts_from_the_replys_own_clock() -> None:
    # The server's clock is an hour behind ours; its dates are made by it.
    headers = {"date": "Sun, 22 Nov 2026 09:00:00 GMT", "retry-after": "Sun, 22 Nov 2026 09:00:20 GMT"}
    assert pause(headers) == 20
    assert pause({"date": "garbage", "retry-after": "Sun, 22 Nov 2026 10:00:20 GMT"}) == 20


def test_the_manifest_may_name_another_header_or_a_pattern_in_the_body() -> None:
    limits = RateLimits(headers=RateLimitHeaders(retry_after="x-wait"))
    assert pause({"x-wait": "3"}, limits=limits) == 3
    rules = ErrorRules(retry_after_pattern=r'"retryDelay":\s?"(\d+(?:\.\d+)?)s"')
    assert pause({}, b'{"error":{"details":[{"retryDelay":"37s"}]}}', rules=rules) == 37
    rules = ErrorRules(retry_after_pattern=r"try again in (\d+)ms", retry_after_unit="milliseconds")
    assert pause({}, b"try again in 820ms", rules=rules) == 0.82
    assert pause({}, b"try again", rules=rules) is None


def test_a_spent_limit_tells_its_reset_for_a_rate_limit_only() -> None:
    limits = RateLimits(
        headers=RateLimitHeaders(requests_remaining="rr", requests_reset="rs", tokens_remaining="tr", tokens_reset="ts")
    )
    headers = {"rr": "0", "rs": "1m", "tr": "5", "ts": "6m0s"}
    assert pause(headers, limits=limits, limited=True) == 60
    assert pause({**headers, "tr": "0"}, limits=limits, limited=True) == 360
    assert pause(headers, limits=limits, limited=False) is None
    assert classified(said("slow down"), 429, headers=headers, limits=limits).retry_after_s == 60
    assert classified(said("boom"), 500, headers=headers, limits=limits).retry_after_s is None


def test_an_error_in_a_stream_may_carry_its_pause_in_its_own_object() -> None:
    rules = ErrorRules(retry_after_pattern=r'"retryDelay":\s?"(\d+)s"')
    error = classified(said("slow", "429", error={"details": [{"retryDelay": "9s"}]}), 200, rules=rules)
    assert (error.code, error.retry_after_s) == ("E2001", 9)
    assert b"retryDelay" in error.raw


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150)
@given(
    st.text(max_size=30),
    st.none() | st.text(max_size=10),
    st.none() | st.integers(100, 700),
    st.binary(max_size=60),
    ANY_JSON,
    st.dictionaries(st.sampled_from(["retry-after", "date", "x-request-id"]), st.text(max_size=20)),
)
def test_nothing_that_a_provider_sends_raises_here(
    message: str, code: str | None, status: int | None, body: bytes, value: Any, headers: dict[str, str]
) -> None:
    error = classified(said(message, code, error=value), status, headers=headers, body=body)
    assert error.code in CODES
    assert "\n" not in error.message


def test_every_bundled_manifests_own_rules_name_standard_errors() -> None:
    for provider in catalog().providers():
        rules = catalog().provider(provider).errors
        for status in rules.by_http_status:
            assert classified(said("x"), status, rules=rules).code in CODES


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("internalServerException", "E3001"),
        ("modelStreamErrorException", "E3001"),
        ("serviceUnavailableException", "E3002"),
        ("throttlingException", "E2001"),
        ("modelTimeoutException", "E3003"),
    ],
)
def test_an_exception_of_a_binary_stream_is_classified_by_its_name(name: str, code: str) -> None:
    assert classified(said("x", name), 200, rules=catalog().provider("bedrock").errors).code == code


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [
        ("30", 30.0),
        ("1m30s", 90.0),
        (str(int(NOW) + 45), 45.0),
        (str((int(NOW) + 45) * 1000), 45.0),
        ("2026-11-22T10:00:20Z", 20.0),
        (format_datetime(datetime.fromtimestamp(NOW + 7, timezone.utc), usegmt=True), 7.0),
        ("soon", None),
    ],
)
def test_a_limits_reset_that_is_a_time_counts_from_the_replys_own_date(reset: str, seconds: float | None) -> None:
    limits = RateLimits(headers=RateLimitHeaders(requests_remaining="x-left", requests_reset="x-reset"))
    for date, wall in ((NOW_HTTP, 0.0), ("no date", NOW)):
        seen = read_limits({"date": date, "x-left": "3", "x-reset": reset}, limits, wall)
        assert seen is not None
        assert seen.tokens is None
        assert seen.requests is not None
        assert (seen.requests.remaining, seen.requests.reset_s) == (3.0, seconds)
    assert read_limits({"date": NOW_HTTP, "x-reset": reset}, limits, NOW) is None
