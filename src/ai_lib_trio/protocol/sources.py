"""Where manifests lie: directories and single files, in a wheel, a checkout or a zip, as trees of documents.

Imports `build`, `errors`, `manifest` for names alone, `yaml_source`. The rules that must stay true: opening a tree
reads nothing but the names of its files; what `dist/` holds counts only where it was made of the very file beside it,
or came in the wheel. A wheel holds its YAML and the built lists of models gzipped, as `NAME.gz`; only this file knows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import ManifestError
from .build import DIST_FORMAT, KINDS, Index, digest, unpacked
from .manifest import Provenance
from .where import Document

if TYPE_CHECKING:
    from typing import Protocol

    class Folder(Protocol):
        """What we need of `importlib.resources`' Traversable; `pathlib.Path` and a zip's paths have it too."""

        @property
        def name(self) -> str: ...
        def iterdir(self) -> Iterator[Any]: ...
        def is_dir(self) -> bool: ...
        def is_file(self) -> bool: ...
        def joinpath(self, *parts: str) -> Any: ...
        def read_bytes(self) -> bytes: ...


__all__ = ["Tree", "bundled_tree", "given_tree"]

SUFFIXES = (".yaml", ".yml", ".json")
PACKED = ".gz"
# Inside a checkout of the specification: its evolution tree first, which is the one that corrects known mistakes of the
# long-term tree (FACTS of the specification, contradictions 1 and 4); what it lacks comes from the long-term tree.
SPECIFICATION_TREES = ("v2", "v1")


class _Packed:
    """A file that a wheel holds gzipped, under the name and with the bytes that it has everywhere else."""

    __slots__ = ("_file", "name")

    def __init__(self, file: Any) -> None:
        self._file = file
        self.name = file.name.removesuffix(PACKED)

    def read_bytes(self) -> bytes:
        return unpacked(self._file.read_bytes())


def is_url(text: str) -> bool:
    """Whether a source is named by URL rather than by path."""
    return text.startswith(("http://", "https://"))


class Tree:
    """Folders of providers, models and dialects, and where they came from.

    A file's name is relative to the tree where it is bundled, and the path as given elsewhere, so messages lead to it.
    """

    __slots__ = ("_files", "_fresh", "_index", "dist", "folders", "is_trusted", "label", "origin", "single")

    def __init__(
        self,
        folders: list[tuple[str, Any]],
        *,
        origin: Provenance,
        label: str,
        single: Any = None,
        dist: Any = None,
        is_trusted: bool = False,
    ) -> None:
        self.folders = folders  # (kind, folder): kinds are providers, models, dialects; earlier folders win
        self.origin = origin
        self.label = label
        self.single = single  # a file that is the whole tree
        self.dist = dist  # the folder `dist`, where there is one
        self.is_trusted = is_trusted  # it came with the sources in one wheel: no hash is looked at, models are packed
        self._files: dict[str, dict[str, Any]] = {}
        self._index: Index | bool | None = False  # False while nobody looked
        self._fresh: Index | bool | None = False

    def __repr__(self) -> str:
        return f"<Tree {self.origin} {self.label}>"

    def files(self, kind: str) -> dict[str, Any]:
        """File stem -> file, sorted by stem. Files of other kinds than YAML are left alone."""
        found = self._files.get(kind)
        if found is None:
            named: dict[str, Any] = {}
            for of, folder in self.folders:
                for file in _listed(folder) if of == kind else ():
                    if self.origin == "bundled" and file.name.endswith(PACKED):
                        file = _Packed(file)
                    stem, suffix = os.path.splitext(file.name)
                    if suffix in SUFFIXES and not stem.startswith("."):
                        named.setdefault(stem, file)
            found = self._files[kind] = dict(sorted(named.items()))
        return found

    def read(self, kind: str, stem: str) -> Document:
        """The document of one file. Raises `ManifestError`."""
        return self.read_file(self.files(kind)[stem], kind)

    def built(self, kind: str, stem: str) -> bytes | None:
        """The file of `dist/` that was made of this very source, or None where there is none."""
        index, file = self.index(), self.files(kind).get(stem)
        if index is None or file is None:
            return None
        recorded = index.sources.get(f"{kind}/{file.name}")
        if recorded is None or not (self.is_trusted or digest(self._bytes(file, kind)) == recorded):
            return None
        try:
            return self._built_bytes(kind, f"{stem}.json")
        except OSError:
            return None

    def _built_bytes(self, *name: str) -> bytes:
        """A file of `dist/`. Raises `OSError`."""
        is_packed = self.is_trusted and name[0] == "models"
        *folders, last = name
        data: bytes = self.dist.joinpath(*folders, f"{last}{PACKED if is_packed else ''}").read_bytes()
        return unpacked(data) if is_packed else data

    def without_dist(self) -> Tree:
        """The same sources, and no `dist/`."""
        return Tree(self.folders, origin=self.origin, label=self.label, single=self.single)

    def read_file(self, file: Any, kind: str = "") -> Document:
        """The document of a file of this tree, from its text."""
        from .yaml_source import read_yaml  # what came in a wheel is JSON

        return read_yaml(self._bytes(file, kind), self.name_of(file, kind))

    def name_of(self, file: Any, kind: str) -> str:
        """A file's name as messages show it."""
        return f"{kind}/{file.name}" if self.origin == "bundled" else str(file)

    def _bytes(self, file: Any, kind: str) -> bytes:
        try:
            data: bytes = file.read_bytes()
        except OSError as error:
            raise ManifestError(f"cannot be read: {error.strerror or error}", file=self.name_of(file, kind)) from None
        return data

    def index(self) -> Index | None:
        """The index of `dist/`, or None where there is none of our format."""
        if isinstance(self._index, bool):
            self._index = None
            try:
                found = None if self.dist is None else msgspec.json.decode(self._built_bytes("index.json"), type=Index)
            except (OSError, msgspec.MsgspecError):  # there is none, or another program's: the sources count
                found = None
            if found is not None and found.format == DIST_FORMAT:
                self._index = found
        return self._index

    def fresh_index(self) -> Index | None:
        """The index, if it was made of exactly the files that are here: then its names may stand for all of them."""
        if isinstance(self._fresh, bool):
            index = self._fresh = self.index()
            if index is not None and not self.is_trusted and self.hashes(KINDS) != index.sources:
                self._fresh = None
        return self._fresh

    def hashes(self, kinds: Sequence[str]) -> dict[str, str]:
        """File name in the tree -> SHA-256 of its bytes, of the files of some kinds."""
        index = self.index() if self.is_trusted else None
        if index is not None:
            return {name: found for name, found in index.sources.items() if name.partition("/")[0] in kinds}
        return {
            f"{kind}/{file.name}": digest(self._bytes(file, kind))
            for kind in kinds
            for file in self.files(kind).values()
        }


