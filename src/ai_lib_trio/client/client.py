"""The client: opens the nursery that everything lives in, and puts calls together.

Imports everything below it. The rules that must stay true: what the caller's block raises leaves it as itself, and
when the block has been left no task, socket or timer of ours is left.
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from ..actors.exchange import Limits
from ..actors.hooks import Hooks
from ..actors.job import Job
from ..actors.provider import Rules
from ..actors.supervisor import Supervisor
from ..actors.target import ActorKey, Target
from ..actors.tree import ActorView, CallView, Tree
from ..errors import AdmissionError, AiLibError, CallerError
from ..protocol.loader import Catalog
from ..protocol.registry import Pricing
from ..service import Call, FoldOutlet, Service
from ..transport.base import Engine
from ..transport.httpx_engine import HttpxClientEngine, HttpxEngine
from ..transport.proxy import proxy_for
from ..types.message import Message
from ..types.request import Request
from ..types.response import ChatResponse, Fold
from ..types.stats import Attempt, CallStats
from ..types.usage import Usage
from .cancel import cancellable
from .chat import ChatRequestBuilder, Terms, absolute
from .config import Config
from .policies import within_deadline
from .stream import ChatStream, Drive
from .targets import Targets

if TYPE_CHECKING:
    from .builder import ClientBuilder

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["LIVING", "AiClient", "ClientBlock", "open_client"]

LIVING: weakref.WeakSet[AiClient] = (
    weakref.WeakSet()
)  # every client that is still known: `testing.quiescence` asks them


def open_client(
    model: str | None = None,
    *,
    api: str | None = None,
    manifests: str | Path | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    config: Config | None = None,
) -> ClientBlock:
    """An async context manager that gives an `AiClient`.

    `model` is `provider/model` or a registered name, and may be chosen per call instead. `api` names one of the
    provider's API families. `manifests` is a file or folder to read instead of the bundled set. `base_url` and
    `api_key` are for the chosen provider alone.

    When the block is left, calls of other tasks get `config.shutdown_grace_s` to finish (none after an error), then
    are ended with kind `client_closed`. What the block raises leaves it unchanged.
    """
    return ClientBlock(model, api, manifests, base_url, api_key, config or Config())


class _OpenCall:
    """A call that has not ended. `is_attended` is False for a plain `async for`, which nobody may be reading."""

    __slots__ = ("call", "drive", "is_attended")

    def __init__(self, call: Call, drive: Drive | None, is_attended: bool) -> None:
        self.call = call
        self.drive = drive
        self.is_attended = is_attended


class AiClient:
    """Calls to models. Made by `open_client`; usable from any task of the same run while its block is open."""

    def __init__(
        self,
        *,
        config: Config,
        model: str | None,
        api: str | None,
        catalog: Catalog,
        targets: Targets,
        environ: Mapping[str, str],
        nursery: trio.Nursery,
    ) -> None:
        self.config = config
        self._model = model
        self._api = api
        self._catalog = catalog
        self._targets = targets
        self._environ = environ
        self._nursery = nursery
        self._hooks = Hooks(config.sinks)
        # Made here, so that a client which could leak a key is refused before anything is opened.
        self._own_http = None if config.http_client is None else HttpxClientEngine(config.http_client)
        self._supervisor = Supervisor(
            nursery,
            make_engine=self._make_engine,
            make_rules=self._make_rules,
            hooks=self._hooks,
            escalate=config.on_actor_failure == "raise",
        )
        self._open: dict[int, _OpenCall] = {}
        self._calls = 0
        self._outcomes: dict[str, int] = {"ok": 0, "failed": 0, "cancelled": 0}
        self._all_ended = trio.Event()
        LIVING.add(self)

    # ---- what users call

    def chat(self, *messages: Message | str) -> ChatRequestBuilder:
        """A request in the making, from messages in order; text is a user's message."""
        builder = ChatRequestBuilder(self, Request(model=self._model or ""), Terms(model=self._model, api=self._api))
        return builder.messages(
            *(Message.user(message) if isinstance(message, str) else message for message in messages)
        )

    def tree(self) -> Tree:
        """What is alive now: actors, queues and calls. Print it to see it drawn."""
        now = trio.current_time()
        actors = []
        for slot in self._supervisor.slots.values():
            actor = slot.actor
            calls = tuple(_view(job, now) for job in slot.docket.jobs())
            actors.append(
                ActorView(
                    provider=slot.key.provider,
                    origin=slot.key.origin,
                    credential=slot.credential_source,
                    state="failed" if slot.has_failed else "running" if actor is not None else "restarting",
                    inflight=len(actor.inflight) if actor is not None else 0,
                    queued=actor.queued if actor is not None else len(slot.docket),
                    crashes=slot.crashes,
                    bugs=slot.bugs + (actor.bugs if actor is not None else 0),
                    calls=calls,
                )
            )
        return Tree(
            actors=tuple(actors),
            open_calls=len(self._open),
            sink_failures=self._hooks.failures,
            overdue_leaves=self._supervisor.overdue_leaves,
        )

    def stats(self) -> dict[str, int]:
        """How the client's calls ended so far: `calls`, `open`, `ok`, `failed`, `cancelled`."""
        return {"calls": self._calls, "open": len(self._open), **self._outcomes}

    @staticmethod
    def builder() -> ClientBuilder:
        """Another way to write `open_client`'s arguments, step by step."""
        from .builder import ClientBuilder

        return ClientBuilder()

    # ---- putting a call together

    def _service(self, terms: Terms) -> Service:
        service: Service = within_deadline(self._supervisor.through_actor)
        for token in terms.tokens:
            service = cancellable(token, service)
        return service

    async def _prepare(self, request: Request, terms: Terms) -> Call:
        if self._supervisor.is_closing:
            raise AdmissionError("the client is closed", kind="client_closed")
        if not terms.model:
            raise CallerError("no model: give one to open_client or to .model()", kind="bad_argument")
        if not request.messages:
            raise CallerError("no messages: each builder method gives a new builder, chain them", kind="bad_argument")
        deadline = absolute(terms.deadline_s)
        with trio.CancelScope(deadline=deadline) as scope:  # a keyring may wait for a person
            target = await self._targets.find(terms.model, terms.api)
        if scope.cancelled_caught:
            raise AdmissionError("the call's deadline passed while its key was looked for", kind="deadline")
        self._calls += 1
        request = msgspec.structs.replace(request, model=target.model)
        return Call(self._calls, request, target, deadline=deadline, timeouts=terms.timeouts)

    async def _execute(self, request: Request, terms: Terms) -> tuple[ChatResponse, CallStats]:
        call = await self._prepare(request, terms)
        outlet = FoldOutlet()
        self._open[call.number] = _OpenCall(call, None, True)
        outcome = "cancelled"
        try:
            await self._service(terms)(call, outlet)
            outcome = "ok"
        except AiLibError as exc:
            outcome = "failed"
            exc.attempts = self._attempts(call)
            raise
        finally:
            self._end(call, outcome)
        reply = self._reply(call, outlet.folding)
        return reply, self._stats(call, reply.usage)

    def _stream(self, request: Request, terms: Terms) -> ChatStream:
        async def prepare() -> Call:
            return await self._prepare(request, terms)

        return ChatStream(self, self._service(terms), prepare)

    def _start_drive(self, drive: Drive, service: Service, *, is_attended: bool) -> None:
        if self._supervisor.is_closing:
            raise AdmissionError("the client is closed", kind="client_closed")
        self._open[drive.call.number] = _OpenCall(drive.call, drive, is_attended)
        self._nursery.start_soon(drive.run, service, self._drive_ended, name=f"call {drive.call.number}")

    def _drive_ended(self, drive: Drive) -> None:
        if drive.error is not None:
            drive.error.attempts = self._attempts(drive.call)
        was_left = drive.scope.cancel_called
        self._end(drive.call, "cancelled" if was_left else "ok" if drive.error is None else "failed")

    def _end(self, call: Call, outcome: str) -> None:
        if self._open.pop(call.number, None) is not None:
            self._outcomes[outcome] += 1
        if not self._open:
            self._all_ended.set()

    # ---- what a call came to

    def _reply(self, call: Call, folding: Fold) -> ChatResponse:
        job = call.log[-1] if call.log else None
        progress = job.progress if isinstance(job, Job) else None
        return folding.response(
            request_id=progress.request_id if progress else None,
            headers=progress.headers if progress else None,
            dialect=call.target.family.dialect,
            raw=progress.body if progress else None,
        )

    def _attempts(self, call: Call) -> tuple[Attempt, ...]:
        return tuple(_attempt(number, job) for number, job in enumerate(call.log, 1))

    def _stats(self, call: Call, usage: Usage) -> CallStats:
        target: Target = call.target
        attempts = self._attempts(call)
        jobs: Sequence[Job] = call.log
        last = attempts[-1] if attempts else None
        pricing = target.facts.pricing if target.facts is not None else None
        cost = cost_of(usage, pricing)
        start = jobs[0].progress.queued_at if jobs else 0.0
        last_end = jobs[-1].progress.ended_at if jobs else 0.0
        end = trio.current_time() if last_end is None else last_end
        progress = jobs[-1].progress if jobs else None
        first = progress.first_token_at if progress else None
        return CallStats(
            model=target.ref,
            provider=target.manifest.id,
            attempts=attempts,
            queue_s=last.queue_s if last else None,
            connect_s=last.connect_s if last else None,
            first_token_s=None if first is None else first - start,
            total_s=end - start,
            events=sum(job.progress.events for job in jobs),
            bytes_in=sum(job.progress.bytes_in for job in jobs),
            usage=usage,
            cost=cost,
            currency=pricing.currency if pricing is not None and cost is not None else None,
            dropped_opaque_blocks=progress.dropped_opaque if progress else 0,
            warnings=progress.warnings if progress else (),
        )

    # ---- what actors are given

    def _make_engine(self, key: ActorKey) -> Engine:
        config = self.config
        if self._own_http is not None:
            return self._own_http
        if config.transport != "httpx":
            return config.transport(key.origin)
        return HttpxEngine(ssl_context=config.ssl_context, proxy=proxy_for(key.origin, self._environ))

    def _make_rules(self, target: Target) -> Rules:
        config = self.config
        return Rules(
            max_inflight=config.max_inflight,
            max_queued=config.max_queued,
            timeouts=config.timeouts,
            limits=Limits(config.max_frame_bytes, config.max_reply_bytes),
            errors=self._catalog.error_table(),
            wall_time=config.wall_time,
        )

    # ---- closing

    async def _finish_calls(self, grace_s: float) -> None:
        """Take no more calls; end those nobody reads; let the others finish within the grace."""
        self._supervisor.is_closing = True
        for open_call in self._open.values():
            if open_call.drive is not None and not open_call.is_attended:
                open_call.drive.scope.cancel()
        if self._open:
            self._all_ended = trio.Event()
            with trio.move_on_after(grace_s):
                await self._all_ended.wait()


