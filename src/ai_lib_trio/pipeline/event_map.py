"""The rules of a `decode` section, parsed and checked: from YAML trees to rules that backends compile.

Turns rule maps (match, let, for_each, candidate, emit, extract, rules, use) into `Rule`s whose paths are places: a slot
of a run (frame, event name, bound names) and a node of the view. Imports `protocol` and `facts`. The rule that must
stay true: whatever is wrong in a manifest is refused here, with file, line and path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ..protocol.paths import WILD, Path, is_path, parse_path, unescape
from ..protocol.rules import And, Compare, Cond, In, parse_condition, paths_of
from ..protocol.tree import merge
from ..protocol.view import Node
from ..protocol.where import Where
from .facts import ALIASES, FACTS

__all__ = [
    "Case", "Const", "Cut", "First", "If", "Join", "Json", "Object", "Place", "Read", "Rule", "Rules", "Tag", "Test",
    "Value", "shared_tag",
]  # fmt: skip

_RULE_KEYS = ("doc", "use", "match", "let", "for_each", "candidate", "emit", "extract", "rules")
_OPERATORS = {
    "$first": ("$first",),
    "$case": ("$case", "of", "else"),
    "$if": ("$if", "then", "else"),
    "$json": ("$json",),
    "$join": ("$join", "by"),
    "$cut": ("$cut", "at"),
}


MAX_RULES = 5_000  # with every `use` written out: our largest dialect has under 100
MAX_NAMES = 64  # in force at one rule; a run goes one call deeper for each
MAX_DEPTH = 12  # of rules inside rules; the printed backend nests as deep, and Python has bounds there


class Place(msgspec.Struct, frozen=True):
    """A path, resolved: the slot of its root, and the root's node in the view.

    `whole` is given where the value is taken whole and the view need not keep it so, since the frame's bytes are at
    hand: the keys from the frame to it.
    """

    path: Path
    slot: int
    node: Node
    whole: tuple[str, ...] | None = None


class Test(msgspec.Struct, frozen=True):
    """A condition and the places of its paths."""

    cond: Cond
    places: Mapping[Path, Place]


class Const(msgspec.Struct, frozen=True):
    value: str | int | float | bool | None


class Read(msgspec.Struct, frozen=True):
    """The value at a place; of a query, its first match."""

    place: Place


class First(msgspec.Struct, frozen=True):
    items: tuple[Value, ...]


class Case(msgspec.Struct, frozen=True):
    subject: Value
    cases: Mapping[Any, Value]
    other: Value


class If(msgspec.Struct, frozen=True):
    test: Test
    then: Value
    other: Value


class Json(msgspec.Struct, frozen=True):
    item: Value


class Join(msgspec.Struct, frozen=True):
    items: tuple[Value, ...]
    by: str


class Cut(msgspec.Struct, frozen=True):
    item: Value
    at: str


class Object(msgspec.Struct, frozen=True):
    """An object of the entries that are something; nothing if none is."""

    items: Mapping[str, Value]


Value = Const | Read | First | Case | If | Json | Join | Cut | Object


class Tag(msgspec.Struct, frozen=True):
    """What a rule's condition begins with: a place that must hold one of some texts; `rest` is what is left of it."""

    place: Place
    texts: tuple[str, ...]
    rest: Test | None


class Rule:
    """One rule. A run goes: early test, lets, for_each, late test, candidate, fact, inner rules."""

    def __init__(self) -> None:
        self.test: Test | None = None
        self.is_early = False  # the test names nothing that the rule itself binds
        self.lets: list[tuple[int, list[Place]]] = []  # slot, places: the first that is something
        self.for_each: Place | None = None
        self.entries = False  # the place is an object, and its entries {key, value} are what is gone through
        self.element = 0  # slots of the element and its position
        self.number = 0
        self.candidate: Value | None = None
        self.fact: str | None = None
        self.extract: dict[str, Value] = {}
        self.rules: list[Rule] = []

    def tag(self) -> Tag | None:
        if not self.is_early or self.test is None:
            return None
        head, rest = self.test.cond, None
        if isinstance(head, And):
            items = head.items
            head, rest = items[0], items[1] if len(items) == 2 else And(items[1:])
        if isinstance(head, Compare) and head.op == "==" and isinstance(head.literal, str):
            texts: tuple[str, ...] = (head.literal,)
        elif isinstance(head, In) and not head.path.is_wild:
            texts = tuple(literal for literal in head.literals if isinstance(literal, str))
            if len(texts) < len(head.literals):
                return None
        else:
            return None
        if head.path.is_wild:
            return None
        return Tag(self.test.places[head.path], texts, None if rest is None else Test(rest, self.test.places))


