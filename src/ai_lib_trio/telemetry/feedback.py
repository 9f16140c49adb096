"""What people said of replies, gathered where the program wants it, and linked to the reply it is about.

Imports types. The rule that must stay true: nothing is gathered that the program did not hand over, and what is not
taken in time is dropped and counted; a reply never waits for what somebody thinks of it.

The specification has one feedback event, ChoiceSelection, and says that an id which is the client's own links it where
there is no other (its v1/spec.yaml, telemetry; docs/telemetry.md has the link and the day). `choice` is that event,
with its names; the other kinds are what reference runtimes have beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from ..errors import CallerError

__all__ = ["Feedback", "FeedbackCollector", "Kind"]

Kind = Literal["rating", "thumbs", "choice", "correction", "regenerate", "custom"]


class _Reply(Protocol):
    @property
    def request_id(self) -> str | None: ...
    @property
    def response_id(self) -> str | None: ...
    @property
    def call(self) -> str: ...


class Feedback(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that was said. `request_id` is the provider's of the request, or, where a reply had none, the reply's
    own id, or, where it had none either, `call`: the client's number, a dot, and the call's, as log lines have it.

    `value` by `kind`: `rating` a number, `thumbs` a bool (up), `choice` the index of the candidate that was taken,
    `correction` the text as it should have been, `regenerate` None, `custom` whatever the program means by it.
    """

    kind: Kind
    request_id: str
    call: str | None = None
    value: Any = None
    comment: str | None = None
    metadata: dict[str, Any] = {}


class FeedbackCollector:
    """Takes feedback and hands it on. `deliver` gets each one at once and must not wait: `client.tell` makes it a
    record for the client's sinks. Without one, `drain` gives what has gathered, `most` at a time at the most: of what
    comes beyond that the oldest is dropped.

    `dropped` and `failures` count what was lost, and what `deliver` raised.
    """

    def __init__(self, deliver: Callable[[Feedback], None] | None = None, *, most: int = 1000) -> None:
        if most < 1:
            raise CallerError("a collector keeps at least one", kind="bad_argument")
        self._deliver = deliver
        self._kept: deque[Feedback] = deque(maxlen=most)
        self.dropped = 0
        self.failures = 0

    def __len__(self) -> int:
        return len(self._kept)

    def rating(self, of: _Reply | str, stars: float, comment: str | None = None) -> None:
        """A number on a scale of the program's own."""
        self._take("rating", of, stars, comment)

    def thumbs(self, of: _Reply | str, up: bool, comment: str | None = None) -> None:
        """Good or not."""
        self._take("thumbs", of, up, comment)

    def choice(
        self,
        of: _Reply | str,
        chosen_index: int,
        *,
        rejected_indices: Sequence[int] = (),
        latency_to_select_ms: int | None = None,
        candidate_hashes: Sequence[str] = (),
        ui_context: Mapping[str, Any] | None = None,
    ) -> None:
        """Which of several candidates was taken, counted from 0: the specification's ChoiceSelection. Hashes stand for
        the candidates' text, so that it need not be sent."""
        told = {
            "rejected_indices": list(rejected_indices),
            "latency_to_select_ms": latency_to_select_ms,
            "candidate_hashes": list(candidate_hashes),
            "ui_context": dict(ui_context or {}),
        }
        given = {name: value for name, value in told.items() if value or value == 0}
        self._take("choice", of, chosen_index, None, given)

    def correction(self, of: _Reply | str, text: str, comment: str | None = None) -> None:
        """The text as it should have been."""
        self._take("correction", of, text, comment)

    def regenerate(self, of: _Reply | str, comment: str | None = None) -> None:
        """Another reply was asked for instead."""
        self._take("regenerate", of, None, comment)

    def custom(self, of: _Reply | str, value: Any, **metadata: Any) -> None:
        """Whatever the program means by it."""
        self._take("custom", of, value, None, metadata)

    def drain(self) -> list[Feedback]:
        """What has gathered, oldest first; it is the caller's now."""
        taken = list(self._kept)
        self._kept.clear()
        return taken

    def _take(
        self, kind: Kind, of: _Reply | str, value: Any, comment: str | None, metadata: dict[str, Any] | None = None
    ) -> None:
        call = None if isinstance(of, str) else of.call or None
        request_id = of if isinstance(of, str) else of.request_id or of.response_id or call
        if not request_id:
            raise CallerError("feedback is of a reply of a client, or of a request id", kind="bad_argument")
        feedback = Feedback(
            kind=kind, request_id=request_id, call=call, value=value, comment=comment, metadata=metadata or {}
        )
        if self._deliver is not None:
            try:
                self._deliver(feedback)
            except Exception:  # the program's code, beside its own flow: counted, and harms nothing
                self.failures += 1
            return
        if len(self._kept) == self._kept.maxlen:
            self.dropped += 1
        self._kept.append(feedback)
