"""The policies that are about the caller alone: the deadline. Imports `service` and trio."""

from __future__ import annotations

import math

import trio

from ..errors import AdmissionError
from ..service import Call, Outlet, Service

__all__ = ["within_deadline"]


def within_deadline(service: Service) -> Service:
    """The service, under the call's own deadline: queue, connecting, sending and reading together.

    Raises `AdmissionError` of kind `deadline` when it passes. A call without one is not touched.
    """

    async def run(call: Call, outlet: Outlet) -> None:
        if call.deadline == math.inf:
            await service(call, outlet)
            return
        with trio.CancelScope(deadline=call.deadline) as scope:
            await service(call, outlet)
        if scope.cancelled_caught:
            raise AdmissionError("the call's deadline passed", kind="deadline")

    return run
