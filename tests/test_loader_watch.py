"""Hot reload: a changed tree is swapped in whole, a faulty one never, and what is in use stays as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_lib_trio import ManifestError
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.watch import Reloader, watched_paths

ACME = """\
id: acme
protocol_version: "2.0"
name: One
endpoint: {base_url: https://acme.example}
api_families: {chat: {dialect: toy}}
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in {"providers/acme.yaml": ACME, "dialects/toy.yaml": "id: toy\nencode: {path: /a}\n"}.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def reloader(tree: Path) -> Reloader:
    return Reloader(lambda: Catalog.open(tree, {}))


def change(path: Path, text: str) -> None:
    """Write a file so that its change time differs, however coarse the clock of the file system is."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(before + 1_000_000_000, before + 1_000_000_000))


def test_nothing_changed_is_no_change(tree: Path) -> None:
    following = reloader(tree)
    before = following.catalog
    assert following.poll() is None
    assert following.catalog is before


def test_a_changed_file_is_swapped_in_and_the_old_catalogue_stays_as_it_was(tree: Path) -> None:
    following = reloader(tree)
    before = following.catalog
    held = before.provider("acme")
    change(tree / "providers/acme.yaml", ACME.replace("One", "Two"))
    found = following.poll()
    assert found is not None
    assert found.fault is None
    assert [Path(name).name for name in found.files] == ["acme.yaml"]
    assert following.catalog.provider("acme").name == "Two"
    assert (before.provider("acme").name, held.name) == ("One", "One")
    assert following.generation == 1
    assert following.poll() is None


def test_a_changed_dialect_reaches_its_providers(tree: Path) -> None:
    following = reloader(tree)
    change(tree / "dialects/toy.yaml", "id: toy\nencode: {path: /b}\n")
    assert following.poll() is not None
    assert following.catalog.provider("acme").family().encode == {"path": "/b"}


@pytest.mark.parametrize(("name", "text"), [("providers/acme.yaml", "id: ["), ("dialects/toy.yaml", "id: other\n")])
def test_a_broken_file_keeps_the_old_one_and_says_so(tree: Path, name: str, text: str) -> None:
    following = reloader(tree)
    before = following.catalog
    right = (tree / name).read_text(encoding="utf-8")
    change(tree / name, text)
    found = following.poll()
    assert found is not None
    assert found.fault is not None
    assert name in str(found.fault)
    assert following.catalog is before
    assert following.fault is found.fault
    assert following.poll() is None
    change(tree / name, right)
    assert following.poll() is not None
    assert following.fault is None
    assert following.generation == 1


def test_new_and_removed_files_are_changes(tree: Path) -> None:
    following = reloader(tree)
    change(tree / "providers/beta.yaml", ACME.replace("id: acme", "id: beta"))
    assert following.poll() is not None
    assert following.catalog.has_provider("beta")
    (tree / "providers/beta.yaml").unlink()
    assert following.poll() is not None
    assert not following.catalog.has_provider("beta")


def test_a_single_file_is_watched_too(tree: Path) -> None:
    file = tree / "providers/acme.yaml"
    change(file, ACME.replace("toy", "chat_completions"))
    following = Reloader(lambda: Catalog.open(file, {}))
    assert file in watched_paths(following.catalog)
    change(file, ACME.replace("toy", "chat_completions").replace("One", "Two"))
    assert following.poll() is not None
    assert following.catalog.provider("acme").name == "Two"


def test_a_folder_that_may_not_be_read_keeps_what_was_read_and_says_so(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = reloader(tree)
    assert following.catalog.provider("acme").name == "One"
    listed = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path == tree / "providers":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    with monkeypatch.context() as locked:
        locked.setattr(Path, "iterdir", iterdir)
        assert following.has_changed()
        assert following.poll() is not None
        assert "providers: cannot be read: Permission denied" in str(following.fault)
        assert following.catalog.provider("acme").name == "One"
        with pytest.raises(ManifestError, match="Permission denied"):
            Catalog.open(tree, {}).provider("acme")
    assert following.poll() is not None
    assert following.fault is None
