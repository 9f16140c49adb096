"""The executor: puts the policies together, in one order, from settings, the manifest and the call's own terms.

Imports everything beside it. The order, from the caller inwards (docs/resilience.md says why):

    deadline ( race | hedge | quorum ( fallback ( preflight, retry ( actor: gate ( exchange ) ) ) ) )

The rule that must stay true: a call's own terms come before the settings, those before the environment, that before the
provider's manifest, and that before the defaults.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import msgspec

from ..errors import AiLibError, CallerError, need_number, need_word
from ..protocol.manifest import Manifest
from ..protocol.registry import ModelFacts
from ..service import Call, Outlet, Service
from ..types.records import Listeners
from ..types.stats import Skipped
from .backoff import Backoff, Jitter, Strategy
from .backpressure import GateRules
from .budget import BudgetRules
from .circuit_breaker import BreakerRules
from .deadline import within_deadline
from .estimate import output_asked
from .fallback import NOT_HERE, MidStream, Step, falling_back
from .preflight import Gates, look, refusal_of
from .rate_limiter import LimitRules
from .retry import Chance, RetryRules, retrying, rules_of
from .text_calls import reading_calls

if TYPE_CHECKING:
    from .contest import Contest, Entrant, Member
    from .quorum import Agree
    from .race import Until

__all__ = ["CallTerms", "Resilience", "ResilientExecutor", "Target", "from_environ"]


class Target(Protocol):
    """A target, as far as policies look at it."""

    @property
    def ref(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def manifest(self) -> Manifest: ...
    @property
    def facts(self) -> ModelFacts | None: ...


class Resilience(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a client's resilience. None means: what comes after it in the order says.

    The first group is about attempts (`max_attempts` counts the first; 1 is no retry). `can_continue` names models that
    go on with an answer that ends the messages, beside those whose manifests declare `assistant_prefill`. The second
    group is about the gate in front of each provider: `breaker` and `retry_budget` may be `"off"`.
    `requests_per_minute` and `tokens_per_minute` are limits of the caller's own, for each key or model as the
    provider's manifest declares; limits that replies tell are kept in any case. `when_full` says whether a call waits
    for a permit or is shed. `tenants` are weights, 1 for who is not named. `providers` has settings for one provider,
    by id, over these.
    """

    max_attempts: int | None = None
    strategy: Strategy | None = None
    jitter: Jitter | None = None
    min_delay_s: float | None = None
    max_delay_s: float | None = None
    max_hint_s: float | None = None
    silent_retries: int | None = None
    partial: bool | None = None
    can_continue: tuple[str, ...] | None = None

    retry_budget: BudgetRules | Literal["off"] | None = None
    breaker: BreakerRules | Literal["off"] | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_inflight: int | None = None
    max_queued: int | None = None
    max_queued_tokens: float | None = None
    when_full: Literal["wait", "shed"] | None = None
    tenants: Mapping[str, float] | None = None

    providers: Mapping[str, Resilience] | None = None

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            need_number(name, getattr(self, name), least=least, is_whole=name in _WHOLE)
        for name, words in _WORDS.items():
            need_word(name, getattr(self, name), words)
        for tenant, weight in (self.tenants or {}).items():
            if not 0 < weight < math.inf:
                raise CallerError(f"the weight of {tenant!r} is above 0, got {weight!r}", kind="bad_argument")
        for provider, own in (self.providers or {}).items():
            if own.providers is not None:
                raise CallerError(f"the settings for {provider} are for no other provider", kind="bad_argument")

    def over(self, other: Resilience) -> Resilience:
        """These settings, with what they leave open from the other."""
        changes = {name: getattr(other, name) for name in self.__struct_fields__ if getattr(self, name) is None}
        return msgspec.structs.replace(self, **changes)

    def of(self, provider: str) -> Resilience:
        """The settings for one provider."""
        own = (self.providers or {}).get(provider)
        return self if own is None else own.over(self)


_LEAST: dict[str, float] = {
    "max_attempts": 1,
    "min_delay_s": 0,
    "max_delay_s": 0,
    "max_hint_s": 0,
    "silent_retries": 0,
    "requests_per_minute": 1e-9,
    "tokens_per_minute": 1e-9,
    "max_inflight": 1,
    "max_queued": 0,
    "max_queued_tokens": 0,
}
_WORDS: dict[str, tuple[str, ...]] = {
    "strategy": get_args(Strategy),
    "jitter": get_args(Jitter),
    "when_full": ("wait", "shed"),
}
_WHOLE = ("max_attempts", "max_inflight", "max_queued", "silent_retries")
_FROM_ENVIRON = ("max_attempts", "max_hint_s", "requests_per_minute", "tokens_per_minute", "max_inflight", "max_queued")


