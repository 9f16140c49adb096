"""Calls in text as a policy: for a provider that declares it, requests and replies are rewritten around each attempt.

Imports `pipeline.text_tools`, `wire.text_tools`, `service`. It stands inside of retries, so that what it holds back is
not yet handed over. The rule that must stay true: for every other provider, and for calls without tools, the service
runs untouched.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from ..errors import AiLibError
from ..protocol.manifest import TextTools
from ..service import Batch, Call, Outlet, Service, Source, send

if TYPE_CHECKING:
    from ..pipeline.text_tools import CallsInText

__all__ = ["reading_calls"]


class _Reading:
    """The outlet in front of the caller's."""

    __slots__ = ("_calls", "_outlet")

    def __init__(self, outlet: Outlet, calls: CallsInText) -> None:
        self._outlet = outlet
        self._calls = calls

    def send_nowait(self, batch: Batch) -> bool:
        """See `service.Outlet`. What is held back counts as room: its bound is the reader's."""
        decided = self._calls.feed(batch)
        return self._outlet.send_nowait(decided) if decided else True

    async def wait_room(self) -> None:
        """See `service.Outlet`."""
        await self._outlet.wait_room()

    def lend(self, source: Source) -> bool:
        """See `service.Outlet`."""
        return self._outlet.lend(source)


def reading_calls(service: Service) -> Service:
    """The service, with the calls that a reply's text holds given as calls where the target's manifest says so."""

    def run(call: Call, outlet: Outlet) -> Awaitable[None]:
        is_native = call.target.manifest.tool_calling.strategy == "native"
        return service(call, outlet) if is_native else reading(call, outlet)

    async def reading(call: Call, outlet: Outlet) -> None:
        declared = call.target.manifest.tool_calling
        strategy = declared.strategy
        from ..pipeline.text_tools import CallsInText  # on first use: few providers need it, and it is slow to import
        from ..wire.text_tools import calls_so_far, needs_text, told_in_text

        if not needs_text(call.request):
            await service(call, outlet)
            return
        form = declared.text or TextTools()
        request = call.request
        onward = call
        if strategy == "text":
            onward = call.copy(request=told_in_text(request, form), retry=call.retry)
        is_offered = bool(request.tools) and (request.tool_choice is None or request.tool_choice.mode != "none")
        if not is_offered:
            await _run_as(call, onward, service, outlet)
            return
        calls = CallsInText(
            form,
            hybrid=strategy == "hybrid",
            names=[tool.name for tool in request.tools],
            number=calls_so_far(request),
        )
        try:
            await _run_as(call, onward, service, _Reading(outlet, calls))
        except AiLibError:
            rest = calls.finish()  # what came before a fault is delivered before it
            if rest:
                outlet.send_nowait(rest)
            raise
        rest = calls.finish()
        if rest:
            await send(outlet, rest)

    return run


async def _run_as(call: Call, onward: Call, service: Service, outlet: Outlet) -> None:
    """Run the rewritten call, and leave on the call itself what the innermost service leaves."""
    try:
        await service(onward, outlet)
    finally:
        call.attempt, call.entry = onward.attempt, onward.entry
