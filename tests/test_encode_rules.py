"""What holds for every dialect: nothing is lost silently, opaque parts go home only, and a request is one request."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import CallerError, ManifestError
from ai_lib_trio.protocol.manifest import Parameter
from ai_lib_trio.protocol.where import Where
from ai_lib_trio.types.message import (
    AudioBlock,
    Base64Source,
    DocumentBlock,
    ImageBlock,
    Message,
    OpaqueContent,
    RefusalBlock,
    ServerToolBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
    VideoBlock,
)
from ai_lib_trio.types.request import Request, ResponseFormat
from ai_lib_trio.types.tool import ToolChoice, ToolDefinition
from ai_lib_trio.wire.encode import Encoder, compile_encoder
from encode_cases import DIALECTS, PNG, WEATHER, body, catalog, encoded, encoder, provider_encoder

WHERE = Where("d.yaml", {("encode",): ("d.yaml", 3)}).at("encode")


def small(tree: dict[str, Any], **fields: Any) -> Encoder:
    """A dialect made for one test: model and text unless the test says otherwise."""
    plain = {"model": "$.model", "messages": {"$each": "$.messages", "as": "m", "do": {"content": "$m.text"}}}
    return compile_encoder({"path": "/x", "body": plain, **tree}, WHERE, dialect="small", **fields)


def sent(made: Encoder, *messages: Message, **fields: Any) -> Any:
    return json.loads(made.encode(Request(model="m", messages=messages or (Message.user("Hi"),), **fields)).body)


# ---- nothing is lost silently ----


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_request_field_reaches_the_wire_or_is_refused_by_name(dialect: str) -> None:
    values: dict[str, Any] = {
        "stream": True,
        "tools": (WEATHER,),
        "tool_choice": ToolChoice("auto"),
        "parallel_tool_calls": False,
        "response_format": ResponseFormat("json_schema", "a", None, {"type": "object"}),
        "temperature": 0.123,
        "max_tokens": 123,
        "top_p": 0.321,
        "top_k": 12,
        "stop_sequences": ("HALT",),
        "seed": 4711,
        "n": 3,
        "presence_penalty": 0.456,
        "frequency_penalty": 0.654,
        "logprobs": True,
        "top_logprobs": 5,
        "reasoning_effort": "low",
        "thinking": {"type": "adaptive"},
        "metadata": {"user_id": "u"},
        "extra": {"x_extra": 1},
        "headers": {"x-h": "1"},
        "query": {"q": "1"},
    }
    assert set(values) == set(Request.__struct_fields__) - {"model", "messages"}
    unplaced = set(encoder(dialect).unplaced)
    needs = {"parallel_tool_calls": {"tools": (WEATHER,)}, "top_logprobs": {}}
    plain = encoded(dialect)
    for name, value in values.items():
        if name in unplaced:
            with pytest.raises(CallerError, match=f"`{name}` has no place in the dialect {dialect}"):
                encoded(dialect, **{name: value})
        elif (dialect, name) != ("ollama_chat", "tool_choice"):  # `auto` is what that wire does anyway
            more = needs.get(name, {})
            assert encoded(dialect, **{name: value}, **more) != encoded(dialect, **more), name
    assert encoded(dialect) == plain


def test_a_field_that_no_template_reads_is_refused_and_one_in_drops_is_left_out() -> None:
    with pytest.raises(CallerError, match=r"`seed` has no place in the dialect small: .*`extra`") as caught:
        sent(small({}), seed=1)
    assert (caught.value.kind, caught.value.code) == ("bad_argument", "E1001")
    assert sent(small({"drops": {"fields": ["seed"]}}), seed=1) == {"model": "m", "messages": [{"content": "Hi"}]}


def test_a_block_that_no_template_renders_is_refused_with_type_and_place() -> None:
    image = ImageBlock(source=Base64Source("image/png", PNG))
    with pytest.raises(CallerError, match="image block in a user message has no place in the dialect small"):
        small({}).encode(Request(model="m", messages=(Message.user((TextBlock(text="a"), image)),)))
    made = small({"drops": {"blocks": ["image"]}})
    assert sent(made, Message.user((TextBlock(text="a"), image)), Message.user((image,)))["messages"] == [
        {"content": "a"}
    ]


def test_a_condition_does_not_count_as_rendering() -> None:
    each = {"$each": "$.messages", "as": "m", "do": {"x": {"$if": "$m.text == 'Hi'", "then": 1}}}
    with pytest.raises(CallerError, match="text block in a user message has no place"):
        sent(small({"body": {"m": each, "model": "$.model"}}))


def test_a_block_inside_a_result_is_looked_at_too() -> None:
    each = {
        "$each": "$.messages",
        "as": "m",
        "do": {"$each": "$m.blocks", "as": "b", "do": {"id": "$b.tool_use_id", "name": "$b.name"}},
    }
    message = Message.tool("t", (ImageBlock(source=Base64Source("image/png", PNG)),))
    with pytest.raises(CallerError, match="image block in a tool result has no place"):
        sent(small({"body": {"m": each}}), message)


def test_a_system_text_without_a_place_is_refused() -> None:
    made = small({"body": {"m": {"$each": "$.turns", "as": "m", "do": "$m.text"}}})
    assert sent(made)["m"] == ["Hi"]
    with pytest.raises(CallerError, match="text block in a system message has no place"):
        sent(made, Message.system("s"), Message.user("u"))


def test_an_attribute_that_the_wire_lacks_is_a_warning_once() -> None:
    tools = (ToolDefinition("a", strict=True), ToolDefinition("b", strict=False))
    found = encoded("generate_content", tools=tools)
    assert found.warnings == ("`strict` of a tool is not sent: the dialect generate_content has no place for it",)
    image = ImageBlock(source=Base64Source("image/png", PNG), detail="low")
    warned = encoded("ollama_chat", Message("user", (image,), name="ann")).warnings
    assert [line.split(" is ")[0] for line in warned] == ["`detail` of an image block", "`name` of a message"]


def test_the_callers_notes_on_a_message_never_go_out() -> None:
    for dialect in DIALECTS:
        message = Message("user", "Hi", metadata={"message_id": "secret-note"})
        assert b"secret-note" not in encoded(dialect, message).body


# ---- opaque parts ----

SEALED = (
    ThinkingBlock(text="hm", signature="SIG-thinking", id="rs_1", encrypted="SEAL", summary=("hm",)),
    TextBlock(text="answer", signature="SIG-text", native={"id": "msg_1"}, citations=({"url": "CITED"},)),
    ToolUseBlock(id="call_1", name="f", input={}, wire_id="call_1", item_id="fc_ITEM", signature="SIG-call"),
    ServerToolBlock(id="srv", name="web_search", native={"type": "web_search_call", "id": "SERVER"}),
    OpaqueContent(kind="compaction", data={"RAW": 1}),
)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_opaque_parts_of_another_dialect_are_dropped_and_counted(dialect: str) -> None:
    there = Message("assistant", SEALED, dialect="another")
    found = encoded(dialect, there, Message.tool("call_1", "1"))
    for mark in ("SIG-", "SEAL", "rs_1", "ITEM", "SERVER", "RAW", "msg_1", "CITED", "hm"):
        assert mark not in found.body.decode(), mark
    assert b"answer" in found.body
    assert found.dropped_opaque == 8
    assert encoded(dialect).dropped_opaque == 0


def test_opaque_parts_go_back_to_their_own_dialect_whole() -> None:
    own = body("responses", Message("assistant", SEALED, dialect="responses"), Message.tool("call_1", "1"))
    assert [item.get("id") for item in own["input"]] == ["rs_1", "msg_1", "fc_ITEM", "SERVER", None, None]
    assert own["input"][0]["encrypted_content"] == "SEAL"
    assert own["input"][4] == {"RAW": 1}


def test_a_message_of_nothing_but_anothers_reasoning_is_left_out() -> None:
    found = encoded("messages", Message("assistant", (ThinkingBlock(text="x"),), dialect="responses"))
    assert "messages" not in json.loads(found.body)
    assert found.dropped_opaque == 1


def test_a_message_that_the_caller_wrote_keeps_everything() -> None:
    found = encoded("messages", Message("assistant", (ThinkingBlock(text="x", signature="s"),)))
    assert json.loads(found.body)["messages"][0]["content"][0]["signature"] == "s"
    assert found.dropped_opaque == 0


# ---- one HTTP request ----


def test_extra_is_merged_deeply_and_last() -> None:
    config = {"generationConfig": {"topP": 0.1, "responseModalities": ["IMAGE"]}, "safetySettings": []}
    found = body("generate_content", temperature=0.5, top_p=0.9, extra=config)
    assert found["generationConfig"] == {"temperature": 0.5, "topP": 0.1, "responseModalities": ["IMAGE"]}
    assert found["safetySettings"] == []
    assert body("responses", extra={"reasoning": None})["reasoning"] is None


def test_what_the_caller_gave_is_copied_whole_and_never_changed() -> None:
    schema = {"type": "object", "properties": {"a": {"default": None, "enum": []}}, "$defs": {}}
    thinking = {"includeThoughts": True}
    extra = {"generationConfig": {"thinkingConfig": {"x": 1}}}
    before = json.dumps([schema, thinking, extra])
    found = body(
        "generate_content", tools=(ToolDefinition("f", None, schema),), thinking=thinking, reasoning_effort="low",
        extra=extra,
    )  # fmt: skip
    assert found["tools"][0]["functionDeclarations"][0]["parametersJsonSchema"] == schema
    assert found["generationConfig"]["thinkingConfig"] == {"includeThoughts": True, "thinkingLevel": "low", "x": 1}
    assert json.dumps([schema, thinking, extra]) == before
    assert encoded("messages") == encoded("messages")


def test_the_callers_headers_and_query_replace_the_dialects() -> None:
    found = encoded(
        "messages", headers={"Anthropic-Version": "2099-01-01", "anthropic-beta": "x"}, query={"beta": "true"}
    )
    assert sorted(found.headers) == [
        ("anthropic-beta", "x"),
        ("anthropic-version", "2099-01-01"),
        ("content-type", "application/json"),
    ]
    assert found.query == [("beta", "true")]
    assert encoded("generate_content", stream=True, query={"alt": "json"}).query == [("alt", "json")]


@pytest.mark.parametrize(
    "headers", [{"x-a": "a\r\nb: c"}, {"x-a": "日本"}, {"x a": "b"}, {"x-a": ["b"]}, {1: "b"}, "x-a: b"]
)
def test_headers_that_cannot_stand_on_the_wire_are_refused(headers: Any) -> None:
    with pytest.raises(CallerError) as caught:
        encoded("messages", headers=headers)
    assert caught.value.kind == "bad_argument"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_is_no_text_of_a_header_or_query(number: float) -> None:
    for part in ("headers", "query"):
        with pytest.raises(CallerError, match=f"expected a finite number for 'a' in {part}, got "):
            encoded("messages", **{part: {"a": number}})
    assert encoded("messages", query={"a": 1.5, "b": True, "c": 10**30}).query == [
        ("a", "1.5"), ("b", "true"), ("c", "1" + "0" * 30),
    ]  # fmt: skip


def test_half_of_a_surrogate_pair_has_no_place_in_a_query() -> None:
    for query in ({"a": "\ud83d"}, {"\ud83d": "a"}):
        with pytest.raises(CallerError, match="half of a surrogate pair"):
            encoded("messages", query=query)
    assert encoded("messages", query={"ä": "日本"}).query == [("ä", "日本")]


def test_constant_headers_and_query_are_each_requests_own() -> None:
    tree = {"path": "/x", "headers": {"X-Version": 2}, "query": {"v": "1"}, "body": {"model": "$.model"}}
    made = compile_encoder(tree, WHERE, dialect="small")
    for _ in range(2):
        sent = made.encode(Request(model="m"))
        assert sent.headers == [("content-type", "application/json"), ("x-version", "2")]
        assert sent.query == [("v", "1")]
        sent.headers.append(("authorization", "a secret"))
        sent.query.clear()
    bare = compile_encoder({"path": "/x", "body": {"model": "$.model"}}, WHERE, dialect="small")
    for _ in range(2):
        sent = bare.encode(Request(model="m"))
        assert sent.headers == [("content-type", "application/json")]
        sent.headers.clear()


@pytest.mark.parametrize("part", ["headers", "query"])
def test_a_constant_that_is_no_text_is_refused_when_a_request_is_made(part: str) -> None:
    made = compile_encoder({"path": "/x", part: {"a": ["b"]}}, WHERE, dialect="small")
    with pytest.raises(CallerError, match=f"expected texts in {part}"):
        made.encode(Request(model="m"))


def test_a_repr_shows_neither_body_nor_headers() -> None:
    found = encoded("messages", Message.user("my prompt"), headers={"x-secret": "token"})
    assert "prompt" not in repr(found)
    assert "token" not in repr(found)


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("gemini-x", "/models/gemini-x:generateContent"),
        ("tuned/a b", "/models/tuned%2Fa%20b:generateContent"),
        ("日本?x=#y", "/models/%E6%97%A5%E6%9C%AC%3Fx%3D%23y:generateContent"),
    ],
)
def test_a_model_is_one_segment_of_the_path(model: str, path: str) -> None:
    assert encoded("generate_content", model=model).path == path


def test_a_plus_keeps_the_slashes_of_a_model() -> None:
    made = small({"path": "/m/{+model}/chat"})
    assert made.encode(Request(model="a/b c", messages=(Message.user("x"),))).path == "/m/a/b%20c/chat"


@pytest.mark.parametrize("model", ["", "..", "a/../b", ".", "a//b", None, 5, "\ud83d"])
def test_a_model_that_would_name_another_resource_is_refused(model: Any) -> None:
    with pytest.raises(CallerError, match="expected a model id"):
        encoded("generate_content", model=model)


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ({"$join": [".collect.example/", "$.model"]}, "m"),
        ({"$join": ["@collect.example/", "$.model"]}, "m"),
        ({"$join": [":444/", "$.model"]}, "m"),
        ({"$keep": ".collect.example"}, "m"),
        ("$.model", ".collect.example/x"),
    ],
)
def test_a_path_that_would_go_on_with_the_host_is_refused(path: Any, model: str) -> None:
    with pytest.raises(CallerError, match="expected a path that begins with '/'"):
        small({"path": path}).encode(Request(model=model, messages=(Message.user("x"),)))


def test_a_path_may_be_made_of_parts() -> None:
    made = small({"path": {"$join": [{"$cut": "/v1 beta", "at": " "}, "$.model"], "by": "/"}})
    assert made.encode(Request(model="m", messages=(Message.user("x"),))).path == "/v1/m"


def test_a_request_without_a_body_has_no_content_type() -> None:
    made = compile_encoder({"method": "GET", "path": "/x/{model}"}, WHERE, dialect="small")
    found = made.encode(Request(model="m"))
    assert (found.method, found.path, found.headers, found.body) == ("GET", "/x/m", [], b"")


# ---- facts about parameters ----


def test_a_value_outside_its_declared_range_goes_out_with_a_warning() -> None:
    facts = {
        "temperature": Parameter(low=0, high=2),
        "top_k": Parameter(low=1),
        "reasoning_effort": Parameter(enum=("low", "high")),
        "nonsense": Parameter(low=0),
    }
    made = small({"parameters": {name: name for name in list(facts)[:3]}}, parameters=facts)
    request = Request(model="m", messages=(Message.user("x"),), temperature=2.5, top_k=0, reasoning_effort="max")
    found = made.encode(request)
    assert json.loads(found.body)["temperature"] == 2.5
    assert found.warnings == (
        "`temperature` is 2.5: the declared range is from 0 to 2",
        "`top_k` is 0: the declared range is from 1",
        "`reasoning_effort` is 'max': declared values are low, high",
    )
    assert made.encode(msgspec.structs.replace(request, temperature=2, top_k=1, reasoning_effort="low")).warnings == ()


def test_a_manifests_default_is_sent_where_the_caller_gave_nothing() -> None:
    made = small({"parameters": {"temperature": "t"}}, defaults={"temperature": 0.7})
    assert sent(made)["t"] == 0.7
    assert sent(made, temperature=0.0)["t"] == 0.0


# ---- what cannot be a request ----


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (Message("robot", "x"), "expected the role system, user, assistant or tool, got 'robot'"),  # type: ignore[arg-type]
        (Message("tool", "no id"), "expected tool_result blocks in a tool message"),
        (Message("user", ("text",)), "expected content blocks in the list of a user message"),  # type: ignore[arg-type]
        (Message("user", None), "expected content as a list, got None"),  # type: ignore[arg-type]
        (Message("user", (TextBlock(text=5),)), "expected text of a block as text, got 5"),  # type: ignore[arg-type]
        (Message("user", (ImageBlock(source={"kind": "ref"}),)), "a file is read first, for Base64Source.from_bytes"),  # type: ignore[arg-type]
        (Message("tool", (ToolResultBlock(tool_use_id="", content="x"),)), r"expected \$b.tool_use_id"),
        (
            Message("tool", (ToolResultBlock(tool_use_id="t", content=(ToolUseBlock(id="a", name="b"),)),)),
            "expected text or media in a tool result, got a tool_use block",
        ),
        ("hello", "expected a Message, got 'hello'"),
        (
            Message("user", (DocumentBlock(source=Base64Source("text/plain", "!")),)),
            "expected base64 of UTF-8 text",
        ),
    ],
)
def test_a_wrong_message_is_refused_in_one_line(message: Any, said: str) -> None:
    with pytest.raises(CallerError, match=said) as caught:
        encoded("messages", message)
    assert caught.value.kind == "bad_argument"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"temperature": math.nan}, "expected finite numbers, got nan"),
        ({"extra": {"x": [{"y": math.inf}]}}, "expected finite numbers, got inf"),
        ({"extra": {"x": object()}}, "JSON can carry"),
        ({"extra": [1]}, "expected extra as a mapping"),
        ({"stop_sequences": "END"}, "expected stop_sequences as a list"),
        ({"tools": ({"name": "f"},)}, "expected a ToolDefinition"),
        ({"tool_choice": "auto"}, "expected a ToolChoice, got 'auto'"),
        ({"tool_choice": ToolChoice("tool")}, "expected a name in a tool_choice"),
        ({"response_format": ResponseFormat("json_schema")}, "expected a schema in a response_format"),
        ({"response_format": {"type": "text"}}, "expected a ResponseFormat"),
    ],
)
def test_a_wrong_field_is_refused_in_one_line(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(CallerError, match=said):
        encoded("messages", **fields)


def test_a_value_that_contains_itself_is_refused() -> None:
    loop: dict[str, Any] = {}
    loop["x"] = loop
    with pytest.raises(CallerError):
        encoded("messages", extra={"loop": loop})


def test_half_of_a_surrogate_pair_goes_back_as_the_escape_that_it_came_as() -> None:
    found = encoded("chat_completions", Message.assistant("\ud83d"))
    assert b'"\\ud83d"' in found.body
    assert json.loads(found.body)["messages"][0]["content"] == "\ud83d"
    assert "surrogate" in found.warnings[0]


# ---- load errors ----


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"pat": "/x"}, r"d.yaml:3 at encode.pat: expected one of method, path, .*got `pat`"),
        ({"path": "x"}, "expected a path that begins with '/'"),
        ({"path": "/{modell}"}, r"expected the placeholder \{model\} or \{\+model\}, got \{modell\}"),
        ({"path": {"$if": "$.stream == true", "then": "x"}}, "at encode.path.then: expected a path that begins"),
        ({"path": {"$case": "$.model", "of": {"a": "x"}}}, "at encode.path.of.a: expected a path that begins"),
        ({"path": None}, "expected `path`"),
        ({"method": "SEND"}, "at encode.method: expected one of POST"),
        ({"parameters": {"temprature": "t"}}, r"expected a standard parameter .*got `temprature`"),
        ({"parameters": {"temperature": "a..b"}}, "expected a wire name"),
        ({"parameters": {"temperature": 5}}, "expected a wire name"),
        ({"drops": ["thinking"]}, "expected a mapping with fields, blocks, attributes"),
        ({"drops": {"blocks": ["txt"]}}, r"at encode.drops.blocks\[0\]: expected one of text, thinking"),
        ({"drops": {"attributes": ["tool.strikt"]}}, "such as tool.strict"),
        ({"define": {"never": 1}}, "at encode.define.never: expected a definition that something uses"),
        ({"define": []}, "expected a mapping from names to templates"),
        ({"headers": "x"}, "at encode.headers: expected a mapping"),
        ({"body": {"a": "$.temprature"}}, r"at encode.body.a: expected a field of a request \(model, .*`temprature`"),
        ({"body": {"a": {"$each": "$.messages", "as": "m", "do": "$m.blocs"}}}, r"expected a field of a message"),
        ({"body": {"a": "$.messages.text"}}, r"expected `\$each` or an index before `.text`"),
        ({"body": {"a": "$.tool_choice.nam"}}, "expected a field of a tool_choice"),
    ],
)
def test_a_wrong_encode_section_is_refused_with_its_place(tree: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        compile_encoder({"path": "/x", "body": {"model": "$.model"}, **tree}, WHERE, dialect="small")


def test_a_default_for_no_standard_parameter_is_refused() -> None:
    with pytest.raises(ManifestError, match="expected a default for a standard parameter"):
        small({}, defaults={"model": "x"})


# ---- any request ----

TEXT = st.text(max_size=6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
OBJECTS = st.dictionaries(TEXT, JSON, max_size=3)
SOURCES = st.builds(Base64Source, st.sampled_from(["image/png", "application/pdf", "audio/wav", "text/plain"]), TEXT)
SOURCES |= st.builds(UrlSource, TEXT, st.none() | TEXT)
OPT_TEXT = st.none() | TEXT
LEAVES = [
    st.builds(TextBlock, text=TEXT, signature=OPT_TEXT, cache_control=st.none() | OBJECTS, native=st.none() | OBJECTS),
    st.builds(
        ThinkingBlock,
        text=TEXT,
        signature=OPT_TEXT,
        encrypted=OPT_TEXT,
        id=OPT_TEXT,
        summary=st.none() | st.tuples(TEXT),
    ),
    st.builds(RefusalBlock, text=TEXT),
    st.builds(ImageBlock, source=SOURCES, detail=OPT_TEXT),
    st.builds(DocumentBlock, source=SOURCES, filename=OPT_TEXT),
    st.builds(AudioBlock, source=SOURCES),
    st.builds(VideoBlock, source=SOURCES),
    st.builds(ToolUseBlock, id=TEXT, name=TEXT, input=JSON, arguments=OPT_TEXT, wire_id=OPT_TEXT, item_id=OPT_TEXT),
    st.builds(ServerToolBlock, id=TEXT, name=TEXT, input=JSON, native=JSON),
    st.builds(OpaqueContent, kind=TEXT, data=JSON),
]
RESULTS = st.builds(
    ToolResultBlock,
    tool_use_id=TEXT,
    content=TEXT | st.lists(st.one_of(LEAVES), max_size=2).map(tuple),
    is_error=st.booleans(),
    tool_name=OPT_TEXT,
)
MESSAGES = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    TEXT | st.lists(st.one_of(*LEAVES, RESULTS), max_size=4).map(tuple),
    name=OPT_TEXT,
    dialect=st.sampled_from([None, *DIALECTS]),
)
REQUESTS = st.builds(
    Request,
    model=TEXT,
    messages=st.lists(MESSAGES, max_size=4).map(tuple),
    stream=st.booleans(),
    tools=st.lists(st.builds(ToolDefinition, TEXT, OPT_TEXT, OBJECTS, st.none() | st.booleans()), max_size=2).map(
        tuple
    ),
    tool_choice=st.none() | st.builds(ToolChoice, st.sampled_from(["auto", "none", "required", "tool"]), OPT_TEXT),
    parallel_tool_calls=st.none() | st.booleans(),
    response_format=st.none()
    | st.builds(ResponseFormat, st.sampled_from(["text", "json_object", "json_schema"]), OPT_TEXT, OPT_TEXT, OBJECTS),
    temperature=st.none() | st.floats(),
    max_tokens=st.none() | st.integers(),
    stop_sequences=st.lists(TEXT, max_size=2).map(tuple),
    seed=st.none() | st.integers(),
    thinking=st.none() | OBJECTS,
    metadata=st.none() | OBJECTS,
    extra=st.none() | OBJECTS,
    headers=st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
    query=st.none() | st.dictionaries(TEXT, TEXT, max_size=2),
)


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=120, deadline=None)
@given(REQUESTS)
def test_any_request_becomes_valid_json_or_a_callers_error(dialect: str, request_: Request) -> None:
    before = repr(request_)
    try:
        found = encoder(dialect).encode(request_)
    except CallerError as error:
        kinds = {error.kind}
    else:
        kinds = set()
        assert isinstance(json.loads(found.body), dict)
        assert all("\n" not in value for _, value in found.headers)
        assert found.path.isascii()
    assert kinds <= {"bad_argument"}
    assert repr(request_) == before


FRIENDLY_LEAVES = [
    st.builds(TextBlock, text=st.text(min_size=1, max_size=6)),
    st.builds(ImageBlock, source=st.builds(Base64Source, st.just("image/png"), st.just(PNG))),
]


@pytest.mark.parametrize("dialect", DIALECTS)
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(Message, st.just("user"), st.lists(st.one_of(FRIENDLY_LEAVES), min_size=1, max_size=3).map(tuple)),
        min_size=1,
        max_size=4,
    )
)
def test_every_text_of_a_conversation_is_in_the_body_in_order(dialect: str, messages: list[Message]) -> None:
    texts = [block.text for message in messages for block in message.blocks if isinstance(block, TextBlock)]
    found = "".join(_texts(json.loads(encoded(dialect, *messages).body)))
    assert "".join(texts) in found


def _texts(value: Any, key: str = "") -> list[str]:
    if isinstance(value, dict):
        return [text for name, item in value.items() for text in _texts(item, name)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item, key)]
    return [value] if isinstance(value, str) and key in ("text", "content") else []


# ---- the bundled providers ----


WITHOUT_TOOLS = {"completions", "cohere_v1_chat", "ollama_generate", "predictions", "text_generation"}


def test_every_bundled_provider_encodes_a_conversation_with_tools() -> None:
    request = Request(
        model="m",
        messages=(
            Message.system("s"),
            Message.user("u"),
            Message.assistant((TextBlock(text="a"), ToolUseBlock(id="c", name="get_weather", input={"location": "x"}))),
            Message.tool("c", "15"),
        ),
        tools=(WEATHER,),
        max_tokens=10,
        stream=True,
    )
    for provider in catalog().providers():
        for family in catalog().provider(provider).families:
            encoder = provider_encoder(provider, family)
            if "tools" in encoder.unplaced:
                assert encoder.dialect in WITHOUT_TOOLS
                continue
            found = encoder.encode(request)
            assert b"get_weather" in found.body, provider
            assert found.warnings == (), provider
