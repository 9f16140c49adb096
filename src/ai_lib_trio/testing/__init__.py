"""What tests need: a provider without sockets, every way to cut bytes, and the proof that nothing was left behind.

Sees everything, and nothing under `src` sees it. What is named here is promised to users; see each module for more.

    scripted     `ScriptedTransport`: `Config(transport=ScriptedTransport(reply))`, on trio's clock, virtual or real
    event_log    `EventLog`: a sink whose lines are the same in every run that does the same
    cuts         `every_split`, `random_splits`
    quiescence   `quiescence()`: tasks, sockets, threads and permits are afterwards what they were before
    pytest_plugin   the fixture of that name: `pytest_plugins = ["ai_lib_trio.testing.pytest_plugin"]`
"""

from .cuts import every_split, random_splits
from .event_log import EventLog
from .quiescence import NotQuiet, Quiescence, quiescence
from .scripted import (
    Asked,
    Data,
    Fail,
    Head,
    Hold,
    ScriptedEngine,
    ScriptedTransport,
    Sending,
    Stall,
    Step,
    Wait,
    json_reply,
    ndjson_reply,
    sse_reply,
)

__all__ = [
    "Asked",
    "Data",
    "EventLog",
    "Fail",
    "Head",
    "Hold",
    "NotQuiet",
    "Quiescence",
    "ScriptedEngine",
    "ScriptedTransport",
    "Sending",
    "Stall",
    "Step",
    "Wait",
    "every_split",
    "json_reply",
    "ndjson_reply",
    "quiescence",
    "random_splits",
    "sse_reply",
]
