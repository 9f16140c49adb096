"""Manifests from a URL: pinned, kept for offline, and unable to be what is bundled."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import pytest

from ai_lib_trio.errors import CallerError, ManifestError
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import manifest_tree
from ai_lib_trio.protocol.remote import Cache, Pin, parse_pin, tree_of
from ai_lib_trio.protocol.sources import is_url
from ai_lib_trio.transport.remote import fetch_tree

FAR = """\
id: far
protocol_version: "2.0"
name: Far
endpoint: {base_url: https://far.example, auth: {type: bearer, token_env: FAR_API_KEY}}
api_families: {chat: {dialect: chat_completions}}
"""


def archive(files: dict[str, str], top: str = "") -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as into:
        for name, text in files.items():
            into.writestr(top + name, text)
    return data.getvalue()


def pinned(data: bytes) -> Pin:
    return parse_pin(f"https://far.example/m.zip#sha256={hashlib.sha256(data).hexdigest()}")


def opened(files: dict[str, str], top: str = "") -> Catalog:
    data = archive(files, top)
    return Catalog.open(tree_of(pinned(data), data), {})


@pytest.mark.parametrize(
    "text",
    [
        "https://far.example/m.zip",
        "https://far.example/m.zip#sha256=12",
        "https://far.example/m.zip#md5=" + "0" * 64,
        "http://far.example/v1.0/m.zip",
        "ftp://far.example/v1.0/m.zip",
        "https://user:pw@far.example/v1.0/m.zip",
        "https://far.example/latest/m.zip",
    ],
)
def test_a_url_that_is_not_pinned_or_not_safe_is_refused(text: str) -> None:
    with pytest.raises(CallerError) as caught:
        parse_pin(text)
    assert caught.value.kind == "bad_argument"


def test_a_url_is_pinned_by_hash_or_by_version() -> None:
    assert parse_pin("https://a.example/m.zip#sha256=" + "AB" * 32).sha256 == "ab" * 32
    for url in ("https://a.example/v1.2.3/m.zip", "https://a.example/m-1.2.zip", "http://127.0.0.1:8/v2.0/m.zip"):
        assert parse_pin(url) == Pin(url, None)
    assert is_url("https://a.example")
    assert not is_url("manifests/here")


def test_bytes_that_are_not_what_the_pin_says_are_neither_kept_nor_used(tmp_path: Path) -> None:
    cache, pin = Cache(tmp_path), pinned(b"right")
    with pytest.raises(ManifestError, match="expected bytes with the SHA-256"):
        cache.put(pin, b"wrong")
    assert cache.get(pin) is None
    cache.put(pin, b"right")
    assert cache.get(pin) == b"right"
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"changed on disk")
    assert cache.get(pin) is None


async def test_a_kept_copy_is_used_without_any_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = archive({"providers/far.yaml": FAR})
    cache, pin = Cache(tmp_path), pinned(data)
    cache.put(pin, data)

    async def refuse(url: str) -> bytes:
        raise AssertionError("the network was used")

    monkeypatch.setattr("ai_lib_trio.transport.remote._fetch", refuse)
    tree = await fetch_tree(f"{pin.url}#sha256={pin.sha256}", cache)
    assert Catalog.open(tree, {}).provider("far").origin == "fetched"


async def test_offline_without_a_copy_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be fetched and no copy is kept"):
        await fetch_tree("http://127.0.0.1:9/v1.0/m.zip", Cache(tmp_path))


@pytest.mark.parametrize("top", ["", "manifests-1.0/"])
def test_an_archive_is_a_source(top: str) -> None:
    catalog = opened({"providers/far.yaml": FAR}, top)
    assert catalog.provider("far").name == "Far"
    assert catalog.provider("far").family().encode["path"] == "/chat/completions"


@pytest.mark.parametrize("data", [b"", b"no zip", archive({"readme.txt": "x"})])
def test_what_is_no_archive_of_manifests_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match="expected a"):
        tree_of(Pin("https://a.example/v1.0", None), data)


def test_an_archive_whose_files_cannot_be_read_is_refused_as_a_whole() -> None:
    whole = archive({"providers/far.yaml": FAR})
    central = whole.find(b"PK\x01\x02")
    content = whole.find(b"providers/far.yaml") + len("providers/far.yaml")
    for changes in (
        {content + 3: 255, content + 10: 255},  # no such code
        {central + 16: 1, central + 17: 2},  # another sum
        {6: 1, central + 8: 1},  # encrypted
        {8: 99, central + 10: 99},  # an unknown method
        {central + 42: 255},  # it stands elsewhere
    ):
        data = bytearray(whole)
        for at, value in changes.items():
            data[at] = value
        with pytest.raises(ManifestError, match="expected a zip whose files can be read"):
            tree_of(Pin("https://a.example/v1.0", None), bytes(data))


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_unpacked() -> None:
    data = archive({"providers/far.yaml": "#" * 40_000_000})
    assert len(data) < 100_000
    with pytest.raises(ManifestError, match="unpacked"):
        tree_of(Pin("https://a.example/v1.0", None), data)


def test_a_fetched_tree_does_not_take_the_place_of_what_is_bundled() -> None:
    bundled = Catalog.open(environ={})
    name = bundled.providers()[0]
    fake = FAR.replace("id: far", f"id: {name}")
    fake_models = f'protocol_version: "2.0"\nmodels: {{evil: {{provider: {name}, model_id: evil}}}}\n'
    catalog = opened({f"providers/{name}.yaml": fake, "providers/far.yaml": FAR, f"models/{name}.yaml": fake_models})
    assert catalog.provider(name).origin == "bundled"
    assert manifest_tree(catalog.provider(name)) == manifest_tree(bundled.provider(name))
    assert all(facts.key != "evil" for facts in catalog.models(name))
    assert catalog.provider("far").origin == "fetched"


@pytest.mark.parametrize(
    ("change", "into"),
    [
        ("FAR_API_KEY", "HOME"),
        ("id: far", "id: far\naliases: [openai]"),
        ("https://far.example", "https://api.openai.com"),
        ("endpoint: {", "endpoint: {variables: {x: AWS_SECRET_ACCESS_KEY}, "),
    ],
)
def test_a_fetched_manifest_that_reaches_for_more_is_refused(change: str, into: str) -> None:
    with pytest.raises(ManifestError):
        opened({"providers/far.yaml": FAR.replace(change, into)}).provider("far")
