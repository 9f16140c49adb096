"""The `simulate` section of a dialect becomes the provider's side of the wire.

A request as it came is matched to a route, checked, and lifted back to the standard request; a script becomes the
frames of a stream or one whole body; an error becomes the dialect's error body. Sans-IO; imports `protocol`, `wire`,
`types`. The rule that must stay true: what differs between dialects is in the section, nothing of it is here.

    simulate:
      route: {method: POST, path: /chat}             # or `whole` and `stream`; `{name}` is one segment
      streamed: condition over the request           # else the route tells
      framing: {format: sse, event: template over a frame, payload: the same, done: text, number: key that counts
        frames, ends: CRLF, content_type: text, wrap: key}
      results: paired                                # every call has its result, and every result its call
      candidates: several                            # else a reply has one
      calls: one                                     # else a reply has any number
      headers, check, request, frames, body, error, define
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import msgspec

from ..errors import CallerError
from ..protocol.paths import scope_getter
from ..protocol.rules import compile_condition, parse_condition
from ..protocol.where import Where
from ..types.message import OpaqueContent, ToolResultBlock, ToolUseBlock
from ..types.request import Request
from ..types.response import parse_arguments
from ..wire.template import Template, compile_template
from .check import Problem, compile_check

__all__ = ["FORMATS", "Asked", "Framing", "Matched", "RefusedRequest", "Speaker", "compile_speaker"]

# The framings that the simulator writes, and what a stream in them calls itself.
FORMATS: Mapping[str, str] = {
    "sse": "text/event-stream",
    "ndjson": "application/x-ndjson",
    "json_array": "application/json",
    "eventstream": "application/octet-stream",  # no type is registered: a dialect names its own
}
_FRAMING = ("format", "event", "payload", "done", "number", "ends", "content_type", "wrap")
_KEYS = (
    "route",
    "streamed",
    "framing",
    "headers",
    "check",
    "results",
    "candidates",
    "calls",
    "request",
    "frames",
    "body",
    "error",
    "define",
)
_BLOCKS = ("text", "thinking", "refusal", "tool_use")
_PARTS = ("start", "piece", "end")
_WHOLE_FRAMES = ("start", "finish", "usage", "end", "error")


class RefusedRequest(Exception):
    """The request is not what the dialect asks for."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Matched(NamedTuple):
    """The route that a request took: `whole` or `stream`, or `path` where both are one, and its segments."""

    route: str
    segments: dict[str, str]


class Asked(NamedTuple):
    """A request as templates see it, under `$`."""

    method: str
    path: str
    route: str
    segments: dict[str, str]
    query: dict[str, str]
    headers: dict[str, str]
    body: Any

    def scope(self) -> dict[str, Any]:
        return {"": self._asdict()}


class Framing(NamedTuple):
    """How one stream writes its frames, and what it calls itself.

    A frame's name is what `event` makes of it, and what goes out is what `payload` makes of it, else all of it.
    `wrap` is the key under which it stands in base64, but for errors.
    """

    format: str
    content_type: str
    event: Template | None
    payload: Template | None
    done: str | None
    number: str | None
    ends: str
    wrap: str | None


