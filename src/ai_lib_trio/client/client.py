"""The client: opens the nursery that everything lives in, and puts calls together.

Imports everything below it. The rules that must stay true: what the caller's block raises leaves it as itself, and
when the block has been left no task, socket or timer of ours is left.
"""

from __future__ import annotations

import itertools
import math
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from ..actors.exchange import Limits, Rules
from ..actors.hooks import Hooks
from ..actors.supervisor import Supervisor
from ..actors.target import ActorKey, Target
from ..errors import AdmissionError, AiLibError, CallerError, CredentialError
from ..protocol.loader import Catalog
from ..resilience.backpressure import ProviderGate
from ..resilience.estimate import tokens_of
from ..resilience.executor import CallTerms, Resilience, ResilientExecutor, from_environ
from ..resilience.fallback import MidStream
from ..resilience.preflight import Preflight, look
from ..resilience.quorum import same_text
from ..service import Call, FoldOutlet, Gate, Service, Ticket
from ..transport.base import Engine
from ..transport.hub import Hub
from ..transport.native import NativeEngine
from ..transport.proxy import proxy_for
from ..types.admission import Forecast
from ..types.message import Message
from ..types.records import ClientSink, Sink
from ..types.request import Request
from ..types.response import ChatResponse, Fold
from ..types.stats import CallStats, Skipped
from ..types.usage import Usage
from .account import actor_view, attempts_of, reply_of, spent_by, stats_of
from .chat import ChatRequestBuilder, Terms, absolute
from .config import Config
from .reload import check_compiles, follow, open_source
from .stream import ChatStream, Drive
from .targets import Targets, is_routed
from .turnstile import Turnstile

if TYPE_CHECKING:
    from ..actors.health import Health
    from ..actors.tree import Tree
    from ..protocol.watch import Reloader
    from ..resilience.contest import Contest
    from ..resilience.quorum import Agree
    from ..resilience.race import Until
    from ..routing import ModelArray, ModelManager, Router
    from .builder import ClientBuilder
    from .contests import ContestStream
    from .routed import Routes
    from .told import Said

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

__all__ = ["LIVING", "AiClient", "ClientBlock", "open_client"]

LIVING: weakref.WeakSet[AiClient] = (
    weakref.WeakSet()
)  # every client that is still known: `testing.quiescence` asks them
_numbers = itertools.count(1)
CALLS_A_TURN = 32  # that begin in one turn of the scheduler: some 10 ms with their connections


def open_client(
    model: str | None = None,
    *,
    api: str | None = None,
    manifests: str | Path | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    fallbacks: Sequence[str] = (),
    router: Router | ModelArray | None = None,
    config: Config | None = None,
) -> ClientBlock:
    """An async context manager that gives an `AiClient`.

    `model` is `provider/model` or a registered name, and may be chosen per call instead. `api` names one of the
    provider's API families. `manifests` is a file, a folder or a pinned URL to read before the bundled set. `base_url`
    and `api_key` are for the chosen provider alone. `fallbacks` are models that every call may fall back to, in order.
    `router` holds the arrays that `@name` asks for, over the config's; calls that name no model go to its first one.

    When the block is left, calls of other tasks get `config.shutdown_grace_s` to finish (none after an error), then
    are ended with kind `client_closed`. What the block raises leaves it unchanged.
    """
    if config is None:
        config = Config()
    elif not isinstance(config, Config):
        raise CallerError(f"config is a Config, got {type(config).__name__}", kind="bad_argument")
    if isinstance(fallbacks, str):
        raise CallerError("fallbacks is a list of models", kind="bad_argument")
    for name, value in (("model", model), ("api", api), ("base_url", base_url), ("api_key", api_key)):
        if value is not None and not isinstance(value, str):
            raise CallerError(f"{name} is text, got {type(value).__name__}", kind="bad_argument")
    if router is not None:
        config = msgspec.structs.replace(config, router=router)
    return ClientBlock(model, api, manifests, base_url, api_key, tuple(fallbacks), config)


