"""`ailib chat`: a conversation with a model, streamed, with its usage and cost.

Imports click and, when it runs, the client. The reply goes to stdout and everything about it to stderr, so a pipe gets
the reply alone. The rule that must stay true: Ctrl-C during a reply of a conversation ends that reply, and its
connection, and nothing else.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from ..errors import AiLibError
from .options import MANIFESTS, Seconds
from .running import interruptible, run_async
from .screen import Printer, as_json, one_line

if TYPE_CHECKING:
    from ..client.chat import ChatRequestBuilder
    from ..types.message import Message
    from ..types.records import Record
    from ..types.response import ChatResponse
    from ..types.stats import CallStats

__all__ = ["chat"]


@click.command()
@click.argument("model")
@click.argument("text", required=False)
@click.option("--system", help="Instructions that stand before the conversation.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="The reply ends there at the latest.")
@click.option("--temperature", type=float)
@click.option("--base-url", metavar="URL", help="Talk to this address instead of the provider's own.")
@click.option("--api", metavar="NAME", help="One of the provider's APIs, where it has several.")
@click.option("--retries", type=click.IntRange(min=0), help="How often a failed call is tried again, at most.")
@click.option("--deadline", type=Seconds(min=0, min_open=True), help="Seconds for each reply, at most.")
@MANIFESTS
@click.option("--json", "as_lines", is_flag=True, help="Write every event as a line of JSON, then a summary.")
def chat(
    model: str,
    text: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    base_url: str | None,
    api: str | None,
    retries: int | None,
    deadline: float | None,
    manifests: str | None,
    as_lines: bool,
) -> int:
    """Talk to MODEL, as provider/model.

    TEXT is the message; `-`, or no TEXT and a pipe, reads it from stdin. Without either, a conversation begins: Ctrl-C
    ends a reply, Ctrl-D the conversation. The provider's key comes from its environment variable or the keyring.
    """
    question = None if text is None else _readable(os.fsencode(text))
    if text == "-" or (text is None and not sys.stdin.isatty()):
        question = _readable(sys.stdin.buffer.read())
    if question is not None and not question.strip():
        raise click.UsageError("there is no text to send")

    async def main() -> int:
        from ..client.client import open_client
        from ..client.config import Config

        show = _Lines() if as_lines else _Page()
        config = Config(sinks=(show.record,))
        async with open_client(model, api=api, manifests=manifests, base_url=base_url, config=config) as client:
            start = client.chat()
            if system is not None:
                start = start.system(_readable(os.fsencode(system)))
            if max_tokens is not None:
                start = start.max_tokens(max_tokens)
            if temperature is not None:
                start = start.temperature(temperature)
            if retries is not None:
                start = start.retry(max_attempts=retries + 1)
            if deadline is not None:
                start = start.deadline(deadline)
            talk = _Talk(start, show)
            if question is not None:
                await talk.turn(question)
                return 0
            return await talk.converse(model)

    return run_async(main)


class _Talk:
    """One conversation: what was said, and who shows it."""

    def __init__(self, start: ChatRequestBuilder, show: _Page | _Lines) -> None:
        self._start = start
        self._history: list[Message] = []
        self._show = show

    async def turn(self, text: str) -> None:
        """Say `text` and show the reply. The turn joins the history once the reply is whole."""
        from ..types.message import Message

        asked = Message.user(text)
        async with self._start.messages(*self._history, asked).stream() as events:
            try:
                async for event in events:
                    self._show.event(event)
            except AiLibError:
                self._show.broken(events.partial())
                raise
            reply, stats = events.response(), events.stats
        self._show.finished(reply, stats)
        self._history += [asked, reply.message]

    async def converse(self, model: str) -> int:
        """Turns until the user leaves. A turn that fails or is ended is said so, and forgotten."""
        notes = Printer(sys.stderr)
        notes.line(f"{model}  (Ctrl-C ends a reply, Ctrl-D leaves)", "note")
        while True:
            notes.end_line()
            notes.write("> ", "title")
            text = await _line_of_stdin()
            notes.at_line_start = True
            if text is None:
                notes.line()
                return 0
            if not text.strip():
                continue
            try:
                with interruptible() as scope:
                    await self.turn(text)
                if scope.cancelled_caught:
                    self._show.interrupted()
            except AiLibError as error:
                notes.line(one_line(error), "bad")


class _Page:
    """A reply for people: text as it comes; thinking, where there is a terminal to tell them apart, dimmed."""

    def __init__(self) -> None:
        self._out = Printer(sys.stdout)
        self._notes = Printer(sys.stderr)
        self._style = "text"

    def event(self, event: Any) -> None:
        from ..types import events

        if isinstance(event, events.PartialContentDelta):
            self._piece(event.content, "text")
        elif isinstance(event, events.RefusalDelta):
            self._piece(event.text, "text")
        elif isinstance(event, events.ThinkingDelta) and self._out.is_terminal:
            self._piece(event.thinking, "thinking")
        elif isinstance(event, events.MediaPart):
            self._note(f"[{event.mime_type}{': ' + event.url if event.url else ', not shown here'}]")
        elif isinstance(event, events.ServerToolCall):
            self._note(f"[the provider used {event.name}]")

    def record(self, record: Record) -> None:
        """A person is told of a failed attempt at once: there is a pause before the next. A pipe gets the end alone."""
        from ..types.records import AttemptEnded

        if isinstance(record, AttemptEnded) and record.outcome == "failed" and self._notes.is_terminal:
            self._note(f"attempt {record.attempt} failed: {record.code} {record.kind}")

    def finished(self, reply: ChatResponse, stats: CallStats) -> None:
        self._out.end_line()
        self._style = "text"
        self._note(_account(reply, stats))
        for warning in stats.warnings:
            self._note(f"note: {warning}")

    def broken(self, partial: ChatResponse) -> None:
        self._out.end_line()
        self._style = "text"

    def interrupted(self) -> None:
        self._out.end_line()
        self._style = "text"
        self._note("ended")

    def _piece(self, text: str, style: str) -> None:
        if style != self._style:
            self._out.end_line()
            self._style = style
        self._out.write(text, style)

    def _note(self, text: str) -> None:
        self._out.end_line()
        self._notes.line(text, "note")


class _Lines:
    """A reply for programs: each event is a line of JSON with `event`, the end a line with `summary`."""

    def event(self, event: Any) -> None:
        self._line(event)

    def record(self, record: Record) -> None:
        """Records are not events; what they come to is in the summary's statistics."""

    def finished(self, reply: ChatResponse, stats: CallStats) -> None:
        self._line({"summary": _plain(reply), "stats": stats})

    def broken(self, partial: ChatResponse) -> None:
        self._line({"partial": _plain(partial)})

    def interrupted(self) -> None:
        self._line({"interrupted": True})

    def _line(self, value: Any) -> None:
        sys.stdout.write(as_json(value, indent=None) + "\n")
        sys.stdout.flush()


