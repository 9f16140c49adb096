"""The rules of a `decode` section become one function from a frame to facts.

Turns a rule map (match, let, for_each, candidate, emit, extract, rules, use) into closures over the slots of a run, for
one of two backends: a pruned view (protocol/view) or plain JSON. Imports `protocol` and `accumulate`. The rules that
must stay true: every rule that matches runs, in order; both backends give the same facts; nothing on the wire raises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from ..protocol.paths import WILD, Path, is_path, parse_path, unescape
from ..protocol.rules import And, Compare, Cond, In, compile_condition, parse_condition, paths_of
from ..protocol.tree import merge
from ..protocol.view import Getter, Node, access, decoder_of
from ..protocol.where import Where
from .accumulate import USAGE_FIELDS, Accumulator

__all__ = ["FACTS", "Compiled", "Rules"]

Slots = list[Any]
Run = Callable[[Slots, Accumulator], None]

# Facts and their fields, the main one first. A field is `text` (only text counts), `key` (text or a whole number),
# `flag` (only true counts), `number`, `const` (a literal) or `any` (taken whole).
FACTS: Mapping[str, Mapping[str, str]] = {
    "PartialContentDelta": {"content": "text", "index": "key", "alone": "flag", "signature": "text", "native": "any"},
    "Refusal": {"content": "text", "index": "key"},
    "ThinkingDelta": {
        "thinking": "text", "index": "key", "part": "number", "alone": "flag", "signature": "text", "encrypted": "text",
        "id": "text", "native": "any",
    },
    "ToolCall": {
        "index": "key", "tool_call_id": "text", "tool_name": "text", "arguments": "any", "input": "any",
        "is_complete": "flag", "signature": "text", "item_id": "text", "native": "any",
    },
    "ServerBlock": {
        "index": "key", "id": "text", "name": "text", "input": "any", "result": "any", "native": "any",
        "arguments_at": "text", "is_complete": "flag",
    },
    "OpaqueBlock": {
        "index": "key", "kind": "text", "data": "any", "piece": "text", "piece_at": "text", "is_complete": "flag",
    },
    "BlockEnded": {"index": "key"},
    "Citation": {"data": "any", "index": "key"},
    "MediaPart": {"mime_type": "text", "data": "text", "url": "text", "signature": "text"},
    "Usage": {**dict.fromkeys(USAGE_FIELDS, "number"), "raw": "any"},
    "Metadata": {"model": "text", "response_id": "text"},
    "FinalCandidate": {"finish_reason": "number"},
    "Complete": {},
    "StreamError": {"code": "any", "type": "any", "message": "any", "status": "number", "error": "any"},
}  # fmt: skip
# Names that the specification's manifests use for the same facts.
_ALIASES = {
    "ToolCallStarted": "ToolCall",
    "PartialToolCall": "ToolCall",
    "ToolCallEnded": "BlockEnded",
    "StreamEnd": "FinalCandidate",
    "RefusalDelta": "Refusal",
}
_RULE_KEYS = ("doc", "use", "match", "let", "for_each", "candidate", "emit", "extract", "rules")
_OPERATORS = {
    "$first": ("$first",),
    "$case": ("$case", "of", "else"),
    "$if": ("$if", "then", "else"),
    "$json": ("$json",),
    "$join": ("$join", "by"),
    "$cut": ("$cut", "at"),
}


class _Name(NamedTuple):
    slot: int
    node: Node
    where: Where | None  # of the `let` that bound it, to say when it is never used


class _Scope:
    """The names in force at a rule, and the slots of a run."""

    def __init__(self, names: dict[str, _Name], slots: list[int]) -> None:
        self.names = names
        self._slots = slots  # shared by all scopes of a program: how many there are

    def fresh(self) -> int:
        self._slots[0] += 1
        return self._slots[0] - 1

    def bind(self, name: str, node: Node, where: Where | None = None) -> tuple[_Scope, int]:
        slot = self.fresh()
        return _Scope({**self.names, name: _Name(slot, node, where)}, self._slots), slot

    def position(self, name: str, slot: int) -> _Scope:
        return _Scope({**self.names, name + "#": _Name(slot, Node(), None)}, self._slots)


class Compiled(NamedTuple):
    """Rules ready to run. `run(slots, accumulator)` wants the frame in slot 0, the event's name in 1, headers in 2."""

    run: Run
    slots: int
    decoder: msgspec.json.Decoder[Any]


