"""Fallback chains, and answers that were cut and go on elsewhere. On a clock that jumps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import AiLibError, CallerError
from ai_lib_trio.resilience.backoff import Backoff
from ai_lib_trio.resilience.failover import MIN_OVERLAP, Trimmer
from ai_lib_trio.resilience.fallback import Step, falling_back
from ai_lib_trio.resilience.retry import Chance, RetryRules, retrying
from ai_lib_trio.service import Call, Outlet
from ai_lib_trio.types.events import (
    OpaqueBlock,
    PartialContentDelta,
    PartialToolCall,
    Rerouted,
    StreamEnd,
    ThinkingDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from ai_lib_trio.types.response import fold
from resilience_support import ENDING, Gathered, Goal, Script, answer, call_to, fault, refusal, text

Service = Callable[[Call, Outlet], Awaitable[None]]


def step(ref: str, service: Any, *, refuses: AiLibError | None = None, continues: bool = True) -> Step:
    async def enter(call: Call) -> Call:
        if refuses is not None:
            raise refuses
        return call.copy(target=Goal(ref))

    return Step(ref, enter, service, lambda call: continues)


async def test_the_next_target_is_asked_when_the_first_fails_in_a_way_that_it_may_not() -> None:
    first, second = Script([refusal()]), Script(answer("hi"))
    out, call = Gathered(), call_to()
    await falling_back([step("a/1", first), step("b/2", second)])(call, out)
    assert out.events[0] == Rerouted("a/1", "b/2", "E3002 provider")
    assert out.text == "hi"
    assert [entry.verdict for entry in call.log] == ["replaced", None]
    assert second.calls[0].target.ref == "b/2"


@pytest.mark.parametrize(("status", "code"), [(400, "E1001"), (404, "E1004"), (403, "E1003"), (409, "E4001")])
async def test_what_is_the_callers_own_mistake_falls_back_only_on_codes_that_the_caller_adds(
    status: int, code: str
) -> None:
    error = refusal(status, code)
    with pytest.raises(AiLibError) as caught:
        await falling_back([step("a/1", Script([error])), step("b/2", Script(answer("hi")))])(call_to(), Gathered())
    assert caught.value is error
    out = Gathered()
    steps = [step("a/1", Script([error])), step("b/2", Script(answer("hi")))]
    await falling_back(steps, on=frozenset({code}))(call_to(), out)
    assert out.text == "hi"


async def test_a_target_that_cannot_do_it_is_passed_over_and_the_call_says_so() -> None:
    never = Script(answer("no"))
    call, out = call_to(), Gathered()
    lacks = CallerError("no vision", kind="capability")
    steps = [step("a/1", Script([refusal()])), step("b/2", never, refuses=lacks), step("c/3", Script(answer("hi")))]
    await falling_back(steps)(call, out)
    assert (out.text, never.began) == ("hi", [])
    assert [(one.model, one.reason) for one in call.notes.skipped] == [("b/2", "no vision")]
    assert out.events[0] == Rerouted("a/1", "c/3", "E3002 provider")


async def test_a_target_that_is_not_set_up_hides_neither_a_failure_nor_the_next_target() -> None:
    wrong = CallerError("it has no base URL", kind="bad_argument")
    call, out = call_to(), Gathered()
    a, b = step("a/1", Script([refusal()])), step("b/2", Script([]), refuses=wrong)
    await falling_back([a, b, step("c/3", Script(answer("hi")))])(call, out)
    assert out.text == "hi"
    assert [(one.model, one.reason) for one in call.notes.skipped] == [("b/2", "it has no base URL")]
    with pytest.raises(AiLibError) as caught:
        await falling_back([a, b])(call_to(), Gathered())
    assert caught.value.status == 503
    with pytest.raises(CallerError, match="no base URL"):  # where nothing failed yet it is told
        await falling_back([b, a])(call_to(), Gathered())


async def test_where_every_target_is_passed_over_the_first_reason_comes_out() -> None:
    lacks = CallerError("no vision", kind="capability")
    with pytest.raises(CallerError, match="no vision"):
        await falling_back([step("a/1", Script([]), refuses=lacks)])(call_to(), Gathered())


async def test_where_all_fail_the_last_error_comes_out_and_every_attempt_is_in_the_log() -> None:
    call = call_to()
    with pytest.raises(AiLibError) as caught:
        await falling_back([step("a/1", Script([refusal(503)])), step("b/2", Script([refusal(529)]))])(call, Gathered())
    assert caught.value.status == 529
    assert [entry.verdict for entry in call.log] == ["replaced", None]


async def test_retries_come_before_the_next_target_and_a_long_hint_goes_there_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    rules = RetryRules(max_attempts=3, backoff=Backoff(jitter="none"))
    busy = Script([refusal()], [refusal()], [refusal(429, "E2001", retry_after_s=3600.0)])
    last = Script(answer("hi"))
    steps = [step("a/1", retrying(busy, rules, chance=Chance(0))), step("b/2", retrying(last, rules, chance=Chance(0)))]
    await falling_back(steps)(call_to(), Gathered())
    assert (busy.began, last.began) == ([0.0, 1.0, 3.0], [3.0])


# ---- after output


def cut(*pieces: Any) -> list[Any]:
    return [*(text(piece) if isinstance(piece, str) else piece for piece in pieces), fault("reset")]


async def test_by_default_an_answer_that_was_cut_is_an_error() -> None:
    out = Gathered()
    with pytest.raises(AiLibError, match="reset"):
        await falling_back([step("a/1", Script(cut("he"))), step("b/2", Script(answer("hello")))])(call_to(), out)
    assert out.text == "he"


async def test_restart_voids_what_came_and_gives_the_answer_from_the_start() -> None:
    out = Gathered()
    steps = [step("a/1", Script(cut("he"))), step("b/2", Script(answer("hello")))]
    await falling_back(steps, mid_stream="restart")(call_to(), out)
    assert out.events[1] == Rerouted("a/1", "b/2", "E3001 reset", discard=True)
    assert fold(out.events).content == "hello"


async def test_restart_twice_still_gives_one_answer() -> None:
    out = Gathered()
    steps = [step("a/1", Script(cut("he"))), step("b/2", Script(cut("hel"))), step("c/3", Script(answer("hello")))]
    await falling_back(steps, mid_stream="restart")(call_to(), out)
    assert fold(out.events).content == "hello"
    assert sum(isinstance(event, Rerouted) for event in out.events) == 2


class Continuer:
    """A model that goes on from the prefix it is given; with `echo` it says the prefix again first."""

    def __init__(self, whole: str, *, piece: int, echo: bool = False) -> None:
        self.whole = whole
        self.piece = piece
        self.echo = echo

    async def __call__(self, call: Call, outlet: Outlet) -> None:
        messages = call.request.messages
        prefix = messages[-1].text if messages and messages[-1].role == "assistant" else ""
        assert self.whole.startswith(prefix)
        rest = self.whole if self.echo else self.whole[len(prefix) :]
        pieces = [rest[at : at + self.piece] for at in range(0, len(rest), self.piece)]
        await Script([*(text(piece) for piece in pieces), list(ENDING)])(call, outlet)


WORDS = "The sky is blue because air scatters the short waves of light far more than the long ones. 日本の空も青い。"


@pytest.mark.parametrize("at", range(len(WORDS) + 1))
async def test_an_answer_cut_anywhere_goes_on_without_a_missing_or_repeated_character(at: int) -> None:
    for piece in (1, 7):
        out = Gathered()
        pieces = [WORDS[:at][i : i + 5] for i in range(0, at, 5)]
        steps = [step("a/1", Script(cut(*pieces))), step("b/2", Continuer(WORDS, piece=piece))]
        await falling_back(steps, mid_stream="continue")(call_to(), out)
        assert out.text == WORDS
        assert fold(out.events).content == WORDS
        assert not any(event.discard for event in out.events if isinstance(event, Rerouted))


@pytest.mark.parametrize("at", range(MIN_OVERLAP, len(WORDS) + 1))
async def test_a_prefix_that_is_said_again_is_trimmed(at: int) -> None:
    out = Gathered()
    steps = [step("a/1", Script(cut(WORDS[:at]))), step("b/2", Continuer(WORDS, piece=3, echo=True))]
    await falling_back(steps, mid_stream="continue")(call_to(), out)
    assert out.text == WORDS


@settings(max_examples=150, deadline=None)
@given(st.text("abc \n", max_size=120), st.text("abc \n", max_size=60), st.integers(1, 9))
def test_a_trimmer_never_loses_what_is_new_nor_takes_more_than_a_repetition(before: str, new: str, piece: int) -> None:
    trimmer = Trimmer(before)
    out = "".join(trimmer.feed(new[at : at + piece]) for at in range(0, len(new), piece)) + trimmer.end()
    assert new.endswith(out)
    trimmed = new[: len(new) - len(out)]
    space = before[len(before.rstrip()) :]
    assert space.startswith(trimmed) or (before.endswith(trimmed) and len(trimmed) >= MIN_OVERLAP)


async def test_a_target_that_cannot_go_on_is_passed_over_for_one_that_can() -> None:
    out, call = Gathered(), call_to()
    never = Script(answer("no"))
    steps = [
        step("a/1", Script(cut("he"))),
        step("b/2", never, continues=False),
        step("c/3", Continuer("hello", piece=9)),
    ]
    await falling_back(steps, mid_stream="continue")(call, out)
    assert (out.text, never.began) == ("hello", [])
    assert "cannot go on" in call.notes.skipped[0].reason


async def test_before_output_any_target_may_answer_under_continue() -> None:
    out = Gathered()
    steps = [step("a/1", Script([refusal()])), step("b/2", Script(answer("hi")), continues=False)]
    await falling_back(steps, mid_stream="continue")(call_to(), out)
    assert out.text == "hi"


STARTED = ToolCallStarted("t1", "look", 0, block_index=1)
ARGUMENTS = PartialToolCall('{"q": 1}', 0, "t1", block_index=1)
ENDED = ToolCallEnded("t1", 0, block_index=1)


async def test_a_tool_call_that_was_not_whole_is_never_delivered() -> None:
    out = Gathered()
    steps = [step("a/1", Script(cut("so: ", STARTED, ARGUMENTS))), step("b/2", Continuer("so: done", piece=9))]
    await falling_back(steps, mid_stream="continue")(call_to(), out)
    assert not any(isinstance(event, ToolCallStarted | PartialToolCall) for event in out.events)
    assert fold(out.events).content == "so: done"


async def test_whole_tool_calls_are_kept_and_are_the_answer() -> None:
    out = Gathered()
    other = ToolCallStarted("t2", "look", 1, block_index=2)
    never = Script(answer("no"))
    steps = [step("a/1", Script(cut("so: ", STARTED, ARGUMENTS, ENDED, other))), step("b/2", never)]
    await falling_back(steps, mid_stream="continue")(call_to(), out)
    reply = fold(out.events)
    assert [call.id for call in reply.tool_calls] == ["t1"]
    assert (reply.finish_reason, reply.content, never.began) == ("tool_use", "so: ", [])
    assert isinstance(out.events[-1], StreamEnd)


async def test_what_goes_on_is_numbered_after_what_was_delivered() -> None:
    out = Gathered()
    second = Script([ThinkingDelta("hm", 0), text(" there"), STARTED, ARGUMENTS, ENDED, list(ENDING)])
    steps = [step("a/1", Script(cut(ThinkingDelta("so", 0), text("hi")))), step("b/2", second)]
    await falling_back(steps, mid_stream="continue")(call_to(), out)
    reply = fold(out.events)
    assert [type(block).__name__ for block in reply.blocks] == [
        "ThinkingBlock",
        "TextBlock",
        "ThinkingBlock",
        "TextBlock",
        "ToolUseBlock",
    ]
    assert reply.content == "hi there"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, len(WORDS)), max_size=4))
def test_however_often_it_is_cut_the_text_is_the_script(cuts: list[int]) -> None:
    async def main() -> None:
        out = Gathered()
        steps = []
        for number, at in enumerate(sorted(cuts)):

            async def partly(call: Call, outlet: Outlet, at: int = at) -> None:
                messages = call.request.messages
                prefix = messages[-1].text if messages else ""
                await Script(cut(WORDS[len(prefix) : max(at, len(prefix))]))(call, outlet)

            steps.append(step(f"a/{number}", partly))
        steps.append(step("z/9", Continuer(WORDS, piece=4)))
        await falling_back(steps, mid_stream="continue")(call_to(), out)
        assert out.text == WORDS

    trio.run(main)


async def test_what_only_the_first_wire_takes_back_is_not_in_the_message() -> None:
    out = Gathered()
    sealed = [
        ThinkingDelta("so", 0),
        OpaqueBlock(0, "signature", "c2Vh", of="thinking"),
        OpaqueBlock(1, "raw", {"a": 1}),
    ]
    steps = [step("a/1", Script(cut(*sealed, PartialContentDelta("hi", 2)))), step("b/2", Script(answer(" there")))]
    await falling_back(steps, mid_stream="continue")(call_to(), out)
    blocks = fold(out.events).blocks
    assert [type(block).__name__ for block in blocks] == ["ThinkingBlock", "TextBlock", "TextBlock"]
    assert blocks[0].signature is None  # type: ignore[union-attr]
