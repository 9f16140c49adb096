"""Declared checks: without a key, never more often than declared, and a crash of them is no crash of anything else."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from ai_lib_trio import CallerError, Config, open_client
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.routing import Endpoint, ModelArray
from ai_lib_trio.testing import Head, Quiescence, ScriptedTransport, Stall, Wait, quiescence
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.types.records import ActorRestarted, HealthChanged
from client_support import Recorder, echo

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

__all__ = ["quiescence"]


def acme(folder: Path, availability: str) -> Path:
    written = folder / "acme.yaml"
    written.write_text(
        "id: acme\nprotocol_version: '2.0'\n"
        "endpoint: {base_url: 'https://acme.example/v1', auth: {type: bearer, token_env: ACME_API_KEY}}\n"
        "default_api_family: chat_completions\n"
        "api_families: {chat_completions: {dialect: chat_completions}}\n"
        f"availability: {availability}\n",
        encoding="utf-8",
    )
    return written


class Place:
    """A provider whose checks answer what the test says."""

    def __init__(self) -> None:
        self.status = 200
        self.checks: list[tuple[float, WireRequest]] = []

    def __call__(self, request: WireRequest) -> Any:
        if request.method == "POST" and request.body:
            return echo(request)
        self.checks.append((trio.current_time(), request))
        return [Head(self.status)] if self.status else [Stall()]


def client_of(manifest: Path, place: Place, sink: Recorder, **settings: Any) -> Any:
    config = Config(transport=ScriptedTransport(place), environ={"ACME_API_KEY": "the-key"}, sinks=(sink,), **settings)
    return open_client("acme/m", manifests=manifest, config=config)


DECLARED = (
    "{required: false, regions: [global], interval_ms: 5000, "
    "check: {method: HEAD, path: /up, expected_status: [200, 401], timeout_ms: 500}}"
)


async def test_a_provider_in_use_is_checked_as_declared_and_changes_are_told(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path
) -> None:
    place, sink = Place(), Recorder()
    async with client_of(acme(tmp_path, DECLARED), place, sink, check_health_s=1) as client:
        await trio.sleep(20)
        assert place.checks == []  # nobody uses it
        await client.chat().user("x").execute()
        await trio.sleep(11)
        place.status = 500
        await trio.sleep(5)
        place.status = 401
        await trio.sleep(5)
        place.status = 0
        await trio.sleep(5)
    assert [at - place.checks[0][0] for at, _ in place.checks] == [0, 5, 10, 15, 20, 25][: len(place.checks)]
    assert {(request.method, request.url) for _, request in place.checks} == {("HEAD", "https://acme.example/v1/up")}
    assert not any("the-key" in repr(request.headers) + request.url for _, request in place.checks)
    told = [(one.is_healthy, one.reason) for one in sink.records if isinstance(one, HealthChanged)]
    assert told == [(True, ""), (False, "status 500"), (True, ""), (False, "no answer within 0.5 s")]


@pytest.mark.parametrize(("given", "apart"), [(1.0, 5.0), (5.0, 5.0), (30.0, 30.0)])
async def test_checks_are_never_more_frequent_than_declared(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path, given: float, apart: float
) -> None:
    place, sink = Place(), Recorder()
    async with client_of(acme(tmp_path, DECLARED), place, sink, check_health_s=given) as client:
        for _ in range(50):
            await client.chat().user("x").execute()
            await trio.sleep(2)
    times = [at for at, _ in place.checks]
    assert {after - before for before, after in itertools.pairwise(times)} == {apart}


@pytest.mark.parametrize("path", ["@elsewhere.example/up", ".elsewhere.example/up", "up", "https://elsewhere.example/"])
async def test_a_path_that_would_lead_to_another_host_is_no_check(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path, path: str
) -> None:
    place = Place()
    manifest = acme(tmp_path, f"{{check: {{method: GET, path: '{path}'}}}}")
    manifest.write_text(manifest.read_text().replace("https://acme.example/v1", "https://acme.example"))
    async with client_of(manifest, place, Recorder(), check_health_s=0) as client:
        await client.chat().user("x").execute()
        await trio.sleep(100)
    assert place.checks == []


async def test_another_check_is_tried_where_the_first_fails_and_one_is_declared(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path
) -> None:
    place, sink = Place(), Recorder()
    place.status = 404
    first = "check: {method: GET, path: /up, expected_status: [200]}"
    declared = f"{{{first}, fallback: {{method: POST, path: /ping, expected_status: [404]}}}}"
    async with client_of(acme(tmp_path, declared), place, sink, check_health_s=0) as client:
        await client.chat().user("x").execute()
        await trio.sleep(30)
    assert [request.method for _, request in place.checks] == ["GET", "POST"]  # once a minute where nothing is declared
    assert [one.is_healthy for one in sink.records if isinstance(one, HealthChanged)] == [True]


async def test_without_a_declaration_or_without_asking_nothing_is_checked(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path
) -> None:
    for declared, settings in (("{}", {"check_health_s": 0}), (DECLARED, {})):
        place = Place()
        async with client_of(acme(tmp_path, declared), place, Recorder(), **settings) as client:
            await client.chat().user("x").execute()
            await trio.sleep(100)
        assert place.checks == []


class Broken(Place):
    """The first `crashes` checks meet a bug of ours."""

    def __init__(self, crashes: int) -> None:
        super().__init__()
        self.crashes = crashes
        self.errors: list[Exception] = []

    def __call__(self, request: WireRequest) -> Any:
        said = super().__call__(request)
        if request.method == "HEAD" and len(self.checks) <= self.crashes:
            self.errors.append(ZeroDivisionError(len(self.checks)))
            raise self.errors[-1]
        return said


async def test_a_crash_of_the_checks_is_a_restart_that_harms_no_call_and_checks_no_earlier(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path
) -> None:
    place, sink = Broken(crashes=1), Recorder()
    async with client_of(acme(tmp_path, DECLARED), place, sink, check_health_s=0) as client:
        await client.chat().user("x").execute()
        await wait_all_tasks_blocked()
        (check,) = client.tree().checks
        assert (check.state, check.crashes, check.is_healthy) == ("restarting", 1, None)
        assert "acme at https://acme.example  restarting, 1 crashes" in str(client.tree())
        await trio.sleep(1)
        assert client.tree().checks[0].state == "running"
        await trio.sleep(6)
        reply = await client.chat().user("still").execute()
        (check,) = client.tree().checks
        assert (check.state, check.crashes, check.is_healthy) == ("running", 1, True)
        assert [actor.crashes for actor in client.tree().actors] == [0]  # the actor of calls is another
    assert reply.content == "you said still"
    assert [at for at, _ in place.checks] == [0.0, 5.0]
    assert [one.is_healthy for one in sink.records if isinstance(one, HealthChanged)] == [True]
    restarts = [one for one in sink.records if isinstance(one, ActorRestarted)]
    assert [(one.actor, one.provider, one.origin, one.deaths) for one in restarts] == [
        ("health", "acme", "https://acme.example", 1)
    ]


async def test_checks_that_crash_too_often_stay_down_and_calls_go_on(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path
) -> None:
    place, sink = Broken(crashes=1000), Recorder()
    async with client_of(acme(tmp_path, DECLARED), place, sink, check_health_s=0) as client:
        await client.chat().user("x").execute()
        await trio.sleep(100)
        reply = await client.chat().user("still").execute()
        (check,) = client.tree().checks
        assert (check.state, check.crashes, check.is_healthy) == ("failed", 4, None)
        assert "failed, 4 crashes" in str(client.tree())
        assert client._is_provider_healthy("acme")  # what nobody looks at is not taken for ill
    assert reply.content == "you said still"
    assert [at for at, _ in place.checks] == [0.0, 5.0, 10.0, 15.0]
    restarts = [one for one in sink.records if isinstance(one, ActorRestarted)]
    assert [(one.deaths, one.failed) for one in restarts] == [(1, False), (2, False), (3, False), (4, True)]


async def test_a_crash_of_one_places_checks_is_no_crash_of_anothers(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path
) -> None:
    place, sink = Broken(crashes=1), Recorder()
    router = ModelArray("pair", ["acme/m", Endpoint(name="other", model="acme/m", base_url="https://other.example/v1")])
    config = Config(transport=ScriptedTransport(place), environ={"ACME_API_KEY": "k"}, sinks=(sink,), check_health_s=0)
    async with open_client(router=router, manifests=acme(tmp_path, DECLARED), config=config) as client:
        for _ in range(8):
            await client.chat().user("x").execute()
        await trio.sleep(1)
        assert sorted(check.crashes for check in client.tree().checks) == [0, 1]
        assert {check.is_healthy for check in client.tree().checks} == {None, True}


async def test_a_crash_of_the_checks_ends_the_block_where_that_was_asked_for(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path
) -> None:
    place = Broken(crashes=1)
    settings = {"check_health_s": 0, "on_actor_failure": "raise"}
    with pytest.raises(ExceptionGroup) as info:
        async with client_of(acme(tmp_path, DECLARED), place, Recorder(), **settings) as client:
            await client.chat().user("x").execute()
            await trio.sleep_forever()
    assert info.value.exceptions == tuple(place.errors)


async def test_when_the_block_is_left_the_checks_end_before_the_calls(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path
) -> None:
    place = Place()

    def slow(request: WireRequest) -> Any:
        head, *rest = place(request)
        return [head, Wait(20.0), *rest] if request.body else [head]

    got: list[str] = []

    async def late(client: Any) -> None:
        got.append((await client.chat().user("late").execute()).content)

    transport = ScriptedTransport(slow)
    config = Config(transport=transport, environ={"ACME_API_KEY": "k"}, check_health_s=0, shutdown_grace_s=60)
    async with trio.open_nursery() as nursery:
        async with open_client("acme/m", manifests=acme(tmp_path, DECLARED), config=config) as client:
            nursery.start_soon(late, client)
            await trio.sleep(7)
            assert len(place.checks) == 2
        assert got == ["you said late"]
    assert trio.current_time() == 20.0
    assert len(place.checks) == 2  # none while the call had its grace


async def test_a_changed_manifest_is_another_actor_which_checks_no_earlier_and_as_the_new_one_declares(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path
) -> None:
    place, sink = Place(), Recorder()
    manifest = acme(tmp_path, "{}")
    async with client_of(manifest, place, sink, check_health_s=0) as client:
        await client.chat().user("x").execute()
        for declared in (DECLARED, DECLARED.replace("/up", "/new")):
            catalog = Catalog.open(acme(tmp_path, declared), environ={})
            client._use(catalog)
            client._targets.swap(catalog)
            await client.chat().user("x").execute()
            await wait_all_tasks_blocked()
        assert [request.url.rpartition("/")[2] for _, request in place.checks] == ["up"]
        await trio.sleep(6)
        assert [request.url.rpartition("/")[2] for _, request in place.checks] == ["up", "new"]
        assert place.checks[1][0] - place.checks[0][0] == 5.0
        assert len(client.tree().checks) == 1


async def test_a_time_between_checks_is_a_number_of_seconds() -> None:
    with pytest.raises(CallerError, match="check_health_s"):
        Config(check_health_s=-1)
