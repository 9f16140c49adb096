"""Tools for a model whose API has none: they are told in the prompt, and earlier calls and results become text.

Request -> request. Imports `errors`, `types`, `protocol.manifest`. The rule that must stay true: a request that comes
out of here holds no tool, no call and no result any more, and nothing that they said is lost.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from ..protocol.manifest import TextTools
from ..types.message import Block, Message, TextBlock, ToolResultBlock, ToolUseBlock
from ..types.request import Request
from ..types.tool import ToolChoice, ToolDefinition

__all__ = ["Locale", "calls_so_far", "instructions", "needs_text", "result_text", "told_in_text"]

Locale = Literal["en", "zh"]

_INTRODUCTION = {
    "en": (
        "You can use tools. To use one, write a block of exactly this form, and nothing else inside it:"
        "\n\n{example}\n\n{rules}\n\nThe result comes back in <tool_result> tags. The tools are:\n\n{tool_list}"
    ),
    "zh": (
        "你可以使用工具。要使用工具时，请严格按照下面的格式写一个代码块，里面不要有其他内容：\n\n{example}\n\n"
        "{rules}\n\n结果会放在 <tool_result> 标签里返回。可用的工具：\n\n{tool_list}"
    ),
}
_RULES = {
    "en": (
        "One block for each call. Write several blocks, one after the other, for several calls. "
        "Stop after the last block and wait for the results."
    ),
    "zh": "每次调用写一个代码块；需要多次调用时依次写多个。写完最后一个代码块后停下，等待结果。",
}
_WRONG = {
    "en": (
        "Do not use any other form. These are wrong and nothing happens when you write them:\n{wrong}\n"
        "Do not describe a call in words, and do not put the block into a code fence."
    ),
    "zh": (
        "不要使用其他格式。下面的写法是错误的，不会被执行：\n{wrong}\n"
        "不要用文字描述调用，也不要把代码块放进代码围栏里。"
    ),
}
_EXAMPLE = {
    "en": "An example, with a tool that looks up the weather.\nUser: What is the weather in Oslo?\nYou: {call}",
    "zh": "示例（一个查询天气的工具）。\n用户：奥斯陆天气怎么样？\n你：{call}",
}
_MUST = {
    "en": "Your next answer must use {which}.",
    "zh": "你的下一个回答必须使用{which}。",
}
_ANY = {"en": "one of the tools", "zh": "其中一个工具"}
_ONE = {"en": "the tool {name}", "zh": "工具 {name}"}
_ARGUMENTS = {"en": "arguments", "zh": "参数"}
_HAN = re.compile(r"[\u4e00-\u9fff]")
_LATIN = re.compile(r"[A-Za-z]")


def instructions(
    tools: Sequence[ToolDefinition],
    form: TextTools | None = None,
    *,
    locale: Locale = "en",
    choice: ToolChoice | None = None,
) -> str:
    """What a model is told about the tools and the form of a call.

    By `form.prompt_level`: L1 the form and the tools; L2 also wrong forms to keep away from; L3 also an example.
    """
    form = form or TextTools()
    shape = call_text("TOOL", {"ARGUMENT": "VALUE"}, form)
    rules = [_RULES[locale]]
    if form.prompt_level != "L1":
        wrong = ["<shell>...</shell>", '<invoke name="...">...</invoke>', '<parameter name="...">...</parameter>']
        rules.append(_WRONG[locale].format(wrong="\n".join(f"- {one}" for one in wrong)))
    if form.prompt_level == "L3":
        rules.append(_EXAMPLE[locale].format(call=call_text("look_up_weather", {"place": "Oslo"}, form)))
    if choice is not None and choice.mode in ("required", "tool"):
        which = _ONE[locale].format(name=choice.name) if choice.mode == "tool" else _ANY[locale]
        rules.append(_MUST[locale].format(which=which))
    lines = []
    for tool in tools:
        lines.append(f"- {tool.name}: {' '.join((tool.description or '').split())}".rstrip(": "))
        if tool.parameters.get("properties"):
            lines.append(f"  {_ARGUMENTS[locale]}: {_json(tool.parameters)}")
    return _INTRODUCTION[locale].format(example=shape, rules="\n\n".join(rules), tool_list="\n".join(lines))


def call_text(name: str, arguments: Any, form: TextTools) -> str:
    """A call in the declared form."""
    if form.body == "plain":
        inside = arguments.get(form.args_key) if isinstance(arguments, dict) else arguments
        inside = next(iter(arguments.values()), "") if inside is None and isinstance(arguments, dict) else inside
        head, body = f' name="{name}"', inside if isinstance(inside, str) else _json(inside)
    elif form.name_location == "attribute":
        head, body = f' name="{name}"', _json({form.args_key: arguments})
    else:
        head, body = "", _json({"name": name, form.args_key: arguments})
    if form.format == "markdown_fence":
        return f"```{form.wrapper}{head}\n{body}\n```"
    return f"<{form.wrapper}{head}>\n{body}\n</{form.wrapper}>"


def result_text(block: ToolResultBlock) -> str:
    """A tool's result as text. Parts of it that are no text are left to stand beside it."""
    content = block.content
    text = content if isinstance(content, str) else "".join(b.text for b in content if isinstance(b, TextBlock))
    said: dict[str, Any] = {"tool_use_id": block.tool_use_id, "content": text}
    if block.is_error:
        said["is_error"] = True
    return f"<tool_result>\n{_json(said)}\n</tool_result>"