class Speaker:
    """One dialect from the provider's side. Immutable; shared by all connections."""

    def __init__(self, tree: Mapping[str, Any], where: Where, dialect: str, more_fields: Collection[str]) -> None:
        self.dialect = dialect
        for key in tree:
            if key not in _KEYS:
                raise where.at(str(key)).error(f"expected one of {', '.join(_KEYS)}, got `{key}`")
        for key in ("route", "framing", "request", "frames", "body", "error"):
            if not isinstance(tree.get(key), dict):
                raise where.at(key).error(f"expected `{key}`, a mapping")
        define = tree.get("define", {})

        def template(value: Any, at: Where, *names: str) -> Template:
            # Definitions are shared by templates that bind different names, so names are checked only without them.
            return compile_template(value, at, define=define, names=None if define else names)

        self.method, self._routes = _routes(tree["route"], where.at("route"))
        self._streamed = None
        if "streamed" in tree:
            self._streamed = compile_condition(parse_condition(tree["streamed"], where.at("streamed")), scope_getter)
        framing = dict(tree["framing"])
        at = where.at("framing")
        for key in framing:
            if key not in _FRAMING:
                raise at.at(str(key)).error(f"expected one of {', '.join(_FRAMING)}, got `{key}`")
            if key in ("done", "number", "ends", "content_type", "wrap") and not isinstance(framing[key], str):
                raise at.at(str(key)).error(f"expected a text, got {framing[key]!r}")
        self._format = compile_template(framing.get("format"), at.at("format"))
        self._event = compile_template(framing["event"], at.at("event")) if "event" in framing else None
        self._payload = compile_template(framing["payload"], at.at("payload")) if "payload" in framing else None
        self._done, self._number = framing.get("done"), framing.get("number")
        self._content_type, self._wrap = framing.get("content_type"), framing.get("wrap")
        self._ends = framing.get("ends", "\n")
        if tree.get("results") not in (None, "paired"):
            raise where.at("results").error(f"expected `paired`, got {tree['results']!r}")
        self._paired = "results" in tree
        if tree.get("candidates") not in (None, "several"):
            raise where.at("candidates").error(f"expected `several`, got {tree['candidates']!r}")
        self._several = "candidates" in tree
        if tree.get("calls") not in (None, "one"):
            raise where.at("calls").error(f"expected `one`, got {tree['calls']!r}")
        self._one_call = "calls" in tree
        self._headers = template(tree["headers"], where.at("headers"), "e") if "headers" in tree else None
        check = tree.get("check")
        self._check = compile_check(check, where.at("check"), more_fields=more_fields) if check else None
        for key in tree["request"]:
            if not str(key).startswith("$") and key not in Request.__struct_fields__:
                named = ", ".join(Request.__struct_fields__)
                raise where.at("request", str(key)).error(f"expected a field of a request ({named}), got `{key}`")
        self._request = template(tree["request"], where.at("request"))
        self._body = template(tree["body"], where.at("body"))
        self._error = template(tree["error"], where.at("error"), "e")
        self._frames: dict[str, Template] = {}
        at = where.at("frames")
        for key, value in tree["frames"].items():
            if key in _WHOLE_FRAMES:
                self._frames[key] = template(value, at.at(key), "c", "e")
            elif key in _BLOCKS and isinstance(value, dict):
                for part, inner in value.items():
                    if part not in _PARTS:
                        raise at.at(key, str(part)).error(f"expected one of {', '.join(_PARTS)}, got `{part}`")
                    self._frames[f"{key}.{part}"] = template(inner, at.at(key, part), "b", "piece")
            else:
                raise at.at(str(key)).error(f"expected one of {', '.join((*_WHOLE_FRAMES, *_BLOCKS))}, got `{key}`")

    # ---- what comes in ----

    def match(self, method: str, path: str) -> Matched | None:
        """The route of a path, whatever stands before it: clients put their own prefixes there."""
        if method != self.method:
            return None
        for name, pattern in self._routes:
            found = pattern.search(path)
            if found is not None:
                return Matched(name, {key: unquote(value) for key, value in found.groupdict().items()})
        return None

    def is_streamed(self, asked: Asked) -> bool:
        """Whether a stream is asked for."""
        return self._streamed(asked.scope()) if self._streamed is not None else asked.route == "stream"

    def lift(self, asked: Asked, *, check: bool = True) -> Request:
        """The standard request. Raises RefusedRequest for what the dialect's checks or the lifting refuse."""
        if check and self._check is not None:
            problem = self._check(asked.scope())
            if problem is not None:
                raise RefusedRequest(problem)
        try:
            lifted = self._request(asked.scope())
            if not isinstance(lifted, dict):
                raise RefusedRequest(Problem("the body is empty"))
            lifted.setdefault("model", "")
            lifted["stream"] = self.is_streamed(asked)
            request = msgspec.convert(_completed(lifted), Request)
        except CallerError as error:
            raise RefusedRequest(Problem(error.message)) from error
        except msgspec.ValidationError as error:
            raise RefusedRequest(Problem(f"cannot be read as a request: {error}")) from error
        if check and self._paired:
            problem = _unpaired(request)
            if problem is not None:
                raise RefusedRequest(problem)
        return request

    # ---- what goes out ----

    def framing(self, asked: Asked) -> Framing:
        """How this request's stream is framed."""
        format_ = self._format(asked.scope())
        if format_ not in FORMATS:
            raise CallerError(f"expected a framing of {', '.join(FORMATS)}, got {format_!r}", kind="bad_argument")
        return Framing(
            format_,
            self._content_type or FORMATS[format_],
            self._event,
            self._payload,
            self._done,
            self._number,
            self._ends,
            self._wrap,
        )

    def headers(self, state: Mapping[str, Any], said: Mapping[str, Any] | None = None) -> dict[str, str]:
        """Headers that the dialect's replies have besides the usual ones; `said` as for `error`, in error replies."""
        found = self._headers({"": state, "e": said}) if self._headers is not None else None
        return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}

    def body(self, state: Mapping[str, Any]) -> Any:
        """The whole reply, as a JSON value."""
        return self._body({"": state})

    def error(self, state: Mapping[str, Any], said: Mapping[str, Any]) -> Any:
        """The body of an error reply, as a JSON value. `said`: status, code, type, message, param."""
        return self._error({"": state, "e": said})

    def misfit(self, state: Mapping[str, Any]) -> str | None:
        """What of a reply the dialect has no place for, or None where it can say all of it."""
        candidates = state["candidates"]
        if len(candidates) > 1 and not self._several:
            return f"the dialect {self.dialect} has one candidate, not {len(candidates)}"
        if self._one_call and any(len(candidate.get("calls", ())) > 1 for candidate in candidates):
            return f"the dialect {self.dialect} has one call in a reply"
        kinds = {block["type"] for candidate in candidates for block in candidate["blocks"]}
        for kind in sorted(kinds):
            if not any(f"{kind}.{part}" in self._frames for part in _PARTS):
                return f"the dialect {self.dialect} has no frames for {kind}"
        return None

    def frames(self, name: str, state: Mapping[str, Any], **bound: Any) -> Iterator[Any]:
        """The frames, as JSON values, that the template `name` makes: none, one, or several."""
        template = self._frames.get(name)
        made = template({"": state, **bound}) if template is not None else None
        if isinstance(made, list):
            yield from made
        elif made is not None:
            yield made


