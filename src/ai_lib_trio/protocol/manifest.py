"""The one internal form of a provider: frozen structs, built from a raw tree in our own shape.

Raw tree and dialects -> `Manifest`. Imports `errors`, `tree`, `where`. The rule that must stay true: nothing behind
this module knows which version of the protocol a file was written for, and nothing here reads a file.
"""

# No postponed annotations here: msgspec would evaluate each of them anew, which costs as much as 50 manifests do.

import re
from collections.abc import Callable, Container, Iterable
from typing import Any, Literal

import msgspec

from ..errors import CODES, CallerError, code_of_name
from .dialects import DIALECT_SECTIONS, Dialect, DialectOf, Family, FamilyForm, read_dialect
from .tree import Reader, kind_of, suggestion
from .where import Document, Where

__all__ = [
    "Auth",
    "Capabilities",
    "Chain",
    "Dialect",
    "Endpoint",
    "ErrorRules",
    "Family",
    "Manifest",
    "Operation",
    "Parameter",
    "Provenance",
    "RateLimitHeaders",
    "RateLimits",
    "RetryPolicy",
    "TextDialect",
    "TextTools",
    "ToolCalling",
    "manifest_tree",
    "read_dialect",
    "read_error_rules",
    "read_manifest",
]

Provenance = Literal["bundled", "given", "fetched"]
AuthType = Literal["bearer", "header", "query", "hmac_chain", "none"]
Scope = Literal["key", "model"]

_ID = r"[a-z0-9][a-z0-9_-]{0,63}"  # the specification's, and one letter may be an id
_TAG = r"[A-Za-z][A-Za-z0-9_-]{0,63}"
_AUTH_TYPES: tuple[AuthType, ...] = ("bearer", "header", "query", "hmac_chain", "none")
_VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"
_SCOPE_PART = r"(?:\$\{([A-Za-z0-9_]+)\}|[A-Za-z0-9._-]+)"
_SCOPES: tuple[Scope, ...] = ("key", "model")
DEFAULT_TIMEOUT_MS = 10_000  # to connect; the specification's default
DEFAULT_RETRY_STATUS = (429, 500, 502, 503, 504)  # the specification's, where a policy does not list its own


class Chain(msgspec.Struct, frozen=True):
    """The data of a chain of HMACs: what the algorithm of wire/sign leaves to the provider.

    `scope` are the links after the day, joined by slashes the scope of the key; a part may be `${NAME}`, filled like
    the base URL's. `seed` stands before the secret. The headers carry the time, the session and the body's hash.
    """

    scheme: str
    scope: tuple[str, ...]
    time_header: str
    seed: str = ""
    session_header: str | None = None
    body_header: str | None = None


class Auth(msgspec.Struct, frozen=True):
    """How a key goes on the wire, and the environment variable that may hold it.

    `bearer` and `header` put `prefix`, a space and the key (the key alone where `prefix` is empty) into the header
    `header`; `query` puts the key into the parameter `param_name`; `none` needs no key. `extra_headers` go with every
    request. `shadowed_env` are variables of an older block beside this one, which never count. `key_id` is the name
    that the key goes by where it is not the provider's id.

    `hmac_chain` signs the request instead (wire/sign): `key_id_env` has the name of the key, `token_env` its secret,
    `session_env` a token of a session, if there is one. `otherwise` is another way, taken where this one has no key.
    """

    type: AuthType = "none"
    header: str | None = None
    prefix: str = ""
    param_name: str | None = None
    token_env: str | None = None
    extra_headers: dict[str, str] = {}
    shadowed_env: tuple[str, ...] = ()
    key_id: str | None = None
    key_id_env: str | None = None
    session_env: str | None = None
    chain: Chain | None = None
    otherwise: "Auth | None" = None

    @property
    def ways(self) -> "tuple[Auth, ...]":
        """Every way to authenticate, in the order in which keys are looked for."""
        return (self,) if self.otherwise is None else (self, *self.otherwise.ways)

    @property
    def variables(self) -> tuple[str, ...]:
        """Every environment variable that may hold a part of a key, of this way and the others."""
        return tuple(name for way in self.ways for name in (way.token_env, way.key_id_env, way.session_env) if name)


