"""Who may have which key: origins of manifests, origins of hosts, and the rules that bind one to the other.

Pure functions over values; imports `errors` and `manifest`. The rule that must stay true: a key goes to the scheme,
host and port it is bound to and to no other, and plain http carries a key to this machine only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

import msgspec

from ..errors import CallerError, CredentialError
from .manifest import Manifest
from .where import Where

__all__ = [
    "KeySource",
    "Origin",
    "OwnKeys",
    "check_credential",
    "check_fetched",
    "check_variables",
    "conventional_env",
    "fill",
    "origin_of",
    "placeholders",
]

KeySource = Literal["explicit", "manifest_env", "conventional_env", "keyring"]

_PLACEHOLDER = r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}|\{([A-Za-z_][A-Za-z0-9_]*)\}"
_HOST_PART = r"[a-z0-9-]{1,63}"
_SECRET_NAMES = r"KEY|TOKEN|SECRET|PASS|PWD|CREDENTIAL|AUTH|DSN|URL|URI"  # addresses hold passwords, and fit no address
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Origin(msgspec.Struct, frozen=True):
    """Scheme, host in lower case, port. Two URLs of one origin are one party to talk to."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if _DEFAULT_PORTS.get(self.scheme) == self.port else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def is_loopback(self) -> bool:
        """Whether this names this machine. A name is believed only where the standards say so (RFC 6761)."""
        if self.host == "localhost" or self.host.endswith(".localhost") or self.host == "::1":
            return True
        return re.fullmatch(r"127(?:\.\d{1,3}){3}", self.host, re.ASCII) is not None


def origin_of(url: str) -> Origin:
    """The origin of an absolute http or https URL. Raises `CallerError` (bad_argument) for anything else.

    A URL with a user name is refused: `https://known.example@other.example/` goes to the other one.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme not in _DEFAULT_PORTS or not host or re.search(r"[\s\\{}$%]", parts.netloc):
        raise CallerError(f"expected an http or https URL, got {_shown(url)!r}", kind="bad_argument")
    if "@" in parts.netloc:
        raise CallerError("expected a URL without a user name in front of the host", kind="bad_argument")
    return Origin(parts.scheme, host, port or _DEFAULT_PORTS[parts.scheme])


def _shown(url: str) -> str:
    """A URL as an error may show it: without query and user, bounded."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])[:120]


def placeholders(base_url: str) -> list[str]:
    """The names in `{name}` or `${NAME}` of a base URL, in order."""
    return [match.group(1) or match.group(2) for match in re.finditer(_PLACEHOLDER, base_url)]


def fill(base_url: str, values: Mapping[str, str], where: Where | None = None) -> str:
    """A base URL with its placeholders filled. Do this before asking for its origin.

    In the host a value must match `[a-z0-9-]{1,63}`, so it cannot end the host, add a port or a user; in the path it
    is percent-encoded as one segment. Raises `CallerError` (bad_argument) for a missing or unfit value.
    """
    if "{" not in base_url:
        return base_url
    from urllib.parse import quote

    scheme, _, rest = base_url.partition("://")
    host_end = len(scheme) + 3 + len(re.split(r"[/?#]", rest, maxsplit=1)[0])

    def value_of(match: re.Match[str]) -> str:
        name = match.group(1) or match.group(2)
        value = values.get(name, "").strip()
        if not value:
            raise _refused(f"expected a value for {name!r} of the base URL, got nothing", where)
        if match.start() < len(scheme):
            raise _refused(f"expected no placeholder in the scheme, got {name!r}", where)
        if match.start() < host_end:
            if not re.fullmatch(_HOST_PART, value):
                raise _refused(f"expected [a-z0-9-], at most 63, for {name!r} in the host, got something else", where)
            return value
        if value in (".", ".."):
            raise _refused(f"expected a path segment for {name!r}, got dots", where)
        return quote(value, safe="")

    return re.sub(_PLACEHOLDER, value_of, base_url)


def _refused(message: str, where: Where | None) -> CallerError:
    return where.error(message) if where is not None else CallerError(message, kind="bad_argument")


def conventional_env(provider: str) -> str:
    """The variable that every runtime of the protocol looks at for a provider's key."""
    return re.sub(r"[^A-Z0-9]", "_", provider.upper()) + "_API_KEY"


