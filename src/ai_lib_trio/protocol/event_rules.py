"""An `event_map` of the specification becomes rules of the dialect language.

Imports `errors`, `paths`, `rules`, `where`. The rule that must stay true: what a rule of the specification would tell,
its translation tells once for every element it speaks of; what cannot be translated is a line in the notes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from ..errors import ManifestError
from .paths import WILD, is_path, parse_path
from .rules import parse_condition
from .where import Where

__all__ = ["Translated", "covered_paths", "is_covered", "relative_condition", "translate"]

Rule = dict[str, Any]
Steps = tuple[Any, ...]

# Fields of the specification's events that carry what a rule is for; the others number and name it.
_VALUES = {"content", "thinking", "tool_calls", "partial_json", "tool_call", "arguments", "tool_name", "usage", "error",
           "finish_reason", "stop_reason", "prompt_tokens", "completion_tokens", "tool_call_id"}  # fmt: skip
_PATH_TOKEN = re.compile(r"'[^']*'|\$[A-Za-z_]*(?:\.[\w-]+|\[[^\]]*\]|\.'[^']*')*")
_GENERATED = "_generate_uuid"  # ids that the wire lacks are generated for every dialect


class Translated(msgspec.Struct, frozen=True):
    """What an event map says. `reads` has one entry a source rule: its fact, and the paths its values come from."""

    rules: dict[str, Rule]
    error: Rule | None
    reads: dict[str, tuple[str, list[str]]]


class _Context(msgspec.Struct, frozen=True):
    where: Where
    notes: list[str]
    usage_names: Mapping[str, list[str]]
    fan_out: str | None  # the list of candidates, `$.choices`
    candidate: str | None  # below one of them, `.index`


def translate(
    event_map: list[Any],
    where: Where,
    *,
    usage_names: Mapping[str, list[str]],
    candidate_path: str | None,
    fan_out: bool,
    selector: str | None,
    notes: list[str],
    verbatim: bool = False,
) -> Translated:
    """The rules of an event map. `selector` is a condition that frames must meet (errors pass all the same).

    With `verbatim` a rule does not say what its values mean: it gives them as they are, in a block that is called like
    the event.
    """
    base, _, rest = (candidate_path or "").partition("[*]")
    context = _Context(where, notes, usage_names, base if rest and fan_out else None, rest if base else None)
    rules: dict[str, Rule] = {}
    reads: dict[str, tuple[str, list[str]]] = {}
    error: Rule | None = None
    listed = [(number, rule) for number, rule in enumerate(event_map) if isinstance(rule, dict)]
    emits = [str(rule.get("emit")) for _, rule in listed]
    whole_names = {
        _fields(rule).get("tool_name")
        for _, rule in listed
        if rule.get("emit") == "PartialToolCall" and "index" not in _fields(rule)
    }
    for number, rule in listed:
        emit, fields, at = str(rule.get("emit")), _fields(rule), where.at(number)
        if (
            not verbatim
            and emit == "ToolCallStarted"
            and fields.get("tool_name") in whole_names
            and "index" not in fields
        ):
            notes.append(_note(at, "the call is told whole by a later rule; this one would open it twice"))
            continue
        match = _condition(rule.get("match"), at.at("match"), context)
        if emit == "StreamError" and not verbatim:
            if error is None:
                error = {"match": match or "exists($.error)", "extract": _error_fields(fields)}
            continue
        if selector is not None:
            match = f"({selector}) && ({match})" if match else selector
        has_pieces = "PartialToolCall" in emits
        facts = [("", _as_written(emit, fields))] if verbatim else _facts(emit, fields, at, context, has_pieces)
        for suffix, made in facts:
            name = f"{number}_{emit}{suffix}"
            built = _looped(made, match, at, context)
            if built is not None:
                rules[name] = built
                reads[name] = (str(made["emit"]), [str(value) for value in made.pop("reads")])
    return Translated(rules, error, reads)


def _fields(rule: Mapping[str, Any]) -> dict[str, Any]:
    found = rule.get("extract") or rule.get("fields") or {}
    return dict(found) if isinstance(found, dict) else {}


def _note(where: Where, message: str) -> str:
    return where.error(message).message


def _condition(text: Any, where: Where, context: _Context) -> str | None:
    if not isinstance(text, str) or not text.strip():
        return None
    said = text.replace('"', "'")
    try:
        parse_condition(said, where)
    except ManifestError as error:
        context.notes.append(f"{error.message}; the rule holds for every frame that has its values")
        return None
    return said


def relative_condition(text: str, name: str, where: Where) -> str:
    """A filter over list elements (`type == 'x'`, `exists(a.b)`) as a condition over `$name`. Raises ManifestError."""

    def rooted(match: re.Match[str]) -> str:
        word = match.group(0)
        if word.startswith("'") or word in ("true", "false", "null", "in", "exists"):
            return word
        return f"${name}.{word}"

    said = re.sub(r"'[^']*'|\$?[A-Za-z_][\w.\[\]-]*", rooted, text.replace('"', "'"))
    parse_condition(said, where)
    return said


def _error_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    whole = fields.get("error") if is_path(fields.get("error")) else "$.error"
    parts: dict[str, Any] = {
        "code": {"$first": [f"{whole}.code", f"{whole}.type"]},
        "type": {"$first": [f"{whole}.type", "$.type"]},
        "message": {"$first": [f"{whole}.message", str(whole), "$.message"]},
        "error": whole,
    }
    for field in ("type", "code", "message"):
        if is_path(fields.get(field)):
            parts[field] = fields[field]
    return parts


def _as_written(emit: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A rule's values under the names that it gives them. Constants alone tell that it matched."""
    paths = [value for value in fields.values() if is_path(value)]
    data = fields if paths else {"type": emit, **fields}
    return {"emit": "OpaqueBlock", "extract": {"kind": emit, "data": data, "is_complete": True}, "reads": paths}


