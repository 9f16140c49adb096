"""`ailib providers`: who there is, over which wire, and whether there is a key. Imports click and the catalogue."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ..protocol.loader import Catalog
from ..protocol.manifest import Manifest
from ..protocol.tree import nearest, suggestion
from .options import JSON, MANIFESTS
from .screen import as_json, print_nothing_found, print_table

__all__ = ["providers"]


@click.command(short_help="List providers, and whether there is a key.")
@click.argument("words", metavar="[WORD]...", nargs=-1)
@click.option("--dialect", help="Only providers with an API of this dialect.")
@click.option("--capability", "capabilities", multiple=True, help="Only providers that declare it. May be repeated.")
@click.option("--status", "statuses", multiple=True, help="Only stable, beta or deprecated ones. May be repeated.")
@click.option("--ready", is_flag=True, help="Only providers that have a key, or need none.")
@MANIFESTS
@JSON
def providers(
    words: tuple[str, ...],
    dialect: str | None,
    capabilities: tuple[str, ...],
    statuses: tuple[str, ...],
    ready: bool,
    manifests: str | None,
    as_document: bool,
) -> None:
    """List providers; each WORD must be in an id, a name or an alias."""
    catalog = Catalog.open(manifests)
    wanted = catalog.dialect(dialect).id if dialect else None
    rows = []
    declared: set[str] = set()
    for name in catalog.providers():
        manifest = catalog.provider(name)
        row = _row(manifest)
        declared |= set(row["capabilities"])
        names = " ".join((manifest.id, manifest.name, *manifest.aliases)).lower()
        if (
            all(word.lower() in names for word in words)
            and (wanted is None or wanted in row["dialects"])
            and set(capabilities) <= set(row["capabilities"])
            and (not statuses or row["status"] in statuses)
            and (row["key"] != "missing" or not ready)
        ):
            rows.append({**row, "models": len(catalog.models(manifest.id))})
    if as_document:
        sys.stdout.write(as_json(rows) + "\n")
        return
    if not rows:
        hints = [f": none declares {one!r}{suggestion(one, declared)}" for one in capabilities if one not in declared]
        if words and not hints:
            close = nearest(" ".join(words), catalog.providers())
            hints = [f": did you mean {' or '.join(close)}?"] if close else [". `ailib providers` lists all"]
        print_nothing_found("provider fits", hints)
        return
    print_table(
        ("provider", "name", "dialects", "models", "key"),
        [(row["id"], _name_text(row), ", ".join(row["dialects"]), str(row["models"]), _key_text(row)) for row in rows],
        right=("models",),
    )


def _row(manifest: Manifest) -> dict[str, Any]:
    from ..transport.credentials import CredentialStore, search_for

    search = search_for(manifest)
    found = CredentialStore(os.environ, keyring=False).find_nowait(manifest)
    needs_key = manifest.auth.type != "none"
    return {
        "id": manifest.id,
        "name": manifest.name,
        "aliases": list(manifest.aliases),
        "status": manifest.status,
        "base_url": manifest.endpoint.base_url,
        "apis": {name: family.dialect for name, family in manifest.families.items()},
        "default_api": manifest.default_family,
        "dialects": list(dict.fromkeys(family.dialect for family in manifest.families.values())),
        "capabilities": sorted(manifest.capabilities.declared),
        "key": "not needed" if not needs_key else "set" if found is not None else "missing",
        "key_variables": [*search.required, *search.conventional] if needs_key else [],
        "origin": manifest.origin,
    }


def _key_text(row: dict[str, Any]) -> str:
    if row["key"] == "missing" and row["key_variables"]:
        return f"set {row['key_variables'][0]}"
    return str(row["key"])


def _name_text(row: dict[str, Any]) -> str:
    return row["name"] if row["status"] == "stable" else f"{row['name']} ({row['status']})"
