"""Fallback: a chain of targets; when one fails in a way that another may not, the next is asked.

Imports `service`, `delivery`, `failover` and trio. The rules that must stay true: after output has reached the caller
the answer goes on elsewhere only by an explicit policy and with a `Rerouted` event; a target that cannot do what the
request needs is passed over, and the call's stats say so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec
import trio

from ..errors import AiLibError, CallerError
from ..service import Call, Outlet, Service, send
from ..types.events import FinalCandidate, Rerouted, StreamEnd
from ..types.records import CallRerouted, Listeners
from ..types.stats import Skipped
from .delivery import Delivery

if TYPE_CHECKING:
    from .failover import Splice

__all__ = ["MidStream", "Step", "falling_back"]

MidStream = Literal["fail", "restart", "continue"]
NOT_HERE = frozenset({"capability", "context_window", "no_credential", "credential_not_bound"})


class Step(msgspec.Struct, frozen=True):
    """One target of a chain. `enter` gives the call as it goes there, or raises why it cannot; `can_continue` says
    whether the target goes on with an answer that somebody else began."""

    ref: str
    enter: Callable[[Call], Awaitable[Call]]
    service: Service
    can_continue: Callable[[Call], bool]


def falling_back(
    steps: Sequence[Step],
    *,
    on: frozenset[str] = frozenset(),
    mid_stream: MidStream = "fail",
    hooks: Listeners | None = None,
) -> Service:
    """The first of the targets that answers. `on` are standard codes that also lead to the next one.

    Raises the error of the last target that was asked, or, where none was, why the first was passed over.
    """

    async def run(call: Call, outlet: Outlet) -> None:
        delivery = Delivery.of(outlet)
        splice: Splice | None = None
        if mid_stream == "continue":
            from .failover import Splice

            splice = Splice(delivery)
        failed: AiLibError | None = None
        refused: AiLibError | None = None
        came_from = ""
        for step in steps:
            is_continuing = failed is not None and delivery.is_committed
            try:
                onward = await step.enter(call)
            except AiLibError as exc:
                # A target that is not set up is told before anything failed. Later it hides no failure, nor the next.
                if exc.kind not in NOT_HERE and (failed is None or not isinstance(exc, CallerError)):
                    raise
                call.notes.skipped += (Skipped(step.ref or getattr(call.target, "ref", ""), exc.message),)
                refused = refused or exc
                continue
            if is_continuing and splice is not None and splice.text and not step.can_continue(onward):
                call.notes.skipped += (Skipped(step.ref, "cannot go on with an answer that another model began"),)
                continue
            ref = getattr(onward.target, "ref", step.ref)
            if failed is not None:
                await _announce(call, delivery, failed, came_from, ref, mid_stream, hooks)
                if is_continuing and splice is not None:
                    onward = onward.copy(request=splice.continuing(onward.request))
            came_from = ref
            logged = len(call.log)
            try:
                await step.service(onward, delivery if splice is None else splice)
            except AiLibError as exc:
                if is_continuing and splice is not None and splice.text and _is_not_taken(exc):
                    # What was refused is our own addition to the request, not the caller's mistake.
                    call.notes.skipped += (Skipped(ref, f"did not take the beginning of an answer: {exc.message}"),)
                    continue
                failed = exc
            else:
                if delivery is not outlet:
                    delivery.flush()
                return
            if not failed.fallbackable and failed.code not in on:
                raise failed
            if failed.kind in ("deadline", "cancel_token", "client_closed", "bug") or isinstance(failed, CallerError):
                raise failed
            if delivery.is_committed:
                if splice is None and mid_stream == "fail":
                    raise failed
                if splice is not None:
                    if splice.candidates > 1:
                        raise failed
                    splice.onward()
                    if splice.calls:
                        await _end_with_calls(delivery, failed, ref)
                        return
            elif splice is not None:
                splice.restart()
            for entry in call.log[logged:]:
                if entry.call.lane == call.lane and entry.verdict is None:
                    entry.verdict = "replaced"
        last = failed or refused
        if last is None:
            raise CallerError("a chain needs a model", kind="bad_argument")
        for entry in call.log[::-1]:
            if entry.call.lane == call.lane:
                if entry.error is failed and entry.verdict == "replaced":
                    entry.verdict = None  # nobody came after it
                break
        raise last

    return run


def _is_not_taken(error: AiLibError) -> bool:
    """Whether a request that ends in the beginning of an answer was refused as wrong."""
    return error.kind == "provider" and error.code == "E1001" and error.status is not None and error.status >= 400


async def _announce(
    call: Call,
    delivery: Delivery,
    failed: AiLibError,
    came_from: str,
    to: str,
    mid_stream: MidStream,
    hooks: Listeners | None,
) -> None:
    reason = f"{failed.code} {failed.kind}"
    if hooks is not None and hooks.on:
        hooks.emit(
            CallRerouted(
                at_s=trio.current_time(),
                call=call.number,
                attempt=len(call.log),
                from_model=came_from,
                to_model=to,
                reason=reason,
            )
        )
    discard = delivery.is_committed and mid_stream == "restart"
    if not delivery.reroute(Rerouted(came_from, to, reason, discard=discard)):
        await delivery.wait_room()


async def _end_with_calls(delivery: Delivery, failed: AiLibError, ref: str) -> None:
    """Whole tool calls were delivered before the cut: they are the answer, and their results make the next turn.

    Another target asked to go on would make them a second time.
    """
    reason = f"{failed.code} {failed.kind}, after whole tool calls"
    await send(
        delivery,
        [
            Rerouted(ref, ref, reason),
            FinalCandidate(0, "tool_use", "cut"),
            StreamEnd("tool_use", "cut"),
        ],
    )
