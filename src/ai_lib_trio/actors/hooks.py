"""Hooks: records go to the sinks that the client was given. No sink, no cost; a failing sink harms no call.

Imports `types.records`. Sinks run in the task of the step, so they see the caller's context variables.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..types.records import Record, Sink

__all__ = ["Hooks"]


class Hooks:
    """`on` says whether anyone listens: ask it before building a record."""

    __slots__ = ("_sinks", "failures", "on")

    def __init__(self, sinks: Sequence[Sink] = ()) -> None:
        self._sinks = tuple(sinks)
        self.on = bool(self._sinks)
        self.failures = 0

    def emit(self, record: Record) -> None:
        for sink in self._sinks:
            try:
                sink(record)
            except Exception:  # a sink is the user's code beside the call, never in its way; counted in the tree
                self.failures += 1
