"""Quorum: several members answer, and the answer is what `k` of them agree on; the rest are closed.

Imports `contest`. Agreement is decided by a function over two replies; the default compares the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import AdmissionError, AiLibError, CallerError, need_number, need_plain
from ..service import Call, Outlet, Service
from ..types.response import ChatResponse

if TYPE_CHECKING:
    from .contest import Contest, Judge, Lane, Member

__all__ = ["Agree", "agreeing", "same_text", "when_agreed"]

Agree = Callable[[ChatResponse, ChatResponse], bool]


def same_text(one: ChatResponse, other: ChatResponse) -> bool:
    """Whether two replies say the same, but for case, white space and a full stop at the end."""
    return _plain(one.content) == _plain(other.content)


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold().rstrip(".!")


def when_agreed(k: int, agree: Agree, total: int) -> Judge:
    """The judge that names the first complete reply of the first `k` that agree, or says that they cannot any more.

    A reply joins the first group whose first reply it agrees with.
    """
    groups: list[list[Lane]] = []
    seen: set[int] = set()

    def judge(state: Contest) -> Lane | AiLibError | None:
        complete = [lane for lane in state.lanes if lane.state == "complete" and lane.number not in seen]
        for lane in sorted(complete, key=lambda lane: (lane.ended_at, lane.number)):
            seen.add(lane.number)
            for group in groups:
                if agree(group[0].reply(), lane.reply()):
                    group.append(lane)
                    break
            else:
                groups.append([lane])
        for group in groups:
            if len(group) >= k:
                return group[0]
        still = sum(lane.state in ("waiting", "running") for lane in state.lanes)
        largest = max((len(group) for group in groups), default=0)
        if largest + still < k and any(lane.state == "complete" for lane in state.lanes):
            return AdmissionError(f"no {k} of {total} agree: at most {largest + still} can", kind="no_quorum")
        return None

    return judge


def agreeing(members: Sequence[Member], k: int, agree: Agree, state: Contest) -> Service:
    """What `k` of the members agree on. Where none answers, the first member's error."""
    from .contest import contest  # `same_text` is looked at by everybody, a quorum is called for by few

    need_number("k", k, least=1, is_whole=True)
    need_plain("agree", agree)
    if k > len(members):
        raise CallerError(f"a quorum of {len(members)} is between 1 and {len(members)}, got {k}", kind="bad_argument")

    async def run(call: Call, outlet: Outlet) -> None:
        await contest(call, outlet, members, when_agreed(k, agree, len(members)), state=state, gathers=True)

    return run
