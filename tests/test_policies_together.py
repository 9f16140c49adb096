"""Two policies at once, and what lies between them: retries within a chain that goes on, races that are left, keys
that are not there. On a scripted wire and a clock that jumps."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import AiLibError, Rerouted
from ai_lib_trio.errors import TransportError
from ai_lib_trio.resilience.executor import Resilience
from ai_lib_trio.testing import Data, Fail, Head, Quiescence, ScriptedTransport, Sending, Stall, Step
from client_support import OTHER_MODEL, SSE, Recorder, delta, frame, refused, streamed
from test_resilience_client import Turns, ask, by_model, client_on

AT_ONCE = Resilience(jitter="none", min_delay_s=0.0, max_delay_s=0.0)


def cut(*texts: str) -> list[Step]:
    """A streamed reply that is cut after these pieces."""
    return [Head(200, SSE), *(Data(frame(delta(text))) for text in texts), Fail(TransportError("cut", kind="reset"))]


async def test_a_target_that_goes_on_and_is_retried_after_output_goes_on_from_the_same_place(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    turns = Turns(cut("ld", " and"), cut("ld "), streamed("ld ", "and all"))
    transport = ScriptedTransport(by_model(a_model=cut("Hello ", "wor"), another_model=turns))
    settings = Resilience(jitter="none", min_delay_s=0.0, max_delay_s=0.0, can_continue=(OTHER_MODEL,))
    async with client_on(transport, resilience=settings) as client:
        chat = client.chat().user("x").retry(partial=True, max_attempts=3).fallback(OTHER_MODEL, mid_stream="continue")
        text, events, _ = await ask(chat, streams=True)
    assert text == "Hello world and all"
    voided = [event.discard for event in events if isinstance(event, Rerouted)]
    assert voided == [True, True, False, True, True]
    assert _shown(events) == text


def _shown(events: list[Any]) -> str:
    """The text as a reader who obeys the events has it on the screen."""
    text = ""
    for event in events:
        if isinstance(event, Rerouted) and event.discard:
            text = ""
        text += getattr(event, "content", "")
    return text


# ---- races


@pytest.mark.parametrize("dead", [False, True])
async def test_a_race_whose_members_answer_and_satisfy_nobody_says_so(
    quiescence: Quiescence, autojump_clock: MockClock, dead: bool
) -> None:
    one = refused(500) if dead else streamed("one")
    transport = ScriptedTransport(by_model(one=one, two=streamed("two")))
    async with client_on(transport, resilience=Resilience(max_attempts=1)) as client:
        models = ["openai/one", "openai/two"]
        race = client.race(client.chat().user("x"), models=models, until=lambda reply: reply.content == "three")
        with pytest.raises(AiLibError) as caught:
            await race.execute()
    assert (caught.value.kind, caught.value.code) == ("no_quorum", "E4001")
    assert [one.outcome for one in race.members] == ["failed" if dead else "lost", "lost"]
    assert race.members[1].billed == "reported"


@pytest.mark.parametrize("way", ["scope", "block"])
async def test_a_race_that_is_left_was_cancelled_and_has_not_failed(
    quiescence: Quiescence, autojump_clock: MockClock, way: str
) -> None:
    transport, told = ScriptedTransport([Sending(), Stall()]), Recorder()
    async with client_on(transport, sinks=(told,)) as client:
        race = client.race(client.chat().user("x"), models=["openai/one", "openai/two"])
        if way == "scope":
            with trio.move_on_after(2):
                await race.execute()
        else:
            async with race:
                await wait_all_tasks_blocked()
        ended = [record for record in told.records if type(record).__name__ == "CallEnded"]
        assert [(record.outcome, record.kind) for record in ended] == [("cancelled", None)]
        assert client.stats()["cancelled"] == 1
