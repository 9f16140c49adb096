"""Records become OpenTelemetry spans and metrics, after the semantic conventions for generative AI.

Imports types, and the OpenTelemetry API where a `Tracing` is made. The rule that must stay true: each call has one
span, a child of whatever span its caller was in, and each attempt one span below it; they end when a record says so.

Names are those of the conventions 1.44.0 (status: development), in the package opentelemetry-semantic-conventions
0.66b2, read on 2026-11-28 at https://opentelemetry.io/docs/specs/semconv/gen-ai/ and in their repository. Of names
there is one set: `OTEL_SEMCONV_STABILITY_OPT_IN` changes nothing, since nothing older was ever sent. What the
conventions have no name for begins with `ailib.`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..errors import CODES, CallerError
from ..types.message import Message, TextBlock, ThinkingBlock, ToolResultBlock, ToolUseBlock
from ..types.records import (
    AttemptEnded,
    AttemptStarted,
    CallAdmitted,
    CallContent,
    CallEnded,
    CallQueued,
    CallRerouted,
    CallRetried,
    CallStarted,
    FirstToken,
    Record,
    Sink,
)

if TYPE_CHECKING:
    from opentelemetry.metrics import Histogram, MeterProvider
    from opentelemetry.trace import Span, Tracer, TracerProvider

__all__ = ["SCHEMA_URL", "Tracing"]

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
SCOPE = "ai_lib_trio"
OPERATION = "chat"

# The conventions' own buckets, the same source and day.
DURATION_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)

TOKENS = tuple(float(4**power) for power in range(14))


class Tracing:
    """A sink for any number of clients. The providers are the program's own, the global ones if None.

    A call's span is named `chat MODEL`, of kind client, with usage, finish reason and, of a streamed one, the time to
    its first chunk (to its first output: what a wire sends before that is no part of an answer). Prompts and replies
    are attributes only where the client has `record_content`.
    """

    def __init__(
        self, *, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        try:
            from opentelemetry import metrics, trace
        except ImportError as exc:
            raise CallerError(
                "tracing needs opentelemetry-api: pip install 'ai-lib-trio[telemetry]'", kind="bad_argument"
            ) from exc
        self.tracer: Tracer = trace.get_tracer(SCOPE, tracer_provider=tracer_provider, schema_url=SCHEMA_URL)
        meter = metrics.get_meter(SCOPE, meter_provider=meter_provider, schema_url=SCHEMA_URL)
        self.duration: Histogram = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=DURATION_S,
        )
        self.first_chunk: Histogram = meter.create_histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            unit="s",
            description="Time to receive the first chunk of a streamed reply.",
            explicit_bucket_boundaries_advisory=DURATION_S,
        )
        self.tokens: Histogram = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )

    def for_client(self, number: int) -> Sink:
        """See `ClientSink`."""
        return _OneClient(self)

    def __call__(self, record: Record) -> None:
        raise CallerError("a Tracing is given to clients whole, as one of their sinks", kind="bad_argument")


class _OneClient:
    """One client's sink: its open spans, by call and by attempt."""

    def __init__(self, tracing: Tracing) -> None:
        from opentelemetry import trace

        self._trace = trace
        self._of = tracing
        self._calls: dict[int, tuple[Span, CallStarted]] = {}
        self._attempts: dict[tuple[int, int], Span] = {}

    def __call__(self, record: Record) -> None:
        if isinstance(record, CallStarted):
            self._start(record)
        elif isinstance(record, CallQueued):
            self._queue(record)
        elif isinstance(record, (CallAdmitted, AttemptStarted, FirstToken)):
            span = self._attempts.get((record.call, record.attempt))
            if span is not None:
                span.add_event(_STEPS[type(record)])
        elif isinstance(record, AttemptEnded):
            self._end_attempt(record)
        elif isinstance(record, CallRetried):
            self._note(record.call, "retried", {"ailib.reason": record.reason, "ailib.pause_s": record.after_s})
        elif isinstance(record, CallRerouted):
            self._note(record.call, "rerouted", {"ailib.reason": record.reason, "ailib.to_model": record.to_model})
        elif isinstance(record, CallContent):
            self._content(record)
        elif isinstance(record, CallEnded):
            self._end(record)

    # ---- a call

    def _start(self, record: CallStarted) -> None:
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": OPERATION,
            "gen_ai.provider.name": record.provider_name or record.provider,
            "gen_ai.request.model": record.model,
            "gen_ai.request.max_tokens": record.max_tokens,
            "gen_ai.request.temperature": record.temperature,
            "gen_ai.request.top_p": record.top_p,
            "gen_ai.request.top_k": None if record.top_k is None else float(record.top_k),
            "gen_ai.request.seed": record.seed,
            "gen_ai.request.choice.count": None if record.choices == 1 else record.choices,
            "gen_ai.request.stream": record.stream or None,  # only of a streaming one, say the conventions
            "gen_ai.request.presence_penalty": record.presence_penalty,
            "gen_ai.request.frequency_penalty": record.frequency_penalty,
            "gen_ai.output.type": record.output_type,
            "ailib.tenant": record.tenant or None,
            **_server(record.server),
        }
        # No context is given: the sink runs in the caller's, so the caller's span is the parent.
        span = self._of.tracer.start_span(
            f"{OPERATION} {record.model}", kind=self._trace.SpanKind.CLIENT, attributes=_said(attributes)
        )
        self._calls[record.call] = (span, record)

    def _end(self, record: CallEnded) -> None:
        found = self._calls.pop(record.call, None)
        if found is None:
            return  # it began before anybody listened
        span, start = found
        usage = record.usage
        attributes: dict[str, Any] = {
            "gen_ai.response.id": record.response_id,
            "gen_ai.response.model": record.response_model,
            "gen_ai.response.finish_reasons": None if record.finish_reason is None else [record.finish_reason],
            "gen_ai.response.time_to_first_chunk": record.first_token_s if record.stream else None,
            "gen_ai.usage.input_tokens": usage.input_tokens if usage else None,
            "gen_ai.usage.output_tokens": usage.output_tokens if usage else None,
            "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens if usage else None,
            "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens if usage else None,
            "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens if usage else None,
            "ailib.outcome": record.outcome,
            "ailib.attempts": record.attempts,
            "ailib.answered_by": None if record.ref == start.ref else record.ref,
            "ailib.cost": record.cost,
            "ailib.currency": record.currency,
            "ailib.request_id": record.request_id,
        }
        span.set_attributes(_said(attributes))
        self._fail(span, record)
        span.end()
        self._measure(record)

    def _measure(self, record: CallEnded) -> None:
        labels = {  # a call that went elsewhere is counted where it was answered
            "gen_ai.operation.name": OPERATION,
            "gen_ai.provider.name": record.provider_name or record.provider,
            "gen_ai.request.model": record.model,
            **_server(record.server),
        }
        if record.response_model is not None and record.outcome == "ok":
            labels["gen_ai.response.model"] = record.response_model
        usage = record.usage
        for kind, count in (("input", usage.input_tokens), ("output", usage.output_tokens)) if usage else ():
            if count is not None:
                self._of.tokens.record(count, {**labels, "gen_ai.token.type": kind})
        if record.stream and record.first_token_s is not None:
            self._of.first_chunk.record(record.first_token_s, labels)
        if record.outcome == "failed":
            labels["error.type"] = _error_type(record)
        self._of.duration.record(record.total_s, labels)

    def _content(self, record: CallContent) -> None:
        found = self._calls.get(record.call)
        if found is None:
            return
        system = [message for message in record.messages if message.role == "system"]
        asked = [message for message in record.messages if message.role != "system"]
        found[0].set_attribute("gen_ai.input.messages", _as_json([_shaped(message) for message in asked]))
        if system:
            parts = [part for message in system for part in _parts(message)]
            found[0].set_attribute("gen_ai.system_instructions", _as_json(parts))
        if record.reply is not None:
            found[0].set_attribute("gen_ai.output.messages", _as_json([_shaped(record.reply)]))

    def _note(self, call: int, name: str, attributes: dict[str, Any]) -> None:
        found = self._calls.get(call)
        if found is not None:
            found[0].add_event(name, attributes)

    # ---- an attempt

    def _queue(self, record: CallQueued) -> None:
        found = self._calls.get(record.call)
        if found is None:
            return
        span, _ = found
        attributes: dict[str, Any] = {
            "gen_ai.provider.name": record.provider_name or record.provider,
            "gen_ai.request.model": record.model,
            "ailib.attempt": record.attempt,
            **_server(record.server),
        }
        self._attempts[record.call, record.attempt] = self._of.tracer.start_span(
            f"attempt {record.model}",
            context=self._trace.set_span_in_context(span),
            kind=self._trace.SpanKind.CLIENT,
            attributes=attributes,
        )

    def _end_attempt(self, record: AttemptEnded) -> None:
        span = self._attempts.pop((record.call, record.attempt), None)
        if span is None:
            return
        attributes: dict[str, Any] = {
            "http.response.status_code": record.status,
            "gen_ai.response.id": record.response_id,
            "ailib.outcome": record.outcome,
            "ailib.state": record.state,
            "ailib.queue_s": record.queue_s,
            "ailib.connect_s": record.connect_s,
            "ailib.first_token_s": record.first_token_s,
            "ailib.request_id": record.request_id,
        }
        span.set_attributes(_said(attributes))
        self._fail(span, record)
        span.end()

    def _fail(self, span: Span, record: CallEnded | AttemptEnded) -> None:
        if record.outcome != "failed":
            return
        span.set_attribute("error.type", _error_type(record))
        span.set_attribute("ailib.error.code", record.code or "E9999")
        said = f"{record.code} {record.kind}" if record.status is None else f"{record.code} status {record.status}"
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, said))


