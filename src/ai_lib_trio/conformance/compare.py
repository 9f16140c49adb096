"""What a case expects against what came out: every difference with its path.

Imports nothing of ours. The rule that must stay true: a field of the case that nothing reads is a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

__all__ = ["Check", "Difference", "contains", "each_in", "none_in", "same", "within"]


class Difference(NamedTuple):
    """One thing that is not as expected. `path` is inside `expected`, dotted."""

    path: str
    expected: Any
    got: Any

    def __str__(self) -> str:
        return f"{self.path}: expected {_short(self.expected)}, got {_short(self.got)}"


class Check:
    """How one field of `expected` is compared, where being equal is not what it means."""

    __slots__ = ("differs",)

    def __init__(self, differs: Callable[[Any, str], Iterable[Difference]]) -> None:
        self.differs = differs


def same(expected: Any, got: Any, path: str) -> list[Difference]:
    """Differences of two JSON values. `1` equals `1.0`, and `true` is no number."""
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        found: list[Difference] = []
        for key in {**expected, **got}:
            found += same(expected.get(key, _MISSING), got.get(key, _MISSING), f"{path}.{key}")
        return found
    if isinstance(expected, list | tuple) and isinstance(got, list | tuple) and len(expected) == len(got):
        return [one for at, pair in enumerate(zip(expected, got, strict=True)) for one in same(*pair, f"{path}.{at}")]
    if isinstance(expected, bool) or isinstance(got, bool):
        return [] if expected is got else [Difference(path, expected, got)]
    return [] if expected == got else [Difference(path, expected, got)]


def contains(got: Any) -> Check:
    """What is expected stands in it, perhaps beside more: the keys of objects, the items of lists in order."""
    return Check(lambda expected, path: _contained(expected, got, path))


def _contained(expected: Any, got: Any, path: str) -> list[Difference]:
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        found: list[Difference] = []
        for key, value in expected.items():
            found += _contained(value, got.get(key, _MISSING), f"{path}.{key}")
        return found
    if isinstance(expected, list) and isinstance(got, list):
        at = 0
        for number, value in enumerate(expected):
            while at < len(got) and _contained(value, got[at], path):
                at += 1
            if at == len(got):
                return [Difference(f"{path}.{number}", value, _MISSING)]
            at += 1
        return []
    return same(expected, got, path)


def within(got: float | None) -> Check:
    """A number between `min` and `max`."""

    def differs(expected: Any, path: str) -> Iterable[Difference]:
        if not isinstance(expected, Mapping) or not set(expected) <= {"min", "max"}:
            yield Difference(path, "min and max", expected)
        elif got is None or not expected.get("min", got) <= got <= expected.get("max", got):
            yield Difference(path, expected, got)

    return Check(differs)


def each_in(got: str, texts: Callable[[str], str] = str) -> Check:
    """Every text stands in it."""
    return Check(lambda expected, path: [Difference(path, one, got) for one in expected if one not in got])


def none_in(got: str) -> Check:
    """No text stands in it. What is found is not shown: it may be a key."""
    return Check(
        lambda expected, path: [
            Difference(path, "a text without it", "a text with it") for one in expected if one in got
        ]
    )


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING: Any = _Missing()


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else text[:297] + "..."
