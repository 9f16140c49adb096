"""Wire formats, and the API families that use them: a dialect with a provider's own changes laid over it.

Imports `errors`, `tree`, `where`, `yaml_source`. The rule that must stay true: a merged tree is made when it is first
asked for, once, and no tree is ever changed; most programs load many manifests and call one.
"""

# No postponed annotations here: msgspec would evaluate each of them anew, which costs as much as 50 manifests do.

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .tree import Reader, merge
from .where import Document, Key, Position, Where

__all__ = ["DIALECT_SECTIONS", "Dialect", "DialectOf", "Family", "FamilyForm", "read_dialect", "set_below"]

DIALECT_SECTIONS = ("encode", "decode", "simulate")


class Dialect(msgspec.Struct, frozen=True):
    """One wire format: the raw trees of how it is written, read and played by the simulator."""

    id: str
    aliases: tuple[str, ...]
    encode: dict[str, Any]
    decode: dict[str, Any]
    simulate: dict[str, Any]
    where: Where

    def section(self, name: str) -> dict[str, Any]:
        """`encode`, `decode` or `simulate`."""
        found: dict[str, Any] = getattr(self, name)
        return found


DialectOf = Callable[[str], "Dialect | None"]


class FamilyForm(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a provider says of one of its APIs: the dialect's id, its changes by section, and what stands alone.

    `whole` are sections with nothing of the dialect's below them. `defaults` are parameters' values that go out where
    the caller gives none.
    """

    id: str
    dialect: str
    whole: tuple[str, ...] = ()
    encode: dict[str, Any] = {}
    decode: dict[str, Any] = {}
    simulate: dict[str, Any] = {}
    defaults: dict[str, Any] = {}


class Family:
    """One of a provider's APIs: a dialect with the provider's own changes merged in. Trees are never changed."""

    __slots__ = ("_dialect_of", "_merged", "_place", "form")

    def __init__(self, form: FamilyForm, dialect_of: DialectOf, where: Where) -> None:
        self.form = form
        self._dialect_of = dialect_of
        self._place = where  # of the provider's own changes
        self._merged: tuple[dict[str, dict[str, Any]], Where, tuple[str, ...]] | None = None

    def __repr__(self) -> str:
        return f"<Family {self.id} of {self.dialect}>"

    @property
    def id(self) -> str:
        return self.form.id

    @property
    def dialect(self) -> str:
        """The dialect's id."""
        return self.form.dialect

    @property
    def encode(self) -> dict[str, Any]:
        return self._trees()[0]["encode"]

    @property
    def decode(self) -> dict[str, Any]:
        return self._trees()[0]["decode"]

    @property
    def simulate(self) -> dict[str, Any]:
        return self._trees()[0]["simulate"]

    @property
    def where(self) -> Where:
        """Of the merged tree: `where.at("decode", "rules", ...)`."""
        return self._trees()[1]

    @property
    def homeless(self) -> tuple[str, ...]:
        """Parameters with a default that has no place in the format: they are not sent by themselves."""
        return self._trees()[2]

    def tree(self) -> dict[str, Any]:
        """The effective family as plain values."""
        return {"id": self.id, "dialect": self.dialect, **self._trees()[0]}

    def _trees(self) -> tuple[dict[str, dict[str, Any]], Where, tuple[str, ...]]:
        if self._merged is None:
            form, place = self.form, self._place
            dialect = self._dialect_of(form.dialect)
            if dialect is None:
                raise place.at("dialect").error(f"expected a known dialect, got {form.dialect!r}")
            trees: dict[str, dict[str, Any]] = {}
            positions: dict[tuple[Key, ...], Position] = {}
            at = place.position()
            if at is not None:
                positions[()] = at
            for section in DIALECT_SECTIONS:
                base = {} if section in form.whole else dialect.section(section)
                tree, places = merge(base, getattr(form, section), dialect.where.at(section), place.at(section))
                if getattr(form, section):
                    _forget_unused(tree, getattr(form, section))
                trees[section] = tree
                positions.update({(section, *path): found for path, found in places.items()})
            homeless = _add_defaults(trees["encode"], form.defaults)
            self._merged = trees, Where(place.file, positions), homeless
        return self._merged


def _forget_unused(tree: dict[str, Any], own: Mapping[str, Any]) -> None:
    """Leave out the dialect's definitions that a provider's changes left without use. Its own must have one."""
    define = tree.get("define")
    if not isinstance(define, dict):
        return
    written = own.get("define")
    kept = set(written) if isinstance(written, Mapping) else set()
    used = set(kept)
    waiting: list[Any] = [[value for key, value in tree.items() if key != "define"], *(define.get(key) for key in kept)]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting.extend(value.values())
            for key in ("$use", "use"):
                name = value.get(key)
                if isinstance(name, str) and name not in used:
                    used.add(name)
                    waiting.append(define.get(name))
        elif isinstance(value, list):
            waiting.extend(value)
    tree["define"] = {name: value for name, value in define.items() if name in used}


def _add_defaults(encode: dict[str, Any], defaults: Mapping[str, Any]) -> tuple[str, ...]:
    """Send a declared default where the caller gives nothing: the body says `$first` of the two. Gives those that
    have no place."""
    homeless: list[str] = []
    for name, default in defaults.items():
        renames = encode.get("parameters")
        body = dict(encode.get("body") or {})
        value = {"$first": [f"$.{name}", default]}
        if isinstance(renames, dict) and isinstance(renames.get(name), str):
            encode["parameters"] = {key: wire for key, wire in renames.items() if key != name}
            set_below(body, renames[name].split("."), value)
        elif _is_first_of(body.get(name), f"$.{name}"):
            body[name] = value
        else:
            homeless.append(name)
            continue
        encode["body"] = body
    return tuple(homeless)


def set_below(tree: dict[str, Any], path: list[str], value: Any) -> None:
    """Set a value in a nested mapping; the mappings on the way are copied, as they are shared with the dialect."""
    for key in path[:-1]:
        below = tree.get(key)
        tree[key] = tree = dict(below) if isinstance(below, dict) else {}
    tree[path[-1]] = value


def _is_first_of(value: Any, path: str) -> bool:
    return value == path or (isinstance(value, dict) and (value.get("$first") or [None])[0] == path)


def read_dialect(document: Document, *, strict: bool, notes: list[str]) -> Dialect:
    """A dialect file as its raw sections; what is in them is compiled elsewhere."""
    reader = Reader(document.data, document.where, strict=strict, notes=notes)
    dialect = Dialect(
        id=reader.need_text("id"),
        aliases=reader.texts("aliases"),
        encode=reader.tree("encode"),
        decode=reader.tree("decode"),
        simulate=reader.tree("simulate"),
        where=document.where,
    )
    reader.texts("notes")
    reader.close()
    return dialect
