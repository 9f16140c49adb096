"""The lens: a request as the templates read it, plain dicts and lists with a few derived fields.

    request   model, stream, messages, turns (messages without system), latest (the turns of one role at the end) and
              earlier (those before), system, tools, tool_choice, response_format, and the standard parameters that
              are set
    message   role, name, blocks, text, text_only, refusal, thinking, and is_last, true for the last of `messages`
              (`system` is one of these, or nothing)
    block     type and the block's own fields; source of media, with text where the bytes are text;
              tool_use also arguments (JSON text) and object (the input, where it is an object);
              tool_result also blocks, text, text_only, object (the text, where it is a JSON object), and of its call
              tool_name, wire_id, native

Imports `errors`, `types`, `template`. The rules that must stay true: what has no value is absent; derived fields that
no template reads are not computed; opaque parts of a message go back to the dialect they came from and to no other,
and what is left out for that is counted. Whatever a caller put together wrongly is a CallerError that says what.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping
from operator import attrgetter
from typing import Any

import msgspec

from ..errors import CallerError
from ..protocol.where import Where
from ..types.message import (
    AudioBlock,
    Base64Source,
    DocumentBlock,
    ImageBlock,
    Message,
    OpaqueContent,
    RefusalBlock,
    ServerToolBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
    VideoBlock,
)
from ..types.request import Request, ResponseFormat
from ..types.response import parse_arguments
from ..types.tool import ToolChoice, ToolDefinition
from .template import RENDERED, Reader, covers, json_text, short

__all__ = ["BLOCK_TYPES", "FIELDS", "STANDARD_PARAMETERS", "Lens", "LensReader", "View"]

# Request fields that are values of their own: what `parameters` of a dialect may rename.
STANDARD_PARAMETERS = (
    "parallel_tool_calls",
    "temperature",
    "max_tokens",
    "top_p",
    "top_k",
    "stop_sequences",
    "seed",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "thinking",
    "metadata",
)

_parameters_of = attrgetter(*STANDARD_PARAMETERS)
# Whether a request sets none of them, as most do: printed, since a loop over them is a tenth of encoding.
_sets_none: Callable[[Request], bool] = eval(  # the names are ours
    "lambda request: request.stop_sequences.__class__ is tuple and not request.stop_sequences and "
    + " and ".join([f"request.{name} is None" for name in STANDARD_PARAMETERS if name != "stop_sequences"])
)

BLOCK_TYPES = (
    "text",
    "thinking",
    "refusal",
    "image",
    "document",
    "audio",
    "video",
    "tool_use",
    "tool_result",
    "server_tool_use",
    "opaque",
)

_MARKS = {kind: covers(kind) for kind in BLOCK_TYPES}

# Shape -> key -> shape of the value, None for a value without keys that the lens knows. `x[]` is a list of x.
FIELDS: Mapping[str, Mapping[str, str | None]] = {
    "request": {
        "model": None,
        "stream": None,
        "messages": "message[]",
        "turns": "message[]",
        "earlier": "message[]",
        "latest": "message[]",
        "system": "message",
        "tools": "tool[]",
        "tool_choice": "tool_choice",
        "response_format": "response_format",
        **dict.fromkeys(STANDARD_PARAMETERS),
    },
    "message": {
        "role": None,
        "name": None,
        "blocks": "block[]",
        "text": None,
        "text_only": None,
        "refusal": None,
        "thinking": None,
        "is_last": None,
    },
    "block": {
        **dict.fromkeys(
            (
                "type",
                "text",
                "signature",
                "citations",
                "native",
                "cache_control",
                "encrypted",
                "id",
                "summary",
                "detail",
                "filename",
                "name",
                "input",
                "arguments",
                "object",
                "wire_id",
                "item_id",
                "tool_use_id",
                "is_error",
                "tool_name",
                "text_only",
                "kind",
                "data",
            )
        ),
        "source": "source",
        "blocks": "block[]",
    },
    "source": {"kind": None, "media_type": None, "data": None, "url": None, "text": None},
    "tool": {"name": None, "description": None, "parameters": None, "strict": None},
    "tool_choice": {"mode": None, "name": None},
    "response_format": {"mode": None, "name": None, "description": None, "schema": None, "strict": None},
}

# Reading one of these of a message or a tool result renders its blocks of that type.
_COVERS = {"text": "text", "object": "text", "refusal": "refusal", "thinking": "thinking"}


class LensReader(Reader):
    """What the template compiler may know about the lens: which keys there are, and which values are blocks."""

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect

    def root(self) -> Any:
        return "request"

    def step(self, shape: Any, step: str, where: Where, text: str) -> Any:
        keys = FIELDS.get(shape)
        if keys is None:
            raise where.error(f"expected `$each` or an index before `.{step}` in `{text}`: the value is a list")
        if step not in keys:
            raise where.error(f"expected a field of a {shape} ({', '.join(keys)}), got `{step}` in `{text}`")
        return keys[step]

    def element(self, shape: Any) -> Any:
        return shape[:-2] if isinstance(shape, str) and shape.endswith("[]") else None

    def is_block(self, shape: Any) -> bool:
        return bool(shape == "block")

    def cover(self, shape: Any, key: str) -> str | None:
        return _COVERS.get(key) if shape in ("message", "block") else None

    def describe(self, block: Any) -> str:
        article = "an" if block["type"][0] in "aeio" else "a"
        return f"{article} {block['type']} block in {block['place']}"

    def misfit(self, block: Any) -> str:
        return _no_place(block, self.dialect)


class View(msgspec.Struct, frozen=True):
    """A request seen through the lens. `warnings` name what was set and is not sent."""

    root: dict[str, Any]
    dropped_opaque: int
    warnings: list[str]


class Lens:
    """Reads requests for one dialect.

    `reads` is every (shape, key) that its templates read. `dropped` are block types that the dialect leaves out on
    purpose, `quiet` the (shape, key) of attributes that it leaves out without a warning.
    """

    def __init__(
        self,
        dialect: str,
        reads: Collection[tuple[str, str]],
        *,
        dropped: Collection[str] = (),
        quiet: Collection[tuple[str, str]] = (),
    ) -> None:
        self.dialect = dialect
        self.dropped = frozenset(dropped)
        self.unread = frozenset(
            (shape, key) for shape, keys in FIELDS.items() for key in keys if (shape, key) not in reads
        ) - frozenset(quiet)
        self.wants_arguments = ("block", "arguments") in reads
        self.wants_object = ("block", "object") in reads
        self.wants_source_text = ("source", "text") in reads
        self.wants_message_text = ("message", "text") in reads or ("message", "text_only") in reads
        self.wants_latest = ("request", "latest") in reads or ("request", "earlier") in reads
        self.wants_is_last = ("message", "is_last") in reads
        self.wants_refusal = ("message", "refusal") in reads
        self.wants_thinking = ("message", "thinking") in reads

    def view(self, request: Request) -> View:
        """The request as templates read it. Raises CallerError (bad_argument) for what cannot be a request."""
        return _Viewing(self).view(request)

    def check_rendered(self, root: Mapping[str, Any]) -> None:
        """Refuse a block that no template rendered, naming its type and place."""
        system = root.get("system")
        for message in root["messages"]:
            for block in message["blocks"]:
                if RENDERED not in block:
                    mark = _MARKS[block["type"]]
                    if mark not in message and (system is None or mark not in system):
                        raise self._misfit(block)
                for inner in block.get("blocks", ()):
                    if RENDERED not in inner and _MARKS[inner["type"]] not in block:
                        raise self._misfit(inner)

    def _misfit(self, block: Mapping[str, Any]) -> CallerError:
        return _refuse(_no_place(block, self.dialect))


def _no_place(block: Mapping[str, Any], dialect: str) -> str:
    return f"{block['type']} block in {block['place']} has no place in the dialect {dialect}"


def _refuse(message: str) -> CallerError:
    return CallerError(message, kind="bad_argument")


_PLACES = {
    "system": "a system message",
    "user": "a user message",
    "assistant": "an assistant message",
    "tool": "a tool message",
}


class _Viewing:
    """One reading of one request: what was dropped, what was warned about, and the calls seen so far."""

    def __init__(self, lens: Lens) -> None:
        self.lens = lens
        self.unread = lens.unread
        self.dropped_opaque = 0
        self.warnings: list[str] = []
        self.calls: dict[str, tuple[str, str | None, Any]] = {}  # id -> name, id as the wire gave it, native
        self.foreign = False  # the message in hand came from another dialect

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def put(self, out: dict[str, Any], shape: str, key: str, value: Any, owner: str) -> None:
        """Set an attribute that has a value; say so where no template reads it."""
        if value is not None:
            out[key] = value
            if (shape, key) in self.unread:
                self.warn(f"`{key}` of {owner} is not sent: the dialect {self.lens.dialect} has no place for it")

    # ---- the request ----

    def view(self, request: Request) -> View:
        root: dict[str, Any] = {"model": request.model, "stream": request.stream}
        if not _sets_none(request):
            for name, value in zip(STANDARD_PARAMETERS, _parameters_of(request)):  # noqa: B905  # same length by making
                if value is not None:
                    root[name] = value
            stop: Any = request.stop_sequences
            if isinstance(stop, str) or not isinstance(stop, list | tuple):
                raise _refuse(f"expected stop_sequences as a list of texts, got {short(stop)}")
            if stop:
                root["stop_sequences"] = list(stop)
            else:
                root.pop("stop_sequences", None)
        if request.tools:
            root["tools"] = [self.tool(tool) for tool in _listed(request.tools, "tools")]
        if request.tool_choice is not None:
            root["tool_choice"] = self.tool_choice(request.tool_choice)
        if request.response_format is not None:
            root["response_format"] = self.response_format(request.response_format)
        messages: list[dict[str, Any]] = []
        for message in _listed(request.messages, "messages"):
            self.message(message, messages)
        root["messages"] = messages
        if self.lens.wants_is_last and messages:
            messages[-1]["is_last"] = True
        turns = root["turns"] = [message for message in messages if message["role"] != "system"]
        if self.lens.wants_latest and turns:
            start = next((at for at in range(len(turns), 0, -1) if turns[at - 1]["role"] != turns[-1]["role"]), 0)
            root["earlier"], root["latest"] = turns[:start], turns[start:]
        if len(turns) != len(messages):
            root["system"] = _system([message for message in messages if message["role"] == "system"])
        return View(root, self.dropped_opaque, self.warnings)

    def tool(self, tool: ToolDefinition) -> dict[str, Any]:
        if not isinstance(tool, ToolDefinition):
            raise _refuse(f"expected a ToolDefinition, got {short(tool)}")
        out: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters}
        self.put(out, "tool", "description", tool.description, "a tool")
        self.put(out, "tool", "strict", tool.strict, "a tool")
        return out

    def tool_choice(self, choice: ToolChoice) -> dict[str, Any]:
        if not isinstance(choice, ToolChoice):
            raise _refuse(f"expected a ToolChoice, got {short(choice)}")
        if choice.mode == "tool" and not choice.name:
            raise _refuse("expected a name in a tool_choice of mode 'tool', got none")
        out: dict[str, Any] = {"mode": choice.mode}
        self.put(out, "tool_choice", "name", choice.name, "tool_choice")
        return out

    def response_format(self, given: ResponseFormat) -> dict[str, Any]:
        if not isinstance(given, ResponseFormat):
            raise _refuse(f"expected a ResponseFormat, got {short(given)}")
        if given.mode == "json_schema" and given.schema is None:
            raise _refuse("expected a schema in a response_format of mode 'json_schema', got none")
        out: dict[str, Any] = {"mode": given.mode}
        for key in ("name", "description", "schema", "strict"):
            self.put(out, "response_format", key, getattr(given, key), "response_format")
        return out

    # ---- messages ----

    def message(self, message: Message, out: list[dict[str, Any]]) -> None:
        """Add a message, or the messages it is: results of tools inside a user's message stand apart from the rest."""
        if not isinstance(message, Message):
            raise _refuse(f"expected a Message, got {short(message)}")
        role = message.role
        place = _PLACES.get(role) if isinstance(role, str) else None
        if place is None:
            raise _refuse(f"expected the role system, user, assistant or tool, got {short(role)}")
        content = message.content
        if content.__class__ is str:
            if role == "tool":
                raise _refuse("expected tool_result blocks in a tool message (Message.tool makes one), got text")
            if content:
                found: dict[str, Any] = {"role": role, "blocks": [{"type": "text", "text": content, "place": place}]}
                if message.name is not None:
                    self.put(found, "message", "name", message.name, "a message")
                if self.lens.wants_message_text:
                    found["text"], found["text_only"] = content, True
                out.append(found)
            return
        self.foreign = message.dialect is not None and message.dialect != self.lens.dialect
        blocks = self.blocks(content, place)
        if role == "user" and any(block["type"] == "tool_result" for block in blocks):
            for results, run in _runs(blocks):
                self.add("tool" if results else "user", message.name, run, out)
            return
        if role == "tool":
            for block in blocks:
                if block["type"] != "tool_result":
                    raise _refuse(
                        f"expected tool_result blocks in a tool message (Message.tool makes one), got {block['type']}"
                    )
        self.add(role, message.name, blocks, out)

    def add(self, role: str, name: str | None, blocks: list[dict[str, Any]], out: list[dict[str, Any]]) -> None:
        if not blocks:
            return
        lens = self.lens
        found: dict[str, Any] = {"role": role, "blocks": blocks}
        if name is not None:
            self.put(found, "message", "name", name, "a message")
        if lens.wants_message_text:
            _put_text(found, blocks)
        if lens.wants_refusal:
            _put_joined(found, "refusal", blocks)
        if lens.wants_thinking:
            _put_joined(found, "thinking", blocks)
        out.append(found)

    def blocks(self, content: Any, place: str) -> list[dict[str, Any]]:
        if content.__class__ is str:  # of a tool's result
            return [{"type": "text", "text": content, "place": place}] if content else []
        out = []
        dropped = self.lens.dropped
        for block in _listed(content, "content"):
            read = _READERS.get(block.__class__)
            if read is None:
                raise _refuse(f"expected content blocks in the list of {place}, got {short(block)}")
            found = read(self, block)
            if found is not None and found["type"] not in dropped:
                found["place"] = place
                out.append(found)
        return out

    # ---- blocks ----

    def opaque(self, out: dict[str, Any], key: str, value: Any) -> None:
        """A part that only the dialect it came from understands."""
        if self.foreign:
            self.dropped_opaque += 1
        else:
            out[key] = value

    def text(self, block: TextBlock) -> dict[str, Any] | None:
        text = _texted(block.text, "text")
        out: dict[str, Any] = {"type": "text", "text": text}
        if block.signature is not None:
            self.opaque(out, "signature", block.signature)
        if block.native is not None:
            self.opaque(out, "native", block.native)
        if block.citations is not None:
            self.opaque(out, "citations", list(_listed(block.citations, "citations")))
        if not text and "signature" not in out:  # some wires refuse an empty text, and it says nothing
            return None
        if block.cache_control is not None:
            self.put(out, "block", "cache_control", block.cache_control, "a text block")
        return out

    def thinking(self, block: ThinkingBlock) -> dict[str, Any] | None:
        if self.foreign:  # reasoning belongs to the wire that sealed it; others refuse it or take it for an answer
            self.dropped_opaque += 1
            return None
        out: dict[str, Any] = {"type": "thinking", "text": _texted(block.text, "text")}
        for key in ("signature", "encrypted", "id"):
            value = getattr(block, key)
            if value is not None:
                out[key] = value
        if block.summary is not None:
            out["summary"] = list(_listed(block.summary, "summary"))
        return out

    def refusal(self, block: RefusalBlock) -> dict[str, Any]:
        return {"type": "refusal", "text": _texted(block.text, "text")}

    def image(self, block: ImageBlock) -> dict[str, Any]:
        out = self.media("image", block.source)
        if block.signature is not None:
            self.opaque(out, "signature", block.signature)
        self.put(out, "block", "detail", block.detail, "an image block")
        self.put(out, "block", "cache_control", block.cache_control, "an image block")
        return out

    def document(self, block: DocumentBlock) -> dict[str, Any]:
        out = self.media("document", block.source)
        self.put(out, "block", "filename", block.filename, "a document block")
        self.put(out, "block", "cache_control", block.cache_control, "a document block")
        return out

    def audio(self, block: AudioBlock) -> dict[str, Any]:
        return self.media("audio", block.source)

    def video(self, block: VideoBlock) -> dict[str, Any]:
        return self.media("video", block.source)

    def media(self, kind: str, source: Any) -> dict[str, Any]:
        if isinstance(source, Base64Source):
            if not isinstance(source.data, str):
                raise _refuse(f"expected base64 text in a {kind} block's source: Base64Source.from_bytes encodes bytes")
            found: dict[str, Any] = {"kind": "base64", "media_type": source.media_type, "data": source.data}
            if self.lens.wants_source_text and source.media_type.partition("/")[0] == "text":
                found["text"] = _decoded(source.data)
        elif isinstance(source, UrlSource):
            found = {"kind": "url", "url": source.url}
            if source.media_type is not None:
                found["media_type"] = source.media_type
        else:
            raise _refuse(
                f"expected a Base64Source or UrlSource in a block of kind {kind}, got {short(source)}: "
                "a file is read first, for Base64Source.from_bytes"
            )
        return {"type": kind, "source": found}

    def tool_use(self, block: ToolUseBlock) -> dict[str, Any]:
        given = block.input
        out: dict[str, Any] = {"type": "tool_use", "id": block.id, "name": block.name}
        if given is not None:
            out["input"] = given
        if self.lens.wants_arguments:
            out["arguments"] = _arguments(block)
        if self.lens.wants_object and isinstance(given, dict):
            out["object"] = given
        if block.wire_id is not None and not self.foreign:  # not counted: `id` still says which call it is
            out["wire_id"] = block.wire_id
        if block.item_id is not None:
            self.opaque(out, "item_id", block.item_id)
        if block.signature is not None:
            self.opaque(out, "signature", block.signature)
        if block.native is not None:
            self.opaque(out, "native", block.native)
        self.calls[block.id] = (block.name, out.get("wire_id"), out.get("native"))
        return out

    def tool_result(self, block: ToolResultBlock) -> dict[str, Any]:
        content = block.content
        inner = self.blocks(content, "a tool result")
        for found in inner:
            if found["type"] in ("tool_use", "tool_result"):
                raise _refuse(f"expected text or media in a tool result, got a {found['type']} block")
        out: dict[str, Any] = {
            "type": "tool_result",
            "is_error": block.is_error is True,
            "blocks": inner,
        }
        if block.tool_use_id:
            out["tool_use_id"] = block.tool_use_id
        if block.is_error is True and ("block", "is_error") in self.unread:
            self.put(out, "block", "is_error", True, "a tool result")
        name, wire_id, native = self.calls.get(block.tool_use_id, (None, None, None))
        if block.tool_name or name:
            out["tool_name"] = block.tool_name or name
        if wire_id is not None:
            out["wire_id"] = wire_id
        if native is not None:
            out["native"] = native
        self.put(out, "block", "cache_control", block.cache_control, "a tool result")
        _put_text(out, inner)
        if self.lens.wants_object and "text" in out:
            value = _parsed(out["text"])
            if isinstance(value, dict):
                out["object"] = value
        return out

    def server_tool(self, block: ServerToolBlock) -> dict[str, Any] | None:
        if self.foreign:
            self.dropped_opaque += 1
            return None
        out: dict[str, Any] = {"type": "server_tool_use", "id": block.id, "name": block.name}
        if block.input is not None:
            out["input"] = block.input
        if block.native is not None:
            out["native"] = block.native
        return out

    def raw(self, block: OpaqueContent) -> dict[str, Any] | None:
        if self.foreign:
            self.dropped_opaque += 1
            return None
        return {"type": "opaque", "kind": block.kind, "data": block.data}


