"""A standard request becomes an HTTP request, by the `encode` section of a dialect.

Imports `errors`, `types`, `protocol`, `lens`, `template`. The rule that must stay true: nothing is lost silently. Every
request field that is set is read by a template or stands in `drops`, every block is rendered or its type stands in
`drops`, and every attribute that a template does not read is a warning; the rest is a CallerError that names it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..errors import CallerError
from ..protocol.manifest import Parameter
from ..protocol.where import Where
from ..types.request import Request
from .auth import check_header, merge_headers
from .lens import BLOCK_TYPES, FIELDS, STANDARD_PARAMETERS, Lens, LensReader
from .template import Compiler, Names, Node, Scope, bind, short

__all__ = ["Encoded", "Encoder", "compile_encoder"]

_KEYS = ("method", "path", "query", "headers", "parameters", "body", "drops", "define")
_METHODS = ("POST", "GET", "PUT", "PATCH", "DELETE")
_DROPS = ("fields", "blocks", "attributes")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_CONTAINERS = (list, tuple, set, frozenset)
_JSON = [("content-type", "application/json")]
_FIELDS = ("tools", "tool_choice", "response_format", "stream", *STANDARD_PARAMETERS)


class Encoded(msgspec.Struct, frozen=True):
    """One HTTP request, without authentication. `path` follows the base URL; header names are in lower case.

    `dropped_opaque` counts parts of earlier turns that belong to another dialect; `warnings` are lines for people.
    """

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: list[tuple[str, str]]
    body: bytes
    dropped_opaque: int = 0
    warnings: tuple[str, ...] = ()

    def __repr__(self) -> str:  # a body is a prompt, and a header of the caller may be a secret
        return f"Encoded({self.method} {self.path}, {len(self.headers)} headers, {len(self.body)} bytes)"


class Encoder:
    """Writes requests of one dialect. Immutable; shared by all calls."""

    def __init__(
        self,
        *,
        dialect: str,
        method: str,
        path: Node,
        query: Node,
        headers: Node,
        body: Callable[[Scope], Any] | None,
        parameters: tuple[tuple[str, tuple[str, ...]], ...],
        defaults: Mapping[str, Any],
        ranges: tuple[_Range, ...],
        lens: Lens,
        unplaced: tuple[str, ...],
    ) -> None:
        self.dialect = dialect
        self.unplaced = unplaced  # request fields that no template reads and no drop names
        self._method = method
        # Each as a template, or, where it is the same for every request, as it is.
        self._path = path.run
        is_fixed = path.constant and isinstance(path.value, str) and re.fullmatch(r"/[^{]*", path.value) is not None
        self._fixed_path: str | None = path.value if is_fixed else None
        self._query = query.run
        self._fixed_query = _fixed_pairs(query, "query")
        self._headers = headers.run
        self._fixed_headers = _fixed_pairs(headers, "headers")
        self._body = body
        self._parameters = parameters
        self._renamed = frozenset(name for name, _ in parameters)
        self._defaults = defaults
        self._ranges = ranges
        self._lens = lens

    def encode(self, request: Request) -> Encoded:
        """The request on the wire. Raises CallerError (bad_argument) for what this dialect cannot carry."""
        if not isinstance(request.model, str) or not request.model:
            raise _refuse(f"expected a model id, got {short(request.model)}")
        for name in self.unplaced:
            value = getattr(request, name)
            if value is not None and not _is_unset(name, value):
                raise _refuse(
                    f"`{name}` has no place in the dialect {self.dialect}: leave it out, or give what this wire "
                    "has instead in `extra`"
                )
        view = self._lens.view(request)
        root, warnings = view.root, view.warnings
        for name, value in self._defaults.items():
            root.setdefault(name, value)
        for range_of in self._ranges:
            warning = range_of.check(root.get(range_of.name))
            if warning is not None:
                warnings.append(warning)
        scope: Scope = {"": root}
        body = None
        if self._body is not None:
            body = self._body(scope)
            if body is None:
                body = {}
        self._lens.check_rendered(root)
        if not self._renamed.isdisjoint(root):
            for name, keys in self._parameters:
                value = root.get(name)
                if value is not None:
                    body = _set(body, keys, value)
        if request.extra is not None:
            try:
                body = _merged(body, _mapping(request.extra, "extra"))
            except RecursionError as error:
                raise _refuse("expected values that JSON can carry: `extra` contains itself") from error
        fixed = self._fixed_headers
        headers = _own_pairs(self._headers(scope), "headers") if fixed is None else fixed
        if body is not None:
            headers = merge_headers(_JSON, headers) if headers else _JSON.copy()
        elif headers is fixed:
            headers = headers.copy()
        if request.headers is not None:
            given = _text_pairs(_mapping(request.headers, "headers"), "headers")
            for key, text in given:
                check_header(key, text)
            headers = merge_headers(headers, given)
        query = _own_pairs(self._query(scope), "query") if self._fixed_query is None else self._fixed_query.copy()
        if request.query is not None:
            given = _text_pairs(_mapping(request.query, "query"), "query")
            if not all(text.isascii() or _is_whole(text) for pair in given for text in pair):
                raise _refuse("expected whole characters in query, got half of a surrogate pair")
            own = {key for key, _ in given}
            query = [pair for pair in query if pair[0] not in own] + given
        data = b"" if body is None else _json_bytes(body, warnings)
        path = self._fixed_path
        if path is None:
            path = _fill(self._path(scope), request.model)
        return Encoded(self._method, path, query, headers, data, view.dropped_opaque, tuple(warnings))


class _Range(msgspec.Struct, frozen=True):
    """Facts about a parameter's values. They inform and never forbid."""

    name: str
    low: float | None
    high: float | None
    enum: tuple[Any, ...]

    def check(self, value: Any) -> str | None:
        if value is None:
            return None
        if self.enum and value not in self.enum:
            known = ", ".join(str(item) for item in self.enum)
            return f"`{self.name}` is {short(value)}: declared values are {known}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
            low = "" if self.low is None else f" from {self.low:g}"
            high = "" if self.high is None else f" to {self.high:g}"
            return f"`{self.name}` is {value:g}: the declared range is{low}{high}"
        return None