def _listed(folder: Any) -> list[Any]:
    """What is in a folder; nothing where it is not there. Raises `ManifestError` where it may not be read."""
    try:
        return list(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise ManifestError(f"cannot be read: {error.strerror or error}", file=str(folder)) from None


def bundled_tree() -> Tree:
    """The manifests that came with the package: inside it in a wheel or a zip of one, beside `src` in a checkout."""
    package: Any = Path(__file__).parent.parent
    if not package.is_dir():  # in a zip
        from importlib.resources import files  # on first use: it is slow to import

        package = files(__package__.partition(".")[0])
    inside = package.joinpath("_manifests")
    for root in (inside, package.parent.parent.joinpath("manifests")):
        if root.joinpath("spec.yaml").is_file():
            kinds = [(kind, root.joinpath(kind)) for kind in ("providers", "models", "dialects")]
            return Tree(
                [*kinds, ("root", root)],
                origin="bundled",
                label="bundled",
                dist=root.joinpath("dist"),
                is_trusted=root is inside,
            )
    raise ManifestError("the bundled manifests are missing: the installation is incomplete")


def given_tree(path: str | os.PathLike[str], *, origin: Provenance = "given") -> Tree:
    """A directory or file that the caller names.

    Understood are: a tree with `providers/` (ours, or one tree of the specification), a checkout of the
    specification (`v2/providers` and `v1/providers`), a directory of provider files, and one provider file.
    """
    root = Path(path)
    label = os.fspath(path)
    if not label:  # a variable that is not set, more likely than the folder that the program happens to run in
        raise ManifestError("expected a directory of manifests or a manifest, got an empty path")
    if os.path.isfile(root):
        return Tree([], origin=origin, label=label, single=root)
    if not os.path.isdir(root):
        raise ManifestError("expected a directory of manifests or a manifest, found neither", file=label)
    held = {file.name for file in _listed(root)}
    inner = [root / name for name in SPECIFICATION_TREES if name in held and (root / name / "providers").is_dir()]
    homes = [root] if "providers" in held and (root / "providers").is_dir() else inner
    if not homes:
        return Tree([("providers", root)], origin=origin, label=label)
    folders = [(kind, home / kind) for home in homes for kind in ("providers", "models", "dialects")]
    # A tree of ours may have its own `dist`; the specification's, of another layout, has no index of our format.
    return Tree(folders, origin=origin, label=label, dist=root / "dist" if len(homes) == 1 else None)
