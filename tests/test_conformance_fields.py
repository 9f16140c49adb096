# ruff: noqa: E501  (a field and its test in one line)
"""No field is decoration: every field of the internal form has a test of its effect, or a reason to have none."""

from __future__ import annotations

import ast
import functools
import typing
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from ai_lib_trio.errors import ProviderError
from ai_lib_trio.protocol.dialects import Dialect, FamilyForm
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import (
    ErrorRules,
    Manifest,
    Operation,
    Parameter,
    RateLimitHeaders,
    RateLimits,
    RetryPolicy,
)
from ai_lib_trio.protocol.registry import ModelFacts, Pricing
from ai_lib_trio.resilience.ledger import cost_of
from ai_lib_trio.resilience.preflight import look
from ai_lib_trio.resilience.retry import Wait, decide, rules_of
from ai_lib_trio.transport.credentials import search_for
from ai_lib_trio.types.events import StreamError
from ai_lib_trio.types.message import Message
from ai_lib_trio.types.request import Request
from ai_lib_trio.types.usage import Usage
from ai_lib_trio.wire.classify import classify
from ai_lib_trio.wire.limits import read_limits

TESTS = Path(__file__).resolve().parent


class Shown(typing.NamedTuple):
    """A test that fails without the field: file, function, and the word in it that stands for the field."""

    test: str
    word: str


class Said(typing.NamedTuple):
    """Why the field is for people, or for what comes later."""

    reason: str


def by(test: str, word: str = "") -> Shown:
    return Shown(test, word)


COMMANDS = Said("commands print it for people; a call does not depend on it")
LATER = Said("of operations that are no chat; kept as written for the rooms of those, and printed by `manifests show`")

