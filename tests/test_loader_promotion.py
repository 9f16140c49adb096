# ruff: noqa: E501  (the rules of manifests, one a line)
"""Manifests written for the specification, of every version, load and work: bytes in, events out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ai_lib_trio.errors import ManifestError
from ai_lib_trio.pipeline import compile_decoder
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import Manifest
from ai_lib_trio.protocol.yaml_source import read_yaml
from ai_lib_trio.types.message import Message
from ai_lib_trio.types.request import Request
from ai_lib_trio.types.response import ChatResponse, Fold
from ai_lib_trio.wire.encode import compile_encoder

SHARED = Path(__file__).resolve().parents[2] / "shared" / "ai-protocol" / "compliance" / "fixtures" / "providers"
HEAD = 'id: acme\nprotocol_version: "1.5"\nendpoint: {base_url: "https://acme.example/v1"}\n'


def load(tmp_path: Path, text: str, **options: Any) -> Manifest:
    path = tmp_path / "acme.yaml"
    path.write_text(text, encoding="utf-8")
    return Catalog.open(path, {}, **options).provider("acme")


def replay(
    manifest: Manifest, frames: list[Any], *, done: str | None = "[DONE]", streamed: bool = True
) -> ChatResponse:
    """What the manifest's own decoder makes of these frames (or of one body)."""
    family = manifest.family()
    program = compile_decoder(family.decode, family.where.at("decode"))
    if streamed:
        texts = [json.dumps(frame) for frame in frames] + ([done] if done else [])
        data = "".join(f"data: {text}\n\n" for text in texts).encode()
        pipeline = program.open(content_type="text/event-stream", streamed=True)
    else:
        data = json.dumps(frames[0]).encode()
        pipeline = program.open(content_type="application/json", streamed=False)
    fold = Fold()
    fold.add_all(pipeline.feed(data))
    fold.add_all(pipeline.finish())
    return fold.response()


def body(manifest: Manifest, **fields: Any) -> dict[str, Any]:
    """The body that goes out for one user message."""
    family = manifest.family()
    encoder = compile_encoder(family.encode, family.where.at("encode"), dialect=family.dialect)
    messages = fields.pop("messages", (Message.user("hi"),))
    found: dict[str, Any] = json.loads(encoder.encode(Request(model="m", messages=messages, **fields)).body)
    return found


# ---- formats that a dialect knows


@pytest.mark.parametrize(
    "said",
    [
        "payload_format: openai_style\n",
        "auth: {type: bearer, payload_format: openai_style}\n",
        "endpoints: {chat: {path: /chat/completions, adapter: openai}}\n",
        "streaming: {decoder: {format: sse, strategy: openai_chat}}\n",
        "api_families: {chat: {request_format: openai}}\n",
        "endpoints: {chat: {path: /chat/completions}}\n",
        "",
    ],
)
def test_a_format_is_known_by_any_of_the_names_that_files_use(tmp_path: Path, said: str) -> None:
    manifest = load(tmp_path, HEAD + said)
    assert manifest.family().dialect == "chat_completions"
    sent = body(manifest, max_tokens=5)
    assert (sent["model"], sent["max_tokens"]) == ("m", 5)


def test_an_event_map_that_a_dialect_covers_is_not_run_twice(tmp_path: Path) -> None:
    manifest = load(
        tmp_path,
        HEAD
        + """
streaming:
  decoder: {format: sse, strategy: openai_chat}
  event_map:
    - {match: "$.choices[0].delta.content", emit: PartialContentDelta, extract: {content: "$.choices[0].delta.content"}}
    - {match: "$.choices[0].delta.tool_calls", emit: PartialToolCall, extract: {tool_calls: "$.choices[0].delta.tool_calls"}}
    - {match: "$.choices[0].finish_reason", emit: StreamEnd, extract: {finish_reason: "$.choices[0].finish_reason"}}
    - {match: exists($.usage), emit: UsageReport, extract: {usage: $.usage}}
    - {match: exists($.result), emit: PartialContentDelta, extract: {content: $.result}}
""",
    )
    assert sum("covered by the dialect chat_completions" in note for note in manifest.notes) == 4
    reply = replay(
        manifest,
        [
            {"choices": [{"index": 0, "delta": {"content": "one "}}]},
            {"result": "two"},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}},
        ],
    )
    assert reply.content == "one two"
    assert reply.usage is not None
    assert (reply.finish_reason, reply.usage.input_tokens) == ("end_turn", 3)


