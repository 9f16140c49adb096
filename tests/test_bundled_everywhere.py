"""The bundled manifests are found equally from a checkout, a wheel unpacked into a directory, and a zip on sys.path."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def ask(path: Path | None, tmp_path: Path, what: str = ASK, *arguments: str) -> Any:
    """What a fresh interpreter finds whose first import directory is `path`."""
    first = f"import sys; sys.path.insert(0, {str(path)!r})\n" if path is not None else ""
    done = subprocess.run(
        [sys.executable, "-c", first + what, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


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
        name = f"ai_lib_trio/_manifests/{path.relative_to(ROOT / 'manifests').as_posix()}"
        assert (f"{name}.gz" if path.parent.name in ("providers", "dialects", "models") else name) in names
    for path in (ROOT / "conformance").rglob("*.yaml"):
        assert f"ai_lib_trio/_conformance/{path.relative_to(ROOT / 'conformance').as_posix()}" in names


READ_FAST = """
import json, sys
from ai_lib_trio.protocol import sources, validator
sources.read_yaml = lambda text, file: sys.exit(f"{file} was parsed")
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import manifest_tree
catalog = Catalog.open(environ={})
trees = {name: manifest_tree(catalog.provider(name)) for name in catalog.providers()}
refs = [catalog.resolve(f"{facts.provider}/{facts.key}").model_id for facts in catalog.models()]
statuses = sorted(catalog.error_table().by_http_status)
print(json.dumps({"trees": len(trees), "refs": len(refs), "statuses": statuses, "yaml": "yaml" in sys.modules}))
"""


def test_a_wheel_reads_what_was_built_and_parses_no_yaml(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    found = ask(site, tmp_path, READ_FAST)
    assert found["trees"] == len(list((ROOT / "manifests/providers").glob("*.yaml")))
    assert found["refs"]
    assert 429 in found["statuses"]
    assert found["yaml"] is False


HELD = """
import json, sys
from pathlib import Path
import fastjsonschema
fastjsonschema.compile = lambda *all, **named: sys.exit("a validator was compiled")
from ai_lib_trio.errors import ManifestError
from ai_lib_trio.protocol.loader import Catalog
said = []
for text in sys.argv[1:]:
    Path("acme.yaml").write_text(text)
    try:
        Catalog.open("acme.yaml", {}).provider("acme")
    except ManifestError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_a_wheel_holds_other_files_to_validators_that_were_made_with_it(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    base = 'id: acme\nprotocol_version: "2.0"\nendpoint: {base_url: "https://acme.example"}\n'
    texts = [base + "services: [7]\napi_families: {chat: {dialect: chat_completions}}\n", base + "streaming: 7\n", base]
    said = ask(site, tmp_path, HELD, *texts)
    assert [str(one).partition("] ")[2] for one in said] == [
        "acme.yaml:4 at services: expected a mapping, got a list",
        "acme.yaml:4 at streaming: expected a mapping, got the number 7",
    ]


def test_two_wheels_of_one_checkout_hold_the_same_built_files(wheel: Path) -> None:
    from ai_lib_trio.protocol.build import shipped
    from ai_lib_trio.protocol.loader import Catalog

    expected = Catalog.open(environ={}).build()
    with zipfile.ZipFile(wheel) as archive:
        inside = "ai_lib_trio/_manifests/dist/"
        built = {name[len(inside) :]: archive.read(name) for name in archive.namelist() if name.startswith(inside)}
    assert built == shipped(expected)
    models = {name for name in expected if name.startswith("models/")}
    assert {name: gzip.decompress(built[f"{name}.gz"]) for name in models} == {name: expected[name] for name in models}
    assert {name: built[name] for name in expected if name not in models} == {
        name: data for name, data in expected.items() if name not in models
    }


def test_git_does_not_keep_what_is_built() -> None:
    assert "/manifests/dist/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_a_wheel_is_not_built_from_a_manifest_with_a_fault(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    for part in ("src", "manifests", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__", "dist"))
        else:
            shutil.copy(source, tmp_path / part)
    (tmp_path / "manifests/providers/acme.yaml").write_text("id: acme\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert "providers/acme.yaml:1: expected 'protocol_version', got nothing" in done.stdout + done.stderr
