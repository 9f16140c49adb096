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

from ..errors import AiLibError, CallerError
from ..protocol.tree import suggestion
from .options import JSON, MANIFESTS
from .running import run_async
from .screen import Printer, as_json, one_line, print_table

if TYPE_CHECKING:
    from ..protocol.loader import Catalog
    from ..protocol.manifest import Manifest
    from ..transport.credentials import Credential

__all__ = ["doctor"]

CORE = ("trio", "httpx", "httptools", "msgspec", "pyyaml", "jsonpath-ng", "fastjsonschema")
EXTRAS = {
    "cli": ("click", "rich"),
    "keyring": ("keyring",),
    "telemetry": ("opentelemetry-api", "opentelemetry-sdk", "prometheus-client"),
}
VARIABLES = ("AI_PROTOCOL_DIR", "AI_PROTOCOL_PATH")  # each names a folder of manifests
CACHE = "AI_LIB_CACHE"  # where fetched manifests are kept
REACH_S = 10.0
KEYRING_S = 10.0
PROXIES = ("http", "https", "socks5", "socks5h")
AT_ONCE = 8


@click.command(short_help="Say what is in force here, and what is wrong.")
@click.argument("names", metavar="[PROVIDER]...", nargs=-1)
@click.option("--reach", is_flag=True, help="Also try to reach the providers: one request each, without a key.")
@MANIFESTS
@JSON
def doctor(names: tuple[str, ...], reach: bool, manifests: str | None, as_document: bool) -> None:
    """Say which manifests, keys and versions are in force, and what is wrong with them.

    Looks at the named providers, or at every one that has a key in the environment; for those that are named a keyring
    is asked too. Ends with 1 if something is wrong. Keys are never shown, and nothing goes over the network without
    --reach.
    """
    found = _Found()
    catalog = _catalog(manifests, found)
    if catalog is not None:
        _look_at_providers(catalog, names, found)
        if reach:
            run_async(lambda: _reach(found))
    _look_at_environment(found)
    _look_at_versions(found)
    if as_document:
        sys.stdout.write(as_json(found.as_dict()) + "\n")
    else:
        _show(found)
    count = len(found.problems)
    if count:
        raise CallerError("one thing is wrong" if count == 1 else f"{count} things are wrong", kind="bad_argument")


class _Found:
    """What was found. `problems` stop calls from working, `advice` does not."""

    def __init__(self) -> None:
        self.sources: list[dict[str, Any]] = []
        self.providers: list[dict[str, Any]] = []
        self.settings: dict[str, str] = {}  # of the environment, as far as they may be shown
        self.versions: dict[str, str | None] = {}
        self.problems: list[str] = []
        self.advice: list[str] = []
        self.known = 0

    def as_dict(self) -> dict[str, Any]:
        return {
            "manifests": {"sources": self.sources, "providers": self.known},
            "providers": self.providers,
            "settings": self.settings,
            "versions": self.versions,
            "problems": self.problems,
            "advice": self.advice,
        }


# ---- manifests


def _catalog(manifests: str | None, found: _Found) -> Catalog | None:
    from ..protocol.loader import Catalog

    if manifests is not None:
        found.sources.append({"origin": "given", "path": manifests, "by": "--manifests"})
    # As a client looks: the first variable that names something, beside what is given.
    for variable in VARIABLES:
        named = os.environ.get(variable, "").strip()
        if named:
            found.sources.append({"origin": "given", "path": named, "by": variable})
            break
    given = list(found.sources)
    try:
        catalog = Catalog.open(manifests)
        found.known = len(catalog.providers())
    except AiLibError as error:
        found.problems.append(f"the manifests cannot be read: {one_line(error)}")
        if given:
            names = " or ".join(source["by"] for source in given)
            found.advice.append(f"correct what {names} names, or leave it out: others are bundled")
        return None
    for source, tree in zip(given, catalog.trees, strict=False):
        if tree.single is None and not tree.files("providers"):
            found.advice.append(
                f"{source['path']} has no provider in it: a folder of manifests has a folder `providers`"
            )
    found.sources.append({"origin": "bundled", "path": "with the library", "by": None})
    return catalog


