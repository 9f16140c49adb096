"""A template of a manifest becomes a function from a scope to a JSON value.

    value = literal | path | operator (a mapping with a `$op` key) | object | list

Imports `errors` and `protocol` (paths, rules, where). The rules that must stay true: an object drops entries that are
nothing, and is nothing itself if it had dynamic entries and all of them are nothing; a template without any path is a
constant and stays; a list without elements is nothing; what comes from a path is copied whole, never pruned. Nothing is
None. What is wrong with a template is said when it is compiled, with file, line and path.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from ..errors import CallerError
from ..protocol.paths import Path, is_path, parse_path, scope_getter, unescape
from ..protocol.rules import And, Compare, compile_condition, parse_condition, paths_of, same
from ..protocol.where import Where

__all__ = [
    "RENDERED",
    "Compiler",
    "Names",
    "Node",
    "Reader",
    "Scope",
    "Template",
    "bind",
    "compile_template",
    "covers",
    "json_text",
    "short",
]

Scope = dict[str, Any]
Template = Callable[[Mapping[str, Any]], Any]
Run = Callable[[Scope], Any]

# A template may use a definition at many places, and each use is compiled anew. Our largest dialect has about 200
# nodes; a definition that doubles itself twenty times would have a million.
MAX_NODES = 20_000

RENDERED = " rendered"  # key of a block in the lens: a template made something of it


class _Null:
    """What `$keep` gives for nothing: objects and lists write it as null."""

    def __repr__(self) -> str:
        return "null"


_NULL: Any = _Null()


class Node(msgspec.Struct, frozen=True):
    """A compiled part. `constant` parts give `value` every time; `listy` parts are made by a list operator.

    What most parts of a body are is told to what holds them, so that it need not be called: a `place` is the bound name
    and the key that a plain path reads; a part that `needs` a key of the root is nothing where the root lacks it, or,
    with a flag beside the key, has anything but that.
    """

    run: Run
    constant: bool = False
    value: Any = None
    listy: bool = False
    place: tuple[str, str] | None = None
    needs: tuple[str, bool | None] | None = None


class Reader:
    """What a compiler asks about the values that paths lead to. This one knows nothing and allows everything.

    A shape is whatever the reader likes; None means unknown.
    """

    def root(self) -> Any:
        return None

    def step(self, shape: Any, step: str, where: Where, text: str) -> Any:
        """The shape at a key of a shape. Raises the load error for a key that cannot be there."""
        return None

    def element(self, shape: Any) -> Any:
        """The shape of a list's elements."""
        return None

    def is_block(self, shape: Any) -> bool:
        """Whether a value of this shape is a content block, so that `$each` marks what it rendered."""
        return False

    def cover(self, shape: Any, key: str) -> str | None:
        """The mark to leave on a value whose `key` is read: reading a message's text renders its text blocks."""
        return None

    def describe(self, block: Any) -> str:
        """A block in an error message."""
        return "a block"

    def misfit(self, block: Any) -> str:
        """The message for a block that has no place."""
        return f"{self.describe(block)} has no place"


class _Binding:
    __slots__ = ("position_used", "shape", "used")

    def __init__(self, shape: Any) -> None:
        self.shape = shape
        self.used = False
        self.position_used = False


Names = dict[str, _Binding]


def compile_template(
    tree: Any, where: Where, *, define: Mapping[str, Any] | None = None, names: Collection[str] | None = None
) -> Template:
    """A function from a scope (`""` is the root of `$`, other keys are bound names) to a value, None for nothing.

    `define` holds the templates that `$use` names. `names` are the names that a scope will bind; without it any name
    is taken, and one that the scope lacks is nothing. Raises ManifestError; the function raises CallerError
    (`bad_argument`) where the template refuses a value.
    """
    compiler = Compiler(define or {}, where)
    bound = None if names is None else bind(names)
    node = compiler.compile(tree, where, bound)
    return compiler.function(node)


def bind(names: Collection[str]) -> Names:
    """Names that a scope binds to values of which nothing is known."""
    return {name: _Binding(None) for name in names if name}


def short(value: Any) -> str:
    """A value in an error message: enough to recognise it, never a prompt."""
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"a text of {len(value)} characters"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    return f"a value of type {type(value).__name__}"


def covers(mark: str) -> str:
    """The key under which a parent in the lens notes that its `mark` blocks were rendered by one derived field."""
    return " " + mark


