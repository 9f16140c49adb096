"""The demo's scenes of resilience: a race, a hedge, and an answer that is cut and goes on from another provider.

Imports `demo`'s play and, when they run, the client and the simulator. The rule that must stay true: what is said of a
connection is what the simulator saw of it, and the ledger shown is the call's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from ..client.contests import ContestStream
    from ..simulator import Entry
    from ..types.stats import CallStats
    from .demo import Player, _Play

__all__ = ["SCENES", "TALE", "failover", "hedge", "race"]

PACE_S = 0.03
TALE = " ".join(f"part-{number}" for number in range(1, 15))
LATE_S = 0.25  # after which a hedge asks the next one
SLACK_S = 1.0  # a slow machine's allowance
CUT_AFTER = 7  # frames of the reply that is cut


async def race(play: _Play) -> None:
    """Three providers answer at once; the first token wins, and the others are closed there and then."""
    from ..simulator import Script, Text, Usage

    play.stage.scene("A race: the first token wins")
    players = _usual(play, 3)
    for player, delay in zip(players, (0.6, 0.15, 0.9), strict=True):
        said = Script(
            steps=[Text(TALE), Usage(input_tokens=12, output_tokens=48)], first_token_delay=delay, pace=PACE_S
        )
        play.sim.script(said, provider=player.provider)
    first = len(play.sim.entries)
    chat = play.client.chat().max_tokens(1000).user("Tell me a tale.")
    running = play.client.race(chat, models=[player.model for player in players])
    await _watch(play, running)
    seen = await _witness(play, first, 3)
    won = running.winner.model if running.winner is not None else None
    losers = [entry for player, entry in zip(players, _by(seen, players), strict=True) if player.model != won]
    winner = next(entry for player, entry in zip(players, _by(seen, players), strict=True) if player.model == won)
    _ledger(play, running.stats, seen)
    play._claim(
        f"of three {won} was first; the provider of each loser saw its connection closed while the winner still spoke",
        won == players[1].model
        and running.response().content == TALE
        and all(entry.left_by_client and entry.frames_sent == 0 for entry in losers)
        and all((entry.ended_at or 0.0) < (winner.ended_at or 0.0) for entry in losers)
        and [member.outcome for member in running.losers] == ["lost", "lost"]
        and len(running.stats.attempts) == 3,
        {"winner": won, "members": running.members, "provider_saw": [_seen(entry) for entry in seen]},
    )


async def hedge(play: _Play) -> None:
    """The first provider is late; the second is asked as well, and its answer comes."""
    from ..simulator import Script, Stall, Text

    play.stage.scene(f"A hedge: no first token within {LATE_S:g} s, so the next one is asked as well")
    slow, fast = _usual(play, 2)
    play.sim.script(Script(steps=[Text(TALE)], faults=[Stall("head")]), provider=slow.provider)
    play.sim.script(Script(steps=[Text(TALE)], pace=PACE_S / 2), provider=fast.provider)
    first = len(play.sim.entries)
    chat = play.client.chat().max_tokens(1000).user("Tell me a tale, soon.")
    running = play.client.hedge(chat, models=[slow.model, fast.model], after=LATE_S)
    await _watch(play, running)
    seen = await _witness(play, first, 2)
    late, soon = _by(seen, [slow, fast])
    waited = soon.at - late.at
    _ledger(play, running.stats, seen)
    play._claim(
        f"the second was asked {waited:.2f} s after the first, answered, and the first was closed unanswered",
        running.response().content == TALE
        and LATE_S / 2 < waited < LATE_S + SLACK_S  # as the provider saw it: the first had to connect
        and late.left_by_client
        and late.frames_sent == 0
        and [member.outcome for member in running.members] == ["lost", "won"],
        {"asked_after_s": round(waited, 4), "members": running.members, "provider_saw": [_seen(one) for one in seen]},
    )


async def failover(play: _Play) -> None:
    """A connection is reset in the middle of an answer; another provider goes on with it."""
    from ..client.client import open_client
    from ..resilience.executor import Resilience
    from ..simulator import Cut, Script, Text, Usage
    from ..types.events import PartialContentDelta, Rerouted

    play.stage.scene("A connection breaks in the middle of an answer, and another provider goes on with it")
    cut, other = _usual(play, 2)

    def rest(entry: Entry) -> Script:
        last = entry.request.messages[-1] if entry.request is not None else None
        said = last.text if last is not None and last.role == "assistant" else ""
        usage = Usage(input_tokens=40, output_tokens=20)
        return Script(steps=[Text(TALE.removeprefix(said)), usage], pace=PACE_S)

    faults = [Cut(after_frames=CUT_AFTER, how="reset")]
    play.sim.script(Script(steps=[Text(TALE)], pace=PACE_S, faults=faults), provider=cut.provider)
    play.sim.script(rest, provider=other.provider)
    first = len(play.sim.entries)
    # The simulator goes on with anything; real models do where their vendors say so (`assistant_prefill`).
    own = Resilience(max_attempts=1, can_continue=(other.model,))
    shown, rerouted = "", None
    async with open_client(config=msgspec.structs.replace(play.client.config, resilience=own)) as client:
        chat = client.chat().model(cut.model).max_tokens(1000).user("Tell me a tale.")
        async with chat.fallback(other.model, mid_stream="continue").stream() as stream:
            async for event in stream:
                if isinstance(event, PartialContentDelta):
                    shown += event.content
                    play.stage.piece(event.content)
                elif isinstance(event, Rerouted):
                    rerouted = event
                    play.stage.piece(f" [{event.reason}: on to {event.to_model}]", "note")
        play.stage.piece("\n")
        content, stats = stream.response().content, stream.stats
    seen = await _witness(play, first, 2)
    broken, went_on = _by(seen, [cut, other])
    handed = went_on.request.messages[-1].text if went_on.request is not None else ""
    _ledger(play, stats, seen)
    play._claim(
        f"{len(handed)} of {len(TALE)} characters came before the cut and the rest from {other.provider}: "
        "none is missing and none came twice",
        shown == content == TALE
        and broken.outcome == "reset"
        and 0 < len(handed) < len(TALE)
        and TALE.startswith(handed)
        and rerouted is not None
        and not rerouted.discard
        and [attempt.verdict for attempt in stats.attempts] == ["replaced", "won"],
        {"handed_on": handed, "attempts": stats.attempts, "provider_saw": [_seen(entry) for entry in seen]},
    )


SCENES = (race, hedge, failover)


def _usual(play: _Play, count: int) -> list[Player]:
    """Players whose dialect is their provider's usual API: those are asked by a model's name alone."""
    catalog = play.client._catalog
    return [player for player in play.players if catalog.provider(player.provider).default_family == player.api][:count]


async def _watch(play: _Play, running: ContestStream) -> None:
    from ..types.events import PartialContentDelta

    async with running as events:
        async for event in events:
            if isinstance(event, PartialContentDelta):
                play.stage.piece(event.content)
    play.stage.piece("\n")


async def _witness(play: _Play, first: int, count: int) -> list[Entry]:
    """The simulator's entries of a scene, once each has ended."""
    return [await play.sim.wait_end(first + number) for number in range(1, count + 1)]


def _by(entries: list[Entry], players: list[Player]) -> list[Entry]:
    """The players' entries, in the players' order."""
    return [next(entry for entry in entries if entry.provider == player.provider) for player in players]


def _seen(entry: Entry) -> dict[str, Any]:
    return {"provider": entry.provider, "outcome": entry.outcome, "frames_sent": entry.frames_sent}


def _ledger(play: _Play, stats: CallStats, seen: list[Entry]) -> None:
    """The call's ledger beside what the providers saw."""
    saw = {entry.provider: f"{entry.outcome}, {entry.frames_sent} frames" for entry in seen}
    play.stage.table(
        ("attempt", "verdict", "seconds", "billed", "cost", "the provider saw"),
        [
            (
                f"{attempt.provider}/{attempt.model}",
                attempt.verdict or attempt.outcome,
                f"{attempt.total_s:.2f}",
                attempt.billed,
                "" if attempt.cost is None else f"{attempt.cost:.6f} {attempt.currency or ''}".strip(),
                saw.get(attempt.provider, ""),
            )
            for attempt in stats.attempts
        ],
        right=("seconds", "cost"),
    )
