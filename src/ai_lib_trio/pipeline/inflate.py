"""Content coding undone in bounded steps. Imports the standard library alone.

The rule that must stay true: however little came in, at most `STEP_BYTES` come out at a time, so a small body that
inflates to a huge one meets the same bounds and the same backpressure as a huge body.
"""

from __future__ import annotations

import zlib

__all__ = ["STEP_BYTES", "Inflater"]

STEP_BYTES = 64 * 1024


class Inflater:
    """Undoes `gzip` or `deflate`. `feed` once per piece, then `step` until it gives nothing."""

    __slots__ = ("_coding", "_engine", "_input", "_started")

    def __init__(self, coding: str) -> None:
        self._coding = coding
        # gzip has its own header. deflate has zlib's by the standard; some servers send it raw, told by its first byte.
        self._engine = zlib.decompressobj(zlib.MAX_WBITS | 16 if coding == "gzip" else zlib.MAX_WBITS)
        self._input = b""
        self._started = False

    @staticmethod
    def knows(coding: str) -> bool:
        return coding in ("gzip", "x-gzip", "deflate")

    @property
    def has_input(self) -> bool:
        """Whether `step` may still give something."""
        return bool(self._input)

    @property
    def is_complete(self) -> bool:
        """Whether the coded body's own end was read."""
        return self._engine.eof

    def feed(self, piece: bytes) -> None:
        self._input += piece

    def step(self) -> bytes:
        """At most `STEP_BYTES` of the plain body. Raises `zlib.error` where the coding is broken."""
        if not self._input:
            return b""
        if not self._started and self._coding == "deflate" and self._input[0] & 0x0F != 8:
            self._engine = zlib.decompressobj(-zlib.MAX_WBITS)
        self._started = True
        plain = self._engine.decompress(self._input, STEP_BYTES)
        self._input = self._engine.unconsumed_tail
        if self._engine.eof and self._engine.unused_data and self._coding != "deflate":
            # gzip allows several members one after another.
            self._input = self._engine.unused_data
            self._engine = zlib.decompressobj(zlib.MAX_WBITS | 16)
        return plain
