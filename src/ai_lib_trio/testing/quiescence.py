"""The proof that nothing was left behind: tasks, sockets, threads and permits are what they were before.

Imports `client` (which knows its clients) and trio. The rule that must stay true: it gives nobody time
to finish; what should have ended before a block was left is looked for at once, with no turn of the scheduler between.

Two things are excepted by name, and waited for where they end: idle worker threads, which trio keeps for ten seconds,
and a name lookup that was abandoned by a cancelled connect, which the operating system cannot interrupt.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator

import trio

from ..client.client import LIVING

__all__ = ["NotQuiet", "Quiescence", "quiescence"]

LOOKUP_S = 30.0  # how long an abandoned name lookup is waited for: resolvers give up before
_IDLE_WORKER = re.compile(r"Trio thread \d+")
_LOOKUP = "getaddrinfo from "


class NotQuiet(AssertionError):
    """Something was left behind. The message lists each thing, one a line."""


class Quiescence:
    """What there was at one moment. `leftovers` says what there is now beyond it."""

    def __init__(self) -> None:
        self._tasks = set(_tasks())
        self._sockets = _sockets()
        self._threads = set(threading.enumerate())

    def leftovers(self) -> list[str]:
        """One line for each task, socket, thread or permit that was not there before."""
        found = [f"task {task.name!r}" for task in _tasks() if task not in self._tasks]
        found += [f"socket at descriptor {fd}" for fd, inode in _sockets() if (fd, inode) not in self._sockets]
        _await_lookups(set(threading.enumerate()) - self._threads)
        found += [
            f"thread {thread.name!r}"
            for thread in threading.enumerate()
            if thread not in self._threads and not _IDLE_WORKER.fullmatch(thread.name)
        ]
        for client in [client for client in LIVING if client._supervisor.is_closing]:
            tree = client.tree()
            if tree.open_calls or any(actor.calls or actor.inflight or actor.queued for actor in tree.actors):
                found.append(f"permits of a closed client:\n{tree}")
            if tree.overdue_leaves:
                found.append(f"{tree.overdue_leaves} exchanges that did not end in time")
        return found

    def check(self) -> None:
        """Raise `NotQuiet` if something is left."""
        found = self.leftovers()
        if found:
            raise NotQuiet("left behind:\n" + "\n".join(f"  {line}" for line in found))


@contextlib.asynccontextmanager
async def quiescence() -> AsyncIterator[Quiescence]:
    """A block after which tasks, sockets, threads and permits are what they were; raises `NotQuiet` otherwise.

    What the block raises goes on as it is, and nothing is checked then. `check()` of what it gives asks in between.
    """
    quiet = Quiescence()
    yield quiet
    quiet.check()


def _tasks() -> Iterator[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    pending = [] if root is None else [root]
    while pending:
        task = pending.pop()
        yield task
        for nursery in task.child_nurseries:
            pending.extend(nursery.child_tasks)


def _sockets() -> set[tuple[int, int]]:
    """Open sockets of this process as (descriptor, inode): a number may be used again, the pair is not.

    Where the system shows no descriptors (Windows), none are found and none can be missed.
    """
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    found: set[tuple[int, int]] = set()
    try:
        names = os.listdir(folder)
    except OSError:
        return found
    for name in names:
        with contextlib.suppress(OSError, ValueError):  # the descriptor of the listing itself is gone again
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found.add((int(name), status.st_ino))
    return found


def _await_lookups(threads: set[threading.Thread]) -> None:
    """Block until abandoned name lookups are over; their threads are idle workers then."""
    until = time.monotonic() + LOOKUP_S
    while any(thread.name.startswith(_LOOKUP) and thread.is_alive() for thread in threads):
        if time.monotonic() > until:
            return  # its thread's name is in the report
        time.sleep(0.01)
