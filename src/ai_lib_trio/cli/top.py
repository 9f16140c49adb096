"""`ailib top`: what a running program's client is doing, live. Imports click and, when it runs, rich and trio.

The program opens the socket with `ai_lib_trio.telemetry.observe(client, path)`. The rule that must stay true: nothing
shown is wider than the terminal or higher than it, and text from outside moves no cursor.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import click

from .running import run_async
from .screen import as_json, console_for, safe

if TYPE_CHECKING:
    from ..telemetry.observe import Counted, Observed

__all__ = ["lines_of", "top"]

PROVIDER, STATE = 18, 10  # columns of 80 for the two texts; the rest is numbers
ENDING = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
SIGNALS = ("SIGWINCH", "SIGTERM", "SIGHUP", "SIGTSTP")  # those of them that this system has


@click.command()
@click.argument("path", type=click.Path())
@click.option("--once", is_flag=True, help="Show one picture and end. Without a terminal it is always so.")
@click.option("--json", "as_lines", is_flag=True, help="Write each snapshot as a line of JSON, for programs.")
def top(path: str, once: bool, as_lines: bool) -> int:
    """Show the live tree of the program that listens at PATH.

    A program opens the socket with `async with ai_lib_trio.telemetry.observe(client, PATH)`; it is readable by its
    user alone. Press q, or Ctrl-C, to leave.
    """

    async def main() -> int:
        from ..telemetry.observe import snapshots

        console = None if as_lines else console_for(sys.stdout)
        async with aclosing(snapshots(path)) as seen:
            if as_lines:
                async for one in seen:
                    sys.stdout.write(as_json(one, indent=None) + "\n")
                    sys.stdout.flush()
                    if once:
                        break
            elif console is None or once:
                async for one in seen:
                    width = shutil.get_terminal_size().columns if console is not None else 1000
                    sys.stdout.write("\n".join(text for text, _ in lines_of(one, width, 1000)) + "\n")
                    break
            else:
                return await _live(console, seen)
        return 0

    return run_async(main)


async def _live(console: Any, seen: Any) -> int:
    """Draw each snapshot until the program or the user ends it; gives the exit code. The terminal is left as it was,
    also where a signal ends it, and while it is stopped."""
    import trio
    from rich.live import Live
    from rich.text import Text

    last: Observed | None = None
    has_ended = False
    ended_by = 0

    def draw() -> None:
        shown = Text(no_wrap=True, overflow="crop")
        for number, (text, style) in enumerate(lines_of(last, console.width, console.height) if last else ()):
            shown.append(("\n" if number else "") + text, style=style)
        live.update(shown, refresh=True)

    async def follow() -> None:
        nonlocal last, has_ended
        async for one in seen:
            last = one
            draw()
        has_ended = True
        nursery.cancel_scope.cancel()

    async def obey() -> None:
        nonlocal ended_by
        wanted = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        with trio.open_signal_receiver(*wanted) as signals:
            async for number in signals:
                if number in ENDING:
                    ended_by = number
                    nursery.cancel_scope.cancel()
                elif number == getattr(signal, "SIGTSTP", None):
                    live.stop()
                    keys.put_back()
                    ours = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
                    os.kill(os.getpid(), signal.SIGTSTP)  # until the shell lets it go on, where there is one
                    signal.signal(signal.SIGTSTP, ours)
                    keys.take()
                    live.start()
                draw()

    async def leave() -> None:
        while True:
            await trio.lowlevel.wait_readable(sys.stdin.fileno())
            pressed = os.read(sys.stdin.fileno(), 1024)
            if not pressed or b"q" in pressed.lower():
                nursery.cancel_scope.cancel()
                return

    # Drawn when there is something new: no thread of rich's own draws.
    with _Keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            nursery.start_soon(obey)
            if keys.are_here:
                nursery.start_soon(leave)
    if has_ended:
        sys.stdout.write("the program has closed the socket\n")
    return 128 + ended_by if ended_by else 0


class _Keys:
    """Keys come as they are pressed and are not shown, where somebody sits at a keyboard; afterwards as before."""

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    @property
    def are_here(self) -> bool:
        return self._before is not None

    def take(self) -> None:
        try:
            import termios
            import tty

            self._before = termios.tcgetattr(sys.stdin.fileno())
        except (ImportError, OSError, ValueError, termios.error):  # not of this system, or no terminal
            return
        tty.setcbreak(sys.stdin.fileno())

    def put_back(self) -> None:
        if self._before is not None:
            import termios

            termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._before)

    def __enter__(self) -> _Keys:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.put_back()


def lines_of(one: Observed, width: int, height: int) -> list[tuple[str, str]]:
    """A snapshot as lines and their styles, none longer than `width`, and no more than `height`.

    Where they are too many, calls are left out first: what is wrong with another provider is not hidden by them.
    """
    stats = one.stats
    head = f"pid {one.pid}  client {one.client}  up {_time(one.uptime_s)}"
    counts = f"calls {stats.get('calls', 0)}  open {stats.get('open', 0)}  ok {stats.get('ok', 0)}  "
    counts += f"failed {stats.get('failed', 0)}  cancelled {stats.get('cancelled', 0)}  {one.events_per_s:.0f} events/s"
    lines = [(head, "bold"), (counts, "")]
    fault = one.tree.get("manifest_fault")
    if fault is not None:
        lines.append((f"changed manifests are not used: {fault}", "red"))
    faults = [
        f"{one.tree.get(name)} {said}"
        for name, said in (("sink_failures", "failures of sinks"), ("overdue_leaves", "overdue leaves"))
        if one.tree.get(name)
    ]
    if faults:
        lines.append((", ".join(faults), "red"))
    lines.append(("", ""))
    lines.append(
        (
            f"{'provider':<{PROVIDER}}{'state':<{STATE}}"
            f"{'run':>5}{'wait':>6}{'calls':>7}{'tries':>7}{'fail':>6}{'tok/s':>8}  cost",
            "dim",
        )
    )
    actors = one.tree.get("actors", [])
    if not actors:
        lines.append(("no provider has been called yet", "dim"))
    told: set[str] = set()
    of_each = Counter(actor["provider"] for actor in actors)
    shown: list[tuple[list[tuple[str, str]], list[tuple[str, str]]]] = []  # of each actor: itself, and its calls
    for actor in actors:
        provider = actor["provider"]
        # Counts are by provider: of two actors of one, the first shows them.
        counted = None if provider in told else one.providers.get(provider)
        own = _actor(actor, counted, is_one_of_several=of_each[provider] > 1)
        shown.append((own, [_call(call) for call in actor["calls"]]))
        told.add(provider)
    checks = [_check(check) for check in one.tree.get("checks", ())]
    if checks:
        checks = [("", ""), ("health checks", "dim"), *checks]
    room = height - len(lines) - len(checks) - sum(len(own) for own, _ in shown)
    for place, (own, calls) in enumerate(shown):
        lines += own
        most = max(room // (len(shown) - place), 0)  # what one actor's calls do not need is for the next
        if len(calls) > most:
            calls = [*calls[: most - 1], (f"  ... {len(calls) - most + 1} more calls", "dim")] if most else []
        lines += calls
        room -= len(calls)
    lines += checks
    if len(lines) > height:
        hidden = len(lines) - height + 1
        lines = [*lines[: height - 1], (f"... {hidden} more lines", "dim")]
    return [(_cut(safe(text).replace("\n", " ").replace("\t", " "), width), style) for text, style in lines]


def _check(check: Mapping[str, Any]) -> tuple[str, str]:
    """One place whose declared check is made."""
    healthy, state, crashes = check["is_healthy"], check["state"], check["crashes"]
    said = "not checked yet" if healthy is None else "there" if healthy else "not there"
    if state != "running":
        said = state if healthy is None else f"{said}, {state}"
    if crashes:
        said += f", {_times(crashes, 'crash')}"
    # What is wrong is read first: an origin may be longer than the line.
    place = f"{_cut(check['provider'], PROVIDER - 3):<{PROVIDER - 2}}{said}  {check['origin']}"
    return f"  {place}", "red" if healthy is False or state != "running" else "yellow" if crashes else ""


def _times(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}es"


def _actor(actor: Mapping[str, Any], counted: Counted | None, *, is_one_of_several: bool) -> list[tuple[str, str]]:
    state = actor["state"]
    numbers = f"{actor['inflight']:>5}{actor['queued']:>6}"
    if counted is not None:
        cost = "  ".join(f"{amount:.4f} {currency}" for currency, amount in sorted(counted.cost.items())) or "-"
        rate = f"{'~' if counted.is_estimated else ''}{counted.tokens_per_s:.1f}"
        numbers += f"{counted.calls:>7}{counted.attempts:>7}{counted.failed:>6}{rate:>8}  {cost}"
    style = "" if state == "running" else "red"
    lines = [(f"{_cut(actor['provider'], PROVIDER - 1):<{PROVIDER}}{state:<{STATE}}{numbers}", style)]
    if is_one_of_several or actor.get("key_number", 1) > 1:
        lines.append((f"  key {actor.get('key_number', 1)} at {actor['origin']}", "dim"))
    if actor["crashes"] or actor["bugs"]:
        lines.append((f"  {_times(actor['crashes'], 'crash')}, bugs in exchanges: {actor['bugs']}", "red"))
    gate = actor.get("gate") or {}
    if gate.get("paused_for_s", 0) > 0:
        lines.append((f"  asked to wait, {gate['paused_for_s']:.1f} s left", "yellow"))
    for breaker in gate.get("breakers", ()):
        when = breaker.get("half_open_in_s")
        again = "" if when is None else f", tried again in {when:.1f} s"
        colour = "red" if breaker["state"] == "open" else "yellow"
        share = f", {breaker['failures']} of {breaker['calls']} failed" if breaker["calls"] else ""
        lines.append((f"  breaker of {breaker['of']} {breaker['state']}{share}{again}", colour))
    for limit in gate.get("limits", ()):
        whole = "" if limit.get("capacity") is None else f" of {limit['capacity']:.0f}"
        lines.append((f"  {limit['of']} left for {limit['scope']}: {limit['level']:.0f}{whole}", "dim"))
    return lines


def _call(call: Mapping[str, Any]) -> tuple[str, str]:
    """One attempt that is open: how old, and of how much time where it has a deadline; its mean rate since the first
    token, with `~` where that is estimated."""
    left, mean = call["deadline_left_s"], call.get("tokens_per_s")
    due = "" if left is None else f" of {call['age_s'] + left:.1f}"
    rate = "" if mean is None else f"{'~' if call['is_estimated'] else ''}{mean:.1f} tok/s"
    text = f"  {call['call']}.{call['attempt']}".ljust(8)
    text += f" {_cut(call['model'], 21):<21} {call['phase']:<10}{call['age_s']:>6.1f}{due} s"
    return f"{text:<57}{call['events']:>6} ev {rate:>13}", "cyan" if call["phase"] == "reading" else ""


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def _time(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
