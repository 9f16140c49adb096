"""`ailib doctor`: what is in force on this machine, what is missing, and what to do about it.

Imports click and the catalogue; the client's transport where reachability is asked for. The rule that must stay true:
a key is found or not found and never shown, and nothing goes over the network unless `--reach` asks for it.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import AiLibError
from .options import JSON, MANIFESTS
from .running import run_async
from .screen import Printer, as_json, one_line, print_table

if TYPE_CHECKING:
    from ..protocol.loader import Catalog
    from ..protocol.manifest import Manifest

__all__ = ["doctor"]

CORE = ("trio", "httpx", "msgspec", "pyyaml", "jsonpath-ng", "fastjsonschema")
EXTRAS = {
    "cli": ("click", "rich"),
    "keyring": ("keyring",),
    "telemetry": ("opentelemetry-api", "opentelemetry-sdk", "prometheus-client"),
}
REACH_S = 10.0
AT_ONCE = 8


@click.command()
@click.argument("names", metavar="[PROVIDER]...", nargs=-1)
@click.option("--reach", is_flag=True, help="Also try to reach the providers: one request each, without a key.")
@MANIFESTS
@JSON
def doctor(names: tuple[str, ...], reach: bool, manifests: str | None, as_document: bool) -> int:
    """Say which manifests, keys and versions are in force, and what is wrong with them.

    Looks at the named providers, or at every one that has a key. Ends with 1 if something is wrong. Keys are never
    shown, and nothing goes over the network without --reach.
    """
    found = _Found()
    catalog = _catalog(manifests, found)
    if catalog is not None:
        _look_at_providers(catalog, names, found)
        if reach:
            run_async(lambda: _reach(catalog, found))
    _look_at_versions(found)
    if as_document:
        sys.stdout.write(as_json(found.as_dict()) + "\n")
    else:
        _show(found)
    return 1 if found.problems else 0


class _Found:
    """What was found. `problems` stop calls from working, `advice` does not."""

    def __init__(self) -> None:
        self.sources: list[dict[str, Any]] = []
        self.providers: list[dict[str, Any]] = []
        self.versions: dict[str, str | None] = {}
        self.problems: list[str] = []
        self.advice: list[str] = []
        self.known = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "manifests": {"sources": self.sources, "providers": self.known},
            "providers": self.providers,
            "versions": self.versions,
            "problems": self.problems,
            "advice": self.advice,
        }


# ---- manifests


def _catalog(manifests: str | None, found: _Found) -> Catalog | None:
    from ..protocol.loader import Catalog

    given = manifests if manifests is not None else os.environ.get("AI_PROTOCOL_DIR") or None
    if given is not None:
        why = "--manifests" if manifests is not None else "AI_PROTOCOL_DIR"
        found.sources.append({"origin": "given", "path": given, "by": why})
    try:
        catalog = Catalog.open(manifests)
        found.known = len(catalog.providers())
    except AiLibError as error:
        found.problems.append(f"the manifests cannot be read: {one_line(error)}")
        return None
    found.sources.append({"origin": "bundled", "path": "with the library", "by": None})
    return catalog


def _look_at_providers(catalog: Catalog, names: Sequence[str], found: _Found) -> None:
    wanted: list[Manifest] = []
    for name in names or catalog.providers():
        try:
            wanted.append(catalog.provider(name))
        except AiLibError as error:
            found.problems.append(f"{name}: {one_line(error)}")
    rows = [_row(manifest, found) for manifest in wanted]
    has_key = [row for row in rows if row["key"] != "missing"]
    found.providers = rows if names else [row for row in has_key if row["key"] != "not needed"]
    for row in found.providers:
        if row["key"] == "missing":
            found.problems.append(f"{row['id']}: no key; set {' or '.join(row['looked_for'])}")
        for variable in row["unset_variables"]:
            found.problems.append(f"{row['id']}: its address needs {variable}, which is not set")
    if not names and not found.providers:
        found.advice.append("no key was found: `ailib providers` tells which variable each provider looks for")


def _row(manifest: Manifest, found: _Found) -> dict[str, Any]:
    from ..transport.credentials import CredentialStore, search_for

    search = search_for(manifest)
    needs_key = manifest.auth.type != "none"
    credential = CredentialStore(os.environ, keyring=False).find_nowait(manifest) if needs_key else None
    if credential is not None:
        for name in (*search.required, *search.conventional):
            value = os.environ.get(name)
            if value is not None and value != value.strip():
                found.advice.append(f"{manifest.id}: {name} begins or ends with white space, which is left out")
    found.advice += [f"{manifest.id}: {line}" for line in search.diagnostics] if credential is not None else []
    unset = [variable for variable in manifest.endpoint.variables.values() if not os.environ.get(variable, "").strip()]
    return {
        "id": manifest.id,
        "key": "not needed" if not needs_key else "found" if credential is not None else "missing",
        "key_from": None if credential is None else credential.name,
        "looked_for": [*search.required, *search.conventional],
        "origin": manifest.origin,
        "file": manifest.file,
        "protocol_version": manifest.protocol_version,
        "base_url": manifest.endpoint.base_url,
        "unset_variables": unset,
        "notes": list(manifest.notes),
        "reached": None,
    }


# ---- reachability


async def _reach(catalog: Catalog, found: _Found) -> None:
    import ssl

    import trio

    from ..protocol.trust import fill, origin_of
    from ..transport.httpx_engine import HttpxEngine
    from ..transport.proxy import proxy_for

    places = trio.CapacityLimiter(AT_ONCE)
    context = ssl.create_default_context()

    async def one(row: dict[str, Any]) -> None:
        async with places:
            endpoint = catalog.provider(row["id"]).endpoint
            try:
                values = {name: os.environ.get(variable, "") for name, variable in endpoint.variables.items()}
                url = fill(endpoint.base_url, values)
                proxy = proxy_for(str(origin_of(url)), os.environ)
                engine = HttpxEngine(ssl_context=context, proxy=proxy)
            except AiLibError as error:
                row["reached"] = one_line(error)
                return
            try:
                row["reached"] = await _status_of(engine, url)
            finally:
                await engine.aclose()

    async with trio.open_nursery() as nursery:
        for row in found.providers:
            if not row["unset_variables"]:
                nursery.start_soon(one, row)
    for row in found.providers:
        if isinstance(row["reached"], str):
            found.problems.append(f"{row['id']}: not reached: {row['reached']}")


class _Answered(Exception):
    """There is a status: that is all that was asked."""


class _Status:
    """A sink that wants a status and nothing more."""

    status: int | None = None

    def sending(self) -> None:
        return

    def head(self, status: int, headers: Any) -> None:
        self.status = status
        raise _Answered

    def data(self, chunk: bytes) -> bool:
        return True

    async def wait_room(self) -> None:
        return


async def _status_of(engine: Any, url: str) -> int | str:
    """The status of the address, whatever it is; or why there was none."""
    import trio

    from ..transport.base import WireRequest

    sink = _Status()
    with trio.move_on_after(REACH_S):
        try:
            await engine.exchange(WireRequest("GET", url, [("accept", "*/*")], b""), sink)
        except _Answered:
            pass
        except AiLibError as error:
            return one_line(error)
    return f"no answer within {REACH_S:g} s" if sink.status is None else sink.status


# ---- versions


def _look_at_versions(found: _Found) -> None:
    from importlib.metadata import PackageNotFoundError, version

    from .. import __version__

    def of(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    found.versions = {"ai-lib-trio": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in CORE:
        found.versions[name] = of(name)
        if found.versions[name] is None:
            found.problems.append(f"{name} is not installed: pip install --force-reinstall ai-lib-trio")
    for extra, libraries in EXTRAS.items():
        for name in libraries:
            found.versions[name] = of(name)
        missing = [name for name in libraries if found.versions[name] is None]
        if missing and len(missing) < len(libraries):
            found.advice.append(f"the extra {extra} is there in part: pip install 'ai-lib-trio[{extra}]'")


# ---- for people


def _show(found: _Found) -> None:
    out = Printer(sys.stdout)
    out.line(f"manifests: {found.known} providers", "title")
    for source in found.sources:
        by = f" (by {source['by']})" if source["by"] else ""
        out.line(f"  {source['origin']}: {source['path']}{by}")
    for row in found.providers:
        for note in row["notes"]:
            out.line(f"  {row['id']}: {note}", "note")
    out.line()
    if found.providers:
        columns = ("provider", "key", "manifest", "reached")
        print_table(columns, [_cells(row) for row in found.providers])
    versions = [f"{name} {one}" for name, one in found.versions.items() if one is not None]
    out.line("versions", "title")
    out.line("  " + ", ".join(versions))
    out.line()
    for text in found.problems:
        out.line(f"wrong: {text}", "bad")
    for text in found.advice:
        out.line(f"advice: {text}", "note")
    if not found.problems:
        out.line("nothing is wrong", "good")


def _cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    key = f"found in {row['key_from']}" if row["key_from"] else row["key"]
    reached = row["reached"]
    told = "not asked" if reached is None else f"yes, status {reached}" if isinstance(reached, int) else "no"
    return (row["id"], key, f"{row['origin']}, {row['protocol_version']}", told)
