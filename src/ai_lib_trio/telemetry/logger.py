"""Records become log lines, by the standard logging module: one line for each call, and one for each step at DEBUG.

Imports errors and types. The rule that must stay true: a line holds fields of a record and nothing else, so there is
nothing in it to mask: no record holds a key, and none but `CallContent` (which is not logged) a word of prompt or
reply; the words of feedback are left out.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Literal, get_args

import msgspec

from ..errors import CallerError
from ..types.records import (
    ActorRestarted,
    BreakerChanged,
    CallContent,
    CallEnded,
    EventBatch,
    FeedbackGiven,
    HealthChanged,
    ManifestsChanged,
    Record,
    Sink,
)

__all__ = ["CallLogger"]

# What a line begins with; the rest is fields.
_SAID = {
    "CallStarted": "call started",
    "CallQueued": "queued",
    "CallAdmitted": "admitted",
    "AttemptStarted": "attempt started",
    "FirstToken": "first token",
    "AttemptEnded": "attempt ended",
    "CallRetried": "retried",
    "CallRerouted": "rerouted",
    "CallEnded": "call",
    "ActorRestarted": "actor restarted",
    "BreakerChanged": "breaker",
    "HealthChanged": "health",
    "FeedbackGiven": "feedback",
    "ManifestsChanged": "manifests",
}
Form = Literal["json", "console"]
_LONGEST = 200  # of one field: ids and names come from outside


class CallLogger:
    """A sink that logs. `logger` is a logger or the name of one; `form` is the form of a message: `json`, or `console`
    for people.

    A call's end is at INFO, or WARNING where it failed; breakers, restarts and failed checks are at WARNING; all other
    steps at DEBUG, batches of events not at all. Each `LogRecord` has the fields as `ai_call`, for handlers with a form
    of their own. `call` is the client's number, a dot, and the call's; `request_id` is the provider's.

    Handlers of the logging module may block: put a `logging.handlers.QueueHandler` before one that writes slowly.
    """

    def __init__(self, logger: logging.Logger | str = "ai_lib_trio.calls", *, form: Form = "json") -> None:
        if form not in get_args(Form):
            raise CallerError(f"form is one of {', '.join(get_args(Form))}, got {form!r}", kind="bad_argument")
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self._form = form

    def for_client(self, number: int) -> Sink:
        """See `ClientSink`."""

        def sink(record: Record) -> None:
            self._log(record, f"{number}.")

        return sink

    def __call__(self, record: Record) -> None:
        self._log(record, "")

    def _log(self, record: Record, prefix: str) -> None:
        if isinstance(record, (EventBatch, CallContent)):
            return
        level = _level(record)
        logger = self._logger
        if not logger.isEnabledFor(level):
            return
        name = type(record).__name__
        fields = _fields(record, prefix)
        if self._form == "json":
            message = json.dumps({"event": name, **fields}, ensure_ascii=True, separators=(",", ":"))
        else:
            message = " ".join([_SAID.get(name, name), *(f"{key}={_shown(value)}" for key, value in fields.items())])
        # The message is an argument and not the format: a percent sign in it is text.
        logger.log(level, "%s", message, extra={"ai_call": {"event": name, **fields}})


def _level(record: Record) -> int:
    if isinstance(record, CallEnded):
        return logging.WARNING if record.outcome == "failed" else logging.INFO
    if isinstance(record, (ActorRestarted, BreakerChanged)):
        return logging.WARNING
    if isinstance(record, HealthChanged):
        return logging.INFO if record.is_healthy else logging.WARNING
    if isinstance(record, ManifestsChanged):
        return logging.INFO if record.fault is None else logging.WARNING
    if isinstance(record, FeedbackGiven):
        return logging.INFO
    return logging.DEBUG


def _fields(record: Record, prefix: str) -> dict[str, Any]:
    """The record's fields that say something, in their order; tokens of a usage beside the others."""
    found: dict[str, Any] = {}
    for name in record.__struct_fields__:
        value = getattr(record, name)
        if name == "usage":
            if value is not None:
                counts = msgspec.structs.asdict(value)
                found.update((key, counts[key]) for key in counts if key != "raw" and counts[key] is not None)
        elif value is None or value == "" or name == "at_s":  # a line has a time of its own
            continue
        elif name in ("comment", "metadata") or (name == "value" and not isinstance(value, (bool, int, float))):
            continue  # of feedback: words
        elif name == "call":
            found[name] = value if isinstance(value, str) else f"{prefix}{value}"
        elif isinstance(value, float):
            found[name] = round(value, 6)
        elif isinstance(value, str):
            found[name] = value[:_LONGEST]
        else:
            found[name] = value
    return found


def _shown(value: Any) -> str:
    """A value as text that has no space and moves no cursor; what would not is quoted."""
    text = str(value)
    return text if text.isprintable() and " " not in text and '"' not in text else json.dumps(text)