class Rules:
    """The rules of one kind of frame, parsed and checked. `compile` makes a backend of them."""

    def __init__(self, maps: list[tuple[Mapping[str, Any], Where]], define: Mapping[str, Any], where: Where) -> None:
        self.root = Node()
        self.facts: set[str] = set()
        self._define = define
        self._where = where
        self.used_defines: set[str] = set()
        self._used_lets: set[int] = set()
        self._slots = [3]
        names = {
            "": _Name(0, self.root, None),
            "event": _Name(1, Node(), None),
            "header": _Name(2, Node(), None),
        }
        names["header"].node.take()
        self._scope = _Scope(names, self._slots)
        self._lets: list[tuple[int, Where]] = []
        self._rules = [rule for tree, at in maps for rule in self._parse_map(tree, at, self._scope)]
        for slot, at in self._lets:
            if slot not in self._used_lets:
                raise at.error("expected a name that some path uses, got one that is never used")

    # ---- parsing: paths are registered in the tree of the view, mistakes are refused ----

    def _parse_map(self, tree: Any, where: Where, scope: _Scope, outer: tuple[str, ...] = ()) -> list[_Rule]:
        if not isinstance(tree, Mapping):
            raise where.error(f"expected a map of rules, got {tree!r}")
        return [self._parse_rule(rule, where.at(name), scope, outer) for name, rule in tree.items() if rule is not None]

    def _parse_rule(self, tree: Any, where: Where, scope: _Scope, outer: tuple[str, ...]) -> _Rule:
        if not isinstance(tree, Mapping):
            raise where.error(f"expected a rule (a map of {', '.join(_RULE_KEYS)}), got {tree!r}")
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
                return self._parse_rule(tree, where, scope, outer)
        for key in tree:
            if key not in _RULE_KEYS:
                raise where.at(str(key)).error(f"expected one of {', '.join(_RULE_KEYS)}, got {key!r}")
        rule = _Rule()
        inner = self._parse_let(tree.get("let"), where.at("let"), scope, rule)
        inner = self._parse_for_each(tree.get("for_each"), where.at("for_each"), inner, rule)
        if tree.get("match") is not None:
            at = where.at("match")
            cond = parse_condition(tree["match"], at)
            own_names = set(inner.names) - set(scope.names)
            rule.is_early = all(self._root(path) not in own_names for path in paths_of(cond))
            rule.cond = cond
            for path in paths_of(cond):
                self._register(path, inner, at, value=False)
            rule.cond_scope = inner
        if tree.get("candidate") is not None:
            rule.candidate = self._value(tree["candidate"], where.at("candidate"), inner, "number")
        self._parse_emit(tree, where, inner, rule)
        if tree.get("rules") is not None:
            rule.rules = self._parse_map(tree["rules"], where.at("rules"), inner, outer)
        if rule.fact is None and not rule.rules:
            raise where.error("expected a rule with `emit` or `rules`, got neither")
        return rule

    @staticmethod
    def _root(path: Path) -> str:
        return path.root + "#" if path.position else path.root

    def _parse_let(self, tree: Any, where: Where, scope: _Scope, rule: _Rule) -> _Scope:
        if tree is None:
            return scope
        if not isinstance(tree, Mapping):
            raise where.error(f"expected a map of names to paths, got {tree!r}")
        for name, value in tree.items():
            at = where.at(name)
            _check_name(name, scope, at)
            paths = []
            nodes = []
            for text in value if isinstance(value, list) else [value]:
                path = self._path(text, at)
                if path.is_wild:
                    raise at.error(f"expected a path to one value, got `{text}`: many values are for `for_each`")
                nodes.append(self._register(path, scope, at, value=False))
                paths.append((path, scope))
            node = nodes[0]
            for other in nodes[1:]:
                node = node.unify(other)
            scope, slot = scope.bind(name, node, at)
            self._lets.append((slot, at))
            rule.lets.append((slot, paths))
        return scope

    def _parse_for_each(self, tree: Any, where: Where, scope: _Scope, rule: _Rule) -> _Scope:
        if tree is None:
            return scope
        if not isinstance(tree, Mapping) or len(tree) != 1:
            raise where.error(f"expected one name and its path, got {tree!r}")
        ((name, text),) = tree.items()
        at = where.at(name)
        _check_name(name, scope, at)
        path = self._path(text, at)
        if WILD in path.steps:
            raise at.error(f"expected a path to a list, got `{text}`: nest another `for_each` instead of `[*]`")
        node = self._register(path, scope, at, value=False)
        rule.for_each = (path, scope)
        elements = Node() if path.query else node.at(WILD)
        if path.query:
            elements.take()
        scope, rule.element = scope.bind(name, elements)
        rule.number = scope.fresh()
        return scope.position(name, rule.number)

    def _parse_emit(self, tree: Mapping[str, Any], where: Where, scope: _Scope, rule: _Rule) -> None:
        emit, extract = tree.get("emit"), tree.get("extract")
        if emit is None:
            if extract is not None:
                raise where.at("extract").error("expected `emit` beside `extract`, got none")
            return
        fact = _ALIASES.get(emit, emit) if isinstance(emit, str) else None
        if fact not in FACTS or fact is None:
            raise where.at("emit").error(f"expected a fact ({', '.join([*FACTS, *_ALIASES])}), got {emit!r}")
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

    def _register(self, path: Path, scope: _Scope, where: Where, *, value: bool) -> Node:
        """Note that the path is read; `value` says that whatever stands there is taken whole."""
        found = scope.names.get(self._root(path))
        if found is None:
            known = ", ".join("$" + name for name in scope.names if name)
            raise where.error(f"expected a bound name ({known}), got `{path}`")
        self._used_lets.add(found.slot)
        if path.query:
            found.node.take()
            return Node()
        node = found.node.along(path.steps)
        if value:
            node.take()
        return node

    def _value(self, tree: Any, where: Where, scope: _Scope, kind: str) -> _Value:
        """A value's template: a constant, a path, an operator, or an object of templates."""
        if is_path(tree):
            path = parse_path(tree, where)
            if WILD in path.steps:
                raise where.error(f"expected a path to one value, got `{tree}`: `[*]` is for conditions")
            self._register(path, scope, where, value=kind == "any")
            return _first_match(path, scope) if path.query else lambda make: make(path, scope)
        if isinstance(tree, str):
            text = unescape(tree)
            return lambda make: lambda slots: text
        if tree is None or isinstance(tree, bool | int | float):
            return lambda make: lambda slots: tree
        if not isinstance(tree, Mapping):
            raise where.error(f"expected a constant, a path or an operator, got {tree!r}")
        names = [key for key in tree if isinstance(key, str) and key.startswith("$")]
        if not names:
            if kind != "any":
                raise where.error("expected a constant, a path or an operator, got an object")
            return _object({key: self._value(value, where.at(key), scope, "any") for key, value in tree.items()})
        operator = names[0]
        known = _OPERATORS.get(operator)
        if known is None or len(names) > 1:
            raise where.error(f"expected one operator of {', '.join(_OPERATORS)}, got {', '.join(names)}")
        for key in tree:
            if key not in known:
                raise where.at(str(key)).error(f"expected one of {', '.join(known)} with {operator}, got {key!r}")
        return self._operator(operator, tree, where, scope, kind)

    def _operator(self, operator: str, tree: Mapping[str, Any], where: Where, scope: _Scope, kind: str) -> _Value:
        def part(key: str, kind: str) -> _Value:
            return self._value(tree.get(key), where.at(key), scope, kind)

        if operator in ("$first", "$join"):
            parts = tree[operator]
            if not isinstance(parts, list) or not parts:
                raise where.at(operator).error(f"expected a list of values, got {parts!r}")
            inner = "text" if operator == "$join" else kind
            values = [self._value(item, where.at(operator, at), scope, inner) for at, item in enumerate(parts)]
            if operator == "$first":
                return _first(values)
            by = tree.get("by", "")
            if not isinstance(by, str):
                raise where.at("by").error(f"expected a text, got {by!r}")
            return _join(values, by)
        if operator == "$if":
            at = where.at("$if")
            cond = parse_condition(tree["$if"], at)
            for path in paths_of(cond):
                self._register(path, scope, at, value=False)
            return _if(cond, scope, part("then", kind), part("else", kind))
        if operator == "$case":
            of = tree.get("of")
            if not isinstance(of, Mapping):
                raise where.at("of").error(f"expected a map of values, got {of!r}")
            cases = {key: self._value(value, where.at("of", key), scope, kind) for key, value in of.items()}
            return _case(part("$case", "text"), cases, part("else", kind))
        if operator == "$json":
            return _json(part("$json", "any"))
        at_text = tree.get("at")
        if not isinstance(at_text, str) or not at_text:
            raise where.at("at").error(f"expected a text to cut at, got {at_text!r}")
        return _cut(part("$cut", "text"), at_text)

    # ---- compiling ----

    def compile(self, backend: str) -> Compiled:
        """Closures over a pruned view (`view`) or over plain JSON (`generic`)."""
        typed = backend == "view"
        decoder = decoder_of(self.root) if typed else msgspec.json.Decoder()

        def make(path: Path, scope: _Scope) -> Getter:
            found = scope.names[self._root(path)]
            return access(path, found.slot, found.node if typed else None)

        return Compiled(_run_all(self._rules, make), self._slots[0], decoder)


