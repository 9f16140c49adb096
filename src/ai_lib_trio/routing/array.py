"""One logical model over several endpoints, and the names under which calls ask for them.

Imports `strategies`, `errors` and types. The rule that must stay true: an endpoint that drains gets no new call, and
one that is not well is asked after all that are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import msgspec

from ..errors import AdmissionError, CallerError
from ..types.request import Request
from .strategies import Asked, Candidate, Strategy, round_robin

__all__ = ["Endpoint", "ModelArray", "Router"]

FAILING_FOR = 20  # calls of the array: at most one in so many is spent on looking whether an endpoint is back
DECAY = 0.2  # of a new measurement: five replies outweigh all before them, and one outlier does not


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One way to reach a model. `base_url` and `api_key` are for this endpoint alone, over the client's own.

    `weight` is its share (`weighted`) or its size (`least_busy`), `quality` a number of yours (`best_quality`).
    """

    model: str
    name: str = ""
    weight: float = 1.0
    quality: float = 0.0
    base_url: str | None = None
    api_key: str | None = None

    def __repr__(self) -> str:
        key = "" if self.api_key is None else ", with a key of its own"
        return f"<Endpoint {self.name or self.model} of {self.model}, weight {self.weight:g}{key}>"


class ModelArray:
    """A name over endpoints, in the order of a strategy. Calls ask for it as `@name`.

    `chain` is how many endpoints a call may go to, one after the other, where one fails; None for all of them. An array
    belongs to one client, which learns into it how long first tokens take.
    """

    def __init__(
        self,
        name: str,
        endpoints: Sequence[Endpoint | str],
        *,
        strategy: Strategy = round_robin,
        chain: int | None = None,
    ) -> None:
        if not name or not endpoints or isinstance(endpoints, str):
            raise CallerError("an array has a name and at least one endpoint", kind="bad_argument")
        if name.startswith("@"):  # it would be asked for as @@name
            raise CallerError(f"an array's name is without the @ that asks for it, got {name!r}", kind="bad_argument")
        if chain is not None and chain < 1:
            raise CallerError(f"chain is at least 1, got {chain!r}", kind="bad_argument")
        self.name = name
        self.strategy = strategy
        self.chain = chain
        self._endpoints: dict[str, Endpoint] = {}
        for one in endpoints:
            endpoint = Endpoint(model=one) if isinstance(one, str) else one
            if not endpoint.weight >= 0:
                raise CallerError(f"a weight is at least 0, got {endpoint.weight!r}", kind="bad_argument")
            label = endpoint.name or endpoint.model
            if label in self._endpoints:
                raise CallerError(f"two endpoints are called {label!r}: give them names", kind="bad_argument")
            self._endpoints[label] = endpoint
        self._draining: set[str] = set()
        self._first_token_s: dict[str, float] = {}
        self._failed_at: dict[str, int] = {}  # the array's turn when an endpoint's last attempt failed
        self._turns = 0

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """The endpoints by name."""
        return dict(self._endpoints)

    @property
    def draining(self) -> frozenset[str]:
        """The endpoints that get no new calls."""
        return frozenset(self._draining)

    def drain(self, endpoint: str) -> None:
        """No new calls to this endpoint; those that run go on."""
        self._known(endpoint)
        self._draining.add(endpoint)

    def restore(self, endpoint: str) -> None:
        """New calls again."""
        self._known(endpoint)
        self._draining.discard(endpoint)

    def _known(self, endpoint: str) -> None:
        if endpoint not in self._endpoints:
            names = ", ".join(self._endpoints)
            raise CallerError(f"@{self.name} has no endpoint {endpoint!r}; it has: {names}", kind="bad_argument")

    def learn(self, endpoint: str, first_token_s: float) -> None:
        """A reply's first token took so long."""
        self._failed_at.pop(endpoint, None)
        before = self._first_token_s.get(endpoint)
        self._first_token_s[endpoint] = first_token_s if before is None else before + DECAY * (first_token_s - before)

    def learn_failure(self, endpoint: str) -> None:
        """An attempt failed before its first token."""
        self._failed_at[endpoint] = self._turns

    def _is_failing(self, endpoint: str) -> bool:
        failed_at = self._failed_at.get(endpoint)
        return failed_at is not None and self._turns - failed_at < FAILING_FOR

    def rank(
        self,
        request: Request,
        tokens: int,
        seed: object,
        look: Callable[[str, Endpoint], Candidate | None],
        *,
        is_dry: bool = False,
    ) -> list[str]:
        """The endpoints for a call, by name, the one to ask first first. `look` gives what is known of one now, None
        where the call cannot go there; with `is_dry` the next call gets the same turn.

        Raises `AdmissionError` (kind `no_endpoint`) where all of them drain or the strategy wants none, `CallerError`
        where it gives something else than candidates, and what the strategy raises.
        """
        asked = Asked(request, self._turns, tokens, Random(f"{seed}/{self.name}/{self._turns}"))
        self._turns += not is_dry
        open_ones = [
            candidate._replace(first_token_s=self._first_token_s.get(name), is_failing=self._is_failing(name))
            for name, endpoint in self._endpoints.items()
            if name not in self._draining and (candidate := look(name, endpoint)) is not None
        ]
        ranked = self._checked(self.strategy(open_ones, asked))
        # By what is so now: a strategy may give what it was given for another call.
        is_well = {one.name: one.is_well for one in open_ones}
        order = sorted((one for one in ranked if one.name in is_well), key=lambda one: not is_well[one.name])
        if not order:
            why = "all of them drain" if not open_ones else "none of them fits the request"
            raise AdmissionError(f"@{self.name} has no endpoint for this call: {why}", kind="no_endpoint")
        return [one.name for one in order[: self.chain]]

    def _checked(self, ranked: Sequence[Candidate]) -> Sequence[Candidate]:
        """What a strategy gave, if it is some of this array's candidates, each once."""
        if not isinstance(ranked, Sequence) or not all(isinstance(one, Candidate) for one in ranked):
            got = type(ranked).__name__
            raise CallerError(
                f"the strategy of @{self.name} gives a list of candidates, got {got}", kind="bad_argument"
            )
        names = [one.name for one in ranked]
        if len(set(names)) < len(names) or not self._endpoints.keys() >= set(names):
            raise CallerError(
                f"the strategy of @{self.name} gives each of its candidates once at most, got {', '.join(names)}",
                kind="bad_argument",
            )
        return ranked

    def __repr__(self) -> str:
        return f"<ModelArray @{self.name}: {', '.join(self._endpoints)}>"


class Router:
    """Arrays by name. The first one is what calls go to that name no model, where the client has none."""

    def __init__(self, *arrays: ModelArray) -> None:
        if not arrays:
            raise CallerError("a router has at least one array", kind="bad_argument")
        for array in arrays:
            if not isinstance(array, ModelArray):
                raise CallerError(f"expected a ModelArray, got {type(array).__name__}", kind="bad_argument")
        self.arrays = {array.name: array for array in arrays}
        if len(self.arrays) < len(arrays):
            raise CallerError("two arrays have the same name", kind="bad_argument")

    def array(self, model: str) -> ModelArray:
        """The array of a name such as `@fast`."""
        array = self.arrays.get(model.removeprefix("@"))
        if array is None:
            known = ", ".join(f"@{name}" for name in self.arrays)
            raise CallerError(f"no array is called {model!r}; there are: {known}", kind="unknown_model")
        return array