def from_environ(environ: Mapping[str, str]) -> Resilience:
    """The settings in the environment: `AI_LIB_MAX_ATTEMPTS` and its like, and `AI_LIB_BREAKER=off`."""
    found: dict[str, Any] = {}
    for name in _FROM_ENVIRON:
        text = environ.get(f"AI_LIB_{name.upper()}")
        if text:
            try:
                found[name] = int(text) if name in _WHOLE else float(text)
            except ValueError:
                raise CallerError(f"AI_LIB_{name.upper()} is a number, got {text!r}", kind="bad_argument") from None
    for name in ("breaker", "retry_budget"):
        text = environ.get(f"AI_LIB_{name.upper()}")
        if text:
            if text != "off":
                raise CallerError(f"AI_LIB_{name.upper()} may be off, got {text!r}", kind="bad_argument")
            found[name] = "off"
    return Resilience(**found)


class CallTerms(msgspec.Struct, frozen=True, kw_only=True):
    """What one call asks of the policies. `api` is used by those of its models whose provider has it."""

    retry: Resilience = Resilience()
    api: str | None = None
    fallbacks: tuple[str, ...] = ()
    on: frozenset[str] = frozenset()
    mid_stream: MidStream = "fail"
    cost_cap: float | None = None


class ResilientExecutor:
    """Makes services for calls. `innermost` hands an attempt to its actor; `find` gives the target of a model's name.

    `spent` gives what a call's attempts cost so far. `hooks` are told what policies do.
    """

    def __init__(
        self,
        innermost: Service,
        *,
        find: Callable[[str, str | None], Awaitable[Target]],
        settings: Resilience,
        gates: Gates,
        seed: object,
        spent: Callable[[Call], float],
        hooks: Listeners | None = None,
    ) -> None:
        self.settings = settings
        self._innermost = reading_calls(innermost)
        self._find = find
        self._gates = gates
        self._spent = spent
        self._hooks = hooks
        self._rules: dict[str, tuple[Manifest, RetryRules]] = {}
        self._chance = Chance(seed)
        self._usual: tuple[CallTerms, Service] | None = None  # the chain that was asked for last

    # ---- one call

    def chain(self, terms: CallTerms) -> Service:
        """The call's own target, then its fallbacks; each with its retries. It keeps nothing of a call."""
        if self._usual is not None and self._usual[0] is terms:
            return self._usual[1]
        if not terms.fallbacks and terms.mid_stream != "continue":
            chain = within_deadline(self._alone(terms))
        else:
            steps = [self._step(None, terms)]
            steps += [self._step(model, terms) for model in terms.fallbacks]
            chain = within_deadline(falling_back(steps, on=terms.on, mid_stream=terms.mid_stream, hooks=self._hooks))
        self._usual = terms, chain
        return chain

    def race(self, entrants: Sequence[Entrant], until: Until, terms: CallTerms, state: Contest) -> Service:
        """All at once, the first that satisfies `until` wins."""
        from .race import racing

        return within_deadline(racing(self._members(entrants, terms), until, state))

    def hedge(
        self, entrants: Sequence[Entrant], after_s: Callable[[Call], float], terms: CallTerms, state: Contest
    ) -> Service:
        """The first, and the next each time `after_s` passes without a first token."""
        from .hedge import hedging

        return within_deadline(hedging(self._members(entrants, terms), after_s, state))

    def quorum(self, entrants: Sequence[Entrant], k: int, agree: Agree, terms: CallTerms, state: Contest) -> Service:
        """All at once, until `k` agree."""
        from .quorum import agreeing

        return within_deadline(agreeing(self._members(entrants, terms), k, agree, state))

    def _members(self, entrants: Sequence[Entrant], terms: CallTerms) -> list[Member]:
        from .contest import Member

        members = []
        for entrant in entrants:
            steps = [self._step(model, terms) for model in entrant.models]
            # A chain, of one too: what came before the first output is dropped with an attempt that fails.
            chain = falling_back(steps, on=terms.on, mid_stream=terms.mid_stream, hooks=self._hooks)
            members.append(Member(entrant.ref, _as_it_is, chain))
        return members

    def _alone(self, terms: CallTerms) -> Service:
        """A chain of one, the call's own target: it is over once the call goes there, and holds nothing meanwhile."""
        tried = self._tried(terms)

        def run(call: Call, outlet: Outlet) -> Awaitable[None]:
            try:
                onward = self._admit(call, call.target)
            except AiLibError as exc:
                if exc.kind in NOT_HERE:
                    call.notes.skipped += (Skipped(call.target.ref, exc.message),)
                raise
            return tried(onward, outlet)

        return run

    def _step(self, model: str | None, terms: CallTerms) -> Step:
        async def enter(call: Call) -> Call:
            target = call.target if model is None else await self._find(model, terms.api)
            return self._admit(call, target)

        return Step(model or "", enter, self._tried(terms), self._goes_on)

    def _tried(self, terms: CallTerms) -> Service:
        """Attempts at a call's target, by its provider's rules and the call's own."""
        attempt = self._innermost if terms.cost_cap is None else self._capped(terms.cost_cap)
        made_of: RetryRules | None = None
        tried = attempt

        def run(call: Call, outlet: Outlet) -> Awaitable[None]:
            nonlocal made_of, tried
            rules = self._rules_for(call.target, terms)
            if rules is not made_of:
                made_of = rules
                tried = retrying(attempt, rules, chance=self._chance, hooks=self._hooks)
            return tried(call, outlet)

        return run

    def _capped(self, cap: float) -> Service:
        """An attempt that is not started where it might cost more than is left.

        Looked at right before it is entered in the call's log: members of a race begin at one instant, and a retry
        spends again.
        """

        async def run(call: Call, outlet: Outlet) -> None:
            target: Target = call.target
            seen = look(
                call.request,
                ref=target.ref,
                manifest=target.manifest,
                facts=target.facts,
                gates="off",
                spent=self._spent(call),
                cost_cap=cap,
            )
            refusal = refusal_of(seen)
            if refusal is not None:
                raise refusal.located(provider=target.manifest.id, model=target.model)
            await self._innermost(call, outlet)

        return run

    def _goes_on(self, call: Call) -> bool:
        target: Target = call.target
        return target.ref in (self.settings.of(target.manifest.id).can_continue or ()) or _is_declared_to_go_on(target)

    def _admit(self, call: Call, target: Target) -> Call:
        """The call as it goes to this target. Raises why it may not."""
        request = call.request
        if request.model != target.model:
            request = msgspec.structs.replace(request, model=target.model)
        seen = look(
            request,
            ref=target.ref,
            manifest=target.manifest,
            facts=target.facts,
            gates=self._gates,
        )
        for check in seen.checks:
            if check.verdict == "pass":
                continue
            refusal = refusal_of(seen)
            if refusal is not None:
                raise refusal.located(provider=target.manifest.id, model=target.model)
            if check.why not in call.notes.warnings:
                call.notes.warnings += (check.why,)
        return call.copy(request=request, target=target, tokens=seen.input_tokens + output_asked(request))

    # ---- rules

    def _rules_for(self, target: Target, terms: CallTerms) -> RetryRules:
        manifest = target.manifest
        known = self._rules.get(manifest.id)
        if known is None or known[0] is not manifest:  # manifests are read again while the client is open
            rules = _with(rules_of(manifest.retry), self.settings.of(manifest.id))
            known = self._rules[manifest.id] = manifest, rules
        rules = known[1]
        if terms.retry is _PLAIN.retry:
            return rules
        return _with(rules, terms.retry, keeps_hint=self.settings.of(manifest.id).max_hint_s is not None)

    def gate_rules(self, manifest: Manifest) -> GateRules:
        """What the gate of a provider's actor goes by."""
        own = self.settings.of(manifest.id)
        usual = GateRules()
        return GateRules(
            max_inflight=_or(own.max_inflight, usual.max_inflight),
            max_queued=_or(own.max_queued, usual.max_queued),
            max_queued_tokens=_or(own.max_queued_tokens, usual.max_queued_tokens),
            when_full=own.when_full or usual.when_full,
            scope=manifest.rate_limits.scope,
            limits=LimitRules(own.requests_per_minute, own.tokens_per_minute),
            breaker=None if own.breaker == "off" else own.breaker or usual.breaker,
            budget=None if own.retry_budget == "off" else own.retry_budget or usual.budget,
            weights=own.tenants or {},
        )