class Endpoint(msgspec.Struct, frozen=True):
    """Where requests go. `variables`: placeholder of `base_url` -> the environment variable that fills it."""

    base_url: str
    timeout_ms: int = DEFAULT_TIMEOUT_MS
    variables: dict[str, str] = {}
    auth: Auth = Auth()


class ErrorRules(msgspec.Struct, frozen=True):
    """What a provider's errors mean: status, code or message part -> name of a standard code.

    `retry_after_pattern` finds a pause in a body (one group, in `retry_after_unit`). `vague_codes` stand for several
    things: the message says which, and in the general table the status too, before they count. `quota_words` turn a 429
    into a used-up quota. `request_id_headers` are tried in order, then `request_id_fields` of the body; `pause_headers`
    tell a pause (name -> unit); `should_retry_header` may forbid a retry. Names of headers are in lower case.
    """

    by_http_status: dict[int, str] = {}
    by_error_code: dict[str, str] = {}
    by_message_contains: dict[str, str] = {}
    retry_after_pattern: str | None = None
    retry_after_unit: Literal["seconds", "milliseconds"] = "seconds"
    vague_codes: dict[str, str] = {}
    quota_words: tuple[str, ...] = ()
    request_id_headers: tuple[str, ...] = ()
    request_id_fields: tuple[str, ...] = ()
    pause_headers: dict[str, str] = {}
    should_retry_header: str | None = None


class RetryPolicy(msgspec.Struct, frozen=True):
    """The provider's advice for retries. Delays in milliseconds; `max_retries` does not count the first attempt."""

    strategy: Literal["none", "exponential_backoff", "linear_backoff", "fixed_delay"] = "exponential_backoff"
    max_retries: int = 3
    min_delay_ms: int = 1_000
    max_delay_ms: int = 30_000
    jitter: Literal["full", "equal", "none"] = "full"
    retry_on_http_status: tuple[int, ...] = DEFAULT_RETRY_STATUS
    retry_on_error_code: tuple[str, ...] = ()


class RateLimitHeaders(msgspec.Struct, frozen=True):
    """Reply headers that tell limits, in lower case; None where the provider sends none."""

    requests_limit: str | None = None
    requests_remaining: str | None = None
    requests_reset: str | None = None
    tokens_limit: str | None = None
    tokens_remaining: str | None = None
    tokens_reset: str | None = None
    retry_after: str | None = None


class RateLimits(msgspec.Struct, frozen=True):
    """What a limit is a limit of (one key, or one model of a key), and the headers that tell it."""

    scope: Scope = "key"
    headers: RateLimitHeaders = RateLimitHeaders()


class Capabilities(msgspec.Struct, frozen=True):
    """What the provider says it can do. `absent` is what it says it cannot; a name in neither is not known."""

    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    feature_flags: dict[str, bool] = {}

    @property
    def declared(self) -> frozenset[str]:
        """Every capability that is declared, required or optional."""
        return self.required | self.optional


class TextDialect(msgspec.Struct, frozen=True):
    """A tag that models write around a call instead of the form they were told, and the tool that it means."""

    tag: str
    tool: str


class TextTools(msgspec.Struct, frozen=True):
    """How calls are written as text: the tag (or the fence's word), what is in it, and how firmly the model is told.

    `body` plain means that the whole body is one argument, called `args_key`; the name is an attribute then.
    """

    format: Literal["xml_json", "markdown_fence", "custom"] = "xml_json"
    wrapper: str = "tool_call"
    body: Literal["json", "plain"] = "json"
    name_location: Literal["json_field", "attribute"] = "json_field"
    args_key: str = "arguments"
    dialects: tuple[TextDialect, ...] = ()
    prompt_level: Literal["L1", "L2", "L3"] = "L2"


