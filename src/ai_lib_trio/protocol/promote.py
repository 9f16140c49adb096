"""A manifest written for any version of the specification becomes a raw tree in our own shape.

Raw tree -> raw tree, with positions and notes. Imports `errors`, `event_rules`, `manifest` for `Dialect`, `tree`,
`where`. The rule that must stay true: nothing behind this module knows a version; what a file says and we did not
take as written is a line in the notes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from ..errors import ManifestError, code_of_name
from .event_rules import covered_paths, is_covered, relative_condition, translate
from .manifest import Dialect
from .paths import parse_path
from .rules import parse_condition
from .tree import kind_of, suggestion
from .where import Key, Position, Where
from .yaml_source import Document

__all__ = ["RENAMED", "Promotion", "is_chat", "is_ours", "promote"]

# Fields of the specification that describe, and change nothing that a call does.
_DESCRIPTIONS = (
    "$schema", "version", "support_contact", "notes", "experimental_features", "non_streaming", "multimodal",
    "content_block_schema", "response_mapping", "usage_patterns", "best_practices", "tips", "examples", "pricing",
    "response_format", "guardrails", "context_policy", "provider_contract", "computer_use", "mcp",
    "default_api_family", "base_url_template", "connection_vars",
)  # fmt: skip
_COPIED = ("name", "official_url", "services", "availability", "metadata", "aliases")
# Standard parameters that a file may rename. What has a structure of its own (tools, messages, ...) is the dialect's.
RENAMED = (
    "temperature", "max_tokens", "top_p", "top_k", "stop_sequences", "seed", "n", "presence_penalty",
    "frequency_penalty", "logprobs", "top_logprobs", "reasoning_effort", "parallel_tool_calls", "metadata",
)  # fmt: skip
_STATUSES = ("stable", "beta", "deprecated")
_CATEGORIES = ("ai_provider", "model_provider", "third_party_aggregator")
_RETRY_FIELDS = ("max_retries", "min_delay_ms", "max_delay_ms", "retry_on_http_status", "retry_on_error_code")
_RATE_FIELDS = (
    "requests_limit", "requests_remaining", "requests_reset", "tokens_limit", "tokens_remaining", "tokens_reset",
    "retry_after",
)  # fmt: skip


class Promotion(NamedTuple):
    """What promotion looks things up in: the dialects, and the words of manifests/spec.yaml."""

    dialect_of: Callable[[str], Dialect | None]
    dialects: Callable[[], list[Dialect]]
    words: Mapping[str, Any]  # spec.yaml, `promotion`
    corrections: list[Any]  # spec.yaml, `corrections`


def is_ours(tree: Any) -> bool:
    """Whether a raw tree is in our own shape: its API families name dialects."""
    families = tree.get("api_families") if isinstance(tree, Mapping) else None
    if not isinstance(families, Mapping):
        return False
    return not families or any(isinstance(family, Mapping) and "dialect" in family for family in families.values())


def promote(document: Document, known: Promotion, *, strict: bool = False) -> tuple[Document, list[str]]:
    """The document in our own shape, and what was done to it.

    Raises `ManifestError` for what no version allows; with `strict` also for keys at the top that no version knows.
    """
    if not isinstance(document.data, dict):
        raise document.where.error(f"expected a mapping, got {kind_of(document.data)}")
    work = _Promoting(document, known, strict)
    work.run()
    return Document(work.out, document.file, work.positions), work.notes


class _Promoting:
    def __init__(self, document: Document, known: Promotion, strict: bool) -> None:
        self.known = known
        self.strict = strict
        self.where = document.where
        self.positions: dict[tuple[Key, ...], Position] = {}
        self.out: dict[str, Any] = {}
        self.notes: list[str] = []
        self.seen: set[str] = set(_DESCRIPTIONS)
        tree: dict[str, Any] = dict(document.data)
        self.moved: dict[str, tuple[Key, ...]] = {key: (key,) for key in tree}
        core = tree.pop("core", None)
        if isinstance(core, dict):  # an older shape of version 2
            for key, value in core.items():
                if key not in tree:
                    tree[key], self.moved[key] = value, ("core", key)
        self.tree = tree

    # ---- helpers

    def at(self, *path: Key) -> Where:
        head = self.moved.get(str(path[0]), (path[0],)) if path else ()
        return self.where.at(*head, *path[1:])

    def note(self, where: Where, message: str) -> None:
        self.notes.append(where.error(message).message)

    def put(self, path: tuple[Key, ...], value: Any, source: Where | None = None) -> None:
        """Set a value of the result, with the place (and, where it is copied, the inner places) of its source."""
        into: dict[Any, Any] = self.out
        for key in path[:-1]:
            into = into.setdefault(key, {})
        into[path[-1]] = value
        place = source.position() if source is not None else None
        if source is None or place is None:
            return
        self.positions[path] = place
        size = len(source.base)
        for inner, at in source.positions.items():
            if len(inner) > size and inner[:size] == source.base:
                self.positions[path + inner[size:]] = at

    def mapping(self, key: str) -> dict[str, Any]:
        """The mapping at a top-level key; {} where there is none or something else."""
        self.seen.add(key)
        value = self.tree.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.note(self.at(key), f"expected a mapping, got {kind_of(value)}; it has no effect")
            return {}
        return value

    def text(self, tree: Mapping[str, Any], key: str, where: Where) -> str | None:
        value = tree.get(key)
        if value is None or isinstance(value, str):
            return value or None
        raise where.at(key).error(f"expected text, got {kind_of(value)}")

    # ---- the way through a file

    def run(self) -> None:
        place = self.where.position()
        if place is not None:
            self.positions[()] = place
        for key in ("id", "protocol_version"):
            self.seen.add(key)
            if self.tree.get(key) is not None:
                self.put((key,), self.tree[key], self.at(key))
        for key in _COPIED:
            self.seen.add(key)
            if self.tree.get(key) is not None:
                self.put((key,), self.tree[key], self.at(key))
        self.one_of("status", _STATUSES)
        self.one_of("category", _CATEGORIES)
        self.check_profile()
        self.endpoint()
        self.errors()
        self.retry()
        self.limits()
        self.capabilities()
        self.parameters()
        self.families()
        for key in self.tree:
            if key not in self.seen:
                if self.strict:
                    raise self.at(key).error(f"unknown key {key!r}{suggestion(key, self.seen)}")
                self.note(self.at(key), f"unknown key {key!r} has no effect")
        self.correct()
        self.notes = list(dict.fromkeys(self.notes))

    def one_of(self, key: str, allowed: tuple[str, ...]) -> None:
        self.seen.add(key)
        value = self.tree.get(key)
        if value in allowed:
            self.put((key,), value, self.at(key))
        elif value is not None:
            self.note(self.at(key), f"expected one of {', '.join(allowed)}, got {kind_of(value)}; it has no effect")

    def check_profile(self) -> None:
        """`capability_profile`: metadata, with rules of its own whose wording other runtimes share."""
        self.seen.add("capability_profile")
        profile, where = self.tree.get("capability_profile"), self.at("capability_profile")
        if profile is None:
            return
        if not isinstance(profile, dict):
            raise where.error(f"capability_profile must be object, got {kind_of(profile)}")
        phase = profile.get("phase")
        described = any(part in profile for part in ("inputs", "outcomes", "systems"))
        bound = [part for part in ("process", "contract") if part in profile]
        if phase == "ios_v1" and bound:
            raise where.at(bound[0]).error("must NOT have additional properties: ios_v1 has no process and no contract")
        if phase in ("ios_v1", "iospc_v1") and not described:
            raise where.error("must match at least one schema in anyOf: inputs, outcomes or systems")
        if phase == "iospc_v1" and not bound:
            raise where.error("iospc_v1 requires process or contract")

    def endpoint(self) -> None:
        self.seen.add("endpoint")
        endpoint = self.tree.get("endpoint")
        if endpoint is None:
            return  # refused where the struct is built
        if not isinstance(endpoint, dict):
            raise self.at("endpoint").error(f"expected a mapping, got {kind_of(endpoint)}")
        where = self.at("endpoint")
        base_url = endpoint.get("base_url")
        template = self.tree.get("base_url_template")
        if isinstance(template, str):
            self.note(
                self.at("base_url_template"), "a host that changes with the model is not supported; base_url is used"
            )
        self.put(("endpoint",), {}, None)
        if base_url is not None:
            self.put(("endpoint", "base_url"), base_url, where.at("base_url"))
        if isinstance(base_url, str):
            names = dict.fromkeys(re.findall(r"\$\{([A-Za-z_]\w*)\}", base_url))
            if names:
                self.put(("endpoint", "variables"), {name: name for name in names}, where.at("base_url"))
        if endpoint.get("timeout_ms") is not None:
            self.put(("endpoint", "timeout_ms"), endpoint["timeout_ms"], where.at("timeout_ms"))
        self.auth(endpoint)

    def auth(self, endpoint: Mapping[str, Any]) -> None:
        inner, outer = endpoint.get("auth"), self.mapping("auth")
        auth, where = (inner, self.at("endpoint", "auth")) if isinstance(inner, dict) else (outer, self.at("auth"))
        if not auth:
            self.note(self.at("endpoint"), "no auth block: requests carry no key")
            return
        said = str(auth.get("type", "bearer"))
        kind = self.known.words["auth_types"].get(said)
        if kind is None:
            expected = ", ".join(self.known.words["auth_types"])
            raise where.at("type").error(f"expected one of {expected}, got {kind_of(auth.get('type'))}")
        to = ("endpoint", "auth")
        self.put(to, {"type": kind}, None)
        self.positions[to] = where.position() or (self.where.file, 1)
        header = self.text(auth, "header", where) or self.text(auth, "header_name", where)
        if kind == "header":
            self.put((*to, "header"), header or "X-API-Key", where.at("header"))
        elif header and kind == "bearer":
            self.put((*to, "header"), header, where.at("header"))
        if auth.get("prefix") is not None and kind != "query":
            self.put((*to, "prefix"), str(auth["prefix"]).strip(), where.at("prefix"))
        if kind == "query":
            self.put((*to, "param_name"), self.text(auth, "param_name", where) or "api_key", where.at("param_name"))
        token_env = self.text(auth, "token_env", where) or self.text(auth, "key_env", where)
        if token_env:
            self.put((*to, "token_env"), token_env, where.at("token_env" if auth.get("token_env") else "key_env"))
        extra = auth.get("extra_headers")
        if isinstance(extra, list):
            pairs = [item for item in extra if isinstance(item, dict) and "name" in item and "value" in item]
            extra = {str(item["name"]): str(item["value"]) for item in pairs}
        if isinstance(extra, dict) and extra:
            self.put((*to, "extra_headers"), {str(k): str(v) for k, v in extra.items()}, where.at("extra_headers"))
        provider_id = self.tree.get("provider_id")
        self.seen.add("provider_id")
        if isinstance(provider_id, str) and provider_id != self.tree.get("id"):
            self.put((*to, "key_id"), provider_id, self.at("provider_id"))
        if isinstance(inner, dict) and outer:
            shadowed = self.text(outer, "token_env", self.at("auth")) or self.text(outer, "key_env", self.at("auth"))
            differs = shadowed != token_env or outer.get("type") != inner.get("type")
            if differs:
                named = f"; its variable {shadowed} never counts" if shadowed and shadowed != token_env else ""
                self.note(self.at("auth"), f"shadowed by endpoint.auth{named}")
            if shadowed and shadowed != token_env:
                self.put((*to, "shadowed_env"), [shadowed], self.at("auth"))

    def errors(self) -> None:
        rules = self.mapping("error_classification")
        where = self.at("error_classification")
        for table, ours in (
            ("by_http_status", "by_http_status"),
            ("by_error_code", "by_error_code"),
            ("by_error_status", "by_error_code"),  # a provider's canonical statuses: codes by another name
            ("by_message_contains", "by_message_contains"),
        ):
            rows = rules.get(table)
            for said, name in rows.items() if isinstance(rows, dict) else ():
                at = where.at(table, said)
                meant = self.known.words["error_names"].get(name, name) if isinstance(name, str) else name
                if meant != name:
                    self.note(at, f"{name!r} is no standard error; read as {meant!r}")
                if not isinstance(meant, str) or code_of_name(meant) is None:
                    self.note(at, f"expected the name of a standard error, got {kind_of(name)}; the row has no effect")
                    continue
                self.put(("error_classification", ours, said), meant, at)
        pause = rules.get("retry_after_extraction")
        if pause is not None:
            self.put(("error_classification", "retry_after_extraction"), pause, where.at("retry_after_extraction"))

    def retry(self) -> None:
        policy = self.mapping("retry_policy")
        where = self.at("retry_policy")
        if not policy:
            return
        strategies = ("none", "exponential_backoff", "linear_backoff", "fixed_delay")
        self.put(("retry_policy",), {}, None)
        self.positions["retry_policy",] = where.position() or (self.where.file, 1)
        for key, allowed in (("strategy", strategies), ("jitter", ("full", "equal", "none"))):
            if policy.get(key) in allowed:
                self.put(("retry_policy", key), policy[key], where.at(key))
            elif policy.get(key) is not None:
                self.note(where.at(key), f"expected one of {', '.join(allowed)}; it has no effect")
        for key in _RETRY_FIELDS:
            if policy.get(key) is not None:
                self.put(("retry_policy", key), policy[key], where.at(key))
        canonical = policy.get("retry_on_error_status")
        if isinstance(canonical, list):
            known = self.out["retry_policy"].get("retry_on_error_code", [])
            self.put(("retry_policy", "retry_on_error_code"), [*known, *canonical], where.at("retry_on_error_status"))

    def limits(self) -> None:
        headers = self.mapping("rate_limit_headers")
        for key in _RATE_FIELDS:
            if isinstance(headers.get(key), str):
                self.put(("rate_limits", "headers", key), headers[key], self.at("rate_limit_headers", key))

    def capabilities(self) -> None:
        self.seen.update(("capabilities", "tool_calling"))
        said, where = self.tree.get("capabilities"), self.at("capabilities")
        tool_calling = self.tree.get("tool_calling")
        required: list[Any] = []
        optional: list[Any] = []
        absent: list[str] = []
        flags: Any = None
        if isinstance(said, list):
            required = said
        elif isinstance(said, dict) and said and all(isinstance(value, bool) for value in said.values()):
            optional = [name for name, value in said.items() if value]
            absent = [name for name, value in said.items() if not value]
        elif isinstance(said, dict):
            required = said.get("required") or []
            optional = said.get("optional") or []
            flags = said.get("feature_flags")
            tool_calling = said.get("tool_calling", tool_calling)
        elif said is not None:
            raise where.error(f"expected a list or a mapping, got {kind_of(said)}")
        if not isinstance(required, list) or not isinstance(optional, list):
            raise where.error("expected lists in 'required' and 'optional'")
        names: Mapping[str, str] = self.known.words["capability_names"]

        def ours(listed: list[Any]) -> list[str]:
            return list(dict.fromkeys(names.get(str(one), str(one)) for one in listed))

        self.put(("capabilities",), {"required": ours(required), "optional": ours(optional)}, where)
        gone = [one for one in ours(list(absent)) if one not in self.out["capabilities"]["optional"]]
        if gone:
            self.put(("capabilities", "absent"), gone, where)
        if isinstance(flags, dict):
            kept = {str(name): value for name, value in flags.items() if isinstance(value, bool)}
            self.put(("capabilities", "feature_flags"), kept, where.at("feature_flags"))
        if isinstance(tool_calling, dict):
            self.put(("tool_calling",), tool_calling, where.at("tool_calling"))

    def parameters(self) -> None:
        """Facts about parameters, by standard name; renames are the families' business."""
        listed = self.mapping("parameters")
        for name, entry in listed.items():
            if not isinstance(entry, dict):
                continue
            alias, at = entry.get("alias"), self.at("parameters", name)
            standard = alias if isinstance(alias, str) and name not in RENAMED else name
            facts = {key: value for key, value in entry.items() if key != "alias"}
            for key in [
                key for key in facts if key not in ("type", "range", "min", "max", "default", "required", "enum")
            ]:
                self.note(at.at(key), f"unknown key {key!r} has no effect")
                del facts[key]
            if set(entry) <= {"alias"} and entry:
                continue  # a name and no facts
            self.put(("parameters", standard), facts, at)

    # ---- API families

    def families(self) -> None:
        self.seen.update(("api_families", "endpoints", "payload_format", "streaming", "parameter_mappings"))
        self.seen.update(("termination", "tooling", "features", "response_paths", "api_style"))
        operations = self.operations()
        family_names: list[str] = []
        for name, path, adapter in self.chats(operations):
            dialect = self.dialect(adapter, path)
            known = dialect is not None
            if dialect is None:
                dialect = self.known.dialect_of(self.known.words["default_dialect"])
                if dialect is None:
                    raise self.where.error("expected the default dialect of spec.yaml, found none")
            if not known and not self.tells_replies():
                self.note(self.where, f"nothing says how replies are read; read as {dialect.id}")
                known = True
            family = dialect.id if known else name
            if family in self.out.get("api_families", {}):
                self.note(self.at("endpoints", name), f"another path of {family}; it has no effect")
                continue
            tree: dict[str, Any] = {"dialect": dialect.id}
            encode = self.encode(dialect, path, operations.get("stream_chat", (None, None))[0], known=known)
            decode = self.decode_known(dialect) if known else self.decode_own(dialect, adapter)
            if encode:
                tree["encode"] = encode
            if decode:
                tree["decode"] = decode
            if not known:
                tree["whole"] = ["decode"]
            self.put(("api_families", family), tree, None)
            # The streaming block is where most of a family comes from; a fault in it is looked for there.
            place = (self.at("streaming") if self.tree.get("streaming") else self.where).position()
            if place is not None:
                self.positions["api_families", family] = place
            family_names.append(family)
        if not family_names:
            self.put(("api_families",), {}, None)
            self.note(self.where, "no chat operation: there is nothing to call but services")
            return
        self.put(("default_api_family",), family_names[0], None)

    def operations(self) -> dict[str, tuple[str | None, str | None]]:
        """Operation -> path and adapter, of `endpoints`, then `endpoint`; the others are kept as they are."""
        found: dict[str, tuple[str | None, str | None]] = {}
        endpoint = self.tree.get("endpoint") or {}
        inner = endpoint.get("endpoints") if isinstance(endpoint, dict) else None
        for listing, base in ((self.tree.get("endpoints"), ("endpoints",)), (inner, ("endpoint", "endpoints"))):
            for name, entry in listing.items() if isinstance(listing, dict) else ():
                at = self.at(*base, name)
                if isinstance(entry, str):
                    entry = {"path": entry}
                if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
                    self.note(at, "expected a path; the operation has no effect")
                    continue
                adapter = entry.get("adapter")
                found[str(name)] = (entry["path"], adapter if isinstance(adapter, str) else None)
                if not is_chat(str(name)):
                    self.put(("operations", str(name)), entry, at)
        flat = ("chat", "embeddings", "images", "stt", "tts", "rerank", "completions")
        for name in flat:
            path = endpoint.get(name) if isinstance(endpoint, dict) else None
            if isinstance(path, str) and name not in found:
                found[name] = (path, None)
                if not is_chat(name):
                    self.put(("operations", name), {"path": path}, self.at("endpoint", name))
        return found

    def chats(
        self, operations: Mapping[str, tuple[str | None, str | None]]
    ) -> list[tuple[str, str | None, str | None]]:
        """The chat operations, the one called `chat` first."""
        listed = [(name, *entry) for name, entry in operations.items() if is_chat(name)]
        listed.sort(key=lambda one: one[0] != "chat")
        if listed or self.is_no_chat(operations):
            return listed
        return [("chat", None, None)]

    def is_no_chat(self, operations: Mapping[str, Any]) -> bool:
        """A file with operations of which none is a chat, or that says it cannot chat, has no API family."""
        return any(not is_chat(name) for name in operations) and not self.tree.get("payload_format")

    def dialect(self, adapter: str | None, path: str | None) -> Dialect | None:
        """The dialect that a file means, by the names it gives, else by the path. None for one that is not known."""
        decoder = _mapping(self.streaming().get("decoder"))
        nested = _mapping(self.tree.get("auth")).get("payload_format")
        if nested and not self.tree.get("payload_format"):
            self.note(self.at("auth", "payload_format"), "payload_format stands inside auth; read as if beside it")
        chat = _mapping(_mapping(self.tree.get("api_families")).get("chat"))
        said = [
            adapter,
            self.tree.get("payload_format") or nested,
            decoder.get("strategy"),
            self.tree.get("api_style"),
            chat.get("request_format"),
        ]
        names = [name for name in said if isinstance(name, str) and name]
        for name in names:
            found = self.known.dialect_of(name)
            if found is not None:
                return found
        if path is not None and not names:
            for dialect in self.known.dialects():
                if any(path.endswith(own) for own in _strings(dialect.encode.get("path"))):
                    return dialect
        if not names:
            return self.known.dialect_of(self.known.words["default_dialect"])
        self.note(self.where, f"the format {names[0]!r} is not known: replies are read by this file's own rules")
        return None

    def tells_replies(self) -> bool:
        streaming = self.streaming()
        return bool(streaming.get("event_map") or streaming.get("content_path") or self.tree.get("response_paths"))

    # ---- encode

    def encode(self, dialect: Dialect, path: str | None, stream_path: str | None, *, known: bool) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        own = _strings(dialect.encode.get("path"))
        if path is not None and path not in own:
            plain, _, query = path.partition("?")
            plain = re.sub(r"\{owner\}/\{model\}", "{+model}", plain).replace("{model_id}", "{model}")
            if stream_path is not None:
                streamed = stream_path.partition("?")[0].replace("{model_id}", "{model}")
                tree["path"] = {"$if": "$.stream == true", "then": streamed, "else": plain}
            else:
                tree["path"] = plain
            if query:
                tree["query"] = dict(parse_qsl(query))
        renames = self.renames(dialect)
        if renames:
            tree["parameters"] = renames
        if not known:
            tree |= self.structures()
        return tree

    def structures(self) -> dict[str, Any]:
        """What an unknown format calls the parts that have a structure of their own."""
        mappings = self.mapping("parameter_mappings")
        body: dict[str, Any] = {}
        system, tools = mappings.get("system_message"), mappings.get("tools")
        if isinstance(system, str) and system:
            body[system] = "$.system.text"
            body["messages"] = {"$each": "$.turns"}
        if isinstance(tools, str) and tools and tools != "tools":
            fields = {"name": "$t.name", "description": "$t.description", "parameters": "$t.parameters"}
            body |= {"tools": None, tools: {"$each": "$.tools", "as": "t", "do": fields}}
        return {"body": body} if body else {}

    def renames(self, dialect: Dialect) -> dict[str, Any]:
        # What the specification means by a format may differ from ours in a name or two.
        mapped: dict[str, str] = dict(self.known.words["renames"].get(dialect.id, {}))
        mappings = self.mapping("parameter_mappings")
        for name, wire in mappings.items():
            if name in RENAMED and isinstance(wire, str):
                mapped[name] = wire
        listed = self.tree.get("parameters")
        for name, entry in listed.items() if isinstance(listed, dict) else ():
            alias = entry.get("alias") if isinstance(entry, dict) else None
            if name in RENAMED and isinstance(alias, str):
                mapped[name] = alias
        own = dialect.encode.get("parameters") or {}
        body = dialect.encode.get("body") or {}
        out: dict[str, Any] = {}
        for name, wire in mapped.items():
            ours = own.get(name)
            if ours == wire or (ours is None and wire in body):
                continue
            if isinstance(ours, str) and "." in ours and ours.rsplit(".", 1)[1] == wire:
                at = self.at("parameter_mappings", name)
                self.note(at, f"{wire!r} belongs at {ours!r} in this format; it is sent there")
                continue
            out[name] = wire
        return out

    # ---- decode

    def streaming(self) -> dict[str, Any]:
        return _mapping(self.tree.get("streaming"))

    def translated(self, *, with_selector: bool) -> Any:
        streaming = self.streaming()
        candidate = _mapping(streaming.get("candidate"))
        event_map = streaming.get("event_map")
        selector = streaming.get("frame_selector") if with_selector else None
        return translate(
            event_map if isinstance(event_map, list) else [],
            self.at("streaming", "event_map"),
            usage_names=self.known.words["usage"],
            candidate_path=candidate.get("candidate_id_path"),
            fan_out=candidate.get("fan_out") is True,
            selector=selector if isinstance(selector, str) and selector.strip() else None,
            notes=self.notes,
        )

    def finish_map(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for raw, reason in _mapping(_mapping(self.tree.get("termination")).get("mapping")).items():
            if raw == "null":
                continue  # no reason is no reason
            at = self.at("termination", "mapping", raw)
            standard = self.known.words["finish_reasons"].get(reason)
            if standard is None:
                self.note(at, f"expected a standard finish reason, got {kind_of(reason)}; read as 'other'")
                standard = "other"
            elif standard != reason:
                self.note(at, f"{reason!r} is no standard finish reason; read as {standard!r}")
            found[str(raw)] = standard
        return found

    def decode_known(self, dialect: Dialect) -> dict[str, Any]:
        """What a file adds to a dialect that is used whole."""
        tree: dict[str, Any] = {}
        reasons = self.finish_map()
        own = (dialect.decode.get("finish") or {}).get("map") or {}
        added = {raw: reason for raw, reason in reasons.items() if own.get(raw) != reason}
        if added:
            tree["finish"] = {"map": added}
        translated = self.translated(with_selector=False)
        known = covered_paths(dialect.decode, dialect.where)
        kept: dict[str, Any] = {}
        for name, rule in translated.rules.items():
            fact, paths = translated.reads[name]
            number = int(name.partition("_")[0])
            at = self.at("streaming", "event_map", number)
            if is_covered(fact, paths, known, at):
                self.note(at, f"covered by the dialect {dialect.id}")
            else:
                kept[f"event_map_{name}"] = rule
        if kept:
            tree["stream"] = kept
        return tree

    def decode_own(self, dialect: Dialect, adapter: str | None) -> dict[str, Any]:
        """A whole `decode` section of a file whose format no dialect knows."""
        streaming = self.streaming()
        decoder = _mapping(streaming.get("decoder"))
        translated = self.translated(with_selector=True)
        rules = translated.rules
        if not rules:
            rules = self.path_rules()
        done = decoder.get("done_signal", "[DONE]")
        is_lines = decoder.get("delimiter") == "\n" and not decoder.get("prefix")
        form = "ndjson" if is_lines or decoder.get("format") == "ndjson" else "sse"
        framing: dict[str, Any] = {"format": form}
        ways = []
        if isinstance(done, str) and done and form == "sse":
            framing["done"] = done
            ways.append("sentinel")
        facts = {rule_fact for rule_fact, _ in translated.reads.values()} | {
            rule.get("emit") for rule in rules.values()
        }
        body = self.body_rules()
        define: dict[str, Any] = {}
        if not body:
            body = {**(dialect.decode.get("rules") or {}), **(dialect.decode.get("body") or {})}
            define = _used_defines(body, dialect.decode.get("define") or {})
            self.note(self.where, f"nothing says how a whole reply is read; read as {dialect.id}")
        if "FinalCandidate" in facts:
            ways.append("finish")
        if "Complete" in facts:
            ways.append("mark")
        if not ways:
            ways.extend(self.stop_rule(rules))
        if not ways or not _emits(body, "FinalCandidate"):
            ways.append("eof")
        tree: dict[str, Any] = {
            "framing": framing,
            "complete_when": ways,
            "error": self.error_rule(dialect, translated.error),
            "stream": rules,
            "body": body,
        }
        if define:
            tree["define"] = define
        reasons = self.finish_map()
        if reasons:
            tree["finish"] = {"map": reasons}
        return tree

    def stop_rule(self, rules: dict[str, Any]) -> list[str]:
        """`stop_condition` as evidence of the end, where there is no better: what follows it still counts elsewhere."""
        stop = self.streaming().get("stop_condition")
        if not isinstance(stop, str) or not stop.strip():
            return []
        condition = stop.replace('"', "'")
        try:
            parse_condition(condition, self.at("streaming", "stop_condition"))
        except ManifestError as error:
            self.notes.append(f"{error.message}; it is no evidence of the end")
            return []
        rules["stop_condition"] = {"match": condition, "emit": "Complete"}
        return ["mark"]

    def error_rule(self, dialect: Dialect, told: dict[str, Any] | None) -> dict[str, Any]:
        mapping = _mapping(self.tree.get("features")).get("response_mapping")
        paths = _mapping(_mapping(mapping).get("error"))
        usual: dict[str, Any] = dict(dialect.decode.get("error") or {})
        rule = dict(told) if told is not None else usual
        extract = dict(rule.get("extract") or {})
        fields = {"message": "message_path", "code": "code_path", "type": "type_path", "status": "status_path"}
        for field, key in fields.items():
            path = paths.get(key)
            if isinstance(path, str) and path:
                extract[field] = {"$first": [_rooted(path), *_alternatives(extract.get(field))]}
        return {**rule, "extract": extract}

    def path_rules(self) -> dict[str, Any]:
        """Rules of `content_path` and its like, for a file without an event map."""
        streaming = self.streaming()
        rules: dict[str, Any] = {}
        content, usage = streaming.get("content_path"), streaming.get("usage_path")
        if isinstance(content, str) and content:
            rules["content"] = {"emit": "PartialContentDelta", "extract": {"content": _rooted(content)}}
        if isinstance(usage, str) and usage:
            rules["usage"] = self.usage_rule(usage)
        return rules

    def usage_rule(self, path: str) -> dict[str, Any]:
        names: Mapping[str, list[str]] = self.known.words["usage"]
        extract = {field: {"$first": [f"$u.{name}" for name in listed]} for field, listed in names.items()}
        return {"let": {"u": _rooted(path)}, "emit": "Usage", "extract": extract}

    def body_rules(self) -> dict[str, Any]:
        paths = self.mapping("response_paths")
        rules: dict[str, Any] = {}

        def path(*names: str) -> str | None:
            for name in names:
                value = paths.get(name)
                if isinstance(value, str) and value and "," not in value:
                    return _rooted(value)
            return None

        about = {field: found for field, found in (("model", path("model")), ("response_id", path("id"))) if found}
        if about:
            rules["about"] = {"emit": "Metadata", "extract": about}
        content = path("content", "generated_text")
        if content:
            rules["content"] = {"emit": "PartialContentDelta", "extract": {"content": content}}
        calls = self.call_rule(path("tool_calls"), path("function_call"))
        if calls:
            rules["calls"] = calls
        reason = path("finish_reason", "stop_reason")
        if reason:
            rules["finish"] = {"emit": "FinalCandidate", "extract": {"finish_reason": reason}}
        usage = path("usage")
        if usage:
            rules["usage"] = self.usage_rule(usage)
        return rules

    def call_rule(self, calls: str | None, single: str | None) -> dict[str, Any] | None:
        mapping = _mapping(self.tree.get("features")).get("response_mapping")
        said = _mapping(_mapping(mapping).get("tool_calls"))
        use = _mapping(_mapping(self.tree.get("tooling")).get("tool_use"))
        fields = _mapping(said.get("fields"))
        over = _rooted(said["path"]) if isinstance(said.get("path"), str) else calls
        if over is None and single is None:
            return None
        base = "$call" if over is not None else str(single)

        def below(*names: Any) -> str | None:
            for name in names:
                if isinstance(name, str) and name and not name.startswith("_"):
                    return f"{base}.{name}"
            return None

        extract: dict[str, Any] = {
            "tool_call_id": below(fields.get("id"), use.get("id_path")),
            "tool_name": below(fields.get("name"), use.get("name_path"), "function.name"),
            "input": below(
                fields.get("args"), fields.get("arguments"), use.get("input_path"), use.get("arguments_path"),
                "function.arguments",
            ),
            "is_complete": True,
        }  # fmt: skip
        rule: dict[str, Any] = {
            "emit": "ToolCall",
            "extract": {name: value for name, value in extract.items() if value is not None},
        }
        if over is not None:
            rule["for_each"] = {"call": over}
            condition = said.get("filter")
            if isinstance(condition, str) and condition.strip():
                rule["match"] = relative_condition(condition, "call", self.at("features", "response_mapping"))
        return rule

    # ---- known mistakes

    def correct(self) -> None:
        """Change what the specification's own files are known to say wrongly (spec.yaml, `corrections`)."""
        for entry in self.known.corrections:
            if entry["id"] != self.tree.get("id") or self.tree.get("protocol_version") not in entry["versions"]:
                continue
            if all(_dig(self.tree, path) == value for path, value in entry["where"].items()):
                for path, value in entry["set"].items():
                    self.put(tuple(path.split(".")), value, None)
                self.note(self.where, entry["note"])


def _used_defines(tree: Any, define: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions that some rule of a tree uses, and those that they use."""
    found: dict[str, Any] = {}
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            name = part.get("use")
            if isinstance(name, str) and name in define and name not in found:
                found[name] = define[name]
                waiting.append(define[name])
            waiting.extend(part.values())
    return found


def _emits(tree: Any, fact: str) -> bool:
    if not isinstance(tree, Mapping):
        return False
    return tree.get("emit") == fact or any(_emits(part, fact) for part in tree.values())


def is_chat(name: str) -> bool:
    """Whether an operation of this name asks for a chat."""
    return name != "stream_chat" and re.search(r"(^|_)chat($|_)", name) is not None


def _mapping(value: Any) -> dict[str, Any]:
    """The mapping, or {} where it is something else: a foreign file may hold anything at any place."""
    return value if isinstance(value, dict) else {}


def _strings(value: Any) -> list[str]:
    """The texts in a path template: one, or the branches of a choice."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [
            text for key, part in value.items() if key in ("then", "else", "of", "$first") for text in _strings(part)
        ]
    return []


def _rooted(path: str) -> str:
    rooted = path if path.startswith("$") else f"$.{path}"
    parse_path(rooted, Where())
    return rooted


def _alternatives(value: Any) -> list[Any]:
    if isinstance(value, Mapping) and "$first" in value:
        return list(value["$first"])
    return [] if value is None else [value]


def _dig(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
