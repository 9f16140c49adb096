"""Fetches a pinned archive of manifests, once, and keeps it for when there is no network.

Imports `errors`, `protocol.remote`; httpx when something has to be fetched. The rule that must stay true: without a
URL given by the user nothing here runs, and with a cached copy nothing here touches the network.
"""

from __future__ import annotations

from ..errors import ManifestError
from ..protocol.remote import MAX_ARCHIVE_BYTES, Cache, parse_pin, tree_of
from ..protocol.sources import Tree

__all__ = ["fetch_tree"]


async def fetch_tree(url: str, cache: Cache) -> Tree:
    """The tree of manifests behind a pinned URL, from the cache where it is there.

    Set no timeout here: that is a scope of the caller's. Raises `CallerError` for a URL that is not pinned,
    `ManifestError` where it cannot be fetched or is not what the pin says.
    """
    pin = parse_pin(url)
    data = cache.get(pin)
    if data is None:
        data = await _fetch(pin.url)
        cache.put(pin, data)
    return tree_of(pin, data)


async def _fetch(url: str) -> bytes:
    import httpx

    try:
        async with (
            httpx.AsyncClient(timeout=None, follow_redirects=False) as client,
            client.stream("GET", url, headers={"accept-encoding": "identity"}) as reply,
        ):
            if reply.status_code != 200:
                raise ManifestError(f"expected status 200, got {reply.status_code}", file=url)
            data = bytearray()
            async for chunk in reply.aiter_raw():
                data += chunk
                if len(data) > MAX_ARCHIVE_BYTES:
                    raise ManifestError(f"expected at most {MAX_ARCHIVE_BYTES} bytes, got more", file=url)
            return bytes(data)
    except httpx.HTTPError as error:
        raise ManifestError(f"cannot be fetched and no copy is kept: {type(error).__name__}", file=url) from error
