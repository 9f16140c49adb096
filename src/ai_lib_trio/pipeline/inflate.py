"""Content coding undone in bounded steps. Imports the standard library; for `br` and `zstd` what is installed of brotli
and of the standard library's zstd (from Python 3.14, before that `backports.zstd`), when the first request asks.

The rule that must stay true: however little came in, at most `STEP_BYTES` come out at a time, so a small body that
inflates to a huge one meets the same bounds and the same backpressure as a huge body. A library without such a bound is
as good as none.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import zlib
from typing import Any

__all__ = ["STEP_BYTES", "Inflater"]

STEP_BYTES = 64 * 1024


class Inflater:
    """Undoes one of `accepted()`. `feed` once per piece, then `step` until it gives nothing."""

    __slots__ = ("_engine", "_input")

    def __init__(self, coding: str) -> None:
        self._engine: Any = _ENGINES[coding]()
        self._input = b""

    @staticmethod
    def knows(coding: str) -> bool:
        """Whether a body in this coding can be read here."""
        return coding in ("gzip", "x-gzip", "deflate") or coding in _installed()

    @staticmethod
    def accepted() -> str:
        """What to offer as `accept-encoding`."""
        return ", ".join(("gzip", "deflate", *_installed()))

    @property
    def has_input(self) -> bool:
        """Whether `step` may still give something."""
        return bool(self._input) or self._engine.holds_more

    def feed(self, piece: bytes) -> None:
        self._input += piece

    def step(self) -> bytes:
        """At most `STEP_BYTES` of the plain body. Raises `zlib.error` where the coding is broken, whichever it is."""
        if not self.has_input:
            return b""
        plain, self._input = self._engine.step(self._input)
        return bytes(plain)


class _Gzip:
    """gzip allows several members one after another."""

    holds_more = False

    def __init__(self) -> None:
        self.member = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        plain = self.member.decompress(data, STEP_BYTES)
        if self.member.eof and self.member.unused_data:
            data = self.member.unused_data
            self.member = zlib.decompressobj(zlib.MAX_WBITS | 16)
            return plain, data
        return plain, self.member.unconsumed_tail


class _Deflate:
    """It has zlib's header by the standard; some servers send it raw, told by its first byte."""

    holds_more = False
    whole: Any = None

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        if self.whole is None:
            self.whole = zlib.decompressobj(zlib.MAX_WBITS if data[0] & 0x0F == 8 else -zlib.MAX_WBITS)
        if self.whole.eof:  # what stands behind the end is no part of the body, and would be gathered there
            return b"", b""
        plain = self.whole.decompress(data, STEP_BYTES)
        return plain, self.whole.unconsumed_tail


class _Brotli:
    def __init__(self) -> None:
        library = _brotli()
        self.fault = library.error
        self.whole = library.Decompressor()
        self.holds_more = False

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        given, left = (b"", data) if self.holds_more else (data, b"")
        try:
            # It stops growing its output when that is over the limit, and grows it by 32 KiB first.
            plain = self.whole.process(given, output_buffer_limit=STEP_BYTES // 4)
        except self.fault as exc:
            raise zlib.error(str(exc)) from exc
        # It may have taken all of its input and hold output back, and says nothing of that: asked until none comes.
        self.holds_more = not self.whole.can_accept_more_data() or (bool(plain) and not self.whole.is_finished())
        return plain, left


class _Zstd:
    """Frames may follow one another, as gzip's members."""

    def __init__(self) -> None:
        self.library = _zstd()
        self.frame = self.library.ZstdDecompressor()
        self.holds_more = False

    def step(self, data: bytes) -> tuple[bytes, bytes]:
        if self.frame.eof:
            self.frame = self.library.ZstdDecompressor()
        given, left = (b"", data) if self.holds_more else (data, b"")
        try:
            plain = self.frame.decompress(given, STEP_BYTES)
        except self.library.ZstdError as exc:
            raise zlib.error(str(exc)) from exc
        self.holds_more = not self.frame.needs_input and not self.frame.eof
        return plain, (self.frame.unused_data + left if self.frame.eof else left)


_ENGINES: dict[str, type[Any]] = {
    "gzip": _Gzip,
    "x-gzip": _Gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}


@functools.cache
def _installed() -> tuple[str, ...]:
    """The codings beside zlib's that can be undone here."""
    return tuple(name for name, library in (("br", _brotli()), ("zstd", _zstd())) if library is not None)


def _brotli() -> Any:
    try:
        library = importlib.import_module("brotli")
    except ImportError:
        return None
    # Its bound on what comes out is there from 1.2.
    return library if hasattr(getattr(library, "Decompressor", None), "can_accept_more_data") else None


def _zstd() -> Any:
    with contextlib.suppress(ImportError):
        return importlib.import_module("compression.zstd")
    with contextlib.suppress(ImportError):
        return importlib.import_module("backports.zstd")
    return None