def compile_speaker(
    tree: Mapping[str, Any], where: Where, *, dialect: str, more_fields: Collection[str] = ()
) -> Speaker:
    """The provider's side of a dialect. `where` is the place of the `simulate` section; raises ManifestError.

    `more_fields` are keys of the body that a provider's own encoding adds to the dialect's.
    """
    if not tree:
        raise where.error(f"the dialect {dialect} has no `simulate` section")
    return Speaker(tree, where, dialect, more_fields)


_SEGMENT = re.compile(r"\{(\w+)\}")


def _routes(tree: Any, where: Where) -> tuple[str, list[tuple[str, re.Pattern[str]]]]:
    routes = []
    for key, value in tree.items():
        if key == "method":
            continue
        if key not in ("path", "whole", "stream") or not isinstance(value, str):
            raise where.at(str(key)).error("expected method, path, whole or stream, each a text")
        parts = _SEGMENT.split(value)
        pattern = "".join(f"(?P<{part}>[^/]+?)" if index % 2 else re.escape(part) for index, part in enumerate(parts))
        routes.append((key, re.compile(pattern + "/?$")))
    if not routes:
        raise where.error("expected a `path`, or `whole` and `stream`")
    return str(tree.get("method", "POST")), routes


def _completed(lifted: dict[str, Any]) -> dict[str, Any]:
    """What no template can find: ids where the wire has none, arguments that came as text, and their like.

    Calls without an id get one by their place, and a result without one answers the oldest open call of its name.
    """
    open_calls: list[dict[str, Any]] = []
    count = 0
    for message in lifted.get("messages", ()):
        for block in _blocks(message):
            if block.get("type") == "tool_use":
                count += 1
                if block.get("id") is None:
                    block["id"] = f"call_{count}"
                else:
                    block.setdefault("wire_id", block["id"])
                if isinstance(block.get("arguments"), str) and "input" not in block:
                    block["input"] = parse_arguments(block["arguments"])
                open_calls.append(block)
            elif block.get("type") == "tool_result":
                _answer(block, open_calls)
                for inner in _blocks(block):
                    _inline(inner)
            elif block.get("type") == "thinking" and "text" not in block:
                block["text"] = "".join(part for part in block.get("summary", ()) if isinstance(part, str))
            _inline(block)
    return lifted


def _blocks(parent: Any) -> Iterator[dict[str, Any]]:
    content = parent.get("content") if isinstance(parent, dict) else None
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict):
            yield block


def _inline(block: dict[str, Any]) -> None:
    """A source of plain text is base64 in the standard request."""
    source = block.get("source")
    if isinstance(source, dict) and source.get("kind") == "text":
        block["source"] = {**source, "kind": "base64", "data": b64encode(str(source.get("data")).encode()).decode()}


def _answer(result: dict[str, Any], open_calls: list[dict[str, Any]]) -> None:
    ident, name = result.get("tool_use_id"), result.get("tool_name")
    for call in open_calls:
        if (call["id"] == ident) if ident is not None else (name is None or call.get("name") == name):
            result["tool_use_id"] = call["id"]
            result.setdefault("tool_name", call.get("name"))
            open_calls.remove(call)
            return
    if ident is None:
        result["tool_use_id"] = f"of_{name}"  # answers no call, and stays without one


def _unpaired(request: Request) -> Problem | None:
    """The first call without a result before the user speaks on, or the first result without a call."""
    waiting: list[str] = []
    elsewhere: set[str] = set()  # ids in blocks that only the wire knows: a result may answer one of those
    for message in request.messages:
        if message.role == "user" and waiting:
            break
        for block in message.blocks:
            if isinstance(block, ToolUseBlock):
                waiting.append(block.id)
            elif isinstance(block, OpaqueContent) and isinstance(block.data, dict):
                elsewhere.update(value for value in block.data.values() if isinstance(value, str))
            elif isinstance(block, ToolResultBlock):
                if block.tool_use_id in waiting:
                    waiting.remove(block.tool_use_id)
                elif block.tool_use_id not in elsewhere:
                    return Problem(f"no tool call for the result {block.tool_use_id}")
    return Problem(f"no result for the tool call {waiting[0]}") if waiting else None