class Compiler:
    """Compiles the templates of one section that share their definitions, and notes what they use."""

    def __init__(self, define: Mapping[str, Any], define_where: Where, reader: Reader | None = None) -> None:
        self.define = define
        self.define_where = define_where
        self.reader = reader or Reader()
        self.used_defines: set[str] = set()
        self.reads: set[tuple[Any, str]] = set()  # (shape, key) of every key that a path reads
        self._expanding: list[str] = []
        self._nodes = 0

    def function(self, node: Node) -> Template:
        """The template as others call it: with any mapping as scope, null given as None."""
        run = node.run

        def template(scope: Mapping[str, Any]) -> Any:
            value = run(dict(scope))
            return None if value is _NULL else value

        return template

    def compile(self, tree: Any, where: Where, names: Names | None = None) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise where.error(f"expected at most {MAX_NODES} parts after every `$use` is expanded")
        if isinstance(tree, str):
            if is_path(tree):
                return self._value(parse_path(tree, where), tree, where, names)
            return _constant(unescape(tree))
        if isinstance(tree, dict):
            operators = [
                key for key in tree if isinstance(key, str) and key.startswith("$") and not key.startswith("$$")
            ]
            if operators:
                return self._operator(operators, tree, where, names)
            return self._object(tree, where, names)
        if isinstance(tree, list):
            return self._list(tree, where, names)
        if tree is None or isinstance(tree, bool | int | float):
            return _constant(tree)
        raise where.error(f"expected a literal, a path, an operator, an object or a list, got {short(tree)}")

    # ---- paths ----

    def _look_up(self, path: Path, text: str, where: Where, names: Names | None) -> tuple[Any, Any]:
        """The shape at the path and of its parent; what is read is noted, unbound names are refused."""
        if path.root and names is not None:
            binding = names.get(path.root)
            if binding is None:
                known = ", ".join(f"${name}" for name in names) or "none"
                raise where.error(f"expected a name that is bound here ({known}), got `${path.root}` in `{text}`")
            binding.used = True
            if path.position:
                binding.position_used = True
                return None, None
            shape = binding.shape
        else:
            shape = None if path.root else self.reader.root()
        parent = None
        for step in path.steps:
            parent = shape
            if shape is None:
                break
            if isinstance(step, str):
                self.reads.add((shape, step))
                shape = self.reader.step(shape, step, where, text)
            else:
                shape = self.reader.element(shape)
        return shape, parent

    def _value(self, path: Path, text: str, where: Where, names: Names | None) -> Node:
        if path.is_wild:
            raise where.error(f"expected a path to one value (a list's elements are read by `$each`), got `{text}`")
        _, parent = self._look_up(path, text, where, names)
        root, steps = path.root, path.steps
        last = steps[-1] if steps else None
        needs = None
        if names is not None and not root and steps and isinstance(steps[0], str):
            needs = steps[0], None
        mark = self.reader.cover(parent, last) if parent is not None and isinstance(last, str) else None
        if mark is not None:
            get = _marking_getter(scope_getter(Path(root, steps[:-1])), str(last), covers(mark))
            if names is not None and len(steps) == 1:
                get = _marking_place(root, str(last), covers(mark))
            return Node(get, needs=needs)
        if names is None:
            return Node(scope_getter(path))
        if path.position:
            key = root + "#"
            return Node(lambda scope: scope[key])
        if not steps:
            return Node(lambda scope: scope[root])
        place = _place(path)
        return Node(scope_getter(path) if place is None else _getter(*place), place=place, needs=needs)

    def _condition(self, tree: Any, where: Where, names: Names | None) -> Callable[[Scope], bool]:
        cond = parse_condition(tree, where)
        for path in paths_of(cond):
            self._look_up(path, str(path), where, names)
        if isinstance(cond, Compare) and cond.op == "==" and isinstance(cond.literal, bool | str):
            place = _place(cond.path)
            if place is not None:
                return _comparison(*place, cond.literal)
        return compile_condition(cond, scope_getter)

    def _shape_of(self, tree: Any, where: Where, names: Names | None) -> Any:
        """The shape of a template's value where it is a plain path; other values have none."""
        if not is_path(tree):
            return None
        return self._look_up(parse_path(tree, where), tree, where, names)[0]

    # ---- objects and lists ----

    def _object(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        entries: list[tuple[str, Run | None, Any, tuple[str, bool | None] | None]] = []
        for key, value in tree.items():
            if not isinstance(key, str):
                raise where.at(str(key)).error(f"expected a key that is text, got {short(key)}")
            node = self.compile(value, where.at(key), names)
            if not node.constant:
                entries.append((unescape(key), node.run, node.place, node.needs if node.place is None else None))
            elif node.value is not None:
                entries.append((unescape(key), None, _plain(node.value), None))
        if all(run is None for _, run, _, _ in entries):
            return _constant({name: value for name, _, value, _ in entries})
        steps = tuple(entries)

        def build(scope: Scope) -> Any:
            out = {}
            alive = False
            root = scope.get("")
            for name, run, more, needs in steps:
                if needs is not None and root.__class__ is dict:
                    key, flag = needs
                    if key not in root or (flag is not None and root[key] is not flag):
                        continue
                if run is None:
                    out[name] = more
                    continue
                if more is None:
                    value = run(scope)
                else:  # a plain path
                    parent = scope[more[0]]
                    value = parent.get(more[1]) if parent.__class__ is dict else None
                if value is not None:
                    out[name] = value if value is not _NULL else None
                    alive = True
            return out if alive else None

        return Node(build)

    def _list(self, tree: list[Any], where: Where, names: Names | None) -> Node:
        nodes = [self.compile(item, where.at(index), names) for index, item in enumerate(tree)]
        if all(node.constant for node in nodes):
            return _constant([_plain(node.value) for node in nodes if node.value is not None], listy=True)
        runs = tuple(node.run for node in nodes)

        def build(scope: Scope) -> Any:
            out = [_plain(value) for run in runs if (value := run(scope)) is not None]
            return out or None

        return Node(build, listy=True)

    # ---- operators ----

    def _operator(self, operators: list[str], tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        name = operators[0]
        if len(operators) > 1:
            raise where.error(f"expected one operator, got {' and '.join(operators)}")
        known = _OPERATORS.get(name)
        if known is None:
            raise where.at(name).error(f"expected an operator ({', '.join(_OPERATORS)}), got `{name}`")
        compile_it, required, optional = known
        for key in tree:
            if key != name and key not in required and key not in optional:
                allowed = ", ".join((*required, *optional)) or "none"
                raise where.at(key if isinstance(key, int) else str(key)).error(
                    f"expected an argument of `{name}` ({allowed}), got `{key}`"
                )
        for key in required:
            if key not in tree:
                raise where.error(f"expected the argument `{key}` beside `{name}`")
        return compile_it(self, tree, where, names)

    def _items(self, tree: dict[Any, Any], key: str, where: Where, names: Names | None) -> list[Node]:
        given = tree[key]
        at = where.at(key)
        if not isinstance(given, list) or not given:
            raise at.error(f"expected a list of values under `{key}`, got {short(given)}")
        return [self.compile(item, at.at(index), names) for index, item in enumerate(given)]

    def _first(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        nodes = self._items(tree, "$first", where, names)
        if nodes[0].constant:
            raise where.at("$first", 0).error("expected a value that can be nothing: a constant here hides the rest")
        runs = tuple(node.run for node in nodes)
        if len(runs) == 2:
            one, other = runs

            def either(scope: Scope) -> Any:
                value = one(scope)
                return value if value is not None else other(scope)

            return Node(either)

        def first(scope: Scope) -> Any:
            for run in runs:
                value = run(scope)
                if value is not None:
                    return value
            return None

        return Node(first)

    def _case(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        subject = self.compile(tree["$case"], where.at("$case"), names)
        branches = tree["of"]
        if not isinstance(branches, dict) or not branches:
            raise where.at("of").error(f"expected a mapping from values to templates, got {short(branches)}")
        texts: dict[str, Run] = {}
        others: list[tuple[Any, Run]] = []
        for key, value in branches.items():
            branch = self.compile(value, where.at("of", str(key)), names).run
            if isinstance(key, str):
                texts[unescape(key)] = branch
            else:
                others.append((key, branch))
        otherwise = self.compile(tree["else"], where.at("else"), names).run if "else" in tree else None
        said = tree["$case"] if isinstance(tree["$case"], str) else "the value"
        expected = ", ".join(str(key) for key in branches)
        block, owner = self._blocks_of(tree["$case"], where, names)
        reader = self.reader
        root, last = subject.place or ("", "")

        def case(scope: Scope) -> Any:
            if last:
                parent = scope[root]
                value = parent.get(last) if parent.__class__ is dict else None
            else:
                value = run(scope)
            if value is None:
                return otherwise(scope) if otherwise is not None else None
            branch = texts.get(value) if value.__class__ is str else None
            if branch is None and value.__class__ is not str:
                branch = next((found for key, found in others if same(value, key)), None)
            if branch is None:
                branch = otherwise
            if branch is not None:
                return branch(scope)
            if block is not None:
                raise CallerError(reader.misfit(block(scope)), kind="bad_argument")
            inside = f" of {reader.describe(owner(scope))}" if owner is not None else ""
            raise CallerError(f"{said}{inside} is {short(value)}: expected one of {expected}", kind="bad_argument")

        run = subject.run
        return Node(case, needs=subject.needs if otherwise is None else None)

    def _blocks_of(self, subject: Any, where: Where, names: Names | None) -> tuple[Run | None, Run | None]:
        """Two getters, for errors: the block whose `type` a case asks for, and the block that a path starts at."""
        if not is_path(subject) or names is None:
            return None, None
        path = parse_path(subject, where)
        binding = names.get(path.root)
        owner = scope_getter(Path(path.root)) if binding and self.reader.is_block(binding.shape) else None
        if not path.steps or path.steps[-1] != "type":
            return None, owner
        parent = self._look_up(path, subject, where, names)[1]
        return (scope_getter(Path(path.root, path.steps[:-1])) if self.reader.is_block(parent) else None), owner

    def _if(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        test = self._condition(tree["$if"], where.at("$if"), names)
        then = self.compile(tree["then"], where.at("then"), names)
        otherwise = self.compile(tree["else"], where.at("else"), names) if "else" in tree else _NOTHING
        yes, no = then.run, otherwise.run
        listy = then.listy or otherwise.listy
        if otherwise is not _NOTHING:
            return Node(lambda scope: yes(scope) if test(scope) else no(scope), listy=listy)
        cond = parse_condition(tree["$if"], where.at("$if"))
        needs = None
        if isinstance(cond, Compare) and cond.op == "==" and isinstance(cond.literal, bool) and names is not None:
            place = _place(cond.path)
            needs = (place[1], cond.literal) if place is not None and not place[0] else None
        return Node(lambda scope: yes(scope) if test(scope) else None, listy=listy, needs=needs)

    def _json(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        run = self.compile(tree["$json"], where.at("$json"), names).run

        def write(scope: Scope) -> Any:
            value = run(scope)
            if value is None or value.__class__ is str:
                return value
            return json_text(_plain(value))

        return Node(write)

    def _parse(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        run = self.compile(tree["$parse"], where.at("$parse"), names).run

        def parse(scope: Scope) -> Any:
            value = run(scope)
            if value.__class__ is not str:
                return value
            try:
                return msgspec.json.decode(value)
            except (msgspec.DecodeError, ValueError, RecursionError) as error:
                raise CallerError(f"expected JSON text, got {short(value)}", kind="bad_argument") from error

        return Node(parse)

    def _join(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        by = _text(tree.get("by", ""), where.at("by"))
        if isinstance(tree["$join"], dict):
            return self._join_made(tree, by, where, names)
        runs = tuple(node.run for node in self._items(tree, "$join", where, names))

        def join(scope: Scope) -> Any:
            parts = []
            for run in runs:
                value = run(scope)
                if value is None:
                    return None
                parts.append(_as_text(value))
            return by.join(parts)

        return Node(join)

    def _join_made(self, tree: dict[Any, Any], by: str, where: Where, names: Names | None) -> Node:
        """The texts of a list that an operator makes, as one; nothing where there are none."""
        run = self.compile(tree["$join"], where.at("$join"), names).run

        def join(scope: Scope) -> Any:
            parts = run(scope)
            if parts is None:
                return None
            if parts.__class__ is not list:
                raise CallerError(f"expected a list to join, got {short(parts)}", kind="bad_argument")
            return by.join([_as_text(part) for part in parts if part is not None])

        return Node(join)

    def _cut(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        run = self.compile(tree["$cut"], where.at("$cut"), names).run
        at = _text(tree["at"], where.at("at"))
        if not at:
            raise where.at("at").error("expected the text to cut at, got an empty one")

        def cut(scope: Scope) -> Any:
            value = run(scope)
            return None if value is None else _as_text(value).partition(at)[0]

        return Node(cut)

    def _after(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        run = self.compile(tree["$after"], where.at("$after"), names).run
        at = _text(tree["at"], where.at("at"))
        if not at:
            raise where.at("at").error("expected the text to read after, got an empty one")

        def after(scope: Scope) -> Any:
            value = run(scope)
            if value is None:
                return None
            _, found, rest = _as_text(value).partition(at)
            return rest if found else None

        return Node(after)

    def _each(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        source = self.compile(tree["$each"], where.at("$each"), names)
        name = _name(tree["as"], where.at("as"))
        binding = _Binding(self.reader.element(self._shape_of(tree["$each"], where.at("$each"), names)))
        inner = _with(names, {name: binding})
        test = self._condition(tree["where"], where.at("where"), inner) if "where" in tree else None
        kind_at, kind = self._kind_of_element(tree.get("where"), name, where.at("where"))
        do = self.compile(tree["do"], where.at("do"), inner)
        key = name + "#" if binding.position_used or names is None else None
        marks = self.reader.is_block(binding.shape)
        items_of, run = source.run, do.run
        root, last = source.place or ("", "")

        def each(scope: Scope) -> Any:
            if last:
                parent = scope[root]
                items = parent.get(last) if parent.__class__ is dict else None
            else:
                items = items_of(scope)
            if items.__class__ is not list:
                if items is None:
                    return None
                raise CallerError(f"expected a list at `{tree['$each']}`, got {short(items)}", kind="bad_argument")
            out: list[Any] = []
            outer = scope.get(name)
            outer_at = scope.get(key) if key else None
            for index, item in enumerate(items):
                if kind_at is not None and (item.__class__ is not dict or item.get(kind_at) != kind):
                    continue
                scope[name] = item
                if key:
                    scope[key] = index
                if test is not None and not test(scope):
                    continue
                value = run(scope)
                if value is None:
                    continue
                if marks:
                    item[RENDERED] = True
                if value.__class__ is list:
                    out.extend(value)
                else:
                    out.append(None if value is _NULL else value)
            scope[name] = outer
            if key:
                scope[key] = outer_at
            return out or None

        return Node(each, listy=True, needs=source.needs)

    def _kind_of_element(self, tree: Any, name: str, where: Where) -> tuple[str | None, str]:
        """The key and the text that a condition asks an element for, where it asks that alone or first."""
        cond = None if tree is None else parse_condition(tree, where)
        if isinstance(cond, And):
            cond = cond.items[0]
        if isinstance(cond, Compare) and cond.op == "==" and isinstance(cond.literal, str):
            place = _place(cond.path)
            if place is not None and place[0] == name:
                return place[1], cond.literal
        return None, ""

    def _entries(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        """The entries of an object as a list of {key, value}: what makes a map something that `$each` reads."""
        run = self.compile(tree["$entries"], where.at("$entries"), names).run

        def entries(scope: Scope) -> Any:
            value = run(scope)
            if value is None:
                return None
            if value.__class__ is not dict:
                raise CallerError(
                    f"expected an object at `{tree['$entries']}`, got {short(value)}", kind="bad_argument"
                )
            return [{"key": key, "value": item} for key, item in value.items()] or None

        return Node(entries, listy=True)

    def _keyed(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        """An object with one entry for each element: what makes a list the map that a wire wants."""
        items_of = self.compile(tree["$keyed"], where.at("$keyed"), names).run
        name = _name(tree["as"], where.at("as"))
        binding = _Binding(self.reader.element(self._shape_of(tree["$keyed"], where.at("$keyed"), names)))
        inner = _with(names, {name: binding})
        test = self._condition(tree["where"], where.at("where"), inner) if "where" in tree else None
        key_of = self.compile(tree["key"], where.at("key"), inner).run
        value_of = self.compile(tree["do"], where.at("do"), inner).run
        marks = self.reader.is_block(binding.shape)

        def keyed(scope: Scope) -> Any:
            items = items_of(scope)
            if items is None:
                return None
            if items.__class__ is not list:
                raise CallerError(f"expected a list at `{tree['$keyed']}`, got {short(items)}", kind="bad_argument")
            out: dict[str, Any] = {}
            for index, item in enumerate(items):
                inside = {**scope, name: item, name + "#": index}
                if test is not None and not test(inside):
                    continue
                value = value_of(inside)
                if value is None:
                    continue
                key = key_of(inside)
                if key is None or key.__class__ is dict or key.__class__ is list:
                    raise CallerError(
                        f"expected a text as key at {where.at('key').path}, got {short(key)}", kind="bad_argument"
                    )
                key = _as_text(key)
                if key in out:
                    raise CallerError(
                        f"expected keys that differ at {where.at('key').path}, got {short(key)} twice",
                        kind="bad_argument",
                    )
                if marks:
                    item[RENDERED] = True
                out[key] = _plain(value)
            return out or None

        return Node(keyed)

    def _concat(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        runs = tuple(node.run for node in self._items(tree, "$concat", where, names))

        def concat(scope: Scope) -> Any:
            out: list[Any] = []
            for run in runs:
                value = run(scope)
                if value.__class__ is list:
                    out.extend(value)
                elif value is not None:
                    out.append(_plain(value))
            return out or None

        return Node(concat, listy=True)

    def _merge(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        nodes = self._items(tree, "$merge", where, names)
        for index, node in enumerate(nodes):
            if node.constant and not isinstance(node.value, dict):
                raise where.at("$merge", index).error(f"expected an object, got {short(node.value)}")
        runs = tuple(node.run for node in nodes)

        def merge(scope: Scope) -> Any:
            out: dict[str, Any] = {}
            found = False
            for run in runs:
                value = run(scope)
                if value is None:
                    continue
                if value.__class__ is not dict:
                    raise CallerError(f"expected an object to merge, got {short(value)}", kind="bad_argument")
                found = True
                out.update(value)
            return out if found else None

        return Node(merge)

    def _merge_adjacent(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        run = self.compile(tree["$merge_adjacent"], where.at("$merge_adjacent"), names).run
        by = _text(tree["by"], where.at("by"))
        join = _text(tree["join"], where.at("join"))

        def merge(scope: Scope) -> Any:
            items = run(scope)
            if items.__class__ is not list:
                return items
            out: list[Any] = []
            last: dict[str, Any] | None = None
            for item in items:
                if last is not None and item.__class__ is dict and item.get(by) == last.get(by):
                    both = [*_as_list(last.get(join)), *_as_list(item.get(join))]
                    last = out[-1] = {**last, **item, join: both}
                else:
                    out.append(item)
                    last = item if item.__class__ is dict else None
            return out

        return Node(merge, listy=True)

    def _let(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        given, at = tree["$let"], where.at("$let")
        if not isinstance(given, dict) or not given:
            raise at.error(f"expected a mapping from names to values, got {short(given)}")
        bindings: Names = {}
        runs: list[tuple[str, Run]] = []
        for key, value in given.items():
            name = _name(key, at)
            bindings[name] = _Binding(self._shape_of(value, at.at(name), names))
            runs.append((name, self.compile(value, at.at(name), names).run))
        inner = self.compile(tree["in"], where.at("in"), _with(names, bindings))
        if names is not None:
            for name, binding in bindings.items():
                if not binding.used:
                    raise at.at(name).error(f"expected `${name}` to be used under `in`: it never is")
        run = inner.run

        def let(scope: Scope) -> Any:
            inside = dict(scope)
            for name, value_of in runs:
                inside[name] = _plain(value_of(scope))
            return run(inside)

        return Node(let, listy=inner.listy)

    def _use(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        name = tree["$use"]
        if not isinstance(name, str) or name not in self.define:
            known = ", ".join(self.define) or "none"
            raise where.at("$use").error(f"expected the name of a definition ({known}), got {short(name)}")
        if name in self._expanding:
            chain = " -> ".join([*self._expanding, name])
            raise where.at("$use").error(f"expected a definition that does not use itself, got {chain}")
        self.used_defines.add(name)
        self._expanding.append(name)
        node = self.compile(self.define[name], self.define_where.at(name), names)
        self._expanding.pop()
        return node

    def _need(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        run = self.compile(tree["$need"], where.at("$need"), names).run
        said = tree["$need"] if isinstance(tree["$need"], str) else "a value"
        place = where.path

        def need(scope: Scope) -> Any:
            value = run(scope)
            if value is None:
                raise CallerError(f"expected {said}, which {place} needs: it is not given", kind="bad_argument")
            return value

        return Node(need)

    def _keep(self, tree: dict[Any, Any], where: Where, names: Names | None) -> Node:
        node = self.compile(tree["$keep"], where.at("$keep"), names)
        if node.constant:
            if node.value is None:
                return Node(_give(_NULL), constant=True, value=_NULL)
            return node
        run = node.run
        if node.listy:

            def keep_list(scope: Scope) -> Any:
                value = run(scope)
                return [] if value is None else value

            return Node(keep_list, listy=True)

        def keep(scope: Scope) -> Any:
            value = run(scope)
            return _NULL if value is None else value

        return Node(keep)


Operator = Callable[[Compiler, dict[Any, Any], Where, "Names | None"], Node]

# Operator -> how it is compiled, its required arguments, its optional ones.
_OPERATORS: Mapping[str, tuple[Operator, tuple[str, ...], tuple[str, ...]]] = {
    "$first": (Compiler._first, (), ()),
    "$case": (Compiler._case, ("of",), ("else",)),
    "$if": (Compiler._if, ("then",), ("else",)),
    "$json": (Compiler._json, (), ()),
    "$parse": (Compiler._parse, (), ()),
    "$join": (Compiler._join, (), ("by",)),
    "$cut": (Compiler._cut, ("at",), ()),
    "$after": (Compiler._after, ("at",), ()),
    "$each": (Compiler._each, ("as", "do"), ("where",)),
    "$entries": (Compiler._entries, (), ()),
    "$keyed": (Compiler._keyed, ("as", "key", "do"), ("where",)),
    "$concat": (Compiler._concat, (), ()),
    "$merge": (Compiler._merge, (), ()),
    "$merge_adjacent": (Compiler._merge_adjacent, ("by", "join"), ()),
    "$let": (Compiler._let, ("in",), ()),
    "$use": (Compiler._use, (), ()),
    "$need": (Compiler._need, (), ()),
    "$keep": (Compiler._keep, (), ()),
}


def json_text(value: Any) -> str:
    """JSON text of a value. Raises CallerError for what JSON cannot carry."""
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CallerError(f"expected a value that JSON can carry: {error}", kind="bad_argument") from error


def _constant(value: Any, *, listy: bool = False) -> Node:
    return Node(_give(value), constant=True, value=value, listy=listy)


def _give(value: Any) -> Run:
    return lambda scope: value


_NOTHING = _constant(None)


def _plain(value: Any) -> Any:
    return None if value is _NULL else value


def _place(path: Path) -> tuple[str, str] | None:
    """The bound name and the key of a path that is one key below a name."""
    if path.position or path.query or len(path.steps) != 1 or not isinstance(path.steps[0], str):
        return None
    return path.root, path.steps[0]


def _getter(root: str, key: str) -> Run:
    def get(scope: Scope) -> Any:
        value = scope[root]
        return value.get(key) if value.__class__ is dict else None

    return get


def _comparison(root: str, key: str, literal: bool | str) -> Callable[[Scope], bool]:
    """Whether a plain path has this value. No other JSON value is true or false, or equals a text."""

    def is_flag(scope: Scope) -> bool:
        value = scope.get(root)
        return value.__class__ is dict and value.get(key) is literal

    def is_text(scope: Scope) -> bool:
        value = scope.get(root)
        return value.__class__ is dict and bool(value.get(key) == literal)

    return is_flag if isinstance(literal, bool) else is_text


def _marking_getter(parent_of: Run, key: str, mark: str) -> Run:
    def get(scope: Scope) -> Any:
        parent = parent_of(scope)
        if parent.__class__ is not dict:
            return None
        value = parent.get(key)
        if value is not None:
            parent[mark] = True
        return value

    return get


def _marking_place(root: str, key: str, mark: str) -> Run:
    def get(scope: Scope) -> Any:
        parent = scope[root]
        if parent.__class__ is not dict:
            return None
        value = parent.get(key)
        if value is not None:
            parent[mark] = True
        return value

    return get


def _with(names: Names | None, more: Names) -> Names | None:
    return None if names is None else {**names, **more}


def _name(value: Any, where: Where) -> str:
    if not isinstance(value, str) or not value.isidentifier():
        raise where.error(f"expected a name (letters, digits, _), got {short(value)}")
    return value


def _text(value: Any, where: Where) -> str:
    if not isinstance(value, str):
        raise where.error(f"expected text, got {short(value)}")
    return unescape(value)


def _as_text(value: Any) -> str:
    if value.__class__ is str:
        return str(value)
    if value.__class__ in (int, float, bool):
        return json_text(value)
    raise CallerError(f"expected text to join, got {short(value)}", kind="bad_argument")


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
