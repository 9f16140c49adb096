"""A tree of YAML becomes `dist/`: a JSON file for each, and an index of names with the hashes of what it was made of.

Imports `where`. The rule that must stay true: the same tree gives the same bytes, and a reader gets from them exactly
the values that were written, in the same order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from .where import Where

__all__ = [
    "DIST_FORMAT",
    "KINDS",
    "Index",
    "decode_data",
    "digest",
    "encode_data",
    "is_ours_to_write",
    "make_index",
    "packed",
    "plain",
    "restored",
    "shipped",
    "unpacked",
    "write_dist",
]

DIST_FORMAT = 2  # of the files; a reader takes another format for no dist at all
KINDS = ("providers", "models", "dialects", "root")
_PAIRS = "$pairs"  # a mapping with a key that is no text: JSON has none, and 429 is not '429'


class Index(msgspec.Struct, frozen=True):
    """`dist/index.json`. `sources`: file name in the tree -> SHA-256 of its bytes. The rest is names, for look-ups.

    `basis` is the hash of what loading goes by beside the files themselves. `names` are provider ids and aliases ->
    file stem; `models` are names that a model answers to -> provider -> key.
    """

    format: int
    basis: str
    sources: dict[str, str]
    names: dict[str, str]
    dialects: dict[str, str]
    models: msgspec.Raw  # most of the file, and most programs name the provider

    def read_models(self) -> dict[str, dict[str, str]]:
        """The `models` of the index."""
        return msgspec.json.decode(self.models, type=dict[str, dict[str, str]])


def digest(data: bytes) -> str:
    """The hash that the index records."""
    return hashlib.sha256(data).hexdigest()


def encode_data(data: Any, where: Where) -> bytes:
    """A document's value as JSON text, two spaces a level, in the document's order."""
    return msgspec.json.format(msgspec.json.encode(plain(data, where)), indent=2) + b"\n"


def plain(value: Any, where: Where) -> Any:
    """The value with every mapping that JSON cannot say written as pairs."""
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: plain(part, where.at(key)) for key, part in value.items()}
        return {_PAIRS: [[key, plain(part, where.at(key))] for key, part in value.items()]}
    if isinstance(value, list):
        return [plain(part, where.at(number)) for number, part in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise where.error("expected a number that JSON can hold")
    return value


def decode_data(text: bytes) -> Any:
    """The value that `encode_data` was given."""
    value = msgspec.json.decode(text)
    return restored(value) if b'"$pairs"' in text else value


def restored(value: Any) -> Any:
    """The value that `plain` was given."""
    if isinstance(value, dict):
        pairs = value.get(_PAIRS)
        if pairs is not None and len(value) == 1:
            return {key: restored(part) for key, part in pairs}
        return {key: restored(part) for key, part in value.items()}
    if isinstance(value, list):
        return [restored(part) for part in value]
    return value


def make_index(
    basis: str,
    sources: Mapping[str, str],
    names: Mapping[str, str],
    dialects: Mapping[str, str],
    models: Mapping[str, Mapping[str, str]],
) -> bytes:
    """The text of `index.json`, sorted."""
    index = Index(
        DIST_FORMAT,
        basis,
        dict(sorted(sources.items())),
        dict(sorted(names.items())),
        dict(sorted(dialects.items())),
        msgspec.Raw(msgspec.json.encode({name: dict(sorted(found.items())) for name, found in sorted(models.items())})),
    )
    return msgspec.json.format(msgspec.json.encode(index), indent=1) + b"\n"


def packed(data: bytes) -> bytes:
    """A file as a wheel holds it, gzipped without a time of its own: the same bytes for the same library."""
    import gzip  # when a wheel is built

    return gzip.compress(data, 9, mtime=0)


def shipped(built: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files of `dist/` as a wheel holds them: the lists of models are packed."""
    models = {f"{name}.gz": packed(data) for name, data in built.items() if name.startswith("models/")}
    return {name: data for name, data in built.items() if not name.startswith("models/")} | models


def unpacked(data: bytes) -> bytes:
    """What `packed` was given."""
    import zlib  # in a wheel; gzip itself is slow to import

    return zlib.decompress(data, 16 + zlib.MAX_WBITS)


def is_ours_to_write(out: Path) -> bool:
    """Whether a folder holds no JSON, or what `write_dist` may have written: other programs call theirs dist too."""
    index = out / "index.json"
    if not index.is_file():
        return next(out.rglob("*.json"), None) is None
    try:
        found = msgspec.json.decode(index.read_bytes())
    except msgspec.MsgspecError:
        return False
    return isinstance(found, dict) and {"format", "sources", "names", "dialects", "models"} <= found.keys()


def write_dist(out: Path, files: Mapping[str, bytes]) -> list[str]:
    """Write the files below `out`, and take away JSON files that no source has any more. Gives what changed."""
    changed = []
    for name, data in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_bytes() != data:
            path.write_bytes(data)
            changed.append(name)
    for path in sorted(out.rglob("*.json")):
        name = path.relative_to(out).as_posix()
        if name not in files:
            path.unlink()
            changed.append(name)
    return changed
