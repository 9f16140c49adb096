"""Capability gates: what is declared decides, the model before its provider; nothing is sent where it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ai_lib_trio import Config, ToolDefinition, open_client
from ai_lib_trio.errors import CallerError
from ai_lib_trio.protocol.gates import METHODS, Standing, mcp_integration, need_operation, standing_of
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import Manifest
from ai_lib_trio.protocol.registry import Modalities, ModelFacts
from ai_lib_trio.resilience.preflight import needs_of
from ai_lib_trio.testing import ScriptedTransport
from ai_lib_trio.types.message import Base64Source, ImageBlock, Message, TextBlock, ToolResultBlock
from ai_lib_trio.types.request import Request, ResponseFormat
from client_support import echo

HEAD = """
id: acme
protocol_version: "2.0"
endpoint:
  base_url: https://acme.example/v1
  chat: /chat/completions
  auth: {type: bearer, token_env: ACME_API_KEY}
error_classification: {by_http_status: {"429": rate_limited}}
"""
PICTURE = [TextBlock(text="what is this?"), ImageBlock(source=Base64Source("image/png", "aGk="))]


def write(folder: Path, capabilities: str, more: str = "") -> Path:
    path = folder / "acme.yaml"
    path.write_text(f"{HEAD}capabilities: {capabilities}\n{more}")
    return path


def manifest(folder: Path, capabilities: str, more: str = "") -> Manifest:
    return Catalog.open(write(folder, capabilities, more), environ={}).provider("acme")


def facts(**fields: Any) -> ModelFacts:
    return ModelFacts(key="m", provider="acme", model_id="m", display_name="m", **fields)


V2 = "{required: [text, streaming], optional: [vision], feature_flags: {extended_thinking: true, json_mode: false}}"
V1 = "{streaming: true, tools: false, vision: true}"


@pytest.mark.parametrize(
    ("capabilities", "model", "capability", "standing"),
    [
        # the model's own facts first
        (V2, facts(capabilities=frozenset({"tools"})), "tools", Standing("declared", "model")),
        (V2, facts(capabilities=frozenset({"function_calling"})), "tools", Standing("declared", "model")),
        (V2, facts(absent=frozenset({"vision"})), "vision", Standing("absent", "model")),
        (V1, facts(capabilities=frozenset({"tools"})), "tools", Standing("declared", "model")),
        (V2, facts(modalities=Modalities(("text", "audio"))), "audio", Standing("declared", "model")),
        (V2, facts(modalities=Modalities(("text",))), "vision", Standing("declared", "provider")),
        # then the provider's
        (V2, facts(capabilities=frozenset({"tools"})), "vision", Standing("declared", "provider")),
        (V2, None, "vision", Standing("declared", "provider")),
        (V2, None, "reasoning", Standing("declared", "provider")),  # by a flag
        (V1, None, "tools", Standing("absent", "provider")),
        (V1, facts(), "tools", Standing("absent", "provider")),
        ("[chat, streaming]", None, "text", Standing("declared", "provider")),
        ("[chat, mcp_client]", None, "mcp", Standing("declared", "provider")),
        # others are declared, this is not
        (V2, facts(), "tools", Standing("undeclared")),
        (V2, None, "tools", Standing("undeclared")),
        (V2, None, "json_mode", Standing("undeclared")),  # a flag that is false says nothing
        ("[]", facts(capabilities=frozenset({"text"})), "tools", Standing("undeclared")),
        # nobody says anything
        ("[]", None, "tools", Standing("unknown")),
        ("[]", facts(), "tools", Standing("unknown")),
    ],
)
def test_what_is_declared_is_found_at_the_model_then_at_its_provider(
    tmp_path: Path, capabilities: str, model: ModelFacts | None, capability: str, standing: Standing
) -> None:
    assert standing_of(capability, manifest(tmp_path, capabilities), model) == standing


def test_tools_that_are_told_in_the_prompt_are_there(tmp_path: Path) -> None:
    declared = "{required: [text], tool_calling: {native: {supported: false}}}"
    assert standing_of("tools", manifest(tmp_path, declared)) == Standing("declared", "provider")


@pytest.mark.parametrize("method", METHODS)
def test_an_operation_beyond_chat_needs_its_declaration(tmp_path: Path, method: str) -> None:
    for capabilities in (
        "[]",
        "[chat]",
        "{video: false, chat: true, mcp: false, computer_use: false, reasoning: false}",
    ):
        with pytest.raises(CallerError, match=METHODS[method]) as caught:
            need_operation(method, manifest(tmp_path, capabilities))
        assert (caught.value.code, caught.value.kind) == ("E1005", "capability")
    need_operation(method, manifest(tmp_path, f"[{METHODS[method]}]"))
    need_operation(METHODS[method], manifest(tmp_path, "[]"), facts(capabilities=frozenset({METHODS[method]})))
    with pytest.raises(CallerError, match="the model is declared to have no"):
        need_operation(method, manifest(tmp_path, f"[{METHODS[method]}]"), facts(absent=frozenset({METHODS[method]})))


def test_mcp_tools_go_by_operations_of_the_provider_or_as_tools(tmp_path: Path) -> None:
    assert mcp_integration(manifest(tmp_path, "[chat]")) == "not_supported"
    assert mcp_integration(manifest(tmp_path, "[chat, mcp_client]")) == "tool_bridge"
    own = "endpoints: {chat: {path: /chat/completions}, mcp_call_tool: {path: /mcp/call}}\n"
    assert mcp_integration(manifest(tmp_path, "[chat, mcp]", own)) == "native_api"


def test_a_request_needs_what_is_in_it_and_no_more() -> None:
    assert needs_of(Request(model="m", messages=(Message.user("hi"),))) == {}
    assert needs_of(Request(model="m", reasoning_effort="none", thinking={"type": "disabled"})) == {}
    asked = Request(
        model="m",
        stream=True,
        tools=(ToolDefinition("look"),),
        response_format=ResponseFormat("json_schema", schema={}),
        reasoning_effort="low",
        messages=(Message("tool", (ToolResultBlock(tool_use_id="c", content=(PICTURE[1],)),)),),
    )
    assert set(needs_of(asked)) == {"streaming", "tools", "structured_output", "reasoning", "vision"}
    assert set(needs_of(Request(model="m", thinking={"type": "enabled"}))) == {"reasoning"}


REGISTERED = """
metadata:
  models:
    known: {model_capabilities: {tool_call: false}}
    seeing: {modalities: {input: [text, image]}}
