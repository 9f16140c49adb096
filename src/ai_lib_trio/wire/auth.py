"""A secret becomes a header or a query parameter, and headers are merged so that nobody overrides it.

Imports `errors` and `protocol.manifest`. The rule that must stay true: no secret is in a repr or an error, and a header
that the caller gives never stands in for the one that carries the key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from ..errors import CallerError, CredentialError
from ..protocol.manifest import Auth

__all__ = [
    "Attached",
    "Pairs",
    "attach",
    "authorise",
    "check_header",
    "holds_secret",
    "merge_headers",
    "secrets_of",
    "signature",
]

LEAST_SECRET = 12  # characters; keys have twenty and more

Pairs = list[tuple[str, str]]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # RFC 9110, section 5.6.2
_CONTROLS = r"[\x00-\x08\x0a-\x1f\x7f]"  # a tab may stand in a header's value, a line end never


class Attached(msgspec.Struct, frozen=True):
    """What authentication adds to a request. `headers` and `query` carry the secret; the repr does not."""

    headers: Pairs
    query: Pairs
    extra: Pairs  # headers that the manifest sends with every request; not secret, the caller may override them

    def __repr__(self) -> str:
        headers = {name: "<redacted>" for name, _ in self.headers}
        query = {name: "<redacted>" for name, _ in self.query}
        return f"Attached(headers={headers}, query={query}, extra={dict(self.extra)})"


def attach(auth: Auth, secret: str | None) -> Attached:
    """The headers and query parameters that carry `secret` as a manifest says.

    Raises CredentialError (`no_credential`) where a key is needed and there is none, or where it holds what no header
    can carry. The key itself is in no message.
    """
    extra = [(name.lower(), value) for name, value in auth.extra_headers.items()]
    if auth.type == "none" or auth.chain is not None:  # a signature is made of the whole request: see `signature`
        return Attached([], [], extra)
    key = (secret or "").strip()
    if not key:
        named = f" (it is looked for in {auth.token_env})" if auth.token_env else ""
        raise CredentialError(f"expected a key for this provider, got none{named}", kind="no_credential")
    if not key.isascii() or not key.isprintable():
        named = f" in {auth.token_env}" if auth.token_env else ""
        raise CredentialError(
            f"expected a key of printable ASCII characters: the one{named} holds something else, such as a line end",
            kind="no_credential",
        )
    if auth.type == "query":
        return Attached([], [(auth.param_name or "api_key", key)], extra)
    value = f"{auth.prefix} {key}" if auth.prefix else key
    header = auth.header or ("authorization" if auth.type == "bearer" else "x-api-key")
    return Attached([(header.lower(), value)], [], extra)


def authorise(headers: Sequence[tuple[str, str]], query: Sequence[tuple[str, str]], added: Attached) -> Attached:
    """A request's headers and query with authentication: the manifest's extra headers under them, the key over them.

    Neither a header nor a query parameter of the request survives under a name that carries the key, whatever its
    case. The result has nothing in `extra`.
    """
    merged = merge_headers(merge_headers(added.extra, headers), added.headers)
    own = {name.lower() for name, _ in added.query}
    return Attached(merged, [pair for pair in query if pair[0].lower() not in own] + list(added.query), [])


def signature(
    auth: Auth, secret: str | None, *, method: str, url: str, headers: Pairs, body: bytes, at: float
) -> Pairs:
    """A request's headers with its signature, where a manifest asks for one; else the headers as they are.

    `at` is the time of the attempt, in seconds since the epoch: a signature is good for minutes, so each attempt has
    its own. Raises CredentialError (no_credential).
    """
    if auth.chain is None:
        return headers
    from .sign import key_pair, sign

    pair = key_pair(secret or "")
    header = auth.header or "authorization"
    signed = sign(auth.chain, pair, method=method, url=url, headers=headers, body=body, at=at, header=header)
    return merge_headers(headers, signed)


def secrets_of(auth: Auth, secret: str | None) -> tuple[str, ...]:
    """What may not stand in anything that is shown: the key, and its parts where it has parts."""
    if secret is None:
        return ()
    if auth.chain is None:
        return (secret,)
    from .sign import key_pair

    pair = key_pair(secret)
    return (secret, pair.secret, *([pair.session] if pair.session else []))


def holds_secret(text: str, secrets: Iterable[str]) -> bool:
    """Whether one of the secrets stands in the text. Words that stand in for a key where none is needed do not count:
    `none`, `not-needed` and their like are short, and parts of other names."""
    return any(len(secret) >= LEAST_SECRET and secret in text for secret in secrets)


def merge_headers(under: Iterable[tuple[str, str]], over: Iterable[tuple[str, str]]) -> Pairs:
    """Two lists of headers as one: a name in `over` replaces the same name in `under`, whatever its case."""
    last = list(over)
    names = {name.lower() for name, _ in last}
    return [pair for pair in under if pair[0].lower() not in names] + last


def check_header(name: str, value: str) -> None:
    """Refuse a header that cannot stand on the wire. Raises CallerError naming it; its value is never shown."""
    if not re.fullmatch(_TOKEN, name):
        raise CallerError(f"expected a header name of letters, digits and -, got {name[:40]!r}", kind="bad_argument")
    if re.search(_CONTROLS, value):
        raise CallerError(
            f"expected a value without line ends and control characters for the header {name}", kind="bad_argument"
        )
    try:
        value.encode("latin-1")
    except UnicodeEncodeError as error:
        raise CallerError(
            f"expected Latin-1 characters for the header {name}, got others", kind="bad_argument"
        ) from error
