"""The hub: one task that reads for all connections of a client: those that are idle, and streams where many run.

Imports trio, and `select.epoll` (Linux). The rule that must stay true: nothing that a connection does ends the hub, and
what left the hub is never read again.

             sockets ──epoll──> hub ──readable()──> HTTP, decoding ──> the caller's channel
                                 └── wake(): the exchange's task, at the end, at a fault, or when the channel is full

trio watches the hub's own epoll descriptor, level-triggered. Reading happens in the hub's turn and in the context of
the exchange's task. A turn is bounded: after `TURN_BYTES` other tasks get theirs.

A turn of the hub comes before its readers' turn, and costs as much as they do; for many sockets that are ready together
it saves more: a watch set and taken for each. So few streams are read by their readers (`Hub.few`), many by the hub.
"""

from __future__ import annotations

import contextvars
import select
import sys
from typing import Any, Protocol

import trio

__all__ = ["Hub", "Member", "take_turn"]

MAX_READY = 1024  # sockets asked for at once
FEW_STREAMS = 256  # at fifty events a second each, about two are ready in a turn: from there on the hub is cheaper
TURN_BYTES = 256 * 1024  # four full reads, some milliseconds of decoding: the longest that others wait for the hub


class Member(Protocol):
    """A connection, as the hub sees it."""

    sock: Any
    context: contextvars.Context | None
    fault: Exception | None
    is_full: bool
    is_over: bool

    def readable(self) -> int:
        """One read, handed on; returns its bytes."""
        ...

    def wake(self) -> None:
        """Let the waiting task see the news."""
        ...


def take_turn(member: Member) -> int:
    """One read of a member, in the context of its exchange. Gives its bytes; a fault is kept there, and not raised."""
    size = 0
    context = member.context
    try:
        size = member.readable() if context is None else context.run(member.readable)
    except Exception as exc:  # who reads for others is the supervisor of its turns: what ends one exchange is its alone
        member.fault = exc
    if member.is_full or member.is_over or member.fault is not None:
        member.wake()
    return size


class Hub:
    """Members join while they may be read. `run` is the hub's task; when it has ended, members are never read again."""

    few = FEW_STREAMS

    def __init__(self) -> None:
        self._members: dict[int, Member] = {}
        self._epoll = select.epoll()
        self.streams = 0  # running replies that it reads, or would if there were more of them; their connections count
        self.turns = 0  # for tests and benchmarks

    @property
    def is_worth_it(self) -> bool:
        """Whether enough replies run at once that reading for all of them costs less than each reader's own waiting."""
        return self.streams > self.few

    @staticmethod
    def is_available() -> bool:
        """Whether this system has what the hub needs. Elsewhere each exchange waits for its own socket."""
        return sys.platform == "linux" and hasattr(select, "epoll")

    def __len__(self) -> int:
        return len(self._members)

    def join(self, member: Member) -> bool:
        """Read for this member from now on. Nothing happens where it has joined already.

        False where the system takes no more (its watches or its memory are used up): then nobody reads for it.
        """
        fd = member.sock.fileno()
        if self._members.get(fd) is member or self._epoll.closed:
            return True  # closed: the whole client is, and so is this exchange
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except OSError:
            return False
        self._members[fd] = member
        return True

    def leave(self, member: Member, fd: int | None = None) -> None:
        """Do not read for this member any more. To be called before its socket is closed."""
        if fd is None:
            if member.sock is None:
                return  # closed, and so it left
            fd = member.sock.fileno()
        if self._members.get(fd) is not member:
            return
        del self._members[fd]
        if not self._epoll.closed:
            self._epoll.unregister(fd)

    @trio.lowlevel.enable_ki_protection  # Ctrl-C goes to the caller's task, not into somebody's decoding
    async def run(self) -> None:
        """Read until cancelled."""
        members = self._members
        try:
            while True:
                await trio.lowlevel.wait_readable(self._epoll.fileno())
                self.turns += 1
                spent = 0
                for fd, _ in self._epoll.poll(0, MAX_READY):
                    member = members.get(fd)
                    if member is None:
                        continue  # it left earlier in this turn
                    spent += take_turn(member)
                    if member.is_full or member.fault is not None:
                        self.leave(member)
                    if spent > TURN_BYTES:
                        spent = 0
                        await trio.lowlevel.checkpoint()
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the descriptor. Safe to call twice."""
        if not self._epoll.closed:
            trio.lowlevel.notify_closing(self._epoll.fileno())
            self._epoll.close()