def needs_text(request: Request) -> bool:
    """Whether a request has tools, calls or results in it."""
    return bool(request.tools) or any(
        isinstance(block, ToolUseBlock | ToolResultBlock)
        for message in request.messages
        if not isinstance(message.content, str)
        for block in message.content
    )


def calls_so_far(request: Request) -> int:
    """How many calls the conversation has: new ids go on from there."""
    return sum(
        isinstance(block, ToolUseBlock)
        for message in request.messages
        if not isinstance(message.content, str)
        for block in message.content
    )


def told_in_text(request: Request, form: TextTools) -> Request:
    """The request for a model that knows nothing of tools: instructions first, calls and results as text."""
    messages: list[Message] = []
    if request.tools and (request.tool_choice is None or request.tool_choice.mode != "none"):
        told = instructions(request.tools, form, locale=locale_of(request), choice=request.tool_choice)
        messages.append(Message.system(told))
    messages += [_as_text(message, form) for message in request.messages]
    return msgspec.structs.replace(
        request, tools=(), tool_choice=None, parallel_tool_calls=None, messages=_joined_system(messages)
    )


def locale_of(request: Request) -> Locale:
    """The language of the instructions: that of most letters in what the user wrote."""
    text = "".join(message.text for message in request.messages if message.role == "user")[:4000]
    return "zh" if len(_HAN.findall(text)) > len(_LATIN.findall(text)) else "en"


def _as_text(message: Message, form: TextTools) -> Message:
    if isinstance(message.content, str):
        return message
    blocks: list[Block] = []
    for block in message.content:
        if isinstance(block, ToolUseBlock):
            arguments = block.input if isinstance(block.input, dict) else {form.args_key: block.input}
            blocks.append(TextBlock(text=call_text(block.name, arguments, form)))
        elif isinstance(block, ToolResultBlock):
            blocks.append(TextBlock(text=result_text(block)))
            if not isinstance(block.content, str):
                blocks += [part for part in block.content if not isinstance(part, TextBlock)]
        else:
            blocks.append(block)
    role = "user" if message.role == "tool" else message.role
    return msgspec.structs.replace(message, role=role, content=tuple(blocks))


def _joined_system(messages: list[Message]) -> tuple[Message, ...]:
    """The messages with the instructions and the caller's own first system text as one: many APIs take one alone."""
    if len(messages) > 1 and messages[0].role == messages[1].role == "system":
        first, second, *rest = messages
        both = Message("system", (*first.blocks, TextBlock(text="\n\n"), *second.blocks), metadata=second.metadata)
        if isinstance(second.content, str):
            both = Message("system", f"{first.text}\n\n{second.content}", metadata=second.metadata)
        return (both, *rest)
    return tuple(messages)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
