"""`ailib race`: several models answer one question; the first token, answer or agreement wins, the others are closed.

Imports click and, when it runs, the client. The winner's text goes to stdout and the ledger to stderr, so a pipe gets
the answer alone.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from .options import JSON, MANIFESTS, Seconds
from .running import run_async
from .screen import Printer, as_json, safe

if TYPE_CHECKING:
    from ..client.contests import ContestStream, RaceMember

__all__ = ["race"]


@click.command(short_help="Ask several models; the first one wins.")
@click.argument("models", nargs=-1, required=True)
@click.option("--text", "-t", required=True, help="The message to all of them.")
@click.option(
    "--until", type=click.Choice(["first_token", "first_complete"]), default="first_token", help="What wins a race."
)
@click.option("--hedge", metavar="AFTER", help="Ask them one by one, the next after so many seconds or a p95.")
@click.option("--quorum", type=click.IntRange(min=1), metavar="K", help="Ask until K of them agree.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Each reply ends there at the latest.")
@click.option("--deadline", type=Seconds(min=0, min_open=True), help="Seconds for all of it, at most.")
@click.option("--cost-cap", type=click.FloatRange(min=0, min_open=True), help="What all of them may cost together.")
@MANIFESTS
@JSON
def race(
    models: tuple[str, ...],
    text: str,
    until: str,
    hedge: str | None,
    quorum: int | None,
    max_tokens: int | None,
    deadline: float | None,
    cost_cap: float | None,
    manifests: str | None,
    as_document: bool,
) -> int:
    """Ask all MODELS, as provider/model; the losers are closed as soon as the winner is known.

    Afterwards the ledger says what became of each, and what it cost.
    """
    if hedge is not None and quorum is not None:
        raise click.UsageError("--hedge and --quorum are two ways to ask: choose one")
    if not text.strip():
        raise click.UsageError("there is no text to send")

    async def main() -> int:
        from ..client.client import open_client

        async with open_client(manifests=manifests) as client:
            chat = client.chat().user(os.fsencode(text).decode(errors="replace"))
            if max_tokens is not None:
                chat = chat.max_tokens(max_tokens)
            if deadline is not None:
                chat = chat.deadline(deadline)
            if cost_cap is not None:
                chat = chat.cost_cap(cost_cap)
            contest: ContestStream
            if hedge is not None:
                contest = client.hedge(chat, models=models, after=_after(hedge))
            elif quorum is not None:
                contest = client.quorum(chat, models=models, k=quorum)
            else:
                contest = client.race(
                    chat, models=models, until="first_token" if until == "first_token" else "first_complete"
                )
            content: str | None = None
            try:
                await _show(contest, quiet=as_document)
                content = contest.response().content
            finally:  # what a failure cost is told too; the failure itself is a line on stderr
                if as_document:
                    members = contest.members
                    stats = contest.stats if members else None  # without members it could not be put together
                    told = {"content": content, "members": members, "stats": stats}
                    sys.stdout.write(as_json(told) + "\n")
                else:
                    _ledger(contest)
        return 0

    return run_async(main)


def _after(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


async def _show(contest: Any, *, quiet: bool) -> None:
    out = Printer(sys.stdout)
    try:
        async with contest as events:
            async for event in events:
                content = getattr(event, "content", None)
                if content and not quiet:
                    out.write(content)
    finally:
        out.end_line()  # also where it was ended in the middle: the ledger begins a line


def _ledger(contest: ContestStream) -> None:
    """What became of each member, one line each."""
    members = contest.members
    width = max((len(member.model) for member in members), default=0)
    for member in members:
        sys.stderr.write(safe(f"{member.model:{width}}  {_line(member)}") + "\n")


def _line(member: RaceMember) -> str:
    seconds = sum(attempt.total_s for attempt in member.attempts)
    count = len(member.attempts)
    said = f"{member.outcome:11}  {seconds:6.2f} s  {count} attempt{' ' if count == 1 else 's'}  {member.billed}"
    if member.cost is not None and member.billed != "nothing":
        said += f" {member.cost:.6f} {member.currency}"
    if member.kind is not None:
        said += f"  {member.code} {member.kind}"
    return said
