"""Cases about what to do after a failure, and assertions on bodies.

Imports `errors`, `protocol`, `resilience`, `service`; trio, as policies run there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random
from types import SimpleNamespace
from typing import Any

from ..errors import ProviderError
from ..protocol.paths import parse_path, scope_getter
from ..protocol.where import Where
from ..resilience.fallback import Step, falling_back
from ..resilience.retry import Wait, decide, rules_of
from ..service import Call, FoldOutlet, Outlet
from ..types.request import Request
from .compare import Check, Difference, same, within
from .suite import Bench, Case

__all__ = ["fallback_decision", "provider_mock_behavior", "retry_decision"]


def retry_decision(case: Case, bench: Bench) -> dict[str, Any]:
    """Whether a refused attempt is tried again by a manifest's policy, and after how long. Jitter is off."""
    manifest = bench.manifest(case, changes={"retry_policy": {**case.input["retry_policy"], "jitter": "none"}})
    said = case.input["error"]
    error = ProviderError("refused", code=said["error_code"])
    step = decide(
        error,
        "refused",
        retry=case.input["attempt"] - 1,
        silent_before=0,
        rules=rules_of(manifest.retry),
        rng=lambda: Random(0),
        now=0.0,
        deadline=math.inf,
    )
    outcome: dict[str, Any] = {
        "should_retry": isinstance(step, Wait),
        "delay_ms": within(step.seconds * 1000 if isinstance(step, Wait) else None),
    }
    ours = {"error_code": error.code, "error_name": error.name, "retryable": error.retryable}
    outcome["!input.error"] = [str(one) for one in same(said, {key: ours.get(key) for key in said}, "error")]
    return outcome


def fallback_decision(case: Case, bench: Bench) -> dict[str, Any]:
    """Whether a chain goes on to its next target after an error of this code."""
    import trio

    asked: list[int] = []

    def step(number: int) -> Step:
        async def enter(call: Call) -> Call:
            return call

        async def run(call: Call, outlet: Outlet) -> None:
            asked.append(number)
            if number == 0:
                raise ProviderError("failed", code=case.input["error_code"])

        return Step(f"target {number}", enter, run, lambda call: False)

    async def main() -> None:
        call = Call(1, Request(model="m"), SimpleNamespace(ref="target 0"))
        try:
            await falling_back([step(0), step(1)])(call, FoldOutlet())
        except ProviderError:
            return

    trio.run(main)
    return {"should_fallback": asked == [0, 1]}


def provider_mock_behavior(case: Case, bench: Bench) -> dict[str, Any]:
    """Values at dotted paths of bodies that the case itself gives."""

    def asserted(body: Any) -> Check:
        def differs(expected: Any, path: str) -> Iterable[Difference]:
            for at, value in expected.items():
                got = scope_getter(parse_path(f"$.{at}", Where()))({"": body})
                yield from same(value, got, f"{path}.{at}")

        return Check(differs)

    return {
        "request_assert": asserted(case.input.get("request_body")),
        "response_assert": asserted(case.input.get("response_body")),
    }