def _facts(
    emit: str, fields: dict[str, Any], where: Where, context: _Context, has_pieces: bool
) -> list[tuple[str, dict[str, Any]]]:
    """The facts of one rule: a suffix for its name, and `emit`, `extract`, `let`, `over`, `reads`."""
    kept = {key: value for key, value in fields.items() if value != _GENERATED and key != "id_strategy"}
    paths = [value for key, value in kept.items() if key in _VALUES and is_path(value)]

    def pick(*names: str) -> dict[str, Any]:
        return {name: kept[name] for name in names if name in kept}

    def usage() -> list[tuple[str, dict[str, Any]]]:
        whole = kept.get("usage")
        if is_path(whole):
            extract: dict[str, Any] = {
                field: {"$first": [f"$u.{name}" for name in names]} for field, names in context.usage_names.items()
            }
            return [("_usage", {"emit": "Usage", "let": {"u": whole}, "extract": extract, "reads": [whole]})]
        single = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens", "total_tokens": "total_tokens"}
        extract = {ours: kept[theirs] for theirs, ours in single.items() if is_path(kept.get(theirs))}
        return [("_usage", {"emit": "Usage", "extract": extract, "reads": list(extract.values())})] if extract else []

    def finish() -> list[tuple[str, dict[str, Any]]]:
        reason = kept.get("finish_reason", kept.get("stop_reason"))
        if is_path(reason):
            made = {"emit": "FinalCandidate", "extract": {"finish_reason": reason}, "reads": [reason]}
            if is_path(kept.get("candidate_index")):
                made["candidate"] = kept["candidate_index"]
            return [("", made)]
        if reason is not None:
            context.notes.append(_note(where, f"the literal reason {reason!r} marks the end and is no reason"))
        return [("", {"emit": "Complete", "extract": {}, "reads": []})] if emit == "StreamEnd" else []

    if emit == "PartialContentDelta":
        return [("", {"emit": emit, "extract": pick("content"), "reads": paths})]
    if emit == "ThinkingDelta":
        return [("", {"emit": emit, "extract": pick("thinking"), "reads": paths})]
    if emit in ("ToolCallStarted", "PartialToolCall"):
        return [("", _tool_call(emit, kept, paths, has_pieces))]
    if emit == "ToolCallEnded":
        return [("", {"emit": "BlockEnded", "extract": pick("index"), "reads": list(pick("index").values())})]
    if emit in ("Metadata", "UsageReport"):
        made = {"emit": "Metadata", "extract": pick("model", "response_id"), "reads": paths}
        return [*([("", made)] if made["extract"] else []), *usage(), *(finish() if "finish_reason" in kept or "stop_reason" in kept else [])]  # fmt: skip  # noqa: E501
    if emit in ("FinalCandidate", "StreamEnd"):
        return [*finish(), *usage()]
    context.notes.append(_note(where.at("emit"), f"the event {emit!r} is not known; the rule has no effect"))
    return []


