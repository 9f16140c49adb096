"""Preflight: one look at a call before anything is sent. What would happen, and why.

Imports `protocol`, `estimate`, `ledger`, types. Pure. The rule that must stay true: facts inform, they do not forbid; a
call is refused only for what is declared absent, for what a registered model's provider declares nowhere, for a context
that is far too long, for a cost cap, a deadline, and by the gate (DESIGN section 4).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import AdmissionError, AiLibError, CallerError
from ..protocol.gates import standing_of
from ..protocol.manifest import Manifest
from ..protocol.registry import ModelFacts
from ..types.admission import Forecast
from ..types.message import AudioBlock, Block, DocumentBlock, ImageBlock, ToolResultBlock, VideoBlock
from ..types.request import Request
from .estimate import input_tokens, output_bound
from .ledger import most_of

__all__ = ["Check", "Gates", "Preflight", "look", "needs_of", "refusal_of"]

Gates = Literal["enforce", "warn", "off"]
Verdict = Literal["pass", "warn", "refuse"]
FAR_OFF = 1.5  # an estimate may be wrong by half: a refusal needs more than that


class Check(msgspec.Struct, frozen=True):
    """One question and its answer. `kind` is the kind of error that a refusal would be."""

    name: str
    verdict: Verdict
    why: str = ""
    kind: str | None = None


class Preflight(msgspec.Struct, frozen=True, kw_only=True):
    """What would happen to a call now. Counts are estimates; `cost_bound` is None where a price or bound is unknown."""

    model: str
    checks: tuple[Check, ...]
    input_tokens: int
    output_bound: int | None = None
    cost_bound: float | None = None
    currency: str | None = None
    wait_s: float = 0.0

    @property
    def would_send(self) -> bool:
        """Whether the call would go out."""
        return all(check.verdict != "refuse" for check in self.checks)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What looks wrong and would be sent all the same, a line for each."""
        return tuple(check.why for check in self.checks if check.verdict == "warn")


def needs_of(request: Request) -> dict[str, str]:
    """The capabilities that a request needs, each with what in the request needs it."""
    needs: dict[str, str] = {}
    if request.stream:
        needs["streaming"] = "a stream is asked for"
    if request.tools:
        needs["tools"] = "tools are offered"
    if request.response_format is not None and request.response_format.mode == "json_schema":
        needs["structured_output"] = "the answer must fit a JSON Schema"
    if request.reasoning_effort not in (None, "none") or (request.thinking or {}).get("type") == "enabled":
        needs["reasoning"] = "reasoning is asked for"
    for message in request.messages:
        if not isinstance(message.content, str):
            for block in message.content:
                _needs_of_block(block, needs)
    return needs


def _needs_of_block(block: Block, needs: dict[str, str]) -> None:
    if isinstance(block, ImageBlock):
        needs["vision"] = "a message has an image"
    elif isinstance(block, AudioBlock):
        needs["audio"] = "a message has sound"
    elif isinstance(block, VideoBlock):
        needs["video"] = "a message has a video"
    elif isinstance(block, ToolResultBlock) and not isinstance(block.content, str):
        for part in block.content:
            _needs_of_block(part, needs)
    elif isinstance(block, DocumentBlock):
        return  # documents go by many names, and are often turned into text: no one word says whether they are read


