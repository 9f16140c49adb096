"""What commands write: tables, lines and running text, for a terminal or for whatever reads a pipe.

Imports rich on first use, for terminals alone. The rule that must stay true: text from outside never moves a
terminal's cursor or changes its state, and a pipe gets plain lines with one fact each.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from ..errors import AiLibError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Printer", "as_json", "console_for", "one_line", "print_table", "safe"]

# C0 and C1 controls but tab and newline, and the marks that turn the direction of text around: a reply is shown, and
# does not act on the terminal that shows it.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")

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

    `right` names the columns that are set to the right.
    """
    console = console_for(sys.stdout)
    if console is None:
        for row in rows:
            sys.stdout.write("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row) + "\n")
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(safe(cell)) for cell in row))
    console.print(table)


class Printer:
    """Running text in styles on a terminal, plain elsewhere. Each piece is out before the call returns.

    On a terminal control characters of the text are shown and not obeyed; a pipe gets the text as it is.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        console = console_for(stream)
        self.is_terminal = console is not None
        self._has_colour = console is not None and console.color_system is not None
        self.at_line_start = True

    def write(self, text: str, style: str = "text") -> None:
        if not text:
            return
        shown = safe(text) if self.is_terminal else text
        codes = _STYLES[style] if self._has_colour else ""
        self._stream.write(f"\x1b[{codes}m{shown}\x1b[0m" if codes else shown)
        self._stream.flush()
        self.at_line_start = text.endswith("\n")

    def line(self, text: str = "", style: str = "text") -> None:
        """A whole line, on a line of its own."""
        self.end_line()
        self.write(text, style)
        self.write("\n")

    def end_line(self) -> None:
        """Go to the start of a line, where we are not there."""
        if not self.at_line_start:
            self.write("\n")
