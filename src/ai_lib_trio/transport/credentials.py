"""A provider's key: looked for in a fixed order, wrapped so that it is never shown, bound to where it may go.

Imports `errors`, `protocol.manifest`, `protocol.trust` and trio; keyring where it is installed and asked. The rule that
must stay true: a value leaves this module only through `Secret.reveal`, and every message names what was looked for,
never what was found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

import trio

from ..errors import CredentialError
from ..protocol.manifest import Manifest
from ..protocol.trust import KeySource, conventional_env

__all__ = ["KEYRING_SERVICES", "Credential", "CredentialStore", "Search", "Secret", "search_for"]

KEYRING_SERVICES = ("ai-protocol", "ai-lib")  # the specification's names, in its order
KeyringLookup = Callable[[str, str], "str | None"]


class Secret:
    """A key that does not show itself: not in repr, str, format, pickle, or a comparison's timing."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the header or parameter it goes into and for nothing else."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(<redacted>)"

    def __str__(self) -> str:
        return "<redacted>"

    def __format__(self, spec: str) -> str:
        return format("<redacted>", spec)

    def __eq__(self, other: object) -> bool:
        import hmac

        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied into another process")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: Any) -> Secret:
        return self


class Credential(NamedTuple):
    """What was found for a provider. `name` is the variable, the keyring's service, or `explicit`."""

    provider: str
    source: KeySource
    name: str
    secret: Secret


class Search(NamedTuple):
    """Where a provider's key is looked for: names only, never values."""

    required: tuple[str, ...]  # variables that the manifest names
    conventional: tuple[str, ...]
    diagnostics: tuple[str, ...]  # lines for people: what is declared and does not count

    def describe(self, *, keyring: bool) -> str:
        """The places, in order, as an error lists them."""
        places = ["api_key=", *self.required, *self.conventional]
        if keyring:
            places.append(f"keyring ({', '.join(KEYRING_SERVICES)})")
        return ", ".join(places)


def search_for(manifest: Manifest) -> Search:
    """Where this provider's key is looked for."""
    auth = manifest.auth
    required = (auth.token_env,) if auth.token_env else ()
    usual = conventional_env(auth.key_id or manifest.id)
    diagnostics = tuple(
        f"{name} is named by an auth block beside the one of the endpoint and does not count"
        for name in auth.shadowed_env
    )
    return Search(required, () if usual in (*required, *auth.shadowed_env) else (usual,), diagnostics)


class CredentialStore:
    """Finds keys, and remembers what a keyring said. One for a client; it holds no task and needs no closing.

    `environ` is what is looked at for variables; the process's own is given by whoever opens the client. `keyring`
    False leaves the keyring alone; a callable takes its place: (service, user) -> key or None.
    """

    __slots__ = ("_asking", "_environ", "_keyring", "_known")

    def __init__(self, environ: Mapping[str, str], *, keyring: bool | KeyringLookup = True) -> None:
        self._environ = environ
        self._keyring = keyring
        self._known: dict[str, Credential | None] = {}
        self._asking: dict[str, trio.Event] = {}

    def __repr__(self) -> str:
        return f"<CredentialStore {len(self._known)} asked of the keyring>"

    def find_nowait(self, manifest: Manifest, *, explicit: str | None = None) -> Credential | None:
        """The key as the caller gave it, else from a variable; None where neither has one. Blank counts as unset."""
        if explicit is not None and explicit.strip():
            return Credential(manifest.id, "explicit", "explicit", Secret(explicit.strip()))
        search = search_for(manifest)
        named: tuple[tuple[KeySource, tuple[str, ...]], ...] = (
            ("manifest_env", search.required),
            ("conventional_env", search.conventional),
        )
        for source, names in named:
            for name in names:
                value = self._environ.get(name, "").strip()
                if value:
                    return Credential(manifest.id, source, name, Secret(value))
        return None

    async def find(self, manifest: Manifest, *, explicit: str | None = None) -> Credential | None:
        """The key: given, from a variable, or from the keyring. None where the provider needs none.

        The keyring may wait for a person, so it is asked in a worker thread, once for a provider; cancelled, the thread
        is left to end by itself and its answer is not kept. Raises `CredentialError` (no_credential) listing where the
        key was looked for.
        """
        await trio.lowlevel.checkpoint()
        if manifest.auth.type == "none":
            return None
        found = self.find_nowait(manifest, explicit=explicit)
        if found is None and self._keyring is not False:
            found = await self._from_keyring(manifest.auth.key_id or manifest.id)
        if found is not None:
            return found
        search = search_for(manifest)
        message = f"no key for {manifest.id}; looked for {search.describe(keyring=self._keyring is not False)}"
        for line in search.diagnostics:
            message += f"; {line}"
        raise CredentialError(message, kind="no_credential", provider=manifest.id)

    async def _from_keyring(self, provider: str) -> Credential | None:
        # Callers that come while a thread is asking wait for its answer; if its caller is cancelled, one of them asks.
        while provider not in self._known:
            asking = self._asking.get(provider)
            if asking is not None:
                await asking.wait()
                continue
            lookup = _installed_keyring() if self._keyring is True else self._keyring
            if lookup is None or isinstance(lookup, bool):
                self._known[provider] = None
                break
            self._asking[provider] = done = trio.Event()
            try:
                self._known[provider] = await trio.to_thread.run_sync(_ask, lookup, provider, abandon_on_cancel=True)
            finally:
                del self._asking[provider]
                done.set()
        return self._known[provider]


def _installed_keyring() -> KeyringLookup | None:
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:  # the extra is not installed
        return None

    def lookup(service: str, user: str) -> str | None:
        try:
            return keyring.get_password(service, user)
        except (KeyringError, OSError):  # locked, refused, or no back end on this machine: there is no key here
            return None

    return lookup


def _ask(lookup: KeyringLookup, provider: str) -> Credential | None:
    for service in KEYRING_SERVICES:
        value = (lookup(service, provider) or "").strip()
        if value:
            return Credential(provider, "keyring", service, Secret(value))
    return None
