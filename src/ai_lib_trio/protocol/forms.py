"""What loading came to, as JSON, and back: the files of `dist/` for providers and models.

Imports `build`, `dialects`, `manifest`, `registry`, `where`. The rule that must stay true: what is read back equals
what was written, but for the places in the sources, which a file of `dist/` does not know.
"""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from .build import plain, restored
from .dialects import DialectOf, Family, FamilyForm
from .manifest import Manifest, Provenance
from .registry import ModelFacts
from .where import Where

__all__ = ["FORM_FIELDS", "encode_manifest", "encode_models", "read_manifest_form", "read_models_form"]

# A struct with another set of fields is another form: what was built for it is built anew.
FORM_FIELDS = "|".join(",".join(each.__struct_fields__) for each in (Manifest, FamilyForm, ModelFacts))
_OF_THE_TREE = ("where", "file", "origin")  # the reader knows them better
_BY_NUMBER = "by_http_status"  # its type says that its keys are numbers, so JSON's text does


def encode_manifest(manifest: Manifest) -> bytes:
    """A manifest as JSON text, without what is as it is by default. The same manifest gives the same bytes."""
    tree = {name: value for name, value in _sparse(manifest).items() if name not in _OF_THE_TREE}
    return _text(plain(tree, manifest.where))


def encode_models(models: list[ModelFacts]) -> bytes:
    """The models of one file, in its order."""
    return _text([_sparse(facts) for facts in models])


def _text(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _sparse(value: Any) -> Any:
    """Structs as mappings without their defaults, sets as sorted lists; what is as written stays as it is."""
    if isinstance(value, Family):
        return _sparse(value.form)
    if isinstance(value, msgspec.Struct):
        out = {}
        for field in msgspec.structs.fields(value):
            part = getattr(value, field.name)
            if field.default_factory is not msgspec.NODEFAULT:
                usual = field.default_factory()
            else:
                usual = field.default
            if part != usual:
                by_number = field.name == _BY_NUMBER
                out[field.encode_name] = {str(key): one for key, one in part.items()} if by_number else _sparse(part)
        return out
    if isinstance(value, frozenset):
        return sorted(value)
    if isinstance(value, tuple):
        return [_sparse(part) for part in value]
    if isinstance(value, dict):
        return {key: _sparse(part) for key, part in value.items()}
    return value


def read_manifest_form(text: bytes, dialect_of: DialectOf, *, origin: Provenance, file: str) -> Manifest:
    """The manifest in a file of `dist/`; its families look their dialects up in `dialect_of`.

    Raises `msgspec.MsgspecError` for what we did not write.
    """
    if b'"$pairs"' in text:
        found = msgspec.convert(restored(msgspec.json.decode(text)), Manifest, dec_hook=_hook, str_keys=True)
    else:
        found = _decoder().decode(text)
    where = Where(file)
    families = {name: Family(unbound.form, dialect_of, where) for name, unbound in found.families.items()}
    return msgspec.structs.replace(found, families=families, origin=origin, file=file, where=where)


@functools.cache
def _decoder() -> msgspec.json.Decoder[Manifest]:
    return msgspec.json.Decoder(Manifest, dec_hook=_hook)


def _hook(kind: type, value: Any) -> Any:
    if kind is Family:
        return Family(msgspec.convert(value, FamilyForm), lambda name: None, Where())
    raise NotImplementedError(f"no form of {kind}")


def read_models_form(text: bytes) -> list[ModelFacts]:
    """The models in a file of `dist/`. Raises `msgspec.MsgspecError` for what we did not write."""
    return msgspec.json.decode(text, type=list[ModelFacts])
