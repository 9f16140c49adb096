"""Files of a suite become cases, and the paths in them become manifests.

Imports `errors`, `protocol`. The rules that must stay true: a case is known by its file and its id, as ids repeat; a
path that leads out of the suite means the given tree or the bundled set, never a place on this machine.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CallerError, ManifestError
from ..protocol.loader import Catalog
from ..protocol.manifest import Manifest
from ..protocol.sources import bundled_tree
from ..protocol.where import Document
from ..protocol.yaml_source import read_yaml, read_yaml_documents

__all__ = ["Bench", "Case", "Malformed", "read_suite"]

LIST = "upstream-contradictions.yaml"  # beside the cases, and none of them
_EXCHANGE = ("provider", "asked", "request", "reply", "expected")  # what a case of a provider has


class Case(NamedTuple):
    """One case. `file` is relative to the suite's folder, with slashes."""

    file: str
    id: str
    name: str
    suite: str
    kind: str
    input: dict[str, Any]
    expected: dict[str, Any]
    setup: dict[str, Any]

    @property
    def key(self) -> str:
        return f"{self.file}#{self.id}"


class Malformed(NamedTuple):
    """A document that is meant as a case and is none, or a file that cannot be read."""

    file: str
    id: str
    why: str


def read_suite(folder: Path) -> list[Case | Malformed]:
    """The cases of a suite's folder, in the order of its files. Documents without an id are none, unless they ask.

    Where the cases are in `cases`, those of providers are in `providers` beside it.
    """
    parts = [folder / "cases", folder / "providers"] if (folder / "cases").is_dir() else [folder]
    found: list[Case | Malformed] = []
    keys: set[str] = set()
    for path in sorted(path for part in parts for path in part.rglob("*.yaml")):
        file = path.relative_to(folder).as_posix()
        if path.name == LIST or "fixtures" in path.relative_to(folder).parts:
            continue
        try:
            documents = read_yaml_documents(path.read_bytes(), file)
        except ManifestError as error:
            found.append(Malformed(file, "", error.message))
            continue
        for document in documents:
            case = _case(document, file)
            if isinstance(case, Case) and case.key in keys:
                case = Malformed(file, case.id, "another case of this file has the same id")
            if case is not None:
                keys.add(f"{file}#{case.id}")
                found.append(case)
    return found


def _case(document: Document, file: str) -> Case | Malformed | None:
    data = document.data
    if isinstance(data, dict) and data.keys() & {"asked", "evidence"}:
        return _exchange(data, file)
    if not isinstance(data, dict) or not ({"id", "input", "expected"} & data.keys()):
        return None
    ident = data.get("id")
    if not isinstance(ident, str) or not ident:
        return Malformed(file, "", "expected an id")
    for key, kind in (("suite", str), ("name", str), ("input", dict), ("expected", dict)):
        if not isinstance(data.get(key), kind):
            return Malformed(file, ident, f"expected {key!r}")
    setup = data.get("setup") or {}
    kind = data["input"].get("type")
    if not isinstance(setup, dict) or not isinstance(kind, str):
        return Malformed(file, ident, "expected a mapping in 'setup' and a text in 'input.type'")
    unknown = data.keys() - {"suite", "name", "id", "description", "tags", "setup", "input", "expected"}
    if unknown:
        return Malformed(file, ident, f"unknown key {sorted(unknown)[0]!r}")
    rest = {key: value for key, value in data["input"].items() if key != "type"}
    return Case(file, ident, data["name"], data["suite"], kind, rest, data["expected"], setup)


def _exchange(data: dict[str, Any], file: str) -> Case | Malformed | None:
    """A case of a provider. One that rests on a recording, which is not in it, is none: there is no reply to read."""
    ident = data.get("provider")
    if not isinstance(ident, str) or not ident:
        return Malformed(file, "", "expected a provider")
    unknown = data.keys() - {*_EXCHANGE, "family", "evidence", "source", "differs", "recording"}
    if unknown:
        return Malformed(file, ident, f"unknown key {sorted(unknown)[0]!r}")
    if "recording" in data:
        return None
    for key in _EXCHANGE[1:]:
        if not isinstance(data.get(key), dict):
            return Malformed(file, ident, f"expected a mapping in {key!r}")
    for key in ("url", "body"):
        if key not in data["request"]:
            return Malformed(file, ident, f"expected {key!r} in 'request'")
    if "body" not in data["reply"]:
        return Malformed(file, ident, "expected 'body' in 'reply'")
    silent = {"thinking": "", "calls": [], "citations": [], "usage": {"input": None, "output": None}}
    expected = {"request": data["request"], **silent, **data["expected"]}
    given = {"family": data.get("family"), "asked": data["asked"], "reply": data["reply"]}
    given["differs"] = data.get("differs")
    name = f"a request and a reply, {data.get('evidence', 'of which nothing is said what they rest on')}"
    return Case(file, ident, name, "providers", "provider_exchange", given, expected, {"provider": ident})


