"""The kinds of cases, each with the inputs that it reads. Imports the modules that run them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from . import decisions, exchange, keys, loading, replies, requests, text
from .suite import Bench, Case

__all__ = ["KINDS", "Kind"]


class Kind(NamedTuple):
    """How a case is run: what comes out by field of `expected`, as a value or a `Check`.

    `reads` are the inputs that it reads, `note` what a pass does not show.
    """

    run: Callable[[Case, Bench], dict[str, Any]]
    reads: frozenset[str]
    note: str = ""


def _kind(run: Callable[[Case, Bench], dict[str, Any]], *reads: str, note: str = "") -> Kind:
    # Every case may name its provider beside its setup.
    return Kind(run, frozenset({*reads, "provider", "api"}), note)


KINDS: dict[str, Kind] = {
    "protocol_loading": _kind(
        loading.protocol_loading,
        "manifest_path", "manifest", "validate_contract_schema", "contract_path", "contract_fragment",
    ),
    "capability_check": _kind(loading.capability_check, "capabilities", "required_capability"),
    "capability_guard": _kind(loading.capability_guard, "method", "manifest"),
    "advanced_endpoint_mapping": _kind(loading.endpoint_mapping, "operation", "fallback", "manifest"),
    "expression": _kind(loading.expression, "condition", "filter", "path", "frames"),
    "stream_decode": _kind(
        replies.stream_decode,
        "raw_chunks", "events", "text", "hex", "decoder_config", "content_type", "line_end", "manifest", "streamed",
    ),
    "event_mapping": _kind(replies.event_mapping, "frames", "event_map", "manifest"),
    "tool_accumulation": _kind(replies.tool_accumulation, "partial_chunks", "accumulator_config", "manifest"),
    "response_parsing": _kind(replies.response_parsing, "response_body", "manifest"),
    "error_classification": _kind(
        replies.error_classification, "http_status", "response_body", "response_text", "headers", "manifest"
    ),
    "message_building": _kind(requests.message_building, "messages", "parameters", "manifest"),
    "parameter_mapping": _kind(requests.parameter_mapping, "standard_params", "manifest"),
    "request_building": _kind(requests.request_building, "messages", "parameters", "request", "manifest"),
    "content_block_encode": _kind(requests.content_block_encode, "api_style", "blocks", "expect_error"),
    "retry_decision": _kind(decisions.retry_decision, "error", "retry_policy", "attempt"),
    "fallback_decision": _kind(decisions.fallback_decision, "error_code", "operation"),
    "provider_mock_behavior": _kind(
        decisions.provider_mock_behavior,
        "request_body", "response_body", "operation",
        note="exercise nothing but the path getter",
    ),
    "credential_resolution": _kind(
        keys.credential_resolution, "explicit_credential", "runtime_target", "manifest"
    ),
    "auth_attachment": _kind(keys.auth_attachment, "explicit_credential", "manifest"),
    "text_tool_parse": _kind(text.parse, "response_text", "config"),
    "text_tool_hybrid": _kind(text.hybrid, "content", "native_tool_calls", "config"),
    "text_tool_prompt": _kind(text.prompt, "tools", "config"),
    "provider_exchange": _kind(exchange.provider_exchange, "family", "asked", "differs", "reply"),
}  # fmt: skip
