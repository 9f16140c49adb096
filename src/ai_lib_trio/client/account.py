"""What a call came to: its attempts, its costs and its reply; and what is open now, for the tree.

Imports `actors`, `resilience.ledger`, types and trio. The rule that must stay true: every attempt that entered a docket
is told, whatever became of it, and the call's total is the sum of theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import trio

from ..actors.job import Job
from ..actors.supervisor import Slot
from ..actors.target import Target
from ..resilience.estimate import input_tokens, output_bound
from ..resilience.ledger import account, most_of, output_so_far, total_of
from ..service import Call
from ..types.response import ChatResponse, Fold
from ..types.stats import Attempt, CallStats
from ..types.usage import Usage

if TYPE_CHECKING:
    from ..actors.tree import ActorView, CallView

__all__ = ["actor_view", "attempts_of", "reply_of", "spent_by", "stats_of"]

RATE_AFTER_S = 1.0  # before that a mean says how large the first reads were, and not how fast they came


def attempts_of(call: Call, lane: int | None = None) -> tuple[Attempt, ...]:
    """The ledger of a call, or of one member of a race."""
    return tuple(
        _attempt(number, job, call) for number, job in enumerate(call.log, 1) if lane is None or job.call.lane == lane
    )


def stats_of(call: Call, usage: Usage) -> CallStats:
    """A call's account. `usage` is the reply's."""
    attempts = attempts_of(call)
    jobs: Sequence[Job] = call.log
    answering = answering_job(call)
    target: Target = answering.call.target if answering is not None else call.target
    progress = answering.progress if answering is not None else None
    own = attempts[jobs.index(answering)] if answering is not None else None
    start = jobs[0].progress.queued_at if jobs else 0.0
    ends = [job.progress.ended_at for job in jobs]
    end = max((trio.current_time() if one is None else one for one in ends), default=0.0)
    first = progress.first_token_at if progress is not None else None
    total = total_of(attempts)
    warnings = progress.warnings if progress is not None else ()
    return CallStats(
        model=target.ref,
        provider=target.manifest.id,
        attempts=attempts,
        queue_s=own.queue_s if own is not None else None,
        connect_s=own.connect_s if own is not None else None,
        first_token_s=None if first is None else first - start,
        total_s=end - start,
        events=sum(job.progress.events for job in jobs),
        bytes_in=sum(job.progress.bytes_in for job in jobs),
        usage=usage,
        cost=total.cost,
        currency=total.currency,
        billed=total.billed,
        dropped_opaque_blocks=progress.dropped_opaque if progress is not None else 0,
        unread_frames=progress.unread_frames if progress is not None else 0,
        warnings=(*call.notes.warnings, *warnings),
        skipped=call.notes.skipped,
    )


def answering_job(call: Call) -> Job | None:
    """The attempt whose answer the call's is: the last one that nobody replaced, retried or beat."""
    jobs: Sequence[Job] = call.log
    for job in reversed(jobs):
        if job.verdict in (None, "won"):
            return job
    return jobs[-1] if jobs else None


def reply_of(call: Call, folding: Fold, *, client: int = 0) -> ChatResponse:
    """The reply so far, of a call of this client."""
    job = answering_job(call)
    target: Target = job.call.target if job is not None else call.target
    progress = job.progress if job is not None else None
    return folding.response(
        request_id=progress.request_id if progress is not None else None,
        headers=progress.headers if progress is not None else None,
        dialect=target.family.dialect,
        raw=progress.body if progress is not None else None,
        call=f"{client}.{call.number}",
    )


def spent_by(call: Call) -> float:
    """What the call's attempts cost so far; those that still run count with the most they may cost, as far as that is
    known."""
    total = 0.0
    for number, job in enumerate(call.log, 1):
        entry = _attempt(number, job, call)
        cost = entry.cost
        if not job.is_settled or entry.billed == "unknown":
            facts = job.call.target.facts
            bound = output_bound(job.call.request, facts.max_output_tokens if facts is not None else None)
            pricing = facts.pricing if facts is not None else None
            cost = most_of(job.call.request, input_tokens(job.call.request), bound, pricing)
        total += cost or 0.0
    return total


def _attempt(number: int, job: Job, call: Call) -> Attempt:
    progress = job.progress
    error = job.error
    is_ok = job.is_settled and error is None
    is_cancelled = not job.is_settled or (error is not None and error.kind == "client_closed")
    target: Target = job.call.target
    state = job.state()

    def since(start: float | None, end: float | None) -> float | None:
        return None if start is None or end is None else end - start

    usage = progress.usage
    is_input_told = usage is not None and usage.input_tokens is not None
    entry = account(
        state=state,
        usage=usage,
        chars_out=progress.chars_out,
        input_estimate=0 if is_ok and is_input_told else input_tokens(job.call.request),
        pricing=target.facts.pricing if target.facts is not None else None,
    )
    verdict = job.verdict
    if verdict is None and is_ok and len(call.log) > 1:
        verdict = "won"
    end = progress.ended_at if progress.ended_at is not None else trio.current_time()
    return Attempt(
        number=number,
        provider=target.manifest.id,
        model=target.model,
        outcome="ok" if is_ok else "cancelled" if is_cancelled else "failed",
        state=state,
        kind=error.kind if error is not None else None,
        code=error.code if error is not None else None,
        status=progress.status,
        queue_s=since(progress.queued_at, progress.admitted_at),
        connect_s=since(progress.started_at, progress.sent_at),
        first_token_s=since(progress.started_at, progress.first_token_at),
        total_s=end - progress.queued_at,
        request_id=progress.request_id,
        verdict=verdict,
        billed=entry.billed,
        usage=entry.usage,
        cost=entry.cost,
        currency=entry.currency,
    )


# ---- what is open now


def actor_view(slot: Slot, now: float) -> ActorView:
    """One outlet of credit and the calls in it."""
    from ..actors.tree import ActorView

    actor = slot.actor
    return ActorView(
        provider=slot.key.provider,
        origin=slot.key.origin,
        credential=slot.credential_source,
        key_number=slot.key_number,
        state=_state(slot),
        inflight=len(actor.inflight) if actor is not None else 0,
        queued=actor.queued if actor is not None else len(slot.docket),
        crashes=slot.crashes,
        bugs=slot.bugs + (actor.bugs if actor is not None else 0),
        calls=tuple(_call_view(job, now) for job in slot.docket.jobs()),
        gate=actor.gate.view(now) if actor is not None else None,
    )


def _state(slot: Slot) -> str:
    if slot.has_failed:
        return "failed"
    if slot.is_retired:
        return "draining"
    return "running" if slot.actor is not None else "restarting"


def _call_view(job: Job, now: float) -> CallView:
    from ..actors.tree import CallView

    progress = job.progress
    if progress.admitted_at is None:
        phase = "queued"
    elif progress.sent_at is None:
        phase = "connecting"
    else:
        phase = "waiting" if progress.bytes_in == 0 else "reading"
    left = job.call.deadline - now
    tokens, is_reported = output_so_far(progress.usage, progress.chars_out)
    output_s = None if progress.first_token_at is None else now - progress.first_token_at
    return CallView(
        call=job.call.number,
        attempt=job.call.attempt,
        model=job.call.target.model,
        phase=phase,
        age_s=now - progress.queued_at,
        tenant=job.call.tenant,
        deadline_left_s=left if left < float("inf") else None,
        events=progress.events,
        bytes_in=progress.bytes_in,
        output_tokens=tokens,
        is_estimated=not is_reported,
        output_s=output_s,
        tokens_per_s=tokens / output_s if output_s is not None and output_s >= RATE_AFTER_S else None,
    )
