"""`ailib manifests`: show what a manifest comes to, and check manifests strictly before anything relies on them.

Imports click, the catalogue and the compilers. The rule that must stay true: what `validate` accepts, a client can
compile; it runs the same compilers that a call runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from ..errors import AiLibError, CallerError
from ..protocol.loader import Catalog
from ..protocol.manifest import Family, Manifest, manifest_tree
from .options import JSON, MANIFESTS
from .screen import Printer, as_json, one_line

__all__ = ["manifests"]


@click.group(short_help="Show, check, build and convert manifests.")
def manifests() -> None:
    """Look at manifests: the files that say what a provider is and how its wire is written."""


@manifests.command(short_help="What a provider's manifest comes to.")
@click.argument("provider_or_file")
@MANIFESTS
@JSON
def show(provider_or_file: str, manifests: str | None, as_document: bool) -> None:
    """What a provider's manifest comes to: hosts, keys, APIs, limits, errors. --json has all of it, dialects merged."""
    catalog, manifest = _find(provider_or_file, manifests)
    if as_document:
        sys.stdout.write(as_json(manifest_tree(manifest)) + "\n")
        return
    from ..transport.credentials import search_for

    out = Printer(sys.stdout)
    out.line(f"{manifest.name} ({manifest.id})", "title")
    search = search_for(manifest)
    families = [
        f"{name}: {family.dialect}{', the default' if name == manifest.default_family else ''}"
        for name, family in manifest.families.items()
    ]
    facts: list[tuple[str, list[str]]] = [
        ("file", [f"{manifest.file}, {manifest.origin}, protocol {manifest.protocol_version}, {manifest.status}"]),
        ("aliases", [", ".join(manifest.aliases)] if manifest.aliases else []),
        ("base URL", [manifest.endpoint.base_url]),
        ("variables", [f"{name} from {source}" for name, source in manifest.endpoint.variables.items()]),
        ("key", [_key(manifest), *search.diagnostics]),
        ("APIs", families),
        ("connecting", [f"at most {manifest.endpoint.timeout_ms / 1000:g} s"]),
        ("limits", _limits(manifest)),
        ("retries", _retries(manifest)),
        ("can do", [", ".join(sorted(manifest.capabilities.declared))]),
        ("cannot do", [", ".join(sorted(manifest.capabilities.absent))] if manifest.capabilities.absent else []),
        ("models", [f"{len(catalog.models(manifest.id))} registered"]),
        ("notes", list(manifest.notes)),
    ]
    for name, values in facts:
        for number, value in enumerate(values):
            out.line(f"  {name if number == 0 else '':<11} {value}", hang=14)


@manifests.command(short_help="Read manifests strictly and compile everything.")
@click.argument("names", nargs=-1, metavar="[PROVIDER_OR_PATH]...")
@MANIFESTS
@JSON
def validate(names: tuple[str, ...], manifests: str | None, as_document: bool) -> int:
    """Read manifests strictly, check them by our schemas, and compile everything in them.

    Takes providers, files and directories; without any, the bundled set. Unknown keys are errors here. Each fault
    names file, line and path. Exit 1 if there is one, or nothing to check.
    """
    report = _Report()
    for name in names:
        if _is_path(name) or Path(name).is_dir():
            report.add_path(name)
        else:
            report.add_provider(name, manifests)
    if not names:
        report.add_path(manifests)
    if not report.passed and not report.faults:
        raise CallerError(f"no manifest is in {', '.join(names) or manifests}", kind="bad_argument")
    if as_document:
        sys.stdout.write(as_json({"ok": not report.faults, **report.plain()}) + "\n")
    else:
        out = Printer(sys.stdout)
        for line in report.passed:
            out.write("ok   ", "good")
            out.write(f"{line['name']}: {line['checked']}\n")
        for fault in report.faults:
            sys.stderr.write(one_line(fault) + "\n")
    return 1 if report.faults else 0


@manifests.command(short_help="Write dist/: what loading a folder comes to.")
@click.argument("folder", required=False)
@click.option("--out", metavar="FOLDER", help="Where to write; `dist` beside the sources if not given.")
@JSON
def build(folder: str | None, out: str | None, as_document: bool) -> int:
    """Write dist/: JSON of what loading a folder of manifests comes to, and an index; without FOLDER, the bundled set.

    It is read in preference while the sources are what they were. The same sources give the same bytes. Exit 1, and
    nothing is written, where a manifest has a fault.
    """
    from ..protocol.build import is_ours_to_write, write_dist

    catalog = Catalog.open(folder, environ={}, strict=True)
    tree = catalog.trees[0]
    target = Path(out) if out is not None else tree.dist
    if not isinstance(target, Path) or (out is None and tree.is_trusted):
        raise CallerError(f"{folder or 'the bundled set'} has no place for a dist; say --out", kind="bad_argument")
    if not is_ours_to_write(target):
        raise CallerError(f"{target} holds JSON that is not ours to replace; say another --out", kind="bad_argument")
    faults = catalog.check()
    for fault in faults:
        sys.stderr.write(one_line(fault) + "\n")
    if faults:
        return 1
    files = catalog.build(0)
    changed = write_dist(target, files)
    if as_document:
        sys.stdout.write(as_json({"folder": str(target), "files": len(files), "changed": changed}) + "\n")
    else:
        sys.stdout.write(f"{target}: {len(files)} files, {len(changed)} changed\n")
    return 0


