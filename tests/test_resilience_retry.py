"""Retry: when, how long, and never what reached the caller; deadlines. On a clock that jumps."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import trio
from msgspec.structs import replace

from ai_lib_trio.errors import AdmissionError, AiLibError, TransportError
from ai_lib_trio.protocol.manifest import RetryPolicy
from ai_lib_trio.resilience.backoff import Backoff
from ai_lib_trio.resilience.deadline import within_deadline
from ai_lib_trio.resilience.retry import Chance, RetryRules, Stop, Wait, decide, retrying, rules_of
from ai_lib_trio.types.events import Metadata, Rerouted
from resilience_support import Gathered, Script, answer, call_to, fault, refusal, text

PLAIN = RetryRules(backoff=Backoff(jitter="none"))


def step(error: AiLibError, state: Any = "refused", **fields: Any) -> Wait | Stop:
    known: dict[str, Any] = {
        "retry": 0,
        "silent_before": 0,
        "rules": PLAIN,
        "rng": lambda: Random(1),
        "now": 0.0,
        "deadline": float("inf"),
    }
    return decide(error, state, **{**known, **fields})


def test_pauses_double_grow_or_stay_and_are_capped() -> None:
    assert [Backoff(jitter="none", max_delay_s=5).base_s(n) for n in range(4)] == [1, 2, 4, 5]
    assert [Backoff("linear_backoff", 1, 2.5).base_s(n) for n in range(3)] == [1, 2, 2.5]
    assert [Backoff("fixed_delay", 3).base_s(n) for n in range(2)] == [3, 3]
    assert Backoff().base_s(10_000) == 30


def test_full_jitter_is_anywhere_below_and_equal_jitter_in_the_upper_half() -> None:
    rng = Random(7)
    full = [Backoff(jitter="full").pause_s(2, rng) for _ in range(200)]
    equal = [Backoff(jitter="equal").pause_s(2, rng) for _ in range(200)]
    assert 0 <= min(full) < 0.5 < 3.5 < max(full) <= 4
    assert 2 <= min(equal) < 2.5 < 3.5 < max(equal) <= 4


def test_the_manifests_policy_becomes_rules() -> None:
    rules = rules_of(RetryPolicy(max_retries=2, min_delay_ms=500, max_delay_ms=8000, jitter="equal"))
    assert rules.max_attempts == 3
    assert rules.backoff == Backoff("exponential_backoff", 0.5, 8.0, "equal")
    assert rules_of(RetryPolicy(strategy="none")).max_attempts == 1
    assert rules_of(None).max_attempts == 4


@pytest.mark.parametrize("state", ["unsent", "refused"])
def test_what_was_not_sent_or_was_refused_is_retried_by_policy(state: Any) -> None:
    assert step(refusal(), state) == Wait(1.0)
    assert step(refusal(), state, retry=2) == Wait(4.0)
    assert isinstance(step(refusal(), state, retry=3), Stop)


def test_silence_is_retried_once_and_output_never_unless_the_caller_says_so() -> None:
    assert step(fault("first_byte_timeout"), "silent") == Wait(1.0)
    assert isinstance(step(fault("first_byte_timeout"), "silent", retry=1, silent_before=1), Stop)
    assert isinstance(step(fault("reset"), "partial"), Stop)
    assert step(fault("reset"), "partial", rules=replace(PLAIN, partial=True)) == Wait(1.0)


def test_an_error_inside_a_reply_before_any_output_is_a_refusal() -> None:
    assert step(refusal(200), "silent", silent_before=1) == Wait(1.0)


@pytest.mark.parametrize(("status", "code"), [(400, "E1001"), (401, "E1002"), (404, "E1004"), (413, "E1005")])
def test_what_would_fail_again_is_not_retried(status: int, code: str) -> None:
    assert isinstance(step(refusal(status, code)), Stop)


def test_a_listed_status_is_retried_though_its_class_is_not_but_never_a_quota_nor_a_veto() -> None:
    listed = replace(PLAIN, on_status=frozenset({400, 429}))
    assert step(refusal(400, "E1001"), rules=listed) == Wait(1.0)
    assert isinstance(step(refusal(429, "E2002"), rules=listed), Stop)
    assert isinstance(step(refusal(400, "E1001", retryable=False), rules=listed), Stop)


def test_a_policy_that_lists_names_retries_those_alone() -> None:
    named = replace(PLAIN, on_names=frozenset({"overloaded"}))
    assert step(refusal(503, "E3002"), rules=named) == Wait(1.0)
    assert isinstance(step(refusal(429, "E2001"), rules=named), Stop)
    assert step(fault("connect"), "unsent", rules=named) == Wait(1.0)


def test_a_hint_replaces_the_pause_and_one_beyond_the_cap_or_the_deadline_ends_the_attempts() -> None:
    assert step(refusal(429, "E2001", retry_after_s=0.0)) == Wait(1.0)  # asked for no pause: ours stays
    assert step(refusal(429, "E2001", retry_after_s=59.0)) == Wait(59.0)
    assert isinstance(step(refusal(429, "E2001", retry_after_s=61.0)), Stop)
    assert isinstance(step(refusal(429, "E2001", retry_after_s=5.0), deadline=5.0), Stop)
    assert step(refusal(429, "E2001", retry_after_s=4.9), deadline=5.0) == Wait(4.9)


# ---- in time


async def test_attempts_begin_when_the_schedule_says(autojump_clock: trio.testing.MockClock) -> None:
    script = Script([1.0, "refused", refusal()], ["unsent", fault("connect")], answer("hi"))
    out = Gathered()
    call = call_to()
    await retrying(script, PLAIN, chance=Chance(0))(call, out)
    assert script.began == [0.0, 2.0, 4.0]
    assert out.text == "hi"
    assert [entry.verdict for entry in call.log] == ["retried", "retried", None]
    assert [entry.call.retry for entry in call.log] == [0, 1, 2]


async def test_each_call_draws_from_its_own_generator(autojump_clock: trio.testing.MockClock) -> None:
    script = Script([refusal()], [refusal()], answer("hi"))
    await retrying(script, RetryRules(), chance=Chance("seed"))(call_to(number=9), Gathered())
    rng = Random("seed:9")
    first = rng.uniform(0, 1)
    assert script.began == [0.0, first, first + rng.uniform(0, 2)]


async def test_what_an_attempt_said_before_its_output_is_dropped_with_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script([Metadata(response_id="lost"), "silent", fault("reset")], answer("hi"))
    out = Gathered()
    await retrying(script, PLAIN, chance=Chance(0))(call_to(), out)
    assert [event.response_id for event in out.events if isinstance(event, Metadata)] == ["r"]


async def test_after_output_the_error_comes_out_and_nothing_comes_twice(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script([text("he"), fault("reset")], answer("hello"))
    out = Gathered()
    with pytest.raises(TransportError) as caught:
        await retrying(script, PLAIN, chance=Chance(0))(call_to(), out)
    assert (caught.value.kind, out.text, len(script.began)) == ("reset", "he", 1)


async def test_a_retry_after_output_is_told_by_an_event_that_voids_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script([text("he"), fault("reset")], answer("hello"))
    out = Gathered()
    await retrying(script, replace(PLAIN, partial=True), chance=Chance(0))(call_to(), out)
    assert out.events[:2] == [text("he"), Rerouted("acme/one", "acme/one", "E3001 reset", discard=True)]
    assert out.text == "hehello"


async def test_a_refusal_of_ours_on_a_retry_gives_the_failure_that_led_to_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script([refusal(500, "E3001")], [AdmissionError("spent", kind="retry_budget")])
    with pytest.raises(AiLibError) as caught:
        await retrying(script, PLAIN, chance=Chance(0))(call_to(), Gathered())
    assert caught.value.status == 500


async def test_a_deadline_covers_attempts_and_pauses_and_no_attempt_begins_after_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script([3.0, "refused", refusal()])
    call = call_to(deadline=10.0)
    with pytest.raises(AiLibError) as caught:
        await within_deadline(retrying(script, PLAIN, chance=Chance(0)))(call, Gathered())
    # 0..3, pause 1, 4..7, pause 2, 9..(deadline)
    assert (script.began, trio.current_time()) == ([0.0, 4.0, 9.0], 10.0)
    assert caught.value.kind == "deadline"
    assert script.open == 0


async def test_a_pause_that_would_outlast_the_deadline_is_not_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = Script([3.0, "refused", refusal()])
    with pytest.raises(AiLibError) as caught:
        await within_deadline(retrying(script, PLAIN, chance=Chance(0)))(call_to(deadline=4.0), Gathered())
    assert (caught.value.status, trio.current_time()) == (503, 3.0)