class OwnKeys(msgspec.Struct, frozen=True):
    """What the bundled set owns: the variables its manifests name or resolve, and its hosts, by provider id."""

    owners: Mapping[str, frozenset[str]]  # variable -> ids
    origins: Mapping[str, frozenset[Origin]]  # id -> origins; empty where a variable is part of the host

    @classmethod
    def of(cls, manifests: Mapping[str, Manifest]) -> OwnKeys:
        """What these bundled manifests own."""
        owners: dict[str, set[str]] = {}
        origins: dict[str, frozenset[Origin]] = {}
        for ident, manifest in manifests.items():
            names = {conventional_env(one) for one in (ident, *manifest.aliases, manifest.auth.key_id or ident)}
            names.update(manifest.auth.variables)
            for name in names:
                owners.setdefault(name, set()).add(ident)
            try:
                own = frozenset((origin_of(manifest.endpoint.base_url),))
            except CallerError:  # the host is known only when its variables are
                own = frozenset()
            for one in (ident, *manifest.aliases):
                origins[one] = own
        return cls({name: frozenset(ids) for name, ids in owners.items()}, origins)


def check_credential(
    manifest: Manifest,
    *,
    source: KeySource,
    name: str,
    target: Origin,
    declared: Origin,
    base_url: Origin | None = None,
    own: OwnKeys | None = None,
) -> None:
    """Whether a credential of this manifest's provider may go to `target`; raises `CredentialError` where not.

    `source` and `name` say how it was found (transport/credentials). `declared` is the origin of the manifest's
    own base URL after substitution, `base_url` the origin of one that the caller gave for this provider. `own` is what
    the bundled set owns; it is needed for manifests that are not bundled, and None means that nothing is known.
    """
    if target.scheme != "https" and not target.is_loopback:
        raise _not_bound(manifest, f"plain http carries a key to this machine only, not to {target}; use https")
    if target != declared and target != base_url:
        raise _not_bound(manifest, f"the key is bound to {declared}, not to {target}")
    if source == "explicit" or manifest.origin == "bundled":
        return
    if own is None:
        raise _not_bound(manifest, "a manifest from elsewhere needs the bundled set's list of keys to be checked")
    usual = conventional_env(manifest.auth.key_id or manifest.id)
    variable = usual if source == "keyring" else name  # a keyring's entry goes by the provider's id
    owners = own.owners.get(variable, frozenset())
    if manifest.origin == "fetched" and (owners or variable != conventional_env(manifest.id)):
        raise _not_bound(manifest, f"a fetched manifest may use {conventional_env(manifest.id)} only, not {name}")
    if not owners:
        return
    if any(target in own.origins.get(owner, frozenset()) for owner in owners):
        return
    if base_url is not None and target == base_url and manifest.id in owners:
        return
    raise _not_bound(
        manifest,
        f"{name} belongs to {', '.join(sorted(owners))}, whose host {target} is not; pass api_key= to send a key there",
    )


def _not_bound(manifest: Manifest, message: str) -> CredentialError:
    return CredentialError(message, kind="credential_not_bound", provider=manifest.id)


def check_variables(manifest: Manifest, own: OwnKeys) -> None:
    """Whether a manifest from elsewhere may read the variables that its URL names; a key must not leave in a host.

    A fetched manifest may read variables that begin with its own id, a given one any but keys of the bundled set.
    """
    if manifest.origin == "bundled":
        return
    prefix = conventional_env(manifest.id).removesuffix("API_KEY")
    for placeholder, variable in manifest.endpoint.variables.items():
        looks_secret = re.search(_SECRET_NAMES, variable.upper()) is not None
        if variable in own.owners or looks_secret or (manifest.origin == "fetched" and not variable.startswith(prefix)):
            allowed = f"one that begins with {prefix}" if manifest.origin == "fetched" else "one that holds no key"
            raise manifest.where.at("endpoint", "variables", placeholder).error(
                f"expected {allowed} for a part of the URL, got {variable}"
            )


def check_fetched(manifest: Manifest, own: OwnKeys) -> None:
    """Whether a fetched manifest keeps to its own name: its key's variable, no id, alias or host of a bundled one.

    Raises `ManifestError` at the offending field.
    """
    where = manifest.where
    for one in (manifest.id, *manifest.aliases):
        if one in own.origins:
            raise where.at("id").error(f"a fetched manifest cannot be {one!r}, which is bundled")
    allowed = conventional_env(manifest.id)
    for variable in manifest.auth.variables:
        if variable != allowed:
            raise where.at("endpoint", "auth", "token_env").error(
                f"a fetched manifest may only name {allowed}, got {variable}"
            )
    if allowed in own.owners:
        raise where.at("id").error(f"a fetched manifest cannot resolve {allowed}, which a bundled one resolves")
    check_variables(manifest, own)
    if not placeholders(manifest.endpoint.base_url):
        origin = origin_of(manifest.endpoint.base_url)
        for owner, origins in own.origins.items():
            if any((origin.host, origin.port) == (other.host, other.port) for other in origins):
                raise where.at("endpoint", "base_url").error(
                    f"a fetched manifest cannot name the host {origin.host}, which is {owner}'s"
                )
