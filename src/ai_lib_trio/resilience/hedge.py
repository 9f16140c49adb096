"""Hedge: ask one; if its first token is late, ask the next as well. The first token wins.

Imports `contest` and `race`. A member that fails lets the next begin at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import CallerError
from ..service import Call, Outlet, Service
from .contest import Contest, Member, contest
from .race import first_by

__all__ = ["COLD_AFTER_S", "hedging", "quantile_of"]

COLD_AFTER_S = 2.0  # until there are enough samples: most first tokens come sooner, and few people wait longer gladly


def quantile_of(after: str) -> float:
    """The share that a name such as `p95` means. Raises `CallerError` for other words."""
    share = after[1:] if after[:1] == "p" else ""
    if not share.replace(".", "", 1).isdigit() or not 0 < float(share) < 100:
        raise CallerError(f"after is seconds or a percentile such as 'p95', got {after!r}", kind="bad_argument")
    return float(share) / 100


def hedging(members: Sequence[Member], after_s: Callable[[Call], float], state: Contest) -> Service:
    """The first member, and another one each time that `after_s` has passed without a first token."""

    async def run(call: Call, outlet: Outlet) -> None:
        pause = after_s(call)
        await contest(
            call,
            outlet,
            members,
            first_by("first_token"),
            state=state,
            gathers=False,
            starts=lambda number: number * pause,
        )

    return run
