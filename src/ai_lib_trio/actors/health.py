"""The health actor: asks a provider in use whether it is there, as its manifest declares, and no more often.

Imports protocol, `life`, `hooks`, `target`, `tree`, `transport.base` and trio. The rule that must stay true: a check
carries no key and no word of a call, and between two checks of one place lies at least what the manifest declares.

    client's nursery ── supervisor ── HealthActor.run    one a place, restarted like any other actor
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import trio

from ..errors import AiLibError
from ..protocol.manifest import Manifest
from ..transport.base import Engine, Headers, Reading, WireRequest
from ..types.records import HealthChanged
from .hooks import Hooks
from .life import Life
from .target import ActorKey, Target
from .tree import CheckView

__all__ = ["Check", "Health", "HealthActor", "checks_of"]

INTERVAL_S = 60.0  # where none is declared: an outage shows within a minute, and nobody's limit feels it
TIMEOUT_S = 3.0  # the specification's default


class Check(msgspec.Struct, frozen=True):
    """One request, and the statuses that mean that the provider is there."""

    method: str
    path: str
    expected: frozenset[int]


class Checks(msgspec.Struct, frozen=True):
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

    def lend(self, reading: Reading) -> bool:
        """See `transport.base.Sink`."""
        return False


class HealthActor(Life):
    """Checks one place, again and again. The supervisor starts it, and starts it again where it crashes.

    `is_healthy` is what the last check said: None before one, and where nobody checks any more. `before` is the
    actor whose place this one takes: what it saw, and when the next check is due, goes on.
    """

    __slots__ = ("_checks", "_every_s", "_hooks", "_make_engine", "_next_at", "is_healthy", "is_running", "target")

    def __init__(
        self,
        target: Target,
        checks: Checks,
        *,
        make_engine: Callable[[ActorKey], Engine],
        hooks: Hooks,
        at_least_s: float,
        before: HealthActor | None = None,
    ) -> None:
        super().__init__()
        self.target = target
        self.is_healthy: bool | None = None if before is None else before.is_healthy
        self.is_running = False
        self._checks = checks
        self._every_s = max(checks.interval_s, at_least_s)
        self._next_at: float = trio.current_time() if before is None else before._next_at
        self._make_engine = make_engine
        self._hooks = hooks

    @property
    def provider(self) -> str:
        return self.target.manifest.id

    def mourn(self, now: float) -> None:
        """See `Life`."""
        super().mourn(now)
        if self.has_failed:
            self.is_healthy = None  # what was seen once and is not looked at any more says nothing

    def view(self) -> CheckView:
        """For people."""
        return CheckView(
            provider=self.provider,
            origin=self.target.key.origin,
            is_healthy=self.is_healthy,
            state="failed" if self.has_failed else "running" if self.is_running else "restarting",
            crashes=self.crashes,
        )

    async def run(self) -> None:
        """Check until cancelled. A crash takes nothing from the time between two checks."""
        while True:
            await trio.sleep_until(self._next_at)
            self._next_at = trio.current_time() + self._every_s
            try:
                why = await self._ask(self._checks.first)
                if why is not None and self._checks.fallback is not None:
                    why = await self._ask(self._checks.fallback)
            finally:
                self._next_at = trio.current_time() + self._every_s
            self._tell(why)

    async def _ask(self, check: Check) -> str | None:
        """None where the provider is there; else why it is not."""
        target, timeout_s = self.target, self._checks.timeout_s
        url = target.base_url.rstrip("/") + check.path
        headers = [("accept", "*/*")]
        if check.method == "POST":
            headers.append(("content-length", "0"))
        sink = _Status()
        # An engine for each: what a check leaves half read is not for a call to find.
        engine = self._make_engine(msgspec.structs.replace(target.key, credential=None))
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

    def _tell(self, why: str | None) -> None:
        is_healthy = why is None
        was_healthy, self.is_healthy = self.is_healthy, is_healthy
        if self._hooks.on and was_healthy is not is_healthy:
            self._hooks.emit(
                HealthChanged(
                    at_s=trio.current_time(),
                    provider=self.provider,
                    origin=self.target.key.origin,
                    is_healthy=is_healthy,
                    reason=why or "",
                )
            )


class Health:
    """The health of every place that is in use. `at_least_s` may make checks rarer than declared, never more frequent.

    `start` hands an actor to the supervisor.
    """

    def __init__(
        self,
        *,
        start: Callable[[HealthActor], None],
        make_engine: Callable[[ActorKey], Engine],
        hooks: Hooks,
        at_least_s: float,
    ) -> None:
        self._start = start
        self._make = partial(HealthActor, make_engine=make_engine, hooks=hooks, at_least_s=at_least_s)
        self._actors: dict[tuple[str, str], HealthActor] = {}

    def notice(self, target: Target) -> None:
        """A call goes to this target: its place is checked from now on, if its manifest declares how."""
        place = (target.manifest.id, target.base_url)
        before = self._actors.get(place)
        if before is not None and before.target.manifest is target.manifest:
            return
        if before is not None:  # a changed manifest is another actor, which checks no earlier
            before.scope.cancel()
            del self._actors[place]
        checks = checks_of(target.manifest)
        if checks is not None:
            actor = self._actors[place] = self._make(target, checks, before=before)
            self._start(actor)

    def is_healthy(self, target: Target) -> bool:
        """False where the last check failed; what was never checked is taken as well."""
        actor = self._actors.get((target.manifest.id, target.base_url))
        return actor is None or actor.is_healthy is not False

    def is_provider_healthy(self, provider: str) -> bool:
        """False where the last check of each of its places failed."""
        said = [actor.is_healthy for (name, _), actor in self._actors.items() if name == provider]
        seen = [one for one in said if one is not None]
        return not seen or any(seen)

    def views(self) -> tuple[CheckView, ...]:
        """The places, for people."""
        return tuple(actor.view() for actor in self._actors.values())