def shared_tag(rules: list[Rule]) -> Place | None:
    """The place that more than one rule of a list tests first, if there is one: it is looked at once for all."""
    counts: dict[Path, tuple[int, Place]] = {}
    for rule in rules:
        tag = rule.tag()
        if tag is not None:
            count, _ = counts.get(tag.place.path, (0, None))
            counts[tag.place.path] = count + 1, tag.place
    found = max(counts.values(), key=lambda pair: pair[0], default=None)
    return found[1] if found is not None and found[0] > 1 else None


class _Name(msgspec.Struct, frozen=True):
    slot: int
    node: Node


class _Scope:
    """The names in force at a rule, and the slots of a run."""

    def __init__(self, names: dict[str, _Name], slots: list[int]) -> None:
        self.names = names
        self._slots = slots  # shared by all scopes of a program: how many there are

    def fresh(self) -> int:
        self._slots[0] += 1
        return self._slots[0] - 1

    def bind(self, name: str, node: Node) -> tuple[_Scope, int]:
        slot = self.fresh()
        return _Scope({**self.names, name: _Name(slot, node)}, self._slots), slot

    def position(self, name: str, slot: int) -> _Scope:
        return _Scope({**self.names, name + "#": _Name(slot, Node())}, self._slots)


class Rules:
    """The rules of one kind of frame, parsed. Slot 0 is the frame, 1 the event's name, 2 an error reply's headers."""

    def __init__(self, maps: list[tuple[Mapping[str, Any], Where]], define: Mapping[str, Any]) -> None:
        self.root = Node()
        self.facts: set[str] = set()
        self._define = define
        self.used_defines: set[str] = set()
        self.used: set[int] = set()  # slots that some path reads
        self._slots = [3]
        self._count = 0
        self._keys: dict[int, tuple[str, ...]] = {0: ()}  # of a slot, from the frame: where one way leads to it
        names = {
            "": _Name(0, self.root),
            "event": _Name(1, Node()),
            "header": _Name(2, Node()),
        }
        names["header"].node.take()
        scope = _Scope(names, self._slots)
        self._lets: list[tuple[int, Where]] = []
        self.rules = [rule for tree, at in maps for rule in self._parse_map(tree, at, scope)]
        for slot, at in self._lets:
            if slot not in self.used:
                raise at.error("expected a name that some path uses, got one that is never used")

    @property
    def slots(self) -> int:
        """How many slots a run needs."""
        return self._slots[0]

    # ---- parsing: paths are registered in the tree of the view, mistakes are refused ----

    def _parse_map(
        self, tree: Any, where: Where, scope: _Scope, outer: tuple[str, ...] = (), depth: int = 1
    ) -> list[Rule]:
        if not isinstance(tree, Mapping):
            raise where.error(f"expected a map of rules, got {tree!r}")
        return [
            self._parse_rule(rule, where.at(name), scope, outer, depth)
            for name, rule in tree.items()
            if rule is not None
        ]

    def _parse_rule(self, tree: Any, where: Where, scope: _Scope, outer: tuple[str, ...], depth: int) -> Rule:
        if not isinstance(tree, Mapping):
            raise where.error(f"expected a rule (a map of {', '.join(_RULE_KEYS)}), got {tree!r}")
        self._count += 1
        if self._count > MAX_RULES:
            raise where.error(f"expected at most {MAX_RULES} rules after every `use` is expanded")
        used = tree.get("use")
        if used is not None:
            if used in outer:
                raise where.at("use").error(f"expected another rule of `define`, got `{used}` inside itself")
            base = self._define.get(used) if isinstance(used, str) else None
            if not isinstance(base, Mapping):
                known = ", ".join(self._define) or "none"
                raise where.at("use").error(f"expected the name of a rule in `define` ({known}), got {used!r}")
            self.used_defines.add(used)
            outer = (*outer, used)
            own = {key: value for key, value in tree.items() if key != "use"}
            tree, _ = merge(base, own, where, where)
            if "use" in tree:
                return self._parse_rule(tree, where, scope, outer, depth)
        for key in tree:
            if key not in _RULE_KEYS:
                raise where.at(str(key)).error(f"expected one of {', '.join(_RULE_KEYS)}, got {key!r}")
        rule = Rule()
        inner = self._parse_let(tree.get("let"), where.at("let"), scope, rule)
        inner = self._parse_for_each(tree.get("for_each"), where.at("for_each"), inner, rule)
        if tree.get("match") is not None:
            at = where.at("match")
            rule.test = self._test(tree["match"], at, inner)
            own_names = set(inner.names) - set(scope.names)
            rule.is_early = all(_root(path) not in own_names for path in rule.test.places)
        if tree.get("candidate") is not None:
            rule.candidate = self._value(tree["candidate"], where.at("candidate"), inner, "word")
        self._parse_emit(tree, where, inner, rule)
        if tree.get("rules") is not None:
            rule.rules = self._parse_map(tree["rules"], where.at("rules"), inner, outer, depth + 1)
        if depth > MAX_DEPTH:
            raise where.error(f"expected rules nested at most {MAX_DEPTH} deep")
        if rule.fact is None and not rule.rules:
            raise where.error("expected a rule with `emit` or `rules`, got neither")
        return rule

    def _test(self, text: Any, where: Where, scope: _Scope) -> Test:
        cond = parse_condition(text, where)
        return Test(cond, {path: self._place(path, scope, where) for path in paths_of(cond)})

    def _parse_let(self, tree: Any, where: Where, scope: _Scope, rule: Rule) -> _Scope:
        if tree is None:
            return scope
        if not isinstance(tree, Mapping):
            raise where.error(f"expected a map of names to paths, got {tree!r}")
        for name, value in tree.items():
            at = where.at(name)
            _check_name(name, scope, at)
            places = []
            for text in value if isinstance(value, list) else [value]:
                path = self._path(text, at)
                if path.is_wild:
                    raise at.error(f"expected a path to one value, got `{text}`: many values are for `for_each`")
                places.append(self._place(path, scope, at))
            if not places:
                raise at.error("expected a path or a list of paths, got an empty list")
            node = places[0].node.along(places[0].path.steps)
            for other in places[1:]:
                node = node.unify(other.node.along(other.path.steps))
            scope, slot = scope.bind(name, node)
            keys = self._keys.get(places[0].slot)
            below = tuple(step for step in places[0].path.steps if isinstance(step, str))
            if (
                len(places) == 1
                and keys is not None
                and len(below) == len(places[0].path.steps)
                and not places[0].path.query
            ):
                self._keys[slot] = (*keys, *below)
            self._lets.append((slot, at))
            rule.lets.append((slot, places))
        return scope

    def _parse_for_each(self, tree: Any, where: Where, scope: _Scope, rule: Rule) -> _Scope:
        if tree is None:
            return scope
        if not isinstance(tree, Mapping) or len(tree) != 1:
            raise where.error(f"expected one name and its path, got {tree!r}")
        ((name, text),) = tree.items()
        at = where.at(name)
        _check_name(name, scope, at)
        rule.entries = isinstance(text, Mapping) and list(text) == ["$entries"]
        if rule.entries:
            text, at = text["$entries"], at.at("$entries")
        path = self._path(text, at)
        if WILD in path.steps or (path.query and rule.entries):
            raise at.error(f"expected a path to a list, got `{text}`: nest another `for_each` instead of `[*]`")
        rule.for_each = self._place(path, scope, at, whole=rule.entries)
        plain = bool(path.query) or rule.entries
        elements = Node() if plain else rule.for_each.node.along(path.steps).at(WILD)
        if plain:
            elements.take()
        scope, rule.element = scope.bind(name, elements)
        rule.number = scope.fresh()
        return scope.position(name, rule.number)

    def _parse_emit(self, tree: Mapping[str, Any], where: Where, scope: _Scope, rule: Rule) -> None:
        emit, extract = tree.get("emit"), tree.get("extract")
        if emit is None:
            if extract is not None:
                raise where.at("extract").error("expected `emit` beside `extract`, got none")
            return
        fact = ALIASES.get(emit, emit) if isinstance(emit, str) else None
        if fact not in FACTS or fact is None:
            raise where.at("emit").error(f"expected a fact ({', '.join([*FACTS, *ALIASES])}), got {emit!r}")
        fields = FACTS[fact]
        at = where.at("extract")
        if extract is not None and not isinstance(extract, Mapping):
            raise at.error(f"expected a map of fields, got {extract!r}")
        rule.fact = fact
        self.facts.add(fact)
        for field, value in (extract or {}).items():
            if field not in fields:
                raise at.at(field).error(f"expected a field of {fact} ({', '.join(fields) or 'none'}), got {field!r}")
            if value is not None:
                rule.extract[field] = self._value(value, at.at(field), scope, fields[field])

    def _path(self, text: Any, where: Where) -> Path:
        if not isinstance(text, str):
            raise where.error(f"expected a path, got {text!r}")
        return parse_path(text, where)

    def _place(self, path: Path, scope: _Scope, where: Where, *, whole: bool = False, is_later: bool = False) -> Place:
        """The place of a path, noted in the view; `whole` says that whatever stands there is taken as it is."""
        found = scope.names.get(_root(path))
        if found is None:
            known = ", ".join("$" + name for name in scope.names if name)
            raise where.error(f"expected a bound name ({known}), got `{path}`")
        self.used.add(found.slot)
        keys = self._keys.get(found.slot)
        if whole and keys is not None and not path.steps and not path.query and (not keys or is_later):
            return Place(path, found.slot, found.node, keys)
        if path.query:
            found.node.take()
        elif whole:
            found.node.along(path.steps).take()
        else:
            found.node.along(path.steps)
        return Place(path, found.slot, found.node)

    def _value(self, tree: Any, where: Where, scope: _Scope, kind: str) -> Value:
        """A value's template: a constant, a path, an operator, or an object of templates."""
        if is_path(tree):
            path = parse_path(tree, where)
            if WILD in path.steps:
                raise where.error(f"expected a path to one value, got `{tree}`: `[*]` is for conditions")
            is_later = kind == "later"
            return Read(self._place(path, scope, where, whole=is_later or kind == "any", is_later=is_later))
        if isinstance(tree, str):
            return Const(unescape(tree))
        if tree is None or isinstance(tree, bool | int | float):
            return Const(tree)
        if not isinstance(tree, Mapping):
            raise where.error(f"expected a constant, a path or an operator, got {tree!r}")
        names = [key for key in tree if isinstance(key, str) and key.startswith("$")]
        if not names:
            if kind not in ("any", "later"):
                raise where.error("expected a constant, a path or an operator, got an object")
            return Object({str(key): self._value(value, where.at(key), scope, "any") for key, value in tree.items()})
        operator = names[0]
        known = _OPERATORS.get(operator)
        if known is None or len(names) > 1:
            raise where.error(f"expected one operator of {', '.join(_OPERATORS)}, got {', '.join(names)}")
        for key in tree:
            if key not in known:
                raise where.at(str(key)).error(f"expected one of {', '.join(known)} with {operator}, got {key!r}")
        return self._operator(operator, tree, where, scope, kind)

    def _operator(self, operator: str, tree: Mapping[str, Any], where: Where, scope: _Scope, kind: str) -> Value:
        def part(key: str, kind: str) -> Value:
            return self._value(tree.get(key), where.at(key), scope, kind)

        if operator in ("$first", "$join"):
            parts = tree[operator]
            if not isinstance(parts, list) or not parts:
                raise where.at(operator).error(f"expected a list of values, got {parts!r}")
            inner = "text" if operator == "$join" else kind
            values = [self._value(item, where.at(operator, at), scope, inner) for at, item in enumerate(parts)]
            if operator == "$first":
                return First(tuple(values))
            by = tree.get("by", "")
            if not isinstance(by, str):
                raise where.at("by").error(f"expected a text, got {by!r}")
            return Join(tuple(values), by)
        if operator == "$if":
            return If(self._test(tree["$if"], where.at("$if"), scope), part("then", kind), part("else", kind))
        if operator == "$case":
            of = tree.get("of")
            if not isinstance(of, Mapping):
                raise where.at("of").error(f"expected a map of values, got {of!r}")
            cases = {key: self._value(value, where.at("of", key), scope, kind) for key, value in of.items()}
            return Case(part("$case", "text"), cases, part("else", kind))
        if operator == "$json":
            return Json(part("$json", "any"))
        at_text = tree.get("at")
        if not isinstance(at_text, str) or not at_text:
            raise where.at("at").error(f"expected a text to cut at, got {at_text!r}")
        return Cut(part("$cut", "text"), at_text)


def _root(path: Path) -> str:
    return path.root + "#" if path.position else path.root


def _check_name(name: Any, scope: _Scope, where: Where) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise where.error(f"expected a name of letters, digits and _, got {name!r}")
    if len(scope.names) > MAX_NAMES:
        raise where.error(f"expected at most {MAX_NAMES} names in force")
    if name in scope.names:
        raise where.error(f"expected a name that is free here, got {name!r}, which is bound already")
