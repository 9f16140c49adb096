"""Calls that models write as text: every shape, every cut, and the way through the client."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio import Config, ToolDefinition, open_client
from ai_lib_trio.pipeline.text_tools import BARRED, CallsInText, TextCall, TextReader, read_calls, tidy
from ai_lib_trio.protocol.manifest import TextDialect, TextTools, ToolCalling
from ai_lib_trio.testing import ScriptedTransport, Step, json_reply, sse_reply
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.types.events import (
    FinalCandidate,
    Metadata,
    PartialContentDelta,
    PartialToolCall,
    StreamEnd,
    StreamingEvent,
    ThinkingDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from ai_lib_trio.types.message import ImageBlock, Message, TextBlock, ToolUseBlock, UrlSource
from ai_lib_trio.types.request import Request
from ai_lib_trio.types.response import ChatResponse, fold
from ai_lib_trio.types.tool import ToolChoice
from ai_lib_trio.wire.text_tools import instructions, needs_text, told_in_text
from client_support import body_of, delta, finish

USUAL = TextTools()
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "x"}}\n</tool_call>'
LOOK = TextCall("look", {"at": "x"})


def barred(text: str) -> str:
    """The text with the bars before every tag's name."""
    return text.replace("</", f"</{BARRED}").replace("<", f"<{BARRED}").replace(f"<{BARRED}/{BARRED}", f"</{BARRED}")


# ---- one text


@pytest.mark.parametrize(
    ("text", "rest", "calls"),
    [
        (f"Let me see.\n{CALL}\n", "Let me see.", [LOOK]),
        (f"{CALL}\n{CALL}", "", [LOOK, LOOK]),
        (f"a\n{CALL}\nb", "a\nb", [LOOK]),
        ("no call at all", "no call at all", []),
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_the_form_that_is_asked_for_is_read_strictly_and_leniently(
    text: str, rest: str, calls: list[TextCall], lenient: bool
) -> None:
    assert read_calls(text, lenient=lenient) == (rest, calls)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ('<tool_call name="look">{"at": "x"}</tool_call>', LOOK),
        ('<tool_call id="1" index="0">{"name": "look", "parameters": {"at": "x"}}</tool_call>', LOOK),
        ("<tool_call name='look'>{\"args\": {\"at\": \"x\"}}</tool_call>", LOOK),
        ('<tool_call>{"name": "look", "params": {"at": "x"}}</tool_call>', LOOK),
        ('<tool_call>{"name": "look", "id": "7", "type": "function", "at": "x"}</tool_call>', LOOK),
        ('<tool_call>{"name": "look", "arguments": "{\\"at\\": \\"x\\"}"}</tool_call>', LOOK),
        ('<tool_call>{"name": "look"}</tool_call>', TextCall("look", {})),
        (f"<tool_calls>\n{CALL}\n</tool_calls>", LOOK),
        (f"<tool_calls>{CALL}{CALL}</tool_calls>", LOOK),
        (barred('<tool_call>{"name": "look", "arguments": {"at": "x"}}</tool_call>'), LOOK),
        (barred('<tool_calls>{"name": "look", "arguments": {"at": "x"}}</tool_calls>'), LOOK),
        (barred('<invoke name="look"><parameter name="at" string="true">x</parameter></invoke>'), LOOK),
        (barred('<tool_calls>\n<invoke name="look">\n<parameter name="at">x</parameter>\n</invoke>\n</tool_calls>'),
         LOOK),
        ('<invoke name="look"><parameter name="at">x</parameter></invoke>', LOOK),
        ('<tool_calls>\n<invoke name="look"><parameter name="at">x</parameter></invoke>\n</tool_calls>', LOOK),
        ("<shell><command>ls</command></shell>", TextCall("shell", {"command": "ls"})),
        ("<shell>ls -la</shell>", TextCall("shell", {"command": "ls -la"})),
        ("<bash>ls</bash>", TextCall("shell", {"command": "ls"})),
        ("<bash><command>ls</command></bash>", TextCall("shell", {"command": "ls"})),
    ],
)  # fmt: skip
def test_every_shape_that_models_write_is_read_leniently_and_strictly_stays_text(text: str, call: TextCall) -> None:
    rest, calls = read_calls(f"Before.\n{text}")
    assert rest == "Before."
    assert set(map(repr, calls)) == {repr(call)}
    if call is LOOK and text.startswith("<tool_calls>") and CALL in text:
        return  # the form that is asked for stands inside a wrapper: strict reading leaves the wrapper alone
    assert read_calls(f"Before.\n{text}", lenient=False) == (f"Before.\n{tidy(text)}", [])


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{not json}</tool_call>",
        '<tool_call>{"name": 7, "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>["look"]</tool_call>',
        '<tool_call>{"name": "look", "arguments": [1]}</tool_call>',
        '<tool_call>{"name": "look", "arguments": {"at": "x"}}',
        "<tool_call>",
        "<tool",
        '<tool_call>{"name": "look", "arguments": {"at": "x}}</tool_call>',
        "<tool_callous>{}</tool_callous>",
        "<function name=\"look\">x</function>",
        "<invoke>x</invoke>",
        "<shell></shell>",
        "<invoke name=\"look\">",
        "1 < 2 and <b>bold</b>",
    ],
)  # fmt: skip
def test_what_is_no_call_stays_in_the_text_as_it_was(text: str) -> None:
    for lenient in (True, False):
        reader = TextReader(USUAL, lenient=lenient)
        assert "".join(map(str, [*reader.feed(f"  {text} \n"), *reader.finish()])) == f"  {text} \n"