FIELDS: dict[str, dict[str, Shown | Said]] = {
    "Manifest": {
        "id": by("test_loader.py::test_a_provider_is_parsed_once", "provider("),
        "protocol_version": Said("promotion ends there: nothing behind it may know the version; printed by `show`"),
        "name": COMMANDS,
        "endpoint": by("test_trust.py::test_variables_of_a_url_are_filled_before_it_has_an_origin", "fill"),
        "families": by("test_pipeline_rules.py::test_a_manifest_opens_a_pipeline_of_the_family_asked_for", "famil"),
        "default_family": by("test_loader.py::test_a_family_is_its_dialect_with_the_providers_changes", "family("),
        "aliases": by("test_trust.py::test_a_given_manifest_with_an_alias_of_a_known_one_gets_no_known_key", "alias"),
        "status": COMMANDS,
        "category": COMMANDS,
        "official_url": COMMANDS,
        "errors": by("test_classify.py::test_a_manifests_codes_then_messages_then_statuses_come_first", "rules"),
        "retry": by("test_resilience_client.py::test_the_manifests_policy_retries_by_itself", "retr"),
        "rate_limits": by("test_resilience_client.py::test_limits_are_learnt_from_replies_and_kept_before_the_next_request", "limit"),
        "capabilities": by("test_gates.py::test_what_is_declared_is_found_at_the_model_then_at_its_provider"),
        "parameters": by("test_conformance_fields.py::test_a_value_outside_of_what_is_declared_is_a_warning"),
        "operations": by("test_loader_promotion.py::test_operations_that_are_no_chat_keep_their_paths_in_all_three_places", "operation"),
        "tool_calling": by("test_text_tools.py::test_a_client_tells_tools_in_the_prompt_and_gives_calls_where_the_manifest_says_so", "native"),
        "services": COMMANDS,
        "availability": by("test_health_checks.py::*", "check"),
        "metadata": by("test_loader_promotion.py::test_models_in_a_files_metadata_are_facts_where_no_registry_has_them"),
        "sources": by("test_loader_schemas.py::test_a_section_without_a_source_and_a_name_taken_twice_are_faults", "source"),
        "origin": by("test_trust.py::test_a_given_manifest_with_a_known_name_and_another_host_gets_no_known_key", "given"),
        "file": by("test_loader.py::test_a_field_of_the_wrong_type_is_named_with_file_line_and_path", "acme.yaml"),
        "notes": by("test_loader.py::test_an_unknown_key_is_an_error_in_strict_mode_and_a_note_otherwise"),
        "where": by("test_loader.py::test_a_merged_family_points_at_the_file_a_part_was_written_in"),
    },
    "Endpoint": {
        "base_url": by("test_trust.py::test_a_key_does_not_go_to_another_scheme_host_or_port", "http"),
        "timeout_ms": by("test_actors_exchange.py::test_the_connect_limit_is_the_manifests_unless_the_call_says_otherwise", "connect"),
        "variables": by("test_loader_promotion.py::test_placeholders_of_a_base_url_become_variables"),
        "auth": by("test_loader_promotion.py::test_every_kind_of_auth_block_is_read"),
    },
    "Auth": {
        "type": by("test_auth.py::test_a_key_stands_where_the_manifest_says", "Auth("),
        "header": by("test_auth.py::test_a_key_stands_where_the_manifest_says"),
        "prefix": by("test_loader_promotion.py::test_every_kind_of_auth_block_is_read"),
        "param_name": by("test_auth.py::test_a_callers_query_parameter_cannot_stand_in_for_the_key"),
        "token_env": by("test_credentials.py::test_the_variable_that_the_manifest_names_comes_before_the_usual_one", "manifest_env"),
        "extra_headers": by("test_auth.py::test_a_manifests_extra_headers_go_along_and_the_caller_may_replace_them"),
        "shadowed_env": by("test_credentials.py::test_the_variable_of_a_shadowed_block_never_counts_and_is_named", "shadowed"),
        "key_id": by("test_conformance_fields.py::test_a_key_may_go_by_another_name_than_the_providers_id"),
        "key_id_env": by("test_sign.py::test_the_first_way_that_has_its_key_is_taken", "SIGNED_ID"),
        "session_env": by("test_sign.py::test_the_first_way_that_has_its_key_is_taken", "SESSION"),
        "chain": by("test_sign.py::test_a_published_request_has_its_published_signature"),
        "otherwise": by("test_sign.py::test_the_first_way_that_has_its_key_is_taken", "SIGNED_TOKEN"),
    },
    "Chain": {
        "scheme": by("test_sign.py::test_a_published_request_has_its_published_signature", "CHAIN"),
        "scope": by("test_sign.py::test_a_scope_with_a_part_that_is_not_filled_is_refused"),
        "time_header": by("test_sign.py::test_a_published_request_has_its_published_signature", "CHAIN"),
        "seed": by("test_sign.py::test_a_published_request_has_its_published_signature", "CHAIN"),
        "session_header": by("test_sign.py::test_what_may_change_on_the_way_is_not_signed_and_what_we_add_replaces_the_callers", "CHAIN"),
        "body_header": by("test_sign.py::test_a_published_request_has_its_published_signature"),
    },
    "ErrorRules": {
        "by_http_status": by("test_classify.py::test_a_manifests_codes_then_messages_then_statuses_come_first"),
        "by_error_code": by("test_classify.py::test_a_manifests_codes_then_messages_then_statuses_come_first"),
        "by_message_contains": by("test_classify.py::test_a_manifests_codes_then_messages_then_statuses_come_first"),
        "retry_after_pattern": by("test_classify.py::test_the_manifest_may_name_another_header_or_a_pattern_in_the_body"),
        "retry_after_unit": by("test_classify.py::test_the_manifest_may_name_another_header_or_a_pattern_in_the_body"),
        "vague_codes": by("test_conformance_fields.py::test_every_row_of_the_general_error_table_is_used"),
        "quota_words": by("test_conformance_fields.py::test_every_row_of_the_general_error_table_is_used"),
        "request_id_headers": by("test_conformance_fields.py::test_every_row_of_the_general_error_table_is_used"),
        "request_id_fields": by("test_conformance_fields.py::test_every_row_of_the_general_error_table_is_used"),
        "pause_headers": by("test_conformance_fields.py::test_every_row_of_the_general_error_table_is_used"),
        "should_retry_header": by("test_conformance_fields.py::test_every_row_of_the_general_error_table_is_used"),
    },
    "RetryPolicy": {
        "strategy": by("test_resilience_retry.py::test_the_manifests_policy_becomes_rules"),
        "max_retries": by("test_resilience_retry.py::test_the_manifests_policy_becomes_rules"),
        "min_delay_ms": by("test_resilience_retry.py::test_the_manifests_policy_becomes_rules"),
        "max_delay_ms": by("test_resilience_retry.py::test_the_manifests_policy_becomes_rules"),
        "jitter": by("test_resilience_retry.py::test_the_manifests_policy_becomes_rules"),
        "retry_on_http_status": by("test_conformance_fields.py::test_the_lists_of_a_policy_decide_what_is_tried_again"),
        "retry_on_error_code": by("test_conformance_fields.py::test_the_lists_of_a_policy_decide_what_is_tried_again"),
    },
    "RateLimits": {
        "scope": by("test_resilience_gate.py::test_a_limit_by_model_holds_that_model_alone_and_one_by_key_holds_all"),
        "headers": by("test_conformance_fields.py::test_every_header_of_limits_is_read"),
    },
    "RateLimitHeaders": {
        name: by("test_conformance_fields.py::test_every_header_of_limits_is_read", "RateLimitHeaders")
        for name in ("requests_limit", "requests_remaining", "requests_reset", "tokens_limit", "tokens_remaining", "tokens_reset")
    }
    | {"retry_after": by("test_classify.py::test_the_manifest_may_name_another_header_or_a_pattern_in_the_body")},
    "Capabilities": {
        name: by("test_gates.py::test_what_is_declared_is_found_at_the_model_then_at_its_provider", "capabilities")
        for name in ("required", "optional", "absent", "feature_flags")
    },
    "ToolCalling": {
        name: by("test_text_tools.py::test_the_declaration_decides_the_strategy", "declared")
        for name in ("native", "reliability", "text")
    },
    "TextTools": {
        name: by("test_text_tools.py::test_every_field_of_a_declared_form_is_read_and_is_what_the_prompt_asks_for", "form")
        for name in ("format", "wrapper", "body", "name_location", "args_key")
    }
    | {
        "dialects": by("test_text_tools.py::test_a_declared_dialect_maps_its_tag_to_a_tool"),
        "prompt_level": by("test_text_tools.py::test_a_prompt_says_more_at_each_level"),
    },
    "TextDialect": {
        name: by("test_text_tools.py::test_a_declared_dialect_maps_its_tag_to_a_tool", "TextDialect")
        for name in ("tag", "tool")
    },
    "Parameter": {
        "type": Said("what the specification writes beside a range; values go out as the caller gave them"),
        "low": by("test_conformance_fields.py::test_a_value_outside_of_what_is_declared_is_a_warning"),
        "high": by("test_conformance_fields.py::test_a_value_outside_of_what_is_declared_is_a_warning"),
        "default": by("test_loader_promotion.py::test_a_declared_default_goes_out_where_the_caller_gives_nothing"),
        "required": Said("the dialect's template says so itself ($need, or a default), and the specification's files repeat it"),
        "enum": by("test_conformance_fields.py::test_a_value_outside_of_what_is_declared_is_a_warning"),
    },
    "Operation": {
        "path": by("test_loader_promotion.py::test_operations_that_are_no_chat_keep_their_paths_in_all_three_places"),
        "method": by("test_conformance_fields.py::test_an_operation_says_its_method"),
        "adapter": LATER,
        "request_encoding": LATER,
        "response_encoding": LATER,
    },
    "Dialect": {
        "id": by("test_loader_promotion.py::test_a_format_is_known_by_any_of_the_names_that_files_use", "chat_completions"),
        "aliases": by("test_loader_promotion.py::test_a_format_is_known_by_any_of_the_names_that_files_use", "said"),
        "encode": by("test_loader.py::test_a_family_is_its_dialect_with_the_providers_changes"),
        "decode": by("test_loader.py::test_a_family_is_its_dialect_with_the_providers_changes"),
        "simulate": by("test_simulator_dialects.py::test_a_script_comes_back_whole", "dialect"),
        "where": by("test_loader.py::test_a_merged_family_points_at_the_file_a_part_was_written_in"),
    },
    "FamilyForm": {
        "id": by("test_pipeline_rules.py::test_a_manifest_opens_a_pipeline_of_the_family_asked_for", "compile_pipeline"),
        "dialect": by("test_loader.py::test_a_family_is_its_dialect_with_the_providers_changes"),
        "whole": by("test_loader_promotion.py::test_a_file_of_an_unknown_format_works_by_its_own_event_map", "event"),
        "encode": by("test_loader.py::test_a_family_is_its_dialect_with_the_providers_changes"),
        "decode": by("test_loader.py::test_a_family_is_its_dialect_with_the_providers_changes"),
        "simulate": by("test_simulator_providers.py::*", "simulat"),
        "defaults": by("test_loader_promotion.py::test_a_declared_default_goes_out_where_the_caller_gives_nothing", "default"),
    },
    "ModelFacts": {
        "key": by("test_registry.py::test_a_key_wins_over_another_models_wire_id_and_that_over_an_alias", "key"),
        "provider": by("test_loader.py::test_a_name_that_several_providers_have_asks_which", "provider"),
        "model_id": by("test_loader.py::test_a_model_resolves_by_key_wire_id_and_alias_and_the_prefix_stays_off_the_wire"),
        "display_name": COMMANDS,
        "aliases": by("test_loader.py::test_a_model_resolves_by_key_wire_id_and_alias_and_the_prefix_stays_off_the_wire", "alias"),
        "context_window": by("test_conformance_fields.py::test_a_model_that_reads_less_than_is_sent_refuses"),
        "max_output_tokens": by("test_conformance_fields.py::test_the_most_that_a_model_writes_bounds_what_it_may_cost"),
        "capabilities": by("test_gates.py::test_what_is_declared_is_found_at_the_model_then_at_its_provider"),
        "absent": by("test_gates.py::test_what_is_declared_is_found_at_the_model_then_at_its_provider"),
        "modalities": by("test_gates.py::test_what_is_declared_is_found_at_the_model_then_at_its_provider"),
        "pricing": by("test_conformance_fields.py::test_the_most_that_a_model_writes_bounds_what_it_may_cost"),
        "status": COMMANDS,
        "verification": COMMANDS,
    },
    "Pricing": {
        "input_per_1m": by("test_resilience_client.py::test_a_calls_cost_is_the_sum_of_its_attempts_each_marked", "cost"),
        "output_per_1m": by("test_resilience_client.py::test_a_calls_cost_is_the_sum_of_its_attempts_each_marked", "cost"),
        "cached_input_per_1m": by("test_conformance_fields.py::test_what_was_read_from_a_cache_has_its_own_price"),
        "cache_write_per_1m": by("test_conformance_fields.py::test_what_was_read_from_a_cache_has_its_own_price"),
        "currency": by("test_conformance_fields.py::test_the_most_that_a_model_writes_bounds_what_it_may_cost"),
    },
    "Modalities": {
        "input": by("test_gates.py::test_what_is_declared_is_found_at_the_model_then_at_its_provider", "modalities"),
        "output": Said("a chat answers in what the request asks for; printed by `ailib models --json`"),
    },
    "Verification": dict.fromkeys(("status", "verified_at", "source"), COMMANDS),
}  # fmt: skip


