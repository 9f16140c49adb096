"""Where a client's manifests come from, and how changed files take effect while it is open.

Imports `protocol`, `transport.remote`, `actors.supervisor`, `targets` and trio. The rules that must stay true: without
a URL of the user's nothing is fetched; a change takes effect between calls, whole, or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import trio

from ..actors.hooks import Hooks
from ..actors.supervisor import Slot, Supervisor
from ..errors import AiLibError, ManifestError
from ..protocol.loader import Catalog
from ..protocol.manifest import Manifest, manifest_tree
from ..protocol.sources import Tree, is_url
from ..types.records import ManifestsChanged
from .targets import Targets, compile_family

if TYPE_CHECKING:
    from ..protocol.watch import Reloader

__all__ = ["check_compiles", "follow", "open_source"]

FETCH_S = 60.0  # the largest archive that is taken, at 5 Mbit/s

Source = str | os.PathLike[str] | Tree | None


async def open_source(manifests: str | os.PathLike[str] | None, environ: Mapping[str, str]) -> Source:
    """What `Catalog.open` takes for `manifests`: a path as it is, and the tree behind a pinned URL.

    A tree is fetched once and kept (`AI_LIB_CACHE`, else the user's cache), so it is there without a network.
    """
    if not isinstance(manifests, str) or not is_url(manifests):
        return manifests
    from ..protocol.remote import Cache
    from ..transport.remote import fetch_tree

    with trio.move_on_after(FETCH_S):
        return await fetch_tree(manifests, Cache.of(environ))
    raise ManifestError(f"not fetched within {FETCH_S:g} s, and no copy is kept", file=manifests)


def check_compiles(catalog: Catalog, names: list[str]) -> None:
    """Compile everything of some providers. Raises the `ManifestError` that a call would meet."""
    for name in names:
        for family in catalog.provider(name).families.values():
            compile_family(family)


async def follow(
    reloader: Reloader,
    *,
    every_s: float,
    use: Callable[[Catalog], None],
    targets: Targets,
    supervisor: Supervisor,
    hooks: Hooks,
) -> None:
    """Look at the files again and again until cancelled. `use` is given each new catalogue.

    Actors whose key, origin or manifest is another now are retired: calls that run end there, on what they began with.
    """
    while True:
        await trio.sleep(every_s)
        if not reloader.has_changed():
            continue
        # Parsing and compiling take longer than the other tasks should wait.
        change = await trio.to_thread.run_sync(reloader.poll)
        if change is None:
            continue
        retired: list[str] = []
        if change.fault is None:
            use(reloader.catalog)
            targets.swap(reloader.catalog)
            for slot in list(supervisor.slots.values()):
                if not await _is_current(slot, targets):
                    supervisor.retire(slot)
                    retired.append(slot.key.provider)
        if hooks.on:
            fault = None if change.fault is None else str(change.fault)
            hooks.emit(
                ManifestsChanged(at_s=trio.current_time(), files=change.files, fault=fault, retired=tuple(retired))
            )


async def _is_current(slot: Slot, targets: Targets) -> bool:
    old = slot.target
    try:
        new = await targets.find(old.ref, old.family.id)
    except AiLibError:  # the provider, its API or its key is gone
        return False
    return new.key == slot.key and _meaning(new.manifest) == _meaning(old.manifest)


def _meaning(manifest: Manifest) -> dict[str, object]:
    return {name: value for name, value in manifest_tree(manifest).items() if name not in ("file", "notes", "sources")}
