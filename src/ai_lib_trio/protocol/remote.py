"""Manifests from a URL: what a pin is, what the cache keeps, and how an archive becomes a tree. No network here.

Imports `errors`, `sources`, `trust`. The rule that must stay true: bytes that do not have the pinned hash are never
looked into, and what was fetched once is used without asking anybody again.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ..errors import CallerError, ManifestError
from .sources import Tree
from .trust import origin_of

__all__ = ["MAX_ARCHIVE_BYTES", "Cache", "Pin", "parse_pin", "tree_of"]

MAX_ARCHIVE_BYTES = 32 * 1024 * 1024  # unpacked; the whole bundled set is under 2 MB
_KINDS = ("providers", "models", "dialects")


class Pin(msgspec.Struct, frozen=True):
    """A URL and what holds it in place: the hash of its bytes, or a version in its path (then the first bytes that
    came are the ones it stands for)."""

    url: str
    sha256: str | None


def parse_pin(text: str) -> Pin:
    """A pin as people write it: `https://host/manifests.zip#sha256=...`, or a URL with a version such as `v1.2.3`.

    Raises `CallerError` (bad_argument) for a URL that is not pinned, and for plain http to another machine.
    """
    url, _, fragment = text.partition("#")
    origin = origin_of(url)
    if origin.scheme != "https" and not origin.is_loopback:
        raise CallerError("manifests are fetched by https, or from this machine", kind="bad_argument")
    if fragment:
        found = re.fullmatch(r"sha256=([0-9a-fA-F]{64})", fragment)
        if found is None:
            raise CallerError("expected '#sha256=' and 64 hexadecimal digits after the URL", kind="bad_argument")
        return Pin(url, found.group(1).lower())
    if re.search(r"[/@=_-]v?\d+\.\d+(?:\.\d+)?(?=[/._-]|$)", url) is None:
        raise CallerError("expected a URL pinned by '#sha256=...' or by a version in its path", kind="bad_argument")
    return Pin(url, None)


class Cache:
    """A directory of fetched bytes by URL. Files are written whole or not at all; several processes may share it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Cache:
        """The user's: `AI_LIB_CACHE`, else below `XDG_CACHE_HOME`, else `~/.cache`."""
        named = environ.get("AI_LIB_CACHE", "").strip()
        base = environ.get("XDG_CACHE_HOME", "").strip() or os.path.join(environ.get("HOME", "~"), ".cache")
        return cls(Path(named) if named else Path(base).expanduser() / "ai-lib-trio" / "manifests")

    def _file(self, pin: Pin) -> Path:
        return self.root / hashlib.sha256(pin.url.encode()).hexdigest()

    def get(self, pin: Pin) -> bytes | None:
        """What was kept for this pin, or None. Bytes that do not fit the pin's hash count as not there."""
        try:
            data = self._file(pin).read_bytes()
        except FileNotFoundError:
            return None
        if pin.sha256 is not None and hashlib.sha256(data).hexdigest() != pin.sha256:
            return None
        return data

    def put(self, pin: Pin, data: bytes) -> None:
        """Keep fetched bytes. Raises `ManifestError` where they are not what the pin says."""
        actual = hashlib.sha256(data).hexdigest()
        if pin.sha256 is not None and actual != pin.sha256:
            raise ManifestError(f"expected bytes with the SHA-256 {pin.sha256}, got {actual}", file=pin.url)
        self.root.mkdir(parents=True, exist_ok=True)
        target = self._file(pin)
        partial = target.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(data)
        os.replace(partial, target)


def tree_of(pin: Pin, data: bytes) -> Tree:
    """The tree in fetched bytes: a zip with `providers/` (and `models/`, `dialects/`) at its top or in its one folder.

    Its origin is `fetched`. Raises `ManifestError` for what is no such archive, or too large unpacked.
    """
    import zipfile  # on first use: slow to import, and few have manifests at a URL

    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        entries = archive.infolist()
    except zipfile.BadZipFile:
        raise ManifestError("expected a zip of manifests", file=pin.url) from None
    if sum(entry.file_size for entry in entries) > MAX_ARCHIVE_BYTES:
        raise ManifestError(f"expected at most {MAX_ARCHIVE_BYTES} bytes unpacked, got more", file=pin.url)
    try:
        broken = archive.testzip()
    except (RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:  # a password, an unknown method, a cut
        raise ManifestError(f"expected a zip whose files can be read: {error}", file=pin.url) from None
    if broken is not None:
        raise ManifestError(f"expected a zip whose files can be read, got a broken {broken!r}", file=pin.url)
    archive.filename = pin.url  # what places in messages begin with
    root = zipfile.Path(archive)
    inner = [folder for folder in root.iterdir() if folder.is_dir()]
    if not (root / "providers").is_dir() and len(inner) == 1:
        root = inner[0]
    if not (root / "providers").is_dir():
        raise ManifestError("expected a folder 'providers' in the archive", file=pin.url)
    folders = [(kind, root / kind) for kind in _KINDS]
    return Tree(folders, origin="fetched", label=pin.url)
