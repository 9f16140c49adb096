"""`ailib simulate`: the simulator for people: base URLs to point a client at, and a line for each request.

Imports click and, when it runs, the simulator. The rule that must stay true: it listens on this machine only, unless
told otherwise, and prints no credential.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import click

from ..errors import CallerError
from .options import MANIFESTS, Seconds
from .running import run_async
from .screen import Printer, as_json

if TYPE_CHECKING:
    from ..protocol.loader import Catalog
    from ..simulator import Entry, Fault, Reply, Simulator

__all__ = ["simulate"]

FAULTS = {
    "cut": "BYTES: close the connection after so many bytes of the body",
    "reset": "BYTES: the same with a reset",
    "end": "FRAMES: end the body in order after so many frames, before the dialect's own end",
    "stall": "FRAMES: fall silent after so many frames",
    "garbage": "FRAMES: bytes of no meaning after so many frames",
    "trickle": "BYTES: so many bytes a second",
    "split": "write so that characters are cut in two",
    "crlf": "lines end with CR LF",
    "html": "answer with a proxy's page of HTML",
    "not-json": "answer with a body that is no JSON",
}


@click.command(epilog="\b\nFaults:\n" + "\n".join(f"  {name:<9} {said}" for name, said in FAULTS.items()))
@click.argument("names", nargs=-1, metavar="[PROVIDER_OR_DIALECT]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen. Anyone who reaches it may ask.")
@click.option("--port", default=8099, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--text", help="What every reply says; the last words of the user are given back without it.")
@click.option("--thinking", help="What every reply thinks before it speaks.")
@click.option("--tool", metavar="NAME:JSON", help="Every reply calls this tool with these arguments.")
@click.option("--pace", type=Seconds(min=0), default=0.0, help="Seconds between pieces of a stream.")
@click.option("--first-token", type=Seconds(min=0), default=0.0, help="Seconds before the first piece.")
@click.option("--status", type=click.IntRange(400, 599), help="Answer with this status, in the dialect's own form.")
@click.option("--retry-after", metavar="VALUE", help="With --status: the header that says when to come back.")
@click.option("--fault", "faults", multiple=True, metavar="NAME[=N]", help="What goes wrong; may be repeated.")
@click.option("--key", help="Answer 401 to every other key.")
@MANIFESTS
@click.option("--json", "as_lines", is_flag=True, help="Write the addresses, then every request, as lines of JSON.")
def simulate(
    names: tuple[str, ...],
    host: str,
    port: int,
    text: str | None,
    thinking: str | None,
    tool: str | None,
    pace: float,
    first_token: float,
    status: int | None,
    retry_after: str | None,
    faults: tuple[str, ...],
    key: str | None,
    manifests: str | None,
    as_lines: bool,
) -> None:
    """Play providers on this machine, until Ctrl-C.

    Without names, every provider of the manifests. Point a client at an address that is printed:
    ailib chat PROVIDER/MODEL --base-url ADDRESS
    """
    if key is not None and not key.strip():
        raise click.UsageError("--key wants a key: no request can have an empty one")
    whole, partial = _faults(faults)
    answer = whole or _answer(text, thinking, tool, pace, first_token, status, retry_after, partial)

    async def main() -> None:
        import trio

        from ..protocol.loader import Catalog
        from ..simulator import open_simulator

        catalog = Catalog.open(manifests)
        shown = [_known(catalog, name) for name in names or _playable(catalog)]
        keys = None if key is None else dict.fromkeys(catalog.providers(), key)
        log = _Log(as_lines)
        async with AsyncExitStack() as stack:
            playing = open_simulator(catalog, answer, host=host, port=port, keys=keys, on_change=log.changed)
            try:
                simulator = await stack.enter_async_context(playing)
            except OSError as error:
                raise CallerError(
                    f"cannot listen on {host} port {port}: {error.strerror or error}", kind="bad_argument"
                ) from error
            log.opened(simulator, shown)
            await trio.sleep_forever()

    run_async(main)


def _playable(catalog: Catalog) -> list[str]:
    """The providers with a dialect that the simulator speaks."""
    return [
        name
        for name in catalog.providers()
        if any(family.simulate for family in catalog.provider(name).families.values())
    ]


def _known(catalog: Catalog, name: str) -> str:
    """The id of a provider or a dialect that can be played. Raises CallerError for what is none, or cannot be."""
    from ..simulator.directory import directory_of

    directory = directory_of(catalog)
    try:
        ident = directory.name(name)
    except CallerError:
        return catalog.provider(name).id  # its error names the providers that come near
    if not directory.compile(name):
        dialects = [ident]
        if catalog.has_provider(name):
            dialects = list(dict.fromkeys(one.dialect for one in catalog.provider(name).families.values()))
        lacking = ", ".join(dialects)
        why = f"the dialect {lacking} has no `simulate` section" if lacking else "no API family is declared"
        raise CallerError(f"{ident} cannot be played: {why}", kind="bad_argument")
    return ident


def _answer(
    text: str | None,
    thinking: str | None,
    tool: str | None,
    pace: float,
    first_token: float,
    status: int | None,
    retry_after: str | None,
    faults: Sequence[Fault],
) -> Any:
    """The reply of every request, or a function that makes it from the request."""
    import msgspec

    from ..simulator import Script, Status, Text, Thinking, ToolCall, default_script

    if status is not None:
        return Status(status, retry_after=retry_after, faults=faults)
    if retry_after is not None:
        raise click.UsageError("--retry-after goes with --status")
    extra: list[Any] = [Thinking(thinking)] if thinking is not None else []
    if text is not None:
        extra.append(Text(text))
    if tool is not None:
        name, colon, arguments = tool.partition(":")
        try:
            extra.append(ToolCall(name, msgspec.json.decode(arguments) if colon else {}))
        except msgspec.DecodeError:
            raise click.UsageError(f"--tool wants a name, a colon and JSON, got {tool!r}") from None
        if not name.strip():
            raise click.UsageError(f"--tool wants a name before the colon, got {tool!r}")

    def reply(entry: Entry) -> Reply:
        usual = default_script(entry)
        steps: list[Any] = list(usual.steps)
        if text is not None or tool is not None:
            steps = [step for step in steps if not isinstance(step, Text)]
        return Script(steps=[*extra, *steps], pace=pace, first_token_delay=first_token, faults=faults)

    return reply


def _faults(wanted: Sequence[str]) -> tuple[Reply | None, list[Fault]]:
    """The reply that a fault is by itself, if one is, and those that happen to a reply."""
    from .. import simulator

    whole: Reply | None = None
    found: list[Fault] = []
    for one in wanted:
        name, _, text = one.partition("=")
        if name not in FAULTS:
            raise click.UsageError(f"no fault is called {name!r}; there are: {', '.join(FAULTS)}")
        needs_number = FAULTS[name].startswith(("BYTES", "FRAMES"))
        if needs_number != text.isdigit():
            raise click.UsageError(
                f"--fault {name}{' wants a whole number: ' + name + '=10' if needs_number else ' takes no number'}"
            )
        number = int(text or 0)
        if name == "trickle" and not number:
            raise click.UsageError("--fault trickle wants at least one byte a second: trickle=1")
        if name in ("cut", "reset"):
            found.append(simulator.Cut(after_bytes=number, how="close" if name == "cut" else "reset"))
        elif name == "end":
            found.append(simulator.Cut(after_frames=number, how="end"))
        elif name == "stall":
            found.append(simulator.Stall(at=number, seconds=math.inf))
        elif name == "garbage":
            found.append(simulator.Insert(after_frames=number))
        elif name == "trickle":
            found.append(simulator.Trickle(bytes_per_second=number))
        elif name == "split":
            found.append(simulator.SplitCharacters())
        elif name == "crlf":
            found.append(simulator.LineEnds("\r\n"))
        else:
            whole = simulator.html_page() if name == "html" else simulator.not_json()
    return whole, found


class _Log:
    """What is printed: where to go, then a line when a request comes and one when its answer has ended."""

    def __init__(self, as_lines: bool) -> None:
        self._as_lines = as_lines
        self._out = Printer(sys.stdout)

    def opened(self, simulator: Simulator, names: Sequence[str]) -> None:
        urls = {name: simulator.base_url(name) for name in names}
        if self._as_lines:
            self._write({"listening": simulator.url, "base_urls": urls})
            return
        self._out.line("simulating, until Ctrl-C", "title")
        width = max((len(name) for name in urls), default=0)
        for name, url in urls.items():
            self._out.line(f"  {name:<{width}}  {url}")

    def changed(self, what: str, entry: Entry) -> None:
        if self._as_lines:
            self._write({what: entry.as_dict()})
            return
        if what == "request":
            asked = (
                f"{entry.method} {entry.path}  {entry.provider or '-'}, {entry.dialect or '-'}, {entry.model or '-'}"
            )
            answer = entry.refused or entry.reply
            self._out.line(f"#{entry.number}  {asked}{', streamed' if entry.streamed else ''}  -> {answer}")
        else:
            seconds = (entry.ended_at or entry.at) - entry.at
            style = "note" if entry.outcome == "served" else "bad"
            self._out.line(
                f"#{entry.number}  {entry.status} {entry.outcome}, {entry.frames_sent} frames, "
                f"{entry.bytes_sent} bytes, {seconds:.3f} s",
                style,
            )

    def _write(self, value: Any) -> None:
        sys.stdout.write(as_json(value, indent=None) + "\n")
        sys.stdout.flush()
