"""Provider contracts: claims about a wire format, held against the schema and against the dialect that they speak of.

Imports `errors`, `protocol`, `types`, `wire`. The rule that must stay true: a claim is tried with the encoder that
calls use, not believed.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from ..errors import CallerError
from ..protocol.dialects import Dialect
from ..protocol.paths import parse_path, scope_getter
from ..protocol.validator import Validator
from ..protocol.where import Document, Where
from ..types.message import Base64Source, DocumentBlock, Message
from ..types.request import Request
from ..wire.encode import Encoder, compile_encoder

__all__ = ["Contract", "allowed", "blocks_of", "check_contract", "read_contract", "with_fragment"]

PIECE = Base64Source("application/pdf", "JVBERi0xLjQK")


class Contract(msgspec.Struct, frozen=True):
    """What a contract says that a dialect can be asked about."""

    provider_id: str
    api_style: str
    roles: dict[str, str]
    system: str
    blocks: dict[str, Any]
    where: Where


def read_contract(document: Document) -> Contract:
    """The contract of a document that fits the schema."""
    data = document.data
    mapping = data["request_mapping"]
    return Contract(
        data["provider_id"],
        data["api_style"],
        mapping["role_mapping"],
        mapping.get("system_message_handling", "inline"),
        mapping.get("content_block_mapping", {}),
        document.where,
    )


def check_contract(contract: Contract, dialect: Dialect) -> None:
    """Raise `ManifestError` for the first claim of a contract that the dialect does not keep."""
    encoder = compile_encoder(dialect.encode, dialect.where.at("encode"), dialect=dialect.id)
    at = contract.where.at("request_mapping")
    turns = [Message.user("u"), Message.assistant("a")]
    body = _body(encoder, [Message.system("s"), *turns])
    said = _roles(body)
    for number, role in enumerate(("user", "assistant")):
        wanted = contract.roles.get(role, role)
        if wanted not in said:
            got = ", ".join(said) or "no roles"
            raise at.at("role_mapping", role).error(f"expected a role that {dialect.id} writes ({got}), got {wanted!r}")
        del number
    is_inline = contract.roles.get("system", "system") in said
    if is_inline != (contract.system == "inline"):
        where = "inline" if is_inline else "outside of the messages"
        raise at.at("system_message_handling").error(f"{dialect.id} puts it {where}, got {contract.system!r}")
    document = contract.blocks.get("document")
    if document is not None and document.get("supported", True):
        _check_document(document, encoder, at.at("content_block_mapping", "document"))


def _check_document(claims: dict[str, Any], encoder: Encoder, at: Where) -> None:
    block = blocks_of(_body(encoder, [Message.user([DocumentBlock(source=PIECE)])]))[0]
    for key, expected in (("base64_field", PIECE.data), ("mime_type_field", PIECE.media_type)):
        path = claims.get(key)
        if path is not None:
            got = scope_getter(parse_path(f"$.{path}", at.at(key)))({"": block})
            if got != expected:
                raise at.at(key).error(f"expected where the document stands in {json.dumps(block)}, got {path!r}")
    kind = claims.get("type_field")
    if kind is not None and block.get("type") != kind:
        raise at.at("type_field").error(f"expected the type that is written, {block.get('type')!r}, got {kind!r}")
    if claims.get("ref_resolution", "error_before_encode") == "error_before_encode":
        held: Any = {"kind": "ref", "ref": "upload://x"}
        try:
            _body(encoder, [Message.user([DocumentBlock(source=held)])])
        except CallerError:
            return
        raise at.at("ref_resolution").error("a reference that nobody resolved is written")


def _body(encoder: Encoder, messages: list[Message]) -> Any:
    return json.loads(encoder.encode(Request(model="m", messages=tuple(messages), max_tokens=16)).body)


def _roles(body: Any) -> list[str]:
    found: list[str] = []
    for value in body.values():
        for turn in value if isinstance(value, list) else ():
            if isinstance(turn, dict) and isinstance(turn.get("role"), str):
                found.append(turn["role"])
    return found


def blocks_of(body: Any) -> list[Any]:
    """The blocks of a body's only turn: the list inside the one entry of a list."""
    for value in body.values():
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict):
            for part in value[0].values():
                if isinstance(part, list):
                    return part
    raise CallerError("expected a body with one turn of blocks", kind="bad_argument")


def with_fragment(fragment: Any) -> dict[str, Any]:
    """The least contract around a fragment of `content_block_mapping`, so that the whole schema can judge it."""
    return {
        "contract_version": "1.0",
        "provider_id": "fragment",
        "api_style": "custom",
        "request_mapping": {"message_format": "custom", "role_mapping": {}, "content_block_mapping": fragment},
        "response_mapping": {"content_path": "$", "finish_reason_path": "$"},
    }


def allowed(validator: Validator, block: str, field: str) -> list[str]:
    """The values that the contract's schema allows for a field of a block's mapping."""
    mapping = validator.schema("contract")["properties"]["request_mapping"]["properties"]["content_block_mapping"]
    listed: list[str] = mapping["properties"][block]["properties"][field]["enum"]
    return listed
