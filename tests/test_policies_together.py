"""Two policies at once, and what lies between them: retries within a chain that goes on, races that are left, keys
that are not there. On a scripted wire and a clock that jumps."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import AiLibError, CallerError, CredentialError, Endpoint, ModelArray, Rerouted, ToolDefinition
from ai_lib_trio.errors import TransportError
from ai_lib_trio.resilience.executor import Resilience
from ai_lib_trio.testing import Data, Fail, Head, Quiescence, ScriptedTransport, Sending, Stall, Step, Wait
from client_support import OTHER_MODEL, SSE, Recorder, delta, frame, refused, streamed, whole
from test_resilience_client import Turns, ask, by_model, client_on, reply

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


@pytest.mark.parametrize("hint", ["0", "-5", "-1e9", "Wed, 21 Oct 2015 07:28:00 GMT", "soon", "nan", "1" * 400])
async def test_a_hint_that_asks_for_no_pause_leaves_the_pauses_between_attempts(
    quiescence: Quiescence, autojump_clock: MockClock, hint: str
) -> None:
    transport = ScriptedTransport(refused(429, headers={"retry-after": hint}))
    async with client_on(transport) as client:
        with pytest.raises(AiLibError):
            await client.chat().user("x").execute()
    assert [asked.started_at for asked in transport.asked] == [0.0, 1.0, 3.0, 7.0]


async def test_a_probe_that_talks_for_minutes_keeps_nobody_out_once_it_has_begun(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    long = [Head(200, SSE), Wait(3), *streamed("be")[1:2], Wait(100), *streamed("gun")[1:]]
    transport = ScriptedTransport(by_model(a_model=Turns(*[refused(500)] * 5, long, reply("fine"))))
    async with client_on(transport, resilience=Resilience(max_attempts=1)) as client:
        chat = client.chat().user("x")
        for _ in range(5):
            with pytest.raises(AiLibError):
                await chat.execute()
        await trio.sleep(30)
        async with chat.stream() as probe:
            await trio.sleep(2)
            for _ in range(50):
                with pytest.raises(AiLibError, match="being tried by another call"):
                    await chat.execute()
            assert not (await chat.preflight()).would_send
            await trio.sleep(2)
            assert (await chat.preflight()).would_send
            assert (await chat.execute()).content == "fine"
            assert "".join([getattr(event, "content", "") async for event in probe]) == "begun"


@pytest.mark.parametrize(
    ("settings", "terms", "waits"),
    [
        ({}, {"max_delay_s": 300.0}, True),
        ({"max_delay_s": 300.0}, {}, True),
        ({}, {"max_delay_s": 300.0, "max_hint_s": 60.0}, False),
        ({"max_hint_s": 60.0}, {"max_delay_s": 300.0}, False),
        ({}, {"max_delay_s": 30.0}, False),
    ],
)
async def test_a_hint_is_worth_waiting_for_as_long_as_a_pause_may_be_unless_it_is_said_otherwise(
    quiescence: Quiescence, autojump_clock: MockClock, settings: Any, terms: Any, waits: bool
) -> None:
    transport = ScriptedTransport(refused(429, headers={"retry-after": "100"}), reply("fine"))
    async with client_on(transport, resilience=Resilience(**settings)) as client:
        chat = client.chat().user("x").retry(**terms)
        if waits:
            assert ((await chat.execute()).content, trio.current_time()) == ("fine", 100.0)
        else:
            with pytest.raises(AiLibError, match="429"):
                await chat.execute()
            assert trio.current_time() == 0.0


async def test_who_can_go_on_with_an_answer_may_be_said_of_one_provider(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    other = "openai/other"
    transport = ScriptedTransport(by_model(a_model=cut("Hello ", "wor"), other=streamed("ld")))
    for settings, goes_on in ((Resilience(), False), (Resilience(can_continue=(other,)), True)):
        everywhere = Resilience(max_attempts=1, providers={"openai": settings})
        async with client_on(transport, resilience=everywhere) as client:
            stream = client.chat().user("x").fallback(other, mid_stream="continue").stream()
            async with stream:
                if goes_on:
                    assert "".join([getattr(event, "content", "") async for event in stream]) == "Hello world"
                else:
                    with pytest.raises(AiLibError, match="cut"):
                        async for _ in stream:
                            pass
                    assert [one.model for one in stream.stats.skipped] == [other]


# ---- keys that are not there

KEYLESS = "anthropic/claude-x"
both = pytest.mark.parametrize("streams", [False, True])


@both
@pytest.mark.parametrize("first", [KEYLESS, "@keyless"])
async def test_a_first_model_without_a_key_is_passed_over_as_any_other_of_a_chain(
    quiescence: Quiescence, autojump_clock: MockClock, streams: bool, first: str
) -> None:
    transport = ScriptedTransport(by_model(another_model=reply("fine")))
    router = ModelArray("keyless", [Endpoint(model=KEYLESS, name="a"), Endpoint(model="anthropic/other", name="b")])
    async with client_on(transport, router=router) as client:
        chat = client.chat().user("x").model(first).fallback(OTHER_MODEL)
        text, events, stats = await ask(chat, streams=streams)
        assert (text, stats.model) == ("fine", OTHER_MODEL)
        names = [KEYLESS] if first == KEYLESS else ["@keyless/a", "@keyless/b"]
        assert [one.model for one in stats.skipped] == names
        assert all("ANTHROPIC_API_KEY" in one.reason for one in stats.skipped)
        assert not any(isinstance(event, Rerouted) for event in events)
        with pytest.raises(CredentialError):
            await ask(client.chat().user("x").model(first).fallback(KEYLESS), streams=streams)
        with pytest.raises(CredentialError):
            await ask(client.chat().user("x").model(first), streams=streams)
        assert (await chat.preflight()).model == OTHER_MODEL


async def test_an_arrays_endpoint_without_a_key_is_named_among_those_passed_over(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    router = ModelArray("fast", [Endpoint(model=KEYLESS, name="a"), Endpoint(model=OTHER_MODEL, name="b")])
    async with client_on(ScriptedTransport(reply("fine")), None, router=router) as client:
        _, _, stats = await ask(client.chat().user("x"), streams=False)
    assert [one.model for one in stats.skipped] == ["@fast/a"]


async def test_the_time_that_a_key_is_looked_for_in_vain_is_the_calls(
    quiescence: Quiescence, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = ScriptedTransport([Sending(), Wait(2), *streamed("late")])
    async with client_on(transport) as client:
        find = client._targets.find

        async def find_slowly(model: str, api: str | None) -> Any:
            await trio.sleep(2.0)  # a keyring waits for a person
            return await find(model, api)

        monkeypatch.setattr(client._targets, "find", find_slowly)
        with pytest.raises(AiLibError) as caught:
            await client.chat().user("x").model(KEYLESS).fallback(OTHER_MODEL).deadline(5).execute()
    assert (caught.value.kind, trio.current_time()) == ("deadline", 5.0)


async def test_a_look_at_a_call_is_no_call(quiescence: Quiescence, autojump_clock: MockClock) -> None:
    told = Recorder()
    async with client_on(ScriptedTransport(reply("fine")), sinks=(told,)) as client:
        chat = client.chat().user("x").fallback(OTHER_MODEL)
        assert (await chat.preflight()).would_send
        assert client.stats() == {"calls": 0, "open": 0, "ok": 0, "failed": 0, "cancelled": 0}
        assert told.records == []
        await chat.execute()
        assert client.stats()["calls"] == told.records[0].call == 1


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


async def test_after_output_a_member_of_a_race_does_what_the_request_says(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(by_model(a_model=cut("he", "l"), another_model=streamed("whole")))
    router = ModelArray("two", ["openai/a-model", OTHER_MODEL])
    async with client_on(transport, resilience=Resilience(max_attempts=1), router=router) as client:
        chat = client.chat().user("x")
        for until in ("first_token", "first_complete"):
            with pytest.raises(AiLibError, match="cut"):
                await client.race(chat, models=["@two"], until=until).execute()
            router._turns = 0
            race = client.race(chat.fallback(mid_stream="restart"), models=["@two"], until=until)
            async with race:
                events = [event async for event in race]
            assert (race.response().content, _shown(events)) == ("whole", "whole")
            assert [(one.verdict, one.outcome) for one in race.stats.attempts] == [
                ("replaced", "failed"),
                ("won", "ok"),
            ]
            router._turns = 0


async def test_a_race_of_a_request_with_fallbacks_is_refused_and_the_clients_own_are_not_asked(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    transport = ScriptedTransport(by_model(a_model=refused(500), another_model=reply("fine")))
    async with client_on(transport, resilience=Resilience(max_attempts=1), fallbacks=(OTHER_MODEL,)) as client:
        chat = client.chat().user("x")
        for contest in (client.race, client.hedge, partial(client.quorum, k=1)):
            with pytest.raises(AiLibError, match="fallbacks are none of them") as caught:
                contest(chat.fallback("openai/third"), models=["openai/a-model"])
            assert caught.value.kind == "bad_argument"
            with pytest.raises(AiLibError, match="500"):
                await contest(chat, models=["openai/a-model"]).execute()


async def test_what_a_race_or_quorum_cannot_be_asked_is_refused_before_anything_is_sent(quiescence: Quiescence) -> None:
    transport = ScriptedTransport(streamed("a"))

    async def later(*replies: Any) -> bool:
        return True

    async with client_on(transport) as client:
        chat, models = client.chat().user("x"), ["openai/one", "openai/two"]
        for wrong in (
            lambda: client.race(chat, models=models, until="first"),  # type: ignore[arg-type]
            lambda: client.race(chat, models=models, until=later),  # type: ignore[arg-type]
            lambda: client.quorum(chat, models=models, k=2, agree=later),  # type: ignore[arg-type]
            lambda: client.quorum(chat, models=models, k=1.5),  # type: ignore[arg-type]
            lambda: client.quorum(chat, models=models, k="2"),  # type: ignore[arg-type]
            lambda: client.quorum(chat, models=models, k=0),
            lambda: client.quorum(chat, models=models, k=3),
        ):
            with pytest.raises(AiLibError) as caught:
                wrong()
            assert caught.value.kind == "bad_argument"
    assert transport.asked == []


@pytest.mark.parametrize("leaving", [SystemExit(3), KeyboardInterrupt()], ids=["exit", "interrupt"])
async def test_what_ends_a_program_inside_a_predicate_ends_it_as_itself(
    quiescence: Quiescence, leaving: BaseException
) -> None:
    def until(reply: Any) -> bool:
        raise leaving

    transport = ScriptedTransport([Sending(), Stall()], streamed("one"))
    with pytest.raises(type(leaving)) as caught:
        async with client_on(transport) as client:
            await client.race(client.chat().user("x"), models=["openai/one", "openai/two"], until=until).execute()
    assert caught.value is leaving
    assert transport.open_exchanges == 0


async def test_a_hedge_waits_as_long_as_first_tokens_take_and_not_whole_replies(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    late = [Sending(), Wait(60), *whole("late")]
    transport = ScriptedTransport(by_model(one=Turns(*[late] * 20, [Sending(), Stall()]), two=streamed("two")))
    async with client_on(transport) as client:
        for _ in range(20):
            await client.chat().user("x").model("openai/one").execute()
        began = trio.current_time()
        hedge = client.hedge(client.chat().user("x"), models=["openai/one", "openai/two"], after="p95")
        assert (await hedge.execute()).content == "two"
        assert trio.current_time() - began == 2.0  # nothing is known of its first tokens


@both
async def test_a_request_that_no_wire_can_carry_is_its_callers_mistake(
    quiescence: Quiescence, autojump_clock: MockClock, streams: bool
) -> None:
    transport = ScriptedTransport(reply("fine"))
    async with client_on(transport) as client:
        chat = client.chat().user("x").tools(ToolDefinition("look", parameters={"type": object()}))
        with pytest.raises(CallerError, match="JSON"):
            await ask(chat, streams=streams)
    assert transport.asked == []
