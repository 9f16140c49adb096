"""Options that several commands have, in the same words. Imports click."""

from __future__ import annotations

import click

__all__ = ["JSON", "MANIFESTS"]

MANIFESTS = click.option(
    "--manifests", metavar="PATH", help="A manifest, or a directory of them, read before the bundled ones."
)
JSON = click.option("--json", "as_document", is_flag=True, help="Write JSON, for programs.")
