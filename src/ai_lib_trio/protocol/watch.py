"""A catalogue that follows its files: a changed tree is checked and swapped in whole, or not at all.

Imports `errors`, `loader`. The rule that must stay true: whoever holds a catalogue keeps it unchanged; a file with a
fault leaves the old catalogue in place and says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from ..errors import AiLibError
from .loader import Catalog

__all__ = ["Change", "Reloader", "watched_paths"]

Stamps = dict[str, tuple[int, int, int]]  # path -> change time, size, inode


class Change(msgspec.Struct, frozen=True):
    """What a look at the files found: the files that differ, and the fault that kept them out, if one did."""

    files: tuple[str, ...]
    fault: AiLibError | None


def watched_paths(catalog: Catalog) -> list[Path]:
    """The directories and files on disk that a catalogue was opened from; what came in a wheel does not change."""
    found: list[Path] = []
    for tree in catalog.trees:
        if tree.is_trusted:
            continue
        folders = [tree.single] if tree.single is not None else [folder for _, folder in tree.folders]
        found += [folder for folder in folders if isinstance(folder, Path)]
    return found


class Reloader:
    """`catalog` is the one to use for the next call. `poll` looks at the files; it waits for nothing and reads only
    what changed. Call it from one task, when a watcher wakes or a timer says so."""

    def __init__(
        self, opener: Callable[[], Catalog], *, check: Callable[[Catalog, list[str]], None] | None = None
    ) -> None:
        self._opener = opener
        self._check = check  # what else must hold of some providers, as `ManifestError`s
        self.catalog = opener()
        self.generation = 0
        self.fault: AiLibError | None = None
        self._stamps = _stamps(self.catalog)

    def __repr__(self) -> str:
        state = "faulty files" if self.fault is not None else "up to date"
        return f"<Reloader generation {self.generation}, {state}>"

    def has_changed(self) -> bool:
        """Whether a file differs from the last look. Reads nothing but the files' states."""
        return _stamps(self.catalog) != self._stamps

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
            bundled = [str(folder) for kind, folder in self.catalog.trees[-1].folders]
            if not any(os.path.dirname(name) in bundled for name in files):
                candidate.adopt_bundled(self.catalog)
            names = _load_again(candidate, self.catalog)
            if self._check is not None:
                self._check(candidate, names)
        except AiLibError as error:
            self.fault = error
            return Change(files, error)
        self.fault = None
        self.catalog = candidate
        self.generation += 1
        return Change(files, None)


def _load_again(candidate: Catalog, old: Catalog) -> list[str]:
    """Load what was in use, and all of the given sources, so that no call meets a fault."""
    given = candidate.providers("given")
    names = [name for name in sorted({*old.loaded(), *given}) if candidate.has_provider(name)]
    for name in names:
        candidate.provider(name)
        candidate.models(name)
    return names


def _stamps(catalog: Catalog) -> Stamps:
    found: Stamps = {}
    for path in watched_paths(catalog):
        try:
            files = sorted(path.iterdir()) if path.is_dir() else [path]
        except OSError:  # it went, or may not be read any more: reading it says so
            continue
        for file in files:
            try:
                state = os.stat(file)
            except OSError:  # it went between the listing and the look
                continue
            found[str(file)] = (state.st_mtime_ns, state.st_size, state.st_ino)
    return found
