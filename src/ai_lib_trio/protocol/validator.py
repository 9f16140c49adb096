"""A document against one of our JSON Schemas, and the checks that a schema cannot say; every fault with its place.

Imports `errors`, `manifest`, `tree`, `where`, `yaml_source`; fastjsonschema on first use. The rule that must stay true:
nothing is fetched, nothing is changed, and a schema uses only keywords that the validator knows (a test walks them).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import msgspec

from ..errors import ManifestError
from .manifest import Family, Manifest
from .tree import kind_of, likely, misspelt, suggestion
from .where import Document, Key, Where

__all__ = ["AT_LOAD", "KEYWORDS", "SCHEMAS", "Validator", "cross_faults", "text_keys", "types_of"]

SCHEMAS = ("provider", "models", "dialect", "foreign", "contract")
# What fastjsonschema compiles as the standard means it. It takes any other keyword for no keyword, without a word.
KEYWORDS = frozenset((
    "$schema", "$id", "$defs", "$ref", "title", "description", "type", "properties", "required", "additionalProperties",
    "propertyNames", "items", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "uniqueItems", "anyOf",
))  # fmt: skip
# The sections of a provider file that change what calls do: each says where it was read.
_SOURCED = (
    "endpoint",
    "api_families",
    "error_classification",
    "retry_policy",
    "rate_limits",
    "capabilities",
    "parameters",
)
# A capability, and the facts of which a family's rules must give one.
_MAPPINGS = {"text": ("PartialContentDelta",), "tools": ("ToolCall", "PartialToolCall", "ToolCallStarted")}


Check = Callable[[Any], Any]
# What manifests from elsewhere are held to when they are loaded; code for these is generated into a wheel.
AT_LOAD = ("foreign", "provider_types", "models_types", "dialect_types")


class Validator:
    """The schemas, compiled when first used. `read_schema` gives a schema's text by name.

    `x_types` is schema `x` reduced to its types, for files from elsewhere. With `is_generated`, code that was made
    of these schemas when the wheel was built is used.
    """

    def __init__(self, read_schema: Callable[[str], bytes], *, is_generated: bool = False) -> None:
        self._read = read_schema
        self._is_generated = is_generated
        self._schemas: dict[str, dict[str, Any]] = {}

    def schema(self, name: str) -> dict[str, Any]:
        """The schema as it is written, or its types."""
        if name not in self._schemas:
            found = msgspec.json.decode(self._read(name.removesuffix("_types")))
            self._schemas[name] = {**types_of(found), "$id": f"{name}.json"} if name.endswith("_types") else found
        return self._schemas[name]

    def check(self, document: Document, name: str) -> None:
        """Raise `ManifestError` for the first fault of a document: file, line, path, expected, got, nearest name."""
        from fastjsonschema import JsonSchemaValueException

        compiled = _generated(name) if self._is_generated else None
        if compiled is None:
            compiled = _compiled(msgspec.json.encode(self.schema(name)))
        data = text_keys(document.data)
        try:
            compiled(data)
        except JsonSchemaValueException as error:
            raise self._told(error, document, data) from None

    def generate(self) -> dict[str, str]:
        """Module name -> code, for the package `protocol/_validators` of a wheel."""
        checks = ", ".join(f'"{name}": {name}.validate' for name in AT_LOAD)
        package = (
            f'"""Generated from manifests/schemas."""\n\nfrom . import {", ".join(AT_LOAD)}\n\nCHECKS = {{{checks}}}\n'
        )
        return {"__init__": package, **{name: _code_of(self.schema(name)) for name in AT_LOAD}}

    def _told(self, error: Any, document: Document, data: Any) -> ManifestError:
        where, value = _place(document, list(error.path)[1:])
        definition = error.definition if isinstance(error.definition, Mapping) else {}
        rule, wanted = error.rule, error.rule_definition
        if rule == "additionalProperties" and isinstance(value, Mapping):
            known = definition.get("properties", {})
            extra = [str(key) for key in value if str(key) not in known]
            return where.at(extra[0]).error(f"unknown key {extra[0]!r}{suggestion(extra[0], known)}")
        if rule == "required" and isinstance(value, Mapping):
            missing = [key for key in wanted if key not in value]
            unknown = [str(key) for key in value if str(key) not in definition.get("properties", {})]
            return where.error(f"expected {missing[0]!r}, got nothing{misspelt(missing[0], unknown)}")
        if rule == "enum":
            names = [str(one) for one in wanted]
            close = likely(str(value), names) if isinstance(value, str) else ""
            return where.error(f"expected one of {', '.join(names)}, got {kind_of(value)}{close}")
        if rule == "type":
            kinds = [wanted] if isinstance(wanted, str) else list(wanted)
            if kinds[-1:] == ["number"] and "null" in kinds:  # text, as `types_of` has it
                kinds.pop()
            kinds = [kind for kind in kinds if kind != "null"] or kinds
            return where.error(f"expected {' or '.join(_KINDS[kind] for kind in kinds)}, got {kind_of(value)}")
        if rule == "anyOf" and all(set(form) == {"required"} for form in wanted):
            names = [repr(name) for form in wanted for name in form["required"]]
            return where.error(f"expected {' or '.join(names)}, got nothing")
        words = _WORDS.get(rule, "{0} to hold").format(_short(wanted))
        return where.error(f"expected {words}, got {kind_of(value)}")


_KINDS = {"string": "text", "object": "a mapping", "array": "a list", "integer": "an integer", "number": "a number",
          "boolean": "true or false", "null": "null"}  # fmt: skip
_WORDS = {
    "pattern": "text that matches {0}",
    "minimum": "at least {0}",
    "maximum": "at most {0}",
    "minLength": "text of at least {0} characters",
    "maxLength": "text of at most {0} characters",
    "minItems": "at least {0} items",
    "maxItems": "at most {0} items",
    "uniqueItems": "no item twice",
    "propertyNames": "keys that fit {0}",
    "anyOf": "one of several forms",
}


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("pattern", "their rule"))
    return str(value)


@functools.cache
def _compiled(schema: bytes) -> Check:
    import fastjsonschema

    compiled: Check = fastjsonschema.compile(msgspec.json.decode(schema), handlers=_HANDLERS, use_default=False)
    return compiled


@functools.cache
def _generated(name: str) -> Check | None:
    try:
        from ._validators import CHECKS  # type: ignore[import-not-found]  # in wheels alone
    except ModuleNotFoundError:
        return None
    check: Check | None = CHECKS.get(name)
    return check


def _code_of(schema: dict[str, Any]) -> str:
    import fastjsonschema

    code: str = fastjsonschema.compile_to_code(schema, handlers=_HANDLERS, use_default=False)
    first = re.search(r"^def (\w+)\(data", code, re.MULTILINE)
    assert first is not None
    return f"{code}\n\nvalidate = {first.group(1)}\n"


def types_of(schema: Any) -> Any:
    """A schema reduced to what kind of value stands where. Null is absence, and a number may stand for text."""
    if not isinstance(schema, Mapping):
        return schema
    kept: dict[str, Any] = {}
    kinds = schema.get("type", [_KIND_OF[type(one)] for one in schema.get("enum", ())])
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if kinds:
        also = ["null", "number"] if "string" in kinds else ["null"]
        kept["type"] = list(dict.fromkeys([*kinds, *also]))
    for keyword in ("properties", "$defs"):
        if keyword in schema:
            kept[keyword] = {name: types_of(part) for name, part in schema[keyword].items()}
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), Mapping):
            kept[keyword] = types_of(schema[keyword])
    if "anyOf" in schema:
        kept["anyOf"] = [*(types_of(part) for part in schema["anyOf"]), {"type": "null"}]
    if "$ref" in schema:
        kept["$ref"] = schema["$ref"]
    return kept


_KIND_OF: dict[type, str] = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def _refuse(uri: str) -> NoReturn:
    raise ManifestError(f"a schema refers to {uri}: nothing but what is bundled is read")


_HANDLERS = dict.fromkeys(("http", "https", "ftp", "file", ""), _refuse)


def text_keys(value: Any) -> Any:
    """The value as JSON has it: every key is text."""
    if isinstance(value, Mapping):
        return {_text_key(key): text_keys(part) for key, part in value.items()}
    if isinstance(value, list):
        return [text_keys(part) for part in value]
    return value


def _text_key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _place(document: Document, names: list[str]) -> tuple[Where, Any]:
    """The place and value that a path of names leads to. The validator splits keys at dots: pieces are joined again."""
    where, value = document.where, document.data
    rest = list(names)
    while rest:
        for size in range(1, len(rest) + 1):
            found = _step(value, ".".join(rest[:size]))
            if found is not None:
                key, value = found
                where, rest = where.at(key), rest[size:]
                break
        else:
            break
    return where, value


def _step(value: Any, name: str) -> tuple[Key, Any] | None:
    if isinstance(value, Mapping):
        for key, part in value.items():
            if _text_key(key) == name:
                return key, part
    elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
        return int(name), value[int(name)]
    return None


def cross_faults(manifest: Manifest) -> Iterator[ManifestError]:
    """What no schema can say of one of our own files: each fault, at its place."""
    where = manifest.where
    present = {path[0] for path in where.positions if len(path) == 1}
    for section in _SOURCED:
        if section in present and not any(name.split(".")[0] == section for name in manifest.sources):
            yield where.at(section).error("expected an entry in 'sources' that says where this was read")
    for name in manifest.sources:
        if name.split(".")[0] not in present:
            yield where.at("sources", name).error(f"expected a section of this file, got {name!r}")
    for name, variable in manifest.endpoint.variables.items():
        if "{" + name + "}" not in manifest.endpoint.base_url:
            yield where.at("endpoint", "variables", name).error(f"no part of base_url uses it (from {variable})")
    for capability, facts in _MAPPINGS.items():
        if capability not in manifest.capabilities.required:
            continue
        for family in manifest.families.values():
            if family.decode and not any(fact in _emitted(family) for fact in facts):
                yield where.at("capabilities").error(
                    f"{capability!r} is required, and no rule of {family.id} emits {' or '.join(facts)}"
                )


def _emitted(family: Family) -> set[str]:
    found: set[str] = set()
    waiting: list[Any] = [family.decode]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            if isinstance(part.get("emit"), str):
                found.add(part["emit"])
            waiting.extend(part.values())
    return found