class ClientBlock:
    """The block of a client: `async with open_client(...) as client`. Used once."""

    def __init__(
        self,
        model: str | None,
        api: str | None,
        manifests: str | Path | None,
        base_url: str | None,
        api_key: str | None,
        config: Config,
    ) -> None:
        self._arguments = (model, api, manifests, base_url, api_key, config)
        self._manager: Any = None
        self._nursery: trio.Nursery | None = None
        self._client: AiClient | None = None

    @trio.lowlevel.enable_ki_protection  # Ctrl-C comes at a checkpoint, not between a nursery and its block
    async def __aenter__(self) -> AiClient:
        _need_trio()
        if self._manager is not None:
            raise CallerError("a client's block is entered once", kind="bad_argument")
        model, api, manifests, base_url, api_key, config = self._arguments
        environ = os.environ if config.environ is None else config.environ
        catalog = Catalog.open(manifests, environ=environ)
        base_urls, api_keys = dict(config.base_urls), dict(config.api_keys)
        if base_url is not None or api_key is not None:
            if model is None:
                raise CallerError(
                    "base_url and api_key belong to a model's provider: name a model", kind="bad_argument"
                )
            provider = catalog.resolve(model).provider_id
            if base_url is not None:
                base_urls[provider] = base_url
            if api_key is not None:
                api_keys[provider] = api_key
        elif model is not None:
            catalog.resolve(model)  # an unknown model is said here, not at the first call
        targets = Targets(catalog, environ, base_urls=base_urls, api_keys=api_keys)
        manager = trio.open_nursery()
        nursery = await manager.__aenter__()
        try:
            self._client = AiClient(
                config=config,
                model=model,
                api=api,
                catalog=catalog,
                targets=targets,
                environ=environ,
                nursery=nursery,
            )
        except BaseException:
            nursery.cancel_scope.cancel()
            await manager.__aexit__(None, None, None)
            raise
        self._manager, self._nursery = manager, nursery
        return self._client

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # The block's own exception never goes to the nursery, which would wrap it in a group: the nursery is
        # cancelled and closed without one, and the exception goes on by itself when this returns None.
        assert self._client is not None
        assert self._nursery is not None
        interruption: BaseException | None = None
        try:
            await self._client._finish_calls(self._client.config.shutdown_grace_s if exc is None else 0.0)
        except BaseException as caught:  # cancelled during the grace: close first, then let it go on
            interruption = caught
        self._nursery.cancel_scope.cancel()
        from_tasks: list[BaseException] = []
        try:
            await self._manager.__aexit__(None, None, None)
        except BaseException as caught:
            from_tasks = [leaf for leaf in _leaves(caught) if not isinstance(leaf, trio.Cancelled)]
            if not from_tasks and interruption is None and exc is None:
                interruption = caught
        failures: list[BaseException] = [*self._client._supervisor.failures, *from_tasks]
        if failures:
            own = [] if exc is None else _without_cancellation(exc)
            if len(failures) == 1 and not own and failures[0] in from_tasks:
                raise failures[0]
            raise BaseExceptionGroup("a provider's actor failed", [*own, *failures])
        if exc is None and interruption is not None:
            raise interruption


