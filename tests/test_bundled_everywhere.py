"""The bundled manifests are found equally from a checkout, a wheel unpacked into a directory, and a zip on sys.path."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ASK = """
import json, sys
from ai_lib_trio.protocol.loader import Catalog
catalog = Catalog.open(environ={})
print(json.dumps({
    "from": sys.modules["ai_lib_trio"].__file__,
    "providers": catalog.providers(),
    "dialects": catalog.dialects(),
    "models": len(catalog.models()),
    "loaded": [catalog.provider(name).name for name in catalog.providers()],
}))
"""


def ask(path: Path | None, tmp_path: Path) -> Mapping[str, object]:
    """What a fresh interpreter finds whose first import directory is `path`."""
    first = f"import sys; sys.path.insert(0, {str(path)!r})\n" if path is not None else ""
    done = subprocess.run(
        [sys.executable, "-c", first + ASK], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built by the backend in this environment, or by pip where there is none."""
    out = tmp_path_factory.mktemp("wheel")
    try:
        import hatchling  # noqa: F401

        isolation = ["--no-build-isolation"]
    except ImportError:
        isolation = []
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *isolation, "-w", str(out), str(ROOT)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no wheel can be built here: {done.stderr.strip().splitlines()[-1:]}")
    (built,) = out.glob("*.whl")
    return built


def same(found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    for key in ("providers", "dialects", "models", "loaded"):
        assert found[key] == expected[key]


def test_a_checkout_finds_its_manifests(tmp_path: Path) -> None:
    found = ask(ROOT / "src", tmp_path)
    files = sorted(path.stem for path in (ROOT / "manifests/providers").glob("*.yaml"))
    assert found["providers"] == files
    assert str(found["from"]).startswith(str(ROOT))


def test_a_wheel_that_is_unpacked_finds_the_same(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    found = ask(site, tmp_path)
    assert str(found["from"]).startswith(str(site))
    same(found, ask(ROOT / "src", tmp_path))


def test_a_zip_on_the_path_finds_the_same(wheel: Path, tmp_path: Path) -> None:
    archive = tmp_path / "app.zip"
    shutil.copy(wheel, archive)
    found = ask(archive, tmp_path)
    assert str(found["from"]).startswith(str(archive))
    same(found, ask(ROOT / "src", tmp_path))


def test_a_zip_of_a_checkout_finds_the_same(tmp_path: Path) -> None:
    archive = tmp_path / "checkout.zip"
    with zipfile.ZipFile(archive, "w") as into:
        for top in ("src", "manifests"):
            for path in sorted((ROOT / top).rglob("*")):
                if path.is_file() and "__pycache__" not in path.parts:
                    into.write(path, path.relative_to(ROOT))
    found = ask(archive / "src", tmp_path)
    assert str(found["from"]).startswith(str(archive))
    same(found, ask(ROOT / "src", tmp_path))


def test_the_wheel_carries_its_type_marker_and_every_manifest(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert "ai_lib_trio/py.typed" in names
    for path in (ROOT / "manifests").rglob("*.yaml"):
        assert f"ai_lib_trio/_manifests/{path.relative_to(ROOT / 'manifests').as_posix()}" in names
