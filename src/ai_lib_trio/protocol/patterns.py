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
_UNBOUNDED = 64  # a repetition that may go on this long counts as one without end
_REPEATS = (codes.MAX_REPEAT, codes.MIN_REPEAT)
_EVERY = frozenset(range(256))
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

    Refused are more than 200 characters, back-references, two repetitions without end beside each other that can match
    the same character, and inside such a repetition another, alternatives, or a part of no fixed length. `groups` asks
    for that many groups.
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
    _walk(tree, where, inside=False)
    return compiled


def _walk(tree: Any, where: Where, *, inside: bool) -> tuple[Seen, Seen, bool]:
    """Check a sequence. Gives what an endless repetition at its beginning and at its end matches, and whether the
    sequence can match nothing at all (then what is before and after it are neighbours)."""
    first: Seen = frozenset()
    pending: Seen = frozenset()  # what the endless repetitions just before this place match
    optional = True
    for op, argument in tree:
        head, tail, empty = _item(op, argument, where, inside=inside)
        if head & pending:
            raise where.error("expected no two endless repetitions side by side that match the same character")
        if optional:
            first |= head
        pending = (pending | tail) if empty else tail
        optional = optional and empty
    return first, pending, optional


def _item(op: Any, argument: Any, where: Where, *, inside: bool) -> tuple[Seen, Seen, bool]:
    nothing: Seen = frozenset()
    if op in (codes.GROUPREF, codes.GROUPREF_EXISTS):
        raise where.error("expected a pattern without back-references")
    if op in _REPEATS or str(op) == "POSSESSIVE_REPEAT":
        low, high, body = argument
        endless = high >= _UNBOUNDED
        if endless and inside:
            raise where.error("expected no endless repetition inside another")
        if inside and low != high:  # `(a{1,3})*` splits the same text in as many ways as `(a+)*`
            raise where.error("expected no repetition of another length each time inside an endless one")
        head, tail, empty = _walk(body, where, inside=inside or endless)
        if endless:
            matched = _characters(body)
            return matched, matched, low == 0
        return head, tail, empty or low == 0
    if op is codes.SUBPATTERN:
        return _walk(argument[-1], where, inside=inside)
    if op is codes.BRANCH:
        if inside:  # `(a|a)*` can take each character in two ways; its common beginning was taken out by the parser
            raise where.error("expected no alternatives inside an endless repetition")
        heads, tails, empties = zip(*(_walk(part, where, inside=inside) for part in argument[1]), strict=True)
        return frozenset().union(*heads), frozenset().union(*tails), any(empties)
    if op in (codes.ASSERT, codes.ASSERT_NOT):
        _walk(argument[1], where, inside=inside)
        return nothing, nothing, True
    if str(op) == "ATOMIC_GROUP":
        return _walk(argument, where, inside=inside)
    return nothing, nothing, op is codes.AT


def _characters(body: Any) -> Seen:
    """The Latin-1 characters that a repetition's body can match; all of them where it is more than one character."""
    if len(body) != 1:
        return _EVERY
    op, argument = body[0]
    if op is codes.SUBPATTERN:
        return _characters(argument[-1])
    if op is codes.LITERAL:
        return frozenset((argument,)) if argument < 256 else frozenset((0x100,))
    if op is codes.NOT_LITERAL:
        return _EVERY - {argument}
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
            found.update(range(value[0], min(value[1], 255) + 1))
        elif kind is codes.CATEGORY:
            member = re.compile(_CATEGORIES[value])
            found.update(number for number in range(256) if member.fullmatch(chr(number)))
        else:
            return _EVERY
    return _EVERY - found if negated else frozenset(found)