class ToolCalling(msgspec.Struct, frozen=True):
    """Whether the API has calls of its own, how far they are to be trusted, and how calls are written as text."""

    native: bool = True
    reliability: Literal["full", "partial", "unreliable"] = "full"
    text: TextTools | None = None

    @property
    def strategy(self) -> Literal["native", "hybrid", "text"]:
        """`native`: calls are the API's; `hybrid`: those, and where there are none, calls in the text; `text`: tools
        are told in the prompt and calls are read from the text."""
        if not self.native:
            return "text"
        if self.text is None or self.reliability == "full":
            return "native"
        return "hybrid" if self.reliability == "partial" else "text"


class Parameter(msgspec.Struct, frozen=True):
    """Facts about a standard parameter. They inform (preflight warns); they do not forbid."""

    type: str | None = None
    low: float | None = None
    high: float | None = None
    default: Any = None
    required: bool = False
    enum: tuple[Any, ...] = ()


class Operation(msgspec.Struct, frozen=True):
    """A path of the provider's that is no API family: embeddings, images, a service of its own."""

    path: str
    method: str = "POST"
    adapter: str | None = None
    request_encoding: str | None = None
    response_encoding: str | None = None


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One provider. `notes` says what the loader did about things it did not take as written.

    `services`, `metadata`, `availability` and `sources` are as written: commands print them, calls do not read them.
    """

    id: str
    protocol_version: str
    name: str
    endpoint: Endpoint
    families: dict[str, Family]
    default_family: str
    aliases: tuple[str, ...] = ()
    status: str = "stable"
    category: str = "ai_provider"
    official_url: str | None = None
    errors: ErrorRules = ErrorRules()
    retry: RetryPolicy | None = None
    rate_limits: RateLimits = RateLimits()
    capabilities: Capabilities = Capabilities()
    parameters: dict[str, Parameter] = {}
    operations: dict[str, Operation] = {}
    tool_calling: ToolCalling = ToolCalling()
    services: dict[str, Any] = {}
    availability: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    sources: dict[str, Any] = {}
    origin: Provenance = "bundled"
    file: str = ""
    notes: tuple[str, ...] = ()
    where: Where = Where()

    @property
    def auth(self) -> Auth:
        """How this provider's key goes on the wire."""
        return self.endpoint.auth

    def operation(self, name: str, fallback: str | None = None) -> Operation | None:
        """An operation by name, else a POST to `fallback`, else None."""
        found = self.operations.get(name)
        return found or (Operation(fallback) if fallback is not None else None)

    def family(self, name: str | None = None) -> Family:
        """An API family by name, or the default one. Raises `CallerError` (bad_argument) for another name."""
        wanted = self.default_family if name is None else name
        found = self.families.get(wanted)
        if found is None:
            raise CallerError(
                f"{self.id} has no API family {wanted!r}{suggestion(wanted, self.families)}",
                kind="bad_argument",
                provider=self.id,
            )
        return found


def manifest_tree(manifest: Manifest) -> dict[str, Any]:
    """The effective manifest as plain values: promoted, dialects merged, without positions."""
    tree: dict[str, Any] = msgspec.to_builtins(manifest, str_keys=False, enc_hook=_plain)
    tree.pop("where")
    for name in ("required", "optional", "absent"):  # sets have no order of their own
        tree["capabilities"][name].sort()
    return tree


def _plain(value: Any) -> Any:
    return value.tree() if isinstance(value, Family) else None


