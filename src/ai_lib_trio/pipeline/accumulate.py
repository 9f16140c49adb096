"""The facts that rules find in frames become standard events.

One accumulator belongs to one call and knows no dialect: what differs between wires came in as facts. Imports
`types`. The rules that must stay true: a call is opened once and its arguments come once; pieces of a block that is no
call for the client never become one; usage is folded once, at the end; the end of the reply is said only on evidence.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

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
    ServerToolCall,
    StreamEnd,
    StreamError,
    StreamingEvent,
    ThinkingDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from ..types.response import parse_arguments
from ..types.usage import Usage

__all__ = ["USAGE_FIELDS", "Accumulator", "Ending", "Run", "mend"]

USAGE_FIELDS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "cached_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
MOST_TOKENS = 10**9  # no reply has so many: a count beyond it, or below nothing, is garbage, and so not told

Key = str | int
_NOTHING: Any = MappingProxyType({})  # a dictionary before its first entry: few replies have one for each of them


class Ending(msgspec.Struct, frozen=True):
    """What a dialect says about ends: evidence, finish reasons, and what the wire's usage numbers leave out."""

    complete_when: frozenset[str] = frozenset()
    finish_map: Mapping[str, FinishReason] = msgspec.field(default_factory=dict)
    with_calls: Mapping[str, FinishReason] = msgspec.field(default_factory=dict)
    input_excludes: tuple[str, ...] = ()
    output_excludes: tuple[str, ...] = ()


class _Block(msgspec.Struct, eq=False):
    """A block of text, thinking, refusal or media. A struct is made in C; what is written per piece is elsewhere."""

    kind: str
    index: int  # its block index
    key: Key | None = None  # of a block that text is written to
    held: str = ""  # the first half of a surrogate pair whose second half has not come
    last: dict[str, Any] | None = None  # attributes as they were last given


class _Open(_Block, eq=False):
    """A call, server or opaque block: it goes on until its end is told."""

    name: str = ""
    call_id: str = ""
    given_id: str | None = None
    item_id: str | None = None
    number: int = 0  # of the call
    has_parts: bool = False  # pieces of arguments were seen
    started: bool = False
    pieces: list[str] = []  # each its own, as msgspec has it
    whole: Any = None
    native: Any = None
    result: Any = None
    arguments_at: str | None = None


class _Candidate:
    __slots__ = ("blocks", "called", "calls", "current", "fresh", "index", "keyed", "open", "raw", "text", "used")

    def __init__(self, index: int) -> None:
        self.index = index
        self.blocks = self.calls = self.fresh = 0  # blocks begun, calls started, keys made here
        self.called = self.used = False
        self.current: _Block | None = None  # what keyless text goes on with
        self.text: _Block | None = None  # the last one, for citations that do not say which
        self.keyed: dict[tuple[str, Key], _Block] = _NOTHING
        self.open: dict[Key, _Open] = _NOTHING  # what has not ended
        self.raw: str | None = None