def test_a_broken_call_is_passed_over_and_the_next_one_counts() -> None:
    assert read_calls(f"<tool_call>{{bad}}</tool_call> {CALL}") == ("<tool_call>{bad}</tool_call>", [LOOK])
    unbalanced = '<tool_call>{"name": "a}</tool_call>'
    assert read_calls(f"{unbalanced}\n{CALL}") == (unbalanced, [LOOK])


def test_a_closing_tag_inside_an_argument_does_not_close_the_call() -> None:
    arguments = {"text": 'a </tool_call> b \\" </tool_call>'}
    text = f"<tool_call>{json.dumps({'name': 'write', 'arguments': arguments})}</tool_call>"
    assert read_calls(text) == ("", [TextCall("write", arguments)])


def test_other_markup_counts_only_where_no_call_in_the_declared_form_is_found() -> None:
    assert read_calls(f"<shell>ls</shell>\n{CALL}") == ("<shell>ls</shell>", [LOOK])
    assert read_calls(f"{CALL}\n<shell>ls</shell>") == ("<shell>ls</shell>", [LOOK])


def test_of_several_kinds_of_markup_the_first_of_the_specifications_order_counts() -> None:
    invoke = '<invoke name="look"><parameter name="at">x</parameter></invoke>'
    assert read_calls(f"<shell>ls</shell> {invoke}") == ("<shell>ls</shell>", [LOOK])


def test_markup_is_a_call_only_for_a_tool_that_is_offered() -> None:
    assert read_calls("<shell>ls</shell>", names=["look"]) == ("<shell>ls</shell>", [])
    assert read_calls("<shell>ls</shell>", names=["shell"])[1] == [TextCall("shell", {"command": "ls"})]
    assert read_calls(CALL, names=["other"])[1] == [LOOK]  # asked for in this form, it is the caller's to refuse


@pytest.mark.parametrize(
    ("form", "text", "call"),
    [
        (TextTools(wrapper="use"), '<use>{"name": "look", "arguments": {"at": "x"}}</use>', LOOK),
        (TextTools(args_key="input"), '<tool_call>{"name": "look", "input": {"at": "x"}}</tool_call>', LOOK),
        (
            TextTools(name_location="attribute"),
            '<tool_call name="look">{"arguments": {"at": "x"}}</tool_call>',
            LOOK,
        ),
        (
            TextTools(body="plain", name_location="attribute", args_key="at"),
            '<tool_call name="look">x " </tool_call>',
            TextCall("look", {"at": 'x "'}),
        ),
        (TextTools(format="markdown_fence"), '```tool_call\n{"name": "look", "arguments": {"at": "x"}}\n```', LOOK),
        (
            TextTools(format="markdown_fence", name_location="attribute"),
            '```tool_call name="look"\n{"arguments": {"at": "x"}}\n```',
            LOOK,
        ),
        (TextTools(format="custom", wrapper="go"), '<go>{"name": "look", "arguments": {"at": "x"}}</go>', LOOK),
    ],
)
def test_every_field_of_a_declared_form_is_read_and_is_what_the_prompt_asks_for(
    form: TextTools, text: str, call: TextCall
) -> None:
    for lenient in (True, False):
        if form.format == "markdown_fence" and form.name_location == "attribute" and not lenient:
            continue
        assert read_calls(f"a {text} b", form, lenient=lenient) == ("a\nb", [call])
    told = instructions([ToolDefinition("look")], form)
    example = read_calls(told, form)[1]
    assert example
    assert example[0].name == "TOOL"


