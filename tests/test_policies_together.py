"""Two policies at once, and what lies between them: retries within a chain that goes on, races that are left, keys
that are not there. On a scripted wire and a clock that jumps."""

from __future__ import annotations

from typing import Any

from trio.testing import MockClock

from ai_lib_trio import Rerouted
from ai_lib_trio.errors import TransportError
from ai_lib_trio.resilience.executor import Resilience
from ai_lib_trio.testing import Data, Fail, Head, Quiescence, ScriptedTransport, Step
from client_support import OTHER_MODEL, SSE, delta, frame, streamed
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