Make = Callable[[Path, _Scope], Getter]
_Value = Callable[[Make], Getter]


class _Rule:
    """A rule, parsed. Slots are positions in a run's list of values."""

    def __init__(self) -> None:
        self.cond: Cond | None = None
        self.cond_scope: _Scope | None = None
        self.is_early = False  # the condition names nothing that the rule itself binds
        self.lets: list[tuple[int, list[tuple[Path, _Scope]]]] = []
        self.for_each: tuple[Path, _Scope] | None = None
        self.element = 0
        self.number = 0
        self.candidate: _Value | None = None
        self.fact: str | None = None
        self.extract: dict[str, _Value] = {}
        self.rules: list[_Rule] = []

    def tag(self) -> tuple[Path, tuple[str, ...], Cond | None] | None:
        """The path and texts that the rule's condition begins with, and what is left of the condition."""
        if not self.is_early or self.cond is None:
            return None
        head, rest = self.cond, None
        if isinstance(head, And):
            items = head.items
            head, rest = items[0], items[1] if len(items) == 2 else And(items[1:])
        if isinstance(head, Compare) and head.op == "==" and isinstance(head.literal, str):
            literals: tuple[Any, ...] = (head.literal,)
        elif isinstance(head, In) and all(isinstance(literal, str) for literal in head.literals):
            literals = head.literals
        else:
            return None
        return None if head.path.is_wild else (head.path, literals, rest)