def test_a_declared_dialect_maps_its_tag_to_a_tool() -> None:
    form = TextTools(dialects=(TextDialect("search", "find"), TextDialect("bash", ""), TextDialect("function", "")))
    assert read_calls("<search><query>x</query><limit>3</limit></search>", form)[1] == [
        TextCall("find", {"query": "x", "limit": "3"})
    ]
    assert read_calls("<bash>ls</bash>", form)[1] == [TextCall("shell", {"command": "ls"})]
    assert read_calls("<function>ls</function>", form)[1] == []


# ---- cuts

MARKUP = st.sampled_from(
    [
        "<tool_call>", "</tool_call>", "<tool_calls>", "</tool_calls>", '<tool_call name="look">', "<tool_call ",
        '{"name": "look", "arguments": {"at": "x"}}', '{"name": "a", "arguments": {"t": "</tool_call>"}}', CALL, "{",
        "}", '"', "\\", "\n", " ", "  \n", "<", "</", "word", "日本", "<shell>", "</shell>", "<command>ls</command>",
        "<bash>ls</bash>",
        '<invoke name="look">', "</invoke>", '<parameter name="at">x</parameter>', f"<{BARRED}tool_call>",
        f"</{BARRED}tool_call>", f"<{BARRED}tool_calls>", f"</{BARRED}tool_calls>", f'<{BARRED}invoke name="look">',
        f"</{BARRED}invoke>", "```tool_call\n", "\n```",
    ]
)  # fmt: skip
FORMS = st.sampled_from(
    [
        USUAL,
        TextTools(format="markdown_fence"),
        TextTools(body="plain", name_location="attribute"),
        TextTools(dialects=(TextDialect("command", "run"),)),
    ]
)


def read_in(pieces: Sequence[str], form: TextTools, lenient: bool) -> list[str | TextCall]:
    """What a reader gives, neighbouring texts joined."""
    reader = TextReader(form, lenient=lenient)
    out: list[str | TextCall] = []
    for found in [*[one for piece in pieces for one in reader.feed(piece)], *reader.finish()]:
        if isinstance(found, str) and out and isinstance(out[-1], str):
            out[-1] += found
        else:
            out.append(found)
    return out


@settings(max_examples=200, deadline=None)
@given(st.lists(MARKUP, max_size=14), FORMS, st.booleans(), st.data())
def test_however_a_text_is_cut_the_same_text_and_calls_come_out(
    parts: list[str], form: TextTools, lenient: bool, data: st.DataObject
) -> None:
    text = "".join(parts)
    whole = read_in([text], form, lenient)
    assert read_in(list(text), form, lenient) == whole
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    assert read_in(pieces, form, lenient) == whole
    if not any(isinstance(piece, TextCall) for piece in whole):
        assert "".join(map(str, whole)) == text


def test_text_flows_until_a_call_may_begin_and_a_call_comes_when_its_tag_closes() -> None:
    reader = TextReader(USUAL)
    assert reader.feed("Hello there ") == ["Hello there"]
    assert reader.feed("<b>") == [" <b>"]
    assert reader.feed(" and <tool") == [" and"]
    assert reader.feed('_call>{"name": "look", ') == []
    assert reader.feed('"arguments": {"at": "x"}}</tool_call') == []
    assert reader.feed(">") == [LOOK]
    assert reader.feed("\n\nDone") == ["\nDone"]
    assert reader.finish() == []


