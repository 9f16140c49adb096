"""The seam to the wire: an engine moves one request out and one reply in, and knows nothing of its meaning.

Imports `errors` alone. The rule that must stay true: when `exchange` is left, by return, error or cancellation, the
connection is back in the engine's pool or closed, and nothing calls the sink again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, runtime_checkable

__all__ = ["Engine", "Headers", "Leasing", "Reading", "Sink", "WireRequest"]

Headers = Sequence[tuple[str, str]]  # names in lower case, in the order of the wire


class WireRequest:
    """What goes out: an absolute URL, headers in order, a body. Its repr shows neither headers nor query.

    `is_streamed` says that the reply is expected in many pieces; an engine may wait for it otherwise then. A request is
    for one exchange: an engine may let its body go once it is sent.
    """

    __slots__ = ("body", "headers", "is_streamed", "method", "url")

    def __init__(
        self, method: str, url: str, headers: list[tuple[str, str]], body: bytes, *, is_streamed: bool = False
    ) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self.body = body
        self.is_streamed = is_streamed

    def __repr__(self) -> str:
        return f"<WireRequest {self.method} {self.url.partition('?')[0]} {len(self.body)} bytes>"


class Reading(Protocol):
    """A reply between two reads, as its engine lends it to a sink. Valid until `read` says False or it is closed."""

    def wait(self) -> Awaitable[None]:
        """To be awaited at once: until there may be something to read. Always a checkpoint.

        Raises `trio.ClosedResourceError`, here or there, where the connection was closed.
        """
        ...

    def read(self) -> bool:
        """Read once, without waiting, and push it. False: the engine goes on by itself, or ends; never read again."""
        ...

    def is_silent(self) -> bool:
        """Whether there is nothing to read now."""
        ...


class Sink(Protocol):
    """Where an engine pushes a reply. The synchronous methods never block and may raise: then the exchange ends
    with that exception and the connection is closed."""

    def sending(self) -> None:
        """A connection is there and the request's first byte is about to be written."""
        ...

    def head(self, status: int, headers: Headers) -> None:
        """The status line and headers of the final response."""
        ...

    def data(self, chunk: bytes) -> bool:
        """A piece of the body, transfer coding removed, content coding not. False: wait before reading on."""
        ...

    async def wait_room(self) -> None:
        """Wait until the next piece may be read."""
        ...

    def lend(self, reading: Reading) -> bool:
        """Take the reading over, from the task that `exchange` runs in. False: not now, the engine reads on.

        An engine may ask before any read, once the head is there. It need not, and then it pushes all by itself.
        """
        ...


class Engine(Protocol):
    """One pool of connections, owned by one actor."""

    async def exchange(self, request: WireRequest, sink: Sink) -> None:
        """Send the request and push the reply into the sink; return at the end of its body.

        Raises `TransportError` (kinds connect, reset, tls_refused, truncated) for faults of the wire, with
        what the sink raised passed on as it is. No limit on time is set here: that is a scope of the caller's.
        """
        ...

    async def aclose(self) -> None:
        """Close every connection. Safe to call twice."""
        ...


@runtime_checkable
class Leasing(Protocol):
    """An engine whose idle connections can be taken first, and used then: an exchange on one is ended from another task
    by its `close`, and needs no scope of its own for that."""

    def lease(self) -> Any:
        """An idle connection, with a `close`; None where there is none. Whoever takes it uses it in the same turn."""
        ...

    async def exchange_on(self, connection: Any, request: WireRequest, sink: Sink) -> bool:
        """As `Engine.exchange`. False where the connection had died, and nothing of the request was taken."""
        ...
