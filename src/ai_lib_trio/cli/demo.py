"""`ailib demo`: the library at work on the simulator, on this machine alone, with every claim checked as it is made.

Imports click and, when it runs, the client and the simulator. The rule that must stay true: what is printed as checked
was compared with what the other side of the wire saw, and exit 0 means that all of it held.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import msgspec

from ..errors import AiLibError, InternalError
from .demo_resilience import SCENES
from .options import JSON
from .running import run_async
from .screen import as_json, one_line
from .stage import Stage

if TYPE_CHECKING:
    from ..client.chat import ChatRequestBuilder
    from ..client.client import AiClient
    from ..protocol.loader import Catalog
    from ..simulator import Entry, Simulator
    from ..types.message import Block, ToolResultBlock
    from ..types.response import ChatResponse

__all__ = ["demo"]

LIMIT_S = 60.0  # the demo takes about six seconds; a machine that needs ten times that is told so
PACE_S = 0.03  # between pieces: about how fast a model writes, and slow enough to watch

ANSWER = "Because short waves scatter most, and blue is short."
QUESTION = "What should I wear in Lisbon today?"
THOUGHT = "Clothes depend on the weather, which I do not know. There is a tool for it."
SEAL = "c2VhbGVkIGJ5IHRoZSBwcm92aWRlcg=="  # what a provider wants back unread and unchanged
WEATHER = "18 degrees, light rain"
ADVICE = "A light rain jacket: it is 18 degrees in Lisbon, with light rain."
STORY_WORDS = 400
FLOOD_BYTES = 8 * 1024 * 1024
FLOOD_PIECE = 8 * 1024
HELD_BYTES = 1024 * 1024  # buffers of two sockets and two reads of ours fit in well; the flood is eight times that
SLEEP_S = 1.0  # how long the slow consumer sleeps
STILL_S = 0.5  # how much of that the provider must have stood still


class Player(NamedTuple):
    """A provider of the demo: the first one that has its dialect, as its usual API or as another one."""

    provider: str
    model: str
    dialect: str
    api: str


class Claim(msgspec.Struct, frozen=True):
    """What is claimed, whether its check held, and what was seen."""

    claim: str
    checked: bool
    evidence: dict[str, Any]


@click.command(short_help="Show the library at work, without a key.")
@JSON
def demo(as_document: bool) -> None:
    """Show the library at work, without a key and without a network.

    A simulator on this machine plays several providers of different wire formats. Every claim is checked against what
    the simulator saw; exit 0 means that all were true.
    """
    started = time.monotonic()
    play = _Play(Stage(quiet=as_document))
    run_async(play.run)
    is_true = all(claim.checked for claim in play.claims)
    seconds = round(time.monotonic() - started, 2)
    if as_document:
        sys.stdout.write(as_json({"ok": is_true, "seconds": seconds, "claims": play.claims}) + "\n")
    else:
        held = sum(claim.checked for claim in play.claims)
        play.stage.line()
        play.stage.line(f"{held} of {len(play.claims)} claims checked and true, in {seconds:.1f} s.", "title")
    if not is_true:
        false = sum(not claim.checked for claim in play.claims)
        raise InternalError(f"{false} of {len(play.claims)} claims are not true", kind="bug")


class _Play:
    """The scenes, one after another, on one client and one simulator."""

    client: AiClient
    sim: Simulator

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.claims: list[Claim] = []
        self.players: list[Player] = []
        self.keys: dict[str, str] = {}

    async def run(self) -> None:
        import trio

        from ..client.client import open_client
        from ..client.config import Config
        from ..protocol.loader import Catalog
        from ..simulator import open_simulator

        catalog = Catalog.open(environ={})
        self.players = _players(catalog)
        self.keys = {player.provider: f"demo-key-of-{player.provider}-0000" for player in self.players}
        # A small send buffer, so that it shows quickly whether anybody reads.
        simulator = open_simulator(catalog, keys=self.keys, send_buffer_bytes=64 * 1024)
        with trio.move_on_after(LIMIT_S) as limit:
            async with simulator as self.sim:
                self.stage.opening(
                    "ai-lib-trio demo",
                    (
                        "No key, no network: a simulator on this machine plays the providers.",
                        f"{len(self.players)} providers, each with a wire format of its own, read from YAML files.",
                    ),
                )
                config = Config(
                    environ=_without_keys(os.environ),
                    api_keys=self.keys,
                    base_urls={player.provider: self.sim.base_url(player.provider) for player in self.players},
                )
                async with open_client(config=config) as self.client:
                    for scene in (self.one_call, self.tool_round_trip, self.cancelled_call, self.slow_consumer):
                        await self._try(scene)
                    for resilient in SCENES:
                        await self._try(partial(resilient, self), resilient.__name__)
                await self._try(self.nothing_left)
        if limit.cancelled_caught:
            self._claim(f"the demo ends within {LIMIT_S:.0f} s", False, {})

    def _chat(self, player: Player) -> ChatRequestBuilder:
        return self.client.chat().model(player.model).api(player.api).max_tokens(1000)

    async def _try(self, scene: Callable[[], Awaitable[None]], name: str = "") -> None:
        try:
            await scene()
        except AiLibError as error:
            self._claim(f"the scene {name or scene.__name__} plays to its end", False, {"error": one_line(error)})
            self.stage.line(one_line(error), "bad")

    def _claim(self, claim: str, is_true: bool, evidence: dict[str, Any]) -> None:
        self.claims.append(Claim(claim, is_true, evidence))
        self.stage.verdict(claim, is_true)

    # ---- scenes

    async def one_call(self) -> None:
        """The same call to every provider at once."""
        import trio

        from ..simulator import Script, Text, Usage

        self.stage.scene(f"One call, {len(self.players)} providers at once")
        first = len(self.sim.entries)
        for player in self.players:
            self.sim.script(
                Script(steps=[Text(ANSWER), Usage(input_tokens=14, output_tokens=11)]), provider=player.provider
            )
        replies: dict[str, tuple[ChatResponse, float]] = {}

        async def ask(player: Player) -> None:
            chat = self._chat(player).system("Be brief.").user("Why is the sky blue?")
            reply, stats = await chat.execute_with_stats()
            replies[player.provider] = reply, stats.total_s

        async with trio.open_nursery() as nursery:
            for player in self.players:
                nursery.start_soon(ask, player)
        entries = {entry.provider: entry for entry in self.sim.entries[first:]}
        seen = [self._seen(player, *replies[player.provider], entries[player.provider]) for player in self.players]
        self.stage.table(
            ("model", "dialect", "path", "tokens"),
            [
                (row["model"], row["dialect"], row["path"], f"{row['input_tokens']} + {row['output_tokens']}")
                for row in seen
            ],
            right=("tokens",),
        )
        self.stage.line(f"each says: {seen[0]['content']}")
        self._claim(
            f"one program, {len(seen)} wire formats, the same reply and the same usage from each",
            len({row["dialect"] for row in seen}) == len(self.players)
            and all((row["content"], row["input_tokens"], row["output_tokens"]) == (ANSWER, 14, 11) for row in seen)
            and all(
                entry.dialect == player.dialect and entry.refused is None
                for player in self.players
                for entry in [entries[player.provider]]
            ),
            {"calls": seen},
        )
        journal = repr([entry.as_dict() for entry in self.sim.entries])
        self._claim(
            "each request carried its own provider's key, and no log shows one",
            all(row["key"] == row["provider"] for row in seen if row["key"] is not None)
            and any(row["key"] is not None for row in seen)
            and not any(key in journal or key in repr(self.client.tree()) for key in self.keys.values()),
            {"keys": {row["provider"]: row["key"] for row in seen}},
        )

    def _seen(self, player: Player, reply: ChatResponse, seconds: float, entry: Entry) -> dict[str, Any]:
        return {
            **player._asdict(),
            "method": entry.method,
            "path": entry.path,
            "key": entry.key,
            "content": reply.content,
            "input_tokens": reply.usage.input_tokens,
            "output_tokens": reply.usage.output_tokens,
            "seconds": round(seconds, 4),
        }

    async def tool_round_trip(self) -> None:
        """A streamed reply that asks for a tool, and one that knows what the tool said; then the same everywhere."""
        import trio

        self.stage.scene("A streamed call with a tool, there and back")
        rounds: list[dict[str, Any]] = [await self._round_trip(self.players[0], self.stage, PACE_S)]
        quiet = Stage(quiet=True)

        async def play(player: Player) -> None:
            rounds.append(await self._round_trip(player, quiet, 0.0))

        async with trio.open_nursery() as nursery:
            for player in self.players[1:]:
                nursery.start_soon(play, player)
        sealed = sum(bool(row["seal_sent_back"]) for row in rounds)
        self._claim(
            f"a tool call and its result went there and back over {len(rounds)} wire formats; the {sealed} that seal "
            "their reasoning got the seal back unchanged",
            len(rounds) == len(self.players) and sealed > 0 and all(row["is_whole"] for row in rounds),
            {"round_trips": rounds},
        )

    async def _round_trip(self, player: Player, stage: Stage, pace: float) -> dict[str, Any]:
        from ..simulator import Script, Text, Thinking, ToolCall
        from ..types.message import ToolResultBlock, ToolUseBlock
        from ..types.tool import ToolDefinition

        weather = ToolDefinition(
            "weather",
            "The weather in a city, now",
            {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        )
        thought = Thinking(THOUGHT, signature=SEAL)  # goes out where the dialect has a place for it
        self.sim.script(
            Script(steps=[thought, ToolCall("weather", {"city": "Lisbon"})], pace=pace),
            Script(steps=[Text(ADVICE)], pace=pace),
            provider=player.provider,
        )
        first = len(self.sim.entries)
        ask = self._chat(player).tools(weather).user(QUESTION)
        stage.line(f"{player.model}, {player.dialect}", "note")
        stage.line(f"user: {QUESTION}")
        asking = await self._watch(ask, stage)
        call = asking.tool_calls[0] if asking.tool_calls else None
        said = ""
        if call is not None:
            stage.line(f"tool: {WEATHER}", "tool")
            answered = ask.messages(asking.message).tool_result(call, WEATHER)
            said = (await self._watch(answered, stage)).content
        # What the provider read the second time, in the words of the standard request.
        sent = [entry for entry in self.sim.entries[first:] if entry.provider == player.provider]
        second = sent[-1].request
        blocks = [block for message in second.messages for block in message.blocks] if second is not None else []
        uses = [block for block in blocks if isinstance(block, ToolUseBlock)]
        results = [block for block in blocks if isinstance(block, ToolResultBlock)]
        return {
            **player._asdict(),
            "thinking": asking.thinking,
            "call": {"name": call.name, "arguments": call.arguments} if call is not None else None,
            "call_sent_back": [{"name": use.name, "arguments": use.input} for use in uses],
            "result_sent_back": [_text_of(result) for result in results],
            "reasoning_sealed": _seals(asking.blocks),
            "seal_sent_back": _seals(blocks),
            "content": said,
            "is_whole": asking.thinking == THOUGHT
            and call is not None
            and (call.name, call.arguments) == ("weather", {"city": "Lisbon"})
            and [(use.name, use.input) for use in uses] == [("weather", {"city": "Lisbon"})]
            and [_text_of(result) for result in results] == [WEATHER]
            and [result.tool_use_id for result in results] == [use.id for use in uses]
            and _seals(blocks) == _seals(asking.blocks)
            and said == ADVICE,
        }

    async def _watch(self, chat: ChatRequestBuilder, stage: Stage) -> ChatResponse:
        """Stream a reply onto the stage; gives it."""
        from ..types import events

        last = ""
        async with chat.stream() as stream:
            async for event in stream:
                if isinstance(event, events.ThinkingDelta):
                    name, text, style = "thinking", event.thinking, "thinking"
                elif isinstance(event, events.PartialContentDelta):
                    name, text, style = "model", event.content, "text"
                elif isinstance(event, events.ToolCallStarted):
                    name, text, style = "call", f"{event.tool_name} ", "tool"
                elif isinstance(event, events.PartialToolCall):
                    name, text, style = "call", event.arguments, "tool"
                else:
                    continue
                if name != last:
                    stage.start_line()
                    stage.piece(f"{name}: ", style)
                    last = name
                stage.piece(text, style)
            stage.piece("\n")
            reply: ChatResponse = stream.response()
        return reply

    async def cancelled_call(self) -> None:
        """A stream left in the middle; the provider says when it saw the connection close."""
        import trio

        from ..simulator import Script, Text
        from ..types.events import PartialContentDelta

        self.stage.scene("A cancelled call")
        player = self.players[1 % len(self.players)]
        story = " ".join(f"word-{number}" for number in range(STORY_WORDS))
        self.sim.script(Script(steps=[Text(story)], pace=PACE_S), provider=player.provider)
        number = len(self.sim.entries) + 1
        heard, tree, cancelled_at = 0, "", trio.current_time()
        asked = self._chat(player).user("Tell me a long story.")
        self.stage.line(
            f"{player.model} writes {STORY_WORDS} words; after 12 of them the caller's scope is cancelled", "note"
        )
        with trio.CancelScope() as scope:
            async with asked.stream() as stream:
                async for event in stream:
                    if isinstance(event, PartialContentDelta):
                        heard += 1
                        self.stage.piece(event.content)
                        if heard == 12:
                            tree = str(self.client.tree())
                            cancelled_at = trio.current_time()
                            scope.cancel()
        left_at = trio.current_time()
        self.stage.piece(" ...\n")
        for line in tree.splitlines():
            self.stage.line(f"  {line}", "note")
        entry = await self.sim.wait_end(number)
        closed_at = entry.ended_at or left_at
        calls = self.client.tree().open_calls
        self._claim(
            f"the caller was free {(left_at - cancelled_at) * 1000:.1f} ms after the cancel; the provider saw it close "
            f"the connection after {(closed_at - cancelled_at) * 1000:.1f} ms, {entry.frames_sent} frames into it",
            scope.cancelled_caught
            and entry.left_by_client
            and 0 <= closed_at - cancelled_at < 1.0
            and entry.frames_sent < STORY_WORDS / 4
            and calls == 0,
            {
                **player._asdict(),
                "events_before_cancel": heard,
                "left_after_s": round(left_at - cancelled_at, 6),
                "provider_saw": entry.outcome,
                "provider_saw_after_s": round(closed_at - cancelled_at, 6),
                "frames_sent": entry.frames_sent,
                "frames_scripted": STORY_WORDS,
                "open_calls_left": calls,
            },
        )

    async def slow_consumer(self) -> None:
        """A consumer that sleeps, and a provider that has to wait for it."""
        import trio

        from ..simulator import Script, Text
        from ..types.events import PartialContentDelta

        self.stage.scene("A slow consumer holds the provider back")
        player = self.players[2 % len(self.players)]
        flood = "0123456789abcdef" * (FLOOD_BYTES // 16)
        self.sim.script(Script(steps=[Text(flood)], pieces=FLOOD_PIECE), provider=player.provider)
        number = len(self.sim.entries) + 1
        self.stage.line(
            f"{player.model} has {_mib(FLOOD_BYTES)} to say; the caller reads one event, then sleeps {SLEEP_S:g} s",
            "note",
        )
        received = 0
        moved_at = held_at = trio.current_time()
        held = 0
        asked = self._chat(player).user("Everything, please.")
        with self.stage.gauge("  sent by the provider", FLOOD_BYTES) as gauge:
            async with asked.stream() as stream:
                entry = await self.sim.wait_entry(number)
                async for event in stream:
                    if not isinstance(event, PartialContentDelta):
                        continue
                    if received == 0:
                        until = trio.current_time() + SLEEP_S
                        while (held_at := trio.current_time()) < until:
                            if entry.bytes_sent != held:
                                held, moved_at = entry.bytes_sent, held_at
                            gauge.show(held, f"{_mib(held)}, still for {held_at - moved_at:.1f} s")
                            await trio.sleep(0.02)
                    received += len(event.content)
                    gauge.show(entry.bytes_sent, f"{_mib(entry.bytes_sent)}, and going on")
        still_s = held_at - moved_at
        self._claim(
            f"while the caller slept, the provider could send {_mib(held)} of {_mib(FLOOD_BYTES)}, then stood still "
            f"for {still_s:.1f} s",
            0 < held <= HELD_BYTES and still_s >= STILL_S,
            {**player._asdict(), "bytes_sent": held, "bytes_scripted": FLOOD_BYTES, "still_s": round(still_s, 3)},
        )
        self._claim(
            f"afterwards the rest came: {_mib(received)}, nothing lost",
            received == len(flood) and stream.response().content == flood,
            {"characters_received": received, "characters_scripted": len(flood), "bytes_sent": entry.bytes_sent},
        )

    async def nothing_left(self) -> None:
        """After the client's block."""
        import trio

        self.stage.scene("The client's block is left")
        with trio.move_on_after(1.0):
            await self.sim.wait_quiet()
        tree = self.client.tree()
        connections = len(self.sim.connections)
        self._claim(
            f"of {connections} connections none is open, and of {self.client.stats()['calls']} calls none",
            self.sim.open_connections == 0 and tree.open_calls == 0 and not tree.overdue_leaves,
            {"connections": connections, "open": self.sim.open_connections, "calls": self.client.stats()},
        )