def test_markup_that_is_no_call_is_passed_over_in_time_proportional_to_the_text() -> None:
    # What was left of the text was searched as a whole after each of them: 34 s.
    text = '<tool_call>"</tool_call>' * 30_000
    begun = time.process_time()
    assert read_calls(text) == (text, [])
    assert time.process_time() - begun < 8


def test_a_tag_that_never_closes_holds_a_bounded_amount_back() -> None:
    reader = TextReader(USUAL)
    given_out = 0
    for _ in range(600):
        given_out += sum(len(piece) for piece in reader.feed("<tool_call>" + "x" * 1000) if isinstance(piece, str))
        assert given_out < 600 * 1011
    assert given_out > 300 * 1011


# ---- events


def events_of(*texts: str, block: int = 0) -> list[StreamingEvent]:
    return [PartialContentDelta(text, block) for text in texts]


def end(reason: Any = "end_turn") -> list[StreamingEvent]:
    return [Metadata(model="m"), FinalCandidate(0, reason, "stop"), StreamEnd(reason, "stop")]


def replied(events: Sequence[StreamingEvent], *, hybrid: bool = False, one_by_one: bool = False) -> ChatResponse:
    calls = CallsInText(USUAL, hybrid=hybrid)
    batches = [[event] for event in events] if one_by_one else [list(events)]
    return fold([out for batch in batches for out in [*calls.feed(batch)]] + calls.finish())


def native_call(block: int, number: int = 0) -> list[StreamingEvent]:
    return [
        ToolCallStarted("c1", "look", number, block, 0, "c1"),
        PartialToolCall('{"at": "y"}', number, "c1", block),
        ToolCallEnded("c1", number, block),
    ]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_reply_with_a_call_in_its_text_has_the_call_in_its_place(one_by_one: bool) -> None:
    text = f"First.\n{CALL}\nSecond."
    reply = replied([ThinkingDelta("hm", 0), *events_of(*text, block=1), *end()], one_by_one=one_by_one)
    assert [type(block).__name__ for block in reply.blocks] == [
        "ThinkingBlock",
        "TextBlock",
        "ToolUseBlock",
        "TextBlock",
    ]
    assert reply.content == "First.\nSecond."
    assert [(call.id, call.name, call.arguments) for call in reply.tool_calls] == [("text_tool_0", "look", {"at": "x"})]
    assert (reply.finish_reason, reply.raw_finish_reason) == ("tool_use", "stop")


def test_ids_go_on_from_earlier_turns_and_a_limit_stays_the_reason_of_the_end() -> None:
    calls = CallsInText(USUAL, hybrid=False, number=3)
    events = calls.feed([*events_of(CALL, CALL), *end("max_tokens")])
    assert [event.tool_call_id for event in events if isinstance(event, ToolCallStarted)] == [
        "text_tool_3",
        "text_tool_4",
    ]
    assert isinstance(events[-1], StreamEnd)
    assert events[-1].finish_reason == "max_tokens"


def test_without_a_call_every_event_passes_as_it_is() -> None:
    events = [ThinkingDelta("hm", 0), *events_of("a <b> c", block=1), *native_call(2), *events_of("d", block=3), *end()]
    for hybrid in (False, True):
        assert fold(CallsInText(USUAL, hybrid=hybrid).feed(events)) == fold(events)
    assert CallsInText(USUAL, hybrid=False).feed(native_call(4)) == native_call(4)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_hybrid_takes_the_apis_own_calls_and_leaves_the_text_alone(one_by_one: bool) -> None:
    text = "See <shell>ls</shell>\n"
    reply = replied([*events_of(*text), *native_call(1), *end("tool_use")], hybrid=True, one_by_one=one_by_one)
    assert reply.content == text
    assert [(call.id, call.arguments) for call in reply.tool_calls] == [("c1", {"at": "y"})]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_hybrid_reads_the_text_where_the_api_gave_no_call(one_by_one: bool) -> None:
    events = [*events_of(*f"See.\n{CALL}"), ThinkingDelta("later", 1), *end()]
    reply = replied(events, hybrid=True, one_by_one=one_by_one)
    assert (reply.content, reply.thinking, len(reply.tool_calls), reply.finish_reason) == (
        "See.",
        "later",
        1,
        "tool_use",
    )


