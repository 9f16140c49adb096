"""The error family: standard codes, kinds of our own failures, and the exceptions that carry them.

Turns a failure that somebody named (a kind of ours, or a standard code that a provider's reply was
classified as) into one `AiLibError`. Imports nothing of ours. The rule that must stay true: no secret,
prompt or reply text enters a message; bodies are kept apart, bounded, in `raw`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

__all__ = [
    "CODES",
    "KINDS",
    "AdmissionError",
    "AiLibError",
    "CallerError",
    "CancelledByToken",
    "CredentialError",
    "InternalError",
    "ManifestError",
    "ProviderError",
    "StandardCode",
    "TransportError",
    "code_of_name",
    "need_number",
    "need_plain",
    "need_word",
]

MAX_RAW_BYTES = 64 * 1024  # what is kept of an error's body: enough for any provider's envelope, bounded for logs


class StandardCode(msgspec.Struct, frozen=True):
    """One row of the protocol's error table. `http` lists the statuses that mean it without better evidence."""

    code: str
    name: str
    category: str
    http: tuple[int, ...]
    retryable: bool
    fallbackable: bool


# The protocol's table of 13 standard codes (AI-Protocol, errors; read 2026-11-22).
CODES: Mapping[str, StandardCode] = {
    row.code: row
    for row in (
        StandardCode("E1001", "invalid_request", "client", (400,), False, False),
        StandardCode("E1002", "authentication", "client", (401,), False, True),
        StandardCode("E1003", "permission_denied", "client", (403,), False, False),
        StandardCode("E1004", "not_found", "client", (404,), False, False),
        StandardCode("E1005", "request_too_large", "client", (413,), False, False),
        StandardCode("E2001", "rate_limited", "rate", (429,), True, True),
        StandardCode("E2002", "quota_exhausted", "rate", (), False, True),
        StandardCode("E3001", "server_error", "server", (500,), True, True),
        StandardCode("E3002", "overloaded", "server", (503,), True, True),
        StandardCode("E3003", "timeout", "server", (504, 408), True, True),
        StandardCode("E4001", "conflict", "operational", (409,), True, False),
        StandardCode("E4002", "cancelled", "operational", (), False, False),
        StandardCode("E9999", "unknown", "unknown", (), False, False),
    )
}
_BY_NAME = {row.name: row.code for row in CODES.values()} | {"other": "E9999"}


def code_of_name(name: str) -> str | None:
    """The standard code of a class name such as `rate_limited`, or None for a name outside the table."""
    return _BY_NAME.get(name)


class Kind(msgspec.Struct, frozen=True):
    """What a kind of our own failures means. It may narrow the code's row, never widen it."""

    code: str
    retryable: bool
    fallbackable: bool


# Kinds of our own failures. `retryable` here means "by the attempt's state": an attempt that was sent without
# an answer, or answered in part, narrows it further (resilience).
KINDS: Mapping[str, Kind] = {
    "connect": Kind("E3001", True, True),
    "reset": Kind("E3001", True, True),
    "truncated": Kind("E3001", True, True),
    "unreadable_frame": Kind("E3001", True, True),
    "oversize": Kind("E3001", True, True),
    "wrong_content_type": Kind("E3001", True, True),
    "tls_refused": Kind("E3001", False, True),
    "redirected": Kind("E3001", False, True),
    "connect_timeout": Kind("E3003", True, True),
    "first_byte_timeout": Kind("E3003", True, True),
    "idle_timeout": Kind("E3003", True, True),
    "throughput_timeout": Kind("E3003", True, True),
    "deadline": Kind("E3003", False, False),
    "breaker_open": Kind("E3002", False, True),
    "shed": Kind("E3002", False, True),
    "actor_lost": Kind("E3002", False, True),
    "provider_failed": Kind("E3002", False, True),
    "client_closed": Kind("E4002", False, False),
    "admission_too_late": Kind("E2001", False, True),
    "retry_budget": Kind("E3002", False, True),
    "no_endpoint": Kind("E3002", False, True),
    "no_quorum": Kind("E4001", False, False),
    "cost_cap": Kind("E2002", False, False),
    "no_credential": Kind("E1002", False, True),
    "credential_not_bound": Kind("E1002", False, True),
    "unknown_provider": Kind("E1004", False, False),
    "unknown_model": Kind("E1004", False, False),
    "bad_manifest": Kind("E1001", False, False),
    "bad_argument": Kind("E1001", False, False),
    "capability": Kind("E1005", False, False),  # a chain skips such a target instead (resilience)
    "context_window": Kind("E1005", False, False),
    "cancel_token": Kind("E4002", False, False),
    "bug": Kind("E9999", False, False),
}


