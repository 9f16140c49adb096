"""Raw trees of manifests: merging one over another, and reading one field by field with errors that say where.

Imports `where`. The rule that must stay true: a merge keeps for every value the file and line it was written at, and
a value of the wrong type is refused with what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from .where import Key, Position, Where

__all__ = ["Reader", "kind_of", "likely", "merge", "misspelt", "nearest", "suggestion", "without_nulls"]

Positions = Mapping[tuple[Key, ...], Position]
_T = TypeVar("_T", bound=str)


def merge(
    base: Mapping[Any, Any], over: Mapping[Any, Any], base_where: Where, over_where: Where
) -> tuple[dict[Any, Any], dict[tuple[Key, ...], Position]]:
    """`over` laid over `base`: maps merge, lists and scalars replace, null removes, another operator replaces.

    Gives the tree and the positions of its parts, counted from its own root. Neither argument changes; parts that
    only one of them has are shared with it.
    """
    positions: dict[tuple[Key, ...], Position] = {}
    return _merge(base, over, base_where, over_where, (), positions), positions


def _merge(
    base: Mapping[Any, Any],
    over: Mapping[Any, Any],
    base_where: Where,
    over_where: Where,
    path: tuple[Key, ...],
    positions: dict[tuple[Key, ...], Position],
) -> dict[Any, Any]:
    at = base_where.position() or over_where.position()
    if at is not None:
        positions[path] = at
    merged: dict[Any, Any] = {}
    for key, value in base.items():
        here = (*path, key)
        if key not in over:
            merged[key] = value
            _copy_positions(value, base_where.at(key), here, positions)
            continue
        other = over[key]
        if isinstance(value, Mapping) and isinstance(other, Mapping) and _merges(value, other):
            merged[key] = _merge(value, other, base_where.at(key), over_where.at(key), here, positions)
        elif other is not None:
            merged[key] = without_nulls(other)
            _copy_positions(other, over_where.at(key), here, positions)
    for key, value in over.items():
        if key not in base and value is not None:
            merged[key] = without_nulls(value)
            _copy_positions(value, over_where.at(key), (*path, key), positions)
    return merged


def _merges(value: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Whether two maps are one thing said twice: another operator (`$op`) is another thing and replaces."""
    operators = {key for key in other if isinstance(key, str) and key.startswith("$")}
    return not operators or operators == {key for key in value if isinstance(key, str) and key.startswith("$")}


def without_nulls(value: Any) -> Any:
    """What remains of an override where there is nothing to override: a null removes a key that is not there."""
    if isinstance(value, Mapping) and not any(isinstance(key, str) and key.startswith("$") for key in value):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return value


def _copy_positions(
    value: Any, where: Where, path: tuple[Key, ...], positions: dict[tuple[Key, ...], Position]
) -> None:
    if not where.positions:
        return  # read from dist
    at = where.positions.get(where.base)
    if at is not None:
        positions[path] = at
    if isinstance(value, Mapping):
        for key, part in value.items():
            _copy_positions(part, where.at(key), (*path, key), positions)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            _copy_positions(part, where.at(number), (*path, number), positions)


def kind_of(value: Any) -> str:
    """A value as an error message names it: its kind, and a short look at it where it is small."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value!r}" if len(value) <= 40 else f"the text {value[:40]!r}..."
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, Sequence):
        return "a list"
    return type(value).__name__


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """At most three known names that look like `name`, best first."""
    import difflib  # only when something is wrong

    by_folded = {candidate.lower(): candidate for candidate in sorted(known, reverse=True)}
    found = difflib.get_close_matches(name.lower(), list(by_folded), n=3, cutoff=0.6)
    return [by_folded[candidate] for candidate in found]


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: `; did you mean 'x'?`, what is known, or nothing."""
    names = sorted(set(known))
    if close := likely(name, names):
        return close
    if 0 < len(names) <= 12:
        return f"; known: {', '.join(names)}"
    return ""


def likely(name: str, known: Iterable[str]) -> str:
    """The end of a message that lists what is known: `; did you mean 'x'?`, or nothing."""
    close = nearest(name, known)
    return f"; did you mean {' or '.join(repr(one) for one in close)}?" if close else ""