def test_hybrid_lets_text_flow_until_markup_may_begin() -> None:
    calls = CallsInText(USUAL, hybrid=True)
    assert calls.feed(events_of("Hello ")) == events_of("Hello")
    assert calls.feed(events_of("you <")) == events_of(" you")
    assert calls.feed(events_of("b> <tool_call>")) == events_of(" <b>")
    assert calls.feed(events_of("more")) == []
    assert calls.finish() == events_of(" <tool_call>more")


def test_an_answer_that_is_cut_off_inside_a_call_is_text() -> None:
    calls = CallsInText(USUAL, hybrid=False)
    given = calls.feed(events_of("a ", "<tool_call>", '{"name"'))
    assert fold([*given, *calls.finish()]).content == 'a <tool_call>{"name"'


# ---- requests

IMAGE = ImageBlock(source=UrlSource(url="http://h/i.png"))
TOOLS = (
    ToolDefinition(
        "shell", "Execute shell commands", {"type": "object", "properties": {"command": {"type": "string"}}}
    ),
    ToolDefinition("file_read", "Read file\ncontents"),
)


@pytest.mark.parametrize("locale", ["en", "zh"])
def test_a_prompt_says_more_at_each_level(locale: Any) -> None:
    texts = [instructions(TOOLS, TextTools(prompt_level=level), locale=locale) for level in ("L1", "L2", "L3")]  # type: ignore[arg-type]
    assert len(texts[0]) < len(texts[1]) < len(texts[2])
    for text in texts:
        assert "<tool_call>" in text
        assert "- shell: Execute shell commands" in text
        assert '"command":{"type":"string"}' in text
        assert "- file_read: Read file contents" in text
    assert "<shell>" not in texts[0]
    for wrong in ("<shell>", "<invoke", "<parameter"):
        assert wrong in texts[1]
    assert "Oslo" in texts[2] or "奥斯陆" in texts[2]


def test_a_forced_choice_is_said_in_words() -> None:
    assert "the tool shell" in instructions(TOOLS, choice=ToolChoice("tool", "shell"))
    assert "one of the tools" in instructions(TOOLS, choice=ToolChoice("required"))


def test_a_request_for_text_has_no_tool_left_and_nothing_lost() -> None:
    request = Request(
        model="m",
        tools=TOOLS,
        tool_choice=ToolChoice("auto"),
        parallel_tool_calls=True,
        messages=(
            Message.system("Be brief."),
            Message.user("List."),
            Message.assistant([TextBlock(text="Yes."), ToolUseBlock(id="c1", name="shell", input={"command": "ls"})]),
            Message.tool("c1", [TextBlock(text="a.txt"), IMAGE], is_error=True),
        ),
    )
    told = told_in_text(request, USUAL)
    assert not needs_text(told)
    assert (told.tools, told.tool_choice, told.parallel_tool_calls) == ((), None, None)
    assert [message.role for message in told.messages] == ["system", "user", "assistant", "user"]
    assert told.messages[0].text.endswith("\n\nBe brief.")
    assert read_calls(told.messages[2].text) == ("Yes.", [TextCall("shell", {"command": "ls"})])
    result = told.messages[3]
    assert json.loads(result.text.removeprefix("<tool_result>\n").removesuffix("\n</tool_result>")) == {
        "tool_use_id": "c1",
        "content": "a.txt",
        "is_error": True,
    }
    assert isinstance(result.content[1], ImageBlock)


def test_a_choice_of_none_tells_no_tools_but_earlier_turns_are_text() -> None:
    messages = (Message.user("你好，请列出文件"), Message.tool("c", "r"))
    request = Request(model="m", tools=TOOLS, tool_choice=ToolChoice("none"), messages=messages)
    told = told_in_text(request, USUAL)
    assert [message.role for message in told.messages] == ["user", "user"]
    spoken = told_in_text(Request(model="m", tools=TOOLS, messages=request.messages[:1]), USUAL)
    assert "你可以使用工具" in spoken.messages[0].text


# ---- the manifest's declaration


