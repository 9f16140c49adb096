"""A streamed call: events as they come, and the reply they make.

Imports `actors.stream`, `service`, types and trio. The rule that must stay true: nothing of a call outlives its block,
and a stream that is dropped without one ends by itself, in its actor's next turn.
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from ..actors.stream import ChannelOutlet
from ..errors import AdmissionError, AiLibError, CallerError, InternalError
from ..service import Batch, Call, Service, UserFault
from ..types.events import PartialContentDelta, StreamEnd, StreamingEvent
from ..types.response import ChatResponse, Fold
from ..types.stats import CallStats

if TYPE_CHECKING:
    from .client import AiClient

__all__ = ["ChatStream", "Drive"]

# Events that a stream keeps as they are, 200 to 300 bytes each; their text alone is a tenth of it.
FRESH_EVENTS = 16

# An exchange that was cancelled ends in a few turns of the scheduler, each of which may be long where a thousand
# streams end at one moment. Reaching it is a counted bug.
LEAVE_S = 5.0
LEAVE_TURNS = 2  # that it takes as a rule: its task is woken by the first, and may run behind us in the second


class Drive:
    """The task of a streamed call: runs the policies, and hands their events to the reader's channel.

    It knows nothing of the reader, so that a reader who is dropped can be noticed.
    """

    __slots__ = ("_ended", "call", "error", "home", "is_attended", "is_over", "outlet", "scope")

    def __init__(self, call: Call, *, is_attended: bool) -> None:
        self.call = call
        self.outlet = ChannelOutlet()
        self.scope = trio.CancelScope()
        self.home = trio.lowlevel.current_trio_token()
        self.error: Exception | None = None  # an `AiLibError`, or what a callable of the user raised
        self.is_attended = is_attended  # False for a plain `async for`, which nobody may be reading
        self.is_over = False
        self._ended: trio.Event | None = None  # made by whoever waits for it

    @trio.lowlevel.enable_ki_protection
    async def run(self, service: Service, client: AiClient) -> None:
        error: Exception | None = None
        is_cut = True
        try:
            with self.scope:
                try:
                    await service(self.call, self.outlet)
                except AiLibError as exc:
                    error = exc
                except UserFault as exc:
                    error = exc.original
                except Exception as exc:  # the boundary of a call's task: a bug ends this call alone
                    error = InternalError(f"a fault in the call: {type(exc).__name__}", kind="bug")
                    error.__cause__ = exc
                is_cut = False
                await self.outlet.wait_room()
        finally:
            if is_cut:
                error = AdmissionError("the client was closed during the call", kind="client_closed")
            self.error = error
            self.is_over = True
            self.outlet.close()
            if self._ended is not None:
                self._ended.set()
            client._drive_ended(self)

    async def ends_soon(self) -> bool:
        """Whether it ended in the few turns that this takes. Where many leave at one moment, all their connections are
        closed before the first of them has to make a bound and wait."""
        for _ in range(LEAVE_TURNS):
            await trio.lowlevel.cancel_shielded_checkpoint()
            if self.is_over:
                return True
        return False

    async def wait_ended(self) -> None:
        """Wait until nothing of the call is left."""
        if self._ended is None:
            self._ended = trio.Event()
            if self.is_over:
                self._ended.set()
        await self._ended.wait()

    def abandon(self) -> None:
        """End the call without waiting for it. May be called from any thread."""
        try:
            self.home.run_sync_soon(self.scope.cancel, idempotent=True)
        except trio.RunFinishedError:  # the run is over, and the call with it
            return


class ChatStream:
    """An async context manager over an async iterator of events.

    `async with` is the way to use it: when the block is left, by whatever way, the provider's connection is closed
    or back in its pool. Plain `async for` is for streams read to the end; dropped early it closes the connection
    soon after and warns. Iterating raises the `AiLibError` that ended the reply, after everything that came before.
    """

    __slots__ = (
        "__weakref__",
        "_batch",
        "_client",
        "_drive",
        "_error",
        "_fold",
        "_is_entered",
        "_is_left",
        "_is_whole",
        "_next",
        "_prepare",
        "_unfolded",
    )

    def __init__(self, client: AiClient, prepare: Callable[[], Awaitable[tuple[Call, Service]]]) -> None:
        self._client = client
        # Gives the call and its service. None once it was asked for them: what it holds is not needed any more.
        self._prepare: Callable[[], Awaitable[tuple[Call, Service]]] | None = prepare
        self._drive: Drive | None = None
        self._batch: Batch = ()
        self._next = 0
        self._fold: Fold | None = None
        self._unfolded: list[StreamingEvent] = []
        self._is_entered = False
        self._is_left = False  # read to the end, or closed
        self._is_whole = False  # everything was received
        self._error: Exception | None = None

    # ---- the block

    async def __aenter__(self) -> ChatStream:
        self._is_entered = True
        await self._start(is_attended=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    async def aclose(self) -> None:
        """End the call and wait until its connection is closed. Safe to call twice."""
        await self._leave()

    async def _start(self, *, is_attended: bool) -> Drive:
        prepare, self._prepare = self._prepare, None
        if prepare is None:
            raise CallerError("a stream is used once: build another with .stream()", kind="bad_argument")
        call, service = await prepare()
        self._drive = drive = Drive(call, is_attended=is_attended)
        self._client._start_drive(drive, service)
        return drive

    async def _leave(self) -> None:
        drive = self._drive
        self._is_left = True
        if drive is None:
            return
        if drive.is_over:
            drive.outlet.close_reader()
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        drive.scope.cancel()  # which closes its connection
        drive.outlet.close_reader()
        if await drive.ends_soon():
            return
        with trio.move_on_after(LEAVE_S, shield=True) as bound:
            await drive.wait_ended()
        if bound.cancelled_caught:
            self._client._supervisor.overdue_leaves += 1

    def __del__(self) -> None:
        drive = getattr(self, "_drive", None)
        if drive is None or self._is_left:
            return
        if drive.is_over:
            # Nothing is held any more. It is worth a word only where the client's end had to cut it off.
            if drive.error is None or drive.error.kind != "client_closed":
                return
        else:
            drive.abandon()
        warnings.warn(
            f"the stream of call {drive.call.number} ({drive.call.target.ref}) was dropped before its end: "
            "use `async with`",
            ResourceWarning,
            stacklevel=2,
            source=self,
        )

    # ---- events

    def __aiter__(self) -> ChatStream:
        return self

    async def __anext__(self) -> StreamingEvent:
        # Inside a batch there is no checkpoint: one socket read's events are handed out without a switch of tasks.
        if self._next < len(self._batch):
            event = self._batch[self._next]
            self._next += 1
            return event
        if self._is_left:
            await trio.lowlevel.checkpoint()
            if self._error is not None:
                raise self._error
            raise StopAsyncIteration
        drive = self._drive if self._drive is not None else await self._start(is_attended=False)
        try:
            while True:
                try:  # noqa: SIM105 - in the hottest loop, and this costs nothing
                    await drive.outlet.news()
                except trio.ClosedResourceError:
                    pass  # its connection was closed: why, the outlet is told
                batch = drive.outlet.take()
                if batch is None:
                    break
                if batch:
                    self._keep(batch)
                    self._is_whole = isinstance(batch[-1], StreamEnd)
                    self._batch = batch
                    self._next = 1
                    return batch[0]
        except trio.BusyResourceError:  # the other reader's stream is not ours to end
            raise trio.BusyResourceError("another task is reading this stream") from None
        except BaseException:
            # Cancelled while waiting. Outside a block nobody else would close the call.
            if not self._is_entered:
                await self._leave()
            raise
        self._is_left = True
        self._batch, self._next = (), 0
        if drive.error is not None:
            self._error = drive.error
            raise drive.error
        self._is_whole = True
        raise StopAsyncIteration

    # ---- what it came to

    def partial(self) -> ChatResponse:
        """The fold of what arrived so far, read or taken in this batch. Calls that are not complete are left out."""
        return self._response()

    def response(self) -> ChatResponse:
        """The whole reply, once the events were read to their end. Raises the error that ended them otherwise."""
        if self._error is not None:
            raise self._error
        if not self._is_whole:
            raise CallerError(
                "the stream has not been read to its end: .partial() gives what arrived", kind="bad_argument"
            )
        return self._response()

    def _response(self) -> ChatResponse:
        drive = self._drive
        if drive is None:
            raise CallerError("the stream has not been started", kind="bad_argument")
        return self._client._reply(drive.call, self._folded())

    def _folded(self) -> Fold:
        """The fold of what was read so far."""
        if self._fold is None:
            self._fold = Fold()
        self._fold.add_all(self._unfolded)
        self._unfolded.clear()
        return self._fold

    def _keep(self, batch: Batch) -> None:
        """Keep what was read for a fold, which nobody may ask for."""
        self._unfolded.extend(batch)
        if len(self._unfolded) > FRESH_EVENTS:
            self._unfolded = joined(self._unfolded)
            self._folded()

    @property
    def stats(self) -> CallStats:
        """The call's account so far; final once the stream has ended."""
        usage = self._response().usage
        assert self._drive is not None
        return self._client._stats(self._drive.call, usage)


def joined(events: Iterable[StreamingEvent]) -> list[StreamingEvent]:
    """The events, neighbouring pieces of one text as one piece: what they fold to is the same."""
    out: list[StreamingEvent] = []
    pieces: list[str] = []
    block = candidate = 0
    for event in events:
        if type(event) is PartialContentDelta:
            if event.block_index != block or event.candidate_index != candidate:
                _add_text(out, pieces, block, candidate)
                block, candidate = event.block_index, event.candidate_index
            pieces.append(event.content)
        else:
            _add_text(out, pieces, block, candidate)
            out.append(event)
    _add_text(out, pieces, block, candidate)
    return out


def _add_text(out: list[StreamingEvent], pieces: list[str], block: int, candidate: int) -> None:
    if pieces:
        out.append(PartialContentDelta("".join(pieces), block, candidate))
        pieces.clear()
