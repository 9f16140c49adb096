"""From a model's name to a target: which provider, which API, which host, which key, and the compiled programs.

Imports protocol, pipeline, wire, `transport.credentials` and `actors.target`. The rule that must stay true: a key is
looked up, checked against the host it would go to, and only then put into a target.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..actors.target import Target
from ..errors import CallerError
from ..pipeline import DecodeProgram, compile_decoder
from ..protocol.loader import Catalog
from ..protocol.manifest import Auth, Family, Manifest
from ..protocol.trust import check_credential, fill, origin_of
from ..transport.credentials import Credential, CredentialStore
from ..wire.auth import holds_secret, secrets_of
from ..wire.encode import Encoder, compile_encoder

__all__ = ["Targets", "compile_family", "is_routed"]


def is_routed(model: str | None) -> bool:
    """Whether a model's name is an array's."""
    return model is not None and model.startswith("@")


class Place(msgspec.Struct, frozen=True):
    """Where a name leads: a model, and a URL and a key in place of the client's own."""

    model: str
    base_url: str | None
    api_key: str | None


class Targets:
    """Resolves and remembers. `base_urls` and `api_keys` are the caller's, by provider id."""

    def __init__(
        self,
        catalog: Catalog,
        environ: Mapping[str, str],
        *,
        base_urls: Mapping[str, str],
        api_keys: Mapping[str, str],
    ) -> None:
        self._catalog = catalog
        self._environ = environ
        self._base_urls = base_urls
        self._api_keys = api_keys
        self._credentials = CredentialStore(environ)
        self._targets: dict[tuple[str, str | None], Target] = {}
        self._programs: dict[tuple[str, str], tuple[Encoder, DecodeProgram]] = {}
        self._places: dict[str, Place] = {}

    def place(self, name: str, model: str, *, base_url: str | None, api_key: str | None) -> None:
        """From now on `name` finds this model, at a URL and with a key of its own where they are given."""
        self._places[name] = Place(model, base_url, api_key)

    def known(self, model: str, api: str | None) -> Target | None:
        """The target for a model, if it was found before."""
        return self._targets.get((model, api))

    def has_api(self, model: str, api: str) -> bool:
        """Whether the model's provider has an API of that name."""
        place = self._places.get(model)
        ref = self._catalog.resolve(model if place is None else place.model)
        return api in self._catalog.provider(ref.provider_id).families

    async def find(self, model: str, api: str | None) -> Target:
        """The target for a model, by the provider's default API or the one named."""
        target = self._targets.get((model, api))
        if target is None:
            catalog = self._catalog
            target = await self._make(model, api)
            if catalog is self._catalog:  # else it is this call's alone: what the next ones go by is another
                # Of calls that begin together each finds one: they all go by the first, and by what was learnt for it.
                target = self._targets.setdefault((model, api), target)
        return target

    def swap(self, catalog: Catalog) -> None:
        """Go by another catalogue from now on. Targets that calls have stay as they are."""
        self._catalog = catalog
        self._targets = {}
        self._programs = {}

    async def _make(self, model: str, api: str | None) -> Target:
        place = self._places.get(model) or Place(model, None, None)
        ref = self._catalog.resolve(place.model)
        manifest = self._catalog.provider(ref.provider_id)
        given_url = place.base_url if place.base_url is not None else self._base_urls.get(manifest.id)
        api_key = place.api_key or self._api_keys.get(manifest.id)
        family = self._family(manifest, api)
        encoder, decoder = self._compiled(manifest, family)
        declared = self._declared_url(manifest, is_given=given_url is not None)
        base_url = given_url if given_url is not None else declared  # one that is empty is a mistake, and told as one
        if base_url is None:
            raise CallerError(f"{manifest.id} has no base URL: give one", kind="bad_argument", provider=manifest.id)
        origin = origin_of(base_url)
        credential = await self._credentials.find(manifest, explicit=api_key)
        auth = manifest.auth
        if credential is not None:
            auth = credential.auth or auth
            for name in credential.names:
                check_credential(
                    manifest,
                    source=credential.source,
                    name=name,
                    target=origin,
                    declared=origin if declared is None else origin_of(declared),
                    base_url=origin if given_url is not None else None,
                    own=None if manifest.origin == "bundled" else self._catalog.own_keys(),
                )
            if holds_secret(ref.model_id, secrets_of(auth, credential.secret.reveal())):
                raise CallerError(  # it would be in every record, log line and span
                    f"the model's name holds the key of {manifest.id}: give the key as api_key", kind="bad_argument"
                )
        return Target(
            manifest=manifest,
            family=family,
            model=ref.model_id,
            ref=ref.ref,
            facts=ref.facts,
            auth=self._filled(manifest, auth),
            base_url=base_url,
            origin=str(origin),
            secret=credential.secret if credential is not None else None,
            credential_source=_told(credential),
            encoder=encoder,
            decoder=decoder,
            name=model if model in self._places else "",
        )

    def _filled(self, manifest: Manifest, auth: Auth) -> Auth:
        """The way to authenticate, with the variables in its scope. One that is not set is refused by the signature."""
        if auth.chain is None:
            return auth
        variables = manifest.endpoint.variables
        values = {"${" + name + "}": self._environ.get(variable, "").strip() for name, variable in variables.items()}
        scope = tuple(values.get(part) or part for part in auth.chain.scope)
        return msgspec.structs.replace(auth, chain=msgspec.structs.replace(auth.chain, scope=scope))

    def _declared_url(self, manifest: Manifest, *, is_given: bool) -> str | None:
        """The manifest's own base URL. Variables that it needs are not asked for where the caller gave a URL."""
        endpoint = manifest.endpoint
        if is_given and endpoint.variables:
            return None
        values = {name: self._environ.get(variable, "") for name, variable in endpoint.variables.items()}
        return fill(endpoint.base_url, values)

    def _family(self, manifest: Manifest, api: str | None) -> Family:
        name = api or manifest.default_family
        family = manifest.families.get(name)
        if family is None:
            known = ", ".join(sorted(manifest.families)) or "none"
            raise CallerError(
                f"{manifest.id} has no API {name!r}; it has: {known}", kind="bad_argument", provider=manifest.id
            )
        return family

    def _compiled(self, manifest: Manifest, family: Family) -> tuple[Encoder, DecodeProgram]:
        programs = self._programs.get((manifest.id, family.id))
        if programs is None:
            programs = self._programs[manifest.id, family.id] = compile_family(family)
        return programs


def compile_family(family: Family) -> tuple[Encoder, DecodeProgram]:
    """The programs of one API. Raises `ManifestError` with file, line and path."""
    return (
        compile_encoder(family.encode, family.where.at("encode"), dialect=family.dialect),
        compile_decoder(family.decode, family.where.at("decode")),
    )


def _told(credential: Credential | None) -> str:
    return "none" if credential is None else credential.name
