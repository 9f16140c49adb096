"""What a model resolved to: where a call goes, with which programs and which key.

Imports protocol, pipeline and wire. Made once per (provider, model, api) by the client and shared by all its calls;
it holds nothing of a call.
"""

from __future__ import annotations

from typing import Any

import msgspec

from ..pipeline import DecodeProgram
from ..protocol.manifest import Auth, Family, Manifest
from ..protocol.registry import ModelFacts
from ..wire.auth import Pairs, holds_secret, secrets_of
from ..wire.encode import Encoder

__all__ = ["ActorKey", "Target"]


class ActorKey(msgspec.Struct, frozen=True):
    """One outlet of credit: an actor is an actor of this. `credential` is a masked wrapper, never text."""

    provider: str
    origin: str
    credential: Any


class Target:
    """One way to reach one model. `ref` is `provider/model`, `model` the id that goes on the wire.

    `name` is what it was asked for by: the same as `ref`, or an endpoint's. `provider_name` is what telemetry calls its
    provider, where that is not the id, and `server` is where requests go, as `host:port`.
    """

    __slots__ = (
        "auth",
        "base_url",
        "credential_source",
        "decoder",
        "dressed",
        "encoder",
        "facts",
        "family",
        "key",
        "manifest",
        "model",
        "name",
        "provider_name",
        "ref",
        "secret",
        "server",
    )

    def __init__(
        self,
        *,
        manifest: Manifest,
        family: Family,
        model: str,
        ref: str,
        facts: ModelFacts | None,
        auth: Auth,
        base_url: str,
        origin: str,
        secret: Any,
        credential_source: str,
        encoder: Encoder,
        decoder: DecodeProgram,
        name: str = "",
    ) -> None:
        self.manifest = manifest
        self.family = family
        self.model = model
        self.ref = ref
        self.facts = facts
        self.auth = auth  # the way that its key was found for
        self.base_url = base_url
        self.secret = secret
        self.credential_source = credential_source
        self.encoder = encoder
        self.decoder = decoder
        self.name = name or ref
        self.key = ActorKey(manifest.id, origin, secret)
        # (path, is it streamed) -> headers as encoded, URL and headers as sent: what requests have in common
        self.dressed: dict[tuple[str, bool], tuple[Pairs, str, Pairs]] = {}
        told = manifest.metadata.get("gen_ai_provider")
        self.provider_name = told if isinstance(told, str) else ""
        self.server = _server(origin)

    def masked(self, text: str) -> str:
        """The text without the target's key."""
        for secret in self._secrets():
            text = text.replace(secret, "<redacted>")
        return text

    def masked_name(self, name: str) -> str:
        """A name of the caller's own, without the target's key."""
        return self.masked(name) if holds_secret(name, self._secrets()) else name

    def _secrets(self) -> tuple[str, ...]:
        return () if self.secret is None else secrets_of(self.auth, self.secret.reveal())

    def __repr__(self) -> str:
        return f"<Target {self.ref} by {self.family.id} at {self.base_url}>"


def _server(origin: str) -> str:
    scheme, _, host = origin.partition("://")
    has_port = ":" in host.rpartition("]")[2]
    return host if has_port else f"{host}:{80 if scheme == 'http' else 443}"
