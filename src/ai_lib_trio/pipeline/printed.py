"""Rules as one printed Python function over the pruned view: what runs for every frame of a stream.

Turns `Rule`s into source, shares what paths have in common, and compiles it once. Imports `protocol`, `event_map`, and
the value helpers of `closures`. Two rules must stay true: it agrees with the closures on every frame; no text of a
manifest enters the source, which holds slot numbers, made-up names and constants by number alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..protocol.rules import And, Compare, Cond, Exists, In, Not, Or, value_test
from ..protocol.view import Node, access
from .closures import Run, cut, entries, joined, json_text
from .event_map import Case, Const, Cut, First, If, Join, Json, Place, Read, Rule, Test, Value, shared_tag
from .facts import FACTS, emission

__all__ = ["print_rules"]

_SCALARS = frozenset((str, int, float, bool))


def print_rules(rules: list[Rule], used: set[int]) -> Run:
    """A function that runs every rule that matches, in order, over frames that `view.decoder_of` decoded."""
    printer = _Printer(used)
    entry = printer.program(rules)
    namespace: dict[str, Any] = dict(printer.constants)
    exec(compile("\n".join(printer.lines), "<rules of a dialect>", "exec"), namespace)
    run: Run = namespace[entry]
    return run


class _Printer:
    def __init__(self, used: set[int]) -> None:
        self.lines: list[str] = []
        self.constants: dict[str, Any] = {
            "scalars": _SCALARS, "json_text": json_text, "joined": joined, "cut": cut, "entries": entries,
        }  # fmt: skip
        self._used = used
        self._depth = 0
        self._names = 0
        # Places already read here, and the local that holds each: one map per block, inner blocks see outer ones.
        self._known: list[dict[tuple[int, tuple[Any, ...]], str]] = [{}]

    # ---- source ----

    def line(self, text: str) -> None:
        self.lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.line(head)
        self._depth += 1
        self._known.append({})
        before = len(self.lines)
        yield
        if len(self.lines) == before:
            self.line("pass")
        self._known.pop()
        self._depth -= 1

    def name(self, stem: str = "v") -> str:
        self._names += 1
        return f"{stem}{self._names}"

    def constant(self, value: Any) -> str:
        if value is None or value is True or value is False:
            return repr(value)
        name = self.name("k")
        self.constants[name] = value
        return name

    def program(self, rules: list[Rule]) -> str:
        """Prints a function for the whole list and gives its name; one for each text of a shared test beside it."""
        shared = shared_tag(rules)
        if shared is None:
            return self.function([(rule, rule.test) for rule in rules])
        rows = []
        for rule in rules:
            tag = rule.tag()
            mine = tag is not None and tag.place == shared
            rows.append((rule, tag.texts if mine and tag else None, tag.rest if mine and tag else rule.test))
        texts = {text for _, own, _ in rows if own is not None for text in own}
        otherwise = self.function([(rule, test) for rule, own, test in rows if own is None])
        groups: dict[tuple[int, ...], str] = {}  # texts that the same rules match share a function
        table: dict[str, str] = {}
        for text in sorted(texts):
            members = tuple(at for at, (_, own, _) in enumerate(rows) if own is None or text in own)
            if members not in groups:
                groups[members] = self.function([(rows[at][0], rows[at][2]) for at in members])
            table[text] = groups[members]
        entry, names = self.name("f"), self.name("k")
        with self.block(f"def {entry}(s0, s1, s2, facts):"):
            value = self.read(shared)
            self.line(
                f"({names}.get({value}, {otherwise}) if {value}.__class__ is str else {otherwise})(s0, s1, s2, facts)"
            )
        self.lines.append(f"{names} = {{}}")
        for text, function in table.items():
            self.lines.append(f"{names}[{self.constant(text)}] = {function}")
        return entry

    def function(self, rules: list[tuple[Rule, Test | None]]) -> str:
        name = self.name("f")
        with self.block(f"def {name}(s0, s1, s2, facts):"):
            for rule, test in rules:
                self.rule(rule, test)
        return name

    # ---- values: each prints what it needs and gives an expression without effects, mostly a local's name ----

    def known(self, key: tuple[int, tuple[Any, ...]]) -> str | None:
        for block in reversed(self._known):
            found: str | None = block.get(key)
            if found is not None:
                return found
        return None

    def read(self, place: Place) -> str:
        path, slot = place.path, place.slot
        if path.is_wild:
            return self.read_many(place)
        current = f"s{slot}"
        node: Node | None = place.node.find()
        for end, step in enumerate(path.steps, 1):
            key = (slot, path.steps[:end])
            found = self.known(key)
            typed = node is not None and node.struct is not None
            if found is None:
                found = self._known[-1][key] = self.name()
                if typed and node is not None and isinstance(step, str):
                    kind = self.class_of(node)
                    self.line(f"{found} = {current}.{node.names[step]} if {current}.__class__ is {kind} else None")
                elif isinstance(step, str):
                    text = self.constant(step)
                    self.line(f"{found} = {current}.get({text}) if {current}.__class__ is dict else None")
                else:
                    test = f"{current}.__class__ is list and {step:d} < len({current})"
                    self.line(f"{found} = {current}[{step:d}] if {test} else None")
            current = found
            if node is not None:
                node = node.at(step) if typed or not isinstance(step, str) else None
        return current

    def class_of(self, node: Node) -> str:
        name = f"n{id(node)}"
        self.constants[name] = node.struct
        return name

    def read_many(self, place: Place) -> str:
        """A list: what a path with wildcards or a query finds."""
        found = self.name()
        getter = self.constant(access(place.path, 0, place.node))
        self.line(f"{found} = {getter}((s{place.slot},))")
        return found

    def value(self, value: Value) -> str:
        if isinstance(value, Const):
            return self.constant(value.value)
        if isinstance(value, Read):
            found = self.read(value.place)
            return f"({found}[0] if {found} else None)" if value.place.path.query else found
        out = self.name()
        if isinstance(value, First):
            self.line(f"{out} = {self.value(value.items[0])}")
            self.others(out, value.items[1:])
        elif isinstance(value, If):
            condition = self.condition(value.test.cond, value.test)
            self.choose(out, [(condition, value.then)], value.other)
        elif isinstance(value, Case):
            subject = self.local(self.value(value.subject))
            numbers = {(key.__class__ is bool, key): at for at, key in enumerate(value.cases)}
            table, number = self.constant(numbers), self.name()
            look = f"{table}.get(({subject}.__class__ is bool, {subject}))"
            self.line(f"{number} = {look} if {subject}.__class__ in scalars else None")
            cases = list(value.cases.values())
            self.choose(out, [(f"{number} == {at}", case) for at, case in enumerate(cases)], value.other)
        elif isinstance(value, Json):
            self.line(f"{out} = json_text({self.value(value.item)})")
        elif isinstance(value, Join):
            items = ", ".join([self.value(item) for item in value.items])
            self.line(f"{out} = joined([{items}], {self.constant(value.by)})")
        elif isinstance(value, Cut):
            self.line(f"{out} = cut({self.value(value.item)}, {self.constant(value.at)})")
        else:
            self.line(f"{out} = {{}}")
            for key, item in value.items.items():
                found = self.local(self.value(item))
                self.line(f"if {found} is not None: {out}[{self.constant(key)}] = {found}")
            self.line(f"{out} = {out} or None")
        return out

    def local(self, expression: str) -> str:
        """A name for an expression that is used more than once."""
        if expression.isidentifier():
            return expression
        name = self.name()
        self.line(f"{name} = {expression}")
        return name

    def others(self, out: str, items: tuple[Value, ...]) -> None:
        if items:
            with self.block(f"if {out} is None:"):
                self.line(f"{out} = {self.value(items[0])}")
                self.others(out, items[1:])

    def choose(self, out: str, ways: list[tuple[str, Value]], other: Value) -> None:
        if not ways:
            self.line(f"{out} = {self.value(other)}")
            return
        condition, value = ways[0]
        with self.block(f"if {condition}:"):
            self.line(f"{out} = {self.value(value)}")
        if len(ways) > 1:
            for condition, value in ways[1:]:
                with self.block(f"elif {condition}:"):
                    self.line(f"{out} = {self.value(value)}")
        with self.block("else:"):
            self.line(f"{out} = {self.value(other)}")

    def condition(self, cond: Cond, test: Test) -> str:
        if isinstance(cond, And | Or):
            word = " and " if isinstance(cond, And) else " or "
            return "(" + word.join([self.condition(item, test) for item in cond.items]) + ")"
        if isinstance(cond, Not):
            return f"(not {self.condition(cond.item, test)})"
        found = self.read(test.places[cond.path])
        if cond.path.is_wild:
            return f"any(map({self.constant(value_test(cond))}, {found}))"
        if isinstance(cond, Exists):
            return f"{found} is not None"
        if isinstance(cond, Compare) and cond.op in ("==", "!=") and isinstance(cond.literal, str):
            return f"{found} {cond.op} {self.constant(cond.literal)}"
        if isinstance(cond, Compare) and cond.op in ("==", "!=") and cond.literal.__class__ in (bool, type(None)):
            return f"{found} {'is' if cond.op == '==' else 'is not'} {cond.literal}"
        if isinstance(cond, In) and all(isinstance(literal, str) for literal in cond.literals):
            return f"({found}.__class__ is str and {found} in {self.constant(frozenset(cond.literals))})"
        return f"{self.constant(value_test(cond))}({found})"

    # ---- rules ----

    def rules(self, rules: list[Rule]) -> None:
        for rule in rules:
            self.rule(rule, rule.test)

    def rule(self, rule: Rule, test: Test | None) -> None:
        if test is not None and rule.is_early:
            condition = self.condition(test.cond, test)
            with self.block(f"if {condition}:"):
                self.lets(rule, rule.lets, None)
        else:
            self.lets(rule, rule.lets, test)

    def lets(self, rule: Rule, lets: list[tuple[int, list[Place]]], test: Test | None) -> None:
        if not lets:
            self.elements(rule, test)
            return
        slot, places = lets[0]
        self.line(f"s{slot} = {self.read(places[0])}")
        self.other_places(slot, places[1:])
        with self.block(f"if s{slot} is not None:"):
            self.lets(rule, lets[1:], test)

    def other_places(self, slot: int, places: list[Place]) -> None:
        if places:
            with self.block(f"if s{slot} is None:"):
                self.line(f"s{slot} = {self.read(places[0])}")
                self.other_places(slot, places[1:])

    def elements(self, rule: Rule, test: Test | None) -> None:
        if rule.for_each is None:
            self.tested(rule, test)
            return
        found = self.read(rule.for_each)
        if rule.entries:
            found = self.local(f"entries({found})")
        if rule.number in self._used:
            head = f"for s{rule.number}, s{rule.element} in enumerate({found}):"
        else:
            head = f"for s{rule.element} in {found}:"
        with (
            self.block(f"if {found}.__class__ is list:"),
            self.block(head),
            self.block(f"if s{rule.element} is not None:"),
        ):
            self.tested(rule, test)

    def tested(self, rule: Rule, test: Test | None) -> None:
        if test is None:
            self.selected(rule)
            return
        condition = self.condition(test.cond, test)
        with self.block(f"if {condition}:"):
            self.selected(rule)

    def selected(self, rule: Rule) -> None:
        before = None
        if rule.candidate is not None:
            before, number = self.name(), self.value(rule.candidate)
            self.line(f"{before} = facts.select({number})")
        if rule.fact == "Metadata":  # said in every frame, and known after the first
            with self.block("if facts.model is None or facts.response_id is None:"):
                self.emit(rule.fact, rule.extract)
        elif rule.fact is not None:
            self.emit(rule.fact, rule.extract)
        self.rules(rule.rules)
        if before is not None:
            self.line(f"facts.select({before})")

    def emit(self, fact: str, extract: dict[str, Value]) -> None:
        call = emission(fact, frozenset(extract))
        kinds = FACTS[fact]
        given: dict[str, str] = {}

        def field(name: str) -> str:
            if name not in given:
                given[name] = self.of_kind(kinds[name], extract.get(name))
            return given[name]

        if call.wants is None:
            arguments = ", ".join([field(name) for name in call.fields])
            self.line(f"facts.{call.method}({arguments})")
            return
        wanted = [name for name in call.wants if name in extract]
        if not wanted:
            return
        tests = []
        for name in wanted:
            found = field(name)
            tests.append(found if kinds[name] == "flag" else f"{found} is not None")
        with self.block(f"if {' or '.join(tests)}:"):
            arguments = ", ".join([field(name) for name in call.fields])
            self.line(f"facts.{call.method}({arguments})")

    def of_kind(self, kind: str, value: Value | None) -> str:
        """A field's value, or nothing where it is of another type: `closures.of_kind`, in line."""
        if value is None:
            return "False" if kind == "flag" else "None"
        if kind in ("any", "word"):
            return self.local(self.value(value))
        found = self.local(self.value(value))
        out = self.name()
        if kind == "text":
            self.line(f"{out} = {found} if {found}.__class__ is str and {found} else None")
        elif kind == "key":
            self.line(f"{out} = {found} if {found}.__class__ is int or {found}.__class__ is str else None")
        elif kind == "count":
            self.line(f"{out} = {found} if {found}.__class__ is int else None")
        else:
            self.line(f"{out} = {found} is True")
        return out
