"""Invariants of resilience, over calls that are made, failed and left at random, and left at every single step.

Through the public client: on a scripted wire and virtual time where every step is tried, on real sockets by samples.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from trio.testing import MockClock

from ai_lib_trio import AiClient, AiLibError, CallerError, Config, open_client
from ai_lib_trio.errors import TransportError
from ai_lib_trio.resilience.budget import BudgetRules
from ai_lib_trio.resilience.circuit_breaker import Breaker, BreakerRules
from ai_lib_trio.resilience.executor import Resilience
from ai_lib_trio.simulator import Cut, Script, Simulator, Status, Text, Usage, open_simulator
from ai_lib_trio.testing import Data, Fail, Head, Quiescence, ScriptedTransport, Sending, Step, Wait
from ai_lib_trio.testing import quiescence as quiescence_block
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.types.stats import CallStats
from client_support import KEYS, SSE, AtStep, Recorder, asked_to_stream, delta, finish, frame, refused, streamed, whole

ONE, TWO, THREE = "openai/gpt-4o-mini", "openai/gpt-4o", "openai/gpt-4.1-mini"  # with prices, so that costs are sums
PLAIN = Resilience(jitter="none", min_delay_s=1.0, max_delay_s=4.0)
MOST_STEPS = 1500  # far more than any of these takes


def client_on(transport: Any, **settings: Any) -> Any:
    settings.setdefault("resilience", PLAIN)
    return open_client(ONE, config=Config(transport=transport, environ=KEYS, **settings))


def said(request: WireRequest, *pieces: str, after_s: float = 0.0) -> list[Step]:
    reply = streamed(*pieces, pace_s=0.5) if asked_to_stream(request) else whole("".join(pieces))
    return [Sending(), Wait(after_s), *reply]


def part(kind: str) -> Callable[[WireRequest], Sequence[Step]]:
    """What one attempt meets."""

    def play(request: WireRequest) -> Sequence[Step]:
        if kind == "ok":
            return said(request, "one ", "two")
        if kind == "slow":
            return said(request, "one ", "two", after_s=9.0)
        if kind == "refused":
            return [Sending(), Wait(0.2), *refused(503)]
        if kind == "limited":
            return refused(429, headers={"retry-after": "2"})
        if kind == "unsent":
            return [Wait(0.1), Fail(TransportError("no", kind="connect"))]
        if kind == "silent":
            return [Sending(), Wait(0.3), Fail(TransportError("gone", kind="reset"))]
        assert kind == "cut"
        return [Head(200, SSE), Data(frame(delta("one "))), Wait(0.4), Fail(TransportError("gone", kind="reset"))]

    return play


PARTS = ("ok", "slow", "refused", "limited", "unsent", "silent", "cut")


def wire(*parts: str) -> ScriptedTransport:
    return ScriptedTransport(*(part(kind) for kind in parts))


# ---- ways to ask: each gives what has the stats, so that they can be read after it was left


async def read(stream: Any, held: list[Any]) -> None:
    held.append(stream)
    async with stream:
        async for _ in stream:
            pass


async def use_retry(client: AiClient, held: list[Any]) -> None:
    await read(client.chat().user("x").retry(max_attempts=4, partial=True).stream(), held)


async def use_whole_replies(client: AiClient, held: list[Any]) -> None:
    await client.chat().user("x").retry(max_attempts=3).fallback(TWO).execute()


async def use_chain(client: AiClient, held: list[Any]) -> None:
    chat = client.chat().user("x").retry(max_attempts=2).fallback(TWO, THREE, mid_stream="restart")
    await read(chat.stream(), held)


async def use_going_on(client: AiClient, held: list[Any]) -> None:
    chat = client.chat().user("x").retry(max_attempts=1).fallback(TWO, THREE, mid_stream="continue")
    await read(chat.stream(), held)


async def use_race(client: AiClient, held: list[Any]) -> None:
    await read(client.race(client.chat().user("x"), models=[ONE, TWO, THREE]), held)


async def use_first_complete(client: AiClient, held: list[Any]) -> None:
    await read(client.race(client.chat().user("x"), models=[ONE, TWO], until="first_complete"), held)


async def use_hedge(client: AiClient, held: list[Any]) -> None:
    await read(client.hedge(client.chat().user("x"), models=[ONE, TWO, THREE], after=0.3), held)


async def use_quorum(client: AiClient, held: list[Any]) -> None:
    await read(client.quorum(client.chat().user("x"), models=[ONE, TWO, THREE], k=2), held)


Use = Callable[[AiClient, list[Any]], Awaitable[None]]
USES: list[Use] = [
    use_retry,
    use_whole_replies,
    use_chain,
    use_going_on,
    use_race,
    use_first_complete,
    use_hedge,
    use_quorum,
]
by_name = pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__[4:])


def check_ledger(stats: CallStats, transport: ScriptedTransport, sink: Recorder) -> None:
    """One entry for each attempt, each with what is known of its cost, and a total that is their sum."""
    names = sink.names()
    assert len(stats.attempts) == names.count("CallQueued") == names.count("AttemptEnded")
    assert [one.number for one in stats.attempts] == list(range(1, len(stats.attempts) + 1))
    assert names.count("AttemptStarted") == len(transport.asked)
    sent = [one for one in stats.attempts if one.state != "unsent"]
    assert len(sent) <= len(transport.asked) <= len(stats.attempts)
    for one in stats.attempts:
        assert (one.billed == "nothing") == (one.state in ("unsent", "refused"))
        assert (one.outcome == "ok") == (one.state == "complete")
        if one.state == "complete":
            assert one.usage is not None
            assert (one.billed, one.usage.input_tokens, one.usage.output_tokens) == ("reported", 3, 2)
        if one.billed == "estimated":
            assert one.usage is not None
            assert one.cost is not None
            assert one.cost > 0
        if one.billed == "unknown":
            assert one.cost is None
    known = [one.cost for one in stats.attempts if one.cost is not None and one.billed != "nothing"]
    assert (stats.cost or 0.0) == pytest.approx(sum(known))
    order = ["nothing", "reported", "estimated", "unknown"]
    assert stats.billed == max((one.billed for one in stats.attempts), key=order.index, default="nothing")
    assert sum(one.verdict == "won" for one in stats.attempts) <= 1


def leave_at(use: Use, step: int, *parts: str) -> bool:
    """Cancel at that step of any task, on a fresh client. Whether it was reached."""

    async def main() -> bool:
        sink = Recorder()
        transport = wire(*parts)
        held: list[Any] = []
        goes_on = PLAIN.over(Resilience(can_continue=(TWO, THREE)))
        async with quiescence_block(), client_on(transport, sinks=(sink,), resilience=goes_on) as client:
            scope = trio.CancelScope()
            watch = AtStep(step, scope.cancel)
            trio.lowlevel.add_instrument(watch)
            try:
                with scope:
                    try:
                        await use(client, held)
                    except AiLibError:
                        assert transport.open_exchanges == 0
                    assert transport.open_exchanges == 0
            finally:
                trio.lowlevel.remove_instrument(watch)
            # At once, with no turn of the scheduler between: everything was closed before the block was left.
            assert transport.open_exchanges == 0
            tree = client.tree()
            assert (tree.open_calls, tree.overdue_leaves) == (0, 0)
            assert all((one.inflight, one.queued, one.bugs, one.crashes) == (0, 0, 0, 0) for one in tree.actors)
            names = sink.names()
            assert names.count("CallStarted") == names.count("CallEnded")
            if held:
                try:
                    stats = held[0].stats
                except CallerError:  # it was left before it began
                    assert not transport.asked
                else:
                    check_ledger(stats, transport, sink)
        return watch.steps >= step

    return trio.run(main, clock=MockClock(autojump_threshold=0))


SCRIPTS = {
    "use_retry": ("refused", "unsent", "cut", "ok"),
    "use_whole_replies": ("limited", "silent", "refused", "ok"),
    "use_chain": ("unsent", "refused", "cut", "refused", "ok"),
    "use_going_on": ("cut", "cut", "ok"),
    "use_race": ("slow", "ok", "refused", "slow"),
    "use_first_complete": ("cut", "slow", "ok"),
    "use_hedge": ("slow", "refused", "ok"),
    "use_quorum": ("ok", "slow", "ok"),
}


@by_name
def test_left_at_every_step_nothing_is_open_and_the_ledger_is_whole(use: Use) -> None:
    for step in range(1, MOST_STEPS):
        if not leave_at(use, step, *SCRIPTS[use.__name__]):
            assert step > 30
            return
    raise AssertionError("it never came to its end")


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(USES),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=7),
    st.integers(1, 400),
)
def test_whatever_the_attempts_meet_and_whenever_it_is_left_the_ledger_is_whole(
    use: Use, parts: list[str], step: int
) -> None:
    leave_at(use, step, *parts)


# ---- never more than N open at the server


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.sampled_from(PARTS), st.floats(0.0, 3.0), st.floats(0.05, 12.0)), min_size=1, max_size=30),
)
def test_never_more_than_n_are_open_at_the_server_whatever_becomes_of_them(
    most: int, calls: list[tuple[str, float, float]]
) -> None:
    peak = 0

    async def main() -> None:
        nonlocal peak
        parts = iter([kind for kind, _, _ in calls])

        def script(request: WireRequest) -> Sequence[Step]:
            nonlocal peak
            peak = max(peak, transport.open_exchanges)
            return part(next(parts, "ok"))(request)

        transport = ScriptedTransport(script)
        mild = Resilience(max_inflight=most, breaker="off", jitter="none", min_delay_s=0.5, max_attempts=2)
        async with client_on(transport, resilience=mild) as client, trio.open_nursery() as nursery:

            async def call(begin_s: float, leave_s: float) -> None:
                await trio.sleep(begin_s)
                with trio.move_on_after(leave_s):
                    with contextlib.suppress(AiLibError):
                        await read(client.chat().user("x").stream(), [])

            for _, begin_s, leave_s in calls:
                nursery.start_soon(call, begin_s, leave_s)

    trio.run(main, clock=MockClock(autojump_threshold=0))
    assert peak <= most


@pytest.mark.parametrize("engine", ["native", "httpx"])
async def test_never_more_than_n_are_open_at_a_server_on_real_sockets(quiescence: Quiescence, engine: Any) -> None:
    async with open_simulator() as sim:
        sim.script(*[Script(steps=[Text("one two three")], pace=0.005)] * 30)
        async with simulated(sim, engine, max_inflight=4) as client, trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(read if number % 3 else glance, client.chat().user("x").stream(), [])
        await sim.wait_quiet()
        spans = [(entry.at, entry.ended_at or trio.current_time()) for entry in sim.entries]
        assert len(spans) == 30
        served = [(entry.at, entry.ended_at or 0.0) for entry in sim.entries if entry.outcome == "served"]
        assert max(sum(start <= at < end for start, end in served) for at, _ in served) <= 4
        assert len(sim.connections) <= 4 + sum(entry.left_by_client for entry in sim.entries)


async def glance(stream: Any, held: list[Any]) -> None:
    async with stream:
        await stream.__anext__()


# ---- tenants' shares


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_what_tenants_use_is_within_five_per_cent_of_their_weights(seed: int) -> None:
    weights = {"small": 1.0, "middle": 2.0, "large": 5.0}
    served = dict.fromkeys(weights, 0)
    chance = random.Random(seed)

    def script(request: WireRequest) -> Sequence[Step]:
        _, size = json.loads(request.body)["messages"][-1]["content"].split()
        made = int(int(size) * chance.uniform(0.3, 3.0))  # nobody can tell before
        usage = {**frame_usage(made)}
        return [Wait(chance.uniform(0.1, 1.0)), Head(200, SSE), *(Data(frame(one)) for one in (finish(), usage)), DONE]

    async def main() -> None:
        transport = ScriptedTransport(script)
        own = Resilience(max_inflight=3, tenants=weights, breaker="off")
        async with client_on(transport, resilience=own) as client, trio.open_nursery() as nursery:

            async def caller(tenant: str) -> None:
                while True:  # always with somebody in the queue
                    size = chance.randint(50, 400)
                    chat = client.chat().user(f"{tenant} {size}").max_tokens(size).tenant(tenant)
                    async with chat.stream() as stream:
                        async for _ in stream:
                            pass
                    served[tenant] += stream.stats.usage.total_tokens or 0

            for tenant in weights:
                for _ in range(6):
                    nursery.start_soon(caller, tenant)
            await trio.sleep(200)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    total = sum(served.values())
    for tenant, weight in weights.items():
        assert abs(served[tenant] / total - weight / sum(weights.values())) < 0.05, served


DONE = Data(frame("[DONE]"))


def frame_usage(made: int) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": made, "total_tokens": 10 + made}
    return {"id": "c-1", "object": "chat.completion.chunk", "model": "m", "choices": [], "usage": usage}


# ---- the breaker against a model of it


class BreakerModel(RuleBasedStateMachine):
    """The breaker beside the plainest account of what it should do: a list of all that happened."""

    @initialize(
        failures=st.integers(1, 4),
        share=st.sampled_from([0.25, 0.5, 1.0]),
        window_s=st.sampled_from([5.0, 20.0]),
        open_s=st.sampled_from([3.0, 10.0]),
        probes=st.integers(1, 3),
    )
    def begin(self, failures: int, share: float, window_s: float, open_s: float, probes: int) -> None:
        self.rules = BreakerRules(failures, share, window_s, open_s, probes)
        self.breaker = Breaker(self.rules)
        self.now = 0.0
        self.state = "closed"
        self.since = 0.0  # the state's
        self.era = 0  # counts states
        self.results: list[tuple[float, bool]] = []  # of this era
        self.out: list[tuple[int, int]] = []  # (era, pass) of calls on their way

    def move(self, state: str) -> None:
        self.state, self.since, self.era, self.results = state, self.now, self.era + 1, []

    @rule(seconds=st.floats(0.0, 12.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        if self.state == "open" and self.now >= self.since + self.rules.open_s:
            self.move("half_open")

    @rule()
    def enter(self) -> None:
        if self.breaker.allows(self.now):
            self.out.append((self.era, self.breaker.enter(self.now)))

    @rule(which=st.integers(0, 50), failed=st.sampled_from([True, True, False, None]))
    def leave(self, which: int, failed: bool | None) -> None:
        if not self.out:
            return
        era, pass_ = self.out.pop(which % len(self.out))
        self.breaker.leave(pass_, failed, self.now)
        if era != self.era or failed is None:
            return
        self.results.append((self.now, failed))
        if self.state == "half_open":
            if failed:
                self.move("open")
            elif len(self.results) == self.rules.probes:
                self.move("closed")
        elif failed:
            recent = [bad for at, bad in self.results if self.now - at <= self.rules.window_s]
            if sum(recent) >= self.rules.failures and sum(recent) >= self.rules.share * len(recent):
                self.move("open")

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "breaker"):
            return
        assert self.breaker.state(self.now) == self.state
        on_their_way = sum(era == self.era for era, _ in self.out)
        may = {"closed": True, "open": False}.get(self.state, on_their_way + len(self.results) < self.rules.probes)
        assert self.breaker.allows(self.now) == may
        if self.state == "half_open":
            assert on_their_way <= self.rules.probes
        if self.state == "open":
            assert on_their_way == 0
            assert self.breaker.opens_in_s(self.now) == pytest.approx(self.since + self.rules.open_s - self.now)


BreakerModel.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
test_the_breaker_does_what_a_plain_account_of_all_that_happened_says = BreakerModel.TestCase


# ---- no storm of retries


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(0, 20), st.floats(0.0, 0.5), st.floats(0.0, 1.0), st.floats(0.0, 2.0))
def test_however_many_call_a_provider_that_is_down_retries_stay_within_the_budget(
    callers: int, reserve: int, per_call: float, per_second: float, spread_s: float
) -> None:
    async def main() -> None:
        transport = ScriptedTransport(refused(503))
        budget = BudgetRules(float(reserve), per_call, per_second)
        own = Resilience(max_attempts=5, min_delay_s=0.2, max_delay_s=2.0, breaker="off", retry_budget=budget)
        async with client_on(transport, resilience=own, seed=5) as client, trio.open_nursery() as nursery:

            async def call(number: int) -> None:
                await trio.sleep(number * spread_s / callers)
                with pytest.raises(AiLibError) as caught:
                    await client.chat().user("x").execute()
                assert caught.value.status == 503  # the provider's own failure, not that the budget is spent

            for number in range(callers):
                nursery.start_soon(call, number)
        bound = callers + reserve + per_call * callers + per_second * trio.current_time()
        assert callers <= len(transport.asked) <= bound + 1e-6

    trio.run(main, clock=MockClock(autojump_threshold=0))


# ---- real sockets, by samples


def simulated(sim: Simulator, engine: Any, **own: Any) -> Any:
    settings = Resilience(min_delay_s=0.002, max_delay_s=0.004, breaker="off", can_continue=(TWO, THREE), **own)
    config = Config(
        environ={},
        api_keys={"openai": "test-key-one"},
        base_urls={"openai": sim.base_url("openai")},
        transport=engine,
        resilience=settings,
    )
    return open_client(ONE, config=config)


def play(kind: str) -> Any:
    """The same parts on real sockets."""
    usage = Usage(input_tokens=3, output_tokens=2)
    reply = [Text("one two three four"), usage]
    return {
        "ok": Script(steps=reply, pace=0.002),
        "slow": Script(steps=reply, first_token_delay=0.05, pace=0.002),
        "refused": Status(503),
        "limited": Status(429, retry_after=0),
        "unsent": Script(steps=reply, faults=[Cut(after_bytes=0, how="reset")]),
        "silent": Script(steps=reply, faults=[Cut(after_bytes=0, how="reset")]),
        "cut": Script(steps=reply, pace=0.002, faults=[Cut(after_frames=4, how="reset")]),
    }[kind]


@by_name
@pytest.mark.parametrize("engine", ["native", "httpx"])
async def test_left_at_random_steps_on_real_sockets_no_connection_is_left_open(
    quiescence: Quiescence, use: Use, engine: Any
) -> None:
    chance = random.Random(f"{use.__name__} {engine}")

    async def at(step: int) -> int:
        async with open_simulator() as sim:
            sim.script(*(play(kind) for kind in SCRIPTS[use.__name__]))
            held: list[Any] = []
            async with simulated(sim, engine) as client:
                scope = trio.CancelScope()
                watch = AtStep(step, scope.cancel)
                trio.lowlevel.add_instrument(watch)
                try:
                    with scope, contextlib.suppress(AiLibError):
                        await use(client, held)
                finally:
                    trio.lowlevel.remove_instrument(watch)
                tree = client.tree()
                assert (tree.open_calls, tree.overdue_leaves) == (0, 0)
                assert all((one.inflight, one.queued, one.bugs) == (0, 0, 0) for one in tree.actors)
                if held and sim.entries:
                    stats = held[0].stats
                    assert len([one for one in stats.attempts if one.state != "unsent"]) >= len(
                        [entry for entry in sim.entries if entry.frames_sent]
                    )
            with trio.fail_after(5):
                await sim.wait_quiet()
            assert sim.open_connections == 0
        return watch.steps

    steps = await at(10**9)
    for _ in range(8):
        await at(chance.randint(1, steps))
