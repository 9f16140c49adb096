"""The path of a request becomes the provider and the dialect that answer it.

    /<provider or dialect>/<whatever a client puts there>/<route of the dialect>     or a route alone

Imports `protocol` and `speaker`. The rule that must stay true: what a manifest says is read and compiled once for a
catalogue, when a request or `compile` first needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol
from weakref import WeakKeyDictionary

from ..errors import CallerError
from ..protocol.manifest import Dialect, Family, Manifest
from .journal import Masker, declared_names
from .speaker import Matched, Speaker, compile_speaker

__all__ = ["Directory", "Source", "Target", "directory_of"]


class Source(Protocol):
    """What the simulator needs of a catalogue of manifests; `protocol.loader.Catalog` is one."""

    def providers(self) -> list[str]: ...

    def provider(self, name: str) -> Manifest: ...

    def has_provider(self, name: str) -> bool: ...

    def dialects(self) -> list[str]: ...

    def dialect(self, name: str) -> Dialect: ...


class Target(NamedTuple):
    """Who answers: `provider` is None where the path named a dialect or none; `matched` where no route fits."""

    provider: str | None
    speaker: Speaker
    matched: Matched | None


class Directory:
    """Every speaker of one catalogue."""

    def __init__(self, catalog: Source) -> None:
        self.catalog = catalog
        self._speakers: dict[tuple[str | None, str], Speaker] = {}
        self._names: dict[str, str | None] = {}
        self._masker: Masker | None = None

    @property
    def masker(self) -> Masker:
        """Hides what any manifest of the catalogue declares as a credential."""
        if self._masker is None:
            manifests = [self.catalog.provider(name) for name in self.catalog.providers()]
            self._masker = Masker(declared_names(manifest.auth for manifest in manifests))
        return self._masker

    def auth(self, provider: str) -> Any:
        return self.catalog.provider(provider).auth

    def name(self, name: str) -> str:
        """The id of a provider, or the id of a dialect, by id or alias. Raises CallerError for neither."""
        provider = self._provider(name)
        return provider if provider is not None else self.catalog.dialect(name).id

    def compile(self, name: str) -> int:
        """How many formats of a provider or a dialect can be played: what they say of the other side is compiled.

        Raises ManifestError for a section with a mistake in it, CallerError for a name that is neither.
        """
        provider = self._provider(name)
        if provider is None:
            return int(self._dialect(self.catalog.dialect(name).id) is not None)
        families = self.catalog.provider(provider).families.values()
        return sum(self._family(provider, family) is not None for family in families)

    def find(self, method: str, path: str) -> Target | None:
        """Who answers a request, or None where nobody would. Without a route, the target is who refuses it."""
        first, _, rest = path.lstrip("/").partition("/")
        provider = self._provider(first) if first else None
        if provider is not None:
            return self._of_provider(provider, method, "/" + rest)
        speaker = self._dialect(first) if first else None
        if speaker is not None:
            return Target(None, speaker, speaker.match(method, "/" + rest))
        for speaker in self._all_dialects():
            matched = speaker.match(method, path)
            if matched is not None:
                return Target(None, speaker, matched)
        return None

    def _of_provider(self, provider: str, method: str, path: str) -> Target | None:
        manifest = self.catalog.provider(provider)
        names = sorted(manifest.families, key=lambda name: name != manifest.default_family)
        refusing: Target | None = None
        for name in names:
            speaker = self._family(provider, manifest.families[name])
            if speaker is None:
                continue
            matched = speaker.match(method, path)
            if matched is not None:
                return Target(provider, speaker, matched)
            refusing = refusing or Target(provider, speaker, None)
        return refusing

    def _provider(self, name: str) -> str | None:
        if name not in self._names:
            known = self.catalog.has_provider(name)
            self._names[name] = self.catalog.provider(name).id if known else None
        return self._names[name]

    def _family(self, provider: str, family: Family) -> Speaker | None:
        if not family.simulate:
            return None
        key = (provider, family.id)
        if key not in self._speakers:
            try:
                base: Mapping[str, Any] = self.catalog.dialect(family.dialect).encode
            except CallerError:  # a manifest may bring a dialect that this catalogue does not list
                base = {}
            self._speakers[key] = compile_speaker(
                family.simulate,
                family.where.at("simulate"),
                dialect=family.dialect,
                more_fields=_written(family.encode) - _written(base),
            )
        return self._speakers[key]

    def _dialect(self, name: str) -> Speaker | None:
        if (None, name) in self._speakers:
            return self._speakers[None, name]
        try:
            dialect = self.catalog.dialect(name)
        except CallerError:
            return None
        if not dialect.simulate:
            return None
        speaker = compile_speaker(dialect.simulate, dialect.where.at("simulate"), dialect=dialect.id)
        self._speakers[None, name] = speaker
        return speaker

    def _all_dialects(self) -> Iterator[Speaker]:
        for name in self.catalog.dialects():
            speaker = self._dialect(name)
            if speaker is not None:
                yield speaker


def _written(encode: Mapping[str, Any]) -> set[str]:
    """The keys of the body that an encoding writes."""
    body, parameters = encode.get("body"), encode.get("parameters")
    keys = {str(key) for key, value in body.items() if value is not None} if isinstance(body, Mapping) else set()
    if isinstance(parameters, Mapping):
        keys |= {target.partition(".")[0] for target in parameters.values() if isinstance(target, str)}
    return keys


_directories: WeakKeyDictionary[Any, Directory] = WeakKeyDictionary()


def directory_of(catalog: Source) -> Directory:
    """The directory of a catalogue, the same one each time: tests that share a catalogue compile it once."""
    found = _directories.get(catalog)
    if found is None:
        found = _directories[catalog] = Directory(catalog)
    return found
