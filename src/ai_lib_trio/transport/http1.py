"""HTTP/1.1 without I/O: what goes out becomes bytes, what came becomes a status, headers and pieces of a body.

Imports `errors` and `base`; httptools (llhttp) when the first chunked body comes. The rule that must stay true: `feed`
never raises on what a server sent. What stands before a fault is given out, then `fault` says what was wrong.

Heads are read here, by the grammar of RFC 9110 and 9112 with the leniencies that h11 has (bare LF, folded lines, no
reason phrase): llhttp has no way to be told of a HEAD request, and judges lines otherwise than the httpx engine would.
Sized bodies and bodies until the close are slices of what was read. Chunks are llhttp's work, since there may be one an
event. Where it is stricter than h11 it stays so: chunk extensions must be tokens, lines of the chunk coding must end in
CRLF, a trailer must not be folded, hold control characters or a content-length. It is laxer in three things that change
nothing that is read: leading zeros of a chunk's size, a blank between it and an extension, and the value of a
`transfer-encoding` trailer.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec

from ..errors import CallerError
from .base import Headers

__all__ = ["MAX_HEAD_BYTES", "Endpoint", "ResponseReader", "endpoint_of", "head_of", "place_of", "reason_of"]

# What one head may take, and informational ones before it, and what the chunk coding may take between two pieces of a
# body. The httpx engine's bound (httpcore 1.0: MAX_INCOMPLETE_EVENT_SIZE); servers send 1 to 8 KiB.
MAX_HEAD_BYTES = 100 * 1024
USUAL_HEAD_BYTES = 8 * 1024  # lines of larger heads are not remembered

_TOKEN = rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+"
_name = re.compile(_TOKEN)
_value = re.compile(rb"[^\x00\r\n]*")
_end_of_head = re.compile(rb"\n\r?\n")
# Neither a reason nor a header's value may hold what ends lines elsewhere.
_status_line = re.compile(r"HTTP/([0-9]\.[0-9]) ([0-9]{3})(?: [^\n\x00\r\x0b\x0c]*)?")
_field = re.compile(rf"({_TOKEN.decode()}):[ \t]*([^\n\x00\r\x0b\x0c]*)")
_length = re.compile(r"[0-9]{1,20}")
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})
_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"


# ---- what goes out


class Endpoint(msgspec.Struct, frozen=True):
    """Where a request goes. `host` is for connecting, `authority` for people and the host header."""

    host: str
    port: int
    is_tls: bool
    authority: str
    target: bytes  # path and query, as they go on the wire


def endpoint_of(url: str) -> Endpoint:
    """The parts of an absolute URL. Raises `CallerError` where nothing can be sent to it."""
    from urllib.parse import quote, urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port
        host = parts.hostname or ""
        if not host.isascii():
            plain = host.encode("idna")
            if plain.decode("idna") != host:  # two rules of writing such names are in use, and name two hosts here
                raise _unsendable(url, "the host is written in a form that is read in more than one way")
            host = plain.decode("ascii")
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        if parts.query:
            target += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]|\\^`{}")
    except ValueError as exc:  # UnicodeError is one, of the idna codec and of half a surrogate pair
        raise _unsendable(url, str(exc)) from None
    if parts.scheme not in ("http", "https"):
        raise _unsendable(url, "the URL is neither http nor https")
    if not host or not re.fullmatch(r"[\w.:%~-]+", host):
        raise _unsendable(url, "the URL has no usable host")
    is_tls = parts.scheme == "https"
    usual = 443 if is_tls else 80
    bracketed = f"[{host}]" if ":" in host else host
    return Endpoint(
        host,
        usual if port is None else port,
        is_tls,
        bracketed if port is None or port == usual else f"{bracketed}:{port}",
        target.encode("ascii"),
    )


def head_of(method: str, endpoint: Endpoint, headers: Headers) -> bytes:
    """The request's head up to the length of its body, which follows as a number and two line ends.

    Raises `CallerError` for what cannot stand in a head. Values never enter its message: they may be keys.
    """
    lines = [method.encode("ascii", "replace") + b" " + endpoint.target + b" HTTP/1.1"]
    if not _name.fullmatch(lines[0].partition(b" ")[0]):
        raise _unsendable(endpoint.authority, "the method is not a token")
    has_host = False
    for name, value in headers:
        try:
            raw_name, raw_value = name.encode("ascii"), value.strip(" \t").encode("latin-1")
        except UnicodeEncodeError:
            raise _unsendable(
                endpoint.authority, f"the header {name!r} has characters that no header may hold"
            ) from None
        low = raw_name.lower()
        if low == b"content-length":
            continue  # known here, and the only length that the body can have
        if low == b"transfer-encoding":
            raise _unsendable(endpoint.authority, "bodies are sent with their length: take transfer-encoding away")
        if not _name.fullmatch(raw_name) or not _value.fullmatch(raw_value):
            raise _unsendable(endpoint.authority, f"the header {name!r} is malformed")
        has_host = has_host or low == b"host"
        lines.append(raw_name + b": " + raw_value)
    if not has_host:
        lines.insert(1, b"host: " + endpoint.authority.encode("ascii"))
    lines.append(b"content-length: ")
    return b"\r\n".join(lines)


def _unsendable(url: str, why: str) -> CallerError:
    return CallerError(f"the request to {place_of(url)} cannot be sent: {why}", kind="bad_argument")


def place_of(url: str) -> str:
    """Host and port of a URL, for messages: never its path, query or user."""
    return url.split("://", 1)[-1].partition("/")[0].partition("?")[0].rpartition("@")[2]


def reason_of(failure: BaseException) -> object:
    """Why a connection failed, for messages: at the first address that was tried, where trio says that all failed."""
    while True:
        nested = getattr(failure, "exceptions", None)
        cause = nested[0] if nested else failure.__cause__
        if cause is None and not isinstance(failure, OSError):
            cause = failure.__context__
        if cause is None:
            return getattr(failure, "strerror", None) or failure
        failure = cause


# ---- what comes in


@functools.lru_cache(256)  # a server sends most lines of its heads the same every time
def _field_of(line: str) -> tuple[str, str] | None:
    """The name, in lower case, and the value of one line. None for what is no header."""
    match = _field.fullmatch(line)
    return None if match is None else (match[1].lower(), match[2].rstrip(" \t"))


@functools.lru_cache(64)
def _status_of(line: str) -> tuple[int, bool] | None:
    """The status that a first line says, and whether its version closes connections. None for what is no such line."""
    match = _status_line.fullmatch(line)
    return None if match is None else (int(match[2]), match[1] < "1.1")


def _length_of(value: str) -> str | None:
    """The length that a header's value says, once or several times. None for what is none."""
    if "," in value:
        first, *others = (part.strip(" \t") for part in value.split(","))
        value = first if others == [first] * len(others) else ""
    return value if _length.fullmatch(value) else None


