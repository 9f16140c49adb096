"""Hooks: records go to the sinks that the client was given. No sink, no cost; a failing sink harms no call.

Imports `types.records`. Sinks run in the task of the step, so they see the caller's context variables. The rule that
must stay true: whoever builds a record asks `on` first, and nothing a sink raises gets out of `emit`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..types.records import ClientSink, Record, Sink

__all__ = ["Hooks"]


class Hooks:
    """`on` says whether anyone listens: ask it before building a record."""

    __slots__ = ("_sinks", "failures", "on")

    def __init__(self, sinks: Sequence[Sink | ClientSink] = (), client: int = 0) -> None:
        self._sinks: tuple[Sink, ...] = tuple(
            sink.for_client(client) if isinstance(sink, ClientSink) else sink for sink in sinks
        )
        self.on = bool(self._sinks)
        self.failures = 0

    def emit(self, record: Record) -> None:
        for sink in self._sinks:
            try:
                sink(record)
            except Exception:  # a sink is the user's code beside the call, never in its way; counted in the tree
                self.failures += 1