class Accumulator:
    """State of one reply. Rules call the methods named after facts; events gather in `out`."""

    __slots__ = (
        "_cand",
        "_first",
        "_ids",
        "_is_counted",
        "_next_id",
        "_others",
        "_usage_raw",
        "answered",
        "at",
        "cache_write_tokens",
        "cached_tokens",
        "data",
        "element",
        "ending",
        "fault",
        "input_tokens",
        "is_over",
        "joins",
        "mark",
        "model",
        "nameless_calls",
        "odd",
        "out",
        "output_tokens",
        "reasoning_tokens",
        "response_id",
        "sentinel",
        "total_tokens",
        "touched",
    )

    def __init__(self, ending: Ending) -> None:
        self.out: list[StreamingEvent] = []
        self.ending = ending
        self.model: str | None = None
        self.response_id: str | None = None
        self.fault: StreamError | None = None
        self.mark = self.sentinel = False
        self.is_over = False  # a fault or a mark came
        self.data = b""  # the frame that is read now, and which of its elements where it is a list
        self.element: int | None = None
        self.joins: dict[int, tuple[Any, ...]] = _NOTHING  # what rules joined last, so that they need not again
        self.touched = self.answered = False  # some fact of this frame was emitted; some other than Metadata was
        self.odd = False  # a frame needed the second reader: its text may hold halves of surrogate pairs
        self.nameless_calls = 0
        self.at = 0  # the index of the candidate in force
        self._cand = self._first = _Candidate(0)
        self._others: dict[int, _Candidate] = _NOTHING  # candidates by their index, but for the first
        # Counts by their names in `USAGE_FIELDS`, and where the provider's own object is or stands.
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.total_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.cache_write_tokens: int | None = None
        self.reasoning_tokens: int | None = None
        self._is_counted = False
        self._usage_raw: Any = None
        self._ids: dict[str, None] = _NOTHING  # of calls, given and made
        self._next_id = 0  # where to look for one that is free

    def frame(self) -> Any:
        """The frame that is read now, whole, for the few rules that want it so."""
        return _part(self.data, self.element, ())

    def joined(self, number: int, parts: tuple[Any, ...]) -> None:
        """Keep what rules joined: the parts, and the text that they make."""
        if self.joins is _NOTHING:
            self.joins = {}
        self.joins[number] = parts

    # ---- candidates ----

    def select(self, number: Any) -> int:
        """Put a candidate in force for the facts that follow; gives the one that was. Not a number counts as 0."""
        before = self._cand.index
        index = number if number.__class__ is int and number >= 0 else 0
        if index != before:
            found = self._others.get(index) if index else self._first
            if found is None:
                if self._others is _NOTHING:
                    self._others = {}
                found = self._others[index] = _Candidate(index)
            self._cand = found
            self.at = index
        return before

    def _fresh_block(self, kind: str, key: Key | None = None) -> _Block:
        cand = self._cand
        index = cand.blocks
        cand.blocks = index + 1
        cand.used = self.answered = True
        return _Block(kind, index, key)

    def _opened(self, kind: str, key: Key) -> _Open:
        cand = self._cand
        if cand.open is _NOTHING:
            cand.open = {}
        block = cand.open[key] = _Open(kind, cand.blocks, key)
        cand.blocks += 1
        cand.used = self.answered = True
        cand.current = None
        return block

    # ---- text, thinking, refusal ----

    def _writing(self, kind: str, key: Key | None, alone: bool) -> _Block:
        """The block that a piece of text goes to."""
        cand = self._cand
        if key is not None:
            block = cand.keyed.get((kind, key))
            if block is None:
                if cand.keyed is _NOTHING:
                    cand.keyed = {}
                block = cand.keyed[kind, key] = self._fresh_block(kind, key)
        elif not alone and cand.current is not None and cand.current.kind == kind:
            return cand.current
        else:
            block = _Block(kind, cand.blocks)
            cand.blocks += 1
            cand.used = self.answered = True
        cand.current = None if alone else block
        if kind == "text":
            cand.text = block
        return block

    def text(self, content: str, key: Key | None = None) -> None:
        self.touched = True
        cand = self._cand
        block = cand.current
        if block is None or block.kind != "text" or (key is not None and block.key != key):
            block = self._writing("text", key, False)
        if self.odd:
            content = _join(block, content)
        self.out.append(PartialContentDelta(content, block.index, cand.index))

    def text_with(self, content: str | None, key: Key | None, alone: bool, signature: str | None, native: Any) -> None:
        """Text with attributes, or attributes of text alone."""
        if content and not alone:
            self.text(content, key)
            if signature is None and native is None:
                return
        self.touched = True
        block = self._writing("text", key, alone)
        if content and alone:
            if self.odd:
                content = _join(block, content)
            self.out.append(PartialContentDelta(content, block.index, self._cand.index))
        self._attributes(block, "text", signature=signature, native=native)

    def refusal(self, content: str, key: Key | None = None) -> None:
        self.touched = True
        block = self._writing("refusal", key, False)
        if self.odd:
            content = _join(block, content)
        self.out.append(RefusalDelta(content, block.index, self._cand.index))

    def thinking(
        self,
        content: str | None,
        key: Key | None = None,
        part: int | None = None,
        alone: bool = False,
        signature: str | None = None,
        encrypted: str | None = None,
        id: str | None = None,
        native: Any = None,
    ) -> None:
        self.touched = True
        block = self._cand.current
        if alone or block is None or block.kind != "thinking" or (key is not None and block.key != key):
            block = self._writing("thinking", key, alone)
        if content:
            if self.odd:
                content = _join(block, content)
            self.out.append(ThinkingDelta(content, block.index, self._cand.index, part))
        if signature is not None or encrypted is not None or id is not None or native is not None:
            self._attributes(block, "thinking", signature=signature, encrypted=encrypted, id=id, native=native)

    def _attributes(self, block: _Block, of: Any, **given: Any) -> None:
        for kind, value in given.items():
            if value is None or value == "":
                continue
            last = block.last
            if last is None:
                last = block.last = {}
            elif kind != "signature" and last.get(kind) == value:
                continue
            last[kind] = value
            value = mend(value) if self.odd else value
            self.out.append(OpaqueBlock(block.index, kind, value, self._cand.index, of))

    # ---- calls ----

    def call(
        self,
        key: Key | None,
        call_id: str | None,
        name: str | None,
        arguments: Any,
        whole: Any,
        is_complete: bool,
        signature: str | None,
        item_id: str | None,
        native: Any,
    ) -> None:
        """A call begins, goes on or comes whole. `arguments` is a piece (text) or the whole (an object)."""
        cand = self._cand
        if arguments is not None and arguments.__class__ is not str:
            whole = arguments if whole is None else whole
            arguments = None
        if not (call_id or name or arguments or whole) and (key is None or key not in cand.open):
            return
        self.touched = True
        if self.odd:
            call_id, name, whole, native = mend(call_id), mend(name), mend(whole), mend(native)
        if key is None:
            cand.fresh += 1
            key = f"\0{cand.fresh}"
        block = cand.open.get(key)
        if block is not None and block.kind == "call" and self._is_another(block, call_id, name):
            self._end(key, block)
            block = None
        if block is None:
            block = self._opened("call", key)
        elif block.kind != "call":
            if isinstance(arguments, str):
                block.pieces.append(arguments)
            return
        if call_id and block.given_id is None:
            block.given_id = call_id
            self._known_id(call_id)
        if item_id and not block.item_id:
            block.item_id = item_id
        if name and not block.name:
            block.name = name
        if block.name and not block.started:
            self._start(block)
        if arguments:
            self._arguments(block, arguments)
        if whole is not None and (whole or is_complete):  # `{}` at a start only holds the place
            block.whole = whole
        if signature is not None or native is not None:
            self._attributes(block, "call", signature=signature, native=native)
        if is_complete:
            self._end(key, block)

    @staticmethod
    def _is_another(block: _Open, call_id: str | None, name: str | None) -> bool:
        """Whether a piece at an open key begins another call: some providers repeat one index for every call."""
        if not call_id or call_id == block.given_id:
            return False
        return block.given_id is not None or bool(name and block.name)

    def _start(self, block: _Open) -> None:
        cand = self._cand
        block.started = True
        block.call_id = block.given_id or self._made_id()
        block.number = cand.calls
        cand.calls += 1
        cand.called = True
        self.out.append(
            ToolCallStarted(
                block.call_id, block.name, block.number, block.index, cand.index, block.given_id, block.item_id
            )
        )
        for piece in block.pieces:  # what came before the name
            self.out.append(PartialToolCall(piece, block.number, block.call_id, block.index, cand.index))
        block.pieces.clear()

    def _made_id(self) -> str:
        """An id for a call that the wire gave none: the same for the same reply, and not the same in the next one."""
        stem = "call_" if self.response_id is None else f"call_{zlib.crc32(self.response_id.encode()):08x}_"
        while (made := f"{stem}{self._next_id}") in self._ids:
            self._next_id += 1
        self._known_id(made)
        return made

    def _known_id(self, call_id: str) -> None:
        if self._ids is _NOTHING:
            self._ids = {}
        self._ids[call_id] = None

    def _arguments(self, block: _Open, text: str) -> None:
        if not block.has_parts:
            block.has_parts = True
        if self.odd:
            text = _join(block, text)
        if block.started:
            self.out.append(PartialToolCall(text, block.number, block.call_id, block.index, self._cand.index))
        else:
            block.pieces.append(text)

    def ended(self, key: Key | None) -> None:
        """A block of the wire ended. Says something only where it was a call, a server block or an opaque one."""
        block = None if key is None else self._cand.open.get(key)
        if key is not None and block is not None:
            self.touched = True
            self._end(key, block)

    def _end(self, key: Key, block: _Open) -> None:
        cand = self._cand
        del cand.open[key]
        if block.kind == "server":
            self._end_server(block)
        elif block.kind == "opaque":
            self._end_opaque(block)
        elif not block.started:
            self.nameless_calls += 1
        else:
            if not block.has_parts and block.whole is not None:
                whole = block.whole
                text = whole if isinstance(whole, str) else msgspec.json.encode(whole).decode()
                self._arguments(block, text)
            self.out.append(ToolCallEnded(block.call_id, block.number, block.index, cand.index))

    # ---- blocks of the provider's own ----

    def server(
        self,
        key: Key | None,
        id: str | None,
        name: str | None,
        whole: Any,
        result: Any,
        native: Any,
        arguments_at: str | None,
        is_complete: bool,
    ) -> None:
        """A block that the provider runs itself opens, or is told whole."""
        if not (id or name or native):
            return
        key, block = self._reserved("server", key)
        block.given_id = block.given_id or id
        block.name = block.name or name or ""
        if whole is not None and (whole or is_complete):
            block.whole = whole
        block.result = result if result is not None else block.result
        block.native = native if native is not None else block.native
        block.arguments_at = arguments_at or block.arguments_at
        if is_complete:
            self._end(key, block)

    def _reserved(self, kind: str, key: Key | None) -> tuple[Key, _Open]:
        cand = self._cand
        self.touched = True
        if key is None:
            cand.fresh += 1
            key = f"\0{cand.fresh}"
        block = cand.open.get(key)
        if block is None or block.kind != kind:
            if block is not None:
                self._end(key, block)
            block = self._opened(kind, key)
        return key, block

    def _end_server(self, block: _Open) -> None:
        text = "".join(block.pieces)
        arguments = parse_arguments(text) if text else block.whole
        if arguments.__class__ is str:
            arguments = parse_arguments(arguments)
        native = block.native
        if text and block.arguments_at and isinstance(native, dict):
            native = {**native, block.arguments_at: arguments}
        event = ServerToolCall(
            block.given_id or self._made_id(),
            block.name,
            arguments,
            block.result,
            block.index,
            self._cand.index,
            native,
        )
        if self.odd:
            event = msgspec.structs.replace(
                event, id=mend(event.id), name=mend(event.name), arguments=mend(arguments), result=mend(block.result),
                native=mend(native),
            )  # fmt: skip
        self.out.append(event)

    def opaque(
        self, key: Key | None, kind: str | None, data: Any, piece: str | None, piece_at: str | None, is_complete: bool
    ) -> None:
        """A whole block of the wire that has no standard meaning, at once or in parts: later data over earlier.

        Without a `kind` it only goes on with a block that is open.
        """
        goes_on = None if key is None else self._cand.open.get(key)
        if kind is None and (goes_on is None or goes_on.kind != "opaque"):
            return
        key, block = self._reserved("opaque", key)
        block.name = block.name or kind or ""
        if isinstance(block.native, dict) and isinstance(data, dict):
            block.native = {**block.native, **data}
        elif data is not None:
            block.native = data
        block.arguments_at = piece_at or block.arguments_at
        if piece:
            block.pieces.append(piece)
        if is_complete:
            self._end(key, block)

    def _end_opaque(self, block: _Open) -> None:
        data = block.native
        if block.pieces and block.arguments_at and isinstance(data, dict):
            before = data.get(block.arguments_at)
            data = {**data, block.arguments_at: (before if isinstance(before, str) else "") + "".join(block.pieces)}
        self.out.append(OpaqueBlock(block.index, block.name, mend(data) if self.odd else data, self._cand.index))

    def citation(self, data: Any, key: Key | None) -> None:
        if data is None:
            return
        self.touched = self.answered = True
        cand = self._cand
        cand.used = True
        block = cand.text if key is None else self._writing("text", key, False)  # it may come before its text
        index = 0 if block is None else block.index
        self.out.append(Citation(mend(data) if self.odd else data, index, cand.index))

    def media(self, mime_type: str | None, data: str | None, url: str | None, signature: str | None) -> None:
        """An image, sound or file. A data URL is taken apart."""
        if url is not None and data is None and url.startswith("data:") and ";base64," in url:
            head, _, data = url.partition(";base64,")
            mime_type, url = mime_type or head[5:], None
        if not data and not url:
            return
        self.touched = True
        block = self._fresh_block("media")
        self._cand.current = None
        kind = mime_type or "application/octet-stream"
        if self.odd:
            kind, data, url = mend(kind), mend(data), mend(url)
        self.out.append(MediaPart(kind, data, url, block.index, self._cand.index))
        self._attributes(block, "media", signature=signature)

    # ---- about the reply ----

    def usage(self, input: Any, output: Any, total: Any, cached: Any, written: Any, reasoning: Any, raw: Any) -> None:
        """Token counts in the order of `USAGE_FIELDS`, then the provider's own object. The last of each counts."""
        counted = False  # one by one, a quarter of a loop's time: some wires tell it in every frame
        if input is not None and (input.__class__ is int or (input := _count(input)) is not None):
            self.input_tokens = input
            counted = True
        if output is not None and (output.__class__ is int or (output := _count(output)) is not None):
            self.output_tokens = output
            counted = True
        if total is not None and (total.__class__ is int or (total := _count(total)) is not None):
            self.total_tokens = total
            counted = True
        if cached is not None and (cached.__class__ is int or (cached := _count(cached)) is not None):
            self.cached_tokens = cached
            counted = True
        if written is not None and (written.__class__ is int or (written := _count(written)) is not None):
            self.cache_write_tokens = written
            counted = True
        if reasoning is not None and (reasoning.__class__ is int or (reasoning := _count(reasoning)) is not None):
            self.reasoning_tokens = reasoning
            counted = True
        if counted:
            self.touched = self.answered = self._is_counted = True
        if raw.__class__ is tuple:  # where it stands: frame, element, keys
            self._usage_raw = raw
        elif raw.__class__ is dict:
            self._usage_raw = mend(raw) if self.odd else raw

    def metadata(self, model: str | None, response_id: str | None) -> None:
        if self.model is None and model:
            self.model = mend(model) if self.odd else model
            self.touched = True
        if self.response_id is None and response_id:
            self.response_id = mend(response_id) if self.odd else response_id
            self.touched = True

    def finish(self, reason: Any) -> None:
        if reason.__class__ is int:
            reason = str(reason)
        if reason.__class__ is str and reason:
            self._cand.raw = mend(reason) if self.odd else reason
            self._cand.used = self.touched = self.answered = True

    def complete(self) -> None:
        self.mark = self.is_over = self.touched = self.answered = True

    def error(self, code: Any, type: Any, message: Any, status: Any, error: Any) -> None:
        """The provider's own error. The first one counts."""
        self.touched = self.is_over = True
        if self.fault is None:
            self.fault = provider_error(code, type, message, status, error, None)

    # ---- the end ----

    def folded_usage(self) -> Usage | None:
        """Usage so far, with what the wire's numbers leave out added in; None where nothing was reported."""
        if not self._is_counted and self._usage_raw is None:
            return None
        if self._usage_raw.__class__ is tuple:
            self._usage_raw = _part(*self._usage_raw)
        for name in USAGE_FIELDS:
            count = getattr(self, name)
            if count is not None and not 0 <= count <= MOST_TOKENS:
                setattr(self, name, None)
        ending = self.ending
        total_in, total_out, total = self.input_tokens, self.output_tokens, self.total_tokens
        if ending.input_excludes:
            total_in = self._with(total_in, ending.input_excludes)
        if ending.output_excludes:
            total_out = self._with(total_out, ending.output_excludes)
        if total is None and total_in is not None and total_out is not None:
            total = total_in + total_out
        return Usage(
            total_in,
            total_out,
            total,
            self.cached_tokens,
            self.cache_write_tokens,
            self.reasoning_tokens,
            self._usage_raw,
        )

    def _with(self, counted: int | None, excluded: tuple[str, ...]) -> int | None:
        # A wire may leave out a count of nothing beside a part that was counted: the part alone is known then.
        for name in excluded:
            part: int | None = getattr(self, name)
            if part is not None:
                counted = part if counted is None else counted + part
        return counted

    def is_complete(self) -> bool:
        """Whether what has been read proves that the content is complete."""
        ways = self.ending.complete_when
        if (self.mark and "mark" in ways) or (self.sentinel and "sentinel" in ways):
            return True
        if "finish" not in ways:
            return False
        is_finished = False
        for cand in (self._first, *self._others.values()):
            if cand.used:
                if not cand.raw:
                    return False
                is_finished = True
        return is_finished

    def close(self) -> None:
        """The reply is complete: what is open ends, then what is known about the reply, then its end."""
        for cand in (self._first, *self._others.values()):
            self._cand = cand
            if self.odd:
                for block in [*cand.keyed.values(), *([cand.current] if cand.current is not None else [])]:
                    self._flush(block)
            for key, block in list(cand.open.items()) if cand.open else ():
                self._flush(block)
                self._end(key, block)
        self._tell()
        end: StreamEnd | None = None
        for cand in self._by_index():
            if cand.used:
                reason = self._reason(cand)
                self.out.append(FinalCandidate(cand.index, reason, cand.raw))
                if end is None:
                    end = StreamEnd(reason, cand.raw)
        self.out.append(StreamEnd() if end is None else end)

    def fail(self, fault: StreamError) -> None:
        """The reply is not complete: what is known about it, then the fault. Open calls stay open."""
        self._tell()
        for cand in self._by_index() if fault.kind == "provider" else ():
            if cand.raw is not None:
                self.out.append(FinalCandidate(cand.index, self._reason(cand), cand.raw))
        self.out.append(fault)

    def _by_index(self) -> list[_Candidate]:
        return [self._first, *(self._others[index] for index in sorted(self._others))]

    def _flush(self, block: _Block) -> None:
        """Half of a surrogate pair that nothing came to complete."""
        if not block.held:
            return
        block.held = ""
        place = (block.index, self._cand.index)
        if block.kind == "text":
            self.out.append(PartialContentDelta("\ufffd", *place))
        elif block.kind == "thinking":
            self.out.append(ThinkingDelta("\ufffd", *place))
        elif block.kind == "refusal":
            self.out.append(RefusalDelta("\ufffd", *place))
        elif isinstance(block, _Open) and block.started:
            self.out.append(PartialToolCall("\ufffd", block.number, block.call_id, *place))

    def _tell(self) -> None:
        usage = self.folded_usage()
        if usage is not None or self.model is not None or self.response_id is not None:
            self.out.append(Metadata(usage, self.model, self.response_id))

    def _reason(self, cand: _Candidate) -> FinishReason:
        ending = self.ending
        reason: FinishReason = "other" if cand.raw is None else ending.finish_map.get(cand.raw, "other")
        if cand.called:
            return ending.with_calls.get("absent" if cand.raw is None else reason, reason)
        return reason