def _need_trio() -> None:
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        raise CallerError(
            "ai-lib-trio runs on trio: use trio.run(main) or anyio.run(main, backend='trio'); "
            "there is no trio run here",
            kind="bad_argument",
        ) from None


def _leaves(exc: BaseException) -> list[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for part in exc.exceptions for leaf in _leaves(part)]
    return [exc]


def _without_cancellation(exc: BaseException) -> list[BaseException]:
    """The block's own failure: a `Cancelled` beside it was ours, and must not travel on in a group."""
    if isinstance(exc, BaseExceptionGroup):
        own = exc.split(trio.Cancelled)[1]
        return [] if own is None else [own]
    return [] if isinstance(exc, trio.Cancelled) else [exc]


def _view(job: Job, now: float) -> CallView:
    progress = job.progress
    if progress.admitted_at is None:
        phase = "queued"
    elif progress.sent_at is None:
        phase = "connecting"
    else:
        phase = "waiting" if progress.bytes_in == 0 else "reading"
    left = job.call.deadline - now
    return CallView(
        call=job.call.number,
        attempt=job.call.attempt,
        model=job.call.target.model,
        phase=phase,
        age_s=now - progress.queued_at,
        deadline_left_s=left if left < float("inf") else None,
        events=progress.events,
        bytes_in=progress.bytes_in,
    )