def _tool_call(emit: str, kept: dict[str, Any], paths: list[Any], has_pieces: bool) -> dict[str, Any]:
    made: dict[str, Any] = {"emit": "ToolCall", "reads": paths}
    if is_path(kept.get("tool_calls")):
        made["over"] = kept["tool_calls"]
        made["extract"] = {
            "index": "$call.index",
            "tool_call_id": "$call.id",
            "tool_name": {"$first": ["$call.function.name", "$call.name"]},
            "arguments": {"$first": ["$call.function.arguments", "$call.arguments"]},
        }
    elif is_path(kept.get("partial_json")):
        made["extract"] = {"index": kept.get("index", "$.index"), "arguments": kept["partial_json"]}
    elif is_path(kept.get("tool_call")):
        whole = kept["tool_call"]
        made["extract"] = {
            "tool_call_id": f"{whole}.id",
            "tool_name": f"{whole}.name",
            "input": f"{whole}.args",
            "is_complete": True,
        }
    else:
        fields = ("index", "tool_call_id", "tool_name", "arguments")
        made["extract"] = {name: kept[name] for name in fields if name in kept}
        is_whole = "index" not in kept and "arguments" in kept and "tool_name" in kept
        if is_whole and (emit == "PartialToolCall" or not has_pieces):
            made["extract"]["is_complete"] = True
    return made


def _looped(made: dict[str, Any], match: str | None, where: Where, context: _Context) -> Rule | None:
    """The rule with its wildcards as nested `for_each`; a match over the same elements goes inside."""
    if context.fan_out is not None:
        # A frame of several candidates is one frame each, says the specification: `[0]` is the one at hand.
        start = context.fan_out + "[0]"
        made = _replaced(made, lambda text: text.replace(start, f"{context.fan_out}[*]"))
        match = match.replace(start, f"{context.fan_out}[*]") if match else None
    texts = _texts([made.get("extract"), made.get("let"), made.get("over"), made.get("candidate")])
    chain = max((text.split("[*]")[:-1] for text in texts if "[*]" in text), key=len, default=[])

    def rewrite(path: str) -> str:
        parts = path.split("[*]")
        depth = 0
        while depth < len(chain) and depth < len(parts) - 1 and parts[depth] == chain[depth]:
            depth += 1
        if depth == 0:
            return path
        return f"$e{depth - 1}" + "[*]".join(parts[depth:])

    inner: Rule = {}
    condition = _rewrite_condition(match, rewrite) if match else None
    if condition:
        inner["match"] = condition
    if made.get("let"):
        inner["let"] = {name: rewrite(path) for name, path in made["let"].items()}
    if made.get("over"):
        inner["for_each"] = {"call": rewrite(made["over"])}
    inner["emit"] = made["emit"]
    inner["extract"] = _replaced(made.get("extract") or {}, rewrite)
    if made.get("candidate") is not None:
        inner["candidate"] = rewrite(made["candidate"])
    left = [text for text in _texts([inner["extract"], inner.get("let"), inner.get("for_each")]) if "[*]" in text]
    if left:
        context.notes.append(_note(where, f"two lists in one rule, {left[0]} beside another; the rule has no effect"))
        return None
    for depth in reversed(range(len(chain))):
        path = chain[0] if depth == 0 else f"$e{depth - 1}{chain[depth]}"
        outer: Rule = {"for_each": {f"e{depth}": path}, "rules": {"each": inner}}
        if depth == 0 and context.candidate and chain[0] == (context.fan_out or chain[0]) and "candidate" not in inner:
            outer["candidate"] = f"$e0{context.candidate}"
        inner = outer
    try:
        for text in _texts(inner):
            parse_path(text, where)
    except ManifestError as error:
        context.notes.append(f"{error.message}; the rule has no effect")
        return None
    return inner