@pytest.mark.parametrize(
    ("declared", "strategy"),
    [
        (ToolCalling(), "native"),
        (ToolCalling(text=USUAL), "native"),
        (ToolCalling(reliability="partial"), "native"),
        (ToolCalling(reliability="partial", text=USUAL), "hybrid"),
        (ToolCalling(reliability="unreliable", text=USUAL), "text"),
        (ToolCalling(reliability="unreliable"), "native"),
        (ToolCalling(native=False), "text"),
    ],
)
def test_the_declaration_decides_the_strategy(declared: ToolCalling, strategy: str) -> None:
    assert declared.strategy == strategy


def manifest(folder: Path, tool_calling: str) -> Path:
    path = folder / "acme.yaml"
    path.write_text(
        "id: acme\nprotocol_version: '2.0'\n"
        "endpoint: {base_url: 'https://acme.example/v1', chat: /chat/completions,\n"
        "  auth: {type: bearer, token_env: ACME_API_KEY}}\n"
        f"capabilities: {{required: [text, streaming], tool_calling: {tool_calling}}}\n"
        "error_classification: {by_http_status: {'429': rate_limited}}\n"
    )
    return path


class Server:
    """Answers with a text, streamed in single characters or whole, and keeps what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: WireRequest) -> Sequence[Step]:
        body = json.loads(request.body)
        self.bodies.append(body)
        text = self.texts[len(self.bodies) - 1]
        if body.get("stream"):
            return sse_reply([*(delta(char) for char in text), finish()], done="[DONE]")
        return json_reply(body_of(text))


def client(folder: Path, server: Server, tool_calling: str) -> Any:
    config = Config(transport=ScriptedTransport(server), environ={"ACME_API_KEY": "k"})
    return open_client("acme/m", manifests=manifest(folder, tool_calling), config=config)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_tells_tools_in_the_prompt_and_gives_calls_where_the_manifest_says_so(
    tmp_path: Path, streamed: bool
) -> None:
    server = Server(f"On it.\n{CALL}", "It is x.")
    async with client(tmp_path, server, "{native: {supported: false}, text_fallback: {prompt_level: L3}}") as ai:
        chat = ai.chat().system("Be brief.").user("Where?").tools(ToolDefinition("look", "Look at a place"))
        if streamed:
            async with chat.stream() as events:
                seen = [event async for event in events]
                reply = events.response()
            assert sum(isinstance(event, ToolCallStarted) for event in seen) == 1
        else:
            reply = await chat.execute()
        assert (reply.content, reply.finish_reason) == ("On it.", "tool_use")
        assert [(call.name, call.arguments) for call in reply.tool_calls] == [("look", {"at": "x"})]
        again = chat.messages(reply.message, Message.tool(reply.tool_calls[0].id, "x"))
        assert (await again.execute()).content == "It is x."
    first, second = server.bodies
    assert "tools" not in first
    assert "- look: Look at a place" in first["messages"][0]["content"]
    assert "Oslo" in first["messages"][0]["content"]
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    assert "<tool_call>" in json.dumps(second["messages"][2])
    assert "<tool_result>" in json.dumps(second["messages"][3])


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_hybrid_client_sends_tools_and_reads_text_as_well(tmp_path: Path, streamed: bool) -> None:
    server = Server("<look><at>x</at></look>")
    declared = "{native: {reliability: partial}, text_fallback: {known_dialects: [{tag: look, map_to: look}]}}"
    async with client(tmp_path, server, declared) as ai:
        chat = ai.chat().user("Where?").tools(ToolDefinition("look"))
        if streamed:
            async with chat.stream() as events:
                async for _ in events:
                    pass
                reply = events.response()
        else:
            reply = await chat.execute()
    assert [(call.name, call.arguments) for call in reply.tool_calls] == [("look", {"at": "x"})]
    assert server.bodies[0]["tools"]
    assert server.bodies[0]["messages"] == [{"role": "user", "content": "Where?"}]


async def test_markup_in_an_answer_is_text_where_nothing_is_declared_or_no_tool_is_offered(tmp_path: Path) -> None:
    async with client(tmp_path, Server(CALL), "{native: {supported: true}}") as ai:
        assert (await ai.chat().user("?").tools(ToolDefinition("look")).execute()).content == CALL
    async with client(tmp_path, Server(CALL), "{native: {supported: false}}") as ai:
        assert (await ai.chat().user("?").execute()).content == CALL
