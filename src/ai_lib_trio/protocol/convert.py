"""A manifest of the specification's version 1 as one of its version 2, in the specification's own words.

Raw tree -> raw tree and remarks; imports `promote`, `where`, `yaml_source`; PyYAML on first use. The rule that must
stay true: the new file loads to what the old one loads to, and what had to be kept under an old name, or has no place
at all, is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CallerError
from .draft import RENAMED, Promotion, is_chat
from .promote import is_ours, promote
from .where import Document
from .yaml_source import read_yaml

__all__ = ["convert", "yaml_text"]

_HEAD = ("name", "version", "status", "category", "official_url", "support_contact", "aliases")
_AS_WRITTEN = (
    "availability", "capabilities", "tool_calling", "capability_profile", "streaming", "termination",
    "api_families", "default_api_family", "services", "rate_limit_headers", "multimodal", "metadata",
)  # fmt: skip
# No words in version 2, and an effect where no dialect is known. Every runtime tolerates keys that it does not know.
_OF_UNKNOWN_FORMATS = ("payload_format", "parameter_mappings", "response_paths", "tooling", "features")
_AUTH = {"bearer": "bearer", "header": "custom_header", "query": "query_param"}
_AUTH_FIELDS = ("header", "prefix", "param_name", "token_env", "extra_headers")


def convert(document: Document, known: Promotion) -> tuple[dict[str, Any], list[str]]:
    """The tree of a version 2 file, and remarks. Raises `CallerError` for what is no version 1 file, `ManifestError`
    for one that does not load."""
    old = document.data
    if is_ours(old) or not isinstance(old, dict) or str(old.get("protocol_version", "")).startswith("2"):
        raise CallerError(f"expected a manifest of version 1, got another: {document.file}", kind="bad_argument")
    promoted = promote(document, known)[0].data
    remarks: list[str] = []
    new: dict[str, Any] = {"id": old.get("id"), "protocol_version": "2.0"}
    new |= {key: old[key] for key in _HEAD if old.get(key) is not None}
    new["endpoint"] = _endpoint(_mapping(old.get("endpoint")), promoted)
    new["error_classification"] = promoted.get("error_classification", {})
    if "retry_policy" in promoted:
        new["retry_policy"] = promoted["retry_policy"]
    new["capabilities"] = {"required": [], "optional": []}
    new |= {key: old[key] for key in _AS_WRITTEN if old.get(key) is not None}
    if isinstance(new["capabilities"], list):
        new["capabilities"] = {"required": new["capabilities"], "optional": []}
    is_known = _formats(old, new, known)
    parameters = _parameters(old)
    if parameters:
        new["parameters"] = parameters
    reads_paths = any("body" in family.get("decode", {}) for family in promoted.get("api_families", {}).values())
    kept = ["provider_id", *(() if is_known and not reads_paths else _OF_UNKNOWN_FORMATS)]
    if promoted.get("endpoint", {}).get("auth", {}).get("shadowed_env"):
        kept.append("auth")
    for key in kept:
        value = old.get(key)
        if key == "payload_format" and promoted.get("api_families"):
            value = value or _mapping(old.get("auth")).get(key)
        if key == "parameter_mappings":  # what has a structure of its own; the other names are aliases now
            value = {name: wire for name, wire in _mapping(value).items() if name not in RENAMED} or None
        if value is not None:
            new[key] = value
            remarks.append(f"{key!r} has no words in version 2 and is kept as it was")
    gone = {"auth", "payload_format", "parameter_mappings", "endpoints", "endpoint", "error_classification", "$schema"}
    for key in old:
        if key not in new and key not in gone and key not in kept:
            remarks.append(f"{key!r} is left out: it has no words in version 2 and no effect here")
    return new, remarks


def _endpoint(old: Mapping[str, Any], promoted: Mapping[str, Any]) -> dict[str, Any]:
    endpoint = {key: value for key, value in old.items() if key not in ("auth", "endpoints")}
    auth = promoted.get("endpoint", {}).get("auth")
    if auth is not None and auth["type"] in _AUTH:
        said = {"type": _AUTH[auth["type"]], **{key: auth[key] for key in _AUTH_FIELDS if auth.get(key) is not None}}
        endpoint["auth"] = said
    return endpoint


def _formats(old: Mapping[str, Any], new: dict[str, Any], known: Promotion) -> bool:
    """Say the wire format where version 2 looks for it; gives whether it is a known one."""
    streaming = _mapping(old.get("streaming"))
    decoder = _mapping(streaming.get("decoder"))
    payload = old.get("payload_format") or _mapping(old.get("auth")).get("payload_format")
    endpoints = {**_mapping(_mapping(old.get("endpoint")).get("endpoints")), **_mapping(old.get("endpoints"))}
    everywhere_known = True
    has_chat = False
    for name, entry in endpoints.items():
        entry = {"path": entry} if isinstance(entry, str) else entry
        endpoints[name] = entry
        if not is_chat(str(name)) or not isinstance(entry, dict):
            continue
        has_chat = True
        said = [one for one in (entry.get("adapter"), payload, decoder.get("strategy")) if isinstance(one, str) and one]
        found = next((one for one in said if known.dialect_of(one) is not None), None)
        everywhere_known = everywhere_known and (found is not None or not said)
        if said:
            endpoints[name] = {**entry, "adapter": found or said[0]}
    if endpoints:
        new["endpoints"] = endpoints
    if not has_chat and isinstance(payload, str) and known.dialect_of(str(decoder.get("strategy"))) is None:
        new["streaming"] = {**streaming, "decoder": {**decoder, "strategy": payload}}
        everywhere_known = known.dialect_of(payload) is not None
    return everywhere_known


def _parameters(old: Mapping[str, Any]) -> dict[str, Any]:
    """Facts about parameters, and the names that the wire has for them."""
    found: dict[str, Any] = dict(_mapping(old.get("parameters")))
    for name, wire in _mapping(old.get("parameter_mappings")).items():
        if name in RENAMED and isinstance(wire, str):
            found[name] = {**_mapping(found.get(name)), "alias": wire}
    return found


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def yaml_text(tree: Mapping[str, Any], remarks: list[str]) -> str:
    """The tree as YAML that is read back as it is, with the remarks as comments above it."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes what a YAML 1.2 reader would take for a number, and writes every value out."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        is_plain = not value[:1].isdigit() and value[:1] not in ("-", "+", ".")
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if is_plain else '"')

    Dumper.add_representer(str, text)
    body: str = yaml.dump(dict(tree), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=118)
    written = "".join(f"# {remark}\n" for remark in remarks) + body
    assert read_yaml(written, "converted").data == dict(tree)
    return written
