"""A condition of a manifest becomes a predicate.

    cond = and {"||" and};  and = not {"&&" not}
    not  = "!" not | "(" cond ")" | "exists(" path ")" | path [op literal] | path "in" "[" literals "]"
    op   = == != < <= > >=          literal = 'text' | number | true | false | null

Imports `paths` and `where`. The semantics, the same in every backend: a path exists when it is present and not
null, and a bare path means exists. `==` compares JSON values by type (`true` is neither `'true'` nor 1; 1 equals
1.0), and nothing equals null. `!=` is the opposite of `==`. Order holds between two numbers or two texts only. A path
with a wildcard satisfies if any one of its elements does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from .paths import Path, read_path, refuse
from .where import Where

__all__ = [
    "And",
    "Compare",
    "Cond",
    "Exists",
    "In",
    "Literal",
    "Not",
    "Or",
    "compile_condition",
    "parse_condition",
    "paths_of",
    "same",
    "value_test",
]

S = TypeVar("S")
Literal = str | int | float | bool | None
Predicate = Callable[[Any], bool]


class And(msgspec.Struct, frozen=True):
    items: tuple[Cond, ...]


class Or(msgspec.Struct, frozen=True):
    items: tuple[Cond, ...]


class Not(msgspec.Struct, frozen=True):
    item: Cond


class Exists(msgspec.Struct, frozen=True):
    path: Path


class Compare(msgspec.Struct, frozen=True):
    path: Path
    op: str
    literal: Literal


class In(msgspec.Struct, frozen=True):
    path: Path
    literals: tuple[Literal, ...]


Cond = And | Or | Not | Exists | Compare | In

_OPS = ("==", "!=", "<=", ">=", "<", ">")
_NUMBER = re.compile(r"-?\d{1,40}(?!\d)(\.\d+)?([eE][+-]?\d+)?")
MAX_NESTED = 32  # brackets and negations inside one another: predicates call themselves as deep
_WORD = re.compile(r"[A-Za-z_]\w*")
_EXISTS = re.compile(r"exists[ \t]*\(")
_WORDS: dict[str, Literal] = {"true": True, "false": False, "null": None}


def parse_condition(text: str, where: Where, *, relative: str | None = None) -> Cond:
    """The condition that `text` is. Raises ManifestError with the column of the first thing that is wrong.

    `relative` is the name that paths without `$` start at, as the filters of older manifests write them.
    """
    if not isinstance(text, str):
        raise where.error(f"expected a condition as text, got {text!r}")
    parser = _Parser(text, where, relative)
    cond = parser.alternatives()
    if parser.at != len(text):
        raise parser.refuse("expected '&&', '||' or the end")
    return cond


class _Parser:
    def __init__(self, text: str, where: Where, relative: str | None) -> None:
        self.text = text
        self.where = where
        self.relative = relative
        self.at = 0
        self.nested = 0
        self.skip()

    def skip(self) -> None:
        while self.text.startswith((" ", "\t", "\r", "\n"), self.at):
            self.at += 1

    def take(self, token: str) -> bool:
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        self.skip()
        return True

    def refuse(self, message: str) -> Exception:
        return refuse(self.where, self.text, self.at, message)

    def alternatives(self) -> Cond:
        items = [self.conjunction()]
        while self.take("||"):
            items.append(self.conjunction())
        return items[0] if len(items) == 1 else Or(tuple(items))

    def conjunction(self) -> Cond:
        items = [self.negation()]
        while self.take("&&"):
            items.append(self.negation())
        return items[0] if len(items) == 1 else And(tuple(items))

    def negation(self) -> Cond:
        if self.text.startswith("!", self.at) and not self.text.startswith("!=", self.at):
            self.take("!")
            self.enter()
            item = self.negation()
            self.nested -= 1
            return Not(item)
        if self.take("("):
            self.enter()
            inner = self.alternatives()
            self.nested -= 1
            if not self.take(")"):
                raise self.refuse("expected ')'")
            return inner
        if found := _EXISTS.match(self.text, self.at):
            self.at = found.end()
            self.skip()
            path = self.path()
            if not self.take(")"):
                raise self.refuse("expected ')'")
            return Exists(path)
        return self.comparison()

    def enter(self) -> None:
        self.nested += 1
        if self.nested > MAX_NESTED:
            raise self.refuse(f"expected brackets and negations at most {MAX_NESTED} deep")

    def path(self) -> Path:
        path, self.at = read_path(self.text, self.at, self.where, relative=self.relative)
        self.skip()
        return path

    def comparison(self) -> Cond:
        path = self.path()
        for op in _OPS:
            if self.take(op):
                return Compare(path, op, self.literal())
        word = _WORD.match(self.text, self.at)
        if word and word.group() == "in":
            self.take("in")
            return In(path, self.literals())
        return Exists(path)

    def literals(self) -> tuple[Literal, ...]:
        if not self.take("["):
            raise self.refuse("expected '[' after 'in'")
        found = [self.literal()]
        while self.take(","):
            found.append(self.literal())
        if not self.take("]"):
            raise self.refuse("expected ',' or ']'")
        return tuple(found)

    def literal(self) -> Literal:
        text, at = self.text, self.at
        for quote in "'\"":
            if text.startswith(quote, at):
                end = text.find(quote, at + 1)
                if end < 0:
                    raise self.refuse(f"expected a closing {quote}")
                self.at = end + 1
                self.skip()
                return text[at + 1 : end]
        if number := _NUMBER.match(text, at):
            self.at = number.end()
            self.skip()
            return float(number.group()) if number.group(1) or number.group(2) else int(number.group())
        word = _WORD.match(text, at)
        if word and word.group() in _WORDS:
            self.take(word.group())
            return _WORDS[word.group()]
        raise self.refuse("expected a literal ('text', a number, true, false or null)")


def paths_of(cond: Cond) -> Iterator[Path]:
    """Every path that a condition reads, in order, repeats included."""
    if isinstance(cond, And | Or):
        for item in cond.items:
            yield from paths_of(item)
    elif isinstance(cond, Not):
        yield from paths_of(cond.item)
    else:
        yield cond.path


def same(value: Any, literal: Any) -> bool:
    """Whether two JSON values are equal by type: booleans are no numbers, nothing is null."""
    if isinstance(value, bool) or isinstance(literal, bool):
        return value is literal
    return bool(value == literal)


def compile_condition(cond: Cond, getter: Callable[[Path], Callable[[S], Any]]) -> Callable[[S], bool]:
    """A predicate over whatever state `getter`'s functions read.

    `getter(path)` gives a function to the value at the path, None for nothing; for a path with `is_wild` it gives a
    function to the list of the values.
    """
    if isinstance(cond, And):
        return _all([compile_condition(item, getter) for item in cond.items])
    if isinstance(cond, Or):
        return _any([compile_condition(item, getter) for item in cond.items])
    if isinstance(cond, Not):
        inner = compile_condition(cond.item, getter)
        return lambda state: not inner(state)
    get = getter(cond.path)
    if cond.path.is_wild:
        test = value_test(cond)
        return lambda state: any(test(value) for value in get(state))
    if isinstance(cond, Exists):
        return lambda state: get(state) is not None
    if isinstance(cond, Compare) and isinstance(cond.literal, bool) and cond.op == "==":
        flag = cond.literal  # no other JSON value is one of the two
        return lambda state: get(state) is flag
    if isinstance(cond, Compare) and isinstance(cond.literal, str):
        text = cond.literal
        # No other JSON value equals a text, so the common test needs no look at the type.
        if cond.op == "==":
            return lambda state: bool(get(state) == text)
        if cond.op == "!=":
            return lambda state: bool(get(state) != text)
    test_one = value_test(cond)
    return lambda state: test_one(get(state))


def _all(tests: list[Callable[[S], bool]]) -> Callable[[S], bool]:
    if len(tests) == 2:
        first, second = tests
        return lambda state: first(state) and second(state)
    return lambda state: all(test(state) for test in tests)


def _any(tests: list[Callable[[S], bool]]) -> Callable[[S], bool]:
    if len(tests) == 2:
        first, second = tests
        return lambda state: first(state) or second(state)
    return lambda state: any(test(state) for test in tests)


def value_test(cond: Exists | Compare | In) -> Predicate:
    """The test of one value, for a path's value or for each element under a wildcard."""
    if isinstance(cond, Exists):
        return lambda value: value is not None
    if isinstance(cond, In):
        literals = cond.literals
        if all(isinstance(literal, str) for literal in literals):
            texts = frozenset(literals)
            return lambda value: value.__class__ is str and value in texts
        return lambda value: any(same(value, literal) for literal in literals)
    literal: Any = cond.literal
    if cond.op == "==":
        return lambda value: same(value, literal)
    if cond.op == "!=":
        return lambda value: not same(value, literal)
    return _ordered(cond.op, literal)


def _ordered(op: str, literal: Any) -> Predicate:
    if isinstance(literal, str):
        kinds: tuple[type, ...] = (str,)
    elif isinstance(literal, bool) or literal is None:
        return lambda value: False  # nothing orders against true, false or null
    else:
        kinds = (int, float)
    if op == "<":
        return lambda value: value.__class__ in kinds and value < literal
    if op == "<=":
        return lambda value: value.__class__ in kinds and value <= literal
    if op == ">":
        return lambda value: value.__class__ in kinds and value > literal
    return lambda value: value.__class__ in kinds and value >= literal