_READERS: Mapping[type, Callable[[_Viewing, Any], dict[str, Any] | None]] = {
    TextBlock: _Viewing.text,
    ThinkingBlock: _Viewing.thinking,
    RefusalBlock: _Viewing.refusal,
    ImageBlock: _Viewing.image,
    DocumentBlock: _Viewing.document,
    AudioBlock: _Viewing.audio,
    VideoBlock: _Viewing.video,
    ToolUseBlock: _Viewing.tool_use,
    ToolResultBlock: _Viewing.tool_result,
    ServerToolBlock: _Viewing.server_tool,
    OpaqueContent: _Viewing.raw,
}


def _listed(value: Any, name: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _refuse(f"expected {name} as a list, got {short(value)}")
    return value


def _texted(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise _refuse(f"expected {name} of a block as text, got {short(value)}")
    return value


def _put_text(out: dict[str, Any], blocks: list[dict[str, Any]]) -> None:
    """`text` is all text joined, absent without text; `text_only` says that the text is the whole content."""
    if len(blocks) == 1 and blocks[0]["type"] == "text":
        out["text"] = blocks[0]["text"]
        out["text_only"] = "cache_control" not in blocks[0]
        return
    texts = [block["text"] for block in blocks if block["type"] == "text"]
    if texts:
        out["text"] = "".join(texts)
    out["text_only"] = len(texts) == len(blocks) and not any("cache_control" in block for block in blocks)


def _put_joined(out: dict[str, Any], kind: str, blocks: list[dict[str, Any]]) -> None:
    texts = [block["text"] for block in blocks if block["type"] == kind]
    if texts:
        out[kind] = "".join(texts)


def _system(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """All system messages as one: their blocks in order, their texts with an empty line between messages."""
    blocks = [block for message in messages for block in message["blocks"]]
    out: dict[str, Any] = {"role": "system", "blocks": blocks}
    texts = [message["text"] for message in messages if "text" in message]
    if texts:
        out["text"] = "\n\n".join(texts)
    out["text_only"] = all(message.get("text_only", False) for message in messages)
    return out


def _runs(blocks: list[dict[str, Any]]) -> list[tuple[bool, list[dict[str, Any]]]]:
    """Neighbours that are all results of tools, or all something else, together; in order."""
    runs: list[tuple[bool, list[dict[str, Any]]]] = []
    for block in blocks:
        is_result = block["type"] == "tool_result"
        if runs and runs[-1][0] is is_result:
            runs[-1][1].append(block)
        else:
            runs.append((is_result, [block]))
    return runs


def _arguments(block: ToolUseBlock) -> str:
    """A call's arguments as JSON text: the model's own writing where it still says what `input` says."""
    raw, given = block.arguments, block.input
    if isinstance(raw, str) and raw.strip() and parse_arguments(raw) == given:
        return raw
    if isinstance(given, str):
        return given
    return json_text({} if given is None else given)


def _decoded(data: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except ValueError as error:  # not base64, or not UTF-8
        raise _refuse("expected base64 of UTF-8 text in a source whose media type is text") from error


def _parsed(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None