def _check_name(name: Any, scope: _Scope, where: Where) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise where.error(f"expected a name of letters, digits and _, got {name!r}")
    if name in scope.names:
        raise where.error(f"expected a name that is free here, got {name!r}, which is bound already")


# ---- values ----


def _first_match(path: Path, scope: _Scope) -> _Value:
    def build(make: Make) -> Getter:
        search = make(path, scope)

        def get(slots: Slots) -> Any:
            found = search(slots)
            return found[0] if found else None

        return get

    return build


def _object(parts: dict[Any, _Value]) -> _Value:
    def build(make: Make) -> Getter:
        getters = [(str(key), part(make)) for key, part in parts.items()]

        def get(slots: Slots) -> Any:
            out = {key: value for key, getter in getters if (value := getter(slots)) is not None}
            return out or None

        return get

    return build


def _first(parts: list[_Value]) -> _Value:
    def build(make: Make) -> Getter:
        getters = [part(make) for part in parts]
        if len(getters) == 2:
            one, two = getters

            def either(slots: Slots) -> Any:
                value = one(slots)
                return two(slots) if value is None else value

            return either

        def get(slots: Slots) -> Any:
            for getter in getters:
                value = getter(slots)
                if value is not None:
                    return value
            return None

        return get

    return build


def _if(cond: Cond, scope: _Scope, then: _Value, other: _Value) -> _Value:
    def build(make: Make) -> Getter:
        test: Callable[[Slots], bool] = compile_condition(cond, lambda path: make(path, scope))
        yes, no = then(make), other(make)
        return lambda slots: yes(slots) if test(slots) else no(slots)

    return build