class Bench:
    """Where cases run: the suite's folder, and the tree that paths out of it mean."""

    def __init__(self, folder: Path, tree: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.tree = tree
        self.catalog = Catalog.open(tree, environ={})  # what lies outside of the suite, and dialects
        self._files: dict[Path, Manifest | ManifestError] = {}

    # ---- manifests

    def manifest(self, case: Case, *, changes: Mapping[str, Any] | None = None) -> Manifest:
        """The manifest that a case is set up with: its file, else the provider that it names.

        `changes` are merged over the file's own mappings, as if it said so. Raises `AiLibError`.
        """
        path = case.input.get("manifest_path") or case.setup.get("manifest_path")
        if case.input.get("manifest") is not None:
            return self.of_text(case.input["manifest"], changes)
        if path is None:
            return self._named(str(case.setup.get("provider") or case.input.get("provider")), changes)
        file = self.inside(case, path)
        if file is None:
            outside = self.given(path)
            return self.catalog.provider(Path(path).stem) if outside is None else self.of_file(outside)
        if changes:
            return self.of_text(read_yaml(file.read_bytes(), file.name).data, changes)
        return self.of_file(file)

    def _named(self, provider: str, changes: Mapping[str, Any] | None) -> Manifest:
        manifest = self.catalog.provider(provider)
        if not changes:
            return manifest
        if "streaming" in changes:  # the specification's way to say it, which our own files do not have
            raise CallerError("decoder_config changes a manifest that the case brings along", kind="bad_argument")
        document = bundled_tree().read("providers", manifest.id)
        return self.of_text(document.data, changes)

    def of_file(self, file: Path) -> Manifest:
        """The manifest in one file."""
        found = self._files.get(file)
        if found is None:
            try:
                catalog = Catalog.open(file, environ={})
                found = catalog.provider(*catalog.providers("given"))
            except ManifestError as error:
                found = error
            self._files[file] = found
        if isinstance(found, ManifestError):
            raise found
        return found

    def of_text(self, text: Any, changes: Mapping[str, Any] | None = None) -> Manifest:
        """The manifest that a text or a mapping is."""
        data = read_yaml(text, "the case").data if isinstance(text, str) else text
        if changes:
            data = _merged(data, changes)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "case.json"
            file.write_text(json.dumps(data), encoding="utf-8")
            catalog = Catalog.open(file, environ={})
            return catalog.provider(*catalog.providers("given"))

    # ---- paths

    def inside(self, case: Case, path: str) -> Path | None:
        """The file of the suite that a path means: from the case's own folder, then from the suite's."""
        for base in (self.folder / Path(case.file).parent, self.folder):
            file = Path(os.path.normpath(base / path))
            if file.is_relative_to(self.folder) and file.is_file():
                return file
        if ".." not in Path(path).parts:
            raise ManifestError("no such file in the suite", file=path)
        return None

    def given(self, path: str) -> Path | None:
        """The file of the given tree that a path out of the suite means."""
        parts = [part for part in Path(path).parts if part != ".."]
        if self.tree is None:
            return None
        for start in range(len(parts)):
            file = self.tree.joinpath(*parts[start:])
            if file.is_file():
                return file
        return None

    def contract(self, case: Case, path: str) -> Document:
        """A provider contract, by a path from the root of the specification's repository."""
        file = self.given(path)
        name = Path(path).name
        if file is not None:
            return read_yaml(file.read_bytes(), str(file))
        root = next(folder for kind, folder in bundled_tree().folders if kind == "root")
        bundled = root.joinpath("contracts", name)
        if not bundled.is_file():
            raise ManifestError("no such contract in the given tree or the bundled set", file=path)
        return read_yaml(bundled.read_bytes(), f"contracts/{name}")


def _merged(under: Any, over: Any) -> Any:
    if isinstance(under, Mapping) and isinstance(over, Mapping):
        return {**under, **{key: _merged(under.get(key), value) for key, value in over.items()}}
    return over