_PLAIN = CallTerms()


def _or(value: Any, usual: Any) -> Any:
    return usual if value is None else value


def _with(rules: RetryRules, own: Resilience, *, keeps_hint: bool = False) -> RetryRules:
    """The rules, changed by what the settings say. A longer `max_delay_s` makes `max_hint_s` as long, unless that was
    set (`keeps_hint`)."""
    backoff = Backoff(
        own.strategy or rules.backoff.strategy,
        _or(own.min_delay_s, rules.backoff.min_delay_s),
        _or(own.max_delay_s, rules.backoff.max_delay_s),
        own.jitter or rules.backoff.jitter,
    )
    max_hint_s = rules.max_hint_s if keeps_hint else max(rules.max_hint_s, backoff.max_delay_s)
    changed = msgspec.structs.replace(
        rules,
        backoff=backoff,
        max_attempts=_or(own.max_attempts, rules.max_attempts),
        silent=_or(own.silent_retries, rules.silent),
        partial=_or(own.partial, rules.partial),
        max_hint_s=_or(own.max_hint_s, max_hint_s),
    )
    return msgspec.structs.replace(changed, max_attempts=1) if own.strategy == "none" else changed


async def _as_it_is(call: Call) -> Call:
    return call


def _is_declared_to_go_on(target: Target) -> bool:
    """Whether the target is declared to go on with an answer that ends the messages (`assistant_prefill`)."""
    facts = target.facts
    if facts is not None and "assistant_prefill" in facts.absent:
        return False
    if facts is not None and facts.capabilities is not None and "assistant_prefill" in facts.capabilities:
        return True
    declared = target.manifest.capabilities
    return "assistant_prefill" in declared.declared or bool(declared.feature_flags.get("assistant_prefill"))
