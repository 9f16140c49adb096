"""Decoders of each dialect as somebody writes them who knows msgspec: what the rules of a manifest are measured beside.

Text, reasoning and pieces of calls become the same events as ours; usage, model, id and finish reason are kept and told
at the end. Fewer cases than the manifests' rules know: no second spelling of a field, no wrong shapes, no lone
surrogates, no limits, one `data` line an event. Framing is by hand too: a split, or the binary frames with their sums.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from ai_lib_trio.types.events import (
    FinalCandidate,
    Metadata,
    PartialContentDelta,
    PartialToolCall,
    StreamEnd,
    StreamingEvent,
    ThinkingDelta,
)
from ai_lib_trio.types.usage import Usage

Named = tuple["str | None", bytes]  # a frame and its event's name, where the framing has one


class Reply:
    """One reply: `feed` gives the events of some bytes, `frames` those of frames that are cut already."""

    finish: ClassVar[dict[str, Any]] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}

    def __init__(self) -> None:
        self.rest = b""
        self.model: str | None = None
        self.id: str | None = None
        self.usage: Any = None
        self.reason: str | None = None

    def cut(self, data: bytes) -> list[Any]:
        """Server-sent events."""
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [line[6:] for line in lines if line.startswith(b"data: ") and line[6:] != b"[DONE]"]

    def feed(self, data: bytes) -> list[StreamingEvent]:
        out: list[StreamingEvent] = []
        self.frames(self.cut(data), out.append)
        return out

    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        raise NotImplementedError

    def counted(self) -> tuple[int | None, int | None]:
        return self.usage.prompt_tokens, self.usage.completion_tokens

    def end(self) -> list[StreamingEvent]:
        usage = None
        if self.usage is not None:
            told, said = self.counted()
            usage = Usage(told, said, None if told is None or said is None else told + said)
        reason = self.finish.get(self.reason or "", "other")
        return [
            Metadata(usage, self.model, self.id), FinalCandidate(0, reason, self.reason), StreamEnd(reason, self.reason)
        ]  # fmt: skip


class Lines(Reply):
    """One JSON text a line."""

    def cut(self, data: bytes) -> list[bytes]:
        *lines, self.rest = (self.rest + data).split(b"\n")
        return lines


class Counted(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Called(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class Call(msgspec.Struct):
    index: int = 0
    id: str | None = None
    function: Called | None = None


class Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[Call] | None = None


class Choice(msgspec.Struct):
    index: int = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    choices: list[Choice] = []
    usage: Counted | None = None


class ChatCompletions(Reply):
    decode = msgspec.json.Decoder(Chunk).decode

    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        decode = self.decode
        for frame in frames:
            chunk = decode(frame)
            if self.model is None:
                self.model, self.id = chunk.model, chunk.id
            if chunk.usage is not None:
                self.usage = chunk.usage
            for choice in chunk.choices:
                delta = choice.delta
                if delta is not None:
                    if delta.content:
                        add(PartialContentDelta(delta.content, 0, choice.index))
                    if delta.reasoning_content:
                        add(ThinkingDelta(delta.reasoning_content, 0, choice.index))
                    if delta.tool_calls:
                        for call in delta.tool_calls:
                            if call.function is not None and call.function.arguments:
                                add(PartialToolCall(call.function.arguments, call.index, "", 0, choice.index))
                if choice.finish_reason:
                    self.reason = choice.finish_reason


class Completions(Reply):
    decode = msgspec.json.Decoder(Chunk).decode

    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        decode = self.decode
        for frame in frames:
            chunk = decode(frame)
            if self.model is None:
                self.model, self.id = chunk.model, chunk.id
            if chunk.usage is not None:
                self.usage = chunk.usage
            for choice in chunk.choices:
                if choice.text:
                    add(PartialContentDelta(choice.text, 0, choice.index))
                if choice.finish_reason:
                    self.reason = choice.finish_reason


class InOut(msgspec.Struct):
    input_tokens: int | None = None
    output_tokens: int | None = None


class Response(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    status: str | None = None
    usage: InOut | None = None


class ResponseEvent(msgspec.Struct):
    type: str
    delta: str | None = None
    output_index: int = 0
    response: Response | None = None


class Responses(Reply):
    finish: ClassVar[dict[str, Any]] = {"completed": "end_turn", "incomplete": "max_tokens"}
    decode = msgspec.json.Decoder(ResponseEvent).decode

    def counted(self) -> tuple[int | None, int | None]:
        return self.usage.input_tokens, self.usage.output_tokens

    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        decode = self.decode
        for frame in frames:
            event = decode(frame)
            kind = event.type
            if kind == "response.output_text.delta":
                if event.delta:
                    add(PartialContentDelta(event.delta, event.output_index))
            elif kind == "response.reasoning_summary_text.delta":
                if event.delta:
                    add(ThinkingDelta(event.delta, event.output_index))
            elif kind == "response.function_call_arguments.delta":
                if event.delta:
                    add(PartialToolCall(event.delta, event.output_index))
            elif event.response is not None:
                self.model, self.id = event.response.model, event.response.id
                self.usage, self.reason = event.response.usage, event.response.status


class BlockDelta(msgspec.Struct):
    text: str | None = None
    partial_json: str | None = None
    thinking: str | None = None
    stop_reason: str | None = None


class Opening(msgspec.Struct):
    id: str | None = None
    model: str | None = None
    usage: InOut | None = None


class MessageEvent(msgspec.Struct):
    type: str
    index: int = 0
    delta: BlockDelta | None = None
    message: Opening | None = None
    usage: InOut | None = None


class Messages(Reply):
    finish: ClassVar[dict[str, Any]] = {"end_turn": "end_turn", "max_tokens": "max_tokens", "tool_use": "tool_use"}
    decode = msgspec.json.Decoder(MessageEvent).decode

    def counted(self) -> tuple[int | None, int | None]:
        return self.usage.input_tokens, self.usage.output_tokens

    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        decode = self.decode
        for frame in frames:
            event = decode(frame)
            kind, delta = event.type, event.delta
            if kind == "content_block_delta" and delta is not None:
                if delta.text:
                    add(PartialContentDelta(delta.text, event.index))
                elif delta.partial_json:
                    add(PartialToolCall(delta.partial_json, event.index))
                elif delta.thinking:
                    add(ThinkingDelta(delta.thinking, event.index))
            elif kind == "message_start" and event.message is not None:
                self.model, self.id, self.usage = event.message.model, event.message.id, event.message.usage
            elif kind == "message_delta" and delta is not None:
                self.reason = delta.stop_reason
                if event.usage is not None and event.usage.output_tokens is not None:
                    self.usage.output_tokens = event.usage.output_tokens


class Part(msgspec.Struct, rename="camel"):
    text: str | None = None
    thought: bool = False
    function_call: Any = None


class Content(msgspec.Struct):
    parts: list[Part] = []


class Candidate(msgspec.Struct, rename="camel"):
    index: int = 0
    content: Content | None = None
    finish_reason: str | None = None


class Tokens(msgspec.Struct, rename="camel"):
    prompt_token_count: int | None = None
    candidates_token_count: int | None = None
    thoughts_token_count: int = 0


class Generated(msgspec.Struct, rename="camel"):
    candidates: list[Candidate] = []
    usage_metadata: Tokens | None = None
    model_version: str | None = None
    response_id: str | None = None


class GenerateContent(Reply):
    finish: ClassVar[dict[str, Any]] = {"STOP": "end_turn", "MAX_TOKENS": "max_tokens"}
    decode = msgspec.json.Decoder(Generated).decode

    def counted(self) -> tuple[int | None, int | None]:
        return self.usage.prompt_token_count, self.usage.candidates_token_count + self.usage.thoughts_token_count

    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        decode = self.decode
        for frame in frames:
            chunk = decode(frame)
            if self.model is None:
                self.model, self.id = chunk.model_version, chunk.response_id
            if chunk.usage_metadata is not None:
                self.usage = chunk.usage_metadata
            for candidate in chunk.candidates:
                if candidate.content is not None:
                    for part in candidate.content.parts:
                        if part.text:
                            kind = ThinkingDelta if part.thought else PartialContentDelta
                            add(kind(part.text, 0, candidate.index))
                        if part.function_call is not None:
                            add(PartialToolCall(msgspec.json.encode(part.function_call).decode()))
                if candidate.finish_reason:
                    self.reason = candidate.finish_reason


class ToolInput(msgspec.Struct):
    input: str | None = None


class Reasoned(msgspec.Struct):
    text: str | None = None


class ConverseDelta(msgspec.Struct, rename="camel"):
    text: str | None = None
    tool_use: ToolInput | None = None
    reasoning_content: Reasoned | None = None


class ConverseCounted(msgspec.Struct, rename="camel"):
    input_tokens: int | None = None
    output_tokens: int | None = None


class ConverseEvent(msgspec.Struct, rename="camel"):
    content_block_index: int = 0
    delta: ConverseDelta | None = None
    stop_reason: str | None = None
    usage: ConverseCounted | None = None


class Converse(Reply):
    finish: ClassVar[dict[str, Any]] = {"end_turn": "end_turn", "max_tokens": "max_tokens", "tool_use": "tool_use"}
    decode = msgspec.json.Decoder(ConverseEvent).decode

    def counted(self) -> tuple[int | None, int | None]:
        return self.usage.input_tokens, self.usage.output_tokens

    def cut(self, data: bytes) -> list[Named]:
        """Binary frames: lengths, headers, sums."""
        data = self.rest + data
        found: list[Named] = []
        at = 0
        while len(data) - at >= 12:
            size, headers, check = _PRELUDE.unpack_from(data, at)
            if len(data) - at < size:
                break
            end = at + size
            body = data[at : end - 4]
            if zlib.crc32(body[:8]) != check or zlib.crc32(body) != _SUM.unpack_from(data, end - 4)[0]:
                raise ValueError("a sum does not match")
            stop = 12 + headers
            named = body.find(_NAMED, 12, stop) + len(_NAMED)
            name = body[named + 2 : named + 2 + _LENGTH.unpack_from(body, named)[0]].decode()
            found.append((name, body[stop:]))
            at = end
        self.rest = data[at:]
        return found

    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        decode = self.decode
        for name, frame in frames:
            event = decode(frame)
            delta = event.delta
            if name == "contentBlockDelta" and delta is not None:
                if delta.text:
                    add(PartialContentDelta(delta.text, event.content_block_index))
                elif delta.tool_use is not None and delta.tool_use.input:
                    add(PartialToolCall(delta.tool_use.input, event.content_block_index))
                elif delta.reasoning_content is not None and delta.reasoning_content.text:
                    add(ThinkingDelta(delta.reasoning_content.text, event.content_block_index))
            elif name == "messageStop":
                self.reason = event.stop_reason
            elif name == "metadata":
                self.usage = event.usage


_PRELUDE = struct.Struct(">III")
_SUM = struct.Struct(">I")
_LENGTH = struct.Struct(">H")
_NAMED = b":event-type\x07"


class CohereContent(msgspec.Struct):
    text: str | None = None
    thinking: str | None = None


class CohereMessage(msgspec.Struct):
    content: CohereContent | list[CohereContent] | None = None
    tool_calls: Call | list[Call] | None = None


class CohereUsage(msgspec.Struct):
    tokens: InOut | None = None


class CohereDelta(msgspec.Struct):
    message: CohereMessage | None = None
    finish_reason: str | None = None
    usage: CohereUsage | None = None


class CohereEvent(msgspec.Struct):
    type: str
    id: str | None = None
    index: int = 0
    delta: CohereDelta | None = None


class CohereV2Chat(Reply):
    finish: ClassVar[dict[str, Any]] = {"COMPLETE": "end_turn", "MAX_TOKENS": "max_tokens"}
    decode = msgspec.json.Decoder(CohereEvent).decode

    def counted(self) -> tuple[int | None, int | None]:
        return self.usage.tokens.input_tokens, self.usage.tokens.output_tokens

    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        decode = self.decode
        for frame in frames:
            event = decode(frame)
            kind, delta = event.type, event.delta
            if kind == "message-start":
                self.id = event.id
            elif delta is None:
                continue
            elif kind == "content-delta" or kind == "content-start":
                content = delta.message.content
                if content.text:
                    add(PartialContentDelta(content.text, event.index))
                if content.thinking:
                    add(ThinkingDelta(content.thinking, event.index))
            elif kind == "tool-call-delta":
                add(PartialToolCall(delta.message.tool_calls.function.arguments, event.index))
            elif kind == "message-end":
                self.reason, self.usage = delta.finish_reason, delta.usage


class CohereMeta(msgspec.Struct):
    tokens: InOut | None = None


class CohereWhole(msgspec.Struct):
    response_id: str | None = None
    meta: CohereMeta | None = None


class CohereV1Event(msgspec.Struct):
    event_type: str
    text: str | None = None
    finish_reason: str | None = None
    response: CohereWhole | None = None


class CohereV1Chat(Lines):
    finish: ClassVar[dict[str, Any]] = {"COMPLETE": "end_turn", "MAX_TOKENS": "max_tokens"}
    decode = msgspec.json.Decoder(CohereV1Event).decode

    def counted(self) -> tuple[int | None, int | None]:
        return self.usage.input_tokens, self.usage.output_tokens

    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        decode = self.decode
        for frame in frames:
            event = decode(frame)
            if event.event_type == "text-generation":
                if event.text:
                    add(PartialContentDelta(event.text))
            elif event.event_type == "stream-end" and event.response is not None:
                self.reason, self.id = event.finish_reason, event.response.response_id
                self.usage = event.response.meta.tokens


class OllamaMessage(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[Any] | None = None


class OllamaLine(msgspec.Struct):
    model: str | None = None
    message: OllamaMessage | None = None
    response: str | None = None
    thinking: str | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None


class OllamaChat(Lines):
    decode = msgspec.json.Decoder(OllamaLine).decode

    def counted(self) -> tuple[int | None, int | None]:
        return self.usage.prompt_eval_count, self.usage.eval_count

    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        decode = self.decode
        for frame in frames:
            line = decode(frame)
            if self.model is None:
                self.model = line.model
            message = line.message
            if message is not None:
                if message.thinking:
                    add(ThinkingDelta(message.thinking))
                if message.content:
                    add(PartialContentDelta(message.content))
                if message.tool_calls:
                    for call in message.tool_calls:
                        add(PartialToolCall(msgspec.json.encode(call["function"]["arguments"]).decode()))
            if line.done:
                self.reason, self.usage = line.done_reason, line


class OllamaGenerate(OllamaChat):
    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        decode = self.decode
        for frame in frames:
            line = decode(frame)
            if self.model is None:
                self.model = line.model
            if line.thinking:
                add(ThinkingDelta(line.thinking))
            if line.response:
                add(PartialContentDelta(line.response))
            if line.done:
                self.reason, self.usage = line.done_reason, line


class Token(msgspec.Struct):
    text: str = ""
    special: bool = False


class Details(msgspec.Struct):
    finish_reason: str | None = None
    input_length: int | None = None
    generated_tokens: int | None = None


class Generated(msgspec.Struct):
    token: Token
    details: Details | None = None


class TextGeneration(Reply):
    finish: ClassVar[dict[str, Any]] = {"eos_token": "end_turn", "length": "max_tokens"}
    decode = msgspec.json.Decoder(Generated).decode

    def counted(self) -> tuple[int | None, int | None]:
        return self.usage.input_length, self.usage.generated_tokens

    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        decode = self.decode
        for frame in frames:
            generated = decode(frame)
            token = generated.token
            if token.text and not token.special:
                add(PartialContentDelta(token.text))
            if generated.details is not None:
                self.usage, self.reason = generated.details, generated.details.finish_reason


class WenxinCall(msgspec.Struct):
    thoughts: str | None = None
    arguments: str | None = None


class WenxinFrame(msgspec.Struct):
    id: str | None = None
    result: str | None = None
    function_call: WenxinCall | None = None
    is_end: bool = False
    is_truncated: bool = False
    finish_reason: str | None = None
    usage: Counted | None = None


class WenxinChat(Reply):
    finish: ClassVar[dict[str, Any]] = {"normal": "end_turn", "length": "max_tokens", "function_call": "tool_use"}
    decode = msgspec.json.Decoder(WenxinFrame).decode

    def frames(self, frames: list[Any], add: Callable[[StreamingEvent], None]) -> None:
        decode = self.decode
        for frame in frames:
            part = decode(frame)
            if self.id is None:
                self.id = part.id
            call = part.function_call
            if call is not None:
                if call.thoughts:
                    add(ThinkingDelta(call.thoughts))
                add(PartialToolCall(call.arguments or ""))
            if part.result:
                add(PartialContentDelta(part.result))
            if part.usage is not None:
                self.usage = part.usage
            self.reason = part.finish_reason or ("length" if part.is_truncated else self.reason)


BY_HAND: dict[str, type[Reply]] = {
    "chat_completions": ChatCompletions,
    "responses": Responses,
    "messages": Messages,
    "generate_content": GenerateContent,
    "converse": Converse,
    "cohere_v2_chat": CohereV2Chat,
    "cohere_v1_chat": CohereV1Chat,
    "ollama_chat": OllamaChat,
    "ollama_generate": OllamaGenerate,
    "completions": Completions,
    "text_generation": TextGeneration,
    "wenxin_chat": WenxinChat,
}
