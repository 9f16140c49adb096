"""A path in a manifest becomes a getter over JSON values.

    path = "$" [name] { "." key | "." digits | "[" digits "]" | "['key']" | "[*]" } | "$" name "#"

Imports `where`; jsonpath-ng only when a path holds what this grammar cannot express (`..`, filters, slices).
The rule that must stay true: absent, JSON null and a wrong shape on the way are all *nothing*, which is None here;
`""`, `{}`, `[]`, 0 and false are something.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .where import Where

__all__ = [
    "WILD",
    "Path",
    "Step",
    "Wild",
    "compile_query",
    "compile_steps",
    "is_path",
    "parse_path",
    "read_path",
    "scope_getter",
    "unescape",
]


class Wild:
    """The step `[*]`: every element of a list. There is one, `WILD`."""

    def __repr__(self) -> str:
        return "[*]"


WILD = Wild()
Step = str | int | Wild
Getter = Callable[[Any], Any]


class Path(msgspec.Struct, frozen=True):
    """A parsed path. `root` is "" for `$` (the request or frame), else the bound name after it.

    `position` is set for `$x#`, the place of a list element. `query` is set instead of `steps` where the path needs
    jsonpath-ng; it is JSONPath text from `$` on, applied to the root's value.
    """

    root: str
    steps: tuple[Step, ...] = ()
    position: bool = False
    query: str = ""

    @property
    def is_wild(self) -> bool:
        """Whether the path names many values: legal in conditions, where any of them may satisfy."""
        return bool(self.query) or WILD in self.steps

    def __str__(self) -> str:
        if self.position:
            return f"${self.root}#"
        out = "$" + self.root
        for step in self.steps:
            if step is WILD:
                out += "[*]"
            elif isinstance(step, int):
                out += f"[{step}]"
            else:
                out += f".{step}" if _KEY.fullmatch(str(step)) else f".'{step}'"
        return out + self.query[1:]


_NAME = re.compile(r"[A-Za-z_]\w*")
_KEY = re.compile(r"[A-Za-z_][\w-]*")
_DIGITS = re.compile(r"\d{1,9}(?!\d)", re.ASCII)
MAX_QUERY = 200  # characters
MAX_STEPS = 64  # as deep as a manifest itself may be; readers go down step by step


def is_path(value: object) -> bool:
    """Whether a YAML scalar is a path: text that begins with `$`, but not with `$$`."""
    return isinstance(value, str) and value.startswith("$") and not value.startswith("$$")


def unescape(text: str) -> str:
    """A literal text as meant: `$$x` is `$x`."""
    return text[1:] if text.startswith("$$") else text


def parse_path(text: str, where: Where, *, relative: str | None = None) -> Path:
    """The path that `text` is, all of it. Raises ManifestError with the column of the first thing that is wrong.

    `relative` is the name that a path without `$` (or with `@`) starts at, as the filters of older manifests
    write them; without it such a path is refused.
    """
    path, end = read_path(text, _spaces(text, 0), where, relative=relative)
    end = _spaces(text, end)
    if end != len(text):
        raise refuse(where, text, end, "expected '.', '[' or the end of the path")
    return path


def read_path(text: str, at: int, where: Where, *, relative: str | None = None) -> tuple[Path, int]:
    """The path that begins at column `at` (0-based) and the column after it."""
    start = at
    steps: list[Step] = []
    if text.startswith("$", at):
        at += 1
        name = _NAME.match(text, at)
        root = name.group() if name else ""
        at += len(root)
        if root and text.startswith("#", at):
            return Path(root, (), True), at + 1
    elif relative is not None and text.startswith("@", at):
        root, at = relative, at + 1
    elif relative is not None and (first := _KEY.match(text, at)):
        root, at = relative, first.end()
        steps.append(first.group())
    else:
        raise refuse(where, text, at, "expected a path that begins with '$'")
    body = at
    while at < len(text):
        if text.startswith("..", at) or text.startswith("[?", at) or _SLICE.match(text, at):
            end = _query_end(text, at, where)
            query = "$" + "".join(_as_query(step) for step in steps) + text[at:end]
            _check_query(query, where, text, start)
            return Path(root, (), False, query), end
        if text[at] == ".":
            step, at = _dotted(text, at + 1, where)
        elif text[at] == "[":
            step, at = _bracketed(text, at + 1, where)
        elif text[at] == "#" and root and at == body:
            raise refuse(where, text, at, "expected '#' right after a bound name")
        else:
            break
        if len(steps) == MAX_STEPS:
            raise refuse(where, text, start, f"expected a path of at most {MAX_STEPS} steps")
        steps.append(step)
    return Path(root, tuple(steps)), at


_SLICE = re.compile(r"\[\s*(?:-\s*\d|\d*\s*:)")


def _dotted(text: str, at: int, where: Where) -> tuple[Step, int]:
    if digits := _DIGITS.match(text, at):
        return int(digits.group()), digits.end()
    if key := _KEY.match(text, at):
        return key.group(), key.end()
    if (quoted := _quoted(text, at)) is not None:
        return quoted, at + len(quoted) + 2
    raise refuse(where, text, at, "expected a key, a quoted key or an index after '.'")


def _bracketed(text: str, at: int, where: Where) -> tuple[Step, int]:
    at = _spaces(text, at)
    step: Step
    if text.startswith("*", at):
        step, at = WILD, at + 1
    elif digits := _DIGITS.match(text, at):
        step, at = int(digits.group()), digits.end()
    elif (quoted := _quoted(text, at)) is not None:
        step, at = quoted, at + len(quoted) + 2
    else:
        raise refuse(where, text, at, "expected an index, a quoted key, '*' or a filter after '['")
    at = _spaces(text, at)
    if not text.startswith("]", at):
        raise refuse(where, text, at, "expected ']'")
    return step, at + 1


def _query_end(text: str, at: int, where: Where) -> int:
    """Where a JSONPath tail ends: at a space or operator outside brackets, or a closing bracket that is not its own."""
    depth = 0
    while at < len(text):
        char = text[at]
        if char in "'\"":
            close = text.find(char, at + 1)
            if close < 0:
                raise refuse(where, text, at, f"expected a closing {char}")
            at = close
        elif char in "[(":
            depth += 1
        elif char in "])":
            if depth == 0:
                break
            depth -= 1
        elif depth == 0 and char in " \t=!<>&|,":
            break
        at += 1
    if depth:
        raise refuse(where, text, at, "expected ']'")
    return at


def _as_query(step: Step) -> str:
    if step is WILD:
        return "[*]"
    return f"[{step}]" if isinstance(step, int) else f".'{step}'"


def _check_query(query: str, where: Where, text: str, at: int) -> None:
    from jsonpath_ng.exceptions import JSONPathError

    if len(query) > MAX_QUERY:
        raise refuse(where, text, at, f"expected a JSONPath expression of at most {MAX_QUERY} characters")
    # Quoted texts apart: each `..` goes through all that is below, once for everything that the one before it found,
    # and the pattern of a `=~` is run as it is.
    plain = re.sub(r"'[^']*'|\"[^\"]*\"", "", query)
    if plain.count("..") > 1:
        raise refuse(where, text, at, "expected `..` once at most in a path")
    if "=~" in plain:
        raise refuse(where, text, at, "expected a filter without a pattern (=~)")
    try:
        compile_query(query)
    except JSONPathError as error:
        raise refuse(where, text, at, f"expected a JSONPath expression that jsonpath-ng reads ({error})") from error


def _spaces(text: str, at: int) -> int:
    while text.startswith((" ", "\t"), at):
        at += 1
    return at


def _quoted(text: str, at: int) -> str | None:
    """What stands between the quotes that open at `at`; None where none do, or none close."""
    if not text.startswith(("'", '"'), at):
        return None
    end = text.find(text[at], at + 1)
    return None if end < 0 else text[at + 1 : end]


def refuse(where: Where, text: str, at: int, message: str) -> Exception:
    """The load error that points at a column of an expression (1-based, as editors count)."""
    got = f"{text[at : at + 12]!r}" if at < len(text) else "the end"
    return where.error(f"{message} at column {at + 1}, got {got}, in `{text}`")


# ---- getters over plain JSON values ----


def compile_steps(steps: tuple[Step, ...]) -> Getter:
    """A function from a JSON value to the value at `steps`, None for nothing.

    With a wildcard it gives a list instead: one value per element, None where that element has nothing.
    """
    if WILD in steps:
        return _compile_wild(steps)
    simple: tuple[Any, ...] = steps
    if not simple:
        return lambda value: value
    if len(simple) == 1 and isinstance(simple[0], str):
        (key,) = simple
        return lambda value: value.get(key) if value.__class__ is dict else None
    kinds = tuple((dict if isinstance(step, str) else list, step) for step in simple)

    def get(value: Any) -> Any:
        for kind, step in kinds:
            if value.__class__ is not kind:
                return None
            if kind is dict:
                value = value.get(step)  # type: ignore[union-attr]
            elif step < len(value):
                value = value[step]
            else:
                return None
        return value

    return get


def _compile_wild(steps: tuple[Step, ...]) -> Getter:
    cut = steps.index(WILD)
    before, after = compile_steps(steps[:cut]), compile_steps(steps[cut + 1 :])
    nested = WILD in steps[cut + 1 :]

    def get(value: Any) -> list[Any]:
        found = before(value)
        if found.__class__ is not list:
            return []
        if nested:
            return [inner for element in found for inner in after(element)]
        return [after(element) for element in found]

    return get


def compile_query(query: str) -> Callable[[Any], list[Any]]:
    """A function from a JSON value to everything that a JSONPath expression finds in it, in document order."""
    from jsonpath_ng.ext.parser import parse

    compiled = parse(query)

    def search(value: Any) -> list[Any]:
        try:
            return [match.value for match in compiled.find(value)]
        except (TypeError, ValueError, AttributeError, LookupError, NotImplementedError):
            return []  # over values of a shape that jsonpath-ng cannot compare: nothing is found

    return search


def scope_getter(path: Path) -> Getter:
    """A getter over a scope: a mapping with the root value under "", bound names, and positions under `name#`.

    Nothing is None. A path that names many values (`is_wild`) gives the list of them, as conditions want it.
    """
    root = path.root
    if path.position:
        key = root + "#"
        return lambda scope: scope.get(key)
    inside: Getter = compile_query(path.query) if path.query else compile_steps(path.steps)
    if not path.query and not path.steps:
        return lambda scope: scope.get(root)
    if not path.query and len(path.steps) == 1 and isinstance(path.steps[0], str):
        key = path.steps[0]

        def get_one(scope: Mapping[str, Any]) -> Any:
            value = scope.get(root)
            return value.get(key) if value.__class__ is dict else None

        return get_one

    def get(scope: Mapping[str, Any]) -> Any:
        return inside(scope.get(root))

    return get
