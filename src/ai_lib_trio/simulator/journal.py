"""What the simulator saw: every request, every connection, and how each of them ended.

Imports trio for waiting, and nothing of the wire. The rule that must stay true: a credential is masked before anything
is kept, so no entry, repr or JSON of one holds a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import trio

from ..types.request import Request

__all__ = ["MASK", "Connection", "Entry", "Journal", "Masker", "declared_names", "without"]

MASK = "***"
MIN_SECRET = (
    8  # shorter texts are looked for in their own places alone: they are words of tests, and keys of no provider
)

# Header and parameter names that carry credentials on any wire; what manifests declare is added to them.
_ALWAYS = frozenset(
    ("authorization", "proxy-authorization", "x-api-key", "api-key", "apikey", "api_key", "cookie", "set-cookie")
)
_SUSPECT = frozenset(("key", "token", "secret", "password", "credential", "signature", "auth", "authorization"))


_WORDS = re.compile(r"[a-z]+")


class Masker:
    """Hides credentials in headers, query parameters and, where the same text appears again, in everything else."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = _ALWAYS | {name.lower() for name in names}

    def hides(self, name: str) -> bool:
        """Whether a header or parameter of this name holds a credential."""
        lower = name.lower()
        words = _WORDS.findall(lower)
        # An idempotency key is no credential, and whether a retry repeats it is what journals are read for.
        return lower in self._names or ("idempotency" not in words and not _SUSPECT.isdisjoint(words))

    def secrets(self, pairs: Iterable[tuple[str, str]]) -> list[str]:
        """The credentials in these headers or parameters, without a scheme such as Bearer before them."""
        return [value.rpartition(" ")[2] for name, value in pairs if value and self.hides(name)]

    def masked(self, pairs: Iterable[tuple[str, str]], secrets: Iterable[str]) -> list[tuple[str, str]]:
        known = list(secrets)
        return [(name, MASK if self.hides(name) else without(value, known)) for name, value in pairs]


def without(text: str, secrets: Iterable[str]) -> str:
    """The text with each of the secrets masked."""
    for secret in secrets:
        if len(secret) >= MIN_SECRET:
            text = text.replace(secret, MASK)
    return text


class Entry:
    """One request and what became of it. Times are trio's.

    `provider` is what the path named (or None), `dialect` what answered. `body` is the parsed JSON, or text; `request`
    the standard request, None where it could not be lifted; `refused` says why it was answered with an error. `key` is
    the id under which the simulator knows the credential that came, `"unknown"` for another, None without one.
    `reply` describes the answer, `status` its status, `bytes_sent` and `frames_sent` count what left (the head is not
    counted). `outcome` is `open`, then one of: `served`, `client_closed`, `reset_by_client` (the client left before the
    end), `cut`, `reset` (as scripted), `simulator_closed`.
    """

    __slots__ = (
        "at",
        "body",
        "bytes_sent",
        "connection",
        "dialect",
        "ended_at",
        "frames_sent",
        "headers",
        "key",
        "method",
        "model",
        "number",
        "outcome",
        "path",
        "provider",
        "query",
        "refused",
        "reply",
        "request",
        "status",
        "streamed",
    )

    def __init__(self, number: int, connection: Connection, at: float, method: str, path: str) -> None:
        self.number = number
        self.connection = connection
        self.at = at
        self.method = method
        self.path = path
        self.query: list[tuple[str, str]] = []
        self.headers: list[tuple[str, str]] = []
        self.body: Any = None
        self.provider: str | None = None
        self.dialect: str | None = None
        self.model: str | None = None
        self.request: Request | None = None
        self.streamed = False
        self.refused: str | None = None
        self.key: str | None = None
        self.reply = ""
        self.status: int | None = None
        self.bytes_sent = 0
        self.frames_sent = 0
        self.outcome = "open"
        self.ended_at: float | None = None

    @property
    def left_by_client(self) -> bool:
        """Whether the client was gone before its answer was out, with a goodbye or without one."""
        return self.outcome in ("client_closed", "reset_by_client")

    def header(self, name: str) -> str | None:
        """A header of the request, masked where it is a credential."""
        return next((value for key, value in self.headers if key == name.lower()), None)

    def as_dict(self) -> dict[str, Any]:
        """The entry as plain values, for JSON."""
        out: dict[str, Any] = {name: getattr(self, name) for name in self.__slots__ if name not in ("connection",)}
        out["connection"] = self.connection.number
        out["connection_end"] = self.connection.end
        out["headers"], out["query"] = dict(self.headers), dict(self.query)
        out["request"] = msgspec.to_builtins(self.request) if self.request is not None else None
        return out

    def __repr__(self) -> str:
        return (
            f"<Entry {self.number} {self.method} {self.path} on connection {self.connection.number}: "
            f"{self.status} {self.outcome}, {self.frames_sent} frames, {self.bytes_sent} bytes>"
        )


