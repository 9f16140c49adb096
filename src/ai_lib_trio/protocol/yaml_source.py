"""YAML text becomes plain values with the line of every one of them. One pass over the parser's events.

Imports `errors` and `where`; PyYAML on first use (its C parser where it was built with libyaml, else the pure one).
The rule that must stay true: nothing here runs a constructor. Scalars follow the YAML 1.2 core schema, so `no`, `on`,
dates and `12:30` stay text; duplicate keys are errors; aliases cannot grow a small file into a large value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..errors import ManifestError
from .where import Document, Key, Position, Where

__all__ = ["MAX_DEPTH", "MAX_FILE_BYTES", "MAX_NODES", "read_yaml", "read_yaml_documents"]

# The largest manifest we know of is under 100 KB and 5,000 nodes; the bounds leave room for a registry of thousands
# of models and stop an alias bomb within milliseconds.
MAX_FILE_BYTES = 4 * 1024 * 1024
MAX_NODES = 200_000
MAX_DEPTH = 64  # later stages recurse over values

_TAG = "tag:yaml.org,2002:"
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
# Compiled when the first number is read: what is bundled in a wheel is JSON.
_INTEGER = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_MAX_NUMBER_LETTERS = 320  # the longest exact decimal form a double needs is shorter; int() of more may be slow


def read_yaml(text: str | bytes, file: str) -> Document:
    """The one document of a YAML text; an empty text is the value None.

    Raises `ManifestError` with file and line for text that is not YAML, a second document, duplicate or structured
    keys, tags outside the core schema, and values over the bounds of this module.
    """
    documents = read_yaml_documents(text, file)
    if len(documents) > 1:
        raise ManifestError(f"expected one YAML document, got {len(documents)}", file=file)
    return documents[0] if documents else Document(None, file, {(): (file, 1)})


def read_yaml_documents(text: str | bytes, file: str) -> list[Document]:
    """Every document of a YAML text, in order."""
    if len(text) > MAX_FILE_BYTES:
        raise ManifestError(f"expected at most {MAX_FILE_BYTES} bytes, got {len(text)}", file=file)
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ManifestError("expected UTF-8 text, got bytes that are not", file=file, line=line) from None
    import yaml  # on first use: most programs load one provider, some load none

    try:
        parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
        try:
            return _Composer(parser, yaml, file).documents()
        finally:
            parser.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join((error.problem or error.context or "not YAML").split())
        column = f" (column {mark.column + 1})" if mark else ""
        raise ManifestError(f"not YAML: {said}{column}", file=file, line=mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:  # a character YAML refuses; it has a position and no mark
        said = str(error).strip().splitlines()[0]
        raise ManifestError(f"not YAML: {said}", file=file) from None


class _Anchor:
    """What an alias repeats: the value, how many nodes it stands for, how many levels deep it is."""

    __slots__ = ("levels", "nodes", "value")

    def __init__(self) -> None:
        self.value: Any = None
        self.nodes = 0  # 0 while the value is being read: an alias to it would contain itself
        self.levels = 0


class _Open:
    """A list or mapping that is being read."""

    __slots__ = ("anchor", "before", "key", "levels", "value")

    def __init__(self, value: list[Any] | dict[Any, Any], anchor: _Anchor | None, before: int) -> None:
        self.value = value
        self.anchor = anchor
        self.before = before
        self.levels = 1  # of this value and what it holds
        self.key: Any = _NO_KEY


_NO_KEY = object()


class _Composer:
    def __init__(self, parser: Any, yaml: Any, file: str) -> None:
        self.parser = parser
        self.yaml = yaml
        self.file = file
        self.nodes = 0

    def documents(self) -> list[Document]:
        yaml, found = self.yaml, []
        for event in self._events():
            if isinstance(event, yaml.DocumentStartEvent):
                found.append(self._document())
        return found

    def _events(self) -> Iterator[Any]:
        while self.parser.check_event():
            yield self.parser.get_event()

    def _document(self) -> Document:
        yaml = self.yaml
        positions: dict[tuple[Key, ...], Position] = {}
        anchors: dict[str, _Anchor] = {}
        stack: list[_Open] = []
        path: list[Key] = []
        root: Any = None
        for event in self._events():
            if isinstance(event, yaml.DocumentEndEvent):
                break
            line = event.start_mark.line + 1
            if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                done = stack.pop()
                if done.anchor is not None:
                    done.anchor.nodes, done.anchor.levels = self.nodes - done.before, done.levels
                if stack:
                    stack[-1].levels = max(stack[-1].levels, done.levels + 1)
                if path:
                    path.pop()
                continue
            top = stack[-1] if stack else None
            if top is not None and isinstance(top.value, dict) and top.key is _NO_KEY:
                top.key = self._key(event, top.value, path, positions, line)
                continue
            # From here on the event is a value; its place is the key's line in a mapping, its own elsewhere.
            if top is not None:
                path.append(top.key if isinstance(top.value, dict) else len(top.value))
            here = tuple(path)
            positions.setdefault(here, (self.file, line))
            self._count(1, here, positions)
            opened: _Open | None = None
            if isinstance(event, yaml.AliasEvent):
                known = self._aliased(event, anchors, here, positions)
                value = known.value
                if len(stack) + known.levels > MAX_DEPTH:
                    raise self._error(f"expected at most {MAX_DEPTH} levels, got more", here, positions)
                if top is not None:
                    top.levels = max(top.levels, known.levels + 1)
            elif isinstance(event, yaml.ScalarEvent):
                value = self._scalar(event, here, positions)
                if event.anchor is not None:
                    anchors[event.anchor] = anchor = _Anchor()
                    anchor.value, anchor.nodes = value, 1
            else:
                value = {} if isinstance(event, yaml.MappingStartEvent) else []
                if event.tag not in (None, "!", _TAG + "map", _TAG + "seq"):
                    raise self._error(f"expected a tag of the core schema, got {event.tag!r}", here, positions)
                remembered = None
                if event.anchor is not None:
                    anchors[event.anchor] = remembered = _Anchor()
                    remembered.value = value
                opened = _Open(value, remembered, self.nodes - 1)
            if top is None:
                root = value
            elif isinstance(top.value, dict):
                top.value[top.key] = value
                top.key = _NO_KEY
            else:
                top.value.append(value)
            if opened is not None:
                if len(stack) >= MAX_DEPTH:
                    raise self._error(f"expected at most {MAX_DEPTH} levels, got more", here, positions)
                stack.append(opened)
            elif path:
                path.pop()
        return Document(root, self.file, positions)

    def _key(
        self,
        event: Any,
        into: dict[Any, Any],
        path: list[Key],
        positions: dict[tuple[Key, ...], Position],
        line: int,
    ) -> Any:
        here = tuple(path)
        if not isinstance(event, self.yaml.ScalarEvent):
            raise ManifestError("expected a key that is text or a number", file=self.file, line=line)
        key = self._scalar(event, here, positions)
        if key is None:
            key = event.value or "null"  # tables of the specification write `null: other`
        place = (*here, key)
        if key in into:
            first = positions.get(place)
            also = f", also in line {first[1]}" if first else ""
            at = Where(self.file, positions, here).path
            raise ManifestError(f"duplicate key {event.value!r}{also}", file=self.file, line=line, path=at)
        positions[place] = (self.file, line)
        return key

    def _aliased(
        self, event: Any, anchors: dict[str, _Anchor], here: tuple[Key, ...], positions: dict[tuple[Key, ...], Position]
    ) -> _Anchor:
        anchor = anchors.get(event.anchor)
        if anchor is None:
            raise self._error(f"expected a known anchor, got *{event.anchor}", here, positions)
        if not anchor.nodes:
            raise self._error(f"the alias *{event.anchor} contains itself", here, positions)
        self._count(anchor.nodes - 1, here, positions)
        return anchor

    def _count(self, nodes: int, here: tuple[Key, ...], positions: dict[tuple[Key, ...], Position]) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise self._error(
                f"expected at most {MAX_NODES} values with aliases written out, got more", here, positions
            )

    def _scalar(self, event: Any, here: tuple[Key, ...], positions: dict[tuple[Key, ...], Position]) -> Any:
        text: str = event.value
        tag = event.tag
        if tag is None or tag == "!":
            if tag == "!" or not event.implicit[0]:  # quoted, block, or the tag that says so: text
                return text
            return self._plain(text, here, positions)
        kind = tag[len(_TAG) :] if tag.startswith(_TAG) else tag
        if kind == "str":
            return text
        if kind in ("null", "bool", "int", "float"):
            value = self._plain(text, here, positions)
            fits = {
                "null": value is None,
                "bool": isinstance(value, bool),
                "int": type(value) is int,
                "float": type(value) in (int, float),
            }
            if fits[kind]:
                return float(value) if kind == "float" else value
        raise self._error(f"expected a value and tag of the core schema, got {tag!r} on {text[:40]!r}", here, positions)

    def _plain(self, text: str, here: tuple[Key, ...], positions: dict[tuple[Key, ...], Position]) -> Any:
        first = text[:1]
        if first.isalpha() or not first:
            if text in _NULLS:
                return None
            return _BOOLEANS.get(text, text)
        if text == "~":
            return None
        if first in "0123456789+-." and first.isascii():
            if len(text) > _MAX_NUMBER_LETTERS and (re.fullmatch(_INTEGER, text) or re.fullmatch(_FLOAT, text)):
                raise self._error(f"expected a number of at most {_MAX_NUMBER_LETTERS} letters", here, positions)
            if re.fullmatch(_INTEGER, text):
                base = {"0o": 8, "0x": 16}.get(text[:2], 10)
                return int(text, base)
            if re.fullmatch(_FLOAT, text):
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return text

    def _error(self, message: str, here: tuple[Key, ...], positions: dict[tuple[Key, ...], Position]) -> ManifestError:
        return Where(self.file, positions, here).error(message)
