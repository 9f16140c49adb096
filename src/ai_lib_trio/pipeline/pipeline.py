"""A `decode` section becomes a program, and a program opens one pipeline a call: bytes in, standard events out.

Turns bytes into frames (`decode`), frames into facts (`event_map`), facts into events (`accumulate`). Imports
`protocol` and `types`. The rules that must stay true: a program is immutable and shared by all calls, and all state is
in the pipeline of one call; `feed` and `finish` never raise on wire input, a fault is the last event and closes the
pipeline.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, get_args

import msgspec

from ..protocol.manifest import Manifest
from ..protocol.view import decoder_of
from ..protocol.where import Where
from ..types.events import FinishReason, StreamError, StreamingEvent
from ..types.usage import Usage
from .accumulate import USAGE_FIELDS, Accumulator, Ending, Run, provider_error
from .decode import BOM, FRAMINGS, Body, Frame, Framing
from .event_map import Rules
from .printed import print_rules

__all__ = ["Counts", "DecodeProgram", "Pipeline", "compile_decoder", "compile_pipeline"]

MAX_FRAME_BYTES = 16 * 1024 * 1024  # one image in base64 fits; what a hostile server can make us hold does too

_KEYS = ("doc", "framing", "complete_when", "finish", "usage", "error", "define", "rules", "stream", "body")
_EVIDENCE = ("finish", "sentinel", "mark", "eof")
_REASONS = get_args(FinishReason)

# What a content type says about the framing. Types that say nothing leave it to what was asked for.
_FRAMED_TYPES = {
    "text/event-stream": "sse",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/x-jsonlines": "ndjson",
    "application/jsonlines": "ndjson",
    "application/stream+json": "ndjson",
}
_SILENT_TYPES = ("", "text/plain", "application/octet-stream", "binary/octet-stream")
_NOT_JSON = (ValueError, RecursionError, msgspec.MsgspecError)  # ValueError: JSON and UTF-8 errors, digits over a bound


class Counts(msgspec.Struct, frozen=True):
    """What a pipeline saw. `repaired` frames needed the second reader (lone surrogates, NaN, bytes that are no UTF-8);
    `ignored` ones matched no rule; `late_bytes` came after the end."""

    bytes: int = 0
    frames: int = 0
    ignored: int = 0
    repaired: int = 0
    nameless_calls: int = 0
    late_bytes: int = 0


class Compiled(msgspec.Struct, frozen=True):
    """Rules ready to run, and the decoder of the frames that they read."""

    run: Run
    decode: Callable[[bytes], Any]


class Way(msgspec.Struct, frozen=True):
    """How a reply is cut and read. Without a framing the first byte tells, unless the content type is `refused`."""

    framing: Callable[[int], Framing] | None = None
    compiled: Compiled | None = None
    refused: StreamError | None = None


_MAX_WAYS = 64  # kept by a program: a content type is the server's to write, and no two need be the same


class DecodeProgram:
    """A dialect's `decode` section, compiled. Immutable: any number of calls may have pipelines of it open."""

    def __init__(self, tree: Mapping[str, Any], where: Where) -> None:
        for key in tree:
            if key not in _KEYS:
                raise where.at(str(key)).error(f"expected one of {', '.join(_KEYS)}, got {key!r}")
        framing = _map(tree, "framing", where, ("format", "done", "content_type", "unwrap", "data"))
        self.format: str = framing.get("format", "sse")
        if self.format not in FRAMINGS:
            raise where.at("framing", "format").error(f"expected one of {', '.join(FRAMINGS)}, got {self.format!r}")
        for key in ("done", "content_type", "unwrap"):
            if not isinstance(framing.get(key, ""), str):
                raise where.at("framing", key).error(f"expected a text, got {framing[key]!r}")
        # Data that is text and no JSON: a frame is then {event, data}.
        self.is_text = framing.get("data", "json") == "text"
        if framing.get("data", "json") not in ("json", "text"):
            raise where.at("framing", "data").error(f"expected json or text, got {framing['data']!r}")
        done = framing.get("done")
        # A content type of the dialect's own, for a framing that no registered type tells.
        self.content_type: str | None = framing.get("content_type")
        self.unwrap: str | None = framing.get("unwrap")  # the key under which a frame holds another one, in base64
        self.done: bytes | None = done.strip().encode() if done and done.strip() else None
        define = _map(tree, "define", where)
        error = _map(tree, "error", where, ("match", "extract", "doc"))
        self.frames = self._rules(tree, "stream", error, define, where)
        self.whole = self._rules(tree, "body", error, define, where)
        for name in define:
            if name not in self.frames.used_defines | self.whole.used_defines:
                raise where.at("define", str(name)).error("expected a rule that some `use` names, got one never used")
        said = {"error": {"emit": "StreamError", "extract": error.get("extract")}}
        self._errors = Rules([(said, where)], {})
        self._read_error: Run | None = None  # made at the first error
        self.ending = self._ending(tree, where)
        self._compiled: dict[tuple[bool, str], Compiled] = {}
        self._ways: dict[tuple[str | None, bool, str], Way] = {}

    @staticmethod
    def _rules(
        tree: Mapping[str, Any], part: str, error: Mapping[str, Any], define: Mapping[str, Any], where: Where
    ) -> Rules:
        maps: list[tuple[Mapping[str, Any], Where]] = []
        if error.get("match") is not None:
            maps.append(({"error": {**error, "emit": "StreamError"}}, where))
        for key in ("rules", part):
            if tree.get(key) is not None:
                maps.append((tree[key], where.at(key)))
        return Rules(maps, define)

    def _ending(self, tree: Mapping[str, Any], where: Where) -> Ending:
        facts = self.frames.facts | self.whole.facts
        possible = {"eof"}
        if "FinalCandidate" in facts:
            possible.add("finish")
        if "Complete" in facts:
            possible.add("mark")
        if self.done is not None:
            possible.add("sentinel")
        ways = tree.get("complete_when")
        if ways is None:  # all evidence that there can be; where there is none, the end of the bytes
            ways = sorted(possible - {"eof"}) or ["eof"]
        at = where.at("complete_when")
        if not isinstance(ways, list):
            raise at.error(f"expected a list of {', '.join(_EVIDENCE)}, got {ways!r}")
        for number, way in enumerate(ways):
            if way not in _EVIDENCE:
                raise at.at(number).error(f"expected one of {', '.join(_EVIDENCE)}, got {way!r}")
            if way not in possible:
                raise at.at(number).error(f"expected evidence that some rule gives, got `{way}`, which none does")
        finish = _map(tree, "finish", where, ("map", "with_calls"))
        usage = _map(tree, "usage", where, ("input_excludes", "output_excludes"))
        return Ending(
            complete_when=frozenset(ways),
            finish_map=_reasons(finish, "map", where.at("finish")),
            with_calls=_reasons(finish, "with_calls", where.at("finish"), [*_REASONS, "absent"]),
            input_excludes=_excluded(usage, "input_excludes", where.at("usage")),
            output_excludes=_excluded(usage, "output_excludes", where.at("usage")),
        )

    def compiled(self, *, whole: bool, backend: str) -> Compiled:
        """The rules for frames or for a whole body over a backend, made at first use and kept."""
        found = self._compiled.get((whole, backend))
        if found is None:
            rules = self.whole if whole else self.frames
            if backend == "view":
                try:
                    # The caller of a whole body wants all of it beside the events: one decode gives both.
                    decode = msgspec.json.decode if whole else decoder_of(rules.root).decode
                    found = Compiled(print_rules(rules.rules, rules.used), decode)
                except (SyntaxError, RecursionError, MemoryError):  # over a bound of Python's on source; or a view's
                    pass
            if found is None:
                from .closures import close_over  # for what msgspec refuses

                found = Compiled(close_over(rules.rules, rules.slots), msgspec.json.decode)
            self._compiled[whole, backend] = found
        return found

    def _way(self, content_type: str | None, streamed: bool, backend: str) -> Way:
        """How a reply of this content type is read, settled once for each."""
        found = self._ways.get((content_type, streamed, backend))
        if found is None:
            found = self._choose(content_type, streamed, backend)
            if len(self._ways) < _MAX_WAYS:
                self._ways[content_type, streamed, backend] = found
        return found

    def _choose(self, content_type: str | None, streamed: bool, backend: str) -> Way:
        kind = (content_type or "").partition(";")[0].strip().lower()
        is_json = kind in ("application/json", "text/json") or kind.endswith("+json")
        framing = self.format if kind == self.content_type else _FRAMED_TYPES.get(kind)
        if framing is None and kind in _SILENT_TYPES:
            framing = self.format if streamed else "body"
        elif framing is None and is_json and streamed:
            if self.format != "json_array":
                return Way()  # a list is a stream of its elements, anything else a whole body: the first byte tells
            framing = "json_array"
        elif framing is None and is_json:
            framing = "body"
        if framing is not None and (framing in FRAMINGS or framing == "body"):
            return Way(*self.framed(framing, backend))
        return Way(refused=StreamError("wrong_content_type", f"expected a reply of JSON or events, got {kind}"))

    def framed(self, name: str, backend: str) -> tuple[Callable[[int], Framing], Compiled]:
        """A framing by its name, and the rules for its frames."""
        whole = name == "body"
        return Body if whole else FRAMINGS[name], self.compiled(whole=whole, backend=backend)

    def open(
        self,
        *,
        content_type: str | None = None,
        streamed: bool = True,
        max_frame_bytes: int = MAX_FRAME_BYTES,
        backend: str = "view",
    ) -> Pipeline:
        """A pipeline for one reply. `streamed` is what was asked for; `content_type` is what came, and decides."""
        return Pipeline(self, self._way(content_type, streamed, backend), max_frame_bytes, backend)

    def read_error(self, status: int, headers: Mapping[str, str], body: bytes) -> StreamError:
        """What the provider said in a reply with an error status. Never raises."""
        try:
            value: Any = _read_again(body)
        except _NOT_JSON:
            return StreamError("provider", message=_plain(body), status=status)
        if self._read_error is None:
            from .closures import close_over  # most programs meet no error

            self._read_error = close_over(self._errors.rules, self._errors.slots)
        lower = {name.lower(): text for name, text in headers.items()}
        for item in value if isinstance(value, list) else [value]:
            facts = Accumulator(self.ending)
            self._read_error(item, None, lower, facts)
            said = facts.fault
            if said is not None and (said.message or said.code):
                return msgspec.structs.replace(said, status=status, error=said.error if said.error else value)
        return provider_error(None, None, None, None, value, status)