def read_manifest(
    document: Document,
    dialect_of: DialectOf,
    *,
    origin: Provenance,
    strict: bool,
    notes: list[str] | None = None,
    dialects: Callable[[], Iterable[str]] = tuple,
    checked: Container[str] = (),
) -> Manifest:
    """The manifest of a raw tree in our own shape.

    `dialect_of` finds a dialect by id or alias; those whose ids are in `checked` are read when they are first used.
    `dialects` names those that there are, for the message about one that is not known. `notes` are what earlier stages
    did. Raises `ManifestError` with file, line, path, what was expected and what came; with `strict` also for unknown
    keys.
    """
    said = list(notes or ())
    root = Reader(document.data, document.where, strict=strict, notes=said)
    ident = root.need_text("id")
    if not re.fullmatch(_ID, ident):
        raise root.where.at("id").error(f"expected an id of a-z, 0-9, - and _, got {kind_of(ident)}")
    protocol_version = root.need_text("protocol_version")
    endpoint = _endpoint(root)
    parameters = _parameters(root)
    families = _families(root, dialect_of, dialects, checked, parameters)
    default_family = root.text("default_api_family") or next(iter(families), "")
    if families and default_family not in families:
        raise root.where.at("default_api_family").error(
            f"expected one of this file's families, got {default_family!r}{suggestion(default_family, families)}"
        )
    errors = root.child("error_classification")
    fields: dict[str, Any] = {
        "id": ident,
        "protocol_version": protocol_version,
        "name": root.text("name") or ident,
        "aliases": root.texts("aliases"),
        "status": root.choice("status", ("stable", "beta", "deprecated"), "stable"),
        "category": root.choice("category", ("ai_provider", "model_provider", "third_party_aggregator"), "ai_provider"),
        "official_url": root.text("official_url"),
        "endpoint": endpoint,
        "families": families,
        "default_family": default_family,
        "errors": read_error_rules(errors) if errors else ErrorRules(),
        "retry": _retry(root),
        "rate_limits": _rate_limits(root),
        "capabilities": _capabilities(root),
        "parameters": parameters,
        "operations": _operations(root),
        "tool_calling": _tool_calling(root),
        "services": root.tree("services"),
        "availability": root.tree("availability"),
        "metadata": root.tree("metadata"),
        "sources": root.tree("sources"),
    }
    root.raw("notes")  # for people
    root.close()
    return Manifest(**fields, origin=origin, file=document.file, notes=tuple(said), where=document.where)


def _endpoint(root: Reader) -> Endpoint:
    reader = root.child("endpoint")
    if reader is None:
        raise root.where.error("expected 'endpoint', got nothing")
    base_url = reader.need_text("base_url")
    if not re.match(r"https?://[^/?#\s]+", base_url) or re.search(r"[?#\s]", base_url):
        raise reader.where.at("base_url").error(f"expected an http or https URL without query, got {kind_of(base_url)}")
    endpoint = Endpoint(
        base_url=base_url.rstrip("/"),
        timeout_ms=reader.integer("timeout_ms", DEFAULT_TIMEOUT_MS, least=1),
        variables=reader.text_map("variables"),
        auth=_auth(reader.child("auth"), reader.text_map("variables")),
    )
    reader.close()
    return endpoint


def _auth(reader: Reader | None, variables: dict[str, str]) -> Auth:
    if reader is None:
        return Auth()
    kind: AuthType = reader.choice("type", _AUTH_TYPES, "bearer")
    header, prefix, param = reader.text("header"), reader.text("prefix"), reader.text("param_name")
    if kind == "bearer":
        header, prefix = header or "Authorization", "Bearer" if prefix is None else prefix
    elif kind == "header" and not header:
        raise reader.where.error("expected 'header' for auth of type header, got nothing")
    elif kind == "query" and not param:
        raise reader.where.error("expected 'param_name' for auth of type query, got nothing")
    chain = _chain(reader, variables) if kind == "hmac_chain" else None
    if chain is not None:
        header = header or "Authorization"
    named = {key: reader.text(key) for key in ("token_env", "key_id_env", "session_env")}
    for key, variable in named.items():
        if variable is not None and not re.fullmatch(_VARIABLE, variable):
            raise reader.where.at(key).error(f"expected the name of a variable, got {kind_of(variable)}")
        if chain is None and variable is not None and key != "token_env":
            raise reader.where.at(key).error(f"expected `{key}` with auth of type hmac_chain only")
    otherwise = reader.child("otherwise")
    extra = reader.text_map("extra_headers")
    for name in extra:
        if name.lower() == "host":  # the key would go along to whoever is served beside the endpoint
            raise reader.where.at("extra_headers", name).error("expected no `host`: requests go to the endpoint's own")
    auth = Auth(
        type=kind,
        header=header,
        prefix=prefix or "",
        param_name=param,
        token_env=named["token_env"],
        key_id_env=named["key_id_env"],
        session_env=named["session_env"],
        chain=chain,
        otherwise=None if otherwise is None else _auth(otherwise, variables),
        extra_headers=extra,
        shadowed_env=reader.texts("shadowed_env"),
        key_id=reader.text("key_id"),
    )
    reader.close()
    return auth