class Connection:
    """One connection of a client. `end` is None while it is open, then how it ended:

    `client_closed`, `reset_by_client`, `closed` (by the simulator, after an answer that said so or a request that
    could not be read), `cut`, `reset` (as scripted), `tls_refused`, `simulator_closed`.
    """

    __slots__ = ("end", "ended_at", "entries", "number", "opened_at", "peer")

    def __init__(self, number: int, opened_at: float, peer: str = "") -> None:
        self.number = number
        self.opened_at = opened_at
        self.peer = peer
        self.end: str | None = None
        self.ended_at: float | None = None
        self.entries: list[Entry] = []

    def __repr__(self) -> str:
        return f"<Connection {self.number}: {len(self.entries)} requests, {self.end or 'open'}>"


class Journal:
    """All entries and connections, in order, and ways to wait for what they come to say."""

    def __init__(self, on_change: Callable[[str, Entry], None] | None = None) -> None:
        self.entries: list[Entry] = []
        self.connections: list[Connection] = []
        self._on_change = on_change
        self._waiting = trio.lowlevel.ParkingLot()

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return sum(1 for connection in self.connections if connection.end is None)

    @property
    def open_requests(self) -> int:
        """How many requests have come and not ended."""
        return sum(1 for entry in self.entries if entry.outcome == "open")

    def connected(self, peer: str = "") -> Connection:
        """A new connection."""
        connection = Connection(len(self.connections) + 1, trio.current_time(), peer)
        self.connections.append(connection)
        self.changed()
        return connection

    def disconnected(self, connection: Connection, end: str) -> None:
        """The connection's end; what it was answering ended with it. The first word on either stays."""
        for entry in connection.entries:
            if entry.outcome == "open":
                self.ended(entry, end if end != "closed" else "cut")
        if connection.end is None:
            connection.end = end
            connection.ended_at = trio.current_time()
        self.changed()

    def arrived(self, connection: Connection, method: str, path: str) -> Entry:
        """A new entry; `began` tells others of it once it is filled in."""
        entry = Entry(len(self.entries) + 1, connection, trio.current_time(), method, path)
        self.entries.append(entry)
        connection.entries.append(entry)
        return entry

    def began(self, entry: Entry) -> None:
        """The entry is filled in: who waits for it is woken."""
        if self._on_change is not None:
            self._on_change("request", entry)
        self.changed()

    def ended(self, entry: Entry, outcome: str) -> None:
        """The entry's end, and how it came."""
        entry.outcome = outcome
        entry.ended_at = trio.current_time()
        if self._on_change is not None:
            self._on_change("end", entry)
        self.changed()

    def changed(self) -> None:
        """Something is otherwise than it was: who waits looks again."""
        self._waiting.unpark_all()

    async def wait(self, holds: Callable[[], bool]) -> None:
        """Wait until `holds()`, which is asked again after every change of the journal, bytes sent included."""
        if holds():
            await trio.lowlevel.checkpoint()
        while not holds():
            await self._waiting.park()

    async def wait_entry(self, number: int) -> Entry:
        """Wait until the request of this number (from 1) has come."""
        await self.wait(lambda: len(self.entries) >= number)
        return self.entries[number - 1]

    async def wait_end(self, number: int) -> Entry:
        """Wait until the request of this number has come and ended."""
        entry = await self.wait_entry(number)
        await self.wait(lambda: entry.outcome != "open")
        return entry

    async def wait_frames(self, number: int, frames: int) -> Entry:
        """Wait until so many frames of the answer to the request of this number have left."""
        entry = await self.wait_entry(number)
        await self.wait(lambda: entry.frames_sent >= frames)
        return entry

    async def wait_connection_end(self, number: int) -> Connection:
        """Wait until the connection of this number (from 1) has come and ended."""
        await self.wait(lambda: len(self.connections) >= number)
        connection = self.connections[number - 1]
        await self.wait(lambda: connection.end is not None)
        return connection


def declared_names(auths: Iterable[Any]) -> set[str]:
    """Every header and parameter that manifests declare for credentials."""
    names: set[str] = set()
    for auth in auths:
        names.update(name for name in (auth.header, auth.param_name) if name)
    return names