"""


@pytest.mark.parametrize(
    ("model", "gates", "outcome"),
    [
        ("known", "enforce", "refused"),
        ("known", "warn", "warned"),
        ("known", "off", "sent"),
        ("nobody-registered", "enforce", "warned"),
        ("nobody-registered", "off", "sent"),
    ],
)
async def test_a_gate_refuses_warns_or_stays_out_of_the_way(
    tmp_path: Path, model: str, gates: Any, outcome: str
) -> None:
    path = write(tmp_path, "{required: [text, streaming]}", REGISTERED)
    transport = ScriptedTransport(echo)
    config = Config(transport=transport, environ={"ACME_API_KEY": "k"}, gates=gates)
    async with open_client(f"acme/{model}", manifests=path, config=config) as client:
        chat = client.chat().user("hi").tools(ToolDefinition("look"))
        if outcome == "refused":
            with pytest.raises(
                CallerError, match="tools are offered, and the model is declared to have no tools"
            ) as error:
                await chat.execute()
            assert (error.value.code, error.value.kind) == ("E1005", "capability")
            assert transport.asked == []
            return
        _, stats = await chat.execute_with_stats()
        assert bool(stats.warnings) == (outcome == "warned")
        assert all("tools" in warning for warning in stats.warnings)
        assert [tool["function"]["name"] for tool in transport.asked[0].body["tools"]] == ["look"]


async def test_a_models_own_facts_outweigh_its_providers_silence(tmp_path: Path) -> None:
    path = write(tmp_path, "{required: [text, streaming]}", REGISTERED)
    config = Config(transport=ScriptedTransport(echo), environ={"ACME_API_KEY": "k"})
    async with open_client("acme/seeing", manifests=path, config=config) as client:
        _, stats = await client.chat().user(PICTURE).execute_with_stats()
        assert stats.warnings == ()
        with pytest.raises(CallerError, match="a message has an image, and neither the model nor its provider"):
            await client.chat().model("acme/known").user(PICTURE).execute()
