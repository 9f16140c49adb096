"""Messages and their content blocks: what a conversation is made of, before any wire shape.

Imports `errors`. The rule that must stay true: a block keeps everything its wire needs back (signatures,
sealed reasoning, raw blocks), so that a reply appended to the conversation goes out as it came in.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import msgspec

from ..errors import CallerError

__all__ = [
    "AudioBlock",
    "Base64Source",
    "Block",
    "ContentBlock",
    "DocumentBlock",
    "ImageBlock",
    "Message",
    "OpaqueContent",
    "RefusalBlock",
    "Role",
    "ServerToolBlock",
    "Source",
    "TextBlock",
    "ThinkingBlock",
    "ToolResultBlock",
    "ToolUseBlock",
    "UrlSource",
    "VideoBlock",
]

Role = Literal["system", "user", "assistant", "tool"]


class Base64Source(msgspec.Struct, frozen=True, tag="base64", tag_field="kind"):
    """Bytes carried inline: `data` is base64 text, `media_type` such as `image/png`."""

    media_type: str
    data: str

    @classmethod
    def from_bytes(cls, media_type: str, data: bytes) -> Base64Source:
        """The bytes of a file, as they are; encoded here."""
        return cls(media_type, b2a_base64(data, newline=False).decode())


class UrlSource(msgspec.Struct, frozen=True, tag="url", tag_field="kind", omit_defaults=True):
    """Bytes that the provider fetches itself."""

    url: str
    media_type: str | None = None


Source = Base64Source | UrlSource


class ContentBlock(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, kw_only=True):
    """Any block: what a list of blocks of several kinds is a list of, as type checkers see it."""


class TextBlock(ContentBlock, frozen=True, tag="text"):
    """Text. `signature` is opaque and goes back where a wire signs text; `cache_control` is sent where it exists.

    `citations` are the sources that an answer's text cites, as the wire has them. `native` holds attributes of the
    wire's own (an item's id, its phase). Both go back to the dialect they came from.
    """

    text: str
    signature: str | None = None
    cache_control: dict[str, Any] | None = None
    citations: tuple[Any, ...] | None = None
    native: dict[str, Any] | None = None


class ThinkingBlock(ContentBlock, frozen=True, tag="thinking"):
    """Reasoning. `signature`, `encrypted` and `id` are opaque and go back unchanged to the dialect they came from.

    `summary` keeps the parts one by one where the wire separates them; `text` is all of them joined.
    """

    text: str = ""
    signature: str | None = None
    encrypted: str | None = None
    id: str | None = None
    summary: tuple[str, ...] | None = None


class RefusalBlock(ContentBlock, frozen=True, tag="refusal"):
    """The model's own words of refusal."""

    text: str


class ImageBlock(ContentBlock, frozen=True, tag="image"):
    """An image. `signature` is opaque and goes back where a wire signs the images of an answer."""

    source: Source
    detail: str | None = None
    cache_control: dict[str, Any] | None = None
    signature: str | None = None


class DocumentBlock(ContentBlock, frozen=True, tag="document"):
    """A document, such as a PDF. `filename` goes out where the wire has a place for it."""

    source: Source
    filename: str | None = None
    cache_control: dict[str, Any] | None = None


class AudioBlock(ContentBlock, frozen=True, tag="audio"):
    """Sound, in the format that its source's media type says."""

    source: Source


class VideoBlock(ContentBlock, frozen=True, tag="video"):
    """Moving pictures, in the format that its source's media type says."""

    source: Source


class ToolUseBlock(ContentBlock, frozen=True, tag="tool_use"):
    """A call that the model asks the client to make.

    `input` is the parsed arguments; where they are no JSON, `input` is the raw text. `arguments` keeps the raw
    text. `wire_id` is the id as the wire gave it, None where the wire gave none and `id` was generated here.
    """

    id: str
    name: str
    input: Any = msgspec.field(default_factory=dict)
    arguments: str | None = None
    wire_id: str | None = None
    item_id: str | None = None
    signature: str | None = None
    native: dict[str, Any] | None = None


class ToolResultBlock(ContentBlock, frozen=True, tag="tool_result"):
    """What a tool answered. `content` is text or blocks; `tool_name` is found from the call when it is not given."""

    tool_use_id: str
    content: str | tuple[Block, ...] = ""
    is_error: bool = False
    tool_name: str | None = None
    cache_control: dict[str, Any] | None = None


class ServerToolBlock(ContentBlock, frozen=True, tag="server_tool_use"):
    """A call that the provider ran itself, or its result. No call for the client; sent back to the same dialect alone.

    `native` is the whole block as the wire has it; that is what goes back.
    """

    id: str
    name: str
    input: Any = None
    native: Any = None


class OpaqueContent(ContentBlock, frozen=True, tag="opaque"):
    """A wire block that has no standard meaning: `data` is the block as it came, `kind` its wire type."""

    kind: str
    data: Any


Block = (
    TextBlock
    | ThinkingBlock
    | RefusalBlock
    | ImageBlock
    | DocumentBlock
    | AudioBlock
    | VideoBlock
    | ToolUseBlock
    | ToolResultBlock
    | ServerToolBlock
    | OpaqueContent
)


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message. `content` is text or blocks in order; `metadata` is notes of your own, never on the wire.

    `dialect` is the dialect that a reply's message came from: opaque parts go back to that dialect only, and are
    dropped and counted for any other. None (a message you wrote) keeps everything you put in.
    """

    role: Role
    content: str | tuple[Block, ...]
    name: str | None = None
    dialect: str | None = None
    metadata: dict[str, Any] | None = None  # the caller's own notes; never on the wire

    @classmethod
    def system(cls, content: str | Sequence[ContentBlock]) -> Message:
        """A system message."""
        return cls("system", _content(content))

    @classmethod
    def user(cls, content: str | Sequence[ContentBlock]) -> Message:
        """A user's message."""
        return cls("user", _content(content))

    @classmethod
    def assistant(cls, content: str | Sequence[ContentBlock]) -> Message:
        """An assistant's message of your own; a reply has its own as `reply.message`."""
        return cls("assistant", _content(content))

    @classmethod
    def tool(
        cls,
        tool_use_id: str,
        content: str | Sequence[ContentBlock],
        *,
        is_error: bool = False,
        tool_name: str | None = None,
    ) -> Message:
        """The result of the call `tool_use_id`, as a message of its own."""
        block = ToolResultBlock(
            tool_use_id=tool_use_id, content=_content(content), is_error=is_error, tool_name=tool_name
        )
        return cls("tool", (block,))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The content as blocks: text given as text is one text block, empty text is none."""
        if isinstance(self.content, str):
            return (TextBlock(text=self.content),) if self.content else ()
        return self.content

    @property
    def text(self) -> str:
        """All text blocks joined."""
        return "".join(block.text for block in self.blocks if isinstance(block, TextBlock))


def _content(content: str | Sequence[ContentBlock]) -> str | tuple[Block, ...]:
    if isinstance(content, str):
        return content
    if not isinstance(content, Iterable) or isinstance(content, bytes | bytearray | Mapping):
        raise CallerError(f"content is text or a list of blocks, got {type(content).__name__}", kind="bad_argument")
    return cast("tuple[Block, ...]", tuple(content))  # the kinds that there are; what is none is refused when encoded
