"""Requests -> what goes on the wire; what a provider refuses -> errors. Pure: imports protocol, types and errors.

`encode` compiles a dialect's templates, `auth` places a credential, `classify` reads refusals, `limits` the headers.
"""

from __future__ import annotations

from ..protocol.manifest import Manifest
from .classify import classify
from .encode import Encoded, Encoder
from .encode import compile_encoder as _compile

__all__ = ["Encoded", "Encoder", "classify", "compile_encoder"]


def compile_encoder(manifest: Manifest, api: str | None = None) -> Encoder:
    """The encoder of a provider's requests; `api` chooses one of its API families."""
    family = manifest.family(api)
    return _compile(family.encode, family.where.at("encode"), dialect=family.dialect)