def structs_of(*roots: type) -> dict[str, type]:
    """Every struct that is reachable from these through the types of their fields."""
    found: dict[str, type] = {}
    waiting: list[Any] = list(roots)
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            if one.__name__ in found or one.__module__.endswith(".where"):
                continue
            found[one.__name__] = one
            waiting.extend(typing.get_type_hints(one).values())
        else:
            waiting.extend(typing.get_args(one))
    return found


STRUCTS = structs_of(Manifest, Dialect, FamilyForm, ModelFacts, ErrorRules, Parameter, Operation)


@functools.cache
def sources(file: str) -> dict[str, str]:
    """Test -> its text with its decorators; `*` is the whole file."""
    text = (TESTS / file).read_text(encoding="utf-8")
    found = {"*": text}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found[node.name] = "\n".join(text.splitlines()[first - 1 : node.end_lineno])
    return found


def test_every_part_of_the_internal_form_is_listed() -> None:
    assert set(FIELDS) == set(STRUCTS)


@pytest.mark.parametrize("name", sorted(STRUCTS))
def test_every_field_has_a_test_of_its_effect_or_a_reason(name: str) -> None:
    struct: Any = STRUCTS[name]
    assert set(FIELDS[name]) == set(struct.__struct_fields__)
    for field, shown in FIELDS[name].items():
        if isinstance(shown, Said):
            assert len(shown.reason.split()) > 4
            continue
        file, _, function = shown.test.partition("::")
        tests = sources(file)
        assert function in tests, f"{name}.{field}: there is no {shown.test}"
        word = shown.word or field
        assert word in tests[function], f"{name}.{field}: {shown.test} does not speak of {word}"


