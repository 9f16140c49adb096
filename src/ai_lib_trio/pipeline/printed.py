"""Rules as one printed Python function: what runs for every frame of a stream, over the pruned view, and for a whole
body, over plain JSON.

Turns `Rule`s into source, shares what paths have in common, and compiles it once. Imports `protocol`, `event_map` and
`facts`. Two rules must stay true: it agrees with the closures on every frame; no text of a manifest enters the source,
which holds slot numbers, made-up names and constants by number alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..protocol.paths import Path
from ..protocol.rules import And, Compare, Cond, Exists, In, Not, Or, value_test
from ..protocol.view import Node, access
from .accumulate import Run
from .event_map import Case, Const, Cut, First, If, Join, Json, Place, Read, Rule, Test, Value, shared_tag
from .facts import FACTS, cut, emission, entries, joined, json_text, of_kind

__all__ = ["print_rules"]

_SCALARS = frozenset((str, int, float, bool))
_Key = tuple[int, tuple[Any, ...]]  # the slot and the steps of a place


_NOTHING = ("None", "False")  # printed

_HOT = ("PartialContentDelta", "ThinkingDelta")  # facts that most frames of a stream are about


MAX_HOT = 16  # fields that rules in line may read: each is a local that every frame's run makes, and drops


def _is_hot(rule: Rule) -> bool:
    return rule.fact in _HOT or any(_is_hot(inner) for inner in rule.rules)


def _fields(rule: Rule) -> int:
    return len(rule.extract) + sum(map(_fields, rule.rules))


class _Opened:
    """An object that is read: the local that holds it, the struct's name (None: a dict), and where the test stands."""

    def __init__(self, holder: str, kind: str | None, line: int, indent: str) -> None:
        self.holder = holder
        self.kind = kind
        self.line = line  # of the source, written last, when all that is read is known
        self.indent = indent
        self.reads: list[tuple[str, str]] = []  # locals, and the fields or keys that they hold
        self.lines: list[int] = []  # of a dict's reads

    def write(self, lines: list[str], getter: str) -> None:
        holder = self.holder
        if self.kind is None and len(self.reads) == 1:
            ((local, key),) = self.reads
            at = self.lines[0]
            indent = lines[at][: -len(lines[at].lstrip())]
            lines[at] = f"{indent}{local} = {holder}.get({key}) if {holder}.__class__ is dict else None"
            lines[self.line] = ""
        elif self.kind is None:
            lines[self.line] = f"{self.indent}{getter} = {holder}.get if {holder}.__class__ is dict else nothing"
        elif len(self.reads) == 1:
            ((local, field),) = self.reads
            lines[self.line] = f"{self.indent}{local} = {holder}.{field} if {holder}.__class__ is {self.kind} else None"
        else:
            found = "; ".join([f"{local} = {holder}.{field}" for local, field in self.reads])
            nothing = " = ".join([local for local, _ in self.reads])
            lines[self.line] = (
                f"{self.indent}if {holder}.__class__ is {self.kind}: {found}\n{self.indent}else: {nothing} = None"
            )


def _nothing(key: Any) -> None:
    """What an object gives that is none."""


def print_rules(rules: list[Rule], used: set[int]) -> Run:
    """A function that runs every rule that matches, in order, over frames that `view.decoder_of` decoded.

    Over plain JSON where no decoder was made of the rules' view.
    """
    printer = _Printer(used)
    entry = printer.program(rules)
    namespace: dict[str, Any] = dict(printer.constants)
    source = "\n".join([*printer.aside, *printer.lines])
    exec(compile(source, "<rules of a dialect>", "exec"), namespace)
    run: Run = namespace[entry]
    return run