def _case(subject: _Value, cases: dict[Any, _Value], other: _Value) -> _Value:
    def build(make: Make) -> Getter:
        get_subject, get_other = subject(make), other(make)
        # Keys are looked up by type, because true equals 1 as a key.
        table = {(key.__class__ is bool, key): value(make) for key, value in cases.items()}

        def get(slots: Slots) -> Any:
            value = get_subject(slots)
            if value.__class__ not in (str, int, float, bool):
                return get_other(slots)
            return table.get((value.__class__ is bool, value), get_other)(slots)

        return get

    return build


def _json(part: _Value) -> _Value:
    def build(make: Make) -> Getter:
        getter = part(make)

        def get(slots: Slots) -> Any:
            value = getter(slots)
            if value is None or value.__class__ is str:
                return value
            return msgspec.json.encode(value).decode()

        return get

    return build


def _join(parts: list[_Value], by: str) -> _Value:
    def build(make: Make) -> Getter:
        getters = [part(make) for part in parts]

        def get(slots: Slots) -> Any:
            found = []
            for getter in getters:
                value = getter(slots)
                if value.__class__ is int:
                    value = str(value)
                if value.__class__ is not str:
                    return None
                found.append(value)
            return by.join(found)

        return get

    return build


def _cut(part: _Value, at: str) -> _Value:
    def build(make: Make) -> Getter:
        getter = part(make)

        def get(slots: Slots) -> Any:
            value = getter(slots)
            return value.partition(at)[0] if value.__class__ is str else None

        return get

    return build


# ---- rules ----


def _run_all(rules: list[_Rule], make: Make) -> Run:
    """Run every rule of a list in order; rules that test one path against texts share one look-up."""
    shared = _shared_path(rules)
    if shared is None:
        return _in_order([_compile_rule(rule, rule.cond, make) for rule in rules])
    path, scope = shared
    rows: list[tuple[frozenset[str] | None, Run]] = []
    for rule in rules:
        tag = rule.tag()
        if tag is not None and tag[0] == path:
            rows.append((frozenset(tag[1]), _compile_rule(rule, tag[2], make)))
        else:
            rows.append((None, _compile_rule(rule, rule.cond, make)))
    texts = {text for literals, _ in rows if literals is not None for text in literals}
    otherwise = _in_order([run for literals, run in rows if literals is None])
    table = {text: _in_order([run for literals, run in rows if literals is None or text in literals]) for text in texts}
    get = make(path, scope)

    def dispatch(slots: Slots, facts: Accumulator) -> None:
        value = get(slots)
        if value.__class__ is str:
            table.get(value, otherwise)(slots, facts)
        else:
            otherwise(slots, facts)

    return dispatch


def _shared_path(rules: list[_Rule]) -> tuple[Path, _Scope] | None:
    counts: dict[Path, int] = {}
    scopes: dict[Path, _Scope] = {}
    for rule in rules:
        tag = rule.tag()
        if tag is not None and rule.cond_scope is not None:
            counts[tag[0]] = counts.get(tag[0], 0) + 1
            scopes.setdefault(tag[0], rule.cond_scope)
    if not counts:
        return None
    path = max(counts, key=lambda path: counts[path])
    return (path, scopes[path]) if counts[path] > 1 else None


def _in_order(runs: list[Run]) -> Run:
    if not runs:
        return lambda slots, facts: None
    if len(runs) == 1:
        return runs[0]
    each = tuple(runs)

    def run(slots: Slots, facts: Accumulator) -> None:
        for one in each:
            one(slots, facts)

    return run


def _compile_rule(rule: _Rule, cond: Cond | None, make: Make) -> Run:
    """One rule, from the inside out: facts and inner rules, candidate, late match, for_each, let, early match."""
    runs = []
    if rule.fact is not None:
        runs.append(_EMITTERS[rule.fact]({field: value(make) for field, value in rule.extract.items()}))
    if rule.rules:
        runs.append(_run_all(rule.rules, make))
    run = _in_order(runs)
    if rule.candidate is not None:
        run = _with_candidate(rule.candidate(make), run)
    test: Callable[[Slots], bool] | None = None
    if cond is not None and rule.cond_scope is not None:
        scope = rule.cond_scope
        test = compile_condition(cond, lambda path: make(path, scope))
    if test is not None and not rule.is_early:
        run = _when(test, run)
    if rule.for_each is not None:
        run = _each(make(*rule.for_each), rule.element, rule.number, run)
    for slot, paths in reversed(rule.lets):
        run = _let(slot, [make(path, scope) for path, scope in paths], run)
    if test is not None and rule.is_early:
        run = _when(test, run)
    return run