def _look_at_providers(catalog: Catalog, names: Sequence[str], found: _Found) -> None:
    wanted: list[Manifest] = []
    for name in dict.fromkeys(names) or catalog.providers():
        try:
            wanted.append(catalog.provider(name))
        except AiLibError as error:
            found.problems.append(f"{name}: {one_line(error)}")
    _look_at_models(catalog, found)
    keys = run_async(lambda: _from_keyring(wanted)) if names else {}
    rows = [_row(manifest, found, keys.get(manifest.id)) for manifest in {one.id: one for one in wanted}.values()]
    has_key = [row for row in rows if row["key"] != "missing"]
    found.providers = rows if names else [row for row in has_key if row["key"] != "not needed"]
    for row in found.providers:
        if row["key"] == "missing":
            found.problems.append(f"{row['id']}: no key; set {' or '.join(row['looked_for'])}")
        for variable in row["unset_variables"]:
            found.problems.append(f"{row['id']}: its address needs {variable}, which is not set")
    if not names and not found.providers:
        found.advice.append("no key was found: `ailib providers` tells which variable each provider looks for")


def _look_at_models(catalog: Catalog, found: _Found) -> None:
    """A file of models that cannot be used stops the calls of every provider that it might say something of."""
    said = "\n".join(found.problems)
    for name in catalog.providers() if len(catalog.trees) > 1 else ():  # what is bundled was checked when it was built
        try:
            catalog.models(name)
        except AiLibError as error:
            if one_line(error) not in said:  # a provider's own fault is told already; one file may be many providers'
                found.problems.append(one_line(error))
                said += one_line(error)


async def _from_keyring(manifests: Sequence[Manifest]) -> dict[str, Credential | None]:
    """The keys of these providers, by everything that a client looks at. A keyring may wait for a person: not long."""
    import trio

    from ..transport.credentials import CredentialStore

    store = CredentialStore(os.environ)
    keys: dict[str, Credential | None] = {}
    with trio.move_on_after(KEYRING_S):
        for manifest in manifests:
            try:
                keys[manifest.id] = await store.find(manifest)
            except AiLibError:  # there is none, or none that can be used: told with the row
                continue
    return keys


def _row(manifest: Manifest, found: _Found, key: Credential | None) -> dict[str, Any]:
    from ..transport.credentials import CredentialStore, search_for

    search = search_for(manifest)
    needs_key = manifest.auth.type != "none"
    credential = key or CredentialStore(os.environ, keyring=False).find_nowait(manifest) if needs_key else None
    for name in credential.names if credential is not None else ():
        found.problems += [f"{manifest.id}: {name} {fault}" for fault in _faults_of(os.environ.get(name, ""))]
        if os.environ.get(name, "") != os.environ.get(name, "").strip():
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
        "variables": dict(manifest.endpoint.variables),
        "unset_variables": unset,
        "notes": list(manifest.notes),
        "reached": None,
    }


def _faults_of(value: str) -> list[str]:
    """What is wrong with a key, as far as its form tells; never the key."""
    value = value.strip()
    if any(not character.isprintable() for character in value):
        return ["holds a line end or a control character and cannot be sent: set it to the key alone"]
    if not value.isascii():
        return ["holds characters that are not ASCII: copy the key again"]
    if " " in value or value[:1] in "\"'":
        return ["holds spaces or quotes, which no key has: set it to the key alone"] if value else []
    return []


# ---- the environment


