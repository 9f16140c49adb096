"""For the reference: frozen structs and named tuples are shown with the signature that making one takes.

Loaded by griffe when the site is built (mkdocs.yml). Such a class has its fields as annotations and no `__init__` in
the source, so one is put together from them, base classes first, as `msgspec.Struct` and `typing.NamedTuple` do.
"""

from __future__ import annotations

from griffe import Attribute, Class, Extension, Function, GriffeLoader, Module, Parameter, ParameterKind, Parameters

MAKERS = {"msgspec.Struct", "typing.NamedTuple"}


class Structs(Extension):
    def on_package(self, *, pkg: Module, loader: GriffeLoader, **kwargs: object) -> None:
        for found in _classes(pkg):
            if _is_made(found) and "__init__" not in found.members:
                found.set_member("__init__", _init(found))


def _classes(inside: Module | Class) -> list[Class]:
    found = []
    for member in inside.members.values():
        if isinstance(member, Class):
            found.append(member)
        if isinstance(member, Module | Class):
            found += _classes(member)
    return found


def _lineage(of: Class) -> list[Class]:
    return [*reversed(of.mro()), of]


def _is_made(one: Class) -> bool:
    return any(getattr(base, "canonical_path", base) in MAKERS for each in _lineage(one) for base in each.bases)


def _init(of: Class) -> Function:
    fields: dict[str, Parameter] = {}
    for each in _lineage(of):
        is_kw_only = each.keywords.get("kw_only") is not None
        for name, member in each.members.items():
            if not isinstance(member, Attribute) or member.annotation is None or "property" in member.labels:
                continue
            kind = ParameterKind.keyword_only if is_kw_only else ParameterKind.positional_or_keyword
            fields[name] = Parameter(name, annotation=member.annotation, kind=kind, default=_default(member))
    ordered = sorted(fields.values(), key=lambda field: field.kind is ParameterKind.keyword_only)
    own = Parameter("self", kind=ParameterKind.positional_or_keyword)
    return Function("__init__", parent=of, parameters=Parameters(own, *ordered), returns="None")


def _default(field: Attribute) -> str | None:
    """The default as the source has it; of a factory, what it makes."""
    value = None if field.value is None else str(field.value)
    if value is not None and value.startswith("msgspec.field("):
        return value.partition("default_factory=")[2].rstrip(")") + "()"
    return value
