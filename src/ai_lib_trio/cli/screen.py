"""What commands write: tables, lines and running text, for a terminal or for whatever reads a pipe.

Imports rich on first use, for terminals alone. The rule that must stay true: text from outside never moves a
terminal's cursor or changes its state, and a pipe gets plain lines with one fact each.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TextIO

from ..errors import AiLibError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Printer", "as_json", "console_for", "one_line", "print_nothing_found", "print_table", "safe"]

# C0 and C1 controls but tab and newline, and the marks that turn the direction of text around: a reply is shown, and
# does not act on the terminal that shows it.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

_WHOLE_WORD = 24  # characters: a variable's name, a dialect's and a provider's fit side by side into 80 columns

# What a terminal does for each style (ECMA-48, SGR): dim, italic, colours, bold.
_STYLES = {"text": "", "thinking": "2;3", "tool": "36", "note": "2", "good": "32", "bad": "31;1", "title": "1"}


def safe(text: str) -> str:
    """The text with everything that acts on a terminal made visible."""
    return _ACTING.sub(lambda match: f"\\x{ord(match.group()):02x}", text.replace("\r\n", "\n"))


def one_line(error: AiLibError) -> str:
    """The error as one line that begins with its code, then what happened."""
    return safe(" ".join(str(error).split()))[:2000]


def as_json(value: Any, *, indent: int | None = 2) -> str:
    """The value as JSON: indented for people who look at it anyway, or with `indent=None` as one line."""
    import msgspec

    text = msgspec.json.encode(value)
    return (text if indent is None else msgspec.json.format(text, indent=indent)).decode()


def console_for(stream: TextIO) -> Console | None:
    """A rich console where the stream is a terminal that can show one, else None."""
    if not stream.isatty():
        return None
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    return None if console.is_dumb_terminal else console


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table on a terminal; elsewhere a line for each row, its cells apart by tabs, without a head.

    `right` names the columns that are set to the right. A word is broken only where it is longer than a narrow
    terminal has room for.
    """
    console = console_for(sys.stdout)
    if console is None:
        for row in rows:
            sys.stdout.write("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row) + "\n")
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, header_style="bold")
    for column, width in zip(columns, _widths(columns, rows, console.width), strict=True):
        side: Literal["left", "right"] = "right" if column in right else "left"
        table.add_column(column, justify=side, overflow="fold", width=width)
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in row))
    console.print(table)


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]], room: int) -> list[int | None]:
    """How wide each column is where all of them are too wide: enough for its words first, then for its cells."""
    cells = [[column, *(row[place] for row in rows)] for place, column in enumerate(columns)]
    wanted = [max(map(len, column)) for column in cells]
    widths = [min(_WHOLE_WORD, max(len(word) for cell in column for word in cell.split() or [""])) for column in cells]
    left = room - 2 * (len(columns) - 1) - sum(widths)
    if sum(wanted) - sum(widths) <= left or left < 0:
        return [None] * len(columns)
    for done, place in enumerate(sorted(range(len(columns)), key=lambda place: wanted[place] - widths[place])):
        more = min(wanted[place] - widths[place], left // (len(columns) - done))
        widths[place] += more
        left -= more
    return [*widths]


def print_nothing_found(what: str, hints: Sequence[str]) -> None:
    """Tell people that nothing fits, on stderr, so that what reads the list still reads an empty one."""
    sys.stderr.write(safe(f"no {what}{''.join(hints)}") + "\n")


class Printer:
    """Running text in styles on a terminal, plain elsewhere. Each piece is out before the call returns.

    On a terminal control characters of the text are shown and not obeyed; a pipe gets the text as it is.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        console = console_for(stream)
        self.is_terminal = console is not None
        self._width = None if console is None else console.width
        # NO_COLOR is an agreement of many programs: https://no-color.org (read 2026-11-28)
        self._has_colour = console is not None and console.color_system is not None and not console.no_color
        self.at_line_start = True

    def write(self, text: str, style: str = "text") -> None:
        if not text:
            return
        shown = safe(text) if self.is_terminal else text
        codes = _STYLES[style] if self._has_colour else ""
        self._stream.write(f"\x1b[{codes}m{shown}\x1b[0m" if codes else shown)
        self._stream.flush()
        self.at_line_start = text.endswith("\n")

    def line(self, text: str = "", style: str = "text", *, hang: int | None = None) -> None:
        """A whole line, on a line of its own. With `hang` a terminal breaks it between words, and the lines after the
        first begin so many columns in."""
        self.end_line()
        if hang is not None and self._width is not None:
            import textwrap

            indent = " " * hang
            text = textwrap.fill(
                text, self._width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
            )
        self.write(text, style)
        self.write("\n")

    def end_line(self) -> None:
        """Go to the start of a line, where we are not there."""
        if not self.at_line_start:
            self.write("\n")
