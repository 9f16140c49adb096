"""`ailib providers`: who there is, over which wire, and whether there is a key. Imports click and the catalogue."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from ..protocol.loader import Catalog
from ..protocol.manifest import Manifest
from .options import JSON, MANIFESTS
from .screen import as_json, print_table

__all__ = ["providers"]


@click.command()
@click.argument("search", required=False)
@click.option("--dialect", help="Only providers with an API of this dialect.")
@click.option("--capability", "capabilities", multiple=True, help="Only providers that declare it. May be repeated.")
@click.option("--ready", is_flag=True, help="Only providers that have a key, or need none.")
@MANIFESTS
@JSON
def providers(
    search: str | None,
    dialect: str | None,
    capabilities: tuple[str, ...],
    ready: bool,
    manifests: str | None,
    as_document: bool,
) -> None:
    """List providers; SEARCH looks in ids, names and aliases."""
    catalog = Catalog.open(manifests)
    wanted = catalog.dialect(dialect).id if dialect else None
    rows = []
    for name in catalog.providers():
        manifest = catalog.provider(name)
        row = _row(manifest)
        names = " ".join((manifest.id, manifest.name, *manifest.aliases)).lower()
        if (
            (search is None or search.lower() in names)
            and (wanted is None or wanted in row["dialects"])
            and set(capabilities) <= set(row["capabilities"])
            and (row["key"] != "missing" or not ready)
        ):
            rows.append({**row, "models": len(catalog.models(manifest.id))})
    if as_document:
        sys.stdout.write(as_json(rows) + "\n")
        return
    print_table(
        ("provider", "name", "dialects", "models", "key"),
        [(row["id"], row["name"], ", ".join(row["dialects"]), str(row["models"]), _key_text(row)) for row in rows],
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
