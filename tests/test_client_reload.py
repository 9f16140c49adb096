"""Manifests that change while a client is open: calls end on what they began with, and no call is lost."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import trio

from ai_lib_trio import AiLibError, Config, open_client
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.resilience.executor import Resilience
from ai_lib_trio.testing import Data, Head, Hold, ScriptedTransport, Step
from ai_lib_trio.transport.base import WireRequest
from ai_lib_trio.types.records import ManifestsChanged
from client_support import SSE, delta, finish, frame, refused, whole

ACME = """\
id: acme
protocol_version: "2.0"
name: Acme
endpoint:
  base_url: https://acme.example
  auth: {type: bearer, token_env: ACME_API_KEY}
api_families:
  chat: {dialect: chat_completions, encode: {path: PATH}}
"""
ENVIRON = {"ACME_API_KEY": "test-key"}


class Files:
    """A manifest on disk that is written whole, and the records that a client made of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "acme.yaml"
        self.changes: list[ManifestsChanged] = []
        self._changed = trio.Event()
        self._written = 0

    def write(self, text: str) -> None:
        self._written += 1
        partial = self.path.with_suffix(".part")
        partial.write_text(text, encoding="utf-8")
        os.utime(partial, ns=(self._written, self._written))  # two writes within one tick of a file system differ
        os.replace(partial, self.path)

    def sink(self, record: object) -> None:
        if isinstance(record, ManifestsChanged):
            self.changes.append(record)
            self._changed.set()

    async def write_and_wait(self, text: str) -> ManifestsChanged:
        self._changed = trio.Event()
        self.write(text)
        with trio.fail_after(30):
            await self._changed.wait()
        return self.changes[-1]

    def config(self, transport: ScriptedTransport) -> Config:
        return Config(
            transport=transport,
            environ=ENVIRON,
            sinks=(self.sink,),
            reload_manifests_s=0.01,
            resilience=Resilience(max_attempts=1, breaker="off"),
        )


def answer(request: WireRequest) -> Sequence[Step]:
    """A reply that says which path was asked."""
    return whole(request.url.rpartition("/")[2])


def at(path: str) -> str:
    return ACME.replace("PATH", path)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    found = Files(tmp_path)
    found.write(at("/one"))
    return found


async def test_a_changed_file_counts_from_the_next_call_on(files: Files) -> None:
    async with open_client("acme/m", manifests=files.path, config=files.config(ScriptedTransport(answer))) as client:
        assert (await client.chat("hi").execute()).content == "one"
        change = await files.write_and_wait(at("/two"))
        assert change.fault is None
        assert change.retired == ("acme",)
        assert (await client.chat("hi").execute()).content == "two"
        assert client.tree().manifests == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id: [", "acme.yaml:2"),
        (at("/two").replace("bearer", "bear"), "acme.yaml:6 at endpoint.auth.type: expected one of"),
        (at("{$iff: 1}"), "acme.yaml:8 at api_families.chat.encode.path"),
    ],
)
async def test_a_broken_file_keeps_the_old_one_and_says_so(files: Files, text: str, said: str) -> None:
    async with open_client("acme/m", manifests=files.path, config=files.config(ScriptedTransport(answer))) as client:
        assert (await client.chat("hi").execute()).content == "one"
        change = await files.write_and_wait(text)
        assert said.partition(" at ")[0] in str(change.fault)
        assert (await client.chat("hi").execute()).content == "one"
        assert client.tree().manifest_fault == change.fault
        assert "changed manifests are not used" in str(client.tree())
        assert (await files.write_and_wait(at("/three"))).fault is None
        assert client.tree().manifest_fault is None
        assert (await client.chat("hi").execute()).content == "three"


async def test_a_running_stream_ends_on_what_it_began_with_and_its_actor_is_drained(files: Files) -> None:
    go_on = trio.Event()

    def script(request: WireRequest) -> Sequence[Step]:
        path = request.url.rpartition("/")[2]
        if path != "one":
            return whole(path)
        first, rest = frame(delta("one ")), frame(delta("still one")) + frame(finish()) + frame("[DONE]")
        return [Head(200, SSE), Data(first), Hold(go_on), Data(rest)]

    transport = ScriptedTransport(script)
    async with open_client("acme/m", manifests=files.path, config=files.config(transport)) as client:
        async with client.chat("hi").stream() as events:
            async for event in events:
                if event.__class__.__name__ == "PartialContentDelta":
                    break
            await files.write_and_wait(at("/two"))
            assert (await client.chat("hi").execute()).content == "two"
            assert sorted(actor.state for actor in client.tree().actors) == ["draining", "running"]
            go_on.set()
            async for _ in events:
                pass
            assert events.response().content == "one still one"
        await trio.testing.wait_all_tasks_blocked()
        assert [actor.state for actor in client.tree().actors] == ["running"]


