"""What a request says in each dialect: it is lifted back to what was asked, and refused where the wire would refuse."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import ManifestError
from ai_lib_trio.protocol.where import Where
from ai_lib_trio.simulator import Script, Text, open_simulator
from ai_lib_trio.simulator.check import compile_check
from ai_lib_trio.simulator.directory import directory_of
from ai_lib_trio.simulator.speaker import Asked, RefusedRequest, Speaker, compile_speaker
from ai_lib_trio.types.message import (
    AudioBlock,
    Base64Source,
    DocumentBlock,
    ImageBlock,
    Message,
    RefusalBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
    VideoBlock,
)
from ai_lib_trio.types.request import Request, ResponseFormat
from ai_lib_trio.types.tool import ToolChoice, ToolDefinition
from simulator_support import DIALECTS, LACKS, ask, asking, catalog, encoder, http_bytes, model_of, request

# Those of messages with parts; the others have one text for all that was said.
FULL = (
    "chat_completions",
    "responses",
    "messages",
    "generate_content",
    "ollama_chat",
    "converse",
    "cohere_v2_chat",
)


def speaker(dialect: str) -> Speaker:
    target = directory_of(catalog()).find("POST", f"/{dialect}/")
    assert target is not None
    return target.speaker


def asked(dialect: str, wanted: Request) -> Asked:
    """A standard request as it would come in, without a socket between."""
    encoded = encoder(dialect).encode(wanted)
    matched = speaker(dialect).match(encoded.method, encoded.path)
    assert matched is not None, encoded.path
    return Asked(
        encoded.method,
        encoded.path,
        matched.route,
        matched.segments,
        dict(encoded.query),
        dict(encoded.headers),
        json.loads(encoded.body),
    )


def lifted(dialect: str, wanted: Request) -> Request:
    return speaker(dialect).lift(asked(dialect, wanted))


# ---- any request that a dialect can say ----

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
NAMES = st.from_regex(r"[a-z][a-z_]{0,7}", fullmatch=True)
SCALARS = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e6, 1e6) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
OBJECTS = st.dictionaries(TEXTS, VALUES, max_size=3)
DATA = st.sampled_from(["iVBORw0KGgo=", "JVBERi0xLjQ=", "AAAA"])
URLS = st.sampled_from(["https://pictures.example/a.png", "http://pictures.example/b?c=d"])
SCHEMAS = st.sampled_from(
    [
        {"type": "object", "properties": {"city": {"type": "string", "default": None}}, "required": ["city"]},
        {"type": "object", "properties": {}, "additionalProperties": False},
    ]
)


def inline(*kinds: str) -> st.SearchStrategy[Any]:
    return st.builds(Base64Source, st.sampled_from(kinds), DATA)


def linked(*kinds: str) -> st.SearchStrategy[Any]:
    return st.builds(UrlSource, URLS, st.sampled_from(kinds) if kinds else st.none())


IMAGES = st.builds(ImageBlock, source=inline("image/png", "image/jpeg") | linked())
DETAILED = st.builds(ImageBlock, source=inline("image/png", "image/jpeg") | linked(), detail=st.none() | st.just("low"))
MEDIA: dict[str, st.SearchStrategy[Any]] = {
    "chat_completions": DETAILED
    | st.builds(DocumentBlock, source=inline("application/pdf"), filename=NAMES)
    | st.builds(AudioBlock, source=inline("audio/wav", "audio/mpeg")),
    "responses": DETAILED
    | st.builds(DocumentBlock, source=inline("application/pdf"), filename=NAMES)
    | st.builds(DocumentBlock, source=linked()),
    "messages": IMAGES
    | st.builds(DocumentBlock, source=inline("application/pdf") | linked(), filename=st.none() | NAMES)
    | st.builds(DocumentBlock, source=st.builds(Base64Source, st.just("text/plain"), st.just("w6k="))),
    "generate_content": st.builds(ImageBlock, source=inline("image/png") | linked("image/png"))
    | st.builds(DocumentBlock, source=inline("application/pdf") | linked("application/pdf"))
    | st.builds(AudioBlock, source=inline("audio/mp3"))
    | st.builds(VideoBlock, source=inline("video/mp4") | linked("video/mp4")),
    "ollama_chat": st.builds(ImageBlock, source=inline("image/png")),
    "converse": st.builds(ImageBlock, source=inline("image/png", "image/webp"))
    | st.builds(DocumentBlock, source=inline("application/pdf", "text/csv"), filename=NAMES)
    | st.builds(AudioBlock, source=inline("audio/wav", "audio/mpeg"))
    | st.builds(VideoBlock, source=inline("video/mp4", "video/3gpp")),
    "cohere_v2_chat": DETAILED,
}
IN_RESULTS: dict[str, st.SearchStrategy[Any]] = {
    "responses": DETAILED,
    "messages": IMAGES,
    "generate_content": st.builds(ImageBlock, source=inline("image/png")),
    "ollama_chat": MEDIA["ollama_chat"],
    "converse": st.builds(ImageBlock, source=inline("image/png")),
}
THINKING: dict[str, st.SearchStrategy[Any]] = {
    "chat_completions": st.builds(ThinkingBlock, text=TEXTS),  # left out on purpose: the wire has no place
    "responses": st.lists(TEXTS, max_size=2).flatmap(
        lambda parts: st.builds(
            ThinkingBlock,
            text=st.just("".join(parts)),
            summary=st.just(tuple(parts) or None),
            id=NAMES.map(lambda name: f"rs_{name}"),
            encrypted=st.none() | st.just("c2VhbGVk"),
        )
    ),
    "messages": st.builds(ThinkingBlock, text=TEXTS, signature=st.just("c2ln"))
    | st.builds(ThinkingBlock, encrypted=st.just("c2VhbGVk")),
    "generate_content": st.builds(ThinkingBlock, text=TEXTS, signature=st.none() | st.just("c2ln")),
    "ollama_chat": st.builds(ThinkingBlock, text=TEXTS),
    "converse": st.builds(ThinkingBlock, text=TEXTS, signature=st.just("c2ln"))
    | st.builds(ThinkingBlock, encrypted=st.just("c2VhbGVk")),
    "cohere_v2_chat": st.builds(ThinkingBlock, text=TEXTS),
}


@st.composite
def conversations(draw: st.DrawFn, dialect: str) -> tuple[Message, ...]:
    messages: list[Message] = []
    if draw(st.booleans()):
        messages.append(Message.system(draw(TEXTS)))
    with_ids = dialect not in ("generate_content", "ollama_chat") or draw(st.booleans())
    count = 0
    for _ in range(draw(st.integers(1, 3))):
        said = [TextBlock(text=draw(TEXTS)), *draw(st.lists(MEDIA[dialect], max_size=2))]
        messages.append(Message.user(said if draw(st.booleans()) else draw(TEXTS)))
        if draw(st.booleans()):
            continue
        blocks: list[Any] = draw(st.lists(THINKING[dialect], max_size=1))
        calls = draw(st.lists(st.tuples(NAMES, OBJECTS), max_size=3))
        if not calls or draw(st.booleans()):
            blocks.append(TextBlock(text=draw(TEXTS)))
        if dialect in ("chat_completions", "responses") and draw(st.booleans()):
            blocks.append(RefusalBlock(text=draw(TEXTS)))
        made = []
        for name, arguments in calls:
            count += 1
            ident = f"call_{count}"
            made.append(ToolUseBlock(id=ident, name=name, input=arguments, wire_id=ident if with_ids else None))
        messages.append(Message.assistant([*blocks, *made]))
        for call in made:
            content: Any = draw(st.just("") | TEXTS | st.just('{"degrees": 21.5}'))
            if dialect in IN_RESULTS and draw(st.booleans()):
                content = (TextBlock(text=draw(TEXTS)), draw(IN_RESULTS[dialect]))
            messages.append(Message.tool(call.id, content, is_error=draw(st.booleans())))
    return tuple(messages)


NUMBERS = st.integers(0, 100).map(lambda value: value / 100)
PARAMETERS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "common": {"temperature": NUMBERS, "top_p": NUMBERS, "max_tokens": st.integers(1, 10**6)},
    "chat_completions": {
        "stop_sequences": st.lists(TEXTS, max_size=2).map(tuple),
        "seed": st.integers(0, 2**31),
        "n": st.integers(1, 4),
        "presence_penalty": NUMBERS,
        "frequency_penalty": NUMBERS,
        "logprobs": st.booleans(),
        "reasoning_effort": st.sampled_from(["low", "high"]),
        "metadata": st.dictionaries(NAMES, TEXTS, min_size=1, max_size=2),
    },
    "responses": {
        "reasoning_effort": st.sampled_from(["low", "high"]),
        "metadata": st.dictionaries(NAMES, TEXTS, min_size=1, max_size=2),
        "logprobs": st.just(True),
        "top_logprobs": st.integers(1, 5),
    },
    "messages": {
        "top_k": st.integers(1, 40),
        "stop_sequences": st.lists(TEXTS, max_size=2).map(tuple),
        "reasoning_effort": st.sampled_from(["low", "high"]),
        "thinking": st.just({"type": "enabled", "budget_tokens": 1024}),
        "metadata": st.just({"user_id": "u-1"}),
    },
    "generate_content": {
        "top_k": st.integers(1, 40),
        "stop_sequences": st.lists(TEXTS, max_size=2).map(tuple),
        "seed": st.integers(0, 2**31),
        "n": st.integers(1, 4),
        "presence_penalty": NUMBERS,
        "frequency_penalty": NUMBERS,
        "logprobs": st.booleans(),
        "top_logprobs": st.integers(1, 5),
        "reasoning_effort": st.sampled_from(["low", "high"]),
    },
    "ollama_chat": {
        "top_k": st.integers(1, 40),
        "stop_sequences": st.lists(TEXTS, max_size=2).map(tuple),
        "seed": st.integers(0, 2**31),
        "presence_penalty": NUMBERS,
        "frequency_penalty": NUMBERS,
        "reasoning_effort": st.sampled_from(["none", "low", "medium", "high"]),
    },
    "converse": {
        "top_k": st.integers(1, 40),
        "stop_sequences": st.lists(TEXTS, max_size=2).map(tuple),
        "reasoning_effort": st.sampled_from(["low", "high"]),
        "thinking": st.just({"type": "enabled", "budget_tokens": 1024}),
        "metadata": st.dictionaries(NAMES, TEXTS, min_size=1, max_size=2),
    },
    "cohere_v2_chat": {
        "top_k": st.integers(1, 40),
        "stop_sequences": st.lists(TEXTS, max_size=2).map(tuple),
        "seed": st.integers(0, 2**31),
        "presence_penalty": NUMBERS,
        "frequency_penalty": NUMBERS,
        "logprobs": st.booleans(),
        "thinking": st.just({"type": "enabled", "token_budget": 1024}),
    },
}
# Choices of a tool that the wire can say: one without an own word for one of them goes without tools, or has no place.
CHOICES: dict[str, tuple[str, ...]] = {
    "ollama_chat": (),
    "converse": ("auto", "required", "tool"),
    "cohere_v2_chat": ("required", "none"),
}


@st.composite
def requests(draw: st.DrawFn, dialect: str) -> Request:
    fields: dict[str, Any] = {}
    for name, values in {**PARAMETERS["common"], **PARAMETERS[dialect]}.items():
        if draw(st.booleans()):
            fields[name] = draw(values)
    if dialect == "chat_completions" and fields.get("logprobs"):
        fields["top_logprobs"] = draw(st.none() | st.integers(0, 5))
    if draw(st.booleans()):
        names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
        with_strict = dialect in ("chat_completions", "responses", "messages", "converse")
        fields["tools"] = tuple(
            ToolDefinition(
                name,
                draw(st.none() | TEXTS),
                draw(SCHEMAS),
                draw(st.none() | st.booleans()) if with_strict else None,
            )
            for name in names
        )
        modes = CHOICES.get(dialect, ("auto", "none", "required", "tool"))
        mode = draw(st.sampled_from([None, *modes]))
        if mode is not None:
            fields["tool_choice"] = ToolChoice(mode, names[0] if mode == "tool" else None)
        if dialect in ("chat_completions", "responses", "messages"):
            fields["parallel_tool_calls"] = draw(st.none() | st.booleans())
    schema = ResponseFormat("json_schema", name="answer", schema=draw(SCHEMAS))
    formats = {"messages": [schema], "converse": [schema], "ollama_chat": [schema, ResponseFormat("json_object")]}
    fields["response_format"] = draw(
        st.none()
        | st.sampled_from(formats.get(dialect, [schema, ResponseFormat("json_object"), ResponseFormat("text")]))
    )
    return Request(model=draw(NAMES), stream=draw(st.booleans()), messages=draw(conversations(dialect)), **fields)


# ---- what a dialect keeps of a request ----


def told(blocks: Iterable[Any], dialect: str) -> list[Any]:
    """Blocks as this dialect can say them, text beside text joined."""
    out: list[Any] = []
    for block in blocks:
        if isinstance(block, TextBlock):
            last = out[-1] if out else None
            if isinstance(last, tuple) and last[0] == "text":
                out[-1] = ("text", last[1] + block.text)
            elif block.text:
                out.append(("text", block.text))
        elif isinstance(block, ThinkingBlock):
            if dialect != "chat_completions":
                out.append(("thinking", block.text, block.signature, block.encrypted, block.id, block.summary))
        elif isinstance(block, ToolUseBlock):
            out.append(("tool_use", block.id, block.wire_id, block.name, block.input))
        elif isinstance(block, ToolResultBlock):
            inner = told(Message("user", block.content).blocks, dialect)
            if dialect == "generate_content":  # an object goes out as one
                inner = [("text", _parsed(part[1])) if isinstance(part, tuple) else part for part in inner]
            with_error = dialect in ("messages", "generate_content", "converse")
            out.append(("tool_result", block.tool_use_id, inner, block.is_error if with_error else None))
        else:
            out.append(block)
    return out


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def kept(wanted: Request, dialect: str) -> Any:
    """A request as this dialect can say it, in a form that can be compared."""
    turns: list[tuple[str, list[Any]]] = []
    for message in wanted.messages:
        if turns and turns[-1][0] == message.role:
            turns[-1][1].extend(message.blocks)
        else:
            turns.append((message.role, list(message.blocks)))
    said = [(role, told(blocks, dialect)) for role, blocks in turns]
    fields = {name: getattr(wanted, name) for name in ("model", "stream", "tools", *PARAMETERS["common"])}
    fields |= {name: getattr(wanted, name) for name in PARAMETERS[dialect]}
    fields["logprobs"] = fields.get("logprobs")
    choice, parallel, form = wanted.tool_choice, wanted.parallel_tool_calls, wanted.response_format
    if dialect == "messages":
        fields["max_tokens"] = fields["max_tokens"] or 4096
        parallel = False if parallel is False and choice != ToolChoice("none") else None
        choice = ToolChoice("auto") if choice is None and parallel is False else choice
    if form is not None and dialect not in ("chat_completions", "responses", "converse"):
        form = ResponseFormat(form.mode, schema=form.schema)
    return said, fields, choice, parallel, form


@pytest.mark.parametrize("dialect", FULL)
def test_any_request_comes_back_as_what_it_asked(dialect: str) -> None:
    @settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(requests(dialect))
    def holds(wanted: Request) -> None:
        assert kept(lifted(dialect, wanted), dialect) == kept(wanted, dialect)

    holds()


# ---- wires of one text, or with messages poorer than the standard ones ----

KEPT_BY_ALL = {"temperature": 0.5, "max_tokens": 99, "top_p": 0.25}


@pytest.mark.parametrize("dialect", [dialect for dialect in DIALECTS if dialect not in FULL])
def test_a_request_of_one_turn_comes_back_as_what_it_asked(dialect: str) -> None:
    fields: dict[str, Any] = {
        **KEPT_BY_ALL,
        "top_k": 3,
        "seed": 7,
        "stop_sequences": ("END",),
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "response_format": ResponseFormat("json_schema", schema={"type": "object"}),
    }
    fields = {name: value for name, value in fields.items() if name not in encoder(dialect).unplaced}
    wanted = request(stream="stream" not in LACKS[dialect], model=model_of(dialect), **fields)
    got = lifted(dialect, wanted)
    assert [(message.role, message.text) for message in got.messages] == [("user", "Hi")]
    told_as = {name: getattr(got, name) for name in fields}
    if dialect == "predictions":  # the commas of one text may be anybody's
        assert asked(dialect, wanted).body["input"].pop("stop_sequences") == "END"
        fields.pop("stop_sequences")
        told_as.pop("stop_sequences")
    assert told_as == fields
    assert got.stream == wanted.stream
    assert got.model == ("" if dialect == "text_generation" else wanted.model)


TURNS = (Message.system("Be brief."), Message.user("Hi"), Message.assistant("Hello."), Message.user("And now?"))


@pytest.mark.parametrize(
    ("dialect", "said"),
    [
        (
            "completions",
            [("user", "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: And now?\n\nAssistant:")],
        ),
        (
            "text_generation",
            [("user", "System: Be brief.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: And now?\n\nAssistant:")],
        ),
        (
            "ollama_generate",
            [("system", "Be brief."), ("user", "User: Hi\n\nAssistant: Hello.\n\nUser: And now?\n\nAssistant:")],
        ),
        (
            "predictions",
            [("system", "Be brief."), ("user", "User: Hi\n\nAssistant: Hello.\n\nUser: And now?\n\nAssistant:")],
        ),
        ("cohere_v1_chat", [(message.role, message.text) for message in TURNS]),
        ("wenxin_chat", [(message.role, message.text) for message in TURNS]),
    ],
)
def test_several_turns_come_back_as_the_wire_has_them(dialect: str, said: list[tuple[str, str]]) -> None:
    wanted = request(messages=TURNS, stream=False, model=model_of(dialect))
    assert [(message.role, message.text) for message in lifted(dialect, wanted).messages] == said


def test_a_call_and_its_result_come_back_where_calls_have_no_ids() -> None:
    weather = ToolDefinition("get_weather", "The weather", {"type": "object"})
    call = ToolUseBlock(id="call_x", name="get_weather", input={"city": "Paris"})
    messages = (
        Message.user("The weather?"),
        Message.assistant([ThinkingBlock(text="I look."), call]),
        Message.tool("call_x", "15 degrees"),
    )
    choice = ToolChoice("tool", "get_weather")
    got = lifted("wenxin_chat", request(messages=messages, tools=(weather,), tool_choice=choice))
    assert [message.role for message in got.messages] == ["user", "assistant", "tool"]
    (made,) = got.messages[1].blocks
    assert (made.name, made.input) == ("get_weather", {"city": "Paris"})
    result = got.messages[2].blocks[0]
    assert (result.tool_use_id, result.content) == (made.id, "15 degrees")
    assert (got.tools, got.tool_choice) == ((weather,), choice)


def test_a_model_with_a_version_goes_to_the_address_for_all_models() -> None:
    encoded = encoder("predictions").encode(request(model="acme/m-1:c0ffee", stream=False))
    assert encoded.path == "/predictions"
    assert json.loads(encoded.body)["version"] == "acme/m-1:c0ffee"
    assert lifted("predictions", request(model="acme/m-1:c0ffee", stream=False)).model == "acme/m-1:c0ffee"
    assert encoder("predictions").encode(request(model="acme/m-1", stream=False)).path == "/models/acme/m-1/predictions"


# ---- what a dialect refuses ----

GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "chat_completions": ("/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}),
    "responses": ("/responses", {"model": "m", "input": "Hi"}),
    "messages": ("/messages", {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}),
    "generate_content": ("/models/m:generateContent", {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}),
    "ollama_chat": ("/chat", {"model": "m", "stream": False, "messages": [{"role": "user", "content": "Hi"}]}),
    "ollama_generate": ("/generate", {"model": "m", "stream": False, "prompt": "Hi"}),
    "completions": ("/completions", {"model": "m", "prompt": ["Hi"]}),
    "converse": ("/model/m/converse", {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}),
    "cohere_v2_chat": ("/v2/chat", {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}),
    "cohere_v1_chat": ("/v1/chat", {"model": "m", "message": "Hi"}),
    "text_generation": ("/generate", {"inputs": "Hi"}),
    "wenxin_chat": ("/chat/m", {"messages": [{"role": "user", "content": "Hi"}]}),
    "predictions": ("/models/acme/m/predictions", {"input": {"prompt": "Hi"}}),
}
PARTS = [{"type": "image_url"}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("chat_completions", {"model": None}, "model is required"),
    ("chat_completions", {"model": 7}, "model has to be text"),
    ("chat_completions", {"messages": []}, "must not be empty"),
    ("chat_completions", {"max_token": 4}, "unknown field max_token"),
    ("chat_completions", {"messages": [{"role": "robot", "content": "x"}]}, "invalid role in messages[0]"),
    ("chat_completions", {"messages": [{"role": "user"}]}, "messages[0] needs content"),
    ("chat_completions", {"messages": [{"role": "user", "content": PARTS}]}, "needs what its type names"),
    ("chat_completions", {"messages": [{"role": "assistant", "content": None, "tool_calls": [CALL]}]}, "no result for"),
    ("chat_completions", {"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]}, "no tool call for"),
    ("chat_completions", {"stream_options": {"include_usage": True}}, "is for streams"),
    ("chat_completions", {"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name is required"),
    ("chat_completions", {"tool_choice": "auto"}, "tool_choice needs tools"),
    ("responses", {"input": None}, "input is required"),
    ("responses", {"messages": []}, "unknown field messages"),
    ("responses", {"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "input_text"),
    ("responses", {"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "no tool call for"),
    ("responses", {"input": [{"type": "reasoning", "summary": []}]}, "input[0].id is required"),
    ("responses", {"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name is required"),
    ("messages", {"max_tokens": None}, "max_tokens is required"),
    ("messages", {"max_tokens": 0}, "greater than or equal to 1"),
    ("messages", {"temperature": 1.5}, "range"),
    ("messages", {"messages": [{"role": "system", "content": "x"}]}, "system"),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "non-empty"),
    ("messages", {"tools": [{"name": "f", "parameters": {}}]}, "input_schema is required"),
    (
        "messages",
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c"}]}]},
        "no tool call for the result c",
    ),
    (
        "messages",
        {"messages": [{"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]}]},
        "signature is required",
    ),
    ("generate_content", {"contents": []}, "contents is not specified"),
    ("generate_content", {"model": "m"}, "unknown field model"),
    ("generate_content", {"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "valid role"),
    ("generate_content", {"contents": [{"role": "user", "parts": [{"thought": True}]}]}, "data is required"),
    ("generate_content", {"generationConfig": {"max_tokens": 3}}, "unknown field generationConfig.max_tokens"),
    ("ollama_chat", {"model": None}, "model is required"),
    ("ollama_chat", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "content has to be text"),
    ("ollama_chat", {"messages": [{"role": "assistant", "tool_calls": [CALL]}]}, "arguments has to be object"),
    ("ollama_generate", {"model": None}, "model is required"),
    ("ollama_generate", {"prompt": ["Hi"]}, "prompt has to be text"),
    ("completions", {"prompt": None}, "prompt is required"),
    ("completions", {"messages": []}, "unknown field messages"),
    ("completions", {"stream_options": {"include_usage": True}}, "is for streams"),
    ("converse", {"model": "m"}, "unknown field model"),
    ("converse", {"messages": [{"role": "assistant", "content": [{"text": "x"}]}]}, "must start with a user message"),
    ("converse", {"messages": [{"role": "user", "content": [{"text": ""}]}]}, "is blank"),
    (
        "converse",
        {"messages": [{"role": "user", "content": [{"toolUse": {"toolUseId": "c", "name": "f", "input": {}}}]}]},
        "only an assistant",
    ),
    (
        "converse",
        {"messages": [{"role": "user", "content": [{"toolResult": {"toolUseId": "c", "content": []}}]}]},
        "no tool call for",
    ),
    ("converse", {"inferenceConfig": {"max_tokens": 3}}, "unknown field inferenceConfig.max_tokens"),
    ("cohere_v2_chat", {"messages": []}, "must not be empty"),
    ("cohere_v2_chat", {"tool_choice": "AUTO"}, "REQUIRED or NONE"),
    ("cohere_v2_chat", {"top_p": 0.5}, "unknown field top_p"),
    ("cohere_v2_chat", {"messages": [{"role": "tool", "content": "x"}]}, "needs tool_call_id"),
    ("cohere_v1_chat", {"message": None}, "message is required"),
    ("cohere_v1_chat", {"chat_history": [{"role": "user", "message": "x"}]}, "invalid role in chat_history[0]"),
    ("text_generation", {"inputs": ""}, "cannot be empty"),
    ("text_generation", {"parameters": {"temperature": 0}}, "strictly positive"),
    ("text_generation", {"parameters": {"max_tokens": 3}}, "unknown field parameters.max_tokens"),
    ("wenxin_chat", {"messages": [{"role": "system", "content": "x"}]}, "must be user"),
    ("wenxin_chat", {"temperature": 0}, "temperature: range"),
    (
        "wenxin_chat",
        {"messages": [{"role": "user", "content": "x"}, {"role": "function", "content": "x"}]},
        "needs a name",
    ),
    ("predictions", {"input": None}, "input is required"),
    ("predictions", {"input": {"messages": []}}, "input.prompt is required"),
]


def posting(dialect: str, changes: dict[str, Any]) -> bytes:
    path, body = GOOD[dialect]
    merged = {key: value for key, value in {**body, **changes}.items() if value is not None}
    headers = [("anthropic-version", "2023-06-01")] if dialect == "messages" else []
    return http_bytes(f"/{dialect}", path, json.dumps(merged).encode(), headers=headers)


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_plain_request_is_answered(dialect: str) -> None:
    async with open_simulator(catalog()) as sim:
        reply = await ask(sim, posting(dialect, {}))
        assert reply.status == 200
        assert sim.entries[0].refused is None


@pytest.mark.parametrize(("dialect", "changes", "said"), BAD)
async def test_a_malformed_request_is_refused_in_the_dialects_own_words(
    dialect: str, changes: dict[str, Any], said: str
) -> None:
    async with open_simulator(catalog()) as sim:
        sim.script(Script(steps=[Text("never")]))
        reply = await ask(sim, posting(dialect, changes))
        entry = await sim.wait_end(1)
        assert reply.status == 400
        assert said in json.dumps(reply.json)
        assert entry.refused is not None
        assert said in entry.refused
        assert entry.request is None
        # The refused request took no answer.
        good = await ask(sim, posting(dialect, {}))
        assert b"never" in good.body


async def test_a_refusal_has_the_shape_of_the_dialects_errors() -> None:
    shapes = {
        "chat_completions": lambda body: body["error"]["param"] == "nonsense" and body["error"]["code"] is None,
        "responses": lambda body: body["error"]["type"] == "invalid_request_error",
        "messages": lambda body: body["type"] == "error" and body["error"]["type"] == "invalid_request_error",
        "generate_content": lambda body: body["error"]["status"] == "INVALID_ARGUMENT" and body["error"]["code"] == 400,
        "converse": lambda body: set(body) == {"message"},
        "cohere_v2_chat": lambda body: set(body) == {"id", "message"},
        "text_generation": lambda body: body["error_type"] == "validation",
        "wenxin_chat": lambda body: body["error_code"] == 336003 and "nonsense" in body["error_msg"],
        "predictions": lambda body: body["status"] == 400 and "nonsense" in body["detail"],
    }
    async with open_simulator(catalog()) as sim:
        for dialect, fits in shapes.items():
            reply = await ask(sim, posting(dialect, {"nonsense": 1}))
            assert fits(reply.json), reply.json


async def test_a_missing_version_header_is_refused() -> None:
    path, body = GOOD["messages"]
    async with open_simulator(catalog()) as sim:
        reply = await ask(sim, http_bytes("/messages", path, json.dumps(body).encode()))
        assert reply.status == 400
        assert "anthropic-version" in reply.json["error"]["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"null", b'"text"'])
async def test_a_body_that_is_no_json_object_is_refused(body: bytes) -> None:
    async with open_simulator(catalog()) as sim:
        reply = await ask(sim, http_bytes("/responses", "/responses", body))
        assert reply.status == 400
        assert "JSON" in reply.json["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/responses/nowhere"), ("GET", "/responses/responses"), ("POST", "/nobody/x"), ("POST", "/")],
)
async def test_a_path_without_a_route_is_not_found(method: str, path: str) -> None:
    async with open_simulator(catalog()) as sim:
        reply = await ask(sim, http_bytes("", path, b"{}", method=method))
        assert reply.status == 404
        assert sim.entries[0].refused is not None


async def test_without_checks_a_malformed_request_is_taken_as_far_as_it_can_be_read() -> None:
    async with open_simulator(catalog(), check=False) as sim:
        reply = await ask(sim, posting("chat_completions", {"nonsense": 1}))
        assert reply.status == 200


@pytest.mark.parametrize("prefix", ["", "/v1", "/chat_completions/v1", "/openai_style/any/where"])
async def test_a_route_is_found_behind_any_prefix(prefix: str) -> None:
    path, body = GOOD["chat_completions"]
    async with open_simulator(catalog()) as sim:
        reply = await ask(sim, http_bytes(prefix, path, json.dumps(body).encode()))
        assert reply.status == 200
        assert sim.entries[0].dialect == "chat_completions"


async def test_what_a_providers_own_encoding_writes_is_no_unknown_field() -> None:
    found = catalog()
    for name in found.providers():
        manifest = found.provider(name)
        if not manifest.families or manifest.family().dialect != "chat_completions":
            continue
        keys = manifest.family().encode.get("parameters", {})
        if keys.get("max_tokens") == "max_tokens" and keys.get("seed") == "random_seed":
            path, body = GOOD["chat_completions"]
            data = json.dumps({**body, "random_seed": 3}).encode()
            async with open_simulator(found) as sim:
                assert (await ask(sim, http_bytes(f"/{name}", path, data))).status == 200
                assert (await ask(sim, http_bytes("/chat_completions", path, data))).status == 400
            return
    pytest.skip("no bundled provider renames a parameter")


# ---- what a `simulate` section may not be ----


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a": {"must": "$.x =="}}, "literal"),
        ({"a": {}}, "fields"),
        ({"a": {"fields": {"x": "texts"}}}, "expected one of text"),
        ({"a": {"fields": {}, "mist": 1}}, "got `mist`"),
        ({"a": {"at": "$.x", "must": "$.x"}}, "expected `fields`"),
        ({"a": []}, "expected a rule"),
        ([], "expected a mapping"),
    ],
)
def test_a_wrong_check_is_refused_with_its_place(tree: Any, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        compile_check(tree, Where("x.yaml"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"route": None}, "expected `route`"),
        ({"route": {"method": "POST"}}, "expected a `path`"),
        ({"nonsense": {}}, "got `nonsense`"),
        ({"frames": {"texts": {}}}, "got `texts`"),
        ({"frames": {"text": {"middle": {}}}}, "got `middle`"),
        ({"framing": {"format": "sse", "evnt": 1}}, "got `evnt`"),
        ({"framing": {"format": "sse", "wrap": 1}}, "expected a text"),
        ({"results": "some"}, "expected `paired`"),
        ({"calls": "two"}, "expected `one`"),
        ({"body": {"a": "$.b["}}, "expected"),
    ],
)
def test_a_wrong_section_is_refused_with_its_place(change: dict[str, Any], said: str) -> None:
    good = {"route": {"path": "/x"}, "framing": {"format": "sse"}, "request": {"model": "$.body.model"}}
    rest: dict[str, Any] = {"frames": {}, "body": {}, "error": {}}
    compile_speaker({**good, **rest}, Where("x.yaml"), dialect="x")
    with pytest.raises(ManifestError, match=said):
        compile_speaker({**good, **rest, **change}, Where("x.yaml"), dialect="x")


def test_a_dialect_without_a_section_says_so() -> None:
    with pytest.raises(ManifestError, match="no `simulate` section"):
        compile_speaker({}, Where("x.yaml"), dialect="x")


async def test_a_request_that_cannot_be_lifted_is_refused() -> None:
    with pytest.raises(RefusedRequest, match="cannot be read"):
        speaker("ollama_chat").lift(
            Asked("POST", "/chat", "path", {}, {}, {}, {"model": "m", "options": {"temperature": "hot"}})
        )


async def test_a_lifted_request_stands_in_the_journal() -> None:
    async with open_simulator(catalog()) as sim:
        wanted = request(messages=(Message.system("Be brief."), Message.user("Hi")), temperature=0.5)
        await ask(sim, asking("messages", wanted))
        got = sim.entries[0].request
        assert got is not None
        assert [message.role for message in got.messages] == ["system", "user"]
        assert (got.temperature, got.stream, sim.entries[0].model) == (0.5, True, "m-1")
