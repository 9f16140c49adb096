"""Regular expressions that manifests bring: checked before they are ever run.

Imports `where`. The rule that must stay true: a pattern that is let through needs time in proportion to its text, give
or take a factor that does not grow with it.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

from .where import Where

try:
    from re import _constants as codes  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
except ImportError:  # Python 3.10
    import sre_constants as codes
    import sre_parse as parser

__all__ = ["MAX_PATTERN", "compile_pattern"]

MAX_PATTERN = 200
MAX_WAYS = 32  # that choices can share one text: each may have to be tried, at each place of the text
_UNBOUNDED = 64  # a repetition that may go on this long counts as one without end
_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT)
_SINGLE = (codes.LITERAL, codes.NOT_LITERAL, codes.IN, codes.ANY)  # what matches one character
_WIDE = 256  # stands for every character beyond Latin-1
_EVERY = frozenset(range(_WIDE + 1))
_CATEGORIES = {
    codes.CATEGORY_DIGIT: r"\d",
    codes.CATEGORY_NOT_DIGIT: r"\D",
    codes.CATEGORY_SPACE: r"\s",
    codes.CATEGORY_NOT_SPACE: r"\S",
    codes.CATEGORY_WORD: r"\w",
    codes.CATEGORY_NOT_WORD: r"\W",
}
Seen = frozenset[int]


def compile_pattern(text: str, where: Where, *, groups: int | None = None) -> re.Pattern[str]:
    """The pattern, compiled. Raises `ManifestError` for what is no pattern, or one that can take long.

    Refused are more than 200 characters, back-references, a part of no fixed length or a choice that can match the
    character that such a part before it matches, with nothing between them that does not; inside a repetition without
    end another, alternatives, or a part of no fixed length; and choices that can share a text in more than 32 ways.
    `groups` asks for that many groups.
    """
    if len(text) > MAX_PATTERN:
        raise where.error(f"expected a pattern of at most {MAX_PATTERN} characters, got {len(text)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what a later Python will read in another way is no pattern today
            compiled = re.compile(text)
            tree = parser.parse(text)
    except (re.error, RecursionError, OverflowError, Warning) as error:
        raise where.error(f"expected a regular expression: {error}") from None
    if groups is not None and compiled.groups != groups:
        raise where.error(f"expected {groups} group(s) in the pattern, got {compiled.groups}")
    _, ways = _walk(tree, where, frozenset(), inside=False)
    if ways > MAX_WAYS:
        raise where.error(f"expected choices that share a text in at most {MAX_WAYS} ways, got more")
    return compiled


def _walk(tree: Any, where: Where, before: Seen, *, inside: bool) -> tuple[Seen, int]:
    """Check a sequence. `before` is what the repetitions of no fixed length before it match that nothing has stopped.

    Gives the same for what comes after it, and in how many ways its choices can share a text.
    """
    ways = 1
    for op, argument in tree:
        before, more = _item(op, argument, where, before, inside=inside)
        ways = min(ways * more, MAX_WAYS + 1)
    return before, ways


def _item(op: Any, argument: Any, where: Where, before: Seen, *, inside: bool) -> tuple[Seen, int]:
    if op in (codes.GROUPREF, codes.GROUPREF_EXISTS):
        raise where.error("expected a pattern without back-references")
    if op in _REPEATS or str(op) == "POSSESSIVE_REPEAT":
        low, high, body = argument
        if low != high:
            _apart(before, body, where)
        if high >= _UNBOUNDED:
            if inside:
                raise where.error("expected no endless repetition inside another")
            _walk(body, where, frozenset(), inside=True)
            matched = _characters(body)
            return matched | before if low == 0 else matched, 1
        if inside and low != high:  # `(a{1,3})*` splits the same text in as many ways as `(a+)*`
            raise where.error("expected no repetition of another length each time inside an endless one")
        if len(body) == 1 and body[0][0] in _SINGLE:
            matched = _characters(body)
            if low == high:
                return (before if before & matched else frozenset()), 1
            return matched | before if low == 0 else matched, 1
        after, ways = _walk(body, where, before, inside=inside)
        if high > 1:  # what it ends with stands before what it begins with
            after |= _walk(body, where, after, inside=inside)[0]
        return (after | before if low == 0 else after), min(ways**high * (high - low + 1), MAX_WAYS + 1)
    if op is codes.SUBPATTERN:
        return _walk(argument[-1], where, before, inside=inside)
    if op is codes.BRANCH:
        if inside:  # `(a|a)*` can take each character in two ways; its common beginning was taken out by the parser
            raise where.error("expected no alternatives inside an endless repetition")
        for part in argument[1]:
            _apart(before, part, where)
        afters, ways_of = zip(*(_walk(part, where, before, inside=inside) for part in argument[1]), strict=True)
        return frozenset().union(*afters), sum(ways_of)
    if op in (codes.ASSERT, codes.ASSERT_NOT):
        return before, _walk(argument[1], where, before, inside=inside)[1]
    if str(op) == "ATOMIC_GROUP":
        return _walk(argument, where, before, inside=inside)
    if op is codes.AT:
        return before, 1
    # A character that none of them matches tells where they end; any other may be theirs.
    return (before if before & _characters([(op, argument)]) else frozenset()), 1


def _apart(before: Seen, body: Any, where: Where) -> None:
    if before & _heads(body):
        raise where.error(
            "expected no two parts of no fixed length side by side that match the same character, or with nothing "
            "between them that does not"
        )


def _heads(body: Any) -> Seen:
    """The characters that what a sequence matches can begin with."""
    found: Seen = frozenset()
    for op, argument in body:
        if op in _REPEATS or str(op) == "POSSESSIVE_REPEAT":
            found |= _heads(argument[2])
            if argument[0] > 0:
                return found
        elif op is codes.BRANCH:
            found = found.union(*map(_heads, argument[1]))
            if all(part.getwidth()[0] for part in argument[1]):
                return found
        elif op is codes.SUBPATTERN or str(op) == "ATOMIC_GROUP":
            inner = argument[-1] if op is codes.SUBPATTERN else argument
            found |= _heads(inner)
            if inner.getwidth()[0]:
                return found
        elif op not in (codes.ASSERT, codes.ASSERT_NOT, codes.AT):
            return found | _characters([(op, argument)])
    return found


def _characters(body: Any) -> Seen:
    """The characters that a repetition's body can match, in either case: Latin-1 and `_WIDE`; all of them where it is
    more than one character."""
    if len(body) != 1:
        return _EVERY
    op, argument = body[0]
    if op is codes.SUBPATTERN:
        return _characters(argument[-1])
    if op is codes.LITERAL:
        return _both_cases({argument})
    if op is codes.NOT_LITERAL:
        return _EVERY - {argument} | {_WIDE}
    if op is not codes.IN:
        return _EVERY
    found: set[int] = set()
    negated = False
    for kind, value in argument:
        if kind is codes.NEGATE:
            negated = True
        elif kind is codes.LITERAL:
            found.add(value)
        elif kind is codes.RANGE:
            found.update(range(value[0], min(value[1], _WIDE) + 1))
            found.add(min(value[1], _WIDE))
        elif kind is codes.CATEGORY:
            member = re.compile(_CATEGORIES[value])
            found.update(number for number in range(_WIDE) if member.fullmatch(chr(number)))
        else:
            return _EVERY
    # What is left out of a negated set is left out in one case at least.
    return _EVERY - found | {_WIDE} if negated else _both_cases(found)


def _both_cases(found: set[int]) -> Seen:
    """The same characters in upper and lower case too, whatever the flags. One beyond Latin-1 may be a letter, a digit
    or a space to the classes of Latin-1."""
    both = {ord(other) for one in found for other in (chr(one).lower(), chr(one).upper()) if len(other) == 1} | found
    narrow = {number for number in both if number < _WIDE}
    return frozenset(narrow if len(narrow) == len(both) else {*narrow, _WIDE, *b"0a "})
