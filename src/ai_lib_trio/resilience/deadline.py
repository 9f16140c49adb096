"""The deadline of a call: one absolute moment, over queue, connecting, attempts, pauses, fallback and body.

Imports `service` and trio.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable

import trio

from ..errors import AdmissionError
from ..service import Call, Outlet, Service

__all__ = ["within_deadline"]


def within_deadline(service: Service) -> Service:
    """The service, under the call's own deadline.

    Raises `AdmissionError` of kind `deadline` when it passes. A call without one is not touched.
    """

    def run(call: Call, outlet: Outlet) -> Awaitable[None]:
        return service(call, outlet) if call.deadline == math.inf else limited(call, outlet)

    async def limited(call: Call, outlet: Outlet) -> None:
        if trio.current_time() >= call.deadline:  # then nothing is sent
            await trio.lowlevel.checkpoint()
            raise AdmissionError("the call's deadline has passed", kind="deadline")
        with trio.CancelScope(deadline=call.deadline) as scope:
            await service(call, outlet)
        if scope.cancelled_caught:
            raise AdmissionError("the call's deadline passed", kind="deadline")

    return run