def _head_in(data: bytes, start: int) -> tuple[str, list[tuple[str, str] | None], int] | None:
    """The head that data begins with: its first line, its headers (None for what is none), and its bytes.

    None where it has no end yet; `start` is where to look for one.
    """
    end = data.find(b"\r\n\r\n", start)
    if end >= 0:
        first, *lines = data[:end].decode("latin-1").split("\r\n")
        fields = list(map(_field_of if end <= USUAL_HEAD_BYTES else _field_of.__wrapped__, lines))
        if all(fields) and "\n" not in first:
            return first, fields, end + 4
    # Lines that end in a bare line feed, or are folded: rare, and read with more care.
    match = _end_of_head.search(data, start)
    if match is None:
        return None
    text = data[: match.end()].decode("latin-1").replace("\r\n", "\n").rstrip("\n")
    first, *lines = _unfolded(text.split("\n"))
    return first, list(map(_field_of.__wrapped__, lines)), match.end()


class _Pieces:
    """What llhttp calls, looked up once. The callbacks hold lists and nothing else, so that there is no cycle."""

    __slots__ = ("on_body", "on_message_complete")

    def __init__(self, pieces: list[bytes], is_open: list[None]) -> None:
        self.on_body = pieces.append
        self.on_message_complete = is_open.clear