def _when(test: Callable[[Slots], bool], inner: Run) -> Run:
    def run(slots: Slots, facts: Accumulator) -> None:
        if test(slots):
            inner(slots, facts)

    return run


def _let(slot: int, getters: list[Getter], inner: Run) -> Run:
    def run(slots: Slots, facts: Accumulator) -> None:
        for get in getters:
            value = get(slots)
            if value is not None:
                slots[slot] = value
                inner(slots, facts)
                return

    return run


def _each(get: Getter, element: int, number: int, inner: Run) -> Run:
    def run(slots: Slots, facts: Accumulator) -> None:
        found = get(slots)
        if found.__class__ is list:
            for at, value in enumerate(found):
                if value is not None:
                    slots[element] = value
                    slots[number] = at
                    inner(slots, facts)

    return run


def _with_candidate(get: Getter, inner: Run) -> Run:
    def run(slots: Slots, facts: Accumulator) -> None:
        before = facts.select(get(slots))
        inner(slots, facts)
        facts.select(before)

    return run


# ---- facts: getters of fields become calls of the accumulator. Only values of the right type are passed on. ----

Fields = Mapping[str, Getter]


def _nothing(slots: Slots) -> None:
    return None


def _text_of(fields: Fields, name: str) -> Getter:
    get = fields.get(name)
    if get is None:
        return _nothing

    def text(slots: Slots) -> Any:
        value = get(slots)
        return value if value.__class__ is str and value else None

    return text


def _key_of(fields: Fields, name: str = "index") -> Getter:
    get = fields.get(name)
    if get is None:
        return _nothing

    def key(slots: Slots) -> Any:
        value = get(slots)
        return value if value.__class__ is int or value.__class__ is str else None

    return key


def _flag_of(fields: Fields, name: str) -> Getter:
    get = fields.get(name)
    return (lambda slots: False) if get is None else (lambda slots: get(slots) is True)


def _any_of(fields: Fields, name: str) -> Getter:
    return fields.get(name, _nothing)


def _content(fields: Fields) -> Run:
    content = fields.get("content", _nothing)
    if set(fields) <= {"content"}:

        def emit(slots: Slots, facts: Accumulator) -> None:
            value = content(slots)
            if value.__class__ is str and value:
                facts.text(value)

        return emit
    key = _key_of(fields)
    if set(fields) <= {"content", "index"}:

        def emit_keyed(slots: Slots, facts: Accumulator) -> None:
            value = content(slots)
            if value.__class__ is str and value:
                facts.text(value, key(slots))

        return emit_keyed
    text, alone = _text_of(fields, "content"), _flag_of(fields, "alone")
    signature, native = _text_of(fields, "signature"), _any_of(fields, "native")

    def emit_all(slots: Slots, facts: Accumulator) -> None:
        value, seal, more = text(slots), signature(slots), native(slots)
        if value is not None or seal is not None or more is not None:
            facts.text_with(value, key(slots), alone(slots), seal, more)

    return emit_all


def _refusal(fields: Fields) -> Run:
    content, key = _text_of(fields, "content"), _key_of(fields)

    def emit(slots: Slots, facts: Accumulator) -> None:
        value = content(slots)
        if value is not None:
            facts.refusal(value, key(slots))

    return emit


def _thinking(fields: Fields) -> Run:
    thinking = _text_of(fields, "thinking")
    key, part, alone = _key_of(fields), _any_of(fields, "part"), _flag_of(fields, "alone")
    if set(fields) <= {"thinking", "index", "part"}:

        def emit_text(slots: Slots, facts: Accumulator) -> None:
            value = thinking(slots)
            if value is not None:
                number = part(slots)
                facts.thinking(value, key(slots), number if number.__class__ is int else None)

        return emit_text
    signature, encrypted, id = (_text_of(fields, name) for name in ("signature", "encrypted", "id"))
    native = _any_of(fields, "native")

    def emit(slots: Slots, facts: Accumulator) -> None:
        value, seal, sealed, own, more = thinking(slots), signature(slots), encrypted(slots), id(slots), native(slots)
        if value is None and seal is None and sealed is None and own is None and more is None:
            return
        number = part(slots)
        number = number if number.__class__ is int else None
        facts.thinking(value, key(slots), number, alone(slots), seal, sealed, own, more)

    return emit