_STEPS: dict[type, str] = {CallAdmitted: "admitted", AttemptStarted: "sent", FirstToken: "first token"}


def _error_type(record: CallEnded | AttemptEnded) -> str:
    """The kind of a failure; for what a provider said, its standard name."""
    if record.kind == "provider" and record.code is not None:
        return CODES[record.code].name
    return record.kind or "bug"


def _said(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


def _server(server: str) -> dict[str, Any]:
    host, _, port = server.rpartition(":")
    return {"server.address": host.strip("[]"), "server.port": int(port)} if host and port.isdigit() else {}


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _shaped(message: Message) -> dict[str, Any]:
    return {"role": message.role, "parts": _parts(message)}


def _parts(message: Message) -> list[dict[str, Any]]:
    """A message's parts as the conventions write them; of what is no text or tool call, only that it was there."""
    if isinstance(message.content, str):
        return [{"type": "text", "content": message.content}]
    parts: list[dict[str, Any]] = []
    for block in message.content:
        if isinstance(block, TextBlock):
            parts.append({"type": "text", "content": block.text})
        elif isinstance(block, ThinkingBlock):
            parts.append({"type": "reasoning", "content": block.text})
        elif isinstance(block, ToolUseBlock):
            parts.append({"type": "tool_call", "id": block.id, "name": block.name, "arguments": block.input})
        elif isinstance(block, ToolResultBlock):
            said = (
                block.content
                if isinstance(block.content, str)
                else "".join(part.text for part in block.content if isinstance(part, TextBlock))
            )
            parts.append({"type": "tool_call_response", "id": block.tool_use_id, "response": said})
        else:
            parts.append({"type": type(block).__name__})
    return parts
