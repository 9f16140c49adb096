"""Settings of a client. Imports `service` and `types.records`. Every one has an effect; unknown names are errors."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import msgspec

from ..errors import CallerError, need_number, need_word
from ..resilience.executor import Resilience
from ..resilience.preflight import Gates
from ..service import Timeouts
from ..transport.base import Engine
from ..types.records import ClientSink, Sink

if TYPE_CHECKING:
    from ..routing import ModelArray, Router
else:  # few programs route, so that room is not loaded for all; the names are there for who asks for the hints: `help`
    Router = ModelArray = Any

__all__ = ["Config", "EngineFactory"]

EngineFactory = Callable[[str], Engine]  # from an origin such as `https://host:443`


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one client.

    `transport` is `"auto"`: connections of our own, and httpx where the environment names a proxy for the host; or
    `"native"` (never a proxy), `"httpx"`, or a function that makes an engine for an origin, as tests do.
    `http_client` is an `httpx.AsyncClient` of yours: never closed or changed, and used for every exchange.
    `environ` replaces the process's environment for keys, variables and proxies. `base_urls` and `api_keys` are by
    provider id. `sinks` are called with every record (docs/telemetry.md); `record_content` gives them prompts and
    replies too, which are in no record otherwise. `check_health_s` has providers in use checked as their manifests
    declare (`availability`): so many seconds lie between two checks, or what is declared, whichever is more; None for
    never. `router` is what calls to `@name` go by (docs/routing.md). `wall_time` gives seconds since the epoch.

    `resilience` is about retries, limits, breakers and queues (`Resilience`); `max_inflight` and `max_queued` are short
    for those in it. `gates` says whether a call that a model is declared unable to answer is refused. `seed` makes the
    pauses between retries the same in every run; None is another seed each time.

    `reload_manifests_s` looks at the manifests' files that often: a changed file is taken over between calls, a broken
    one is not (records and `tree()` say why). None never looks.
    """

    timeouts: Timeouts = Timeouts()
    resilience: Resilience = Resilience()
    gates: Gates = "enforce"
    seed: int | None = None
    max_inflight: int | None = None
    max_queued: int | None = None
    max_frame_bytes: int = 16 * 1024 * 1024  # one frame of a stream: holds an inline image
    max_reply_bytes: int = 256 * 1024 * 1024  # one reply, inflated
    shutdown_grace_s: float = 5.0  # for calls of other tasks when the client's block ends
    transport: Literal["auto", "native", "httpx"] | EngineFactory = "auto"
    http_client: Any = None
    ssl_context: ssl.SSLContext | None = None
    reload_manifests_s: float | None = None
    on_actor_failure: Literal["restart", "raise"] = "restart"
    environ: Mapping[str, str] | None = None
    base_urls: Mapping[str, str] = {}
    api_keys: Mapping[str, str] = {}
    sinks: tuple[Sink | ClientSink, ...] = ()
    record_content: bool = False
    check_health_s: float | None = None
    router: Router | ModelArray | None = None
    wall_time: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        for name in ("check_health_s", "reload_manifests_s", "shutdown_grace_s"):
            need_number(name, getattr(self, name))
        for name in ("max_frame_bytes", "max_reply_bytes"):
            need_number(name, getattr(self, name), least=1, is_whole=True)
        need_word("gates", self.gates, get_args(Gates))
        need_word("on_actor_failure", self.on_actor_failure, ("restart", "raise"))
        for name, (is_right, expected) in _EXPECTED.items():
            value = getattr(self, name)
            if not is_right(value):
                raise CallerError(f"{name} is {expected}, got {_shown(name, value)}", kind="bad_argument")

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Name and value of each setting; of what may hold keys, the names alone."""
        values = [(name, getattr(self, name)) for name in self.__struct_fields__]
        return [(name, sorted(value) if name in _SECRET and value is not None else value) for name, value in values]

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"


_SECRET = ("environ", "api_keys")  # may hold keys


def _shown(name: str, value: Any) -> str:
    return type(value).__name__ if name in _SECRET else repr(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair)


_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "timeouts": (lambda value: isinstance(value, Timeouts), "a Timeouts"),
    "resilience": (lambda value: isinstance(value, Resilience), "a Resilience"),
    "transport": (
        lambda value: callable(value) or value in ("auto", "native", "httpx"),
        "auto, native, httpx, or a function that makes an engine",
    ),
    "environ": (lambda value: value is None or isinstance(value, Mapping), "a mapping of texts"),
    "base_urls": (_are_texts, "a mapping of texts, by provider id"),
    "api_keys": (_are_texts, "a mapping of texts, by provider id"),
    "sinks": (
        lambda value: isinstance(value, tuple | list) and all(callable(sink) for sink in value),
        "a tuple of callables",
    ),
    "wall_time": (callable, "a function without arguments"),
}