def test_a_declared_default_goes_out_where_the_caller_gives_nothing(tmp_path: Path) -> None:
    manifest = load(
        tmp_path, HEAD + "parameters: {temperature: {range: [0, 2], default: 1.0}, stream: {default: true}}\n"
    )
    assert body(manifest)["temperature"] == 1.0
    assert body(manifest, temperature=0.5)["temperature"] == 0.5
    assert "stream" not in body(manifest)


def test_renames_reach_the_wire_and_a_misplaced_one_goes_where_the_format_has_it(tmp_path: Path) -> None:
    manifest = load(
        tmp_path, HEAD + "payload_format: openai_style\nparameter_mappings: {seed: random_seed, top_p: p}\n"
    )
    sent = body(manifest, seed=1, top_p=0.5)
    assert (sent["random_seed"], sent["p"]) == (1, 0.5)
    assert "seed" not in sent
    manifest = load(
        tmp_path, HEAD + "payload_format: gemini_style\nparameter_mappings: {stop_sequences: stopSequences}\n"
    )
    assert body(manifest, stop_sequences=("x",))["generationConfig"]["stopSequences"] == ["x"]
    assert any("belongs at 'generationConfig.stopSequences'" in note for note in manifest.notes)


def test_parameters_keyed_by_wire_name_are_facts_about_the_standard_one(tmp_path: Path) -> None:
    manifest = load(tmp_path, HEAD + "parameters: {maxOutputTokens: {alias: max_tokens, min: 1, max: 10}}\n")
    assert (manifest.parameters["max_tokens"].low, manifest.parameters["max_tokens"].high) == (1, 10)


def test_reasons_of_the_file_are_added_and_those_that_are_no_standard_are_noted(tmp_path: Path) -> None:
    manifest = load(
        tmp_path,
        HEAD
        + "termination: {source_field: x, mapping: {sensitive: refusal, ERROR: error, odd: strange, null: other}}\n",
    )
    for raw, standard in (("sensitive", "refusal"), ("ERROR", "other"), ("odd", "other"), ("stop", "end_turn")):
        reply = replay(manifest, [{"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": raw}]}])
        assert (reply.finish_reason, reply.raw_finish_reason) == (standard, raw)
    assert any("'error' is no standard finish reason; read as 'other'" in note for note in manifest.notes)
    assert any("got the text 'strange'; read as 'other'" in note for note in manifest.notes)


# ---- formats that no dialect knows: the event map is the rule map


UNKNOWN = (
    HEAD
    + """
payload_format: acme_style
endpoints: {chat: {path: /talk, method: POST, adapter: acme}}
parameter_mappings: {max_tokens: max_output_tokens, system_message: system, tools: functions}
response_paths: {content: result, function_call: function_call, usage: usage, finish_reason: finish_reason}
tooling: {source_model: openai_tool_calls, tool_use: {name_path: name, input_path: arguments}}
termination: {source_field: finish_reason, mapping: {normal: end_turn}}
streaming:
  decoder: {format: sse, prefix: "data: ", done_signal: ""}
  frame_selector: "exists($.result) || exists($.function_call)"
  event_map:
    - {match: exists($.result), emit: PartialContentDelta, fields: {content: $.result}}
    - {match: exists($.function_call), emit: ToolCallStarted, fields: {tool_name: $.function_call.name, arguments: $.function_call.arguments}}
    - {match: exists($.usage), emit: Metadata, fields: {usage: $.usage}}
    - {match: "$.is_end == true", emit: FinalCandidate, fields: {finish_reason: $.finish_reason}}
  stop_condition: "$.is_end == true"
features: {response_mapping: {error: {message_path: error_msg, code_path: error_code}}}
"""
)


def test_a_file_of_an_unknown_format_works_by_its_own_event_map(tmp_path: Path) -> None:
    manifest = load(tmp_path, UNKNOWN)
    assert any("'acme' is not known" in note for note in manifest.notes)
    reply = replay(
        manifest,
        [
            {"result": "Hello "},
            {"result": "there", "usage": {"prompt_tokens": 4, "completion_tokens": 2}},
            {"result": "", "function_call": {"name": "f", "arguments": '{"a": 1}'}},
            {"nothing": "of ours", "finish_reason": "x", "is_end": True},
            {"result": "", "is_end": True, "finish_reason": "normal"},
        ],
        done=None,
    )
    assert reply.content == "Hello there"
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("f", {"a": 1})]
    assert reply.usage is not None
    assert (reply.usage.input_tokens, reply.usage.output_tokens) == (4, 2)
    assert reply.raw_finish_reason == "normal"


