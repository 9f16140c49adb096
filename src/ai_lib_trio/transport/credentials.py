"""A provider's key: looked for in a fixed order, wrapped so that it is never shown, bound to where it may go.

Imports `errors`, `protocol.manifest`, `protocol.trust` and trio; keyring where it is installed and asked. The rule that
must stay true: a value leaves this module only through `Secret.reveal`, and every message names what was looked for,
never what was found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import msgspec
import trio

from ..errors import CredentialError
from ..protocol.manifest import Auth, Manifest
from ..protocol.trust import KeySource, conventional_env

__all__ = ["KEYRING_SERVICES", "Credential", "CredentialStore", "Search", "Secret", "looks_around", "search_for"]

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


class Credential(msgspec.Struct, frozen=True):
    """What was found for a provider. `name` is the variable, the keyring's service, `explicit` or `host_supplied`.

    `auth` is the way that the key is for, None for the manifest's first; `others` are further variables that it was
    put together from.
    """

    provider: str
    source: KeySource
    name: str
    secret: Secret
    auth: Auth | None = None
    others: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that it was found by."""
        return (self.name, *self.others)


class Search(msgspec.Struct, frozen=True):
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
    required = tuple(_named(way) for way in auth.ways if way.token_env)
    usual = conventional_env(auth.key_id or manifest.id)
    diagnostics = tuple(
        f"{name} is named by an auth block beside the one of the endpoint and does not count"
        for name in auth.shadowed_env
    )
    return Search(required, () if usual in (*required, *auth.shadowed_env) else (usual,), diagnostics)


def _named(way: Auth) -> str:
    return f"{way.key_id_env} with {way.token_env}" if way.key_id_env else str(way.token_env)


def _way_of(auth: Auth, value: str) -> Auth:
    """The way that a key given as one text is for: a pair, written with a colon, is for a signature."""
    pairs = [way for way in auth.ways if way.chain is not None]
    single = [way for way in auth.ways if way.chain is None]
    fitting = pairs if ":" in value else single
    return (fitting or [auth])[0]


def looks_around(target: str | None = None) -> bool:
    """Whether keys are looked for where nobody handed them over: in variables and keyrings.

    Not inside of WebAssembly, whose host gives what may be used. `target` is a platform or target triple; this one's
    without it.
    """
    where = target or sys.platform
    return not where.startswith("wasm") and where not in ("emscripten", "wasi")


class CredentialStore:
    """Finds keys, and remembers what a keyring said. One for a client; it holds no task and needs no closing.

    `environ` is what is looked at for variables; the process's own is given by whoever opens the client. `keyring`
    False leaves the keyring alone; a callable takes its place: (service, user) -> key or None. With `implicit` False
    only a key that the caller gives counts; by itself it is what `looks_around` says of this platform.
    """

    __slots__ = ("_asking", "_environ", "_keyring", "_known", "_name")

    def __init__(
        self, environ: Mapping[str, str], *, keyring: bool | KeyringLookup = True, implicit: bool | None = None
    ) -> None:
        is_implicit = looks_around() if implicit is None else implicit
        self._environ = environ if is_implicit else {}
        self._keyring = keyring if is_implicit else False
        self._name = "explicit" if is_implicit else "host_supplied"
        self._known: dict[str, Credential | None] = {}
        self._asking: dict[str, trio.Event] = {}

    def __repr__(self) -> str:
        return f"<CredentialStore {len(self._known)} asked of the keyring>"

    def find_nowait(self, manifest: Manifest, *, explicit: str | None = None) -> Credential | None:
        """The key as the caller gave it, else from a variable; None where neither has one. Blank counts as unset."""
        if explicit is not None and explicit.strip():
            way = _way_of(manifest.auth, explicit)
            return Credential(manifest.id, "explicit", self._name, Secret(explicit.strip()), way)
        for way in manifest.auth.ways:
            names = [name for name in (way.key_id_env, way.token_env) if name]
            values = [self._environ.get(name, "").strip() for name in names]
            if not names or not all(values):
                continue
            session = self._environ.get(way.session_env, "").strip() if way.session_env else ""
            if way.session_env and session:
                names.append(way.session_env)
                values.append(session)
            return Credential(manifest.id, "manifest_env", names[0], Secret(":".join(values)), way, tuple(names[1:]))
        for name in search_for(manifest).conventional:
            value = self._environ.get(name, "").strip()
            if value:
                return Credential(manifest.id, "conventional_env", name, Secret(value), _way_of(manifest.auth, value))
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
            return msgspec.structs.replace(found, auth=found.auth or _way_of(manifest.auth, found.secret.reveal()))
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
