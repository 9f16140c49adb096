"""The paths that rules read become a decoder that reads nothing else.

Turns a tree of paths into msgspec struct types (`defstruct`), and paths into getters over what such a decoder gives.
Imports `paths`. The rule that must stay true: an inner node is a *total union*
(`Node | list[...] | str | int | float | bool | None`), so no JSON value can fail it; a wrong shape is found by a
class test, and is nothing. The plain backend (dicts and lists, the same getters) is the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Union

import msgspec

from .paths import WILD, Path, Step, compile_query

__all__ = ["Getter", "Node", "access", "decoder_of"]

Getter = Callable[
    [list[Any]], Any
]  # from the slots of a run (frame, event name, bound names) to a value, None = nothing


class Node:
    """A place in the frames that some rule reads. Nodes that one name may stand for are made the same (`unify`).

    `whole` marks a place that is also taken as a value of any shape: it stays plain JSON, and so does all below it.
    """

    __slots__ = ("_elem", "_fields", "_same", "_whole", "names", "struct")

    def __init__(self) -> None:
        self._fields: dict[str, Node] = {}
        self._elem: Node | None = None
        self._whole = False
        self._same: Node | None = None
        self.struct: type | None = None
        self.names: dict[str, str] = {}

    def find(self) -> Node:
        """The node that stands for this one after unification."""
        node = self
        while node._same is not None:
            node = node._same
        return node

    def take(self) -> None:
        """Some rule takes this value whole."""
        self.find()._whole = True

    def at(self, step: Step) -> Node:
        """The node below; it exists from now on."""
        node = self.find()
        if isinstance(step, str):
            below = node._fields.get(step)
            if below is None:
                below = node._fields[step] = Node()
            return below.find()
        if node._elem is None:
            node._elem = Node()
        return node._elem.find()

    def along(self, steps: Sequence[Step]) -> Node:
        node = self.find()
        for step in steps:
            node = node.at(step)
        return node

    def unify(self, other: Node) -> Node:
        """Make both one node: what is read of either may stand at both places."""
        mine, theirs = self.find(), other.find()
        if mine is theirs:
            return mine
        theirs._same = mine
        mine._whole = mine._whole or theirs._whole
        for key, node in theirs._fields.items():
            if key in mine.find()._fields:
                mine.find()._fields[key].unify(node)
            else:
                mine.find()._fields[key] = node
        if theirs._elem is not None:
            if mine.find()._elem is None:
                mine.find()._elem = theirs._elem
            else:
                mine.at(0).unify(theirs._elem)
        return mine.find()

    def build(self) -> Any:
        """The type of this place; what is below is settled first."""
        node = self.find()
        node._mark_loops(set(), set())
        node._spread(False, set())
        return node._type()

    def _below(self) -> list[Node]:
        below = [node.find() for node in self._fields.values()]
        return below if self._elem is None else [*below, self._elem.find()]

    def _mark_loops(self, above: set[Node], seen: set[Node]) -> None:
        # A name that stands for a place and for one inside it makes an endless type: it stays plain JSON. Each node is
        # looked below once, since there may be more ways to it than anybody can go.
        if self in above:
            self._whole = True
        elif not self._whole and self not in seen:
            seen.add(self)
            above.add(self)
            for node in self._below():
                node._mark_loops(above, seen)
            above.discard(self)

    def _spread(self, whole: bool, seen: set[Node]) -> None:
        if self in seen and (self._whole or not whole):
            return
        seen.add(self)
        self._whole = self._whole or whole
        for node in self._below():
            node._spread(self._whole, seen)

    def _type(self) -> Any:
        if self._whole or not (self._fields or self._elem):
            return Any
        elements = Any if self._elem is None else self._elem.find()._type()
        if not self._fields:
            return _total(dict, elements)
        if self.struct is None:
            fields: list[tuple[str, Any, Any]] = []
            for number, (key, below) in enumerate(self._fields.items()):
                # Own names, because `index` and `count` are methods of text and list, and keys may be anything.
                self.names[key] = f"f{number}"
                fields.append((self.names[key], below.find()._type(), None))
            rename = {name: key for key, name in self.names.items()}
            self.struct = msgspec.defstruct("Node", fields, rename=rename, gc=False)
        return _total(self.struct, elements)


def _total(inner: Any, elements: Any) -> Any:
    # typing.Union instead of `|`: the members are made at run time.
    return Union[inner, list[elements], str, int, float, bool, None]  # noqa: UP007


def decoder_of(root: Node) -> msgspec.json.Decoder[Any]:
    """A decoder of frames that keeps what the tree names. A JSON array counts as its elements."""
    if root.find()._elem is not None:  # some rule reads a frame as a list: no struct can stand for it
        root.take()
    kind = root.build()
    struct = root.find().struct
    return msgspec.json.Decoder() if struct is None else msgspec.json.Decoder(_total(struct, kind))


# ---- getters ----


class _Step(msgspec.Struct, frozen=True):
    """One step of a getter: `kind` is the class that the value must have."""

    kind: type
    key: Any
    name: str | None  # the struct's field; None for plain dicts and lists


def access(path: Path, slot: int, node: Node | None) -> Getter:
    """The getter of a path whose root is `slots[slot]`.

    `node` is that root's place in a built view, None for plain JSON. A path that names many values gives the list of
    them, None for each that has nothing.
    """
    if path.query:
        return _query(path.query, slot)
    if WILD in path.steps:
        cut = path.steps.index(WILD)
        before, below = _along(path.steps[:cut], node)
        elements = below.at(WILD) if below is not None else None
        after = access(Path("", path.steps[cut + 1 :]), 0, elements)
        return _any_element(_chain(slot, before), after, WILD in path.steps[cut + 1 :])
    return _chain(slot, _along(path.steps, node)[0])


def _along(steps: Sequence[Step], node: Node | None) -> tuple[list[_Step], Node | None]:
    """The steps as class tests and look-ups, and the place they lead to (None in plain JSON)."""
    out: list[_Step] = []
    node = None if node is None else node.find()
    for step in steps:
        if isinstance(step, str):
            if node is not None and node.struct is not None:
                out.append(_Step(node.struct, step, node.names[step]))
                node = node.at(step)
            else:
                out.append(_Step(dict, step, None))
                node = None
        else:
            out.append(_Step(list, step, None))
            node = None if node is None else node.at(step)
    return out, node


def _chain(slot: int, steps: list[_Step]) -> Getter:
    if not steps:
        return lambda slots: slots[slot]
    if len(steps) == 1 and steps[0].kind is dict:
        key = steps[0].key
        return lambda slots: slots[slot].get(key) if slots[slot].__class__ is dict else None
    looks: tuple[tuple[Any, Any, Any], ...] = tuple(
        (step.kind, step.key, None if step.name is None else attrgetter(step.name)) for step in steps
    )

    def get(slots: list[Any]) -> Any:
        value: Any = slots[slot]
        for kind, key, field in looks:
            if value.__class__ is not kind:
                return None
            if field is not None:
                value = field(value)
            elif kind is dict:
                value = value.get(key)
            elif key < len(value):
                value = value[key]
            else:
                return None
        return value

    return get


def _query(query: str, slot: int) -> Getter:
    search = compile_query(query)
    return lambda slots: search(slots[slot])


def _any_element(before: Getter, after: Getter, nested: bool) -> Getter:
    def get(slots: list[Any]) -> list[Any]:
        found = before(slots)
        if found.__class__ is not list:
            return []
        if nested:
            return [inner for element in found for inner in after([element])]
        return [after([element]) for element in found]

    return get
