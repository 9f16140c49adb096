"""Declared checks: without a key, never more often than declared, and a crash of them is no crash of anything else."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from ai_lib_trio import CallerError, Config, open_client
from ai_lib_trio.testing import Head, Quiescence, ScriptedTransport, Stall, quiescence
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.types.records import HealthChanged
from client_support import Recorder, echo

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


async def test_a_crash_of_the_checks_is_counted_and_they_begin_again(
    quiescence: Quiescence, autojump_clock: MockClock, tmp_path: Path
) -> None:
    class Broken(Place):
        def __call__(self, request: WireRequest) -> Any:
            if request.method == "HEAD" and len(self.checks) == 0:
                self.checks.append((0.0, request))
                raise ZeroDivisionError
            return super().__call__(request)

    place, sink = Broken(), Recorder()
    async with client_of(acme(tmp_path, DECLARED), place, sink, check_health_s=0) as client:
        await client.chat().user("x").execute()
        await trio.sleep(7)
        reply = await client.chat().user("still").execute()
    assert reply.content == "you said still"
    assert "ActorRestarted" in sink.names()
    assert [one.is_healthy for one in sink.records if isinstance(one, HealthChanged)] == [True]


async def test_a_time_between_checks_is_a_number_of_seconds() -> None:
    with pytest.raises(CallerError, match="check_health_s"):
        Config(check_health_s=-1)