class AiClient:
    """Calls to models. Made by `open_client`; usable from any task of the same run while its block is open.

    `number` counts the clients of this process: a call is told apart by it and the call's own number.
    """

    def __init__(
        self,
        *,
        config: Config,
        model: str | None,
        api: str | None,
        fallbacks: tuple[str, ...],
        catalog: Catalog,
        reloader: Reloader | None,
        targets: Targets,
        environ: Mapping[str, str],
        nursery: trio.Nursery,
    ) -> None:
        self.config = config
        self._terms = Terms(model=model, api=api, policies=CallTerms(fallbacks=fallbacks))  # where calls begin
        self._blank = Request(model=model or "")
        self._catalog = catalog
        self._reloader = reloader
        self._targets = targets
        self._environ = environ
        self._nursery = nursery
        self.number = next(_numbers)
        self._hooks = Hooks(config.sinks, self.number)
        # Made here, so that a client which could leak a key is refused before anything is opened.
        self._hub: Hub | None = None
        if config.http_client is not None:
            from ..transport.httpx_engine import HttpxClientEngine
        self._own_http = None if config.http_client is None else HttpxClientEngine(config.http_client)
        self._supervisor = Supervisor(
            nursery,
            make_engine=self._make_engine,
            make_rules=self._make_rules,
            hooks=self._hooks,
            escalate=config.on_actor_failure == "raise",
        )
        seed = config.seed if config.seed is not None else SystemRandom().getrandbits(64)
        self._executor = ResilientExecutor(
            self._supervisor.through_actor,
            find=self._find_next,
            settings=_settings(config, environ),
            gates=config.gates,
            seed=seed,
            spent=spent_by,
            hooks=self._hooks,
        )
        if reloader is not None and config.reload_manifests_s is not None:
            following = partial(follow, reloader, every_s=config.reload_manifests_s, use=self._use, targets=targets)
            nursery.start_soon(partial(following, supervisor=self._supervisor, hooks=self._hooks), name="manifests")
        self._health: Health | None = None
        if config.check_health_s is not None:
            from ..actors.health import Health

            checks = partial(Health, make_engine=self._make_engine, hooks=self._hooks)
            self._health = checks(start=self._supervisor.check, at_least_s=config.check_health_s)
        self._routes: Routes | None = None
        if config.router is not None:
            from .routed import Routes

            self._routes = Routes(
                config.router,
                targets,
                slots=self._supervisor.slots,
                catalog=lambda: self._catalog,
                health=self._health,
                seed=seed,
            )
        self._open: dict[int, Drive | None] = {}  # calls that have not ended: those that stream have a drive
        self._turnstile = Turnstile(CALLS_A_TURN)
        self._calls = 0
        self._outcomes: dict[str, int] = {"ok": 0, "failed": 0, "cancelled": 0}
        self._all_ended = trio.Event()
        LIVING.add(self)

    # ---- what users call

    def chat(self, *messages: Message | str) -> ChatRequestBuilder:
        """A request in the making, from messages in order; text is a user's message."""
        builder = ChatRequestBuilder(self, self._blank, self._terms)
        if not messages:
            return builder
        return builder.messages(
            *(Message.user(message) if isinstance(message, str) else message for message in messages)
        )

    def __repr__(self) -> str:
        state = "closed" if self._supervisor.is_closing else f"{len(self._open)} open calls"
        return f"<AiClient {self.number} {self._terms.model or 'of any model'}, {state}>"

    @property
    def models(self) -> ModelManager:
        """The models that the client's manifests know, to be found by what they can do and cost."""
        from ..routing import ModelManager

        return ModelManager(lambda: self._catalog, is_healthy=self._is_provider_healthy)

    def _is_provider_healthy(self, provider: str) -> bool:
        """False where every actor of the provider is down, or its declared check failed."""
        if self._health is not None and not self._health.is_provider_healthy(provider):
            return False
        slots = [slot for slot in self._supervisor.slots.values() if slot.key.provider == provider]
        return not slots or not all(slot.has_failed for slot in slots)

    def tree(self) -> Tree:
        """What is alive now: actors, queues and calls. Print it to see it drawn."""
        from ..actors.tree import Tree

        now = trio.current_time()
        actors = [actor_view(slot, now) for slot in (*self._supervisor.slots.values(), *self._supervisor.retired)]
        fault = self._reloader.fault if self._reloader is not None else None
        return Tree(
            actors=tuple(actors),
            checks=self._health.views() if self._health is not None else (),
            open_calls=len(self._open),
            sink_failures=self._hooks.failures,
            overdue_leaves=self._supervisor.overdue_leaves,
            manifests=self._reloader.generation if self._reloader is not None else 0,
            manifest_fault=None if fault is None else str(fault),
        )

    def race(self, chat: ChatRequestBuilder, *, models: Sequence[str], until: Until = "first_token") -> ContestStream:
        """Ask all models at once. The winner is the first to satisfy `until`: to have output, to be complete, or to
        have a reply so far for which a function of yours says so (it should have no side effects). Where all are over,
        some answered, and it said so of none, kind `no_quorum` is raised.

        The losers are closed as soon as the winner is known. Retries, deadline and cost cap are the request's own; the
        client's fallbacks are not asked, and a member that may fall back is an array.
        """
        from ..resilience.contest import Contest

        if until not in ("first_token", "first_complete") and not callable(until):
            raise CallerError(f"until is first_token, first_complete or a function, got {until!r}", kind="bad_argument")
        state = Contest()
        make = partial(self._executor.race, until=until, state=state)
        return self._contest(chat, make, models, state)

    def hedge(self, chat: ChatRequestBuilder, *, models: Sequence[str], after: float | str = "p95") -> ContestStream:
        """Ask the first model, and each next one when no first token came within `after`: seconds, or a percentile such
        as `"p95"` of the first model's recent first tokens (2 s until twenty were seen). The first token wins."""
        from ..resilience.contest import Contest
        from ..resilience.hedge import COLD_AFTER_S, quantile_of

        share = quantile_of(after) if isinstance(after, str) else None
        seconds = 0.0 if isinstance(after, str) else after
        if not seconds >= 0:
            raise CallerError(f"after is a number of seconds, got {after!r}", kind="bad_argument")

        def after_s(call: Call) -> float:
            if share is None:
                return seconds
            slot = self._supervisor.slots.get(call.target.key)
            gate = slot.actor.gate if slot is not None and slot.actor is not None else None
            seen = gate.first_token_quantile(call.target.model, share) if gate is not None else None
            return COLD_AFTER_S if seen is None else seen

        state = Contest()
        make = partial(self._executor.hedge, after_s=after_s, state=state)
        return self._contest(chat, make, models, state)

    def quorum(
        self, chat: ChatRequestBuilder, *, models: Sequence[str], k: int, agree: Agree = same_text
    ) -> ContestStream:
        """Ask all models at once until `k` replies agree; the answer is the first of those. `agree` compares two
        replies; without one their text is compared, but for case and white space.

        Raises kind `no_quorum` as soon as no `k` can agree any more.
        """
        from ..resilience.contest import Contest

        state = Contest()
        make = partial(self._executor.quorum, k=k, agree=agree, state=state)
        return self._contest(chat, make, models, state)

    def fallback(
        self,
        chat: ChatRequestBuilder,
        *,
        models: Sequence[str],
        on: Sequence[str] = (),
        mid_stream: MidStream = "fail",
    ) -> ChatRequestBuilder:
        """The request, to be answered by the first of these models that can. See `ChatRequestBuilder.fallback`."""
        if not models:
            raise CallerError("models names at least one model", kind="bad_argument")
        return chat.model(models[0]).fallback(*models[1:], on=on, mid_stream=mid_stream)

    def _contest(
        self,
        chat: ChatRequestBuilder,
        make: Callable[..., Service],  # from entrants and terms; bound to what else the contest needs
        models: Sequence[str],
        state: Contest,
    ) -> ContestStream:
        from ..resilience.contest import Entrant
        from .contests import ContestStream

        if not isinstance(chat, ChatRequestBuilder):
            raise CallerError(f"expected a request of client.chat(), got {type(chat).__name__}", kind="bad_argument")
        request = msgspec.structs.replace(chat._request, stream=True)
        terms = chat._terms
        if not self._known(models):
            raise CallerError("models names at least one model", kind="bad_argument")
        if terms.policies.fallbacks != self._terms.policies.fallbacks:
            why = "the members are the models, and the request's fallbacks are none of them"
            raise CallerError(f"{why}: name an array's @name for a member that may fall back", kind="bad_argument")
        policies = msgspec.structs.replace(terms.policies, api=terms.api)
        make([Entrant(model, (model,)) for model in models], terms=policies)  # refuses what cannot be

        async def prepare() -> tuple[Call, Service]:
            routes = self._routes
            with ExitStack() as given:
                entrants, coming = [], []
                for model in models:
                    entrants.append(Entrant(model, tuple(self._expanded([model], terms, request))))
                    if routes is not None and is_routed(model):  # the next one that is ranked sees it
                        coming.append(given.enter_context(routes.given_to(entrants[-1].models[0])))
                service = make(entrants, terms=policies)
                names = [name for entrant in entrants for name in entrant.models]
                if terms.api is not None and not any(self._targets.has_api(name, terms.api) for name in names):
                    raise CallerError(f"none of the models has an API {terms.api!r}", kind="bad_argument")
                call = await self._prepare(request, terms, names)
            if routes is not None:
                routes.begun(coming, call)
            return call, self._outermost(service, terms)

        return ContestStream(self, prepare, state)

    def _known(self, models: Sequence[str]) -> Sequence[str]:
        """The models, where each is known. Raises the `CallerError` that a call to it would."""
        if isinstance(models, str):
            raise CallerError("models is a list of models", kind="bad_argument")
        for model in models:
            if is_routed(model):
                self._need_routes(model).router.array(model)
            else:
                self._catalog.resolve(model)
        return models

    def _need_routes(self, model: str) -> Routes:
        if self._routes is None:
            raise CallerError(f"{model} is an array's name: give its router to open_client", kind="bad_argument")
        return self._routes

    def _expanded(
        self, models: Sequence[str], terms: Terms, request: Request, *, is_dry: bool = False
    ) -> Sequence[str]:
        """The models, each array's name replaced by its endpoints, the one to ask first first."""
        routed = next((model for model in models if is_routed(model)), None)
        if routed is None:
            return models
        return self._need_routes(routed).expand(models, terms.api, request, is_dry=is_dry)

    @contextmanager
    def sink(self, sink: Sink | ClientSink) -> Iterator[None]:
        """Records go to this sink too, for the time of the block. It sees the rest of calls that have begun before, and
        nothing of the rest of calls that outlive the block: what counts running calls or has spans keeps theirs open.
        """
        if not callable(sink):
            raise CallerError(f"a sink is a callable, got {type(sink).__name__}", kind="bad_argument")
        added = self._hooks.add(sink)
        try:
            yield
        finally:
            self._hooks.remove(added)

    def tell(self, feedback: Said) -> None:
        """Tell the sinks what somebody said of a reply: what a `FeedbackCollector` of this client delivers to."""
        if self._hooks.on:
            from .told import given

            self._hooks.emit(given(feedback, with_content=self.config.record_content))

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
        return self._outermost(self._executor.chain(terms.policies), terms)

    def _outermost(self, service: Service, terms: Terms) -> Service:
        for token in terms.tokens:
            from .cancel import cancellable

            service = cancellable(token, service)
        if not self._hooks.on:
            return service
        from .told import telling

        return telling(service, self._hooks, with_content=self.config.record_content)

    async def _prepare(
        self,
        request: Request,
        terms: Terms,
        models: Sequence[str] = (),
        *,
        deadline: float | None = None,
        is_dry: bool = False,
    ) -> Call:
        """A call, numbered; with `is_dry` the next one has the same number. `deadline` is trio's time, where the call
        began before."""
        if self._supervisor.is_closing:
            raise AdmissionError("the client is closed", kind="client_closed")
        if not terms.model and not models:
            raise CallerError("no model: give one to open_client or to .model()", kind="bad_argument")
        if not request.messages:
            raise CallerError("no messages: each builder method gives a new builder, chain them", kind="bad_argument")
        if not any(message.content for message in request.messages):
            raise CallerError("the messages are empty: a message without content is not sent", kind="bad_argument")
        if deadline is None:
            deadline = absolute(terms.deadline_s)
        if not self._turnstile.pass_nowait():
            await self._turnstile.wait_passage()
        target = None if models else self._targets.known(terms.model or "", terms.api)
        if target is None:
            with trio.CancelScope(deadline=deadline) as scope:  # a keyring may wait for a person
                found = self._find_any(models, terms.api) if models else self._find(terms.model or "", terms.api)
                target = await found
            if scope.cancelled_caught:
                raise AdmissionError("the call's deadline passed before its target and key were found", kind="deadline")
        assert target is not None
        number = self._calls + 1
        if not is_dry:
            self._calls = number
        if request.model != target.model:
            request = msgspec.structs.replace(request, model=target.model)
        tenant = terms.tenant and target.masked_name(terms.tenant)  # a key that names a tenant is in no record
        return Call(number, request, target, deadline, terms.timeouts, tenant)

    async def _find(self, model: str, api: str | None) -> Target:
        target = await self._targets.find(model, api)
        if self._health is not None:
            self._health.notice(target)
        return target

    async def _routed(self, request: Request, terms: Terms, *, is_dry: bool = False) -> tuple[Call, Terms]:
        """The call, and its terms with arrays' names resolved: a first endpoint, and the others as fallbacks."""
        routes = self._routes
        model = terms.model or (routes.default if routes is not None else None)
        if terms.api is not None or terms.policies.fallbacks:
            fallbacks = tuple(self._expanded(terms.policies.fallbacks, terms, request, is_dry=is_dry))
            policies = msgspec.structs.replace(terms.policies, api=terms.api, fallbacks=fallbacks)
            terms = msgspec.structs.replace(terms, policies=policies)
        if model is None or not (is_routed(model) or terms.policies.fallbacks):
            return await self._prepare(request, terms, is_dry=is_dry), terms
        if is_routed(model):
            names = self._need_routes(model).rank(model, terms.api, request, is_dry=is_dry)
        else:
            names = [model]
        deadline = absolute(terms.deadline_s)
        passed: list[tuple[str, CredentialError]] = []
        chain = (*names, *terms.policies.fallbacks)
        for number, name in enumerate(chain, 1):
            api = terms.api
            if number > len(names) and api is not None and not self._targets.has_api(name, api):
                api = None  # as for every other model of a chain
            own = msgspec.structs.replace(terms, model=name, api=api)
            try:
                with ExitStack() as given:
                    coming = []
                    if routes is not None and is_routed(name):
                        coming.append(given.enter_context(routes.given_to(name)))
                    call = await self._prepare(request, own, deadline=deadline, is_dry=is_dry)
            except CredentialError as exc:  # a target that has no key is passed over, the first one too
                passed.append((name, exc))
                continue
            call.notes.skipped += tuple(Skipped(name, why.message) for name, why in passed)
            for one in coming:
                one.is_over = is_dry
            if routes is not None and not is_dry:
                routes.begun(coming, call)
            policies = msgspec.structs.replace(terms.policies, fallbacks=chain[number:])
            return call, msgspec.structs.replace(own, policies=policies)
        raise passed[0][1]

    async def _find_next(self, model: str, api: str | None) -> Target:
        """The target for another model of a call than its first: by the API asked for where its provider has it."""
        return await self._find(model, api if api is not None and self._targets.has_api(model, api) else None)

    async def _find_any(self, models: Sequence[str], api: str | None) -> Target:
        """The target of the first model that has one. Members without a key fail by themselves, later."""
        first: CredentialError | None = None
        for model in models:
            try:
                return await self._find_next(model, api)
            except CredentialError as exc:
                first = first or exc
        assert first is not None
        raise first

    async def _execute(self, request: Request, terms: Terms) -> tuple[Call, ChatResponse]:
        """Carry a call out; what it came to is made of it by whoever asks."""
        is_plain = terms.api is None and not terms.policies.fallbacks
        if is_plain and self._routes is None and not is_routed(terms.model or ""):
            call = await self._prepare(request, terms)
        else:
            call, terms = await self._routed(request, terms)
        outlet = FoldOutlet()
        self._open[call.number] = None
        outcome = "cancelled"
        try:
            await self._service(terms)(call, outlet)
            outcome = "ok"
        except AiLibError as exc:
            outcome = "failed"
            exc.attempts = attempts_of(call)
            raise
        finally:
            self._end(call, outcome)
        return call, self._reply(call, outlet.folding)

    async def _preflight(self, request: Request, terms: Terms) -> Preflight:
        call, terms = await self._routed(request, terms, is_dry=True)
        target: Target = call.target
        now = trio.current_time()
        slot = self._supervisor.slots.get(target.key)
        actor = slot.actor if slot is not None else None
        ticket = Ticket(
            number=call.number,
            attempt=1,
            model=target.model,
            arrived=now,
            deadline=call.deadline,
            tenant=call.tenant,
            tokens=tokens_of(call.request),
        )
        forecast = Forecast(True)
        if slot is not None and slot.has_failed:
            forecast = Forecast(False, 0.0, "provider_failed", f"the actor of {target.manifest.id} crashed too often")
        elif actor is not None:
            actor.hear_probes()
            forecast = actor.gate.forecast(ticket, now)
        return look(
            call.request,
            ref=target.ref,
            manifest=target.manifest,
            facts=target.facts,
            gates=self.config.gates,
            cost_cap=terms.policies.cost_cap,
            time_left_s=None if call.deadline == math.inf else call.deadline - now,
            forecast=forecast,
        )

    def _stream(self, request: Request, terms: Terms) -> ChatStream:
        return ChatStream(self, partial(self._prepare_stream, request, terms))

    async def _prepare_stream(self, request: Request, terms: Terms) -> tuple[Call, Service]:
        call, terms = await self._routed(request, terms)
        return call, self._service(terms)

    def _start_drive(self, drive: Drive, service: Service) -> None:
        if self._supervisor.is_closing:
            raise AdmissionError("the client is closed", kind="client_closed")
        self._open[drive.call.number] = drive
        self._nursery.start_soon(drive.run, service, self, name=f"call {drive.call.number}")

    def _drive_ended(self, drive: Drive) -> None:
        if isinstance(drive.error, AiLibError):
            drive.error.attempts = attempts_of(drive.call)
        was_left = drive.scope.cancel_called
        self._end(drive.call, "cancelled" if was_left else "ok" if drive.error is None else "failed")

    def _end(self, call: Call, outcome: str) -> None:
        if self._open.pop(call.number, call) is not call:
            self._outcomes[outcome] += 1
            if self._routes is not None:
                self._routes.learn(call)
        if not self._open:
            self._all_ended.set()

    # ---- what a call came to

    def _reply(self, call: Call, folding: Fold) -> ChatResponse:
        return reply_of(call, folding, client=self.number)

    def _stats(self, call: Call, usage: Usage) -> CallStats:
        return stats_of(call, usage)

    def _use(self, catalog: Catalog) -> None:
        self._catalog = catalog

    # ---- what actors are given

    def _make_engine(self, key: ActorKey) -> Engine:
        config = self.config
        if self._own_http is not None:
            return self._own_http
        if callable(config.transport):
            return config.transport(key.origin)
        proxy = proxy_for(key.origin, self._environ)
        if config.transport == "httpx" or (config.transport == "auto" and proxy is not None):
            from ..transport.httpx_engine import HttpxEngine

            return HttpxEngine(ssl_context=config.ssl_context, proxy=proxy)
        return NativeEngine(ssl_context=config.ssl_context, hub=self._open_hub())

    def _open_hub(self) -> Hub | None:
        """The hub of all native connections, from the first one to the client's end; None where there can be none."""
        if self._hub is None and Hub.is_available():
            self._hub = Hub()
            self._nursery.start_soon(self._hub.run, name="hub")
        return self._hub

    def _make_rules(self, target: Target, key_number: int) -> Rules:
        config = self.config
        return Rules(
            make_gate=partial(self._make_gate, target, key_number),
            timeouts=config.timeouts,
            limits=Limits(config.max_frame_bytes, config.max_reply_bytes),
            errors=self._catalog.error_table(),
            wall_time=config.wall_time,
        )

    def _make_gate(self, target: Target, key_number: int) -> Gate:
        rules = self._executor.gate_rules(target.manifest)
        return ProviderGate(rules, provider=target.key.provider, origin=target.key.origin, key_number=key_number)

    # ---- closing

    async def _finish_calls(self, grace_s: float) -> None:
        """Take no more calls, make no more checks; end calls nobody reads; let the others finish within the grace."""
        self._supervisor.stop_taking()
        for drive in self._open.values():
            if drive is not None and not drive.is_attended:
                drive.scope.cancel()
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
        fallbacks: tuple[str, ...],
        config: Config,
    ) -> None:
        self._arguments = (model, api, manifests, base_url, api_key, fallbacks, config)
        self._manager: Any = None
        self._nursery: trio.Nursery | None = None
        self._client: AiClient | None = None

    @trio.lowlevel.enable_ki_protection  # Ctrl-C comes at a checkpoint, not between a nursery and its block
    async def __aenter__(self) -> AiClient:
        _need_trio()
        if self._manager is not None:
            raise CallerError("a client's block is entered once", kind="bad_argument")
        model, api, manifests, base_url, api_key, fallbacks, config = self._arguments
        environ = os.environ if config.environ is None else config.environ
        if config.reload_manifests_s is not None:
            from ..protocol.watch import Reloader
        source = await open_source(manifests, environ)
        opener = partial(Catalog.open, source, environ=environ)
        reloader = None if config.reload_manifests_s is None else Reloader(opener, check=check_compiles)
        catalog = opener() if reloader is None else reloader.catalog
        base_urls, api_keys = dict(config.base_urls), dict(config.api_keys)
        if base_url is not None or api_key is not None:
            if model is None:
                raise CallerError(
                    "base_url and api_key belong to a model's provider: name a model", kind="bad_argument"
                )
            if is_routed(model):
                raise CallerError("an array's endpoints have their own base_url and api_key", kind="bad_argument")
            provider = catalog.resolve(model).provider_id
            if base_url is not None:
                base_urls[provider] = base_url
            if api_key is not None:
                api_keys[provider] = api_key
        elif model is not None and not is_routed(model):
            catalog.resolve(model)  # an unknown model is said here, not at the first call
        targets = Targets(catalog, environ, base_urls=base_urls, api_keys=api_keys)
        manager = trio.open_nursery()
        nursery = await manager.__aenter__()
        try:
            self._client = AiClient(
                config=config,
                model=model,
                api=api,
                fallbacks=fallbacks,
                catalog=catalog,
                reloader=reloader,
                targets=targets,
                environ=environ,
                nursery=nursery,
            )
            self._client._known(fallbacks)
        except BaseException:  # whatever it is goes on; the nursery that was just opened must not stay open behind it
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
        except BaseException as caught:  # what tasks raised, sorted below: the block's own exception comes first
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
    """The block's own failure: a `Cancelled` beside it was ours, and must not travel on in a group; so was what a call
    in it was told of the client's end."""
    if isinstance(exc, BaseExceptionGroup):
        own = exc.split(trio.Cancelled)[1]
        return [] if own is None else [own]
    is_ours = isinstance(exc, trio.Cancelled) or (isinstance(exc, AdmissionError) and exc.kind == "client_closed")
    return [] if is_ours else [exc]


def _settings(config: Config, environ: Mapping[str, str]) -> Resilience:
    """Code before environment: `max_inflight` and `max_queued` of the config are short for the settings' own."""
    own = config.resilience.over(Resilience(max_inflight=config.max_inflight, max_queued=config.max_queued))
    return own.over(from_environ(environ))
