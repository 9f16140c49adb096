"""A request, a key and a time become a signature: a chain of HMACs over the request as both sides write it down.

The algorithm is common to several services; what differs (the scheme's name, the links of the chain, the names of
headers) is data of a manifest. Imports `errors` and `protocol.manifest`. The rules that must stay true: a pure function
of its arguments, and no secret is in an error.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from ..errors import CredentialError
from ..protocol.manifest import Chain

__all__ = ["KeyPair", "key_pair", "sign"]

Pairs = list[tuple[str, str]]

# What an engine, a proxy or a load balancer may add or change on the way.
_UNSIGNED = frozenset(
    (
        *("accept-encoding", "authorization", "connection", "expect", "host", "keep-alive", "proxy-connection", "te"),
        *("transfer-encoding", "upgrade", "user-agent"),
    )
)
_BLANKS = re.compile(r"\s+")


class KeyPair(msgspec.Struct, frozen=True):
    """What is signed with: the name of the key, its secret, and the token of a session if there is one."""

    key_id: str
    secret: str
    session: str | None = None

    def __repr__(self) -> str:
        return "KeyPair(<redacted>)"


def key_pair(text: str) -> KeyPair:
    """The pair in a text `id:secret` or `id:secret:session`: how such a key is given, and kept, as one.

    Raises CredentialError (no_credential) for a text that is none.
    """
    parts = [part.strip() for part in text.split(":", 2)]
    if len(parts) < 2 or not all(part and part.isascii() and part.isprintable() for part in parts):
        raise CredentialError(
            "expected a key as `id:secret` or `id:secret:session`, of printable ASCII characters", kind="no_credential"
        )
    return KeyPair(*parts)


def sign(
    chain: Chain,
    pair: KeyPair,
    *,
    method: str,
    url: str,
    headers: Sequence[tuple[str, str]],
    body: bytes,
    at: float,
    header: str = "authorization",
) -> Pairs:
    """The headers that sign a request. `at` is the time in seconds since the epoch; `url` is as it is sent.

    Every header given is signed, but those that may change on the way, and the host. Raises CredentialError
    (no_credential) for a scope with a part that was not filled.
    """
    scope = "/".join(chain.scope)
    if "$" in scope:
        raise CredentialError(f"expected a value for each part of the key's scope, {scope}", kind="no_credential")
    time = datetime.fromtimestamp(at, timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    links = (time[:8], *chain.scope)
    scope = "/".join(links)
    digest = hashlib.sha256(body).hexdigest()
    added: Pairs = [(chain.time_header, time)]
    if chain.body_header:
        added.append((chain.body_header, digest))
    if pair.session is not None and chain.session_header:
        added.append((chain.session_header, pair.session))
    names, request = _written(method, url, headers, added, digest)
    link_key = (chain.seed + pair.secret).encode()
    for link in links:
        link_key = hmac.digest(link_key, link.encode(), "sha256")
    text = "\n".join((chain.scheme, time, scope, hashlib.sha256(request.encode()).hexdigest()))
    signature = hmac.new(link_key, text.encode(), "sha256").hexdigest()
    said = f"{chain.scheme} Credential={pair.key_id}/{scope}, SignedHeaders={names}, Signature={signature}"
    return [*added, (header.lower(), said)]


def _written(method: str, url: str, headers: Sequence[tuple[str, str]], added: Pairs, digest: str) -> tuple[str, str]:
    """The names of the signed headers, and the request as both sides write it down."""
    parts = urlsplit(url)
    own = {name for name, _ in added}
    signed: dict[str, list[str]] = {"host": [parts.netloc]}
    for name, value in [*((name.lower(), value) for name, value in headers if name.lower() not in own), *added]:
        if name not in _UNSIGNED:
            signed.setdefault(name, []).append(_BLANKS.sub(" ", value).strip())
    names = ";".join(sorted(signed))
    lines = [
        method,
        quote(parts.path or "/", safe="/~"),  # an encoded path is encoded once more: here it is a text like any other
        _query(parts.query),
        *(f"{name}:{','.join(signed[name])}" for name in sorted(signed)),
        "",
        names,
        digest,
    ]
    return names, "\n".join(lines)


def _query(text: str) -> str:
    """A query: each name and value encoded alone, in the order of what that gives."""
    pairs = [(quote(name, safe="~"), quote(value, safe="~")) for name, value in parse_qsl(text, keep_blank_values=True)]
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))
