"""Calls that a model wrote into its text become calls: read out of whole texts and of running replies.

    <tool_call>{"name": "look", "arguments": {...}}</tool_call>      the form that the prompt asks for
    other tags, wrappers and argument names                         what models write instead (lenient reading)

Imports `protocol.manifest` for the declared form, and `types`. The rules that must stay true: however a text is cut,
the same text and the same calls come out; text without a call passes unchanged; what looks like a call and is none
stays text; nothing that may still turn out to be a call is handed on before it is decided.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from ..protocol.manifest import TextTools
from ..types.events import (
    Citation,
    FinalCandidate,
    FinishReason,
    MediaPart,
    Metadata,
    OpaqueBlock,
    PartialContentDelta,
    PartialToolCall,
    RefusalDelta,
    Rerouted,
    ServerToolCall,
    StreamEnd,
    StreamError,
    StreamingEvent,
    ThinkingDelta,
    ToolCallEnded,
    ToolCallStarted,
)

__all__ = ["CallsInText", "TextCall", "TextReader", "read_calls", "tidy"]

# Some models put the letters DSML between bars before each tag's name (AI-Protocol, text tool calls; read 2026-11-22).
BARRED = "｜｜DSML｜｜"
MAX_HELD_CHARS = 256 * 1024  # a call with a file in it fits; a tag that never closes is text from there on
STEP_CHARS = (
    4096  # taken at a time: what is left of them is searched once more after each call, and after each that is none
)
MAX_HEAD_CHARS = 500  # of an opening tag with its attributes
ARGUMENT_NAMES = ("arguments", "parameters", "params", "args")
NO_ARGUMENTS = ("name", "id", "type", "index")
SHELLS = ("shell", "bash")  # tags that stand for the tool `shell`, with the command in them
NOT_DIALECTS = ("function",)  # declared upstream, with a form that nobody has written down

_ATTRIBUTE = re.compile(r"""([A-Za-z_][\w-]*)\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_BEFORE = re.compile(rf"<(?:{BARRED})?tool_calls>\s*$")
_SPACE = re.compile(r"\s*")
_CHILD = re.compile(r"<([A-Za-z_][\w-]*)(?:\s[^<>]*)?>")


class TextCall(NamedTuple):
    """A call found in text. `arguments` is an object."""

    name: str
    arguments: dict[str, Any]


class _Spot(NamedTuple):
    """Where calls stand in a text, from the first character of their markup to the one after the last."""

    start: int
    end: int
    calls: tuple[TextCall, ...]


Piece = str | TextCall


def read_calls(
    text: str, form: TextTools | None = None, *, lenient: bool = True, names: Iterable[str] | None = None
) -> tuple[str, list[TextCall]]:
    """The text without its calls, tidied, and the calls in order.

    Strict reading takes only the form that `form` declares. `names` are the tools that are offered, where they are
    known: markup of other kinds counts as a call only for one of those.
    """
    reader = TextReader(form or TextTools(), lenient=lenient, names=names)
    pieces = [*reader.feed(text), *reader.finish()]
    rest = "".join(piece for piece in pieces if isinstance(piece, str))
    return tidy(rest), [piece for piece in pieces if isinstance(piece, TextCall)]


def tidy(text: str) -> str:
    """The text with its lines trimmed and blank lines dropped, as the specification leaves it beside calls."""
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