def compile_encoder(
    tree: Mapping[str, Any],
    where: Where,
    *,
    dialect: str,
    parameters: Mapping[str, Parameter] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Encoder:
    """The encoder of a dialect's `encode` section (`where` is that section's place).

    `parameters` are the provider's declared ranges, which only warn. `defaults` are sent where the caller gave
    nothing (manifests from elsewhere have such). Raises ManifestError.
    """
    for key in tree:
        if key not in _KEYS:
            raise where.at(key).error(f"expected one of {', '.join(_KEYS)}, got `{key}`")
    drops = _read_drops(tree.get("drops"), where.at("drops"))
    define = {} if tree.get("define") is None else tree["define"]
    if not isinstance(define, dict):
        raise where.at("define").error(f"expected a mapping from names to templates, got {short(define)}")
    compiler = Compiler(define, where.at("define"), LensReader(dialect))
    names: Names = bind(("",))
    if tree.get("path") is None:
        raise where.error("expected `path`, got nothing")
    _check_path(tree["path"], where.at("path"))
    parts = {key: compiler.compile(tree.get(key), where.at(key), names) for key in ("path", "query", "headers", "body")}
    for key in ("query", "headers"):
        if tree.get(key) is not None and not isinstance(tree[key], dict):
            raise where.at(key).error(f"expected a mapping, got {short(tree[key])}")
    for name in define:
        if name not in compiler.used_defines:
            raise where.at("define", name).error("expected a definition that something uses: nothing does")
    renames = _read_parameters(tree.get("parameters"), where.at("parameters"))
    read = {key for shape, key in compiler.reads if shape == "request"}
    placed = read | {name for name, _ in renames} | drops["fields"]
    method = tree.get("method", "POST")
    if method not in _METHODS:
        raise where.at("method").error(f"expected one of {', '.join(_METHODS)}, got {short(method)}")
    quiet = {_attribute(text) for text in drops["attributes"]}
    ranges = tuple(
        _Range(name, fact.low, fact.high, fact.enum)
        for name, fact in (parameters or {}).items()
        if name in STANDARD_PARAMETERS and (fact.low is not None or fact.high is not None or fact.enum)
    )
    for name in defaults or {}:
        if name not in STANDARD_PARAMETERS:
            raise where.error(f"expected a default for a standard parameter, got one for `{name}`")
    return Encoder(
        dialect=dialect,
        method=method,
        path=parts["path"],
        query=parts["query"],
        headers=parts["headers"],
        body=None if tree.get("body") is None else parts["body"].run,
        parameters=renames,
        defaults=dict(defaults or {}),
        ranges=ranges,
        lens=Lens(dialect, compiler.reads, dropped=drops["blocks"], quiet=quiet),
        unplaced=tuple(name for name in _FIELDS if name not in placed),
    )


def _refuse(message: str) -> CallerError:
    return CallerError(message, kind="bad_argument")


# ---- load ----


def _read_drops(tree: Any, where: Where) -> dict[str, frozenset[str]]:
    """`drops` {fields, blocks, attributes}: what a dialect leaves out on purpose."""
    given = {} if tree is None else tree
    if not isinstance(given, dict):
        raise where.error(f"expected a mapping with {', '.join(_DROPS)}, got {short(given)}")
    known: Mapping[str, tuple[str, ...]] = {
        "fields": _FIELDS,
        "blocks": BLOCK_TYPES,
        "attributes": tuple(f"{shape}.{key}" for shape, keys in FIELDS.items() for key in keys if shape != "request"),
    }
    out: dict[str, frozenset[str]] = {}
    for key, names in given.items():
        if key not in _DROPS:
            raise where.at(str(key)).error(f"expected {', '.join(_DROPS)}, got `{key}`")
        if not isinstance(names, list):
            raise where.at(key).error(f"expected a list of names, got {short(names)}")
        for index, name in enumerate(names):
            if name not in known[key]:
                expected = "<shape>.<field> of the lens, such as tool.strict" if key == "attributes" else known[key]
                said = expected if isinstance(expected, str) else ", ".join(expected)
                raise where.at(key, index).error(f"expected one of {said}; got {short(name)}")
        out[key] = frozenset(names)
    return {key: out.get(key, frozenset()) for key in _DROPS}


def _attribute(text: str) -> tuple[str, str]:
    shape, _, key = text.partition(".")
    return shape, key


def _read_parameters(tree: Any, where: Where) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """`parameters` {standard name: wire.path}: dots nest."""
    given = {} if tree is None else tree
    if not isinstance(given, dict):
        raise where.error(f"expected a mapping from standard parameters to wire names, got {short(given)}")
    out = []
    for name, target in given.items():
        if name not in STANDARD_PARAMETERS:
            raise where.at(str(name)).error(
                f"expected a standard parameter ({', '.join(STANDARD_PARAMETERS)}), got `{name}`"
            )
        if not isinstance(target, str) or not all(target.split(".")):
            raise where.at(name).error(f"expected a wire name such as `options.top_k`, got {short(target)}")
        out.append((name, tuple(target.split("."))))
    # A parameter that is an object goes first, and those inside it are set in it, whatever the order of the file.
    return tuple(sorted(out, key=lambda rename: len(rename[1])))


def _check_path(tree: Any, where: Where) -> None:
    """Every text that is a path as it stands: it begins with a slash and has no placeholder but the model.

    What operators make of parts is known with the request, and looked at then.
    """
    if isinstance(tree, dict):
        for key in ("$first", "then", "else"):
            if key in tree:
                _check_path(tree[key], where.at(key))
        if isinstance(tree.get("of"), dict):
            for key, value in tree["of"].items():
                _check_path(value, where.at("of", str(key)))
    elif isinstance(tree, list):
        for index, item in enumerate(tree):
            _check_path(item, where.at(index))
    elif isinstance(tree, str) and not tree.startswith("$"):
        if not tree.startswith("/"):
            raise where.error(f"expected a path that begins with '/', got {short(tree)}")
        for placeholder in _PLACEHOLDER.findall(tree):
            if placeholder not in ("model", "+model"):
                raise where.error(f"expected the placeholder {{model}} or {{+model}}, got {{{placeholder}}}")


# ---- run ----


def _is_unset(name: str, value: Any) -> bool:
    return value is None or value == () or value == [] or (name == "stream" and value is False)


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _refuse(f"expected {name} as a mapping, got {short(value)}")
    return value


def _text_pairs(values: Any, what: str) -> list[tuple[str, str]]:
    if values is None:
        return []
    out = []
    for key, value in values.items():
        if value is None:
            continue
        if not isinstance(key, str) or not isinstance(value, str | int | float):
            raise _refuse(f"expected texts in {what}, got {short(key)} with {short(value)}")
        if isinstance(value, float) and not math.isfinite(value):  # it would be written as null
            raise _refuse(f"expected a finite number for {short(key)} in {what}, got {value}")
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        out.append((key.lower() if what == "headers" else key, text))
    return out


def _own_pairs(values: Any, what: str) -> list[tuple[str, str]]:
    """What a dialect sends. The name of another host would lead the request there, where one server has both."""
    pairs = _text_pairs(values, what)
    if what == "headers" and any(name == "host" for name, _ in pairs):
        raise _refuse("expected headers of a dialect without `host`: requests go to the endpoint's own")
    return pairs


def _fixed_pairs(node: Node, what: str) -> list[tuple[str, str]] | None:
    if not node.constant or (node.value is not None and not isinstance(node.value, dict)):
        return None
    try:
        return _own_pairs(node.value, what)
    except CallerError:  # the request says it
        return None


def _fill(path: Any, model: str) -> str:
    if not isinstance(path, str):
        raise _refuse(f"expected a path as text, got {short(path)}")
    if not path.startswith("/"):  # behind the host it would be a part of its name, and a key goes along
        raise _refuse(f"expected a path that begins with '/', got {short(path)}")
    if "{" not in path:
        return path
    # A dot segment would name another resource of the same host.
    if any(part in ("", ".", "..") for part in model.split("/")):
        raise _refuse(f"expected a model id without empty or dot segments, got {short(model)}")
    from urllib.parse import quote

    try:
        one, kept = quote(model, safe="@"), quote(model, safe="/@")  # `@` stands in paths as it is, before a version
    except UnicodeEncodeError as error:
        raise _refuse("expected a model id of whole characters, got half of a surrogate pair") from error
    return path.replace("{model}", one).replace("{+model}", kept)


def _set(body: Any, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The body with `value` at a nested key. Parts on the way are copied: they may be the caller's own."""
    out = dict(body) if body.__class__ is dict else {}
    if len(path) == 1:
        out[path[0]] = value
    else:
        out[path[0]] = _set(out.get(path[0]), path[1:], value)
    return out


def _merged(under: Any, over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` merged into `under`: mappings merge, everything else replaces, null is sent as null."""
    out = dict(under) if under.__class__ is dict else {}
    for key, value in over.items():
        out[key] = _merged(out.get(key), value) if value.__class__ is dict else value
    return out


def _json_bytes(body: Any, warnings: list[str]) -> bytes:
    try:
        data = msgspec.json.encode(body)
    except UnicodeEncodeError:
        return _escaped_bytes(body, warnings)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _refuse(f"expected values that JSON can carry: {error}") from error
    # The encoder writes NaN and the infinities as null, which would be another request than the caller's.
    if b"null" in data:
        _refuse_not_finite(body)
    return data


def _escaped_bytes(body: Any, warnings: list[str]) -> bytes:
    """Text with half of a surrogate pair: a model's own reply may hold one, and it goes back as it came."""
    import json  # rare

    try:
        text = json.dumps(msgspec.to_builtins(body), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _refuse(f"expected values that JSON can carry: {error}") from error
    warnings.append("a text holds half of a surrogate pair: it is sent as an escape, which some servers refuse")
    return text.encode("ascii")


def _refuse_not_finite(body: Any) -> None:
    # Exact classes and no recursion: the body was encoded just now, so it holds nothing else and not itself.
    waiting: list[Any] = [(body,)]
    while waiting:
        for value in waiting.pop():
            kind = value.__class__
            if kind is str:
                continue
            if kind is dict:
                waiting.append(value.values())
            elif kind in _CONTAINERS:
                waiting.append(value)
            elif kind is float and not math.isfinite(value):
                raise _refuse(f"expected finite numbers, got {value}")
