"""An answer that was cut goes on from another model, through wires that mark its beginning; on the simulator."""

from __future__ import annotations

from typing import Any

import pytest

from ai_lib_trio import AiLibError, Config, Message, Rerouted, open_client
from ai_lib_trio.resilience.executor import Resilience
from ai_lib_trio.simulator import Cut, Script, Simulator, Status, Text, Usage, open_simulator
from ai_lib_trio.testing import Quiescence
from ai_lib_trio.types.message import ToolUseBlock
from simulator_support import catalog

FIRST = "openai/gpt-4o"
STORY = "The sky is blue: air scatters short waves more than long ones, 日本の空も青い, and evening is red for it."
# A model that its provider documents to go on, and the field that marks the answer on that wire (None: none).
GOING_ON = [
    ("mistral/mistral-large-latest", "prefix"),
    ("moonshot/kimi-k2.5", "partial"),
    ("qwen/qwen-plus", "partial"),
    ("groq/llama-3.3-70b-versatile", None),
    ("anthropic/claude-sonnet-4-5", None),
]


def client_on(sim: Simulator, **own: Any) -> Any:
    providers = {model.partition("/")[0] for model, _ in [(FIRST, None), *GOING_ON]}
    config = Config(
        environ={},
        api_keys={provider: f"test-key-of-{provider}" for provider in providers},
        base_urls={provider: sim.base_url(provider) for provider in providers},
        resilience=Resilience(max_attempts=1, breaker="off", **own),
    )
    return open_client(FIRST, config=config)


def cut_after(frames: int) -> Script:
    return Script(steps=[Text(STORY)], faults=[Cut(after_frames=frames, how="reset")])


def rest_of(entry: Any) -> Script:
    """What a model says that goes on from the answer at the end of the request."""
    last = entry.request.messages[-1]
    said = last.text if last.role == "assistant" else ""
    assert STORY.startswith(said)
    return Script(steps=[Text(STORY[len(said) :]), Usage(input_tokens=20, output_tokens=10)])


@pytest.mark.parametrize(("model", "field"), GOING_ON)
async def test_an_answer_goes_on_through_a_wire_that_marks_it(
    quiescence: Quiescence, model: str, field: str | None
) -> None:
    async with open_simulator(catalog()) as sim:
        sim.script(cut_after(9), provider="openai")
        sim.script(rest_of, provider=model.partition("/")[0])
        async with client_on(sim) as client:
            chat = client.chat().system("Be brief.").user("Why?").assistant("Why what?").user("The sky.")
            async with chat.fallback(model, mid_stream="continue").stream() as stream:
                events = [event async for event in stream]
            assert stream.response().content == STORY
            assert [event.to_model for event in events if isinstance(event, Rerouted)] == [model]
            assert [one.verdict for one in stream.stats.attempts] == ["replaced", "won"]
        second = sim.entries[-1]
        assert second.refused is None
        assert second.request is not None
        said = second.request.messages[-1].text
        assert 0 < len(said) < len(STORY)
        if field is not None:
            messages = second.body["messages"]
            assert [message.get(field) for message in messages] == [None] * (len(messages) - 1) + [True]


async def test_only_an_answer_of_text_at_the_very_end_is_marked(quiescence: Quiescence) -> None:
    async with open_simulator(catalog()) as sim, client_on(sim) as client:
        chat = client.chat().model("mistral/mistral-large-latest")
        await chat.user("a").assistant("b").user("c").execute()
        call = Message("assistant", (ToolUseBlock(id="call_aaaa", name="f", input={}),))
        with pytest.raises(AiLibError, match="no result for the tool call"):
            await chat.user("a").messages(call).execute()
        await chat.user("a").assistant("b").execute()
    marks = [[message.get("prefix") for message in entry.body["messages"]] for entry in sim.entries]
    assert marks == [[None, None, None], [None, None], [None, True]]


async def test_a_model_that_refuses_the_beginning_of_an_answer_is_passed_over(quiescence: Quiescence) -> None:
    """Its provider's page was wrong, or has changed: the caller hears of the cut, or the next model goes on."""
    async with open_simulator(catalog()) as sim:
        for others in ([], ["moonshot/kimi-k2.5"]):
            sim.script(cut_after(9), provider="openai")
            sim.script(Status(400), provider="mistral")
            sim.script(rest_of, provider="moonshot")
            async with client_on(sim) as client:
                chat = client.chat().user("Why?").fallback(GOING_ON[0][0], *others, mid_stream="continue")
                stream = chat.stream()
                try:
                    async with stream:
                        async for _ in stream:
                            pass
                except AiLibError as error:
                    seen: Any = error.kind
                else:
                    seen = stream.response().content
                assert seen == (STORY if others else "reset")
                stats = stream.stats
                assert "did not take the beginning" in stats.skipped[0].reason
                assert len(stats.attempts) == 2 + len(others)


def test_models_are_declared_to_go_on_where_their_vendors_say_so() -> None:
    for model, _ in GOING_ON:
        assert _goes_on(model), model
    for model in ("anthropic/claude-opus-4-6", "anthropic/claude-sonnet-5-5", "openai/gpt-4o", "qwen/qwq-plus"):
        assert not _goes_on(model), model


def _goes_on(model: str) -> bool:
    ref = catalog().resolve(model)
    declared = ref.facts is not None and "assistant_prefill" in (ref.facts.capabilities or ())
    return declared or bool(catalog().provider(ref.provider_id).capabilities.feature_flags.get("assistant_prefill"))
