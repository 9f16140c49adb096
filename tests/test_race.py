"""Race, hedge and quorum: who wins, when losers are closed, and that nothing is left. On a clock that jumps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
import trio.testing

from ai_lib_trio.errors import AiLibError, CallerError
from ai_lib_trio.resilience.contest import Contest, Member
from ai_lib_trio.resilience.hedge import hedging, quantile_of
from ai_lib_trio.resilience.quorum import agreeing, same_text
from ai_lib_trio.resilience.race import Until, racing
from ai_lib_trio.service import Call, Service, UserFault
from resilience_support import Gathered, Goal, Script, answer, call_to, fault, refusal, text


def members(*scripts: Script) -> list[Member]:
    def member(number: int, script: Script) -> Member:
        async def enter(call: Call) -> Call:
            return call.copy(target=Goal(f"m/{number}"))

        return Member(f"m/{number}", enter, script)

    return [member(number, script) for number, script in enumerate(scripts)]


def race(*scripts: Script, until: Until = "first_token") -> tuple[Service, Contest]:
    state = Contest()
    return racing(members(*scripts), until, state), state


async def test_the_first_token_wins_and_losers_are_closed_while_the_winner_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    slow, fast, dead = Script([5.0, *answer("slow")]), Script([1.0, text("fa"), 10.0, text("st")]), Script([refusal()])
    service, state = race(slow, fast, dead)
    out, call = Gathered(), call_to()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(service, call, out)
        await trio.sleep(1.5)
        assert (slow.open, fast.open, dead.open) == (0, 1, 0)  # known at 1.0, and the winner still talks
        assert out.text == "fa"
    assert out.text == "fast"
    assert state.winner is not None
    assert state.winner.ref == "m/1"
    assert [(lane.ref, lane.state) for lane in state.losers] == [("m/0", "lost"), ("m/2", "failed")]
    assert {entry.call.target.ref: entry.verdict for entry in call.log} == {"m/0": "lost", "m/1": None, "m/2": "lost"}


async def test_of_two_at_the_same_moment_the_one_named_first_wins(autojump_clock: trio.testing.MockClock) -> None:
    for _ in range(20):
        service, state = race(Script([1.0, *answer("a")]), Script([1.0, *answer("b")]))
        out = Gathered()
        await service(call_to(), out)
        assert (out.text, state.winner and state.winner.number) == ("a", 0)


async def test_first_complete_is_won_by_the_answer_that_ends_first(autojump_clock: trio.testing.MockClock) -> None:
    early = Script([1.0, text("e"), 9.0, *answer("arly")])
    late = Script([3.0, *answer("late")])
    service, _ = race(early, late, until="first_complete")
    out = Gathered()
    await service(call_to(), out)
    assert (out.text, trio.current_time(), early.open) == ("late", 3.0, 0)


async def test_a_predicate_decides_over_what_each_has_said_so_far(autojump_clock: trio.testing.MockClock) -> None:
    first, second = Script([1.0, text("no"), 1.0, *answer("pe")]), Script([1.5, text("ye"), text("s"), 9.0])
    service, _ = race(first, second, until=lambda reply: reply.content.startswith("yes"))
    out = Gathered()
    await service(call_to(), out)
    assert out.text == "yes"


async def test_what_a_predicate_raises_comes_out_as_itself_after_everyone_is_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wrong = KeyError("mine")

    def until(reply: Any) -> bool:
        if reply.content:
            raise wrong
        return False

    one, two = Script([1.0, *answer("a")]), Script([5.0])
    service, _ = race(one, two, until=until)
    with pytest.raises(UserFault) as caught:
        await service(call_to(), Gathered())
    assert caught.value.__cause__ is wrong
    assert (one.open, two.open) == (0, 0)


async def test_where_all_fail_the_first_members_error_comes_out(autojump_clock: trio.testing.MockClock) -> None:
    service, state = race(Script([2.0, refusal(500, "E3001")]), Script([refusal(503)]))
    call = call_to()
    with pytest.raises(AiLibError) as caught:
        await service(call, Gathered())
    assert caught.value.status == 500
    assert (state.winner, len(call.log)) == (None, 2)


async def test_a_winner_that_is_cut_is_an_error_after_what_it_said(autojump_clock: trio.testing.MockClock) -> None:
    service, _ = race(Script([text("he"), 1.0, fault("reset")]), Script([9.0]))
    out = Gathered()
    with pytest.raises(AiLibError, match="reset"):
        await service(call_to(), out)
    assert out.text == "he"


# ---- hedge


def hedge(after: float, *scripts: Script) -> tuple[Service, Contest]:
    state = Contest()
    return hedging(members(*scripts), lambda call: after, state), state


async def test_a_hedge_asks_the_next_only_when_the_first_is_late(autojump_clock: trio.testing.MockClock) -> None:
    prompt, spare = Script([0.9, *answer("one")]), Script(answer("two"))
    service, _ = hedge(1.0, prompt, spare)
    call, out = call_to(), Gathered()
    await service(call, out)
    assert (out.text, spare.began, [one.model for one in call.notes.skipped]) == ("one", [], ["m/1"])


async def test_a_late_first_is_overtaken_and_closed(autojump_clock: trio.testing.MockClock) -> None:
    late, spare, third = Script([60.0]), Script([0.5, *answer("two")]), Script(answer("three"))
    service, state = hedge(1.0, late, spare, third)
    out = Gathered()
    await service(call_to(), out)
    assert (out.text, trio.current_time(), late.open, spare.began, third.began) == ("two", 1.5, 0, [1.0], [])
    assert [lane.state for lane in state.losers] == ["lost", "waiting"]


async def test_where_the_first_fails_the_next_begins_at_once(autojump_clock: trio.testing.MockClock) -> None:
    service, _ = hedge(30.0, Script([0.2, refusal()]), Script(answer("two")))
    out = Gathered()
    await service(call_to(), out)
    assert (out.text, trio.current_time()) == ("two", 0.2)


def test_a_percentile_has_a_name() -> None:
    assert (quantile_of("p95"), quantile_of("p99.9")) == (0.95, pytest.approx(0.999))
    for wrong in ("95", "p0", "p100", "px", ""):
        with pytest.raises(CallerError):
            quantile_of(wrong)


# ---- quorum


def quorum(k: int, *scripts: Script, agree: Callable[[Any, Any], bool] = same_text) -> tuple[Service, Contest]:
    state = Contest()
    return agreeing(members(*scripts), k, agree, state), state


async def test_two_of_five_agree_and_the_rest_are_closed(autojump_clock: trio.testing.MockClock) -> None:
    scripts = [
        Script([wait, *answer(said)]) for wait, said in ((0.5, "5"), (0.8, "4"), (1.0, "4."), (2.0, "4"), (3, "4"))
    ]
    service, state = quorum(2, *scripts)
    out = Gathered()
    await service(call_to(), out)
    assert (out.text, trio.current_time()) == ("4", 1.0)
    assert [script.open for script in scripts] == [0] * 5
    assert [lane.state for lane in state.lanes] == ["lost", "complete", "lost", "lost", "lost"]


async def test_it_ends_as_soon_as_agreement_cannot_be_reached(autojump_clock: trio.testing.MockClock) -> None:
    scripts = [Script([1.0, *answer("a")]), Script([2.0, *answer("b")]), Script([3.0, refusal()]), Script([9.0])]
    service, _ = quorum(3, *scripts)
    with pytest.raises(AiLibError) as caught:
        await service(call_to(), Gathered())
    assert (caught.value.kind, trio.current_time(), scripts[3].open) == ("no_quorum", 3.0, 0)


async def test_agreement_may_be_any_function_of_two_replies(autojump_clock: trio.testing.MockClock) -> None:
    service, _ = quorum(
        2,
        Script(answer("four is it")),
        Script([1.0, *answer("FOUR")]),
        agree=lambda a, b: a.content[:4].lower() == b.content[:4].lower(),
    )
    out = Gathered()
    await service(call_to(), out)
    assert out.text == "four is it"


def test_a_quorum_that_nobody_could_reach_is_refused() -> None:
    for k in (0, 3):
        with pytest.raises(CallerError):
            quorum(k, Script([]), Script([]))


# ---- left from outside


class AtTick(trio.abc.Instrument):
    """Cancels a scope when that many task steps have been made."""

    def __init__(self, scope: trio.CancelScope, ticks: int) -> None:
        self.scope = scope
        self.left = ticks
        self.has_fired = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.has_fired = True
            self.scope.cancel()


def shapes() -> dict[str, Callable[[], tuple[Service, list[Script]]]]:
    def scripts() -> list[Script]:
        return [
            Script([1.0, text("a"), 1.0, *answer("b")]),
            Script([0.5, refusal()]),
            Script([1.5, *answer("c")]),
        ]

    def make(build: Callable[[Sequence[Script]], Service]) -> Callable[[], tuple[Service, list[Script]]]:
        def fresh() -> tuple[Service, list[Script]]:
            parts = scripts()
            return build(parts), parts

        return fresh

    return {
        "race": make(lambda parts: race(*parts)[0]),
        "first_complete": make(lambda parts: race(*parts, until="first_complete")[0]),
        "hedge": make(lambda parts: hedge(0.3, *parts)[0]),
        "quorum": make(lambda parts: quorum(1, *parts)[0]),
    }


@pytest.mark.parametrize("shape", shapes())
def test_cancelled_at_any_step_everyone_is_closed_and_the_ledger_is_complete(shape: str) -> None:
    async def at(ticks: int) -> bool:
        service, scripts = shapes()[shape]()
        call = call_to()
        with trio.CancelScope() as scope:
            watch = AtTick(scope, ticks)
            trio.lowlevel.add_instrument(watch)
            try:
                await service(call, Gathered())
            finally:
                trio.lowlevel.remove_instrument(watch)
                assert [script.open for script in scripts] == [0, 0, 0]
        begun = sum(len(script.began) for script in scripts)
        assert len(call.log) == begun == sum(script.ended for script in scripts)
        assert all(entry.is_settled for entry in call.log)
        return watch.has_fired

    for ticks in range(1, 400):
        if not trio.run(at, ticks, clock=trio.testing.MockClock(autojump_threshold=0)):
            assert ticks > 10
            return
    raise AssertionError("it never came to its end")