Run = Callable[[Any, "str | None", Any, Accumulator], None]  # rules, ready: frame, event name, headers, facts


def _count(value: Any) -> int | None:
    """A count that came as 12.0; None for what is none."""
    return int(value) if value.__class__ is float and value.is_integer() else None


def _part(data: bytes, element: int | None, keys: tuple[str, ...]) -> Any:
    """What stands in a frame that a view was read from; None where it cannot be had.

    Its bytes were read once, but what a view leaves out may hold what is no text.
    """
    try:
        found = msgspec.json.decode(data)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        import json  # rare

        try:
            found = mend(json.loads(data.decode("utf-8", "replace")))
        except (ValueError, RecursionError):
            return None
    found = found if element is None else found[element]
    for key in keys:
        found = found[key]
    return found


def provider_error(code: Any, type: Any, message: Any, status: Any, error: Any, fallback: int | None) -> StreamError:
    """A provider's error as the standard event. Codes become text; a status counts only as a number."""
    return StreamError(
        "provider",
        message=_as_text(message) or "",
        code=_as_text(code),
        type=_as_text(type),
        status=fallback if fallback is not None else status if status.__class__ is int else None,
        error=mend(error),
    )


def _as_text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return _mended(value)
    try:
        return msgspec.json.encode(mend(value)).decode()
    except RecursionError:
        return None


def _join(block: _Block, text: str) -> str:
    """A piece of text with the halves of surrogate pairs put together; a first half waits for the next piece."""
    text = block.held + text
    block.held = ""
    if text and "\ud800" <= text[-1] <= "\udbff":
        block.held, text = text[-1], text[:-1]
    return _mended(text)


def mend(value: Any) -> Any:
    """A JSON value whose texts can be encoded: lone halves of surrogate pairs become U+FFFD."""
    if value.__class__ is str:
        return _mended(value)
    if value.__class__ is not list and value.__class__ is not dict:
        return value
    holder = [value]
    waiting: list[Any] = [holder]  # and no recursion: readers of JSON go deeper than Python calls itself
    while waiting:
        into = waiting.pop()
        for key, item in list(enumerate(into) if into.__class__ is list else into.items()):
            if item.__class__ is str:
                into[key] = _mended(item)
            elif item.__class__ is list:
                into[key] = copied = item.copy()
                waiting.append(copied)
            elif item.__class__ is dict:
                into[key] = named = {_mended(name): part for name, part in item.items()}
                waiting.append(named)
    return holder[0]


def _mended(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
