"""How many tokens a request or a reply is thought to be, where nobody has counted them.

Imports types and `errors`. Pure. Four characters to a token is the usual rule for English text; other scripts have more
tokens to a character, so nothing is refused on an estimate alone unless it is far off (preflight).
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..types.message import Base64Source, Block, RefusalBlock, TextBlock, ThinkingBlock, ToolResultBlock, ToolUseBlock
from ..types.request import Request

__all__ = ["CHARS_PER_TOKEN", "input_tokens", "output_asked", "output_bound", "tokens_of"]

CHARS_PER_TOKEN = 4
PER_MESSAGE = 4  # role and separators
PER_MEDIA = 1000  # an image of usual size; providers count from 250 to 1600
MEDIA_BYTES_PER_TOKEN = 400  # of base64, for what is much larger than one image


def input_tokens(request: Request) -> int:
    """What the model will read, estimated."""
    chars = 0
    tokens = 0
    for message in request.messages:
        tokens += PER_MESSAGE
        if isinstance(message.content, str):
            chars += len(message.content)
        else:
            for block in message.content:
                more_chars, more_tokens = _of_block(block)
                chars += more_chars
                tokens += more_tokens
    if request.tools:
        chars += _length(request.tools)
    if request.response_format is not None and request.response_format.schema is not None:
        chars += _length(request.response_format.schema)
    return tokens + -(-chars // CHARS_PER_TOKEN)


def _length(value: Any) -> int:
    try:
        return len(msgspec.json.encode(value))
    except (TypeError, ValueError, OverflowError, RecursionError):  # the encoder will say what is wrong with it
        return 0


def _of_block(block: Block) -> tuple[int, int]:
    if isinstance(block, TextBlock | ThinkingBlock | RefusalBlock):
        return len(block.text), 0
    if isinstance(block, ToolUseBlock):
        return len(block.name) + (len(block.arguments) if block.arguments else _length(block.input)), PER_MESSAGE
    if isinstance(block, ToolResultBlock):
        if isinstance(block.content, str):
            return len(block.content), PER_MESSAGE
        parts = [_of_block(part) for part in block.content]
        return sum(chars for chars, _ in parts), PER_MESSAGE + sum(tokens for _, tokens in parts)
    source = getattr(block, "source", None)
    if isinstance(source, Base64Source):
        return 0, max(PER_MEDIA, len(source.data) // MEDIA_BYTES_PER_TOKEN)
    return 0, PER_MEDIA


def output_bound(request: Request, max_output_tokens: int | None) -> int | None:
    """The most that can come back: what the request allows, else what the model can; None where nobody says."""
    if request.max_tokens is not None:
        return request.max_tokens * (request.n or 1)
    return None if max_output_tokens is None else max_output_tokens * (request.n or 1)


def output_asked(request: Request) -> int:
    """What the request asks to come out, 0 where it does not say."""
    return (request.max_tokens or 0) * (request.n or 1)


def tokens_of(request: Request) -> int:
    """What a call is thought to use: what goes in, and what it asks to come out. For limits and shares."""
    return input_tokens(request) + output_asked(request)
