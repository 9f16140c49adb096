"""Options that several commands have, in the same words. Imports click."""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["JSON", "MANIFESTS", "Seconds"]


class Seconds(click.FloatRange):
    """A number of seconds that comes to an end: `inf` and `nan` are numbers to click."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


MANIFESTS = click.option(
    "--manifests", metavar="PATH", help="A manifest, or a directory of them, read before the bundled ones."
)
JSON = click.option("--json", "as_document", is_flag=True, help="Write JSON, for programs.")
