"""How the demo is shown: in colour and moving on a terminal, as lines elsewhere, or not at all for `--json`.

Imports rich on first use. The rule that must stay true: a stage shows what it is given and decides nothing.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .screen import Printer, console_for, print_table

__all__ = ["Gauge", "Stage"]

REDRAW_S = 0.05  # twenty pictures a second look like movement; drawing each change would be most of the work


class Gauge:
    """How much of something there is, shown while it changes."""

    def show(self, done: int, said: str) -> None:
        """So much of the total, and a word on it."""


class _Bar(Gauge):
    """A gauge on a terminal. Drawn when it is told something: no thread of its own draws it."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress = progress
        self._task = task
        self._drawn_at = -math.inf

    def show(self, done: int, said: str) -> None:
        now = time.monotonic()
        is_due = now - self._drawn_at >= REDRAW_S
        self._progress.update(self._task, completed=done, said=said, refresh=is_due)
        if is_due:
            self._drawn_at = now


class Stage:
    """Where the demo plays. `quiet` shows nothing."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._out = Printer(sys.stdout)
        self._console = None if quiet else console_for(sys.stdout)

    def opening(self, title: str, lines: Sequence[str]) -> None:
        if self._quiet:
            return
        if self._console is None:
            for line in (title, *lines):
                self._out.line(line)
            return
        from rich.panel import Panel
        from rich.text import Text

        self._console.print(Panel(Text("\n".join(lines)), title=title, title_align="left", border_style="cyan"))

    def scene(self, title: str) -> None:
        if self._quiet:
            return
        self._out.end_line()
        if self._console is None:
            self._out.line(f"\n== {title}")
            return
        self._out.line()
        self._console.rule(f"[bold]{title}", align="left", style="cyan")

    def piece(self, text: str, style: str = "text") -> None:
        """A piece of running text, out at once."""
        if not self._quiet:
            self._out.write(text, style)

    def line(self, text: str = "", style: str = "text") -> None:
        if not self._quiet:
            self._out.line(text, style)

    def start_line(self) -> None:
        """Go to the start of a line, where we are not there."""
        if not self._quiet:
            self._out.end_line()

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
        if self._quiet:
            return
        self._out.end_line()
        print_table(columns, rows, right=right)

    def verdict(self, claim: str, is_true: bool) -> None:
        """A claim, and whether the check of it held."""
        if self._quiet:
            return
        self._out.end_line()
        self._out.write("  checked: " if is_true else "  NOT TRUE: ", "good" if is_true else "bad")
        self._out.write(claim + "\n")

    @contextmanager
    def gauge(self, label: str, total: int) -> Iterator[Gauge]:
        """A gauge for the time of the block; nothing is shown where it could not move."""
        if self._console is None:
            yield Gauge()
            return
        from rich.progress import BarColumn, Progress, TextColumn

        self._out.end_line()
        columns = (TextColumn(label), BarColumn(bar_width=30), TextColumn("{task.fields[said]}"))
        with Progress(*columns, console=self._console, auto_refresh=False) as progress:
            yield _Bar(progress, progress.add_task(label, total=total, said=""))
