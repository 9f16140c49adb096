"""Which proxy an origin is reached by, from the environment. Imports the standard library alone.

`AI_PROXY_URL` outranks `https_proxy` and `http_proxy` (either case, lower case first); `no_proxy` exempts hosts.
Loopback is never sent to a proxy: what listens there is this machine's own.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["is_loopback", "proxy_for"]


def is_loopback(host: str) -> bool:
    """Whether the host is this machine: `localhost`, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def proxy_for(origin: str, environ: Mapping[str, str]) -> str | None:
    """The proxy's URL for an origin such as `https://host:443`, or None for a direct connection."""
    from urllib.parse import urlsplit

    parts = urlsplit(origin)
    named: dict[str, str] = {}
    for name, value in environ.items():
        stem = name.lower()
        if stem.endswith("_proxy") and value and (name == stem or stem[:-6] not in named):
            named[stem[:-6]] = value
    proxy = environ.get("AI_PROXY_URL") or named.get(parts.scheme) or named.get("all")
    host = parts.hostname or ""
    if proxy is None or is_loopback(host):
        return None
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]  # not in the stubs; it is slow

    is_exempt = proxy_bypass_environment(f"{host}:{parts.port}" if parts.port else host, named)
    return None if is_exempt else proxy