class _Printer:
    def __init__(self, used: set[int]) -> None:
        self.lines: list[str] = []
        self.aside: list[str] = []  # functions for what hardly ever runs: its locals would be made for every frame
        self._asides: dict[Rule, str] = {}
        self.constants: dict[str, Any] = {
            "scalars": _SCALARS, "json_text": json_text, "joined": joined, "cut": cut, "entries": entries,
            "nothing": _nothing,
        }  # fmt: skip
        self._used = used
        self._depth = 0
        self._names = 0
        # Places already read here, and the local that holds each: one map per block, inner blocks see outer ones.
        self._known: list[dict[_Key, str]] = [{}]
        # Objects that were looked into here: an object's class is tested once for all that is read of it.
        self._opened: list[dict[_Key, _Opened]] = [{}]
        self._certain: list[str] = []  # locals that are something in this block
        self._joins = 0  # joined texts that were printed
        # The path that the rules at hand all test first, and the texts that it has here.
        self._tagged: Path | None = None
        self._texts: list[str] | None = None

    # ---- source ----

    def line(self, text: str) -> None:
        self.lines.append("    " * self._depth + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        self.line(head)
        self._depth += 1
        self._known.append({})
        self._opened.append({})
        before, certain = len(self.lines), len(self._certain)
        yield
        if len(self.lines) == before:
            self.line("pass")
        del self._certain[certain:]
        for opened in self._opened.pop().values():
            opened.write(self.lines, f"g{opened.line}")
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
        groups: dict[tuple[int, ...], list[str]] = {}  # rules by number, and the texts that they all match
        self._tagged = shared.path
        for text in sorted(texts):
            members = tuple(at for at, (_, own, _) in enumerate(rows) if own is None or text in own)
            groups.setdefault(members, []).append(text)
        otherwise = self.function([(rule, test) for rule, own, test in rows if own is None])
        hot, cold = [], []
        for members, own in groups.items():
            self._texts = own
            rules_of = [(rows[at][0], rows[at][2]) for at in members]
            if any(_is_hot(rule) for rule, _ in rules_of) and sum(_fields(rule) for rule, _ in rules_of) <= MAX_HOT:
                hot.append((own, rules_of))
            else:
                cold.append((own, self.function(rules_of)))
        self._texts = None
        entry, table = self.name("f"), self.name("k")
        with self.block(f"def {entry}(s0, s1, s2, facts):"):
            value = self.read(shared)
            for own, rules_of in hot:  # in line, where most frames go
                head = " or ".join([f"{value} == {self.constant(text)}" for text in own])
                self._texts = own
                with self.block(f"if {head}:"):
                    for rule, test in rules_of:
                        self.outer(rule, test)
                    self.line("return")
            self._texts = None
            function = f"{table}.get({value}, {otherwise}) if {value}.__class__ is str else {otherwise}"
            self.line(f"({function})(s0, s1, s2, facts)")
        self.lines.append(f"{table} = {{}}")
        for own, name in cold:
            for text in own:
                self.lines.append(f"{table}[{self.constant(text)}] = {name}")
        return entry

    def function(self, rules: list[tuple[Rule, Test | None]]) -> str:
        name = self.name("f")
        with self.block(f"def {name}(s0, s1, s2, facts):"):
            for rule, test in rules:
                self.outer(rule, test)
        return name

    def outer(self, rule: Rule, test: Test | None) -> None:
        """A rule that stands in no other one. What a provider's error says is read in a function of its own."""
        if rule.fact != "StreamError" or rule.lets or rule.for_each is not None or rule.candidate is not None:
            self.rule(rule, test)
        elif test is None:
            self.line(f"{self.set_aside(rule)}(s0, s1, s2, facts)")
        else:
            condition = self.condition(test.cond, test)
            with self.block(f"if {condition}:"):
                self.line(f"{self.set_aside(rule)}(s0, s1, s2, facts)")

    def set_aside(self, rule: Rule) -> str:
        """The name of a function that does what a rule does once its test has held."""
        name = self._asides.get(rule)
        if name is None:
            state = self.lines, self._depth, self._known, self._opened, self._certain, self._texts
            self.lines, self._depth, self._known, self._opened, self._certain, self._texts = [], 0, [{}], [{}], [], None
            name = self._asides[rule] = self.name("f")
            with self.block(f"def {name}(s0, s1, s2, facts):"):
                self.selected(rule)
            self.aside += self.lines
            self.lines, self._depth, self._known, self._opened, self._certain, self._texts = state
        return name

    # ---- values: each prints what it needs and gives an expression without effects, mostly a local's name ----

    def known(self, key: _Key) -> str | None:
        for block in reversed(self._known):
            found: str | None = block.get(key)
            if found is not None:
                return found
        return None

    def read(self, place: Place) -> str:
        path, slot = place.path, place.slot
        if place.whole == ():
            return f"s{slot}" if place.node.find().struct is None else "facts.frame()"
        if path.is_wild:
            return self.read_many(place)
        current = f"s{slot}"
        node: Node | None = place.node.find()
        for end, step in enumerate(path.steps, 1):
            key = (slot, path.steps[:end])
            found = self.known(key)
            typed = node is not None and node.struct is not None
            if found is not None:
                pass
            elif isinstance(step, str):
                level, opened = self.open(current, (slot, path.steps[: end - 1]), node if typed else None)
                found = self.name()
                if typed and node is not None:  # read where the object is opened, so known wherever that is seen
                    opened.reads.append((found, node.names[step]))
                    self._known[level][key] = found
                else:
                    text = self.constant(step)
                    opened.reads.append((found, text))
                    opened.lines.append(len(self.lines))
                    self.line(f"{found} = g{opened.line}({text})")
                    self._known[-1][key] = found
            else:
                found = self._known[-1][key] = self.name()
                test = f"{current}.__class__ is list and {step:d} < len({current})"
                self.line(f"{found} = {current}[{step:d}] if {test} else None")
            current = found
            if node is not None:
                node = node.at(step) if typed or not isinstance(step, str) else None
        return current

    def open(self, holder: str, key: _Key, node: Node | None) -> tuple[int, _Opened]:
        """An object looked into, here or in an outer block, and that block's number; its test is written at the end."""
        last = len(self._opened) - 1
        for level in range(last, -1, -1):
            if key in self._opened[level]:
                return level, self._opened[level][key]
        kind = None if node is None else self.class_of(node)
        opened = self._opened[-1][key] = _Opened(holder, kind, len(self.lines), "    " * self._depth)
        self.lines.append("")
        return last, opened

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
            known = f"{subject} is not None and {subject}.__class__ in scalars"
            self.line(f"{number} = {look} if {known} else None")
            cases = list(value.cases.values())
            ways = [(f"{number} == {at}", case) for at, case in enumerate(cases)]
            self.choose(out, [(f"{number} is None", value.other), *ways[:-1]], ways[-1][1] if ways else value.other)
        elif isinstance(value, Json):
            self.line(f"{out} = json_text({self.value(value.item)})")
        elif isinstance(value, Join):
            items = [self.local(self.value(item)) for item in value.items]
            whole = f"joined([{', '.join(items)}], {self.constant(value.by)})"
            # Mostly the numbers that name a block, the same small objects in frame after frame: numbers become text
            # slowly.
            slot, before = self._joins, self.name()
            self._joins += 1
            same = " and ".join([f"{item} is {before}[{at}]" for at, item in enumerate(items)])
            self.line(f"{before} = facts.joins.get({slot}, {(None,) * (len(items) + 1)})")
            with self.block(f"if {same}:"):
                self.line(f"{out} = {before}[{len(items)}]")
            with self.block("else:"):
                self.line(f"{out} = {whole}")
                self.line(f"facts.joined({slot}, ({', '.join(items)}, {out}))")
        elif isinstance(value, Cut):
            self.line(f"{out} = cut({self.value(value.item)}, {self.constant(value.at)})")
        else:
            parts = [(self.constant(key), self.local(self.value(item))) for key, item in value.items.items()]
            self.line(f"{out} = None")  # mostly: no object is made for nothing
            found_any = " or ".join([f"{found} is not None" for _, found in parts]) or "False"
            with self.block(f"if {found_any}:"):
                self.line(f"{out} = {{}}")
                for key, found in parts:
                    self.line(f"if {found} is not None: {out}[{key}] = {found}")
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
            if isinstance(cond, And):
                return "(" + " and ".join([self.condition(item, test) for item in cond.items]) + ")"
            ways = [self.condition(item, test) for item in cond.items if not self.is_elsewhere(item)]
            return "(" + (" or ".join(ways) or "False") + ")"
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

    def is_elsewhere(self, cond: Cond) -> bool:
        """Whether a condition asks for a text at the shared place that it does not have here."""
        return (
            self._texts is not None
            and isinstance(cond, Compare)
            and cond.path == self._tagged
            and cond.op == "=="
            and isinstance(cond.literal, str)
            and cond.literal not in self._texts
        )

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
            self._certain.append(f"s{slot}")
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
        with (  # most lists are not there: the first test is the cheap one
            self.block(f"if {found} is not None and {found}.__class__ is list:"),
            self.block(head),
            self.block(f"if s{rule.element} is not None:"),
        ):
            self._certain.append(f"s{rule.element}")
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
            before, number = self.name(), self.local(self.value(rule.candidate))
            self.line(f"{before} = facts.at")
            self.line(f"if {number} is not {before}: facts.select({number})")
        if rule.fact == "Metadata":  # said in every frame, and known after the first
            unknown = [f"facts.{field} is None" for field in rule.extract]
            with self.block(f"if {' or '.join(unknown) or 'False'}:"):
                self.emit(rule.fact, rule.extract)
        elif rule.fact is not None:
            self.emit(rule.fact, rule.extract)
        self.rules(rule.rules)
        if before is not None:
            self.line(f"if facts.at is not {before}: facts.select({before})")

    def emit(self, fact: str, extract: dict[str, Value]) -> None:
        call = emission(fact, frozenset(extract))
        kinds = FACTS[fact]
        given: dict[str, str] = {}

        def field(name: str) -> str:
            if name not in given:
                given[name] = self.of_kind(kinds[name], extract.get(name))
            return given[name]

        def told() -> None:
            arguments = ", ".join([field(name) for name in call.fields])
            if call.method == "text_with":  # mostly without any of its attributes, and one call less
                plain = [one for one in (field("signature"), field("native"), field("alone")) if one not in _NOTHING]
                test = " and ".join([f"not {one}" if one == field("alone") else f"{one} is None" for one in plain])
                with self.block(f"if {test or 'True'}:"):
                    self.line(f"facts.text({field('content')}, {field('index')})")
                with self.block("else:"):
                    self.line(f"facts.text_with({arguments})")
                return
            self.line(f"facts.{call.method}({arguments})")

        wanted = None if call.wants is None else [name for name in call.wants if name in extract]
        if wanted is None:
            told()
        elif len(wanted) == 1 and kinds[wanted[0]] == "text" and not isinstance(extract[wanted[0]], Const):
            text = given[wanted[0]] = self.local(self.value(extract[wanted[0]]))
            with self.block(f"if {text} and {text}.__class__ is str:"):
                told()
        elif wanted:
            found = [field(name) for name in wanted]
            if any(one in self._certain or one in self.constants for one in found) or "True" in found:
                told()
                return
            tests = [
                one if kinds[name] == "flag" else f"{one} is not None"
                for name, one in zip(wanted, found, strict=True)
                if one not in ("None", "False")
            ]
            if tests:
                with self.block(f"if {' or '.join(tests)}:"):
                    told()

    def of_kind(self, kind: str, value: Value | None) -> str:
        """A field's value, or nothing where it is of another type: `facts.of_kind`, in line."""
        if value is None:
            return "False" if kind == "flag" else "None"
        if isinstance(value, Const):
            return self.constant(of_kind(kind, value.value))
        if kind == "later" and isinstance(value, Read) and value.place.whole:
            place = value.place
            if place.node.find().struct is None:  # plain JSON for another rule's sake
                return f"s{place.slot}"
            out, steps = self.name(), self.constant(place.whole)
            kind = self.class_of(place.node.find())
            self.line(f"{out} = (facts.data, facts.element, {steps}) if s{place.slot}.__class__ is {kind} else None")
            return out
        if kind in ("any", "later", "word"):
            return self.local(self.value(value))
        found = self.local(self.value(value))
        out = self.name()
        if kind == "text":
            self.line(f"{out} = {found} if {found} and {found}.__class__ is str else None")
        elif kind == "key" and isinstance(value, Join):  # text already
            return found
        elif kind == "key":
            self.line(f"{out} = {found} if {found}.__class__ is int or {found}.__class__ is str else None")
        elif kind == "count":
            self.line(f"{out} = {found} if {found}.__class__ is int else None")
        else:
            self.line(f"{out} = {found} is True")
        return out