def look(
    request: Request,
    *,
    ref: str,
    manifest: Manifest,
    facts: ModelFacts | None,
    gates: Gates = "enforce",
    spent: float = 0.0,
    cost_cap: float | None = None,
    time_left_s: float | None = None,
    forecast: Forecast | None = None,
) -> Preflight:
    """Look at a request for one target. `spent` is what the call cost so far, `cost_cap` what it may cost in all."""
    checks: list[Check] = []
    if gates != "off":
        for need, why in needs_of(request).items():
            checks.append(_capability(need, why, manifest, facts, gates))
    used = input_tokens(request)
    bound = output_bound(request, facts.max_output_tokens if facts is not None else None)
    if gates != "off":
        checks.append(_context(used, request, facts, gates))
        checks.extend(_ranges(request, manifest))
    pricing = facts.pricing if facts is not None else None
    cost = most_of(request, used, bound, pricing)
    if cost_cap is not None:
        checks.append(_cost(cost, spent, cost_cap))
    if time_left_s is not None:
        late = time_left_s <= 0
        checks.append(
            Check("deadline", "refuse" if late else "pass", "the deadline has passed" if late else "", "deadline")
        )
    if forecast is not None:
        checks.append(
            Check(
                "admission",
                "pass" if forecast.admitted and not forecast.wait_s else "warn" if forecast.admitted else "refuse",
                forecast.reason or (f"waits {forecast.wait_s:.1f} s for the limits" if forecast.wait_s else ""),
                forecast.kind,
            )
        )
    return Preflight(
        model=ref,
        checks=tuple(checks),
        input_tokens=used,
        output_bound=bound,
        cost_bound=cost,
        currency=pricing.currency if pricing is not None and cost is not None else None,
        wait_s=forecast.wait_s if forecast is not None else 0.0,
    )


def _capability(need: str, why: str, manifest: Manifest, facts: ModelFacts | None, gates: Gates) -> Check:
    standing = standing_of(need, manifest, facts)
    if standing.state == "declared":
        return Check(need, "pass")
    if standing.state == "absent":
        return _gate(need, f"{why}, and the {standing.by} is declared to have no {need}", gates)
    if standing.state == "unknown":
        return Check(need, "pass", f"nothing is declared about {need}")
    if facts is not None:
        return _gate(need, f"{why}, and neither the model nor its provider declares {need}", gates)
    return Check(need, "warn", f"{why}; nobody declares {need} for this model, which is not registered")


def _gate(need: str, why: str, gates: Gates) -> Check:
    return Check(need, "refuse" if gates == "enforce" else "warn", why, "capability")


_FITS = Check("context_window", "pass")


def _context(used: int, request: Request, facts: ModelFacts | None, gates: Gates) -> Check:
    window = facts.context_window if facts is not None else None
    if window is None:
        return _FITS
    if used > window * FAR_OFF:
        return Check(
            "context_window",
            "refuse" if gates == "enforce" else "warn",
            f"about {used} tokens, and the model reads {window}",
            "context_window",
        )
    if used + (request.max_tokens or 0) > window:
        return Check("context_window", "warn", f"about {used} tokens and the answer may not fit into {window}")
    return _FITS


def _ranges(request: Request, manifest: Manifest) -> list[Check]:
    checks: list[Check] = []
    for name, parameter in manifest.parameters.items():
        value = getattr(request, name, None)
        if value is None:
            continue
        if parameter.enum and value not in parameter.enum:
            known = ", ".join(str(one) for one in parameter.enum)
            checks.append(Check(name, "warn", f"{name} is {value!r}; the provider declares {known}"))
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if (parameter.low is not None and value < parameter.low) or (
            parameter.high is not None and value > parameter.high
        ):
            low = "" if parameter.low is None else f" at least {parameter.low:g}"
            high = "" if parameter.high is None else f" at most {parameter.high:g}"
            checks.append(Check(name, "warn", f"{name} is {value:g}; the provider declares{low}{high}"))
    return checks


def _cost(cost: float | None, spent: float, cap: float) -> Check:
    if cost is None:
        return Check(
            "cost", "refuse", "a cost cap needs the model's prices and max_tokens, and one is not known", "cost_cap"
        )
    if spent + cost > cap:
        return Check("cost", "refuse", f"may cost {spent + cost:.6g}, and the cap is {cap:.6g}", "cost_cap")
    return Check("cost", "pass")


def refusal_of(seen: Preflight) -> AiLibError | None:
    """The error of the first refusal; None where the call would be sent."""
    for check in seen.checks:
        if check.verdict == "refuse":
            kind = check.kind or "capability"
            kind_class = CallerError if kind in ("capability", "context_window") else AdmissionError
            return kind_class(check.why, kind=kind)
    return None