class TextReader:
    """Reads one text as it comes. Texts and calls come out in order; `finish` decides what is open.

    A call in the declared form is given as soon as its tag closes. Other markup is decided at the end, as it counts
    only where no call in the declared form is found. White space around calls goes with them, and where text stands on
    both sides of one, a line end takes its place.
    """

    def __init__(self, form: TextTools, *, lenient: bool = True, names: Iterable[str] | None = None) -> None:
        self._form = form
        self._lenient = lenient
        self._names = None if names is None else frozenset(names)
        self._is_fence = form.format == "markdown_fence"
        self._closer = "\n```" if self._is_fence else f"</{form.wrapper}>"
        own = openers(form, lenient=lenient)
        self._own = own[: _own_count(form, lenient=lenient)]
        self._all = own
        self._held = ""  # what is not decided
        self._at = 0  # in it: looked at so far
        self._block: int | None = None  # in it: where a call in the declared form began
        self._body = -1  # in it: where that one's body began
        self._is_quoted = False
        self._is_waiting = False  # other markup stands in it, from its beginning
        self._has_own = False  # a call in the declared form was found
        self._is_wrapped = False
        self._gap = ""  # white space that may stand before a call
        self._has_said = False
        self._is_after_call = False

    def feed(self, text: str) -> list[Piece]:
        """The texts and calls that these characters decide."""
        out: list[Piece] = []
        for at in range(0, len(text), STEP_CHARS):
            self._held += text[at : at + STEP_CHARS]
            self._advance(out)
            if len(self._held) > MAX_HELD_CHARS:
                self._give_up(out)
        return out

    def finish(self) -> list[Piece]:
        """What is left, decided: the text is over."""
        out: list[Piece] = []
        while self._block is not None:
            # A quotation mark too many hides the closing tag: the first one counts then, and the call is none.
            start = self._body if self._body >= 0 else self._block
            found = self._held.find(self._closer, start)
            if found < 0:
                break
            self._pass_over(found + len(self._closer), out)
            self._advance(out)
        is_open = self._lenient and not self._has_own and len(self._held) <= MAX_HELD_CHARS
        spots = [] if not is_open else other_calls(self._held, self._form, self._names)
        at = 0
        for spot in spots:
            self._text(self._held[at : spot.start], out)
            for call in spot.calls:
                self._call(call, out)
            at = spot.end
        self._text(self._held[at:], out)
        if self._gap and not self._is_after_call:
            out.append(self._gap)
        self._held = self._gap = ""
        return out

    # ---- inside

    def _advance(self, out: list[Piece]) -> None:
        while True:
            if self._block is not None:
                end = self._closing()
                if end is None:
                    return
                self._close(end, out)
                continue
            is_after = self._is_after_call and not self._is_waiting and self._at == 0
            if is_after and self._is_wrapped and self._is_unwrapping():
                return
            found = self._next_opener()
            if found is None:
                tail = partial_tail(self._held, self._openers())
                self._at = max(self._at, len(self._held) - tail)
                if not self._is_waiting:
                    self._text(self._held[: self._at], out)
                    self._held, self._at = self._held[self._at :], 0
                return
            at, is_own = found
            if is_own:
                self._block, self._body, self._is_quoted = at, -1, False
                self._at = at + 1
            else:
                self._text(self._held[:at], out)
                self._held, self._at, self._is_waiting = self._held[at:], 1, True

    def _openers(self) -> tuple[str, ...]:
        if self._is_waiting:
            return self._own
        return self._all[: len(self._own) + 1] if self._has_own else self._all  # a wrapper may still come

    def _next_opener(self) -> tuple[int, bool] | None:
        best: tuple[int, bool] | None = None
        for number, opener in enumerate(self._openers()):
            at = self._held.find(opener, self._at)
            if at >= 0 and (best is None or at < best[0]):
                best = at, number < len(self._own)
        return best

    def _is_unwrapping(self) -> bool:
        """Take the closing tag of a wrapper; whether what is here may still be the beginning of one."""
        rest = self._held.lstrip()
        for closer in ("</tool_calls>", f"</{BARRED}tool_calls>"):
            if rest.startswith(closer):
                self._held, self._is_wrapped = rest[len(closer) :], False
                return False
            if closer.startswith(rest):
                return True
        return False

    def _closing(self) -> int | None:
        """Where the open call's closing tag begins, outside of quotation marks; None while it has not come."""
        assert self._block is not None
        if self._body < 0:
            head = self._held.find("\n" if self._is_fence else ">", self._block)
            if head < 0:
                if len(self._held) - self._block > MAX_HEAD_CHARS:
                    return len(self._held)
                return None
            self._body = self._at = head if self._is_fence else head + 1
        if self._form.body == "plain":
            found = self._held.find(self._closer, self._at)
            self._at = max(self._at, len(self._held) - len(self._closer))
            return found if found >= 0 else None
        while True:
            quote = self._held.find('"', self._at)
            if self._is_quoted:
                escape = self._held.find("\\", self._at)
                if 0 <= escape < (quote if quote >= 0 else len(self._held)):
                    if escape + 1 == len(self._held):
                        self._at = escape
                        return None
                    self._at = escape + 2
                    continue
            else:
                found = self._held.find(self._closer, self._at)
                if found >= 0 and not 0 <= quote < found:
                    return found
            if quote < 0:
                step = 0 if self._is_quoted else len(self._closer) - 1
                self._at = max(self._at, len(self._held) - step)
                return None
            self._at, self._is_quoted = quote + 1, not self._is_quoted

    def _close(self, end: int, out: list[Piece]) -> None:
        assert self._block is not None
        call = None
        if self._body >= 0 and end - self._body <= MAX_HELD_CHARS:
            head, body = self._held[self._block : self._body], self._held[self._body : end]
            call = own_call(head, body, self._form, lenient=self._lenient)
        after = min(end + len(self._closer), len(self._held))
        if call is None:
            self._pass_over(after, out)
            return
        before = self._held[: self._block]
        wrapper = _BEFORE.search(before) if self._lenient else None
        if wrapper is not None:
            before, self._is_wrapped = before[: wrapper.start()], True
        self._text(before, out)
        self._call(call, out)
        self._held, self._at, self._block, self._body = self._held[after:], 0, None, -1
        self._has_own, self._is_waiting = True, False

    def _pass_over(self, end: int, out: list[Piece]) -> None:
        """What looked like a call is text."""
        self._block, self._body, self._is_quoted = None, -1, False
        if self._is_waiting:
            self._at = end
        else:
            self._text(self._held[:end], out)
            self._held, self._at = self._held[end:], 0

    def _give_up(self, out: list[Piece]) -> None:
        self._text(self._held, out)
        self._held, self._at, self._block, self._body, self._is_waiting = "", 0, None, -1, False

    def _text(self, text: str, out: list[Piece]) -> None:
        if self._is_after_call:
            text = text.lstrip()
            if text:
                text = "\n" + text if self._has_said else text
                self._is_after_call = False
        body = text.rstrip()
        if body:
            out.append(self._gap + body)
            self._gap, self._has_said = text[len(body) :], True
        elif not self._is_after_call:
            self._gap += text

    def _call(self, call: TextCall, out: list[Piece]) -> None:
        self._gap, self._is_after_call = "", True
        out.append(call)


