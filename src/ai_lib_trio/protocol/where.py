"""Where a value of a manifest stands: file and line for every path, kept through merging. And a file that was read.

Imports `errors`. The rule that must stay true: whatever is refused at load names file, line and path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ManifestError

__all__ = ["Document", "Key", "Position", "Where"]

Key = str | int
Position = tuple[str, int]  # file, line (1-based)


class Where:
    """A place in a manifest. `positions` maps paths from the document's root to the place they were written at."""

    __slots__ = ("base", "file", "positions")

    def __init__(
        self,
        file: str = "",
        positions: Mapping[tuple[Key, ...], Position] | None = None,
        base: tuple[Key, ...] = (),
    ) -> None:
        self.file = file
        self.positions = positions or {}
        self.base = base

    def at(self, *keys: Key) -> Where:
        """The place of a part of this value."""
        return Where(self.file, self.positions, self.base + keys)

    def position(self) -> Position | None:
        """File and line of this place, else of the nearest enclosing one that is known."""
        for end in range(len(self.base), -1, -1):
            found = self.positions.get(self.base[:end])
            if found is not None:
                return found
        return None

    @property
    def path(self) -> str:
        """The path as people write it: `decode.rules.text.match`, list elements as `[0]`."""
        out = ""
        for key in self.base:
            out += f"[{key}]" if isinstance(key, int) else (f".{key}" if out else str(key))
        return out

    def error(self, message: str) -> ManifestError:
        """The error that says `message` of this place; the caller raises it."""
        found = self.position()
        file, line = found if found is not None else (self.file, None)
        return ManifestError(message, file=file, line=line, path=self.path)


class Document:
    """One YAML document: its value, and the place of every part of it."""

    __slots__ = ("data", "file", "positions")

    def __init__(self, data: Any, file: str, positions: Mapping[tuple[Key, ...], Position]) -> None:
        self.data = data
        self.file = file
        self.positions = positions

    @property
    def where(self) -> Where:
        """The place of the document's root."""
        return Where(self.file, self.positions)

    def __repr__(self) -> str:
        return f"<Document {self.file} {len(self.positions)} places>"
