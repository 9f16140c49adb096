"""A manifest written for any version of the specification becomes a raw tree in our own shape.

Raw tree -> raw tree, with positions and notes. Imports `errors`, `draft`, `formats`, `tree`. The rule that must stay
true: nothing behind this module knows a version; what a file says and we did not take as written is a line in the
notes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import code_of_name
from .dialects import DIALECT_SECTIONS
from .draft import RENAMED, Promotion
from .formats import Formats
from .tree import kind_of, suggestion
from .where import Document

__all__ = ["Promotion", "is_ours", "promote"]

# Fields of the specification that describe, and change nothing that a call does.
_DESCRIPTIONS = (
    "$schema", "version", "support_contact", "notes", "experimental_features", "non_streaming", "multimodal",
    "content_block_schema", "response_mapping", "usage_patterns", "best_practices", "tips", "examples", "pricing",
    "response_format", "guardrails", "context_policy", "provider_contract", "computer_use", "mcp",
    "default_api_family", "base_url_template", "connection_vars",
)  # fmt: skip
_COPIED = ("name", "official_url", "services", "availability", "metadata", "aliases")
_STATUSES = ("stable", "beta", "deprecated")
_CATEGORIES = ("ai_provider", "model_provider", "third_party_aggregator")
_RETRY_FIELDS = ("max_retries", "min_delay_ms", "max_delay_ms", "retry_on_http_status", "retry_on_error_code")
_RATE_FIELDS = (
    "requests_limit", "requests_remaining", "requests_reset", "tokens_limit", "tokens_remaining", "tokens_reset",
    "retry_after",
)  # fmt: skip


def is_ours(tree: Any) -> bool:
    """Whether a raw tree is in our own shape: its API families name dialects or change one, or it says where its facts
    are from."""
    families = tree.get("api_families") if isinstance(tree, Mapping) else None
    if not isinstance(families, Mapping):
        return isinstance(tree, Mapping) and families is None and "sources" in tree
    return not families or any(
        isinstance(family, Mapping) and not family.keys().isdisjoint(("dialect", *DIALECT_SECTIONS))
        for family in families.values()
    )


def promote(document: Document, known: Promotion, *, strict: bool = False) -> tuple[Document, list[str]]:
    """The document in our own shape, and what was done to it.

    Raises `ManifestError` for what no version allows; with `strict` also for keys at the top that no version knows.
    """
    if not isinstance(document.data, dict):
        raise document.where.error(f"expected a mapping, got {kind_of(document.data)}")
    work = _Promoting(document, known, strict=strict)
    work.run()
    return Document(work.out, document.file, work.positions), work.notes


class _Promoting(Formats):
    """The way through a file."""

    def __init__(self, document: Document, known: Promotion, *, strict: bool) -> None:
        super().__init__(document, known)
        self.strict = strict
        self.seen.update(_DESCRIPTIONS)

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
        self.check_families()
        self.families()
        for key in self.tree:
            if key not in self.seen:
                if self.strict:
                    raise self.at(key).error(f"unknown key {key!r}{suggestion(key, self.seen)}")
                self.note(self.at(key), f"unknown key {key!r} has no effect")
        self.correct()
        self.notes = list(dict.fromkeys(self.notes))

    def check_families(self) -> None:
        """A family that is text means a dialect, to whoever wrote it: nothing else would read it."""
        listed = self.tree.get("api_families")
        for name, entry in listed.items() if isinstance(listed, dict) else ():
            if isinstance(entry, str):
                fault = self.at("api_families", name).error(
                    f"expected a mapping, such as {{dialect: {entry}}}, got {kind_of(entry)}"
                )
                if self.strict:
                    raise fault
                self.note(self.at("api_families", name), f"{fault.message}; it has no effect")

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


def _dig(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