def _players(catalog: Catalog) -> list[Player]:
    """One provider for each dialect with all that is played here, thoughts and calls of tools, no provider twice.

    Those whose usual API it is come first, then those whose address is the same for everybody, then those with a
    registered model that reasons and calls tools.
    """
    offers = []
    for ident in catalog.providers():
        manifest = catalog.provider(ident)
        model = _model(catalog, ident)
        for name, family in manifest.families.items():
            if {"thinking", "tool_use"} <= family.simulate.get("frames", {}).keys():
                player = Player(ident, model or f"{ident}/any-model", family.dialect, name)
                needs_variable = bool(manifest.endpoint.variables)
                offers.append(((name != manifest.default_family, needs_variable, model is None), player))
    found: dict[str, Player] = {}
    for _, player in sorted(offers, key=lambda offer: offer[0]):
        if player.dialect not in found and player.provider not in {other.provider for other in found.values()}:
            found[player.dialect] = player
    return [found[dialect] for dialect in sorted(found)]


def _model(catalog: Catalog, provider: str) -> str | None:
    """A registered model with tools and reasoning, if there is one."""
    wanted = {"tools", "reasoning"}
    return next(
        (facts.ref for facts in catalog.models(provider) if wanted <= (facts.capabilities or frozenset())), None
    )


def _without_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """A copy of the environment without keys, proxies and other people's manifests."""
    return {
        name: value
        for name, value in environ.items()
        if not name.upper().endswith(("_API_KEY", "_PROXY", "_PROXY_URL")) and not name.startswith("AI_PROTOCOL_")
    }


def _seals(blocks: Iterable[Block]) -> list[str]:
    """What providers sealed and want back as it is."""
    from ..types.message import ThinkingBlock

    sealed = [block for block in blocks if isinstance(block, ThinkingBlock)]
    return [seal for block in sealed for seal in (block.signature, block.encrypted) if seal is not None]


def _text_of(result: ToolResultBlock) -> str:
    from ..types.message import TextBlock

    content = result.content
    return (
        content
        if isinstance(content, str)
        else "".join(block.text for block in content if isinstance(block, TextBlock))
    )


def _mib(count: int) -> str:
    return f"{count / 1024 / 1024:.2f} MiB"