def _chain(reader: Reader, variables: dict[str, str]) -> Chain:
    """The fields of an `hmac_chain`."""
    parts = tuple(reader.texts("scope"))
    for number, part in enumerate(parts):
        found = re.fullmatch(_SCOPE_PART, part)
        if found is None or (found.group(1) and found.group(1) not in variables):
            expected = "a word, or ${NAME} of `endpoint.variables`"
            raise reader.where.at("scope", number).error(f"expected {expected}, got {kind_of(part)}")
    if not parts:
        raise reader.where.error("expected 'scope', the links of the chain, for auth of type hmac_chain")
    return Chain(
        scheme=reader.need_text("scheme"),
        scope=parts,
        time_header=reader.need_text("time_header").lower(),
        seed=reader.text("seed") or "",
        session_header=(reader.text("session_header") or "").lower() or None,
        body_header=(reader.text("body_header") or "").lower() or None,
    )


def _families(
    root: Reader,
    dialect_of: DialectOf,
    dialects: Callable[[], Iterable[str]],
    checked: Container[str],
    parameters: dict[str, Parameter],
) -> dict[str, Family]:
    listing = root.child("api_families")
    families: dict[str, Family] = {}
    if listing is None:
        return families
    defaults = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not None and name != "stream"
    }
    for name in listing.value:
        reader = listing.child(name)
        if reader is None:
            continue  # null: a family taken out
        wanted = reader.need_text("dialect")
        if wanted not in checked:
            dialect = dialect_of(wanted)
            if dialect is None:
                close = suggestion(wanted, dialects())
                raise reader.where.at("dialect").error(f"expected a known dialect, got {wanted!r}{close}")
            wanted = dialect.id
        removed = [section for section in DIALECT_SECTIONS if section in reader.value and reader.value[section] is None]
        form = FamilyForm(
            id=str(name),
            dialect=wanted,
            whole=(*reader.texts("whole"), *removed),
            encode=reader.tree("encode"),
            decode=reader.tree("decode"),
            simulate=reader.tree("simulate"),
            defaults=defaults,
        )
        reader.close()
        family = families[str(name)] = Family(form, dialect_of, reader.where)
        for homeless in family.homeless if defaults else ():
            root.refuse("parameters", f"the default of {homeless!r} has no place in the format")
    return families


def _operations(root: Reader) -> dict[str, Operation]:
    listing = root.child("operations")
    found: dict[str, Operation] = {}
    for name in listing.value if listing is not None else ():
        reader = listing.child(name) if listing is not None else None
        if reader is None:
            continue
        found[str(name)] = Operation(
            path=reader.need_text("path"),
            method=(reader.text("method") or "POST").upper(),
            adapter=reader.text("adapter"),
            request_encoding=reader.text("request_encoding"),
            response_encoding=reader.text("response_encoding"),
        )
        reader.raw("notes")
        reader.close()
    return found


