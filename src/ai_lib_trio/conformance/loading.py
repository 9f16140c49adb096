"""Cases about manifests: do they load and compile, what do they declare, where do their operations lie.

Imports `errors`, `protocol`, `pipeline`, `wire`, `contracts`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import AiLibError, CallerError
from ..pipeline import compile_decoder
from ..protocol.gates import mcp_integration, need_operation, standing_of
from ..protocol.manifest import Manifest
from ..protocol.paths import parse_path, scope_getter
from ..protocol.rules import compile_condition, parse_condition
from ..protocol.where import Document, Where
from ..protocol.yaml_source import read_yaml
from ..wire.encode import compile_encoder
from .compare import Check, Difference
from .contracts import allowed, check_contract, read_contract, with_fragment
from .suite import Bench, Case

__all__ = ["capability_check", "capability_guard", "compiled", "endpoint_mapping", "expression", "protocol_loading"]


def compiled(manifest: Manifest) -> Manifest:
    """The manifest, with every family compiled both ways, as a call would have it. Raises `ManifestError`."""
    for family in manifest.families.values():
        compile_encoder(family.encode, family.where.at("encode"), dialect=family.dialect)
        compile_decoder(family.decode, family.where.at("decode"))
    return manifest


def protocol_loading(case: Case, bench: Bench) -> dict[str, Any]:
    """A manifest loads and compiles; or a contract fits its schema, and the dialect that it speaks of."""
    given = case.input
    errors: list[str] = []
    outcome: dict[str, Any] = {}
    try:
        if "contract_fragment" in given:
            document = Document(with_fragment(given["contract_fragment"]), "the case", {})
            bench.catalog.validator().check(document, "contract")
            listed = allowed(bench.catalog.validator(), "document", "ref_resolution")
            outcome["ref_resolution_allowed"] = Check(
                lambda expected, path: [] if set(expected) == set(listed) else [Difference(path, expected, listed)]
            )
        elif given.get("validate_contract_schema"):
            outcome |= _contract(case, bench, str(given["contract_path"]))
        else:
            manifest = compiled(bench.manifest(case))
            outcome |= {"provider_id": manifest.id, "protocol_version": manifest.protocol_version}
    except AiLibError as error:
        errors.append(error.message)
    said = "\n".join(errors)

    def compare_errors(expected: Any, path: str) -> Iterable[Difference]:
        if isinstance(expected, Mapping):
            if set(expected) != {"assert", "min"} or expected["assert"] != "length":
                yield Difference(path, "assert: length, and min", expected)
            elif len(errors) < expected["min"]:
                yield Difference(path, expected, errors)
            return
        for one in expected:
            if one not in said:
                yield Difference(path, one, errors)
        if not expected and errors:
            yield Difference(path, expected, errors)

    return {**outcome, "valid": not errors, "runtime_deserialize": not errors, "errors": Check(compare_errors)}


def _contract(case: Case, bench: Bench, path: str) -> dict[str, Any]:
    document = bench.contract(case, path)
    bench.catalog.validator().check(document, "contract")
    contract = read_contract(document)
    check_contract(contract, bench.catalog.dialect(contract.api_style))
    pointer = bench.inside(case, str(case.input["manifest_path"]))
    said = None if pointer is None else read_yaml(pointer.read_bytes(), str(pointer)).data
    if not isinstance(said, Mapping) or said.get("contract_path", path) != path:
        raise CallerError("expected a file of the suite that points at the contract", kind="bad_argument")
    mapping = contract.blocks.get("document", {})

    def differs(expected: Any, at: str) -> Iterable[Difference]:
        for key, value in expected.items():
            if mapping.get(key) != value:
                yield Difference(f"{at}.{key}", value, mapping.get(key))

    return {"document_mapping": Check(differs)}


def capability_check(case: Case, bench: Bench) -> dict[str, Any]:
    """What a manifest declares, by the look-up that gates go by."""
    manifest = compiled(bench.manifest(case))

    def is_declared(name: str) -> bool:
        return standing_of(name, manifest).state == "declared"

    def compare_present(expected: Any, path: str) -> Iterable[Difference]:
        for group, names in expected.items():
            if group not in ("required", "optional_contains"):
                yield Difference(f"{path}.{group}", "required or optional_contains", group)
                continue
            missing = [name for name in names if not is_declared(name)]
            if missing:
                yield Difference(f"{path}.{group}", names, f"no {', '.join(missing)}")

    def compare_flags(expected: Any, path: str) -> Iterable[Difference]:
        flags = manifest.capabilities.feature_flags
        for name, value in expected.items():
            if flags.get(name, False) is not value:
                yield Difference(f"{path}.{name}", value, flags.get(name, False))

    listed = case.input.get("capabilities", [])
    outcome: dict[str, Any] = {
        "valid": True,
        "capabilities_present": Check(compare_present),
        "feature_flags": Check(compare_flags),
        "declared": [name for name in listed if is_declared(name)],
    }
    wanted = case.input.get("required_capability")
    if wanted is not None:
        outcome["capability_declared"] = is_declared(wanted)
        outcome["mcp_integration_method"] = mcp_integration(manifest)
    return outcome


def capability_guard(case: Case, bench: Bench) -> dict[str, Any]:
    """Whether an operation beyond chat is let through."""
    try:
        need_operation(case.input["method"], bench.manifest(case))
    except CallerError as error:
        return {"error_code": error.code, "error_kind": error.kind}
    return {"error_code": "", "error_kind": ""}


def endpoint_mapping(case: Case, bench: Bench) -> dict[str, Any]:
    """Where an operation lies."""
    found = bench.manifest(case).operation(case.input["operation"], case.input.get("fallback"))
    return {"path": None, "method": None} if found is None else {"path": found.path, "method": found.method}


def expression(case: Case, bench: Bench) -> dict[str, Any]:
    """A condition, a filter over list elements or a path, over frames."""
    given, frames = case.input, case.input.get("frames", [])
    try:
        if "path" in given:
            get = scope_getter(parse_path(given["path"], Where()))
            return {"values": [get({"": frame}) for frame in frames], "error_contains": ""}
        relative = "element" if "filter" in given else None
        text = given["filter"] if "filter" in given else given["condition"]
        holds = compile_condition(parse_condition(text, Where(), relative=relative), scope_getter)
        return {"holds": [holds({relative or "": frame}) for frame in frames], "error_contains": ""}
    except AiLibError as error:
        message = error.message
        return {
            "error_contains": Check(lambda text, path: [] if text in message else [Difference(path, text, message)])
        }
