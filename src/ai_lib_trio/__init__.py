"""The AI-Protocol runtime for trio: every provider a YAML file, every connection an actor, every call in a scope.

The rooms, from the inside out; imports point one way, down this list to its top:

    errors       the error family and the standard codes
    types        messages, requests, events, replies
    protocol     manifests: reading, merging, validating; models; who may be trusted with a key
    pipeline     bytes -> events          wire   request -> bytes, replies -> errors
    service      the one shape that everything composes by
    resilience   the policies: retries, limits, breakers, fallbacks, races
    transport    engines that move bytes  actors who owns connections and watches over them
    routing      who is asked first       client what users hold
    telemetry    sinks for records        cli    the `ailib` command
    simulator    a provider on loopback   conformance  cases of the protocol's suite, run through all this
    testing      what users test their programs with

The public names are resolved on first use: importing this package loads neither trio nor an HTTP library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client.cancel import CancelToken as CancelToken
    from .client.chat import ChatRequestBuilder as ChatRequestBuilder
    from .client.client import AiClient as AiClient
    from .client.client import open_client as open_client
    from .client.config import Config as Config
    from .client.contests import ContestStream as ContestStream
    from .client.contests import RaceMember as RaceMember
    from .client.stream import ChatStream as ChatStream
    from .errors import AdmissionError as AdmissionError
    from .errors import AiLibError as AiLibError
    from .errors import CallerError as CallerError
    from .errors import CancelledByToken as CancelledByToken
    from .errors import CredentialError as CredentialError
    from .errors import InternalError as InternalError
    from .errors import ManifestError as ManifestError
    from .errors import ProviderError as ProviderError
    from .errors import TransportError as TransportError
    from .resilience.budget import BudgetRules as BudgetRules
    from .resilience.circuit_breaker import BreakerRules as BreakerRules
    from .resilience.executor import Resilience as Resilience
    from .resilience.preflight import Preflight as Preflight
    from .routing.array import Endpoint as Endpoint
    from .routing.array import ModelArray as ModelArray
    from .routing.array import Router as Router
    from .routing.manager import ModelManager as ModelManager
    from .service import Timeouts as Timeouts
    from .types.events import Citation as Citation
    from .types.events import FinalCandidate as FinalCandidate
    from .types.events import MediaPart as MediaPart
    from .types.events import Metadata as Metadata
    from .types.events import OpaqueBlock as OpaqueBlock
    from .types.events import PartialContentDelta as PartialContentDelta
    from .types.events import PartialToolCall as PartialToolCall
    from .types.events import RefusalDelta as RefusalDelta
    from .types.events import Rerouted as Rerouted
    from .types.events import ServerToolCall as ServerToolCall
    from .types.events import StreamEnd as StreamEnd
    from .types.events import StreamError as StreamError
    from .types.events import StreamingEvent as StreamingEvent
    from .types.events import ThinkingDelta as ThinkingDelta
    from .types.events import ToolCallEnded as ToolCallEnded
    from .types.events import ToolCallStarted as ToolCallStarted
    from .types.message import AudioBlock as AudioBlock
    from .types.message import Base64Source as Base64Source
    from .types.message import DocumentBlock as DocumentBlock
    from .types.message import ImageBlock as ImageBlock
    from .types.message import Message as Message
    from .types.message import TextBlock as TextBlock
    from .types.message import ThinkingBlock as ThinkingBlock
    from .types.message import ToolResultBlock as ToolResultBlock
    from .types.message import ToolUseBlock as ToolUseBlock
    from .types.message import UrlSource as UrlSource
    from .types.message import VideoBlock as VideoBlock
    from .types.request import Request as Request
    from .types.response import Candidate as Candidate
    from .types.response import ChatResponse as ChatResponse
    from .types.response import fold as fold
    from .types.stats import Attempt as Attempt
    from .types.stats import CallStats as CallStats
    from .types.tool import ToolCall as ToolCall
    from .types.tool import ToolDefinition as ToolDefinition
    from .types.usage import Usage as Usage

__version__ = "0.1.0"

_HOMES = {
    "client.cancel": ("CancelToken",),
    "client.chat": ("ChatRequestBuilder",),
    "client.client": ("AiClient", "open_client"),
    "client.config": ("Config",),
    "client.contests": ("ContestStream", "RaceMember"),
    "client.stream": ("ChatStream",),
    "errors": (
        "AdmissionError",
        "AiLibError",
        "CallerError",
        "CancelledByToken",
        "CredentialError",
        "InternalError",
        "ManifestError",
        "ProviderError",
        "TransportError",
    ),
    "resilience.budget": ("BudgetRules",),
    "resilience.circuit_breaker": ("BreakerRules",),
    "resilience.executor": ("Resilience",),
    "resilience.preflight": ("Preflight",),
    "routing.array": ("Endpoint", "ModelArray", "Router"),
    "routing.manager": ("ModelManager",),
    "service": ("Timeouts",),
    "types.events": (
        "Citation",
        "FinalCandidate",
        "MediaPart",
        "Metadata",
        "OpaqueBlock",
        "PartialContentDelta",
        "PartialToolCall",
        "RefusalDelta",
        "Rerouted",
        "ServerToolCall",
        "StreamEnd",
        "StreamError",
        "StreamingEvent",
        "ThinkingDelta",
        "ToolCallEnded",
        "ToolCallStarted",
    ),
    "types.message": (
        "AudioBlock",
        "Base64Source",
        "DocumentBlock",
        "ImageBlock",
        "Message",
        "TextBlock",
        "ThinkingBlock",
        "ToolResultBlock",
        "ToolUseBlock",
        "UrlSource",
        "VideoBlock",
    ),
    "types.request": ("Request",),
    "types.response": ("Candidate", "ChatResponse", "fold"),
    "types.stats": ("Attempt", "CallStats"),
    "types.tool": ("ToolCall", "ToolDefinition"),
    "types.usage": ("Usage",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
if not TYPE_CHECKING:  # checkers go by the imports above: they cannot read a list that is computed
    __all__ = [*sorted(_HOME_OF), "__version__"]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