def _look_at_environment(found: _Found) -> None:
    """What clients go by beside manifests and keys: proxies, whom they trust, and settings."""
    from ..protocol.trust import origin_of
    from ..resilience.executor import from_environ
    from ..transport.proxy import proxy_for
    from ..transport.tls import default_context

    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        if os.environ.get(name):
            found.settings[name] = os.environ[name]
    try:
        default_context()
    except AiLibError as error:
        found.problems.append(f"no TLS connection can be made: {one_line(error)}; correct SSL_CERT_FILE or unset it")
    folder = os.environ.get("SSL_CERT_DIR")
    if folder and not os.environ.get("SSL_CERT_FILE") and not os.path.isdir(folder):
        found.problems.append(f"no TLS connection can be made: SSL_CERT_DIR names {folder!r}, which is no folder")
    try:
        from_environ(os.environ)
    except AiLibError as error:
        found.problems.append(f"no client can be opened: {one_line(error)}")
    for row in found.providers:
        if row["unset_variables"]:
            continue
        try:
            proxy = proxy_for(str(origin_of(_url_of(row))), os.environ)
        except AiLibError as error:
            found.problems.append(f"{row['id']}: its address cannot be made: {one_line(error)}")
            continue
        if proxy is None:
            continue
        found.settings[f"proxy for {row['id']}"] = proxy.rpartition("@")[2]  # what is before it may be a password
        scheme, is_url, _ = proxy.partition("://")
        if is_url and not _has_host(proxy):
            found.problems.append(f"{row['id']}: its proxy in the environment is no address such as http://host:port")
        elif scheme.lower() not in PROXIES:
            begins = f"begins with {scheme[:20]!r}" if is_url else "has no scheme"
            found.problems.append(f"{row['id']}: its proxy in the environment {begins}; it may be {', '.join(PROXIES)}")
    known = _settings_of_clients()
    for name, value in sorted(os.environ.items()):
        if name in known and (name == CACHE or value == "off" or value.replace(".", "", 1).isdigit()):
            found.settings[name] = value
        elif name.startswith("AI_LIB_") and name not in known and not name.endswith("_API_KEY"):
            found.advice.append(f"{name} is no setting and has no effect{suggestion(name, known)}")


class _Asked(dict[str, str]):
    """An environment in which nothing is set, and that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.names.add(key)
        return default


def _settings_of_clients() -> set[str]:
    """The names of variables that set something."""
    from ..resilience.executor import from_environ

    environ = _Asked()
    from_environ(environ)
    return {*environ.names, CACHE}


def _has_host(url: str) -> bool:
    from urllib.parse import urlsplit

    try:
        return bool(urlsplit(url).hostname)
    except ValueError:  # a bracket that is not closed
        return False


def _url_of(row: dict[str, Any]) -> str:
    """A provider's address, with the variables in it. Raises `AiLibError` where they are not what they should be."""
    from ..protocol.trust import fill

    return fill(row["base_url"], {name: os.environ.get(variable, "") for name, variable in row["variables"].items()})


# ---- reachability


async def _reach(found: _Found) -> None:
    import trio

    from ..protocol.trust import origin_of
    from ..transport.httpx_engine import HttpxEngine
    from ..transport.proxy import proxy_for

    places = trio.CapacityLimiter(AT_ONCE)

    async def one(row: dict[str, Any]) -> None:
        async with places:
            try:
                url = _url_of(row)
                proxy = proxy_for(str(origin_of(url)), os.environ)
                engine = HttpxEngine(proxy=proxy)
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

    def lend(self, reading: Any) -> bool:
        return False


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
            out.line(f"  {row['id']}: {note}", "note", hang=4)
    for name, value in found.settings.items():
        out.line(f"  {name}: {value}")
    out.line()
    if found.providers:
        columns = ("provider", "key", "manifest", "reached")
        print_table(columns, [_cells(row) for row in found.providers])
    versions = [f"{name} {one}" for name, one in found.versions.items() if one is not None]
    out.line("versions", "title")
    out.line("  " + ", ".join(versions), hang=2)
    out.line()
    for text in found.problems:
        out.line(f"wrong: {text}", "bad", hang=2)
    for text in found.advice:
        out.line(f"advice: {text}", "note", hang=2)
    if not found.problems:
        out.line("nothing is wrong", "good")


def _cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    key = f"found in {row['key_from']}" if row["key_from"] else row["key"]
    reached = row["reached"]
    told = "not asked" if reached is None else f"yes, status {reached}" if isinstance(reached, int) else "no"
    return (row["id"], key, f"{row['origin']}, {row['protocol_version']}", told)
