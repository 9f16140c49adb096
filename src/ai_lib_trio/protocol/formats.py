"""The chat operations of a foreign file become API families: which dialect each speaks, and what the file changes.

Imports `dialects`, `draft`, `replies`. The rule that must stay true: a format is known by the names that files give
it, else by its path, and never by a provider's id.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from .dialects import Dialect, set_below
from .draft import RENAMED, is_chat, mapping_of
from .replies import Replies

__all__ = ["Formats"]


class Formats(Replies):
    """The part of promotion that makes API families."""

    def families(self) -> None:
        self.seen.update(("api_families", "endpoints", "payload_format", "streaming", "parameter_mappings"))
        self.seen.update(("termination", "tooling", "features", "response_paths", "api_style"))
        operations = self.operations()
        family_names: list[str] = []
        for name, path, adapter in self.chats(operations):
            dialect = self.dialect(adapter, path)
            known = dialect is not None
            if dialect is None:
                dialect = self.known.dialect_of(self.known.words["default_dialect"])
                if dialect is None:
                    raise self.where.error("expected the default dialect of spec.yaml, found none")
            if not known and not self.tells_replies():
                self.note(self.where, f"nothing says how replies are read; read as {dialect.id}")
                known = True
            family = dialect.id if known else name
            if family in self.out.get("api_families", {}):
                self.note(self.at("endpoints", name), f"another path of {family}; it has no effect")
                continue
            tree: dict[str, Any] = {"dialect": dialect.id}
            stream_path = operations.get("stream_chat", (None, None))[0]
            is_own = not known or self.is_own(dialect)
            encode = self.encode(dialect, path, stream_path, known=known, is_own=is_own)
            decode = self.decode_known(dialect, is_own=is_own) if known else self.decode_own(dialect, adapter)
            if encode:
                tree["encode"] = encode
            if decode:
                tree["decode"] = decode
            if not known:
                tree["whole"] = ["decode"]
            self.put(("api_families", family), tree, None)
            # The streaming block is where most of a family comes from; a fault in it is looked for there.
            place = (self.at("streaming") if self.tree.get("streaming") else self.where).position()
            if place is not None:
                self.positions["api_families", family] = place
            family_names.append(family)
        if not family_names:
            self.put(("api_families",), {}, None)
            self.note(self.where, "no chat operation: there is nothing to call but services")
            return
        self.put(("default_api_family",), family_names[0], None)

    def is_own(self, dialect: Dialect) -> bool:
        """Whether the file's mappings and rules speak of this format: a file has one set, and may name several."""
        said = self.payload_format()
        if not isinstance(said, str):
            return True
        meant = self.known.dialect_of(said)
        return meant is not None and meant.id == dialect.id

    def payload_format(self) -> Any:
        return self.tree.get("payload_format") or mapping_of(self.tree.get("auth")).get("payload_format")

    def operations(self) -> dict[str, tuple[str | None, str | None]]:
        """Operation -> path and adapter, of `endpoints`, then `endpoint`; the others are kept as they are."""
        found: dict[str, tuple[str | None, str | None]] = {}
        endpoint = self.tree.get("endpoint") or {}
        inner = endpoint.get("endpoints") if isinstance(endpoint, dict) else None
        for listing, base in ((self.tree.get("endpoints"), ("endpoints",)), (inner, ("endpoint", "endpoints"))):
            for name, entry in listing.items() if isinstance(listing, dict) else ():
                at = self.at(*base, name)
                if isinstance(entry, str):
                    entry = {"path": entry}
                if not isinstance(entry, dict) or not isinstance(entry.get("path"), str):
                    self.note(at, "expected a path; the operation has no effect")
                    continue
                adapter = entry.get("adapter")
                found[str(name)] = (entry["path"], adapter if isinstance(adapter, str) else None)
                if not is_chat(str(name)):
                    self.put(("operations", str(name)), entry, at)
        flat = ("chat", "embeddings", "images", "stt", "tts", "rerank", "completions")
        for name in flat:
            path = endpoint.get(name) if isinstance(endpoint, dict) else None
            if isinstance(path, str) and name not in found:
                found[name] = (path, None)
                if not is_chat(name):
                    self.put(("operations", name), {"path": path}, self.at("endpoint", name))
        return found

    def chats(
        self, operations: Mapping[str, tuple[str | None, str | None]]
    ) -> list[tuple[str, str | None, str | None]]:
        """The chat operations, the one called `chat` first."""
        listed = [(name, *entry) for name, entry in operations.items() if is_chat(name)]
        listed.sort(key=lambda one: one[0] != "chat")
        if listed or self.is_no_chat(operations):
            return listed
        return [("chat", None, None)]

    def is_no_chat(self, operations: Mapping[str, Any]) -> bool:
        """A file with operations of which none is a chat, or that says it cannot chat, has no API family."""
        return any(not is_chat(name) for name in operations) and not self.tree.get("payload_format")

    def dialect(self, adapter: str | None, path: str | None) -> Dialect | None:
        """The dialect that a file means, by the names it gives, else by the path. None for one that is not known."""
        decoder = mapping_of(self.streaming().get("decoder"))
        nested = mapping_of(self.tree.get("auth")).get("payload_format")
        if nested and not self.tree.get("payload_format"):
            self.note(self.at("auth", "payload_format"), "payload_format stands inside auth; read as if beside it")
        chat = mapping_of(mapping_of(self.tree.get("api_families")).get("chat"))
        said = [
            adapter,
            self.tree.get("payload_format") or nested,
            decoder.get("strategy"),
            self.tree.get("api_style"),
            chat.get("request_format"),
        ]
        names = [name for name in said if isinstance(name, str) and name]
        for name in names:
            found = self.known.dialect_of(name)
            if found is not None:
                return found
        if path is not None and not names:
            for dialect in self.known.dialects():
                if any(path.endswith(own) for own in _strings(dialect.encode.get("path"))):
                    return dialect
        if not names:
            return self.known.dialect_of(self.known.words["default_dialect"])
        self.note(self.where, f"the format {names[0]!r} is not known: replies are read by this file's own rules")
        return None

    def encode(
        self, dialect: Dialect, path: str | None, stream_path: str | None, *, known: bool, is_own: bool
    ) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        own = _strings(dialect.encode.get("path"))
        if path is not None and path not in own:
            plain, _, query = path.partition("?")
            plain = re.sub(r"\{owner\}/\{model\}", "{+model}", plain).replace("{model_id}", "{model}")
            if stream_path is not None:
                streamed = stream_path.partition("?")[0].replace("{model_id}", "{model}")
                tree["path"] = {"$if": "$.stream == true", "then": streamed, "else": plain}
            else:
                tree["path"] = plain
            if query:
                tree["query"] = dict(parse_qsl(query))
        renames = self.renames(dialect, is_own=is_own)
        if renames:
            tree["parameters"] = renames
        if not known:
            tree |= self.structures()
        return tree

    def structures(self) -> dict[str, Any]:
        """What an unknown format calls the parts that have a structure of their own."""
        mappings = self.mapping("parameter_mappings")
        body: dict[str, Any] = {"stream_options": None}  # which formats of other kinds do not know
        system, tools, prompt = (mappings.get(name) for name in ("system_message", "tools", "prompt"))
        if isinstance(system, str) and system:
            set_below(body, system.split("."), "$.system.text")
            body["messages"] = {"$each": "$.turns"}
        if isinstance(prompt, str) and prompt:  # a format without turns: what was said, in its order
            said = "$.turns" if isinstance(system, str) and system else "$.messages"
            set_below(body, prompt.split("."), {"$join": {"$each": said, "as": "m", "do": "$m.text"}, "by": "\n\n"})
            body["messages"] = None
        if isinstance(tools, str) and tools and tools != "tools":
            fields = {"name": "$t.name", "description": "$t.description", "parameters": "$t.parameters"}
            body |= {"tools": None, tools: {"$each": "$.tools", "as": "t", "do": fields}}
        return {"body": body}

    def renames(self, dialect: Dialect, *, is_own: bool) -> dict[str, Any]:
        # What the specification means by a format may differ from ours in a name or two.
        mapped: dict[str, str] = dict(self.known.words["renames"].get(dialect.id, {}))
        mappings = self.mapping("parameter_mappings") if is_own else {}
        for name, wire in mappings.items():
            if name in RENAMED and isinstance(wire, str):
                mapped[name] = wire
        listed = self.tree.get("parameters") if is_own else None
        for name, entry in listed.items() if isinstance(listed, dict) else ():
            alias = entry.get("alias") if isinstance(entry, dict) else None
            if name in RENAMED and isinstance(alias, str):
                mapped[name] = alias
        own = dialect.encode.get("parameters") or {}
        body = dialect.encode.get("body") or {}
        out: dict[str, Any] = {}
        for name, wire in mapped.items():
            ours = own.get(name)
            if ours == wire or (ours is None and wire in body):
                continue
            if isinstance(ours, str) and "." in ours and ours.rsplit(".", 1)[1] == wire:
                at = self.at("parameter_mappings", name)
                self.note(at, f"{wire!r} belongs at {ours!r} in this format; it is sent there")
                continue
            out[name] = wire
        return out


def _strings(value: Any) -> list[str]:
    """The texts in a path template: one, or the branches of a choice."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [
            text for key, part in value.items() if key in ("then", "else", "of", "$first") for text in _strings(part)
        ]
    return []
