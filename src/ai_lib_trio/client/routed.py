"""A call to `@name`: an array's order becomes a first target and its fallbacks.

Imports routing, `actors`, `resilience`, types and `targets`. The rule that must stay true: an endpoint's state is read
from the actors that own it, and nothing here keeps a copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import trio

from ..actors.health import Health
from ..actors.job import Job
from ..actors.supervisor import Slot
from ..actors.target import ActorKey, Target
from ..errors import CallerError
from ..protocol.loader import Catalog
from ..resilience.estimate import tokens_of
from ..routing import Candidate, Endpoint, ModelArray, Router
from ..service import Call
from ..types.request import Request
from .targets import Targets, is_routed

__all__ = ["Routes"]


class Coming:
    """A call on its way to an endpoint: ranked, and not entered at its actor yet. Others that are ranked meanwhile see
    it, so that calls which begin together are not all given to one endpoint."""

    __slots__ = ("is_over", "log")

    def __init__(self) -> None:
        self.log: list[Job] | None = None  # the call's, once it is put together
        self.is_over = False

    @property
    def has_come(self) -> bool:
        return self.is_over or bool(self.log)


class Routes:
    """A client's router, and where its endpoints' actors are. Raises `CallerError` for an endpoint nobody knows."""

    def __init__(
        self,
        router: Router | ModelArray,
        targets: Targets,
        *,
        slots: Mapping[ActorKey, Slot],
        catalog: Callable[[], Catalog],
        health: Health | None,
        seed: object,
    ) -> None:
        self.router = router if isinstance(router, Router) else Router(router)
        self._targets = targets
        self._slots = slots
        self._catalog = catalog
        self._health = health
        self._seed = seed
        self._names: dict[str, tuple[ModelArray, str]] = {}
        self._coming: dict[str, deque[Coming]] = {}  # by endpoint, in the order in which they were ranked
        self._of_calls: dict[int, list[Coming]] = {}
        for array in self.router.arrays.values():
            for label, endpoint in array.endpoints.items():
                name = f"@{array.name}/{label}"
                catalog().resolve(endpoint.model)  # an unknown model is said here, not at the first call
                self._names[name] = (array, label)
                self._coming[name] = deque()
                targets.place(name, endpoint.model, base_url=endpoint.base_url, api_key=endpoint.api_key)

    @property
    def default(self) -> str:
        """The name of the first array."""
        return f"@{next(iter(self.router.arrays))}"

    def rank(self, model: str, api: str | None, request: Request, *, is_dry: bool = False) -> list[str]:
        """The endpoints that a call to an array may go to, as names that `Targets` knows, the first first.

        With `api` those that have it. Raises `CallerError` where none does.
        """
        array = self.router.array(model)
        if api is not None and not any(
            self._targets.has_api(f"@{array.name}/{label}", api) for label in array.endpoints
        ):
            raise CallerError(f"no endpoint of @{array.name} has an API {api!r}", kind="bad_argument")
        labels = array.rank(
            request,
            tokens_of(request),
            self._seed,
            lambda label, endpoint: self._candidate(f"@{array.name}/{label}", label, endpoint, api),
            is_dry=is_dry,
        )
        return [f"@{array.name}/{label}" for label in labels]

    def expand(self, models: Sequence[str], api: str | None, request: Request, *, is_dry: bool = False) -> list[str]:
        """The models, each array's name replaced by its endpoints in their order."""
        names: list[str] = []
        for model in models:
            names += self.rank(model, api, request, is_dry=is_dry) if is_routed(model) else [model]
        return names

    @contextmanager
    def given_to(self, name: str) -> Iterator[Coming]:
        """A call that is on its way to this endpoint from now on, until its end where the block raises."""
        coming = Coming()
        self._coming[name].append(coming)
        try:
            yield coming
        except BaseException:  # whatever it was: this call does not come
            coming.is_over = True
            raise

    def begun(self, coming: list[Coming], call: Call) -> None:
        """The call is put together: it is on its way until it has entered, or is over."""
        for one in coming:
            one.log = call.log
        if coming:
            self._of_calls[call.number] = coming

    def _on_the_way(self, name: str, target: Target | None, api: str | None) -> int:
        """How many calls are coming to the endpoint's actor, by whatever endpoint."""
        count = 0
        for other, coming in self._coming.items():
            while coming and coming[0].has_come:
                coming.popleft()
            if not coming:
                continue
            known = target if other == name else self._targets.known(other, api)
            if other == name or (known is not None and target is not None and known.key == target.key):
                count += len(coming)
        return count

    def _candidate(self, name: str, label: str, endpoint: Endpoint, api: str | None) -> Candidate | None:
        if api is not None and not self._targets.has_api(name, api):
            return None
        catalog = self._catalog()
        ref = catalog.resolve(endpoint.model)
        target = self._targets.known(name, api)
        slot = self._slots.get(target.key) if target is not None else None
        actor = slot.actor if slot is not None else None
        is_well = target is None or self._health is None or self._health.is_healthy(target)
        if slot is not None and slot.has_failed:
            is_well = False
        if actor is not None and target is not None and is_well:
            view = actor.gate.view(trio.current_time())
            is_well = not any(one.state == "open" and one.of in ("connection", target.model) for one in view.breakers)
        return Candidate(
            name=label,
            model=ref.ref,
            weight=endpoint.weight,
            quality=endpoint.quality,
            facts=ref.facts,
            declared=catalog.provider(ref.provider_id).capabilities,
            in_flight=len(actor.inflight) if actor is not None else 0,
            queued=(actor.queued if actor is not None else 0) + self._on_the_way(name, target, api),
            is_well=is_well,
        )

    def learn(self, call: Call) -> None:
        """Tell the arrays how long the call's attempts took to their first tokens, and which failed before one."""
        for coming in self._of_calls.pop(call.number, ()):
            coming.is_over = True
        jobs: list[Job] = call.log
        for job in jobs:
            progress = job.progress
            target: Target = job.call.target
            found = self._names.get(target.name)
            if found is None or progress.started_at is None:
                continue
            array, label = found
            if progress.first_token_at is not None:
                array.learn(label, progress.first_token_at - progress.started_at)
            elif job.error is not None and job.error.fallbackable:  # not its caller's doing
                array.learn_failure(label)