def test_a_whole_reply_of_an_unknown_format_is_read_by_its_response_paths(tmp_path: Path) -> None:
    told = {
        "result": "Hi",
        "function_call": {"name": "f", "arguments": "{}"},
        "usage": {"prompt_tokens": 1},
        "finish_reason": "normal",
    }
    reply = replay(load(tmp_path, UNKNOWN), [told], streamed=False)
    assert (reply.content, reply.tool_calls[0].name, reply.raw_finish_reason) == ("Hi", "f", "normal")


def test_a_request_of_an_unknown_format_has_its_names(tmp_path: Path) -> None:
    sent = body(load(tmp_path, UNKNOWN), max_tokens=7, messages=(Message.system("be brief"), Message.user("hi")))
    assert (sent["max_output_tokens"], sent["system"]) == (7, "be brief")
    assert [message["role"] for message in sent["messages"]] == ["user"]


def test_an_error_reply_of_an_unknown_format_is_read_by_its_paths(tmp_path: Path) -> None:
    family = load(tmp_path, UNKNOWN).family()
    program = compile_decoder(family.decode, family.where.at("decode"))
    said = program.read_error(400, {}, b'{"error_code": "17", "error_msg": "daily limit"}')
    assert (said.code, said.message) == ("17", "daily limit")


WILD = (
    HEAD
    + """
payload_format: acme_style
streaming:
  decoder: {format: sse, strategy: acme_strategy, done_signal: "[DONE]"}
  candidate: {candidate_id_path: "$.choices[*].index", fan_out: true}
  event_map:
    - {match: "exists($.error)", emit: StreamError, fields: {error: $.error}}
    - match: "exists($.choices[*].delta.content)"
      emit: PartialContentDelta
      fields: {content: "$.choices[*].delta.content"}
    - match: "exists($.choices[*].delta.tool_calls[*].function.name)"
      emit: ToolCallStarted
      fields:
        tool_call_id: "$.choices[*].delta.tool_calls[*].id"
        tool_name: "$.choices[*].delta.tool_calls[*].function.name"
        index: "$.choices[*].delta.tool_calls[*].index"
    - match: "exists($.choices[*].delta.tool_calls[*].function.arguments)"
      emit: PartialToolCall
      fields:
        arguments: "$.choices[*].delta.tool_calls[*].function.arguments"
        index: "$.choices[*].delta.tool_calls[*].index"
    - {match: "$.choices[0].finish_reason != null", emit: FinalCandidate, fields: {finish_reason: "$.choices[0].finish_reason"}}
"""
)


