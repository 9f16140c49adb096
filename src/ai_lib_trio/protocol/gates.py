"""What is declared about a capability, of a model and of its provider; and whether an operation may be asked for.

Imports `errors`, `manifest`, `registry`. Pure. The rule that must stay true: the model's own facts come first, then the
provider's declarations; what nobody says is unknown and never counts as absent.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ..errors import CallerError
from .manifest import Manifest
from .registry import ModelFacts

__all__ = ["METHODS", "Standing", "mcp_integration", "need_operation", "standing_of", "words_of"]

State = Literal["declared", "absent", "undeclared", "unknown"]

# What files call a capability besides its own name: flags, older lists, facts of models (AI-Protocol, v1 and v2 trees
# and their cases; read 2026-11-22).
_SAME: dict[str, tuple[str, ...]] = {
    "text": ("text", "chat"),
    "tools": ("tools", "tool_call", "function_calling"),
    "vision": ("vision", "image_input"),
    "structured_output": ("structured_output", "json_schema", "json_schema_mode"),
    "parallel_tools": ("parallel_tools", "parallel_tool_calls"),
    "reasoning": ("reasoning", "extended_thinking", "thinking"),
    "audio": ("audio", "audio_input"),
    "video": ("video", "video_input"),
    "mcp": ("mcp", "mcp_client"),
}
# Capabilities that are something which goes in.
_INPUTS = {"vision": "image", "audio": "audio", "video": "video"}

# The specification's methods beyond chat, and the capability that each needs.
METHODS = {
    "MCPListTools": "mcp",
    "MCPCallTool": "mcp",
    "ComputerUse": "computer_use",
    "Reason": "reasoning",
    "VideoGenerate": "video",
}


class Standing(msgspec.Struct, frozen=True):
    """`declared`, `absent` (said not to be there), `undeclared` (others are, this is not) or `unknown` (nothing is).

    `by` is who says so: `model`, `provider`, or nobody.
    """

    state: State
    by: Literal["model", "provider", ""] = ""


def words_of(capability: str) -> frozenset[str]:
    """The names that files use for a capability."""
    return frozenset(_SAME.get(capability, (capability,)))


def standing_of(capability: str, manifest: Manifest, facts: ModelFacts | None = None) -> Standing:
    """What is declared about a capability. `facts` are those of the model, where it is registered."""
    words = words_of(capability)
    if facts is not None:
        if words & facts.absent:
            return Standing("absent", "model")
        if facts.capabilities is not None and words & facts.capabilities:
            return Standing("declared", "model")
        if facts.modalities is not None and _INPUTS.get(capability) in facts.modalities.input:
            return Standing("declared", "model")
    if capability == "tools" and manifest.tool_calling.strategy == "text":
        return Standing("declared", "provider")  # told in the prompt, read from the text
    declared = manifest.capabilities
    if words & declared.absent:
        return Standing("absent", "provider")
    flags = {name for name, value in declared.feature_flags.items() if value}
    if words & declared.declared or words & flags:
        return Standing("declared", "provider")
    says_nothing = facts is None or facts.capabilities is None
    return Standing("unknown" if says_nothing and not declared.declared else "undeclared")


def need_operation(method: str, manifest: Manifest, facts: ModelFacts | None = None) -> None:
    """Refuse an operation beyond chat that is not declared, before anything is sent for it.

    `method` is one of `METHODS`, or a capability. Such an operation has an address and a form of its own, which a
    provider that says nothing of it does not have: here unknown is not enough. Raises `CallerError` (capability).
    """
    capability = METHODS.get(method, method)
    standing = standing_of(capability, manifest, facts)
    if standing.state == "declared":
        return
    why = "is declared to have no" if standing.state == "absent" else "declares no"
    who = "the model" if standing.by == "model" else manifest.id
    raise CallerError(f"{who} {why} {capability}, which {method} needs", kind="capability", provider=manifest.id)


def mcp_integration(manifest: Manifest) -> Literal["native_api", "tool_bridge", "not_supported"]:
    """How tools of MCP servers reach a provider's models: by operations of its own, or as tools like any others."""
    if standing_of("mcp", manifest).state != "declared":
        return "not_supported"
    return "native_api" if any(name.startswith("mcp_") for name in manifest.operations) else "tool_bridge"
