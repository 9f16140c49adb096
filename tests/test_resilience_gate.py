"""The state machines in front of a provider: buckets, breaker, budget, fair queue, and the gate they make."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_lib_trio.errors import AdmissionError
from ai_lib_trio.resilience.backpressure import GateRules, ProviderGate
from ai_lib_trio.resilience.budget import BudgetRules, RetryBudget
from ai_lib_trio.resilience.circuit_breaker import Breaker, BreakerRules
from ai_lib_trio.resilience.fair_queue import FEW_PLACES, MOST_AHEAD, FairQueue, due_of
from ai_lib_trio.resilience.rate_limiter import Bucket, Limiter, LimitRules
from ai_lib_trio.service import Ending, Ticket
from ai_lib_trio.types.admission import LimitsSeen, Window
from ai_lib_trio.types.usage import Usage
from resilience_support import fault, refusal, ticket

DONE = Ending(None, "complete")


def admitted(gate: ProviderGate, now: float) -> list[int]:
    return [one.number for one, refused in gate.turn(now) if refused is None]


# ---- buckets


def test_a_bucket_is_full_at_first_and_refills_at_its_rate() -> None:
    bucket = Bucket(10.0, 2.0, now=0.0)
    assert bucket.ready_at(10, 0.0) == 0.0
    bucket.take(10, 0.0)
    assert bucket.ready_at(1, 0.0) == 0.5
    assert bucket.ready_at(4, 1.0) == 2.0
    assert bucket.level(100.0) == 10.0


def test_more_than_the_capacity_waits_for_a_full_bucket_and_no_longer() -> None:
    bucket = Bucket(10.0, 1.0, now=0.0)
    bucket.take(5, 0.0)
    assert bucket.ready_at(1000, 0.0) == 5.0


def test_what_a_reply_tells_outweighs_what_was_counted() -> None:
    limiter = Limiter(LimitRules(), 0.0)
    mark = limiter.take(100, 0.0)
    limiter.learn(mark, LimitsSeen(requests=Window(60, 0, 30.0)), 1.0)
    assert limiter.ready_at(100, 1.0) == 1.5  # sixty come back in thirty seconds
    late = limiter.take(100, 1.5)
    limiter.learn(late, LimitsSeen(requests=Window(60, 60, 0.0)), 2.0)
    assert limiter.ready_at(100, 2.0) == 2.0


def test_a_reply_that_answers_an_earlier_call_is_not_believed_over_a_later_one() -> None:
    limiter = Limiter(LimitRules(), 0.0)
    limiter.learn(limiter.take(1, 0.0), LimitsSeen(requests=Window(10, 9, 6.0)), 0.0)
    early = limiter.take(1, 0.0)
    late = limiter.take(1, 0.0)
    limiter.learn(late, LimitsSeen(requests=Window(10, 0, 60.0)), 1.0)
    limiter.learn(early, LimitsSeen(requests=Window(10, 8, 6.0)), 1.1)
    assert limiter.ready_at(1, 1.1) > 1.1


def test_replies_that_tell_of_tokens_alone_are_ordered_by_their_calls_too() -> None:
    limiter = Limiter(LimitRules(), 0.0)
    early, late = limiter.take(100, 0.0), limiter.take(100, 0.0)
    limiter.learn(late, LimitsSeen(tokens=Window(None, 0, 60.0)), 1.0)
    limiter.learn(early, LimitsSeen(tokens=Window(None, 100, 60.0)), 1.1)
    assert limiter.ready_at(1, 1.1) == 61.0


def test_calls_that_went_before_the_first_reply_told_a_limit_count_against_it() -> None:
    limiter = Limiter(LimitRules(), 0.0)
    first, _, _ = (limiter.take(10, 0.0) for _ in range(3))
    limiter.learn(first, LimitsSeen(requests=Window(None, 2, 60.0)), 1.0)
    assert limiter.ready_at(10, 1.0) == 61.0


def test_a_limit_of_which_nobody_said_when_it_ends_holds_nobody_for_ever() -> None:
    limiter = Limiter(LimitRules(), 0.0)
    limiter.learn(limiter.take(1, 0.0), LimitsSeen(requests=Window(None, 0, None)), 0.0)
    assert limiter.ready_at(1, 0.0) == 0.0


def test_what_is_left_and_when_it_resets_are_enough() -> None:
    limiter = Limiter(LimitRules(), 0.0)
    limiter.learn(limiter.take(1, 0.0), LimitsSeen(tokens=Window(None, 50, 8.0)), 0.0)
    assert limiter.ready_at(50, 0.0) == 0.0
    assert limiter.ready_at(51, 0.0) == 8.0


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(1, 20)), min_size=1, max_size=60),
    st.integers(5, 100),
)
def test_in_any_stretch_a_bucket_passes_at_most_its_capacity_and_refill(
    steps: list[tuple[float, int]], capacity: int
) -> None:
    rate = capacity / 10
    bucket = Bucket(float(capacity), rate, now=0.0)
    now, taken = 0.0, []
    for pause, amount in steps:
        now += pause
        amount = min(amount, capacity)
        if bucket.ready_at(amount, now) <= now:
            bucket.take(amount, now)
            taken.append((now, amount))
    for begin in range(len(taken)):
        for end in range(begin, len(taken)):
            passed = sum(amount for _, amount in taken[begin : end + 1])
            assert passed <= capacity + rate * (taken[end][0] - taken[begin][0]) + 1e-6


# ---- breaker


RULES = BreakerRules(failures=3, share=0.5, window_s=10.0, open_s=30.0, probes=2)


def fail(breaker: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        breaker.leave(breaker.enter(now), True, now)


def test_a_breaker_opens_at_its_third_failure_and_half_opens_after_its_pause() -> None:
    breaker = Breaker(RULES)
    fail(breaker, 0.0, 2)
    assert breaker.state(0.0) == "closed"
    fail(breaker, 1.0)
    assert (breaker.state(1.0), breaker.opens_in_s(11.0)) == ("open", 20.0)
    assert not breaker.allows(30.9)
    assert breaker.allows(31.0)
    assert breaker.state(31.0) == "half_open"


def test_failures_that_are_few_among_many_calls_or_long_past_do_not_open_it() -> None:
    breaker = Breaker(RULES)
    for _ in range(7):
        breaker.leave(breaker.enter(0.0), False, 0.0)
    fail(breaker, 0.0, 6)
    assert breaker.state(0.0) == "closed"
    fail(breaker, 20.0, 2)
    assert breaker.state(20.0) == "closed"


def test_half_open_lets_a_bounded_number_of_probes_through_and_all_must_go_well() -> None:
    breaker = Breaker(RULES)
    fail(breaker, 0.0, 3)
    one, two = breaker.enter(30.0), breaker.enter(30.0)
    assert not breaker.allows(30.0)
    breaker.leave(one, False, 31.0)
    assert not breaker.allows(31.0)  # one went well, one is on its way
    breaker.leave(two, False, 32.0)
    assert breaker.state(32.0) == "closed"


def test_a_probe_that_says_nothing_gives_its_place_back_and_one_that_fails_opens_it_again() -> None:
    breaker = Breaker(RULES)
    fail(breaker, 0.0, 3)
    first, second = breaker.enter(30.0), breaker.enter(30.0)
    breaker.leave(first, None, 31.0)
    assert breaker.allows(31.0)
    breaker.leave(second, True, 32.0)
    assert (breaker.state(32.0), breaker.opens_in_s(32.0)) == ("open", 30.0)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["enter", "ok", "bad", "none", "tick"]), st.floats(0, 20)), max_size=80))
def test_a_breaker_never_lets_a_call_through_while_open_nor_more_than_its_probes_while_half_open(
    steps: list[tuple[str, float]],
) -> None:
    breaker = Breaker(RULES)
    now, passes = 0.0, []
    for what, amount in steps:
        if what == "tick":
            now += amount
        elif what == "enter":
            before = breaker.state(now)
            if breaker.allows(now):
                assert before != "open"
                passes.append((breaker.enter(now), before))
        elif passes:
            pass_, _ = passes.pop(int(amount) % len(passes))
            before = breaker.state(now)
            breaker.leave(pass_, {"ok": False, "bad": True, "none": None}[what], now)
            moved = (before, breaker.state(now))
            assert moved[0] == moved[1] or moved in (
                ("closed", "open"),
                ("half_open", "open"),
                ("half_open", "closed"),
            )
        current = [one for one, _ in passes if one == breaker.generation]
        if breaker.state(now) == "half_open":
            assert len(current) <= RULES.probes
        if breaker.state(now) == "open":
            assert not current


# ---- budget


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(["call", "retry", "wait"]), st.floats(0, 3)), max_size=200))
def test_retries_never_exceed_the_reserve_a_share_of_the_calls_and_a_trickle(steps: list[tuple[str, float]]) -> None:
    rules = BudgetRules(reserve=5, per_call=0.2, per_second=0.5)
    budget = RetryBudget(rules)
    now, calls, retries = 0.0, 0, 0
    for what, amount in steps:
        if what == "wait":
            now += amount
        elif what == "call":
            budget.deposit(now)
            calls += 1
        else:
            retries += budget.spend(now)
        assert retries <= rules.reserve + rules.per_call * calls + rules.per_second * now + 1e-6
    assert budget.spent == retries


# ---- fair queue


def drain(queue: FairQueue) -> list[int]:
    order = []
    while (first := queue.peek()) is not None:
        queue.serve(first)
        order.append(first.number)
    return order


def test_within_a_tenant_the_earlier_deadline_goes_first_then_the_earlier_arrival() -> None:
    queue = FairQueue()
    queue.push(ticket(1, now=0.0))  # as if due in ten minutes
    queue.push(ticket(2, now=1.0, deadline=50.0))
    queue.push(ticket(3, now=2.0))
    queue.push(ticket(4, now=3.0, deadline=700.0))
    assert drain(queue) == [2, 1, 3, 4]


def test_a_tenant_that_comes_late_is_served_within_one_slot_of_one_that_queued_a_thousand() -> None:
    queue = FairQueue()
    for number in range(1000):
        queue.push(ticket(number, tenant="a", tokens=100))
    for _ in range(10):
        first = queue.peek()
        assert first is not None
        queue.serve(first)
    queue.push(ticket(5000, tenant="b", tokens=100))
    assert 5000 in drain(queue)[:2]


def test_a_tenants_name_keeps_nobody_waiting() -> None:
    queue = FairQueue()
    queue.push(ticket(0, tenant="zoe", tokens=100))
    for number in range(1, 10):
        queue.push(ticket(number, tenant=f"adam {number}", tokens=100))
    order = []
    while (one := queue.peek()) is not None:
        queue.serve(one)
        order.append(one.number)
    assert order == list(range(10))


def test_of_ever_new_tenants_no_more_than_a_bounded_number_is_remembered() -> None:
    queue = FairQueue()
    queue.push(ticket(0, tenant="busy", tokens=10**6))
    queue.push(ticket(1, tenant="busy", tokens=1))
    first = queue.peek()
    assert first is not None
    queue.serve(first)
    for number in range(2, 10_000):
        queue.push(ticket(number, tenant=f"t{number}", tokens=100))
        one = queue.peek()
        assert one is not None
        assert one.number == number
        queue.serve(one)
        queue.settle(one, 50.0)
    assert len(queue._tenants) <= 2 * MOST_AHEAD + 1


def test_a_model_that_is_held_does_not_hold_another() -> None:
    queue = FairQueue()
    queue.push(ticket(1, model="slow"))
    queue.push(ticket(2, model="free"))
    first = queue.peek({"slow"})
    assert first is not None
    assert first.number == 2


def test_a_call_that_went_while_nobody_waited_earns_its_tenant_nothing_when_it_used_less_than_was_thought() -> None:
    gate = gate_of(max_inflight=4)
    early = [ticket(number, tenant="a", tokens=4000) for number in range(4)]
    assert gate.pass_nowait(early[0], 0.0)
    for one in early[1:]:
        assert gate.offer(one, 0.0) is None
    assert admitted(gate, 0.0) == [1, 2, 3]
    for number, tenant in ((10, "a"), (11, "a"), (12, "b"), (13, "b")):
        assert gate.offer(ticket(number, tenant=tenant, tokens=100), 1.0) is None
    used = Ending(None, "complete", usage=Usage(input_tokens=10, output_tokens=10))
    for one in early:
        gate.ended(one, used, 2.0)
    assert admitted(gate, 2.0) == [10, 12, 11, 13]  # by turns


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 8), min_size=2, max_size=5),
    st.lists(st.integers(50, 400), min_size=5, max_size=5),
    st.integers(0, 2**32),
)
def test_shares_of_tokens_match_the_weights_within_five_per_cent(
    weights: list[int], sizes: list[int], seed: int
) -> None:
    from random import Random

    rng = Random(seed)
    names = [f"t{n}" for n in range(len(weights))]
    queue = FairQueue(dict(zip(names, map(float, weights), strict=True)))
    number = 0
    served = dict.fromkeys(names, 0.0)

    def offer(name: str, size: int) -> None:
        nonlocal number
        number += 1
        queue.push(ticket(number, tenant=name, tokens=max(1, int(size * rng.uniform(0.5, 1.5)))))

    for name, size in zip(names, sizes, strict=False):
        for _ in range(3):
            offer(name, size)
    while sum(served.values()) < 600_000:
        first = queue.peek()
        assert first is not None
        offer(first.tenant, sizes[names.index(first.tenant)])  # nobody ever runs dry
        queue.serve(first)
        used = first.tokens * rng.uniform(0.2, 2.0)  # what it used turns out otherwise than thought
        queue.settle(first, used)
        served[first.tenant] += used
    total = sum(served.values())
    for name, weight in zip(names, weights, strict=True):
        assert abs(served[name] / total - weight / sum(weights)) < 0.05


@given(
    st.lists(
        st.tuples(st.sampled_from(["push", "serve", "remove", "settle"]), st.integers(0, 5), st.integers(0, 40)),
        max_size=80,
    ),
    st.sets(st.sampled_from(["m0", "m1"])),
)
def test_the_line_of_tenants_says_what_looking_at_all_of_them_would(
    steps: list[tuple[str, int, int]], held: set[str]
) -> None:
    queue = FairQueue({"t1": 2.0, "t2": 0.5})
    waiting: list[Ticket] = []
    served: list[Ticket] = []
    for number, (what, which, tokens) in enumerate(steps):
        if what == "push":
            waiting.append(ticket(number, tenant=f"t{which}", tokens=tokens, model=f"m{tokens % 2}"))
            queue.push(waiting[-1])
        elif what == "serve" and (first := queue.peek()) is not None:
            queue.serve(first)
            waiting.remove(first)
            served.append(first)
        elif what == "remove" and waiting:
            queue.remove(waiting.pop(which % len(waiting)))
        elif what == "settle" and served:
            queue.settle(served.pop(which % len(served)), float(tokens))
        firsts: dict[str, int] = {}
        for one in waiting:
            firsts[one.tenant] = min(one.number, firsts.get(one.tenant, one.number))
        ranks = {
            (queue._tenants[one.tenant].served, firsts[one.tenant], due_of(one), one.number): one
            for one in waiting
            if one.model not in held
        }
        expected = ranks[min(ranks)] if ranks else None
        assert queue.peek(held) is expected
        assert len(queue._line) <= FEW_PLACES + 2 * len(queue._tenants)


def test_the_next_of_five_thousand_tenants_is_found_without_looking_at_them() -> None:
    queue = FairQueue()
    for number in range(5000):
        queue.push(ticket(number, tenant=f"t{number:04}", tokens=5))
    looked_at = 0
    first = queue._first

    def counted(*arguments: Any) -> Any:
        nonlocal looked_at
        looked_at += 1
        return first(*arguments)

    queue._first = counted  # type: ignore[method-assign]
    for number in range(5000):
        one = queue.peek()
        assert one is not None
        assert one.number == number
        queue.serve(one)
    assert looked_at == 5000


# ---- the gate


def gate_of(**rules: Any) -> ProviderGate:
    return ProviderGate(GateRules(**rules), provider="acme")


def test_a_gate_never_has_more_under_way_than_its_permits_and_gives_them_in_order() -> None:
    gate = gate_of(max_inflight=2)
    tickets = [ticket(n) for n in range(5)]
    for one in tickets:
        assert gate.offer(one, 0.0) is None
    assert admitted(gate, 0.0) == [0, 1]
    assert (gate.inflight, gate.queued) == (2, 3)
    gate.ended(tickets[0], DONE, 1.0)
    assert admitted(gate, 1.0) == [2]


def test_the_quick_way_in_is_for_first_comers_far_below_every_bound() -> None:
    def passes(prepare: Any = None, *, one: Ticket | None = None, now: float = 0.0, **rules: Any) -> bool:
        gate = gate_of(**rules)
        if prepare is not None:
            prepare(gate)
        before = gate.inflight
        passed = gate.pass_nowait(one or ticket(9), now)
        assert gate.inflight == before + passed
        return passed

    def somebody_waits(gate: ProviderGate) -> None:
        gate.offer(ticket(1), 0.0)

    def a_breaker_opened(gate: ProviderGate) -> None:
        failing = [ticket(n) for n in range(5)]
        for one in failing:
            assert gate.pass_nowait(one, 0.0)
        for one in failing:
            gate.ended(one, Ending(fault("reset"), "silent"), 0.0)

    def told(remaining: float) -> Any:
        def tell(gate: ProviderGate) -> None:
            first = ticket(1)
            assert gate.pass_nowait(first, 0.0)
            gate.learnt(first, LimitsSeen(requests=Window(10, remaining, 60.0)), 0.0)
            gate.ended(first, DONE, 0.0)

        return tell

    assert passes()
    assert passes(max_inflight=2)
    assert not passes(max_inflight=1)  # the last permit is given in order
    assert not passes(somebody_waits)
    assert not passes(a_breaker_opened)
    assert not passes(a_breaker_opened, now=40.0)  # half open: probes are counted in order
    assert passes(told(9))
    assert not passes(told(6))  # half of it would be left
    assert not passes(limits=LimitRules(requests_per_minute=2))
    assert not passes(one=ticket(9, deadline=0.0))


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 200), st.booleans(), st.integers(0, 60)), max_size=60), st.integers(2, 40))
def test_the_quick_way_in_leaves_a_gate_as_an_offer_and_a_turn_would(
    steps: list[tuple[int, bool, int]], max_inflight: int
) -> None:
    """Two gates told the same; one lets in by the quick way where it may."""
    quick, usual = (gate_of(max_inflight=max_inflight, limits=LimitRules(60, 20_000)) for _ in range(2))
    running: list[tuple[Ticket, Ticket]] = []
    now = 0.0
    for number, (tokens, is_end, pause) in enumerate(steps):
        now += pause / 4
        if is_end and running:
            one, other = running.pop(0)
            ending = Ending(None, "complete", usage=Usage(input_tokens=tokens, output_tokens=1))
            quick.ended(one, ending, now)
            usual.ended(other, ending, now)
        else:
            pair = ticket(number, tokens=tokens), ticket(number, tokens=tokens)
            assert usual.offer(pair[1], now) is None
            if quick.pass_nowait(pair[0], now):
                assert [one for one, refused in usual.turn(now) if refused is None] == [pair[1]]
                running.append(pair)
            else:
                assert quick.offer(pair[0], now) is None
        assert [one.number for one, _ in quick.turn(now)] == [one.number for one, _ in usual.turn(now)]
        running = [(a, b) for a in quick._inflight for b in usual._inflight if a.number == b.number]
        assert (quick.inflight, quick.queued, quick.view(now)) == (usual.inflight, usual.queued, usual.view(now))


def test_beyond_its_bound_a_gate_sheds_the_newest_at_once() -> None:
    gate = gate_of(max_inflight=1, max_queued=1)
    for n in range(4):
        gate.offer(ticket(n), 0.0)
    out = gate.turn(0.0)
    assert [(one.number, error.kind if error else None) for one, error in out] == [(0, None), (3, "shed"), (2, "shed")]


def test_told_to_shed_a_gate_lets_nobody_wait() -> None:
    gate = gate_of(max_inflight=1, when_full="shed")
    gate.offer(ticket(1), 0.0)
    gate.offer(ticket(2), 0.0)
    assert [error.kind if error else None for _, error in gate.turn(0.0)] == [None, "shed"]


def test_a_call_that_cannot_be_admitted_in_time_is_told_so_at_once_and_when_it_could_have_been() -> None:
    gate = gate_of(limits=LimitRules(requests_per_minute=6))
    for n in range(6):
        gate.offer(ticket(n), 0.0)
    assert len(admitted(gate, 0.0)) == 6
    assert gate.offer(ticket(7, deadline=10.0), 0.0) is None
    refused = gate.offer(ticket(8, deadline=19.0), 0.0)
    assert isinstance(refused, AdmissionError)
    assert (refused.kind, refused.code, refused.retry_after_s) == ("admission_too_late", "E2001", 20.0)
    assert gate.offer(ticket(9, deadline=20.0), 0.0) is None
    assert admitted(gate, 0.0) == []
    assert gate.wake_at() == 10.0
    assert admitted(gate, 10.0) == [7]
    assert gate.wake_at() == 20.0


def test_one_that_is_overtaken_until_it_is_too_late_is_told_when_its_turn_comes() -> None:
    gate = gate_of(limits=LimitRules(requests_per_minute=1))
    gate.offer(ticket(1), 0.0)
    assert admitted(gate, 0.0) == [1]
    assert gate.offer(ticket(2, deadline=70.0), 0.0) is None
    assert gate.offer(ticket(3, deadline=65.0), 0.0) is None
    assert admitted(gate, 60.0) == [3]
    out = gate.turn(60.0)
    assert out == []
    assert gate.queued == 0  # it was sent away in the turn in which it was overtaken


def test_whoever_has_no_deadline_waits_ten_minutes_for_a_permit_and_no_longer() -> None:
    gate = gate_of(max_inflight=1)
    gate.offer(ticket(1), 0.0)
    assert admitted(gate, 0.0) == [1]
    gate.offer(ticket(2, now=5.0), 5.0)
    gate.offer(ticket(3, now=6.0, deadline=10_000.0), 6.0)
    assert admitted(gate, 6.0) == []
    assert gate.wake_at() == 605.0
    out = gate.turn(605.0)
    assert [(one.number, error.kind if error else None) for one, error in out] == [(2, "admission_too_late")]
    assert (gate.queued, gate.wake_at()) == (1, math.inf)


def test_a_limit_by_model_holds_that_model_alone_and_one_by_key_holds_all() -> None:
    for scope, expected in (("model", [1, 3]), ("key", [1])):
        gate = gate_of(limits=LimitRules(requests_per_minute=1), scope=scope)
        for n, model in ((1, "a"), (2, "a"), (3, "b")):
            gate.offer(ticket(n, model=model), 0.0)
        assert admitted(gate, 0.0) == expected


def test_a_large_call_is_not_starved_by_small_ones() -> None:
    gate = gate_of(limits=LimitRules(tokens_per_minute=600))
    gate.offer(ticket(1, tokens=500), 0.0)
    gate.offer(ticket(2, tokens=600), 0.0)
    gate.offer(ticket(3, tokens=10), 0.0)
    assert admitted(gate, 0.0) == [1]
    assert admitted(gate, 49.0) == []
    assert admitted(gate, 50.0) == [2]


def test_what_was_not_used_comes_back_to_the_bucket_of_tokens() -> None:
    gate = gate_of(limits=LimitRules(tokens_per_minute=600))
    first = ticket(1, tokens=600)
    gate.offer(first, 0.0)
    admitted(gate, 0.0)
    gate.ended(first, Ending(None, "complete", usage=Usage(total_tokens=100)), 0.0)
    gate.offer(ticket(2, tokens=500), 0.0)
    assert admitted(gate, 0.0) == [2]


@pytest.mark.parametrize("limit", [None, 5.0])
def test_a_limit_that_a_reply_told_for_a_month_is_looked_at_again_after_ten_minutes_by_one_call(
    limit: float | None,
) -> None:
    gate = gate_of()
    month = LimitsSeen(requests=Window(limit, 0.0, 30 * 86_400.0))
    first = ticket(1)
    gate.offer(first, 0.0)
    admitted(gate, 0.0)
    gate.learnt(first, month, 0.0)
    gate.ended(first, DONE, 0.0)
    for now in (0.0, 1.0, 599.0):
        refused = gate.offer(ticket(2, now=now), now)
        assert refused is not None
        assert refused.kind == "admission_too_late"  # at once: it may go elsewhere
    looks = [ticket(number, now=600.0) for number in range(10, 13)]
    assert [gate.offer(one, 600.0) for one in looks] == [None] * 3
    said = {one.number: error for one, error in gate.turn(600.0)}
    assert [error.kind if error is not None else None for error in said.values()] == [None, *["admission_too_late"] * 2]
    gate.ended(looks[0], DONE, 601.0)  # which told nothing: the next one looks ten minutes later
    assert gate.offer(ticket(20, now=1199.0), 1199.0) is not None
    assert gate.offer(ticket(21, now=1200.0), 1200.0) is None
    assert admitted(gate, 1200.0) == [21]
    gate.learnt(looks[0], LimitsSeen(requests=Window(5.0, 4.0, 1.0)), 1201.0)


def test_a_reply_that_used_more_than_anybody_could_holds_the_next_ten_minutes_at_most() -> None:
    gate = gate_of(limits=LimitRules(tokens_per_minute=600))
    first = ticket(1, tokens=100)
    gate.offer(first, 0.0)
    admitted(gate, 0.0)
    gate.ended(first, Ending(None, "complete", usage=Usage(total_tokens=10**9)), 0.0)
    gate.offer(ticket(2, tokens=0), 0.0)
    assert admitted(gate, 599.0) == []
    assert admitted(gate, 600.0) == [2]


def test_a_pause_that_the_provider_asked_for_holds_everyone_of_that_limit() -> None:
    gate = gate_of()
    first = ticket(1)
    gate.offer(first, 0.0)
    admitted(gate, 0.0)
    gate.ended(first, Ending(refusal(429, "E2001", retry_after_s=7.0), "refused"), 1.0)
    gate.offer(ticket(2), 1.0)
    assert admitted(gate, 1.0) == []
    assert gate.wake_at() == 8.0
    assert admitted(gate, 8.0) == [2]
    too_late = gate.offer(ticket(3, deadline=5.0), 1.0)
    assert too_late is not None or gate.queued == 0


def test_a_hint_of_a_day_closes_the_gate_for_ten_minutes_at_most() -> None:
    gate = gate_of()
    first = ticket(1)
    gate.offer(first, 0.0)
    admitted(gate, 0.0)
    gate.ended(first, Ending(refusal(429, "E2001", retry_after_s=86400.0), "refused"), 0.0)
    gate.offer(ticket(2, now=0.0), 0.0)
    admitted(gate, 0.0)
    assert gate.wake_at() == 600.0


def trip(gate: ProviderGate, error: Any, *, model: str = "m", times: int = 5, now: float = 0.0) -> None:
    for n in range(times):
        one = ticket(1000 + n, model=model, now=now)
        assert gate.offer(one, now) is None
        gate.turn(now)
        gate.ended(one, Ending(error, "refused" if error.kind == "provider" else "unsent"), now)


def test_an_open_breaker_refuses_its_model_at_once_and_tells_when_it_will_try_again() -> None:
    gate = gate_of()
    trip(gate, refusal())
    refused = gate.offer(ticket(1), 5.0)
    assert refused is not None
    assert (refused.kind, refused.retry_after_s) == ("breaker_open", 25.0)
    assert gate.offer(ticket(2, model="other"), 5.0) is None
    assert [record.state for record in gate.news()] == ["open"]  # type: ignore[union-attr]


def test_connect_failures_count_for_all_models() -> None:
    gate = gate_of()
    for n in range(5):
        trip(gate, fault("connect"), model=f"m{n}", times=1)
    refused = gate.offer(ticket(1, model="another"), 0.0)
    assert refused is not None
    assert refused.kind == "breaker_open"


@pytest.mark.parametrize(("status", "code"), [(400, "E1001"), (401, "E1002"), (404, "E1004"), (429, "E2001")])
def test_the_callers_own_mistakes_and_limits_open_no_breaker(status: int, code: str) -> None:
    gate = gate_of()
    trip(gate, refusal(status, code), times=20)
    assert gate.offer(ticket(1), 0.0) is None


def test_a_probe_of_a_half_open_breaker_takes_a_permit_first() -> None:
    gate = gate_of(max_inflight=1)
    trip(gate, refusal())
    long = ticket(50, model="other")
    gate.offer(long, 30.0)
    assert admitted(gate, 30.0) == [50]
    gate.offer(ticket(51), 30.0)
    assert admitted(gate, 30.0) == []  # it waits for the permit, and has not used up the probe
    gate.ended(long, DONE, 31.0)
    assert admitted(gate, 31.0) == [51]
    refused = gate.offer(ticket(52), 31.0)
    assert refused is not None
    assert refused.kind == "breaker_open"


@pytest.mark.parametrize("probes", [1, 2])
def test_a_probe_that_begins_to_answer_has_gone_well_once(probes: int) -> None:
    gate = gate_of(breaker=BreakerRules(probes=probes))
    trip(gate, refusal())
    assert not gate.is_probing
    running = []
    for n in range(probes):
        running.append(ticket(50 + n, now=30.0))
        assert gate.offer(running[n], 30.0) is None
        assert admitted(gate, 30.0) == [50 + n]
        assert gate.is_probing
        for _ in range(3):
            gate.began(running[n], 1.0, 31.0)
        if n == 0:
            assert [breaker.state for breaker in gate.view(31.0).breakers] == ["half_open"] * (probes - 1)
    assert not gate.is_probing
    assert gate.offer(ticket(60), 31.0) is None
    for one in running:
        gate.ended(one, Ending(fault("reset"), "partial"), 32.0)  # what it said as a probe is said
    assert gate.offer(ticket(61), 32.0) is None


def test_a_probe_that_begins_late_where_slow_calls_count_has_failed() -> None:
    gate = gate_of(breaker=BreakerRules(slow_call_s=5.0))
    trip(gate, refusal())
    probe = ticket(50, now=30.0)
    gate.offer(probe, 30.0)
    admitted(gate, 30.0)
    gate.began(probe, 6.0, 36.0)
    refused = gate.offer(ticket(51), 37.0)
    assert refused is not None
    assert (refused.kind, refused.retry_after_s) == ("breaker_open", 29.0)


def test_whoever_waits_when_a_breaker_opens_is_told_at_once() -> None:
    gate = gate_of(max_inflight=5)
    running = [ticket(n) for n in range(5)]
    for one in [*running, ticket(8), ticket(9, model="other")]:
        gate.offer(one, 0.0)
    assert len(admitted(gate, 0.0)) == 5
    for one in running:
        gate.ended(one, Ending(refusal(), "refused"), 1.0)
    assert [(one.number, error.kind if error else None) for one, error in gate.turn(1.0)] == [
        (8, "breaker_open"),
        (9, None),
    ]


def test_slow_calls_can_count_as_failures() -> None:
    gate = gate_of(breaker=BreakerRules(failures=2, slow_call_s=5.0))
    for n in range(2):
        one = ticket(n)
        gate.offer(one, 0.0)
        gate.turn(0.0)
        gate.ended(one, Ending(None, "complete", first_token_s=6.0), 0.0)
    assert gate.offer(ticket(9), 0.0) is not None


def test_a_retry_that_nobody_can_pay_for_is_refused() -> None:
    gate = gate_of(budget=BudgetRules(reserve=1, per_call=0, per_second=0))
    assert gate.offer(ticket(1, is_retry=True), 0.0) is None
    refused = gate.offer(ticket(2, is_retry=True), 0.0)
    assert refused is not None
    assert refused.kind == "retry_budget"
    assert gate.offer(ticket(3), 0.0) is None


def test_a_retry_that_did_not_go_is_paid_back() -> None:
    def left(gate: ProviderGate, now: float = 0.0) -> float:
        return gate.view(now).retries_left

    rules = BudgetRules(reserve=5, per_call=0, per_second=0)
    shedding = gate_of(max_inflight=1, max_queued=0, budget=rules)
    waiting = gate_of(max_inflight=1, budget=rules, breaker=BreakerRules(failures=1))
    for gate in (shedding, waiting):
        running = ticket(1)
        gate.offer(running, 0.0)
        admitted(gate, 0.0)
        retry = ticket(2, is_retry=True)
        gate.offer(retry, 0.0)
        assert left(gate) == 4
        gate.turn(0.0)
        if gate is waiting:
            assert left(gate) == 4
            gate.withdraw(retry, 0.0)
            assert left(gate) == 5
            gate.offer(retry, 0.0)
            gate.ended(running, Ending(refusal(), "refused"), 1.0)  # the breaker opens
            gate.turn(1.0)
        assert left(gate, 1.0) == 5


def test_a_forecast_says_what_an_offer_would_and_changes_nothing() -> None:
    gate = gate_of(limits=LimitRules(requests_per_minute=1))
    assert gate.forecast(ticket(1), 0.0).admitted
    gate.offer(ticket(1), 0.0)
    admitted(gate, 0.0)
    late = gate.forecast(ticket(2, deadline=5.0), 0.0)
    assert (late.admitted, late.kind, late.wait_s) == (False, "admission_too_late", 60.0)
    waits = gate.forecast(ticket(3), 0.0)
    assert (waits.admitted, waits.wait_s, gate.queued) == (True, 60.0, 0)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_ticket_comes_out_of_a_gate_exactly_once(data: st.DataObject) -> None:
    gate = gate_of(
        max_inflight=data.draw(st.integers(1, 3)),
        max_queued=data.draw(st.integers(0, 4)),
        limits=LimitRules(requests_per_minute=data.draw(st.sampled_from([None, 6, 60]))),
        breaker=BreakerRules(failures=2, open_s=5.0),
    )
    now, number = 0.0, 0
    waiting: dict[Ticket, None] = {}
    running: dict[Ticket, None] = {}
    for what in data.draw(
        st.lists(st.sampled_from(["offer", "offer", "turn", "end", "bad", "leave", "tick"]), max_size=60)
    ):
        if what == "offer":
            number += 1
            deadline = data.draw(st.sampled_from([math.inf, now + 3, now + 30]))
            one = ticket(
                number, now=now, deadline=deadline, model=f"m{number % 2}", tenant=f"t{number % 3}", tokens=number
            )
            if gate.offer(one, now) is None:
                waiting[one] = None
        elif what == "turn":
            for one, refused in gate.turn(now):
                del waiting[one]
                if refused is None:
                    running[one] = None
        elif what in ("end", "bad") and running:
            one = next(iter(running))
            del running[one]
            gate.ended(one, DONE if what == "end" else Ending(refusal(), "refused"), now)
        elif what == "leave" and waiting:
            one = next(iter(waiting))
            del waiting[one]
            gate.withdraw(one, now)
        elif what == "tick":
            now += data.draw(st.sampled_from([0.5, 5.0, 40.0]))
        assert gate.inflight == len(running) <= gate.rules.max_inflight
        assert gate.queued == len(waiting)
    for one in list(waiting):
        gate.withdraw(one, now)
    for one in running:
        gate.ended(one, DONE, now)
    assert (gate.inflight, gate.queued, gate.view(now).queued_by_tenant) == (0, 0, {})
