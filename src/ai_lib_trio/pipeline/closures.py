"""Rules as closures over plain JSON: the reference that the printed backend must agree with.

Turns `Rule`s into one function over the slots of a run. Imports `protocol` and `event_map`. It serves error replies,
and frames that msgspec refuses; speed is the other backend's job. The rule that must stay true: nothing on the wire
raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..protocol.rules import compile_condition
from ..protocol.view import Getter, access
from .accumulate import Accumulator, Run
from .event_map import Case, Const, Cut, First, If, Join, Json, Object, Place, Read, Rule, Test, Value, shared_tag
from .facts import FACTS, cut, emission, entries, joined, json_text, of_kind

__all__ = ["close_over"]

Slots = list[Any]
_Step = Callable[[Slots, Accumulator], None]


def close_over(rules: list[Rule], slots: int) -> Run:
    """A function that runs every rule that matches, in order."""
    step = _in_order(rules)

    def run(frame: Any, event: str | None, headers: Any, facts: Accumulator) -> None:
        values: Slots = [None] * slots
        values[0], values[1], values[2] = frame, event, headers
        step(values, facts)

    return run


# ---- values ----


def _get(place: Place) -> Getter:
    return access(place.path, place.slot, None)


def _predicate(test: Test) -> Callable[[Slots], bool]:
    return compile_condition(test.cond, lambda path: _get(test.places[path]))


def _value(value: Value) -> Getter:
    if isinstance(value, Const):
        constant = value.value
        return lambda slots: constant
    if isinstance(value, Read):
        get = _get(value.place)
        if not value.place.path.query:
            return get
        return lambda slots: next(iter(get(slots)), None)
    if isinstance(value, First):
        return _first([_value(item) for item in value.items])
    if isinstance(value, If):
        test, then, other = _predicate(value.test), _value(value.then), _value(value.other)
        return lambda slots: then(slots) if test(slots) else other(slots)
    if isinstance(value, Case):
        return _case(value)
    if isinstance(value, Json):
        item = _value(value.item)
        return lambda slots: json_text(item(slots))
    if isinstance(value, Join):
        items, by = [_value(item) for item in value.items], value.by
        return lambda slots: joined([item(slots) for item in items], by)
    if isinstance(value, Cut):
        item, at = _value(value.item), value.at
        return lambda slots: cut(item(slots), at)
    return _object(value)


def _first(items: list[Getter]) -> Getter:
    def get(slots: Slots) -> Any:
        for item in items:
            found = item(slots)
            if found is not None:
                return found
        return None

    return get


def _case(value: Case) -> Getter:
    subject, other = _value(value.subject), _value(value.other)
    # By type as well, because true equals 1 as a key.
    cases = {(key.__class__ is bool, key): _value(case) for key, case in value.cases.items()}

    def get(slots: Slots) -> Any:
        found = subject(slots)
        if found.__class__ not in (str, int, float, bool):
            return other(slots)
        return cases.get((found.__class__ is bool, found), other)(slots)

    return get


def _object(value: Object) -> Getter:
    entries = [(key, _value(item)) for key, item in value.items.items()]

    def get(slots: Slots) -> Any:
        found = {key: item for key, entry in entries if (item := entry(slots)) is not None}
        return found or None

    return get


# ---- rules ----


def _in_order(rules: list[Rule]) -> _Step:
    """Every rule in order; rules that test one place against texts share one look-up."""
    shared = shared_tag(rules)
    if shared is None:
        return _each_of([_rule(rule, rule.test) for rule in rules])
    rows: list[tuple[tuple[str, ...] | None, _Step]] = []
    for rule in rules:
        tag = rule.tag()
        if tag is not None and tag.place == shared:
            rows.append((tag.texts, _rule(rule, tag.rest)))
        else:
            rows.append((None, _rule(rule, rule.test)))
    texts = {text for own, _ in rows if own is not None for text in own}
    otherwise = _each_of([step for own, step in rows if own is None])
    table = {text: _each_of([step for own, step in rows if own is None or text in own]) for text in texts}
    get = _get(shared)

    def dispatch(slots: Slots, facts: Accumulator) -> None:
        value = get(slots)
        (table.get(value, otherwise) if value.__class__ is str else otherwise)(slots, facts)

    return dispatch


def _each_of(steps: list[_Step]) -> _Step:
    def run(slots: Slots, facts: Accumulator) -> None:
        for step in steps:
            step(slots, facts)

    return run


def _rule(rule: Rule, test: Test | None) -> _Step:
    """One rule, from the inside out."""
    steps = []
    if rule.fact is not None:
        steps.append(_emit(rule.fact, rule.extract))
    if rule.rules:
        steps.append(_in_order(rule.rules))
    step = _each_of(steps)
    if rule.candidate is not None:
        step = _with_candidate(_value(rule.candidate), step)
    predicate = None if test is None else _predicate(test)
    if predicate is not None and not rule.is_early:
        step = _when(predicate, step)
    if rule.for_each is not None:
        step = _each_element(_elements(rule.for_each, rule.entries), rule.element, rule.number, step)
    for slot, places in reversed(rule.lets):
        step = _let(slot, _first([_get(place) for place in places]), step)
    if predicate is not None and rule.is_early:
        step = _when(predicate, step)
    return step


def _emit(fact: str, extract: dict[str, Value]) -> _Step:
    call = emission(fact, frozenset(extract))
    kinds = FACTS[fact]
    getters = [(field, kinds[field], _value(extract.get(field, Const(None)))) for field in call.fields]

    def emit(slots: Slots, facts: Accumulator) -> None:
        given = {field: of_kind(kind, get(slots)) for field, kind, get in getters}
        if call.wants is None or any(
            given[field] is True if kinds[field] == "flag" else given[field] is not None for field in call.wants
        ):
            getattr(facts, call.method)(*given.values())

    return emit


def _when(test: Callable[[Slots], bool], inner: _Step) -> _Step:
    def run(slots: Slots, facts: Accumulator) -> None:
        if test(slots):
            inner(slots, facts)

    return run


def _let(slot: int, get: Getter, inner: _Step) -> _Step:
    def run(slots: Slots, facts: Accumulator) -> None:
        value = get(slots)
        if value is not None:
            slots[slot] = value
            inner(slots, facts)

    return run


def _elements(place: Place, of_object: bool) -> Getter:
    get = _get(place)
    return (lambda slots: entries(get(slots))) if of_object else get


def _each_element(get: Getter, element: int, number: int, inner: _Step) -> _Step:
    def run(slots: Slots, facts: Accumulator) -> None:
        found = get(slots)
        if found.__class__ is list:
            for at, value in enumerate(found):
                if value is not None:
                    slots[element], slots[number] = value, at
                    inner(slots, facts)

    return run


def _with_candidate(get: Getter, inner: _Step) -> _Step:
    def run(slots: Slots, facts: Accumulator) -> None:
        before = facts.select(get(slots))
        inner(slots, facts)
        facts.select(before)

    return run
