"""Building a chat request, step by step. Imports types and `cancel`.

The rule that must stay true: a builder never changes; each step gives a new one, so that one builder may be the start
of many requests, in many tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

import msgspec
import trio

from ..errors import CODES, CallerError
from ..resilience.backoff import Jitter, Strategy
from ..resilience.executor import CallTerms, Resilience
from ..resilience.fallback import MidStream
from ..resilience.preflight import Preflight
from ..service import Timeouts
from ..types.message import ContentBlock, Message
from ..types.request import Request, ResponseFormat
from ..types.response import ChatResponse
from ..types.stats import CallStats
from ..types.tool import ToolCall, ToolChoice, ToolDefinition
from .stream import ChatStream

if TYPE_CHECKING:
    from .cancel import CancelToken
    from .client import AiClient

__all__ = ["ChatRequestBuilder", "Terms"]

T = TypeVar("T")


class Terms(msgspec.Struct, frozen=True):
    """What a call asks of us, and not of the provider."""

    model: str | None = None
    api: str | None = None
    deadline_s: float | None = None
    timeouts: Timeouts | None = None
    tokens: tuple[CancelToken, ...] = ()
    tenant: str = ""
    policies: CallTerms = CallTerms()


class ChatRequestBuilder:
    """One request in the making. Each method gives a new builder; nothing is sent before `execute` or `stream`.

    Parameters are the protocol's standard ones; what is not set is not sent. A parameter that the target's wire has
    no place for is an error before anything is sent, never a silent loss.
    """

    __slots__ = ("_client", "_request", "_terms")

    def __init__(self, client: AiClient, request: Request, terms: Terms) -> None:
        self._client = client
        self._request = request
        self._terms = terms

    def _with(self, **fields: Any) -> ChatRequestBuilder:
        return ChatRequestBuilder(self._client, msgspec.structs.replace(self._request, **fields), self._terms)

    def _on(self, **fields: Any) -> ChatRequestBuilder:
        return ChatRequestBuilder(self._client, self._request, msgspec.structs.replace(self._terms, **fields))

    # ---- messages

    def messages(self, *messages: Message) -> ChatRequestBuilder:
        """Append messages in order."""
        for message in messages:
            if not isinstance(message, Message):
                raise CallerError(f"expected a Message, got {type(message).__name__}", kind="bad_argument")
        return self._with(messages=self._request.messages + messages)

    def system(self, content: str | Sequence[ContentBlock]) -> ChatRequestBuilder:
        """Append a system message: text, or blocks in order."""
        return self.messages(Message.system(content))

    def user(self, content: str | Sequence[ContentBlock]) -> ChatRequestBuilder:
        """Append a user's message: text, or blocks (images, documents, sound) in order."""
        return self.messages(Message.user(content))

    def assistant(self, content: str | Sequence[ContentBlock]) -> ChatRequestBuilder:
        """Append an assistant's message of your own. For a reply's, `messages(reply.message)` loses nothing."""
        return self.messages(Message.assistant(content))

    def tool_result(
        self, call: ToolCall | str, content: str | Sequence[ContentBlock], *, is_error: bool = False
    ) -> ChatRequestBuilder:
        """Append what a tool answered to `call` (or to the call of that id)."""
        if isinstance(call, ToolCall):
            return self.messages(Message.tool(call.id, content, is_error=is_error, tool_name=call.name))
        return self.messages(Message.tool(call, content, is_error=is_error))

    # ---- parameters

    def temperature(self, value: float) -> ChatRequestBuilder:
        """How much chance is in the choice of tokens. Which values are taken is the provider's to say."""
        return self._with(temperature=_number("temperature", value))

    def max_tokens(self, value: int) -> ChatRequestBuilder:
        """The most tokens of the answer, at least 1; on most wires reasoning counts too."""
        return self._with(max_tokens=_integer("max_tokens", value, least=1))

    def top_p(self, value: float) -> ChatRequestBuilder:
        """Only the likeliest tokens that together have this share of the probability, 0 to 1."""
        return self._with(top_p=_number("top_p", value))

    def top_k(self, value: int) -> ChatRequestBuilder:
        """Only so many of the likeliest tokens."""
        return self._with(top_k=_integer("top_k", value, least=0))

    def stop(self, *sequences: str) -> ChatRequestBuilder:
        """Texts at which the model stops."""
        return self._with(stop_sequences=tuple(_text("a stop sequence", text) for text in sequences))

    def seed(self, value: int) -> ChatRequestBuilder:
        """The seed of the provider's own chance, where it has one. The pauses between retries go by `Config.seed`."""
        return self._with(seed=_integer("seed", value))

    def n(self, value: int) -> ChatRequestBuilder:
        """How many candidates to ask for."""
        return self._with(n=_integer("n", value, least=1))

    def presence_penalty(self, value: float) -> ChatRequestBuilder:
        """Makes tokens that have been used less likely, however often they were."""
        return self._with(presence_penalty=_number("presence_penalty", value))

    def frequency_penalty(self, value: float) -> ChatRequestBuilder:
        """Makes tokens less likely the more often they have been used."""
        return self._with(frequency_penalty=_number("frequency_penalty", value))

    def tools(self, *tools: ToolDefinition) -> ChatRequestBuilder:
        """The tools on offer, in place of those set before."""
        for tool in tools:
            if not isinstance(tool, ToolDefinition):
                raise CallerError(f"expected a ToolDefinition, got {type(tool).__name__}", kind="bad_argument")
            _text("a tool's name", tool.name)
            _mapping("a tool's parameters", tool.parameters)
        return self._with(tools=tools)

    def tool_choice(
        self, mode: Literal["auto", "none", "required", "tool"], name: str | None = None
    ) -> ChatRequestBuilder:
        """Whether the model must call; mode `tool` needs the tool's `name`."""
        if mode not in ("auto", "none", "required", "tool") or (mode == "tool") != (name is not None):
            raise CallerError(
                f"tool_choice is auto, none, required, or tool with a name; got {mode!r}, name={name!r}",
                kind="bad_argument",
            )
        return self._with(tool_choice=ToolChoice(mode, name))

    def parallel_tool_calls(self, allowed: bool) -> ChatRequestBuilder:
        """Whether the model may ask for several calls in one reply."""
        if not isinstance(allowed, bool):
            raise CallerError(f"parallel_tool_calls is True or False, got {allowed!r}", kind="bad_argument")
        return self._with(parallel_tool_calls=allowed)

    def response_format(
        self,
        mode: Literal["text", "json_object", "json_schema"],
        schema: dict[str, Any] | None = None,
        *,
        name: str | None = None,
        description: str | None = None,
        strict: bool | None = None,
    ) -> ChatRequestBuilder:
        """The form of the answer; `json_schema` needs a schema, and takes a name for it."""
        if mode not in ("text", "json_object", "json_schema") or (mode == "json_schema") != (schema is not None):
            raise CallerError("response_format is text, json_object, or json_schema with a schema", kind="bad_argument")
        if schema is not None:
            schema = _mapping("schema", schema)
        form = ResponseFormat(mode, name=name, description=description, schema=schema, strict=strict)
        return self._with(response_format=form)

    def reasoning_effort(self, level: str) -> ChatRequestBuilder:
        """How much to reason: `low`, `medium`, `high`, or a word of the provider's own."""
        return self._with(reasoning_effort=_text("reasoning_effort", level))

    def thinking(self, settings: dict[str, Any]) -> ChatRequestBuilder:
        """The provider's own reasoning settings, as its wire has them."""
        return self._with(thinking=_mapping("thinking", settings))

    def metadata(self, values: dict[str, Any]) -> ChatRequestBuilder:
        """Sent to the provider where its wire has a place for it."""
        return self._with(metadata=_mapping("metadata", values))

    def extra(self, fields: dict[str, Any]) -> ChatRequestBuilder:
        """Fields merged into the body as they are, last: for what the standard request has no name for."""
        return self._with(extra={**(self._request.extra or {}), **_mapping("extra", fields)})

    def headers(self, values: dict[str, str]) -> ChatRequestBuilder:
        """Headers to add, over those given before. The auth header cannot be overridden."""
        return self._with(headers={**(self._request.headers or {}), **_mapping("headers", values)})

    def query(self, values: dict[str, str]) -> ChatRequestBuilder:
        """Parameters to add to the URL. One that carries the key cannot be overridden."""
        return self._with(query={**(self._request.query or {}), **_mapping("query", values)})

    # ---- terms

    def model(self, ref: str) -> ChatRequestBuilder:
        """Another model than the client's, as `provider/model`."""
        return self._on(model=_text("a model", ref))

    def api(self, family: str) -> ChatRequestBuilder:
        """One of the provider's API families, where it has several."""
        return self._on(api=_text("api", family))

    def deadline(self, seconds: float) -> ChatRequestBuilder:
        """The whole call, from now on `execute` or `stream`, takes at most so long; then kind `deadline` is raised."""
        return self._on(deadline_s=_number("deadline", seconds))

    def timeouts(
        self,
        *,
        connect_s: float | None = None,
        first_byte_s: float | None = None,
        idle_s: float | None = None,
        min_bytes_per_s: float | None = None,
    ) -> ChatRequestBuilder:
        """Limits on waiting for the provider, in seconds; what is not given stays as the client has it.

        `min_bytes_per_s` ends a reply that brings less over ten seconds.
        """
        base = self._terms.timeouts or self._client.config.timeouts
        return self._on(
            timeouts=Timeouts(
                base.connect_s if connect_s is None else connect_s,
                base.first_byte_s if first_byte_s is None else first_byte_s,
                base.idle_s if idle_s is None else idle_s,
                base.min_bytes_per_s if min_bytes_per_s is None else min_bytes_per_s,
            )
        )

    def retry(
        self,
        *,
        max_attempts: int | None = None,
        min_delay_s: float | None = None,
        max_delay_s: float | None = None,
        strategy: Strategy | None = None,
        jitter: Jitter | None = None,
        max_hint_s: float | None = None,
        silent: int | None = None,
        partial: bool | None = None,
    ) -> ChatRequestBuilder:
        """How this call is retried; what is not given stays as the client and the provider's manifest have it.

        `max_attempts` counts the first: 1 is no retry. `silent` is how often it may go out again after it was sent and
        nothing came. `partial=True` also retries after output: then a `Rerouted` event voids what came before it.
        """
        own = Resilience(
            max_attempts=max_attempts,
            min_delay_s=min_delay_s,
            max_delay_s=max_delay_s,
            strategy=strategy,
            jitter=jitter,
            max_hint_s=max_hint_s,
            silent_retries=silent,
            partial=partial,
        )
        return self._policy(retry=own.over(self._terms.policies.retry))

    def fallback(self, *models: str, on: Sequence[str] = (), mid_stream: MidStream = "fail") -> ChatRequestBuilder:
        """Models to ask, in order, where one fails in a way that another may not.

        `on` adds standard codes (`"E1004"`) to those that lead to the next model. `mid_stream` says what happens after
        output has come: `fail` raises; `restart` voids it with a `Rerouted` event and gives the next model's answer
        from the start; `continue` hands what came to the next model that can go on with it. Without models the
        client's fallbacks stay.
        """
        for model in models:
            _text("a model", model)
        if isinstance(on, str):
            raise CallerError(f"on is a list of codes, got {on!r}", kind="bad_argument")
        unknown = sorted(set(on) - set(CODES))
        if unknown:
            raise CallerError(f"{unknown[0]!r} is no standard code", kind="bad_argument")
        if mid_stream not in get_args(MidStream):
            raise CallerError(f"mid_stream is fail, restart or continue, got {mid_stream!r}", kind="bad_argument")
        known = tuple(self._client._known(models)) or self._terms.policies.fallbacks
        return self._policy(fallbacks=known, on=frozenset(on), mid_stream=mid_stream)

    def tenant(self, name: str) -> ChatRequestBuilder:
        """Whose call it is, for a fair share where calls have to wait. Never on the wire."""
        return self._on(tenant=_text("a tenant", name))

    def cost_cap(self, most: float) -> ChatRequestBuilder:
        """The most that all attempts of the call may cost together, in the currency of the prices.

        An attempt that might exceed it is not started (kind `cost_cap`). Needs a model with known prices and a bound on
        the answer: `max_tokens`, or the model's own.
        """
        return self._policy(cost_cap=_number("cost_cap", most))

    def _policy(self, **fields: Any) -> ChatRequestBuilder:
        return self._on(policies=msgspec.structs.replace(self._terms.policies, **fields))

    def cancel_token(self, token: CancelToken) -> ChatRequestBuilder:
        """A token that may end this call from elsewhere."""
        from .cancel import CancelToken  # who calls this has loaded it

        if not isinstance(token, CancelToken):
            raise CallerError(f"expected a CancelToken, got {type(token).__name__}", kind="bad_argument")
        return self._on(tokens=(*self._terms.tokens, token))

    # ---- sending

    async def execute(self) -> ChatResponse:
        """Send, and give the whole reply. Raises an `AiLibError`; nothing of the call is left either way."""
        _, reply = await self._client._execute(self._request, self._terms)
        return reply

    async def execute_with_stats(self) -> tuple[ChatResponse, CallStats]:
        """Send, and give the whole reply and what it took: attempts, seconds, tokens, cost. Raises as `execute`."""
        call, reply = await self._client._execute(self._request, self._terms)
        return reply, self._client._stats(call, reply.usage)

    async def preflight(self) -> Preflight:
        """What would happen if the request were sent now, and why. Sends nothing."""
        return await self._client._preflight(self._request, self._terms)

    def stream(self) -> ChatStream:
        """Send when the block is entered, and give the events as they come.

        Nothing is sent by this call itself. Use it once, as `async with chat.stream() as events`; when the block is
        left the connection is closed or back in its pool.
        """
        return self._client._stream(msgspec.structs.replace(self._request, stream=True), self._terms)

    def __repr__(self) -> str:
        model = self._terms.model or self._request.model or "?"
        return f"<ChatRequestBuilder {model} {len(self._request.messages)} messages>"


def absolute(deadline_s: float | None) -> float:
    """The deadline on trio's clock."""
    return math.inf if deadline_s is None else trio.current_time() + deadline_s


def _number(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CallerError(f"{name} is a number, got {value!r}", kind="bad_argument")
    return value


def _integer(name: str, value: int, *, least: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        bound = "" if least is None else f" of at least {least}"
        raise CallerError(f"{name} is a whole number{bound}, got {value!r}", kind="bad_argument")
    return value


def _text(name: str, value: str) -> str:
    if not isinstance(value, str):
        raise CallerError(f"{name} is text, got {value!r}", kind="bad_argument")
    return value


def _mapping(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise CallerError(f"{name} is a mapping, got {type(value).__name__}", kind="bad_argument")
    return dict(value)
