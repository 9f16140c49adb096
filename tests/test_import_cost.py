"""What a first client needs is what it loads: neither the import nor a first call loads what only few programs use."""

from __future__ import annotations

import subprocess
import sys

# Rooms and modules of ours that serve a minority: other forms of manifests, signatures, contests, arrays, checks.
RARE = {
    f"ai_lib_trio.{name}"
    for name in (
        "actors.health",
        "actors.tree",
        "client.builder",
        "client.cancel",
        "client.contests",
        "client.routed",
        "client.told",
        "pipeline.closures",
        "pipeline.text_tools",
        "protocol.convert",
        "protocol.draft",
        "protocol.event_rules",
        "protocol.formats",
        "protocol.patterns",
        "protocol.promote",
        "protocol.remote",
        "protocol.replies",
        "protocol.validator",
        "protocol.watch",
        "resilience.contest",
        "resilience.failover",
        "resilience.hedge",
        "resilience.race",
        "routing",
        "telemetry",
        "transport.httpx_engine",
        "transport.remote",
        "wire.sign",
        "wire.text_tools",
    )
}
# Of the standard library, beside what trio, httptools and msgspec load themselves.
SLOW = {"email.utils", "hmac", "ipaddress", "json", "urllib.parse", "urllib.request"}

IMPORT = """
import sys
import trio, httptools, msgspec
before = set(sys.modules)
import ai_lib_trio
ai_lib_trio.open_client, ai_lib_trio.Config
"""
# A whole reply, dated as servers date them, with a pause in its limits.
CALL = """
class Engine:
    def __init__(self, origin):
        pass

    async def exchange(self, request, sink):
        date = "Sun, 22 Nov 2026 12:00:00 GMT"
        limits = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6ms"}
        sink.head(200, {"content-type": "application/json", "date": date, **limits})
        sink.data(b'{"choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}')

    async def aclose(self):
        pass


async def main():
    config = ai_lib_trio.Config(transport=Engine, environ={})
    async with ai_lib_trio.open_client("openai/one", api_key="k", config=config) as client:
        assert (await client.chat("hello").execute()).content == "hi"


trio.run(main)
"""
PROXY = """
import sys
from ai_lib_trio.transport.proxy import proxy_for
before = set()
assert proxy_for("https://a.example:443", {"no_proxy": "localhost"}) is None
"""


def loaded(program: str) -> set[str]:
    """The modules that a program loads after its `before`."""
    told = program + "\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_what_a_first_client_needs_loads_nothing_that_only_few_need() -> None:
    assert loaded(IMPORT) & (RARE | SLOW) == set()


def test_a_first_call_loads_nothing_that_only_few_need() -> None:
    """What is loaded later is not loaded a moment later by everybody: then it had better be loaded at once."""
    assert loaded(IMPORT + CALL) & (RARE | {"email.utils", "urllib.request"}) == set()


def test_proxies_are_looked_up_where_one_is_named() -> None:
    assert "urllib.request" not in loaded(PROXY)