@manifests.command(short_help="Turn a manifest of version 1 into one of 2.")
@click.argument("file")
@click.option("--out", metavar="FILE", help="Where to write; standard output if not given.")
def convert(file: str, out: str | None) -> None:
    """Turn a manifest of the specification's version 1 into one of version 2 that means the same.

    What has no words in version 2 is a comment in the new file.
    """
    catalog = Catalog.open(file, environ={})
    text = catalog.convert(_ident(file, catalog))
    if out is None:
        sys.stdout.write(text)
    else:
        Path(out).write_text(text, encoding="utf-8")


class _Report:
    """What passed, and every fault, once."""

    def __init__(self) -> None:
        self.passed: list[dict[str, str]] = []
        self.faults: list[AiLibError] = []

    def add_provider(self, name: str, manifests: str | None) -> None:
        try:
            catalog = Catalog.open(manifests, strict=True)
            self._compile(catalog, catalog.provider(name))
        except AiLibError as error:
            self._fault(error)

    def add_path(self, path: str | None) -> None:
        """Every file of a path, or of the bundled set."""
        try:
            catalog = Catalog.open(path, environ={}, strict=True)
            for fault in catalog.check():
                self._fault(fault)
            names = catalog.providers("bundled" if path is None else "given")
        except AiLibError as error:
            self._fault(error)
            return
        faulty = {getattr(fault, "file", None) for fault in self.faults}
        for name in names:
            try:
                manifest = catalog.provider(name)
                if manifest.file not in faulty:
                    self._compile(catalog, manifest)
            except AiLibError as error:
                self._fault(error)
        models = sum(len(catalog.models(name)) for name in names if not self.faults)
        if models:
            self.passed.append({"name": "models", "checked": f"{models} read"})

    def _compile(self, catalog: Catalog, manifest: Manifest) -> None:
        from ..simulator.directory import directory_of

        for family in manifest.families.values():
            _compile(family)
        directory_of(catalog).compile(manifest.id)
        count = len(manifest.families)
        names = f" ({', '.join(manifest.families)})" if count else ""
        checked = f"{count} API{'' if count == 1 else 's'} compiled{names}"
        self.passed.append({"name": manifest.id, "checked": checked})

    def _fault(self, error: AiLibError) -> None:
        if str(error) in map(str, self.faults):  # a broken file is met again where it is used
            return
        place = _place(error)
        same = next((kept for kept in self.faults if place is not None and _place(kept) == place), None)
        if same is None:
            self.faults.append(error)
        elif "that matches ^" in same.message:  # two checks refuse one thing, and the other one has words for it
            self.faults[self.faults.index(same)] = error

    def plain(self) -> dict[str, Any]:
        faults = [
            {
                "message": error.message,
                "code": error.code,
                "kind": error.kind,
                "file": getattr(error, "file", None),
                "line": getattr(error, "line", None),
                "path": getattr(error, "path", None),
            }
            for error in self.faults
        ]
        return {"passed": self.passed, "faults": faults}


def _place(error: AiLibError) -> tuple[Any, ...] | None:
    """Where in a file an error is, if it says so down to the path."""
    place = tuple(getattr(error, name, None) for name in ("file", "line", "path"))
    return place if all(place) else None


def _find(name: str, manifests: str | None) -> tuple[Catalog, Manifest]:
    """A provider by id or alias, or the one of a file. What looks like a path is one."""
    if not _is_path(name):
        catalog = Catalog.open(manifests)
        if catalog.has_provider(name) or not Path(name).exists():
            return catalog, catalog.provider(name)
    catalog = Catalog.open(name, environ={})
    return catalog, catalog.provider(_ident(name, catalog))


def _ident(file: str, catalog: Catalog) -> str:
    """The id of the provider in a file, or the file's stem where it has none that is text."""
    tree = catalog.trees[0]
    if tree.single is None:
        raise CallerError(f"{file} is a directory; name a manifest in it", kind="bad_argument")
    head = tree.read_file(tree.single).data
    ident = head.get("id") if isinstance(head, dict) else None
    return ident if isinstance(ident, str) else str(tree.single.stem)


def _is_path(name: str) -> bool:
    return "/" in name or "\\" in name or name.endswith((".yaml", ".yml"))


def _compile(family: Family) -> None:
    from ..pipeline import compile_decoder
    from ..wire.encode import compile_encoder

    compile_encoder(family.encode, family.where.at("encode"), dialect=family.dialect)
    compile_decoder(family.decode, family.where.at("decode"))


def _key(manifest: Manifest) -> str:
    from ..transport.credentials import search_for

    auth = manifest.auth
    if auth.type == "none":
        return "needs none"
    search = search_for(manifest)
    place = f"parameter {auth.param_name}" if auth.type == "query" else f"header {auth.header}"
    return f"from {search.describe(keyring=True)}; sent as {place}"


def _limits(manifest: Manifest) -> list[str]:
    import msgspec

    headers = [name for name in msgspec.structs.astuple(manifest.rate_limits.headers) if name]
    return [f"per {manifest.rate_limits.scope}" + (f", told by {', '.join(headers)}" if headers else "")]


def _retries(manifest: Manifest) -> list[str]:
    policy = manifest.retry
    if policy is None:
        return ["no advice"]
    statuses = ", ".join(str(status) for status in policy.retry_on_http_status)
    return [
        f"advised: {policy.max_retries}, {policy.strategy}, {policy.min_delay_ms / 1000:g} to "
        f"{policy.max_delay_ms / 1000:g} s, on {statuses}"
    ]