def _plain(reply: ChatResponse) -> dict[str, Any]:
    return {
        "content": reply.content,
        "thinking": reply.thinking,
        "refusal": reply.refusal,
        "tool_calls": reply.tool_calls,
        "finish_reason": reply.finish_reason,
        "raw_finish_reason": reply.raw_finish_reason,
        "usage": reply.usage,
        "model": reply.model,
        "response_id": reply.response_id,
        "request_id": reply.request_id,
    }


def _account(reply: ChatResponse, stats: CallStats) -> str:
    """What a reply took, in one line. What was not reported is left out, never shown as 0."""
    usage = reply.usage
    tokens = [
        f"{count} {name}"
        for count, name in (
            (usage.input_tokens, "in"),
            (usage.cached_tokens, "of them cached"),
            (usage.output_tokens, "out"),
            (usage.reasoning_tokens, "of them reasoning"),
        )
        if count is not None and (count or name in ("in", "out"))
    ]
    parts = [f"{', '.join(tokens)} tokens" if tokens else "no usage reported"]
    if stats.cost is not None:
        parts.append(f"{stats.cost:.6f} {stats.currency}")
    if reply.finish_reason not in (None, "end_turn"):
        parts.append(f"ended by {reply.finish_reason}")
    if stats.first_token_s is not None:
        parts.append(f"first token after {stats.first_token_s:.2f} s")
    parts.append(f"{stats.total_s:.2f} s")
    return " | ".join(parts)


def _readable(data: bytes) -> str:
    """Bytes from outside as text that can be sent: what is no UTF-8 is marked, and no reason to fail."""
    return data.decode("utf-8", "replace")


async def _line_of_stdin() -> str | None:
    """The next line of a terminal, None at its end. Cancelled, the thread that waits for it is left behind.

    It reads the descriptor, not `sys.stdin`: a thread left in the latter holds a lock that the interpreter wants when
    it exits. A terminal gives a line at a time.
    """
    import trio

    data = bytearray()
    while not data.endswith(b"\n"):
        piece = await trio.to_thread.run_sync(os.read, 0, 65536, abandon_on_cancel=True)
        if not piece:
            break
        data += piece
    return _readable(bytes(data)).rstrip("\r\n") if data else None
