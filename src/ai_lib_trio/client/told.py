"""A call as sinks are told it: one record when it starts, one when it is over, whatever becomes of it.

Imports `actors`, `account`, `service`, types and trio. The rule that must stay true: what is around the service here
is outside of every policy, so exactly one `CallEnded` follows each `CallStarted`.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
import trio

from ..actors.hooks import Hooks
from ..actors.target import Target
from ..errors import AiLibError
from ..service import Batch, Call, Outlet, Service, Source
from ..types.records import CallContent, CallEnded, CallStarted, FeedbackGiven
from ..types.request import Request
from ..types.response import Fold
from ..types.stats import Outcome
from ..types.usage import Usage
from .account import answering_job, reply_of, stats_of

__all__ = ["Said", "given", "telling"]

IDS_AND_NUMBERS = ("rejected_indices", "latency_to_select_ms", "candidate_hashes")  # of a choice; no words


class Said(Protocol):
    """A piece of feedback, as far as it is told: `telemetry.Feedback`."""

    @property
    def kind(self) -> str: ...
    @property
    def request_id(self) -> str: ...
    @property
    def call(self) -> str | None: ...
    @property
    def value(self) -> Any: ...
    @property
    def comment(self) -> str | None: ...
    @property
    def metadata(self) -> dict[str, Any]: ...


def given(said: Said, *, with_content: bool) -> FeedbackGiven:
    """The record of a piece of feedback; its words only where records may have content."""
    is_plain = said.value is None or isinstance(said.value, (bool, int, float))
    metadata = said.metadata
    if not with_content:
        metadata = {key: metadata[key] for key in IDS_AND_NUMBERS if said.kind == "choice" and key in metadata}
    return FeedbackGiven(
        at_s=trio.current_time(),
        kind=said.kind,
        request_id=said.request_id,
        call=said.call,
        value=said.value if is_plain or with_content else None,
        comment=said.comment if with_content else None,
        metadata=metadata,
    )


class _Copying:
    """An outlet that folds what goes through it."""

    __slots__ = ("_outlet", "folding")

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self.folding = Fold()

    def send_nowait(self, batch: Batch) -> bool:
        """See `service.Outlet`."""
        self.folding.add_all(batch)
        return self._outlet.send_nowait(batch)

    async def wait_room(self) -> None:
        """See `service.Outlet`."""
        await self._outlet.wait_room()

    def lend(self, source: Source) -> bool:
        """See `service.Outlet`."""
        return self._outlet.lend(source)


def telling(service: Service, hooks: Hooks, *, with_content: bool) -> Service:
    """The service, with the sinks told of the call. Made where somebody listens."""

    async def run(call: Call, outlet: Outlet) -> None:
        copying = _Copying(outlet) if with_content else None
        started_at = trio.current_time()
        hooks.emit(_start(call, started_at))
        outcome: Outcome = "failed"
        error: AiLibError | None = None
        try:
            await service(call, outlet if copying is None else copying)
            outcome = "ok"
        except AiLibError as exc:
            error = exc
            raise
        except trio.Cancelled:
            outcome = "cancelled"
            raise
        finally:
            if copying is not None:
                reply = reply_of(call, copying.folding).message
                hooks.emit(
                    CallContent(
                        at_s=trio.current_time(),
                        call=call.number,
                        messages=call.request.messages,
                        reply=reply if reply.content else None,
                    )
                )
            hooks.emit(_end(call, outcome, error, started_at))

    return run


def _start(call: Call, now: float) -> CallStarted:
    target: Target = call.target
    request = call.request
    return CallStarted(
        at_s=now,
        call=call.number,
        provider=target.manifest.id,
        model=target.model,
        ref=target.ref,
        stream=request.stream,
        tenant=call.tenant,
        provider_name=target.provider_name,
        server=target.server,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        seed=request.seed,
        choices=request.n,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        output_type=_output_type(request),
    )


def _output_type(request: Request) -> str | None:
    """What the caller asked the answer to be; None where that was left open."""
    if request.response_format is None:
        return None
    return "text" if request.response_format.mode == "text" else "json"


def _end(call: Call, outcome: Outcome, error: AiLibError | None, started_at: float) -> CallEnded:
    job = answering_job(call)
    progress = job.progress if job is not None else None
    usage = progress.usage if progress is not None else None
    if usage is not None:
        usage = msgspec.structs.replace(usage, raw=None)
    stats = stats_of(call, usage or Usage())
    target: Target = job.call.target if job is not None else call.target
    kind, code = (error.kind, error.code) if error is not None else (None, None)
    if outcome == "failed" and error is None:
        kind, code = "bug", "E9999"  # ours, or of a callable of the caller's that ran inside of the call
    now = trio.current_time()
    return CallEnded(
        at_s=now,
        call=call.number,
        provider=stats.provider,
        model=target.model,
        ref=stats.model,
        stream=call.request.stream,
        outcome=outcome,
        attempts=len(stats.attempts),
        kind=kind,
        code=code,
        status=progress.status if progress is not None else None,
        queue_s=stats.queue_s,
        first_token_s=stats.first_token_s,
        total_s=now - started_at,
        events=stats.events,
        bytes_in=stats.bytes_in,
        usage=usage,
        cost=stats.cost,
        currency=stats.currency,
        billed=stats.billed,
        request_id=progress.request_id if progress is not None else None,
        response_id=progress.response_id if progress is not None else None,
        response_model=progress.response_model if progress is not None else None,
        finish_reason=progress.finish_reason if progress is not None else None,
        provider_name=target.provider_name,
        server=target.server,
        tenant=call.tenant,
    )
