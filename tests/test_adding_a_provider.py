"""A provider with a wire format that nobody has seen, added by YAML alone: the one of docs/adding-a-provider.md, with
odd names, JSON lines, calls as a map, system texts in a list of their own and errors of its own shape."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ai_lib_trio import AiLibError, Config, Message, ToolDefinition, open_client
from ai_lib_trio.cli import main
from ai_lib_trio.conformance.run import run_suite
from ai_lib_trio.errors import CallerError
from ai_lib_trio.pipeline import compile_decoder
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.simulator import Error, Finish, Script, Status, Text, Thinking, ToolCall, Usage, open_simulator
from ai_lib_trio.testing import random_splits
from ai_lib_trio.types.events import PartialContentDelta, StreamError, ThinkingDelta
from ai_lib_trio.types.message import Base64Source, ImageBlock
from ai_lib_trio.types.request import Request
from ai_lib_trio.types.response import ChatResponse, fold
from ai_lib_trio.wire.encode import compile_encoder

PAGE = Path(__file__).resolve().parents[1] / "docs" / "adding-a-provider.md"
BLOCKS = {
    block.splitlines()[0].removeprefix("# "): block
    for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
}
CASE = yaml.load(BLOCKS["conformance/providers/pigeon.yaml"], Loader=yaml.CSafeLoader)
MODEL = "pigeon/homing-2"
WEATHER = ToolDefinition("get_weather", "The weather in a city", {"type": "object"})
WHOLE = Script(
    steps=[
        Thinking("Zwei Städte, 日本."),
        Text("It is sunny in 東京, and warm."),
        ToolCall("get_weather", {"city": "Paris"}, id="call_a"),
        ToolCall("get_weather", {"city": "Rome"}),
        Usage(input_tokens=40, output_tokens=12),
        Finish("tool_use"),
    ]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in BLOCKS.items():
        if not name.startswith("conformance"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def test_the_pages_manifests_are_valid_in_strict_mode(folder: Path) -> None:
    catalog = Catalog.open(folder, environ={}, strict=True)
    for provider in ("acme", "pigeon"):
        manifest = catalog.provider(provider)
        family = manifest.family()
        compile_encoder(family.encode, family.where.at("encode"), dialect=family.dialect)
        compile_decoder(family.decode, family.where.at("decode"))


def test_the_pages_case_passes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "conformance" / "providers").mkdir(parents=True)
    (tmp_path / "conformance" / "providers" / "pigeon.yaml").write_text(BLOCKS["conformance/providers/pigeon.yaml"])
    report = run_suite(folder / "conformance", tree=folder)
    assert [(result.id, result.status, result.differences) for result in report.results] == [("pigeon", "passed", ())]


def test_the_pages_reply_says_whose_it_is(folder: Path) -> None:
    family = Catalog.open(folder, environ={}).provider("pigeon").family()
    body = CASE["reply"]["body"].encode()
    program = compile_decoder(family.decode, family.where.at("decode"))
    for pieces in [[body], *random_splits(body, seed=1)]:
        for backend in ("view", "generic"):
            pipeline = program.open(content_type=CASE["reply"]["content_type"], backend=backend)
            response = fold([event for piece in pieces for event in pipeline.feed(piece)] + pipeline.finish())
            assert (response.response_id, response.model) == ("r1", "homing-2")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "of: {text: $b.text}",
            "off: {text: $b.text}",
            "encode.body.directives.do.off: expected an argument of `$case`",
        ),
        ("emit: Metadata", "emit: Meta", "decode.stream.open.emit: expected a fact"),
        ("streamed: $.body.live ==", "streamed: $.body.live =", "simulate.streamed: expected '&&', '||' or the end"),
        ("results: paired", "results: pared", "simulate.results: expected `paired`"),
        ("max_tokens: $.body", "max_token: $.body", "simulate.request.max_token: expected a field of a request"),
        ("  frames:", "  frame:", "simulate.frame: expected one of"),
    ],
)
def test_a_mistake_anywhere_in_the_pages_dialect_is_told_before_anything_is_sent(
    folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    file = folder / "dialects" / "pigeon_talk.yaml"
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), "utf-8")
    assert main(["manifests", "validate", str(folder)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"pigeon_talk\.yaml:\d+ at " + re.escape(said), line), line


def test_a_stream_that_ends_without_its_last_line_was_cut(folder: Path) -> None:
    family = Catalog.open(folder, environ={}).provider("pigeon").family()
    program = compile_decoder(family.decode, family.where.at("decode"))
    lines = CASE["reply"]["body"].encode().splitlines(keepends=True)
    for kept in range(len(lines)):
        pipeline = program.open(content_type="application/x-ndjson")
        fault = [*pipeline.feed(b"".join(lines[:kept])), *pipeline.finish()][-1]
        assert isinstance(fault, StreamError)
        assert fault.kind == "truncated"


def test_what_has_no_place_is_refused_by_name(folder: Path) -> None:
    family = Catalog.open(folder, environ={}).provider("pigeon").family()
    encoder = compile_encoder(family.encode, family.where.at("encode"), dialect=family.dialect)
    picture = Message("user", (ImageBlock(Base64Source("image/png", "iVBORw0KGgo=")),))
    with pytest.raises(CallerError, match="image block in a user message has no place in the dialect pigeon_talk"):
        encoder.encode(Request(model="m", messages=(picture,)))
    with pytest.raises(CallerError, match="`seed` has no place"):
        encoder.encode(Request(model="m", messages=(Message.user("Hi"),), seed=1))


async def ask(client: Any, messages: list[Message], *, stream: bool) -> ChatResponse:
    chat = client.chat(*messages).tools(WEATHER).temperature(0.5).max_tokens(99)
    if not stream:
        return await chat.execute()  # type: ignore[no-any-return]
    async with chat.stream() as events:
        seen = [event async for event in events]
    assert [event for event in seen if isinstance(event, PartialContentDelta)]
    assert [event for event in seen if isinstance(event, ThinkingDelta)]
    return events.response()  # type: ignore[no-any-return]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_conversation_with_tools_through_the_client_and_the_simulator(folder: Path, stream: bool) -> None:
    catalog = Catalog.open(folder, environ={})
    messages = [Message.system("Be brief."), Message.user("Weather in Paris and Rome?")]
    async with open_simulator(catalog, WHOLE) as simulator:
        config = Config(base_urls={"pigeon": simulator.base_url("pigeon")}, api_keys={"pigeon": "pass"}, environ={})
        async with open_client(MODEL, manifests=folder, config=config) as client:
            first = await ask(client, messages, stream=stream)
            assert first.content == "It is sunny in 東京, and warm."
            assert first.thinking == "Zwei Städte, 日本."
            assert [(call.name, call.arguments) for call in first.tool_calls] == [
                ("get_weather", {"city": "Paris"}),
                ("get_weather", {"city": "Rome"}),
            ]
            assert (first.finish_reason, first.usage.input_tokens, first.usage.output_tokens) == ("tool_use", 40, 12)
            results = [Message.tool(call.id, f"{call.arguments['city']}: 15") for call in first.tool_calls]
            await ask(client, [*messages, first.message, *results], stream=stream)
        asked = simulator.entries
    assert [entry.dialect for entry in asked] == ["pigeon_talk"] * 2
    assert asked[0].path.endswith("/talk/homing-2")
    lifted = asked[1].request
    assert lifted is not None
    assert [message.role for message in lifted.messages] == ["system", "user", "assistant", "tool", "tool"]
    assert (lifted.temperature, lifted.max_tokens, lifted.stream) == (0.5, 99, stream)
    assert [tool.name for tool in lifted.tools] == ["get_weather"]


@pytest.mark.parametrize("stream", [True, False])
async def test_its_own_errors_are_the_standard_ones(folder: Path, stream: bool) -> None:
    catalog = Catalog.open(folder, environ={})
    answers = {
        "E2001": Status(429, "slow down, bird"),
        "E1002": Status(403, "who are you?"),
        "E3002": Script(steps=[Error("the pigeon sleeps", code="tired", status=503)]),
    }
    for code, answer in answers.items():
        async with open_simulator(catalog, answer) as simulator:
            config = Config(
                base_urls={"pigeon": simulator.base_url("pigeon")}, api_keys={"pigeon": "a-pass"}, environ={}
            )
            async with open_client(MODEL, manifests=folder, config=config) as client:
                chat = client.chat().user("Hi").retry(max_attempts=1)
                with pytest.raises(AiLibError) as caught:
                    if stream:
                        async with chat.stream() as events:
                            async for _ in events:
                                pass
                    else:
                        await chat.execute()
        assert caught.value.code == code
        said = answer.message if isinstance(answer, Status) else "the pigeon sleeps"
        assert caught.value.provider_message == said  # type: ignore[attr-defined]