def _map(tree: Mapping[str, Any], key: str, where: Where, known: tuple[str, ...] = ()) -> Mapping[str, Any]:
    value = tree.get(key)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise where.at(key).error(f"expected a map, got {value!r}")
    for name in value if known else ():
        if name not in known:
            raise where.at(key, str(name)).error(f"expected one of {', '.join(known)}, got {name!r}")
    return value


def _reasons(
    tree: Mapping[str, Any], key: str, where: Where, sources: list[str] | None = None
) -> dict[str, FinishReason]:
    found: dict[str, FinishReason] = {}
    for raw, reason in _map(tree, key, where).items():
        if reason not in _REASONS:
            raise where.at(key, raw).error(f"expected a standard reason ({', '.join(_REASONS)}), got {reason!r}")
        if sources is not None and raw not in sources:
            raise where.at(key, raw).error(f"expected one of {', '.join(sources)}, got {raw!r}")
        found[str(raw)] = reason
    return found


def _excluded(tree: Mapping[str, Any], key: str, where: Where) -> tuple[str, ...]:
    fields = tree.get(key)
    if fields is None:
        return ()
    if not isinstance(fields, list) or any(field not in USAGE_FIELDS for field in fields):
        raise where.at(key).error(f"expected a list of usage fields ({', '.join(USAGE_FIELDS)}), got {fields!r}")
    return tuple(fields)