def read_error_rules(reader: Reader) -> ErrorRules:
    """`error_classification` of a manifest, or the whole table of manifests/errors.yaml."""
    by_status: dict[int, str] = {}
    for status, name in _names(reader, "by_http_status").items():
        if isinstance(status, str) and status.isdigit():
            status = int(status)
        if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
            raise reader.where.at("by_http_status", status).error(f"expected an HTTP status, got {kind_of(status)}")
        by_status[status] = name
    pause = reader.child("retry_after_extraction")
    pattern, unit = None, "seconds"
    if pause is not None:
        pattern = pause.need_text("pattern")
        from .patterns import compile_pattern  # few manifests have one

        compile_pattern(pattern, pause.where.at("pattern"), groups=1)
        unit = pause.choice("unit", ("seconds", "milliseconds"), "seconds")
        pause.close()
    rules = ErrorRules(
        by_http_status=by_status,
        by_error_code={str(key): name for key, name in _names(reader, "by_error_code").items()},
        by_message_contains={str(key).lower(): name for key, name in _names(reader, "by_message_contains").items()},
        retry_after_pattern=pattern,
        retry_after_unit="milliseconds" if unit == "milliseconds" else "seconds",
        vague_codes={str(key): name for key, name in _names(reader, "vague_codes").items()},
        quota_words=tuple(word.lower() for word in reader.texts("quota_words")),
        request_id_headers=tuple(name.lower() for name in reader.texts("request_id_headers")),
        request_id_fields=reader.texts("request_id_fields"),
        pause_headers={name.lower(): unit for name, unit in reader.text_map("pause_headers").items()},
        should_retry_header=(reader.text("should_retry_header") or "").lower() or None,
    )
    reader.raw("notes")
    reader.close()
    return rules


def _names(reader: Reader, key: str) -> dict[Any, str]:
    """A table of standard error names. Upstream writes some that are none: those rows are noted and left out."""
    found: dict[Any, str] = {}
    for said, name in reader.tree(key).items():
        if isinstance(name, str) and code_of_name(name) is not None:
            found[said] = name
            continue
        message = f"expected the name of a standard error, got {kind_of(name)}"
        message += suggestion(str(name), (row.name for row in CODES.values()))
        error = reader.where.at(key, said).error(message)
        if reader.strict:
            raise error
        reader.notes.append(error.message + "; the row has no effect")
    return found


def _retry(root: Reader) -> RetryPolicy | None:
    reader = root.child("retry_policy")
    if reader is None:
        return None
    usual = RetryPolicy()
    policy = RetryPolicy(
        strategy=reader.choice(
            "strategy", ("none", "exponential_backoff", "linear_backoff", "fixed_delay"), usual.strategy
        ),
        max_retries=reader.integer("max_retries", usual.max_retries),
        min_delay_ms=reader.integer("min_delay_ms", usual.min_delay_ms),
        max_delay_ms=reader.integer("max_delay_ms", usual.max_delay_ms),
        jitter=reader.choice("jitter", ("full", "equal", "none"), usual.jitter),
        retry_on_http_status=reader.integers("retry_on_http_status") or usual.retry_on_http_status,
        retry_on_error_code=reader.texts("retry_on_error_code"),
    )
    reader.raw("notes")
    reader.close()
    if policy.max_delay_ms < policy.min_delay_ms:
        reader.refuse("max_delay_ms", f"expected at least min_delay_ms ({policy.min_delay_ms}), got less")
    return policy


def _rate_limits(root: Reader) -> RateLimits:
    reader = root.child("rate_limits")
    if reader is None:
        return RateLimits()
    scope: Scope = reader.choice("scope", _SCOPES, "key")
    names = reader.child("headers")
    found: dict[str, str | None] = {}
    if names is not None:
        for field in RateLimitHeaders.__struct_fields__:
            header = names.text(field)
            found[field] = header.lower() if header else None
        names.close()
    reader.raw("notes")
    reader.close()
    return RateLimits(scope=scope, headers=RateLimitHeaders(**found))