async def test_a_change_that_means_the_same_keeps_the_actor_and_what_it_has_learnt(files: Files) -> None:
    async with open_client("acme/m", manifests=files.path, config=files.config(ScriptedTransport(answer))) as client:
        await client.chat("hi").execute()
        (before,) = client._supervisor.slots.values()
        change = await files.write_and_wait("# a remark\n" + at("/one"))
        assert change.retired == ()
        await client.chat("hi").execute()
        assert list(client._supervisor.slots.values()) == [before]


async def test_a_changed_retry_policy_counts_from_the_next_call_on(files: Files) -> None:
    transport = ScriptedTransport(lambda request: refused(503))
    config = msgspec.structs.replace(files.config(transport), resilience=Resilience(breaker="off"))
    policy = "retry_policy: {strategy: fixed_delay, max_retries: %d, min_delay_ms: 0, max_delay_ms: 0}\n"
    files.write(at("/one") + policy % 1)
    async with open_client("acme/m", manifests=files.path, config=config) as client:
        for retries in (1, 0, 2):
            if retries != 1:
                await files.write_and_wait(at("/one") + policy % retries)
            before = len(transport.asked)
            with pytest.raises(AiLibError):
                await client.chat("hi").execute()
            assert len(transport.asked) - before == 1 + retries


async def test_another_origin_is_another_actor(files: Files) -> None:
    transport = ScriptedTransport(answer)
    async with open_client("acme/m", manifests=files.path, config=files.config(transport)) as client:
        await client.chat("hi").execute()
        change = await files.write_and_wait(at("/one").replace("acme.example", "other.example"))
        assert change.retired == ("acme",)
        await client.chat("hi").execute()
        assert [asked.origin for asked in transport.asked] == ["https://acme.example", "https://other.example"]


async def test_under_load_no_call_is_lost_and_each_is_of_one_piece(files: Files) -> None:
    transport = ScriptedTransport(answer)
    answers: list[str] = []
    faults: list[AiLibError] = []
    is_over = False

    async def caller(client: object) -> None:
        while not is_over:
            try:
                reply = await client.chat("hi").execute()  # type: ignore[attr-defined]
            except AiLibError as error:
                faults.append(error)
            else:
                answers.append(reply.content)

    async with open_client("acme/m", manifests=files.path, config=files.config(transport)) as client:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(caller, client)
            for number in range(6):
                text = "broken: [" if number % 3 == 2 else at(f"/path-{number}")
                change = await files.write_and_wait(text)
                assert (change.fault is not None) == (number % 3 == 2)
            is_over = True
        assert (await client.chat("hi").execute()).content == "path-4"
    assert faults == []
    assert set(answers) <= {"one", "path-0", "path-1", "path-3", "path-4"}
    assert len(answers) == len(transport.asked) - 1
    assert client.stats()["failed"] == 0


# ---- a pinned URL


def archive() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as into:
        into.writestr("providers/acme.yaml", at("/one"))
    return out.getvalue()


async def test_a_pinned_url_is_a_source_and_survives_being_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = archive()
    url = f"https://manifests.example/acme.zip#sha256={hashlib.sha256(data).hexdigest()}"
    fetched: list[str] = []

    async def fetch(address: str) -> bytes:
        fetched.append(address)
        await trio.lowlevel.checkpoint()
        return data

    monkeypatch.setattr("ai_lib_trio.transport.remote._fetch", fetch)
    environ = {**ENVIRON, "AI_LIB_CACHE": str(tmp_path)}
    for _ in range(2):
        config = Config(transport=ScriptedTransport(answer), environ=environ)
        async with open_client("acme/m", manifests=url, config=config) as client:
            assert (await client.chat("hi").execute()).content == "one"
    assert fetched == ["https://manifests.example/acme.zip"]


async def test_without_a_url_nothing_is_fetched(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ai_lib_trio.transport.remote._fetch", None)
    config = Config(transport=ScriptedTransport(answer), environ=ENVIRON)
    async with open_client("acme/m", manifests=files.path, config=config) as client:
        assert (await client.chat("hi").execute()).content == "one"
    async with open_client("acme/m", manifests=str(files.path), config=config) as client:
        assert (await client.chat("hi").execute()).content == "one"
    assert Catalog.open(files.path, {}).provider("acme").origin == "given"