def _rewrite_condition(text: str, rewrite: Callable[[str], str]) -> str:
    return _PATH_TOKEN.sub(lambda m: m.group(0) if m.group(0).startswith("'") else rewrite(m.group(0)), text)


def _texts(value: Any) -> list[str]:
    """The paths in a value."""
    if isinstance(value, str):
        return [value] if is_path(value) else []
    if isinstance(value, Mapping):
        return [text for key, part in value.items() if key != "match" for text in _texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return []


def _replaced(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value) if is_path(value) else value
    if isinstance(value, Mapping):
        return {key: _replaced(part, change) for key, part in value.items()}
    if isinstance(value, list):
        return [_replaced(part, change) for part in value]
    return value


# ---- what a dialect reads already


def covered_paths(decode: Mapping[str, Any], where: Where, part: str = "stream") -> dict[str, set[Steps]]:
    """Fact -> the paths that a dialect's rules for streams (or for the `body`) read for it, from the root, indexes as
    `[*]`."""
    found: dict[str, set[Steps]] = {}
    define = decode.get("define") or {}

    def resolve(text: str, names: Mapping[str, list[Steps]]) -> list[Steps]:
        path = parse_path(text, where)
        steps = tuple("*" if step is WILD or isinstance(step, int) else step for step in path.steps)
        if path.position:
            return []
        return [(*base, *steps) for base in names.get(path.root, [])]

    def walk(rules: Any, names: Mapping[str, list[Steps]], depth: int) -> None:
        for rule in rules.values() if isinstance(rules, Mapping) and depth < 16 else ():
            if not isinstance(rule, Mapping):
                continue
            used = define.get(rule.get("use"))
            if isinstance(used, Mapping):
                both = {**used, **{key: value for key, value in rule.items() if key != "use"}}
                both["extract"] = {**(used.get("extract") or {}), **(rule.get("extract") or {})}
                walk({"used": both}, names, depth + 1)
                continue
            inner = dict(names)
            for name, value in (rule.get("let") or {}).items():
                inner[name] = [steps for text in _texts(value) for steps in resolve(text, inner)]
            for name, value in (rule.get("for_each") or {}).items():
                inner[name] = [(*steps, "*") for text in _texts(value) for steps in resolve(text, inner)]
            emit = rule.get("emit")
            if isinstance(emit, str):
                fact = _SAME.get(emit, emit)
                into = found.setdefault(fact, set())
                for text in _texts(rule.get("extract") or {}):
                    into.update(resolve(text, inner))
            walk(rule.get("rules"), inner, depth + 1)

    for section in ("rules", part):
        walk(decode.get(section), {"": [()]}, 0)
    return found


_SAME = {"ToolCallStarted": "ToolCall", "PartialToolCall": "ToolCall", "ToolCallEnded": "BlockEnded",
         "StreamEnd": "FinalCandidate"}  # fmt: skip


def is_covered(fact: str, paths: list[str], known: Mapping[str, set[Steps]], where: Where) -> bool:
    """Whether a dialect reads everything that a rule of this fact reads: the same path, one above it or one below."""
    for text in paths:
        path = parse_path(text, where)
        steps = tuple("*" if step is WILD or isinstance(step, int) else step for step in path.steps)
        for other in known.get(fact, ()):
            short = min(len(steps), len(other))
            if steps[:short] == other[:short]:
                break
        else:
            return False
    return True