def _capabilities(root: Reader) -> Capabilities:
    reader = root.child("capabilities")
    if reader is None:
        return Capabilities()
    flags: dict[str, bool] = {}
    for name, value in reader.tree("feature_flags").items():
        if not isinstance(value, bool):
            raise reader.where.at("feature_flags", name).error(f"expected true or false, got {kind_of(value)}")
        flags[str(name)] = value
    found = Capabilities(
        required=frozenset(reader.texts("required")),
        optional=frozenset(reader.texts("optional")),
        absent=frozenset(reader.texts("absent")),
        feature_flags=flags,
    )
    both = (found.required | found.optional) & found.absent
    if both:
        raise reader.where.at("absent").error(f"expected what is not declared above, got {sorted(both)[0]!r} twice")
    reader.close()
    return found


def _tool_calling(root: Reader) -> ToolCalling:
    reader = root.child("tool_calling")
    if reader is None:
        return ToolCalling()
    native = reader.child("native")
    supported, reliability = True, "full"
    if native is not None:
        supported = native.flag("supported", True)
        reliability = native.choice("reliability", ("full", "partial", "unreliable"), "full")
        for documentation in ("parallel", "streaming", "notes"):
            native.raw(documentation)
        native.close()
    fallback = reader.child("text_fallback")
    text = None if fallback is None else _text_tools(fallback)
    reader.close()
    return ToolCalling(native=supported, reliability=reliability, text=text)  # type: ignore[arg-type]


def _text_tools(reader: Reader) -> TextTools:
    usual = TextTools()
    body = reader.choice("body", ("json", "plain", "yaml"), "json")
    if body == "yaml":
        reader.notes.append(reader.where.at("body").error("calls in YAML are not read; read as json").message)
    dialects = []
    for number, one in enumerate(reader.items("known_dialects")):
        at = reader.where.at("known_dialects", number)
        if not isinstance(one, dict) or not isinstance(one.get("tag"), str) or not re.fullmatch(_TAG, one["tag"]):
            raise at.error("expected a mapping with 'tag' (letters, digits, - and _) and 'map_to'")
        tool = one.get("map_to")
        dialects.append(TextDialect(one["tag"], tool if isinstance(tool, str) else ""))
    wrapper = (reader.text("wrapper") or usual.wrapper).strip("<>/` ")
    if not re.fullmatch(_TAG, wrapper):
        raise reader.where.at("wrapper").error(f"expected a tag of letters, digits, - and _, got {kind_of(wrapper)}")
    found = TextTools(
        format=reader.choice("format", ("xml_json", "markdown_fence", "custom"), usual.format),
        wrapper=wrapper,
        body="plain" if body == "plain" else "json",
        name_location=reader.choice("name_location", ("json_field", "attribute"), usual.name_location),
        args_key=reader.text("args_key") or usual.args_key,
        dialects=tuple(dialects),
        prompt_level=reader.choice("prompt_level", ("L1", "L2", "L3"), usual.prompt_level),
    )
    reader.close()
    return found


def _parameters(root: Reader) -> dict[str, Parameter]:
    listing = root.child("parameters")
    found: dict[str, Parameter] = {}
    if listing is None:
        return found
    for name in listing.value:
        reader = listing.child(name)
        if reader is None:
            found[str(name)] = Parameter()
            continue
        low, high = reader.number("min"), reader.number("max")
        bounds = reader.items("range")
        if bounds:
            if len(bounds) != 2 or any(isinstance(b, bool) or not isinstance(b, (int, float)) for b in bounds):
                raise reader.where.at("range").error("expected two numbers, lowest and highest")
            low, high = bounds
        found[str(name)] = Parameter(
            type=reader.text("type"),
            low=low,
            high=high,
            default=reader.raw("default"),
            required=reader.flag("required", False),
            enum=tuple(reader.items("enum")),
        )
        reader.raw("notes")
        reader.close()
    return found
