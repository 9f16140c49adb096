"""How the replies of a foreign file are read: what it adds to a dialect, or a whole `decode` section of its own.

Imports `errors`, `dialects`, `draft`, `event_rules`, `paths`, `rules`, `tree`, `where`. The rule that must stay true:
no rule of the file tells again what the dialect tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ManifestError
from .dialects import Dialect
from .draft import Draft, mapping_of
from .event_rules import covered_paths, is_covered, relative_condition, translate
from .paths import parse_path
from .rules import parse_condition
from .tree import kind_of
from .where import Where

__all__ = ["Replies"]


class Replies(Draft):
    """The part of promotion that makes `decode` sections."""

    def streaming(self) -> dict[str, Any]:
        return mapping_of(self.tree.get("streaming"))

    def translated(self, *, with_selector: bool) -> Any:
        streaming = self.streaming()
        candidate = mapping_of(streaming.get("candidate"))
        event_map = streaming.get("event_map")
        selector = streaming.get("frame_selector") if with_selector else None
        return translate(
            event_map if isinstance(event_map, list) else [],
            self.at("streaming", "event_map"),
            usage_names=self.known.words["usage"],
            candidate_path=candidate.get("candidate_id_path"),
            fan_out=candidate.get("fan_out") is True,
            selector=selector if isinstance(selector, str) and selector.strip() else None,
            notes=self.notes,
        )

    def finish_map(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for raw, reason in mapping_of(mapping_of(self.tree.get("termination")).get("mapping")).items():
            if raw == "null":
                continue  # no reason is no reason
            at = self.at("termination", "mapping", raw)
            standard = self.known.words["finish_reasons"].get(reason)
            if standard is None:
                self.note(at, f"expected a standard finish reason, got {kind_of(reason)}; read as 'other'")
                standard = "other"
            elif standard != reason:
                self.note(at, f"{reason!r} is no standard finish reason; read as {standard!r}")
            found[str(raw)] = standard
        return found

    def decode_known(self, dialect: Dialect, *, is_own: bool) -> dict[str, Any]:
        """What a file adds to a dialect that is used whole: little, where its rules speak of another format."""
        tree: dict[str, Any] = {}
        reasons = self.finish_map()
        own = (dialect.decode.get("finish") or {}).get("map") or {}
        added = {raw: reason for raw, reason in reasons.items() if own.get(raw) != reason}
        if added:
            tree["finish"] = {"map": added}
        if not is_own:
            return tree
        translated = self.translated(with_selector=False)
        known = covered_paths(dialect.decode, dialect.where)
        kept: dict[str, Any] = {}
        for name, rule in translated.rules.items():
            fact, paths = translated.reads[name]
            number = int(name.partition("_")[0])
            at = self.at("streaming", "event_map", number)
            if is_covered(fact, paths, known, at):
                self.note(at, f"covered by the dialect {dialect.id}")
            else:
                kept[f"event_map_{name}"] = rule
        if kept:
            tree["stream"] = kept
        body = self.uncovered_body(dialect)
        if body:
            tree["body"] = body
        return tree

    def decode_own(self, dialect: Dialect, adapter: str | None) -> dict[str, Any]:
        """A whole `decode` section of a file whose format no dialect knows."""
        streaming = self.streaming()
        decoder = mapping_of(streaming.get("decoder"))
        translated = self.translated(with_selector=True)
        rules = translated.rules
        if not rules:
            rules = self.path_rules()
        done = decoder.get("done_signal", "[DONE]")
        is_lines = decoder.get("delimiter") == "\n" and not decoder.get("prefix")
        form = "ndjson" if is_lines or decoder.get("format") == "ndjson" else "sse"
        framing: dict[str, Any] = {"format": form}
        ways = []
        if form == "sse" and self.is_raw_text():
            framing["data"] = "text"
        if isinstance(done, str) and done and form == "sse":
            framing["done"] = done
            ways.append("sentinel")
        facts = {rule_fact for rule_fact, _ in translated.reads.values()} | {
            rule.get("emit") for rule in rules.values()
        }
        body = self.body_rules()
        define: dict[str, Any] = {}
        if not body:
            body = {**(dialect.decode.get("rules") or {}), **(dialect.decode.get("body") or {})}
            define = _used_defines(body, dialect.decode.get("define") or {})
            self.note(self.where, f"nothing says how a whole reply is read; read as {dialect.id}")
        if "FinalCandidate" in facts:
            ways.append("finish")
        if "Complete" in facts:
            ways.append("mark")
        if not ways:
            ways.extend(self.stop_rule(rules))
        if not ways:
            ways.append("eof")
        elif not _emits(body, "FinalCandidate"):
            # A whole reply that could be read is complete; a stream without its evidence still is not.
            body["whole"] = {"emit": "Complete"}
            ways = list(dict.fromkeys([*ways, "mark"]))
        tree: dict[str, Any] = {
            "framing": framing,
            "complete_when": ways,
            "error": self.error_rule(dialect, translated.error),
            "stream": rules,
            "body": body,
        }
        if define:
            tree["define"] = define
        reasons = self.finish_map()
        if reasons:
            tree["finish"] = {"map": reasons}
        return tree

    def is_raw_text(self) -> bool:
        """Whether frames are text with an event's name, rather than JSON: rules read `$.event` and all of `$.data`."""
        listed = self.streaming().get("event_map")
        rules = [rule for rule in listed if isinstance(rule, dict)] if isinstance(listed, list) else []
        by_name = any(str(rule.get("match")).replace(" ", "").startswith("$.event==") for rule in rules)
        fields = [mapping_of(rule.get("extract") or rule.get("fields")) for rule in rules]
        return by_name and any("$.data" in each.values() for each in fields)

    def stop_rule(self, rules: dict[str, Any]) -> list[str]:
        """`stop_condition` as evidence of the end, where there is no better: what follows it still counts elsewhere."""
        stop = self.streaming().get("stop_condition")
        if not isinstance(stop, str) or not stop.strip():
            return []
        condition = stop.replace('"', "'")
        try:
            parse_condition(condition, self.at("streaming", "stop_condition"))
        except ManifestError as error:
            self.notes.append(f"{error.message}; it is no evidence of the end")
            return []
        rules["stop_condition"] = {"match": condition, "emit": "Complete"}
        return ["mark"]

    def error_rule(self, dialect: Dialect, told: dict[str, Any] | None) -> dict[str, Any]:
        mapping = mapping_of(self.tree.get("features")).get("response_mapping")
        paths = mapping_of(mapping_of(mapping).get("error"))
        usual: dict[str, Any] = dict(dialect.decode.get("error") or {})
        rule = dict(told) if told is not None else usual
        extract = dict(rule.get("extract") or {})
        fields = {"message": "message_path", "code": "code_path", "type": "type_path", "status": "status_path"}
        for field, key in fields.items():
            path = paths.get(key)
            if isinstance(path, str) and path:
                extract[field] = {"$first": [_rooted(path), *_alternatives(extract.get(field))]}
        return {**rule, "extract": extract}

    def path_rules(self) -> dict[str, Any]:
        """Rules of `content_path` and its like, for a file without an event map."""
        streaming = self.streaming()
        rules: dict[str, Any] = {}
        content, usage = streaming.get("content_path"), streaming.get("usage_path")
        if isinstance(content, str) and content:
            rules["content"] = {"emit": "PartialContentDelta", "extract": {"content": _rooted(content)}}
        if isinstance(usage, str) and usage:
            rules["usage"] = self.usage_rule(usage)
        return rules

    def usage_rule(self, path: str) -> dict[str, Any]:
        names: Mapping[str, list[str]] = self.known.words["usage"]
        extract = {field: {"$first": [f"$u.{name}" for name in listed]} for field, listed in names.items()}
        return {"let": {"u": _rooted(path)}, "emit": "Usage", "extract": extract}

    def uncovered_body(self, dialect: Dialect) -> dict[str, Any]:
        """Rules for a whole reply by the `response_paths` that the dialect does not read."""
        known = covered_paths(dialect.decode, dialect.where, "body")
        at = self.at("response_paths")
        kept: dict[str, Any] = {}
        for name, rule in self.body_rules().items():
            reads = [value for part in ("let", "for_each") for value in (rule.get(part) or {}).values()]
            reads = reads or [text for value in rule["extract"].values() for text in _paths(value)]
            if name != "about" and not is_covered(rule["emit"], reads, known, at):
                kept[f"response_paths_{name}"] = rule
                self.note(at, f"{name} is read at {reads[0]} too, as the file says")
        return kept

    def body_rules(self) -> dict[str, Any]:
        paths = self.mapping("response_paths")
        rules: dict[str, Any] = {}

        def path(*names: str) -> str | None:
            for name in names:
                value = paths.get(name)
                if isinstance(value, str) and value and "," not in value:
                    return _rooted(value)
            return None

        about = {field: found for field, found in (("model", path("model")), ("response_id", path("id"))) if found}
        if about:
            rules["about"] = {"emit": "Metadata", "extract": about}
        contents = [found for found in (path("content"), path("generated_text")) if found]
        if contents:
            content = contents[0] if len(contents) == 1 else {"$first": contents}
            rules["content"] = {"emit": "PartialContentDelta", "extract": {"content": content}}
        calls = self.call_rule(path("tool_calls"), path("function_call"))
        if calls:
            rules["calls"] = calls
        reason = path("finish_reason", "stop_reason")
        if reason:
            rules["finish"] = {"emit": "FinalCandidate", "extract": {"finish_reason": reason}}
        usage = path("usage")
        if usage:
            rules["usage"] = self.usage_rule(usage)
        return rules

    def call_rule(self, calls: str | None, single: str | None) -> dict[str, Any] | None:
        mapping = mapping_of(self.tree.get("features")).get("response_mapping")
        said = mapping_of(mapping_of(mapping).get("tool_calls"))
        use = mapping_of(mapping_of(self.tree.get("tooling")).get("tool_use"))
        fields = mapping_of(said.get("fields"))
        over = _rooted(said["path"]) if isinstance(said.get("path"), str) else calls
        if over is None and single is None:
            return None
        base = "$call" if over is not None else str(single)

        def below(*names: Any) -> str | None:
            for name in names:
                if isinstance(name, str) and name and not name.startswith("_"):
                    return f"{base}.{name}"
            return None

        extract: dict[str, Any] = {
            "tool_call_id": below(fields.get("id"), use.get("id_path")),
            "tool_name": below(fields.get("name"), use.get("name_path"), "function.name"),
            "input": below(
                fields.get("args"), fields.get("arguments"), use.get("input_path"), use.get("arguments_path"),
                "function.arguments",
            ),
            "is_complete": True,
        }  # fmt: skip
        rule: dict[str, Any] = {
            "emit": "ToolCall",
            "extract": {name: value for name, value in extract.items() if value is not None},
        }
        if over is not None:
            rule["for_each"] = {"call": over}
            condition = said.get("filter")
            if isinstance(condition, str) and condition.strip():
                rule["match"] = relative_condition(condition, "call", self.at("features", "response_mapping"))
        return rule

    def tells_replies(self) -> bool:
        streaming = self.streaming()
        return bool(streaming.get("event_map") or streaming.get("content_path") or self.tree.get("response_paths"))


def _used_defines(tree: Any, define: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions that some rule of a tree uses, and those that they use."""
    found: dict[str, Any] = {}
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Mapping):
            name = part.get("use")
            if isinstance(name, str) and name in define and name not in found:
                found[name] = define[name]
                waiting.append(define[name])
            waiting.extend(part.values())
    return found


def _emits(tree: Any, fact: str) -> bool:
    if not isinstance(tree, Mapping):
        return False
    return tree.get("emit") == fact or any(_emits(part, fact) for part in tree.values())


def _paths(value: Any) -> list[str]:
    return [text for text in _alternatives(value) if isinstance(text, str) and text.startswith("$")]


def _rooted(path: str) -> str:
    rooted = path if path.startswith("$") else f"$.{path}"
    parse_path(rooted, Where())
    return rooted


def _alternatives(value: Any) -> list[Any]:
    if isinstance(value, Mapping) and "$first" in value:
        return list(value["$first"])
    return [] if value is None else [value]