class AiLibError(Exception):
    """Every failure of this library or of a provider.

    `code` is a standard code (E1001..E9999) and `name` its name. `kind` is a key of `KINDS` for failures of
    our own, `"provider"` for what a provider answered. `retryable` and `fallbackable` come from the table,
    narrowed by kind. What the provider said is kept as it came: `status`, `provider_code`, `provider_message`,
    `request_id`, `raw` (at most 64 KiB). `retry_after_s` is a pause in seconds that somebody asked for, or None.
    `provider` and `model` say where, `attempts` what was tried before this came out.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "provider",
        code: str | None = None,
        retryable: bool | None = None,
        fallbackable: bool | None = None,
        status: int | None = None,
        provider_code: str | None = None,
        provider_message: str | None = None,
        request_id: str | None = None,
        raw: bytes = b"",
        retry_after_s: float | None = None,
        provider: str | None = None,
        model: str | None = None,
    ) -> None:
        super().__init__(message)
        of_kind = KINDS.get(kind)
        self.message = message
        self.kind = kind
        self.code = code or (of_kind.code if of_kind else "E9999")
        row = CODES[self.code]
        self.name = row.name
        # The table says what may be done; a kind, or whoever raises, can only take away from it.
        self.retryable = row.retryable and (of_kind is None or of_kind.retryable) and retryable is not False
        self.retry_vetoed = retryable is False  # whoever raised it knows better than any list of statuses
        self.fallbackable = row.fallbackable and (of_kind is None or of_kind.fallbackable) and fallbackable is not False
        self.status = status
        self.provider_code = provider_code
        self.provider_message = provider_message
        self.request_id = request_id
        self.raw = raw[:MAX_RAW_BYTES]
        self.retry_after_s = retry_after_s
        self.provider = provider
        self.model = model
        self.attempts: Sequence[Any] = ()

    def located(self, *, provider: str | None = None, model: str | None = None) -> AiLibError:
        """This error, with the provider and model filled in where they were not known when it was raised."""
        self.provider = self.provider or provider
        self.model = self.model or model
        return self

    def __str__(self) -> str:
        where = "/".join(part for part in (self.provider, self.model) if part)
        return f"[{self.code} {self.name}] {self.message}" + (f" ({where})" if where else "")

    def __repr__(self) -> str:
        extra = "".join(
            f", {key}={value!r}"
            for key, value in (("status", self.status), ("provider", self.provider), ("model", self.model))
            if value is not None
        )
        return f"{type(self).__name__}({self.message!r}, code={self.code!r}, kind={self.kind!r}{extra})"


class CallerError(AiLibError):
    """The caller asked for something that cannot be: a bad argument, an unknown model. Never sent, never retried."""


class ManifestError(CallerError):
    """A manifest cannot be used. The message names file, line and path, what was expected and what came."""

    def __init__(
        self, message: str, *, file: str = "", line: int | None = None, path: str = "", kind: str = "bad_manifest"
    ) -> None:
        at = f"{file}:{line}" if file and line is not None else file
        where = " at ".join(part for part in (at, path) if part)
        super().__init__(f"{where}: {message}" if where else message, kind=kind)
        self.file = file
        self.line = line
        self.path = path


class CredentialError(CallerError):
    """No key, or a key that is not bound to the host it would go to. Names what was looked for, never a value."""


class ProviderError(AiLibError):
    """The provider answered with an error: an HTTP status, or an error inside a stream or a 200 reply."""


class TransportError(AiLibError):
    """The exchange failed on the wire: connecting, TLS, a reset, a limit on time, bytes that end or cannot be read."""


class AdmissionError(AiLibError):
    """The call was not let through to the provider: shed, breaker open, provider failed, deadline, cost cap."""


class CancelledByToken(AiLibError):
    """A `CancelToken` ended the call. The caller's own scopes raise `trio.Cancelled`, never this."""


class InternalError(AiLibError):
    """A fault of this library. The traceback is in `__cause__`; the actor that met it goes on."""


def need_number(name: str, value: object, *, least: float = 0, is_whole: bool = False, is_above: bool = False) -> None:
    """Raise `CallerError` where a setting is no number of at least `least` (above it with `is_above`), or not whole.

    None is a setting that is left open. Infinite is a number here, and what is not a number is none.
    """
    if value is None:
        return
    is_number = isinstance(value, int if is_whole else (int, float)) and not isinstance(value, bool)
    if is_number and (value > least if is_above else value >= least):  # type: ignore[operator]
        return
    what = "a whole number" if is_whole else "a number"
    raise CallerError(
        f"{name} is {what} {'above' if is_above else 'of at least'} {least:g}, got {value!r}", kind="bad_argument"
    )


def need_plain(name: str, function: object) -> None:
    """Raise `CallerError` where a function is to be awaited: what it gives at once would be taken for a yes."""
    from inspect import iscoroutinefunction  # races alone need it

    if iscoroutinefunction(function):
        raise CallerError(f"{name} is a plain function, got an async one", kind="bad_argument")


def need_word(name: str, value: object, words: Sequence[str]) -> None:
    """Raise `CallerError` where a setting is none of the words. None is a setting that is left open."""
    if value is not None and value not in words:
        raise CallerError(f"{name} is one of {', '.join(words)}, got {value!r}", kind="bad_argument")