def _call(fields: Fields) -> Run:
    key, id, name = _key_of(fields), _text_of(fields, "tool_call_id"), _text_of(fields, "tool_name")
    arguments, whole = _any_of(fields, "arguments"), _any_of(fields, "input")
    signature, item_id, native = _text_of(fields, "signature"), _text_of(fields, "item_id"), _any_of(fields, "native")
    complete = _flag_of(fields, "is_complete")

    def emit(slots: Slots, facts: Accumulator) -> None:
        facts.call(
            key(slots), id(slots), name(slots), arguments(slots), whole(slots), complete(slots), signature(slots),
            item_id(slots), native(slots),
        )  # fmt: skip

    return emit


def _server(fields: Fields) -> Run:
    key, id, name, at = (
        _key_of(fields), _text_of(fields, "id"), _text_of(fields, "name"), _text_of(fields, "arguments_at"),
    )  # fmt: skip
    whole, result, native = _any_of(fields, "input"), _any_of(fields, "result"), _any_of(fields, "native")
    complete = _flag_of(fields, "is_complete")

    def emit(slots: Slots, facts: Accumulator) -> None:
        facts.server(
            key(slots), id(slots), name(slots), whole(slots), result(slots), native(slots), at(slots), complete(slots)
        )

    return emit


def _opaque(fields: Fields) -> Run:
    key, kind, data = _key_of(fields), _text_of(fields, "kind"), _any_of(fields, "data")
    piece, at, complete = _text_of(fields, "piece"), _text_of(fields, "piece_at"), _flag_of(fields, "is_complete")

    def emit(slots: Slots, facts: Accumulator) -> None:
        facts.opaque(key(slots), kind(slots), data(slots), piece(slots), at(slots), complete(slots))

    return emit


def _ended(fields: Fields) -> Run:
    key = _key_of(fields)
    return lambda slots, facts: facts.ended(key(slots))


def _citation(fields: Fields) -> Run:
    data, key = _any_of(fields, "data"), _key_of(fields)
    return lambda slots, facts: facts.citation(data(slots), key(slots))


def _media(fields: Fields) -> Run:
    kind, data, url, seal = (_text_of(fields, name) for name in ("mime_type", "data", "url", "signature"))
    return lambda slots, facts: facts.media(kind(slots), data(slots), url(slots), seal(slots))


def _usage(fields: Fields) -> Run:
    counts = [(field, get) for field, get in fields.items() if field != "raw"]
    raw = _any_of(fields, "raw")
    return lambda slots, facts: facts.usage([(field, get(slots)) for field, get in counts], raw(slots))


def _metadata(fields: Fields) -> Run:
    model, response_id = _text_of(fields, "model"), _text_of(fields, "response_id")

    def emit(slots: Slots, facts: Accumulator) -> None:
        if facts.model is None or facts.response_id is None:
            facts.metadata(model(slots), response_id(slots))

    return emit


def _finish(fields: Fields) -> Run:
    reason = _any_of(fields, "finish_reason")

    def emit(slots: Slots, facts: Accumulator) -> None:
        value = reason(slots)
        if value is not None:
            facts.finish(value)

    return emit


def _complete(fields: Fields) -> Run:
    return lambda slots, facts: facts.complete()


def _error(fields: Fields) -> Run:
    getters = [_any_of(fields, name) for name in FACTS["StreamError"]]

    def emit(slots: Slots, facts: Accumulator) -> None:
        code, type, message, status, error = (get(slots) for get in getters)
        facts.error(code, type, message, status, error)

    return emit


_EMITTERS: Mapping[str, Callable[[Fields], Run]] = {
    "PartialContentDelta": _content,
    "Refusal": _refusal,
    "ThinkingDelta": _thinking,
    "ToolCall": _call,
    "ServerBlock": _server,
    "OpaqueBlock": _opaque,
    "BlockEnded": _ended,
    "Citation": _citation,
    "MediaPart": _media,
    "Usage": _usage,
    "Metadata": _metadata,
    "FinalCandidate": _finish,
    "Complete": _complete,
    "StreamError": _error,
}
