"""The `check` rules of a dialect become a function that finds what is wrong with a request.

    check:
      name:
        for_each: {m: $.body.messages}     # once per element, $m bound
        when: condition                    # else the rule does not apply
        at: $m                             # an object; `fields` are the keys it may have
        fields: {role: text!, content: text|list}
        open: true                         # other keys are allowed
        must: condition                    # what has to hold
        say: text or template              # else a message is made from the rule
        code, param: text                  # for the dialect's error reply
        rules: {...}                       # rules that see the names of this one

Sans-IO; imports `protocol` and `wire.template`. A kind is text, number, integer, flag, list, object or any, or several
with `|`; `!` after it means required. The rule that must stay true: null is absent here as everywhere in the language.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from ..protocol.paths import Path, parse_path, scope_getter
from ..protocol.rules import compile_condition, parse_condition
from ..protocol.where import Where
from ..wire.template import compile_template

__all__ = ["Checker", "Problem", "compile_check"]


class Problem(NamedTuple):
    """What is wrong with a request, for the dialect's error reply."""

    message: str
    code: str | None = None
    param: str | None = None


Scope = dict[str, Any]
Checker = Callable[[Scope], "Problem | None"]

_KINDS: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: value.__class__ is str,
    "number": lambda value: value.__class__ in (int, float),
    "integer": lambda value: value.__class__ is int,
    "flag": lambda value: value.__class__ is bool,
    "list": lambda value: value.__class__ is list,
    "object": lambda value: value.__class__ is dict,
    "any": lambda value: True,
}
_RULE_KEYS = ("for_each", "when", "at", "fields", "open", "must", "say", "code", "param", "rules", "doc")
_SHOWN = " shown"  # scope key: bound name -> the path that people know it by


def compile_check(tree: Any, where: Where, *, more_fields: Collection[str] = ()) -> Checker:
    """A function from a scope to the first problem, or None.

    `more_fields` are keys that `$.body` may have besides those that the rules list: what a provider's own encoding
    writes there.
    """
    return _rules(tree, where, frozenset(more_fields))


def _rules(tree: Any, where: Where, more: frozenset[str]) -> Checker:
    if not isinstance(tree, dict):
        raise where.error(f"expected a mapping from names to rules, got {type(tree).__name__}")
    checks = [_rule(rule, where.at(name), more) for name, rule in tree.items()]

    def check(scope: Scope) -> Problem | None:
        for one in checks:
            found = one(scope)
            if found is not None:
                return found
        return None

    return check


def _rule(tree: Any, where: Where, more: frozenset[str]) -> Checker:
    if not isinstance(tree, dict):
        raise where.error(f"expected a rule, got {type(tree).__name__}")
    for key in tree:
        if key not in _RULE_KEYS:
            raise where.at(str(key)).error(f"expected one of {', '.join(_RULE_KEYS)}, got `{key}`")
    steps: list[Checker] = []
    say = compile_template(tree["say"], where.at("say")) if "say" in tree else None
    code, param = tree.get("code"), tree.get("param")

    def problem(scope: Scope, message: str, place: str | None = None) -> Problem:
        said = say(scope) if say is not None else None
        return Problem(said if isinstance(said, str) else message, code, param or place)

    if "fields" in tree:
        steps.append(_fields(tree, where, problem, more))
    elif "at" in tree or "open" in tree:
        raise where.error("expected `fields` beside `at` or `open`")
    if "must" in tree:
        holds = compile_condition(parse_condition(tree["must"], where.at("must")), scope_getter)
        message = f"expected {tree['must']}"
        steps.append(lambda scope: None if holds(scope) else problem(scope, message))
    if "rules" in tree:
        steps.append(_rules(tree["rules"], where.at("rules"), more))
    if not steps:
        raise where.error("expected `fields`, `must` or `rules`")
    one = _in_order(steps)
    if "when" in tree:
        one = _when(compile_condition(parse_condition(tree["when"], where.at("when")), scope_getter), one)
    return _for_each(tree["for_each"], where.at("for_each"), one) if "for_each" in tree else one


def _in_order(steps: list[Checker]) -> Checker:
    def check(scope: Scope) -> Problem | None:
        return next((found for step in steps if (found := step(scope)) is not None), None)

    return check


def _when(applies: Callable[[Scope], bool], inner: Checker) -> Checker:
    return lambda scope: inner(scope) if applies(scope) else None


def _for_each(tree: Any, where: Where, inner: Checker) -> Checker:
    if not isinstance(tree, dict) or len(tree) != 1:
        raise where.error("expected one name and its path")
    ((name, text),) = tree.items()
    path = parse_path(text, where.at(name))
    get = scope_getter(path)

    def check(scope: Scope) -> Problem | None:
        items = get(scope)
        if items.__class__ is not list:
            return None
        shown = _shown(path, scope)
        for index, item in enumerate(items):
            inside = {**scope, name: item, f"{name}#": index}
            inside[_SHOWN] = {**scope.get(_SHOWN, {}), name: f"{shown}[{index}]"}
            found = inner(inside)
            if found is not None:
                return found
        return None

    return check


def _shown(path: Path, scope: Scope) -> str:
    """The path as the sender of the request knows it."""
    steps = path.steps[1:] if not path.root and path.steps[:1] == ("body",) else path.steps
    out: str = scope.get(_SHOWN, {}).get(path.root, "") if path.root else ""
    for step in steps:
        out += f"[{step}]" if isinstance(step, int) else f".{step}" if out else str(step)
    return out


def _fields(
    tree: dict[str, Any], where: Where, problem: Callable[[Scope, str, str | None], Problem], more: frozenset[str]
) -> Checker:
    given = tree["fields"]
    if not isinstance(given, dict):
        raise where.at("fields").error("expected a mapping from keys to kinds")
    path = parse_path(tree.get("at", "$.body"), where.at("at"))
    get = scope_getter(path)
    is_open = tree.get("open") is True
    extra = more if path == Path("", ("body",)) else frozenset[str]()
    kinds = {key: _kind(text, where.at("fields", key)) for key, text in given.items() if text is not None}

    def check(scope: Scope) -> Problem | None:
        value = get(scope)
        if value is None:
            return None
        shown = _shown(path, scope)
        if value.__class__ is not dict:
            return problem(scope, f"{shown or 'the body'} has to be an object", shown or None)
        for key, (fits, required, said) in kinds.items():
            place = f"{shown}.{key}" if shown else key
            found = value.get(key)
            if found is None:
                if required:
                    return problem(scope, f"{place} is required", place)
            elif not fits(found):
                return problem(scope, f"{place} has to be {said}", place)
        if not is_open:
            for key in value:
                if key not in kinds and key not in extra:
                    place = f"{shown}.{key}" if shown else str(key)
                    return problem(scope, f"unknown field {place}", place)
        return None

    return check


def _kind(text: Any, where: Where) -> tuple[Callable[[Any], bool], bool, str]:
    if not isinstance(text, str):
        raise where.error(f"expected a kind, got {type(text).__name__}")
    required = text.endswith("!")
    names = text.removesuffix("!").split("|")
    for name in names:
        if name not in _KINDS:
            raise where.error(f"expected one of {', '.join(_KINDS)}, got `{name}`")
    tests = [_KINDS[name] for name in names]
    return (lambda value: any(test(value) for test in tests)), required, " or ".join(names)
