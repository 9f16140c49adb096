"""A manifest on its way from a version of the specification to our own shape: what was read, made and said so far.

Imports `dialects`, `tree`, `where`, `yaml_source`. The rule that must stay true: every value that is put into the
result keeps the place it was written at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .dialects import Dialect
from .tree import kind_of
from .where import Document, Key, Position, Where

__all__ = ["RENAMED", "Draft", "Promotion", "is_chat", "mapping_of"]

# Standard parameters that a file may rename. What has a structure of its own (tools, messages, ...) is the dialect's.
RENAMED = (
    "temperature", "max_tokens", "top_p", "top_k", "stop_sequences", "seed", "n", "presence_penalty",
    "frequency_penalty", "logprobs", "top_logprobs", "reasoning_effort", "parallel_tool_calls", "metadata",
)  # fmt: skip


class Promotion(msgspec.Struct, frozen=True):
    """What promotion looks things up in: the dialects, and the words of manifests/spec.yaml."""

    dialect_of: Callable[[str], Dialect | None]
    dialects: Callable[[], list[Dialect]]
    words: Mapping[str, Any]  # spec.yaml, `promotion`
    corrections: list[Any]  # spec.yaml, `corrections`


class Draft:
    """One file. `tree` is what it says, `out` the result, `positions` the places of its parts, `notes` what was done.

    `seen` are keys at the top that somebody looked at.
    """

    def __init__(self, document: Document, known: Promotion) -> None:
        self.known = known
        self.where = document.where
        self.positions: dict[tuple[Key, ...], Position] = {}
        self.out: dict[str, Any] = {}
        self.notes: list[str] = []
        self.seen: set[str] = set()
        tree: dict[str, Any] = dict(document.data)
        self.moved: dict[str, tuple[Key, ...]] = {key: (key,) for key in tree}
        core = tree.pop("core", None)
        if isinstance(core, dict):  # an older shape of version 2
            for key, value in core.items():
                if key not in tree:
                    tree[key], self.moved[key] = value, ("core", key)
        self.tree = tree

    def at(self, *path: Key) -> Where:
        head = self.moved.get(str(path[0]), (path[0],)) if path else ()
        return self.where.at(*head, *path[1:])

    def note(self, where: Where, message: str) -> None:
        self.notes.append(where.error(message).message)

    def put(self, path: tuple[Key, ...], value: Any, source: Where | None = None) -> None:
        """Set a value of the result, with the place (and, where it is copied, the inner places) of its source."""
        into: dict[Any, Any] = self.out
        for key in path[:-1]:
            into = into.setdefault(key, {})
        into[path[-1]] = value
        place = source.position() if source is not None else None
        if source is None or place is None:
            return
        self.positions[path] = place
        size = len(source.base)
        for inner, at in source.positions.items():
            if len(inner) > size and inner[:size] == source.base:
                self.positions[path + inner[size:]] = at

    def mapping(self, key: str) -> dict[str, Any]:
        """The mapping at a top-level key; {} where there is none or something else."""
        self.seen.add(key)
        value = self.tree.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.note(self.at(key), f"expected a mapping, got {kind_of(value)}; it has no effect")
            return {}
        return value

    def text(self, tree: Mapping[str, Any], key: str, where: Where) -> str | None:
        value = tree.get(key)
        if value is None or isinstance(value, str):
            return value or None
        raise where.at(key).error(f"expected text, got {kind_of(value)}")


def is_chat(name: str) -> bool:
    """Whether an operation of this name asks for a chat."""
    return name != "stream_chat" and re.search(r"(^|_)chat($|_)", name) is not None


def mapping_of(value: Any) -> dict[str, Any]:
    """The mapping, or {} where it is something else: a foreign file may hold anything at any place."""
    return value if isinstance(value, dict) else {}
