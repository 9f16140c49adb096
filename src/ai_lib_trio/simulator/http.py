"""Bytes of HTTP/1.1 become requests, and replies become bytes. Sans-IO: the standard library alone.

A strict reader of our own, because a server that is to send wrong bytes on purpose cannot use a library that keeps
replies legal, and a simulated provider should refuse what a real one refuses. The rule that must stay true: a
request is given out once it is whole, and whatever follows it stays in the buffer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

__all__ = ["HttpRequest", "MalformedRequest", "RequestReader", "head_bytes", "last_chunk", "one_chunk"]

MAX_HEAD_BYTES = 64 * 1024  # what servers accept lies between 8 and 64 KiB
MAX_BODY_BYTES = 64 * 1024 * 1024  # inline images and documents; providers take 20 to 50 MB

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?")


class MalformedRequest(Exception):
    """The bytes are no request of HTTP/1.1. `status` is what such bytes are answered with."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class HttpRequest(NamedTuple):
    """One whole request. Header names are in lower case, `path` is decoded, `target` as it came."""

    method: str
    target: str
    path: str
    query: list[tuple[str, str]]
    headers: list[tuple[str, str]]
    body: bytes
    keep_alive: bool

    def header(self, name: str) -> str | None:
        for key, value in self.headers:
            if key == name:
                return value
        return None


class RequestReader:
    """The bytes of one connection. `feed` them, then ask `next` until it gives None."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: tuple[str, str, list[tuple[str, str]], bool] | None = None
        self._length = 0
        self._chunked = False
        self._body = bytearray()
        self._told_to_go_on = False

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    @property
    def began(self) -> bool:
        """Whether a part of a request is here."""
        return bool(self._buffer) or self._head is not None

    @property
    def first_byte(self) -> int | None:
        return self._buffer[0] if self._buffer and self._head is None else None

    def feed(self, data: bytes | bytearray) -> None:
        self._buffer += data

    def wants_continue(self) -> bool:
        """Whether the client waits for `100 Continue`; true once a request."""
        if self._head is None or self._told_to_go_on or self._buffer or self._body:
            return False
        if dict(self._head[2]).get("expect", "").lower() != "100-continue":
            return False
        self._told_to_go_on = True
        return True

    def next(self) -> HttpRequest | None:
        """The next whole request, or None until more bytes come. Raises MalformedRequest."""
        if self._head is None and not self._read_head():
            return None
        assert self._head is not None
        if not (self._read_chunks() if self._chunked else self._read_length()):
            return None
        method, target, headers, keep_alive = self._head
        body = bytes(self._body)
        self._head, self._body = None, bytearray()
        path, _, query = target.partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        return HttpRequest(method, target, unquote(path), pairs, headers, body, keep_alive)

    def _read_head(self) -> bool:
        while self._buffer[:2] == b"\r\n":  # blank lines before a request are allowed (RFC 9112, 2.2)
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n")
        if end > MAX_HEAD_BYTES or (end < 0 and len(self._buffer) > MAX_HEAD_BYTES):
            raise MalformedRequest("request head too large", 431)
        if end < 0:
            return False
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        first = _REQUEST_LINE.fullmatch(lines[0])
        if first is None:
            raise MalformedRequest("not a request line of HTTP/1.1")
        headers: list[tuple[str, str]] = []
        for line in lines[1:]:
            header = _HEADER.fullmatch(line)
            if header is None:
                raise MalformedRequest("malformed header line")
            headers.append((header[1].decode("ascii").lower(), header[2].decode("latin-1")))
        self._start_body(headers)
        connection = {
            word.strip().lower() for key, value in headers if key == "connection" for word in value.split(",")
        }
        keep_alive = "close" not in connection and (first[3] == b"1" or "keep-alive" in connection)
        self._head = (first[1].decode("ascii"), first[2].decode("ascii"), headers, keep_alive)
        return True

    def _start_body(self, headers: list[tuple[str, str]]) -> None:
        lengths = {value for key, value in headers if key == "content-length"}
        codings = [value.lower() for key, value in headers if key == "transfer-encoding"]
        if codings and (lengths or codings != ["chunked"]):
            raise MalformedRequest("transfer-encoding other than chunked, or beside a content-length")
        if len(lengths) > 1 or any(not value.isascii() or not value.isdigit() for value in lengths):
            raise MalformedRequest("content-length is no number")
        if not any(key == "host" for key, _ in headers):
            raise MalformedRequest("no host header")
        self._chunked, self._told_to_go_on = bool(codings), False
        self._length = int(next(iter(lengths), "0"))
        if self._length > MAX_BODY_BYTES:
            raise MalformedRequest("request body too large", 413)

    def _read_length(self) -> bool:
        missing = self._length - len(self._body)
        self._body += self._buffer[:missing]
        del self._buffer[:missing]
        return len(self._body) == self._length

    def _read_chunks(self) -> bool:
        while True:
            end = self._buffer.find(b"\r\n")
            if end < 0:
                if len(self._buffer) > 256:
                    raise MalformedRequest("malformed chunk")
                return False
            size = _CHUNK.fullmatch(bytes(self._buffer[:end]))
            if size is None:
                raise MalformedRequest("malformed chunk")
            length = int(size[1], 16)
            after = end + 2 + length
            if len(self._body) + length > MAX_BODY_BYTES:
                raise MalformedRequest("request body too large", 413)
            if len(self._buffer) < after + 2:
                return False
            if self._buffer[after : after + 2] != b"\r\n":
                raise MalformedRequest("malformed chunk, or trailers")
            self._body += self._buffer[end + 2 : after]
            del self._buffer[: after + 2]
            if length == 0:
                return True


_REASONS = {
    100: "Continue",
    200: "OK",
    301: "Moved Permanently",
    302: "Found",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


def head_bytes(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """The status line and the headers, with the blank line after them."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}"]
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def one_chunk(data: bytes) -> bytes:
    """`data` as one chunk; nothing for no data, because an empty chunk is the end."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def last_chunk() -> bytes:
    return b"0\r\n\r\n"