# ---- effects that no other test has


def manifest(**fields: Any) -> Manifest:
    return msgspec.structs.replace(Catalog.open(environ={}).provider("openai"), **fields)


def facts(**fields: Any) -> ModelFacts:
    return ModelFacts(key="m", provider="openai", model_id="m", display_name="m", **fields)


def asked(**fields: Any) -> Request:
    return Request(model="m", messages=(Message.user("x" * 4000),), **fields)


@pytest.mark.parametrize(
    ("parameters", "given", "warning"),
    [
        ({"temperature": Parameter(low=0, high=1)}, {"temperature": 1.5}, "temperature is 1.5; the provider declares at least 0 at most 1"),
        ({"temperature": Parameter(low=0)}, {"temperature": -1.0}, "temperature is -1; the provider declares at least 0"),
        ({"reasoning_effort": Parameter(enum=("low", "high"))}, {"reasoning_effort": "max"}, "reasoning_effort is 'max'; the provider declares low, high"),
        ({"temperature": Parameter(low=0, high=1)}, {"temperature": 0.5}, None),
        ({"reasoning_effort": Parameter(enum=("low", "high"))}, {}, None),
        ({"n": Parameter(type="integer", required=True)}, {}, None),
    ],
)  # fmt: skip
def test_a_value_outside_of_what_is_declared_is_a_warning(
    parameters: dict[str, Parameter], given: dict[str, Any], warning: str | None
) -> None:
    seen = look(asked(**given), ref="p/m", manifest=manifest(parameters=parameters), facts=None)
    assert seen.would_send
    assert seen.warnings == (() if warning is None else (warning,))


