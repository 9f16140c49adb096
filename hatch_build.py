"""Puts the manifests into a wheel, with what loading them comes to: `dist/` and the validators, built and checked here.

YAML of providers, dialects and models is gzipped, and so are the lists of models in `dist/`: most of the bytes, and
most programs read none of them. Runs in the build's own environment, by our own `Catalog.check` and `build`. The rules
that must stay true: a wheel with a manifest that has a fault is not built; the same sources give the same files. An
editable install gets nothing from here: it reads the YAML beside `src`, or a `manifests/dist` that `ailib manifests
build` made and that git does not keep.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "ai_lib_trio"
INSIDE = f"{PACKAGE}/_manifests"
PACKED = ("providers", "dialects", "models")


class ManifestsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Called by hatchling for every wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        root = Path(self.root)
        included = build_data["force_include"]
        for part in sorted((root / "manifests").iterdir()):
            # A checkout's `dist` may be older than what is beside it.
            if part.name != "dist" and part.name not in PACKED:
                included[str(part)] = f"{INSIDE}/{part.name}"
        included[str(root / "conformance")] = f"{PACKAGE}/_conformance"  # what `ailib conformance` runs by itself
        self._temporary = tempfile.TemporaryDirectory()
        for name, data in _built(root).items():
            file = Path(self._temporary.name, name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            included[str(file)] = f"{PACKAGE}/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            self._temporary.cleanup()


def _built(root: Path) -> dict[str, bytes]:
    """The generated files by their place in the package. Raises `SystemExit` with every fault of the manifests."""
    sys.path.insert(0, str(root / "src"))
    try:
        from ai_lib_trio.protocol.build import packed, shipped
        from ai_lib_trio.protocol.loader import Catalog
    finally:
        sys.path.pop(0)
    catalog = Catalog.open(environ={})
    faults = catalog.check()
    if faults:
        raise SystemExit("\n".join(str(fault) for fault in faults))
    files = {f"_manifests/dist/{name}": data for name, data in shipped(catalog.build()).items()}
    for folder in PACKED:
        for file in sorted((root / "manifests" / folder).iterdir()):
            files[f"_manifests/{folder}/{file.name}.gz"] = packed(file.read_bytes())
    for name, code in catalog.validator().generate().items():
        files[f"protocol/_validators/{name}.py"] = code.encode()
    return files
