"""The health actor: asks providers in use whether they are there, as their manifests declare, and no more often.

Imports protocol, `hooks`, `target`, `tree`, `transport.base` and trio. The rule that must stay true: a check carries
no key and no word of a call, and between two checks of one place lies at least what the manifest declares.

    client's nursery ── HealthActor.run ── one child a place, restarted where it crashes (a supervisor of its own)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import trio

from ..errors import AiLibError
from ..protocol.manifest import Manifest
from ..transport.base import Engine, Headers, WireRequest
from ..types.records import ActorRestarted, HealthChanged
from .hooks import Hooks
from .target import ActorKey, Target
from .tree import CheckView

__all__ = ["Check", "HealthActor", "checks_of"]

INTERVAL_S = 60.0  # where none is declared: an outage shows within a minute, and nobody's limit feels it
TIMEOUT_S = 3.0  # the specification's default
RESTART_PAUSE_S = 1.0


class Check(NamedTuple):
    """One request, and the statuses that mean that the provider is there."""

    method: str
    path: str
    expected: frozenset[int]


class Checks(NamedTuple):
    """What a manifest declares: a check, another one for when it fails, and the time for and between them."""

    first: Check
    fallback: Check | None
    timeout_s: float
    interval_s: float


def checks_of(manifest: Manifest) -> Checks | None:
    """The manifest's `availability`; None where it declares no check."""
    declared = manifest.availability
    first = _check(declared.get("check"))
    if first is None:
        return None
    timeout_ms = declared["check"].get("timeout_ms")
    interval_ms = declared.get("interval_ms")
    return Checks(
        first,
        _check(declared.get("fallback")),
        timeout_ms / 1000 if isinstance(timeout_ms, int) and timeout_ms > 0 else TIMEOUT_S,
        max(interval_ms / 1000, 1.0) if isinstance(interval_ms, int) else INTERVAL_S,
    )


def _check(declared: Any) -> Check | None:
    path = declared.get("path") if isinstance(declared, Mapping) else None
    if not isinstance(path, str) or not path.startswith("/"):  # anything else might become another host's name
        return None
    assert isinstance(declared, Mapping)
    statuses = declared.get("expected_status")
    expected = frozenset(one for one in statuses if isinstance(one, int)) if isinstance(statuses, list) else frozenset()
    return Check(str(declared.get("method", "GET")).upper(), path, expected or frozenset({200, 401}))


class _Answered(Exception):
    """There is a status: the rest of the reply is not wanted."""


class _Status:
    """A sink that wants a status and nothing more."""

    def __init__(self) -> None:
        self.status = 0

    def sending(self) -> None:
        """See `transport.base.Sink`."""

    def head(self, status: int, headers: Headers) -> None:
        """See `transport.base.Sink`."""
        self.status = status
        raise _Answered

    def data(self, chunk: bytes) -> bool:
        """See `transport.base.Sink`."""
        return True

    async def wait_room(self) -> None:
        """See `transport.base.Sink`."""


class HealthActor:
    """Checks every place that it was told of. `at_least_s` may make checks rarer than declared, never more frequent.

    `healthy` is what the last check of each place said.
    """

    def __init__(self, *, make_engine: Callable[[ActorKey], Engine], hooks: Hooks, at_least_s: float) -> None:
        self.healthy: dict[tuple[str, str], bool] = {}
        self.crashes = 0
        self._make_engine = make_engine
        self._hooks = hooks
        self._at_least_s = at_least_s
        self._places: dict[tuple[str, str], Target] = {}
        self._new: list[tuple[str, str]] = []
        self._news = trio.Event()

    def notice(self, target: Target) -> None:
        """A call goes to this target: its place is checked from now on, if its manifest declares how."""
        place = (target.manifest.id, target.base_url)
        known = self._places.get(place)
        self._places[place] = target
        if known is None:
            self._new.append(place)
            self._news.set()

    def is_healthy(self, target: Target) -> bool:
        """False where the last check failed; what was never checked is taken as well."""
        return self.healthy.get((target.manifest.id, target.base_url), True)

    def is_provider_healthy(self, provider: str) -> bool:
        """False where the last check of each of its places failed."""
        seen = [one for (name, _), one in self.healthy.items() if name == provider]
        return not seen or any(seen)

    def views(self) -> tuple[CheckView, ...]:
        """The places, for people."""
        return tuple(
            CheckView(provider=name, origin=target.key.origin, is_healthy=self.healthy.get((name, url)))
            for (name, url), target in self._places.items()
            if checks_of(target.manifest) is not None
        )

    async def run(self) -> None:
        """Check until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._news.wait()
                self._news = trio.Event()
                for place in self._new:
                    nursery.start_soon(self._keep, place, name=f"health of {place[0]}")
                self._new = []

    async def _keep(self, place: tuple[str, str]) -> None:
        while True:
            try:
                await self._watch(place)
                return
            except Exception:  # this is a supervisor: a crash of one place's checks is counted, and they begin again
                self.crashes += 1
                if self._hooks.on:
                    now = trio.current_time()
                    self._hooks.emit(
                        ActorRestarted(at_s=now, provider=f"health of {place[0]}", deaths=self.crashes, failed=False)
                    )
            await trio.sleep(max(RESTART_PAUSE_S, self._interval_s(place)))

    def _interval_s(self, place: tuple[str, str]) -> float:
        checks = checks_of(self._places[place].manifest)
        return max(checks.interval_s if checks is not None else INTERVAL_S, self._at_least_s)

    async def _watch(self, place: tuple[str, str]) -> None:
        while True:
            target = self._places[place]
            checks = checks_of(target.manifest)
            if checks is None:
                return
            why = await self._ask(target, checks.first, checks.timeout_s)
            if why is not None and checks.fallback is not None:
                why = await self._ask(target, checks.fallback, checks.timeout_s)
            self._tell(place, why)
            await trio.sleep(self._interval_s(place))

    async def _ask(self, target: Target, check: Check, timeout_s: float) -> str | None:
        """None where the provider is there; else why it is not."""
        url = target.base_url.rstrip("/") + check.path
        headers = [("accept", "*/*")]
        if check.method == "POST":
            headers.append(("content-length", "0"))
        sink = _Status()
        # An engine for each: what a check leaves half read is not for a call to find.
        engine = self._make_engine(target.key._replace(credential=None))
        try:
            with trio.move_on_after(timeout_s):
                await engine.exchange(WireRequest(check.method, url, headers, b""), sink)
        except _Answered:
            pass
        except AiLibError as exc:
            return exc.kind
        finally:
            with trio.move_on_after(1.0, shield=True):
                await engine.aclose()
        if not sink.status:
            return f"no answer within {timeout_s:g} s"
        return None if sink.status in check.expected else f"status {sink.status}"

    def _tell(self, place: tuple[str, str], why: str | None) -> None:
        is_healthy = why is None
        was_healthy = self.healthy.get(place)
        self.healthy[place] = is_healthy
        if self._hooks.on and was_healthy is not is_healthy:
            now = trio.current_time()
            self._hooks.emit(HealthChanged(at_s=now, provider=place[0], is_healthy=is_healthy, reason=why or ""))