def _attempt(number: int, job: Job) -> Attempt:
    progress = job.progress
    error = job.error
    is_ok = job.is_settled and error is None
    is_cancelled = not job.is_settled or (error is not None and error.kind == "client_closed")

    def since(start: float | None, end: float | None) -> float | None:
        return None if start is None or end is None else end - start

    end = progress.ended_at if progress.ended_at is not None else trio.current_time()
    return Attempt(
        number=number,
        provider=job.call.target.manifest.id,
        model=job.call.target.model,
        outcome="ok" if is_ok else "cancelled" if is_cancelled else "failed",
        state=progress.state(is_complete=is_ok),
        kind=error.kind if error is not None else None,
        code=error.code if error is not None else None,
        status=progress.status,
        queue_s=since(progress.queued_at, progress.admitted_at),
        connect_s=since(progress.started_at, progress.sent_at),
        first_token_s=since(progress.started_at, progress.first_token_at),
        total_s=end - progress.queued_at,
        request_id=progress.request_id,
    )


def cost_of(usage: Usage, pricing: Pricing | None) -> float | None:
    """What the tokens cost by the registry's prices; None where a count or a price that matters is not known."""
    if pricing is None or usage.input_tokens is None or usage.output_tokens is None:
        return None
    if pricing.input_per_1m is None or pricing.output_per_1m is None:
        return None

    def price(value: float | None) -> float:
        return pricing.input_per_1m or 0.0 if value is None else value

    cached = usage.cached_tokens or 0
    written = usage.cache_write_tokens or 0
    plain = usage.input_tokens - cached - written
    total = (
        plain * pricing.input_per_1m
        + cached * price(pricing.cached_input_per_1m)
        + written * price(pricing.cache_write_per_1m)
        + usage.output_tokens * pricing.output_per_1m
    )
    return total / 1_000_000
