"""The live tree, as a snapshot: actors, their queues and the calls in them. Structs that JSON can hold; no secrets."""

from __future__ import annotations

import msgspec

from ..types.admission import GateView

__all__ = ["ActorView", "CallView", "CheckView", "Tree"]


class CallView(msgspec.Struct, frozen=True, kw_only=True):
    """One open attempt. `age_s` counts from its entering the docket; `phase`: queued, connecting, waiting, reading.

    `output_tokens` is how much has come: as the provider reported it, else `is_estimated` from the characters, which
    knows nothing of what the model thought and did not send. `output_s` counts from the first of it, and
    `tokens_per_s` is the mean over that time; None before there was a second of it, when a single read decides.
    """

    call: int
    attempt: int
    model: str
    phase: str
    age_s: float
    tenant: str = ""
    deadline_left_s: float | None = None
    events: int = 0
    bytes_in: int = 0
    output_tokens: int = 0
    is_estimated: bool = True
    output_s: float | None = None
    tokens_per_s: float | None = None

    @property
    def rate(self) -> str:
        """Tokens a second, for people: `~` says that they are estimated. Empty where there is no rate yet."""
        if self.tokens_per_s is None:
            return ""
        return f"{'~' if self.is_estimated else ''}{self.tokens_per_s:.1f} tok/s"


class ActorView(msgspec.Struct, frozen=True, kw_only=True):
    """One outlet of credit. `credential` says where the key came from, never what it is; `key_number` tells it from
    the others that are in use at its origin."""

    provider: str
    origin: str
    credential: str
    key_number: int = 1
    state: str  # running, draining, restarting, failed
    inflight: int
    queued: int
    crashes: int
    bugs: int
    calls: tuple[CallView, ...] = ()
    gate: GateView | None = None


class CheckView(msgspec.Struct, frozen=True, kw_only=True):
    """A place whose declared check is made again and again. `is_healthy` is what the last one said, None before it and
    where the checks failed: their actor crashed too often."""

    provider: str
    origin: str
    is_healthy: bool | None = None
    state: str = "running"  # restarting, failed
    crashes: int = 0


class Tree(msgspec.Struct, frozen=True, kw_only=True):
    """A client at one moment. `sink_failures` and `overdue_leaves` are faults that harmed no call; both should be 0.

    `manifests` counts how often changed manifests were taken over; `manifest_fault` is why the last change was not.
    """

    actors: tuple[ActorView, ...] = ()
    checks: tuple[CheckView, ...] = ()
    open_calls: int = 0
    sink_failures: int = 0
    overdue_leaves: int = 0
    manifests: int = 0
    manifest_fault: str | None = None

    def __str__(self) -> str:
        faults = [
            f", {count} {said}"
            for count, said in (
                (self.sink_failures, "failures of sinks"),
                (self.overdue_leaves, "overdue leaves"),
            )
            if count
        ]
        lines = [f"client  {self.open_calls} open calls{''.join(faults)}"]
        if self.manifest_fault is not None:
            lines.append(f"│   changed manifests are not used: {self.manifest_fault}")
        for number, actor in enumerate(self.actors):
            is_last = number == len(self.actors) - 1 and not self.checks
            branch, stem = ("└── ", "    ") if is_last else ("├── ", "│   ")
            crashes = f", {actor.crashes} crashes" if actor.crashes else ""
            key = f" (key {actor.key_number})" if actor.key_number > 1 else ""
            lines.append(
                f"{branch}{actor.provider} at {actor.origin}{key}  {actor.state}, {actor.inflight} in flight, "
                f"{actor.queued} queued{crashes}"
            )
            lines.extend(f"{stem}{'│' if actor.calls else ' '}     {line}" for line in _gate_lines(actor.gate))
            for place, call in enumerate(actor.calls):
                twig = "└── " if place == len(actor.calls) - 1 else "├── "
                left = "" if call.deadline_left_s is None else f", {call.deadline_left_s:.1f} s left"
                lines.append(
                    f"{stem}{twig}call {call.call}.{call.attempt} {call.model}  {call.phase} for {call.age_s:.1f} s, "
                    f"{call.events} events{f', {call.rate}' if call.rate else ''}{left}"
                )
        if self.checks:
            lines.append("└── health checks")
        for number, check in enumerate(self.checks):
            twig = "└── " if number == len(self.checks) - 1 else "├── "
            said = "not checked yet" if check.is_healthy is None else "there" if check.is_healthy else "not there"
            if check.state != "running":
                said = check.state if check.is_healthy is None else f"{said}, {check.state}"
            crashes = f", {check.crashes} crashes" if check.crashes else ""
            lines.append(f"    {twig}{check.provider} at {check.origin}  {said}{crashes}")
        return "\n".join(lines)


def _gate_lines(gate: GateView | None) -> list[str]:
    """What a gate holds back, one line each; nothing for a gate that holds back nothing."""
    if gate is None:
        return []
    lines = [f"asked to wait, {gate.paused_for_s:.1f} s left"] if gate.paused_for_s > 0 else []
    for breaker in gate.breakers:
        when = "" if breaker.half_open_in_s is None else f", tried again in {breaker.half_open_in_s:.1f} s"
        share = f", {breaker.failures} of {breaker.calls} failed" if breaker.calls else ""  # an open one has no count
        lines.append(f"breaker of {breaker.of} {breaker.state}{share}{when}")
    for limit in gate.limits:
        whole = "" if limit.capacity is None else f" of {limit.capacity:.0f}"
        lines.append(f"{limit.of} left for {limit.scope}: {limit.level:.0f}{whole} ({limit.source})")
    return lines
