"""A provider on loopback that speaks every dialect of the manifests, and misbehaves on request.

    async with open_simulator() as sim:
        sim.script(Script(steps=[Text("Hello"), Usage(input_tokens=3, output_tokens=1)]))
        base_url = sim.base_url("some-provider")        # point a client here
        ...
        assert sim.entries[0].outcome == "served"

`script` has what it answers and the faults, `journal` what it saw. Sees protocol, wire, types and errors; nothing of
the client, the actors or the transport, so it cannot share their mistakes.
"""

from .journal import Connection, Entry, Journal
from .script import *  # noqa: F403  # every step, fault and reply is public
from .script import __all__ as _script_names
from .server import Answer, Simulator, default_script, open_simulator

__all__ = ["Answer", "Connection", "Entry", "Journal", "Simulator", "default_script", "open_simulator", *_script_names]
