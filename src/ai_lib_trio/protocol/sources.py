"""Where manifests lie: directories and single files, in a wheel, a checkout or a zip, as trees of YAML texts.

Imports `errors`, `manifest` for names alone, `yaml_source`. The rule that must stay true: opening a tree reads
nothing but the names of its files.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ManifestError
from .manifest import Provenance
from .yaml_source import Document, read_yaml

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

SUFFIXES = (".yaml", ".yml")
# Inside a checkout of the specification: its evolution tree first, which is the one that corrects known mistakes of the
# long-term tree (FACTS of the specification, contradictions 1 and 4); what it lacks comes from the long-term tree.
SPECIFICATION_TREES = ("v2", "v1")


class Tree:
    """Folders of providers, models and dialects, and where they came from.

    A file's name is relative to the tree where it is bundled, and the path as given elsewhere, so messages lead to it.
    """

    __slots__ = ("_files", "folders", "label", "origin", "single")

    def __init__(
        self,
        folders: list[tuple[str, Any]],
        *,
        origin: Provenance,
        label: str,
        single: Any = None,
    ) -> None:
        self.folders = folders  # (kind, folder): kinds are providers, models, dialects; earlier folders win
        self.origin = origin
        self.label = label
        self.single = single  # a file that is the whole tree
        self._files: dict[str, dict[str, Any]] = {}

    def __repr__(self) -> str:
        return f"<Tree {self.origin} {self.label}>"

    def files(self, kind: str) -> dict[str, Any]:
        """File stem -> file, sorted by stem. Files of other kinds than YAML are left alone."""
        found = self._files.get(kind)
        if found is None:
            named: dict[str, Any] = {}
            for of, folder in self.folders:
                if of != kind or not folder.is_dir():
                    continue
                for file in folder.iterdir():
                    stem, suffix = os.path.splitext(file.name)
                    if suffix in SUFFIXES and not stem.startswith("."):
                        named.setdefault(stem, file)
            found = self._files[kind] = dict(sorted(named.items()))
        return found

    def read(self, kind: str, stem: str) -> Document:
        """The document of one file. Raises `ManifestError`."""
        return self.read_file(self.files(kind)[stem], kind)

    def read_file(self, file: Any, kind: str = "") -> Document:
        """The document of a file of this tree."""
        name = f"{kind}/{file.name}" if self.origin == "bundled" else str(file)
        try:
            data = file.read_bytes()
        except OSError as error:
            raise ManifestError(f"cannot be read: {error.strerror or error}", file=name) from None
        return read_yaml(data, name)


def bundled_tree() -> Tree:
    """The manifests that came with the package: inside it in a wheel or a zip of one, beside `src` in a checkout."""
    from importlib.resources import files  # on first use: it is slow to import

    package: Any = files(__package__.partition(".")[0])
    for root in (package.joinpath("_manifests"), package.parent.parent.joinpath("manifests")):
        if root.joinpath("spec.yaml").is_file():
            kinds = [(kind, root.joinpath(kind)) for kind in ("providers", "models", "dialects")]
            tree = Tree(kinds, origin="bundled", label="bundled")
            tree.folders.append(("root", root))
            return tree
    raise ManifestError("the bundled manifests are missing: the installation is incomplete")


def given_tree(path: str | os.PathLike[str], *, origin: Provenance = "given") -> Tree:
    """A directory or file that the caller names.

    Understood are: a tree with `providers/` (ours, or one tree of the specification), a checkout of the
    specification (`v2/providers` and `v1/providers`), a directory of provider files, and one provider file.
    """
    root = Path(path)
    label = os.fspath(path)
    if root.is_file():
        return Tree([], origin=origin, label=label, single=root)
    if not root.is_dir():
        raise ManifestError("expected a directory of manifests or a manifest, found neither", file=label)
    inner = [root / name for name in SPECIFICATION_TREES if (root / name / "providers").is_dir()]
    homes = [root] if (root / "providers").is_dir() else inner
    if not homes:
        return Tree([("providers", root)], origin=origin, label=label)
    folders = [(kind, home / kind) for home in homes for kind in ("providers", "models", "dialects")]
    return Tree(folders, origin=origin, label=label)
