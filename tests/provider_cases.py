"""Cases of providers: a request and a reply each, with what they rest on, in conformance/providers.

    provider, family     whose, and by which of its APIs
    evidence             recorded (a real exchange, named by its id), documented (link and date), or
                         derived-from-dialect: what the manifest comes to, where nothing better was found
    recording            {api, id} of the recorded exchange, which is not copied here
    asked                the standard request; of a recorded one it is read back from the wire where it is not given
    request              method, url, headers and body that `asked` must become
    reply, expected      content type and body, and what they say
    differs              path in the body -> why ours is another there than the recorded one's

`python tests/provider_cases.py` writes the derived cases anew, and leaves the others as they are.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml

from ai_lib_trio.conformance.exchange import on_the_wire
from ai_lib_trio.pipeline import DecodeProgram, compile_decoder
from ai_lib_trio.protocol.loader import Catalog
from ai_lib_trio.protocol.manifest import Family, Manifest
from ai_lib_trio.simulator import Finish, Script, Text, ToolCall, Usage
from ai_lib_trio.simulator.directory import directory_of
from ai_lib_trio.simulator.render import Frame, Stream, reply_state
from ai_lib_trio.simulator.speaker import Asked, Speaker
from ai_lib_trio.types.request import Request
from ai_lib_trio.wire.encode import Encoded, compile_encoder

CASES = Path(__file__).resolve().parents[1] / "conformance" / "providers"
HEAD = "# Derived from the manifest by `python tests/provider_cases.py`: nobody saw this provider say it.\n"
ASKED: dict[str, Any] = {
    "model": "a-model",
    "stream": True,
    "max_tokens": 200,
    "temperature": 0.5,
    "messages": [
        {"role": "system", "content": "Answer in one line."},
        {"role": "user", "content": "What is the weather in Paris?"},
    ],
    "tools": [
        {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        }
    ],
}
SCRIPT = Script(
    pieces="whole",
    steps=[
        Text("I look it up."),
        ToolCall("get_weather", {"city": "Paris"}, id="call_1"),
        Usage(input_tokens=40, output_tokens=12),
        Finish("tool_use"),
    ],
)
EXPECTED: dict[str, Any] = {
    "text": "I look it up.",
    "calls": [{"name": "get_weather", "arguments": {"city": "Paris"}}],
    "finish": "tool_use",
    "usage": {"input": 40, "output": 12},
}
AT = 1_800_000_000.0


@cache
def catalog() -> Catalog:
    return Catalog.open(environ={})


@cache
def decoder(provider: str, family: str) -> DecodeProgram:
    found = catalog().provider(provider).family(family)
    return compile_decoder(found.decode, found.where.at("decode"))


def needs_case(manifest: Manifest) -> bool:
    """A provider that has a chat and still is there."""
    return bool(manifest.families) and manifest.status != "deprecated"


def encode(manifest: Manifest, family: Family, request: Request) -> Encoded:
    where = family.where.at("encode")
    found = compile_encoder(family.encode, where, dialect=family.dialect, parameters=manifest.parameters)
    return found.encode(request)


def speaker_of(manifest: Manifest, family: Family) -> Speaker | None:
    directory = directory_of(catalog())
    return directory._family(manifest.id, family)


def asked_of(wire: dict[str, Any], speaker: Speaker, path: str, query: dict[str, str]) -> Asked:
    matched = speaker.match("POST", path)
    assert matched is not None, path
    headers = {name.lower(): value for name, value in wire.get("headers", {}).items()}
    return Asked("POST", path, matched.route, matched.segments, query, headers, wire["body"])


def derived(manifest: Manifest, family: Family) -> dict[str, Any] | None:
    """A case that the manifest alone gives, or None where the simulator cannot play the dialect."""
    speaker = speaker_of(manifest, family)
    if speaker is None:
        return None
    request = msgspec.convert(ASKED, Request)
    wire = on_the_wire(manifest, family, request)
    path = wire["url"].split("://", 1)[1].partition("/")[2]
    asked = asked_of(wire, speaker, "/" + path, wire.get("query", {}))
    state = reply_state(SCRIPT, asked, speaker.lift(asked), number=1, wall_time=AT)
    framing = speaker.framing(asked)
    frames = [frame.data for frame in Stream(speaker, SCRIPT, state, framing) if isinstance(frame, Frame)]
    return {
        "provider": manifest.id,
        "family": family.id,
        "evidence": "derived-from-dialect",
        "asked": ASKED,
        "request": wire,
        "reply": {"content_type": framing.content_type, "body": b"".join(frames).decode()},
        "expected": EXPECTED,
    }


def read_cases() -> list[dict[str, Any]]:
    return [yaml.load(path.read_text("utf-8"), Loader=yaml.CSafeLoader) for path in sorted(CASES.glob("*.yaml"))]


def evidence() -> dict[str, str]:
    """Provider -> what its case rests on."""
    return {case["provider"]: case["evidence"] for case in read_cases()}


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def render(case: dict[str, Any]) -> str:
    return HEAD + yaml.dump(case, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def write() -> None:
    for name in catalog().providers():
        manifest = catalog().provider(name)
        path = CASES / f"{name}.yaml"
        if not needs_case(manifest) or (path.exists() and not path.read_text("utf-8").startswith(HEAD)):
            continue
        case = derived(manifest, manifest.family())
        if case is not None:
            path.write_text(render(case), "utf-8")


if __name__ == "__main__":
    write()