def _read_again(data: bytes) -> Any:
    """JSON as the standard library reads it: with NaN, lone surrogates, a BOM, and replaced bytes that are no UTF-8."""
    import json  # rare

    return json.loads(data.decode("utf-8", "replace").removeprefix("\ufeff"))


def _as_frame(event: str | None, data: bytes) -> bytes:
    return msgspec.json.encode({"event": event, "data": data.decode("utf-8", "replace")})


def _unwrapped(data: bytes, key: str) -> bytes:
    """The frame that a frame holds in base64 under `key`; a frame that holds none speaks for itself."""
    try:
        held = msgspec.json.decode(data)
        return base64.b64decode(held[key], validate=True) if held.__class__ is dict and key in held else data
    except (*_NOT_JSON, TypeError):
        return data


def _plain(body: bytes) -> str:
    """The message in an error body that is no JSON: its text, unless it is a page of markup."""
    text = body[:2000].decode("utf-8", "replace").strip()
    return "" if text.startswith("<") else text[:500]


class Pipeline:
    """The state of one reply. `closed` once its last event (StreamEnd or StreamError) has been given."""

    # What few replies ever set.
    _head = b""
    _ignored = _repaired = _late = 0
    _value: Any = None  # the whole body, decoded

    def __init__(self, program: DecodeProgram, way: Way, max_frame_bytes: int, backend: str) -> None:
        self.closed = False
        self._program = program
        self._max = max_frame_bytes
        self._backend = backend
        self._facts = Accumulator(program.ending)
        framing, compiled = way.framing, way.compiled
        self._refused = way.refused
        self._framing: Framing | None = None  # None while the first byte decides
        self._bytes = self._frames = 0
        if framing is not None and compiled is not None:
            self._follow(framing, compiled)

    def _follow(self, framing: Callable[[int], Framing], compiled: Compiled) -> None:
        self._whole = framing is Body
        self._framing = framing(self._max)
        self._run, self._decode = compiled.run, compiled.decode

    # ---- bytes in, events out ----

    def feed(self, data: bytes) -> list[StreamingEvent]:
        """The events that these bytes complete."""
        if self.closed:
            self._late += len(data)
            return []
        self._bytes += len(data)
        framing = self._framing
        if framing is None:
            if self._refused is not None:
                return self._fail(self._refused)
            data = self._sniff(data)
            framing = self._framing
            if framing is None:
                return []
        frames = framing.feed(data)
        if frames:
            self._read(frames, at_end=False)
        elif framing.fault is None:
            return []
        if framing.fault is not None and not self.closed:
            self._over(framing.fault)
        return self._taken()

    def finish(self) -> list[StreamingEvent]:
        """The events that the end of the bytes completes: the end of the reply, or the fault that stands in its way."""
        if self.closed:
            return []
        framing = self._framing
        if framing is None:
            return self._fail(self._refused or self._truncated("before its first byte"))
        frames = framing.finish()
        if frames:
            if self._whole:
                self._read_whole(frames[0][1])
            else:
                self._read(frames, at_end=True)
        if not self.closed:
            if framing.fault is not None:
                self._over(framing.fault)
            else:
                self._end(framing)
        return self._taken()

    def _sniff(self, data: bytes) -> bytes:
        self._head += data
        seen = self._head.removeprefix(BOM).lstrip()
        if not seen or BOM.startswith(seen):
            return b""
        framing, compiled = self._program.framed("json_array" if seen[0] == 91 else "body", self._backend)
        self._follow(framing, compiled)
        data, self._head = self._head, b""
        return data

    def _read(self, frames: list[Frame], *, at_end: bool) -> None:
        facts, program = self._facts, self._program
        done = program.done
        if program.unwrap is not None:
            frames = [(event, _unwrapped(data, program.unwrap)) for event, data in frames]
        if program.is_text:
            frames = [(event, data if data.strip() == done else _as_frame(event, data)) for event, data in frames]
        decode, run, number = self._decode, self._run, self._frames
        try:
            for event, data in frames:
                number += 1
                if done is not None and len(data) < 64 and data.strip() == done:
                    facts.sentinel = True
                    if "sentinel" in facts.ending.complete_when:
                        self._close()
                        return
                    continue
                try:
                    value = decode(data)
                except _NOT_JSON:
                    try:
                        value = self._second_reading(data)
                    except _NOT_JSON as error:
                        self._frames = number
                        self._unreadable(data, error, at_end)
                        return
                    decode, run = self._decode, self._run
                facts.touched, facts.data = False, data
                if value.__class__ is list:
                    for facts.element, item in enumerate(value):
                        run(item, event, None, facts)
                    facts.element = None
                else:
                    run(value, event, None, facts)
                if not facts.touched:
                    self._ignored += 1
                elif facts.is_over and self._ends():
                    return
        except RecursionError as error:  # of the rules: what they take whole may be too deep to be written or compared
            self._frames = number
            self._unreadable(data, error, False)
        finally:
            self._frames = number
            facts.data = b""  # a stream may be silent for minutes: its last frame is not kept for them

    def _read_whole(self, data: bytes) -> None:
        """The one frame that a whole body is."""
        facts = self._facts
        self._frames = 1
        try:
            value = self._decode(data)
        except _NOT_JSON:
            try:
                value = self._second_reading(data)
            except _NOT_JSON as error:
                self._unreadable(data, error, True)
                return
        self._value = value
        try:
            for item in value if value.__class__ is list else (value,):
                self._run(item, None, None, facts)
        except RecursionError as error:
            self._unreadable(data, error, True)
            return
        if not facts.touched:
            self._ignored = 1
        elif facts.fault is not None:
            self._ends()

    def _ends(self) -> bool:
        """Whether a fault or a mark in this frame ends the reply here."""
        facts = self._facts
        if facts.fault is not None:
            facts.fail(facts.fault)
            self.closed = True
        elif facts.mark and "mark" in facts.ending.complete_when:
            self._close()
        return self.closed

    def _second_reading(self, data: bytes) -> Any:
        """A frame that msgspec refuses, read by the standard library. From here on this call reads plain JSON."""
        value = _read_again(data)
        self._repaired += 1
        self._facts.odd = True
        if self._backend != "generic":
            self._backend = "generic"
            compiled = self._program.compiled(whole=self._whole, backend="generic")
            self._run, self._decode = compiled.run, compiled.decode
        return value

    # ---- ends and faults ----

    def _end(self, framing: Framing) -> None:
        facts, ways = self._facts, self._program.ending.complete_when
        if framing.cut:
            self._fault(self._truncated("inside a frame"))
        elif facts.is_complete() or ("eof" in ways and self._frames):
            self._close()
        elif not self._whole:
            self._fault(self._truncated("before anything said that it was complete"))
        elif self._frames == 0:
            self._fault(self._truncated("before its first byte"))
        elif facts.answered:
            self._close()  # a body that is JSON is whole: brackets are the evidence
        else:
            self._fault(StreamError("unreadable_frame", "the body holds nothing that the dialect's rules know"))

    def _truncated(self, place: str) -> StreamError:
        return StreamError("truncated", f"the reply ended {place}, after {self._bytes} bytes and {self._frames} frames")

    def _unreadable(self, data: bytes, error: Exception, at_end: bool) -> None:
        import json

        if self._whole:
            # Bytes that stop in the middle of JSON were cut; anything else was never JSON.
            text = data.decode("utf-8", "replace").rstrip()
            at_end = isinstance(error, json.JSONDecodeError) and (
                error.pos >= len(text) - 5 or error.msg.startswith("Unterminated string")
            )
        if at_end:
            self._fault(self._truncated("inside a frame"))
            return
        if isinstance(error, json.JSONDecodeError):
            what = f"is not JSON: {error.msg} at column {error.pos + 1}"
        else:
            what = "is nested too deep" if isinstance(error, RecursionError) else "has a number of too many digits"
        self._fault(StreamError("unreadable_frame", f"frame {self._frames} ({len(data)} bytes) {what}"))

    def _over(self, kind: str) -> None:
        self._fault(
            StreamError(kind, f"frame {self._frames + 1} is over {self._max} bytes, after {self._bytes} bytes")
            if kind == "oversize"
            else StreamError(kind, f"frame {self._frames + 1} cannot be read, after {self._bytes} bytes")
        )

    def _close(self) -> None:
        try:
            self._facts.close()
        except RecursionError:  # of a block that only its end writes
            self._facts.fail(StreamError("unreadable_frame", "the reply holds a value that is nested too deep"))
        self.closed = True

    def _fault(self, fault: StreamError) -> None:
        self._facts.fail(fault)
        self.closed = True

    def _fail(self, fault: StreamError) -> list[StreamingEvent]:
        self._fault(fault)
        return self._taken()

    def _taken(self) -> list[StreamingEvent]:
        out = self._facts.out
        if not out:
            return []  # a list of the caller's own: ours goes on being filled
        self._facts.out = []
        return out

    # ---- what is known so far ----

    @property
    def body(self) -> Any:
        """The whole body, decoded; None for a reply that came in frames, or that was never read to its end."""
        return self._value

    @property
    def usage(self) -> Usage | None:
        """Usage as far as the reply has reported it: what a call that ends early has cost."""
        return self._facts.folded_usage()

    @property
    def model(self) -> str | None:
        """The model that the reply names; None before it did."""
        return self._facts.model

    @property
    def response_id(self) -> str | None:
        """The provider's id of the reply; None before it came."""
        return self._facts.response_id

    @property
    def unread_frames(self) -> int:
        """The frames so far that no rule read."""
        return self._ignored

    def doubts(self) -> tuple[str, ...]:
        """What of the reply was lost or mended, in words for its caller. Empty, as a rule."""
        nameless = self._facts.nameless_calls
        if not (nameless or self._repaired or self._late):
            return ()
        said = (
            (nameless, "calls of tools without a name were dropped"),
            (self._repaired, "frames held what JSON may not (half of a surrogate pair, NaN, bytes of no character)"),
            (self._late, "bytes behind the end were not read"),
        )
        return tuple(f"the reply: {count} {what}" for count, what in said if count)

    @property
    def counts(self) -> Counts:
        """What was seen so far."""
        return Counts(self._bytes, self._frames, self._ignored, self._repaired, self._facts.nameless_calls, self._late)


def compile_decoder(tree: Mapping[str, Any], where: Where) -> DecodeProgram:
    """The program of a `decode` section. Raises ManifestError, with file, line and path, on whatever it cannot be."""
    if not isinstance(tree, Mapping):
        raise where.error(f"expected a map, got {tree!r}")
    return DecodeProgram(tree, where)


def compile_pipeline(manifest: Manifest, api: str | None = None) -> Pipeline:
    """A pipeline for one streamed reply of a provider; `api` chooses one of its API families."""
    family = manifest.family(api)
    return compile_decoder(family.decode, family.where.at("decode")).open()