def test_a_model_that_reads_less_than_is_sent_refuses() -> None:
    small = look(asked(), ref="p/m", manifest=manifest(), facts=facts(context_window=100))
    assert [check.kind for check in small.checks if check.verdict == "refuse"] == ["context_window"]
    assert look(asked(), ref="p/m", manifest=manifest(), facts=facts(context_window=100_000)).would_send


def test_the_most_that_a_model_writes_bounds_what_it_may_cost() -> None:
    pricing = Pricing(input_per_1m=0.0, output_per_1m=2.0, currency="EUR")
    seen = look(asked(), ref="p/m", manifest=manifest(), facts=facts(max_output_tokens=500_000, pricing=pricing))
    assert (seen.output_bound, seen.cost_bound, seen.currency) == (500_000, 1.0, "EUR")


def test_what_was_read_from_a_cache_has_its_own_price() -> None:
    usage = Usage(input_tokens=3_000_000, output_tokens=0, cached_tokens=1_000_000, cache_write_tokens=1_000_000)
    plain = Pricing(input_per_1m=8.0, output_per_1m=1.0)
    assert cost_of(usage, plain) == 24.0
    cached = msgspec.structs.replace(plain, cached_input_per_1m=1.0, cache_write_per_1m=10.0)
    assert cost_of(usage, cached) == 8.0 + 1.0 + 10.0