class ResponseReader:
    """One response. `status` is 0 until the final head is there; then `headers` are too.

    `is_complete` is set at the body's end, `is_reusable` says whether another request may follow on the connection,
    `fault` what was not HTTP. After a fault or the end, nothing more is read; bytes behind the end make the connection
    useless.
    """

    __slots__ = (
        "_barren_bytes",
        "_chunks",
        "_head",
        "_is_without_body",
        "_left",
        "_open",
        "_pieces",
        "_refusal",
        "_searched",
        "_tail",
        "fault",
        "headers",
        "is_complete",
        "is_reusable",
        "status",
    )

    def __init__(self, method: str) -> None:
        self.status = 0
        self.headers: Headers = []
        self.is_complete = False
        self.is_reusable = True
        self.fault: str | None = None
        self._is_without_body = method == "HEAD"
        self._head = b""
        self._searched = 0
        self._left: int | None = None  # of a sized body; None for one until the close
        self._chunks: Any = None  # llhttp, for a chunked body
        self._refusal: type[Exception] = ValueError
        self._pieces: list[bytes] = []
        self._open: list[None] = [None]  # emptied by llhttp at the end of the body
        self._tail = b""  # the last bytes of the chunk coding
        self._barren_bytes = 0  # read since the last piece of a body

    def feed(self, data: bytes) -> bytes:
        """Take what was read; give what it held of the body."""
        if self.is_complete or self.fault is not None:
            self.is_reusable = False
            return b""
        return self._read_body(data if self.status else self._read_head(data))

    def _read_body(self, data: bytes) -> bytes:
        if not data:
            return data
        if self._chunks is not None:
            return self._read_chunks(data)
        left = self._left
        if left is None:
            return data
        size = len(data)
        if size < left:
            self._left = left - size
            return data
        self.is_complete = True
        if size > left:
            self.is_reusable = False
            return data[:left]
        return data

    def end(self) -> bool:
        """The server has closed. Whether that is the response's proper end."""
        self.is_reusable = False
        if self.status and self._chunks is None and self._left is None and self.fault is None:
            self.is_complete = True
        return self.is_complete

    # ---- the head

    def _read_head(self, data: bytes) -> bytes:
        """Take the head and what informational ones come before it. Gives the bytes behind it."""
        self._head = data = self._head + data if self._head else data
        while not self.status:
            if data[:1] < b"!" and data:
                return self._broken("no status line")
            head = _head_in(data, self._searched)
            read = len(data) if head is None else head[2]
            if self._barren_bytes + read > MAX_HEAD_BYTES:
                return self._broken("a head without an end")
            if head is None:
                self._searched = max(0, len(data) - 3)
                return b""
            self._barren_bytes += read
            self._searched = 0
            self._head = data = data[read:]
            if not self._take_head(head[0], head[1]):
                return b""
        self._head = b""
        self._barren_bytes = 0
        if self.is_complete:
            self.is_reusable = self.is_reusable and not data
            return b""
        return data

    def _broken(self, what: str) -> bytes:
        self.fault = what
        self.is_reusable = False
        self._head = b""
        return b""

    def _take_head(self, first: str, fields: list[tuple[str, str] | None]) -> bool:
        """Go by one head. False where it is faulty."""
        line = _status_of(first)
        if line is None:
            self._broken("no status line")
            return False
        status, is_closing = line
        headers: list[tuple[str, str]] = []
        length: str | None = None
        is_chunked = False
        for field in fields:
            if field is None:
                self._broken("a line that is no header")
                return False
            name, value = field
            if name not in _FRAMING:
                headers.append(field)
                continue
            if name == "content-length":
                said = _length_of(value)
                if said is None or (length is not None and said != length):
                    self._broken("lengths that are none, or contradict each other")
                    return False
                if length is not None:
                    continue
                length = value = said
            elif name == "transfer-encoding":
                low = value.lower()
                value = value if value == low else low  # as a rule the remembered one
                if value != "chunked" or is_chunked:
                    self._broken("an unknown transfer coding")
                    return False
                is_chunked = True
            else:
                is_closing = is_closing or any(part.strip(" \t").lower() == "close" for part in value.split(","))
            headers.append((name, value))
        if status < 200:
            if status < 100 or status == 101:  # nobody asked to switch protocols
                self._broken(f"the status {status:03}")
                return False
            return True
        self.status = status
        self.headers = headers
        # Both framings at once is how responses are smuggled past proxies: read as chunked, and never reused.
        self.is_reusable = not is_closing and not (is_chunked and length is not None)
        if self._is_without_body or status in (204, 304):
            self.is_complete = True
        elif is_chunked:
            self._open_chunks()
        elif length is not None:
            self._left = int(length)
            self.is_complete = self._left == 0
        return True

    # ---- the chunk coding

    def _open_chunks(self) -> None:
        import httptools

        self._refusal = httptools.HttpParserError
        self._chunks = httptools.HttpResponseParser(_Pieces(self._pieces, self._open))
        # Spaces behind a chunk's size come from servers in the wild, and h11 takes them too.
        self._chunks.set_dangerous_leniencies(lenient_spaces_after_chunk_size=True)
        # A head of our own that says `close`: then bytes behind the body are a fault to llhttp, and no next message.
        self._chunks.feed_data(_CHUNKED_HEAD)

    def _read_chunks(self, data: bytes) -> bytes:
        pieces = self._pieces
        try:
            self._chunks.feed_data(data)
        except self._refusal:
            self.is_reusable = False
            if self._open:
                self.fault = "broken chunks"
        self._tail = (self._tail + data)[-5:] if len(data) < 5 else data[-5:]
        if not self._open:
            self.is_complete = True
            self._chunks = None
            # llhttp passes over line ends behind the body, and they would stand before the next status line.
            if self._tail[-4:] != b"\r\n\r\n" or self._tail[:1] == b"\n":
                self.is_reusable = False
        if not pieces:
            self._barren_bytes += len(data)
            if self._barren_bytes > MAX_HEAD_BYTES and not self.is_complete:
                self.fault = "chunks without an end"
            return b""
        self._barren_bytes = 0
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body


def _unfolded(lines: list[str]) -> list[str]:
    """Lines that begin with white space belong to the header before; without one they stay, and are no header."""
    whole = lines[:1]
    for number, line in enumerate(lines[1:]):
        if number and line[:1] in (" ", "\t"):
            whole[-1] += " " + line.lstrip(" \t")
        else:
            whole.append(line)
    return whole
