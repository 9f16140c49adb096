"""Hooks: records go to the sinks that the client was given. No sink, no cost; a failing sink harms no call.

Imports `types.records`. Sinks run in the task of the step, so they see the caller's context variables. The rule that
must stay true: on a call's usual way nobody builds a record without asking `on`, and nothing a sink raises gets out.
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

    def add(self, sink: Sink) -> None:
        """One more sink. It is told of calls that start from now on whole, and of those that run in part."""
        self._sinks = (*self._sinks, sink)
        self.on = True

    def remove(self, sink: Sink) -> None:
        """Take a sink away that was added."""
        self._sinks = tuple(one for one in self._sinks if one is not sink)
        self.on = bool(self._sinks)

    def emit(self, record: Record) -> None:
        for sink in self._sinks:
            try:
                sink(record)
            except Exception:  # a sink is the user's code beside the call, never in its way; counted in the tree
                self.failures += 1
