"""`AiClient.builder()`: `open_client`'s arguments, step by step. Imports `client` and `config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ..errors import CallerError
from ..resilience.executor import Resilience
from .client import ClientBlock, open_client
from .config import Config

__all__ = ["ClientBuilder"]


class ClientBuilder:
    """Each method gives a new builder; `build()` gives what `open_client` gives."""

    __slots__ = ("_arguments", "_config")

    def __init__(self, arguments: dict[str, Any] | None = None, config: Config | None = None) -> None:
        self._arguments = arguments or {}
        self._config = config or Config()

    def _with(self, **arguments: Any) -> ClientBuilder:
        return ClientBuilder({**self._arguments, **arguments}, self._config)

    def model(self, ref: str) -> ClientBuilder:
        """The model of calls that name none, as `provider/model` or a registered name."""
        return self._with(model=ref)

    def api(self, family: str) -> ClientBuilder:
        """One of the provider's API families, where it has several."""
        return self._with(api=family)

    def manifests(self, path: str | Path) -> ClientBuilder:
        """A file, a folder or a pinned URL to read before the bundled set."""
        return self._with(manifests=path)

    def base_url(self, url: str) -> ClientBuilder:
        """Where the chosen provider is, over its manifest: a proxy, the simulator."""
        return self._with(base_url=url)

    def api_key(self, key: str) -> ClientBuilder:
        """The key of the chosen provider; it goes to no other."""
        return self._with(api_key=key)

    def fallbacks(self, *models: str) -> ClientBuilder:
        """Models that every call may fall back to, in order."""
        return self._with(fallbacks=models)

    def resilience(self, **settings: Any) -> ClientBuilder:
        """Settings of `Resilience`, by name, over those set before."""
        unknown = set(settings) - set(Resilience.__struct_fields__)
        if unknown:
            known = ", ".join(Resilience.__struct_fields__)
            raise CallerError(f"no setting {', '.join(sorted(unknown))}; there are: {known}", kind="bad_argument")
        return self.config(resilience=Resilience(**settings).over(self._config.resilience))

    def config(self, **settings: Any) -> ClientBuilder:
        """Settings of `Config`, by name, over those set before."""
        unknown = set(settings) - set(Config.__struct_fields__)
        if unknown:
            known = ", ".join(Config.__struct_fields__)
            raise CallerError(f"no setting {', '.join(sorted(unknown))}; there are: {known}", kind="bad_argument")
        return ClientBuilder(self._arguments, msgspec.structs.replace(self._config, **settings))

    def build(self) -> ClientBlock:
        """The client's block, for `async with`."""
        return open_client(**self._arguments, config=self._config)
