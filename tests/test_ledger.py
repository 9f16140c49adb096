"""The ledger's arithmetic: what is not known is estimated or unknown, and nothing costs less than nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from ai_lib_trio.protocol.registry import Pricing
from ai_lib_trio.resilience.executor import Resilience
from ai_lib_trio.resilience.ledger import cost_of, most_of
from ai_lib_trio.testing import Head, Quiescence, ScriptedTransport, Wait, json_reply
from ai_lib_trio.types.message import Message, TextBlock
from ai_lib_trio.types.request import Request
from ai_lib_trio.types.usage import Usage
from client_support import SSE, body_of, prompt_of, streamed
from test_resilience_client import PRICED, client_on

PRICES = Pricing(input_per_1m=3.0, output_per_1m=15.0, cached_input_per_1m=0.3, cache_write_per_1m=3.75)
counts = st.one_of(st.none(), st.integers(0, 10**9))


@given(counts, counts, counts, counts)
def test_no_reply_costs_less_than_nothing(
    given: int | None, made: int | None, cached: int | None, written: int | None
) -> None:
    usage = Usage(input_tokens=given, output_tokens=made, cached_tokens=cached, cache_write_tokens=written)
    cost = cost_of(usage, PRICES)
    assert (cost is None) == (given is None or made is None)
    assert cost is None or cost >= 0.0


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.booleans())
def test_no_reply_costs_more_than_the_most_that_it_may(given: int, made: int, written: int, is_kept: bool) -> None:
    text = TextBlock(text="x", cache_control={"type": "ephemeral"} if is_kept else None)
    request = Request(model="m", messages=(Message.user([text]),))
    usage = Usage(input_tokens=given, output_tokens=made, cache_write_tokens=min(written, given) if is_kept else None)
    cost, most = cost_of(usage, PRICES), most_of(request, given, made, PRICES)
    assert cost is not None
    assert most is not None
    assert cost <= most * (1 + 1e-12)
    assert most_of(request, given, None, PRICES) is None


async def test_a_reply_that_tells_only_what_came_out_is_charged_for_what_went_in_too(
    quiescence: Quiescence, autojump_clock: MockClock
) -> None:
    reply = {**body_of("hi"), "usage": {"completion_tokens": 5}}
    async with client_on(ScriptedTransport(json_reply(reply)), PRICED) as client:
        _, stats = await client.chat().user("x" * 4000).execute_with_stats()
    (attempt,) = stats.attempts
    assert attempt.billed == "estimated"
    assert attempt.usage is not None
    assert (attempt.usage.input_tokens, attempt.usage.output_tokens) == (1004, 5)


@pytest.mark.parametrize("garbage", [-(10**400), -5, 10**400], ids=["far below", "below", "far beyond"])
async def test_garbage_for_a_count_of_tokens_harms_nobody(
    quiescence: Quiescence, autojump_clock: MockClock, garbage: int
) -> None:
    usage = {"prompt_tokens": garbage, "completion_tokens": garbage, "total_tokens": garbage}
    bad = json_reply({**body_of("hi"), "usage": usage})
    slow = [Head(200, SSE), Wait(50), *streamed("fine")[1:]]
    transport = ScriptedTransport(lambda request: bad if prompt_of(request) == "bad" else slow)
    settings = Resilience(max_attempts=1, tokens_per_minute=100_000)
    async with client_on(transport, PRICED, resilience=settings) as client:
        async with client.chat().user("beside it").stream() as beside:
            _, stats = await client.chat().user("bad").execute_with_stats()
            assert (stats.billed, stats.cost is not None and 0 < stats.cost < 1e-3) == ("estimated", True)
            assert "".join([getattr(event, "content", "") async for event in beside]) == "fine"
        assert (await client.chat().user("bad").cost_cap(0.1).max_tokens(100).execute()).content == "hi"
        (actor,) = client.tree().actors
        assert (actor.crashes, actor.bugs) == (0, 0)