def misspelt(name: str, given: Iterable[str]) -> str:
    """The end of a message about a name that is missing: which of those given may be meant to be it, or nothing."""
    close = nearest(name, given)
    return f"; is {close[0]!r} meant to be it?" if close else ""


class Reader:
    """A mapping of a manifest, read field by field; `close` then looks at the keys that nobody read.

    A null counts as absent. With `strict`, an unknown key is an error; without, it is a line in `notes`. Every method
    raises `ManifestError` with file, line and path for a value of another type than it promises.
    """

    def __init__(self, value: Any, where: Where, *, strict: bool, notes: list[str]) -> None:
        if not isinstance(value, Mapping):
            raise where.error(f"expected a mapping, got {kind_of(value)}")
        self.value = value
        self.where = where
        self.strict = strict
        self.notes = notes
        self._read: set[Any] = set()

    def raw(self, key: str) -> Any:
        """The value as it stands, or None."""
        self._read.add(key)
        return self.value.get(key)

    def text(self, key: str) -> str | None:
        value = self.raw(key)
        if value is None or isinstance(value, str):
            return value
        if not self.strict and isinstance(value, (int, float)) and not isinstance(value, bool):
            return str(value)  # `protocol_version: 2.0`
        raise self._expected("text", key, value)

    def need_text(self, key: str) -> str:
        value = self.text(key)
        if not value or not value.strip():
            typo = "" if key in self.value else misspelt(key, map(str, self.value))
            raise self.where.error(
                f"expected {key!r} as text that is not empty, got {kind_of(self.value.get(key))}{typo}"
            )
        return value

    def choice(self, key: str, allowed: Sequence[_T], default: _T) -> _T:
        value = self.text(key)
        if value is None:
            return default
        for one in allowed:
            if value == one:
                return one
        raise self.where.at(key).error(
            f"expected one of {', '.join(allowed)}, got {kind_of(value)}{likely(value, allowed)}"
        )

    def flag(self, key: str, default: bool) -> bool:
        value = self.raw(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._expected("true or false", key, value)
        return value

    def integer(self, key: str, default: int, *, least: int = 0) -> int:
        value = self.raw(key)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._expected(f"an integer of at least {least}", key, value)
        return value

    def number(self, key: str) -> float | None:
        value = self.raw(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._expected("a number", key, value)
        return float(value)

    def items(self, key: str) -> list[Any]:
        value = self.raw(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._expected("a list", key, value)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        for number, one in enumerate(values := self.items(key)):
            if not isinstance(one, str):
                raise self.where.at(key, number).error(f"expected text, got {kind_of(one)}")
        return tuple(values)

    def integers(self, key: str) -> tuple[int, ...]:
        for number, one in enumerate(values := self.items(key)):
            if not isinstance(one, int) or isinstance(one, bool):
                raise self.where.at(key, number).error(f"expected an integer, got {kind_of(one)}")
        return tuple(values)

    def tree(self, key: str) -> dict[Any, Any]:
        """A mapping whose meaning is read elsewhere; {} where there is none."""
        value = self.raw(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._expected("a mapping", key, value)
        return value

    def text_map(self, key: str) -> dict[str, str]:
        found: dict[str, str] = {}
        for name, value in self.tree(key).items():
            if not isinstance(value, str):
                raise self.where.at(key, name).error(f"expected text, got {kind_of(value)}")
            found[str(name)] = value
        return found

    def child(self, key: str) -> Reader | None:
        """A reader of the mapping at `key`, or None where there is none."""
        value = self.raw(key)
        if value is None:
            return None
        return Reader(value, self.where.at(key), strict=self.strict, notes=self.notes)

    def refuse(self, key: str, message: str) -> None:
        """A fault that only strictness makes an error: raised then, else noted."""
        error = self.where.at(key).error(message)
        if self.strict:
            raise error
        self.notes.append(error.message)

    def close(self) -> None:
        """Look at the keys that nobody read. Call it after the last field."""
        for key in self.value:
            if key in self._read:
                continue
            known = suggestion(str(key), self._read)
            if self.strict:
                raise self.where.at(key).error(f"unknown key {key!r}{known}")
            self.notes.append(self.where.at(key).error(f"unknown key {key!r} has no effect").message)

    def _expected(self, what: str, key: str, value: Any) -> Exception:
        return self.where.at(key).error(f"expected {what}, got {kind_of(value)}")
