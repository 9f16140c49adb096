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

    __slots__ = ("_client", "_sinks", "failures", "on")

    def __init__(self, sinks: Sequence[Sink | ClientSink] = (), client: int = 0) -> None:
        self._client = client
        self._sinks: tuple[Sink, ...] = ()
        self.on = False
        self.failures = 0
        for sink in sinks:
            self.add(sink)

    def add(self, sink: Sink | ClientSink) -> Sink:
        """One more sink. It is told of calls that start from now on whole, and of those that run in part.

        Gives what `remove` takes: the sink, or its own one for this client.
        """
        own = sink.for_client(self._client) if isinstance(sink, ClientSink) else sink
        self._sinks = (*self._sinks, own)
        self.on = True
        return own

    def remove(self, sink: Sink) -> None:
        """Take away what `add` gave: once, where it was added more often."""
        sinks = list(self._sinks)
        sinks.remove(sink)
        self._sinks = tuple(sinks)
        self.on = bool(sinks)

    def emit(self, record: Record) -> None:
        for sink in self._sinks:
            try:
                sink(record)
            except Exception:  # a sink is the user's code beside the call, never in its way; counted in the tree
                self.failures += 1