def test_a_key_may_go_by_another_name_than_the_providers_id() -> None:
    one = manifest(id="acme")
    auth = msgspec.structs.replace(one.auth, token_env=None, key_id="beta")
    one = msgspec.structs.replace(one, endpoint=msgspec.structs.replace(one.endpoint, auth=auth))
    assert search_for(one).conventional == ("BETA_API_KEY",)


def test_the_lists_of_a_policy_decide_what_is_tried_again() -> None:
    def is_retried(policy: RetryPolicy, code: str, status: int) -> bool:
        error = ProviderError("no", code=code, status=status)
        step = decide(
            error,
            "refused",
            retry=0,
            silent_before=0,
            rules=rules_of(policy),
            rng=lambda: Random(0),
            now=0,
            deadline=1e9,
        )
        return isinstance(step, Wait)

    assert not is_retried(RetryPolicy(), "E1001", 400)
    assert is_retried(RetryPolicy(retry_on_http_status=(400,)), "E1001", 400)
    assert is_retried(RetryPolicy(), "E3001", 500)
    assert not is_retried(RetryPolicy(retry_on_error_code=("overloaded",)), "E3001", 500)


def test_an_operation_says_its_method() -> None:
    one = manifest(operations={"video_get": Operation("/video/{id}", method="GET")})
    assert [(one.operation(name, "/x").method) for name in ("video_get", "video_create")] == ["GET", "POST"]  # type: ignore[union-attr]


def test_every_header_of_limits_is_read() -> None:
    names = RateLimitHeaders(**{name: f"x-{name}" for name in RateLimitHeaders.__struct_fields__})
    reply = {
        "x-requests_limit": "10", "x-requests_remaining": "9", "x-requests_reset": "6s",
        "x-tokens_limit": "100", "x-tokens_remaining": "90", "x-tokens_reset": "7s",
    }  # fmt: skip
    seen = read_limits(reply, RateLimits(headers=names), 0.0)
    assert seen is not None
    for name in reply:
        without = read_limits(
            {key: value for key, value in reply.items() if key != name}, RateLimits(headers=names), 0.0
        )
        assert without != seen, name


BODY = b'{"error": {"message": "no", "code": "odd"}, "trace": "t-1"}'


@pytest.mark.parametrize(
    ("table", "status", "headers", "field", "value"),
    [
        (ErrorRules(vague_codes={"odd": "overloaded"}), 200, {}, "name", "overloaded"),
        (ErrorRules(quota_words=("odd",)), 429, {}, "name", "quota_exhausted"),
        (ErrorRules(request_id_headers=("x-id",)), 500, {"x-id": "h-1"}, "request_id", "h-1"),
        (ErrorRules(request_id_fields=("trace",)), 500, {}, "request_id", "t-1"),
        (ErrorRules(pause_headers={"x-pause": "milliseconds"}), 500, {"x-pause": "1500"}, "retry_after_s", 1.5),
        (ErrorRules(should_retry_header="x-again"), 500, {"x-again": "false"}, "retryable", False),
    ],
)
def test_every_row_of_the_general_error_table_is_used(
    table: ErrorRules, status: int, headers: dict[str, str], field: str, value: Any
) -> None:
    said = StreamError("provider", message="no", code="odd", error=msgspec.json.decode(BODY))
    given = {"status": status, "headers": headers, "body": BODY if status != 200 else b"", "now_wall": 0.0}
    assert getattr(classify(said, table=table, **given), field) == value  # type: ignore[arg-type]
    assert getattr(classify(said, **given), field) != value  # type: ignore[arg-type]
