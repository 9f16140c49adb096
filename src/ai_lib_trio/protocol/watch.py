"""A catalogue that follows its files: a changed tree is checked and swapped in whole, or not at all.

Imports `errors`, `loader`. The rule that must stay true: whoever holds a catalogue keeps it unchanged; a file with a
fault leaves the old catalogue in place and says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from ..errors import ManifestError
from .loader import Catalog

__all__ = ["Change", "Reloader", "watched_paths"]

Stamps = dict[str, tuple[int, int, int]]  # path -> change time, size, inode


class Change(NamedTuple):
    """What a look at the files found: the files that differ, and the fault that kept them out, if one did."""

    files: tuple[str, ...]
    fault: ManifestError | None


def watched_paths(catalog: Catalog) -> list[Path]:
    """The directories and files on disk that a catalogue was opened from; what lies in a zip does not change."""
    found: list[Path] = []
    for tree in catalog.trees:
        folders = [tree.single] if tree.single is not None else [folder for _, folder in tree.folders]
        found += [folder for folder in folders if isinstance(folder, Path)]
    return found


class Reloader:
    """`catalog` is the one to use for the next call. `poll` looks at the files; it waits for nothing and reads only
    what changed. Call it from one task, when a watcher wakes or a timer says so."""

    def __init__(self, opener: Callable[[], Catalog]) -> None:
        self._opener = opener
        self.catalog = opener()
        self.generation = 0
        self.fault: ManifestError | None = None
        self._stamps = _stamps(self.catalog)

    def __repr__(self) -> str:
        state = "faulty files" if self.fault is not None else "up to date"
        return f"<Reloader generation {self.generation}, {state}>"

    def poll(self) -> Change | None:
        """None where no file differs from the last look; else what was swapped in, or why it was not."""
        stamps = _stamps(self.catalog)
        differing = {name for name in stamps.keys() | self._stamps.keys() if stamps.get(name) != self._stamps.get(name)}
        if not differing:
            return None
        self._stamps = stamps
        files = tuple(sorted(differing))
        try:
            candidate = self._opener()
            _load_again(candidate, self.catalog)
        except ManifestError as error:
            self.fault = error
            return Change(files, error)
        self.fault = None
        self.catalog = candidate
        self.generation += 1
        self._stamps = _stamps(candidate)
        return Change(files, None)


def _load_again(candidate: Catalog, old: Catalog) -> None:
    """Load what was in use, and every provider of the given sources, so that no call meets a fault."""
    names = {*old.loaded(), *candidate.providers("given")}
    for name in sorted(names):
        if candidate.has_provider(name):
            candidate.provider(name)
    candidate.models()


def _stamps(catalog: Catalog) -> Stamps:
    found: Stamps = {}
    for path in watched_paths(catalog):
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in files:
            try:
                state = os.stat(file)
            except FileNotFoundError:  # it went between the listing and the look
                continue
            found[str(file)] = (state.st_mtime_ns, state.st_size, state.st_ino)
    return found