# ---- what calls look like


def openers(form: TextTools, *, lenient: bool) -> tuple[str, ...]:
    """The texts that a call may begin with; the declared form's own come first."""
    if form.format == "markdown_fence":
        own: tuple[str, ...] = tuple(f"```{form.wrapper}{end}" for end in ("\n", " "))
    elif lenient:
        own = tuple(f"<{form.wrapper}{end}" for end in (">", " ", "\n", "\t"))
    else:
        own = (f"<{form.wrapper}{' ' if form.name_location == 'attribute' else '>'}",)
    if not lenient:
        return own
    others = ("<tool_calls>", f"<{BARRED}", "<invoke ", "<invoke\n")
    return own + others + tuple(f"<{tag}>" for tag in dict.fromkeys([*SHELLS, *_declared(form)]))


def _own_count(form: TextTools, *, lenient: bool) -> int:
    """How many of the openers are the declared form's own."""
    return 2 if form.format == "markdown_fence" else 4 if lenient else 1


def partial_tail(text: str, openers: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of one of these."""
    longest = min(max(map(len, openers)) - 1, len(text))
    for size in range(longest, 0, -1):
        tail = text[-size:]
        if any(opener.startswith(tail) for opener in openers):
            return size
    return 0


def _declared(form: TextTools) -> dict[str, str]:
    """Tag -> tool, of the dialects that a manifest declares beside the usual ones."""
    return {one.tag: one.tool for one in form.dialects if one.tag not in NOT_DIALECTS}


def own_call(head: str, body: str, form: TextTools, *, lenient: bool) -> TextCall | None:
    """The call in the declared form, or None for what is none. `head` is its opening tag."""
    attributes = _attributes(head)
    if form.body == "plain":
        name = attributes.get("name")
        return TextCall(name, {form.args_key: body.strip()}) if name else None
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    said = attributes.get("name") if form.name_location == "attribute" else value.get("name")
    if lenient:
        said = said or value.get("name") or attributes.get("name")
    if not isinstance(said, str) or not said:
        return None
    found = _object(value.get(form.args_key), lenient)
    if lenient:
        for key in ARGUMENT_NAMES if found is None else ():
            found = _object(value.get(key), lenient)
            if found is not None:
                break
        if found is None and not any(key in value for key in (form.args_key, *ARGUMENT_NAMES)):
            found = {key: one for key, one in value.items() if key not in NO_ARGUMENTS}
    return None if found is None else TextCall(said, found)


def _object(value: Any, lenient: bool) -> dict[str, Any] | None:
    if lenient and isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            return None
    return value if isinstance(value, dict) else None


def _attributes(head: str) -> dict[str, str]:
    return {name: double or single for name, double, single in _ATTRIBUTE.findall(head)}


def other_calls(text: str, form: TextTools, names: frozenset[str] | None) -> list[_Spot]:
    """The calls of the first kind of markup that a text has any of, the kinds in the specification's order."""
    kinds: list[Iterator[_Spot]] = [
        _json_in_tags(text),
        _invocations(text, BARRED),
        _invocations(text, ""),
    ]
    declared = _declared(form)
    for tag in dict.fromkeys([*SHELLS, *declared]):
        kinds.append(_commands(text, tag, declared.get(tag) or ("shell" if tag in SHELLS else tag)))
    for kind in kinds:
        found = [spot for spot in kind if names is None or all(call.name in names for call in spot.calls)]
        if found:
            return [_unwrapped(text, spot) for spot in found]
    return []


def _elements(text: str, name: str) -> Iterator[tuple[int, str, str, int]]:
    """Elements `<name ...>...</name>`, not nested: start, opening tag, what is inside, the place after. Each character
    is looked at once."""
    at, closer = 0, f"</{name}>"
    while True:
        start = text.find(f"<{name}", at)
        head = text.find(">", start) if start >= 0 else -1
        end = text.find(closer, head) if head >= 0 else -1
        if end < 0:
            return
        at = end + len(closer)
        follows = text[start + len(name) + 1]
        if follows == ">" or follows.isspace():
            yield start, text[start : head + 1], text[head + 1 : end], at
        else:
            at = start + 1


def _json_in_tags(text: str) -> Iterator[_Spot]:
    for name in ("tool_call", "tool_calls"):
        for start, head, body, end in _elements(text, BARRED + name):
            call = own_call(head, body, TextTools(), lenient=True)
            if call is not None:
                yield _Spot(start, end, (call,))


def _invocations(text: str, prefix: str) -> Iterator[_Spot]:
    for start, head, body, end in _elements(text, prefix + "invoke"):
        name = _attributes(head).get("name")
        if not name:
            continue
        arguments = {}
        for _, inner, value, _ in _elements(body, prefix + "parameter"):
            key = _attributes(inner).get("name")
            if key:
                arguments[key] = value.strip("\r\n")
        yield _Spot(start, end, (TextCall(name, arguments),))


def _commands(text: str, tag: str, tool: str) -> Iterator[_Spot]:
    for start, _, body, end in _elements(text, tag):
        arguments: dict[str, Any] = {}
        for child in _CHILD.finditer(body):
            close = body.find(f"</{child[1]}>", child.end())
            if close >= 0 and child[1] not in arguments:
                arguments[child[1]] = body[child.end() : close].strip()
        if arguments or body.strip():
            yield _Spot(start, end, (TextCall(tool, arguments or {"command": body.strip()}),))


def _unwrapped(text: str, spot: _Spot) -> _Spot:
    """The place with the wrapper right around it."""
    before = _BEFORE.search(text, 0, spot.start)
    space = _SPACE.match(text, spot.end)
    end = space.end() if space else spot.end
    for closer in ("</tool_calls>", f"</{BARRED}tool_calls>"):
        if text.startswith(closer, end):
            return _Spot(before.start() if before else spot.start, end + len(closer), spot.calls)
    return _Spot(before.start() if before else spot.start, spot.end, spot.calls)


# ---- in a running reply


class _Candidate:
    __slots__ = ("block", "calls", "is_native", "native", "next", "out", "queue", "reader", "tail", "texts")

    def __init__(self) -> None:
        self.block = -1  # the text block that is being read, by the wire's index
        self.reader: TextReader | None = None
        self.out: dict[int, int] = {}  # the wire's block index -> ours
        self.next = 0  # our next block index
        self.calls = 0  # numbers given to calls
        self.native: dict[int, int] = {}
        self.texts = 0  # calls found in text
        self.queue: list[StreamingEvent] | None = None  # hybrid: what waits for the end
        self.tail: PartialContentDelta | None = None  # hybrid: what may begin markup
        self.is_native = False


class CallsInText:
    """The events of one reply, with the calls in its text as calls. One for an attempt.

    `hybrid`: the text is read only where the reply has no call of the API's own, so from the first markup on events
    wait until that is known. `number` counts the calls of earlier turns: ids go on from there.
    """

    def __init__(self, form: TextTools, *, hybrid: bool, names: Iterable[str] | None = None, number: int = 0) -> None:
        self._form = form
        self._hybrid = hybrid
        self._names = None if names is None else frozenset(names)
        self._number = number
        self._candidates: dict[int, _Candidate] = {}
        self._openers = openers(form, lenient=True)

    def feed(self, events: Sequence[StreamingEvent]) -> list[StreamingEvent]:
        """The events that these decide."""
        out: list[StreamingEvent] = []
        for event in events:
            if isinstance(event, Metadata | Rerouted):
                out.append(event)
            elif isinstance(event, StreamEnd):
                out += self._end()
                first = self._candidates[min(self._candidates)] if self._candidates else None
                out.append(_with_reason(event, first))
            elif isinstance(event, StreamError):
                out += self._end()
                out.append(event)
            elif isinstance(event, FinalCandidate):
                found = self._of(event.candidate_index)
                self._decide(found, event.candidate_index, out)
                out.append(_with_reason(event, found))
            else:
                found = self._of(event.candidate_index)
                if self._hybrid and not found.is_native:
                    self._wait(found, event, out)
                else:
                    self._take(found, event, out)
        return out

    def finish(self) -> list[StreamingEvent]:
        """What is still held, where a reply ended without saying so."""
        return self._end()

    def _of(self, index: int) -> _Candidate:
        found = self._candidates.get(index)
        if found is None:
            found = self._candidates[index] = _Candidate()
        return found

    def _end(self) -> list[StreamingEvent]:
        out: list[StreamingEvent] = []
        for index, candidate in self._candidates.items():
            self._decide(candidate, index, out)
        return out

    # ---- hybrid: wait for a call of the API's own

    def _wait(self, candidate: _Candidate, event: StreamingEvent, out: list[StreamingEvent]) -> None:
        if isinstance(event, ToolCallStarted):
            waiting = [*([candidate.tail] if candidate.tail else []), *(candidate.queue or ())]
            candidate.queue, candidate.tail, candidate.is_native = None, None, True
            for one in [*waiting, event]:
                self._take(candidate, one, out)
            return
        if candidate.queue is not None:
            candidate.queue.append(event)
            return
        tail, candidate.tail = candidate.tail, None
        if not isinstance(event, PartialContentDelta):
            for one in [*([tail] if tail else []), event]:
                self._pass(candidate, one, out)
            return
        text = event.content
        if tail is not None and tail.block_index == event.block_index:
            text = tail.content + text
        elif tail is not None:
            self._pass(candidate, tail, out)
        places = [at for opener in self._openers if (at := text.find(opener)) >= 0]
        if places:
            cut = len(text[: min(places)].rstrip())
            candidate.queue = [msgspec.structs.replace(event, content=text[cut:])]
        else:
            cut = len(text[: len(text) - partial_tail(text, self._openers)].rstrip())
            if cut < len(text):
                candidate.tail = msgspec.structs.replace(event, content=text[cut:])
        if cut:
            self._pass(candidate, msgspec.structs.replace(event, content=text[:cut]), out)

    def _decide(self, candidate: _Candidate, index: int, out: list[StreamingEvent]) -> None:
        """The candidate is over: what waited is read."""
        waiting = [*([candidate.tail] if candidate.tail else []), *(candidate.queue or ())]
        candidate.queue = candidate.tail = None
        for event in waiting:
            self._read(candidate, event, out)
        self._close_reader(candidate, index, out)

    # ---- reading

    def _take(self, candidate: _Candidate, event: StreamingEvent, out: list[StreamingEvent]) -> None:
        if candidate.is_native:
            self._pass(candidate, event, out)
        else:
            self._read(candidate, event, out)

    def _read(self, candidate: _Candidate, event: StreamingEvent, out: list[StreamingEvent]) -> None:
        if isinstance(event, PartialContentDelta):
            if candidate.block != event.block_index:
                self._close_reader(candidate, event.candidate_index, out)
                candidate.block = event.block_index
            if candidate.reader is None:
                candidate.reader = TextReader(self._form, names=self._names)
            self._tell(candidate, event.candidate_index, candidate.reader.feed(event.content), out)
            return
        belongs = isinstance(event, Citation | OpaqueBlock) and _block_of(event) == candidate.block
        if not belongs:
            self._close_reader(candidate, getattr(event, "candidate_index", 0), out)
        self._pass(candidate, event, out)

    def _close_reader(self, candidate: _Candidate, index: int, out: list[StreamingEvent]) -> None:
        reader, candidate.reader = candidate.reader, None
        if reader is not None:
            self._tell(candidate, index, reader.finish(), out)
            candidate.block = -1

    def _tell(self, candidate: _Candidate, index: int, pieces: list[Piece], out: list[StreamingEvent]) -> None:
        for piece in pieces:
            if isinstance(piece, str):
                out.append(PartialContentDelta(piece, self._place(candidate, candidate.block), index))
                continue
            block = candidate.next
            candidate.next += 1
            candidate.out.pop(candidate.block, None)  # text after a call is a block of its own
            number, candidate.calls = candidate.calls, candidate.calls + 1
            candidate.texts += 1
            ident = f"text_tool_{self._number}"
            self._number += 1
            out += [
                ToolCallStarted(ident, piece.name, number, block, index),
                PartialToolCall(msgspec.json.encode(piece.arguments).decode(), number, ident, block, index),
                ToolCallEnded(ident, number, block, index),
            ]

    # ---- numbering

    def _place(self, candidate: _Candidate, block: int) -> int:
        """Our index for a block of the wire: the wire's own until a call was found in text."""
        found = candidate.out.get(block)
        if found is None:
            found = candidate.out[block] = max(candidate.next, block) if not candidate.texts else candidate.next
            candidate.next = found + 1
        return found

    def _pass(self, candidate: _Candidate, event: StreamingEvent, out: list[StreamingEvent]) -> None:
        """An event as it is, with our numbers."""
        place = self._place(candidate, _block_of(event))
        if isinstance(event, OpaqueBlock):
            out.append(event if place == event.index else msgspec.structs.replace(event, index=place))
        elif isinstance(event, ToolCallStarted | PartialToolCall | ToolCallEnded):
            number = candidate.native.get(event.index)
            if number is None:
                number = candidate.native[event.index] = candidate.calls
                candidate.calls += 1
            is_same = place == event.block_index and number == event.index
            out.append(event if is_same else msgspec.structs.replace(event, index=number, block_index=place))
        elif isinstance(
            event, PartialContentDelta | ThinkingDelta | RefusalDelta | ServerToolCall | Citation | MediaPart
        ):
            out.append(event if place == event.block_index else msgspec.structs.replace(event, block_index=place))


def _block_of(event: StreamingEvent) -> int:
    return event.index if isinstance(event, OpaqueBlock) else getattr(event, "block_index", 0)


_PLAIN_ENDS: tuple[FinishReason, ...] = ("end_turn", "stop_sequence", "other")


def _with_reason(event: Any, candidate: _Candidate | None) -> Any:
    """The end of a reply with calls in its text: it waits for their results."""
    if candidate is not None and candidate.texts and event.finish_reason in _PLAIN_ENDS:
        return msgspec.structs.replace(event, finish_reason="tool_use")
    return event