def test_wildcards_tell_every_element_and_candidates_stay_apart(tmp_path: Path) -> None:
    def call(index: int, name: str | None, arguments: str) -> dict[str, Any]:
        function = {"arguments": arguments} | ({"name": name} if name else {})
        return {"index": index, "function": function} | ({"id": f"id{index}"} if name else {})

    reply = replay(
        load(tmp_path, WILD),
        [
            {"choices": [{"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {"content": "B"}}]},
            {"choices": [{"index": 0, "delta": {"tool_calls": [call(0, "f", '{"x"'), call(1, "g", "{")]}}]},
            {"choices": [{"index": 0, "delta": {"tool_calls": [call(1, None, "}"), call(0, None, ": 1}")]}}]},
            {
                "choices": [
                    {"index": 1, "delta": {}, "finish_reason": "stop"},
                    {"index": 0, "finish_reason": "tool_calls"},
                ]
            },
        ],
    )
    assert reply.content == "a"
    assert [(one.id, one.name, one.arguments) for one in reply.tool_calls] == [("id0", "f", {"x": 1}), ("id1", "g", {})]
    assert reply.raw_finish_reason == "tool_calls"
    assert [candidate.content for candidate in reply.candidates] == ["a", "B"]


@pytest.mark.parametrize(
    ("fields", "frames", "expected"),
    [
        (
            "{tool_calls: $.calls}",
            [{"calls": [{"index": 0, "id": "i", "function": {"name": "f", "arguments": "{}"}}]}],
            {},
        ),
        ("{tool_call: $.call}", [{"call": {"name": "f", "args": {"a": [1]}}}], {"a": [1]}),
        (
            "{arguments: $.c.args, tool_name: $.c.name, tool_call_id: _generate_uuid}",
            [{"c": {"name": "f", "args": {}}}],
            {},
        ),
    ],
)
def test_every_shape_of_a_partial_call_is_a_call(tmp_path: Path, fields: str, frames: list[Any], expected: Any) -> None:
    text = f"streaming:\n  decoder: {{strategy: own}}\n  event_map:\n    - {{match: '', emit: PartialToolCall, extract: {fields}}}\n"
    reply = replay(load(tmp_path, HEAD + text), frames)
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("f", expected)]
    assert reply.tool_calls[0].id


def test_partial_json_continues_the_call_at_the_frames_index(tmp_path: Path) -> None:
    text = """
streaming:
  decoder: {strategy: own}
  event_map:
    - {match: "$.type == 'start'", emit: ToolCallStarted, extract: {tool_name: $.name, tool_call_id: $.id, index: $.index}}
    - {match: "$.type == 'json'", emit: PartialToolCall, extract: {partial_json: $.piece}}
    - {match: "$.type == 'stop'", emit: ToolCallEnded, extract: {index: $.index}}
    - {match: "$.type == 'end'", emit: StreamEnd, extract: {finish_reason: end_turn}}
"""
    manifest = load(tmp_path, HEAD + text)
    reply = replay(
        manifest,
        [
            {"type": "start", "index": 2, "id": "t", "name": "f"},
            {"type": "json", "index": 2, "piece": '{"a":'},
            {"type": "json", "index": 2, "piece": " 2}"},
            {"type": "stop", "index": 2},
            {"type": "stop", "index": 7},
            {"type": "end"},
        ],
        done=None,
    )
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [("t", "f", {"a": 2})]
    assert any("the literal reason 'end_turn' marks the end" in note for note in manifest.notes)


def test_what_cannot_be_translated_is_said_and_the_rest_works(tmp_path: Path) -> None:
    text = """
streaming:
  decoder: {strategy: own}
  event_map:
    - {match: "length > 0", emit: PartialContentDelta, extract: {content: $.t}}
    - {match: "exists($.x)", emit: SomethingNew, extract: {x: $.x}}
    - {match: "", emit: PartialContentDelta, extract: {content: "$.a[b"}}
  stop_condition: "length > 3"
"""
    manifest = load(tmp_path, HEAD + text)
    assert replay(manifest, [{"t": "hi"}]).content == "hi"
    said = "\n".join(manifest.notes)
    assert "holds for every frame that has its values" in said
    assert "'SomethingNew' is not known; the rule has no effect" in said
    assert "event_map[2]" in said


def test_a_file_without_any_rule_for_replies_is_read_as_the_usual_format(tmp_path: Path) -> None:
    manifest = load(tmp_path, HEAD + "streaming: {decoder: {strategy: not_seen_yet}, event_map: []}\n")
    assert (
        replay(manifest, [{"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}]).content
        == "x"
    )
    assert any("nothing says how replies are read" in note for note in manifest.notes)


# ---- endpoint, auth, tables


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        ("auth: {type: bearer, token_env: T}", ("bearer", "Authorization", "Bearer", None, "T")),
        ("auth: {type: api_key, header_name: api-key, key_env: T}", ("header", "api-key", "", None, "T")),
        ("auth: {type: api_key, key_env: T}", ("header", "X-API-Key", "", None, "T")),
        ("auth: {type: query_param, param_name: key, token_env: T}", ("query", None, "", "key", "T")),
        ("auth: {type: query_param}", ("query", None, "", "api_key", None)),
        (
            "auth: {type: custom_header, header: x-key, prefix: Key, token_env: T}",
            ("header", "x-key", "Key", None, "T"),
        ),
        ("", ("none", None, "", None, None)),
    ],
)
def test_every_kind_of_auth_block_is_read(tmp_path: Path, auth: str, expected: tuple[Any, ...]) -> None:
    found = load(tmp_path, HEAD + auth + "\n").auth
    assert (found.type, found.header, found.prefix, found.param_name, found.token_env) == expected


def test_the_endpoints_auth_shadows_another_and_its_variable_never_counts(tmp_path: Path) -> None:
    text = HEAD.replace('v1"}', 'v1", auth: {type: bearer, token_env: NEW_TOKEN}}')
    manifest = load(tmp_path, text + "auth: {type: api_key, key_env: OLD_KEY}\n")
    assert (manifest.auth.token_env, manifest.auth.shadowed_env) == ("NEW_TOKEN", ("OLD_KEY",))
    assert any("shadowed by endpoint.auth; its variable OLD_KEY never counts" in note for note in manifest.notes)


def test_extra_headers_are_a_list_or_a_mapping(tmp_path: Path) -> None:
    for extra in ("[{name: x-a, value: '1'}]", "{x-a: '1'}"):
        manifest = load(tmp_path, HEAD + f"auth: {{type: bearer, extra_headers: {extra}}}\n")
        assert manifest.auth.extra_headers == {"x-a": "1"}


def test_placeholders_of_a_base_url_become_variables(tmp_path: Path) -> None:
    text = HEAD.replace("https://acme.example/v1", "https://${MY_NAME}.acme.example/x/${MY_ID}")
    assert load(tmp_path, text).endpoint.variables == {"MY_NAME": "MY_NAME", "MY_ID": "MY_ID"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("[chat, tools]", ({"text", "tools"}, set(), set())),
        ("{streaming: true, tools: false}", (set(), {"streaming"}, {"tools"})),
        ("{required: [text], optional: [reranking]}", ({"text"}, {"rerank"}, set())),
    ],
)
def test_the_three_spellings_of_capabilities(tmp_path: Path, said: str, expected: tuple[set[str], ...]) -> None:
    found = load(tmp_path, HEAD + f"capabilities: {said}\n").capabilities
    assert (found.required, found.optional, found.absent) == expected


def test_error_tables_of_every_kind_are_read_and_strange_names_do_not_fail(tmp_path: Path) -> None:
    manifest = load(
        tmp_path,
        HEAD
        + """
error_classification:
  by_http_status: {"402": insufficient_quota, "418": teapot}
  by_error_status: {UNAVAILABLE: overloaded}
retry_policy: {strategy: exponential_backoff, retry_on_error_status: [UNAVAILABLE], jitter: wild}
rate_limit_headers: {retry_after: null, requests_limit: X-Limit}
""",
    )
    assert manifest.errors.by_http_status == {402: "quota_exhausted"}
    assert manifest.errors.by_error_code == {"UNAVAILABLE": "overloaded"}
    assert manifest.retry is not None
    assert (manifest.retry.retry_on_error_code, manifest.retry.jitter) == (("UNAVAILABLE",), "full")
    assert (manifest.rate_limits.headers.requests_limit, manifest.rate_limits.headers.retry_after) == ("x-limit", None)
    assert len(manifest.notes) >= 3


def test_operations_that_are_no_chat_keep_their_paths_in_all_three_places(tmp_path: Path) -> None:
    manifest = load(
        tmp_path, HEAD + "endpoints: {embeddings: {path: /embed, method: post}, chat: {path: /chat/completions}}\n"
    )
    found = manifest.operation("embeddings")
    assert found is not None
    assert (found.path, found.method) == ("/embed", "POST")
    manifest = load(
        tmp_path,
        "id: acme\nprotocol_version: '2.0'\ncore:\n  endpoint:\n    base_url: https://acme.example\n"
        "    endpoints: {video_get: {path: '/v/{id}', method: GET}}\n",
    )
    found = manifest.operation("video_get", "/fallback")
    other = manifest.operation("other", "/fallback")
    assert found is not None
    assert other is not None
    assert (found.path, found.method, other.path, other.method) == ("/v/{id}", "GET", "/fallback", "POST")


def test_a_known_mistake_is_corrected_and_said(tmp_path: Path) -> None:
    text = (
        HEAD.replace("id: acme", "id: anthropic")
        + "auth: {type: bearer, token_env: T}\npayload_format: anthropic_style\n"
    )
    path = tmp_path / "anthropic.yaml"
    path.write_text(text, encoding="utf-8")
    manifest = Catalog.open(path, {}).provider("anthropic")
    assert (manifest.auth.type, manifest.auth.header, manifest.auth.prefix) == ("header", "x-api-key", "")
    assert any("it is sent there" in note for note in manifest.notes)


def test_unknown_fields_never_fail_a_load_and_are_counted(tmp_path: Path) -> None:
    manifest = load(tmp_path, HEAD + "future: {x: 1}\nalso_new: true\n")
    assert sum("has no effect" in note for note in manifest.notes if "unknown key" in note) == 2


@pytest.mark.parametrize("missing", ["id", "protocol_version", "endpoint"])
def test_what_every_version_needs_is_asked_for(tmp_path: Path, missing: str) -> None:
    lines = [line for line in HEAD.splitlines() if not line.startswith(missing)]
    path = tmp_path / "acme.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ManifestError, match=missing):
        Catalog.open(path, {}).provider("acme")


def test_a_promoted_files_faults_point_at_its_own_lines(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, HEAD + "services: {}\nretry_policy:\n  strategy: none\n  max_retries: many\n")
    assert (caught.value.line, caught.value.path) == (7, "retry_policy.max_retries")


def test_models_in_a_files_metadata_are_facts_where_no_registry_has_them(tmp_path: Path) -> None:
    path = tmp_path / "acme.yaml"
    path.write_text(
        HEAD
        + """
metadata:
  models:
    big: {context_window: 1000, max_output_tokens: 0, pricing: {input_per_1m: 1.5, cache_hit_input_per_1m: 0.1},
          model_capabilities: {tool_call: true, reasoning: false}, modalities: {input: [text, image], output: [text]},
          verification: {status: operational, source: api_probe}}
    odd: [1]
""",
        encoding="utf-8",
    )
    catalog = Catalog.open(path, {})
    facts = catalog.resolve("acme/big").facts
    assert facts is not None
    assert (facts.context_window, facts.max_output_tokens) == (1000, None)
    assert (facts.capabilities, facts.absent) == ({"tools"}, {"reasoning"})
    assert facts.pricing is not None
    assert (facts.pricing.input_per_1m, facts.pricing.cached_input_per_1m) == (1.5, 0.1)
    assert facts.modalities is not None
    assert facts.modalities.input == ("text", "image")
    assert (facts.verification.status, facts.verification.source) == ("operational", "api_probe")
    assert catalog.resolve("acme/odd").facts is None
    assert [one.key for one in catalog.models() if one.provider == "acme"] == ["big"]
    assert len(catalog.models()) == len({(one.provider, one.key) for one in catalog.models()})


@pytest.mark.skipif(not SHARED.is_dir(), reason="the specification's fixtures are not beside the project")
def test_every_fixture_of_the_specification_loads_or_is_refused_as_it_should() -> None:
    seen = 0
    for path in sorted(SHARED.glob("*.yaml")):
        ident = (read_yaml(path.read_bytes(), path.name).data or {}).get("id")
        catalog = Catalog.open(path, {})
        if "invalid" in path.name:
            with pytest.raises(ManifestError):
                catalog.provider(ident or path.stem)
            continue
        manifest = catalog.provider(ident)
        assert manifest.id == ident
        for family in manifest.families.values():
            compile_encoder(family.encode, family.where.at("encode"), dialect=family.dialect)
            compile_decoder(family.decode, family.where.at("decode"))
        seen += 1
    assert seen >= 15


def test_a_checkout_of_the_specification_is_a_source(tmp_path: Path) -> None:
    old = 'id: acme\nprotocol_version: "1.1"\nname: Old\nendpoint: {base_url: "https://acme.example"}\npayload_format: openai_style\n'
    for name, text in {
        "v1/providers/acme.yaml": old,
        "v1/providers/beta.yaml": old.replace("id: acme", "id: beta"),
        "v2/providers/acme.yaml": old.replace("Old", "New").replace("1.1", "2.0"),
        "v1/models/family.yaml": 'protocol_version: "1.1"\nmodels: {m: {provider: beta, model_id: m-1, verification: {status: unverified}}}\n',
        "schemas/v1.json": "{}",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    catalog = Catalog.open(None, {"AI_PROTOCOL_DIR": str(tmp_path)})
    assert (catalog.provider("acme").name, catalog.provider("acme").protocol_version) == ("New", "2.0")
    assert catalog.provider("beta").protocol_version == "1.1"
    assert catalog.resolve("beta/m").model_id == "m-1"
    assert catalog.resolve("m").provider_id == "beta"
