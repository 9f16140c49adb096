"""Cases about keys: where they are found, how they go on the wire, and that they are never shown.

Imports `errors`, `protocol`, `wire`, `transport.credentials`; trio, as a keyring is asked there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import CredentialError
from ..protocol.manifest import Manifest
from ..transport.credentials import Credential, CredentialStore, looks_around, search_for
from ..wire.auth import attach
from .compare import Check, Difference, each_in, none_in
from .suite import Bench, Case

__all__ = ["auth_attachment", "credential_resolution"]


class _Looking:
    """One look for a key, and everything that it showed."""

    def __init__(self, case: Case, manifest: Manifest) -> None:
        self.manifest = manifest
        self.environ = {str(name): str(value) for name, value in (case.setup.get("env") or {}).items()}
        self.implicit = looks_around(case.input.get("runtime_target"))
        self.explicit = case.input.get("explicit_credential")
        self.found, self.message, self.asked = self.look(self.environ, self.explicit)
        search = search_for(manifest)
        self.diagnostics = "\n".join([self.message, *search.diagnostics])
        self.shown = "\n".join([repr(self.found), str(self.found), f"{self.found}", self.diagnostics])

    def look(self, environ: dict[str, str], explicit: str | None) -> tuple[Credential | None, str, bool]:
        """What is found, what an error says, and whether the keyring was asked."""
        import trio

        asked: list[str] = []

        def keyring(service: str, user: str) -> str | None:
            asked.append(service)
            return None

        async def main() -> Credential | None:
            store = CredentialStore(environ, keyring=keyring, implicit=self.implicit)
            return await store.find(self.manifest, explicit=explicit)

        try:
            return trio.run(main), "", bool(asked)
        except CredentialError as error:
            return None, error.message, bool(asked)


def credential_resolution(case: Case, bench: Bench) -> dict[str, Any]:
    """Which of the places gives the key, and what is said where none does."""
    looking = _Looking(case, bench.manifest(case))
    found, search = looking.found, search_for(looking.manifest)

    def shadowed(expected: Any, path: str) -> Iterable[Difference]:
        for name in expected:
            other, _, _ = looking.look({name: "a-key"}, None)
            if other is not None:
                yield Difference(path, f"{name} never counts", other.name)

    wanted = next(iter(search.required), "")
    from_environ, _, asked = looking.look({wanted: "a-key"}, None)
    _, _, asked_without = looking.look({}, None)
    return {
        "status": "missing" if found is None else "available",
        "source_kind": "none" if found is None else found.source,
        "source_name": None if found is None else found.name,
        "required": list(search.required),
        "conventional_fallbacks": list(search.conventional),
        "must_not_contain": none_in(looking.shown),
        "diagnostic_contains": each_in(looking.diagnostics),
        "diagnostic_should_mention": each_in(looking.diagnostics),
        "diagnostic_must_not_contain": none_in(looking.diagnostics),
        "shadowed_envs_must_not_resolve": Check(shadowed),
        "value_redacted": found is not None and found.secret.reveal() not in looking.shown,
        "implicit_env_allowed": from_environ is not None,
        "implicit_keyring_allowed": asked or asked_without,
    }


def auth_attachment(case: Case, bench: Bench) -> dict[str, Any]:
    """The headers and parameters that carry the key. Names of headers are the same in any case."""
    looking = _Looking(case, bench.manifest(case))
    found = looking.found
    auth = looking.manifest.auth if found is None or found.auth is None else found.auth
    attached = attach(auth, None if found is None else found.secret.reveal())
    shown = "\n".join([looking.shown, repr(attached), str(attached)])
    headers = {name.lower(): "<redacted>" for name, _ in attached.headers}
    headers |= {name.lower(): value for name, value in attached.extra}
    secret = "" if found is None else found.secret.reveal()

    def compare_headers(expected: Any, path: str) -> Iterable[Difference]:
        if {name.lower(): value for name, value in expected.items()} != headers:
            yield Difference(path, expected, headers)
        if any(secret not in value for _, value in attached.headers):
            yield Difference(path, "headers that carry the key", "one that does not")

    return {
        "headers": Check(compare_headers),
        "query_params": {name: "<redacted>" if value == secret else value for name, value in attached.query},
        "source_kind": "none" if found is None else found.source,
        "source_name": None if found is None else found.name,
        "must_not_contain": none_in(shown),
    }
